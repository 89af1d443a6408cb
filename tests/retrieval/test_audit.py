"""The audit log: its chain against changes of every kind, several writers, killed writers, and what it keeps."""

import hashlib
import hmac
import json
import multiprocessing
import os
import threading
from datetime import UTC, datetime

import pytest

from aga_model.gallery import AuditError, AuditLog, Filter, Head, verify
from aga_model.gallery import audit as audit_module
from aga_model.gallery.audit import BEGINNING

LINES = 6


def write_log(path, lines=LINES):
    log = AuditLog(path)
    for number in range(1, lines + 1):
        log.append("search", "people", "anna", "case 7", number, query={"sentence": f"a man in coat {number}"})
    return path


@pytest.fixture
def log(tmp_path):
    return write_log(tmp_path / "audit.jsonl")


def lines_of(path):
    return path.read_bytes().splitlines()


def put(path, lines):
    path.write_bytes(b"".join(line + b"\n" for line in lines))


def chained(lines):
    """The lines with a chain that holds, as somebody makes them who knows the format but leaves the head alone."""
    previous, result = BEGINNING, []
    for number, line in enumerate(lines, start=1):
        values = json.loads(line) | {"number": number, "previous": previous}
        result.append(json.dumps(values, sort_keys=True, separators=(",", ":")).encode())
        previous = hashlib.sha256(result[-1]).hexdigest()
    return result


# --- what stands in it --------------------------------------------------------------------------------------------


def test_each_line_says_who_what_why_and_holds_the_hash_of_the_one_before(tmp_path):
    log = AuditLog(tmp_path / "audit.jsonl")
    before = datetime.now(UTC)
    where = Filter(cameras=["hall"], since=0.0, person_ids=["00003"], sources=["/videos/anna_at_home.avi"])
    log.append("search", "people", "anna", "case 7", 4, {"sentence": "a man"}, where)
    log.append("export", "people", "anna", None, 4, files=["/tmp/result.html"])
    last = log.append("delete", "people", "bob", "request", 2, where=where)
    lines = lines_of(log.path)
    entries = [json.loads(line) for line in lines]
    assert [entry["previous"] for entry in entries] == [
        "0" * 64,
        *(hashlib.sha256(line).hexdigest() for line in lines[:2]),
    ]
    assert [entry["number"] for entry in entries] == [1, 2, 3]
    assert last == Head(3, hashlib.sha256(lines[2]).hexdigest()) == verify(log.path).head
    assert [(entry["action"], entry["actor"], entry["purpose"], entry["results"]) for entry in entries] == [
        ("search", "anna", "case 7", 4),
        ("export", "anna", None, 4),
        ("delete", "bob", "request", 2),
    ]
    assert entries[0]["query"] == {"sentence": "a man"} and entries[1]["files"] == ["/tmp/result.html"]
    assert before <= datetime.fromisoformat(entries[0]["time"]) <= datetime.now(UTC)
    assert entries[0]["filters"]["cameras"] == ["hall"]
    assert entries[0]["filters"]["since"] == "1970-01-01T00:00:00+00:00"


def test_a_deleted_persons_id_and_files_do_not_stand_in_it_but_can_be_proved(tmp_path):
    log = AuditLog(tmp_path / "audit.jsonl")
    where = Filter(person_ids=["person-4711"], sources=["/videos/anna_at_home.avi"], paths=["/crops/anna.jpg"])
    log.append("search", "people", "bob", None, 2, where=where)
    log.append("delete", "people", "bob", None, 2, where=where)
    everything = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"4711" not in everything and b"anna" not in everything
    first, second = (json.loads(line) for line in lines_of(log.path))
    key = bytes.fromhex(first["key"])
    assert len(key) == 32 and "key" not in second
    for entry in (first, second):
        for name, value in (
            ("person_ids", "person-4711"), ("sources", "/videos/anna_at_home.avi"), ("paths", "/crops/anna.jpg")
        ):  # fmt: skip
            assert entry["filters"][f"{name}_hmac"] == [hmac.new(key, value.encode(), "sha256").hexdigest()]
    other = write_log(tmp_path / "other.jsonl", 1)
    assert json.loads(lines_of(other)[0])["key"] != first["key"]


