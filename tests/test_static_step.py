"""A step has the same shapes whatever is drawn: it compiles as one graph and never waits for the device."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounter

from aga_model import AgaConfig, AgaForPreTraining, pair_model
from aga_model.masking import MASKING_POLICIES, masked_positions, sample_tokens
from aga_model.packing import pack_captions
from aga_model.training.trainer import mark_lengths

LOSSES = {"itc": 1.0, "sdm": 0.5, "id": 0.5, "mlm": 1.0}


@given(
    strategy=st.sampled_from(sorted(MASKING_POLICIES)),
    ratio=st.floats(0.05, 0.9),
    lengths=st.lists(st.integers(1, 75), min_size=1, max_size=6),
    seed=st.integers(0, 1000),
)
def test_no_caption_has_more_masked_tokens_than_places(strategy, ratio, lengths, seed):
    torch.manual_seed(seed)
    policy = MASKING_POLICIES[strategy](ratio, 0.8)
    ordinary = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    probabilities = policy.probabilities(ordinary, torch.rand(ordinary.shape) ** 3 * ordinary)
    masked = sample_tokens(probabilities)
    assert masked.sum(dim=1).max() <= policy.capacity(max(lengths))
    positions, valid = masked_positions(masked, policy.capacity(max(lengths)))
    found = torch.zeros_like(masked).scatter(1, positions, valid)
    assert torch.equal(found, masked)


def _batch(model, count: int, seed: int, packed: bool):
    text = model.config.text_config
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(6, 36, (count,), generator=generator).tolist()
    ids = torch.randint(1, 500, (count, max(lengths)), generator=generator)
    ids[:, 0] = text.bos_token_id
    for row, length in enumerate(lengths):
        ids[row, length - 1 :] = text.eos_token_id
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return {
        "input_ids": ids,
        "attention_mask": mask.long(),
        "pixel_values": torch.randn(count, 3, 32, 16, generator=generator),
        "person_ids": torch.arange(count) // 2,
        **({"packing": pack_captions(lengths, 40)} if packed else {}),
    }


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("packed", "objective"), [(True, {"loss_weights": LOSSES}), (False, {"loss_weights": LOSSES | {"itm": 1.0}})]
)
def test_one_graph_for_every_length(make_sections, packed, objective):
    """Without a break, compiled once, and equal to eager."""
    # Of these few rows half are enriched: no batch without enriched rows, which is another graph.
    sections = make_sections("clip", **objective, num_identities=50, enrichment_probability=0.5)
    # What is traced takes its time with each layer; of the text tower's the last one is another than those before it.
    sections["vision_config"]["num_hidden_layers"], sections["text_config"]["num_hidden_layers"] = 1, 2
    torch.manual_seed(0)
    model = AgaForPreTraining(AgaConfig(**sections)).train()
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for step in range(4):
        model.training_progress = step / 4
        batch = _batch(model, 8, seed=step, packed=packed)
        mark_lengths(batch)
        torch.manual_seed(step)
        loss = compiled(**batch).loss
        loss.backward()
        torch.manual_seed(step)
        torch.testing.assert_close(loss, model(**batch).loss, atol=1e-5, rtol=1e-5)
    assert counter.frame_count == 1
    torch._dynamo.reset()


def test_exactly_the_share_of_captions_is_enriched(make_model):
    """In every step the same number, each caption as often as any other."""
    model = make_model(enrichment_probability=0.5, enrichment_sampling="argmax", mask_ratio=0.4).train()
    batch = _batch(model, 8, seed=0, packed=False)
    # An argmax that always writes the same word changes every enriched caption.
    model.mlm_head.decoder.bias.data[7] = 100.0
    changed = torch.stack(
        [(model(**batch).enriched_input_ids != batch["input_ids"]).any(dim=1) for _ in range(100)]
    ).float()
    assert set(changed.sum(dim=1).tolist()) == {4.0}
    assert (changed.mean(dim=0) - 0.5).abs().max() < 0.2  # four standard errors


def test_a_share_that_is_no_whole_number_is_met_on_average(make_model):
    model = make_model(enrichment_probability=0.3, enrichment_sampling="argmax", mask_ratio=0.4).train()
    batch = _batch(model, 4, seed=0, packed=False)
    model.mlm_head.decoder.bias.data[7] = 100.0
    numbers = torch.stack(
        [(model(**batch).enriched_input_ids != batch["input_ids"]).any(dim=1).sum() for _ in range(100)]
    ).float()
    assert set(numbers.tolist()) == {1.0, 2.0}
    assert abs(numbers.mean() - 1.2) < 4 * (0.16 / 100) ** 0.5


def test_chunks_keep_little_and_draw_the_same_again(make_model, monkeypatch):
    """Between forward and backward only results of a chunk are kept; masks are those of the first time."""
    model = make_model(loss_weights=LOSSES, num_identities=50).train()
    batch = _batch(model, 16, seed=1, packed=False)
    draws, kept = [], []

    def draw(probabilities):
        draws.append(sample_tokens(probabilities))
        return draws[-1]

    monkeypatch.setattr(pair_model, "sample_tokens", draw)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    for chunk in (0, 4):
        storages = {}

        def pack(tensor, storages=storages):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in parameters:
                storages[storage.data_ptr()] = storage.nbytes()
            return tensor

        model.use_chunks(chunk)
        draws.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = model(**batch)
        kept.append(sum(storages.values()))
        forward = list(draws)
        output.loss.backward()
    assert kept[1] < 0.2 * kept[0]
    assert len(forward) == 4 and len(draws) == 8
    assert all(torch.equal(first, again) for first, again in zip(forward, reversed(draws[4:])))
    assert torch.equal(torch.cat(forward), output.masked) and output.mlm_logits is None
