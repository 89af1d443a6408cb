"""
Every command and every piece of Python in README and docs is run as it stands there, page by page from top to bottom,
in a folder that holds what they speak of, in small. What stands after `<!-- not run: REASON -->` is held against the
parsers of its programs instead; so are inline commands, those in the comments of configs/, in the Makefile, and what
`aga report` advises. Links lead somewhere.
"""

import json
import os
import re
import shlex
import subprocess
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from document_commands import (
    UnknownCommand,
    anchors,
    blocks,
    check,
    check_links,
    check_python,
    commands,
    every_option,
    inline_code,
    inline_commands,
)
from PIL import Image
from typer.testing import CliRunner

from aga_model import AgaObjectiveConfig
from aga_model.cli.galleries import index as index_module
from aga_model.cli.main import app
from aga_model.cli.models.report import NEXT_STEPS
from aga_model.data.rendered import render_dataset
from aga_model.defaults import SERVICE_TOKEN_VARIABLE
from aga_model.evaluation import rank_gallery
from aga_model.gallery import Gallery
from aga_model.ingest import Detection
from aga_model.search import PersonEncoder
from aga_model.service import GallerySearch
from aga_model.service.rest import Service, listen, make_server
from aga_model.training.run import main as train

REPOSITORY = Path(__file__).parents[1]
MODEL = "checkpoints/aga-small-rendered"
PAGES = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", f"{MODEL}/README.md")),
    *sorted((REPOSITORY / "docs").glob("*.md")),
]
RUN = {
    page
    for page in PAGES
    if any(block.reason is None and block.language in ("bash", "python") for block in blocks(page.read_text()))
}
WRITTEN_BY = ("--save", "--explain", "--out", "--output_dir", "--json")
# Options that make a command small, put behind its own.
SMALL = {
    "train_hf.py": "--max_steps 2 --warmup_steps 1 --eval_steps 2 --save_steps 2 --logging_steps 1 "
    "--per_device_train_batch_size 8 --per_device_eval_batch_size 32",
    "render": "--identities 12 --test-identities 3 --processes 1",
}
SERVICE = "http://127.0.0.1:8000"  # which pages write for a service of the reader's
# What the pages write for a model or a data set of the reader's.
OF_THE_READER = {"A": MODEL, "B": MODEL, "DATA": "data/rendered"}

pytest.importorskip("lancedb", reason="the extra `search` is not installed")
cv2 = pytest.importorskip("cv2", reason="the extra `search` is not installed")


def _name(page):
    return page.relative_to(REPOSITORY).as_posix()


# --- what is run --------------------------------------------------------------------------------------------------


def run(words):
    """Run a command of `aga` or train_hf.py in small, and see that it wrote what it was told to."""
    shown = shlex.join(words)
    words = [OF_THE_READER.get(word, word) for word in words]
    if words[0] == "curl":
        request = ["curl", "--silent", "--fail", *map(os.path.expandvars, words[1:])]
        assert subprocess.run(request, capture_output=True, check=True).stdout, shown
        return
    if words[0] == "pip":
        return  # it is installed
    if words[:2] == ["python", "train_hf.py"]:
        assert train([*words[2:], *SMALL["train_hf.py"].split()]) == 0, shown
    else:
        assert words[0] == "aga", f"not a command that is run here, say why above its block: {shown}"
        result = CliRunner().invoke(app, [*words[1:], *SMALL.get(words[1], "").split()])
        assert result.exit_code == 0, f"{shown}\n{result.output}"
    for option, value in pairwise(words):
        if option in WRITTEN_BY and not value.startswith("-"):
            assert Path(value).exists(), f"{shown} wrote no {value}"


@contextmanager
def served(gallery):
    """`aga serve` on a free port, with a token; its address."""
    token = "choose-16-or-more-characters"
    opened = Gallery.open(gallery)
    search = GallerySearch(opened, PersonEncoder.from_pretrained(opened.model_name))
    server, listening = make_server(Service(search), token), listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    with mock.patch.dict(os.environ, {SERVICE_TOKEN_VARIABLE: token}):
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


class TwoPeople:
    """The left and the right half of every frame are people: HOG finds none in drawings."""

    def detect(self, images):
        halves = [(0.0, 0.0, 64.0, 128.0), (64.0, 0.0, 128.0, 128.0)]
        return [[Detection(box, 0.9) for box in halves] for _ in images]


def noise(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (128, 128, 3), dtype=np.uint8))


def write_video(path):
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (128, 128))
    for seed in range(11):
        writer.write(cv2.cvtColor(np.asarray(noise(seed)), cv2.COLOR_RGB2BGR))
    writer.release()


