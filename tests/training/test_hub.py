"""What is asked of the Hub: whose token, which repository, which branch, and which files of an earlier push go."""

from types import SimpleNamespace

import pytest

from aga_model.training import Release, ReleaseError, Repository, find_token, open_repository, push_release
from aga_model.training.release import hub

CARD = 'AutoModel.from_pretrained("runs/here")'


class Api:
    """A Hub that notes what it is told."""

    def __init__(self, private=True, files=()):
        self.private, self.files, self.created, self.commit = private, files, None, None

    def create_repo(self, repo, private=None, exist_ok=False):
        self.created = (repo, private, exist_ok)
        return SimpleNamespace(repo_id=repo)

    def repo_info(self, name):
        return SimpleNamespace(private=self.private)

    def list_repo_refs(self, name):
        return SimpleNamespace(branches=[SimpleNamespace(name="main"), SimpleNamespace(name="v2")])

    def list_repo_files(self, name, revision=None):
        return self.files if revision == "v2" else []

    def create_commit(self, name, **commit):
        self.commit = {"name": name, **commit}
        return self.commit


def test_the_token_that_is_given_goes_before_that_of_the_machine(monkeypatch):
    monkeypatch.setattr(hub, "get_token", lambda: "of the machine")
    assert find_token("given") == "given" and find_token() == "of the machine"
    monkeypatch.setattr(hub, "get_token", lambda: None)
    with pytest.raises(ReleaseError, match="no token"):
        find_token()


@pytest.mark.parametrize("private", [True, False])
def test_a_repository_is_made_as_private_as_it_is_wanted(private):
    api = Api(private=private)
    assert open_repository(api, "me/it", private) == Repository("me/it", private, "main")
    assert api.created == ("me/it", private, True)
    assert open_repository(api, "me/it", private, "v2").revision == "v2"
    with pytest.raises(ReleaseError, match=r"has no branch 'v3', but main, v2"):
        open_repository(api, "me/it", private, "v3")


def test_a_public_repository_takes_no_private_model():
    with pytest.raises(ReleaseError, match="is public"):
        open_repository(Api(private=False), "me/it")
    assert not open_repository(Api(private=False), "me/it", private=False).private


def test_one_commit_to_the_branch_renames_the_examples_and_removes_older_shards_alone(tmp_path):
    for name in ("README.md", "config.json", "model.safetensors"):
        (tmp_path / name).write_text(CARD if name == "README.md" else "{}")
    release = Release(tmp_path, ("README.md", "config.json", "model.safetensors"), CARD)
    older = ["model-00001-of-00002.safetensors", "model.safetensors.index.json"]
    api = Api(files=[*older, "model.safetensors", "config.json", "notes.txt", "teacher/model-1.safetensors"])
    push_release(release, api, Repository("me/it", True, "v2"), "a message")
    commit = api.commit
    assert (commit["name"], commit["revision"], commit["commit_message"]) == ("me/it", "v2", "a message")
    assert commit["create_pr"] is False
    added = {one.path_in_repo: one for one in commit["operations"] if isinstance(one, hub.CommitOperationAdd)}
    deleted = [one.path_in_repo for one in commit["operations"] if isinstance(one, hub.CommitOperationDelete)]
    assert sorted(added) == list(release.files) and sorted(deleted) == sorted(older)
    assert added["README.md"].path_or_fileobj == b'AutoModel.from_pretrained("me/it")'
    with pytest.raises(ReleaseError, match="leave out the branch v2"):
        push_release(release, api, Repository("me/it", True, "v2"), create_pr=True)