def test_any_text_is_one_line(tmp_path):
    log = AuditLog(tmp_path / "audit.jsonl")
    sentence = 'a "man"\nin\r\na coat \u2028 \udce9 照片 \x00 }'
    log.append("search", "g", "a", "p", 1, {"sentence": sentence})
    long = "x" * 100_000
    log.append("search", "g", "a", "p", 1, {"sentence": long})
    log.append("search", "g", "a", "p", 1, {"image_sha256": "0" * 64})
    entries = [json.loads(line) for line in lines_of(log.path)]
    assert entries[0]["query"]["sentence"] == sentence
    cut = {"sentence": "x" * audit_module.MAX_SENTENCE, "sentence_sha256": hashlib.sha256(long.encode()).hexdigest()}
    assert entries[1]["query"] == cut
    assert verify(log.path).ok and len(entries) == 3


def test_only_the_owner_can_read_it_and_the_group_where_the_folder_is_the_groups(tmp_path):
    for folder_mode, wanted in ((0o755, 0o600), (0o770, 0o660), (0o777, 0o660)):
        folder = tmp_path / f"{folder_mode:o}"
        folder.mkdir()
        folder.chmod(folder_mode)
        umask = os.umask(0)
        try:
            write_log(folder / "audit.jsonl", 2)
        finally:
            os.umask(umask)
        assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {wanted}


# --- the chain ----------------------------------------------------------------------------------------------------


def test_an_untouched_log_is_whole(log):
    report = verify(log)
    assert report.ok and report.notes == ()
    assert report.head == Head(LINES, hashlib.sha256(lines_of(log)[-1]).hexdigest())


@pytest.mark.parametrize("number", range(1, LINES + 1))
def test_a_changed_line_is_found(log, number):
    lines = lines_of(log)
    lines[number - 1] = lines[number - 1].replace(b'"anna"', b'"carl"')
    put(log, lines)
    report = verify(log)
    assert not report.ok and report.broken_at == number and "changed" in report.reason


@pytest.mark.parametrize("number", range(1, LINES + 1))
@pytest.mark.parametrize("many", [1, 2])
def test_removed_lines_are_found(log, number, many):
    lines = lines_of(log)
    del lines[number - 1 : number - 1 + many]
    put(log, lines)
    report = verify(log)
    assert not report.ok and report.broken_at == number and "missing" in report.reason


@pytest.mark.parametrize("place", range(LINES + 1))
def test_an_added_line_is_found_whether_its_own_hash_is_right_or_not(log, place):
    lines = lines_of(log)
    copy = lines[2]
    previous = hashlib.sha256(lines[place - 1]).hexdigest() if place else BEGINNING
    forged = json.dumps(json.loads(copy) | {"number": place + 1, "previous": previous}, sort_keys=True).encode()
    for added in (copy, forged, b"", b"not a line"):
        put(log, [*lines[:place], added, *lines[place:]])
        report = verify(log)
        assert not report.ok and place <= report.broken_at <= place + 2, (added, report)
    put(log, lines)
    assert verify(log).ok


@pytest.mark.parametrize("first", range(LINES - 1))
def test_lines_in_another_order_are_found(log, first):
    lines = lines_of(log)
    lines[first], lines[first + 1] = lines[first + 1], lines[first]
    put(log, lines)
    report = verify(log)
    assert not report.ok and report.broken_at == first + 1


@pytest.mark.parametrize("cut", [1, 2, 30, 150])
def test_a_cut_off_end_is_found(log, cut):
    log.write_bytes(log.read_bytes()[:-cut])
    report = verify(log)
    assert report.ok if cut == 1 else report.broken_at == LINES  # the line break alone holds nothing


def test_a_log_that_is_emptied_or_gone_is_found(log):
    log.write_bytes(b"")
    assert verify(log).broken_at == 1
    log.unlink()
    assert verify(log).broken_at == 1
    with pytest.raises(AuditError, match=r"no audit log .*nothing\.jsonl"):
        verify(log.with_name("nothing.jsonl"))


def test_a_whole_new_history_is_found_by_the_head(log):
    put(log, chained(lines_of(log)[1:]))
    assert not verify(log).ok
    put(log, chained([lines_of(log)[0].replace(b"anna", b"carl"), *lines_of(log)[1:]]))
    assert not verify(log).ok


def test_a_missing_or_damaged_head_is_no_whole_log(log):
    head = log.with_name("audit.jsonl.head")
    for damaged in (None, b"", b"{}", b'{"announced":null,"written":"x"}', b"[]"):
        head.unlink() if damaged is None else head.write_bytes(damaged)
        report = verify(log)
        assert not report.ok and report.broken_at == LINES + 1 and "head file" in report.reason


