"""`aga demo`: a page to search a gallery with."""

from types import ModuleType
from typing import Annotated

import torch
import typer

from aga_model.gallery import Gallery, Recorder
from aga_model.service import TOKEN_VARIABLE, DemoSearch, is_loopback, require_token

from .messages import RENDERED_NOTE, fail, note
from .options import AuditOption, HideFacesOption, PurposeOption
from .search import load_encoder
from .trust import TrustRemoteCode


def demo(
    gallery: Annotated[
        str, typer.Option("--gallery", help="What `aga index` made: a folder or milvus://host:port/collection.")
    ],
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; any but a loopback one asks for a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 7860,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            envvar=TOKEN_VARIABLE,
            help="What every request must carry; made and printed where it is needed and not given.",
        ),
    ] = None,
    token_name: Annotated[
        str | None,
        typer.Option(
            "--token-name", help="Whom the audit log names for searches with the token; else who starts this."
        ),
    ] = None,
    rerank: Annotated[
        int | None,
        typer.Option("--rerank", min=1, help="Re-rank the first K images of a sentence by the model's ITM head."),
    ] = None,
    max_upload_mb: Annotated[
        float, typer.Option("--max-upload-mb", min=0.1, max=100, help="Largest image file that can be searched with.")
    ] = 10,
    hide_faces: HideFacesOption = False,
    audit: AuditOption = None,
    purpose: PurposeOption = None,
    model: Annotated[str | None, typer.Option("--model", help="The gallery's model, if it has moved.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1; a GPU if there is one.")] = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """
    A page in the browser to search a gallery with, by a sentence or an image.

    It listens on this machine only, unless --host says otherwise. Ctrl-C ends it.
    """
    try:
        token = require_token(host, token)
        web = _web_server()
        opened = Gallery.open(gallery)
        recorder = Recorder.of(opened, audit, token_name)
        if purpose is not None:
            recorder.for_purpose(purpose)
        listening = web.listen(host, port)
        encoder = load_encoder(opened, model, device, trust_remote_code)
        search = DemoSearch(opened, encoder, rerank, int(max_upload_mb * 2**20), recorder, purpose or "", hide_faces)
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
