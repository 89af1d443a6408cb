"""Shares of attribute words and examples of AGM and TEM, on cases worked out by hand."""

import numpy as np
import pytest
import torch
from PIL import Image

from aga_model.evaluation.diagnostics.masking import (
    attribute_tokens,
    enrichment_examples,
    masked_attribute_share,
    masking_probabilities,
)
from aga_model.evaluation.report import draw_curves

WORDS = frozenset({"red", "jacket", "t", "shirt", "navy"})


def test_tokens_of_attribute_words(processor):
    caption = "The RED-haired man wears a navy t-shirt; he is bored."
    tokens = processor.tokenizer.convert_ids_to_tokens(processor.tokenizer(caption)["input_ids"])
    flags = attribute_tokens([caption], processor, WORDS)[0]
    assert len(flags) == len(tokens)
    marked = "".join(token for token, flag in zip(tokens, flags) if flag).replace("</w>", " ").split()
    assert marked == ["red", "navy", "t", "shirt"]  # not "red" within "bored"


def test_share_under_random_masking_is_the_share_of_tokens(make_model, processor):
    captions = ["a red jacket", "he walks to the camera in a navy shirt"]
    shares = masked_attribute_share(make_model(), processor, captions, WORDS)
    expected = total = 0.0
    for caption in captions:
        flags = attribute_tokens([caption], processor, WORDS)[0]
        words = len(flags) - 2
        masked = max(1.0, 0.15 * words)
        expected += masked * sum(flags) / words
        total += masked
    assert shares["random"] == pytest.approx(100 * expected / total, abs=1e-3)
    assert set(shares) == {"attention", "random"}


def test_share_under_agm_is_the_mass_of_the_probabilities(make_model, processor):
    model, captions = make_model(), ["a man in a red jacket", "the navy shirt"]
    rows = masking_probabilities(model, processor, captions, "attention")
    flags = attribute_tokens(captions, processor, WORDS)
    on = sum(p for row, flag in zip(rows, flags) for p, attribute in zip(row, flag) if attribute)
    share = masked_attribute_share(model, processor, captions, WORDS)["attention"]
    assert share == pytest.approx(100 * on / sum(row.sum() for row in rows), abs=1e-3)


def test_examples_tell_masked_and_written_words(make_model, processor, tmp_path):
    model, caption = make_model(), "A young man wearing a navy blue jacket"
    path = tmp_path / "crop.png"
    Image.fromarray(np.zeros((40, 20, 3), dtype=np.uint8)).save(path)
    index = processor.tokenizer("umbrella", add_special_tokens=False)["input_ids"][0]
    model.enrichment.enrich = lambda ids, masked, logits: torch.where(masked, index, ids)
    state = torch.get_rng_state()
    tokens = enrichment_examples(model, processor, [caption], [str(path)])[0]
    assert torch.equal(torch.get_rng_state(), state)
    assert "".join(token.text for token in tokens).strip() == caption.lower()
    assert any(token.masked for token in tokens)
    for token in tokens:
        assert (token.written != token.text) == token.masked or token.written == token.text
        assert 0 <= token.probability <= 0.8 + 1e-6
        assert token.written == (processor.tokenizer.decode([index]) if token.masked else token.text)
    probabilities = masking_probabilities(model, processor, [caption], "attention")[0]
    assert [token.probability for token in tokens] == pytest.approx(probabilities[1:-1].tolist(), abs=1e-6)


def test_curves_are_drawn_for_the_losses_there_are():
    history = [
        {"step": 1, "loss": 3.0, "itc_loss": 2.0},
        {"step": 2, "loss": 2.0, "itc_loss": 1.0},
        {"step": 2, "eval_rank1": 20.0, "eval_mAP": 30.0},
    ]
    picture = draw_curves(history)
    assert picture.width > 600 and len(set(picture.convert("L").getdata())) > 10
    assert draw_curves([]).size == picture.size
