"""A new kind of source is one class: here a folder that is watched, and a camera; and what is made of all kinds."""

import hashlib
import shutil
import threading
import time
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import aga
from PIL import Image
from test_indexing import MeanColour, draw, held
from test_scenes import Bright, MeanGrey

from aga_model.files import UnreadableImageError
from aga_model.gallery import Filter, Gallery, GalleryRow
from aga_model.gallery.hit_images import read_row_image
from aga_model.ingest import Flush, Found, ImageFiles, Scene, index

pytest.importorskip("lancedb", reason="the extra `search` is not installed")

pytestmark = pytest.mark.timeout(120)

DAY = "f" * 64  # stands for the hash of what a camera has recorded


class WatchedFolder:
    """A source that never ends: whatever image files come into a folder, until it is told to stop."""

    finite = False

    def __init__(self, folder, stopped, every=0.02):
        self._folder, self._stopped, self._every = folder, stopped, every

    def found(self, held, report, progress):
        seen = set()
        while not self._stopped.wait(self._every):
            new = sorted(set(self._folder.glob("*.png")) - seen)
            seen |= set(new)
            yield from ImageFiles(new).found(held, report, progress)
            yield []


class Camera:
    """A stream of frames, each with some people, of which nothing is left but what is kept."""

    finite = False

    def __init__(self, people, fails_with=None):
        self._people, self._fails_with = people, fails_with

    def found(self, held, report, progress):
        for frame, number in enumerate(self._people):
            progress.update(1)
            report.frames += 1
            yield [Found(self._row(frame, person), portrait(frame, person)) for person in range(number)]
        if self._fails_with is not None:
            raise self._fails_with

    def _row(self, frame, person):
        box = (10 * person, 0, 10 * person + 20, 40)
        return GalleryRow("rtsp://hall/1", DAY, width=20, height=40, frame=frame, box=box, camera="hall")


def portrait(frame, person):
    return Image.new("RGB", (20, 40), (20 + 20 * frame, 20 + 30 * person, 90))


@pytest.fixture
def gallery(tmp_path):
    return Gallery.create(tmp_path / "gallery", MeanColour.model_hash, 3, "colours")


class Encoder(MeanColour):
    """Embeds what is preprocessed, and what is not."""

    def encode_images(self, images, batch_size=32):
        return self.encode_pixels(self.preprocess(images))


@pytest.fixture
def sizes(gallery, monkeypatch):
    """Of what is written each time."""
    sizes, add = [], gallery.add

    def counting(embeddings, rows, crops=None):
        sizes.append(len(rows))
        add(embeddings, rows, crops)

    monkeypatch.setattr(gallery, "add", counting)
    return sizes


@contextmanager
def put_in(folder, gallery, stopped, numbers, also=None):
    """
    While the block runs, images come into a folder one by one, each after the one before it can be found; then
    `stopped` is set, not before something of the source `also` can be found.
    """
    failures = []

    def put():
        try:
            for number in numbers:
                draw(folder.parent / "new.png", number)
                shutil.move(folder.parent / "new.png", folder / f"{number:02}.png")
                until = time.monotonic() + 60
                while not (gallery.is_made and gallery.count(Filter(sources=[folder / f"{number:02}.png"]))):
                    assert time.monotonic() < until, f"image {number} is not in the gallery"
                    time.sleep(0.01)
            until = time.monotonic() + 60
            while also and not gallery.count(Filter(sources=[also])):
                assert time.monotonic() < until, f"nothing of {also} is in the gallery"
                time.sleep(0.01)
        except BaseException as error:
            failures.append(error)
        finally:
            stopped.set()

    thread = threading.Thread(target=put)
    thread.start()
    yield
    thread.join()
    assert not failures, failures


def test_images_of_a_folder_that_is_watched_can_be_found_while_it_is_watched(tmp_path, gallery):
    folder, stopped = tmp_path / "watched", threading.Event()
    folder.mkdir()
    (folder / "broken.png").write_bytes(b"no image")
    draw(tmp_path / "file.png", 30)
    with put_in(folder, gallery, stopped, range(4)):
        sources = [WatchedFolder(folder, stopped), ImageFiles([tmp_path / "file.png"])]
        report = index(sources, Encoder(), gallery, Flush(seconds=0.05))
    assert (report.added, [item.path for item in report.skipped]) == (5, [folder / "broken.png"])
    assert held(gallery).keys() == {str(folder / f"{number:02}.png") for number in range(4)} | {
        str(tmp_path / "file.png")
    }
    for path, (_, stored) in held(gallery).items():
        np.testing.assert_allclose(stored, draw(path, 30 if "file" in path else int(Path(path).stem)), atol=1e-6)


