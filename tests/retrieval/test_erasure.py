"""Deletion from a gallery's folder: no byte stays, wherever the folder lies and whatever interrupts it, and nothing
else is touched."""

import errno
import hashlib
import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from filelock import FileLock
from PIL import Image
from store_worker import DIM, MODEL, unit

from aga_model.gallery import Filter, Gallery, GalleryError, GalleryRow, GallerySettings

pytest.importorskip("lancedb", reason="the extra `search` is not installed")

from aga_model.gallery.lance import beside, files
from aga_model.gallery.lance import store as lance_store
from aga_model.gallery.lance.rows import to_arrow
from aga_model.gallery.lance.store import LanceStore

FIXTURES = Path(__file__).parents[1] / "fixtures" / "galleries"
NAME = "some/model"
SECRET = "zq7-anna-zv0"
BOX = (0, 0, 20, 40)


def still(number, person, **facts):
    path = f"/people/{person}/image-{number:04}.jpg"
    return replace(GalleryRow(path, f"{number:064x}", path, 20, 40, MODEL, person_id=person), **facts)


def crop_row(number, person, video="hall", **facts):
    source, digest = f"/videos/{video}.avi", hashlib.sha256(video.encode()).hexdigest()
    row = GalleryRow(source, digest, "", 20, 40, MODEL, frame=number, box=BOX, offset=number / 2, person_id=person)
    return replace(row, **facts)


def picture(number):
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (40, 20, 3), dtype=np.uint8))


def fill(folder):
    """20 images and 8 crops of which every fourth shows the secret person; all rows by id."""
    gallery = Gallery.create(folder, MODEL, DIM, NAME)
    stills = [still(n, SECRET if n % 4 == 0 else f"p{n % 4}") for n in range(20)]
    crops = [crop_row(n, SECRET if n % 4 == 0 else f"p{n % 4}") for n in range(8)]
    gallery.add(unit(20, seed=1), stills)
    gallery.add(unit(8, seed=2), crops, [picture(n) for n in range(8)])
    return gallery


def secret_traces():
    """Everything that is the secret person's: name, embeddings and the bytes of saved crops."""
    embeddings = [unit(20, seed=1)[n] for n in range(0, 20, 4)] + [unit(8, seed=2)[n] for n in range(0, 8, 4)]
    halves = [each.astype(np.float16).tobytes() for each in embeddings]
    return [SECRET.encode(), *(each.tobytes() for each in embeddings), *halves]


def found_traces(folder, traces):
    files = [path for path in folder.rglob("*") if path.is_file()]
    named = [path for path in folder.rglob("*") if SECRET in path.name]
    return named + [path for path in files if any(trace in path.read_bytes() for trace in traces)]


def others(gallery):
    """Ids of everyone else, and what their crops show."""
    rows = [row for row in gallery.rows() if row.person_id != SECRET]
    shown = {row.id: Path(row.path).read_bytes() for row in rows if row.box is not None}
    return {row.id for row in rows}, shown


def crop_files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg"))


def moved(made, tmp_path):
    (tmp_path / "nas").mkdir()
    return Path(shutil.move(made, tmp_path / "nas" / "g"))


def copied(made, tmp_path):
    shutil.copytree(made, tmp_path / "copy")
    shutil.rmtree(made)
    return tmp_path / "copy"


def linked(made, tmp_path):
    (tmp_path / "link").symlink_to(made)
    return tmp_path / "link"


def relative(made, tmp_path):
    os.chdir(made.parent)
    return Path(made.name)


@pytest.mark.parametrize("reach", [moved, copied, linked, relative], ids=lambda reach: reach.__name__)
@pytest.mark.parametrize("parent", ["plain", "linked"])
def test_deletion_finds_its_crops_wherever_the_gallery_lies(tmp_path, monkeypatch, reach, parent):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "disk").mkdir()
    (tmp_path / "home").symlink_to(tmp_path / "disk", target_is_directory=True)
    made = tmp_path / ("home" if parent == "linked" else "disk") / "g"
    fill(made)
    folder = reach(made, tmp_path)
    gallery = Gallery.open(folder)
    assert len(found_traces(folder.resolve(), secret_traces())) > 1
    before = others(gallery)
    assert len(before[1]) == 6 and all(Path(row.path).is_file() for row in gallery.rows() if row.box is not None)
    assert gallery.delete(Filter(person_ids=[SECRET])) == 7
    assert others(Gallery.open(folder)) == before
    assert found_traces(folder.resolve(), secret_traces()) == []
    assert len(crop_files(folder.resolve())) == 6


