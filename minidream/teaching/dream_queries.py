"""Notebook 05: a small world for stage I, what a grid of runs says, and the exercises."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from minidream.documents import Document
from minidream.evaluation import creation
from minidream.evaluation.statistics import proportion
from minidream.processing import Batch, MiniDreamProcessor
from minidream.teaching import Exercise, Mistake
from minidream.teaching.score_distillation import draw, text_tower, verdicts
from minidream.training.components import tokenize
from minidream.visualization.dream_queries import Measured
from minidream.world.captions import plain_caption
from minidream.world.draw import draw_batch
from minidream.world.prompts import Constraint
from minidream.world.scene import PLACES, SIDE, Scene, Thing

__all__ = ["draw", "verdicts"]

FACTS = ("background", "count", "places", "colors", "shapes", "sizes")


def little_world() -> tuple[list[Scene], list[str]]:
    """Eight scenes of one large circle for a stage I of seconds (two backgrounds, two places, two colours), and their
    plain captions."""
    scenes = [
        Scene(background, (Thing(place, color, "circle", "large"),))
        for background in ("white", "black")
        for place in ("top left", "bottom right")
        for color in ("red", "cyan")
    ]
    return scenes, [plain_caption(scene) for scene in scenes]


@torch.no_grad()
def by_the_teacher(captions: Sequence[str]) -> Tensor:
    """What the painter's own text encoder says of captions, (M, S, D): what its UNet was made to read."""
    tokenizer, text_model = text_tower()
    states: Tensor = text_model(input_ids=tokenize(tokenizer, list(captions), torch.device("cpu"))["input_ids"])[0]
    return states


def regions(scenes: Sequence[Scene], side: int) -> dict[str, Tensor]:
    """Where the parts of scenes of two things lie on a coarse grid, each (M, side, side) bool: the places that a thing
    covers by a tenth or more, in reading order; the ground beside them in their quarters; the empty quarters.

    Raises ValueError unless all scenes have two things.
    """
    if any(len(scene.things) != 2 for scene in scenes):
        raise ValueError("the regions are those of scenes with two things")
    half = side // 2
    things, quarters = torch.zeros(2, len(scenes), side, side), torch.zeros(len(scenes), side, side)
    for number, scene in enumerate(scenes):
        for index, thing in enumerate(scene.things):
            pixels = torch.from_numpy(draw_batch([Scene("black", (thing,))])).float()  # (1, 64, 64, 3)
            covered = ((pixels - pixels[:, :1, :1]).abs().amax(3) > 40).float()  # unlike the corner: it is no ground
            things[index, number] = torch.nn.functional.avg_pool2d(covered, SIDE // side)[0]
            row, column = (half * place for place in PLACES[thing.place])
            quarters[number, row : row + half, column : column + half] = 1
    first, second = things >= 0.1
    taken = quarters.bool()
    ground = taken & ~(first | second)
    return {"first thing": first, "second thing": second, "ground beside": ground, "empty quarters": ~taken}


def facts_right(scenes: Sequence[Scene], pictures: Sequence[Image.Image]) -> list[float]:
    """The share of pictures that have each of the `FACTS` of their scene right."""
    shares = creation.facts([("", Constraint("counting", scene)) for scene in scenes], list(pictures))
    return [shares[fact]["mean"] for fact in FACTS]


def right_padded(processor: MiniDreamProcessor, captions: Sequence[str]) -> Batch:
    """Captions as the released code batches them to draw: padded on the right, *then* the dream block, positions
    counted on through the padding. A patient of the bug clinic."""
    rows = processor([Document([caption]) for caption in captions], "text", add_eos=False)  # padded on the right
    block = processor.continuation(["dream"] * len(captions))

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(rows, name), getattr(block, name)], dim=1)

    masks = {name: joined(name) for name in ("input_ids", "attention_mask", "query_mask", "patch_mask", "labels")}
    places = torch.arange(masks["input_ids"].shape[1]).expand_as(masks["input_ids"])
    return Batch(**{**vars(rows), **masks, "position_ids": places})


def measured(content: Mapping[str, Any], part: str, name: str = "") -> dict[str, Measured]:
    """A figure of a grid's settings (see `minidream.ablation`): `run[part][name]`, or `run[part]` itself, for each seed
    in their order; where it is a share, with the 95 % interval of all seeds' items together. Settings whose runs do not
    have it are left out."""
    found: dict[str, list[Any]] = {}
    for run in sorted(content["runs"], key=lambda run: run["seed"]):
        value = run.get(part, {}).get(name) if name else run.get(part)
        if value is not None:
            found.setdefault(run["setting"], []).append(value)
    return {setting: _pooled(found[setting]) for setting in _ordered(found)}


