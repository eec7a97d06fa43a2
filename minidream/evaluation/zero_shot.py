"""Two tasks that it was not trained on, each beside the trained task nearest to it.

    story_questions   questions about the last picture of a whole story; trained: about a picture alone, words alone, or
                      in a dialogue
    silent_stories    the last picture of a story whose other pictures are left out; trained: with all of them shown

Held-out compositions, the other meaning of zero-shot, stand in each of the other parts. Taught in notebook 09.
"""

from __future__ import annotations

from typing import Any

from minidream.documents import Document
from minidream.evaluation.candidate import Candidate, dice, look, same
from minidream.evaluation.comprehension import plain
from minidream.evaluation.interleaved import stories
from minidream.evaluation.statistics import proportion
from minidream.world.corpora import render
from minidream.world.scene import Scene
from minidream.world.tell import QUESTION_TYPES, ask


def story_questions(candidate: Candidate, n: int, seed: int) -> dict[str, Any]:
    """The share of right answers `after_story`, and about the same pictures `alone`."""
    rng, types = dice(seed, "zero-shot", "questions"), list(QUESTION_TYPES)
    told = stories("story", n, seed)
    documents, scenes = [render(story.document_plan) for story in told], [story.scenes[-1] for story in told]
    asked = [ask(scene, types[number % len(types)], rng) for number, scene in enumerate(scenes)]
    found = {}
    for name, shown in (("after_story", documents), ("alone", [document.pictures[-1] for document in documents])):
        said = candidate.ask(shown, [question.question for question in asked])
        found[name] = proportion([plain(text) == question.answer for text, question in zip(said, asked)])
    return {"story_questions": found}


def silent_stories(candidate: Candidate, n: int, seed: int) -> dict[str, Any]:
    """The share of last pictures that are right after the `words_alone`, and `with_pictures`, the true ones."""
    told = stories("story", n, seed)
    noise = dice(seed, "zero-shot", "noise").randrange(2**31)
    before = [render(story.document_plan[:-1]) for story in told]
    silent = [Document([" ".join(document.texts)]) for document in before]
    found = {}
    for name, documents in (("words_alone", silent), ("with_pictures", before)):
        shown = look(candidate.draw_next(documents, [0] * n, noise))
        truths = [part for story in told if isinstance(part := story.document_plan[-1], Scene)]
        found[name] = proportion([same(truth, scene) for truth, scene in zip(truths, shown, strict=True)])
    return {"silent_stories": found}
