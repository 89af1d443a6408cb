"""The BERT family through the same classes: configuration, padding, AGM's attention, saving, a step of all losses."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from aga_model import AgaConfig, AgaForPreTraining, AgaModel, AgaProcessor


@pytest.fixture
def make_bert(make_sections):
    def make(**objective):
        torch.manual_seed(0)
        return AgaForPreTraining(AgaConfig(**make_sections("bert", **objective)))

    return make


def test_every_loss_reaches_every_weight(make_bert, batch):
    weights = {"itc": 1.0, "sdm": 0.5, "itm": 1.0, "mlm": 1.0, "id": 0.2}
    model = make_bert(loss_weights=weights, num_identities=3).train()
    output = model(**batch)
    torch.testing.assert_close(output.loss, sum(weights[name] * output[f"{name}_loss"] for name in weights))
    output.loss.backward()
    # A single token type and the first positions are all that captions use.
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without
    assert model.mlm_head.decoder.weight is model.aga.text_model.embeddings.word_embeddings.weight
    assert (output.enriched_input_ids != batch["input_ids"]).any()


def test_padding_changes_nothing(make_bert, batch):
    model = make_bert(loss_weights={"itm": 1.0, "mlm": 1.0}).eval()
    ids, mask = batch["input_ids"], batch["attention_mask"]
    pad = torch.full((len(ids), 5), model.config.text_config.pad_token_id)
    wide, wide_mask = torch.cat([ids, pad], dim=1), torch.cat([mask, torch.zeros_like(pad)], dim=1)
    images = model.aga.fusion_image_states(model.aga.get_image_features(batch["pixel_values"]))
    with torch.no_grad():
        for others in ((wide, wide_mask), (wide, None), (ids, None)):
            wanted, attention = model.aga.get_text_features_with_attention(ids, mask)
            got, other_attention = model.aga.get_text_features_with_attention(*others)
            torch.testing.assert_close(got.pooler_output, wanted.pooler_output, atol=1e-5, rtol=0)
            torch.testing.assert_close(other_attention[:, : ids.shape[1]], attention, atol=1e-5, rtol=0)
            fused = model.fuse(others[0], images, others[1])[:, : ids.shape[1]]
            inside = mask.bool()
            torch.testing.assert_close(fused[inside], model.fuse(ids, images, mask)[inside], atol=1e-5, rtol=0)


def test_class_attention_is_that_of_eager(make_bert, batch):
    """The first token's row without attention maps equals the row of transformers' eager attention."""
    model = make_bert().eval()
    ids, mask = batch["input_ids"], batch["attention_mask"]
    _, fast = model.aga.get_text_features_with_attention(ids, mask)
    model.set_attn_implementation("eager")
    _, eager = model.aga.get_text_features_with_attention(ids, mask)
    torch.testing.assert_close(fast, eager, atol=1e-6, rtol=0)
    torch.testing.assert_close(fast.sum(dim=1), torch.ones(len(ids)))
    assert not fast[mask == 0].any() and not fast[:, 0].any()


def test_saved_and_loaded(make_bert, batch, tmp_path, tokenizer):
    model = make_bert(loss_weights={"itc": 1.0, "mlm": 1.0}).eval()
    model.save_pretrained(tmp_path)
    AgaProcessor.for_config(model.config, tokenizer).save_pretrained(tmp_path)
    again = AgaForPreTraining.from_pretrained(tmp_path).eval()
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    encoder, processor = AgaModel.from_pretrained(tmp_path).eval(), AgaProcessor.from_pretrained(tmp_path)
    inputs = processor(text=["A young man wearing a navy blue jacket. " * 9], return_tensors="pt")
    assert inputs["input_ids"].shape[1] == 40  # caption_length, not BERT's 512 positions
    with torch.no_grad():
        got = encoder.get_text_features(**inputs).pooler_output
        torch.testing.assert_close(got, model.aga.get_text_features(**inputs).pooler_output)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"family": "t5"}, "family is 't5'; choose one of clip, bert"),
        ({"text_config": AgaConfig().text_config}, "family 'bert' wants 'aga_bert_text_model'"),
        ({"cross_modal_config": {"num_attention_heads": 5}}, "num_attention_heads: 5 does not divide"),
        ({"cross_modal_config": {"hidden_size": 24}}, r"cross_modal_config.hidden_size is 24, but the towers' is 32"),
        ({"text_config": {"vocab_size": 100}}, "outside the vocabulary of 100"),
        ({"text_config": {"caption_length": 600}}, "caption_length must lie between 3 and"),
        ({"text_config": {"maskk": 1}}, "has no key 'maskk'"),
        ({"family": "clip", "tie_word_embeddings": True, "text_config": None, "vision_config": None,
          "cross_modal_config": None}, "tie_word_embeddings"),
        ({"objective_config": {"momentum": 1.0}}, r"momentum must lie in \[0, 1\)"),
        ({"objective_config": {"queue_size": 5}}, "queue_size holds embeddings of the momentum model"),
    ],
)  # fmt: skip
def test_bad_configurations_are_named(make_sections, change, named):
    with pytest.raises((ValueError, StrictDataclassError), match=named):
        AgaConfig(**{**make_sections("bert"), **change})
