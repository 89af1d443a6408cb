"""Losses between the embeddings of images and captions. Sums run over the batch that a function is given.

All are computed in float32 (or float64, where inputs are), since softmax over a cosine similarity divided by a
temperature of 0.02 overflows the resolution of half precision.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

SDM_EPSILON = 1e-8  # IRRA's smoothing of the target distribution


@dataclass(frozen=True)
class MomentumEmbeddings:
    """
    What the momentum model says about a batch, and what it said about past ones.

    Args:
        image_embeds, text_embeds: (batch, dim).
        queue_image_embeds, queue_text_embeds: (queue, dim), or None without a queue.
        queue_person_ids: (queue,), or None without a queue.
    """

    image_embeds: Tensor
    text_embeds: Tensor
    queue_image_embeds: Tensor | None = None
    queue_text_embeds: Tensor | None = None
    queue_person_ids: Tensor | None = None


def as_float(values: Tensor) -> Tensor:
    """float32, or float64 where it was."""
    return values if values.dtype == torch.float64 else values.float()


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Mean of (n,) values with weights (n,) of mean 1, such as [`pair_trust`]'s; the plain mean without."""
    return values.mean() if weights is None else (values * weights.to(values)).mean()


def _similarity_logits(image_embeds: Tensor, text_embeds: Tensor, temperature: float | Tensor) -> Tensor:
    """Cosine similarity over temperature, (texts, images), float32 also under autocast."""
    if image_embeds.ndim != 2 or image_embeds.shape != text_embeds.shape or len(image_embeds) == 0:
        shapes = f"{tuple(image_embeds.shape)} and {tuple(text_embeds.shape)}"
        raise ValueError(f"image_embeds and text_embeds must both be (batch, dim), not empty; got {shapes}")
    if isinstance(temperature, int | float) and temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    with torch.autocast(image_embeds.device.type, enabled=False):
        image = F.normalize(as_float(image_embeds), dim=-1)
        text = F.normalize(as_float(text_embeds), dim=-1)
        return text @ image.t() / temperature


def _same_person(person_ids: Tensor, batch: int) -> Tensor:
    """Same-person indicator, bool (batch, batch)."""
    if person_ids.shape != (batch,):
        raise ValueError(f"person_ids must be ({batch},), one per pair; got {tuple(person_ids.shape)}")
    return person_ids[:, None] == person_ids[None, :]


def _match_distribution(person_ids: Tensor, batch: int) -> Tensor:
    """Row-normalised same-person indicator, (batch, batch)."""
    same = _same_person(person_ids, batch).float()
    return same / same.sum(dim=1, keepdim=True)


def itc_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    person_ids: Tensor | None,
    temperature: float | Tensor,
    weights: Tensor | None = None,
) -> Tensor:
    """
    Image-text contrastive loss: InfoNCE in both directions, averaged.

    With person ids every pair of the same person is a positive of equal share, so two captions of one person do not
    repel each other. Source: ALBEF (NeurIPS 2021), section 3.2; with `person_ids=None` it is CLIP's loss.

    Args:
        image_embeds: (batch, dim), need not be normalised.
        text_embeds: (batch, dim); row i describes image i.
        person_ids: (batch,) integers, or None when only the diagonal is positive.
        temperature: softmax temperature, positive.
        weights: (batch,) per-pair weights with mean 1; uniform if None.

    Returns:
        scalar.

    Raises:
        ValueError: shapes do not fit, or the temperature is not positive.

    Example:

    ```python
    >>> image, text = torch.randn(8, 32), torch.randn(8, 32)
    >>> loss = itc_loss(image, text, torch.arange(8) // 2, temperature=0.07)
    ```
    """
    logits = _similarity_logits(image_embeds, text_embeds, temperature)
    targets = (
        torch.eye(len(logits), device=logits.device)
        if person_ids is None
        else _match_distribution(person_ids, len(logits))
    )
    directions = (_soft_cross_entropy(rows, targets, weights) for rows in (logits, logits.t()))
    return sum(directions, start=logits.new_zeros(())) / 2


