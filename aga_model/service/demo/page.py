"""The page of the demo, in Gradio."""

import functools
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

# Gradio reports to its makers unless it is told not to before it is imported. It also keeps who has asked when.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "1"

import gradio as gr
from PIL import Image

from aga_model.gallery import MAX_PURPOSE, Hit
from aga_model.search import Answer

from ..logs import described
from ..searching import (
    MAX_CAMERAS,
    MAX_NAME,
    MAX_RESULTS,
    MAX_SENTENCE,
    MAX_TIME,
    GallerySearch,
    GoneError,
    Held,
    SearchError,
    Wanted,
)
from .markup import data_url, explanation_figure, message_list, result_cards
from .page_rules import Field
from .turns import Pace

QUEUE_SIZE = 16  # requests that wait; more are told to come again
SESSIONS = 200  # of which results are kept
_ONE_AT_A_TIME = "model"
_OTHER_CHARACTERS = 100  # of what is picked or moved, not written
_WHEN = "2026-01-31 or 2026-01-31T18:30"

_logger = logging.getLogger(__name__)

TITLE = "Person search"
NOTICE = """
<p class="aga-notice">
<b>For research, and for collections that you may lawfully search; a human checks every result.</b> A result says that
an image resembles a description, never who somebody is. Do not identify strangers, follow people or decide about
anybody by it. The people in the images have rights in them: use images with their consent or another legal basis only.
</p>
"""

CSS = """
.gradio-container { max-width: 1160px !important; margin: 0 auto !important; }
.gradio-container .html-container { padding: 0 !important; }
h1 { margin: 0 0 .6rem; font-size: 1.6rem; font-weight: 700; }
.aga-notice { font-size: .85rem; line-height: 1.45; margin: 0 0 .5rem; padding: .6rem .8rem;
    border-left: 4px solid #b45309; background: var(--background-fill-secondary); color: var(--body-text-color); }
.aga-notes, .aga-wrong { margin: 0; padding: 0; list-style: none; font-size: .9rem; color: var(--body-text-color); }
.aga-notes { opacity: .75; }
.aga-wrong li { padding: .5rem .8rem; border-left: 4px solid #b91c1c; background: var(--background-fill-secondary); }
#messages:not(:has(li)), #explanation:not(:has(figure)), #results:not(:has(li)) { display: none; }
.aga-results { list-style: none; margin: 0; padding: 0; display: grid; gap: .75rem;
    grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); }
.aga-results li { margin: 0; }
.aga-results button { width: 100%; height: 100%; display: flex; flex-direction: column; gap: .4rem; padding: .4rem;
    font-weight: 400; text-align: left; cursor: pointer; border-radius: 8px; color: var(--body-text-color);
    border: 1px solid var(--border-color-primary); background: var(--background-fill-primary); }
.aga-results button:hover, .aga-results button:focus-visible { border-color: var(--color-accent); }
.aga-results button[aria-pressed=true] { outline: 3px solid var(--color-accent); }
.aga-results button[aria-busy=true] { animation: aga-busy 1s infinite alternate; }
@keyframes aga-busy { to { opacity: .45; } }
.aga-image { position: relative; display: block; width: 100%; border-radius: 5px;
    background: var(--background-fill-secondary); }
.aga-image img { display: block; margin: 0 auto; height: 250px; max-width: 100%; object-fit: contain; }
.aga-image b { position: absolute; left: 0; top: 0; padding: 0 .45rem; border-radius: 5px 0 5px 0; font-size: .85rem;
    color: #fff; background: rgb(0 0 0 / .65); }
.aga-missing { display: flex; align-items: center; height: 250px; padding: .6rem; font-size: .8rem; }
.aga-results dl { display: grid; grid-template-columns: auto 1fr; gap: 0 .5rem; margin: 0; font-size: .78rem;
    line-height: 1.4; }
.aga-results dt { opacity: .7; font-weight: 400; }
.aga-results dd { margin: 0; overflow-wrap: anywhere; }
.aga-explanation { margin: 0; padding: .8rem; border-radius: 8px; border: 1px solid var(--border-color-primary); }
.aga-explanation figcaption { margin-bottom: .6rem; font-size: .9rem; overflow-wrap: anywhere;
    color: var(--body-text-color); }
.aga-wide { width: 0; min-width: 100%; overflow-x: auto; background: #fff; border-radius: 5px; }
.aga-wide img { display: block; margin: 0 auto; max-width: 100%; max-height: 75vh; }
.aga-upload { display: flex; align-items: center; gap: .8rem; padding: .8rem; border-radius: 8px; cursor: pointer;
    font-size: .9rem; border: 2px dashed var(--border-color-primary); color: var(--body-text-color); }
.aga-upload:focus-within, .aga-upload:hover { border-color: var(--color-accent); }
.aga-upload input { position: absolute; opacity: 0; width: 1px; height: 1px; }
.aga-upload img { height: 160px; max-width: 40%; object-fit: contain; }
@media (max-width: 640px) {
    .gradio-container .main.fillable { padding: 16px 14px !important; }
    .aga-results { grid-template-columns: 1fr 1fr; }
    .aga-wide img { max-width: none; max-height: none; width: 540px; }
}
"""

