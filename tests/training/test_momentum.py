"""The momentum model: closed form of its weights, its targets, and runs that continue with it to the same end."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from aga_model import AgaConfig, AgaForImageTextRetrieval, AgaForPreTraining, AgaModel
from aga_model.losses import MomentumEmbeddings, distilled_mlm_loss, itc_loss, mlm_loss, momentum_itc_loss
from aga_model.training.arguments import AgaTrainingArguments
from aga_model.training.momentum import MOMENTUM_FILE, MomentumModel
from aga_model.training.run import main
from aga_model.training.trainer import AgaTrainer, TimingCallback

TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
RUN = {
    "model_config": {
        "family": "bert",
        "projection_dim": 24,
        "vision_config": {**TOWER, "image_size": [32, 16], "patch_size": 8},
        "text_config": TOWER,
        "cross_modal_config": {key: value for key, value in TOWER.items() if key != "hidden_size"},
        "objective_config": {
            "loss_weights": {"itc": 1.0, "itm": 1.0, "mlm": 1.0},
            "momentum": 0.9,
            "queue_size": 20,
        },
    },
    "vocab_size": 700,
    "max_steps": 9,
    "per_device_train_batch_size": 8,
    "learning_rate": "1e-3",
    "muon_learning_rate": 2.0e-3,
    "eval_strategy": "steps",
    "save_strategy": "steps",
    "eval_steps": 3,
    "save_steps": 3,
    "logging_steps": 3,
    "save_total_limit": 5,
    "seed": 3,
}


def test_weights_follow_the_closed_form(make_model):
    model = make_model(momentum=0.8)
    teacher = MomentumModel(model)
    name = "aga.text_projection.weight"
    start = teacher.model.state_dict()[name].clone()
    history = []
    for step in range(5):
        torch.manual_seed(step)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        history.append(model.state_dict()[name].clone())
        teacher.update(model)
    wanted = 0.8**5 * start + 0.2 * sum(0.8 ** (4 - index) * weight for index, weight in enumerate(history))
    torch.testing.assert_close(teacher.model.state_dict()[name], wanted, atol=1e-6, rtol=1e-6)
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())


def test_alpha_rises_over_the_first_epoch(make_model):
    teacher = MomentumModel(make_model(momentum=0.9, distillation_weight=0.4))
    weights = []
    for epochs in (0.0, 0.25, 1.0, 7.0):
        teacher.set_epochs_done(epochs)
        weights.append(teacher.weight)
    assert weights == pytest.approx([0.0, 0.1, 0.4, 0.4])


def test_weights_stay_float32_when_the_model_is_half(make_model):
    model = make_model(momentum=0.5).bfloat16()
    teacher = MomentumModel(model)
    before = teacher.model.aga.text_projection.weight.clone()
    with torch.no_grad():
        model.aga.text_projection.weight.add_(1.0)
    teacher.update(model)
    weight = teacher.model.aga.text_projection.weight
    assert weight.dtype == torch.float32
    wanted = (before + model.aga.text_projection.weight.float()) / 2
    torch.testing.assert_close(weight, wanted)


def test_targets_are_without_dropout(make_sections, batch):
    sections = make_sections("bert", momentum=0.9)
    sections["text_config"] |= {"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5}
    torch.manual_seed(0)
    model = AgaForPreTraining(AgaConfig(**sections)).train()
    teacher = MomentumModel(model)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        said = teacher.model.aga.get_text_features(**inputs).pooler_output
        wanted = model.eval().aga.get_text_features(**inputs).pooler_output
    torch.testing.assert_close(said, wanted)


def test_a_checkpoint_names_the_two_halves_of_the_queue(make_model, tmp_path):
    """Runs that another version has begun are continued by these names."""
    teacher = MomentumModel(make_model(momentum=0.9, queue_size=5))
    teacher.remember(torch.full((2, 32), 1.0), torch.full((2, 32), 2.0), torch.tensor([8, 9]))
    teacher.save(tmp_path)
    saved = load_file(tmp_path / MOMENTUM_FILE)
    assert (saved["queue_image_embeds"] == 1).all() and (saved["queue_text_embeds"] == 2).all()
    assert saved["queue_person_ids"].tolist() == [8, 9]


def test_queue_keeps_the_newest(make_model):
    teacher = MomentumModel(make_model(momentum=0.9, queue_size=5))
    assert teacher.past() is None
    for start in (0, 3, 6):
        ids = torch.arange(start, start + 3)
        teacher.remember(ids[:, None].float(), -ids[:, None].float(), ids)
    images, texts, persons = teacher.past()
    assert persons.tolist() == [6, 7, 8, 3, 4]
    assert images[:, 0].tolist() == persons.tolist() and texts[:, 0].tolist() == (-persons).tolist()
    teacher.remember(torch.ones(2, 1, requires_grad=True), torch.ones(2, 1, requires_grad=True), torch.tensor([1, 2]))
    assert not any(part.requires_grad for part in teacher.past())  # the steps of the past hold no memory


def test_itc_targets_by_hand():
    """Two pairs of two persons and a queue of one: the target distribution written out."""
    torch.manual_seed(0)
    image, text, teacher_image, teacher_text = (torch.randn(2, 4) for _ in range(4))
    queue_image, queue_text = torch.randn(1, 4), torch.randn(1, 4)
    ids, queue_ids, tau, alpha = torch.tensor([5, 6]), torch.tensor([6]), 0.5, 0.3
    embeddings = MomentumEmbeddings(teacher_image, teacher_text, queue_image, queue_text, queue_ids)
    got = momentum_itc_loss(image, text, ids, tau, embeddings, alpha)

    def unit(rows):
        return F.normalize(rows, dim=-1)

    wanted = 0.0
    for rows, others, t_rows, t_others, queue in (
        (text, image, teacher_text, teacher_image, queue_image),
        (image, text, teacher_image, teacher_text, queue_text),
    ):
        logits = unit(rows) @ unit(torch.cat([others, queue])).t() / tau
        soft = (unit(t_rows) @ unit(torch.cat([t_others, queue])).t() / tau).softmax(dim=1)
        hard = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]])
        target = (1 - alpha) * hard + alpha * soft
        wanted = wanted + F.cross_entropy(logits, target) / 2
    torch.testing.assert_close(got, wanted)


def test_weight_zero_is_the_loss_without_a_teacher():
    torch.manual_seed(0)
    image, text = torch.randn(6, 4), torch.randn(6, 4)
    teacher = MomentumEmbeddings(torch.randn(6, 4), torch.randn(6, 4))
    for ids in (torch.arange(6) // 2, None):
        got = momentum_itc_loss(image, text, ids, 0.1, teacher, 0.0)
        torch.testing.assert_close(got, itc_loss(image, text, ids, 0.1))
    logits, labels = torch.randn(5, 11), torch.randint(0, 11, (5,))
    torch.testing.assert_close(distilled_mlm_loss(logits, labels, torch.randn(5, 11), 0.0), mlm_loss(logits, labels))
    peaked = F.one_hot(labels, 11) * 1e4  # a teacher that is sure of the labels says what they say
    torch.testing.assert_close(distilled_mlm_loss(logits, labels, peaked, 0.7), mlm_loss(logits, labels))


def test_training_without_the_teacher_says_so(make_model, batch):
    model = make_model(momentum=0.9)
    with pytest.raises(ValueError, match=r"momentum_model=aga_model\.training\.momentum"):
        model.train()(**batch)
    model.eval()(**batch)
    with pytest.raises(ValueError, match="momentum is not set"):
        MomentumModel(make_model())


def test_the_queue_takes_up_each_training_batch(make_model, batch):
    model = make_model(momentum=0.9, queue_size=6).train()
    teacher = MomentumModel(model)
    for _ in range(2):
        model(**batch, momentum_model=teacher)
    assert teacher.past()[2].tolist() == [0, 1, 1, 2, 0, 1]
    model.eval()(**batch, momentum_model=teacher)
    assert len(teacher.past()[0]) == 6
    batch.pop("person_ids")
    with pytest.raises(ValueError, match="itc with a queue need person_ids"):
        model.train()(**batch, momentum_model=teacher)


def test_enrichment_takes_the_teachers_predictions(make_model, batch):
    """A teacher that is sure of one word: TEM writes that word."""
    model = make_model(momentum=0.9, enrichment_probability=1.0, enrichment_sampling="argmax").train()
    teacher = MomentumModel(model)
    with torch.no_grad():
        teacher.model.mlm_head.decoder.weight.zero_()
        teacher.model.mlm_head.decoder.bias.zero_()
        teacher.model.mlm_head.decoder.bias[300] = 50.0
    output = model(**batch, momentum_model=teacher)
    assert (output.enriched_input_ids[output.masked] == 300).all() and output.masked.any()


def test_the_update_counts_as_training_time(make_model, monkeypatch, tmp_path):
    """The trainer's clock stops after the momentum model has moved."""
    order = []
    monkeypatch.setattr(MomentumModel, "update", lambda self, model: order.append("update"))
    monkeypatch.setattr(TimingCallback, "on_step_end", lambda self, *args, **kwargs: order.append("clock"))
    data = SimpleNamespace(set_epoch=lambda epoch: None)
    args = AgaTrainingArguments(
        str(tmp_path), max_steps=1, use_cpu=True, report_to="none", eval_strategy="no", save_strategy="no",
        load_best_model_at_end=False, disable_tqdm=True,
    )  # fmt: skip
    trainer = AgaTrainer(make_model(momentum=0.9), args, train_dataset=data)
    trainer.callback_handler.on_step_end(trainer.args, trainer.state, trainer.control)
    assert order == ["update", "clock"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("momentum")
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({**RUN, "data_root": str(data)}))
    assert main([str(path), "--output_dir", str(folder / "run")]) == 0
    return folder


