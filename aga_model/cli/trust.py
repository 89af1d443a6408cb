"""The option by which a command may run Python code that a model brings along."""

from typing import Annotated

import typer

TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run the Python code that a model's folder or repository brings along: read it first. No model of this "
        "package needs it.",
    ),
]
