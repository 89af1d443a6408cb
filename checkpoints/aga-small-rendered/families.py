"""
The families of architectures. A new one is a [`Family`] and a member of `FAMILIES`; nothing else asks for its name.
"""

from .configuration_sections import (
    AgaBertFusionConfig,
    AgaBertTextConfig,
    AgaFusionConfig,
    AgaTextConfig,
    AgaVisionConfig,
    AgaViTConfig,
)
from .family_record import Family
from .fusion import AgaBertFusionEncoder, AgaBertMLMHead, AgaFusionEncoder, AgaMLMHead
from .towers import AgaBertTextModel, AgaTextModel, AgaVisionModel

# CLIP's towers and IRRA's fusion encoder.
CLIP = Family(
    name="clip",
    title="CLIP",
    text_config=AgaTextConfig,
    vision_config=AgaVisionConfig,
    fusion_config=AgaFusionConfig,
    text_model=AgaTextModel,
    vision_model=AgaVisionModel,
    fusion_encoder=AgaFusionEncoder,
    mlm_head=AgaMLMHead,
    projection_bias=False,
    fuses_projected_states=True,
    text_inputs=("input_ids",),  # a causal tower reads nothing behind the end of a caption
)

# ALBEF's architecture: ViT, and BERT in two halves.
BERT = Family(
    name="bert",
    title="BERT",
    text_config=AgaBertTextConfig,
    vision_config=AgaViTConfig,
    fusion_config=AgaBertFusionConfig,
    text_model=AgaBertTextModel,
    vision_model=AgaVisionModel,
    fusion_encoder=AgaBertFusionEncoder,
    mlm_head=AgaBertMLMHead,
    projection_bias=True,
    fuses_projected_states=False,
    text_inputs=("input_ids", "attention_mask"),
    tied_weights={"mlm_head.decoder.weight": "aga.text_model.embeddings.word_embeddings.weight"},
)

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        CLIP,
        BERT,
    )
}

__all__ = ["BERT", "CLIP", "FAMILIES", "Family"]
