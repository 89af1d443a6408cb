"""Losses that read a head: the identity classifier, the MLM head, the ITM head; and WAF, which reads probabilities.

All are computed in float32 (or float64, where inputs are).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from .embedding_losses import as_float, weighted_mean

IGNORED = -100  # label of a token that is not to be predicted


def identity_log_probability(image_logits: Tensor, text_logits: Tensor, person_ids: Tensor) -> Tensor:
    """
    Log-probability of the right identity for the images and then for the texts, (2 batch,).

    Arguments as [`id_loss`].
    """
    logits = as_float(torch.cat([image_logits, text_logits]))
    return -F.cross_entropy(logits, person_ids.long().repeat(2), reduction="none")


FOCAL_WEIGHTINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "uniform": torch.ones_like,
    "hard": lambda probability: 1 - probability,
    "plausible": lambda probability: probability,
    "trusted": lambda probability: probability,  # the name of `plausible` before version 0.2
}


def waf_loss(log_probability: Tensor, gamma: float = 2.0, weighting: str = "uniform") -> Tensor:
    """
    Weight-adjustment focal loss: the mean of -w_i (1 - p_i)^gamma log p_i.

    Source: AMNS (arXiv 2409.06385), after the focal loss (ICCV 2017). Where p_i comes from and what w_i is are this
    project's choices.

    Args:
        log_probability: (samples,), log p_i of the right match, of [`match_log_probability`] or
            [`identity_log_probability`].
        gamma: focusing exponent, 0 or more; 0 is cross-entropy.
        weighting: w_i, without gradient and scaled to mean 1: `uniform`, `hard` in proportion to 1 - p_i,
            `plausible` in proportion to p_i, which bounds the gradient of a wrong pair.

    Returns:
        scalar.
    """
    log_probability = as_float(log_probability).clamp(max=0.0)
    weights = FOCAL_WEIGHTINGS[weighting](log_probability.detach().exp())
    weights = weights / weights.mean().clamp(min=torch.finfo(weights.dtype).tiny)
    # The floor keeps the power's gradient finite where p_i is 1.
    miss = (-torch.expm1(log_probability)).clamp(min=1e-12)
    return -(weights * miss**gamma * log_probability).mean()


def id_loss(image_logits: Tensor, text_logits: Tensor, person_ids: Tensor, weights: Tensor | None = None) -> Tensor:
    """
    Identity loss: cross-entropy of one classifier that both modalities share, mean of the two.

    Source: IRRA (CVPR 2023), section 3.4; after Zheng et al. (dual-path, TOMM 2020).

    Args:
        image_logits: (batch, identities) of the unnormalised image embeddings.
        text_logits: (batch, identities) of the unnormalised text embeddings.
        person_ids: (batch,) integers in [0, identities).
        weights: (batch,) per-pair weights with mean 1; uniform if None.

    Returns:
        scalar.
    """
    persons = person_ids.long()
    image = F.cross_entropy(as_float(image_logits), persons, reduction="none")
    text = F.cross_entropy(as_float(text_logits), persons, reduction="none")
    return weighted_mean((image + text) / 2, weights)


def mlm_token_losses(
    logits: Tensor, labels: Tensor, momentum_logits: Tensor | None = None, weight: float = 0.0
) -> Tensor:
    """
    Cross-entropy of each masked token, (tokens,) and 0 where the label is `IGNORED`; what [`mlm_loss`] and, with a
    momentum model's logits, [`distilled_mlm_loss`] take the mean of.
    """
    hard = F.cross_entropy(as_float(logits), labels, ignore_index=IGNORED, reduction="none")
    if momentum_logits is None:
        return hard
    targets = as_float(momentum_logits.detach()).softmax(dim=1)
    soft = F.cross_entropy(as_float(logits), targets, reduction="none") * (labels != IGNORED)
    return (1 - weight) * hard + weight * soft


def _token_mean(losses: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """Mean over the masked tokens (tokens,) with weights (tokens,); 0 with a gradient path when nothing is masked."""
    total = losses.sum() if weights is None else (losses * weights.to(losses)).sum()
    return total / (labels != IGNORED).sum().clamp(min=1)


def mlm_loss(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """
    Masked language modelling loss over the masked positions alone.

    Source: BERT (NAACL 2019). The caller selects the masked positions first, because the vocabulary matrix is the
    largest product of the step when it is applied to every position.

    Args:
        logits: (tokens, vocabulary).
        labels: (tokens,) original token ids; `IGNORED` where nothing was masked.
        weights: (tokens,) per-token weights with mean 1 over all pairs; uniform if None.

    Returns:
        scalar; 0 with a gradient path when nothing is masked.
    """
    return _token_mean(mlm_token_losses(logits, labels), labels, weights)


def distilled_mlm_loss(
    logits: Tensor, labels: Tensor, momentum_logits: Tensor, weight: float, weights: Tensor | None = None
) -> Tensor:
    """
    [`mlm_loss`] whose targets are mixed with a momentum model's predictions.

    Source: ALBEF (NeurIPS 2021), section 3.3.

    Args:
        logits: (tokens, vocabulary).
        labels: (tokens,) original token ids; `IGNORED` where nothing was masked.
        momentum_logits: (tokens, vocabulary) of the momentum model.
        weight: alpha in [0, 1]; 0 is [`mlm_loss`].
        weights: as [`mlm_loss`].

    Returns:
        scalar; 0 with a gradient path when nothing is masked.
    """
    return _token_mean(mlm_token_losses(logits, labels, momentum_logits, weight), labels, weights)


def itm_loss(logits: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
    """
    Image-text matching loss: weighted mean of the cross-entropy of match against mismatch.

    Source: ALBEF (NeurIPS 2021), section 3.2.

    Args:
        logits: (pairs, 2), column 1 for a match.
        labels: (pairs,), 1 for a match and 0 for a mismatch.
        counted: (pairs,) weight of each pair; 0 where there is none, such as a hard negative that was not found.

    Returns:
        scalar; 0 with a gradient path when every weight is 0.
    """
    each = F.cross_entropy(logits.float(), labels.long(), reduction="none")
    return (each * counted).sum() / counted.sum().clamp(min=1e-6)


__all__ = [
    "FOCAL_WEIGHTINGS",
    "IGNORED",
    "distilled_mlm_loss",
    "id_loss",
    "identity_log_probability",
    "itm_loss",
    "mlm_loss",
    "mlm_token_losses",
    "waf_loss",
]
