"""
The table of losses: what computes each, and what it needs.

A new loss is a function of [`LossInputs`] and the objective's section, a row of `LOSSES`, and a field of
`AgaObjectiveConfig` for each setting of its own. Its name in `loss_weights` is the row's, and the output of
`AgaForPreTraining` has it as NAME_loss.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .distributed import global_mean
from .embedding_losses import (
    MomentumEmbeddings,
    bsdm_loss,
    cmpm_loss,
    itc_loss,
    match_log_probability,
    momentum_itc_loss,
    pair_trust,
    sdm_loss,
    tal_loss,
    weighted_mean,
)
from .head_losses import (
    FOCAL_WEIGHTINGS,
    IGNORED,
    distilled_mlm_loss,
    id_loss,
    identity_log_probability,
    itm_loss,
    mlm_loss,
    mlm_token_losses,
    waf_loss,
)
from .pair_batch import LossInputs


def __getattr__(name: str) -> Any:
    """The name that [`MomentumEmbeddings`] had before version 0.2, for one version more."""
    if name != "TeacherEmbeddings":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"{name} is now called MomentumEmbeddings", DeprecationWarning, stacklevel=2)
    return MomentumEmbeddings


def _itc(given: LossInputs, objective: Any) -> Tensor:
    # An exponential of its own: added up in another order, the gradient of the temperature has another last bit.
    pairs = given.images, given.texts, given.all_person_ids, (-given.logit_scale).exp()
    if given.momentum_embeds is None:
        return itc_loss(*pairs, given.weights)
    return momentum_itc_loss(*pairs, given.momentum_embeds, given.momentum_weight, given.weights)


def _sdm(given: LossInputs, objective: Any) -> Tensor:
    return sdm_loss(given.images, given.texts, given.all_person_ids, given.temperature, given.weights)


def _bsdm(given: LossInputs, objective: Any) -> Tensor:
    kl_weights = tuple(objective.bsdm_kl_weights)
    return bsdm_loss(given.images, given.texts, given.all_person_ids, given.temperature, kl_weights, given.weights)


def _cmpm(given: LossInputs, objective: Any) -> Tensor:
    return cmpm_loss(given.images, given.texts, given.all_person_ids, given.weights)


def _tal(given: LossInputs, objective: Any) -> Tensor:
    margin = objective.tal_margin
    return tal_loss(given.images, given.texts, given.all_person_ids, given.temperature, margin, given.weights)


def _waf(given: LossInputs, objective: Any) -> Tensor:
    if _waf_reads_classifier(objective):
        own = identity_log_probability(given.image_logits, given.text_logits, given.person_ids)
        log_probability = given.everyone.gather(own)
    else:
        log_probability = match_log_probability(given.images, given.texts, given.all_person_ids, given.temperature)
    return waf_loss(log_probability, objective.waf_gamma, objective.waf_weighting)


def _waf_reads_classifier(objective: Any) -> bool:
    return objective.waf_target == "identity"


def _itm(given: LossInputs, objective: Any) -> Tensor:
    matched = given.matched
    loss = itm_loss(matched.logits, matched.labels, matched.weights)
    return global_mean(loss, matched.weights.sum())


def _mlm(given: LossInputs, objective: Any) -> Tensor:
    """Mean over the masked tokens of the global batch, of which each pair has computed its sum."""
    losses, count = given.pairs.mlm_losses, given.pairs.mlm_counts.sum()
    if given.own_weights is not None:
        losses = losses * given.own_weights.to(losses)
    return global_mean(losses.sum() / count.clamp(min=1), count)


def _id(given: LossInputs, objective: Any) -> Tensor:
    loss = id_loss(given.image_logits, given.text_logits, given.person_ids, given.own_weights)
    return global_mean(loss, len(given.image_logits))


def _always(objective: Any) -> bool:
    return True


def _never(objective: Any) -> bool:
    return False


@dataclass(frozen=True)
class Loss:
    """
    A row of the table of losses.

    Args:
        function: the loss, a scalar over the global batch, of [`LossInputs`] and the objective's section.
        persons: it compares persons, so that a batch must bring `person_ids`.
        classifier: whether it reads the identity classifier under an objective's section.
        momentum: with a momentum model, that model's soft targets are mixed into its own.
        between_views: it compares images with captions, and is computed for enriched and original captions where both
            are views; the others are computed once.
    """

    function: Callable[[LossInputs, Any], Tensor]
    persons: bool = False
    classifier: Callable[[Any], bool] = _never
    momentum: bool = False
    between_views: bool = True


LOSSES: dict[str, Loss] = {
    "itc": Loss(_itc, momentum=True),
    "sdm": Loss(_sdm, persons=True),
    "bsdm": Loss(_bsdm, persons=True),
    "cmpm": Loss(_cmpm, persons=True),
    "tal": Loss(_tal, persons=True),
    "waf": Loss(_waf, persons=True, classifier=_waf_reads_classifier),
    "itm": Loss(_itm, between_views=False),
    "mlm": Loss(_mlm, momentum=True, between_views=False),
    "id": Loss(_id, persons=True, classifier=_always),
}


__all__ = [
    "FOCAL_WEIGHTINGS",
    "IGNORED",
    "LOSSES",
    "Loss",
    "LossInputs",
    "MomentumEmbeddings",
    "bsdm_loss",
    "cmpm_loss",
    "distilled_mlm_loss",
    "id_loss",
    "identity_log_probability",
    "itc_loss",
    "itm_loss",
    "match_log_probability",
    "mlm_loss",
    "mlm_token_losses",
    "momentum_itc_loss",
    "pair_trust",
    "sdm_loss",
    "tal_loss",
    "waf_loss",
    "weighted_mean",
]
