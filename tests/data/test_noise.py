"""Noise in training captions: exact shares, wrong values, and a record that points at every error."""

import json
from collections import Counter

import numpy as np
import pytest
from datasets import Dataset

from aga_model.data import NoiseRecord, add_noise, find_mentions, phrases_of
from aga_model.data.benchmarks import FEATURES
from aga_model.data.noise import _derange, _replace_phrases, corrupt_attributes, permute_captions

CAPTION = "A man with short brown hair wears an orange shirt, blue jeans and a pair of white sneakers."


def _rows(captions, person_ids):
    size = len(captions)
    return Dataset.from_dict(
        {
            "image": [{"path": f"{row}.jpg", "bytes": None} for row in range(size)],
            "caption": captions,
            "person_id": person_ids,
            "image_id": list(range(size)),
            "camera_id": ["c1"] * size,
            "split": ["train"] * size,
        },
        features=FEATURES,
    )


@pytest.fixture
def people():
    """100 rows of 25 persons, four each, every caption unlike the others."""
    return _rows([f"{CAPTION} Number {row}." for row in range(100)], [row // 4 for row in range(100)])


def _without_captions(rows):
    return rows.remove_columns("caption").to_dict()


# --- permuted captions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "count"), [(0.2, 20), (0.5, 50), (0.034, 3), (0.037, 4), (0.99, 99)])
def test_exactly_the_share_is_permuted_between_persons(people, rate, count):
    noisy, record = permute_captions(people, rate, seed=0)
    before, after, persons = people["caption"][:], noisy["caption"][:], people["person_id"][:]
    changed = [row for row in range(100) if before[row] != after[row]]
    assert len(changed) == len(record.permuted) == count
    assert sorted(record.permuted) == sorted(record.permuted.values()) == changed
    for row, source in record.permuted.items():
        assert after[row] == before[source] and persons[row] != persons[source]
    assert sorted(before) == sorted(after)
    assert noisy.features == people.features and _without_captions(noisy) == _without_captions(people)


def test_two_persons_with_half_each_cross_over():
    """A choice of four rows that are not two and two is drawn again."""
    rows = _rows([str(row) for row in range(40)], [0] * 20 + [1] * 20)
    for seed in range(20):
        _, record = permute_captions(rows, 0.1, seed)
        assert len(record.permuted) == 4
        assert all((row < 20) != (source < 20) for row, source in record.permuted.items())


def test_all_nine_derangements_of_four_come_up():
    rng = np.random.default_rng(0)
    found = Counter(tuple(_derange(np.arange(4), rng).tolist()) for _ in range(900))
    assert len(found) == 9 and min(found.values()) > 50


@pytest.mark.parametrize(
    ("person_ids", "rate"), [([0] * 10, 0.5), ([0] * 9 + [1], 0.9), ([0, 1, 2, 3], 0.25), ([0, 0, 0, 1, 2], 0.99)]
)
def test_an_impossible_permutation_is_refused(person_ids, rate):
    rows = _rows(["a"] * len(person_ids), person_ids)
    with pytest.raises(ValueError, match=r"cannot permute \d+ of \d+ captions .* one person has more than half"):
        permute_captions(rows, rate, seed=0)


# --- wrong attribute phrases ------------------------------------------------------------------------------------


def test_recorded_errors_are_in_the_captions_and_wrong(people):
    noisy, record = corrupt_attributes(people, 0.3, seed=1)
    before, after = people["caption"][:], noisy["caption"][:]
    assert record.mentions == 9 * 100  # man short brown orange shirt blue jeans white sneakers
    assert 0.25 < len(record.errors) / record.mentions < 0.35
    for error in record.errors:
        assert after[error.row][error.start : error.end] == error.wrong
        values = phrases_of(error.attribute)
        assert error.right_value != error.wrong_value
        assert error.right in values[error.right_value] and error.wrong in values[error.wrong_value]
    for row in range(100):  # with the errors undone, from the last to the first, only the articles can differ
        caption = after[row]
        for error in sorted((e for e in record.errors if e.row == row), key=lambda e: -e.start):
            caption = caption[: error.start] + error.right + caption[error.end :]
        assert caption.replace("wears a orange", "wears an orange") == before[row]
    assert _without_captions(noisy) == _without_captions(people)


def test_every_mention_is_as_likely_and_every_wrong_value_too():
    rows = _rows([CAPTION] * 3000, list(range(3000)))
    _, record = corrupt_attributes(rows, 0.2, seed=0)
    starts = {mention.start: mention.attribute for mention in find_mentions(CAPTION)}
    per_attribute = Counter(error.attribute for error in record.errors)
    for attribute in ("gender", "hair_style", "hair_colour", "upper_type", "lower_type", "shoes_type"):
        assert per_attribute[attribute] == pytest.approx(600, abs=90)  # four standard deviations
    assert per_attribute["colour"] == pytest.approx(1800, abs=155)
    assert set(per_attribute) == set(starts.values())
    wrong = Counter(error.wrong_value for error in record.errors if error.attribute == "lower_type")
    assert wrong.keys() == {"pants", "shorts", "leggings", "skirt"}
    assert min(wrong.values()) > 100 and max(wrong.values()) < 200
    assert {error.wrong for error in record.errors if error.wrong_value == "skirt"} == {"skirt"}
    assert {e.wrong for e in record.errors if e.wrong_value == "pants"} == set(phrases_of("lower_type")["pants"])


def test_articles_and_capitals_by_hand():
    caption = "An orange shirt, an open Red coat, a  blue bag, AN olive cap and a pair of boots."
    wrong = {"orange": "navy blue", "Red": "olive", "blue": "orange", "olive": "teal", "boots": "sandals"}
    replaced = [
        (mention, "any", wrong[phrase])
        for mention in find_mentions(caption)
        if (phrase := caption[mention.start : mention.end]) in wrong
    ]
    noisy, errors = _replace_phrases(caption, 7, replaced)
    assert noisy == "A navy blue shirt, an open Olive coat, an  orange bag, A teal cap and a pair of sandals."
    assert [(error.right, error.wrong, error.start) for error in errors] == [
        ("orange", "navy blue", 2), ("Red", "Olive", 27), ("blue", "orange", 43), ("olive", "teal", 57),
        ("boots", "sandals", 80),
    ]  # fmt: skip
    assert all(noisy[error.start : error.end] == error.wrong and error.row == 7 for error in errors)


def test_every_article_before_an_error_fits():
    captions = ["An orange coat and a red umbrella, a hoodie", "An olive coat and a blue umbrella, an overcoat"]
    rows = _rows(captions * 150, list(range(300)))
    noisy, record = corrupt_attributes(rows, 0.5, seed=0)
    captions, seen = noisy["caption"][:], Counter()
    for error in record.errors:
        before = captions[error.row][: error.start].split()[-1:]
        if before and before[0].lower() in ("a", "an"):
            assert before[0].lower() == ("an" if error.wrong[0] in "aeiou" else "a"), captions[error.row]
            seen[before[0]] += 1
    assert set(seen) == {"A", "An", "a", "an"}


def test_wrong_phrases_are_those_that_the_captions_use():
    rows = _rows(["a red coat", "a navy blue coat", "a gray jacket", "a man in a grey hoodie"] * 100, list(range(400)))
    _, record = corrupt_attributes(rows, 0.5, seed=0)
    wrong = {
        attribute: {e.wrong for e in record.errors if e.attribute == attribute}
        for attribute in ("colour", "upper_type")
    }
    assert wrong == {"colour": {"red", "navy blue", "gray", "grey"}, "upper_type": {"coat", "jacket", "hoodie"}}
    genders = {error.wrong for error in record.errors if error.attribute == "gender"}
    assert genders <= set(phrases_of("gender")["woman"]) and genders  # the captions name men only: all words for women


def test_a_row_draws_for_itself():
    """Neither the other rows nor a lower rate change what a row gets; another seed or row does."""
    alone, _ = corrupt_attributes(_rows(["nothing", CAPTION], [0, 1]), 0.5, seed=4)
    among, record = corrupt_attributes(_rows([CAPTION] * 3, [0, 1, 2]), 0.5, seed=4)
    assert alone["caption"][1] == among["caption"][1]
    assert len(set(among["caption"][:])) == 3
    other, _ = corrupt_attributes(_rows([CAPTION] * 3, [0, 1, 2]), 0.5, seed=5)
    assert not set(other["caption"][:]) & set(among["caption"][:])

    def keys(found):
        return {(error.row, error.right, error.wrong) for error in found.errors}

    _, fewer = corrupt_attributes(_rows([CAPTION] * 3, [0, 1, 2]), 0.25, seed=4)
    assert keys(fewer) < keys(record)


# --- both -------------------------------------------------------------------------------------------------------


def test_errors_are_recorded_where_their_caption_stands(people):
    noisy, record = add_noise(people, 0.4, 0.3, seed=2)
    corrupted, errors = corrupt_attributes(people, 0.3, seed=2)
    moved = permute_captions(people, 0.4, seed=2)[1].permuted
    assert record.permuted == moved and len(moved) == 40
    after = noisy["caption"][:]
    assert after == [corrupted["caption"][moved.get(row, row)] for row in range(100)]
    assert len(record.errors) == len(errors.errors) > 200
    assert any(error.row in moved for error in record.errors)
    for error in record.errors:
        assert after[error.row][error.start : error.end] == error.wrong
    places = [(error.row, error.start) for error in record.errors]
    assert places == sorted(places)
    counts = record.summary()
    assert counts == {
        "seed": 2, "noisy_correspondence": 0.4, "caption_errors": 0.3, "rows": 100, "permuted_rows": 40,
        "mentions": 900, "errors": len(record.errors),
    }  # fmt: skip


def test_the_seed_decides(people):
    first, record = add_noise(people, 0.3, 0.2, seed=7)
    again, same = add_noise(people, 0.3, 0.2, seed=7)
    assert first["caption"][:] == again["caption"][:] and record == same
    other, different = add_noise(people, 0.3, 0.2, seed=8)
    assert other["caption"][:] != first["caption"][:]
    assert set(different.permuted) != set(record.permuted) and different.errors != record.errors


def test_a_record_survives_json(people):
    _, record = add_noise(people, 0.3, 0.2, seed=7)
    values = json.loads(json.dumps(record.to_json()))
    assert NoiseRecord.from_json(values) == record
    assert values["counts"] == {"rows": 100, "permuted_rows": 30, "mentions": 900, "errors": len(record.errors)}
    assert (values["seed"], values["noisy_correspondence"], values["caption_errors"]) == (7, 0.3, 0.2)


def test_no_noise_is_the_same_rows(people):
    noisy, record = add_noise(people, 0.0, 0.0, seed=0)
    assert noisy is people and record == NoiseRecord(seed=0, rows=100)
    assert permute_captions(people, 0.004, seed=0)[0] is people  # rounds to no row


def test_rows_of_a_selection_keep_their_features(people):
    chosen = people.select(range(40, 80))
    noisy, record = add_noise(chosen, 0.5, 0.2, seed=0)
    assert noisy["image_id"][:] == list(range(40, 80)) and noisy.features == FEATURES
    assert max(record.permuted) < 40


@pytest.mark.parametrize("rate", [-0.1, 1.0, 20, float("nan")])
def test_bad_settings_are_named(people, rate):
    with pytest.raises(ValueError, match="noisy_correspondence must be at least 0 and below 1, got"):
        add_noise(people, rate, 0.0, seed=0)
    with pytest.raises(ValueError, match="caption_errors must be at least 0 and below 1, got"):
        add_noise(people, 0.0, rate, seed=0)
    for function in (permute_captions, corrupt_attributes):
        with pytest.raises(ValueError, match="rate must be at least 0 and below 1, got"):
            function(people, rate, seed=0)
    with pytest.raises(ValueError, match="seed of the noise must be at least 0, got -1"):
        add_noise(people, 0.0, 0.1, seed=-1)