def _soft_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    """Mean over rows of the cross-entropy with a distribution per row."""
    return weighted_mean(-(targets * logits.log_softmax(dim=1)).sum(dim=1), weights)


def momentum_itc_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    person_ids: Tensor | None,
    temperature: float | Tensor,
    momentum_embeds: MomentumEmbeddings,
    weight: float,
    weights: Tensor | None = None,
) -> Tensor:
    """
    [`itc_loss`] with soft targets of a momentum model, and its past embeddings as further candidates.

    The target of each row is (1 - weight) times the same-person distribution plus weight times the momentum model's
    softmax over the same candidates. Source: ALBEF (NeurIPS 2021), section 3.3; there the candidates of the batch are
    the momentum model's embeddings, here the online model's (this project's choice, as in [`itc_loss`]).

    Args:
        image_embeds: (batch, dim), need not be normalised.
        text_embeds: (batch, dim); row i describes image i.
        person_ids: (batch,) integers, or None when only the diagonal is positive (without a queue).
        temperature: softmax temperature, positive.
        momentum_embeds: the momentum model's embeddings of the batch and its queue.
        weight: alpha in [0, 1].
        weights: (batch,) per-pair weights with mean 1; uniform if None.

    Returns:
        scalar; with weight 0 and no queue it is [`itc_loss`].

    Raises:
        ValueError: shapes do not fit, or a queue without person ids.
    """
    batch = len(image_embeds)
    if person_ids is None:
        if momentum_embeds.queue_person_ids is not None:
            raise ValueError("momentum_itc_loss: person_ids are needed to compare with a queue")
        person_ids = torch.arange(batch, device=image_embeds.device)
    candidate_ids = person_ids
    if momentum_embeds.queue_person_ids is not None:
        candidate_ids = torch.cat([person_ids, momentum_embeds.queue_person_ids])
    same = (person_ids[:, None] == candidate_ids[None, :]).float()
    hard = same / same.sum(dim=1, keepdim=True)
    loss = image_embeds.new_zeros((), dtype=torch.float32)
    soft_images, soft_texts = momentum_embeds.image_embeds, momentum_embeds.text_embeds
    directions = (
        (text_embeds, image_embeds, soft_texts, soft_images, momentum_embeds.queue_image_embeds),
        (image_embeds, text_embeds, soft_images, soft_texts, momentum_embeds.queue_text_embeds),
    )
    for rows, candidates, momentum_rows, momentum_candidates, queue in directions:
        with torch.no_grad():
            soft = _scores(momentum_rows, momentum_candidates, queue, temperature).softmax(dim=1)
            targets = (1 - weight) * hard + weight * soft
        loss = loss + _soft_cross_entropy(_scores(rows, candidates, queue, temperature), targets, weights) / 2
    return loss


def _scores(rows: Tensor, candidates: Tensor, queue: Tensor | None, temperature: float | Tensor) -> Tensor:
    """Cosine similarity over temperature of rows with the candidates and the queue, (rows, candidates + queue)."""
    with torch.autocast(rows.device.type, enabled=False):
        everyone = candidates.float() if queue is None else torch.cat([candidates.float(), queue.float()])
        return F.normalize(rows.float(), dim=-1) @ F.normalize(everyone, dim=-1).t() / temperature


