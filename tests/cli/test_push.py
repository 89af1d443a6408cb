"""`aga push`: what it refuses before anything leaves this machine, and what the Hub holds afterwards."""

import hashlib
import json
import re
import shlex
import shutil
import socket
import time
from pathlib import Path

import pytest
import torch
from hub_server import OWNER, READ_TOKEN, STRANGER, STRANGER_TOKEN, TOKEN, File, HubServer, connected
from huggingface_hub import HfApi, ModelCard, constants
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from aga_model import AgaConfig, AgaForPreTraining, AgaModel, AgaProcessor
from aga_model.cli.main import app
from aga_model.training import Release, ReleaseError, read_release
from aga_model.training.arguments import parse_run_arguments
from aga_model.training.release.contents import _require_nothing_private, rename_in_examples

pytestmark = pytest.mark.timeout(180)  # a server, which may serve for ever

REPO = f"{OWNER}/tiny"
DOCUMENT = Path(__file__).parents[2] / "docs" / "release.md"
CLIP_BPE = Path(__file__).parents[3] / "shared" / "fixtures" / "clip_bpe"
BASE_MODEL = Path(__file__).parents[2] / "checkpoints" / "aga-small-rendered"
CARD = """---
license: apache-2.0
library_name: transformers
tags:
- text-based-person-search
---

# tiny

```python
model = AutoModel.from_pretrained("here/tiny", trust_remote_code=True)
matcher = get_class_from_dynamic_module("retrieval_aga.AgaForImageTextRetrieval", "here/tiny")
```
"""


