"""Two processes fill one gallery as one process does."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import free_port
from PIL import Image
from videos import numbered_video

from aga_model.gallery import Gallery
from aga_model.ingest import ShardError, Shards
from aga_model.ingest import shards as shards_module
from aga_model.ingest.shards import _content, _Launched, own_share

pytest.importorskip("lancedb", reason="the extra `search` is not installed")

pytestmark = pytest.mark.timeout(180)  # processes that may wait for each other

REPOSITORY = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("shards_worker.py")
TOLERANCE = 1e-6  # of embeddings: the batches are other ones, and a matrix product rounds by position


@pytest.fixture(scope="module")
def run(python, tmp_path_factory):
    """Exit codes, outputs and errors of `count` processes."""

    def launch(count, *arguments, writes=512, dying=None):
        folder, port, processes = tmp_path_factory.mktemp("said"), free_port(), []
        for rank in range(count):
            environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
            if count > 1:
                own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
                environment |= {name: str(value) for name, value in own.items()} | {"MASTER_ADDR": "127.0.0.1"}
            command = [python, WORKER, writes, 2 if rank == dying else 0, *arguments]
            with (folder / f"{rank}.out").open("w") as output, (folder / f"{rank}.err").open("w") as errors:
                started = subprocess.Popen(list(map(str, command)), env=environment, stdout=output, stderr=errors)
            processes.append(started)
        return [
            (process.wait(), (folder / f"{rank}.out").read_text(), (folder / f"{rank}.err").read_text())
            for rank, process in enumerate(processes)
        ]

    return launch


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """23 images, copies of some of them that other processes come across, a broken file and two videos."""
    folder = tmp_path_factory.mktemp("sharded") / "people"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(23):
        pixels = generator.integers(0, 256, (40, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    for copy, original in (("04b.png", "07.png"), ("05b.png", "04.png"), ("30.png", "00.png")):
        shutil.copy(folder / original, folder / copy)
    (folder / "31.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    numbered_video(folder / "hall.avi", 20)
    numbered_video(folder / "yard.avi", 12)
    shutil.copy(folder / "hall.avi", folder / "zcopy.avi")
    return folder


def held(gallery):
    """(id -> row, id -> embedding); of a row all is kept but where its crop lies."""
    opened = Gallery.open(gallery)
    rows = [row.to_dict() for row in opened.rows()]
    embeddings = {row_id: one for ids, some in opened.embeddings() for row_id, one in zip(ids, some)}
    assert len(rows) == len(embeddings) == len({row["id"] for row in rows})
    for row in rows:
        assert Path(row["path"]).is_file()
        row["path"] = Path(row["path"]).name
    return {row["id"]: row for row in rows}, embeddings


def assert_same(first, second):
    assert first[0] == second[0]
    for row_id, embedding in first[1].items():
        np.testing.assert_allclose(second[1][row_id], embedding, atol=TOLERANCE, rtol=0)


@pytest.fixture(scope="module")
def single(run, people, model_folder, tmp_path_factory):
    """What one process makes of them, what it says, and where."""
    out = tmp_path_factory.mktemp("single") / "gallery"
    [(code, output, errors)] = run(1, "index", people, "--model", model_folder, "--out", out)
    assert code == 0, errors
    return held(out), output, out


def summary(output):
    """What is said without times, and without the gallery's folder."""
    return re.sub(r"[\d.]+ (s|images/s)\b|gallery \S+:", "", output)


def test_two_processes_make_the_gallery_of_one_in_place_of_another(run, people, model_folder, single, tmp_path):
    out = shutil.copytree(single[2], tmp_path / "gallery")
    old = out / "crops" / ("0" * 16) / "photograph_0_0_9_9.jpg"
    old.parent.mkdir()
    old.touch()
    arguments = ("index", people, "--model", model_folder, "--out", out, "--batch-size", 4, "--overwrite")
    (code, output, errors), other = run(2, *arguments, writes=5)
    assert (code, other[0]) == (0, 0), errors + other[2]
    assert_same(held(out), single[0])
    assert not old.parent.exists()
    assert other[1] == "" and "it/s" not in other[2] and "image/s" not in other[2]
    assert summary(output) == summary(single[1]) and "23 images indexed (23 new, 0 changed)" in output
    assert "3 copies" in output and "skipped" in output and "31.jpg" in output
    assert re.search(r"indexing: 100%.* 27/27 ", errors), errors  # the bar of all
    assert [item["path"] for item in json.loads((out / "skipped.json").read_text())] == [str(people / "31.jpg")]


