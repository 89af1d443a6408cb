"""What commands that measure a model begin with: the split that was asked for, and what is said of the model."""

from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("datasets", reason="the extra `train` is not installed")

from aga_model.cli import opening as splits

SPLITS = {"train": ["a", "b", "c"], "val": ["d"], "test": ["e", "f"]}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(("rendered", "trusted"), [(True, False), (False, True)])
def test_the_split_that_was_asked_for(split, rendered, trusted, monkeypatch, capsys):
    asked, encoder = [], SimpleNamespace(rendered_only=rendered)

    def load(*names, **options):
        asked.append((names, options))
        return encoder

    monkeypatch.setattr("aga_model.data.load_benchmark", lambda name, root: asked.append((name, root)) or SPLITS)
    monkeypatch.setattr(splits.PersonEncoder, "from_pretrained", load)
    options = (trusted,) if trusted else ()  # nothing is trusted by default
    assert splits.open_split("a model", Path("data"), "own", split, "cpu", *options) == (SPLITS[split], encoder)
    assert asked == [("own", Path("data")), (("a model", "cpu"), {"trust_remote_code": trusted})]
    assert ("only seen rendered drawings" in capsys.readouterr().err) is rendered


def test_a_split_that_is_not_there(monkeypatch):
    monkeypatch.setattr("aga_model.data.load_benchmark", lambda *_: SPLITS)
    with pytest.raises(ValueError, match="--split dev: data has the splits train, val, test"):
        splits.open_split("a model", Path("data"), "own", "dev", None)