def test_a_copy_keeps_its_crops_when_the_original_loses_some(tmp_path):
    original = fill(tmp_path / "g")
    shutil.copytree(tmp_path / "g", tmp_path / "copy")
    original.delete(Filter(person_ids=[SECRET]))
    assert len(crop_files(tmp_path / "copy")) == 8 and len(crop_files(tmp_path / "g")) == 6
    assert all(Path(row.path).is_relative_to(tmp_path / "copy") for row in Gallery.open(tmp_path / "copy").rows()
               if row.box is not None)  # fmt: skip


@pytest.mark.parametrize("action", ["delete", "delete nobody", "compact"])
def test_crops_that_no_row_names_are_removed(tmp_path, action):
    """Of a process that was killed between saving and adding, or while it saved."""
    gallery = fill(tmp_path / "g")
    orphan = tmp_path / "g" / "crops" / ("a" * 16) / "00000003_0_0_20_40.jpg"
    orphan.parent.mkdir()
    for place in (orphan, orphan.with_name("photograph_1_2_3_4.jpg"), orphan.with_name(f"{orphan.name}.4711.tmp")):
        picture(99).save(place, "JPEG")
    if action == "compact":
        gallery.compact()
    else:
        gallery.delete(Filter(person_ids=["p1" if action == "delete" else "nobody"]))
    assert not orphan.parent.exists()
    assert sorted(crop_files(tmp_path / "g")) == sorted(
        Path(row.path).relative_to(tmp_path / "g").as_posix() for row in gallery.rows() if row.box is not None
    )


def test_a_crop_that_is_replaced_is_removed(tmp_path):
    gallery = fill(tmp_path / "g")
    gallery.add(unit(2, seed=3), [crop_row(0, SECRET), crop_row(1, "p1")])  # cut out again when they are shown
    assert len(crop_files(tmp_path / "g")) == 6
    changed = hashlib.sha256(b"another recording").hexdigest()
    gallery.add(unit(1, seed=4), [crop_row(0, "p9", source_hash=changed)], [picture(5)])
    assert gallery.count() == 21 and crop_files(tmp_path / "g") == [f"crops/{changed[:16]}/00000000_0_0_20_40.jpg"]


def test_what_a_changed_file_showed_goes_with_the_deletion_of_who_is_no_longer_there(tmp_path):
    gallery = fill(tmp_path / "g")
    traces = [unit(20, seed=1)[4].tobytes()]
    gallery.add(unit(1, seed=5), [replace(still(4, SECRET), source_hash="e" * 64, person_id="p5")])
    gallery.delete(Filter(person_ids=["p3"]))
    gallery.add(unit(1, seed=6), [replace(still(8, SECRET), source_hash="d" * 64, person_id="p5")])
    assert found_traces(tmp_path / "g", [unit(20, seed=1)[8].tobytes()])
    assert gallery.delete(Filter(person_ids=["nobody"])) == 0
    assert found_traces(tmp_path / "g", [*traces, unit(20, seed=1)[8].tobytes()]) == []


def test_a_deletion_that_finds_nothing_to_remove_does_not_write_the_gallery_anew(tmp_path):
    gallery = fill(tmp_path / "g")
    gallery.compact()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "g").rglob("*.lance")}
    assert gallery.delete(Filter(person_ids=["nobody"])) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "g").rglob("*.lance")} == before


