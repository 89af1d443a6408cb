"""
A gallery of person images on disk: unit embeddings and one row of facts per image, ranked by cosine similarity.

Folder layout, where N counts the saves:

    gallery.json                     format version, model name and hash, dim, count, N
    embeddings-N.safetensors         tensor `embeddings`, float32 (count, dim)
    rows-N.jsonl                     one JSON object per image, in the order of the embeddings

A save writes the files of N + 1 under temporary names, renames them, and renames gallery.json last. Until then the
files of N are what is read, so that an end at any moment leaves the old or the new gallery. The next save removes
what an interrupted one left, and opening removes the files of saves before N.
"""

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from filelock import FileLock, Timeout
from safetensors import SafetensorError

FORMAT_VERSION = 1
MANIFEST = "gallery.json"
Row = dict[str, Any]

_CONTENT_FILE = re.compile(r"(?:embeddings-(\d+)\.safetensors|rows-(\d+)\.jsonl)(?:\.tmp)?")
_OWN_FILES = {MANIFEST, f"{MANIFEST}.tmp", ".lock", "skipped.json", "skipped.json.tmp"}
_LOCK_SECONDS = 60
_NORM_TOLERANCE = 1e-3
_SCORE_MARGIN = 1e-5  # more than float32 rounding moves a cosine
_BLOCK_ROWS = 8192
_REMEDY = ": make the gallery again with `aga index --overwrite`"


class GalleryError(ValueError):
    """A gallery that is damaged, does not fit the model, or is in the way."""


@dataclass(frozen=True)
class Hit:
    """
    One search result.

    Args:
        rank (`int`): 1 is the best.
        score (`float`): cosine similarity in [-1, 1].
        row (`dict`): what the gallery knows of the image: path, sha256, width, height (pixels).
        itm_score (`float`, *optional*): log-odds of the ITM head that the sentence describes the image, when it was
            re-ranked.
    """

    rank: int
    score: float
    row: Row
    itm_score: float | None = None

    @property
    def path(self) -> Path:
        """The image file."""
        return Path(self.row["path"])


@dataclass(frozen=True)
class _Manifest:
    model_name: str
    model_hash: str
    dim: int
    count: int
    generation: int


