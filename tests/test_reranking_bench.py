"""The re-ranking bench at its smallest: every way is measured, and they agree."""

import json
from pathlib import Path

import pytest
from command_line import run_bench


@pytest.mark.nightly
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the bench reads Linux's peak memory")
def test_all_ways_agree(python, tmp_path):
    run = run_bench(python, "reranking", "--smoke", "--out", tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["settings"] == {
        "queries": 6, "top_k": 8, "gallery": 12, "rounds": 1, "seed": 0, "model": "aga-small-rendered"
    }  # fmt: skip
    assert found["device"]["processor"] in run.stdout and "this package" in run.stdout
    for way in ("field", "field_unpadded", "package"):
        result = found["results"][way]
        assert result["seconds"] > 0 and result["peak_mib"] >= 0 and len(result["rounds"]) == 1
        assert result["largest_difference"] < 1e-3 and result["same_first"] == 6
    assert found["results"]["field"]["largest_difference"] == 0.0 < found["results"]["package"]["largest_difference"]
