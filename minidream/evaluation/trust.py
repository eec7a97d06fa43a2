"""When can it be believed? Its verdicts on its own pictures, best-of-n by them, its explanations, held to the truth.

The candidate judges by its own reading alone; only here the exact reader and the story generator judge the judge.
Taught in notebook 09.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image

from minidream.documents import Document
from minidream.evaluation.candidate import Candidate, dice, look, same
from minidream.evaluation.creation import trials
from minidream.evaluation.interleaved import follow, stories
from minidream.evaluation.statistics import Leaf, bootstrap, proportion
from minidream.explanation import Explanation
from minidream.verification import Verdict, differences, fittest
from minidream.world.captions import listed_caption
from minidream.world.corpora import render
from minidream.world.draw import draw
from minidream.world.scene import BACKGROUNDS, COLORS, SHAPES, SIZES, Scene
from minidream.world.stories import QUIET, Fact, Story, sources

OF = 4  # how many pictures best-of-n chooses among
LOOKED_AT = 0.1  # the share of pictures that a human checks, worst first
BINS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
Judged = tuple[Scene, Scene | None, Verdict]  # the truth, what the picture shows, and what the candidate thinks of it


def auroc(items: np.ndarray) -> float:
    """The chance that of a right and a wrong item the right one has the higher score; ties count half. `items` (n, 2):
    score, right. nan where all are right, or none."""
    scores, right = items[:, 0], items[:, 1].astype(bool)
    if right.all() or not right.any():
        return math.nan
    wrong = np.sort(scores[~right])
    below, up_to = (np.searchsorted(wrong, scores[right], side) for side in ("left", "right"))
    return float((below + up_to).mean() / 2 / len(wrong))


def found_by_looking(items: np.ndarray) -> float:
    """The share of the wrong items among the `LOOKED_AT` with the lowest scores; `items` as `auroc`'s. nan where
    there is none."""
    wrong = items[np.argsort(items[:, 0], kind="stable"), 1] == 0
    return float(wrong[: round(LOOKED_AT * len(wrong))].sum() / wrong.sum()) if wrong.any() else math.nan


def removed(items: np.ndarray) -> float:
    """The share of errors that are gone: `items` (n, 2) right before, right after, each 0 to 1. nan where there was
    none."""
    before, after = (1 - items).sum(0)
    return float(1 - after / before) if before else math.nan


def flag(judged: Sequence[Judged], documents: Sequence[int] | None = None) -> dict[str, Any]:
    """How good the verdicts are: `auroc` of the score for "shows exactly what was told"; the same where the exact
    reader can read the picture (it refuses blurred ones, which the eye forgives); errors `found_by_looking`; how often
    a score holds (`right_at_score`); and how often a wrong picture's differences are `named` as they are.

    `documents`: the number of the document that each picture is of, if several are of one.
    """
    items = np.array([(verdict.score, same(truth, shown)) for truth, shown, verdict in judged])
    numbers = np.arange(len(judged)) if documents is None else np.asarray(documents)
    read = np.array([shown is not None for _, shown, _ in judged])
    named = [
        (verdict.differences == differences(listed_caption(truth), listed_caption(shown)), number)
        for (truth, shown, verdict), number in zip(judged, numbers.tolist())
        if shown is not None and not same(truth, shown)
    ]
    bins: dict[str, Leaf | None] = {}
    for low, high in pairwise(BINS):
        inside = (items[:, 0] >= low) & ((items[:, 0] < high) | (high == 1))
        bins[f"{low:.1f}-{high:.1f}"] = _proportion(items[inside, 1], numbers[inside])
    return {
        "auroc": _bootstrap(items, auroc, numbers),
        "auroc_readable": _bootstrap(items[read], auroc, numbers[read]),
        "found_by_looking": _bootstrap(items, found_by_looking, numbers),
        "named": _proportion(*np.array(named).T) if named else None,
        "right_at_score": bins,
    }


def _proportion(passed: np.ndarray, documents: np.ndarray) -> Leaf | None:
    """None of nothing."""
    return proportion(passed.tolist(), documents.tolist()) if len(passed) else None


def _bootstrap(items: np.ndarray, statistic: Any, documents: np.ndarray) -> Leaf | None:
    """None where there is nothing to tell apart."""
    return bootstrap(items, statistic, groups=documents.tolist()) if 0 < items[:, 1].sum() < len(items) else None


def captions(candidate: Candidate, n: int, seed: int) -> dict[str, Any]:
    """Pictures of `n` prompts a category, `OF` of each: `{"captions": flag, first, best_of_4, errors_removed}`; the
    last three by the category's own constraint, as in `creation`, and against the mean of all tries, not one of them
    alone."""
    asked = trials(n, seed, held_out=False)
    prompts = [Document([prompt]) for prompt, _ in asked]
    noise = dice(seed, "trust", "captions", "noise")
    drawn = [candidate.draw([prompt for prompt, _ in asked], noise.randrange(2**31)) for _ in range(OF)]
    verdicts, best = choose(candidate, prompts, [1] * len(prompts), drawn)
    shown = list(zip(*map(look, drawn)))  # of each prompt, as its verdicts
    judged = [
        (constraint.scene, scene, verdict)
        for (_, constraint), scenes, some in zip(asked, shown, verdicts)
        for scene, verdict in zip(scenes, some)
    ]
    before = [sum(map(constraint.satisfied, some)) / OF for (_, constraint), some in zip(asked, shown)]
    after = [constraint.satisfied(scene) for (_, constraint), scene in zip(asked, look(best))]
    return {"captions": flag(judged, np.arange(len(asked)).repeat(OF).tolist()) | _gain(before, after)}


def choose(
    candidate: Candidate, before: list[Document], given: list[int], drawn: list[list[Image.Image]]
) -> tuple[list[list[Verdict]], list[Image.Image]]:
    """Of each document's next pictures (one in each list of `drawn`): the verdicts, and the fittest."""
    documents = [Document([*document, picture]) for some in drawn for document, picture in zip(before, some)]
    found = candidate.verify(documents, given * len(drawn))
    verdicts = [found[start :: len(before)] for start in range(len(before))]
    tries = [list(some) for some in zip(*drawn)]  # of each document
    scores = [[verdict.score for verdict in judged] for judged in verdicts]
    return verdicts, fittest(tries, scores, candidate.consensus(tries))


