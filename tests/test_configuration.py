"""Bad configurations are refused with the name of what is wrong; good ones survive a round trip."""

import json
import math

import pytest
import torch

from aga_model import AgaConfig, AgaForImageTextRetrieval, AgaForPreTraining, AgaModel

TOWER = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"projektion_dim": 64}, "projection_dim"),
        ({"vision_config": {"hiden_size": 64}}, "hidden_size"),
        ({"objective_config": {"mask_ration": 0.2}}, "mask_ratio"),
        ({"objective_config": {"mask_ratio": 1.5}}, "mask_ratio"),
        ({"objective_config": {"mask_ratio": 0}}, "mask_ratio"),
        ({"objective_config": {"mask_strategy": "attn"}}, "mask_strategy"),
        ({"objective_config": {"enrichment": "yes"}}, "enrichment"),
        ({"objective_config": {"enrichment_probability": -0.1}}, "enrichment_probability"),
        ({"objective_config": {"loss_weights": {"itcc": 1.0}}}, "itcc"),
        ({"objective_config": {"loss_weights": {"itc": -1.0}}}, "itc"),
        ({"objective_config": {"loss_weights": {"id": 1.0}}}, "num_identities"),
        ({"vision_config": {"image_size": [100, 32], "patch_size": 16}}, "height 100"),
        ({"vision_config": {"image_size": [96, 30], "patch_size": 16}}, "width 30"),
        ({"vision_config": {"image_size": [96, 32, 3]}}, "image_size"),
        ({"vision_config": {"patch_size": 16, "stride": 17}}, "stride must lie between 1 and patch_size"),
        ({"vision_config": {"patch_size": 16, "stride": 0}}, "stride must lie between 1 and patch_size"),
        ({"family": "bert", "text_config": {"is_decoder": True}}, "text_config.is_decoder must be false"),
        ({"family": "bert", "text_config": {"caption_length": 2}}, "caption_length must lie between 3 and"),
        ({"family": "bert", "text_config": {"caption_length": 600}}, "caption_length must lie between 3 and"),
        ({"vision_config": {"patch_size": 4, "image_size": [32, 16], "stem_channels": [8, 8, 8]}}, "stem_channels"),
        ({"text_config": {"vocab_size": 100, "eos_token_id": 100}}, "eos_token_id"),
        ({"text_config": {"vocab_size": 100, "mask_token_id": 99}}, "must differ"),
        ({"cross_modal_config": {"hidden_size": 64}}, "hidden_size"),
        ({"projection_dim": 100, "cross_modal_config": {"num_attention_heads": 3}}, "num_attention_heads"),
        ({"projection_dim": "big"}, "projection_dim"),
        ({"projection_dim": 0}, "projection_dim must be positive"),
        ({"text_config": {"attention_dropout": 1.5}}, r"text_config.attention_dropout must lie in \[0, 1\]"),
        ({"vision_config": {"hidden_size": 0}}, "vision_config.hidden_size must be positive"),
        ({"vision_config": {"num_hidden_layers": 0}}, "vision_config.num_hidden_layers must be at least 1"),
        ({"vision_config": {"layer_norm_eps": -1e-5}}, "vision_config.layer_norm_eps must be a number of 0 or more"),
        ({"logit_scale_init_value": float("nan")}, "logit_scale_init_value must be a finite number"),
        ({"text_config": {"hidden_act": "gellu"}}, "did you mean 'gelu'"),
    ],
)
def test_bad_configuration_names_the_key(sections, named):
    with pytest.raises(Exception, match=named):
        AgaConfig(**sections)


def test_round_trip_through_json(tmp_path):
    config = AgaConfig(
        vision_config={"image_size": [64, 32], "patch_size": 8, "stem_channels": [8]},
        objective_config={"loss_weights": {"sdm": 1.0, "id": 0.5}, "num_identities": 7},
    )
    config.save_pretrained(tmp_path)
    loaded = AgaConfig.from_pretrained(tmp_path)
    assert json.loads(loaded.to_json_string()) == json.loads(config.to_json_string())
    assert loaded.objective_config.weight("id") == 0.5
    assert loaded.vision_config.grid_size == (8, 4)


