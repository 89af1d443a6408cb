"""Publishing a release on the Hub: one commit, or none."""

import fnmatch
from dataclasses import dataclass

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .contents import CARD_FILE, Release, ReleaseError

# Weights of an earlier push would stay beside those of a later one, and from_pretrained may take them for its own.
_WEIGHT_PATTERNS = ("*.safetensors", "*.safetensors.index.json")
_MAIN = "main"


@dataclass(frozen=True)
class Repository:
    """
    A place on the Hub that takes a push.

    Args:
        name: owner/name.
        private: whether only its owner and those whom the owner names can read it.
        revision: branch.
    """

    name: str
    private: bool
    revision: str


def find_token(token: str | None = None) -> str:
    """
    The given token, or the one of this machine.

    Raises:
        ReleaseError: there is none.
    """
    found = token or get_token()
    if not found:
        raise ReleaseError("no token for the Hub: run `hf auth login`, or set HF_TOKEN to a token that may write")
    return found


def open_repository(api: HfApi, repo: str, private: bool = True, revision: str | None = None) -> Repository:
    """
    Find a repository, or create it, and make sure that it may be pushed to.

    Args:
        api: with a token.
        repo: owner/name; a name alone is one of the token's owner.
        private: create it so. An existing repository keeps its visibility; a public one is refused with `private`.
        revision: a branch that is there; None for `main`.

    Raises:
        ReleaseError: says what to do.
    """
    try:
        name = api.create_repo(repo, private=private, exist_ok=True).repo_id
        found = api.repo_info(name)
        branches = {branch.name for branch in api.list_repo_refs(name).branches}
    except (HTTPError, OSError, HFValidationError) as error:
        raise _explained(error, repo) from error
    if private and not found.private:
        raise ReleaseError(
            f"{name} is public, so that everybody could read the model: give --public (a run: --hub_private_repo "
            "false), or another repository"
        )
    if revision is not None and revision not in branches:
        raise ReleaseError(
            f"{name} has no branch {revision!r}, but {', '.join(sorted(branches))}: create it with `hf repos branch "
            f"create {name} {revision}`; tags and commits cannot be pushed to"
        )
    return Repository(name, bool(found.private), revision or _MAIN)


def push_release(
    release: Release, api: HfApi, repository: Repository, message: str | None = None, create_pr: bool = False
) -> CommitInfo:
    """
    Publish a release in one commit, which is the last request: a push that fails changes nothing.

    The card's examples load from the repository. Weights that an earlier release left there and this one does not have
    go in the same commit; other files of the repository stay.

    Args:
        release: of [`read_release`].
        api: with the token for [`open_repository`].
        repository: of [`open_repository`].
        message: of the commit.
        create_pr: propose the commit as a pull request against `main`.

    Returns:
        the commit; the last one of the branch if nothing had changed.

    Raises:
        ReleaseError: says what to do.
    """
    if create_pr and repository.revision != _MAIN:
        raise ReleaseError(f"a pull request is made against {_MAIN}: leave out the branch {repository.revision}")
    try:
        # Not upload_folder, which makes several commits where hf_xet is installed.
        return api.create_commit(
            repository.name,
            operations=[*_additions(release, repository), *_deletions(release, api, repository)],
            commit_message=message or f"Upload {release.folder.resolve().name}",
            revision=repository.revision,
            create_pr=create_pr,
        )
    except (HTTPError, OSError, ValueError, RuntimeError) as error:  # a file that could not be uploaded: the last one
        raise _explained(error, repository.name) from error


def _additions(release: Release, repository: Repository) -> list[CommitOperationAdd]:
    card = release.card_for(repository.name).encode("utf-8")
    return [
        CommitOperationAdd(name, card if name == CARD_FILE else str(release.folder / name)) for name in release.files
    ]


def _deletions(release: Release, api: HfApi, repository: Repository) -> list[CommitOperationDelete]:
    there = api.list_repo_files(repository.name, revision=repository.revision)
    return [
        CommitOperationDelete(name)
        for name in there
        if any(fnmatch.fnmatch(name, pattern) for pattern in _WEIGHT_PATTERNS)
        and "/" not in name
        and name not in release.files
    ]


def _explained(error: Exception, repo: str) -> ReleaseError:
    """What went wrong, and what to do."""
    if isinstance(error, ReleaseError):
        return error
    if isinstance(error, HfHubHTTPError):
        return ReleaseError(_explained_answer(error, repo))
    if isinstance(error, OfflineModeIsEnabled):
        return ReleaseError(
            "HF_HUB_OFFLINE forbids every connection: unset it and TRANSFORMERS_OFFLINE, and try again"
        )
    if isinstance(error, LocalTokenNotFoundError):
        return ReleaseError(str(error))
    if isinstance(error, HFValidationError):
        return ReleaseError(f"{repo!r} is no name of a repository: give owner/name ({_joined(error)})")
    if isinstance(error, HTTPError | OSError):
        return ReleaseError(
            f"the Hub cannot be reached ({type(error).__name__}: {_joined(error)}): check the connection, HF_ENDPOINT "
            f"and the proxy, and give the same command again; {repo} holds all of a push or nothing, and the model is "
            "still here"
        )
    if isinstance(error, RuntimeError):
        reason = _joined(error) + (f" {_joined(error.__cause__)}" if error.__cause__ else "")
        return ReleaseError(f"{reason}; {repo} is as it was: give the same command again")
    return ReleaseError(f"{repo}: {_joined(error)}")


def _explained_answer(error: HfHubHTTPError, repo: str) -> str:
    status = error.response.status_code
    if isinstance(error, RevisionNotFoundError):
        return f"{repo} has no such branch ({_joined(error)})"
    if status == 401 and "Invalid credentials" in str(error.response.headers.get("X-Error-Message")):
        return "the Hub does not know the token: run `hf auth login` again, or mend HF_TOKEN, which goes first"
    if status in (401, 403):
        return (
            f"the token may not write to {repo}: use one with the permission to write of somebody who may, or another "
            "--repo; for somebody else's repository, --create-pr proposes the change"
        )
    if isinstance(error, RepositoryNotFoundError):
        return f"{repo} is not there, or the token may not see it"
    if status == 412:
        return f"somebody else pushed to {repo} meanwhile: give the same command again"
    return (
        f"the Hub refused ({_joined(error)}); {repo} is as it was and the model is still here: give the same command "
        "again"
    )


def _joined(error: BaseException) -> str:
    return " ".join(str(error).split())
