"""`aga report` asks a gallery only with the model that made it."""

import json
from types import SimpleNamespace

from typer.testing import CliRunner

from aga_model.cli.main import app
from aga_model.gallery import Gallery
from aga_model.search import PersonEncoder


def test_the_gallery_of_another_model_is_refused(tmp_path, monkeypatch):
    (tmp_path / "run.json").write_text(json.dumps({"data": {"dataset": "x", "data_root": "y"}}))

    class Store(SimpleNamespace):
        require_model = Gallery.require_model

    store = Store(model_hash="a" * 64, model_name="another")
    monkeypatch.setattr(Gallery, "open", lambda location: store)
    encoder = SimpleNamespace(model_hash="b" * 64)
    monkeypatch.setattr(PersonEncoder, "from_pretrained", lambda *arguments, **options: encoder)
    result = CliRunner().invoke(app, ["report", str(tmp_path), "--gallery", "people", "--query", "a man"])
    assert result.exit_code == 2 and "made with model another" in result.output
