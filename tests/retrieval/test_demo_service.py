"""What the page may ask for, by value, with a gallery that a test changes while the demo runs."""

import base64
import hashlib
import io
import json
from datetime import datetime
from types import SimpleNamespace

import pytest
from PIL import Image

from aga_model.gallery import GalleryError, GalleryRow, GallerySettings, Hit, Recorder
from aga_model.search import Answer, SearchOptions
from aga_model.service import GallerySearch
from aga_model.service import searching as service
from aga_model.service.searching import GoneError, Held, SearchError, Wanted, _ranking

SENTENCE = "a man in a red coat"
PRIVATE = "/home/anna/gallery"


class Shelf:
    """A gallery of rows in memory."""

    def __init__(self, *rows):
        self.shelved, self.settings, self.folder, self.looks = list(rows), GallerySettings(), None, 0

    def rows(self):
        self.looks += 1
        return iter(self.shelved)

    def holds(self, row):
        return row in self.shelved

    def __str__(self):
        return "shelf"


ROWS = [
    GalleryRow("a.jpg", camera="yard", time=5.0),
    GalleryRow("b.jpg", camera="door", person_id="1"),
    GalleryRow("c.jpg", camera="yard"),
]


@pytest.fixture
def now(monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(service, "monotonic", lambda: clock[0])
    return clock


@pytest.fixture
def found(monkeypatch):
    """What searches find, or the error with which they end."""
    outcome = {"hits": [Hit(1, 0.5, ROWS[0])]}

    def answer(*given):
        outcome["rankings"] = [*outcome.get("rankings", ()), *(one for one in given if isinstance(one, SearchOptions))]
        if "error" in outcome:
            raise outcome["error"]
        return Answer(SENTENCE, outcome["hits"])

    def answer_all(gallery, encoder, asked, reranker):
        return [answer(gallery, encoder, *each, reranker) for each in asked]

    monkeypatch.setattr(service, "answer_sentences", answer_all)
    monkeypatch.setattr(service, "answer_image", answer)
    return outcome


@pytest.mark.parametrize(
    ("rows", "held"),
    [
        (ROWS, Held(3, ("door", "yard"), True, ("person",))),
        (ROWS[::-1], Held(3, ("door", "yard"), True, ("person",))),
        (ROWS[2:], Held(1, ("yard",), False, ())),
        ([GalleryRow("v.mp4", track="1"), *ROWS[1:2]], Held(2, ("door",), False, ("person", "track"))),
        ([], Held(0)),
    ],
)
def test_what_a_gallery_can_be_filtered_by(rows, held):
    assert Held.of(Shelf(*rows)) == held


def test_what_was_added_is_offered_some_seconds_later(now):
    shelf = Shelf(*ROWS)
    search = GallerySearch(shelf, None)
    shelf.shelved.append(GalleryRow("d.jpg", camera="hall"))
    for later, images in ((0.0, 3), (4.9, 3), (0.2, 4), (0.0, 4)):
        now[0] += later
        assert search.refreshed().images == search.held.images == images
    shelf.shelved.clear()
    now[0] += 5.1
    assert search.refreshed() == Held(0)


def test_a_camera_that_another_page_shows_may_be_chosen(now):
    """Before this process has looked again by itself."""
    shelf = Shelf(*ROWS)
    search = GallerySearch(shelf, None)
    shelf.shelved.append(GalleryRow("d.jpg", camera="hall"))
    now[0] += 6.0
    assert search._ranking(Wanted(cameras=["hall", "door"]), None).where.cameras == ("hall", "door")
    with pytest.raises(SearchError, match="reload the page"):
        search._ranking(Wanted(cameras=["nowhere", "door"]), None)


def test_choices_become_a_ranking():
    ranking = _ranking(Wanted(7, ["door"], " 2026-01-30 ", "2026-01-31", "track"), 50)
    assert (ranking.top_k, ranking.rerank, ranking.one_per) == (7, 50, "track")
    day, end = datetime(2026, 1, 30).timestamp(), datetime(2026, 2, 1).timestamp()  # the whole last day
    assert (ranking.where.since, ranking.where.until) == (day, end)
    noon = _ranking(Wanted(until="2026-01-31T12:00"), None).where
    assert (noon.since, noon.until) == (None, datetime(2026, 1, 31, 12).timestamp())
    assert noon.cameras is None
    for number, fits in ((0, False), (1, True), (60, True), (61, False)):
        if fits:
            assert _ranking(Wanted(number), None).top_k == number
        else:
            with pytest.raises(SearchError, match="between 1 and 60"):
                _ranking(Wanted(number), None)


def test_only_sentences_are_re_ranked(found, monkeypatch):
    monkeypatch.setattr(service.Reranker, "from_encoder", lambda encoder: "the re-ranker")
    search = GallerySearch(Shelf(*ROWS), None, rerank=20)
    search.by_sentence(SENTENCE, Wanted(5))
    search.by_image(Image.new("RGB", (8, 8)), Wanted(6))
    assert [(one.top_k, one.rerank) for one in found["rankings"]] == [(5, 20), (6, None)]


@pytest.mark.parametrize(("size", "fits"), [((20, 40), True), ((20, 41), False)])
def test_uploads_have_a_bound_of_pixels_and_are_made_small(monkeypatch, size, fits):
    monkeypatch.setattr(service, "MAX_PIXELS", 800)
    monkeypatch.setattr(service, "_KEPT_SIDE", 30)
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    search = GallerySearch(Shelf(*ROWS), None)
    if fits:
        image = search.read_upload(url)
        assert image.size == (15, 30) and hashlib.sha256(buffer.getvalue()).hexdigest() in image.info.values()
    else:
        with pytest.raises(SearchError, match="20x41"):
            search.read_upload(url)


# --- the audit log ---


@pytest.mark.parametrize(("log", "required", "asks"), [(0, 0, False), (1, 0, True), (0, 1, True), (1, 1, True)])
def test_a_purpose_is_asked_for_where_it_is_kept_or_required(log, required, asks):
    recorder = Recorder(object() if log else None, "shelf", "me", purpose_required=bool(required))
    assert GallerySearch(Shelf(*ROWS), None, recorder=recorder).asks_purpose is asks


def test_a_log_that_is_asked_for_while_the_demo_runs_is_written(found, tmp_path):
    shelf, log = Shelf(*ROWS), tmp_path / "audit.jsonl"
    search = GallerySearch(shelf, None, recorder=Recorder(None, "shelf", "front desk"), purpose="lost children")
    shelf.settings = GallerySettings(audit=str(log))
    search.by_sentence(SENTENCE, Wanted())
    search.by_sentence("another", Wanted(purpose=" case 8 "))
    search.by_image(Image.new("RGB", (8, 8)), Wanted(cameras=["door"]))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["query"].get("sentence"), line["purpose"], line["results"]) for line in lines] == [
        (SENTENCE, "lost children", 1), ("another", "case 8", 1), (None, "lost children", 1),
    ]  # fmt: skip
    assert {line["actor"] for line in lines} == {"front desk"} and lines[2]["filters"] == {"cameras": ["door"]}
    shelf.settings = GallerySettings(audit=str(log), purpose_required=True)
    with pytest.raises(SearchError, match="for what purpose"):
        GallerySearch(shelf, None).by_sentence(SENTENCE, Wanted())


