"""What the arguments of a run mean where they are not given, and which of two wins."""

import pytest

from aga_model.data import Augmentation
from aga_model.training.arguments import AgaTrainingArguments, DataArguments, parse_run_arguments


def test_without_a_word_the_best_model_by_rank_1_is_kept_and_stays_private(tmp_path):
    args = AgaTrainingArguments(str(tmp_path))
    assert args.metric_for_best_model == "rank1" and args.greater_is_better is True
    assert args.load_best_model_at_end is True and args.dataloader_drop_last is True
    assert args.hub_private_repo is True and args.push_to_hub is False
    assert args.restore_callback_states_from_checkpoint is True  # the seconds of training
    assert args.save_total_limit == 2 and args.remove_unused_columns is False


def test_the_settings_of_the_augmentation_are_in_their_places():
    data = DataArguments(flip=0.1, crop_padding=0.2, brightness=0.3, erasing=0.4)
    assert data.augmentation() == Augmentation(flip=0.1, crop_padding=0.2, brightness=0.3, erasing=0.4)
    assert DataArguments().augmentation() == Augmentation(flip=0.5, crop_padding=0.03, brightness=0.0, erasing=0.0)


def test_a_model_setting_of_the_command_line_wins_over_that_of_the_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("model_config: {projection_dim: 32, objective_config: {mask_ratio: 0.2, mask_strategy: random}}")
    options = ["--model_config.projection_dim", "16", "--model_config.objective_config.mask_ratio=0.5"]
    model, _, _ = parse_run_arguments([str(path), *options])
    assert model.model_config == {
        "projection_dim": 16,
        "objective_config": {"mask_ratio": 0.5, "mask_strategy": "random"},
    }


@pytest.mark.parametrize("key", ["zzz", "learning_rat"])
def test_a_key_that_is_no_argument_is_refused_near_to_one_or_not(tmp_path, key):
    path = tmp_path / "run.yaml"
    path.write_text(f"{key}: 1\n")
    with pytest.raises(ValueError, match=f"unknown key '{key}'"):
        parse_run_arguments([str(path)])


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint", "all_checkpoints"])
def test_no_checkpoint_is_pushed(tmp_path, strategy):
    with pytest.raises(ValueError, match="only end is possible"):
        AgaTrainingArguments(str(tmp_path), hub_strategy=strategy)


def test_the_repository_is_the_named_one_or_that_of_the_folder(tmp_path):
    assert AgaTrainingArguments(str(tmp_path / "run 1"), hub_model_id="me/model").hub_repository == "me/model"
    assert AgaTrainingArguments(str(tmp_path / "run1")).hub_repository == "run1"
