"""Notebook 09: models that fool a metric, families of pictures that differ in one thing, and the exercises."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from minidream.documents import Document
from minidream.evaluation import creation
from minidream.evaluation.candidate import dice
from minidream.evaluation.comprehension import parse_caption
from minidream.evaluation.creation import ClipFeatures, Trial
from minidream.evaluation.robustness import UNITS, noise
from minidream.evaluation.statistics import Leaf
from minidream.pipeline import MiniDreamPipeline
from minidream.teaching import Exercise, Mistake
from minidream.weights import find_weights
from minidream.world.captions import plain_caption
from minidream.world.corpora import render
from minidream.world.scene import HELD_OUT_PAIRS, PLACES, Scene, Thing, random_scene, random_thing
from minidream.world.tell import KINDS
from minidream.world.words import join, name, sentence

GRAIN = 20  # levels of 255: to be seen, and still read without fail
TASKS = {"caption": "captions", "vqa": "questions"}
NUMBERS = ("one", "two", "three", "four")
_ACROSS = {place: place.replace("left", "?").replace("right", "left").replace("?", "right") for place in PLACES}


def mirrored(scene: Scene) -> Scene:
    """The scene with left and right exchanged."""
    return replace(scene, things=tuple(replace(thing, place=_ACROSS[thing.place]) for thing in scene.things))


def left_for_right(asked: Sequence[Trial]) -> list[Image.Image]:
    """A model that draws cleanly, and takes left for right."""
    return render(mirrored(constraint.scene) for _, constraint in asked).pictures


def grainy(asked: Sequence[Trial]) -> list[Image.Image]:
    """A model that draws what was asked, with a grain over it."""
    pictures = render(constraint.scene for _, constraint in asked).pictures
    return [noise(GRAIN, picture, number) for number, picture in enumerate(pictures)]


def features(clip: ClipFeatures, pictures: Sequence[Image.Image]) -> Tensor:
    """CLIP's embeddings of pictures, (N, D)."""
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2)
    return torch.cat([clip(some) for some in pixels.split(128)])


def judge() -> ClipFeatures:
    """The shipped CLIP, as the evaluation uses it."""
    return ClipFeatures(find_weights("clip"))


def quality(pictures: Sequence[Image.Image], asked: Sequence[Trial]) -> dict[str, Leaf | None]:
    """FID and CLIP score as the evaluation measures them; no FID of fewer than 20 pictures."""
    return creation.quality(find_weights("clip"), list(pictures), list(asked))


def three_pictures() -> tuple[str, Scene, dict[str, Scene]]:
    """A caption, the scene that it tells, and three pictures: right, mirrored, and with a wrong colour."""
    circle, star = Thing("top left", "red", "circle", "large"), Thing("top right", "blue", "star", "small")
    told = Scene("white", (circle, star))
    shown = {"as told": told, "left for right": mirrored(told)}
    return plain_caption(told), told, shown | {"another colour": Scene("white", (replace(circle, color="cyan"), star))}


def green_star() -> tuple[Document, dict[str, Image.Image], list[tuple[int, int]]]:
    """A story of three pictures; {fact: its last picture with this fact alone otherwise}; and which of the six pieces
    before it are true reasons: pairs (piece, number of the fact), as `world.stories.sources` has them."""
    red, ring = Thing("top left", "red", "star", "large"), Thing("bottom right", "cyan", "ring", "small")
    green = replace(red, color="green")
    end = Scene("grey", (green, ring))
    document = render([
        "A large red star in the top left on a grey background.", Scene("grey", (red,)),
        "All is quiet. The star turns green.", Scene("grey", (green,)),
        "A small cyan ring appears in the bottom right.", end,
    ])  # fmt: skip
    others = {
        "green, not red": Scene("grey", (red, ring)),
        "a star, not a circle": Scene("grey", (replace(green, shape="circle"), ring)),
        "cyan, not yellow": Scene("grey", (green, replace(ring, color="yellow"))),
        "below, not above": Scene("grey", (green, replace(ring, place="top right"))),
        "grey, not white": replace(end, background="white"),
    }
    reasons = ((3, 4), (0, 1, 4), (5,), (5,), (0, 1, 4))
    pairs = [(piece, fact) for fact, some in enumerate(reasons) for piece in some]
    return document, dict(zip(others, render(others.values()).pictures)), pairs