def write_own_images(rendered, folder):
    """The images of a rendered set as somebody's own, with names for the persons and metadata.jsonl."""
    records = json.loads((rendered / "reid_raw.json").read_text())
    folder.mkdir()
    (folder / "imgs").symlink_to(rendered / "imgs", target_is_directory=True)
    lines = [
        {"file_name": f"imgs/{r['file_path']}", "person_id": f"p{r['id']}", "captions": r["captions"]}
        | {"split": r["split"]}
        for r in records
    ]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with what the pages speak of: the repository's files, a model, data sets, images, a video."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(index_module, "load_detector", lambda name, device: TwoPeople())
    for name in ("aga_model", "checkpoints", "configs"):
        Path(name).symlink_to(REPOSITORY / name, target_is_directory=True)
    rendered = tmp_path / "data" / "rendered"  # as docs/data.md draws it
    render_dataset(rendered, 12, 0, test_identities=3, processes=1)
    Path("data/CUHK-PEDES").symlink_to(rendered, target_is_directory=True)
    write_own_images(rendered, tmp_path / "my_images")
    noise(0).crop((0, 0, 64, 128)).save("someone.jpg")
    Path("snapshots").mkdir()
    noise(1).save("snapshots/square.jpg")
    write_video("hall.avi")
    Path("sentences.txt").write_text("a man in a red jacket\na woman with a blue umbrella\n")
    return tmp_path


def trained(name):
    """A finished run, whose model is the small one."""
    Path("runs", name).mkdir(parents=True)
    Path("runs", name, "model").symlink_to(REPOSITORY / MODEL, target_is_directory=True)


def measured_embeddings():
    """What docs/evaluation.md takes as given: embeddings of captions and images, and their persons."""
    encoder = PersonEncoder.from_pretrained(MODEL)
    captions, images = ["a man in a red jacket", "a woman in a blue coat", "a boy", "a girl"], [noise(2), noise(3)]
    texts, vectors = encoder.encode_texts(captions), encoder.encode_images(images)
    persons, pixels = np.array([1, 2, 1, 2]), encoder.preprocess(images)
    return {
        "captions": captions,
        "text_embeds": texts,
        "image_embeds": vectors,
        "caption_person_ids": persons,
        "image_person_ids": persons[:2],
        "load_pixels": lambda rows: pixels[list(rows)],
        "other": rank_gallery(texts[::-1].copy(), vectors, persons, persons[:2]),
    }


def after_readme(names):
    assert len(names["hits"]) == 10 and names["text"].shape == (1, names["model"].config.projection_dim)
    metrics = json.loads(Path("runs/mine/metrics.json").read_text())
    assert metrics["n_queries"] > 0 and (Path("runs/mine/model") / "model.safetensors").is_file()
    assert {row.camera for row in Gallery.open("two_cameras").rows()} == {"entrance"}


def after_search(names):
    rows = list(Gallery.open("my_gallery").rows())
    assert {row.camera for row in rows} == {"cam_a", "cam_b", "cam_c", "cam_d"}  # without hall, which was deleted
    persons = {row.person_id for row in rows}
    assert len(persons) == 10 and not {"00003", "00005"} & persons
    assert [json.loads(line)["action"] for line in Path("audit.jsonl").read_text().splitlines()] == [
        "search",
        "export",
        "delete",
        "settings",
        "search",
        "settings",
    ]
    assert {row.path for row in Gallery.open("scenes_gallery").rows()} == {""}
    assert {Path(row.path).parent.name for row in Gallery.open("two_cameras").rows()} == {"cam_a", "cam_b"}
    assert Image.open("best.png").size[0] > 0 and len(names["hits"]) > 0 and Path("my_gallery/skipped.json").exists()


def after_data(names):
    assert names["record"].errors and names["record"].permuted
    assert set(names["splits"]) == {"train", "val", "test"}


def after_evaluation(names):
    assert names["log_odds"].shape == names["ranking"].top_indices.shape


def after_service(names):
    assert len(names["answer"]["hits"]) == 5 and {hit["camera"] for hit in names["answer"]["hits"]} <= {
        "cam_a",
        "cam_b",
    }
    assert [len(answer["hits"]) for answer in names["answers"]] == [3, 3] and len(names["similar"]["hits"]) == 3
    assert Image.open("best.jpg").format == "JPEG" and Image.open("why.png").format == "PNG"


def after_explain(names):
    assert Image.open("explanation.png").width > 100


# page -> what is there before it, the names that its Python is given, what is looked at afterwards
PREPARED = {"docs/data.md": ["mine"], "docs/evaluation.md": ["quickstart"]}
GIVEN = {"docs/evaluation.md": measured_embeddings, f"{MODEL}/README.md": lambda: {"crops": [noise(2), noise(3)]}}
AFTER = {
    "README.md": after_readme,
    "docs/search.md": after_search,
    "docs/data.md": after_data,
    "docs/evaluation.md": after_evaluation,
    "docs/explain.md": after_explain,
    "docs/service.md": after_service,
}


