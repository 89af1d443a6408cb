"""
What to mask. Words: AGM (attention-guided mask modelling) and the uniform baseline, over one sampling routine.
Patches: AWM (attention-weighted selective mask) and the random baseline, over one selection.
"""

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor


def special_token_ids(config) -> list[int]:
    """Ids that are no words: start, end, mask, padding, the unknown and what else the tokenizer has, ascending."""
    names = ("bos_token_id", "eos_token_id", "mask_token_id", "pad_token_id", "unk_token_id")
    ids = [getattr(config, name, None) for name in names] + list(getattr(config, "other_special_token_ids", ()))
    return sorted({value for value in ids if value is not None})


def ordinary_tokens(input_ids: Tensor, attention_mask: Tensor | None, config) -> Tensor:
    """
    Tokens of a caption's words: before its end-of-text, no special token and no padding.

    Args:
        input_ids: (batch, seq).
        attention_mask: (batch, seq) or None.
        config: text configuration with the special token ids.

    Returns:
        bool (batch, seq).
    """
    ordinary = (input_ids == config.eos_token_id).cumsum(dim=1) == 0
    for special in special_token_ids(config):  # a list of ids would be copied to the device and waited for
        ordinary = ordinary & (input_ids != special)
    return ordinary if attention_mask is None else ordinary & attention_mask.bool()


def aggregate_class_attention(layer_attention: Tensor, ordinary: Tensor, decay: float) -> Tensor:
    """
    Moving average over depth of the attention that the pooled token pays to each word, deep layers counting most.

    a_l is the mean over heads, zero outside `ordinary` and renormalised; A_1 = a_1, A_l = decay A_(l-1) +
    (1 - decay) a_l. Source: AGA (arXiv 2412.15106), as METHODS describes it; the decay is this project's choice.

    Args:
        layer_attention: (layers, batch, heads, seq), the pooled token's row of each layer.
        ordinary: bool (batch, seq).
        decay: beta in [0, 1].

    Returns:
        (batch, seq) float32 without gradient; rows sum to 1 (or are zero for a caption without words).
    """
    attention = layer_attention.detach().float().mean(dim=2) * ordinary
    attention = attention / attention.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    aggregated = attention[0]
    for layer in attention[1:]:
        aggregated = decay * aggregated + (1 - decay) * layer
    return aggregated


def bounded_probabilities(weights: Tensor, ordinary: Tensor, expected: Tensor, maximum: float | Tensor) -> Tensor:
    """
    Probabilities proportional to `weights` up to `maximum` whose sum is `expected`.

    p_i = min(maximum, c w_i), c as small as the sum allows. Without an active bound c = expected / sum(w), which is
    METHODS' formula; with one, the excess goes to the other words, so that the expected number of masked tokens stays.

    Args:
        weights: (batch, seq) non-negative.
        ordinary: bool (batch, seq).
        expected: (batch,) wanted sums; at most `maximum` times the number of ordinary tokens, else that is reached.
        maximum: upper bound of one probability, or one bound per caption, (batch, 1).

    Returns:
        float32 (batch, seq), zero outside `ordinary`.
    """
    # A floor keeps words that got no attention at all reachable when the bound binds on all others. In float64,
    # because what the bounded words leave is a small difference of large sums.
    weights = torch.where(ordinary, weights.double().clamp(min=1e-6), 0.0)
    bound = torch.as_tensor(maximum, dtype=torch.float64, device=weights.device)
    count = ordinary.sum(dim=1, keepdim=True)
    expected = torch.minimum(expected[:, None].double(), bound * count)
    ordered, _ = weights.sort(dim=1, descending=True)
    heaviest_first = torch.arange(ordered.shape[1], device=weights.device)[None]
    others = ordered.flip(1).cumsum(dim=1).flip(1)  # from each word on to the lightest
    # Where the k-th heaviest just reaches the bound, the sum is (k + others_k / w_k) bound. As many are bounded as
    # keep that sum below what is wanted.
    tiny = torch.finfo(torch.float64).tiny
    sums = bound * (heaviest_first + others / ordered.clamp(min=tiny))
    bounded = ((sums < expected) & (heaviest_first < count)).sum(dim=1, keepdim=True)
    rest = (expected - bounded * bound).clamp(min=0.0)
    lighter = torch.where(heaviest_first >= bounded, ordered, 0.0).sum(dim=1, keepdim=True)
    scale = rest / lighter.clamp(min=tiny)
    lightest_bounded = ordered.gather(1, (bounded - 1).clamp(min=0))
    is_bounded = (bounded > 0) & (weights >= lightest_bounded)
    found = torch.where(is_bounded, bound, (scale * weights).minimum(bound))
    return torch.where(ordinary, found, 0.0).float()