def photographed() -> Scene:
    """The scene that is damaged in section 8."""
    return Scene("grey", (Thing("top left", "red", "circle", "large"), Thing("bottom right", "blue", "star", "large")))


def alike(count: int) -> list[list[Scene]]:
    """`count` families of four scenes that differ in count alone: one to four things, all alike."""
    rng, families = dice(9, "trust lesson", "counting"), list[list[Scene]]()
    while len(families) < count:
        ground, thing = rng.choice(("white", "grey", "black")), random_thing(rng)
        places = rng.sample(list(PLACES), 4)
        if (thing.color, thing.shape) not in HELD_OUT_PAIRS:
            families.append([Scene(ground, tuple(replace(thing, place=p) for p in places[:k])) for k in range(1, 5)])
    return families


def by_number(scene: Scene) -> str:
    """Things that are all alike, counted: "Three large red stars on a white background"."""
    count, words = len(scene.things), name(scene.things[0])
    plural = "" if count == 1 else "es" if words.endswith("s") else "s"
    return f"{NUMBERS[count - 1].capitalize()} {words}{plural} on a {scene.background} background"


def one_by_one(scene: Scene) -> str:
    """The same, each named with its place, as in training."""
    return sentence(
        join([f"a {name(t)} in the {t.place}" for t in scene.things]) + f" on a {scene.background} background"
    )


def scenes(count: int) -> list[Scene]:
    """`count` scenes of two to four things."""
    rng = dice(9, "trust lesson", "scenes")
    return [random_scene(rng, (2, 3, 4, 3)[at % 4]) for at in range(count)]


def stories_due(count: int) -> list[tuple[Document, Scene]]:
    """`count` stories of two or three pictures: all before the last picture, and what that must show."""
    rng = dice(9, "trust lesson")
    told = [KINDS["story"](rng, pictures=2 + at % 2) for at in range(count)]
    return [(render(each.document_plan[:-1]), each.scenes[-1]) for each in told]


def clip_scores(clip: ClipFeatures, pictures: Sequence[Image.Image], texts: Sequence[str]) -> np.ndarray:
    """The CLIP score of each picture with its text, (N,)."""
    scores = 100 * torch.cosine_similarity(features(clip, pictures), clip.texts(list(texts))).clamp(min=0)
    return scores.double().numpy()


def teller(pipe: MiniDreamPipeline, scene: Scene) -> Callable[[Image.Image], tuple[str, bool]]:
    """Of a picture: the caption that the model gives it, and whether that tells the scene."""

    def tell(picture: Image.Image) -> tuple[str, bool]:
        said = pipe.caption(picture)
        return said, parse_caption(said) == scene.facts()

    return tell


Panel = tuple[list[str], dict[str, list[Leaf]]]


def damage_curves(measured: Mapping[str, Mapping[str, Mapping[str, Leaf]]]) -> dict[str, Panel]:
    """What `minidream evaluate robustness` found, as a panel for each kind and its unit: its levels, beginning with
    none, and for each task its leaves. Kinds of files have no order, so nothing comes before them."""
    panels: dict[str, Panel] = {}
    for kind, levels in measured.items():
        if kind != "none":
            start = {} if kind == "file" else {"none": measured["none"]["0"]}
            some = {**start, **levels}
            tasks = {words: [leaf[task] for leaf in some.values()] for task, words in TASKS.items()}
            name = f"{kind} ({UNITS[kind]})" if kind in UNITS else kind
            panels[name] = [level.replace("_", " ") for level in some], tasks
    return panels


