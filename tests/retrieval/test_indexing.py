"""Image files into a gallery, with an encoder whose embedding of an image is its mean colour."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from store_worker import MODEL

from aga_model.files import Skipped, image_files
from aga_model.gallery import Gallery, GalleryError, GalleryRow
from aga_model.ingest import ImageFacts, IndexReport, index_images, pipeline
from aga_model.ingest import image_files as files_module
from aga_model.ingest.facts import updated_facts

pytest.importorskip("lancedb", reason="the extra `search` is not installed")

FILES = 11


class MeanColour:
    model_hash, name, dim = MODEL, "colours", 3

    def __init__(self):
        self.batches = []

    def preprocess(self, images):
        means = [np.asarray(image, np.float32).reshape(-1, 3).mean(axis=0) for image in images]
        return torch.from_numpy(np.stack(means))[:, :, None, None]

    def encode_pixels(self, pixels):
        self.batches.append(len(pixels))
        return torch.nn.functional.normalize(pixels[:, :, 0, 0], dim=1).numpy()


def draw(path, number):
    """An image of one colour and of a size that tell its number; its embedding."""
    colour = np.random.default_rng(number).integers(20, 250, 3)
    Image.new("RGB", (20 + number, 40 + number), tuple(map(int, colour))).save(path)
    return (colour / np.linalg.norm(colour)).astype(np.float32)


@pytest.fixture
def people(tmp_path):
    """Paths of images, with their embeddings."""
    (tmp_path / "people").mkdir()
    paths = [tmp_path / "people" / f"{number:02}.png" for number in range(FILES)]
    return {str(path): draw(path, number) for number, path in enumerate(paths)}


@pytest.fixture
def gallery(tmp_path):
    return Gallery.create(tmp_path / "gallery", MODEL, 3, "colours")


def held(gallery):
    """source -> row and embedding."""
    embeddings = {row_id: one for ids, some in gallery.embeddings() for row_id, one in zip(ids, some)}
    return {row.source: (row, embeddings[row.id]) for row in gallery.rows()}


def counts(report):
    return report.added, report.replaced, report.unchanged, report.copies, len(report.skipped)


def test_each_row_is_of_its_own_file_and_written_once(people, gallery, monkeypatch):
    monkeypatch.setattr(pipeline, "WRITE_EVERY", 4)
    sizes, add = [], gallery.add
    monkeypatch.setattr(gallery, "add", lambda embeddings, rows: sizes.append(len(rows)) or add(embeddings, rows))
    encoder = MeanColour()
    report = index_images(list(people), encoder, gallery, batch_size=3)
    assert counts(report) == (FILES, 0, 0, 0, 0) and report.encoded == report.read == FILES
    assert encoder.batches == [3, 3, 3, 2] and sizes == [6, 5]
    found = held(gallery)
    assert found.keys() == people.keys()
    for number, (path, embedding) in enumerate(people.items()):
        row, stored = found[path]
        np.testing.assert_allclose(stored, embedding, atol=1e-6)
        assert (row.path, row.width, row.height, row.model_hash) == (path, 20 + number, 40 + number, MODEL)
        assert row.source_hash == hashlib.sha256(Path(path).read_bytes()).hexdigest()
        assert (row.frame, row.box, row.camera, row.person_id, row.time) == (None,) * 5


def test_only_what_changed_is_encoded_again_and_silence_keeps_facts(people, gallery):
    paths = list(people)
    facts = {path: ImageFacts(f"c{number}", f"p{number}", float(number)) for number, path in enumerate(paths)}
    index_images(paths, MeanColour(), gallery, facts_of=lambda path: facts[path])
    assert counts(index_images(paths, MeanColour(), gallery)) == (0, 0, FILES, 0, 0)
    new = draw(paths[1], 50)
    moved = ImageFacts(camera="other")
    encoder = MeanColour()
    report = index_images(
        paths, encoder, gallery, facts_of=lambda path: moved if path == paths[2] else ImageFacts(time=facts[path].time)
    )
    assert counts(report) == (0, 2, FILES - 2, 0, 0) and sum(encoder.batches) == 2
    found = held(gallery)
    assert len(found) == gallery.count() == FILES
    np.testing.assert_allclose(found[paths[1]][1], new, atol=1e-6)
    known = {path: ImageFacts(row.camera, row.person_id, row.time) for path, (row, _) in found.items()}
    # The content of the one file is new, so that what was known of the old one is not known of it.
    assert known == facts | {paths[1]: ImageFacts(None, None, 1.0), paths[2]: ImageFacts("other", "p2", 2.0)}


def test_facts_that_are_not_said_stay():
    before, now = ImageFacts("a", "1", 5.0), ImageFacts("b", "2", 0.0)
    assert updated_facts(before, now) == now and updated_facts(before, ImageFacts()) == before
    assert updated_facts(before, ImageFacts(person_id="2")) == ImageFacts("a", "2", 5.0)
    assert updated_facts(ImageFacts(), now) == now


def test_a_copy_shares_the_row_of_the_first_until_that_is_gone(people, gallery, tmp_path):
    first = next(iter(people))
    copy = tmp_path / "copy.png"
    copy.write_bytes(Path(first).read_bytes())
    report = index_images([first, copy, copy], MeanColour(), gallery)
    assert counts(report) == (1, 0, 0, 2, 0) and held(gallery).keys() == {first}
    assert counts(index_images([copy], MeanColour(), gallery)) == (0, 0, 0, 1, 0)
    os.unlink(first)
    assert counts(index_images([copy], MeanColour(), gallery)) == (1, 0, 0, 0, 0)
    assert held(gallery).keys() == {str(copy)} and gallery.count() == 1


def test_a_photograph_of_which_crops_are_held_is_a_new_image(people, gallery):
    path, embedding = next(iter(people.items()))
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    crop = GalleryRow(path, digest, "", 5, 10, MODEL, box=(0, 0, 5, 10))
    gallery.add(embedding[None], [crop, replace(crop, box=None, frame=3)][:1])
    assert counts(index_images([path], MeanColour(), gallery)) == (1, 0, 0, 0, 0)
    assert {row.box for row in gallery.rows()} == {None, (0.0, 0.0, 5.0, 10.0)}


def test_a_file_that_is_too_large_is_skipped_and_not_read(people, gallery, monkeypatch):
    paths = list(people)
    size = max(os.path.getsize(path) for path in paths[1:])
    with open(paths[0], "ab") as file:
        file.truncate(size + 1)
    monkeypatch.setattr(image_files, "MAX_FILE_BYTES", size)
    report = index_images(paths, MeanColour(), gallery)
    assert report.skipped == [Skipped(Path(paths[0]), "larger than 0 MiB")]
    assert held(gallery).keys() == set(paths[1:])


def test_files_that_cannot_be_read_are_named_in_their_order(people, gallery, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    paths = [tmp_path / "gone.png", *people, tmp_path / "text.png"]
    report = index_images(paths, MeanColour(), gallery, batch_size=4)
    assert [item.path.name for item in report.skipped] == ["gone.png", "text.png"]
    assert counts(report) == (FILES, 0, 0, 0, 2)
    with pytest.raises(GalleryError, match=r"none of the 2 image files .* the first, .*gone\.png: no such file"):
        index_images([paths[0], paths[-1]], MeanColour(), gallery)


def test_the_report_of_several_processes_is_their_sum():
    parts = [IndexReport(1, 20, 300, 4000, [Skipped(Path(name), "r")], 1.0, 5, 60) for name in ("a", "b", "c")]
    total = pipeline._total(parts)
    assert (total.frames, total.updated, total.seconds) == (15, 180, 0.0)
    assert counts(total) == (3, 60, 900, 12_000, 3) and [item.path.name for item in total.skipped] == ["a", "b", "c"]
    assert replace(total, seconds=2.0).images_per_second == (3 + 60 + 900 + 12_000) / 2


def test_no_more_is_read_ahead_than_asked_for():
    begun = []
    outcomes = files_module._in_threads(lambda item: begun.append(item) or item, range(100), workers=1, ahead=5)
    assert [next(outcomes) for _ in range(3)] == [0, 1, 2]
    assert set(begun) <= set(range(3 + 5))
    outcomes.close()


def test_a_gallery_of_another_model_is_left_alone(people, tmp_path):
    gallery, encoder = Gallery.create(tmp_path / "other", "b" * 64, 3, "other"), MeanColour()
    with pytest.raises(GalleryError, match="was made with model other"):
        index_images(list(people), encoder, gallery)
    assert encoder.batches == [] and not gallery.is_made
