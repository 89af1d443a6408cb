"""The momentum model: a moving average of the weights that teaches the model in training and is not released."""

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from aga_model.pretraining_aga import AgaForPreTraining

MOMENTUM_FILE = "momentum_model.safetensors"
_FILE_BEFORE = "momentum_teacher.safetensors"  # in checkpoints before version 0.2
_QUEUE = ("queue_image_embeds", "queue_text_embeds", "queue_person_ids")


def __getattr__(name: str) -> Any:
    """The names that [`MomentumModel`] and `MOMENTUM_FILE` had before version 0.2, for one version more."""
    now = {"MomentumTeacher": "MomentumModel", "TEACHER_FILE": "MOMENTUM_FILE"}.get(name)
    if now is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"{name} is now called {now}", DeprecationWarning, stacklevel=2)
    return globals()[now]


class MomentumModel:
    """
    Exponential moving average of a model's weights, in float32, and a queue of what it said about past batches.

    After n updates a weight is m^n w_0 + (1 - m) sum_i m^(n - i) w_i. Sources: MoCo (CVPR 2020), ALBEF (NeurIPS 2021,
    section 3.3). Unlike ALBEF's it is in eval mode, so that its targets are without dropout (this project's choice).

    Args:
        model: its weights are copied; its objective gives momentum, alpha and the size of the queue.

    Raises:
        ValueError: the objective has no momentum.
    """

    def __init__(self, model: AgaForPreTraining):
        objective = model.config.objective_config
        if objective.momentum is None:
            raise ValueError("objective_config.momentum is not set: this model is trained without a momentum model")
        self.momentum = float(objective.momentum)
        self.distillation_weight = float(objective.distillation_weight)
        self.queue_size = int(objective.queue_size)
        self.weight = 0.0
        self.model = copy.deepcopy(model).float().eval().requires_grad_(False)
        self._queue: tuple[Tensor, Tensor, Tensor] | None = None

    def set_epochs_done(self, epochs: float) -> None:
        """Set alpha, the weight of the soft targets: it rises over the first epoch, as in ALBEF."""
        self.weight = self.distillation_weight * min(1.0, epochs)

    @torch.no_grad()
    def update(self, model: AgaForPreTraining) -> None:
        """Move every weight towards the model's; after each optimiser step."""
        mine = list(self.model.parameters())
        theirs = [other.detach().to(own) for own, other in zip(mine, model.parameters(), strict=True)]
        torch._foreach_lerp_(mine, theirs, 1 - self.momentum)

    def remember(self, image_embeds: Tensor, text_embeds: Tensor, person_ids: Tensor) -> None:
        """Put embeddings (batch, dim) and persons (batch,) into the queue; the oldest leave it."""
        new = (image_embeds.detach(), text_embeds.detach(), person_ids)
        if self._queue is not None:
            new = tuple(torch.cat(parts) for parts in zip(new, self._queue))  # type: ignore[assignment]
        images, texts, persons = (rows[: self.queue_size] for rows in new)
        self._queue = images, texts, persons

    def past(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Image and text embeddings (queue, dim) and persons (queue,), newest first; None while empty."""
        return self._queue

    def save(self, folder: str | Path) -> None:
        """Write the weights and the queue into a checkpoint's folder."""
        tensors = {f"model.{name}": value.cpu().contiguous() for name, value in self.model.named_parameters()}
        if self._queue is not None:
            tensors |= {name: rows.cpu().contiguous() for name, rows in zip(_QUEUE, self._queue)}
        save_file(tensors, Path(folder) / MOMENTUM_FILE)

    @torch.no_grad()
    def load(self, folder: str | Path) -> None:
        """
        Take over what [`save`] wrote.

        Raises:
            FileNotFoundError: the checkpoint holds no momentum model.
            ValueError: it is that of another architecture.
        """
        path = Path(folder) / MOMENTUM_FILE
        if not path.is_file() and path.with_name(_FILE_BEFORE).is_file():
            path = path.with_name(_FILE_BEFORE)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: the checkpoint holds no momentum model, so the run cannot be continued")
        tensors = load_file(path)
        own = dict(self.model.named_parameters())
        theirs = {name.removeprefix("model."): value for name, value in tensors.items() if name not in _QUEUE}
        if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in theirs.items()}:
            raise ValueError(f"{path}: not the momentum model of this architecture")
        for name, value in own.items():
            value.copy_(theirs[name])
        queue = [tensors[name].to(self.model.device) for name in _QUEUE if name in tensors]
        self._queue = (queue[0], queue[1], queue[2]) if queue else None


__all__ = ["MOMENTUM_FILE", "MomentumModel"]
