import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from transformers import AutoModel, AutoProcessor
from typer.testing import CliRunner

from aga_model.cli.index import index
from aga_model.cli.search import search
from aga_model.retrieval import Gallery, PersonEncoder, indexing, read_image

STREET_CROPS = Path(__file__).parents[3] / "shared/fixtures/street_crops"

app = typer.Typer()
app.command()(index)
app.command()(search)


def aga(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def fails(*arguments):
    """The one line that a failing command prints."""
    result = aga(*arguments, code=2)
    lines = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and result.stderr.rstrip().endswith(lines[0]) and "Traceback" not in result.output
    assert result.stdout == ""
    return lines[0]


@pytest.fixture
def gallery(image_folder, model_folder, tmp_path):
    aga("index", image_folder, "--model", model_folder, "--out", tmp_path / "gallery", "--batch-size", 3)
    return tmp_path / "gallery"


def found(gallery, *arguments):
    return json.loads(aga("search", gallery, "a man in a red coat", "--json", *arguments).stdout)


def test_index_holds_what_the_model_says(gallery, image_folder, model_folder):
    model, processor = AutoModel.from_pretrained(model_folder).eval(), AutoProcessor.from_pretrained(model_folder)
    opened = Gallery.open(gallery)
    names = [Path(row["path"]).relative_to(image_folder).as_posix() for row in opened.rows]
    assert names == sorted(
        ["a.jpg", "b.png", "c.webp", "d.bmp", "[red]e.jpg", "camera 2/f.jpg", "camera 2/照片.png"],
        key=lambda name: image_folder / name,
    )
    for row, embedding in zip(opened.rows, opened.embeddings):
        assert (row["width"], row["height"]) == (20, 40)
        pixels = processor(images=[read_image(row["path"])], return_tensors="pt")["pixel_values"]
        feature = model.get_image_features(pixels).pooler_output[0].detach().numpy()
        assert np.allclose(embedding, feature / np.linalg.norm(feature), atol=1e-5)


def test_index_reports_every_skipped_file(image_folder, model_folder, tmp_path):
    for number in range(30):
        (image_folder / f"broken{number:02}.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    result = aga("index", image_folder, "--model", model_folder, "--out", tmp_path / "gallery")
    assert "7 images indexed (7 new, 0 changed), 0 unchanged, 32 files skipped" in result.stdout
    assert re.search(r"[\d.]+ images/s", result.stdout)
    assert result.stdout.count("  skipped ") == 20
    assert "and 12 more" in result.stdout
    skipped = json.loads((tmp_path / "gallery" / "skipped.json").read_text())
    assert len(skipped) == 32
    assert {"path": str(image_folder / "notes.txt"), "reason": "not an image"} in skipped
    assert "broken29.jpg" in skipped[-3]["path"] and "damaged" in skipped[-3]["reason"]


def test_index_again_adds_new_and_changed_files_only(gallery, image_folder, model_folder, monkeypatch):
    before = Gallery.open(gallery)
    Image.new("RGB", (20, 40), "red").save(image_folder / "b.png")
    Image.new("RGB", (20, 40), "blue").save(image_folder / "new.png")
    (image_folder / "c.webp").write_bytes((image_folder / "c.webp").read_bytes()[:50])
    result = aga("index", image_folder, "--model", model_folder, "--out", gallery)
    assert "adding to the gallery" in result.stderr
    assert "2 images indexed (1 new, 1 changed), 5 unchanged, 3 files skipped" in result.stdout
    assert "1 images removed" in result.stdout
    after = Gallery.open(gallery)
    names = [Path(row["path"]).name for row in after.rows]
    assert sorted(names) == sorted(["a.jpg", "b.png", "d.bmp", "[red]e.jpg", "f.jpg", "照片.png", "new.png"])
    encoder = PersonEncoder.from_pretrained(model_folder)
    for row, embedding in zip(after.rows, after.embeddings):
        assert np.allclose(embedding, encoder.encode_images([read_image(row["path"])])[0], atol=1e-5)
    assert before.count() == after.count() == 7
    again = aga("index", image_folder, "--model", model_folder, "--out", gallery)
    assert "0 images indexed (0 new, 0 changed), 7 unchanged" in again.stdout


def test_gallery_among_the_images(image_folder, model_folder):
    out = image_folder / "gallery"
    for _ in range(2):
        result = aga("index", image_folder, "--model", model_folder, "--out", out)
        assert "2 files skipped" in result.stdout
    assert Gallery.open(out).count() == 7


def test_index_that_is_interrupted_goes_on_where_it_was(image_folder, model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(indexing, "SAVE_EVERY", 2)
    encode = PersonEncoder.encode_pixels
    calls = []

    def interrupted(self, pixel_values):
        calls.append(len(pixel_values))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(self, pixel_values)

    arguments = ("index", image_folder, "--model", model_folder, "--out", tmp_path / "gallery", "--batch-size", 2)
    with monkeypatch.context() as patch:
        patch.setattr(PersonEncoder, "encode_pixels", interrupted)
        CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert Gallery.open(tmp_path / "gallery").count() == 4
    assert "3 new, 0 changed), 4 unchanged" in aga(*arguments).stdout


def test_index_errors_leave_nothing(tmp_path, model_folder, image_folder):
    out = tmp_path / "gallery"
    (tmp_path / "empty").mkdir()
    (tmp_path / "unreadable").mkdir()
    (tmp_path / "unreadable" / "a.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.jpg").write_text("text")
    model = ("--model", model_folder, "--out", out)
    assert "does not exist" in fails("index", tmp_path / "missing", *model)
    assert "no image in" in fails("index", tmp_path / "empty", *model)
    assert "not an image" in fails("index", tmp_path / "texts", *model)
    assert "none of the 1 image files could be read" in fails("index", tmp_path / "unreadable", *model)
    assert "does not exist" in fails("index", image_folder, "--model", tmp_path / "no_model", "--out", out)
    assert "config.json" in fails("index", image_folder, "--model", image_folder, "--out", out)
    assert "cannot be used" in fails("index", image_folder, *model, "--device", "abacus")
    assert not out.exists()
    aga("index", image_folder, *model, "--batch-size", 0, code=2)
    assert "other files" in fails("index", image_folder, "--model", model_folder, "--out", tmp_path)


def test_other_model_needs_overwrite(gallery, image_folder, model_folder, other_model_folder):
    message = fails("index", image_folder, "--model", other_model_folder, "--out", gallery)
    assert str(model_folder) in message and str(other_model_folder) in message
    assert Gallery.open(gallery).model_name == str(model_folder)
    aga("index", image_folder, "--model", other_model_folder, "--out", gallery, "--overwrite")
    assert Gallery.open(gallery).model_name == str(other_model_folder)
    assert Gallery.open(gallery).count() == 7


def test_damaged_gallery_says_how_to_go_on(gallery, image_folder, model_folder):
    (gallery / "rows-1.jsonl").unlink()
    arguments = ("index", image_folder, "--model", model_folder, "--out", gallery)
    assert "rows-1.jsonl" in fails(*arguments) and "--overwrite" in fails(*arguments)
    assert "rows-1.jsonl" in fails("search", gallery, "a man")
    aga(*arguments, "--overwrite")
    assert found(gallery)["gallery_count"] == 7


def test_search_ranks_by_cosine(gallery, model_folder):
    result = found(gallery, "--top-k", 5)
    opened = Gallery.open(gallery)
    scores = opened.embeddings @ PersonEncoder.from_pretrained(model_folder).encode_texts(["a man in a red coat"])[0]
    order = np.argsort(-scores)[:5]
    assert [hit["path"] for hit in result["hits"]] == [opened.rows[row]["path"] for row in order]
    assert np.allclose([hit["score"] for hit in result["hits"]], scores[order], atol=1e-6)
    assert [hit["rank"] for hit in result["hits"]] == [1, 2, 3, 4, 5]
    assert result["notes"] == []


def test_search_table_shows_whole_names(gallery):
    result = aga("search", gallery, "a man", "--top-k", 20)
    squeezed = re.sub(r"[\s│|]", "", result.stdout)
    assert "照片.png" in squeezed and "[red]e.jpg" in squeezed
    assert "--top-k is 20, but the gallery holds 7 images" in result.stderr


def test_search_writes_a_picture_and_json_stays_json(gallery, tmp_path):
    result = found(gallery, "--save", tmp_path / "result.png", "--top-k", 8)
    assert Image.open(tmp_path / "result.png").size[0] > 500
    assert len(result["hits"]) == 7 and len(result["notes"]) == 2


def test_long_query_is_noted(gallery):
    assert "tokens long" in aga("search", gallery, "word " * 50).stderr


def test_search_errors(gallery, tmp_path, other_model_folder):
    assert "empty" in fails("search", gallery, "  ")
    assert "no word" in fails("search", gallery, "...", "--json")
    assert "holds no gallery" in fails("search", tmp_path, "a man")
    assert "holds no gallery" in fails("search", tmp_path / "missing", "a man")
    assert "was made with model" in fails("search", gallery, "a man", "--model", other_model_folder)
    assert "does not exist" in fails("search", gallery, "a man", "--model", tmp_path / "no_model")
    assert "result.png" in fails("search", gallery, "a man", "--save", tmp_path / "result.txt")
    aga("search", gallery, "a man", "--top-k", 0, code=2)


def test_model_that_has_moved(image_folder, model_folder, tmp_path):
    first, moved, gallery = tmp_path / "first", tmp_path / "moved", tmp_path / "gallery"
    shutil.copytree(model_folder, first)
    aga("index", image_folder, "--model", first, "--out", gallery)
    first.rename(moved)
    assert "give --model if it has moved" in fails("search", gallery, "a man")
    assert found(gallery, "--model", moved)["gallery_count"] == 7


def test_model_of_rendered_drawings_is_noted(image_folder, model_folder, tmp_path):
    model = shutil.copytree(model_folder, tmp_path / "model")
    (model / "README.md").write_text("---\ntags: [rendered-data]\n---\n")
    note = "has only seen rendered drawings: expect mistakes on photographs"
    assert note in aga("index", image_folder, "--model", model, "--out", tmp_path / "gallery").stderr
    assert note in aga("search", tmp_path / "gallery", "a man").stderr
    assert note in found(tmp_path / "gallery")["notes"][0]


@pytest.mark.skipif(not STREET_CROPS.is_dir(), reason="the street crops are not here")
def test_photographs(model_folder, tmp_path):
    result = aga("index", STREET_CROPS, "--model", model_folder, "--out", tmp_path / "gallery")
    assert "51 images indexed" in result.stdout and " 0 files skipped" in result.stdout
    result = aga("search", tmp_path / "gallery", "a man", "--save", tmp_path / "result.png", "--json")
    assert len(json.loads(result.stdout)["hits"]) == 10
