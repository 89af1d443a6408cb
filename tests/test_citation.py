"""CITATION.cff and .pre-commit-config.yaml: they are valid, and agree with the package and its pinned tools."""

import re
from pathlib import Path

import yaml

from aga_model.version import __version__

REPOSITORY = Path(__file__).parents[1]
CITATION = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
HOOKS = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
# Of version 1.2.0 of the Citation File Format.
REQUIRED = {"authors", "cff-version", "message", "title"}
ALLOWED = REQUIRED | {
    *("abstract", "commit", "contact", "date-released", "doi", "identifiers", "keywords", "license", "license-url"),
    *("preferred-citation", "references", "repository", "repository-artifact", "repository-code", "type", "url"),
    "version",
}


def test_the_citation_has_the_keys_of_its_format():
    assert CITATION["cff-version"] == "1.2.0" and set(CITATION) >= REQUIRED and set(CITATION) <= ALLOWED
    for cited in (CITATION, *CITATION["references"]):
        assert cited["type"] in ("software", "article") and cited["title"] and cited["authors"]
        for author in cited["authors"]:
            assert set(author) in ({"name"}, {"family-names", "given-names"})


def test_the_citation_names_this_version_and_the_papers_of_the_readme():
    setup = (REPOSITORY / "setup.cfg").read_text(encoding="utf-8")
    assert str(CITATION["version"]) == __version__ and f"license = {CITATION['license']}\n" in setup
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    papers = {reference["url"] for reference in CITATION["references"]}
    assert papers == set(re.findall(r"https://arxiv\.org/abs/[\d.]+", readme))
    for reference in CITATION["references"]:
        (identifier,) = reference["identifiers"]
        assert identifier["value"].removeprefix("arXiv:") == reference["url"].rpartition("/")[2]


def test_hooks_are_pinned_and_ruff_is_the_version_of_the_tests():
    assert set(HOOKS) == {"repos"}
    hooks, revisions = {}, {}
    for repository in HOOKS["repos"]:
        assert set(repository) == ({"repo", "hooks"} if repository["repo"] == "local" else {"repo", "rev", "hooks"})
        if "rev" in repository:
            assert re.fullmatch(r"v\d+\.\d+\.\d+", repository["rev"])
            revisions[repository["repo"].rpartition("/")[2]] = repository["rev"].removeprefix("v")
        hooks |= {hook["id"]: hook for hook in repository["hooks"]}
    assert set(hooks) >= {"ruff-check", "ruff-format", "mypy", "end-of-file-fixer", "check-added-large-files"}
    assert f"ruff=={revisions['ruff-pre-commit']}\n" in (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")
    assert {"id", "name", "entry", "language"} <= set(hooks["mypy"])  # of a local hook
    for hook in hooks.values():
        re.compile(hook.get("exclude", ""))
