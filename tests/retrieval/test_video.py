import math
import sys
import threading
import time
import warnings

import numpy as np
import pytest
from PIL import Image
from videos import (
    SIZE,
    damage_frames,
    number_of,
    numbered,
    numbered_video,
    set_durations,
    set_frame_count,
    set_rotation,
)

from aga_model.files import (
    UnreadableVideoError,
    VideoDamagedWarning,
    expected_frames,
    import_opencv,
    is_video,
    read_frame,
    sample_frames,
    video,
)

# MPEG-1 and MPEG-2 are written with B frames.
CODECS = {"MJPG": "avi", "mp4v": "mp4", "XVID": "avi", "MPG2": "mpg", "FFV1": "mkv", "VP80": "webm"}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """8 seconds of 25 frames per second in each codec."""
    folder = tmp_path_factory.mktemp("videos")
    return {codec: numbered_video(folder / f"{codec}.{end}", 200, codec, 25) for codec, end in CODECS.items()}


@pytest.mark.parametrize("codec", CODECS)
def test_frames_are_those_at_the_interval(videos, codec):
    frames = list(sample_frames(videos[codec], 0.5))
    first = round(25 * frames[0].offset)  # some containers begin with a frame's delay
    assert first in (0, 1)
    due = [min(n for n in range(200) if (n + first) / 25 >= 0.5 * step - 1e-9) for step in range(16)]
    assert [frame.number for frame in frames][:16] == due
    assert [number_of(frame.image) for frame in frames] == [frame.number for frame in frames]
    assert [frame.offset for frame in frames] == pytest.approx([(frame.number + first) / 25 for frame in frames])
    assert all(frame.image.size == SIZE and frame.image.mode == "RGB" for frame in frames)


@pytest.mark.parametrize("codec", CODECS)
def test_a_frame_read_again_is_the_same(videos, codec):
    for frame in list(sample_frames(videos[codec], 1.1)):
        assert read_frame(videos[codec], frame.number).tobytes() == frame.image.tobytes()
        assert read_frame(videos[codec], frame.number, frame.offset).tobytes() == frame.image.tobytes()


@pytest.mark.parametrize("codec", ["MJPG", "mp4v", "XVID", "FFV1"])
def test_a_frame_with_its_time_is_not_read_from_the_beginning(videos, codec, monkeypatch):
    frame = list(sample_frames(videos[codec], 0.5))[-1]
    monkeypatch.setattr(video._Reader, "advance", lambda self: pytest.fail("read from the beginning"))
    assert read_frame(videos[codec], frame.number, frame.offset).tobytes() == frame.image.tobytes()


def test_a_wrong_time_does_not_give_a_wrong_frame(videos):
    for offset in (0.0, 5.01, 7.999, 100.0, math.nan):
        assert number_of(read_frame(videos["mp4v"], 150, offset)) == 150


def test_every_frame(videos):
    assert [frame.number for frame in sample_frames(videos["mp4v"], 0.001)] == list(range(200))


def test_all_frames_after_the_start_frame_are_the_same(videos):
    everything = list(sample_frames(videos["mp4v"], 0.3))
    for start in (0, 1, 76, 80, 199, 500):
        found = list(sample_frames(videos["mp4v"], 0.3, start_frame=start))
        wanted = [frame for frame in everything if frame.number >= start]
        assert [(frame.number, frame.offset) for frame in found] == [(f.number, f.offset) for f in wanted]
        assert all(a.image.tobytes() == b.image.tobytes() for a, b in zip(found, wanted))


def test_frames_that_are_asked_for_by_number(videos):
    every = {frame.number: frame for frame in sample_frames(videos["mp4v"], 0.001)}
    found = list(sample_frames(videos["mp4v"], 0.3, start_frame=150, also={7, 9, 152, 10_000}))
    wanted = [frame.number for frame in sample_frames(videos["mp4v"], 0.3, start_frame=150)]
    assert [frame.number for frame in found] == sorted({7, 9, 152, *wanted})
    assert all(frame.image.tobytes() == every[frame.number].image.tobytes() for frame in found)


