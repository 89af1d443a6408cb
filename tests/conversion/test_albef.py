"""ALBEF's and RaSa's checkpoints give RaSa's own outputs, and every key is accounted for."""

import json
import logging
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file
from torch.nn.functional import normalize
from transformers import AutoModel, AutoModelForPreTraining, AutoProcessor, ViTConfig, ViTModel

from aga_model import AgaForImageTextRetrieval
from aga_model.conversion import ConversionError, load_albef
from aga_model.losses import mlm_loss

GOLDEN = Path(__file__).parents[1] / "fixtures" / "rasa_tiny"
CHECKPOINT = GOLDEN / "checkpoint.pth"
WORDS = ["man", "woman", "in", "a", "red", "blue", "coat", "jean", "##s", "wear", "##ing"]


@pytest.fixture
def golden():
    return load_file(GOLDEN / "inputs.safetensors") | load_file(GOLDEN / "outputs.safetensors")


@pytest.fixture
def model():
    return load_albef(CHECKPOINT, num_heads=4).model


@pytest.fixture
def vocabulary(tmp_path):
    """A folder with nothing but vocab.txt, whose first entries are the golden checkpoint's special tokens."""
    entries = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", *WORDS]
    entries += [f"[unused{number}]" for number in range(120 - len(entries))]
    (tmp_path / "vocabulary").mkdir()
    (tmp_path / "vocabulary" / "vocab.txt").write_text("\n".join(entries) + "\n")
    return tmp_path / "vocabulary"


def _changed(tmp_path, change):
    state = torch.load(CHECKPOINT, weights_only=True)["model"]
    change(state)
    torch.save({"model": state}, tmp_path / "changed.pth")
    return tmp_path / "changed.pth"


# --- RaSa's own figures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", ["full", "dynamic"])
@torch.no_grad()
def test_outputs_and_loss_equal_rasas(model, golden, padding):
    length = golden["attention_mask"].shape[1]
    if padding == "dynamic":
        longest = int(golden["attention_mask"].sum(1).max())
        assert longest < length
        length = longest
    ids, mask, mlm_ids, labels = (
        golden[key][:, :length] for key in ("input_ids", "attention_mask", "mlm_input_ids", "mlm_labels")
    )
    summary = ids.new_zeros(len(ids))
    vision = model.aga.get_image_features(golden["pixel_values"])
    text = model.aga.get_text_features(ids, mask, output_attentions=True, pooled_index=summary, return_dict=True)
    image_states = model.aga.fusion_image_states(vision)
    states, inside = model.caption_states(ids, mask, text)
    logits = model.mlm_head(model.fuse(mlm_ids, image_states, mask))
    got = {
        "image_hidden": image_states,
        "text_hidden": model.aga.fusion_text_states(text),
        "image_embeds": normalize(vision.pooler_output, dim=-1),
        "text_embeds": normalize(text.pooler_output, dim=-1),
        "fused_hidden": model.fuse(ids, image_states, mask),
        "itm_logits": model.match_logits(states, inside, summary, image_states),
        "mlm_logits": logits,
        "mlm_loss": mlm_loss(logits[labels != -100], labels[labels != -100]),
    }
    got |= {f"text_attention_{layer}": rows for layer, rows in enumerate(text.attentions)}
    wanted = {key: golden[key] for key in got}
    for key in ("text_hidden", "fused_hidden", "mlm_logits"):
        wanted[key] = wanted[key][:, :length]
    for key in ("text_attention_0", "text_attention_1"):
        wanted[key] = wanted[key][:, :, 0, :length]  # of the class token, to what is no padding
    for key, value in got.items():
        torch.testing.assert_close(value, wanted[key], atol=1e-5, rtol=0, msg=lambda text, key=key: f"{key}: {text}")


def test_sizes_come_from_the_state(model):
    vision, text, fusion = model.config.vision_config, model.config.text_config, model.config.cross_modal_config
    assert (list(vision.image_size), vision.patch_size, vision.num_attention_heads) == ([64, 64], 16, 4)
    assert (text.hidden_size, text.num_hidden_layers, text.intermediate_size) == (48, 2, 192)
    assert (fusion.num_hidden_layers, fusion.encoder_width) == (2, 48)
    assert model.config.objective_config.loss_weights == {"itc": 1.0, "itm": 1.0, "mlm": 1.0}
    temperature = torch.load(CHECKPOINT, weights_only=True)["model"]["temp"]
    assert model.temperature.item() == pytest.approx(temperature.item())


