"""Examine every record of a dataset in one pass: what is sound, what is counted, what is wrong."""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..annotations import LISTED, Malformed, find_annotation, listing, read_records, unify_own_records
from ..formats import CUHK_ANNOTATION, FORMATS, OWN, RENDERED_ATTRIBUTES, SPLITS, BenchmarkFormat, SplitSize
from .problems import Place, Problems, record_unit

_SAMPLED_PATHS = 64
_INT64 = 2**63


@dataclass(slots=True)
class ImageRecord:
    """
    A sound record: an image with its captions.

    Args:
        number: place of the record in the annotation, as in [`Place`].
        image_id: position of the image among all records, from 0.
        file_path: image file as the annotation names it.
        path: image file on disk.
        person_id: as in the annotation; text in an own set whose ids are not all whole numbers.
        person_name: the id as the annotation writes it, also where persons are numbered anew; with the split before it
            where each split counts its persons from the same number, so that one name means one person.
        split: train, val or test.
        camera_id: None where neither the record nor the file name tells it.
        captions: at least one, none empty.
    """

    number: int
    image_id: int
    file_path: str
    path: str
    person_id: int | str
    person_name: str
    split: str
    camera_id: str | None
    captions: list[str]


@dataclass
class Examination:
    """
    What one pass over a dataset found; image files were looked up, not opened.

    Args:
        name: dataset, a key of `FORMATS`.
        root: the folder that was given.
        annotation: the annotation file.
        image_folder: folder that the image paths are relative to.
        records: sound records, of images that are there or not, in the annotation's order.
        images: image file on disk -> number and image of the first record that names it, sound or not.
        missing: those of `images` that are not there.
        sizes: what the annotation says about each split, unsound records included as far as they can be counted.
        problems: everything that was found wrong.
    """

    name: str
    root: Path
    annotation: Path
    image_folder: Path
    records: list[ImageRecord]
    images: dict[str, tuple[int, str]]
    missing: set[str]
    sizes: dict[str, SplitSize]
    problems: Problems

    @property
    def format(self) -> BenchmarkFormat:
        """The dataset's format."""
        return FORMATS[self.name]

    @property
    def rendered(self) -> bool:
        """Whether `aga render` drew the set (the true attributes lie beside the annotation)."""
        beside = self.annotation.with_name(RENDERED_ATTRIBUTES)
        return self.annotation.name == CUHK_ANNOTATION and beside.is_file()


# --- one record ---------------------------------------------------------------------------------------------------


def _is_text(value: Any) -> bool:
    """Whether a value is text that can be stored: a lone surrogate, as in damaged JSON, cannot."""
    if not isinstance(value, str):
        return False
    try:
        return value.isascii() or bool(value.encode("utf-8"))
    except UnicodeEncodeError:
        return False


def _faults(record: Any, form: BenchmarkFormat, text_ids: bool) -> Iterator[tuple[str, str]]:
    """Kind and description of everything wrong with one record by itself."""
    if isinstance(record, Malformed):
        yield "bad-record", record.reason
        return
    if not isinstance(record, dict):
        yield "bad-record", f"expected an object, got {type(record).__name__}"
        return
    for key in ("split", form.person_key, form.path_key, form.caption_key):
        if key not in record:
            yield "missing-key", f"key {key!r} is missing; the record has {', '.join(map(str, record)) or 'no key'}"
    if "split" in record and record["split"] not in SPLITS:
        yield "bad-split", f"split is {record['split']!r}, expected one of {', '.join(SPLITS)}"
    if form.person_key in record:
        yield from _id_faults(record[form.person_key], form.person_key, text_ids)
    path = record.get(form.path_key, "-")
    if not _is_text(path) or not path.strip():
        yield "bad-path", f"{form.path_key} is {path!r}, expected the name of an image file"
    if form.caption_key in record:
        yield from _caption_faults(record[form.caption_key], form.caption_key)


def _id_faults(person_id: Any, key: str, text_ids: bool) -> Iterator[tuple[str, str]]:
    if isinstance(person_id, int) and not isinstance(person_id, bool) and -_INT64 <= person_id < _INT64:
        return
    if text_ids:
        if not _is_text(person_id) or not person_id.strip():
            yield "bad-id", f"{key} is {person_id!r}, expected a number or a name"
    else:
        yield "bad-id", f"{key} is {person_id!r}, expected an integer"


