"""Videos and scenes into a gallery: what is written, how a stopped run goes on, crops that go with their rows."""

import csv
import hashlib
import json
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import aga
from PIL import Image
from videos import numbered_video, write_video

from aga_model.cli.galleries import index as index_module
from aga_model.files import read_frame
from aga_model.gallery import Filter, Gallery, GalleryRow, Hit, read_hit
from aga_model.ingest import Detection, ImageFacts, SceneSettings, index_scenes, pipeline
from aga_model.search import Answer, PersonEncoder, collapse, write_csv, write_page

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
    monkeypatch.setattr(pipeline, "WRITE_EVERY", 5)

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


def content(gallery):
    """Everything that a gallery holds: rows and embeddings by id."""
    embeddings = {row_id: one.tobytes() for ids, some in gallery.embeddings() for row_id, one in zip(ids, some)}
    return {row.id: (row, embeddings[row.id]) for row in gallery.rows()}


def forbid(monkeypatch, target, *names):
    def forbidden(*arguments, **options):
        raise AssertionError(f"{names} was called")

    for name in names:
        monkeypatch.setattr(target, name, forbidden)


@pytest.mark.parametrize("stopped", range(1, 12))
def test_a_run_killed_after_any_crop_and_continued_holds_what_a_whole_run_does(
    video, encoder, tmp_path, monkeypatch, stopped
):
    settings = SceneSettings(every=0.5, started=7.0)
    whole, killed = (
        Gallery.create(tmp_path / name, encoder.model_hash, encoder.dim, encoder.name) for name in ("whole", "killed")
    )
    index_scenes([video], TwoPeople(), encoder, whole, settings, batch_size=1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pipeline, "WRITE_EVERY", stopped)
        add = killed.add
        patch.setattr(killed, "add", lambda *written: (add(*written), _interrupt()))
        index_scenes([video], TwoPeople(), encoder, killed, settings, batch_size=1)
    assert killed.count() == stopped
    index_scenes([video], TwoPeople(), encoder, killed, settings, batch_size=1)
    assert content(killed) == content(whole)
    assert {row.track for row in killed.rows()} == {"0.1", "0.2"}


def _interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"every": 0.25},
        {"every": 0.7},
        {"every": 2.0},
        {"min_height": 65},
        {"crops": None},
    ],
    ids=str,
)
def test_a_finished_video_is_left_as_it_is(video, encoder, gallery, monkeypatch, changed):
    """With another interval only frames behind the last one that is held are new, and their people go on."""
    settings = SceneSettings(every=0.5, crops=gallery.crops)
    index_scenes([video], TwoPeople(), encoder, gallery, settings)
    before, saved = content(gallery), sorted(gallery.crops.rglob("*.jpg"))
    times = [path.stat().st_mtime_ns for path in saved]
    again = replace(settings, **changed)
    new = [frame for frame in range(26, FRAMES) if changed.get("every") in (0.25, 0.7) and frame == 28]
    for run in range(2):
        detector = TwoPeople()
        with monkeypatch.context() as patch:
            if run or not new:
                forbid(patch, gallery, "add")
                forbid(patch, PersonEncoder, "encode_images")
            report = index_scenes([video], detector, encoder, gallery, again)
        assert report.people == (0 if run else 2 * len(new)) and report.updated == 0
        assert detector.frames <= 2
        after = content(gallery)
        assert {row_id: after[row_id] for row_id in before} == before
        assert {row.frame for row, _ in after.values()} == set(range(0, FRAMES, 5)) | set(new)
        assert {row.track for row, _ in after.values()} == {"0.1", "0.2"}
    assert [path.stat().st_mtime_ns for path in saved] == times
    assert new or sorted(gallery.crops.rglob("*.jpg")) == saved


class MeanGrey:
    """An encoder whose embedding of an image is the angle of its mean brightness."""

    model_hash, name, dim = "a" * 64, "grey", 2

    def encode_images(self, images, batch_size=32):
        angles = [np.asarray(image, np.float64).mean() / 255 for image in images]
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


class Bright:
    """Whoever is brighter than the ground: two of different width, the wider one surer."""

    def detect(self, images):
        return [[Detection((10.0, 4.0, 50.0, 60.0), 0.9), Detection((100.0, 4.0, 120.0, 60.0), 0.7)] for _ in images]


