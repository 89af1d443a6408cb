import hashlib
import io
import os
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from aga_model.data import read_crop
from aga_model.files import UnreadableImageError, decode_image, find_images, read_bytes, read_image, read_image_file
from aga_model.files.image_files import _complete_images_only

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def noise(height=64, width=48, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def half(colour_left=RED, colour_right=BLUE, size=(32, 16)):
    image = Image.new("RGB", size, colour_left)
    image.paste(colour_right, (size[0] // 2, 0, *size))
    return image


def reason_of(path):
    with pytest.raises(UnreadableImageError) as caught:
        read_image(path)
    assert caught.value.path == path
    assert str(path) in str(caught.value)
    return caught.value.reason


def test_reads_plain_image_unchanged(tmp_path):
    image = noise()
    image.save(tmp_path / "a.png")
    read = read_image_file(tmp_path / "a.png")
    assert read.image.mode == "RGB"
    assert np.array_equal(np.asarray(read.image), np.asarray(image))
    assert read.sha256 == hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp", "tif", "ppm", "jp2", "avif"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_truncated_file_is_an_error(tmp_path, suffix, kept):
    path = tmp_path / f"a.{suffix}"
    noise().save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    assert reason_of(path)


def test_truncated_file_is_an_error_where_others_allow_it(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    path = tmp_path / "a.jpg"
    noise().save(path)
    path.write_bytes(path.read_bytes()[:-1500])
    errors = []

    def read_often():
        for _ in range(20):
            try:
                read_image(path)
            except UnreadableImageError as error:
                errors.append(error)

    threads = [threading.Thread(target=read_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 80
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True  # the process's setting is back


def test_truncated_files_stay_refused_until_the_last_thread_has_read(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with _complete_images_only():
        with _complete_images_only():
            assert ImageFile.LOAD_TRUNCATED_IMAGES is False
        assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_files_above_512_mib_are_never_read(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.touch()
    monkeypatch.setattr(Path, "read_bytes", lambda self: b"read")
    os.truncate(path, 2**29)  # a hole, which takes no room on the disk
    assert read_bytes(path) == b"read"
    os.truncate(path, 2**29 + 1)
    assert reason_of(path) == "larger than 512 MiB"


def test_text_named_jpg(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_text("hello")
    assert reason_of(path) == "not an image, or its header is damaged"


def test_empty_and_missing_file_and_folder(tmp_path):
    (tmp_path / "empty.jpg").touch()
    assert reason_of(tmp_path / "empty.jpg") == "empty file"
    assert "no such file" in reason_of(tmp_path / "missing.jpg")
    assert reason_of(tmp_path) == "not a regular file"


def test_postscript_is_never_handed_to_an_interpreter(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n")
    assert "not an image" in reason_of(path)


@pytest.mark.parametrize("size", [(1, 1), (7, 100), (100, 7)])
def test_too_small(tmp_path, size):
    path = tmp_path / "a.png"
    Image.new("RGB", size).save(path)
    assert reason_of(path) == f"smaller than 8 px ({size[0]}x{size[1]})"


def test_smallest_allowed(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").size == (8, 8)


@pytest.mark.parametrize("limit", [1000, 3000])  # PIL raises above twice the limit and only warns above the limit
def test_decompression_bomb(tmp_path, monkeypatch, limit):
    path = tmp_path / "a.png"
    noise(64, 64).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert "decompression bomb" in reason_of(path)


def test_the_callers_limit_counts_pixels(tmp_path):
    path = tmp_path / "a.png"
    noise(64, 48).save(path)
    assert decode_image(path.read_bytes(), path, max_pixels=3072).size == (48, 64)
    with pytest.raises(UnreadableImageError, match="48x64: more than the 3,071 pixels"):
        decode_image(path.read_bytes(), path, max_pixels=3071)


def test_cmyk(tmp_path):
    half().convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert Image.open(tmp_path / "a.jpg").mode == "CMYK"
    image = read_image(tmp_path / "a.jpg")
    assert image.mode == "RGB"
    assert np.abs(np.subtract(image.getpixel((2, 8)), RED)).max() < 12
    assert np.abs(np.subtract(image.getpixel((29, 8)), BLUE)).max() < 12


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bit_grey_spans_the_range(tmp_path, suffix):
    gradient = np.linspace(0, 65535, 256).astype(np.uint16)
    Image.fromarray(np.tile(gradient, (8, 1))).save(tmp_path / f"a.{suffix}")
    pixels = np.asarray(read_image(tmp_path / f"a.{suffix}"))
    assert np.array_equal(pixels[3, :, 0], np.arange(256))
    assert np.array_equal(pixels[..., 0], pixels[..., 2])


@pytest.mark.parametrize(("mode", "order", "signature"), [("I;16", "<u2", b"II*\0"), ("I;16B", ">u2", b"MM\0*")])
def test_sixteen_bit_tiff_of_either_byte_order_has_its_values(tmp_path, mode, order, signature):
    values = np.arange(0, 65536, 257).reshape(8, 32)  # 257 is 65535 / 255
    path = tmp_path / "a.tif"
    Image.frombytes(mode, (32, 8), values.astype(order).tobytes()).save(path)
    assert path.read_bytes()[:4] == signature
    assert np.array_equal(np.asarray(read_image(path))[..., 1], np.arange(256).reshape(8, 32))


def test_sixteen_bit_image_of_small_values_is_nearly_black(tmp_path):
    Image.fromarray(np.full((8, 8), 200, np.uint16)).save(tmp_path / "a.png")
    assert set(np.asarray(read_image(tmp_path / "a.png")).ravel()) == {1}  # 200 * 255 / 65535 is 0.8


def test_dark_sixteen_bit_image_stays_dark(tmp_path):
    Image.fromarray(np.full((8, 8), 6553, np.uint16)).save(tmp_path / "a.png")
    assert set(np.asarray(read_image(tmp_path / "a.png")).ravel()) == {25}  # a tenth of the range


@pytest.mark.parametrize("full_scale", [1.0, 255.0, 65535.0])
def test_float_grey(tmp_path, full_scale):
    values = np.tile(np.linspace(0, full_scale, 256, dtype=np.float32), (8, 1))
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert np.abs(np.asarray(read_image(tmp_path / "a.tif"))[0, :, 0].astype(int) - np.arange(256)).max() <= 1


def test_thirty_two_bit_grey_beyond_sixteen_bits_uses_its_own_range(tmp_path):
    values = np.tile(np.linspace(-1e6, 1e6, 256).astype(np.int32), (8, 1))
    Image.fromarray(values).save(tmp_path / "a.tif")
    pixels = np.asarray(read_image(tmp_path / "a.tif"))[0, :, 0]
    assert (pixels[0], pixels[-1]) == (0, 255)


def test_constant_float_image_and_nan(tmp_path):
    Image.fromarray(np.full((8, 8), -3, np.float32)).save(tmp_path / "a.tif")
    assert np.asarray(read_image(tmp_path / "a.tif")).max() == 0
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(tmp_path / "b.tif")
    assert "not finite" in reason_of(tmp_path / "b.tif")


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_single_pixel_that_is_not_finite_is_an_error(tmp_path, value):
    values = np.zeros((8, 8), np.float32)
    values[3, 5] = value
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert "not finite" in reason_of(tmp_path / "a.tif")


def test_palette_with_transparency_is_over_white(tmp_path):
    image = half().quantize(2)
    red = image.getpixel((2, 8))
    image.save(tmp_path / "a.png", transparency=red)
    assert Image.open(tmp_path / "a.png").mode == "P"
    read = read_image(tmp_path / "a.png")
    assert (read.getpixel((2, 8)), read.getpixel((29, 8))) == (WHITE, BLUE)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_is_composited_over_white(tmp_path, mode):
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (8, 0, 16, 8))
    image.paste((0, 0, 0, 51), (8, 8, 16, 16))
    image.convert(mode).save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png")
    assert read.getpixel((2, 2)) == (0, 0, 0)
    assert read.getpixel((12, 2)) == WHITE
    assert read.getpixel((12, 12)) == (204, 204, 204)


def test_one_bit(tmp_path):
    image = Image.new("1", (16, 8), 0)
    image.paste(1, (8, 0, 16, 8))
    image.save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png")
    assert (read.getpixel((2, 2)), read.getpixel((12, 2))) == ((0, 0, 0), WHITE)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_animation_gives_its_first_frame(tmp_path, suffix):
    frames = [Image.new("RGB", (16, 16), RED), Image.new("RGB", (16, 16), BLUE)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], lossless=True)
    assert np.abs(np.subtract(read_image(tmp_path / f"a.{suffix}").getpixel((8, 8)), RED)).max() < 4


# Where the stored image's left half must be after turning it upright, by the EXIF standard's orientation numbers.
@pytest.mark.parametrize(
    "orientation, side",
    [(1, "left"), (2, "right"), (3, "right"), (4, "left"), (5, "top"), (6, "top"), (7, "bottom"), (8, "bottom")],
)
def test_exif_orientation(tmp_path, orientation, side):
    exif = Image.Exif()
    exif[0x0112] = orientation
    half(size=(64, 32)).save(tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    read = read_image(tmp_path / "a.jpg")
    assert read.size == ((64, 32) if orientation < 5 else (32, 64))
    middle_x, middle_y = read.width // 2, read.height // 2
    at = {"left": (2, middle_y), "right": (-3, middle_y), "top": (middle_x, 2), "bottom": (middle_x, -3)}[side]
    colour = read.getpixel((at[0] % read.width, at[1] % read.height))
    assert np.abs(np.subtract(colour, RED)).max() < 12


def test_damaged_exif_does_not_hide_the_image(tmp_path):
    buffer = io.BytesIO()
    half().save(buffer, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f broken")
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
    assert read_image(tmp_path / "a.jpg").size == (32, 16)


def test_exif_that_cannot_be_parsed_does_not_hide_the_image(tmp_path):
    half().save(tmp_path / "a.png", exif=b"Exif\0\0XX*\0 no such byte order")
    with Image.open(tmp_path / "a.png") as image, pytest.raises(SyntaxError):
        image.getexif()
    assert read_image(tmp_path / "a.png").getpixel((2, 8)) == RED


def test_hidden_folders_and_sounds_are_no_images(image_folder):
    (image_folder / ".trash").mkdir()
    (image_folder / ".trash" / "a.jpg").write_bytes((image_folder / "a.jpg").read_bytes())
    (image_folder / "step.wav").write_bytes(b"RIFF\x24\0\0\0WAVEfmt ")
    images, skipped = find_images(image_folder)
    assert len(images) == 7 and ".trash" not in {path.parent.name for path in images}
    assert {item.path.name: item.reason for item in skipped}["step.wav"] == "not an image"


@pytest.mark.parametrize(
    "suffix", ["jpg", "png", "webp", "gif", "bmp", "tif", "pbm", "pgm", "ppm", "jp2", "j2k", "avif"]
)
def test_every_format_that_is_read_is_found_without_its_suffix(tmp_path, suffix):
    image = noise().convert("1" if suffix == "pbm" else "L" if suffix == "pgm" else "RGB")
    image.save(tmp_path / f"a.{suffix}")
    (tmp_path / f"a.{suffix}").rename(tmp_path / "a")
    assert find_images(tmp_path) == ([tmp_path / "a"], [])
    assert read_image(tmp_path / "a").size == (48, 64)


def test_tiffs_of_either_byte_order_are_found(tmp_path):
    for name, mode, big in (("a", "I;16", False), ("b", "I;16B", False), ("c", "I;16", True)):
        Image.new(mode, (16, 16)).save(tmp_path / name, "TIFF", big_tiff=big)
    assert len(find_images(tmp_path)[0]) == 3


def test_a_folder_that_cannot_be_listed_is_reported(image_folder, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "camera 2":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    images, skipped = find_images(image_folder)
    assert len(images) == 5
    reasons = {item.path: item.reason for item in skipped}
    assert reasons[image_folder / "camera 2"] == "folder cannot be listed: permission denied"


def test_finds_images_by_content(image_folder):
    (image_folder / "no_suffix").write_bytes((image_folder / "a.jpg").read_bytes())
    (image_folder / "empty.png").touch()
    (image_folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0")
    images, skipped = find_images(image_folder)
    names = [path.relative_to(image_folder).as_posix() for path in images]
    assert names == sorted(names)
    assert set(names) == {
        *("a.jpg", "b.png", "c.webp", "d.bmp", "[red]e.jpg", "camera 2/f.jpg", "camera 2/照片.png", "no_suffix")
    }
    reasons = {item.path.name: item.reason for item in skipped}
    assert set(reasons) == {"notes.txt", "text.jpg", "empty.png", "phone.heic"}
    assert reasons["text.jpg"] == "not an image"
    assert reasons["empty.png"] == "empty file"
    assert "convert it" in reasons["phone.heic"]


@pytest.mark.skipif(os.name == "nt", reason="links and pipes")
def test_links_and_pipes(tmp_path):
    folder, elsewhere = tmp_path / "people", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    noise().save(elsewhere / "a.png")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "again").symlink_to(elsewhere)
    (elsewhere / "loop").symlink_to(folder)
    (folder / "broken.jpg").symlink_to(folder / "nothing.jpg")
    os.mkfifo(folder / "pipe.jpg")
    images, skipped = find_images(folder)
    assert images == [folder / "again" / "a.png"]
    assert {item.path.name: item.reason for item in skipped} == {
        "broken.jpg": "no such file, or a broken link",
        "pipe.jpg": "not a regular file",
    }
    assert reason_of(folder / "pipe.jpg") == "not a regular file"


def test_folder_that_is_none(tmp_path):
    with pytest.raises(NotADirectoryError, match="does not exist"):
        find_images(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="is a file"):
        find_images(tmp_path / "file")


def _photograph(height: int, width: int) -> Image.Image:
    """Colours with a photograph's spectrum, amplitude falling as 1 / frequency, and some hard edges."""
    generator = np.random.default_rng(3)
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    falling = 1 / np.maximum(np.hypot(rows, columns), 1 / max(height, width))
    channels = []
    for _ in range(3):
        phases = np.exp(2j * np.pi * generator.random(falling.shape))
        values = np.fft.irfft2(falling * phases, s=(height, width))
        channels.append(np.clip(128 + 45 * values / values.std(), 0, 255))
    pixels = np.stack(channels, axis=-1).astype(np.uint8)
    pixels[height // 3 : height // 2, width // 4 : width // 2] = (200, 30, 40)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(("height", "width", "decoded"), [(1600, 560, 2), (800, 400, 1), (384, 128, 1)])
def test_a_draft_is_hardly_another_image(tmp_path, height, width, decoded):
    """A photograph of over 4 times the model's size is decoded at half of its own; the crop agrees to 40 dB."""
    path = tmp_path / "a.jpg"
    _photograph(height, width).save(path, quality=90)
    assert read_image(path, (256, 768)).size == (width // decoded, height // decoded)
    whole, draft = (read_crop(path, 384, 128, draft=value).astype(float) for value in (False, True))
    if decoded == 1:
        assert np.array_equal(whole, draft)
    else:
        error = np.sqrt(((whole - draft) ** 2).mean())
        assert error > 0 and 20 * np.log10(255 / error) > 40
        assert abs((whole - draft).mean()) < 0.3


def test_a_draft_of_an_image_on_its_side_is_large_enough(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    _photograph(320, 1280).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").size == (320, 1280)
    assert read_image(tmp_path / "a.jpg", (160, 640)).size == (160, 640)
    assert read_image(tmp_path / "a.jpg", (161, 640)).size == (320, 1280)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_draft_is_never_below_the_wanted_size_in_any_orientation(tmp_path, orientation):
    """Wanted are 160 x 640: half of the tall picture's sides, and all of the wide one's height."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    for size, decoded in (((320, 1280), (160, 640)), ((1280, 640), (1280, 640))):
        Image.new("RGB", size if orientation < 5 else size[::-1]).save(tmp_path / "a.jpg", exif=exif)
        assert read_image(tmp_path / "a.jpg", (160, 640)).size == decoded


def test_a_truncated_file_is_no_draft_either(tmp_path):
    path = tmp_path / "a.jpg"
    _photograph(640, 320).save(path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UnreadableImageError, match="truncated"):
        read_image(path, (80, 80))