class _Follower:
    """A candidate that draws what comes next in documents, judges it, and may choose among `OF`."""

    def __init__(self, candidate: Candidate, of: int) -> None:
        self.candidate, self.of = candidate, of
        self.verdicts: list[Verdict] = []

    def draw_next(self, documents: list[Document], given: list[int], seed: int) -> list[Image.Image]:
        noise = random.Random(seed)
        seeds = [seed, *(noise.randrange(2**31) for _ in range(self.of - 1))]
        drawn = [self.candidate.draw_next(documents, given, each) for each in seeds]
        verdicts, best = choose(self.candidate, documents, given, drawn)
        self.verdicts += [some[0] for some in verdicts]
        return best


def documents(candidate: Candidate, n: int, seed: int) -> dict[str, Any]:
    """Stories, from the candidate's own pictures: `{"stories": flag, first, best_of_4, errors_removed}`; the flag by
    picture, the last three by whole story, best-of-4 choosing at every picture."""
    told = stories("story", n, seed)
    alone, chooser = _Follower(candidate, 1), _Follower(candidate, OF)
    first, best = (follow(follower, told, seed) for follower in (alone, chooser))  # type: ignore[arg-type]
    # `follow` draws the first picture of every story, then the second of those that have one ...
    order = [(turn, i) for turn in range(max(map(len, first))) for i in range(n) if turn < len(first[i])]
    judged = [(*first[i][turn], verdict) for (turn, i), verdict in zip(order, alone.verdicts, strict=True)]
    before, after = ([all(same(*pair) for pair in drawn) for drawn in some] for some in (first, best))
    return {"stories": flag(judged, [i for _, i in order]) | _gain(before, after)}


def _gain(before: Sequence[float], after: Sequence[bool]) -> dict[str, Leaf | None]:
    """What choosing brings, by how far each document was right without it, 0 to 1, and whether it was with it: the
    shares right of the first try and of the best, and the share of errors that are gone (None where there was none)."""
    pairs = np.array([before, after], dtype=float).T
    return {
        "first": bootstrap(pairs[:, 0]),
        f"best_of_{OF}": proportion(after),
        "errors_removed": None if pairs[:, 0].min() == 1 else bootstrap(pairs, removed),
    }


