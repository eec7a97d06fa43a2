"""Pixels to scenes: an exact reader that needs no learning and rather refuses than guesses.

Every quarter of the picture is compared with a *template* (coverage in [0, 1]) of each shape, size and offset. If a
quarter D (pixels minus background) shows template t in one colour v, then D = t v + noise, and the likeliest template
is the one that explains most energy, |t·D|² / |t|²: one matrix product for a whole batch. A picture is not readable
if a quarter lies between two templates or two colours, or is not explained by the best: in total energy, or anywhere.

Of the world's other modules only the tables in `scene.py` are shared: what a shape *is* stands here a second time, as
an inequality instead of a distance, so that an error in the renderer cannot hide itself. Taught in notebook 01.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from minidream.world.scene import BACKGROUNDS, COLORS, JITTER, PLACES, SHAPES, SIDE, SIZES, Scene, Thing

QUARTER = SIDE // 2
REACH = JITTER + 1  # offsets looked for: one pixel more than the renderer uses
BLOCK = 4  # things are looked for in means over blocks of 4 x 4 pixels: noise and thin edges fade, things stay
CHUNK = 64  # pictures at a time, so that the scores fit into the cache
# Shapes are compared in light, at full resolution, and in two tints, at half: JPEG keeps no more, and an orange thing
# on grey has next to no light of its own. All are softened a little, so that half a pixel or a blur matters less.
OPPONENT = np.array([[0.299, 0.587, 0.114], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]], np.float32)
NOISE_LEFT = np.array([90.0, 20.0])  # energy that noise of variance 1 has in a softened quarter's light and tints

# What is still readable, chosen so that JPEG at quality 75, noise of sigma 0.05 and a good VAE pass, and mud does not.
COLOR_TOLERANCE = 45.0  # distance from a colour of the table, levels of 255
EMPTY = 28.0  # a block's mean further off the background (levels) shows that something is there
UNEXPLAINED = 0.22  # ... and may differ from the best template by EMPTY + this share of the thing's contrast
# The share of a thing's energy that may stay unexplained, in light and in tint. Up to 0.034 in light, every half-way
# blend of two shapes and every half of a thing is refused, but so are many small things that are right to the eye; at
# 0.04 a blend of a small square with a small cross passes, and half a small cross.
LEFT_OVER = np.array([0.04, 0.04])
GRAIN = 5.0  # blemishes that are forgiven everywhere, levels
MARGIN = 0.15  # 1: exactly one hypothesis, 0: half-way to the next one


def _inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether points belong to a shape of size 1 around the origin; y points down."""
    distance = np.hypot(x, y)
    across, along = np.minimum(abs(x), abs(y)), np.maximum(abs(x), abs(y))
    if shape == "circle":
        return distance <= 0.95
    if shape == "ring":
        return (distance >= 0.48) & (distance <= 0.98)
    if shape == "square":
        return along <= 0.8
    if shape == "cross":
        return (across <= 0.3) & (along <= 0.98)
    if shape == "triangle":  # three half-planes, 0.56 from a middle that lies 0.2 low
        low = y - 0.2
        return np.maximum(low, abs(x) * np.sqrt(3) / 2 - low / 2) <= 0.56
    if shape == "star":  # ten equal wedges, each cut off by the line from a tip (1.1) to a notch (0.45)
        wedge = np.pi / 5
        angle = np.arctan2(x, -y) % (2 * wedge)
        angle = np.minimum(angle, 2 * wedge - angle)
        notch_x, notch_y = 0.45 * np.cos(wedge), 0.45 * np.sin(wedge)
        return distance * (np.cos(angle) * notch_y + np.sin(angle) * (1.1 - notch_x)) <= 1.1 * notch_y
    raise ValueError(f"the reader knows no shape {shape!r}")


class _Templates(NamedTuple):
    """All K = shapes x sizes x offsets hypotheses about a quarter of S = 32 x 32 pixels."""

    kinds: list[tuple[str, str, tuple[int, int]]]  # shape, size and offset of each
    family: np.ndarray  # (K,) the number of its shape and size
    light: np.ndarray  # (S, K) coverage as light sees it, softened, of length 1
    tint: np.ndarray  # (S / 4, K) the same as a tint sees it
    core: np.ndarray  # (K, S) weights, of sum 1, of the deepest pixels: there the colour is pure
    blocks: np.ndarray  # (K, S / 16) means of the coverage over blocks
    likeness: np.ndarray  # (3, K, K) cosines between templates, in light and in both tints


