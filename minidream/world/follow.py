"""Sentences of a story back to scenes: what `changes` told, and `captions.understand` for what happens.

So what a model *writes* can be judged without a judge: a sentence either tells one change of the scene before it, or it
makes no sense there ("The star turns red." where there is no star, or two, or where it is red).
"""

from __future__ import annotations

import re
from dataclasses import replace

from minidream.world.changes import with_changed
from minidream.world.scene import BACKGROUNDS, COLORS, PLACES, RELATIONS, SHAPES, SIZES, Scene, Thing, related
from minidream.world.stories import QUIET
from minidream.world.words import one_of, references

_PLACE = one_of(PLACES)
_NEW = (
    rf"an? (?:(?P<size>{one_of(SIZES)}) )?(?P<color>{one_of(COLORS)}) (?P<shape>{one_of(SHAPES)})"
    r"(?: as large as the (?P<like>.+?))?"
)
_WHERE = rf"(?:in the (?P<place>{_PLACE})|(?P<relation>{one_of(RELATIONS)}) the (?P<of>.+?))"
_APPEARS = (re.compile(rf"{_NEW} (?:appears|lands) {_WHERE}"), re.compile(rf"{_WHERE} {_NEW} appears"))
_BACKGROUND = re.compile(rf"the background turns ({one_of(BACKGROUNDS)})")
_CHANGES = re.compile(
    r"(?:(?P<it>it)|the (?P<which>.+?)) (?:(?P<gone>vanishes|disappears|goes away)"
    rf"|(?:turns|becomes) (?P<color>{one_of(COLORS)})"
    r"|(?P<large>grows|becomes large)|(?P<small>shrinks|becomes small)"
    rf"|moves (?P<direction>left|right|up|down)|moves to the (?P<place>{_PLACE}))"
)
_DIRECTIONS = {"left": "left of", "right": "right of", "up": "above", "down": "below"}
_SENTENCES = re.compile(r"(?<=\.)\s+")


def outcome(scene: Scene, text: str, last: Thing | None = None) -> tuple[Scene, Thing | None] | None:
    """The scene that a story's text makes of `scene`, and the thing that "it" stands for in the next one.

    `last`: the thing that "it" stands for in this one. Sentences in which nothing happens may stand before the one that
    changes something. None where there is no such sentence, or several, or one that cannot be told of this scene.
    """
    told = [each for each in _SENTENCES.split(text.strip()) if each not in QUIET]
    if len(told) != 1 or not told[0].endswith("."):
        return None
    words = told[0].removesuffix(".").lower()
    if found := _BACKGROUND.fullmatch(words):
        changed = replace(scene, background=found[1])
        return (changed, None) if changed != scene else None
    for appears in _APPEARS:
        if found := appears.fullmatch(words):
            return _appeared(scene, found)
    found = _CHANGES.fullmatch(words)
    return _changed(scene, found, last) if found else None


def _meant(scene: Scene, words: str) -> Thing | None:
    """The one thing that these words name."""
    return next((thing for thing in scene.things if words in references(scene, thing)), None)


def _beside(thing: Thing, relation: str) -> str | None:
    """The place that lies so to the thing."""
    return next((place for place in PLACES if related(replace(thing, place=place), relation, thing)), None)


def _appeared(scene: Scene, found: re.Match[str]) -> tuple[Scene, Thing] | None:
    place, size = found["place"], found["size"]
    if found["relation"]:
        near = _meant(scene, found["of"])
        place = _beside(near, found["relation"]) if near else None
    if found["like"]:
        like = _meant(scene, found["like"])
        size = like.size if like and not size else None
    if place not in scene.empty_places() or size is None:
        return None
    new = Thing(place, found["color"], found["shape"], size)
    return with_changed(scene, None, new), new


def _changed(scene: Scene, found: re.Match[str], last: Thing | None) -> tuple[Scene, Thing | None] | None:
    thing = last if found["it"] else _meant(scene, found["which"])
    if thing is None:
        return None
    if found["gone"]:
        return (with_changed(scene, thing, None), None) if len(scene.things) > 1 else None
    place = _beside(thing, _DIRECTIONS[found["direction"]]) if found["direction"] else found["place"]
    if (found["direction"] or place) and place not in scene.empty_places():
        return None
    size = "large" if found["large"] else "small" if found["small"] else thing.size
    new = replace(thing, place=place or thing.place, color=found["color"] or thing.color, size=size)
    return (with_changed(scene, thing, new), new) if new != thing else None
