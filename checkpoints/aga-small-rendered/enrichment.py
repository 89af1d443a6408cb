"""TEM: text enrichment, writing the MLM's predictions at the masked words back into the caption."""

import torch
from torch import Tensor


def sample_rows(probabilities: Tensor) -> Tensor:
    """
    One draw per row of (rows, classes), (rows,), by the cumulated distribution.

    Takes one random number per row where `torch.multinomial` takes one per class.
    """
    cumulated = probabilities.cumsum(dim=1)
    # In (0, total]: the first class that reaches the level has a probability above zero, also after rounding.
    levels = (1 - torch.rand(len(probabilities), 1, device=probabilities.device)) * cumulated[:, -1:]
    return torch.searchsorted(cumulated, levels).squeeze(1)


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
            logits: (masked.sum(), vocabulary) in the row-major order of `masked`.

        Returns:
            a new (batch, seq) that differs from `input_ids` at masked positions only.
        """
        logits = logits.detach().float().clone()
        logits[:, self.forbidden_ids] = float("-inf")
        probabilities = logits.softmax(dim=-1)
        if self.sampling == "argmax" or len(logits) == 0:
            predicted = probabilities.argmax(dim=-1)
        else:
            predicted = sample_rows(probabilities)
        confident = probabilities.gather(1, predicted[:, None]).squeeze(1) >= self.min_confidence
        original = input_ids[masked]
        enriched = input_ids.clone()
        enriched[masked] = torch.where(confident, predicted, original)
        return enriched


__all__ = ["TextEnrichment", "sample_rows"]