def test_a_killed_process_ends_the_others_and_the_next_run_goes_on(run, people, model_folder, single, tmp_path):
    out = tmp_path / "gallery"
    arguments = ("index", people, "--model", model_folder, "--out", out, "--batch-size", 2)
    main, killed = run(2, *arguments, writes=2, dying=1)
    assert killed[0] == -9 and main[0] == 2
    [line] = [line for line in main[2].splitlines() if line.startswith("error:")]
    assert "another process ended before its work was done" in line and "Traceback" not in main[2]
    rows, _ = held(out)
    assert rows.items() <= single[0][0].items() and 4 <= len(rows) < len(single[0][0])
    (code, output, errors), other = run(2, *arguments, writes=5)
    assert (code, other[0]) == (0, 0), errors + other[2]
    assert f"{len(rows)} unchanged" in output
    assert_same(held(out), single[0])


def test_what_fails_in_all_is_said_once_and_leaves_nothing(run, people, model_folder, tmp_path):
    out = tmp_path / "gallery"
    for arguments, message in (
        (("index", tmp_path / "nowhere", "--model", model_folder), "does not exist"),
        (("index", people / "31.jpg", "--model", model_folder), "none of the 1 image files could be read"),
    ):
        ended = run(2, *arguments, "--out", out)
        assert [code for code, _, _ in ended] == [2, 2], ended
        errors = [line for _, _, text in ended for line in text.splitlines() if "error" in line]
        assert len(errors) == 1 and message in errors[0] and ended[1][2] == "" and not out.exists()


