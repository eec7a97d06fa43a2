"""Documents before they are drawn: texts and scenes in turn, where a scene stands for the picture in its place.

A story is a state that sentences change. Every sentence, together with the document before it, determines the next
scene; alone it does not ("The star turns green."). The kinds: `story`; `facts`, whose background and sizes only the
first picture tells; `edit`; `again`, an edit that changes nothing, the plainest lesson in drawing what is seen; `name`,
where a made-up word is bound to what a picture shows; `subject`, where it takes several pictures to bind it;
`composition` of two such words; and `continued`, a story about a picture of the reader's own. Taught in notebook 01.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from minidream.world.captions import caption
from minidream.world.changes import FACTS_OFTEN, KEEPING_NUMBER, OFTEN, change
from minidream.world.scene import BACKGROUNDS, PLACES, Scene, Thing, is_held_out, random_scene, random_thing
from minidream.world.words import NAMES, a, join, name, relation_between, sentence

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
        """What its pictures show, in order."""
        return [part for part in self.document_plan if isinstance(part, Scene)]


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
        return Story(_go_on([opening, scene], rng, allowed, count, OFTEN, True), "story")

    return _until_held_out(make, held_out)


def facts_story(rng: random.Random, held_out: bool | None = False, pictures: int | None = None) -> Story:
    """A story that never says the background or a size: only its first picture, which is given, shows them."""

    def make(allowed: bool | None) -> Story:
        scene = random_scene(rng, rng.choice((1, 2, 2, 3)), held_out=allowed)
        seen = [f"{a(f'{thing.color} {thing.shape}')} in the {thing.place}" for thing in scene.things]
        opening = sentence(rng.choice(("", "there is ", "this is ")) + join(seen))
        count = pictures or rng.choice((2, 3, 3))
        return Story(_go_on([opening, scene], rng, allowed, count, FACTS_OFTEN, False), "facts", given=2)

    return _until_held_out(make, held_out)


def edit(rng: random.Random, held_out: bool | None = False, things: int | None = None) -> Story:
    """A picture, an instruction, and the picture changed by it and by nothing else; of so many things, if given, and
    then none comes or goes."""

    def make(allowed: bool | None) -> Story:
        scene = random_scene(rng, things, held_out=allowed)
        made = change(scene, rng, allowed, KEEPING_NUMBER if things else OFTEN)
        return Story([scene, sentence(made.asked), made.scene], "edit", given=2)

    return _until_held_out(make, held_out)


def again(rng: random.Random, held_out: bool | None = False) -> Story:
    """A picture, and the same things drawn once more."""
    scene = random_scene(rng, held_out=held_out)
    return Story([scene, rng.choice(AGAIN), scene], "again", given=2)


def made_up_name(rng: random.Random, held_out: bool | None = False) -> Story:
    """One or two made-up names, each bound to the thing in a picture, then a scene with the first or second of them.

    "This is a dax: [picture] Draw a dax left of a small blue ring in the top right, on a white background."
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


def subject(rng: random.Random, held_out: bool | None = False, pictures: int | None = None) -> Story:
    """A made-up name bound by 2 or 3 pictures, each of two things: it is the name of the thing that all of them show.

    "There is a dax here: [picture] And here: [picture] Draw a dax in the top left, on a white background."
    """

    def make(allowed: bool | None) -> Story:
        count, word = pictures or rng.choice((2, 3)), rng.choice(NAMES)
        known = random_scene(rng, 1, held_out=allowed).things[0]
        shown = [_with_other(known, rng, allowed) for _ in range(count)]
        while len(set.intersection(*({name(thing) for thing in scene.things} for scene in shown))) > 1:
            shown = [_with_other(known, rng, allowed) for _ in range(count)]
        plan: list[str | Scene] = []
        for scene in shown:
            plan += ["And here:" if plan else f"There is a {word} here:", scene]
        drawn = Scene(rng.choice(list(BACKGROUNDS)), (replace(known, place=rng.choice(list(PLACES))),))
        asked = f"draw a {word} in the {drawn.things[0].place}, on a {drawn.background} background"
        return Story([*plan, sentence(asked), drawn], "subject", given=len(plan) + 1)

    return _until_held_out(make, held_out)


