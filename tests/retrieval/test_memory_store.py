"""A third store is one file and one row of a table: commands and galleries use it as they use the others."""

import json

import pytest
from command_line import aga
from memory_store import MemoryStore
from store_worker import DIM, MODEL, unit
from test_store import FILTERS, photographs

from aga_model.gallery import Gallery, GalleryError, GallerySettings
from aga_model.gallery.stores import STORES, StoreKind


@pytest.fixture(autouse=True)
def known(monkeypatch):
    kind = StoreKind("memory_store", "MemoryStore", "a gallery in memory", "memory://name", "nothing", "search")
    monkeypatch.setitem(STORES, "memory", kind)
    monkeypatch.setattr("memory_store._KEPT", {})


def filled(location):
    gallery = Gallery.create(location, MODEL, DIM, "model")
    assert not gallery.is_made and gallery.search(unit(1), 3) == [[]] and gallery.count() == 0
    gallery.add(unit(60), photographs(60))
    return gallery


def test_it_answers_as_a_gallery_in_a_folder_does(tmp_path):
    pytest.importorskip("lancedb", reason="the extra `search` is not installed")
    memory, folder = filled("memory://people"), filled(tmp_path / "people")
    for where, _ in FILTERS:
        assert memory.count(where) == folder.count(where), where
        found, wanted = (each.search(unit(2, seed=1), 7, where) for each in (memory, folder))
        assert [[(hit.row, hit.rank) for hit in hits] for hits in found] == [
            [(hit.row, hit.rank) for hit in hits] for hits in wanted
        ], where
    for where, _ in FILTERS[:2]:
        assert memory.delete(where) == folder.delete(where) > 0
    for each in (memory, folder):
        each.change_settings(GallerySettings(hide_faces=True))
        assert each.search(unit(1), 1)[0][0].hide_faces
    assert {row.id for row in Gallery.open("memory://people").rows()} == {row.id for row in folder.rows()}


def test_commands_take_its_locations(image_folder, model_folder):
    aga("index", image_folder, "--model", model_folder, "--out", "memory://people")
    found = json.loads(aga("search", "memory://people", "a man in a red coat", "--json").stdout)
    assert len(found["hits"]) == 7 and isinstance(Gallery.open("memory://people")._store, MemoryStore)
    assert "7 images" in aga("gallery", "info", "memory://people").stdout


def test_others_are_refused_with_the_forms_that_there_are():
    with pytest.raises(GalleryError, match=r"at milvus://host:port/collection or at memory://name, not at redis"):
        Gallery.open("redis://host/people")
