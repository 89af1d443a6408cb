"""Check a dataset on disk: against what was published, record by record, and image by image."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from aga_model.files import Skipped, UnreadableImageError, read_image

from ..annotations import detect_dataset
from ..formats import SplitSize
from .examination import Examination, examine
from .problems import Place, Severity

# Below this share of the published images, or above its inverse, a set is another one in the same layout.
_SAME_SET_SHARE = 0.5


@dataclass
class CheckReport:
    """
    Result of [`check_dataset`].

    Args:
        examination: the dataset, its sizes and its problems.
        images: image files that were decoded, or tried.
    """

    examination: Examination
    images: int

    @property
    def ok(self) -> bool:
        """Whether there is nothing but remarks."""
        return all(problem.severity is Severity.REMARK for problem in self.examination.problems)

    @property
    def published(self) -> dict[str, SplitSize]:
        """Published sizes that the set is compared with; empty for an own, a rendered or another set."""
        problems = self.examination.problems
        return {} if "rendered" in problems or "unpublished" in problems else self.examination.format.published

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        found = self.examination
        return {
            "dataset": found.name,
            "title": found.format.title,
            "root": str(found.root),
            "annotation": str(found.annotation),
            "image_folder": str(found.image_folder),
            "ok": self.ok,
            "images_decoded": self.images,
            "splits": {split: vars(size) for split, size in found.sizes.items()},
            "published": {split: vars(size) for split, size in self.published.items()},
            "problems": [problem.to_json() for problem in found.problems],
        }


def check_dataset(root: str | Path, name: str | None = None) -> CheckReport:
    """
    Examine a dataset completely, every image included, without stopping at a problem.

    Args:
        root: folder of the dataset, or the one above its own folder.
        name: dataset; detected by its annotation file when None.

    Raises:
        FileNotFoundError: no annotation file.
        ValueError: unknown dataset, several datasets, or an annotation that cannot be read at all.
    """
    found = examine(name or detect_dataset(root), root)
    _compare_with_published(found)
    there = [path for path in found.images if path not in found.missing]
    for skipped in _decode_all(there):
        place = Place(found.annotation, *found.images[str(skipped.path)], skipped.reason)
        found.problems.add("unreadable-image", place)
    return CheckReport(found, len(there))


def find_unreadable(name: str, root: str | Path) -> list[Skipped]:
    """
    The image files of a dataset that are missing or cannot be decoded, in the annotation's order.

    Every image is decoded. Give the paths to [`load_benchmark`] as `skip` to go on without them.

    Raises:
        FileNotFoundError, ValueError: as [`check_dataset`].
    """
    return _decode_all(examine(name, root).images)


def _decode_all(paths: Iterable[str]) -> list[Skipped]:
    """Decode files, in threads (PIL leaves Python's lock while it decodes); those that fail, in their order."""
    listed = list(paths)
    with ThreadPoolExecutor() as pool:
        tried = pool.map(_why_unreadable, listed)
        reasons = tqdm(tried, total=len(listed), desc="decoding", unit="image", leave=False)
        return [Skipped(Path(path), reason) for path, reason in zip(listed, reasons) if reason is not None]


def _why_unreadable(path: str) -> str | None:
    try:
        read_image(path)
    except UnreadableImageError as error:
        return error.reason
    return None


def _compare_with_published(found: Examination) -> None:
    """Add what the set is, where it is no published one, else every figure that differs from the published split."""
    if found.rendered:
        _remark(found, "rendered", "drawings, not photographs: figures measured on them say nothing about photographs")
        return
    published = found.format.published
    if not published:
        return
    images = sum(size.images or 0 for size in found.sizes.values())
    wanted = sum(size.images or 0 for size in published.values())
    if not wanted * _SAME_SET_SHARE <= images <= wanted / _SAME_SET_SHARE:
        detail = f"{images:,} images, while {found.format.title} has {wanted:,}: not compared with it"
        _remark(found, "unpublished", detail)
        return
    for split, size in published.items():
        if split not in found.sizes:
            place = Place(found.annotation, None, None, f"no record of {split}, published with {size.images:,} images")
            found.problems.add("missing-split", place, advice=found.format.count_advice)
            continue
        for what, number in vars(size).items():
            _compare(found, f"{what} in {split}", vars(found.sizes[split])[what], number)
    for split in found.sizes.keys() - published.keys():
        detail = f"{found.format.title} was published without a split {split}"
        found.problems.add("count", Place(found.annotation, None, None, detail))
    if any(size.identities is None for size in published.values()):
        persons = sum(size.identities or 0 for size in found.sizes.values())
        _compare(found, "identities in all splits", persons, found.format.identities)


def _compare(found: Examination, what: str, number: int, published: int | None) -> None:
    if published is not None and number != published:
        detail = f"{number:,} {what}, published are {published:,}"
        found.problems.add("count", Place(found.annotation, None, None, detail), advice=found.format.count_advice)


def _remark(found: Examination, kind: str, detail: str) -> None:
    found.problems.add(kind, Place(found.annotation, None, None, detail))
