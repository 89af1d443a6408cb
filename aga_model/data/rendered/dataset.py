"""Writes a rendered data set in CUHK-PEDES's on-disk layout."""

import json
import math
import multiprocessing
import os
import random
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

from tqdm import tqdm

from aga_model.version import __version__

from .attributes import PersonAttributes, sample_lookalike
from .captions import Caption
from .drawing import MIN_SIDE
from .worlds import World, world_named

# Raise it with any change that alters a picture or a caption: a set of another version is not taken for complete.
RENDERER_VERSION = 2

_RECORDS, _ATTRIBUTES, _README, _IMAGES = "reid_raw.json", "attributes.json", "README.md", "imgs"
_MARKER = ".rendering"  # there while a rendering is under way, and after one was cut off
_OURS = (_RECORDS, _ATTRIBUTES, _README, _MARKER, _IMAGES)  # the records go first when a rendering is removed
_CHUNK = 16  # identities


@dataclass(frozen=True)
class RenderSummary:
    """What `render_dataset` did.

    `splits` gives the number of identities, images and captions by split. `oracle_rank1` is the Rank-1 (percent) on
    the test split of a reader that knows every attribute that a caption names and guesses among the identities that
    have them: the ceiling of the set. `skipped` says that the set was already there; `seconds` is then near 0.
    """

    out_dir: Path
    splits: dict[str, dict[str, int]]
    oracle_rank1: float
    seconds: float
    skipped: bool

    @property
    def images(self) -> int:
        return sum(counts["images"] for counts in self.splits.values())


@dataclass(frozen=True)
class _Arguments:
    """Everything the content of a rendering depends on."""

    world: str
    identities: int
    seed: int
    val_identities: int
    test_identities: int
    height: int
    width: int
    images_per_identity: tuple[int, int]
    captions_per_image: int
    lookalikes: int
    renderer_version: int = RENDERER_VERSION

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "images_per_identity": list(self.images_per_identity)}

    def command(self) -> str:
        low, high = self.images_per_identity
        return (
            f"aga render OUT --world {self.world} --identities {self.identities} --seed {self.seed} "
            f"--val-identities {self.val_identities} --test-identities {self.test_identities} "
            f"--height {self.height} --width {self.width} "
            f"--images-per-identity {low}-{high} --captions-per-image {self.captions_per_image} "
            f"--lookalikes {self.lookalikes}"
        )

    def split_of(self, person_id: int) -> str:
        """Training identities come first, then validation, then test."""
        train = self.identities - self.val_identities - self.test_identities
        if person_id <= train:
            return "train"
        return "val" if person_id <= train + self.val_identities else "test"


def render_dataset(
    out_dir: str | os.PathLike[str],
    identities: int,
    seed: int,
    *,
    world: str = "target",
    val_identities: int | None = None,
    test_identities: int | None = None,
    height: int = 384,
    width: int = 128,
    images_per_identity: tuple[int, int] = (2, 4),
    captions_per_image: int = 2,
    lookalikes: int = 1,
    processes: int | None = None,
    overwrite: bool = False,
) -> RenderSummary:
    """Renders pedestrians and writes them, with captions, in CUHK-PEDES's layout.

    Written are `imgs/<camera>/<id>_<n>.jpg`, `reid_raw.json` (one record per image: split, id, file_path, captions,
    processed_tokens), `attributes.json` (the arguments, the true attributes of each identity, and each image's view
    and the attributes that its captions name) and `README.md`. The same arguments give the same bytes, whatever the
    number of processes, with the same releases of Python, NumPy and Pillow. `reid_raw.json` is written last: a folder
    without it is not a finished set.

    Args:
        out_dir: folder to write, made if missing. A set with the same arguments that is already there is kept.
        identities: number of people, at least 3. Their ids run from 1: training, then validation, then test.
        seed: of all chance. More identities of the same seed begin with the same people.
        world: a key of `worlds.WORLDS`: `target`, or `base`, which the base model is trained on.
        val_identities, test_identities: people held out; by default about 5% and 10%, at least one each.
        height, width: of each picture in pixels, at least 32.
        images_per_identity: the fewest and the most pictures of one person, each drawn anew.
        captions_per_image: captions written for each picture.
        lookalikes: people come in groups of so many, by their ids, who differ in two things only: the larger, the
            harder the set. 1 draws everybody independently.
        processes: worker processes; by default as many as this process may use processors.
        overwrite: replaces another rendering, or an unfinished one. Files that no rendering wrote are never removed.

    Raises:
        ValueError: an argument is out of its range; the message names it. Nothing has been written.
        FileExistsError: `out_dir` holds something else; the message says what.
    """
    arguments = _check(
        world,
        identities,
        seed,
        val_identities,
        test_identities,
        height,
        width,
        images_per_identity,
        captions_per_image,
        lookalikes,
    )
    if processes is None:
        processes = _usable_processors()
    elif processes < 1:
        raise ValueError(f"processes must be at least 1, got {processes}")
    out = Path(out_dir)
    began = time.perf_counter()
    existing = _existing_set(out, arguments, overwrite)
    if existing is not None:
        return RenderSummary(out, existing["splits"], existing["oracle_rank1"], time.perf_counter() - began, True)

    _clear(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / _MARKER).write_text("This rendering is not finished. Give the same command again.\n", encoding="utf-8")
    for camera in world_named(world).cameras:
        (out / _IMAGES / camera).mkdir(parents=True, exist_ok=True)
    people = sample_people(identities, seed, world, lookalikes)
    images = list(_render_all(out, arguments, people, processes))
    description = _describe(arguments, people, images)
    _write_json(out / _ATTRIBUTES, description)
    (out / _README).write_text(_readme(arguments, description), encoding="utf-8")
    _write_json(out / _RECORDS, [image.record for image in images])
    (out / _MARKER).unlink()
    seconds = time.perf_counter() - began
    return RenderSummary(out, description["splits"], description["oracle_rank1"], seconds, False)


