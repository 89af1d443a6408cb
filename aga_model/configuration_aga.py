"""Configuration of AGA models: two towers and a fusion encoder of the CLIP or the BERT family, and an objective."""

import difflib
import math
from dataclasses import fields
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import BertConfig, CLIPTextConfig, CLIPVisionConfig, PreTrainedConfig
from transformers.activations import ACT2FN

LOSS_NAMES = ("itc", "sdm", "bsdm", "cmpm", "tal", "waf", "itm", "mlm", "id")
MASK_STRATEGIES = ("attention", "random")
WAF_TARGETS = ("match", "identity")
WAF_WEIGHTINGS = ("uniform", "hard", "trusted")
PAIR_WEIGHTINGS = ("uniform", "trusted")
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


_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_channels",
          "max_position_embeddings", "type_vocab_size", "encoder_width")  # fmt: skip
_DROPOUTS = ("attention_dropout", "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
_NUMBERS = ("layer_norm_eps", "initializer_range", "initializer_factor")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _is_weight(value: Any) -> bool:
    return _is_number(value) and not isinstance(value, bool)


def _check_layers(owner: str, config: PreTrainedConfig, least_layers: int = 1) -> None:
    """
    What a stack of transformer layers asks for: sizes above zero, heads that divide the width, finite numbers.

    Fields that the section does not have, and sizes that are still to be filled in, are left out.
    """
    for key in _SIZES:
        value = getattr(config, key, None)
        _require(value is None or value > 0, f"{owner}.{key} must be positive, got {value}")
    layers = config.num_hidden_layers
    _require(layers >= least_layers, f"{owner}.num_hidden_layers must be at least {least_layers}, got {layers}")
    for key in _DROPOUTS:
        value = getattr(config, key, None)
        share = value is None or (_is_number(value) and 0 <= value <= 1)
        _require(share, f"{owner}.{key} must lie in [0, 1], got {value}")
    for key in _NUMBERS:
        value = getattr(config, key, 0.0)
        _require(_is_number(value) and value >= 0, f"{owner}.{key} must be a number of 0 or more, got {value}")
    act = config.hidden_act
    near = difflib.get_close_matches(act, ACT2FN, n=1)
    known = f"did you mean {near[0]!r}?" if near else "quick_gelu and gelu are usual"
    _require(act in ACT2FN, f"{owner}.hidden_act {act!r} is no activation of transformers; {known}")
    width, heads = config.hidden_size, config.num_attention_heads
    _require(
        width is None or heads is None or width % heads == 0,
        f"{owner}.num_attention_heads: {heads} does not divide hidden_size {width}",
    )


def _check_special_tokens(owner: str, config: PreTrainedConfig) -> None:
    """Every special token must be an entry of the vocabulary; start, end and mask may not be the same."""
    ids = {name: getattr(config, name) for name in ("bos_token_id", "eos_token_id", "mask_token_id")}
    named = ids | {"pad_token_id": config.pad_token_id}
    if config.unk_token_id is not None:
        named["unk_token_id"] = config.unk_token_id
    others = config.other_special_token_ids
    _require(
        isinstance(others, list | tuple), f"{owner}.other_special_token_ids must be a list of ids, got {others!r}"
    )
    for name, value in [*named.items(), *(("other_special_token_ids", value) for value in others)]:
        _require(isinstance(value, int), f"{owner}.{name} must be one id, got {value!r}")
        _require(
            0 <= value < config.vocab_size,
            f"{owner}.{name} is {value}, outside the vocabulary of {config.vocab_size} entries (vocab_size)",
        )
    _require(len(set(ids.values())) == 3, f"{owner}: special tokens must differ, got {ids}")


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
        _reject_unknown_keys(self, kwargs)
        super().__post_init__(**kwargs)
        _check_layers("vision_config", self)
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
        _require(
            isinstance(size, int) or len(size) == 2,
            f"vision_config.image_size must be an int or [height, width], got {size!r}",
        )
        stride = self.patch_size if self.stride is None else self.stride
        _require(self.patch_size > 0, f"vision_config.patch_size must be positive, got {self.patch_size}")
        _require(
            0 < stride <= self.patch_size,
            f"vision_config.stride must lie between 1 and patch_size ({self.patch_size}), got {stride}",
        )
        for side, pixels in zip(("height", "width"), self.image_height_width):
            # Overlapping patches leave a few pixels over, as in IRRA; without overlap the size is a mistake.
            _require(
                pixels >= self.patch_size and (stride < self.patch_size or pixels % stride == 0),
                f"vision_config.image_size: {side} {pixels} is not divisible into patches of patch_size "
                f"{self.patch_size} at stride {stride}",
            )
        halvings = 2 ** len(self.stem_channels)
        _require(
            all(channels > 0 for channels in self.stem_channels),
            f"vision_config.stem_channels must be positive, got {self.stem_channels}",
        )
        _require(
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
        _reject_unknown_keys(self, kwargs)
        _require(self.vocab_size > 3, f"text_config.vocab_size must exceed the special tokens, got {self.vocab_size}")
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
        _check_layers("text_config", self)
        _check_special_tokens("text_config", self)

    @property
    def caption_length(self) -> int:
        """Tokens of the longest caption; what is longer is cut."""
        return self.max_position_embeddings


@strict
class AgaBertTextConfig(BertConfig):
    r"""
    Text tower of the BERT family: the lower half of BERT as in ALBEF. Fields not listed are BERT's. The summary token
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
        _reject_unknown_keys(self, kwargs)
        if self.other_special_token_ids is None:
            self.other_special_token_ids = []
            if self.unk_token_id is None:
                self.unk_token_id = self._usual_unknown_token()
        super().__post_init__(**kwargs)
        _check_layers("text_config", self)
        _check_special_tokens("text_config", self)
        for key in ("is_decoder", "add_cross_attention"):
            _require(not getattr(self, key), f"text_config.{key} must be false: the text tower is an encoder")
        _require(
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

    def fill_in(self, projection_dim: int, text_config: PreTrainedConfig, vision_config: PreTrainedConfig) -> None:
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
        _check_layers("cross_modal_config", self, least_layers=0)


@strict
class AgaBertFusionConfig(BertConfig):
    r"""
    Cross-modal encoder of the BERT family, as in ALBEF (NeurIPS 2021): the upper half of BERT, each layer with a
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

    def __post_init__(self, **kwargs):
        _reject_unknown_keys(self, kwargs)
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
            _require(
                given in (None, value),
                f"cross_modal_config.{key} is {given}, but the towers' is {value}; leave it out",
            )
            setattr(self, key, value)
        _check_layers("cross_modal_config", self)


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
        waf_weighting (`str`): in-batch weights of `waf`: `uniform`, `hard` for what is missed, `trusted` for what is
            plausible (choice).
        pair_weighting (`str`): what a pair counts in the other losses: `uniform`, or `trusted` by how far the model
            finds it a right one, against wrong pairs (choice, not of the papers).
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
        _reject_unknown_keys(self, kwargs)
        super().__post_init__(**kwargs)
        if self.loss_weights is None:
            self.loss_weights = {"itc": 1.0, "mlm": 1.0}
        self._check_objective()

    def _check_objective(self) -> None:
        """Names must be known and ratios must be probabilities."""
        _require(
            isinstance(self.loss_weights, dict) and all(map(_is_weight, self.loss_weights.values())),
            f"objective_config.loss_weights must give a number per loss name, got {self.loss_weights!r}",
        )
        for name, weight in self.loss_weights.items():
            _require_choice("objective_config", "loss_weights", name, LOSS_NAMES)
            _require(weight >= 0, f"objective_config.loss_weights[{name!r}] must not be negative, got {weight}")
        _require_choice("objective_config", "mask_strategy", self.mask_strategy, MASK_STRATEGIES)
        _require_choice("objective_config", "enrichment", self.enrichment, ENRICHMENT_MODES)
        _require_choice("objective_config", "enrichment_sampling", self.enrichment_sampling, ENRICHMENT_SAMPLING)
        _require_choice("objective_config", "image_mask_strategy", self.image_mask_strategy, MASK_STRATEGIES)
        _require_choice("objective_config", "waf_target", self.waf_target, WAF_TARGETS)
        _require_choice("objective_config", "waf_weighting", self.waf_weighting, WAF_WEIGHTINGS)
        _require_choice("objective_config", "pair_weighting", self.pair_weighting, PAIR_WEIGHTINGS)
        for key in ("mask_ratio", "mask_max_probability", "image_keep_ratio", "image_score_resolution"):
            value = getattr(self, key)
            _require(0 < value <= 1, f"objective_config.{key} must lie in (0, 1], got {value}")
        shares = ("attention_decay", "enrichment_probability", "enrichment_min_confidence", "enrichment_start",
                  "distillation_weight", "image_keep_until")  # fmt: skip
        for key in shares:
            value = getattr(self, key)
            _require(0 <= value <= 1, f"objective_config.{key} must lie in [0, 1], got {value}")
        _require(
            self.mask_ratio <= self.mask_max_probability,
            f"objective_config.mask_ratio {self.mask_ratio} exceeds mask_max_probability {self.mask_max_probability}",
        )
        _require(self.num_identities >= 0, f"objective_config.num_identities must be >= 0, got {self.num_identities}")
        _require(
            self.momentum is None or 0 <= self.momentum < 1,
            f"objective_config.momentum must lie in [0, 1) or be left out, got {self.momentum}",
        )
        _require(self.queue_size >= 0, f"objective_config.queue_size must be >= 0, got {self.queue_size}")
        _require(
            self.queue_size == 0 or (self.momentum is not None and self.weight("itc") > 0),
            "objective_config.queue_size holds embeddings of the momentum model for the loss 'itc'; give momentum and "
            "that loss, or leave it at 0",
        )
        _require(
            not self.selects_by_attention or self.momentum is not None,
            "objective_config.image_keep_ratio below 1 with image_mask_strategy 'attention' keeps the patches that a "
            "momentum model attends to; give momentum, or take 'random'",
        )
        _require(
            len(self.bsdm_kl_weights) == 2
            and all(_is_number(weight) and weight >= 0 for weight in self.bsdm_kl_weights)
            and sum(self.bsdm_kl_weights) > 0,
            f"objective_config.bsdm_kl_weights must be two weights of 0 or more, got {self.bsdm_kl_weights}",
        )
        for key in ("waf_gamma", "tal_margin"):
            value = getattr(self, key)
            _require(_is_number(value) and value >= 0, f"objective_config.{key} must be >= 0, got {value}")

    @property
    def selects_by_attention(self) -> bool:
        """AWM: the image encoder receives the patches that the momentum model attends to."""
        return self.image_keep_ratio < 1 and self.image_mask_strategy == "attention"

    @property
    def teacher_guides(self) -> bool:
        """The momentum model's targets, predictions or past embeddings are used, not its patch scores alone."""
        learns = self.distillation_weight > 0 and (self.weight("itc") > 0 or self.weight("mlm") > 0)
        writes = self.enrichment != "none" and self.weight("mlm") > 0
        return self.momentum is not None and (learns or writes or self.queue_size > 0)

    @property
    def needs_identity_head(self) -> bool:
        """A loss reads the identity classifier."""
        return self.weight("id") > 0 or (self.weight("waf") > 0 and self.waf_target == "identity")

    @property
    def needs_person_ids(self) -> list[str]:
        """Names of the losses in use that compare persons."""
        return [name for name in ("sdm", "bsdm", "cmpm", "tal", "waf", "id") if self.weight(name) > 0]

    def weight(self, name: str) -> float:
        """Weight of a loss, 0 when it is not used."""
        return float(self.loss_weights.get(name, 0.0))

    @property
    def losses(self) -> dict[str, float]:
        """Weights of the losses that are computed."""
        return {name: weight for name, weight in self.loss_weights.items() if weight > 0}

    @property
    def has_matching_head(self) -> bool:
        """The model has an ITM head that this objective trains: it can re-rank."""
        return self.weight("itm") > 0

    def require_losses(self) -> None:
        """Raise ValueError when there is nothing to train on: every weight is 0, or none is given."""
        if not self.losses:  # no message is made in every step
            raise ValueError(
                f"objective_config.loss_weights is {self.loss_weights!r}: no loss has a weight above 0, so there is "
                f"nothing to train on; give one of {', '.join(LOSS_NAMES)} a weight"
            )


_FAMILY_SECTIONS: dict[str, dict[str, Any]] = {
    "clip": {
        "text_config": AgaTextConfig,
        "vision_config": AgaVisionConfig,
        "cross_modal_config": AgaFusionConfig,
    },
    "bert": {
        "text_config": AgaBertTextConfig,
        "vision_config": AgaViTConfig,
        "cross_modal_config": AgaBertFusionConfig,
    },
}


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
        "text_config": AgaTextConfig,
        "vision_config": AgaVisionConfig,
        "cross_modal_config": AgaFusionConfig,
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
    tie_word_embeddings: bool | None = None

    def __post_init__(self, **kwargs):
        _reject_unknown_keys(self, kwargs)
        _require(self.projection_dim > 0, f"projection_dim must be positive, got {self.projection_dim}")
        for key in ("logit_scale_init_value", "initializer_range", "initializer_factor"):
            value = getattr(self, key)
            _require(_is_number(value), f"{key} must be a finite number, got {value}")
        _require_choice("AgaConfig", "family", self.family, tuple(_FAMILY_SECTIONS))
        for key, config_class in (self.sub_configs | _FAMILY_SECTIONS[self.family]).items():
            value = getattr(self, key)
            _require(
                value is None or isinstance(value, dict) or hasattr(value, "to_dict"),
                f"{key} must be a section of keys and values, got {value!r}",
            )
            if value is None or isinstance(value, dict):
                setattr(self, key, config_class(**(value or {})))
            given = getattr(self, key).model_type
            _require(
                given == config_class.model_type,
                f"{key} is of model_type {given!r}, family {self.family!r} wants {config_class.model_type!r}",
            )
        self.cross_modal_config.fill_in(self.projection_dim, self.text_config, self.vision_config)
        if self.tie_word_embeddings is None:
            self.tie_word_embeddings = self.family == "bert"
        _require(
            self.family == "bert" or not self.tie_word_embeddings,
            "tie_word_embeddings: the MLM head of the clip family works on projected states; leave it out",
        )
        super().__post_init__(**kwargs)
        objective = self.objective_config
        _require(
            not objective.needs_identity_head or objective.num_identities > 0,
            "objective_config.loss_weights names 'id', or 'waf' with the target 'identity', so "
            "objective_config.num_identities must be the number of training identities (train_hf.py fills it in from "
            "the data)",
        )


AgaConfig.register_for_auto_class()

__all__ = [
    "AgaBertFusionConfig",
    "AgaBertTextConfig",
    "AgaConfig",
    "AgaFusionConfig",
    "AgaObjectiveConfig",
    "AgaTextConfig",
    "AgaViTConfig",
    "AgaVisionConfig",
]
