"""Whatever a field of the configuration is set to: a model can be built of it, or the error names the field."""

import copy
import json
import math
from dataclasses import fields

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedConfig

from aga_model import AgaConfig, AgaForPreTraining
from aga_model.configuration_aga import LOSS_NAMES, AgaObjectiveConfig
from aga_model.configuration_checks import LIBRARY_KEYS
from aga_model.families import FAMILIES

LIBRARY = {field.name for field in fields(PreTrainedConfig)}
SECTIONS = {name: {**family.sections, "objective_config": AgaObjectiveConfig} for name, family in FAMILIES.items()}
FIELDS = [
    (family, section, field.name)
    for family, sections in SECTIONS.items()
    for section, config_class in [*sections.items(), (None, AgaConfig)]
    for field in fields(config_class)
    if field.name not in LIBRARY | sections.keys()
]
NUMBERS = st.integers(-2, 70) | st.floats(-1.5, 1.5) | st.sampled_from([math.nan, math.inf, -math.inf, 1e30])
VALUES = (
    NUMBERS
    | st.none()
    | st.booleans()
    | st.sampled_from(["gelu", "attention", "random", "match", "clip", "bert", "add", "argmax", "trusted"])
    | st.text(max_size=5)
    | st.lists(NUMBERS | st.text(max_size=2), max_size=3)
    | st.dictionaries(st.sampled_from(LOSS_NAMES) | st.text(max_size=3), NUMBERS | st.none(), max_size=3)
)


@pytest.fixture(scope="module")
def sections_of(make_sections):
    losses = {"loss_weights": {"itc": 1.0, "itm": 1.0, "mlm": 1.0}}
    return {family: make_sections(family, **losses) for family in ("clip", "bert")}


def _check(sections, family, section, name, value):
    (sections[section] if section else sections)[name] = value
    try:
        config = AgaConfig(**sections)
    except (ValueError, StrictDataclassError) as error:
        owner = SECTIONS[family][section] if section else AgaConfig
        related = {field.name for field in fields(owner)} | {"projection_dim"}
        assert any(key in str(error) for key in related), f"{section}.{name} = {value!r}: {error}"
        return
    text = config.to_json_string(use_diff=False)
    assert AgaConfig.from_dict(json.loads(text)).to_json_string(use_diff=False) == text
    if isinstance(value, int | float) and abs(value) > 1e6:
        return  # there would be no memory for it
    with torch.device("meta"):
        AgaForPreTraining(config)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(FIELDS), VALUES)
@example(("clip", "text_config", "vocab_size"), 1)
@example(("clip", "text_config", "num_attention_heads"), 0)
@example(("clip", "text_config", "eos_token_id"), [1])
@example(("clip", "vision_config", "num_hidden_layers"), -1)
@example(("clip", "vision_config", "layer_norm_eps"), math.nan)
@example(("clip", "vision_config", "stem_channels"), [-8])
@example(("clip", "cross_modal_config", "hidden_act"), "gelo")
@example(("clip", None, "logit_scale_init_value"), math.inf)
@example(("bert", "text_config", "pad_token_id"), 100000)
@example(("bert", "text_config", "add_cross_attention"), True)
@example(("bert", "text_config", "num_attention_heads"), 3)
@example(("bert", "text_config", "hidden_dropout_prob"), 2)
@example(("bert", "text_config", "classifier_dropout"), math.nan)
@example(("bert", "objective_config", "loss_weights"), {"itc": math.nan})
@example(("bert", "objective_config", "bsdm_kl_weights"), [math.nan, 1.0])
def test_a_field_is_usable_or_named(sections_of, field, value):
    family, section, name = field
    _check(copy.deepcopy(sections_of[family]), family, section, name, value)


@settings(max_examples=40)
@given(st.dictionaries(st.text(max_size=12), VALUES, min_size=1, max_size=3))
@example({"eos_token_id": None, "": None})  # transformers' Trainer sets the first
def test_unknown_keys_are_named(keys):
    known = {field.name for field in fields(AgaConfig)} | LIBRARY_KEYS
    unknown = {key: value for key, value in keys.items() if key not in known and not key.startswith("_")}
    if not unknown:
        return
    with pytest.raises(ValueError, match="has no key") as caught:
        AgaConfig(**unknown)
    assert repr(next(iter(unknown))) in str(caught.value)
