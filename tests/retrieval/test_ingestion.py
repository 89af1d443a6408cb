import dataclasses
import hashlib
import random

import numpy as np
import pytest
from PIL import Image
from videos import damage_frames, write_video

from aga_model.data.rendered import render_person, sample_person
from aga_model.files import UnreadableImageError, UnreadableVideoError, VideoDamagedWarning, sample_frames
from aga_model.gallery import cut_again
from aga_model.ingest import Detection, TrackedBox, crops_of_image, crops_of_video, save_crop
from aga_model.ingest import people as cutting

SIZE = WIDTH, HEIGHT = 320, 160
FRAMES, RATE = 40, 10.0
PEOPLE = 3


def boxes_at(frame):
    """Where the people are: two cross, and the third is small and stands at the left edge."""
    walked = 5 * frame
    return [(20 + walked, 20, 68 + walked, 148), (260 - walked, 26, 308 - walked, 154), (0, 60, 12, 92)]


@pytest.fixture(scope="module")
def people():
    drawn = []
    for seed in range(PEOPLE):
        rng = random.Random(seed)
        drawn.append(render_person(sample_person(rng), rng, 128, 48)[0])
    return drawn


@pytest.fixture(scope="module")
def scenes(people):
    images = []
    for frame in range(FRAMES):
        image = Image.new("RGB", SIZE, (110, 130, 150))
        for person, box in zip(people, boxes_at(frame)):
            image.paste(person.resize((box[2] - box[0], box[3] - box[1])), box[:2])
        images.append(image)
    return images


@pytest.fixture(scope="module", params=[("MJPG", "avi"), ("mp4v", "mp4")], ids="-".join)
def video(request, scenes, tmp_path_factory):
    codec, end = request.param
    return write_video(tmp_path_factory.mktemp("videos") / f"a.{end}", scenes, codec, RATE)


class KnownPeople:
    """Finds the people where they were drawn; knows the frame by comparing it with the scenes."""

    def __init__(self, scenes):
        self.scenes = np.stack([np.asarray(scene, np.int16) for scene in scenes])
        self.seen = []

    def detect(self, images):
        found = []
        for image in images:
            frame = int(np.abs(self.scenes - np.asarray(image, np.int16)).mean(axis=(1, 2, 3)).argmin())
            self.seen.append(frame)
            found.append([Detection(box, 0.9 - place / 10) for place, box in enumerate(boxes_at(frame))])
        return found


def plain(crop):
    return (crop.source, crop.source_hash, crop.frame, crop.offset, crop.box, crop.detection_score, crop.track)


def test_crops_show_the_people(video, scenes, people):
    crops = list(crops_of_video(video, KnownPeople(scenes), every=0.5, margin=0))
    assert [crop.frame for crop in crops] == [frame for frame in range(0, FRAMES, 5) for _ in range(2)]
    digest = hashlib.sha256(video.read_bytes()).hexdigest()
    for index, crop in enumerate(crops):
        place = index % 2
        assert crop.offset == pytest.approx(crop.frame / RATE)
        assert crop.box == boxes_at(crop.frame)[place]
        assert crop.detection_score == pytest.approx(0.9 - place / 10)
        assert (crop.source, crop.source_hash) == (video.resolve(), digest)
        if not 20 <= crop.frame <= 30:  # they hide each other
            difference = np.abs(np.asarray(crop.image, int) - np.asarray(people[place], int)).mean()
            other = np.abs(np.asarray(crop.image, int) - np.asarray(people[1 - place], int)).mean()
            assert difference < 10 < 20 < other  # lossy coding
    with pytest.raises(dataclasses.FrozenInstanceError):
        crops[0].track = "1"


