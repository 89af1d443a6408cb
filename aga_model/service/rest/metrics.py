"""Figures of the service for Prometheus: no query, no name and no address is among them."""

from time import perf_counter
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ..guard import App, Message, Receive, Scope, Send

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SIZES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """
    Counts requests by route and status, and measures them; an ASGI application in front of another one measures.

    Args:
        images: a function that gives the number of images of the gallery.
    """

    def __init__(self, images: Any):
        self.registry = CollectorRegistry()
        self._requests = Counter("aga_requests", "Requests.", ["route", "status"], registry=self.registry)
        self._seconds = Histogram(
            "aga_request_seconds", "Time to the answer.", ["route"], buckets=_SECONDS, registry=self.registry
        )
        self._batches = Histogram(
            "aga_batch_size", "Sentences that were answered together.", buckets=_SIZES, registry=self.registry
        )
        Gauge("aga_gallery_images", "Images of the gallery.", registry=self.registry).set_function(images)

    def batch(self, size: int) -> None:
        """Count a batch of sentences."""
        self._batches.observe(size)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)

    def measured(self, app: App) -> App:
        """The application, measured; what matches no route counts as `other`."""

        async def measuring(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            status = 500
            began = perf_counter()

            async def noting(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            try:
                await app(scope, receive, noting)
            finally:
                route = getattr(scope.get("route"), "path", "other")
                self._requests.labels(route, str(status)).inc()
                self._seconds.labels(route).observe(perf_counter() - began)

        return measuring


__all__ = ["Metrics"]