_CHOOSE = """
element.addEventListener('click', (event) => {
    const card = event.target.closest('button[data-index]');
    if (!card) return;
    for (const other of element.querySelectorAll('button[data-index]'))
        other.setAttribute('aria-pressed', String(other === card));
    card.setAttribute('aria-busy', 'true');
    trigger('choose', {index: Number(card.dataset.index)});
});
"""

_UPLOAD = """
const send = (file) => {
    if (!file) return;
    if (file.size > props.limit) { trigger('refuse', {size: file.size}); return; }
    const reader = new FileReader();
    reader.onload = () => trigger('offer', {image: reader.result});
    reader.readAsDataURL(file);
};
element.addEventListener('change', (event) => send(event.target.files[0]));
element.addEventListener('dragover', (event) => event.preventDefault());
element.addEventListener('drop', (event) => { event.preventDefault(); send(event.dataTransfer.files[0]); });
"""

_SHOW_EXPLANATION = """
() => {
    for (const card of document.querySelectorAll('#results [aria-busy]')) card.removeAttribute('aria-busy');
    if (document.querySelector('#explanation .aga-gone')) {
        document.querySelector('#results .aga-results')?.replaceChildren();
        return;
    }
    document.getElementById('explanation').scrollIntoView({behavior: 'smooth', block: 'nearest'});
}
"""
_GONE = '<p class="aga-gone" hidden></p>'  # the script then takes the results away
_SHOW_EVERY = "every image"


@dataclass
class Found:
    """
    What a session is looking at. It stays on the server: the page names a result by its number only.

    Args:
        sentence: None when an image was searched with.
        hits: as they are shown; none once one of them was removed from the gallery.
    """

    sentence: str | None
    hits: tuple[Hit, ...]


def build_page(search: GallerySearch, notices: Sequence[str] = (), pace: Pace | None = None) -> gr.Blocks:
    """
    The page that searches a gallery.

    Args:
        search: of the gallery.
        notices: shown above the query, such as what the model has been trained on.
        pace: measures how long the page's computations take.
    """
    pace = pace or Pace()
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.HTML(f"<h1>{TITLE}</h1>{NOTICE}{message_list(notices)}")
        number = gr.HTML()
        found = gr.State(None)
        picture = gr.State(None)
        with gr.Tab("By a sentence"), gr.Row(equal_height=True):
            sentence = gr.Textbox(
                label="What the person looks like",
                placeholder="a woman in a long black coat with a red bag",
                max_length=MAX_SENTENCE,
                lines=1,
                max_lines=4,
                scale=5,
                min_width=300,
                elem_id="sentence",
            )
            find = gr.Button("Search", variant="primary", scale=1, min_width=120, elem_id="find")
        with gr.Tab("By an image"):
            upload = gr.HTML(_upload_box(search), js_on_load=_UPLOAD, limit=search.max_upload_bytes, elem_id="upload")
            find_like = gr.Button("Search", variant="primary", elem_id="find_like")
        wanted, filters = _filters(search)
        messages = gr.HTML(elem_id="messages")
        explanation = gr.HTML(elem_id="explanation")
        results = gr.HTML(elem_id="results", js_on_load=_CHOOSE)

        on = functools.partial(_on, pace=pace, messages=messages)
        searched = [found, messages, explanation, results]
        by_sentence = _sentence_handler(search)
        for event, name in ((find.click, "by_sentence"), (sentence.submit, "by_sentence_enter")):
            on(event, by_sentence, [sentence, *wanted], searched, name)
        on(find_like.click, _image_handler(search), [picture, *wanted], searched, "by_image")
        on(upload.offer, _upload_handler(search), [], [picture, upload, messages], "upload")
        on(upload.refuse, _refuse_handler(search), [], [messages], "refuse")
        chosen = on(results.choose, _explain_handler(search), [found], [messages, explanation], "explain")
        chosen.then(None, js=_SHOW_EXPLANATION)
        on(page.load, _held_handler(search), [], [number, *filters], "held")
    page.queue(max_size=QUEUE_SIZE, default_concurrency_limit=1)
    page.state_session_capacity = SESSIONS
    return page