@pytest.fixture(scope="module")
def saved(make_sections, tokenizer, tmp_path_factory):
    """A model with everything that a release needs, which no test changes."""
    target = tmp_path_factory.mktemp("saved") / "tiny"
    torch.manual_seed(0)
    config = AgaConfig(**make_sections("clip"))
    AgaForPreTraining(config).save_pretrained(target)
    AgaProcessor.for_config(config, tokenizer).save_pretrained(target)
    (target / "README.md").write_text(CARD)
    return target


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of it for each test."""
    return shutil.copytree(saved, tmp_path / "tiny")


@pytest.fixture
def hub():
    with HubServer() as server, connected(server):
        yield server


def push(folder, *options, repo=REPO):
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["push", str(folder), "--repo", repo, *options])


def refused(folder, *options, repo=REPO):
    """The error of a push that must not succeed."""
    result = push(folder, *options, repo=repo)
    assert result.exit_code == 2, result.output
    assert len([line for line in result.stderr.splitlines() if line.startswith("error: ")]) == 1
    return result.stderr


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_push_is_one_commit_of_what_a_model_needs(hub, folder):
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "optimizer.pt").write_bytes(b"pickle")
    (folder / "checkpoint-3").mkdir()
    (folder / "person.jpg").write_bytes(b"somebody")
    (folder / ".cache").mkdir()
    result = push(folder)
    assert result.exit_code == 0, result.output
    repository = hub.repositories[REPO]
    assert repository.private and len(repository.commits) == 2
    weights = repository.at("main").files["model.safetensors"]
    assert weights.lfs and weights.sha256 == sha256(folder / "model.safetensors")
    assert repository.names() == set(read_release(folder).files) | {".gitattributes"}
    assert not {name for name in repository.names() if name.endswith((".bin", ".pt", ".jpg")) or "/" in name}
    for name in ("pytorch_model.bin stays here: a pickle", "optimizer.pt", "checkpoint-3/", "person.jpg"):
        assert name in result.stderr
    assert ".cache" not in result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{hub.url}/{REPO} (private), commit {repository.branches['main'][:12]} of main: ")
    assert len(lines[2:]) == 4 and f'from_pretrained("{REPO}", trust_remote_code=True, revision="' in lines[3]


def test_the_commit_is_the_last_request_and_the_card_is_validated_before_uploading(hub, folder):
    assert push(folder).exit_code == 0
    asked = [path.split("?")[0] for method, path in hub.requests if method in ("POST", "PUT")]
    assert asked[-1] == f"/api/models/{REPO}/commit/main"
    assert asked.index("/api/validate-yaml") < next(i for i, path in enumerate(asked) if path.startswith("/store/"))


def test_the_card_loads_from_the_repository_wherever_the_model_lay(hub, folder):
    assert push(folder).exit_code == 0
    card = hub.repositories[REPO].at("main").files["README.md"].content.decode()
    assert card.count(f'"{REPO}"') == 2 and "here/tiny" not in card
    assert (folder / "README.md").read_text() == CARD


def test_examples_are_renamed_in_code_of_the_same_name_only():
    card = 'AutoModel.from_pretrained("a/b") "a/b" a/b \'a/b\' "a/bc" from_pretrained("c")'
    assert (
        rename_in_examples(card, "u/n")
        == 'AutoModel.from_pretrained("u/n") "u/n" a/b \'u/n\' "a/bc" from_pretrained("c")'
    )
    assert rename_in_examples("no example", "u/n") == "no example"


def test_the_base_model_of_this_repository_can_be_released(hub):
    release = read_release(BASE_MODEL)
    assert set(release.files) == {path.name for path in BASE_MODEL.iterdir() if path.is_file()}
    card = ModelCard(release.card)
    assert card.data.pipeline_tag == "feature-extraction"
    assert {result.dataset_type for result in card.data.eval_results} == {"rendered-persons"}


@pytest.mark.parametrize("message", ["a message", None])
def test_message_and_branch(hub, folder, message):
    assert push(folder).exit_code == 0
    HfApi().create_branch(REPO, branch="v2")
    (folder / "README.md").write_text(CARD + "\nAnother sentence.\n")
    options = ["--message", message] if message else []
    result = push(folder, "--revision", "v2", *options)
    assert result.exit_code == 0, result.output
    repository = hub.repositories[REPO]
    assert repository.history("v2")[0].message == (message or "Upload tiny")
    assert [commit.message for commit in repository.history()] == ["Upload tiny", "initial commit"]


def test_a_branch_that_is_not_there_is_named_with_those_that_are(hub, folder):
    error = refused(folder, "--revision", "v2")
    assert "has no branch 'v2', but main" in error and f"hf repos branch create {REPO} v2" in error
    assert hub.repositories[REPO].names() == {".gitattributes"}


def test_a_pull_request_leaves_the_branch_as_it_is(hub, folder):
    name = f"{STRANGER}/theirs"
    with connected(hub, STRANGER_TOKEN):
        HfApi().create_repo(name, private=False)
    assert f"may not write to {name}" in refused(folder, "--public", repo=name)
    result = push(folder, "--public", "--create-pr", repo=name)
    assert result.exit_code == 0, result.output
    repository = hub.repositories[name]
    assert repository.names() == {".gitattributes"} and "model.safetensors" in repository.names("refs/pr/1")
    assert result.stdout.startswith(f"{hub.url}/{name}/discussions/1 (public), commit ")
    assert "made against main" in refused(folder, "--create-pr", "--revision", "v2", repo=_with_branch(REPO, "v2"))


def _with_branch(repo, branch):
    HfApi().create_repo(repo, private=True)
    HfApi().create_branch(repo, branch=branch)
    return repo


def test_visibility_is_what_was_asked_for_or_an_error(hub, folder):
    assert push(folder, "--public").exit_code == 0
    assert not hub.repositories[REPO].private
    commits = len(hub.repositories[REPO].commits)
    assert "is public" in refused(folder) and "give --public" in refused(folder)
    assert len(hub.repositories[REPO].commits) == commits
    HfApi().create_repo(f"{OWNER}/hidden", private=True)
    result = push(folder, "--public", repo=f"{OWNER}/hidden")
    assert result.exit_code == 0 and "was private before and stays so" in result.stderr


def test_weights_of_an_earlier_push_do_not_stay_beside_those_of_a_later_one(hub, folder):
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    sharded = folder.with_name("sharded")
    shutil.copytree(folder, sharded)
    (sharded / "model.safetensors").unlink()
    for name, keys in shards.items():
        save_file({key: weights[key] for key in keys}, sharded / name, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {key: name for name, keys in shards.items() for key in keys}}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    assert push(sharded).exit_code == 0
    repository = hub.repositories[REPO]
    assert set(shards) < repository.names() and "model.safetensors" not in repository.names()
    repository.commit("main", "a picture", {**repository.at("main").files, "notes.md": File(b"mine", lfs=False)})
    assert push(folder).exit_code == 0
    assert {name for name in repository.names() if "safetensors" in name} == {"model.safetensors"}
    assert "notes.md" in repository.names() and len(repository.commits) == 4


def test_pushing_the_same_again_makes_no_commit(hub, folder):
    assert push(folder).exit_code == push(folder).exit_code == 0
    assert len(hub.repositories[REPO].commits) == 2


@pytest.mark.parametrize(
    ("method", "part", "status"),
    [
        ("PUT", "/store/", 403),
        ("POST", "/lfs/objects/batch", 403),
        ("POST", "/commit/", 500),
        ("POST", "/preupload/", 400),
    ],
)
def test_a_push_that_fails_leaves_the_repository_at_its_commit_and_works_again(hub, folder, method, part, status):
    assert push(folder).exit_code == 0
    repository = hub.repositories[REPO]
    before = repository.branches["main"]
    weights = load_file(folder / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    hub.fail(method, part, status)
    refused(folder)
    assert repository.branches["main"] == before and len(repository.commits) == 2
    assert push(folder).exit_code == 0
    assert repository.at("main").files["model.safetensors"].sha256 == sha256(folder / "model.safetensors")


def test_a_store_that_stumbles_once_is_asked_again(hub, folder):
    hub.fail("PUT", "/store/", 500)
    assert push(folder).exit_code == 0
    assert len([path for method, path in hub.requests if method == "PUT"]) == 2


def test_no_connection_says_what_to_do(hub, folder, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        error = refused(folder)
    assert "cannot be reached" in error and "check the connection" in error and "the model is still here" in error
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE forbids" in refused(folder)


@pytest.mark.parametrize(
    ("token", "repo", "named"),
    [
        (None, REPO, "run `hf auth login`, or set HF_TOKEN"),
        ("token-that-nobody-has", REPO, "does not know the token"),
        (READ_TOKEN, REPO, f"may not write to {REPO}"),
        (TOKEN, "somebody/else", "may not write to somebody/else"),
        (TOKEN, "tiny", "give owner/name"),
        (TOKEN, "user/a b", "give owner/name"),
    ],
)
def test_who_may_not_push_is_told_so(folder, token, repo, named):
    with HubServer() as hub, connected(hub, token):
        assert named in refused(folder, repo=repo)
        assert not hub.repositories


def test_somebody_elses_private_repository_is_not_seen(hub, folder):
    with connected(hub, STRANGER_TOKEN):
        HfApi().create_repo(f"{STRANGER}/secret", private=True)
    assert f"may not write to {STRANGER}/secret" in refused(folder, repo=f"{STRANGER}/secret")


def _json(name, change):
    """Breaks a JSON file of the folder."""

    def do(folder):
        values = json.loads((folder / name).read_text())
        change(values)
        (folder / name).write_text(json.dumps(values))

    return do


def _card(old, new):
    return lambda folder: (folder / "README.md").write_text(CARD.replace(old, new))


def _spoil_weights(folder):
    weights = load_file(folder / "model.safetensors")
    weights["aga.text_projection.weight"][0, 0] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def _drop_weights(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["aga.text_projection.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def _only_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _another_code(folder):
    (folder / "modeling_aga.py").write_text("class Other:\n    pass\n")


BROKEN = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
    "no processor": (lambda folder: (folder / "processor_config.json").unlink(), "processor_config.json is missing"),
    "another model": (_json("config.json", lambda c: c.update(model_type="clip")), "model_type is 'clip'"),
    "bad setting": (_json("config.json", lambda c: c.update(projection_dim=0)), "projection_dim"),
    "pickle only": (_only_pickle, "holds no model.safetensors; pytorch_model.bin is no safetensors file"),
    "cut off": (lambda f: (f / "model.safetensors").write_bytes(b"half"), "weights cannot be loaded"),
    "weights missing": (_drop_weights, "1 weights are missing, such as aga.text_projection.weight"),
    "not finite": (_spoil_weights, "aga.text_projection.weight is not finite"),
    "no code": (lambda folder: (folder / "modeling_aga.py").unlink(), "modeling_aga.py is missing"),
    "imported code missing": (
        lambda folder: (folder / "losses.py").unlink(),
        "losses.py is missing, which",
    ),
    "another code": (_another_code, "modeling_aga.py defines no class AgaModel"),
    "no auto map": (_json("config.json", lambda c: c.pop("auto_map")), "auto_map names no class for AutoConfig"),
    "code of others": (
        _json("config.json", lambda c: c["auto_map"].update(AutoModel="other/v1.0--modeling_aga.AgaModel")),
        "takes AutoModel from another repository",
    ),
    "no card": (lambda folder: (folder / "README.md").unlink(), "README.md is missing"),
    "no metadata": (_card("---", ""), "`license: apache-2.0`"),
    "no licence": (_card("license: apache-2.0\n", ""), "`license: apache-2.0`, found None"),
    "another library": (_card("library_name: transformers", "library_name: timm"), "library_name is 'timm'"),
    "no yaml": (_card("tags:", "tags: ["), "cannot be read"),
    "bad results": (_card("tags:", "model-index:\n- name: x\n  results:\n  - task: {}\ntags:"), "cannot be read"),
    "a token": (_card("# tiny", "# hf_" + "a" * 34), "line 8 holds a Hugging Face token"),
    "this token": (
        _json("config.json", lambda c: c.update(note=TOKEN)),
        "config.json: line 1 holds a Hugging Face token",
    ),
    "a path": (_card("# tiny", "# from /home/somebody/cuhk/imgs/1.jpg"), "path of a machine (/home/somebody/cuhk"),
    "a windows path": (_card("# tiny", "# C:\\data\\cuhk"), "path of a machine (C:\\data\\cuhk)"),
    "another vocabulary": (
        _json("config.json", lambda c: c["text_config"].update(mask_token_id=3)),
        "processor does not fit the model: text_config.mask_token_id is 3",
    ),
    "another size": (
        _json("processor_config.json", lambda c: c["image_processor"].update(size={"height": 8, "width": 8})),
        "makes images of 8x8 pixels, the model takes 32x16",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_folder_that_is_not_fit_is_refused_before_any_request(hub, folder, case):
    change, named = BROKEN[case]
    change(folder)
    assert named in refused(folder)
    assert not hub.requests


# Made up, in pieces: whoever looks for secrets in this repository shall find none.
SECRETS = {
    "private key": [
        f"-----BEGIN {kind}PRIVATE KEY{end}-----"
        for kind, end in (
            ("", ""), ("RSA ", ""), ("EC ", ""), ("DSA ", ""), ("ENCRYPTED ", ""), ("OPENSSH ", ""), ("PGP ", " BLOCK")
        )
    ],
    "Hugging Face token": ["hf_" + "Ab1" * 12],
    "GitHub token": [f"gh{letter}_" + "Ab1" * 12 for letter in "pousr"] + ["github_pat_" + "1A_b" * 20],
    "GitLab token": ["glpat-" + "Ab1_" * 5],
    "Slack token": ["xox" + "b-123456789012-123456789012-Ab1Ab1Ab1", "xox" + "p-1234567890-Ab"],
    "AWS key": ["AKIA" + "IOSFODNN7EXAMPLE", "aws_secret_access_key = " + "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"],
    "Google key": ["AIza" + "Sy-_1" * 7],
    "OpenAI or Anthropic key": ["sk-" + "Ab1" * 16, "sk-" + "proj-" + "A_b-1" * 8, "sk-" + "ant-api03-" + "A_b-1" * 8],
    "npm token": ["npm_" + "Ab1" * 12],
    "PyPI token": ["pypi-" + "AgEIcHlwaS5vcmcCJ" + "Ab1_-" * 10],
    "JSON web token": ["eyJ" + "hbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N"],
    "password in an address": ["https://me:hunter2@example.org/x", "milvus://root:Mil-vus.1@10.0.0.7:19530/people"],
    "password": ["http://example.org/?user=me&password=hunter2", "password=hunter2"],
}  # fmt: skip


def _append(name, line):
    return lambda folder: (folder / name).write_text((folder / name).read_text() + f"\n{line}\n")


def _metadata(key, value):
    def do(folder):
        weights = load_file(folder / "model.safetensors")
        save_file(weights, folder / "model.safetensors", {"format": "pt", key: value})

    return do


HIDING_PLACES = {
    "README.md": lambda secret: _append("README.md", f"see {secret}"),
    "LICENSE": lambda secret: lambda folder: (folder / "LICENSE").write_text(f"MIT\n{secret}\nMIIE\n"),
    "modeling_aga.py": lambda secret: _append("modeling_aga.py", f"# {secret}"),
    "losses.py": lambda secret: _append("losses.py", f"KEY = '{secret}'"),
    "config.json": lambda secret: _json("config.json", lambda values: values.update(note=secret)),
    "tokenizer.json": lambda secret: _json(
        "tokenizer.json", lambda values: values["model"]["vocab"].update({secret: 1})
    ),
    "model.safetensors": lambda secret: _metadata("note", f"by\n{secret}"),
}


@pytest.mark.parametrize("kind", SECRETS)
def test_secrets_are_found_in_every_file_and_not_repeated(folder, kind):
    for place, hide in HIDING_PLACES.items():
        kept = {path: path.read_bytes() for path in folder.iterdir()}
        for secret in SECRETS[kind]:
            hide(secret)(folder)
            with pytest.raises(ReleaseError) as caught:
                _require_nothing_private(_release(folder), [])
            message = str(caught.value)
            where = "note of the metadata" if place.endswith(".safetensors") else r"line \d+"
            assert re.search(rf"{place}: {where} holds an? {kind}: remove it", message), (secret, message)
            assert secret not in message
            for path in folder.iterdir():
                path.write_bytes(kept[path]) if path in kept else path.unlink()
    assert _require_nothing_private(_release(folder), []) is None


def _release(folder):
    names = sorted(path.name for path in folder.iterdir())
    return Release(folder, tuple(names), (folder / "README.md").read_text())


def test_a_secret_in_metadata_and_one_written_with_escapes_keep_a_push_from_beginning(hub, folder):
    secret = SECRETS["GitHub token"][0]
    kept = (folder / "model.safetensors").read_bytes()
    _metadata(secret, "x")(folder)
    error = refused(folder)
    assert "model.safetensors: *** of the metadata holds a GitHub token" in error and secret not in error
    (folder / "model.safetensors").write_bytes(kept)
    config = (folder / "config.json").read_text()
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in secret)
    (folder / "config.json").write_text(config.replace("{", f'{{\n"note": "{escaped}",', 1))
    assert "config.json: line 2 holds a GitHub token" in refused(folder)
    for value in (TOKEN, secret):  # in a setting that the message of another fault repeats
        (folder / "config.json").write_text(config.replace('"aga"', f'"{value}"'))
        error = refused(folder)
        assert "model_type is '***'" in error and value not in error
    assert not hub.requests


@pytest.mark.parametrize("name", ["LICENSE", "README.md", "losses.py", "config.json", "model.safetensors"])
def test_links_are_not_followed(hub, folder, tmp_path, name):
    outside = tmp_path / "outside"
    if (folder / name).exists():
        (folder / name).rename(outside)
    else:
        outside.write_text("nobody else's business")
    (folder / name).symlink_to(outside)
    error = refused(folder)
    assert f"{folder / name} is a symbolic link" in error and str(outside) not in error.replace(str(folder), "")
    assert not hub.requests


def test_the_folder_itself_may_be_a_link(hub, folder, tmp_path):
    (tmp_path / "best").symlink_to(folder)
    assert push(tmp_path / "best").exit_code == 0


@pytest.mark.parametrize(
    "home", ["/home/somebody", "/Users/somebody", "C:\\Users\\somebody", "C:/Users/somebody", None]
)
@pytest.mark.parametrize("name", ["README.md", "config.json", "losses.py", "model.safetensors"])
def test_homes_are_found_in_metadata_settings_code_and_card(folder, monkeypatch, tmp_path, home, name):
    monkeypatch.setenv("HOME", "/persons/me")
    monkeypatch.setattr(Path, "cwd", lambda: Path("/checkout"))
    path = f"{home or '/persons/me'}/cuhk/imgs"
    HIDING_PLACES[name](path)(folder)
    where = "note of the metadata" if name == "model.safetensors" else "line"
    with pytest.raises(ReleaseError, match=rf"{name}: {where} .*names a path of a machine"):
        _require_nothing_private(_release(folder), [])


def test_code_may_speak_of_folders_that_are_nobodys_home(folder, monkeypatch):
    monkeypatch.setenv("HOME", "/persons/me")
    _append("losses.py", "# in /data/x, /tmp/x, ~/x, /persons or https://example.org/home/x")(folder)
    _require_nothing_private(_release(folder), [])


@pytest.mark.parametrize(
    "line",
    [
        "password=password and password=None, password: str",
        "give milvus://{user}:{password}@host or https://$USER:$PASSWORD@host",
        "https://example.org:8080/a@b, git@github.com:a/b.git, me@example.org",
        "-----BEGIN PUBLIC KEY-----, -----BEGIN CERTIFICATE-----, a PRIVATE KEY",
        "a desk-top-computer-with-a-long-name, glow-in-the-dark-backpack-of-somebody",
        "sk-learn, risk-averse, task-oriented; hf_hub_download; AKIA; the bearer of good news",
        '"pad_token": "<|endoftext|>", "mask_token": "<|mask|>", "bos_token_id": 49406',
        "sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==",
    ],
)
def test_what_only_looks_like_a_secret_is_none(line):
    assert _found_path(line, folder="/model") is None


def test_vocabularies_and_own_code_hold_no_secret(folder):
    for path in (Path(__file__).parents[2] / "aga_model").glob("*.py"):
        shutil.copy(path, folder)
    for name in ("vocab.json", "merges.txt"):
        path = CLIP_BPE / name
        if path.is_file():
            shutil.copyfile(path, folder / name)
    words = ["password", "passwd", "secret", "token", "bearer", "api_key", "/home/x", "sk-", "hf_", "eyJ"]
    (folder / "vocab.txt").write_text("\n".join(words))
    (folder / "README.md").write_text(CARD + "a" * 1_000_000 + "\n" + "eyJa." * 100_000 + "\n")
    began = time.process_time()
    _require_nothing_private(_release(folder), [])
    assert time.process_time() - began < 20  # about one second; patterns must not try every part of a long line


def _found_path(line, folder="/depot/x/runs/a/model"):
    """The path of a machine that a card with this line is refused for, when it is published from `folder`."""
    try:
        _require_nothing_private(Release(Path(folder), ("README.md",), f"# tiny\n{line}\n"), [])
    except ReleaseError as error:
        return re.search(r"line 2 names a path of a machine \((.*)\): remove it", str(error))[1]
    return None


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("trained on /data/cuhk/imgs", "/data/cuhk/imgs"),
        ("on /nfs/group/cuhk, then", "/nfs/group/cuhk,"),
        ("(/gpfs/cuhk)", "/gpfs/cuhk"),
        ("`/srv/cuhk`", "/srv/cuhk"),
        ("path:/home/me/x", "/home/me/x"),
        ("C:/Users/me/x", "/Users/me/x"),
        ("/cluster/home/me/x", "/cluster/home/me/x"),
        ("in ~/data", "~/data"),
        ("file:///home/me/x", "file:///home/me/x"),
        ("[log](file:///var/log/x)", "file:///var/log/x"),
        ("start: /depot/x/runs/a/checkpoint-4", "/depot/x/runs/a/checkpoint-4"),
        ("start: /depot/start", "/depot/start"),
        ("from /persons/me/cuhk", "/persons/me/cuhk"),
        ("in /checkout/of/mine/runs", "/checkout/of/mine/runs"),
        ("from /checkout/of/others", None),
        ("from /persons", None),
        ("at https://host/home/x and https://host:80/data/x", None),
        ("of https://host/depot/x", None),
        ("docs/home/x, s3://home/x, and/or/x", None),
        ("in ~/.cache/huggingface", None),
        ("a 3/4 view, 1/home run", None),
    ],
)
def test_paths_of_a_machine_are_told_from_addresses(monkeypatch, line, found):
    monkeypatch.setenv("HOME", "/persons/me")
    monkeypatch.setattr(Path, "cwd", lambda: Path("/checkout/of/mine"))
    assert _found_path(line) == found


def test_a_home_that_is_the_root_makes_no_path_one_of_this_machine(monkeypatch):
    monkeypatch.setenv("HOME", "/")
    monkeypatch.setattr(Path, "cwd", lambda: Path("/"))
    assert _found_path("an /apple/or two", folder="/model") is None
    assert _found_path("in /home/me", folder="/model") == "/home/me"


def test_the_folder_of_a_run_is_told_from_the_model_in_it(hub, folder, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(folder, run / "model")
    assert f"give the model in it, {run / 'model'}" in refused(run)
    assert "is no folder" in refused(tmp_path / "nothing")


def test_a_dual_encoder_alone_is_a_model_too(hub, folder, tokenizer, tmp_path):
    alone = tmp_path / "alone"
    AgaModel.from_pretrained(folder).save_pretrained(alone)
    AgaProcessor.from_pretrained(folder).save_pretrained(alone)
    (alone / "README.md").write_text(CARD)
    assert push(alone).exit_code == 0
    assert AgaConfig.from_pretrained(alone).architectures == ["AgaModel"]


def test_the_commands_of_the_document_run(hub, folder):
    blocks = re.findall("```bash\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    lines = [shlex.split(line) for block in blocks for line in block.splitlines()]
    pushes, trainings = 0, 0
    for name, *arguments in lines:
        if [name, *arguments[:3]] == ["hf", "repos", "branch", "create"]:
            HfApi().create_branch(arguments[3], branch=arguments[4])
        elif name == "aga":
            given = [str(folder) if each == "runs/mine/model" else each for each in arguments]
            result = CliRunner().invoke(app, given)
            assert result.exit_code == 0, result.output
            pushes += 1
        elif name == "python":
            arguments = parse_run_arguments([str(DOCUMENT.parents[1] / arguments[1]), *arguments[2:]])[2]
            assert arguments.push_to_hub and arguments.hub_repository == "user/name"
            trainings += 1
    repository = hub.repositories["user/name"]
    assert (pushes, trainings) == (4, 1) and repository.private and set(repository.branches) == {"main", "v2"}
