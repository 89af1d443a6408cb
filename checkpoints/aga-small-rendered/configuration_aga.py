"""Configuration of AGA models: two CLIP-family towers, a fusion encoder and a training objective."""

import difflib
from dataclasses import fields
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import CLIPTextConfig, CLIPVisionConfig, PreTrainedConfig

LOSS_NAMES = ("itc", "sdm", "mlm", "id")
MASK_STRATEGIES = ("attention", "random")
ENRICHMENT_MODES = ("replace", "add", "none")
ENRICHMENT_SAMPLING = ("sample", "argmax")

# Keys that transformers itself writes into or passes through a configuration besides the declared fields.
_LIBRARY_KEYS = {
    "model_type",
    "auto_map",
    "torch_dtype",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "attn_implementation",
    "experts_implementation",
    "use_cache",  # set by transformers' Trainer
    "bos_token_id",  # aligned with the tokenizer by the Trainer
    "eos_token_id",
    "pad_token_id",
}


def _reject_unknown_keys(config: PreTrainedConfig, kwargs: dict[str, Any]) -> None:
    """Raise ValueError for a key that is no field of `config`; transformers would silently keep it."""
    known = {field.name for field in fields(config)}
    for key in kwargs:
        if key in known or key in _LIBRARY_KEYS or key.startswith("_"):
            continue
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(sorted(known))}"
        raise ValueError(f"{type(config).__name__} has no key {key!r}{hint}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _require_choice(owner: str, key: str, value: str, choices: tuple[str, ...]) -> None:
    _require(value in choices, f"{owner}.{key} is {value!r}; choose one of {', '.join(choices)}")


@strict
class AgaVisionConfig(CLIPVisionConfig):
    r"""
    CLIP's vision tower on a rectangular image with an own patch grid. Fields not listed are CLIP's.

    Args:
        image_size (`int` or `[height, width]`, pixels): input size; an int means a square.
        patch_size (`int`, pixels): side of a square patch.
        stride (`int`, pixels, *optional*): distance of neighbouring patches; the patch size when not given. IRRA's
            overlapping patches are `patch_size=16, stride=8`.
        stem_channels (`list[int]`): channels of stride-2 3x3 convolutions in front of the patch projection; each
            halves the resolution that the projection sees. Empty is CLIP's plain linear patch embedding. A short stem
            makes training from random weights take off earlier (Xiao et al., NeurIPS 2021).
    """

    model_type = "aga_vision_model"
    base_config_key = "vision_config"

    image_size: int | list[int] | tuple[int, int] = (384, 128)
    patch_size: int = 16
    stride: int | None = None
    stem_channels: list[int] | tuple[int, ...] = ()

    def __post_init__(self, **kwargs):
        _reject_unknown_keys(self, kwargs)
        super().__post_init__(**kwargs)
        if self.stride is None:
            self.stride = self.patch_size
        self._check_grid()

    @property
    def image_height_width(self) -> tuple[int, int]:
        """Input size in pixels as (height, width)."""
        if isinstance(self.image_size, int):
            return self.image_size, self.image_size
        return int(self.image_size[0]), int(self.image_size[1])

    @property
    def grid_size(self) -> tuple[int, int]:
        """Number of patches as (rows, columns)."""
        height, width = self.image_height_width
        stride = self.stride or self.patch_size
        return (height - self.patch_size) // stride + 1, (width - self.patch_size) // stride + 1

    def _check_grid(self) -> None:
        """Patches must cover the image exactly and the stem must divide a patch."""
        size = self.image_size
        _require(
            isinstance(size, int) or len(size) == 2,
            f"vision_config.image_size must be an int or [height, width], got {size!r}",
        )
        stride = self.stride or self.patch_size
        _require(self.patch_size > 0, f"vision_config.patch_size must be positive, got {self.patch_size}")
        _require(
            0 < stride <= self.patch_size,
            f"vision_config.stride must lie between 1 and patch_size ({self.patch_size}), got {stride}",
        )
        for side, pixels in zip(("height", "width"), self.image_height_width):
            _require(
                pixels >= self.patch_size and (pixels - self.patch_size) % stride == 0,
                f"vision_config.image_size: {side} {pixels} is not divisible into patches of patch_size "
                f"{self.patch_size} at stride {stride}",
            )
        halvings = 2 ** len(self.stem_channels)
        _require(
            self.patch_size % halvings == 0 and stride % halvings == 0,
            f"vision_config.stem_channels: {len(self.stem_channels)} convolutions halve the image "
            f"{len(self.stem_channels)} times, so patch_size ({self.patch_size}) and stride ({stride}) must be "
            f"multiples of {halvings}",
        )


@strict
class AgaTextConfig(CLIPTextConfig):
    r"""
    CLIP's text tower. Special tokens that are not given take CLIP's and IRRA's places in the vocabulary: end-of-text
    is the last id, start-of-text the one before it and the mask token the one before that (49407, 49406 and 49405 of
    CLIP's 49,408 entries). Captions are padded with end-of-text, as CLIP's tokenizer does.

    Args:
        mask_token_id (`int`, *optional*): id of the mask token that the cross-modal MLM uses.
    """

    model_type = "aga_text_model"
    base_config_key = "text_config"

    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    mask_token_id: int | None = None

    def __post_init__(self, **kwargs):
        _reject_unknown_keys(self, kwargs)
        if self.eos_token_id is None:
            self.eos_token_id = self.vocab_size - 1
        if self.bos_token_id is None:
            self.bos_token_id = self.vocab_size - 2
        if self.mask_token_id is None:
            taken = (self.bos_token_id, self.eos_token_id)
            places = (self.bos_token_id - 1, *range(self.vocab_size - 1, -1, -1))
            self.mask_token_id = next(place for place in places if place >= 0 and place not in taken)
        if self.pad_token_id is None:
            self.pad_token_id = self.eos_token_id
        super().__post_init__(**kwargs)
        self._check_special_tokens()

    def _check_special_tokens(self) -> None:
        """Every special token must be an entry of the vocabulary, and no two may be the same."""
        ids = {name: getattr(self, name) for name in ("bos_token_id", "eos_token_id", "mask_token_id")}
        for name, value in ids.items():
            _require(
                0 <= value < self.vocab_size,
                f"text_config.{name} is {value}, outside the vocabulary of {self.vocab_size} entries",
            )
        _require(len(set(ids.values())) == 3, f"text_config: special tokens must differ, got {ids}")


@strict
class AgaFusionConfig(PreTrainedConfig):
    r"""
    Cross-modal encoder as in IRRA (CVPR 2023): one cross-attention from text to patches, then self-attention blocks.

    Args:
        hidden_size (`int`, *optional*): width; always the model's `projection_dim`, which fills it in.
        num_hidden_layers (`int`): self-attention blocks after the cross-attention.
        num_attention_heads (`int`, *optional*): `hidden_size / 64` when not given, as in IRRA, or the next smaller
            number that divides `hidden_size`.
        intermediate_size (`int`, *optional*): `4 * hidden_size` when not given.
        cross_attention_residual (`bool`): add the text states to the cross-attention's output. IRRA has none; from
            random weights the MLM does not take off without it.
        attended_padding_id (`int`, *optional*): IRRA pads captions to the full text length with token 0 and lets the
            padding take part in the fusion; this id does the same. Without it padding takes no part.
        initializer_range (`float`): standard deviation for layers that have no rule of their own.
    """

    model_type = "aga_fusion"
    base_config_key = "cross_modal_config"

    hidden_size: int | None = None
    num_hidden_layers: int = 4
    num_attention_heads: int | None = None
    intermediate_size: int | None = None
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    attention_dropout: float | int = 0.0
    cross_attention_residual: bool = False
    attended_padding_id: int | None = None
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        _reject_unknown_keys(self, kwargs)
        super().__post_init__(**kwargs)

    def fill_in(self, projection_dim: int) -> None:
        """Set the width and what follows from it; ValueError when `hidden_size` was given as something else."""
        _require(
            self.hidden_size in (None, projection_dim),
            f"cross_modal_config.hidden_size is {self.hidden_size}, but the fusion encoder works on projected states "
            f"of projection_dim {projection_dim}; leave it out",
        )
        self.hidden_size = projection_dim
        if self.num_attention_heads is None:
            most = max(1, projection_dim // 64)
            self.num_attention_heads = next(n for n in range(most, 0, -1) if projection_dim % n == 0)
        if self.intermediate_size is None:
            self.intermediate_size = 4 * projection_dim
        _require(
            self.num_attention_heads > 0 and projection_dim % self.num_attention_heads == 0,
            f"cross_modal_config.num_attention_heads: {self.num_attention_heads} does not divide projection_dim "
            f"{projection_dim}",
        )


@strict
class AgaObjectiveConfig(PreTrainedConfig):
    r"""
    What pre-training optimises. The values marked *choice* are this project's, the papers leave them open.

    Args:
        loss_weights (`dict[str, float]`): weight per loss name; a loss that is not named is not computed. Names:
            `itc`, `sdm`, `mlm`, `id`.
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
    enrichment_probability: float | int = 0.5
    enrichment_sampling: str = "sample"
    enrichment_min_confidence: float | int = 0.0
    enrichment_start: float | int = 0.0

    def __post_init__(self, **kwargs):
        _reject_unknown_keys(self, kwargs)
        super().__post_init__(**kwargs)
        if self.loss_weights is None:
            self.loss_weights = {"itc": 1.0, "mlm": 1.0}
        self._check_objective()

    def _check_objective(self) -> None:
        """Names must be known and ratios must be probabilities."""
        _require(
            isinstance(self.loss_weights, dict)
            and all(isinstance(weight, int | float) for weight in self.loss_weights.values()),
            f"objective_config.loss_weights must give a number per loss name, got {self.loss_weights!r}",
        )
        for name, weight in self.loss_weights.items():
            _require_choice("objective_config", "loss_weights", name, LOSS_NAMES)
            _require(weight >= 0, f"objective_config.loss_weights[{name!r}] must not be negative, got {weight}")
        _require_choice("objective_config", "mask_strategy", self.mask_strategy, MASK_STRATEGIES)
        _require_choice("objective_config", "enrichment", self.enrichment, ENRICHMENT_MODES)
        _require_choice("objective_config", "enrichment_sampling", self.enrichment_sampling, ENRICHMENT_SAMPLING)
        for key in ("mask_ratio", "mask_max_probability"):
            value = getattr(self, key)
            _require(0 < value <= 1, f"objective_config.{key} must lie in (0, 1], got {value}")
        for key in ("attention_decay", "enrichment_probability", "enrichment_min_confidence", "enrichment_start"):
            value = getattr(self, key)
            _require(0 <= value <= 1, f"objective_config.{key} must lie in [0, 1], got {value}")
        _require(
            self.mask_ratio <= self.mask_max_probability,
            f"objective_config.mask_ratio {self.mask_ratio} exceeds mask_max_probability {self.mask_max_probability}",
        )
        _require(self.num_identities >= 0, f"objective_config.num_identities must be >= 0, got {self.num_identities}")

    def weight(self, name: str) -> float:
        """Weight of a loss, 0 when it is not used."""
        return float(self.loss_weights.get(name, 0.0))


@strict
class AgaConfig(PreTrainedConfig):
    r"""
    Configuration of [`AgaModel`] and [`AgaForPreTraining`]. Every size is a field, so a model of a million parameters
    and ViT-B/16 are the same code.

    Args:
        text_config, vision_config, cross_modal_config, objective_config (`dict` or the class): see there.
        projection_dim (`int`): width of the joint embedding space and of the fusion encoder.
        logit_scale_init_value (`float`): initial log of the inverse temperature, as in CLIP (2.6592 = temperature
            0.07).

    Example:

    ```python
    >>> from aga_model import AgaConfig, AgaModel

    >>> config = AgaConfig(
    ...     vision_config=dict(image_size=[64, 32], patch_size=8, hidden_size=96, num_hidden_layers=2),
    ...     text_config=dict(vocab_size=512, hidden_size=96, num_hidden_layers=2),
    ...     projection_dim=96,
    ... )
    >>> model = AgaModel(config)
    ```
    """

    model_type = "aga"
    sub_configs = {  # noqa: RUF012 - the library reads a plain class attribute
        "text_config": AgaTextConfig,
        "vision_config": AgaVisionConfig,
        "cross_modal_config": AgaFusionConfig,
        "objective_config": AgaObjectiveConfig,
    }

    text_config: Any = None  # a dict or the configuration class; filled in by __post_init__
    vision_config: Any = None
    cross_modal_config: Any = None
    objective_config: Any = None
    projection_dim: int = 512
    logit_scale_init_value: float | int = 2.6592
    initializer_range: float = 0.02
    initializer_factor: float = 1.0

    def __post_init__(self, **kwargs):
        _reject_unknown_keys(self, kwargs)
        _require(self.projection_dim > 0, f"projection_dim must be positive, got {self.projection_dim}")
        for key, config_class in self.sub_configs.items():
            value = getattr(self, key)
            _require(
                value is None or isinstance(value, dict) or hasattr(value, "to_dict"),
                f"{key} must be a section of keys and values, got {value!r}",
            )
            if value is None or isinstance(value, dict):
                setattr(self, key, config_class(**(value or {})))
        self.cross_modal_config.fill_in(self.projection_dim)
        super().__post_init__(**kwargs)
        objective = self.objective_config
        _require(
            objective.weight("id") == 0 or objective.num_identities > 0,
            "objective_config.loss_weights names 'id', so objective_config.num_identities must be the number of "
            "training identities (train_hf.py fills it in from the data)",
        )


AgaConfig.register_for_auto_class()

__all__ = ["AgaConfig", "AgaFusionConfig", "AgaObjectiveConfig", "AgaTextConfig", "AgaVisionConfig"]
