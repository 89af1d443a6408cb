"""Arguments of a training run: command line, a YAML file, or a YAML file with overrides on the command line."""

import difflib
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import HfApi
from transformers import HfArgumentParser, TrainingArguments
from transformers.trainer_utils import HubStrategy

from aga_model.data import Augmentation

from .release.hub import find_token

MODEL_CONFIG = "model_config"


@dataclass
class ModelArguments:
    """What to train."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "folder or Hub repository to start from; random weights when not given"}
    )
    model_config: dict | None = field(
        default=None,
        metadata={
            "help": "AgaConfig as nested keys (in YAML). Override one on the command line with a dotted name: "
            "--model_config.objective_config.mask_strategy random"
        },
    )
    vocab_size: int = field(
        default=1024,
        metadata={"help": "largest size of the BPE vocabulary that is learnt when starting from random weights"},
    )


@dataclass
class DataArguments:
    """What to train on."""

    dataset: str = field(
        default="cuhk-pedes", metadata={"help": "cuhk-pedes, icfg-pedes, rstp-reid, ufine6926 or own (docs/data.md)"}
    )
    data_root: str = field(default="", metadata={"help": "folder of the dataset, or the one above it"})
    skip_unreadable: bool = field(
        default=False,
        metadata={
            "help": "decode every image first and leave out those that are missing or cannot be decoded; their number "
            "is logged, they are named in run.json"
        },
    )
    validation_identities: int = field(
        default=0,
        metadata={
            "help": "for a dataset without a validation split: number of training identities to hold out for "
            "validation, the same for every seed of the run; 0 for 5%% of them"
        },
    )
    cache_images: bool = field(
        default=False, metadata={"help": "decode every image once and keep the crops in memory (small sets only)"}
    )
    flip: float = field(default=0.5, metadata={"help": "probability of a horizontal flip"})
    crop_padding: float = field(default=0.03, metadata={"help": "random shift, as a share of height and width"})
    brightness: float = field(default=0.0, metadata={"help": "random brightness factor in [1 - x, 1 + x]"})
    erasing: float = field(default=0.0, metadata={"help": "probability of erasing a rectangle"})
    noisy_correspondence: float = field(
        default=0.0,
        metadata={
            "help": "noise for experiments: share of the training captions, in [0, 1), that are permuted so that each "
            "goes to an image of another person; validation and test stay clean (docs/data.md)"
        },
    )
    noise_index: str | None = field(
        default=None,
        metadata={
            "help": "noise as the field measures it: a .npy file such as RDE's CUHK-PEDES_0.2.npy, by which row i has "
            "the caption of row index[i], or `rde` to make the one of its rule for noisy_correspondence (docs/data.md)"
        },
    )
    caption_errors: float = field(
        default=0.0,
        metadata={
            "help": "noise for experiments: probability, in [0, 1), that an attribute phrase of a training caption is "
            "replaced by a wrong one of the same kind, such as another colour; validation and test stay clean"
        },
    )
    leave_out_wrong_pairs: bool = field(
        default=False,
        metadata={
            "help": "train without the captions that the model of model_name_or_path finds to be another person's "
            "(output_dir/wrong_pairs.json lists them; docs/data.md)"
        },
    )
    leave_out_permuted: bool = field(
        default=False,
        metadata={
            "help": "train without the captions that noisy_correspondence permuted: what a method gains at most that "
            "finds the wrong pairs"
        },
    )
    noise_seed: int | None = field(
        default=None,
        metadata={"help": "of both kinds of noise; the run's seed when not given (output_dir/noise.json lists it)"},
    )

    def augmentation(self) -> Augmentation:
        """The augmentation of training crops."""
        return Augmentation(self.flip, self.crop_padding, self.brightness, self.erasing)


@dataclass
class AgaTrainingArguments(TrainingArguments):
    """How to train: transformers' TrainingArguments with this project's defaults and additions."""

    output_dir: str = field(default="runs/aga", metadata={"help": "folder of the run"})
    eval_strategy: str = field(default="epoch", metadata={"help": "validate when"})
    save_strategy: str = field(default="epoch", metadata={"help": "save a checkpoint when"})
    save_total_limit: int | None = field(
        default=2,
        metadata={"help": "checkpoints to keep, the best one among them; it and the newest always stay. 0: all"},
    )
    load_best_model_at_end: bool = field(default=True, metadata={"help": "end with the best by validation"})
    metric_for_best_model: str = field(default="rank1", metadata={"help": "validation metric that chooses the best"})
    greater_is_better: bool = field(default=True, metadata={"help": "of metric_for_best_model"})
    per_device_eval_batch_size: int = field(
        default=128, metadata={"help": "images or captions encoded at a time, as in `aga evaluate`"}
    )
    dataloader_drop_last: bool = field(default=True, metadata={"help": "drop an incomplete last batch in training"})
    dataloader_pin_memory: bool = field(
        default_factory=torch.cuda.is_available, metadata={"help": "page-locked batches, where there is a GPU"}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "keep False: the collator needs all"})
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "keep True: the training time is counted through resumed runs"}
    )
    report_to: str = field(default="tensorboard", metadata={"help": "where to log"})
    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={"help": "replace losses that are no number in logs, which waits for the GPU in every step"},
    )
    accelerator_config: dict | str | None = field(
        default_factory=lambda: {"non_blocking": torch.cuda.is_available()},
        metadata={"help": "of Accelerate; by default batches are copied to a GPU without waiting for it"},
    )
    contrastive_chunk: int = field(
        default=0,
        metadata={
            "help": "pairs that go through the model at a time, for batches that do not fit into memory; losses run "
            "over the whole global batch with the same gradients, for one more forward pass (docs/training.md). 0: all"
        },
    )
    push_to_hub: bool = field(
        default=False, metadata={"help": "publish the finished model, as `aga push` does (docs/release.md)"}
    )
    hub_strategy: str = field(default="end", metadata={"help": "keep end: the finished model is pushed, once"})
    hub_private_repo: bool | None = field(
        default=True, metadata={"help": "create the repository so that others cannot read it"}
    )
    muon_learning_rate: float = field(
        default=0.0,
        metadata={"help": "above 0: Muon for the blocks' matrices at this rate, AdamW at learning_rate for the rest"},
    )
    new_module_lr_factor: float = field(
        default=1.0, metadata={"help": "on the learning rate of fusion encoder and heads (IRRA: 5)"}
    )
    bias_lr_factor: float = field(
        default=1.0, metadata={"help": "on the learning rate of the towers' biases (IRRA: 2)"}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.hub_strategy != HubStrategy.END:
            raise ValueError(
                f"hub_strategy {HubStrategy(self.hub_strategy).value}: only end is possible. A checkpoint holds "
                "pickles and has neither test metrics nor a model card; what is pushed is the best model, measured"
            )

    @property
    def hub_repository(self) -> str:
        """Repository of `push_to_hub`: `hub_model_id`, or the name of the run's folder under the token's owner."""
        return self.hub_model_id or Path(self.output_dir).absolute().name

    def hub_api(self) -> HfApi:
        """
        The Hub with `hub_token` or this machine's token.

        Raises:
            ReleaseError: there is no token.
        """
        return HfApi(token=find_token(self.hub_token), library_name="aga_model")


def _argument_classes() -> Any:
    return ModelArguments, DataArguments, AgaTrainingArguments


def read_run_yaml(path: str | Path) -> dict[str, Any]:
    """
    Read a run file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a mapping, or it holds a key that is no argument (names the nearest one).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no run file {path}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected keys and values")
    known = {entry.name for cls in _argument_classes() for entry in fields(cls)}
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise ValueError(f"{path}: unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    return values


def _split_dotted_overrides(argv: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Take `--model_config.a.b value` pairs out of an argument list."""
    plain: list[str] = []
    overrides: dict[str, Any] = {}
    position = 0
    while position < len(argv):
        name, _, value = argv[position].partition("=")
        if not name.startswith(f"--{MODEL_CONFIG}."):
            plain.append(argv[position])
            position += 1
            continue
        if not value:
            position += 1
            if position == len(argv):
                raise ValueError(f"{name} needs a value")
            value = argv[position]
        overrides[name.removeprefix(f"--{MODEL_CONFIG}.")] = yaml.safe_load(value)
        position += 1
    return plain, overrides


def _apply_override(target: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        target = target.setdefault(parent, {})
        if not isinstance(target, dict):
            raise ValueError(f"--{MODEL_CONFIG}.{dotted}: {parent} is a value, not a section")
    target[last] = value


def parse_run_arguments(
    argv: list[str] | None = None,
) -> tuple[ModelArguments, DataArguments, AgaTrainingArguments]:
    """
    Parse `[RUN.yaml] [--argument value ...]`; the command line wins over the file.

    Args:
        argv: arguments without the program name; the process's own when None.

    Raises:
        FileNotFoundError, ValueError: as [`read_run_yaml`].
        SystemExit: argparse's answer to an unknown or malformed argument.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    values: dict[str, Any] = {}
    if argv and not argv[0].startswith("-"):
        values = read_run_yaml(argv.pop(0))
    argv, overrides = _split_dotted_overrides(argv)
    model_config = values.pop(MODEL_CONFIG, None) or {}
    parser = HfArgumentParser(_argument_classes())
    # Strings go through each argument's own type, so `1e-3`, which YAML reads as text, becomes a number.
    parser.set_defaults(**{key: str(value) if isinstance(value, float) else value for key, value in values.items()})
    model_args, data_args, training_args = parser.parse_args_into_dataclasses(args=argv)
    for dotted, value in overrides.items():
        _apply_override(model_config, dotted, value)
    model_args.model_config = model_config
    return model_args, data_args, training_args
