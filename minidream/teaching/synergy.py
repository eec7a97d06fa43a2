"""Notebook 08: the students as `minidream ablate synergy` trains them, what each loss reaches, and the exercises."""

from __future__ import annotations

import math
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minidream.ablation import budget_of, synergy
from minidream.ablation.grids import LEARNS
from minidream.ablation.synergy import Gain
from minidream.evaluation.statistics import Leaf, leaf, paired, student
from minidream.teaching import Exercise, Mistake
from minidream.training.dream import DreamTask
from minidream.training.loop import fit
from minidream.weights import find_weights
from minidream.world.corpora import Example, samples

Batch = dict[str, list[Example]]
PARTS = ("visual projector", "dream queries", "condition projector", "word embeddings", "layers 1-3", "layers 4-6")


def student_of(learns: str, documents: str = "one picture", steps: int = 0, seed: int = 0) -> DreamTask:
    """A student as the experiment's run of this seed begins it; `steps`: another number than the experiment's own."""
    variables, parts = {"learns": learns, "documents": documents}, find_weights("llm").parent
    sizes, recipe = synergy.recipe_of(budget_of("synergy", "mini"), variables, seed)
    torch.manual_seed(seed)  # the new parameters are drawn
    return DreamTask(sizes, replace(recipe, steps=steps or recipe.steps), parts, synergy.begun(variables, parts))


def drawn(task: DreamTask, number: int, count: int = 24) -> Batch:
    """Documents of a task's kinds, drawn from another seed than any run's."""
    return samples(task.recipe.mixture, count, random.Random(f"lesson-synergy-{number}"))


def weighted(task: DreamTask, batch: Batch, noise: int = 0) -> dict[str, Tensor]:
    """The two sums that a joint run adds up, each with its weights: `comprehension` (words) and `creation` (pictures).

    `task` is one that learns both. Timesteps, noise and dropout are those of the number `noise`.
    """
    torch.manual_seed(noise)
    losses = task.losses(batch, task.modules)
    found = {learns: torch.zeros(()) for learns in ("comprehension", "creation")}
    for name, loss in losses.items():
        if "/" in name:
            kind, which = name.split("/")
            learns = "comprehension" if which == "language" else "creation"
            found[learns] = found[learns] + task.recipe.mixture[kind] * getattr(task.recipe, f"{which}_weight") * loss
    return found


def parts_of(model: Any) -> dict[str, list[Tensor]]:
    """What all three students may move, by `PARTS`."""
    layers = model.llm.model.layers
    half = len(layers) // 2
    some = (
        list(model.visual_projector.parameters()), [model.dream_queries], list(model.condition_projector.parameters()),
        [model.llm.get_input_embeddings().weight], list(layers[:half].parameters()), list(layers[half:].parameters()),
    )  # fmt: skip
    return dict(zip(PARTS, some, strict=True))


def gradient(loss: Tensor, model: Any) -> dict[str, Tensor]:
    """A loss's gradient, part by part, each as one long vector."""
    parts = parts_of(model)
    flat = [parameter for part in parts.values() for parameter in part]
    found = iter(torch.autograd.grad(loss, flat, retain_graph=True, allow_unused=True))
    return {
        name: torch.cat([torch.zeros(p.numel()) if (g := next(found)) is None else g.flatten() for p in part])
        for name, part in parts.items()
    }


@torch.no_grad()
def step(model: Any, direction: Mapping[str, Tensor], by: float) -> None:
    """Move the parameters against a gradient, as far as `by` (the length of the whole step)."""
    length = math.sqrt(sum(vector.square().sum().item() for vector in direction.values()))
    for name, part in parts_of(model).items():
        pieces = direction[name].split([parameter.numel() for parameter in part])
        for parameter, piece in zip(part, pieces, strict=True):
            parameter -= by / length * piece.view_as(parameter)


class Slice:
    """The first steps of the three students of a seed, side by side, and both losses of documents held back."""

    def __init__(self, steps: int, every: int, documents: str = "one picture") -> None:
        self.at = list(range(0, steps + 1, every))
        self.tasks = {learns: student_of(learns, documents, steps) for learns in LEARNS}
        self.judge = self.tasks["joint"]
        self.held_back = drawn(self.judge, 99)
        self.curves = {learns: self._fit(task, every) for learns, task in self.tasks.items()}

    def _fit(self, task: DreamTask, every: int) -> dict[str, list[float]]:
        points = [self._look(task)]
        recipe = replace(task.recipe, log_every=every)

        def probe() -> dict[str, float]:
            points.append(self._look(task))
            return {}

        with tempfile.TemporaryDirectory() as folder:
            fit(task, recipe, Path(folder), probe=probe)
        return {name: [point[name] for point in points] for name in points[0]}

    @torch.no_grad()
    def _look(self, task: DreamTask) -> dict[str, float]:
        torch.manual_seed(0)
        found = self.judge.losses(self.held_back, task.modules)
        words = [loss.item() for name, loss in found.items() if name.endswith("/language")]
        pictures = [loss.item() for name, loss in found.items() if name.endswith("/dream")]
        return {"words": sum(words) / len(words), "pictures": sum(pictures) / len(pictures)}