# --- what is shown ---


@pytest.mark.parametrize("settings", [{"hide_faces": True}, {}])
def test_an_explanation_hides_faces_by_the_settings_of_now(monkeypatch, settings):
    """A hit that was found before faces were to be hidden; the model sees the image as it is."""
    shelf = Shelf(*ROWS)
    search, image = GallerySearch(shelf, None), Image.new("RGB", (8, 8))
    monkeypatch.setattr(service, "read_hit", lambda hit: image)
    monkeypatch.setattr(service, "shown_image", lambda hit, given: ("shown", hit.hide_faces, given))
    monkeypatch.setattr(service, "explanation_image", lambda explained, shown: (explained, shown))
    search.explainer = SimpleNamespace(explain_with_notes=lambda given, sentence: ((given, sentence), []))
    shelf.settings = GallerySettings(**settings)
    drawn = search.explain(Hit(1, 0.5, ROWS[0]), SENTENCE)
    assert drawn == ((image, SENTENCE), ("shown", bool(settings), image))


def test_an_erased_image_is_read_no_more(monkeypatch):
    monkeypatch.setattr(service, "read_hit", None)
    search = GallerySearch(Shelf(*ROWS[1:]), None)
    search.explainer = object()
    with pytest.raises(GoneError, match="no longer in the gallery"):
        search.explain(Hit(1, 0.5, ROWS[0]), SENTENCE)


@pytest.mark.parametrize("by_setting", [True, False])
def test_nobody_is_let_in_where_faces_cannot_be_hidden(monkeypatch, by_setting):
    def missing():
        raise ModuleNotFoundError("hiding faces needs OpenCV")

    monkeypatch.setattr(service, "face_hider", missing)
    shelf = Shelf(*ROWS)
    assert GallerySearch(shelf, None).held.images == 3
    shelf.settings = GallerySettings(hide_faces=by_setting)
    with pytest.raises(ModuleNotFoundError):
        GallerySearch(shelf, None, hide_faces=not by_setting)


@pytest.mark.parametrize(("hides", "by_hit"), [(True, True), (False, False)])
def test_results_hide_faces_where_the_demo_does(found, monkeypatch, hides, by_hit):
    monkeypatch.setattr(service, "face_hider", lambda: None)
    search = GallerySearch(Shelf(*ROWS), None, hide_faces=hides)
    answers = search.by_sentence(SENTENCE, Wanted()), search.by_image(Image.new("RGB", (8, 8)), Wanted())
    assert [[hit.hide_faces for hit in answer.hits] for answer in answers] == [[by_hit]] * 2


@pytest.mark.parametrize(
    ("error", "told", "logged"),
    [
        (GalleryError(f"gallery {PRIVATE} is damaged"), "the gallery cannot be read", PRIVATE),
        (OSError(f"{PRIVATE} cannot be read"), "this could not be computed", PRIVATE),
        (RuntimeError(f"out of memory at {SENTENCE}"), "this could not be computed", "RuntimeError"),
        (GalleryError(f"wrong camera: door in {PRIVATE}"), "the gallery cannot be read", "GalleryError"),
    ],
)
def test_folders_go_to_the_keeper_and_inputs_to_nobody(found, caplog, error, told, logged):
    found["error"] = error
    with pytest.raises(SearchError) as caught:
        GallerySearch(Shelf(*ROWS), None).by_sentence(SENTENCE, Wanted(cameras=["door"]))
    assert str(caught.value) == f"{told}: whoever started the demo finds the reason in its terminal"
    assert logged in caplog.text and SENTENCE not in caplog.text and "door" not in caplog.text


def test_what_the_person_can_mend_is_told_in_full(found, caplog):
    found["error"] = ValueError("the query holds no word")
    with pytest.raises(SearchError, match=r"^the query holds no word$"):
        GallerySearch(Shelf(*ROWS), None).by_sentence("...", Wanted())
    assert caplog.text == ""
