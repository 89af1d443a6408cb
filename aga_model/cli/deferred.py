"""Commands whose work is imported when they run: help and errors of the command line need none of it."""

import functools
import importlib
from collections.abc import Callable


def deferred(module: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """
    Decorate the declaration of a command, whose signature and docstring say what can be asked for, so that calling it
    calls the function of its name in `module` with the same arguments.
    """

    def decorate(declaration: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(declaration)
        def run(**arguments: object) -> None:
            getattr(importlib.import_module(module), declaration.__name__)(**arguments)

        return run

    return decorate
