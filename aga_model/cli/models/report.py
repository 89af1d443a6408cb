"""`aga report`: the HTML page of a finished run."""

import json
from pathlib import Path

import typer

from aga_model.gallery import redacted

from ..messages import fail

NEXT_STEPS = """\
# search again, in your own words
aga search {gallery} "a woman with a blue umbrella" --save result.png

# your own photographs, with the base model (it has seen drawings only: expect mistakes)
aga index YOUR_IMAGES --model checkpoints/aga-small-rendered --out my_gallery
aga search my_gallery "a man in a dark jacket" --save result.png

# the baseline without AGM and TEM, same steps
python train_hf.py configs/quickstart.yaml --output_dir runs/baseline \\
    --model_config.objective_config.mask_strategy random --model_config.objective_config.enrichment none

# two processes: on two GPUs, or without a GPU
accelerate launch --num_processes 2 train_hf.py configs/quickstart.yaml --output_dir runs/two
accelerate launch --multi_gpu --num_processes 2 train_hf.py configs/quickstart.yaml --output_dir runs/two \\
    --use_cpu true"""


def report(
    run: Path,
    gallery: str,
    query: list[str],
    top_k: int,
    hide_faces: bool,
    audit: Path | None,
    purpose: str | None,
    trust_remote_code: bool,
) -> None:
    """What the command does; `commands` declares it."""
    # Imported here, so that the other commands run without the libraries of the extra `train`.
    from transformers import AutoModelForPreTraining, AutoProcessor

    from aga_model.data import attribute_words, load_benchmark
    from aga_model.evaluation import SearchSection, write_report
    from aga_model.files import face_hider
    from aga_model.gallery import Filter, Gallery, Recorder
    from aga_model.search import Answer, PersonEncoder, save_result_picture, with_faces_hidden

    next_steps = NEXT_STEPS.format(gallery=redacted(gallery))
    try:
        settings = json.loads((run / "run.json").read_text(encoding="utf-8"))
        folder, place = run / "model", (settings["data"]["dataset"], settings["data"]["data_root"])
        encoder = PersonEncoder.from_pretrained(folder, trust_remote_code=trust_remote_code)
        store = Gallery.open(gallery)
        store.require_model(encoder.model_hash, str(folder))
        hides_faces = hide_faces or store.settings.hide_faces
        shown = face_hider().hide if hides_faces else None
        recorder = Recorder.of(store, audit).for_purpose(purpose)
        hits = store.search(encoder.encode_texts(query), top_k)
        answers = [Answer(sentence, found) for sentence, found in zip(query, hits)]
        if hides_faces:
            answers = [with_faces_hidden(answer) for answer in answers]
        for answer in answers:
            recorder.searched_for_sentence(answer.query, Filter(), len(answer.hits))
        recorder.exports([run / "report.html"], sum(len(answer.hits) for answer in answers))
        pictures = run / "searches"
        pictures.mkdir(exist_ok=True)
        searches = [
            SearchSection(answer.query, save_result_picture(answer.query, answer.hits, pictures / f"{number}.png"))
            for number, answer in enumerate(answers, start=1)
        ]
        path = write_report(
            run,
            AutoModelForPreTraining.from_pretrained(folder, trust_remote_code=trust_remote_code),
            AutoProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code),
            load_benchmark(*place, skip=settings["skipped_images"])["test"],
            attribute_words(),
            searches,
            store.count(),
            next_steps,
            shown,
        )
    except (OSError, ValueError) as error:
        fail(error)
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    shares = metrics["masked_attribute_share"]
    typer.echo(
        f"Rank-1 {metrics['rank1']:.1f}%, mAP {metrics['mAP']:.1f}% on {metrics['n_identities']} unseen persons "
        f"(chance {metrics['chance_rank1']:.2f}%)"
    )
    typer.echo(
        f"attribute words among masked tokens: AGM {shares['attention']:.0f}%, random masking {shares['random']:.0f}%"
    )
    typer.echo(f"report: {path}\n\nWhat to do next:\n{next_steps}")
