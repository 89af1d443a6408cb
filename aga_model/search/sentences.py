"""Whether a sentence can be searched for, and what makes its results worse than they might be."""

from typing import Protocol

_MOST_UNKNOWN = 0.5  # of a sentence's letters: a name in another writing is no harm
Piece = tuple[int, tuple[int, int]]  # a token and the characters of the sentence that it stands for, from and to


class QueryWarning(UserWarning):
    """Something about a sentence that makes its results worse than they might be."""


class TextTruncatedWarning(QueryWarning):
    """A sentence that is longer than the model reads."""


class UnknownWritingWarning(QueryWarning):
    """A sentence in a writing that the model's vocabulary does not have."""


class SentenceTokenizer(Protocol):
    """
    A model's tokenizer, as far as a sentence is examined by it.

    Attributes:
        max_text_tokens (`int`): tokens of a sentence that the model reads, including the start and end tokens.
        unknown_token (`int`, *optional*): that stands for what the vocabulary does not have.
    """

    @property
    def max_text_tokens(self) -> int: ...

    @property
    def unknown_token(self) -> int | None: ...

    def count_tokens(self, text: str) -> int:
        """Tokens of the whole sentence, including the start and end tokens."""

    def pieces(self, text: str) -> list[Piece] | None:
        """Tokens of the sentence without start and end; None of a tokenizer that does not tell their places."""


def check_sentence(text: str, tokenizer: SentenceTokenizer) -> list[QueryWarning]:
    """
    What makes the sentence's results worse than they might be.

    Raises:
        ValueError: it is empty, holds no letter or digit, or is not valid Unicode, so that it cannot be embedded.
    """
    if not text.strip():
        raise ValueError("the query is empty: describe the person in a sentence")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("the query is not valid Unicode text") from error
    if not any(character.isalnum() for character in text):
        raise ValueError(f"the query {_beginning(text)!r} holds no word: describe the person in a sentence")
    notes: list[QueryWarning] = []
    unknown, letters = unknown_letters(text, tokenizer)
    if unknown > _MOST_UNKNOWN * letters:
        notes.append(
            UnknownWritingWarning(
                f"the model's vocabulary lacks {unknown} of the {letters} letters of {_beginning(text)!r}: "
                "it has not learnt this writing, and the results say next to nothing; describe the person in the "
                "language of the captions that the model was trained on"
            )
        )
    tokens, longest = tokenizer.count_tokens(text), tokenizer.max_text_tokens
    if tokens > longest:
        notes.append(
            TextTruncatedWarning(
                f"the query is {tokens} tokens long and the model reads {longest}: the last {tokens - longest} were "
                f"dropped from {_beginning(text)!r}"
            )
        )
    return notes


def unknown_letters(text: str, tokenizer: SentenceTokenizer) -> tuple[int, int]:
    """
    How many letters and digits of a sentence the vocabulary has no entry for, alone or in a longer one, and how many
    there are. A tokenizer of bytes (CLIP) cuts such a letter into pieces, others (BERT) give their token for what is
    unknown. Of a tokenizer that does not tell the places of its tokens none counts as unknown.
    """
    letters = {place for place, character in enumerate(text) if character.isalnum()}
    unknown: set[int] = set()
    last = (0, 0)
    for token, span in tokenizer.pieces(text) or ():
        is_part_of_letter = span == last and span[1] - span[0] == 1
        if is_part_of_letter or token == tokenizer.unknown_token:
            unknown.update(range(*span))
        last = span
    return len(unknown & letters), len(letters)


def _beginning(text: str, length: int = 40) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


__all__ = [
    "Piece",
    "QueryWarning",
    "SentenceTokenizer",
    "TextTruncatedWarning",
    "UnknownWritingWarning",
    "check_sentence",
    "unknown_letters",
]
