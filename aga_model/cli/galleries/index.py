"""`aga index`: encode images into a gallery."""

import glob
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import typer
from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from aga_model.data import detect_dataset
from aga_model.files import Skipped, UnreadableVideoError, find_images, is_video, write_json
from aga_model.gallery import EXACT_ROWS, Filter, Gallery, GalleryError, Recorder, VectorIndexReport, read_time
from aga_model.ingest import (
    FactsOf,
    ImageFacts,
    IndexReport,
    SceneSettings,
    ShardError,
    Shards,
    TimeSource,
    facts_reader,
    index_images,
    index_scenes,
    load_detector,
    no_progress,
)
from aga_model.search import TEXT_ENCODER, PersonEncoder

from ..messages import RENDERED_NOTE, fail, note, shown

SKIPPED_FILE = "skipped.json"
_LISTED = 20
_REBUILT_AT = 0.9  # the least share of the images that a vector index covers before it is built again


def index(
    images: list[str],
    model: str,
    out: str,
    batch_size: int,
    device: str | None,
    trust_remote_code: bool,
    camera: str | None,
    camera_from: str | None,
    person_from: str | None,
    time_from: TimeSource,
    split: str | None,
    every: float,
    scenes: bool,
    detector: str,
    min_height: int,
    recut: bool,
    started: str | None,
    overwrite: bool,
    text_encoder: bool,
    purpose: str | None,
) -> None:
    """What the command does; `commands` declares it."""
    shards = Shards()
    videos: list[Path] = []
    skipped: list[Skipped] = []
    try:
        shards = Shards.from_environment()
        with shards.together():
            if not every > 0:
                raise ValueError(f"--every is {every}: give a number of seconds above 0")
            settings = SceneSettings(
                every,
                min_height=min_height,
                started=None if started is None else read_time(started, "--started").timestamp(),
            )
            if split is None:
                facts_of = facts_reader(camera, camera_from, person_from, time_from)
            elif not (camera is camera_from is person_from is None and time_from is TimeSource.NONE):
                raise ValueError("--split takes cameras and persons from the data set: leave out the other options")
            else:
                found, facts_of = _find_split(images, split)
        if split is None:
            found, videos, skipped = shards.of_main(lambda: _find(images, out))
        people = _Scenes([*videos, *(found if scenes else [])], detector, settings, recut)
        loading = _Loading(model, device, trust_remote_code, purpose, text_encoder)
        _index([] if scenes else found, people, skipped, facts_of, loading, out, batch_size, overwrite, shards)
    except ShardError as error:  # all processes know of it
        if not shards.is_main:
            raise typer.Exit(2) from error
        fail(error)
    except torch.OutOfMemoryError:
        reason = f"a batch of {batch_size} images does not fit into the GPU's memory: give a smaller --batch-size"
        fail(_of(shards, reason))
    except (ValueError, OSError, ModuleNotFoundError) as error:
        fail(_of(shards, error))
    finally:
        shards.close()


def _of(shards: Shards, error: object) -> object:
    """An error of one process among several names it."""
    return f"{shards.name}: {error}" if shards.name else error


@dataclass(frozen=True)
class _Scenes:
    """Videos and photographs that people are to be found in, and how."""

    paths: list[Path]
    detector: str
    settings: SceneSettings
    recut: bool


@dataclass(frozen=True)
class _Loading:
    """
    The model to encode with, the device, whether its and the detector's own Python code is trusted, what for, and
    whether its text encoder is written for searches.
    """

    model: str
    device: str | None
    trust_remote_code: bool
    purpose: str | None
    text_encoder: bool


def _index(
    images: Sequence[Path],
    scenes: _Scenes,
    skipped: Sequence[Skipped],
    facts_of: FactsOf,
    loading: _Loading,
    out: str,
    batch_size: int,
    overwrite: bool,
    shards: Shards,
) -> None:
    device = shards.device(loading.device)
    trust = {"trust_remote_code": True} if loading.trust_remote_code else {}  # by default nothing is trusted
    transformers_logging.disable_progress_bar()
    with shards.together():
        gallery = None if overwrite or not Gallery.exists(out) else _open_to_add(out)
        found = load_detector(scenes.detector, device, **trust) if scenes.paths else None
        encoder = PersonEncoder.from_pretrained(loading.model, device, trust_remote_code=loading.trust_remote_code)
        if overwrite and shards.is_main and Gallery.exists(out):
            _record_overwriting(out, loading.purpose)
        if gallery is None:
            # Whoever has images to add first makes it; nothing is there before.
            first = partial(shards.first, "gallery")
            gallery = Gallery.create(out, encoder.model_hash, encoder.dim, encoder.name, overwrite, first)
        else:
            gallery.require_model(encoder.model_hash, encoder.name)
    gallery.before_removal = partial(_record_removal, gallery, loading.purpose)
    if shards.is_main:
        if encoder.rendered_only:
            note(RENDERED_NOTE)
        if gallery.is_made:
            note(f"adding to the gallery {gallery}, which holds {gallery.count()} images")
        if unfinished := gallery.unfinished:
            note(unfinished)
    report, people = IndexReport(), IndexReport()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # files that matter are reported as skipped
        if images:
            bar = _bar("indexing", "image") if shards.is_main else no_progress
            report = index_images(images, encoder, gallery, batch_size, bar, facts_of, shards)
        if found is not None:
            bar = _bar("finding people", "frame") if shards.is_main else no_progress
            settings = replace(scenes.settings, crops=None if scenes.recut else gallery.crops)
            people = index_scenes(scenes.paths, found, encoder, gallery, settings, batch_size, bar, facts_of, shards)
    made, expired = any(shards.gather(gallery.is_made)), sum(shards.gather(gallery.expired))
    if shards.is_main:
        if made and not gallery.is_made:  # by another process
            gallery = Gallery.open(out)
            gallery.before_removal = partial(_record_removal, gallery, loading.purpose)
        _finish(gallery, report, people, [*skipped, *report.skipped, *people.skipped])
        if loading.text_encoder and gallery.is_made:
            _write_text_encoder(gallery, encoder)
        if expired:
            typer.echo(f"{expired} images are older than the gallery keeps them, and were erased")


