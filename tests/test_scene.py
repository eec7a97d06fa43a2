"""Scenes: what is a scene, what is held out, and colours that stay apart for every eye."""

import random
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from minidream.world.scene import (
    BACKGROUNDS,
    COLORS,
    HELD_OUT_PAIRS,
    HELD_OUT_RELATIONS,
    JITTER,
    PLACES,
    RELATIONS,
    SHAPES,
    SIDE,
    Scene,
    Thing,
    is_held_out,
    neighbour,
    random_scene,
    related,
)

# What protanopes and deuteranopes see of linear RGB (Machado, Oliveira and Fernandes 2009, severity 1).
EYES = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


def lab(color: tuple[int, int, int], eye: str | None = None) -> np.ndarray:
    """CIE L*a*b* (D65) of an sRGB colour, as an eye sees it."""
    srgb = np.array(color) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    if eye:
        linear = np.clip(np.array(EYES[eye]) @ linear, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ linear / to_xyz.sum(axis=1)
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_lab_of_known_colors() -> None:
    assert lab((255, 255, 255)) == pytest.approx([100, 0, 0], abs=0.05)
    assert lab((255, 0, 0)) == pytest.approx([53.2, 80.1, 67.2], abs=0.2)
    assert lab((200, 200, 200), "protanopia") == pytest.approx(lab((200, 200, 200)), abs=0.1)  # grey stays grey


def test_colors_differ_in_lightness_as_the_table_says() -> None:
    lightness = [lab(color)[0] for color in COLORS.values()]
    assert np.round(lightness).tolist() == [90, 75, 67, 53, 42, 31]
    assert -np.diff(lightness).max() > 7


@pytest.mark.parametrize("eye", [None, *EYES])
def test_colors_stay_apart_for_color_blind_eyes(eye: str | None) -> None:
    distance = {pair: np.linalg.norm(lab(COLORS[pair[0]], eye) - lab(COLORS[pair[1]], eye)) for pair in pairs(COLORS)}
    assert min(distance.values()) > 12, min(distance, key=distance.__getitem__)  # 2.3 is just noticeable
    for color in COLORS.values():
        assert min(np.linalg.norm(lab(color, eye) - lab(ground, eye)) for ground in BACKGROUNDS.values()) > 12


def pairs(table: dict[str, tuple[int, int, int]]) -> list[tuple[str, str]]:
    return list(combinations(table, 2))


def test_held_out_is_what_the_seed_gives() -> None:
    rng = random.Random(2309)
    shapes = list(SHAPES)
    rng.shuffle(shapes)
    assert frozenset(zip(COLORS, shapes)) == HELD_OUT_PAIRS
    drawn = rng.sample(SHAPES, 6)
    assert frozenset(zip(drawn[::2], drawn[1::2])) == HELD_OUT_RELATIONS


def test_each_color_and_each_shape_is_held_out_once() -> None:
    assert {color for color, _ in HELD_OUT_PAIRS} == set(COLORS)
    assert {shape for _, shape in HELD_OUT_PAIRS} == set(SHAPES)
    assert sorted(shape for pair in HELD_OUT_RELATIONS for shape in pair) == sorted(SHAPES)


def test_held_out_by_pair_and_by_relation() -> None:
    color, shape = next(iter(HELD_OUT_PAIRS))
    assert is_held_out(Scene("white", (Thing("top left", color, shape, "small"),)))

    first, second = next(iter(HELD_OUT_RELATIONS))
    free = {shape: next(c for c in COLORS if (c, shape) not in HELD_OUT_PAIRS) for shape in SHAPES}

    def scene(first_place: str, second_place: str) -> Scene:
        return Scene(
            "white",
            (
                Thing(first_place, free[first], first, "small"),
                Thing(second_place, free[second], second, "small"),
            ),
        )

    assert is_held_out(scene("top left", "top right"))
    assert is_held_out(scene("top right", "bottom right"))
    assert not is_held_out(scene("top right", "top left"))
    assert not is_held_out(scene("bottom left", "top left"))
    assert not is_held_out(scene("top left", "bottom right"))  # across a diagonal there is no relation


def test_training_never_shows_what_is_held_out() -> None:
    rng = random.Random(0)
    shown = [random_scene(rng) for _ in range(4000)]
    for scene in shown:
        assert not HELD_OUT_PAIRS & {(thing.color, thing.shape) for thing in scene.things}
        for a in scene.things:
            for b in scene.things:
                (row_a, column_a), (row_b, column_b) = PLACES[a.place], PLACES[b.place]
                before = (row_a == row_b and column_a < column_b) or (column_a == column_b and row_a < row_b)
                assert not (before and (a.shape, b.shape) in HELD_OUT_RELATIONS)
    # ... while all the rest is shown.
    assert len({(thing.color, thing.shape) for scene in shown for thing in scene.things}) == 36 - len(HELD_OUT_PAIRS)
    assert all(is_held_out(random_scene(rng, held_out=True)) for _ in range(200))
    assert {is_held_out(random_scene(rng, held_out=None)) for _ in range(200)} == {True, False}


def test_random_scenes_use_every_fact() -> None:
    rng = random.Random(1)
    scenes = [random_scene(rng, held_out=None) for _ in range(1000)]
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)
    assert {len(scene.things) for scene in scenes} == {1, 2, 3, 4}
    assert {thing.place for scene in scenes for thing in scene.things} == set(PLACES)
    assert {thing.offset[0] for scene in scenes for thing in scene.things} == set(range(-JITTER, JITTER + 1))
    assert all(len(random_scene(rng, count).things) == count for count in (1, 2, 3, 4))
    assert random_scene(random.Random(5)) == random_scene(random.Random(5))


