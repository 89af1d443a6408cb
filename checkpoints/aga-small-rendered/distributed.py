"""Collectives for losses over the global batch; every function is the identity in a single process.

Under DistributedDataParallel gradients are averaged over processes. A loss that every process computes on the gathered
batch, or that `global_mean` rescales, then has exactly the gradient of one process with the whole batch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist


def world_size() -> int:
    """Number of processes, 1 outside a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _GatherRows(torch.autograd.Function):
    """All-gather of equally shaped tensors whose backward sums the gradients of all processes."""

    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        gathered = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, rows.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


@dataclass(frozen=True)
class GlobalBatch:
    """
    The batches of all processes, in the order of their ranks.

    Args:
        sizes: pairs of each.
        longest: tokens of the longest caption of all.
    """

    sizes: tuple[int, ...]
    longest: int

    @property
    def first_row(self) -> int:
        """Where this process's rows begin in the whole batch."""
        return sum(self.sizes[: dist.get_rank()]) if world_size() > 1 else 0

    def own(self, rows: Tensor) -> Tensor:
        """This process's part (batch, ...) of rows (sum of batches, ...) of the whole batch."""
        return rows if world_size() == 1 else rows[self.first_row : self.first_row + self.sizes[dist.get_rank()]]

    def gather(self, rows: Tensor) -> Tensor:
        """
        Concatenate `rows` of all processes in order of rank, with gradients.

        Args:
            rows: (batch, ...), or a multiple of the batch that is the same in all processes.

        Returns:
            (sum of batches, ...), the same on every process.
        """
        if world_size() == 1:
            return rows
        multiple = len(rows) // self.sizes[dist.get_rank()]
        longest = multiple * max(self.sizes)
        padded = torch.cat([rows, rows.new_zeros((longest - len(rows), *rows.shape[1:]))])
        parts = _GatherRows.apply(padded).split(longest)
        return torch.cat([part[: multiple * size] for part, size in zip(parts, self.sizes)])

    def gather_captions(self, rows: Tensor) -> Tensor:
        """
        [`gather`] for tensors (batch, seq, ...), whose captions have another length in every process; shorter ones are
        filled with zeros.
        """
        if world_size() == 1:
            return rows
        missing = self.longest - rows.shape[1]
        filling = rows.new_zeros((len(rows), missing, *rows.shape[2:]))
        return self.gather(torch.cat([rows, filling], dim=1))


def exchange_sizes(count: int, length: int, device: torch.device) -> GlobalBatch:
    """
    Tell all processes the size of each one's batch; once a step, because reading it waits for the device.

    Args:
        count: pairs of this process's batch, at least one.
        length: tokens of its captions, padding included.
        device: of the tensors that will be gathered.
    """
    if world_size() == 1:
        return GlobalBatch((count,), length)
    table = torch.zeros(world_size(), 2, dtype=torch.long, device=device)
    table[dist.get_rank(), 0], table[dist.get_rank(), 1] = count, length
    dist.all_reduce(table)
    sizes, lengths = zip(*table.tolist())
    return GlobalBatch(sizes, max(lengths))


def global_mean(mean: Tensor, count: int | Tensor) -> Tensor:
    """
    Rescale a process's mean so that the average over processes is the mean over all items.

    Args:
        mean: scalar, mean over this process's items.
        count: number of items it was taken over.
    """
    if world_size() == 1:
        return mean
    local = torch.as_tensor(count, dtype=torch.float32, device=mean.device)
    total = local.clone()
    dist.all_reduce(total)
    return mean * (local * world_size() / total.clamp(min=1))


__all__ = ["GlobalBatch", "exchange_sizes", "global_mean", "world_size"]
