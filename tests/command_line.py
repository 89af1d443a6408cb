"""Commands as tests run them: `aga` in this process, benches in one of their own."""

import os
import socket
import subprocess
from pathlib import Path

from typer.testing import CliRunner

REPOSITORY = Path(__file__).parents[1]
BENCH_SECONDS = 550  # within which a test must end (pyproject.toml)


def aga(*arguments, code=0, **environment):
    """The result of an `aga` command, which ends with this exit code."""
    from aga_model.cli.main import app

    result = CliRunner(env=environment).invoke(app, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result


def run_bench(python, name, *arguments, **environment):
    """The finished process of `python -m benchmarks NAME`, which succeeds."""
    command = [python, "-m", "benchmarks", name, *arguments]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)} | environment
    run = subprocess.run(
        list(map(str, command)), env=environment, capture_output=True, text=True, timeout=BENCH_SECONDS
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return run


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