def page_functions(page: gr.Blocks) -> dict[int, tuple[Field, ...]]:
    """The functions that a page calls on the server, by number, with what each of them is sent."""
    return {
        number: tuple(_field(block) for block in function.inputs)
        for number, function in page.fns.items()
        if function.fn is not None
    }


def waiting_functions(page: gr.Blocks) -> list[str]:
    """Names of the computations of a page that run or wait for their turn."""
    queue = page._queue
    events = [event for waiting in queue.event_queue_per_concurrency_id.values() for event in waiting.queue]
    events += [event for job in queue.active_jobs if job is not None for event in job]
    return [str(event.fn.api_name) for event in events]


def knows_session(page: gr.Blocks, session: str) -> bool:
    """Whether something was asked in a session of this name."""
    return session in page._queue.pending_messages_per_session


def _field(block: Any) -> Field:
    if isinstance(block, gr.State):
        return Field("state of the page")
    name = "sentence" if block.elem_id == "sentence" else f"field {str(block.label).partition(' (')[0]}"
    if isinstance(block, gr.Dropdown):
        return Field(name, MAX_NAME, MAX_CAMERAS)
    return Field(name, getattr(block, "max_length", None) or _OTHER_CHARACTERS)


def _on(event: Any, handler: Callable, inputs: list, outputs: list, name: str, *, pace: Pace, messages: Any) -> Any:
    """
    Every computation waits its turn for the one model, has no name that others could call it by, and gets its inputs
    as they were sent: Gradio's own checks would write them to the terminal.
    """

    @functools.wraps(handler)
    def handle(*values: Any) -> Any:
        try:
            with pace.measured(name):
                return handler(*values)
        except Exception as error:  # a fault; its message may hold what was asked
            _logger.error("the page failed: %s", described(error))
            told = message_list(["this could not be computed: whoever started the demo finds where"], wrong=True)
            shown = [told if output is messages else gr.skip() for output in outputs]
            return shown if len(shown) > 1 else shown[0]

    return event(
        handle, inputs, outputs, preprocess=False,
        api_name=name, api_visibility="private", concurrency_id=_ONE_AT_A_TIME, concurrency_limit=1,
    )  # fmt: skip


def _filters(search: GallerySearch) -> tuple[list[gr.components.Component], list[Any]]:
    """
    Inputs for the arguments of [`Wanted`], in its order; and what [`_held_handler`] fills and shows of them, once the
    page is open: a name that stood in the page itself would stay there after it has left the gallery. The purpose is
    there only where it is kept or asked for.
    """
    with gr.Accordion("Filters", open=False):
        with gr.Row():
            top_k = gr.Slider(1, MAX_RESULTS, value=10, step=1, label="Results")
            one_per = gr.Radio([_SHOW_EVERY], value=_SHOW_EVERY, label="Show", visible=False)
        cameras = gr.Dropdown([], multiselect=True, label="Cameras (all, unless chosen)", visible=False)
        with gr.Row(visible=False) as times:
            since = gr.Textbox(label="From", placeholder=_WHEN, max_length=MAX_TIME)
            until = gr.Textbox(label="Until", placeholder=_WHEN, max_length=MAX_TIME)
    wanted: list[gr.components.Component] = [top_k, cameras, since, until, one_per]
    if search.asks_purpose:
        label = "Purpose of your search, which is recorded" if search.recorder.log else "Purpose of your search"
        wanted.append(gr.Textbox(label=label, max_length=MAX_PURPOSE, elem_id="purpose"))
    return wanted, [one_per, cameras, times]


def _held_handler(search: GallerySearch) -> Callable:
    """Says how many images are searched, and shows the filters that the gallery has facts for."""

    def handle() -> tuple:
        try:
            held = search.refreshed()
        except SearchError as error:
            return message_list([str(error)], wrong=True), gr.skip(), gr.skip(), gr.skip()
        return (
            message_list([f"{held.images:,} images are searched"]),
            gr.update(choices=_collapses(held), visible=bool(held.one_per)),
            gr.update(choices=list(held.cameras), visible=bool(held.cameras)),
            gr.update(visible=held.times),
        )

    return handle


