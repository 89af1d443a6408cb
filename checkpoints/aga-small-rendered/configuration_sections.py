"""Sections of a configuration that describe towers and fusion encoders of the CLIP and the BERT family."""

from huggingface_hub.dataclasses import strict
from transformers import BertConfig, CLIPTextConfig, CLIPVisionConfig, PreTrainedConfig

from .configuration_checks import check_layers, check_special_tokens, reject_unknown_keys, require


@strict
class AgaVisionConfig(CLIPVisionConfig):
    r"""
    CLIP's vision tower on a rectangular image with an own patch grid. Fields not listed are CLIP's.

    Args:
        image_size (`int` or `[height, width]`, pixels): input size; an int means a square.
        patch_size (`int`, pixels): side of a square patch.
        stride (`int`, pixels, *optional*): distance of neighbouring patches; the patch size when not given. IRRA's
            overlapping patches are `patch_size=16` with a stride of 8 or 12. Overlapping patches need not reach the
            last pixel of the image, others must.
        stem_channels (`list[int]`): channels of stride-2 3x3 convolutions in front of the patch projection; each
            halves the resolution that the projection sees. Empty is CLIP's plain linear patch embedding. A short stem
            makes training from random weights take off earlier (Xiao et al., NeurIPS 2021).
        patch_bias (`bool`): the patch projection has a bias; CLIP's has none.
        pre_layernorm (`bool`): LN of the embeddings in front of the blocks, as in CLIP.
    """

    model_type = "aga_vision_model"
    base_config_key = "vision_config"

    image_size: int | list[int] | tuple[int, int] = (384, 128)
    patch_size: int = 16
    stride: int | None = None
    stem_channels: list[int] | tuple[int, ...] = ()
    patch_bias: bool = False
    pre_layernorm: bool = True

    def __post_init__(self, **kwargs):
        reject_unknown_keys(self, kwargs)
        super().__post_init__(**kwargs)
        check_layers("vision_config", self)
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
        return self.patches_along(height), self.patches_along(width)

    def patches_along(self, pixels: int) -> int:
        """
        Number of patches along a side of an image: floor((pixels - patch_size) / stride) + 1 without a stem.

        Overlapping patches may leave pixels over behind the last whole one; they are not read, as in IRRA.
        """
        patch, stride = self.patch_size, self.stride or self.patch_size
        for _ in self.stem_channels:  # each convolution halves a side, an odd one with its last pixel
            pixels, patch, stride = (pixels + 1) // 2, patch // 2, stride // 2
        return (pixels - patch) // stride + 1

    def _check_grid(self) -> None:
        """Patches must fit into the image, cover it unless they overlap, and be divided by the stem."""
        size = self.image_size
        require(
            isinstance(size, int) or len(size) == 2,
            f"vision_config.image_size must be an int or [height, width], got {size!r}",
        )
        stride = self.patch_size if self.stride is None else self.stride
        require(self.patch_size > 0, f"vision_config.patch_size must be positive, got {self.patch_size}")
        require(
            0 < stride <= self.patch_size,
            f"vision_config.stride must lie between 1 and patch_size ({self.patch_size}), got {stride}",
        )
        for side, pixels in zip(("height", "width"), self.image_height_width):
            # Overlapping patches leave a few pixels over, as in IRRA; without overlap the size is a mistake.
            require(
                pixels >= self.patch_size and (stride < self.patch_size or pixels % stride == 0),
                f"vision_config.image_size: {side} {pixels} is not divisible into patches of patch_size "
                f"{self.patch_size} at stride {stride}",
            )
        halvings = 2 ** len(self.stem_channels)
        require(
            all(channels > 0 for channels in self.stem_channels),
            f"vision_config.stem_channels must be positive, got {self.stem_channels}",
        )
        require(
            self.patch_size % halvings == 0 and stride % halvings == 0,
            f"vision_config.stem_channels: {len(self.stem_channels)} convolutions halve the image "
            f"{len(self.stem_channels)} times, so patch_size ({self.patch_size}) and stride ({stride}) must be "
            f"multiples of {halvings}",
        )


