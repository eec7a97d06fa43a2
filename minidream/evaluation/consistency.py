"""Does it write what makes sense? Whole documents of the candidate's own, after the first sentence of a story.

The sentence says what there is; from then on the world decides (`world.follow`): a sentence must be one that can be
told of what is there, and a picture must show what there is after it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from minidream.documents import Document
from minidream.evaluation.candidate import Candidate, dice, look, same
from minidream.evaluation.interleaved import by_part, stories
from minidream.evaluation.statistics import Leaf, proportion
from minidream.world.follow import outcome
from minidream.world.scene import Scene, Thing
from minidream.world.tell import Story


class Judged(NamedTuple):
    """Whether each sentence of a document makes sense, and each picture is right, as far as the first sentence that
    does not, after which nothing is true or false; and whether the document is `whole`: it tells a story, at least two
    pictures long, of which all is right."""

    sentences: list[bool]
    pictures: list[bool]
    whole: bool


def judge(scene: Scene, written: Document) -> Judged:
    """What a candidate wrote after a sentence that tells the `scene`."""
    state, last, parts = scene.facts(), None, written.parts
    sentences: list[bool] = []
    pictures: list[bool] = []
    shown = iter(look(written.pictures))
    for part in parts:
        if not isinstance(part, str):
            pictures.append(same(state, next(shown)))
            continue
        made: tuple[Scene, Thing | None] | None = outcome(state, part, last)
        sentences.append(made is not None)
        if made is None:
            break
        state, last = made
    ended = bool(parts) and not isinstance(parts[-1], str)
    return Judged(sentences, pictures, ended and len(pictures) > 1 and all(sentences) and all(pictures))


def consistency(candidate: Candidate, n: int, seed: int) -> dict[str, Any]:
    """Of `n` documents that the candidate wrote, the shares of which all `sentences` make sense, of which all
    `pictures` are right, and of which the whole `documents` are; drawn at once, and, under `thinking`, after thoughts.
    Under `held_out` the same of stories that begin with what training holds out.
    """
    return by_part("consistency", lambda part: _consistent(candidate, n, seed, part))


def _consistent(candidate: Candidate, n: int, seed: int, part: str) -> dict[str, Any]:
    told = stories("story", n, seed, part)
    noise = dice(seed, "interleaved", "consistency").randrange(2**31)
    at_once, thinking = (_written(candidate, told, noise, think) for think in (False, True))
    return {**at_once, "thinking": thinking}


def _written(candidate: Candidate, told: list[Story], seed: int, think: bool) -> dict[str, Leaf]:
    written = candidate.write([str(story.document_plan[0]) for story in told], seed, think)
    judged = [judge(story.scenes[0], document) for story, document in zip(told, written, strict=True)]
    return {
        "sentences": proportion([bool(each.sentences) and all(each.sentences) for each in judged]),
        "pictures": proportion([bool(each.pictures) and all(each.pictures) for each in judged]),
        "documents": proportion([each.whole for each in judged]),
    }
