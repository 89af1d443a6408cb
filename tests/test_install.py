"""The package as others install it: what the wheel holds, what it needs and why, and how long it takes to import."""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import venv
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from typer.testing import CliRunner

from aga_model.cli import main as main_module
from aga_model.cli.main import app
from aga_model.cli.messages import EXTRAS
from aga_model.version import __version__
from benchmarks.speed.install_size import BASE, OUT, closure, requirements

REPOSITORY = Path(__file__).parents[1]
MODEL = REPOSITORY / "checkpoints" / "aga-small-rendered"
PAGE = (REPOSITORY / "docs" / "install.md").read_text(encoding="utf-8")
BUILT_FROM = ("aga_model", "tests", "benchmarks", "configs", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
IMPORT_LIMIT = 0.3  # seconds of CPU time
# Of the lists of setup.cfg, those that the package itself asks for something of.
USED = {name: lines for name, lines in requirements().items() if name != "docs"}

# --- the wheel ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel that `python -m build` makes, by way of the source distribution, from a copy: builds leave files."""
    pytest.importorskip("build")
    source = tmp_path_factory.mktemp("source")
    for name in BUILT_FROM:
        if (REPOSITORY / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "fixtures", "results")
            shutil.copytree(REPOSITORY / name, source / name, ignore=ignored)
        else:
            shutil.copy(REPOSITORY / name, source / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(source / "dist"), str(source)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    (built,) = (source / "dist").glob("*.whl")
    return built


def _metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"aga_model-{__version__}.dist-info/METADATA").decode()
    return HeaderParser().parsestr(text)


@pytest.mark.nightly
def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entry_points = archive.read(f"aga_model-{__version__}.dist-info/entry_points.txt").decode()
    files = {path for path in (REPOSITORY / "aga_model").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    wanted = {path.relative_to(REPOSITORY).as_posix() for path in files}
    assert {
        "aga_model/evaluation/report.html.j2",
        "aga_model/training/release/model_card.md",
        "aga_model/handler.py",
    } < wanted
    about = f"aga_model-{__version__}.dist-info/"
    assert {name for name in names if not name.startswith(about)} == wanted
    assert f"{about}licenses/LICENSE" in names and "aga = aga_model.cli.main:app" in entry_points
    metadata = _metadata(wheel)
    assert metadata["Version"] == __version__ and metadata["Requires-Python"] == ">=3.11"
    assert set(metadata.get_all("Provides-Extra")) >= set(requirements()) - {BASE}


def _environment(folder, lines):
    """A virtual environment that sees the packages that `lines` bring, as links, and no other; returns its Python."""
    venv.create(folder, symlinks=os.name != "nt")
    links = folder / "dependencies"
    links.mkdir()
    for package in closure(lines).values():
        for top in {file.parts[0] for file in package.files} - {"..", "__pycache__"}:
            if not (links / top).exists():
                (links / top).symlink_to(Path(package.locate_file(top)).resolve())
    python = folder / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    run = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    Path(run.stdout.strip(), "dependencies.pth").write_text(f"{links}\n")
    return python


@pytest.mark.nightly
@pytest.mark.timeout(1800)  # it starts three Pythons that import torch, on a machine that may be busy
def test_the_wheel_works_where_no_extra_is_installed(wheel, tmp_path):
    lines = [line for line in _metadata(wheel).get_all("Requires-Dist") if "extra ==" not in line]
    assert {Requirement(line).name for line in lines} == {Requirement(line).name for line in requirements()[BASE]}
    python = _environment(tmp_path / "venv", lines)
    install = ["-m", "pip", "--quiet", "--python", str(python), "install", "--no-index", "--no-deps", str(wheel)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HF_"))}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "COLUMNS": "200"}
    subprocess.run([sys.executable, *install], check=True, capture_output=True, env=environment)
    place = tmp_path / "place"
    place.mkdir()
    road = [str(python), str(REPOSITORY / "tests" / "base_install.py"), str(MODEL)]
    for command in ([str(python.with_name("aga")), "--help"], road):
        run = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    assert "works without extras" in run.stdout and str(tmp_path / "venv") in run.stdout


# --- what it needs ------------------------------------------------------------------------------------------------

# Where a package is imported by another name than its own.
MODULES = {"PyYAML": "yaml", "opencv-python-headless": "cv2"}


def _rows(name):
    """package -> (MiB, why) of a table of docs/install.md, which stands below a heading that names the list."""
    sections = re.findall(r"^### `?([\w ]+)`?\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    section = dict(sections)["Without extras" if name == BASE else name]
    rows = re.findall(r"^\| `([\w.-]+)` \| ([\d,]+) \| (.+) \|$", section, re.MULTILINE)
    return {package: (int(mib.replace(",", "")), why) for package, mib, why in rows}


@pytest.mark.parametrize("name", USED)
def test_install_md_says_of_every_dependency_why(name):
    rows = _rows(name)
    assert list(rows) == [Requirement(line).name for line in USED[name]]
    assert all(len(why.split()) > 3 for _, why in rows.values())
    measured = json.loads(OUT.read_text())["tables"][name]["requirements"]
    assert {package: mib for package, (mib, _) in rows.items()} == {
        package: row["mib"] for package, row in measured.items()
    }


def test_every_library_of_an_extra_is_known_to_the_command_line():
    brought_by = {}
    for name, lines in USED.items():
        for line in lines if name != BASE else ():
            package = Requirement(line).name
            brought_by.setdefault(MODULES.get(package, package), set()).add(name)
    assert EXTRAS.keys() == brought_by.keys()
    assert all(extra in brought_by[library] for library, extra in EXTRAS.items())


@pytest.mark.parametrize(
    "error, shown",
    [
        (
            ModuleNotFoundError("No module named 'datasets'", name="datasets"),
            "error: this needs datasets: pip install",
        ),
        (ModuleNotFoundError("pip install 'aga-model[search]'", name="cv2"), "error: pip install 'aga-model[search]'"),
    ],
)
def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch, error, shown):
    def missing(*_):
        raise error

    monkeypatch.setattr(main_module.TyperGroup, "invoke", missing)
    result = CliRunner().invoke(app, ["render", "x"])
    assert result.exit_code == 2 and shown in result.output


def test_a_module_of_no_extra_that_is_missing_is_a_fault(monkeypatch):
    def missing(*_):
        raise ModuleNotFoundError("No module named 'aga_model.nothing'", name="aga_model.nothing")

    monkeypatch.setattr(main_module.TyperGroup, "invoke", missing)
    assert isinstance(CliRunner().invoke(app, ["render", "x"]).exception, ModuleNotFoundError)


# --- how long it takes --------------------------------------------------------------------------------------------

# What torch and transformers load for it comes first; then forks of that process import the package, each for the
# first time.
IMPORTS = """
import os, resource, sys, time
import torch, transformers
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoProcessor, PreTrainedModel
from transformers.models.bert import modeling_bert
from transformers.models.clip import image_processing_pil_clip, modeling_clip, tokenization_clip
before = set(sys.modules)
for _ in range(7):
    read, write = os.pipe()
    if os.fork() == 0:
        start = time.process_time()
        import aga_model
        took = time.process_time() - start
        others = {name.partition(".")[0] for name in set(sys.modules) - before} - {"aga_model"}
        os.write(write, f"{took} {' '.join(sorted(others))}".encode())
        os._exit(0)
    os.wait()
    print(os.read(read, 4096).decode())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_the_import_takes_little_beside_that_of_torch_and_transformers():
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    run = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    measured = [line.split() for line in run.stdout.splitlines()]
    assert len(measured) == 7
    assert statistics.median(float(seconds) for seconds, *_ in measured) < IMPORT_LIMIT, run.stdout
    loaded = {name for _, *names in measured for name in names}
    known = {"transformers", "lazy_loader", *sys.stdlib_module_names}
    assert loaded <= known, "it loads a library that nothing else had loaded"
