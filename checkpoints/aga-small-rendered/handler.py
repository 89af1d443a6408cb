"""
Handler for Hugging Face Inference Endpoints: sentences and person images in, unit vectors out.

This file goes with a saved model and runs where this package is not installed; it is loaded by its path, so it imports
nothing from beside it.
"""

import base64
import binascii
import io
import os
from typing import Any

import torch
from PIL import Image, ImageOps
from transformers import AutoModel, AutoProcessor

MAX_INPUTS = 32  # sentences or images of a request
MAX_CHARACTERS = 2000  # of a sentence
MAX_IMAGE_BYTES = 10 * 1024**2  # of an image file, decoded from base64
MAX_PIXELS = 25_000_000
MIN_SIDE = 8  # pixels; nothing of a person is left below it
FORMATS = ("JPEG", "PNG", "WEBP", "BMP")


class EndpointHandler:
    """
    Embeds what a request holds. Nothing is fetched from an address and no file is opened by name.

    ```python
    >>> handler = EndpointHandler("runs/my_model/model")
    >>> handler({"inputs": ["a woman in a red coat"]})
    {'text_embeds': [[0.031, ...]]}
    >>> handler({"inputs": {"text": ["a woman in a red coat"], "image": [base64_of_a_jpeg]}})
    {'text_embeds': [[0.031, ...]], 'image_embeds': [[0.108, ...]]}
    ```

    Args:
        path: folder of the saved model; that of this file when empty.
    """

    def __init__(self, path: str = ""):
        folder = path or os.path.dirname(os.path.abspath(__file__))
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # The code of the folder that this file came with, where this package is not installed.
        model = AutoModel.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32)
        self.model: Any = model.to(self.device).eval()
        self.processor: Any = AutoProcessor.from_pretrained(folder, trust_remote_code=True)

    def __call__(self, data: dict[str, Any]) -> dict[str, list[list[float]]]:
        """
        Answer a request.

        Args:
            data: `inputs` is a sentence, a list of sentences, an image that the server has decoded (PIL), or a dict
                with `text`, one sentence or a list, and `image`, one image file in base64 or a list.

        Returns:
            `text_embeds` (sentences, dim) and `image_embeds` (images, dim), each where it was asked for, of unit
            length: products are cosine similarities. A sentence that is longer than the model reads is cut.

        Raises:
            ValueError: the request is wrong; says where. The server answers with the message and status 400.
        """
        texts, images = _read_request(data)
        found = {}
        if texts:
            found["text_embeds"] = self._embed_texts(texts)
        if images:
            found["image_embeds"] = self._embed_images(images)
        return found

    @torch.inference_mode()
    def _embed_texts(self, texts: list[str]) -> list[list[float]]:
        inputs = self.processor(text=texts, padding=True, truncation=True, return_tensors="pt").to(self.device)
        return _unit_rows(self.model.get_text_features(**inputs).pooler_output)

    @torch.inference_mode()
    def _embed_images(self, images: list[Any]) -> list[list[float]]:
        pixels = []
        for number, image in enumerate(images):  # each is made small in turn: one large image at a time is in memory
            upright = _to_rgb(image, number)
            pixels.append(self.processor(images=[upright], return_tensors="pt")["pixel_values"])
        return _unit_rows(self.model.get_image_features(torch.cat(pixels).to(self.device)).pooler_output)


def _unit_rows(features: torch.Tensor) -> list[list[float]]:
    return torch.nn.functional.normalize(features.float(), dim=-1).cpu().tolist()


def _read_request(data: Any) -> tuple[list[str], list[Any]]:
    """Sentences and images (base64 or PIL) of a request, checked."""
    if not isinstance(data, dict) or "inputs" not in data:
        raise ValueError(
            'the request needs "inputs": a sentence, a list of sentences, or {"text": [...], "image": [...]}'
        )
    if data.get("parameters"):
        raise ValueError(f'this model takes no "parameters", got {data["parameters"]!r}: leave them out')
    inputs = data["inputs"]
    if isinstance(inputs, Image.Image):
        inputs = {"image": inputs}
    if isinstance(inputs, str | list):
        inputs = {"text": inputs}
    if not isinstance(inputs, dict) or not inputs or set(inputs) - {"text", "image"}:
        got = sorted(map(str, inputs)) if isinstance(inputs, dict) else type(inputs).__name__
        raise ValueError(f'"inputs" is a sentence, a list of sentences, or has the keys "text" and "image"; got {got}')
    texts, images = (_as_list(inputs[key], key) if key in inputs else [] for key in ("text", "image"))
    for number, text in enumerate(texts):
        _check_sentence(text, number)
    return texts, images


def _as_list(value: Any, key: str) -> list[Any]:
    values = value if isinstance(value, list) else [value]
    if not 0 < len(values) <= MAX_INPUTS:
        raise ValueError(f'"{key}" holds {len(values)} entries: send 1 to {MAX_INPUTS} in a request')
    return values


def _check_sentence(text: Any, number: int) -> None:
    where = f"text {number}"
    if not isinstance(text, str):
        raise ValueError(f"{where} is no string but {type(text).__name__}")
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"{where} has {len(text)} characters: send at most {MAX_CHARACTERS}")
    if not any(character.isalnum() for character in text):
        raise ValueError(f"{where} holds no word: describe the person in a sentence")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"{where} is not valid Unicode")


def _to_rgb(image: Any, number: int) -> Image.Image:
    """Upright 8-bit RGB, transparency over white."""
    where = f"image {number}"
    if not isinstance(image, Image.Image):
        image = _open(_decode(image, where), where)
    width, height = image.size
    if min(width, height) < MIN_SIDE or width * height > MAX_PIXELS:
        raise ValueError(
            f"{where} is {width}x{height}: send sides of {MIN_SIDE} pixels or more, {MAX_PIXELS:,} in all"
        )
    if image.mode == "F" or image.mode.startswith("I"):
        raise ValueError(f"{where} has more than 8 bits per colour (mode {image.mode}): convert it to 8 bits")
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
    except Exception as error:  # PIL's decoders answer damaged bytes with almost any exception
        raise ValueError(f"{where} is damaged or truncated") from error
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _decode(text: Any, where: str) -> bytes:
    if not isinstance(text, str):
        raise ValueError(f"{where} is no string but {type(text).__name__}: send the image file in base64")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    if len(text) > MAX_IMAGE_BYTES * 3 // 2:  # 4/3 by base64, and line breaks
        raise ValueError(f"{where} is larger than {MAX_IMAGE_BYTES // 1024**2} MiB: send a smaller file")
    try:
        content = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{where} is not base64: send the bytes of an image file in base64, no address") from error
    if len(content) > MAX_IMAGE_BYTES:
        raise ValueError(f"{where} is larger than {MAX_IMAGE_BYTES // 1024**2} MiB: send a smaller file")
    return content


def _open(content: bytes, where: str) -> Image.Image:
    """An image whose header alone has been read."""
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{where} has more than {MAX_PIXELS:,} pixels: send a smaller image") from error
    except Exception as error:
        raise ValueError(f"{where} is no image of the formats {', '.join(FORMATS)}") from error
