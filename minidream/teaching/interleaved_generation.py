"""Notebook 07: documents and their controls, what goes wrong in pictures by kind, and the exercises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import permutations
from time import process_time
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image

from minidream.documents import Document
from minidream.evaluation.candidate import Candidate, dice, look
from minidream.evaluation.comprehension import plain
from minidream.evaluation.interleaved import stories
from minidream.teaching import Exercise, Mistake
from minidream.world import read
from minidream.world.corpora import question_text, render
from minidream.world.scene import BACKGROUNDS, COLORS, PLACES, SHAPES, SIZES, Scene, Thing
from minidream.world.tell import KINDS, Question, Story

FAULTS = {  # in this order: the first that applies is a picture's one fault
    "unreadable": "refused, and the reader's guess is wrong",
    "blurred": "refused, though the reader's guess is right",
    "fused": "a thing has the colour or shape of another",
    "order": "what the sentence says is not there",
    "forgotten": "a thing that it leaves alone is missing",
    "invented": "a thing has come of which it says nothing",
    "drift": "something else that it leaves alone has changed",
}


def fault(before: Scene | None, truth: Scene, shown: Scene | None, guess: Scene | None = None) -> str | None:
    """Which of `FAULTS` a picture has that ought to show `truth`, after a picture of `before` (None: it is the first);
    None if it is right. `shown` is what the reader sees for certain; where that is None, `guess` is what it takes the
    picture for (see `guesses`).

    The sentence says what differs between `before` and `truth`; of a first picture, all but the empty places. Every
    quarter of the picture and the background are compared; pixel offsets are no facts.
    """
    if shown is None:
        return "blurred" if guess is not None and guess.facts() == truth.facts() else "unreadable"
    old, due, seen = (_by_place(scene) for scene in (before, truth, shown))
    wrong = [place for place in PLACES if due.get(place) != seen.get(place)]
    for place in wrong:
        others = [thing for scene in (old, due) for other, thing in scene.items() if other != place]
        if place in due and place in seen and _borrowed(due[place], seen[place], others):
            return "fused"
    other_ground = shown.background != truth.background
    if any(old.get(place) != due.get(place) for place in wrong):
        return "order"
    if other_ground and (before is None or before.background != truth.background):
        return "order"
    if any(place not in seen for place in wrong):
        return "forgotten"
    if any(place not in due for place in wrong):
        return "invented"
    return "drift" if wrong or other_ground else None


def _by_place(scene: Scene | None) -> dict[str, Thing]:
    return {thing.place: thing for thing in scene.facts().things} if scene else {}


def _borrowed(right: Thing, there: Thing, others: Sequence[Thing]) -> bool:
    """Whether a wrong colour or shape is that of another thing."""
    return any(
        getattr(there, fact) != getattr(right, fact) and getattr(there, fact) == getattr(other, fact)
        for fact in ("color", "shape")
        for other in others
    )


def guesses(pictures: Sequence[Image.Image]) -> list[Scene | None]:
    """What the exact reader takes pictures for if it may not refuse; None where it sees nothing at all."""
    everything = 1e9  # no picture is so far from a template, or so near to a second one
    limits: dict[str, Any] = {"LEFT_OVER": np.full(2, everything), "MARGIN": -everything}
    with patch.multiple(read, **limits, UNEXPLAINED=everything, COLOR_TOLERANCE=everything):
        return look(pictures)


def contradictions(plan: Sequence[str | Scene], thing: Thing) -> list[tuple[str, str, Document]]:
    """Documents whose third part says that the thing turns one colour and whose fourth shows it in another, on two
    backgrounds: (what is said, what is shown, the document up to the plan's end)."""
    caption, before, _, _, *rest = plan
    assert isinstance(caption, str) and isinstance(before, Scene)
    found = []
    for background in ("grey", "white"):
        told, first = caption.replace(before.background, background), replace(before, background=background)
        for said, painted in permutations(("green", "blue", "orange", "yellow"), 2):
            shown = Scene(background, (replace(thing, color=painted),))
            found.append((said, painted, render([told, first, f"The {thing.shape} turns {said}.", shown, *rest])))
    return found


def color_at(scene: Scene | None, place: str) -> str | None:
    """The colour of what stands in a place; None if nothing does."""
    thing = _by_place(scene).get(place)
    return thing.color if thing else None


def timed(work: Callable[..., Any], *given: Any) -> tuple[Any, float]:
    """What `work` returns, and the seconds of CPU time that it took."""
    start = process_time()
    return work(*given), process_time() - start


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


def blind(story: Story) -> Story:
    """An order, or a sentence, without the picture that it is about."""
    return replace(story, document_plan=story.document_plan[1:], given=story.given - 1)


def exchanged(story: Story, other: Story) -> Story:
    """A story of made-up names, each bound to what the other's first name is bound to. Its truth stays."""
    shown = other.scenes[0]
    given = [part if isinstance(part, str) else shown for part in story.document_plan[: story.given]]
    return replace(story, document_plan=[*given, *story.document_plan[story.given :]])


def narrowed(story: Story) -> Story:
    """A story of a name that several pictures bind, with the first of them alone. Its truth stays."""
    plan = story.document_plan
    return replace(story, document_plan=[*plan[:2], *plan[story.given - 1 :]], given=3)


def swapped(story: Story) -> Story:
    """A story of two made-up names, each bound to the other's picture. Its truth stays."""
    (first, second), plan = story.scenes[:2], list(story.document_plan)
    for index, part in enumerate(plan[: story.given]):
        if isinstance(part, Scene):
            plan[index] = second if part is first else first
    return replace(story, document_plan=plan)


def in_context(count: int) -> dict[str, list[Story]]:
    """`count` documents of each kind that teach while they are read, each above its control."""
    kinds = ("edit", "name", "composition", "subject")
    edits, named, composed, bound = (stories(kind, count, seed=2) for kind in kinds)
    rng = dice(2, "continued")
    own = [KINDS["continued"](rng, pictures=1) for _ in range(count)]
    return {
        "edits": edits,
        "edits, picture withheld": [blind(story) for story in edits],
        "made-up names": named,
        "names, another's picture": [exchanged(story, other) for story, other in zip(named, [*named[1:], named[0]])],
        "two names composed": composed,
        "two names, pictures swapped": [swapped(story) for story in composed],
        "a name bound several times": bound,
        "a name, its first picture alone": [narrowed(story) for story in bound],
        "a reader's own goes on": own,
        "a reader's own picture withheld": [blind(story) for story in own],
    }


Asked = Sequence[tuple[Scene, Question]]  # pictures with one question and its answers; the last is to be answered


def misled(asked: Asked) -> list[tuple[Scene, Question]]:
    """The examples answered for the picture's other thing; the last answer stays."""
    return [*((scene, _about_the_other(scene, question)) for scene, question in asked[:-1]), asked[-1]]


def _about_the_other(scene: Scene, question: Question) -> Question:
    """The same fact of a thing that differs in it; the same answer if none does."""
    values = [getattr(thing, fact_of(question.answer)) for thing in scene.things]
    return replace(question, answer=next((value for value in values if value != question.answer), question.answer))


def fact_of(answer: str) -> str:
    """Of which fact an answer is a value: "color", "shape" or "size"; "" for any other."""
    tables: dict[str, Any] = {"color": COLORS, "shape": SHAPES, "size": SIZES}
    return next((fact for fact, table in tables.items() if answer in table), "")


def by_example(asked: Asked) -> Document:
    """All that comes before the last question's answer."""
    told = [(scene, question_text(question.question), f" {question.answer}") for scene, question in asked]
    return render([part for shot in told for part in shot][:-1])


def answers(candidate: Candidate, asked: Sequence[Asked]) -> list[str]:
    """What the candidate answers to the last question of each."""
    documents = [Document(by_example(each).parts[:-1]) for each in asked]  # `ask` writes the question itself
    return [plain(text) for text in candidate.ask(documents, [each[-1][1].question for each in asked])]


def last_pictures(candidate: Candidate, told: Sequence[Story]) -> list[Image.Image]:
    """What the candidate draws as the last picture of stories of which all else is true."""
    return candidate.draw_next(
        [render(each.document_plan[:-1]) for each in told], [each.given for each in told], seed=0
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

_TEXTS, _DREAM, _IMAGE = (13, 7, 8), 10, 18  # text, picture, text, picture, text, picture; <s> is in the first
_BLOCKS = _DREAM + _IMAGE
CROP: Exercise = Exercise(
    "where to cut the cache",
    reference=lambda texts, changed: (
        sum(texts[: (changed + 1) // 2]) + _BLOCKS * (changed // 2) + _DREAM * (changed % 2)
    ),
    right=lambda answer: [answer(_TEXTS, part) for part in (0, 1, 2, 5)] == [0, 23, 41, 94],
    mistakes=(
        Mistake(
            lambda texts, changed: sum(texts[: (changed + 1) // 2]) + _BLOCKS * (changed // 2),
            lambda answer: [answer(_TEXTS, part) for part in (0, 1, 2)] == [0, 13, 41],
            "a picture's dream block stands before its image block and has not seen the picture: it may stay",
        ),
        Mistake(
            lambda texts, changed: sum(texts[: changed // 2 + 1]) + _BLOCKS * ((changed + 1) // 2),
            lambda answer: [answer(_TEXTS, part) for part in (0, 1)] == [13, 41],
            "the changed part itself is no longer true: its own places must go as well",
        ),
        Mistake(
            lambda texts, changed: sum(texts) + _BLOCKS * len(texts) - (_IMAGE if changed % 2 else texts[changed // 2]),
            lambda answer: answer(_TEXTS, 2) == 112 - 7,
            "everything after the change was read in its light, so it must go, too",
        ),
        Mistake(
            lambda texts, changed: 112 - CROP.reference(texts, changed),
            lambda answer: answer(_TEXTS, 2) == 112 - 41,
            "that is how many places must go; the answer is how many may stay",
        ),
    ),
)

_STAR, _RING = Thing("top left", "red", "star", "large"), Thing("bottom right", "blue", "ring", "small")
_GREEN = replace(_STAR, color="green")
RIDDLE = {  # the picture before, what "The star turns green." asks for, and four failures
    "before": Scene("grey", (_STAR, _RING)),
    "due": Scene("grey", (_GREEN, _RING)),
    "1": Scene("grey", (_STAR,)),
    "2": Scene("grey", (_GREEN, replace(_RING, size="large"))),
    "3": Scene("grey", (_GREEN, replace(_RING, color="red"))),
    "4": Scene("grey", (_GREEN,)),
}
_NAMES = tuple(fault(RIDDLE["before"], RIDDLE["due"], RIDDLE[number]) for number in "1234")
NAMING = Exercise(
    "name the fault",
    reference=_NAMES,
    right=lambda answer: tuple(answer) == _NAMES,
    mistakes=(
        Mistake(
            ("forgotten", "drift", "fused", "forgotten"),
            lambda answer: answer[0] == "forgotten",
            "picture 1 has two faults, and the one that stands higher in the table gives the name",
        ),
        Mistake(
            ("order", "order", "fused", "forgotten"),
            lambda answer: "order" in answer[1:],
            "the sentence speaks of the star alone: what becomes of the ring is no order",
        ),
        Mistake(
            ("order", "drift", "drift", "forgotten"),
            lambda answer: answer[2] == "drift",
            "look where the ring's new colour was in the picture before",
        ),
        Mistake(
            ("order", "drift", "fused", "drift"),
            lambda answer: answer[3] == "drift",
            "a thing that is missing has a name of its own",
        ),
    ),
)
