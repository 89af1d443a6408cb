"""Two processes with half the batch each have the gradient of one process with the whole batch."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

WORKER = Path(__file__).parent / "distributed_worker.py"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _run(world: int, output: Path, split: str, family: str) -> dict[str, torch.Tensor]:
    """Launch `world` processes of the worker on one batch and return rank 0's gradients and loss."""
    port = _free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(rank), str(world), str(port), str(output), split, family],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(world)
    ]  # fmt: skip
    for process in processes:
        text, _ = process.communicate(timeout=300)
        assert process.returncode == 0, text
    return load_file(output)


@pytest.mark.parametrize(("split", "family"), [("even", "clip"), ("uneven", "clip"), ("uneven", "bert")])
def test_two_processes_equal_one(tmp_path, split, family):
    one = _run(1, tmp_path / "one.safetensors", split, family)
    two = _run(2, tmp_path / "two.safetensors", split, family)
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(
            two[name], value, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
