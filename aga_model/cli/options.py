"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

AuditOption = Annotated[
    Path | None,
    typer.Option("--audit", help="Append who did this, when and why to this log; see `aga gallery audit`."),
]
PurposeOption = Annotated[
    str | None, typer.Option("--purpose", help="Why, for the audit log; some galleries ask for it.")
]
HideFacesOption = Annotated[
    bool,
    typer.Option("--hide-faces", help="Blur faces in everything that is shown or saved, as far as they are found."),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run the Python code that a model's folder or repository brings along: read it first. No model of this "
        "package needs it.",
    ),
]
GalleryLocation = Annotated[
    str, typer.Argument(metavar="GALLERY", help="The gallery, a folder or milvus://host:port/collection.")
]
