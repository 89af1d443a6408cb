"""
A Hub on this machine, for the tests: the part of the Hub's HTTP interface that publishing and loading a model use.

Repositories are kept in memory as commits, so every revision stays loadable. Written from what huggingface_hub sends
and reads.
"""

import base64
import fnmatch
import hashlib
import json
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest
from huggingface_hub import constants

OWNER = "user"
TOKEN = "write-token-of-user"
READ_TOKEN = "read-token-of-user"
STRANGER, STRANGER_TOKEN = "stranger", "write-token-of-stranger"
GIT_ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n*.bin filter=lfs diff=lfs merge=lfs -text\n"
LARGEST_REGULAR = 10 * 2**20  # bytes; larger files go to LFS whatever their name
PAGE = 5  # entries of a tree's page


class Answer(Exception):
    """An answer other than 200 with JSON."""

    def __init__(self, status: int, body: Any = None, code: str | None = None, **headers: str):
        super().__init__(status)
        self.status, self.body = status, body if body is not None else {"error": code or str(status)}
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if code is not None:
            self.headers["X-Error-Code"] = code


@dataclass(frozen=True)
class File:
    """A file of a commit; in LFS its content is in the store under `sha256`."""

    content: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def oid(self) -> str:
        """Git's name of the blob; of the pointer for a file in LFS."""
        data = self.content
        if self.lfs:
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(data)}\n"
            data = pointer.encode()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass(frozen=True)
class Commit:
    sha: str
    parent: str | None
    message: str
    files: dict[str, File]


@dataclass
class Repository:
    name: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pull_requests: dict[str, str] = field(default_factory=dict)
    lfs: dict[str, bytes] = field(default_factory=dict)  # what was uploaded, whether or not a commit names it

    def __post_init__(self) -> None:
        self.commit("main", "initial commit", {".gitattributes": File(GIT_ATTRIBUTES, lfs=False)})

    def commit(self, branch: str, message: str, files: dict[str, File], pull_request: bool = False) -> tuple[str, str]:
        """Add a commit to a branch, or as a new pull request against it; returns its hash and ref."""
        parent = self.branches.get(branch)
        listed = sorted((path, file.oid) for path, file in files.items())
        sha = hashlib.sha1(json.dumps([parent, message, len(self.commits), listed]).encode()).hexdigest()
        self.commits[sha] = Commit(sha, parent, message, files)
        ref = branch
        if pull_request:
            ref = f"refs/pr/{len(self.pull_requests) + 1}"
            self.pull_requests[ref] = sha
        else:
            self.branches[branch] = sha
        return sha, ref

    def at(self, revision: str) -> Commit:
        """The commit of a branch, tag, pull request or hash."""
        for refs in (self.branches, self.tags, self.pull_requests):
            revision = refs.get(revision, revision)
        if revision not in self.commits:
            raise Answer(404, code="RevisionNotFound")
        return self.commits[revision]

    def history(self, branch: str = "main") -> list[Commit]:
        """Commits of a branch, the newest first."""
        found, sha = [], self.branches.get(branch)
        while sha is not None:
            found.append(self.commits[sha])
            sha = self.commits[sha].parent
        return found

    def names(self, revision: str = "main") -> set[str]:
        return set(self.at(revision).files)


@dataclass
class Failure:
    """Answers `status` to the next `times` requests of this method whose path holds `part`."""

    method: str
    part: str
    status: int
    times: int


@dataclass
class HubServer:
    """
    Serves between `with HubServer() as hub:` and its end, at `url`; files in LFS at `store_url`, another origin, where
    signed addresses count and no token may arrive.

    Args:
        repositories: name -> repository, to look at and to change.
        requests: method and path of each request, in order.
        failures: what to refuse; see [`Failure`].
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> "HubServer":
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(2)]
        self.url, self.store_url = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)
        for server in self._servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def fail(self, method: str, part: str, status: int, times: int = 1) -> None:
        self.failures.append(Failure(method, part, status, times))

    def environment(self, home: Any, token: str | None = TOKEN) -> dict[str, str]:
        """Variables with which a process uses this Hub, and a cache of its own."""
        values = {"HF_ENDPOINT": self.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "HF_HOME": str(home)}
        return values | {"TRANSFORMERS_OFFLINE": "0", "NO_PROXY": "127.0.0.1"} | ({"HF_TOKEN": token} if token else {})


@contextmanager
def connected(hub: HubServer, token: str | None = TOKEN) -> Iterator[None]:
    """This process uses the server: huggingface_hub has read the variables of its environment when it was imported."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as cache:
        patch.setattr(constants, "HF_HUB_CACHE", cache)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "ENDPOINT", hub.url)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr("transformers.utils.hub._hf_api", None)
        patch.setattr(constants, "HF_TOKEN_PATH", f"{cache}/no-token")
        patch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
        patch.setenv("NO_PROXY", "127.0.0.1")
        if token is None:
            patch.delenv("HF_TOKEN", raising=False)
        else:
            patch.setenv("HF_TOKEN", token)
        yield


