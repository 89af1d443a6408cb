"""What the page of the demo asks of a gallery and its model. Nothing here opens a path that a request names."""

import base64
import binascii
import hashlib
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from time import monotonic

from PIL import Image

from aga_model.errors import ModelLoadError
from aga_model.files import UnreadableImageError, decode_image, face_hider
from aga_model.gallery import (
    MAX_PURPOSE,
    Filter,
    Gallery,
    GalleryError,
    Hit,
    Recorder,
    read_hit,
    read_time,
    shown_image,
)
from aga_model.handler import MAX_CHARACTERS
from aga_model.search import (
    COLLAPSES,
    Answer,
    Explainer,
    PersonEncoder,
    Reranker,
    SearchOptions,
    answer_image,
    answer_sentence,
    answer_sentences,
    explanation_image,
    with_faces_hidden,
)

from .logs import without_inputs

MAX_RESULTS = 60
MAX_PIXELS = 40_000_000  # of an uploaded image: 120 MB decoded
MAX_CAMERAS = 1000  # more than anybody picks from a list
MAX_SENTENCE = MAX_CHARACTERS  # of a sentence, as in the handler for endpoints; models read far less
MAX_TIME = 40  # characters of a date or time
MAX_NAME = 1000  # characters of a camera's name
_UPLOAD_HASH = "file's SHA-256"
_KEPT_SIDE = 1024  # pixels; models read far less
_RESCAN_SECONDS = 5.0  # between looks at what the gallery holds
_RESCAN_SHARE = 50  # of the time that the last look took, if that is longer: looking must not be all that is done
_IN_TERMINAL = "whoever started the demo finds the reason in its terminal"

_logger = logging.getLogger(__name__)


class SearchError(ValueError):
    """Something that cannot be answered. The message is for the person at the page and names no folder."""


