"""What a lesson needs besides its subject: predictions, exercises that talk back, and the bill.

An unanswered exercise or prediction prints a fixed line, so a notebook says the same every time it runs.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Exercise:
    """A task whose checker says in a sentence what is wrong.

    `right` decides about an answer; `mistakes` are pairs of a predicate that recognises a classic mistake and the hint
    it gets; `reference` is an answer that is right, for the tests.
    """

    name: str
    reference: Any
    right: Callable[[Any], bool]
    mistakes: tuple[tuple[Callable[[Any], bool], str], ...] = ()
    otherwise: str = "not yet; unfold the hint"

    def verdict(self, answer: Any) -> str:
        """What to say to an answer; None is no answer."""
        if answer is None:
            return f"{self.name}: waiting for your answer"
        try:
            if self.right(answer):
                return f"{self.name}: right"
            hint = next((hint for recognises, hint in self.mistakes if recognises(answer)), self.otherwise)
        except Exception as error:  # the reader's own code is being tried
            hint = f"your answer could not be tried ({type(error).__name__}: {error})"
        return f"{self.name}: {hint}"

    def check(self, answer: Any) -> None:
        """Print the verdict."""
        print(self.verdict(answer))


def reveal(guess: Any, truth: Any) -> None:
    """Print a prediction beside what happened."""
    if guess is None:
        print(f"no prediction made; it is {truth!r}")
    else:
        print(f"you predicted {guess!r}: " + ("right" if guess == truth else f"it is {truth!r}"))


class Bill:
    """What a notebook costs, from its first cell on."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def __str__(self) -> str:
        wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
        return f"{wall:.0f} s on {os.cpu_count()} CPU cores, {cpu:.0f} s of CPU time, {peak_memory():.1f} GB of memory"


def peak_memory() -> float:
    """The most memory that this process has used so far, in GB."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


# -- the exercises of notebook 00 ---------------------------------------------------------------------------------

_PARTS = ["words", "<dream>", "dream queries", "<dream_end>", "<im_start>", "patches", "<im_end>"]

STREAM_ORDER = Exercise(
    "the order of a stream",
    reference=_PARTS,
    right=lambda answer: list(answer) == _PARTS,
    mistakes=(
        (lambda answer: set(answer) != set(_PARTS), f"use each of these once: {', '.join(_PARTS)}"),
        (lambda answer: answer.index("words") != 0, "a picture is made from what came before it: the words come first"),
        (
            lambda answer: answer.index("patches") < answer.index("dream queries"),
            "the model would look at a picture that has not been drawn yet: the dream block comes first",
        ),
        (
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
        (lambda answer: answer == 72, "each block also has two marks, one before and one after"),
        (lambda answer: answer in (30, 24), "that is what drawing takes; the model also looks at what it has drawn"),
        (lambda answer: answer in (54, 48), "that is what looking takes; the pictures have to be drawn as well"),
        (lambda answer: answer == 28, "that is one picture; the story has three"),
    ),
)


def _guided(answer: Callable[[float, float, float], float], guidance: float) -> float:
    return float(answer(1.0, 3.0, guidance))  # empty prompt: 1, caption: 3


GUIDANCE = Exercise(
    "guidance by hand",
    reference=lambda empty, full, guidance: empty + guidance * (full - empty),
    right=lambda answer: [_guided(answer, g) for g in (0.0, 1.0, 3.0)] == [1.0, 3.0, 7.0],
    mistakes=(
        (
            lambda answer: _guided(answer, 3.0) == 9.0 and _guided(answer, 1.0) == 3.0,
            "at guidance 0 the picture should know nothing of the caption: start from the empty prompt, not from the "
            "caption or from zero",
        ),
        (lambda answer: _guided(answer, 1.0) == 5.0, "at guidance 1 the caption alone should speak: start from empty"),
        (lambda answer: _guided(answer, 3.0) == -5.0, "it leads away from the caption: turn the difference round"),
    ),
)
