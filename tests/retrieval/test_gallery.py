import json
import os

import numpy as np
import pytest

from aga_model.retrieval.gallery import Gallery, GalleryError

DIM = 8
HASH = "a" * 64


def unit(count, seed=0):
    rows = np.random.default_rng(seed).normal(size=(count, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def facts(count, prefix="image"):
    return [
        {"path": f"/people/{prefix}-{i:04}.jpg", "sha256": f"{i:064x}", "width": 20, "height": 40}
        for i in range(count)
    ]


def make(path, count=50, seed=0):
    gallery = Gallery.create(path, HASH, DIM, "some/model")
    gallery.add(unit(count, seed), facts(count), model_hash=HASH)
    gallery.save()
    return gallery


def state(path):
    gallery = Gallery.open(path)
    return gallery.embeddings.copy(), list(gallery.rows)


def same(left, right):
    return np.array_equal(left[0], right[0]) and left[1] == right[1]


def test_round_trip(tmp_path):
    made = make(tmp_path / "g")
    opened = Gallery.open(tmp_path / "g")
    assert (opened.model_name, opened.model_hash, opened.dim, opened.count()) == ("some/model", HASH, DIM, 50)
    assert np.array_equal(opened.embeddings, unit(50))
    assert list(opened.rows) == facts(50) == list(made.rows)


@pytest.mark.parametrize("top_k", [1, 7, 50, 80])
def test_search_is_brute_force(tmp_path, top_k):
    gallery = make(tmp_path / "g")
    queries = unit(5, seed=1)
    scores = queries.astype(np.float64) @ unit(50).astype(np.float64).T
    for query, hits in enumerate(gallery.search(queries, top_k)):
        expected = sorted(range(50), key=lambda row: (-scores[query, row], row))[:top_k]
        assert [hit.row for hit in hits] == [facts(50)[row] for row in expected]
        assert [hit.rank for hit in hits] == list(range(1, len(expected) + 1))
        assert np.allclose([hit.score for hit in hits], scores[query, expected], atol=1e-12)


@pytest.mark.parametrize("dim", [16, 100, 512])
def test_equal_embeddings_keep_the_order_of_rows(tmp_path, dim):
    """A matrix product rounds by the row's place: `embeddings @ query` gives equal rows unequal scores here."""
    same, query = np.random.default_rng(0).normal(size=dim), np.random.default_rng(1).normal(size=dim)
    embeddings = np.tile((same / np.linalg.norm(same)).astype(np.float32), (1001, 1))
    query = (query / np.linalg.norm(query)).astype(np.float32)[None]
    gallery = Gallery.create(tmp_path / "g", HASH, dim, "m")
    gallery.add(embeddings, facts(1001), model_hash=HASH)
    for top_k in (1, 5, 400, 1001):
        for hits in gallery.search(np.concatenate([query, -query]), top_k):
            assert [hit.row for hit in hits] == facts(top_k)
            assert len({hit.score for hit in hits}) == 1


def test_search_of_an_empty_gallery_and_bad_queries(tmp_path):
    gallery = Gallery.create(tmp_path / "g", HASH, DIM, "m")
    assert gallery.search(unit(2), 3) == [[], []]
    with pytest.raises(ValueError, match="top_k"):
        gallery.search(unit(1), 0)
    with pytest.raises(ValueError, match=r"\(n, 8\)"):
        gallery.search(unit(1)[:, :4], 1)
    with pytest.raises(ValueError, match="unit length"):
        gallery.search(unit(1) * 2, 1)
    with pytest.raises(ValueError, match="unit length"):
        gallery.search(unit(1) * np.nan, 1)


def test_add_checks_its_input(tmp_path):
    gallery = Gallery.create(tmp_path / "g", HASH, DIM, "m")
    with pytest.raises(GalleryError, match="was made with model m"):
        gallery.add(unit(1), facts(1), model_hash="b" * 64)
    with pytest.raises(ValueError, match="2 embeddings but 1 rows"):
        gallery.add(unit(2), facts(1), model_hash=HASH)
    with pytest.raises(ValueError, match="same path"):
        gallery.add(unit(2), facts(1) * 2, model_hash=HASH)
    with pytest.raises(ValueError, match="no 'path'"):
        gallery.add(unit(1), [{"sha256": "0"}], model_hash=HASH)
    assert gallery.count() == 0


def test_adding_a_known_path_replaces_it(tmp_path):
    gallery = make(tmp_path / "g", count=5)
    changed = {**facts(5)[2], "sha256": "new"}
    gallery.add(unit(1, seed=9), [changed], model_hash=HASH)
    assert list(gallery.rows) == [*facts(5)[:2], *facts(5)[3:], changed]
    assert np.array_equal(gallery.embeddings, np.concatenate([np.delete(unit(5), 2, axis=0), unit(1, seed=9)]))


def test_every_interruption_of_a_save_leaves_old_or_new(tmp_path, monkeypatch):
    """Raise at the k-th call of each function that touches the disk, for every k, until the save goes through."""
    new_rows, new_embeddings = facts(3, "new"), unit(3, seed=5)
    for function in ("replace", "fsync"):
        real = getattr(os, function)
        outcomes = []
        for fails_at in range(1, 20):
            path = tmp_path / f"{function}-{fails_at}"
            make(path)
            old = state(path)
            new = np.concatenate([old[0], new_embeddings]), old[1] + new_rows
            gallery = Gallery.open(path)
            gallery.add(new_embeddings, new_rows, model_hash=HASH)
            calls = 0

            def interrupted(*arguments, real=real, fails_at=fails_at):
                nonlocal calls
                calls += 1
                if calls == fails_at:
                    raise KeyboardInterrupt
                return real(*arguments)

            with monkeypatch.context() as patch:
                patch.setattr(os, function, interrupted)
                try:
                    gallery.save()
                    finished = True
                except KeyboardInterrupt:
                    finished = False
            found = state(path)
            assert same(found, old) or same(found, new)
            outcomes.append("new" if same(found, new) else "old")
            # The gallery can be written again, and nothing of the interrupted save stays.
            again = Gallery.open(path)
            again.add(unit(1, seed=6), facts(1, "again"), model_hash=HASH)
            again.save()
            assert state(path)[1][-1] == facts(1, "again")[0]
            assert sum(name.startswith(("rows-", "embeddings-")) for name in os.listdir(path)) == 2
            if finished:
                break
        assert finished
        assert outcomes == sorted(outcomes, reverse=True)  # old ... old new ... new
        assert outcomes[0] == "old" and outcomes[-1] == "new" and len(outcomes) > 3


def test_interrupted_first_save_leaves_no_gallery_and_can_be_repeated(tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "g")
    with pytest.raises(GalleryError, match="holds no gallery"):
        Gallery.open(tmp_path / "g")
    make(tmp_path / "g")
    assert Gallery.open(tmp_path / "g").count() == 50


@pytest.mark.parametrize("by_path", [True, False])
def test_deletion_leaves_nothing_on_disk(tmp_path, by_path):
    path = tmp_path / "g"
    make(path)
    secret = facts(50)[17]["path"]
    before = b"".join(file.read_bytes() for file in path.iterdir())
    assert secret.encode() in before and unit(50)[17].tobytes() in before
    gallery = Gallery.open(path)
    assert gallery.delete([secret] if by_path else lambda row: row["path"] == secret) == 1
    after = b"".join(file.read_bytes() for file in path.iterdir())
    assert secret.encode() not in after and unit(50)[17].tobytes() not in after
    embeddings, rows = state(path)
    assert rows == [row for row in facts(50) if row["path"] != secret]
    assert np.array_equal(embeddings, np.delete(unit(50), 17, axis=0))
    assert gallery.delete([secret]) == 0
    assert gallery.delete(facts(50)[0]["path"]) == 1  # a single path is no list of letters


def test_deletion_cut_off_after_its_commit_is_finished_by_opening(tmp_path, monkeypatch):
    path = tmp_path / "g"
    make(path)
    monkeypatch.setattr("aga_model.retrieval.gallery._remove_generations", lambda *arguments: None)
    Gallery.open(path).delete([facts(50)[17]["path"]])
    monkeypatch.undo()
    assert (path / "rows-1.jsonl").exists()
    assert Gallery.open(path).count() == 49
    assert not (path / "rows-1.jsonl").exists() and not (path / "embeddings-1.safetensors").exists()


def test_two_writers_cannot_lose_each_others_rows(tmp_path):
    make(tmp_path / "g")
    first, second = Gallery.open(tmp_path / "g"), Gallery.open(tmp_path / "g")
    first.add(unit(1), facts(1, "first"), model_hash=HASH)
    second.add(unit(1), facts(1, "second"), model_hash=HASH)
    first.save()
    with pytest.raises(GalleryError, match="changed by another process"):
        second.save()
    assert state(tmp_path / "g")[1][-1] == facts(1, "first")[0]


def test_reader_meets_a_writer(tmp_path, monkeypatch):
    """The content files vanish between reading gallery.json and reading them."""
    make(tmp_path / "g")
    from aga_model.retrieval import gallery as module

    real = module._read_embeddings
    writer = Gallery.open(tmp_path / "g")

    def late(path, manifest):
        if manifest.generation == 1:
            writer.delete([facts(50)[0]["path"]])
        return real(path, manifest)

    monkeypatch.setattr(module, "_read_embeddings", late)
    assert Gallery.open(tmp_path / "g").count() == 49


def damage_manifest(path, **changes):
    file = path / "gallery.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def truncate(file):
    file.write_bytes(file.read_bytes()[:-20])


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda path: (path / "gallery.json").unlink(), r"gallery\.json is missing"),
        (lambda path: (path / "gallery.json").write_text("{"), r"gallery\.json is damaged"),
        (lambda path: (path / "gallery.json").write_bytes(b"\xff\xfe{}"), r"gallery\.json is damaged"),
        (lambda path: (path / "gallery.json").write_text("[]"), r"gallery\.json is damaged"),
        (lambda path: damage_manifest(path, count=None), r"gallery\.json is damaged \(count is None\)"),
        (lambda path: damage_manifest(path, format_version=2), "update aga-model"),
        (lambda path: damage_manifest(path, count=49), r"embeddings-1\.safetensors holds float32 \(50, 8\)"),
        (lambda path: damage_manifest(path, dim=9), r"embeddings-1\.safetensors holds"),
        (lambda path: (path / "embeddings-1.safetensors").unlink(), r"embeddings-1\.safetensors is missing"),
        (lambda path: truncate(path / "embeddings-1.safetensors"), r"embeddings-1\.safetensors is missing or damaged"),
        (lambda path: (path / "rows-1.jsonl").unlink(), r"rows-1\.jsonl is missing"),
        (lambda path: truncate(path / "rows-1.jsonl"), r"rows-1\.jsonl, line 50 is damaged"),
        (lambda path: (path / "rows-1.jsonl").write_text('{"path": "a"}\n'), r"rows-1\.jsonl holds 1 rows"),
        (lambda path: (path / "rows-1.jsonl").write_text("{}\n"), r"rows-1\.jsonl, line 1 is damaged"),
    ],
)
def test_damaged_gallery_names_the_file(tmp_path, damage, message):
    make(tmp_path / "g")
    damage(tmp_path / "g")
    with pytest.raises(GalleryError, match=message):
        Gallery.open(tmp_path / "g")
    gallery = Gallery.create(tmp_path / "g", HASH, DIM, "m", overwrite=True)
    gallery.add(unit(2), facts(2), model_hash=HASH)
    gallery.save()
    assert Gallery.open(tmp_path / "g").count() == 2


