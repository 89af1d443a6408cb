"""
Whether the heat of a word lies on what the word names: ways to explain a query, by the true place of clothes.

    python -m benchmarks explanation

People of `world=base` whom no model was trained on are drawn with a sentence that names their clothes, hair and bags.
Where a thing is seen is known to the pixel: the same person is drawn once more from the same chance, with this thing
in another colour, and the pixels that differ are the thing's. Three figures, each over colour words and nouns:

- pointing: the hottest patch shows the thing, which covers a quarter of the patch (or as much as it does of the patch
  that it covers most). Zhang et al. (IJCV 2018).
- inside: share of the heat on such patches.
- third: the heat's centre of mass lies in the same third of the image, upper, middle or lower, as the thing's.

`chance` is a random patch and, for `third`, even heat. `usual_place` is the mean place of things of this kind in the
other images: it knows where coats are worn and never looks at the image. The ways beside this package's two are
cross-attention with the maximum over heads; Grad-CAM, ALBEF's way (NeurIPS 2021): attention times its positive
gradient of the ITM log-odds; the cosine of patch and token states in the joint space; and relevance (Chefer et al.,
ICCV 2021): the vision tower's attention times its positive gradient of the word's contribution, over its layers. The
variants of occlusion have smaller or larger windows, leave the word out instead of masking it, or take the whole
sentence's similarity.

Contributions are measured by the colour words: in the image, and in the one where the thing has another colour, so
that the word is wrong. Intervals are 95%, by bootstrap over people.
"""

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from aga_model.data.rendered import WORLDS, PersonAttributes
from aga_model.data.rendered.dataset import sample_people
from aga_model.data.rendered.street.words import (
    BAG_TYPES,
    COLOURS,
    HAIR_COLOURS,
    HAT_TYPES,
    LOWER_TYPES,
    SHOE_TYPES,
    UPPER_TYPES,
    Phrases,
)
from aga_model.search import Explainer, PersonEncoder
from aga_model.search.explanation import (
    WordTokens,
    blank,
    occlusion_heat,
    occlusion_windows,
    read_words,
    recorded_cross_attention,
    word_directions,
)
from benchmarks.machine import device, in_words
from benchmarks.places import RESULTS, SMALL_MODEL
from benchmarks.reports import write_result
from benchmarks.runner import bench_parser

OUT = RESULTS / "explanation.json"
SMOKE = {"images": 4}
HEIGHT, WIDTH = 128, 64  # pixels, as in the base model's training
DIFFERENCE = 30  # of 255, between two drawings of a thing in black or white and in its own colour
LEAST_AREA = 0.004  # of the image; things that are nearly hidden or cut off are left out
COVERED = 0.25  # of a patch that shows a thing
DARK = {"black", "dark gray", "gray", "maroon", "blue", "navy", "green", "dark green", "purple", "brown"}
DARK_HAIR = {"black", "brown", "red"}
PAIRS: dict[str, tuple[str, ...]] = {
    "hair": ("hair_colour",),
    "upper": ("upper_colour", "upper_second_colour"),
    "lower": ("lower_colour",),
    "shoes": ("shoes_colour",),
    "hat": ("hat_colour",),
    "bag": ("bag_colour",),
}
NOUNS: dict[str, tuple[str, Phrases]] = {
    "upper": ("upper_type", UPPER_TYPES),
    "lower": ("lower_type", LOWER_TYPES),
    "shoes": ("shoes_type", SHOE_TYPES),
    "hat": ("hat_type", HAT_TYPES),
    "bag": ("bag_type", BAG_TYPES),
}
SINGULAR = {"skirt"}
WAYS = {
    "occlusion": "occlusion (this package, default)",
    "cross_attention": "cross-attention, mean over heads (this package)",
    "cross_attention_max": "cross-attention, maximum over heads",
    "grad_cam": "Grad-CAM of ITM on cross-attention",
    "patch_text": "patch-text similarity",
    "relevance": "relevance in the vision tower",
    "occlusion_1": "occlusion, windows of 1 x 1 steps",
    "occlusion_3": "occlusion, windows of 3 x 3 steps",
    "occlusion_left_out": "occlusion, word left out",
    "occlusion_sentence": "occlusion of the sentence's similarity",
    "usual_place": "usual place (without looking)",
    "chance": "chance",
}


