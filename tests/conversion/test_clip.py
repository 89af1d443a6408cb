"""CLIP in transformers' and OpenAI's form gives CLIP's own features."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from aga_model.conversion import ConversionError, load_clip
from aga_model.conversion.vocabulary import read_openai_vocabulary

CLIP_BPE = Path(__file__).parents[3] / "shared" / "fixtures" / "clip_bpe"
needs_clip_bpe = pytest.mark.skipif(not CLIP_BPE.is_dir(), reason="CLIP's vocabulary is not part of this project")
TEXT = {"vocab_size": 99, "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2,
        "num_attention_heads": 1, "max_position_embeddings": 20}  # fmt: skip
VISION = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 2,
          "image_size": 224, "patch_size": 32}  # fmt: skip


def _clip(eos=98, bos=97, vision=(), **text):
    torch.manual_seed(0)
    text, vision = {**TEXT, "eos_token_id": eos, "bos_token_id": bos, **text}, {**VISION, **dict(vision)}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=32)).eval()
    nn.init.normal_(model.vision_model.embeddings.position_embedding.weight)
    return model


def _captions(vocab=99):
    ids = torch.randint(0, vocab - 3, (3, 12))
    ids[:, 0] = vocab - 2
    ids[:, 9:] = vocab - 1
    return ids


def _close(got, wanted):
    torch.testing.assert_close(got.pooler_output, wanted.pooler_output, atol=1e-5, rtol=0)


def _embeds_alike(model, clip):
    """The converted model gives the same vectors for images of CLIP's size and for captions."""
    pixels, ids = torch.randn(2, 3, 224, 224), _captions()
    _close(model.get_image_features(pixels), clip.get_image_features(pixels))
    _close(model.get_text_features(ids), clip.get_text_features(ids))


@torch.no_grad()
def test_same_size_gives_the_same_features(tmp_path):
    clip = _clip()
    clip.save_pretrained(tmp_path)
    model, processor = load_clip(tmp_path, image_size=(224, 224))
    assert processor is None
    _embeds_alike(model, clip)
    torch.testing.assert_close(model.logit_scale, clip.logit_scale)


@torch.no_grad()
def test_other_size_equals_interpolation_in_each_forward(tmp_path):
    clip = _clip()
    clip.save_pretrained(tmp_path)
    model, _ = load_clip(tmp_path)
    assert model.config.vision_config.grid_size == (12, 4)
    pixels = torch.randn(2, 3, 384, 128)
    _close(model.get_image_features(pixels), clip.get_image_features(pixels, interpolate_pos_encoding=True))


@torch.no_grad()
def test_an_old_configurations_end_of_text_is_set_right(tmp_path):
    clip = _clip(eos=2, bos=0)
    clip.save_pretrained(tmp_path)
    model, _ = load_clip(tmp_path, image_size=(224, 224))
    assert (model.config.text_config.eos_token_id, model.config.text_config.bos_token_id) == (98, 97)
    ids = _captions()
    _close(model.get_text_features(ids), clip.get_text_features(ids))


@pytest.mark.parametrize(
    ("text", "vision"),
    [
        ({"hidden_act": "gelu"}, {"hidden_act": "relu"}),
        ({"layer_norm_eps": 0.3}, {"layer_norm_eps": 0.7}),
    ],
)
@torch.no_grad()
def test_activation_and_epsilon_of_each_tower_are_kept(tmp_path, text, vision):
    """LAION's CLIPs have gelu; weights with large steps, so that either shows."""
    clip = _clip(vision=vision, **text)
    for name, parameter in clip.named_parameters():
        if name.endswith("fc1.bias"):
            nn.init.normal_(parameter, std=2.0)
    clip.save_pretrained(tmp_path)
    model, _ = load_clip(tmp_path, image_size=(224, 224))
    for key, value in (*text.items(), *vision.items()):
        assert value in (getattr(model.config.text_config, key), getattr(model.config.vision_config, key))
    _embeds_alike(model, clip)


@torch.no_grad()
def test_an_end_of_text_that_is_not_the_last_id_is_kept(tmp_path):
    clip = _clip(eos=50, bos=40)
    clip.save_pretrained(tmp_path)
    model, _ = load_clip(tmp_path, image_size=(224, 224))
    assert (model.config.text_config.eos_token_id, model.config.text_config.bos_token_id) == (50, 40)
    ids = torch.randint(60, 99, (3, 12))
    ids[:, 0], ids[0, 5:], ids[1:, 9:] = 40, 50, 50
    _close(model.get_text_features(ids), clip.get_text_features(ids))


