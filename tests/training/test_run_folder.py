"""Whether a start continues a run, from which checkpoint, and what it leaves as it was."""

import json

import pytest
from filelock import FileLock

from aga_model.training.run_folder import (
    LOCK_FILE,
    METRICS_FILE,
    NOISE_FILE,
    RUN_FILE,
    check_same_run,
    claim_run_folder,
    last_complete_checkpoint,
)
from aga_model.training.saving import sweep

PARTS = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")
RUN = {
    "start": "a/b",
    "model": {"projection_dim": 16},
    "data": {"dataset": "own", "flip": 0.5},
    "data_counts": {"train": {"images": 9}},
    "training": {"seed": 3, "learning_rate": 1e-3, "logging_steps": 5},
    "processes": 2,
}


def _checkpoint(folder, step, without=None):
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    for name in PARTS:
        if name != without:
            (path / name).touch()
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return path


def _claim(folder, run=RUN, noise=None):
    lock = FileLock(folder / LOCK_FILE)
    try:
        return claim_run_folder(folder, run, noise, lock)
    finally:
        lock.release()


class Noise:
    def to_json(self):
        return {"permuted": [[1, 2]]}


def test_the_newest_whole_checkpoint_continues_by_its_number(tmp_path):
    for step in (900, 1000, 80):
        _checkpoint(tmp_path, step)
    _checkpoint(tmp_path, 1100, without="optimizer.pt")
    assert last_complete_checkpoint(tmp_path).name == "checkpoint-1000"


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"start": "c/d"}, "start: 'a/b' -> 'c/d'"),
        ({"model": {"projection_dim": 32}}, "model.projection_dim: 16 -> 32"),
        ({"data": {"dataset": "own", "flip": 0.0}}, "data.flip: 0.5 -> 0.0"),
        ({"data_counts": {"train": {"images": 8}}}, "data_counts.train.images: 9 -> 8"),
        ({"training": {"seed": 4, "learning_rate": 1e-3}}, "training.seed: 3 -> 4"),
        ({"processes": 4}, "processes: 2 -> 4"),
    ],
)
def test_what_makes_another_run(changed, named):
    check_same_run(RUN, {**RUN, "training": {**RUN["training"], "logging_steps": 1, "an_argument_of_later": 1}})
    with pytest.raises(ValueError, match=named.replace(".", r"\.")):
        check_same_run(RUN, {**RUN, **changed})


def test_a_run_without_its_model_is_not_finished(tmp_path):
    assert _claim(tmp_path) == (None, None)
    (tmp_path / METRICS_FILE).write_text('{"rank1": 5.0}')
    assert _claim(tmp_path) == (None, None)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert _claim(tmp_path) == (None, {"rank1": 5.0})


def test_a_finished_run_keeps_the_record_of_how_it_was_made(tmp_path):
    """A later start has the versions of today; those of the training stay, with and without its checkpoints."""
    _claim(tmp_path, {**RUN, "versions": "of the training"})
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / METRICS_FILE).write_text("{}")
    _claim(tmp_path, {**RUN, "versions": "of today"})
    assert json.loads((tmp_path / RUN_FILE).read_text())["versions"] == "of the training"


def test_noise_is_that_of_the_beginning(tmp_path):
    clean, noisy = tmp_path / "clean", tmp_path / "noisy"
    _claim(clean)
    _claim(clean, noise=Noise())  # nothing was trained yet
    assert json.loads((clean / NOISE_FILE).read_text()) == {"permuted": [[1, 2]]}
    (clean / NOISE_FILE).unlink()
    _checkpoint(clean, 2)
    with pytest.raises(ValueError, match="other noise"):
        _claim(clean, noise=Noise())
    assert _claim(clean)[0].name == "checkpoint-2"
    _claim(noisy, noise=Noise())
    _checkpoint(noisy, 2)
    assert _claim(noisy, noise=Noise())[0].name == "checkpoint-2"
    with pytest.raises(ValueError, match="other noise"):
        _claim(noisy)


@pytest.mark.parametrize("beside", [(), (LOCK_FILE,), ("wrong_pairs.json", "run.json.tmp")])
def test_no_run_begins_among_other_files(tmp_path, beside):
    for name in (*beside, "thesis.tex"):
        (tmp_path / name).write_text("mine")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        _claim(tmp_path)
    assert sorted(tmp_path.iterdir()) == before


def test_two_processes_do_not_share_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("aga_model.training.run_folder._LOCK_SECONDS", 0)
    _claim(tmp_path)
    with (
        FileLock(tmp_path / LOCK_FILE).acquire(),
        pytest.raises(ValueError, match="another process is at work"),
    ):
        claim_run_folder(tmp_path, RUN, None, FileLock(tmp_path / LOCK_FILE))


def test_what_a_killed_process_left_goes_and_the_rest_stays(tmp_path):
    _claim(tmp_path)
    whole, mine = _checkpoint(tmp_path, 4), tmp_path / "notes"
    cut_off = tmp_path / "checkpoint-6"
    for folder in (tmp_path / "_saving" / "checkpoint-6", tmp_path / "_removed-checkpoint-2", cut_off, mine):
        folder.mkdir(parents=True)
        (folder / "file").touch()
    (tmp_path / "_saving-model").mkdir()
    (tmp_path / "nonfinite_batch.json").write_text("{}")
    assert _claim(tmp_path)[0] == whole
    assert {path.name for path in tmp_path.iterdir()} - {LOCK_FILE} == {"checkpoint-4", "notes", RUN_FILE}
    assert (mine / "file").is_file() and len(list(whole.iterdir())) == 5
    sweep(tmp_path)
    assert whole.is_dir()
