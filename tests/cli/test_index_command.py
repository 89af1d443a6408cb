"""`aga index`: what is asked of the model, the detector and the gallery, and what is recorded before it is gone."""

import json
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import command_line
import pytest
from PIL import Image

from aga_model.cli.galleries import index as command
from aga_model.files import Skipped
from aga_model.gallery import GalleryError, GalleryRow, GallerySettings, VectorIndex, VectorIndexReport
from aga_model.ingest import ImageFacts, IndexReport

MODEL = "a" * 64
REPORT = VectorIndexReport("IVF_RQ", 100, 1.0, 0.99, 10)


class Shelf:
    """A gallery of rows in memory that tells what happens to it."""

    model_name, unfinished, expired, is_made = "some/model", "", 0, True

    def __init__(self, folder: Path, happened: list, **settings):
        self.folder, self.happened, self.settings = folder, happened, GallerySettings(**settings)
        self.crops = folder / "crops"
        self.shelved: list[GalleryRow] = []
        self.before_removal = None
        self.index = VectorIndex("FLAT", 0)

    def rows(self):
        return iter(self.shelved)

    def count(self, where=None):
        return len(self.shelved)

    def vector_index(self):
        return self.index

    def build_index(self):
        self.happened.append("index built")
        return REPORT

    def require_model(self, model_hash, name):
        self.happened.append(("model required", model_hash, name))
        if model_hash != MODEL:
            raise GalleryError("the gallery was made with another model")

    def delete(self, where):
        if self.before_removal is not None:
            self.before_removal(where, len(where.paths), "delete")
        self.happened.append(("deleted", sorted(where.paths)))
        return len(where.paths)

    def __str__(self):
        return "shelf"


class Asked(SimpleNamespace):
    """A run's stand-ins, and what they were asked for."""


@pytest.fixture
def asked(monkeypatch, tmp_path):
    (tmp_path / "g").mkdir()
    happened: list = []
    asked = Asked(
        happened=happened, shelf=Shelf(tmp_path / "g", happened), exists=True, model_hash=MODEL, scenes=[], images=[],
        report=IndexReport(added=1, seconds=1.0), people=IndexReport(added=2, frames=1, seconds=1.0),
    )  # fmt: skip

    def load(name, device, trust_remote_code):
        happened.append(("model", name, trust_remote_code))
        return SimpleNamespace(model_hash=asked.model_hash, name=name, dim=8, rendered_only=False)

    def create(out, model_hash, dim, name, overwrite, first):
        happened.append(("created", model_hash, overwrite))
        return asked.shelf

    def detector(name, device, **trust):
        happened.append(("detector", name, trust))
        return "detector"

    def images(paths, *given):
        asked.images.append((paths, given))
        return asked.report

    def scenes(paths, found, encoder, gallery, settings, *given):
        asked.scenes.append((paths, settings))
        return asked.people

    for name, stand_in in {
        "Gallery": SimpleNamespace(exists=lambda out: asked.exists, open=lambda out: asked.shelf, create=create),
        "PersonEncoder": SimpleNamespace(from_pretrained=load),
        "load_detector": detector,
        "index_images": images,
        "index_scenes": scenes,
    }.items():
        monkeypatch.setattr(command, name, stand_in)
    Image.new("RGB", (8, 16)).save(tmp_path / "a.png")
    return asked


@pytest.fixture
def aga(tmp_path):
    def run(*options, code=0):
        arguments = [tmp_path / "a.png", "--model", "a model", "--out", tmp_path / "g", *options]
        return command_line.aga("index", *arguments, code=code)

    return run


@pytest.mark.parametrize("trusted", [False, True])
def test_nothing_is_trusted_unasked(asked, aga, trusted):
    aga("--scenes", "--detector", "a detector", *["--trust-remote-code"] * trusted)
    trust = {"trust_remote_code": True} if trusted else {}
    assert asked.happened[:2] == [("detector", "a detector", trust), ("model", "a model", trusted)]


