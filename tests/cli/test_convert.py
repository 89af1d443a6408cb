"""`aga convert` writes a folder that loads, or says in one line why not."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForPreTraining, AutoProcessor
from typer.testing import CliRunner

from aga_model.cli.main import app
from aga_model.conversion import load_bert
from aga_model.serving import SERVING_FILES

FIXTURES = Path(__file__).parents[1] / "fixtures"
CHECKPOINT = FIXTURES / "irra_tiny" / "best.pth"
RASA = FIXTURES / "rasa_tiny" / "checkpoint.pth"


def _run(*arguments):
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


@pytest.fixture
def vocabulary(tmp_path):
    """A folder with a tokenizer of as many entries as the tiny checkpoint has."""
    from transformers import CLIPTokenizer

    entries = [chr(ord("a") + n % 26) + str(n) for n in range(157)] + ["<|mask|>", "<|startoftext|>", "<|endoftext|>"]
    vocab = {entry: index for index, entry in enumerate(entries)}
    CLIPTokenizer(vocab=vocab, merges=[], mask_token="<|mask|>").save_pretrained(tmp_path / "vocabulary")
    return tmp_path / "vocabulary"


def test_irra_to_a_folder(tmp_path, vocabulary):
    result = _run(CHECKPOINT, "--format", "irra", "--out", tmp_path / "model", "--tokenizer", vocabulary)
    assert result.exit_code == 0, result.output
    assert "AgaForPreTraining" in result.output and "images 96x32" in result.output
    state = torch.load(CHECKPOINT, weights_only=True)["model"]
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "model")
    assert torch.equal(model.identity_head.weight, state["classifier.weight"])
    assert AutoProcessor.from_pretrained(tmp_path / "model").tokenizer.mask_token_id == 157
    assert {path.name for path in (tmp_path / "model").iterdir()} >= set(SERVING_FILES)


def test_a_file_is_recognised_and_the_reason_told(tmp_path, vocabulary):
    result = _run(CHECKPOINT, "--out", tmp_path / "model", "--tokenizer", vocabulary)
    assert result.exit_code == 0, result.output
    assert f"{CHECKPOINT} is read as --format irra: CLIP under the name that IRRA's code gives it" in result.output
    assert "AgaForPreTraining" in result.output
    other = tmp_path / "other.pth"
    torch.save({"neck.weight": torch.ones(1)}, other)
    result = _run(other, "--out", tmp_path / "none", "--tokenizer", vocabulary)
    assert result.exit_code == 2 and "give --format" in result.output and not (tmp_path / "none").exists()


@pytest.fixture
def words(tmp_path):
    """A folder with a vocab.txt of as many entries as the tiny checkpoint of RaSa has."""
    entries = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", *(f"word{number}" for number in range(115))]
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "vocab.txt").write_text("\n".join(entries) + "\n")
    return tmp_path / "words"


@pytest.mark.parametrize("kind", ["albef", "rasa"])
def test_albef_and_rasa_to_a_folder(tmp_path, words, kind):
    out = tmp_path / "model"
    options = ["--format", kind, "--out", out, "--tokenizer", words, "--num-heads", 4]
    result = _run(RASA, *options)
    assert result.exit_code == 0, result.output
    assert "AgaForPreTraining" in result.output and "images 64x64" in result.output
    model = AutoModelForPreTraining.from_pretrained(out)
    assert torch.equal(model.itm_head.weight, torch.load(RASA, weights_only=True)["model"]["itm_head.weight"])
    assert model.config.text_config.num_attention_heads == 4
    assert AutoProcessor.from_pretrained(out).tokenizer("word0")["input_ids"] == [1, 5, 2]


def test_bert_to_a_folder(tmp_path, words, monkeypatch):
    from transformers import BertConfig, BertModel

    def load_small(source, vision_config, **options):
        """With a vision tower that is smaller than the command's ViT-B/16."""
        small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
        return load_bert(source, vision_config=vision_config | small, **options)

    monkeypatch.setattr("aga_model.conversion.load_bert", load_small)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
    bert = BertModel(BertConfig(vocab_size=120, **sizes))
    bert.save_pretrained(words)
    options = ["--format", "bert", "--out", tmp_path / "model", "--text-layers", 1, "--image-size", "48x32"]
    result = _run(words, *options)
    assert result.exit_code == 0, result.output
    assert "images 48x32" in result.output
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "model")
    assert len(model.aga.text_model.encoder.layer) == 1 and len(model.fusion.layers) == 2
    wanted = bert.encoder.layer[2].output.dense.weight
    assert torch.equal(model.fusion.layers[1].output.dense.weight, wanted)
    assert model.config.text_config.mask_token_id == 3


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--format", "irra"], "no CLIP vocabulary"),
        (["--format", "blip"], "known: auto, clip, irra, rde, tbps-clip, albef, rasa, bert"),
        (["--format", "irra", "--image-size", "big"], "must look like 384x128"),
        (["--format", "clip", "--stride", "8"], "--stride belongs to --format irra and rde"),
        (["--format", "irra", "--num-heads", "4"], "--num-heads belongs to --format albef and rasa"),
        (["--format", "rasa", "--text-layers", "4"], "--text-layers belongs to --format bert"),
        (["--format", "albef"], "no transformer blocks under 'text_encoder."),
        (["--format", "bert"], "cannot be loaded as transformers' BERT"),
        (["--format", "clip"], "logit_scale"),
        (["--format", "rde"], "keys are not known"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, arguments, named):
    result = _run(CHECKPOINT, "--out", tmp_path / "model", *arguments)
    assert result.exit_code == 2
    assert named in result.output
    assert not (tmp_path / "model").exists()


def test_a_missing_vocabulary_is_named_by_its_family(tmp_path):
    result = _run(RASA, "--format", "rasa", "--out", tmp_path / "model", "--num-heads", 4)
    assert result.exit_code == 2 and not (tmp_path / "model").exists()
    assert "no BERT vocabulary" in result.output and "vocab.txt" in result.output


def test_an_output_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("keep")
    result = _run(CHECKPOINT, "--format", "irra", "--out", tmp_path)
    assert result.exit_code == 2 and "not empty" in result.output


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["irra"], {"trust_remote_code": False}),
        (["irra", "--image-size", "384x128", "--stride", 12], {"image_size": (384, 128), "stride": 12}),
        (["rde", "--trust-remote-code"], {"trust_remote_code": True}),
        (["tbps-clip", "--image-size", "224X192"], {"image_size": (224, 192)}),
        (["rasa", "--num-heads", 3, "--tokenizer", "words"], {"num_heads": 3, "tokenizer": "words"}),
        (["bert", "--text-layers", 5, "--image-size", "96x48"], {"text_layers": 5}),
    ],
)
def test_options_reach_the_loader(tmp_path, monkeypatch, arguments, options):
    asked = []

    def load(source, **given):
        asked.append((source, given))
        raise ValueError("that is enough")

    for name in ("load_irra", "load_rde", "load_tbps_clip", "load_albef", "load_bert"):
        monkeypatch.setattr(f"aga_model.conversion.{name}", load)
    result = _run("weights", "--out", tmp_path / "model", "--format", *arguments)
    assert result.exit_code == 2 and "that is enough" in result.output
    if arguments[0] == "bert":
        options = options | {"vision_config": {"image_size": [96, 48]}}
    assert asked == [("weights", {"tokenizer": None, "trust_remote_code": False} | options)]
