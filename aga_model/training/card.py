"""The model card of a run, from the template model_card.md."""

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from aga_model.data import RENDERED_TAG

TEMPLATE = Path(__file__).with_name("model_card.md")
_REPORTED = {"rank1": "Rank-1", "rank5": "Rank-5", "rank10": "Rank-10", "mAP": "mAP", "mINP": "mINP"}


def _card_data(run: dict[str, Any], metrics: dict[str, Any], rendered: bool, model_name: str) -> ModelCardData:
    results = [
        EvalResult(
            task_type="text-to-image-retrieval",
            dataset_type=run["data"]["dataset"],
            dataset_name=_data_name(run, rendered),
            metric_type=key,
            metric_name=f"{name} (%)",
            metric_value=round(float(metrics[key]), 2),
        )
        for key, name in _REPORTED.items()
    ]
    tags = ["text-based-person-search", "person-retrieval", "aga"] + ([RENDERED_TAG] if rendered else [])
    return ModelCardData(
        language="en",
        license="apache-2.0",
        library_name="transformers",
        tags=tags,
        model_name=model_name,
        eval_results=results,
    )


def _data_name(run: dict[str, Any], rendered: bool) -> str:
    return f"rendered persons in {run['data']['dataset']} layout" if rendered else run["data"]["dataset"]


def _enrichment(objective: dict[str, Any]) -> str:
    if objective["enrichment"] == "none" or "mlm" not in objective["loss_weights"]:
        return "none"
    return (
        f"TEM, mode {objective['enrichment']}, probability {objective['enrichment_probability']}, "
        f"{objective['enrichment_sampling']}, minimum confidence {objective['enrichment_min_confidence']}, "
        f"from {objective['enrichment_start']:.0%} of training"
    )


def _momentum(objective: dict[str, Any]) -> str:
    if objective.get("momentum") is None:
        return "none"
    return (
        f"momentum {objective['momentum']}, weight of its targets {objective['distillation_weight']}, queue of "
        f"{objective['queue_size']}; not part of this model"
    )


def _noise(run: dict[str, Any]) -> str:
    noise = run.get("noise")
    if not noise:
        return "none added"
    return (
        f"{noise['permuted_rows']} of {noise['rows']} training captions permuted between persons, "
        f"{noise['errors']} of {noise['mentions']} attribute phrases made wrong, on purpose"
    )


def write_model_card(folder: str | Path, run: dict[str, Any], metrics: dict[str, Any], steps: int) -> Path:
    """
    Write `folder/README.md` with what the run was and measured.

    Args:
        folder: of the saved model.
        run: content of run.json.
        metrics: content of metrics.json.
        steps: optimiser steps of the run.
    """
    model_name = Path(folder).resolve().parent.name
    model, objective, rendered = run["model"], run["model"]["objective_config"], run["rendered_data"]
    size = model["vision_config"]["image_size"]
    height, width = (size, size) if isinstance(size, int) else size
    strategy = {"attention": "AGM", "random": "uniform"}[objective["mask_strategy"]]
    card = ModelCard.from_template(
        _card_data(run, metrics, rendered, model_name),
        template_path=str(TEMPLATE),
        model_name=model_name,
        family={"clip": "CLIP", "bert": "BERT"}[model["family"]],
        version=run["versions"]["aga_model"],
        rendered=rendered,
        height=height,
        width=width,
        text_length=model["text_config"].get("caption_length", model["text_config"]["max_position_embeddings"]),
        metrics=metrics,
        data_name=_data_name(run, rendered),
        counts=run["data_counts"],
        start=run.get("start") or "random weights",
        noise=_noise(run),
        losses=", ".join(f"{name} x {weight}" for name, weight in objective["loss_weights"].items()),
        masking=f"{strategy}, ratio {objective['mask_ratio']}",
        enrichment=_enrichment(objective),
        momentum=_momentum(objective),
        steps=steps,
        batch=run["training"]["per_device_train_batch_size"],
        processes=run["processes"],
        seed=run["training"]["seed"],
        software=", ".join(f"{name} {version}" for name, version in run["versions"].items()),
        data_licence=(
            "The training images are drawings made by this project's renderer and show no real person."
            if rendered
            else f"The licence of {run['data']['dataset']} applies to what was learnt from it; most datasets of this "
            "field are for non-commercial research only."
        ),
    )
    path = Path(folder) / "README.md"
    card.save(path)
    return path
