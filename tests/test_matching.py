"""ITM: hard negatives are of other persons and drawn by similarity; the loss is that of all its pairs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from aga_model import AgaConfig, AgaForImageTextRetrieval, AgaForPreTraining
from aga_model.losses import itm_loss, pair_trust
from aga_model.matching import hard_negatives
from aga_model.packing import pack_captions


@settings(max_examples=60)
@given(
    persons=st.lists(st.integers(0, 3), min_size=1, max_size=9),
    scale=st.sampled_from([0.0, 1.0, 100.0, 1e4]),
    seed=st.integers(0, 2**31),
)
def test_negatives_are_never_of_the_same_person(persons, scale, seed):
    torch.manual_seed(seed)
    ids = torch.tensor(persons)
    same = ids[:, None] == ids[None, :]
    chosen, found = hard_negatives(torch.randn(len(ids), len(ids)) * scale, same)
    assert found.tolist() == [len(set(persons)) > 1] * len(persons)
    assert (ids[chosen][found] != ids[found]).all()
    assert ((chosen >= 0) & (chosen < len(ids))).all()


def test_negatives_are_drawn_by_the_softmax_over_other_persons():
    torch.manual_seed(0)
    logits, same = torch.tensor([[9.0, 0.0, 1.0, 2.0]]).repeat(20_000, 1), torch.tensor([[True, False, False, False]])
    chosen, _ = hard_negatives(logits, same.repeat(20_000, 1))
    shares = torch.bincount(chosen, minlength=4) / 20_000
    wanted = torch.tensor([0.0, *torch.tensor([0.0, 1.0, 2.0]).softmax(dim=0)])
    torch.testing.assert_close(shares, wanted, atol=0.015, rtol=0)


def test_loss_counts_only_real_pairs():
    logits, labels = torch.randn(4, 2), torch.tensor([1, 0, 0, 1])
    counted = torch.tensor([True, True, False, True])
    torch.testing.assert_close(itm_loss(logits, labels, counted), F.cross_entropy(logits[counted], labels[counted]))
    nothing = itm_loss(logits.requires_grad_(), labels, torch.zeros(4, dtype=torch.bool))
    nothing.backward()
    assert nothing.item() == 0 and not logits.grad.any()


def test_the_models_loss_is_that_of_its_pairs_one_by_one(make_model, batch, monkeypatch):
    """Against AgaForImageTextRetrieval on the 4 pairs, 4 hard negative images and 4 hard negative captions."""
    monkeypatch.setattr("aga_model.matching.hard_negatives", lambda logits, same: (
        logits.masked_fill(same, float("-inf")).argmax(dim=1), (~same).any(dim=1)
    ))  # fmt: skip
    model = make_model(loss_weights={"itc": 1.0, "itm": 1.0}).eval()
    got = model(**batch).itm_loss
    ranker = AgaForImageTextRetrieval(model.config)
    ranker.load_state_dict(model.state_dict(), strict=False)
    ranker.eval()
    pixels, ids, mask, persons = (batch[key] for key in ("pixel_values", "input_ids", "attention_mask", "person_ids"))
    output = ranker(pixel_values=pixels, input_ids=ids, attention_mask=mask)
    similarity = output.text_embeds @ output.image_embeds.t()
    hidden = similarity.masked_fill(persons[:, None] == persons[None, :], float("-inf"))
    image, text = hidden.argmax(dim=1), hidden.argmax(dim=0)
    pairs = [
        (ids, mask, pixels, 1),
        (ids, mask, pixels[image], 0),
        (ids[text], mask[text], pixels, 0),
    ]
    terms = [
        F.cross_entropy(
            ranker(input_ids=i, attention_mask=m, pixel_values=p).logits, torch.full((4,), label), reduction="none"
        )
        for i, m, p, label in pairs
    ]
    torch.testing.assert_close(got, torch.cat(terms).mean(), atol=1e-5, rtol=1e-5)


def test_a_batch_of_one_person_has_positives_only(make_model, batch):
    model = make_model(loss_weights={"itm": 1.0}).train()
    batch["person_ids"] = torch.zeros(4, dtype=torch.long)
    loss = model(**batch).itm_loss
    loss.backward()
    assert torch.isfinite(loss) and model.itm_head.weight.grad.isfinite().all()


def test_without_the_loss_there_is_no_head(make_model):
    model = make_model()
    assert model.itm_head is None
    with pytest.raises(ValueError, match="does not name 'itm'"):
        AgaForImageTextRetrieval(model.config)


def test_several_captions_share_an_image(make_model, batch):
    """The fusion encoder's answer does not depend on how captions are grouped by image."""
    model = make_model(loss_weights={"itm": 1.0}).eval()
    states, mask = model.caption_states(batch["input_ids"], batch["attention_mask"])
    summary = model.aga.text_model.pooled_positions(batch["input_ids"])
    images = model.aga.fusion_image_states(model.aga.get_image_features(batch["pixel_values"][:2]))
    shared = model.match_logits(states, mask, summary, images)
    alone = model.match_logits(states, mask, summary, images.repeat_interleave(2, dim=0))
    torch.testing.assert_close(shared, alone, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="cannot be shared out evenly"):
        model.match_logits(states[:3], mask[:3], summary[:3], images)


