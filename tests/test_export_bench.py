"""The bench of exported encoders at its smallest: all ways are measured and compared."""

import json

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.mark.nightly
@pytest.mark.timeout(1800)  # two exports and a rendering, however busy the machine is
def test_all_ways_are_compared(tmp_path, capsys):
    from benchmarks.speed import export

    export.main(["--smoke", "--out", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    results = found["results"]
    assert found["device"]["processor"] and found["device"]["threads"] == 1
    for way in export.WAYS:
        assert 20 < results["quality"][way]["rank1"]["value"] <= 100  # 8 people: chance is 12.5
        for kind in ("images", "captions"):
            assert len(results["per_second"][way][kind]["rounds"]) == 1
    assert results["quality"]["onnxruntime"]["least_cosine_with_pytorch"]["text"] > 1 - 1e-5
    assert 0.99 < results["quality"]["onnxruntime_int8"]["least_cosine_with_pytorch"]["text"] < 1 - 1e-6
    sizes = results["files"]
    assert sizes["vision.int8.onnx"] < sizes["vision.onnx"] and sizes["text.int8.onnx"] < sizes["text.onnx"]
    assert "int8 less float32" in capsys.readouterr().out
