"""The dual encoder follows CLIP, pre-training returns every loss by name, TEM and saving do what they say."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForPreTraining, AutoProcessor, CLIPConfig, CLIPModel

from aga_model import AgaConfig, AgaForPreTraining, AgaModel
from aga_model.losses import (
    bsdm_loss,
    cmpm_loss,
    id_loss,
    identity_log_probability,
    itc_loss,
    match_log_probability,
    pair_trust,
    sdm_loss,
    tal_loss,
    waf_loss,
)
from aga_model.masking import AttentionGuidedMasking, RandomSelection, ordinary_tokens

ALL_LOSSES = {"itc": 1.0, "sdm": 0.5, "mlm": 2.0, "id": 0.25}


def test_features_equal_transformers_clip():
    towers = {
        "text_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
                        "vocab_size": 99, "eos_token_id": 98, "bos_token_id": 97, "max_position_embeddings": 20},
        "vision_config": {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2,
                          "num_attention_heads": 3, "image_size": 32, "patch_size": 8},
        "projection_dim": 24,
    }  # fmt: skip
    torch.manual_seed(0)
    clip = CLIPModel(CLIPConfig(**towers)).eval()
    ours = AgaModel(AgaConfig(**towers)).eval()
    missing, unexpected = ours.load_state_dict(clip.state_dict(), strict=False)
    assert not missing and not unexpected
    ids = torch.randint(0, 97, (3, 12))
    ids[:, 9:] = 98
    pixels = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        for name, arguments in (
            ("get_text_features", {"input_ids": ids}),
            ("get_image_features", {"pixel_values": pixels}),
        ):
            wanted, got = getattr(clip, name)(**arguments), getattr(ours, name)(**arguments)
            torch.testing.assert_close(got.pooler_output, wanted.pooler_output, atol=1e-5, rtol=0)
            torch.testing.assert_close(got.last_hidden_state, wanted.last_hidden_state, atol=1e-5, rtol=0)
        wanted = clip(input_ids=ids, pixel_values=pixels, return_loss=True)
        got = ours(input_ids=ids, pixel_values=pixels, return_loss=True)
    for name in ("loss", "logits_per_image", "logits_per_text", "text_embeds", "image_embeds"):
        torch.testing.assert_close(got[name], wanted[name], atol=1e-5, rtol=1e-5, msg=name)


def test_every_loss_by_name_and_the_weighted_sum(make_model, batch):
    model = make_model(loss_weights=ALL_LOSSES, num_identities=3)
    output = model(**batch)
    total = sum(weight * output[f"{name}_loss"] for name, weight in ALL_LOSSES.items())
    torch.testing.assert_close(output.loss, total)
    output.loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("weights", [{}, {"mlm": 0.0}])
def test_there_is_no_loss_of_nothing(make_model, batch, weights):
    with pytest.raises(ValueError, match=r"loss_weights .* nothing to train on"):
        make_model(loss_weights=weights).train()(**batch)


def test_only_named_losses_are_computed(make_model, batch):
    output = make_model(loss_weights={"sdm": 1.0})(**batch)
    assert output.itc_loss is None and output.mlm_loss is None and output.masked is None
    torch.testing.assert_close(output.loss, output.sdm_loss)


def test_losses_that_need_person_ids_say_so(make_model, batch):
    batch.pop("person_ids")
    with pytest.raises(ValueError, match="sdm, id need person_ids"):
        make_model(loss_weights=ALL_LOSSES, num_identities=3)(**batch)
    output = make_model(loss_weights={"itc": 1.0})(**batch)
    embeds = output.image_embeds, output.text_embeds
    torch.testing.assert_close(output.itc_loss, itc_loss(*embeds, None, 0.07), atol=1e-4, rtol=1e-4)


def test_same_seed_same_step(make_model, batch):
    losses = []
    for _ in range(2):
        model = make_model(seed=5).train()
        torch.manual_seed(7)
        losses.append(model(**batch).loss.item())
    assert losses[0] == losses[1]


def test_temperature_is_fixed_or_learnt_and_bounded(make_model, batch):
    fixed = make_model(learn_temperature=False)
    fixed(**batch).loss.backward()
    assert fixed.aga.logit_scale.grad is None
    learnt = make_model().train()
    with torch.no_grad():
        learnt.aga.logit_scale.fill_(9.0)
    learnt(**batch).loss.backward()
    assert learnt.temperature.item() == pytest.approx(0.01)
    assert learnt.aga.logit_scale.grad is not None


def _swap_enrichment(model, token):
    """Make TEM write one known token at every masked position."""
    model.enrichment.enrich = lambda ids, masked, logits: torch.where(masked, token, ids)


def test_enrichment_replaces_the_text_of_the_alignment_loss(make_model, batch):
    model = make_model(enrichment_probability=1.0, loss_weights={"itc": 1.0, "mlm": 1.0}).train()
    _swap_enrichment(model, 300)
    output = model(**batch)
    assert torch.equal(output.enriched_input_ids != batch["input_ids"], output.masked & (batch["input_ids"] != 300))
    embeds = model.aga.get_text_features(output.enriched_input_ids).pooler_output
    torch.testing.assert_close(output.text_embeds, torch.nn.functional.normalize(embeds, dim=-1), atol=1e-5, rtol=0)
    wanted = itc_loss(output.image_embeds, output.text_embeds, batch["person_ids"], model.temperature)
    torch.testing.assert_close(output.itc_loss, wanted, atol=1e-5, rtol=1e-5)


def test_enrichment_adds_a_second_view(make_model, batch):
    model = make_model(enrichment="add", enrichment_probability=1.0).train()
    _swap_enrichment(model, 300)
    output = model(**batch)
    original = model.aga.get_text_features(batch["input_ids"]).pooler_output
    enriched = model.aga.get_text_features(output.enriched_input_ids).pooler_output
    ids, temperature = batch["person_ids"], model.temperature
    views = [itc_loss(output.image_embeds, text, ids, temperature) for text in (original, enriched)]
    torch.testing.assert_close(output.itc_loss, sum(views) / 2, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "objective", [{"enrichment": "none"}, {"enrichment_probability": 0.0}, {"enrichment_start": 0.5}]
)
def test_enrichment_can_be_off(make_model, batch, objective):
    model = make_model(**objective).train()
    _swap_enrichment(model, 300)
    assert torch.equal(model(**batch).enriched_input_ids, batch["input_ids"])
    model.training_progress = 0.6
    if "enrichment_start" in objective:
        outputs = [model(**batch).enriched_input_ids for _ in range(20)]
        assert any(not torch.equal(ids, batch["input_ids"]) for ids in outputs)


def test_enrichment_is_a_training_matter(make_model, batch):
    model = make_model(enrichment_probability=1.0).eval()
    assert torch.equal(model(**batch).enriched_input_ids, batch["input_ids"])


def test_save_and_load_gives_the_same_embeddings(make_model, processor, batch, tmp_path):
    model = make_model(loss_weights=ALL_LOSSES, num_identities=3).eval()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    encoder = AutoModel.from_pretrained(tmp_path)
    assert type(encoder) is AgaModel
    full = AutoModelForPreTraining.from_pretrained(tmp_path)
    assert type(full) is AgaForPreTraining
    for name, value in model.state_dict().items():
        assert torch.equal(full.state_dict()[name], value), name
    loaded = AutoProcessor.from_pretrained(tmp_path)
    captions = ["A man in navy-blue jeans.", "She carries an umbrella"]
    assert loaded(text=captions) == processor(text=captions)
    with torch.no_grad():
        for name, key in (("get_text_features", "input_ids"), ("get_image_features", "pixel_values")):
            wanted = getattr(model.aga, name)(batch[key]).pooler_output
            torch.testing.assert_close(getattr(encoder, name)(batch[key]).pooler_output, wanted, atol=1e-6, rtol=0)


def test_only_safetensors_with_every_weight(make_model, tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()


@pytest.mark.parametrize("family", ["clip", "bert"])
def test_a_grown_vocabulary_is_predicted_saved_and_loaded(family, make_sections, batch, tmp_path):
    everything = {"mask_ratio": 1.0, "mask_max_probability": 1.0}
    model = AgaForPreTraining(AgaConfig(**make_sections(family, **everything))).eval()
    size = model.config.text_config.vocab_size
    model.resize_token_embeddings(size + 3)
    model.save_pretrained(tmp_path)
    loaded = AgaForPreTraining.from_pretrained(tmp_path).eval()
    batch["input_ids"][:, 2] = size + 2
    outputs = []
    for each in (model, loaded):
        torch.manual_seed(1)
        outputs.append(each(**batch))
        assert each.config.text_config.vocab_size == size + 3
        assert outputs[-1].masked[:, 2].all() and outputs[-1].mlm_logits.shape[-1] == size + 3
    assert torch.isfinite(outputs[0].loss)
    torch.testing.assert_close(outputs[1].loss, outputs[0].loss, atol=0, rtol=0)


def test_wrong_image_size_is_named(make_model, batch):
    with pytest.raises(ValueError, match="16x16, the model wants 32x16"):
        make_model().aga.get_image_features(torch.zeros(1, 3, 16, 16))


def test_end_of_text_token_two_is_pooled_at_its_position():
    config = AgaConfig(
        text_config={"vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2, "mask_token_id": 3, "hidden_size": 32,
                     "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 32},
        vision_config={"image_size": 16, "patch_size": 8, "hidden_size": 32, "num_attention_heads": 2,
                       "num_hidden_layers": 1, "intermediate_size": 32},
        projection_dim=32,
    )  # fmt: skip
    model = AgaModel(config).eval()
    ids = torch.tensor([[1, 40, 9, 2, 2]])
    outputs = model.get_text_features(ids)
    torch.testing.assert_close(outputs.pooler_output, model.text_projection(outputs.last_hidden_state[:, 3]))


def test_settings_of_the_losses_reach_them(make_model, batch):
    """Every one away from its default, and from its neighbour's."""
    names = ("bsdm", "cmpm", "tal", "waf")
    model = make_model(loss_weights=dict.fromkeys(names, 1.0), bsdm_kl_weights=[0.3, 2.0], tal_margin=0.4,
                       waf_gamma=0.5, waf_weighting="hard")  # fmt: skip
    output = model(**batch)
    image = model.aga.get_image_features(batch["pixel_values"]).pooler_output
    text = model.aga.get_text_features(batch["input_ids"]).pooler_output
    pairs, temperature = (image, text, batch["person_ids"]), model.temperature
    wanted = {
        "bsdm": bsdm_loss(*pairs, temperature, (0.3, 2.0)),
        "cmpm": cmpm_loss(*pairs),
        "tal": tal_loss(*pairs, temperature, 0.4),
        "waf": waf_loss(match_log_probability(*pairs, temperature), 0.5, "hard"),
    }
    for name in names:
        torch.testing.assert_close(output[f"{name}_loss"], wanted[name], atol=1e-5, rtol=1e-4, msg=name)


