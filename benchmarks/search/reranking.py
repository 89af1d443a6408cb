"""
Re-ranking 1,000 captions x 128 images by the ITM head: this package beside the field's way.

    python -m benchmarks reranking

The field's way is ALBEF's and RaSa's evaluation: the states of the whole gallery in float32, and one caption after the
other repeated for its candidates. They pad every caption to the model's text length; the same without padding is the
third row. The model has the architecture of checkpoints/aga-small-rendered with random weights. Captions are those of
rendered people and images are noise, since the work does not depend on what they show. Candidates are drawn at
random: every image is a candidate of about equally many captions, where a real ranking has images that come up often
and images that never do. Every measurement is a process of its own, the ways in turn. Seconds include encoding; memory
is the peak above what the process held before (Linux).
"""

import argparse
import json
import random
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoProcessor

from aga_model import AgaConfig, AgaForImageTextRetrieval
from aga_model.data.rendered import write_caption
from aga_model.data.rendered.dataset import sample_people
from aga_model.search import Reranker
from benchmarks.machine import device, in_words
from benchmarks.meters import clocked, forget_peak, memory_mib
from benchmarks.places import RESULTS, SMALL_MODEL
from benchmarks.processes import json_of
from benchmarks.reports import write_result
from benchmarks.runner import bench_parser

OUT = RESULTS / "reranking.json"
FIELD = "field"
WAYS = {
    FIELD: "field: one query at a time, padded captions",
    "field_unpadded": "field: one query at a time, without padding",
    "package": "this package",
}
BATCH, IMAGE_BATCH = 128, 32  # pairs or captions, and images, of a forward pass; the same for all ways
SMOKE = {"queries": 6, "top_k": 8, "gallery": 12, "rounds": 1}


class Data:
    """Model, captions, images and candidates, the same in every process."""

    def __init__(self, options: argparse.Namespace):
        config = AgaConfig.from_pretrained(SMALL_MODEL, trust_remote_code=False)
        config.has_itm_head = True
        torch.manual_seed(options.seed)
        self.model = AgaForImageTextRetrieval(config).eval()
        self.processor = AutoProcessor.from_pretrained(SMALL_MODEL, trust_remote_code=False)
        rng = random.Random(options.seed)
        people = sample_people(options.queries, options.seed)
        self.captions = [write_caption(person, "front", rng) for person in people]
        generator = np.random.default_rng(options.seed)
        shape = options.gallery, 3, *config.vision_config.image_height_width
        self.images = generator.integers(0, 256, shape, dtype=np.uint8)
        self.candidates = np.stack(
            [generator.choice(options.gallery, options.top_k, replace=False) for _ in self.captions]
        )

    def load_pixels(self, rows: list[int]) -> torch.Tensor:
        return torch.from_numpy(self.images[rows]).float() / 127.5 - 1


def one_query_at_a_time(data: Data, padding: bool) -> np.ndarray:
    """Scores (queries, k) as ALBEF's evaluation computes them."""
    model, scores = data.model, []
    text_config = model.config.text_config
    with torch.inference_mode():
        image_states, text_states = [], []
        for start in range(0, len(data.images), IMAGE_BATCH):
            rows = list(range(start, min(start + IMAGE_BATCH, len(data.images))))
            vision = model.aga.get_image_features(data.load_pixels(rows))
            image_states.append(model.aga.fusion_image_states(vision))
        gallery = torch.cat(image_states)
        for start in range(0, len(data.captions), BATCH):
            inputs = data.processor(
                text=data.captions[start : start + BATCH],
                padding="max_length" if padding else True,
                max_length=text_config.caption_length,
                return_tensors="pt",
            )
            states, mask = model.caption_states(inputs["input_ids"], inputs["attention_mask"])
            summary = model.aga.text_model.pooled_positions(inputs["input_ids"])
            lengths = [states.shape[1]] * len(states) if padding else mask.sum(dim=1).tolist()
            for row, length in enumerate(lengths):
                parts = states[row : row + 1, :length], mask[row : row + 1, :length], summary[row : row + 1]
                text_states.append(tuple(part.clone() for part in parts))
        for parts, candidates in zip(text_states, data.candidates):
            states, mask, summary = (part.repeat(len(candidates), *[1] * (part.dim() - 1)) for part in parts)
            fused = model.fusion(states, gallery[torch.from_numpy(candidates)], mask)
            logits = model.itm_head(fused[torch.arange(len(fused)), summary])
            scores.append((logits[:, 1] - logits[:, 0]).numpy())
    return np.stack(scores)


