"""What no word is: [UNK] and the tokenizer's other special tokens are never masked, learnt, drawn or written."""

import json
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

from aga_model import AgaConfig, AgaForPreTraining, AgaProcessor
from aga_model.configuration_aga import AgaBertTextConfig, AgaTextConfig
from aga_model.conversion import load_bert
from aga_model.enrichment import TextEnrichment
from aga_model.masking import AttentionGuidedMasking, corrupt_tokens, ordinary_tokens, sample_tokens, special_token_ids
from aga_model.training.run import _load_start

OLD = Path(__file__).parent / "fixtures" / "checkpoints" / "0.1.0"


@pytest.mark.parametrize(
    ("given", "unknown"),
    [
        ({}, 100),  # bert-base-uncased, bert-base-cased, bert-base-multilingual-cased
        ({"vocab_size": 31090, "bos_token_id": 102, "eos_token_id": 103, "mask_token_id": 104}, 101),  # SciBERT
        ({"vocab_size": 20, "bos_token_id": 2, "eos_token_id": 3, "mask_token_id": 4}, 1),  # WordPiece learnt anew
        # A vocabulary in RoBERTa's order, with the padding in front of the end.
        ({"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "mask_token_id": 50264, "vocab_size": 50265}, None),
        # One of bytes in CLIP's order, of this package's own tokenizer, which knows every word.
        ({"vocab_size": 600, "mask_token_id": 597, "bos_token_id": 598, "eos_token_id": 599}, None),
        ({"unk_token_id": 7}, 7),
        ({"other_special_token_ids": []}, None),  # said: there is none
    ],
)
def test_the_unknown_token_of_a_configuration_that_does_not_name_it(given, unknown):
    config = AgaBertTextConfig(**given)
    assert config.unk_token_id == unknown and list(config.other_special_token_ids) == []
    again = AgaBertTextConfig(**{key: getattr(config, key) for key in (*given, "unk_token_id")})
    assert again.unk_token_id == unknown
    assert (unknown in special_token_ids(config)) is (unknown is not None)


@pytest.mark.parametrize("config_class", [AgaTextConfig, AgaBertTextConfig])
def test_ids_outside_the_vocabulary_are_refused(config_class):
    for key, value in (
        ("unk_token_id", 50000),
        ("other_special_token_ids", [50000]),
        ("other_special_token_ids", [-1]),
    ):
        with pytest.raises(Exception, match=f"{key}.*outside the vocabulary"):
            config_class(**{key: value})


def test_a_checkpoint_from_before_the_field_knows_its_unknown_token(tmp_path):
    settings = json.loads((OLD / "bert" / "config.json").read_text())
    assert "unk_token_id" not in settings["text_config"]
    config = AgaConfig.from_pretrained(OLD / "bert")
    tokenizer = BertTokenizer.from_pretrained(OLD / "bert")
    assert tokenizer.convert_ids_to_tokens(config.text_config.unk_token_id) == "[UNK]"
    config.save_pretrained(tmp_path)
    assert AgaConfig.from_pretrained(tmp_path).text_config.unk_token_id == config.text_config.unk_token_id


def test_nothing_masks_learns_draws_or_writes_a_special_token():
    special = [0, 5, 6, 7, 8, 9]
    config = AgaBertTextConfig(
        vocab_size=16, bos_token_id=6, eos_token_id=7, mask_token_id=8, unk_token_id=5, other_special_token_ids=[9]
    )
    assert special_token_ids(config) == special
    torch.manual_seed(0)
    ids = torch.randint(0, 16, (3000, 8))
    ids[:, 0], ids[:, -1] = 6, 7
    ordinary = ordinary_tokens(ids, None, config)
    ended = (ids == 7).cumsum(dim=1) > 0
    assert torch.equal(ordinary, ~torch.isin(ids, torch.tensor(special)) & ~ended)
    probabilities = AttentionGuidedMasking(0.5, 0.5).probabilities(ordinary, torch.rand(ids.shape) * ordinary)
    masked = sample_tokens(probabilities)
    assert not torch.isin(ids[masked], torch.tensor(special)).any()
    assert masked.any(dim=1)[ordinary.any(dim=1)].all()
    corrupted = corrupt_tokens(ids, masked, config)
    drawn = corrupted[masked & (corrupted != 8)]
    assert set(drawn.tolist()) == set(range(16)) - set(special)
    logits = torch.full((3000, 8, 16), -5.0)
    logits[..., special] = 20.0
    for sampling in ("argmax", "sample"):
        enriched = TextEnrichment(sampling, 0.0, special_token_ids(config)).enrich(ids, masked, logits)
        assert not torch.isin(enriched[masked], torch.tensor(special)).any()


def test_a_model_of_words_that_it_does_not_know(make_sections, tokenizer):
    """MLM and TEM in a training step of captions in which every other word is unknown."""
    sections = make_sections("bert", loss_weights={"itc": 1.0, "mlm": 1.0}, enrichment_probability=1.0, mask_ratio=0.9,
                             mask_max_probability=1.0)  # fmt: skip
    unknown = 40
    sections["text_config"]["unk_token_id"] = unknown
    torch.manual_seed(0)
    model = AgaForPreTraining(AgaConfig(**sections)).train()
    with torch.no_grad():
        model.mlm_head.decoder.bias[unknown] = 50.0  # the head would say nothing else
    ids = torch.randint(0, 300, (4, 12))
    ids[:, 2::2] = unknown
    ids[:, 0], ids[:, -1] = tokenizer.bos_token_id, tokenizer.eos_token_id
    output = model(ids, torch.randn(4, 3, 32, 16))
    assert output.masked.any() and not (output.masked & (ids == unknown)).any()
    new = output.enriched_input_ids[output.masked]
    assert (new != ids[output.masked]).any() and not (new == unknown).any()


def _bert(folder, entries, **special):
    """A tiny BERT with a vocabulary of its own and an added special token."""
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(entries))
    tokenizer = BertTokenizer(vocab={entry: index for index, entry in enumerate(entries)}, **special)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[PERSON]"]})
    tokenizer.save_pretrained(folder)
    tiny = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **tiny)).save_pretrained(folder)
    return tokenizer


