"""Checkpoints of every released version load in today's code and give what they gave then."""

import json
import runpy
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parent / "fixtures" / "make_checkpoint.py"
CHECKPOINTS = sorted((SCRIPT.parent / "checkpoints").glob("*/*/"))


@pytest.fixture(scope="module")
def maker():
    return runpy.run_path(str(SCRIPT))


def test_there_is_a_fixture_of_both_families():
    assert {"0.1.0/bert", "0.1.0/clip"} <= {str(Path(*path.parts[-2:])) for path in CHECKPOINTS}


@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda path: "/".join(path.parts[-2:]))
def test_a_checkpoint_gives_what_it_gave(maker, folder):
    expected = json.loads((folder / "expected.json").read_text())
    found = maker["outputs"](folder)
    assert found.keys() == expected.keys() and found["input_ids"] == expected.pop("input_ids")
    for name, values in expected.items():
        wanted = torch.tensor(values)
        assert wanted.std() > 1e-2, f"{name} cannot tell a good checkpoint from a bad one"
        torch.testing.assert_close(torch.tensor(found[name]), wanted, atol=1e-5, rtol=1e-5, msg=name)


def test_the_fixture_of_a_version_is_made_once(maker, tmp_path):
    with pytest.raises(FileExistsError, match="never changed"):
        maker["make"](tmp_path)
