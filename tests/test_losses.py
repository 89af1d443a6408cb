"""Losses against IRRA's golden values and independent numpy versions."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from aga_model.losses import (
    IGNORED,
    MomentumEmbeddings,
    bsdm_loss,
    cmpm_loss,
    distilled_mlm_loss,
    id_loss,
    identity_log_probability,
    itc_loss,
    itm_loss,
    match_log_probability,
    mlm_loss,
    mlm_token_losses,
    momentum_itc_loss,
    pair_trust,
    sdm_loss,
    tal_loss,
    waf_loss,
)

FIXTURES = Path(__file__).parent / "fixtures"


def _log_softmax(rows):
    return rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))


@pytest.fixture(scope="module")
def golden():
    folder = FIXTURES / "irra_tiny"
    values = load_file(folder / "inputs.safetensors") | load_file(folder / "outputs.safetensors")
    values["state"] = torch.load(folder / "best.pth", weights_only=True)["model"]
    return values


def test_sdm_equals_irra(golden):
    loss = sdm_loss(golden["image_embeds"], golden["text_embeds"], golden["person_ids"], 0.02)
    torch.testing.assert_close(loss, golden["sdm_loss"], atol=1e-5, rtol=0)


def test_itc_equals_irra(golden):
    loss = itc_loss(golden["image_embeds"], golden["text_embeds"], None, 0.02)
    torch.testing.assert_close(loss, golden["itc_loss"], atol=1e-5, rtol=0)


def test_cmpm_equals_irra(golden):
    loss = cmpm_loss(golden["image_embeds"], golden["text_embeds"], golden["person_ids"])
    torch.testing.assert_close(loss, golden["cmpm_loss"], atol=1e-5, rtol=0)


def test_id_equals_irra(golden):
    weight, bias = golden["state"]["classifier.weight"], golden["state"]["classifier.bias"]
    image, text = (golden[name] @ weight.T + bias for name in ("image_embeds", "text_embeds"))
    torch.testing.assert_close(id_loss(image, text, golden["person_ids"]), golden["id_loss"], atol=1e-5, rtol=0)


def test_mlm_equals_irra(golden):
    masked = golden["mlm_labels"] != 0
    loss = mlm_loss(golden["mlm_logits"][masked], golden["mlm_labels"][masked])
    torch.testing.assert_close(loss, golden["mlm_loss"], atol=1e-5, rtol=0)


def _pairs(seed=0, batch=7, dim=5):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(batch, dim)), rng.normal(size=(batch, dim)), rng.integers(0, 4, size=batch)


def _numpy_logits(image, text, temperature):
    image = image / np.linalg.norm(image, axis=1, keepdims=True)
    text = text / np.linalg.norm(text, axis=1, keepdims=True)
    return text @ image.T / temperature


@pytest.mark.parametrize("seed", range(3))
def test_itc_with_person_ids_equals_numpy(seed):
    image, text, ids = _pairs(seed)
    logits = _numpy_logits(image, text, 0.1)
    target = (ids[:, None] == ids[None]) / (ids[:, None] == ids[None]).sum(axis=1, keepdims=True)
    wanted = sum(-(target * _log_softmax(rows)).sum(axis=1).mean() for rows in (logits, logits.T)) / 2
    loss = itc_loss(torch.tensor(image), torch.tensor(text), torch.tensor(ids), 0.1)
    assert loss.item() == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_sdm_equals_numpy(seed):
    image, text, ids = _pairs(seed)
    logits = _numpy_logits(image, text, 0.1)
    target = (ids[:, None] == ids[None]) / (ids[:, None] == ids[None]).sum(axis=1, keepdims=True)
    wanted = sum(
        (np.exp(_log_softmax(rows)) * (_log_softmax(rows) - np.log(target + 1e-8))).sum(axis=1).mean()
        for rows in (logits, logits.T)
    )
    loss = sdm_loss(torch.tensor(image), torch.tensor(text), torch.tensor(ids), 0.1)
    assert loss.item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kl_weights", [(1.0, 1.0), (0.0, 1.0), (0.5, 2.0)])
def test_bsdm_equals_numpy(seed, kl_weights):
    image, text, ids = _pairs(seed)
    logits = _numpy_logits(image, text, 0.1)
    target = (ids[:, None] == ids[None]) / (ids[:, None] == ids[None]).sum(axis=1, keepdims=True)
    wanted = 0.0
    for rows in (logits, logits.T):
        predicted = np.exp(_log_softmax(rows))
        forward = (predicted * np.log(predicted / (target + 1e-8))).sum(axis=1)
        inverse = (target * np.log((target + 1e-8) / predicted)).sum(axis=1)
        wanted += (kl_weights[0] * forward + kl_weights[1] * inverse).mean()
    loss = bsdm_loss(torch.tensor(image), torch.tensor(text), torch.tensor(ids), 0.1, kl_weights)
    assert loss.item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_bsdm_without_the_inverse_term_is_sdm(seed):
    image, text, ids = (torch.tensor(values) for values in _pairs(seed))
    torch.testing.assert_close(bsdm_loss(image, text, ids, 0.05, (1.0, 0.0)), sdm_loss(image, text, ids, 0.05))


@pytest.mark.parametrize("seed", range(3))
def test_cmpm_equals_numpy(seed):
    image, text, ids = _pairs(seed)
    same = (ids[:, None] == ids[None]).astype(float)
    target = same / np.sqrt(same.sum(axis=1, keepdims=True))
    wanted = 0.0
    for rows, others in ((image, text), (text, image)):
        predicted = np.exp(_log_softmax(rows @ (others / np.linalg.norm(others, axis=1, keepdims=True)).T))
        wanted += (predicted * np.log(predicted / (target + 1e-8))).sum(axis=1).mean()
    loss = cmpm_loss(torch.tensor(image), torch.tensor(text), torch.tensor(ids))
    assert loss.item() == pytest.approx(wanted, rel=1e-5)


def _numpy_tal(rows, ids, temperature, margin):
    """Per row of similarities (not divided by the temperature), in loops."""
    losses = []
    for i, row in enumerate(rows):
        positives = [j for j in range(len(row)) if ids[j] == ids[i]]
        negatives = [j for j in range(len(row)) if ids[j] != ids[i]]
        shares = np.exp([row[j] / temperature for j in positives])
        positive = sum(share * row[j] for share, j in zip(shares / shares.sum(), positives))
        upper = temperature * np.log(sum(np.exp(row[j] / temperature) for j in negatives))
        losses.append(max(0.0, margin - positive + upper))
    return np.array(losses)


@pytest.mark.parametrize("seed", range(3))
def test_tal_equals_numpy(seed):
    image, text, ids = _pairs(seed)
    cosine = _numpy_logits(image, text, 1.0)
    each = _numpy_tal(cosine, ids, 0.1, 0.1) + _numpy_tal(cosine.T, ids, 0.1, 0.1)
    loss = tal_loss(torch.tensor(image), torch.tensor(text), torch.tensor(ids), 0.1)
    assert loss.item() == pytest.approx(each.mean(), rel=1e-5)


def _numpy_trust(image, text, ids, temperature):
    """Pair by pair: its share among itself and the pairs of others, in loops."""
    logits, shares = _numpy_logits(image, text, temperature), []
    for i in range(len(ids)):
        others = [j for j in range(len(ids)) if ids[j] != ids[i]]
        own = np.exp(logits[i, i])
        shares.append(min(own / (own + np.exp(line[others]).sum()) for line in (logits[i], logits[:, i])))
    trust = np.array(shares) / (np.array(shares) + 1 / len(ids))
    return trust / trust.mean()


@pytest.mark.parametrize("seed", range(3))
def test_trust_equals_numpy(seed):
    image, text, ids = _pairs(seed)
    trust = pair_trust(torch.tensor(image), torch.tensor(text), torch.tensor(ids), 0.1)
    np.testing.assert_allclose(trust, _numpy_trust(image, text, ids, 0.1), rtol=1e-5)


def test_a_wrong_pair_is_trusted_least():
    image = torch.eye(8)
    text = image + 0.1
    text[[2, 5]] = text[[5, 2]]
    trust = pair_trust(image, text, torch.arange(8), 0.1)
    assert trust.mean() == pytest.approx(1.0) and set(trust.argsort()[:2].tolist()) == {2, 5}
    assert trust[[2, 5]].max() < 0.1 * trust[[0, 1, 3, 4, 6, 7]].min()


WEIGHTED = {
    "itc": lambda *inputs, weights: itc_loss(*inputs, 0.1, weights),
    "sdm": lambda *inputs, weights: sdm_loss(*inputs, 0.1, weights),
    "bsdm": lambda *inputs, weights: bsdm_loss(*inputs, 0.1, weights=weights),
    "tal": lambda *inputs, weights: tal_loss(*inputs, 0.1, weights=weights),
    "cmpm": lambda *inputs, weights: cmpm_loss(*inputs, weights),
    "id": lambda *inputs, weights: id_loss(*inputs, weights),
}


@pytest.mark.parametrize("loss", WEIGHTED.values(), ids=WEIGHTED.keys())
def test_weights_count_the_rows_of_pairs(loss):
    """The sum over pairs of the loss with all weight on one of them is the plain loss."""
    image, text, ids = (torch.tensor(values) for values in _pairs())
    single = [loss(image, text, ids, weights=7.0 * torch.eye(7)[pair]) for pair in range(7)]
    torch.testing.assert_close(torch.stack(single).mean(), loss(image, text, ids, weights=None))
    assert torch.stack(single).std() > 1e-3


@pytest.mark.parametrize("weighting", ["uniform", "hard", "trusted"])
@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 0.5])
def test_waf_equals_numpy(weighting, gamma):
    image, text, ids = _pairs()
    logits, same = _numpy_logits(image, text, 0.1), ids[:, None] == ids[None]
    probability = np.concatenate([(np.exp(_log_softmax(rows)) * same).sum(axis=1) for rows in (logits, logits.T)])
    weights = {"uniform": np.ones_like(probability), "hard": 1 - probability, "trusted": probability}[weighting]
    wanted = (weights / weights.mean() * -((1 - probability) ** gamma) * np.log(probability)).mean()
    logs = match_log_probability(torch.tensor(image), torch.tensor(text), torch.tensor(ids), 0.1)
    np.testing.assert_allclose(logs.exp(), probability, rtol=1e-6)
    assert waf_loss(logs, gamma, weighting).item() == pytest.approx(wanted, rel=1e-5)


def test_waf_of_the_identity_classifier_is_cross_entropy_without_focus():
    image, text = torch.randn(2, 6, 9, dtype=torch.float64)
    ids = torch.tensor([0, 3, 3, 8, 1, 0])
    logs = identity_log_probability(image, text, ids)
    torch.testing.assert_close(waf_loss(logs, 0.0), id_loss(image, text, ids))


ALIGNMENT = {
    "itc": itc_loss,
    "sdm": sdm_loss,
    "bsdm": bsdm_loss,
    "tal": tal_loss,
    "waf": lambda *inputs: waf_loss(match_log_probability(*inputs)),
    "waf, focus 0.5": lambda *inputs: waf_loss(match_log_probability(*inputs), 0.5),
    "cmpm": lambda image, text, ids, temperature: cmpm_loss(image, text, ids),
}
with_every_loss = pytest.mark.parametrize("loss", ALIGNMENT.values(), ids=ALIGNMENT.keys())
with_every_cosine_loss = pytest.mark.parametrize(
    "loss",
    [ALIGNMENT[name] for name in ("itc", "sdm", "bsdm", "tal", "waf")],
    ids=["itc", "sdm", "bsdm", "tal", "waf"],
)


@with_every_cosine_loss
def test_scale_of_embeddings_does_not_matter(loss):
    image, text, ids = (torch.tensor(values) for values in _pairs())
    assert loss(image, text, ids, 0.05).item() == pytest.approx(loss(image * 9, text * 0.1, ids, 0.05).item())


@with_every_loss
def test_gradients_are_the_numerical_ones(loss):
    image, text, ids = (torch.tensor(values) for values in _pairs(batch=6))
    if loss is tal_loss:  # its shares of the positives are no path for gradients: one positive each
        ids = torch.arange(6)
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    inputs = (image.requires_grad_(), text.requires_grad_(), temperature)
    assert torch.autograd.gradcheck(lambda a, b, t: loss(a, b, ids, t), inputs)


@with_every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ids", [torch.zeros(6, dtype=torch.long), torch.arange(6)], ids=["one person", "all differ"])
def test_extreme_inputs_stay_finite(loss, dtype, ids):
    opposite = torch.eye(6, 8) * 100
    for image, text in ((torch.ones(6, 8), torch.ones(6, 8)), (opposite, opposite), (opposite, -opposite)):
        image, text = image.to(dtype).requires_grad_(), text.to(dtype).requires_grad_()
        value = loss(image, text, ids, 0.01)
        value.backward()
        assert math.isfinite(value.item())
        assert torch.isfinite(image.grad).all() and torch.isfinite(text.grad).all()


@pytest.mark.parametrize("weighting", ["uniform", "hard", "trusted"])
@pytest.mark.parametrize("logs", [[0.0, 0.0], [-1e4, -1e4], [0.0, -1e4]])
def test_waf_stays_finite_for_certain_and_impossible_matches(weighting, logs):
    logs = torch.tensor(logs, requires_grad=True)
    value = waf_loss(logs, 2.0, weighting)
    value.backward()
    assert math.isfinite(value.item()) and torch.isfinite(logs.grad).all()


@with_every_loss
def test_autocast_leaves_the_similarities_in_float32(loss):
    image, text, ids = (torch.tensor(values) for values in _pairs(batch=32, dim=64))
    plain = loss(image.float(), text.float(), ids, 0.02)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss(image.float(), text.float(), ids, 0.02), plain)


@with_every_cosine_loss
def test_shapes_that_do_not_fit_are_refused(loss):
    image, text, ids = (torch.tensor(values) for values in _pairs())
    for bad in (ids[:, None], ids[:1]):
        with pytest.raises(ValueError, match="person_ids must be"):
            loss(image, text, bad, 0.1)
    with pytest.raises(ValueError, match="must both be"):
        loss(image, text[:3], ids, 0.1)
    with pytest.raises(ValueError, match="not empty"):
        loss(image[:0], text[:0], ids[:0], 0.1)
    with pytest.raises(ValueError, match="temperature"):
        loss(image, text, ids, 0.0)


def test_nothing_masked_is_zero_with_a_gradient_path():
    logits = torch.zeros(0, 9, requires_grad=True)
    loss = mlm_loss(logits, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0.0


def test_tal_moves_no_shares_between_a_persons_pairs():
    """Its gradient is that with the shares of the positives held still, by finite differences in numpy."""
    image, text, ids = _pairs(1)
    assert np.bincount(ids).max() > 2
    shares = [_positive_shares(rows, ids, 0.1) for rows in _both_ways(image, text)]

    def value(image):
        losses = []
        for rows, share in zip(_both_ways(image, text), shares):
            negatives = 0.1 * np.log((np.exp(rows / 0.1) * (ids[:, None] != ids[None])).sum(axis=1))
            losses.append(np.maximum(0, 0.5 + negatives - (share * rows).sum(axis=1)).mean())
        return sum(losses)

    inputs = torch.tensor(image, requires_grad=True)
    tal_loss(inputs, torch.tensor(text), torch.tensor(ids), 0.1, margin=0.5).backward()
    np.testing.assert_allclose(inputs.grad, _slopes(value, image), atol=1e-6)


def _both_ways(image, text):
    cosine = _numpy_logits(image, text, 1.0)
    return cosine, cosine.T


def _positive_shares(rows, ids, temperature):
    masses = np.exp(rows / temperature) * (ids[:, None] == ids[None])
    return masses / masses.sum(axis=1, keepdims=True)


def _slopes(value, point, step=1e-5):
    slopes = np.zeros_like(point)
    for place in np.ndindex(point.shape):
        change = np.zeros_like(point)
        change[place] = step
        slopes[place] = (value(point + change) - value(point - change)) / (2 * step)
    return slopes


@pytest.mark.parametrize(("weighting", "share"), [("hard", lambda p: 1 - p), ("trusted", lambda p: p)])
def test_wafs_weights_are_no_path_for_gradients(weighting, share):
    """Without focus the gradient is that of a weighted cross-entropy, -w_i / n."""
    probability = np.array([0.9, 0.5, 0.2])
    logs = torch.tensor(np.log(probability), requires_grad=True)
    waf_loss(logs, 0.0, weighting).backward()
    np.testing.assert_allclose(logs.grad, -share(probability) / share(probability).sum(), rtol=1e-6)


def _words(alpha, teacher_scale=1.0):
    """Six places of which two are not masked, logits of five words, a teacher of its own mind, and losses by numpy."""
    rng = np.random.default_rng(4)
    logits, teacher = rng.normal(size=(6, 5)), teacher_scale * rng.normal(size=(6, 5))
    labels = np.array([3, IGNORED, 0, 4, IGNORED, 1])
    soft = np.exp(_log_softmax(teacher))
    each = np.zeros(6)
    for place in (0, 2, 3, 5):
        target = (1 - alpha) * np.eye(5)[labels[place]] + alpha * soft[place]
        each[place] = -(target * _log_softmax(logits)[place]).sum()
    return torch.tensor(logits), torch.tensor(labels), torch.tensor(teacher), each


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_distilled_words_equal_numpy(alpha):
    """Places that are not masked are 0, the teacher's softmax is taken once, alpha is the teacher's part."""
    logits, labels, teacher, each = _words(alpha, teacher_scale=3.0)
    np.testing.assert_allclose(mlm_token_losses(logits, labels, teacher, alpha), each, rtol=1e-6)
    assert distilled_mlm_loss(logits, labels, teacher, alpha).item() == pytest.approx(each.sum() / 4)
    weights = np.array([2.0, 9.0, 0.5, 0.0, 9.0, 1.5])
    loss = distilled_mlm_loss(logits, labels, teacher, alpha, torch.tensor(weights))
    assert loss.item() == pytest.approx((weights * each).sum() / 4)


def test_mlm_is_the_mean_over_masked_places():
    logits, labels, _, each = _words(0.0)
    assert mlm_loss(logits, labels).item() == pytest.approx(each.sum() / 4)


def test_a_teacher_gets_no_gradient():
    logits, labels, teacher, _ = _words(0.5)
    teacher.requires_grad_()
    distilled_mlm_loss(logits.requires_grad_(), labels, teacher, 0.5).backward()
    assert teacher.grad is None and logits.grad[labels != IGNORED].abs().sum() > 0


@pytest.mark.parametrize("seed", range(2))
def test_momentum_itc_equals_numpy(seed):
    """Seven pairs of four persons, a queue of three that shares persons with the batch, weights, a soft teacher."""
    rng = np.random.default_rng(seed)
    image, text, ids = _pairs(seed)
    teacher_image, teacher_text, weights = rng.normal(size=(7, 5)), rng.normal(size=(7, 5)), rng.uniform(0, 2, size=7)
    queue_image, queue_text, queue_ids = (
        rng.normal(size=(3, 5)),
        rng.normal(size=(3, 5)),
        np.array([ids[0], 9, ids[3]]),
    )
    same = ids[:, None] == np.concatenate([ids, queue_ids])[None]
    wanted = 0.0
    for rows, others, teacher_rows, teacher_others, queue in (
        (text, image, teacher_text, teacher_image, queue_image),
        (image, text, teacher_image, teacher_text, queue_text),
    ):
        # _numpy_logits gives a row per text: its second argument.
        logits = _numpy_logits(np.concatenate([others, queue]), rows, 0.2)
        soft = np.exp(_log_softmax(_numpy_logits(np.concatenate([teacher_others, queue]), teacher_rows, 0.2)))
        target = 0.75 * same / same.sum(axis=1, keepdims=True) + 0.25 * soft
        wanted += (weights * -(target * _log_softmax(logits)).sum(axis=1)).mean() / 2
    teacher = MomentumEmbeddings(*map(torch.tensor, (teacher_image, teacher_text, queue_image, queue_text, queue_ids)))
    pairs = (torch.tensor(image), torch.tensor(text), torch.tensor(ids))
    loss = momentum_itc_loss(*pairs, 0.2, teacher, 0.25, torch.tensor(weights))
    assert loss.item() == pytest.approx(wanted, rel=1e-5)
    for value in (image, text, teacher_image, teacher_text):
        value *= 3.0  # cosine similarity does not see it
    longer = MomentumEmbeddings(*map(torch.tensor, (teacher_image, teacher_text, queue_image, queue_text, queue_ids)))
    pairs = (torch.tensor(image), torch.tensor(text), torch.tensor(ids))
    assert momentum_itc_loss(*pairs, 0.2, longer, 0.25, torch.tensor(weights)).item() == pytest.approx(
        wanted, rel=1e-5
    )


def test_autocast_leaves_the_momentum_models_similarities_in_float32():
    image, text, ids = (torch.tensor(values) for values in _pairs(batch=32, dim=64))
    teacher = MomentumEmbeddings(text.float(), image.float())
    plain = momentum_itc_loss(image.float(), text.float(), ids, 0.02, teacher, 0.4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(momentum_itc_loss(image.float(), text.float(), ids, 0.02, teacher, 0.4), plain)


def test_itm_is_the_weighted_mean_over_pairs():
    logits = torch.tensor([[1.0, 2.0], [0.5, -1.0], [3.0, 0.0], [0.0, 0.0]])
    counted = torch.tensor([1.5, 0.5, 0.0, 1.0])
    # -log softmax of the label's column, by hand: a mismatch is column 0.
    each = [math.log(1 + math.exp(-1.0)), math.log(1 + math.exp(-1.5)), 0.0, math.log(2)]
    wanted = (1.5 * each[0] + 0.5 * each[1] + each[3]) / 3.0
    assert itm_loss(logits, torch.tensor([1, 0, 1, 0]), counted).item() == pytest.approx(wanted)


def test_the_identity_loss_is_the_mean_of_both_modalities():
    rng = np.random.default_rng(2)
    image, text, ids = rng.normal(size=(5, 4)), rng.normal(size=(5, 4)), np.array([3, 0, 0, 1, 3])
    weights = np.array([0.0, 2.0, 1.0, 1.5, 0.5])
    each = -(_log_softmax(image)[range(5), ids] + _log_softmax(text)[range(5), ids]) / 2
    inputs = torch.tensor(image), torch.tensor(text), torch.tensor(ids)
    assert id_loss(*inputs).item() == pytest.approx(each.mean())
    assert id_loss(*inputs, torch.tensor(weights)).item() == pytest.approx((weights * each).mean())
    logs = identity_log_probability(*inputs)
    np.testing.assert_allclose(
        logs, np.concatenate([_log_softmax(image)[range(5), ids], _log_softmax(text)[range(5), ids]]), rtol=1e-6
    )


@with_every_loss
def test_half_precision_inputs_are_computed_in_single_precision(loss):
    image, text, ids = (torch.tensor(values) for values in _pairs(batch=16, dim=32))
    image, text = image.bfloat16(), text.bfloat16()
    value = loss(image, text, ids, 0.02)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(image.double(), text.double(), ids, 0.02).float(), atol=1e-4, rtol=1e-4)


def test_tal_of_one_person_is_zero_and_pulls_at_nothing():
    image, text, _ = (torch.tensor(values, requires_grad=values.dtype == float) for values in _pairs())
    loss = tal_loss(image, text, torch.zeros(7, dtype=torch.long), 0.1)
    loss.backward()
    assert loss.item() == 0.0 and not image.grad.any() and not text.grad.any()
    # One pair among those of another person: its rows and the others' have negatives, by the numpy version.
    ids = np.array([0, 0, 0, 0, 0, 0, 1])
    cosine = _numpy_logits(*_pairs()[:2], 1.0)
    wanted = (_numpy_tal(cosine, ids, 0.1, 0.1) + _numpy_tal(cosine.T, ids, 0.1, 0.1)).mean()
    assert tal_loss(image, text, torch.tensor(ids), 0.1).item() == pytest.approx(wanted, rel=1e-5)
