"""Benchmarks of text-based person search on disk, as `datasets.Dataset` with one row per image-caption pair."""

from collections.abc import Collection
from itertools import chain
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, Image, Value

from .checking.examination import Examination, ImageRecord, examine
from .checking.problems import Severity
from .formats import CUHK_ANNOTATION, FORMATS, RENDERED_ATTRIBUTES, SPLITS

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

_FEWEST_HELD_OUT = 2


def load_benchmark(name: str, root: str | Path, skip: Collection[str] = ()) -> dict[str, Dataset]:
    """
    Load a dataset that is whole and consistent; `aga check-data` reports what is wrong with one that is not.

    Args:
        name: `cuhk-pedes`, `icfg-pedes`, `rstp-reid`, `ufine6926`, or `own` for a folder of images with
            `metadata.jsonl` or `metadata.csv`.
        root: folder with the annotation file, or the one above the dataset's own folder.
        skip: image files to leave out with their captions, as [`~aga_model.data.check.find_unreadable`] names them.

    Returns:
        split name -> Dataset with

        - `image`: path of the file, not decoded;
        - `caption`;
        - `person_id`: as in the annotation; an own set whose ids are not all whole numbers has its persons numbered
          from 0 in the order of their names ([`split_records`] has the names);
        - `image_id`: position of the record in the annotation, from 0;
        - `camera_id`: of CUHK-PEDES the first folder of the path (`cam_a`, `CUHK03`, ...), of RSTPReid and ICFG-PEDES
          MSMT17's camera from the file name (`0000_c14_0031.jpg` -> `c14`, `0627_010_05_0303afternoon_1591_0.jpg`
          -> `c5`), of an own set what the record says, else None;
        - `split`.

        Splits without records are left out. An own set that names no split is all `test`.

    Raises:
        FileNotFoundError: no annotation file, or images that it names are missing.
        ValueError: unknown dataset, or a broken record or set; names file, record and key.
    """
    return {split: _to_dataset(records) for split, records in split_records(name, root, skip).items()}


def split_records(name: str, root: str | Path, skip: Collection[str] = ()) -> dict[str, list[ImageRecord]]:
    """
    The records of a dataset by split, one per image, with the persons' names as the annotation writes them; arguments
    and errors as for [`load_benchmark`].
    """
    examination = examine(name, root, skip)
    _refuse_errors(examination)
    by_split: dict[str, list[ImageRecord]] = {split: [] for split in SPLITS}
    for record in examination.records:
        by_split[record.split].append(record)
    return {split: records for split, records in by_split.items() if records}


def _refuse_errors(examination: Examination) -> None:
    """Raise for the first error of a set, and say how many there are."""
    errors = examination.problems.of(Severity.ERROR)
    if not errors:
        return
    first = errors[0]
    if first.kind == "missing-image":
        names = ", ".join(str(place.image) for place in first.places[:3])
        raise FileNotFoundError(
            f"{first.count} images named in {examination.annotation} are not under {examination.image_folder}, first: "
            f"{names}; {first.advice}"
        )
    more = sum(problem.count for problem in errors) - 1
    message = str(first.places[0]) + (f" ({first.advice})" if first.advice else "")
    raise ValueError(message + (f"; and {more} more: `aga check-data` lists them" if more else ""))


def _to_dataset(records: list[ImageRecord]) -> Dataset:
    captions = [record.captions for record in records]
    per_caption = np.repeat(np.arange(len(records)), [len(own) for own in captions]).tolist()
    rows = [records[index] for index in per_caption]
    columns = {
        "image": [{"path": record.path, "bytes": None} for record in rows],
        "caption": list(chain.from_iterable(captions)),
        "person_id": [record.person_id for record in rows],
        "image_id": [record.image_id for record in rows],
        "camera_id": [record.camera_id for record in rows],
        "split": [record.split for record in rows],
    }
    return Dataset.from_dict(columns, features=FEATURES)


def has_validation_split(name: str) -> bool:
    """Whether a dataset was published with a validation split; an own set may have one."""
    return "val" in FORMATS[name].published


def hold_out_identities(train: Dataset, share_or_count: float | int, seed: int) -> tuple[Dataset, Dataset]:
    """
    Split training identities off for validation, for a dataset without a validation split.

    The choice depends on the set of identities, the number and the seed alone.

    Args:
        train: split of [`load_benchmark`].
        share_or_count: a share of the identities in (0, 1), rounded to at least two (one person is always found), or
            their number, at least two.
        seed: of the choice.

    Returns:
        The training split without the chosen identities, and a validation split with all rows of them; both keep the
        order of rows.

    Raises:
        ValueError: the number leaves nobody to train on, or fewer than two to validate on.
    """
    person_ids = np.asarray(train["person_id"][:])
    identities = np.unique(person_ids)
    is_share = isinstance(share_or_count, float) and 0 < share_or_count < 1
    count = max(_FEWEST_HELD_OUT, round(share_or_count * len(identities))) if is_share else share_or_count
    if not isinstance(count, int) or not _FEWEST_HELD_OUT <= count < len(identities):
        raise ValueError(
            f"cannot hold out {share_or_count} of {len(identities)} training identities: give a share between 0 and "
            f"1 or a number from {_FEWEST_HELD_OUT} to {len(identities) - 1}"
        )
    chosen = np.random.default_rng(seed).permutation(identities)[:count]
    held_out = np.isin(person_ids, chosen)
    validation = train.select(np.flatnonzero(held_out)).to_dict()
    validation["split"] = ["val"] * int(held_out.sum())
    return train.select(np.flatnonzero(~held_out)), Dataset.from_dict(validation, features=FEATURES)


def is_rendered(root: str | Path) -> bool:
    """Whether the set under `root` was drawn by `aga render` (it carries the true attributes)."""
    levels = (Path(root), *(Path(root) / level for level in FORMATS["cuhk-pedes"].folders))
    return any(all((level / name).is_file() for name in (CUHK_ANNOTATION, RENDERED_ATTRIBUTES)) for level in levels)
