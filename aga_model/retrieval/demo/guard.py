"""
What stands between the network and Gradio: who may ask, from where, for which routes, and with how much data.

Gradio serves much more than the page of the demo needs: uploads, files of its cache, a proxy, component methods,
monitoring. Here everything is refused but the routes of `_ROUTES`, and a request for a computation may hold texts,
numbers and lists of them only. So no request can name a file: of an object with a `path`, in any input, Gradio copies
the file into what it serves, and where an app is mounted, as the page of the demo is, from any folder.
"""

import html
import ipaddress
import json
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

JOIN = "/gradio_api/queue/join"
MIN_TOKEN = 16  # characters
TOKEN_VARIABLE = "AGA_DEMO_TOKEN"
_TOKEN = re.compile(rf"[A-Za-z0-9._~-]{{{MIN_TOKEN},}}")  # needs no quoting in a URL or a cookie
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]+))(?::\d+)?")
_COOKIE = "aga_demo_token"
_ROUTES = {
    "GET": re.compile(
        r"/|/config|/theme\.css|/favicon\.ico|/manifest\.json|/(assets|static)/.+"
        r"|/gradio_api/(startup-events|queue/data|heartbeat/[^/]+)"
    ),
    "HEAD": re.compile(r"/"),
    "POST": re.compile(JOIN),
}
_JOIN_KEYS = ("data", "event_data", "fn_index", "trigger_id", "session_hash")
_MAX_SESSION = 64  # characters of a session's name, which Gradio keeps
# The page's scripts are Gradio's own, which compiles templates; nothing may be fetched from elsewhere.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; frame-ancestors 'none'; base-uri 'self'; form-action 'self'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),  # a token in an address stays here
)


class Refusal(Exception):
    """A request that is not answered: HTTP's status, and what the person can do, in a sentence."""

    def __init__(self, status: int, reason: str):
        super().__init__(status, reason)
        self.status = status
        self.reason = reason


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only be reached from this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require_token(host: str, token: str | None) -> str | None:
    """
    The token that a demo on this host asks for: the given one; without one, none on loopback, else a new random one.

    Raises:
        ValueError: the token is too short to be secret, or holds characters that an address cannot.
    """
    if token is None:
        return None if is_loopback(host) else secrets.token_urlsafe(24)
    if not _TOKEN.fullmatch(token):
        raise ValueError(
            f"the token must have at least {MIN_TOKEN} of the characters A-Z a-z 0-9 . _ ~ -: leave --token and "
            f"{TOKEN_VARIABLE} out to have one made"
        )
    return token


class Guard:
    """
    An ASGI application in front of another one.

    - With a token every request must carry it: as `Authorization: Bearer TOKEN`, or as the cookie that opening
      `/?token=TOKEN` sets. Without one the request must be addressed to this machine by a loopback name, which keeps
      out other sites whose names are made to point here (DNS rebinding).
    - A request that another site's page made is refused.
    - Routes that the page does not use are not there.
    - Bodies are bounded, and hold no objects that could name a file.

    Args:
        app: what answers the requests that are let through.
        token: see [`require_token`]; None for loopback only.
        max_body: bytes of a request.
    """

    def __init__(self, app: App, token: str | None, max_body: int):
        self.app = app
        self.token = token
        self.max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # the page has no web socket
            await send({"type": "websocket.close", "code": 1008})
            return
        send = _with_headers(send)
        try:
            if self._opens_session(scope):
                await self._set_cookie(scope, send)
                return
            self._check(scope)
            if scope["method"] == "POST":
                body = _plain_body(await _read_body(receive, self.max_body))
                scope, receive = _replaced(scope, body), _replay(body, receive)
        except Refusal as refusal:
            await _refuse(refusal, send)
            return
        await self.app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        """Refusal unless who asks, from where and for what is right."""
        headers = _headers(scope)
        host = headers.get("host", "")
        if self.token is None:
            if not is_loopback(_name_of(host)):
                raise Refusal(
                    403, "This demo answers requests to this machine only: open it as http://127.0.0.1:PORT/"
                )
        elif not self._is_token(_bearer(headers)) and not self._is_token(_cookie(headers)):
            raise Refusal(401, "This demo asks for a token: open the address that aga demo printed, with ?token=")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            raise Refusal(403, "This request comes from another site's page.")
        route = _ROUTES.get(scope["method"])
        if route is None or not route.fullmatch(scope["path"]):
            raise Refusal(404, "There is no such page.")

    def _is_token(self, given: str | None) -> bool:
        """In a time that does not tell how much of it is right."""
        if given is None or self.token is None:
            return False
        return secrets.compare_digest(given.encode(), self.token.encode())

    def _opens_session(self, scope: Scope) -> bool:
        """Whether this is the page's address with the right token in it."""
        if scope["method"] != "GET" or scope["path"] != "/":
            return False
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        return len(given) == 1 and self._is_token(given[0])

    async def _set_cookie(self, scope: Scope, send: Send) -> None:
        """
        A page that goes on to the address without the token. It is no redirection: a browser keeps a strict cookie
        back from one that began with a link on another site.
        """
        secure = "; Secure" if scope.get("scheme") == "https" else ""
        cookie = f"{_COOKIE}={self.token}; HttpOnly; SameSite=Strict; Path=/{secure}"
        page = (
            '<!doctype html><meta http-equiv="refresh" content="0; url=./"><p><a href="./">Go on to the demo</a></p>'
        )
        await _answer(send, 200, page, [(b"set-cookie", cookie.encode()), (b"cache-control", b"no-store")])


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _name_of(host: str) -> str:
    """The name or address in a Host header, without the port; empty for anything that is neither."""
    match = _HOST.fullmatch(host)
    return (match[1] or match[2]) if match is not None else ""


