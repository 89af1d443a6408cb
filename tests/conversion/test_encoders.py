"""RDE's and TBPS-CLIP's dual encoders, from states in their layout made of IRRA's golden one."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from aga_model.conversion import ConversionError, load_rde, load_tbps_clip

GOLDEN = Path(__file__).parents[1] / "fixtures" / "irra_tiny"


@pytest.fixture
def golden():
    return load_file(GOLDEN / "inputs.safetensors") | load_file(GOLDEN / "outputs.safetensors")


def _towers():
    state = torch.load(GOLDEN / "best.pth", weights_only=True)["model"]
    return {key: value for key, value in state.items() if key.startswith("base_model.")}


@torch.no_grad()
def _check(model, golden):
    image = model.get_image_features(golden["pixel_values"]).pooler_output
    text = model.get_text_features(golden["input_ids"]).pooler_output
    torch.testing.assert_close(image, golden["image_embeds"], atol=1e-5, rtol=0)
    torch.testing.assert_close(text, golden["text_embeds"], atol=1e-5, rtol=0)


def test_rde(tmp_path, golden):
    state = _towers() | {
        "visul_emb_layer.fc.weight": torch.zeros(2, 2),
        "texual_emb_layer.mlp.bns.0.running_mean": torch.zeros(2),
    }
    torch.save({"model": state}, tmp_path / "best.pth")
    model, processor = load_rde(tmp_path / "best.pth")
    assert processor is None
    _check(model, golden)


def test_tbps_clip(tmp_path, golden):
    """Its own recipe has square images; the golden ones are not, so the size is given."""
    state = {}
    for key, value in _towers().items():
        name = key.removeprefix("base_model.")
        state[name if name.startswith("visual.") else f"encode_text.{name}"] = value
    state |= {"logit_scale": torch.tensor(3.0), "simclr_mlp.0.weight": torch.zeros(2, 2)}
    torch.save({"model": state, "epoch": torch.tensor(5)}, tmp_path / "checkpoint_best.pth")
    model, _ = load_tbps_clip(tmp_path / "checkpoint_best.pth", image_size=(96, 32))
    assert model.logit_scale.item() == 3.0
    _check(model, golden)
    with pytest.raises(ConversionError, match="1 times as high as wide"):
        load_tbps_clip(tmp_path / "checkpoint_best.pth")


@pytest.mark.parametrize("stride", [13, 14])
def test_the_stride_that_is_given_counts(tmp_path, stride):
    """Four patches of 16 pixels fit an image of 40x40 at either."""
    table = _towers()["base_model.visual.positional_embedding"]
    torch.save({"model": _towers() | {"base_model.visual.positional_embedding": table[:5]}}, tmp_path / "best.pth")
    model, _ = load_rde(tmp_path / "best.pth", image_size=(40, 40), stride=stride)
    assert model.config.vision_config.stride == stride
    assert torch.equal(model.vision_model.embeddings.position_embedding.weight, table[:5])


def test_a_key_of_another_method_is_an_error(tmp_path):
    torch.save({"model": _towers() | {"momentum_encoder.weight": torch.zeros(1)}}, tmp_path / "x.pth")
    with pytest.raises(ConversionError, match="momentum_encoder"):
        load_rde(tmp_path / "x.pth")