@pytest.mark.parametrize("page", sorted(RUN), ids=_name)
def test_a_page_runs_from_top_to_bottom(page, place):
    for name in PREPARED.get(_name(page), ()):
        trained(name)
    names = GIVEN.get(_name(page), dict)()
    with ExitStack() as services:
        address = None
        for block in blocks(page.read_text()):
            if block.reason is not None:
                continue
            if SERVICE in block.code and address is None:
                address = services.enter_context(served("my_gallery"))
            code = block.code.replace(SERVICE, address or SERVICE)
            if block.language == "bash":
                for words in commands(code):
                    run(words)
            elif block.language == "python":
                exec(compile(code, _name(page), "exec"), names)
    AFTER.get(_name(page), lambda _: None)(names)


def test_the_pages_that_newcomers_follow_are_run():
    wanted = {
        "README.md",
        "docs/search.md",
        "docs/data.md",
        "docs/evaluation.md",
        "docs/explain.md",
        "docs/service.md",
    }
    assert {_name(page) for page in RUN} >= wanted
    first = [block for block in blocks((REPOSITORY / "README.md").read_text()) if block.reason is None]
    assert [block.language for block in first[:3]] == ["bash", "python", "python"]
    search, four_lines = first[0].code, [line for line in first[1].code.splitlines() if line]
    programs = [words[:2] for words in commands(search)]
    assert programs == [["pip", "install"], ["aga", "render"], ["aga", "index"], ["aga", "search"]]
    assert len(four_lines) == 6 and four_lines[1].startswith("from aga_model")  # two imports and four lines
    assert any("train_hf.py" in block.code and "--dataset own" in block.code for block in first)


