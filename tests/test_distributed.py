"""Processes and chunks that share a batch have the gradient of one process with the whole batch at once."""

import subprocess
from pathlib import Path

import pytest
import torch
from command_line import free_port
from safetensors.torch import load_file

pytestmark = pytest.mark.timeout(180)  # processes that may wait for each other

WORKER = Path(__file__).parent / "distributed_worker.py"


def _run(python: str, world: int, output: Path, split: str, family: str, chunk: int) -> dict[str, torch.Tensor]:
    """Launch `world` processes of the worker on one batch and return rank 0's gradients and loss."""
    port = free_port()
    processes = [
        subprocess.Popen(
            [python, str(WORKER), str(rank), str(world), str(port), str(output), split, family, str(chunk)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(world)
    ]  # fmt: skip
    for process in processes:
        text, _ = process.communicate(timeout=300)
        assert process.returncode == 0, text
    return load_file(output)


@pytest.fixture(scope="module")
def whole(python, tmp_path_factory):
    """Gradients of one process with the whole batch at once, by family."""
    folder = tmp_path_factory.mktemp("whole")
    return {
        family: _run(python, 1, folder / f"{family}.safetensors", "even", family, 0) for family in ("clip", "bert")
    }


@pytest.mark.parametrize(
    ("world", "split", "family", "chunk"),
    [
        (2, "even", "clip", 0),
        (2, "uneven", "clip", 0),
        (2, "uneven", "bert", 0),
        (1, "even", "clip", 5),
        (1, "even", "bert", 5),
        (2, "uneven", "clip", 3),
    ],
)
def test_a_shared_batch_equals_the_whole(python, tmp_path, whole, world, split, family, chunk):
    one = whole[family]
    shared = _run(python, world, tmp_path / "shared.safetensors", split, family, chunk)
    assert one.keys() == shared.keys()
    for name, value in one.items():
        torch.testing.assert_close(
            shared[name], value, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
