"""TEM: text enrichment, writing the MLM's predictions at the masked words back into the caption."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .masking import masked_positions


def sample_rows(probabilities: Tensor) -> Tensor:
    """
    One draw per row of (rows, classes), (rows,), by the cumulated distribution.

    Takes one random number per row where `torch.multinomial` takes one per class. A row that holds NaN gives the last
    class: an index that is none would end the process on a GPU before the loss can tell.
    """
    cumulated = probabilities.cumsum(dim=1)
    # In (0, total]: the first class that reaches the level has a probability above zero, also after rounding.
    levels = (1 - torch.rand(len(probabilities), 1, device=probabilities.device)) * cumulated[:, -1:]
    return torch.searchsorted(cumulated, levels).squeeze(1).clamp(max=probabilities.shape[1] - 1)


@dataclass(frozen=True)
class EnrichedRows:
    """
    Which rows of captions TEM enriches in a step: a share of them, drawn at random.

    How many rows are read again does not depend on the draw, so that shapes are the same in every step.

    Args:
        order: (rows,), the rows in random order; TEM takes the first ones.
        whole: how many are enriched in any case.
        chance: probability that one more is.
    """

    order: Tensor
    whole: int
    chance: float

    @classmethod
    def draw(cls, rows: int, probability: float, device: torch.device) -> "EnrichedRows":
        """Of a number of rows, each with a probability in [0, 1]."""
        share = probability * rows
        return cls(torch.rand(rows, device=device).argsort(), math.floor(share), share - math.floor(share))

    @property
    def certain(self) -> Tensor:
        """(whole,), the rows that are enriched in any case."""
        return self.order[: self.whole]

    @property
    def others(self) -> Tensor:
        """(rows - whole,), the rows that may stay as they are."""
        return self.order[self.whole :]

    @property
    def read(self) -> Tensor:
        """The rows that are read with TEM's words; those of the last one may go unused, which [`used`] draws."""
        return self.order[: self.whole + (1 if self.chance > 0 else 0)]

    def used(self, number: Tensor) -> Tensor:
        """
        Which captions are enriched in this step, bool (batch,); draws whether the last row is.

        Args:
            number: (batch,), place of each caption's row among those of `read`, below 0 for none.
        """
        one_more = torch.rand((), device=number.device) < self.chance
        return (number >= 0) & ((number < self.whole) | one_more)


class TextEnrichment:
    """
    Turn a caption into its enriched version at the masked positions.

    Source: AGA (arXiv 2412.15106). Sampling or arg-max and the confidence floor are this project's choices.

    Args:
        sampling: `sample` from the predicted distribution or its `argmax`.
        min_confidence: predictions of a lower probability leave the original token.
        forbidden_ids: ids that are never written (special tokens).
    """

    def __init__(self, sampling: str, min_confidence: float, forbidden_ids: list[int]):
        self.sampling = sampling
        self.min_confidence = min_confidence
        self.forbidden_ids = forbidden_ids

    @torch.no_grad()
    def enrich(self, input_ids: Tensor, masked: Tensor, logits: Tensor) -> Tensor:
        """
        Args:
            input_ids: (batch, seq) of the original caption; not modified.
            masked: bool (batch, seq).
            logits: (batch, capacity, vocabulary), of the tokens at [`masked_positions`].

        Returns:
            a new (batch, seq) that differs from `input_ids` at masked positions only.
        """
        if logits.shape[1] == 0:
            return input_ids.clone()
        positions, valid = masked_positions(masked, logits.shape[1])
        logits = logits.detach().to(torch.float32, copy=True)
        for forbidden in self.forbidden_ids:  # an index list would be copied to the device and waited for
            logits[..., forbidden] = float("-inf")
        probabilities = logits.softmax(dim=-1)
        if self.sampling == "argmax":
            predicted = probabilities.argmax(dim=-1)
        else:
            predicted = sample_rows(probabilities.flatten(0, 1)).view_as(positions)
        confident = probabilities.gather(2, predicted[..., None]).squeeze(2) >= self.min_confidence
        written = torch.where(valid & confident, predicted, input_ids.gather(1, positions))
        return input_ids.scatter(1, positions, written)


__all__ = ["EnrichedRows", "TextEnrichment", "sample_rows"]