def told(found: Mapping[str, Measured], what: str, lowest: bool = False) -> str:
    """A sentence: every setting's mean over its seeds; and who leads, in how many of the seeds that all have."""
    means = {setting: sum(each.values) / len(each.values) for setting, each in found.items()}
    line = f"{what}: " + ", ".join(f"{setting} {mean:.3f}" for setting, mean in means.items())
    best = min if lowest else max
    first = best(means, key=lambda setting: means[setting])
    rivals = [each.values for setting, each in found.items() if setting != first]
    if not rivals:
        return line
    pairs = list(zip(found[first].values, *rivals))
    ahead = sum(own == best(own, *others) and own not in others for own, *others in pairs)
    return f"{line}; {first} leads, alone in {ahead} of {len(pairs)} seeds"


def _ordered(settings: Mapping[str, Any]) -> list[str]:
    """Numbers by size, names as they come."""
    return sorted(settings, key=lambda setting: int(setting) if setting.isdigit() else 0)


def _pooled(values: Sequence[Any]) -> Measured:
    if not isinstance(values[0], Mapping):
        return Measured([float(value) for value in values])
    items = [right for leaf in values for right in _items(leaf)]
    pooled = proportion(items)
    return Measured([leaf["mean"] for leaf in values], (pooled["low"], pooled["high"]))


def _items(leaf: Mapping[str, float]) -> list[bool]:
    right = round(leaf["mean"] * leaf["n"])
    return [True] * right + [False] * (int(leaf["n"]) - right)


def _at(answer: Callable[[int, int], Sequence[int]], *sizes: tuple[int, int]) -> list[tuple[int, ...]]:
    return [tuple(int(place) for place in answer(*each)) for each in sizes]


_SIZES = ((10, 8), (3, 64))  # tokens of text, dream queries

WHERE = Exercise(
    "where the queries stand",
    reference=lambda n, q: (n + 2, n + 2 + q),
    right=lambda answer: _at(answer, *_SIZES) == [(12, 20), (5, 69)],
    mistakes=(
        Mistake(
            lambda n, q: (n + 1, n + 1 + q),
            lambda answer: _at(answer, *_SIZES) == [(11, 19), (4, 68)],
            "this takes the state of <dream> and loses the last query: patient 3 of the clinic",
        ),
        Mistake(
            lambda n, q: (n, n + q),
            lambda answer: _at(answer, *_SIZES) == [(10, 18), (3, 67)],
            "two tokens stand around the text: <s> before it, <dream> after it",
        ),
        Mistake(
            lambda n, q: (n + 2, n + 1 + q),
            lambda answer: _at(answer, *_SIZES) == [(12, 19), (5, 68)],
            "the end of a slice is the first place that does not belong to it: one query is missing",
        ),
        Mistake(
            lambda n, q: (n + 3, n + 3 + q),
            lambda answer: _at(answer, *_SIZES) == [(13, 21), (6, 70)],
            "this loses the first query and takes the state of <dream_end>",
        ),
    ),
)

TRAINED = Exercise(
    "stage I at the paper's size",
    reference=64 * 4096 + (1024 * 4096 + 4096) + 4096 * 1024,
    right=lambda answer: answer == 8_654_848,
    mistakes=(
        Mistake(
            64 * 4096 + 2 * 1024 * 4096,
            lambda answer: answer == 8_650_752,
            "nearly: one of the two projectors also adds a bias",
        ),
        Mistake(
            64 * 4096 + 2 * 1024 * 4096 + 4096 + 1024,
            lambda answer: answer == 8_655_872,
            "nearly: only the visual projector has a bias; what goes to the painter is a plain product",
        ),
        Mistake(
            2 * 1024 * 4096 + 4096,
            lambda answer: answer == 8_392_704,
            "the queries themselves are learned, too",
        ),
        Mistake(
            64 * 1024 + 2 * 1024 * 4096 + 4096,
            lambda answer: answer == 8_458_240,
            "a dream query stands in the language model's stream: it is as wide as a word",
        ),
    ),
)

_PARTS = frozenset({"text 1", "picture 1", "text 2", "picture 2", "text 3"})

MOVES = Exercise(
    "what moves the second condition",
    reference={"text 1", "picture 1", "text 2"},
    right=lambda answer: set(answer) == {"text 1", "picture 1", "text 2"},
    mistakes=(
        Mistake(
            {"text 1", "dream 2"},
            lambda answer: not _PARTS.issuperset(answer),
            "choose among " + ", ".join(f'"{part}"' for part in sorted(_PARTS)),
        ),
        Mistake(
            {"text 1", "picture 1", "text 2", "picture 2"},
            lambda answer: "picture 2" in answer,
            "picture 2 is drawn *from* this condition: its patches stand after the dream block",
        ),
        Mistake(
            {"text 1", "picture 1", "text 2", "text 3"},
            lambda answer: "text 3" in answer,
            "text 3 comes later, and the mask is causal",
        ),
        Mistake(
            {"text 1", "text 2"},
            lambda answer: "picture 1" not in answer,
            "the queries see patches as they see words: part 3 exchanged an earlier picture",
        ),
        Mistake(
            {"picture 1", "text 2"},
            lambda answer: "text 1" not in answer,
            "attention reaches back to the very first word",
        ),
    ),
)
