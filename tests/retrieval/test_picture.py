import numpy as np
import pytest
from PIL import Image

from aga_model.gallery import GalleryRow, Hit
from aga_model.search import picture, save_result_picture

RED, GREY_BOX = (255, 0, 0), (225, 225, 225)


def hit(rank, path):
    return Hit(rank, 1 - rank / 100, GalleryRow(str(path)))


def boxes_of(image, colour):
    """Bounding box (left, top, right, bottom) of a colour."""
    rows, columns = np.nonzero((np.abs(np.asarray(image).astype(int) - colour) < 3).all(axis=-1))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


@pytest.fixture(params=["system font", "PIL's font"], autouse=True)
def font(request, monkeypatch):
    if request.param == "PIL's font":
        monkeypatch.setattr(picture, "_FONT_FILES", ())
    for cached in (picture._font, picture._has_glyph):
        cached.cache_clear()
    yield request.param
    for cached in (picture._font, picture._has_glyph):
        cached.cache_clear()


@pytest.mark.parametrize("size", [(40, 10), (10, 40), (400, 400)])
def test_image_keeps_its_proportions(tmp_path, size):
    Image.new("RGB", size, RED).save(tmp_path / "a.png")
    drawn = save_result_picture("a person in red", [hit(1, tmp_path / "a.png")], tmp_path / "result.png")
    left, top, right, bottom = boxes_of(drawn, RED)
    assert (right - left) / (bottom - top) == pytest.approx(size[0] / size[1], rel=0.05)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "result.png")), np.asarray(drawn))


def test_missing_and_damaged_files_are_grey_boxes(tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    hits = [hit(1, tmp_path / "missing.jpg"), hit(2, tmp_path / "text.jpg")]
    drawn = save_result_picture("a man", hits, tmp_path / "result.png")
    grey = (np.asarray(drawn) == GREY_BOX).all(axis=-1).sum()
    assert grey > 2 * 0.8 * 150 * 310


def test_frames(tmp_path):
    Image.new("RGB", (20, 40), "black").save(tmp_path / "a.png")
    hits = [hit(rank, tmp_path / "a.png") for rank in (1, 2)]
    drawn = save_result_picture("a man", hits, tmp_path / "result.png", correct=[True, False])
    green, red = boxes_of(drawn, (30, 150, 60)), boxes_of(drawn, (200, 40, 40))
    assert green[2] < red[0] and green[1] == red[1]
    with pytest.raises(ValueError, match="2 hits but 1 values"):
        save_result_picture("a man", hits, tmp_path / "result.png", correct=[True])


def test_many_hits_wrap_into_rows(tmp_path):
    Image.new("RGB", (20, 40), RED).save(tmp_path / "a.png")
    one_row = save_result_picture("a", [hit(1, tmp_path / "a.png")] * 5, tmp_path / "r.png")
    two_rows = save_result_picture("a", [hit(1, tmp_path / "a.png")] * 6, tmp_path / "r.png")
    assert one_row.width == two_rows.width and two_rows.height > 1.8 * one_row.height


@pytest.mark.parametrize(
    "query",
    [
        "穿红色外套的女人",
        "عربى 👩🏽‍🦰 café — naïve\u0000\u200b\ud800",
        "a very long sentence about a person " * 60,
        "Donaudampfschifffahrtsgesellschaftskapitänsmütze" * 20,
        "",
    ],
)
def test_any_sentence_and_name_can_be_drawn(tmp_path, query):
    names = ["照片.png", "a" * 200 + ".png", "line\nbreak.png", "\udcff.png"]
    hits = [hit(rank, tmp_path / name) for rank, name in enumerate(names, start=1)]
    drawn = save_result_picture(query, hits, tmp_path / "result.png")
    ink = (np.asarray(drawn) < 100).all(axis=-1)
    assert not ink[:, -8:].any()  # nothing runs out of the picture
    assert drawn.height < 800


def test_text_that_the_font_lacks_becomes_base_letters_or_question_marks(font):
    accented = "cafe" if font == "PIL's font" else "café"  # the former has ASCII letters only
    assert picture._printable("café 照 x\ty\u200b", 14) == f"{accented} ? x y"


def test_no_hits(tmp_path):
    assert save_result_picture("a man", [], tmp_path / "result.jpg").width > 400


def test_file_that_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match=r"result\.png"):
        save_result_picture("a man", [], tmp_path / "result.txt")
    with pytest.raises(OSError):
        save_result_picture("a man", [], tmp_path / "missing" / "result.png")


