"""`aga search`: the options arrive where they belong; what is printed, saved and recorded, by value."""

import csv
import hashlib
import json
from datetime import datetime
from types import SimpleNamespace

import command_line
import pytest
from PIL import Image

import aga_model.search as rooms
from aga_model.cli import opening
from aga_model.cli.galleries import search as command
from aga_model.errors import ModelLoadError
from aga_model.gallery import Filter, GalleryError, GalleryRow, GallerySettings, Hit
from aga_model.search import Answer, SearchOptions

MODEL = "a" * 64
SENTENCE = "a man in a red coat"
# The second sentence has more results than the first; no two scores are alike.
FOUND = {
    SENTENCE: [Hit(1, 0.625, GalleryRow("/x/a.jpg"), itm_score=-1.5)],
    "a girl": [
        Hit(1, 0.5, GalleryRow("/x/b.jpg"), itm_score=2.25),
        Hit(2, 0.25, GalleryRow("/x/c.jpg")),
        Hit(3, 0.75, GalleryRow("/x/d.jpg")),
    ],
}


class Shelf:
    """A gallery that was made with some model."""

    settings, folder, model_name, model_hash = GallerySettings(), None, "some/model", MODEL

    def count(self):
        return 1234

    def require_model(self, model_hash, name):
        if model_hash != MODEL:
            raise GalleryError(f"the gallery was not made with {name}")

    def __str__(self):
        return "shelf"


class Asked(SimpleNamespace):
    """What the command asked others for."""


@pytest.fixture
def asked(monkeypatch):
    asked = Asked(rankings=[], models=[], saved=[], drawn=[], model_hash=MODEL, rendered_only=False)

    def load(name, device, trust_remote_code):
        asked.models.append((name, device, trust_remote_code))
        if name == "none":
            raise ModelLoadError("model none does not exist")
        return SimpleNamespace(model_hash=asked.model_hash, name=name, rendered_only=asked.rendered_only)

    def answer_sentence(gallery, encoder, sentence, ranking, reranker):
        asked.rankings.append((ranking, reranker))
        return Answer(sentence, list(FOUND[sentence]), ["a note"])

    def answer_image(gallery, encoder, image, name, ranking):
        asked.rankings.append((ranking, image.size))
        return Answer(name, FOUND["a girl"][:2])

    for name, stand_in in {
        "Gallery": SimpleNamespace(open=lambda location: Shelf()),
        "PersonEncoder": SimpleNamespace(from_pretrained=load),
        "Reranker": SimpleNamespace(from_encoder=lambda encoder: "the re-ranker"),
        "Explainer": SimpleNamespace(from_encoder=lambda encoder: SimpleNamespace(explain=lambda *given: given)),
        "answer_sentence": answer_sentence,
        "answer_image": answer_image,
        "face_hider": lambda: None,
        "read_hit": lambda hit: f"image of {hit.path.name}",
        "shown_image": lambda hit, image: ("shown", hit.hide_faces, image),
        "save_explanation_picture": lambda *given: asked.drawn.append(given),
        "write_page": lambda answers, path, title: asked.saved.extend(answers),
    }.items():
        where = {"PersonEncoder": opening}.get(name, command if hasattr(command, name) else rooms)
        monkeypatch.setattr(where, name, stand_in)
    return asked


def aga(*arguments, code=0):
    return command_line.aga("search", "shelf", *arguments, code=code, COLUMNS="120")


@pytest.fixture
def two(tmp_path):
    """A file of both sentences, with the lines that people leave."""
    (tmp_path / "two.txt").write_text(f"\n  {SENTENCE} \n\na girl\n")
    return tmp_path / "two.txt"


def test_what_is_asked_for_arrives(asked):
    filters = ("--camera", "door", "--camera", "yard", "--since", "2026-01-30", "--until", "2026-01-31", "--person", 7)
    aga(SENTENCE, *filters, "--top-k", 3, "--rerank", 5, "--one-per", "person", "--device", "cpu")
    where = Filter(["door", "yard"], datetime(2026, 1, 30), datetime(2026, 2, 1), ["7"])  # the whole last day
    assert asked.rankings == [(SearchOptions(3, 5, where, "person"), "the re-ranker")]
    assert asked.models == [("some/model", "cpu", False)]
    aga(SENTENCE, "--until", "2026-01-31T12:00")
    assert asked.rankings[1] == (SearchOptions(10, None, Filter(until=datetime(2026, 1, 31, 12)), None), None)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "one of them"),
        ((SENTENCE, "--image", "x.jpg"), "one of them"),
        ((SENTENCE, "--queries", "x.txt"), "one of them"),
        (("--image", "x.jpg", "--rerank", 5), "leave them out with --image"),
        (("--image", "x.jpg", "--explain", "why.png"), "leave them out with --image"),
        ((" \n",), "the query is empty"),
    ],
)
def test_what_cannot_be_done_together_is_refused_before_a_model_is_loaded(asked, arguments, told):
    assert told in aga(*arguments, code=2).stderr and asked.models == []


