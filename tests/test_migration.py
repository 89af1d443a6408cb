"""docs/migration.md says what `aga_model.moved` does, and old paths lead where it says."""

import importlib
import importlib.util
import re
from pathlib import Path

import pytest

from aga_model.moved import MOVED, RENAMED

REPOSITORY = Path(__file__).parents[1]
TEXT = (REPOSITORY / "docs" / "migration.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `aga_model\.([\w.]+)` \| (.+) \|$", TEXT, re.MULTILINE))


def test_the_page_has_every_old_path_with_its_new_ones():
    modules = {old: tuple(re.findall(r"`aga_model\.([\w.]+)`", new)) for old, new in ROWS.items()}
    names = {f"{module}.{old}" for module, old in RENAMED}
    assert {old: new for old, new in modules.items() if old not in names} == MOVED
    assert names <= modules.keys()


def test_the_page_is_as_the_program_writes_it(tmp_path):
    path = REPOSITORY / "docs" / "_site" / "migration.py"
    spec = importlib.util.spec_from_file_location("migration", path)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    assert program.page() == TEXT, "write it again: python docs/_site/migration.py --write"


@pytest.mark.parametrize("module, old", RENAMED)
def test_a_name_that_changed_is_found_where_the_page_says(module, old):
    (new,) = re.findall(r"`([\w.]+)`", ROWS[f"{module}.{old}"])
    holder, _, name = new.rpartition(".")
    with pytest.warns(DeprecationWarning, match=f"import {name} from {holder}"):
        found = getattr(importlib.import_module(f"aga_model.{module}"), old)
    assert found is getattr(importlib.import_module(holder), name)


@pytest.mark.parametrize("old", [old for old, new in MOVED.items() if new])
def test_a_name_of_every_old_path_is_found_in_a_new_one(old):
    module = importlib.import_module(f"aga_model.{MOVED[old][0]}")
    name = next(name for name in getattr(module, "__all__", vars(module)) if not name.startswith("__"))
    with pytest.warns(DeprecationWarning, match=f"aga_model.{old} has moved"):
        assert getattr(importlib.import_module(f"aga_model.{old}"), name) is getattr(module, name)