def _record_overwriting(out: str, purpose: str | None) -> None:
    """The removal of a whole gallery; of one that cannot be read nothing is known."""
    try:
        gallery = Gallery.open(out)
    except GalleryError as error:
        note(f"the gallery that is overwritten cannot be read, and what it asked for does not go on to hold ({error})")
        return
    Recorder.of(gallery, None).for_purpose(purpose).removes(Filter(), gallery.count(), "overwrite")


def _record_removal(gallery: Gallery, purpose: str | None, where: Filter, images: int, action: str) -> None:
    """What goes because of its age, because its file has changed, or because that can no longer be read."""
    replace(Recorder.of(gallery, None), purpose=purpose or "aga index").removes(where, images, action)


def _open_to_add(out: str) -> Gallery:
    """A gallery that is there; whether it can be added to is asked before hours of encoding, not after."""
    gallery = Gallery.open(out)
    if gallery.folder is not None and not os.access(gallery.folder, os.W_OK):
        raise GalleryError(
            f"gallery {gallery} is write-protected, so that nothing can be added to it: get the permission to write "
            "its folder, or give another --out"
        )
    return gallery


def _finish(gallery: Gallery, report: IndexReport, people: IndexReport, skipped: Sequence[Skipped]) -> None:
    """What is done once, when every file was looked at."""
    skipped = sorted(skipped, key=lambda item: item.path)
    removed = _remove(gallery, {str(item.path) for item in skipped})
    if gallery.folder is not None and gallery.is_made:
        file = gallery.folder / SKIPPED_FILE
        if file.is_symlink():  # which would lead elsewhere
            file.unlink()
        write_json(file, [{"path": str(item.path), "reason": item.reason} for item in skipped])
    _print_summary(gallery, report, people, skipped, removed)
    if gallery.is_made and gallery.settings.keep_seconds is not None:
        note(
            "this gallery keeps its images for a while only: those without a time (--time-from, --started) for as "
            "long from now, also if they were erased before"
        )
    if (built := _build_index(gallery)) is not None:
        typer.echo(shown_index(built))


def _write_text_encoder(gallery: Gallery, encoder: PersonEncoder) -> None:
    """Beside the gallery, or in the model's folder where the gallery lies on a server."""
    place = gallery.folder or Path(gallery.model_name)
    if not os.access(place, os.W_OK):
        return
    try:
        from aga_model.conversion import write_text_encoder

        difference = write_text_encoder(encoder, place / TEXT_ENCODER)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        note(f"searches of this gallery load PyTorch, since its text encoder could not be written: {error}")
        return
    if difference is not None:
        typer.echo(
            f"text encoder for searches without PyTorch: {shown(place / TEXT_ENCODER)}, embeddings within "
            f"{difference:.0e} of the model's"
        )


def _bar(what: str, unit: str) -> Callable[[int | None], tqdm]:
    return lambda total: tqdm(total=total, desc=what, unit=unit, dynamic_ncols=True)


def _is_video(path: Path) -> bool:
    try:
        return is_video(path)
    except UnreadableVideoError:  # it is reported as a file that cannot be read
        return False


def _find(images: Iterable[str], out: str) -> tuple[list[Path], list[Path], list[Skipped]]:
    """
    Image files, videos and skipped files with absolute paths, each once; the gallery itself may lie among the images.
    """
    gallery = os.path.realpath(out)
    found: dict[Path, None] = {}
    skipped: dict[Path, Skipped] = {}
    videos: dict[Path, None] = {}
    for path in _expanded(images):
        if path.is_file():
            (videos if _is_video(path) else found)[path] = None
        else:
            within, left_out = find_images(path)
            found |= dict.fromkeys(image for image in within if not _is_within(image, gallery))
            others = [item for item in left_out if not _is_within(item.path, gallery)]
            within_videos = dict.fromkeys(item.path for item in others if _is_video(item.path))
            videos |= within_videos
            skipped |= {item.path: item for item in others if item.path not in within_videos}
    if not found and not videos:
        first = next(iter(skipped.values()), None)
        reason = f"; the first, {first.path}: {first.reason}" if first is not None else ""
        raise GalleryError(f"no image and no video in {', '.join(images)} ({len(skipped)} other files{reason})")
    return list(found), list(videos), list(skipped.values())


