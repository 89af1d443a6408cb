"""Files beside a saved model with which other programs serve it: Inference Endpoints and sentence-transformers."""

import shutil
from pathlib import Path
from typing import Any

from aga_model.files import write_json

_HANDLER = Path(__file__).with_name("handler.py")
# The server's own transformers may be too old for this model's code.
_REQUIREMENTS = "transformers>=5.17\npillow\n"
_MODULES = "sentence_transformers.base.modules"


def _modality(name: str) -> dict[str, str]:
    return {"method": f"get_{name}_features", "method_output_name": "pooler_output"}


# What sentence-transformers (5.4 and later) reads. Its module Normalize has no settings, so its folder can be missing.
_SENTENCE_TRANSFORMERS: dict[str, Any] = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": f"{_MODULES}.transformer.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Normalize", "type": f"{_MODULES}.normalize.Normalize"},
    ],
    "sentence_bert_config.json": {
        "transformer_task": "feature-extraction",
        "modality_config": {"text": _modality("text"), "image": _modality("image")},
        "module_output_name": "sentence_embedding",
    },
    "config_sentence_transformers.json": {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine"},
}

SERVING_FILES = ("handler.py", "requirements.txt", *_SENTENCE_TRANSFORMERS)


def write_serving_files(folder: str | Path) -> None:
    """
    Write `SERVING_FILES` into the folder of a saved model and its processor.

    They work for every model of this package: `handler.py` and its `requirements.txt` for Hugging Face Inference
    Endpoints, the other three for `SentenceTransformer(folder, trust_remote_code=True)`.

    Raises:
        FileNotFoundError: the folder holds no config.json.
        OSError: it cannot be written.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no config.json: give the folder of a saved model")
    shutil.copyfile(_HANDLER, folder / "handler.py")
    (folder / "requirements.txt").write_text(_REQUIREMENTS, encoding="utf-8")
    for name, content in _SENTENCE_TRANSFORMERS.items():
        write_json(folder / name, content)