@cache
def _templates() -> _Templates:
    fine, wide = 8, QUARTER + 2 * REACH  # 8 x 8 samples a pixel, on a window from which every offset is cut out
    axis = (np.arange(wide * fine) + 0.5) / fine - wide / 2
    x, y = np.meshgrid(axis, axis)
    kinds, coverages, cores = [], [], []
    for shape in SHAPES:
        for size, radius in SIZES.items():
            inside = _inside(shape, x / radius, y / radius)
            coverage = inside.reshape(wide, fine, wide, fine).mean(axis=(1, 3))
            depth = _soften(coverage.reshape(1, -1), 1).reshape(wide, wide)
            core = np.where(depth > depth.max() - 0.1, coverage, 0)
            for dy in range(-REACH, REACH + 1):
                for dx in range(-REACH, REACH + 1):
                    cut = np.s_[REACH - dy : REACH - dy + QUARTER, REACH - dx : REACH - dx + QUARTER]
                    kinds.append((shape, size, (dx, dy)))
                    coverages.append(coverage[cut].ravel())
                    cores.append(core[cut].ravel() / core[cut].sum())
    coverage = np.array(coverages, np.float32)
    light, tint = _unit(_soften(coverage, 1)), _unit(_soften(_means(coverage, 2), 2))
    family = np.arange(len(kinds)) // (2 * REACH + 1) ** 2
    return _Templates(
        kinds,
        family,
        light=np.ascontiguousarray(light.T),
        tint=np.ascontiguousarray(tint.T),
        core=np.array(cores, np.float32),
        blocks=_means(coverage, BLOCK),
        likeness=np.stack([light @ light.T, tint @ tint.T, tint @ tint.T]),
    )


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _soften(quarters: np.ndarray, times: int) -> np.ndarray:
    """Blur (..., S) with the kernel (1, 2, 1) / 4, both ways, some times over."""
    side = math.isqrt(quarters.shape[-1])
    between = (np.eye(side, k=-1) + 2 * np.eye(side) + np.eye(side, k=1)) / 4
    blur = np.linalg.matrix_power(between, times).astype(np.float32)
    return (blur @ quarters.reshape(-1, side, side) @ blur).reshape(quarters.shape)