def _with_other(known: Thing, rng: random.Random, held_out: bool | None) -> Scene:
    """The thing somewhere, with another that is not its twin."""
    while True:
        place, elsewhere = rng.sample(list(PLACES), 2)
        other = random_thing(rng, elsewhere)
        scene = Scene(rng.choice(list(BACKGROUNDS)), (replace(known, place=place), other))
        if name(other) != name(known) and not (held_out is False and is_held_out(scene)):
            return scene


def composition(rng: random.Random, held_out: bool | None = False) -> Story:
    """Two made-up names, each bound to the thing in a picture, then a scene with both.

    "This is a dax: [picture] This is a wugu: [picture] Draw a dax left of a wugu in the top right, on a white
    background."
    """

    def make(allowed: bool | None) -> Story:
        names = rng.sample(NAMES, 2)
        shown = [random_scene(rng, 1, held_out=allowed) for _ in names]
        places = rng.sample(list(PLACES), 2)
        first, second = (replace(scene.things[0], place=place) for scene, place in zip(shown, places))
        drawn = Scene(rng.choice(list(BACKGROUNDS)), (first, second))
        if allowed is False and is_held_out(drawn):
            return make(allowed)
        where = relation_between(first, second)
        where = f"{where} a" if where else f"in the {first.place} and a"
        asked = f"draw a {names[0]} {where} {names[1]} in the {second.place}, on a {drawn.background} background"
        plan = [part for word, scene in zip(names, shown) for part in (f"This is a {word}:", scene)]
        return Story([*plan, sentence(asked), drawn], "composition", given=len(plan) + 1)

    return _until_held_out(make, held_out)


def continued(rng: random.Random, held_out: bool | None = False, pictures: int | None = None) -> Story:
    """A story about a picture of the reader's own, which no text tells; 1-3 pictures follow it if not given."""

    def make(allowed: bool | None) -> Story:
        scene = random_scene(rng, rng.choice((1, 2, 2, 3)), held_out=allowed)
        count = pictures or rng.choice((1, 2, 2, 3))
        return Story(_go_on([scene], rng, allowed, 1 + count, OFTEN, True), "continued", given=1)

    return _until_held_out(make, held_out)


KINDS: dict[str, Callable[..., Story]] = {
    "story": story,
    "facts": facts_story,
    "edit": edit,
    "again": again,
    "name": made_up_name,
    "subject": subject,
    "composition": composition,
    "continued": continued,
}

Fact = tuple[str, str]  # (place of a thing, "color" | "shape" | "size" | "place"), or ("", "background")


def sources(told: Story) -> dict[int, dict[Fact, frozenset[int]]]:
    """What determines each fact of each picture of a `story`, all by their number in `document_plan`: the text that
    made it so, and every picture since then, for they show it. A later text that names it again is no source."""
    found: dict[int, dict[Fact, frozenset[int]]] = {}
    said: dict[Fact, int] = {}  # the text that said a fact of the scene `before`
    before: Scene | None = None
    pictures = [index for index, part in enumerate(told.document_plan) if isinstance(part, Scene)]
    for index in pictures:
        scene = told.document_plan[index]
        assert isinstance(scene, Scene)
        now: dict[Fact, int] = {("", "background"): index - 1}
        if before and before.background == scene.background:
            now["", "background"] = said["", "background"]
        for thing in scene.things:
            was = _was(thing, scene, before)
            for fact in ("place", "color", "shape", "size"):
                kept = was is not None and getattr(was, fact) == getattr(thing, fact)
                now[thing.place, fact] = said[was.place, fact] if was and kept else index - 1
        found[index] = {
            fact: frozenset([text, *(other for other in pictures if text < other < index)])
            for fact, text in now.items()
        }
        said, before = now, scene
    return found


def _was(thing: Thing, scene: Scene, before: Scene | None) -> Thing | None:
    """What a thing was before the last change: it keeps its place, or all else. None for a new one."""
    things = before.things if before else ()
    here = [other for other in things if other.place == thing.place]
    left = [other for other in things if other.place in scene.empty_places()]
    moved = [other for other in left if replace(other, place=thing.place, offset=thing.offset) == thing]
    return next(iter(here + moved), None)
