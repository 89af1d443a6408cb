"""What torch.compile has to know of a batch so that it compiles a step once."""

from typing import Any

import torch

# Which sizes of a batch's tensors differ from batch to batch: caption length, rows and their width.
_VARIABLE_SIZES = {
    "input_ids": [1],
    "attention_mask": [1],
    "tokens": [0, 1],
    "captions": [0, 1],
    "positions": [0, 1],
    "slots": [1],
}


def mark_lengths(batch: dict[str, Any]) -> None:
    """
    Tell torch.compile which sizes vary; it would compile for the first ones alone, and again for others.

    Args:
        batch: of [`PairCollator`], with tensors on the device where they are used.
    """
    for name, value in batch.items():
        if isinstance(value, dict):
            mark_lengths(value)
        elif name in _VARIABLE_SIZES:
            torch._dynamo.maybe_mark_dynamic(value, _VARIABLE_SIZES[name])


__all__ = ["mark_lengths"]
