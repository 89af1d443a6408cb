"""Captions that share a row are read as if each had its own, by every part that reads them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aga_model import AgaConfig, AgaForPreTraining
from aga_model.packing import PackedCaptions, pack_captions

LENGTHS = [9, 14, 3, 11, 6, 13, 8, 7]


@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=40), spare=st.integers(0, 30))
def test_every_token_has_one_slot(lengths, spare):
    longest_row = max(lengths) + spare
    packing = pack_captions(lengths, longest_row)
    rows, width = packing["tokens"].shape
    assert max(lengths) <= width <= longest_row
    assert rows * width <= len(lengths) * max(lengths)  # never more than padding to the longest
    taken = torch.full((rows * width,), -1)
    for caption, length in enumerate(lengths):
        slots = packing["slots"][caption]
        assert (slots[length:] == rows * width).all()
        assert (taken[slots[:length]] == -1).all()
        taken[slots[:length]] = caption
        assert packing["tokens"].flatten()[slots[:length]].tolist() == [
            caption * max(lengths) + position for position in range(length)
        ]
        assert packing["positions"].flatten()[slots[:length]].tolist() == list(range(length))
    assert torch.equal(taken, packing["captions"].flatten())


def test_captions_of_usual_lengths_leave_little_empty():
    generator = torch.Generator().manual_seed(0)
    for batch in (16, 64):
        lengths = (29 + 9 * torch.randn(batch, generator=generator)).round().int().clamp(8, 77).tolist()
        assert pack_captions(lengths, 77)["tokens"].numel() < 1.08 * sum(lengths)


@pytest.mark.parametrize("lengths", [[], [78, 3]])
def test_captions_that_do_not_fit_are_refused(lengths):
    with pytest.raises(ValueError, match="captions of 1 to 77 tokens"):
        pack_captions(lengths, 77)


@pytest.fixture(params=["clip", "bert"])
def make(request, make_sections):
    """A model of either family, in training, without dropout."""

    def build(**objective):
        torch.manual_seed(3)
        sections = make_sections(request.param, **objective)
        if request.param == "bert":
            still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
            sections["text_config"] |= still
            sections["cross_modal_config"] |= still
        return AgaForPreTraining(AgaConfig(**sections)).train()

    return build


def _batch(model):
    """Captions of `LENGTHS` tokens with images and persons."""
    text = model.config.text_config
    torch.manual_seed(1)
    longest = max(LENGTHS)
    inside = torch.arange(longest) < torch.tensor(LENGTHS)[:, None]
    ids = torch.randint(300, 500, (len(LENGTHS), longest))
    ids[:, 0] = text.bos_token_id
    ids[~inside] = text.pad_token_id
    for row, length in enumerate(LENGTHS):
        ids[row, length - 1] = text.eos_token_id
    return {
        "input_ids": ids,
        "attention_mask": inside.long(),
        "pixel_values": torch.randn(len(LENGTHS), 3, 32, 16),
        "person_ids": torch.arange(len(LENGTHS)) // 2,
    }


def test_features_and_attention_are_the_same(make):
    model = make()
    batch = _batch(model)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    packing = pack_captions(LENGTHS, 24)
    assert len(packing["tokens"]) < len(LENGTHS)
    with torch.no_grad():
        wanted, attention = model.aga.get_text_features_with_attention(ids, mask)
        got, packed_attention = model.aga.get_text_features_with_attention(ids, mask, packing)
        plain = model.aga.get_text_features(ids, mask, packing)
    torch.testing.assert_close(got.pooler_output, wanted.pooler_output, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(plain.pooler_output, wanted.pooler_output, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(packed_attention, attention, atol=1e-6, rtol=0)
    inside = mask.bool()
    torch.testing.assert_close(got.last_hidden_state[inside], wanted.last_hidden_state[inside], atol=1e-5, rtol=1e-5)
    assert not got.last_hidden_state[~inside].any()


@pytest.mark.parametrize("packed", [False, True])
def test_chosen_rows_give_the_captions_that_are_in_them(make, packed):
    model = make()
    batch = _batch(model)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    packing = pack_captions(LENGTHS, 24) if packed else None
    rows = PackedCaptions(mask, tuple(ids.shape), packing, ids.device)
    chosen = rows.choose(torch.tensor([2, 0]))
    with torch.no_grad():
        wanted, attention = model.aga.get_text_features_with_attention(ids, mask)
        got, got_attention = model.aga.read_packed_with_attention(ids, chosen)
    present = chosen.present()
    assert 0 < present.sum() < len(LENGTHS) and rows.present() is None
    if not packed:
        assert present.nonzero().flatten().tolist() == [0, 2]
    torch.testing.assert_close(got.pooler_output[present], wanted.pooler_output[present], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(got_attention[present], attention[present], atol=1e-6, rtol=0)


OBJECTIVES = {
    "replace": {"enrichment_probability": 1.0},
    "add": {"enrichment": "add", "enrichment_probability": 1.0},
    "itm": {"loss_weights": {"itc": 1.0, "itm": 1.0, "mlm": 1.0}, "enrichment_probability": 1.0},
    "random": {"mask_strategy": "random", "enrichment": "none", "loss_weights": {"sdm": 1.0, "mlm": 1.0}},
}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_step_is_the_same(make, objective, monkeypatch):
    """Losses and gradients, with draws that do not depend on the rows; in float64, since SDM magnifies rounding."""
    model = make(**OBJECTIVES[objective], enrichment_sampling="argmax", mask_ratio=0.3).double()
    batch = _batch(model)
    batch["pixel_values"] = batch["pixel_values"].double()
    monkeypatch.setattr(
        "aga_model.pair_model.sample_tokens",
        lambda probabilities: (torch.arange(probabilities.shape[1]) % 4 == 2)[None] & (probabilities > 0.0),
    )
    monkeypatch.setattr(
        "aga_model.pair_model.corrupt_tokens",
        lambda ids, masked, config: torch.where(masked, config.mask_token_id, ids),
    )
    monkeypatch.setattr(
        "aga_model.matching.hard_negatives",
        lambda logits, same: (logits.masked_fill(same, -1e9).argmax(dim=1), (~same).any(dim=1)),
    )
    found = []
    for packing in (None, pack_captions(LENGTHS, 24)):
        model.zero_grad()
        output = model(**batch, packing=packing)
        output.loss.backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        found.append((output.loss.detach(), output.mlm_loss.detach(), output.enriched_input_ids, gradients))
    (loss, mlm, ids, gradients), (packed_loss, packed_mlm, packed_ids, packed_gradients) = found
    torch.testing.assert_close(packed_loss, loss, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(packed_mlm, mlm, atol=1e-9, rtol=1e-9)
    assert torch.equal(packed_ids, ids)
    for name, gradient in gradients.items():
        torch.testing.assert_close(packed_gradients[name], gradient, atol=1e-9, rtol=1e-9, msg=name)


def test_other_attention_cannot_keep_captions_apart(make):
    model = make()
    batch = _batch(model)
    model.set_attn_implementation("eager")
    with pytest.raises(ValueError, match="cannot keep packed captions apart"):
        model.aga.get_text_features(batch["input_ids"], packing=pack_captions(LENGTHS, 24))


def test_chunks_cannot_be_packed(make):
    model = make()
    model.use_chunks(4)
    with pytest.raises(ValueError, match="packed captions cannot be read in chunks"):
        model(**_batch(model), packing=pack_captions(LENGTHS, 24))