def test_focal_settings_reach_the_identity_classifier(make_model, batch):
    model = make_model(loss_weights={"waf": 1.0, "id": 1.0}, num_identities=3, waf_target="identity", waf_gamma=0.5,
                       waf_weighting="trusted")  # fmt: skip
    with torch.no_grad():
        model.identity_head.weight.mul_(1000.0)
    output = model(**batch)
    image = model.identity_head(model.aga.get_image_features(batch["pixel_values"]).pooler_output)
    text = model.identity_head(model.aga.get_text_features(batch["input_ids"]).pooler_output)
    logs = identity_log_probability(image, text, batch["person_ids"])
    torch.testing.assert_close(output.waf_loss, waf_loss(logs, 0.5, "trusted"), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(output.id_loss, id_loss(image, text, batch["person_ids"]), atol=1e-5, rtol=1e-4)


def test_distrusted_pairs_count_less_in_every_loss(make_model, batch):
    """MLM by caption, the identity loss and SDM by pair; the trust is that of the original captions."""
    losses = {"sdm": 1.0, "tal": 1.0, "mlm": 1.0, "id": 1.0}
    model = make_model(loss_weights=losses, num_identities=3, pair_weighting="trusted", enrichment_probability=1.0,
                       mask_ratio=0.4).train()  # fmt: skip
    _swap_enrichment(model, 300)
    with torch.no_grad():
        model.mlm_head.decoder.weight.mul_(20.0)
        model.identity_head.weight.mul_(1000.0)
    output = model(**batch)
    image = model.aga.get_image_features(batch["pixel_values"]).pooler_output
    original = model.aga.get_text_features(batch["input_ids"]).pooler_output
    text = model.aga.get_text_features(output.enriched_input_ids).pooler_output
    ids, temperature = batch["person_ids"], model.temperature
    trust = pair_trust(image, original, ids, temperature)
    assert trust.std() > 0.01
    assert (trust - pair_trust(image, text, ids, temperature)).abs().max() > 0.01
    for name, wanted in (
        ("sdm", sdm_loss(image, text, ids, temperature, trust)),
        ("tal", tal_loss(image, text, ids, temperature, weights=trust)),
        ("id", id_loss(model.identity_head(image), model.identity_head(text), ids, trust)),
    ):
        torch.testing.assert_close(output[f"{name}_loss"], wanted, atol=1e-5, rtol=1e-4, msg=name)
    total = 0.0
    for row in range(4):
        places = output.masked[row].nonzero().flatten()
        logits = output.mlm_logits[row, : len(places)].log_softmax(dim=1)
        total = total - trust[row] * logits[torch.arange(len(places)), batch["input_ids"][row, places]].sum()
    torch.testing.assert_close(output.mlm_loss, total / output.masked.sum(), atol=1e-5, rtol=1e-4)


def test_the_mlm_is_the_mean_over_masked_words(make_model, batch):
    """Of captions with different numbers of them; the words are those of the caption before masking."""
    model = make_model(loss_weights={"mlm": 1.0}, mask_ratio=0.4)
    batch["input_ids"][0, 6:] = model.config.text_config.eos_token_id
    batch["attention_mask"][0, 7:] = 0
    output = model(**batch)
    assert len(set(output.masked.sum(dim=1).tolist())) > 1
    each = []
    for row in range(4):
        places = output.masked[row].nonzero().flatten()
        logs = output.mlm_logits[row, : len(places)].log_softmax(dim=1)
        each.append(-logs[torch.arange(len(places)), batch["input_ids"][row, places]])
    torch.testing.assert_close(output.mlm_loss, torch.cat(each).mean(), atol=1e-5, rtol=1e-5)


def test_scores_are_of_images_by_captions(make_model, batch):
    output = make_model(learn_temperature=False)(**batch)
    image, text = output.image_embeds[2], output.text_embeds[0]
    torch.testing.assert_close(output.logits_per_image[2, 0], (image * text).sum() * math.exp(2.6592))


def test_projections_start_by_their_towers_width(make_sections):
    """Standard deviations as CLIP's; both towers' widths differ from each other and from the projection."""
    sections = make_sections("bert")
    torch.manual_seed(0)
    model = AgaModel(AgaConfig(**sections | {"projection_dim": 400}))
    assert model.visual_projection.weight.std().item() == pytest.approx(48**-0.5, rel=0.03)
    assert model.text_projection.weight.std().item() == pytest.approx(32**-0.5, rel=0.03)


def test_parts_that_no_loss_reaches_are_frozen_and_others_are_not(make_model):
    """With ITM alone the fusion encoder learns, the MLM head does not; without both neither does."""
    for losses, fusion, head in (
        ({"itc": 1.0}, False, False),
        ({"itm": 1.0}, True, False),
        ({"mlm": 1.0}, True, True),
    ):
        model = make_model(loss_weights=losses)
        assert {parameter.requires_grad for parameter in model.fusion.parameters()} == {fusion}, losses
        assert {parameter.requires_grad for parameter in model.mlm_head.parameters()} == {head}, losses


def test_every_part_starts_by_its_own_rule(make_sections):
    """Standard deviations: CLIP's of its towers, IRRA's of the heads of the MLM and of identities."""
    sections = make_sections("clip", num_identities=200, loss_weights={"id": 1.0, "mlm": 1.0}) | {"projection_dim": 96}
    sections["text_config"] |= {"hidden_size": 64, "num_hidden_layers": 3}
    torch.manual_seed(0)
    model = AgaForPreTraining(AgaConfig(**sections))
    text, vision = (tower.encoder.layers[1] for tower in (model.aga.text_model, model.aga.vision_model))
    head = model.mlm_head
    for linear, std in (
        (text.self_attn.q_proj, (64 * 2 * 3) ** -0.5),
        (text.self_attn.out_proj, 64**-0.5),
        (text.mlp.fc1, (2 * 64) ** -0.5),
        (text.mlp.fc2, (64 * 2 * 3) ** -0.5),
        (vision.self_attn.k_proj, (32 * 2 * 2) ** -0.5),
        (vision.mlp.fc1, (2 * 32) ** -0.5),
        (head.dense, (2 * 96) ** -0.5),
        (head.decoder, (96 * 2 * 4) ** -0.5),
        (model.identity_head, 0.001),
    ):
        assert linear.weight.std().item() == pytest.approx(std, rel=0.06) and not linear.bias.any()


def test_a_start_keeps_what_the_checkpoint_holds_and_draws_the_rest_by_its_rule(make_model, tmp_path):
    """From a dual encoder: its own weights to the bit, heads and fusion encoder anew."""
    saved = make_model().aga
    saved.save_pretrained(tmp_path)
    torch.manual_seed(1)
    model = AgaForPreTraining.from_pretrained(tmp_path)
    for name, value in saved.state_dict().items():
        assert torch.equal(model.aga.state_dict()[name], value), name
    assert model.fusion.cross_attn.q_proj.weight.std().item() == pytest.approx(32**-0.5, rel=0.06)
    assert model.mlm_head.dense.weight.std().item() == pytest.approx(64**-0.5, rel=0.06)


def test_attended_padding_is_the_given_token_alone(make_sections, batch, tokenizer):
    """IRRA's: behind the end of each caption its own padding up to the text length, none of the processor's."""
    sections = make_sections("clip")
    sections["cross_modal_config"] |= {"attended_padding_id": 7}
    torch.manual_seed(0)
    model = AgaForPreTraining(AgaConfig(**sections)).eval()
    ids = batch["input_ids"]
    ids[1, 6:] = tokenizer.eos_token_id  # the end and the processor's padding
    ends = [row.index(tokenizer.eos_token_id) for row in ids.tolist()]
    assert len(set(ends)) > 1
    padded = torch.tensor([row[: end + 1] + [7] * (40 - end - 1) for row, end in zip(ids.tolist(), ends)])
    states, mask = model.caption_states(ids, batch["attention_mask"])
    wanted = model.aga.text_projection(model.aga.text_model(input_ids=padded).last_hidden_state)
    assert mask is None
    torch.testing.assert_close(states, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_words_are_masked_by_the_attention_of_their_own_caption(make_model, batch, share):
    """However many captions TEM will replace, whose first pass is another than that of the rest."""
    model = make_model(enrichment_probability=share, mask_ratio=0.3).train()
    output = model(**batch)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    _, attention = model.aga.get_text_features_with_attention(ids, mask)
    ordinary = ordinary_tokens(ids, mask, model.config.text_config)
    wanted = AttentionGuidedMasking(0.3, 0.8).probabilities(ordinary, attention)
    assert wanted.std() > 0.01
    torch.testing.assert_close(output.mask_probabilities, wanted, atol=1e-5, rtol=1e-4)


def test_the_identity_loss_reads_both_views(make_model, batch):
    model = make_model(
        loss_weights={"mlm": 1.0, "id": 1.0}, num_identities=3, enrichment="add", enrichment_probability=1.0
    ).train()
    model.identity_head.weight.data *= 100.0  # they begin small, and so would the difference of the views
    output = model(**batch)
    assert not torch.equal(output.enriched_input_ids, batch["input_ids"])
    images = model.identity_head(model.aga.get_image_features(batch["pixel_values"]).pooler_output)
    views = (output.enriched_input_ids, batch["input_ids"])
    texts = [model.identity_head(model.aga.get_text_features(view).pooler_output) for view in views]
    each = torch.stack([id_loss(images, text, batch["person_ids"]) for text in texts])
    assert (each[0] - each[1]).abs() > 1e-4
    torch.testing.assert_close(output.id_loss, each.mean(), atol=1e-5, rtol=1e-5)


def test_settings_of_masking_and_enrichment_reach_them(make_model, batch):
    model = make_model(mask_ratio=0.3, mask_max_probability=0.31, attention_decay=0.9, enrichment_sampling="argmax",
                       enrichment_min_confidence=0.35, image_keep_ratio=0.5, image_mask_strategy="random")  # fmt: skip
    assert (model.enrichment.sampling, model.enrichment.min_confidence) == ("argmax", 0.35)
    assert isinstance(model.patch_selection, RandomSelection)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    ordinary = ordinary_tokens(ids, mask, model.config.text_config)
    # The moving average over three layers, from eager's maps.
    model.set_attn_implementation("eager")
    maps = model.aga.text_model(input_ids=ids, output_attentions=True).attentions
    rows = [layer[torch.arange(4), :, mask.sum(dim=1) - 1].mean(dim=1) * ordinary for layer in maps]
    first, second, third = (row / row.sum(dim=1, keepdim=True) for row in rows)
    attention = 0.81 * first + 0.09 * second + 0.1 * third
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(
        model.aga.get_text_features_with_attention(ids, mask)[1], attention, atol=1e-6, rtol=1e-4
    )
    probabilities = model(**batch).mask_probabilities
    torch.testing.assert_close(
        probabilities, AttentionGuidedMasking(0.3, 0.31).probabilities(ordinary, attention), atol=1e-5, rtol=1e-4
    )


def test_random_masking_masks_all_words_of_a_caption_alike(make_model, batch):
    output = make_model(mask_strategy="random", mask_ratio=0.3)(**batch)
    words = ordinary_tokens(batch["input_ids"], batch["attention_mask"], make_model().config.text_config)
    torch.testing.assert_close(output.mask_probabilities, 0.3 * words.float(), atol=1e-5, rtol=0)


def test_a_saved_folder_names_the_class_of_every_way_to_load_it(make_model, tmp_path):
    model = make_model()
    for part, folder in ((model, "whole"), (model.aga, "dual")):
        part.save_pretrained(tmp_path / folder)
        named = json.loads((tmp_path / folder / "config.json").read_text())["auto_map"]
        assert named == {
            "AutoConfig": "configuration_aga.AgaConfig",
            "AutoModel": "modeling_aga.AgaModel",
            "AutoModelForPreTraining": "pretraining_aga.AgaForPreTraining",
            "AgaForImageTextRetrieval": "retrieval_aga.AgaForImageTextRetrieval",
        }
