"""The latency bench at its smallest: every step is timed, and the parts make the whole."""

import json

import pytest
from command_line import run_bench

pytest.importorskip("lancedb", reason="the extra `search` is not installed")


@pytest.mark.nightly
def test_all_is_measured(python, tmp_path):
    run = run_bench(python, "query_latency", "--smoke", "--cores", 1, "--out", tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["settings"] == {
        "images": 200, "rounds": 2, "warm_up": 2, "seed": 0, "top_k": 10, "model": "aga-small-rendered"
    }  # fmt: skip
    assert found["device"]["cores"] == 1 and found["device"]["processor"][:20] in run.stdout
    results = found["results"]
    assert results["queries"] == 32 and results["threads"] == 1
    for row in results["latency"].values():
        assert 0 < row["p50_ms"] <= row["p95_ms"]
    assert (
        max(results["latency"][part]["p50_ms"] for part in ("encode", "search"))
        < results["latency"]["query"]["p95_ms"]
    )
    steps = results["cold_seconds"]
    assert sum(steps[name] for name in ("import", "load_model", "open_gallery", "first_query")) == pytest.approx(
        steps["all"], abs=0.01
    )
