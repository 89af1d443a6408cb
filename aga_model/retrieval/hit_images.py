"""The image of a search result, also of a crop that was not saved."""

from PIL import Image

from aga_model.data.image_files import UnreadableImageError, read_image

from .gallery import Hit
from .store import GalleryRow


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
            if row.box is None or row.path == row.source:
                raise
    if row.box is None:
        return read_image(row.source)
    # Imported here: a gallery of image files needs no OpenCV.
    from .ingestion import cut_again
    from .video import UnreadableVideoError

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
    from .faces import hide_faces

    return hide_faces(image)


__all__ = ["read_hit", "read_row_image", "shown_image"]
