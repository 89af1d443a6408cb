"""What saves time or memory changes no result."""

import pytest
import torch
from transformers.activations import QuickGELUActivation
from transformers.models.clip.modeling_clip import CLIPMLP

from aga_model import AgaConfig
from aga_model.towers import LeanMLP, LeanQuickGELU, use_lean_layers
from aga_model.training.optimizers import adamw_with_factors, muon_with_adamw


def _kept_bytes(module, inputs):
    """Bytes of activations that wait for the backward pass, and the gradient of the inputs."""
    kept = {}
    parameters = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = module(inputs)
    total = sum(kept.values())
    outputs.square().sum().backward()
    return total, outputs.detach(), inputs.grad.clone()


def test_the_lean_activation_is_clips():
    values = torch.linspace(-30, 30, 2001, dtype=torch.float64, requires_grad=True)
    for module in (QuickGELUActivation(), LeanQuickGELU()):
        assert torch.autograd.gradcheck(module, values[::100].detach().requires_grad_())
    torch.testing.assert_close(LeanQuickGELU()(values), QuickGELUActivation()(values), atol=1e-14, rtol=1e-13)


@pytest.mark.parametrize(("activation", "fewer"), [("quick_gelu", 2), ("gelu_pytorch_tanh", 1)])
def test_the_lean_mlp_keeps_one_tensor_of_the_inner_width(make_model, activation, fewer):
    config = make_model().config.vision_config
    config.hidden_act = activation
    torch.manual_seed(0)
    parts = torch.nn.Sequential(CLIPMLP(config))
    rows, found = 50, []
    for _ in range(2):
        inputs = torch.randn(rows, config.hidden_size, generator=torch.Generator().manual_seed(1))
        found.append(_kept_bytes(parts, inputs.requires_grad_()))
        use_lean_layers(parts)
    assert type(parts[0]) is LeanMLP
    (usual, outputs, gradient), (lean, lean_outputs, lean_gradient) = found
    assert usual - lean == fewer * rows * config.intermediate_size * 4
    torch.testing.assert_close(lean_outputs, outputs, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(lean_gradient, gradient, atol=1e-6, rtol=1e-5)


class DroppingAdapter(torch.nn.Module):
    """A second layer that drops, as LoRA's does."""

    def __init__(self, linear):
        super().__init__()
        self.linear = linear

    def forward(self, values):
        return self.linear(torch.nn.functional.dropout(values, 0.5, training=True))


def test_what_is_computed_twice_changes_no_gradient(make_model, batch):
    """Not a bit of it: also where layers are checkpointed, or an adapter in the MLP draws what it drops."""

    def gradients(lean, checkpointed, dropping):
        model = make_model(loss_weights={"itc": 1.0, "mlm": 1.0}).train()
        mlps = [module for module in model.modules() if isinstance(module, LeanMLP)]
        assert len(mlps) == 6  # of two layers of the vision tower, three of the text tower, one of the fusion encoder
        if checkpointed:
            model.activation_checkpointing_enable()
        for mlp in mlps:
            mlp.__class__ = LeanMLP if lean else CLIPMLP
            if dropping:
                mlp.fc2 = DroppingAdapter(mlp.fc2)
        torch.manual_seed(2)
        model(**batch).loss.backward()
        return [parameter.grad for parameter in model.parameters()]

    for checkpointed, dropping in ((False, False), (True, False), (False, True)):
        usual, lean = (gradients(lean, checkpointed, dropping) for lean in (False, True))
        assert all(torch.equal(one, other) for one, other in zip(usual, lean, strict=True))


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu_pytorch_tanh"])
def test_every_part_of_the_clip_family_is_lean(make_model, activation):
    sections = make_model().config.to_dict()
    for section in ("text_config", "vision_config", "cross_modal_config"):
        sections[section] |= {"hidden_act": activation}
    model = type(make_model())(AgaConfig(**sections))
    modules = [type(module) for module in model.modules()]
    assert QuickGELUActivation not in modules and CLIPMLP not in modules
    assert (LeanQuickGELU in modules) == (activation == "quick_gelu")


def test_losses_are_float32_under_autocast(make_model, batch):
    """Of all losses; half precision changes them by little, and gradients stay float32."""
    losses = dict(itc=1.0, sdm=0.1, bsdm=0.1, cmpm=0.2, tal=0.3, waf=0.4, itm=0.7, mlm=1.0, id=0.5)
    model = make_model(loss_weights=losses, num_identities=3, enrichment="none", mask_strategy="random").train()
    found = []
    for enabled in (False, True):
        torch.manual_seed(2)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found.append(model(**batch))
    for name in losses:
        full, half = (output[f"{name}_loss"] for output in found)
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, full, atol=0.05, rtol=0.05)
    found[1].loss.backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters())


def test_the_fused_update_is_adamws(make_model):
    """One step of each optimiser against the formula, parameter by parameter, with the rates of its group."""
    for build in (
        lambda model: adamw_with_factors(model, 1e-3, 0.1, (0.9, 0.98), 1e-8, 5.0, 2.0),
        lambda model: muon_with_adamw(model, 1e-3, 1e-3, 0.1, (0.9, 0.98), 1e-8),
    ):
        model = make_model()
        optimizer = build(model)
        torch.manual_seed(4)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        adamw = [group for group in optimizer.param_groups if "betas" in group]
        assert adamw and all(group["fused"] for group in adamw)
        before = {id(p): p.detach().clone() for group in adamw for p in group["params"]}
        optimizer.step()
        for group in adamw:
            for parameter in group["params"]:
                decayed = before[id(parameter)] * (1 - group["lr"] * group["weight_decay"])
                wanted = decayed - group["lr"] * parameter.grad / (parameter.grad.abs() + group["eps"])
                torch.testing.assert_close(parameter.detach(), wanted, atol=1e-6, rtol=1e-4)
