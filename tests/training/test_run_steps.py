"""The steps of a run one by one, without a training: splits, seeds, starts, what is measured, exit status."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from safetensors.torch import load_file, save_file

from aga_model import AgaConfig, AgaForPreTraining, AgaProcessor
from aga_model.data import train_tokenizer
from aga_model.data.benchmarks import FEATURES
from aga_model.evaluation import RetrievalEvaluator
from aga_model.training import ReleaseError
from aga_model.training import run as training_run
from aga_model.training.arguments import AgaTrainingArguments, DataArguments, ModelArguments
from aga_model.training.errors import TrainingStopped
from aga_model.training.noise import noise_settings, with_noise
from aga_model.training.run import PreparedRun
from aga_model.training.run_folder import LOCK_FILE

ENTRY = Path(__file__).parents[2] / "train_hf.py"
PERSONS = {"train": 6, "val": 4, "test": 2}
CAPTIONS = ["a man in a blue jacket", "a woman with a red handbag", "a girl in a yellow dress"]


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    """Splits of 6, 4 and 2 persons, two images each, three captions to an image."""
    folder, made = tmp_path_factory.mktemp("images"), {}
    for number, (split, persons) in enumerate(PERSONS.items()):
        rows = []
        for image in range(2 * persons):
            path = folder / f"{split}{image}.png"
            pixels = np.random.default_rng(100 * number + image).integers(0, 256, (16, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
            row = {"image": {"path": str(path)}, "image_id": image, "person_id": 50 * number + image // 2}
            rows += [{**row, "caption": caption} for caption in CAPTIONS]
        made[split] = datasets.Dataset.from_list(rows)
    return made


@pytest.fixture
def run(make_model, processor, splits, tmp_path):
    args = AgaTrainingArguments(str(tmp_path / "run"), use_cpu=True, report_to="none", disable_tqdm=True)
    model, data = make_model(loss_weights={"itc": 1.0}), DataArguments()
    return PreparedRun(model, processor, splits, data, args, {}, None, None, None, SimpleNamespace())


def test_checkpoints_are_chosen_on_validation_and_the_best_is_measured_on_test(run, monkeypatch):
    """The splits have another number of persons, images and captions each."""
    trainer = training_run._build_trainer(run)
    chosen, measured = trainer.evaluate(), training_run._measure(trainer, run)
    assert [chosen[f"eval_n_{name}"] for name in ("identities", "gallery", "queries")] == [4, 8, 24]
    assert [measured[f"n_{name}"] for name in ("identities", "gallery", "queries")] == [2, 4, 12]
    assert len(trainer.train_dataset) == 36 and len(trainer.eval_dataset) == 24
    by_hand = RetrievalEvaluator(run.splits["test"], run.processor).evaluate(run.model.aga)
    assert measured["mAP"] == pytest.approx(by_hand["mAP"])


def test_the_data_set_of_the_training_has_the_runs_augmentation_and_seed(run):
    run.args.seed, run.data_args = 11, DataArguments(flip=0.1, erasing=0.2)
    data = training_run._build_trainer(run).train_dataset
    assert data.seed == 11 and data.augmentation == run.data_args.augmentation() and not data.crops


def test_captions_share_rows_unless_a_batch_is_cut_into_chunks(run):
    run.model.aga.text_model.config._attn_implementation = training_run.POOLED_ROW_ATTENTION
    assert training_run.pair_collator(run).packed is True
    run.args.contrastive_chunk = 3
    assert training_run.pair_collator(run).packed is False


@pytest.mark.parametrize(("noise_seed", "seed"), [(None, 5), (0, 0), (9, 9)])
def test_the_seed_of_the_noise_is_the_given_one_zero_too(noise_seed, seed):
    data = DataArguments(noisy_correspondence=0.1, caption_errors=0.2, noise_seed=noise_seed)
    assert noise_settings(data, 5) == (0.1, 0.2, seed)


def test_permuted_captions_are_those_that_are_left_out(splits):
    rows = splits["train"].map(lambda row, index: {"caption": f"a man in coat {index}"}, with_indices=True)
    data = DataArguments(noisy_correspondence=0.25)
    noisy, record = with_noise(rows, data, 0)
    data.leave_out_permuted = True
    kept, _ = with_noise(rows, data, 0)
    unchanged = [before for before, after in zip(rows["caption"], noisy["caption"]) if before == after]
    assert kept["caption"][:] == unchanged and len(unchanged) == 36 - len(record.permuted) == 27


def test_wrong_pairs_are_those_that_are_left_out(splits, monkeypatch, tmp_path):
    """`prepare` up to the model, with a list that names two rows."""
    left_out = [{"row": 3}, {"row": 10}]
    monkeypatch.setattr(training_run, "_load_splits", lambda *args, **kwargs: (dict(splits), {}))
    monkeypatch.setattr(training_run, "_wrong_pairs", lambda *args: {"left_out": left_out, "rows": 36})
    seen = []

    def build(model_args, rows):
        seen.append((rows["image_id"][:], torch.initial_seed()))
        raise ValueError("far enough")

    monkeypatch.setattr(training_run, "_build_model", build)
    args = AgaTrainingArguments(str(tmp_path / "run"), use_cpu=True, report_to="none", seed=17)
    model_args = ModelArguments(model_config={"objective_config": {"loss_weights": {"itc": 1.0}}})
    with pytest.raises(ValueError, match="far enough"):
        training_run.prepare(model_args, DataArguments(leave_out_wrong_pairs=True), args)
    wanted = [image for row, image in enumerate(splits["train"]["image_id"]) if row not in (3, 10)]
    assert seen == [(wanted, 17)]  # and the weights are drawn by the run's seed


def test_the_identity_head_has_a_class_for_each_person(splits, make_sections):
    """Not for each image or caption: persons, images and captions are 6, 12 and 36."""
    sections = make_sections("clip", loss_weights={"id": 1.0})
    model, processor = training_run._build_model(
        ModelArguments(model_config=sections, vocab_size=600), splits["train"]
    )
    assert model.config.objective_config.num_identities == 6 and model.identity_head.weight.shape[0] == 6
    assert len(processor.tokenizer) == len(train_tokenizer(splits["train"]["caption"], 600))


@pytest.fixture
def start(make_sections, tokenizer, tmp_path):
    """A saved checkpoint with an identity head of five persons and large weights."""
    config = AgaConfig(**make_sections("clip", loss_weights={"itc": 1.0, "id": 1.0}, num_identities=5))
    torch.manual_seed(0)
    model = AgaForPreTraining(config)
    with torch.no_grad():
        model.identity_head.weight.fill_(7.0)
        model.identity_head.bias.fill_(7.0)
    model.save_pretrained(tmp_path / "start")
    AgaProcessor.for_config(config, tokenizer).save_pretrained(tmp_path / "start")
    return tmp_path / "start", model


@pytest.mark.parametrize("persons", [5, 8])
def test_a_start_brings_its_towers_and_neither_its_persons_nor_its_temperature(start, persons):
    folder, saved = start
    model, _ = training_run._load_start(str(folder), {"logit_scale_init_value": 1.5}, {"num_identities": persons})
    assert torch.equal(model.aga.text_projection.weight, saved.aga.text_projection.weight)
    assert model.identity_head.weight.shape[0] == persons
    assert float(model.identity_head.weight.detach().abs().max()) < 0.01
    assert not model.identity_head.bias.any()
    assert model.aga.logit_scale.item() == 1.5
    again, _ = training_run._load_start(str(folder), {}, {"num_identities": persons})
    assert again.aga.logit_scale.item() == pytest.approx(saved.aga.logit_scale.item())


def test_a_start_of_other_sizes_is_refused(start):
    folder, _ = start
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["intermediate_size"] = 48
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="are of another size by its config"):
        training_run._load_start(str(folder), {}, {"num_identities": 5})


def test_a_start_without_a_weight_of_its_towers_is_refused(start):
    folder, _ = start
    weights = load_file(folder / "model.safetensors")
    del weights["aga.text_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 weights are missing by its config.*aga\.text_projection\.weight"):
        training_run._load_start(str(folder), {}, {"num_identities": 5})


@pytest.mark.parametrize(("wanted", "held_out"), [(0, 4), (7, 7)])
def test_a_twentieth_of_the_persons_is_held_out_or_as_many_as_are_wanted(monkeypatch, wanted, held_out):
    given = {"image": {"path": "a.jpg"}, "caption": "a man", "camera_id": "", "split": "train"}
    rows = [{**given, "person_id": row // 2, "image_id": row} for row in range(160)]
    train = datasets.Dataset.from_list(rows, features=FEATURES)
    made = {"train": train, "test": train.select(range(4))}
    monkeypatch.setattr(training_run, "load_benchmark", lambda *args, **kwargs: dict(made))
    monkeypatch.setattr(training_run, "find_unreadable", lambda *args: [])
    splits, decisions = training_run._load_splits(DataArguments(dataset="own", validation_identities=wanted))
    persons = {split: set(splits[split]["person_id"]) for split in ("train", "val")}
    assert len(persons["val"]) == held_out and len(persons["train"]) == 80 - held_out
    assert not persons["val"] & persons["train"] and len(splits["test"]) == 4
    assert decisions["validation"]["identities"] == held_out


def test_a_batch_is_that_of_all_processes(monkeypatch, tmp_path):
    args = AgaTrainingArguments(str(tmp_path), use_cpu=True, per_device_train_batch_size=5)
    for processes, refused in ((1, False), (2, False), (3, True)):
        count = SimpleNamespace(num_processes=processes)
        monkeypatch.setattr("aga_model.training.checks.PartialState", lambda count=count: count)
        if refused:
            with pytest.raises(ValueError, match="fewer than one batch of 15"):
                training_run.check_batches({"train": range(10)}, args)
        else:
            training_run.check_batches({"train": range(10)}, args)


def test_a_finished_run_is_neither_trained_nor_measured_nor_written_again(run, tmp_path, monkeypatch):
    """Whether its checkpoints are still there or not."""
    monkeypatch.setattr(training_run, "fit", lambda run: pytest.fail("it goes on"))
    run.metrics = {"rank1": 5.0}
    for run.checkpoint in (None, tmp_path / "checkpoint-4"):
        assert training_run.train(run) == {"rank1": 5.0}
    assert not (Path(run.args.output_dir) / "model").exists()


def test_a_model_that_could_not_be_saved_leaves_no_metrics(run, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training_run, "write_model_card", full)
    trainer = training_run._build_trainer(run)
    with pytest.raises(TrainingStopped, match="could not be saved"):
        training_run._save_result(trainer, run, {"rank1": 1.0})
    folder = Path(run.args.output_dir)
    assert not (folder / "metrics.json").exists() and not (folder / "model").exists()


@pytest.mark.parametrize(("private", "revision"), [(True, None), (False, "v2")])
def test_the_command_that_pushes_again_is_as_private_as_the_run(private, revision):
    args = SimpleNamespace(output_dir="runs/a", hub_revision=revision, hub_private_repo=private)
    command = training_run._push_command(SimpleNamespace(args=args, repository="me/it"))
    assert command == "aga push runs/a/model --repo me/it" + ("" if private else " --revision v2 --public")


@pytest.mark.parametrize(
    ("error", "main_process", "told"),
    [
        (TrainingStopped("of this process"), False, True),
        (TrainingStopped("of all", everywhere=True), False, False),
        (TrainingStopped("of all", everywhere=True), True, True),
        (ReleaseError("no token"), True, True),
    ],
)
def test_what_ends_a_run_is_told_once_and_is_no_success(run, monkeypatch, capsys, error, main_process, told):
    def train(run):
        raise error

    monkeypatch.setattr(training_run, "train", train)
    monkeypatch.setattr(training_run, "PartialState", lambda: SimpleNamespace(is_main_process=main_process))
    assert training_run._train_and_tell(run) == 1
    assert (str(error) in capsys.readouterr().err) is told


@pytest.mark.parametrize("status", [0, 1, 2])
def test_the_entry_ends_with_the_status_of_the_run(status, monkeypatch):
    monkeypatch.setattr(training_run, "main", lambda: status)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ENTRY), run_name="__main__")
    assert (ended.value.code or 0) == status


@pytest.mark.parametrize(("card", "rendered"), [(None, False), ("tags: [rendered-data]", True), ("tags: [a]", False)])
def test_a_start_is_one_of_drawings_by_its_card(start, splits, monkeypatch, tmp_path, card, rendered):
    folder, _ = start
    if card:
        (folder / "README.md").write_text(f"---\n{card}\n---\n")
    monkeypatch.setattr(training_run, "_load_splits", lambda *args, **kwargs: (dict(splits), {}))
    described = {}

    def claim(folder, description, noise, lock, wrong_pairs):
        described.update(description)
        folder.mkdir()
        lock.acquire()
        raise ValueError("far enough")

    monkeypatch.setattr(training_run, "claim_run_folder", claim)
    args = AgaTrainingArguments(str(tmp_path / "run"), use_cpu=True, report_to="none")
    with pytest.raises(ValueError, match="far enough"):
        training_run.prepare(ModelArguments(str(folder)), DataArguments(data_root=str(tmp_path)), args)
    with FileLock(tmp_path / "run" / LOCK_FILE).acquire(timeout=0):  # a start that fails lets go of the folder
        pass
    assert described["start_rendered"] is rendered and described["start"] == str(folder)
    assert described["data_counts"]["val"] == {"identities": 4, "images": 8, "captions": 24}
