import csv
import errno
import hashlib
import json
import os
import re
import shutil
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from command_line import aga
from PIL import Image
from transformers import AutoModel, AutoProcessor
from typer.testing import CliRunner

from aga_model.cli.galleries import index as index_module
from aga_model.cli.main import app
from aga_model.files import read_image
from aga_model.gallery import Gallery
from aga_model.gallery.lance.store import LanceStore
from aga_model.ingest import pipeline
from aga_model.search import PersonEncoder

STREET_CROPS = Path(__file__).parents[3] / "shared/fixtures/street_crops"


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


NAMES = ["a.jpg", "b.png", "c.webp", "d.bmp", "[red]e.jpg", "camera 2/f.jpg", "camera 2/照片.png"]


def held(gallery):
    """Rows of a gallery by path, with their embeddings."""
    opened = Gallery.open(gallery)
    embeddings = {row_id: row for ids, rows in opened.embeddings() for row_id, row in zip(ids, rows)}
    return {Path(row.path): (row, embeddings[row.id]) for row in opened.rows()}


def test_index_holds_what_the_model_says(gallery, image_folder, model_folder):
    model, processor = AutoModel.from_pretrained(model_folder).eval(), AutoProcessor.from_pretrained(model_folder)
    found = held(gallery)
    assert set(found) == {image_folder / name for name in NAMES}
    for path, (row, embedding) in found.items():
        assert (row.width, row.height) == (20, 40) and row.source == row.path
        assert row.source_hash == hashlib.sha256(path.read_bytes()).hexdigest()
        assert row.camera is row.person_id is row.time is row.frame is row.box is None
        pixels = processor(images=[read_image(path)], return_tensors="pt")["pixel_values"]
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
    before = Gallery.open(gallery).count()
    Image.new("RGB", (20, 40), "red").save(image_folder / "b.png")
    Image.new("RGB", (20, 40), "blue").save(image_folder / "new.png")
    (image_folder / "c.webp").write_bytes((image_folder / "c.webp").read_bytes()[:50])
    result = aga("index", image_folder, "--model", model_folder, "--out", gallery)
    assert "adding to the gallery" in result.stderr
    assert "2 images indexed (1 new, 1 changed), 5 unchanged, 3 files skipped" in result.stdout
    assert "1 images removed" in result.stdout
    after = held(gallery)
    assert {path.name for path in after} == {"a.jpg", "b.png", "d.bmp", "[red]e.jpg", "f.jpg", "照片.png", "new.png"}
    encoder = PersonEncoder.from_pretrained(model_folder)
    for path, (_, embedding) in after.items():
        assert np.allclose(embedding, encoder.encode_images([read_image(path)])[0], atol=1e-5)
    assert before == len(after) == 7
    again = aga("index", image_folder, "--model", model_folder, "--out", gallery)
    assert "0 images indexed (0 new, 0 changed), 7 unchanged" in again.stdout


def test_gallery_among_the_images(image_folder, model_folder):
    out = image_folder / "gallery"
    for _ in range(2):
        result = aga("index", image_folder, "--model", model_folder, "--out", out)
        assert "2 files skipped" in result.stdout
    assert Gallery.open(out).count() == 7


def test_index_that_is_interrupted_goes_on_where_it_was(image_folder, model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "WRITE_EVERY", 2)
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
    assert "no image and no video in" in fails("index", tmp_path / "empty", *model)
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
    for file in (gallery / "images-1.lance" / "data").iterdir():
        file.unlink()
    arguments = ("index", image_folder, "--model", model_folder, "--out", gallery)
    assert "images-1.lance" in fails(*arguments) and "--overwrite" in fails(*arguments)
    assert "images-1.lance" in fails("search", gallery, "a man")
    aga(*arguments, "--overwrite")
    assert found(gallery)["gallery_count"] == 7


def test_search_ranks_by_cosine(gallery, model_folder):
    result = found(gallery, "--top-k", 5)
    rows = list(held(gallery).values())
    query = PersonEncoder.from_pretrained(model_folder).encode_texts(["a man in a red coat"])[0]
    scores = np.stack([embedding for _, embedding in rows]) @ query
    order = np.argsort(-scores)[:5]
    assert [hit["path"] for hit in result["hits"]] == [rows[index][0].path for index in order]
    assert result["hits"][0] == {"rank": 1, "score": result["hits"][0]["score"], **rows[order[0]][0].to_dict()}
    assert np.allclose([hit["score"] for hit in result["hits"]], scores[order], atol=1e-6)
    assert [hit["rank"] for hit in result["hits"]] == [1, 2, 3, 4, 5]
    assert result["notes"] == []


