"""Faces hidden: what is found, how it is blurred, and that nothing that is shown or saved leaves it out."""

import base64
import io
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import aga
from PIL import Image, ImageDraw, ImageFilter

from aga_model.files import FaceHider, face_hider, faces, hide_faces, read_image
from aga_model.gallery import Gallery, GallerySettings, read_hit, shown_image
from aga_model.search import Answer, Explainer, PersonEncoder, explanation_image, save_result_picture, write_page
from aga_model.service import GallerySearch
from aga_model.service.demo.markup import result_cards
from aga_model.service.searching import Wanted
from benchmarks.quality.faces_hidden import PEOPLE, cut_close, measure, read_people

pytest.importorskip("cv2", reason="the extra `search` is not installed")

REPOSITORY = Path(__file__).parents[2]
STREET_CROPS = REPOSITORY.parent / "shared/fixtures/street_crops"
BOX = (8, 4, 32, 28)  # what the patched detector finds in an image of 40x80
SENTENCE = "a man in a red coat"


def drawn_face(side):
    """A face from the front, as a frontal detector knows it."""
    image = Image.new("L", (160, 160), 150)
    draw = ImageDraw.Draw(image)
    for box, grey in (
        ((30, 5, 130, 155), 60), ((38, 20, 122, 150), 205), ((47, 52, 77, 58), 70), ((83, 52, 113, 58), 70),
        ((49, 60, 75, 76), 110), ((56, 62, 68, 74), 30), ((85, 60, 111, 76), 110), ((92, 62, 104, 74), 30),
        ((68, 100, 92, 110), 120), ((58, 118, 102, 130), 90),
    ):  # fmt: skip
        draw.ellipse(box, fill=grey)
    return image.filter(ImageFilter.GaussianBlur(3)).convert("RGB").resize((side, side))


def detail(image, box):
    """Mean absolute difference of neighbouring pixels in a box."""
    pixels = np.asarray(image.convert("L").crop(box), np.float64)
    return (np.abs(np.diff(pixels, axis=0)).mean() + np.abs(np.diff(pixels, axis=1)).mean()) / 2


# --- what is hidden, and how --------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [(0, 0), (400, 100), (500, 260)])
def test_a_face_in_a_wide_image_is_hidden_and_the_rest_is_not(place):
    scene = Image.new("RGB", (640, 400), (120, 140, 120))
    scene.paste(drawn_face(140), place)
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    far = (250, 320) if place == (0, 0) else (10, 10)
    scene.paste(Image.fromarray(noise), far)
    before = scene.copy()
    hidden = hide_faces(scene)
    left, top = place
    features = (left + 48, top + 48, left + 98, top + 116)  # eyes to mouth
    assert hidden.size == scene.size and hidden.mode == "RGB"
    assert detail(hidden, features) < 0.3 * detail(scene, features)
    boxes = FaceHider().boxes(scene)
    assert any(box[0] <= features[0] and box[1] <= features[1] and box[2] >= features[2] for box in boxes)
    outside = np.ones((400, 640), bool)
    for box in boxes:
        outside[box[1] : box[3], box[0] : box[2]] = False
    assert outside.mean() > 0.5
    assert np.array_equal(np.asarray(hidden)[outside], np.asarray(scene)[outside])
    assert np.array_equal(np.asarray(scene), np.asarray(before))


def test_only_mean_colours_of_a_few_cells_are_left(monkeypatch):
    """So two images that agree in these give the same picture but for rounding: which it was cannot be told."""
    monkeypatch.setattr(FaceHider, "boxes", lambda self, image: [(5, 10, 35, 40)])
    generator = np.random.default_rng(0)
    one = generator.integers(0, 256, (60, 40, 3), dtype=np.uint8)
    other = one.copy()
    for top in range(10, 40, 10):
        for left in range(5, 35, 10):
            cell = other[top : top + 10, left : left + 10].reshape(-1, 3)
            other[top : top + 10, left : left + 10] = generator.permutation(cell).reshape(10, 10, 3)
    assert not np.array_equal(one, other)
    hidden = [np.asarray(FaceHider().hide(Image.fromarray(pixels))) for pixels in (one, other)]
    assert np.abs(hidden[0].astype(int) - hidden[1])[10:40, 5:35].max() <= 1
    assert np.array_equal(hidden[0][:10], one[:10]) and np.array_equal(hidden[0][40:], one[40:])
    centres = hidden[0][15:40:10, 10:35:10].astype(float)
    means = one[10:40, 5:35].reshape(3, 10, 3, 10, 3).mean(axis=(1, 3))
    assert np.abs(centres - means).max() < 12  # halfway to the next cell's colour at most