def _openai_state(clip):
    """The same weights in OpenAI's names, half precision left out so that results compare exactly."""
    state, out = clip.state_dict(), {}

    def block(source, target):
        for kind in ("weight", "bias"):
            parts = [state[f"{source}.self_attn.{name}_proj.{kind}"] for name in "qkv"]
            out[f"{target}.attn.in_proj_{kind}"] = torch.cat(parts)
            out[f"{target}.attn.out_proj.{kind}"] = state[f"{source}.self_attn.out_proj.{kind}"]
            for theirs, name in (("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"), ("mlp.c_fc", "mlp.fc1"),
                                 ("mlp.c_proj", "mlp.fc2")):  # fmt: skip
                out[f"{target}.{theirs}.{kind}"] = state[f"{source}.{name}.{kind}"]

    for index in range(2):
        block(f"vision_model.encoder.layers.{index}", f"visual.transformer.resblocks.{index}")
        block(f"text_model.encoder.layers.{index}", f"transformer.resblocks.{index}")
    norms = {
        "visual.ln_pre": "vision_model.pre_layrnorm",
        "visual.ln_post": "vision_model.post_layernorm",
        "ln_final": "text_model.final_layer_norm",
    }
    for theirs, name in norms.items():
        for kind in ("weight", "bias"):
            out[f"{theirs}.{kind}"] = state[f"{name}.{kind}"]
    vision, text = "vision_model.embeddings", "text_model.embeddings"
    out["visual.class_embedding"] = state[f"{vision}.class_embedding"]
    out["visual.conv1.weight"] = state[f"{vision}.patch_embedding.weight"]
    out["visual.positional_embedding"] = state[f"{vision}.position_embedding.weight"]
    out["token_embedding.weight"] = state[f"{text}.token_embedding.weight"]
    out["positional_embedding"] = state[f"{text}.position_embedding.weight"]
    out["visual.proj"] = state["visual_projection.weight"].T.contiguous()
    out["text_projection"] = state["text_projection.weight"].T.contiguous()
    out["logit_scale"] = state["logit_scale"]
    for number, name in enumerate(("input_resolution", "context_length", "vocab_size")):
        out[name] = torch.tensor(number)
    return out


class _Holder(nn.Module):
    """Gives a TorchScript archive the keys of OpenAI's files."""

    def __init__(self, state):
        super().__init__()
        for key, value in state.items():
            holder = self
            *parents, last = key.split(".")
            for parent in parents:
                if not hasattr(holder, parent):
                    holder.add_module(parent, nn.Module())
                holder = getattr(holder, parent)
            holder.register_buffer(last, value)

    def forward(self, x):
        return x


@pytest.mark.parametrize("form", ["state", "torchscript"])
@torch.no_grad()
def test_openais_file(tmp_path, form):
    clip = _clip()
    state, path = _openai_state(clip), tmp_path / "ViT.pt"
    if form == "state":
        torch.save(state, path)
    else:
        torch.jit.script(_Holder(state)).save(str(path))
    model, processor = load_clip(path, image_size=(224, 224))
    assert processor is None
    _embeds_alike(model, clip)


@torch.no_grad()
def test_activation_and_epsilon_are_openais(tmp_path):
    """quick_gelu and 1e-5, whatever transformers' defaults are; states so small that the epsilon shows."""
    settings = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
    clip = _clip(vision=settings, **settings)
    for name, parameter in clip.named_parameters():
        if name.endswith("fc1.bias"):
            nn.init.normal_(parameter, std=2.0)
        elif "embedding" in name:
            parameter.mul_(1e-3)
    torch.save(_openai_state(clip), tmp_path / "ViT.pt")
    model, _ = load_clip(tmp_path / "ViT.pt", image_size=(224, 224))
    _embeds_alike(model, clip)


@torch.no_grad()
def test_a_square_projection_is_turned(tmp_path):
    """As in ViT-B's text tower: nothing but the embeddings tells which way round it is."""
    clip = _clip(hidden_size=32, intermediate_size=128)
    torch.save(_openai_state(clip), tmp_path / "ViT.pt")
    model, _ = load_clip(tmp_path / "ViT.pt", image_size=(224, 224))
    assert torch.equal(model.text_projection.weight, clip.text_projection.weight)


def test_positions_of_another_grid_than_a_square_are_refused(tmp_path):
    state = _openai_state(_clip())
    state["visual.positional_embedding"] = torch.randn(43, 128)
    torch.save(state, tmp_path / "ViT.pt")
    with pytest.raises(ConversionError, match=r"ViT\.pt: 42 patch positions are no square grid"):
        load_clip(tmp_path / "ViT.pt", image_size=(224, 224))


