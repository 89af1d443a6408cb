"""What the MLM reads and what TEM repairs or spoils, on predictions that the tests dictate."""

import random
import re

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from aga_model.data import CaptionError, train_tokenizer
from aga_model.data.noise import corrupt_attributes
from aga_model.evaluation.diagnostics import language as language_diagnostics
from aga_model.evaluation.diagnostics.language import (
    _Judged,
    _outcomes,
    _written,
    choose_words,
    enrichment_truth,
    mlm_accuracy,
    wrong_rows,
)

CAPTIONS = [
    "A young man wearing a navy blue jacket, black trousers and white sneakers.",
    "The woman has long brown hair and carries a red handbag over her shoulder.",
    "A girl in a yellow dress with a striped scarf walks away from the camera.",
    "He wears a green hoodie, grey shorts and a pair of orange running shoes.",
]

WORDS = frozenset({"red", "blue", "navy", "jacket", "black", "trousers", "white", "sneakers", "umbrella"})


def token(processor, word: str) -> int:
    (index,) = processor.tokenizer(word, add_special_tokens=False)["input_ids"]
    return index


@pytest.fixture
def grey_images(tmp_path):
    """Writes images of one grey level each and returns their paths."""

    def write(*levels: int) -> list[str]:
        paths = []
        for number, level in enumerate(levels):
            path = tmp_path / f"{number}.png"
            Image.fromarray(np.full((40, 20, 3), level, dtype=np.uint8)).save(path)
            paths.append(str(path))
        return paths

    return write


def predict_by_brightness(model, bright: int, dark: int) -> list[torch.Tensor]:
    """Makes the MLM predict token `bright` or `dark` by the image alone; collects the captions that it was given."""
    seen = []

    def fuse(ids, states):
        seen.append(ids)
        return states.expand(-1, ids.shape[1], -1)

    def head(states):
        logits = torch.zeros(len(states), model.config.text_config.vocab_size)
        logits[torch.arange(len(states)), torch.where(states[:, 0] > 0, bright, dark)] = 9.0
        return logits

    model.aga.get_image_features = lambda pixels: pixels
    model.aga.fusion_image_states = lambda pixels: pixels.mean(dim=(1, 2, 3))[:, None, None]
    model.fuse = fuse
    model.mlm_head.forward = head
    return seen


# --- what the MLM reads -------------------------------------------------------------------------------------------


def test_right_and_wrong_image_worked_out_by_hand(make_model, processor, grey_images):
    model = make_model()
    predict_by_brightness(model, token(processor, "red"), token(processor, "blue"))
    captions, paths = ["Red!", "blue", "red", "walks"], grey_images(255, 0, 250, 128)
    found = mlm_accuracy(model, processor, captions[:3], paths[:3], [5, 6, 7], WORDS)
    # In both cycles of three persons one of the two red captions gets the other bright image, and only that is right.
    assert found["attribute"] == {
        "right_image": 100.0,
        "wrong_image": pytest.approx(100 / 3),
        "read_from_image": pytest.approx(200 / 3),
        "words": 3,
    }
    assert found["stop"] == {"right_image": None, "wrong_image": None, "read_from_image": None, "words": 0}
    found = mlm_accuracy(model, processor, captions[2:], paths[2:], [1, 2], WORDS)
    assert found["attribute"]["words"] == found["stop"]["words"] == 1
    assert found["stop"]["right_image"] == 0.0


def test_a_word_is_right_only_with_all_its_tokens(make_model, processor, grey_images):
    model, pieces = make_model(), processor.tokenizer("umbrella", add_special_tokens=False)["input_ids"]
    assert len(pieces) > 1
    predict_by_brightness(model, pieces[-1], pieces[-1])
    found = mlm_accuracy(model, processor, ["umbrella", "blue"], grey_images(255, 0), [1, 2], WORDS)
    assert found["attribute"]["right_image"] == 0.0 and found["attribute"]["words"] == 2


