"""Videos and scenes into a gallery: what is written, how a stopped run goes on, crops that go with their rows."""

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner
from videos import numbered_video

from aga_model.cli import index as index_module
from aga_model.cli.main import app
from aga_model.retrieval import (
    Answer,
    Filter,
    Gallery,
    GalleryRow,
    Hit,
    PersonEncoder,
    SceneSettings,
    collapse,
    index_scenes,
    read_frame,
    read_hit,
    scenes,
    write_csv,
    write_page,
)
from aga_model.retrieval.detection import Detection

FRAMES, RATE = 30, 10.0
BOXES = [(0.0, 0.0, 80.0, 64.0), (80.0, 0.0, 160.0, 64.0)]


class TwoPeople:
    """The left and the right half of every frame are people."""

    def __init__(self):
        self.frames = 0

    def detect(self, images):
        self.frames += len(images)
        return [[Detection(box, 0.9) for box in BOXES] for _ in images]


@pytest.fixture
def video(tmp_path):
    return numbered_video(tmp_path / "hall.avi", FRAMES, rate=RATE)


@pytest.fixture
def encoder(model_folder):
    return PersonEncoder.from_pretrained(model_folder)


@pytest.fixture
def gallery(encoder, tmp_path):
    return Gallery.create(tmp_path / "gallery", encoder.model_hash, encoder.dim, encoder.name)


def rows_by_place(gallery):
    return {(row.frame, row.box): row for row in gallery.rows()}


def test_every_person_of_every_sampled_frame_is_a_row(video, encoder, gallery):
    settings = SceneSettings(every=0.5, margin=0.0, crops=gallery.crops, started=1000.0)
    report = index_scenes([video], TwoPeople(), encoder, gallery, settings)
    rows = rows_by_place(gallery)
    assert rows.keys() == {(frame, box) for frame in range(0, FRAMES, 5) for box in BOXES}
    assert (report.people, report.frames, report.skipped) == (12, 6, [])
    for (frame, _), row in rows.items():
        assert row.source == str(video) and row.source_hash == hashlib.sha256(video.read_bytes()).hexdigest()
        assert row.offset == pytest.approx(frame / RATE) and row.time == pytest.approx(1000.0 + frame / RATE)
        assert Path(row.path).parent.parent == gallery.crops and Image.open(row.path).size == (80, 64)
        assert row.detection_score == 0.9 and row.track is not None
    crop = read_frame(video, 10).crop((80, 0, 160, 64))
    wanted = encoder.encode_images([crop])[0]
    embeddings = {row_id: one for ids, some in gallery.embeddings() for row_id, one in zip(ids, some)}
    np.testing.assert_allclose(embeddings[rows[10, BOXES[1]].id], wanted, atol=1e-5)


def test_a_stopped_run_goes_on_without_loss_or_double(video, encoder, gallery, monkeypatch):
    settings = SceneSettings(every=0.5, margin=0.0)
    monkeypatch.setattr(scenes, "WRITE_EVERY", 5)

    class Stops(TwoPeople):
        def detect(self, images):
            raise KeyboardInterrupt

    written = []
    add = gallery.add

    def stopping(embeddings, rows):
        add(embeddings, rows)
        written.extend(rows)
        if len(written) >= 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(gallery, "add", stopping)
    with pytest.raises(KeyboardInterrupt):
        index_scenes([video], TwoPeople(), encoder, gallery, settings)
    assert gallery.count() == 5
    monkeypatch.setattr(gallery, "add", add)
    detector = TwoPeople()
    index_scenes([video], detector, encoder, gallery, settings)
    assert detector.frames == 4, "the frames before the last written one are not searched again"
    assert rows_by_place(gallery).keys() == {(frame, box) for frame in range(0, FRAMES, 5) for box in BOXES}
    assert gallery.count() == 12
    with pytest.raises(KeyboardInterrupt):
        index_scenes([video], Stops(), encoder, gallery, settings)


