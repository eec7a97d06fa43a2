"""The steps of a story or a conversation: what may happen to a scene, how it is told, and how it is asked for."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from minidream.world.scene import BACKGROUNDS, COLORS, Scene, Thing, is_held_out, random_thing
from minidream.world.words import a, name, references, relation_between


@dataclass(frozen=True)
class Change:
    """A step of a story: the scene after it, how it is told, how it is asked for, and the thing it happened to."""

    scene: Scene
    told: str
    asked: str
    subject: Thing | None


def with_changed(scene: Scene, thing: Thing | None, changed: Thing | None) -> Scene:
    """The scene with `thing` replaced by `changed` (None: nothing there)."""
    things = [other for other in scene.things if other != thing]
    return replace(scene, things=tuple(things + ([changed] if changed else [])))


def _where(scene: Scene, place: str, rng: random.Random, sizes_told: bool) -> str:
    """Words for an empty place: by its name, or in relation to a thing next to it."""
    probe = Thing(place, "red", "circle", "small")
    ways = [
        f"{relation} the {words}"
        for thing in scene.things
        if (relation := relation_between(probe, thing))
        for words in references(scene, thing, "place", *([] if sizes_told else ["size"]))
    ]
    return rng.choice(ways) if ways and rng.random() < 0.5 else f"in the {place}"


def _appear(scene: Scene, it: str, thing: Thing, rng: random.Random, sizes_told: bool) -> Change | None:
    if not scene.empty_places():
        return None
    new = random_thing(rng, rng.choice(scene.empty_places()))
    words = f"a {name(new)}"
    if not sizes_told:  # the size is borrowed from a thing that only a picture has shown
        new = replace(new, size=thing.size)
        words = f"{a(f'{new.color} {new.shape}')} as large as the {rng.choice(references(scene, thing, 'size'))}"
    where = _where(scene, new.place, rng, sizes_told)
    told = rng.choice((f"{words} appears {where}", f"{where} {words} appears", f"{words} lands {where}"))
    return Change(with_changed(scene, None, new), told, f"{rng.choice(('add', 'put'))} {words} {where}", new)


def _vanish(scene: Scene, it: str, thing: Thing, rng: random.Random, sizes_told: bool) -> Change | None:
    if len(scene.things) == 1:
        return None
    told = f"{it} {rng.choice(('vanishes', 'disappears', 'goes away'))}"
    return Change(with_changed(scene, thing, None), told, f"{rng.choice(('remove', 'take away'))} {it}", None)


def _color(scene: Scene, it: str, thing: Thing, rng: random.Random, sizes_told: bool) -> Change | None:
    new = replace(thing, color=rng.choice([color for color in COLORS if color != thing.color]))
    told = f"{it} {rng.choice(('turns', 'turns', 'becomes'))} {new.color}"
    return Change(with_changed(scene, thing, new), told, f"{rng.choice(('make', 'paint'))} {it} {new.color}", new)


def _size(scene: Scene, it: str, thing: Thing, rng: random.Random, sizes_told: bool) -> Change | None:
    if not sizes_told:
        return None
    new = replace(thing, size="small" if thing.size == "large" else "large")
    told = f"{it} " + rng.choice(("grows", "becomes large") if new.size == "large" else ("shrinks", "becomes small"))
    return Change(with_changed(scene, thing, new), told, f"make {it} {new.size}", new)


def _move(scene: Scene, it: str, thing: Thing, rng: random.Random, sizes_told: bool) -> Change | None:
    if not scene.empty_places():
        return None
    new = replace(thing, place=rng.choice(scene.empty_places()))
    direction = {"left of": "left", "right of": "right", "above": "up", "below": "down", None: ""}[
        relation_between(new, thing)
    ]
    where = direction if direction and rng.random() < 0.5 else f"to the {new.place}"
    return Change(with_changed(scene, thing, new), f"{it} moves {where}", f"move {it} {where}", new)


def _background(scene: Scene, it: str, thing: Thing, rng: random.Random, sizes_told: bool) -> Change | None:
    color = rng.choice([color for color in BACKGROUNDS if color != scene.background])
    return Change(
        replace(scene, background=color), f"the background turns {color}", f"make the background {color}", None
    )


CHANGES: dict[str, Callable[[Scene, str, Thing, random.Random, bool], Change | None]] = {
    "appear": _appear,
    "vanish": _vanish,
    "color": _color,
    "size": _size,
    "move": _move,
    "background": _background,
}
OFTEN = {"appear": 3, "vanish": 1, "color": 3, "size": 2, "move": 2, "background": 1}
KEEPING_NUMBER = {"color": 3, "size": 2, "move": 2, "background": 1}
FACTS_OFTEN = {"appear": 3, "vanish": 1, "color": 3, "move": 2}  # neither background nor sizes are ever said


def change(
    scene: Scene,
    rng: random.Random,
    held_out: bool | None,
    often: dict[str, int] = OFTEN,
    last: Thing | None = None,
    sizes_told: bool = True,
) -> Change:
    """A random change of the scene that stays in training's scenes if `held_out` is False.

    `often` maps keys of `CHANGES` to weights; `last` is the thing that "it" may stand for.
    """
    while True:
        thing = rng.choice(scene.things)
        words = references(scene, thing, *([] if sizes_told else ["size"]))
        it = "it" if thing == last and rng.random() < 0.5 else f"the {rng.choice(words)}"
        kind = rng.choices(list(often), weights=list(often.values()))[0]
        made = CHANGES[kind](scene, it, thing, rng, sizes_told)
        if made and not (held_out is False and is_held_out(made.scene)):
            return made