def test_a_head_that_was_noted_elsewhere_proves_what_the_files_cannot(log):
    noted = verify(log).head
    write_log(log, 3)
    assert verify(log, noted).ok
    lines = chained([lines_of(log)[0].replace(b"anna", b"carl"), *lines_of(log)[1:]])
    put(log, lines)  # and its head
    end = Head(len(lines), hashlib.sha256(lines[-1]).hexdigest())
    log.with_name("audit.jsonl.head").write_text(json.dumps({"written": str(end), "announced": None}))
    assert verify(log).ok  # whoever can write everything can write history
    assert verify(log, noted).broken_at == LINES
    assert verify(log, Head(LINES + 9, noted.hash)).broken_at == LINES + 4
    assert Head.parse(str(noted)) == noted
    for text in ("", "6", f"{noted.hash}", "6:abc", f"-1:{noted.hash}", f"6:{noted.hash.upper()}x"):
        with pytest.raises(ValueError, match="no head of an audit log"):
            Head.parse(text)


@pytest.mark.parametrize("cut", [1, 2, LINES])
def test_a_cut_off_end_is_found_by_the_head_that_was_noted_also_where_the_head_file_agrees(tmp_path, cut):
    """The copy of an earlier day, with its own head, in the place of the log."""
    log = write_log(tmp_path / "audit.jsonl")
    noted = verify(log).head
    earlier = write_log(tmp_path / "earlier.jsonl", 0)
    if kept := lines_of(log)[:-cut]:
        put(earlier, kept)
        head = Head(LINES - cut, hashlib.sha256(kept[-1]).hexdigest())
        audit_module._write_heads(earlier, audit_module._Heads(head))
    assert (verify(earlier).ok, verify(log, noted).ok) == (True, True)
    report = verify(earlier, noted)
    assert (report.ok, report.broken_at) == (False, LINES - cut + 1)
    assert report.reason == "the log had 6 lines when its head was noted: lines are missing at the end"


def test_appending_after_tampering_does_not_heal_the_log(log):
    for tamper in (
        lambda: put(log, lines_of(log)[:-2]),
        lambda: put(log, [*lines_of(log)[:-1], lines_of(log)[-1].replace(b"anna", b"carl")]),
        lambda: log.with_name("audit.jsonl.head").unlink(),
        lambda: log.write_bytes(b""),
        lambda: log.write_bytes(log.read_bytes()[:-40]),
    ):
        write_log(log)
        assert verify(log).ok
        tamper()
        write_log(log, 2)
        assert not verify(log).ok
        for file in log.parent.iterdir():
            file.unlink()


# --- writers that fail or are killed ------------------------------------------------------------------------------


class Killed(BaseException):
    """The process is gone at this moment."""


def states_of_a_killed_append(log, monkeypatch, parts=(0.0, 0.01, 0.5, 1.0)):
    """Every state of the files that an append leaves that is killed: between two writes, or within one."""
    real, kept = audit_module._write, {file.name: file.read_bytes() for file in log.parent.iterdir()}
    for writes in range(3):  # the head that announces the line, the line, the head that counts it
        for part in parts:
            done = []

            def dying(file, data, writes=writes, part=part, done=done):
                if len(done) == writes:
                    real(file, data[: round(part * len(data))])
                    raise Killed
                done.append(1)
                real(file, data)

            for file in log.parent.iterdir():
                file.unlink()
            for name, content in kept.items():
                (log.parent / name).write_bytes(content)
            monkeypatch.setattr(audit_module, "_write", dying)
            with pytest.raises(Killed):
                AuditLog(log).append("search", "people", "anna", None, 1, {"sentence": "killed"})
            monkeypatch.setattr(audit_module, "_write", real)
            yield writes, part


def test_a_process_killed_at_any_moment_leaves_a_log_that_holds_and_goes_on(log, monkeypatch):
    before = lines_of(log)
    seen = set()
    for writes, part in states_of_a_killed_append(log, monkeypatch):
        report = verify(log)
        assert report.ok, (writes, part, report)
        seen.add(bool(report.notes))
        left = log.read_bytes()
        AuditLog(log).append("search", "people", "anna", None, 1, {"sentence": "after"})
        report = verify(log)
        assert report.ok, (writes, part, report)
        assert log.read_bytes().startswith(left)  # the evidence stays
        lines = lines_of(log)
        assert lines[: len(before)] == before and json.loads(lines[-1])["query"] == {"sentence": "after"}
        assert json.loads(lines[-1])["number"] == len(lines) == report.head.lines
    assert seen == {True, False}


def test_killed_twice_and_in_the_first_line(tmp_path, monkeypatch):
    log = tmp_path / "audit.jsonl"
    AuditLog(log)
    for _ in states_of_a_killed_append(log, monkeypatch, (0.5, 1.0)):
        for _ in states_of_a_killed_append(log, monkeypatch, (0.5,)):
            assert verify(log).ok
            write_log(log, 2)
            assert verify(log).ok and verify(log).head.lines == len(lines_of(log))


