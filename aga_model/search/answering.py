"""Answer a query with a gallery: encode it, rank, re-rank, keep one image of each person or track."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from aga_model.gallery import Filter, Gallery, GalleryError, Hit

from .query import ImageTerm, Query, TextEncoder, embed_queries
from .results import Answer, collapse

if TYPE_CHECKING:
    from .encoder import PersonEncoder
    from .reranking import Reranker

_LISTED = 5


@dataclass(frozen=True)
class SearchOptions:
    """
    How the results of a query are made.

    Args:
        top_k (`int`): number of results.
        rerank (`int`, *optional*): how many of the first images by similarity are re-ranked, see [`Reranker`].
        where (`Filter`): among which images.
        one_per (`str`, *optional*): list only the best image of each, see [`collapse`].
    """

    top_k: int
    rerank: int | None = None
    where: Filter = field(default_factory=Filter)
    one_per: str | None = None


def answer(
    gallery: Gallery, encoder: Any, query: Query, ranking: SearchOptions, reranker: "Reranker | None" = None
) -> Answer:
    """
    The images of a gallery that a query means.

    Args:
        encoder: [`PersonEncoder`], or for queries of sentences alone any [`TextEncoder`].
        reranker: of the encoder's model; needed where `ranking` says how many images to re-rank.

    Returns:
        The answer, whose notes say what the reader should know: a sentence that was cut, fewer images than asked for,
        images that could not be re-ranked.

    Raises:
        GalleryError: the gallery cannot be read.
        ValueError: a term cannot be embedded, as a sentence that is empty, holds no word or is not valid Unicode; the
            terms cancel out; `ranking` has a value that is wrong, or asks for re-ranking without a re-ranker or of a
            query that is not one sentence.
    """
    (given,) = answer_all(gallery, encoder, [(query, ranking)], reranker)
    if isinstance(given, ValueError):
        raise given
    return given


def answer_sentence(
    gallery: Gallery, encoder: TextEncoder, sentence: str, ranking: SearchOptions, reranker: "Reranker | None" = None
) -> Answer:
    """[`answer`] for a sentence."""
    return answer(gallery, encoder, Query(sentence), ranking, reranker)


def answer_image(
    gallery: Gallery, encoder: "PersonEncoder", image: Image.Image, name: str, ranking: SearchOptions
) -> Answer:
    """[`answer`] for an RGB image of one person, which the answer calls `name`."""
    return answer(gallery, encoder, Query(ImageTerm(image, name)), ranking)


def answer_sentences(
    gallery: Gallery,
    encoder: TextEncoder,
    asked: Sequence[tuple[str, SearchOptions]],
    reranker: "Reranker | None" = None,
) -> list[Answer | ValueError]:
    """[`answer_all`] for sentences."""
    return answer_all(gallery, encoder, [(Query(sentence), options) for sentence, options in asked], reranker)


def answer_all(
    gallery: Gallery,
    encoder: Any,
    asked: Sequence[tuple[Query, SearchOptions]],
    reranker: "Reranker | None" = None,
) -> list[Answer | ValueError]:
    """
    [`answer`] for several people at a time: their queries go through the encoder together, and those with the same
    filter and number of results are looked for in the gallery together.

    Args:
        asked: queries, each with its options.

    Returns:
        The answers in the order of `asked`; for a query that cannot be answered, the error that says why.

    Raises:
        GalleryError: the gallery cannot be read.
    """
    answers: list[Answer | ValueError] = [ValueError()] * len(asked)
    notes: dict[int, list[str]] = {}
    for number, (query, options) in enumerate(asked):
        try:
            if options.rerank is not None and query.sentence and reranker is None:
                raise ValueError("re-ranking needs a re-ranker: Reranker.from_encoder(encoder)")
            notes[number] = query.examine(encoder)
        except ValueError as error:
            answers[number] = error
    embeddings: dict[int, np.ndarray] = {}
    for number, vector in zip(notes, embed_queries([asked[number][0] for number in notes], encoder)):
        if isinstance(vector, ValueError):
            answers[number] = vector
        else:
            embeddings[number] = vector
    together: dict[tuple[int, str], list[int]] = {}
    for number in embeddings:
        options = asked[number][1]
        together.setdefault((_depth(options), repr(options.where)), []).append(number)
    for numbers in together.values():
        options = asked[numbers[0]][1]
        try:
            found = gallery.search(np.stack([embeddings[each] for each in numbers]), _depth(options), options.where)
        except GalleryError:
            raise
        except ValueError as error:
            answers = [error if number in numbers else given for number, given in enumerate(answers)]
            continue
        for number, hits in zip(numbers, found):
            query, options = asked[number]
            rows = embeddings[number][None]
            answers[number] = _answer(gallery, reranker, rows, query, options, notes[number], hits)
    return answers


def _answer(
    gallery: Gallery,
    reranker: "Reranker | None",
    embedding: np.ndarray,
    query: Query,
    ranking: SearchOptions,
    notes: list[str],
    hits: list[Hit],
) -> Answer:
    """
    Args:
        hits: the best of the query by similarity, [`_depth`] of them where there are so many.
    """
    hits = _enough(gallery, embedding, ranking, hits)
    held = "the gallery holds" if ranking.where.is_empty else "the filter leaves"
    if reranker is not None and ranking.rerank is not None:
        if len(hits) < ranking.rerank:
            rows = _counted(gallery, ranking, hits, "re-ranked")
            notes.append(f"re-ranking of {ranking.rerank}, but {held} {rows}")
        hits = _rerank(reranker, query.sentence, hits, ranking.rerank, notes)
    if ranking.one_per is not None:
        shown = collapse(hits, ranking.one_per)
        if len(shown) < ranking.top_k:
            held = f"{held}, one of each {ranking.one_per},"
            notes.append(f"{ranking.top_k} results wanted, but {held} {len(shown)} images: all of them are listed")
        hits = shown
    elif len(hits) < ranking.top_k:
        rows = _counted(gallery, ranking, hits, "listed")
        notes.append(f"{ranking.top_k} results wanted, but {held} {rows}")
    return Answer(query.name, hits[: ranking.top_k], notes)


def _counted(gallery: Gallery, ranking: SearchOptions, hits: list[Hit], done: str) -> str:
    """How many images there are, which another process may change meanwhile, and how many of them were found."""
    rows = max(gallery.count(ranking.where), len(hits))
    return f"{rows} images: {'all' if len(hits) == rows else len(hits)} of them are {done}"


def _depth(options: SearchOptions) -> int:
    """How many images by similarity the results are made of, unless several are of one person or track."""
    return max(options.top_k, options.rerank or 0)


def _enough(gallery: Gallery, embedding: np.ndarray, ranking: SearchOptions, hits: list[Hit]) -> list[Hit]:
    """The hits, or, where several are of one person or track, more until there are enough different ones."""
    wanted = _depth(ranking)
    while True:
        if len(hits) < wanted:
            # Few hits are no proof of few images: these are counted.
            rows = gallery.count(ranking.where)
            if wanted >= rows:
                return hits
            wanted = rows
        elif ranking.one_per is None or len(collapse(hits, ranking.one_per)) >= ranking.top_k:
            return hits
        else:
            wanted *= 4
        hits = gallery.search(embedding, wanted, ranking.where)[0]


def _rerank(reranker: "Reranker", sentence: str, hits: list[Hit], number: int, notes: list[str]) -> list[Hit]:
    """The first `number` hits in the re-ranked order, the rest as it was behind them."""
    from .reranking import rerank_hits  # needs torch, which other searches do not

    first, skipped = rerank_hits(reranker, sentence, hits[:number])
    for item in skipped[:_LISTED]:  # without folders: the demo shows notes to people who need not know them
        notes.append(f"behind the re-ranked images, since it cannot be read: {item.path.name}: {item.reason}")
    if len(skipped) > _LISTED:
        notes.append(f"and {len(skipped) - _LISTED} more images that cannot be read")
    return first + hits[number:]


__all__ = ["SearchOptions", "answer", "answer_all", "answer_image", "answer_sentence", "answer_sentences"]
