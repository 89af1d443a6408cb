"""FSDP: what a run whose parameters are shared out over processes needs beside Accelerate's configuration."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from aga_model.pretraining_aga import AgaForPreTraining

from ..arguments import AgaTrainingArguments


def is_sharded_run(args: AgaTrainingArguments) -> bool:
    """Whether `accelerate launch` or the arguments ask for FSDP."""
    return bool(args.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def check_sharding(model: AgaForPreTraining, args: AgaTrainingArguments) -> None:
    """
    Refuse what cannot be trained on shards.

    Raises:
        ValueError: names every setting that stands against it.
    """
    objective = model.config.objective_config
    against = {
        f"model_config.family: {model.family.name} (the MLM head shares the word embedding)": (
            model.family.ties_mlm_head
        ),
        "model_config.objective_config.learn_temperature: true": objective.learn_temperature,
        "model_config.objective_config.momentum": objective.momentum is not None,
        "muon_learning_rate": args.muon_learning_rate > 0,
        "contrastive_chunk": args.contrastive_chunk > 0,
        "fsdp_version: 1": os.environ.get("FSDP_VERSION", "1") != "2",
    }
    found = [setting for setting, given in against.items() if given]
    if found:
        raise ValueError(f"FSDP cannot train with {'; '.join(found)} (docs/training.md)")


def leave_temperature_whole(accelerator: Accelerator, model: AgaForPreTraining) -> None:
    """Tell FSDP to leave the temperature alone, a scalar that it cannot share out and that is not trained."""
    holder = nn.Module()
    holder.logit_scale = model.aga.logit_scale
    accelerator.state.fsdp_plugin.ignored_modules = [holder]


@contextmanager
def whole_parameters(model: nn.Module) -> Iterator[None]:
    """Every process holds all parameters while inside, to call parts of the model by themselves."""
    shards: list[Any] = [module for module in model.modules() if hasattr(module, "unshard")]
    for module in shards:
        module.unshard()
    try:
        yield
    finally:
        for module in shards:
            module.reshard()


def plain_copy(model: AgaForPreTraining, weights: dict[str, Any] | None) -> AgaForPreTraining:
    """
    The model as its own class, which FSDP changes, to be saved.

    Args:
        model: with shards.
        weights: of the whole model; None where nothing will be saved.
    """
    with torch.device("meta"):
        plain = AgaForPreTraining(model.config)
    if weights:
        plain.load_state_dict(weights, assign=True)
    return plain


__all__ = ["check_sharding", "is_sharded_run", "leave_temperature_whole", "plain_copy", "whole_parameters"]
