"""What a story tells is understood as it was meant, and what makes no sense is not."""

import random
from itertools import pairwise

import pytest

from minidream.world.follow import outcome
from minidream.world.scene import Scene, Thing
from minidream.world.tell import KINDS

STAR, RING = Thing("top left", "red", "star", "small"), Thing("bottom right", "blue", "ring", "large")
SCENE = Scene("white", (STAR, RING))


@pytest.mark.parametrize("kind", ["story", "facts", "continued"])
def test_stories_are_followed_as_they_were_told(kind):
    rng, sentences = random.Random(f"tests-follow-{kind}"), 0
    for _ in range(500):
        plan = KINDS[kind](rng, None).document_plan
        scene = last = None
        for part, following in pairwise(plan):
            if isinstance(part, Scene):
                scene = part.facts()
            elif scene is not None:
                changed, last = outcome(scene, part, last)
                assert changed.facts() == following.facts(), part
                sentences += 1
    assert sentences > 500


@pytest.mark.parametrize(
    ("text", "things", "it"),
    [
        ("Time goes by. All is quiet. The star turns blue.", [("top left", "blue", "star", "small"), RING], 0),
        ("  It grows.", [("top left", "red", "star", "large"), RING], 0),
        ("The thing in the bottom right moves left.", [STAR, ("bottom left", "blue", "ring", "large")], 1),
        ("The large ring goes away.", [STAR], None),
        ("Below the star a small cyan ring appears.", [STAR, RING, ("bottom left", "cyan", "ring", "small")], 2),
        (
            "An orange cross as large as the blue thing lands in the top right.",
            [STAR, RING, ("top right", "orange", "cross", "large")],
            2,
        ),
    ],
)
def test_by_hand(text, things, it):
    made = [thing if isinstance(thing, Thing) else Thing(*thing) for thing in things]
    assert outcome(SCENE, text, last=STAR) == (Scene("white", tuple(made)), None if it is None else made[it])


def test_the_background_is_no_thing():
    assert outcome(SCENE, "The background turns black.") == (Scene("black", SCENE.things), None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "All is quiet.",
        "The star turns red.",  # it is red
        "The star shrinks.",
        "The circle grows.",  # there is none
        "The thing vanishes.",  # which?
        "It grows.",  # what?
        "The ring moves down.",  # out of the picture
        "The ring moves to the top left.",  # where the star lies
        "A small red star appears in the top left.",
        "A red star appears in the top right.",  # how large?
        "A small red star as large as the ring appears in the top right.",
        "A red star as large as the circle appears in the top right.",
        "A small red star appears left of the ring in the top left.",
        "The background turns white.",
        "The background turns blue.",
        "The star turns blue. The ring turns red.",
        "The star turns blue",
        "The star turns blue. (a small blue star)",
        "The star sings.",
    ],
)
def test_what_cannot_be_told_of_the_scene(text):
    assert outcome(SCENE, text) is None


def test_the_last_thing_does_not_vanish():
    assert outcome(Scene("white", (STAR,)), "The star vanishes.") is None


def test_words_for_two_things_name_neither():
    twin = Thing("top right", "red", "star", "large")
    both = Scene("white", (STAR, twin))
    assert outcome(both, "The star turns blue.") is None
    assert outcome(both, "The large star turns blue.") is not None
