"""Bad configurations are refused with the name of what is wrong; good ones survive a round trip."""

import json

import pytest

from aga_model import AgaConfig


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
        ({"vision_config": {"patch_size": 16, "stride": 17}}, "stride"),
        ({"vision_config": {"patch_size": 4, "image_size": [32, 16], "stem_channels": [8, 8, 8]}}, "stem_channels"),
        ({"text_config": {"vocab_size": 100, "eos_token_id": 100}}, "eos_token_id"),
        ({"text_config": {"vocab_size": 100, "mask_token_id": 99}}, "must differ"),
        ({"cross_modal_config": {"hidden_size": 64}}, "hidden_size"),
        ({"projection_dim": 100, "cross_modal_config": {"num_attention_heads": 3}}, "num_attention_heads"),
        ({"projection_dim": "big"}, "projection_dim"),
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
