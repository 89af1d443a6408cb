"""
kill -9 during `aga index` at random moments, again and again: nothing that was acknowledged is lost, nothing is twice.

    python -m benchmarks index_kills --kills 20

Small noise images, with copies and files that cannot be read among them, and a short video are indexed by a tiny
model. First in one go, which says what the gallery must hold and how long it takes; then by runs that are killed at a
random moment of as long a time, from when they begin with the first file. A run reports what a write has acknowledged
by appending it to a file. After each kill another process opens the gallery and compares: every acknowledged row is
there, each with the embedding of the unbroken run, and none twice. When a run ends before its kill, its gallery is
compared as a whole, and the next run begins a new one; the last is not killed. Writes are of a few images each, so
that there are many moments between them.
"""

import argparse
import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np
import torch
from PIL import Image
from transformers.convert_slow_tokenizer import bytes_to_unicode

from aga_model import AgaConfig, AgaForPreTraining, AgaProcessor
from aga_model.cli.galleries import index as index_module
from aga_model.cli.main import app
from aga_model.gallery import Gallery, GalleryRow
from aga_model.ingest import Detection, IndexReport, pipeline
from aga_model.processing_aga import MASK_TOKEN, clip_tokenizer
from benchmarks.places import RESULTS
from benchmarks.processes import SERVE, KilledProcesses, serve
from benchmarks.reports import write_result
from benchmarks.runner import bench_parser

OUT = RESULTS / "index_kills.json"
TOLERANCE = 1e-6  # of embeddings: a continued run makes other batches, and a matrix product rounds by position
WRITE_EVERY = 4
BATCH = 4
VIDEO_SIZE = 160, 64
NEW_EACH_TIME = "added"  # when a row came into its gallery


class Halves:
    """The left and the right half of every frame are people: the same in every run, and no work."""

    def detect(self, images):
        width, height = VIDEO_SIZE
        boxes = [(0.0, 0.0, width / 2, float(height)), (width / 2, 0.0, float(width), float(height))]
        return [[Detection(box, 0.9) for box in boxes] for _ in images]


def save_model(folder: Path) -> None:
    """A random model of 16 dimensions whose tokenizer spells in bytes."""
    letters = list(bytes_to_unicode().values())
    entries = [*letters, *(letter + "</w>" for letter in letters), MASK_TOKEN, "<|startoftext|>", "<|endoftext|>"]
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AgaConfig(
        vision_config={"image_size": [32, 16], "patch_size": 8, **tower},
        text_config={"vocab_size": len(entries), "max_position_embeddings": 32, **tower},
        projection_dim=16,
    )
    torch.manual_seed(0)
    AgaForPreTraining(config).save_pretrained(folder)
    tokenizer = clip_tokenizer({entry: index for index, entry in enumerate(entries)}, [])
    AgaProcessor.for_config(config, tokenizer).save_pretrained(folder)


def draw(folder: Path, images: int, frames: int, seed: int) -> None:
    """Noise images, every tenth with a copy, two broken files, and a video whose frames differ."""
    generator = np.random.default_rng(seed)
    folder.mkdir()
    for number in range(images):
        file = folder / f"{number:05}.png"
        Image.fromarray(generator.integers(0, 256, (40, 20, 3), dtype=np.uint8)).save(file)
        if number % 10 == 0:
            shutil.copy(file, folder / f"{number:05}-copy.png")
    for name in ("broken.jpg", "00000-broken.jpg"):
        (folder / name).write_bytes(b"\xff\xd8\xff\xe0 broken")
    writer = cv2.VideoWriter(
        str(folder / "hall.avi"), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 10.0, VIDEO_SIZE
    )
    for _ in range(frames):
        writer.write(cv2.resize(generator.integers(0, 256, (4, 10, 3), dtype=np.uint8), VIDEO_SIZE))
    writer.release()


class Runs(KilledProcesses):
    """Runs of `aga index` on one folder, each a process that ends or is killed."""

    def __init__(self, images: Path, model: Path, acknowledged: Path):
        super().__init__("index_kills")
        self._images, self._model, self._acknowledged = images, model, acknowledged

    def index(self, gallery: Path, kill_after: float | None = None) -> tuple[bool, float]:
        """Whether a run was killed before its end, and how many seconds it worked."""
        arguments = ["index", self._images, "--model", self._model, "--out", gallery, "--batch-size", BATCH]
        arguments += ["--every", 0.1, "--device", "cpu"]
        work = [str(self._acknowledged), list(map(str, arguments))]
        return self.run(work, math.inf if kill_after is None else kill_after)


def run(acknowledged: str, arguments: list[str], told_by: int) -> NoReturn:
    """
    `aga index` in a process that was forked for it. It appends to a file what is acknowledged, and writes to the pipe
    `told_by` before it begins with the first file.
    """
    code: Any = 1
    try:
        silence = os.open(os.devnull, os.O_WRONLY)
        for output in (1, 2):
            os.dup2(silence, output)
        pipeline.WRITE_EVERY = WRITE_EVERY
        index_module.load_detector = lambda name, device: Halves()
        add, index_images = Gallery.add, index_module.index_images

        def add_and_tell(self: Gallery, embeddings: np.ndarray, rows: Sequence[GalleryRow], *crops: Any) -> None:
            add(self, embeddings, rows, *crops)
            with Path(acknowledged).open("a", encoding="utf-8") as file:
                file.write("".join(f"{row.id}\n" for row in rows))

        def tell_and_index(*given: Any, **named: Any) -> IndexReport:
            os.write(told_by, b".")
            return index_images(*given, **named)

        Gallery.add, index_module.index_images = add_and_tell, tell_and_index
        app(arguments)
    except SystemExit as end:
        code = end.code or 0
    finally:
        os._exit(code)


