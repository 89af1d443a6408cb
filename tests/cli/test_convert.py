"""`aga convert` writes a folder that loads, or says in one line why not."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForPreTraining, AutoProcessor
from typer.testing import CliRunner

from aga_model.cli.main import app

CHECKPOINT = Path(__file__).parents[1] / "fixtures" / "irra_tiny" / "best.pth"


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


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--format", "irra"], "no CLIP vocabulary"),
        (["--format", "blip"], "known: clip, irra, rde, tbps-clip"),
        (["--format", "irra", "--image-size", "big"], "must look like 384x128"),
        (["--format", "clip", "--stride", "8"], "belongs to --format irra and rde"),
        (["--format", "clip"], "logit_scale"),
        (["--format", "rde"], "keys are not known"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, arguments, named):
    result = _run(CHECKPOINT, "--out", tmp_path / "model", *arguments)
    assert result.exit_code == 2
    assert named in result.output
    assert not (tmp_path / "model").exists()


def test_an_output_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("keep")
    result = _run(CHECKPOINT, "--format", "irra", "--out", tmp_path)
    assert result.exit_code == 2 and "not empty" in result.output
