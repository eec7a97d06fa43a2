"""The world's words and scenes as training examples, of every kind that the stages mix. Taught in notebook 01.

Everything is drawn afresh for ever; nothing is stored. Training draws from `random.Random("train-...")`, evaluation
from `random.Random("evaluation-...")`, so the two never meet but by chance.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial

from minidream.documents import Document
from minidream.world.captions import caption, listed_caption
from minidream.world.changes import change
from minidream.world.draw import draw
from minidream.world.questions import ask, few_shot
from minidream.world.scene import SIDE, Scene, is_held_out, random_scene
from minidream.world.stories import KINDS, Story, edit
from minidream.world.words import sentence

__all__ = [
    "Example",
    "caption_pair",
    "dialogue",
    "in_context",
    "interleaved",
    "question_text",
    "render",
    "sample",
    "samples",
]

# What an interleaved document is, and how often.
INTERLEAVED = {"story": 0.35, "facts": 0.2, "edit": 0.2, "again": 0.1, "name": 0.15}
# What stage III adds to them, and how often.
IN_CONTEXT = {"continued": 0.3, "subject": 0.2, "composition": 0.2, "few_shot": 0.3}
MOST_SHOTS = 4
# How often a question is of each type: most often of those that take longest to learn.
ASKED = dict(existence=4, comparison=3, relation=3, count=3, color=1, shape=1, size=1, background=0.5)
MOST_QUESTIONS = 10  # about one scene
OPENING, CLOSING = " (", ")"  # around a picture told in words
LISTED = 0.75  # how often a scene that is to be told is told by its listed caption


@dataclass(frozen=True)
class Example:
    """A document to learn from. `plan`: its texts, with a `Scene` where a picture stands. `kind`: one of `SAMPLERS`;
    `variant`: which sort of it (a story's kind, the first question's type). `prompt_parts`: how many leading parts are
    given, or which, so that no loss falls on them."""

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


def _any_of(weights: dict[str, float], rng: random.Random) -> str:
    return rng.choices(list(weights), weights=list(weights.values()))[0]


def caption_pair(rng: random.Random, held_out: bool | None = False) -> tuple[Scene, str]:
    """A random scene and a caption that tells all of it."""
    scene = random_scene(rng, held_out=held_out)
    return scene, caption(scene, rng)


def question_text(question: str) -> str:
    """A question as the model reads it; the answer follows after a space."""
    return f"Question: {question} Answer:"


def _and_questions(
    plan: Iterable[str | Scene], scene: Scene, rng: random.Random, kind: str, variant: str = ""
) -> Example:
    """A plan, and up to `MOST_QUESTIONS` different questions on the scene; the answers alone are taught."""
    parts, answers = list(plan), set()
    types = [_any_of(ASKED, rng) for _ in range(rng.randint(1, MOST_QUESTIONS))]
    asked = list({made.question: made for made in (ask(scene, kind, rng) for kind in types)}.values())
    for question in asked:
        space = " " if isinstance(parts[-1], str) else ""
        parts += [space + question_text(question.question), f" {question.answer}"]
        answers.add(len(parts) - 1)
    return Example(tuple(parts), kind, variant or asked[0].type, frozenset(range(len(parts))) - answers)


def _caption(scene: Scene, rng: random.Random) -> str:
    """Mostly the listed caption: where the words leave no choice, all that can be learned is the scene."""
    return listed_caption(scene) if rng.random() < LISTED else caption(scene, rng)


def _told(
    story: Story, rng: random.Random, silent: bool = False, say: Callable[[Scene, random.Random], str] = _caption
) -> tuple[list[str], list[bool]]:
    """A story in words alone, each picture told in brackets (not at all if `silent`); and which words those are."""
    parts = [part for part in story.document_plan if isinstance(part, str) or not silent]
    words = [part if isinstance(part, str) else f"({say(part, rng)})" for part in parts]
    return [" " * (index > 0) + text for index, text in enumerate(words)], [isinstance(p, Scene) for p in parts]


def _text(
    rng: random.Random, held_out: bool | None, say: Callable[[Scene, random.Random], str] = _caption, kind: str = "text"
) -> Example:
    """Words alone: a caption, or a story."""
    if rng.random() < 0.2:
        return Example((caption_pair(rng, held_out)[1],), kind, "caption")
    story = KINDS[_any_of(INTERLEAVED, rng)](rng, held_out)
    return Example(tuple(_told(story, rng, say=say)[0]), kind, "told", story.given)


def _text_states(rng: random.Random, held_out: bool | None) -> Example:
    """Words alone: a story of which only the captions are taught, so that the state is what is learned. The
    brackets before them are given: else the model would learn to tell where it should draw."""
    story = KINDS[_any_of(INTERLEAVED, rng)](rng, held_out)
    parts: list[str] = []
    taught: set[int] = set()
    for index, (text, is_caption) in enumerate(zip(*_told(story, rng), strict=True)):
        if not is_caption:
            parts.append(text)
            continue
        space, told = text.split("(", 1)
        parts += [f"{space}(", told]
        if index >= story.given:
            taught.add(len(parts) - 1)
    return Example(tuple(parts), "text_states", story.kind, frozenset(range(len(parts))) - taught)


def _seen_states(rng: random.Random, held_out: bool | None) -> Example:
    """A story in which the model thinks from one of its own pictures on: before each it tells in a bracket, which is
    given, what it is about to draw. What comes earlier is given."""
    while True:
        story = KINDS[_any_of(INTERLEAVED, rng)](rng, held_out)
        own = [i for i, part in enumerate(story.document_plan) if isinstance(part, Scene) and i >= story.given]
        first = own[0] if rng.random() < 0.5 else rng.choice(own)
        if not held_out or any(is_held_out(part) for part in story.document_plan[first:] if isinstance(part, Scene)):
            break
    parts = list(story.document_plan[:first])
    given = set(range(len(parts)))
    for part in story.document_plan[first:]:
        if isinstance(part, Scene):
            given.add(len(parts))
            parts += [OPENING, _caption(part, rng) + CLOSING]
        parts.append(part)
    return Example(tuple(parts), "seen_states", story.kind, frozenset(given))


def _text_qa(rng: random.Random, held_out: bool | None) -> Example:
    """Words alone: questions about a caption, or about how a story ends."""
    if rng.random() < 0.6:
        scene, text = caption_pair(rng, held_out)
        return _and_questions([text], scene, rng, "text_qa", "caption")
    story = KINDS[_any_of(INTERLEAVED, rng)](rng, held_out)
    # Now and then the sentences alone: the state must be followed without being told it.
    silent = story.kind == "story" and rng.random() < 0.5
    return _and_questions(_told(story, rng, silent)[0], story.scenes[-1], rng, "text_qa", "told")


def _text_to_image(rng: random.Random, held_out: bool | None) -> Example:
    scene, text = caption_pair(rng, held_out)
    return Example((text, scene), "text_to_image")


def _single_object(rng: random.Random, held_out: bool | None) -> Example:
    scene = random_scene(rng, 1, held_out)
    return Example((caption(scene, rng), scene), "single_object")


def _image_to_text(
    rng: random.Random, held_out: bool | None, things: int | None = None, kind: str = "image_to_text"
) -> Example:
    scene = random_scene(rng, things, held_out)
    return Example((scene, _caption(scene, rng)), kind, prompt_parts=1)


def _qa(rng: random.Random, held_out: bool | None, things: int | None = None, kind: str = "qa") -> Example:
    """Questions about a picture."""
    scene = random_scene(rng, things, held_out)
    return _and_questions([scene], scene, rng, kind)


def _single_edit(rng: random.Random, held_out: bool | None) -> Example:
    told = edit(rng, held_out, things=1)
    return Example(tuple(told.document_plan), "single_edit", told.kind, told.given)


def interleaved(rng: random.Random, held_out: bool | None = False, variant: str | None = None) -> Example:
    """A document of a kind of `INTERLEAVED`; drawn if not given."""
    chosen = variant or _any_of(INTERLEAVED, rng)
    told = KINDS[chosen](rng, held_out)
    return Example(tuple(told.document_plan), "interleaved", chosen, told.given)


def in_context(rng: random.Random, held_out: bool | None = False, variant: str | None = None) -> Example:
    """A document of a kind of `IN_CONTEXT`, whose task only its beginning tells; drawn if not given."""
    chosen = variant or _any_of(IN_CONTEXT, rng)
    if chosen != "few_shot":
        told = KINDS[chosen](rng, held_out)
        return Example(tuple(told.document_plan), "in_context", chosen, told.given)
    plan: list[str | Scene] = []
    for scene, question in few_shot(rng, MOST_SHOTS, held_out):
        plan += [scene, question_text(question.question), f" {question.answer}"]
    # Before the first answer nothing can be known; each later one is taught after one shot more.
    return Example(tuple(plan), "in_context", chosen, frozenset(set(range(len(plan))) - set(range(5, len(plan), 3))))


def dialogue(rng: random.Random, held_out: bool | None = False) -> Example:
    """Two to five turns about one picture, which the user shows or has drawn: questions on it, and orders that change
    it, one upon the other; now and then another picture. What the assistant says and draws is taught."""
    while True:
        said = _turns(rng, None if held_out else held_out)
        drawn = [part for users, part in said if isinstance(part, Scene) and not users]
        if not held_out or any(map(is_held_out, drawn)):
            break
    plain = [part for _, part in said]
    parts = [
        f" {part}" if isinstance(before, str) and isinstance(part, str) else part
        for before, part in zip([None, *plain], plain)
    ]
    given = frozenset(index for index, (users, _) in enumerate(said) if users)
    return Example(tuple(parts), "dialogue", "shown" if isinstance(parts[0], Scene) else "drawn", given)


def _turns(rng: random.Random, held_out: bool | None) -> list[tuple[bool, str | Scene]]:
    """A dialogue as (whether it is the user's, part)."""
    said: list[tuple[bool, str | Scene]] = []
    scene = last = None
    for _ in range(rng.randint(2, 5)):
        if scene is None or rng.random() < 0.15:
            scene, last = random_scene(rng, held_out=held_out), None
            if rng.random() < 0.5:
                said += [(True, sentence(f"draw {caption(scene, rng, 1)}")), (False, scene)]
                continue
            said.append((True, scene))
            if rng.random() < 0.2:
                said.append((False, _caption(scene, rng)))
                continue
        if rng.random() < 0.5:
            question = ask(scene, _any_of(ASKED, rng), rng)
            said += [(True, question_text(question.question)), (False, question.answer)]
        else:
            made = change(scene, rng, held_out, last=last)
            scene, last = made.scene, made.subject
            said += [(True, sentence(made.asked)), (False, scene)]
    return said


SAMPLERS: dict[str, Callable[[random.Random, bool | None], Example]] = {
    "text": _text,
    # What `evaluate` asks of language: as a reader would write it, not in the list that the model tells itself.
    "plain_text": partial(_text, say=caption, kind="plain_text"),
    "text_states": _text_states,
    "text_qa": _text_qa,
    "seen_states": _seen_states,
    "text_to_image": _text_to_image,
    "image_to_text": _image_to_text,
    "interleaved": interleaved,
    "qa": _qa,
    "dialogue": dialogue,
    "in_context": in_context,
    # Pictures of one thing, for the short runs of `minidream ablate`: captions to draw, to write; questions; edits.
    "single_object": _single_object,
    "single_caption": partial(_image_to_text, things=1, kind="single_caption"),
    "single_qa": partial(_qa, things=1, kind="single_qa"),
    "single_edit": _single_edit,
}


def sample(kind: str, rng: random.Random, held_out: bool | None = False) -> Example:
    """A fresh example. `held_out`: False shows nothing that is held out, True shows it, None either.

    Raises ValueError for a kind that is none of `SAMPLERS`.
    """
    if kind not in SAMPLERS:
        raise ValueError(f"unknown kind {kind!r}: choose one of {', '.join(SAMPLERS)}")
    return SAMPLERS[kind](rng, held_out)


def samples(shares: dict[str, float], count: int, rng: random.Random) -> dict[str, list[Example]]:
    """About `count` examples by kind, at least one of each. Their numbers are fixed: kinds differ several times in what
    they cost, and processes that train together would wait long for one another."""
    return {kind: [sample(kind, rng) for _ in range(max(1, round(share * count)))] for kind, share in shares.items()}