def _most_masked(ratio: float, words: int) -> int:
    """The most tokens that [`sample_tokens`] draws where probabilities sum to max(1, ratio * words) at most."""
    return max(1, math.ceil(ratio * words))


class MaskingPolicy(Protocol):
    """What to mask: a probability per token."""

    needs_attention: bool

    def capacity(self, words: int) -> int:
        """The most tokens that are masked in a caption of at most `words` words, known without reading the caption."""
        ...

    def probabilities(self, ordinary: Tensor, attention: Tensor | None) -> Tensor:
        """Masking probability per token, (batch, seq), from `ordinary` (batch, seq) and attention (batch, seq)."""
        ...


class AttentionGuidedMasking:
    """AGM's policy: words are masked in proportion to the attention that the text encoder's pooled token pays them.

    Source: AGA (arXiv 2412.15106). `ratio` is rho, `max_probability` p_max of METHODS.
    """

    needs_attention = True

    def __init__(self, ratio: float, max_probability: float):
        self.ratio = ratio
        self.max_probability = max_probability

    def capacity(self, words: int) -> int:
        """The most tokens that are masked in a caption of at most `words` words."""
        return _most_masked(self.ratio, words)

    def probabilities(self, ordinary: Tensor, attention: Tensor | None) -> Tensor:
        """Masking probability per token, (batch, seq), from `ordinary` (batch, seq) and attention (batch, seq)."""
        if attention is None:
            raise ValueError("attention-guided masking needs the class attention of the captions")
        count = ordinary.sum(dim=1).double()
        expected = (self.ratio * count).clamp(min=1.0)
        # A short caption's bound leaves room for the one token that is always masked.
        bound = (1.0 / count.clamp(min=1)).clamp(min=self.max_probability)[:, None]
        return bounded_probabilities(attention, ordinary, expected, bound)


class RandomMasking:
    """The baseline: every word with the same probability (BERT, IRRA)."""

    needs_attention = False

    def __init__(self, ratio: float, max_probability: float):
        self.ratio = ratio  # equal probabilities need no upper bound

    def capacity(self, words: int) -> int:
        """The most tokens that are masked in a caption of at most `words` words."""
        return _most_masked(self.ratio, words)

    def probabilities(self, ordinary: Tensor, attention: Tensor | None = None) -> Tensor:
        """Masking probability per token, (batch, seq)."""
        expected = (self.ratio * ordinary.sum(dim=1).double()).clamp(min=1.0)
        return bounded_probabilities(torch.ones_like(ordinary, dtype=torch.float32), ordinary, expected, 1.0)


MASKING_POLICIES: dict[str, Callable[[float, float], MaskingPolicy]] = {
    "attention": AttentionGuidedMasking,
    "random": RandomMasking,
}


def sample_tokens(probabilities: Tensor) -> Tensor:
    """
    Draw tokens so that token i is drawn with exactly its probability and the number drawn is the sum of the
    probabilities rounded up or down.

    Systematic sampling over a random order (Madow 1949): one uniform number per caption places a comb of unit spacing
    over the cumulated probabilities. Against independent draws the number of masked tokens varies less, and at least
    one token is drawn whenever the probabilities sum to 1 or more, without a bias.

    Args:
        probabilities: (batch, seq) in [0, 1].

    Returns:
        bool (batch, seq).
    """
    order = torch.rand_like(probabilities).argsort(dim=1)
    cumulated = probabilities.double().gather(1, order).cumsum(dim=1)
    # Rounding must not lose the only token of a caption whose probabilities sum to 1.
    cumulated = torch.where((cumulated - cumulated.round()).abs() < 1e-5, cumulated.round(), cumulated)
    start = torch.rand(len(probabilities), 1, device=probabilities.device, dtype=torch.float64)
    teeth = (cumulated - start).ceil()
    teeth_before = torch.cat([(-start).ceil(), teeth[:, :-1]], dim=1)
    drawn = teeth > teeth_before
    return torch.zeros_like(drawn).scatter(1, order, drawn) & (probabilities > 0)


