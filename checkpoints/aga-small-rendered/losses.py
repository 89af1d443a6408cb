"""Losses of text-based person search. Each is a function of tensors; sums run over the batch that it is given.

All are computed in float32 whatever the inputs' dtype, since softmax over a cosine similarity divided by a temperature
of 0.02 overflows the resolution of half precision.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

SDM_EPSILON = 1e-8  # IRRA's smoothing of the target distribution


@dataclass(frozen=True)
class TeacherEmbeddings:
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


def _similarity_logits(image_embeds: Tensor, text_embeds: Tensor, temperature: float | Tensor) -> Tensor:
    """Cosine similarity over temperature, (texts, images), float32 also under autocast."""
    if image_embeds.ndim != 2 or image_embeds.shape != text_embeds.shape or len(image_embeds) == 0:
        shapes = f"{tuple(image_embeds.shape)} and {tuple(text_embeds.shape)}"
        raise ValueError(f"image_embeds and text_embeds must both be (batch, dim), not empty; got {shapes}")
    if isinstance(temperature, int | float) and temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    with torch.autocast(image_embeds.device.type, enabled=False):
        image = F.normalize(image_embeds.float(), dim=-1)
        text = F.normalize(text_embeds.float(), dim=-1)
        return text @ image.t() / temperature


def _match_distribution(person_ids: Tensor, batch: int) -> Tensor:
    """Row-normalised same-person indicator, (batch, batch)."""
    if person_ids.shape != (batch,):
        raise ValueError(f"person_ids must be ({batch},), one per pair; got {tuple(person_ids.shape)}")
    same = (person_ids[:, None] == person_ids[None, :]).float()
    return same / same.sum(dim=1, keepdim=True)


def itc_loss(
    image_embeds: Tensor, text_embeds: Tensor, person_ids: Tensor | None, temperature: float | Tensor
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
    return (_soft_cross_entropy(logits, targets) + _soft_cross_entropy(logits.t(), targets)) / 2


def _soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over rows of the cross-entropy with a distribution per row."""
    return -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()


def momentum_itc_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    person_ids: Tensor | None,
    temperature: float | Tensor,
    teacher: TeacherEmbeddings,
    weight: float,
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
        teacher: the momentum model's embeddings of the batch and its queue.
        weight: alpha in [0, 1].

    Returns:
        scalar; with weight 0 and no queue it is [`itc_loss`].

    Raises:
        ValueError: shapes do not fit, or a queue without person ids.
    """
    batch = len(image_embeds)
    if person_ids is None:
        if teacher.queue_person_ids is not None:
            raise ValueError("momentum_itc_loss: person_ids are needed to compare with a queue")
        person_ids = torch.arange(batch, device=image_embeds.device)
    candidate_ids = person_ids
    if teacher.queue_person_ids is not None:
        candidate_ids = torch.cat([person_ids, teacher.queue_person_ids])
    same = (person_ids[:, None] == candidate_ids[None, :]).float()
    hard = same / same.sum(dim=1, keepdim=True)
    loss = image_embeds.new_zeros((), dtype=torch.float32)
    directions = (
        (text_embeds, image_embeds, teacher.text_embeds, teacher.image_embeds, teacher.queue_image_embeds),
        (image_embeds, text_embeds, teacher.image_embeds, teacher.text_embeds, teacher.queue_text_embeds),
    )
    for rows, candidates, teacher_rows, teacher_candidates, queue in directions:
        with torch.no_grad():
            soft = _scores(teacher_rows, teacher_candidates, queue, temperature).softmax(dim=1)
            targets = (1 - weight) * hard + weight * soft
        loss = loss + _soft_cross_entropy(_scores(rows, candidates, queue, temperature), targets) / 2
    return loss


def _scores(rows: Tensor, candidates: Tensor, queue: Tensor | None, temperature: float | Tensor) -> Tensor:
    """Cosine similarity over temperature of rows with the candidates and the queue, (rows, candidates + queue)."""
    with torch.autocast(rows.device.type, enabled=False):
        everyone = candidates.float() if queue is None else torch.cat([candidates.float(), queue.float()])
        return F.normalize(rows.float(), dim=-1) @ F.normalize(everyone, dim=-1).t() / temperature


def sdm_loss(image_embeds: Tensor, text_embeds: Tensor, person_ids: Tensor, temperature: float | Tensor) -> Tensor:
    """
    Similarity distribution matching: KL from the softmax over similarities to the same-person distribution.

    Source: IRRA (CVPR 2023), equations 4 to 6; summed over both directions.

    Args:
        image_embeds: (batch, dim), need not be normalised.
        text_embeds: (batch, dim).
        person_ids: (batch,) integers.
        temperature: softmax temperature, positive; IRRA uses 0.02.

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
        return (log_predicted.exp() * (log_predicted - log_target)).sum(dim=1).mean()

    return one_direction(logits) + one_direction(logits.t())