def _is_within(path: Path, folder: str) -> bool:
    """Whether a file lies in a folder, by whatever path or link either is reached."""
    return Path(os.path.realpath(path)).is_relative_to(folder)


def _expanded(images: Iterable[str]) -> list[Path]:
    """Absolute paths of the files and folders that are named or that match a pattern."""
    paths = []
    for name in images:
        if os.path.exists(name) or not glob.has_magic(name):
            # The system follows a link before it goes up by `..`.
            paths.append(Path(os.path.realpath(name) if ".." in Path(name).parts else os.path.abspath(name)))
        elif matches := sorted(glob.glob(name, recursive=True)):
            paths += [Path(os.path.abspath(match)) for match in matches]
        else:
            raise FileNotFoundError(f"no file matches {name}")
    return paths


def _find_split(images: Sequence[str], split: str) -> tuple[list[Path], FactsOf]:
    """Absolute paths of a data set's images of one split, each once, and what its annotation says of them."""
    # Imported here: only this option needs the libraries of the extra `train`.
    from aga_model.data import split_records

    if len(images) != 1:
        raise ValueError(f"--split takes the folder of one data set, not {len(images)}")
    root = Path(images[0])
    splits = split_records(detect_dataset(root), root)
    if split not in splits:
        raise ValueError(f"--split {split}: {root} has the splits {', '.join(splits)}")
    facts = {
        os.path.abspath(record.path): ImageFacts(record.camera_id or None, record.person_name)
        for record in splits[split]
    }
    return sorted(map(Path, facts)), facts.__getitem__


def _remove(gallery: Gallery, paths: set[str]) -> int:
    """Remove images whose files can no longer be read."""
    gone = {row.path for row in gallery.rows() if row.path in paths} if paths else set()
    return gallery.delete(Filter(paths=gone)) if gone else 0


def _build_index(gallery: Gallery) -> VectorIndexReport | None:
    """Build the vector index of a large gallery where there is none, or where much was added since."""
    count, existing = gallery.count(), gallery.vector_index()
    if count <= EXACT_ROWS or (existing.kind != "FLAT" and existing.rows >= _REBUILT_AT * count):
        return None
    return gallery.build_index()


def shown_index(report: VectorIndexReport) -> str:
    """One line on a vector index."""
    reason = f" ({report.reason})" if report.reason else ""
    filtered = ", ".join(
        f"{100 * each.recall:.1f}% ({'which leaves ' if not number else ''}{100 * each.share:.1f}% of the images)"
        for number, each in enumerate(report.filtered)
    )
    return (
        f"vector index {report.kind}{reason}: {report.rows:,} images, {report.seconds:.1f} s; of the exact 10 best a "
        f"search finds {100 * report.recall:.1f}% ({report.queries} images as queries)"
        + (f", with a filter {filtered}" if filtered else "")
    )


def _print_summary(
    gallery: Gallery, report: IndexReport, people: IndexReport, skipped: Sequence[Skipped], removed: int
) -> None:
    if people.seconds:
        again = f", {people.unchanged} photographs unchanged" if people.unchanged else ""
        again += f", {people.copies} copies of other files" if people.copies else ""
        again += f", {people.updated} images with new facts" if people.updated else ""
        typer.echo(f"{people.people} people found in {people.frames} frames{again}; {people.seconds:.1f} s")
    if report.seconds or not people.seconds:
        copies = f"{report.copies} copies of other files, " if report.copies else ""
        typer.echo(
            f"{report.encoded} images indexed ({report.added} new, {report.replaced} changed), {report.unchanged} "
            f"unchanged, {copies}{len(skipped)} files skipped; {report.seconds:.1f} s, "
            f"{report.images_per_second:.1f} images/s"
        )
    for item in skipped[:_LISTED]:
        typer.echo(f"  skipped {shown(item.path)}: {shown(item.reason)}")
    if len(skipped) > _LISTED:
        where = "" if gallery.folder is None else f", see {shown(gallery.folder / SKIPPED_FILE)}"
        typer.echo(f"  and {len(skipped) - _LISTED} more{where}")
    if removed:
        typer.echo(f"{removed} images removed from the gallery: their files can no longer be read")
    if gallery.is_made:
        typer.echo(f"gallery {shown(gallery)}: {gallery.count()} images, model {shown(gallery.model_name)}")
    else:
        note("nobody was found: no gallery is written")