def sdm_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    person_ids: Tensor,
    temperature: float | Tensor,
    weights: Tensor | None = None,
) -> Tensor:
    """
    Similarity distribution matching: KL from the softmax over similarities to the same-person distribution.

    Source: IRRA (CVPR 2023), equations 4 to 6; summed over both directions.

    Args:
        image_embeds: (batch, dim), need not be normalised.
        text_embeds: (batch, dim).
        person_ids: (batch,) integers.
        temperature: softmax temperature, positive; IRRA uses 0.02.
        weights: (batch,) per-pair weights with mean 1; uniform if None.

    Returns:
        scalar.

    Raises:
        ValueError: shapes do not fit, or the temperature is not positive.

    Example:

    ```python
    >>> image, text = torch.randn(8, 32), torch.randn(8, 32)
    >>> loss = sdm_loss(image, text, torch.arange(8) // 2, temperature=0.02)
    ```
    """
    logits = _similarity_logits(image_embeds, text_embeds, temperature)
    log_target = torch.log(_match_distribution(person_ids, len(logits)) + SDM_EPSILON)

    def one_direction(rows: Tensor) -> Tensor:
        log_predicted = rows.log_softmax(dim=1)
        return weighted_mean((log_predicted.exp() * (log_predicted - log_target)).sum(dim=1), weights)

    return one_direction(logits) + one_direction(logits.t())


def bsdm_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    person_ids: Tensor,
    temperature: float | Tensor,
    kl_weights: tuple[float, float] = (1.0, 1.0),
    weights: Tensor | None = None,
) -> Tensor:
    """
    Bidirectional similarity distribution matching: both KL divergences between the softmax p over similarities and the
    same-person distribution q, a KL(p || q) + b KL(q || p).

    The second term grows only with the logarithm of a missed positive's share, where the first one also presses on
    every negative. q is smoothed by 1e-8 as in [`sdm_loss`]. Source: AMNS (arXiv 2409.06385); that both terms weigh
    the same is this project's choice.

    Args:
        image_embeds: (batch, dim), need not be normalised.
        text_embeds: (batch, dim).
        person_ids: (batch,) integers.
        temperature: softmax temperature, positive.
        kl_weights: a and b; (1, 0) is [`sdm_loss`].
        weights: (batch,) per-pair weights with mean 1; uniform if None.

    Returns:
        scalar, summed over image to text and text to image.

    Raises:
        ValueError: shapes do not fit, or the temperature is not positive.

    Example:

    ```python
    >>> image, text = torch.randn(8, 32), torch.randn(8, 32)
    >>> loss = bsdm_loss(image, text, torch.arange(8) // 2, temperature=0.02)
    ```
    """
    logits = _similarity_logits(image_embeds, text_embeds, temperature)
    target = _match_distribution(person_ids, len(logits))
    log_target = torch.log(target + SDM_EPSILON)
    forward_weight, inverse_weight = kl_weights

    def one_direction(rows: Tensor) -> Tensor:
        log_predicted = rows.log_softmax(dim=1)
        gap = log_predicted - log_target
        return weighted_mean(
            ((forward_weight * log_predicted.exp() - inverse_weight * target) * gap).sum(dim=1), weights
        )

    return one_direction(logits) + one_direction(logits.t())


def cmpm_loss(image_embeds: Tensor, text_embeds: Tensor, person_ids: Tensor, weights: Tensor | None = None) -> Tensor:
    """
    Cross-modal projection matching: as [`sdm_loss`], of the projections of one modality on the unit vectors of the
    other, without a temperature.

    Source: Zhang and Lu (ECCV 2018), equations 1 to 5, as IRRA's code has it: there a row of the same-person indicator
    is divided by its Euclidean length, not by its sum.

    Args:
        image_embeds: (batch, dim), not normalised.
        text_embeds: (batch, dim), not normalised.
        person_ids: (batch,) integers.
        weights: (batch,) per-pair weights with mean 1; uniform if None.

    Returns:
        scalar, summed over both directions.
    """
    with torch.autocast(image_embeds.device.type, enabled=False):
        image, text = as_float(image_embeds), as_float(text_embeds)
        same = _same_person(person_ids, len(image)).to(image)
        log_target = torch.log(same / same.norm(dim=1, keepdim=True) + SDM_EPSILON)
        loss = image.new_zeros(())
        for rows, others in ((image, text), (text, image)):
            log_predicted = (rows @ F.normalize(others, dim=-1).t()).log_softmax(dim=1)
            loss = loss + weighted_mean((log_predicted.exp() * (log_predicted - log_target)).sum(dim=1), weights)
    return loss


