"""Find people in photographs and video frames: OpenCV's HOG detector, or any detector of transformers."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForObjectDetection

from aga_model.errors import ModelLoadError
from aga_model.files import import_opencv
from aga_model.loading import first_line, local_folder, place, read_model, require_weights
from aga_model.remote_code import refusal, tell_of_code_left_out

HOG = "hog"
_WINDOW = (64, 128)  # pixels; the people it was trained on are 96 high, 16 from its top and bottom
# What a window of HOG leaves around a person on each side, in parts of its width and height. People who walk reach
# further to the sides than the 16 of 64 pixels of its training set: 1/5 agrees best with boxes drawn by hand.
_MARGIN = (1 / 5, 16 / 128)
_STRIDE = (8, 8)
_PADDING = (16, 16)  # finds people whose window, but not whose body, reaches over the border
_SCALE_STEP = 1.05
_LARGEST_UPSCALING = 4.0
# Of two boxes on one person the surer one is kept: their IoU, or the part of the smaller one that lies in the other.
_SAME_PERSON_IOU = 0.4
_SAME_PERSON_COVER = 0.65

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels


@dataclass(frozen=True)
class Detection:
    """
    A person in an image.

    Args:
        box (`tuple[float, float, float, float]`): left, top, right, bottom in the image's pixels, within the image.
        score (`float`): in [0, 1], larger is surer. Scores of different detectors cannot be compared.
    """

    box: Box
    score: float


class PersonDetector(Protocol):
    """What finds people."""

    def detect(self, images: Sequence[Image.Image]) -> list[list[Detection]]:
        """The people in each of some RGB images, the surest first."""
        ...


class HogDetector:
    """
    OpenCV's people detector: a linear SVM on histograms of oriented gradients (Dalal and Triggs, CVPR 2005). It needs
    no model file and finds people who stand or walk and are seen whole; those who sit, lie or are half hidden it
    misses.

    Args:
        threshold: least score. A score is the logistic function of the SVM's margin, which is no probability.
        scan_height: pixels to which an image's height is scaled before the search. People who take less than about
            96 / `scan_height` of the height are not found; time grows with its square.
    """

    def __init__(self, threshold: float = 0.67, scan_height: int = 900):
        if not 0 < threshold < 1:
            raise ValueError(f"threshold of detections {threshold} is not between 0 and 1")
        if scan_height < _WINDOW[1]:
            raise ValueError(f"scan_height {scan_height} is less than the {_WINDOW[1]} pixels of a HOG window")
        self.scan_height = scan_height
        self._least_margin = math.log(threshold / (1 - threshold))
        self._cv2 = import_opencv()
        self._hog = self._cv2.HOGDescriptor()
        self._hog.setSVMDetector(self._cv2.HOGDescriptor_getDefaultPeopleDetector())

    def detect(self, images: Sequence[Image.Image]) -> list[list[Detection]]:
        """The people in each image; see [`PersonDetector`]."""
        return [self._detect(image) for image in images]

    def _detect(self, image: Image.Image) -> list[Detection]:
        scale = min(self.scan_height / image.height, _LARGEST_UPSCALING)
        size = (round(image.width * scale), round(image.height * scale))
        if size[0] < _WINDOW[0] or size[1] < _WINDOW[1]:
            return []  # OpenCV ends the process for some of them
        pixels = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
        windows, margins = self._hog.detectMultiScale(
            self._cv2.cvtColor(pixels, self._cv2.COLOR_RGB2BGR),
            hitThreshold=self._least_margin,
            winStride=_STRIDE,
            padding=_PADDING,
            scale=_SCALE_STEP,
            groupThreshold=0,  # OpenCV's grouping averages neighbours' boxes and loses their scores
        )
        if not len(windows):
            return []
        boxes = _clip(_tighten(np.asarray(windows, np.float64)) / scale, image)
        scores = 1 / (1 + np.exp(-np.ravel(margins).astype(np.float64)))
        return [
            Detection(_box(boxes[index]), float(scores[index])) for index in _one_per_person(boxes, scores).tolist()
        ]


class TransformersDetector:
    """
    An object detector of transformers (DETR, YOLOS, RT-DETR, ...) that knows people.

    ```python
    >>> detector = TransformersDetector.from_pretrained("PekingU/rtdetr_v2_r18vd")
    >>> people = detector.detect([frame.image for frame in frames])
    ```

    Args:
        model: a model for object detection.
        image_processor: its image processor.
        name: what the model is called in messages.
        device: a torch device; the first GPU when there is one, otherwise the CPU.
        threshold: least score, which is the model's probability of the label.
        label: what the model calls people; case does not matter.
        batch_size: images per forward pass.

    Raises:
        ModelLoadError: the model has no such label, or the device cannot be used.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        image_processor: Any,
        name: str,
        device: str | None = None,
        threshold: float = 0.5,
        label: str = "person",
        batch_size: int = 8,
    ):
        self.image_processor = image_processor
        self.name = name
        self.threshold = threshold
        self.batch_size = batch_size
        self._labels = _label_ids(model, name, label)
        self.device, self.model = place(model, device)

    @classmethod
    def from_pretrained(
        cls, folder_or_repo: str | os.PathLike, trust_remote_code: bool = False, **options: Any
    ) -> "TransformersDetector":
        """
        Load a model from a folder or from the Hub.

        Args:
            folder_or_repo: a saved model's folder, or owner/name on the Hub.
            trust_remote_code: run the Python code that the model brings along; read it first.
            options: of the constructor.

        Raises:
            ModelLoadError: there is no such folder or repository, it holds no object detector with its image
                processor, its weights are damaged or incomplete, it needs code of its own that is not trusted, or it
                does not know people.
        """
        folder, name = local_folder(folder_or_repo, trust_remote_code), str(folder_or_repo)
        model, missing = read_model(AutoModelForObjectDetection, folder, name, trust_remote_code)
        require_weights(missing, name)
        try:
            image_processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code)
        except Exception as error:
            reason = refusal(error, folder, trust_remote_code) or first_line(error)
            raise ModelLoadError(f"the image processor of model {name} cannot be loaded: {reason}") from error
        tell_of_code_left_out(folder, name, trust_remote_code)
        return cls(model, image_processor, name, **options)

    def detect(self, images: Sequence[Image.Image]) -> list[list[Detection]]:
        """The people in each image; see [`PersonDetector`]."""
        found: list[list[Detection]] = []
        for start in range(0, len(images), self.batch_size):
            found += self._detect_batch(images[start : start + self.batch_size])
        return found

    def _detect_batch(self, images: Sequence[Image.Image]) -> list[list[Detection]]:
        inputs = self.image_processor(images=list(images), return_tensors="pt").to(self.device)
        with torch.inference_mode():
            outputs = self.model(**inputs)
        results = self.image_processor.post_process_object_detection(
            outputs, threshold=self.threshold, target_sizes=[(image.height, image.width) for image in images]
        )
        return [self._people(result, image) for result, image in zip(results, images)]

    def _people(self, result: dict[str, torch.Tensor], image: Image.Image) -> list[Detection]:
        people = torch.isin(result["labels"], torch.tensor(self._labels, device=result["labels"].device))
        boxes = _clip(result["boxes"][people].double().cpu().numpy(), image)
        scores = result["scores"][people].double().cpu().numpy()
        order = np.argsort(-scores, kind="stable").tolist()
        return [Detection(_box(boxes[index]), float(scores[index])) for index in order]


