"""The gallery bench at its smallest: every search is measured, the exact ones find what brute force finds."""

import json

import pytest
from command_line import run_bench

pytest.importorskip("lancedb", reason="the extra `search` is not installed")


@pytest.mark.nightly
def test_all_is_measured(python, tmp_path):
    run = run_bench(python, "gallery", "--smoke", "--out", tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["settings"] == {
        "rows": 2000, "dim": 32, "queries": 8, "seed": 0, "top_k": 10, "exact_rows": 1000
    }  # fmt: skip
    assert found["device"]["processor"][:20] in run.stdout and "recall@10" in run.stdout
    results = found["results"]
    kinds = {name.split(", ")[0] for name in results["searches"]}
    assert kinds == {"exact", "index"} and len(results["searches"]) == 6
    for name, row in results["searches"].items():
        assert 0 < row["p50_ms"] <= row["p95_ms"] and row["floor"]["p50_ms"] > 0
        if name.startswith("exact") or name == "index, one camera":
            assert row["recall"] == 1.0, name
        else:
            assert 0.8 < row["recall"] <= 1.0, name
    assert results["index"]["kind"] == "IVF_RQ" and results["index"]["mib"] > 0
    assert results["add"]["rows_per_second"] > 0 and results["compact"]["mib"] > 0.2
    assert results["reopen"]["open_seconds"] > 0 and results["delete"]["rows"] == 5
