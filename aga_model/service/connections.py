"""
How many connections a server keeps, for how long, and whose. uvicorn has one bound for all of them, by which strangers
who send nothing keep everybody else out.

A connection is a stranger's until the guard lets one of its requests in; then it is a guest's. The two are counted
apart. Where a stranger too many comes, the one who has waited for longest has to go: who knows the token sends it at
once, and so gets in through any number of others.
"""

import asyncio
import ctypes
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from .guard import LET_IN, App, Receive, Scope, Send
from .logs import log_config

_ACCEPTED_AT_ONCE = 32  # connections; they are counted only after that
_HEADER_BYTES = 16 * 1024
_KEEP_ALIVE_SECONDS = 5
_BACKLOG = 1024  # connections that wait in the system for being accepted
_ATTACH_FILTER = 26  # SO_ATTACH_FILTER of Linux
_LAST_ACCEPTED_SECONDS = 0.25  # in which the connections that are there send their requests
_CLOSE_SECONDS = 1  # for answers that are under way when the server is stopped
_LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


@dataclass(frozen=True)
class ConnectionLimits:
    """
    What is kept open. Each connection takes a file descriptor.

    Args:
        strangers, strangers_per_address: connections of which no request was let in yet.
        guests, guests_per_address: the others. An open page has two to eight.
        header_seconds: in which the headers of a request must have come.
        linger_seconds, linger_bytes: how long, and how much, of a refused request is still taken and dropped, so that
            the sender reads the refusal.
    """

    strangers: int = 128
    strangers_per_address: int = 64
    guests: int = 384
    guests_per_address: int = 128
    header_seconds: float = 10
    linger_seconds: float = 1
    linger_bytes: int = 2**20

    @classmethod
    def of_this_process(cls, any_address: int | None = None) -> "ConnectionLimits":
        """
        The usual ones, or less where the process may open only a few files: half of them at most.

        Args:
            any_address: so many strangers and as many guests, also of one address, in the place of the usual ones: for
                a server that is asked by programs, or through a proxy.
        """
        usual = (cls.strangers, cls.strangers_per_address, cls.guests, cls.guests_per_address)
        wanted = usual if any_address is None else (any_address,) * 4
        part = min(1.0, _descriptors() / 2 / (wanted[0] + wanted[2]))
        return cls(*(max(least, int(number * part)) for least, number in zip((8, 4, 16, 16), wanted)))


class Connection(Protocol):
    """What is counted: an address, whether a request is being answered, and how to end it at once."""

    address: str

    @property
    def is_idle(self) -> bool: ...

    def drop(self) -> None: ...


class Connections:
    """
    The open connections of a server, by address. Its size is that of what is open.

    Args:
        limits: how many there may be.
    """

    def __init__(self, limits: ConnectionLimits):
        self.limits = limits
        self._strangers: dict[str, dict[Connection, None]] = {}  # in the order in which they came
        self._guests: dict[str, dict[Connection, None]] = {}

    @property
    def strangers(self) -> int:
        """How many there are."""
        return _count(self._strangers)

    @property
    def guests(self) -> int:
        """How many there are."""
        return _count(self._guests)

    def arrive(self, connection: Connection) -> None:
        """Count a stranger, and drop another one if that is too many: of this address, or of the one with most."""
        here = self._strangers.get(connection.address, {})
        if len(here) >= self.limits.strangers_per_address:
            self._drop_stranger(here)
        elif self.strangers >= self.limits.strangers:
            self._drop_stranger(max(self._strangers.values(), key=len))
        self._strangers.setdefault(connection.address, {})[connection] = None

    def let_in(self, connection: Connection) -> bool:
        """
        Make a guest of a stranger, in the place of a guest who does nothing at the moment if there are too many. False
        if all of them do something.
        """
        here = self._guests.get(connection.address, {})
        if connection in here:
            return True
        if len(here) >= self.limits.guests_per_address and not self._drop_idle(here):
            return False
        if self.guests >= self.limits.guests and not any(map(self._drop_idle, list(self._guests.values()))):
            return False
        _remove(self._strangers, connection)
        self._guests.setdefault(connection.address, {})[connection] = None
        return True

    def leave(self, connection: Connection) -> None:
        """Count a connection no longer."""
        _remove(self._strangers, connection)
        _remove(self._guests, connection)

    def _drop_stranger(self, among: dict[Connection, None]) -> None:
        connection = next(iter(among))
        _remove(self._strangers, connection)
        connection.drop()

    def _drop_idle(self, among: dict[Connection, None]) -> bool:
        connection = next((one for one in among if one.is_idle), None)
        if connection is None:
            return False
        _remove(self._guests, connection)
        connection.drop()
        return True


