"""Does it see what is there? Captions by exact scene, questions by type, and hallucinated things (POPE).

The exact reader is not needed here: the scene behind each picture is known. Taught in notebook 09.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from typing import Any

import numpy as np
from PIL import Image

from minidream.evaluation.candidate import HALVES, Candidate, dice
from minidream.evaluation.statistics import Leaf, bootstrap, f1, proportion
from minidream.world.draw import draw_batch
from minidream.world.scene import COLORS, HELD_OUT_PAIRS, SHAPES, Scene, random_scene
from minidream.world.tell import QUESTION_TYPES, Question, ask, understand
from minidream.world.words import a as an

POPE = ("random", "popular", "adversarial")


def pictures_of(scenes: list[Scene]) -> list[Image.Image]:
    """The scenes, drawn."""
    return [Image.fromarray(pixels) for pixels in draw_batch(scenes)]


def parse_caption(text: str) -> Scene | None:
    """The scene that a caption tells, strictly: None too where a colour or shape is named that is no whole thing."""
    scene = understand(text)
    if scene is None:
        return None
    named = len(re.findall(rf"\b(?:{'|'.join((*COLORS, *SHAPES))})s?\b", text.lower()))
    return scene if named == 2 * len(scene.things) else None


def scenes_for(n: int, seed: int, part: str, *names: str) -> tuple[list[Scene], random.Random]:
    """`n` fresh scenes of a part ("seen", "held_out"), and the dice to go on with."""
    rng = dice(seed, "comprehension", part, *names)
    return [random_scene(rng, held_out=HALVES[part]) for _ in range(n)], rng


def caption(candidate: Candidate, n: int, seed: int) -> dict[str, Any]:
    """The share of pictures whose caption tells exactly their scene: every thing, fact and place, nothing else."""
    shares = {}
    for part in HALVES:
        scenes, _ = scenes_for(n, seed, part, "caption")
        told = candidate.caption(pictures_of(scenes))
        shares[part] = proportion([parse_caption(text) == scene.facts() for text, scene in zip(told, scenes)])
    return {"caption": shares}


def questions(kind: str, n: int, seed: int, part: str) -> list[tuple[Scene, Question]]:
    """`n` questions of one type, each about a scene of its own."""
    scenes, rng = scenes_for(n, seed, part, "vqa", kind)
    return [(scene, ask(scene, kind, rng)) for scene in scenes]


def vqa(candidate: Candidate, n: int, seed: int) -> dict[str, Any]:
    """The share of right answers by type of question, and `overall`."""
    shares: dict[str, dict[str, Leaf]] = {}
    for part in HALVES:
        right = {kind: answered(candidate, questions(kind, n, seed, part)) for kind in QUESTION_TYPES}
        shares[part] = {kind: proportion(passed) for kind, passed in right.items()}
        shares[part]["overall"] = proportion([passed for some in right.values() for passed in some])
    return {"vqa": shares}


def answered(candidate: Candidate, asked: list[tuple[Scene, Question]]) -> list[bool]:
    """Whether the candidate answers each question as the scene behind its picture would have it."""
    said = candidate.ask(pictures_of([scene for scene, _ in asked]), [question.question for _, question in asked])
    return [plain(text) == question.answer for text, (_, question) in zip(said, asked, strict=True)]


def plain(answer: str) -> str:
    """An answer without case, full stop and space around it."""
    return answer.strip().rstrip(".").strip().lower()


def probes(kind: str, n: int, seed: int, part: str = "seen") -> list[tuple[Scene, str, bool]]:
    """`n` scenes with a question "is there a COLOUR SHAPE?" and its answer, yes and no in turn.

    What is asked for and not there: any pair ("random"), the pair that the other pictures show most often ("popular"),
    or one that shares colour or shape with something shown, both if possible ("adversarial"). A pair that training
    holds out is asked for only in the part "held_out", whose scenes have such a pair or relation.
    """
    scenes, rng = scenes_for(n, seed, part, "pope", kind)
    often = Counter(pair for scene in scenes for pair in {(thing.color, thing.shape) for thing in scene.things})
    made = []
    for index, scene in enumerate(scenes):
        shown = sorted({(thing.color, thing.shape) for thing in scene.things})
        pair = rng.choice(shown)
        if index % 2:
            pairs = [(color, shape) for color in COLORS for shape in SHAPES]
            absent = [other for other in pairs if other not in shown and (HALVES[part] or other not in HELD_OUT_PAIRS)]
            colors, shapes = {color for color, _ in shown}, {shape for _, shape in shown}
            near = {pair: (pair[0] in colors) + (pair[1] in shapes) for pair in absent}
            key = {"random": lambda pair: 0, "popular": often.__getitem__, "adversarial": near.__getitem__}[kind]
            best = max(map(key, absent))
            pair = rng.choice([other for other in absent if key(other) == best])
        words = an("{} {}".format(*pair))
        made.append((scene, rng.choice((f"Is there {words}?", f"Do you see {words}?")), not index % 2))
    return made


def pope(candidate: Candidate, n: int, seed: int) -> dict[str, Any]:
    """F1 of "yes" for each way of choosing what is not there, and under `held_out` on scenes of that half; whatever is
    not "yes" counts as "no", as in POPE."""
    familiar, unseen = ({kind: _existence(candidate, probes(kind, n, seed, part)) for kind in POPE} for part in HALVES)
    return {"pope": {**familiar, "held_out": unseen}}


def _existence(candidate: Candidate, asked: list[tuple[Scene, str, bool]]) -> Leaf:
    said = candidate.ask(pictures_of([scene for scene, _, _ in asked]), [question for _, question, _ in asked])
    return bootstrap(np.array([(truth, plain(text) == "yes") for text, (_, _, truth) in zip(said, asked)]), f1)
