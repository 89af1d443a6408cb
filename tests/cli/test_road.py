"""The quickstart's commands in small, through the command line as a newcomer types them."""

import base64
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from aga_model.cli.main import app
from aga_model.files import FaceHider
from aga_model.gallery import Gallery, GallerySettings
from aga_model.training.run import main

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """Rendered data, a run of a few steps with the quickstart's file, and a gallery of its test images."""
    folder = tmp_path_factory.mktemp("road")
    data, run, gallery = folder / "data", folder / "run", folder / "gallery"
    arguments = "--identities 16 --seed 0 --val-identities 3 --test-identities 4 --height 64 --width 32"
    result = CliRunner().invoke(app, ["render", str(data), *arguments.split()])
    assert result.exit_code == 0, result.output
    settings = [
        "--max_steps",
        "4",
        "--warmup_steps",
        "1",
        "--eval_steps",
        "2",
        "--save_steps",
        "2",
        "--logging_steps",
        "1",
    ]
    quickstart = REPOSITORY / "configs" / "quickstart.yaml"
    sizes = ["--per_device_train_batch_size", "8", "--data_root", str(data), "--output_dir", str(run)]
    assert main([str(quickstart), *settings, *sizes]) == 0
    index = ["index", str(data), "--split", "test", "--model", str(run / "model"), "--out", str(gallery)]
    result = CliRunner().invoke(app, index)
    assert result.exit_code == 0, result.output
    return {"data": data, "run": run, "gallery": gallery}


def test_the_gallery_holds_the_test_images(road):
    records = json.loads((road["data"] / "reid_raw.json").read_text())
    wanted = {str(road["data"] / "imgs" / r["file_path"]) for r in records if r["split"] == "test"}
    result = CliRunner().invoke(app, ["search", str(road["gallery"]), "a red coat", "--top-k", "99", "--json"])
    assert result.exit_code == 0, result.output
    hits = json.loads(result.stdout)["hits"]
    assert {hit["path"] for hit in hits} == wanted


def test_the_report_shows_everything(road):
    command = ["report", str(road["run"]), "--gallery", str(road["gallery"])]
    result = CliRunner().invoke(app, [*command, "--query", "a man <b>in red</b>", "--query", "a dress"])
    assert result.exit_code == 0, result.output
    page = (road["run"] / "report.html").read_text(encoding="utf-8")
    metrics = json.loads((road["run"] / "metrics.json").read_text())
    assert f"{metrics['rank1']:.1f}" in page and f"{metrics['chance_rank1']:.2f}" in page
    assert page.count('class="token"') > 30 and "<ins>" in page
    assert "a man &lt;b&gt;in red&lt;/b&gt;" in page and "<b>in red" not in page
    assert "rendered drawings" in page
    assert not re.search(r'(src|href)="(?!data:)', page), "the page must not need other files"
    share = metrics["masked_attribute_share"]
    assert 0 < share["random"] < 100 and 0 < share["attention"] < 100
    assert f"AGM {share['attention']:.0f}%" in result.output


@pytest.mark.parametrize("by_setting", [True, False])
def test_the_report_hides_faces_and_is_recorded(road, tmp_path, monkeypatch, by_setting):
    """Each image of a person, of searches and of captions, is the hidden one, here a single colour."""
    pytest.importorskip("cv2", reason="the extra `search` is not installed")
    colour, log = (255, 0, 255), tmp_path / "audit.jsonl"
    monkeypatch.setattr(FaceHider, "hide", lambda self, image: Image.new("RGB", image.size, colour))
    options = ["--hide-faces", "--audit", str(log), "--purpose", "a test"]
    if by_setting:
        settings = GallerySettings(audit=str(log), purpose_required=True, hide_faces=True)
        monkeypatch.setattr(Gallery, "settings", settings)
        options = ["--purpose", "a test"]
    command = ["report", str(road["run"]), "--gallery", str(road["gallery"]), "--query", "a coat", "--top-k", "2"]
    result = CliRunner().invoke(app, [*command, *options])
    assert result.exit_code == 0, result.output
    page = (road["run"] / "report.html").read_text(encoding="utf-8")
    pictures = [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r"base64,([^\"]+)", page)]
    hidden = [int((np.asarray(one.convert("RGB")) == colour).all(axis=2).sum()) for one in pictures]
    persons = [count for count, one in zip(hidden, pictures) if count == one.width * one.height]
    assert len(persons) == 12  # beside captions, twice each
    assert sorted(hidden)[0] == 0  # the curves
    assert max(hidden) == 2 * 150 * 300  # two results, 32x64 each, scaled into their tiles
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["action"], line["purpose"], line["results"]) for line in lines] == [
        ("search", "a test", 2),
        ("export", "a test", 2),
    ]


def test_a_report_needs_a_finished_run(road, tmp_path):
    result = CliRunner().invoke(app, ["report", str(tmp_path), "--gallery", str(road["gallery"]), "--query", "x"])
    assert result.exit_code == 2 and "run.json" in result.output


def test_index_names_an_unknown_split(road, tmp_path):
    arguments = [str(road["data"]), "--split", "query", "--model", str(road["run"] / "model"), "--out", str(tmp_path)]
    result = CliRunner().invoke(app, ["index", *arguments])
    assert result.exit_code == 2 and "train, val, test" in result.output


def test_the_quickstart_trains_with_agm_and_tem():
    settings = yaml.safe_load((REPOSITORY / "configs" / "quickstart.yaml").read_text())
    objective = settings["model_config"]["objective_config"]
    assert objective["mask_strategy"] == "attention" and objective["enrichment"] in ("replace", "add")


WITHOUT_EXTRAS = """
import sys
extras = "accelerate datasets evaluate matplotlib lancedb pyarrow cv2 pymilvus gradio onnx"
sys.modules |= dict.fromkeys(extras.split())
from aga_model.cli.main import app
app()
"""


def test_aga_is_a_command_that_starts_without_the_libraries_of_the_extras():
    run = subprocess.run([sys.executable, "-c", WITHOUT_EXTRAS, "--help"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    for command in ("render", "index", "search", "report"):
        assert command in run.stdout
