"""The bench of AWM's step at its smallest: every way is timed, and the ratios are of its rounds."""

import json

import pytest
from command_line import run_bench


def test_every_way_is_timed(python, tmp_path):
    environment = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    run = run_bench(python, "awm_step", "--smoke", "--out", tmp_path / "found.json", **environment)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["settings"]["smoke"] and found["device"]["processor"] in run.stdout
    plain = found["results"]["all_patches"]["rounds"]
    for way in ("all_patches", "awm", "awm_three_quarters", "awm_reduced", "random"):
        result = found["results"][way]
        ratios = [one / other for one, other in zip(plain, result["rounds"])]
        assert len(ratios) == 2 and min(result["rounds"]) > 0
        assert result["faster_by"]["least"] == pytest.approx(min(ratios))
