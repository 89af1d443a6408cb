"""
How many of the people in a video's frames a detector finds, beside boxes drawn by hand.

    python -m benchmarks people_found vtest.avi

vtest.avi is a sample video of OpenCV (samples/data in its sources; Debian has it in the package opencv-doc). A person
is found by a box with an IoU of at least 0.5 with the one drawn by hand; each box finds one person at most. A box that
finds nobody is false, unless it lies on somebody of whom less than about half is to be seen. The settings of the HOG
detector were chosen on the frames of `--set tuned`.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table

from aga_model.files import sample_frames
from aga_model.ingest import Detection, load_detector
from aga_model.ingest.detection import HOG, pairwise_iou
from aga_model.ingest.tracking import largest_first
from benchmarks.places import RESULTS
from benchmarks.reports import write_result
from benchmarks.runner import bench_parser

PEOPLE = Path(__file__).with_name("vtest_people.json")
OUT = RESULTS / "people_found.json"
MIN_IOU = 0.5
HIDDEN_COVER = 0.5  # part of a box that lies on a hidden person's
FOUND, FALSE, MISSED = "lime", "red", "yellow"


def compare(people: np.ndarray, hidden: np.ndarray, boxes: np.ndarray) -> tuple[set[int], set[int], list[float]]:
    """
    Boxes (n, 4) beside those drawn by hand.

    Returns:
        Indices of the people who were found, indices of the false boxes, and the IoU of each person found.
    """
    overlaps = pairwise_iou(people, boxes)
    pairs = list(largest_first(overlaps, MIN_IOU))
    used = {column for _, column in pairs}
    false = {index for index in range(len(boxes)) if index not in used and not on_hidden(boxes[index], hidden)}
    return {row for row, _ in pairs}, false, [float(overlaps[pair]) for pair in pairs]


def on_hidden(box: np.ndarray, hidden: np.ndarray) -> bool:
    sides = np.minimum(box[2:], hidden[:, 2:]) - np.maximum(box[:2], hidden[:, :2])
    return bool((sides.clip(0).prod(axis=1) > HIDDEN_COVER * (box[2:] - box[:2]).prod()).any())


def draw(image: Image.Image, people: np.ndarray, found: set[int], detections: list[Detection], false: set[int]):
    """The frame with its boxes and their scores: found green, false red, people who were missed yellow."""
    drawn = image.copy()
    canvas = ImageDraw.Draw(drawn)
    for index, detection in enumerate(detections):
        colour = FALSE if index in false else FOUND
        canvas.rectangle(detection.box, outline=colour, width=2)
        canvas.text(detection.box[:2], f"{detection.score:.2f}", fill=colour)
    for index in set(range(len(people))) - found:
        canvas.rectangle(people[index].tolist(), outline=MISSED, width=2)
    return drawn


def as_boxes(values) -> np.ndarray:
    return np.array(values, np.float64).reshape(-1, 4)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = bench_parser(__name__, __doc__)
    parser.add_argument("video", type=Path)
    parser.add_argument("--people", type=Path, default=PEOPLE, help="boxes drawn by hand")
    parser.add_argument("--set", choices=("measured", "tuned"), default="measured", help="frames to look at")
    parser.add_argument("--detector", default=HOG, help="hog, or an object detector of transformers")
    parser.add_argument("--pictures", type=Path, help="folder for the frames with their boxes")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    truth = json.loads(options.people.read_text(encoding="utf-8"))
    with options.video.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != truth["sha256"]:
            parser.error(f"{options.video} is not the video that {options.people} was drawn for")
    drawn = {int(number): people for number, people in truth[options.set].items()}
    frames = {frame.number: frame.image for frame in sample_frames(options.video, 1e-3) if frame.number in drawn}
    detector = load_detector(options.detector)
    started = time.process_time()
    detected = dict(zip(frames, detector.detect(list(frames.values()))))
    seconds = (time.process_time() - started) / len(frames)
    title = f"{options.video.name}, {options.detector}"
    table = Table("frame", "people", "found", "missed", "false boxes", title=title)
    results, agreement = {}, []
    for number, detections in detected.items():
        people, hidden = (as_boxes(drawn[number][name]) for name in ("people", "hidden"))
        found, false, ious = compare(people, hidden, as_boxes([detection.box for detection in detections]))
        agreement += ious
        row = {"people": len(people), "found": len(found), "missed": len(people) - len(found), "false": len(false)}
        results[str(number)] = row
        table.add_row(str(number), *map(str, row.values()))
        if options.pictures:
            options.pictures.mkdir(parents=True, exist_ok=True)
            draw(frames[number], people, found, detections, false).save(options.pictures / f"{number:06d}.png")
    total = {name: sum(row[name] for row in results.values()) for name in ("people", "found", "missed", "false")}
    table.add_section()
    table.add_row("all", *map(str, total.values()))
    mean_iou = float(np.mean(agreement)) if agreement else None
    console = Console(width=100)
    console.print(table)
    console.print(f"mean IoU of the found {mean_iou:.2f}, {seconds:.2f} CPU seconds per frame" if agreement else "")
    settings = {"video": truth["video"], "set": options.set, "detector": options.detector, "min_iou": MIN_IOU}
    found = {"frames": results, "all": total, "mean_iou": mean_iou, "cpu_seconds_per_frame": seconds}
    write_result(options.out, settings, ("opencv", "numpy"), results=found)
