"""
The files of the repository that the documentation links to, as a part of the site: README, CONTRIBUTING and others as
pages, results as files. Links in the pages lead to them there, so that the site needs no address of the repository.
"""

import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).parents[2]
FOLDER = "repository"  # of the site
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
FIRST_SCREEN = "<!-- the README's first screen -->"
_CODE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?<=\]\()(?!\w+:)([^)\s#]*)((?:#[^)\s]*)?)(?=\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the repository, and whatever a page links to outside of docs."""
    waiting = list(PAGES)
    for page in files.documentation_pages():
        waiting += _linked(page.content_string, f"docs/{page.src_uri}")
    added: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in added or name.startswith("docs/"):
            continue
        added.add(name)
        file = REPOSITORY / name
        if not file.is_file():
            continue  # mkdocs warns of the link
        if file.suffix != ".md":
            files.append(File.generated(config, f"{FOLDER}/{name}", abs_src_path=str(file)))
            continue
        text = file.read_text(encoding="utf-8")
        if "{{" in text:  # a template is shown as it stands
            text = f"# {name}\n\n````markdown\n{text}\n````\n"
        else:
            waiting += _linked(text, name)
        files.append(File.generated(config, f"{FOLDER}/{name}", content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to where their files are in the site."""
    here = page.file.src_uri
    origin = here.removeprefix(f"{FOLDER}/") if here.startswith(f"{FOLDER}/") else f"docs/{here}"
    if FIRST_SCREEN in markdown:
        readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
        first = readme.partition("\n## ")[0].partition("\n")[2]  # without the title
        return _relinked(markdown, origin, here).replace(FIRST_SCREEN, _relinked(first, "README.md", here))
    return _relinked(markdown, origin, here)


def _relinked(markdown: str, origin: str, here: str) -> str:
    """A text of a file of the repository, with its links as those of a page of the site."""

    def moved(match: re.Match[str]) -> str:
        target = _resolved(match[1], origin) if match[1] else origin
        place = target.removeprefix("docs/") if target.startswith("docs/") else f"{FOLDER}/{target}"
        if place == here or not (REPOSITORY / target).is_file():
            return match[0]
        return os.path.relpath(place, PurePosixPath(here).parent) + match[2]

    parts = _CODE.split(markdown)
    codes = [*_CODE.findall(markdown), ""]
    return "".join(_LINK.sub(moved, part) + code for part, code in zip(parts, codes, strict=True))


def _linked(markdown: str, origin: str) -> list[str]:
    """The files of the repository that a text links to."""
    return [_resolved(target, origin) for target, _ in _LINK.findall(_CODE.sub("", markdown)) if target]


def _resolved(target: str, origin: str) -> str:
    return os.path.normpath(PurePosixPath(origin).parent / target)
