"""IRRA's checkpoints give IRRA's own outputs, and every key is accounted for."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from aga_model import AgaForPreTraining
from aga_model.conversion import ConversionError, load_irra, load_rde
from aga_model.conversion.irra import infer_image_size
from aga_model.losses import id_loss, itc_loss, mlm_loss, sdm_loss

FIXTURES = Path(__file__).parents[1] / "fixtures"
SETS = ["irra_tiny", "irra_tiny_stride8"]


def _load(name):
    folder = FIXTURES / name
    model, processor = load_irra(folder / "best.pth")
    assert processor is None
    return model, load_file(folder / "inputs.safetensors"), load_file(folder / "outputs.safetensors")


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("padding", ["full", "dynamic"])
@torch.no_grad()
def test_outputs_and_losses_equal_irras(name, padding):
    model, inputs, golden = _load(name)
    longest = int((inputs["input_ids"] != 0).sum(1).max()) if padding == "dynamic" else inputs["input_ids"].shape[1]
    assert padding == "full" or longest < inputs["input_ids"].shape[1]
    vision = model.aga.get_image_features(inputs["pixel_values"])
    text = model.aga.get_text_features(inputs["input_ids"][:, :longest])
    image_states = model.aga.fusion_image_states(vision)
    logits = model.mlm_head(model.fuse(inputs["mlm_input_ids"][:, :longest], image_states))
    got = {
        "image_embeds": vision.pooler_output,
        "text_embeds": text.pooler_output,
        "image_hidden": image_states,
        "text_hidden": model.aga.fusion_text_states(text),
        "mlm_logits": logits,
    }
    for key, value in got.items():
        wanted = golden[key][:, :longest] if key in ("text_hidden", "mlm_logits") else golden[key]
        torch.testing.assert_close(value, wanted, atol=1e-5, rtol=0, msg=lambda text, key=key: f"{key}: {text}")
    image, caption, ids = vision.pooler_output, text.pooler_output, inputs["person_ids"]
    labels = inputs["mlm_labels"][:, :longest]
    losses = {
        "sdm_loss": sdm_loss(image, caption, ids, 0.02),
        "itc_loss": itc_loss(image, caption, None, 0.02),
        "id_loss": id_loss(model.identity_head(image), model.identity_head(caption), ids),
        "mlm_loss": mlm_loss(logits[labels != 0], labels[labels != 0]),
    }
    for key, value in losses.items():
        torch.testing.assert_close(value, golden[key], atol=1e-5, rtol=0, msg=lambda text, key=key: f"{key}: {text}")


def test_sizes_come_from_the_state():
    model, *_ = _load("irra_tiny_stride8")
    vision, text = model.config.vision_config, model.config.text_config
    assert list(vision.image_size) == [96, 32] and (vision.patch_size, vision.stride) == (16, 8)
    assert (text.hidden_size, text.num_attention_heads, text.num_hidden_layers) == (128, 2, 3)
    assert (text.mask_token_id, text.bos_token_id, text.eos_token_id) == (157, 158, 159)
    assert model.config.objective_config.num_identities == 11
    assert model.temperature.item() == pytest.approx(0.02) and not model.aga.logit_scale.requires_grad


def test_a_converted_model_trains_by_irras_recipe():
    model, inputs, _ = _load("irra_tiny")
    output = model.train()(inputs["input_ids"], inputs["pixel_values"], person_ids=inputs["person_ids"])
    assert {"sdm_loss", "mlm_loss", "id_loss"} <= output.keys() and "itc_loss" not in output
    objective = model.config.objective_config
    assert (objective.mask_strategy, objective.enrichment) == ("random", "none")
    output.loss.backward()


def _changed(tmp_path, change):
    state = torch.load(FIXTURES / "irra_tiny" / "best.pth", weights_only=True)["model"]
    change(state)
    torch.save({"model": state}, tmp_path / "changed.pth")
    return tmp_path / "changed.pth"


def test_an_unknown_key_is_an_error(tmp_path):
    path = _changed(tmp_path, lambda state: state.update(extra_head=torch.zeros(2)))
    with pytest.raises(ConversionError, match="1 keys are not known, first: extra_head"):
        load_irra(path)


def test_a_missing_key_is_an_error(tmp_path):
    path = _changed(tmp_path, lambda state: state.pop("base_model.ln_final.bias"))
    with pytest.raises(ConversionError, match=r"base_model\.ln_final\.bias"):
        load_irra(path)


def test_a_checkpoint_of_data_parallel_loads(tmp_path):
    def prefix(state):
        for key in list(state):
            state[f"module.{key}"] = state.pop(key)

    wanted, *_ = _load("irra_tiny")
    got, _ = load_irra(_changed(tmp_path, prefix))
    assert all(torch.equal(a, b) for a, b in zip(got.state_dict().values(), wanted.state_dict().values()))


def test_a_dual_encoder_without_heads_loads(tmp_path):
    def strip(state):
        for key in list(state):
            if not key.startswith("base_model."):
                del state[key]

    model, _ = load_irra(_changed(tmp_path, strip))
    assert model.config.objective_config.loss_weights == {"sdm": 1.0} and model.identity_head is None


def test_an_image_size_that_cannot_be_guessed_is_asked_for():
    with pytest.raises(ConversionError, match=r"give image_size=\(height, width\)"):
        load_irra(FIXTURES / "irra_tiny" / "best.pth", image_size=(64, 64))
    model, _ = load_irra(FIXTURES / "irra_tiny" / "best.pth", image_size=(32, 96), stride=16)
    assert model.config.vision_config.grid_size == (2, 6)


def _with_grid(tmp_path, rows, columns, name="stride.pth"):
    """The fixture's checkpoint with a table of positions for another grid."""
    state = torch.load(FIXTURES / "irra_tiny_stride8" / "best.pth", weights_only=True)["model"]
    table = state["base_model.visual.positional_embedding"]
    generator = torch.Generator().manual_seed(0)
    state["base_model.visual.positional_embedding"] = torch.randn(
        rows * columns + 1, table.shape[1], generator=generator
    )
    torch.save({"model": state}, tmp_path / name)
    return tmp_path / name, state


