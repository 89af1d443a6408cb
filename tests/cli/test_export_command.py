"""What `aga export` asks for."""

from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from aga_model import AgaModel
from aga_model.cli.main import app
from aga_model.search import PersonEncoder

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from aga_model.conversion import onnx_export


@pytest.mark.parametrize("flag", [None, "--int8", "--trust-remote-code"])
def test_options_are_passed_on(monkeypatch, make_model, tmp_path, flag):
    loaded, exported = [], []

    def load(name, device, trust_remote_code):
        loaded.append((name, device, trust_remote_code))
        return SimpleNamespace(model=make_model().aga, processor="processor", model_hash="0" * 64)

    def export(model, processor, folder, model_hash, int8=False):
        exported.append((type(model), processor, folder, model_hash, int8))
        one = onnx_export.EncoderReport({"x.onnx": 2_500_000}, 3e-7, 0.9876 if int8 else None)
        return onnx_export.ExportReport(one, one, (1, 2), (9, 77))

    monkeypatch.setattr(PersonEncoder, "from_pretrained", load)
    monkeypatch.setattr("aga_model.conversion.export_onnx", export)
    options = [] if flag is None else [flag]
    result = CliRunner().invoke(app, ["export", "someone/model", "--out", str(tmp_path / "onnx"), *options])
    assert result.exit_code == 0, result.output
    assert loaded == [("someone/model", "cpu", flag == "--trust-remote-code")]
    assert exported == [(AgaModel, "processor", tmp_path / "onnx", "0" * 64, flag == "--int8")]
    assert "x.onnx (2.5 MB)" in result.output and ("0.9876" in result.output) == (flag == "--int8")
