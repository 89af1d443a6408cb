"""`aga export`: a model as ONNX files."""

from pathlib import Path

import typer

from ..messages import fail


def export(model: str, out: Path, int8: bool, trust_remote_code: bool) -> None:
    """What the command does; `commands` declares it."""
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
