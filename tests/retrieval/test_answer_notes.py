"""What an answer says about how many images there are, whatever a store finds."""

from dataclasses import replace

import numpy as np
import pytest
from store_worker import DIM, MODEL, unit

from aga_model.files import Skipped
from aga_model.gallery import Filter, Gallery, GalleryRow
from aga_model.search import SearchOptions, answer_image, answer_sentence, reranking

pytest.importorskip("lancedb", reason="the extra `search` is not installed")

NIGHT = Filter(cameras=["night"])


class Encoder:
    def encode_images(self, images):
        return unit(1, seed=1)


@pytest.fixture
def gallery(tmp_path):
    """40 images of 10 persons, 12 of them by night."""
    rows = [
        GalleryRow(
            f"/{number}.jpg",
            f"{number:064x}",
            f"/{number}.jpg",
            20,
            40,
            MODEL,
            camera="night" if number < 12 else "day",
            person_id=number % 10,
        )
        for number in range(40)
    ]
    gallery = Gallery.create(tmp_path / "gallery", MODEL, DIM, "m")
    gallery.add(unit(40), rows)
    return gallery


@pytest.fixture
def narrow(gallery, monkeypatch):
    """A search finds 3 images unless it is asked for as many as there are."""
    from aga_model.gallery.lance.store import LanceStore

    search = LanceStore.search

    def few(self, queries, top_k, where=None):
        found = search(self, queries, top_k, where)
        return found if top_k >= self.count(where) else [hits[:3] for hits in found]

    monkeypatch.setattr(LanceStore, "search", few)
    return gallery


def answer(gallery, **ranking):
    return answer_image(gallery, Encoder(), None, "an image", SearchOptions(**ranking))


def best(gallery, numbers):
    rows = {row.source_hash: row for row in gallery.rows()}
    scores = unit(40).astype(float) @ unit(1, seed=1)[0].astype(float)
    return [rows[f"{number:064x}"] for number in sorted(numbers, key=lambda number: -scores[number])]


def test_few_hits_are_not_taken_for_few_images(narrow):
    found = answer(narrow, top_k=10, where=NIGHT)
    assert [hit.row for hit in found.hits] == best(narrow, range(12))[:10] and found.notes == []
    found = answer(narrow, top_k=10)
    assert [hit.row for hit in found.hits] == best(narrow, range(40))[:10] and found.notes == []


def test_one_per_looks_on_behind_few_hits(narrow):
    found = answer(narrow, top_k=9, where=NIGHT, one_per="person")
    persons = list(dict.fromkeys(row.person_id for row in best(narrow, range(12))))
    assert [hit.row.person_id for hit in found.hits] == persons[:9] and found.notes == []


def test_the_note_counts_images(narrow):
    found = answer(narrow, top_k=20, where=NIGHT)
    assert found.notes == ["20 results wanted, but the filter leaves 12 images: all of them are listed"]
    assert len(found.hits) == 12
    assert answer(narrow, top_k=50).notes == [
        "50 results wanted, but the gallery holds 40 images: all of them are listed"
    ]
    assert answer(narrow, top_k=20, where=NIGHT, one_per="person").notes == [
        "20 results wanted, but the filter leaves, one of each person, 10 images: all of them are listed"
    ]


def test_the_note_says_when_images_were_not_found(gallery, monkeypatch):
    from aga_model.gallery.lance.store import LanceStore

    search = LanceStore.search
    monkeypatch.setattr(LanceStore, "search", lambda *arguments: [hits[:3] for hits in search(*arguments)])
    found = answer(gallery, top_k=20, where=NIGHT)
    assert found.notes == ["20 results wanted, but the filter leaves 12 images: 3 of them are listed"]
    assert np.all(np.diff([hit.score for hit in found.hits]) <= 0)


def test_a_filter_and_the_number_of_results_hold(gallery):
    found = answer(gallery, top_k=4, where=NIGHT)
    assert [hit.row for hit in found.hits] == best(gallery, range(12))[:4]
    assert [hit.rank for hit in found.hits] == [1, 2, 3, 4]


def test_one_per_person_looks_as_far_as_it_must(gallery):
    """The ten best of forty images show fewer than ten persons."""
    ranked = best(gallery, range(40))
    persons = list(dict.fromkeys(row.person_id for row in ranked))
    assert len({row.person_id for row in ranked[:10]}) < 10
    found = answer(gallery, top_k=10, one_per="person")
    assert [hit.row.person_id for hit in found.hits] == persons and found.notes == []
    assert [hit.rank for hit in found.hits] == list(range(1, 11))
    assert [hit.row for hit in answer(gallery, top_k=2, one_per="person").hits] == [
        next(row for row in ranked if row.person_id == person) for person in persons[:2]
    ]


class SentenceEncoder:
    def examine_text(self, sentence):
        return ["a note"]

    def embed_texts(self, sentences):
        return unit(1, seed=1)


@pytest.fixture
def reversing(monkeypatch):
    """A re-ranker by which the last is the best; of images whose name it holds it cannot read the file."""
    unreadable = set()

    def rerank(reranker, sentence, hits):
        assert (reranker, sentence) == ("reranker", "a man")
        skipped = [Skipped(hit.path, "damaged") for hit in hits if hit.path.name in unreadable]
        order = sorted(hits, key=lambda hit: (hit.path.name in unreadable, -hit.rank))
        return [replace(hit, rank=rank) for rank, hit in enumerate(order, start=1)], skipped

    monkeypatch.setattr(reranking, "rerank_hits", rerank)
    return unreadable


def answer_reranked(gallery, **ranking):
    return answer_sentence(gallery, SentenceEncoder(), "a man", SearchOptions(**ranking), "reranker")


@pytest.mark.parametrize(("top_k", "rerank"), [(3, 6), (8, 5), (4, 4)])
def test_the_first_are_reranked_and_the_rest_follows(gallery, reversing, top_k, rerank):
    ranked = best(gallery, range(40))
    wanted = ranked[:rerank][::-1] + ranked[rerank:]
    found = answer_reranked(gallery, top_k=top_k, rerank=rerank)
    assert [hit.row for hit in found.hits] == wanted[:top_k] and found.notes == ["a note"]
    assert [hit.rank for hit in found.hits] == list(range(1, top_k + 1))


def test_reranking_of_more_than_there_are_is_told(gallery, reversing):
    found = answer_reranked(gallery, top_k=5, rerank=20, where=NIGHT)
    assert [hit.row for hit in found.hits] == best(gallery, range(12))[::-1][:5]
    assert found.notes == [
        "a note",
        "re-ranking of 20, but the filter leaves 12 images: all of them are re-ranked",
    ]


@pytest.mark.parametrize(("number", "more"), [(4, []), (5, []), (7, ["and 2 more images that cannot be read"])])
def test_images_that_cannot_be_reranked_are_named_without_their_folders(gallery, reversing, number, more):
    names = [row.path.lstrip("/") for row in best(gallery, range(40))[:number]]
    reversing.update(names)
    assert answer_reranked(gallery, top_k=5, rerank=20).notes == [
        "a note",
        *(f"behind the re-ranked images, since it cannot be read: {name}: damaged" for name in names[:5]),
        *more,
    ]


def test_what_cannot_be_reranked_is_refused(gallery):
    with pytest.raises(ValueError, match="re-ranking needs a re-ranker"):
        answer_sentence(gallery, SentenceEncoder(), "a man", SearchOptions(5, rerank=5))
    with pytest.raises(ValueError, match="re-ranking reads a sentence, not an image"):
        answer(gallery, top_k=5, rerank=5)
