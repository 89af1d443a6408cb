"""What a run begins with: whether its settings, its data and the model that it starts from go together."""

import logging
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from transformers import AutoProcessor

from aga_model.configuration_aga import AgaConfig, AgaObjectiveConfig
from aga_model.pretraining_aga import AgaForPreTraining
from aga_model.processing_aga import AgaProcessor
from aga_model.remote_code import refusal

from .arguments import AgaTrainingArguments, ModelArguments

logger = logging.getLogger("aga_model.training.run")


def load_processor(name: str) -> AgaProcessor:
    """The processor of a model to start from."""
    try:
        processor = AutoProcessor.from_pretrained(name, trust_remote_code=False)
    except ValueError as error:
        if refusal(error, name, trusted=False) is None:
            raise
        raise ValueError(
            f"{name}: its processor names Python code of its own, which a training does not run; save the model with "
            "a processor of this package"
        ) from error
    if not hasattr(processor, "tokenizer"):
        raise ValueError(f"{name} holds no processor: save it there with `processor.save_pretrained`")
    return processor


def check_start(name: str, model: AgaForPreTraining, info: dict[str, Any]) -> None:
    """Raise ValueError, as [`_load_start`], for weights that a start takes from no checkpoint or leaves there."""
    missing, unexpected = set(info["missing_keys"]), set(info["unexpected_keys"])
    mismatched = {entry[0] for entry in info["mismatched_keys"]}
    # Of a dual encoder: all of the fusion encoder begins with random weights, or nothing of it.
    fusion = {f"fusion.{key}" for key in model.fusion.state_dict()}
    missing -= fusion if fusion <= missing else set()
    wrong = {
        "are missing": {key for key in missing if not key.startswith(("mlm_head.", "itm_head.", "identity_head."))},
        "are of another size": {key for key in mismatched if not key.startswith("identity_head.")},
        "have no place": {key for key in unexpected if not key.startswith(("itm_head.", "identity_head."))},
    }
    for what, keys in wrong.items():
        if keys:
            raise ValueError(
                f"{name}: {len(keys)} weights {what} by its config.json, such as {', '.join(sorted(keys)[:3])}: the "
                "configuration is not that of the weights; start from a folder as save_pretrained wrote it"
            )
    if any(key.startswith("itm_head.") for key in unexpected):
        logger.warning(
            "%s has an ITM head, which this run leaves out, because objective_config.loss_weights gives 'itm' no "
            "weight: the trained model cannot re-rank",
            name,
        )


def uses_identities(model_args: ModelArguments) -> bool:
    """Whether a loss reads the identity classifier, by the run's objective on top of that of the checkpoint."""
    objective = (model_args.model_config or {}).get("objective_config") or {}
    if model_args.model_name_or_path:
        start = AgaConfig.from_pretrained(model_args.model_name_or_path, trust_remote_code=False)
        objective = start.objective_config.to_dict() | objective
    return AgaObjectiveConfig(**objective).needs_identity_head


def check_config(sections: dict[str, Any]) -> None:
    """Build the configuration once before any work, with a stand-in for what the data will tell."""
    objective = sections.get("objective_config") or {}
    if isinstance(objective, dict):
        objective = {"num_identities": 1, **objective}
    AgaConfig(**{**sections, "objective_config": objective}).objective_config.require_losses()


def check_batches(splits: dict[str, Dataset], args: AgaTrainingArguments) -> None:
    """Refuse a run that would end without a single step."""
    batch = args.per_device_train_batch_size * PartialState().num_processes
    if args.dataloader_drop_last and len(splits["train"]) < batch:
        raise ValueError(
            f"the training split has {len(splits['train'])} pairs, fewer than one batch of {batch} over all "
            "processes; give a smaller per_device_train_batch_size"
        )
    if args.dataloader_persistent_workers:
        raise ValueError("dataloader_persistent_workers keeps the augmentation of the first epoch; leave it off")


def check_devices(args: AgaTrainingArguments) -> None:
    """Refuse transformers' DataParallel, whose copies would each compute their losses on a part of the batch."""
    if args.n_gpu > 1:
        raise ValueError(
            f"{args.n_gpu} GPUs are visible to a single process; start with `accelerate launch --num_processes "
            f"{args.n_gpu} train_hf.py ...`, or show it one GPU with CUDA_VISIBLE_DEVICES=0"
        )


def check_chunks(args: AgaTrainingArguments) -> None:
    if args.contrastive_chunk < 0:
        raise ValueError(
            f"contrastive_chunk is {args.contrastive_chunk}; give a number of pairs, or 0 for all at once"
        )
    if args.contrastive_chunk and args.torch_compile:
        raise ValueError("contrastive_chunk computes chunks again in the backward pass: leave torch_compile off")


def check_optimizer(args: AgaTrainingArguments) -> None:
    if args.muon_learning_rate > 0 and (args.new_module_lr_factor, args.bias_lr_factor) != (1.0, 1.0):
        raise ValueError(
            "new_module_lr_factor and bias_lr_factor are for AdamW alone: leave them at 1, or set muon_learning_rate "
            "to 0"
        )
