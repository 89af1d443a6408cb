"""Order of training pairs."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch


class LengthGroupedSampler(torch.utils.data.Sampler[int]):
    """
    Random order in which neighbouring batches hold captions of similar length, so that little padding is computed.

    Pairs are shuffled, cut into chunks of `chunk_batches` batches, sorted by length within a chunk, and the batches of
    all chunks are shuffled again. The order depends on (seed, epoch) alone, so a resumed run continues it.

    Args:
        lengths: tokens of each caption.
        batch_size: pairs of one step over all processes.
        seed: of the order.
        chunk_batches: batches sorted together; more means less padding and less random batches.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, chunk_batches: int = 16):
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.chunk = batch_size * chunk_batches
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer's data loader at the start of an epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(len(self.lengths))
        chunks = [order[start : start + self.chunk] for start in range(0, len(order), self.chunk)]
        order = np.concatenate([chunk[np.argsort(self.lengths[chunk], kind="stable")] for chunk in chunks])
        whole = len(order) // self.batch_size * self.batch_size
        batches = order[:whole].reshape(-1, self.batch_size)
        return iter([*rng.permutation(batches).ravel().tolist(), *order[whole:].tolist()])