def test_special_tokens_default_to_clips_places():
    text = AgaConfig().text_config
    assert (text.bos_token_id, text.eos_token_id, text.mask_token_id) == (49406, 49407, 49405)
    small = AgaConfig(text_config={"vocab_size": 160}).text_config
    assert (small.bos_token_id, small.eos_token_id, small.mask_token_id) == (158, 159, 157)


@pytest.mark.parametrize("width", [24, 200, 224, 400, 512])
def test_any_projection_width_has_a_number_of_heads(width):
    heads = AgaConfig(projection_dim=width).cross_modal_config.num_attention_heads
    assert width % heads == 0 and 1 <= heads <= max(1, width // 64)


def test_the_mask_token_evades_other_special_tokens():
    text = AgaConfig(text_config={"vocab_size": 99, "bos_token_id": 0, "eos_token_id": 98}).text_config
    assert text.mask_token_id == 97


def test_overlapping_patches():
    config = AgaConfig(vision_config={"image_size": [96, 32], "patch_size": 16, "stride": 8})
    assert config.vision_config.grid_size == (11, 3)


@pytest.mark.parametrize("weights", [{}, {"mlm": 0.0}, {"sdm": 0}, {"itc": 0.0, "itm": 0.0, "mlm": 0}])
def test_an_objective_without_a_loss_loads_and_does_not_train(weights, tmp_path):
    """A dual encoder that is only used needs none."""
    AgaConfig(objective_config={"loss_weights": weights}).save_pretrained(tmp_path)
    config = AgaConfig.from_pretrained(tmp_path)
    objective = config.objective_config
    assert objective.losses == {} and not config.has_itm_head and not config.has_mlm_head
    with pytest.raises(ValueError, match=r"objective_config\.loss_weights .* nothing to train on"):
        objective.require_losses()


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), "1", None, True])
def test_weights_that_are_none_are_refused(weight):
    with pytest.raises(Exception, match=r"objective_config\.loss_weights"):
        AgaConfig(objective_config={"loss_weights": {"itc": 1.0, "itm": weight}})


@pytest.mark.parametrize(("weights", "has_head"), [({"itm": 0.1}, True), ({"itm": 0.0}, False), ({"itc": 1}, False)])
def test_one_key_tells_whether_there_is_a_matching_head(weights, has_head):
    config = AgaConfig(
        vision_config={**TOWER, "image_size": [32, 16], "patch_size": 8},
        text_config={**TOWER, "vocab_size": 99},
        projection_dim=64,
        objective_config={"loss_weights": weights},
    )
    assert config.has_itm_head is has_head
    assert (AgaForPreTraining(config).itm_head is not None) is has_head
    if not has_head:
        with pytest.raises(ValueError, match="does not name 'itm' with a weight above 0"):
            AgaForImageTextRetrieval(config)


def test_a_head_outlives_its_loss(tmp_path):
    """A folder says what its model has, whatever its objective says of losses."""
    config = AgaConfig(
        vision_config={**TOWER, "image_size": [32, 16], "patch_size": 8},
        text_config={**TOWER, "vocab_size": 99},
        projection_dim=64,
        has_itm_head=True,
        objective_config={"loss_weights": {"itc": 1.0}},
    )
    AgaForImageTextRetrieval(config).save_pretrained(tmp_path)
    again, info = AgaForImageTextRetrieval.from_pretrained(tmp_path, output_loading_info=True)
    assert again.itm_head is not None and not info["missing_keys"]
    trained = AgaForPreTraining(config)
    for part in (trained.itm_head, trained.fusion):  # no gradient reaches them, which several processes would wait for
        assert not any(parameter.requires_grad for parameter in part.parameters())