def test_not_clip(tmp_path):
    with pytest.raises(ConversionError, match="cannot be loaded as transformers' CLIP"):
        load_clip(tmp_path)
    torch.save({"weight": torch.zeros(2)}, tmp_path / "x.pt")
    with pytest.raises(ConversionError, match="logit_scale"):
        load_clip(tmp_path / "x.pt")


@pytest.mark.parametrize("change", ["missing", "unexpected", "other kind"])
def test_keys_of_a_folder_are_accounted_for(tmp_path, change):
    _clip().save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    if change == "missing":
        del state["visual_projection.weight"]
    elif change == "unexpected":
        state["another.weight"] = torch.zeros(1)
    else:
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    named = {"missing": "visual_projection", "unexpected": r"another\.weight", "other kind": "'bert' model"}[change]
    with pytest.raises(ConversionError, match=named):
        load_clip(tmp_path, image_size=(224, 224))


def test_size_that_does_not_fit_the_patches(tmp_path):
    _clip().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="height 380"):
        load_clip(tmp_path, image_size=(380, 128))


@needs_clip_bpe
def test_vocabulary_of_openais_code(tmp_path):
    """merges.txt in the form of bpe_simple_vocab_16e6.txt.gz gives the vocabulary that transformers has."""
    merges = (CLIP_BPE / "merges.txt").read_text(encoding="utf-8").splitlines()
    merges = [line for line in merges if not line.startswith("#version")]
    path = tmp_path / "bpe_simple_vocab_16e6.txt.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("\n".join(["header", *merges, "beyond the vocabulary"]))
    vocab, read = read_openai_vocabulary(path)
    assert vocab == json.loads((CLIP_BPE / "vocab.json").read_text(encoding="utf-8"))
    assert len(read) == 48894


@needs_clip_bpe
@pytest.mark.parametrize("saved", ["files", "tokenizer"])
def test_a_folder_with_a_vocabulary_gives_a_processor(tmp_path, saved):
    _clip(vocab_size=49408, eos=49407, bos=49406).save_pretrained(tmp_path)
    if saved == "files":
        for name in ("vocab.json", "merges.txt"):
            (tmp_path / name).write_bytes((CLIP_BPE / name).read_bytes())
    else:
        vocab = json.loads((CLIP_BPE / "vocab.json").read_text(encoding="utf-8"))
        lines = (CLIP_BPE / "merges.txt").read_text(encoding="utf-8").splitlines()
        CLIPTokenizer(vocab=vocab, merges=[tuple(line.split()) for line in lines[1:]]).save_pretrained(tmp_path)
    _, processor = load_clip(tmp_path)
    for case in json.loads((CLIP_BPE / "golden_ids.json").read_text(encoding="utf-8")):
        assert processor.tokenizer(case["caption"], add_special_tokens=False)["input_ids"] == case["ids"]
    assert processor.tokenizer.mask_token_id == 49405
    assert processor.tokenizer.model_max_length == 20


def _vocabulary(folder, entries):
    """A tokenizer without merges, with the mask, start and end as its last entries."""
    words = [chr(ord("a") + n % 26) + str(n) for n in range(entries - 3)]
    vocab = {word: n for n, word in enumerate([*words, "<|mask|>", "<|startoftext|>", "<|endoftext|>"])}
    CLIPTokenizer(vocab=vocab, merges=[], mask_token="<|mask|>").save_pretrained(folder)
    return folder


def test_a_vocabulary_from_elsewhere_must_fit(tmp_path):
    _clip().save_pretrained(tmp_path / "clip")
    _, processor = load_clip(tmp_path / "clip", tokenizer=_vocabulary(tmp_path / "fits", 99))
    assert processor.tokenizer("")["input_ids"] == [97, 98]
    with pytest.raises(ConversionError, match="other: "):
        load_clip(tmp_path / "clip", tokenizer=_vocabulary(tmp_path / "other", 100))
    # Beside the weights one that does not fit is not taken, nor is it an error.
    _vocabulary(tmp_path / "clip", 100)
    assert load_clip(tmp_path / "clip").processor is None


def test_a_vocabulary_that_was_asked_for_must_be_there(tmp_path):
    _clip().save_pretrained(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConversionError, match="no CLIP vocabulary"):
        load_clip(tmp_path, tokenizer=tmp_path / "empty")
