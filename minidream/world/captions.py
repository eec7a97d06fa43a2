"""Scenes to English: captions that say everything, and back.

Pure functions of a `random.Random`. A caption tells every fact of its scene (background; size, colour, shape and place
of each thing), in one of several phrasings; `understand` proves it, for it turns the caption back into the scene.
Taught in notebook 01.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

from minidream.world.scene import BACKGROUNDS, COLORS, PLACES, RELATIONS, SHAPES, SIZES, Scene, Thing, related
from minidream.world.words import join, name, one_of, relation_between, sentence

PHRASINGS = 7


def caption(scene: Scene, rng: random.Random, phrasing: int | None = None) -> str:
    """One or two sentences that tell every fact of the scene, at most about 45 tokens, in one of seven `PHRASINGS`.

    A relation ("right of it") always refers to the thing named just before, so that the place is determined.
    """
    things, background = list(scene.things), scene.background
    if rng.random() < 0.5:
        rng.shuffle(things)
    placed = [f"a {name(thing)} in the {thing.place}" for thing in things]
    style = rng.randrange(PHRASINGS) if phrasing is None else phrasing
    if style == 0:
        return sentence(f"{join(placed)} on a {background} background")
    if style == 1:
        return f"{join(placed)} on a {background} background"
    if style == 2:
        return sentence(f"on a {background} background: {join(placed)}")
    if style == 3:
        return sentence(f"there is {join(placed)}") + f" The background is {background}."
    if style == 4:
        return _listed({thing.place: name(thing) for thing in things}, background)
    if style == 5:
        return sentence(f"a {background} picture with {join(placed)}")
    told = placed[:1]
    for before, thing, plain in zip(things, things[1:], placed[1:]):
        relation = relation_between(thing, before)
        told.append(f"{relation} it a {name(thing)}" if relation else plain)
    return sentence(f"{', '.join(told)}, on a {background} background")


def plain_caption(scene: Scene) -> str:
    """The caption that leaves nothing to chance: things in reading order, in the first phrasing."""
    placed = [f"a {name(thing)} in the {thing.place}" for thing in scene.things]
    return sentence(f"{join(placed)} on a {scene.background} background")


def listed_caption(scene: Scene) -> str:
    """The caption that is easiest to learn: a place before what is there, so that every fact can be looked up when it
    is due; and all places in reading order, empty ones, too, so that none need be known before its turn."""
    there = {thing.place: name(thing) for thing in scene.things}
    return _listed({place: there.get(place, "empty") for place in PLACES}, scene.background)


def _listed(placed: Mapping[str, str], background: str) -> str:
    listed = "; ".join(f"{place}: {what}" for place, what in placed.items())
    return sentence(listed) + f" Background: {background}."


_NAMED = re.compile(
    rf"(?:(?P<before>{one_of(PLACES)}): |(?P<relation>{one_of(RELATIONS)}) it )?(?:a )?"
    rf"(?P<size>{one_of(SIZES)}) (?P<color>{one_of(COLORS)}) (?P<shape>{one_of(SHAPES)})"
    rf"(?: in the (?P<after>{one_of(PLACES)}))?"
)
_BACKGROUND = re.compile(rf"\b(?:background(?: is|:) )?({one_of(BACKGROUNDS)})\b")


def understand(text: str) -> Scene | None:
    """The scene (without offsets) that a caption tells; None where it does not tell exactly one."""
    text = text.lower()
    backgrounds = set(_BACKGROUND.findall(text))
    things: list[Thing] = []
    for found in _NAMED.finditer(text):
        place = found["before"] or found["after"]
        if found["relation"] and things:
            made = (Thing(place, found["color"], found["shape"], found["size"]) for place in PLACES)
            place = next((thing.place for thing in made if related(thing, found["relation"], things[-1])), None)
        if place is None:
            return None
        things.append(Thing(place, found["color"], found["shape"], found["size"]))
    if len(backgrounds) != 1 or not things or len({thing.place for thing in things}) != len(things):
        return None
    return Scene(backgrounds.pop(), tuple(things))
