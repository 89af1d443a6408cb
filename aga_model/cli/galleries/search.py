"""`aga search`: rank a gallery for a sentence."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from aga_model.files import face_hider, read_image
from aga_model.gallery import Filter, Gallery, Hit, Recorder, read_hit, read_time, shown_image
from aga_model.search import (
    TEXT_ENCODER,
    Answer,
    OnnxTextEncoder,
    SearchOptions,
    answer_image,
    answer_sentence,
    hit_values,
    save_result_picture,
    with_faces_hidden,
    write_csv,
    write_page,
)

from ..left_out import left_out
from ..messages import RENDERED_NOTE, fail, is_out_of_memory, note, shown
from .asking import ask, print_hits
from .commands import OnePer

if TYPE_CHECKING:
    from aga_model.search import PersonEncoder


def search(
    gallery: str | None,
    query: str | None,
    image: Path | None,
    queries: Path | None,
    top_k: int,
    rerank: int | None,
    camera: list[str] | None,
    since: str | None,
    until: str | None,
    person: list[str] | None,
    one_per: OnePer | None,
    save: Path | None,
    explain: Path | None,
    as_json: bool,
    hide_faces: bool,
    audit: Path | None,
    purpose: str | None,
    server: str | None,
    model: str | None,
    device: str | None,
    trust_remote_code: bool,
) -> None:
    """What the command does; `commands` declares it."""
    try:
        where = Filter(
            camera or None,
            None if since is None else read_time(since, "--since"),
            None if until is None else read_time(until, "--until", end_of_day=True),
            person or None,
        )
        if server is not None:
            local = {"--rerank": rerank, "--save": save, "--explain": explain, "--hide-faces": hide_faces or None,
                     "--audit": audit, "--model": model, "--device": device}  # fmt: skip
            _require_none("with --server, which decides it", local)
            gallery, query = None, _only_sentence(gallery, query)
        elif gallery is None:
            raise ValueError("give a gallery that `aga index` made, or the --server to ask")
        sentences = _sentences(query, image, queries)
        if image is not None and (rerank is not None or explain is not None):
            raise ValueError("--rerank and --explain read a sentence: leave them out with --image")
        if gallery is None:
            asked: dict[str, Any] = {
                "cameras": camera or [],
                "persons": person or [],
                "since": since or "",
                "until": until or "",
            }
            asked |= {"top_k": top_k, "one_per": one_per or "", "purpose": purpose or ""}
            ask(str(server), sentences, image, asked, as_json, queries is not None)
            return
        if hide_faces:
            face_hider()  # nothing is searched for if it cannot be shown
        needs_model = image is not None or rerank is not None or explain is not None
        chosen = model is not None or device is not None or trust_remote_code
        with nullcontext() if needs_model or chosen else left_out("pandas"):
            opened = Gallery.open(gallery)
        recorder = Recorder.of(opened, audit).for_purpose(purpose)
        encoder: Any = None if needs_model or chosen else _text_encoder(opened)
        if encoder is None:
            encoder = _whole_model(opened, model, device, trust_remote_code)
        answers = _answers(opened, encoder, sentences, image, SearchOptions(top_k, rerank, where, one_per))
        if hide_faces:
            answers = [with_faces_hidden(answer) for answer in answers]
        _record(recorder, answers, image, where, [file for file in (save, explain) if file is not None])
        if save is not None:
            _save(answers, save)
        if explain is not None:
            _explain(encoder, answers[0], explain)
        _print(opened, answers, top_k, rerank, as_json, queries is not None)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        fail(error)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        fail(error)


def _require_none(where: str, options: Mapping[str, object]) -> None:
    if given := [name for name, value in options.items() if value is not None]:
        raise ValueError(f"leave {', '.join(given)} out {where}")


def _only_sentence(first: str | None, second: str | None) -> str | None:
    """The sentence where no gallery is named before it."""
    if first is not None and second is not None:
        raise ValueError("leave the gallery out with --server, which has its own")
    return first


def _text_encoder(gallery: Gallery) -> OnnxTextEncoder | None:
    """What embeds sentences without torch, beside the gallery or in its model's folder; None where there is none."""
    if find_spec("onnxruntime") is None:
        return None
    folders = [folder for folder in (gallery.folder, Path(gallery.model_name)) if folder is not None]
    return OnnxTextEncoder.find([folder / TEXT_ENCODER for folder in folders], gallery.model_hash)


