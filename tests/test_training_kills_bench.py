"""The bench of killed runs at its smallest, and that it sees what it looks for."""

import json
import os

import numpy as np
import pytest
import torch
from command_line import run_bench

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the bench forks its runs")


@pytest.mark.nightly
def test_killed_runs_come_to_the_same_end(python, tmp_path):
    out = tmp_path / "found.json"
    run = run_bench(python, "training_kills", "--kills", 3, "--out", out, TMPDIR=str(tmp_path))
    found = json.loads(out.read_text())
    assert found["settings"]["kills"] == found["results"]["kills"] == 3
    assert found["results"]["runs"] >= 1 and found["results"]["ends_that_differ"] == 0
    assert found["device"]["processor"] in " ".join(run.stdout.split())  # the table breaks its title
    assert not list(tmp_path.glob("training-kills-*"))


def _bench():
    from benchmarks.reliability import training_kills

    return training_kills


@pytest.mark.parametrize(
    ("change", "equal"),
    [
        (lambda state: None, True),
        (lambda state: state["state"][0]["step"].add_(1e-6), False),
        (lambda state: state["state"].pop(1), False),
        (lambda state: state["numpy"].__setitem__(1, 5), False),
        (lambda state: state["python"].append(2), False),
    ],
)
def test_values_are_compared_to_the_last_bit(change, equal):
    def state():
        return {"state": {0: {"step": torch.ones(3)}, 1: {}}, "numpy": np.arange(4), "python": [3, (1, None)]}

    changed = state()
    change(changed)
    assert _bench().same(state(), changed) is equal