def test_a_line_behind_two_that_are_torn_counts_all_of_them(log, monkeypatch):
    in_the_line = 1  # of the three writes of an append
    for first, _ in states_of_a_killed_append(log, monkeypatch, (0.5,)):
        if first != in_the_line:
            continue
        for second, _ in states_of_a_killed_append(log, monkeypatch, (0.5,)):
            if second == in_the_line:
                head = AuditLog(log).append("search", "people", "anna", None, 1, {"sentence": "after"})
                lines = lines_of(log)
                assert len(lines) == LINES + 3 == head.lines == json.loads(lines[-1])["number"]
                assert json.loads(lines[-1])["previous"] == hashlib.sha256(lines[-2]).hexdigest()
                assert verify(log).ok and [note.split(" is ")[0] for note in verify(log).notes] == ["line 7", "line 8"]


@pytest.mark.parametrize("added", [1, 3])
def test_lines_that_the_head_does_not_count_are_added_ones(log, added):
    put(log, chained(lines_of(log) + [b'{"action":"search"}'] * added))
    report = verify(log)
    assert (report.broken_at, report.reason) == (LINES + 1, "the head counts 6 lines: it was added")


def test_a_torn_line_is_told_of(log):
    with log.open("ab") as file:
        file.write(b'{"action":"sea')
    heads = json.loads(log.with_name("audit.jsonl.head").read_bytes())
    assert not verify(log).ok  # nothing was announced: somebody else wrote it
    heads["announced"] = f"{LINES + 1}:{'a' * 64}"
    log.with_name("audit.jsonl.head").write_text(json.dumps(heads))
    for _ in range(2):
        report = verify(log)
        assert report.ok and f"line {LINES + 1} is unfinished" in report.notes[0]
        write_log(log, 1)


def test_a_full_disk_refuses_and_the_log_goes_on_later(log, monkeypatch):
    real = audit_module._write
    for fails_at in range(3):
        done = []

        def full(file, data, fails_at=fails_at, done=done):
            done.append(1)
            if len(done) > fails_at:
                file.write(data[:20])
                raise OSError(28, "No space left on device")
            real(file, data)

        monkeypatch.setattr(audit_module, "_write", full)
        with pytest.raises(AuditError, match=r"audit\.jsonl cannot be written \(No space left on device\)"):
            AuditLog(log).append("search", "people", "anna", None, 1)
        monkeypatch.setattr(audit_module, "_write", real)
        assert verify(log).ok
        write_log(log, 1)
        assert verify(log).ok


def test_what_cannot_be_a_log_is_refused_and_left_alone(tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_text("my notes\n")
    other = tmp_path / "other.jsonl"
    other.write_text('{"number": 1}\n')
    for file in (notes, other):
        content = file.read_bytes()
        with pytest.raises(AuditError, match="no audit log"):
            AuditLog(file)
        assert file.read_bytes() == content
        assert not verify(file).ok
    for place in (tmp_path / "missing" / "audit.jsonl", notes / "audit.jsonl", tmp_path):
        with pytest.raises(AuditError, match="cannot be written"):
            AuditLog(place)


def append_many(log, name, number):
    for results in range(number):
        log.append("search", "people", name, None, results)


def test_several_processes_and_threads_lose_no_line(tmp_path):
    """Through a link in half of them, which is the same log."""
    path, link = tmp_path / "audit.jsonl", tmp_path / "link.jsonl"
    link.symlink_to(path)
    each, shared = 15, AuditLog(path)
    context = multiprocessing.get_context("fork")
    writers = [
        context.Process(target=append_many, args=(AuditLog((path, link)[number % 2]), f"process {number}", each))
        for number in range(3)
    ]
    writers += [threading.Thread(target=append_many, args=(shared, f"thread {number}", each)) for number in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    report = verify(path)
    assert report.ok and report.notes == () and report.head.lines == 6 * each
    by_actor = {}
    for line in lines_of(path):
        entry = json.loads(line)
        by_actor.setdefault(entry["actor"], []).append(entry["results"])
    assert by_actor == {f"{kind} {n}": list(range(each)) for kind in ("process", "thread") for n in range(3)}


def test_an_auditor_who_may_only_read_can_verify(log):
    log.with_name("audit.jsonl.lock").unlink()
    log.parent.chmod(0o500)
    try:
        assert verify(log).ok
    finally:
        log.parent.chmod(0o700)
