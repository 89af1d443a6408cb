"""What a run saves is there whole or not at all; a full disk and a kill leave the last whole checkpoint."""

import json
import os
import shutil
import signal
from dataclasses import fields
from pathlib import Path

import pytest
from transformers import AutoModel

from aga_model.training import saving as saving_module
from aga_model.training.arguments import AgaTrainingArguments, parse_run_arguments
from aga_model.training.errors import TrainingStopped
from aga_model.training.run import fit, main, prepare
from aga_model.training.run_folder import last_complete_checkpoint
from aga_model.training.saving import SAVING, checkpoints, discard, discard_older, put_in_place, saving, sweep
from aga_model.training.trainer import AgaTrainer

resource = pytest.importorskip("resource", reason="a limit on the size of files stands for a full disk")


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Killed(BaseException):
    """Ends a function where SIGKILL would, with no clean-up by `except Exception`."""


@pytest.mark.parametrize("calls", [0, 1, 2, 3])
def test_a_kill_between_two_steps_leaves_old_new_or_nothing(tmp_path, monkeypatch, calls):
    """Never a mix; the second start removes what was left."""
    written, final = tmp_path / SAVING / "model", tmp_path / "model"
    for folder, text in ((written, "new"), (final, "old")):
        folder.mkdir(parents=True)
        for name in ("a", "b"):
            (folder / name).write_text(text)
    done = []

    def counted(function):
        def call(*args, **kwargs):
            if len(done) == calls:
                raise Killed
            done.append(function)
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(Path, "rename", counted(Path.rename))
    monkeypatch.setattr(shutil, "rmtree", counted(shutil.rmtree))
    with pytest.raises(Killed):
        put_in_place(written, final)
    monkeypatch.undo()
    found = {path.read_text() for path in final.iterdir()} if final.exists() else None
    assert found == ({"old"} if calls < 2 else None)
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == (["model"] if calls < 2 else [])


@pytest.mark.skipif(os.name == "nt", reason="folders cannot be opened there")
def test_all_of_a_folder_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    written, final = tmp_path / SAVING / "model", tmp_path / "model"
    (written / "code").mkdir(parents=True)
    for name in ("weights", "code/file"):
        (written / name).write_text("new")
    wanted = {path.stat().st_ino for path in (written, *written.rglob("*"))}
    done, rename = [], Path.rename

    def renamed(self, target):
        done.append("renamed")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", lambda descriptor: done.append(os.fstat(descriptor).st_ino))
    monkeypatch.setattr(Path, "rename", renamed)
    put_in_place(written, final)
    assert set(done[: done.index("renamed")]) == wanted
    assert done[done.index("renamed") + 1 :] == [tmp_path.stat().st_ino]


def test_a_folder_is_gone_before_its_files(tmp_path, monkeypatch):
    for name in ("optimizer.pt", "trainer_state.json"):
        (tmp_path / "checkpoint-4").mkdir(exist_ok=True)
        (tmp_path / "checkpoint-4" / name).write_text('{"global_step": 4}')
    monkeypatch.setattr(saving_module.shutil, "rmtree", lambda *args, **kwargs: None)
    discard(tmp_path / "checkpoint-4")
    assert last_complete_checkpoint(tmp_path) is None and not checkpoints(tmp_path)


@pytest.mark.parametrize(
    ("limit", "best", "kept"),
    [
        (None, None, [2, 4, 10, 12]),
        (0, None, [2, 4, 10, 12]),
        (2, None, [10, 12]),
        (2, 4, [4, 12]),
        (1, 2, [2, 12]),
        (1, 12, [12]),
        (3, 99, [4, 10, 12]),
        (9, 2, [2, 4, 10, 12]),
    ],
)
def test_the_newest_and_the_best_checkpoint_stay(tmp_path, limit, best, kept):
    for step in (12, 2, 10, 4):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-of-mine").mkdir()
    discard_older(tmp_path, limit, best)
    assert list(checkpoints(tmp_path)) == kept
    assert (tmp_path / "checkpoint-of-mine").is_dir()


