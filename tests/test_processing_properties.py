"""The processor reads any text and any image, or says which one it cannot read."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from aga_model.data import read_crop, to_pixel_values
from aga_model.files import MIN_SIDE, UnreadableImageError

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "I", "F", "I;16"]
SIDES = st.integers(1, 60) | st.just(700)
once = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@once
@given(st.lists(ANY_TEXT, min_size=1, max_size=4))
@example(["", " ", "\n\t"])
@example(["x" * 100_000, "a red coat " * 3000, "红" * 500])
@example(["\x00", "a\x00b", "\u200b\ufeff\u202e", "\U0001f45f" * 80])
@example(["<|endoftext|> red", "<|mask|><|startoftext|>", "'s 's"])
def test_any_text_becomes_a_caption(processor, captions):
    """Start, at most as many tokens as the model reads, end; the others of a batch change nothing but the padding."""
    tokenizer = processor.tokenizer
    inputs = processor(text=captions, return_tensors="pt")
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    assert ids.shape == mask.shape and len(ids) == len(captions) and 2 <= ids.shape[1] <= tokenizer.model_max_length
    assert ids.min() >= 0 and ids.max() < len(tokenizer)
    for caption, row, kept in zip(captions, ids, mask):
        length = int(kept.sum())
        assert kept[:length].all() and (row[length:] == tokenizer.pad_token_id).all()
        assert row[0] == tokenizer.bos_token_id and row[length - 1] == tokenizer.eos_token_id
        assert torch.equal(row[:length], processor(text=caption, return_tensors="pt")["input_ids"][0])


def _picture(mode: str, width: int, height: int, seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    if mode == "PA":
        return image.convert("P").convert("PA")
    if mode == "I;16":
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    return image.convert("L").convert(mode) if mode in ("LA", "I", "F", "1") else image.convert(mode)


@once
@given(st.sampled_from(MODES), SIDES, SIDES, st.integers(0, 5))
@example("1", 1, 1, 0)
@example("PA", 700, 1, 0)
def test_any_image_becomes_a_crop(processor, mode, width, height, seed):
    pixels = processor(images=_picture(mode, width, height, seed), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 32, 16) and pixels.dtype == torch.float32
    assert pixels.isfinite().all() and pixels.abs().max() < 3  # of CLIP's mean and standard deviation


@once
@given(st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "I;16"]), SIDES, SIDES, st.integers(0, 5))
def test_any_image_file_becomes_a_crop(processor, tmp_path_factory, mode, width, height, seed):
    path = tmp_path_factory.getbasetemp() / "any.png"
    _picture(mode, width, height, seed).save(path)
    if min(width, height) < MIN_SIDE:
        with pytest.raises(UnreadableImageError, match=rf"any\.png.*smaller than {MIN_SIDE} px"):
            read_crop(path, 32, 16)
        return
    crop = read_crop(path, 32, 16)
    assert crop.shape == (32, 16, 3) and crop.dtype == np.uint8
    assert np.isfinite(to_pixel_values([crop], processor.image_processor)).all()


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ({"text": []}, "no captions"),
        ({"text": ["a coat", "red \ud83d coat"]}, r"caption 1 is no text: '\\ud83d' at character 4"),
        ({"text": "\udcff"}, "caption 0 is no text"),
        ({"images": []}, "no images"),
        ({"images": np.zeros((0, 4, 3), np.uint8)}, r"image 0 has no pixels: its size is \(0, 4, 3\)"),
        ({"images": [Image.new("RGB", (4, 4)), Image.new("RGB", (0, 4))]}, r"image 1 has no pixels"),
        ({"images": torch.zeros(3, 4, 0)}, "image 0 has no pixels"),
        ({"text": None}, "at least one input"),
        ({"text": 5}, "caption 0 is no text but int"),
        ({"text": ["a", None]}, "caption 1 is no text but NoneType"),
    ],
)
def test_what_cannot_be_read_is_named(processor, inputs, named):
    with pytest.raises(ValueError, match=named):
        processor(**inputs, return_tensors="pt")
