"""The exercises of notebook 00."""

from __future__ import annotations

from collections.abc import Callable

from minidream.teaching import Exercise, Mistake

_PARTS = ["words", "<dream>", "dream queries", "<dream_end>", "<im_start>", "patches", "<im_end>"]

STREAM_ORDER = Exercise(
    "the order of a stream",
    reference=_PARTS,
    right=lambda answer: list(answer) == _PARTS,
    mistakes=(
        Mistake(
            _PARTS[:-1],
            lambda answer: set(answer) != set(_PARTS),
            f"use each of these once: {', '.join(_PARTS)}",
        ),
        Mistake(
            [*_PARTS[1:], "words"],
            lambda answer: answer.index("words") != 0,
            "a picture is made from what came before it: the words come first",
        ),
        Mistake(
            ["words", *_PARTS[4:], *_PARTS[1:4]],
            lambda answer: answer.index("patches") < answer.index("dream queries"),
            "the model would look at a picture that has not been drawn yet: the dream block comes first",
        ),
        Mistake(
            ["words", "dream queries", "<dream>", *_PARTS[3:]],
            lambda answer: answer.index("<dream>") > answer.index("dream queries"),
            "nobody has asked for a picture yet: the queries follow the <dream> that the model itself emits",
        ),
    ),
)

CONTEXT_PLACES = Exercise(
    "the places of three pictures",
    reference=3 * (8 + 2 + 16 + 2),
    right=lambda answer: answer == 84,
    mistakes=(
        Mistake(72, lambda answer: answer == 72, "each block also has two marks, one before and one after"),
        Mistake(
            30,
            lambda answer: answer in (30, 24),
            "that is what drawing takes; the model also looks at what it has drawn",
        ),
        Mistake(
            54,
            lambda answer: answer in (54, 48),
            "that is what looking takes; the pictures have to be drawn as well",
        ),
        Mistake(28, lambda answer: answer == 28, "that is one picture; the story has three"),
    ),
)


def _guided(answer: Callable[[float, float, float], float], guidance: float) -> float:
    return float(answer(1.0, 3.0, guidance))  # empty prompt: 1, caption: 3


GUIDANCE = Exercise(
    "guidance by hand",
    reference=lambda empty, full, guidance: empty + guidance * (full - empty),
    right=lambda answer: [_guided(answer, g) for g in (0.0, 1.0, 3.0)] == [1.0, 3.0, 7.0],
    mistakes=(
        Mistake(
            lambda empty, full, guidance: guidance * full,
            lambda answer: _guided(answer, 3.0) == 9.0 and _guided(answer, 1.0) == 3.0,
            "at guidance 0 the picture should know nothing of the caption: start from the empty prompt, not from the "
            "caption or from zero",
        ),
        Mistake(
            lambda empty, full, guidance: full + guidance * (full - empty),
            lambda answer: _guided(answer, 1.0) == 5.0,
            "at guidance 1 the caption alone should speak: start from empty",
        ),
        Mistake(
            lambda empty, full, guidance: empty + guidance * (empty - full),
            lambda answer: _guided(answer, 3.0) == -5.0,
            "it leads away from the caption: turn the difference round",
        ),
    ),
)