def test_things_stand_in_reading_order() -> None:
    things = tuple(Thing(place, "red", "circle", "small") for place in reversed(PLACES))
    scene = Scene("grey", things)
    assert [thing.place for thing in scene.things] == list(PLACES)
    assert scene == Scene("grey", things[::-1])
    assert Scene("grey", things[:3]).empty_places() == ["top left"]


def test_facts_forget_offsets_only() -> None:
    near, far = (Thing("top left", "red", "circle", "small", offset) for offset in ((0, 0), (2, -1)))
    assert Scene("grey", (near,)) != Scene("grey", (far,))
    assert Scene("grey", (near,)).facts() == Scene("grey", (far,)).facts()
    assert Scene("grey", (near,)).facts() != Scene("grey", (replace(near, size="large"),)).facts()
    assert near.center == (SIDE / 4, SIDE / 4) and far.center == (SIDE / 4 + 2, SIDE / 4 - 1)


def test_relations_hold_one_way() -> None:
    left, right = (Thing(f"top {side}", "red", "circle", "small") for side in ("left", "right"))
    below = Thing("bottom left", "red", "circle", "small")
    assert [relation for relation in RELATIONS if related(left, relation, right)] == ["left of"]
    assert [relation for relation in RELATIONS if related(right, relation, left)] == ["right of"]
    assert [relation for relation in RELATIONS if related(left, relation, below)] == ["above"]
    assert [relation for relation in RELATIONS if related(below, relation, left)] == ["below"]
    assert not any(related(right, relation, below) or related(left, relation, left) for relation in RELATIONS)


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("place", "middle", "unknown place 'middle': choose one of top left"),
        ("color", "pink", "unknown colour 'pink': choose one of yellow"),
        ("shape", "blob", "unknown shape 'blob': choose one of circle"),
        ("size", "huge", "unknown size 'huge': choose one of small, large"),
        ("offset", (0, 3), "leaves the quarter"),
    ],
)
def test_wrong_things_are_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(Thing("top left", "red", "circle", "small"), **{field: value})


def test_wrong_scenes_are_refused() -> None:
    thing = Thing("top left", "red", "circle", "small")
    with pytest.raises(ValueError, match="unknown background 'pink'"):
        Scene("pink", (thing,))
    with pytest.raises(ValueError, match="1 to 4 things, not 0"):
        Scene("white", ())
    with pytest.raises(ValueError, match="same place"):
        Scene("white", (thing, replace(thing, color="blue")))


def test_a_neighbour_differs_in_one_fact() -> None:
    rng, changed = random.Random("neighbour"), []
    for _ in range(400):
        scene = random_scene(rng)
        other = neighbour(scene, rng)
        (before,), (after,) = set(scene.things) - set(other.things), set(other.things) - set(scene.things)
        facts = ("place", "color", "shape", "size", "offset")
        (fact,) = [name for name in facts if getattr(before, name) != getattr(after, name)]
        changed.append(fact)
        assert other.background == scene.background and len(other.things) == len(scene.things)
        assert not is_held_out(other)
    assert set(changed) == {"place", "color", "shape", "size"}
    assert changed.count("shape") > 150
