"""
Get what the common tests of transformers need beside this project's environment: the tests themselves, from the source
distribution of the installed version, and the packages of `requirements.txt`.

`make test-transformers` runs this; what is there already is not fetched again.
"""

import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def tests_folder() -> Path:
    """Where the tests of the installed transformers are unpacked."""
    return REPOSITORY / "build" / f"transformers-{version('transformers')}" / "tests"


def pip(*arguments: str, wanted: str) -> None:
    """Run pip; exit with what is missing when it fails."""
    if subprocess.run([sys.executable, "-m", "pip", *arguments]).returncode:
        sys.exit(
            f"make test-transformers needs {wanted}, which pip could not get (its message is above). Run it where pip "
            "reaches a package index; after that it works without one."
        )


def fetch_packages() -> None:
    """Install `requirements.txt`; needs no network where they are installed."""
    here = Path(__file__).parent
    arguments = ["install", "--quiet", "--constraint", str(REPOSITORY / "constraints.txt")]
    pip(*arguments, "--requirement", str(here / "requirements.txt"), wanted="the packages of requirements.txt")


def fetch_tests() -> None:
    """Unpack the folder `tests` of the source distribution."""
    folder = tests_folder()
    # Written last, so that it marks a complete folder. transformers' repository has it, its distribution does not.
    package = folder / "__init__.py"
    if package.exists():
        return
    name = f"transformers=={version('transformers')}"
    with tempfile.TemporaryDirectory() as downloads:
        arguments = ["download", "--quiet", "--no-deps", "--no-binary", "transformers", "--dest", downloads]
        pip(*arguments, name, wanted=f"the source distribution of {name}, which holds its common tests")
        with tarfile.open(next(Path(downloads).glob("transformers-*.tar.gz"))) as archive:
            prefix = f"{folder.parent.name}/tests/"
            members = [member for member in archive if member.name.startswith(prefix)]
            archive.extractall(folder.parents[1], members=members, filter="data")
    package.touch()


if __name__ == "__main__":
    fetch_packages()
    fetch_tests()