STEPS = [
    (files, "replace_file"),
    (beside, "replace_file"),
    (lance_store, "sync_folder"),
    (lance_store, "write_record"),
    (beside, "remove_crop"),
    (os, "rename"),
    (shutil, "rmtree"),
    (LanceStore, "_create_index"),
    (LanceStore, "_sweep_crops"),
    (LanceStore, "_remove_skipped"),
]


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step[0].__name__}.{step[1]}")
@pytest.mark.parametrize("how", ["killed", "full disk"])
def test_a_deletion_that_is_interrupted_anywhere_is_finished_by_the_next_opening(
    tmp_path, monkeypatch, step, how, late
):
    folder = tmp_path / "g"
    before = others(fill(folder))
    (folder / "skipped.json").write_text(json.dumps([{"path": f"/x/{SECRET}.jpg", "reason": "damaged"}]))
    monkeypatch.setattr(LanceStore, "exact_rows", 10)
    Gallery.open(folder).build_index()
    owner, name = step
    real, calls = getattr(owner, name), []

    def failing(*arguments, **options):
        calls.append(name)
        if late:
            real(*arguments, **options)
        raise KeyboardInterrupt if how == "killed" else OSError(errno.ENOSPC, "No space left on device")

    gallery = Gallery.open(folder)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, failing)
        with pytest.raises((KeyboardInterrupt, GalleryError)) as caught:
            gallery.delete(Filter(person_ids=[SECRET]))
        assert calls
        if how == "full disk":
            assert "the deletion is not finished" in str(caught.value) and "No space left" in str(caught.value)
            assert Gallery.open(folder).count() == 21  # while the disk is still full
    with FileLock(folder / ".lock"):  # of a third process
        for reader in (gallery, Gallery.open(folder)):
            assert {row.person_id for row in reader.rows()} == {"p1", "p2", "p3"}
            assert len(reader.search(unit(1), 50)[0]) == reader.count() == 21
            assert ("is not finished" in reader.unfinished) == (folder / ".erasing").exists()
    opened = Gallery.open(folder)
    assert opened.unfinished == "" and others(opened) == before and opened.count() == 21
    assert opened.vector_index().kind == "IVF_RQ"
    assert found_traces(folder, secret_traces()) == [] and len(crop_files(folder)) == 6
    assert sorted(os.listdir(folder)) == sorted(
        [".lock", "crops", "gallery.json", "skipped.json", *(path.name for path in folder.glob("images-*.lance"))]
    )
    assert len(list(folder.glob("images-*"))) == 1


def test_a_deletion_ends_where_the_file_system_cannot_sync(tmp_path, monkeypatch):
    """As on some network storage."""

    def refuse(descriptor):
        raise OSError(errno.EINVAL, "Invalid argument")

    gallery = fill(tmp_path / "g")
    monkeypatch.setattr(os, "fsync", refuse)
    assert gallery.delete(Filter(person_ids=[SECRET])) == 7 and gallery.unfinished == ""
    assert found_traces(tmp_path / "g", secret_traces()) == []


def test_a_deletion_that_was_not_written_down_removed_nothing(tmp_path, monkeypatch):
    gallery = fill(tmp_path / "g")

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(lance_store, "replace_file", full)
        with pytest.raises(GalleryError, match=r"cannot be changed .*No space left"):
            gallery.delete(Filter(person_ids=[SECRET]))
    assert Gallery.open(tmp_path / "g").count() == 28 and len(crop_files(tmp_path / "g")) == 8


