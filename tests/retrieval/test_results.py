"""Tables and pages of results, and one result of each person or track."""

import base64
import csv
import html
import io
import re

import numpy as np
import pytest
from PIL import Image

from aga_model.gallery import GalleryRow, Hit
from aga_model.search import Answer, collapse, hit_values, with_faces_hidden, write_csv, write_page


def hit(rank, path="/people/a.jpg", source="/people/a.jpg", itm_score=None, **facts):
    row = GalleryRow(source, f"{rank:064x}", path, 16, 32, "m", **facts)
    return Hit(rank, 1 - rank / 10, row, itm_score)


def table(answers, file):
    write_csv(answers, file)
    return list(csv.DictReader(file.open(newline="", encoding="utf-8")))


def test_tracks_of_two_videos_with_one_name_are_two(tmp_path):
    hits = [hit(1, source="/a.avi", track="0.1"), hit(2, source="/b.avi", track="0.1"), hit(3), hit(4)]
    hits += [hit(5, source="/a.avi", track="0.1"), hit(6, source="/b.avi", track="0.2")]
    kept = collapse(hits, "track")
    assert [(each.rank, round(10 * (1 - each.score))) for each in kept] == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 6)]


def test_values_of_a_hit(tmp_path):
    values = hit_values(hit(2, box=(1, 2, 3, 4), frame=5, itm_score=-1.5))
    assert (values["rank"], values["score"], values["itm_score"], values["frame"]) == (2, 0.8, -1.5, 5)
    assert values["id"] == hit(2, box=(1, 2, 3, 4), frame=5).row.id and "itm_score" not in hit_values(hit(2))


def test_a_table_in_utc_with_empty_cells_for_what_is_not_known(tmp_path, tokyo):
    known = hit(1, time=86_400.0, offset=0.0, frame=0, box=(1, 2, 3, 4), camera="hall", itm_score=0.0)
    first, second, third = table([Answer("a man", [known, hit(2)]), Answer("a dog", [hit(3)])], tmp_path / "a.csv")
    assert first["time"] == "1970-01-02T00:00:00+00:00" and first["box"] == "[1.0, 2.0, 3.0, 4.0]"
    assert (first["frame"], first["offset"], first["itm_score"], first["camera"]) == ("0", "0.0", "0.0", "hall")
    assert [second[name] for name in ("time", "box", "frame", "offset", "itm_score", "camera", "track")] == [""] * 7
    assert [line["query"] for line in (first, second, third)] == ["a man", "a man", "a dog"]
    assert [line["rank"] for line in (first, second, third)] == ["1", "2", "3"]


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\r"])
def test_no_text_runs_as_a_formula(tmp_path, begin):
    (line,) = table([Answer(f"{begin}cmd()", [hit(1, camera=f"{begin}1", offset=-0.5)])], tmp_path / "a.csv")
    assert (line["query"], line["camera"], line["offset"]) == (f"'{begin}cmd()", f"'{begin}1", "-0.5")


def test_nothing_of_a_page_is_markup_but_the_pages_own(tmp_path):
    evil = "<script>x</script>&"
    row = GalleryRow(f"/{evil}/a.jpg", "0" * 64, "", 1, 2, "m", camera=evil, person_id=evil, track=evil)
    write_page([Answer(evil, [Hit(1, 0.5, row)], [evil])], tmp_path / "a.html", evil)
    page = (tmp_path / "a.html").read_text()
    assert "<script" not in page and page.count(html.escape(evil)) >= 7


def test_a_page_shows_images_in_their_proportions_with_scores_and_facts(tmp_path):
    Image.new("RGB", (200, 100), (250, 0, 0)).save(tmp_path / "wide.png")
    Image.new("RGB", (20, 60), (0, 0, 250)).save(tmp_path / "slim.png")
    paths = [str(tmp_path / name) for name in ("wide.png", "slim.png", "gone.png")]
    hits = [hit(rank, path, path, itm_score=2.5, offset=1.25) for rank, path in enumerate(paths, start=1)]
    write_page([Answer("a man", hits, ["a note"]), Answer("nobody", [])], tmp_path / "a.html", "People")
    page = (tmp_path / "a.html").read_text()
    images = [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r"base64,([^\"]*)", page)]
    assert [image.size for image in images] == [(160, 80), (20, 60)]
    for image, colour in zip(images, ((250, 0, 0), (0, 0, 250))):
        assert np.abs(np.asarray(image).mean(axis=(0, 1)) - colour).max() < 6
    assert page.count("gone.png: no such file") == 1 and page.count("<li>no results</li>") == 1
    for text in ("cosine 0.9000", "ITM log-odds 2.500", "1.25 s into the video", "<li>a note</li>", "<h2>nobody</h2>"):
        assert text in page, text


def test_names_that_are_no_utf8_keep_their_bytes(tmp_path):
    """`\udce9` stands for the byte 0xE9 of a file name; half a character that stands for none is a question mark."""
    answers = [Answer("half \ud83d", [hit(1, "/people/caf\udce9.jpg")])]
    write_csv(answers, tmp_path / "a.csv")
    write_page(answers, tmp_path / "a.html", "People")
    for name in ("a.csv", "a.html"):
        content = (tmp_path / name).read_bytes()
        assert b"/people/caf\xe9.jpg" in content and b"half ?" in content
    with (tmp_path / "a.csv").open(errors="surrogateescape", newline="", encoding="utf-8") as file:
        assert next(csv.DictReader(file))["path"] == "/people/caf\udce9.jpg"


def test_the_first_frame_of_a_video_has_its_time_too(tmp_path):
    write_page([Answer("a man", [hit(1, offset=0.0, time=0.0)])], tmp_path / "a.html", "People")
    page = (tmp_path / "a.html").read_text()
    assert "0.00 s into the video" in page and "time 1970-01-01T00:00:00+00:00" in page


def test_hiding_faces_is_asked_of_every_hit():
    answer = Answer("a man", [hit(1), hit(2)], ["note"])
    hidden = with_faces_hidden(answer)
    assert [each.hide_faces for each in hidden.hits] == [True, True] and hidden.notes == ["note"]
    assert [each.row for each in hidden.hits] == [each.row for each in answer.hits]
