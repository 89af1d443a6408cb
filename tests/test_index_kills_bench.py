"""`aga index` is killed three times, by the bench that kills it twenty times; and the bench sees what is wrong."""

import json
import os

import numpy as np
import pytest
from command_line import run_bench

pytest.importorskip("lancedb", reason="the extra `search` is not installed")
pytest.importorskip("cv2", reason="the extra `search` is not installed")


@pytest.mark.nightly
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
def test_three_kills_lose_nothing(python, tmp_path):
    sizes = ["--kills", 3, "--images", 100, "--frames", 10]
    run_bench(python, "index_kills", *sizes, "--out", tmp_path / "found.json")
    results = json.loads((tmp_path / "found.json").read_text())["results"]
    assert results["rows"] == 120 and results["wrong"] == 0 and len(results["kills"]) == 3
    assert all(kill["acknowledged"] <= kill["rows"] <= 120 for kill in results["kills"])
    assert sum(gallery["kills"] for gallery in results["galleries"]) == 3


def test_what_is_wrong_is_counted():
    from benchmarks.reliability.index_kills import compare

    rows = {row_id: {"source": row_id} for row_id in "abc"}
    embeddings = {row_id: np.ones(2, np.float32) for row_id in "abc"}
    wanted = rows, embeddings, 3
    assert set(compare(wanted, wanted, {"a", "b"}).values()) == {0}
    moved = {**rows, "b": {"source": "elsewhere"}, "x": {}}
    turned = {**embeddings, "c": -embeddings["c"], "x": embeddings["a"]}
    del moved["a"], turned["a"]
    wrong = compare((moved, turned, 5), wanted, {"a", "b"})
    assert wrong == {"lost": 1, "twice": 2, "strange": 1, "changed": 2}
