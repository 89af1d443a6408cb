"""`aga gallery`: retention, purge, settings, and a deletion of files by whatever path they are named."""

import hashlib
import json
import time
from dataclasses import replace
from datetime import datetime

import command_line
import numpy as np
import pytest

from aga_model.cli.galleries.gallery import _oldest, _shown_age
from aga_model.cli.galleries.index import _find
from aga_model.gallery import AuditError, AuditLog, Filter, Gallery, GalleryRow

pytest.importorskip("lancedb", reason="the extra `search` is not installed")

MODEL = "a" * 64
DAY = 86_400.0


def aga(*arguments, code=0):
    return command_line.aga("gallery", *arguments, code=code)


@pytest.fixture
def gallery(tmp_path):
    """Five images that are 0, 10, ... 40 days old, and one without a time that came today."""
    made = Gallery.create(tmp_path / "g", MODEL, 8, "some/model")
    paths = [str(tmp_path / f"{number}.jpg") for number in range(6)]
    rows = [
        GalleryRow(path, f"{number:064x}", path, 20, 40, MODEL, time=time.time() - 10 * DAY * number)
        for number, path in enumerate(paths)
    ]
    rows[5] = replace(rows[5], time=None)
    made.add(np.eye(8, dtype=np.float32)[:6], rows)
    return tmp_path / "g"


def test_retention_erases_now_and_binds_everyone(gallery):
    assert "until they are deleted" in aga("retention", gallery).stdout
    assert "keeps its images for ever" in aga("purge", gallery, code=2).stderr
    shown = aga("retention", gallery, "--keep", "25d").stdout
    assert "images are kept for 25 days" in shown and "2 images erased, the gallery holds 4" in shown
    assert (
        "kept for 25 days" in aga("info", gallery).stdout and Gallery.open(gallery).settings.keep_seconds == 25 * DAY
    )
    assert "0 images erased, the gallery holds 4" in aga("purge", gallery).stdout
    assert "until they are deleted" in aga("retention", gallery, "--forever").stdout
    assert Gallery.open(gallery).settings.keep_seconds is None


@pytest.mark.parametrize("keep", ["0d", "30", "30m", "-1d", "d", "99999999999w", "\u0661d"])
def test_a_time_that_is_none_is_refused(gallery, keep):
    assert f"--keep {keep}" in aga("retention", gallery, "--keep", keep, code=2).stderr
    assert Gallery.open(gallery).count() == 6 and Gallery.open(gallery).settings.keep_seconds is None
    assert "not both" in aga("retention", gallery, "--keep", "1d", "--forever", code=2).stderr


