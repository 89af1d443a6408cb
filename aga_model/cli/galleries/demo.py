"""`aga demo`: a page in the browser."""

from pathlib import Path
from types import ModuleType

from .serving import Served


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
    served = Served(
        "demo",
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
        lambda web, search, token, notes: web.make_server(search, token, notes),
        lambda web, listening, token: f"open {web.address(listening, host, token)}",
    )


def _web_server() -> ModuleType:
    # Imported when the command runs: the other commands need neither Gradio nor the seconds that it takes to import.
    try:
        from aga_model.service.demo import server
    except ImportError as error:
        raise ModuleNotFoundError(f"the demo needs Gradio ({error}): pip install 'aga-model[demo]'") from error
    return server
