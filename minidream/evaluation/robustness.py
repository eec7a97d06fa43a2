"""Does it still see when the picture is not as in training? Captions and questions under damage, as curves.

Each kind of damage has levels, from mild to strong; at each, the same `n` pictures are told and asked about, and
"none" is where all curves begin. The damage leaves a picture's truth as it is: every thing's middle stays in its
quarter. `file` has no levels but ways in which a picture comes: as unusual files, saved and read again. Taught in
notebook 09.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageFilter, ImageOps

from minidream.evaluation.candidate import Candidate
from minidream.evaluation.comprehension import parse_caption, pictures_of, plain, scenes_for
from minidream.evaluation.statistics import proportion
from minidream.pictures import load_picture
from minidream.world.scene import Scene
from minidream.world.tell import QUESTION_TYPES, Question, ask

Damage = Callable[[Image.Image, int], Image.Image]  # of a picture with its number, that chance goes by


def _ground(picture: Image.Image) -> tuple[int, ...]:
    """The colour of the corner: the background's."""
    corner = picture.getpixel((0, 0))
    assert isinstance(corner, tuple)
    return corner


def noise(sigma: float, picture: Image.Image, number: int) -> Image.Image:
    """Gaussian noise, `sigma` in levels of 255."""
    pixels = np.asarray(picture) + np.random.default_rng(number).normal(0, sigma, (*picture.size[::-1], 3))
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


def blur(radius: float, picture: Image.Image, number: int) -> Image.Image:
    """A Gaussian blur, `radius` in pixels."""
    return picture.filter(ImageFilter.GaussianBlur(radius))


def jpeg(quality: float, picture: Image.Image, number: int) -> Image.Image:
    """Saved as JPEG and read again."""
    return _saved(picture, "JPEG", quality=int(quality))


def shift(pixels: float, picture: Image.Image, number: int) -> Image.Image:
    """Everything moved, right or left, and down or up; the background closes the gap."""
    x, y = ((1, 1), (1, -1), (-1, 1), (-1, -1))[number % 4]
    moved = Image.new("RGB", picture.size, _ground(picture))
    moved.paste(picture, (int(x * pixels), int(y * pixels)))
    return moved


def scale(factor: float, picture: Image.Image, number: int) -> Image.Image:
    """Smaller about the middle, on more background."""
    size = round(picture.width * factor), round(picture.height * factor)
    smaller = Image.new("RGB", picture.size, _ground(picture))
    corner = (picture.width - size[0]) // 2, (picture.height - size[1]) // 2
    smaller.paste(picture.resize(size, Image.Resampling.LANCZOS), corner)
    return smaller


def palette(degrees: float, picture: Image.Image, number: int) -> Image.Image:
    """All hues turned, one way or the other."""
    hue, saturation, value = picture.convert("HSV").split()
    turn = round(degrees / 360 * 256) * (1 if number % 2 else -1)
    return Image.merge("HSV", (hue.point(lambda level: (level + turn) % 256), saturation, value)).convert("RGB")


def rotation(degrees: float, picture: Image.Image, number: int) -> Image.Image:
    """Turned about the middle, one way or the other."""
    turn = degrees if number % 2 else -degrees
    return picture.rotate(turn, Image.Resampling.BICUBIC, fillcolor=_ground(picture))


LEVELS: dict[Callable[..., Image.Image], tuple[float, ...]] = {
    noise: (5, 10, 20, 40),
    blur: (0.5, 1, 1.5, 2),
    jpeg: (90, 60, 30, 10),
    shift: (1, 2, 4, 6),
    scale: (0.95, 0.9, 0.8, 0.7),
    palette: (4, 8, 12, 15),  # at 20 degrees orange would be as near to yellow
    rotation: (3, 6, 12, 24),
}
UNITS = {  # of the levels
    "noise": "sigma, of 255",
    "blur": "pixels",
    "jpeg": "quality",
    "shift": "pixels",
    "scale": "of the size",
    "palette": "degrees",
    "rotation": "degrees",
}


def _saved(picture: Image.Image, kind: str, **options: Any) -> Image.Image:
    """What `load_picture` reads of a file."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return load_picture(io.BytesIO(file.getvalue()))


def _upside_down(picture: Image.Image) -> Image.Image:
    """As a camera saves: the pixels are turned, and EXIF says how to hold them."""
    exif = Image.Exif()
    exif[0x0112] = 3  # Orientation: 180 degrees
    return _saved(picture.rotate(180), "PNG", exif=exif)


def _transparent(picture: Image.Image) -> Image.Image:
    """With nothing painted where the picture is white."""
    made = picture.convert("RGBA")
    if min(_ground(picture)) > 200:
        painted = ImageChops.difference(picture, Image.new("RGB", picture.size, _ground(picture))).convert("L")
        made.putalpha(painted.point(lambda level: 255 if level else 0))
    return _saved(made, "PNG")


FILES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "palette_png": lambda picture: _saved(picture.quantize(16), "PNG"),
    "transparent_png": _transparent,
    "cmyk_jpeg": lambda picture: _saved(picture.convert("CMYK"), "JPEG", quality=90),
    "webp": lambda picture: _saved(picture, "WEBP", quality=80),
    "upside_down": _upside_down,
    "wide": lambda picture: _saved(ImageOps.expand(picture, (32, 0), fill="red"), "PNG"),
    "large": lambda picture: _saved(picture.resize((500, 500), Image.Resampling.BICUBIC), "PNG"),
}


def damages() -> dict[tuple[str, str], Damage]:
    """Everything that is done to pictures, by kind and level."""
    made: dict[tuple[str, str], Damage] = {("none", "0"): lambda picture, number: picture}
    for damage, levels in LEVELS.items():
        made |= {(damage.__name__, f"{level:g}"): partial(damage, level) for level in levels}
    return made | {("file", name): lambda picture, number, save=save: save(picture) for name, save in FILES.items()}


def robustness(candidate: Candidate, n: int, seed: int, kind: str, level: str) -> dict[str, Any]:
    """`{kind: {level: {"caption", "vqa"}}}`: whole scenes told, and questions of all types answered, `n` of each."""
    damage = damages()[kind, level]
    scenes, rng = scenes_for(n, seed, "seen", "robustness")
    types = list(QUESTION_TYPES)
    asked = [ask(scene, types[number % len(types)], rng) for number, scene in enumerate(scenes)]
    shown = [damage(picture, number) for number, picture in enumerate(pictures_of(scenes))]
    return {kind: {level: _seen(candidate, scenes, asked, shown)}}


def _seen(candidate: Candidate, scenes: list[Scene], asked: list[Question], shown: list[Image.Image]) -> dict[str, Any]:
    told = candidate.caption(shown)
    said = candidate.ask(shown, [question.question for question in asked])
    return {
        "caption": proportion([parse_caption(text) == scene.facts() for text, scene in zip(told, scenes)]),
        "vqa": proportion([plain(text) == question.answer for text, question in zip(said, asked)]),
    }
