"""Weights of a checkpoint that a model has no place for are named or refused, by every way of loading one."""

import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForPreTraining

from aga_model import AgaConfig, AgaForImageTextRetrieval, AgaForPreTraining, AgaModel, AgaProcessor
from aga_model.errors import ModelLoadError
from aga_model.search import Explainer, PersonEncoder, Reranker
from aga_model.training import ReleaseError
from aga_model.training.release.contents import _require_weights
from aga_model.training.run import _load_start

LOSSES = {"itc": 1.0, "itm": 1.0, "mlm": 1.0, "id": 1.0}


@pytest.fixture(params=["clip", "bert"])
def family(request):
    return request.param


@pytest.fixture
def folder(family, make_sections, tokenizer, tmp_path):
    """A saved model with every head and two fusion layers."""
    sections = make_sections(family, loss_weights=LOSSES, num_identities=3)
    sections["cross_modal_config"]["num_hidden_layers"] = 2
    torch.manual_seed(0)
    config = AgaConfig(**sections)
    AgaForPreTraining(config).save_pretrained(tmp_path / "model")
    AgaProcessor.for_config(config, tokenizer).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def _edit(folder, section, **values):
    settings = json.loads((folder / "config.json").read_text())
    settings[section] |= values
    (folder / "config.json").write_text(json.dumps(settings))


def _without(folder, *losses):
    """The folder's configuration with an objective that does not name some losses."""
    config = AgaConfig.from_pretrained(folder)
    for name in losses:
        del config.objective_config.loss_weights[name]
    config.has_itm_head = "itm" in config.objective_config.loss_weights
    return config


@pytest.mark.parametrize("load", [AgaModel.from_pretrained, AutoModel.from_pretrained])
def test_the_dual_encoder_of_a_full_checkpoint_loads_in_silence(load, folder, caplog):
    with caplog.at_level(logging.WARNING):
        model, info = load(folder, output_loading_info=True)
    assert not caplog.text and not info["unexpected_keys"] and not info["missing_keys"]
    assert type(model) is AgaModel


def test_every_class_that_has_a_place_for_all_loads_in_silence(folder, caplog):
    with caplog.at_level(logging.WARNING):
        for load in (AgaForPreTraining, AutoModelForPreTraining, AgaForImageTextRetrieval):
            assert not load.from_pretrained(folder, output_loading_info=True)[1]["unexpected_keys"]
    assert not caplog.text


@pytest.mark.parametrize("model_class", [AgaForPreTraining, AgaForImageTextRetrieval])
def test_fusion_layers_beyond_the_configuration_are_named_once(model_class, folder, caplog):
    _edit(folder, "cross_modal_config", num_hidden_layers=1)
    weights = load_file(folder / "model.safetensors")
    beyond = {key for key in weights if key.startswith("fusion.layers.1.")}
    assert beyond
    with caplog.at_level(logging.WARNING, "aga_model"):
        _, info = model_class.from_pretrained(folder, output_loading_info=True)
    assert set(info["unexpected_keys"]) == beyond
    (message,) = [record.getMessage() for record in caplog.records if record.name == "aga_model.modeling_aga"]
    assert str(folder) in message and str(len(beyond)) in message and sorted(beyond)[0] in message


def test_the_dual_encoder_ignores_heads_alone(family, folder, caplog):
    """Not what stands beside them, such as a layer of its own tower too many."""
    _edit(folder, "text_config", num_hidden_layers=1)
    with caplog.at_level(logging.WARNING, "aga_model"):
        _, info = AgaModel.from_pretrained(folder, output_loading_info=True)
    assert info["unexpected_keys"] and all(".layer" in key for key in info["unexpected_keys"])
    assert "has no place for" in caplog.text