def test_each_person_is_one_track(video, scenes):
    crops = list(crops_of_video(video, KnownPeople(scenes), every=0.3, min_height=20))
    assert [crop.track for crop in crops] == ["0.1", "0.2", "0.3"] * (FRAMES // 3 + 1)


def test_margin_is_cut_off_at_the_edges(video, scenes):
    first = list(crops_of_video(video, KnownPeople(scenes), every=100, margin=0.25, min_height=8))
    # 48 x 128 pixels: 12 and 32 on each side; 12 x 32: 3 and 8
    assert [crop.box for crop in first] == [(8, 0, 80, HEIGHT), (248, 0, WIDTH, HEIGHT), (0, 52, 15, 100)]
    assert all(crop.image.size == (crop.box[2] - crop.box[0], crop.box[3] - crop.box[1]) for crop in first)


def test_a_margin_is_of_each_side_within_the_image_and_can_be_taken_off_again():
    """40 x 100 pixels and a quarter of it: 10 to the sides, 25 above and below."""
    image = Image.new("RGB", (100, 200))
    assert cutting._cut_box((20, 40, 60, 140), 0.25, image) == (10, 15, 70, 165)
    assert cutting._without_margin((10, 15, 70, 165), 0.25) == (20, 40, 60, 140)
    assert cutting._cut_box((20.75, 40.75, 60.25, 140.25), 0.0, image) == (20, 40, 61, 141)  # whole pixels around it
    assert cutting._cut_box((5, 10, 45, 110), 0.25, image) == (0, 0, 55, 135)
    assert cutting._cut_box((58, 95, 98, 195), 0.25, image) == (48, 70, 100, 200)


def test_low_and_narrow_boxes_are_left_out(video):
    class Boxes:
        def detect(self, images):
            boxes = [(0, 0, 20, 40), (0, 0, 20, 39.9), (0, 0, 7.9, 90), (0, 0, 20, 7)]
            return [[Detection(box, 0.5) for box in boxes] for _ in images]

    found = {crop.box for crop in crops_of_video(video, Boxes(), margin=0)}
    assert found == {(0, 0, 20, 40)}
    lowest = list(crops_of_video(video, Boxes(), every=100, margin=0, min_height=0))
    assert [crop.box for crop in lowest] == [(0, 0, 20, 40)] * 2  # each 8 x 8 pixels at least


def test_the_same_file_gives_the_same_crops(video, scenes):
    first, second = (list(crops_of_video(video, KnownPeople(scenes), every=0.2)) for _ in range(2))
    assert [plain(crop) for crop in first] == [plain(crop) for crop in second]
    assert [crop.image.tobytes() for crop in first] == [crop.image.tobytes() for crop in second]


def test_an_interrupted_run_continues(video, scenes):
    whole = list(crops_of_video(video, KnownPeople(scenes), every=0.3))
    kept = whole[:15]  # ends within a frame
    detector = KnownPeople(scenes)
    rest = list(crops_of_video(video, detector, every=0.3, start_frame=kept[-1].frame))
    assert min(detector.seen) == kept[-1].frame
    places = [(crop.frame, crop.box, crop.image.tobytes()) for crop in rest]
    assert places == [(c.frame, c.box, c.image.tobytes()) for c in whole if c.frame >= kept[-1].frame]
    assert not {crop.track for crop in rest} & {crop.track for crop in whole}


class Unsure:
    """Finds people who cross and turn, each with a box that jitters, and misses one in four."""

    def __init__(self, video):
        self.numbers = {frame.image.tobytes(): frame.number for frame in sample_frames(video, 0.01)}

    def detect(self, images):
        return [self._people(self.numbers[image.tobytes()]) for image in images]

    def _people(self, number):
        rng = np.random.default_rng(number)
        found = []
        for place in range(6):
            left = 20 + 40 * place + 15 * np.sin(number / (2 + place)) + rng.normal(0, 3)
            top = 20 + rng.normal(0, 3)
            if rng.random() < 0.75:
                found.append(Detection((left, top, left + 40, top + 100), rng.random()))
        return found


@pytest.mark.parametrize("every", [0.1, 0.5])
def test_tracks_of_a_continued_run_are_those_of_an_uninterrupted_one(video, every):
    detector = Unsure(video)
    whole = list(crops_of_video(video, detector, every))
    assert 6 <= len({crop.track for crop in whole}) < len(whole) / 2
    for stopped in range(1, len(whole), 5):
        kept = whole[:stopped]
        known = [TrackedBox(crop.frame, crop.offset, tuple(map(float, crop.box)), crop.track) for crop in kept]
        np.random.default_rng(stopped).shuffle(known)
        rest = list(crops_of_video(video, detector, every, start_frame=kept[-1].frame, known=known))
        assert [plain(crop) for crop in rest] == [plain(crop) for crop in whole if crop.frame >= kept[-1].frame]


def test_a_crop_is_cut_again(video, scenes):
    for crop in list(crops_of_video(video, KnownPeople(scenes), every=0.7)):
        assert cut_again(crop.source, crop.box, crop.frame, crop.offset).tobytes() == crop.image.tobytes()
        assert cut_again(crop.source, crop.box, crop.frame).tobytes() == crop.image.tobytes()


def test_photographs(scenes, people, tmp_path):
    """Turned by 90 degrees on disk, with EXIF that says so."""
    path = tmp_path / "scene.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # turn to the right
    scenes[0].transpose(Image.Transpose.ROTATE_90).save(path, exif=exif, quality=95)
    crops = list(crops_of_image(path, KnownPeople(scenes), margin=0))
    assert [crop.box for crop in crops] == boxes_at(0)[:2]
    assert {(crop.frame, crop.offset, crop.track) for crop in crops} == {(None, None, None)}
    for crop, person in zip(crops, people):
        assert np.abs(np.asarray(crop.image, int) - np.asarray(person, int)).mean() < 10
        assert crop.source_hash == hashlib.sha256(path.read_bytes()).hexdigest()
        assert cut_again(crop.source, crop.box).tobytes() == crop.image.tobytes()


def test_saved_crops(video, scenes, tmp_path):
    crops = list(crops_of_video(video, KnownPeople(scenes), every=1))
    paths = [save_crop(crop, tmp_path / "crops") for crop in crops]
    assert len(set(paths)) == len(crops)
    crop, path = crops[2], paths[2]
    left, top, right, bottom = crop.box
    folder = tmp_path / "crops" / hashlib.sha256(video.read_bytes()).hexdigest()[:16]
    assert path == folder / f"00000010_{left}_{top}_{right}_{bottom}.jpg"
    before = path.read_bytes()
    assert save_crop(crop, tmp_path / "crops") == path and path.read_bytes() == before
    assert sorted(folder.iterdir()) == sorted(paths)  # nothing temporary is left
    with Image.open(path) as saved:
        assert saved.format == "JPEG"
        assert np.abs(np.asarray(saved, int) - np.asarray(crop.image, int)).mean() < 3
    scenes[0].save(tmp_path / "scene.png")
    (still, *_) = crops_of_image(tmp_path / "scene.png", KnownPeople(scenes))
    assert save_crop(still, tmp_path / "crops").name.startswith("photograph_")


def test_problems_with_sources(scenes, tmp_path):
    detector = KnownPeople(scenes)
    (tmp_path / "text.mp4").write_text("no video")
    for name, reason in (("text.mp4", "not a video"), ("missing.mp4", "no such file")):
        with pytest.raises(UnreadableVideoError, match=reason):
            list(crops_of_video(tmp_path / name, detector))
    with pytest.raises(UnreadableImageError):
        list(crops_of_image(tmp_path / "text.mp4", detector))
    path = write_video(tmp_path / "a.avi", scenes)
    with pytest.raises(ValueError, match="margin of crops is -1"):
        list(crops_of_video(path, detector, margin=-1))
    damage_frames(path, range(10, 20))
    with pytest.warns(VideoDamagedWarning, match="10 frames"):
        assert list(crops_of_video(path, detector))