_ROUTES: list[tuple[str, re.Pattern[str], str]] = []


def _route(method: str, pattern: str) -> Callable:
    """`{name}` is one part of the path, `{repo}` two, `{path}` the rest."""
    parts = {"repo": r"(?P<repo>[^/]+/[^/]+?)", "path": r"(?P<path>.+)"}
    expression = re.sub(r"\{(\w+)\}", lambda found: parts.get(found[1], rf"(?P<{found[1]}>[^/]+)"), pattern)

    def add(function: Callable) -> Callable:
        _ROUTES.append((method, re.compile(expression + "$"), function.__name__))
        return function

    return add


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_hub: HubServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    # One request at a time: tests look at the repositories, not at speed.

    def _answer(self, method: str) -> None:
        self.body = self._read_body()
        address = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(address.query).items()}
        with self.server_hub.lock:
            self.server_hub.requests.append((self.command, self.path))
            try:
                self._fail_if_wanted()
                answer = Answer(200, self._call(method, address.path))
            except Answer as other:
                answer = other
        self._send(answer)

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _fail_if_wanted(self) -> None:
        for failure in self.server_hub.failures:
            if failure.times and failure.method == self.command and failure.part in self.path:
                failure.times -= 1
                raise Answer(failure.status, {"error": "asked to fail"})

    def _call(self, method: str, path: str) -> Any:
        for known, expression, name in _ROUTES:
            found = expression.match(path) if known == method else None
            if found:
                return getattr(self, name)(**{key: unquote(value) for key, value in found.groupdict().items()})
        raise Answer(404, {"error": f"no such address: {method} {path}"})

    def _send(self, answer: Answer) -> None:
        data = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    # Who asks, and what for.

    def _user(self) -> str | None:
        sent = self.headers.get("Authorization")
        if sent is None:
            return None
        users = {TOKEN: OWNER, READ_TOKEN: OWNER, STRANGER_TOKEN: STRANGER}
        user = users.get(sent.removeprefix("Bearer "))
        if user is None:
            raise Answer(401, X_Error_Message="Invalid credentials in Authorization header")
        return user

    def _may_write(self, namespace: str) -> bool:
        return self._user() == namespace and self.headers["Authorization"] != f"Bearer {READ_TOKEN}"

    def _repository(self, repo: str, write: bool = False) -> Repository:
        user, found = self._user(), self.server_hub.repositories.get(repo)
        namespace = repo.split("/")[0]
        if found is None or (found.private and user != namespace):
            raise Answer(404 if user else 401, code="RepoNotFound")
        if write and not self._may_write(namespace):
            raise Answer(403, {"error": "no permission to write"})
        return found

    def _json(self) -> Any:
        return json.loads(self.body)

    # Accounts and repositories.

    @_route("GET", "/api/whoami-v2")
    def whoami(self) -> Any:
        user = self._user()
        if user is None:
            raise Answer(401)
        return {"type": "user", "name": user, "orgs": [], "auth": {"type": "access_token"}}

    @_route("POST", "/api/repos/create")
    def create(self) -> Any:
        wanted, user = self._json(), self._user()
        if user is None:
            raise Answer(401)
        namespace = wanted.get("organization") or user
        name = f"{namespace}/{wanted['name']}"
        if not self._may_write(namespace):
            raise Answer(403, {"error": f"no permission to create a model under {namespace}"})
        result = {"url": f"{self.server_hub.url}/{name}", "name": name}
        if name in self.server_hub.repositories:
            raise Answer(409, result | {"error": "You already created this model repo"})
        private = wanted.get("visibility") == "private" or wanted.get("private") is True
        self.server_hub.repositories[name] = Repository(name, private)
        return result

    @_route("POST", "/api/validate-yaml")
    def validate_yaml(self) -> Any:
        content = self._json()["content"]
        if not re.match(r"---\n.*?\n---\n", content, re.DOTALL):
            raise Answer(400, {"errors": [{"message": "no metadata"}], "warnings": []})
        return {"errors": [], "warnings": []}

    @_route("GET", "/api/models/{repo}")
    def model(self, repo: str) -> Any:
        return self.model_at(repo, "main")

    @_route("GET", "/api/models/{repo}/revision/{revision}")
    def model_at(self, repo: str, revision: str) -> Any:
        found = self._repository(repo)
        commit = found.at(revision)
        siblings = [{"rfilename": name} for name in sorted(commit.files)]
        return {"id": repo, "modelId": repo, "sha": commit.sha, "private": found.private, "siblings": siblings}

    @_route("GET", "/api/models/{repo}/refs")
    def refs(self, repo: str) -> Any:
        found = self._repository(repo)
        listed = {
            kind: [{"name": name, "ref": f"refs/{part}/{name}", "targetCommit": sha} for name, sha in refs.items()]
            for kind, part, refs in (("branches", "heads", found.branches), ("tags", "tags", found.tags))
        }
        return listed | {"converts": []}

    @_route("POST", "/api/models/{repo}/branch/{branch}")
    def create_branch(self, repo: str, branch: str) -> Any:
        found = self._repository(repo, write=True)
        if branch in found.branches:
            raise Answer(409)
        found.branches[branch] = found.at(self._json().get("startingPoint") or "main").sha
        return {}

    @_route("POST", "/api/models/{repo}/tag/{revision}")
    def create_tag(self, repo: str, revision: str) -> Any:
        found = self._repository(repo, write=True)
        found.tags[self._json()["tag"]] = found.at(revision).sha
        return {}

    # Uploading.

    @_route("POST", "/api/models/{repo}/preupload/{revision}")
    def preupload(self, repo: str, revision: str) -> Any:
        files = self._repository(repo, write="create_pr" not in self.query).at(revision).files
        lines = files[".gitattributes"].content.decode().splitlines()
        patterns = [line.split()[0] for line in lines if "filter=lfs" in line]

        def describe(wanted: dict[str, Any]) -> dict[str, Any]:
            name = wanted["path"]
            large = wanted["size"] > LARGEST_REGULAR or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
            there = files.get(name)
            oid = None if there is None else there.sha256 if there.lfs else there.oid
            return {"path": name, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}

        return {"files": [describe(wanted) for wanted in self._json()["files"]]}

    @_route("POST", "/{repo}.git/info/lfs/objects/batch")
    def lfs_batch(self, repo: str) -> Any:
        found, wanted = self._repository(repo), self._json()
        objects = []
        for each in wanted["objects"]:
            if each["oid"] not in found.lfs:
                upload = {"href": f"{self.server_hub.store_url}/store/{repo}/{each['oid']}?signature=secret"}
                verify = {"href": f"{self.server_hub.url}/{repo}.git/info/lfs/verify"}
                each = {**each, "actions": {"upload": upload, "verify": verify}}
            objects.append(each)
        return {"transfer": "basic", "objects": objects}

    def _require_signature(self) -> None:
        if self.query.get("signature") != "secret" or "Authorization" in self.headers:
            raise Answer(403, {"error": "the store wants a signed address and no token"})

    @_route("PUT", "/store/{repo}/{oid}")
    def lfs_put(self, repo: str, oid: str) -> Any:
        self._require_signature()
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Answer(400, {"error": "these bytes have another SHA-256"})
        self.server_hub.repositories[repo].lfs[oid] = self.body
        return {}

    @_route("POST", "/{repo}.git/info/lfs/verify")
    def lfs_verify(self, repo: str) -> Any:
        wanted, found = self._json(), self._repository(repo)
        if len(found.lfs.get(wanted["oid"], b"")) != wanted["size"]:
            raise Answer(404, {"error": "not uploaded"})
        return {}

    @_route("POST", "/api/models/{repo}/commit/{revision}")
    def commit(self, repo: str, revision: str) -> Any:
        proposed = "create_pr" in self.query
        found = self._repository(repo, write=not proposed)
        if revision not in found.branches:
            raise Answer(404, code="RevisionNotFound")
        files, message = dict(found.at(revision).files), ""
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            match item["key"]:
                case "header":
                    message = value["summary"]
                    if value.get("parentCommit") not in (None, found.branches[revision]):
                        raise Answer(412, {"error": "the branch has moved on"})
                case "file":
                    files[value["path"]] = File(base64.b64decode(value["content"]), lfs=False)
                case "lfsFile":
                    if len(found.lfs.get(value["oid"], b"")) != value["size"]:
                        raise Answer(400, {"error": f"{value['path']} was not uploaded"})
                    files[value["path"]] = File(found.lfs[value["oid"]], lfs=True)
                case "deletedFile":
                    if files.pop(value["path"], None) is None:
                        raise Answer(404, code="EntryNotFound")
                case other:
                    raise Answer(400, {"error": f"unknown operation {other}"})
        sha, ref = found.commit(revision, message, files, proposed)
        address = f"{self.server_hub.url}/{repo}"
        answer = {"success": True, "commitOid": sha, "commitUrl": f"{address}/commit/{sha}", "hookOutput": ""}
        return answer | {"pullRequestUrl": f"{address}/discussions/{ref.rpartition('/')[2]}" if proposed else None}

    # Reading.

    @_route("GET", "/api/models/{repo}/tree/{revision}")
    def tree(self, repo: str, revision: str) -> Any:
        return self._tree(repo, revision, "")

    @_route("GET", "/api/models/{repo}/tree/{revision}/{path}")
    def tree_below(self, repo: str, revision: str, path: str) -> Any:
        return self._tree(repo, revision, path.rstrip("/") + "/")

    def _tree(self, repo: str, revision: str, prefix: str) -> Any:
        files = {
            name: file for name, file in self._repository(repo).at(revision).files.items() if name.startswith(prefix)
        }
        if prefix and not files:
            raise Answer(404, code="EntryNotFound")
        entries = {}
        for name, file in sorted(files.items()):
            inner = name.removeprefix(prefix)
            if "/" in inner and self.query.get("recursive", "").lower() != "true":
                folder = prefix + inner.split("/")[0]
                entries[folder] = {"type": "directory", "path": folder, "oid": "0" * 40, "size": 0}
            else:
                entries[name] = self._entry(name, file)
        start = int(self.query.get("cursor", 0))
        listed = list(entries.values())[start : start + PAGE]
        if start + PAGE < len(entries):
            query = "&".join(f"{key}={quote(value)}" for key, value in self.query.items() if key != "cursor")
            address = f"{self.server_hub.url}{urlsplit(self.path).path}?{query}&cursor={start + PAGE}"
            raise Answer(200, listed, Link=f'<{address}>; rel="next"')
        return listed

    def _entry(self, name: str, file: File) -> dict[str, Any]:
        size = len(file.content)
        entry = {"type": "file", "path": name, "oid": file.oid, "size": size}
        return entry | ({"lfs": {"oid": file.sha256, "size": size, "pointerSize": 134}} if file.lfs else {})

    @_route("POST", "/api/models/{repo}/paths-info/{revision}")
    def paths_info(self, repo: str, revision: str) -> Any:
        files, wanted = self._repository(repo).at(revision).files, self._json()["paths"]
        return [self._entry(name, files[name]) for name in wanted if name in files]

    @_route("GET", "/{repo}/resolve/{revision}/{path}")
    def resolve(self, repo: str, revision: str, path: str) -> Any:
        """A file in LFS lies in the store, and this answer has its hash and size; others lie on the Hub."""
        commit = self._repository(repo).at(revision)
        file = commit.files.get(path)
        if file is None:
            raise Answer(404, code="EntryNotFound", X_Repo_Commit=commit.sha)
        headers = {"X-Repo-Commit": commit.sha, "X-Linked-Size": str(len(file.content))}
        if file.lfs:
            headers |= {"X-Linked-ETag": f'"{file.sha256}"'}
            raise Answer(
                302, {}, Location=f"{self.server_hub.store_url}/store/{repo}/{file.sha256}?signature=secret", **headers
            )
        where = f"/api/resolve-cache/models/{repo}/{commit.sha}/{quote(path)}"
        raise Answer(307, {}, Location=where, X_Linked_ETag=f'"{file.oid}"', **headers)

    @_route("GET", "/api/resolve-cache/models/{repo}/{revision}/{path}")
    def resolved(self, repo: str, revision: str, path: str) -> Any:
        commit = self._repository(repo).at(revision)
        file = commit.files[path]
        raise Answer(200, file.content, ETag=f'"{file.oid}"', X_Repo_Commit=commit.sha)

    @_route("GET", "/store/{repo}/{oid}")
    def stored(self, repo: str, oid: str) -> Any:
        self._require_signature()
        raise Answer(200, self.server_hub.repositories[repo].lfs[oid], ETag=f'"{oid}"')