def test_a_gallery_of_another_model_is_not_added_to(asked, aga):
    aga()
    assert ("model required", MODEL, "a model") in asked.happened and len(asked.images) == 1
    asked.model_hash = "b" * 64
    assert "another model" in aga(code=2).stderr and len(asked.images) == 1
    aga("--overwrite")
    assert ("created", "b" * 64, True) in asked.happened and len(asked.images) == 2


@pytest.mark.parametrize("recut", [False, True])
def test_scenes_are_searched_as_it_was_asked_for(asked, aga, tmp_path, recut):
    options = ("--min-height", 77, "--every", 2.5, "--started", "2026-01-31T18:30")
    aga("--scenes", *options, *["--recut"] * recut)
    ((paths, settings),) = asked.scenes
    assert paths == [tmp_path / "a.png"] and asked.images == []
    assert (settings.every, settings.min_height) == (2.5, 77)
    assert settings.started == datetime(2026, 1, 31, 18, 30).timestamp()
    assert settings.crops == (None if recut else tmp_path / "g" / "crops")


@pytest.mark.parametrize("every", ["0", "-1", "nan"])
def test_no_time_between_frames_is_refused(asked, aga, every):
    assert "above 0" in aga("--every", every, code=2).stderr and asked.happened == []


def test_every_file_that_was_left_out_is_listed(asked, aga, tmp_path):
    asked.report = IndexReport(seconds=1.0, skipped=[Skipped(Path("/x/c.jpg"), "damaged")])
    asked.people = IndexReport(seconds=1.0, skipped=[Skipped(Path("/x/a.mp4"), "no frames")])
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "b.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42" + b"\x00" * 12)  # a video by its first bytes
    (tmp_path / "elsewhere.json").write_text("mine")
    (tmp_path / "g" / "skipped.json").symlink_to(tmp_path / "elsewhere.json")
    shown = aga(tmp_path).stdout
    assert (tmp_path / "elsewhere.json").read_text() == "mine"
    assert [path.name for path in asked.scenes[0][0]] == ["b.mp4"]
    listed = json.loads((tmp_path / "g" / "skipped.json").read_text())
    assert not [one for one in listed if one["path"].endswith("b.mp4")]
    assert [(one["path"], one["reason"]) for one in listed if one["path"].startswith("/x/")] == [
        ("/x/a.mp4", "no frames"), ("/x/c.jpg", "damaged"),
    ]  # fmt: skip
    assert str(tmp_path / "notes.txt") in [one["path"] for one in listed]
    assert "skipped /x/a.mp4: no frames" in shown


def test_retention_is_told_of(asked, aga):
    assert "for a while only" not in aga().stderr
    asked.shelf.settings, asked.shelf.expired = GallerySettings(keep_seconds=60.0), 3
    result = aga()
    assert "keeps its images for a while only" in result.stderr
    assert "3 images are older than the gallery keeps them, and were erased" in result.stdout


def test_a_link_is_followed_before_going_up(tmp_path, monkeypatch):
    (tmp_path / "disk" / "people").mkdir(parents=True)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "people").symlink_to(tmp_path / "disk" / "people")
    monkeypatch.chdir(tmp_path)
    assert command._expanded(["home/people/../people", "home/people"]) == [
        tmp_path / "disk" / "people", tmp_path / "home" / "people",
    ]  # fmt: skip


def test_a_gallery_that_cannot_be_written_is_told_before_the_model_is_loaded(asked, aga, monkeypatch):
    monkeypatch.setattr(command.os, "access", lambda path, mode: path != asked.shelf.folder)
    assert "write-protected" in aga(code=2).stderr and asked.happened == []


