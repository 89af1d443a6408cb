"""What starts light: the import, help and errors of the command line; and that the models are known all the same."""

import ast
import importlib
import inspect
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import typer.main

import aga_model
from aga_model.moved import MOVED, RENAMED

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "checkpoints" / "aga-small-rendered"
HEAVY = ["torch", "transformers", "datasets", "numpy", "PIL", "lancedb", "gradio", "huggingface_hub"]


def run(code, *arguments):
    """What a fresh process prints last, as a Python value."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return ast.literal_eval(done.stdout.strip().splitlines()[-1])


def test_the_import_brings_none_of_the_large_libraries():
    assert run(f"import sys, aga_model; print([name for name in {HEAVY} if name in sys.modules])") == []


COMMAND = f"""
import sys
from aga_model.cli.main import app
try:
    app(sys.argv[1:])
except SystemExit as end:
    code = end.code
print((code, [name for name in {HEAVY} if name in sys.modules]))
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        *(([command.name or "", "--help"], 0) for command in typer.main.get_command(
            importlib.import_module("aga_model.cli.main").app).commands.values()),
        (["gallery", "delete", "--help"], 0),
        (["search", "gallery", "a man", "--no-such-option"], 2),
        (["index", "people", "--every", "soon"], 2),
        (["no-such-command"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_help_and_errors_of_the_command_line_need_none_of_them(arguments, code):
    assert run(COMMAND, *arguments) == (code, [])


def commands():
    """(declaration, function that does the work) of every command."""
    found = []
    for module in ("datasets.commands", "models.commands", "galleries.commands", "galleries.gallery_commands"):
        for declared in vars(importlib.import_module(f"aga_model.cli.{module}")).values():
            if inspect.isfunction(declared) and hasattr(declared, "__wrapped__"):
                found.append(declared)
    return found


@pytest.mark.parametrize("declared", commands(), ids=lambda declared: declared.__name__)
def test_what_does_the_work_takes_what_the_command_declares(declared):
    module = declared.__closure__ and inspect.getclosurevars(declared).nonlocals["module"]
    work = getattr(importlib.import_module(module), declared.__name__)
    assert list(inspect.signature(work).parameters) == list(inspect.signature(declared).parameters)


LOADS = """
{first}
{second}
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoProcessor
import aga_model.modeling_aga, aga_model.processing_aga, aga_model.configuration_aga
folder = {folder!r}
got = [type(each.from_pretrained(folder)) for each in (AutoConfig, AutoModel, AutoModelForPreTraining, AutoProcessor)]
from aga_model import AgaConfig, AgaForPreTraining, AgaModel, AgaProcessor
print(got == [AgaConfig, AgaModel, AgaForPreTraining, AgaProcessor])
"""


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("import aga_model", ""),
        ("import aga_model", "from transformers import AutoModel"),
        ("from transformers import AutoModel, AutoProcessor", "import aga_model"),
        ("from aga_model import AgaModel", ""),
        ("import transformers", "from aga_model import AgaProcessor"),
        ("import aga_model.towers", ""),
        ("import aga_model.processing_aga", ""),
        ("from aga_model.gallery import Filter", ""),
    ],
)
def test_the_auto_classes_know_the_models_whichever_is_imported_first(first, second):
    assert run(LOADS.format(first=first, second=second, folder=str(MODEL))) is True


def test_several_threads_load_them():
    """The first import of transformers in several threads at a time is not safe, also without this package."""
    code = f"""
import aga_model
from concurrent.futures import ThreadPoolExecutor
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoProcessor
with ThreadPoolExecutor(4) as pool:
    loads = [each.from_pretrained for each in (AutoModel, AutoProcessor, AutoConfig, AutoModelForPreTraining)]
    print([type(found).__name__ for found in pool.map(lambda load: load({str(MODEL)!r}), loads)])
"""
    assert run(code) == ["AgaModel", "AgaProcessor", "AgaConfig", "AgaForPreTraining"]


def test_modules_keep_their_own_loaders():
    """What inspect and importlib.resources ask for is the loader of the file."""
    code = """
import aga_model, inspect
from importlib.resources import files
from transformers.models.auto import modeling_auto
print(("class AutoModel" in inspect.getsource(modeling_auto), type(modeling_auto.__spec__.loader).__name__,
       files("aga_model.evaluation").joinpath("report.html.j2").is_file()))
"""
    assert run(code) == (True, "SourceFileLoader", True)


def test_every_public_name_is_there():
    assert "AgaModel" in dir(aga_model) and "AgaForImageTextRetrieval" in aga_model.__all__
    for room in ("files", "gallery", "ingest", "search", "service", "data", "evaluation", "training", "conversion"):
        module = importlib.import_module(f"aga_model.{room}")
        for name in module.__all__:
            assert getattr(module, name) is not None, f"{room}.{name}"
    with pytest.raises(AttributeError, match="no_such_name"):
        aga_model.no_such_name  # noqa: B018


# What the rooms exported before they were divided, with where it is now.
OLD_NAMES = json.loads((ROOT / "tests" / "fixtures" / "old_import_paths.json").read_text())


@pytest.mark.parametrize("old", sorted(OLD_NAMES))
def test_an_old_path_gives_the_same_thing_and_names_the_new_path(old):
    for name in OLD_NAMES[old]:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = getattr(importlib.import_module(f"aga_model.{old}"), name)
        messages = [str(each.message) for each in told if issubclass(each.category, DeprecationWarning)]
        assert len(messages) == 1, (name, messages)
        assert told[0].filename == __file__  # the line that is to be changed
        *_, now, _, module = messages[0].split(";")[0].split()
        assert getattr(importlib.import_module(module), now) is found


def test_every_old_path_was_looked_at():
    assert set(OLD_NAMES) == {old for old, new in MOVED.items() if new}
    assert {name for _, name in RENAMED} <= {name for names in OLD_NAMES.values() for name in names}


def test_an_old_path_has_no_other_names():
    with pytest.raises(ImportError, match="no_such_name"):
        exec("from aga_model.retrieval.store import no_such_name")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("aga_model.retrieval.no_such_module")


def test_completion_is_offered(tmp_path):
    environment = os.environ | {"_AGA_COMPLETE": "complete_bash", "COMP_WORDS": "aga se", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", "from aga_model.cli.main import app; app(prog_name='aga')"],
        env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.split() == ["search", "serve"]