def test_a_converted_model_trains(model, golden):
    ids, mask, pixels = (golden[key] for key in ("input_ids", "attention_mask", "pixel_values"))
    output = model.train()(ids, pixels, mask, person_ids=torch.tensor([0, 1, 2, 3, 3]))
    assert min(output.itc_loss, output.itm_loss, output.mlm_loss) > 0
    output.loss.backward()
    assert model.fusion.layers[0].crossattention.self.query.weight.grad.abs().sum() > 0


# --- every key --------------------------------------------------------------------------------------------------


def test_what_is_ignored_is_listed(caplog):
    with caplog.at_level(logging.INFO, logger="aga_model.conversion"):
        load_albef(CHECKPOINT, num_heads=4)
    ignored = {record.args[1]: record.args[2] for record in caplog.records if "ignored on purpose" in record.message}
    state = torch.load(CHECKPOINT, weights_only=True)["model"]
    for start, reason in (
        ("visual_encoder_m.", "momentum"),
        ("image_queue", "queue"),
        ("text_queue", "queue"),
        ("idx_queue", "queue"),
        ("queue_ptr", "queue"),
        ("prd_head.", "RaSa"),
        ("mrtd_head.", "RaSa"),
    ):
        keys = [key for key in state if key.startswith(start)]
        assert keys and all(reason in ignored.pop(key) for key in keys)
    assert set(ignored) == {
        "text_encoder.bert.embeddings.position_ids",
        "text_encoder.cls.predictions.decoder.bias",
    }


def test_the_momentum_models_text_side_is_ignored_too(tmp_path, model):
    def add(state):
        for key in list(state):
            for name in ("text_encoder", "vision_proj", "text_proj"):
                if key.startswith(f"{name}."):
                    state[key.replace(name, f"{name}_m", 1)] = torch.zeros_like(state[key])

    got = load_albef(_changed(tmp_path, add), num_heads=4).model
    assert all(torch.equal(a, b) for a, b in zip(got.state_dict().values(), model.state_dict().values()))


def test_an_unknown_key_is_an_error(tmp_path):
    path = _changed(tmp_path, lambda state: state.update(extra_head=torch.zeros(2)))
    with pytest.raises(ConversionError, match="1 keys are not known, first: extra_head"):
        load_albef(path, num_heads=4)


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("text_proj.bias", r"text_proj\.bias"),
        ("text_encoder.bert.encoder.layer.0.output.dense.bias", r"text_model\.encoder\.layer\.0\.output\.dense\.bias"),
        ("text_encoder.bert.encoder.layer.3.crossattention.self.key.weight", r"fusion\.layers\.1\.crossattention"),
        ("text_encoder.cls.predictions.transform.dense.weight", r"predictions\.transform\.dense\.weight"),
        ("temp", "'temp'"),
    ],
)
def test_a_missing_key_is_an_error(tmp_path, missing, named):
    path = _changed(tmp_path, lambda state: state.pop(missing))
    with pytest.raises(ConversionError, match=named):
        load_albef(path, num_heads=4)


class _Malicious:
    def __reduce__(self):
        return print, ("code ran",)


def test_a_pickle_with_code_is_refused(tmp_path, capsys):
    torch.save({"model": {"temp": _Malicious()}}, tmp_path / "bad.pth")
    with pytest.raises(ConversionError, match="cannot be read as a checkpoint"):
        load_albef(tmp_path / "bad.pth")
    assert "code ran" not in capsys.readouterr().out


def test_layers_that_attend_to_the_image_must_be_the_upper_ones(tmp_path):
    def move(state):
        for key in [key for key in state if ".layer.3.crossattention." in key]:
            state[key.replace(".layer.3.", ".layer.0.")] = state.pop(key)

    with pytest.raises(ConversionError, match=r"of its 4 text layers \[0, 2\] attend to the image"):
        load_albef(_changed(tmp_path, move), num_heads=4)


