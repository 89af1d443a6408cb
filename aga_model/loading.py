"""Model folders and Hub names read by transformers, with errors that say what is wrong with them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download

from .errors import ModelLoadError
from .remote_code import refusal


def local_folder(folder_or_repo: str | os.PathLike, with_code: bool = False) -> Path:
    """
    A saved model's folder, or the one its Hub repository is downloaded into, with its Python files if so asked.

    Raises:
        ModelLoadError: there is neither.
    """
    folder = Path(folder_or_repo)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelLoadError(
                f"model folder {folder} holds no config.json: give the folder that `save_pretrained` or the training "
                "wrote the model to"
            )
        return folder
    if folder.exists():
        raise ModelLoadError(f"model {folder} is a file: give the folder that holds it, with its config.json")
    return _download(str(folder_or_repo), with_code)


def _download(repo: str, with_code: bool) -> Path:
    parts = repo.split("/")
    if len(parts) > 2 or not all(parts) or parts[0] in (".", "..", "~") or "\\" in repo:
        raise ModelLoadError(f"model folder {repo} does not exist: give a saved model's folder or a Hub name")
    try:
        # Whole files instead of from_pretrained's own download: the hash and the model card are read from them.
        files = ["*.json", "*.safetensors", "*.bin", "*.txt", "README.md", *(["*.py"] if with_code else [])]
        folder = Path(snapshot_download(repo, allow_patterns=files, ignore_patterns=["*/*"]))
    except (OSError, ValueError) as error:  # huggingface_hub's errors are these
        raise ModelLoadError(
            f"model {repo!r} is neither a folder here nor a model on the Hub that can be reached: give a saved "
            "model's folder or a Hub name owner/model"
        ) from error
    if not (folder / "config.json").is_file():
        raise ModelLoadError(f"the Hub's {repo} holds no config.json: it is no transformers model")
    return folder


def read_model(
    model_class: Any, folder: Path, name: str, trust_remote_code: bool = False
) -> tuple[torch.nn.Module, list[str]]:
    """
    `model_class.from_pretrained` in float32, and the weights that the folder lacks.

    Raises:
        ModelLoadError: it fails, or a model of this package has other weights than its configuration says.
    """
    try:
        model, info = model_class.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, trust_remote_code=trust_remote_code
        )
    except Exception as error:  # the config, the weights' format and their shapes each fail with a type of their own
        reason = refusal(error, folder, trust_remote_code) or first_line(error)
        raise ModelLoadError(f"model {name} cannot be loaded: {reason}") from error
    left_over = sorted(info["unexpected_keys"])
    if left_over and getattr(model.config, "model_type", None) == "aga":
        raise ModelLoadError(
            f"model {name} holds {len(left_over)} weights that its config.json has no place for, such as "
            f"{', '.join(left_over[:3])}: the configuration is not that of the weights, so results would be wrong; "
            "take the one that was saved with them"
        )
    return model, sorted(info["missing_keys"])


def require_weights(missing: Sequence[str], name: str) -> None:
    """ModelLoadError for missing weights: transformers fills them with random numbers, which would rank at random."""
    if missing:
        raise ModelLoadError(f"model {name} lacks {len(missing)} weights, such as {', '.join(missing[:3])}")


def place(model: torch.nn.Module, device: str | None) -> tuple[torch.device, torch.nn.Module]:
    """
    A model in eval mode on a device: the named one, or the first GPU when there is one, otherwise the CPU.

    Raises:
        ModelLoadError: the device cannot be used.
    """
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(name)
        return target, model.to(target).eval()
    except (RuntimeError, AssertionError) as error:
        raise ModelLoadError(f"device {name!r} cannot be used: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """First line of an error's message; its type if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
