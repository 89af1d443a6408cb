"""TEM writes predictions at masked positions only, above its confidence floor, never a special token."""

import pytest
import torch

from aga_model.enrichment import TextEnrichment, sample_rows

IDS = torch.tensor([[9, 5, 6, 7, 8], [9, 1, 2, 8, 8]])
MASKED = torch.tensor([[False, True, False, True, False], [False, False, True, False, False]])


def _logits(*probabilities):
    return torch.tensor(probabilities).log()


def _by_caption(logits, masked=MASKED):
    """Logits (masked tokens, vocabulary) in row-major order as (batch, most masked tokens, vocabulary)."""
    counts = masked.sum(1).tolist()
    parts = logits.split(counts)
    filler = torch.full((max(counts), logits.shape[1]), 3.0)
    return torch.stack([torch.cat([part, filler[len(part) :]]) for part in parts])


def test_argmax_writes_the_most_likely_ordinary_token():
    logits = torch.full((3, 10), -5.0)
    logits[0, 4] = logits[1, 3] = logits[2, 0] = 2.0
    logits[:, 8] = 9.0  # a special token is the favourite and must not be written
    enriched = TextEnrichment("argmax", 0.0, [8, 9]).enrich(IDS, MASKED, _by_caption(logits))
    assert enriched.tolist() == [[9, 4, 6, 3, 8], [9, 1, 0, 8, 8]]
    assert IDS[0, 1] == 5  # the caption itself is untouched


def test_low_confidence_leaves_the_original():
    rows = [[0.05] * 10 for _ in range(3)]
    rows[0][4], rows[1][3] = 0.55, 0.3
    rows = [[p / sum(row) for p in row] for row in rows]
    enriched = TextEnrichment("argmax", 0.5, []).enrich(IDS, MASKED, _by_caption(_logits(*rows)))
    assert enriched.tolist() == [[9, 4, 6, 7, 8], [9, 1, 2, 8, 8]]


def test_sampling_follows_the_distribution():
    ids = IDS[:1].repeat(4000, 1)
    masked = torch.zeros_like(ids, dtype=torch.bool)
    masked[:, 1] = True
    logits = _logits([0.7, 0.2, 0.1, 0.0]).repeat(4000, 1, 1)
    torch.manual_seed(0)
    written = TextEnrichment("sample", 0.0, []).enrich(ids, masked, logits)[:, 1]
    shares = torch.bincount(written, minlength=4) / 4000
    torch.testing.assert_close(shares, torch.tensor([0.7, 0.2, 0.1, 0.0]), atol=0.03, rtol=0)


def test_nothing_masked():
    for capacity in (0, 2):
        logits = torch.zeros(2, capacity, 10)
        enriched = TextEnrichment("sample", 0.0, [0]).enrich(IDS, torch.zeros_like(MASKED), logits)
        assert torch.equal(enriched, IDS)


def test_the_floor_is_for_the_word_that_was_drawn():
    """Words of 0.6 and 0.4 at a floor of 0.5: the second is never written, although a likelier one was there."""
    ids = torch.full((2000, 3), 9)
    masked = torch.tensor([[False, True, False]]).expand(2000, -1)
    logits = _logits([0.6, 0.4, 0.0, 0.0]).expand(2000, 1, -1)
    torch.manual_seed(0)
    written = TextEnrichment("sample", 0.5, []).enrich(ids, masked, logits)[:, 1]
    shares = torch.bincount(written, minlength=10) / 2000
    assert shares[0].item() == pytest.approx(0.6, abs=0.04) and shares[9].item() == pytest.approx(0.4, abs=0.04)


def test_words_of_a_caption_are_drawn_one_by_one():
    torch.manual_seed(0)
    logits = torch.zeros(3000, 2, 2)
    written = TextEnrichment("sample", 0.0, []).enrich(
        torch.full((3000, 2), 5), torch.ones(3000, 2, dtype=torch.bool), logits
    )
    shares = torch.bincount(2 * written[:, 0] + written[:, 1], minlength=4) / 3000
    torch.testing.assert_close(shares, torch.full((4,), 0.25), atol=0.04, rtol=0)


def test_rows_are_drawn_by_shares_that_need_no_sum_of_one():
    torch.manual_seed(0)
    drawn = sample_rows(torch.tensor([[0.0, 3.0, 0.0, 1.0]]).repeat(4000, 1))
    shares = torch.bincount(drawn, minlength=4) / 4000
    torch.testing.assert_close(shares, torch.tensor([0.0, 0.75, 0.0, 0.25]), atol=0.03, rtol=0)
    assert sample_rows(torch.full((2, 3), float("nan"))).tolist() == [2, 2]  # an index, whatever it is


def test_the_logits_are_left_as_they_were():
    logits = torch.randn(2, 2, 10)
    before = logits.clone()
    TextEnrichment("sample", 0.0, [8, 9]).enrich(IDS, MASKED, logits)
    assert torch.equal(logits, before)
