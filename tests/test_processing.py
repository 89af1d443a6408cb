"""Processor and tokenizers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertTokenizer

from aga_model import AgaConfig, AgaProcessor
from aga_model.data import read_crop, to_pixel_values, train_tokenizer
from aga_model.processing_aga import clip_tokenizer, special_token_settings

CLIP_BPE = Path(__file__).parents[2] / "shared" / "fixtures" / "clip_bpe"
needs_clip_bpe = pytest.mark.skipif(not CLIP_BPE.is_dir(), reason="CLIP's vocabulary is not part of this project")


def _clip_vocabulary():
    vocab = json.loads((CLIP_BPE / "vocab.json").read_text(encoding="utf-8"))
    lines = (CLIP_BPE / "merges.txt").read_text(encoding="utf-8").splitlines()
    merges = [tuple(line.split()) for line in lines if line and not line.startswith("#")]
    return vocab, merges


@needs_clip_bpe
def test_clip_tokenizer_gives_the_golden_ids():
    tokenizer = clip_tokenizer(*_clip_vocabulary())
    assert (tokenizer.mask_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (49405, 49406, 49407)
    for case in json.loads((CLIP_BPE / "golden_ids.json").read_text(encoding="utf-8")):
        assert tokenizer(case["caption"], add_special_tokens=False)["input_ids"] == case["ids"], case["caption"]


@needs_clip_bpe
def test_clip_processor_round_trip(tmp_path):
    processor = AgaProcessor.for_config(AgaConfig(), clip_tokenizer(*_clip_vocabulary()))
    processor.save_pretrained(tmp_path)
    loaded = AgaProcessor.from_pretrained(tmp_path)
    caption = "A man with a red jacket and blue jeans " * 20
    inputs = loaded(text=[caption, "short"], images=[Image.new("RGB", (50, 120))] * 2, return_tensors="pt")
    assert inputs["input_ids"].shape == (2, 77)
    assert inputs["input_ids"][0, -1] == 49407  # cut, with the end-of-text kept
    assert inputs["pixel_values"].shape == (2, 3, 384, 128)
    assert loaded.tokenizer.mask_token_id == 49405


def test_not_clips_vocabulary():
    with pytest.raises(ValueError, match="not CLIP's vocabulary"):
        clip_tokenizer({"a": 0}, [])


def test_learnt_tokenizer_encodes_everything_and_keeps_clips_places(tokenizer):
    size = len(tokenizer)
    assert (tokenizer.mask_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (size - 3, size - 2, size - 1)
    assert sorted(tokenizer.get_vocab().values()) == list(range(size))
    text = "wholly unseen: 红色外套, émigré 👟 1999"
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == size - 2 and ids[-1] == size - 1 and ids.count(size - 1) == 1
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == text.replace(" ", "")
    assert len(tokenizer("jacket", add_special_tokens=False)["input_ids"]) == 1


def test_learnt_tokenizer_is_deterministic():
    captions = [f"a person in {colour} {garment}" for colour in ("red", "teal") for garment in ("jeans", "coat")]
    code = (
        "import json, sys\nfrom aga_model.data.tokenizer import train_tokenizer\n"
        "print(json.dumps(train_tokenizer(json.load(sys.stdin), 560).backend_tokenizer.to_str()))"
    )
    # This process's own seed is another one.
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    command = [sys.executable, "-c", code]
    found = subprocess.run(
        command, input=json.dumps(captions), env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert json.loads(found) == train_tokenizer(captions, 560).backend_tokenizer.to_str()


def test_merges_worked_out_by_hand():
    """low x 3, lot x 2: "lo" in all 5, then "low" 3 times, then "lot" twice; an x of equals sorts before a y."""
    tokenizer = train_tokenizer(["low lot", "low lot", "low"], 515 + 3)
    assert [entry for entry, index in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])[512:515]] == [
        "lo", "low</w>", "lot</w>",
    ]  # fmt: skip
    assert tokenizer.tokenize("low lot lo") == ["low</w>", "lot</w>", "l", "o</w>"]
    equal = train_tokenizer(["cd ab"], 515 + 1)
    assert "ab</w>" in equal.get_vocab() and "cd</w>" not in equal.get_vocab()


def test_vocabulary_too_small():
    with pytest.raises(ValueError, match="vocab_size must be above 515"):
        train_tokenizer(["a"], 300)


def test_tokenizer_must_fit_the_model(tokenizer):
    with pytest.raises(ValueError, match=r"text_config\.vocab_size is 49408"):
        AgaProcessor.for_config(AgaConfig(), tokenizer)


def test_tokenizer_needs_a_mask_token(tokenizer, processor):
    from transformers import CLIPTokenizer

    with pytest.raises(ValueError, match="mask token"):
        AgaProcessor(processor.image_processor, CLIPTokenizer())


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_training_pixels_equal_the_processors(processor, tmp_path, mode):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (57, 23, 3), dtype=np.uint8)).convert(mode)
    image.save(tmp_path / "crop.png")
    crop = read_crop(tmp_path / "crop.png", 32, 16)
    pixels = torch.from_numpy(to_pixel_values([crop], processor.image_processor))
    wanted = processor(images=[image.convert("RGB")], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels, wanted, atol=1e-5, rtol=0)


def test_the_input_names_are_those_of_the_inputs(processor):
    bert = _bert_tokenizer(model_max_length=16)
    for each in (processor, AgaProcessor(processor.image_processor, bert)):
        inputs = each(images=Image.new("RGB", (16, 32)), text="a red coat", return_tensors="pt")
        assert set(each.model_input_names) == set(inputs) == {"pixel_values", "input_ids", "attention_mask"}


def test_unreadable_crop_is_named(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"broken\.jpg"):
        read_crop(tmp_path / "broken.jpg", 32, 16)


def _bert_tokenizer(**options):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "coat"]
    return BertTokenizer(vocab={entry: index for index, entry in enumerate(words)}, **options)


def test_special_tokens_of_a_tokenizer_by_name_and_others():
    tokenizer = _bert_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["[PERSON]"]})
    tokenizer.add_tokens(["[BAG]"])  # a word
    tokenizer.add_tokens(["[COAT]"], special_tokens=True)
    assert special_token_settings(tokenizer) == {
        "bos_token_id": 2, "eos_token_id": 3, "mask_token_id": 4, "pad_token_id": 0, "unk_token_id": 1,
        "other_special_token_ids": [8, 10],
    }  # fmt: skip


def test_a_start_of_text_goes_before_cls():
    tokenizer = _bert_tokenizer(bos_token="a", eos_token="coat")
    settings = special_token_settings(tokenizer)
    assert (settings["bos_token_id"], settings["eos_token_id"]) == (5, 7)


@pytest.mark.parametrize("key", ["bos_token_id", "eos_token_id", "mask_token_id", "pad_token_id"])
def test_every_special_token_must_be_the_models(make_sections, tokenizer, key):
    sections = make_sections("bert")
    settings = sections["text_config"]
    free = next(i for i in range(20, 99) if i not in special_token_settings(tokenizer).values())
    with pytest.raises(ValueError, match=rf"text_config\.{key} is {free}, the tokenizer's is {settings[key]};"):
        AgaProcessor.for_config(AgaConfig(**sections | {"text_config": settings | {key: free}}), tokenizer)


def test_crops_are_resized_whole_and_captions_cut_at_the_models_length(processor, tokenizer):
    """A crop of left half black and right half white stays so at the model's height and width; the end is kept."""
    image = Image.new("RGB", (40, 50))
    image.paste((255, 255, 255), (20, 0, 40, 50))
    inputs = processor(images=[image], text=["a man in red " * 30], return_tensors="pt")
    pixels = inputs["pixel_values"][0]
    assert pixels.shape == (3, 32, 16)
    black = torch.tensor([-0.48145466 / 0.26862954, -0.4578275 / 0.26130258, -0.40821073 / 0.27577711])
    white = torch.tensor([0.51854534 / 0.26862954, 0.5421725 / 0.26130258, 0.59178927 / 0.27577711])
    torch.testing.assert_close(pixels[:, :, :6], black[:, None, None].expand(3, 32, 6), atol=1e-4, rtol=0)
    torch.testing.assert_close(pixels[:, :, 10:], white[:, None, None].expand(3, 32, 6), atol=1e-4, rtol=0)
    ids = inputs["input_ids"][0]
    assert len(ids) == 40 and ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
    assert not (ids[1:-1] == tokenizer.eos_token_id).any()
