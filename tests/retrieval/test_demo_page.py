"""The parts of the page by value: what a card says, what a choice becomes, what each handler gives back."""

import base64
import io
import os
import re
import time
from types import SimpleNamespace

import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the extra `demo` is not installed")

from aga_model.gallery import GalleryRow, Hit
from aga_model.search import Answer
from aga_model.service.demo import markup, page
from aga_model.service.demo.turns import Pace
from aga_model.service.searching import GoneError, Held, SearchError, Wanted

MARKER = "Zwiebelkuchen"
CHOICES = [10.0, ["door"], "2026-01-01", "2026-01-31T12:00", "one per person", "case 7"]
CHOSEN = Wanted(10, ["door"], "2026-01-01", "2026-01-31T12:00", "person", "case 7")


@pytest.fixture(autouse=True)
def no_files(monkeypatch):
    """Cards show a grey image in the place of a file."""
    monkeypatch.setattr(markup, "shown_image", lambda hit: Image.new("RGB", (4, 8), (90, 90, 90)))


def hit(rank=1, score=0.5, **row):
    return Hit(rank, score, GalleryRow(**{"source": "/home/anna/private/x.jpg", **row}))


def colour_of(box):
    data = re.search(r'src="data:image/\w+;base64,([^"]+)"', box)[1]
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB").getpixel((0, 0))


# --- cards ---


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the time zone cannot be changed here")
def test_a_card_says_what_is_known(tokyo):
    known = {"person_id": "<b>", "camera": "a&b", "time": 1_767_265_200.0, "track": "7", "offset": 12.25}
    (card,) = markup.result_cards([Hit(3, 0.51234, hit(**known).row, itm_score=1.5)]).split("<li>")[1:]
    assert re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", card) == [
        ("cosine", "0.512"), ("ITM", "1.50"), ("person", "&lt;b&gt;"), ("camera", "a&amp;b"),
        ("time", "2026-01-01 20:00"), ("track", "7"), ("file", "x.jpg"), ("at", "12.25 s"),
    ]  # fmt: skip
    assert "anna" not in card and "<b>3</b>" in card
    figure = markup.explanation_figure(hit(2, **known), Image.new("RGB", (4, 4)), "a <i>")
    assert "Result 2:" in figure and "person &lt;b&gt;" in figure and "a &lt;i&gt;" in figure and "anna" not in figure


def test_cards_are_numbered_by_place_and_show_their_rank():
    cards = markup.result_cards([hit(4), hit(5)]).split("<li>")[1:]
    assert [re.findall(r'data-index="(\d+)"|<b>(\d+)</b>', card) for card in cards] == [
        [("0", ""), ("", "4")], [("1", ""), ("", "5")],
    ]  # fmt: skip


def test_names_that_are_no_text_can_be_sent():
    card = markup.result_cards([hit(source="/x/Stra\udcdfe\x1b\u202e.jpg", camera="\udcff")])
    assert "<dd>Stra\ufffde\ufffd\ufffd.jpg</dd>" in card and "<dd>\ufffd</dd>" in card
    assert card.encode()


# --- choices ---


@pytest.mark.parametrize(
    ("choices", "wanted"),
    [
        (CHOICES, CHOSEN),
        ([7, None, None, None, "every image"], Wanted(7)),
        ([7, "door", "", "", None], Wanted(7, ["door"])),
        ([2.5, [None, ""], "", "", "one per track"], Wanted(0, one_per="track")),
        (["7", [], "", "", ""], Wanted(0)),
    ],
)
def test_what_was_chosen_arrives(choices, wanted):
    assert page._wanted(*choices) == wanted


class Search:
    """Keeps what it is asked, and answers with one result."""

    max_upload_bytes = 2**20
    explainer = object()

    def __init__(self, error=None):
        self.asked, self.error = [], error

    def _answer(self, *asked):
        self.asked.append(asked)
        if self.error is not None:
            raise self.error
        return Answer("q", [hit()], ["the sentence was cut"])

    by_sentence = by_image = explain = _answer

    def require_held(self, one):
        self._answer("held", one)

    def read_upload(self, data):
        self.asked.append(data)
        return Image.new("RGB", (8, 8), (255, 0, 0))

    def shown_upload(self, image):
        return Image.new("RGB", image.size, (0, 0, 255))