@pytest.mark.parametrize("write_every", [1, 3, 100])
def test_videos_and_photographs_into_a_folder_that_is_named(tmp_path, monkeypatch, write_every):
    """Each row has its own crop's embedding, score, file and time; a photograph has its own time and no track."""
    monkeypatch.setattr(pipeline, "WRITE_EVERY", write_every)
    frames = []
    for number in range(4):
        frame = Image.new("RGB", (160, 64), (10, 10, 10))
        frame.paste((60 + 40 * number,) * 3, (10, 4, 50, 60))
        frame.paste((80 + 40 * number,) * 3, (100, 4, 120, 60))
        frames.append(frame)
    film, scene = write_video(tmp_path / "a.avi", frames, rate=2.0), tmp_path / "b.png"
    frames[0].save(scene)
    gallery = Gallery.create(tmp_path / "gallery", MeanGrey.model_hash, 2, "grey")
    settings = SceneSettings(every=0.5, margin=0.0, crops=tmp_path / "own", started=1000.0)
    report = index_scenes(
        [film, scene],
        Bright(),
        MeanGrey(),
        gallery,
        settings,
        facts_of=lambda path: ImageFacts("hall", time=7.0 if path.endswith("png") else 9.0),
    )
    assert (report.people, report.frames, report.skipped, gallery.count()) == (10, 5, [], 10)
    embeddings = {row_id: one for ids, some in gallery.embeddings() for row_id, one in zip(ids, some)}
    for row in gallery.rows():
        place = 0 if row.box == (10.0, 4.0, 50.0, 60.0) else 1
        assert (row.width, row.height) == ((40, 56), (20, 56))[place] and row.camera == "hall"
        assert row.detection_score == (0.9, 0.7)[place]
        angle = (60 + 20 * place + 40 * (row.frame or 0)) / 255
        assert np.arctan2(*embeddings[row.id][::-1]) == pytest.approx(angle, abs=0.02)
        assert Path(row.path).parent.parent == tmp_path / "own" and Image.open(row.path).size == (
            row.width,
            row.height,
        )
        assert np.asarray(Image.open(row.path)).mean() / 255 == pytest.approx(angle, abs=0.02)
        if row.frame is None:
            assert (row.source, row.time, row.offset, row.track) == (str(scene), 7.0, None, None)
        else:
            assert (row.source, row.offset, row.time) == (str(film), row.frame / 2, 1000.0 + row.frame / 2)
            assert row.track == f"0.{place + 1}"
    assert not (tmp_path / "gallery" / "crops").exists()


def test_only_rows_that_differ_are_updated(video, tmp_path):
    gallery = Gallery.create(tmp_path / "gallery", MeanGrey.model_hash, 2, "grey")
    index_scenes([video], Bright(), MeanGrey(), gallery, SceneSettings(every=1.0))
    one = next(gallery.rows())
    gallery.add(np.array([[1.0, 0.0]], np.float32), [replace(one, camera="hall")])
    settings = SceneSettings(every=1.0)
    report = index_scenes([video], Bright(), MeanGrey(), gallery, settings, facts_of=lambda path: ImageFacts("hall"))
    assert (report.updated, gallery.count(Filter(cameras=["hall"])), gallery.count()) == (5, 6, 6)


def test_the_people_of_a_photograph_that_is_held_as_a_whole_elsewhere_are_new(tmp_path):
    first, copy = tmp_path / "a.png", tmp_path / "b.png"
    Image.effect_noise((160, 64), 80).convert("RGB").save(first)
    copy.write_bytes(first.read_bytes())
    digest = hashlib.sha256(first.read_bytes()).hexdigest()
    gallery = Gallery.create(tmp_path / "gallery", MeanGrey.model_hash, 2, "grey")
    whole = GalleryRow(str(first), digest, str(first), 160, 64, MeanGrey.model_hash)
    gallery.add(np.array([[1.0, 0.0]], np.float32), [whole])
    report = index_scenes([copy], Bright(), MeanGrey(), gallery)
    assert (report.people, report.copies) == (2, 0) and gallery.count() == 3


def test_what_is_expected_and_seen_is_told(video, tmp_path):
    """3 seconds of video every half a second, and a photograph; a file that is none is not counted."""
    scene, told = tmp_path / "a.png", []
    Image.effect_noise((160, 64), 80).convert("RGB").save(scene)

    class Bar:
        def update(self, n):
            told.append(n)

    @contextmanager
    def progress(total):
        told.append(("expected", total))
        yield Bar()

    gallery = Gallery.create(tmp_path / "gallery", MeanGrey.model_hash, 2, "grey")
    paths = [video, scene, tmp_path / "gone.avi"]
    report = index_scenes(paths, Bright(), MeanGrey(), gallery, SceneSettings(every=0.5), progress=progress)
    assert told[0] == ("expected", 7) and sum(told[1:]) == report.frames == 7 and len(report.skipped) == 1


def test_a_photograph_is_written_whole(encoder, gallery, tmp_path, monkeypatch):
    """Who is not written with the others would never be looked for again."""
    scene = tmp_path / "scene.png"
    Image.effect_noise((160, 64), 80).convert("RGB").save(scene)
    monkeypatch.setattr(pipeline, "WRITE_EVERY", 1)
    add = gallery.add
    monkeypatch.setattr(gallery, "add", lambda *written: (add(*written), _interrupt()))
    with pytest.raises(KeyboardInterrupt):
        index_scenes([scene], TwoPeople(), encoder, gallery, SceneSettings(margin=0.0))
    assert rows_by_place(gallery).keys() == {(None, box) for box in BOXES}