@pytest.mark.parametrize("number", [2, 5, 6])
def test_every_hit_is_in_the_picture_at_its_place(tmp_path, number):
    """Five in a row, each in the middle of a tile of 160 x 320 pixels; tiles are 16 apart, with two lines below."""
    colours = [(250, 20 * index, 120) for index in range(number)]
    for index, colour in enumerate(colours):
        Image.new("RGB", (20, 20), colour).save(tmp_path / f"{index}.png")
    hits = [hit(index + 1, tmp_path / f"{index}.png") for index in range(number)]
    drawn = save_result_picture("a", hits, tmp_path / "r.png")
    columns, rows = min(max(number, 3), 5), -(-number // 5)
    assert drawn.size == (16 + columns * 176, 2 * 16 + 26 + rows * (320 + 2 * 18 + 16))
    for index, colour in enumerate(colours):
        left, top = 16 + index % 5 * 176, 58 + index // 5 * 372
        tile = np.asarray(drawn.crop((left, top, left + 160, top + 320)))
        wanted = np.zeros((320, 160), bool)
        wanted[85:235, 5:155] = True
        assert np.array_equal((tile == colour).all(axis=-1), wanted)


def test_right_ones_are_green_and_wrong_ones_red(tmp_path):
    Image.new("RGB", (20, 40), "black").save(tmp_path / "a.png")
    hits = [hit(rank, tmp_path / "a.png") for rank in (1, 2, 3)]
    drawn = save_result_picture("a", hits, tmp_path / "r.png", correct=[False, True, True])
    assert boxes_of(drawn, (200, 40, 40))[::2] == (16, 16 + 160)
    assert boxes_of(drawn, (30, 150, 60))[::2] == (16 + 176, 16 + 2 * 176 + 160)


@pytest.fixture
def written(monkeypatch):
    """The lines of text that are drawn."""
    lines, text = [], picture.ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        picture.ImageDraw.ImageDraw,
        "text",
        lambda self, place, line, **options: lines.append(line) or text(self, place, line, **options),
    )
    return lines


def test_what_is_gone_and_what_is_damaged_are_told_apart(tmp_path, written):
    (tmp_path / "text.jpg").write_text("no image")
    for path, title in ((tmp_path / "gone.jpg", "missing"), (tmp_path / "text.jpg", "unreadable")):
        written.clear()
        save_result_picture("a man", [hit(1, path)], tmp_path / "r.png")
        assert written[:2] == ["a man", title] and written[-1] == path.name


def test_captions_say_rank_scores_and_the_end_of_the_name(tmp_path, written):
    name = "x" * 60 + "_00000012_10_20_90_180.jpg"
    Image.new("RGB", (20, 40), "black").save(tmp_path / name)
    found = hit(7, tmp_path / name)
    save_result_picture("a man", [found, Hit(8, 0.25, found.row, itm_score=-3.5)], tmp_path / "r.png")
    assert written[:2] == ["a man", "7.  0.930"] and written[3] == "8.  ITM -3.50  (0.250)"
    assert written[2].startswith("...") and name.endswith(written[2][3:]) and len(written[2]) > 12
    assert picture._width(written[2], 14) <= 160


def test_pictures_are_stacked_below_each_other():
    sizes, colours = [(30, 10), (50, 20), (40, 15)], [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    stack = picture.stack_pictures([Image.new("RGB", size, colour) for size, colour in zip(sizes, colours)])
    assert stack.size == (50, 45)
    assert [boxes_of(stack, colour) for colour in colours] == [(0, 0, 30, 10), (0, 10, 50, 30), (0, 30, 40, 45)]