@dataclass(frozen=True)
class Thing:
    """
    Args:
        kind: a key of `PAIRS`.
        colour, noun: characters [start, end) in the sentence.
        region: bool (HEIGHT, WIDTH), where it is seen.
        recoloured: the person with this thing in another colour.
    """

    kind: str
    colour: tuple[int, int]
    noun: tuple[int, int]
    region: np.ndarray
    recoloured: Image.Image


@dataclass(frozen=True)
class Case:
    image: Image.Image
    query: str
    things: list[Thing]


# --- rendered people and where their things are -----------------------------------------------------------------


def phrases(person: PersonAttributes) -> dict[str, tuple[str, str]]:
    """Colour and noun of each thing that the person has."""
    found = {}
    for kind, (field, nouns) in NOUNS.items():
        value, colour = getattr(person, field), getattr(person, PAIRS[kind][0])
        if value is not None:
            found[kind] = COLOURS[colour][0], nouns[value][0]
    if person.hair_colour is not None:
        found["hair"] = HAIR_COLOURS[person.hair_colour][0], "hair"
    return found


def write_query(person: PersonAttributes) -> str:
    """A sentence that names everything of [`phrases`]."""
    named = {kind: f"{colour} {noun}" for kind, (colour, noun) in phrases(person).items()}
    clothes = [f"a {named['upper']}"]
    if "lower" in named:
        clothes.append(f"a {named['lower']}" if person.lower_type in SINGULAR else named["lower"])
    query = f"a {person.gender} with {named['hair']}" if "hair" in named else f"a {person.gender}"
    query += f" in {', '.join(clothes)} and {named['shoes']}"
    extras = [f"a {named[kind]}" for kind in ("hat", "bag") if kind in named]
    return query + (f", with {' and '.join(extras)}" if extras else "")


def recolour(person: PersonAttributes, kind: str) -> PersonAttributes:
    """The person with one thing in black or white, whichever is farther from its colour."""
    changes = {}
    for field in PAIRS[kind]:
        value = getattr(person, field)
        if value is not None and kind == "hair":
            changes[field] = "blond" if value in DARK_HAIR else "black"
        elif value is not None:
            changes[field] = "white" if value in DARK else "black"
    return replace(person, **changes)


def draw_cases(count: int, seed: int) -> Iterator[Case]:
    """People with their sentences and the regions of what these name."""
    world = WORLDS["base"]
    cameras = tuple(world.cameras)
    for number, person in enumerate(sample_people(count, seed, "base")):
        chance, camera = f"{seed}/{number}", cameras[number % len(cameras)]
        image, _ = world.draw(person, random.Random(chance), HEIGHT, WIDTH, camera)
        query, things = write_query(person), []
        for kind, (colour, noun) in phrases(person).items():
            other, _ = world.draw(recolour(person, kind), random.Random(chance), HEIGHT, WIDTH, camera)
            region = np.abs(np.asarray(image, dtype=int) - np.asarray(other, dtype=int)).max(axis=2) > DIFFERENCE
            match = re.search(rf"\b({re.escape(colour)}) ({re.escape(noun)})\b", query)
            assert match is not None
            if region.mean() >= LEAST_AREA:
                things.append(Thing(kind, match.span(1), match.span(2), region, other))
        yield Case(image, query, things)


# --- ways to explain --------------------------------------------------------------------------------------------