def _caption_faults(captions: Any, key: str) -> Iterator[tuple[str, str]]:
    if not isinstance(captions, list):
        yield "bad-caption", f"{key} is {type(captions).__name__}, expected a list of sentences"
        return
    if not captions:
        yield "no-caption", "has no caption; add one or remove the record"
    for position, caption in enumerate(captions):
        if not _is_text(caption):
            yield "bad-caption", f"caption {position} is {caption!r}, expected text"
        elif not caption.strip():
            yield "empty-caption", f"caption {position} is empty; remove it or write one"


# --- the whole set ------------------------------------------------------------------------------------------------


def examine(name: str, root: str | Path, skip: Collection[str] = ()) -> Examination:
    """
    Read a dataset and collect everything that is wrong with it, in one pass that stops at nothing.

    Args:
        name: key of `FORMATS`.
        root: folder with the annotation, or the one above the dataset's own folder.
        skip: image files on disk to leave out, with their records.

    Raises:
        FileNotFoundError: as [`find_annotation`].
        ValueError: unknown dataset, or an annotation that cannot be read at all.
    """
    annotation = find_annotation(name, root)
    form = FORMATS[name]
    numbered = read_records(annotation)
    if name == OWN:
        numbered = unify_own_records(numbered)
    image_folder = _find_image_folder(annotation, form, [record for _, record in numbered])
    pass_ = _Pass(annotation, form, image_folder, own=name == OWN)
    skipped = frozenset(skip)
    for position, (number, record) in enumerate(numbered):
        path = _path_of(record, form, image_folder)
        if path is None or path not in skipped:
            pass_.take(position, number, record, path)
    pass_.finish()
    return Examination(
        name,
        Path(root),
        annotation,
        image_folder,
        pass_.records,
        pass_.images,
        pass_.missing,
        pass_.sizes(),
        pass_.problems,
    )


def _path_of(record: Any, form: BenchmarkFormat, image_folder: Path) -> str | None:
    """The image file of a record on disk, None where it names none."""
    named = record.get(form.path_key) if isinstance(record, dict) else None
    return str(image_folder / named) if isinstance(named, str) and named.strip() else None


