"""The bench of filtered searches at its smallest: by the index, every search has its results."""

import json

import pytest
from command_line import run_bench

pytest.importorskip("lancedb", reason="the extra `search` is not installed")


def test_filtered_searches_find_what_there_is(python, tmp_path):
    options = ["--smoke", "--out", tmp_path / "found.json"]
    run = run_bench(python, "filtered_search", *options)
    assert "camera night" in run.stdout and "searching: 100%" in run.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["settings"] == {"rows": 3000, "queries": 3, "seed": 0, "exact_rows": 1500, "held_bytes": 0}
    (result,) = found["results"]
    assert (result["dim"], result["separation"], result["held"]) == (16, 3.0, False)
    assert result["index"]["kind"] == "IVF_RQ" and result["index"]["recall"] >= 0.95
    filters = result["filters"]
    assert filters["camera night"]["rows"] == 282 and filters["camera day"]["rows"] == 2718  # 60 of 640 of 3,000
    assert sum(row["rows"] < 100 for row in filters.values()) >= 3
    table = run_bench(python, "filtered_search", *options, "--markdown").stdout
    assert table.splitlines()[2].startswith("| 16 | 3 | ") and "| 10, 100, 282 |" in table
    for name, row in filters.items():
        assert row["recall"] >= 0.95, name
        assert row["fewest_hits"] == {str(top_k): min(top_k, row["rows"]) for top_k in (10, 100, 1000)}, name
        assert min(row["median_ms"].values()) > 0, name