def test_search_table_shows_whole_names(gallery):
    result = aga("search", gallery, "a man", "--top-k", 20)
    squeezed = re.sub(r"[\s│|]", "", result.stdout)
    assert "照片.png" in squeezed and "[red]e.jpg" in squeezed
    assert "20 results wanted, but the gallery holds 7 images" in result.stderr


def test_search_writes_a_picture_and_json_stays_json(gallery, tmp_path):
    result = found(gallery, "--save", tmp_path / "result.png", "--top-k", 8)
    assert Image.open(tmp_path / "result.png").size[0] > 500
    assert len(result["hits"]) == 7 and len(result["notes"]) == 2


def test_a_query_of_ten_thousand_words_is_answered_and_says_what_was_read(gallery, tmp_path):
    query = "a man in a red coat " * 1700
    page, picture = tmp_path / "a.html", tmp_path / "a.png"
    result = aga("search", gallery, query, "--save", picture, "--json")
    answer = json.loads(result.stdout)
    assert len(answer["hits"]) == 7 and "tokens long and the model reads 32" in " ".join(answer["notes"])
    assert "note: the query is" in result.stderr and len(result.stderr) < 2000
    assert Image.open(picture).height < 2000
    aga("search", gallery, query, "--save", page)
    assert page.read_text().count("data:image/jpeg") == 7 and page.stat().st_size < 1e6


def test_a_query_in_a_writing_that_the_model_does_not_know_is_answered_with_a_note(gallery):
    result = aga("search", gallery, "穿红色外套的女人", "--top-k", 7)
    assert "vocabulary lacks 8 of the 8 letters of '穿红色外套的女人'" in result.stderr
    assert all(f"{rank} " in result.stdout for rank in range(1, 8))
    assert "vocabulary" not in aga("search", gallery, "a woman in a red coat").stderr


def test_more_results_than_there_are_images(gallery, monkeypatch):
    for top_k in (8, 10**9, 2**40):
        answer = found(gallery, "--top-k", top_k)
        assert len(answer["hits"]) == 7 and f"{top_k} results wanted, but the gallery holds 7" in answer["notes"][0]


def test_search_errors(gallery, tmp_path, other_model_folder):
    assert "empty" in fails("search", gallery, "  ")
    assert "no word" in fails("search", gallery, "...", "--json")
    assert "holds no gallery" in fails("search", tmp_path, "a man")
    assert "holds no gallery" in fails("search", tmp_path / "missing", "a man")
    assert "was made with model" in fails("search", gallery, "a man", "--model", other_model_folder)
    assert "does not exist" in fails("search", gallery, "a man", "--model", tmp_path / "no_model")
    assert "result.png" in fails("search", gallery, "a man", "--save", tmp_path / "result.txt")
    for number in (0, -1, "many"):
        assert "--top-k" in aga("search", gallery, "a man", "--top-k", number, code=2).stderr


@pytest.mark.parametrize(
    ("option", "name"),
    [
        *(("--save", f"result.{suffix}") for suffix in ("png", "jpg", "html", "csv")),
        *(("--explain", f"why.{suffix}") for suffix in ("png", "jpg")),
    ],
)
def test_results_that_cannot_be_written_are_named_and_leave_nothing(
    gallery, tmp_path, monkeypatch, device, option, name
):
    results = tmp_path / "results"
    (results / "folder" / name).mkdir(parents=True)
    search = ("search", gallery, "a man", option)
    missing = tmp_path / "missing" / name
    assert f"{missing} cannot be written: there is no folder" in fails(*search, missing)
    assert f"{results / 'folder' / name} cannot be written: it is a folder" in fails(
        *search, results / "folder" / name
    )
    if os.path.exists("/dev/full"):
        (results / name).symlink_to(device("full"))
        assert f"{results / name} cannot be written: the disk is full" in fails(*search, results / name)
        (results / name).unlink()

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    (results / name).write_text("the last one")
    assert "the disk is full" in fails(*search, results / name)
    assert (results / name).read_text() == "the last one"
    assert sorted(path.name for path in results.iterdir()) == ["folder", name]


def test_a_write_protected_gallery_is_searched_and_not_added_to(
    gallery, image_folder, model_folder, tmp_path, monkeypatch
):
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != gallery and access(path, mode))
    with monkeypatch.context() as patch:
        patch.setattr(PersonEncoder, "from_pretrained", None)  # said before the model is loaded
        message = fails("index", image_folder, "--model", model_folder, "--out", gallery)
    assert f"gallery {gallery} is write-protected" in message and "Errno" not in message
    assert len(found(gallery)["hits"]) == 7


