"""One training run: arguments -> data -> model -> AgaTrainer -> best model, test metrics and model card."""

import errno
import json
import logging
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from filelock import FileLock
from huggingface_hub.errors import StrictDataclassError
from transformers import set_seed

from aga_model.configuration_aga import AgaConfig
from aga_model.data import (
    PairCollator,
    PairDataset,
    find_card,
    find_unreadable,
    has_validation_split,
    hold_out_identities,
    load_benchmark,
    says_rendered,
    text_settings,
    train_tokenizer,
)
from aga_model.evaluation import MOST_WRONG, NotFiniteError, RetrievalEvaluator, find_wrong_pairs
from aga_model.files import write_json
from aga_model.modeling_aga import AgaModel
from aga_model.pretraining_aga import AgaForPreTraining
from aga_model.processing_aga import AgaProcessor, special_token_settings
from aga_model.serving import write_serving_files
from aga_model.towers import POOLED_ROW_ATTENTION

from .arguments import AgaTrainingArguments, DataArguments, ModelArguments, parse_run_arguments
from .checks import (
    check_batches,
    check_chunks,
    check_config,
    check_devices,
    check_optimizer,
    check_start,
    load_processor,
    uses_identities,
)
from .errors import TrainingStopped, another_try
from .noise import find_noise_index, with_noise
from .parallel.processes import from_main, leave_group, require_shared
from .parallel.sharding import check_sharding, is_sharded_run
from .release.card import write_model_card
from .release.contents import MODEL_FOLDER, ReleaseError
from .release.hub import open_repository
from .run_folder import LOCK_FILE, METRICS_FILE, RUN_FILE, WRONG_PAIRS_FILE, claim_run_folder, describe_run
from .saving import SAVING, put_in_place, saving, tidying
from .trainer import AgaTrainer

logger = logging.getLogger(__name__)

# Identities held out where a dataset has no validation split. The seed is fixed, so that runs of several seeds are
# chosen by the same persons.
_VALIDATION_SHARE = 0.05
_VALIDATION_SEED = 0


def _load_splits(data_args: DataArguments, decode: bool = True) -> tuple[dict[str, Dataset], dict[str, Any]]:
    """
    The splits train, val and test, and what was decided on the way, for run.json.

    Every image is decoded with `decode`, so that a broken one does not end the run after hours; a continued run has
    done so at its start.
    """
    decodes = data_args.skip_unreadable or decode
    skipped = from_main(lambda: _unreadable_images(data_args)) if decodes else []  # one process decodes for all
    if skipped and not data_args.skip_unreadable:
        raise ValueError(
            f"{len(skipped)} images are missing or cannot be decoded, first: {', '.join(skipped[:3])}; mend them, or "
            "give --skip_unreadable true to go on without them (`aga check-data` lists all)"
        )
    splits = load_benchmark(data_args.dataset, data_args.data_root, skip=skipped)
    decisions: dict[str, Any] = {"skipped_images": skipped, "validation": {"source": "the dataset's own split"}}
    wanted = data_args.validation_identities
    if "val" in splits and wanted:
        raise ValueError(
            f"validation_identities is {wanted}, but {data_args.dataset} has a validation split: leave it at 0"
        )
    if "train" in splits and "val" not in splits and (wanted or not has_validation_split(data_args.dataset)):
        splits["train"], splits["val"] = hold_out_identities(
            splits["train"], wanted or _VALIDATION_SHARE, _VALIDATION_SEED
        )
        decisions["validation"] = {
            "source": "identities held out of the training split",
            "identities": len(set(splits["val"]["person_id"])),
            "seed": _VALIDATION_SEED,
        }
    for split in ("train", "val", "test"):
        if split not in splits:
            raise ValueError(f"{data_args.data_root}: no records of split {split!r}; training needs train, val, test")
    return splits, decisions


def _unreadable_images(data_args: DataArguments) -> list[str]:
    """Image files that are missing or cannot be decoded."""
    skipped = find_unreadable(data_args.dataset, data_args.data_root)
    for item in skipped[:10]:
        logger.warning("%s: %s", item.path, item.reason)
    if data_args.skip_unreadable:
        logger.warning("skip_unreadable: %d images are missing or cannot be decoded and are left out", len(skipped))
    return [str(item.path) for item in skipped]


def _find_wrong_pairs(train_rows: Dataset, name: str, args: AgaTrainingArguments) -> dict[str, Any]:
    """What the model `name` says about the training pairs, as JSON values; all processes must ask."""
    model: Any = AgaModel.from_pretrained(name, trust_remote_code=False)
    model.to(args.device)
    evaluator = RetrievalEvaluator(train_rows, load_processor(name), args.per_device_eval_batch_size)
    split = evaluator.embed(model)
    found = find_wrong_pairs(split, args.seed, model.device)
    if found.wrong_share > MOST_WRONG:
        raise ValueError(
            f"leave_out_wrong_pairs: by {name} {found.wrong_share:.0%} of the training captions match their images no "
            "better than a stranger's; start from a model that has learnt such pairs, or leave it off"
        )
    return {"model": name} | found.to_json(split)


