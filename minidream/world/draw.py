"""Scenes to pixels: signed distances, one vectorised pass for a whole batch.

A shape is a signed distance d (pixels, negative inside); its coverage is clip(1/2 - d, 0, 1), which is anti-aliasing
by one pixel. Coverages are tabulated once per (shape, size) on a window a little larger than the thing, so drawing
a picture is one blend per thing. Taught in notebook 01.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image

from minidream.world.scene import BACKGROUNDS, COLORS, SIDE, SIZES, Scene

HALF = 14  # half a window, pixels: the largest radius and a rim for the anti-aliasing


def _polygon(x: np.ndarray, y: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Signed distance to a polygon with `corners` (N, 2): nearest edge, sign by crossing number."""
    nearest = np.full(x.shape, np.inf)
    inside = np.zeros(x.shape, dtype=bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0)):
        ex, ey, px, py = x1 - x0, y1 - y0, x - x0, y - y0
        along = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
        nearest = np.minimum(nearest, np.hypot(px - along * ex, py - along * ey))
        if y0 != y1:
            inside ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) * ex / (y1 - y0))
    return np.where(inside, -nearest, nearest)


def _regular(corners: int, radii: tuple[float, ...]) -> np.ndarray:
    """Corners (N, 2) around a circle, the first at the top, taking `radii` in turn."""
    angles = -np.pi / 2 + 2 * np.pi * np.arange(corners) / corners
    radius = np.resize(np.array(radii), corners)
    return np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)


def _distance(shape: str, radius: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance (pixels) of points to a `shape` that fills a circle of `radius` around the origin."""
    distance = np.hypot(x, y)
    if shape == "circle":
        return distance - 0.95 * radius
    if shape == "ring":
        return np.abs(distance - 0.73 * radius) - 0.25 * radius
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.8 * radius
    if shape == "cross":
        arm, width = 0.98 * radius, 0.3 * radius
        horizontal = np.maximum(np.abs(x) - arm, np.abs(y) - width)
        vertical = np.maximum(np.abs(x) - width, np.abs(y) - arm)
        return np.minimum(horizontal, vertical)
    if shape == "triangle":
        return _polygon(x, y - 0.2 * radius, _regular(3, (1.12 * radius,)))
    return _polygon(x, y, _regular(10, (1.1 * radius, 0.45 * radius)))  # star


@cache
def _coverage(shape: str, size: str, scale: int) -> np.ndarray:
    """Coverage in [0, 1] on a (2 HALF scale, 2 HALF scale, 1) window around the thing's middle."""
    axis = np.arange(2 * HALF * scale) + 0.5 - HALF * scale
    x, y = np.meshgrid(axis, axis)
    return np.clip(0.5 - _distance(shape, SIZES[size] * scale, x, y), 0, 1).astype(np.float32)[..., None]


def draw_batch(scenes: Sequence[Scene], side: int = SIDE) -> np.ndarray:
    """Draw scenes as one array, uint8 (B, side, side, 3). Raises ValueError if `side` is no multiple of 64 pixels."""
    scale, rest = divmod(side, SIDE)
    if scale < 1 or rest:
        raise ValueError(f"the world is drawn {SIDE} pixels wide or a multiple of it, not {side}")
    pictures = np.empty((len(scenes), side, side, 3), dtype=np.float32)
    for picture, scene in zip(pictures, scenes):
        picture[:] = BACKGROUNDS[scene.background]
        for thing in scene.things:
            column, row = (scale * (int(middle) - HALF) for middle in thing.center)
            window = picture[row : row + 2 * HALF * scale, column : column + 2 * HALF * scale]
            window += _coverage(thing.shape, thing.size, scale) * (np.array(COLORS[thing.color], np.float32) - window)
    return (pictures + 0.5).astype(np.uint8)


def draw(scene: Scene, side: int = SIDE) -> Image.Image:
    """Draw one scene as an RGB picture, `side` pixels wide and high."""
    return Image.fromarray(draw_batch([scene], side)[0])