def test_settings_are_changed_one_by_one(gallery, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    aga("settings", gallery, "--hide-faces", "--audit", "audit.jsonl")
    shown = aga("settings", gallery, "--purpose-required").stdout
    assert f"into {tmp_path / 'audit.jsonl'}" in shown and shown.count("yes") == 2
    aga("retention", gallery, "--keep", "52w")
    settings = Gallery.open(gallery).settings
    assert settings.hide_faces and settings.purpose_required and settings.keep_seconds == 364 * DAY
    assert settings.audit == str(tmp_path / "audit.jsonl")
    assert (
        "faces are hidden: no"
        in aga("settings", gallery, "--show-faces", "--no-audit", "--no-purpose-required").stdout
    )
    assert "not both" in aga("settings", gallery, "--audit", "a", "--no-audit", code=2).stderr


def test_what_is_erased_for_its_age_is_recorded(gallery, tmp_path):
    aga("settings", gallery, "--audit", tmp_path / "audit.jsonl", "--purpose-required")
    aga("retention", gallery, "--keep", "25d")
    assert "give --purpose" in aga("purge", gallery, code=2).stderr
    aga("purge", gallery, "--purpose", "daily job")
    aga("retention", gallery, "--keep", "15d", "--purpose", "a shorter time")
    aga("settings", gallery, "--no-audit", "--no-purpose-required")
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    change = "change of settings"
    assert [(line["action"], line["results"], line["purpose"]) for line in lines] == [
        ("settings", 0, change),
        ("settings", 0, change),
        ("purge", 2, change),
        ("settings", 0, "a shorter time"),
        ("purge", 1, "a shorter time"),
        ("settings", 0, change),
    ]
    assert json.loads(lines[-1]["query"]["settings"])["audit"] is None


def test_what_cannot_be_recorded_is_not_erased(gallery, tmp_path, monkeypatch):
    aga("settings", gallery, "--audit", tmp_path / "audit.jsonl")

    def full(*_arguments, **_options):
        raise AuditError("audit log cannot be written (no space left on device)")

    for command in (("retention", gallery, "--keep", "25d"), ("delete", gallery, "--source", tmp_path / "1.jpg")):
        with monkeypatch.context() as patch:
            patch.setattr(AuditLog, "append", full)
            assert "cannot be written" in aga(*command, code=2).stderr
        assert Gallery.open(gallery).count() == 6


@pytest.mark.parametrize("name", ["g/audit.jsonl", "g/skipped.json", "g/crops/a.jsonl"])
def test_no_log_lies_in_the_gallery(gallery, tmp_path, name):
    assert "give a file elsewhere" in aga("settings", gallery, "--audit", tmp_path / name, code=2).stderr
    assert (
        "give a file elsewhere" in aga("delete", gallery, "--person", "x", "--audit", tmp_path / name, code=2).stderr
    )
    (tmp_path / "mine.head").write_text("mine")
    assert "something else" in aga("settings", gallery, "--audit", tmp_path / "mine", code=2).stderr
    assert (tmp_path / "mine.head").read_text() == "mine" and Gallery.open(gallery).settings.audit is None


def test_a_source_is_deleted_by_whatever_path_it_is_named(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "home").symlink_to(tmp_path / "disk", target_is_directory=True)
    (tmp_path / "disk" / "a.jpg").touch()
    (tmp_path / "disk" / "b.jpg").touch()
    made = Gallery.create(tmp_path / "g", MODEL, 8, "some/model")
    paths = [str(tmp_path / "home" / name) for name in ("a.jpg", "b.jpg")]  # as it was indexed
    made.add(
        np.eye(8, dtype=np.float32)[:2],
        [GalleryRow(path, f"{number:064x}", path, 20, 40, MODEL) for number, path in enumerate(paths)],
    )
    shown = aga("delete", tmp_path / "g", "--source", tmp_path / "disk" / "a.jpg").stdout
    assert "1 images removed, the gallery holds 1" in shown
    assert [row.source for row in Gallery.open(tmp_path / "g").rows()] == [paths[1]]


def test_a_copy_is_deleted_by_its_own_name_too(tmp_path):
    for name in ("a.jpg", "copy.jpg"):
        (tmp_path / name).write_bytes(b"the same")
    made = Gallery.create(tmp_path / "g", MODEL, 8, "some/model")
    source, digest = str(tmp_path / "a.jpg"), hashlib.sha256(b"the same").hexdigest()
    made.add(np.eye(8, dtype=np.float32)[:1], [GalleryRow(source, digest, source, 20, 40, MODEL)])
    assert "letter by letter" in aga("delete", tmp_path / "g", "--person", "3").stderr
    assert "1 images removed" in aga("delete", tmp_path / "g", "--source", tmp_path / "copy.jpg").stdout


def test_a_purpose_needs_a_log_that_keeps_it(gallery):
    assert "give --audit FILE" in aga("settings", gallery, "--purpose-required", code=2).stderr
    assert not Gallery.open(gallery).settings.purpose_required


def test_a_gallery_among_its_images_is_found_through_a_link(tmp_path):
    (tmp_path / "disk" / "g" / "crops").mkdir(parents=True)
    (tmp_path / "home").symlink_to(tmp_path / "disk", target_is_directory=True)
    for name in ("a.png", "g/crops/crop.png"):
        (tmp_path / "disk" / name).write_bytes(b"\x89PNG\r\n\x1a\n")
    for images, out in (("home", "disk/g"), ("disk", "home/g"), ("home", "home/g")):
        found, _, _ = _find([str(tmp_path / images)], str(tmp_path / out))
        assert [path.name for path in found] == ["a.png"]


def test_a_deletion_that_is_not_finished_is_told_of(gallery, monkeypatch):
    from aga_model.gallery.lance.store import LanceStore

    with monkeypatch.context() as patch:
        patch.setattr(LanceStore, "_rewrite", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        source = str(gallery.parent / "1.jpg")
        result = aga("delete", gallery, "--source", source, code=2)
        assert "the deletion is not finished" in result.stderr and "No space left on device" in result.stderr
        shown = aga("info", gallery)
        assert "5 images" in shown.stdout and "is not finished, though no search finds them" in shown.stderr
    assert "not finished" not in aga("info", gallery).stderr
    assert Gallery.open(gallery).count(Filter(sources=[source])) == 0


@pytest.mark.parametrize(
    ("hours", "shown"),
    [(1, "1 hour"), (36, "36 hours"), (24, "1 day"), (8 * 24, "8 days"), (168, "1 week"), (8 * 168, "8 weeks"),
     (1 / 40, "90 seconds")],
)  # fmt: skip
def test_an_age_is_shown_as_it_is(hours, shown):
    assert _shown_age(3600 * hours) == shown


@pytest.mark.parametrize(
    ("age", "before"),
    [("12h", datetime(2026, 3, 1, 6)), ("30d", datetime(2026, 1, 30, 18)), ("8w", datetime(2026, 1, 4, 18)),
     ("2026-01-31", datetime(2026, 1, 31)), ("2026-01-31T18:30", datetime(2026, 1, 31, 18, 30))],
)  # fmt: skip
def test_older_than_is_before(age, before):
    assert _oldest(age, datetime(2026, 3, 1, 18)) == before


def test_compacting_tells_the_size_of_now_and_of_before(gallery, monkeypatch):
    size = [3 * 2**20]
    monkeypatch.setattr("aga_model.cli.galleries.gallery._bytes_in", lambda folder: size[0])
    monkeypatch.setattr(Gallery, "compact", lambda self: size.__setitem__(0, 2**20))
    assert "size: 1.0 MiB, was 3.0" in aga("compact", gallery).stdout


def test_photographs_from_before_1970_have_a_time(tmp_path):
    made = Gallery.create(tmp_path / "g", MODEL, 8, "some/model")
    rows = [
        GalleryRow(f"/{number}.jpg", f"{number:064x}", f"/{number}.jpg", 20, 40, MODEL, time=taken)
        for number, taken in enumerate((-1e6, -1.0, 0.0, 1e9, None))
    ]
    made.add(np.eye(8, dtype=np.float32)[:5], rows)
    assert "5 images, 4 of them with a time" in aga("info", tmp_path / "g").stdout
    result = aga("delete", tmp_path / "g", "--older-than", "1970-01-05", "--dry-run")
    assert "3 images would be removed, the gallery holds 5" in result.stdout
    assert "1 images have no time" in result.stderr and Gallery.open(tmp_path / "g").count() == 5