_BY = {"agreement": "alone", "left_out": "left_out", "gradient": "gradients"}  # figure: field


def explanations(candidate: Candidate, n: int, seed: int) -> dict[str, Any]:
    """Do explanations name what the story generator knows to be the reason?

    For every fact of every picture but the first of `n` true stories: why this picture, rather than one in which that
    fact alone is otherwise? `agreement`: how often the piece that brings most alone is a source of the fact (see
    `sources`): overall, by fact, for facts that the last sentence `changed`, which have it as their only source, and
    for those `kept`, which a text said and pictures show: there each source alone can be left out without loss.
    `left_out`: the same of what is lost where a piece is left out; `gradient`: of gradient x input; `chance`: of a
    piece drawn at random. Intervals are over stories.
    """
    rng = dice(seed, "trust", "explanations")
    names = ("overall", "changed", "kept", "color", "shape", "size", "place", "background")
    # For each fact: whether the largest by each of `_BY` is a source, the chance of one, and the story.
    agreed: dict[str, list[tuple[float, ...]]] = {name: [] for name in names}
    for story, told in enumerate(stories("story", n, seed)):
        document = render(told.document_plan)
        for number, (index, facts) in list(enumerate(sources(told).items()))[1:]:
            scene = told.document_plan[index]
            assert isinstance(scene, Scene)
            others = {fact: other for fact in facts if (other := otherwise(scene, fact, rng)) is not None}
            found = candidate.explain(document, number, [draw(other) for other in others.values()])
            for fact, explanation in zip(others, found):
                reasons = _reasons(told, explanation, fact, facts[fact])
                if all(reasons):
                    continue  # nothing that could be named wrongly
                largest = (reasons[int(np.argmax(getattr(explanation, by)))] for by in _BY.values())
                item = (*largest, sum(reasons) / len(reasons), story)
                for name in ("overall", fact[1], "changed" if facts[fact] == {index - 1} else "kept"):
                    agreed[name].append(item)

    def share(column: int) -> dict[str, Leaf | None]:
        found: dict[str, Leaf | None] = {}
        for name, items in agreed.items():
            values, numbers = (np.array([item[at] for item in items]) for at in (column, -1))
            found[name] = bootstrap(values, groups=numbers.tolist()) if items else None
        return found

    return {"explanations": {name: share(column) for column, name in enumerate((*_BY, "chance"))}}


def otherwise(scene: Scene, fact: Fact, rng: random.Random) -> Scene | None:
    """The scene with one fact changed; None for the place of a thing where all places are taken."""
    place, what = fact
    if what == "background":
        return replace(scene, background=rng.choice([other for other in BACKGROUNDS if other != scene.background]))
    values = {"color": list(COLORS), "shape": list(SHAPES), "size": list(SIZES), "place": scene.empty_places()}[what]
    (thing,) = (thing for thing in scene.things if thing.place == place)
    values = [value for value in values if value != getattr(thing, what)]
    if not values:
        return None
    changed = replace(thing, **{what: rng.choice(values)})  # type: ignore[arg-type]
    return replace(scene, things=(*(other for other in scene.things if other != thing), changed))


def _reasons(told: Story, explanation: Explanation, fact: Fact, parts: frozenset[int]) -> list[bool]:
    """Which pieces of an explanation are a fact's sources. Of a text's sentences, the quiet ones are none; and where
    the background has a sentence to itself, that is its source, and the other is the things'."""
    reasons = []
    for piece, part in zip(explanation.pieces, explanation.parts):
        reason = part in parts
        if reason and isinstance(piece, str):
            siblings = [p for p, at in zip(explanation.pieces, explanation.parts) if at == part and not _quiet(p)]
            shared = len(siblings) == 1 or ("background" in piece.lower()) == (fact[1] == "background")
            reason = not _quiet(piece) and shared
        reasons.append(reason)
    return reasons


def _quiet(piece: Any) -> bool:
    return isinstance(piece, str) and piece.strip() in QUIET
