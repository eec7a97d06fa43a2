"""Questions about a scene, each with one short answer that the picture alone decides. Taught in notebook 01.

Yes and no are about equally frequent ("no" 50 % of existence and relation, 58 % of comparison), or a model that has not
looked would do well. A question in training never names a held-out pair or relation in vain: "Is there a yellow
circle?" would always be answered "no", and that would be learnt.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from minidream.world.scene import (
    COLORS,
    HELD_OUT_PAIRS,
    HELD_OUT_RELATIONS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    is_held_out,
    random_scene,
)
from minidream.world.words import NAMES, references, relation_between
from minidream.world.words import a as an

NUMBERS = ("zero", "one", "two", "three", "four")


@dataclass(frozen=True)
class Question:
    """`type` is one of `QUESTION_TYPES`; `answer` is lower case, without a full stop."""

    type: str
    question: str
    answer: str


def _color(scene: Scene, rng: random.Random) -> tuple[str, str]:
    thing = rng.choice(scene.things)
    spelling = rng.choice(("colour", "colour", "color"))
    return f"What {spelling} is the {rng.choice(references(scene, thing, 'color'))}?", thing.color


def _shape(scene: Scene, rng: random.Random) -> tuple[str, str]:
    thing = rng.choice(scene.things)
    return f"What shape is the {rng.choice(references(scene, thing, 'shape'))}?", thing.shape


def _size(scene: Scene, rng: random.Random) -> tuple[str, str]:
    thing = rng.choice(scene.things)
    words = rng.choice(references(scene, thing, "size"))
    return rng.choice((f"What size is the {words}?", f"Is the {words} large or small?")), thing.size


def _background(scene: Scene, rng: random.Random) -> tuple[str, str]:
    return rng.choice(("What colour is the background?", "What is the background colour?")), scene.background


def _count(scene: Scene, rng: random.Random) -> tuple[str, str]:
    color, shape, size = rng.choice(list(COLORS)), rng.choice(SHAPES), rng.choice(list(SIZES))
    if rng.random() < 0.6:  # mostly about something that is there
        thing = rng.choice(scene.things)
        color, shape, size = thing.color, thing.shape, thing.size
    words, counted = rng.choice(
        (
            ("things", list(scene.things)),
            (f"{color} things", [thing for thing in scene.things if thing.color == color]),
            (f"{size} things", [thing for thing in scene.things if thing.size == size]),
            (_plural(shape), [thing for thing in scene.things if thing.shape == shape]),
        )
    )
    return f"How many {words} are there?", NUMBERS[len(counted)]


def existence(scene: Scene, rng: random.Random, answer: bool | None = None) -> tuple[str, str]:
    """(question, "yes" | "no") about a colour and shape, or about one of both; `answer` chooses, else half and half."""
    yes = rng.random() < 0.5 if answer is None else answer
    shown = {(thing.color, thing.shape) for thing in scene.things}
    if yes:
        color, shape = rng.choice(sorted(shown))
        words = rng.choice((f"{color} {shape}", f"{color} {shape}", shape, f"{color} thing"))
    else:
        colors, shapes = {color for color, _ in shown}, {shape for _, shape in shown}
        forbidden = shown if is_held_out(scene) else shown | HELD_OUT_PAIRS
        absent = [(color, shape) for color in COLORS for shape in SHAPES if (color, shape) not in forbidden]
        near = [pair for pair in absent if pair[0] in colors or pair[1] in shapes]  # half right: the hard ones
        words = rng.choice(
            (
                "{} {}".format(*rng.choice(near or absent)),
                "{} {}".format(*rng.choice(absent)),
                rng.choice([shape for shape in SHAPES if shape not in shapes]),
                rng.choice([color for color in COLORS if color not in colors]) + " thing",
            )
        )
    return rng.choice((f"Is there {an(words)}?", f"Do you see {an(words)}?")), "yes" if yes else "no"


def _relation(scene: Scene, rng: random.Random) -> tuple[str, str]:
    pairs = [(a, b, relation) for a in scene.things for b in scene.things if (relation := relation_between(a, b))]
    findable = [thing for thing in scene.things if references(scene, thing, "place")]
    pairs = [(a, b, relation) for a, b, relation in pairs if a in findable and b in findable]
    if not pairs or rng.random() < 0.25:
        if not findable:
            return _empty(scene, rng)
        thing = rng.choice(findable)
        return f"Where is the {rng.choice(references(scene, thing, 'place'))}?", thing.place
    a, b, relation = rng.choice(pairs)
    first, second = (rng.choice(references(scene, thing, "place")) for thing in (a, b))
    if rng.random() < 0.35:
        return f"What is {relation} the {second}?", f"{a.color} {a.shape}"
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    wrong = [other for other in RELATIONS if other != relation and (is_held_out(scene) or not _unseen(a, other, b))]
    if rng.random() < 0.5 and wrong:
        # The opposite is the telling question; the others are there so that "no" is not tied to one axis.
        asked = opposite[relation] if opposite[relation] in wrong and rng.random() < 0.6 else rng.choice(wrong)
        return f"Is the {first} {asked} the {second}?", "no"
    return f"Is the {first} {relation} the {second}?", "yes"


def _unseen(a: Thing, relation: str, b: Thing) -> bool:
    """Whether "a is `relation` b" is never true in training."""
    pair = (a.shape, b.shape) if relation in ("left of", "above") else (b.shape, a.shape)
    return pair in HELD_OUT_RELATIONS


def _empty(scene: Scene, rng: random.Random) -> tuple[str, str]:
    """The question left for things that are all alike."""
    place = rng.choice(list(PLACES))
    return f"Is the {place} empty?", "yes" if place in scene.empty_places() else "no"


def _comparison(scene: Scene, rng: random.Random) -> tuple[str, str]:
    """Two things' facts, or two numbers, compared."""
    if len(scene.things) == 1 or rng.random() < 0.3:
        return _more(scene, rng)
    a, b = rng.sample(scene.things, 2)
    what = rng.choice(("color", "shape", "size", "larger"))
    first, second = (rng.choice(references(scene, thing, what.replace("larger", "size"))) for thing in (a, b))
    if what == "larger":
        if a.size == b.size:
            return f"Is the {first} as large as the {second}?", "yes"
        asked = rng.choice((f"Is the {first} larger than the {second}?", f"Is the {first} as large as the {second}?"))
        return asked, "yes" if "larger" in asked and a.size == "large" else "no"
    same = "yes" if getattr(a, what) == getattr(b, what) else "no"
    return f"Do the {first} and the {second} have the same {what.replace('color', 'colour')}?", same


