"""
Which tests execute which lines: the suite measured once with coverage, each test and the processes it starts under the
test's name. What a fixture of several tests executes counts for each of them, not for the first one alone. As a plugin
of pytest (`-p benchmarks.reliability.mutants_tests`) this module names tests and fixtures for coverage, and notes the
times of tests.
"""

import ast
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from benchmarks.places import ROOT

SETTINGS = """
[run]
include =
    {tree}/aga_model/*
    {tree}/train_hf.py
data_file = {data}
parallel = true
core = ctrace
patch = _exit
context = ${{MUTANTS_CONTEXT-}}
"""


class TestMap:
    """
    The tests that execute each line, and their times.

    Args:
        folder: with `coverage`, `tests.json` and the measured sources.
    """

    __test__ = False  # no test, whatever its name

    def __init__(self, folder: Path):
        from coverage import CoverageData

        self.sources = folder / "tree"
        self.data = CoverageData(str(folder / "coverage"))
        self.data.read()
        noted = json.loads((folder / "tests.json").read_text(encoding="utf-8"))
        self.times: dict[str, float] = noted["seconds"]
        users: dict[str, set[str]] = defaultdict(set)
        for test, fixtures in noted["fixtures"].items():
            for name in [test, *fixtures]:
                users[name] |= {test} & self.times.keys()
        self._lines: dict[str, dict[int, set[str]]] = {}
        self._at_import: dict[str, set[int]] = defaultdict(set)
        self._executed: dict[str, int] = defaultdict(int)  # how many lines each test executes in all files
        for path in self.data.measured_files():
            file = Path(path).relative_to(self.sources).as_posix()
            self._lines[file] = lines = {}
            for line, contexts in self.data.contexts_by_lineno(path).items():
                lines[line] = {test for context in contexts for test in users[_innermost(context)]}
                if "" in contexts:  # a module is imported before its tests are run
                    self._at_import[file].add(line)
                for test in lines[line]:
                    self._executed[test] += 1

    @classmethod
    def of(cls, root: Path, build: Path, copy_tree: Callable[[Path, Path], None]) -> "TestMap":
        """The map in `build`, whose tests may have changed since; or else a new one, which takes minutes."""
        folder = build / "map"
        if not (folder / "tests.json").exists():
            measure(root, folder, copy_tree)
        elif changed := [path.name for path in (root / "tests").rglob("test_*.py") if _differs(path, root, folder)]:
            print(f"measured before {len(changed)} files of tests changed; remove {folder} to measure again")
        return cls(folder)

    def seconds(self, test: str) -> float:
        """How long a test took, with its fixtures."""
        return self.times[test]

    def _promise(self, test: str, in_file: int) -> float:
        """The share of a test's lines that is in the file, for each second that it and its failure take."""
        return in_file / self._executed[test] / (self.times[test] + 1.0)

    def tests(self, file: str, old: str, changed: range, budget: float) -> list[str]:
        """
        The tests for a change, quick ones that execute little else first.

        Args:
            file: path from the root.
            old: the text that changes; it tells where the lines stood when they were measured.
            changed: lines that change, in the file of today.
            budget: seconds that they take together, of which slow ones may find no room; one is there in any case.
        """
        lines = self._lines.get(file, {})
        in_file = self._executing([file])
        found: set[str] = set()
        measured = (self.sources / file).read_text(encoding="utf-8") if (self.sources / file).exists() else ""
        if measured.count(old) == 1:
            executed = statement_lines(measured, changed)
            if executed & self._at_import[file]:
                # Executed at import: the head of a function counts where its body is executed, and what has a name
                # where it is read.
                executed, names = _body_lines(measured, executed), _named(measured, executed)
                in_file = self._executing([file, *self._naming(names)]) if names else in_file
            found = {test for line in executed for test in lines.get(line, ())}
        chosen, total = [], 0.0
        for test in sorted(found or in_file, key=lambda test: (-self._promise(test, in_file[test]), test)):
            if not chosen or total + self.times[test] <= budget:
                chosen.append(test)
                total += self.times[test]
        return chosen

    def _executing(self, files: Sequence[str]) -> dict[str, int]:
        """Tests that execute lines of these files, with how many."""
        counted: dict[str, int] = defaultdict(int)
        for file in files:
            for tests in self._lines.get(file, {}).values():
                for test in tests:
                    counted[test] += 1
        return counted

    def _naming(self, names: set[str]) -> list[str]:
        """Files of the package in which one of these names stands."""
        wanted = re.compile(rf"\b({'|'.join(map(re.escape, sorted(names)))})\b")
        paths = (self.sources / "aga_model").rglob("*.py")
        return [
            path.relative_to(self.sources).as_posix()
            for path in paths
            if wanted.search(path.read_text(encoding="utf-8"))
        ]


