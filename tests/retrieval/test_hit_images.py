"""Which pixels a search result shows."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from aga_model.files import UnreadableImageError
from aga_model.gallery import GalleryRow, Hit, read_hit, shown_image

BOX = (10, 20, 40, 60)


@pytest.fixture
def photograph(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (80, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "scene.png")
    return tmp_path / "scene.png", pixels


def hit(path, crop="", box=None, **facts):
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "0" * 64
    return Hit(1, 0.5, GalleryRow(str(path), digest, str(crop), 30, 40, "m", box=box), **facts)


def test_a_crop_is_its_box_of_the_photograph_unless_its_own_file_is_there(photograph, tmp_path):
    path, pixels = photograph
    cut = pixels[20:60, 10:40]
    assert np.array_equal(read_hit(hit(path, path)), pixels)
    assert np.array_equal(read_hit(hit(path)), pixels)
    assert np.array_equal(read_hit(hit(path, box=BOX)), cut)
    assert np.array_equal(read_hit(hit(path, tmp_path / "lost.png", BOX)), cut)
    Image.new("RGB", (30, 40), "red").save(tmp_path / "saved.png")
    assert np.array_equal(read_hit(hit(path, tmp_path / "saved.png", BOX)), np.full((40, 30, 3), (255, 0, 0)))


def test_what_is_gone_is_named(photograph, tmp_path):
    path, _ = photograph
    with pytest.raises(UnreadableImageError, match=r"lost\.png"):
        read_hit(hit(path, tmp_path / "lost.png"))  # a whole image: its source is no other picture of it
    with pytest.raises(UnreadableImageError, match=r"gone\.png"):
        read_hit(hit(tmp_path / "gone.png", box=BOX))
    (tmp_path / "text.avi").write_text("no video")
    row = GalleryRow(str(tmp_path / "text.avi"), "0" * 64, "", 30, 40, "m", frame=3, box=BOX)
    with pytest.raises(UnreadableImageError, match=r"text\.avi: not a video"):
        read_hit(Hit(1, 0.5, row))


def test_faces_are_hidden_in_what_is_shown_also_of_an_image_that_was_read_already(photograph, monkeypatch):
    path, pixels = photograph
    monkeypatch.setattr("aga_model.files.hide_faces", lambda image: Image.new("RGB", image.size, "black"))
    other = Image.new("RGB", (5, 5), "red")
    black = np.zeros_like(pixels)
    assert np.array_equal(shown_image(hit(path, path, hide_faces=True)), black)
    assert np.array_equal(shown_image(hit(path, path, hide_faces=True), other), np.zeros((5, 5, 3)))
    assert np.array_equal(shown_image(hit(path, path)), pixels)
    assert shown_image(hit(path, path), other) is other
    assert np.array_equal(read_hit(hit(path, path, hide_faces=True)), pixels)