def run(way: str, data: Data) -> np.ndarray:
    if way == "package":
        reranker = Reranker(data.model, data.processor, batch_size=BATCH)
        return reranker.score(data.captions, data.load_pixels, data.candidates, progress=False)
    return one_query_at_a_time(data, padding=way == FIELD)


def measure(way: str, options: argparse.Namespace) -> dict:
    """Run one way in this process and write its scores."""
    torch.set_num_threads(1)
    few = argparse.Namespace(**vars(options) | SMOKE)
    run(way, Data(few))  # what is loaded and set up on first use
    data = Data(options)
    forget_peak()
    held = memory_mib("VmRSS")
    scores, took = clocked(lambda: run(way, data))
    np.save(options.scores, scores)
    return {**took, "peak_mib": memory_mib("VmHWM") - held}


def measure_all(options: argparse.Namespace) -> tuple[dict[str, list[dict]], dict[str, np.ndarray]]:
    """Every way `rounds` times, in turn, each in a process of its own; and the scores of the last round."""
    found: dict[str, list[dict]] = {way: [] for way in WAYS}
    scores = {}
    sizes = [f"--{name.replace('_', '-')}={getattr(options, name)}" for name in (*SMOKE, "seed")]
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            for way in WAYS:
                path = Path(folder) / f"{way}.npy"
                found[way].append(json_of("reranking", *sizes, "--way", way, "--scores", path, threads=1))
                scores[way] = np.load(path)
    return found, scores


def summarise(rounds: list[dict], scores: np.ndarray, reference: np.ndarray) -> dict:
    """Medians over rounds, and how far the scores are from the field's."""
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]} | {
        "rounds": rounds,
        "largest_difference": float(np.abs(scores - reference).max()),
        "same_first": int((scores.argmax(axis=1) == reference.argmax(axis=1)).sum()),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = bench_parser(__name__, __doc__)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--top-k", type=int, default=128)
    parser.add_argument("--gallery", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--smoke", action="store_true", help="a few pairs, to see that it runs")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--scores", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.smoke:
        vars(options).update(SMOKE)
    if options.way:
        print(json.dumps(measure(options.way, options)))
        return
    rounds, scores = measure_all(options)
    results = {way: summarise(rounds[way], scores[way], scores[FIELD]) for way in WAYS}
    ran_on = device(threads=1)
    title = f"{options.queries:,} captions x {options.top_k} of {options.gallery:,} images, median of {options.rounds}"
    table = Table(
        "way", "seconds", "CPU seconds", "peak MiB", "pairs/s", "largest difference", "same first",
        title=f"{title}; {in_words(ran_on)}",
    )  # fmt: skip
    for way, label in WAYS.items():
        row = results[way]
        figures = [f"{row['seconds']:.1f}", f"{row['cpu_seconds']:.1f}", f"{row['peak_mib']:.0f}"]
        figures += [f"{options.queries * options.top_k / row['seconds']:,.0f}", f"{row['largest_difference']:.1e}"]
        table.add_row(label, *figures, f"{row['same_first']} of {options.queries:,}")
    Console(width=150).print(table)
    settings = {name: getattr(options, name) for name in (*SMOKE, "seed")} | {"model": SMALL_MODEL.name}
    write_result(options.out, settings, ("torch", "transformers", "numpy"), ran_on, results=results)
