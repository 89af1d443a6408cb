"""What commands and the demo write into an audit log, and that nothing is shown or removed without it."""

import base64
import getpass
import hashlib
import io
import json
import os
import pwd

import pytest
from command_line import aga
from PIL import Image

from aga_model.gallery import Filter, Gallery, GallerySettings, Recorder, verify
from aga_model.gallery.store import Manifest
from aga_model.gallery.stores import EmptyStore
from aga_model.search import PersonEncoder
from aga_model.service import GallerySearch
from aga_model.service.searching import SearchError, Wanted

SENTENCE = "a man in a red coat"


def refused(*arguments):
    """The error of a command that shows nothing."""
    result = aga(*arguments, code=2)
    assert result.stdout == ""
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("error:"))
    return line


@pytest.fixture
def gallery(image_folder, model_folder, tmp_path):
    facts = ("--person-from", r"/(\w)\.\w+$", "--camera", "hall")
    aga("index", image_folder / "a.jpg", image_folder / "b.png", image_folder / "c.webp", *facts,
        "--model", model_folder, "--out", tmp_path / "gallery")  # fmt: skip
    return tmp_path / "gallery"


@pytest.fixture
def log(tmp_path):
    return tmp_path / "audit.jsonl"


def entries(log):
    return [json.loads(line) for line in log.read_text().splitlines()]


def ask(monkeypatch, **settings):
    """What every gallery is set to ask for."""
    monkeypatch.setattr(Gallery, "settings", GallerySettings(**settings))


# --- commands -----------------------------------------------------------------------------------------------------