def test_an_addition_finishes_a_deletion_first(tmp_path, monkeypatch):
    gallery = fill(tmp_path / "g")
    with monkeypatch.context() as patch:
        patch.setattr(LanceStore, "_rewrite", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            gallery.delete(Filter(person_ids=[SECRET]))
    gallery.add(unit(1, seed=9), [still(100, "p9")])
    assert gallery.count() == 22 and found_traces(tmp_path / "g", secret_traces()) == []


def test_what_a_killed_compaction_left_goes_with_the_next_opening(tmp_path):
    fill(tmp_path / "g")
    shutil.copytree(tmp_path / "g" / "images-1.lance", tmp_path / "g" / "images-2.lance")
    shutil.copytree(tmp_path / "g" / "images-1.lance", tmp_path / "g" / "images-7.lance.removed")
    (tmp_path / "g" / "gallery.json.tmp").write_text("{")
    assert Gallery.open(tmp_path / "g").count() == 28
    assert sorted(path.name for path in (tmp_path / "g").iterdir()) == [
        ".lock", "crops", "gallery.json", "images-1.lance",
    ]  # fmt: skip


def test_readers_follow_a_gallery_that_is_written_anew(tmp_path):
    gallery = fill(tmp_path / "g")
    reader = Gallery.open(tmp_path / "g")
    assert reader.count() == 28 and len(reader.search(unit(1), 100)[0]) == 28
    gallery.delete(Filter(person_ids=[SECRET]))
    assert reader.count() == 21 and len(reader.search(unit(1), 100)[0]) == 21 and len(list(reader.rows())) == 21
    gallery.compact()
    assert reader.search(unit(1), 100)[0] == gallery.search(unit(1), 100)[0]
    embeddings = reader.embeddings()
    gallery.compact()
    gallery.compact()
    assert sum(len(ids) for ids, _ in embeddings) == 21


# --- the list of files that could not be read ---


def test_the_list_of_skipped_files_keeps_nobody_who_is_deleted(tmp_path):
    gallery = fill(tmp_path / "g")
    kept = [{"path": "/elsewhere/p2.jpg", "reason": "damaged"}]
    gone = [f"/people/{SECRET}/broken.jpg", f"/x/{SECRET.upper()}_2.jpg", "/people/p1/x.jpg"]
    file = tmp_path / "g" / "skipped.json"
    file.write_text(json.dumps([*kept, *({"path": path, "reason": "damaged"} for path in gone)]))
    gallery.delete(Filter(person_ids=[SECRET]))
    left = json.loads(file.read_text())
    assert [item["path"] for item in left] == ["/elsewhere/p2.jpg", "/people/p1/x.jpg"]
    gallery.delete(Filter(sources=["/people/p1/image-0001.jpg"]))  # whatever lies beside it may show the same
    assert json.loads(file.read_text()) == kept
    file.write_text("{damaged")
    gallery.delete(Filter(person_ids=["p2"]))
    assert json.loads(file.read_text()) == []


# --- files that are not the gallery's ---


def foreign_files(folder):
    """Files beside and inside of what a gallery writes, each with its content."""
    places = [
        folder.parent / "notes.txt",
        folder / "notes.txt",
        folder / "images-1.txt",
        folder / "crops" / "holiday.jpg",
        folder / "crops" / "0123456789abcdef" / "me.jpg",
        folder / "crops" / "0123456789abcdef" / "00000001_1_2_3.jpg",
        folder / "crops" / "album" / "00000001_1_2_3_4.jpg",
    ]
    for number, place in enumerate(places):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"mine {number}")
    return {place: place.read_text() for place in places}


def test_files_that_are_not_the_gallerys_stay(tmp_path):
    gallery = fill(tmp_path / "g")
    files = foreign_files(tmp_path / "g")
    gallery.delete(Filter(person_ids=[SECRET]))
    gallery.compact()
    gallery.delete(Filter(person_ids=["p1", "p2", "p3"]))
    Gallery.create(tmp_path / "g", MODEL, DIM, NAME, overwrite=True).add(unit(1), [still(1, "p1")])
    assert {place: place.read_text() for place in files} == files


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["a.jpg", "0123456789abcdef/me.jpg", "album/00000001_1_2_3_4.jpg"])
def test_a_folder_of_crops_without_a_gallery_is_somebody_elses(tmp_path, overwrite, name):
    place = tmp_path / "DIR" / "crops" / name
    place.parent.mkdir(parents=True)
    place.write_text("mine")
    with pytest.raises(GalleryError, match=r"holds other files \(crops\)"):
        Gallery.create(tmp_path / "DIR", MODEL, DIM, NAME, overwrite=overwrite)
    assert place.read_text() == "mine"


