"""`aga serve`: a gallery behind HTTP."""

from pathlib import Path
from typing import Any

import torch
import typer

from aga_model.gallery import Gallery, Recorder
from aga_model.service import GallerySearch, is_loopback, require_token

from ..messages import RENDERED_NOTE, fail, note
from ..opening import load_encoder


def serve(
    gallery: str,
    host: str,
    port: int,
    token: str | None,
    token_name: str | None,
    rerank: int | None,
    max_upload_mb: float,
    drain: int,
    hide_faces: bool,
    audit: Path | None,
    purpose: str | None,
    model: str | None,
    device: str | None,
    trust_remote_code: bool,
) -> None:
    """What the command does; `commands` declares it."""
    try:
        given = token
        token = require_token(host, token)
        listen, service_of, make_server = _web_server()
        opened = Gallery.open(gallery)
        recorder = Recorder.of(opened, audit, token_name)
        if purpose is not None:
            recorder.for_purpose(purpose)
        listening = listen(host, port)
        encoder = load_encoder(opened, model, device, trust_remote_code)
        size = int(max_upload_mb * 2**20)
        search = GallerySearch(opened, encoder, rerank, size, recorder, purpose or "", hide_faces)
        search.warm_up()
        service = service_of(search, (RENDERED_NOTE,) if encoder.rendered_only else ())
        server = make_server(service, token, drain)
        if not is_loopback(host):
            note("others can reach this service: the connection is not encrypted, and only the token keeps them out")
        made = "" if token is None or given is not None else f", token {token}"
        shown = f"[{host}]" if ":" in host else host
        typer.echo(f"listening on http://{shown}:{listening.getsockname()[1]}{made}  (Ctrl-C ends the service)")
        server.run(sockets=[listening])
    except KeyboardInterrupt:
        pass  # uvicorn lets an interrupt through or returns, depending on the moment
    except (ValueError, OSError, ModuleNotFoundError, torch.OutOfMemoryError) as error:
        fail(error)
    typer.echo("the service has ended")


def _web_server() -> tuple[Any, Any, Any]:
    try:
        from aga_model.service import rest
    except ImportError as error:
        raise ModuleNotFoundError(
            f"the service needs FastAPI, uvicorn and prometheus_client ({error}): pip install 'aga-model[serve]'"
        ) from error
    return rest.listen, rest.Service, rest.make_server


__all__ = ["serve"]
