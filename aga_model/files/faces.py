"""
Hide faces in images for people to look at, with the detectors that OpenCV brings and no download.

Faces of person crops are 8 to 25 pixels wide, less than face detectors need. So heads are looked for, too, by way of
head and shoulders, from whichever side; and where no head is found in an image that is not wider than high, as crops
of people are, its upper part is hidden. That keeps faces from being read off a picture. It is no anonymisation:
clothes, build and place stay, and some faces are missed (`python -m benchmarks faces_hidden` counts them).
"""

import threading
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .video import import_opencv

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels

_FRONTAL, _PROFILE = "haarcascade_frontalface_default.xml", "haarcascade_profileface.xml"
_HEAD_AND_SHOULDERS = "haarcascade_upperbody.xml"
# What an image is scaled to before the detectors look at it, which bounds their time.
_CROP_ASPECT = 1.4  # height to width, at least
_CROP_WIDTH = (112, 224)  # pixels, at least and at most
_LONGEST_SIDE = 640  # pixels, of other images
_MOST_ENLARGED = 4.0
_PADDING = 0.25  # of the shorter side: heads that touch the border are missed
_FACE_STEP, _FACE_NEIGHBOURS, _LEAST_FACE = 1.1, 3, (20, 20)
_HEAD_STEP, _HEAD_NEIGHBOURS = 1.1, 2
# What is hidden of a box of head and shoulders, and around a face, which is found without hair and chin: the sides as
# shares of the box's.
_HEAD_IN_BOX = (0.15, -0.05, 0.85, 0.7)
_AROUND_FACE = (-0.2, -0.25, 1.2, 1.2)
# Where no head has its centre this far up, the top of the image is hidden: this share of its height, or of its width
# where that is more, as in crops of seated people, but of those no more than the last share of the height.
_HEADS_ABOVE = 0.35  # of the height
_TOP_OF_HEIGHT, _TOP_OF_WIDTH, _TOP_AT_MOST = 0.3, 0.7, 0.5
_CELLS = 3  # mean colours that are left of a hidden box along its shorter side


class FaceHider:
    """
    Finds faces and heads, and blurs them beyond recovery. Several threads may share one.

    ```python
    >>> FaceHider().hide(read_image("someone.jpg")).save("shown.png")
    ```

    Raises:
        ModuleNotFoundError: OpenCV is not installed; names the extra that brings it.
        OSError: the installed OpenCV comes without its detectors.
    """

    def __init__(self) -> None:
        try:
            self._cv2 = import_opencv()
        except ModuleNotFoundError as error:
            message = "hiding faces needs OpenCV, and no image is shown without: pip install 'aga-model[search]'"
            raise ModuleNotFoundError(message, name="cv2") from error
        self._frontal, self._profile = self._cascade(_FRONTAL), self._cascade(_PROFILE)
        self._heads = self._cascade(_HEAD_AND_SHOULDERS)
        self._lock = threading.Lock()  # a cascade works on one image at a time

    def hide(self, image: Image.Image) -> Image.Image:
        """A copy of an RGB image with [`FaceHider.boxes`] blurred, and without metadata, which may show faces too."""
        shown = Image.fromarray(np.array(image.convert("RGB")))
        for box in self.boxes(image):
            _blur(shown, box)
        return shown

    def boxes(self, image: Image.Image) -> list[tuple[int, int, int, int]]:
        """What is hidden of an image, in order: left, top, right, bottom in pixels, within the image."""
        faces, heads = self.detect(image)
        hidden_heads = [_part(box, _HEAD_IN_BOX) for box in heads]
        parts = [_part(box, _AROUND_FACE) for box in faces] + hidden_heads
        if image.height >= image.width and not any(_centre(box) < _HEADS_ABOVE * image.height for box in hidden_heads):
            parts.append(_top_of(image.size))
        inside = {_inside(box, image.size) for box in parts}
        return sorted(box for box in inside if box[0] < box[2] and box[1] < box[3])

    def detect(self, image: Image.Image) -> tuple[list[Box], list[Box]]:
        """Boxes of faces, and of heads with their shoulders; they may reach beyond the image."""
        width, height = _looked_at(image.size)
        grey = np.asarray(image.convert("L").resize((width, height), Image.Resampling.BICUBIC))
        pad = round(_PADDING * min(width, height))
        padded = self._cv2.copyMakeBorder(grey, pad, pad, pad, pad, self._cv2.BORDER_REPLICATE)
        with self._lock:
            faces = list(self._find_faces(self._frontal, padded))
            if not _is_crop(image.size):  # of crops it takes half of the time and finds no more than heads do
                faces += self._find_profiles(padded)
            heads = self._heads.detectMultiScale(padded, scaleFactor=_HEAD_STEP, minNeighbors=_HEAD_NEIGHBOURS)
        across, down = image.width / width, image.height / height

        def on_image(box: Any) -> Box:
            left, top, wide, high = (int(side) for side in box)
            left, top = left - pad, top - pad
            return left * across, top * down, (left + wide) * across, (top + high) * down

        return [on_image(box) for box in faces], [on_image(box) for box in heads]

    def _find_faces(self, cascade: Any, grey: np.ndarray) -> Any:
        return cascade.detectMultiScale(
            grey, scaleFactor=_FACE_STEP, minNeighbors=_FACE_NEIGHBOURS, minSize=_LEAST_FACE
        )

    def _find_profiles(self, grey: np.ndarray) -> list[tuple[int, int, int, int]]:
        """Profiles to either side: the detector knows one."""
        found = list(self._find_faces(self._profile, grey))
        for left, top, width, height in self._find_faces(self._profile, np.ascontiguousarray(grey[:, ::-1])):
            found.append((grey.shape[1] - left - width, top, width, height))
        return found

    def _cascade(self, name: str) -> Any:
        file = Path(self._cv2.data.haarcascades) / name
        cascade = self._cv2.CascadeClassifier(str(file)) if file.is_file() else None
        if cascade is None or cascade.empty():
            raise OSError(f"faces cannot be hidden: OpenCV lacks its detector {file}; install OpenCV again")
        return cascade


