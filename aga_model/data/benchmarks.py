"""Benchmarks of text-based person search on disk, as `datasets.Dataset` with one row per image-caption pair."""

import json
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Image, Value

SPLITS = ("train", "val", "test")
FEATURES = Features(
    {
        "image": Image(decode=False),
        "caption": Value("string"),
        "person_id": Value("int64"),
        "image_id": Value("int64"),
        "camera_id": Value("string"),
        "split": Value("string"),
    }
)
CUHK_ANNOTATION = "reid_raw.json"
CUHK_FOLDER = "CUHK-PEDES"
RENDERED_ATTRIBUTES = "attributes.json"


def _find_annotation(root: Path) -> Path:
    """The annotation file in `root` or in the dataset's own folder below it."""
    candidates = [root / CUHK_ANNOTATION, root / CUHK_FOLDER / CUHK_ANNOTATION]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    looked = " and ".join(str(candidate) for candidate in candidates)
    raise FileNotFoundError(
        f"no annotation file: looked for {looked}. Give the folder that holds {CUHK_ANNOTATION} and imgs/; "
        "`aga render DIR` makes a rendered set in this layout"
    )


def _read_records(annotation: Path) -> list[dict[str, Any]]:
    try:
        records = json.loads(annotation.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{annotation}: not valid JSON ({error})") from error
    if not isinstance(records, list) or not records:
        raise ValueError(f"{annotation}: expected a non-empty list of records, one per image")
    return records


def _check_record(record: Any, where: str) -> None:
    """Raise ValueError, naming the record, for a missing key or caption."""
    if not isinstance(record, dict):
        raise ValueError(f"{where}: expected an object, got {type(record).__name__}")
    for key in ("split", "id", "file_path", "captions"):
        if key not in record:
            raise ValueError(f"{where}: key {key!r} is missing")
    named = f"{where} ({record['file_path']})"
    if record["split"] not in SPLITS:
        raise ValueError(f"{named}: split is {record['split']!r}, expected one of {', '.join(SPLITS)}")
    if not isinstance(record["id"], int):
        raise ValueError(f"{named}: id is {record['id']!r}, expected an integer")
    captions = record["captions"]
    if not isinstance(captions, list) or not captions:
        raise ValueError(f"{named}: has no caption; add one or remove the record")
    for position, caption in enumerate(captions):
        if not isinstance(caption, str) or not caption.strip():
            raise ValueError(f"{named}: caption {position} is empty; remove it or write one")


def load_cuhk_pedes(root: str | Path) -> dict[str, Dataset]:
    """
    Read a dataset in CUHK-PEDES's layout: `reid_raw.json` and `imgs/`.

    Args:
        root: folder with the annotation file, or the one above it.

    Returns:
        split name -> Dataset with `image` (path), `caption`, `person_id` (as in the file), `image_id` (position of
        the record in the file), `camera_id` (first folder of the file path) and `split`. Splits without records are
        left out.

    Raises:
        FileNotFoundError: no annotation file or an image that it names is missing.
        ValueError: a record is broken; names file and record.
    """
    annotation = _find_annotation(Path(root))
    rows: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    missing: list[str] = []
    for image_id, record in enumerate(_read_records(annotation)):
        _check_record(record, f"{annotation}: record {image_id}")
        path = annotation.parent / "imgs" / record["file_path"]
        if not path.is_file():
            missing.append(record["file_path"])
        folder = Path(record["file_path"]).parts[0]
        camera = folder if len(Path(record["file_path"]).parts) > 1 else None
        for caption in record["captions"]:
            rows[record["split"]].append(
                {
                    "image": {"path": str(path), "bytes": None},
                    "caption": caption,
                    "person_id": record["id"],
                    "image_id": image_id,
                    "camera_id": camera,
                    "split": record["split"],
                }
            )
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} images named in {annotation} are not under {annotation.parent / 'imgs'}, first: "
            f"{', '.join(missing[:3])}"
        )
    return {split: Dataset.from_list(found, features=FEATURES) for split, found in rows.items() if found}


LOADERS = {"cuhk-pedes": load_cuhk_pedes}


def is_rendered(root: str | Path) -> bool:
    """Whether the set under `root` was drawn by `aga render` (it carries the true attributes)."""
    return (_find_annotation(Path(root)).parent / RENDERED_ATTRIBUTES).is_file()


def load_benchmark(name: str, root: str | Path) -> dict[str, Dataset]:
    """Load a benchmark by name; ValueError for an unknown one, else as its loader."""
    if name not in LOADERS:
        raise ValueError(f"unknown dataset {name!r}; known: {', '.join(sorted(LOADERS))}")
    return LOADERS[name](root)
