"""Looking into a model leaves no trace: mode, gradients and random numbers; and what is seen is the model's own."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from aga_model.evaluation.diagnostics.probing import encode_image_files, enrich_once, undisturbed


@pytest.mark.parametrize("training", [False, True])
def test_mode_gradients_and_random_numbers_are_as_before(training):
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train(training)
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    drawn = []
    for seed in (5, 5, 6):
        with undisturbed(model, seed):
            assert not model.training and not model[1].training
            assert not model(torch.ones(1, 2)).requires_grad
            drawn.append(torch.rand(1).item())
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] == torch.rand(1, generator=torch.Generator().manual_seed(5)).item()
    with pytest.raises(KeyError), undisturbed(model, 0):
        raise KeyError
    assert model.training is training and model[1].training is training
    assert torch.equal(torch.rand(2), wanted) and model(torch.ones(1, 2)).requires_grad


@torch.no_grad()
def test_patch_states_of_image_files(make_model, processor, tmp_path):
    """Of the size that the processor says, (32, 16), whatever the files have."""
    rng, images, paths = np.random.default_rng(0), [], []
    for number, size in enumerate([(70, 40), (32, 16), (20, 90)]):
        images.append(Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)))
        paths.append(str(tmp_path / f"{number}.png"))
        images[-1].save(paths[-1])
    model = make_model().eval()
    pixels = processor(images=images, return_tensors="pt")["pixel_values"]
    wanted = model.aga.fusion_image_states(model.aga.get_image_features(pixels))
    assert wanted.shape == (3, 9, 32)
    torch.testing.assert_close(encode_image_files(model, processor, paths), wanted, atol=1e-4, rtol=0)


def test_a_draw_masks_and_writes_what_the_model_says(make_model, processor):
    """The masked tokens, and no others, are written anew, each by the prediction at its place."""
    model = make_model().eval()
    inputs = processor(text=["a man in a red jacket", "the navy shirt"], return_tensors="pt")
    ids = inputs["input_ids"]
    wanted = torch.zeros(ids.shape, dtype=torch.bool)
    wanted[0, [2, 5]] = wanted[1, 1] = True
    model.mask_probabilities = lambda ids, mask, attention: wanted.float()
    best = processor.tokenizer("umbrella", add_special_tokens=False)["input_ids"][0]
    vocabulary = model.config.text_config.vocab_size
    model.mlm_head.forward = lambda states: (
        torch.nn.functional.one_hot(torch.full(states.shape[:-1], best), vocabulary) * 99.0
    )
    with undisturbed(model, 0):
        draw = enrich_once(model, inputs, torch.randn(2, 9, 32))
    assert torch.equal(draw.masked, wanted) and torch.equal(draw.probabilities, wanted.float())
    assert torch.equal(draw.enriched, torch.where(wanted, best, ids))
