"""A model's text encoder beside a gallery, for searches that load neither torch nor transformers."""

import copy
import json
import os
import shutil
from pathlib import Path

import numpy as np
import torch

from aga_model.files import write_json
from aga_model.modeling_aga import AgaModel
from aga_model.search import (
    TEXT_ENCODER_FORMAT,
    TEXT_GRAPH_FILE,
    TEXT_INFO_FILE,
    TEXT_TOKENIZER_FILE,
    OnnxTextEncoder,
    PersonEncoder,
)

from .onnx_export import TOLERANCE, ExportError, export_text_graph

# Read by both when the files are written: short and long ones, other writings, and one longer than any model reads.
_SENTENCES = (
    "a man",
    "A young woman with long, wavy hair wears a navy-blue coat, black jeans and trainers; she carries a red bag.",
    "Ein älterer Herr mit Brille, naïve café-goer's façade",
    "穿红色外套的女人",
    "a boy 🚲 with 2 bags",
    "a person who " + "walks on and " * 60 + "stops",
)


def write_text_encoder(encoder: PersonEncoder, folder: str | os.PathLike) -> float | None:
    """
    Write what [`OnnxTextEncoder`] reads, unless the folder holds that of this model already. The files are compared
    with the model before they are there: with sentences of several lengths and writings, alone and together.

    Args:
        encoder: the model; it stays on its device.
        folder: to write; one of another model is replaced.

    Returns:
        The largest difference from the model, in any entry of an embedding; None where nothing was to be written.

    Raises:
        ExportError: the model cannot be written so, or the files do not compute what it computes; nothing is written.
        ModuleNotFoundError: a library of the extra `search` is missing.
        OSError: the folder cannot be written.
    """
    folder = Path(os.path.abspath(folder))
    if _is_there(folder, encoder.model_hash):
        return None
    on_cpu = encoder if encoder.device.type == "cpu" else _on_cpu(encoder)
    model = on_cpu.model
    if not isinstance(model, AgaModel) or not encoder.processor.tokenizer.is_fast:
        raise ExportError(f"{encoder.name} is no model of this package with a tokenizer of one file")
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        inputs = export_text_graph(model, unfinished / TEXT_GRAPH_FILE)
        on_cpu.processor.tokenizer.backend_tokenizer.save(os.fspath(unfinished / TEXT_TOKENIZER_FILE))
        write_json(unfinished / TEXT_INFO_FILE, _describe(on_cpu, model, inputs))
        difference = _compare(on_cpu, OnnxTextEncoder(unfinished))
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return difference


def _is_there(folder: Path, model_hash: str) -> bool:
    try:
        return json.loads((folder / TEXT_INFO_FILE).read_text(encoding="utf-8"))["model_hash"] == model_hash
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _on_cpu(encoder: PersonEncoder) -> PersonEncoder:
    model = copy.deepcopy(encoder.model).to("cpu", torch.float32)
    moved = PersonEncoder(model, encoder.processor, encoder.name, encoder.folder, "cpu")
    moved.__dict__["model_hash"] = encoder.model_hash  # of the files, not of the copy
    return moved


def _describe(encoder: PersonEncoder, model: AgaModel, inputs: list[str]) -> dict[str, object]:
    return {
        "format_version": TEXT_ENCODER_FORMAT,
        "model": encoder.name,
        "model_hash": encoder.model_hash,
        "dim": encoder.dim,
        "max_tokens": encoder.max_text_tokens,
        "inputs": inputs,
        "pad_token": model.config.text_config.pad_token_id,
        "unknown_token": encoder.unknown_token,
        "rendered_only": encoder.rendered_only,
    }


def _compare(model: PersonEncoder, written: OnnxTextEncoder) -> float:
    """The largest difference of an embedding's entry; ExportError above the tolerance."""
    differences = []
    for sentences in (*([sentence] for sentence in _SENTENCES), list(_SENTENCES)):
        wanted, _ = model.encode_texts_with_notes(sentences)
        found, _ = written.encode_texts_with_notes(sentences)
        differences.append(float(np.abs(wanted - found).max()))
    largest = max(differences)
    if not largest <= TOLERANCE:
        raise ExportError(f"embeddings differ by {largest:.1e} from the model's, more than {TOLERANCE:.0e}")
    return largest


__all__ = ["write_text_encoder"]
