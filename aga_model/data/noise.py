"""Noise for training captions: captions of another person, and wrong attribute words, with a record of both."""

import re
from collections import defaultdict
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from datasets import Dataset

from .mentions import Mention, find_mentions, phrases_of

# The two kinds draw from streams of their own, so that neither changes with the rate of the other.
_PERMUTATION_STREAM, _ERROR_STREAM = 0, 1
_MOST_DRAWS = 100
_ARTICLE = re.compile(r"(?<![\w'\u2019-])(an?)(\s+)$", re.IGNORECASE)


@dataclass(frozen=True)
class CaptionError:
    """
    A wrong attribute phrase: `wrong` is `caption[start:end]` of the caption in `row`, where `right` stood.

    Both phrases are as written in the caption; `right_value` and `wrong_value` are what they name, by
    [`~aga_model.data.mentions.phrases_of`].
    """

    row: int
    start: int
    end: int
    attribute: str
    right_value: str
    wrong_value: str
    right: str
    wrong: str


@dataclass
class NoiseRecord:
    """
    What noise was put into a dataset.

    Args:
        seed: of all draws.
        noisy_correspondence: share of the rows whose captions were permuted.
        caption_errors: probability with which an attribute phrase was replaced.
        rows: number of rows of the dataset.
        mentions: attribute phrases that were found and could be replaced; 0 where none were looked for, as
            `caption_errors` is 0. With an index also those of rows that are held out for validation.
        permuted: row -> row that its caption came from; None for one that does not train.
        errors: the replaced phrases; `row` is where the caption stands now, after the permutation.
        index: name, rows and SHA-256 of the index that the permutation follows; None where it was drawn.
    """

    seed: int
    noisy_correspondence: float = 0.0
    caption_errors: float = 0.0
    rows: int = 0
    mentions: int = 0
    permuted: dict[int, int | None] = field(default_factory=dict)
    errors: list[CaptionError] = field(default_factory=list)
    index: dict[str, Any] | None = None

    def summary(self) -> dict[str, Any]:
        """Seed, rates and counts, as JSON values."""
        return {
            "seed": self.seed,
            "noisy_correspondence": self.noisy_correspondence,
            "caption_errors": self.caption_errors,
            "rows": self.rows,
            "permuted_rows": len(self.permuted),
            "mentions": self.mentions,
            "errors": len(self.errors),
        } | ({} if self.index is None else {"index": self.index})

    def to_json(self) -> dict[str, Any]:
        """The whole record as JSON values: seed, rates, `counts`, `permuted` (keys as text) and `errors`."""
        counts = self.summary()
        settings = {name: counts.pop(name) for name in ("seed", "noisy_correspondence", "caption_errors")}
        permuted = {str(row): source for row, source in self.permuted.items()}
        return settings | {"counts": counts, "permuted": permuted, "errors": [asdict(error) for error in self.errors]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "NoiseRecord":
        """The record from the values of [`NoiseRecord.to_json`]."""
        return cls(
            seed=values["seed"],
            noisy_correspondence=values["noisy_correspondence"],
            caption_errors=values["caption_errors"],
            rows=values["counts"]["rows"],
            mentions=values["counts"]["mentions"],
            permuted={int(row): source for row, source in values["permuted"].items()},
            errors=[CaptionError(**error) for error in values["errors"]],
            index=values["counts"].get("index"),
        )


def add_noise(
    rows: Dataset, noisy_correspondence: float, caption_errors: float, seed: int
) -> tuple[Dataset, NoiseRecord]:
    """
    Put both kinds of noise into the captions of a training split: [`corrupt_attributes`], then [`permute_captions`].

    Args:
        rows: a split of [`~aga_model.data.benchmarks.load_benchmark`].
        noisy_correspondence: share of the rows whose captions are permuted, in [0, 1).
        caption_errors: probability that an attribute phrase becomes a wrong one, in [0, 1).
        seed: of all draws, at least 0.

    Returns:
        The rows with other captions and everything else as it was (the same object when both rates are 0), and the
        record. It speaks of the returned rows: a caption with errors that was permuted has them in its new row.

    Raises:
        ValueError: a rate or the seed is out of range, or no such permutation was found.
    """
    check_noise(noisy_correspondence, caption_errors, seed)
    rows, corrupted = corrupt_attributes(rows, caption_errors, seed)
    rows, record = permute_captions(rows, noisy_correspondence, seed)
    moved_to = {source: row for row, source in record.permuted.items() if source is not None}
    errors = [replace(error, row=moved_to.get(error.row, error.row)) for error in corrupted.errors]
    errors.sort(key=lambda error: (error.row, error.start))
    return rows, replace(record, caption_errors=caption_errors, mentions=corrupted.mentions, errors=errors)


def check_noise(noisy_correspondence: float, caption_errors: float, seed: int) -> None:
    """Raise the ValueError of [`add_noise`] for settings out of range, before any data are read."""
    _check("noisy_correspondence", noisy_correspondence, seed)
    _check("caption_errors", caption_errors, seed)


def permute_captions(rows: Dataset, rate: float, seed: int) -> tuple[Dataset, NoiseRecord]:
    """
    Noisy correspondence: permute the captions of randomly chosen rows, so that each gets one of another person.

    Args:
        rows: dataset with `caption` and `person_id`.
        rate: share of the rows to choose, in [0, 1): exactly `round(rate * len(rows))` rows.
        seed: of the choice and the permutation.

    Returns:
        The rows with the captions permuted, and the record with `permuted`.

    Raises:
        ValueError: the rate is out of range, or one person has more than half of the chosen rows, in 100 draws.
    """
    _check("rate", rate, seed)
    record = NoiseRecord(seed=seed, noisy_correspondence=rate, rows=len(rows))
    count = round(rate * len(rows))
    if count == 0:
        return rows, record
    rng = np.random.default_rng((seed, _PERMUTATION_STREAM))
    person_ids = np.asarray(rows["person_id"][:])
    chosen = _choose_rows(person_ids, count, rng)
    source = chosen[_derange(person_ids[chosen], rng)]
    permuted = dict(zip(chosen.tolist(), source.tolist()))
    record.permuted = {**permuted}
    captions = list(rows["caption"][:])
    return with_captions(rows, [captions[permuted.get(row, row)] for row in range(len(rows))]), record


def corrupt_attributes(rows: Dataset, rate: float, seed: int) -> tuple[Dataset, NoiseRecord]:
    """
    Caption errors: replace attribute phrases by phrases of a wrong value of the same attribute.

    Every phrase that [`~aga_model.data.mentions.find_mentions`] finds is replaced with probability `rate`, by a
    phrase that is drawn uniformly among the other values of its attribute, then among the phrases of that value.
    Values and phrases are those that the captions of `rows` use, so that no error gives itself away as a word of
    another vocabulary; an attribute of which they use one value only takes all that are known. The first letter keeps
    its case, and an "a" or "an" right before follows the new phrase. Nothing else changes: "his" stays when "man"
    becomes "woman".

    The draws of a row depend on the seed and the row's position alone, and do not change with the rate: the errors
    of a lower rate are among those of a higher one.

    Args:
        rows: dataset with `caption`.
        rate: probability for each phrase, in [0, 1).
        seed: of the draws.

    Returns:
        The rows with the new captions, and the record with `mentions` and `errors`.

    Raises:
        ValueError: the rate is out of range.
    """
    _check("rate", rate, seed)
    record = NoiseRecord(seed=seed, caption_errors=rate, rows=len(rows))
    if rate == 0:
        return rows, record
    originals = rows["caption"][:]
    found = [find_mentions(caption) for caption in originals]
    used = _phrases_used(originals, found)
    captions = []
    for row, (caption, mentions) in enumerate(zip(originals, found)):
        draws = np.random.default_rng((seed, _ERROR_STREAM, row)).random((len(mentions), 3)).tolist()
        replaced = [
            (mention, *_choose_wrong(mention, used[mention.attribute], of_value, of_phrase))
            for mention, (chance, of_value, of_phrase) in zip(mentions, draws)
            if chance < rate
        ]
        corrupted, errors = _replace_phrases(caption, row, replaced)
        captions.append(corrupted)
        record.mentions += len(mentions)
        record.errors += errors
    return (with_captions(rows, captions) if record.errors else rows), record


def _check(name: str, rate: float, seed: int) -> None:
    if not 0 <= rate < 1:  # refuses NaN as well
        raise ValueError(f"{name} must be at least 0 and below 1, got {rate}")
    if seed < 0:
        raise ValueError(f"the seed of the noise must be at least 0, got {seed}")


def with_captions(rows: Dataset, captions: list[str]) -> Dataset:
    """The rows with other captions, one for each."""
    return Dataset.from_dict(rows.to_dict() | {"caption": captions}, features=rows.features)


def _choose_rows(person_ids: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Rows in ascending order, of which no person has more than half."""
    for _ in range(_MOST_DRAWS):
        chosen = np.sort(rng.permutation(len(person_ids))[:count])
        if 2 * np.unique(person_ids[chosen], return_counts=True)[1].max() <= count:
            return chosen
    raise ValueError(
        f"cannot permute {count} of {len(person_ids)} captions so that each goes to another person: one person has "
        f"more than half of them, in {_MOST_DRAWS} draws; choose another rate, or none"
    )


def _derange(person_ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random permutation with `person_ids[permutation] != person_ids` everywhere; no person may have over half."""
    source = rng.permutation(len(person_ids))
    for position in np.flatnonzero(person_ids[source] == person_ids):
        person = person_ids[position]
        if person_ids[source[position]] != person:  # an earlier exchange has mended it
            continue
        # Of n positions at most n/2 hold this person and n/2 receive them, and this one is both: some are left. An
        # exchange with one of those mends this position, and spoils none.
        others = np.flatnonzero((person_ids != person) & (person_ids[source] != person))
        other = rng.choice(others)
        source[[position, other]] = source[[other, position]]
    return source


def _phrases_used(captions: list[str], found: list[list[Mention]]) -> dict[str, dict[str, tuple[str, ...]]]:
    """Attribute -> value -> phrases that the captions use; all known ones of an attribute of one value only."""
    used: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for caption, mentions in zip(captions, found):
        for mention in mentions:
            used[mention.attribute][mention.value].add(caption[mention.start : mention.end].lower())
    return {
        attribute: (
            {value: tuple(sorted(values[value])) for value in sorted(values)}
            if len(values) > 1
            else {value: phrases for value, phrases in phrases_of(attribute).items() if phrases}
        )
        for attribute, values in used.items()
    }


def _choose_wrong(
    mention: Mention, values: dict[str, tuple[str, ...]], of_value: float, of_phrase: float
) -> tuple[str, str]:
    """The wrong value and the phrase for it that two draws from [0, 1) stand for."""
    others = [value for value in values if value != mention.value]
    value = others[int(of_value * len(others))]
    return value, values[value][int(of_phrase * len(values[value]))]


def _replace_phrases(
    caption: str, row: int, replaced: list[tuple[Mention, str, str]]
) -> tuple[str, list[CaptionError]]:
    """The caption with (mention, wrong value, wrong phrase) put in, left to right."""
    built, errors, done = "", [], 0
    for mention, value, phrase in replaced:
        right = caption[mention.start : mention.end]
        wrong = phrase[0].upper() + phrase[1:] if right[0].isupper() else phrase
        built += _mend_article(caption[done : mention.start], phrase)
        errors.append(
            CaptionError(
                row, len(built), len(built) + len(wrong), mention.attribute, mention.value, value, right, wrong
            )
        )
        built, done = built + wrong, mention.end
    return built + caption[done:], errors


def _mend_article(before: str, phrase: str) -> str:
    """What stands before a phrase, with the "a" or "an" at its end as the phrase wants it."""
    match = _ARTICLE.search(before)
    if not match:
        return before
    article = "an" if phrase[0].lower() in "aeiou" else "a"
    if match[1][0].isupper():
        article = article.capitalize()
    return before[: match.start()] + article + match[2]
