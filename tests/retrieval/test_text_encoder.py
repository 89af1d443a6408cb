"""The text encoder beside a gallery against the model itself, and searches that load no torch."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from command_line import aga

from aga_model import AgaConfig, AgaModel, AgaProcessor
from aga_model.conversion import ExportError, write_text_encoder
from aga_model.errors import ModelLoadError
from aga_model.gallery import Gallery
from aga_model.search import OnnxTextEncoder, PersonEncoder

SENTENCES = ["a man", "A woman with a red bag, black jeans & white trainers.", "naïve café", "红 coat", "x " * 90]


@pytest.fixture(scope="module")
def model(model_folder):
    return PersonEncoder.from_pretrained(model_folder, "cpu")


@pytest.fixture(scope="module")
def written(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("text") / "text_encoder"
    assert write_text_encoder(model, folder) <= 1e-5
    return folder


@pytest.fixture
def copied(written, tmp_path):
    return shutil.copytree(written, tmp_path / "copied")


@pytest.mark.parametrize("sentences", [*([each] for each in SENTENCES), SENTENCES])
def test_it_gives_the_models_embeddings_and_notes(model, written, sentences):
    wanted, notes = model.encode_texts_with_notes(sentences)
    found, told = OnnxTextEncoder(written).encode_texts_with_notes(sentences)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert [(type(note), str(note)) for note in told] == [(type(note), str(note)) for note in notes]


def test_it_knows_what_the_model_is(model, written):
    encoder = OnnxTextEncoder(written)
    assert (encoder.model_hash, encoder.dim, encoder.name) == (model.model_hash, model.dim, model.name)
    assert encoder.rendered_only is False and encoder.max_text_tokens == model.max_text_tokens
    assert encoder.encode_texts_with_notes([])[0].shape == (0, model.dim)


@pytest.mark.parametrize("sentence", ["", "  ", "...", "\ud800"])
def test_what_the_model_refuses_it_refuses_in_the_same_words(model, written, sentence):
    with pytest.raises(ValueError) as wanted:
        model.encode_texts([sentence])
    with pytest.raises(ValueError) as found:
        OnnxTextEncoder(written).encode_texts_with_notes([sentence])
    assert str(found.value) == str(wanted.value)


def test_a_truncation_and_padding_in_the_tokenizers_file_do_not_overrule(model, copied):
    path = copied / "tokenizer.json"
    content = json.loads(path.read_text())
    content["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {"strategy": {"Fixed": 20}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0,
                          "pad_type_id": 0, "pad_token": "a"}  # fmt: skip
    path.write_text(json.dumps(content))
    found = OnnxTextEncoder(copied).encode_texts_with_notes(SENTENCES)[0]
    np.testing.assert_allclose(found, model.encode_texts_with_notes(SENTENCES)[0], atol=1e-5)


def test_it_is_found_by_the_models_hash(model, written, tmp_path):
    assert OnnxTextEncoder.find([tmp_path, written], model.model_hash).folder == written
    assert OnnxTextEncoder.find([tmp_path, written], "0" * 64) is None


@pytest.mark.parametrize("file", ["text.onnx", "tokenizer.json", "text_encoder.json"])
def test_a_damaged_file_is_named_with_what_to_do(copied, file):
    (copied / file).write_bytes((copied / file).read_bytes()[:50])
    with pytest.raises(ModelLoadError, match=rf"{file} is damaged.*remove the folder"):
        OnnxTextEncoder(copied).encode_texts_with_notes(["a man"])


def test_the_text_encoder_of_another_size_is_no_answer(copied):
    info = json.loads((copied / "text_encoder.json").read_text())
    (copied / "text_encoder.json").write_text(json.dumps(info | {"dim": 17}))
    with pytest.raises(ModelLoadError, match="no unit vectors"):
        OnnxTextEncoder(copied).encode_texts_with_notes(["a man"])


def test_a_later_format_is_not_guessed(copied):
    info = json.loads((copied / "text_encoder.json").read_text())
    (copied / "text_encoder.json").write_text(json.dumps(info | {"format_version": 2}))
    with pytest.raises(ModelLoadError, match="update aga-model"):
        OnnxTextEncoder(copied)


def test_it_is_written_once_and_again_for_another_model(model, other_model_folder, written, copied):
    assert write_text_encoder(model, copied) is None
    before = (written / "text.onnx").read_bytes()
    other = PersonEncoder.from_pretrained(other_model_folder, "cpu")
    assert write_text_encoder(other, copied) <= 1e-5
    assert OnnxTextEncoder(copied).model_hash == other.model_hash
    assert (copied / "text.onnx").read_bytes() != before
    assert [path.name for path in copied.parent.iterdir()] == ["copied"]  # no rest of the writing


def test_a_graph_that_computes_something_else_is_not_left(model, tmp_path, monkeypatch):
    embed = OnnxTextEncoder.embed_texts
    monkeypatch.setattr(OnnxTextEncoder, "embed_texts", lambda self, texts: embed(self, texts)[:, ::-1])
    with pytest.raises(ExportError, match="differ by"):
        write_text_encoder(model, tmp_path / "text_encoder")
    assert list(tmp_path.iterdir()) == []


# A search in a process of its own, which says which of the large libraries it has loaded.
SEARCH = """
import sys
from aga_model.cli.main import app
try:
    app(["search", *sys.argv[1:], "--json"])
