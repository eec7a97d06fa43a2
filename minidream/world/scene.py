"""What a picture shows: the facts, before pixels and before words.

A `Scene` is a background and one to four `Thing`s, each in its own quarter of the 64 x 64 picture. Every picture,
caption, question and story of the world is made from scenes, and the reader turns pixels back into one. Two pairs of
facts are never shown in training, so that composition can be measured: see `HELD_OUT_PAIRS`, `HELD_OUT_RELATIONS`.

Taught in notebook 01.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

SIDE = 64  # pixels

# Each colour differs from the others in lightness (CIE L* 90, 75, 67, 53, 42, 31), so they stay apart for
# colour-blind readers and in print.
COLORS: dict[str, tuple[int, int, int]] = {
    "yellow": (246, 228, 60),
    "cyan": (84, 196, 238),
    "orange": (238, 138, 22),
    "green": (20, 146, 92),
    "red": (190, 36, 44),
    "blue": (38, 56, 186),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (246, 246, 242),
    "grey": (152, 152, 152),
    "black": (16, 16, 20),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
SIZES: dict[str, float] = {"small": 7.0, "large": 12.0}  # radius of the enclosing circle, pixels
PLACES: dict[str, tuple[int, int]] = {  # (row, column)
    "top left": (0, 0),
    "top right": (0, 1),
    "bottom left": (1, 0),
    "bottom right": (1, 1),
}
JITTER = 2  # pixels a thing may lie off the middle of its quarter, each way
RELATIONS = ("left of", "right of", "above", "below")

# Each colour and each shape is held out once. Drawn with `rng = random.Random(2309)`: `rng.shuffle(shapes)` beside the
# colours, then `rng.sample(SHAPES, 6)` in twos (a test draws them again); written down, for they must never move.
HELD_OUT_PAIRS: frozenset[tuple[str, str]] = frozenset(
    {
        ("yellow", "circle"),
        ("cyan", "star"),
        ("orange", "square"),
        ("green", "triangle"),
        ("red", "cross"),
        ("blue", "ring"),
    }
)
# (shape, shape) in this order: the first is never left of or above the second in training.
HELD_OUT_RELATIONS: frozenset[tuple[str, str]] = frozenset(
    {("cross", "square"), ("ring", "triangle"), ("star", "circle")}
)


@dataclass(frozen=True, order=True)
class Thing:
    """One coloured shape in one quarter of the picture. `offset` (dx, dy) in pixels is not part of what it *is*."""

    place: str
    color: str
    shape: str
    size: str
    offset: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        for value, known, what in (
            (self.place, PLACES, "place"),
            (self.color, COLORS, "colour"),
            (self.shape, SHAPES, "shape"),
            (self.size, SIZES, "size"),
        ):
            if value not in known:
                raise ValueError(f"unknown {what} {value!r}: choose one of {', '.join(known)}")
        if max(abs(self.offset[0]), abs(self.offset[1])) > JITTER:
            raise ValueError(f"offset {self.offset} leaves the quarter: at most {JITTER} pixels each way")

    @property
    def center(self) -> tuple[float, float]:
        """Middle in pixels, (x, y)."""
        row, column = PLACES[self.place]
        return (column + 0.5) * SIDE / 2 + self.offset[0], (row + 0.5) * SIDE / 2 + self.offset[1]


@dataclass(frozen=True)
class Scene:
    """A background and 1-4 things, at most one in a quarter. Things are kept in reading order, so equal scenes compare
    equal; `facts()` drops the pixel offsets, which no sentence tells."""

    background: str
    things: tuple[Thing, ...]

    def __post_init__(self) -> None:
        if self.background not in BACKGROUNDS:
            raise ValueError(f"unknown background {self.background!r}: choose one of {', '.join(BACKGROUNDS)}")
        if not 1 <= len(self.things) <= len(PLACES):
            raise ValueError(f"a scene holds 1 to {len(PLACES)} things, not {len(self.things)}")
        if len({thing.place for thing in self.things}) != len(self.things):
            raise ValueError("two things lie in the same place")
        object.__setattr__(self, "things", tuple(sorted(self.things, key=lambda thing: PLACES[thing.place])))

    def facts(self) -> Scene:
        """The scene without pixel offsets: what two pictures must share to show the same thing."""
        return replace(self, things=tuple(replace(thing, offset=(0, 0)) for thing in self.things))

    def empty_places(self) -> list[str]:
        """The places where nothing stands."""
        taken = {thing.place for thing in self.things}
        return [place for place in PLACES if place not in taken]


def related(first: Thing, relation: str, second: Thing) -> bool:
    """Whether `first` lies `relation` (one of `RELATIONS`) `second`: strictly, and in the same row or column."""
    (row_a, column_a), (row_b, column_b) = PLACES[first.place], PLACES[second.place]
    return {
        "left of": row_a == row_b and column_a < column_b,
        "right of": row_a == row_b and column_a > column_b,
        "above": column_a == column_b and row_a < row_b,
        "below": column_a == column_b and row_a > row_b,
    }[relation]


def is_held_out(scene: Scene) -> bool:
    """Whether the scene shows a colour-shape pair or a relation that training never shows."""
    if any((thing.color, thing.shape) in HELD_OUT_PAIRS for thing in scene.things):
        return True
    return any(
        (a.shape, b.shape) in HELD_OUT_RELATIONS and (related(a, "left of", b) or related(a, "above", b))
        for a in scene.things
        for b in scene.things
    )


def random_thing(rng: random.Random, place: str | None = None) -> Thing:
    """Any thing, in `place` if given; also of a pair that is held out."""
    return Thing(
        place=place or rng.choice(list(PLACES)),
        color=rng.choice(list(COLORS)),
        shape=rng.choice(SHAPES),
        size=rng.choice(list(SIZES)),
        offset=(rng.randint(-JITTER, JITTER), rng.randint(-JITTER, JITTER)),
    )


def random_scene(rng: random.Random, count: int | None = None, held_out: bool | None = False) -> Scene:
    """A scene with `count` things (1-4, else drawn). `held_out`: False draws only what training may show, True only
    scenes with something held out, None either."""
    while True:
        number = count or rng.choice((1, 1, 2, 2, 2, 3, 3, 4))
        places = rng.sample(list(PLACES), number)
        scene = Scene(rng.choice(list(BACKGROUNDS)), tuple(random_thing(rng, place) for place in places))
        if held_out is None or is_held_out(scene) == held_out:
            return scene


def neighbour(scene: Scene, rng: random.Random) -> Scene:
    """Another scene, nothing in it held out, that differs in one fact of one thing: mostly its shape, which is hardest
    to see."""
    index = rng.randrange(len(scene.things))
    thing = scene.things[index]
    rest = scene.things[:index] + scene.things[index + 1 :]
    known = {"shape": SHAPES, "size": tuple(SIZES), "color": tuple(COLORS), "place": tuple(scene.empty_places())}
    while True:
        fact = rng.choices(list(known), weights=(5, 2, 2, 1))[0]
        others = [value for value in known[fact] if value != getattr(thing, fact)]
        if others:
            changed = replace(thing, **{fact: rng.choice(others)})  # type: ignore[arg-type]  # a key of `known`
            made = Scene(scene.background, (*rest, changed))
            if not is_held_out(made):
                return made
