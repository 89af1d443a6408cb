"""
What stands in the documents: blocks of commands and Python, inline commands, links, and whether the real parsers take
each command. Nothing is run here.
"""

import argparse
import ast
import contextlib
import functools
import importlib
import io
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch.distributed.run
import typer.main
import yaml
from accelerate.commands.config import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from huggingface_hub.cli.hf import app as hub_app
from transformers import HfArgumentParser

from aga_model.cli.main import app
from aga_model.defaults import SERVICE_TOKEN_VARIABLE, TOKEN_VARIABLE
from aga_model.service.guard import Refusal
from aga_model.service.rest.models import BatchQuery, ExplainQuery, ImageQuery, SentenceQuery
from aga_model.service.rest.routes import ServiceRules
from aga_model.training.arguments import _argument_classes, parse_run_arguments
from aga_model.training.checks import check_config
from benchmarks.runner import benches, import_bench
from benchmarks.speed.install_size import BASE, requirements

REPOSITORY = Path(__file__).parents[1]
# What documents write for a file of the reader's -> one that is there.
PLACEHOLDERS = {"RUN.yaml": "configs/quickstart.yaml"}
_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^>]*)-->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)
_PROGRAMS = ("aga", "python", "accelerate", "torchrun", "make", "pip", "hf", "curl", "docker")
_COMMAND = re.compile(rf"({'|'.join(_PROGRAMS)}) ")


@dataclass(frozen=True)
class Block:
    """A block of code of a page; with the reason why it is not run, where it is not."""

    language: str
    code: str
    reason: str | None


def blocks(text: str) -> list[Block]:
    """The blocks of a page; every reason has words, and names test files that are there."""
    found = [Block(m["language"], m["code"], m["reason"] and m["reason"].strip()) for m in _BLOCK.finditer(text)]
    assert 2 * len(found) == len(re.findall(r"^```", text, re.MULTILINE)), "a block is not closed"
    for block in found:
        if block.reason is not None:
            assert len(block.reason.split()) > 1, f"no reason why this is not run: {block.code}"
            for name in re.findall(r"\btests/[\w/]+\.py", block.reason):
                assert (REPOSITORY / name).is_file(), f"a block says that {name} runs it, which is not there"
        if block.language not in ("bash", "python"):
            for line in block.code.splitlines():
                assert not _COMMAND.match(line), f"a command in a block that is not marked as bash: {line}"
    return found


def commands(code: str) -> list[list[str]]:
    """The commands of a bash block as lists of words."""
    lines = code.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def inline_code(text: str) -> list[str]:
    """What stands between single backticks outside of blocks, each on one line."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", _BLOCK.sub("", text))]


def inline_commands(text: str) -> list[list[str]]:
    """Commands, often shortened, between backticks."""
    return [shlex.split(code) for code in inline_code(text) if _COMMAND.match(code)]


# --- the parsers --------------------------------------------------------------------------------------------------


class UnknownCommand(AssertionError):
    """What a program does not take."""


def check(words: list[str], short: bool = False) -> None:
    """
    Hold a command against the real parser of its program.

    Args:
        short: a command that is only spoken of and may lack arguments: the names of its options are looked at.

    Raises:
        UnknownCommand: the program, the script or one of the options is not there, or does not go together.
    """
    words = [PLACEHOLDERS.get(word, word) for word in words if word != "..."]
    try:
        _CHECKS[words[0]](words[1:], short)
    except KeyError:
        raise UnknownCommand(f"no program that is known here: {shlex.join(words)}") from None
    except (UnknownCommand, OSError, ValueError) as error:
        raise UnknownCommand(f"{shlex.join(words)}: {error}") from error


def _require(condition: object, message: str) -> None:
    if not condition:
        raise UnknownCommand(message)


def _check_names(words: list[str], known: set[str]) -> None:
    for word in words:
        name = word.partition("=")[0]
        if name.startswith("--") and name not in known:
            raise UnknownCommand(f"no option {name}")


def _click(command, words: list[str], short: bool) -> None:
    """A command line of typer or click, which both vendors and versions of click parse alike."""
    names = []
    while hasattr(command, "get_command"):
        if not words:
            return
        if words[0].startswith("--"):  # of `aga` itself
            _check_names(words, _options_of(command))
            return
        group, command = command, command.get_command(None, words[0])
        _require(command is not None, f"no command {words[0]} of {group.name}")
        names, words = [*names, words[0]], words[1:]
    if short:
        _check_names(words, _options_of(command))
        return
    try:
        command.make_context(" ".join(names), list(words))
    except Exception as error:  # click's, of whichever copy of click
        raise UnknownCommand(getattr(error, "format_message", error.__str__)()) from error


def _options_of(command) -> set[str]:
    return {name for parameter in command.params for name in [*parameter.opts, *parameter.secondary_opts]}


@functools.cache
def _aga():
    return typer.main.get_command(app)


def _aga_check(words: list[str], short: bool) -> None:
    _click(_aga(), words, short)


def _hub_check(words: list[str], short: bool) -> None:
    _click(hub_app, words, short)


def _parse(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parser.parse_args(words)
    except SystemExit:
        raise UnknownCommand(said.getvalue().strip().splitlines()[-1]) from None


def _train_check(words: list[str], short: bool) -> None:
    """Arguments of train_hf.py, the run file, and the model's configuration that both make."""
    if short:
        known = HfArgumentParser(_argument_classes())._option_string_actions.keys()
        _check_names([word for word in words if not word.startswith("--model_config.")], set(known))
        return
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), mock.patch("transformers.TrainingArguments.__post_init__"):
            model, _, _ = parse_run_arguments(words)  # without asking what this machine's devices can do
    except SystemExit:
        raise UnknownCommand(said.getvalue().strip().splitlines()[-1]) from None
    check_config(model.model_config or {})


