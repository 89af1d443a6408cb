"""The re-ranker: how well a caption describes an image, pair by pair."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_aga import AgaConfig
from .modeling_fusion import AgaFusionModel


@dataclass
class AgaForImageTextRetrievalOutput(ModelOutput):
    """
    Output of [`AgaForImageTextRetrieval`].

    Args:
        logits (`(batch, 2)`): of ITM, column 1 for a match.
        image_embeds, text_embeds (`(batch, projection_dim)`): of the dual encoder, normalised.
    """

    logits: Tensor | None = None
    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None


class AgaForImageTextRetrieval(AgaFusionModel):
    """
    [`AgaModel`] with the fusion encoder and the ITM head, to re-rank what the dual encoder finds.

    A checkpoint of [`AgaForPreTraining`] trained with the loss `itm` loads into it.

    Example:

    ```python
    >>> model = AgaForImageTextRetrieval.from_pretrained(folder)
    >>> batch = processor(images=crops, text=["a man in red"] * len(crops), return_tensors="pt")
    >>> scores = model.score(**batch)
    ```
    """

    _keys_to_ignore_on_load_unexpected = (r"^mlm_head\.", r"^identity_head\.")

    def __init__(self, config: AgaConfig):
        super().__init__(config)
        if self.itm_head is None:
            raise ValueError(
                "has_itm_head is false and objective_config.loss_weights does not name 'itm' with a weight above 0: "
                "this checkpoint has no ITM head to re-rank with; train one with that loss, or use AgaModel"
            )
        self.post_init()

    @can_return_tuple
    def forward(
        self, input_ids: Tensor, pixel_values: Tensor, attention_mask: Tensor | None = None
    ) -> AgaForImageTextRetrievalOutput:
        """
        Match caption i with image i.

        Args:
            input_ids: (batch, seq).
            pixel_values: (batch, channels, height, width).
            attention_mask: (batch, seq), 0 at padding.
        """
        if len(input_ids) != len(pixel_values):
            raise ValueError(f"caption i goes with image i, got {len(input_ids)} captions, {len(pixel_values)} images")
        vision, text = self.aga.get_image_features(pixel_values), self.aga.get_text_features(input_ids, attention_mask)
        states, mask = self.caption_states(input_ids, attention_mask, text)
        pooled = self.aga.text_model.pooled_positions(input_ids)
        return AgaForImageTextRetrievalOutput(
            logits=self.match_logits(states, mask, pooled, self.aga.fusion_image_states(vision)),
            image_embeds=nn.functional.normalize(vision.pooler_output, dim=-1),
            text_embeds=nn.functional.normalize(text.pooler_output, dim=-1),
        )

    @torch.no_grad()
    def score(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Log-odds that caption i describes image i, (batch,) float32, without gradients."""
        logits = self(input_ids=input_ids, pixel_values=pixel_values, attention_mask=attention_mask).logits.float()
        return logits[:, 1] - logits[:, 0]


# transformers has no Auto class for image-text matching: the entry names the class for get_class_from_dynamic_module.
AgaForImageTextRetrieval._auto_class = "AgaForImageTextRetrieval"

__all__ = ["AgaForImageTextRetrieval", "AgaForImageTextRetrievalOutput"]
