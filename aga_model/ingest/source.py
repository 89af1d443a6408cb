"""Where the images of a gallery come from, and what was made of them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image

from aga_model.files import Skipped
from aga_model.gallery import GalleryRow

from .held import Held
from .shards import Progress


@dataclass(frozen=True)
class Found:
    """
    An image of a person that a gallery is to hold.

    Args:
        row (`GalleryRow`): all that is known of it; its `model_hash` is filled in by [`index`].
        image (`PIL.Image.Image`, *optional*): RGB image. A row without `path` and with a `box` is a crop, which is
            saved where [`index`] is told to save crops.
        pixel_values (`Any`, *optional*): what [`ImageEncoder.preprocess`] makes of the image, where a source has done
            it in its own threads; the image is then needed only for a crop that is to be saved.
        replaces (`bool`, defaults to `False`): the gallery holds a row in whose place it comes.
    """

    row: GalleryRow
    image: Image.Image | None = None
    pixel_values: Any = None
    replaces: bool = False

    def __post_init__(self) -> None:
        if self.image is None and self.pixel_values is None:
            raise ValueError(f"of an image of {self.row.source} neither the image nor its pixel values are given")


@dataclass
class IndexReport:
    """
    What was made of all sources.

    Args:
        added (`int`): images that were new to the gallery.
        replaced (`int`): images whose file, camera, person or time had changed since they were indexed.
        unchanged (`int`): image files and photographs that were in the gallery already, with the same content.
        copies (`int`): files with the content of another file, which share its rows.
        skipped (`list[Skipped]`): files that could not be read, and why.
        seconds (`float`): time taken.
        frames (`int`): video frames and photographs that were searched for people.
        updated (`int`): rows that were in the gallery and got new facts, without being encoded again: camera, person,
            time, or the file's new name.
    """

    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    copies: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    seconds: float = 0.0
    frames: int = 0
    updated: int = 0

    @property
    def people(self) -> int:
        """Crops of people that were new to the gallery, where the sources are scenes."""
        return self.added

    @property
    def encoded(self) -> int:
        """Images that went through the model."""
        return self.added + self.replaced

    @property
    def read(self) -> int:
        """Images that could be read."""
        return self.encoded + self.unchanged + self.copies

    @property
    def images_per_second(self) -> float:
        """Rate over all images that were looked at and could be read."""
        return self.read / self.seconds if self.seconds > 0 else 0.0


class Source(Protocol):
    """
    Where images of people come from: image files, a scene, or whatever has this attribute and this method.

    Attributes:
        finite (`bool`): whether it comes to an end by itself, as files do and a folder that is watched does not.
    """

    finite: bool

    def found(self, held: Held, report: IndexReport, progress: Progress) -> Iterator[list[Found]]:
        """
        The images that the gallery does not hold yet, in groups that are written together. A source that is not
        finite gives an empty group at least every few seconds while there is nothing new.

        Args:
            held: what the gallery holds already, so that a source goes on where an earlier run ended.
            report: counts what is unchanged, a copy, skipped, updated or searched; what is given is counted by
                [`index`].
            progress: is told of each file or frame that was looked at.
        """
        ...


__all__ = ["Found", "IndexReport", "Source"]
