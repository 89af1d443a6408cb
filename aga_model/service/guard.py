"""
What stands between the network and an application: who may ask, from where, for which routes, and with how much data.

A web framework serves much more than an application needs; Gradio, which the demo is made with, has uploads, files
of its cache, a proxy, component methods and monitoring. Here everything is refused but what an application's [`Rules`]
name, before it is read at any cost. The guard knows ASGI only, neither Gradio nor the web server.
"""

import asyncio
import html
import ipaddress
import json
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from aga_model.defaults import TOKEN_VARIABLE

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LET_IN = "aga.let_in"  # ASGI extension of the server: a function that says whether a connection may stay
MIN_TOKEN = 16  # characters
BODY_SECONDS = 60.0  # in which a request must have come
_TOKEN = re.compile(rf"[A-Za-z0-9._~-]{{{MIN_TOKEN},}}")  # needs no quoting in a URL or a cookie
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::\d{1,5})?")
_COOKIE = "aga_demo_token"
_READ_METHODS = ("GET", "HEAD")
# What an application gets to see of a request's headers: no token, and nothing that it might trust too much.
_PASSED_HEADERS = frozenset(
    b"host origin accept accept-encoding accept-language content-type content-length if-none-match if-modified-since "
    b"range user-agent x-forwarded-proto".split()
)
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
    """
    A request that is not answered.

    Args:
        status: HTTP's.
        reason: what the person can do, in a sentence that repeats nothing of the request.
        retry_seconds: after which the same request may be answered.
    """

    def __init__(self, status: int, reason: str, retry_seconds: int | None = None):
        super().__init__(status, reason)
        self.status = status
        self.reason = reason
        self.retry_seconds = retry_seconds


class Rules:
    """
    What an application takes of the requests that may reach it. These let everything through.

    Attributes:
        name: what the application is called in refusals.
        how_to_give_token: what the refusal of a request without it says.
        small_body: bytes that any body may have.
        large_at_once: larger bodies that are read at a time; of more, each is told to come again.
    """

    name = "demo"
    how_to_give_token = "open the address that aga demo printed, with ?token="
    small_body = 128 * 1024
    large_at_once = 4

    def check_route(self, method: str, path: str, query: str) -> str:
        """The query string that is passed on; Refusal for a route that is not there."""
        return query

    def may_be_large(self, beginning: bytes) -> bool:
        """Whether a body that begins so may have more than [`Rules.small_body`] bytes."""
        return True

    def check_body(self, body: bytes) -> bytes:
        """The body that is passed on; Refusal for one that is wrong."""
        return body


