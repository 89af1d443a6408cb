"""
Re-rank what the dual encoder finds by the ITM head: log-odds that a caption describes an image, pair by pair.

The fusion encoder takes a caption's token states and an image's patch states. Both are computed once and kept in half
precision; pairs are then fused image by image, because an image's keys and values serve all captions that are fused
with it in one row. In the BERT family, whose every layer has a cross-attention, they are the larger part of the work.

Memory is bounded: captions are taken in blocks and images in chunks whose states fit. A chunk is encoded again for the
next block of captions, which costs little beside the fusion of its pairs.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from aga_model.defaults import RERANK_MEMORY_MIB, SIMILARITY_WEIGHT
from aga_model.errors import ModelLoadError
from aga_model.files import Skipped, UnreadableImageError
from aga_model.gallery import Hit, read_hit
from aga_model.loading import read_model, require_weights
from aga_model.retrieval_aga import AgaForImageTextRetrieval

from .encoder import TOKENIZING, PersonEncoder

_PAIRS_PER_IMAGE = 4  # an image has several times the states of a caption, so fewer of them make a batch


class Reranker:
    """
    Scores caption-image pairs with the ITM head.

    ```python
    >>> reranker = Reranker.from_encoder(PersonEncoder.from_pretrained("runs/my_model"))
    >>> candidates = ranking.top_indices  # (queries, k) of `rank_gallery(..., top_k=k)`
    >>> log_odds = reranker.score(captions, load_pixels, candidates)
    ```

    Scores differ from those of [`AgaForImageTextRetrieval.score`] because states are kept in half precision, which
    moves each entry by up to 0.05%: by about 0.05% of the larger scores, 0.006 where log-odds reach 13. Nothing else
    differs beyond the rounding of the order of summation.

    Args:
        model: on the device where to compute, in the dtype to compute with.
        processor: its AgaProcessor.
        memory_mib: MiB for states that are kept, half for captions and half for images. The weights, the activations
            of one batch and about 40 bytes per pair come on top.
        batch_size: pairs or captions per forward pass; a quarter as many images.
        similarity_weight: of the cosine similarity over temperature, which [`Reranker.combine`] adds to the ITM
            log-odds. 0 is ALBEF's and RaSa's way, by the ITM head alone. 1 is this project's choice: ITM learns from
            hard negatives that are drawn by the softmax over these similarities, so its log-odds say how much more
            often a pair is a match than the dual encoder would draw it, and the sum undoes the drawing.

    Raises:
        ValueError: `memory_mib` is not positive, or `batch_size` is below 1.
    """

    def __init__(
        self,
        model: AgaForImageTextRetrieval,
        processor: Any,
        memory_mib: float = RERANK_MEMORY_MIB,
        batch_size: int = 128,
        similarity_weight: float = SIMILARITY_WEIGHT,
    ):
        if not memory_mib > 0:
            raise ValueError(f"memory_mib must be positive, got {memory_mib}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.model: Any = model
        self.processor = processor
        self.memory_mib = memory_mib
        self.batch_size = batch_size
        self.similarity_weight = similarity_weight

    @classmethod
    def from_encoder(
        cls,
        encoder: PersonEncoder,
        memory_mib: float = RERANK_MEMORY_MIB,
        batch_size: int = 128,
        similarity_weight: float = SIMILARITY_WEIGHT,
    ) -> "Reranker":
        """
        The re-ranker of an encoder that was loaded from a folder or the Hub, sharing its dual encoder's weights.

        Raises:
            ModelLoadError: the encoder's model is no AGA model, or it has no ITM head.
        """
        if encoder.folder is None or getattr(encoder.model.config, "model_type", None) != "aga":
            raise ModelLoadError(f"model {encoder.name} cannot re-rank: it is no saved AGA model")
        model: Any
        model, missing = read_model(AgaForImageTextRetrieval, encoder.folder, encoder.name)
        require_weights(missing, encoder.name)
        model.aga = encoder.model  # the same weights, not twice in memory
        return cls(model.to(encoder.device).eval(), encoder.processor, memory_mib, batch_size, similarity_weight)

    @property
    def images_per_batch(self) -> int:
        """Images per forward pass."""
        return max(1, self.batch_size // _PAIRS_PER_IMAGE)

    def score(
        self,
        captions: Sequence[str],
        load_pixels: Callable[[list[int]], Tensor],
        candidates: np.ndarray,
        progress: bool = True,
    ) -> np.ndarray:
        """
        Log-odds that captions describe their candidates.

        Args:
            captions: (queries,) sentences; cut at the model's text length.
            load_pixels: gallery rows to pixel_values (rows, channels, height, width). Asked for each candidate once
                per block of captions, at most `images_per_batch` at a time.
            candidates: integers (queries, k), gallery rows; -1 for none.
            progress: show a progress bar.

        Returns:
            float32 (queries, k); NaN where there is no candidate.

        Raises:
            ValueError: `candidates` has another shape, `memory_mib` does not hold one image and one caption, or a
                score is not finite (names the pair).
        """
        candidates = np.asarray(candidates)
        if candidates.ndim != 2 or len(candidates) != len(captions) or candidates.dtype.kind not in "iu":
            raise ValueError(
                f"candidates are {candidates.dtype} {candidates.shape}, expected integers ({len(captions)}, k), one "
                "row per caption"
            )
        scores = np.full(candidates.shape, np.nan, dtype=np.float32)
        if not (candidates >= 0).any():
            return scores
        total = int((candidates >= 0).sum())
        with _evaluating(self.model), tqdm(
            total=total, desc="re-ranking", unit="pair", leave=False, disable=not progress
        ) as bar:  # fmt: skip
            tokens = _tokenized(self.model, self.processor, captions)
            for block in self._blocks(tokens.numbers):
                scores[block] = self._score_block(
                    self._encode_captions(tokens, block), load_pixels, candidates[block], bar
                )
        bad = np.argwhere(~np.isfinite(scores) & (candidates >= 0))
        if len(bad):
            query, place = bad[0]
            raise ValueError(
                f"{len(bad)} ITM scores are not finite, first: caption {captions[query]!r} with image "
                f"{candidates[query, place]}; the model's weights are unusable"
            )
        return scores

    def combine(self, log_odds: np.ndarray, similarities: np.ndarray) -> np.ndarray:
        """
        What candidates are ordered by: ITM log-odds + `similarity_weight` * cosine similarity / temperature.

        Args:
            log_odds: (queries, k) of [`Reranker.score`].
            similarities: (queries, k), cosines of the dual encoder.

        Returns:
            float64 (queries, k).
        """
        inverse_temperature = float(self.model.aga.logit_scale.detach().double().exp())
        wide = np.asarray(log_odds, dtype=np.float64)
        return wide + self.similarity_weight * inverse_temperature * np.asarray(similarities, dtype=np.float64)

    # --- what is kept ---------------------------------------------------------------------------------------------

    @property
    def _kept_dtype(self) -> torch.dtype:
        dtype = self.model.dtype
        return dtype if dtype.itemsize == 2 else torch.float16

    @property
    def _patches(self) -> tuple[int, int]:
        """Shape of an image's states."""
        config = self.model.config
        rows, columns = config.vision_config.grid_size
        return rows * columns + 1, self.model.family.image_states_width(config)

    def _blocks(self, numbers: np.ndarray) -> Iterator[slice]:
        """Consecutive captions whose states fit into half of the memory; `numbers` counts the states of each."""
        half = self.memory_mib * 2**20 / 2
        state_bytes = self._kept_dtype.itemsize * self.model.config.cross_modal_config.hidden_size
        patches, width = self._patches
        image_bytes, caption_bytes = patches * width * self._kept_dtype.itemsize, int(numbers.max()) * state_bytes
        if max(image_bytes, caption_bytes) > half:
            raise ValueError(
                f"memory_mib is {self.memory_mib:g}, of which the states of one image and those of one caption may "
                f"take half each: re-ranking with this model needs {2 * max(image_bytes, caption_bytes) / 2**20:.2g} "
                "MiB at least"
            )
        start, held = 0, 0
        for index, number in enumerate(numbers.tolist()):
            if held + number * state_bytes > half:
                yield slice(start, index)
                start, held = index, 0
            held += number * state_bytes
        yield slice(start, len(numbers))

    def _encode_captions(self, tokens: "_Tokens", block: slice) -> "_CaptionStates":
        """Token states of a block of captions, without padding."""
        model, lengths, numbers = self.model, tokens.lengths[block], tokens.numbers[block]
        width = model.config.cross_modal_config.hidden_size
        states = torch.empty(int(numbers.sum()), width, dtype=self._kept_dtype, device=model.device)
        first, kept, summaries = (torch.zeros(len(lengths), dtype=torch.long) for _ in range(3))
        end = 0
        order = np.argsort(lengths, kind="stable")  # captions of one length side by side need no padding
        for start in range(0, len(order), self.batch_size):
            rows = torch.from_numpy(order[start : start + self.batch_size])
            longest = int(lengths[rows.numpy()].max())
            ids = tokens.input_ids[block][rows, :longest].to(model.device)
            attention_mask = tokens.attention_mask[block][rows, :longest].to(model.device)
            found, mask = model.caption_states(ids, attention_mask)
            if mask is None:  # IRRA's padding takes part
                mask = torch.ones(found.shape[:2], dtype=torch.bool, device=found.device)
            place = mask.long().cumsum(dim=1) - 1  # of a token among those that are kept
            summary = model.aga.text_model.pooled_positions(ids)
            summaries[rows] = place[torch.arange(len(rows), device=place.device), summary].cpu()
            kept[rows] = mask.sum(dim=1).cpu()
            first[rows] = end + kept[rows].cumsum(dim=0) - kept[rows]
            states[end : end + int(kept[rows].sum())] = found[mask].to(states.dtype)
            end += int(kept[rows].sum())
        return _CaptionStates(states, first.to(model.device), kept.to(model.device), summaries.to(model.device))

    def _encode_images(self, load_pixels: Callable[[list[int]], Tensor], images: np.ndarray) -> Tensor:
        """(images, patches + 1, dim)."""
        model = self.model
        states = torch.empty(len(images), *self._patches, dtype=self._kept_dtype, device=model.device)
        for start in range(0, len(images), self.images_per_batch):
            rows = images[start : start + self.images_per_batch].tolist()
            pixels = load_pixels(rows)
            if len(pixels) != len(rows):
                raise ValueError(f"load_pixels gave {len(pixels)} images for {len(rows)} gallery rows")
            vision = model.aga.get_image_features(pixels.to(model.device))
            states[start : start + len(rows)] = model.aga.fusion_image_states(vision).to(states.dtype)
        return states

    # --- pairs ----------------------------------------------------------------------------------------------------

    def _score_block(
        self,
        captions: "_CaptionStates",
        load_pixels: Callable[[list[int]], Tensor],
        candidates: np.ndarray,
        bar: Any,
    ) -> np.ndarray:
        """Scores of a block of captions, chunk by chunk of the images that are a candidate of any of them."""
        scores = np.full(candidates.size, np.nan, dtype=np.float32)
        image_of = candidates.ravel()
        query_of = np.repeat(np.arange(len(candidates)), candidates.shape[1])
        lengths = captions.lengths.cpu().numpy()
        pairs = np.lexsort((lengths[query_of], image_of))  # by image, the shortest caption first
        pairs = pairs[np.searchsorted(image_of, 0, sorter=pairs) :]
        images, first, counts = np.unique(image_of[pairs], return_index=True, return_counts=True)
        patches, width = self._patches
        chunk = int(self.memory_mib * 2**20 / 2 // (patches * width * self._kept_dtype.itemsize))
        for start in range(0, len(images), chunk):
            part = slice(start, start + chunk)
            begin, end = first[start], first[part][-1] + counts[part][-1]
            image_states = self._encode_images(load_pixels, images[part])
            found = self._score_chunk(
                captions, image_states, query_of[pairs[begin:end]], first[part] - begin, counts[part], lengths, bar
            )
            scores[pairs[begin:end]] = found
            del image_states  # before the next chunk's are made
        return scores.reshape(candidates.shape)

    def _captions_in_a_row(self, counts: np.ndarray, length: float) -> np.ndarray:
        """
        How many captions of an image to fuse with it in one row, a power of two; for images with `counts` captions of
        `length` tokens on average.

        In a row of c the image's keys and values cost 1/c of what they cost a pair alone, which is r times the rest of
        the work. But a row is as long as its longest caption: when the n captions of an image, sorted by length, are
        cut into rows of c, about c / 2n of the tokens are padding (measured on captions of one to four sentences).
        r/c + c/2n is least for c = sqrt(2rn).
        """
        fusion = self.model.fusion
        projections = [weights for layer in fusion.image_projections for weights in layer.parameters()]
        shared = sum(weights.numel() for weights in projections)
        rest = sum(weights.numel() for weights in fusion.parameters()) - shared
        ratio = self._patches[0] * shared / (length * rest)
        powers = np.rint(np.log2(np.sqrt(2 * ratio * counts))).clip(0, self.batch_size.bit_length() - 1)
        return 2 ** powers.astype(np.int64)

    def _score_chunk(
        self,
        captions: "_CaptionStates",
        image_states: Tensor,
        queries: np.ndarray,
        first: np.ndarray,
        counts: np.ndarray,
        lengths: np.ndarray,
        bar: Any,
    ) -> np.ndarray:
        """
        Scores of the pairs of a chunk of images.

        Args:
            image_states: (images, patches + 1, dim).
            queries: (pairs,) caption of each pair; image by image, the shortest first.
            first, counts: (images,) first pair of each image and number of its pairs.
            lengths: (captions,) token states of each caption.
        """
        device, dtype = self.model.device, self.model.dtype
        found = torch.empty(len(queries), dtype=torch.float32, device=device)
        largest = self._captions_in_a_row(counts, float(lengths[queries].mean()))
        for size, rows, starts in _equal_groups(first, counts, largest):
            order = np.argsort(lengths[queries[starts + size - 1]], kind="stable")
            step = self.batch_size // size
            for begin in range(0, len(order), step):
                chosen = order[begin : begin + step]
                pairs = (starts[chosen, None] + np.arange(size)).ravel()
                described = queries[pairs]
                states, mask, summary = captions.padded(
                    torch.from_numpy(described).to(device), int(lengths[described].max()), dtype
                )
                patches = image_states[torch.from_numpy(rows[chosen]).to(device)].to(dtype)
                logits = self.model.match_logits(states, mask, summary, patches).float()
                found[torch.from_numpy(pairs).to(device)] = logits[:, 1] - logits[:, 0]
                bar.update(len(pairs))
        return found.cpu().numpy()


def _tokenized(model: Any, processor: Any, captions: Sequence[str]) -> "_Tokens":
    config = model.config
    with TOKENIZING:
        inputs = processor(
            text=list(captions),
            padding=True,
            padding_side="right",
            truncation=True,
            max_length=config.text_config.caption_length,
            return_tensors="pt",
        )
    lengths = inputs["attention_mask"].sum(dim=1).numpy()
    padded = config.cross_modal_config.attended_padding_id is not None
    numbers = np.full_like(lengths, config.text_config.max_position_embeddings) if padded else lengths
    return _Tokens(inputs["input_ids"], inputs["attention_mask"], lengths, numbers)


@dataclass(frozen=True)
class _Tokens:
    """
    Args:
        input_ids, attention_mask: (captions, longest).
        lengths: (captions,) tokens of each caption.
        numbers: (captions,) token states of each caption that the fusion encoder reads, at most.
    """

    input_ids: Tensor
    attention_mask: Tensor
    lengths: np.ndarray
    numbers: np.ndarray


@dataclass(frozen=True)
class _CaptionStates:
    """
    Token states of captions without padding.

    Args:
        states: (tokens of all captions, dim).
        first, lengths: (captions,) first row of each caption and number of its rows.
        summaries: (captions,) place of the pooled token among a caption's rows.
    """

    states: Tensor
    first: Tensor
    lengths: Tensor
    summaries: Tensor

    def padded(self, captions: Tensor, longest: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """States (batch, longest, dim), mask (batch, longest) and summary positions (batch,) of some captions."""
        lengths = self.lengths[captions]
        places = torch.arange(longest, device=lengths.device)
        mask = places < lengths[:, None]
        # Padding repeats a caption's last state: it is masked, but must be finite.
        rows = self.first[captions, None] + torch.minimum(places, lengths[:, None] - 1)
        return self.states[rows].to(dtype), mask, self.summaries[captions]


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Inference in eval mode; the model's mode is left as it was."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)


def _equal_groups(
    first: np.ndarray, counts: np.ndarray, largest: np.ndarray
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """
    Split each image's pairs into groups whose sizes are powers of two, so that groups of one size make a batch without
    a pair too many: 21 pairs are 16 + 4 + 1, or 8 + 8 + 4 + 1 where 8 is the largest.

    Args:
        first, counts: (images,) first pair of each image and number of its pairs.
        largest: (images,) powers of two; no group of the image is larger.

    Yields:
        size of the groups; (groups,) image and first pair of each.
    """
    size = int(largest.max())
    while size:
        # Larger groups, where the image has any, hold its first pairs.
        done = np.where(largest > size, counts // (2 * size) * (2 * size), 0)
        number = np.where(largest >= size, (counts - done) // size, 0)
        rows = np.repeat(np.arange(len(counts)), number)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(number) - number, number)
        yield size, rows, (first + done)[rows] + size * within
        size //= 2


def rerank_hits(reranker: Reranker, query: str, hits: Sequence[Hit]) -> tuple[list[Hit], list[Skipped]]:
    """
    Order the hits of one query by [`Reranker.combine`]. Their images are read again from their files.

    Args:
        query: the sentence.
        hits: of [`Gallery.search`], best first.

    Returns:
        The hits with their new ranks and `itm_score`; equal scores keep their order. Hits whose image can no longer be
        read follow behind in their old order, without `itm_score`. And these images, with the reasons.
    """
    scored: list[Hit] = []
    behind: list[Hit] = []
    skipped: list[Skipped] = []
    for start in range(0, len(hits), reranker.batch_size):  # not all images in memory at a time
        batch, pixels = [], []
        for hit in hits[start : start + reranker.batch_size]:
            try:
                image = read_hit(hit)
            except UnreadableImageError as error:
                behind.append(hit)
                skipped.append(Skipped(error.path, error.reason))
                continue
            batch.append(hit)
            pixels.append(reranker.processor(images=[image], return_tensors="pt")["pixel_values"])
        if batch:
            loader = torch.cat(pixels).__getitem__
            log_odds = reranker.score([query], loader, np.arange(len(batch))[None], progress=False)[0]
            scored += [replace(hit, itm_score=float(value)) for hit, value in zip(batch, log_odds)]
    order_by = reranker.combine(np.array([hit.itm_score for hit in scored]), np.array([hit.score for hit in scored]))
    ordered = [scored[index] for index in np.argsort(-order_by, kind="stable")] + behind
    return [replace(hit, rank=rank) for rank, hit in enumerate(ordered, start=1)], skipped