def test_endless_sources_take_turns(tmp_path, gallery):
    folder, stopped = tmp_path / "watched", threading.Event()
    folder.mkdir()
    with put_in(folder, gallery, stopped, range(2), also="rtsp://hall/1"):
        index(
            [WatchedFolder(folder, stopped), Camera([1, 2]), Camera([0, 0, 2])],
            Encoder(),
            gallery,
            Flush(seconds=0.05),
        )
    places = {(row.source, row.frame) for row in gallery.rows()}
    assert places == {(str(folder / "00.png"), None), (str(folder / "01.png"), None)} | {
        ("rtsp://hall/1", frame) for frame in (0, 1, 2)
    }


def test_a_stream_is_shown_by_its_saved_crops_and_filtered_by_its_address(gallery, tmp_path):
    told = []
    bar = type("Bar", (), {"update": lambda self, number: told.append(number)})()
    report = index(
        [Camera([2, 1])],
        Encoder(),
        gallery,
        crops=gallery.crops,
        progress=lambda total: told.append(total) or nullcontext(bar),
        expected=2,
    )
    assert (report.added, report.frames, told) == (3, 2, [2, 1, 1])
    rows = list(gallery.rows(Filter(sources=["rtsp://hall/1"])))
    assert len(rows) == gallery.count() == 3
    for row in rows:
        shown = np.asarray(read_row_image(row), int)
        person = int(row.box[0]) // 10
        assert abs(shown - np.asarray(portrait(row.frame, person), int)).max() <= 3, "but for the JPEG"
        assert row.camera == "hall" and row.model_hash == MeanColour.model_hash
    Path(rows[0].path).unlink()
    with pytest.raises(UnreadableImageError, match="no such file"):
        read_row_image(rows[0])
    for row in (replace(rows[0], path=""), replace(rows[0], path="", box=None, frame=None)):
        with pytest.raises(UnreadableImageError, match="of the stream rtsp://hall/1 only saved crops can be shown"):
            read_row_image(row)
    assert "3 images" in aga("gallery", "delete", gallery.location, "--source", "rtsp://hall/1").stdout
    assert not list(gallery.crops.rglob("*.jpg"))


@pytest.mark.parametrize("batch_size", [1, 2, 4, 32])
def test_the_people_of_a_frame_are_written_together(gallery, sizes, batch_size):
    people = [1, 4, 0, 3, 2, 5]
    index([Camera(people)], Encoder(), gallery, Flush(images=3), batch_size=batch_size)
    ends, written = set(np.cumsum(people)), np.cumsum(sizes)
    assert set(written) <= ends and written[-1] == 15 and len(sizes) >= 3
    found = {(row.frame, int(row.box[0]) // 10) for row in gallery.rows()}
    assert found == {(frame, person) for frame, number in enumerate(people) for person in range(number)}


def test_what_a_source_found_before_it_failed_is_written(gallery):
    with pytest.raises(ConnectionError, match="the camera is gone"):
        index([Camera([2, 1], ConnectionError("the camera is gone"))], Encoder(), gallery)
    assert gallery.count() == 3
    with pytest.raises(KeyboardInterrupt):
        index([Camera([0], KeyboardInterrupt())], Encoder(), gallery)
    assert gallery.count() == 3


def test_files_of_all_kinds_fill_one_gallery(tmp_path):
    """A batch may hold images that were preprocessed in threads, and others."""
    gallery = Gallery.create(tmp_path / "gallery", MeanGrey.model_hash, 2, "grey")

    class Both(MeanGrey):
        def preprocess(self, images):
            import torch

            return torch.from_numpy(self.encode_images(images))

        def encode_pixels(self, pixels):
            return pixels.numpy()

    encoder = Both()
    for name, brightness in (("a", 40), ("b", 90), ("scene", 200)):
        Image.new("RGB", (160, 64), (brightness,) * 3).save(tmp_path / f"{name}.png")
    files = ImageFiles([tmp_path / "a.png", tmp_path / "b.png"], preprocess=encoder.preprocess)
    report = index([files, Scene(tmp_path / "scene.png", Bright()), Camera([1])], encoder, gallery)
    assert (report.added, report.frames) == (5, 2)
    embeddings = {row_id: one for ids, some in gallery.embeddings() for row_id, one in zip(ids, some)}
    for row in gallery.rows():
        wanted = {"a.png": 40, "b.png": 90, "scene.png": 200, "1": np.mean([20, 20, 90])}[Path(row.source).name] / 255
        np.testing.assert_allclose(embeddings[row.id], [np.cos(wanted), np.sin(wanted)], atol=1e-6)
    assert hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest() in {row.source_hash for row in gallery.rows()}


def test_what_is_no_number_or_no_image_is_refused():
    with pytest.raises(ValueError, match="images of Flush is 0"):
        Flush(images=0)
    for seconds in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="seconds of Flush"):
            Flush(seconds=seconds)
    with pytest.raises(ValueError, match="rtsp://hall/1 neither the image nor"):
        Found(GalleryRow("rtsp://hall/1", DAY))