@strict
class AgaViTConfig(AgaVisionConfig):
    r"""
    The vision tower of the BERT family: ViT as ALBEF takes it from timm. Only the defaults differ from
    [`AgaVisionConfig`]: no LN in front of the blocks, a bias in the patch projection, GELU, LN epsilon 1e-6.
    """

    model_type = "aga_vit_model"

    image_size: int | list[int] | tuple[int, int] = (384, 384)
    patch_bias: bool = True
    pre_layernorm: bool = False
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6


@strict
class AgaTextConfig(CLIPTextConfig):
    r"""
    CLIP's text tower. Special tokens that are not given take CLIP's and IRRA's places in the vocabulary: end-of-text
    is the last id, start-of-text the one before it and the mask token the one before that (49407, 49406 and 49405 of
    CLIP's 49,408 entries). Captions are padded with end-of-text, as CLIP's tokenizer does.

    Args:
        mask_token_id (`int`, *optional*): id of the mask token that the cross-modal MLM uses.
        unk_token_id (`int`, *optional*): id that stands for what the vocabulary does not have. CLIP's tokenizer, which
            spells every word in bytes, has none of its own.
        other_special_token_ids (`list[int]`): ids of further special tokens of the tokenizer. No special token is a
            word: none is masked, predicted or written into a caption.
    """

    model_type = "aga_text_model"
    base_config_key = "text_config"

    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    mask_token_id: int | None = None
    unk_token_id: int | None = None
    other_special_token_ids: list[int] | tuple[int, ...] = ()

    def __post_init__(self, **kwargs):
        reject_unknown_keys(self, kwargs)
        require(self.vocab_size > 3, f"text_config.vocab_size must exceed the special tokens, got {self.vocab_size}")
        if self.eos_token_id is None:
            self.eos_token_id = self.vocab_size - 1
        if self.bos_token_id is None:
            self.bos_token_id = self.vocab_size - 2
        if self.mask_token_id is None and isinstance(self.bos_token_id, int):
            taken = (self.bos_token_id, self.eos_token_id)
            places = (self.bos_token_id - 1, *range(self.vocab_size - 1, -1, -1))
            self.mask_token_id = next(place for place in places if place >= 0 and place not in taken)
        if self.pad_token_id is None:
            self.pad_token_id = self.eos_token_id
        super().__post_init__(**kwargs)
        check_layers("text_config", self)
        check_special_tokens("text_config", self)

    @property
    def caption_length(self) -> int:
        """Tokens of the longest caption; what is longer is cut."""
        return self.max_position_embeddings


