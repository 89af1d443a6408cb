"""What the page of the demo asks of a gallery and its model. Nothing here opens a path that a request names."""

import base64
import binascii
import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

from PIL import Image

from aga_model.data.image_files import UnreadableImageError, decode_image

from ..access import settings_of
from ..encoder import ModelLoadError, PersonEncoder
from ..explanation import Explainer
from ..explanation_picture import explanation_image
from ..faces import face_hider
from ..gallery import Gallery, Hit
from ..hit_images import read_hit, shown_image
from ..recording import MAX_PURPOSE, Recorder
from ..reranking import Reranker
from ..results import COLLAPSES, Answer, with_faces_hidden
from ..searching import Ranking, answer_image, answer_sentence
from ..store import Filter, GalleryError
from ..times import read_time

MAX_RESULTS = 60
MAX_PIXELS = 40_000_000  # of an uploaded image: 120 MB decoded
MAX_CAMERAS = 1000  # more than anybody picks from a list
_UPLOAD_HASH = "file's SHA-256"
_KEPT_SIDE = 1024  # pixels; models read far less
_IN_TERMINAL = "whoever started the demo finds the reason in its terminal"

_logger = logging.getLogger(__name__)


class DemoError(ValueError):
    """Something that cannot be answered. The message is for the person at the page and names no folder."""


@dataclass(frozen=True)
class Held:
    """
    What a gallery can be filtered by.

    Args:
        images (`int`): number of images.
        cameras (`tuple[str, ...]`): names in order.
        times (`bool`): whether any image has a time.
        one_per (`tuple[str, ...]`): of `COLLAPSES`, those of which any image has the field.
    """

    images: int
    cameras: tuple[str, ...] = ()
    times: bool = False
    one_per: tuple[str, ...] = ()

    @classmethod
    def of(cls, gallery: Gallery) -> "Held":
        """Look through all rows of a gallery."""
        images, times = 0, False
        cameras: set[str] = set()
        known: set[str] = set()
        for row in gallery.rows():
            images += 1
            times = times or row.time is not None
            if row.camera is not None and len(cameras) < MAX_CAMERAS:
                cameras.add(row.camera)
            known |= {name for name in COLLAPSES.keys() - known if COLLAPSES[name](row) is not None}
        return cls(images, tuple(sorted(cameras)), times, tuple(name for name in COLLAPSES if name in known))


@dataclass(frozen=True)
class Wanted:
    """
    What the person chose beside the query, as it comes from the page: unchecked.

    Args:
        top_k: number of results.
        cameras: names of cameras; empty for all.
        since, until: dates or times as text; empty for any.
        one_per: a name of `COLLAPSES`; empty to list every image.
        purpose: why, for the audit log; empty for the demo's own.
    """

    top_k: int = 10
    cameras: list[str] = field(default_factory=list)
    since: str = ""
    until: str = ""
    one_per: str = ""
    purpose: str = ""


