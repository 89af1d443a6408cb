"""Find a dataset's annotation file and read its records, whatever its format."""

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .formats import FORMATS, BenchmarkFormat

LISTED = 8  # names in a message


# --- finding the annotation ---------------------------------------------------------------------------------------


def _annotation_of(form: BenchmarkFormat, root: Path) -> Path | None:
    for name in form.annotations:
        for folder in (root, *(root / level for level in form.folders)):
            if (folder / name).is_file():
                return folder / name
    return None


def find_annotation(name: str, root: str | Path) -> Path:
    """
    The annotation file of a dataset, in `root` or in the dataset's own folder below it.

    Args:
        name: key of `FORMATS`.
        root: folder that the person gave.

    Raises:
        ValueError: unknown dataset; names those that exist.
        FileNotFoundError: no annotation; says where it was looked for, what is there and what to do.
    """
    if name not in FORMATS:
        raise ValueError(f"unknown dataset {name!r}; known: {', '.join(sorted(FORMATS))}")
    root = Path(root)
    found = _annotation_of(FORMATS[name], root)
    if found is None:
        raise FileNotFoundError(_nothing_found(name, root))
    return found


def detect_dataset(root: str | Path) -> str:
    """
    Which dataset lies in a folder, by the name of its annotation file.

    Raises:
        FileNotFoundError: none; says what is there.
        ValueError: several; names them.
    """
    root = Path(root)
    found = {name: path for name, form in FORMATS.items() if (path := _annotation_of(form, root)) is not None}
    if not found:
        names = ", ".join(name for form in FORMATS.values() for name in form.annotations)
        raise FileNotFoundError(f"no annotation file in {root}: looked for {names}. {_what_is_there(root)}")
    if len(found) > 1:
        listed = ", ".join(f"{name} ({path})" for name, path in found.items())
        raise ValueError(f"{root} holds several datasets: {listed}. Name the one that is meant")
    return next(iter(found))


def _nothing_found(name: str, root: Path) -> str:
    form = FORMATS[name]
    looked = " and ".join(str(folder) for folder in (root, *(root / level for level in form.folders)))
    message = f"no annotation file: looked for {' and '.join(form.annotations)} in {looked}. "
    message += _what_is_there(root, name)
    images = "the images" if form.image_folders == (".",) else "imgs/"
    message += f" Give the folder of {form.title} that holds {form.annotations[0]} and {images}"
    if name == "cuhk-pedes":
        message += "; `aga render DIR` makes a rendered set in this layout"
    return message


def _what_is_there(root: Path, wanted: str | None = None) -> str:
    """One sentence about what a folder without the wanted annotation holds."""
    if not root.is_dir():
        return f"{root} is a file, not a folder." if root.exists() else f"{root} does not exist."
    for name, form in FORMATS.items():
        here, above = _annotation_of(form, root), _annotation_of(form, root.absolute().parent)
        if here is not None and name != wanted:
            return f"{here} is the annotation of {name}."
        if above is not None and wanted in (None, name):
            return f"{above} lies one folder higher."
    others = sorted(path.name for path in root.glob("*.json"))
    if others:
        return f"There is {', '.join(others[:LISTED])}: rename it if that is the annotation."
    return f"The folder holds {listing(root)}."


def listing(folder: Path) -> str:
    """The first names in a folder, for a message."""
    names = sorted(path.name + ("/" if path.is_dir() else "") for path in folder.iterdir())
    if not names:
        return "nothing"
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


# --- reading records ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Malformed:
    """Stands for a record that could not be read."""

    reason: str


def _read_text(annotation: Path) -> str:
    try:
        return annotation.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{annotation}: not UTF-8 text ({error})") from error


def _read_json_list(annotation: Path) -> list[tuple[int, Any]]:
    text = _read_text(annotation)
    try:
        records = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{annotation}: not valid JSON ({error})") from error
    if not isinstance(records, list) or not records:
        raise ValueError(f"{annotation}: expected a non-empty list of records, one per image")
    return list(enumerate(records))


def _read_json_lines(annotation: Path) -> list[tuple[int, Any]]:
    records: list[tuple[int, Any]] = []
    for number, line in enumerate(_read_text(annotation).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            records.append((number, json.loads(line)))
        except (ValueError, RecursionError) as error:
            records.append((number, Malformed(f"not valid JSON ({error})")))
    if not records:
        raise ValueError(f"{annotation}: empty; expected one record a line")
    return records


def _read_csv(annotation: Path) -> list[tuple[int, Any]]:
    # csv wants the line ends as they are: a quoted caption may hold one.
    with annotation.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            return _csv_records(annotation, reader)
        except csv.Error as error:
            raise ValueError(f"{annotation}: line {reader.line_num}: not valid CSV ({error})") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{annotation}: not UTF-8 text ({error})") from error


def _csv_records(annotation: Path, reader: Any) -> list[tuple[int, Any]]:
    header: list[str] = next(reader, [])
    if len(set(header)) < len(header):
        raise ValueError(f"{annotation}: line 1: a column name appears twice: {', '.join(header)}")
    records: list[tuple[int, Any]] = []
    line = reader.line_num + 1
    for values in reader:
        if len(values) == len(header):
            # An empty camera or split means that the row has none.
            optional = {"split", "camera_id"}
            records.append((line, {key: v for key, v in zip(header, values) if v or key not in optional}))
        elif values:
            reason = f"{len(values)} values, but the header names {len(header)} columns"
            records.append((line, Malformed(f"{reason} (a caption with commas needs double quotes around it)")))
        line = reader.line_num + 1
    if not records:
        raise ValueError(f"{annotation}: no rows; expected a header and one row per caption")
    return records


_READERS: dict[str, Callable[[Path], list[tuple[int, Any]]]] = {
    ".json": _read_json_list,
    ".jsonl": _read_json_lines,
    ".csv": _read_csv,
}


def read_records(annotation: Path) -> list[tuple[int, Any]]:
    """
    The records of an annotation file, each with its place as in [`Place`]; a [`Malformed`] for one that is damaged.

    Raises:
        ValueError: the file cannot be read at all, or holds no record.
    """
    return _READERS[annotation.suffix](annotation)


def unify_own_records(numbered: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """One key for `caption` and `captions`, and the test split for every record of a set that names no split."""
    splitless = not any(isinstance(record, dict) and "split" in record for _, record in numbered)
    unified: list[tuple[int, Any]] = []
    for number, record in numbered:
        if isinstance(record, dict):
            record = dict(record)
            if splitless:
                record["split"] = "test"
            if "captions" in record and "caption" in record:
                record = Malformed("has both caption and captions; keep one of them")
            elif "captions" in record:
                record["caption"] = record.pop("captions")
            elif isinstance(record.get("caption"), str):
                record["caption"] = [record["caption"]]
        unified.append((number, record))
    return unified
