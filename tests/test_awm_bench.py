"""The bench of AWM's step at its smallest: every way is timed, and the ratios are of its rounds."""

import json
import os
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


def test_every_way_is_timed(python, tmp_path):
    command = [python, REPOSITORY / "benchmarks" / "awm_step.py", "--smoke", "--out", tmp_path / "found.json"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["settings"]["smoke"] and found["device"]["processor"] in run.stdout
    plain = found["results"]["all_patches"]["rounds"]
    for way in ("all_patches", "awm", "awm_three_quarters", "awm_reduced", "random"):
        result = found["results"][way]
        ratios = [one / other for one, other in zip(plain, result["rounds"])]
        assert len(ratios) == 2 and min(result["rounds"]) > 0
        assert result["faster_by"]["least"] == pytest.approx(min(ratios))
