"""The bench of filtered searches at its smallest: by the index, every search has its results."""

import json
import os
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

pytest.importorskip("lancedb", reason="the extra `search` is not installed")


def test_filtered_searches_find_what_there_is(python, tmp_path):
    command = [python, REPOSITORY / "benchmarks" / "filtered_search.py", "--smoke", "--out", tmp_path / "found.json"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    run = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    assert "camera night" in run.stdout and "searching: 100%" in run.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["settings"] == {"rows": 3000, "queries": 3, "seed": 0, "exact_rows": 1500, "held_bytes": 0}
    (result,) = found["results"]
    assert (result["dim"], result["separation"], result["held"]) == (16, 3.0, False)
    assert result["index"]["kind"] == "IVF_RQ" and result["index"]["recall"] >= 0.95
    filters = result["filters"]
    assert filters["camera night"]["rows"] == 282 and filters["camera day"]["rows"] == 2718  # 60 of 640 of 3,000
    assert sum(row["rows"] < 100 for row in filters.values()) >= 3
    table = subprocess.run([*map(str, command), "--markdown"], env=environment, capture_output=True, text=True).stdout
    assert table.splitlines()[2].startswith("| 16 | 3 | ") and "| 10, 100, 282 |" in table
    for name, row in filters.items():
        assert row["recall"] >= 0.95, name
        assert row["fewest_hits"] == {str(top_k): min(top_k, row["rows"]) for top_k in (10, 100, 1000)}, name
        assert min(row["median_ms"].values()) > 0, name