@pytest.mark.parametrize("family", ["clip", "bert"])
@pytest.mark.parametrize("layers", [0, 1, 3])
def test_one_token_of_the_last_layer_is_the_same_as_all_of_it(make_sections, batch, family, layers):
    if family == "bert" and layers == 0:
        pytest.skip("BERT's upper half has a layer at least")
    sections = make_sections(family)
    sections["cross_modal_config"] |= {"num_hidden_layers": layers}
    torch.manual_seed(0)
    model = AgaForPreTraining(AgaConfig(**sections)).eval()
    with torch.no_grad():  # norms that differ
        for parameter in model.fusion.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    states, mask = model.caption_states(batch["input_ids"], batch["attention_mask"])
    images = model.aga.fusion_image_states(model.aga.get_image_features(batch["pixel_values"][:2]))
    places = torch.tensor([0, 3, 1, 4])
    for text_mask in (mask, None):
        wanted = model.fusion(states, images, text_mask)[torch.arange(4), places]
        got = model.fusion.pooled_states(states, images, text_mask, places)
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


def _hardest(logits, same):
    """Without a draw: the most similar of another person."""
    return logits.masked_fill(same, float("-inf")).argmax(dim=1), (~same).any(dim=1)


def test_both_negatives_are_drawn_by_similarity_over_temperature(make_model, batch, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "aga_model.matching.hard_negatives",
        lambda logits, same: asked.append((logits.numpy(), same.numpy())) or _hardest(logits, same),
    )
    model = make_model(loss_weights={"itm": 1.0}, learn_temperature=False).eval()
    with torch.no_grad():
        model.aga.logit_scale.fill_(3.0)
        model(**batch)
        image = model.aga.get_image_features(batch["pixel_values"]).pooler_output.numpy()
        text = model.aga.get_text_features(batch["input_ids"]).pooler_output.numpy()
    image, text = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (image, text))
    persons = batch["person_ids"].numpy()
    for (logits, same), wanted in zip(asked, (text @ image.T, image @ text.T), strict=True):
        np.testing.assert_allclose(logits, wanted * np.exp(3.0), rtol=1e-4, atol=1e-4)
        assert np.array_equal(same, persons[:, None] == persons[None])


def test_distrusted_pairs_count_less_as_matches(make_model, batch, monkeypatch):
    """The pairs' own terms by their trust, which the original captions give; mismatches stay in full."""
    monkeypatch.setattr("aga_model.matching.hard_negatives", _hardest)
    model = make_model(loss_weights={"itc": 1.0, "itm": 1.0, "mlm": 1.0}, pair_weighting="trusted",
                       enrichment_probability=1.0).train()  # fmt: skip
    model.enrichment.enrich = lambda ids, masked, logits: torch.where(masked, 300, ids)
    got = model(**batch).itm_loss
    ranker = AgaForImageTextRetrieval(model.config)
    ranker.load_state_dict(model.state_dict(), strict=False)
    pixels, ids, mask, persons = (batch[key] for key in ("pixel_values", "input_ids", "attention_mask", "person_ids"))
    with torch.no_grad():
        output = ranker(pixel_values=pixels, input_ids=ids, attention_mask=mask)
        trust = pair_trust(output.image_embeds, output.text_embeds, persons, model.temperature)
        similarity, same = output.text_embeds @ output.image_embeds.t(), persons[:, None] == persons[None, :]
        image, text = _hardest(similarity, same)[0], _hardest(similarity.t(), same)[0]
        wanted = 0.0
        for weights, label, i, m, p in (
            (trust, 1, ids, mask, pixels),
            (torch.ones(4), 0, ids, mask, pixels[image]),
            (torch.ones(4), 0, ids[text], mask[text], pixels),
        ):
            logits = ranker(input_ids=i, attention_mask=m, pixel_values=p).logits
            wanted = wanted - (weights * logits.log_softmax(dim=1)[:, label]).sum()
    assert trust.std() > 0.01
    torch.testing.assert_close(got.detach(), wanted / (trust.sum() + 8), atol=1e-5, rtol=1e-5)


