"""IRRA's checkpoints give IRRA's own outputs, and every key is accounted for."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from aga_model.conversion import ConversionError, load_irra
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
