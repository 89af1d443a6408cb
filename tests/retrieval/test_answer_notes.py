"""What an answer says about how many images there are, whatever a store finds."""

import numpy as np
import pytest
from store_worker import DIM, MODEL, unit

from aga_model.retrieval import Filter, Gallery, GalleryRow
from aga_model.retrieval.searching import Ranking, answer_image

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
    from aga_model.retrieval.lance_store import LanceStore

    search = LanceStore.search

    def few(self, queries, top_k, where=None):
        found = search(self, queries, top_k, where)
        return found if top_k >= self.count(where) else [hits[:3] for hits in found]

    monkeypatch.setattr(LanceStore, "search", few)
    return gallery


def answer(gallery, **ranking):
    return answer_image(gallery, Encoder(), None, "an image", Ranking(**ranking))


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
    from aga_model.retrieval.lance_store import LanceStore

    search = LanceStore.search
    monkeypatch.setattr(LanceStore, "search", lambda *arguments: [hits[:3] for hits in search(*arguments)])
    found = answer(gallery, top_k=20, where=NIGHT)
    assert found.notes == ["20 results wanted, but the filter leaves 12 images: 3 of them are listed"]
    assert np.all(np.diff([hit.score for hit in found.hits]) <= 0)