def _whole_model(gallery: Gallery, model: str | None, device: str | None, trust_remote_code: bool) -> "PersonEncoder":
    from ..opening import load_encoder  # brings torch and transformers

    return load_encoder(gallery, model, device, trust_remote_code)


def _sentences(query: str | None, image: Path | None, queries: Path | None) -> list[str]:
    """The sentences to search for; none with an image."""
    if sum(given is not None for given in (query, image, queries)) != 1:
        raise ValueError("give a sentence, or --image, or --queries: one of them")
    if image is not None:
        return []
    if query is not None:
        if not query.strip():
            raise ValueError("the query is empty: describe the person in a sentence")
        return [query]
    lines = Path(queries or "").read_text(encoding="utf-8").splitlines()
    if not (sentences := [line.strip() for line in lines if line.strip()]):
        raise ValueError(f"{queries} holds no sentence: write one a line")
    return sentences


def _answers(
    gallery: Gallery, encoder: Any, sentences: list[str], image: Path | None, ranking: SearchOptions
) -> list[Answer]:
    reranker = None
    if image is not None:
        answers = [answer_image(gallery, encoder, read_image(image), str(image), ranking)]
    else:
        if ranking.rerank is not None:
            from aga_model.search import Reranker

            reranker = Reranker.from_encoder(encoder)
        answers = [answer_sentence(gallery, encoder, sentence, ranking, reranker) for sentence in sentences]
    for answer in answers if encoder.rendered_only else ():
        answer.notes.insert(0, RENDERED_NOTE)
    return answers


def _record(recorder: Recorder, answers: list[Answer], image: Path | None, where: Filter, files: list[Path]) -> None:
    for answer in answers:
        if image is None:
            recorder.searched_for_sentence(answer.query, where, len(answer.hits))
        else:
            recorder.searched_for_image(hashlib.sha256(image.read_bytes()).hexdigest(), where, len(answer.hits))
    if files:
        recorder.exports(files, sum(len(answer.hits) for answer in answers))


def _save(answers: list[Answer], path: Path) -> None:
    """Write the results in the form that the suffix names."""
    suffix = path.suffix.lower()
    if suffix == ".html":
        write_page(answers, path, "Search results")
    elif suffix == ".csv":
        write_csv(answers, path)
    elif len(answers) == 1:
        save_result_picture(answers[0].query, answers[0].hits, path)
    else:
        raise ValueError(f"--save {path}: a picture shows one query; give a name that ends in .html or .csv")
    answers[0].notes.append(
        f"{'table' if suffix == '.csv' else 'page' if suffix == '.html' else 'picture'} written to {path}"
    )


def _explain(encoder: "PersonEncoder", answer: Answer, path: Path) -> None:
    if not answer.hits:
        raise ValueError("--explain: there is no result to explain")
    from aga_model.search import Explainer, save_explanation_picture

    hit = answer.hits[0]
    image = read_hit(hit)
    explanation = Explainer.from_encoder(encoder).explain(image, answer.query)
    save_explanation_picture(explanation, shown_image(hit, image), path)
    answer.notes.append(f"what each word says about the first result of {answer.query!r}: {path}")


def _print(gallery: Gallery, answers: list[Answer], top_k: int, rerank: int | None, as_json: bool, many: bool) -> None:
    if as_json:
        values = [_json_answer(gallery, answer, top_k, rerank) for answer in answers]
        typer.echo(json.dumps(values if many else values[0], indent=2))
    for answer in answers:
        if not as_json and many:
            typer.echo(shown(answer.query))
        if not as_json:
            print_hits([hit_values(hit) for hit in answer.hits], rerank is not None)
    for line in dict.fromkeys(line for answer in answers for line in answer.notes):
        note(line)


def _json_answer(gallery: Gallery, answer: Answer, top_k: int, rerank: int | None) -> dict[str, Any]:
    result = {
        "query": answer.query,
        "top_k": top_k,
        "gallery": str(gallery),
        "gallery_count": gallery.count(),
        "model": gallery.model_name,
        "hits": [_json_hit(hit, rerank is not None) for hit in answer.hits],
        "notes": answer.notes,
    }
    if rerank is not None:
        result["rerank"] = rerank
    return result


def _json_hit(hit: Hit, reranked: bool) -> dict[str, Any]:
    """With `itm_score`, also of images that could not be re-ranked, if there was a re-ranking."""
    return ({"itm_score": None} if reranked else {}) | hit_values(hit)
