"""`aga export`: a model as ONNX files."""

from pathlib import Path
from typing import Annotated

import typer

from .messages import fail
from .trust import TrustRemoteCode


def export(
    model: Annotated[str, typer.Argument(help="Folder of a saved model, or its name on the Hub.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    int8: Annotated[
        bool, typer.Option("--int8", help="Also write both encoders with weights in int8, for CPUs.")
    ] = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """
    Write both encoders of a model as ONNX files, checked against PyTorch.

    vision.onnx and text.onnx take any number of images or sentences and give vectors of unit length. The processor's
    files and export.json, which describes the inputs, are written beside them.
    """
    # Imported here, so that the other commands do not wait for it.
    from aga_model.modeling_aga import AgaModel
    from aga_model.search import PersonEncoder

    try:
        from aga_model.conversion import TOLERANCE, export_onnx
    except ModuleNotFoundError as error:
        fail(f"exporting needs {error.name}: pip install 'aga-model[export]'")
    try:
        encoder = PersonEncoder.from_pretrained(model, device="cpu", trust_remote_code=trust_remote_code)
        if not isinstance(encoder.model, AgaModel):
            kind = type(encoder.model).__name__
            raise ValueError(f"model {model} is a {kind}, no model of this package: `aga convert` makes one of others")
        report = export_onnx(encoder.model, encoder.processor, out, encoder.model_hash, int8)
    except (OSError, ValueError) as error:
        fail(error)
    for kind, one in (("images", report.image), ("sentences", report.text)):
        files = ", ".join(f"{name} ({size / 1e6:.1f} MB)" for name, size in one.files.items())
        typer.echo(f"{kind}: {out}: {files}")
        typer.echo(f"  largest difference from PyTorch {one.largest_difference:.1e}, tolerance {TOLERANCE:.0e}")
        if one.int8_cosine is not None:
            typer.echo(f"  int8: cosine with PyTorch at least {one.int8_cosine:.4f} on random inputs")
    batches, lengths = (", ".join(map(str, sizes)) for sizes in (report.batch_sizes, report.lengths))
    typer.echo(f"checked with batches of {batches} and sentences of {lengths} tokens")
