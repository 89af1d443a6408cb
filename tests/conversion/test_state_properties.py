"""Whatever is wrong with one tensor of a foreign checkpoint: a model, or an error that names file and tensor."""

import re
from pathlib import Path

import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from aga_model.conversion import ConversionError, load_albef, load_irra, load_rde, load_tbps_clip

FIXTURES = Path(__file__).parents[1] / "fixtures"
IRRA = torch.load(FIXTURES / "irra_tiny" / "best.pth", weights_only=True)["model"]
RASA = torch.load(FIXTURES / "rasa_tiny" / "checkpoint.pth", weights_only=True)
RASA = RASA.get("model", RASA)
TOWERS = {key: value for key, value in IRRA.items() if key.startswith("base_model.")}
CLIP = {key.removeprefix("base_model."): value for key, value in TOWERS.items()} | {"logit_scale": torch.tensor(3.0)}
# Kind -> (loader, state).
KINDS = {
    "irra": (load_irra, IRRA),
    "rde": (load_rde, TOWERS),
    "tbps-clip": (lambda path: load_tbps_clip(path, image_size=(96, 32)), CLIP),
    "albef": (load_albef, RASA),
}
CHANGES = {
    "missing": lambda tensor: None,
    "a scalar": lambda tensor: tensor.flatten()[0],
    "empty": lambda tensor: tensor[:0] if tensor.ndim else tensor.new_zeros(0),
    "one row less": lambda tensor: tensor[:-1] if tensor.ndim else tensor[None],
    "one row more": lambda tensor: torch.cat([tensor, tensor[:1]]) if tensor.ndim else tensor[None],
    "flat": torch.flatten,
    "one more dimension": lambda tensor: tensor[None],
    "turned": lambda tensor: tensor.transpose(0, -1).contiguous() if tensor.ndim else tensor,
    "huge": lambda tensor: tensor.new_zeros(1).expand(7, 3),
    "whole numbers": lambda tensor: tensor.to(torch.int64),
    "complex": lambda tensor: tensor.to(torch.complex64),
    "no number": lambda tensor: torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else tensor,
}
quietly = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


# What an error says where no single tensor is to blame, or only the converted one is known.
OTHER_REASONS = (
    r"of another shape, first: \S+ is \(|weights not filled|unknown weights|are not known|blocks under|"
    r"patches of \d+ pixels|no square grid|vocab_size"
)


def _check(kind: str, state: dict, key: str, path: Path) -> None:
    torch.save({"model": state}, path)
    try:
        model, _ = KINDS[kind][0](path)
    except ConversionError as error:
        assert str(path) in str(error) and len(str(error)) < 600
        assert key in str(error) or re.search(OTHER_REASONS, str(error)), f"{key}: {error}"
    else:
        assert all(value.isfinite().all() for value in model.state_dict().values())


@quietly
@given(st.sampled_from(sorted(KINDS)), st.sampled_from(sorted(CHANGES)), st.data())
def test_any_change_of_a_tensor(tmp_path_factory, kind, change, data):
    state = dict(KINDS[kind][1])
    key = data.draw(st.sampled_from(sorted(state)))
    changed = CHANGES[change](state.pop(key))
    if changed is not None:
        state[key] = changed
    _check(kind, state, key, tmp_path_factory.getbasetemp() / f"{kind}.pth")


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(KINDS)), st.text(min_size=1, max_size=8), st.booleans(), st.data())
def test_any_tensor_too_much(tmp_path_factory, kind, name, nested, data):
    """A new name by itself, or under the name of a block."""
    state = dict(KINDS[kind][1])
    if nested:
        name = f"{data.draw(st.sampled_from(sorted(state))).rpartition('.')[0]}.{name}"
    assume(name not in state)
    _check(kind, state | {name: torch.zeros(2, 2)}, name, tmp_path_factory.getbasetemp() / f"{kind}.pth")
