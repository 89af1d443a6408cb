"""Collectives for losses over the global batch; every function is the identity in a single process.

Under DistributedDataParallel gradients are averaged over processes. A loss that every process computes on the gathered
batch, or that `global_mean` rescales, then has exactly the gradient of one process with the whole batch.
"""

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


def gather_rows(rows: Tensor) -> Tensor:
    """
    Concatenate `rows` of all processes in order of rank, with gradients.

    Args:
        rows: (batch, ...); the batch size may differ between processes, the rest may not.

    Returns:
        (sum of batches, ...), the same on every process.
    """
    if world_size() == 1:
        return rows
    sizes = torch.zeros(world_size(), dtype=torch.long, device=rows.device)
    sizes[dist.get_rank()] = len(rows)
    dist.all_reduce(sizes)
    longest = int(sizes.max())
    padded = torch.cat([rows, rows.new_zeros((longest - len(rows), *rows.shape[1:]))])
    parts = _GatherRows.apply(padded).split(longest)
    return torch.cat([part[:size] for part, size in zip(parts, sizes.tolist())])


def gather_captions(rows: Tensor) -> Tensor:
    """
    [`gather_rows`] for tensors whose second size, the caption length, may differ between processes too.

    Args:
        rows: (batch, seq, ...); shorter ones are filled with zeros.
    """
    if world_size() == 1:
        return rows
    longest = torch.tensor(rows.shape[1], device=rows.device)
    dist.all_reduce(longest, op=dist.ReduceOp.MAX)
    missing = int(longest) - rows.shape[1]
    filling = rows.new_zeros((len(rows), missing, *rows.shape[2:]))
    return gather_rows(torch.cat([rows, filling], dim=1))


def first_row(count: int, device: torch.device) -> int:
    """Where this process's rows begin in [`gather_rows`]; `count` is their number."""
    if world_size() == 1:
        return 0
    sizes = torch.zeros(world_size(), dtype=torch.long, device=device)
    sizes[dist.get_rank()] = count
    dist.all_reduce(sizes)
    return int(sizes[: dist.get_rank()].sum())


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


__all__ = ["first_row", "gather_captions", "gather_rows", "global_mean", "world_size"]
