"""Captions side by side in rows, so that the text tower computes hardly any padding."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def _fit(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Captions by row: each, the longest first, goes where it leaves the least space, or into a new row."""
    rows: list[list[int]] = []
    by_space: list[list[int]] = [[] for _ in range(width + 1)]
    for caption in sorted(range(len(lengths)), key=lambda caption: -lengths[caption]):
        length = lengths[caption]
        space = next((space for space in range(length, width + 1) if by_space[space]), None)
        if space is None:
            rows.append([])
            row, space = len(rows) - 1, width
        else:
            row = by_space[space].pop()
        rows[row].append(caption)
        by_space[space - length].append(row)
    return rows


def pack_captions(lengths: Sequence[int], longest_row: int) -> dict[str, Tensor]:
    """
    Lay captions out in rows of equal width, as narrow and as few as best-fit decreasing finds them.

    Args:
        lengths: tokens of each caption, start and end included.
        longest_row: tokens that the text tower reads; no caption is longer.

    Returns:
        the `packing` of [`AgaForPreTraining`], all int64: `tokens` (rows, width), the place of each slot's token in
        the flattened captions (batch * longest), 0 for an empty slot; `captions` (rows, width), the caption of each
        slot, -1 for none; `positions` (rows, width), the position in it; `slots` (batch, longest), the slot of each
        token in the flattened rows, rows * width for padding.

    Raises:
        ValueError: no captions, or one that is longer than a row.
    """
    if not lengths or max(lengths) > longest_row:
        raise ValueError(f"captions of 1 to {longest_row} tokens are packed into rows; got {list(lengths)[:8]}")
    longest = max(lengths)
    fits = [(width, _fit(lengths, width)) for width in range(longest, longest_row + 1)]
    width, rows = min(fits, key=lambda fit: (fit[0] * len(fit[1]), fit[0]))
    tokens, captions, positions = (torch.zeros(len(rows), width, dtype=torch.long) for _ in range(3))
    captions.fill_(-1)
    slots = torch.full((len(lengths), longest), len(rows) * width)
    for row, members in enumerate(rows):
        start = 0
        for caption in members:
            inside, length = slice(start, start + lengths[caption]), lengths[caption]
            tokens[row, inside] = torch.arange(caption * longest, caption * longest + length)
            captions[row, inside] = caption
            positions[row, inside] = torch.arange(length)
            slots[caption, :length] = torch.arange(row * width + start, row * width + start + length)
            start += length
    return {"tokens": tokens, "captions": captions, "positions": positions, "slots": slots}


def same_caption(captions: Tensor) -> Tensor:
    """Which slots of a row belong to one caption, bool (rows, 1, width, width), of a packing's `captions`."""
    return (captions[:, :, None] == captions[:, None, :])[:, None]


def pack_states(states: Tensor, packing: dict[str, Tensor]) -> Tensor:
    """States of captions (batch, seq, dim) side by side, (rows, width, dim)."""
    return states.flatten(0, 1)[packing["tokens"]]


def unpack_states(states: Tensor, packing: dict[str, Tensor]) -> Tensor:
    """States (rows, width, dim) by caption, (batch, seq, dim), zero at padding."""
    return torch.nn.functional.pad(states.flatten(0, 1), (0, 0, 0, 1))[packing["slots"]]