class DemoSearch:
    """
    Searches one gallery for the page.

    ```python
    >>> search = DemoSearch(Gallery.open("gallery"), PersonEncoder.from_pretrained("runs/my_model"))
    >>> answer = search.by_sentence("a woman in a red coat", Wanted(top_k=5))
    >>> picture = search.explain(answer.hits[0], answer.query)
    ```

    Not for several threads at a time: the page asks for one thing after the other.

    Args:
        gallery: made with the model of `encoder`.
        encoder: a dual encoder.
        rerank: how many of the first images of a sentence are re-ranked.
        max_upload_bytes: of an uploaded image file.
        recorder: writes each search into the audit log; without one, that of the gallery's settings.
        purpose: of searches for which the person gives none.
        hide_faces: whether faces are hidden, also where the gallery's settings do not say so.

    Raises:
        AuditError: the audit log cannot be written.
        ModuleNotFoundError, OSError: faces are to be hidden and cannot, see [`FaceHider`].
        GalleryError: the gallery cannot be read.
        ModelLoadError: the model cannot re-rank, and `rerank` is given.
    """

    def __init__(
        self,
        gallery: Gallery,
        encoder: PersonEncoder,
        rerank: int | None = None,
        max_upload_bytes: int = 10 * 2**20,
        recorder: Recorder | None = None,
        purpose: str = "",
        hide_faces: bool = False,
    ):
        self.gallery = gallery
        self.encoder = encoder
        self.rerank = rerank
        self.max_upload_bytes = max_upload_bytes
        self.recorder = recorder or Recorder.of(gallery, None)
        self.purpose = purpose
        self.hide_faces = hide_faces
        if self._hides_faces:
            face_hider()  # nobody is let in to what cannot be shown
        self.held = Held.of(gallery)
        self._reranker = None if rerank is None else Reranker.from_encoder(encoder)

    @cached_property
    def explainer(self) -> Explainer | None:
        """None for a model that cannot be explained."""
        try:
            return Explainer.from_encoder(self.encoder)
        except ModelLoadError as error:
            _logger.warning("results are not explained: %s", error)
            return None

    def by_sentence(self, sentence: str, wanted: Wanted) -> Answer:
        """The images that a sentence describes; DemoError if it cannot be answered."""
        ranking, recorder = _ranking(wanted, self.rerank), self._recorder(wanted)
        with _told_to_the_person():
            answer = answer_sentence(self.gallery, self.encoder, sentence, ranking, self._reranker)
            recorder.searched_for_sentence(sentence, ranking.where, len(answer.hits))
        return self._shown(answer)

    def by_image(self, image: Image.Image, wanted: Wanted) -> Answer:
        """The images that are like an image of [`DemoSearch.read_upload`]; DemoError if it cannot be answered."""
        ranking, recorder = _ranking(wanted, None), self._recorder(wanted)
        with _told_to_the_person():
            answer = answer_image(self.gallery, self.encoder, image, "the image", ranking)
            recorder.searched_for_image(image.info.get(_UPLOAD_HASH, ""), ranking.where, len(answer.hits))
        return self._shown(answer)

    @property
    def asks_purpose(self) -> bool:
        """Whether the person is asked why they search."""
        return self.recorder.log is not None or self.recorder.purpose_required

    def _recorder(self, wanted: Wanted) -> Recorder:
        """The recorder for the purpose that the person gives; DemoError if there is none where there must be."""
        try:
            return self.recorder.for_purpose(wanted.purpose.strip() or self.purpose)
        except ValueError as error:
            raise DemoError(f"say for what purpose you search, in {MAX_PURPOSE} characters at most") from error

    def shown_upload(self, image: Image.Image) -> Image.Image:
        """An image of [`DemoSearch.read_upload`] as the page shows it."""
        return face_hider().hide(image) if self._hides_faces else image

    @property
    def _hides_faces(self) -> bool:
        return self.hide_faces or settings_of(self.gallery).hide_faces

    def _shown(self, answer: Answer) -> Answer:
        return with_faces_hidden(answer) if self.hide_faces else answer

    def explain(self, hit: Hit, sentence: str) -> Image.Image:
        """What each word says about a result, as an RGB picture; DemoError if it cannot be drawn."""
        if self.explainer is None:
            raise DemoError("the model of this gallery cannot be explained")
        with _told_to_the_person():
            image = read_hit(hit)
            return explanation_image(self.explainer.explain(image, sentence), shown_image(hit, image))

    def read_upload(self, data_url: object) -> Image.Image:
        """
        The RGB image that a browser sent as `data:image/...;base64,...`, at most 1024 pixels wide and high.

        Raises:
            DemoError: it is something else, too large as a file or decoded, or no image that can be read.
        """
        if not isinstance(data_url, str):
            raise DemoError("choose an image file")
        kind, _, encoded = data_url.partition(",")
        if not (kind.startswith("data:image/") and kind.endswith(";base64")):
            raise DemoError("this is no image file: choose a JPEG, PNG or WebP")
        try:
            data = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError) as error:
            raise DemoError("the image did not arrive whole: choose it again") from error
        if len(data) > self.max_upload_bytes:
            raise DemoError(f"the file is larger than {self.max_upload_bytes / 2**20:g} MiB: choose a smaller one")
        try:
            image = decode_image(data, "the image", max_pixels=MAX_PIXELS)
        except UnreadableImageError as error:
            raise DemoError(f"the image cannot be read: {error.reason}") from error
        image.thumbnail((_KEPT_SIDE, _KEPT_SIDE), Image.Resampling.LANCZOS)
        image.info[_UPLOAD_HASH] = hashlib.sha256(
            data
        ).hexdigest()  # the page keeps the image until it is searched with
        return image


def _ranking(wanted: Wanted, rerank: int | None) -> Ranking:
    """The ranking of checked choices; DemoError for a wrong one."""
    if not 1 <= wanted.top_k <= MAX_RESULTS:
        raise DemoError(f"choose between 1 and {MAX_RESULTS} results")
    if wanted.one_per and wanted.one_per not in COLLAPSES:
        raise DemoError(f"list every image, or one per {' or '.join(COLLAPSES)}")
    try:
        since = read_time(wanted.since.strip(), "from") if wanted.since.strip() else None
        until = read_time(wanted.until.strip(), "until", end_of_day=True) if wanted.until.strip() else None
        where = Filter(wanted.cameras or None, since, until)
    except (ValueError, OverflowError, OSError) as error:  # the calendar ends before what ISO 8601 can write
        raise DemoError(str(error)) from error
    return Ranking(wanted.top_k, rerank, where, wanted.one_per or None)


@contextmanager
def _told_to_the_person() -> Iterator[None]:
    """
    Errors of the search become DemoErrors. What the person can mend is told in full, what only the keeper of the
    gallery can mend goes to the terminal, since it names folders.
    """
    try:
        yield
    except UnreadableImageError as error:
        raise DemoError(f"the image of this result cannot be read: {error.reason}") from error
    except (GalleryError, OSError, ImportError, RuntimeError) as error:  # torch runs out of memory with RuntimeError
        _logger.warning("%s", error)
        what = "the gallery cannot be read" if isinstance(error, GalleryError) else "this could not be computed"
        raise DemoError(f"{what}: {_IN_TERMINAL}") from error
    except ValueError as error:  # about the query
        raise DemoError(str(error)) from error


__all__ = ["MAX_PIXELS", "MAX_RESULTS", "DemoError", "DemoSearch", "Held", "Wanted"]
