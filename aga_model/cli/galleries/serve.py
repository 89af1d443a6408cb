"""`aga serve`: a gallery behind HTTP."""

from pathlib import Path
from types import ModuleType

from .serving import Served


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
    served = Served(
        "service",
        gallery=gallery,
        host=host,
        port=port,
        token=token,
        token_name=token_name,
        rerank=rerank,
        max_upload_mb=max_upload_mb,
        hide_faces=hide_faces,
        audit=audit,
        purpose=purpose,
        model=model,
        device=device,
        trust_remote_code=trust_remote_code,
    )
    served.run(
        _web_server,
        lambda web, search, made_token, notes: web.make_server(web.Service(search, notes), made_token, drain),
        # A token that was given is not repeated.
        lambda web, listening, made_token: (
            f"listening on {web.address(listening, host)}"
            + ("" if made_token is None or token is not None else f" token {made_token}")
        ),
    )


def _web_server() -> ModuleType:
    try:
        from aga_model.service import rest
    except ImportError as error:
        raise ModuleNotFoundError(
            f"the service needs FastAPI, uvicorn and prometheus_client ({error}): pip install 'aga-model[serve]'"
        ) from error
    return rest
