"""What a family of architectures is made of."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Family:
    """
    One family: all that differs between architectures of the same models.

    Args:
        name: value of `family` in the configuration.
        title: for people to read, as in a model card.
        text_config, vision_config, fusion_config: classes of the configuration's sections; the fusion encoder's is the
            section `cross_modal_config`.
        text_model, vision_model, fusion_encoder, mlm_head: classes of the parts.
        projection_bias: the projections into the joint space have a bias.
        fuses_projected_states: the fusion encoder reads token and patch states in the joint space, else the towers'
            own.
        text_inputs: what the text tower must be given of a padded batch of captions, in order.
        tied_weights: weights of a model for pre-training that are others of it, with those others; empty for none.
    """

    name: str
    title: str
    text_config: Any
    vision_config: Any
    fusion_config: Any
    text_model: Any
    vision_model: Any
    fusion_encoder: Any
    mlm_head: Any
    projection_bias: bool
    fuses_projected_states: bool
    text_inputs: tuple[str, ...]
    tied_weights: dict[str, str] = field(default_factory=dict)

    @property
    def sections(self) -> dict[str, Any]:
        """Classes of the configuration's sections by key."""
        return {
            "text_config": self.text_config,
            "vision_config": self.vision_config,
            "cross_modal_config": self.fusion_config,
        }

    @property
    def ties_mlm_head(self) -> bool:
        """The last matrix of the MLM head can be the text tower's word embedding."""
        return bool(self.tied_weights)

    def image_states_width(self, config: Any) -> int:
        """Width of the patch states that the fusion encoder reads, of a model's configuration."""
        return config.projection_dim if self.fuses_projected_states else config.vision_config.hidden_size


__all__ = ["Family"]
