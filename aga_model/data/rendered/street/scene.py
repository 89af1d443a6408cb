"""The street of `world=base` and the camera over it: textured grounds and walls, clutter, light, and poor pictures."""

import math
import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from ..canvas import Rgb
from ..scene import Camera

Region = tuple[float, float, float, float]  # left, top, right, bottom in pixels

STREET_CAMERAS = {
    "cam_a": Camera((1.0, 1.0, 1.0), 1.0, 0.0),
    "cam_b": Camera((1.05, 1.0, 0.93), 0.95, 4.0),
    "cam_c": Camera((0.95, 1.0, 1.06), 1.08, -4.0),
    "cam_d": Camera((0.98, 1.03, 0.97), 0.85, 8.0),
    "cam_e": Camera((1.0, 0.99, 1.02), 1.2, 6.0),
    "cam_f": Camera((1.02, 1.0, 0.98), 0.75, -2.0),
}


def noise_field(generator: np.random.Generator, height: int, width: int, rows: int, columns: int) -> np.ndarray:
    """Smooth noise of about unit standard deviation, (height, width) float32, with rows x columns control points."""
    points = generator.standard_normal((max(2, rows), max(2, columns)), dtype=np.float32)
    field = Image.fromarray(points).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(field) * np.float32(1.4)  # interpolation takes some of the spread


def draw_street(rng: random.Random, height: int, width: int) -> Image.Image:
    """A background of height x width pixels: ground, often something behind it, and clutter."""
    generator = np.random.Generator(np.random.PCG64(rng.getrandbits(64)))
    image = Image.new("RGB", (width, height), _ground_colour(rng))
    draw = ImageDraw.Draw(image, "RGBA")
    # A camera high above shows ground alone; a low one shows the horizon behind the person.
    horizon = 0.0 if rng.random() < 0.4 else rng.uniform(0.08, 0.75) * height
    if horizon:
        draw.polygon(_slanted(rng, 0, horizon, width, height), fill=_wall_colour(rng))
        rng.choice(_BEHIND)(draw, rng, (0, 0, width, horizon))
    for _ in range(rng.randint(0, 3)):
        rng.choice(_ON_THE_GROUND)(draw, rng, (0, horizon, width, height))
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        _object(draw, rng, horizon, height, width)
    image = image.filter(ImageFilter.BoxBlur(rng.choice((0, 1, 2, 3))))
    return _textured(image, rng, generator)


def draw_in_front(image: Image.Image, rng: random.Random) -> None:
    """Something between the camera and the person, at an edge or at the feet, in a part of the pictures."""
    if rng.random() > 0.14:
        return
    width, height = image.size
    draw = ImageDraw.Draw(image)
    colour = _tone(rng, 30, 210, 0.4)
    if rng.random() < 0.5:
        left = rng.choice((rng.uniform(-0.05, 0.18), rng.uniform(0.8, 0.98))) * width
        draw.rectangle([left, 0, left + rng.uniform(0.03, 0.12) * width, height], fill=colour)
        return
    left = rng.choice((rng.uniform(-0.3, 0.0), rng.uniform(0.7, 0.95))) * width
    box = [left, rng.uniform(0.55, 0.9) * height, left + rng.uniform(0.3, 0.6) * width, height * 1.1]
    (draw.rectangle if rng.random() < 0.5 else draw.ellipse)(box, fill=colour)


def expose(image: Image.Image, rng: random.Random, camera: Camera) -> Image.Image:
    """The camera's picture of the scene: resolution, focus, exposure, tint, saturation, sharpening and noise."""
    generator = np.random.Generator(np.random.PCG64(rng.getrandbits(64)))
    image = _resolve(image, rng)
    width, height = image.size
    pixels = np.asarray(image, dtype=np.float32) / 255
    # Written out: a matrix product would start BLAS's threads, in a forked process.
    grey = 0.299 * pixels[..., 0] + 0.587 * pixels[..., 1] + 0.114 * pixels[..., 2]
    saturation = rng.triangular(0.45, 1.35, 0.95)
    pixels = grey[..., None] + (pixels - grey[..., None]) * np.float32(saturation)
    gains = [gain * rng.gauss(1, 0.035) for gain in camera.gains]
    pixels *= np.array(gains, dtype=np.float32)
    # Light that changes over the picture, as in the shade of a house.
    light = 1 + rng.uniform(0, 0.09) * noise_field(generator, height, width, 3, 2)
    pixels *= light[..., None]
    np.clip(pixels, 0, None, out=pixels)
    pixels **= np.float32(math.exp(rng.gauss(-0.12, 0.2)))  # gamma
    contrast = camera.contrast * rng.uniform(0.75, 1.25)
    pixels = (pixels - 0.45) * np.float32(contrast) + np.float32(0.45 + camera.offset / 255 + rng.gauss(0, 0.05))
    strength = rng.triangular(0.0, 0.045, 0.004)
    pixels += generator.standard_normal((height, width, 1), dtype=np.float32) * np.float32(strength)
    pixels += generator.standard_normal((height, width, 3), dtype=np.float32) * np.float32(0.5 * strength)
    image = Image.fromarray((np.clip(pixels, 0, 1) * 255).astype(np.uint8))
    if rng.random() < 0.25:  # surveillance cameras sharpen, with halos
        image = image.filter(ImageFilter.UnsharpMask(rng.uniform(0.8, 1.8), rng.randint(60, 180), 2))
    return image


