"""The words of the world's English that captions, questions and stories share. Taught in notebook 01."""

from __future__ import annotations

from collections.abc import Iterable

from minidream.world.scene import RELATIONS, Scene, Thing, related

# Made-up names, none of them another word of the world.
NAMES = tuple(
    start + end for start in ("da", "wu", "bli", "to", "fe", "zor", "nil") for end in ("x", "gu", "kka", "zz")
)


def name(thing: Thing) -> str:
    """What a thing is, without its place: "large red circle"."""
    return f"{thing.size} {thing.color} {thing.shape}"


def relation_between(first: Thing, second: Thing) -> str | None:
    """The one relation in which `first` lies to `second`; None where they lie across a diagonal."""
    return next((relation for relation in RELATIONS if related(first, relation, second)), None)


def sentence(text: str) -> str:
    """`text` with a capital letter and a full stop."""
    return text[0].upper() + text[1:] + "."


def a(words: str) -> str:
    """`words` after "a" or "an"."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def join(parts: list[str]) -> str:
    """["a", "b", "c"] -> "a, b and c"."""
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def one_of(words: Iterable[str]) -> str:
    """A pattern for any of these words."""
    return "|".join(words)


def references(scene: Scene, thing: Thing, *without: str) -> list[str]:
    """All words that name this thing of the scene and no other ("red circle", "thing in the top left").

    `without`: facts ("color", "shape", "size", "place") that the words must not give away. The list is empty only
    without "place", for things that are alike.
    """
    ways = {
        ("shape",): thing.shape,
        ("color",): f"{thing.color} thing",
        ("color", "shape"): f"{thing.color} {thing.shape}",
        ("size", "shape"): f"{thing.size} {thing.shape}",
        ("size", "color", "shape"): name(thing),
        ("place",): f"thing in the {thing.place}",
        ("shape", "place"): f"{thing.shape} in the {thing.place}",
    }

    def alike(facts: tuple[str, ...], other: Thing) -> bool:
        return all(getattr(thing, fact) == getattr(other, fact) for fact in facts)

    return [
        words
        for facts, words in ways.items()
        if not set(without) & set(facts) and sum(alike(facts, other) for other in scene.things) == 1
    ]
