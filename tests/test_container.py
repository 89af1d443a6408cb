"""
Dockerfile and compose.yaml, read and held against the code: nothing here builds or starts a container. Instructions
are known, versions are pinned, the user is not root, and ports, paths and options are those of `aga`.
"""

import ast
import json
import re
import shlex
from pathlib import Path

import yaml
from document_commands import _aga_check

from aga_model.defaults import SERVICE_TOKEN_VARIABLE
from aga_model.service import Client
from aga_model.version import __version__
from benchmarks.speed.install_size import requirements

REPOSITORY = Path(__file__).parents[1]
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((REPOSITORY / "compose.yaml").read_text(encoding="utf-8"))
INSTRUCTIONS = {
    *("ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "RUN", "STOPSIGNAL"),
    *("USER", "VOLUME", "WORKDIR"),
}  # of ADD, SHELL and others there is no need
SERVICE_KEYS = {
    *("build", "cap_drop", "command", "depends_on", "environment", "healthcheck", "image", "ports", "restart"),
    *("security_opt", "stop_grace_period", "volumes"),
}
GUESSED_TAGS = ("latest", "stable", "main")


def instructions(text):
    """(instruction, arguments) of a Dockerfile, in order."""
    whole = re.sub(r"\s*\\\n\s*", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    return [tuple(line.split(maxsplit=1)) for line in whole.splitlines() if line.strip()]


def last(name):
    return [arguments for instruction, arguments in instructions(DOCKERFILE) if instruction == name][-1]


def serve_port():
    """The port that `aga serve` listens on where nothing else is said."""
    tree = ast.parse((REPOSITORY / "aga_model/cli/galleries/commands.py").read_text(encoding="utf-8"))
    (serve,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "serve")
    names = [argument.arg for argument in serve.args.args][-len(serve.args.defaults) :]
    return ast.literal_eval(serve.args.defaults[names.index("port")])


def test_the_dockerfile_has_known_instructions_and_pinned_versions():
    found = instructions(DOCKERFILE)
    assert {name for name, _ in found} <= INSTRUCTIONS and found[0][0] == "FROM"
    for name, arguments in found:
        if name == "FROM":
            assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+( AS build)?", arguments)  # as constraints.txt
        if name == "RUN" and "pip install" in arguments:
            assert "--constraint constraints.txt" in arguments or "--requirement torch.txt" in arguments
            assert "--no-cache-dir" in arguments
    assert re.search(r"^torch==[\d.]+$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)
    (extras,) = re.findall(r"'\.\[([\w,]+)\]'", DOCKERFILE)
    assert set(extras.split(",")) == {"search", "serve", "milvus"} <= set(requirements())


def test_what_the_dockerfile_copies_is_there_and_not_ignored():
    kept = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = set()
    for name, arguments in instructions(DOCKERFILE):
        if name == "COPY" and "--from" not in arguments:
            copied |= set(arguments.split()[:-1])
    assert copied == kept and all((REPOSITORY / name).exists() for name in copied)
    read = re.findall(r"file: ([\w.]+)|license_files = ([\w.]+)", (REPOSITORY / "setup.cfg").read_text())
    assert {one or other for one, other in read} <= copied


def test_the_container_runs_without_rights_and_serves_on_the_port_that_it_names():
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last("USER"))
    names = [name for name, _ in instructions(DOCKERFILE)]
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert json.loads(last("ENTRYPOINT")) == ["aga"]
    command = json.loads(last("CMD"))
    _aga_check(command, False)
    port = command[command.index("--port") + 1]
    assert last("EXPOSE") == port == str(serve_port())
    assert command[command.index("--gallery") + 1].startswith(f"{last('VOLUME')}/")


def test_the_container_is_healthy_when_the_client_says_so(monkeypatch):
    options, _, command = last("HEALTHCHECK").partition(" CMD ")
    assert {option.partition("=")[0] for option in options.split()} == {
        *("--interval", "--timeout", "--start-period", "--retries"),
    }
    python, flag, code = json.loads(command)
    assert (python, flag) == ("python", "-c")
    asked = []
    monkeypatch.setattr(Client, "health", lambda client: asked.append(client))
    monkeypatch.setenv(SERVICE_TOKEN_VARIABLE, "0123456789abcdef")
    exec(code, {})
    (client,) = asked
    assert client.url == f"http://127.0.0.1:{last('EXPOSE')}" and client.token == "0123456789abcdef"
    assert client.timeout < int(re.search(r"--timeout=(\d+)s", options)[1])


def test_every_image_of_compose_is_pinned():
    assert set(COMPOSE) == {"name", "services", "volumes"}
    for name, service in COMPOSE["services"].items():
        assert set(service) <= SERVICE_KEYS, name
        repository, _, tag = service["image"].rpartition(":")
        assert repository and tag and not tag.startswith(GUESSED_TAGS), name
        assert re.search(r"\d", tag), name
        for volume in service.get("volumes", ()):
            source = volume.rpartition(":")[0] if not volume.endswith(":ro") else volume.split(":/", 1)[0]
            assert source in COMPOSE["volumes"] or source.startswith("${"), name
        assert set(service.get("depends_on", ())) <= set(COMPOSE["services"])
    assert COMPOSE["services"]["service"]["image"] == f"aga-model:{__version__}"


def test_the_service_of_compose_agrees_with_the_image_and_the_code():
    service = COMPOSE["services"]["service"]
    _aga_check(service["command"], False)
    command = shlex.join(service["command"])
    port = last("EXPOSE")
    assert f"--port {port}" in command and service["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert "milvus://milvus:19530/" in command and "milvus" in service["depends_on"]
    assert service["environment"][SERVICE_TOKEN_VARIABLE].startswith(f"${{{SERVICE_TOKEN_VARIABLE}:?")
    assert f"data:{last('VOLUME')}" in service["volumes"]
    assert int(service["stop_grace_period"].removesuffix("s")) > 30  # of --drain
    assert all("ports" not in other for name, other in COMPOSE["services"].items() if name != "service")


def test_milvus_is_the_version_that_the_tests_run_with():
    version = re.search(r"^milvus==(.+)$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)[1]
    assert COMPOSE["services"]["milvus"]["image"] == f"milvusdb/milvus:v{version}"


def test_instructions_are_read():
    text = 'FROM a\nRUN b \\\n    && c\n# d\nCMD ["e"]\n'
    assert instructions(text) == [("FROM", "a"), ("RUN", "b && c"), ("CMD", '["e"]')]
