"""Hard negatives for image-text matching (ITM)."""

import torch
from torch import Tensor

from .enrichment import sample_rows


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


__all__ = ["hard_negatives"]
