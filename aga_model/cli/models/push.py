"""`aga push`: publish a model on the Hub."""

from pathlib import Path

import typer
from huggingface_hub import CommitInfo, HfApi
from transformers.utils import logging as transformers_logging

from aga_model.training import (
    Release,
    ReleaseError,
    Repository,
    find_token,
    open_repository,
    push_release,
    read_release,
)

from ..messages import fail, note, shown


def push(folder: Path, repo: str, private: bool, revision: str | None, message: str | None, create_pr: bool) -> None:
    """What the command does; `commands` declares it."""
    transformers_logging.disable_progress_bar()
    try:
        if repo.count("/") != 1:
            raise ReleaseError(f"--repo {repo}: give owner/name")
        token = find_token()
        release = read_release(folder, secrets=[token])
        for name, reason in release.left_out.items():
            note(f"{name} stays here: {reason}")
        api = HfApi(token=token, library_name="aga_model")
        repository = open_repository(api, repo, private, revision)
        commit = push_release(release, api, repository, message, create_pr)
    except (OSError, ValueError) as error:
        fail(" ".join(str(error).split()))
    if not private and repository.private:
        note(f"{repo} was private before and stays so: change that in its settings on the Hub")
    _print(release, repository, commit, commit.pr_url or f"{api.endpoint}/{repository.name}")


def _print(release: Release, repository: Repository, commit: CommitInfo, address: str) -> None:
    visibility = "private" if repository.private else "public"
    branch = "" if commit.pr_url else f" of {repository.revision}"
    typer.echo(
        f"{shown(address)} ({visibility}), commit {commit.oid[:12]}{branch}: {len(release.files)} files, "
        f"{release.size / 1e6:.1f} MB\n"
    )
    typer.echo(loading_lines(repository.name, commit.oid))


def loading_lines(name: str, commit: str) -> str:
    """Four lines that load a model from the Hub, at the commit, whose code has been read."""
    options = f'"{name}", trust_remote_code=True, revision="{commit}"'
    return "\n".join(
        [
            "from transformers import AutoModel, AutoProcessor",
            f"model = AutoModel.from_pretrained({options})",
            f"processor = AutoProcessor.from_pretrained({options})",
            'text = model.get_text_features(**processor(text=["a man in red"], return_tensors="pt")).pooler_output',
        ]
    )