def load_detector(name: str, device: str | None = None, trust_remote_code: bool = False) -> PersonDetector:
    """
    The detector of a name: "hog" for [`HogDetector`], otherwise a model's folder or name on the Hub.

    Args:
        name: of the detector.
        device: a torch device for a model; HOG runs on the CPU.
        trust_remote_code: run the Python code that a model brings along; read it first.

    Raises:
        ModelLoadError: see [`TransformersDetector.from_pretrained`].
        ModuleNotFoundError: OpenCV is not installed.
    """
    if name == HOG:
        return HogDetector()
    return TransformersDetector.from_pretrained(name, trust_remote_code=trust_remote_code, device=device)


def pairwise_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (n, 4) and others (m, 4): float64 (n, m)."""
    intersection = _intersection(boxes, others)
    return _ratio(intersection, _area(boxes)[:, None] + _area(others) - intersection)


def _label_ids(model: torch.nn.Module, name: str, label: str) -> list[int]:
    labels: dict[int, str] = model.config.id2label  # type: ignore[union-attr, assignment]
    found = [int(index) for index, known in labels.items() if known.strip().lower() == label.strip().lower()]
    if not found:
        known = ", ".join(sorted(set(labels.values())))
        raise ModelLoadError(f"detector {name} has no label {label!r}: it knows {known}")
    return found


def _tighten(windows: np.ndarray) -> np.ndarray:
    """Boxes of the people in HOG windows (n, 4) of x, y, width, height."""
    left_top, size = windows[:, :2], windows[:, 2:]
    return np.concatenate([left_top + size * _MARGIN, left_top + size * (1 - np.array(_MARGIN))], axis=1)


def _one_per_person(boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Indices of the boxes (n, 4) that are no second box of one person, the surest first."""
    # By place as well: OpenCV searches the scales in parallel and gives its windows in any order.
    order = np.lexsort((*boxes.T, -scores))
    kept = []
    while len(order):
        first, others = order[0], order[1:]
        kept.append(first)
        box = boxes[[first]]
        cover = _ratio(_intersection(box, boxes[others]), np.minimum(_area(box)[:, None], _area(boxes[others])))
        same = (pairwise_iou(box, boxes[others]) > _SAME_PERSON_IOU) | (cover > _SAME_PERSON_COVER)
        order = others[~same[0]]
    return np.array(kept)


def _intersection(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    left_top = np.maximum(boxes[:, None, :2], others[None, :, :2])
    right_bottom = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return np.clip(right_bottom - left_top, 0, None).prod(axis=-1)


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).prod(axis=-1)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _clip(boxes: np.ndarray, image: Image.Image) -> np.ndarray:
    return boxes.clip(0, [image.width, image.height, image.width, image.height])


def _box(values: np.ndarray) -> Box:
    left, top, right, bottom = values.tolist()
    return left, top, right, bottom
