"""The renderer against geometry: closed-form areas, symmetries, exact colours, and its speed."""

import math
import random
import time

import numpy as np
import pytest

from minidream.pictures import fit_picture
from minidream.world.draw import draw, draw_batch
from minidream.world.read import read_batch
from minidream.world.scene import BACKGROUNDS, COLORS, JITTER, PLACES, SHAPES, SIDE, SIZES, Scene, Thing, random_scene

AREAS = {  # of a shape of radius 1
    "circle": math.pi * 0.95**2,
    "ring": math.pi * (0.98**2 - 0.48**2),
    "square": 1.6**2,
    "cross": 2 * (1.96 * 0.6) - 0.6**2,
    "triangle": 0.75 * math.sqrt(3) * 1.12**2,
    "star": 5 * 1.1 * 0.45 * math.sin(math.pi / 5),
}
MIRRORED_DOWN = {"circle", "ring", "square", "cross"}  # all shapes look the same in a mirror, these upside down, too


def one(shape: str = "circle", size: str = "large", color: str = "red", ground: str = "black", **more) -> np.ndarray:
    thing = Thing(more.get("place", "top left"), color, shape, size, more.get("offset", (0, 0)))
    return draw_batch([Scene(ground, (thing,))])[0]


def coverage(picture: np.ndarray, color: str, ground: str) -> np.ndarray:
    """How much of each pixel is covered, (64, 64)."""
    above = np.array(COLORS[color], float) - BACKGROUNDS[ground]
    return (picture.astype(float) - BACKGROUNDS[ground]) @ above / (above @ above)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES)
def test_a_shape_has_its_area_and_its_middle(shape: str, size: str) -> None:
    covered = coverage(one(shape, size), "red", "black")
    assert covered.sum() == pytest.approx(AREAS[shape] * SIZES[size] ** 2, rel=0.05)
    middle_x = (covered * (np.arange(SIDE) + 0.5)).sum() / covered.sum()
    assert middle_x == pytest.approx(SIDE / 4, abs=0.02)
    row, column = np.nonzero(covered > 0.5)
    assert np.hypot(row + 0.5 - SIDE / 4, column + 0.5 - SIDE / 4).max() <= SIZES[size] * 1.25


@pytest.mark.parametrize("shape", SHAPES)
def test_symmetries(shape: str) -> None:
    quarter = one(shape)[: SIDE // 2, : SIDE // 2].astype(int)
    assert abs(quarter - quarter[:, ::-1]).max() <= 1
    assert (abs(quarter - quarter[::-1]).max() <= 1) == (shape in MIRRORED_DOWN)


def test_shapes_and_sizes_all_differ() -> None:
    looks = [one(shape, size).astype(int) for shape in SHAPES for size in SIZES]
    differing = [(abs(a - b).max(axis=2) > 60).sum() for i, a in enumerate(looks) for b in looks[:i]]
    assert min(differing) >= 12  # pixels


@pytest.mark.parametrize("color", COLORS)
@pytest.mark.parametrize("ground", BACKGROUNDS)
def test_colors_are_exactly_those_of_the_table(color: str, ground: str) -> None:
    picture = one("square", color=color, ground=ground)
    assert tuple(picture[16, 16]) == COLORS[color]
    assert tuple(picture[0, 0]) == tuple(picture[50, 50]) == BACKGROUNDS[ground]
    share = coverage(picture, color, ground)
    assert share.min() >= -0.02 and share.max() <= 1.02
    assert ((share > 0.1) & (share < 0.9)).any()  # edges are anti-aliased
    straight = np.array(BACKGROUNDS[ground]) + share[..., None] * np.subtract(COLORS[color], BACKGROUNDS[ground])
    assert abs(picture - straight).max() < 1  # ... and lie between the two colours


@pytest.mark.parametrize("place", PLACES)
def test_an_offset_moves_and_a_place_holds(place: str) -> None:
    row, column = (32 * index for index in PLACES[place])
    for dx, dy in ((0, 0), (JITTER, -JITTER), (-JITTER, JITTER), (JITTER, JITTER), (-1, 0)):
        for shape in ("star", "ring"):
            picture = one(shape, place=place, offset=(dx, dy))
            middle = np.roll(one(shape), (row + dy, column + dx), (0, 1))
            np.testing.assert_array_equal(picture, middle)
            outside = np.any(picture != np.array(BACKGROUNDS["black"]), axis=2)
            outside[row : row + 32, column : column + 32] = False
            assert not outside.any()


def test_things_do_not_disturb_one_another() -> None:
    things = tuple(Thing(place, color, "star", "large") for place, color in zip(PLACES, COLORS))
    together = draw_batch([Scene("grey", things)])[0]
    alone = draw_batch([Scene("grey", (thing,)) for thing in things])
    ground = np.array(BACKGROUNDS["grey"], int)
    np.testing.assert_array_equal(together, ground + (alone - ground).sum(axis=0))


def test_a_batch_is_its_pictures_one_by_one() -> None:
    rng = random.Random(0)
    scenes = [random_scene(rng) for _ in range(20)]
    pictures = draw_batch(scenes)
    assert pictures.shape == (20, SIDE, SIDE, 3) and pictures.dtype == np.uint8
    for picture, scene in zip(pictures, scenes):
        image = draw(scene)
        assert image.size == (SIDE, SIDE) and image.mode == "RGB"
        np.testing.assert_array_equal(picture, np.asarray(image))
    assert draw_batch([]).shape == (0, SIDE, SIDE, 3)


def test_larger_pictures_show_the_same() -> None:
    rng = random.Random("larger")
    scenes = [random_scene(rng) for _ in range(50)]
    shown = [fit_picture(draw(scene, 2 * SIDE), SIDE) for scene in scenes]
    assert read_batch(np.stack([np.asarray(picture) for picture in shown])) == scenes
    for side in (0, 32, 100):
        with pytest.raises(ValueError, match="multiple"):
            draw(scenes[0], side)


def test_drawing_is_fast() -> None:
    rng = random.Random(0)
    scenes = [random_scene(rng) for _ in range(400)]
    draw_batch(scenes)  # coverages are tabulated once

    def seconds() -> float:
        start = time.process_time()
        draw_batch(scenes)
        return time.process_time() - start

    assert len(scenes) / min(seconds() for _ in range(5)) >= 1500
