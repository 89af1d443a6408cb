"""The web server of the service: it ends when everything has been answered, and reloads its gallery when told to."""

import asyncio
import logging
import math
import signal
from contextlib import suppress

import uvicorn

from ..connections import ConnectionLimits, limited_server
from ..guard import Guard
from .routes import Service, ServiceRules

DRAIN_SECONDS = 30  # for answers that are under way when the service is stopped
_REST_OF_A_REQUEST = 64 * 1024  # bytes beside an uploaded image
_CONNECTIONS = 1024  # also of one address: a proxy in front of the service has one
_logger = logging.getLogger(__name__)


def make_server(service: Service, token: str | None, drain_seconds: int = DRAIN_SECONDS) -> uvicorn.Server:
    """
    A server for `run(sockets=[...])`. On SIGTERM or an interrupt it accepts nothing more, answers what it has accepted
    and returns; on SIGHUP it opens the gallery anew.

    Args:
        service: of the gallery.
        token: see [`Guard`].
        drain_seconds: for what is under way when it is stopped.
    """
    max_body = math.ceil(service.search.max_upload_bytes * 4 / 3) + _REST_OF_A_REQUEST  # base64
    guard = Guard(service.app(_reload_on_hangup), token, max_body, ServiceRules())
    limits = ConnectionLimits.of_this_process(_CONNECTIONS)
    return limited_server(guard, limits, drain_seconds)


def _reload_on_hangup(service: Service) -> None:
    loop = asyncio.get_running_loop()

    async def reload() -> None:
        try:
            await service.batches.in_thread(service.reload)
        except (ValueError, OSError) as error:
            _logger.warning("the gallery was not reloaded, and the old one goes on to be searched: %s", error)

    tasks: set[asyncio.Task[None]] = set()  # the loop alone would let them be collected

    def start() -> None:
        task = asyncio.ensure_future(reload())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    with suppress(NotImplementedError, RuntimeError, AttributeError):  # not in Windows, nor outside the main thread
        loop.add_signal_handler(signal.SIGHUP, start)


__all__ = ["DRAIN_SECONDS", "make_server"]