def test_the_model_is_the_gallerys_or_the_one_that_is_given(asked):
    aga(SENTENCE, "--model", "moved/model")
    assert asked.models == [("moved/model", None, False)]
    assert "give --model if it has moved" not in aga(SENTENCE, "--model", "none", code=2).stderr
    asked.model_hash = "b" * 64
    assert "was not made with some/model" in aga(SENTENCE, code=2).stderr and len(asked.rankings) == 1


def test_json_of_a_file_is_a_list_whatever_its_length(asked, two, tmp_path):
    one = json.loads(aga(SENTENCE, "--json").stdout)
    assert (one["query"], one["gallery_count"], one["model"], one["notes"]) == (
        SENTENCE,
        1234,
        "some/model",
        ["a note"],
    )
    assert [(hit["rank"], hit["score"]) for hit in one["hits"]] == [(1, 0.625)] and "rerank" not in one
    assert [answer["query"] for answer in json.loads(aga("--queries", two, "--json").stdout)] == [SENTENCE, "a girl"]
    (tmp_path / "one.txt").write_text("a girl")
    (answer,) = json.loads(aga("--queries", tmp_path / "one.txt", "--json", "--rerank", 2).stdout)
    assert [hit["itm_score"] for hit in answer["hits"]] == [2.25, None, None] and answer["rerank"] == 2


def test_each_score_stands_under_its_name(asked):
    shown = aga(SENTENCE, "--rerank", 5).stdout.splitlines()
    head = next(line for line in shown if "cosine" in line)
    row = next(line for line in shown if "a.jpg" in line)
    assert head.index("ITM") <= row.index("-1.500") < head.index("cosine") <= row.index("0.6250") < head.index("file")


def test_notes_of_every_sentence_are_told_once(asked, two, monkeypatch):
    monkeypatch.setattr(
        command, "answer_sentence", lambda *given: Answer(given[2], [], ["both", f"only {len(given[2])}"])
    )
    told = [line for line in aga("--queries", two).stderr.splitlines() if line.startswith("note: ")]
    assert told == ["note: both", f"note: only {len(SENTENCE)}", "note: only 6"]


def test_drawings_are_told_of_first(asked):
    asked.rendered_only = True
    notes = [line for line in aga(SENTENCE).stderr.splitlines() if line.startswith("note: ")]
    assert "has only seen rendered drawings" in notes[0] and notes[1] == "note: a note"


# --- what leaves the gallery ---


def test_every_search_and_file_is_recorded(asked, two, tmp_path):
    log, image = tmp_path / "audit.jsonl", tmp_path / "someone.png"
    Image.new("RGB", (8, 16), "red").save(image)
    files = ("--save", tmp_path / "r.csv", "--explain", tmp_path / "why.png")
    aga("--queries", two, *files, "--audit", log, "--purpose", "case 7")
    aga("--image", image, "--audit", log)
    aga("a girl", "--audit", log, "--explain", tmp_path / "why.png")
    assert asked.drawn[1][0] == ("image of b.jpg", "a girl")  # the best one
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["action"], line["results"], line["purpose"]) for line in lines] == [
        ("search", 1, "case 7"), ("search", 3, "case 7"), ("export", 4, "case 7"), ("search", 2, None),
        ("search", 3, None), ("export", 3, None),
    ]  # fmt: skip
    assert [line["query"]["sentence"] for line in lines[:2]] == [SENTENCE, "a girl"]
    assert lines[2]["files"] == [str(tmp_path / "r.csv"), str(tmp_path / "why.png")]
    assert lines[3]["query"] == {"image_sha256": hashlib.sha256(image.read_bytes()).hexdigest()}
    assert lines[5]["files"] == [str(tmp_path / "why.png")]
    assert "a picture shows one query" in aga("--queries", two, "--save", tmp_path / "r.png", code=2).stderr
    aga("--queries", two, "--save", tmp_path / "R.HTML")
    assert [answer.query for answer in asked.saved] == [SENTENCE, "a girl"]
    with (tmp_path / "r.csv").open(newline="") as file:
        assert len(list(csv.reader(file))) == 1 + 4


@pytest.mark.parametrize("hides", [True, False])
def test_faces_are_hidden_in_every_answer_and_explanation(asked, two, tmp_path, hides):
    aga("--queries", two, "--save", tmp_path / "r.html", "--explain", "why.png", *["--hide-faces"] * hides)
    assert [hit.hide_faces for answer in asked.saved for hit in answer.hits] == [hides] * 4
    ((explained, shown, path),) = asked.drawn
    assert explained == ("image of a.jpg", SENTENCE)  # the model sees the face
    assert shown == ("shown", hides, "image of a.jpg") and path.name == "why.png"