def test_the_top_of_a_person_image_is_hidden_where_no_head_is_found():
    for width, height in ((50, 120), (128, 384), (300, 310), (400, 1000), (1, 1), (3, 200)):
        image = Image.new("RGB", (width, height), "grey")
        (box,) = FaceHider().boxes(image)
        assert box[:3] == (0, 0, width) and 0.23 * height <= box[3] <= max(1, 0.51 * height)
    assert FaceHider().boxes(Image.new("RGB", (400, 300), "grey")) == []


def test_no_image_is_looked_at_in_a_size_that_takes_long():
    for size in ((1, 1), (20_000, 15_000), (15_000, 20_000), (5_000, 15_000), (3, 9_000), (9_000, 3), (50, 120)):
        width, height = faces._looked_at(size)
        assert width >= 1 and height >= 1 and width * height <= 640 * 640
        assert max(width / size[0], height / size[1]) <= 4 or min(size) < 4


class Cascade:
    """Finds boxes (left, top, width, height) of the padded image; `sees` gets what it is shown."""

    def __init__(self, *boxes, sees=None):
        self.boxes, self.sees = boxes, sees

    def detectMultiScale(self, grey, **options):
        if self.sees is not None:
            self.sees.append(grey.copy())
        return np.array(self.boxes, np.int32).reshape(-1, 4)


def hider(frontal=(), profile=(), heads=(), sees=None):
    made = FaceHider()
    made._frontal, made._heads = Cascade(*frontal, sees=sees), Cascade(*heads)
    made._profile = Cascade(*profile)
    return made


def test_boxes_are_in_the_pixels_of_the_image_without_the_padding():
    """320 x 200 is looked at in twice its size, with 100 pixels (a quarter of 400) more on each side."""
    sees = []
    image = Image.new("RGB", (320, 200), (10, 10, 10))
    image.paste((250, 250, 250), (0, 0, 160, 200))
    found = hider([(140, 120, 40, 60)], [(100, 100, 20, 20)], [(0, 100, 80, 80)], sees)
    faces_found, heads_found = found.detect(image)
    (grey,) = sees
    assert grey.shape == (400 + 200, 640 + 200)
    assert grey[0, 0] == 250 and grey[-1, -1] == 10  # the border goes on
    # A profile that looks to the other side is found in the mirrored image: its left is 840 - 100 - 20 there.
    assert faces_found == [(20, 10, 40, 40), (0, 0, 10, 10), (310, 0, 320, 10)]
    assert heads_found == [(-50, 0, -10, 40)]


def test_what_is_hidden_reaches_around_a_face_and_is_the_upper_part_of_head_and_shoulders():
    """In an image of 320 x 200 pixels: a face of 40 x 40, and head and shoulders of 100 x 80."""
    image = Image.new("RGB", (320, 200))
    assert hider([(300, 200, 80, 80)]).boxes(image) == [(100 - 8, 50 - 10, 140 + 8, 90 + 8)]
    assert hider(heads=[(300, 200, 200, 160)]).boxes(image) == [(100 + 15, 50 - 4, 200 - 15, 50 + 56)]
    assert hider([(100, 100, 80, 80)]).boxes(image) == [(0, 0, 48, 48)]  # no more than the image


@pytest.mark.parametrize(("top", "also_above"), [(0, False), (40, False), (80, True)])
def test_a_head_far_below_the_top_of_a_person_does_not_spare_the_top(top, also_above):
    """200 x 400, looked at as it is with a padding of 50: of a head of 60 x 60 the centre is 19.5 below its top."""
    image = Image.new("RGB", (200, 400))
    assert faces._looked_at(image.size) == image.size
    far = 3 if also_above else 1  # how many times as far down
    boxes = hider(heads=[(50 + 60, 50 + far * top, 60, 60)]).boxes(image)
    whole_top = (0, 0, 200, 140)  # seven tenths of the width, which is more than three of the height
    assert (whole_top in boxes) is also_above and len(boxes) == 1 + also_above


def test_metadata_is_left_out_since_it_may_show_the_face():
    image = drawn_face(100)
    exif = Image.Exif()
    exif[0x010E] = "a secret description"
    image.info.update(exif=exif.tobytes(), comment="secret", icc_profile=b"secret profile")
    hidden = hide_faces(image)
    assert hidden.info == {}
    for form in ("PNG", "JPEG", "WEBP"):
        buffer = io.BytesIO()
        hidden.save(buffer, form)
        assert b"secret" not in buffer.getvalue()


