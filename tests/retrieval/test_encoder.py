import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor, BertTokenizer

from aga_model import AgaConfig, AgaModel, AgaProcessor
from aga_model.errors import ModelLoadError
from aga_model.loading import local_folder
from aga_model.search import PersonEncoder, TextTruncatedWarning, UnknownWritingWarning, unknown_letters


@pytest.fixture(scope="module")
def encoder(model_folder):
    return PersonEncoder.from_pretrained(model_folder, device="cpu")


@pytest.fixture
def copied_model(model_folder, tmp_path):
    return shutil.copytree(model_folder, tmp_path / "model")


def noise(count):
    generator = np.random.default_rng(0)
    sizes = generator.integers(10, 80, (count, 2))
    return [Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def test_images_are_the_models_own_features_normalised(encoder, model_folder):
    images = noise(5)
    embeddings = encoder.encode_images(images, batch_size=2)
    model, processor = AutoModel.from_pretrained(model_folder).eval(), AutoProcessor.from_pretrained(model_folder)
    with torch.no_grad():
        features = model.get_image_features(
            processor(images=images, return_tensors="pt")["pixel_values"]
        ).pooler_output
    expected = features / features.norm(dim=1, keepdim=True)
    assert embeddings.dtype == np.float32
    assert np.allclose(embeddings, expected.numpy(), atol=1e-6)
    assert encoder.encode_images([]).shape == (0, encoder.dim)


def test_texts_are_the_models_own_features_normalised(encoder, model_folder):
    texts = ["a man", "a woman in red", "bag"]
    model, processor = AutoModel.from_pretrained(model_folder).eval(), AutoProcessor.from_pretrained(model_folder)
    embeddings = encoder.encode_texts(texts, batch_size=2)
    for text, embedding in zip(texts, embeddings):
        with torch.no_grad():
            feature = model.get_text_features(**processor(text=[text], return_tensors="pt")).pooler_output[0]
        assert np.allclose(embedding, (feature / feature.norm()).numpy(), atol=1e-6)


def test_a_sentences_embedding_does_not_depend_on_longer_ones_beside_it(make_sections, tokenizer):
    """BERT reads in both directions, so that padding changes every state unless it is masked."""
    config = AgaConfig(**make_sections("bert"))
    torch.manual_seed(0)
    encoder = PersonEncoder(AgaModel(config), AgaProcessor.for_config(config, tokenizer), "bert", device="cpu")
    short, long = "a man", "a young woman with a red handbag over her shoulder"
    together, alone = encoder.encode_texts([short, long]), encoder.encode_texts([short])
    assert np.allclose(together[0], alone[0], atol=1e-6)


def test_a_model_in_training_is_used_without_its_dropout(make_sections, tokenizer):
    sections = make_sections("bert")
    sections["text_config"] |= {"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5}
    config = AgaConfig(**sections)
    torch.manual_seed(0)
    model = AgaModel(config).eval()
    processor = AgaProcessor.for_config(config, tokenizer)
    with torch.no_grad():
        feature = model.get_text_features(**processor(text=["a man"], return_tensors="pt")).pooler_output[0]
    embedding = PersonEncoder(model.train(), processor, "trained", device="cpu").encode_texts(["a man"])[0]
    assert np.allclose(embedding, (feature / feature.norm()).numpy(), atol=1e-6)


def test_a_model_saved_in_half_precision_computes_in_float32(copied_model):
    halves = AutoModel.from_pretrained(copied_model).to(torch.bfloat16)
    halves.save_pretrained(copied_model)
    encoder = PersonEncoder.from_pretrained(copied_model, device="cpu")
    wide, processor = AutoModel.from_pretrained(copied_model).float().eval(), encoder.processor
    with torch.no_grad():
        feature = wide.get_text_features(**processor(text=["a man"], return_tensors="pt")).pooler_output[0]
    embedding = encoder.encode_texts(["a man"])[0]
    assert np.allclose(embedding, (feature / feature.norm()).numpy(), atol=1e-6)


def test_a_sentence_of_one_token_too_many_warns(encoder):
    with pytest.warns(TextTruncatedWarning, match="33 tokens long and the model reads 32: the last 1 were dropped"):
        encoder.encode_texts(["a" * 31])


def test_the_bert_family_reads_as_far_as_its_captions_went(make_sections, tokenizer):
    sections = make_sections("bert")
    sections["text_config"] |= {"caption_length": 7, "max_position_embeddings": 40}
    config = AgaConfig(**sections)
    encoder = PersonEncoder(AgaModel(config), AgaProcessor.for_config(config, tokenizer), "bert", device="cpu")
    with pytest.warns(TextTruncatedWarning, match="the model reads 7"):
        encoder.encode_texts(["a young woman with a red handbag over her shoulder"])


def test_long_sentence_warns_with_the_number_of_dropped_tokens(encoder):
    with pytest.warns(TextTruncatedWarning, match="42 tokens long and the model reads 32: the last 10 were dropped"):
        long = encoder.encode_texts(["a" * 40])
    with pytest.warns(TextTruncatedWarning):
        longer = encoder.encode_texts(["a" * 60])
    assert np.allclose(long, longer, atol=1e-6)


def test_sentence_that_just_fits_does_not_warn(encoder, recwarn):
    encoder.encode_texts(["a" * 30])
    assert not recwarn.list


def test_a_writing_that_the_vocabulary_lacks_is_told(encoder, recwarn):
    known = ["a man in a café apron", "a woman called 李娜 in a long black coat", "a 👗 dress", "ein Mann mit Tüte"]
    embeddings = encoder.encode_texts(known)
    assert len(embeddings) == 4
    assert not [warning for warning in recwarn.list if warning.category is UnknownWritingWarning]
    for text, count in (("红衣女人", 4), ("женщина!", 7), ("女人red", 0)):
        if count:
            with pytest.warns(UnknownWritingWarning, match=f"lacks {count} of the {count} letters"):
                assert np.isclose(np.linalg.norm(encoder.encode_texts([text])), 1)
        else:
            encoder.encode_texts([text])


@pytest.mark.parametrize(("text", "told"), [("红衣女red", False), ("红衣女人red", True)])
def test_a_writing_is_told_of_where_it_is_more_than_half_of_the_letters(encoder, text, told):
    _, notes = encoder.encode_texts_with_notes([text])
    assert [type(note) for note in notes] == [UnknownWritingWarning] * told
    assert not told or "lacks 4 of the 7 letters" in str(notes[0])


def test_unknown_letters_of_a_tokenizer_without_bytes(model_folder, tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "man", "##s", "女"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    encoder = PersonEncoder.from_pretrained(model_folder, device="cpu")
    encoder.processor.tokenizer = BertTokenizer(str(tmp_path / "vocab.txt"))
    found = {text: unknown_letters(text, encoder) for text in ("a mans 女", "红衣女人", "a куртка", "!")}
    assert found == {"a mans 女": (0, 6), "红衣女人": (3, 4), "a куртка": (6, 7), "!": (0, 0)}


@pytest.mark.parametrize(
    "text, message", [("", "empty"), (" \n\t", "empty"), ("\u200b.!", "no word"), ("\udcff", "Unicode")]
)
def test_query_without_content(encoder, text, message):
    with pytest.raises(ValueError, match=message):
        encoder.encode_texts(["a man", text])


def test_model_hash_is_the_files_hash(encoder, model_folder):
    assert encoder.model_hash == hashlib.sha256((model_folder / "model.safetensors").read_bytes()).hexdigest()


def test_model_hash_of_several_files_is_that_of_all_in_the_order_of_their_names(encoder, tmp_path):
    for name, content in (("b.safetensors", b"second"), ("a.safetensors", b"first"), ("notes.txt", b"no weights")):
        (tmp_path / name).write_bytes(content)
    held = PersonEncoder(encoder.model, encoder.processor, "shards", tmp_path, "cpu")
    assert held.model_hash == hashlib.sha256(b"firstsecond").hexdigest()


def test_model_hash_without_files_depends_on_every_weight(encoder):
    model = AutoModel.from_config(encoder.model.config)

    def found():
        return PersonEncoder(model, encoder.processor, "in memory", device="cpu").model_hash

    hashes = [found()]
    for parameter in model.parameters():
        with torch.no_grad():
            parameter.view(-1)[-1] += 1.0
        hashes.append(found())
    assert len(set(hashes)) == len(hashes) > 20


def test_model_hash_without_files_depends_on_the_weights(encoder):
    held = PersonEncoder(encoder.model, encoder.processor, "in memory", device="cpu")
    changed = AutoModel.from_config(encoder.model.config)
    other = PersonEncoder(changed, encoder.processor, "in memory", device="cpu")
    assert len({held.model_hash, other.model_hash, encoder.model_hash}) == 3
    same = PersonEncoder(encoder.model, encoder.processor, "again", device="cpu")
    assert same.model_hash == held.model_hash


def test_paths_that_hold_no_model(tmp_path):
    with pytest.raises(ModelLoadError, match="does not exist"):
        PersonEncoder.from_pretrained(tmp_path / "missing")
    with pytest.raises(ModelLoadError, match=r"holds no config\.json"):
        PersonEncoder.from_pretrained(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ModelLoadError, match="is a file"):
        PersonEncoder.from_pretrained(tmp_path / "file")


def test_hub_name_that_cannot_be_reached(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelLoadError, match="neither a folder here nor a model on the Hub"):
        PersonEncoder.from_pretrained("nobody/no-such-model")


@pytest.mark.parametrize("with_code", [False, True])
def test_a_download_is_what_is_read_and_code_where_it_is_asked_for(tmp_path, monkeypatch, with_code):
    there = ["config.json", "model-1.safetensors", "merges.txt", "README.md", "modeling.py", "run/x.json", "a.jpg"]
    taken = []

    def download(repo, allow_patterns, ignore_patterns):
        taken.extend(filter_repo_objects(there, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns))
        (tmp_path / "config.json").touch()
        return str(tmp_path)

    monkeypatch.setattr("aga_model.loading.snapshot_download", download)
    assert local_folder("owner/model", with_code) == tmp_path
    assert taken == there[:4] + ["modeling.py"] * with_code


def test_incomplete_weights_are_refused(copied_model):
    weights = load_file(copied_model / "model.safetensors")
    dropped = next(name for name in weights if "text_projection" in name)
    del weights[dropped]
    save_file(weights, copied_model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=r"lacks 1 weights, such as .*text_projection"):
        PersonEncoder.from_pretrained(copied_model)


def test_damaged_model_files(copied_model):
    weights = copied_model / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(ModelLoadError, match="cannot be loaded"):
        PersonEncoder.from_pretrained(copied_model)
    weights.write_bytes(whole)
    (copied_model / "tokenizer.json").unlink()
    with pytest.raises(ModelLoadError, match="its text tower 515: the tokenizer's files are missing"):
        PersonEncoder.from_pretrained(copied_model)
    (copied_model / "config.json").write_text("{")
    with pytest.raises(ModelLoadError, match="cannot be loaded"):
        PersonEncoder.from_pretrained(copied_model)


def test_model_that_is_no_dual_encoder(copied_model):
    config = {"model_type": "clip_text_model", "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    (copied_model / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelLoadError, match="not a dual encoder"):
        PersonEncoder.from_pretrained(copied_model)


def test_weights_that_give_nan_are_an_error(copied_model):
    weights = load_file(copied_model / "model.safetensors")
    poisoned = {
        name: tensor * float("nan") if "visual_projection" in name else tensor for name, tensor in weights.items()
    }
    save_file(poisoned, copied_model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="not finite"):
        PersonEncoder.from_pretrained(copied_model).encode_images(noise(1))


def test_weights_that_give_zero_are_an_error(model_folder):
    encoder = PersonEncoder.from_pretrained(model_folder, device="cpu")
    with torch.no_grad():
        encoder.model.visual_projection.weight.zero_()
    with pytest.raises(ValueError, match="zero or not finite"):
        encoder.encode_images(noise(1))


def test_unknown_device(model_folder):
    with pytest.raises(ModelLoadError, match="device 'abacus' cannot be used"):
        PersonEncoder.from_pretrained(model_folder, device="abacus")


@pytest.mark.parametrize(
    "card, expected",
    [
        ("---\ntags:\n- person-search\n- rendered-data\n---\n# A model\n", True),
        ("---\ntags:\n- person-search\n---\nrendered-data\n", False),
        ("# no front matter, rendered-data\n", False),
        ("---\ntags: [unclosed\n---\n", False),
        ("---\n- a list\n---\n", False),
    ],
)
def test_model_card_says_rendered_data(encoder, tmp_path, card, expected):
    (tmp_path / "README.md").write_text(card)
    assert PersonEncoder(encoder.model, encoder.processor, "m", tmp_path, "cpu").rendered_only is expected


def test_without_model_card(encoder):
    assert encoder.rendered_only is False