def test_file_names_that_are_no_utf8_come_back(image_folder, model_folder, tmp_path):
    folder = tmp_path / "old disk"
    folder.mkdir()
    try:
        shutil.copy(image_folder / "a.jpg", os.fsencode(folder) + b"/Stra\xdfe.jpg")
    except OSError:
        pytest.skip("the file system takes UTF-8 only")
    gallery, name = tmp_path / "names", str(folder / "Stra\udcdfe.jpg")
    aga("index", folder, "--model", model_folder, "--out", gallery)
    for suffix in (".csv", ".html", ".png"):
        aga("search", gallery, "a man", "--save", tmp_path / f"r{suffix}")
    with (tmp_path / "r.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["path"] == row["source"] == name and os.path.isfile(row["path"])
    assert b"/Stra\xdfe.jpg" in (tmp_path / "r.html").read_bytes()
    assert found(gallery)["hits"][0]["path"] == name


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


# --- what is known of an image, filters ---


@pytest.fixture
def market(tmp_path):
    """Images named as in Market-1501, an hour apart."""
    folder = tmp_path / "market"
    folder.mkdir()
    generator = np.random.default_rng(1)
    for number, name in enumerate(("0001_c1_a.png", "0001_c2_b.png", "0002_c1_c.png", "0003_c3_d.png", "other.png")):
        Image.fromarray(generator.integers(0, 256, (40, 20, 3), dtype=np.uint8)).save(folder / name)
        os.utime(folder / name, (1_767_265_200 + 3600 * number,) * 2)
    return folder


FACTS = ("--camera-from", r"_c(\d)", "--person-from", r"/(\d{4})_", "--time-from", "mtime")


def test_cameras_persons_and_times_are_searched_by(market, model_folder, tmp_path):
    gallery = tmp_path / "gallery"
    aga("index", market, "--model", model_folder, "--out", gallery, *FACTS)
    rows = {path.name: row for path, (row, _) in held(gallery).items()}
    assert {name: (row.camera, row.person_id) for name, row in rows.items()} == {
        "0001_c1_a.png": ("1", "0001"),
        "0001_c2_b.png": ("2", "0001"),
        "0002_c1_c.png": ("1", "0002"),
        "0003_c3_d.png": ("3", "0003"),
        "other.png": (None, None),
    }
    assert rows["other.png"].time == 1_767_265_200 + 4 * 3600

    def names(*options):
        return sorted(Path(hit["path"]).name[5:7] for hit in found(gallery, *options)["hits"])

    def local(number):
        return datetime.fromtimestamp(1_767_265_200 + 3600 * number).isoformat()

    assert names("--camera", 1) == ["c1", "c1"] and names("--camera", 2, "--camera", 3) == ["c2", "c3"]
    assert names("--person", "0001", "--camera", 2) == ["c2"] and names("--camera", 9) == []
    assert names("--since", local(2), "--until", local(4)) == ["c1", "c3"]
    day = local(4)[:10]
    assert len(names("--until", day)) == 5 and names("--until", local(0)) == []
    note = "10 results wanted, but the filter leaves 2 images"
    assert note in found(gallery, "--camera", 1)["notes"][0]
    for day in ("1.2.26", "9999-12-31"):  # after its end is no day
        assert f"--until {day}: give a date" in fails("search", gallery, "a man", "--until", day)
    assert "must be after" in fails("search", gallery, "a man", "--since", local(2), "--until", local(1))


def test_new_facts_change_rows_and_silence_keeps_them(market, model_folder, tmp_path):
    arguments = ("index", market, "--model", model_folder, "--out", tmp_path / "gallery")
    aga(*arguments)
    assert "5 changed), 0 unchanged" in aga(*arguments, "--camera", "door").stdout
    assert "0 changed), 5 unchanged" in aga(*arguments).stdout
    assert "0 changed), 5 unchanged" in aga(*arguments, "--camera", "door").stdout
    assert "4 changed), 1 unchanged" in aga(*arguments, "--person-from", r"/(\d+)_").stdout
    rows = [row for row, _ in held(tmp_path / "gallery").values()]
    assert {row.camera for row in rows} == {"door"} and len({row.person_id for row in rows}) == 4


PERSONS = ["001", "002", "010", "p7", "1"]


@pytest.fixture
def own_set(tmp_path):
    """Two images of each person; the table's names are no numbers, in two splits."""
    folder = tmp_path / "own"
    folder.mkdir()
    write_own_set(folder, PERSONS)
    return folder


def write_own_set(folder, persons):
    lines = ["file_name,person_id,caption,split"]
    for place, person in enumerate(persons):
        for view in "ab":
            generator = np.random.default_rng([ord(letter) for letter in person + view])
            pixels = generator.integers(0, 256, (40, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{person}_{view}.png")
            lines.append(f"{person}_{view}.png,{person},a man in red,{'test' if place < 3 else 'train'}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")


def persons_of(gallery):
    return {path.name: row.person_id for path, (row, _) in held(gallery).items()}


def test_a_split_keeps_the_names_of_its_persons(own_set, model_folder, tmp_path):
    gallery = tmp_path / "gallery"
    for split, persons in (("test", PERSONS[:3]), ("train", PERSONS)):
        aga("index", own_set, "--split", split, "--model", model_folder, "--out", gallery)
        assert persons_of(gallery) == {f"{person}_{view}.png": person for person in persons for view in "ab"}
    for person in PERSONS:
        paths = {Path(hit["path"]).name for hit in found(gallery, "--person", person)["hits"]}
        assert paths == {f"{person}_a.png", f"{person}_b.png"}
    assert found(gallery, "--person", "2")["hits"] == []
    write_own_set(own_set, ["000", *PERSONS])  # which moves every number
    aga("index", own_set, "--split", "test", "--model", model_folder, "--out", gallery)
    assert all(name.startswith(f"{person}_") for name, person in persons_of(gallery).items())
    assert "2 images removed" in aga("gallery", "delete", gallery, "--person", "1").stdout
    left = {f"{person}_{view}.png" for person in ["000", *PERSONS[:-1]] for view in "ab"}
    assert persons_of(gallery).keys() == left


def test_numbers_of_an_earlier_version_become_names(own_set, model_folder, tmp_path, monkeypatch):
    gallery = tmp_path / "gallery"
    arguments = ("index", own_set, "--split", "test", "--model", model_folder, "--out", gallery)
    find = index_module._find_split

    def numbered(*given):
        paths, facts_of = find(*given)
        return paths, lambda path: replace(facts_of(path), person_id=str(PERSONS.index(facts_of(path).person_id)))

    with monkeypatch.context() as patch:
        patch.setattr(index_module, "_find_split", numbered)
        aga(*arguments)
    assert set(persons_of(gallery).values()) == {"0", "1", "2"}
    assert "6 images indexed (0 new, 6 changed)" in aga(*arguments).stdout
    assert persons_of(gallery) == {f"{person}_{view}.png": person for person in PERSONS[:3] for view in "ab"}


def test_copies_share_a_row(market, model_folder, tmp_path):
    arguments = ("--model", model_folder, "--out", tmp_path / "gallery")
    shutil.copy(market / "other.png", market / "zcopy.png")
    assert "5 images indexed (5 new, 0 changed), 0 unchanged, 1 copies" in aga("index", market, *arguments).stdout
    assert "0 images indexed (0 new, 0 changed), 5 unchanged, 1 copies" in aga("index", market, *arguments).stdout
    assert market / "other.png" in held(tmp_path / "gallery")
    (market / "other.png").write_bytes((market / "0001_c1_a.png").read_bytes())  # the copy is the only one left
    aga("index", market, *arguments)
    assert market / "zcopy.png" in held(tmp_path / "gallery") and len(held(tmp_path / "gallery")) == 5
    (market / "zcopy.png").rename(market / "moved.png")
    assert "1 images indexed" in aga("index", market, *arguments).stdout
    assert market / "moved.png" in held(tmp_path / "gallery") and len(held(tmp_path / "gallery")) == 5


def test_files_patterns_and_several_arguments(market, image_folder, model_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(market)
    arguments = ("--model", model_folder, "--out", tmp_path / "gallery")
    result = aga("index", "*_c1_*.png", image_folder / "a.jpg", "other.png", image_folder / "camera 2", *arguments)
    assert "6 images indexed" in result.stdout
    names = {"0001_c1_a.png", "0002_c1_c.png", "a.jpg", "other.png", "f.jpg", "照片.png"}
    assert {path.name for path in held(tmp_path / "gallery")} == names
    assert "no file matches *.tiff" in fails("index", "*.tiff", *arguments)
    assert "does not exist" in fails("index", "other.png", "none.png", *arguments)
    assert "1 files skipped" in aga("index", "other.png", image_folder / "notes.txt", *arguments).stdout
    assert "--camera or --camera-from" in fails("index", ".", *arguments, "--camera", 1, "--camera-from", "(a)")
    assert "leave out the other options" in fails("index", ".", *arguments, "--camera", 1, "--split", "test")
    assert "one data set" in fails("index", ".", "..", *arguments, "--split", "test")


# --- aga gallery ---


@pytest.fixture
def dated(market, model_folder, tmp_path):
    aga("index", market, "--model", model_folder, "--out", tmp_path / "gallery", *FACTS)
    return tmp_path / "gallery"


def test_info(dated, model_folder):
    text = aga("gallery", "info", dated).stdout
    assert "5 images, 5 of them with a time" in text and str(model_folder) in text and "16 dimensions" in text
    assert "exact" in text and re.search(r"size: 0\.\d MiB", text)
    assert "holds no gallery" in fails("gallery", "info", dated.parent)


def test_delete(dated, market):
    def left():
        return sorted(path.name for path in held(dated))

    everything = left()
    assert (
        "2 images would be removed, the gallery holds 5"
        in aga("gallery", "delete", dated, "--person", "0001", "--dry-run").stdout
    )
    assert left() == everything
    assert (
        "1 images removed, the gallery holds 4"
        in aga("gallery", "delete", dated, "--person", "0001", "--camera", 2).stdout
    )
    assert left() == ["0001_c1_a.png", "0002_c1_c.png", "0003_c3_d.png", "other.png"]
    when = datetime.fromtimestamp(1_767_265_200 + 3600).isoformat()
    assert "1 images removed" in aga("gallery", "delete", dated, "--older-than", when).stdout
    assert "1 images removed" in aga("gallery", "delete", dated, "--source", market / "other.png").stdout
    assert left() == ["0002_c1_c.png", "0003_c3_d.png"]
    assert "0 images removed" in aga("gallery", "delete", dated, "--camera", "nowhere").stdout
    assert "say which images" in fails("gallery", "delete", dated)
    assert "give a date" in fails("gallery", "delete", dated, "--older-than", "soon")
    assert "before the calendar begins" in fails("gallery", "delete", dated, "--older-than", "520000w")


def test_images_without_a_time_are_noted(gallery):
    result = aga("gallery", "delete", gallery, "--older-than", "30d")
    assert "0 images removed" in result.stdout and "7 images have no time" in result.stderr


def test_ages_are_counted_back_from_now(dated, market, model_folder):
    now = time.time()
    for hours, path in enumerate(sorted(market.iterdir())):
        os.utime(path, (now - 3600 * 25 * hours - 60,) * 2)
    aga("index", market, "--model", model_folder, "--out", dated, *FACTS)
    for age, number in (("5d", 0), ("4d", 1), ("50h", 3), ("1w", 0)):
        assert f"{number} images would be" in aga("gallery", "delete", dated, "--older-than", age, "--dry-run").stdout


def test_compact_and_build_index(dated):
    assert "size:" in aga("gallery", "compact", dated).stdout
    text = aga("gallery", "build-index", dated).stdout
    assert "vector index FLAT (up to 50,000 images" in text and "finds 100.0% (5 images as queries)" in text
    assert re.search(r"with a filter 100\.0% \(which leaves \d+\.0% of the images\), 100\.0% \(\d+\.0%", text)


def test_a_large_gallery_is_indexed_for_approximate_search(market, model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(index_module, "EXACT_ROWS", 3)
    monkeypatch.setattr(LanceStore, "exact_rows", 3)
    arguments = ("index", market, "--model", model_folder, "--out", tmp_path / "gallery")
    assert re.search(
        r"vector index IVF_RQ: 5 images, [\d.]+ s; of the exact 10 best a search finds", aga(*arguments).stdout
    )
    info = aga("gallery", "info", tmp_path / "gallery").stdout
    assert "approximate by a vector index IVF_RQ of 5 images, once" in info and "until then exact" in info
    with monkeypatch.context() as patch:
        patch.setattr(LanceStore, "held_bytes", 0)
        assert re.search(
            "approximate by a vector index IVF_RQ of 5 images$",
            aga("gallery", "info", tmp_path / "gallery").stdout,
            re.MULTILINE,
        )
    assert "vector index" not in aga(*arguments).stdout  # it covers them all
    shutil.copy(market / "other.png", market / "new.png")
    Image.open(market / "new.png").rotate(180).save(market / "new.png")
    assert "vector index IVF_RQ: 6 images" in aga(*arguments).stdout
    assert len(found(tmp_path / "gallery")["hits"]) == 6