def test_deletion_removes_the_saved_crops(video, encoder, gallery, tmp_path):
    index_scenes([video], TwoPeople(), encoder, gallery, SceneSettings(every=0.5, margin=0.0, crops=gallery.crops))
    outside = tmp_path / "own.jpg"
    Image.new("RGB", (16, 32)).save(outside)
    row = GalleryRow(str(outside), "x", str(outside), 16, 32, encoder.model_hash)
    gallery.add(encoder.encode_images([Image.open(outside).convert("RGB")]), [row])
    track = next(gallery.rows(Filter(sources=[video]))).track
    gone = [Path(row.path) for row in gallery.rows(Filter(tracks=[track]))]
    assert gallery.delete(Filter(tracks=[track])) == len(gone) > 0
    assert not any(path.exists() for path in gone)
    assert all(Path(row.path).exists() for row in gallery.rows())
    gallery.delete(Filter(sources=[video, outside]))
    assert outside.exists() and not list(gallery.crops.rglob("*.jpg"))


def test_a_changed_video_takes_the_place_of_the_old_one(video, encoder, gallery):
    settings = SceneSettings(every=0.5, margin=0.0, crops=gallery.crops)
    index_scenes([video], TwoPeople(), encoder, gallery, settings)
    old = {row.path for row in gallery.rows()}
    numbered_video(video, 10, rate=RATE)
    index_scenes([video], TwoPeople(), encoder, gallery, settings)
    assert rows_by_place(gallery).keys() == {(frame, box) for frame in (0, 5) for box in BOXES}
    assert not any(Path(path).exists() for path in old)


def test_photographs_of_scenes_and_files_that_are_none(encoder, gallery, tmp_path):
    scene, broken = tmp_path / "scene.png", tmp_path / "broken.avi"
    Image.effect_noise((160, 64), 80).convert("RGB").save(scene)
    broken.write_bytes(b"RIFF\x10\0\0\0AVI LIST")
    report = index_scenes([scene, broken], TwoPeople(), encoder, gallery, SceneSettings(margin=0.0))
    assert rows_by_place(gallery).keys() == {(None, box) for box in BOXES}
    assert [item.path for item in report.skipped] == [broken]
    again = index_scenes([scene], TwoPeople(), encoder, gallery, SceneSettings(margin=0.0))
    assert (again.unchanged, again.people, gallery.count()) == (1, 0, 2)


def test_a_crop_that_was_not_saved_is_cut_again(video, encoder, gallery):
    index_scenes([video], TwoPeople(), encoder, gallery, SceneSettings(every=1.0, margin=0.0))
    for hit in gallery.search(encoder.encode_texts(["a man"]), 6)[0]:
        assert hit.row.path == ""
        left, top, right, bottom = map(int, hit.row.box)
        wanted = read_frame(video, hit.row.frame).crop((left, top, right, bottom))
        assert np.array_equal(np.asarray(read_hit(hit)), np.asarray(wanted))


def _hit(rank, **facts):
    return Hit(rank, 1 - rank / 10, GalleryRow("/a.jpg", f"hash{rank}", f"/{rank}.jpg", 16, 32, "m", **facts))


def test_one_result_per_person_or_track():
    hits = [_hit(1, person_id="7"), _hit(2), _hit(3, person_id="7"), _hit(4, person_id="8"), _hit(5)]
    kept = collapse(hits, "person")
    assert [hit.path.stem for hit in kept] == ["1", "2", "4", "5"] and [hit.rank for hit in kept] == [1, 2, 3, 4]
    tracks = [_hit(1, track="1"), _hit(2, track="2"), _hit(3, track="1")]
    assert [hit.path.stem for hit in collapse(tracks, "track")] == ["1", "2"]
    with pytest.raises(ValueError, match="not by 'colour'"):
        collapse(hits, "colour")


