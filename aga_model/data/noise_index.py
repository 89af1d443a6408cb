"""
Noisy correspondence as the field measures it: an index that says which caption each training row gets.

RDE (CVPR 2024) published nine such files, for three datasets at 20, 50 and 80%; ICL and CECA share them.
"""

import hashlib
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from datasets import Dataset, concatenate_datasets

from .noise import NoiseRecord, check_noise, corrupt_attributes, with_captions

RDE = "rde"
"""The value of `noise_index` that makes the index of RDE's rule."""
_SEED = 1  # of all published files


@dataclass(frozen=True)
class NoiseIndex:
    """
    Which caption each row gets.

    Args:
        name: of the file, or `rde`.
        values: int64 (rows,): row i of the training split gets the caption of row `values[i]`, in the order of the
            annotation: image after image, caption after caption.
        rate: share of the rows that were asked for; 0.0 of a file, which does not say it.
    """

    name: str
    values: np.ndarray
    rate: float = 0.0

    @property
    def sha256(self) -> str:
        """Of the bytes of `values`, in hexadecimal."""
        return hashlib.sha256(np.ascontiguousarray(self.values, "<i8").tobytes()).hexdigest()


def make_noise_index(rows: int, rate: float) -> NoiseIndex:
    """
    The index that RDE's published files hold for a training split of this size, and what its code makes of others: the
    first `int(rate * rows)` rows of a shuffled range get each other's captions, shuffled again, all by numpy's legacy
    generator with seed 1. Some rows get their own caption back, or another one of the same person.

    Args:
        rows: captions of the training split.
        rate: share of them, in [0, 1).
    """
    check_noise(rate, 0.0, _SEED)
    generator = np.random.RandomState(_SEED)
    order = np.arange(rows)
    generator.shuffle(order)
    chosen = order[: int(rate * rows)]
    sources = chosen.copy()
    generator.shuffle(sources)
    values = np.arange(rows, dtype=np.int64)
    values[chosen] = sources
    return NoiseIndex(RDE, values, rate)


def read_noise_index(path: str | Path) -> NoiseIndex:
    """
    Read a `.npy` file such as RDE's `noiseindex/CUHK-PEDES_0.2.npy`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it holds no whole numbers in one dimension, or one that is no row.
    """
    path = Path(path)
    try:
        values = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; give a noise index, or `{RDE}` to make RDE's") from None
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path}: not a .npy file of numbers ({error})") from error
    if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.kind not in "iu" or not len(values):
        form = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else "several arrays"
        raise ValueError(f"{path}: a noise index is one row of whole numbers, one per training caption, not {form}")
    outside = (values < 0) | (values >= len(values))
    if outside.any():
        row = int(np.flatnonzero(outside)[0])
        raise ValueError(f"{path}: row {row} gets the caption of row {values[row]}, but there are {len(values)} rows")
    return NoiseIndex(path.name, values.astype(np.int64))


def add_indexed_noise(
    rows: Dataset, held_out: Dataset | None, index: NoiseIndex, caption_errors: float = 0.0, seed: int = 0
) -> tuple[Dataset, NoiseRecord]:
    """
    Give each training row the caption that an index says, after [`corrupt_attributes`].

    Args:
        rows: training split of [`~aga_model.data.benchmarks.load_benchmark`].
        held_out: rows that were taken out of it for validation. The index counts them as well, so that a row has the
            caption that it has in the field's runs; they themselves stay as they are.
        index: of all these rows in the order of the annotation.
        caption_errors: probability that an attribute phrase becomes a wrong one, in [0, 1).
        seed: of the caption errors.

    Returns:
        The training rows with other captions, and the record. A caption that came from a held-out row has None as its
        source there; `permuted` holds every row that does not have its own caption, also where the other one is of
        the same person.

    Raises:
        ValueError: the index is of another number of rows; a rate or the seed is out of range.
    """
    check_noise(index.rate, caption_errors, seed)
    count = len(rows) + (0 if held_out is None else len(held_out))
    if len(index.values) != count:
        raise ValueError(
            f"noise index {index.name} is of {len(index.values)} captions, but the training split has {count}: take "
            "the index of this dataset, and its annotation whole"
        )
    whole = rows if held_out is None else concatenate_datasets([rows, held_out])
    order = np.argsort(np.asarray(whole["image_id"][:]), kind="stable")  # captions of an image stay in their order
    corrupted, record = corrupt_attributes(whole.select(order), caption_errors, seed)
    places = np.argsort(order)[: len(rows)]  # of the training rows in the annotation
    sources = index.values[places]  # where in the annotation their captions come from
    captions = corrupted["caption"][:]
    receivers = defaultdict(list)
    for row, source in enumerate(sources):
        receivers[source].append(row)
    errors = [replace(error, row=row) for error in record.errors for row in receivers[error.row]]
    record = replace(
        record,
        noisy_correspondence=index.rate,
        rows=len(rows),
        permuted={
            row: int(order[sources[row]]) if order[sources[row]] < len(rows) else None
            for row in np.flatnonzero(sources != places).tolist()
        },
        errors=sorted(errors, key=lambda error: (error.row, error.start)),
        index={"name": index.name, "rows": count, "sha256": index.sha256},
    )
    return with_captions(rows, [captions[source] for source in sources]), record


__all__ = ["RDE", "NoiseIndex", "add_indexed_noise", "make_noise_index", "read_noise_index"]