def _image_embeddings(state, pixels, stride):
    """IRRA's image encoder by torch's own functions, from its weights as they are named there."""
    visual = {
        key.removeprefix("base_model.visual."): value.float() for key, value in state.items() if ".visual." in key
    }

    def norm(name, values):
        return F.layer_norm(values, values.shape[-1:], visual[f"{name}.weight"], visual[f"{name}.bias"])

    patches = F.conv2d(pixels, visual["conv1.weight"], stride=stride).flatten(2).transpose(1, 2)
    summary = visual["class_embedding"].expand(len(pixels), 1, -1)
    states = norm("ln_pre", torch.cat([summary, patches], dim=1) + visual["positional_embedding"])
    width = states.shape[-1]
    blocks = {key.split(".")[2] for key in visual if key.startswith("transformer.resblocks.")}
    for block in (f"transformer.resblocks.{number}" for number in range(len(blocks))):
        attention = torch.nn.MultiheadAttention(width, width // 64, batch_first=True)
        attention.load_state_dict(
            {key.removeprefix(f"{block}.attn."): value for key, value in visual.items() if f"{block}.attn." in key}
        )
        inner = norm(f"{block}.ln_1", states)
        states = states + attention(inner, inner, inner)[0]
        inner = F.linear(
            norm(f"{block}.ln_2", states), visual[f"{block}.mlp.c_fc.weight"], visual[f"{block}.mlp.c_fc.bias"]
        )
        inner = inner * torch.sigmoid(1.702 * inner)
        states = states + F.linear(inner, visual[f"{block}.mlp.c_proj.weight"], visual[f"{block}.mlp.c_proj.bias"])
    return norm("ln_post", states[:, 0]) @ visual["proj"]


@torch.no_grad()
def test_the_computation_by_hand_is_irras():
    state = torch.load(FIXTURES / "irra_tiny_stride8" / "best.pth", weights_only=True)["model"]
    folder = FIXTURES / "irra_tiny_stride8"
    pixels, golden = (load_file(folder / f"{name}.safetensors") for name in ("inputs", "outputs"))
    found = _image_embeddings(state, pixels["pixel_values"], 8)
    torch.testing.assert_close(found, golden["image_embeds"], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("size", "stride", "grid", "given"),
    [
        ((384, 128), 12, (31, 10), {}),  # the authors' option, told by the number of patches alone
        ((384, 128), 12, (31, 10), {"stride": 12}),
        ((384, 128), 12, (31, 10), {"image_size": (384, 128)}),
        ((96, 32), 12, (7, 2), {"image_size": (96, 32), "stride": 12}),
        ((96, 32), 11, (8, 2), {"image_size": (96, 32), "stride": 11}),
        ((90, 35), 7, (11, 3), {"image_size": (90, 35), "stride": 7}),
    ],
)
@torch.no_grad()
def test_strides_that_leave_pixels_over(tmp_path, size, stride, grid, given):
    """floor((side - patch) / stride) + 1 patches along each side, as IRRA's and RDE's code has it."""
    path, state = _with_grid(tmp_path, *grid)
    model, _ = load_irra(path, **given)
    vision = model.config.vision_config
    assert tuple(vision.image_size) == size and vision.stride == stride and vision.grid_size == grid
    torch.manual_seed(0)
    pixels = torch.randn(2, 3, *size)
    found = model.aga.get_image_features(pixels).pooler_output
    torch.testing.assert_close(found, _image_embeddings(state, pixels, stride), atol=1e-5, rtol=0)
    model.save_pretrained(tmp_path / "saved")
    again = AgaForPreTraining.from_pretrained(tmp_path / "saved")
    assert torch.equal(again.aga.get_image_features(pixels).pooler_output, found)


@torch.no_grad()
def test_the_dual_encoder_of_rde_at_stride_12(tmp_path):
    path, state = _with_grid(tmp_path, 31, 10)
    torch.save({"model": {key: state[key] for key in state if key.startswith("base_model.")}}, path)
    model, _ = load_rde(path)
    pixels = torch.randn(1, 3, 384, 128)
    found = model.get_image_features(pixels).pooler_output
    torch.testing.assert_close(found, _image_embeddings(state, pixels, 12), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("grid", "given", "named"),
    [
        ((31, 10), {"stride": 11}, "do not fit an image 3 times as high as wide at stride 11"),
        ((31, 10), {"stride": 0}, "stride must lie between 1 and 16"),
        ((31, 10), {"stride": 17}, "stride must lie between 1 and 16"),
        ((2, 2), {"image_size": (40, 40)}, "4 patches of 16 pixels fit 40x40 at stride 13, 40x40 at stride 14"),
        ((3, 1), {"image_size": (50, 20), "stride": 16}, r"do not fit an image of \(50, 20\) at stride 16"),
    ],
)
def test_strides_that_cannot_be_told(tmp_path, grid, given, named):
    path, _ = _with_grid(tmp_path, *grid)
    with pytest.raises(ConversionError, match=named):
        load_irra(path, **given)


@pytest.mark.parametrize(
    ("patches", "patch", "aspect", "wanted"),
    [
        (192, 16, 3, ((384, 128), 16)),
        (47 * 15, 16, 3, ((384, 128), 8)),
        (196, 16, 1, ((224, 224), 16)),  # 120x120 at stride 8 has as many, and is no one's recipe
        (49, 32, 1, ((224, 224), 32)),
        (310, 16, 3, ((384, 128), 12)),
    ],
)
def test_the_likeliest_size_is_taken(patches, patch, aspect, wanted):
    assert infer_image_size(patches, patch, None, None, aspect, "x.pth") == wanted


class _Malicious:
    def __reduce__(self):
        return print, ("code ran",)


def test_a_pickle_with_code_is_refused(tmp_path, capsys):
    torch.save({"model": _Malicious()}, tmp_path / "bad.pth")
    with pytest.raises(ConversionError, match="cannot be read as a checkpoint"):
        load_irra(tmp_path / "bad.pth")
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 damaged"])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "damaged.pth").write_bytes(content)
    with pytest.raises(ConversionError, match=r"damaged\.pth"):
        load_irra(tmp_path / "damaged.pth")