def test_varying_rate(tmp_path):
    """Times are the file's, not number / rate."""
    ticks = [1] * 20 + [7] * 10 + [1] * 10 + [40] + [2] * 20
    path = numbered_video(tmp_path / "a.mp4", len(ticks), "mp4v", 10)
    set_durations(path, ticks)
    times = np.cumsum([0, *ticks[:-1]]) / 10
    frames = list(sample_frames(path, 0.001))
    assert [frame.offset for frame in frames] == pytest.approx(times)
    found = list(sample_frames(path, 0.5))
    wanted, due = [], 0.0
    for number, seconds in enumerate(times):
        if seconds >= due - 1e-9:
            wanted.append(number)
            due = 0.5 * (math.floor(seconds / 0.5 + 1e-9) + 1)
    assert [frame.number for frame in found] == wanted == [number_of(frame.image) for frame in found]
    for frame in found:
        assert number_of(read_frame(path, frame.number, frame.offset)) == frame.number


def test_rotated_frames_are_upright(tmp_path):
    path = numbered_video(tmp_path / "a.mp4", 30, "mp4v")
    stored = [frame.image for frame in sample_frames(path, 1)]
    set_rotation(path)
    frames = list(sample_frames(path, 1))
    for frame, image in zip(frames, stored, strict=True):
        assert frame.image.tobytes() == image.transpose(Image.Transpose.ROTATE_270).tobytes()
        assert read_frame(path, frame.number, frame.offset).size == SIZE[::-1]


@pytest.mark.parametrize("count", [0, 10, 61, 100])
def test_a_wrong_number_of_frames_in_the_header(tmp_path, count):
    path = numbered_video(tmp_path / "a.avi", 60)
    set_frame_count(path, count)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        frames = list(sample_frames(path, 0.1))
    assert [number_of(frame.image) for frame in frames] == list(range(60))
    assert [str(warning.message) for warning in caught] == (
        [f"{path}: it ends after 5.9 seconds, where its header announces 10.0"] if count == 100 else []
    )