def test_overwriting_keeps_the_old_crops_until_the_new_gallery_is_there(tmp_path):
    fill(tmp_path / "g")
    gallery = Gallery.create(tmp_path / "g", MODEL, DIM, NAME, overwrite=True)
    assert len(crop_files(tmp_path / "g")) == 8
    gallery.add(unit(1, seed=7), [crop_row(50, "p1")], [picture(50)])
    assert crop_files(tmp_path / "g") == [Path(next(gallery.rows()).path).relative_to(tmp_path / "g").as_posix()]


def plant(folder, path):
    """A row as a stranger's gallery may hold it, which no row of this package's making would."""
    store = LanceStore.open(folder)
    row = replace(crop_row(77, "p77"), path="/x.jpg")
    table = to_arrow(unit(1, seed=77), [row])
    place = table.schema.get_field_index("path")
    store._table.add(table.set_column(place, table.schema.field(place), pa.array([path])))


@pytest.mark.parametrize(
    "path",
    [
        "{gallery}/crops/../../victim.txt",
        "crops/../../victim.txt",
        "crops/../notes.txt",
        "../victim.txt",
        "{victim}",
        "crops",
        "crops/link.jpg",
        "crops/link/victim.txt",
        "gallery.json",
    ],
)
def test_a_strangers_row_removes_no_file_outside_the_crops(tmp_path, path):
    folder = tmp_path / "g"
    fill(folder)
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    (folder / "notes.txt").write_text("mine")
    (folder / "crops" / "link.jpg").symlink_to(victim)
    (folder / "crops" / "link").symlink_to(tmp_path, target_is_directory=True)
    plant(folder, path.format(gallery=folder, victim=victim))
    gallery = Gallery.open(folder)
    assert gallery.delete(Filter(person_ids=["p77"])) == 1
    assert victim.read_text() == (folder / "notes.txt").read_text() == "mine" and (folder / "crops" / "link").is_dir()
    assert len(crop_files(folder)) >= 8 and gallery.count() == 28


