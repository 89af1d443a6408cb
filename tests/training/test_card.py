"""What a card says of a run, against what the run was."""

import pytest
from huggingface_hub import ModelCard

from aga_model.training.release.card import label_noise, write_model_card

TOWER = {"hidden_size": 16, "num_hidden_layers": 3}
METRICS = {"rank1": 41.0, "rank5": 62.0, "rank10": 73.0, "mAP": 34.0, "mINP": 25.0, "chance_rank1": 2.0}
COUNTS = {"n_queries": 40, "n_gallery": 20, "n_identities": 10, "intervals": {"rank1": [36.5, 45.5]}}


@pytest.fixture
def described():
    """A run on a published set of photographs, in which no two numbers are the same."""
    objective = {"loss_weights": {"itc": 1.0}, "mask_strategy": "attention", "mask_ratio": 0.15, "enrichment": "none"}
    training = {
        "hub_model_id": "me/it", "muon_learning_rate": 0.0, "optim": "adamw_torch", "learning_rate": 1e-5,
        "weight_decay": 0.04, "lr_scheduler_type": "cosine", "bf16": False, "fp16": False, "seed": 7,
        "per_device_train_batch_size": 48, "metric_for_best_model": "mAP", "load_best_model_at_end": True,
    }  # fmt: skip
    return {
        "start": None, "rendered_data": False, "start_rendered": True, "processes": 2,
        "model": {
            "family": "clip", "projection_dim": 12, "objective_config": objective,
            "vision_config": {**TOWER, "image_size": [384, 128]}, "cross_modal_config": TOWER,
            "text_config": {**TOWER, "max_position_embeddings": 77},
        },
        "training": training,
        "data": {"dataset": "rstp-reid", "flip": 0.5, "crop_padding": 0.03, "brightness": 0.0, "erasing": 0.25},
        "data_counts": {split: {"identities": 1, "images": 2, "captions": 3} for split in ("train", "val", "test")},
        "validation": {"source": "the dataset's own split"},
        "versions": {"aga_model": "0.0"},
    }  # fmt: skip


def _card(run, folder):
    return ModelCard(write_model_card(folder, run, {**METRICS, **COUNTS}, 99).read_text())


def test_the_figures_are_those_of_the_test_split_each_under_its_name(described, tmp_path):
    card = _card(described, tmp_path)
    figures = {result.metric_type: result for result in card.data.eval_results}
    assert {key: result.metric_value for key, result in figures.items()} == {key: METRICS[key] for key in figures}
    assert {result.dataset_split for result in figures.values()} == {"test"} and len(figures) == 5
    assert figures["rank5"].metric_name == "Rank-5 (%)" and figures["rank10"].metric_name == "Rank-10 (%)"
    for row in ("| Rank-1 | 41.0 | 36.5 to 45.5 |", "| Rank-5 | 62.0 | - |", "| Rank-10 | 73.0 | - |"):
        assert row in card.content


def test_the_settings_are_those_of_the_run(described, tmp_path):
    text = _card(described, tmp_path).content
    assert "Input size: 384x128 pixels (height x width)" in text and "captions of up to 77 tokens" in text
    assert "flip 0.5, crop_padding 0.03, erasing 0.25" in text and "AdamW, learning rate 1e-05" in text
    assert "chosen by mAP on the validation split" in text


@pytest.mark.parametrize(("setting", "said"), [("bf16", "bf16"), ("fp16", "fp16"), (None, "float32")])
def test_the_precision_is_that_of_the_run(described, tmp_path, setting, said):
    if setting:
        described["training"][setting] = True
    text = _card(described, tmp_path).content
    assert [name for name in ("bf16", "fp16", "float32") if name in text] == [said]


@pytest.mark.parametrize(
    ("data", "start", "drawings_alone"),
    [(True, True, True), (True, False, False), (False, True, False), (False, False, False)],
)
def test_a_model_is_one_of_drawings_if_it_has_seen_nothing_else(described, tmp_path, data, start, drawings_alone):
    described |= {"rendered_data": data, "start_rendered": start}
    card = _card(described, tmp_path)
    assert ("rendered-data" in card.data.tags) is drawings_alone
    assert (card.data.license == "apache-2.0") is drawings_alone
    assert ("never a photograph" in card.content) is drawings_alone


def test_of_a_folder_on_this_machine_the_card_tells_the_end_alone(described, tmp_path):
    described["start"] = "/srv/jdoe/runs/first/model"
    text = _card(described, tmp_path).content
    assert "first/model" in text and "jdoe" not in text and "runs/" not in text


@pytest.mark.parametrize("left_out", [True, False])
def test_noise_is_told_with_whether_it_was_left_out(left_out):
    noise = {"permuted_rows": 3, "rows": 12, "errors": 4, "mentions": 20}
    run = {"noise": noise, "wrong_pairs": {"left_out": 2, "rows": 9}, "data": {"leave_out_permuted": left_out}}
    said = label_noise(run)
    assert said.startswith("3 of 12 training captions permuted") and "4 of 20 attribute phrases" in said
    assert ("which were then left out" in said) is left_out
    assert said.endswith("2 of 9 left out, which the model to start from found wrong")
    assert label_noise({"data": {}}) == "none added"


@pytest.mark.parametrize(("start", "base"), [("me/model", "me/model"), ("runs/first/model", None), ("model", None)])
def test_the_base_model_is_one_of_the_hub(described, tmp_path, start, base):
    described["start"] = start
    assert _card(described, tmp_path).data.base_model == base
