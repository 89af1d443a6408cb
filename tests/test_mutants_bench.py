"""The faults of benchmarks/mutants fit the code, and the bench `mutants` tells which of them tests notice."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.reliability.faults import Mutant, read_lists
from benchmarks.reliability.mutants import LISTS
from benchmarks.reliability.mutants_tests import statement_lines

ROOT = Path(__file__).parents[1]

CODE = """\
LIMIT = 3


def below(number):
    return number < LIMIT


def doubled(number):
    return 2 * number


def halved(number):
    return number / 2


def squared(number):
    return number**2


def countdown(number):
    while number > 0:
        number -= 1
    return number
"""

TESTS = """\
import subprocess
import sys
import time

import pytest

from aga_model.doors import wide
from aga_model.numbers import below, countdown, halved, squared
from aga_model.rows import scaled
from aga_model.steps import stepped


def test_below():
    time.sleep(0.1)  # so that the test that always fails, which is as specific, is tried before
    assert below(2) and not below(3)


def test_doubled_in_a_process_of_its_own():
    program = "from aga_model.numbers import doubled; print(doubled(3))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).stdout == b"6\\n"


def test_halved():
    assert halved(0) == 0


@pytest.fixture(scope="module")
def squares():
    return squared(2), squared(3)


def test_the_first_square(squares):
    assert squares[0] == 4


def test_the_second_square(squares):
    assert squares[1] == 9


def test_countdown():
    assert countdown(3) == 0


def test_stepped():
    assert stepped(1) == 2


def test_scaled():
    assert scaled(1) == 2


def test_wide():
    assert wide() == 5


def test_the_script_ends_with_what_main_says():
    assert subprocess.run([sys.executable, "train_hf.py"]).returncode == 3
"""

# Where nothing but constants stands, no test executes a line; a script at the root is run by its path.
TABLES = "STEP = 1\n"
STEPS = """\
from aga_model.tables import STEP


def stepped(number):
    return number + STEP
"""
SCRIPT = """\
import sys


def main():
    return 3


if __name__ == "__main__":
    sys.exit(main())
"""

# What is executed at import, and counts elsewhere: a default in a body, a field where it is read.
ROWS = """\
from types import SimpleNamespace


def scaled(number, factor=2):
    return number * factor


TABLE = {"first": SimpleNamespace(width=5)}


def row(name):
    return TABLE[name]
"""
DOORS = """\
from aga_model.rows import row


def wide():
    return row("first").width
"""

ELSEWHERE = """\
import os


def test_that_fails_in_copies_with_and_without_faults():
    from aga_model.numbers import halved

    halved(2)
    assert "map" in os.getcwd()  # where the suite is measured


def test_of_something_else():
    pass
