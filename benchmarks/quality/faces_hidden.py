"""
How many of the faces in person crops are hidden, beside boxes drawn by hand.

    python -m benchmarks faces_hidden street_crops

The 51 crops are those of benchmarks/search/street_crops.yaml, cut by the HOG detector from OpenCV's sample video,
with wide margins; they are measured as they are, and cut close to the first person of each. A face is hidden if at
least half of its box is. The settings of `FaceHider` were chosen on these crops, so other images will fare worse.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from aga_model.files import FaceHider, read_image
from aga_model.files.faces import _HEAD_IN_BOX, _inside, _part, _top_of
from benchmarks.places import RESULTS
from benchmarks.reports import write_result
from benchmarks.runner import bench_parser

PEOPLE = Path(__file__).with_name("street_faces.json")
OUT = RESULTS / "faces_hidden.json"
HIDDEN = 0.5  # of a box
NEARLY_ALL = 0.9
# A crop cut close to a person: above the head in pixels, below the feet and to each side as shares of the height.
ABOVE, BELOW, BESIDE = 2, 0.93, 0.2
FACE_SCALE = 4  # by which face detectors alone need the crops enlarged to find anything
FACE_CASCADES = ("frontalface_default", "frontalface_alt2", "profileface")

Box = tuple[float, float, float, float]
Way = Callable[[Image.Image], list[Box]]


@dataclass(frozen=True)
class Person:
    """A person in a crop: the head, and the face if any of it is to be seen."""

    view: str
    head: Box
    face: Box | None


def read_people(file: Path) -> tuple[str, dict[str, list[Person]]]:
    """The hash of the images that a file of drawn boxes is of, and the people by image."""
    content = json.loads(file.read_text(encoding="utf-8"))
    people = {name: [Person(**one) for one in drawn] for name, drawn in content["people"].items()}
    return content["sha256"], people


def cut_close(image: Image.Image, people: list[Person]) -> tuple[Image.Image, list[Person]]:
    """The part of a crop around its first person, and who is left in it."""
    left, top, right, _ = people[0].head
    window_top, window_bottom = max(0, top - ABOVE), round(BELOW * image.height)
    half = BESIDE * (window_bottom - window_top)
    window = (
        max(0, round((left + right) / 2 - half)),
        window_top,
        min(image.width, round((left + right) / 2 + half)),
        window_bottom,
    )
    moved = [Person(one.view, _moved(one.head, window), _moved(one.face, window)) for one in people]
    return image.crop(window), [one for one in moved if one.head is not None]


def _moved(box: Box | None, window: tuple[int, int, int, int]) -> Box | None:
    """What of a box is in a window, from its corner; None for less than two pixels."""
    if box is None:
        return None
    left, top, right, bottom = window
    inside = max(box[0], left) - left, max(box[1], top) - top, min(box[2], right) - left, min(box[3], bottom) - top
    return inside if inside[2] - inside[0] > 1 and inside[3] - inside[1] > 1 else None


def ways(hider: FaceHider) -> dict[str, Way]:
    """The ways to hide, by name: that of the package, and others beside it."""
    cascades = [cv2.CascadeClassifier(f"{cv2.data.haarcascades}haarcascade_{name}.xml") for name in FACE_CASCADES]

    def heads(image: Image.Image) -> list[Box]:
        return [_part(box, _HEAD_IN_BOX) for box in hider.detect(image)[1]]

    return {
        "face detectors alone": lambda image: face_boxes(image, cascades),
        "heads that are found": heads,
        "as the package does": hider.boxes,
        "and the top of all": lambda image: [*hider.boxes(image), _top_of(image.size)],
    }


def face_boxes(image: Image.Image, cascades: list[cv2.CascadeClassifier]) -> list[Box]:
    """What face detectors find in an image that is enlarged for them, and in its mirror image."""
    size = FACE_SCALE * image.width, FACE_SCALE * image.height
    grey = np.asarray(image.convert("L").resize(size, Image.Resampling.BICUBIC))
    found = []
    for cascade in cascades:
        for left, top, width, height in cascade.detectMultiScale(grey, 1.1, 3, minSize=(20, 20)):
            found.append((left, top, left + width, top + height))
        for left, top, width, height in cascade.detectMultiScale(np.ascontiguousarray(grey[:, ::-1]), 1.1, 3):
            found.append((size[0] - left - width, top, size[0] - left, top + height))
    return [tuple(side / FACE_SCALE for side in box) for box in found]


def covered(image: Image.Image, boxes: list[Box]) -> np.ndarray:
    """Which pixels (height, width) boxes cover."""
    mask = np.zeros((image.height, image.width), bool)
    for box in boxes:
        left, top, right, bottom = _inside(box, image.size)
        mask[top:bottom, left:right] = True
    return mask


def measure(way: Way, images: list[tuple[Image.Image, list[Person]]]) -> dict[str, float]:
    """Counts of faces and heads that a way hides, and which share of the images it hides with and without need."""
    shares: dict[str, list[float]] = {"faces": [], "edges": [], "heads": []}
    hidden, needless = [], []
    started = time.process_time()
    masks = [covered(image, way(image)) for image, _ in images]
    seconds = (time.process_time() - started) / len(images)
    for (image, people), mask in zip(images, masks):
        for one in people:
            shares["heads"].append(_share(mask, one.head))
            if one.face is not None:
                shares["edges" if one.view == "away" else "faces"].append(_share(mask, one.face))
        hidden.append(mask.mean())
        needless.append((mask & ~covered(image, [one.head for one in people])).mean())
    counts = {name: len(values) for name, values in shares.items()}
    counts |= {f"{name}_hidden": sum(value >= HIDDEN for value in values) for name, values in shares.items()}
    return counts | {
        "faces_nearly_all_hidden": sum(value >= NEARLY_ALL for value in shares["faces"]),
        "area_hidden": float(np.mean(hidden)),
        "area_hidden_needlessly": float(np.mean(needless)),
        "cpu_seconds_per_image": seconds,
    }


def _share(mask: np.ndarray, box: Box) -> float:
    left, top, right, bottom = (int(side) for side in box)
    return float(mask[top:bottom, left:right].mean())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = bench_parser(__name__, __doc__)
    parser.add_argument("folder", type=Path, help="of the 51 crops, 000.jpg to 050.jpg")
    parser.add_argument("--people", type=Path, default=PEOPLE, help="boxes drawn by hand")
    parser.add_argument("--pictures", type=Path, help="folder for the crops with their faces hidden")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    sha256, people = read_people(options.people)
    try:
        digest = hashlib.sha256(b"".join((options.folder / name).read_bytes() for name in people)).hexdigest()
    except OSError as error:
        parser.error(str(error))
    if digest != sha256:
        parser.error(f"the images of {options.folder} are not those that {options.people} was drawn for")
    wide = [(read_image(options.folder / name), drawn) for name, drawn in people.items()]
    sets = {"as they are": wide, "cut close": [cut_close(image, drawn) for image, drawn in wide]}
    hider = FaceHider()
    results = {
        name: {way: measure(boxes, images) for way, boxes in ways(hider).items()} for name, images in sets.items()
    }
    if options.pictures is not None:
        options.pictures.mkdir(parents=True, exist_ok=True)
        for name, (image, _) in zip(people, wide):
            hider.hide(image).save((options.pictures / name).with_suffix(".png"))
    _print(results)
    settings = {"images": len(people), "sha256": sha256, "hidden": HIDDEN, "nearly_all": NEARLY_ALL}
    write_result(options.out, settings, ("opencv", "numpy"), results=results)


def _print(results: dict[str, dict[str, dict[str, float]]]) -> None:
    console = Console(width=110)
    for name, by_way in results.items():
        table = Table(
            "hidden", "faces", "nearly all of", "edges of faces", "heads", "of the image", "needlessly", title=name
        )
        for way, row in by_way.items():
            counts = [f"{row[f'{kind}_hidden']} of {row[kind]}" for kind in ("faces", "edges", "heads")]
            table.add_row(
                way, counts[0], str(row["faces_nearly_all_hidden"]), *counts[1:],
                f"{row['area_hidden']:.0%}", f"{row['area_hidden_needlessly']:.0%}",
            )  # fmt: skip
        console.print(table)
