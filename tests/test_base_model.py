"""The base model that the repository carries: it loads offline, searches, and is what its card says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from aga_model import AgaForPreTraining, AgaProcessor
from aga_model.cli.main import app
from aga_model.data import load_benchmark
from aga_model.data.rendered import render_dataset
from aga_model.evaluation import RetrievalEvaluator

FOLDER = Path(__file__).parents[1] / "checkpoints" / "aga-small-rendered"
LARGEST_MB = 12


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """People of `world=base` that the base model has not seen: another seed."""
    folder = tmp_path_factory.mktemp("people")
    render_dataset(
        folder, 62, 12345, world="base", val_identities=1, test_identities=60, height=128, width=64, processes=1
    )
    return folder


def test_its_code_is_that_of_the_package():
    """Whoever loads it without the package runs what this version's tests have seen."""
    copies = sorted(FOLDER.glob("*.py"))
    assert {"modeling_aga.py", "pretraining_aga.py", "retrieval_aga.py"} <= {copy.name for copy in copies}
    for copy in copies:
        assert copy.read_bytes() == (FOLDER.parents[1] / "aga_model" / copy.name).read_bytes(), copy.name


def test_files():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) < LARGEST_MB * 1e6
    assert [path.name for path in FOLDER.rglob("*") if path.suffix in (".safetensors", ".bin", ".pt", ".pth")] == [
        "model.safetensors"
    ]
    card = ModelCard.load(FOLDER / "README.md")
    assert "rendered-data" in card.data.tags
    assert {"## Prohibited use", "## Intended use", "## Consent and data licences"} <= set(card.text.splitlines())


def test_it_finds_people_that_it_has_not_seen(people):
    model, processor = AgaForPreTraining.from_pretrained(FOLDER), AgaProcessor.from_pretrained(FOLDER)
    metrics = RetrievalEvaluator(load_benchmark("cuhk-pedes", people)["test"], processor).evaluate(model.eval().aga)
    assert metrics["chance_rank1"] < 2
    assert metrics["rank1"] > 40


def test_search_works_at_once(people, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    runner = CliRunner()
    folder = people / "imgs" / "cam_a"
    gallery = str(tmp_path / "gallery")
    indexed = runner.invoke(app, ["index", str(folder), "--model", str(FOLDER), "--out", gallery])
    assert indexed.exit_code == 0, indexed.output
    picture = tmp_path / "result.png"
    searched = runner.invoke(
        app, ["search", gallery, "a woman in a long black coat", "--top-k", "3", "--save", str(picture)]
    )
    assert searched.exit_code == 0, searched.output
    assert picture.is_file()


def test_it_loads_without_this_package(tmp_path):
    code = (
        "import json, sys, torch\nfrom transformers import AutoModel, AutoProcessor\n"
        "folder = sys.argv[1]\nassert 'aga_model' not in sys.modules\n"
        "model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()\n"
        "processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)\n"
        "text = processor(text=['a man in a red jacket'], return_tensors='pt')\n"
        "print(json.dumps(model.get_text_features(**text).pooler_output[0, :4].tolist()))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    # An empty module in the place of the package: whatever imports it fails.
    (tmp_path / "aga_model.py").write_text("raise ImportError('the package is not to be used')\n")
    found = subprocess.run(
        [sys.executable, "-c", code, str(FOLDER)],
        env=environment | {"PYTHONPATH": str(tmp_path), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    model, processor = AgaForPreTraining.from_pretrained(FOLDER).eval(), AgaProcessor.from_pretrained(FOLDER)
    text = model.aga.get_text_features(**processor(text=["a man in a red jacket"], return_tensors="pt"))
    assert json.loads(found.stdout) == pytest.approx(text.pooler_output[0, :4].tolist(), abs=1e-6)