def test_two_models_are_asked_for_the_same_whole_words(make_model, processor, grey_images, monkeypatch):
    monkeypatch.setattr(language_diagnostics, "BATCH_SIZE", 3)
    captions, paths, persons = CAPTIONS, grey_images(0, 90, 180, 255), [1, 1, 2, 3]
    asked, reports = [], []
    for seed in (0, 1):
        model = make_model(seed=seed)
        seen, fuse = [], model.fuse
        model.fuse = lambda ids, states, seen=seen, fuse=fuse: (seen.append(ids), fuse(ids, states))[1]
        reports.append(mlm_accuracy(model, processor, captions, paths, persons, WORDS, seed=4))
        asked.append(seen)
    assert len(asked[0]) == 4  # two batches, two images
    assert all(torch.equal(one, other) for one, other in zip(*asked))
    assert torch.equal(asked[0][0], asked[0][1])  # the right and the wrong image
    mask = processor.tokenizer.mask_token_id
    spans = choose_words(captions, seed=4)
    for row, caption in enumerate(captions):
        hidden = asked[0][row // 3 * 2][row % 3].tolist()
        kept = [index for index in hidden if index != mask and index < mask]
        expected = "".join(caption[a:b] for a, b in gaps(caption, spans[row]))
        assert "".join(processor.tokenizer.decode(kept).split()) == "".join(expected.lower().split())
        words = len(re.findall("[A-Za-z]+", caption))
        assert len(spans[row]) == max(1, round(0.15 * words))
    assert [report["attribute"]["words"] for report in reports] == [reports[0]["attribute"]["words"]] * 2
    assert sum(report["words"] for report in reports[0].values()) == sum(map(len, spans))


def gaps(caption: str, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The parts of a caption that no span covers."""
    edges = [0, *(edge for span in spans for edge in span), len(caption)]
    return list(zip(edges[::2], edges[1::2]))


def test_every_batch_shows_its_right_images_and_then_its_wrong_ones(make_model, processor, grey_images, monkeypatch):
    monkeypatch.setattr(language_diagnostics, "BATCH_SIZE", 3)
    shown, encode = [], language_diagnostics.encode_image_files

    def record(model, processor, paths):
        shown.append(paths)
        return encode(model, processor, paths)

    monkeypatch.setattr(language_diagnostics, "encode_image_files", record)
    paths, persons = grey_images(0, 90, 180, 255), [1, 2, 3, 4]
    mlm_accuracy(make_model(), processor, CAPTIONS, paths, persons, WORDS, seed=4)
    wrong = [paths[row] for row in wrong_rows(persons, 4)]
    assert shown == [paths[:3], wrong[:3], paths[3:], wrong[3:]]


def test_the_choice_of_words_follows_the_seed():
    assert choose_words(CAPTIONS, 0) == choose_words(CAPTIONS, 0) != choose_words(CAPTIONS, 1)
    assert choose_words(["", "12, 3!", "coat"], 0) == [[], [], [(0, 4)]]
    rows = choose_words(["one two three four five six seven"] * 30, 0)
    assert len({tuple(row) for row in rows}) == 7, "each row draws its own word"


def test_words_behind_the_text_length_are_left_out(make_model, processor, grey_images):
    captions = ["red " * 100, "blue"]
    # 40 positions less start-of-text and end-of-text hold the first 38 words.
    visible = sum(start < 38 * 4 for start, _ in choose_words(captions, 0)[0])
    assert 0 < visible < 15
    found = mlm_accuracy(make_model(), processor, captions, grey_images(0, 255), [1, 2], WORDS)
    assert found["attribute"]["words"] == visible + 1


def test_the_wrong_image_is_of_another_person():
    persons = [7, 7, 7, 7, 3, 9]
    for seed in range(20):
        rows = wrong_rows(persons, seed)
        assert all(persons[row] != person for row, person in zip(rows, persons))
        shown = {person: {persons[row] for row, p in zip(rows, persons) if p == person} for person in set(persons)}
        assert sorted(other for (other,) in shown.values()) == [3, 7, 9]  # a permutation of the persons
    assert wrong_rows(persons, 1) == wrong_rows(persons, 1)
    assert set(wrong_rows([4] * 40 + [5] * 3, 0)[:40]) == {40, 41, 42}, "any row of the other person may be drawn"
    with pytest.raises(ValueError, match="two persons"):
        wrong_rows([4, 4], 0)


def test_mode_and_random_states_stay_and_the_seed_decides(make_model, processor, grey_images):
    model, paths = make_model().train(), grey_images(0, 90, 180, 255)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()

    def measure(seed):
        accuracy = mlm_accuracy(model, processor, CAPTIONS, paths, [1, 2, 3, 4], WORDS, seed=seed)
        truth = enrichment_truth(model, processor, CAPTIONS, paths, [], seed=seed, rounds=20)
        return accuracy, truth

    first, other = measure(0), measure(3)
    assert first == measure(0) and first[0] != other[0] and first[1] != other[1]
    assert model.training
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states[1:]


def test_columns_of_different_lengths_are_refused(make_model, processor):
    with pytest.raises(ValueError, match="2 captions, 1 image_paths, 2 person_ids"):
        mlm_accuracy(make_model(), processor, ["red", "blue"], ["a.png"], [1, 2], WORDS)
    with pytest.raises(ValueError, match="0 captions"):
        enrichment_truth(make_model(), processor, [], [], [])


# --- what TEM repairs and spoils ----------------------------------------------------------------------------------


def write_by_table(model, processor, table: dict[str, str]) -> None:
    """Makes AGM mask exactly the words that the table has, and TEM write what it says."""
    ids_table = {token(processor, old): token(processor, new) for old, new in table.items()}

    def enrich(ids, masked, logits):
        assert logits.shape[:2] == (len(ids), masked.sum(dim=1).max())
        return torch.tensor(
            [[ids_table[i] if m else i for i, m in zip(*row)] for row in zip(ids.tolist(), masked.tolist())]
        )

    model.mask_probabilities = lambda ids, mask, attention: torch.isin(ids, torch.tensor(list(ids_table))).float()
    model.enrichment.enrich = enrich


def error(row: int, caption: str, phrase: str, attribute: str, right: str, wrong: str) -> CaptionError:
    start = caption.index(phrase)
    return CaptionError(row, start, start + len(phrase), attribute, right, wrong, right, phrase)


def test_repaired_spoilt_and_synonyms_worked_out_by_hand(make_model, processor, grey_images, monkeypatch):
    monkeypatch.setattr(language_diagnostics, "BATCH_SIZE", 2)
    model = make_model()
    table = {"black": "navy", "red": "yellow", "grey": "grey", "blue": "black", "woman": "girl", "jacket": "jacket"}
    write_by_table(model, processor, table)
    captions = [
        "A Black jacket.",  # black, wrong: repaired; jacket: kept
        "The woman in a red dress.",  # woman: a synonym; red, wrong: another wrong colour; dress is not masked
        "Navy blue trousers, grey shorts.",  # "navy black": spoilt; grey, wrong: kept
        "A girl in green.",  # nothing is masked
        "A woman in green.",  # woman, wrong: a synonym of the wrong value is neither repaired nor another error
    ]
    errors = [
        error(0, captions[0], "Black", "colour", "navy", "black"),
        error(1, captions[1], "red", "colour", "green", "red"),
        error(2, captions[2], "grey", "colour", "black", "gray"),
        error(3, captions[3], "green", "colour", "red", "green"),
        error(4, captions[4], "woman", "gender", "man", "woman"),
    ]
    expected = {
        "wrong_masked": 4,
        "repaired": 25.0,
        "repairable": 100.0,
        "changed_to_other_wrong": 25.0,
        "right_masked": 3,
        "spoilt": pytest.approx(100 / 3),
        "synonym": pytest.approx(100 / 3),
    }
    paths = grey_images(0, 60, 120, 180, 240)
    assert enrichment_truth(model, processor, captions, paths, errors) == expected
    twice = enrichment_truth(model, processor, captions, paths, errors, rounds=2)
    assert twice == {**expected, "wrong_masked": 8, "right_masked": 6}
    assert enrichment_truth(model, processor, captions[3:4], paths[:1], []) == {
        "wrong_masked": 0,
        "repaired": None,
        "repairable": None,
        "changed_to_other_wrong": None,
        "right_masked": 0,
        "spoilt": None,
        "synonym": None,
    }


def test_only_a_wholly_masked_error_of_a_fitting_length_can_be_repaired(processor):
    """A wrong phrase of two tokens, of which both, one or none may be masked; and one for which TEM lacks a token."""
    before = torch.tensor([token(processor, word) for word in ("a", "navy", "blue", "jacket")])
    after = before.clone()

    def outcomes(masked, fits=True, written=()):
        after[[1, 2]] = torch.tensor([token(processor, word) for word in (written or ("navy", "blue"))])
        phrase = _Judged(0, [1, 2], frozenset({"black red"}), fits, frozenset({"navy blue", "blue navy"}))
        return _outcomes(phrase, before, after, torch.tensor(masked), processor.tokenizer)

    whole, part = [False, True, True, False], [False, True, False, True]
    assert outcomes(whole) == ["wrong_masked", "still_wrong", "repairable"]
    assert outcomes(whole, fits=False) == ["wrong_masked", "still_wrong"]
    assert outcomes(part) == ["wrong_masked", "still_wrong"]
    assert outcomes(whole, written=("black", "red")) == ["wrong_masked", "repaired", "repairable"]
    assert outcomes(part, written=("blue", "navy")) == ["wrong_masked", "still_wrong"]
    assert outcomes(part, written=("black", "blue")) == ["wrong_masked", "changed_to_other_wrong"]


@pytest.mark.parametrize("strategy", ["attention", "random"])
def test_a_tem_that_writes_nothing_new_repairs_and_spoils_nothing(make_model, processor, grey_images, strategy):
    model = make_model(mask_strategy=strategy)
    model.enrichment.enrich = lambda ids, masked, logits: ids
    captions = [*CAPTIONS, "A man in a short-sleeved t-shirt, a long sleeve shirt and a T shirt."] * 3
    rows, record = corrupt_attributes(Dataset.from_dict({"caption": captions}), 0.4, 0)
    paths = grey_images(*[30] * len(captions))
    found = enrichment_truth(model, processor, list(rows["caption"]), paths, record.errors, rounds=3)
    assert 0 < found["wrong_masked"] < 3 * len(record.errors) and found["right_masked"] > 0
    names = ("repaired", "changed_to_other_wrong", "spoilt", "synonym")
    assert {name: found[name] for name in names} == dict.fromkeys(names, 0.0)


def test_a_piece_that_runs_on_into_the_next_word_is_no_phrase():
    tokenizer = train_tokenizer(["reddish redder redness redden red heavy-set"] * 8, vocab_size=620)
    vocabulary = tokenizer.get_vocab()
    assert _written(tokenizer, torch.tensor([vocabulary["red</w>"]])) == "red"
    assert _written(tokenizer, torch.tensor([vocabulary["red"]])) != "red"
    ids = tokenizer("Heavy-set", add_special_tokens=False, return_tensors="pt")["input_ids"][0]
    assert _written(tokenizer, ids) == "heavy set"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (CaptionError(1, 2, 5, "colour", "red", "black", "red", "black"), "caption 1"),
        (CaptionError(0, 2, 99, "colour", "red", "black", "red", "black"), "outside"),
        (CaptionError(0, 2, 7, "colour", "reddish", "black", "red", "black"), "'reddish' is no value"),
        (CaptionError(0, 2, 7, "mood", "glad", "sad", "glad", "sad"), "mood"),
    ],
)
def test_errors_that_do_not_fit_the_captions_are_refused(make_model, processor, grey_images, wrong, message):
    with pytest.raises(ValueError, match=message):
        enrichment_truth(make_model(), processor, ["A black coat"], grey_images(0), [wrong])