class Ways:
    """Heat (words, rows, columns) of a case's words by each way; negative heat counts as none."""

    def __init__(self, model: str):
        self.encoder = PersonEncoder.from_pretrained(model, device="cpu")
        self.occlusion = Explainer.from_encoder(self.encoder)
        self.cross_attention = Explainer.from_encoder(self.encoder, "cross_attention")
        self.model: Any = self.encoder.model
        self.fusion: Any = self.cross_attention.fusion_model
        if self.fusion.itm_head is None:
            raise SystemExit(f"{model} has no ITM head, of which Grad-CAM takes the gradient")
        self.grid: tuple[int, int] = self.model.config.vision_config.grid_size

    def heat(self, case: Case) -> tuple[tuple[tuple[int, int], ...], dict[str, np.ndarray]]:
        """Spans of the words, and their heat by each way."""
        explained = self.occlusion.explain(case.image, case.query)
        tokens = read_words(self.encoder, case.query)
        pixels = self.encoder.preprocess([case.image])
        with torch.no_grad():
            directions, _ = word_directions(self.model, tokens)
        found = self.fusion_ways(tokens, pixels) | self.occlusion_variants(case.query, tokens, pixels, directions)
        found["relevance"] = self.relevance(pixels, directions)
        heat = {name: value.detach().clamp(min=0).numpy() for name, value in found.items()}
        heat["occlusion"] = explained.heat
        heat["cross_attention"] = self.cross_attention.explain(case.image, case.query).heat
        return explained.spans, heat

    def fusion_ways(self, tokens: WordTokens, pixels: Tensor) -> dict[str, Tensor]:
        states, mask = self.fusion.caption_states(tokens.input_ids, tokens.attention_mask)
        image_states = self.model.fusion_image_states(self.model.get_image_features(pixels))
        with recorded_cross_attention(self.fusion.fusion) as recorded:
            fused = self.fusion.fusion(states, image_states, mask)
        summary = self.model.text_model.pooled_positions(tokens.input_ids)
        logits = self.fusion.itm_head(fused[torch.arange(1), summary])
        gradients = torch.autograd.grad(logits[0, 1] - logits[0, 0], recorded)
        weights = torch.stack(recorded)[:, 0]  # (layers, heads, seq, patches + 1)
        positive = weights * torch.stack(gradients)[:, 0].clamp(min=0)
        similarity = normalize(states[0], dim=-1) @ normalize(image_states[0], dim=-1).T
        ways = {
            "cross_attention_max": weights.amax(dim=1).mean(dim=0),
            "grad_cam": positive.mean(dim=(0, 1)),
            # A cosine has no zero point: the lowest of the image is.
            "patch_text": similarity - similarity.amin(dim=1, keepdim=True),
        }
        return {name: self.by_word(tokens, rows) for name, rows in ways.items()}

    def by_word(self, tokens: WordTokens, rows: Tensor) -> Tensor:
        """(seq, patches + 1) to (words, rows, columns)."""
        words = torch.stack([rows[members].mean(dim=0) for members in tokens.members])
        return words[:, 1:].reshape(-1, *self.grid)

    def occlusion_variants(
        self, query: str, tokens: WordTokens, pixels: Tensor, directions: Tensor
    ) -> dict[str, Tensor]:
        without = [" ".join((query[:start] + query[end:]).split()) for start, end in tokens.spans]
        sentence, *others = torch.from_numpy(self.encoder.encode_texts([query, *without]))
        left_out = sentence - torch.stack(others)
        every_word = sentence.expand(len(tokens.spans), -1)
        return {
            "occlusion_1": self.occlude(pixels, directions, 1),
            "occlusion_3": self.occlude(pixels, directions, 3),
            "occlusion_left_out": self.occlude(pixels, left_out, 2),
            "occlusion_sentence": self.occlude(pixels, every_word, 2),
        }

    def occlude(self, pixels: Tensor, directions: Tensor, reach: int) -> Tensor:
        windows = occlusion_windows(self.grid, reach)
        blanked_pixels = blank(pixels, windows, self.model.config.vision_config)
        seen, *blanked = torch.from_numpy(self.encoder.encode_pixels(torch.cat([pixels, blanked_pixels])))
        whole = directions @ seen
        falls = whole[:, None] - directions @ torch.stack(blanked).T
        return occlusion_heat(falls * whole.sign()[:, None], windows)

    def relevance(self, pixels: Tensor, directions: Tensor) -> Tensor:
        vision = self.model.vision_model
        attentions: list[Tensor] = []
        hooks = [
            layer.self_attn.register_forward_hook(lambda module, inputs, output: attentions.append(output[1]))
            for layer in vision.encoder.layers
        ]
        implementation = vision.config._attn_implementation
        vision.set_attn_implementation("eager")
        features = self.model.get_image_features(pixels.repeat(len(directions), 1, 1, 1)).pooler_output
        vision.set_attn_implementation(implementation)
        for hook in hooks:
            hook.remove()
        contributions = (normalize(features, dim=-1) * directions).sum(dim=-1)
        signs = contributions.detach().sign()
        gradients = torch.autograd.grad((signs * contributions).sum(), attentions)
        relevance = torch.eye(attentions[0].shape[-1]).expand(len(directions), -1, -1)
        for attention, gradient in zip(attentions, gradients):
            relevance = relevance + (attention * gradient).clamp(min=0).mean(dim=1) @ relevance
        return relevance[:, 0, 1:].reshape(-1, *self.grid)