class GoneError(SearchError):
    """A result that was removed from the gallery since it was found."""


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
        persons: ids of persons; empty for all.
    """

    top_k: int = 10
    cameras: list[str] = field(default_factory=list)
    since: str = ""
    until: str = ""
    one_per: str = ""
    purpose: str = ""
    persons: list[str] = field(default_factory=list)

    def texts(self) -> list[str]:
        """What the person wrote or picked."""
        return [*self.cameras, *self.persons, self.since, self.until, self.purpose]


class GallerySearch:
    """
    Searches one gallery for the page.

    ```python
    >>> search = GallerySearch(Gallery.open("gallery"), PersonEncoder.from_pretrained("runs/my_model"))
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
        self._held, self._looked_until = Held(0), -math.inf
        self._look()
        self._reranker = None if rerank is None else Reranker.from_encoder(encoder)

    @property
    def held(self) -> Held:
        """What the gallery held when it was looked through last."""
        return self._held

    def refreshed(self) -> Held:
        """What the gallery holds, looked through again where that is some seconds ago; SearchError if it cannot be."""
        if monotonic() >= self._looked_until:
            with _told_to_the_person():
                self._look()
        return self._held

    def reopen(self, gallery: Gallery) -> None:
        """
        Search the gallery as it is now, where it was made anew.

        Raises:
            GalleryError: it is another model's, or cannot be read; the old one goes on to be searched.
        """
        gallery.require_model(self.encoder.model_hash, self.encoder.name)
        held = Held.of(gallery)
        self.gallery, self._held = gallery, held

    def _look(self) -> None:
        began = monotonic()
        self._held = Held.of(self.gallery)
        taken = monotonic() - began
        self._looked_until = began + taken + max(_RESCAN_SECONDS, _RESCAN_SHARE * taken)

    def warm_up(self) -> None:
        """Search and explain once, so that the first person does not wait for what is made at the first use."""
        with suppress(SearchError), _told_to_the_person():
            ranking = _ranking(Wanted(top_k=1), self.rerank)
            found = answer_sentence(self.gallery, self.encoder, "a person", ranking, self._reranker)
            if found.hits and self.explainer is not None:
                self.explain(found.hits[0], found.query)

    @cached_property
    def explainer(self) -> Explainer | None:
        """None for a model that cannot be explained."""
        try:
            return Explainer.from_encoder(self.encoder)
        except ModelLoadError as error:
            _logger.warning("results are not explained: %s", error)
            return None

    def by_sentence(self, sentence: str, wanted: Wanted) -> Answer:
        """The images that a sentence describes; SearchError if it cannot be answered."""
        (answer,) = self.by_sentences([(sentence, wanted)])
        if isinstance(answer, SearchError):
            raise answer
        return answer

    def by_sentences(self, asked: Sequence[tuple[str, Wanted]]) -> "list[Answer | SearchError]":
        """
        The images that each of several people's sentences describes, found together; in the place of what cannot be
        answered, the error that says why.
        """
        found: list[Answer | SearchError] = [SearchError()] * len(asked)
        checked: dict[int, tuple[SearchOptions, Recorder]] = {}
        for number, (sentence, wanted) in enumerate(asked):
            try:
                checked[number] = self._checked(sentence, wanted)
            except SearchError as error:
                found[number] = error
        try:
            with _told_to_the_person(*(text for number in checked for text in _inputs(*asked[number]))):
                questions = [(asked[number][0], options) for number, (options, _) in checked.items()]
                answers = answer_sentences(self.gallery, self.encoder, questions, self._reranker)
        except SearchError as error:
            answers = [error] * len(checked)
        for (number, (options, recorder)), answer in zip(checked.items(), answers):
            found[number] = self._recorded(asked[number], options, recorder, answer)
        return found

    def _checked(self, sentence: str, wanted: Wanted) -> tuple[SearchOptions, Recorder]:
        if len(sentence) > MAX_SENTENCE:
            raise SearchError(f"the sentence has {len(sentence):,} characters: shorten it to at most {MAX_SENTENCE:,}")
        options = self._ranking(wanted, self.rerank)
        with _told_to_the_person(*_inputs(sentence, wanted)):
            return options, self._recorder(wanted)

    def _recorded(
        self, asked: tuple[str, Wanted], options: SearchOptions, recorder: Recorder, answer: Answer | ValueError
    ) -> "Answer | SearchError":
        """An answer that is in the audit log and may be shown; of one that is not to be shown, the error."""
        try:
            with _told_to_the_person(*_inputs(*asked)):
                if isinstance(answer, ValueError):
                    raise answer
                recorder.searched_for_sentence(asked[0], options.where, len(answer.hits))
        except SearchError as error:
            return error
        return self._shown(answer)

    def by_image(self, image: Image.Image, wanted: Wanted) -> Answer:
        """The images that are like an image of [`GallerySearch.read_upload`]; SearchError if it cannot be answered."""
        ranking = self._ranking(wanted, None)
        with _told_to_the_person(*wanted.texts()):
            recorder = self._recorder(wanted)
            answer = answer_image(self.gallery, self.encoder, image, "the image", ranking)
            recorder.searched_for_image(image.info.get(_UPLOAD_HASH, ""), ranking.where, len(answer.hits))
        return self._shown(answer)

    @property
    def asks_purpose(self) -> bool:
        """Whether the person is asked why they search."""
        return self.recorder.log is not None or self.recorder.purpose_required

    def _recorder(self, wanted: Wanted) -> Recorder:
        """
        The recorder, by the gallery's settings as they stand now, for the purpose that the person gives; SearchError
        if there is none where there must be.
        """
        recorder = self.recorder.following(self.gallery.settings)
        try:
            return recorder.for_purpose(wanted.purpose.strip() or self.purpose)
        except ValueError as error:
            raise SearchError(f"say for what purpose you search, in {MAX_PURPOSE} characters at most") from error

    def shown_upload(self, image: Image.Image) -> Image.Image:
        """An image of [`GallerySearch.read_upload`] as the page shows it."""
        return face_hider().hide(image) if self._hides_faces else image

    @property
    def _hides_faces(self) -> bool:
        return self.hide_faces or self.gallery.settings.hide_faces

    def _shown(self, answer: Answer) -> Answer:
        return with_faces_hidden(answer) if self.hide_faces else answer

    def explain(self, hit: Hit, sentence: str) -> Image.Image:
        """
        What each word says about a result, as an RGB picture.

        Raises:
            GoneError: the image was removed from the gallery since it was found.
            SearchError: the picture cannot be drawn.
        """
        self.require_held(hit)
        if self.explainer is None:
            raise SearchError("the model of this gallery cannot be explained")
        with _told_to_the_person(sentence):
            image = read_hit(hit)
            # By the settings as they stand now, which may have changed since the image was found.
            shown = replace(hit, hide_faces=hit.hide_faces or self._hides_faces)
            return explanation_image(self.explainer.explain_with_notes(image, sentence)[0], shown_image(shown, image))

    def _ranking(self, wanted: Wanted, rerank: int | None) -> SearchOptions:
        chosen = set(wanted.cameras)
        if chosen - set(self.held.cameras) and chosen - set(self.refreshed().cameras):
            raise SearchError("the gallery holds no image of one of these cameras: reload the page")
        return _ranking(wanted, rerank)

    def require_held(self, hit: Hit) -> None:
        """GoneError unless the gallery still holds a result; SearchError if it cannot be read."""
        with _told_to_the_person():
            if not self.gallery.holds(hit.row):
                raise GoneError("this image is no longer in the gallery: search again")

    def read_upload(self, data_url: object) -> Image.Image:
        """
        The RGB image that a browser sent as `data:image/...;base64,...`, at most 1024 pixels wide and high.

        Raises:
            SearchError: it is something else, too large as a file or decoded, or no image that can be read.
        """
        if not isinstance(data_url, str):
            raise SearchError("choose an image file")
        kind, _, encoded = data_url.partition(",")
        if not (kind.startswith("data:image/") and kind.endswith(";base64")):
            raise SearchError("this is no image file: choose a JPEG, PNG or WebP")
        too_large = SearchError(f"the file is larger than {self.max_upload_bytes / 2**20:g} MiB: choose a smaller one")
        if len(encoded) // 4 * 3 - 2 > self.max_upload_bytes:  # in base64, of which up to two bytes are padding
            raise too_large
        try:
            data = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError) as error:
            raise SearchError("the image did not arrive whole: choose it again") from error
        if len(data) > self.max_upload_bytes:
            raise too_large
        try:
            image = decode_image(data, "the image", max_pixels=MAX_PIXELS)
        except UnreadableImageError as error:
            raise SearchError(f"the image cannot be read: {error.reason}") from error
        image.thumbnail((_KEPT_SIDE, _KEPT_SIDE), Image.Resampling.LANCZOS)
        image.info[_UPLOAD_HASH] = hashlib.sha256(data).hexdigest()  # until it is searched with
        return image


def _inputs(sentence: str, wanted: Wanted) -> list[str]:
    """What somebody wrote, which no log holds."""
    return [sentence, *wanted.texts()]


def _ranking(wanted: Wanted, rerank: int | None) -> SearchOptions:
    """The ranking of checked choices; SearchError for a wrong one."""
    if not 1 <= wanted.top_k <= MAX_RESULTS:
        raise SearchError(f"choose between 1 and {MAX_RESULTS} results")
    for what, names in (("cameras", wanted.cameras), ("persons", wanted.persons)):
        if len(names) > MAX_CAMERAS or any(len(name) > MAX_NAME for name in names):
            raise SearchError(f"choose at most {MAX_CAMERAS:,} {what}, by their names")
    if max(len(wanted.since), len(wanted.until)) > MAX_TIME:
        raise SearchError(f"a date or time has at most {MAX_TIME} characters, like 2026-01-31T18:30")
    if wanted.one_per and wanted.one_per not in COLLAPSES:
        raise SearchError(f"list every image, or one per {' or '.join(COLLAPSES)}")
    try:
        since = read_time(wanted.since.strip(), "from") if wanted.since.strip() else None
        until = read_time(wanted.until.strip(), "until", end_of_day=True) if wanted.until.strip() else None
        where = Filter(wanted.cameras or None, since, until, wanted.persons or None)
    except (ValueError, OverflowError, OSError) as error:  # the calendar ends before what ISO 8601 can write
        raise SearchError(str(error)) from error
    return SearchOptions(wanted.top_k, rerank, where, wanted.one_per or None)


@contextmanager
def _told_to_the_person(*inputs: str) -> Iterator[None]:
    """
    Errors of the search become DemoErrors. What the person can mend is told in full, what only the keeper of the
    gallery can mend goes to the terminal, since it names folders; there `inputs` do not appear.
    """
    try:
        yield
    except SearchError:
        raise
    except UnreadableImageError as error:
        raise SearchError(f"the image of this result cannot be read: {error.reason}") from error
    except (GalleryError, OSError, ImportError, RuntimeError) as error:  # torch runs out of memory with RuntimeError
        _logger.warning("%s", without_inputs(error, inputs))
        what = "the gallery cannot be read" if isinstance(error, GalleryError) else "this could not be computed"
        raise SearchError(f"{what}: {_IN_TERMINAL}") from error
    except ValueError as error:  # about the query
        raise SearchError(str(error)) from error


__all__ = [
    "MAX_CAMERAS",
    "MAX_NAME",
    "MAX_PIXELS",
    "MAX_RESULTS",
    "MAX_SENTENCE",
    "MAX_TIME",
    "GallerySearch",
    "GoneError",
    "Held",
    "SearchError",
    "Wanted",
]