def test_a_continued_run_ends_the_same_with_its_teacher(unbroken):
    folder = unbroken / "continued"
    shutil.copytree(unbroken / "run", folder)
    (folder / "metrics.json").unlink()
    shutil.rmtree(folder / "model")
    for step in (6, 9):
        shutil.rmtree(folder / f"checkpoint-{step}")
    assert main([str(unbroken / "run.yaml"), "--output_dir", str(folder)]) == 0
    for name in ("model/model.safetensors", f"checkpoint-9/{MOMENTUM_FILE}"):
        assert (folder / name).read_bytes() == (unbroken / "run" / name).read_bytes(), name
    teacher = load_file(folder / "checkpoint-9" / MOMENTUM_FILE)
    assert len(teacher["queue_person_ids"]) == 20
    state = json.loads((folder / "checkpoint-9" / "trainer_state.json").read_text())
    assert state["log_history"][0]["itm_loss"] > 0


def test_a_checkpoint_without_its_teacher_is_refused(make_model, tmp_path):
    teacher = MomentumModel(make_model(momentum=0.9))
    with pytest.raises(FileNotFoundError, match="holds no momentum model"):
        teacher.load(tmp_path)
    teacher.save(tmp_path)
    teacher.load(tmp_path)
    with pytest.raises(ValueError, match="not the momentum model of this architecture"):
        MomentumModel(make_model(momentum=0.9, loss_weights={"itc": 1.0, "itm": 1.0})).load(tmp_path)
    weights = load_file(tmp_path / MOMENTUM_FILE)
    weights["model.aga.logit_scale"] = torch.zeros(1)  # of another shape, though it could be broadcast
    save_file(weights, tmp_path / MOMENTUM_FILE)
    with pytest.raises(ValueError, match="not the momentum model of this architecture"):
        teacher.load(tmp_path)


