"""What AgaTrainer does in each step, written down as it happens and compared with what the formulas give."""

import functools
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerState

from aga_model import AgaConfig, AgaForPreTraining, AgaProcessor
from aga_model.training import ReleaseError
from aga_model.training import trainer as trainer_module
from aga_model.training.arguments import AgaTrainingArguments
from aga_model.training.errors import TrainingStopped
from aga_model.training.finite import FiniteGuard
from aga_model.training.momentum import MomentumModel
from aga_model.training.trainer import AgaTrainer, EpochCallback, TimingCallback, _load_weights

CAPTIONS = ["a man in a blue jacket", "a woman with a red handbag", "a girl in a yellow dress", "he wears a hoodie"]
STEPS, STEPS_PER_EPOCH, ALPHA, MOMENTUM = 6, 3, 0.4, 0.7
NAN, INF = float("nan"), float("inf")
CARD = "---\nlicense: apache-2.0\nlibrary_name: transformers\ntags:\n- person-search\n---\n# tiny\n"


class Pairs(torch.utils.data.Dataset):
    """Twelve pairs without files; three batches of four make an epoch."""

    def __init__(self):
        self.epochs = []

    def __len__(self):
        return 4 * STEPS_PER_EPOCH

    def __getitem__(self, index):
        return index

    def set_epoch(self, epoch):
        self.epochs.append(epoch)

    def describe(self, row):
        return {"row": row}


