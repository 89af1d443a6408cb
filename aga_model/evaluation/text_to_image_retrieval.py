"""Text-to-image retrieval as a metric of the `evaluate` library."""

# `evaluate.load` copies this file into its own cache, so the package is imported by its full name.
import datasets
import evaluate

from .metrics import ranking_metrics
from .ranking import rank_gallery

DESCRIPTION = """
Rank-1, Rank-5, Rank-10, mAP and mINP of text-based person search, exact, by cosine similarity. A gallery image is
relevant to a caption when it shows the same person. Ties count against the model.
"""
INPUTS = """
Args:
    predictions: (queries, dim) embeddings of the captions.
    references: (queries,) person id of each caption.
    gallery_embeds: (gallery, dim) embeddings of the images; to `compute`.
    gallery_person_ids: (gallery,) person id of each image; to `compute`.
Returns:
    `rank1`, `rank5`, `rank10`, `mAP`, `mINP` in percent.
Examples:
    >>> metric = evaluate.load("aga_model/evaluation/text_to_image_retrieval.py")
    >>> metric.add_batch(predictions=[[1.0, 0.0], [0.0, 1.0]], references=[7, 8])
    >>> metric.compute(gallery_embeds=[[0.9, 0.1], [0.2, 0.8]], gallery_person_ids=[7, 8])["rank1"]
    100.0
"""
CITATION = """
@inproceedings{jiang2023cross,
    title={Cross-Modal Implicit Relation Reasoning and Aligning for Text-to-Image Person Retrieval},
    author={Jiang, Ding and Ye, Mang},
    booktitle={CVPR},
    year={2023}
}
"""


class TextToImageRetrieval(evaluate.Metric):
    """
    The metrics of [`ranking_metrics`] for embeddings that come batch by batch.

    For image-to-text give the images as predictions and the captions as gallery. The library keeps the embeddings in a
    file and hands them back as lists, so for large splits [`rank_gallery`] on tensors is quicker.

    ```python
    >>> metric = TextToImageRetrieval()
    >>> for batch in batches:
    ...     metric.add_batch(predictions=encode(batch), references=batch["person_id"])
    >>> metric.compute(gallery_embeds=image_embeds, gallery_person_ids=image_person_ids)
    ```
    """

    def _info(self) -> evaluate.MetricInfo:
        features = {
            "predictions": datasets.Sequence(datasets.Value("float32")),
            "references": datasets.Value("int64"),
        }
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features(features),
        )

    def _compute(self, predictions, references, gallery_embeds, gallery_person_ids) -> dict[str, float]:
        return ranking_metrics(rank_gallery(predictions, gallery_embeds, references, gallery_person_ids))