def skewed(count: int, yes: float, seed: int = 0) -> list[bool]:
    """The truths of `count` questions, a share `yes` of them true, in random order."""
    truths = [at < round(count * yes) for at in range(count)]
    random.Random(seed).shuffle(truths)
    return truths


ENOUGH = Exercise(
    "how many pictures",
    reference=865,
    right=lambda answer: 840 <= answer <= 880,
    mistakes=(
        Mistake(
            2401,
            lambda answer: 2380 <= answer <= 2420,
            "that is for a share of 1/2, the worst case; here it is about 0.9",
        ),
        Mistake(
            3458,
            lambda answer: 3400 <= answer <= 3500,
            "the interval reaches 0.02 to *each* side; you took 0.02 for all of it",
        ),
        Mistake(
            225, lambda answer: 215 <= answer <= 235, "that is one standard error; a 95 % interval takes 1.96 of them"
        ),
        Mistake(9, lambda answer: answer < 100, "the error falls with the root of n: square the ratio"),
    ),
)

_SHARES = (0.1, 0.5, 0.9)
YES_SAYER = Exercise(
    "the one who always says yes",
    reference=lambda q: 2 * q / (1 + q),
    right=lambda answer: np.allclose([answer(q) for q in _SHARES], [2 * q / (1 + q) for q in _SHARES]),
    mistakes=(
        Mistake(
            lambda q: q,
            lambda answer: np.allclose([answer(q) for q in _SHARES], _SHARES),
            "that is its precision, and its accuracy; F1 joins it with recall, 2 p r / (p + r)",
        ),
        Mistake(
            lambda q: 1.0,
            lambda answer: np.allclose([answer(q) for q in _SHARES], 1),
            "that is its recall: it misses no yes; what of the noes that it calls yes?",
        ),
        Mistake(
            lambda q: 2 / 3,
            lambda answer: np.allclose([answer(q) for q in _SHARES], 2 / 3),
            "that holds where half of the answers are yes; make it a function of q",
        ),
        Mistake(
            lambda q: (1 + q) / 2,
            lambda answer: np.allclose([answer(q) for q in _SHARES], [(1 + q) / 2 for q in _SHARES]),
            "F1 is the harmonic mean of precision and recall, not the plain one",
        ),
    ),
)

_LISTED = ((0.9, 0.1, 0.5, 0.2, 0.7, 0.3, 0.8), (1, 0, 0, 1, 1, 0, 1), 2)  # three errors; the worst two hold one


def _share(score: Sequence[float], right: Sequence[float], k: int, worst: bool = True, of: str = "errors") -> float:
    order = np.argsort(np.asarray(score) * (1 if worst else -1))[:k]
    wrong = 1 - np.asarray(right)
    return float(wrong[order].sum() / {"errors": wrong.sum(), "checked": k, "all": len(wrong)}[of])


REVIEW = Exercise(
    "what the review list finds",
    reference=_share,
    right=lambda answer: abs(answer(*_LISTED) - 1 / 3) < 1e-6 and abs(answer((0.4, 0.3), (0, 0), 1) - 0.5) < 1e-6,
    mistakes=(
        Mistake(
            lambda score, right, k: _share(score, right, k, of="checked"),
            lambda answer: abs(answer(*_LISTED) - 1 / 2) < 1e-6,
            "that is the share of the checked pictures that are errors: divide by the number of all errors",
        ),
        Mistake(
            lambda score, right, k: _share(score, right, k, worst=False),
            lambda answer: abs(answer(*_LISTED)) < 1e-6,
            "the list begins with the *lowest* scores",
        ),
        Mistake(
            lambda score, right, k: _share(score, right, k, of="all"),
            lambda answer: abs(answer(*_LISTED) - 1 / 7) < 1e-6,
            "of all errors, not of all pictures",
        ),
        Mistake(
            lambda score, right, k: _share(score, [1 - each for each in right], k),
            lambda answer: abs(answer(*_LISTED) - 1 / 4) < 1e-6,
            "you count the right pictures: an error is where `right` is 0",
        ),
    ),
)
