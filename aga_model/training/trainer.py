"""AgaTrainer: transformers' Trainer that validates by retrieval and logs every loss by name."""

import logging
import time
import warnings
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from accelerate.utils import gather_object
from huggingface_hub import CommitInfo, HfApi
from safetensors.torch import load_file
from transformers import Trainer, TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import SAFE_WEIGHTS_NAME

from aga_model.configuration_aga import LOSS_NAMES
from aga_model.evaluation import Interval, NotFiniteError, RetrievalEvaluator
from aga_model.files import write_json
from aga_model.pretraining_aga import AgaForPreTraining

from .arguments import AgaTrainingArguments
from .errors import TrainingStopped, another_try
from .finite import EMBEDDINGS, NONFINITE_FILE, Finding, FiniteGuard
from .momentum import MomentumModel
from .optimizers import adamw_with_factors, muon_with_adamw
from .parallel.sharding import leave_temperature_whole, plain_copy, whole_parameters
from .release.contents import MODEL_FOLDER, read_release
from .release.hub import open_repository, push_release
from .saving import SAVING, checkpoints, discard_older, put_in_place, saving, tidying

logger = logging.getLogger(__name__)

COMPONENTS = tuple(f"{name}_loss" for name in LOSS_NAMES)

# Which sizes of a batch's tensors differ from batch to batch: caption length, rows and their width.
_VARIABLE_SIZES = {
    "input_ids": [1],
    "attention_mask": [1],
    "tokens": [0, 1],
    "captions": [0, 1],
    "positions": [0, 1],
    "slots": [1],
}


class ProgressCallback(TrainerCallback):
    """Tells the model which share of training is done, which TEM's start depends on."""

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        unwrapped = model.module if hasattr(model, "module") else model
        unwrapped.training_progress = state.global_step / max(1, state.max_steps)


class EpochCallback(TrainerCallback):
    """
    Tells the data set which epoch it is, which augmentation depends on.

    Accelerate's data loader does so in a single process only.
    """

    def __init__(self, dataset):
        self.dataset = dataset

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.dataset.set_epoch(int(state.epoch or 0))


class MomentumCallback(TrainerCallback):
    """Moves the momentum model after each optimiser step and raises the weight of its targets over the first epoch."""

    def __init__(self, momentum_model: MomentumModel):
        self.momentum_model = momentum_model

    def on_step_begin(self, args, state, control, **kwargs):
        self.momentum_model.set_epochs_done(float(state.epoch or 0.0))

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.momentum_model.update(model.module if hasattr(model, "module") else model)


class TimingCallback(TrainerCallback, ExportableState):
    """Seconds spent in training steps, validation and saving left out, carried through resumed runs."""

    def __init__(self, seconds: float = 0.0):
        self.seconds = seconds
        self._step_started: float | None = None

    def state(self) -> dict[str, Any]:
        return {"args": {"seconds": self.seconds}, "attributes": {}}

    def on_step_begin(self, args, state, control, **kwargs):
        self._step_started = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        if self._step_started is not None:
            self.seconds += time.perf_counter() - self._step_started


def _load_weights(model: AgaForPreTraining, checkpoint: Path) -> None:
    """
    Take over all weights of a checkpoint; those that are tied to others stand in its file once.

    Raises:
        TrainingStopped: it lacks a weight, has one too many, or one of another size.
    """
    state = load_file(checkpoint / SAFE_WEIGHTS_NAME)
    tied = model.all_tied_weights_keys
    state |= {key: state[source] for key, source in tied.items() if key not in state and source in state}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise TrainingStopped(
            f"{checkpoint}: not a checkpoint of this run's model ({reason}); remove the run folder and start again",
            everywhere=True,
        ) from error


