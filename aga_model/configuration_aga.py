"""Configuration of AGA models: two towers and a fusion encoder of a family, and an objective."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .configuration_checks import is_number, reject_unknown_keys, require, require_choice
from .configuration_objective import LOSS_NAMES, AgaObjectiveConfig
from .configuration_sections import (
    AgaBertFusionConfig,
    AgaBertTextConfig,
    AgaFusionConfig,
    AgaTextConfig,
    AgaVisionConfig,
    AgaViTConfig,
)
from .families import FAMILIES


@strict
class AgaConfig(PreTrainedConfig):
    r"""
    Configuration of [`AgaModel`], [`AgaForPreTraining`] and [`AgaForImageTextRetrieval`]. Every size is a field, so a
    model of a million parameters and ViT-B/16 are the same code.

    Args:
        family (`str`): `clip`, the towers of CLIP and IRRA's fusion encoder, or `bert`, ALBEF's architecture.
        text_config, vision_config, cross_modal_config, objective_config (`dict` or the family's class): see
            [`AgaTextConfig`], [`AgaVisionConfig`], [`AgaFusionConfig`] (`clip`), [`AgaBertTextConfig`],
            [`AgaViTConfig`], [`AgaBertFusionConfig`] (`bert`) and [`AgaObjectiveConfig`].
        projection_dim (`int`): width of the joint embedding space, and of the CLIP family's fusion encoder.
        logit_scale_init_value (`float`): initial log of the inverse temperature, as in CLIP (2.6592 = temperature
            0.07).
        has_itm_head (`bool`): the model has an ITM head and can re-rank. Set by the loss `itm`, and where a
            configuration of versions before 0.2 names that loss.
        has_mlm_head (`bool`): the MLM head and the fusion encoder in front of it are trained, so that the model can
            predict words. Set by the loss `mlm`, and where a configuration of versions before 0.2 names that loss.
        tie_word_embeddings (`bool`, *optional*): the last matrix of the MLM head is the text tower's word embedding;
            so in the `bert` family unless given, and impossible in the `clip` family.

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
        **FAMILIES["clip"].sections,
        "objective_config": AgaObjectiveConfig,
    }

    family: str = "clip"
    text_config: Any = None  # a dict or the configuration class; filled in by __post_init__
    vision_config: Any = None
    cross_modal_config: Any = None
    objective_config: Any = None
    projection_dim: int = 512
    logit_scale_init_value: float | int = 2.6592
    initializer_range: float = 0.02
    initializer_factor: float = 1.0
    has_itm_head: bool = False
    has_mlm_head: bool = False
    tie_word_embeddings: bool | None = None

    def __post_init__(self, **kwargs):
        reject_unknown_keys(self, kwargs)
        require(self.projection_dim > 0, f"projection_dim must be positive, got {self.projection_dim}")
        for key in ("logit_scale_init_value", "initializer_range", "initializer_factor"):
            value = getattr(self, key)
            require(is_number(value), f"{key} must be a finite number, got {value}")
        require_choice("AgaConfig", "family", self.family, tuple(FAMILIES))
        family = FAMILIES[self.family]
        for key, config_class in (self.sub_configs | family.sections).items():
            self._build_section(key, config_class)
        self.cross_modal_config.fill_in(self.projection_dim, self.text_config, self.vision_config)
        if self.tie_word_embeddings is None:
            self.tie_word_embeddings = family.ties_mlm_head
        require(
            family.ties_mlm_head or not self.tie_word_embeddings,
            f"tie_word_embeddings: the MLM head of the {self.family} family works on projected states; leave it out",
        )
        super().__post_init__(**kwargs)
        objective = self.objective_config
        self.has_itm_head = self.has_itm_head or objective.weight("itm") > 0
        self.has_mlm_head = self.has_mlm_head or objective.weight("mlm") > 0
        require(
            not objective.needs_identity_head or objective.num_identities > 0,
            "objective_config.loss_weights names 'id', or 'waf' with the target 'identity', so "
            "objective_config.num_identities must be the number of training identities (train_hf.py fills it in from "
            "the data)",
        )

    def _build_section(self, key: str, config_class: Any) -> None:
        """Make a section of keys and values a configuration of its class; it must be of the family."""
        value = getattr(self, key)
        require(
            value is None or isinstance(value, dict) or hasattr(value, "to_dict"),
            f"{key} must be a section of keys and values, got {value!r}",
        )
        if value is None or isinstance(value, dict):
            setattr(self, key, config_class(**(value or {})))
        given = getattr(self, key).model_type
        require(
            given == config_class.model_type,
            f"{key} is of model_type {given!r}, family {self.family!r} wants {config_class.model_type!r}",
        )


AgaConfig.register_for_auto_class()

__all__ = [
    "LOSS_NAMES",
    "AgaBertFusionConfig",
    "AgaBertTextConfig",
    "AgaConfig",
    "AgaFusionConfig",
    "AgaObjectiveConfig",
    "AgaTextConfig",
    "AgaViTConfig",
    "AgaVisionConfig",
]