class _ParserFound(Exception):
    def __init__(self, parser: argparse.ArgumentParser):
        self.parser = parser


@functools.cache
def _parser_of(bench: str) -> argparse.ArgumentParser:
    """The parser of a bench: it is run up to where it parses its arguments."""

    def found(parser, *_, **__):
        raise _ParserFound(parser)

    module = import_bench(bench)
    with mock.patch.object(argparse.ArgumentParser, "parse_args", found):
        try:
            module.main([])
        except _ParserFound as end:
            return end.parser
    raise UnknownCommand(f"the bench {bench} parses no arguments")


def _python_check(words: list[str], short: bool) -> None:
    if words[0] == "-c":
        compile(words[1], "python -c", "exec")
        return
    if words[0] == "-m":
        _require(words[1] in _MODULES, f"python -m {words[1]} is not known here")
        _MODULES[words[1]](words[2:], short)
        return
    script, words = words[0], words[1:]
    _require((REPOSITORY / script).is_file(), f"no file {script}")
    _require(script == "train_hf.py", f"{script} is not known here")
    _train_check(words, short)


def _bench_check(words: list[str], short: bool) -> None:
    if not words:
        return
    name, *words = words
    if short:
        _check_names(words, set(_parser_of(name)._option_string_actions))
    else:
        _parse(_parser_of(name), words)


_MODULES = {"aga_model": _aga_check, "benchmarks": _bench_check}


def _launched(parser: argparse.ArgumentParser, words: list[str], short: bool) -> argparse.Namespace:
    """The launcher's own arguments, and the check of what it launches."""
    options = _parse(parser, words)
    script = ["-m", options.training_script] if options.module else [options.training_script]
    _python_check([PLACEHOLDERS.get(word, word) for word in [*script, *options.training_script_args]], short)
    return options


def _accelerate_check(words: list[str], short: bool) -> None:
    _require(words[0] == "launch", f"accelerate {words[0]} is not known here")
    if len(words) > 1:
        options = _launched(launch_command_parser(), words[1:], short)
        if options.config_file is not None:
            _require((REPOSITORY / options.config_file).is_file(), f"no file {options.config_file}")
            load_config_from_file(str(REPOSITORY / options.config_file))


def _torchrun_check(words: list[str], short: bool) -> None:
    _launched(torch.distributed.run.get_args_parser(), words, short)


