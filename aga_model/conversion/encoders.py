"""Dual encoders of other text-based person search methods in: RDE (CVPR 2024) and TBPS-CLIP (AAAI 2024)."""

from pathlib import Path

from aga_model.modeling_aga import AgaModel

from .irra import PERSON_ASPECT, infer_image_size
from .openai import take_towers, tower_sections
from .state import StateAccount, read_config, read_state
from .vocabulary import Converted, processor_for


def load_rde(
    path: str | Path,
    image_size: tuple[int, int] | None = None,
    stride: int | None = None,
    tokenizer: str | Path | None = None,
    trust_remote_code: bool = False,
) -> Converted[AgaModel]:
    """
    The dual encoder of an RDE checkpoint: its "basic global embedding".

    RDE adds a second similarity from selected tokens, whose layers are ignored on purpose: its published figures
    average the two, this encoder gives the first alone. Arguments and errors as [`load_irra`].
    """
    account = StateAccount(read_state(path), path)
    account.ignore(r"(visul|texual)_emb_layer\.", "RDE's token selection embedding, a second similarity")
    account.ignore(r"base_model\.logit_scale$", "RDE's temperature is a setting")
    model = _dual_encoder(account, "base_model.", image_size, stride, PERSON_ASPECT, ("logit_scale",))
    return _with_processor(model, tokenizer, trust_remote_code)


def load_tbps_clip(
    path: str | Path,
    image_size: tuple[int, int] | None = None,
    tokenizer: str | Path | None = None,
    trust_remote_code: bool = False,
) -> Converted[AgaModel]:
    """
    The dual encoder of a TBPS-CLIP checkpoint (square images, 224x224 in its recipe).

    Heads for training (self-supervision, identities, MLM) are ignored on purpose. Arguments and errors as
    [`load_irra`].
    """
    state = read_state(path)
    account = StateAccount({key.removeprefix("encode_text."): value for key, value in state.items()}, path)
    heads = r"(simclr_mlp|classifier|cross_attn|cross_modal_transformer|ln_pre_t|ln_pre_i|ln_post|mlm_head)\."
    account.ignore(heads, "TBPS-CLIP's training heads")
    model = _dual_encoder(account, "", image_size, None, 1, ())
    return _with_processor(model, tokenizer, trust_remote_code)


def _dual_encoder(
    account: StateAccount,
    prefix: str,
    image_size: tuple[int, int] | None,
    stride: int | None,
    aspect: int,
    may_miss: tuple[str, ...],
) -> AgaModel:
    sections = tower_sections(account, prefix)
    patches = account.peek(f"{prefix}visual.positional_embedding", dims=2).shape[0] - 1
    patch = sections["vision_config"]["patch_size"]
    size, stride = infer_image_size(patches, patch, image_size, stride, aspect, account.source)
    sections["vision_config"] |= {"image_size": list(size), "stride": stride}
    config = read_config(account.source, **sections)
    model = AgaModel(config)
    converted = take_towers(account, prefix, "")
    if "logit_scale" in account:
        converted["logit_scale"] = account.take_number("logit_scale")
    account.finish(model, converted, may_miss)
    return model.eval()


def _with_processor(model: AgaModel, tokenizer: str | Path | None, trust_remote_code: bool) -> Converted[AgaModel]:
    processor = None if tokenizer is None else processor_for(model.config, tokenizer, True, trust_remote_code)
    return Converted(model, processor)