@pytest.mark.parametrize("losses", [("itm",), ("mlm",), ("itm", "mlm"), ("itc",)])
def test_old_configurations_have_the_heads_that_their_losses_trained(losses):
    values = AgaConfig(objective_config={"loss_weights": dict.fromkeys(losses, 0.5)}).to_dict()
    for key in ("has_itm_head", "has_mlm_head"):
        del values[key]
    config = AgaConfig.from_dict(values)
    assert (config.has_itm_head, config.has_mlm_head) == ("itm" in losses, "mlm" in losses)


@pytest.mark.parametrize("stride", range(1, 17))
@pytest.mark.parametrize("size", [(384, 128), (97, 35)])
def test_overlapping_patches_are_as_many_as_a_convolution_gives(stride, size):
    if stride == 16 and size[0] % 16:
        with pytest.raises(Exception, match="height 97"):
            AgaConfig(vision_config={"image_size": list(size), "patch_size": 16})
        return
    vision = AgaConfig(vision_config={"image_size": list(size), "patch_size": 16, "stride": stride}).vision_config
    found = torch.nn.functional.conv2d(torch.zeros(1, 1, *size), torch.zeros(1, 1, 16, 16), stride=stride)
    assert vision.grid_size == tuple(found.shape[-2:])
    assert stride != 12 or size != (384, 128) or vision.grid_size == (31, 10)


@pytest.mark.parametrize("size", [(64, 32), (67, 37), (70, 33)])
def test_overlapping_patches_behind_a_stem(size):
    config = AgaConfig(
        vision_config={**TOWER, "image_size": list(size), "patch_size": 8, "stride": 4, "stem_channels": [4, 4]},
        text_config={**TOWER, "vocab_size": 99},
        projection_dim=64,
    )
    vision = AgaModel(config).vision_model
    states = vision(torch.zeros(1, 3, *size)).last_hidden_state
    rows, columns = vision.embeddings.patch_embedding(vision.embeddings.stem(torch.zeros(1, 3, *size))).shape[-2:]
    assert config.vision_config.grid_size == (rows, columns) and states.shape[1] == rows * columns + 1


def test_defaults_are_the_documented_ones():
    config = AgaConfig()
    assert math.exp(-config.logit_scale_init_value) == pytest.approx(0.07, abs=1e-5)  # CLIP's temperature
    fusion = config.cross_modal_config
    assert (fusion.hidden_size, fusion.num_attention_heads, fusion.intermediate_size) == (512, 8, 2048)
    assert (fusion.num_hidden_layers, fusion.cross_attention_residual) == (4, False)
    assert AgaConfig(projection_dim=768).cross_modal_config.num_attention_heads == 12
    text, vision = config.text_config, config.vision_config
    assert text.pad_token_id == text.eos_token_id and text.caption_length == text.max_position_embeddings == 77
    assert (vision.grid_size, vision.layer_norm_eps, vision.hidden_act) == ((24, 8), 1e-5, "quick_gelu")
    objective = config.objective_config
    assert (objective.mask_ratio, objective.mask_max_probability, objective.attention_decay) == (0.15, 0.8, 0.5)
    assert (objective.enrichment, objective.enrichment_probability) == ("replace", 0.2)
    assert (objective.momentum, objective.distillation_weight, objective.queue_size) == (None, 0.4, 0)
    assert (objective.tal_margin, objective.waf_gamma, objective.image_keep_ratio) == (0.1, 2.0, 1.0)
    assert objective.losses == {"itc": 1.0, "mlm": 1.0}


def test_defaults_of_the_bert_family_are_albefs():
    config = AgaConfig(family="bert")
    assert (config.text_config.num_hidden_layers, config.cross_modal_config.num_hidden_layers) == (6, 6)
    vision = config.vision_config
    assert (vision.layer_norm_eps, vision.hidden_act, vision.patch_bias, vision.pre_layernorm) == (
        1e-6, "gelu", True, False
    )  # fmt: skip
    assert vision.grid_size == (24, 24) and config.text_config.caption_length == 64
    text = config.text_config
    assert (text.bos_token_id, text.eos_token_id, text.mask_token_id, text.unk_token_id) == (101, 102, 103, 100)
    assert config.tie_word_embeddings and not AgaConfig().tie_word_embeddings


