"""
The documentation as a site: every public name is in the reference with its docstring, links lead to where their files
are in the site, and no page asks another host for anything.
"""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

griffe = pytest.importorskip("griffe", reason="the extra `docs` is not installed")
pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "aga_model"


def _load(name):
    """A file of docs/_site, which is no package."""
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "docs" / "_site" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


docstrings, repository = _load("docstrings"), _load("repository")


def _public():
    """The full names that the stubs list, read without griffe."""
    names = set()
    for stub in PACKAGE.rglob("__init__.pyi"):
        module = ".".join(stub.parent.relative_to(REPOSITORY).parts)
        (listed,) = (
            ast.literal_eval(node.value)
            for node in ast.parse(stub.read_text(encoding="utf-8")).body
            if isinstance(node, ast.Assign)
        )
        names |= {f"{module}.{name}" for name in listed}
    return names


@pytest.fixture(scope="module")
def package():
    extensions = griffe.load_extensions(docstrings.Docstrings)
    loader = griffe.GriffeLoader(search_paths=[REPOSITORY], extensions=extensions)
    return loader.load("aga_model", try_relative_path=False)


def _rooms(package):
    """What the reference shows: module -> its tree."""
    return {name: package if name == "aga_model" else package[name[10:]] for name in docstrings.shown_modules()}


# --- the reference ------------------------------------------------------------------------------------------------


def test_every_public_name_is_in_the_reference_with_a_description(package):
    rooms = _rooms(package)
    shown = {place for room in rooms.values() for _, place in docstrings.places(room)}
    public = _public()
    assert len(public) > 200 and sorted(public - shown) == []
    assert {"aga_model.losses.sdm_loss", "aga_model.gallery.Gallery.search"} < shown
    titles = (REPOSITORY / "docs" / "reference" / "index.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in titles for name in rooms if name.count(".") == 1 and (PACKAGE / name[10:]).is_dir())


def test_names_in_docstrings_become_links_where_the_reference_has_them(package):
    shown = {place for room in _rooms(package).values() for _, place in docstrings.places(room)}
    linked = set()
    waiting = [package]
    while waiting:
        each = waiting.pop()
        waiting += [member for member in each.members.values() if not member.is_alias]
        if each.docstring is not None:
            linked |= set(re.findall(r"\[`[\w.]+`\]\[([\w.]+)\]", each.docstring.value))
            assert not re.search(r"\[`~?[\w.]+`\](?!\[)", each.docstring.value), each.path
    assert len(linked) > 30 and linked <= shown
    assert "[`require_token`][aga_model.service.require_token]" in package["service.guard.Guard"].docstring.value
    assert "`Rules.small_body`" in package["service.guard.Rules.may_be_large"].docstring.value  # no public name
    assert "aga_model.AgaModel.get_text_features" in linked  # a method, named without its class within it


def test_constants_are_described_by_their_comments(package):
    assert package["search.picture.COLUMNS"].docstring.value == "Images in a row of a picture."
    assert package["data.formats.FORMATS"].docstring.value.startswith("The benchmarks that can be read")


# --- links --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, origin, here, wanted",
    [
        ("[a](search.md#limits)", "docs/demo.md", "demo.md", "[a](search.md#limits)"),
        ("[a](../README.md#licence)", "docs/demo.md", "demo.md", "[a](repository/README.md#licence)"),
        ("[a](docs/demo.md)", "README.md", "repository/README.md", "[a](../demo.md)"),
        ("[a](#test)", "README.md", "index.md", "[a](repository/README.md#test)"),
        ("[a](#test)", "README.md", "repository/README.md", "[a](#test)"),
        ("![a](docs/demo.png)", "README.md", "index.md", "![a](demo.png)"),
        ("[a](LICENSE)", "README.md", "repository/README.md", "[a](LICENSE)"),
        ("[a](https://arxiv.org/abs/1)", "README.md", "index.md", "[a](https://arxiv.org/abs/1)"),
        ("[a](none.md)", "README.md", "index.md", "[a](none.md)"),  # of which mkdocs warns
        ("```\n[a](docs/demo.md)\n```", "README.md", "index.md", "```\n[a](docs/demo.md)\n```"),
    ],
)
def test_links_lead_to_where_files_are_in_the_site(text, origin, here, wanted):
    assert repository._relinked(text, origin, here) == wanted


# --- the pages ----------------------------------------------------------------------------------------------------


@pytest.mark.nightly
def test_the_site_is_built_without_a_warning_and_asks_no_other_host(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    run = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    pages = {page: page.read_text(encoding="utf-8") for page in (tmp_path / "site").rglob("*.html")}
    fetched = r"""<(?:script|img|iframe|link|source)\b[^>]*?(?:src|href)=["']?((?:https?:)?//[^"'> ]+)"""
    assert {page.name: found for page, text in pages.items() if (found := re.findall(fetched, text))} == {}
    for sheet in (tmp_path / "site").rglob("*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//|@import", sheet.read_text(encoding="utf-8")), sheet.name
    anchors = {anchor for text in pages.values() for anchor in re.findall(r'id="(aga_model[\w.]*)"', text)}
    assert sorted(_public() - anchors) == []
