"""
How long a query takes from Python, from the sentence to the ten best of 10,000 images.

    python -m benchmarks query_latency --cores 2

The model is checkpoints/aga-small-rendered and the gallery a LanceDB folder, as `aga index` makes it. Its rows are
synthetic: random unit embeddings of the model's size, because a search takes as long whatever the images show. The
queries are sentences that people write, from three words to more than the model reads. They come one at a time, and
each is timed as a whole: tokens, text encoding, search, rows of the results. Cold is a process of its own that imports
the package, loads the model, opens the gallery and asks one query, with the files in the system's cache. The threads
are those that a user gets; `--cores` leaves as many cores to the process.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.places import RESULTS, SMALL_MODEL
from benchmarks.processes import json_of
from benchmarks.runner import bench_parser

OUT = RESULTS / "query_latency.json"
TOP_K = 10
SENTENCES = (
    "a red coat",
    "man with backpack",
    "a woman in black",
    "a man in a red jacket",
    "somebody with a blue umbrella",
    "an old man with a grey hat",
    "a girl in a yellow dress and white shoes",
    "a woman with long brown hair and a red handbag",
    "a young man wearing a navy blue jacket and black trousers",
    "a person in a green hoodie, grey shorts and orange running shoes",
    "the man has short black hair and wears a white shirt with dark blue jeans",
    "a woman in a long beige coat over a striped dress, with a small black bag on her shoulder",
    "He is wearing a dark green jacket with a hood, light jeans and brown boots, and carries a grey backpack.",
    "The woman has shoulder-length blonde hair; she wears a white blouse, a knee-length black skirt, black tights and "
    "flat shoes, and holds a telephone in her right hand.",
    "A tall, slim man of about thirty with short dark hair and glasses, wearing a light grey suit jacket over a white "
    "shirt without a tie, dark trousers and brown leather shoes; he carries a laptop bag over his left shoulder.",
    "A boy of perhaps twelve years with curly brown hair. He wears a red and white striped T-shirt, blue shorts that "
    "reach to his knees, white socks and white sports shoes with a green stripe. On his back he has a large school "
    "bag in black and yellow, from which a water bottle sticks out, and in his left hand he carries a skateboard.",
)
SMOKE = {"images": 200, "rounds": 2, "warm_up": 2}


def fill(folder: Path, images: int, seed: int) -> None:
    """A gallery of random unit embeddings."""
    import numpy as np

    from aga_model.gallery import Gallery, GalleryRow
    from aga_model.ingest.pipeline import WRITE_EVERY
    from aga_model.search import PersonEncoder

    encoder = PersonEncoder.from_pretrained(SMALL_MODEL, "cpu")
    gallery = Gallery.create(folder, encoder.model_hash, encoder.dim, encoder.name)
    generator = np.random.default_rng(seed)
    for start in range(0, images, WRITE_EVERY):
        numbers = range(start, min(start + WRITE_EVERY, images))
        embeddings = generator.standard_normal((len(numbers), encoder.dim), dtype=np.float32)
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        paths = [f"/gallery/camera-{number % 10}/image-{number:08}.jpg" for number in numbers]
        rows = [
            GalleryRow(path, f"{number:064x}", path, 128, 384, encoder.model_hash, camera=f"camera-{number % 10}")
            for number, path in zip(numbers, paths)
        ]
        gallery.add(embeddings, rows)


def cold(folder: Path) -> dict[str, float]:
    """Seconds of each step of the first query in this process."""
    clock = [time.perf_counter()]

    def lap() -> float:
        clock.append(time.perf_counter())
        return clock[-1] - clock[-2]

    from aga_model.gallery import Gallery
    from aga_model.search import PersonEncoder

    seconds = {"import": lap()}
    encoder = PersonEncoder.from_pretrained(SMALL_MODEL, "cpu")
    seconds["load_model"] = lap()
    gallery = Gallery.open(folder)
    seconds["open_gallery"] = lap()
    gallery.search(encoder.encode_texts([SENTENCES[5]]), TOP_K)
    seconds["first_query"] = lap()
    return {**seconds, "all": clock[-1] - clock[0]}


def warm(folder: Path, rounds: int, warm_up: int) -> dict:
    """Latencies of single queries in milliseconds, and how many threads there were."""
    import numpy as np
    import torch

    from aga_model.gallery import Gallery
    from aga_model.search import PersonEncoder
    from benchmarks.meters import latency

    encoder, gallery = PersonEncoder.from_pretrained(SMALL_MODEL, "cpu"), Gallery.open(folder)
    steps: dict[str, list[float]] = {"query": [], "encode": [], "search": []}  # seconds
    longest = []
    for number in range(-warm_up, rounds * len(SENTENCES)):
        sentence = SENTENCES[number % len(SENTENCES)]
        started = time.perf_counter()
        embedding = encoder.encode_texts([sentence])
        encoded = time.perf_counter()
        hits = gallery.search(embedding, TOP_K)[0]
        ended = time.perf_counter()
        assert len(hits) == TOP_K
        if number >= 0:
            for name, seconds in zip(steps, (ended - started, encoded - started, ended - encoded)):
                steps[name].append(seconds)
            if sentence == SENTENCES[-1]:
                longest.append(1000 * (ended - started))
    return {
        "latency": {name: latency(seconds) for name, seconds in steps.items()},
        "longest_sentence_p50_ms": float(np.median(longest)),
        "queries": len(steps["query"]),
        "threads": torch.get_num_threads(),
    }


def cold_in_a_process(folder: Path, cores: int | None) -> dict[str, float]:
    """`cold` of a process that has imported nothing."""
    few = [] if cores is None else ["--cores", cores]
    return json_of("query_latency", "--cold", folder, *few, python=("-W", "ignore"))


def measure(options: argparse.Namespace) -> None:
    # Imported here, because torch counts the cores when it is imported.
    from benchmarks.machine import device, in_words
    from benchmarks.reports import write_result

    with tempfile.TemporaryDirectory() as folder:
        gallery = Path(folder) / "gallery"
        fill(gallery, options.images, options.seed)
        results = warm(gallery, options.rounds, options.warm_up)
        results["cold_seconds"] = cold_in_a_process(gallery, options.cores)
    ran_on = device()
    print(f"{options.images:,} images, {results['queries']} queries; {in_words(ran_on)}")
    print(f"threads of torch: {results['threads']}")
    for name, row in results["latency"].items():
        print(f"{name:7} p50 {row['p50_ms']:7.1f} ms   p95 {row['p95_ms']:7.1f} ms")
    print(f"longest sentence, p50 {results['longest_sentence_p50_ms']:.1f} ms")
    print("cold: " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in results["cold_seconds"].items()))
    settings = {name: getattr(options, name) for name in (*SMOKE, "seed")} | {
        "top_k": TOP_K,
        "model": SMALL_MODEL.name,
    }
    write_result(options.out, settings, ("torch", "lancedb"), ran_on, results=results)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = bench_parser(__name__, __doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=25, help=f"how often the {len(SENTENCES)} sentences are asked")
    parser.add_argument("--warm-up", type=int, default=len(SENTENCES), help="queries that are not counted")
    parser.add_argument("--cores", type=int, help="leave so many cores to the processes (Linux)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--smoke", action="store_true", help="few images, to see that it runs")
    parser.add_argument("--cold", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.smoke:
        vars(options).update(SMOKE)
    if options.cores is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    if options.cold is None:
        measure(options)
    else:
        print(json.dumps(cold(options.cold)))