def found_by(gain: float, scatter: float, runs: int, draws: int = 4000) -> float:
    """How often `runs` pairs find a gain: the share of invented experiments whose Student interval lies above 0, where
    the differences are normal with mean `gain` and standard deviation `scatter`."""
    differences = np.random.default_rng(0).normal(gain, scatter, (draws, runs))
    wide = student(runs - 1) * differences.std(1, ddof=1) / math.sqrt(runs)
    return float((differences.mean(1) > wide).mean())


def clinic(gain: Gain) -> dict[str, tuple[list[float], Leaf]]:
    """The same runs as three colleagues analyse them: the differences, and the mean's interval. Two have a bug."""
    right, n = gain.difference, len(gain.differences)
    ranked = [after - before for before, after in zip(sorted(gain.before), sorted(gain.after), strict=True)]
    wide = 1.96 * float(np.std(gain.differences, ddof=1)) / math.sqrt(n)  # as if their scatter were known
    hasty = leaf(right["mean"], right["mean"] - wide, right["mean"] + wide, n)
    return {
        "healthy": (gain.differences, right),
        "patient 1": (ranked, paired(ranked)),
        "patient 2": (gain.differences, hasty),
    }


# -- the exercises ----------------------------------------------------------------------------------------------------

_RISES = (0.01, -0.02, 0.05)


def _flips(differences: Sequence[float], sides: int = 2, strict: bool = False) -> float:
    found = np.asarray(differences, float)
    sums = np.array(list(product((1, -1), repeat=len(found)))) @ found
    sums, true = (np.abs(sums), abs(found.sum())) if sides == 2 else (sums, found.sum())
    return float((sums > true + 1e-9 if strict else sums >= true - 1e-9).mean())


FLIPS = Exercise(
    "the sign-flip test",
    reference=_flips,
    right=lambda answer: abs(answer(_RISES) - _flips(_RISES)) < 1e-6 and abs(answer((-0.1, -0.2)) - 0.5) < 1e-6,
    mistakes=(
        Mistake(
            lambda d: _flips(d, sides=1),
            lambda answer: abs(answer(_RISES) - _flips(_RISES, sides=1)) < 1e-6,
            "that is one-sided: a sum as far *below* 0 speaks against chance just as much",
        ),
        Mistake(
            lambda d: _flips(d, strict=True),
            lambda answer: abs(answer(_RISES) - _flips(_RISES, strict=True)) < 1e-6,
            "the true signs are one of the 2^n choices too: count what is *at least* as far from 0",
        ),
        Mistake(
            lambda d: 1 - _flips(d),
            lambda answer: abs(answer(_RISES) - 1 + _flips(_RISES)) < 1e-6,
            "you count the sums that are nearer to 0; p is the share of those at least as far from it",
        ),
    ),
)

LEAST = Exercise(
    "how few seeds",
    reference=6,
    right=lambda answer: answer == 6,
    mistakes=(
        Mistake(5, lambda answer: answer == 5, "2 / 2^5 is 0.0625, and that is above 0.05"),
        Mistake(
            4, lambda answer: answer == 4, "2 / 2^4 is 0.125: even where all four differences agree, p is above 0.05"
        ),
        Mistake(7, lambda answer: answer > 6, "enough, but not the fewest: where is 2 / 2^n first below 0.05?"),
    ),
)

_PAIRS = ((0.80, 0.60, 0.90, 0.70), (0.84, 0.65, 0.93, 0.76))


def _half(before: Sequence[float], after: Sequence[float], ddof: int = 1, paired: bool = True, t: bool = True) -> float:
    one, other = np.asarray(before, float), np.asarray(after, float)
    n = len(one)
    spread = (other - one).std(ddof=ddof) if paired else math.sqrt(one.var(ddof=1) + other.var(ddof=1))
    return float((student(n - 1) if t else 1.959964) * spread / math.sqrt(n))


def _is(answer: Callable[..., float], **mistake: Any) -> bool:
    return abs(answer(*_PAIRS) - _half(*_PAIRS, **mistake)) < 1e-5


HALF = Exercise(
    "half an interval",
    reference=_half,
    right=_is,
    mistakes=(
        Mistake(
            lambda before, after: _half(before, after, paired=False),
            lambda answer: _is(answer, paired=False),
            "that treats the runs as strangers: take the difference of each pair first, then its scatter",
        ),
        Mistake(
            lambda before, after: _half(before, after, ddof=0),
            lambda answer: _is(answer, ddof=0),
            "numpy divides by n unless told otherwise: ddof=1 for a sample",
        ),
        Mistake(
            lambda before, after: _half(before, after, t=False),
            lambda answer: _is(answer, t=False),
            "1.96 holds if the scatter is known; from so few differences it is only estimated: student(n - 1)",
        ),
    ),
)