class WrongTokens:
    """
    How long an address waits for the refusal of a wrong token: the more of them it has given, the longer.

    Right tokens are not asked about here, so that nobody who guesses keeps another one out, not even from the same
    address. The addresses that are remembered are bounded; the one that was silent for longest is forgotten.

    Args:
        clock: seconds.
    """

    FREE = 5  # mistakes that cost nothing
    FIRST, MOST = 0.05, 1.0  # seconds
    FORGET = 2.0  # seconds for which a mistake counts, when no other follows
    ADDRESSES = 1024

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._counts: OrderedDict[str, tuple[float, float]] = OrderedDict()  # address -> mistakes, when

    def __len__(self) -> int:
        return len(self._counts)

    def wait(self, address: str) -> float:
        """Count one more mistake; seconds that its refusal waits."""
        key, now = _network(address), self._clock()
        count, last = self._counts.pop(key, (0.0, now))
        count = max(0.0, count - (now - last) / self.FORGET) + 1
        self._counts[key] = count, now
        if len(self._counts) > self.ADDRESSES:
            self._counts.popitem(last=False)
        over = count - self.FREE
        return 0.0 if over <= 0 else min(self.MOST, self.FIRST * 2 ** min(over, 32))


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
    The token that a server on this host asks for: the given one; without one, none on loopback, else a new random one.

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
      out other sites whose names are made to point here (DNS rebinding). Refusals of wrong tokens wait.
    - A request that another site's page made is refused.
    - What the rules do not name is refused, and the body of a refused request is not read.
    - Bodies are bounded, in bytes and in the time that they take.

    Args:
        app: what answers the requests that are let through. It sees neither the token nor other headers than it needs.
        token: see [`require_token`]; None for loopback only.
        max_body: bytes of a request.
        rules: what the application takes.
        body_seconds: in which a request must have come.
    """

    def __init__(
        self,
        app: App,
        token: str | None,
        max_body: int,
        rules: Rules | None = None,
        body_seconds: float = BODY_SECONDS,
    ):
        self.app = app
        self.token = token
        self.max_body = max_body
        self.rules = rules or Rules()
        self.body_seconds = body_seconds
        self._wrong_tokens = WrongTokens()
        self._large = 0  # bodies that are being read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # nothing behind this has a web socket
            await send({"type": "websocket.close", "code": 1008})
            return
        send = _with_headers(send)
        headers = _headers(scope)
        is_read = scope["method"] in _READ_METHODS  # then there is no body
        try:
            if self._opens_session(scope):
                _let_in(scope, self.rules.name)
                await self._set_cookie(scope, send)
                return
            await self._check_sender(scope, headers)
            _let_in(scope, self.rules.name)
            query = self.rules.check_route(scope["method"], scope["path"], scope["query_string"].decode("latin-1"))
            if is_read and not _has_no_body(headers):
                is_read = False
                raise Refusal(400, "A request for a page has no content.")
            scope = _passed(scope, query)
            if not is_read:
                body = await self._read_body(receive, headers)
                is_read = True
                body = self.rules.check_body(body)
                scope, receive = _replaced(scope, body), _replay(body, receive)
        except Refusal as refusal:
            await refuse(refusal, scope, send, close=not is_read or refusal.status in (401, 503))
            return
        await self.app(scope, receive, send)

    async def _check_sender(self, scope: Scope, headers: dict[str, str]) -> None:
        """Refusal unless the right one asks, from the right place."""
        host = headers.get("host", "")
        if _HOST.fullmatch(host) is None:
            raise Refusal(400, "The request is addressed to no host.")
        if self.token is None:
            if not is_loopback(_name_of(host)):
                raise Refusal(
                    403,
                    f"This {self.rules.name} answers requests to this machine only: open it as http://127.0.0.1:PORT/",
                )
        elif not self._is_token(_bearer(headers)) and not self._is_token(_cookie(headers)):
            await self._slow_down(scope, headers)
            raise Refusal(401, f"This {self.rules.name} asks for a token: {self.rules.how_to_give_token}")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            raise Refusal(403, "This request comes from another site's page.")

    async def _slow_down(self, scope: Scope, headers: dict[str, str]) -> None:
        """Wait, after a token that is wrong. One that is missing guesses nothing."""
        if "authorization" in headers or _cookie(headers) is not None or b"token=" in scope["query_string"]:
            await asyncio.sleep(self._wrong_tokens.wait((scope.get("client") or ("",))[0]))

    def _is_token(self, given: str | None) -> bool:
        """In a time that does not tell how much of it is right."""
        if given is None or self.token is None:
            return False
        return secrets.compare_digest(given.encode(), self.token.encode())

    def _opens_session(self, scope: Scope) -> bool:
        """Whether this is the page's address with the right token in it."""
        if scope["method"] != "GET" or scope["path"] != "/":
            return False
        try:
            given = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=10).get("token", [])
        except ValueError:
            return False
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
        kind = (b"content-type", b"text/html; charset=utf-8")
        headers = [kind, (b"set-cookie", cookie.encode()), (b"cache-control", b"no-store")]
        await _answer(send, 200, page.encode(), headers)

    async def _read_body(self, receive: Receive, headers: dict[str, str]) -> bytes:
        """Refusal for a body that is too large, as soon as that is known, or too slow."""
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self.max_body:
            raise self._too_large()
        body = bytearray()
        is_large = False
        try:
            async with asyncio.timeout(self.body_seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refusal(400, "The request ended early.")
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > self.max_body:
                        raise self._too_large()
                    if len(body) > self.rules.small_body and not is_large:
                        self._require_large(bytes(body[: self.rules.small_body]))
                        is_large = True
                        self._large += 1
        except TimeoutError as error:
            raise Refusal(408, f"The request took more than {self.body_seconds:g} seconds to arrive.") from error
        finally:
            self._large -= is_large
        return bytes(body)

    def _require_large(self, beginning: bytes) -> None:
        if not self.rules.may_be_large(beginning):
            raise Refusal(
                413,
                f"The request is larger than {self.rules.small_body:,} bytes, which only an image may be: shorten the "
                "text, or choose a smaller image.",
            )
        if self._large >= self.rules.large_at_once:
            raise Refusal(503, "Several images are being sent at the moment: try again in 5 s.", 5)

    def _too_large(self) -> Refusal:
        return Refusal(
            413, f"The request is larger than {self.max_body:,} bytes: shorten the text, or choose a smaller image."
        )


def _let_in(scope: Scope, name: str) -> None:
    """Tell the server that the sender of this is no stranger; Refusal if there are too many already."""
    stay = (scope.get("extensions") or {}).get(LET_IN)
    if stay is not None and not stay():
        raise Refusal(503, f"Too many connections to this {name} are open: close some, or try again in 5 s.", 5)


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _has_no_body(headers: dict[str, str]) -> bool:
    return "transfer-encoding" not in headers and headers.get("content-length", "0").strip("0") == ""


def _name_of(host: str) -> str:
    """The name or address in a Host header, without the port; empty for anything that is neither."""
    match = _HOST.fullmatch(host)
    return (match[1] or match[2]) if match is not None else ""


def _network(address: str) -> str:
    """Whose an address is: of IPv6, one customer has the last 64 bits to choose from."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return ""
    return str(found) if found.version == 4 else str(ipaddress.ip_network((found, 64), strict=False))


def _bearer(headers: dict[str, str]) -> str | None:
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else None


def _cookie(headers: dict[str, str]) -> str | None:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(_COOKIE)
    except CookieError:
        return None
    return None if found is None else found.value


def _passed(scope: Scope, query: str) -> Scope:
    """The scope that the application sees."""
    headers = [(name, value) for name, value in scope["headers"] if name.lower() in _PASSED_HEADERS]
    return {**scope, "headers": headers, "query_string": query.encode("latin-1")}


def _replaced(scope: Scope, body: bytes) -> Scope:
    """The scope of a request with another body."""
    headers = [(name, value) for name, value in scope["headers"] if name.lower() != b"content-length"]
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


async def refuse(refusal: Refusal, scope: Scope, send: Send, close: bool = False) -> None:
    """
    Answer with a refusal: as a page to a browser that asks for one, else as JSON.

    Args:
        close: end the connection behind it; what is left of the request is not read then.
    """
    if scope["method"] in _READ_METHODS and "text/html" in _headers(scope).get("accept", ""):
        text = html.escape(refusal.reason)
        kind, content = (
            "text/html",
            f"<!doctype html><html lang=en><title>{refusal.status}</title><p>{text}</p></html>",
        )
    else:
        kind, content = "application/json", json.dumps({"detail": refusal.reason})
    headers = [(b"content-type", f"{kind}; charset=utf-8".encode())]
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if refusal.retry_seconds is not None:
        headers.append((b"retry-after", str(refusal.retry_seconds).encode()))
    if close:
        headers.append((b"connection", b"close"))
    await _answer(send, refusal.status, content.encode(), headers)


async def _answer(send: Send, status: int, content: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    length = (b"content-length", str(len(content)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": content})


__all__ = [
    "LET_IN",
    "TOKEN_VARIABLE",
    "Guard",
    "Refusal",
    "Rules",
    "WrongTokens",
    "is_loopback",
    "refuse",
    "require_token",
]
