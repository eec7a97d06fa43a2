"""Notebook 07: documents and their controls, what goes wrong in pictures by kind, and the exercises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from minidream.evaluation.candidate import Candidate, dice
from minidream.teaching import Exercise, Mistake
from minidream.world.corpora import render
from minidream.world.scene import BACKGROUNDS, PLACES, Scene, Thing
from minidream.world.tell import KINDS, Story

FAULTS = {
    "forgotten": "a thing is missing",
    "invented": "a thing is there that nobody told of",
    "fused": "a thing has taken a colour or shape from another",
    "drift": "what no sentence touched has changed",
    "order": "what the sentence asked for is not there",
    "unreadable": "the reader recognises nothing for certain",
}


def faults(before: Scene | None, truth: Scene, shown: Scene | None) -> set[str]:
    """Which of `FAULTS` a picture has that ought to show `truth`, after a picture of `before` (None: it is the first).

    Every quarter of the picture and the background are compared; pixel offsets are no facts.
    """
    if shown is None:
        return {"unreadable"}
    old, due, seen = (_by_place(scene) for scene in (before, truth, shown))
    found = set()
    for place in PLACES:
        right, there = due.get(place), seen.get(place)
        untouched = before is not None and old.get(place) == right
        if right == there:
            continue
        if there is None:
            found.add("forgotten")
        elif right is None:
            # What has moved or vanished and still stands there: the order was not carried out.
            found.add("order" if old.get(place) == there else "invented")
        elif _borrowed(right, there, [thing for other, thing in due.items() if other != place]):
            found.add("fused")
        else:
            found.add("drift" if untouched else "order")
    if shown.background != truth.background:
        found.add("drift" if before is not None and before.background == truth.background else "order")
    return found


def _by_place(scene: Scene | None) -> dict[str, Thing]:
    return {thing.place: thing for thing in scene.facts().things} if scene else {}


def _borrowed(right: Thing, there: Thing, others: Sequence[Thing]) -> bool:
    """Whether a wrong colour or shape is that of another thing."""
    return any(
        getattr(there, fact) != getattr(right, fact) and getattr(there, fact) == getattr(other, fact)
        for fact in ("color", "shape")
        for other in others
    )


def ground(picture: Image.Image) -> str:
    """The background of a picture of the world, also where its things cannot be read: the colour nearest to its
    corners, which no thing reaches."""
    pixels = np.asarray(picture.convert("RGB"), dtype=float)
    corners = np.median(pixels[[0, 0, -1, -1], [0, -1, 0, -1]], axis=0)
    return min(BACKGROUNDS, key=lambda name: float(np.abs(corners - BACKGROUNDS[name]).sum()))


def three_pictures(count: int) -> list[Story]:
    """`count` fresh stories of three pictures."""
    rng = dice(7, "interleaved generation")
    return [KINDS["story"](rng, pictures=3) for _ in range(count)]


def blind(edit: Story) -> Story:
    """An edit's order without the picture that it is about."""
    return replace(edit, document_plan=edit.document_plan[1:], given=1)


def exchanged(story: Story, other: Story) -> Story:
    """A story of made-up names, each bound to what the other's first name is bound to. Its truth stays."""
    shown = other.scenes[0]
    given = [part if isinstance(part, str) else shown for part in story.document_plan[: story.given]]
    return replace(story, document_plan=[*given, *story.document_plan[story.given :]])


def last_pictures(candidate: Candidate, told: Sequence[Story]) -> list[Image.Image]:
    """What the candidate draws as the last picture of stories of which all else is given."""
    return candidate.draw_next(
        [render(each.document_plan[: each.given]) for each in told], [each.given for each in told], seed=0
    )


# Three sentences of 10 tokens, the first given and <s> before it, each followed by a picture that the model draws and
# looks at: 1 pass for the prompt, 20 for words, 2 for each picture.
PASSES = Exercise(
    "the passes of a story",
    reference=1 + 20 + 3 * 2,
    right=lambda answer: answer == 27,
    mistakes=(
        Mistake(
            36, lambda answer: answer in (36, 37), "the first sentence is given: all of it is read in a single pass"
        ),
        Mistake(
            24,
            lambda answer: answer == 24,
            "a picture takes two passes: its dream block is read, and later its image block",
        ),
        Mistake(
            1 + 20 + 3 * 28,
            lambda answer: answer == 105,
            "a block is known in advance: all of its places are read in one pass",
        ),
        Mistake(26, lambda answer: answer in (26, 6, 20), "count the prompt, the words and the pictures"),
    ),
)

_LENGTHS = (13, 28, 7, 28, 8, 28)  # text, picture, text, picture, text, picture; <s> is in the first
CROP = Exercise(
    "where to cut the cache",
    reference=lambda lengths, changed: sum(lengths[:changed]),
    right=lambda answer: [answer(_LENGTHS, part) for part in (0, 2, 5)] == [0, 41, 76 + 8],
    mistakes=(
        Mistake(
            lambda lengths, changed: sum(lengths[: changed + 1]),
            lambda answer: answer(_LENGTHS, 2) == 48,
            "the changed part itself is no longer true: its own places must go as well",
        ),
        Mistake(
            lambda lengths, changed: sum(lengths) - lengths[changed],
            lambda answer: answer(_LENGTHS, 2) == 112 - 7,
            "everything after the change was read in its light, so it must go, too",
        ),
        Mistake(
            lambda lengths, changed: sum(lengths[changed:]),
            lambda answer: answer(_LENGTHS, 2) == 71,
            "that is how many places must go; the answer is how many may stay",
        ),
    ),
)

_CHANCES = (0.1, 0.5, 0.05, 0.3, 0.05)


def _kept(answer: Callable[[Sequence[float], float], Any], top_p: float) -> set[int]:
    return {int(token) for token in answer(list(_CHANCES), top_p)}


NUCLEUS = Exercise(
    "the nucleus by hand",
    reference=lambda chances, top_p: {
        token for token, chance in enumerate(chances) if sum(other for other in chances if other > chance) < top_p
    },
    right=lambda answer: [_kept(answer, p) for p in (0.4, 0.7, 0.85)] == [{1}, {1, 3}, {0, 1, 3}],
    mistakes=(
        Mistake(
            lambda chances, top_p: {
                token
                for token, chance in enumerate(chances)
                if sum(other for other in chances if other >= chance) <= top_p
            },
            lambda answer: _kept(answer, 0.4) == set() and _kept(answer, 0.7) == {1},
            "the token that crosses the border belongs to the set, or a small top_p would keep none",
        ),
        Mistake(
            lambda chances, top_p: {token for token, chance in enumerate(chances) if chance >= top_p},
            lambda answer: _kept(answer, 0.4) == {1} and _kept(answer, 0.7) == set(),
            "top_p is not a limit for a single token: the kept ones together must hold it",
        ),
        Mistake(
            lambda chances, top_p: {token for token in range(len(chances)) if sum(chances[:token]) < top_p},
            lambda answer: _kept(answer, 0.4) == {0, 1},
            "begin with the likeliest token, not with the first",
        ),
    ),
)
