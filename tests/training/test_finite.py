"""A loss, a gradient or weights that are no numbers end a training, which names their batch and can be continued."""

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import distributed as dist

from aga_model.data import PairCollator
from aga_model.training import run as training_run
from aga_model.training.errors import another_try
from aga_model.training.finite import EMBEDDINGS, GRADIENT, LOSS, NONFINITE_FILE, WEIGHTS, Finding, FiniteGuard
from aga_model.training.momentum import MomentumModel
from aga_model.training.run import main
from aga_model.training.run_folder import last_complete_checkpoint

REPOSITORY = Path(__file__).parents[2]
NAN, INF = float("nan"), float("inf")


def _remember(guard, losses, norms=()):
    for step, loss in enumerate(losses, start=1):
        guard.remember_batch(step, 0, [10 * step], torch.tensor(loss), {"itc_loss": torch.tensor(loss)})
    for step, norm in enumerate(norms, start=1):
        guard.remember_gradient(step, torch.tensor(norm))


@pytest.mark.parametrize(
    ("losses", "norms", "found"),
    [
        ([1.0, 2.0, 3.0], [1.0, 1.0, 1.0], None),
        ([1.0, NAN, 3.0], [1.0, 1.0, NAN], (2, LOSS)),
        ([1.0, 2.0, -INF], [1.0, INF, INF], (2, GRADIENT)),
        ([1.0, 2.0, 3.0], [INF, 1.0, 1.0], (1, GRADIENT)),
        ([INF, 2.0, 3.0], [1.0, 1.0, 1.0], (1, LOSS)),
        ([1.0, INF, NAN], [1.0, NAN, NAN], (2, LOSS)),  # the gradient of a broken loss is no news
    ],
)
def test_the_first_broken_step_is_found(losses, norms, found):
    guard = FiniteGuard(torch.device("cpu"))
    _remember(guard, losses, norms)
    result = guard.check(None)
    assert (result and (result.step, result.what)) == found


def test_the_parts_of_a_batch_are_named():
    class Split:
        def describe(self, row):
            return {"row": row}

    guard = FiniteGuard(torch.device("cpu"))
    _remember(guard, [1.0, NAN])
    assert guard.check(None).step == 2
    assert guard.describe(2, Split()) == [
        {"step": 2, "epoch": 0, "losses": {"loss": "nan", "itc_loss": "nan"}, "pairs": [{"row": 20}]}
    ]


@pytest.mark.parametrize("value", [NAN, INF, 1e30])
def test_weights_that_cannot_be_computed_with(value):
    """A step that breaks the weights has a finite loss; the batch that it learnt from is still known."""
    guard, model = FiniteGuard(torch.device("cpu")), torch.nn.Linear(2, 2)
    _remember(guard, [1.0, 2.0])
    assert guard.check(model) is None
    with torch.no_grad():
        model.bias[1] = value
    found = guard.check(model)
    assert (found.what, found.step, found.weights) == (WEIGHTS, 2, ["bias"])
    assert guard.check(None) is None


def test_a_step_with_broken_weights_is_told_from_the_one_that_broke_them():
    """Where the weights were looked at after the step before, that one is not to blame."""
    guard, model = FiniteGuard(torch.device("cuda")), torch.nn.Linear(2, 2)
    _remember(guard, [1.0, 2.0, NAN])
    found = guard.check(None)
    assert (found.step, guard.suspects(found)) == (3, [2, 3])
    assert guard.suspects(Finding(WEIGHTS, 3)) == [3]  # its loss and gradient were numbers
    for looked_at, suspects in ((None, [2, 3]), (model, [3])):
        guard = FiniteGuard(torch.device("cuda"))
        _remember(guard, [1.0, 2.0])
        assert guard.check(looked_at) is None
        guard.remember_batch(3, 0, [30], torch.tensor(INF), {})
        assert guard.suspects(guard.check(None)) == suspects


def test_on_a_gpu_nothing_is_read_in_between():
    guard = FiniteGuard(torch.device("cuda"))
    _remember(guard, [1.0] * 99)
    assert not guard.is_due
    _remember(guard, [1.0])
    assert guard.is_due
    assert guard.check(None) is None and not guard.is_due
    assert FiniteGuard(torch.device("cpu")).is_due


def test_a_process_stops_for_what_another_one_has_found(monkeypatch):
    """The other process of two has NaN in its second loss; `all_reduce` is told what it says."""
    other = torch.tensor([0, 1, 0])

    def all_reduce(flags, op):
        flags.copy_({dist.ReduceOp.MAX: torch.maximum, dist.ReduceOp.MIN: torch.minimum}[op](flags, other))

    monkeypatch.setattr("aga_model.training.finite.world_size", lambda: 2)
    monkeypatch.setattr("aga_model.training.finite.dist.all_reduce", all_reduce)
    guard = FiniteGuard(torch.device("cpu"))
    _remember(guard, [1.0, 2.0, 3.0])
    assert guard.check(None).step == 2


