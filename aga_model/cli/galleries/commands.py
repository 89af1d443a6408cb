"""Commands that fill, search and show galleries: what they can be asked for."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from aga_model.defaults import EVERY, MIN_HEIGHT, SERVICE_TOKEN_VARIABLE, TOKEN_VARIABLE, TimeSource

from ..deferred import deferred
from ..options import AuditOption, HideFacesOption, PurposeOption, TrustRemoteCode


class OnePer(StrEnum):
    """What results are collapsed by."""

    PERSON = "person"
    TRACK = "track"


@deferred("aga_model.cli.galleries.index")
def index(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES...", help="Folders, searched at any depth, image files, or patterns like '*.jpg'."
        ),
    ],
    model: Annotated[str, typer.Option("--model", help="Folder of a saved model, or its name on the Hub.")],
    out: Annotated[
        str,
        typer.Option(
            "--out", help="The gallery, a folder or milvus://host:port/collection: new, or of the same model."
        ),
    ],
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images per forward pass.")] = 32,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1; a GPU if there is one.")] = None,
    trust_remote_code: TrustRemoteCode = False,
    camera: Annotated[str | None, typer.Option("--camera", help="Name of the camera of all these images.")] = None,
    camera_from: Annotated[
        str | None,
        typer.Option(
            "--camera-from",
            metavar="REGEX",
            help=r"Camera from the image's path: what the regular expression's one group finds, e.g. '_c(\d+)'.",
        ),
    ] = None,
    person_from: Annotated[
        str | None, typer.Option("--person-from", metavar="REGEX", help="Person id from the image's path, likewise.")
    ] = None,
    time_from: Annotated[
        TimeSource,
        typer.Option("--time-from", help="When an image was taken: EXIF's DateTimeOriginal, the file's last change."),
    ] = TimeSource.NONE,
    split: Annotated[
        str | None,
        typer.Option(
            "--split", help="IMAGES is a data set: take only this split, e.g. test, with persons and cameras."
        ),
    ] = None,
    every: Annotated[
        float, typer.Option("--every", metavar="SECONDS", help="Videos: time between the frames that are looked at.")
    ] = EVERY,
    scenes: Annotated[
        bool, typer.Option("--scenes", help="The photographs show whole scenes: find the people in them first.")
    ] = False,
    detector: Annotated[
        str,
        typer.Option("--detector", help="Finds people in videos and scenes: hog, or an object-detection model."),
    ] = "hog",
    min_height: Annotated[
        int, typer.Option("--min-height", min=1, help="Leave out detected people that are lower, in pixels.")
    ] = MIN_HEIGHT,
    recut: Annotated[
        bool, typer.Option("--recut", help="Do not save the crops of videos and scenes; cut them out when shown.")
    ] = False,
    started: Annotated[
        str | None, typer.Option("--started", help="When the videos began, e.g. 2026-01-31T18:30.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the gallery instead of adding to it.")
    ] = False,
    text_encoder: Annotated[
        bool,
        typer.Option(
            "--text-encoder/--no-text-encoder",
            envvar="AGA_TEXT_ENCODER",
            help="Write the model's text encoder as ONNX beside the gallery, so that searches need not load PyTorch.",
        ),
    ] = True,
    purpose: PurposeOption = None,
) -> None:
    """
    Encode person images, or the people in videos and scenes, into a gallery for `aga search`.

    A gallery of the same model is added to: files that it holds unchanged are not encoded again, changed files are. A
    run that is stopped goes on where it was when it is started again.

    Under `accelerate launch -m aga_model index ...` the processes share the files out, each on a GPU of its own.
    """


@deferred("aga_model.cli.galleries.search")
def search(
    gallery: Annotated[
        str | None,
        typer.Argument(help="What `aga index` made: a folder or milvus://host:port/collection; none with --server."),
    ] = None,
    query: Annotated[str | None, typer.Argument(help="What the person looks like, in a sentence.")] = None,
    image: Annotated[
        Path | None, typer.Option("--image", help="Find images like this one, instead of a sentence.")
    ] = None,
    queries: Annotated[
        Path | None, typer.Option("--queries", help="A text file of sentences, one a line, instead of one sentence.")
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="Number of results.")] = 10,
    rerank: Annotated[
        int | None,
        typer.Option("--rerank", min=1, help="Re-rank the first K images by the model's ITM head and similarity."),
    ] = None,
    camera: Annotated[
        list[str] | None, typer.Option("--camera", help="Only images of this camera; repeatable.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Only images taken then or later: 2026-01-31 or 2026-01-31T18:30.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", help="Only images taken before this time, or on this day or before.")
    ] = None,
    person: Annotated[
        list[str] | None, typer.Option("--person", help="Only images of this person id; repeatable.")
    ] = None,
    one_per: Annotated[
        OnePer | None, typer.Option("--one-per", help="Only the best image of each person, or of each video track.")
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option("--save", help="Write the results: a picture (result.png), a page (.html), a table (.csv)."),
    ] = None,
    explain: Annotated[
        Path | None, typer.Option("--explain", help="Draw what each word says about the first result, e.g. why.png.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    hide_faces: HideFacesOption = False,
    audit: AuditOption = None,
    purpose: PurposeOption = None,
    server: Annotated[
        str | None, typer.Option("--server", metavar="URL", help="Ask this `aga serve`; its token is in AGA_TOKEN.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="The gallery's model, if it has moved.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1; a GPU if there is one.")] = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Find the person that a sentence describes in a gallery of `aga index`."""


