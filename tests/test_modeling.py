"""The dual encoder follows CLIP, pre-training returns every loss by name, TEM and saving do what they say."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForPreTraining, AutoProcessor, CLIPConfig, CLIPModel

from aga_model import AgaConfig, AgaForPreTraining, AgaModel
from aga_model.losses import itc_loss

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
