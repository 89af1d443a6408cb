import math
import random
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BatchFeature, YolosConfig, YolosForObjectDetection, YolosImageProcessorPil

from aga_model.data.rendered import render_person, sample_person
from aga_model.errors import ModelLoadError
from aga_model.ingest import HogDetector, TransformersDetector, detection, load_detector
from aga_model.ingest.detection import pairwise_iou

LABELS = {0: "car", 1: " Person", 2: "dog"}


# --- boxes ------------------------------------------------------------------------------------------------------


def test_iou_counts_pixels():
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 12, (40, 2, 2))
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    masks = np.zeros((len(boxes), 12, 12), bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes):
        mask[top:bottom, left:right] = True
    both = (masks[:, None] & masks[None]).sum(axis=(2, 3))
    either = (masks[:, None] | masks[None]).sum(axis=(2, 3))
    found = pairwise_iou(boxes.astype(float), boxes.astype(float))
    np.testing.assert_allclose(found, both / np.maximum(either, 1))
    assert pairwise_iou(np.empty((0, 4)), boxes).shape == (0, 40)


def test_one_box_per_person():
    boxes = np.array(
        [
            [0, 0, 40, 100],  # a person
            [5, 5, 45, 105],  # the same, less sure
            [10, 60, 30, 90],  # the legs of the same
            [30, 0, 70, 100],  # a neighbour, a quarter hidden
            [200, 0, 240, 100],  # far away
        ],
        float,
    )
    scores = np.array([0.9, 0.8, 0.99, 0.7, 0.6])
    assert detection._one_per_person(boxes[:2], scores[:2]).tolist() == [0]
    assert detection._one_per_person(boxes, scores).tolist() == [2, 3, 4]  # the surest wins
    assert detection._one_per_person(boxes, np.array([0.9, 0.8, 0.5, 0.7, 0.6])).tolist() == [0, 3, 4]


def test_the_order_of_windows_does_not_matter():
    rng = np.random.default_rng(1)
    corners = rng.uniform(0, 100, (60, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(20, 60, (60, 2))], axis=1)
    scores = rng.integers(5, 9, 60) / 10  # many equal ones
    kept = boxes[detection._one_per_person(boxes, scores)].tolist()
    for _ in range(5):
        order = rng.permutation(60)
        assert boxes[order][detection._one_per_person(boxes[order], scores[order])].tolist() == kept


# --- HOG --------------------------------------------------------------------------------------------------------


def scene(seed: int, height: int, place: tuple[int, int], size: tuple[int, int] = (320, 240)) -> Image.Image:
    """A rendered person on grey."""
    rng = random.Random(seed)
    drawn, _ = render_person(sample_person(rng), rng, 256, 96)
    image = Image.new("RGB", size, (150, 150, 150))
    image.paste(drawn.resize((round(height * 96 / 256), height), Image.Resampling.LANCZOS), place)
    return image


def test_hog_finds_a_person_where_it_is():
    detector = HogDetector(scan_height=360)
    for height, place in ((160, (60, 40)), (110, (200, 90))):
        (found,) = detector.detect([scene(4, height, place)])
        pasted = np.array([[*place, place[0] + height * 96 / 256, place[1] + height]])
        assert pairwise_iou(np.array([found[0].box]), pasted)[0, 0] > 0.5
        assert [person.score for person in found] == sorted((person.score for person in found), reverse=True)
        assert all(0.67 <= person.score <= 1 for person in found)


def test_hog_scores_are_the_logistic_of_its_margin():
    image = scene(4, 160, (60, 40))
    lenient = HogDetector(threshold=0.5, scan_height=360).detect([image])[0]
    detector = HogDetector(threshold=0.6, scan_height=360)
    assert detector.detect([image])[0] == [person for person in lenient if person.score >= 0.6]
    assert detector._least_margin == pytest.approx(math.log(0.6 / 0.4))


def test_hog_is_reproducible():
    image = scene(4, 160, (60, 40))
    detector = HogDetector(threshold=0.5, scan_height=480)
    first = detector.detect([image])
    assert first[0] and all(detector.detect([image]) == first for _ in range(3))


def test_hog_windows_are_tightened():
    """16 of 128 pixels above and below, a fifth at the sides."""
    found = detection._tighten(np.array([[10.0, 20.0, 64.0, 128.0]]))
    np.testing.assert_allclose(found, [[10 + 12.8, 20 + 16, 10 + 64 - 12.8, 20 + 128 - 16]])