def _resolve(image: Image.Image, rng: random.Random) -> Image.Image:
    """Focus, and the resolution of a person far away."""
    width, height = image.size
    kind = rng.random()
    if kind < 0.35:
        return image.filter(ImageFilter.GaussianBlur(height * rng.uniform(0.002, 0.009)))
    if kind < 0.65:
        factor = rng.uniform(0.28, 0.75)
        small = image.resize((max(1, round(width * factor)), round(height * factor)), Image.Resampling.BILINEAR)
        return small.resize((width, height), rng.choice((Image.Resampling.BICUBIC, Image.Resampling.BILINEAR)))
    return image


# --- colours and textures ---------------------------------------------------------------------------------------


def _tone(rng: random.Random, low: float, high: float, saturation: float) -> Rgb:
    value, channels = rng.uniform(low, high), [rng.uniform(-1, 1) for _ in range(3)]
    spread = saturation * value * 0.5
    red, green, blue = (max(0, min(255, round(value + spread * channel))) for channel in channels)
    return red, green, blue


def _ground_colour(rng: random.Random) -> Rgb:
    kind = rng.random()
    if kind < 0.62:
        return _tone(rng, 80, 225, 0.08)  # asphalt, concrete, paving
    if kind < 0.78:
        value = rng.uniform(60, 130)
        return round(value * rng.uniform(0.75, 1.0)), round(value * 1.1), round(value * rng.uniform(0.35, 0.65))
    return _tone(rng, 80, 210, 0.35)  # floors, sand, brick


def _wall_colour(rng: random.Random) -> Rgb:
    return _tone(rng, 35, 235, rng.choice((0.08, 0.25, 0.5)))


def _slanted(rng: random.Random, top: float, bottom: float, width: float, height: float) -> list[tuple[float, float]]:
    slope = rng.uniform(-0.12, 0.12) * height
    return [(0, top), (width, top), (width, bottom + slope), (0, bottom - slope)]


