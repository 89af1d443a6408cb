"""`aga convert`: other people's checkpoints in."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from ..messages import fail


@dataclass(frozen=True)
class _Format:
    """
    A kind of checkpoint.

    Args:
        loader: function of aga_model.conversion.
        vocabulary: whose it needs, a key of `_WHERE`.
        options: of the loader, beyond image size and tokenizer.
    """

    loader: str
    vocabulary: str
    options: tuple[str, ...] = ()


FORMATS = {
    "clip": _Format("load_clip", "CLIP"),
    "irra": _Format("load_irra", "CLIP", ("stride",)),
    "rde": _Format("load_rde", "CLIP", ("stride",)),
    "tbps-clip": _Format("load_tbps_clip", "CLIP"),
    "albef": _Format("load_albef", "BERT", ("num_heads",)),
    "rasa": _Format("load_albef", "BERT", ("num_heads",)),
    "bert": _Format("load_bert", "BERT", ("text_layers",)),
}
AUTO = "auto"
# Where people have the vocabularies.
_WHERE = {
    "CLIP": "a folder with vocab.json and merges.txt, a Hub repository, or bpe_simple_vocab_16e6.txt.gz of the "
    "method's code",
    "BERT": "a folder with tokenizer.json or vocab.txt, or a Hub repository such as bert-base-uncased",
}


def convert(
    source: str,
    out: Path,
    kind: str,
    tokenizer: str | None,
    image_size: str | None,
    stride: int | None,
    num_heads: int | None,
    text_layers: int | None,
    trust_remote_code: bool,
) -> None:
    """What the command does; `commands` declares it."""
    # Imported here, so that the other commands do not wait for it.
    from aga_model import conversion
    from aga_model.serving import write_serving_files

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("aga_model.conversion").setLevel(logging.INFO)
    try:
        if kind == AUTO:
            recognised = conversion.recognise(source)
            kind = recognised.kind
            typer.echo(f"{source} is read as --format {kind}: {recognised.why}")
        if kind not in FORMATS:
            raise ValueError(f"unknown --format {kind!r}; known: {AUTO}, {', '.join(FORMATS)}")
        chosen = FORMATS[kind]
        own = _own_options(chosen, stride=stride, num_heads=num_heads, text_layers=text_layers)
        if out.exists() and any(out.iterdir()):
            raise ValueError(f"{out} is not empty")
        size = _size_options(kind, image_size)
        options = size | own | {"trust_remote_code": trust_remote_code}
        model, processor = getattr(conversion, chosen.loader)(source, tokenizer=tokenizer, **options)
        if processor is None:
            raise ValueError(
                f"{source}: no {chosen.vocabulary} vocabulary for it; give --tokenizer {_WHERE[chosen.vocabulary]}"
            )
    except (OSError, ValueError) as error:
        fail(error)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    write_serving_files(out)
    vision = model.config.vision_config
    height, width = vision.image_height_width
    count = sum(parameter.numel() for parameter in model.parameters())
    typer.echo(f"{out}: {type(model).__name__}, {count / 1e6:.1f} M parameters, images {height}x{width}")


def _own_options(chosen: _Format, **given: int | None) -> dict[str, int]:
    """The options that were given; ValueError for one of other formats."""
    options = {name: value for name, value in given.items() if value is not None}
    for name in options:
        if name not in chosen.options:
            owners = " and ".join(kind for kind, other in FORMATS.items() if name in other.options)
            raise ValueError(f"--{name.replace('_', '-')} belongs to --format {owners}")
    return options


def _size_options(kind: str, text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise ValueError(f"--image-size must look like 384x128 (height x width), got {text!r}")
    size = int(height), int(width)
    # BERT brings no vision tower whose size could be changed, but begins with a random one.
    return {"vision_config": {"image_size": list(size)}} if kind == "bert" else {"image_size": size}
