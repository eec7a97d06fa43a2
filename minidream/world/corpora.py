"""The world's words and scenes as training examples, of every kind that the stages mix. Taught in notebook 01.

Everything is drawn afresh for ever; nothing is stored. Training draws from `random.Random(f"train-{seed}")`, evaluation
from `random.Random(f"evaluation-{seed}")`, so the two never meet but by chance.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from minidream.documents import Document
from minidream.world.captions import caption
from minidream.world.draw import draw
from minidream.world.prompts import CATEGORIES, Constraint, creation_prompt
from minidream.world.questions import Question, questions
from minidream.world.scene import SIDE, Scene, random_scene
from minidream.world.stories import KINDS, edit, made_up_name, story

__all__ = [
    "CATEGORIES",
    "Constraint",
    "Example",
    "caption_pair",
    "creation_prompt",
    "interleaved",
    "mixture",
    "question_text",
    "render",
    "sample",
]

# What an interleaved document is, and how often.
INTERLEAVED = {"story": 0.35, "facts": 0.2, "edit": 0.2, "again": 0.1, "name": 0.15}


@dataclass(frozen=True)
class Example:
    """A document to learn from. `plan`: its texts, with a `Scene` where a picture stands. `kind`: one of `SAMPLERS`;
    `variant`: which sort of it (a story's kind, a question's type). `prompt_parts`: how many leading parts are given,
    or which, so that no loss falls on them."""

    plan: tuple[str | Scene, ...]
    kind: str
    variant: str = ""
    prompt_parts: int | frozenset[int] = 0

    @cached_property
    def document(self) -> Document:
        """The document with its scenes drawn."""
        return render(self.plan)

    @property
    def scenes(self) -> list[Scene]:
        """The truth of each picture, in order."""
        return [part for part in self.plan if isinstance(part, Scene)]


def render(plan: Iterable[str | Scene], side: int = SIDE) -> Document:
    """A plan as document: texts as they are, scenes as pictures `side` pixels wide and high."""
    return Document([draw(part, side) if isinstance(part, Scene) else part for part in plan])


def caption_pair(rng: random.Random, held_out: bool | None = False) -> tuple[Scene, str]:
    """A random scene and a caption that tells all of it."""
    scene = random_scene(rng, held_out=held_out)
    return scene, caption(scene, rng)


def question_text(question: str) -> str:
    """A question as the model reads it; the answer follows after a space."""
    return f"Question: {question} Answer:"


def _answered(question: Question) -> str:
    return f"{question_text(question.question)} {question.answer}"


def _text(rng: random.Random, held_out: bool | None) -> Example:
    """Words alone, pictures replaced by captions in brackets: what the language model learns to follow a state from."""
    variant = rng.choices(("caption", "questions", "told", "asked"), weights=(0.3, 0.25, 0.3, 0.15))[0]
    if variant == "caption":
        text = caption_pair(rng, held_out)[1]
    elif variant == "questions":
        scene, text = caption_pair(rng, held_out)
        text = " ".join([text, *(_answered(question) for question in questions(scene, rng)[: rng.randint(1, 3)])])
    elif variant == "told":
        make = rng.choice((story, story, edit, made_up_name))
        plan = make(rng, held_out, 3 if rng.random() < 0.3 else 2).document_plan if make is story else None
        plan = plan or make(rng, held_out).document_plan
        text = " ".join(f"({caption(part, rng)})" if isinstance(part, Scene) else part for part in plan)
    else:  # only the sentences: the state must be followed without being told it
        told = story(rng, held_out)
        texts = [part for part in told.document_plan if isinstance(part, str)]
        text = " ".join([*texts, _answered(rng.choice(questions(told.scenes[-1], rng)))])
    return Example((text,), "text", variant)


def _text_to_image(rng: random.Random, held_out: bool | None) -> Example:
    scene, text = caption_pair(rng, held_out)
    return Example((text, scene), "text_to_image")


def _image_to_text(rng: random.Random, held_out: bool | None) -> Example:
    scene, text = caption_pair(rng, held_out)
    return Example((scene, text), "image_to_text", prompt_parts=1)


def _qa(rng: random.Random, held_out: bool | None) -> Example:
    """One to four questions about a picture, each of another type; the answers alone are taught."""
    scene = random_scene(rng, held_out=held_out)
    asked = questions(scene, rng)[: rng.randint(1, 4)]
    plan: list[str | Scene] = [scene]
    for turn, each in enumerate(asked):
        plan += [" " * bool(turn) + question_text(each.question), f" {each.answer}"]
    return Example(tuple(plan), "qa", asked[0].type, frozenset((0, *range(1, len(plan), 2))))


def interleaved(rng: random.Random, held_out: bool | None = False, variant: str | None = None) -> Example:
    """A document of a kind of `INTERLEAVED`; drawn if not given."""
    chosen = variant or rng.choices(list(INTERLEAVED), weights=list(INTERLEAVED.values()))[0]
    told = KINDS[chosen](rng, held_out)
    return Example(tuple(told.document_plan), "interleaved", chosen, told.given)


SAMPLERS: dict[str, Callable[[random.Random, bool | None], Example]] = {
    "text": _text,
    "text_to_image": _text_to_image,
    "image_to_text": _image_to_text,
    "interleaved": interleaved,
    "qa": _qa,
}


def sample(kind: str, rng: random.Random, held_out: bool | None = False) -> Example:
    """A fresh example. `held_out`: False shows nothing that is held out, True shows it, None either.

    Raises ValueError for a kind that is none of `SAMPLERS`.
    """
    if kind not in SAMPLERS:
        raise ValueError(f"unknown kind {kind!r}: choose one of {', '.join(SAMPLERS)}")
    return SAMPLERS[kind](rng, held_out)


def mixture(weights: dict[str, float], seed: int, held_out: bool | None = False) -> Iterator[Example]:
    """Training examples without end, their kinds drawn by `weights`."""
    rng = random.Random(f"train-{seed}")
    while True:
        yield sample(rng.choices(list(weights), weights=list(weights.values()))[0], rng, held_out)