"""

FAULTS = {
    "limit_included": ("number < LIMIT", "number <= LIMIT"),
    "limit_of_four": ("LIMIT = 3", "LIMIT = 4"),
    "trebled": ("2 * number", "3 * number"),
    "quartered": ("number / 2", "number / 4"),
    "cubed_from_three": ("number**2", "number**max(number, 2)"),
    "never_down": ("number -= 1", "number -= 0"),
}


@pytest.fixture
def project(tmp_path):
    """A project of a few lines, with a list of faults."""
    files = {
        "aga_model/__init__.py": "",
        "aga_model/numbers.py": CODE,
        "aga_model/tables.py": TABLES,
        "aga_model/steps.py": STEPS,
        "aga_model/rows.py": ROWS,
        "aga_model/doors.py": DOORS,
        "train_hf.py": SCRIPT,
        "tests/test_numbers.py": TESTS,
        "tests/test_elsewhere.py": ELSEWHERE,
        "pytest.ini": "[pytest]\ntimeout = 5\n",
        ".gitignore": "build\n__pycache__\n",
        "benchmarks/results/keep": "",
    }
    entries = [
        {"name": name, "file": "aga_model/numbers.py", "old": old, "new": new, "why": "Numbers are wrong."}
        for name, (old, new) in FAULTS.items()
    ]
    entries += [
        {
            "name": "two_steps",
            "file": "aga_model/tables.py",
            "old": "STEP = 1",
            "new": "STEP = 2",
            "why": "So are they.",
        },
        {"name": "factor", "file": "aga_model/rows.py", "old": "factor=2", "new": "factor=3", "why": "So they are."},
        {"name": "width", "file": "aga_model/rows.py", "old": "width=5", "new": "width=6", "why": "Doors are wide."},
        {"name": "no_status", "file": "train_hf.py", "old": "sys.exit(main())", "new": "main()", "why": "It is lost."},
    ]
    files["benchmarks/mutants/numbers.yaml"] = json.dumps(entries)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    return tmp_path


def _run(project, *options):
    command = [sys.executable, "-m", "benchmarks", "mutants", "--root", project, *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)


@pytest.mark.timeout(120)
def test_faults_are_noticed_by_the_tests_that_execute_them(project):
    _run(project)
    faults = json.loads((project / "benchmarks/results/mutants.json").read_text())
    assert {
        name: (fault["status"], fault["by"].rpartition("::")[2], fault["tests"]) for name, fault in faults.items()
    } == {
        "limit_included": ("killed", "test_below", 1),
        "limit_of_four": ("killed", "test_below", 6),
        "trebled": ("killed", "test_doubled_in_a_process_of_its_own", 1),
        "quartered": ("survived", "", 1),
        "cubed_from_three": ("killed", "test_the_second_square", 2),
        "never_down": ("killed", "test_countdown", 1),
        "two_steps": ("killed", "test_stepped", 1),
        "factor": ("killed", "test_scaled", 1),
        "width": ("killed", "test_wide", 2),
        "no_status": ("killed", "test_the_script_ends_with_what_main_says", 1),
    }
    # A second run tries again what nothing noticed, if anything has changed, and keeps the rest.
    tests = project / "tests/test_elsewhere.py"
    tests.write_text(tests.read_text().replace("    pass", "    from aga_model.numbers import halved\n    halved(1)"))
    assert "1/1" in _run(project).stderr


def test_chosen_tests_are_run_in_the_place_of_those_that_execute_the_line(project):
    done = _run(project, "--only", "limit_included", "--tests", "tests/test_elsewhere.py::test_of_something_else")
    assert "survived: limit_included" in done.stdout
    assert not (project / "benchmarks/results/mutants.json").exists()
    assert (project / "aga_model/numbers.py").read_text() == CODE


def test_every_fault_of_the_lists_fits_the_code():
    faults = read_lists(ROOT / LISTS)
    assert len(faults) >= 200
    for fault in faults:
        fault.applied((ROOT / fault.file).read_text(encoding="utf-8"))
        assert len(fault.why.split()) > 3, fault.name


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("number", "x", "occurs 12 times in aga_model/numbers.py"),
        ("nothing", "x", "occurs 0 times"),
        ("LIMIT = 3", "LIMIT =", "would be no Python"),
        ("LIMIT = 3", "LIMIT = 3  # or four", "changes nothing"),
    ],
)
def test_a_fault_that_does_not_fit_is_refused(old, new, said):
    fault = Mutant("name", "aga_model/numbers.py", old, new, "why")
    with pytest.raises(ValueError, match=said):
        fault.applied(CODE)


def test_two_faults_of_one_name_are_refused(tmp_path):
    entry = {"name": "one", "file": "f", "old": "a", "new": "b", "why": "c"}
    (tmp_path / "a.yaml").write_text(json.dumps([entry]))
    (tmp_path / "b.yaml").write_text(json.dumps([entry]))
    with pytest.raises(ValueError, match="same name: one"):
        read_lists(tmp_path)
    (tmp_path / "b.yaml").write_text(json.dumps([{**entry, "wy": "c"}]))
    with pytest.raises(ValueError, match=r"b\.yaml, entry 1: .*wy"):
        read_lists(tmp_path)


@pytest.mark.parametrize(
    "old, new, lines",
    [
        ("a = 1\nb = 2\nc = 3", "a = 1\nb = 3\nc = 3", [2]),
        ("b = 2\n", "", [2]),
        ("a = 1\nb = 2", "a = 1\nx = 0\nb = 2", [1]),
    ],
)
def test_lines_that_a_fault_changes(old, new, lines):
    assert list(Mutant("name", "f", old, new, "why").changed_lines("a = 1\nb = 2\nc = 3\n")) == lines


def test_a_statement_is_found_by_any_of_its_lines():
    source = "def f(\n    a=1,\n):\n    if (\n        a\n    ):\n        return g(\n            a,\n        )\n"
    assert statement_lines(source, range(2, 3)) == {1, 2, 3}
    assert statement_lines(source, range(5, 6)) == {4, 5, 6}
    assert statement_lines(source, range(8, 9)) == {7, 8, 9}