def test_searches_exports_and_deletions_are_one_line_each(gallery, log, image_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("USER", "somebody else")
    monkeypatch.setenv("LOGNAME", "somebody else")
    sentences = tmp_path / "sentences.txt"
    sentences.write_text("one\ntwo\n")
    audit = ("--audit", log, "--purpose", "case 7")
    aga("search", gallery, SENTENCE, "--top-k", 2, "--camera", "hall", "--person", "a", "--person", "b", *audit)
    aga("search", gallery, "--image", image_folder / "a.jpg", "--json", "--audit", log)
    aga("search", gallery, "--queries", sentences, "--top-k", 1, "--save", tmp_path / "r.html", *audit)
    aga("search", gallery, SENTENCE, "--save", tmp_path / "r.csv", "--explain", tmp_path / "why.png", *audit)
    aga("gallery", "delete", gallery, "--person", "a", *audit)
    aga("gallery", "delete", gallery, "--person", "a", "--dry-run", *audit)
    lines = entries(log)
    assert [(line["action"], line["results"]) for line in lines] == [
        ("search", 2), ("search", 3), ("search", 1), ("search", 1), ("export", 2), ("search", 3), ("export", 3),
        ("delete", 1),
    ]  # fmt: skip
    assert {line["actor"] for line in lines} == {pwd.getpwuid(os.getuid()).pw_name} != {getpass.getuser()}
    assert {line["gallery"] for line in lines} == {str(gallery)}
    assert [line["purpose"] for line in lines] == ["case 7", None, *["case 7"] * 6]
    assert lines[0]["query"] == {"sentence": SENTENCE} and lines[3]["query"] == {"sentence": "two"}
    digest = hashlib.sha256((image_folder / "a.jpg").read_bytes()).hexdigest()
    assert lines[1]["query"] == {"image_sha256": digest}
    assert lines[0]["filters"]["cameras"] == ["hall"] and len(lines[0]["filters"]["person_ids_hmac"]) == 2
    assert lines[7]["filters"]["person_ids_hmac"] == lines[0]["filters"]["person_ids_hmac"][:1]
    assert "filters" not in lines[1] and "query" not in lines[7]
    assert lines[4]["files"] == [str(tmp_path / "r.html")]
    assert lines[6]["files"] == [str(tmp_path / "r.csv"), str(tmp_path / "why.png")]
    assert verify(log).ok and verify(log).head.lines == 8


def test_off_by_default(gallery, tmp_path):
    before = {file for file in tmp_path.rglob("*") if file.is_file()}
    aga("search", gallery, SENTENCE)
    assert {file for file in tmp_path.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("by_setting", [True, False])
def test_a_log_that_cannot_be_written_refuses_everything(gallery, tmp_path, monkeypatch, by_setting):
    place = tmp_path / "not a folder" / "audit.jsonl"
    place.parent.write_text("")
    option = () if by_setting else ("--audit", place)
    if by_setting:
        ask(monkeypatch, audit=str(place))
    for arguments in (("search", gallery, SENTENCE, "--save", tmp_path / "r.html"), ("search", gallery, SENTENCE)):
        assert f"audit log {place} cannot be written" in refused(*arguments, *option)
    assert not (tmp_path / "r.html").exists()
    assert "cannot be written" in refused("gallery", "delete", gallery, "--person", "a", *option)
    assert Gallery.open(gallery).count() == 3


def test_a_log_that_fills_the_disk_during_the_search_refuses_it(gallery, log, tmp_path, monkeypatch):
    aga("search", gallery, SENTENCE, "--audit", log)

    def full(file, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("aga_model.gallery.audit._write", full)
    message = refused("search", gallery, SENTENCE, "--save", tmp_path / "r.html", "--audit", log)
    assert "No space left on device" in message and not (tmp_path / "r.html").exists()
    assert "No space" in refused("gallery", "delete", gallery, "--person", "a", "--audit", log)
    assert Gallery.open(gallery).count() == 3


def test_the_gallerys_own_log_is_the_one_that_is_written(gallery, log, tmp_path, monkeypatch):
    ask(monkeypatch, audit=str(log))
    aga("search", gallery, SENTENCE)
    aga("search", gallery, SENTENCE, "--audit", log)
    assert len(entries(log)) == 2
    assert "leave --audit out" in refused("search", gallery, SENTENCE, "--audit", tmp_path / "other.jsonl")
    assert len(entries(log)) == 2 and not (tmp_path / "other.jsonl").exists()


def test_a_purpose_is_required_where_the_gallery_asks_for_it(gallery, log, monkeypatch):
    ask(monkeypatch, audit=str(log), purpose_required=True)
    for purpose in ((), ("--purpose", ""), ("--purpose", "  \n")):
        assert "give --purpose" in refused("search", gallery, SENTENCE, *purpose)
        assert "give --purpose" in refused("gallery", "delete", gallery, "--person", "a", *purpose)
    assert Gallery.open(gallery).count() == 3 and log.read_bytes() == b""
    aga("search", gallery, SENTENCE, "--purpose", " case 7 ")
    assert [line["purpose"] for line in entries(log)] == ["case 7"]
    ask(monkeypatch, purpose_required=True)
    aga("search", gallery, SENTENCE, "--purpose", "case 7")
    assert "give --purpose" in refused("search", gallery, SENTENCE)


def test_a_purpose_that_nothing_would_keep_or_that_is_too_long_is_refused(gallery, log):
    assert "give --audit FILE" in refused("search", gallery, SENTENCE, "--purpose", "case 7")
    message = refused("search", gallery, SENTENCE, "--purpose", "x" * 501, "--audit", log)
    assert "501 characters: give 500" in message


def test_the_password_of_a_server_is_in_no_line(log):
    opened = Gallery(
        "milvus://anna:secret@host:19530/people",
        Manifest("model", "hash", 4),
        EmptyStore(Manifest("model", "hash", 4)),
    )
    Recorder.of(opened, log, "anna").searched_for_sentence("x", Filter(), 0)
    assert entries(log)[0]["gallery"] == "milvus://host:19530/people" and "secret" not in log.read_text()


def test_verification_as_a_user_meets_it(gallery, log, monkeypatch):
    for _ in range(3):
        aga("search", gallery, SENTENCE, "--audit", log)
    said = aga("gallery", "audit", log).stdout
    assert "3 lines, every one as it was written" in said
    head = said.split()[-1]
    assert "name no audit log" in refused("gallery", "audit", gallery)
    ask(monkeypatch, audit=str(log))
    aga("search", gallery, SENTENCE)
    assert "4 lines" in aga("gallery", "audit", gallery, "--noted", head).stdout
    log.write_text(log.read_text().replace(SENTENCE, "a dog", 1))
    assert "broken at line 1: it was changed" in aga("gallery", "audit", gallery, code=1).stdout
    assert "broken" in aga("gallery", "audit", log, "--noted", head, code=1).stdout
    log.unlink()
    assert "broken at line 1: the log is gone" in aga("gallery", "audit", log, code=1).stdout
    assert "no audit log" in refused("gallery", "audit", log.with_name("nothing.jsonl"))
    assert "no head of an audit log" in refused("gallery", "audit", log, "--noted", "4")


# --- the demo -----------------------------------------------------------------------------------------------------


@pytest.fixture
def encoder(model_folder):
    return PersonEncoder.from_pretrained(model_folder)


def upload_of(file):
    return f"data:image/jpeg;base64,{base64.b64encode(file.read_bytes()).decode()}"


def test_the_demo_records_each_search_under_the_tokens_name(gallery, encoder, log, image_folder):
    opened = Gallery.open(gallery)
    search = GallerySearch(opened, encoder, recorder=Recorder.of(opened, log, "front desk"), purpose="lost children")
    search.by_sentence(SENTENCE, Wanted(top_k=2, cameras=["hall"]))
    image = search.read_upload(upload_of(image_folder / "a.jpg"))
    search.by_image(image, Wanted(top_k=1, purpose="case 8"))
    with pytest.raises(SearchError):
        search.by_sentence(" ", Wanted())
    lines = entries(log)
    assert [(line["actor"], line["purpose"], line["results"]) for line in lines] == [
        ("front desk", "lost children", 2),
        ("front desk", "case 8", 1),
    ]
    assert lines[0]["query"] == {"sentence": SENTENCE} and lines[0]["filters"] == {"cameras": ["hall"]}
    digest = hashlib.sha256((image_folder / "a.jpg").read_bytes()).hexdigest()
    assert lines[1]["query"] == {"image_sha256": digest}


def test_the_demo_shows_nothing_that_it_cannot_record(gallery, encoder, log, monkeypatch, image_folder):
    ask(monkeypatch, audit=str(log))
    search = GallerySearch(Gallery.open(gallery), encoder)
    search.by_sentence(SENTENCE, Wanted())

    def full(file, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("aga_model.gallery.audit._write", full)
    image = search.read_upload(upload_of(image_folder / "a.jpg"))
    for ask_for in (lambda: search.by_sentence(SENTENCE, Wanted()), lambda: search.by_image(image, Wanted())):
        with pytest.raises(SearchError) as told:
            ask_for()
        assert str(log) not in str(told.value) and "No space" not in str(told.value)
    assert len(entries(log)) == 1


def test_the_demo_asks_for_the_purpose_that_the_gallery_asks_for(gallery, encoder, log, monkeypatch):
    assert not GallerySearch(Gallery.open(gallery), encoder).asks_purpose
    ask(monkeypatch, audit=str(log), purpose_required=True)
    search = GallerySearch(Gallery.open(gallery), encoder)
    assert search.asks_purpose
    for purpose in ("", " ", "x" * 501):
        with pytest.raises(SearchError, match="for what purpose"):
            search.by_sentence(SENTENCE, Wanted(purpose=purpose))
    assert log.read_bytes() == b""
    search.by_sentence(SENTENCE, Wanted(purpose="case 7"))
    assert [line["purpose"] for line in entries(log)] == ["case 7"]


def test_the_page_has_a_field_for_the_purpose_where_it_is_kept(gallery, encoder, log):
    page = pytest.importorskip("aga_model.service.demo.page", reason="the extra `demo` is not installed")
    opened = Gallery.open(gallery)
    for audit, wanted in ((None, 0), (log, 1)):
        search = GallerySearch(opened, encoder, recorder=Recorder.of(opened, audit))
        config = page.build_page(search).get_config_file()
        fields = [one for one in config["components"] if one["props"].get("elem_id") == "purpose"]
        assert len(fields) == wanted
    choices = [10, [], "", "", "every image"]
    assert page._wanted(*choices).purpose == "" and page._wanted(*choices, "case 7").purpose == "case 7"
    handle = page._sentence_handler(search)
    found, _, _, _ = handle(SENTENCE, *choices, "case 7")
    assert len(found.hits) == 3 and entries(log)[0]["purpose"] == "case 7"


def test_uploads_keep_the_hash_of_their_file(gallery, encoder, image_folder):
    """Not of the image that is kept, which is smaller."""
    buffer = io.BytesIO()
    Image.new("RGB", (1500, 3000), "red").save(buffer, "JPEG")
    search = GallerySearch(Gallery.open(gallery), encoder)
    image = search.read_upload(f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}")
    assert hashlib.sha256(buffer.getvalue()).hexdigest() in image.info.values() and max(image.size) == 1024


# --- recorders ----------------------------------------------------------------------------------------------------


class Place:
    """What a recorder asks a gallery."""

    def __init__(self, folder=None, **settings):
        self.folder, self.settings = folder, GallerySettings(**settings)

    def __str__(self):
        return "people"


@pytest.mark.parametrize("reach", ["plain", "deep", "link", "linked folder", "setting"])
def test_a_log_in_the_gallerys_own_folder_is_refused_by_whatever_path(tmp_path, monkeypatch, reach):
    folder = tmp_path / "gallery"
    (folder / "crops").mkdir(parents=True)
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(folder)
    file = {"plain": "audit.jsonl", "deep": folder / "crops" / "a", "link": tmp_path / "link" / "a"}.get(reach)
    place = Place(tmp_path / "link" if reach == "linked folder" else folder)
    if reach == "setting":
        place = Place(folder, audit=str(tmp_path / "link" / "a"))
    with pytest.raises(ValueError, match="would lie in the folder of gallery people"):
        Recorder.of(place, file or (None if reach == "setting" else folder / "a"))
    assert [path.name for path in folder.rglob("*")] == ["crops"]
    assert Recorder.of(place if reach != "setting" else Place(folder), tmp_path / "gallery-2").log is not None


def test_a_recorder_follows_the_settings_as_they_are_now(tmp_path):
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    silent = Recorder.of(Place(tmp_path / "gallery"), None, "anna")
    silent.removes(Filter(cameras=["hall"]), 1)
    assert silent.log is None and not silent.purpose_required
    recorder = silent.following(GallerySettings(audit=str(first), purpose_required=True))
    with pytest.raises(ValueError, match="asks for the purpose"):
        recorder.for_purpose(" ")
    recorder.for_purpose(" case 7 ").removes(Filter(cameras=["hall"]), 2, "purge")
    recorder.following(GallerySettings(audit=str(second))).exports([], 3)
    recorder.following(GallerySettings()).exports([], 4)  # goes on in the log that it has
    assert [(line["action"], line["results"], line["purpose"]) for line in entries(first)] == [
        ("purge", 2, "case 7"),
        ("export", 4, None),
    ]
    assert [(line["action"], line["actor"], line["gallery"]) for line in entries(second)] == [
        ("export", "anna", os.path.realpath(tmp_path / "gallery"))
    ]


def test_each_line_holds_what_was_asked_among_which_images_and_what_came_of_it(log):
    recorder = Recorder.of(Place(audit=str(log)), None, "anna").for_purpose("case 7")
    where = Filter(cameras=["hall"], until=86_400.0)
    recorder.searched_for_sentence("a man", where, 5)
    recorder.searched_for_image("0" * 64, where, 6)
    recorder.exports(["/tmp/a.csv"], 7)
    recorder.removes(where, 8)
    recorder.changes_settings(GallerySettings(keep_seconds=60.0))
    lines = entries(log)
    told = [(line["action"], line["results"], line["purpose"], line["gallery"]) for line in lines]
    names = ["search", "search", "export", "delete", "settings"]
    assert told == [(name, number, "case 7", "people") for name, number in zip(names, (5, 6, 7, 8, 0))]
    filters = {"cameras": ["hall"], "until": "1970-01-02T00:00:00+00:00"}
    assert [line.get("filters") for line in lines] == [filters, filters, None, filters, None]
    assert [line.get("query") for line in lines[:4]] == [{"sentence": "a man"}, {"image_sha256": "0" * 64}, None, None]
    assert json.loads(lines[4]["query"]["settings"])["keep_seconds"] == 60.0
    assert [line.get("files") for line in lines[:3]] == [None, None, ["/tmp/a.csv"]]
    assert len(entries(log)) == verify(log).head.lines == 5


def test_another_log_than_the_gallerys_is_refused(tmp_path, log):
    (tmp_path / "link.jsonl").symlink_to(log)
    assert Recorder.of(Place(audit=str(log)), tmp_path / "link.jsonl").log.path == log
    with pytest.raises(ValueError, match="leave --audit out"):
        Recorder.of(Place(audit=str(log)), tmp_path / "other.jsonl")
    assert not (tmp_path / "other.jsonl").exists()


def test_a_purpose_may_be_as_long_as_is_said(log):
    recorder = Recorder.of(Place(audit=str(log)), None)
    assert recorder.for_purpose(f" {'x' * 500}\n").purpose == "x" * 500
    with pytest.raises(ValueError, match="the purpose has 501 characters: give 500 at most"):
        recorder.for_purpose("x" * 501)
