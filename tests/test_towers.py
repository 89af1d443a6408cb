"""Parts of the towers by hand: which tokens belong to a caption, and the attention row of one token."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from aga_model import AgaConfig, AgaModel
from aga_model.configuration_aga import AgaBertTextConfig, AgaTextConfig
from aga_model.towers import caption_tokens, end_positions, sdpa_with_pooled_row

CLIP = AgaTextConfig(vocab_size=20)  # start 18, end and padding 19
BERT = AgaBertTextConfig(
    vocab_size=20, pad_token_id=0, unk_token_id=5, bos_token_id=6, eos_token_id=7, mask_token_id=8
)


def test_tokens_of_a_caption_by_hand():
    """The end is one of them, padding is not, with or without an attention mask; more may be hidden by the mask."""
    clip = torch.tensor([[18, 3, 4, 19, 19, 19], [18, 19, 19, 19, 19, 19]])
    bert = torch.tensor([[6, 3, 7, 4, 7, 0], [6, 7, 0, 0, 0, 0]])  # a separator in the middle
    assert end_positions(clip, CLIP).tolist() == [3, 1]
    for ids, config, wanted in (
        (clip, CLIP, [[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]]),
        (bert, BERT, [[1, 1, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0]]),
    ):
        assert caption_tokens(ids, None, config).int().tolist() == wanted
        assert caption_tokens(ids, torch.tensor(wanted), config).int().tolist() == wanted
        hidden = torch.tensor(wanted)
        hidden[0, 1] = 0
        assert caption_tokens(ids, hidden, config).int().tolist() == hidden.tolist()


# A mask holds the causal order already.
@pytest.mark.parametrize(("mask", "causal"), [("none", True), ("none", False), ("bool", False), ("additive", False)])
@pytest.mark.parametrize("scaling", [None, 0.7])
def test_the_attention_row_by_numpy(mask, causal, scaling):
    """Of one query per sequence, and of any two, with sequences of which some keys are hidden."""
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 2, 5, 4)
    hidden = torch.zeros(2, 1, 5, 5, dtype=torch.bool)
    hidden[0, :, :, 3:] = hidden[1, :, 2:, 1] = True
    given = {"none": None, "bool": ~hidden, "additive": torch.where(hidden, -1e9, 0.0)}[mask]
    scores = query.numpy() @ key.numpy().transpose(0, 1, 3, 2) * (0.5 if scaling is None else scaling)
    if causal:
        scores = np.where(np.tri(5, dtype=bool), scores, -np.inf)
    if mask != "none":
        scores = np.where(hidden.numpy(), -np.inf, scores)
    weights = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    module = torch.nn.Module()
    module.is_causal = causal
    for index, wanted in (
        (torch.tensor([4, 2]), weights[[0, 1], :, [4, 2]]),
        (torch.tensor([[1, 3], [0, 2], [1, 0]]), weights[[1, 0, 1], :, [3, 2, 0]]),
    ):
        attended, row = sdpa_with_pooled_row(
            module, query, key, value, given, scaling=scaling, pooled_index=index, is_causal=causal
        )
        np.testing.assert_allclose(row, wanted, atol=1e-6)
        np.testing.assert_allclose(attended, (weights @ value.numpy()).transpose(0, 2, 1, 3), atol=1e-5)
    assert sdpa_with_pooled_row(module, query, key, value, given, scaling=scaling, is_causal=causal)[1] is None


def test_the_stem_by_functions(make_sections):
    """Convolutions of stride 2, each normalised over all of its channels and pixels, then ReLU."""
    sections = make_sections("clip")
    sections["vision_config"] |= {"stem_channels": [4, 6]}
    torch.manual_seed(0)
    embeddings = AgaModel(AgaConfig(**sections)).vision_model.embeddings
    with torch.no_grad():
        for parameter in embeddings.stem.parameters():
            parameter.copy_(torch.randn_like(parameter))
    pixels = torch.randn(2, 3, 32, 16)
    states = pixels
    for convolution, norm in ((embeddings.stem[0], embeddings.stem[1]), (embeddings.stem[3], embeddings.stem[4])):
        states = F.conv2d(states, convolution.weight, stride=2, padding=1)
        states = (states - states.mean(dim=(1, 2, 3), keepdim=True)) / (
            states.var(dim=(1, 2, 3), keepdim=True, unbiased=False) + 1e-5
        ).sqrt()
        states = F.relu(states * norm.weight[:, None, None] + norm.bias[:, None, None])
    patches = F.conv2d(states, embeddings.patch_embedding.weight, stride=2).flatten(2).transpose(1, 2)
    found = embeddings(pixels)
    table = embeddings.position_embedding.weight
    torch.testing.assert_close(found[:, 1:], patches + table[1:], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[:, 0], (embeddings.class_embedding + table[0]).expand(2, -1))


@pytest.mark.parametrize("family", ["clip", "bert"])
def test_the_summary_of_a_caption_is_the_families(make_sections, batch, family):
    """CLIP's first end of text, BERT's first token; an image's class token behind the last norm."""
    torch.manual_seed(0)
    model = AgaModel(AgaConfig(**make_sections(family))).eval()
    ids = batch["input_ids"]
    text = model.get_text_features(ids, batch["attention_mask"])
    places = (ids == model.config.text_config.eos_token_id).int().argmax(dim=1) if family == "clip" else [0] * 4
    wanted = model.text_projection(text.last_hidden_state[torch.arange(4), places])
    torch.testing.assert_close(text.pooler_output, wanted)
    vision = model.get_image_features(batch["pixel_values"])
    states = vision.last_hidden_state[:, 0]
    norm = model.vision_model.post_layernorm
    with torch.no_grad():
        norm.bias.add_(0.5)
    states = F.layer_norm(states, states.shape[-1:], norm.weight, norm.bias, norm.eps)
    again = model.get_image_features(batch["pixel_values"]).pooler_output
    torch.testing.assert_close(again, model.visual_projection(states), atol=1e-5, rtol=1e-5)