@pytest.fixture(scope="module")
def build(make_sections, tokenizer):
    """Builds a trainer of a tiny model on [`Pairs`]."""
    processor = AgaProcessor.for_config(AgaConfig(**make_sections("clip")), tokenizer)

    def collate(rows):
        inputs = processor(text=[CAPTIONS[row % 4] for row in rows], padding=True, return_tensors="pt")
        generator = torch.Generator().manual_seed(sum(rows))
        pixels = torch.randn(len(rows), 3, 32, 16, generator=generator)
        return {**inputs, "pixel_values": pixels, "person_ids": torch.tensor(rows) // 2, "rows": rows}

    def build(folder, objective=None, **arguments):
        defaults = {"use_cpu": True, "report_to": "none", "eval_strategy": "no", "save_strategy": "no",
                    "load_best_model_at_end": False, "disable_tqdm": True, "max_steps": STEPS, "logging_steps": 2,
                    "per_device_train_batch_size": 4, "learning_rate": 1e-2}  # fmt: skip
        args = AgaTrainingArguments(str(folder), **{**defaults, **arguments})
        torch.manual_seed(0)
        sections = make_sections("clip", **{"loss_weights": {"itc": 1.0, "mlm": 1.0}, **(objective or {})})
        return AgaTrainer(AgaForPreTraining(AgaConfig(**sections)), args, train_dataset=Pairs(), data_collator=collate)

    return build


@pytest.fixture
def make_trainer(build, tmp_path):
    return functools.partial(build, tmp_path / "run")


@pytest.fixture(scope="module")
def trained(build, tmp_path_factory):
    """A training with a momentum model, and what was seen on the way."""
    trainer = build(tmp_path_factory.mktemp("trained"), {"momentum": MOMENTUM, "distillation_weight": ALPHA})
    model, name = trainer.model, "aga.text_projection.weight"
    seen = SimpleNamespace(progress=[], alphas=[], losses=[], weights=[], teacher=[])

    def before(module, args, kwargs):
        seen.progress.append(module.training_progress)
        seen.alphas.append(trainer.momentum_model.weight)

    def after(module, args, outputs):
        seen.losses.append({"itc_loss": outputs.itc_loss.item(), "mlm_loss": outputs.mlm_loss.item()})

    seen.start = model.get_parameter(name).detach().clone()
    model.register_forward_pre_hook(before, with_kwargs=True)
    model.register_forward_hook(after)
    trainer.create_optimizer()
    trainer.optimizer.register_step_post_hook(
        lambda *args: seen.weights.append(model.get_parameter(name).detach().clone())
    )
    update = trainer.momentum_model.update

    def updating(model):
        update(model)
        seen.teacher.append(trainer.momentum_model.model.get_parameter(name).clone())

    trainer.momentum_model.update = updating
    trainer.train()
    return trainer, seen


def test_the_momentum_model_moves_behind_each_step(trained):
    """After n steps m^n w_0 + (1 - m) sum_i m^(n - i) w_i, with w_i the weights that step i has left."""
    _, seen = trained
    assert len(seen.weights) == len(seen.teacher) == STEPS
    for n in range(1, STEPS + 1):
        past = sum(MOMENTUM ** (n - i) * seen.weights[i - 1] for i in range(1, n + 1))
        torch.testing.assert_close(seen.teacher[n - 1], MOMENTUM**n * seen.start + (1 - MOMENTUM) * past)


def test_the_momentum_models_targets_count_more_over_the_first_epoch(trained):
    _, seen = trained
    assert seen.alphas == pytest.approx([0.0, ALPHA / 3, ALPHA * 2 / 3, ALPHA, ALPHA, ALPHA])


def test_the_model_and_the_data_know_how_far_the_training_is(trained):
    trainer, seen = trained
    assert seen.progress == pytest.approx([step / STEPS for step in range(STEPS)])
    assert trainer.train_dataset.epochs[-1] == 1 and set(trainer.train_dataset.epochs) == {0, 1}


def test_the_data_of_every_process_know_the_epoch():
    """Accelerate tells them in a single process only; in several, a resumed run's first epoch may be the third."""
    data = Pairs()
    callback = EpochCallback(data)
    for epoch in (None, 0.0, 1.0, 2.0):
        callback.on_epoch_begin(None, SimpleNamespace(epoch=epoch), None)
    assert data.epochs == [0, 0, 1, 2]


def test_a_logged_loss_is_the_mean_since_the_last_log(trained):
    trainer, seen = trained
    logged = [entry for entry in trainer.state.log_history if "itc_loss" in entry]
    assert [entry["step"] for entry in logged] == [2, 4, 6]
    for number, entry in enumerate(logged):
        for name in ("itc_loss", "mlm_loss"):
            first, second = (losses[name] for losses in seen.losses[2 * number : 2 * number + 2])
            assert entry[name] == pytest.approx((first + second) / 2, rel=1e-5)
    assert logged[-1]["temperature"] == pytest.approx(math.exp(-trainer.model.aga.logit_scale.item()))


def test_a_step_is_adamws_with_the_arguments_in_their_places(make_trainer):
    """The first step of AdamW, computed here, from rates that all differ."""
    arguments = {"learning_rate": 0.02, "weight_decay": 0.3, "adam_beta1": 0.6, "adam_beta2": 0.8, "adam_epsilon": 0.5}
    trainer = make_trainer(**arguments, muon_learning_rate=1e-3)
    parameter = trainer.model.get_parameter("aga.text_model.embeddings.token_embedding.weight")
    start = parameter.detach().clone()
    gradients = [torch.full_like(parameter, value) for value in (2.0, -1.0)]
    trainer.create_optimizer()
    for gradient in gradients:
        parameter.grad = gradient.clone()
        trainer.optimizer.step()
    first, second, wanted = 0.0, 0.0, start
    for n, gradient in enumerate(gradients, start=1):
        first, second = 0.6 * first + 0.4 * gradient, 0.8 * second + 0.2 * gradient**2
        step = (first / (1 - 0.6**n)) / ((second / (1 - 0.8**n)).sqrt() + 0.5)
        wanted = wanted * (1 - 0.02 * 0.3) - 0.02 * step
    torch.testing.assert_close(parameter.detach(), wanted, atol=1e-5, rtol=1e-4)


def test_seconds_add_up_over_steps_and_validation_is_left_out(monkeypatch):
    times = iter([10.0, 13.0, 100.0, 104.5])
    monkeypatch.setattr(trainer_module.time, "perf_counter", lambda: next(times))
    clock = TimingCallback(2.0)
    for _ in range(2):
        clock.on_step_begin(None, None, None)
        clock.on_step_end(None, None, None)
    assert clock.seconds == pytest.approx(2.0 + 3.0 + 4.5)


def test_a_poisoned_step_is_named_by_its_number_and_rows(make_trainer, monkeypatch):
    trainer = make_trainer()
    seen, collate = [], trainer.data_collator

    def poisoned(rows):
        batch = collate(rows)
        seen.append(list(rows))
        if len(seen) == 3:
            batch["pixel_values"][0] = NAN
        return batch

    trainer.data_collator = poisoned
    reported = {}
    monkeypatch.setattr(trainer_module, "write_json", lambda file, values: reported.update(values))
    with pytest.raises(TrainingStopped, match="step 3: NaN or infinity in the loss"):
        trainer.train()
    (batch,) = reported["batches"]
    assert (batch["step"], [pair["row"] for pair in batch["pairs"]]) == (3, seen[2])


def _after_a_step(trainer, grad_norm=None, **control):
    """What the trainer does behind a step, but for logging, saving and validation themselves."""
    for name, value in control.items():
        setattr(trainer.control, name, value)
    trainer._maybe_log_save_evaluate(torch.tensor(0.0), grad_norm, trainer.model, None, 0, None, 0.0)


@pytest.fixture
def nothing_kept(monkeypatch):
    monkeypatch.setattr("transformers.Trainer._maybe_log_save_evaluate", lambda *args, **kwargs: None)


@pytest.mark.parametrize("occasion", ["should_save", "should_evaluate", "should_training_stop"])
def test_weights_are_looked_at_before_they_are_kept_on_a_gpu(make_trainer, nothing_kept, occasion):
    trainer = make_trainer()
    trainer._guard = FiniteGuard(torch.device("cuda"))
    with torch.no_grad():
        trainer.model.aga.text_projection.weight[0, 0] = NAN
    _after_a_step(trainer)
    with pytest.raises(TrainingStopped, match="infinity in the weights"):
        _after_a_step(trainer, **{occasion: True})


def test_a_gradient_that_fp16_scales_down_ends_no_run(make_trainer, nothing_kept):
    trainer = make_trainer()
    trainer.accelerator.scaler = object()
    _after_a_step(trainer, INF)
    trainer.accelerator.scaler = None
    with pytest.raises(TrainingStopped, match="infinity in the gradient"):
        _after_a_step(trainer, INF)


def _checkpoint(trainer, step, temperature):
    """A checkpoint of a training whose best step was 4, and which counted 7.5 seconds."""
    folder = Path(trainer.args.output_dir) / f"checkpoint-{step}"
    with torch.no_grad():
        trainer.model.aga.logit_scale.fill_(temperature)
    trainer.model.save_pretrained(folder)
    state = TrainerState(global_step=step, max_steps=STEPS, best_global_step=4)
    state.stateful_callbacks = {"TimingCallback": {"args": {"seconds": 7.5}, "attributes": {}}}
    state.save_to_json(str(folder / "trainer_state.json"))
    return folder


@pytest.mark.parametrize(("keeps_best", "temperature"), [(True, 4.0), (False, 6.0)])
def test_the_end_of_a_run_has_the_best_weights_where_they_are_asked_for(make_trainer, keeps_best, temperature):
    trainer = make_trainer()
    trainer.args.load_best_model_at_end = keeps_best
    unfinished, last = _checkpoint(trainer, 4, 4.0), _checkpoint(trainer, STEPS, 6.0)
    assert not trainer.restore_finished(None) and not trainer.restore_finished(unfinished)
    assert trainer.restore_finished(last)
    assert float(trainer.model.aga.logit_scale) == temperature
    assert trainer.state.global_step == STEPS and trainer.seconds_training == 7.5


def test_weights_that_are_tied_stand_in_a_checkpoint_once(make_sections, tokenizer, tmp_path):
    config = AgaConfig(**make_sections("bert", loss_weights={"mlm": 1.0}))
    torch.manual_seed(0)
    saved, other = AgaForPreTraining(config), AgaForPreTraining(config)
    saved.save_pretrained(tmp_path)
    assert "mlm_head.decoder.weight" not in load_file(tmp_path / "model.safetensors")
    _load_weights(other, tmp_path)
    torch.testing.assert_close(other.mlm_head.decoder.weight, saved.mlm_head.decoder.weight)
    torch.testing.assert_close(other.mlm_head.decoder.weight, other.aga.text_model.embeddings.word_embeddings.weight)


def test_a_continued_training_takes_the_momentum_model_of_its_checkpoint(make_trainer, make_model, tmp_path):
    trainer = make_trainer({"momentum": MOMENTUM, "queue_size": 5})
    other = MomentumModel(make_model(seed=1, momentum=MOMENTUM, queue_size=5))
    other.remember(torch.full((3, 32), 2.0), torch.full((3, 32), 5.0), torch.tensor([1, 2, 3]))
    other.save(tmp_path)
    trainer._load_optimizer_and_scheduler(str(tmp_path))
    for mine, saved in zip(trainer.momentum_model.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(mine, saved)
    images, texts, persons = trainer.momentum_model.past()
    assert (images == 2).all() and (texts == 5).all() and persons.tolist() == [1, 2, 3]


@pytest.fixture
def finished(make_trainer, processor):
    """A trainer whose model lies in its run folder, as a training leaves it."""
    trainer = make_trainer(hub_token="a token of no known kind", hub_model_id="user/tiny")
    folder = Path(trainer.args.output_dir) / "model"
    trainer.model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    return trainer


@pytest.mark.parametrize("name", ["README.md", "modeling_aga.py", "tokenizer.json"])
def test_a_file_with_the_token_of_the_push_is_not_pushed(finished, name, monkeypatch):
    monkeypatch.setattr(trainer_module, "open_repository", lambda *args: pytest.fail("it asks the Hub"))
    path = Path(finished.args.output_dir) / "model" / name
    text = path.read_text()
    hidden = "# a token of no known kind\n" if name.endswith(".py") else "a token of no known kind"
    path.write_text(text.replace('"version": "1.0"', f'"version": "{hidden}"') if name[0] == "t" else text + hidden)
    with pytest.raises(ReleaseError, match=r"holds a Hugging Face token") as caught:
        finished.push_to_hub()
    assert "no known kind" not in str(caught.value)


@pytest.mark.parametrize(("of_the_run", "asked", "private"), [(False, True, True), (True, False, False),
                                                              (False, None, False), (True, None, True)])  # fmt: skip
def test_a_push_is_as_private_as_it_is_asked_to_be(finished, of_the_run, asked, private, monkeypatch):
    opened = []
    monkeypatch.setattr(
        trainer_module, "open_repository", lambda api, *rest: opened.append(rest) or SimpleNamespace(name="it")
    )
    monkeypatch.setattr(trainer_module, "read_release", lambda folder, secrets: None)
    monkeypatch.setattr(trainer_module, "push_release", lambda *args: SimpleNamespace(commit_url="there"))
    finished.args.hub_private_repo = of_the_run
    finished.push_to_hub(private=asked, revision="v2")
    assert opened == [("user/tiny", private, "v2")]
