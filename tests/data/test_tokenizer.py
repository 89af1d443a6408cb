"""The learnt vocabulary: merges worked out by hand."""

from aga_model.data import train_tokenizer


def _learnt(captions, merges, **settings):
    """The merged entries in the order in which they were learnt: 512 bytes stand before, 3 special tokens after."""
    tokenizer = train_tokenizer(captions, 515 + merges, **settings)
    return sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)[512:-3]


def test_words_count_in_small_letters():
    """red x 3: e-d sorts before r-e, then the whole word; nothing is left for the other three entries."""
    assert _learnt(["RED Red", "red"], 5) == ["ed</w>", "red</w>"]


def test_pairs_count_once_for_each_use_of_a_word():
    """zb x 3 comes before ab, which sorts before it."""
    assert _learnt(["zb zb zb", "ab"], 2) == ["zb</w>", "ab</w>"]


def test_pairs_that_a_merge_has_split_count_no_more():
    """
    abc x 3, bd x 1, bc x 1: b-c is in 4, then a-bc in 3. Of a-b none is left, so b-d, with one, comes next.
    """
    assert _learnt(["abc abc abc bd bc"], 3) == ["bc</w>", "abc</w>", "bd</w>"]


def test_the_text_length_is_the_one_asked_for():
    tokenizer = train_tokenizer(["a red coat"] * 2, 520, max_length=9)
    assert tokenizer.model_max_length == 9
    assert len(tokenizer("a red coat " * 9, truncation=True)["input_ids"]) == 9
