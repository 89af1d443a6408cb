"""Small videos whose frames show their own number, so that what is read can be compared with what was written."""

import struct
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

SIZE = WIDTH, HEIGHT = 160, 64
_BITS = 10
_BLOCK = 16


def numbered(number: int) -> Image.Image:
    """A picture with its number in a row of black and white blocks that lossy coding keeps."""
    pixels = np.full((HEIGHT, WIDTH, 3), (40, 90, 160), np.uint8)
    for bit in range(_BITS):
        pixels[:_BLOCK, bit * _BLOCK : (bit + 1) * _BLOCK] = 255 * (number >> bit & 1)
    return Image.fromarray(pixels)


def number_of(image: Image.Image) -> int:
    """The number that a picture shows."""
    row = np.asarray(image.convert("L"))[_BLOCK // 2, _BLOCK // 2 :: _BLOCK]
    return sum(1 << bit for bit in range(_BITS) if row[bit] > 127)


def write_video(path: Path, images: Sequence[Image.Image], codec: str = "MJPG", rate: float = 10.0) -> Path:
    """`images` as a video of a codec; the ending of the path says which container."""
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), rate, images[0].size)
    assert writer.isOpened(), f"no encoder for {codec} in {path.suffix}"
    for image in images:
        writer.write(cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def numbered_video(path: Path, frames: int, codec: str = "MJPG", rate: float = 10.0) -> Path:
    return write_video(path, [numbered(number) for number in range(frames)], codec, rate)


def set_durations(path: Path, ticks: Sequence[int]) -> None:
    """Give each frame of an MP4 its duration: a whole number of what all frames lasted before."""
    data = path.read_bytes()
    start = data.index(b"stts") - 4
    size, _, _, entries, count, delta = struct.unpack(">I4s4I", data[start : start + 24])
    assert entries == 1 and count == len(ticks), "not a constant rate"
    table = b"".join(struct.pack(">II", 1, delta * tick) for tick in ticks)
    box = struct.pack(">I4sII", 16 + len(table), b"stts", 0, len(ticks)) + table
    growth = len(box) - size
    grown = bytearray(data)
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):  # the boxes that hold it
        place = data.index(name) - 4
        grown[place : place + 4] = struct.pack(">I", struct.unpack(">I", data[place : place + 4])[0] + growth)
    assert data.index(b"mdat") < start, "the frames' places in the file would change"
    edits = data.index(b"edts")  # would cut the video to its old length
    grown[edits : edits + 4] = b"free"
    path.write_bytes(bytes(grown[:start]) + box + bytes(grown[start + size :]))


def set_rotation(path: Path) -> None:
    """Let an MP4 say that its frames must be turned by 90 degrees to the right to be upright."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # version 0
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(bytes(data))


def set_frame_count(path: Path, count: int) -> None:
    """Write another number of frames into an AVI's header."""
    data = bytearray(path.read_bytes())
    for place in (data.index(b"avih") + 8 + 16, data.index(b"strh") + 8 + 32):
        data[place : place + 4] = struct.pack("<I", count)
    path.write_bytes(bytes(data))


def damage_frames(path: Path, numbers: Sequence[int]) -> None:
    """Overwrite some frames of an AVI by zeros."""
    data = bytearray(path.read_bytes())
    place = data.index(b"movi") + 4
    chunks = []
    while data[place : place + 4] == b"00dc":
        (size,) = struct.unpack("<I", data[place + 4 : place + 8])
        chunks.append((place + 8, size))
        place += 8 + size + size % 2
    for number in numbers:
        start, size = chunks[number]
        data[start : start + size] = bytes(size)
    path.write_bytes(bytes(data))
