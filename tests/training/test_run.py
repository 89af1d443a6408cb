"""Training runs end to end: what they write, resuming after a kill, several processes, and bad input."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from filelock import FileLock, Timeout
from safetensors.torch import load_file

from aga_model import AgaConfig, pair_model, pretraining_aga
from aga_model.data import FORMATS
from aga_model.serving import SERVING_FILES
from aga_model.training import run as training_run
from aga_model.training.arguments import parse_run_arguments
from aga_model.training.checks import check_chunks
from aga_model.training.optimizers import adamw_with_factors
from aga_model.training.run import main
from aga_model.training.run_folder import check_same_run, last_complete_checkpoint

REPOSITORY = Path(__file__).parents[2]
ENTRY = REPOSITORY / "train_hf.py"

RUN = {
    "model_config": {
        "projection_dim": 32,
        "vision_config": {"image_size": [32, 16], "patch_size": 8, "hidden_size": 32, "intermediate_size": 64,
                          "num_hidden_layers": 1, "num_attention_heads": 2},
        "text_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2},
        "cross_modal_config": {"num_hidden_layers": 1, "cross_attention_residual": True},
        "objective_config": {"loss_weights": {"itc": 1.0, "sdm": 0.1, "mlm": 1.0, "id": 0.1}},
    },
    "vocab_size": 700,
    "max_steps": 12,
    "per_device_train_batch_size": 8,
    "learning_rate": "1e-3",
    "muon_learning_rate": 2.0e-3,
    "eval_strategy": "steps",
    "save_strategy": "steps",
    "eval_steps": 4,
    "save_steps": 4,
    "logging_steps": 2,
    "save_total_limit": 5,
    "seed": 3,
}  # fmt: skip


@pytest.fixture
def run_file(tmp_path, data):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({**RUN, "data_root": str(data)}))
    return path


def _metrics(folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics.pop("seconds_training")
    return metrics


def _environment():
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, data):
    """A run that nothing interrupts, in this process."""
    folder = tmp_path_factory.mktemp("unbroken")
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({**RUN, "data_root": str(data)}))
    assert main([str(path), "--output_dir", str(folder / "run")]) == 0
    return folder / "run"


def test_a_run_leaves_everything_needed(unbroken):
    metrics = json.loads((unbroken / "metrics.json").read_text())
    assert {"rank1", "rank5", "rank10", "mAP", "mINP", "chance_rank1", "seconds_training"} <= metrics.keys()
    assert metrics["n_identities"] == 3 and metrics["n_queries"] == 2 * metrics["n_gallery"]
    assert metrics["best_step"] in (4, 8, 12)
    run = json.loads((unbroken / "run.json").read_text())
    assert run["model"]["objective_config"]["num_identities"] == 8
    assert run["training"]["seed"] == 3 and run["rendered_data"] is True
    card = (unbroken / "model" / "README.md").read_text()
    assert "rendered-data" in card and "Prohibited use" in card and f"{metrics['rank1']:.1f}" in card
    assert list((unbroken / "runs").rglob("events*")) or list(unbroken.rglob("events.out*"))
    assert not list((unbroken / "model").glob("*.bin"))
    assert {path.name for path in (unbroken / "model").iterdir()} >= set(SERVING_FILES)
    history = json.loads((unbroken / "trainer_state.json").read_text())["log_history"]
    losses = next(entry for entry in history if "loss" in entry)
    parts = 0.1 * losses["sdm_loss"] + losses["itc_loss"] + losses["mlm_loss"] + 0.1 * losses["id_loss"]
    assert losses["loss"] == pytest.approx(parts, rel=1e-4)


def test_test_split_is_not_touched_by_the_choice(unbroken):
    history = json.loads((unbroken / "trainer_state.json").read_text())["log_history"]
    validated = {entry["step"]: entry["eval_rank1"] for entry in history if "eval_rank1" in entry}
    assert {entry["eval_n_identities"] for entry in history if "eval_rank1" in entry} == {4}  # those of test are 3
    metrics = json.loads((unbroken / "metrics.json").read_text())
    assert validated[metrics["best_step"]] == max(validated.values()) == metrics["validation_rank1"]


def test_same_seed_same_result(unbroken, run_file, tmp_path):
    assert main([str(run_file), "--output_dir", str(tmp_path / "again")]) == 0
    assert _metrics(tmp_path / "again") == _metrics(unbroken)
    names = [folder / "model" / "model.safetensors" for folder in (tmp_path / "again", unbroken)]
    assert names[0].read_bytes() == names[1].read_bytes()


@pytest.mark.parametrize("step", [4, 8])
def test_every_checkpoint_continues_to_the_same_end(unbroken, run_file, tmp_path, step):
    """Step 8 lies in the second epoch, where order and augmentation differ from the first."""
    folder = tmp_path / "continued"
    shutil.copytree(unbroken, folder)
    (folder / "metrics.json").unlink()
    shutil.rmtree(folder / "model")
    for checkpoint in folder.glob("checkpoint-*"):
        if int(checkpoint.name.split("-")[1]) > step:
            shutil.rmtree(checkpoint)
    assert last_complete_checkpoint(folder).name == f"checkpoint-{step}"
    assert main([str(run_file), "--output_dir", str(folder)]) == 0
    names = [path / "model" / "model.safetensors" for path in (folder, unbroken)]
    assert names[0].read_bytes() == names[1].read_bytes()
    assert _metrics(folder) == _metrics(unbroken)


@pytest.mark.timeout(300)  # processes that may wait for each other
def test_a_killed_run_ends_at_the_same_metrics(python, unbroken, run_file, tmp_path):
    folder = tmp_path / "killed"
    command = [sys.executable, str(ENTRY), str(run_file), "--output_dir", str(folder)]
    process = subprocess.Popen(command, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while last_complete_checkpoint(folder) is None:
        assert process.poll() is None and time.monotonic() < deadline, "no checkpoint before the end"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "metrics.json").exists()
    cut_off = folder / "checkpoint-9"
    cut_off.mkdir()  # as left by a kill while saving
    (cut_off / "model.safetensors").write_bytes(b"half")
    again = subprocess.run([python, *command[1:]], env=_environment(), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-3000:]
    assert _metrics(folder) == _metrics(unbroken)
    assert (folder / "model" / "model.safetensors").read_bytes() == (
        unbroken / "model" / "model.safetensors"
    ).read_bytes()
    assert not cut_off.exists()


def test_the_same_command_after_the_end_changes_nothing(unbroken, run_file, tmp_path, monkeypatch, capsys):
    """Nor what was added since, in the model's folder and beside the checkpoints, which may be gone."""
    folder = tmp_path / "run"
    shutil.copytree(unbroken, folder)
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    with (folder / "model" / "README.md").open("a") as card:
        card.write("What I know.")
    (folder / "model" / "LICENSE").write_text("mine")
    (folder / "checkpoint-best").mkdir()
    for name in ("checkpoint-best/weights", "checkpoint-notes.txt", "checkpoint-99"):
        (folder / name).write_text("mine")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    monkeypatch.setattr(training_run.RetrievalEvaluator, "embed", None)
    assert main([str(run_file), "--output_dir", str(folder)]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((unbroken / "metrics.json").read_text())
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {path: content for path, content in after.items() if path != folder / ".lock"} == {
        path: content for path, content in before.items() if path != folder / ".lock"
    }


@pytest.mark.parametrize("saves", [False, True])
def test_a_second_start_leaves_a_run_alone(unbroken, run_file, tmp_path, capsys, monkeypatch, saves):
    """Before the first one has written anything, and while it saves."""
    fcntl = pytest.importorskip("fcntl", reason="locks a file as another process does")
    folder = tmp_path / "run"
    folder.mkdir()
    if saves:
        shutil.copy(unbroken / "run.json", folder)
        (folder / "_saving").mkdir()
    monkeypatch.setattr("aga_model.training.run_folder._LOCK_SECONDS", 0)
    command = [str(run_file), "--output_dir", str(folder)]
    before = sorted(folder.iterdir())
    with (folder / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert main(command) == 2
    error = capsys.readouterr().err
    assert f"{folder}: another process is at work there and holds {folder / '.lock'}" in error
    assert sorted(folder.iterdir()) == sorted([*before, folder / ".lock"])


def test_a_run_holds_its_folder_to_its_end(run_file, tmp_path, monkeypatch):
    lock, seen = tmp_path / "run" / ".lock", []

    def train(run):
        with pytest.raises(Timeout):
            FileLock(lock).acquire(timeout=0)
        seen.append(run)
        return {}

    monkeypatch.setattr(training_run, "train", train)
    command = [str(run_file), "--output_dir", str(tmp_path / "run")]
    assert main(command) == main(command) == 0 and len(seen) == 2
    with FileLock(lock).acquire(timeout=0):
        assert not any(run.lock.is_locked for run in seen)


def test_a_run_killed_in_its_last_evaluation_trains_no_step_more(run_file, tmp_path):
    """A constant rate and an end in the middle of an epoch: one step more would change the weights."""
    command = [str(run_file), "--output_dir", str(tmp_path / "run"), "--max_steps", "8"]
    command += ["--lr_scheduler_type", "constant", "--metric_for_best_model", "mAP"]
    assert main(command) == 0
    before, weights = _metrics(tmp_path / "run"), (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    (tmp_path / "run" / "metrics.json").unlink()
    shutil.rmtree(tmp_path / "run" / "model")
    assert main(command) == 0
    assert _metrics(tmp_path / "run") == before
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() == weights
    assert json.loads((tmp_path / "run" / "trainer_state.json").read_text())["global_step"] == 8


def test_a_broken_image_is_refused_before_any_training(run_file, data, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(data, broken)
    records = json.loads((data / "reid_raw.json").read_text())
    path = broken / "imgs" / next(r["file_path"] for r in records if r["split"] == "test")
    path.write_bytes(path.read_bytes()[:300])
    assert main([str(run_file), "--output_dir", str(tmp_path / "run"), "--data_root", str(broken)]) == 2
    error = capsys.readouterr().err
    assert path.name in error and "--skip_unreadable" in error
    assert not (tmp_path / "run").exists()


def test_a_square_image_size_is_fine_to_the_end(run_file, tmp_path):
    command = [str(run_file), "--output_dir", str(tmp_path / "run"), "--max_steps", "4"]
    assert main([*command, "--model_config.vision_config.image_size", "16"]) == 0
    assert "16x16 pixels" in (tmp_path / "run" / "model" / "README.md").read_text()


def test_a_set_smaller_than_a_batch_is_refused(run_file, tmp_path, capsys):
    command = [str(run_file), "--output_dir", str(tmp_path / "run"), "--per_device_train_batch_size", "512"]
    assert main(command) == 2
    assert "fewer than one batch of 512" in capsys.readouterr().err


def test_a_start_keeps_what_the_run_file_does_not_say(unbroken, run_file, tmp_path):
    settings = yaml.safe_load(run_file.read_text())
    settings |= {"model_name_or_path": str(unbroken / "model"), "max_steps": 1}
    settings["model_config"] = {"objective_config": {"mask_ratio": 0.3}}
    (tmp_path / "start.yaml").write_text(yaml.safe_dump(settings))
    assert main([str(tmp_path / "start.yaml"), "--output_dir", str(tmp_path / "run")]) == 0
    objective = json.loads((tmp_path / "run" / "run.json").read_text())["model"]["objective_config"]
    assert objective["mask_ratio"] == 0.3 and objective["num_identities"] == 8
    assert objective["loss_weights"] == RUN["model_config"]["objective_config"]["loss_weights"]


def test_other_settings_in_the_same_folder_are_refused(unbroken, run_file, capsys):
    assert main([str(run_file), "--output_dir", str(unbroken), "--learning_rate", "2e-3"]) == 2
    assert "learning_rate: 0.001 -> 0.002" in capsys.readouterr().err


def test_other_data_in_the_same_folder_are_refused():
    started = {"data_counts": {"train": {"images": 9, "captions": 18}}, "skipped_images": ["a.jpg", "b.jpg"]}
    check_same_run(started, started)
    now = {"data_counts": {"train": {"images": 8, "captions": 18}}, "skipped_images": ["b.jpg", "c.jpg"]}
    with pytest.raises(
        ValueError,
        match=r"settings or data.*Changed: a\.jpg: was left out and can be decoded now; c\.jpg: can no longer be "
        r"decoded; data_counts\.train\.images: 9 -> 8$",
    ):
        check_same_run(started, now)
    many = {"skipped_images": [f"{number}.jpg" for number in range(20)]}
    with pytest.raises(ValueError, match=r"decoded; and 12 more$"):
        check_same_run({"skipped_images": []}, many)


def test_a_foreign_folder_is_refused(run_file, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    assert main([str(run_file), "--output_dir", str(tmp_path / "mine")]) == 2
    assert "is not empty" in capsys.readouterr().err


def _losses(folder):
    """What the steps of a run lost, by name, in their order."""
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [
        {name: each for name, each in entry.items() if name.endswith("loss")} for entry in history if "loss" in entry
    ]


def _assert_same_training(folder, other):
    """Losses and weights agree but for the rounding of sums in another order."""
    losses, wanted = _losses(folder), _losses(other)
    assert len(losses) == len(wanted) > 1
    for found, expected in zip(losses, wanted):
        assert found == pytest.approx(expected, rel=1e-5)
    weights, expected = (load_file(each / "model" / "model.safetensors") for each in (folder, other))
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            weights[name], value, atol=2e-6, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


# AdamW divides by the size of a gradient, Muon by that of its parts: where that is rounding alone, the step is chance.
SMOOTH = ["--max_steps", "4", "--logging_steps", "1", "--adam_epsilon", "1e-3", "--muon_learning_rate", "0"]


@pytest.mark.timeout(300)  # processes that may wait for each other
def test_two_processes_under_accelerate(python, run_file, tmp_path):
    """They train as one process does with batches twice as large; no loss that draws, which each does for itself."""
    folder = tmp_path / "two"
    launch = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no"
    options = ["--dynamo_backend", "no", "--main_process_port", "0"]
    settings = [*SMOOTH, "--model_config.objective_config.loss_weights.mlm", "0"]
    arguments = [str(ENTRY), str(run_file), "--output_dir", str(folder), "--use_cpu", "true", *settings]
    command = [python, *launch.split(), *options, *arguments]
    run = subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr[-3000:]
    assert json.loads((folder / "run.json").read_text())["processes"] == 2
    settings += ["--per_device_train_batch_size", "16"]
    assert main([str(run_file), "--output_dir", str(tmp_path / "one"), *settings]) == 0
    _assert_same_training(folder, tmp_path / "one")
    assert _metrics(folder) == _metrics(tmp_path / "one")


def test_a_run_in_chunks(run_file, tmp_path, monkeypatch):
    """Its losses and weights are those of whole batches, where masks do not depend on how pairs are shared out."""
    monkeypatch.setattr(
        pair_model, "sample_tokens", lambda odds: (torch.arange(odds.shape[1]) % 4 == 2)[None] & (odds > 0)
    )
    monkeypatch.setattr(
        pair_model, "corrupt_tokens", lambda ids, masked, config: torch.where(masked, config.mask_token_id, ids)
    )
    sizes, checkpoint = [], pretraining_aga.checkpoint
    monkeypatch.setattr(
        pretraining_aga,
        "checkpoint",
        lambda *args, **kwargs: sizes.append(len(args[1])) or checkpoint(*args, **kwargs),
    )
    settings = ["--model_config.objective_config.enrichment_sampling", "argmax"]
    settings += ["--model_config.objective_config.enrichment_probability", "1"]
    for name, chunk in (("chunks", "3"), ("whole", "0")):
        command = [str(run_file), "--output_dir", str(tmp_path / name), *SMOOTH, *settings]
        assert main([*command, "--contrastive_chunk", chunk]) == 0
    assert sizes == [3, 3, 2] * 4
    _assert_same_training(tmp_path / "chunks", tmp_path / "whole")


COMPILED = """
import sys
from torch._dynamo.utils import counters
from aga_model.training.run import main
status = main(sys.argv[1:])
print("frames compiled:", counters["frames"]["ok"])
sys.exit(status)
"""


@pytest.mark.timeout(300)  # a process that may wait for ever
def test_a_compiled_run(python, run_file, tmp_path):
    """It trains as one that is not; in a process of its own: Accelerate takes the backend from the environment."""
    settings = [str(run_file), *SMOOTH, "--output_dir"]
    command = [python, "-c", COMPILED, *settings, str(tmp_path / "compiled"), "--torch_compile_backend", "eager"]
    run = subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr[-3000:]
    assert int(run.stdout.split("frames compiled: ")[1]) > 0
    assert main([*settings, str(tmp_path / "plain")]) == 0
    _assert_same_training(tmp_path / "compiled", tmp_path / "plain")
    assert _metrics(tmp_path / "compiled") == _metrics(tmp_path / "plain")


def test_chunks_are_not_compiled():
    with pytest.raises(ValueError, match="leave torch_compile off"):
        check_chunks(SimpleNamespace(contrastive_chunk=4, torch_compile=True))


def test_a_run_can_start_from_a_checkpoint(unbroken, data, tmp_path):
    """Weights come from it, the objective from the run file, the identity head anew for other persons."""
    start = unbroken / "model"
    settings = {
        "model_name_or_path": str(start),
        "model_config": {
            "logit_scale_init_value": 3.0,
            "objective_config": {"loss_weights": {"sdm": 1.0, "id": 1.0, "mlm": 1.0}, "mask_strategy": "random"},
        },
        "data_root": str(data),
        "max_steps": 1,
        "learning_rate": 0.0,
        "new_module_lr_factor": 5.0,
        "per_device_train_batch_size": 4,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    assert main([str(tmp_path / "run.yaml"), "--output_dir", str(tmp_path / "run")]) == 0
    first, second = (load_file(folder / "model.safetensors") for folder in (start, tmp_path / "run" / "model"))
    assert first.keys() == second.keys()
    assert {key for key in first if not torch.equal(first[key], second[key])} == {
        "aga.logit_scale",
        "identity_head.bias",
        "identity_head.weight",
    }
    assert second["aga.logit_scale"].item() == 3.0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["rank1"] == json.loads((unbroken / "metrics.json").read_text())["rank1"]


def test_a_start_without_a_loss_is_refused(unbroken, data, tmp_path, capsys):
    settings = {"model_name_or_path": str(unbroken / "model"), "data_root": str(data), "max_steps": 1}
    settings["model_config"] = {"objective_config": {"loss_weights": {"mlm": 0.0}}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    assert main([str(tmp_path / "run.yaml"), "--output_dir", str(tmp_path / "run")]) == 2
    assert "objective_config.loss_weights is {'mlm': 0.0}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_towers_of_a_checkpoint_are_not_for_the_run_file(unbroken, run_file, tmp_path, capsys):
    command = [str(run_file), "--output_dir", str(tmp_path / "run"), "--model_name_or_path", str(unbroken / "model")]
    assert main(command) == 2
    assert "remove cross_modal_config, projection_dim, text_config, vision_config" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_valid(path, monkeypatch):
    monkeypatch.setattr("transformers.TrainingArguments.__post_init__", lambda self: None)  # no GPU for bf16 here
    model, data, training = parse_run_arguments([str(path)])
    objective = {"num_identities": 1, **model.model_config["objective_config"]}
    AgaConfig(**{**model.model_config, "objective_config": objective})
    assert data.dataset in FORMATS
    assert training.output_dir == f"runs/{path.stem}"


def test_learning_rates_follow_irras_factors(make_model):
    model = make_model(loss_weights={"id": 1.0, "mlm": 1.0}, num_identities=3)
    optimizer = adamw_with_factors(model, 1e-5, 4e-5, (0.9, 0.999), 1e-8, 5.0, 2.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {names[id(p)]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert rates.keys() == set(names.values())
    assert rates["identity_head.bias"] == rates["fusion.final_layer_norm.bias"] == (5e-5, 0.0)
    assert rates["mlm_head.decoder.weight"] == (5e-5, 4e-5)
    assert rates["aga.text_model.final_layer_norm.bias"] == (2e-5, 0.0)
    assert rates["aga.visual_projection.weight"] == (1e-5, 4e-5)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--data_root", "/no/such/folder"], "no annotation file"),
        (["--new_module_lr_factor", "5"], "are for AdamW alone: leave them at 1"),
        (["--contrastive_chunk", "-1"], "give a number of pairs, or 0"),
        (["--dataset", "cuhk"], "unknown dataset 'cuhk'; known: cuhk-pedes"),
        (["--model_config.objective_config.mask_ratio", "1.5"], "mask_ratio"),
        (["--model_config.objective_config.maskratio", "0.2"], "mask_ratio"),
        (["--model_config.vision_config.image_size", "[33, 16]"], "height 33"),
        (["--model_config.objective_config.loss_weights", "[itc]"], "loss_weights must give a number"),
        (["--model_config.objective_config.loss_weights", "{}"], "objective_config.loss_weights is {}: no loss has"),
        (
            [f"--model_config.objective_config.loss_weights.{name}=0" for name in ("itc", "sdm", "mlm", "id")],
            "no loss has a weight above 0, so there is nothing to train on",
        ),
        (["--model_config.objective_config.loss_weights.mlm", ".nan"], "loss_weights must give a number"),
        (["--model_config.objective_config.loss_weights.mlm", "-1"], "must not be negative"),
        (["--model_config.vision_config", "5"], "vision_config must be a section"),
        (["--model_config.projection_dim", "0"], "projection_dim must be positive"),
        (["--model_config.vision_config.image_size.x", "3"], "is a value, not a section"),
    ],
)
def test_bad_input_is_named_before_any_work(run_file, tmp_path, capsys, change, named):
    assert main([str(run_file), "--output_dir", str(tmp_path / "run"), *change]) == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_several_gpus_want_several_processes(run_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("transformers.TrainingArguments.n_gpu", 4)
    assert main([str(run_file), "--output_dir", str(tmp_path / "run")]) == 2
    assert "accelerate launch --num_processes 4 train_hf.py" in capsys.readouterr().err


def test_a_record_without_a_caption_is_named(run_file, data, tmp_path, capsys):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "imgs").symlink_to(data / "imgs")
    records = json.loads((data / "reid_raw.json").read_text())
    records[5]["captions"] = []
    (broken / "reid_raw.json").write_text(json.dumps(records))
    assert main([str(run_file), "--output_dir", str(tmp_path / "run"), "--data_root", str(broken)]) == 2
    error = capsys.readouterr().err
    assert "record 5" in error and records[5]["file_path"] in error and "no caption" in error


def test_a_run_file_that_is_no_yaml(tmp_path, capsys):
    (tmp_path / "run.yaml").write_text("a: [1")
    assert main([str(tmp_path / "run.yaml")]) == 2
    assert "not valid YAML" in capsys.readouterr().err


def test_unknown_key_in_a_run_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("learning_rat: 0.1\n")
    with pytest.raises(ValueError, match="did you mean 'learning_rate'"):
        parse_run_arguments([str(path)])


def test_the_command_line_wins_over_the_file(run_file):
    model, data, training = parse_run_arguments(
        [str(run_file), "--max_steps", "7", "--flip=0.1", "--model_config.objective_config.mask_strategy=random"]
    )
    assert (training.max_steps, data.flip, training.learning_rate) == (7, 0.1, 1e-3)
    assert model.model_config["objective_config"]["mask_strategy"] == "random"
    assert model.model_config["projection_dim"] == 32
