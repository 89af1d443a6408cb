"""Evaluate a model on a split of a benchmark: encode its gallery and captions, rank, re-rank, measure."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor
from tqdm.auto import tqdm

from aga_model.data import read_crop, to_pixel_values
from aga_model.search import Reranker

from .metrics import chance_rank1, query_values
from .ranking import Ranking, rank_gallery, rerank
from .significance import Interval, bootstrap_intervals


@dataclass
class SplitEmbeddings:
    """
    Embeddings of one split, each image and each caption once.

    Args:
        image_embeds: (gallery, dim).
        text_embeds: (queries, dim).
        gallery_person_ids, query_person_ids: (gallery,), (queries,).
        gallery_image_ids, query_image_ids: (gallery,), (queries,); a caption's is that of the image it describes.
        gallery_paths: image file of each gallery row.
        captions: sentence of each query.
    """

    image_embeds: Tensor
    text_embeds: Tensor
    gallery_person_ids: np.ndarray
    query_person_ids: np.ndarray
    gallery_image_ids: np.ndarray
    query_image_ids: np.ndarray
    gallery_paths: list[str]
    captions: list[str]

    def rank_images(self, top_k: int = 0, device: torch.device | str | None = None) -> Ranking:
        """Text-to-image: every caption is a query, every image is in the gallery; as [`rank_gallery`]."""
        texts, images = self.text_embeds, self.image_embeds
        return rank_gallery(texts, images, self.query_person_ids, self.gallery_person_ids, top_k=top_k, device=device)

    def rank_captions(self, top_k: int = 0, device: torch.device | str | None = None) -> Ranking:
        """Image-to-text: every image is a query, every caption is in the gallery; as [`rank_gallery`]."""
        texts, images = self.text_embeds, self.image_embeds
        return rank_gallery(images, texts, self.gallery_person_ids, self.query_person_ids, top_k=top_k, device=device)


class RetrievalEvaluator:
    """
    Text-to-image evaluation on one split: every caption is a query, every image of the split is in the gallery.

    Under several processes each encodes its share and all get the same metrics.

    Args:
        rows: a split of `load_benchmark`, one row per image-caption pair.
        processor: AgaProcessor.
        batch_size: images or captions encoded at a time in each process.
        cache: keep decoded crops in memory between evaluations.
    """

    def __init__(self, rows: Dataset, processor, batch_size: int = 128, cache: bool = False):
        self.processor = processor
        self.batch_size = batch_size
        self.captions: list[str] = list(rows["caption"])
        token_ids = processor.tokenizer(self.captions, truncation=True)["input_ids"]
        # The longest first, so that a batch that does not fit into memory fails at once.
        self.by_length = sorted(range(len(token_ids)), key=lambda index: -len(token_ids[index]))
        self.query_person_ids = np.asarray(rows["person_id"])
        self.query_image_ids = np.asarray(rows["image_id"])
        _, first = np.unique(self.query_image_ids, return_index=True)
        gallery = rows.select(np.sort(first))
        self.gallery_paths: list[str] = [image["path"] for image in gallery["image"]]
        self.gallery_person_ids = np.asarray(gallery["person_id"])
        self.gallery_image_ids = np.asarray(gallery["image_id"])
        self.cached: dict[int, np.ndarray] | None = {} if cache else None

    def _crop(self, index: int) -> np.ndarray:
        if self.cached is not None and index in self.cached:
            return self.cached[index]
        size = self.processor.image_processor.size
        crop = read_crop(self.gallery_paths[index], size["height"], size["width"])
        if self.cached is not None:
            self.cached[index] = crop
        return crop

    def _pixels(self, indices: list[int]) -> Tensor:
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow releases the interpreter while it decodes
            crops = list(pool.map(self._crop, indices))
        return torch.from_numpy(to_pixel_values(crops, self.processor.image_processor))

    def _encode_images(self, model, indices: list[int]) -> Tensor:
        return model.get_image_features(self._pixels(indices).to(model.device)).pooler_output

    def _encode_captions(self, model, indices: list[int]) -> Tensor:
        texts = [self.captions[index] for index in indices]
        inputs = self.processor(text=texts, return_tensors="pt").to(model.device)
        return model.get_text_features(**inputs).pooler_output

    def _encode_share(self, encode, model, order: Sequence[int], label: str) -> Tensor:
        """
        Rows 0, 1, ... of `encode`, float32 on the CPU.

        Args:
            encode: a function of the model and a list of rows.
            order: all rows in the order in which they are encoded; every process takes its share.
            label: of the progress bar.
        """
        state = PartialState()
        mine = list(order[state.process_index :: state.num_processes])
        starts = range(0, len(mine), self.batch_size)
        progress = tqdm(starts, desc=f"encoding {label}", leave=False, disable=not state.is_main_process)
        parts = [encode(model, mine[start : start + self.batch_size]).float().cpu() for start in progress]
        # One array per process: a tensor's views would each be pickled with the whole of it.
        shares = gather_object([(mine, torch.cat(parts).numpy())] if parts else [])
        indices = np.concatenate([rows for rows, _ in shares])
        embeds = np.concatenate([values for _, values in shares])
        return torch.from_numpy(embeds[indices.argsort()])

    @torch.no_grad()
    def embed(self, model) -> SplitEmbeddings:
        """Encode the split with an [`AgaModel`]; its train or eval mode is left as it was."""
        training = model.training
        model.eval()
        try:
            image = self._encode_share(self._encode_images, model, range(len(self.gallery_paths)), "gallery")
            # Captions of about the same length share a batch, so that little of it is padding.
            text = self._encode_share(self._encode_captions, model, self.by_length, "captions")
        finally:
            model.train(training)
        return SplitEmbeddings(
            image_embeds=image,
            text_embeds=text,
            gallery_person_ids=self.gallery_person_ids,
            query_person_ids=self.query_person_ids,
            gallery_image_ids=self.gallery_image_ids,
            query_image_ids=self.query_image_ids,
            gallery_paths=self.gallery_paths,
            captions=self.captions,
        )

    def rerank(self, reranker: Reranker, ranking: Ranking) -> Ranking:
        """
        Re-rank the best images of each caption by the ITM head, as [`rerank`].

        Under several processes each encodes and scores its share of the images and all get the same ranking.

        Args:
            reranker: of the model that made the ranking.
            ranking: of `SplitEmbeddings.rank_images(top_k)` for this split; the `top_k` images are re-ranked.

        Raises:
            ValueError: the ranking keeps no images or is of another split, or as [`Reranker.score`] raises.
        """
        state = PartialState()
        best = ranking.top_indices
        mine = np.where(best % state.num_processes == state.process_index, best, -1)
        scored = reranker.score(self.captions, self._pixels, mine, progress=state.is_main_process)
        # A pair is scored by one process and NaN in all others.
        log_odds = np.fmax.reduce(gather_object([scored]))
        scores = reranker.combine(log_odds, ranking.top_scores)
        return rerank(ranking, scores, self.query_person_ids, self.gallery_person_ids)

    def evaluate(self, model) -> dict[str, float]:
        """
        Text-to-image metrics of [`ranking_metrics`] with the sizes of the split.

        Returns:
            `rank1`, `rank5`, `rank10`, `mAP`, `mINP` and `chance_rank1` in percent, `n_identities`, `n_gallery`,
            `n_queries`.
        """
        return self._measure(model)[0]

    def evaluate_with_intervals(self, model) -> tuple[dict[str, float], dict[str, Interval]]:
        """
        As [`evaluate`], and the 95% interval of each metric from [`bootstrap_intervals`].

        Returns:
            the metrics, and the intervals of `rank1` to `mINP`; none of these where the split shows one person only.
        """
        metrics, values = self._measure(model)
        several = metrics["n_identities"] > 1
        return metrics, bootstrap_intervals(values, self.query_person_ids) if several else {}

    def _measure(self, model) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Metrics of the split and what each query adds to them."""
        split = self.embed(model)
        values = query_values(split.rank_images(device=model.device))
        metrics = {name: float(row.mean()) for name, row in values.items()}
        metrics["chance_rank1"] = chance_rank1(split.query_person_ids, split.gallery_person_ids)
        metrics["n_identities"] = len(np.unique(split.gallery_person_ids))
        metrics["n_gallery"] = len(split.gallery_paths)
        metrics["n_queries"] = len(split.captions)
        return metrics, values