def contents(gallery: Path) -> tuple[dict[str, dict], dict[str, np.ndarray], int]:
    """(id -> row, id -> embedding, number of rows) of a gallery on disk."""
    if not Gallery.exists(gallery):
        return {}, {}, 0
    opened = Gallery.open(gallery)
    listed = list(opened.rows())
    rows = {row.id: {name: value for name, value in asdict(row).items() if name != NEW_EACH_TIME} for row in listed}
    for row in rows.values():
        if row["path"] != row["source"]:
            if not Path(row["path"]).is_file():
                raise AssertionError(f"the crop {row['path']} is missing")
            row["path"] = Path(row["path"]).name  # galleries have folders of their own
    embeddings = {row_id: one for ids, some in opened.embeddings() for row_id, one in zip(ids, some)}
    return rows, embeddings, len(listed)


def compare(found: tuple, wanted: tuple, acknowledged: set[str]) -> dict[str, int]:
    """What is wrong with a gallery: counts that must all be 0."""
    rows, embeddings, number = found
    other = [row_id for row_id in rows.keys() & wanted[0].keys() if rows[row_id] != wanted[0][row_id]]
    far = [
        row_id
        for row_id in embeddings.keys() & wanted[1].keys()
        if np.abs(embeddings[row_id] - wanted[1][row_id]).max() > TOLERANCE
    ]
    return {
        "lost": len(acknowledged - rows.keys()),
        "twice": number - len(rows),
        "strange": len(rows.keys() - wanted[0].keys()),
        "changed": len({*other, *far}) + len(rows.keys() ^ embeddings.keys()),
    }


def measure(options: argparse.Namespace, folder: Path) -> dict:
    images, model, acknowledged = folder / "images", folder / "model", folder / "acknowledged.txt"
    save_model(model)
    draw(images, options.images, options.frames, options.seed)
    runs = Runs(images, model, acknowledged)
    _, seconds = runs.index(folder / "unbroken")
    wanted = contents(folder / "unbroken")
    if wanted[0].keys() != told(acknowledged):
        raise AssertionError("the unbroken run acknowledged other rows than the gallery holds")
    acknowledged.unlink()
    moments = np.random.default_rng(options.seed)
    kills: list[dict] = []
    finished: list[dict] = []
    gallery = folder / "gallery"
    while True:
        moment = None if len(kills) == options.kills else moments.uniform(0, seconds)
        killed, _ = runs.index(gallery, moment)
        found = contents(gallery)
        wrong = compare(found, wanted, told(acknowledged))
        if killed:
            kills.append({"second": moment, "rows": len(found[0]), "acknowledged": len(told(acknowledged)), **wrong})
            print(f"kill {len(kills):3} after {moment:5.2f} s: {len(found[0])} rows, wrong: {wrong}", flush=True)
            continue
        wrong["missing"] = len(wanted[0].keys() - found[0].keys())
        survived = len(kills) - sum(each["kills"] for each in finished)
        finished.append({"kills": survived, **wrong})
        print(f"a gallery is complete after {survived} kills, wrong: {wrong}", flush=True)
        if moment is None:
            break
        shutil.rmtree(gallery)
        acknowledged.unlink(missing_ok=True)
    runs.close()
    return {"seconds_unbroken": seconds, "rows": len(wanted[0]), "kills": kills, "galleries": finished}


def told(acknowledged: Path) -> set[str]:
    """Ids of the rows that runs of this gallery have acknowledged; a line that a kill cut short tells nothing."""
    if not acknowledged.exists():
        return set()
    lines = acknowledged.read_text(encoding="utf-8").splitlines(keepends=True)
    return {line.strip() for line in lines if line.endswith("\n")}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 when something was wrong."""
    if arguments == [SERVE]:
        torch.set_num_threads(1)
        serve(run)
        return 0
    parser = bench_parser(__name__, __doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--frames", type=int, default=40, help="of the video")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        results = measure(options, Path(folder))
    wrong = sum(
        each.get(name, 0)
        for each in (*results["kills"], *results["galleries"])
        for name in ("lost", "twice", "strange", "changed", "missing")
    )
    results["wrong"] = wrong
    print(
        f"{len(results['kills'])} kills, {len(results['galleries'])} complete galleries of {results['rows']} rows, "
        f"{wrong} rows wrong"
    )
    settings = {name: getattr(options, name) for name in ("kills", "images", "frames", "seed")}
    settings |= {"write_every": WRITE_EVERY, "tolerance": TOLERANCE}
    write_result(options.out, settings, ("lancedb", "torch"), results=results)
    return 1 if wrong else 0
