"""What can be wrong with a dataset on disk: kinds of problems, how grave they are, and where they were found."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

KEPT_PLACES = 10


class Severity(StrEnum):
    """
    How grave a problem is: nothing loads the set (`error`), the set loads but is not what it should be (`warning`),
    or it is only worth knowing (`remark`).
    """

    ERROR = "error"
    WARNING = "warning"
    REMARK = "remark"


# kind -> (severity, what its count counts)
KINDS = {
    "bad-record": (Severity.ERROR, "records that cannot be read"),
    "missing-key": (Severity.ERROR, "keys missing in records"),
    "bad-split": (Severity.ERROR, "records with an unknown split"),
    "bad-id": (Severity.ERROR, "records whose person id is none"),
    "bad-path": (Severity.ERROR, "records without the name of an image file"),
    "no-caption": (Severity.ERROR, "records without a caption"),
    "bad-caption": (Severity.ERROR, "captions that are not text"),
    "empty-caption": (Severity.ERROR, "empty captions"),
    "conflicting-image": (Severity.ERROR, "records that contradict an earlier one of the same image file"),
    "shared-identity": (Severity.ERROR, "identities in more than one split"),
    "missing-image": (Severity.ERROR, "image files that are not there"),
    "unreadable-image": (Severity.ERROR, "image files that cannot be decoded"),
    "duplicate-image": (Severity.WARNING, "records that name an image file again"),
    "first-id": (Severity.WARNING, "training ids that start neither at 0 nor at 1"),
    "id-gap": (Severity.WARNING, "ids missing between the first and the last training id"),
    "count": (Severity.WARNING, "figures that differ from the published split"),
    "missing-split": (Severity.WARNING, "published splits without a record"),
    "restarted-ids": (Severity.REMARK, "identities whose number is also used in another split"),
    "unpublished": (Severity.REMARK, "figures far from the published ones: another set in this layout"),
    "rendered": (Severity.REMARK, "sets of drawings made by `aga render`"),
}


@dataclass(frozen=True)
class Place:
    """
    Where a problem is.

    Args:
        file: the annotation file.
        record: position of the record in a JSON list, from 0, or line of the file, from 1; None for the whole file.
        image: the image file that the record names, as far as it is known.
        detail: what is wrong there.
    """

    file: Path
    record: int | None
    image: str | None
    detail: str

    @property
    def unit(self) -> str:
        """What `record` counts: `record` or `line`."""
        return record_unit(self.file)

    def __str__(self) -> str:
        where = str(self.file)
        if self.record is not None:
            where += f": {self.unit} {self.record}"
        if self.image is not None:
            where += f" ({self.image})"
        return f"{where}: {self.detail}"

    def to_json(self) -> dict[str, Any]:
        """As JSON values; the key of the position says what it counts."""
        return {"file": str(self.file), self.unit: self.record, "image": self.image, "detail": self.detail}


def record_unit(annotation: Path) -> str:
    """`record` for a JSON list, `line` for a file of lines."""
    return "record" if annotation.suffix == ".json" else "line"


@dataclass
class Problem:
    """All problems of one kind: how many, the first `KEPT_PLACES` of them, and what to do (or empty)."""

    kind: str
    count: int = 0
    places: list[Place] = field(default_factory=list)
    advice: str = ""

    @property
    def severity(self) -> Severity:
        """How grave the kind is."""
        return KINDS[self.kind][0]

    @property
    def counted(self) -> str:
        """What `count` counts."""
        return KINDS[self.kind][1]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "kind": self.kind,
            "severity": str(self.severity),
            "count": self.count,
            "meaning": self.counted,
            "advice": self.advice,
            "places": [place.to_json() for place in self.places],
        }


class Problems:
    """Problems of a set, by kind, in the order in which the kinds were first met."""

    def __init__(self) -> None:
        self._by_kind: dict[str, Problem] = {}

    def add(self, kind: str, place: Place, count: int = 1, advice: str = "") -> None:
        """Count a problem; `count` above 1 for one place that stands for several."""
        problem = self._by_kind.setdefault(kind, Problem(kind))
        problem.count += count
        problem.advice = problem.advice or advice
        if len(problem.places) < KEPT_PLACES:
            problem.places.append(place)

    def __iter__(self) -> Iterator[Problem]:
        return iter(self._by_kind.values())

    def __getitem__(self, kind: str) -> Problem:
        return self._by_kind[kind]

    def __contains__(self, kind: object) -> bool:
        return kind in self._by_kind

    def of(self, severity: Severity) -> list[Problem]:
        """The problems of one severity, in their order."""
        return [problem for problem in self if problem.severity is severity]
