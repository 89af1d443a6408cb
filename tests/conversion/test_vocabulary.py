"""OpenAI's vocabulary file by a second implementation, and vocabularies that are not what they should be."""

import gzip

import pytest
from transformers import BertTokenizer

from aga_model.conversion import ConversionError
from aga_model.conversion.vocabulary import MERGES, bert_tokenizer, read_openai_vocabulary


def _letters():
    """OpenAI's bytes_to_unicode, as its code has it."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters, number = {byte: chr(byte) for byte in kept}, 0
    for byte in range(256):
        if byte not in letters:
            letters[byte] = chr(256 + number)
            number += 1
    return list(letters.values())


def test_ids_of_openais_file(tmp_path):
    """Its first line is a version, of two words like a merge; what stands behind the last merge is not read."""
    path = tmp_path / "bpe_simple_vocab_16e6.txt.gz"
    merges = ["i n", "t h", "a n</w>", "th e</w>", *(f"x y{number}" for number in range(MERGES))]
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("\n".join(['"bpe_simple_vocab_16e6.txt#version: 0.2', *merges]))
    vocab, read = read_openai_vocabulary(path)
    letters = _letters()
    assert [vocab[letter] for letter in letters] == list(range(256))
    assert [vocab[f"{letter}</w>"] for letter in letters] == list(range(256, 512))
    assert [vocab[word] for word in ("in", "th", "an</w>", "the</w>")] == [512, 513, 514, 515]
    assert (vocab["<|startoftext|>"], vocab["<|endoftext|>"], len(vocab)) == (49406, 49407, 49408)
    assert read[0] == ("i", "n") and len(read) == MERGES == 48894


def test_a_bert_vocabulary_has_words_and_a_mask(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "man", "woman"]
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "vocab.txt").write_text("\n".join(words))
    assert bert_tokenizer(tmp_path / "whole")("man")["input_ids"] == [2, 5, 3]
    vocab = {word: index for index, word in enumerate(word for word in words if word != "[MASK]")}
    tokenizer = BertTokenizer(vocab=vocab)
    tokenizer.mask_token = None
    tokenizer.save_pretrained(tmp_path / "no mask")
    with pytest.raises(ConversionError, match=r"not BERT's vocabulary, which has \[CLS\], \[SEP\], \[MASK\]"):
        bert_tokenizer(tmp_path / "no mask")
    BertTokenizer(vocab={word: index for index, word in enumerate(words[:5])}).save_pretrained(tmp_path / "no words")
    with pytest.raises(ConversionError, match="no BERT vocabulary there"):
        bert_tokenizer(tmp_path / "no words")
