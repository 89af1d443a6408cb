"""
What an installation of this package brings: each dependency of setup.cfg with its size on disk.

The sizes are those of the packages that are installed beside this Python, so run it where every extra is installed
(`make install`). A dependency adds what those above it in its list do not bring, itself included: nothing where one of
them needs it anyway. An extra's list comes on top of the installation without extras. Prints tables and writes
benchmarks/results/install_size.json.
"""

import configparser
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.machine import device
from benchmarks.places import RESULTS, ROOT
from benchmarks.reports import write_result
from benchmarks.runner import bench_parser

OUT = RESULTS / "install_size.json"
BASE = "base"


def requirements(setup: Path = ROOT / "setup.cfg") -> dict[str, list[str]]:
    """What setup.cfg asks for: `base` and each extra but those for developers -> its requirements."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(setup, encoding="utf-8")
    lists = {BASE: config["options"]["install_requires"], **config["options.extras_require"]}
    return {name: lines.split("\n")[1:] for name, lines in lists.items() if name not in ("dev", "docs")}


def closure(wanted: Iterable[str]) -> dict[str, Distribution]:
    """
    The installed packages that requirements bring, by their canonical names.

    Raises:
        PackageNotFoundError: one of them is not installed.
    """
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(line) for line in wanted]
    while waiting:
        requirement = waiting.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        found[name] = distribution(requirement.name)
        for line in found[name].requires or []:
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in {"", *extras}):
                waiting.append(needed)
    return found


def mebibytes(package: Distribution) -> float:
    """Size on disk of a package's files, in MiB."""
    paths = (Path(str(package.locate_file(file))) for file in package.files or [])
    return sum(path.stat().st_size for path in paths if path.is_file()) / 2**20


def measure(wanted: dict[str, list[str]]) -> dict[str, Any]:
    """The sizes of every list, and of what each requirement in it adds to the ones before."""
    base = closure(wanted[BASE])
    tables: dict[str, Any] = {}
    for name, lines in wanted.items():
        there = set() if name == BASE else set(base)
        rows = {}
        for line in lines:
            added = {key: package for key, package in closure([line]).items() if key not in there}
            there |= added.keys()
            package = Requirement(line).name
            rows[package] = {
                "mib": round(sum(map(mebibytes, added.values()))),
                "brings": sorted(added.keys() - {canonicalize_name(package)}),
            }
        tables[name] = {"mib": sum(row["mib"] for row in rows.values()), "requirements": rows}
    return tables


def main(arguments: Sequence[str] | None = None) -> None:
    parser = bench_parser(__name__, __doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    tables = measure(requirements())
    for name, table in tables.items():
        title = "without extras" if name == BASE else f"the extra {name} adds"
        print(f"\n{title}: {table['mib']:,} MiB\n")
        print("| package | adds MiB | and brings |\n| --- | ---: | --- |")
        for package, row in table["requirements"].items():
            print(f"| `{package}` | {row['mib']:,} | {', '.join(row['brings'])} |")
    system = {"system": f"{platform.system()} {platform.machine()}"}
    write_result(options.out, {}, ("torch",), device(**system), tables=tables)