@pytest.mark.parametrize(("bf16", "fp16", "wider"), [(1, 0, True), (0, 1, True), (0, 0, False)])
def test_float32_is_advised_in_half_precision_alone(bf16, fp16, wider):
    advice = another_try(SimpleNamespace(bf16=bool(bf16), fp16=bool(fp16)))
    assert ("or float32" in advice) is wider and "lower learning_rate" in advice


class Poisoned:
    """A collator whose n-th batch, from 1, has an image without numbers."""

    def __init__(self, collator, number):
        self.collator, self.number, self.made = collator, number, 0

    def __call__(self, samples):
        batch = self.collator(samples)
        self.made += 1
        if self.made == self.number:
            batch["pixel_values"][0] = NAN
        return batch


OBJECTIVES = [
    {"loss_weights": {"itc": 1.0, "itm": 1.0, "mlm": 1.0}, "mask_ratio": 0.3, "enrichment_probability": 1.0},
    {"loss_weights": {"itc": 1.0, "itm": 1.0, "mlm": 1.0}, "momentum": 0.9, "image_keep_ratio": 0.5, "queue_size": 4},
    {"loss_weights": {"sdm": 1.0, "bsdm": 1.0, "cmpm": 1.0, "tal": 1.0, "waf": 1.0, "id": 1.0, "mlm": 1.0},
     "num_identities": 3, "waf_target": "identity", "waf_weighting": "trusted", "pair_weighting": "trusted",
     "enrichment": "add", "mask_strategy": "random"},
]  # fmt: skip


@pytest.mark.parametrize("objective", OBJECTIVES, ids=["itm", "momentum", "persons"])
@pytest.mark.parametrize("broken", ["image", "text"])
def test_a_step_without_numbers_ends_in_a_loss_that_says_so(make_model, batch, objective, broken):
    """Masks, negatives and enriched words are drawn from NaN on the way, without an index that there is not."""
    model = make_model(**objective).train()
    teacher = MomentumModel(model) if "momentum" in objective else None
    if broken == "image":
        batch["pixel_values"][0] = NAN
    else:
        with torch.no_grad():
            model.aga.text_model.embeddings.token_embedding.weight.fill_(NAN)
    assert not model(**batch, **({"momentum_model": teacher} if teacher else {})).loss.isfinite()


@pytest.fixture(scope="module")
def unbroken(tiny_run_file):
    folder = tiny_run_file.parent / "unbroken"
    assert main([str(tiny_run_file), "--output_dir", str(folder), "--save_total_limit", "5"]) == 0
    return folder


def _weights(folder):
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("waits", [False, True])
def test_a_poisoned_batch_is_named_and_the_run_continues(
    unbroken, tiny_run_file, tmp_path, monkeypatch, capsys, waits, data
):
    """At once on the CPU, and as on a GPU at the next log, save or validation: at step 4, of step 3."""
    folder, collator = tmp_path / "run", training_run.pair_collator
    command = [str(tiny_run_file), "--output_dir", str(folder)]
    with monkeypatch.context() as patch:
        patch.setattr(training_run, "pair_collator", lambda run: Poisoned(collator(run), 3))
        if waits:
            patch.setattr(FiniteGuard, "is_due", False)
        assert main(command) == 1
    error = capsys.readouterr().err
    assert "step 3: NaN or infinity in the loss" in error and "goes on from checkpoint-2" in error
    assert str(folder / NONFINITE_FILE) in error and "learning_rate" in error
    report = json.loads((folder / NONFINITE_FILE).read_text())
    assert (report["what"], report["step"], report["seed"], report["gradient_norm"]) == ("loss", 3, 3, "nan")
    (batch,) = report["batches"]
    assert batch["process"] == 0 and batch["losses"]["loss"] == "nan" and len(batch["pairs"]) == 8
    records = json.loads((data / "reid_raw.json").read_text())
    for pair in batch["pairs"]:
        record = records[pair["image_id"]]
        assert pair["image"].endswith(record["file_path"]) and pair["caption"] in record["captions"]
        assert record["split"] == "train" and pair["person_id"] == record["id"]
    assert last_complete_checkpoint(folder).name == "checkpoint-2" and not (folder / "model").exists()
    assert _weights(folder / "checkpoint-2") == _weights(unbroken / "checkpoint-2")
    assert main(command) == 0
    assert _weights(folder / "model") == _weights(unbroken / "model")
    assert not (folder / NONFINITE_FILE).exists()