VISION = {"image_size": [32, 16], "patch_size": 8, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
          "num_attention_heads": 2}  # fmt: skip


@pytest.mark.parametrize(
    ("entries", "unknown"),
    [
        (["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "man"], 2),
        (["[CLS]", "[PAD]", "[SEP]", "[UNK]", "a", "man", "[MASK]"], 3),  # RoBERTa's order
        (["[PAD]", "a", "[CLS]", "[SEP]", "[MASK]", "man", "[UNK]"], 6),  # a word in front of [CLS]
    ],
)
def test_a_converted_model_has_the_tokenizers_special_tokens(tmp_path, entries, unknown):
    tokenizer = _bert(tmp_path / "bert", entries)
    model, processor = load_bert(tmp_path / "bert", vision_config=VISION, projection_dim=8)
    text = model.config.text_config
    assert text.unk_token_id == unknown and list(text.other_special_token_ids) == [len(entries)]
    assert set(special_token_ids(text)) == set(tokenizer.all_special_ids)
    inputs = processor(text=["a man zebra [PERSON]"], return_tensors="pt")
    words = inputs["input_ids"][ordinary_tokens(inputs["input_ids"], None, text)]
    assert tokenizer.convert_ids_to_tokens(words.tolist()) == ["a", "man"]
    model.save_pretrained(tmp_path / "saved")
    saved = AgaForPreTraining.from_pretrained(tmp_path / "saved").config.text_config
    assert special_token_ids(saved) == special_token_ids(text)


def test_a_start_from_an_old_checkpoint_takes_them_from_its_tokenizer(tmp_path):
    """Where [UNK] does not stand in front of [CLS], the configuration of an old checkpoint alone cannot tell."""
    _bert(tmp_path / "bert", ["[PAD]", "a", "[CLS]", "[SEP]", "[MASK]", "man", "[UNK]"])
    model, processor = load_bert(tmp_path / "bert", vision_config=VISION, projection_dim=8)
    model.save_pretrained(tmp_path / "old")
    processor.save_pretrained(tmp_path / "old")
    settings = json.loads((tmp_path / "old" / "config.json").read_text())
    for key in ("unk_token_id", "other_special_token_ids"):
        del settings["text_config"][key]
    (tmp_path / "old" / "config.json").write_text(json.dumps(settings))
    assert AgaProcessor.from_pretrained(tmp_path / "old").tokenizer.unk_token_id == 6
    started, _ = _load_start(str(tmp_path / "old"), {}, {})
    assert special_token_ids(started.config.text_config) == [0, 2, 3, 4, 6, 7]
    assert started.enrichment.forbidden_ids == [0, 2, 3, 4, 6, 7]
