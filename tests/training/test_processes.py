"""What several processes settle together, seen from one of them, and that they part in order."""

import gc
import socket
import weakref
from types import SimpleNamespace

import pytest
import torch
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from aga_model.training import run as training_run
from aga_model.training.arguments import parse_run_arguments
from aga_model.training.parallel import processes
from aga_model.training.parallel.processes import from_main, leave_group, require_shared
from aga_model.training.run import main, prepare


def _never():
    raise AssertionError("only the main process does the work")


@pytest.fixture
def second_process(monkeypatch):
    """Makes this process one that is told what the main process found."""

    def told(outcome):
        def broadcast(values):
            values[:] = outcome

        monkeypatch.setattr(processes, "PartialState", lambda: SimpleNamespace(is_main_process=False))
        monkeypatch.setattr(processes, "broadcast_object_list", broadcast)

    return told


def test_the_main_process_finds_out_for_all(second_process):
    assert from_main(lambda: 3) == 3
    second_process([5, None])
    assert from_main(_never) == 5


def test_what_fails_in_the_main_process_fails_in_all(second_process, monkeypatch):
    sent = []
    monkeypatch.setattr(processes, "broadcast_object_list", lambda values: sent.append(list(values)))
    with pytest.raises(FileNotFoundError, match="no such data"):
        from_main(lambda: (_ for _ in ()).throw(FileNotFoundError("no such data")))
    second_process(sent[0])
    with pytest.raises(ValueError, match="no such data"):
        from_main(_never)


def test_a_file_that_a_machine_does_not_see_is_an_error_in_all_processes(tmp_path, monkeypatch):
    file = tmp_path / "run.json"
    monkeypatch.setattr(processes, "_DISK_SECONDS", 0)
    with pytest.raises(ValueError, match=f"{socket.gethostname()} cannot see run.json"):
        require_shared(file)
    file.touch()
    require_shared(file)
    monkeypatch.setattr(processes, "gather_object", lambda mine: [*mine, "second", "second"])
    with pytest.raises(ValueError, match=r": second cannot see run\.json.* on a disk that all machines share"):
        require_shared(file)


def test_a_disk_may_take_a_while_to_show_a_new_file(tmp_path, monkeypatch):
    file = tmp_path / "run.json"
    monkeypatch.setattr(processes.time, "sleep", lambda seconds: file.touch())
    require_shared(file)


def test_a_machine_with_a_run_folder_of_its_own_is_refused(tiny_run_file, tmp_path, monkeypatch):
    """Told by the main process that the run goes on, it decodes no image and looks for the run's folder."""
    told = iter([False, (None, None)])
    monkeypatch.setattr(training_run, "from_main", lambda work: next(told))
    monkeypatch.setattr(training_run, "_unreadable_images", _never)
    monkeypatch.setattr(processes, "_DISK_SECONDS", 0)
    with pytest.raises(ValueError, match="on a disk that all machines share"):
        prepare(*parse_run_arguments([str(tiny_run_file), "--output_dir", str(tmp_path / "run")]))
    assert not (tmp_path / "run").exists() and next(told, None) is None


@pytest.fixture
def group(tmp_path):
    """A process group of one process over gloo."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def test_a_group_is_left_when_nothing_holds_it_any_more(group):
    wrapped = DistributedDataParallel(torch.nn.Linear(2, 2))
    wrapped.trainer = {"model": wrapped}  # as a trainer and its model refer to each other
    wrapped(torch.ones(1, 2)).sum().backward()
    alive = weakref.ref(wrapped)
    gc.disable()
    try:
        del wrapped
        assert alive() is not None
        leave_group()
        assert alive() is None and not dist.is_initialized()
    finally:
        gc.enable()
    leave_group()


def test_a_run_leaves_the_group_whatever_its_end(group, tmp_path, capsys):
    assert main([str(tmp_path / "none.yaml")]) == 2
    assert "no run file" in capsys.readouterr().err and not dist.is_initialized()
