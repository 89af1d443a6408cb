"""What is searched for: terms of text, images or of another kind, each with a weight, that make one embedding."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image

from .sentences import QueryWarning

_SMALLEST = 1e-3  # length of a sum of unit vectors below which it points nowhere


class TextEncoder(Protocol):
    """What a search for a sentence needs: [`PersonEncoder`], or without torch [`OnnxTextEncoder`]."""

    def examine_text(self, text: str) -> list[QueryWarning]:
        """What makes a sentence's results worse than they might be; ValueError for one that cannot be embedded."""

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Sentences that have been examined, to float32 (n, dim) of unit length."""


class Term(Protocol):
    """
    A part of a query. Whatever has these attributes and methods is one; terms of one class are embedded together.

    Attributes:
        name (`str`): what answers call it.
        weight (`float`): of its embedding in the query's; below 0 it leads away.
        sentence (`str`, *optional*): what a re-ranker reads of it.
    """

    @property
    def name(self) -> str: ...

    @property
    def weight(self) -> float: ...

    @property
    def sentence(self) -> str | None: ...

    def examine(self, encoder: Any) -> list[str]:
        """What the reader of the results should know; ValueError where it cannot be embedded."""

    @classmethod
    def embed(cls, terms: Sequence[Any], encoder: Any) -> np.ndarray:
        """Terms of this class that have been examined, to float32 (n, dim) of unit length."""


@dataclass(frozen=True)
class TextTerm:
    """
    A sentence.

    Args:
        text: that describes a person.
        weight: see [`Term`].
    """

    text: str
    weight: float = 1.0

    @property
    def name(self) -> str:
        return self.text

    @property
    def sentence(self) -> str | None:
        return self.text

    def examine(self, encoder: TextEncoder) -> list[str]:
        return [str(note) for note in encoder.examine_text(self.text)]

    @classmethod
    def embed(cls, terms: Sequence["TextTerm"], encoder: TextEncoder) -> np.ndarray:
        return encoder.embed_texts([term.text for term in terms])


@dataclass(frozen=True)
class ImageTerm:
    """
    An image of one person.

    Args:
        image: RGB.
        name: what answers call it.
        weight: see [`Term`].
    """

    image: Image.Image
    name: str = "the image"
    weight: float = 1.0
    sentence: None = None

    def examine(self, encoder: Any) -> list[str]:
        if not hasattr(encoder, "encode_images"):
            raise ValueError(f"{self.name} needs the whole model: this encoder reads sentences only")
        return []

    @classmethod
    def embed(cls, terms: Sequence["ImageTerm"], encoder: Any) -> np.ndarray:
        return encoder.encode_images([term.image for term in terms])


@dataclass(frozen=True, init=False)
class Query:
    """
    What is searched for. Its embedding is the weighted sum of its terms' embeddings, brought to unit length; a query
    of one term has this term's.

    ```python
    >>> Query("a man in a red coat")
    >>> Query(ImageTerm(image), TextTerm("a blue coat", 0.5), TextTerm("a red coat", -0.5))
    ```

    Args:
        terms: a sentence by itself stands for a [`TextTerm`].

    Raises:
        ValueError: there is no term, or a weight is 0 or not finite.
    """

    terms: tuple[Term, ...]

    def __init__(self, *terms: Term | str):
        if not terms:
            raise ValueError("a query needs a term: a sentence or an image")
        whole: list[Term] = [TextTerm(term) if isinstance(term, str) else term for term in terms]
        for term in whole:
            if not math.isfinite(term.weight) or term.weight == 0:
                raise ValueError(f"the weight of {term.name!r} is {term.weight}: give a number other than 0")
        if len(whole) == 1 and whole[0].weight < 0:
            raise ValueError(f"the query only leads away from {whole[0].name!r}: say what to search for as well")
        object.__setattr__(self, "terms", tuple(whole))

    @property
    def name(self) -> str:
        """What answers call it: its terms, those of another weight than 1 with it."""
        if len(self.terms) == 1:
            return self.terms[0].name
        return ", ".join(
            term.name if term.weight == 1 else f"{term.weight:g} times {term.name}" for term in self.terms
        )

    @property
    def sentence(self) -> str:
        """
        What a re-ranker reads.

        Raises:
            ValueError: the query is not one sentence.
        """
        if len(self.terms) > 1:
            raise ValueError("re-ranking reads one sentence, not a query of several terms")
        if (sentence := self.terms[0].sentence) is None:
            raise ValueError("re-ranking reads a sentence, not an image")
        return sentence

    def examine(self, encoder: Any) -> list[str]:
        """What the reader of the results should know; ValueError where a term cannot be embedded."""
        return [note for term in self.terms for note in term.examine(encoder)]


def embed_queries(queries: Sequence[Query], encoder: Any) -> list[np.ndarray | ValueError]:
    """
    The embeddings of queries that have been examined; terms of one class go through the encoder together, whichever
    queries they are of.

    Returns:
        For each query float32 (dim,) of unit length, or the error that says why it has none: its terms cancel out.
    """
    terms = [term for query in queries for term in query.terms]
    embedded: dict[int, np.ndarray] = {}
    kinds: dict[Any, None] = dict.fromkeys(map(type, terms))
    for kind in kinds:
        numbers = [number for number, term in enumerate(terms) if type(term) is kind]
        embedded |= zip(numbers, kind.embed([terms[number] for number in numbers], encoder))
    vectors: list[np.ndarray | ValueError] = []
    first = 0
    for query in queries:
        own = [embedded[number] for number in range(first, first + len(query.terms))]
        first += len(own)
        vectors.append(own[0] if len(own) == 1 else _combined(query, own))
    return vectors


def _combined(query: Query, embeddings: Sequence[np.ndarray]) -> np.ndarray | ValueError:
    weights = np.array([term.weight for term in query.terms], np.float64)
    weights /= np.abs(weights).max()
    combined = weights @ np.stack(embeddings).astype(np.float64)
    length = np.linalg.norm(combined)
    if length < _SMALLEST:
        return ValueError(f"the terms of the query cancel out: {query.name}")
    return (combined / length).astype(np.float32)


__all__ = ["ImageTerm", "Query", "Term", "TextEncoder", "TextTerm", "embed_queries"]