class AgaTrainer(Trainer):
    """
    Trains [`AgaForPreTraining`]; `evaluate` measures retrieval on the validation split.

    Args:
        model: AgaForPreTraining.
        args: AgaTrainingArguments.
        train_dataset: PairDataset.
        evaluator: of the validation split; None skips validation.
        As transformers.Trainer for the rest.
    """

    def __init__(self, *args, evaluator: RetrievalEvaluator | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.evaluator = evaluator
        self._component_sums: dict[str, torch.Tensor] = {}
        self._component_steps = 0
        self._guard = FiniteGuard(self.args.device)
        self._written_to: Path | None = None
        self.momentum_model: MomentumModel | None = None
        if self.is_fsdp_enabled:
            leave_temperature_whole(self.accelerator, cast(AgaForPreTraining, self.model))
        self.add_callback(ProgressCallback())
        trained = cast(AgaForPreTraining, self.accelerator.unwrap_model(self.model))
        if trained.config.objective_config.momentum is not None:
            self.momentum_model = MomentumModel(trained)
            self.add_callback(MomentumCallback(self.momentum_model))
        self.add_callback(TimingCallback())  # behind the momentum model's, whose update counts as training
        self.add_callback(EpochCallback(self.train_dataset))

    @property
    def seconds_training(self) -> float:
        """Seconds spent in training steps so far, those before a resumption included."""
        return sum(cb.seconds for cb in self.callback_handler.callbacks if isinstance(cb, TimingCallback))

    def restore_finished(self, checkpoint: Path | None) -> bool:
        """
        Take over the end of a run whose last step was done and saved, with its best weights; False for another one.

        transformers would train one step more.
        """
        if checkpoint is None:
            return False
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        if state.global_step < state.max_steps:
            return False
        self.state = state
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, TimingCallback):
                callback.seconds = state.stateful_callbacks["TimingCallback"]["args"]["seconds"]
        best = checkpoint
        if self.args.load_best_model_at_end and state.best_global_step:
            best = checkpoint.with_name(f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}")
        _load_weights(cast(AgaForPreTraining, self.accelerator.unwrap_model(self.model)), best)
        return True

    def create_optimizer(self, model=None):
        args, trained = cast(AgaTrainingArguments, self.args), cast(AgaForPreTraining, self.model)
        if self.optimizer is None:
            betas, rates = (args.adam_beta1, args.adam_beta2), (args.new_module_lr_factor, args.bias_lr_factor)
            common = (args.learning_rate, args.weight_decay, betas, args.adam_epsilon)
            if args.muon_learning_rate > 0:
                self.optimizer = muon_with_adamw(trained, args.muon_learning_rate, *common)
            elif rates != (1.0, 1.0):
                self.optimizer = adamw_with_factors(trained, *common, *rates)
        return super().create_optimizer(model)

    @property
    def teacher(self) -> MomentumModel | None:
        """The name that `momentum_model` had before version 0.2, for one version more."""
        warnings.warn("teacher is now called momentum_model", DeprecationWarning, stacklevel=2)
        return self.momentum_model

    def _save_optimizer_and_scheduler(self, output_dir):
        super()._save_optimizer_and_scheduler(output_dir)
        if self.momentum_model is not None and self.args.should_save:
            self.momentum_model.save(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.momentum_model is not None and checkpoint is not None:
            self.momentum_model.load(checkpoint)

    def _get_output_dir(self, trial):
        return super()._get_output_dir(trial) if self._written_to is None else str(self._written_to)

    def _push_from_checkpoint(self, checkpoint_folder):
        if self._written_to is None:  # else the checkpoint is not whole, and will have another name
            super()._push_from_checkpoint(checkpoint_folder)

    def _save_checkpoint(self, model, trial):
        """
        Save as transformers does, but give the checkpoint its name only when all processes have written it, and remove
        older ones only after that.
        """
        run_folder, step = Path(self._get_output_dir(trial)), self.state.global_step
        final = run_folder / f"{PREFIX_CHECKPOINT_DIR}-{step}"
        written = run_folder / SAVING / final.name
        with saving(final, written.parent):
            self._written_to = written.parent
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._written_to = None
            if (best := self.state.best_global_step) is not None:
                best_folder = final.with_name(f"{PREFIX_CHECKPOINT_DIR}-{best}")
                if best == step or best_folder.is_dir():
                    self.state.best_model_checkpoint = str(best_folder)
            if self.args.should_save:  # again, with the path that the best checkpoint will have
                self.state.save_to_json(str(written / TRAINER_STATE_NAME))
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                put_in_place(written, final)
            self.accelerator.wait_for_everyone()
        if self.args.should_save:
            with tidying(final):
                written.parent.rmdir()
                discard_older(run_folder, self.args.save_total_limit, self.state.best_global_step)
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(final))

    def whole_state(self) -> dict[str, torch.Tensor]:
        """All weights; under FSDP all processes must ask, and the first one gets them."""
        return self.accelerator.get_state_dict(self.model)

    def whole_model(self, weights: dict[str, torch.Tensor]) -> AgaForPreTraining:
        """The model to be saved, with [`whole_state`]'s weights."""
        unwrapped = cast(AgaForPreTraining, self.accelerator.unwrap_model(self.model))
        return plain_copy(unwrapped, weights) if self.is_fsdp_enabled else unwrapped

    def _save(self, output_dir=None, state_dict=None):
        trained = self.model
        if self.is_fsdp_enabled and self.args.should_save:
            self.model = self.whole_model(state_dict)
        super()._save(output_dir, state_dict)
        self.model = trained

    def push_to_hub(  # type: ignore[override] # transformers too returns None in the other processes
        self,
        commit_message: str | None = None,
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs,
    ) -> CommitInfo | None:
        """
        Publish `output_dir/model`, which [`train`] wrote, as `aga push` does: the best model with processor, code and
        card in one commit, without checkpoints, optimiser states and logs.

        Args:
            commit_message: as [`push_release`].
            token, revision, private: in place of `hub_token`, `hub_revision`, `hub_private_repo`.
            blocking, kwargs: must be left out: a push ends before this does, and the card is written already.

        Returns:
            the commit; None in all processes but the first.

        Raises:
            ReleaseError: there is no finished model, or the Hub does not take it; says what to do.
        """
        if not blocking or kwargs:
            raise ValueError(
                f"push_to_hub takes neither blocking=False nor {', '.join(kwargs) or 'further arguments'}"
            )
        if not self.is_world_process_zero():
            return None
        args = cast(AgaTrainingArguments, self.args)
        api = HfApi(token=token, library_name="aga_model") if token else args.hub_api()
        release = read_release(Path(str(args.output_dir)) / MODEL_FOLDER, secrets=[str(api.token)])
        private = bool(args.hub_private_repo) if private is None else private
        repository = open_repository(api, args.hub_repository, private, revision or args.hub_revision)
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        commit = push_release(release, api, repository, commit_message)
        logger.info("pushed to %s: %s", repository.name, commit.commit_url)
        return commit

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        rows = inputs.pop("rows", [])
        if self.args.torch_compile:
            mark_lengths(inputs)
        if self.momentum_model is not None:
            inputs = {**inputs, "momentum_model": self.momentum_model}
        outputs = model(**inputs)
        self._component_steps += 1
        parts = {name: value.detach() for name in COMPONENTS if (value := outputs.get(name)) is not None}
        for name, value in parts.items():
            self._component_sums[name] = self._component_sums.get(name, 0) + value
        epoch = getattr(self.train_dataset, "epoch", 0)
        self._guard.remember_batch(self.state.global_step + 1, epoch, rows, outputs.loss, parts)
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def _maybe_log_save_evaluate(self, tr_loss, grad_norm, *args, **kwargs):
        """After every step: nothing that is not finite is evaluated or saved, or trained on for long."""
        # Under fp16 a step whose gradient is too large is left out, and the next one scaled down.
        if grad_norm is not None and self.accelerator.scaler is None:
            self._guard.remember_gradient(self.state.global_step, grad_norm)
        control = self.control
        keeps = control.should_evaluate or control.should_save or control.should_training_stop
        if (keeps or control.should_log or self._guard.is_due) and (
            found := self._guard.check(self.model if keeps or not self._guard.waits else None)
        ):
            self._stop(found)
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **kwargs)

    def _stop(self, found: Finding) -> NoReturn:
        """Write down the batch of what is not finite, in all processes at once, and end the training."""
        steps = self._guard.suspects(found)
        mine = [batch for step in steps for batch in self._guard.describe(step, self.train_dataset)]
        batches = [{"process": rank, **batch} for rank, own in enumerate(gather_object([mine])) for batch in own]
        report = vars(found) | {"gradient_norm": self._guard.gradient_norm(found.step), "seed": self.args.seed}
        file = Path(str(self.args.output_dir)) / NONFINITE_FILE
        before = "".join(f" and of step {step}, which may have broken the weights" for step in steps[:-1])
        named = f"{file} names the images and captions of the step{before}: look at them"
        if self.is_world_process_zero():
            try:
                write_json(file, report | {"batches": batches})
            except OSError as error:
                named = f"the images and captions of the step could not be written down ({error})"
        self.accelerator.wait_for_everyone()  # the launcher ends all processes with the first one
        whole = checkpoints(file.parent)
        last = f"goes on from {whole[max(whole)].name}" if whole else "begins again, since there is no checkpoint"
        raise TrainingStopped(
            f"step {found.step}: NaN or infinity in the {found.what}; the training has ended and nothing of this step "
            f"was saved. {named}. The same command {last}; {another_try(self.args)}",
            everywhere=True,
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the mean of each loss since the last log, of all processes, and the temperature, to a training log."""
        if "loss" in logs and self._component_steps:
            sums = torch.stack([total.float() for total in self._component_sums.values()])
            means = self.accelerator.reduce(sums, "mean").tolist()
            logs |= {name: mean / self._component_steps for name, mean in zip(self._component_sums, means)}
            logs["temperature"] = float(cast(AgaForPreTraining, self.model).temperature.detach())
            self._component_sums, self._component_steps = {}, 0
        super().log(logs, start_time)

    def measure(self, evaluator: RetrievalEvaluator) -> dict[str, float]:
        """Retrieval metrics of the model as it is."""
        model: Any = self.accelerator.unwrap_model(self.model)
        with whole_parameters(model):
            return evaluator.evaluate(model.aga)

    def measure_with_intervals(self, evaluator: RetrievalEvaluator) -> tuple[dict[str, float], dict[str, Interval]]:
        """As [`measure`], with the interval of each metric."""
        model: Any = self.accelerator.unwrap_model(self.model)
        with whole_parameters(model):
            return evaluator.evaluate_with_intervals(model.aga)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval") -> dict[str, float]:
        """Retrieval metrics of the validation split, each name with `metric_key_prefix`."""
        if self.evaluator is None:
            return {}
        try:
            found = self.measure(self.evaluator)
        except NotFiniteError:
            self._stop(Finding(EMBEDDINGS, self.state.global_step))
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def mark_lengths(batch: dict[str, Any]) -> None:
    """
    Tell torch.compile which sizes vary; it would compile for the first ones alone, and again for others.

    Args:
        batch: of [`PairCollator`], with tensors on the device where they are used.
    """
    for name, value in batch.items():
        if isinstance(value, dict):
            mark_lengths(value)
        elif name in _VARIABLE_SIZES:
            torch._dynamo.maybe_mark_dynamic(value, _VARIABLE_SIZES[name])