def id_loss(image_logits: Tensor, text_logits: Tensor, person_ids: Tensor) -> Tensor:
    """
    Identity loss: cross-entropy of one classifier that both modalities share, mean of the two.

    Source: IRRA (CVPR 2023), section 3.4; after Zheng et al. (dual-path, TOMM 2020).

    Args:
        image_logits: (batch, identities) of the unnormalised image embeddings.
        text_logits: (batch, identities) of the unnormalised text embeddings.
        person_ids: (batch,) integers in [0, identities).

    Returns:
        scalar.
    """
    image = F.cross_entropy(image_logits.float(), person_ids.long())
    text = F.cross_entropy(text_logits.float(), person_ids.long())
    return (image + text) / 2


def mlm_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """
    Masked language modelling loss over the masked positions alone.

    Source: BERT (NAACL 2019). The caller selects the masked positions first, because the vocabulary matrix is the
    largest product of the step when it is applied to every position.

    Args:
        logits: (masked, vocabulary).
        labels: (masked,) original token ids.

    Returns:
        scalar; 0 with a gradient path when nothing is masked.
    """
    if len(labels) == 0:
        return logits.float().sum() * 0.0
    return F.cross_entropy(logits.float(), labels)


def distilled_mlm_loss(logits: Tensor, labels: Tensor, teacher_logits: Tensor, weight: float) -> Tensor:
    """
    [`mlm_loss`] whose targets are mixed with a momentum model's predictions.

    Source: ALBEF (NeurIPS 2021), section 3.3.

    Args:
        logits: (masked, vocabulary).
        labels: (masked,) original token ids.
        teacher_logits: (masked, vocabulary) of the momentum model.
        weight: alpha in [0, 1]; 0 is [`mlm_loss`].

    Returns:
        scalar; 0 with a gradient path when nothing is masked.
    """
    hard = mlm_loss(logits, labels)
    if len(labels) == 0:
        return hard
    soft = F.cross_entropy(logits.float(), teacher_logits.detach().float().softmax(dim=1))
    return (1 - weight) * hard + weight * soft


def itm_loss(logits: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
    """
    Image-text matching loss: cross-entropy of match against mismatch over the pairs that count.

    Source: ALBEF (NeurIPS 2021), section 3.2.

    Args:
        logits: (pairs, 2), column 1 for a match.
        labels: (pairs,), 1 for a match and 0 for a mismatch.
        counted: bool (pairs,); False for a pair that is none, such as a hard negative that could not be found.

    Returns:
        scalar; 0 with a gradient path when nothing counts.
    """
    each = F.cross_entropy(logits.float(), labels.long(), reduction="none")
    return (each * counted).sum() / counted.sum().clamp(min=1)


__all__ = [
    "TeacherEmbeddings",
    "distilled_mlm_loss",
    "id_loss",
    "itc_loss",
    "itm_loss",
    "mlm_loss",
    "momentum_itc_loss",
    "sdm_loss",
]
