"""Losses against IRRA's golden values and independent numpy versions."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from aga_model.losses import id_loss, itc_loss, mlm_loss, sdm_loss

FIXTURES = Path(__file__).parent / "fixtures"


def _log_softmax(rows):
    return rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))


@pytest.fixture(scope="module")
def golden():
    folder = FIXTURES / "irra_tiny"
    values = load_file(folder / "inputs.safetensors") | load_file(folder / "outputs.safetensors")
    values["state"] = torch.load(folder / "best.pth", weights_only=True)["model"]
    return values


def test_sdm_equals_irra(golden):
    loss = sdm_loss(golden["image_embeds"], golden["text_embeds"], golden["person_ids"], 0.02)
    torch.testing.assert_close(loss, golden["sdm_loss"], atol=1e-5, rtol=0)


def test_itc_equals_irra(golden):
    loss = itc_loss(golden["image_embeds"], golden["text_embeds"], None, 0.02)
    torch.testing.assert_close(loss, golden["itc_loss"], atol=1e-5, rtol=0)


def test_id_equals_irra(golden):
    weight, bias = golden["state"]["classifier.weight"], golden["state"]["classifier.bias"]
    image, text = (golden[name] @ weight.T + bias for name in ("image_embeds", "text_embeds"))
    torch.testing.assert_close(id_loss(image, text, golden["person_ids"]), golden["id_loss"], atol=1e-5, rtol=0)


def test_mlm_equals_irra(golden):
    masked = golden["mlm_labels"] != 0
    loss = mlm_loss(golden["mlm_logits"][masked], golden["mlm_labels"][masked])
    torch.testing.assert_close(loss, golden["mlm_loss"], atol=1e-5, rtol=0)


def _pairs(seed=0, batch=7, dim=5):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(batch, dim)), rng.normal(size=(batch, dim)), rng.integers(0, 4, size=batch)


def _numpy_logits(image, text, temperature):
    image = image / np.linalg.norm(image, axis=1, keepdims=True)
    text = text / np.linalg.norm(text, axis=1, keepdims=True)
    return text @ image.T / temperature


@pytest.mark.parametrize("seed", range(3))
def test_itc_with_person_ids_equals_numpy(seed):
    image, text, ids = _pairs(seed)
    logits = _numpy_logits(image, text, 0.1)
    target = (ids[:, None] == ids[None]) / (ids[:, None] == ids[None]).sum(axis=1, keepdims=True)
    wanted = sum(-(target * _log_softmax(rows)).sum(axis=1).mean() for rows in (logits, logits.T)) / 2
    loss = itc_loss(torch.tensor(image), torch.tensor(text), torch.tensor(ids), 0.1)
    assert loss.item() == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_sdm_equals_numpy(seed):
    image, text, ids = _pairs(seed)
    logits = _numpy_logits(image, text, 0.1)
    target = (ids[:, None] == ids[None]) / (ids[:, None] == ids[None]).sum(axis=1, keepdims=True)
    wanted = sum(
        (np.exp(_log_softmax(rows)) * (_log_softmax(rows) - np.log(target + 1e-8))).sum(axis=1).mean()
        for rows in (logits, logits.T)
    )
    loss = sdm_loss(torch.tensor(image), torch.tensor(text), torch.tensor(ids), 0.1)
    assert loss.item() == pytest.approx(wanted, rel=1e-5)


def test_scale_of_embeddings_does_not_matter():
    image, text, ids = (torch.tensor(values) for values in _pairs())
    for loss in (itc_loss, sdm_loss):
        assert loss(image, text, ids, 0.05).item() == pytest.approx(loss(image * 9, text * 0.1, ids, 0.05).item())


def test_gradients_are_the_numerical_ones():
    image, text, ids = _pairs(batch=4)
    inputs = [torch.tensor(values, requires_grad=True) for values in (image, text)]
    step = 1e-2
    for loss in (itc_loss, sdm_loss):
        loss(*inputs, torch.tensor(ids), 0.5).backward()
        gradient, inputs[0].grad = inputs[0].grad[0, 0].item(), None
        moved = []
        for sign in (1, -1):
            shifted = inputs[0].detach().clone()
            shifted[0, 0] += sign * step
            moved.append(loss(shifted, inputs[1].detach(), torch.tensor(ids), 0.5).item())
        assert gradient == pytest.approx((moved[0] - moved[1]) / (2 * step), abs=2e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_inputs_stay_finite(dtype):
    same = torch.ones(6, 8, dtype=dtype, requires_grad=True)
    for ids in (torch.zeros(6, dtype=torch.long), torch.arange(6)):
        for loss in (itc_loss, sdm_loss):
            value = loss(same, same, ids, 0.01)
            value.backward()
            assert math.isfinite(value.item()) and torch.isfinite(same.grad).all()


def test_autocast_leaves_the_similarities_in_float32():
    image, text, ids = (torch.tensor(values) for values in _pairs(batch=32, dim=64))
    for loss in (itc_loss, sdm_loss):
        plain = loss(image.float(), text.float(), ids, 0.02)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(loss(image.float(), text.float(), ids, 0.02), plain)


def test_shapes_that_do_not_fit_are_refused():
    image, text, ids = (torch.tensor(values) for values in _pairs())
    for loss in (itc_loss, sdm_loss):
        for bad in (ids[:, None], ids[:1]):
            with pytest.raises(ValueError, match="person_ids must be"):
                loss(image, text, bad, 0.1)
        with pytest.raises(ValueError, match="must both be"):
            loss(image, text[:3], ids, 0.1)
        with pytest.raises(ValueError, match="not empty"):
            loss(image[:0], text[:0], ids[:0], 0.1)
        with pytest.raises(ValueError, match="temperature"):
            loss(image, text, ids, 0.0)


def test_nothing_masked_is_zero_with_a_gradient_path():
    logits = torch.zeros(0, 9, requires_grad=True)
    loss = mlm_loss(logits, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0.0