@torch.no_grad()
def test_a_retrieval_checkpoint_has_no_mlm_head(tmp_path, model, golden):
    """ALBEF's own fine-tuned retrieval checkpoints: BERT one level up, no MLM head."""

    def strip(state):
        for key in list(state):
            if key.startswith("text_encoder.cls."):
                del state[key]
            elif key.startswith("text_encoder.bert."):
                state[key.replace(".bert.", ".", 1)] = state.pop(key)

    got = load_albef(_changed(tmp_path, strip), num_heads=4).model
    assert got.config.objective_config.loss_weights == {"itc": 1.0, "itm": 1.0}
    state, whole = got.state_dict(), model.state_dict()
    assert all(torch.equal(state[key], whole[key]) for key in state if not key.startswith("mlm_head."))
    images = got.aga.fusion_image_states(got.aga.get_image_features(golden["pixel_values"]))
    fused = got.fuse(golden["input_ids"], images, golden["attention_mask"])
    torch.testing.assert_close(got.itm_head(fused[:, 0]), golden["itm_logits"], atol=1e-5, rtol=0)


# --- the tied matrix --------------------------------------------------------------------------------------------


def _is_tied(model):
    return model.mlm_head.decoder.weight is model.aga.text_model.embeddings.word_embeddings.weight


def test_the_decoder_is_the_word_embedding(model, tmp_path):
    assert _is_tied(model)
    model.save_pretrained(tmp_path)
    assert _is_tied(AutoModelForPreTraining.from_pretrained(tmp_path))


def test_a_decoder_that_was_trained_apart_stays_apart(tmp_path):
    key = "text_encoder.cls.predictions.decoder.weight"
    path = _changed(tmp_path, lambda state: state.update({key: state[key] + 1}))
    model = load_albef(path, num_heads=4).model
    words = model.aga.text_model.embeddings.word_embeddings.weight
    torch.testing.assert_close(model.mlm_head.decoder.weight, words + 1)
    model.save_pretrained(tmp_path / "saved")
    loaded = AutoModelForPreTraining.from_pretrained(tmp_path / "saved")
    assert torch.equal(loaded.mlm_head.decoder.weight, model.mlm_head.decoder.weight)
    assert torch.equal(loaded.aga.text_model.embeddings.word_embeddings.weight, words)


def test_two_different_output_biases_are_an_error(tmp_path):
    key = "text_encoder.cls.predictions.decoder.bias"
    path = _changed(tmp_path, lambda state: state.update({key: state[key] + 1}))
    with pytest.raises(ConversionError, match=r"predictions\.bias and .*decoder\.bias should be the same"):
        load_albef(path, num_heads=4)


# --- sizes that the weights do not tell -------------------------------------------------------------------------


def test_image_size():
    """The position table goes to another grid as transformers' ViT interpolates it; at its own size it stays."""
    own, _ = load_albef(CHECKPOINT, num_heads=4)
    same, _ = load_albef(CHECKPOINT, num_heads=4, image_size=(64, 64))
    assert same.config.vision_config.grid_size == (4, 4)
    assert torch.equal(_positions(same), _positions(own))
    wide, _ = load_albef(CHECKPOINT, num_heads=4, image_size=(128, 96))
    assert wide.config.vision_config.grid_size == (8, 6) and _positions(wide).shape == (49, 48)
    torch.manual_seed(0)
    vit = ViTModel(ViTConfig(image_size=64, hidden_size=48, num_hidden_layers=1, num_attention_heads=4))
    with torch.no_grad():
        vit.embeddings.position_embeddings.copy_(_positions(own)[None])
        wanted = vit.embeddings.interpolate_pos_encoding(torch.zeros(1, 49, 48), 128, 96)[0]
    torch.testing.assert_close(_positions(wide), wanted, atol=1e-5, rtol=0)
    with pytest.raises((ValueError, StrictDataclassError), match="width 40 is not divisible"):
        load_albef(CHECKPOINT, num_heads=4, image_size=(64, 40))


def _positions(model):
    return model.aga.vision_model.embeddings.position_embedding.weight


@pytest.mark.parametrize("heads", [0, 5, 64])
def test_heads_that_do_not_divide(heads):
    with pytest.raises(ConversionError, match=f"num_heads {heads} does not divide the width 48"):
        load_albef(CHECKPOINT, num_heads=heads)