@strict
class AgaBertTextConfig(BertConfig):
    r"""
    Text tower of the BERT family: the lower half of BERT as in ALBEF. Fields not listed are BERT's. The pooled token
    is the first one ([CLS]); the defaults of the special tokens are those of bert-base-uncased.

    Args:
        bos_token_id, eos_token_id (`int`): [CLS] and [SEP].
        mask_token_id (`int`): id of the mask token that the cross-modal MLM uses.
        unk_token_id (`int`, *optional*): [UNK]. Where neither this nor `other_special_token_ids` is given, as in
            configurations of versions before 0.2, it is the entry in front of [CLS], where BERT's vocabularies have
            it, unless that is another special token.
        other_special_token_ids (`list[int]`, *optional*): ids of further special tokens of the tokenizer. No special
            token is a word: none is masked, predicted or written into a caption.
        caption_length (`int`): tokens of the longest caption with its special tokens; what is longer is cut.
    """

    model_type = "aga_bert_text_model"
    base_config_key = "text_config"

    num_hidden_layers: int = 6
    bos_token_id: int | None = 101
    eos_token_id: int | list[int] | None = 102
    mask_token_id: int = 103
    unk_token_id: int | None = None
    other_special_token_ids: list[int] | tuple[int, ...] | None = None
    caption_length: int = 64

    def __post_init__(self, **kwargs):
        reject_unknown_keys(self, kwargs)
        if self.other_special_token_ids is None:
            self.other_special_token_ids = []
            if self.unk_token_id is None:
                self.unk_token_id = self._usual_unknown_token()
        super().__post_init__(**kwargs)
        check_layers("text_config", self)
        check_special_tokens("text_config", self)
        for key in ("is_decoder", "add_cross_attention"):
            require(not getattr(self, key), f"text_config.{key} must be false: the text tower is an encoder")
        require(
            2 < self.caption_length <= self.max_position_embeddings,
            f"text_config.caption_length must lie between 3 and max_position_embeddings "
            f"({self.max_position_embeddings}), got {self.caption_length}",
        )

    def _usual_unknown_token(self) -> int | None:
        """The place of [UNK] in vocabularies of BERT's order: [UNK], [CLS], [SEP], [MASK]."""
        if not isinstance(self.bos_token_id, int):
            return None
        place = self.bos_token_id - 1
        taken = (self.eos_token_id, self.mask_token_id, self.pad_token_id)
        return place if 0 <= place < self.vocab_size and place not in taken else None


@strict
class AgaFusionConfig(PreTrainedConfig):
    r"""
    Fusion encoder as in IRRA (CVPR 2023): one cross-attention from text to patches, then self-attention blocks.

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
        reject_unknown_keys(self, kwargs)
        super().__post_init__(**kwargs)

    def fill_in(self, projection_dim: int, text_config: PreTrainedConfig, vision_config: PreTrainedConfig) -> None:
        """Set the width and what follows from it; ValueError when `hidden_size` was given as something else."""
        require(
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
        check_layers("cross_modal_config", self, least_layers=0)

    def follow_vocabulary(self, entries: int) -> None:
        """Take over a new size of the text tower's vocabulary, which this section does not name."""


@strict
class AgaBertFusionConfig(BertConfig):
    r"""
    Fusion encoder of the BERT family, as in ALBEF (NeurIPS 2021): the upper half of BERT, each layer with a
    cross-attention to the patches. It works on the towers' own states. Fields not listed are BERT's.

    Args:
        hidden_size, vocab_size, pad_token_id, encoder_width (`int`, *optional*): of the text tower and the width of
            the vision tower's states; filled in.
    """

    model_type = "aga_bert_fusion"
    base_config_key = "cross_modal_config"

    hidden_size: int | None = None
    vocab_size: int | None = None
    pad_token_id: int | None = None
    encoder_width: int | None = None
    num_hidden_layers: int = 6

    attended_padding_id = None  # no field: padding never takes part here

    def __post_init__(self, **kwargs):
        reject_unknown_keys(self, kwargs)
        super().__post_init__(**kwargs)

    def fill_in(self, projection_dim: int, text_config: PreTrainedConfig, vision_config: PreTrainedConfig) -> None:
        """Set what follows from the towers; ValueError when it was given as something else."""
        wanted = {
            "hidden_size": text_config.hidden_size,
            "vocab_size": text_config.vocab_size,
            "pad_token_id": text_config.pad_token_id,
            "encoder_width": vision_config.hidden_size,
        }
        for key, value in wanted.items():
            given = getattr(self, key)
            require(
                given in (None, value),
                f"cross_modal_config.{key} is {given}, but the towers' is {value}; leave it out",
            )
            setattr(self, key, value)
        check_layers("cross_modal_config", self)

    def follow_vocabulary(self, entries: int) -> None:
        """Take over a new size of the text tower's vocabulary."""
        self.vocab_size = entries


__all__ = [
    "AgaBertFusionConfig",
    "AgaBertTextConfig",
    "AgaFusionConfig",
    "AgaTextConfig",
    "AgaViTConfig",
    "AgaVisionConfig",
]
