"""What is around and between the person and the picture: background, occlusion, light, camera, sensor noise."""

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .canvas import Rgb

_BACKGROUND_HEIGHT = 96  # pixels; drawn small, blurred and enlarged


@dataclass(frozen=True)
class Camera:
    """A camera's own look: gain of each colour channel (R, G, B), contrast about mid grey, and brightness offset."""

    gains: tuple[float, float, float]
    contrast: float
    offset: float


CAMERAS = {
    "cam_a": Camera((1.0, 1.0, 1.0), 1.0, 0.0),
    "cam_b": Camera((1.07, 1.0, 0.91), 0.95, 6.0),  # warm, a little flat
    "cam_c": Camera((0.92, 1.0, 1.09), 1.05, -5.0),  # cool, a little dark
    "cam_d": Camera((0.97, 1.05, 0.96), 0.9, 10.0),  # greenish, hazy
}


def draw_background(rng: random.Random, height: int, width: int) -> Image.Image:
    """A soft, muted street, park, hall or square of height x width pixels."""
    rows = _BACKGROUND_HEIGHT
    columns = max(8, round(rows * width / height))
    horizon = rng.uniform(0.35, 0.68) * rows
    image = Image.new("RGB", (columns, rows), _muted(rng, 90, 205))
    draw = ImageDraw.Draw(image)
    ground = _muted(rng, 85, 190)
    tilt = rng.uniform(-3, 3)
    draw.polygon([(0, horizon), (columns, horizon + tilt), (columns, rows), (0, rows)], fill=ground)
    rng.choice(_SCENES)(draw, rng, columns, rows, horizon)
    image = image.filter(ImageFilter.BoxBlur(rng.choice((0.5, 1, 1.5))))
    return image.resize((width, height), Image.Resampling.BILINEAR)