def test_the_best_checkpoint_counts_among_those_that_are_kept():
    helps = {entry.name: entry.metadata.get("help") for entry in fields(AgaTrainingArguments)}
    assert "the best one among them" in helps["save_total_limit"]  # as (2, 4, [4, 12]) above


PARTS = ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]


@pytest.fixture
def two_checkpoints(tmp_path):
    for step in (2, 4):
        (tmp_path / f"checkpoint-{step}").mkdir()
        for name in PARTS:
            (tmp_path / f"checkpoint-{step}" / name).write_text(json.dumps({"global_step": step}))
    assert last_complete_checkpoint(tmp_path).name == "checkpoint-4"
    return tmp_path


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"global_step": 3}', "\ud800"])
def test_a_checkpoint_without_its_state_is_no_checkpoint(two_checkpoints, text):
    (two_checkpoints / "checkpoint-4" / "trainer_state.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert last_complete_checkpoint(two_checkpoints).name == "checkpoint-2"


@pytest.mark.parametrize("name", PARTS)
def test_a_checkpoint_without_a_part_is_no_checkpoint(two_checkpoints, name):
    (two_checkpoints / "checkpoint-4" / name).unlink()
    assert last_complete_checkpoint(two_checkpoints).name == "checkpoint-2"


def test_what_a_library_raises_becomes_one_line(tmp_path):
    (tmp_path / "checkpoint-4").mkdir()
    (tmp_path / SAVING).mkdir()
    with (
        pytest.raises(TrainingStopped, match=r"checkpoint-8: .*no\s+space.*checkpoint-4 is whole") as caught,
        saving(tmp_path / "checkpoint-8", tmp_path / SAVING),
    ):
        raise RuntimeError("no\nspace")
    assert "\n" not in str(caught.value) and not (tmp_path / SAVING).exists()


class _FullDisk:
    """Lets no file grow beyond a size, as a full disk does; the parts of a checkpoint fail one after the other."""

    def __init__(self, size: int):
        self.size = size

    def __enter__(self):
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
        self.handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.before[1]))

    def __exit__(self, *error):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)
        signal.signal(signal.SIGXFSZ, self.handler)


@pytest.fixture(scope="module")
def trainer(tiny_run_file):
    """After two steps and a checkpoint, with the momentum model, whose file is one more."""
    run = tiny_run_file.parent / "full"
    arguments = [str(tiny_run_file), "--output_dir", str(run), "--max_steps", "2", "--save_total_limit", "1"]
    return fit(prepare(*parse_run_arguments([*arguments, "--model_config.objective_config.momentum", "0.9"])))