def _named(source: str, lines: set[int]) -> set[str]:
    """
    Names by which others read what is executed on these lines, outside of functions and classes: of values, of the
    keywords that they are made with, and of functions whose heads stand there.
    """
    found = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            found |= {node.name} if _head(node) & lines else set()
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) and _range(node) & lines:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)}
            keywords = [each for each in ast.walk(node) if isinstance(each, ast.keyword) and _range(each) & lines]
            found |= {each.arg for each in keywords if each.arg is not None}
    return found


def _body_lines(source: str, lines: set[int]) -> set[int]:
    """Lines of the bodies of functions, wherever they stand, whose heads these are lines of."""
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    return {line for node in functions if _head(node) & lines for each in node.body for line in _range(each)}


def _head(function: ast.FunctionDef) -> set[int]:
    return set(range(function.lineno, function.body[0].lineno))


def _range(node: ast.stmt | ast.keyword) -> set[int]:
    return set(range(node.lineno, (node.end_lineno or node.lineno) + 1))


def _differs(path: Path, root: Path, folder: Path) -> bool:
    measured = folder / "tree" / path.relative_to(root)
    return not measured.exists() or measured.read_bytes() != path.read_bytes()


def _innermost(context: str) -> str:
    """The test or fixture that this process runs, or else the one that started it."""
    started, _, here = context.rpartition("|")
    return here or started


def statement_lines(source: str, changed: range) -> set[int]:
    """Lines that are executed for changed ones: all of their statements, or the heads of compound statements."""
    lines = set(changed)
    for line in changed:
        inner: tuple[int, int] | None = None
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.stmt | ast.ExceptHandler):
                continue
            body = getattr(node, "body", None)
            end = body[0].lineno - 1 if body else node.end_lineno
            if node.lineno <= line <= max(end, node.lineno) and (inner is None or node.lineno >= inner[0]):
                inner = node.lineno, max(end, node.lineno)
        if inner:
            lines |= set(range(inner[0], inner[1] + 1))
    return lines


def measure(root: Path, folder: Path, copy_tree: Callable[[Path, Path], None]) -> None:
    """
    Run the whole suite under coverage, in a copy of the tree.

    Raises:
        RuntimeError: it could not run; that some tests fail is no error, they are left out.
    """
    shutil.rmtree(folder, ignore_errors=True)
    tree = folder / "tree"
    copy_tree(root, tree)
    settings = folder / "settings.ini"
    settings.write_text(SETTINGS.format(tree=tree, data=folder / "coverage"), encoding="utf-8")
    environment = {
        **os.environ,
        "COVERAGE_PROCESS_START": str(settings),
        "PYTHONPATH": os.pathsep.join([str(tree), str(ROOT)]),
        "MUTANTS_TIMES": str(folder / "tests.partial"),
    }
    environment.pop(_CONTEXT, None)  # of a test that runs this
    command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile", "-m", "", "-p", __name__]
    done = subprocess.run([*command, f"--rootdir={tree}"], cwd=tree, env=environment)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"the suite could not be measured: pytest ended with {done.returncode}")
    combine = [sys.executable, "-m", "coverage", "combine", "-q", f"--rcfile={settings}"]
    subprocess.run(combine, cwd=tree, check=True)
    (folder / "tests.partial").rename(folder / "tests.json")


# --- the plugin --------------------------------------------------------------------------------------------------

_CONTEXT = "MUTANTS_CONTEXT"  # a variable, so that processes which are started know it
_FIXTURES = "mutants_fixtures"
_times: dict[str, float] = defaultdict(float)
_fixtures: dict[str, list[str]] = {}
_failed: set[str] = set()


@contextlib.contextmanager
def _measured_as(name: str):
    before = os.environ.get(_CONTEXT, "")
    _switch(name)
    yield
    _switch(before)


def _switch(name: str) -> None:
    import coverage

    os.environ[_CONTEXT] = name
    if measured := coverage.Coverage.current():
        measured.switch_context(name)


def _name_of(fixture) -> str:
    return f"fixture {fixture.baseid} {fixture.argname}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    shared = [one for each in item._fixtureinfo.name2fixturedefs.values() for one in each if one.scope != "function"]
    item.user_properties.append((_FIXTURES, sorted(map(_name_of, shared))))
    with _measured_as(item.nodeid):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef):
    if fixturedef.scope == "function":
        return (yield)
    with _measured_as(_name_of(fixturedef)):
        return (yield)


def pytest_runtest_logreport(report):
    _times[report.nodeid] += report.duration
    _fixtures[report.nodeid] = dict(report.user_properties)[_FIXTURES]
    if not report.passed:
        _failed.add(report.nodeid)


def pytest_sessionfinish(session):
    if not hasattr(session.config, "workerinput"):
        passed = {test: round(seconds, 3) for test, seconds in _times.items() if test not in _failed}
        noted = json.dumps({"seconds": passed, "fixtures": _fixtures}, indent=1)
        Path(os.environ["MUTANTS_TIMES"]).write_text(noted, encoding="utf-8")
