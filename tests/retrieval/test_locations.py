"""No password of a gallery's location reaches a message, a page or a file."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from aga_model.cli.main import app
from aga_model.gallery import Gallery, GalleryError, GallerySettings, redacted, redacted_text

pytest.importorskip("pymilvus", reason="the extra `milvus` is not installed")

SECRET = "Tr0ub4dor"


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("milvus://ada:Tr0ub4dor@db.example.org:19530/people", "milvus://ada:***@db.example.org:19530/people"),
        ("milvus://ada:Tr0ub4dor@[::1]:19530/people", "milvus://ada:***@[::1]:19530/people"),
        ("milvus://ada:x@Tr0ub4dor@h/people", "milvus://ada:***@h/people"),
        ("milvus://ada:x/y?z#Tr0ub4dor@h/people", "milvus://ada:***@h/people"),
        ("milvus://ada:x%40Tr0ub4dor@h/people", "milvus://ada:***@h/people"),
        ("milvus://ada:Tr0ub4dor with blanks@h/people", "milvus://ada:***@h/people"),
        ("milvus://Tr0ub4dor@h/people", "milvus://***@h/people"),
        ("milvus://ada:Tr0ub4dor", "milvus://ada:***"),
        ("milvus://ada:Tr0ub4dor/people", "milvus://ada:***"),
        ("milvus://h:19530/people?password=Tr0ub4dor", "milvus://h:19530/people?***"),
        ("https://ada:Tr0ub4dor@h:443/people", "https://ada:***@h:443/people"),
        ("ada:Tr0ub4dor@milvus://h/people", "***://h/people"),
        ("milvus:ada:Tr0ub4dor@h/people", "milvus:***@h/people"),
        ("milvus:/ada:Tr0ub4dor@h/people", "milvus:***@h/people"),
        ("ada:Tr0ub4dor@h:19530/people", "ada:***@h:19530/people"),
        ("milvus://h:19530/people", "milvus://h:19530/people"),
        ("milvus://[::1]:19530/people", "milvus://[::1]:19530/people"),
        ("milvus://h/people", "milvus://h/people"),
        ("galleries/entrance@night", "galleries/entrance@night"),
        ("/data/18:30@door", "/data/18:30@door"),
        ("C:\\people\\at@home", "C:\\people\\at@home"),
        ("C:/people/at@home", "C:/people/at@home"),
    ],
)
def test_a_location_as_it_is_shown(location, shown):
    assert redacted(location) == shown


@given(
    user=st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=8),
    before=st.text(max_size=8),
    after=st.text(max_size=8),
    host=st.sampled_from(["h", "db.example.org:19530", "[::1]", "[fe80::1]:9"]),
    scheme=st.sampled_from(["milvus", "MILVUS", "https", "x"]),
)
def test_no_password_is_shown(user, before, after, host, scheme):
    location = f"{scheme}://{user}:{before}{SECRET}{after}@{host}/people"
    assert redacted(location) == f"{scheme}://{user}:***@{host}/people"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "cannot reach milvus://ada:Tr0ub4dor@h:1/people: refused",
            "cannot reach milvus://ada:***@h:1/people: refused",
        ),
        ("see http://ada:Tr0ub4dor@h/x and milvus://b:c@d/e", "see http://ada:***@h/x and milvus://b:***@d/e"),
        ("a page of https://example.org/@somebody/x", "a page of https://example.org/@somebody/x"),
        ("open http://127.0.0.1:7860/?a=b@c", "open http://127.0.0.1:7860/?a=b@c"),
        ("a mail to somebody@example.org", "a mail to somebody@example.org"),
    ],
)
def test_messages_of_others(text, shown):
    assert redacted_text(text) == shown


# Each is wrong in its form, or names a server that is not there.
LOCATIONS = [
    "milvus://ada:Tr0ub4dor@127.0.0.1:1/people",
    "milvus://ada:x%40Tr0ub4dor@127.0.0.1:1/people",
    "milvus://ada:Tr0ub4dor@127.0.0.1:1",
    "milvus://ada:Tr0ub4dor@127.0.0.1:1/no-name",
    "milvus://ada:Tr0ub4dor@127.0.0.1:port/people",
    "milvus://ada:Tr0ub4dor@127.0.0.1:99999/people",
    "milvus://ada:Tr0ub4dor@[::1/people",
    "milvus://ada:[Tr0ub4dor]@127.0.0.1:1/people",
    "milvus://ada:\u2100Tr0ub4dor@127.0.0.1:1/people",
    "milvus://ada:1/Tr0ub4dor@127.0.0.1:1/people",
    "milvus://ada:1#Tr0ub4dor@127.0.0.1:1/people",
    "milvus://ada:Tr0ub4dor",
    "milvus://ada:Tr0ub4dor@/people",
    "https://ada:Tr0ub4dor@127.0.0.1:1/people",
    "ada:Tr0ub4dor@milvus://127.0.0.1:1/people",
    "milvus:ada:Tr0ub4dor@127.0.0.1:1/people",
    "milvus:/ada:Tr0ub4dor@127.0.0.1:1/people",
    "ada:Tr0ub4dor@127.0.0.1:1/people",
]


@pytest.mark.parametrize("location", LOCATIONS)
def test_errors_of_galleries_hold_no_password(location, monkeypatch):
    monkeypatch.setattr("aga_model.gallery.milvus.store._CONNECT_SECONDS", 0.2)
    for act in (Gallery.open, lambda place: Gallery.create(place, "0" * 64, 16, "model"), Gallery.exists):
        with pytest.raises(GalleryError) as caught:
            act(location)
        error: BaseException | None = caught.value
        assert SECRET not in repr(error) and "milvus://" in str(error)
        while error is not None and not error.__suppress_context__:
            error = error.__cause__
            assert SECRET not in str(error)


@pytest.mark.parametrize("location", LOCATIONS[3:])
def test_commands_show_no_password(location, tmp_path, model_folder):
    """Those that end before they connect; the others are told apart by `test_errors_of_galleries_hold_no_password`."""
    for arguments in (
        ["search", location, "a man"],
        ["search", location, "a man", "--json"],
        ["gallery", "info", location],
        ["gallery", "delete", location, "--person", "1"],
        ["gallery", "compact", location],
        ["gallery", "build-index", location],
        ["demo", "--gallery", location, "--port", "0"],
        ["index", str(tmp_path), "--out", location, "--model", str(model_folder)],
    ):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2 and SECRET not in result.output, (arguments, result.output)


def test_what_to_do_next_after_a_report(monkeypatch, tmp_path):
    """The page and the terminal name the gallery without its password; the gallery itself is asked with it."""
    from aga_model.search import PersonEncoder

    location = f"milvus://ada:{SECRET}@127.0.0.1:1/people"
    written, opened = [], []

    class Store:
        model_hash = "0"
        folder = None
        settings = GallerySettings()

        def require_model(self, *_):
            pass

        def search(self, *_):
            return []

        def count(self):
            return 0

    class Encoder:
        model_hash = "0"

        def encode_texts(self, texts):
            return texts

    metrics = {"rank1": 1.0, "mAP": 1.0, "n_identities": 1, "chance_rank1": 1.0,
               "masked_attribute_share": {"attention": 1.0, "random": 1.0}}  # fmt: skip
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    run = {"data": {"dataset": "x", "data_root": "y"}, "skipped_images": 0}
    (tmp_path / "run.json").write_text(json.dumps(run))
    monkeypatch.setattr(PersonEncoder, "from_pretrained", lambda *_, **__: Encoder())
    monkeypatch.setattr(Gallery, "open", lambda place: opened.append(place) or Store())
    for name in ("AutoModelForPreTraining", "AutoProcessor"):
        monkeypatch.setattr(f"transformers.{name}.from_pretrained", lambda *_, **__: None)
    monkeypatch.setattr("aga_model.data.load_benchmark", lambda *_, **__: {"test": None})
    monkeypatch.setattr("aga_model.evaluation.write_report", lambda *all_: written.append(all_) or "report.html")
    result = CliRunner().invoke(app, ["report", str(tmp_path), "--gallery", location, "--query", "a man"])
    assert result.exit_code == 0, result.output
    shown = "aga search milvus://ada:***@127.0.0.1:1/people"
    assert opened == [location] and SECRET not in result.output and shown in result.output
    assert SECRET not in str(written) and shown in written[0][-2]


def test_a_folder_may_have_any_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GalleryError, match=r"looks like a gallery on a server.* write \./"):
        Gallery.open("night:shift@door")
    with pytest.raises(GalleryError, match="holds no gallery"):
        Gallery.open("./night:shift@door")
