"""What `aga demo` and `aga serve` share: a gallery that is opened to others, until it is interrupted."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import Any

import torch
import typer

from aga_model.gallery import Gallery, Recorder
from aga_model.service import GallerySearch, is_loopback, require_token

from ..messages import RENDERED_NOTE, fail, note
from ..opening import load_encoder


@dataclass(frozen=True)
class Served:
    """
    Who may search what, and how, as the command line gives it.

    Args:
        what: the server in messages, such as demo.
        token: None for the one that is made where it is needed.
    """

    what: str
    gallery: str
    host: str
    port: int
    token: str | None
    token_name: str | None
    rerank: int | None
    max_upload_mb: float
    hide_faces: bool
    audit: Path | None
    purpose: str | None
    model: str | None
    device: str | None
    trust_remote_code: bool

    def run(
        self,
        load_web: Callable[[], Any],
        make_server: Callable[[Any, GallerySearch, str | None, tuple[str, ...]], Any],
        announce: Callable[[Any, socket, str | None], str],
    ) -> None:
        """
        Serve until it is interrupted. What can be refused is refused before the model is loaded.

        Args:
            load_web: imports the module of the web server, with `listen`; ModuleNotFoundError says what to install.
            make_server: from this module, the search, the token and the notes that go with every answer.
            announce: from the module, the listening socket and the token: what is printed when it listens.
        """
        try:
            token = require_token(self.host, self.token)
            web = load_web()
            opened = Gallery.open(self.gallery)
            recorder = Recorder.of(opened, self.audit, self.token_name)
            if self.purpose is not None:
                recorder.for_purpose(self.purpose)
            listening = web.listen(self.host, self.port)
            encoder = load_encoder(opened, self.model, self.device, self.trust_remote_code)
            size = int(self.max_upload_mb * 2**20)
            search = GallerySearch(opened, encoder, self.rerank, size, recorder, self.purpose or "", self.hide_faces)
            search.warm_up()
            server = make_server(web, search, token, (RENDERED_NOTE,) if encoder.rendered_only else ())
            if not is_loopback(self.host):
                keeps = "the connection is not encrypted, and only the token keeps them out"
                note(f"others can reach this {self.what}: {keeps}")
            typer.echo(f"{announce(web, listening, token)}  (Ctrl-C ends the {self.what})")
            server.run(sockets=[listening])
        except KeyboardInterrupt:
            pass  # uvicorn lets an interrupt through or returns, depending on the moment
        except (ValueError, OSError, ModuleNotFoundError, torch.OutOfMemoryError) as error:
            fail(error)
        typer.echo(f"the {self.what} has ended")
