"""Documents before they are drawn: texts and scenes in turn, where a scene stands for the picture in its place.

A story is a state that sentences change. Every sentence, together with the document before it, determines the next
scene; alone it does not ("The star turns green."). Five kinds: `story`; `facts`, whose background and sizes only the
first picture tells; `edit`; `again`, an edit that changes nothing, the plainest lesson in drawing what is seen; and
`name`, where a made-up word is bound to what a picture shows. Taught in notebook 01.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from minidream.world.captions import caption
from minidream.world.scene import BACKGROUNDS, COLORS, PLACES, Scene, Thing, is_held_out, random_scene, random_thing
from minidream.world.words import a, join, name, references, relation_between, sentence

# Syllables that no other word of the world holds.
NAMES = tuple(
    start + end for start in ("da", "wu", "bli", "to", "fe", "zor", "nil") for end in ("x", "gu", "kka", "zz")
)
QUIET = ("Nothing happens for a while.", "All is quiet.", "Then the wind blows.", "Time goes by.")
AGAIN = ("Draw it again.", "The same once more.", "Nothing changes.")


@dataclass(frozen=True)
class Story:
    """`document_plan`: texts and scenes in order. `kind`: one of `KINDS`. `given`: how many
    leading parts are the reader's, not the model's to write."""

    document_plan: list[str | Scene]
    kind: str
    given: int = 0

    @property
    def scenes(self) -> list[Scene]:
        return [part for part in self.document_plan if isinstance(part, Scene)]


@dataclass(frozen=True)
class Change:
    """A step of a story: the scene after it, how it is told, how it is asked for, and the thing it happened to."""

    scene: Scene
    told: str
    asked: str
    subject: Thing | None


def _with(scene: Scene, thing: Thing | None, changed: Thing | None) -> Scene:
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
    return Change(_with(scene, None, new), told, f"{rng.choice(('add', 'put'))} {words} {where}", new)


def _vanish(scene: Scene, it: str, thing: Thing, rng: random.Random, sizes_told: bool) -> Change | None:
    if len(scene.things) == 1:
        return None
    told = f"{it} {rng.choice(('vanishes', 'disappears', 'goes away'))}"
    return Change(_with(scene, thing, None), told, f"{rng.choice(('remove', 'take away'))} {it}", None)


def _color(scene: Scene, it: str, thing: Thing, rng: random.Random, sizes_told: bool) -> Change | None:
    new = replace(thing, color=rng.choice([color for color in COLORS if color != thing.color]))
    told = f"{it} {rng.choice(('turns', 'turns', 'becomes'))} {new.color}"
    return Change(_with(scene, thing, new), told, f"{rng.choice(('make', 'paint'))} {it} {new.color}", new)


def _size(scene: Scene, it: str, thing: Thing, rng: random.Random, sizes_told: bool) -> Change | None:
    if not sizes_told:
        return None
    new = replace(thing, size="small" if thing.size == "large" else "large")
    told = f"{it} " + rng.choice(("grows", "becomes large") if new.size == "large" else ("shrinks", "becomes small"))
    return Change(_with(scene, thing, new), told, f"make {it} {new.size}", new)


def _move(scene: Scene, it: str, thing: Thing, rng: random.Random, sizes_told: bool) -> Change | None:
    if not scene.empty_places():
        return None
    new = replace(thing, place=rng.choice(scene.empty_places()))
    direction = {"left of": "left", "right of": "right", "above": "up", "below": "down", None: ""}[
        relation_between(new, thing)
    ]
    where = direction if direction and rng.random() < 0.5 else f"to the {new.place}"
    return Change(_with(scene, thing, new), f"{it} moves {where}", f"move {it} {where}", new)


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
_OFTEN = {"appear": 3, "vanish": 1, "color": 3, "size": 2, "move": 2, "background": 1}
_FACTS_OFTEN = {"appear": 3, "vanish": 1, "color": 3, "move": 2}  # neither background nor sizes are ever said


def change(
    scene: Scene,
    rng: random.Random,
    held_out: bool | None,
    often: dict[str, int] = _OFTEN,
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


def _until_held_out(make: Callable[[bool | None], Story], held_out: bool | None) -> Story:
    """`held_out` True: draw freely until a picture that the model has to make shows something held out."""
    if not held_out:
        return make(held_out)
    while True:
        made = make(None)
        if any(isinstance(part, Scene) and is_held_out(part) for part in made.document_plan[made.given :]):
            return made


def _go_on(
    plan: list[str | Scene], rng: random.Random, held_out: bool | None, pictures: int, often: dict[str, int], told: bool
) -> list[str | Scene]:
    """Append changes until the plan holds `pictures` scenes. Now and then a sentence changes nothing, and no picture
    follows it."""
    scene, last = plan[-1], None
    assert isinstance(scene, Scene)
    while sum(isinstance(part, Scene) for part in plan) < pictures:
        made = change(scene, rng, held_out, often, last, told)
        quiet = rng.choice(QUIET) + " " if rng.random() < 0.12 else ""
        plan += [quiet + sentence(made.told), made.scene]
        scene, last = made.scene, made.subject
    return plan


def story(rng: random.Random, held_out: bool | None = False, pictures: int | None = None) -> Story:
    """A caption and its picture, then changes, each followed by its picture; 2-4 pictures if not given."""

    def make(allowed: bool | None) -> Story:
        scene = random_scene(rng, rng.choice((1, 2, 2, 3)), held_out=allowed)
        opening = caption(scene, rng)
        opening = opening if opening.endswith(".") else sentence(opening)
        count = pictures or rng.choice((2, 3, 3, 4))
        return Story(_go_on([opening, scene], rng, allowed, count, _OFTEN, True), "story")

    return _until_held_out(make, held_out)


def facts_story(rng: random.Random, held_out: bool | None = False, pictures: int | None = None) -> Story:
    """A story that never says the background or a size: only its first picture, which is given, shows them."""

    def make(allowed: bool | None) -> Story:
        scene = random_scene(rng, rng.choice((1, 2, 2, 3)), held_out=allowed)
        seen = [f"{a(f'{thing.color} {thing.shape}')} in the {thing.place}" for thing in scene.things]
        opening = sentence(rng.choice(("", "there is ", "this is ")) + join(seen))
        count = pictures or rng.choice((2, 3, 3))
        return Story(_go_on([opening, scene], rng, allowed, count, _FACTS_OFTEN, False), "facts", given=2)

    return _until_held_out(make, held_out)


def edit(rng: random.Random, held_out: bool | None = False) -> Story:
    """A picture, an instruction, and the picture changed by it and by nothing else."""

    def make(allowed: bool | None) -> Story:
        scene = random_scene(rng, held_out=allowed)
        made = change(scene, rng, allowed)
        return Story([scene, sentence(made.asked), made.scene], "edit", given=2)

    return _until_held_out(make, held_out)


def again(rng: random.Random, held_out: bool | None = False) -> Story:
    """A picture, and the same things drawn once more."""
    scene = random_scene(rng, held_out=held_out)
    return Story([scene, rng.choice(AGAIN), scene], "again", given=2)


def made_up_name(rng: random.Random, held_out: bool | None = False) -> Story:
    """One or two made-up names, each bound to the thing in a picture, then a scene with the first or second of them.

    "This is a dax: [picture] Draw a dax in the top left, right of it a small blue ring, on a white background."
    """

    def make(allowed: bool | None) -> Story:
        count = rng.choice((1, 2))
        names = rng.sample(NAMES, count)
        shown = [random_scene(rng, 1, held_out=allowed) for _ in names]
        plan: list[str | Scene] = []
        for word, scene in zip(names, shown):
            plan += [f"This is a {word}:", scene]
        which = rng.randrange(count)
        known = replace(shown[which].things[0], place=rng.choice(list(PLACES)))
        things: tuple[Thing, ...]
        if rng.random() < 0.4:
            told, things = f"a {names[which]} in the {known.place}", (known,)
        else:
            other = random_thing(rng, rng.choice([place for place in PLACES if place != known.place]))
            relation, things = relation_between(known, other), (known, other)
            placed = f"a {name(other)} in the {other.place}"
            told = f"a {names[which]} " + (f"{relation} {placed}" if relation else f"in the {known.place} and {placed}")
        drawn = Scene(rng.choice(list(BACKGROUNDS)), things)
        if allowed is False and is_held_out(drawn):
            return make(allowed)
        asked = sentence(f"draw {told}, on a {drawn.background} background")
        return Story([*plan, asked, drawn], "name", given=len(plan) + 1)

    return _until_held_out(make, held_out)


KINDS: dict[str, Callable[..., Story]] = {
    "story": story,
    "facts": facts_story,
    "edit": edit,
    "again": again,
    "name": made_up_name,
}
