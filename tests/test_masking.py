"""AGM: expectation, monotony, what is never masked, and the class attention behind it."""

import numpy as np
import pytest
import torch

from aga_model.configuration_aga import AgaBertTextConfig, AgaObjectiveConfig
from aga_model.masking import (
    AttentionGuidedMasking,
    RandomMasking,
    RandomSelection,
    aggregate_class_attention,
    best_patches,
    bounded_probabilities,
    corrupt_tokens,
    masked_positions,
    ordinary_tokens,
    patch_attention,
    sample_tokens,
)

BATCH, SEQ = 64, 24


@pytest.fixture
def captions(tokenizer, make_model):
    """Random captions of 1 to 20 words with start, end and padding, and their text configuration."""
    config = make_model().config.text_config
    torch.manual_seed(0)
    ids = torch.randint(0, config.mask_token_id, (BATCH, SEQ))
    ids[:, 0] = config.bos_token_id
    for row, length in enumerate(torch.randint(1, 21, (BATCH,)).tolist()):
        ids[row, length + 1 :] = config.eos_token_id
    return ids, config


def _attention(ordinary, power):
    attention = torch.rand(ordinary.shape).pow(power) * ordinary
    return attention / attention.sum(dim=1, keepdim=True)


@pytest.mark.parametrize("ratio", [0.15, 0.4])
@pytest.mark.parametrize("power", [1, 8])
def test_expected_number_of_masked_tokens(captions, ratio, power):
    ids, config = captions
    ordinary = ordinary_tokens(ids, None, config)
    probabilities = AttentionGuidedMasking(ratio, 0.8).probabilities(ordinary, _attention(ordinary, power))
    wanted = (ratio * ordinary.sum(1)).clamp(min=1.0)
    torch.testing.assert_close(probabilities.sum(1), wanted, atol=1e-3, rtol=0)
    counts = torch.stack([sample_tokens(probabilities).sum(1).float() for _ in range(400)])
    standard_error = counts.std(0) / 400**0.5
    assert ((counts.mean(0) - wanted).abs() < 4.5 * standard_error + 0.01).all()


def test_each_token_is_drawn_with_its_probability():
    probabilities = torch.tensor([[0.0, 0.8, 0.05, 0.5, 0.15, 0.5, 0.0]]).repeat(20_000, 1)
    torch.manual_seed(0)
    drawn = sample_tokens(probabilities)
    torch.testing.assert_close(drawn.float().mean(0), probabilities[0], atol=0.015, rtol=0)
    assert set(drawn.sum(1).tolist()) == {2}


def test_probability_is_monotone_in_attention(captions):
    ids, config = captions
    ordinary = ordinary_tokens(ids, None, config)
    attention = _attention(ordinary, 3)
    probabilities = AttentionGuidedMasking(0.3, 0.8).probabilities(ordinary, attention)
    for row in range(BATCH):
        words = ordinary[row]
        order = attention[row][words].argsort()
        assert (probabilities[row][words][order].diff() >= -1e-6).all()


def test_without_a_bound_it_is_the_published_formula():
    ordinary = torch.tensor([[False, True, True, True, True, False]])
    attention = torch.tensor([[0.0, 0.4, 0.3, 0.2, 0.1, 0.0]])
    probabilities = AttentionGuidedMasking(0.5, 1.0).probabilities(ordinary, attention)
    torch.testing.assert_close(probabilities, 0.5 * 4 * attention, atol=1e-5, rtol=0)


def test_the_bound_passes_the_excess_on():
    ordinary = torch.ones(1, 4, dtype=torch.bool)
    weights = torch.tensor([[0.9, 0.07, 0.02, 0.01]])
    probabilities = bounded_probabilities(weights, ordinary, torch.tensor([2.0]), 0.8)
    # By hand: the first reaches the bound; of the 1.2 left the second would get 0.84, so it is bounded too; 0.4 is
    # left for the others in the ratio 2 to 1.
    torch.testing.assert_close(probabilities, torch.tensor([[0.8, 0.8, 0.8 / 3, 0.4 / 3]]), atol=1e-3, rtol=0)


def _capped_shares(weights, total, cap):
    """min(cap, c w_i) with the sum `total`, by bisection on c."""
    low, high = 0.0, cap / weights.min()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(cap, middle * weights).sum() < total else (low, middle)
    return np.minimum(cap, high * weights)


LIMITS = [
    (0.15, 0.15),
    (0.15, 0.8),
    (0.3, 0.31),
    (0.4, 0.5),
    (0.5, 1.0),
    (0.7, 0.7),
    (0.8, 0.8),
    (1.0, 1.0),
    (0.01, 0.01),
]