@pytest.mark.parametrize(
    ("objective", "named"),
    [
        ({"mask_ratio": 0.5, "mask_max_probability": 0.4}, "mask_ratio 0.5 exceeds mask_max_probability 0.4"),
        ({"attention_decay": 1.1}, "attention_decay must lie in"),
        ({"enrichment_probability": 20}, "enrichment_probability must lie in"),
        ({"enrichment_min_confidence": 1.5}, "enrichment_min_confidence must lie in"),
        ({"enrichment_start": -0.1}, "enrichment_start must lie in"),
        ({"momentum": 0.9, "distillation_weight": 1.4}, "distillation_weight must lie in"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\)"),
        ({"momentum": -0.1}, r"momentum must lie in \[0, 1\)"),
        ({"momentum": 0.9, "queue_size": -1}, "queue_size must be >= 0"),
        ({"momentum": 0.9, "queue_size": 9, "loss_weights": {"sdm": 1.0}}, "for the loss 'itc'"),
        ({"bsdm_kl_weights": [1.0]}, "two weights"),
        ({"bsdm_kl_weights": [1.0, -1.0]}, "two weights"),
        ({"tal_margin": -0.1}, "tal_margin must be >= 0"),
        ({"waf_gamma": float("nan")}, "waf_gamma must be >= 0"),
        ({"num_identities": -1}, "num_identities must be >= 0"),
        ({"image_score_resolution": 1.5}, "image_score_resolution must lie in"),
        ({"enrichment_sampling": "greedy"}, "choose one of sample, argmax"),
        ({"pair_weighting": "hard"}, "choose one of uniform, trusted"),
        ({"waf_target": "person"}, "choose one of match, identity"),
        ({"qqq": 1}, "AgaObjectiveConfig has no key 'qqq'; known keys: .*mask_ratio"),
    ],
)
def test_settings_outside_their_range_are_named(objective, named):
    with pytest.raises(ValueError, match=named):
        AgaConfig(objective_config=objective)


def test_what_the_momentum_model_is_asked_for():
    """Targets of `itc` and `mlm`, words of TEM or a queue; patch scores alone ask for none of these."""
    for settings, guides in (
        ({"momentum": None}, False),
        ({}, True),
        ({"distillation_weight": 0.0}, True),  # TEM's words
        ({"distillation_weight": 0.0, "enrichment": "none"}, False),
        ({"distillation_weight": 0.0, "enrichment": "none", "queue_size": 9}, True),
        ({"loss_weights": {"sdm": 1.0}}, False),
        ({"loss_weights": {"mlm": 1.0}, "enrichment": "none"}, True),
        ({"loss_weights": {"itc": 1.0}, "enrichment": "none"}, True),
    ):
        objective = AgaConfig(objective_config={"momentum": 0.9, **settings}).objective_config
        assert objective.uses_momentum_targets is guides, settings


def test_losses_that_compare_persons_or_classify_them():
    for names, ask, head in (
        (("itc", "itm", "mlm"), [], False),
        (("sdm", "bsdm", "cmpm", "tal", "waf"), ["sdm", "bsdm", "cmpm", "tal", "waf"], False),
        (("id",), ["id"], True),
    ):
        weights = dict.fromkeys(names, 0.5)
        objective = AgaConfig(objective_config={"loss_weights": weights, "num_identities": 3}).objective_config
        assert objective.needs_person_ids == ask and objective.needs_identity_head is head
    settings = {"loss_weights": {"waf": 1.0}, "waf_target": "identity", "num_identities": 3}
    assert AgaConfig(objective_config=settings).objective_config.needs_identity_head
