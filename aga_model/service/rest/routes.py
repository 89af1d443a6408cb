"""The application: its routes, and what of them the guard lets through."""

import io
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from PIL import Image

from aga_model.files import UnreadableImageError
from aga_model.gallery import Filter, Gallery, GalleryRow, Hit, shown_image
from aga_model.search import Answer
from aga_model.version import __version__

from ..guard import App, Refusal, Rules
from ..searching import GallerySearch, GoneError, SearchError, Wanted
from .batching import Batches
from .metrics import Metrics
from .models import AnswerModel, BatchQuery, ExplainQuery, Health, ImageQuery, SentenceQuery

MAX_SIDE = 1024  # pixels of an image that is shown
_IMAGE_ROUTE = re.compile(r"/v1/images/[0-9a-f]{32}(/facts)?")
_IMAGE_QUERY = re.compile(r"|height=[1-9][0-9]{0,3}")
_ROUTES = {
    ("GET", "/health"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("POST", "/v1/search"),
    ("POST", "/v1/search/batch"),
    ("POST", "/v1/search/image"),
    ("POST", "/v1/explain"),
}
_ERRORS: dict[int | str, dict[str, str]] = {
    400: {"description": "What was asked for cannot be answered; `detail` says why."},
    503: {"description": "Too many requests wait; `Retry-After` says for how many seconds."},
}


class ServiceRules(Rules):
    """The routes of the service, and no other."""

    name = "service"
    how_to_give_token = "send it with each request, as Authorization: Bearer TOKEN"

    def check_route(self, method: str, path: str, query: str) -> str:
        """The query string; Refusal for a route that is not there."""
        if _IMAGE_ROUTE.fullmatch(path) and method in ("GET", "HEAD") and _IMAGE_QUERY.fullmatch(query):
            return query
        if ("GET" if method == "HEAD" else method, path) not in _ROUTES:
            raise Refusal(404, "There is no such route: see /openapi.json")
        return ""

    def may_be_large(self, beginning: bytes) -> bool:
        """Only a search for an image is."""
        return b'"image"' in beginning


class Service:
    """
    A gallery behind HTTP.

    Args:
        search: of the gallery; all of its work is done in one thread.
        notes: that go with every answer.
        most_together: sentences that are answered together; 1 answers each alone.
    """

    def __init__(self, search: GallerySearch, notes: tuple[str, ...] = (), most_together: int | None = None):
        self.search = search
        self.notes = notes
        self.metrics = Metrics(lambda: self.search.held.images)
        limits = {} if most_together is None else {"most_together": most_together}
        self.batches: Batches[tuple[str, Wanted], Answer | SearchError] = Batches(
            search.by_sentences, on_batch=self.metrics.batch, **limits
        )

    def app(self, on_start: Callable[["Service"], None] = lambda service: None) -> App:
        """The ASGI application; `on_start` is called in its event loop before the first request."""

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            on_start(self)
            yield
            self.batches.close()

        app = FastAPI(
            title="Text-based person search",
            version=__version__,
            docs_url=None,
            redoc_url=None,
            lifespan=lifespan,
        )
        app.add_exception_handler(SearchError, _refused)
        app.add_exception_handler(Refusal, _refused)
        app.get("/health")(self.health)
        app.get("/metrics", response_class=Response)(self.figures)
        app.post("/v1/search", responses=_ERRORS)(self.search_sentence)
        app.post("/v1/search/batch", responses=_ERRORS)(self.search_batch)
        app.post("/v1/search/image", responses=_ERRORS)(self.search_image)
        app.post("/v1/explain", response_class=Response, responses=_ERRORS)(self.explain)
        app.get("/v1/images/{row_id}", response_class=Response, responses=_ERRORS)(self.image)
        app.get("/v1/images/{row_id}/facts", responses=_ERRORS)(self.facts)
        return self.metrics.measured(app)

    async def health(self) -> Health:
        """That the service answers, and what it searches."""
        gallery = self.search.gallery
        images = await self._images()
        return Health(gallery=str(gallery), images=images, model=gallery.model_name, version=__version__)

    async def figures(self) -> Response:
        """Figures for Prometheus."""
        await self._images()
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def search_sentence(self, query: SentenceQuery) -> AnswerModel:
        """The images that a sentence describes."""
        return AnswerModel.of(_raised(await self.batches.ask((query.query, query.wanted()))), self.notes)

    async def search_batch(self, query: BatchQuery) -> list[AnswerModel]:
        """The images that each of several sentences describes."""
        asked = [(sentence, query.wanted()) for sentence in query.queries]
        answers = await self.batches.run(self.search.by_sentences, asked)
        return [
            AnswerModel(query=sentence, hits=[], notes=[], error=str(answer))
            if isinstance(answer, SearchError)
            else AnswerModel.of(answer, self.notes)
            for (sentence, _), answer in zip(asked, answers)
        ]

    async def search_image(self, query: ImageQuery) -> AnswerModel:
        """The images that are like an image."""

        def work() -> Answer:
            return self.search.by_image(self.search.read_upload(query.image), query.wanted())

        return AnswerModel.of(await self.batches.run(work), self.notes)

    async def explain(self, query: ExplainQuery) -> Response:
        """A picture (PNG) of what each word of a sentence says about an image."""

        def work() -> bytes:
            hit = Hit(1, 0.0, self._row(query.id))
            return _encoded(self.search.explain(hit, query.query), "PNG")

        return Response(await self.batches.run(work), media_type="image/png")

    async def image(self, row_id: str, height: int = 384) -> Response:
        """The image of a hit (JPEG), with faces hidden where the gallery says so."""

        def work() -> bytes:
            hides = self.search.hide_faces or self.search.gallery.settings.hide_faces
            try:
                image = shown_image(Hit(1, 0.0, self._row(row_id), hide_faces=hides))
            except UnreadableImageError as error:
                raise GoneError(f"the image cannot be read: {error.reason}") from error
            side = min(height, MAX_SIDE)
            image.thumbnail((side, side), Image.Resampling.LANCZOS)
            return _encoded(image, "JPEG")

        return Response(await self.batches.run(work), media_type="image/jpeg", headers={"cache-control": "no-store"})

    async def facts(self, row_id: str) -> dict:
        """What the gallery knows of an image."""
        return (await self.batches.run(self._row, row_id)).to_dict()

    def reload(self) -> None:
        """Open the gallery anew, behind what is under way; one of another model is refused, and the old stays."""
        self.search.reopen(Gallery.open(self.search.gallery.location))

    async def _images(self) -> int:
        """How many the gallery holds, looked through again if nobody has to wait for that."""
        if self.batches.is_idle:
            await self.batches.in_thread(self.search.refreshed)
        return self.search.held.images

    def _row(self, row_id: str) -> GalleryRow:
        row = next(iter(self.search.gallery.rows(Filter(ids=[row_id]))), None)
        if row is None:
            raise GoneError("this image is not, or no longer, in the gallery: search again")
        return row


def _raised(answer: Answer | SearchError) -> Answer:
    if isinstance(answer, SearchError):
        raise answer
    return answer


def _encoded(image: Image.Image, form: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form)
    return stream.getvalue()


async def _refused(request: Request, error: Exception) -> JSONResponse:
    """What can be mended by whoever asks, as JSON."""
    if isinstance(error, Refusal):
        headers = {} if error.retry_seconds is None else {"retry-after": str(error.retry_seconds)}
        return JSONResponse({"detail": error.reason}, error.status, headers)
    return JSONResponse({"detail": str(error)}, 404 if isinstance(error, GoneError) else 400)


__all__ = ["Service", "ServiceRules"]