def test_a_run_of_the_version_before_goes_on(make_model, tmp_path):
    saved, other = (MomentumModel(make_model(seed=seed, momentum=0.9)) for seed in (1, 2))
    saved.save(tmp_path)
    (tmp_path / MOMENTUM_FILE).rename(tmp_path / "momentum_teacher.safetensors")
    other.load(tmp_path)
    for mine, theirs in zip(other.model.parameters(), saved.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_the_released_folder_holds_no_teacher(unbroken):
    folder = unbroken / "run" / "model"
    assert not list(folder.rglob(MOMENTUM_FILE)) and not list(folder.rglob("*.bin"))
    card = (folder / "README.md").read_text()
    assert "the BERT family" in card and "momentum 0.9, weight of its targets 0.4, queue of 20; not part" in card
    released = load_file(folder / "model.safetensors")
    assert all(name.split(".")[0] in ("aga", "fusion", "mlm_head", "itm_head") for name in released)
    model = AgaForPreTraining.from_pretrained(folder)
    assert released.keys() == model.state_dict().keys() - {"mlm_head.decoder.weight"}
    ranker = AgaForImageTextRetrieval.from_pretrained(folder)
    torch.testing.assert_close(ranker.itm_head.weight, model.itm_head.weight)
    AgaModel.from_pretrained(folder)


def _log_softmax(rows):
    return rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))


