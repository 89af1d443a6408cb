"""Find image files in a folder and read any of them into an upright 8-bit RGB image, or say why not."""

import hashlib
import io
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps

MIN_SIDE = 8  # pixels; nothing of a person is left below it
MAX_FILE_BYTES = 512 * 1024**2
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")

_SIGNATURES = (
    b"\xff\xd8\xff",  # JPEG, MPO
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"BM",
    b"II*\0",  # TIFF, little endian
    b"MM\0*",  # TIFF, big endian
    b"II+\0",  # BigTIFF
    b"MM\0+",
    b"\xff\x4f\xff\x51",  # JPEG 2000, bare codestream
    b"\0\0\0\x0cjP  \r\n\x87\n",  # JPEG 2000
    *(f"P{kind}".encode() + space for kind in "123456" for space in (b"\n", b" ", b"\r", b"\t")),
)
_SIGNATURE_BYTES = 16
_AVIF_BRANDS = (b"avif", b"avis")
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"mif1", b"msf1")


class UnreadableImageError(ValueError):
    """An image file that cannot be used. `path` is the file, `reason` says what is wrong with it."""

    def __init__(self, path: str | os.PathLike, reason: str):
        super().__init__(path, reason)
        self.path = Path(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class Skipped:
    """A file that was left out, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class ImageFileContent:
    """
    A file's picture and where it came from.

    Args:
        path (`Path`): the file.
        sha256 (`str`): hash of the file's bytes.
        image (`PIL.Image.Image`): upright RGB image.
    """

    path: Path
    sha256: str
    image: Image.Image


def find_images(folder: str | os.PathLike) -> tuple[list[Path], list[Skipped]]:
    """
    List the image files under a folder, at any depth and through linked folders, each folder once.

    A file counts by its first bytes, whatever its name. Hidden files and folders are ignored; every other file that
    is no image is returned with the reason.

    Returns:
        The image files and the skipped files, each sorted by path.

    Raises:
        NotADirectoryError: `folder` does not exist or is a file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        state = "is a file, not a folder" if folder.exists() else "does not exist"
        raise NotADirectoryError(f"image folder {folder} {state}")
    images: list[Path] = []
    skipped: list[Skipped] = []
    for path in _visible_files(folder, skipped):
        reason = _why_not_an_image(path)
        if reason is None:
            images.append(path)
        else:
            skipped.append(Skipped(path, reason))
    return sorted(images), sorted(skipped, key=lambda item: item.path)


def read_image(path: str | os.PathLike, least_size: tuple[int, int] | None = None) -> Image.Image:
    """
    Read an image file completely: upright (EXIF), 8-bit RGB, transparency over white, first frame of an animation.

    Args:
        path: image file.
        least_size: width and height in pixels below which the image is not wanted smaller: a JPEG is then decoded at
            the smallest of 1/2, 1/4 and 1/8 of its size that is not below them, which costs a fraction.

    Raises:
        UnreadableImageError: the file is missing, damaged, truncated, no image, smaller than `MIN_SIDE` pixels or
            larger than PIL's limit against decompression bombs.
    """
    return decode_image(read_bytes(path), path, least_size)


def read_image_file(path: str | os.PathLike) -> ImageFileContent:
    """Read an image as `read_image` does, together with the hash of the very bytes it was decoded from."""
    data = read_bytes(path)
    return ImageFileContent(Path(path), hashlib.sha256(data).hexdigest(), decode_image(data, path))


def read_bytes(path: str | os.PathLike) -> bytes:
    """Content of a regular file of at most `MAX_FILE_BYTES`; UnreadableImageError otherwise."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableImageError(path, "not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise UnreadableImageError(path, f"larger than {MAX_FILE_BYTES // 1024**2} MiB")
        return Path(path).read_bytes()
    except OSError as error:
        raise UnreadableImageError(path, _os_reason(error)) from error


def decode_image(
    data: bytes,
    path: str | os.PathLike,
    least_size: tuple[int, int] | None = None,
    max_pixels: int | None = None,
) -> Image.Image:
    """
    Decode the bytes of an image file; `path` is only named in errors. See `read_image`.

    Args:
        max_pixels: a limit below PIL's own, for images of strangers. It is read off the header, before decoding.
    """
    if not data:
        raise UnreadableImageError(path, "empty file")
    try:
        with _complete_images_only(), Image.open(io.BytesIO(data), formats=_available_formats()) as image:
            _check_size(image, path, max_pixels)
            if least_size is not None:
                image.draft(None, least_size[::-1] if _orientation(image) in (5, 6, 7, 8) else least_size)
            image.load()
            return _to_rgb(_upright(image), path)
    except UnreadableImageError:
        raise
    except Image.UnidentifiedImageError as error:
        raise UnreadableImageError(path, "not an image, or its header is damaged") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(path, _too_large_reason()) from error
    except Exception as error:  # PIL's decoders answer damaged bytes with almost any exception
        raise UnreadableImageError(path, f"damaged or truncated ({_one_line(error)})") from error


def _visible_files(folder: Path, skipped: list[Skipped]) -> Iterator[Path]:
    def cannot_list(error: OSError) -> None:
        skipped.append(Skipped(Path(error.filename), f"folder cannot be listed: {_os_reason(error)}"))

    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=cannot_list):
        real = os.path.realpath(parent)
        if real in seen:  # reached before, through a link
            folders.clear()
            continue
        seen.add(real)
        # Sorted, so that which of two ways to a linked folder counts does not depend on the file system.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in files if not name.startswith("."))


def _why_not_an_image(path: Path) -> str | None:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return "not a regular file"
        with path.open("rb") as file:
            start = file.read(_SIGNATURE_BYTES)
    except OSError as error:
        return _os_reason(error)
    if not start:
        return "empty file"
    brand = start[8:12] if start[4:8] == b"ftyp" else b""
    if brand in _HEIF_BRANDS:
        return "HEIC image, which cannot be read here: convert it to JPEG or PNG"
    is_webp = start.startswith(b"RIFF") and start[8:12] == b"WEBP"
    if is_webp or brand in _AVIF_BRANDS or start.startswith(_SIGNATURES):
        return None
    return "not an image"


def _available_formats() -> tuple[str, ...]:
    """The formats of `FORMATS` that this build of PIL reads; others, such as EPS, would start outside programs."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


_complete_lock = threading.Lock()
_complete_depth = 0
_complete_before = False


@contextmanager
def _complete_images_only() -> Iterator[None]:
    """
    Make PIL refuse truncated files, even where other code of the process has set `LOAD_TRUNCATED_IMAGES`, which would
    fill the missing part with grey. The setting comes back when the last thread has left.
    """
    global _complete_depth, _complete_before
    with _complete_lock:
        if _complete_depth == 0:
            _complete_before = ImageFile.LOAD_TRUNCATED_IMAGES
            ImageFile.LOAD_TRUNCATED_IMAGES = False
        _complete_depth += 1
    try:
        yield
    finally:
        with _complete_lock:
            _complete_depth -= 1
            if _complete_depth == 0:
                ImageFile.LOAD_TRUNCATED_IMAGES = _complete_before


def _check_size(image: Image.Image, path: str | os.PathLike, max_pixels: int | None) -> None:
    width, height = image.size
    if min(width, height) < MIN_SIDE:
        raise UnreadableImageError(path, f"smaller than {MIN_SIDE} px ({width}x{height})")
    # PIL itself only warns between its limit and twice its limit.
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise UnreadableImageError(path, f"{width}x{height}: {_too_large_reason()}")
    if max_pixels is not None and width * height > max_pixels:
        raise UnreadableImageError(path, f"{width}x{height}: more than the {max_pixels:,} pixels that are read here")


def _too_large_reason() -> str:
    return f"more than {Image.MAX_IMAGE_PIXELS} pixels, PIL's limit against decompression bombs"


def _orientation(image: Image.Image) -> int:
    """EXIF's number from 1, upright, to 8; from 5 on width and height change places."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF says nothing about the orientation
        return 1


def _upright(image: Image.Image) -> Image.Image:
    if _orientation(image) == 1:
        return image  # PIL would copy it
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF says nothing about the orientation; the pixels were decoded before
        return image


def _to_rgb(image: Image.Image, path: str | os.PathLike) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _wide_grey_to_rgb(np.asarray(image), path)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _wide_grey_to_rgb(values: np.ndarray, path: str | os.PathLike) -> Image.Image:
    """Greyscale (height, width) of more than 8 bits; PIL's own conversion would clip it to white."""
    low, high = _grey_range(values, path)
    grey = np.rint((values.astype(np.float64) - low) * (255.0 / (high - low))).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def _grey_range(values: np.ndarray, path: str | os.PathLike) -> tuple[float, float]:
    """
    The values of black and white: 0 to 65535 for integers, 0 to the smallest usual full scale for floats, and the
    image's own range where none of these holds it.
    """
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():  # min and max are NaN when any value is
        raise UnreadableImageError(path, "holds pixels that are not finite numbers")
    full_scales = (65535.0,) if values.dtype.kind in "iu" else (1.0, 255.0, 65535.0)
    for full_scale in full_scales:
        if low >= 0 and high <= full_scale:
            return 0.0, full_scale
    if low == high:
        return low, low + 1.0
    return low, high


def _os_reason(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file, or a broken link"
    return (error.strerror or str(error)).lower()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
