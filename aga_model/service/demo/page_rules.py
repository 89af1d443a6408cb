"""
What the page of the demo sends, and nothing else: which routes, which functions, and for each of their inputs what
kind of value, of what length.

A value is a text, a number, or where several may be chosen a list of them. So no request can name a file: of an object
with a `path`, in any input, Gradio copies the file into what it serves, and where an app is mounted, as the page of
the demo is, from any folder. What a value *means* is checked where it is used, and told to the person in the page.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..guard import Refusal, Rules

JOIN = "/gradio_api/queue/join"
_DATA = "/gradio_api/queue/data"
_SESSION = r"[A-Za-z0-9_-]{1,64}"
_FILE = r"(?:[A-Za-z0-9_~@-][A-Za-z0-9._~@-]*/)*[A-Za-z0-9_~@-][A-Za-z0-9._~@-]*"  # no hidden one, and no way up
_LONGEST_PATH = 300  # characters
_ROUTES = {
    "GET": re.compile(
        rf"/|/config|/theme\.css|/favicon\.ico|/manifest\.json|/(?:assets|static)/{_FILE}"
        rf"|/gradio_api/(?:startup-events|queue/data|heartbeat/{_SESSION})"
    ),
    "HEAD": re.compile(r"/"),
    "POST": re.compile(re.escape(JOIN)),
}
_QUERY = re.compile(rf"session_hash=({_SESSION})")
_PASSED_KEYS = ("data", "event_data", "fn_index", "session_hash")
_MOST_EVENT_VALUES = 8
_EVENT_CHARACTERS = 100  # of a text that comes with a click
_BEGINNING = 4096  # bytes of a request within which its image begins
_IMAGE = b'"data:image/'
_IMAGE_KEY = "image"
_PLACE = "an image was here"


@dataclass(frozen=True)
class Field:
    """
    One input of a function.

    Args:
        name: what messages call it.
        characters: of its text, or of each of its texts; 0 for an input that the page leaves empty.
        values: how many of them it may list; 0 for one that lists none.
    """

    name: str
    characters: int = 0
    values: int = 0


class PageRules(Rules):
    """
    The rules of a page.

    Args:
        functions: inputs of each function, by its number.
        is_known: whether a session of this name has started something.
    """

    def __init__(self, functions: Mapping[int, tuple[Field, ...]], is_known: Callable[[str], bool]):
        self.functions = functions
        self.is_known = is_known

    def check_route(self, method: str, path: str, query: str) -> str:
        """The session where an answer is asked for; other routes get no query."""
        route = _ROUTES.get(method)
        if route is None or len(path) > _LONGEST_PATH or not route.fullmatch(path):
            raise Refusal(404, "There is no such page.")
        if path != _DATA:
            return ""
        found = _QUERY.fullmatch(query)
        if found is None or not self.is_known(found[1]):
            raise Refusal(404, "Nothing was asked in this session, or it is long ago: reload the page.")
        return query

    def may_be_large(self, beginning: bytes) -> bool:
        """Only an image is, which the page sends beside next to nothing."""
        return _IMAGE in beginning[:_BEGINNING]

    def check_body(self, body: bytes) -> bytes:
        """
        What the page sends to start a computation, and no more of it than Gradio needs.

        Raises:
            Refusal: it is something else.
        """
        request, image = self._read(body)
        fields = self._fields(request)
        data = request.get("data")
        if not isinstance(data, list) or len(data) != len(fields):
            raise Refusal(400, "The request holds no list of data, or one of another length than the page's.")
        for value, field in zip(data, fields):
            _check_value(value, field)
        event = request.get("event_data")
        _check_event(event)
        if image is not None:
            if not isinstance(event, dict) or event.get(_IMAGE_KEY) != _PLACE:
                raise Refusal(400, "The request holds an image in another place than the page's.")
            event[_IMAGE_KEY] = image
        session = request.get("session_hash")
        if not isinstance(session, str) or not re.fullmatch(_SESSION, session):
            raise Refusal(400, "The request names no session.")
        return json.dumps({key: request[key] for key in _PASSED_KEYS if key in request}).encode()

    def _read(self, body: bytes) -> tuple[dict[str, Any], str | None]:
        """The request, and the image that was cut out of it if it is a large one, so that JSON is read of little."""
        image = None
        if len(body) > self.small_body:
            start = body.find(_IMAGE, 0, _BEGINNING) + 1
            end = body.find(b'"', start)
            if start == 0 or end < 0 or len(body) - (end - start) > self.small_body:
                raise Refusal(413, f"Beside an image a request may have {self.small_body:,} bytes.")
            if b"\\" in (encoded := body[start:end]) or not encoded.isascii():
                raise Refusal(400, "The request holds an image that is not written as the page writes it.")
            image = encoded.decode()
            body = body[:start] + _PLACE.encode() + body[end:]
        try:
            request = json.loads(body, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise Refusal(400, "The request is no JSON.") from error
        if not isinstance(request, dict):
            raise Refusal(400, "The request is no JSON object.")
        return request, image

    def _fields(self, request: dict[str, Any]) -> tuple[Field, ...]:
        number = request.get("fn_index")
        if type(number) is not int or number not in self.functions:
            raise Refusal(400, "The page has no such function: reload it.")
        return self.functions[number]


def _check_value(value: Any, field: Field) -> None:
    if not field.characters:
        if value is not None:
            raise Refusal(400, f"The {field.name} is not sent with a request.")
        return
    values = value if isinstance(value, list) and field.values else [value]
    if len(values) > max(1, field.values):
        raise Refusal(400, f"The {field.name} holds {len(values)} values: give at most {field.values}.")
    for one in values:
        if not _is_scalar(one):
            raise Refusal(400, "The request holds objects, such as files, which this demo does not take.")
        if isinstance(one, str) and len(one) > field.characters:
            raise Refusal(
                400, f"The {field.name} has {len(one):,} characters: shorten it to at most {field.characters:,}."
            )


def _check_event(event: Any) -> None:
    """Refusal for what no click or upload of the page sends."""
    values = list(event.values()) if isinstance(event, dict) else event if isinstance(event, list) else [event]
    if len(values) > _MOST_EVENT_VALUES:
        raise Refusal(400, f"The event holds {len(values)} values: give at most {_MOST_EVENT_VALUES}.")
    keys = list(event) if isinstance(event, dict) else []
    is_image = isinstance(event, dict) and isinstance(event.get(_IMAGE_KEY), str)
    for value in [*values, *keys]:
        parts = value if isinstance(value, list) and len(value) <= _MOST_EVENT_VALUES else [value]
        if not all(map(_is_scalar, parts)):
            raise Refusal(400, "The request holds objects, such as files, which this demo does not take.")
        is_long = any(isinstance(part, str) and len(part) > _EVENT_CHARACTERS for part in parts)
        if is_long and not (is_image and value is event[_IMAGE_KEY]):
            raise Refusal(400, f"The event holds a text of more than {_EVENT_CHARACTERS} characters.")


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


__all__ = ["JOIN", "Field", "PageRules"]
