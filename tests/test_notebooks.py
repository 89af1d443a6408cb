"""
The notebooks, executed cell by cell in a folder of their own, and what comes out of them. A command behind `!` that
fails ends no notebook, so what the commands write is looked at. In the repository they hold no outputs.
"""

import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from document_commands import check, check_python
from PIL import Image

from aga_model.gallery import Gallery

REPOSITORY = Path(__file__).parents[1]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))


def cells(path, kind):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_holds_no_outputs(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4 and set(notebook["metadata"]) == {"kernelspec", "language_info"}
    for cell in cells(path, "code"):
        assert cell["outputs"] == [] and cell["execution_count"] is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_command_of_a_notebook_is_one_that_its_program_takes(path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    given = {"{PICTURES}": "people/imgs", "{MODEL}": "checkpoints/aga-small-rendered", "{DATA}": "my_pairs", "../": ""}
    found = 0
    for cell in cells(path, "code"):
        text = "".join(cell["source"]).replace("\\\n", " ")
        for name, value in given.items():
            text = text.replace(name, value)
        for command in re.findall(r"^!(.+)$", text, re.MULTILINE):
            check(shlex.split(command))
            found += 1
        check_python(re.sub(r"^!.*$", "", text, flags=re.MULTILINE))
    assert found >= 2


def executed(name, folder, monkeypatch, timeout):
    """The executed notebook; its working folder is beside the repository's files, as in a clone."""
    nbclient = pytest.importorskip("nbclient", reason="the notebooks are run by nbclient and ipykernel")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    for shared in ("aga_model", "checkpoints", "configs", "train_hf.py"):
        (folder / shared).symlink_to(REPOSITORY / shared)
    place = folder / "notebooks"
    place.mkdir()
    commands = folder / "bin"  # `aga` and `python` of this environment
    commands.mkdir()
    for command, module in (("aga", "-m aga_model"), ("python", "")):
        script = commands / command
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {module} "$@"\n')
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("AGA_TEXT_ENCODER", "0")  # tests/retrieval/test_text_encoder.py writes one
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    notebook = nbformat.read(shutil.copy(REPOSITORY / "notebooks" / name, place), as_version=4)
    resources = {"metadata": {"path": str(place)}}
    nbclient.NotebookClient(notebook, timeout=timeout, kernel_name="python3", resources=resources).execute()
    return notebook, place


def printed(notebook):
    """What the cells wrote, and the text of their values."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)


def test_your_pictures_are_searched(tmp_path, monkeypatch):
    notebook, place = executed("search_your_pictures.ipynb", tmp_path, monkeypatch, 120)
    said = printed(notebook)
    assert "32 images indexed" in said and Gallery.open(place / "my_gallery").count() == 32
    right, captions = re.search(r"(\d+)% of (\d+) captions", said).groups()
    assert int(captions) == 64 and int(right) >= 50  # a guess is right for one of twelve
    assert Image.open(place / "result.png").width > 600
    cameras = re.findall(r"'(cam_\w)'", said)
    assert cameras and set(cameras) <= {"cam_a", "cam_b"}
    pictures = [output for cell in notebook.cells for output in cell.get("outputs", ()) if "image/png" in str(output)]
    assert len(pictures) >= 2  # the result and the explanation are shown


@pytest.mark.nightly
def test_your_pairs_are_trained_on(tmp_path, monkeypatch):
    notebook, place = executed("train_on_your_pairs.ipynb", tmp_path, monkeypatch, 400)
    found = [json.loads((place / name / "metrics.json").read_text())["text_to_image"] for name in ("before", "after")]
    run = json.loads((place / "my_run" / "metrics.json").read_text())
    assert [part["queries"] for part in found] == [run["n_queries"]] * 2 and run["n_queries"] > 100
    before, after = (part["metrics"] for part in found)
    # The run measured the same model by itself, and it is another one than the first.
    assert after["rank1"] == pytest.approx(run["rank1"], abs=0.5) and after["mAP"] != before["mAP"]
    assert after["rank1"] > 10 * after["chance_rank1"]
    persons = {row.person_id for row in Gallery.open(place / "my_gallery").rows()}
    assert len(persons) == 40 and "Traceback" not in printed(notebook)
