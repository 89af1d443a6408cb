"""The dual encoder with a fusion encoder on top, which pre-training and re-ranking build on."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .configuration_aga import AgaConfig
from .modeling_aga import AgaModel, AgaPreTrainedModel
from .towers import caption_tokens, end_positions


class AgaFusionModel(AgaPreTrainedModel):
    """The dual encoder with a fusion encoder on top, shared by pre-training and re-ranking."""

    def __init__(self, config: AgaConfig):
        super().__init__(config)
        self.aga = AgaModel._from_config(config)
        self.fusion = self.family.fusion_encoder._from_config(config.cross_modal_config)
        self.itm_head = None
        if config.has_itm_head:
            self.itm_head = nn.Linear(config.cross_modal_config.hidden_size, 2)

    def post_init(self) -> None:
        """As in transformers, which would take over from the dual encoder inside what that may leave out."""
        super().post_init()
        self._keys_to_ignore_on_load_unexpected = set(type(self)._keys_to_ignore_on_load_unexpected or ())

    def get_input_embeddings(self) -> nn.Module:
        return self.aga.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.aga.set_input_embeddings(value)

    def caption_states(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        outputs: BaseModelOutputWithPooling | None = None,
        packing: dict[str, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """
        Token states of captions, ready to be fused with an image.

        Padding behind the end-of-text takes no part, unless `cross_modal_config.attended_padding_id` says that
        captions are padded to the model's text length and all of it is attended to, as in IRRA.

        Args:
            input_ids: (batch, seq).
            attention_mask: (batch, seq), optional.
            outputs: of [`AgaModel.get_text_features`] for these captions, when they are there.
            packing: as [`AgaModel.get_text_features`]; captions that are padded to the text length do without.

        Returns:
            states (batch, seq or text length, dim) and bool of the same first two sizes, or None when all tokens
            take part.
        """
        text_config = self.config.text_config
        padding_id = self.config.cross_modal_config.attended_padding_id
        if padding_id is None:
            if outputs is None:
                outputs = self.aga.get_text_features(input_ids, attention_mask, packing)
            return self.aga.fusion_text_states(outputs), caption_tokens(input_ids, attention_mask, text_config)
        length = input_ids.shape[1]
        inside = torch.arange(length, device=input_ids.device)[None] <= end_positions(input_ids, text_config)[:, None]
        padded = input_ids.new_full((len(input_ids), text_config.max_position_embeddings), padding_id)
        padded[:, :length] = torch.where(inside, input_ids, padding_id)
        return self.aga.fusion_text_states(self.aga.get_text_features(padded)), None

    def fuse(
        self,
        input_ids: Tensor,
        image_states: Tensor,
        attention_mask: Tensor | None = None,
        packing: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """
        Caption states after attending to the image, (texts, seq, dim).

        Args:
            input_ids: (texts, seq).
            image_states: (images, patches + 1, dim) of [`AgaModel.fusion_image_states`]; caption i attends to image
                i // (texts / images).
            attention_mask: (texts, seq), optional.
            packing: as [`caption_states`].
        """
        states, mask = self.caption_states(input_ids, attention_mask, packing=packing)
        # Attended padding leaves nothing to spare.
        spares = packing is not None and mask is not None and self.fusion.takes_packing
        shared: dict[str, Any] = {"packing": packing} if spares else {}
        return self.fusion(states, image_states, mask, **shared)[:, : input_ids.shape[1]]

    def match_logits(
        self, text_states: Tensor, text_mask: Tensor | None, pooled: Tensor, image_states: Tensor
    ) -> Tensor:
        """
        ITM logits of captions with images, (texts, 2), column 1 for a match.

        Args:
            text_states, text_mask: of [`caption_states`].
            pooled: (texts,) position of each caption's pooled token.
            image_states: (images, patches + 1, dim); caption i goes with image i // (texts / images).
        """
        if self.itm_head is None:
            raise ValueError(
                "this model has no ITM head: objective_config.loss_weights must give 'itm' a weight in the run that "
                "trains it"
            )
        return self.itm_head(self.fusion.pooled_states(text_states, image_states, text_mask, pooled))


__all__ = ["AgaFusionModel"]