def test_hog_looks_at_an_image_in_its_height_but_enlarges_it_four_times_at_most():
    """A window in the middle of what it looks at is brought back into the image's pixels."""
    for size, seen, wanted in (
        ((60, 50), (240, 200), (10 + 3.2, 5 + 4, 26 - 3.2, 37 - 4)),
        ((300, 300), (400, 400), (30 + 9.6, 15 + 12, 78 - 9.6, 111 - 12)),
        ((800, 1600), (200, 400), (160 + 51.2, 80 + 64, 416 - 51.2, 592 - 64)),
    ):
        detector, shapes = HogDetector(scan_height=400), []

        def search(pixels, shapes=shapes, **options):
            shapes.append(pixels.shape[1::-1])
            return np.array([[40, 20, 64, 128]]), np.array([2.0])

        detector._hog = SimpleNamespace(detectMultiScale=search)
        ((person,),) = detector.detect([Image.new("RGB", size)])
        assert shapes == [seen] and person.box == pytest.approx(wanted)
        assert person.score == pytest.approx(1 / (1 + math.exp(-2)))


@pytest.mark.parametrize("size", [(8, 8), (9, 300), (2000, 12), (64, 128)])
def test_hog_finds_nobody_in_plain_images(size):
    assert HogDetector(scan_height=256).detect([Image.new("RGB", size, (90, 120, 40))]) == [[]]
    assert HogDetector().detect([]) == []


def test_hog_boxes_lie_within_the_image():
    image = scene(4, 200, (-20, 30), size=(90, 240))
    for person in HogDetector(threshold=0.4, scan_height=360).detect([image])[0]:
        left, top, right, bottom = person.box
        assert 0 <= left < right <= 90 and 0 <= top < bottom <= 240


