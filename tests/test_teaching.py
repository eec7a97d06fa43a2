"""Exercises: the reference passes, no answer is neutral, and each classic mistake gets a hint of its own."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

import pytest
from tiny import PATCHES, QUERIES, SIDE, tiny_model, tiny_tokenizer

from minidream import MiniDreamPipeline, teaching
from minidream.processing import MiniDreamProcessor
from minidream.teaching import Bill, Exercise, Mistake, loop_clinic, reveal, score_distillation, tour

LESSONS = [import_module(f"minidream.teaching.{info.name}") for info in iter_modules(teaching.__path__)]
EXERCISES = [value for lesson in LESSONS for value in vars(lesson).values() if isinstance(value, Exercise)]
MISTAKES = [(exercise, mistake) for exercise in EXERCISES for mistake in exercise.mistakes]


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.name)
def test_the_reference_passes_and_no_answer_is_neutral(exercise: Exercise, capsys: pytest.CaptureFixture[str]) -> None:
    assert exercise.verdict(exercise.reference) == f"{exercise.name}: right"
    exercise.check(None)
    assert capsys.readouterr().out == f"{exercise.name}: waiting for your answer\n"


@pytest.mark.parametrize("exercise, mistake", MISTAKES, ids=lambda value: getattr(value, "name", ""))
def test_each_mistake_gets_its_own_hint(exercise: Exercise, mistake: Mistake) -> None:
    assert exercise.verdict(mistake.example) == f"{exercise.name}: {mistake.hint}"
    assert len({each.hint for each in exercise.mistakes}) == len(exercise.mistakes)


def test_any_other_answer_is_answered() -> None:
    assert "unfold the hint" in tour.CONTEXT_PLACES.verdict(7)
    assert "could not be tried (TypeError" in tour.GUIDANCE.verdict(3.0)


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


def test_most_is_more_than_half() -> None:
    assert [score_distillation.most_or_few([True] * right + [False] * (4 - right)) for right in range(5)] == [
        *("few", "few", "few", "most", "most")
    ]


def test_only_the_healthy_loop_agrees_with_its_document_read_anew() -> None:
    processor = MiniDreamProcessor(tiny_tokenizer(), QUERIES, PATCHES, SIDE, max_length=400)
    pipe = MiniDreamPipeline(tiny_model(processor), processor)
    examined = loop_clinic.examine(pipe, steps=2)
    first = {name: each.pictures[0].tobytes() for name, each in examined.items()}
    assert len(set(first.values())) == 1  # all faults lie after the first picture
    read = {name: loop_clinic.read_anew(pipe, each) for name, each in examined.items()}
    missing = {name: places - examined[name].places for name, (places, _) in read.items()}
    assert missing == {"healthy": 0, "patient 1": 3 * (QUERIES + 2), "patient 2": 0, "patient 3": 0}
    assert read["healthy"][1] < 1e-4 < 1e-3 < min(apart for name, (_, apart) in read.items() if name != "healthy")
    assert len(loop_clinic.sheet(examined).axes) == 1
