"""What is logged of a failure, line by line: where it was, and nothing of what was asked."""

import logging

import pytest

from aga_model.service.logs import FormatterWithoutInputs, QuietTraceback, described, log_config, without_inputs

MARKER = "Zwiebelkuchen"


def deep(levels):
    if levels:
        deep(levels - 1)
    raise ValueError(MARKER)


def failure():
    try:
        deep(9)
    except ValueError as error:
        return error


def record(name, text, *arguments, error=None):
    found = None if error is None else (type(error), error, None)
    return logging.LogRecord(name, logging.ERROR, "x.py", 1, text, arguments, found)


def test_the_innermost_places_are_told_without_the_message():
    """Six of the eleven: where the fault is, not where the web server was."""
    first, *places = described(failure()).splitlines()
    assert first == "ValueError" and [place.rpartition(" in ")[2] for place in places] == ["deep"] * 6
    lines = [int(place.rpartition(":")[2].partition(" ")[0]) for place in places]
    assert lines[-1] == lines[0] + 1 == deep.__code__.co_firstlineno + 3  # that of `raise`
    assert all(place.startswith(f"  {__file__}:") for place in places) and MARKER not in described(failure())


@pytest.mark.parametrize(
    ("name", "text", "shown"),
    [
        ("uvicorn.error", "ASGI failed for %s \n", "error: uvicorn.error: ASGI failed for %s"),
        ("uvicorn", "%s", "error: uvicorn: %s"),
        ("asyncio", f"task with {MARKER} %s", "error: asyncio: something failed"),
        ("gradio", MARKER + "%s", "error: gradio: something failed"),
    ],
)
def test_a_record_is_shown_without_its_arguments(name, text, shown):
    formatter = FormatterWithoutInputs()
    assert formatter.format(record(name, text, MARKER)) == shown
    failed = formatter.format(record(name, text, MARKER, error=failure()))
    assert failed.startswith(f"{shown}: ValueError\n") and MARKER not in failed


@pytest.mark.parametrize(
    ("message", "inputs", "shown"),
    [
        (f"no {MARKER} here", [MARKER], "ValueError"),
        (f"no {MARKER} here", ["door", MARKER, ""], "ValueError"),  # one of several is enough
        ("a folder is missing", [MARKER, "a", "is", ""], "a folder is missing"),
        ("a red folder is missing", ["red"], "ValueError"),
        ("a folder is missing", [], "a folder is missing"),
    ],
)
def test_a_message_that_quotes_an_input_is_not_shown(message, inputs, shown):
    assert without_inputs(ValueError(message), inputs) == shown


def test_what_libraries_log_goes_through_the_formatter():
    config = log_config()
    assert config["formatters"][config["handlers"]["terminal"]["formatter"]]["()"] is FormatterWithoutInputs
    assert {"uvicorn", "asyncio", "gradio", "starlette", "fastapi", "anyio"} == set(config["loggers"])
    assert all(
        (one["handlers"], one["level"], one["propagate"]) == (["terminal"], "ERROR", False)
        for one in config["loggers"].values()
    )


def test_exceptions_that_are_printed_are_logged(capsys, caplog):
    try:
        raise ValueError(MARKER)
    except ValueError:
        QuietTraceback().print_exc()
    (logged,) = caplog.records
    assert (logged.name, logged.getMessage(), logged.exc_info[0]) == ("gradio", "", ValueError)
    assert capsys.readouterr() == ("", "") and MARKER not in FormatterWithoutInputs().format(logged)
