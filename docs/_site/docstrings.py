"""
Docstrings as the reference shows them, made from what stands in the code. Nothing is imported: griffe reads the files,
and the stubs of the rooms tell it which names are public.

- [`Name`] becomes a link where the name has a place in the reference, and plain code where it has none.
- A constant is described by the comment behind it or in the lines above it.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from griffe import Alias, AliasResolutionError, Attribute, Docstring, Extension, Module, Object

REFERENCE = Path(__file__).parents[1] / "reference"
_NAME = re.compile(r"\[`(~?)([A-Za-z_][\w.]*)`\](?![\[(])")
_SHOWN = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)


def shown_modules() -> list[str]:
    """The modules that the reference shows, in the order of their pages."""
    return [name for page in sorted(REFERENCE.glob("*.md")) for name in _SHOWN.findall(page.read_text("utf-8"))]


class Docstrings(Extension):
    """Rewrites the docstrings of the package when all of it is read."""

    def on_package(self, *, pkg: Module, **_: Any) -> None:
        """Find out what the reference shows, and let docstrings link to it."""
        for each in _all_objects(pkg):
            if isinstance(each, Attribute) and not each.docstring and (comment := _comment(each)):
                each.docstring = Docstring(comment, parent=each)
        public: dict[str, list[str]] = {}  # name, of a member with its class -> where it stands
        for module in shown_modules():
            room = pkg if module == pkg.path else pkg[module.removeprefix(f"{pkg.path}.")]
            for name, place in places(room):
                public.setdefault(name, []).append(place)
        for each in _all_objects(pkg):
            if each.docstring is not None:
                each.docstring.value = _linked(each.docstring.value, each, public)


def places(room: Module) -> Iterator[tuple[str, str]]:
    """What the reference shows of a room: names, and members of classes as `Class.member`, with their place."""
    for export in room.exports or [name for name, member in room.members.items() if member.is_public]:
        name = str(getattr(export, "name", export))
        target = _target(room.members.get(name))
        if target is None or target.docstring is None:
            continue
        yield name, f"{room.path}.{name}"
        for member, inner in target.members.items() if target.is_class else ():
            if not member.startswith("_") and not isinstance(inner, Alias) and inner.docstring is not None:
                yield f"{name}.{member}", f"{room.path}.{name}.{member}"


def _target(found: Object | Alias | None) -> Object | None:
    try:
        return found.final_target if isinstance(found, Alias) else found
    except AliasResolutionError:
        return None


def _all_objects(parent: Object) -> Iterator[Object]:
    yield parent
    for member in parent.members.values():
        if not isinstance(member, Alias):
            yield from _all_objects(member)


def _comment(attribute: Attribute) -> str:
    """The comment behind an assignment, or above it."""
    if attribute.lineno is None or not isinstance(attribute.filepath, Path) or attribute.name == "__all__":
        return ""  # __all__ is that of the stub
    lines = attribute.filepath.read_text("utf-8").splitlines()
    line = lines[(attribute.endlineno or attribute.lineno) - 1]
    if match := re.search(r"  # (.+)$", line):
        return _sentence(match[1])
    above: list[str] = []
    number = attribute.lineno - 2
    while number >= 0 and lines[number].startswith("# "):
        above.insert(0, lines[number].removeprefix("# "))
        number -= 1
    return _sentence(" ".join(above))


def _sentence(text: str) -> str:
    return text and f"{text[0].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"


def _linked(text: str, where: Object, public: dict[str, list[str]]) -> str:
    """A docstring with links to what the reference shows."""
    scopes = []
    scope: Object | None = where
    while scope is not None and not scope.is_module:
        scopes.append(scope.name)
        scope = scope.parent
    room = where.module.path

    def link(match: re.Match[str]) -> str:
        name = match[2]
        shown = name.rpartition(".")[2] if match[1] else name
        for candidate in [*(f"{scope}.{name}" for scope in scopes), name, name.removeprefix("aga_model.")]:
            if places := public.get(candidate):
                near = max(places, key=lambda place: _shared(place, room))
                return f"[`{shown}`][{near}]"
        return f"`{shown}`"

    return _NAME.sub(link, text)


def _shared(place: str, module: str) -> int:
    """How many packages two paths have in common."""
    count = 0
    for left, right in zip(place.split("."), module.split(".")):
        if left != right:
            break
        count += 1
    return count
