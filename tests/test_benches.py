"""The benches as one command: the list of all, and one without the others."""

import ast
import subprocess
import sys

import pytest
from command_line import REPOSITORY, run_bench

from benchmarks import meters
from benchmarks.runner import ROOMS, benches, main

LONGEST = {"file": 500, "function": 60, "class": 300, "folder": 12}  # lines, and Python files


def test_the_list_names_every_bench_with_what_it_asks(capsys):
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, path in benches().items():
        first = path.read_text(encoding="utf-8").split("\n")[1]
        assert f"  {name:16} {first}" in lines and first.endswith((".", "?"))
    assert [line for line in lines if line in ROOMS] == list(ROOMS)


def test_the_list_is_there_before_anything_is_installed(tmp_path):
    """Without site-packages: no bench is imported."""
    run = subprocess.run([sys.executable, "-IS", "-c", f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); "
                          "from benchmarks.runner import main; main([])"],
                         cwd=tmp_path, capture_output=True, text=True)  # fmt: skip
    assert run.returncode == 0 and "training_kills" in run.stdout, run.stderr


@pytest.mark.parametrize("name", ["query_latency", "install_size"])
def test_a_bench_is_run_without_the_others(python, name):
    assert f"python -m benchmarks {name}" in run_bench(python, name, "--help").stdout
    program = (
        "import sys; from benchmarks.runner import benches, import_bench; "
        f"import_bench({name!r}); print(*(one for one, path in benches().items() "
        "if f'benchmarks.{path.parent.name}.{one}' in sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert run.stdout.split() == [name], run.stderr


def test_a_wrong_name_meets_the_nearest(capsys):
    assert main(["galery"]) == 2
    assert "did you mean 'gallery'?" in capsys.readouterr().err


def test_ways_take_turns_and_ratios_are_of_one_round():
    order, pace = [], iter(range(1, 100))

    def measure(way):
        order.append(way)
        return float(next(pace))

    found = meters.in_turns({"a": lambda: measure("a"), "b": lambda: measure("b")}, rounds=2, warm_up=1)
    assert order == ["a", "b"] * 3 and found == {"a": [3.0, 5.0], "b": [4.0, 6.0]}
    ratios = meters.paired_ratios(found["b"], found["a"])
    assert ratios == {"median": pytest.approx((4 / 3 + 6 / 5) / 2), "least": 6 / 5, "most": pytest.approx(4 / 3)}


def test_no_part_is_longer_than_one_reads():
    files = list((REPOSITORY / "benchmarks").rglob("*.py"))
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= LONGEST["file"], path
        assert sum(other.parent == path.parent for other in files) <= LONGEST["folder"], path.parent
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
                assert lines <= LONGEST["function"], f"{path}: {node.name}"
            elif isinstance(node, ast.ClassDef):
                assert node.end_lineno - node.lineno < LONGEST["class"], f"{path}: {node.name}"
