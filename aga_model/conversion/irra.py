"""IRRA's checkpoints in (CVPR 2023): CLIP towers, cross-modal encoder, MLM head, identity classifier."""

import math
from pathlib import Path

from aga_model.pretraining_aga import AgaForPreTraining

from .openai import count_blocks, take_attention, take_blocks, take_pair, take_towers, tower_sections
from .state import ConversionError, StateAccount, read_config, read_state
from .vocabulary import Converted, processor_for

TEMPERATURE = 0.02  # fixed in IRRA's recipe
PADDING_ID = 0  # of IRRA's captions, which its fusion encoder attends to
PERSON_ASPECT = 3  # height over width of IRRA's and RDE's images
PERSON_SIZE = (384, 128)  # of both papers

_Choice = tuple[tuple[int, int], int]  # image size and stride


def load_irra(
    path: str | Path,
    image_size: tuple[int, int] | None = None,
    stride: int | None = None,
    tokenizer: str | Path | None = None,
    trust_remote_code: bool = False,
) -> Converted[AgaForPreTraining]:
    """
    Turn an IRRA checkpoint (`best.pth`) into an [`AgaForPreTraining`] with IRRA's recipe: SDM, ID, random MLM.

    Sizes are read from the state dict, heads are 64 wide. Image size and stride are not in it: unless they are given,
    [`infer_image_size`] finds those that explain the number of patches.

    Args:
        path: the checkpoint.
        image_size: (height, width) in pixels.
        stride: distance of neighbouring patches in pixels.
        tokenizer: folder or Hub repository with CLIP's vocabulary, or OpenAI's `bpe_simple_vocab_16e6.txt.gz`, which
            IRRA's repository carries.
        trust_remote_code: run the Python code of a folder or repository that brings a tokenizer of its own.

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
    processor = None if tokenizer is None else processor_for(config, tokenizer, True, trust_remote_code)
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
    Image size and stride that explain a number of patches, floor((side - patch) / stride) + 1 along each side.

    Args:
        patches: number of patches.
        patch: side of a patch in pixels.
        image_size: (height, width) in pixels. When None an image `aspect` times as high as wide: one that the patches
            cover to its last pixel, else one whose width is a multiple of the patch size; and without a stride the
            384x128 of the published models of persons.
        stride: in pixels. When None the patch size or half of it, else the only one that fits.
        aspect: height over width.
        source: named in errors.

    Returns:
        ((height, width), stride).

    Raises:
        ConversionError: nothing fits, or several do.
    """
    if stride is not None and not 0 < stride <= patch:
        raise ConversionError(f"{source}: stride must lie between 1 and {patch}, the side of a patch; got {stride}")
    covered, others = _explanations(patches, patch, image_size, stride, aspect)
    found = [choice for choice in covered if _patches_of(*choice, patch) == patches][:1] or [
        choice for choice in others if _patches_of(*choice, patch) == patches
    ]
    if len(found) == 1:
        return found[0]
    if found:
        several = ", ".join(f"{height}x{width} at stride {step}" for (height, width), step in found[:3])
        reason = f"fit {several}"
    else:
        image = f"image of {image_size}" if image_size else f"image {aspect} times as high as wide"
        reason = f"do not fit an {image} at " + ("a usual stride" if stride is None else f"stride {stride}")
    raise ConversionError(
        f"{source}: {patches} patches of {patch} pixels {reason}; give image_size=(height, width) and stride"
    )


def _explanations(
    patches: int, patch: int, image_size: tuple[int, int] | None, stride: int | None, aspect: int
) -> tuple[list[_Choice], list[_Choice]]:
    """Sizes and strides to try: usual ones, the likeliest first, and others of which only one may fit."""
    usual = [step for step in (patch, patch // 2) if step] if stride is None else [stride]
    if image_size:
        return [(image_size, step) for step in usual], [(image_size, step) for step in range(1, patch) if not stride]
    sizes = [(aspect * width, width) for width in range(patch, patch * patches + 1)]
    covered = [(size, step) for step in usual for size in sizes if all((side - patch) % step == 0 for side in size)]
    if stride is not None:
        return covered, [(size, stride) for size in sizes if size[1] % patch == 0]
    return covered, [(PERSON_SIZE, step) for step in range(1, patch) if aspect == PERSON_ASPECT]


def _patches_of(size: tuple[int, int], stride: int, patch: int) -> int:
    """Number of patches; 0 where none fits, or where they neither overlap nor cover the image."""
    rows, columns = ((side - patch) // stride + 1 for side in size)
    covers = stride < patch or all(side % stride == 0 for side in size)
    return rows * columns if covers and min(rows, columns) > 0 else 0
