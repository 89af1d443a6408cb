"""Muon for the matrices of the transformer blocks, AdamW for everything else, as one optimiser."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

# Matrices inside transformer blocks and projections; embeddings, stems and output heads stay with AdamW.
MATRIX_MODULES = (".layers.", ".layer.", "visual_projection", "text_projection", ".cross_attn.")


class JointOptimizer(torch.optim.Optimizer):
    """
    Several optimisers over disjoint parameters behind the interface of one, so that schedulers, Accelerate and
    checkpoints handle them together.

    Args:
        optimizers: each over its own parameters.
    """

    def __init__(self, optimizers: list[torch.optim.Optimizer]):
        self.optimizers = optimizers
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        super().__init__(groups, {})
        self._share_groups()

    def _share_groups(self) -> None:
        """One list of the very dictionaries that the optimisers use, so that a scheduler's changes reach them."""
        self.param_groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        states = state_dict["optimizers"]
        if len(states) != len(self.optimizers):
            raise ValueError(f"checkpoint holds {len(states)} optimisers, this run has {len(self.optimizers)}")
        for optimizer, state in zip(self.optimizers, states):
            optimizer.load_state_dict(state)
        self._share_groups()


def muon_with_adamw(
    model: nn.Module, muon_lr: float, adamw_lr: float, weight_decay: float, betas: tuple[float, float], epsilon: float
) -> JointOptimizer:
    """
    Muon on the blocks' matrices and AdamW on the rest; vectors and the temperature get no weight decay.

    Source: Jordan et al., Muon (2024); here it makes training from random weights take off several times sooner.

    Args:
        model: with trainable parameters.
        muon_lr: learning rate of Muon, scaled to AdamW's update size (`match_rms_adamw`).
        adamw_lr: learning rate of AdamW.
        weight_decay: decoupled, of matrices.
        betas, epsilon: AdamW's.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    matrices = [p for name, p in named if p.ndim == 2 and any(part in name for part in MATRIX_MODULES)]
    chosen = {id(parameter) for parameter in matrices}
    rest = [parameter for _, parameter in named if id(parameter) not in chosen]
    adamw_groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(adamw_groups, lr=adamw_lr, betas=betas, eps=epsilon, fused=True)
    muon = torch.optim.Muon(
        matrices, lr=muon_lr, weight_decay=weight_decay, momentum=0.95, ns_steps=4, adjust_lr_fn="match_rms_adamw"
    )
    return JointOptimizer([adamw, muon])


# Modules that CLIP's weights do not bring; IRRA trains them faster.
NEW_MODULES = ("fusion.", "mlm_head.", "itm_head.", "identity_head.")


def adamw_with_factors(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    epsilon: float,
    new_module_factor: float,
    bias_factor: float,
) -> torch.optim.AdamW:
    """
    AdamW with IRRA's learning rates: new modules and biases faster, biases without weight decay.

    Source: IRRA's recipe (x5 and x2); it uses Adam with L2, which at its weight decay of 4e-5 differs little.

    Args:
        model: with trainable parameters.
        lr: of everything else.
        weight_decay: decoupled.
        betas, epsilon: AdamW's.
        new_module_factor: on `lr` for the fusion encoder and the heads.
        bias_factor: on `lr` for the biases of the pre-trained towers.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        bias, new = name.endswith("bias"), name.startswith(NEW_MODULES)
        factor = new_module_factor if new else bias_factor if bias else 1.0
        groups.setdefault((factor, 0.0 if bias else weight_decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": params, "lr": lr * factor, "weight_decay": decay} for (factor, decay), params in groups.items()],
        lr=lr,
        betas=betas,
        eps=epsilon,
        fused=True,
    )