def test_new_facts_reach_every_row_and_silence_keeps_them(video, encoder, gallery, tmp_path, monkeypatch):
    scene = tmp_path / "scene.png"
    Image.effect_noise((160, 64), 80).convert("RGB").save(scene)
    paths, settings = [video, scene], SceneSettings(every=0.5, crops=gallery.crops)
    index_scenes(paths, TwoPeople(), encoder, gallery, settings)
    before = content(gallery)
    forbid(monkeypatch, PersonEncoder, "encode_images")

    def again(started=None, **facts):
        detector = TwoPeople()
        report = index_scenes(
            paths,
            detector,
            encoder,
            gallery,
            replace(settings, started=started),
            facts_of=lambda path: ImageFacts(**facts),
        )
        assert detector.frames == 1 and (report.people, report.unchanged) == (0, 1)  # the video's last frame
        return report.updated

    def facts():
        return {(row.frame, row.camera, row.person_id, row.time) for row, _ in content(gallery).values()}

    frames = range(0, FRAMES, 5)
    assert again(started=1000.0) == 12
    assert facts() == {(frame, None, None, 1000.0 + frame / RATE) for frame in frames} | {(None, None, None, None)}
    assert again(camera="hall", person_id="ann", time=5.0) == 14
    known = {(frame, "hall", "ann", 1000.0 + frame / RATE) for frame in frames} | {(None, "hall", "ann", 5.0)}
    assert facts() == known
    assert again() == again(camera="hall") == again(started=1000.0) == 0 and facts() == known
    assert again(person_id="bob", started=0.0) == 14
    after = content(gallery)
    assert {row_id: embedding for row_id, (_, embedding) in after.items()} == {
        row_id: embedding for row_id, (_, embedding) in before.items()
    }
    blank = {"camera": None, "person_id": None, "time": None}
    assert {row_id: replace(row, **blank) for row_id, (row, _) in after.items()} == {
        row_id: row for row_id, (row, _) in before.items()
    }


def test_a_renamed_file_takes_its_rows_with_it(video, encoder, gallery, tmp_path, monkeypatch):
    scene = tmp_path / "scene.png"
    Image.effect_noise((160, 64), 80).convert("RGB").save(scene)
    settings = SceneSettings(every=0.5, crops=gallery.crops)
    index_scenes([video, scene], TwoPeople(), encoder, gallery, settings)
    before = content(gallery)
    moved = [tmp_path / "moved.avi", tmp_path / "moved.png"]
    video.rename(moved[0])
    scene.rename(moved[1])
    forbid(monkeypatch, PersonEncoder, "encode_images")
    detector = TwoPeople()
    report = index_scenes(moved, detector, encoder, gallery, settings)
    assert (report.people, report.updated, report.copies, detector.frames) == (0, 14, 0, 1)
    names = {str(video): str(moved[0]), str(scene): str(moved[1])}
    assert content(gallery) == {
        row_id: (replace(row, source=names[row.source]), embedding) for row_id, (row, embedding) in before.items()
    }


@pytest.mark.parametrize("together", [True, False])
def test_a_copied_file_shares_the_rows_of_the_first(video, encoder, gallery, tmp_path, together):
    settings = SceneSettings(every=0.5)
    if not together:
        index_scenes([video], TwoPeople(), encoder, gallery, settings)
    copy = tmp_path / ("z.avi" if together else "a.avi")  # found first in the later run
    copy.write_bytes(video.read_bytes())
    for run in range(2):
        report = index_scenes(sorted([video, copy]), TwoPeople(), encoder, gallery, settings)
        assert (report.copies, report.people) == (1, 12 if together and run == 0 else 0)
        assert {row.source for row in gallery.rows()} == {str(video)} and gallery.count() == 12
    video.unlink()
    index_scenes([copy], TwoPeople(), encoder, gallery, settings)
    assert {row.source for row in gallery.rows()} == {str(copy)} and gallery.count() == 12


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


def test_a_video_that_became_a_copy_of_another_loses_its_rows(video, encoder, gallery, tmp_path):
    other = numbered_video(tmp_path / "other.avi", 10, rate=RATE)
    settings = SceneSettings(every=0.5, crops=gallery.crops)
    index_scenes([video, other], TwoPeople(), encoder, gallery, settings)
    assert gallery.count() == 16
    other.write_bytes(video.read_bytes())
    report = index_scenes([video, other], TwoPeople(), encoder, gallery, settings)
    assert report.copies == 1 and {row.source for row in gallery.rows()} == {str(video)}
    assert len(list(gallery.crops.rglob("*.jpg"))) == gallery.count() == 12


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


def test_facts_that_are_given_later_are_told_and_searched_by(indexed, video, model_folder, tmp_path):
    again = ("index", video, "--model", model_folder, "--out", indexed)
    told = aga(*again, "--started", "2026-01-31T18:30", "--camera", "door", "--person-from", "/(hal)l").stdout
    assert "0 people found in 1 frames, 12 images with new facts" in told
    answer = json.loads(
        aga("search", indexed, "a man", "--json", "--top-k", 20, "--camera", "door", "--since", "2026-01-31").stdout
    )
    assert len(answer["hits"]) == 12 and {hit["person_id"] for hit in answer["hits"]} == {"hal"}
    assert "new facts" not in aga(*again).stdout and Gallery.open(indexed).count(Filter(cameras=["door"])) == 12


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
