"""A training run ends at the first step whose loss, gradient or weights are no numbers, and names its batch."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from aga_model.distributed import world_size

NONFINITE_FILE = "nonfinite_batch.json"
LOSS, GRADIENT, WEIGHTS, EMBEDDINGS = "loss", "gradient", "weights", "validation embeddings"
# Checks where nothing else is due: what is remembered of batches stays small, and the end comes soon.
_LONGEST_WAIT = 100
# The square of a larger weight is no float32 number: the next forward pass would find what the last step did.
_LARGEST_WEIGHT = 1e18


@dataclass
class _Batch:
    """Rows of the training split that a forward pass has read, and what it gave, on the device."""

    step: int
    epoch: int
    rows: list[int]
    loss: Tensor
    parts: dict[str, Tensor]


@dataclass
class Finding:
    """What is not finite, and in which step (from 1)."""

    what: str
    step: int
    weights: list[str] = field(default_factory=list)


class FiniteGuard:
    """
    Remembers what the steps since the last check gave, and reads all of it from the device at once.

    Nothing waits for the device between two checks. All processes must check after the same step.

    Args:
        device: of the model.
    """

    def __init__(self, device: torch.device):
        self.waits = device.type != "cpu"
        self._batches: list[_Batch] = []
        self._norms: dict[int, Tensor] = {}
        self._sound_after: int | None = None  # the last step after which the weights were looked at

    def remember_batch(self, step: int, epoch: int, rows: list[int], loss: Tensor, parts: dict[str, Tensor]) -> None:
        """
        Note a forward pass.

        Args:
            step: the optimiser step that it belongs to, from 1.
            epoch: which the augmentation depends on.
            rows: of the training split.
            loss: scalar on the device; not finite when one of its parts is not.
            parts: losses by name, scalars.
        """
        self._batches.append(_Batch(step, epoch, rows, loss.detach(), {k: v.detach() for k, v in parts.items()}))

    def remember_gradient(self, step: int, norm: Tensor | float) -> None:
        """Note the norm of the gradient of a step."""
        norm = torch.as_tensor(norm).detach()
        # Under FSDP every process has a part of it.
        self._norms[step] = norm.full_tensor() if hasattr(norm, "full_tensor") else norm

    @property
    def is_due(self) -> bool:
        """Whether to check after this step even if nothing is logged or saved; on the CPU a check costs nothing."""
        return not self.waits or len(self._batches) >= _LONGEST_WAIT

    @torch.no_grad()
    def check(self, model: nn.Module | None) -> Finding | None:
        """
        The first step since the last check that gave something else than numbers in any process.

        Args:
            model: whose weights are looked at too, before they are evaluated or saved; None to leave them.
        """
        steps = [batch.step for batch in self._batches] + list(self._norms)
        device = self._batches[-1].loss.device if self._batches else torch.device("cpu")
        values = [batch.loss for batch in self._batches] + list(self._norms.values())
        bad = [~value.to(device).float().isfinite() for value in values]
        if model is not None:
            bad.append(~_all_finite(model.parameters()).to(device))
        if not bad:
            return None
        found = _anywhere(torch.stack(bad))
        batches = len(self._batches)
        broken = [(step, GRADIENT if at >= batches else LOSS) for at, step in enumerate(steps) if found[at]]
        if broken:
            step = min(broken)[0]
            what = LOSS if (step, LOSS) in broken else GRADIENT
            return Finding(what, step)
        last = steps[-1] if steps else 0
        if model is not None and found[-1]:
            return Finding(WEIGHTS, last, broken_weights(model))
        if model is not None:
            self._sound_after = last
        # The last step stays, to be named when its weights turn out to be broken.
        self._batches = [batch for batch in self._batches if batch.step == last]
        self._norms = {}
        return None

    def suspects(self, found: Finding) -> list[int]:
        """
        The steps whose batches may be to blame, in order.

        With a loss or gradient of broken weights that is the step before: its own loss was a number, and its weights
        have not been looked at where that would have waited for the device.
        """
        before = found.step - 1
        remembered = any(batch.step == before for batch in self._batches)
        unseen = found.what in (LOSS, GRADIENT) and remembered and self._sound_after != before
        return [before, found.step] if unseen else [found.step]

    def describe(self, step: int, dataset: Any) -> list[dict[str, Any]]:
        """The batches of a step in this process, with their losses and pairs, as JSON values."""
        return [
            {
                "step": batch.step,
                "epoch": batch.epoch,
                "losses": {name: as_json(value) for name, value in {"loss": batch.loss, **batch.parts}.items()},
                "pairs": [dataset.describe(row) for row in batch.rows],
            }
            for batch in self._batches
            if batch.step == step
        ]

    def gradient_norm(self, step: int) -> float | str | None:
        """Of a step since the last check, as JSON value; None where it is not known."""
        return as_json(self._norms[step]) if step in self._norms else None


def as_json(value: Tensor) -> float | str:
    """A number, or the name of what is none, which JSON does not have."""
    number = float(value)
    return number if math.isfinite(number) else str(number)


def _local(parameter: Tensor) -> Tensor:
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter


def _all_finite(parameters: Iterable[Tensor]) -> Tensor:
    """Scalar bool on the parameters' device, over this process's shards of them."""
    return torch.stack([_usable(parameter) for parameter in parameters]).all()


def _usable(parameter: Tensor) -> Tensor:
    """Scalar bool: no entry is NaN, infinite or too large to compute with."""
    return (_local(parameter.detach()).abs() <= _LARGEST_WEIGHT).all()


def broken_weights(model: nn.Module) -> list[str]:
    """Names of the first parameters with entries that are no numbers, in this process."""
    return [name for name, parameter in model.named_parameters() if not _usable(parameter)][:10]


def _anywhere(flags: Tensor) -> list[bool]:
    """Flags that are set in any process."""
    if world_size() > 1:
        counts = flags.int()
        dist.all_reduce(counts, op=dist.ReduceOp.MAX)
        flags = counts.bool()
    return flags.tolist()


__all__ = ["EMBEDDINGS", "NONFINITE_FILE", "Finding", "FiniteGuard"]
