"""A client of `aga serve`, with the standard library alone."""

import base64
import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from aga_model.defaults import SERVICE_TOKEN_VARIABLE


class ServerError(ValueError):
    """
    A request that the server did not answer; the message says why.

    Attributes:
        retry_seconds: after which the same request may be answered; None where waiting does not help.
    """

    def __init__(self, message: str, retry_seconds: int | None = None):
        super().__init__(message)
        self.retry_seconds = retry_seconds


class Client:
    """
    Asks a service.

    ```python
    >>> client = Client("http://127.0.0.1:8000")
    >>> answer = client.search("a woman in a red coat", top_k=5, cameras=["entrance"])
    >>> picture = client.image(answer["hits"][0]["id"])  # JPEG
    ```

    Args:
        url: that `aga serve` printed.
        token: of the service; that of the environment variable AGA_TOKEN without one.
        timeout: seconds without an answer after which it is given up.

    The methods raise ServerError: the server cannot be reached, or does not answer; the message says why.
    """

    def __init__(self, url: str, token: str | None = None, timeout: float = 60):
        self.url = url.rstrip("/")
        self.token = token or os.environ.get(SERVICE_TOKEN_VARIABLE)
        self.timeout = timeout

    def search(self, query: str, **options: Any) -> dict[str, Any]:
        """The answer to a sentence; the options are those of /v1/search in /openapi.json."""
        return json.loads(self._ask("/v1/search", {"query": query, **options}))

    def search_batch(self, queries: list[str], **options: Any) -> list[dict[str, Any]]:
        """The answers to several sentences; one that cannot be answered has its `error`."""
        return json.loads(self._ask("/v1/search/batch", {"queries": queries, **options}))

    def search_image(self, image: str | os.PathLike, **options: Any) -> dict[str, Any]:
        """The answer to an image file."""
        data = base64.b64encode(Path(image).read_bytes()).decode()
        return json.loads(self._ask("/v1/search/image", {"image": f"data:image/any;base64,{data}", **options}))

    def image(self, row_id: str) -> bytes:
        """The image of a hit, as JPEG."""
        return self._ask(f"/v1/images/{row_id}")

    def facts(self, row_id: str) -> dict[str, Any]:
        """What the gallery knows of a hit."""
        return json.loads(self._ask(f"/v1/images/{row_id}/facts"))

    def explain(self, query: str, row_id: str) -> bytes:
        """What each word says about an image, as PNG."""
        return self._ask("/v1/explain", {"query": query, "id": row_id})

    def health(self) -> dict[str, Any]:
        """What the server searches."""
        return json.loads(self._ask("/health"))

    def _ask(self, route: str, content: dict[str, Any] | None = None) -> bytes:
        headers = {"accept": "application/json"} | ({"authorization": f"Bearer {self.token}"} if self.token else {})
        data = None
        if content is not None:
            data, headers["content-type"] = json.dumps(content).encode(), "application/json"
        try:
            request = urllib.request.Request(self.url + route, data, headers)
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                return response.read()
        except urllib.error.HTTPError as error:
            retry = error.headers.get("retry-after", "")
            raise ServerError(_detail(error), int(retry) if retry.isdecimal() else None) from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise ServerError(f"the server {self.url} cannot be reached: {reason}") from error


def _detail(error: urllib.error.HTTPError) -> str:
    try:
        detail = json.loads(error.read())["detail"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"the server answered {error.code} {error.reason}"
    if isinstance(detail, list):  # of pydantic: what is wrong with each field
        return "; ".join(f"{each['loc'][-1]}: {each['msg']}" for each in detail)
    return str(detail)


__all__ = ["Client", "ServerError"]