def test_table_and_page(tmp_path):
    image = tmp_path / "a.jpg"
    Image.new("RGB", (16, 32), "red").save(image)
    row = GalleryRow(str(image), "h", str(image), 16, 32, "m", camera="=cmd()", time=0.0)
    answers = [Answer("<b>who</b>", [Hit(1, 0.5, row), _hit(2)], ["note & more"]), Answer("nobody", [])]
    write_csv(answers, tmp_path / "a.csv")
    lines = list(csv.DictReader((tmp_path / "a.csv").open(newline="", encoding="utf-8")))
    assert len(lines) == 2 and lines[0]["query"] == "<b>who</b>" and lines[0]["score"] == "0.5"
    assert lines[0]["camera"] == "'=cmd()" and lines[0]["time"] == "1970-01-01T00:00:00+00:00"
    write_page(answers, tmp_path / "a.html", "Results")
    page = (tmp_path / "a.html").read_text()
    assert "&lt;b&gt;who&lt;/b&gt;" in page and "<b>who" not in page and "note &amp; more" in page
    assert page.count("data:image/jpeg;base64,") == 1 and "no such file" in page and "no results" in page


# --- the commands -----------------------------------------------------------------------------------------------


def aga(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def indexed(video, model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(index_module, "load_detector", lambda name, device: TwoPeople())
    out = tmp_path / "gallery"
    told = aga("index", tmp_path, "--model", model_folder, "--out", out, "--every", 0.5, "--camera", "hall").stdout
    assert "12 people found in 6 frames" in told and "12 images" in told
    return out


def test_a_folder_with_a_video_is_indexed_and_searched(indexed, tmp_path):
    assert len(list((indexed / "crops").rglob("*.jpg"))) == 12
    answer = json.loads(aga("search", indexed, "a man", "--one-per", "track", "--json").stdout)
    tracks = [hit["track"] for hit in answer["hits"]]
    assert len(tracks) == len(set(tracks)) == len({row.track for row in Gallery.open(indexed).rows()})
    aga("search", indexed, "a man", "--save", tmp_path / "a.html", "--explain", tmp_path / "why.png")
    assert (tmp_path / "a.html").read_text().count("data:image/jpeg") == 10
    assert Image.open(tmp_path / "why.png").width > 100


def test_a_video_without_people_makes_no_gallery(video, model_folder, tmp_path, monkeypatch):
    nobody = TwoPeople()
    monkeypatch.setattr(nobody, "detect", lambda images: [[] for _ in images])
    monkeypatch.setattr(index_module, "load_detector", lambda name, device: nobody)
    told = aga("index", video, "--model", model_folder, "--out", tmp_path / "gallery")
    assert "0 people found in 6 frames" in told.stdout and "nobody was found: no gallery is written" in told.stderr
    assert not (tmp_path / "gallery").exists()


def test_an_image_finds_itself_first(indexed):
    crop = sorted((indexed / "crops").rglob("*.jpg"))[3]
    answer = json.loads(aga("search", indexed, "--image", crop, "--json", "--top-k", 1).stdout)
    assert answer["hits"][0]["score"] > 0.999


def test_many_sentences_from_a_file(indexed, tmp_path):
    queries = tmp_path / "queries.txt"
    queries.write_text("a man\n\na woman in red\n")
    answers = json.loads(aga("search", indexed, "--queries", queries, "--json", "--top-k", 2).stdout)
    assert [answer["query"] for answer in answers] == ["a man", "a woman in red"]
    assert all(len(answer["hits"]) == 2 for answer in answers)
    aga("search", indexed, "--queries", queries, "--top-k", 2, "--save", tmp_path / "all.csv")
    assert len((tmp_path / "all.csv").read_text().splitlines()) == 5


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "give a sentence, or --image, or --queries"),
        (["a man", "--image", "x.jpg"], "one of them"),
        (["--queries", "nothing.txt"], "nothing.txt"),
        (["--image", "nothing.jpg"], "nothing.jpg"),
        (["--image", "x.jpg", "--rerank", "5"], "leave them out with --image"),
    ],
)
def test_search_says_what_is_wrong(indexed, arguments, named):
    assert named in aga("search", indexed, *arguments, code=2).stderr


def test_index_says_what_is_wrong(video, model_folder, tmp_path):
    command = ("index", video, "--model", model_folder, "--out", tmp_path / "g")
    assert "above 0" in aga(*command, "--every", 0, code=2).stderr
    assert "--started" in aga(*command, "--started", "yesterday", code=2).stderr
    assert not (tmp_path / "g").exists()
