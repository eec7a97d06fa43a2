"""Exercises: the reference passes, no answer is neutral, and each classic mistake gets a hint of its own."""

from __future__ import annotations

from typing import Any

import pytest

from minidream import teaching
from minidream.teaching import Bill, Exercise, reveal

EXERCISES = [value for value in vars(teaching).values() if isinstance(value, Exercise)]
ORDER = teaching.STREAM_ORDER.reference
MISTAKES: list[tuple[Exercise, Any, str]] = [
    (teaching.STREAM_ORDER, ORDER[:-1], "each of these once"),
    (teaching.STREAM_ORDER, [*ORDER[1:], "words"], "words come first"),
    (teaching.STREAM_ORDER, ["words", *ORDER[4:], *ORDER[1:4]], "not been drawn yet"),
    (teaching.STREAM_ORDER, ["words", "dream queries", "<dream>", *ORDER[3:]], "nobody has asked"),
    (teaching.CONTEXT_PLACES, 72, "two marks"),
    (teaching.CONTEXT_PLACES, 30, "looks at"),
    (teaching.CONTEXT_PLACES, 54, "drawn as well"),
    (teaching.CONTEXT_PLACES, 28, "has three"),
    (teaching.CONTEXT_PLACES, 7, "unfold the hint"),
    (teaching.GUIDANCE, lambda empty, full, guidance: guidance * full, "start from the empty prompt"),
    (teaching.GUIDANCE, lambda empty, full, guidance: full + guidance * (full - empty), "caption alone should speak"),
    (teaching.GUIDANCE, lambda empty, full, guidance: empty + guidance * (empty - full), "turn the difference"),
    (teaching.GUIDANCE, 3.0, "could not be tried (TypeError"),
]


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.name)
def test_the_reference_passes_and_no_answer_is_neutral(exercise: Exercise, capsys: pytest.CaptureFixture[str]) -> None:
    assert exercise.verdict(exercise.reference) == f"{exercise.name}: right"
    exercise.check(None)
    assert capsys.readouterr().out == f"{exercise.name}: waiting for your answer\n"


@pytest.mark.parametrize("exercise, answer, hint", MISTAKES)
def test_each_mistake_gets_its_hint(exercise: Exercise, answer: Any, hint: str) -> None:
    assert hint in exercise.verdict(answer)


def test_predictions_are_revealed(capsys: pytest.CaptureFixture[str]) -> None:
    for guess in (None, "a", "b"):
        reveal(guess, "b")
    assert capsys.readouterr().out.splitlines() == [
        "no prediction made; it is 'b'",
        "you predicted 'a': it is 'b'",
        "you predicted 'b': right",
    ]


def test_the_bill_names_time_and_memory() -> None:
    seconds, cpu, memory = str(Bill()).split(", ")
    assert seconds.startswith("0 s on ") and cpu == "0 s of CPU time" and memory.endswith(" GB of memory")
