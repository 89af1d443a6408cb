"""Result files are there whole or not at all, and errors name them."""

import errno
import json
import os
from pathlib import Path

import pytest

from aga_model.files import whole_file, write_json
from aga_model.files.whole_files import UnwritableFileError


def write(path, content="new"):
    with whole_file(path) as file:
        file.write_text(content)


def test_a_file_takes_its_place_when_it_is_whole(tmp_path):
    path = tmp_path / "result.txt"
    path.write_text("old")
    path.chmod(0o640)
    with whole_file(path) as file:
        file.write_text("new")
        assert path.read_text() == "old" and file.parent == tmp_path
    assert path.read_text() == "new" and path.stat().st_mode & 0o777 == 0o640
    assert [each.name for each in tmp_path.iterdir()] == ["result.txt"]
    write_json(tmp_path / "values.json", {"b": 1, "a": "\udcff"})
    assert json.loads((tmp_path / "values.json").read_text()) == {"a": "\udcff", "b": 1}


@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("no"), OSError(errno.ENOSPC, "No space left")])
def test_what_was_there_stays_when_writing_fails(tmp_path, old, error):
    path = tmp_path / "result.txt"
    if old:
        path.write_text(old)
    with pytest.raises((type(error), UnwritableFileError)), whole_file(path) as file:
        file.write_text("half")
        raise error
    assert [each.read_text() for each in tmp_path.iterdir()] == ([old] if old else [])


def test_a_full_disk_that_shows_only_at_the_end(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UnwritableFileError, match=r"result\.txt cannot be written: the disk is full; make room"):
        write(tmp_path / "result.txt")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has it")
def test_a_device_is_written_to_and_stays_one(tmp_path, device):
    link = tmp_path / "result.txt"
    link.symlink_to(device("full"))
    with pytest.raises(UnwritableFileError, match=r"result\.txt cannot be written: the disk is full"):
        write(link)
    assert link.is_char_device() and list(tmp_path.iterdir()) == [link]
    link.unlink()
    link.symlink_to(device("null"))
    write(link)
    assert link.is_char_device()


def test_a_link_stays_and_its_file_is_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "result.txt", tmp_path / "link.txt"
    link.symlink_to(target)
    for content in ("first", "second"):
        write(link, content)
        assert link.is_symlink() and target.read_text() == content
    assert len(list(tmp_path.rglob("*.t*"))) == 2


def test_places_that_cannot_be_written_are_named(tmp_path, monkeypatch):
    def reason(path, error=None):
        with pytest.raises(UnwritableFileError) as caught, whole_file(path) as file:
            if error is not None:
                raise OSError(error, os.strerror(error))
            file.write_text("x")
        assert str(caught.value).startswith(f"{path} cannot be written: ")
        return str(caught.value).removeprefix(f"{path} cannot be written: ")

    missing = tmp_path / "missing" / "result.txt"
    assert reason(missing) == f"there is no folder {missing.parent}; make it, or give another one"
    (tmp_path / "file").write_text("")
    assert reason(tmp_path / "file" / "result.txt").startswith(f"there is no folder {tmp_path / 'file'}")
    assert reason(tmp_path) == "it is a folder; give the name of a file"
    assert reason(tmp_path / ("x" * 300)) == "its name is too long; give a shorter one"
    write(tmp_path / ("x" * 255))  # the longest that file systems take
    for error in (errno.EACCES, errno.EROFS, errno.EPERM):
        assert reason(tmp_path / "a", error).startswith(f"the folder {tmp_path} is write-protected; give another file")
    assert reason(tmp_path / "a", errno.EIO) == os.strerror(errno.EIO)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "protected")
    (tmp_path / "protected").write_text("mine")
    assert reason(tmp_path / "protected").startswith("it is write-protected")
    assert (tmp_path / "protected").read_text() == "mine"