def _bearer(headers: dict[str, str]) -> str | None:
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else None


def _cookie(headers: dict[str, str]) -> str | None:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(_COOKIE)
    except CookieError:
        return None
    return None if found is None else found.value


async def _read_body(receive: Receive, limit: int) -> bytes:
    """
    Refusal above `limit` bytes. Some of what is too much is still taken, and dropped: a client reads the answer only
    when it has sent its request.
    """
    pieces: list[bytes] = []
    size, more = 0, True
    while more and size <= 4 * limit:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refusal(400, "The request ended early.")
        size += len(message.get("body", b""))
        if size <= limit:
            pieces.append(message.get("body", b""))
        more = message.get("more_body", False)
    if size > limit:
        raise Refusal(413, f"The request is larger than {limit:,} bytes: choose a smaller image.")
    return b"".join(pieces)


def _plain_body(body: bytes) -> bytes:
    """
    What the page sends to start a computation, and no more of it than Gradio needs.

    Raises:
        Refusal: it is something else, or holds an object where the page sends texts, numbers and lists of texts.
    """
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "The request is no JSON.") from error
    if not isinstance(request, dict) or not isinstance(request.get("data"), list):
        raise Refusal(400, "The request holds no list of data.")
    event = request.get("event_data")
    values = [*request["data"], *(event.values() if isinstance(event, dict) else [event])]
    if not all(_is_scalar(value) or (isinstance(value, list) and all(map(_is_scalar, value))) for value in values):
        raise Refusal(400, "The request holds objects, such as files, which this demo does not take.")
    session = request.get("session_hash")
    if not isinstance(session, str) or not 0 < len(session) <= _MAX_SESSION:
        raise Refusal(400, "The request names no session.")
    return json.dumps({key: request[key] for key in _JOIN_KEYS if key in request}).encode()


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)


def _replaced(scope: Scope, body: bytes) -> Scope:
    """The scope of a request with another body."""
    names = (b"content-length", b"transfer-encoding")
    headers = [(name, value) for name, value in scope["headers"] if name.lower() not in names]
    return {**scope, "headers": [*headers, (b"content-length", str(len(body)).encode())]}


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body, and then what comes after it."""
    pending = [body]

    async def replayed() -> Message:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        return await receive()

    return replayed


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
        await send(message)

    return sending


async def _refuse(refusal: Refusal, send: Send) -> None:
    text = html.escape(refusal.reason)
    page = f"<!doctype html><html lang=en><title>{refusal.status}</title><p>{text}</p></html>"
    await _answer(send, refusal.status, page, [(b"www-authenticate", b"Bearer")] if refusal.status == 401 else [])


async def _answer(send: Send, status: int, page: str, headers: list[tuple[bytes, bytes]]) -> None:
    content = page.encode()
    kind = [(b"content-type", b"text/html; charset=utf-8"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*kind, *headers]})
    await send({"type": "http.response.body", "body": content})


__all__ = ["TOKEN_VARIABLE", "Guard", "is_loopback", "require_token"]
