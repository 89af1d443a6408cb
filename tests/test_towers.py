"""Parts of the towers by hand: which tokens belong to a caption, and the attention row of one token."""

import numpy as np
import pytest
import torch

from aga_model.configuration_aga import AgaBertTextConfig, AgaTextConfig
from aga_model.towers import caption_tokens, end_positions, sdpa_with_summary_row

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
        attended, row = sdpa_with_summary_row(
            module, query, key, value, given, scaling=scaling, summary_index=index, is_causal=causal
        )
        np.testing.assert_allclose(row, wanted, atol=1e-6)
        np.testing.assert_allclose(attended, (weights @ value.numpy()).transpose(0, 2, 1, 3), atol=1e-5)
    assert sdpa_with_summary_row(module, query, key, value, given, scaling=scaling, is_causal=causal)[1] is None