class PackedCaptions:
    """
    A batch of captions in the rows in which the text tower reads them: one caption each, or several by a packing.

    Args:
        attention_mask: (batch, seq), 0 at padding, or None; not read with a packing.
        shape: (batch, seq) of the captions.
        packing: of [`pack_captions`] for these captions, or None.
        device: of the captions.
    """

    def __init__(
        self,
        attention_mask: Tensor | None,
        shape: tuple[int, int],
        packing: dict[str, Tensor] | None,
        device: torch.device,
    ):
        self.attention_mask, self.shape, self.packing, self.device = attention_mask, shape, packing, device
        self.count, self.width = shape if packing is None else tuple(packing["tokens"].shape)
        self.chosen: Tensor | None = None
        self._number: Tensor | None = None  # (rows,) place of each row among the chosen ones, -1 for the others

    def choose(self, rows: Tensor) -> "PackedCaptions":
        """Some of the rows, by their numbers (chosen,); all captions keep their places in every result."""
        part = PackedCaptions(self.attention_mask, self.shape, self.packing, self.device)
        part.chosen = rows
        number = torch.full((self.count,), -1, device=self.device)
        part._number = number.scatter(0, rows, torch.arange(len(rows), device=self.device))
        return part

    def inputs(self, input_ids: Tensor, causal: bool) -> dict[str, Any]:
        """
        What the text tower reads of captions (batch, seq).

        Args:
            input_ids: (batch, seq).
            causal: whether a token sees the ones before it alone.
        """
        if self.packing is None:
            ids, mask = input_ids, self.attention_mask
            if self.chosen is not None:
                ids, mask = ids[self.chosen], None if mask is None else mask[self.chosen]
            return {"input_ids": ids, "attention_mask": mask}
        tokens, captions, positions = (
            self.packing[name] if self.chosen is None else self.packing[name][self.chosen]
            for name in ("tokens", "captions", "positions")
        )
        visible = same_caption(captions)
        if causal:
            visible = visible & torch.ones(self.width, self.width, dtype=torch.bool, device=self.device).tril()
        return {
            "input_ids": input_ids.flatten()[tokens],
            "attention_mask": visible,
            "position_ids": positions,
        }

    def present(self) -> Tensor | None:
        """Which captions are in the chosen rows, bool (batch,); None when all are."""
        return None if self._number is None else self.numbers() >= 0

    def numbers(self) -> Tensor:
        """The place of each caption's row among the chosen ones, (batch,); below 0 for none."""
        rows = self._row_of_captions()
        return rows if self._number is None else self._number[rows]

    def pooled_index(self, positions: Tensor) -> Tensor:
        """The tower's `pooled_index` of positions (batch,) in the captions: these, or (batch, 2) row and column."""
        if self.packing is None and self.chosen is None:
            return positions
        return torch.stack([self.numbers().clamp(min=0), self._columns(positions[:, None])[:, 0]], dim=1)

    def at(self, states: Tensor, positions: Tensor) -> Tensor:
        """States (rows, width, dim) at one position (batch,) of each caption, (batch, dim); any where it is absent."""
        return states[self.numbers().clamp(min=0), self._columns(positions[:, None])[:, 0]]

    def by_caption(self, states: Tensor) -> Tensor:
        """States (rows, width, dim) of all rows as (batch, seq, dim), zero at padding with a packing."""
        return states if self.packing is None else unpack_states(states, self.packing)

    def attention_by_caption(self, weights: Tensor) -> Tensor:
        """Summary tokens' attention (layers, batch, heads, width) as (layers, batch, heads, seq), zero at padding."""
        if self.packing is None:
            return weights
        slots = self.packing["slots"]
        places = torch.arange(self.shape[1], device=self.device).expand(self.shape)
        columns = self._columns(places).clamp(0, self.width - 1)
        taken = weights.gather(-1, columns[None, :, None].expand(*weights.shape[:-1], -1))
        return taken * (slots < self.count * self.width)[None, :, None]

    def _row_of_captions(self) -> Tensor:
        if self.packing is None:
            return torch.arange(self.count, device=self.device)
        return self.packing["slots"][:, 0] // self.width

    def _columns(self, positions: Tensor) -> Tensor:
        """Column in its row of each position (batch, n) of the captions, (batch, n)."""
        if self.packing is None:
            return positions
        return positions + self.packing["slots"][:, :1] % self.width


__all__ = ["PackedCaptions", "pack_captions", "pack_states", "same_caption", "unpack_states"]