def _textured(image: Image.Image, rng: random.Random, generator: np.random.Generator) -> Image.Image:
    width, height = image.size
    amount = rng.triangular(0.005, 0.09, 0.02)
    texture = noise_field(generator, height, width, 6, 3) * np.float32(amount)
    texture += noise_field(generator, height, width, height // 8, width // 8) * np.float32(amount * 0.7)
    texture += noise_field(generator, height, width, height // 3, width // 3) * np.float32(amount * 0.6)
    pixels = np.asarray(image, dtype=np.float32) * (1 + texture)[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


# --- things on the street ---------------------------------------------------------------------------------------


def _windows(draw: ImageDraw.ImageDraw, rng: random.Random, region: Region) -> None:
    left, _, right, bottom = region
    step = rng.uniform(0.12, 0.4) * (right - left)
    tall, glass = step * rng.uniform(0.8, 1.8), _tone(rng, 15, 160, 0.2)
    x0, y0 = rng.uniform(-step, 0), rng.uniform(-tall, 0)
    for row in range(int((bottom - y0) / tall) + 1):
        for column in range(int((right - x0) / step) + 1):
            x, y = x0 + column * step, y0 + row * tall
            if y + tall * 0.7 < bottom:
                draw.rectangle([x, y, x + step * 0.6, y + tall * 0.65], fill=glass)


def _plants(draw: ImageDraw.ImageDraw, rng: random.Random, region: Region) -> None:
    left, top, right, bottom = region
    for _ in range(rng.randint(6, 22)):
        size = rng.uniform(0.05, 0.28) * (right - left)
        x, y = rng.uniform(left, right), rng.uniform(top - size, bottom)
        value = rng.uniform(30, 120)
        fill = (round(value * rng.uniform(0.6, 1)), round(value), round(value * rng.uniform(0.3, 0.7)))
        draw.ellipse([x - size, y - size, x + size, y + size], fill=fill)


def _panels(draw: ImageDraw.ImageDraw, rng: random.Random, region: Region) -> None:
    """Doors, shop fronts, posters, columns."""
    left, top, right, bottom = region
    for _ in range(rng.randint(1, 5)):
        x, wide = rng.uniform(left - 10, right), rng.uniform(0.05, 0.5) * (right - left)
        upper = rng.uniform(top, bottom * 0.8)
        draw.rectangle([x, upper, x + wide, bottom], fill=_tone(rng, 15, 240, rng.choice((0.1, 0.3, 1.0))))


def _passers_by(draw: ImageDraw.ImageDraw, rng: random.Random, region: Region) -> None:
    """People and cars far behind."""
    left, _, right, bottom = region
    for _ in range(rng.randint(1, 4)):
        tall = rng.uniform(0.1, 0.4) * (right - left)
        x, y = rng.uniform(left, right), bottom + rng.uniform(-0.2, 0.6) * tall
        draw.ellipse([x - tall * 0.07, y - tall, x + tall * 0.07, y - tall * 0.84], fill=_tone(rng, 20, 160, 0.3))
        draw.rectangle(
            [x - tall * 0.13, y - tall * 0.85, x + tall * 0.13, y - tall * 0.45], fill=_tone(rng, 15, 230, 0.7)
        )
        draw.rectangle([x - tall * 0.1, y - tall * 0.46, x + tall * 0.1, y], fill=_tone(rng, 15, 120, 0.3))
    if rng.random() < 0.5:
        x, tall = rng.uniform(left - 0.5 * right, right), rng.uniform(0.15, 0.4) * (right - left)
        draw.rounded_rectangle([x, bottom - tall, x + tall * 2.6, bottom], tall * 0.3, fill=_tone(rng, 15, 240, 0.6))
        draw.rectangle(
            [x + tall * 0.4, bottom - tall * 0.9, x + tall * 2, bottom - tall * 0.5], fill=_tone(rng, 10, 90, 0.1)
        )


_BEHIND: tuple[Callable[[ImageDraw.ImageDraw, random.Random, Region], None], ...] = (
    _windows,
    _plants,
    _panels,
    _passers_by,
)


def _marking(draw: ImageDraw.ImageDraw, rng: random.Random, region: Region) -> None:
    """A line on the road, a kerb, a crack."""
    left, top, right, bottom = region
    y0, y1 = rng.uniform(top, bottom), rng.uniform(top, bottom)
    fill = rng.choice(((235, 235, 230), (225, 190, 60), _tone(rng, 40, 200, 0.1)))
    draw.line([left, y0, right, y1], fill=fill, width=max(1, round(rng.uniform(0.005, 0.03) * (bottom - top + 50))))


def _area(draw: ImageDraw.ImageDraw, rng: random.Random, region: Region) -> None:
    """Another ground: grass beside the road, a pavement, a shadow."""
    left, top, right, bottom = region
    corner = rng.choice(((left, bottom), (right, bottom), (left, top), (right, top)))
    reach_x, reach_y = rng.uniform(0.2, 1.2) * (right - left), rng.uniform(0.1, 0.7) * (bottom - top)
    across = corner[0] + (reach_x if corner[0] == left else -reach_x)
    along = corner[1] + (reach_y if corner[1] == top else -reach_y)
    fill: tuple[int, ...] = (0, 0, 0, rng.randint(40, 110)) if rng.random() < 0.35 else _ground_colour(rng)
    draw.polygon([corner, (across, corner[1]), (corner[0], along)], fill=fill)


def _paving(draw: ImageDraw.ImageDraw, rng: random.Random, region: Region) -> None:
    left, top, right, bottom = region
    fill = (0, 0, 0, rng.randint(25, 90)) if rng.random() < 0.6 else (255, 255, 255, rng.randint(25, 90))
    step, lean = rng.uniform(0.06, 0.25) * (right - left), rng.uniform(-0.5, 0.5)
    for i in range(-20, 40):
        x = left + i * step
        draw.line([x, top, x + lean * (bottom - top), bottom], fill=fill)
        y = top + i * step * 0.7
        if top <= y <= bottom:
            draw.line([left, y, right, y], fill=fill)


_ON_THE_GROUND: tuple[Callable[[ImageDraw.ImageDraw, random.Random, Region], None], ...] = (_marking, _area, _paving)


def _object(draw: ImageDraw.ImageDraw, rng: random.Random, horizon: float, height: int, width: int) -> None:
    """A sign, a bin, a cone, a bench: a patch of a strong colour beside or behind the person."""
    foot = rng.uniform(max(horizon, 0.1 * height), height)
    tall, wide = rng.uniform(0.05, 0.3) * height, rng.uniform(0.05, 0.3) * width
    x = rng.choice((rng.uniform(-0.1, 0.25), rng.uniform(0.7, 1.0))) * width
    fill = _tone(rng, 30, 230, rng.choice((0.2, 0.8, 1.6)))
    if rng.random() < 0.3:
        draw.polygon([(x, foot), (x + wide, foot), (x + wide / 2, foot - tall)], fill=fill)
    else:
        draw.rectangle([x, foot - tall, x + wide, foot], fill=fill)
