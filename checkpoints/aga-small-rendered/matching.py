"""Image-text matching (ITM): which mismatches a batch is compared with, and what the fusion encoder reads of them."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .distributed import GlobalBatch
from .enrichment import sample_rows
from .pair_batch import MatchedPairs, PairBatch


@torch.no_grad()
def hard_negatives(logits: Tensor, same_person: Tensor) -> tuple[Tensor, Tensor]:
    """
    Draw one candidate of another person for each row, in proportion to the softmax over the similarities.

    Source: ALBEF (NeurIPS 2021), section 3.2.

    Args:
        logits: (rows, candidates), similarity over temperature.
        same_person: bool (rows, candidates); these are never drawn.

    Returns:
        indices (rows,) of candidates and bool (rows,), False where all candidates are of the same person.
    """
    others = ~same_person
    found = others.any(dim=1)
    # In double precision even the least similar candidate of a peaked distribution keeps a share above zero.
    allowed = logits.double().masked_fill(~(others | ~found[:, None]), float("-inf"))
    return sample_rows(allowed.softmax(dim=1)), found


@dataclass(frozen=True)
class HardNegatives:
    """
    A mismatch for every caption and every image of this process, from the batches of all processes.

    Args:
        own: (batch,), places of this process's pairs in the global batch.
        image, text: (batch,), place of the other person's image for each caption, and of the caption for each image.
        image_found, text_found: bool (batch,), False where the global batch has no other person.
    """

    own: Tensor
    image: Tensor
    text: Tensor
    image_found: Tensor
    text_found: Tensor


@torch.no_grad()
def draw_negatives(
    pairs: PairBatch, person_ids: Tensor | None, everyone: GlobalBatch, temperature: Tensor
) -> HardNegatives:
    """
    [`hard_negatives`] of both directions by the dual encoder's similarities of images and original captions.

    Args:
        person_ids: (batch,) integers; None when every pair is a person of its own.
    """
    images = everyone.gather(F.normalize(pairs.image.float(), dim=-1))
    texts = everyone.gather(F.normalize(pairs.original.float(), dim=-1))
    numbers = torch.arange(len(images), device=images.device)
    persons = numbers if person_ids is None else everyone.gather(person_ids)
    rows = slice(everyone.first_row, everyone.first_row + len(pairs.image))
    same = persons[rows, None] == persons[None, :]
    image, image_found = hard_negatives(texts[rows] @ images.t() / temperature, same)
    text, text_found = hard_negatives(images[rows] @ texts.t() / temperature, same)
    return HardNegatives(numbers[rows], image, text, image_found, text_found)


def matched_pairs(
    with_own_image: Tensor, with_negative_image: Tensor, negatives: HardNegatives, weights: Tensor | None
) -> MatchedPairs:
    """
    Logits with their labels and weights.

    Args:
        with_own_image: (2 batch, 2), of each image with its own caption and with another one, in turn.
        with_negative_image: (batch, 2), of each caption with another image.
        weights: (batch,) per-pair weights with mean 1; uniform if None.
    """
    batch = len(negatives.own)
    matches = torch.ones(batch, dtype=torch.bool, device=negatives.own.device)
    labels = torch.cat([torch.stack([matches, ~matches], dim=1).flatten(), ~matches])
    own = torch.ones(batch, device=negatives.own.device) if weights is None else weights
    # A wrong pair is no match; a mismatch stays one.
    first = torch.stack([own, negatives.text_found.float()], dim=1).flatten()
    counted = torch.cat([first, negatives.image_found.float()])
    return MatchedPairs(torch.cat([with_own_image, with_negative_image]), labels, counted)


__all__ = ["HardNegatives", "draw_negatives", "hard_negatives", "matched_pairs"]