class Gallery:
    """
    Embeddings of person images with their rows, kept in memory and written as a whole by `save`.

    ```python
    >>> gallery = Gallery.create("gallery", encoder.model_hash, encoder.dim, encoder.name)
    >>> gallery.add(encoder.encode_images(images), [{"path": "a.jpg"}, ...], model_hash=encoder.model_hash)
    >>> gallery.save()
    >>> hits = Gallery.open("gallery").search(encoder.encode_texts(["a man with a backpack"]), top_k=10)[0]
    ```

    Make one with `create` or `open`.
    """

    def __init__(self, path: Path, manifest: _Manifest, embeddings: np.ndarray, rows: list[Row]):
        self.path = path
        self.model_name = manifest.model_name
        self.model_hash = manifest.model_hash
        self.dim = manifest.dim
        self._generation = manifest.generation
        self._chunks = [embeddings]
        self._rows = rows
        self._paths = {row["path"] for row in rows}

    @classmethod
    def create(
        cls, path: str | os.PathLike, model_hash: str, dim: int, model_name: str, overwrite: bool = False
    ) -> "Gallery":
        """
        A new, empty gallery. Nothing is written before `save`; a gallery that is overwritten stays until then.

        Raises:
            GalleryError: `path` holds a gallery and `overwrite` is not set, holds anything else, or cannot be made.
        """
        path = Path(path)
        _check_place(path, overwrite)
        manifest = _Manifest(model_name, model_hash, dim, count=0, generation=_committed_generation(path))
        return cls(path, manifest, np.empty((0, dim), np.float32), [])

    @classmethod
    def open(cls, path: str | os.PathLike) -> "Gallery":
        """
        Read a saved gallery.

        Raises:
            GalleryError: there is none, or one of its files is missing, damaged or does not fit the others; the
                message names the file.
        """
        path = Path(path)
        manifest = _read_manifest(path)
        while True:
            try:
                gallery = cls(path, manifest, _read_embeddings(path, manifest), _read_rows(path, manifest))
                break
            except GalleryError:
                # Another process may have saved and removed these files since the manifest was read.
                newer = _read_manifest(path)
                if newer.generation == manifest.generation:
                    raise
                manifest = newer
        with contextlib.suppress(OSError):  # a read-only gallery can be read
            _remove_generations(path, lambda generation: generation < manifest.generation)
        return gallery

    @property
    def embeddings(self) -> np.ndarray:
        """float32 (count, dim), unit rows."""
        if len(self._chunks) > 1:
            self._chunks = [np.concatenate(self._chunks)]
        return self._chunks[0]

    @property
    def rows(self) -> Sequence[Row]:
        """The rows in the order of the embeddings."""
        return self._rows

    def count(self) -> int:
        """Number of images."""
        return len(self._rows)

    def require_model(self, model_hash: str, model_name: str) -> None:
        """Raise GalleryError unless the gallery was made with this model: other embeddings cannot be compared."""
        if model_hash != self.model_hash:
            raise GalleryError(
                f"gallery {self.path} was made with model {self.model_name} (weights {self.model_hash[:12]}), not "
                f"with {model_name} (weights {model_hash[:12]}): use that model, or index the images anew"
            )

    def add(self, embeddings: np.ndarray, rows: Sequence[Row], *, model_hash: str) -> None:
        """
        Add images. A row whose path is in the gallery takes the place of the old row, at the end.

        Args:
            embeddings: float32 (n, dim), unit rows.
            rows: n dicts that JSON can hold, each with at least `path`.
            model_hash: hash of the model that made the embeddings.

        Raises:
            GalleryError: another model's embeddings.
            ValueError: wrong shapes, embeddings that are not finite or not of unit length, rows without a path or
                with the same path twice.
        """
        self.require_model(model_hash, "the model of these embeddings")
        embeddings = _unit_rows(embeddings, self.dim)
        paths = _row_paths(rows)
        if len(rows) != len(embeddings):
            raise ValueError(f"{len(embeddings)} embeddings but {len(rows)} rows")
        if not paths.isdisjoint(self._paths):
            self._remove(lambda row: row["path"] in paths)
        self._paths |= paths
        self._chunks.append(embeddings)
        self._rows.extend(dict(row) for row in rows)

    def search(self, query_embeddings: np.ndarray, top_k: int) -> list[list[Hit]]:
        """
        Rank the gallery for each query by cosine similarity, equal scores in the order of the rows.

        Args:
            query_embeddings: float32 (queries, dim), unit rows.
            top_k: results per query; fewer when the gallery is smaller.

        Raises:
            ValueError: `top_k` below 1, wrong shapes, queries that are not finite or not of unit length.
        """
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        return [self._search_one(query, top_k) for query in _unit_rows(query_embeddings, self.dim)]

    def delete(self, which: Callable[[Row], bool] | Iterable[str | os.PathLike]) -> int:
        """
        Remove rows and their embeddings, in memory and, for a saved gallery, from the disk before this returns: who
        asks to be forgotten shall not depend on a later `save`. (The file system may keep freed blocks for a while.)

        Args:
            which: a test of a row, or paths of images; relative ones are also tried from the working folder, since
                `aga index` stores absolute paths.

        Returns:
            Number of removed rows.
        """
        if callable(which):
            removed = self._remove(which)
        else:
            named = [which] if isinstance(which, str | os.PathLike) else which
            paths = {form for path in named for form in (os.fspath(path), os.path.abspath(path))}
            removed = self._remove(lambda row: row["path"] in paths)
        if removed and (self.path / MANIFEST).exists():
            self.save()
        return removed

    def save(self) -> None:
        """
        Write the gallery; see the module's docstring for how an interruption ends.

        Raises:
            GalleryError: another process has saved this gallery since it was opened, or is busy doing so.
            OSError: the disk is full or the folder cannot be written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.path / ".lock", timeout=_LOCK_SECONDS):
                self._write()
        except Timeout as error:
            raise GalleryError(f"gallery {self.path} is being written by another process: try again later") from error

    def _write(self) -> None:
        if _committed_generation(self.path) != self._generation:
            raise GalleryError(f"gallery {self.path} was changed by another process: open it again and repeat this")
        generation = _newest_generation(self.path) + 1
        manifest = {
            "format_version": FORMAT_VERSION,
            "model_name": self.model_name,
            "model_hash": self.model_hash,
            "dim": self.dim,
            "count": self.count(),
            "generation": generation,
        }
        _replace_file(_embeddings_path(self.path, generation), safetensors.numpy.save({"embeddings": self.embeddings}))
        _replace_file(
            _rows_path(self.path, generation), "".join(json.dumps(row) + "\n" for row in self._rows).encode()
        )
        _replace_file(self.path / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
        self._generation = generation
        _remove_generations(self.path, lambda other: other != generation)

    def _remove(self, test: Callable[[Row], bool]) -> int:
        keep = np.array([not test(row) for row in self._rows], dtype=bool)
        removed = len(keep) - int(keep.sum())
        if removed:
            self._chunks = [self.embeddings[keep]]
            self._rows = [row for row, kept in zip(self._rows, keep) if kept]
            self._paths = {row["path"] for row in self._rows}
        return removed

    def _search_one(self, query: np.ndarray, top_k: int) -> list[Hit]:
        rough = self.embeddings @ query
        candidates = np.arange(len(rough))
        if top_k < len(rough):
            worst = np.partition(rough, len(rough) - top_k)[len(rough) - top_k]
            candidates = np.flatnonzero(rough >= worst - _SCORE_MARGIN)
        # The matrix product rounds by position; exact scores let equal embeddings have equal scores.
        scores = _exact_scores(self.embeddings, candidates, query)
        order = np.argsort(-scores, kind="stable")[:top_k]
        return [
            Hit(rank, float(scores[place]), dict(self._rows[candidates[place]]))
            for rank, place in enumerate(order, start=1)
        ]


def _exact_scores(embeddings: np.ndarray, indices: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Dot products of some rows with a query, in float64 and in the same order of additions for every row."""
    wide_query = query.astype(np.float64)
    scores = np.empty(len(indices))
    for start in range(0, len(indices), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        scores[block] = (embeddings[indices[block]] * wide_query).sum(axis=1)
    return scores


def _unit_rows(embeddings: np.ndarray, dim: int) -> np.ndarray:
    embeddings = np.ascontiguousarray(embeddings, dtype=np.float32)
    if embeddings.ndim != 2 or embeddings.shape[1] != dim:
        raise ValueError(f"embeddings must have the shape (n, {dim}), got {embeddings.shape}")
    norms = np.linalg.norm(embeddings, axis=1)
    bad = np.flatnonzero(~(np.abs(norms - 1) < _NORM_TOLERANCE))  # NaN is bad, too
    if len(bad):
        raise ValueError(f"embeddings must have unit length, but row {bad[0]} has length {norms[bad[0]]:.4g}")
    return embeddings


def _row_paths(rows: Sequence[Row]) -> set[str]:
    paths: set[str] = set()
    for index, row in enumerate(rows):
        path = row.get("path")
        if not isinstance(path, str) or not path:
            raise ValueError(f"row {index} has no 'path' string")
        if path in paths:
            raise ValueError(f"row {index} has the same path as a row before it: {path}")
        paths.add(path)
    return paths


def _check_place(path: Path, overwrite: bool) -> None:
    if not path.exists():
        parent = next(folder for folder in path.absolute().parents if folder.exists())
        if not (parent.is_dir() and os.access(parent, os.W_OK)):
            raise GalleryError(f"gallery {path} cannot be made: {parent} is no folder that can be written")
        return
    if not path.is_dir():
        raise GalleryError(f"gallery {path} is a file: give a folder")
    if not os.access(path, os.W_OK):
        raise GalleryError(f"gallery {path} cannot be written")
    foreign = sorted(name for name in os.listdir(path) if name not in _OWN_FILES and not _CONTENT_FILE.fullmatch(name))
    if foreign and not (path / MANIFEST).exists():
        raise GalleryError(f"{path} holds other files ({foreign[0]}): give a new or empty folder for the gallery")
    if (path / MANIFEST).exists() and not overwrite:
        raise GalleryError(f"{path} holds a gallery already: open it or overwrite it")


def _embeddings_path(path: Path, generation: int) -> Path:
    return path / f"embeddings-{generation}.safetensors"


def _rows_path(path: Path, generation: int) -> Path:
    return path / f"rows-{generation}.jsonl"


def _read_manifest(path: Path) -> _Manifest:
    file = path / MANIFEST
    if not file.is_file():
        raise GalleryError(f"{path} holds no gallery ({MANIFEST} is missing): make one with `aga index`")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GalleryError(f"{file} is damaged ({error}){_REMEDY}") from error
    if not isinstance(content, dict) or not isinstance(content.get("format_version"), int):
        raise GalleryError(f"{file} is damaged (no format_version){_REMEDY}")
    if content["format_version"] > FORMAT_VERSION:
        raise GalleryError(f"{file} has format version {content['format_version']}: update aga-model to read it")
    kinds = {"model_name": str, "model_hash": str, "dim": int, "count": int, "generation": int}
    for key, kind in kinds.items():
        if not isinstance(content.get(key), kind):
            raise GalleryError(f"{file} is damaged ({key} is {content.get(key)!r}){_REMEDY}")
    return _Manifest(**{key: content[key] for key in kinds})


def _read_embeddings(path: Path, manifest: _Manifest) -> np.ndarray:
    file = _embeddings_path(path, manifest.generation)
    try:
        tensors = safetensors.numpy.load_file(file)
    except (OSError, SafetensorError) as error:
        raise GalleryError(f"{file} is missing or damaged ({error}){_REMEDY}") from error
    embeddings = tensors.get("embeddings")
    expected = (manifest.count, manifest.dim)
    if embeddings is None or embeddings.dtype != np.float32 or embeddings.shape != expected:
        found = "no tensor `embeddings`" if embeddings is None else f"{embeddings.dtype} {embeddings.shape}"
        raise GalleryError(f"{file} holds {found}, but {MANIFEST} says float32 {expected}{_REMEDY}")
    return embeddings


def _read_rows(path: Path, manifest: _Manifest) -> list[Row]:
    file = _rows_path(path, manifest.generation)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise GalleryError(f"{file} is missing or damaged ({error}){_REMEDY}") from error
    rows = [_parse_row(line, file, number) for number, line in enumerate(lines, start=1)]
    if len(rows) != manifest.count:
        raise GalleryError(f"{file} holds {len(rows)} rows, but {MANIFEST} says {manifest.count}{_REMEDY}")
    return rows


def _parse_row(line: str, file: Path, number: int) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise GalleryError(f"{file}, line {number} is damaged ({error}){_REMEDY}") from error
    if not isinstance(row, dict) or not isinstance(row.get("path"), str):
        raise GalleryError(f"{file}, line {number} is damaged (no path){_REMEDY}")
    return row


def _generation_of(name: str) -> int | None:
    match = _CONTENT_FILE.fullmatch(name)
    return int(match.group(1) or match.group(2)) if match else None


def _committed_generation(path: Path) -> int:
    """The generation that gallery.json names, 0 without a readable one."""
    try:
        return _read_manifest(path).generation
    except GalleryError:
        return 0


def _newest_generation(path: Path) -> int:
    """The highest generation that any file in the folder names, 0 for none."""
    if not path.is_dir():
        return 0
    named = (_generation_of(name) for name in os.listdir(path))
    return max([_committed_generation(path), *(number for number in named if number is not None)])


def _remove_generations(path: Path, outdated: Callable[[int], bool]) -> None:
    for name in os.listdir(path):
        generation = _generation_of(name)
        if generation is not None and outdated(generation):
            (path / name).unlink(missing_ok=True)


def _replace_file(path: Path, content: bytes) -> None:
    """Write a file so that it has its whole content from the moment it bears its name, even over a power cut."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