def _make_check(words: list[str], short: bool) -> None:
    targets = set(re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    _require(set(words) <= targets, f"no such target, there are {', '.join(sorted(targets))}")


def _curl_check(words: list[str], short: bool) -> None:
    """A request to the service: a route that its guard lets through, with a body that it takes."""
    parser = argparse.ArgumentParser("curl")
    for name in ("--header", "--json", "--output"):
        parser.add_argument(name)
    parser.add_argument("url")
    options = _parse(parser, words)
    host, _, rest = options.url.removeprefix("http://").partition("/")
    path, _, query = f"/{rest}".partition("?")
    _require(host == "127.0.0.1:8000", f"aga serve listens on 127.0.0.1:8000, not on {host}")
    _require(options.header == "Authorization: Bearer $AGA_TOKEN", "the token is missing")
    try:
        ServiceRules().check_route("GET" if options.json is None else "POST", path, query)
    except Refusal as refusal:
        raise UnknownCommand(refusal.reason) from refusal
    if options.json is not None:
        _BODIES[path].model_validate_json(options.json)


_BODIES = {
    "/v1/search": SentenceQuery,
    "/v1/search/batch": BatchQuery,
    "/v1/search/image": ImageQuery,
    "/v1/explain": ExplainQuery,
}


def _export_check(words: list[str], short: bool) -> None:
    for word in words:
        name = word.partition("=")[0]
        known = {SERVICE_TOKEN_VARIABLE, TOKEN_VARIABLE} | set(
            re.findall(r"\$\{(\w+)", (REPOSITORY / "compose.yaml").read_text(encoding="utf-8"))
        )
        _require(name in known, f"nothing reads {name}")


def _docker_check(words: list[str], short: bool) -> None:
    """Docker's own arguments as far as documents use them; what is run in the container is a command of `aga`."""
    parser = argparse.ArgumentParser("docker")
    verbs = parser.add_subparsers(dest="verb", required=True)
    build = verbs.add_parser("build")
    build.add_argument("--tag", required=True)
    build.add_argument("folder", choices=["."])
    run = verbs.add_parser("run")
    for name in ("--volume", "--publish", "--env"):
        run.add_argument(name, action="append")
    run.add_argument("--rm", action="store_true")
    run.add_argument("image")
    run.add_argument("command", nargs=argparse.REMAINDER)
    inner = verbs.add_parser("compose").add_subparsers(dest="action", required=True)
    services = list(yaml.safe_load((REPOSITORY / "compose.yaml").read_text(encoding="utf-8"))["services"])
    up, kill, once = inner.add_parser("up"), inner.add_parser("kill"), inner.add_parser("run")
    up.add_argument("--detach", action="store_true")
    up.add_argument("service", nargs="?", choices=services)
    kill.add_argument("--signal", choices=["SIGHUP"])
    kill.add_argument("service", choices=services)
    once.add_argument("--rm", action="store_true")
    once.add_argument("service", choices=services)
    once.add_argument("command", nargs=argparse.REMAINDER)
    if command := getattr(_parse(parser, words), "command", None):
        _aga_check(command, short)


def _pip_check(words: list[str], short: bool) -> None:
    if words[0] != "install":
        return
    known = requirements().keys() - {BASE} | {"dev"}
    for word in words[1:]:
        name, _, extras = word.rstrip("]").partition("[")
        _require(name in (".", "aga-model", "-c", "--constraint", "constraints.txt"), f"what is {word}?")
        _require(not extras or set(extras.split(",")) <= known, f"an extra of {word} is not in setup.cfg")


_CHECKS: dict[str, Callable[[list[str], bool], None]] = {
    "aga": _aga_check,
    "python": _python_check,
    "accelerate": _accelerate_check,
    "torchrun": _torchrun_check,
    "make": _make_check,
    "pip": _pip_check,
    "hf": _hub_check,
    "curl": _curl_check,
    "docker": _docker_check,
    "export": _export_check,
}


def every_option() -> set[str]:
    """The names of all options of `aga`, train_hf.py, `accelerate launch` and the benches."""

    def below(command) -> Iterator[set[str]]:
        if hasattr(command, "commands"):
            for each in command.commands.values():
                yield from below(each)
        else:
            yield _options_of(command)

    parsers = [HfArgumentParser(_argument_classes()), launch_command_parser()]
    parsers += map(_parser_of, benches())
    return set().union(*below(_aga()), *(parser._option_string_actions for parser in parsers))


def check_python(code: str) -> None:
    """Python that is not run: it compiles, and what it imports of this package is there."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("aga_model"):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                _require(hasattr(module, alias.name), f"{node.module} has no {alias.name}")


# --- links --------------------------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", _BLOCK.sub("", text), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


def check_links(page: Path) -> None:
    """Links to files of the repository, to their headings, and files named between backticks lead somewhere."""
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", _BLOCK.sub("", text)):
        if re.match(r"https?:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name}: no file {target}"
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), f"{page.name}: no heading for {target}"
    results = "".join(script.read_text(encoding="utf-8") for script in (REPOSITORY / "benchmarks").rglob("*.py"))
    for code in inline_code(text):
        if re.fullmatch(r"(aga_model|benchmarks|configs|docs|tests|\.ci)/[\w./*-]+", code):
            written = code.startswith("benchmarks/results/") and Path(code).name in results
            assert written or any(REPOSITORY.glob(code.rstrip("/"))), f"{page.name}: no file {code}"