def test_a_full_disk_at_any_file_leaves_the_last_checkpoint(trainer):
    folder = Path(trainer.args.output_dir)
    before = _contents(folder)
    sizes = {Path(name).name: len(content) for name, content in before.items() if name.startswith("checkpoint-2/")}
    assert {"model.safetensors", "optimizer.pt", "momentum_model.safetensors", "trainer_state.json"} <= sizes.keys()
    trainer.state.global_step = 4
    for size in [0, *(size - 1 for size in sorted(set(sizes.values())))]:
        expected = pytest.raises(TrainingStopped, match=r"checkpoint-4: could not be saved .*checkpoint-2 is whole")
        with expected, _FullDisk(size):
            trainer._save_checkpoint(trainer.model, None)
        assert _contents(folder) == before, f"files of at most {size} bytes"
        assert last_complete_checkpoint(folder).name == "checkpoint-2"
    trainer._save_checkpoint(trainer.model, None)  # the best one, of step 2, stays beside the newest
    assert list(checkpoints(folder)) == [2, 4]
    assert {path.name for path in (folder / "checkpoint-4").iterdir()} == sizes.keys()
    state = json.loads((folder / "checkpoint-4" / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(folder / "checkpoint-2")
    assert not list(folder.glob("_*"))


@pytest.fixture
def broken_rename(monkeypatch):
    def rename(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", rename)


def test_a_checkpoint_that_cannot_get_its_name_is_none(trainer, broken_rename):
    folder, trainer.state.global_step = Path(trainer.args.output_dir), 6
    with pytest.raises(TrainingStopped, match="No space left on device"):
        trainer._save_checkpoint(trainer.model, None)
    assert 6 not in checkpoints(folder) and not list(folder.glob(f"{SAVING}/*"))


def test_a_checkpoint_stays_when_older_ones_cannot_be_removed(trainer, monkeypatch):
    folder, trainer.state.global_step = Path(trainer.args.output_dir), 8
    with monkeypatch.context() as patch:
        patch.setattr("aga_model.training.trainer.discard_older", full)
        with pytest.raises(TrainingStopped, match="No space left") as caught:
            trainer._save_checkpoint(trainer.model, None)
    error = str(caught.value)
    assert f"{folder / 'checkpoint-8'} is saved, but what comes after" in error and "nothing of it" not in error
    assert last_complete_checkpoint(folder).name == "checkpoint-8"


def full(*args, **kwargs):
    raise OSError(28, "No space left on device")


def test_the_saved_model_is_never_a_part(tiny_run_file, tmp_path, capsys, monkeypatch):
    """The disk is full when the model card is written; the same command ends the run when there is space."""
    folder, command = tmp_path / "run", [str(tiny_run_file), "--output_dir", str(tmp_path / "run"), "--max_steps", "2"]

    with monkeypatch.context() as patch:
        patch.setattr("aga_model.training.run.write_model_card", full)
        assert main(command) == 1
    error = capsys.readouterr().err
    assert f"{folder / 'model'}: could not be saved" in error and "checkpoint-2 is whole" in error
    assert not (folder / "model").exists() and not (folder / "metrics.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(AgaTrainer, "save_state", full)
        assert main(command) == 1
    error = capsys.readouterr().err
    assert f"{folder / 'model'} is saved, but what comes after" in error and "nothing of it" not in error
    assert (folder / "model").is_dir() and not (folder / "metrics.json").exists()
    assert main(command) == 0
    assert (folder / "metrics.json").is_file() and not list(folder.glob("_*"))
    assert "# run" in (folder / "model" / "README.md").read_text()
    AutoModel.from_pretrained(folder / "model")


def test_a_kill_before_the_settings_are_written_hinders_no_start(tiny_run_file, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json.tmp").write_text('{"half')
    assert prepare(*parse_run_arguments([str(tiny_run_file), "--output_dir", str(folder)])).checkpoint is None
    assert json.loads((folder / "run.json").read_text())["processes"] == 1


def test_a_run_folder_that_was_moved_keeps_its_best_checkpoint(tiny_run_file, tmp_path):
    """The best checkpoint's path in a state is that of the old place. By a constant metric the first one is best."""
    command = [str(tiny_run_file), "--max_steps", "4", "--metric_for_best_model", "n_gallery", "--output_dir"]
    assert main([*command, str(tmp_path / "run")]) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["best_step"] == 2
    (tmp_path / "run").rename(tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved" / "checkpoint-4")
    (tmp_path / "moved" / "metrics.json").unlink()
    assert main([*command, str(tmp_path / "moved")]) == 0
    again = json.loads((tmp_path / "moved" / "metrics.json").read_text())
    assert {**again, "seconds_training": 0} == {**metrics, "seconds_training": 0}
    weights = [tmp_path / "moved" / name / "model.safetensors" for name in ("model", "checkpoint-2", "checkpoint-4")]
    assert weights[0].read_bytes() == weights[1].read_bytes() != weights[2].read_bytes()


@pytest.mark.parametrize("left", ["run.json.tmp", "run.json.4711.tmp", "wrong_pairs.json.12.tmp"])
def test_what_a_run_left_that_was_killed_as_it_began_is_no_other_content(tmp_path, left):
    from filelock import FileLock

    from aga_model.training.run_folder import LOCK_FILE, _lock_folder

    (tmp_path / left).touch()
    with FileLock(tmp_path / LOCK_FILE) as lock:
        _lock_folder(tmp_path, lock)
    (tmp_path / "notes.4711.tmp").touch()
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        _lock_folder(tmp_path, FileLock(tmp_path / LOCK_FILE))
