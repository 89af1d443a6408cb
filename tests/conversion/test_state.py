"""What is read of a checkpoint file, and that each of its keys is accounted for."""

import logging
import math

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from aga_model.conversion import ConversionError
from aga_model.conversion.state import StateAccount, read_state

WEIGHT = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])


@pytest.mark.parametrize(
    "wrap", [dict, lambda state: {"model": state}, lambda state: {"state_dict": state, "step": 3}]
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrappers_and_prefixes_are_taken_off(tmp_path, wrap, prefix):
    torch.save(wrap({f"{prefix}a.weight": WEIGHT.half(), f"{prefix}count": torch.tensor(7)}), tmp_path / "x.pth")
    state = read_state(tmp_path / "x.pth")
    assert list(state) == ["a.weight", "count"] and state["a.weight"].dtype == torch.float32
    assert torch.equal(state["a.weight"], WEIGHT) and state["count"].dtype == torch.int64


def test_safetensors(tmp_path):
    save_file({"a": WEIGHT.to(torch.bfloat16)}, tmp_path / "x.safetensors")
    assert torch.equal(read_state(tmp_path / "x.safetensors")["a"], WEIGHT)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({}, "holds no state dict"),
        (WEIGHT, "holds no state dict"),
        ({"a": WEIGHT, "epoch": 3}, "1 entries are no tensors, first: epoch"),
    ],
)
def test_what_is_no_state_is_named(tmp_path, content, named):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ConversionError, match=rf"x\.pth: {named}"):
        read_state(tmp_path / "x.pth")
    with pytest.raises(ConversionError, match="no such file"):
        read_state(tmp_path / "y.pth")


@pytest.mark.parametrize(
    ("tensor", "named"),
    [
        (torch.tensor([1.0, math.nan]), "w holds NaN or infinity"),
        (torch.tensor([1.0, -math.inf]), "w holds NaN or infinity"),
        (torch.tensor([1, 2], dtype=torch.int8), "w is of torch.int8"),  # quantised: numbers without their scale
    ],
)
def test_numbers_that_are_no_weights_are_refused(tensor, named):
    with pytest.raises(ConversionError, match=f"x.pth: {named}"):
        StateAccount({"w": tensor}, "x.pth").take("w")


def test_a_number_is_one_number():
    account = StateAccount({"a": torch.tensor([[2.5]]), "b": torch.tensor([1.0, 2.0])}, "x.pth")
    assert account.take_number("a").shape == () and "a" not in account
    with pytest.raises(ConversionError, match=r"b has the shape \(2,\), expected one number"):
        account.take_number("b")


def test_thirds_are_queries_keys_and_values_in_this_order():
    account = StateAccount({"w": WEIGHT, "v": WEIGHT[:2]}, "x.pth")
    assert [part.tolist() for part in account.take_thirds("w")] == [[[1, 2]], [[3, 4]], [[5, 6]]]
    with pytest.raises(ConversionError, match=r"v has the shape \(2, 2\), expected queries, keys and values"):
        account.take_thirds("v")


def _finish(state, converted, may_miss=()):
    account = StateAccount(state, "x.pth")
    account.ignore(r"queue", "training state")
    model = nn.Linear(2, 3)
    account.finish(model, converted, may_miss)
    return model


def test_every_key_is_used_or_ignored_on_purpose(caplog):
    bias = torch.tensor([7.0, 8.0, 9.0])
    with caplog.at_level(logging.INFO, logger="aga_model.conversion"):
        model = _finish({"queue_ptr": torch.zeros(1)}, {"weight": WEIGHT, "bias": bias})
    assert torch.equal(model.weight, WEIGHT) and torch.equal(model.bias, bias)
    assert "queue_ptr ignored on purpose (training state)" in caplog.text
    assert torch.equal(_finish({}, {"weight": WEIGHT}, ("bias",)).weight, WEIGHT)
    for state, converted, named in (
        ({"head.weight": WEIGHT}, {"weight": WEIGHT, "bias": bias}, "1 keys are not known, first: head.weight"),
        ({"my_queue": bias}, {"weight": WEIGHT, "bias": bias}, "1 keys are not known, first: my_queue"),
        ({}, {"weight": WEIGHT}, "weights not filled: 1, first: bias"),
        ({}, {"weight": WEIGHT, "bias": bias, "scale": bias}, "unknown weights: 1, first: scale"),
        ({}, {"weight": WEIGHT.T, "bias": bias}, r"weight is \(2, 3\), expected \(3, 2\)"),
    ):
        with pytest.raises(ConversionError, match=f"x.pth: .*{named}"):
            _finish(state, converted)
