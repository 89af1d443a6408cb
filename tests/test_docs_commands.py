"""
Every command and every piece of Python on these pages is run as it stands there, from top to bottom, in a folder that
holds what they speak of. A block after `<!-- not run: REASON -->` is left out.
"""

import re
import shlex
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from aga_model.cli import index as index_module
from aga_model.cli.main import app
from aga_model.retrieval import Detection, Gallery

REPOSITORY = Path(__file__).parents[1]
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^>]*)-->\n)?```(?P<language>bash|python)\n(?P<code>.*?)```", re.DOTALL
)
WRITTEN_BY = ("--save", "--explain", "--out")

pytest.importorskip("lancedb", reason="the extra `search` is not installed")
cv2 = pytest.importorskip("cv2", reason="the extra `search` is not installed")


def blocks(text):
    """(language, code) of the blocks of a page that are run."""
    found = []
    for match in BLOCK.finditer(text):
        if match["reason"] is None:
            found.append((match["language"], match["code"]))
        else:
            assert len(match["reason"].split()) > 2, f"no reason why this is not run: {match['code']}"
    return found


def commands(code):
    """The commands of a bash block as lists of words."""
    for line in code.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def run(code):
    """Run a bash block that holds commands of `aga`, and see that each wrote what it was told to."""
    for words in commands(code):
        assert words[0] == "aga", f"not a command that is run here, say why above its block: {shlex.join(words)}"
        result = CliRunner().invoke(app, words[1:])
        assert result.exit_code == 0, f"{shlex.join(words)}\n{result.output}"
        for option, value in pairwise(words):
            assert option not in WRITTEN_BY or Path(value).exists(), f"{shlex.join(words)} wrote no {value}"


class TwoPeople:
    """The left and the right half of every frame are people: HOG finds none in drawings."""

    def detect(self, images):
        halves = [(0.0, 0.0, 64.0, 128.0), (64.0, 0.0, 128.0, 128.0)]
        return [[Detection(box, 0.9) for box in halves] for _ in images]


def noise(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (128, 128, 3), dtype=np.uint8))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with a model, an image, a video, photographs and a file of sentences."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(index_module, "load_detector", lambda name, device: TwoPeople())
    Path("checkpoints").symlink_to(REPOSITORY / "checkpoints", target_is_directory=True)
    noise(0).crop((0, 0, 64, 128)).save("someone.jpg")
    Path("snapshots").mkdir()
    noise(1).save("snapshots/square.jpg")
    writer = cv2.VideoWriter("hall.avi", cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (128, 128))
    for seed in range(11):
        writer.write(cv2.cvtColor(np.asarray(noise(seed)), cv2.COLOR_RGB2BGR))
    writer.release()
    Path("sentences.txt").write_text("a man in a red jacket\na woman with a blue umbrella\n")
    return tmp_path


@pytest.mark.slow
def test_search(place):
    names: dict = {}
    page = blocks((REPOSITORY / "docs" / "search.md").read_text())
    assert [language for language, _ in page].count("bash") > 8
    for language, code in page:
        if language == "bash":
            run(code)
        else:
            exec(compile(code, "docs/search.md", "exec"), names)
    rows = list(Gallery.open("my_gallery").rows())
    assert {row.camera for row in rows} == {"cam_a", "cam_b", "cam_c", "cam_d"}  # without hall, which was deleted
    persons = {row.person_id for row in rows}
    assert len(persons) == 11 and "00003" not in persons
    assert {row.path for row in Gallery.open("scenes_gallery").rows()} == {""}
    assert {Path(row.path).parent.name for row in Gallery.open("two_cameras").rows()} == {"cam_a", "cam_b"}
    assert Image.open("best.png").size[0] > 0 and len(names["hits"]) > 0 and Path("my_gallery/skipped.json").exists()


def test_the_four_lines_of_the_readme_and_explain(place):
    result = CliRunner().invoke(
        app, ["index", "someone.jpg", "snapshots", "--model", "checkpoints/aga-small-rendered", "--out", "my_gallery"]
    )
    assert result.exit_code == 0, result.output
    readme = (REPOSITORY / "README.md").read_text()
    code = next(code for language, code in blocks(readme) if language == "python")
    assert len([line for line in code.splitlines() if line]) <= 5 and readme.index(code) < 1500
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert [hit.rank for hit in names["hits"]] == [1, 2]
    exec(compile(blocks((REPOSITORY / "docs" / "explain.md").read_text())[0][1], "docs/explain.md", "exec"), {})
    assert Image.open("explanation.png").width > 100


def test_what_is_not_run_has_a_reason_and_other_commands_fail():
    assert blocks("<!-- not run: needs a server -->\n```bash\nrm x\n```\n```bash\naga a \\\n  b # c\n```") == [
        ("bash", "aga a \\\n  b # c\n")
    ]
    assert list(commands("aga a \\\n  'b c' # d\n\n# e\naga f\n")) == [["aga", "a", "b c"], ["aga", "f"]]
    with pytest.raises(AssertionError, match="no reason"):
        blocks("<!-- not run: -->\n```bash\nrm x\n```")
    with pytest.raises(AssertionError, match="not a command that is run here"):
        run("rm x\n")
    with pytest.raises(AssertionError, match="aga nothing"):
        run("aga nothing\n")