def _wrong_pairs(
    train_rows: Dataset, model_args: ModelArguments, args: AgaTrainingArguments, first_start: bool
) -> dict[str, Any]:
    """[`_find_wrong_pairs`] by the model to start from; a continued run takes those of its first start."""
    name = model_args.model_name_or_path
    if name is None:
        raise ValueError("leave_out_wrong_pairs asks the model to start from; give model_name_or_path")
    if first_start:
        return _find_wrong_pairs(train_rows, name, args)
    return from_main(lambda: _read_found(Path(args.output_dir) / WRONG_PAIRS_FILE, len(train_rows)))


def _read_found(file: Path, rows: int) -> dict[str, Any]:
    """The list of a run's first start."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        same = found["rows"] == rows
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file}: cannot be read ({error}); the run began with it, so give another output_dir"
        ) from error
    if not same:
        raise ValueError(f"{file} is of {found['rows']} training captions, not {rows}; continue with the same data")
    return found


def _load_start(
    name: str, sections: dict[str, Any], objective: dict[str, Any]
) -> tuple[AgaForPreTraining, AgaProcessor]:
    """
    A checkpoint to start from with an own objective.

    Heads that it does not have begin with random weights. An ITM head that the objective gives no weight is left out,
    and the log says so: it would no longer fit the fusion encoder that is trained on.

    Raises:
        ValueError: weights of the towers are missing or of another size, or some are left over: the checkpoint's
            configuration is not that of its weights.
    """
    foreign = set(sections) - {"objective_config", "logit_scale_init_value"}
    if foreign:
        raise ValueError(
            "model_config: with model_name_or_path only objective_config and logit_scale_init_value can be set; the "
            f"towers come from the checkpoint, so remove {', '.join(sorted(foreign))}"
        )
    start = AgaConfig.from_pretrained(name, trust_remote_code=False).to_dict()
    processor = load_processor(name)
    # The configurations of versions before 0.2 do not name every special token.
    special = special_token_settings(processor.tokenizer)
    text = start["text_config"] | {key: special[key] for key in ("unk_token_id", "other_special_token_ids")}
    # Which heads the model has follows from what it is trained with from here on.
    kept = {key: value for key, value in start.items() if key not in ("has_itm_head", "has_mlm_head")}
    settings = {**kept, **sections, "text_config": text}
    settings["objective_config"] = {**start["objective_config"], **objective}
    config = AgaConfig(**settings)
    config.objective_config.require_losses()
    model, info = AgaForPreTraining.from_pretrained(
        name, config=config, ignore_mismatched_sizes=True, output_loading_info=True, trust_remote_code=False
    )
    check_start(name, model, info)
    if model.identity_head is not None:  # the checkpoint's classes are the persons of its own data
        torch.nn.init.normal_(model.identity_head.weight, std=0.001)
        torch.nn.init.zeros_(model.identity_head.bias)
    if "logit_scale_init_value" in sections:
        torch.nn.init.constant_(model.aga.logit_scale, sections["logit_scale_init_value"])
    return model, processor


def _open_repository(args: AgaTrainingArguments) -> str:
    """
    The repository that the run will be pushed to, as owner/name.

    It is created or found before any training, so that a run does not end at a token that may not write.
    """
    private, revision = bool(args.hub_private_repo), args.hub_revision
    return from_main(lambda: open_repository(args.hub_api(), args.hub_repository, private, revision).name)


def _build_model(model_args: ModelArguments, train_rows: Dataset) -> tuple[AgaForPreTraining, AgaProcessor]:
    """A model and processor from a checkpoint, or from the configuration with a tokenizer learnt on the captions."""
    sections: dict[str, Any] = dict(model_args.model_config or {})
    objective = dict(sections.get("objective_config") or {})
    objective["num_identities"] = len(set(train_rows["person_id"])) if uses_identities(model_args) else 0
    if model_args.model_name_or_path:
        return _load_start(model_args.model_name_or_path, sections, objective)
    tokenizer = train_tokenizer(train_rows["caption"], model_args.vocab_size)
    text = {**(sections.get("text_config") or {}), **text_settings(tokenizer)}
    config = AgaConfig(**{**sections, "text_config": text, "objective_config": objective})
    return AgaForPreTraining(config), AgaProcessor.for_config(config, tokenizer)


@dataclass
class PreparedRun:
    """
    A run whose data and settings have been found in order, before any training.

    Args:
        checkpoint: to continue from.
        metrics: of a run that is finished; None while there is work left.
        repository: owner/name on the Hub, where the run is pushed.
        lock: of the run folder, which the main process holds until it is released or the process ends.
    """

    model: AgaForPreTraining
    processor: AgaProcessor
    splits: dict[str, Dataset]
    data_args: DataArguments
    args: AgaTrainingArguments
    description: dict[str, Any]
    checkpoint: Path | None
    metrics: dict[str, Any] | None
    repository: str | None
    lock: FileLock


def prepare(model_args: ModelArguments, data_args: DataArguments, args: AgaTrainingArguments) -> PreparedRun:
    """
    Load data and model, check everything, and claim the run folder.

    Writes `output_dir/run.json` (exact settings) and, where they were asked for, `noise.json` (all of it) and
    `wrong_pairs.json` (what is left out).

    Raises:
        OSError, ValueError, StrictDataclassError: bad data or settings, or a repository on the Hub that takes no push;
            names them.
    """
    set_seed(args.seed)
    check_config(dict(model_args.model_config or {}))
    check_optimizer(args)
    check_chunks(args)
    check_devices(args)
    noise_index = find_noise_index(data_args, args.seed)
    folder = Path(args.output_dir)
    first_start = from_main(lambda: not (folder / RUN_FILE).is_file())
    splits, decisions = _load_splits(data_args, decode=first_start)
    check_batches(splits, args)
    if data_args.noise_index is not None and decisions.get("skipped_images"):
        raise ValueError("noise_index counts every image of the annotation: mend those that cannot be read")
    held_out = splits["val"] if "identities" in decisions.get("validation", {}) else None
    splits["train"], noise = with_noise(splits["train"], data_args, args.seed, held_out, noise_index)
    if noise:
        decisions["noise"] = noise.summary()
        logger.info("noise in the training captions: %s", decisions["noise"])
    wrong_pairs = None
    if data_args.leave_out_wrong_pairs:
        wrong_pairs = _wrong_pairs(splits["train"], model_args, args, first_start)
        left_out = {pair["row"] for pair in wrong_pairs["left_out"]}
        splits["train"] = splits["train"].select([row for row in range(len(splits["train"])) if row not in left_out])
        decisions["wrong_pairs"] = wrong_pairs | {"left_out": len(left_out)}
        logger.info("wrong training pairs: %s", decisions["wrong_pairs"])
        check_batches(splits, args)
    model, processor = _build_model(model_args, splits["train"])
    if is_sharded_run(args):
        check_sharding(model, args)
    name = model_args.model_name_or_path
    start = {"start": name, "start_rendered": name is None or says_rendered(find_card(name))}
    description = start | describe_run(model, data_args, args, splits) | decisions
    repository = _open_repository(args) if args.push_to_hub else None
    lock = FileLock(folder / LOCK_FILE)
    try:
        checkpoint, metrics = from_main(lambda: claim_run_folder(folder, description, noise, lock, wrong_pairs))
        require_shared(folder / RUN_FILE)
    except BaseException:
        lock.release()
        raise
    return PreparedRun(model, processor, splits, data_args, args, description, checkpoint, metrics, repository, lock)


def pair_collator(run: PreparedRun) -> PairCollator:
    """Captions share rows of the text tower where its attention can keep them apart and batches are read whole."""
    keeps_apart = run.model.aga.text_model.config._attn_implementation == POOLED_ROW_ATTENTION
    return PairCollator(run.processor, packed=keeps_apart and not run.args.contrastive_chunk)


def _build_trainer(run: PreparedRun) -> AgaTrainer:
    args, splits, processor = run.args, run.splits, run.processor
    cache, batch_size = run.data_args.cache_images, args.per_device_eval_batch_size
    run.model.use_chunks(args.contrastive_chunk)
    return AgaTrainer(
        model=run.model,
        args=args,
        train_dataset=PairDataset(splits["train"], processor, run.data_args.augmentation(), args.seed, cache),
        eval_dataset=splits["val"],
        data_collator=pair_collator(run),
        processing_class=processor,
        evaluator=RetrievalEvaluator(splits["val"], processor, batch_size, cache),
    )


def fit(run: PreparedRun) -> AgaTrainer:
    """
    Run a training to its end, from its last complete checkpoint when there is one; no test data are read.

    Returns:
        the trainer, with the best model by validation.

    Raises:
        TrainingStopped: NaN or infinity on the way, or a checkpoint that cannot be written.
    """
    trainer = _build_trainer(run)
    if not trainer.restore_finished(run.checkpoint):
        try:
            trainer.train(resume_from_checkpoint=str(run.checkpoint) if run.checkpoint else None)
        except TrainingStopped:
            with suppress(OSError):  # progress bar and logs
                trainer.callback_handler.on_train_end(run.args, trainer.state, trainer.control)
            raise
    return trainer


def training_figures(trainer: AgaTrainer) -> dict[str, Any]:
    """Seconds of training, and step and validation metric of the best checkpoint."""
    return {
        "seconds_training": round(trainer.seconds_training, 1),
        "best_step": trainer.state.best_global_step,
        f"validation_{trainer.args.metric_for_best_model}": trainer.state.best_metric,
    }


def train(run: PreparedRun) -> dict[str, Any]:
    """
    [`fit`], then measure the best model on the test split.

    Writes `metrics.json`, `model/` (model, processor, model card, [`SERVING_FILES`]) and TensorBoard logs into
    `output_dir`, and pushes `model/` to the Hub where the arguments say so. The model of a run that is finished is
    only pushed, with what was added to it since.

    Returns:
        the content of metrics.json.

    Raises:
        TrainingStopped: as [`fit`], or the model cannot be measured or saved.
        ReleaseError: the push failed; everything else is done and written.
    """
    if run.metrics is None:
        trainer = fit(run)
        metrics = _measure(trainer, run)
        _save_result(trainer, run, metrics)
    else:
        trainer, metrics = _build_trainer(run), run.metrics
        if trainer.is_world_process_zero():
            logger.warning("%s: the run is finished; %s/ stays as it is", run.args.output_dir, MODEL_FOLDER)
    if run.args.push_to_hub:
        trainer.push_to_hub()
    return metrics


def _measure(trainer: AgaTrainer, run: PreparedRun) -> dict[str, Any]:
    """The metrics of the test split with their intervals, and [`training_figures`]."""
    evaluator = RetrievalEvaluator(run.splits["test"], run.processor, run.args.per_device_eval_batch_size)
    try:
        measured, intervals = trainer.measure_with_intervals(evaluator)
    except NotFiniteError as error:
        raise TrainingStopped(
            f"{run.args.output_dir}: the best model gives NaN or infinity for the test split ({error}); it was not "
            f"measured, and only its checkpoint is there; {another_try(run.args)}",
            everywhere=True,
        ) from error
    metrics: dict[str, Any] = measured | training_figures(trainer)
    metrics["intervals"] = {name: [interval.low, interval.high] for name, interval in intervals.items()}
    return metrics


def _save_result(trainer: AgaTrainer, run: PreparedRun, metrics: dict[str, Any]) -> None:
    """Write `model/`, then metrics.json: where that is, everything is."""
    weights = trainer.whole_state()
    if trainer.is_world_process_zero():
        folder = Path(run.args.output_dir)
        final, written = folder / MODEL_FOLDER, folder / f"{SAVING}-model"
        with saving(final, written):
            trainer.whole_model(weights).save_pretrained(written)
            run.processor.save_pretrained(written)
            write_serving_files(written)
            write_model_card(written, run.description, metrics, trainer.state.global_step, location=final)
            put_in_place(written, final)
        with tidying(final):
            trainer.save_state()
            write_json(folder / METRICS_FILE, metrics)
    trainer.accelerator.wait_for_everyone()


def _push_command(run: PreparedRun) -> str:
    """What does the push of a run again."""
    args = run.args
    command = f"aga push {Path(args.output_dir) / MODEL_FOLDER} --repo {run.repository}"
    command += f" --revision {args.hub_revision}" if args.hub_revision else ""
    return command + ("" if args.hub_private_repo else " --public")


_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _tell(error: Exception) -> None:
    print(f"train_hf.py: {' '.join(str(error).split())}", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """
    Entry of train_hf.py; returns the exit status.

    2 for bad input; 1 for a training that had to end and for a finished run that could not be pushed to the Hub; each
    with one line that says what to do.
    """
    status = _prepare_and_train(argv)
    leave_group()
    return status


def _prepare_and_train(argv: list[str] | None) -> int:
    try:
        run = prepare(*parse_run_arguments(argv))
    except (OSError, ValueError, StrictDataclassError) as error:
        _tell(error)
        return 2
    try:
        return _train_and_tell(run)
    finally:
        run.lock.release()


def _train_and_tell(run: PreparedRun) -> int:
    try:
        metrics = train(run)
    except ReleaseError as error:
        _tell(error)
        print(f"the run is finished; `{_push_command(run)}` pushes its model", file=sys.stderr)
        return 1
    except TrainingStopped as error:
        if PartialState().is_main_process or not error.everywhere:
            _tell(error)
        return 1
    except OSError as error:  # of the logs, which are written all the time
        if error.errno not in _NO_SPACE:
            raise
        _tell(OSError(f"{run.args.output_dir}: {error}; free space there, and the same command continues the run"))
        return 1
    if PartialState().is_main_process:
        print(json.dumps(metrics, indent=2))
    return 0
