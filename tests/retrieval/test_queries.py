"""Queries of weighted terms; a new kind of term is one class, here a row that the gallery holds."""

from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image
from store_worker import DIM, MODEL, unit

from aga_model.gallery import Gallery, GalleryRow
from aga_model.search import (
    ImageTerm,
    Query,
    SearchOptions,
    TextTerm,
    answer,
    answer_all,
    answer_image,
    answer_sentence,
)

pytest.importorskip("lancedb", reason="the extra `search` is not installed")

ROWS = unit(40)
WORDS = {word: vector for word, vector in zip(["red", "blue", "hat", "a man"], unit(4, seed=5))}


class Encoder:
    """Sentences are words of known embeddings; an image is embedded by its brightness."""

    def __init__(self):
        self.calls = []

    def examine_text(self, text):
        if not text:
            raise ValueError("the query is empty")
        return [f"{text} is cut"] if text == "blue" else []

    def embed_texts(self, texts):
        self.calls.append(list(texts))
        return np.stack([WORDS[text] for text in texts])

    def encode_images(self, images):
        self.calls.append(len(images))
        return np.stack([looks(np.asarray(image).mean()) for image in images])


def looks(brightness):
    return unit(1, seed=100 + int(brightness))[0]


def grey(brightness):
    return Image.new("RGB", (20, 40), (brightness,) * 3)


@dataclass(frozen=True)
class RowTerm:
    """More like a row of the gallery."""

    gallery: Gallery
    id: str
    weight: float = 1.0
    sentence: None = None

    @property
    def name(self):
        return f"like {self.id}"

    def examine(self, encoder):
        if not any(row.id == self.id for row in self.gallery.rows()):
            raise ValueError(f"the gallery has no row {self.id}")
        return []

    @classmethod
    def embed(cls, terms, encoder):
        held = {row_id: one for ids, some in terms[0].gallery.embeddings() for row_id, one in zip(ids, some)}
        return np.stack([held[term.id] for term in terms])


@pytest.fixture
def gallery(tmp_path):
    gallery = Gallery.create(tmp_path / "gallery", MODEL, DIM, "m")
    gallery.add(ROWS, [row(number) for number in range(40)])
    return gallery


def row(number):
    return GalleryRow(f"/{number}.jpg", f"{number:064x}", f"/{number}.jpg", 20, 40, MODEL)


def wanted(vector, top_k=5):
    """Numbers of the rows that are nearest, and their scores."""
    scores = ROWS.astype(np.float64) @ (vector / np.linalg.norm(vector))
    order = np.argsort(-scores)[:top_k]
    return list(order), scores[order]


def assert_found(found, vector):
    order, scores = wanted(vector)
    assert [int(hit.row.source_hash, 16) for hit in found.hits] == order
    np.testing.assert_allclose([hit.score for hit in found.hits], scores, atol=1e-6)


def test_terms_add_up_by_their_weights(gallery):
    query = Query("red", TextTerm("hat", -0.5), ImageTerm(grey(9), "mine.jpg", 2.0))
    found = answer(gallery, Encoder(), query, SearchOptions(5))
    assert_found(found, WORDS["red"] - 0.5 * WORDS["hat"] + 2 * looks(9))
    assert found.query == "red, -0.5 times hat, 2 times mine.jpg"


def test_the_sum_does_not_hang_on_the_size_of_weights(gallery):
    for size in (1e-30, 1.0, 1e30):
        query = Query(TextTerm("red", 2 * size), TextTerm("hat", size))
        assert_found(answer(gallery, Encoder(), query, SearchOptions(5)), 2 * WORDS["red"] + WORDS["hat"])


def test_a_query_of_one_term_is_a_search_for_it(gallery):
    options = SearchOptions(5)
    for query, alone in (
        (Query("red"), answer_sentence(gallery, Encoder(), "red", options)),
        (Query(TextTerm("red", 0.3)), answer_sentence(gallery, Encoder(), "red", options)),
        (Query(ImageTerm(grey(3), "it")), answer_image(gallery, Encoder(), grey(3), "it", options)),
    ):
        assert answer(gallery, Encoder(), query, options) == alone
    assert_found(answer_sentence(gallery, Encoder(), "red", options), WORDS["red"])
    assert_found(answer_image(gallery, Encoder(), grey(3), "it", options), looks(3))


def test_a_new_kind_of_term_is_searched_for_beside_the_others(gallery):
    found = answer(gallery, Encoder(), Query("red", RowTerm(gallery, row(7).id, 0.5)), SearchOptions(5))
    assert_found(found, WORDS["red"] + 0.5 * ROWS[7])
    assert answer(gallery, Encoder(), Query(RowTerm(gallery, row(7).id)), SearchOptions(1)).hits[0].row == row(7)
    with pytest.raises(ValueError, match="no row nowhere"):
        answer(gallery, Encoder(), Query("red", RowTerm(gallery, "nowhere")), SearchOptions(5))


def test_terms_of_all_queries_are_embedded_together_and_errors_are_their_own(gallery):
    encoder, options = Encoder(), SearchOptions(5)
    queries = [
        Query("red", TextTerm("blue", -1)),
        Query(""),
        Query(ImageTerm(grey(1)), "hat"),
        Query("red", TextTerm("red", -1)),
        Query("blue", ImageTerm(grey(2))),
    ]
    found = answer_all(gallery, encoder, [(query, options) for query in queries])
    assert encoder.calls == [["red", "blue", "hat", "red", "red", "blue"], 2]
    assert_found(found[0], WORDS["red"] - WORDS["blue"])
    assert_found(found[2], looks(1) + WORDS["hat"])
    assert_found(found[4], WORDS["blue"] + looks(2))
    assert [each.notes for each in (found[0], found[2], found[4])] == [["blue is cut"], [], ["blue is cut"]]
    assert str(found[1]) == "the query is empty"
    assert str(found[3]) == "the terms of the query cancel out: red, -1 times red"


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ([], "needs a term"),
        ([TextTerm("red", 0)], "weight of 'red' is 0"),
        (["red", TextTerm("hat", float("nan"))], "weight of 'hat' is nan"),
        ([TextTerm("hat", float("inf"))], "weight of 'hat' is inf"),
        ([TextTerm("hat", -1)], "only leads away from 'hat'"),
    ],
)
def test_what_is_no_query_is_refused(terms, message):
    with pytest.raises(ValueError, match=message):
        Query(*terms)


def test_what_a_query_needs_is_named(gallery):
    class Sentences:
        examine_text, embed_texts = Encoder.examine_text, Encoder.embed_texts

    with pytest.raises(ValueError, match=r"mine\.jpg needs the whole model"):
        answer(gallery, Sentences(), Query("red", ImageTerm(grey(1), "mine.jpg")), SearchOptions(5))
    for query, message in (
        (Query("red", "hat"), "one sentence, not a query of several terms"),
        (Query(ImageTerm(grey(1))), "a sentence, not an image"),
        (Query("red"), "needs a re-ranker"),
    ):
        with pytest.raises(ValueError, match=message):
            answer(gallery, Encoder(), query, SearchOptions(5, rerank=5))