@pytest.mark.parametrize("options", [{"threshold": 0.0}, {"threshold": 1.0}, {"scan_height": 100}])
def test_hog_refuses_bad_settings(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        HogDetector(**options)


def test_without_opencv(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'aga-model\[search\]'"):
        HogDetector()


# --- transformers -----------------------------------------------------------------------------------------------


def save_yolos(folder, labels=LABELS):
    """A tiny YOLOS with random weights."""
    torch.manual_seed(0)
    config = YolosConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=[32, 48],
        num_detection_tokens=12, id2label=labels, label2id={name: index for index, name in labels.items()},
    )  # fmt: skip
    model = YolosForObjectDetection(config)
    torch.nn.init.normal_(model.vit.embeddings.detection_tokens)  # zeros would make all detections equal
    for head, spread in ((model.class_labels_classifier, 1.5), (model.bbox_predictor, 1.5)):
        for layer in head.layers:
            torch.nn.init.normal_(layer.weight, std=spread / layer.in_features**0.5)
    model.save_pretrained(folder)
    YolosImageProcessorPil(size={"height": 32, "width": 48}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def yolos(tmp_path_factory):
    return save_yolos(tmp_path_factory.mktemp("models") / "yolos")


def noise(seed: int, size: tuple[int, int]) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def test_detections_are_the_models_people_in_pixels(yolos):
    """Beside an own computation from the model's raw outputs, image by image."""
    images = [noise(seed, size) for seed, size in enumerate([(100, 60), (31, 200), (48, 32)])]
    threshold = 0.3
    detector = TransformersDetector.from_pretrained(yolos, device="cpu", threshold=threshold, batch_size=2)
    found = detector.detect(images)
    model = YolosForObjectDetection.from_pretrained(yolos)
    mean, std = (np.array(values).reshape(3, 1, 1) for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    total = 0
    for image, people in zip(images, found, strict=True):
        resized = np.asarray(image.resize((48, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1) / 255
        with torch.inference_mode():
            outputs = model(torch.from_numpy((resized - mean) / std).float()[None])
        wanted = []
        for logits, (x, y, width, height) in zip(outputs.logits[0].tolist(), outputs.pred_boxes[0].tolist()):
            odds = [math.exp(logit) for logit in logits]
            score = odds[1] / sum(odds)
            if score > threshold and score == max(odds[:3]) / sum(odds):
                across = [min(max(x + sign * width / 2, 0), 1) * image.width for sign in (-1, 1)]
                down = [min(max(y + sign * height / 2, 0), 1) * image.height for sign in (-1, 1)]
                wanted.append((score, (across[0], down[0], across[1], down[1])))
        for person, (score, box) in zip(people, sorted(wanted, reverse=True), strict=True):
            assert person.score == pytest.approx(score, abs=1e-4)
            assert person.box == pytest.approx(box, abs=0.02)
        total += len(wanted)
    assert 3 <= total < 36  # some people, and some that are none


def test_no_images(yolos):
    assert TransformersDetector.from_pretrained(yolos, device="cpu").detect([]) == []


def test_a_model_without_people_is_refused(tmp_path):
    folder = save_yolos(tmp_path / "yolos", labels={0: "car", 1: "pedestrian", 2: "dog"})
    with pytest.raises(ModelLoadError, match=r"no label 'person': it knows car, dog, pedestrian"):
        load_detector(str(folder), device="cpu")
    TransformersDetector.from_pretrained(folder, device="cpu", label="Pedestrian")


def test_a_model_that_detects_nothing_is_refused(model_folder):
    with pytest.raises(ModelLoadError, match="cannot be loaded"):
        load_detector(str(model_folder))


def test_missing_weights_are_refused(tmp_path):
    folder = save_yolos(tmp_path / "yolos")
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["bbox_predictor.layers.0.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=r"lacks 1 weights, such as bbox_predictor"):
        load_detector(str(folder))


def test_missing_image_processor(tmp_path):
    folder = save_yolos(tmp_path / "yolos")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ModelLoadError, match="the image processor of model"):
        load_detector(str(folder))


def test_detectors_by_name(yolos, tmp_path):
    assert isinstance(load_detector("hog"), HogDetector)
    assert isinstance(load_detector(str(yolos), device="cpu"), TransformersDetector)
    with pytest.raises(ModelLoadError, match="does not exist"):
        load_detector(str(tmp_path / "no" / "such" / "model"))


class Found:
    """What a model and its image processor find, by hand: boxes in parts of the image, labels and scores."""

    def __init__(self, *images):
        self.images, self.sizes, self.config = list(images), [], SimpleNamespace(id2label=LABELS)

    def __call__(self, **inputs):
        if "images" in inputs:
            self.sizes.append(len(inputs["images"]))
            return BatchFeature({"number": torch.zeros(len(inputs["images"]))})
        return None

    def eval(self):
        return self

    def to(self, device):
        return self

    def post_process_object_detection(self, outputs, threshold, target_sizes):
        results = []
        for (height, width), people in zip(target_sizes, self.images):
            kept = [(label, score, box) for label, score, box in people if score > threshold]
            sides = torch.tensor([width, height, width, height])
            results.append(
                {
                    "labels": torch.tensor([label for label, _, _ in kept], dtype=torch.long),
                    "scores": torch.tensor([score for _, score, _ in kept]),
                    "boxes": torch.tensor([box for _, _, box in kept]).reshape(-1, 4) * sides,
                }
            )
        del self.images[: len(target_sizes)]
        return results


def test_only_people_above_the_threshold_in_the_pixels_of_their_image_the_surest_first():
    car, person, dog = LABELS
    images = [
        [
            (person, 0.55, [0.1, 0.2, 0.3, 0.8]),
            (car, 0.95, [0.0, 0.0, 1.0, 1.0]),
            (person, 0.75, [0.5, 0.5, 1.25, 1.0]),
        ],
        [(person, 0.45, [0.0, 0.0, 0.5, 0.5]), (dog, 0.9, [0.0, 0.0, 0.5, 0.5])],
        [(person, 0.625, [-0.5, 0.0, 0.5, 0.5])],
    ]
    found = Found(*images)
    detector = TransformersDetector(found, found, "by hand", device="cpu", batch_size=2)
    people = detector.detect([Image.new("RGB", size) for size in ((200, 100), (50, 60), (40, 80))])
    assert found.sizes == [2, 1]
    assert [[person.score for person in each] for each in people] == [[0.75, pytest.approx(0.55)], [], [0.625]]
    assert [person.box for each in people for person in each] == [
        pytest.approx(box) for box in ((100, 50, 200, 100), (20, 20, 60, 80), (0, 0, 20, 40))
    ]