def _more(scene: Scene, rng: random.Random) -> tuple[str, str]:
    facts: dict[str, list[str]] = {"color": list(COLORS), "shape": list(SHAPES), "size": list(SIZES)}
    fact = rng.choice(list(facts))
    shown = getattr(rng.choice(scene.things), fact)
    other = rng.choice([value for value in facts[fact] if value != shown])
    pair = (shown, other) if rng.random() < 0.5 else (other, shown)
    numbers = [sum(getattr(thing, fact) == value for thing in scene.things) for value in pair]
    words = [_plural(value) if fact == "shape" else f"{value} things" for value in pair]
    return f"Are there more {words[0]} than {words[1]}?", "yes" if numbers[0] > numbers[1] else "no"


def _plural(shape: str) -> str:
    return shape + ("es" if shape.endswith("s") else "s")


QUESTION_TYPES: dict[str, Callable[[Scene, random.Random], tuple[str, str]]] = {
    "color": _color,
    "shape": _shape,
    "count": _count,
    "existence": existence,
    "relation": _relation,
    "size": _size,
    "background": _background,
    "comparison": _comparison,
}


def ask(scene: Scene, kind: str, rng: random.Random) -> Question:
    """One question of a type of `QUESTION_TYPES` about the scene."""
    return Question(kind, *QUESTION_TYPES[kind](scene, rng))


def questions(scene: Scene, rng: random.Random) -> list[Question]:
    """One question of each type, in random order."""
    asked = [ask(scene, kind, rng) for kind in QUESTION_TYPES]
    rng.shuffle(asked)
    return asked


def few_shot(rng: random.Random, shots: int, held_out: bool | None = False) -> list[tuple[Scene, Question]]:
    """`shots` pictures with a question and its answer, and one more to answer, all with the same question.

    "What is the dax?": the made-up word stands for the colour, shape or size of the left or the right thing; which of
    these, nothing says but the answers. `held_out` is about the last picture.
    """
    word, fact, side = rng.choice(NAMES), rng.choice(("color", "shape", "size")), rng.choice(("left", "right"))
    asked = []
    for shot in range(shots + 1):
        scene = _left_and_right(rng, held_out if shot == shots or not held_out else None)
        thing = next(thing for thing in scene.things if side in thing.place)
        asked.append((scene, Question("few_shot", f"What is the {word}?", getattr(thing, fact))))
    return asked


def _left_and_right(rng: random.Random, held_out: bool | None) -> Scene:
    """A thing on the left and one on the right."""
    while True:
        scene = random_scene(rng, 2, held_out)
        if sum("left" in thing.place for thing in scene.things) == 1:
            return scene