class LimitedProtocol(H11Protocol):
    """
    uvicorn's HTTP connection, counted, and ended when its requests come too slowly.

    Args:
        registry: of the server.
        uvicorn: what uvicorn gives its protocols.
    """

    def __init__(self, registry: Connections, **uvicorn: Any):
        super().__init__(**uvicorn)
        self.app: Any = self._announced(self.app)
        self.address = ""
        self._registry = registry
        self._deadline: asyncio.TimerHandle | None = None
        self._has_begun = False  # with headers
        self._dropped_bytes: int | None = None  # of a refused request

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def body_is_due(self) -> bool:
        """Whether there is more of a request to come."""
        return self.conn.their_state is h11.SEND_BODY

    @property
    def is_lingering(self) -> bool:
        """Whether the connection is as good as closed."""
        return self._dropped_bytes is not None

    def drop(self) -> None:
        """End the connection at once."""
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_PoliteTransport(transport, self))  # type: ignore[arg-type]
        self.address = self.client[0] if self.client else ""
        self._registry.arrive(self)
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._registry.leave(self)
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._dropped_bytes is not None:
            self._dropped_bytes += len(data)
            if self._dropped_bytes > self._registry.limits.linger_bytes:
                self.drop()
            return
        self._has_begun = True
        super().data_received(data)
        if self.is_idle and not self.transport.is_closing():
            self._await_headers()

    def linger(self) -> None:
        """
        Say that nothing more comes, and take what is under way of a request that is not read, until its sender closes
        or the limits end it. Closed at once, the system would answer more data with a reset, which can overtake the
        answer.
        """
        self._dropped_bytes = 0
        self.transport.write_eof()
        self.flow.resume_reading()
        self._stop_waiting()
        self._deadline = self.loop.call_later(self._registry.limits.linger_seconds, self.drop)

    def _announced(self, app: Any) -> App:
        """The application, with a way to say that a request may come in."""

        async def announced(scope: Scope, receive: Receive, send: Send) -> None:
            if not self.is_lingering:
                self._stop_waiting()
            self._has_begun = False
            extensions = {**(scope.get("extensions") or {}), LET_IN: lambda: self._registry.let_in(self)}
            await app({**scope, "extensions": extensions}, receive, send)

        return announced

    def _await_headers(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self._registry.limits.header_seconds, self._end_waiting)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _end_waiting(self) -> None:
        if self._has_begun and not self.transport.is_closing():
            self.transport.write(_LATE)
        self.transport.close()


class _PoliteTransport:
    """A transport whose `close` leaves the sender of a request that is not read the time to read the answer."""

    def __init__(self, transport: asyncio.Transport, protocol: LimitedProtocol):
        self._transport = transport
        self._protocol = protocol

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self._protocol.is_lingering or self._transport.is_closing()

    def close(self) -> None:
        if self._protocol.body_is_due and not self.is_closing():
            self._protocol.linger()
        elif not self._protocol.is_lingering:
            self._transport.close()


def _count(connections: dict[str, dict[Connection, None]]) -> int:
    return sum(map(len, connections.values()))


def _remove(connections: dict[str, dict[Connection, None]], connection: Connection) -> None:
    here = connections.get(connection.address)
    if here is not None:
        here.pop(connection, None)
        if not here:
            del connections[connection.address]


def _descriptors() -> int:
    """File descriptors that this process may have."""
    try:
        import resource
    except ImportError:  # Windows
        return 8192
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**20 if soft == resource.RLIM_INFINITY else soft


def limited_protocol(limits: ConnectionLimits) -> Callable[..., LimitedProtocol]:
    """What uvicorn makes its connections with."""
    registry = Connections(limits)
    return lambda **uvicorn: LimitedProtocol(registry, **uvicorn)


def limited_server(
    app: App, limits: ConnectionLimits | None = None, close_seconds: int = _CLOSE_SECONDS
) -> uvicorn.Server:
    """
    A server whose connections are limited and whose log holds no inputs, to be run with `sockets`.

    Args:
        app: a [`Guard`], which tells the server whom it lets in.
        limits: how many connections; the usual ones without.
        close_seconds: for answers that are under way when the server is stopped.
    """
    config = uvicorn.Config(
        app,
        http=limited_protocol(limits or ConnectionLimits.of_this_process()),  # type: ignore[arg-type]
        ws="none",
        log_config=log_config(),
        access_log=False,  # its lines would hold the token
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        h11_max_incomplete_event_size=_HEADER_BYTES,
        timeout_graceful_shutdown=close_seconds,
        backlog=_ACCEPTED_AT_ONCE,
    )
    return _Server(config)


def listen(host: str, port: int) -> socket.socket:
    """
    A listening socket.

    Args:
        host: name or address.
        port: 0 for any free one.

    Raises:
        OSError: the port is in use or not allowed, or the host is no address of this machine; says what to do.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(address[:2], family=family)
        # For the connections, too. asyncio does it only where a socket names TCP, which this one does not; an answer's
        # second part would wait 40 ms for the acknowledgement of the first.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(
            f"cannot listen on {host} port {port} ({reason}): give another --port (0 takes a free one), or "
            "an address of this machine as --host"
        ) from error


def address(listening: socket.socket, host: str, token: str | None = None) -> str:
    """The URL of what listens, on this machine where it listens on all addresses; with the token if there is one."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    name = f"[{host}]" if ":" in host else host
    query = "" if token is None else f"?token={token}"
    return f"http://{name}:{listening.getsockname()[1]}/{query}"


def _keep_newcomers_out(listening: socket.socket) -> bool:
    """
    Let the system drop requests for new connections, so that their senders try again and are then refused. False where
    it cannot.
    """
    if sys.platform != "linux":
        return False
    # Of packets to this socket, drop those with SYN alone among the flags SYN and ACK: classic BPF on the TCP header.
    program = [(0x30, 0, 0, 13), (0x54, 0, 0, 0x12), (0x15, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *instruction) for instruction in program))
    try:
        filtering = struct.pack("HP", len(program), ctypes.addressof(code))
        listening.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, filtering)
    except OSError:
        return False
    return True


class _Server(uvicorn.Server):
    """Accepts a few connections at a time, so that they are counted, while many may wait in the system."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # What waits in the system for being accepted would be reset with the socket that listens. So newcomers are
        # kept out first, and what is there already is let in and heard.
        if any([_keep_newcomers_out(listening) for listening in sockets or ()]):
            await asyncio.sleep(_LAST_ACCEPTED_SECONDS)
        await super().shutdown(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listening in sockets or ():
            listening.listen(_BACKLOG)


__all__ = [
    "ConnectionLimits",
    "Connections",
    "LimitedProtocol",
    "address",
    "limited_protocol",
    "limited_server",
    "listen",
]