@cache
def face_hider() -> FaceHider:
    """The one [`FaceHider`] of this process, with its errors."""
    return FaceHider()


def hide_faces(image: Image.Image) -> Image.Image:
    """
    A copy of an RGB image, of the same size, in which faces are blurred beyond recovery; see [`FaceHider`].

    Raises:
        ModuleNotFoundError: OpenCV is not installed; names the extra that brings it.
        OSError: the installed OpenCV comes without its detectors.
    """
    return face_hider().hide(image)


def _is_crop(size: tuple[int, int]) -> bool:
    """Whether an image of this size (width, height) has the proportions of a crop of one person."""
    return size[1] >= _CROP_ASPECT * size[0]


def _looked_at(size: tuple[int, int]) -> tuple[int, int]:
    """The size (width, height) at which the detectors look at an image of a size."""
    width, height = size
    if _is_crop(size):
        scale = min(max(width, _CROP_WIDTH[0]), _CROP_WIDTH[1]) / width
        scale = min(scale, 2 * _LONGEST_SIDE / height)
    else:
        scale = _LONGEST_SIDE / max(size)
    scale = min(scale, _MOST_ENLARGED)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _part(box: Box, sides: Box) -> Box:
    """A part of a box whose sides are given as shares of the box's, from its left and top."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    return left + sides[0] * width, top + sides[1] * height, left + sides[2] * width, top + sides[3] * height


def _centre(box: Box) -> float:
    return (box[1] + box[3]) / 2


def _top_of(size: tuple[int, int]) -> Box:
    """The upper part of an image, in which the head of a person who fills it is."""
    width, height = size
    return 0, 0, width, max(_TOP_OF_HEIGHT * height, min(_TOP_OF_WIDTH * width, _TOP_AT_MOST * height))


def _inside(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """What of a box is within an image, in whole pixels."""
    width, height = size
    left, top = max(0, int(np.floor(box[0]))), max(0, int(np.floor(box[1])))
    return left, top, min(width, int(np.ceil(box[2]))), min(height, int(np.ceil(box[3])))


def _blur(image: Image.Image, box: tuple[int, int, int, int]) -> None:
    """
    Put a few mean colours in the place of a box, with smooth passages between them.

    A blur alone can be undone in part; what these means do not hold is gone.
    """
    part = image.crop(box)
    cell = max(1.0, min(part.size) / _CELLS)
    cells = max(1, round(part.width / cell)), max(1, round(part.height / cell))
    means = part.resize(cells, Image.Resampling.BOX)
    image.paste(means.resize(part.size, Image.Resampling.BILINEAR), box)


__all__ = ["FaceHider", "face_hider", "hide_faces"]