def sample_people(count: int, seed: int, world: str = "target", lookalikes: int = 1) -> list[PersonAttributes]:
    """
    `count` people, no two of them equal in every attribute; a longer list begins with a shorter one's people.

    `lookalikes` consecutive ones differ from the first of them in two things (`attributes.sample_lookalike`).
    """
    rng, sample = random.Random(f"{seed}/people"), world_named(world).sample
    people: list[PersonAttributes] = []
    known: set[PersonAttributes] = set()
    while len(people) < count:
        place = len(people) % lookalikes
        person = sample_lookalike(people[-place], sample, rng) if place else sample(rng)
        if person not in known:
            people.append(person)
            known.add(person)
    return people


# --- arguments --------------------------------------------------------------------------------------------------


def _check(
    world: str,
    identities: int,
    seed: int,
    val_identities: int | None,
    test_identities: int | None,
    height: int,
    width: int,
    images_per_identity: tuple[int, int],
    captions_per_image: int,
    lookalikes: int,
) -> _Arguments:
    world_named(world)
    if identities < 3:
        raise ValueError(f"identities must be at least 3 (one for each split), got {identities}")
    val = max(1, round(0.05 * identities)) if val_identities is None else val_identities
    test = max(1, round(0.10 * identities)) if test_identities is None else test_identities
    low, high = images_per_identity
    for name, value, least in (
        ("seed", seed, 0),
        ("val_identities", val, 0),
        ("test_identities", test, 0),
        ("height", height, MIN_SIDE),
        ("width", width, MIN_SIDE),
        ("captions_per_image", captions_per_image, 1),
        ("lookalikes", lookalikes, 1),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if not 1 <= low <= high:
        raise ValueError(f"images_per_identity must be (fewest, most) with 1 <= fewest <= most, got ({low}, {high})")
    if val + test >= identities:
        raise ValueError(
            f"val_identities + test_identities = {val} + {test} leave none of the {identities} identities to train on"
        )
    return _Arguments(world, identities, seed, val, test, height, width, (low, high), captions_per_image, lookalikes)


def _usable_processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# --- what is there already --------------------------------------------------------------------------------------


def _existing_set(out: Path, arguments: _Arguments, overwrite: bool) -> dict[str, Any] | None:
    """The description of the finished set with these arguments; None where one may now be rendered into `out`.

    Raises:
        FileExistsError: `out` holds something that must not be replaced, or not without `overwrite`.
    """
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is not a folder")
    found = sorted(path.name for path in out.iterdir()) if out.exists() else []
    if not found:
        return None
    description = _description(out)
    if description is None and not (out / _MARKER).exists():
        clashing = [name for name in found if name in _OURS]
        if clashing or not overwrite:
            listed = ", ".join((clashing or found)[:3])
            raise FileExistsError(f"{out} holds files that no rendering wrote ({listed}); choose another folder")
        return None
    if overwrite:
        return None
    if description is None or (out / _MARKER).exists():
        return None  # one that was cut off: begin again
    if description["arguments"] != arguments.to_json():
        there = ", ".join(
            f"{name} {description['arguments'].get(name)} instead of {value}"
            for name, value in arguments.to_json().items()
            if description["arguments"].get(name) != value
        )
        raise FileExistsError(f"{out} holds another rendering ({there}); overwrite it, or choose another folder")
    complete = (out / _RECORDS).exists() and all((out / _IMAGES / path).exists() for path in description["images"])
    return description if complete else None


def _description(out: Path) -> dict[str, Any] | None:
    """attributes.json, where a rendering wrote it."""
    try:
        description = json.loads((out / _ATTRIBUTES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    arguments = description.get("arguments") if isinstance(description, dict) else None
    return description if isinstance(arguments, dict) and "renderer_version" in arguments else None


def _clear(out: Path) -> None:
    """Removes a rendering, the records first, so that what is left never looks finished."""
    if (out / _RECORDS).exists():
        (out / _MARKER).touch()
    for name in (_RECORDS, _ATTRIBUTES, _README):
        (out / name).unlink(missing_ok=True)
    if (out / _IMAGES).exists():
        shutil.rmtree(out / _IMAGES)


# --- rendering --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Image:
    record: dict[str, Any]
    view: str
    captions: list[Caption]


@dataclass(frozen=True)
class _Chunk:
    """The people of one piece of work; their ids run from `first_id`."""

    out: Path
    arguments: _Arguments
    first_id: int
    people: list[PersonAttributes]


def _render_all(out: Path, arguments: _Arguments, people: list[PersonAttributes], processes: int) -> Iterator[_Image]:
    """The images in the order of their ids, while a progress bar counts people."""
    chunks = [
        _Chunk(out, arguments, first + 1, people[first : first + _CHUNK]) for first in range(0, len(people), _CHUNK)
    ]
    processes = min(processes, len(chunks))
    if processes == 1:
        yield from _with_progress(map(_render_chunk, chunks), chunks)
        return
    executor = ProcessPoolExecutor(processes, mp_context=_context())
    try:
        yield from _with_progress(executor.map(_render_chunk, chunks), chunks)
    finally:
        executor.shutdown(cancel_futures=True)


def _with_progress(results: Iterable[list[_Image]], chunks: list[_Chunk]) -> Iterator[_Image]:
    images = 0
    with tqdm(total=sum(len(chunk.people) for chunk in chunks), desc="rendering", unit="person") as bar:
        for chunk, rendered in zip(chunks, results):
            images += len(rendered)
            bar.set_postfix(images=images, refresh=False)
            bar.update(len(chunk.people))
            yield from rendered


def _context() -> BaseContext:
    """How workers start: forked on Linux, else spawned.

    A spawned worker imports this package, and with it torch and transformers, which takes longer than a small set. A
    forked one has them already. That is safe here, also where torch has started its thread pools: a worker only
    runs PIL, plain NumPy arithmetic and file writes, which need no thread, device or lock of the parent.
    """
    return multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")


def _render_chunk(chunk: _Chunk) -> list[_Image]:
    return [
        image
        for person_id, person in enumerate(chunk.people, start=chunk.first_id)
        for image in _render_identity(chunk.out, chunk.arguments, person_id, person)
    ]


def _render_identity(out: Path, arguments: _Arguments, person_id: int, person: PersonAttributes) -> Iterator[_Image]:
    # Each generator's seed is text that names what it is for, so no result hangs on the order of the work.
    rng, world = random.Random(f"{arguments.seed}/{person_id}"), world_named(arguments.world)
    cameras = rng.sample(tuple(world.cameras), len(world.cameras))
    for number in range(rng.randint(*arguments.images_per_identity)):
        camera = cameras[number % len(cameras)]
        path = f"{camera}/{person_id:05d}_{number}.jpg"
        image_rng = random.Random(f"{arguments.seed}/{person_id}/{number}/image")
        picture, view = world.draw(person, image_rng, arguments.height, arguments.width, camera)
        # Without chroma subsampling: it would smear a small picture's colours into each other.
        picture.save(out / _IMAGES / path, "JPEG", quality=image_rng.randint(*world.qualities), subsampling=0)
        captions = _write_captions(
            world,
            person,
            view,
            arguments.captions_per_image,
            random.Random(f"{arguments.seed}/{person_id}/{number}/captions"),
        )
        record = {
            "split": arguments.split_of(person_id),
            "id": person_id,
            "file_path": path,
            "captions": [caption.text for caption in captions],
            "processed_tokens": [tokens(caption.text) for caption in captions],
        }
        yield _Image(record, view, captions)


def _write_captions(
    world: World, person: PersonAttributes, view: str, count: int, rng: random.Random
) -> list[Caption]:
    return [world.tell(person, view, rng) for _ in range(count)]


def tokens(caption: str) -> list[str]:
    """The caption's lower-case words without punctuation; a hyphenated word stays whole."""
    return re.findall(r"[a-z]+(?:-[a-z]+)*", caption.lower())


# --- description ------------------------------------------------------------------------------------------------


def _describe(arguments: _Arguments, people: list[PersonAttributes], images: list[_Image]) -> dict[str, Any]:
    splits = {split: {"identities": 0, "images": 0, "captions": 0} for split in ("train", "val", "test")}
    for person_id in range(1, len(people) + 1):
        splits[arguments.split_of(person_id)]["identities"] += 1
    for image in images:
        counts = splits[image.record["split"]]
        counts["images"] += 1
        counts["captions"] += len(image.captions)
    return {
        "arguments": arguments.to_json(),
        "version": __version__,
        "splits": splits,
        "oracle_rank1": _oracle_rank1(arguments, people, images),
        "identities": {str(person_id): person.to_dict() for person_id, person in enumerate(people, start=1)},
        "images": {
            image.record["file_path"]: {
                "view": image.view,
                "mentioned": [sorted(caption.mentioned) for caption in image.captions],
            }
            for image in images
        },
    }


def _oracle_rank1(arguments: _Arguments, people: list[PersonAttributes], images: list[_Image]) -> float:
    """In percent; 0 without a test split. See `RenderSummary`."""
    first = len(people) - arguments.test_identities
    gallery = [person.to_dict() for person in people[first:]]
    hits = []
    for image in images:
        if image.record["split"] != "test":
            continue
        truth = people[image.record["id"] - 1].to_dict()
        for caption in image.captions:
            told = {name: truth[name] for name in caption.mentioned}
            hits.append(1 / sum(told.items() <= other.items() for other in gallery))
    return round(100 * math.fsum(hits) / len(hits), 2) if hits else 0.0


def _write_json(path: Path, content: Any) -> None:
    """Writes beside and renames, so that the file is there whole or not at all."""
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(_entry_per_line(content) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


def _entry_per_line(content: Any) -> str:
    """JSON that can be read and compared by the line: of a list, and of each dict in a dict, an entry a line."""
    if isinstance(content, list):
        return "[\n" + ",\n".join(json.dumps(entry) for entry in content) + "\n]"
    lines = []
    for key, value in content.items():
        if isinstance(value, dict):
            inner = ",\n".join(f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in value.items())
            lines.append(f" {json.dumps(key)}: {{\n{inner}\n }}")
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}"


def _readme(arguments: _Arguments, description: dict[str, Any]) -> str:
    rows = "\n".join(
        f"| {split} | {counts['identities']} | {counts['images']} | {counts['captions']} |"
        for split, counts in description["splits"].items()
    )
    return f"""# Rendered pedestrians

These pictures are **drawings made by a program, not photographs**, and show no real people. The captions are written
by the same program from the attributes it drew. The set is for trying, testing and measuring software where no real
data set is at hand; numbers measured on it say nothing about real pictures.

It lies on disk as CUHK-PEDES does: `reid_raw.json` has one record per image, with paths relative to `imgs/`. The true
attributes of every identity, the view of every image and the attributes that each caption names are in
`attributes.json`.

| split | identities | images | captions |
| --- | --- | --- | --- |
{rows}

The world is `{arguments.world}`: {world_named(arguments.world).description}. Images are
{arguments.height} x {arguments.width} pixels (height x width). The splits share no identity, and no two identities
have equal attributes. Guessing among the test identities that have every attribute a caption names would reach Rank-1
{description["oracle_rank1"]:.1f}: the ceiling of this set.

Made with aga-model {__version__} (renderer version {arguments.renderer_version}), seed {arguments.seed}:

    {arguments.command()}

The same command makes the same set again, so there is no need to keep or pass on the pictures.
"""