def tal_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    person_ids: Tensor,
    temperature: float | Tensor,
    margin: float = 0.1,
    weights: Tensor | None = None,
) -> Tensor:
    """
    Triplet alignment loss: hinge between the softmax-weighted similarity of the positives and the log-sum-exp over the
    negatives, an upper bound of the hardest-negative triplet loss that does not collapse on noisy pairs.

    Source: RDE (CVPR 2024), equation 10.

    Args:
        image_embeds: (batch, dim), need not be normalised.
        text_embeds: (batch, dim).
        person_ids: (batch,) integers.
        temperature: tau, positive; RDE uses 0.015.
        margin: m in units of cosine similarity.
        weights: (batch,) per-pair weights with mean 1; uniform if None.

    Returns:
        scalar, summed over both directions; a row without a negative gives 0.

    Raises:
        ValueError: shapes do not fit, or the temperature is not positive.
    """
    logits = _similarity_logits(image_embeds, text_embeds, temperature)
    same = _same_person(person_ids, len(logits))
    has_negative = (~same).any(dim=1)

    def one_direction(rows: Tensor) -> Tensor:
        share = rows.detach().masked_fill(~same, float("-inf")).softmax(dim=1)
        positive = (share * rows).sum(dim=1)
        # A row without negatives keeps its own logits: -inf of an empty sum has no gradient.
        negatives = rows.masked_fill(same & has_negative[:, None], float("-inf")).logsumexp(dim=1)
        return weighted_mean((margin + (negatives - positive) * temperature).clamp(min=0) * has_negative, weights)

    return one_direction(logits) + one_direction(logits.t())


def match_log_probability(
    image_embeds: Tensor, text_embeds: Tensor, person_ids: Tensor, temperature: float | Tensor
) -> Tensor:
    """
    Log of the share that the softmax over similarities gives to the same person, each text among the images and then
    each image among the texts, (2 batch,). Arguments and errors as [`sdm_loss`].
    """
    logits = _similarity_logits(image_embeds, text_embeds, temperature)
    different = ~_same_person(person_ids, len(logits))

    def one_direction(rows: Tensor) -> Tensor:
        return rows.masked_fill(different, float("-inf")).logsumexp(dim=1) - rows.logsumexp(dim=1)

    return torch.cat([one_direction(logits), one_direction(logits.t())])


@torch.no_grad()
def pair_trust(
    image_embeds: Tensor, text_embeds: Tensor, person_ids: Tensor | None, temperature: float | Tensor
) -> Tensor:
    """
    Per-pair weights by how likely each pair of a batch is a right one, against noisy correspondence.

    p is the share that the softmax over similarities gives to the pair among the pairs of other persons, the smaller
    one of both directions; a wrong pair of a batch of B has 1 / B by chance, and the weight is p / (p + 1 / B), scaled
    to mean 1. This project's own, after the in-batch weights of AMNS's WAF; consensus by two models is RDE's way.

    Args:
        image_embeds, text_embeds: (batch, dim), need not be normalised.
        person_ids: (batch,) integers, or None when every pair is a person of its own.
        temperature: softmax temperature, positive.

    Returns:
        (batch,) float32 without gradient, mean 1.
    """
    logits = _similarity_logits(image_embeds, text_embeds, temperature)
    batch = len(logits)
    if person_ids is not None:
        others = torch.eye(batch, dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(_same_person(person_ids, batch) & ~others, float("-inf"))
    share = torch.minimum(logits.softmax(dim=1).diagonal(), logits.softmax(dim=0).diagonal())
    trust = share / (share + 1 / batch)
    return trust / trust.mean().clamp(min=torch.finfo(trust.dtype).tiny)


__all__ = [
    "MomentumEmbeddings",
    "as_float",
    "bsdm_loss",
    "cmpm_loss",
    "itc_loss",
    "match_log_probability",
    "momentum_itc_loss",
    "pair_trust",
    "sdm_loss",
    "tal_loss",
    "weighted_mean",
]
