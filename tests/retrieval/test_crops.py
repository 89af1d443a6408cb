"""Names of saved crops, and which files a deletion may remove."""

import os

import numpy as np
import pytest
from PIL import Image

from aga_model.gallery import crop_name, crops, write_crop
from aga_model.gallery.crops import (
    crop_file,
    has_foreign_crops,
    is_crop_folder,
    is_crop_name,
    remove_crop,
    saved_crops,
    stored_crop_path,
)

HASH = "0123456789abcdef" * 4
NAME = "0123456789abcdef/00000012_10_20_90_180.jpg"


def test_a_name_tells_source_frame_and_box():
    assert crop_name(HASH, 12, (10.0, 20.0, 90.0, 180.0)) == NAME
    assert crop_name(HASH, 0, (1, 2, 3, 4)) == "0123456789abcdef/00000000_1_2_3_4.jpg"
    assert crop_name(HASH, None, (1, 2, 3, 4)) == "0123456789abcdef/photograph_1_2_3_4.jpg"
    assert crop_name(HASH, 123_456_789, (1, 2, 3, 4)) == "0123456789abcdef/123456789_1_2_3_4.jpg"


@pytest.mark.parametrize(
    ("name", "is_name"),
    [
        (NAME, True),
        ("0123456789abcdef/photograph_1_2_3_4.jpg", True),
        ("0123456789abcdef/123456789_1_2_3_4.jpg", True),
        ("0123456789abcdef/0000012_1_2_3_4.jpg", False),  # seven digits
        ("0123456789abcdef/00000012_1_2_3.jpg", False),
        ("0123456789abcdef/00000012_1_2_3_-4.jpg", False),
        ("0123456789abcdef/00000012_1_2_3_4.jpg.7.tmp", False),
        ("0123456789abcdef/00000012_1_2_3_4.png", False),
        ("0123456789ABCDEF/00000012_1_2_3_4.jpg", False),
        ("0123456789abcde/00000012_1_2_3_4.jpg", False),
        ("0123456789abcdef/../00000012_1_2_3_4.jpg", False),
        ("00000012_1_2_3_4.jpg", False),
    ],
)
def test_what_is_a_name_of_a_crop(name, is_name):
    assert is_crop_name(name) is is_name


def test_what_is_a_folder_of_crops():
    assert is_crop_folder("0123456789abcdef") and not is_crop_folder("0123456789abcdefa")
    assert not is_crop_folder("photographs_of_us")


@pytest.fixture
def gallery(tmp_path):
    """A gallery's folder with one crop, and a file of somebody beside it and within it."""
    folder = tmp_path / "gallery"
    write_crop(Image.new("RGB", (8, 8)), folder / "crops" / NAME)
    for place in (tmp_path / "letter.txt", folder / "letter.txt", folder / "crops" / "letter.txt"):
        place.write_text("dear")
    return folder


def test_only_crops_within_the_folder_may_be_removed(gallery, tmp_path):
    assert crop_file(f"crops/{NAME}", gallery) == gallery / "crops" / NAME
    assert crop_file("crops/letter.txt", gallery) == gallery / "crops" / "letter.txt"  # of another maker, with its row
    for path in (
        "letter.txt",
        "other/letter.txt",
        "crops",
        "crops/../letter.txt",
        "crops/../../letter.txt",
        "crops/0123456789abcdef/../../../letter.txt",
        f"crops/{NAME[:16]}",  # a folder
        "crops/missing.jpg",
        str(tmp_path / "letter.txt"),
        str(gallery / "crops" / NAME),
        "",
    ):
        assert crop_file(path, gallery) is None, path
    (gallery / "crops" / "linked").symlink_to(tmp_path)
    (gallery / "crops" / "link.jpg").symlink_to(tmp_path / "letter.txt")
    assert crop_file("crops/linked/letter.txt", gallery) is None
    assert crop_file("crops/link.jpg", gallery) is None


def test_a_path_is_stored_relative_to_the_gallery_by_whatever_path_it_is_reached(gallery, tmp_path, monkeypatch):
    stored = f"crops/{NAME}"
    (tmp_path / "link").symlink_to(gallery, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    for folder in (gallery, tmp_path / "link", gallery.relative_to(tmp_path)):
        for path in (stored, str(gallery / stored), str(tmp_path / "link" / stored)):
            assert stored_crop_path(path, folder) == stored, (path, folder)
        for path in (
            str(tmp_path / "letter.txt"),
            str(gallery / "letter.txt"),
            str(gallery / "crops" / ".." / "letter.txt"),
            f"{gallery}-2/{stored}",
            "crops/../letter.txt",
            "crops",
        ):
            assert stored_crop_path(path, folder) is None, (path, folder)


def test_all_crops_are_found_also_what_a_killed_process_left_and_nothing_else(gallery, tmp_path):
    folder = gallery / "crops" / "0123456789abcdef"
    left = folder / "photograph_1_2_3_4.jpg.4711.tmp"
    for place in (left, folder / "notes.txt", folder / "00000012_1_2_3_4.jpg.tmp"):
        place.write_bytes(b"x")
    (folder / "00000013_1_2_3_4.jpg").symlink_to(tmp_path / "letter.txt")
    (gallery / "crops" / "fedcba9876543210").symlink_to(folder, target_is_directory=True)
    assert dict(saved_crops(gallery)) == {
        f"crops/{NAME}": gallery / "crops" / NAME,
        "crops/0123456789abcdef/photograph_1_2_3_4.jpg.4711.tmp": left,
    }
    assert list(saved_crops(tmp_path)) == []


def test_the_folder_goes_with_its_last_crop(gallery):
    folder = gallery / "crops" / "0123456789abcdef"
    other = folder / "00000013_1_2_3_4.jpg"
    other.write_bytes(b"x")
    remove_crop(gallery / "crops" / NAME)
    assert [path.name for path in folder.iterdir()] == [other.name]
    remove_crop(other)
    remove_crop(other)  # which another process has removed
    assert not folder.exists() and (gallery / "crops" / "letter.txt").exists()


def test_what_is_not_the_gallerys_is_noticed_at_any_depth(gallery, tmp_path):
    (gallery / "crops" / "letter.txt").unlink()
    assert not has_foreign_crops(gallery) and not has_foreign_crops(tmp_path)
    (gallery / "crops" / "0123456789abcdef" / "holiday.jpg").write_bytes(b"x")
    assert has_foreign_crops(gallery)
    (tmp_path / "crops").write_text("a file")
    assert has_foreign_crops(tmp_path)


def test_small_patches_keep_their_colour(tmp_path):
    """Stripes of red and blue, each one pixel wide, are a violet area in JPEGs with coarser colour."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:, 0::2], pixels[:, 1::2] = (220, 30, 30), (30, 30, 220)
    write_crop(Image.fromarray(pixels), tmp_path / "a" / "stripes.jpg")
    saved = np.asarray(Image.open(tmp_path / "a" / "stripes.jpg"), int)
    assert np.abs(saved - pixels).mean() < 10
    assert os.listdir(tmp_path / "a") == ["stripes.jpg"]


def test_a_crop_that_cannot_be_saved_leaves_nothing(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError("no space left")

    monkeypatch.setattr(crops.Path, "replace", full)
    with pytest.raises(OSError, match="no space left"):
        write_crop(Image.new("RGB", (8, 8)), tmp_path / "a" / "crop.jpg")
    assert os.listdir(tmp_path / "a") == []