def test_a_learning_rate_that_breaks_the_weights_saves_nothing(tiny_run_file, tmp_path, capsys):
    command = [str(tiny_run_file), "--output_dir", str(tmp_path / "run"), "--learning_rate", "1e30"]
    assert main([*command, "--save_steps", "1", "--eval_steps", "1"]) == 1
    error = capsys.readouterr().err
    assert "step 1: NaN or infinity in the weights" in error and "begins again" in error
    report = json.loads((tmp_path / "run" / NONFINITE_FILE).read_text())
    assert report["what"] == WEIGHTS and report["weights"] and len(report["batches"][0]["pairs"]) == 8
    assert last_complete_checkpoint(tmp_path / "run") is None


@pytest.mark.parametrize("waits", [False, True])
def test_the_step_that_broke_the_weights_is_named_between_two_checkpoints(
    tiny_run_file, tmp_path, monkeypatch, capsys, waits
):
    """As it ends on the CPU. On a GPU the next step's loss tells, at the log of step 2; both batches are named."""
    if waits:
        monkeypatch.setattr("aga_model.training.trainer.FiniteGuard", lambda device: FiniteGuard(torch.device("cuda")))
    command = [str(tiny_run_file), "--output_dir", str(tmp_path / "run"), "--learning_rate", "1e30"]
    assert main([*command, "--save_steps", "10", "--eval_steps", "10"]) == 1
    error = capsys.readouterr().err
    report = json.loads((tmp_path / "run" / NONFINITE_FILE).read_text())
    steps = [batch["step"] for batch in report["batches"]]
    if waits:
        assert "step 2: NaN or infinity in the loss" in error and "of step 1, which may have broken" in error
        assert (report["what"], report["step"], steps) == (LOSS, 2, [1, 2])
        first, second = (batch["losses"]["loss"] for batch in report["batches"])
        assert isinstance(first, float) and second in ("nan", "inf")
    else:
        assert "step 1: NaN or infinity in the weights" in error and "may have broken" not in error
        assert (report["what"], report["step"], steps) == (WEIGHTS, 1, [1])


def test_embeddings_that_are_no_numbers_end_the_training(tiny_run_file, tmp_path, capsys, monkeypatch):
    def embed(self, model):
        split = original(self, model)
        split.image_embeds[0] = NAN
        return split

    original = training_run.RetrievalEvaluator.embed
    monkeypatch.setattr(training_run.RetrievalEvaluator, "embed", embed)
    assert main([str(tiny_run_file), "--output_dir", str(tmp_path / "run")]) == 1
    assert f"step 2: NaN or infinity in the {EMBEDDINGS}" in capsys.readouterr().err
    assert last_complete_checkpoint(tmp_path / "run") is None


def test_a_best_model_that_gives_no_numbers_for_the_test_split_is_one_line(
    tiny_run_file, tmp_path, capsys, monkeypatch
):
    """The second measurement of a run of two steps is that of the test split."""

    def embed(self, model):
        split = original(self, model)
        calls.append(self)
        if len(calls) == 2:
            split.text_embeds[3] = INF
        return split

    calls, original = [], training_run.RetrievalEvaluator.embed
    monkeypatch.setattr(training_run.RetrievalEvaluator, "embed", embed)
    folder = tmp_path / "run"
    assert main([str(tiny_run_file), "--output_dir", str(folder), "--max_steps", "2"]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train_hf.py: ")]
    assert "gives NaN or infinity for the test split (" in line and "1 rows" in line and "output_dir" in line
    assert last_complete_checkpoint(folder).name == "checkpoint-2"
    assert not (folder / "model").exists() and not (folder / "metrics.json").exists()


def test_the_collator_says_which_rows_a_batch_has(processor):
    samples = [
        {"crop": torch.zeros(32, 16, 3, dtype=torch.uint8).numpy(), "input_ids": [1, 2], "person_id": 0, "row": row}
        for row in (7, 3)
    ]
    assert PairCollator(processor)(samples)["rows"] == [7, 3]


def test_all_processes_stop_together(python, tiny_run_file, tmp_path):
    """One of two processes reads an image without numbers; the report has the batches of both."""
    folder = tmp_path / "two"
    launch = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no"
    options = ["--dynamo_backend", "no", "--main_process_port", "0"]
    worker = Path(__file__).with_name("poison_worker.py")
    arguments = [str(worker), str(tiny_run_file), "--output_dir", str(folder), "--use_cpu", "true"]
    command = [python, *launch.split(), *options, *arguments, "--per_device_train_batch_size", "4"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=550)
    assert run.returncode != 0 and "AssertionError" not in run.stderr
    assert run.stderr.count("step 3: NaN or infinity in the loss") == 1, run.stderr[-3000:]
    report = json.loads((folder / NONFINITE_FILE).read_text())
    assert [(batch["process"], len(batch["pairs"])) for batch in report["batches"]] == [(0, 4), (1, 4)]
    rows = [pair["row"] for batch in report["batches"] for pair in batch["pairs"]]
    assert len(set(rows)) == 8
    assert report["batches"][1]["losses"]["loss"] == "nan"
    assert last_complete_checkpoint(folder).name == "checkpoint-2"