def test_threads_find_what_one_thread_finds():
    generator = np.random.default_rng(0)
    images = []
    for number in range(3):
        pixels = generator.integers(0, 256, (12, 8, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((160, 240))
        image.paste(drawn_face(60 + 30 * number), (10 * number, 20))
        images.append(image)
    alone = [FaceHider().boxes(image) for image in images]
    assert any(len(boxes) > 1 for boxes in alone)
    hider = FaceHider()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(hider.boxes, images * 3)) == alone * 3


@pytest.mark.skipif(not STREET_CROPS.is_dir(), reason="no real photographs here")
def test_the_faces_of_real_crops_are_hidden():
    _, people = read_people(PEOPLE)
    wide = [(read_image(STREET_CROPS / name), drawn) for name, drawn in list(people.items())[::3]]
    for images in (wide, [cut_close(*one) for one in wide]):
        result = measure(FaceHider().boxes, images)
        assert result["faces"] >= 10 and result["faces_hidden"] >= result["faces"] - 1
        assert result["area_hidden"] < 0.2


# --- where images are shown ---------------------------------------------------------------------------------------


def checkered(seed):
    """An image of 40x80 full of detail that a blur takes away."""
    pixels = np.indices((80, 40)).sum(axis=0) // 2 % 2 * 200 + np.random.default_rng(seed).integers(0, 56, (80, 40))
    return Image.fromarray(np.repeat(pixels.astype(np.uint8)[..., None], 3, axis=2))


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "people"
    folder.mkdir()
    for number in range(3):
        checkered(number).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def gallery(folder, model_folder, tmp_path):
    aga("index", folder, "--model", model_folder, "--out", tmp_path / "gallery")
    return tmp_path / "gallery"


@pytest.fixture
def known_box(monkeypatch):
    monkeypatch.setattr(FaceHider, "boxes", lambda self, image: [BOX])


@pytest.fixture
def asks_for_hiding(monkeypatch):
    """The setting of every gallery."""
    settings = GallerySettings(hide_faces=True)
    monkeypatch.setattr(Gallery, "settings", settings)


def hits_of(gallery, model_folder):
    encoder = PersonEncoder.from_pretrained(model_folder)
    return encoder, Gallery.open(gallery).search(encoder.encode_texts([SENTENCE]), 3)[0]


def as_hidden_files(hits, folder):
    """The hits with files in the place of theirs in which the faces are hidden already."""
    folder.mkdir()
    result = []
    for hit in hits:
        file = folder / hit.path.name
        face_hider().hide(read_image(hit.path)).save(file)
        result.append(replace(hit, row=replace(hit.row, path=str(file)), hide_faces=False))
    return result


def images_in(page):
    data = re.findall(r'src="data:image/\w+;base64,([^"]+)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(one))) for one in data]


def is_hidden(image):
    """Whether an image of 40x80 lacks the detail that it has outside of the box."""
    below = (8, 44, 32, 76)
    assert detail(image, below) > 40
    return detail(image, BOX) < 0.5 * detail(image, below)


def check_outputs(gallery, model_folder, tmp_path, *options):
    """Every file that `aga search` writes is the one that it writes of images whose faces are hidden."""
    arguments = ("search", gallery, SENTENCE, "--top-k", 3, *options)
    aga(*arguments, "--save", tmp_path / "r.png", "--explain", tmp_path / "why.png")
    aga(*arguments, "--save", tmp_path / "r.html")
    encoder, hits = hits_of(gallery, model_folder)
    plain = [replace(hit, hide_faces=False) for hit in hits]
    hidden = as_hidden_files(hits, tmp_path / "hidden")
    wanted = save_result_picture(SENTENCE, hidden, tmp_path / "wanted.png")
    open_one = save_result_picture(SENTENCE, plain, tmp_path / "open.png")
    written = Image.open(tmp_path / "r.png")
    assert np.array_equal(np.asarray(written), np.asarray(wanted))
    assert not np.array_equal(np.asarray(written), np.asarray(open_one))
    page = (tmp_path / "r.html").read_text()
    assert "href" not in page and page.count("<img") == 3
    assert [is_hidden(image) for image in images_in(page)] == [True] * 3
    explanation = Explainer.from_encoder(encoder).explain(read_image(hits[0].path), SENTENCE)  # of what the model sees
    wanted = explanation_image(explanation, read_image(hidden[0].row.path))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "why.png")), np.asarray(wanted))


def test_every_output_of_a_search_that_asks_for_it(gallery, model_folder, tmp_path, known_box):
    check_outputs(gallery, model_folder, tmp_path, "--hide-faces")


def test_every_output_of_a_gallery_that_asks_for_it(gallery, model_folder, tmp_path, known_box, asks_for_hiding):
    check_outputs(gallery, model_folder, tmp_path)


