"""The ways that the speed bench compares: training steps, the towers alone, and encoding for retrieval."""

import argparse
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.profiler import record_function

from aga_model import AgaConfig, AgaForPreTraining, AgaModel, modeling_aga, pair_model, towers
from aga_model.training.optimizers import adamw_with_factors
from aga_model.training.trainer import mark_lengths
from benchmarks.places import SMALL_MODEL
from benchmarks.speed import reference as speed_reference
from benchmarks.speed.batches import caption_lengths, make_batch, make_captions, pad_captions
from benchmarks.speed.reference import Recipe, ReferenceModel
from benchmarks.speed.step_meters import synchronize

IDENTITIES = 11_003  # of CUHK-PEDES's training split
TRAINING_PAIRS, EPOCHS = 68_126, 60  # of CUHK-PEDES, and of IRRA's recipe
LOSSES = {"sdm": 1.0, "id": 1.0, "mlm": 1.0}
TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
ENCODING_BATCH = 64


@dataclass(frozen=True)
class Way:
    """
    One side of a comparison.

    Args:
        label: what it is.
        against: the way that it is compared with.
        recipe: of the reference; None for this package.
        objective: of `AgaConfig` beside IRRA's.
        packed: captions share rows of this package's text tower.
        chunks: parts of the batch that go through this package's model one after the other.
    """

    label: str
    against: str
    recipe: Recipe | None = None
    objective: dict[str, Any] = field(default_factory=dict)
    packed: bool = True
    chunks: int = 1

    @property
    def comparable(self) -> bool:
        """Whether its losses are a function of the batch alone, the same for all such ways."""
        drawn = self.recipe.class_attention != "none" if self.recipe else self.objective["mask_strategy"] != "random"
        return not drawn


RANDOM = {"mask_strategy": "random", "enrichment": "none"}
AGM = {"mask_strategy": "attention", "enrichment": "none"}
AGA = {"mask_strategy": "attention", "enrichment": "replace", "enrichment_probability": 0.5}
STEPS = {
    "reference": Way("field: IRRA's step", "reference", Recipe(), RANDOM),
    "reference_unpadded": Way("  captions padded to the longest", "reference", Recipe(padded=False), RANDOM),
    "reference_masked_only": Way("  MLM head at masked words", "reference", Recipe(head_everywhere=False), RANDOM),
    "reference_fused": Way("  fused Adam", "reference", Recipe(fused_optimizer=True), RANDOM),
    "reference_maps": Way("field: AGM from attention maps", "reference", Recipe(class_attention="maps"), AGM),
    "reference_row": Way("  AGM from one row", "reference_maps", Recipe(class_attention="row"), AGM),
    "reference_aga": Way("field: AGM + TEM", "reference", Recipe(class_attention="maps", enrichment="own_pass"), AGA),
    "reference_aga_shared": Way(
        "  TEM from the MLM's own pass", "reference_aga", Recipe(class_attention="maps", enrichment="shared_pass"), AGA
    ),
    "irra": Way("this package: IRRA's step", "reference", None, RANDOM),
    "agm": Way("this package: AGM", "reference", None, AGM),
    "aga": Way("this package: AGM + TEM", "reference", None, AGA),
    "aga_padded": Way("  captions padded, not packed", "reference", None, AGA, packed=False),
    "aga_chunked": Way("  in 4 chunks", "reference", None, AGA, packed=False, chunks=4),
}
TOWERS = {"towers": Way("this package: both towers alone", "towers", None, RANDOM)}
ENCODINGS = {
    "texts_padded": Way("texts, padded to the text length", "texts_padded", None, RANDOM),
    "texts_batch": Way("texts, padded to the longest of the batch", "texts_padded", None, RANDOM),
    "texts_grouped": Way("texts, grouped by length", "texts_padded", None, RANDOM),
    "images": Way("images", "images", None, RANDOM),
}
WAYS = STEPS | TOWERS | ENCODINGS


def model_config(size: str, objective: dict[str, Any]) -> AgaConfig:
    """`vit-b16`: CLIP's ViT-B/16 at 384x128; `small`: checkpoints/aga-small-rendered; `tiny`: to see that it runs."""
    settings = {"loss_weights": LOSSES, "num_identities": IDENTITIES, "learn_temperature": False, **objective}
    if size == "small":
        sections = AgaConfig.from_pretrained(SMALL_MODEL, trust_remote_code=False).to_dict()
    else:
        tiny = TINY if size == "tiny" else {}
        sections = {
            "vision_config": {"patch_size": 16, "image_size": [64, 32] if tiny else [384, 128], **tiny},
            "text_config": tiny and {"vocab_size": 300, **tiny},
            "cross_modal_config": {"num_hidden_layers": 1 if tiny else 4},
        }
    # exp(3.912) is 50, IRRA's temperature of 0.02.
    # Of the checkpoint's heads, those that these losses train.
    heads = {"has_itm_head": False, "has_mlm_head": False}
    return AgaConfig(**{**sections, **heads, "objective_config": settings, "logit_scale_init_value": 3.912023})