def test_the_negatives_of_both_directions_stay_apart(make_model, batch, monkeypatch):
    """Negative images and captions that are named, and differ: each pair's logits by themselves."""
    negatives = iter([torch.tensor([3, 0, 0, 1]), torch.tensor([1, 3, 3, 0])])
    monkeypatch.setattr(
        "aga_model.matching.hard_negatives",
        lambda logits, same: (next(negatives), torch.tensor([True, True, True, False])),
    )
    model = make_model(loss_weights={"itm": 1.0}).eval()
    with torch.no_grad():
        model.itm_head.weight.mul_(30.0)
        got = model(**batch).itm_loss
        states, mask = model.caption_states(batch["input_ids"], batch["attention_mask"])
        summary = model.aga.text_model.pooled_positions(batch["input_ids"])
        images = model.aga.fusion_image_states(model.aga.get_image_features(batch["pixel_values"]))
        terms = []
        for caption, image, match in (
            *((i, i, 1) for i in range(4)),
            *((i, image, 0) for i, image in enumerate([3, 0, 0])),  # the last one found none
            *((caption, i, 0) for i, caption in enumerate([1, 3, 3])),
        ):
            one, other = slice(caption, caption + 1), slice(image, image + 1)
            logits = model.match_logits(states[one], mask[one], summary[one], images[other])
            terms.append(-logits.log_softmax(dim=1)[0, match])
    torch.testing.assert_close(got, torch.stack(terms).mean(), atol=1e-5, rtol=1e-5)


def test_the_score_is_the_log_odds_of_a_match(make_model, batch):
    model = make_model(loss_weights={"itm": 1.0})
    ranker = AgaForImageTextRetrieval(model.config).eval()
    with torch.no_grad():
        ranker.itm_head.weight.zero_()
        ranker.itm_head.bias.copy_(torch.tensor([-1.0, 2.5]))
    inputs = {key: batch[key] for key in ("pixel_values", "input_ids", "attention_mask")}
    assert ranker.score(**inputs).tolist() == [3.5] * 4
    with pytest.raises(ValueError, match="got 4 captions, 3 images"):
        ranker.score(**inputs | {"pixel_values": batch["pixel_values"][:3]})
    with pytest.raises(ValueError, match="got 3 captions, 4 images"):
        ranker.score(**inputs | {key: batch[key][:3] for key in ("input_ids", "attention_mask")})


def test_the_fusion_drops_nothing_out_in_evaluation(make_sections, batch):
    """Whatever its dropout: what it says in evaluation is what it says without any."""
    sections = make_sections("clip")
    found = []
    for dropout in (0.0, 0.6):
        sections["cross_modal_config"] |= {"attention_dropout": dropout}
        torch.manual_seed(0)
        model = AgaForPreTraining(AgaConfig(**sections)).eval()
        images = model.aga.fusion_image_states(model.aga.get_image_features(batch["pixel_values"]))
        found.append(model.fuse(batch["input_ids"], images, batch["attention_mask"]))
    torch.testing.assert_close(found[1], found[0])


def test_the_fusion_encoder_starts_as_irras(make_sections):
    """Standard deviations by width w and layers n: w^-0.5, of the residual branches (2 n w)^-0.5, (2 w)^-0.5."""
    sections = make_sections("clip") | {"projection_dim": 96}
    sections["cross_modal_config"] |= {"num_hidden_layers": 3}
    torch.manual_seed(0)
    fusion = AgaForPreTraining(AgaConfig(**sections)).fusion
    cross, layer = fusion.cross_attn, fusion.layers[2]
    for linear, std in (
        *((getattr(part, f"{name}_proj"), 96**-0.5) for part in (cross, layer.self_attn) for name in "qkv"),
        (cross.out_proj, 576**-0.5),
        (layer.self_attn.out_proj, 576**-0.5),
        (layer.mlp.fc1, 192**-0.5),
        (layer.mlp.fc2, 576**-0.5),
    ):  # fmt: skip
        assert linear.weight.std().item() == pytest.approx(std, rel=0.05) and not linear.bias.any()