def test_the_readme_begins_with_what_it_does_one_picture_and_four_lines():
    text = (REPOSITORY / "README.md").read_text()
    first = text.partition("\n## ")[0]
    (picture,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", first)
    assert first.index(picture) < first.index("```bash") < len(first) and len(first.split()) < 180
    assert (REPOSITORY / picture).stat().st_size < 150_000 and Image.open(REPOSITORY / picture).width > 600
    assert "drawings" in first


# --- what is held against the parsers -----------------------------------------------------------------------------


@pytest.fixture
def in_repository(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_command_of_a_page_is_one_that_its_program_takes(page, in_repository):
    text = page.read_text()
    for block in blocks(text):
        if block.language == "bash":
            for words in commands(block.code):
                check(words)
        elif block.language == "python":
            check_python(block.code)
    for words in inline_commands(text):
        check(words, short=True)


def test_every_option_that_a_page_names_is_one_of_a_program(in_repository):
    known = every_option()
    named = [(_name(page), code) for page in PAGES for code in inline_code(page.read_text()) if code.startswith("--")]
    assert len(named) > 100
    for page, code in named:
        assert code.split()[0].partition("=")[0] in known, f"{page}: {code}"


def test_the_commands_in_the_comments_of_recipes(in_repository):
    silent = set()
    for path in sorted((REPOSITORY / "configs").rglob("*.yaml")):
        lines = re.findall(r"^#.*?((?:aga|accelerate launch) .*train_hf.*|#   aga .*)$", path.read_text(), re.M)
        for line in lines:
            check(shlex.split(line.lstrip("# ")))
        silent |= set() if lines else {path.stem}
    assert silent == {"base_contrastive", "base_fusion", "quickstart"}  # which the Makefile runs


def test_the_commands_of_the_makefile_and_of_the_reports_advice(in_repository):
    text = (REPOSITORY / "Makefile").read_text()
    values = dict(re.findall(r"^(\w+) \??:?= ?(.*)$", text, re.MULTILINE))
    recipes = re.findall(r"^\t\$\(BIN\)/(.*)$", text.replace("\\\n", " "), re.MULTILINE)
    for line in recipes:
        for name, value in values.items():
            line = line.replace(f"$({name})", value)
        if line.startswith(("aga", "python train_hf.py", "python -m benchmarks")):
            check(shlex.split(line))
    assert any(line.startswith("aga report") for line in recipes)
    for words in commands(NEXT_STEPS.format(gallery="gallery")):
        check(words)


def test_what_programs_do_not_take_is_found(in_repository):
    wrong = {
        "aga serch gallery x": "no command serch",
        "aga search gallery x --topk 3": "No such option",
        "aga gallery delete --person me": "Missing argument",
        "aga gallery delete g --who me": "No such option",
        "python train_hf.py configs/quickstart.yaml --steps_at_most 3": "not used by the HfArgumentParser",
        "python train_hf.py configs/nothing.yaml": "no run file",
        "python train_hf.py RUN.yaml --model_config.objective_config.mask_stratgy random": "mask_stratgy",
        "python -m benchmarks speed --devices cuda": "unrecognized arguments",
        "python -m benchmarks sped": "did you mean 'speed'",
        "python nothing.py": "no file",
        "accelerate launch --config_file configs/accelerate/none.yaml train_hf.py RUN.yaml": "no file",
        "accelerate launch --number 2 train_hf.py RUN.yaml": "--number",
        "accelerate launch train_hf.py RUN.yaml --steps_at_most 3": "not used by the HfArgumentParser",
        "torchrun --nproc-per-node 2 -m aga_model indx a": "no command indx",
        "make nothing": "no such target",
        "pip install '.[serch]'": "not in setup.cfg",
        "hf repos nothing": "no command nothing",
        "curl http://127.0.0.1:8000/health": "the token is missing",
        "curl --header 'Authorization: Bearer $AGA_TOKEN' http://127.0.0.1:8000/docs": "no such route",
        "curl --header 'Authorization: Bearer $AGA_TOKEN' http://127.0.0.1:8000/v1/search --json '{}'": "query",
        "docker compose run --rm nothing index a": "invalid choice",
        "docker compose run --rm service indx a": "no command indx",
        "export AGA_TOKN=a": "nothing reads AGA_TOKN",
        "rm x": "no program",
    }
    for command, message in wrong.items():
        try:
            check(shlex.split(command))
        except UnknownCommand as error:
            assert message in str(error), command
        else:
            raise AssertionError(f"it is taken: {command}")
    with pytest.raises(UnknownCommand, match="no option --topk"):
        check(["aga", "search", "...", "--topk", "3"], short=True)
    with pytest.raises(UnknownCommand, match="has no Galery"):
        check_python("from aga_model.gallery import Galery\n")


def test_blocks_are_read():
    found = blocks("<!-- not run: a server -->\n```bash\nrm x\n```\n\n```python\nx = 1\n```\n```json\n{}\n```\n")
    assert [(block.language, block.code, block.reason) for block in found] == [
        ("bash", "rm x\n", "a server"),
        ("python", "x = 1\n", None),
        ("json", "{}\n", None),
    ]
    assert commands("aga a \\\n  'b c' # d\n\n# e\naga f\n") == [["aga", "a", "b c"], ["aga", "f"]]
    assert inline_commands("`aga a\n--b` and `c`\n```bash\n`aga d`\n```\n") == [["aga", "a", "--b"]]
    for text, message in (
        ("<!-- not run: -->\n```bash\nrm x\n```\n", "no reason"),
        ("<!-- not run: tests/no_such.py runs it -->\n```bash\nrm x\n```\n", "is not there"),
        ("```\naga search x\n```\n", "not marked as bash"),
        ("```bash\naga x\n", "not closed"),
    ):
        with pytest.raises(AssertionError, match=message):
            blocks(text)
    with pytest.raises(AssertionError, match="say why above its block"):
        run(["rm", "x"])


# --- links and settings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_and_named_files_are_there(page):
    check_links(page)


def test_broken_links_are_found(tmp_path):
    assert anchors("# A (b) c-d\n## `x`: y\n") == {"a-b-c-d", "x-y"}
    for number, text in enumerate(["[a](none.md)", "[a](#none)", "`configs/none.yaml`"]):
        page = tmp_path / f"{number}.md"
        page.write_text(f"# Title\n{text}\n")
        with pytest.raises(AssertionError, match=f"{number}.md: no"):
            check_links(page)


def test_every_page_and_every_recipe_can_be_found_from_the_readme():
    text = (REPOSITORY / "README.md").read_text()
    missing = [page.name for page in (REPOSITORY / "docs").glob("*.md") if f"](docs/{page.name}" not in text]
    assert not missing
    for path in (REPOSITORY / "configs").glob("*.yaml"):
        family, _, data = path.stem.rpartition("_")
        shortened = re.search(rf"`configs/{family}_\w+\.yaml`[^|]*`_{data}`", text)
        assert path.name in text or shortened or family == "base", f"README.md does not name {path.name}"


def test_methods_md_names_every_setting_of_the_objective():
    text = (REPOSITORY / "docs" / "methods.md").read_text()
    own = {field.name for field in fields(AgaObjectiveConfig)} - {
        field.name
        for cls in AgaObjectiveConfig.__mro__[1:]
        if hasattr(cls, "__dataclass_fields__")
        for field in fields(cls)
    }
    assert "mask_ratio" in own
    assert [name for name in sorted(own) if f"`{name}" not in text] == []