@pytest.mark.parametrize(("ratio", "maximum"), LIMITS)
@pytest.mark.parametrize("kind", ["spread", "peaked", "one", "none", "equal"])
def test_probabilities_are_those_of_an_independent_solver(ratio, maximum, kind):
    """Every length up to CLIP's in one padded batch, every kind of attention, every bound that is accepted."""
    AgaObjectiveConfig(mask_ratio=ratio, mask_max_probability=maximum)
    lengths = np.arange(1, 77)
    ordinary = torch.arange(77)[None] < torch.from_numpy(lengths)[:, None]
    generator = torch.Generator().manual_seed(int(1000 * ratio))
    attention = {
        "spread": torch.rand(ordinary.shape, generator=generator),
        "peaked": torch.rand(ordinary.shape, generator=generator) ** 12,
        "one": (torch.arange(77)[None] == torch.from_numpy(lengths // 2)[:, None]).float(),
        "none": torch.zeros(ordinary.shape),
        "equal": torch.ones(ordinary.shape),
    }[kind] * ordinary
    attention = attention / attention.sum(dim=1, keepdim=True).clamp(min=1e-30)
    probabilities = AttentionGuidedMasking(ratio, maximum).probabilities(ordinary, attention)
    assert probabilities.dtype == torch.float32 and (probabilities[~ordinary] == 0).all()
    for row, length in enumerate(lengths):
        words = np.maximum(attention[row, :length].double().numpy(), 1e-6)
        total = max(1.0, ratio * length)
        found = probabilities[row, :length].double().numpy()
        np.testing.assert_allclose(found, _capped_shares(words, total, max(maximum, 1 / length)), atol=1e-6)
        assert found.sum() == pytest.approx(total, abs=1e-5)
    for _ in range(20):
        counts = sample_tokens(probabilities).sum(dim=1).numpy()
        totals = np.maximum(1, ratio * lengths)
        assert (counts >= np.floor(totals + 1e-6)).all() and (counts <= np.ceil(totals - 1e-6)).all()


def test_the_bound_at_the_ratio_is_uniform_masking():
    ordinary = torch.arange(30)[None] < torch.arange(7, 31)[:, None]
    attention = torch.rand(ordinary.shape) * ordinary
    probabilities = AttentionGuidedMasking(0.2, 0.2).probabilities(ordinary, attention)
    torch.testing.assert_close(probabilities, 0.2 * ordinary, atol=1e-6, rtol=0)


@pytest.mark.parametrize("policy", [AttentionGuidedMasking(0.15, 0.8), RandomMasking(0.15, 0.8)])
def test_specials_and_padding_are_never_masked_and_one_token_always_is(captions, policy):
    ids, config = captions
    ordinary = ordinary_tokens(ids, None, config)
    probabilities = policy.probabilities(ordinary, _attention(ordinary, 4))
    for _ in range(50):
        masked = sample_tokens(probabilities)
        assert not (masked & ~ordinary).any()
        assert (masked.sum(1) >= 1).all()


@pytest.mark.parametrize("maximum", [0.15, 0.8])
@pytest.mark.parametrize("words", [1, 2, 4])
def test_short_captions_lose_one_token_whatever_the_bound(words, maximum):
    ordinary = torch.zeros(500, 6, dtype=torch.bool)
    ordinary[:, 1 : 1 + words] = True
    probabilities = AttentionGuidedMasking(0.15, maximum).probabilities(ordinary, _attention(ordinary, 2))
    assert (sample_tokens(probabilities).sum(1) == 1).all()


def test_a_caption_without_words_is_left_alone(captions):
    _, config = captions
    ids = torch.tensor([[config.bos_token_id, config.eos_token_id, config.eos_token_id]])
    ordinary = ordinary_tokens(ids, None, config)
    probabilities = AttentionGuidedMasking(0.15, 0.8).probabilities(ordinary, torch.zeros(1, 3))
    assert not sample_tokens(probabilities).any()


def test_random_masking_is_uniform(captions):
    ids, config = captions
    ordinary = ordinary_tokens(ids, None, config)
    probabilities = RandomMasking(0.15, 0.8).probabilities(ordinary)
    for row in range(BATCH):
        assert probabilities[row][ordinary[row]].unique().numel() == 1


def test_corruption_follows_berts_rule(captions):
    ids, config = captions
    ids = ids.repeat(40, 1)
    masked = ordinary_tokens(ids, None, config)
    before = ids.clone()
    torch.manual_seed(0)
    corrupted = corrupt_tokens(ids, masked, config)
    assert torch.equal(ids, before)  # IRRA's own code wrote into the caption
    assert torch.equal(corrupted[~masked], ids[~masked])
    new, old = corrupted[masked], ids[masked]
    assert (new == config.mask_token_id).float().mean().item() == pytest.approx(0.8, abs=0.01)
    assert (new == old).float().mean().item() == pytest.approx(0.1, abs=0.01)
    replaced = new[(new != old) & (new != config.mask_token_id)]
    assert not torch.isin(replaced, torch.tensor([config.bos_token_id, config.eos_token_id])).any()


def test_aggregation_over_layers_by_hand():
    ordinary = torch.tensor([[False, True, True, False]])
    layers = torch.tensor(
        [[[[0.5, 0.3, 0.1, 0.1], [0.5, 0.1, 0.3, 0.1]]], [[[0.0, 0.8, 0.1, 0.1], [0.3, 0.4, 0.3, 0.0]]]]
    )
    # Layer 1: heads average to (0.2, 0.2) -> (0.5, 0.5); layer 2: (0.6, 0.2) -> (0.75, 0.25); decay 0.4.
    wanted = torch.tensor([[0.0, 0.4 * 0.5 + 0.6 * 0.75, 0.4 * 0.5 + 0.6 * 0.25, 0.0]])
    torch.testing.assert_close(aggregate_class_attention(layers, ordinary, 0.4), wanted)


def test_class_attention_equals_eager(make_model, batch):
    model = make_model().eval()
    ids, mask = batch["input_ids"], batch["attention_mask"]
    outputs, fast = model.aga.get_text_features_with_attention(ids, mask)
    model.set_attn_implementation("eager")
    eager_outputs, eager = model.aga.get_text_features_with_attention(ids, mask)
    torch.testing.assert_close(fast, eager, atol=1e-6, rtol=0)
    torch.testing.assert_close(outputs.pooler_output, eager_outputs.pooler_output, atol=1e-5, rtol=0)
    # And against the definition, from transformers' own attention maps.
    maps = model.aga.text_model(input_ids=ids, output_attentions=True).attentions
    end = mask.sum(1) - 1
    rows = torch.stack([layer[torch.arange(4), :, end] for layer in maps])
    ordinary = ordinary_tokens(ids, mask, model.config.text_config)
    by_definition = aggregate_class_attention(rows, ordinary, model.config.objective_config.attention_decay)
    torch.testing.assert_close(fast, by_definition, atol=1e-6, rtol=0)
    torch.testing.assert_close(fast.sum(1), torch.ones(4))
    assert (fast[~ordinary] == 0).all()


def test_class_attention_is_detached_and_padding_changes_nothing(make_model, batch):
    model = make_model()
    ids = batch["input_ids"]
    _, attention = model.aga.get_text_features_with_attention(ids)
    assert not attention.requires_grad
    longer = torch.cat([ids, torch.full((4, 6), model.config.text_config.pad_token_id)], dim=1)
    _, padded = model.aga.get_text_features_with_attention(longer)
    torch.testing.assert_close(padded[:, : ids.shape[1]], attention, atol=1e-6, rtol=0)


def test_class_attention_under_gradient_checkpointing(make_model, batch):
    gradients = []
    for checkpointing in (False, True):
        model = make_model(mask_strategy="attention").train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        torch.manual_seed(3)
        model(**batch).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def test_other_attention_implementations_are_refused_with_advice(make_model, batch):
    model = make_model()
    model.set_attn_implementation("eager")
    model.set_attn_implementation("sdpa")
    model(**batch)  # back from eager it is the default again
    model.aga.text_model.config._attn_implementation = "sdpa"  # transformers' own, which returns no attention
    with pytest.raises(ValueError, match="eager"):
        model(**batch)


def test_berts_random_words_are_all_words_alike_and_no_special_token():
    """Special tokens in front, in between and at the end, as no CLIP vocabulary has them."""
    config = AgaBertTextConfig(
        vocab_size=20, pad_token_id=0, unk_token_id=5, bos_token_id=6, eos_token_id=7, mask_token_id=9,
        other_special_token_ids=[12, 19],
    )  # fmt: skip
    words = [1, 2, 3, 4, 8, 10, 11, 13, 14, 15, 16, 17, 18]
    torch.manual_seed(0)
    ids = torch.full((1000, 100), 5)  # kept words are told apart from random ones
    corrupted = corrupt_tokens(ids, torch.ones_like(ids, dtype=torch.bool), config)
    counts = corrupted.flatten().bincount(minlength=20)
    assert counts[[0, 6, 7, 12, 19]].tolist() == [0] * 5
    shares = counts / ids.numel()
    assert shares[9].item() == pytest.approx(0.8, abs=0.01) and shares[5].item() == pytest.approx(0.1, abs=0.005)
    torch.testing.assert_close(shares[words], torch.full((13,), 0.1 / 13), atol=0.001, rtol=0)


def test_words_of_a_caption_by_hand():
    """Neither special tokens, nor what stands behind the end, nor what the attention mask hides."""
    config = AgaBertTextConfig(
        vocab_size=20, pad_token_id=0, unk_token_id=5, bos_token_id=6, eos_token_id=7, mask_token_id=9,
        other_special_token_ids=[12],
    )  # fmt: skip
    ids = torch.tensor([[6, 3, 5, 12, 9, 4, 7, 3], [6, 3, 4, 4, 7, 0, 0, 0]])
    assert ordinary_tokens(ids, None, config).int().tolist() == [[0, 1, 0, 0, 0, 1, 0, 0], [0, 1, 1, 1, 0, 0, 0, 0]]
    mask = torch.tensor([[1, 0, 1, 1, 1, 1, 1, 0], [1, 1, 0, 1, 1, 0, 0, 0]])
    assert ordinary_tokens(ids, mask, config).int().tolist() == [[0, 0, 0, 0, 0, 1, 0, 0], [0, 1, 0, 1, 0, 0, 0, 0]]


def test_any_two_words_are_masked_together_as_often():
    """Two of four words: each of the six pairs in a sixth of the draws."""
    torch.manual_seed(0)
    drawn = sample_tokens(torch.full((12_000, 4), 0.5)).double()
    together = (drawn.t() @ drawn / len(drawn))[~torch.eye(4, dtype=torch.bool)]
    torch.testing.assert_close(together, torch.full((12,), 1 / 6, dtype=torch.double), atol=0.015, rtol=0)


def test_captions_of_a_batch_are_rounded_each_by_itself():
    torch.manual_seed(0)
    probabilities = torch.full((2, 3), 0.5)
    both = [sample_tokens(probabilities).sum(dim=1).tolist() for _ in range(600)]
    for counts in ([1, 1], [1, 2], [2, 1], [2, 2]):
        assert both.count(counts) / 600 == pytest.approx(0.25, abs=0.08)


def test_masked_positions_by_hand():
    masked = torch.tensor([[0, 1, 0, 0, 1], [0, 0, 0, 1, 0], [1, 1, 0, 1, 0]], dtype=torch.bool)
    positions, valid = masked_positions(masked, 2)
    assert positions[0].tolist() == [1, 4] and positions[1, 0] == 3 and positions[2].tolist() == [0, 1]
    assert valid.tolist() == [[True, True], [True, False], [True, True]]


def test_patch_attention_by_hand():
    """Two layers of two heads on a class token and three patches: the mean, without the class token's own."""
    layers = torch.tensor([[[[0.4, 0.1, 0.2, 0.3], [0.0, 0.5, 0.5, 0.0]]], [[[0.2, 0.2, 0.2, 0.4], [1.0, 0, 0, 0]]]])
    torch.testing.assert_close(patch_attention(layers), torch.tensor([[0.2, 0.225, 0.175]]))


def test_random_patches_of_each_image_by_itself():
    torch.manual_seed(0)
    kept = best_patches(RandomSelection().scores(torch.zeros(500, 3, 8, 8), None, 4), 0.5)
    pairs, counts = kept.unique(dim=0, return_counts=True)
    assert len(pairs) == 6 and (counts / 500 - 1 / 6).abs().max() < 0.07


def test_places_for_masked_words_by_hand():
    """As many as the ratio of the words, rounded up, and one at least."""
    for ratio, words, places in ((0.15, 76, 12), (0.15, 20, 3), (0.15, 21, 4), (0.15, 1, 1), (0.4, 3, 2), (1.0, 7, 7)):
        for policy in (AttentionGuidedMasking(ratio, 1.0), RandomMasking(ratio, 1.0)):
            assert policy.capacity(words) == places


def test_best_patches_by_hand():
    scores = torch.tensor([[0.1, 0.9, 0.3, 0.8, 0.2, 0.7, 0.0]])
    for ratio, kept in ((1.0, [0, 1, 2, 3, 4, 5, 6]), (0.7, [1, 2, 3, 4, 5]), (0.4, [1, 3, 5]), (0.01, [1])):
        assert best_patches(scores, ratio).tolist() == [kept]
