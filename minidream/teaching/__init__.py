"""What a lesson needs besides its subject: predictions, exercises that talk back, and the bill.

An unanswered exercise or prediction prints a fixed line, so a notebook says the same every time it runs. The exercises
of a lesson stand in a file of its name.
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
class Mistake:
    """A classic mistake: an answer that makes it (for the tests), a predicate that recognises it, the hint it gets."""

    example: Any
    recognised: Callable[[Any], bool]
    hint: str


@dataclass(frozen=True)
class Exercise:
    """A task whose checker says in a sentence what is wrong.

    `right` decides about an answer; `reference` is one that is right, for the tests. Of the `mistakes` the first that
    is recognised gives the hint.
    """

    name: str
    reference: Any
    right: Callable[[Any], bool]
    mistakes: tuple[Mistake, ...] = ()
    otherwise: str = "not yet; unfold the hint"

    def verdict(self, answer: Any) -> str:
        """What to say to an answer; None is no answer."""
        if answer is None:
            return f"{self.name}: waiting for your answer"
        try:
            if self.right(answer):
                return f"{self.name}: right"
            hint = next((mistake.hint for mistake in self.mistakes if mistake.recognised(answer)), self.otherwise)
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
