"""Which kind of checkpoint a file, folder or repository is."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PretrainedConfig

from .state import ConversionError, read_keys


@dataclass(frozen=True)
class Recognised:
    """
    Args:
        kind: of `aga convert --format`.
        why: what tells it.
    """

    kind: str
    why: str


# In this order: each is a kind whose states hold keys of all these patterns.
_KINDS = {
    "rde": ("RDE's token selection beside CLIP", (r"base_model\.visual\.", r"(visul|texual)_emb_layer\.")),
    "irra": ("CLIP under the name that IRRA's code gives it", (r"base_model\.visual\.",)),
    "rasa": ("ALBEF's towers with RaSa's heads", (r"visual_encoder\.", r"text_encoder\.", r"(prd_head|mrtd_head)\.")),
    "albef": ("ALBEF's towers", (r"visual_encoder\.", r"text_encoder\.", r"vision_proj\.")),
    "tbps-clip": ("CLIP, its text encoder under TBPS-CLIP's name", (r"visual\.", r"encode_text\.")),
    "clip": ("OpenAI's names of CLIP's weights", (r"visual\.", r"token_embedding\.")),
}
_MODEL_TYPES = ("clip", "bert")


def recognise(source: str | Path) -> Recognised:
    """
    What kind of checkpoint this is: a file by the names of its weights, a folder or repository by `model_type` in its
    config.json. Nothing of it is run.

    Raises:
        ConversionError: it is none that is known; says what was found.
    """
    path = Path(source)
    if path.is_file():
        return _of_keys(path, read_keys(path))
    try:
        config, _ = PretrainedConfig.get_config_dict(str(source))
    except (OSError, ValueError) as error:
        raise ConversionError(
            f"{source}: neither a checkpoint file nor a folder or repository with config.json"
        ) from error
    kind = config.get("model_type")
    if kind not in _MODEL_TYPES:
        raise ConversionError(
            f"{source}: model_type is {kind!r}; folders and repositories are read of {' and '.join(_MODEL_TYPES)}"
        )
    return Recognised(kind, f"its config.json says model_type {kind}")


def _of_keys(path: Path, keys: Sequence[str]) -> Recognised:
    for kind, (why, patterns) in _KINDS.items():
        firsts = [next((key for key in keys if re.match(pattern, key)), None) for pattern in patterns]
        if None not in firsts:
            return Recognised(kind, f"{why}, as {' and '.join(map(str, firsts))}")
    if any(re.match(r"(vision_model|text_model|bert|encoder|embeddings)\.", key) for key in keys):
        raise ConversionError(f"{path}: weights in transformers' names: give the folder that they lie in")
    raise ConversionError(
        f"{path}: not recognised by the names of its weights, such as {', '.join(keys[:3])}; give --format"
    )


__all__ = ["Recognised", "recognise"]
