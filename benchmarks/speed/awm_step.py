"""
The training step with AWM (attention-weighted selective mask) beside the step on all patches, taken in turns.

    python -m benchmarks awm_step

IRRA's objective (SDM + ID + random MLM) with AdamW on CLIP's ViT-B/16 at 384x128, random weights, random images and
captions of 24 words. A step is losses, gradients, clipping, update and, where there is a momentum model, its move. The
ways take turns on one model, so that a change of the machine's pace meets them alike; ratios are of the same round.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from aga_model import AgaConfig, AgaForPreTraining
from aga_model.masking import PATCH_SELECTIONS
from aga_model.training.momentum import MomentumModel
from benchmarks.machine import accelerator, device, in_words
from benchmarks.meters import in_turns, paired_ratios
from benchmarks.places import RESULTS
from benchmarks.reports import write_result
from benchmarks.runner import bench_parser
from benchmarks.speed.step_meters import synchronize

OUT = RESULTS / "awm_step.json"
PLAIN = "all_patches"
WAYS = {
    PLAIN: "all patches",
    "awm": "AWM, scores at full size",
    "awm_three_quarters": "AWM, scores at three quarters of height and width",
    "awm_reduced": "AWM, scores at half height and width",
    "random": "random dropping, no momentum model",
}
OBJECTIVES = {
    PLAIN: {"image_keep_ratio": 1.0},
    "awm": {"image_mask_strategy": "attention", "image_score_resolution": 1.0},
    "awm_three_quarters": {"image_mask_strategy": "attention", "image_score_resolution": 0.75},
    "awm_reduced": {"image_mask_strategy": "attention", "image_score_resolution": 0.5},
    "random": {"image_mask_strategy": "random"},
}
IDENTITIES = 100
WORDS = 24
TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}


class Step:
    """A training step of one model in either way."""

    def __init__(self, keep_ratio: float, smoke: bool, device: str):
        objective = {
            "loss_weights": {"sdm": 1.0, "id": 1.0, "mlm": 1.0},
            "num_identities": IDENTITIES,
            "mask_strategy": "random",
            "enrichment": "none",
            "momentum": 0.995,
            "distillation_weight": 0.0,
            "image_keep_ratio": keep_ratio,
        }
        vision = {"patch_size": 16, "image_size": [384, 128]}
        text = {"vocab_size": 300} if smoke else {}
        config = AgaConfig(
            vision_config={**vision, **(TINY if smoke else {})},
            text_config={**text, **(TINY if smoke else {})},
            cross_modal_config={"num_hidden_layers": 1 if smoke else 4},
            objective_config=objective,
        )
        self.keep_ratio = keep_ratio
        self.model = AgaForPreTraining(config).train().to(device)
        self.momentum_model = MomentumModel(self.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5)
        self.device = device

    def batch(self, size: int) -> dict[str, torch.Tensor]:
        """Random pairs, two of each person."""
        text = self.model.config.text_config
        height, width = self.model.config.vision_config.image_height_width
        ids = torch.randint(1, text.mask_token_id, (size, WORDS + 2), device=self.device)
        ids[:, 0], ids[:, -1] = text.bos_token_id, text.eos_token_id
        return {
            "input_ids": ids,
            "pixel_values": torch.randn(size, 3, height, width, device=self.device),
            "person_ids": torch.arange(size, device=self.device) // 2,
        }

    def run(self, way: str, batch: dict[str, torch.Tensor]) -> float:
        """Seconds of one step."""
        objective = self.model.config.objective_config
        settings = {"image_keep_ratio": self.keep_ratio, **OBJECTIVES[way]}
        for key, value in settings.items():
            setattr(objective, key, value)
        guided = objective.selects_by_attention
        objective.momentum = 0.995 if guided else None
        self.model.patch_selection = PATCH_SELECTIONS[objective.image_mask_strategy]()
        synchronize(self.device)
        began = time.perf_counter()
        self.model(**batch, momentum_model=self.momentum_model if guided else None).loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if guided:
            self.momentum_model.update(self.model)
        synchronize(self.device)
        return time.perf_counter() - began


def measure(options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of a step by way, one of each a round."""
    torch.manual_seed(options.seed)
    step = Step(options.keep_ratio, options.smoke, options.device)
    batch = step.batch(options.batch)
    return in_turns({way: partial(step.run, way, batch) for way in WAYS}, options.rounds, options.warm_up)


def compare(seconds: dict[str, list[float]]) -> dict[str, dict]:
    """Median seconds of each way, and how many times it is as fast as the plain step of the same round."""
    return {
        way: {
            "seconds": statistics.median(found),
            "faster_by": paired_ratios(seconds[PLAIN], found),
            "rounds": found,
        }
        for way, found in seconds.items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = bench_parser(__name__, __doc__)
    parser.add_argument("--batch", type=int, default=16, help="pairs of a step")
    parser.add_argument("--keep-ratio", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--warm-up", type=int, default=1, help="rounds that are not counted")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--smoke", action="store_true", help="a tiny model, to see that it runs")
    options = parser.parse_args(arguments)
    if options.smoke:
        options.batch, options.rounds = 4, 2
    results = compare(measure(options))
    used = accelerator() if options.device != "cpu" else None
    ran_on = device(accelerator=used, threads=torch.get_num_threads())
    size = "tiny model" if options.smoke else "ViT-B/16, 384x128"
    title = f"{size}, batch {options.batch}, keep ratio {options.keep_ratio}, {options.rounds} rounds"
    title += f"; {in_words(ran_on)}"
    table = Table("way", "seconds a step", "times as fast", "least", "most", title=title)
    for way, label in WAYS.items():
        ratio = results[way]["faster_by"]
        table.add_row(
            label, f"{results[way]['seconds']:.3f}", *(f"{ratio[key]:.2f}" for key in ("median", "least", "most"))
        )
    Console(width=130).print(table)
    about = {key: getattr(options, key) for key in ("batch", "keep_ratio", "rounds", "warm_up", "seed", "smoke")}
    write_result(options.out, about, ("torch", "transformers"), ran_on, results=results)