def test_a_sentence_and_an_image_are_searched_with_what_was_chosen():
    search, image = Search(), Image.new("RGB", (4, 8))
    found, messages, explanation, cards = page._sentence_handler(search)("a man", *CHOICES)
    assert search.asked == [("a man", CHOSEN)] and found.sentence == "a man" and explanation == ""
    assert re.findall("<li>(.*?)</li>", messages) == [
        "the sentence was cut", "choose a result to see where each word looks",
    ]  # fmt: skip
    assert cards.count("<button") == 1
    found, messages, _, _ = page._image_handler(search)(image, *CHOICES)
    assert search.asked[1:] == [(image, CHOSEN)] and found.sentence is None
    assert re.findall("<li>(.*?)</li>", messages) == ["the sentence was cut"]


@pytest.mark.parametrize("error", [SearchError("no such day"), ModuleNotFoundError("a crop of a video needs OpenCV")])
def test_what_cannot_be_searched_is_told_in_the_place_of_results(error):
    found, messages, explanation, cards = page._sentence_handler(Search(error))("a man", *CHOICES)
    assert found is None and explanation == cards == "" and "aga-wrong" in messages and str(error) in messages
    found, messages, _, cards = page._image_handler(Search())(None, *CHOICES)
    assert found is None and cards == "" and "choose an image first" in messages


def test_an_upload_is_kept_as_it_is_and_shown_as_it_may_be():
    """Shown with hidden faces, where they are hidden; searched with as it came."""
    search = Search()
    image, box, messages = page._upload_handler(search)(SimpleNamespace(_data={"image": "data:..."}))
    assert search.asked == ["data:..."] and messages == "" and image.getpixel((0, 0)) == (255, 0, 0)
    assert colour_of(box)[2] > 200 > 50 > colour_of(box)[0]


@pytest.mark.parametrize("sentence", ["a man", None])
def test_a_result_that_has_gone_takes_the_others_along(sentence):
    found = page.Found(sentence, (hit(1), hit(2)))
    search = Search(GoneError("no longer in the gallery"))
    messages, shown = page._explain_handler(search)(found, SimpleNamespace(_data={"index": 1}))
    assert "no longer in the gallery" in messages and "aga-gone" in shown and found.hits == ()
    assert [one for asked in search.asked for one in asked if isinstance(one, Hit)] == [hit(2)]


def test_a_result_that_cannot_be_drawn_stays():
    found = page.Found("a man", (hit(1), hit(2)))
    messages, shown = page._explain_handler(Search(SearchError("damaged")))(found, SimpleNamespace(_data={"index": 0}))
    assert "damaged" in messages and shown == "" and len(found.hits) == 2


@pytest.mark.parametrize(
    ("held", "shown"),
    [
        (Held(1234, ("door",), False, ()), (False, True, False)),
        (Held(1, (), True, ()), (False, False, True)),
        (Held(1, (), False, ("track",)), (True, False, False)),
    ],
)
def test_filters_are_shown_where_the_gallery_has_facts_for_them(held, shown):
    number, *filters = page._held_handler(SimpleNamespace(refreshed=lambda: held))()
    assert tuple(one["visible"] for one in filters) == shown and f"{held.images:,} images" in number
    assert filters[0]["choices"] == ["every image", *(f"one per {name}" for name in held.one_per)]
    assert filters[1]["choices"] == list(held.cameras)


# --- computations ---


def registered(handler, outputs, messages):
    """What Gradio is given of a handler."""
    given = {}
    page._on(
        lambda handle, inputs, outputs, **options: given.update(options, handle=handle),
        handler, [], outputs, "search", pace=Pace(), messages=messages,
    )  # fmt: skip
    return given


def test_computations_come_one_at_a_time_with_inputs_as_they_were_sent():
    first, second = (registered(lambda: None, [], None) for _ in range(2))
    for given in (first, second):
        assert given["preprocess"] is False and given["concurrency_limit"] == 1
        assert given["api_visibility"] == "private"
    assert first["concurrency_id"] == second["concurrency_id"] is not None


def test_a_fault_is_told_without_what_was_asked(caplog):
    def fail():
        raise KeyError(MARKER)

    messages, results = object(), object()
    told, kept = registered(fail, [messages, results], messages)["handle"]()
    assert "whoever started the demo" in told and "aga-wrong" in told and "value" not in kept
    assert "KeyError" in caplog.text and f"{os.path.basename(__file__)}" in caplog.text and MARKER not in caplog.text


def test_computations_that_run_count_as_waiting():
    def event(name):
        return SimpleNamespace(fn=SimpleNamespace(api_name=name))

    queue = SimpleNamespace(
        event_queue_per_concurrency_id={"model": SimpleNamespace(queue=[event("by_image"), event("held")])},
        active_jobs=[None, [event("explain")]],
    )
    assert sorted(page.waiting_functions(SimpleNamespace(_queue=queue))) == ["by_image", "explain", "held"]