def test_create_is_careful_about_its_place(tmp_path):
    make(tmp_path / "g")
    with pytest.raises(GalleryError, match="holds a gallery already"):
        Gallery.create(tmp_path / "g", HASH, DIM, "m")
    (tmp_path / "file").touch()
    with pytest.raises(GalleryError, match="is a file"):
        Gallery.create(tmp_path / "file", HASH, DIM, "m")
    with pytest.raises(GalleryError, match="cannot be made"):
        Gallery.create(tmp_path / "file" / "g", HASH, DIM, "m")
    for overwrite in (False, True):
        with pytest.raises(GalleryError, match="holds other files"):
            Gallery.create(tmp_path, HASH, DIM, "m", overwrite=overwrite)
    Gallery.create(tmp_path / "new" / "g", HASH, DIM, "m")
    assert not (tmp_path / "new").exists()  # nothing before save


def test_overwritten_gallery_stays_until_the_save(tmp_path):
    make(tmp_path / "g")
    gallery = Gallery.create(tmp_path / "g", "b" * 64, DIM, "other", overwrite=True)
    assert Gallery.open(tmp_path / "g").count() == 50
    gallery.save()
    assert (Gallery.open(tmp_path / "g").count(), Gallery.open(tmp_path / "g").model_name) == (0, "other")


def test_damaged_utf8_in_a_path_survives(tmp_path):
    gallery = Gallery.create(tmp_path / "g", HASH, DIM, "m")
    paths = ["/people/\udcff.jpg", "/people/line\nbreak\u2028.jpg", "/people/照片.jpg"]
    gallery.add(unit(3), [{"path": path} for path in paths], model_hash=HASH)
    gallery.save()
    assert [row["path"] for row in Gallery.open(tmp_path / "g").rows] == paths
