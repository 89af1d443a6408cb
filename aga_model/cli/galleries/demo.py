"""`aga demo`: a page to search a gallery with."""

from pathlib import Path
from types import ModuleType

import torch
import typer

from aga_model.gallery import Gallery, Recorder
from aga_model.service import GallerySearch, is_loopback, require_token

from ..messages import RENDERED_NOTE, fail, note
from ..opening import load_encoder


def demo(
    gallery: str,
    host: str,
    port: int,
    token: str | None,
    token_name: str | None,
    rerank: int | None,
    max_upload_mb: float,
    hide_faces: bool,
    audit: Path | None,
    purpose: str | None,
    model: str | None,
    device: str | None,
    trust_remote_code: bool,
) -> None:
    """What the command does; `commands` declares it."""
    try:
        token = require_token(host, token)
        web = _web_server()
        opened = Gallery.open(gallery)
        recorder = Recorder.of(opened, audit, token_name)
        if purpose is not None:
            recorder.for_purpose(purpose)
        listening = web.listen(host, port)
        encoder = load_encoder(opened, model, device, trust_remote_code)
        search = GallerySearch(
            opened, encoder, rerank, int(max_upload_mb * 2**20), recorder, purpose or "", hide_faces
        )
        search.warm_up()
        server = web.make_server(search, token, (RENDERED_NOTE,) if encoder.rendered_only else ())
        if not is_loopback(host):
            note("others can reach this demo: the connection is not encrypted, and only the token keeps them out")
        typer.echo(f"open {web.address(listening, host, token)}  (Ctrl-C ends the demo)")
        server.run(sockets=[listening])
    except KeyboardInterrupt:
        pass  # uvicorn lets an interrupt through or returns, depending on the moment
    except (ValueError, OSError, ModuleNotFoundError, torch.OutOfMemoryError) as error:
        fail(error)
    typer.echo("the demo has ended")


def _web_server() -> ModuleType:
    # Imported when the command runs: the other commands need neither Gradio nor the seconds that it takes to import.
    try:
        from aga_model.service.demo import server
    except ImportError as error:
        raise ModuleNotFoundError(f"the demo needs Gradio ({error}): pip install 'aga-model[demo]'") from error
    return server
