"""Processes that change a gallery are killed once each by the bench that kills them sixty times; it sees traces."""

import json
import os

import pytest
from command_line import run_bench

pytest.importorskip("lancedb", reason="the extra `search` is not installed")
pytest.importorskip("cv2", reason="the extra `search` is not installed")


@pytest.mark.nightly
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
def test_a_kill_of_each_operation_leaves_no_trace_and_loses_nothing(python, tmp_path):
    run_bench(python, "erasure", "--kills", 1, "--out", tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found["results"]) == {"add", "delete", "compact", "build-index", "re-index"} and found["wrong"] == 0
    assert all(counts["killed"] == 1 <= counts["rounds"] for counts in found["results"].values())


def test_traces_are_counted(tmp_path):
    import hashlib

    from benchmarks.reliability.erasure import SECRET, count_traces, direction, place_foreign_files, secret_crops

    place_foreign_files(tmp_path / "g")
    assert count_traces(tmp_path, [SECRET.encode(), direction("x").tobytes()], set()) == 0
    (tmp_path / "g" / "index.bin").write_bytes(b"12" + direction("x").tobytes())
    (tmp_path / "g" / f"{SECRET}.txt").touch()
    crop = tmp_path / "g" / "crops" / ("1" * 16) / "00000001_0_0_2_2.jpg"
    crop.parent.mkdir()
    crop.write_bytes(b"a picture")
    foreign = {hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.rglob("*.jpg") if path != crop}
    crops = secret_crops(tmp_path / "g", foreign)
    assert crops == {hashlib.sha256(b"a picture").hexdigest()}
    assert count_traces(tmp_path, [SECRET.encode(), direction("x").tobytes()], crops) == 3