def on_device(batch: dict[str, Any], device: str) -> dict[str, Any]:
    """A batch of tensors, and of such batches, on a device, ready to be compiled for."""
    moved = {
        key: on_device(value, device) if isinstance(value, dict) else value.to(device) for key, value in batch.items()
    }
    mark_lengths(moved)
    return moved


class _Run:
    """Seed, place and precision of a computation."""

    def __init__(self, way: str, options: argparse.Namespace):
        self.way, self.name, self.device = WAYS[way], way, options.device
        self.options = options
        self.dtype = getattr(torch, options.dtype)
        torch.manual_seed(options.seed)
        self.config = model_config(options.size, self.way.objective)

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device, self.dtype, enabled=self.dtype != torch.float32)

    def seconds(self, batch: Any) -> float:
        """Of one run on a batch."""
        synchronize(self.device)
        began = time.perf_counter()
        self.run(batch)
        synchronize(self.device)
        return time.perf_counter() - began

    def run(self, batch: Any) -> None:
        raise NotImplementedError


class Step(_Run):
    """A training step: losses, gradients and the optimiser's update."""

    def __init__(self, way: str, options: argparse.Namespace):
        super().__init__(way, options)
        package = AgaForPreTraining(self.config)
        recipe = self.way.recipe
        self.model: Any = (package if recipe is None else ReferenceModel(self.config).load_from(package)).train()
        self.model.to(self.device)
        if recipe is None:
            self.optimizer: torch.optim.Optimizer = adamw_with_factors(
                package, 1e-5, 4e-5, (0.9, 0.999), 1e-8, new_module_factor=5.0, bias_factor=2.0
            )
        else:
            fused = True if recipe.fused_optimizer else None
            self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-5, weight_decay=4e-5, fused=fused)
        if self.way.chunks > 1:
            package.use_chunks(max(1, options.batch // self.way.chunks))

    def compile(self) -> None:
        """Compile this package's model; the field's runs as it is."""
        if self.way.recipe is None:
            self.model.compile()

    def batch(self, number: int) -> dict[str, Any]:
        """Batch of a step, the same for all ways; captions as the way wants them laid out."""
        recipe = self.way.recipe
        padded, packed = recipe is not None and recipe.padded, recipe is None and self.way.packed
        batch = make_batch(self.config, self.options.batch, padded, packed, seed=self.options.seed + number)
        return on_device(batch, self.device)

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Each loss of `LOSSES` by name."""
        with self.autocast():
            if self.way.recipe is not None:
                return self.model.losses(batch, self.way.recipe)
            arguments = {key: value for key, value in batch.items() if key not in ("masked", "corrupted")}
            output = self.model(**arguments)
            return {name: output[f"{name}_loss"] for name in LOSSES}

    def losses_of_given_masks(self, batch: dict[str, Any]) -> dict[str, float]:
        """The losses where the batch says which words are masked and how, for a comparison between ways."""
        drawing = pair_model.sample_tokens, pair_model.corrupt_tokens
        pair_model.sample_tokens = lambda probabilities: batch["masked"]
        pair_model.corrupt_tokens = lambda input_ids, masked, config: batch["corrupted"]
        try:
            with torch.no_grad():
                return {name: float(value) for name, value in self.losses(batch).items()}
        finally:
            pair_model.sample_tokens, pair_model.corrupt_tokens = drawing

    def run(self, batch: dict[str, Any]) -> None:
        losses = self.losses(batch)
        sum(losses.values()).backward()  # type: ignore[union-attr]
        with record_function("speed: optimiser"):
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

    def parts(self) -> list[tuple[Any, str, str]]:
        """What `labelled` is to name."""
        return reference_parts(self.model) if self.way.recipe is not None else package_parts(self.model)


def reference_parts(model: ReferenceModel) -> list[tuple[Any, str, str]]:
    """Parts of the reference's step; attention maps are a part of its text tower."""
    return [
        (model, "losses", "loss"),
        (model, "_masks", "masking"),
        (model, "_enriched", "TEM's words"),
        (model.vision, "forward", "vision"),
        (model.text, "forward", "text"),
        (model.text, "with_class_attention", "text"),
        (speed_reference, "aggregate_class_attention", "class attention"),
        (model.fusion, "forward", "fusion"),
        (model.mlm_head, "forward", "MLM head"),
    ]


def package_parts(model: AgaForPreTraining) -> list[tuple[Any, str, str]]:
    """Parts of this package's step."""
    return [
        (model, "forward", "loss"),
        (model.aga, "get_image_features", "vision"),
        (model.aga, "fusion_image_states", "vision"),
        (model.aga, "read_packed", "text"),
        (model.aga, "fusion_text_states", "text"),
        (towers, "pooled_row", "class attention"),
        (modeling_aga, "aggregate_class_attention", "class attention"),
        (model, "mask_probabilities", "masking"),
        (pair_model, "sample_tokens", "masking"),
        (pair_model, "corrupt_tokens", "masking"),
        (model.enrichment, "enrich", "TEM's words"),
        (model.fusion, "forward", "fusion"),
        (model.mlm_head, "forward", "MLM head"),
    ]


class Towers(_Run):
    """Forward and backward pass of image and text tower, without losses, heads and optimiser."""

    def __init__(self, way: str, options: argparse.Namespace):
        super().__init__(way, options)
        self.model = AgaModel(self.config).train().to(self.device)
        self.image: Callable[..., Any] = self.model.get_image_features
        self.text: Callable[..., Any] = self.model.get_text_features

    def compile(self) -> None:
        self.image, self.text = torch.compile(self.image), torch.compile(self.text)

    def batch(self, number: int) -> dict[str, Any]:
        seed = self.options.seed + number
        return on_device(
            make_batch(self.config, self.options.batch, padded=False, packed=True, seed=seed), self.device
        )

    def run(self, batch: dict[str, Any]) -> None:
        with self.autocast():
            image = self.image(batch["pixel_values"]).pooler_output
            text = self.text(batch["input_ids"], batch["attention_mask"], batch["packing"]).pooler_output
            value = (image.float() * text.float()).sum()
        value.backward()
        self.model.zero_grad(set_to_none=True)


class Encoding(_Run):
    """Embeddings of captions or images, without gradients, in batches of `ENCODING_BATCH`."""

    def __init__(self, way: str, options: argparse.Namespace):
        super().__init__(way, options)
        self.model = AgaModel(self.config).eval().to(self.device)
        self.embeddings = torch.empty(0)
        self.encode: Callable[..., Any] = (
            self.model.get_image_features if way == "images" else self.model.get_text_features
        )

    def compile(self) -> None:
        self.encode = torch.compile(self.encode)

    def batch(self, number: int) -> list[dict[str, Tensor]]:
        """All items, in the batches and with the padding of the way; captions with their `rows`, the place of each."""
        generator = torch.Generator().manual_seed(self.options.seed + number)
        count = self.options.encode
        if self.name == "images":
            height, width = self.config.vision_config.image_height_width
            pixels = torch.randn(min(count, ENCODING_BATCH), 3, height, width, generator=generator)
            return [{"pixel_values": pixels.to(self.device)}]
        text = self.config.text_config
        lengths = caption_lengths(count, text.caption_length, generator)
        ids, mask = make_captions(lengths, text, generator)
        order = lengths.argsort(stable=True) if self.name == "texts_grouped" else torch.arange(count)
        batches = []
        for rows in order.split(ENCODING_BATCH):
            longest = int(lengths[rows].max())
            inputs = ids[rows, :longest], mask[rows, :longest]
            if self.name == "texts_padded":
                inputs = pad_captions(*inputs, text.caption_length, text.pad_token_id)
            named = dict(zip(("input_ids", "attention_mask"), inputs))
            batches.append({key: value.to(self.device) for key, value in named.items()} | {"rows": rows})
        return batches

    @torch.inference_mode()
    def run(self, batch: list[dict[str, Tensor]]) -> None:
        parts, rows = [], []
        with self.autocast():
            for inputs in batch:
                arguments = {key: value for key, value in inputs.items() if key != "rows"}
                parts.append(self.encode(**arguments).pooler_output)
                rows.append(inputs.get("rows", torch.arange(len(parts[-1]))))
        found = torch.nn.functional.normalize(torch.cat(parts).float(), dim=-1).cpu()
        self.embeddings = torch.empty_like(found).index_copy_(0, torch.cat(rows), found)


def prepare(way: str, options: argparse.Namespace) -> Any:
    """The [`Step`], [`Towers`] or [`Encoding`] of a way, with its model in memory."""
    kind: Any = Step if way in STEPS else Towers if way in TOWERS else Encoding
    return kind(way, options)