def test_without_being_asked_for_it_nothing_is_hidden(gallery, tmp_path, known_box):
    aga("search", gallery, SENTENCE, "--save", tmp_path / "r.html")
    assert [is_hidden(image) for image in images_in((tmp_path / "r.html").read_text())] == [False] * 3


def test_models_see_the_faces(gallery, model_folder, known_box, asks_for_hiding):
    """Hiding changes no score: the model reads the image as it is."""
    _, hits = hits_of(gallery, model_folder)
    assert all(hit.hide_faces for hit in hits)
    for hit in hits:
        assert np.array_equal(np.asarray(read_hit(hit)), np.asarray(read_image(hit.path)))
        assert is_hidden(shown_image(hit)) and not is_hidden(read_hit(hit))


@pytest.mark.parametrize("by_setting", [True, False])
def test_the_demo_shows_no_face(gallery, model_folder, known_box, monkeypatch, request, by_setting):
    if by_setting:
        request.getfixturevalue("asks_for_hiding")
    encoder, _ = hits_of(gallery, model_folder)
    search = GallerySearch(Gallery.open(gallery), encoder, hide_faces=not by_setting)
    by_sentence = search.by_sentence(SENTENCE, Wanted(top_k=3))
    upload = search.read_upload(data_url(checkered(0)))
    by_image = search.by_image(upload, Wanted(top_k=3))
    for answer in (by_sentence, by_image):
        shown = images_in(result_cards(answer.hits))
        assert len(shown) == 3 and all(is_hidden(image) for image in shown)
    assert is_hidden(search.shown_upload(upload))
    image = read_image(by_sentence.hits[0].path)
    wanted = explanation_image(search.explainer.explain(image, SENTENCE), face_hider().hide(image))
    assert np.array_equal(np.asarray(search.explain(by_sentence.hits[0], SENTENCE)), np.asarray(wanted))
    plain = GallerySearch(Gallery.open(gallery), encoder).by_sentence(SENTENCE, Wanted(top_k=3))
    assert [is_hidden(image) for image in images_in(result_cards(plain.hits))] == [by_setting] * 3


def data_url(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def test_crops_that_were_not_saved_are_hidden_too(known_box, gallery, model_folder, folder, tmp_path):
    _, hits = hits_of(gallery, model_folder)
    cut = replace(hits[0].row, path="", box=(0.0, 0.0, 40.0, 60.0))
    hit = replace(hits[0], row=cut, hide_faces=True)
    assert shown_image(hit).size == (40, 60) and detail(shown_image(hit), BOX) < 0.5 * detail(read_hit(hit), BOX)


@pytest.mark.parametrize("by_setting", [True, False])
def test_without_opencv_nothing_is_shown(gallery, model_folder, tmp_path, monkeypatch, request, by_setting):
    encoder, hits = hits_of(gallery, model_folder)
    if by_setting:
        request.getfixturevalue("asks_for_hiding")

    def missing():
        raise ModuleNotFoundError("No module named 'cv2'", name="cv2")

    monkeypatch.setattr(faces, "import_opencv", missing)
    face_hider.cache_clear()
    options = [] if by_setting else ["--hide-faces"]
    for name in ("r.png", "r.html"):
        result = aga("search", gallery, SENTENCE, "--save", tmp_path / name, *options, code=2)
        assert result.stdout == "" and not (tmp_path / name).exists()
        assert "hiding faces needs OpenCV" in result.stderr and "aga-model[search]" in result.stderr
    hit = replace(hits[0], hide_faces=True)
    for show in (
        lambda: shown_image(hit),
        lambda: save_result_picture(SENTENCE, [hit], tmp_path / "r.png"),
        lambda: write_page([Answer(SENTENCE, [hit])], tmp_path / "r.html", "title"),
        lambda: result_cards([hit]),
        lambda: GallerySearch(Gallery.open(gallery), encoder, hide_faces=not by_setting),
    ):
        with pytest.raises(ModuleNotFoundError, match="hiding faces needs OpenCV"):
            show()
    assert not list(tmp_path.glob("r.*"))


def test_an_opencv_without_its_detectors_is_told_of(monkeypatch):
    monkeypatch.setattr(faces, "_PROFILE", "nothing.xml")
    with pytest.raises(OSError, match=r"OpenCV lacks its detector .*nothing\.xml"):
        FaceHider()


def test_json_and_tables_need_no_face(gallery, known_box, asks_for_hiding):
    assert len(json.loads(aga("search", gallery, SENTENCE, "--json").stdout)["hits"]) == 3