@deferred("aga_model.cli.galleries.demo")
def demo(
    gallery: Annotated[
        str, typer.Option("--gallery", help="What `aga index` made: a folder or milvus://host:port/collection.")
    ],
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; any but a loopback one asks for a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 7860,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            envvar=TOKEN_VARIABLE,
            help="What every request must carry; made and printed where it is needed and not given.",
        ),
    ] = None,
    token_name: Annotated[
        str | None,
        typer.Option(
            "--token-name", help="Whom the audit log names for searches with the token; else who starts this."
        ),
    ] = None,
    rerank: Annotated[
        int | None,
        typer.Option("--rerank", min=1, help="Re-rank the first K images of a sentence by the model's ITM head."),
    ] = None,
    max_upload_mb: Annotated[
        float, typer.Option("--max-upload-mb", min=0.1, max=100, help="Largest image file that can be searched with.")
    ] = 10,
    hide_faces: HideFacesOption = False,
    audit: AuditOption = None,
    purpose: PurposeOption = None,
    model: Annotated[str | None, typer.Option("--model", help="The gallery's model, if it has moved.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1; a GPU if there is one.")] = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """
    A page in the browser to search a gallery with, by a sentence or an image.

    It listens on this machine only, unless --host says otherwise. Ctrl-C ends it.
    """


@deferred("aga_model.cli.galleries.serve")
def serve(
    gallery: Annotated[
        str, typer.Option("--gallery", help="What `aga index` made: a folder or milvus://host:port/collection.")
    ],
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; any but a loopback one asks for a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            envvar=SERVICE_TOKEN_VARIABLE,
            help="What every request must carry; made and printed where it is needed and not given.",
        ),
    ] = None,
    token_name: Annotated[
        str | None,
        typer.Option(
            "--token-name", help="Whom the audit log names for searches with the token; else who starts this."
        ),
    ] = None,
    rerank: Annotated[
        int | None,
        typer.Option("--rerank", min=1, help="Re-rank the first K images of a sentence by the model's ITM head."),
    ] = None,
    max_upload_mb: Annotated[
        float, typer.Option("--max-upload-mb", min=0.1, max=100, help="Largest image file that can be searched with.")
    ] = 10,
    drain: Annotated[
        int, typer.Option("--drain", min=0, metavar="SECONDS", help="For what is under way when it is stopped.")
    ] = 30,
    hide_faces: HideFacesOption = False,
    audit: AuditOption = None,
    purpose: PurposeOption = None,
    model: Annotated[str | None, typer.Option("--model", help="The gallery's model, if it has moved.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1; a GPU if there is one.")] = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """
    A service over HTTP to search a gallery with: sentences, images, explanations, described by /openapi.json.

    It listens on this machine only, unless --host says otherwise. Ctrl-C or SIGTERM ends it when everything has been
    answered, SIGHUP opens the gallery anew. `aga search --server URL` asks it.
    """
