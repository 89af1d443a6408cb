"""
Both encoders as ONNX files with any batch size and sentence length, checked against PyTorch in onnxruntime.

`vision.onnx` takes `pixel_values` float32 (batch, 3, height, width) and gives `image_embeds` (batch, dim); `text.onnx`
takes `input_ids` int64 (batch, length), in the BERT family also `attention_mask` int64 (batch, length), and gives
`text_embeds` (batch, dim). Embeddings are float32 of unit length.
"""

import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import onnxscript  # noqa: F401 - torch asks for it late
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

from aga_model.files import write_json
from aga_model.masking import special_token_ids
from aga_model.modeling_aga import AgaModel
from aga_model.processing_aga import AgaProcessor
from aga_model.version import __version__

VISION_FILE, TEXT_FILE = "vision.onnx", "text.onnx"
VISION_INT8_FILE, TEXT_INT8_FILE = "vision.int8.onnx", "text.int8.onnx"
INFO_FILE = "export.json"
TOLERANCE = 1e-5  # of an embedding's entries, against PyTorch in float32
INT8_COSINE = 0.95  # least cosine of an int8 embedding with PyTorch's; what is below is broken, not rounded

_BATCH_SIZES = (1, 2, 5)
_SHORT_LENGTHS = (1, 2, 9)  # tokens, besides the longest
_SEED = 0
# Convolutions stay in float32: in int8 onnxruntime computes them more slowly.
_INT8_OPERATORS = ["MatMul", "Gemm", "Gather"]


class ExportError(ValueError):
    """An ONNX file that does not compute what the model computes."""


@dataclass(frozen=True)
class EncoderReport:
    """
    One exported encoder.

    Args:
        files: name -> bytes.
        largest_difference: of the float32 file's embeddings from PyTorch's, in any entry of any checked batch.
        int8_cosine: least cosine of the int8 file's embeddings with PyTorch's, on the same random inputs; None
            without such a file. What int8 costs in ranks is measured by `python -m benchmarks export`.
    """

    files: dict[str, int]
    largest_difference: float
    int8_cosine: float | None = None


@dataclass(frozen=True)
class ExportReport:
    """
    What [`export_onnx`] wrote and found.

    Args:
        image, text: of each encoder.
        batch_sizes: that both were checked with.
        lengths: tokens of the sentences that the text encoder was checked with.
    """

    image: EncoderReport
    text: EncoderReport
    batch_sizes: tuple[int, ...]
    lengths: tuple[int, ...]


class ImageEncoder(nn.Module):
    """Images to unit vectors, as the exported graph computes it."""

    def __init__(self, model: AgaModel):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(batch, 3, height, width) to (batch, dim)."""
        return nn.functional.normalize(self.model.get_image_features(pixel_values).pooler_output, dim=-1)


class TextEncoder(nn.Module):
    """Sentences to unit vectors, as the exported graph computes it."""

    def __init__(self, model: AgaModel):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(batch, length) to (batch, dim)."""
        return nn.functional.normalize(self.model.get_text_features(input_ids, attention_mask).pooler_output, dim=-1)


def export_onnx(
    model: AgaModel, processor: AgaProcessor, folder: str | Path, model_hash: str, int8: bool = False
) -> ExportReport:
    """
    Write both encoders, the processor's files and `export.json`, which describes the inputs; then nothing more is
    needed than onnxruntime, a tokenizer and an image library.

    Args:
        model: on the CPU in float32; put into eval mode.
        processor: of the model.
        folder: to write; made if missing.
        model_hash: of the model, for export.json ([`PersonEncoder.model_hash`]).
        int8: also write both with weights in int8, quantised per output channel, whose activations onnxruntime
            quantises as it computes (dynamic quantisation).

    Raises:
        FileExistsError: the folder is not empty.
        ExportError: a file's embeddings are further than `TOLERANCE` from PyTorch's, or an int8 file's below
            `INT8_COSINE`; no ONNX file is left in the folder.
    """
    folder = Path(folder).absolute()
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty")
    model.eval()
    longest = model.config.text_config.caption_length
    lengths = (*(length for length in _SHORT_LENGTHS if length < longest), longest)
    generator = torch.Generator().manual_seed(_SEED)
    images = [_random_images(model, batch, generator) for batch in _BATCH_SIZES]
    texts = [_random_texts(model, batch, length, generator) for batch in _BATCH_SIZES for length in lengths]
    files = {"image": (VISION_FILE, VISION_INT8_FILE), "text": (TEXT_FILE, TEXT_INT8_FILE)}
    # Under another name until all is there and checked.
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        reports = {}
        for kind, encoder, inputs in (("image", ImageEncoder(model), images), ("text", TextEncoder(model), texts)):
            paths = [unfinished / name for name in files[kind][: 2 if int8 else 1]]
            reports[kind] = _export_encoder(encoder.eval(), f"{kind}_embeds", inputs, paths)
        processor.save_pretrained(unfinished)
        report = ExportReport(reports["image"], reports["text"], _BATCH_SIZES, lengths)
        write_json(unfinished / INFO_FILE, _describe(model, processor, model_hash, report))
        if folder.exists():
            folder.rmdir()
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return report


def export_text_graph(model: AgaModel, path: Path) -> list[str]:
    """
    Write the text encoder alone, without comparing it.

    Args:
        model: on the CPU in float32, in eval mode.
        path: of the file.

    Returns:
        Names of its inputs.
    """
    generator = torch.Generator().manual_seed(_SEED)
    example = _random_texts(model, max(_BATCH_SIZES), model.config.text_config.caption_length, generator)
    _export(TextEncoder(model).eval(), "text_embeds", example, path)
    return list(example)