# --- saved, loaded, with a vocabulary ---------------------------------------------------------------------------


@torch.no_grad()
def test_a_saved_folder_loads_into_every_class(model, golden, tmp_path):
    model.save_pretrained(tmp_path)
    ids, mask, pixels = (golden[key] for key in ("input_ids", "attention_mask", "pixel_values"))
    encoder = AutoModel.from_pretrained(tmp_path).eval()
    image = normalize(encoder.get_image_features(pixels).pooler_output, dim=-1)
    text = normalize(encoder.get_text_features(ids, mask).pooler_output, dim=-1)
    torch.testing.assert_close(text @ image.t(), golden["text_embeds"] @ golden["image_embeds"].t(), atol=1e-5, rtol=0)
    whole = AutoModelForPreTraining.from_pretrained(tmp_path)
    wanted = model.state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in whole.state_dict().items())
    reranker = AgaForImageTextRetrieval.from_pretrained(tmp_path).eval()
    odds = golden["itm_logits"][:, 1] - golden["itm_logits"][:, 0]
    torch.testing.assert_close(reranker.score(pixels, ids, mask), odds, atol=1e-5, rtol=0)


@torch.no_grad()
def test_with_a_vocabulary(tmp_path, vocabulary, model):
    from PIL import Image

    converted, processor = load_albef(CHECKPOINT, num_heads=4, tokenizer=vocabulary)
    text_config = converted.config.text_config
    ids = (text_config.pad_token_id, text_config.bos_token_id, text_config.eos_token_id, text_config.mask_token_id)
    assert ids == (0, 1, 2, 3)
    assert model.config.text_config.bos_token_id == 101, "without a vocabulary: bert-base-uncased's"
    converted.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    loaded = AutoProcessor.from_pretrained(tmp_path / "saved")
    captions = ["A man in red jeans", "a woman wearing a blue coat " * 20]
    batch = loaded(text=captions, images=[Image.new("RGB", (40, 90))] * 2, return_tensors="pt")
    assert set(batch) == {"input_ids", "attention_mask", "pixel_values"}
    first = [1, *(5 + WORDS.index(word) for word in ("a", "man", "in", "red", "jean", "##s")), 2]
    assert batch["input_ids"][0, : len(first)].tolist() == first and batch["input_ids"][0, len(first) :].sum() == 0
    assert batch["attention_mask"][0].sum() == len(first)
    assert batch["input_ids"].shape == (2, 64) and batch["input_ids"][1, -1] == 2  # cut, with [SEP] kept
    assert batch["pixel_values"].shape == (2, 3, 64, 64)
    assert loaded.tokenizer.mask_token_id == 3
    assert torch.equal(processor(text=captions, return_tensors="pt")["input_ids"], batch["input_ids"])
    reranker = AgaForImageTextRetrieval.from_pretrained(tmp_path / "saved").eval()
    assert reranker.score(**batch).shape == (2,)


def test_a_vocabulary_that_does_not_fit_is_an_error(vocabulary):
    with (vocabulary / "vocab.txt").open("a") as file:
        file.write("one_more\n")
    with pytest.raises(ConversionError, match=r"vocab_size is 120, the tokenizer's is 121"):
        load_albef(CHECKPOINT, num_heads=4, tokenizer=vocabulary)


@pytest.mark.parametrize("folder", ["nothing", "configuration"])
def test_a_folder_without_a_vocabulary_is_an_error(tmp_path, folder):
    """transformers would make a tokenizer of five special tokens where only a configuration is."""
    if folder == "configuration":
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ConversionError, match="no BERT vocabulary there"):
        load_albef(CHECKPOINT, num_heads=4, tokenizer=tmp_path)


def test_clips_vocabulary_is_not_berts(tmp_path):
    from transformers import CLIPTokenizer

    vocab = {entry: index for index, entry in enumerate(["a</w>", "<|startoftext|>", "<|endoftext|>"])}
    CLIPTokenizer(vocab=vocab, merges=[]).save_pretrained(tmp_path)
    with pytest.raises(ConversionError, match="not BERT's vocabulary"):
        load_albef(CHECKPOINT, num_heads=4, tokenizer=tmp_path)
