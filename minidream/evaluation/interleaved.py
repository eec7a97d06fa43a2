"""Does it follow a document? Pictures in their places, right by all that came before them.

A story is fed sentence by sentence; at each picture's place the candidate draws, and goes on from its *own* earlier
pictures. So a fault early in a story stays with it. Taught in notebook 09.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minidream.documents import Document
from minidream.evaluation.candidate import Candidate, dice, look
from minidream.evaluation.statistics import proportion
from minidream.world.corpora import render
from minidream.world.scene import Scene
from minidream.world.tell import KINDS, Story

PARTS = {"seen": False, "held_out": True}


def stories(kind: str, n: int, seed: int, part: str = "seen") -> list[Story]:
    """`n` fresh stories of a kind: "story", "facts", "edit" or "name"."""
    rng = dice(seed, "interleaved", part, kind)
    return [KINDS[kind](rng, PARTS[part]) for _ in range(n)]


def follow(candidate: Candidate, told: list[Story], seed: int) -> list[list[tuple[Scene, Scene | None]]]:
    """For each story, (truth, what the candidate's picture shows) for every picture that it had to draw."""
    documents = [Document() for _ in told]
    places = [0] * len(told)  # how many parts of each story are in its document
    results: list[list[tuple[Scene, Scene | None]]] = [[] for _ in told]
    noise = dice(seed, "interleaved", "noise")
    while True:
        waiting = []
        for i, story in enumerate(told):
            plan = story.document_plan
            while places[i] < len(plan) and (isinstance(plan[places[i]], str) or places[i] < story.given):
                documents[i] = documents[i] + render(plan[places[i] : places[i] + 1])
                places[i] += 1
            if places[i] < len(plan):
                waiting.append(i)
        if not waiting:
            return results
        pictures = candidate.draw_next(
            [documents[i] for i in waiting], [told[i].given for i in waiting], noise.randrange(2**31)
        )
        for i, picture, shown in zip(waiting, pictures, look(pictures), strict=True):
            truth = told[i].document_plan[places[i]]
            assert isinstance(truth, Scene)
            results[i].append((truth, shown))
            documents[i] = documents[i] + Document([picture])
            places[i] += 1


def same(truth: Scene, shown: Scene | None) -> bool:
    """Whether a picture shows all facts of the truth and nothing else."""
    return shown is not None and shown.facts() == truth.facts()


def kept(truth: Scene, shown: Scene | None) -> bool:
    """Whether a picture keeps what no text told: the background, and the size of the thing in each place."""
    if shown is None:
        return False
    sizes, truly = ({thing.place: thing.size for thing in scene.things} for scene in (shown, truth))
    return shown.background == truth.background and sizes == truly


def placement(candidate: Candidate, n: int, seed: int) -> dict[str, Any]:
    """The share of true stories in which the candidate, after each word, would begin a picture where one stands and
    nowhere else."""
    return _by_part("placement", lambda part: _placed(candidate, stories("story", n, seed, part)))


def _placed(candidate: Candidate, told: list[Story]) -> list[bool]:
    return candidate.places_dreams([render(story.document_plan) for story in told], [story.given for story in told])


def _followed(
    name: str, kind: str, right: Callable[[Scene, Scene | None], bool]
) -> Callable[[Candidate, int, int], dict[str, Any]]:
    """An examination: the share of documents of a kind in which *every* picture is right."""

    def examine(candidate: Candidate, n: int, seed: int) -> dict[str, Any]:
        def passed(part: str) -> list[bool]:
            followed = follow(candidate, stories(kind, n, seed, part), seed)
            return [all(right(truth, shown) for truth, shown in drawn) for drawn in followed]

        return _by_part(name, passed)

    return examine


def _by_part(name: str, passed: Callable[[str], list[bool]]) -> dict[str, Any]:
    """The figure on what training shows, and under `held_out` that on what it never shows."""
    return {name: proportion(passed("seen")), "held_out": {name: proportion(passed("held_out"))}}


pictures = _followed("pictures", "story", same)
picture_only_facts = _followed("picture_only_facts", "facts", kept)
edits = _followed("edits", "edit", same)
made_up_names = _followed("made_up_names", "name", same)
