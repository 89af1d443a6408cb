"""What the MLM reads from the image, and whether TEM repairs captions or spoils them."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from aga_model.data import CaptionError, find_mentions, phrases_of

from .masking import attribute_tokens
from .probing import encode_image_files, enrich_once, undisturbed

BATCH_SIZE = 64  # captions of a forward pass
MASKED_SHARE = 0.15  # of the words of a caption
_WORD = re.compile(r"[^\W\d_]+")

Span = tuple[int, int]  # characters of a caption: the first, and the one behind the last


def predict_hidden(model, input_ids: Tensor, image_states: Tensor, masked: Tensor) -> Tensor:
    """
    MLM logits at tokens that are all replaced by the mask token, so without BERT's random and kept ones.

    Args:
        input_ids: (batch, seq).
        image_states: (batch, patches + 1, projection_dim) of [`encode_image_files`].
        masked: bool (batch, seq).

    Returns:
        (masked tokens, vocabulary) in the row-major order of `masked`.
    """
    hidden = torch.where(masked, model.config.text_config.mask_token_id, input_ids)
    return model.mlm_head(model.fuse(hidden, image_states)[masked])


def tokenize_with_offsets(processor, captions: Sequence[str]) -> tuple[Tensor, list[list[list[int]]]]:
    """Token ids (batch, seq) on the CPU and the characters [start, end) that each token covers, (batch, seq, 2)."""
    inputs = processor.tokenizer(
        list(captions), padding=True, truncation=True, return_offsets_mapping=True, return_tensors="pt"
    )
    return inputs["input_ids"], inputs["offset_mapping"].tolist()


def tokens_of_span(offsets: Sequence[Sequence[int]], span: Span) -> list[int]:
    """Tokens that cover caption[start:end]; none when the caption was cut before its end."""
    start, end = span
    covering = [index for index, (first, last) in enumerate(offsets) if first < end and last > start]
    return covering if covering and offsets[covering[-1]][1] >= end else []


def choose_words(captions: Sequence[str], seed: int) -> list[list[Span]]:
    """
    About 15% of each caption's words, at least one, drawn without replacement by seed, row and caption alone.

    Returns:
        the (start, end) of the chosen words, a list per caption.
    """
    chosen = []
    for row, caption in enumerate(captions):
        words = [match.span() for match in _WORD.finditer(caption)]
        count = max(1, round(MASKED_SHARE * len(words)))
        order = np.random.default_rng((seed, row)).permutation(len(words))
        chosen.append([words[index] for index in sorted(order[:count])])
    return chosen


def wrong_rows(person_ids: Sequence[int], seed: int) -> list[int]:
    """
    A row of another person for every row: the persons are permuted without a fixed point, then a row is drawn.

    Raises:
        ValueError: all rows are of one person.
    """
    persons, labels = np.unique(np.asarray(person_ids), return_inverse=True)
    if len(persons) < 2:
        raise ValueError("the rows must be of two persons at least, so that there is an image of another person")
    rng = np.random.default_rng(seed)
    cycle = rng.permutation(len(persons))
    other = np.empty_like(cycle)
    other[cycle] = np.roll(cycle, 1)
    rows = [np.flatnonzero(labels == person) for person in range(len(persons))]
    return [int(rng.choice(rows[other[label]])) for label in labels]


def _check_lengths(**columns: Sequence) -> None:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        given = ", ".join(f"{count} {name}" for name, count in lengths.items())
        raise ValueError(f"row i of each belongs together, so they must be equally many and not none; got {given}")


def _percent(part: int, total: int) -> float | None:
    return 100.0 * part / total if total else None


def mlm_accuracy(
    model,
    processor,
    captions: Sequence[str],
    image_paths: Sequence[str],
    person_ids: Sequence[int],
    words: frozenset[str],
    seed: int = 0,
) -> dict[str, dict[str, float | None]]:
    """
    How well the MLM names hidden words when it sees the right image, and when it sees another person's.

    Whole words are hidden, about 15% of each caption's; the top-1 prediction of every token must be right. The
    difference between the images is what the MLM reads from the image; the rest it knows from the sentence. Which
    words are hidden and which wrong images are shown depends on the seed and the rows, never on the model. Words
    behind the model's text length are left out.

    Args:
        model: AgaForPreTraining.
        processor: AgaProcessor.
        captions, image_paths, person_ids: equally many; caption i describes image i, of person i.
        words: lower-case attribute words, as for `attribute_tokens`; all other words are stop words.
        seed: of the choice of words and wrong images; the global random state is left as it was.

    Returns:
        for `attribute` and `stop` words: `right_image` and `wrong_image`, accuracy in percent; `read_from_image`,
        their difference in percentage points; `words`, their number. Without words the percentages are None.

    Raises:
        ValueError: the arguments have different lengths, or all rows are of one person.
    """
    _check_lengths(captions=captions, image_paths=image_paths, person_ids=person_ids)
    others = wrong_rows(person_ids, seed)
    chosen = choose_words(captions, seed)
    counts: Counter[tuple[str, str]] = Counter()
    with undisturbed(model, seed):
        for start in range(0, len(captions), BATCH_SIZE):
            rows = range(start, min(start + BATCH_SIZE, len(captions)))
            batch = [captions[row] for row in rows]
            ids, offsets = tokenize_with_offsets(processor, batch)
            flags = attribute_tokens(batch, processor, words)
            hidden = [
                (row, tokens, "attribute" if any(flags[row][token] for token in tokens) else "stop")
                for row in range(len(rows))
                for span in chosen[rows[row]]
                if (tokens := tokens_of_span(offsets[row], span))
            ]
            masked = torch.zeros_like(ids, dtype=torch.bool)
            for row, tokens, _ in hidden:
                masked[row, tokens] = True
            counts.update((kind, "words") for _, _, kind in hidden)
            for image, sources in (("right_image", rows), ("wrong_image", [others[row] for row in rows])):
                states = encode_image_files(model, processor, [image_paths[row] for row in sources])
                right = _right_tokens(model, ids, states, masked)
                counts.update((kind, image) for row, tokens, kind in hidden if right[row, tokens].all())
    return {kind: _accuracies(counts, kind) for kind in ("attribute", "stop")}


def _right_tokens(model, ids: Tensor, image_states: Tensor, masked: Tensor) -> Tensor:
    """Which tokens are masked and predicted rightly, bool (batch, seq) on the CPU."""
    right = torch.zeros_like(masked)
    logits = predict_hidden(model, ids.to(model.device), image_states, masked.to(model.device))
    right[masked] = logits.argmax(dim=-1).cpu() == ids[masked]
    return right


def _accuracies(counts: Counter[tuple[str, str]], kind: str) -> dict[str, float | None]:
    total = counts[kind, "words"]
    right, wrong = counts[kind, "right_image"], counts[kind, "wrong_image"]
    return {
        "right_image": _percent(right, total),
        "wrong_image": _percent(wrong, total),
        "read_from_image": _percent(right - wrong, total),
        "words": total,
    }


@dataclass(frozen=True)
class _Judged:
    """A phrase of a caption whose truth is known: its tokens, and the written forms of the values it may take."""

    row: int
    tokens: list[int]
    true_forms: frozenset[str]
    fits: bool  # a true form has as many tokens as stand here, so that TEM can write it
    wrong_forms: frozenset[str] | None  # of the wrong value that the caption gives; None when it tells the truth


def enrichment_truth(
    model,
    processor,
    captions: Sequence[str],
    image_paths: Sequence[str],
    errors: Sequence[CaptionError],
    seed: int = 0,
    rounds: int = 1,
) -> dict[str, float | None]:
    """
    Does TEM repair wrong attributes, and does it spoil right ones?

    Tokens are masked by the model's own policy and TEM writes its predictions as in a training step. Judged are the
    phrases of captions with known errors of which at least one token was masked: the phrase that stands there
    afterwards is true when it is a phrase of the true value. Phrases behind the model's text length are left out.

    Args:
        model: AgaForPreTraining.
        processor: AgaProcessor.
        captions, image_paths: equally many; caption i, errors included, belongs to image i.
        errors: all errors of these captions, as `corrupt_attributes` records them; `row` counts in `captions`.
        seed: of the sampling; the global random state is left as it was.
        rounds: how often each caption is masked, for a smaller sampling error.

    Returns:
        `wrong_masked`: errors of which a token was masked, and of these in percent `repaired` (true now),
        `repairable` (all tokens were masked, and a true phrase has as many: more TEM cannot repair in one masking) and
        `changed_to_other_wrong` (neither true now nor a phrase of the same wrong value). `right_masked`: true phrases
        of which a token was masked, and of these in percent `spoilt` (not true any more) and `synonym` (another
        phrase of the true value). Counts are over all rounds; percentages of nothing are None.

    Raises:
        ValueError: different numbers of captions and images, or an error outside the captions.
    """
    _check_lengths(captions=captions, image_paths=image_paths)
    _check_errors(captions, errors)
    by_row: dict[int, list[CaptionError]] = {}
    for error in errors:
        by_row.setdefault(error.row, []).append(error)
    counts: Counter[str] = Counter()
    with undisturbed(model, seed):
        for start in range(0, len(captions), BATCH_SIZE):
            rows = range(start, min(start + BATCH_SIZE, len(captions)))
            batch = [captions[row] for row in rows]
            ids, offsets = tokenize_with_offsets(processor, batch)
            inputs = processor(text=batch, return_tensors="pt").to(model.device)
            judged = [
                phrase
                for row, caption in enumerate(batch)
                for phrase in _judged_phrases(processor, row, caption, offsets[row], by_row.get(rows[row], []))
            ]
            states = encode_image_files(model, processor, [image_paths[row] for row in rows])
            for _ in range(rounds):
                draw = enrich_once(model, inputs, states)
                masked, enriched = draw.masked.cpu(), draw.enriched.cpu()
                counts.update(
                    outcome
                    for phrase in judged
                    if masked[phrase.row, phrase.tokens].any()
                    for outcome in _outcomes(
                        phrase, ids[phrase.row], enriched[phrase.row], masked[phrase.row], processor.tokenizer
                    )
                )
    wrong, right = counts["wrong_masked"], counts["right_masked"]
    return {
        "wrong_masked": wrong,
        "repaired": _percent(counts["repaired"], wrong),
        "repairable": _percent(counts["repairable"], wrong),
        "changed_to_other_wrong": _percent(counts["changed_to_other_wrong"], wrong),
        "right_masked": right,
        "spoilt": _percent(counts["spoilt"], right),
        "synonym": _percent(counts["synonym"], right),
    }


def _check_errors(captions: Sequence[str], errors: Sequence[CaptionError]) -> None:
    for error in errors:
        if not 0 <= error.row < len(captions):
            raise ValueError(f"an error is in caption {error.row}, but there are {len(captions)}: {error}")
        if not 0 <= error.start < error.end <= len(captions[error.row]):
            raise ValueError(f"an error lies outside of its caption {captions[error.row]!r}: {error}")


def _judged_phrases(
    processor, row: int, caption: str, offsets: Sequence[Sequence[int]], errors: Sequence[CaptionError]
) -> list[_Judged]:
    """The errors of a caption and its true mentions, as far as the model sees them whole."""
    judged = []

    def judge(span: Span, true: frozenset[str], wrong: frozenset[str] | None) -> None:
        tokens = tokens_of_span(offsets, span)
        lengths = {len(ids) for ids in processor.tokenizer(sorted(true), add_special_tokens=False)["input_ids"]}
        if tokens:
            judged.append(_Judged(row, tokens, true, len(tokens) in lengths, wrong))

    for error in errors:
        true, wrong = (_forms(error.attribute, value) for value in (error.right_value, error.wrong_value))
        judge((error.start, error.end), true, wrong)
    for mention in find_mentions(caption):
        if not any(mention.start < error.end and error.start < mention.end for error in errors):
            judge((mention.start, mention.end), _forms(mention.attribute, mention.value), None)
    return judged


def _forms(attribute: str, value: str) -> frozenset[str]:
    """The phrases of a value as [`_written`] gives them."""
    phrases = phrases_of(attribute)
    if value not in phrases:
        raise ValueError(f"{value!r} is no value of the attribute {attribute!r}: {', '.join(phrases)}")
    return frozenset(_normalise(phrase) for phrase in phrases[value])


def _normalise(phrase: str) -> str:
    """Mentions may join the words of a phrase by spaces or hyphens, and the tokenizer puts spaces around hyphens."""
    return re.sub(r"[\s-]+", " ", phrase.lower()).strip()


def _written(tokenizer, ids: Tensor) -> str:
    """What tokens read as, normalised; a last piece that runs on into the next word makes no phrase."""
    runs_on = not tokenizer.convert_ids_to_tokens(int(ids[-1])).endswith("</w>")
    return _normalise(tokenizer.decode(ids)) + ("..." if runs_on else "")


def _outcomes(phrase: _Judged, before: Tensor, after: Tensor, masked: Tensor, tokenizer) -> list[str]:
    """Which counts a masked phrase adds to; `before` and `after` are the caption's token ids, `masked` is bool."""
    old, new = (_written(tokenizer, ids[phrase.tokens]) for ids in (before, after))
    is_true = new in phrase.true_forms
    if phrase.wrong_forms is None:
        outcome = "spoilt" if not is_true else "synonym" if new != old else "kept"
        return ["right_masked", outcome]
    outcome = "repaired" if is_true else "still_wrong" if new in phrase.wrong_forms else "changed_to_other_wrong"
    repairable = ["repairable"] if phrase.fits and bool(masked[phrase.tokens].all()) else []
    return ["wrong_masked", outcome, *repairable]