def draw_occlusion(image: Image.Image, rng: random.Random) -> None:
    """Something in front of the person, at an edge or at the feet, in a part of the pictures."""
    if rng.random() > 0.18:
        return
    width, height = image.size
    draw = ImageDraw.Draw(image)
    colour = _muted(rng, 50, 180)
    kind = rng.choice(("pole", "bin", "bush"))
    if kind == "pole":
        left = rng.choice((rng.uniform(0.0, 0.22), rng.uniform(0.74, 0.94))) * width
        draw.rectangle([left, 0, left + rng.uniform(0.04, 0.08) * width, height], fill=colour)
        return
    side = rng.choice((rng.uniform(-0.2, 0.05), rng.uniform(0.7, 0.95))) * width
    top = rng.uniform(0.6, 0.85) * height
    box = [side, top, side + rng.uniform(0.3, 0.45) * width, height * 1.1]
    if kind == "bin":
        draw.rectangle(box, fill=colour)
    else:
        draw.ellipse(box, fill=(colour[0] // 2, colour[1] * 3 // 4, colour[2] // 2))


def develop(image: Image.Image, rng: random.Random, camera: Camera) -> Image.Image:
    """Turns the clean drawing into a camera's picture: focus, light, white balance, contrast and noise."""
    image = _focus(image, rng)
    width, height = image.size
    light = rng.uniform(0.84, 1.12) * camera.contrast
    balance = [light * gain * rng.uniform(0.95, 1.05) for gain in camera.gains]
    down, across = _fall_off(rng, 0.12, height), _fall_off(rng, 0.1, width)
    offset = 128 * (1 - camera.contrast) + camera.offset + rng.uniform(-8, 8)
    # Rows of width * 3 values: broadcasting over a last axis of three would be several times slower.
    pixels = np.asarray(image, dtype=np.float32).reshape(height, width * 3)
    pixels = pixels * np.outer(across, np.array(balance, dtype=np.float32)).reshape(1, width * 3)
    pixels *= down[:, None]
    # Even noise, as bytes: it looks like a sensor's and costs a tenth of Gaussian noise.
    generator = np.random.Generator(np.random.PCG64(rng.getrandbits(64)))
    grain = np.frombuffer(generator.bytes(pixels.size), dtype=np.uint8).reshape(pixels.shape)
    strength = rng.uniform(1.5, 6.0) / 73.9  # wanted over actual standard deviation
    pixels += grain * np.float32(strength)
    pixels += np.float32(offset - 127.5 * strength)
    np.clip(pixels, 0, 255, out=pixels)
    return Image.fromarray(pixels.astype(np.uint8).reshape(height, width, 3))


def _fall_off(rng: random.Random, most: float, size: int) -> np.ndarray:
    """A straight change of light over `size` pixels, from one edge's gain to the other's."""
    return np.linspace(1 + rng.uniform(-most, most), 1 + rng.uniform(-most, most), size, dtype=np.float32)


def _focus(image: Image.Image, rng: random.Random) -> Image.Image:
    kind = rng.random()
    width, height = image.size
    if kind < 0.35:
        return image.filter(ImageFilter.BoxBlur(height * rng.uniform(0.001, 0.005)))
    if kind < 0.5 and height >= 128:  # a distant person, enlarged
        factor = rng.uniform(0.4, 0.7)
        small = image.resize((max(1, round(width * factor)), round(height * factor)), Image.Resampling.BILINEAR)
        return small.resize((width, height), Image.Resampling.BICUBIC)
    return image


def _muted(rng: random.Random, low: int, high: int, saturation: float = 0.3) -> Rgb:
    channels = [rng.uniform(low, high) for _ in range(3)]
    grey = sum(channels) / 3
    red, green, blue = (round(grey + (channel - grey) * saturation) for channel in channels)
    return red, green, blue


def _street(draw: ImageDraw.ImageDraw, rng: random.Random, columns: int, rows: int, horizon: float) -> None:
    wall, glass = _muted(rng, 70, 200), _muted(rng, 40, 110)
    edge = rng.uniform(-0.2, 0.8) * columns
    draw.rectangle([edge, 0, edge + rng.uniform(0.4, 1.2) * columns, horizon], fill=wall)
    step = rng.uniform(5, 9)
    for row in range(int(horizon / (step * 1.6))):
        for column in range(int(columns / step) + 1):
            x, y = column * step + edge % step, row * step * 1.6 + 1
            draw.rectangle([x, y, x + step * 0.5, y + step * 0.8], fill=glass)
    kerb = rng.uniform(horizon, rows)
    draw.line([0, kerb, columns, kerb + rng.uniform(-4, 4)], fill=_muted(rng, 150, 230), width=rng.choice((1, 2)))


def _park(draw: ImageDraw.ImageDraw, rng: random.Random, columns: int, rows: int, horizon: float) -> None:
    green = rng.randint(85, 130)
    grass = (green - rng.randint(5, 25), green + rng.randint(0, 15), green - rng.randint(25, 45))
    draw.rectangle([0, horizon, columns, rows], fill=grass)
    path = rng.uniform(0, columns)
    draw.polygon([(path, horizon), (path + 3, horizon), (path + 14, rows), (path - 12, rows)], fill=(160, 150, 132))
    for _ in range(rng.randint(2, 5)):
        x, size = rng.uniform(0, columns), rng.uniform(5, 13)
        trunk, crown = rng.randint(50, 85), rng.randint(65, 110)
        draw.rectangle([x - 1, horizon - 2 * size, x + 1, horizon + 2], fill=(trunk, trunk - 12, trunk - 24))
        box = [x - size, horizon - 4 * size, x + size, horizon - size]
        draw.ellipse(box, fill=(crown - 22, crown, crown - 34))


def _hall(draw: ImageDraw.ImageDraw, rng: random.Random, columns: int, rows: int, horizon: float) -> None:
    tile = _muted(rng, 110, 200)
    for i in range(6):
        y = horizon + (rows - horizon) * (i / 6) ** 1.5
        draw.line([0, y, columns, y], fill=tile)
    for foot in range(-columns, 2 * columns, 7):
        draw.line([columns / 2 + (foot - columns / 2) * 0.5, horizon, foot, rows], fill=tile)
    for _ in range(rng.randint(1, 3)):
        x, wide = rng.uniform(0, columns), rng.uniform(3, 10)
        draw.rectangle([x, rng.uniform(0, horizon * 0.6), x + wide, horizon], fill=_muted(rng, 60, 220))


def _square(draw: ImageDraw.ImageDraw, rng: random.Random, columns: int, rows: int, horizon: float) -> None:
    for _ in range(rng.randint(2, 5)):  # people far away
        x, tall = rng.uniform(0, columns), rng.uniform(7, 15)
        y = horizon - tall * 0.5
        draw.rectangle([x - 1, y + tall * 0.5, x + 1, y + tall], fill=_muted(rng, 30, 120))
        draw.rectangle([x - 2, y + 2, x + 2, y + tall * 0.55], fill=_muted(rng, 40, 190, 0.6))
        draw.ellipse([x - 1, y, x + 1, y + 2], fill=(120, 95, 80))
    for _ in range(rng.randint(0, 2)):  # parked cars
        x, y = rng.uniform(-8, columns), horizon + rng.uniform(-2, 4)
        draw.rectangle([x, y - 6, x + rng.uniform(12, 20), y], fill=_muted(rng, 40, 200, 0.5))


_SCENES: tuple[Callable[[ImageDraw.ImageDraw, random.Random, int, int, float], None], ...] = (
    _street,
    _park,
    _hall,
    _square,
)