def open_session(path: str | Path, threads: int = 0) -> onnxruntime.InferenceSession:
    """An exported encoder on the CPU; 0 threads leave their number to onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])


def _random_images(model: AgaModel, batch: int, generator: torch.Generator) -> dict[str, Tensor]:
    vision = model.config.vision_config
    shape = batch, vision.num_channels, *vision.image_height_width
    return {"pixel_values": torch.randn(shape, generator=generator)}


def _random_texts(model: AgaModel, batch: int, length: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Sentences of random tokens between start and end, the first one of `length` tokens, the others padded to it."""
    text = model.config.text_config
    input_ids = torch.randint(0, text.vocab_size, (batch, length), generator=generator)
    special = torch.tensor(special_token_ids(text))
    ordinary = next(token for token in range(text.vocab_size) if token not in special)
    input_ids[torch.isin(input_ids, special)] = ordinary
    input_ids[:, 0] = text.bos_token_id
    ends = torch.randint(0, length, (batch,), generator=generator)
    ends[0] = length - 1
    places = torch.arange(length)
    input_ids[places > ends[:, None]] = text.pad_token_id
    input_ids[torch.arange(batch), ends] = text.eos_token_id
    inputs = {"input_ids": input_ids, "attention_mask": (places <= ends[:, None]).long()}
    return {name: inputs[name] for name in model.family.text_inputs}


def _export_encoder(
    encoder: nn.Module, output: str, batches: list[dict[str, Tensor]], paths: list[Path]
) -> EncoderReport:
    """Write an encoder to the first path and in int8 to the second, if there is one; check each on the batches."""
    example = max(batches, key=lambda batch: sum(tensor.numel() for tensor in batch.values()))
    _export(encoder, output, example, paths[0])
    with torch.inference_mode():
        wanted = [encoder(**batch).numpy() for batch in batches]
    found = _embed(paths[0], batches)
    difference = float(np.max([np.abs(one - two).max() for one, two in zip(found, wanted)]))  # NaN if any is
    if not difference <= TOLERANCE:
        raise ExportError(
            f"{paths[0].name}: embeddings differ by {difference:.1e} from PyTorch's, more than {TOLERANCE:.0e}: the "
            "graph does not compute what the model does; report it with the versions of torch and onnxruntime"
        )
    cosine = None
    for path in paths[1:]:
        _quantise(paths[0], path)
        found = _embed(path, batches)
        cosine = float(np.min([(one * two).sum(axis=1).min() for one, two in zip(found, wanted)]))
        if not cosine >= INT8_COSINE:
            raise ExportError(
                f"{path.name}: an embedding has the cosine {cosine:.3f} with PyTorch's, less than {INT8_COSINE}: int8 "
                "is too coarse for this model; export it without --int8"
            )
    return EncoderReport({path.name: path.stat().st_size for path in paths}, difference, cosine)


def _export(encoder: nn.Module, output: str, example: dict[str, Tensor], path: Path) -> None:
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    shapes = {name: {0: batch} if tensor.dim() == 4 else {0: batch, 1: length} for name, tensor in example.items()}
    with _quiet():
        program = torch.onnx.export(
            encoder,
            kwargs=example,
            input_names=list(example),
            output_names=[output],
            dynamic_shapes=shapes,
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # with dynamo
    program.save(path)


def _quantise(source: Path, target: Path) -> None:
    graph = onnx.load(source)
    # The quantiser transposes weights and would find the shapes that the exporter has noted for them contradicted.
    del graph.graph.value_info[:]
    with _quiet():
        quantize_dynamic(
            graph,
            target,
            op_types_to_quantize=_INT8_OPERATORS,
            weight_type=QuantType.QInt8,
            per_channel=True,
            # Seven bits: with eight, processors without VNNI add products up in 16 bits, which can saturate.
            reduce_range=True,
        )


def _embed(path: Path, batches: list[dict[str, Tensor]]) -> list[np.ndarray]:
    session = open_session(path)
    found = []
    for batch in batches:
        try:
            found.extend(session.run(None, {name: tensor.numpy() for name, tensor in batch.items()}))
        except Exception as error:  # onnxruntime's errors have no type of their own
            shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in batch.items())
            raise ExportError(f"{path.name} does not take {shapes}: {' '.join(str(error).split())}") from error
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' hints to their developers: errors are raised, and the result is checked."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _describe(model: AgaModel, processor: AgaProcessor, model_hash: str, report: ExportReport) -> dict[str, Any]:
    """What a program needs to know to use the files, as JSON values."""
    images, text = processor.image_processor, model.config.text_config
    height, width = model.config.vision_config.image_height_width
    return {
        "model_hash": model_hash,
        "family": model.family.name,
        "embedding_dim": model.config.projection_dim,
        "image": {
            **_describe_encoder(report.image, ["pixel_values"], "image_embeds"),
            "height": height,
            "width": width,
            "colours": "RGB",
            "resample": "bicubic",
            "rescale_factor": images.rescale_factor,
            "mean": list(images.image_mean),
            "std": list(images.image_std),
        },
        "text": {
            **_describe_encoder(report.text, list(model.family.text_inputs), "text_embeds"),
            "max_tokens": text.caption_length,
            "pad_token_id": text.pad_token_id,
        },
        "checked": {"batch_sizes": list(report.batch_sizes), "lengths": list(report.lengths), "tolerance": TOLERANCE},
        "versions": {"aga_model": __version__, "torch": torch.__version__, "onnxruntime": onnxruntime.__version__},
    }


def _describe_encoder(report: EncoderReport, inputs: list[str], output: str) -> dict[str, Any]:
    float32, *int8 = report.files
    return {
        "file": float32,
        "int8_file": int8[0] if int8 else None,
        "inputs": inputs,
        "output": output,
        "largest_difference": report.largest_difference,
        "int8_cosine": report.int8_cosine,
    }