@pytest.mark.parametrize(("codec", "end"), [("MJPG", "avi"), ("VP80", "webm")])
def test_truncated(tmp_path, codec, end):
    data = numbered_video(tmp_path / f"whole.{end}", 100, codec).read_bytes()
    path = tmp_path / f"cut.{end}"
    path.write_bytes(data[: len(data) * 6 // 10])
    with pytest.warns(VideoDamagedWarning, match=r"cut\.\w+: it ends after .*, where its header announces 10\.0"):
        frames = list(sample_frames(path, 0.5))
    assert 8 <= len(frames) <= 16
    assert [number_of(frame.image) for frame in frames] == [frame.number for frame in frames]


def test_truncated_before_the_index(tmp_path):
    data = numbered_video(tmp_path / "whole.mp4", 50, "mp4v").read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: len(data) * 8 // 10])
    with pytest.raises(UnreadableVideoError, match=r"cut\.mp4: truncated, or no video"):
        list(sample_frames(path))


def test_frames_after_a_damaged_stretch_are_read(tmp_path):
    path = numbered_video(tmp_path / "a.avi", 150)
    damage_frames(path, range(20, 120))
    with pytest.warns(VideoDamagedWarning, match=r"a\.avi: 100 frames or stretches of frames cannot be decoded"):
        frames = list(sample_frames(path, 0.1))
    assert [frame.number for frame in frames] == list(range(50))
    assert [number_of(frame.image) for frame in frames] == [*range(20), *range(120, 150)]
    assert [round(10 * frame.offset) for frame in frames] == [*range(20), *range(120, 150)]
    for frame in frames[::7]:
        assert read_frame(path, frame.number).tobytes() == frame.image.tobytes()
        assert read_frame(path, frame.number, frame.offset).tobytes() == frame.image.tobytes()


def test_what_is_no_video(tmp_path):
    contents = {
        "text.mp4": b"a text that FFmpeg would draw\n" * 50,
        "empty.avi": b"",
        "list.mp4": b"ffconcat version 1.0\nfile other.mp4\n",
        "list.avi": b"#EXTM3U\n#EXTINF:10,\nother.ts\n",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    numbered(3).save(tmp_path / "picture.mp4", "PNG")
    numbered(3).save(tmp_path / "animation.mp4", "GIF")
    for name in (*contents, "picture.mp4", "animation.mp4"):
        assert not is_video(tmp_path / name)
        with pytest.raises(UnreadableVideoError, match=f"{name}: not a video"):
            next(sample_frames(tmp_path / name))
    (tmp_path / "header.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(500))
    with pytest.raises(UnreadableVideoError, match=r"header\.mp4: truncated, or no video"):
        next(sample_frames(tmp_path / "header.mp4"))


@pytest.mark.parametrize("codec", CODECS)
def test_videos_are_known_by_their_content(videos, codec):
    assert is_video(videos[codec])


@pytest.mark.parametrize(
    ("begin", "known"),
    [
        *((b"\0\0\0\x20ftyp" + brand + b"\0" * 20, False) for brand in (b"avif", b"avis", b"heic", b"mif1", b"msf1")),
        *((b"\0\0\0\x20ftyp" + brand + b"\0" * 20, True) for brand in (b"isom", b"mp42", b"qt  ", b"avc1")),
        (b"\0\0\0\x08moov", True),
        (b"RIFF\x10\0\0\0AVI LIST", True),
        (b"RIFF\x10\0\0\0WAVEfmt ", False),
        (b"RIFF\x10\0\0\0WEBPVP8 ", False),
        (b"\x1a\x45\xdf\xa3", True),
        (b"\xff\xd8\xff", False),
        (b"GIF89a", False),
        (b"", False),
    ],
)
def test_first_bytes_of_stills_and_sounds_are_not_those_of_videos(tmp_path, begin, known):
    (tmp_path / "file").write_bytes(begin)
    assert is_video(tmp_path / "file") is known


def test_how_many_frames_are_expected(tmp_path):
    """30 frames at 10 a second, of which the last is shown at 2.9 seconds."""
    path = numbered_video(tmp_path / "a.avi", 30, rate=10.0)
    for every, wanted in ((0.5, 6), (0.7, 5), (1.0, 3), (10.0, 1), (0.01, 30)):
        assert expected_frames(path, every) == wanted == len(list(sample_frames(path, every)))
    set_frame_count(path, 0)
    assert expected_frames(path, 0.5) is None


def test_transport_streams_are_videos(tmp_path):
    for name, start, packet in (("a.ts", b"", 188), ("a.m2ts", b"\0\0\0\0", 192)):
        data = (start + b"\x47").ljust(packet, b"\0") * 3
        (tmp_path / name).write_bytes(data)
        assert is_video(tmp_path / name)
    (tmp_path / "G").write_bytes(b"Good morning".ljust(400))
    assert not is_video(tmp_path / "G")


def test_files_that_cannot_be_opened(tmp_path):
    path = numbered_video(tmp_path / "a.avi", 5)
    undecodable = path.rename(tmp_path / "\udcff.avi")
    cases = {tmp_path / "b.avi": "no such file", tmp_path: "not a regular file", undecodable: "not valid UTF-8"}
    for place, reason in cases.items():
        with pytest.raises(UnreadableVideoError, match=reason):
            next(sample_frames(place))


def test_no_frame(tmp_path):
    path = numbered_video(tmp_path / "a.avi", 20)
    damage_frames(path, range(20))
    with pytest.raises(UnreadableVideoError, match="holds no frame that can be decoded"):
        list(sample_frames(path))


def test_huge_frames_are_refused(videos, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", SIZE[0] * SIZE[1] - 1)
    with pytest.raises(UnreadableVideoError, match="frames of 160x64: more than 10239 pixels"):
        next(sample_frames(videos["mp4v"]))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", SIZE[0] * SIZE[1])
    assert next(sample_frames(videos["mp4v"])).number == 0


def test_missing_frames(videos):
    with pytest.raises(UnreadableVideoError, match="has no frame 200, only 200 that can be decoded"):
        read_frame(videos["MJPG"], 200)


@pytest.mark.parametrize("every", [0, -1, math.nan, math.inf])
def test_bad_intervals(videos, every):
    with pytest.raises(ValueError, match="give a positive number"):
        next(sample_frames(videos["MJPG"], every))


def test_frames_are_decoded_ahead_but_not_all(videos, monkeypatch):
    images = []
    original = video._Reader.image
    monkeypatch.setattr(video._Reader, "image", lambda self: images.append(self.number) or original(self))
    frames = sample_frames(videos["mp4v"], 0.04)
    next(frames)
    deadline = time.monotonic() + 60
    while len(images) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(images) == 3  # the one in hand and two ahead
    before = threading.active_count()
    frames.close()
    assert threading.active_count() == before - 1


def test_closing_does_not_wait_for_a_far_frame(videos, monkeypatch):
    """While the thread is on its way to a far frame, the caller gives up."""
    reader = video._Reader(videos["MJPG"])
    monkeypatch.setattr(reader._clock, "tick", lambda milliseconds: time.sleep(0.1) or 0.0)
    frames = video._ahead(reader, 1000.0, 0)
    next(frames)
    started = time.monotonic()
    frames.close()
    assert time.monotonic() - started < 10  # the other 199 frames would take twenty seconds


def test_errors_in_the_thread_reach_the_caller(videos, monkeypatch):
    monkeypatch.setattr(video._Reader, "image", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(sample_frames(videos["MJPG"]))


def test_without_opencv(videos, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'aga-model\[search\]'"):
        next(sample_frames(videos["MJPG"]))


@pytest.mark.parametrize(
    ("rate", "period"),
    [(30.0, 1 / 30), (1000.0, 0.001), (90_000.0, 0.04), (0.0, 0.04), (-5.0, 0.04), (math.nan, 0.04), (math.inf, 0.04)],
)
def test_frames_of_streams_without_times_are_as_far_apart_as_a_rate_that_can_be_says(monkeypatch, rate, period):
    """Headers without a rate give 0, or the ticks of their clock; then it is 25 frames a second."""

    class Capture:
        def get(self, name):
            return rate if name == import_opencv().CAP_PROP_FPS else 0.0

        def grab(self):
            return True

    monkeypatch.setattr(video, "_open", lambda cv2, path: Capture())
    reader = video._Reader("a.avi")
    offsets = [reader.offset for _ in range(3) if reader.advance()]
    assert offsets == pytest.approx([0.0, period, 2 * period])


@pytest.mark.parametrize(
    ("reported", "offsets"),
    [
        ([0, 40, 80, 120], [0, 0.04, 0.08, 0.12]),
        ([-80, 40, 80], [0, 0.04, 0.08]),  # B frames before the beginning
        ([0, 0, 0, 0], [0, 0.1, 0.2, 0.3]),  # a stream without times
        ([0, math.nan, 200], [0, 0.1, 0.2]),
        ([0, 101, 67, 134, 34, 234], [0, 0.101, 0.101, 0.134, 0.134, 0.234]),  # out of order
        ([0, 5000, 10000, 0, 5000], [0, 5, 10, 10.1, 15.1]),  # recordings one after the other
        ([0, 5000, 0, 4000, 2000, 6000], [0, 5, 5.1, 9.1, 9.2, 13.2]),  # three of them, of different lengths
        ([0, 60000, 60040], [0, 60, 60.04]),  # a camera that records when something moves
    ],
)
def test_clock(reported, offsets):
    clock = video._Clock(period=0.1)
    assert [clock.tick(milliseconds) for milliseconds in reported] == pytest.approx(offsets)
