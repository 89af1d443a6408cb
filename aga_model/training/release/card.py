"""The model card of a run, from the template model_card.md."""

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from aga_model.configuration_aga import AgaObjectiveConfig
from aga_model.data import FORMATS, OWN, RENDERED_TAG
from aga_model.families import FAMILIES

TEMPLATE = Path(__file__).with_name("model_card.md")  # of model cards
TASK = "text-to-image-retrieval"  # that a model card names for its figures
# The Hub's task for models whose output is an embedding to compare. Not zero-shot-image-classification, as CLIP has
# it: that promises transformers' pipeline of the name, and sorting people into classes, which is not what this is for.
PIPELINE_TAG = "feature-extraction"
_RENDERED_DATASET = "rendered-persons"
_REPORTED = {"rank1": "Rank-1", "rank5": "Rank-5", "rank10": "Rank-10", "mAP": "mAP", "mINP": "mINP"}


def _only_rendered(run: dict[str, Any]) -> bool:
    """Whether the model has seen drawings alone, what it started from included."""
    return run["rendered_data"] and run.get("start_rendered", True)


def _card_data(run: dict[str, Any], metrics: dict[str, Any], model_name: str) -> ModelCardData:
    dataset = run["data"]["dataset"]
    results = [
        EvalResult(
            task_type=TASK,
            task_name="Text-based person search",
            dataset_type=_RENDERED_DATASET if run["rendered_data"] else dataset,
            dataset_name=_data_name(run),
            dataset_split="test",
            metric_type=key,
            metric_name=f"{name} (%)",
            metric_value=round(float(metrics[key]), 2),
        )
        for key, name in _REPORTED.items()
    ]
    tags = ["text-based-person-search", "person-retrieval", "aga"]
    published = not run["rendered_data"] and dataset != OWN
    return ModelCardData(
        language="en",
        library_name="transformers",
        pipeline_tag=PIPELINE_TAG,
        tags=tags + ([RENDERED_TAG] if _only_rendered(run) else []),
        datasets=[dataset] if published else None,
        base_model=_start_on_the_hub(run),
        model_name=model_name,
        eval_results=results,
        **_licence(run),
    )


def _licence(run: dict[str, Any]) -> dict[str, Any]:
    """Metadata of the licence: the code's for a model of drawings, else that of what was learnt from, which binds."""
    if _only_rendered(run):
        return {"license": "apache-2.0"}
    data = FORMATS[run["data"]["dataset"]]
    if run["rendered_data"] or not data.source:
        return {"license": "other"}
    return {"license": "other", "license_name": f"terms-of-{run['data']['dataset']}", "license_link": data.source}


def _data_licence(run: dict[str, Any]) -> str:
    data = FORMATS[run["data"]["dataset"]]
    if run["rendered_data"]:
        text = "The training images are drawings made by this project's renderer and show no real person."
    elif not data.source:
        text = f"It was trained on {data.licence}; whoever publishes this model answers for that."
    else:
        text = (
            f"It was trained on [{data.title}]({data.source}): {data.licence}. The code in this repository is "
            "Apache-2.0; what the weights may be used for is bound by those terms. Read the ones that came with the "
            "data."
        )
    if run.get("start"):
        text += f" The terms of what it started from ({_start(run)}) apply as well."
    return text


def _data_name(run: dict[str, Any]) -> str:
    dataset = run["data"]["dataset"]
    return f"rendered persons in {dataset} layout" if run["rendered_data"] else FORMATS[dataset].title


def _start(run: dict[str, Any]) -> str:
    """What the run started from; of an absolute path the end only, since the rest is about somebody's machine."""
    start = run.get("start")
    if not start:
        return "random weights"
    return "/".join(Path(start).parts[-2:]) if Path(start).is_absolute() else start


def _start_on_the_hub(run: dict[str, Any]) -> str | None:
    start = run.get("start")
    return start if start and start.count("/") == 1 and not Path(start).exists() else None


def _enrichment(objective: dict[str, Any], losses: dict[str, float]) -> str:
    if objective["enrichment"] == "none" or "mlm" not in losses:
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


def label_noise(run: dict[str, Any]) -> str:
    """Wrong captions that were put in, and those that were left out."""
    noise, wrong = run.get("noise"), run.get("wrong_pairs")
    parts = ["none added"]
    if noise:
        without = ", which were then left out" if run["data"].get("leave_out_permuted") else ""
        parts = [
            f"{noise['permuted_rows']} of {noise['rows']} training captions permuted between persons{without}, "
            f"{noise['errors']} of {noise['mentions']} attribute phrases made wrong, on purpose"
        ]
    if wrong:
        parts.append(f"{wrong['left_out']} of {wrong['rows']} left out, which the model to start from found wrong")
    return "; ".join(parts)


