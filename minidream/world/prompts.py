"""GenEval's six categories for the world: a prompt, and the one thing about the picture that it tests.

A prompt is an ordinary caption, which tells a whole scene; its `Constraint` asks only what the category is about, so
a picture with the right colours at the wrong place fails "position" alone. Taught in notebook 09.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from minidream.world.captions import PHRASINGS, caption
from minidream.world.scene import HELD_OUT_PAIRS, HELD_OUT_RELATIONS, RELATIONS, Scene, Thing, random_scene, related

CATEGORIES = ("single_object", "two_objects", "counting", "colors", "position", "color_attribution")


@dataclass(frozen=True)
class Constraint:
    """What a picture must show for `category`, where the prompt told `scene`."""

    category: str
    scene: Scene

    def satisfied(self, shown: Scene | None) -> bool:
        """Whether the picture read as `shown` (None: not readable) passes.

        single_object: one thing, of that shape. two_objects: things of both shapes. counting: as many things.
        colors: a thing of that colour and shape. position: things of both shapes in the relation that was told.
        color_attribution: both shapes, each in its own colour.
        """
        if shown is None:
            return False
        told = self.scene.things
        if self.category == "single_object":
            return len(shown.things) == 1 and shown.things[0].shape == told[0].shape
        if self.category == "counting":
            return len(shown.things) == len(told)
        if self.category == "two_objects":
            return {thing.shape for thing in told} <= {thing.shape for thing in shown.things}
        if self.category == "position":
            first, second = told
            relation = next(relation for relation in RELATIONS if related(first, relation, second))
            return any(
                related(a, relation, b) and (a.shape, b.shape) == (first.shape, second.shape)
                for a in shown.things
                for b in shown.things
            )
        return {(thing.color, thing.shape) for thing in told} <= {(thing.color, thing.shape) for thing in shown.things}


def _number(category: str, rng: random.Random) -> int:
    """How many things a prompt of this category tells."""
    if category == "counting":
        return rng.choice((1, 2, 3, 4))
    return 1 if category in ("single_object", "colors") else 2


def _fits(category: str, things: tuple[Thing, ...], held_out: bool) -> bool:
    """Whether a scene is a fair test: two different things, in a relation for "position"; and if something is to be
    held out, then what the category is about (a relation for "position", else a colour-shape pair)."""
    if category in ("two_objects", "position", "color_attribution") and things[0].shape == things[1].shape:
        return False
    if category == "color_attribution" and things[0].color == things[1].color:
        return False
    if category == "position":
        if not any(related(things[0], relation, things[1]) for relation in RELATIONS):
            return False
        return not held_out or (things[0].shape, things[1].shape) in HELD_OUT_RELATIONS
    return not held_out or any((thing.color, thing.shape) in HELD_OUT_PAIRS for thing in things)


def creation_prompt(category: str, rng: random.Random, held_out: bool = False) -> tuple[str, Constraint]:
    """A caption and what a picture of it must show; `held_out`: about a pair or relation that training never shows.

    Raises ValueError for a category that is none of `CATEGORIES`.
    """
    if category not in CATEGORIES:
        raise ValueError(f"unknown category {category!r}: choose one of {', '.join(CATEGORIES)}")
    number = _number(category, rng)
    scene = random_scene(rng, number, held_out)
    while not _fits(category, scene.things, held_out):
        scene = random_scene(rng, number, held_out)
    # Half of the positions are told as a relation ("right of it"), the rest like every other prompt.
    by_relation = category == "position" and rng.random() < 0.5
    return caption(scene, rng, PHRASINGS - 1 if by_relation else None), Constraint(category, scene)
