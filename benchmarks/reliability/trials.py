"""Copies of a tree, and tests that are run in them, for the bench `mutants`."""

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.places import ROOT
from benchmarks.processes import wait_until

# What starts threads at its import cannot be there before a fork.
NOT_BEFORE_FORKS = {"lancedb", "lance", "grpc", "pymilvus", "milvus_lite"}


def copy_tree(root: Path, target: Path) -> None:
    """Make `target` a copy of what git knows or would add below `root`, with compiled files that notice changes."""
    shutil.rmtree(target, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (root / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target / name)
    beside = target.parent / "shared"
    if not beside.exists() and (shared := root.parent / "shared").exists():
        beside.symlink_to(shared.resolve())
    compiled = [sys.executable, "-m", "compileall", "-qq", "--invalidation-mode", "checked-hash", "."]
    subprocess.run(compiled, cwd=target, check=False)


def tree_hash(root: Path, *folders: str) -> str:
    """A hash of the Python files below some folders of a tree."""
    content = hashlib.sha256()
    for path in sorted(path for folder in folders for path in (root / folder).rglob("*.py")):
        content.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return content.hexdigest()


# --- running tests ----------------------------------------------------------------------------------------------


class _FirstFailure:
    """A pytest plugin that writes down which test, or which file while it is collected, failed first."""

    def __init__(self, path: Path, every: bool = False):
        self.path, self.every = path, every

    def _note(self, report):
        if report.failed and (self.every or not self.path.exists()):
            with self.path.open("a", encoding="utf-8") as file:
                file.write(report.nodeid + "\n")

    pytest_runtest_logreport = _note
    pytest_collectreport = _note


class _Chosen:
    """A pytest plugin that runs tests in their order, or all of a file for its name; others may be gone."""

    def __init__(self, tests: Sequence[str]):
        self.places = {test: place for place, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items):
        def place(item):
            return self.places.get(item.nodeid, self.places.get(item.nodeid.split("::")[0]))

        items[:] = sorted((item for item in items if place(item) is not None), key=place)


def run_tests(
    tree: Path, tests: Sequence[str], log: Path, limit: float, every: bool = False
) -> tuple[int | None, list]:
    """
    Run tests in a tree, in a process forked from this one, until the first that fails.

    Args:
        tests: their ids, or files.
        log: where the output goes.
        limit: seconds; then the process and those it started are killed.
        every: go on after a failure.

    Returns:
        pytest's exit code, or None if the limit was met, and the ids of what failed.
    """
    failures = log.with_suffix(".failed")
    failures.unlink(missing_ok=True)
    if (child := os.fork()) == 0:
        try:
            os.setsid()
            with log.open("wb") as output:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
            _become_pytest(tree, tests, failures, every)
        finally:
            os._exit(70)
    code = wait_until(child, time.monotonic() + limit, pause=0.05)
    with contextlib.suppress(ProcessLookupError):  # servers that a test left, or all of it
        os.killpg(child, signal.SIGKILL)
    if code is None:
        os.waitpid(child, 0)
    return code, failures.read_text(encoding="utf-8").splitlines() if failures.exists() else []


def _become_pytest(tree: Path, tests: Sequence[str], failures: Path, every: bool):
    import pytest

    os.chdir(tree)
    os.environ["PYTHONPATH"] = str(tree)
    sys.path[:] = [str(tree), *(path for path in sys.path if Path(path).resolve() != ROOT)]
    for name in [name for name, module in sys.modules.items() if _is_ours(module)]:
        del sys.modules[name]
    options = ["-n", "0", "-m", "", "-p", "no:cacheprovider", f"--rootdir={tree}", *([] if every else ["-x"])]
    files = list(dict.fromkeys(test.split("::")[0] for test in tests))
    code = pytest.main([*options, *files], plugins=[_FirstFailure(failures, every), _Chosen(tests)])
    sys.stdout.flush()
    os._exit(int(code))


def _is_ours(module) -> bool:
    return str(getattr(module, "__file__", None) or "").startswith(str(ROOT / "benchmarks") + os.sep)


def import_libraries(root: Path, build: Path) -> None:
    """
    Import what the package imports, but nothing of the package, so that forked processes need not. The names are asked
    for once; one that is missing later costs time only.
    """
    kept = build / "libraries.txt"
    if not kept.exists():
        program = (
            "import contextlib, importlib, pkgutil, sys, aga_model\n"
            "for module in pkgutil.walk_packages(aga_model.__path__, 'aga_model.'):\n"
            "    with contextlib.suppress(ImportError): importlib.import_module(module.name)\n"
            "print(*sys.modules, sep='\\n')"
        )
        environment = {**os.environ, "PYTHONPATH": str(root)}
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, cwd=root, env=environment, stdout=subprocess.PIPE, check=True)
        kept.write_bytes(done.stdout)
    for name in [*kept.read_text(encoding="utf-8").split(), "pytest", "xdist", "hypothesis"]:
        if name.split(".")[0] not in NOT_BEFORE_FORKS | {"aga_model", "__main__"}:
            with contextlib.suppress(Exception):
                __import__(name)