def _optimiser(training: dict[str, Any]) -> str:
    muon = training.get("muon_learning_rate") or 0
    name = "AdamW" if training["optim"].startswith("adamw") else training["optim"]
    parts = [f"{name}, learning rate {training['learning_rate']:g}"]
    if muon > 0:
        parts = [f"Muon for the blocks' matrices, learning rate {muon:g}", *parts]
    return "; ".join(parts) + f", weight decay {training['weight_decay']:g}, schedule {training['lr_scheduler_type']}"


def _precision(training: dict[str, Any]) -> str:
    return "bf16" if training["bf16"] else "fp16" if training["fp16"] else "float32"


def _augmentation(data: dict[str, Any]) -> str:
    names = ("flip", "crop_padding", "brightness", "erasing")
    return ", ".join(f"{name} {data[name]:g}" for name in names if data.get(name)) or "none"


def _architecture(model: dict[str, Any]) -> str:
    vision, text, fusion = (model[f"{part}_config"] for part in ("vision", "text", "cross_modal"))
    return (
        f"image tower of {vision['num_hidden_layers']} layers, {vision['hidden_size']} wide; text tower of "
        f"{text['num_hidden_layers']}, {text['hidden_size']} wide; fusion encoder of {fusion['num_hidden_layers']}; "
        f"embeddings of {model['projection_dim']}"
    )


def _result_rows(metrics: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Name, percent and interval of each metric."""
    intervals = metrics.get("intervals", {})
    return [
        (name, f"{metrics[key]:.1f}", "{:.1f} to {:.1f}".format(*intervals[key]) if key in intervals else "-")
        for key, name in _REPORTED.items()
    ]


def write_model_card(
    folder: str | Path, run: dict[str, Any], metrics: dict[str, Any], steps: int, location: str | Path | None = None
) -> Path:
    """
    Write `folder/README.md` with what the run was and measured.

    Its examples load the model from `location` as given; [`push_release`] makes that the repository's name.

    Args:
        folder: of the saved model.
        run: content of run.json.
        metrics: content of metrics.json.
        steps: optimiser steps of the run.
        location: where the model will be found; `folder` unless it is written elsewhere first.
    """
    location = Path(location or folder)
    model, objective, training = run["model"], run["model"]["objective_config"], run["training"]
    trained = AgaObjectiveConfig(loss_weights=objective["loss_weights"])
    model_name = (training["hub_model_id"] or location.absolute().parent.name).split("/")[-1]
    size = model["vision_config"]["image_size"]
    height, width = (size, size) if isinstance(size, int) else size
    strategy = {"attention": "AGM", "random": "uniform"}[objective["mask_strategy"]]
    card = ModelCard.from_template(
        _card_data(run, metrics, model_name),
        template_path=str(TEMPLATE),
        model_name=model_name,
        location=location.as_posix(),
        family=FAMILIES[model["family"]].title,
        version=run["versions"]["aga_model"],
        rendered=_only_rendered(run),
        rendered_data=run["rendered_data"],
        has_matching_head=model.get("has_itm_head", "itm" in trained.losses),
        height=height,
        width=width,
        text_length=model["text_config"].get("caption_length", model["text_config"]["max_position_embeddings"]),
        metrics=metrics,
        results=_result_rows(metrics),
        data_name=_data_name(run),
        counts=run["data_counts"],
        validation=run["validation"]["source"],
        start=_start(run),
        noise=label_noise(run),
        architecture=_architecture(model),
        losses=", ".join(f"{name} x {weight}" for name, weight in trained.losses.items()),
        masking=f"{strategy}, ratio {objective['mask_ratio']}",
        enrichment=_enrichment(objective, trained.losses),
        momentum=_momentum(objective),
        optimiser=_optimiser(training),
        augmentation=_augmentation(run["data"]),
        precision=_precision(training),
        steps=steps,
        batch=training["per_device_train_batch_size"],
        processes=run["processes"],
        seed=training["seed"],
        chosen_by=training["metric_for_best_model"] if training["load_best_model_at_end"] else None,
        software=", ".join(f"{name} {version}" for name, version in run["versions"].items()),
        data_licence=_data_licence(run),
    )
    path = Path(folder) / "README.md"
    card.save(path)
    return path
