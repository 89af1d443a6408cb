"""
Which captions of a split belong to other persons, as far as a model can tell.

A caption of another person matches its image no better than it matches a stranger's. So each pair is compared with
pairs that are wrong for certain, captions with images drawn from other persons: that gives it a p-value, uniform for
wrong pairs and small for right ones. How many large p-values there are says how many pairs are wrong (Storey, 2002),
and with it where to draw the line. No share of noise has to be given, and clean data stay as they are but for the few
captions that fit strangers better. The method is this project's own; RDE (CVPR 2024) fits mixtures to two losses.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from .retrieval import SplitEmbeddings

_STRANGERS = 20_000  # pairs of a caption and the image of another person
_SPREAD = 0.5  # p-values above it are taken for those of wrong pairs alone
MOST_WRONG = 0.9  # share above which a model cannot tell pairs apart
_CHUNK = 512  # pairs compared at a time


@dataclass(frozen=True)
class WrongPairs:
    """
    What [`find_wrong_pairs`] found in the pairs of a split, in their order.

    Args:
        p_values: (pairs,), share of certainly wrong pairs that match as well, in (0, 1].
        wrong_share: estimated share of wrong pairs, in [0, 1].
        threshold: largest p-value of a pair that is kept.
    """

    p_values: np.ndarray
    wrong_share: float
    threshold: float

    @property
    def kept(self) -> np.ndarray:
        """(pairs,) bool: those more likely right than wrong."""
        return self.p_values <= self.threshold

    @property
    def wrong_kept(self) -> float:
        """Expected number of wrong pairs among those that are kept."""
        return self.wrong_share * self.threshold * len(self.p_values)

    def to_json(self, split: SplitEmbeddings) -> dict[str, Any]:
        """What was found as JSON values: the estimates, and as `left_out` the pairs that are not kept, worst first."""
        paths = dict(zip(split.gallery_image_ids.tolist(), split.gallery_paths))
        left_out = np.flatnonzero(~self.kept)
        return {
            "rows": len(self.p_values),
            "wrong_share": self.wrong_share,
            "threshold": self.threshold,
            "expected_wrong_kept": self.wrong_kept,
            "left_out": [
                {
                    "row": row,
                    "p_value": float(self.p_values[row]),
                    "image": paths[int(split.query_image_ids[row])],
                    "caption": split.captions[row],
                }
                for row in left_out[np.argsort(-self.p_values[left_out], kind="stable")].tolist()
            ],
        }


def find_wrong_pairs(split: SplitEmbeddings, seed: int = 0, device: torch.device | str | None = None) -> WrongPairs:
    """
    Judge each pair of a caption and the image that it is said to describe.

    A pair's statistic is the product of two shares: of the images of other persons that match its caption at least as
    well as its own, and of the captions of other persons that match its image at least as well.

    Args:
        split: each caption is a pair with the image of its `query_image_ids`.
        seed: of the drawing of strangers.
        device: that compares; the embeddings' when not given.

    Raises:
        ValueError: the split shows fewer than two persons.
    """
    gallery_rows = {int(image): row for row, image in enumerate(split.gallery_image_ids)}
    of_caption, of_image = np.asarray(split.query_person_ids), np.asarray(split.gallery_person_ids)
    rng = np.random.default_rng(seed)
    strange = rng.integers(0, len(of_caption), _STRANGERS), rng.integers(0, len(of_image), _STRANGERS)
    wrong = of_caption[strange[0]] != of_image[strange[1]]
    if not wrong.any():
        raise ValueError("wrong pairs are found by comparison with other persons, but all images show one person")
    statistic = _Statistic(split.text_embeds, split.image_embeds, of_caption, of_image, device)
    images = np.asarray([gallery_rows[int(image)] for image in split.query_image_ids])
    return _judge(statistic(np.arange(len(images)), images), statistic(strange[0][wrong], strange[1][wrong]))


def _judge(observed: np.ndarray, wrong: np.ndarray) -> WrongPairs:
    """Statistics of the pairs in question, and of pairs that are wrong; small ones speak for a right pair."""
    p_values = (1 + np.searchsorted(np.sort(wrong), observed, side="right")) / (1 + len(wrong))
    wrong_share = min(1.0, float((p_values > _SPREAD).mean()) / (1 - _SPREAD))
    # Up to t there are F(t) pairs, wrong_share * t of them wrong: most right ones for the fewest wrong ones.
    candidates = np.unique(p_values)
    below = np.searchsorted(np.sort(p_values), candidates, side="right") / len(p_values)
    gain = below - 2 * wrong_share * candidates
    return WrongPairs(p_values, wrong_share, float(candidates[gain.argmax()]))


class _Statistic:
    """Statistic of pairs, given as rows of captions and of images."""

    def __init__(self, texts: Tensor, images: Tensor, of_caption: np.ndarray, of_image: np.ndarray, device):
        self.texts, self.images = (F.normalize(embeds.float().to(device), dim=-1) for embeds in (texts, images))
        self.of_caption, self.of_image = (
            torch.as_tensor(persons, device=self.texts.device) for persons in (of_caption, of_image)
        )

    def __call__(self, captions: np.ndarray, images: np.ndarray) -> np.ndarray:
        among_images = _share_as_good(self.texts, self.images, self.of_image, captions, images)
        return among_images * _share_as_good(self.images, self.texts, self.of_caption, images, captions)


def _share_as_good(
    queries: Tensor, candidates: Tensor, persons: Tensor, rows: np.ndarray, own: np.ndarray
) -> np.ndarray:
    """
    Share of the candidates that match a query at least as well as its own one, further ones of the same person left
    out.

    Args:
        queries, candidates: (n, dim), (m, dim), of length 1.
        persons: (m,), of the candidates.
        rows, own: (pairs,), row of the query and of its own candidate.
    """
    shares = []
    starts = range(0, len(rows), _CHUNK)
    for start in tqdm(starts, desc="comparing pairs", leave=False, disable=not PartialState().is_main_process):
        row, column = (
            torch.as_tensor(values[start : start + _CHUNK], device=queries.device) for values in (rows, own)
        )
        scores = queries[row] @ candidates.t()
        others = persons[None, :] != persons[column][:, None]
        as_good = (scores >= scores.gather(1, column[:, None])) & others
        shares.append((1 + as_good.sum(dim=1)) / (1 + others.sum(dim=1)))
    return torch.cat(shares).double().cpu().numpy()


__all__ = ["MOST_WRONG", "WrongPairs", "find_wrong_pairs"]