def _collapses(held: Held) -> list[str]:
    return [_SHOW_EVERY, *(f"one per {name}" for name in held.one_per)]


def _wanted(top_k: Any, cameras: Any, since: Any, until: Any, one_per: Any, purpose: Any = "") -> Wanted:
    number = int(top_k) if isinstance(top_k, int | float) and top_k % 1 == 0 else 0  # a slider gives 10 or 10.0
    collapsed = "" if one_per in (None, _SHOW_EVERY) else str(one_per).removeprefix("one per ")
    names = cameras if isinstance(cameras, list) else [cameras]
    chosen = [str(name) for name in names if name not in (None, "")]
    return Wanted(
        number, chosen, since=str(since or ""), until=str(until or ""), one_per=collapsed, purpose=str(purpose or "")
    )


def _sentence_handler(search: GallerySearch) -> Callable:
    hint = "choose a result to see where each word looks" if search.explainer is not None else ""

    def handle(sentence: Any, *wanted: Any) -> tuple:
        text = "" if sentence is None else str(sentence)
        return _searched(lambda: search.by_sentence(text, _wanted(*wanted)), text, hint)

    return handle


def _image_handler(search: GallerySearch) -> Callable:
    def handle(picture: Image.Image | None, *wanted: Any) -> tuple:
        def answer() -> Answer:
            if picture is None:
                raise SearchError("choose an image first")
            return search.by_image(picture, _wanted(*wanted))

        return _searched(answer, None)

    return handle


def _searched(
    answer: Callable[[], Answer], sentence: str | None, hint: str = ""
) -> tuple[Found | None, str, str, str]:
    """State, messages, explanation and results after a search; the hint is a message where there are results."""
    try:
        found = answer()
        cards = result_cards(found.hits)
    except (SearchError, ModuleNotFoundError) as error:  # a crop out of a video needs OpenCV
        return None, message_list([str(error)], wrong=True), "", ""
    notes = [*found.notes, hint] if hint and found.hits else found.notes
    return Found(sentence, tuple(found.hits)), message_list(notes), "", cards


def _upload_handler(search: GallerySearch) -> Callable:
    def handle(event: gr.EventData) -> tuple:
        try:
            image = search.read_upload(_sent(event, "image"))
        except SearchError as error:
            return None, _upload_box(search), message_list([str(error)], wrong=True)
        return image, _upload_box(search, search.shown_upload(image)), ""

    return handle


def _refuse_handler(search: GallerySearch) -> Callable:
    def handle() -> str:
        limit = search.max_upload_bytes / 2**20
        return message_list([f"the file is larger than {limit:g} MiB: choose a smaller one"], wrong=True)

    return handle


def _explain_handler(search: GallerySearch) -> Callable:
    def handle(found: Found | None, event: gr.EventData) -> tuple[str, str]:
        index = _sent(event, "index")
        if found is None or type(index) is not int or not 0 <= index < len(found.hits):
            return message_list(["these results are gone: search again"], wrong=True), ""
        hit = found.hits[index]
        try:
            if found.sentence is None:
                search.require_held(hit)
                raise SearchError("an explanation shows the words of a sentence: search by a sentence to see one")
            picture = search.explain(hit, found.sentence)
        except GoneError as error:
            found.hits = ()
            return message_list([str(error)], wrong=True), _GONE
        except SearchError as error:
            return message_list([str(error)], wrong=True), ""
        return "", explanation_figure(hit, picture, found.sentence)

    return handle


def _sent(event: gr.EventData, name: str) -> Any:
    """What the browser sent with an event; None if it did not."""
    return event._data.get(name) if isinstance(event._data, dict) else None


def _upload_box(search: GallerySearch, image: Image.Image | None = None) -> str:
    limit = search.max_upload_bytes / 2**20
    shown = "" if image is None else f'<img alt="the image to search with" src="{data_url(image, "JPEG")}">'
    return (
        f'<label class="aga-upload">{shown}<span><b>Choose an image of one person</b>, or drop it here<br>up to '
        f'{limit:g} MiB; it is not stored</span><input type="file" accept="image/*"></label>'
    )


__all__ = ["CSS", "QUEUE_SIZE", "build_page", "knows_session", "page_functions", "waiting_functions"]