def _unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _itc_by_numpy(image, text, persons, teacher_image, teacher_text, temperature, alpha):
    """ITC of pairs with soft targets, without a queue."""
    image, text, teacher_image, teacher_text = (_unit(rows.detach().double().numpy()) for rows in (
        image, text, teacher_image, teacher_text
    ))  # fmt: skip
    same = (persons[:, None] == persons[None]).double().numpy()
    loss = 0.0
    for logits, soft in (
        (text @ image.T, teacher_text @ teacher_image.T),
        (image @ text.T, teacher_image @ teacher_text.T),
    ):
        target = (1 - alpha) * same / same.sum(axis=1, keepdims=True)
        target = target + alpha * np.exp(_log_softmax(soft / temperature))
        loss -= (target * _log_softmax(logits / temperature)).sum(axis=1).mean() / 2
    return loss


def _write_300(model):
    """TEM writes one known word at every masked position."""
    model.enrichment.enrich = lambda ids, masked, logits: torch.where(masked, 300, ids)


def test_the_models_losses_have_the_teachers_targets_by_alpha(make_model, batch, monkeypatch):
    """
    Another model teaches, with an alpha that is not the whole weight. It sees all patches and the masked caption, the
    model half of the patches. ITC and MLM from both models' embeddings and logits, in numpy.
    """
    monkeypatch.setattr(
        "aga_model.pair_model.corrupt_tokens",
        lambda ids, masked, config: torch.where(masked, config.mask_token_id, ids),
    )
    objective = {"momentum": 0.9, "distillation_weight": 0.8, "enrichment": "none", "mask_ratio": 0.3,
                 "image_keep_ratio": 0.5, "image_mask_strategy": "random"}  # fmt: skip
    model = make_model(**objective).train()
    teacher = MomentumModel(make_model(seed=1, **objective))
    with torch.no_grad():
        teacher.model.mlm_head.decoder.weight.mul_(20.0)  # of a mind of its own
    teacher.weight = 0.25
    output = model(**batch, momentum_model=teacher)
    ids, mask, pixels = batch["input_ids"], batch["attention_mask"], batch["pixel_values"]
    corrupted = torch.where(output.masked, model.config.text_config.mask_token_id, ids)
    embeds, words = [], []
    for each, kept in ((model, output.kept_patches), (teacher.model, None)):
        vision = each.aga.get_image_features(pixels, kept_patches=kept)
        fused = each.fuse(corrupted, each.aga.fusion_image_states(vision), mask)
        words.append(_log_softmax(each.mlm_head(fused[output.masked]).detach().double().numpy()))
        embeds += [vision.pooler_output, each.aga.get_text_features(ids, mask).pooler_output]
    right = words[0][np.arange(len(words[0])), ids[output.masked].numpy()]
    wanted = -(0.75 * right + 0.25 * (np.exp(words[1]) * words[0]).sum(axis=1)).mean()
    assert output.mlm_loss.item() == pytest.approx(wanted, rel=1e-5)
    wanted = _itc_by_numpy(*embeds[:2], batch["person_ids"], *embeds[2:], model.temperature.item(), 0.25)
    assert output.itc_loss.item() == pytest.approx(wanted, rel=1e-5)


