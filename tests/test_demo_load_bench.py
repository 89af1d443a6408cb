"""The load bench at its smallest: a real demo, strangers, clients and a long sentence."""

import json
import sys

import pytest
from command_line import run_bench

pytest.importorskip("lancedb", reason="the extra `search` is not installed")
pytest.importorskip("gradio", reason="the extra `demo` is not installed")


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform != "linux", reason="the bench reads memory in /proc")
def test_everybody_is_answered_or_refused(python, tmp_path):
    run = run_bench(python, "demo_load", "--smoke", "--out", tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["device"]["processor"][:20] in run.stdout and found["settings"]["strangers"] == 30
    results = found["results"]
    queries, long = results["queries"], results["long_sentences"]
    assert (
        queries["number"] == 4 and set(queries["ends"]) <= {"answered", "refused"} and queries["ends"]["answered"] > 0
    )
    assert long["ends"] == {"refused": 1} and long["statuses"] == {"413": 1}
    assert 0 < queries["p50_seconds"] <= queries["p95_seconds"] <= queries["max_seconds"]
    used = results["memory_mib"]
    assert used["ratio"] == pytest.approx(used["highest"] / used["idle"]) and 1 <= used["ratio"] < 1.2
    assert results["strangers_still_connected"] <= 30