# --- scores -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """One word of one image by one way: each of the figures is 0 or 1, or a share."""

    way: str
    person: int
    kind: str
    part: str
    pointing: float
    inside: float
    third: float


FIGURES = "pointing", "inside", "third"


def share_of_patches(region: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Share of each patch that a region (height, width) covers, (rows, columns)."""
    pixels = torch.from_numpy(region.astype(np.float32))[None, None]
    return interpolate(pixels, size=grid, mode="area")[0, 0].numpy()


def third_of(weights: np.ndarray) -> int:
    """The third of the image, from above, that holds the centre of mass of (rows, columns); of nothing: the middle."""
    heights = (np.arange(len(weights)) + 0.5) / len(weights)
    total = weights.sum()
    return int(3 * (weights.sum(axis=1) @ heights) / total) if total > 0 else 1


def figures(heat: np.ndarray, share: np.ndarray) -> dict[str, float]:
    """The three figures of one word's heat (rows, columns); a map without heat points nowhere."""
    shows = share >= min(COVERED, share.max())
    total = float(heat.sum())
    return {
        "pointing": float(shows.ravel()[heat.argmax()]) if total > 0 else 0.0,
        "inside": float(heat[shows].sum()) / total if total > 0 else 0.0,
        "third": float(third_of(heat) == third_of(share)),
    }


def parts_of(spans: tuple[tuple[int, int], ...], thing: Thing) -> Iterator[tuple[int, str]]:
    """The words of a thing's phrase: index and "colour" or "noun"."""
    for index, (start, end) in enumerate(spans):
        for part, (first, last) in (("colour", thing.colour), ("noun", thing.noun)):
            if first <= start and end <= last:
                yield index, part


def score_cases(ways: Ways, cases: list[Case]) -> list[Score]:
    shares = [{thing.kind: share_of_patches(thing.region, ways.grid) for thing in case.things} for case in cases]
    places = {kind: np.sum([found[kind] for found in shares if kind in found], axis=0) for kind in PAIRS}
    scores = []
    for person, case in enumerate(cases):
        spans, heat = ways.heat(case)
        for thing in case.things:
            share = shares[person][thing.kind]
            even = np.ones_like(share)
            shows = share >= min(COVERED, share.max())
            chance = {"pointing": float(shows.mean()), "inside": float(shows.mean())}
            for index, part in parts_of(spans, thing):
                found = {name: figures(values[index], share) for name, values in heat.items()}
                found["usual_place"] = figures(places[thing.kind] - share, share)
                found["chance"] = chance | {"third": figures(even, share)["third"]}
                scores += [Score(name, person, thing.kind, part, **values) for name, values in found.items()]
    return scores


def interval(values: np.ndarray, people: np.ndarray) -> list[float]:
    """95% interval of the mean (percent), by bootstrap over people."""
    sums, counts = np.bincount(people, values), np.bincount(people)
    sums, counts = sums[counts > 0], counts[counts > 0]
    drawn = np.random.default_rng(0).integers(0, len(sums), (2000, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    return [round(float(100 * bound), 1) for bound in np.quantile(means, (0.025, 0.975))]


def percent(scores: list[Score], figure: str, keep: Callable[[Score], bool] = lambda _: True) -> float | None:
    values = [getattr(score, figure) for score in scores if keep(score)]
    return round(100 * float(np.mean(values)), 1) if values else None


def summarise(scores: list[Score]) -> dict[str, Any]:
    """Figures of one way in percent."""
    pointing = np.array([score.pointing for score in scores])
    people = np.array([score.person for score in scores])
    return {
        **{name: percent(scores, name) for name in FIGURES},
        "pointing_interval": interval(pointing, people),
        "pointing_by_part": {
            part: percent(scores, "pointing", lambda score, part=part: score.part == part)  # type: ignore[misc]
            for part in ("colour", "noun")
        },
        "pointing_by_thing": {
            kind: percent(scores, "pointing", lambda score, kind=kind: score.kind == kind)  # type: ignore[misc]
            for kind in PAIRS
        },
        "words": len(scores),
    }


def measure_contributions(ways: Ways, cases: list[Case]) -> dict[str, Any]:
    """
    Contributions of colour words that are right and, in the recoloured image, wrong. One thing of each image.

    `against` is the pointing of the wrong words with a negative contribution: whether their heat shows the thing.
    """
    right, wrong, against = [], [], []
    for number, case in enumerate(cases):
        if not case.things:
            continue
        thing = case.things[number % len(case.things)]
        share = share_of_patches(thing.region, ways.grid)
        pairs = [ways.occlusion.explain(image, case.query) for image in (case.image, thing.recoloured)]
        for index, part in parts_of(pairs[0].spans, thing):
            if part == "colour":
                right.append(float(pairs[0].contributions[index]))
                wrong.append(float(pairs[1].contributions[index]))
                if wrong[-1] < 0:
                    against.append(figures(pairs[1].heat[index], share)["pointing"])
    first, second = np.array(right), np.array(wrong)
    return {
        "words": len(right),
        "larger_where_right": round(100 * float((first > second).mean()), 1),
        "positive_where_right": round(100 * float((first > 0).mean()), 1),
        "positive_where_wrong": round(100 * float((second > 0).mean()), 1),
        "pointing_where_against": round(100 * float(np.mean(against)), 1) if against else None,
        "words_against": len(against),
    }


def print_table(results: dict[str, dict], title: str) -> None:
    table = Table("way", "pointing %", "95%", "colour", "noun", *PAIRS, "inside %", "third %", title=title)
    for way, label in WAYS.items():
        row = results[way]
        low, high = row["pointing_interval"]
        columns = [row["pointing"], *row["pointing_by_part"].values(), *row["pointing_by_thing"].values()]
        texts = ["" if value is None else f"{value:.1f}" for value in [*columns, row["inside"], row["third"]]]
        table.add_row(label, texts[0], f"{low:.1f}-{high:.1f}", *texts[1:])
    Console(width=170).print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = bench_parser(__name__, __doc__)
    parser.add_argument("--model", default=str(SMALL_MODEL))
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--seed", type=int, default=100, help="of the people; 1 is the base model's training set")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--smoke", action="store_true", help="a few images, to see that it runs")
    options = parser.parse_args(arguments)
    if options.smoke:
        vars(options).update(SMOKE)
    torch.set_num_threads(1)
    ways = Ways(options.model)
    cases = list(draw_cases(options.images, options.seed))
    scores = score_cases(ways, cases)
    results = {way: summarise([score for score in scores if score.way == way]) for way in WAYS}
    contributions = measure_contributions(ways, cases)
    ran_on = device(threads=1)
    words = results["chance"]["words"]
    print_table(
        results,
        f"{words:,} words of {options.images:,} images, {Path(options.model).name}; {in_words(ran_on)}",
    )
    Console().print("contributions of colour words:", contributions)
    settings = {"images": options.images, "seed": options.seed, "model": Path(options.model).name}
    packages = ("torch", "transformers", "numpy")
    write_result(options.out, settings, packages, ran_on, results=results, contributions=contributions)