def masked_positions(masked: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
    """
    Positions of the masked tokens, as many for each caption, so that shapes do not depend on what was drawn.

    Args:
        masked: bool (batch, seq).
        capacity: positions per caption; masked tokens beyond it are left out.

    Returns:
        positions (batch, capacity), those of masked tokens first and ascending, and bool (batch, capacity), False
        behind them. With fewer than `capacity` tokens both have seq columns.
    """
    positions = masked.int().argsort(dim=1, descending=True, stable=True)[:, :capacity]
    return positions, masked.gather(1, positions)


def corrupt_tokens(input_ids: Tensor, masked: Tensor, config) -> Tensor:
    """
    Replace masked tokens by BERT's rule: 80% mask token, 10% a random ordinary token, 10% kept.

    Args:
        input_ids: (batch, seq); not modified.
        masked: bool (batch, seq).
        config: text configuration with `vocab_size` and the special token ids.

    Returns:
        a new (batch, seq).
    """
    choice = torch.rand(input_ids.shape, device=input_ids.device)
    special = special_token_ids(config)
    random_ids = torch.randint(config.vocab_size - len(special), input_ids.shape, device=input_ids.device)
    for special_id in special:  # ascending, so that each shift makes room for one special id
        random_ids = random_ids + (random_ids >= special_id)
    corrupted = torch.where(masked & (choice < 0.8), config.mask_token_id, input_ids)
    return torch.where(masked & (choice >= 0.8) & (choice < 0.9), random_ids, corrupted)


class PatchSelection(Protocol):
    """Which patches of an image the encoder receives: a score per patch, the best are kept."""

    needs_attention: bool

    def scores(self, pixel_values: Tensor, attention: Tensor | None, patches: int) -> Tensor:
        """Score per patch, (batch, patches), for images (batch, ...) with class attention (batch, patches)."""
        ...


class AttentionWeightedSelection:
    """AWM's policy: patches are kept by the attention that the EMA encoder's class token pays them.

    Source: AMNS (arXiv 2409.06385), after A-CLIP (ICCV 2023).
    """

    needs_attention = True

    def scores(self, pixel_values: Tensor, attention: Tensor | None, patches: int) -> Tensor:
        """The attention itself, (batch, patches)."""
        if attention is None:
            raise ValueError("AWM needs the class attention of the momentum model's image encoder")
        return attention


class RandomSelection:
    """The baseline: patches are dropped at random (FLIP, CVPR 2023)."""

    needs_attention = False

    def scores(self, pixel_values: Tensor, attention: Tensor | None, patches: int) -> Tensor:
        """Random numbers, (batch, patches)."""
        return torch.rand(len(pixel_values), patches, device=pixel_values.device)


PATCH_SELECTIONS: dict[str, Callable[[], PatchSelection]] = {
    "attention": AttentionWeightedSelection,
    "random": RandomSelection,
}


def patch_attention(layer_attention: Tensor) -> Tensor:
    """
    Attention that the class token pays to each patch, mean over heads and layers.

    Source: A-CLIP (ICCV 2023), section 3.2.

    Args:
        layer_attention: (layers, batch, heads, patches + 1), the class token's row of each layer, itself first.

    Returns:
        (batch, patches) float32 without gradient.
    """
    return layer_attention.detach().float().mean(dim=(0, 2))[:, 1:]


def best_patches(scores: Tensor, keep_ratio: float) -> Tensor:
    """
    Indices of the best-scored patches, in the order of the patches.

    Args:
        scores: (batch, patches); of equal scores the first is better.
        keep_ratio: share of the patches that is kept, rounded to a whole number, at least one.

    Returns:
        (batch, kept).
    """
    kept = max(1, round(keep_ratio * scores.shape[1]))
    return scores.argsort(dim=1, descending=True, stable=True)[:, :kept].sort(dim=1).values


__all__ = [
    "MASKING_POLICIES",
    "PATCH_SELECTIONS",
    "AttentionGuidedMasking",
    "AttentionWeightedSelection",
    "RandomMasking",
    "RandomSelection",
    "aggregate_class_attention",
    "best_patches",
    "bounded_probabilities",
    "corrupt_tokens",
    "masked_positions",
    "ordinary_tokens",
    "patch_attention",
    "sample_tokens",
    "special_token_ids",
]