def test_accelerate_launches_it(python, people, model_folder, tmp_path):
    pytest.importorskip("accelerate", reason="the extra `train` is not installed")
    out = tmp_path / "gallery"
    images = [path for path in sorted(people.glob("*.png")) if path.name < "08"]
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--main_process_port", str(free_port()), "-m", "aga_model"]
    command = [*launcher, "index", *images, "--model", model_folder, "--out", out, "--device", "cpu"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([python, *map(str, command)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("8 images indexed (8 new, 0 changed), 0 unchanged, 2 copies") == 1
    assert Gallery.open(out).count() == 8


class Rank(Shards):
    """A process whose others are asked for their values here."""

    def __init__(self, rank, parts):
        self.rank, self.count, self._parts = rank, len(parts), parts

    def gather(self, value):
        assert value == self._parts[self.rank]
        return self._parts


def test_shares_are_disjoint_complete_and_keep_copies_together(people):
    paths = sorted(people.glob("*.png"))
    for count in (1, 2, 3, 30):
        parts = [[_content(path) for path in paths[rank::count]] for rank in range(count)]
        shares = [own_share(paths, Rank(rank, parts)) for rank in range(count)]
        assert sorted(path for share in shares for path in share) == paths
        assert all(share == sorted(share) for share in shares)
        for copy, original in (("04b.png", "07.png"), ("05b.png", "04.png"), ("30.png", "00.png")):
            assert any({people / copy, people / original} <= set(share) for share in shares)
        if count == 2:
            assert all(abs(len(share) - len(paths) / 2) <= 3 for share in shares)


class GoneStore:
    """The common store, after the process that kept it has ended."""

    def add(self, key, value):
        raise torch.distributed.DistNetworkError("connection reset")


def test_the_process_that_keeps_the_store_has_gone():
    process = object.__new__(_Launched)
    process._store, process._shared = GoneStore(), 0
    with pytest.raises(ShardError, match="another process ended"), process.first("model"):
        pass
    with pytest.raises(ShardError, match="another process ended"), process.shared(None):
        pass


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    process = object.__new__(_Launched)
    process._local_rank = 1
    for there, names in ((True, ["cuda:1", "cuda:1", "cuda:0", "cpu"]), (False, [None, "cuda", "cuda:0", "cpu"])):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert [process.device(name) for name in (None, "cuda", "cuda:0", "cpu")] == names


def test_a_process_alone_starts_no_group():
    for environment in ({}, {"WORLD_SIZE": "1", "RANK": "0"}, {"WORLD_SIZE": "2", "RANK": "1"}):
        shards = Shards.from_environment(environment)
        assert (type(shards), shards.rank, shards.count, shards.name) == (Shards, 0, 1, "")
    assert not torch.distributed.is_initialized()


# --- one process, whose others are played ---


class Store:
    """The common store of the processes."""

    def __init__(self):
        self.numbers, self.values, self.waited = {}, {}, []

    def add(self, key, value):
        self.numbers[key] = self.numbers.get(key, 0) + value
        return self.numbers[key]

    def set(self, key, value):
        self.values[key] = value

    def wait(self, keys, timeout):
        self.waited += keys


def launched(rank, count, gathered=()):
    """A process of a group; what all of them gather, or what this one does where that is None."""
    process = object.__new__(_Launched)
    process.rank, process.count, process._store = rank, count, Store()
    answers = iter(gathered)
    process.gather = lambda value: [value if each is None else each for each in next(answers)]
    return process


def test_only_who_comes_first_makes_it_and_the_others_wait():
    first, second = launched(1, 2), launched(0, 2)
    second._store = first._store
    with first.first("gallery") as is_first:
        assert is_first and first._store.values == {}
    assert first._store.values.keys() == {"gallery/done"} and first._store.waited == []
    with second.first("gallery") as is_first:
        assert not is_first and first._store.waited == ["gallery/done"]
    with second.first("model") as is_first:
        assert is_first


def test_what_fails_in_one_process_fails_in_all_and_says_where():
    process = launched(0, 3, [[None, None, ("process 3 of 3 on host", "disk full")]])
    with pytest.raises(ShardError, match=r"^process 3 of 3 on host: disk full$"), process.together():
        pass
    process = launched(0, 2, [[None, ("process 2 of 2 on host", "no such folder")]])
    with pytest.raises(ShardError, match=r"^no such folder$"), process.together():  # in all: said without a name
        raise ValueError("no such folder")
    process = launched(0, 2, [[None, ("process 2 of 2 on host", "disk full")]])
    with pytest.raises(ShardError, match=r"^process 1 of 2 on .*: no such folder$"), process.together():
        raise ValueError("no such folder")
    with launched(1, 2, [[None, None]]).together():
        pass


def test_what_the_main_process_makes_is_everyones():
    made = []
    process = launched(1, 2, [[None, None], ["of main", None]])
    assert process.of_main(lambda: made.append(1)) == "of main" and made == []
    process = launched(0, 2, [[None, None], [None, None]])
    assert process.of_main(lambda: "own") == "own"


class Bar:
    def __init__(self):
        self.shown = 0

    def update(self, n):
        self.shown += n


def test_the_bar_shows_what_all_have_done(monkeypatch):
    store, bar = Store(), Bar()
    main, other = shards_module._Told(store, "images", bar), shards_module._Told(store, "images", None)
    for told, done, shown in ((main, 3, 3), (other, 5, 3), (main, 0, 8), (main, 2, 10), (other, 4, 10), (main, 0, 14)):
        told._last = -1e9
        told.update(done)
        assert bar.shown == shown
    main.update(1)  # so soon after the last that nothing is told yet
    assert bar.shown == 14
    main.tell()
    assert bar.shown == 15 and store.numbers == {"progress/images": 15}


def test_a_process_of_several_is_told_its_place_on_its_machine(monkeypatch):
    monkeypatch.setattr(shards_module, "_Launched", lambda local_rank: local_rank)
    place = {"MASTER_ADDR": "h", "MASTER_PORT": "1", "WORLD_SIZE": "8", "RANK": "5", "LOCAL_RANK": "1"}
    assert Shards.from_environment(place) == 1
    assert type(Shards.from_environment({name: place[name] for name in place if name != "MASTER_PORT"})) is Shards