def test_the_teacher_reads_the_enriched_captions(make_model, batch):
    model = make_model(momentum=0.9, queue_size=4, enrichment_probability=1.0).train()
    _write_300(model)
    teacher = MomentumModel(make_model(seed=1, momentum=0.9, queue_size=4))
    teacher.weight = 0.4
    output = model(**batch, momentum_model=teacher)
    assert (output.enriched_input_ids == 300).any()
    teacher_text = teacher.model.aga.get_text_features(output.enriched_input_ids).pooler_output
    teacher_image = teacher.model.aga.get_image_features(batch["pixel_values"]).pooler_output
    wanted = _itc_by_numpy(
        output.image_embeds, output.text_embeds, batch["person_ids"], teacher_image, teacher_text,
        model.temperature.item(), 0.4,
    )  # fmt: skip
    assert output.itc_loss.item() == pytest.approx(wanted, rel=1e-5)
    torch.testing.assert_close(teacher.past()[0], teacher_image, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(teacher.past()[1], teacher_text, atol=1e-5, rtol=1e-5)


def test_each_view_is_taught_by_the_teachers_reading_of_it(make_model, batch):
    """With enrichment "add": the mean of both views' losses, each with targets of its own words."""
    objective = {"momentum": 0.9, "enrichment": "add", "enrichment_probability": 1.0, "mask_ratio": 0.5}
    model = make_model(**objective).train()
    _write_300(model)
    teacher = MomentumModel(make_model(seed=1, **objective))
    teacher.weight = 1.0
    output = model(**batch, momentum_model=teacher)
    images = [each.aga.get_image_features(batch["pixel_values"]).pooler_output for each in (model, teacher.model)]
    views = []
    for ids in (batch["input_ids"], output.enriched_input_ids):
        texts = [each.aga.get_text_features(ids).pooler_output for each in (model, teacher.model)]
        views.append(
            _itc_by_numpy(
                images[0], texts[0], batch["person_ids"], images[1], texts[1], model.temperature.item(), 1.0
            )
        )  # fmt: skip
    assert abs(views[0] - views[1]) > 1e-3
    assert output.itc_loss.item() == pytest.approx(sum(views) / 2, rel=1e-5)


def test_the_momentum_model_drops_nothing_out(make_sections, batch):
    """Of the BERT family, whose layers drop out a tenth in training: it says what the model says in evaluation."""
    torch.manual_seed(0)
    model = AgaForPreTraining(AgaConfig(**make_sections("bert", momentum=0.9))).train()
    teacher = MomentumModel(model)
    inputs = batch["input_ids"], batch["attention_mask"]
    with torch.no_grad():
        said = teacher.model.aga.get_text_features(*inputs).pooler_output
        noisy = model.aga.get_text_features(*inputs).pooler_output
        wanted = model.eval().aga.get_text_features(*inputs).pooler_output
    torch.testing.assert_close(said, wanted)
    assert not torch.allclose(noisy, wanted, atol=1e-3)


def test_a_queue_fills_without_soft_targets(make_model, batch):
    objective = {"momentum": 0.9, "queue_size": 6, "distillation_weight": 0.0, "enrichment": "none"}
    model = make_model(**objective).train()
    teacher = MomentumModel(model)
    model(**batch, momentum_model=teacher)
    wanted = model.aga.get_image_features(batch["pixel_values"]).pooler_output
    torch.testing.assert_close(teacher.past()[0], wanted, atol=1e-5, rtol=1e-5)


def test_evaluation_leaves_the_queue_alone(make_model, batch):
    model = make_model(momentum=0.9, queue_size=9).train()
    teacher = MomentumModel(model)
    model(**batch, momentum_model=teacher)
    model.eval()(**batch | {"person_ids": torch.tensor([5, 6, 7, 8])}, momentum_model=teacher)
    assert teacher.past()[2].tolist() == [0, 1, 1, 2] and len(teacher.past()[0]) == 4


def test_past_batches_are_candidates_of_the_next(make_model, batch):
    """What the queue holds before the step, with persons of the batch among its own."""
    objective = {"momentum": 0.9, "queue_size": 9, "enrichment": "none"}
    model = make_model(**objective).train()
    teacher = MomentumModel(make_model(seed=1, **objective))
    teacher.weight = 0.3
    queue = torch.randn(5, 32), torch.randn(5, 32), torch.tensor([1, 7, 0, 1, 8])
    teacher.remember(*queue)
    output = model(**batch, momentum_model=teacher)
    embeds = [
        features.pooler_output
        for each in (model, teacher.model)
        for features in (
            each.aga.get_image_features(batch["pixel_values"]),
            each.aga.get_text_features(batch["input_ids"], batch["attention_mask"]),
        )
    ]
    wanted = momentum_itc_loss(
        *embeds[:2], batch["person_ids"], model.temperature, MomentumEmbeddings(*embeds[2:], *queue), 0.3
    )
    torch.testing.assert_close(output.itc_loss, wanted, atol=1e-5, rtol=1e-5)
    assert teacher.past()[2].tolist() == [0, 1, 1, 2, 1, 7, 0, 1, 8]
