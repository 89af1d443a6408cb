"""Records of queries, their values and their file, on a ranking worked out by hand."""

import numpy as np
import pytest
import torch

from aga_model.evaluation import (
    SplitEmbeddings,
    caption_records,
    image_records,
    rank_matrix,
    read_records,
    record_values,
    require_same_queries,
    write_records,
)

# (captions, images); more captions than images, and no id that is also a row.
SIMILARITY = np.array([[0.9, 0.2, 0.5], [0.1, 0.2, 0.3], [0.1, 0.2, 0.3], [0.9, 0.8, 0.1]])


@pytest.fixture
def split():
    return SplitEmbeddings(
        torch.empty(3, 0),
        torch.empty(4, 0),
        gallery_person_ids=np.array([7, 7, 9]),
        query_person_ids=np.array([7, 9, 7, 9]),
        gallery_image_ids=np.array([101, 102, 103]),
        query_image_ids=np.array([102, 103, 101, 103]),
        gallery_paths=["a.png", "b.png", "c.png"],
        captions=["red", "green", "blue", "grey"],
    )


def by_caption(split, top_k=2):
    ranking = rank_matrix(SIMILARITY, split.query_person_ids, split.gallery_person_ids, top_k)
    return caption_records(split, ranking)


def test_what_a_caption_found(split):
    first, *_, last = by_caption(split)
    assert first == {
        "caption": "red",
        "person_id": 7,
        "image_id": 102,
        "relevant": 2,
        "first_rank": 1,
        "last_rank": 3,
        "AP": pytest.approx(100 * (1 / 1 + 2 / 3) / 2),
        "INP": pytest.approx(100 * 2 / 3),
        "top": [{"image_id": 101, "person_id": 7, "score": 0.9}, {"image_id": 103, "person_id": 9, "score": 0.5}],
    }
    assert (last["caption"], last["person_id"], last["image_id"], last["first_rank"]) == ("grey", 9, 103, 3)


def test_what_an_image_found(split):
    ranking = rank_matrix(SIMILARITY.T, split.gallery_person_ids, split.query_person_ids, top_k=4)
    records = image_records(split, ranking)
    assert [(record["person_id"], record["image_id"]) for record in records] == [(7, 101), (7, 102), (9, 103)]
    # "grey", of another person, is as similar as "red", and "green" as "blue".
    assert records[0]["top"] == [
        {"caption": "grey", "image_id": 103, "person_id": 9, "score": 0.9},
        {"caption": "red", "image_id": 102, "person_id": 7, "score": 0.9},
        {"caption": "green", "image_id": 103, "person_id": 9, "score": 0.1},
        {"caption": "blue", "image_id": 101, "person_id": 7, "score": 0.1},
    ]
    assert (records[0]["first_rank"], records[0]["last_rank"], records[0]["relevant"]) == (2, 4, 2)
    assert (records[0]["AP"], records[0]["INP"]) == (pytest.approx(50.0), pytest.approx(50.0))


def test_values_of_records():
    records = [{"first_rank": rank, "AP": 100.0 / rank, "INP": 50.0 / rank} for rank in (1, 2, 5, 6, 10, 11)]
    values = record_values(records)
    assert {name: row.tolist() for name, row in values.items()} == {
        "rank1": [100, 0, 0, 0, 0, 0],
        "rank5": [100, 100, 100, 0, 0, 0],
        "rank10": [100, 100, 100, 100, 100, 0],
        "mAP": [100.0 / rank for rank in (1, 2, 5, 6, 10, 11)],
        "mINP": [50.0 / rank for rank in (1, 2, 5, 6, 10, 11)],
    }


def test_a_file_of_records_comes_back_and_a_broken_line_is_named(split, tmp_path):
    records, path = by_caption(split), tmp_path / "queries.jsonl"
    write_records(path, records)
    assert read_records(path) == records
    lines = path.read_text(encoding="utf-8").splitlines()
    for broken in (lines[2][:40], '{"image_id": 1}', "[]", lines[2].replace('"AP": ', '"AP": "x", "ap": ')):
        path.write_text("\n".join([*lines[:2], broken, *lines[3:]]) + "\n", encoding="utf-8")
        with pytest.raises(ValueError, match=r"queries\.jsonl: line 3 is no result of a query"):
            read_records(path)


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("caption", "teal", "query 3 has caption 'teal', here it is 'blue'"),
        ("person_id", 9, "query 3 has person_id 9, here it is 7"),
        ("image_id", 103, "query 3 has image_id 103, here it is 101"),
    ],
)
def test_other_queries_are_not_compared(split, key, value, named):
    records, others = by_caption(split), by_caption(split)
    require_same_queries(records, others, "other")
    others[2][key] = value
    with pytest.raises(ValueError, match=named):
        require_same_queries(records, others, "other")
    with pytest.raises(ValueError, match="other holds 3 queries, this evaluation 4"):
        require_same_queries(records, others[:3], "other")
