"""IRRA's checkpoints in (CVPR 2023): CLIP towers, cross-modal encoder, MLM head, identity classifier."""

import math
from pathlib import Path

from aga_model.modeling_aga import AgaForPreTraining

from .openai import count_blocks, take_attention, take_blocks, take_pair, take_towers, tower_sections
from .state import ConversionError, StateAccount, read_config, read_state
from .vocabulary import Converted, processor_for

TEMPERATURE = 0.02  # fixed in IRRA's recipe
PADDING_ID = 0  # of IRRA's captions, which its fusion encoder attends to
PERSON_ASPECT = 3  # height over width of IRRA's and RDE's images


def load_irra(
    path: str | Path,
    image_size: tuple[int, int] | None = None,
    stride: int | None = None,
    tokenizer: str | Path | None = None,
) -> Converted[AgaForPreTraining]:
    """
    Turn an IRRA checkpoint (`best.pth`) into an [`AgaForPreTraining`] with IRRA's recipe: SDM, ID, random MLM.

    Sizes are read from the state dict, heads are 64 wide. Image size and stride are not in it: the patch count is
    explained by an image three times as high as wide at a stride of the patch size, or half of it, unless given.

    Args:
        path: the checkpoint.
        image_size: (height, width) in pixels.
        stride: distance of neighbouring patches in pixels.
        tokenizer: folder or Hub repository with CLIP's vocabulary, or OpenAI's `bpe_simple_vocab_16e6.txt.gz`, which
            IRRA's repository carries.

    Returns:
        (model, processor); the processor is None without `tokenizer`.

    Raises:
        ConversionError: not IRRA's, a key is neither used nor known, or the image size has to be given.
    """
    account = StateAccount(read_state(path), path)
    sections = tower_sections(account, "base_model.")
    patches = account.peek("base_model.visual.positional_embedding", dims=2).shape[0] - 1
    patch = sections["vision_config"]["patch_size"]
    size, stride = infer_image_size(patches, patch, image_size, stride, PERSON_ASPECT, path)
    sections["vision_config"] |= {"image_size": list(size), "stride": stride}
    has_mlm, has_classifier = "mlm_head.fc.weight" in account, "classifier.weight" in account
    identities = account.peek("classifier.weight", dims=2).shape[0] if has_classifier else 0
    losses = {"sdm": 1.0} | ({"mlm": 1.0} if has_mlm else {}) | ({"id": 1.0} if has_classifier else {})
    config = read_config(
        path,
        **sections,
        cross_modal_config={
            "num_hidden_layers": _fusion_depth(account) if has_mlm else 0,
            "attended_padding_id": PADDING_ID,
        },
        objective_config={
            "loss_weights": losses,
            "num_identities": identities,
            "learn_temperature": False,
            "mask_strategy": "random",
            "enrichment": "none",
        },
        logit_scale_init_value=math.log(1 / TEMPERATURE),
    )
    model = AgaForPreTraining(config)
    converted = take_towers(account, "base_model.", "aga.")
    may_miss = ["aga.logit_scale"]  # IRRA's temperature is a setting
    if has_mlm:
        converted |= _take_fusion(account)
    else:
        may_miss += [key for key in model.state_dict() if key.startswith(("fusion.", "mlm_head."))]
    if has_classifier:
        converted |= take_pair(account, "classifier", "identity_head")
    account.finish(model, converted, tuple(may_miss))
    processor = None if tokenizer is None else processor_for(config, tokenizer, required=True)
    return Converted(model.eval(), processor)


def _fusion_depth(account: StateAccount) -> int:
    return count_blocks(account, "cross_modal_transformer.resblocks")


def _take_fusion(account: StateAccount) -> dict:
    """IRRA's interaction encoder and MLM head."""
    converted = take_attention(account, "cross_attn", "fusion.cross_attn")
    converted |= take_blocks(account, "cross_modal_transformer.resblocks", "fusion.layers")
    names = {
        "ln_pre_t": "fusion.text_layer_norm",
        "ln_pre_i": "fusion.image_layer_norm",
        "ln_post": "fusion.final_layer_norm",
        "mlm_head.dense": "mlm_head.dense",
        "mlm_head.ln": "mlm_head.layer_norm",
        "mlm_head.fc": "mlm_head.decoder",
    }
    for name, ours in names.items():
        converted |= take_pair(account, name, ours)
    return converted


def infer_image_size(
    patches: int,
    patch: int,
    image_size: tuple[int, int] | None,
    stride: int | None,
    aspect: int,
    source: str | Path,
) -> tuple[tuple[int, int], int]:
    """
    Image size and stride that explain a number of patches.

    Args:
        patches: number of patches.
        patch: side of a patch in pixels.
        image_size: (height, width) in pixels; an image `aspect` times as high as wide when None.
        stride: in pixels; the patch size or half of it when None.
        aspect: height over width.
        source: named in errors.

    Returns:
        ((height, width), stride).

    Raises:
        ConversionError: nothing fits.
    """
    for candidate in (patch, patch // 2) if stride is None else (stride,):
        for columns in range(1, patches + 1):
            width = patch + (columns - 1) * candidate
            size = (aspect * width, width) if image_size is None else image_size
            rows = (size[0] - patch) // candidate + 1
            fits = (size[1] - patch) // candidate + 1 == columns and (size[0] - patch) % candidate == 0
            if fits and rows * columns == patches:
                return size, candidate
    raise ConversionError(
        f"{source}: {patches} patches of {patch} pixels do not fit "
        + (f"an image {aspect} times as high as wide" if image_size is None else f"an image of {image_size}")
        + (" at a stride of the patch size or half of it" if stride is None else f" at stride {stride}")
        + "; give image_size=(height, width) and stride"
    )