def test_heads_that_the_objective_has_no_use_for_are_named(folder, caplog):
    config = _without(folder, "itm")
    config.objective_config.num_identities = 0
    del config.objective_config.loss_weights["id"]
    with caplog.at_level(logging.WARNING, "aga_model"):
        model = AgaForPreTraining.from_pretrained(folder, config=config)
    assert model.itm_head is None
    for key in ("itm_head.weight", "itm_head.bias", "identity_head.weight", "identity_head.bias"):
        assert key in caplog.text


def test_a_training_says_that_it_leaves_the_matching_head_out(folder, caplog):
    with caplog.at_level(logging.WARNING, "aga_model.training"):
        model, _ = _load_start(str(folder), {}, {"loss_weights": {"itc": 1.0, "mlm": 1.0}, "num_identities": 0})
    assert model.itm_head is None
    assert "cannot re-rank" in caplog.text and str(folder) in caplog.text
    model.save_pretrained(folder)
    with pytest.raises(ValueError, match="no ITM head to re-rank with"):
        AgaForImageTextRetrieval.from_pretrained(folder)


def test_a_training_that_names_it_keeps_it(folder, caplog):
    wanted = load_file(folder / "model.safetensors")
    with caplog.at_level(logging.WARNING, "aga_model"):
        model, _ = _load_start(str(folder), {}, {"loss_weights": {"itc": 1.0, "itm": 0.1}, "num_identities": 0})
    assert torch.equal(model.itm_head.weight, wanted["itm_head.weight"]) and "cannot re-rank" not in caplog.text
    model.save_pretrained(folder)
    again = AgaForImageTextRetrieval.from_pretrained(folder)
    assert torch.equal(again.itm_head.weight, wanted["itm_head.weight"])


def test_a_start_from_a_dual_encoder_has_new_heads(family, make_sections, tokenizer, tmp_path, caplog):
    config = AgaConfig(**make_sections(family))
    encoder = AgaModel(config)
    encoder.save_pretrained(tmp_path)
    AgaProcessor.for_config(config, tokenizer).save_pretrained(tmp_path)
    model, _ = _load_start(str(tmp_path), {}, {"loss_weights": LOSSES, "num_identities": 3})
    assert torch.equal(model.aga.visual_projection.weight, encoder.visual_projection.weight)


def _drop(folder, key):
    weights = load_file(folder / "model.safetensors")
    del weights[key]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("fault", ["layer too many", "weight missing", "half of the fusion encoder", "another size"])
def test_a_start_whose_configuration_is_not_its_weights_is_refused(fault, folder):
    if fault == "layer too many":
        _edit(folder, "cross_modal_config", num_hidden_layers=1)
        named = r"weights have no place .*fusion\.layers\.1"
    elif fault == "weight missing":
        _drop(folder, "aga.visual_projection.weight")
        named = r"1 weights are missing .*aga\.visual_projection\.weight"
    elif fault == "half of the fusion encoder":
        _edit(folder, "cross_modal_config", num_hidden_layers=3)
        named = r"weights are missing .*fusion\.layers\.2"
    else:
        _edit(folder, "vision_config", image_size=[48, 16])
        named = r"1 weights are of another size .*position_embedding"
    with pytest.raises(ValueError, match=named):
        _load_start(str(folder), {}, {"num_identities": 3})


@pytest.mark.parametrize("section", ["text_config", "cross_modal_config"])
def test_search_and_release_refuse_them(section, folder):
    _edit(folder, section, num_hidden_layers=1)
    load = {
        "text_config": lambda: PersonEncoder.from_pretrained(folder, device="cpu"),
        "cross_modal_config": lambda: Reranker.from_encoder(PersonEncoder.from_pretrained(folder, device="cpu")),
    }[section]
    with pytest.raises(ModelLoadError, match=r"its config\.json has no place for, such as"):
        load()
    with pytest.raises(ReleaseError, match="has no place for"):
        _require_weights(folder, AgaForPreTraining)
    if section == "cross_modal_config":
        with pytest.raises(ModelLoadError, match="no place for"):
            Explainer.from_encoder(PersonEncoder.from_pretrained(folder, device="cpu"))