def _means(quarters: np.ndarray, side: int) -> np.ndarray:
    """Means over blocks of side x side pixels, (..., S) -> (..., S / side^2)."""
    down = quarters.reshape(-1, side, QUARTER).sum(axis=1)
    across = down.reshape(-1, side) @ np.full(side, side**-2, np.float32)  # numpy's own mean is ten times slower here
    return across.reshape(*quarters.shape[:-1], (QUARTER // side) ** 2)


@cache
def _always_background() -> np.ndarray:
    """(S,) bool: the corners of a quarter, which no thing reaches."""
    axis = np.arange(QUARTER) + 0.5 - QUARTER / 2
    return (np.hypot(*np.meshgrid(axis, axis)) > 17).ravel()


def _nearest(colors: np.ndarray, table: dict[str, tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """The nearest entry of a table for `colors` (N, 3): indices (N,), and whether it is near and the only one near."""
    known = np.array(list(table.values()), np.float32)
    distance = np.linalg.norm(colors[:, None] - known, axis=2)  # (N, colours)
    first, second = np.argsort(distance, axis=1)[:, :2].T
    rows, apart = np.arange(len(colors)), np.linalg.norm(known[first] - known[second], axis=1)
    margin = (distance[rows, second] ** 2 - distance[rows, first] ** 2) / apart**2
    return first, (distance[rows, first] <= COLOR_TOLERANCE) & (margin >= MARGIN)


def _match(quarters: np.ndarray, seen: np.ndarray, grain: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Explain quarters (N, 3, S), background subtracted; `seen` (N, 3, S / 16) are their block means and `grain` (N,)
    the variance of their pictures' noise.

    Returns the best template (N,), its colour minus the background (N, 3), and whether it explains its quarter (N,).
    """
    known, rows = _templates(), np.arange(len(quarters))
    opponent = np.einsum("oc,ncs->nos", OPPONENT, quarters, optimize=True)
    light, tints = _soften(opponent[:, :1], 1), _soften(_means(opponent[:, 1:], 2) * 2, 2)
    fit = np.concatenate([light @ known.light, tints @ known.tint], axis=1)  # (N, 3, K)
    energy = np.einsum("nck,nck->nk", fit, fit)
    best = energy.argmax(axis=1)
    color = np.einsum("ncs,ns->nc", quarters, known.core[best])

    # The next hypothesis of another shape or size: how far from here to half-way there?
    rival = np.where(known.family == known.family[best][:, None], -1, energy).argmax(axis=1)
    fit_best, fit_rival = fit[rows, :, best], fit[rows, :, rival]  # (N, 3)
    between = energy[rows, best] + energy[rows, rival]
    between -= 2 * (fit_best * fit_rival * known.likeness[:, best, rival].T).sum(axis=1)
    clear = energy[rows, best] - energy[rows, rival] >= MARGIN * between

    # What is left over may be noise, as much as the corners show, and a small share of the thing, but no more.
    parts = np.stack([np.square(light).sum(axis=(1, 2)), np.square(tints).sum(axis=(1, 2))], axis=1)  # (N, 2)
    left = parts - np.stack([fit_best[:, 0] ** 2, np.square(fit_best[:, 1:]).sum(axis=1)], axis=1)
    forgiven = (grain[:, None] + GRAIN**2) * NOISE_LEFT + parts.sum(axis=1, keepdims=True) * LEFT_OVER
    clear &= (left <= forgiven).all(axis=1)

    # ... nor may anything else stand anywhere.
    unexplained = np.linalg.norm(seen - color[:, :, None] * known.blocks[best][:, None], axis=1).max(axis=1)
    contrast = np.linalg.norm(color, axis=1)
    return best, color, clear & (unexplained <= EMPTY + UNEXPLAINED * contrast)


def _read_chunk(pictures: np.ndarray) -> list[Scene | None]:
    number, places, known = len(pictures), list(PLACES), _templates()
    quarters = pictures.reshape(number, 2, QUARTER, 2, QUARTER, 3).transpose(0, 1, 3, 5, 2, 4)
    quarters = quarters.reshape(number, len(places), 3, -1).astype(np.float32)  # (B, 4, 3, S)
    corners = quarters[..., _always_background()].transpose(0, 2, 1, 3).reshape(number, 3, -1)
    background, grain = np.median(corners, axis=2), corners.var(axis=2).mean(axis=1)
    ground, readable = _nearest(background, BACKGROUNDS)
    quarters -= background[:, None, :, None]

    seen = _means(quarters, BLOCK)
    picture, place = np.nonzero(np.linalg.norm(seen, axis=2).max(axis=2) > EMPTY)
    best, color, explained = _match(quarters[picture, place], seen[picture, place], grain[picture])
    hue, pure = _nearest(color + background[picture], COLORS)
    np.logical_and.at(readable, picture, explained & pure)

    things: list[list[Thing]] = [[] for _ in pictures]
    for i, where, template, what in zip(picture, place, best, hue):
        shape, size, offset = known.kinds[template]
        x, y = (max(-JITTER, min(JITTER, pixels)) for pixels in offset)
        things[i].append(Thing(places[where], list(COLORS)[what], shape, size, (x, y)))
    backgrounds = list(BACKGROUNDS)
    return [
        Scene(backgrounds[ground[i]], tuple(things[i])) if readable[i] and things[i] else None for i in range(number)
    ]


def read_batch(pictures: np.ndarray) -> list[Scene | None]:
    """Read pictures, uint8 (B, 64, 64, 3); None stands for one that is not readable: mud, or no thing at all.

    Raises ValueError for arrays of another shape or type.
    """
    pictures = np.asarray(pictures)
    if pictures.ndim != 4 or pictures.shape[1:] != (SIDE, SIDE, 3) or pictures.dtype != np.uint8:
        raise ValueError(
            f"the reader takes uint8 pictures (B, {SIDE}, {SIDE}, 3), not {pictures.dtype} {pictures.shape}"
        )
    return [scene for at in range(0, len(pictures), CHUNK) for scene in _read_chunk(pictures[at : at + CHUNK])]


def read(picture: Image.Image | np.ndarray) -> Scene | None:
    """Read one 64 x 64 picture; None if it is not readable. Raises ValueError for another size."""
    return read_batch(np.asarray(picture.convert("RGB") if isinstance(picture, Image.Image) else picture)[None])[0]
