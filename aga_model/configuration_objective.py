"""The objective of a configuration: which losses pre-training computes, and with which settings."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .configuration_checks import is_number, is_weight, reject_unknown_keys, require, require_choice
from .losses import FOCAL_WEIGHTINGS, LOSSES
from .masking import MASKING_POLICIES, PATCH_SELECTIONS

LOSS_NAMES = tuple(LOSSES)

# Words that a key may have.
_CHOICES = {
    "mask_strategy": tuple(MASKING_POLICIES),
    "enrichment": ("replace", "add", "none"),
    "enrichment_sampling": ("sample", "argmax"),
    "image_mask_strategy": tuple(PATCH_SELECTIONS),
    "waf_target": ("match", "identity"),
    "waf_weighting": tuple(FOCAL_WEIGHTINGS),
    "pair_weighting": ("uniform", "trusted"),
}


@strict
class AgaObjectiveConfig(PreTrainedConfig):
    r"""
    What pre-training optimises. The values marked *choice* are this project's, the papers leave them open.

    Args:
        loss_weights (`dict[str, float]`): weight per loss name; a loss that is not named, or whose weight is 0, is not
            computed. Names: `itc`, `sdm`, `bsdm`, `cmpm`, `tal`, `waf`, `itm`, `mlm`, `id`. A model can be used
            without any; training asks for one, see [`AgaObjectiveConfig.require_losses`].
        num_identities (`int`): classes of the identity head, which exists when the `id` loss is used.
        learn_temperature (`bool`): train `logit_scale`; IRRA keeps it fixed.
        mask_strategy (`str`): `attention` is AGM, `random` the uniform baseline.
        mask_ratio (`float`): expected share of a caption's ordinary tokens that is masked.
        mask_max_probability (`float`): upper bound of one token's masking probability (choice).
        attention_decay (`float`): beta of the moving average over text layers, A_l = beta A_(l-1) + (1 - beta) a_l
            (choice).
        enrichment (`str`): TEM. `replace` writes enriched captions in the place of the originals, `add` uses them as
            second positive view, `none` switches TEM off.
        enrichment_probability (`float`): p_tem, share of captions that are enriched (choice).
        enrichment_sampling (`str`): `sample` from the MLM's distribution or its `argmax` (choice).
        enrichment_min_confidence (`float`): predictions of a lower probability are not written (choice).
        enrichment_start (`float`): share of training after which TEM begins; the trainer passes the progress (choice).
        momentum (`float`, *optional*): of the momentum model, an exponential moving average of the weights that is
            training state and no part of the released model; None does without. ALBEF and RaSa use 0.995.
        distillation_weight (`float`): alpha, weight of the momentum model's soft targets in `itc` and `mlm`, reached
            over the first epoch. ALBEF uses 0.4.
        queue_size (`int`): past embeddings of the momentum model that `itc` also compares with; 0 for none.
        image_keep_ratio (`float`): share of the patches that the image encoder receives in training; 1 for all
            (choice).
        image_keep_until (`float`): share of training after which the image encoder receives all patches, as it does in
            evaluation; 1 for never, FLIP takes all at the end (choice).
        image_mask_strategy (`str`): `attention` is AWM, which asks for a momentum model, `random` the baseline.
        image_score_resolution (`float`): height and width at which the momentum model scores the patches, as a share
            of the image's. Below 1 the scores cost less and are coarser, as in A-CLIP's efficient variant (choice).
        bsdm_kl_weights (`[float, float]`): weights of KL(p || q) and KL(q || p) in `bsdm` (choice).
        tal_margin (`float`): margin of `tal` as cosine similarity. RDE uses 0.1.
        waf_target (`str`): `match` takes the probabilities of `waf` from the softmax over similarities, `identity`
            from the identity classifier (choice).
        waf_gamma (`float`): focusing exponent of `waf`.
        waf_weighting (`str`): in-batch weights of `waf`: `uniform`, `hard` for what is missed, `plausible` for what is
            found likely (choice). `trusted` is another name of `plausible`.
        pair_weighting (`str`): per-pair weights of the other losses: `uniform`, or `trusted` by how likely the model
            finds the pair to be a right one, against wrong pairs (choice, not of the papers).
    """

    model_type = "aga_objective"
    base_config_key = "objective_config"

    loss_weights: Any = None  # dict[str, float]; a mutable default needs filling in
    num_identities: int = 0
    learn_temperature: bool = True
    mask_strategy: str = "attention"
    mask_ratio: float | int = 0.15
    mask_max_probability: float | int = 0.8
    attention_decay: float | int = 0.5
    enrichment: str = "replace"
    enrichment_probability: float | int = 0.2
    enrichment_sampling: str = "sample"
    enrichment_min_confidence: float | int = 0.0
    enrichment_start: float | int = 0.0
    momentum: float | int | None = None
    distillation_weight: float | int = 0.4
    queue_size: int = 0
    image_keep_ratio: float | int = 1.0
    image_keep_until: float | int = 1.0
    image_mask_strategy: str = "attention"
    image_score_resolution: float | int = 1.0
    bsdm_kl_weights: list[float | int] | tuple[float | int, ...] = (1.0, 1.0)
    tal_margin: float | int = 0.1
    waf_target: str = "match"
    waf_gamma: float | int = 2.0
    waf_weighting: str = "uniform"
    pair_weighting: str = "uniform"

    def __post_init__(self, **kwargs):
        reject_unknown_keys(self, kwargs)
        super().__post_init__(**kwargs)
        if self.loss_weights is None:
            self.loss_weights = {"itc": 1.0, "mlm": 1.0}
        self._check_losses()
        self._check_choices()
        self._check_shares()
        self._check_momentum()

    def _check_losses(self) -> None:
        """The losses must be known, and each must find its own settings in order."""
        require(
            isinstance(self.loss_weights, dict) and all(map(is_weight, self.loss_weights.values())),
            f"objective_config.loss_weights must give a number per loss name, got {self.loss_weights!r}",
        )
        for name, weight in self.loss_weights.items():
            require_choice("objective_config", "loss_weights", name, LOSS_NAMES)
            require(weight >= 0, f"objective_config.loss_weights[{name!r}] must not be negative, got {weight}")
        require(self.num_identities >= 0, f"objective_config.num_identities must be >= 0, got {self.num_identities}")
        require(
            len(self.bsdm_kl_weights) == 2
            and all(is_number(weight) and weight >= 0 for weight in self.bsdm_kl_weights)
            and sum(self.bsdm_kl_weights) > 0,
            f"objective_config.bsdm_kl_weights must be two weights of 0 or more, got {self.bsdm_kl_weights}",
        )
        for key in ("waf_gamma", "tal_margin"):
            value = getattr(self, key)
            require(is_number(value) and value >= 0, f"objective_config.{key} must be >= 0, got {value}")

    def _check_choices(self) -> None:
        """Values that are one of several words."""
        for key, choices in _CHOICES.items():
            require_choice("objective_config", key, getattr(self, key), choices)

    def _check_shares(self) -> None:
        """Ratios and probabilities."""
        for key in ("mask_ratio", "mask_max_probability", "image_keep_ratio", "image_score_resolution"):
            value = getattr(self, key)
            require(0 < value <= 1, f"objective_config.{key} must lie in (0, 1], got {value}")
        shares = ("attention_decay", "enrichment_probability", "enrichment_min_confidence", "enrichment_start",
                  "distillation_weight", "image_keep_until")  # fmt: skip
        for key in shares:
            value = getattr(self, key)
            require(0 <= value <= 1, f"objective_config.{key} must lie in [0, 1], got {value}")
        require(
            self.mask_ratio <= self.mask_max_probability,
            f"objective_config.mask_ratio {self.mask_ratio} exceeds mask_max_probability {self.mask_max_probability}",
        )

    def _check_momentum(self) -> None:
        """The momentum model, and what cannot do without it."""
        require(
            self.momentum is None or 0 <= self.momentum < 1,
            f"objective_config.momentum must lie in [0, 1) or be left out, got {self.momentum}",
        )
        require(self.queue_size >= 0, f"objective_config.queue_size must be >= 0, got {self.queue_size}")
        require(
            self.queue_size == 0 or (self.momentum is not None and self.weight("itc") > 0),
            "objective_config.queue_size holds embeddings of the momentum model for the loss 'itc'; give momentum and "
            "that loss, or leave it at 0",
        )
        require(
            not self.selects_by_attention or self.momentum is not None,
            "objective_config.image_keep_ratio below 1 with image_mask_strategy 'attention' keeps the patches that a "
            "momentum model attends to; give momentum, or take 'random'",
        )

    @property
    def selects_by_attention(self) -> bool:
        """AWM: the image encoder receives the patches that the momentum model attends to."""
        return self.image_keep_ratio < 1 and self.image_mask_strategy == "attention"

    @property
    def uses_momentum_targets(self) -> bool:
        """The momentum model's targets, predictions or past embeddings are used, not its patch scores alone."""
        learns = self.distillation_weight > 0 and any(LOSSES[name].momentum for name in self.losses)
        writes = self.enrichment != "none" and self.weight("mlm") > 0
        return self.momentum is not None and (learns or writes or self.queue_size > 0)

    @property
    def needs_identity_head(self) -> bool:
        """A loss reads the identity classifier."""
        return any(LOSSES[name].classifier(self) for name in self.losses)

    @property
    def needs_person_ids(self) -> list[str]:
        """Names of the losses in use that compare persons."""
        return [name for name, loss in LOSSES.items() if loss.persons and self.weight(name) > 0]

    def weight(self, name: str) -> float:
        """Weight of a loss, 0 when it is not used."""
        return float(self.loss_weights.get(name, 0.0))

    @property
    def losses(self) -> dict[str, float]:
        """Weights of the losses that are computed."""
        return {name: weight for name, weight in self.loss_weights.items() if weight > 0}

    def require_losses(self) -> None:
        """Raise ValueError when there is nothing to train on: every weight is 0, or none is given."""
        if not self.losses:  # no message is made in every step
            raise ValueError(
                f"objective_config.loss_weights is {self.loss_weights!r}: no loss has a weight above 0, so there is "
                f"nothing to train on; give one of {', '.join(LOSS_NAMES)} a weight"
            )


__all__ = ["LOSS_NAMES", "AgaObjectiveConfig"]