def test_the_cross_attention_by_numpy(make_sections, batch):
    """Heads of the width's share, scaled by it; LN of both inputs; with and without the captions' own states."""
    found = {}
    for residual in (False, True):
        sections = make_sections("clip")
        sections["cross_modal_config"] |= {"num_hidden_layers": 0, "cross_attention_residual": residual}
        torch.manual_seed(0)
        fusion = AgaForPreTraining(AgaConfig(**sections)).eval().fusion
        with torch.no_grad():
            for name, parameter in fusion.named_parameters():
                parameter.copy_(torch.randn_like(parameter) * 0.3 + (1.0 if "norm.weight" in name else 0.0))
        text, image = torch.randn(2, 5, 32), 3 * torch.randn(2, 9, 32)
        states, patches = (fusion.text_layer_norm(text), fusion.image_layer_norm(image))
        cross = fusion.cross_attn
        query, key, value = (
            layer(rows).detach().double().numpy().reshape(2, -1, 2, 16).transpose(0, 2, 1, 3)
            for layer, rows in ((cross.q_proj, states), (cross.k_proj, patches), (cross.v_proj, patches))
        )
        weights = np.exp(query @ key.transpose(0, 1, 3, 2) / 4.0)
        attended = (weights / weights.sum(axis=-1, keepdims=True)) @ value
        attended = torch.tensor(attended.transpose(0, 2, 1, 3).reshape(2, 5, 32)).float()
        wanted = cross.out_proj(attended) + (text if residual else 0.0)
        found[residual] = fusion(text, image)
        torch.testing.assert_close(found[residual], fusion.final_layer_norm(wanted), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["clip", "bert"])
def test_hidden_tokens_take_no_part_in_the_fusion(make_sections, batch, family):
    """What a caption says does not depend on states behind its mask, in a whole pass or for one token."""
    torch.manual_seed(0)
    model = AgaForPreTraining(AgaConfig(**make_sections(family))).eval()
    states, _ = model.caption_states(batch["input_ids"], batch["attention_mask"])
    images = model.aga.fusion_image_states(model.aga.get_image_features(batch["pixel_values"]))
    mask = torch.ones_like(states[..., 0], dtype=torch.bool)
    mask[:, 5:] = False
    other = torch.where(mask[..., None], states, 9.0 * torch.randn_like(states))
    places = torch.tensor([0, 4, 2, 1])
    for one, two in (
        (model.fusion(states, images, mask)[:, :5], model.fusion(other, images, mask)[:, :5]),
        tuple(model.fusion.pooled_states(each, images, mask, places) for each in (states, other)),
        (model.fusion(states, images, mask)[:, :5], model.fusion(states[:, :5], images)),
    ):
        torch.testing.assert_close(two, one, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(model.fusion(other, images)[:, :5], model.fusion(states, images)[:, :5], atol=1e-3)


def test_the_mlm_head_is_linear_activation_norm_linear(make_model):
    head = make_model().mlm_head
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn_like(parameter))
    states = torch.randn(3, 32)
    inner = (states @ head.dense.weight.t() + head.dense.bias).detach().double().numpy()
    inner = inner / (1 + np.exp(-1.702 * inner))
    inner = (inner - inner.mean(axis=1, keepdims=True)) / np.sqrt(inner.var(axis=1, keepdims=True) + 1e-5)
    inner = torch.tensor(inner).float() * head.layer_norm.weight + head.layer_norm.bias
    wanted = inner @ head.decoder.weight.t() + head.decoder.bias
    torch.testing.assert_close(head(states), wanted, atol=1e-3, rtol=1e-4)


def test_packed_captions_are_fused_one_by_one(make_sections, batch):
    """Each caption's states as if it were alone, in rows that hold several."""
    sections = make_sections("clip")
    torch.manual_seed(0)
    fusion = AgaForPreTraining(AgaConfig(**sections)).eval().fusion
    lengths = [3, 7, 4, 2]
    packing = pack_captions(lengths, 12)
    assert len(packing["tokens"]) < 4
    states, images = torch.randn(4, 7, 32), torch.randn(4, 9, 32)
    mask = torch.arange(7) < torch.tensor(lengths)[:, None]
    packed = fusion(states, images, mask, packing=packing)
    for row, length in enumerate(lengths):
        alone = fusion(states[row : row + 1, :length], images[row : row + 1])[0]
        torch.testing.assert_close(packed[row, :length], alone, atol=1e-5, rtol=1e-5)


def test_the_rankers_embeddings_are_the_dual_encoders_at_unit_length(make_model, batch):
    ranker = AgaForImageTextRetrieval(make_model(loss_weights={"itm": 1.0}).config).eval()
    inputs = {key: batch[key] for key in ("pixel_values", "input_ids", "attention_mask")}
    output = ranker(**inputs)
    image = ranker.aga.get_image_features(batch["pixel_values"]).pooler_output
    text = ranker.aga.get_text_features(batch["input_ids"]).pooler_output
    for found, features in ((output.image_embeds, image), (output.text_embeds, text)):
        torch.testing.assert_close(found.norm(dim=1), torch.ones(4))
        torch.testing.assert_close(found * features.norm(dim=1, keepdim=True), features)