def _find_image_folder(annotation: Path, form: BenchmarkFormat, records: list[Any]) -> Path:
    """The one of the format's image folders that holds the most of a sample of images; the first on a tie."""
    candidates = [annotation.parent / folder for folder in form.image_folders]
    if len(candidates) == 1:
        return candidates[0]
    sample = records[:: max(1, len(records) // _SAMPLED_PATHS)]

    def hits(folder: Path) -> int:
        paths = (_path_of(record, form, folder) for record in sample)
        return sum(path is not None and os.path.isfile(path) for path in paths)

    return max(candidates, key=hits)


@dataclass
class _Tally:
    """Counts of one split as the annotation has them, sound or not."""

    identities: dict[Any, tuple[int, str | None]] = field(default_factory=dict)  # id -> record that has it first
    images: int = 0
    captions: int = 0


class _Pass:
    """The pass over the records of a set: what is sound, what is counted, what is wrong."""

    def __init__(self, annotation: Path, form: BenchmarkFormat, image_folder: Path, own: bool):
        self.annotation = annotation
        self.form = form
        self.image_folder = image_folder
        self.own = own
        self.problems = Problems()
        self.records: list[ImageRecord] = []
        self.images: dict[str, tuple[int, str]] = {}
        self.missing: set[str] = set()
        self.tallies = {split: _Tally() for split in SPLITS}
        self.by_path: dict[str, ImageRecord] = {}
        self.names: dict[int | str, int | str] = {}

    def sizes(self) -> dict[str, SplitSize]:
        """Split -> what the annotation says that it holds; splits without a record are left out."""
        return {
            split: SplitSize(len(tally.identities), tally.images, tally.captions)
            for split, tally in self.tallies.items()
            if tally.images
        }

    def take(self, position: int, number: int, record: Any, path: str | None) -> None:
        """Examine one record, and keep it if it is sound."""
        image: str | None = record[self.form.path_key] if path is not None else None
        faults = list(_faults(record, self.form, text_ids=self.own))
        for kind, detail in faults:
            advice = self.form.key_advice.get(self.annotation.name, "") if kind == "missing-key" else ""
            self.problems.add(kind, Place(self.annotation, number, image, detail), advice=advice)
        earlier = None if faults or path is None else self.by_path.get(path)
        if isinstance(record, dict):
            self._count(record, number, image, again=self.own and earlier is not None)
        if path is None or image is None:
            return
        self.images.setdefault(path, (number, image))
        if faults:
            return
        captions = record[self.form.caption_key]
        person_id, split = record[self.form.person_key], record["split"]
        if earlier is not None:
            if not self._accept_again(earlier, number, image, person_id, split):
                return
            if self.own:
                earlier.captions.extend(captions)
                return
        camera = self._camera(record, image)
        kept = ImageRecord(number, position, image, path, person_id, str(person_id), split, camera, list(captions))
        self.records.append(kept)
        self.by_path.setdefault(path, kept)

    def finish(self) -> None:
        """Examine what only the whole set shows."""
        if self.own:
            self.names = _number_persons(self.records)
        self._find_shared_identities()
        if not self.own:
            self._check_training_ids()
        self._find_missing_images()

    def _place(self, record: ImageRecord, detail: str) -> Place:
        return Place(self.annotation, record.number, record.file_path, detail)

    def _camera(self, record: dict[str, Any], image: str) -> str | None:
        if self.own and record.get("camera_id") not in (None, ""):
            return str(record["camera_id"])
        return self.form.camera_of(image)

    def _count(self, record: dict[str, Any], number: int, image: str | None, again: bool) -> None:
        split, captions = record.get("split"), record.get(self.form.caption_key)
        if split not in SPLITS:
            return
        tally = self.tallies[split]
        tally.images += not again
        tally.captions += len(captions) if isinstance(captions, list) else 0
        person_id = record.get(self.form.person_key)
        if isinstance(person_id, int | str):
            tally.identities.setdefault(person_id, (number, image))

    def _accept_again(self, earlier: ImageRecord, number: int, image: str, person_id: Any, split: str) -> bool:
        """Note that a file is named again; False where the two records cannot both be right."""
        there = f"{record_unit(self.annotation)} {earlier.number}"
        if split != earlier.split:
            detail = f"the file is in {split} here and in {earlier.split} at {there}"
        elif person_id != earlier.person_id and self.own:
            detail = f"the file shows person {person_id!r} here and {earlier.person_id!r} at {there}"
        else:
            if not self.own:
                other = "" if person_id == earlier.person_id else f", as person {earlier.person_id}"
                detail = f"the file is named at {there} already{other}"
                self.problems.add("duplicate-image", Place(self.annotation, number, image, detail))
            return True
        self.problems.add("conflicting-image", Place(self.annotation, number, image, detail))
        return False

    def _find_shared_identities(self) -> None:
        first: dict[int | str, ImageRecord] = {}
        shared: dict[tuple[int | str, str], tuple[ImageRecord, ImageRecord]] = {}
        for record in self.records:
            earlier = first.setdefault(record.person_id, record)
            if earlier.split != record.split:
                shared.setdefault((record.person_id, record.split), (record, earlier))
        if not shared:
            return
        restarts = self._numbering_restarts()
        for record in self.records if restarts else ():
            record.person_name = f"{record.split}/{record.person_name}"
        kind = "restarted-ids" if restarts else "shared-identity"
        unit = record_unit(self.annotation)
        for (person_id, split), (record, earlier) in shared.items():
            there = f"{earlier.split} at {unit} {earlier.number}"
            detail = f"id {self.names.get(person_id, person_id)} is in {split} here and in {there}"
            self.problems.add(kind, self._place(record, detail))

    def _numbering_restarts(self) -> bool:
        """
        Whether a published set only numbers the persons of each split anew.

        So it is where the splits hold exactly what was published, their persons add up to those of the set, and the
        ids of each split run without a gap from the same first id.
        """
        published, sizes = self.form.published, self.sizes()
        if not published or sizes.keys() != published.keys():
            return False
        if any(not sizes[split].agrees_with(size) for split, size in published.items()):
            return False
        if sum(size.identities or 0 for size in sizes.values()) != self.form.identities:
            return False
        ids = [self.tallies[split].identities.keys() for split in published]
        lowest = min(ids[0])
        return all(own == set(range(lowest, lowest + len(own))) for own in ids)

    def _check_training_ids(self) -> None:
        """Other code bases number a classifier's outputs by these ids and fail, late, where they have gaps."""
        first = {key: place for key, place in self.tallies["train"].identities.items() if isinstance(key, int)}
        ids = sorted(first)
        if ids and ids[0] not in (0, 1):
            detail = f"the lowest training id is {ids[0]}, expected 0 or 1"
            self.problems.add("first-id", Place(self.annotation, *first[ids[0]], detail))
        for before, after in pairwise(ids):
            if after > before + 1:
                gone = f"id {before + 1}" if after == before + 2 else f"ids {before + 1} to {after - 1}"
                detail = f"no training image has {gone}, the next is {after}"
                self.problems.add("id-gap", Place(self.annotation, *first[after], detail), count=after - before - 1)

    def _find_missing_images(self) -> None:
        listed: dict[str, set[str]] = {}
        self.missing = {path for path in self.images if not _is_there(path, listed)}
        if not self.missing:
            return
        missing = {path: place for path, place in self.images.items() if path in self.missing}
        advice = _layout_advice(self.annotation, self.image_folder, [image for _, image in missing.values()])
        for path, place in missing.items():
            self.problems.add("missing-image", Place(self.annotation, *place, f"no file {path}"), advice=advice)


def _number_persons(records: list[ImageRecord]) -> dict[int | str, int | str]:
    """
    Give persons whole numbers: their ids where all are, else from 0 in the order of their names.

    Returns:
        number -> id in the annotation.
    """
    labels = {record.person_id for record in records}
    numbers: dict[int | str, int | None] = {label: _whole_number(label) for label in labels}
    if None in numbers.values():
        by_name = {name: number for number, name in enumerate(sorted({str(label) for label in labels}))}
        numbers = {label: by_name[str(label)] for label in labels}
    names: dict[int | str, int | str] = {}
    for record in records:
        number = numbers[record.person_id]
        assert number is not None
        names[number] = record.person_id
        record.person_id = number
    return names


def _whole_number(label: int | str) -> int | None:
    """The number that a label writes in the usual way: 007 is a name."""
    if isinstance(label, int):
        return label
    try:
        number = int(label)
    except ValueError:
        return None
    return number if str(number) == label and -_INT64 <= number < _INT64 else None


def _is_there(path: str, listed: dict[str, set[str]]) -> bool:
    """Whether a file exists; folders are listed once, which is far quicker than asking for every file."""
    folder, name = os.path.split(path)
    if folder not in listed:
        try:
            with os.scandir(folder) as entries:
                listed[folder] = {entry.name for entry in entries if _is_file(entry)}
        except OSError:
            listed[folder] = set()
    return name in listed[folder]


def _is_file(entry: os.DirEntry) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link that leads to itself
        return False


def _layout_advice(annotation: Path, image_folder: Path, missing: list[str]) -> str:
    """What was found where the images should be, and what to do."""
    first = missing[0]
    if not image_folder.is_dir():
        advice = f"there is no folder {image_folder}; {annotation.parent} holds {listing(annotation.parent)}"
    else:
        advice = f"{image_folder} holds {listing(image_folder)}"
    if "\\" in first:
        return f"{advice}: the paths are written with backslashes, write them with /"
    for parent in (annotation.parent, image_folder):
        for folder in sorted(parent.iterdir()) if parent.is_dir() else ():
            if (folder / first).is_file():
                return f"{advice}: {folder / first} is there, so move what is in {folder} to {image_folder}"
    heads = {image.partition("/")[0] for image in missing if "/" in image}
    absent = sorted(head for head in heads if not (image_folder / head).is_dir())
    if absent:
        advice += f"; not there at all: {', '.join(absent[:LISTED])}"
    return f"{advice}. Unpack the images again, or train on those that are there with --skip_unreadable true"