def test_what_goes_is_recorded_first(asked, aga, tmp_path):
    """Images whose files can no longer be read go alone; a gallery that is overwritten goes whole."""
    log = tmp_path / "audit.jsonl"
    asked.shelf.settings = GallerySettings(audit=str(log))
    asked.shelf.shelved = [GalleryRow(f"/x/{name}.jpg", path=f"/x/{name}.jpg") for name in "abc"]
    asked.report = IndexReport(seconds=1.0, skipped=[Skipped(Path("/x/b.jpg"), "damaged")])
    assert "1 images removed from the gallery" in aga("--purpose", "nightly").stdout
    assert ("deleted", ["/x/b.jpg"]) in asked.happened
    asked.report = IndexReport(seconds=1.0)
    aga("--overwrite", "--purpose", "a new model")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["action"], line["results"], line["purpose"]) for line in lines] == [
        ("delete", 1, "nightly"), ("overwrite", 3, "a new model"),
    ]  # fmt: skip
    assert [happened for happened in asked.happened if happened[0] in ("deleted", "created")] == [
        ("deleted", ["/x/b.jpg"]), ("created", MODEL, True),
    ]  # fmt: skip
    log.unlink()
    asked.shelf.settings = GallerySettings(audit=str(tmp_path / "a.png" / "log"))
    assert "cannot be written" in aga("--overwrite", code=2).stderr
    assert [happened[0] for happened in asked.happened].count("created") == 1


@pytest.mark.parametrize(
    ("images", "index", "built"),
    [
        (10, VectorIndex("FLAT", 0), False),
        (11, VectorIndex("FLAT", 0), True),
        (100, VectorIndex("IVF_RQ", 100), False),
        (100, VectorIndex("IVF_RQ", 90), False),
        (100, VectorIndex("IVF_RQ", 89), True),
        (10, VectorIndex("IVF_RQ", 1), False),
    ],
)
def test_an_index_is_built_where_a_tenth_is_not_in_it(asked, monkeypatch, images, index, built):
    monkeypatch.setattr(command, "EXACT_ROWS", 10)
    asked.shelf.shelved, asked.shelf.index = [GalleryRow(str(number)) for number in range(images)], index
    assert command._build_index(asked.shelf) == (REPORT if built else None)


def test_facts_of_a_split(monkeypatch):
    records = [
        SimpleNamespace(path="b.jpg", camera_id="yard", person_name="007"),
        SimpleNamespace(path="a.jpg", camera_id=None, person_name="8"),
        SimpleNamespace(path="a.jpg", camera_id=None, person_name="8"),
    ]
    monkeypatch.setattr(command, "detect_dataset", lambda root: "own")
    monkeypatch.setattr("aga_model.data.split_records", lambda name, root: {"train": records[:1], "test": records})
    paths, facts_of = command._find_split(["set"], "test")
    assert paths == [Path("a.jpg").absolute(), Path("b.jpg").absolute()]
    assert facts_of(str(paths[0])) == ImageFacts(None, "8")
    assert facts_of(str(paths[1])) == ImageFacts("yard", "007")
    with pytest.raises(ValueError, match="has the splits train, test"):
        command._find_split(["set"], "val")


def test_the_gallerys_own_crops_are_no_images(tmp_path):
    """Whichever of the two is reached through a link."""
    (tmp_path / "disk" / "g" / "crops").mkdir(parents=True)
    (tmp_path / "home").symlink_to(tmp_path / "disk", target_is_directory=True)
    for name in ("a.png", "g/crops/crop.png"):
        Image.new("RGB", (8, 16)).save(tmp_path / "disk" / name)
    for images, out in (("disk", "disk/g"), ("home", "disk/g"), ("disk", "home/g")):
        found, videos, skipped = command._find([str(tmp_path / images)], str(tmp_path / out))
        assert ([path.name for path in found], videos, skipped) == (["a.png"], [], [])


def test_a_filter_of_nothing_removes_nothing(asked):
    assert command._remove(asked.shelf, {"/x/other.jpg"}) == 0 and asked.happened == []
    asked.shelf.shelved = [GalleryRow("/x/a.jpg", path="/x/a.jpg"), GalleryRow("/x/v.mp4", path="/x/crop.jpg")]
    assert command._remove(asked.shelf, {"/x/a.jpg", "/x/v.mp4"}) == 1
    assert asked.happened == [("deleted", ["/x/a.jpg"])]
