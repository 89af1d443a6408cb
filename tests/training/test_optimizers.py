"""Which rate and which weight decay each parameter of either family gets, seen in what a step does to it."""

import pytest
import torch
from torch import nn

from aga_model import AgaConfig, AgaForPreTraining
from aga_model.training.optimizers import muon_with_adamw

MUON_LR, ADAMW_LR, DECAY = 0.01, 0.04, 0.5


def _optimizer(model, weight_decay=DECAY):
    return muon_with_adamw(model, MUON_LR, ADAMW_LR, weight_decay, (0.9, 0.999), 1e-8)


@pytest.fixture(params=["clip", "bert"])
def model(request, make_sections):
    torch.manual_seed(0)
    model = AgaForPreTraining(AgaConfig(**make_sections(request.param, loss_weights={"itm": 1.0, "mlm": 1.0})))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)  # biases too are not zero
    return model


def _is_block_matrix(name, parameter):
    """Of an attention or a feed-forward layer, or a projection into the joint space."""
    inner = ("self_attn", "cross_attn", "crossattention", ".attention.", "mlp.", "intermediate.", ".output.dense")
    return parameter.ndim == 2 and any(part in name for part in (*inner, "visual_projection", "text_projection"))


def test_weight_decay_takes_hold_of_matrices_alone_each_at_its_rate(model):
    """Without a gradient a step is the decay alone: w (1 - lr * decay)."""
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = _optimizer(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    kinds = set()
    for name, parameter in model.named_parameters():
        rate = 0.0 if parameter.ndim < 2 else MUON_LR if _is_block_matrix(name, parameter) else ADAMW_LR
        kinds.add(rate)
        torch.testing.assert_close(parameter.detach(), before[name] * (1 - rate * DECAY))
    assert len(kinds) == 3


class Block(nn.Module):
    """A matrix that Muon takes, and a vector that it does not."""

    def __init__(self, size):
        super().__init__()
        self.tower = nn.Module()
        self.tower.layers = nn.ModuleList([nn.Linear(size, size)])


def test_a_step_of_muon_is_as_large_as_one_of_adamw():
    """`match_rms_adamw`: the root mean square of an orthogonal step is 0.2 of the rate, whatever the matrix's size."""
    torch.manual_seed(0)
    for size in (64, 256):
        block = Block(size)
        weight = block.tower.layers[0].weight
        before = weight.detach().clone()
        optimizer = _optimizer(block, weight_decay=0.0)
        weight.grad = torch.randn_like(weight)
        optimizer.step()
        step = (weight.detach() - before).square().mean().sqrt()
        assert float(step) == pytest.approx(0.2 * MUON_LR, rel=0.15)


def test_a_schedule_still_reaches_the_optimisers_after_a_state_is_loaded():
    torch.manual_seed(0)
    block = Block(8)
    optimizer = _optimizer(block)
    optimizer.load_state_dict(optimizer.state_dict())
    for group in optimizer.param_groups:
        group["lr"] = 0.0  # as at the end of a schedule
    before = [parameter.detach().clone() for parameter in block.parameters()]
    for parameter in block.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert all(torch.equal(old, new) for old, new in zip(before, block.parameters()))
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in block.parameters())