@pytest.mark.parametrize("inner", ["data", "crops"])
def test_links_within_the_gallery_are_noticed(tmp_path, inner):
    folder = tmp_path / "g"
    gallery = fill(folder)
    place = folder / "images-1.lance" / "data" if inner == "data" else next((folder / "crops").iterdir())
    shutil.move(place, tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(GalleryError, match=f"{place.name} is a symbolic link"):
        gallery.delete(Filter(person_ids=[SECRET]))
    assert Gallery.open(folder).count() == 28 and len(os.listdir(tmp_path / "elsewhere")) > 0


def test_a_folder_is_one_by_whatever_path_it_is_named(tmp_path, monkeypatch):
    """The system follows a link before it goes up by `..`; LanceDB does not."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real" / "sub").mkdir(parents=True)
    (tmp_path / "lnk").symlink_to(tmp_path / "real" / "sub")
    fill(tmp_path / "real" / "g")
    other = Gallery.create(tmp_path / "g", MODEL, DIM, NAME)
    other.add(unit(1), [still(500, "mine")])
    gallery = Gallery.open("lnk/../g")
    assert gallery.count() == 28 and gallery.delete(Filter(person_ids=[SECRET])) == 7
    assert found_traces(tmp_path / "real", secret_traces()) == [] and len(crop_files(tmp_path / "real")) == 6
    assert other.count() == 1


@pytest.mark.parametrize("name", ["a\nb", "\udcff", "a\x07"])
def test_folder_names_that_lancedb_cannot_take_are_refused(tmp_path, name):
    with pytest.raises(GalleryError, match="the name of gallery"):
        Gallery.create(tmp_path / name, MODEL, DIM, NAME)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["embeddings-1.safetensors", "rows-1.jsonl", "images-1.lance/t", "images-1.lance"])
def test_names_like_a_gallerys_are_somebody_elses_where_there_is_none(tmp_path, overwrite, name):
    file = tmp_path / "mine" / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    with pytest.raises(GalleryError, match="holds other files"):
        Gallery.create(tmp_path / "mine", MODEL, DIM, NAME, overwrite=overwrite)
    assert file.read_text() == "mine"


def test_a_folder_with_a_tables_name_that_is_none_stays(tmp_path):
    gallery = fill(tmp_path / "g")
    mine = tmp_path / "g" / "images-9.lance" / "notes.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    gallery.delete(Filter(person_ids=[SECRET]))
    Gallery.open(tmp_path / "g").compact()
    assert mine.read_text() == "mine"


def test_a_killed_making_can_be_begun_again(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(lance_store, "write_record", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fill(tmp_path / "g")
    assert os.listdir(tmp_path / "g") and fill(tmp_path / "g").count() == 28


def test_settings_of_a_damaged_gallery_go_on_to_hold(tmp_path):
    gallery = fill(tmp_path / "g")
    gallery.change_settings(GallerySettings(hide_faces=True))
    file = tmp_path / "g" / "gallery.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format_version": 99, "dim": None}))
    new = Gallery.create(tmp_path / "g", MODEL, DIM, NAME, overwrite=True)
    new.add(unit(1), [still(1, "p1")])
    assert new.settings.hide_faces


def test_nothing_is_removed_through_links(tmp_path):
    folder = tmp_path / "g"
    gallery = fill(folder)
    shutil.move(folder / "crops", tmp_path / "elsewhere")
    (folder / "crops").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(GalleryError, match=r"g/crops is a symbolic link.*put what it points to in its place"):
        gallery.delete(Filter(person_ids=[SECRET]))
    assert gallery.count() == 28 and len(crop_files(tmp_path / "elsewhere")) == 8


@pytest.mark.parametrize(
    "name",
    ["gallery.json.tmp", ".erasing.tmp", "skipped.json.tmp", ".building", "images-9.lance", "images-1.lance.removed"],
)
@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("made_by", ["this version", "the version before"])
def test_links_with_names_of_the_gallerys_own_lead_nowhere(tmp_path, monkeypatch, name, kind, made_by):
    folder, victim = tmp_path / "g", tmp_path / "victim"
    if made_by == "this version":
        fill(folder)
    else:
        shutil.copytree(FIXTURES / "format_2", folder)
    monkeypatch.setattr(LanceStore, "exact_rows", 5)
    if kind == "folder":
        victim.mkdir()
    mine = victim / "mine.txt" if kind == "folder" else victim
    mine.write_text("mine")
    (folder / name).symlink_to(victim)
    gallery = Gallery.open(folder)
    gallery.change_settings(GallerySettings(hide_faces=True))
    gallery.add(unit(1, seed=3), [crop_row(90, "p1", video="other")], [picture(1)])
    gallery.build_index()
    gallery.delete(Filter(person_ids=["p1"]))
    gallery.compact()
    assert mine.read_text() == "mine" and (kind == "file" or os.listdir(victim) == ["mine.txt"])


def test_no_crop_is_saved_through_a_link(tmp_path):
    folder, victim = tmp_path / "g", tmp_path / "victim"
    gallery = fill(folder)
    victim.mkdir()
    row = crop_row(90, "p1", video="other")
    (folder / "crops" / row.source_hash[:16]).symlink_to(victim, target_is_directory=True)
    with pytest.raises(GalleryError, match="is a symbolic link"):
        gallery.add(unit(1, seed=3), [row], [picture(1)])
    assert os.listdir(victim) == [] and gallery.count() == 28


def test_a_crop_that_two_rows_name_goes_with_the_last_of_them(tmp_path):
    gallery = fill(tmp_path / "g")
    own = tmp_path / "g" / "crops" / "portrait.jpg"
    picture(1).save(own)
    rows = [crop_row(number, f"twin {number}", video="own", path=str(own)) for number in (1, 2)]
    gallery.add(unit(2, seed=8), rows)
    gallery.delete(Filter(person_ids=["twin 1"]))
    assert own.exists() and [row.path for row in gallery.rows(Filter(paths=[own]))] == [str(own)]
    gallery.delete(Filter(paths=[own]))
    assert not own.exists() and gallery.count() == 28


def test_crops_that_cannot_be_saved_add_nothing_and_leave_nothing(tmp_path, monkeypatch):
    gallery = fill(tmp_path / "g")
    real, calls = beside.write_crop, []

    def full(image, path):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(image, path)

    monkeypatch.setattr(beside, "write_crop", full)
    rows = [crop_row(number, "p1", video="other") for number in range(4)]
    with pytest.raises(GalleryError, match=r"cannot be changed .*No space left"):
        gallery.add(unit(4, seed=9), rows, [picture(n) for n in range(4)])
    assert gallery.count() == 28 and len(crop_files(tmp_path / "g")) == 8
    with pytest.raises(ValueError, match="needs a box of whole pixels"):
        gallery.add(unit(1), [replace(rows[0], box=(0.5, 0, 1, 1))], [picture(0)])
    with pytest.raises(ValueError, match="needs a box of whole pixels and the SHA-256"):
        gallery.add(unit(1), [replace(rows[0], source_hash="../../../../etc")], [picture(0)])
    with pytest.raises(ValueError, match="3 crops but 1 rows"):
        gallery.add(unit(1), rows[:1], [None] * 3)


@pytest.mark.parametrize("action", ["add", "delete", "compact", "build_index", "change_settings"])
def test_a_gallery_that_cannot_be_written_says_so(tmp_path, monkeypatch, action):
    gallery = fill(tmp_path / "g")
    arguments = {
        "add": (unit(1), [still(1, "p1")]),
        "delete": (Filter(person_ids=["p1"]),),
        "change_settings": (GallerySettings(hide_faces=True),),
    }.get(action, ())

    def refuse(*_arguments, **_options):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "g" / ".lock"))

    monkeypatch.setattr(lance_store.FileLock, "acquire", refuse)
    with pytest.raises(GalleryError, match=r"/g cannot be written \(permission denied\): make its folder writable"):
        getattr(gallery, action)(*arguments)
    assert Gallery.open(tmp_path / "g").count() == 28


# --- retention ---


def test_images_are_kept_as_long_as_the_gallery_says(tmp_path, monkeypatch):
    now = [1_800_000_000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    day = 86_400.0
    gallery = Gallery.create(tmp_path / "g", MODEL, DIM, NAME)
    dated = [still(n, f"p{n}", time=now[0] - n * day) for n in range(10)]
    gallery.add(unit(10, seed=1), dated)
    gallery.add(unit(3, seed=2), [crop_row(n, "undated") for n in range(3)], [picture(n) for n in range(3)])
    assert gallery.settings == GallerySettings() and gallery.purge() == 0
    gallery.change_settings(GallerySettings(keep_seconds=4.5 * day))
    assert gallery.expired == 5 and gallery.count() == 8  # ages 0 to 4, and those without a time
    assert found_traces(tmp_path / "g", [unit(10, seed=1)[7].tobytes()]) == []
    reader = Gallery.open(tmp_path / "g")
    now[0] += day
    assert {row.person_id for row in reader.rows()} == {"p0", "p1", "p2", "p3", "undated"}
    assert len(reader.search(unit(1), 50)[0]) == reader.count() == 7
    assert (
        sum(len(ids) for ids, _ in reader.embeddings()) == 7 and len(reader.search(unit(1), 50, Filter(["x"]))[0]) == 0
    )
    assert found_traces(tmp_path / "g", [unit(10, seed=1)[4].tobytes()])  # until the next write
    # A row that is added again keeps the day on which it came.
    reader.add(unit(1, seed=3), [crop_row(0, "undated", camera="hall")])
    assert reader.expired == 1 and found_traces(tmp_path / "g", [unit(10, seed=1)[4].tobytes()]) == []
    now[0] += 3.6 * day
    assert {row.person_id for row in reader.rows()} == set()
    assert reader.purge() == 7 and crop_files(tmp_path / "g") == []
    reader.add(unit(1), [still(1, "old", time=now[0] - 5 * day)])
    assert reader.expired == 9 and reader.count() == 0
    reader.add(unit(1), [still(2, "a clock that is ahead", time=now[0] + 400 * day)])
    assert reader.count() == 1
    now[0] += 5 * day
    assert reader.count() == 0
    reader.compact()
    assert reader.expired == 10 and found_traces(tmp_path / "g", [b"a clock that is ahead"]) == []
    overwritten = Gallery.create(tmp_path / "g", "b" * 64, DIM, "other", overwrite=True)
    overwritten.add(unit(1), [replace(still(1, "old", time=now[0] - 5 * day), model_hash="b" * 64)])
    assert overwritten.settings.keep_seconds == 4.5 * day and overwritten.count() == 0


def test_settings_stay_with_the_gallery(tmp_path):
    gallery = fill(tmp_path / "g")
    other = Gallery.open(tmp_path / "g")
    wanted = GallerySettings(3600.0 * 24 * 365, str(tmp_path / "audit.jsonl"), True, True)
    gallery.change_settings(wanted)
    assert other.settings == wanted
    gallery.compact()
    gallery.delete(Filter(person_ids=["p1"]))
    shutil.move(tmp_path / "g", tmp_path / "elsewhere")
    assert Gallery.open(tmp_path / "elsewhere").settings == wanted
    with pytest.raises(GalleryError, match="is empty"):
        Gallery.create(tmp_path / "new", MODEL, DIM, NAME).change_settings(wanted)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep_seconds": 0}, "keep_seconds of a gallery must be a positive number, got 0"),
        ({"keep_seconds": "30d"}, "keep_seconds .* got '30d'"),
        ({"hide_faces": 1}, "hide_faces of a gallery must be true or false"),
        ({"audit": "log"}, "absolute path"),
        ({"blur": True}, "has the setting blur, which this version does not know: update"),
        ([], "settings are"),
    ],
)
def test_settings_that_cannot_be_kept_to_are_refused(tmp_path, settings, message):
    fill(tmp_path / "g")
    file = tmp_path / "g" / "gallery.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"settings": settings}))
    with pytest.raises(GalleryError, match=rf"gallery\.json.*{message}"):
        Gallery.open(tmp_path / "g")


# --- galleries of the version before ---


@pytest.fixture
def old(tmp_path):
    """A gallery of format 2, made at /srv/people/gallery; its crops lie where it lies now."""
    shutil.copytree(FIXTURES / "format_2", tmp_path / "old")
    return tmp_path / "old"


def old_rows(folder):
    found = {}
    for row in Gallery.open(folder).rows():
        found[row.id] = replace(row, path=row.path.replace(str(folder), "GALLERY"))
    return found


def test_a_gallery_of_the_version_before_is_read_as_it_is(old):
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    gallery = Gallery.open(old)
    rows = list(gallery.rows())
    assert gallery.count() == len(rows) == 10 and gallery.settings == GallerySettings()
    embeddings = unit_of_fixture()
    hits = gallery.search(embeddings[7:8], 10)[0]
    assert hits[0].row.frame == 1 and hits[0].score == pytest.approx(1)
    assert [Path(row.path).read_bytes()[:2] for row in rows if row.box is not None] == [b"\xff\xd8"] * 4
    assert {path: path.read_bytes() for path in old.rglob("*") if path.is_file()} == before


def unit_of_fixture():
    rows = np.random.default_rng(0).normal(size=(10, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_a_gallery_of_the_version_before_is_written_in_todays_form(old):
    before, count = old_rows(old), Gallery.open(old).count()
    reader, started = Gallery.open(old), time.time()
    assert reader.count() == count
    Gallery.open(old).add(unit(1, seed=9), [still(100, "new")])
    assert json.loads((old / "gallery.json").read_text())["format_version"] == 3
    after = old_rows(old)
    assert before.items() <= after.items() and len(after) == 11 and reader.count() == 11
    assert all(row.added >= started for row in reader.rows())
    assert reader.delete(Filter(person_ids=["visitor-2"])) == 1
    assert crop_files(old) == [f"crops/{'f' * 16}/{n:08}_0_0_20_40.jpg" for n in (0, 1, 3)]


def test_a_deletion_that_the_version_before_was_interrupted_at_is_told_of(old):
    (old / ".erasing").touch()
    gallery = Gallery.open(old)
    assert "did not write down which: delete them again" in gallery.unfinished
    assert gallery.count() == 10 and not (old / ".erasing").exists() and len(crop_files(old)) == 4
