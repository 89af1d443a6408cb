"""The image of a search result, also of a crop that was not saved."""

import os

from PIL import Image

from aga_model.files import (
    UnreadableImageError,
    UnreadableVideoError,
    read_frame,
    read_image,
)

from .gallery import Hit
from .rows import GalleryRow, is_address


def read_row_image(row: GalleryRow) -> Image.Image:
    """
    The person image of a gallery row as RGB: the file, or the box cut out of its source again.

    Raises:
        UnreadableImageError: file and source are gone or damaged; names it.
    """
    if row.path:
        try:
            return read_image(row.path)
        except UnreadableImageError:
            if row.box is None or row.path == row.source or is_address(row.source):
                raise
    if is_address(row.source):
        raise UnreadableImageError(row.source, f"of the stream {row.source} only saved crops can be shown")
    if row.box is None:
        return read_image(row.source)
    left, top, right, bottom = (int(side) for side in row.box)
    try:
        return cut_again(row.source, (left, top, right, bottom), row.frame, row.offset)
    except UnreadableVideoError as error:
        raise UnreadableImageError(row.source, error.reason) from error


def read_hit(hit: Hit) -> Image.Image:
    """[`read_row_image`] of a search result, as models read it. People are shown [`shown_image`]."""
    return read_row_image(hit.row)


def shown_image(hit: Hit, image: Image.Image | None = None) -> Image.Image:
    """
    The image of a search result for people to look at: with faces hidden, if the hit says so.

    Args:
        image: of the hit, where it has been read already.

    Raises:
        UnreadableImageError: file and source are gone or damaged; names it.
        ModuleNotFoundError, OSError: faces cannot be hidden, see [`FaceHider`]; nothing is shown then.
    """
    image = read_hit(hit) if image is None else image
    if not hit.hide_faces:
        return image
    from aga_model.files import hide_faces

    return hide_faces(image)


def cut_again(
    source: str | os.PathLike, box: tuple[int, int, int, int], frame: int | None = None, offset: float | None = None
) -> Image.Image:
    """
    The image of a crop that was not saved, pixel by pixel as it was; arguments as in [`PersonCrop`].

    Raises:
        UnreadableVideoError, UnreadableImageError: the source can no longer be read, or has no such frame.
    """
    image = read_image(source) if frame is None else read_frame(source, frame, offset)
    return image.crop(box)


__all__ = ["read_hit", "read_row_image", "shown_image"]