except SystemExit as end:
    assert end.code == 0, end.code
print("loaded", [name for name in ("torch", "transformers", "datasets", "pandas") if name in sys.modules])
"""


def search(*arguments):
    run = subprocess.run(
        [sys.executable, "-c", SEARCH, *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    answer, _, loaded = run.stdout.rpartition("loaded ")
    return json.loads(answer), loaded.strip()


def test_a_sentence_is_searched_for_without_torch_and_finds_the_same(image_folder, model_folder, tmp_path):
    out = tmp_path / "gallery"
    told = aga("index", image_folder, "--model", model_folder, "--out", out, "--text-encoder").output
    assert "text encoder for searches without PyTorch" in told
    sentence = "a man in a red coat"
    light, loaded = search(out, sentence)
    assert loaded == "[]"
    whole, _ = search(out, sentence, "--device", "cpu")
    assert [hit["id"] for hit in light["hits"]] == [hit["id"] for hit in whole["hits"]]
    np.testing.assert_allclose(
        [hit["score"] for hit in light["hits"]], [hit["score"] for hit in whole["hits"]], atol=1e-6
    )
    assert light["notes"] == whole["notes"] and light["model"] == whole["model"]
    again = aga("index", image_folder, "--model", model_folder, "--out", out, "--text-encoder").output
    assert "text encoder" not in again  # it is there


def test_a_gallery_takes_its_text_encoder_along_and_is_overwritten_with_it(
    image_folder, model_folder, other_model_folder, tmp_path
):
    out, moved = tmp_path / "gallery", tmp_path / "moved away" / "gallery"
    options = ["--out", out, "--text-encoder"]
    aga("index", image_folder, "--model", model_folder, *options)
    wanted, loaded = search(out, "ein Mann mit rotem Mantel")
    assert loaded == "[]"
    moved.parent.mkdir()
    shutil.move(out, moved)
    found, loaded = search(moved, "ein Mann mit rotem Mantel")
    assert found["hits"] == wanted["hits"] and loaded == "[]"
    shutil.move(moved, out)
    aga("index", image_folder, "--model", other_model_folder, *options, "--overwrite")
    assert OnnxTextEncoder(out / "text_encoder").model_hash == Gallery.open(out).model_hash
    assert search(out, "a man")[1] == "[]"


def test_the_bert_family_reads_padded_sentences_alike(make_sections, tokenizer, tmp_path):
    """Its attention goes in both directions, so that it needs the mask."""
    config = AgaConfig(**make_sections("bert"))
    torch.manual_seed(0)
    processor = AgaProcessor.for_config(config, tokenizer)
    bert = PersonEncoder(AgaModel(config), processor, "bert", device="cpu")
    assert write_text_encoder(bert, tmp_path / "text_encoder") <= 1e-5
    encoder = OnnxTextEncoder(tmp_path / "text_encoder")
    sentences = ["a man", "a woman with a red bag and a striped scarf walks away from the camera"]
    together = encoder.encode_texts_with_notes(sentences)[0]
    np.testing.assert_allclose(together, bert.encode_texts(sentences), atol=1e-5)
    np.testing.assert_allclose(together[:1], encoder.encode_texts_with_notes(sentences[:1])[0], atol=1e-5)


def test_the_gallery_of_another_model_is_searched_with_that_one(image_folder, model_folder, written, tmp_path):
    """A text encoder that lies beside it, but is another model's, is passed over."""
    out = tmp_path / "gallery"
    aga("index", image_folder, "--model", model_folder, "--out", out, "--no-text-encoder")
    assert not (out / "text_encoder").exists()
    folder = shutil.copytree(written, out / "text_encoder")
    info = json.loads((folder / "text_encoder.json").read_text())
    (folder / "text_encoder.json").write_text(json.dumps(info | {"model_hash": "0" * 64}))
    answer, loaded = search(out, "a man")
    assert "torch" in loaded
    embedding = PersonEncoder.from_pretrained(model_folder, "cpu").encode_texts_with_notes(["a man"])[0]
    wanted = Gallery.open(out).search(embedding, 10)[0]
    assert [hit["id"] for hit in answer["hits"]] == [hit.row.id for hit in wanted]
