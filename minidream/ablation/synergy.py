"""Synergy: does who learns to see draw better, and who learns to draw see better, than who learns one of them alone?

All begin alike, with the language model that knows words alone, or with stage I's projectors and queries beside it
(`AFTER`). They learn from the same documents in the same order, of one thing each; what differs is which losses count
(`LEARNS`). So a joint run does the work of both others, in as many steps. Runs of one seed are pairs: the same first
weights, documents, noise and examination. Taught in notebook 08.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from minidream.ablation.grids import AFTER, DOCUMENTS, LEARNS, SHOWN, Budget, Variables
from minidream.evaluation import comprehension, creation, interleaved
from minidream.evaluation.candidate import Candidate, PipelineCandidate, dice, same
from minidream.evaluation.statistics import Leaf, paired, proportion, sign_flip
from minidream.pipeline import MiniDreamPipeline
from minidream.training.dream import DreamTask
from minidream.training.loop import fit
from minidream.training.recipes import Recipe, Sizes, recipe_for
from minidream.world.questions import ask
from minidream.world.scene import random_scene
from minidream.world.stories import edit

QUESTIONS = ("color", "shape", "size", "background", "existence")  # that a picture of one thing leaves to be asked

MEASURES = {  # what a reader is told: the part and the figure of a run, and what alone would teach it
    "captions, the whole scene": ("comprehension", "captions", "comprehension"),
    "questions, all types": ("comprehension", "overall", "comprehension"),
    "pictures, as asked": ("creation", "overall", "creation"),
    "pictures, the whole scene": ("facts", "scene", "creation"),
    "edits": ("stories", "edits", "creation"),
}


@dataclass(frozen=True)
class Gain:
    """A figure of two settings, seed by seed: `before`, `after`, the mean `difference` with Student's interval, and `p`
    of the sign-flip test."""

    before: Sequence[float]
    after: Sequence[float]

    @property
    def differences(self) -> list[float]:
        """After less before, seed by seed."""
        return [after - before for before, after in zip(self.before, self.after, strict=True)]

    @property
    def difference(self) -> Leaf:
        """Their mean, with Student's interval."""
        return paired(self.differences)

    @property
    def p(self) -> float:
        """Of the sign-flip test. Raises ValueError for more than 20 seeds."""
        return sign_flip(self.differences)

    def told(self) -> tuple[str, str, str, str]:
        """The means before and after, their difference with its interval, and p, for a line or a row."""
        before, after = (f"{sum(values) / len(values):.3f}" for values in (self.before, self.after))
        gain = self.difference
        return before, after, f"{gain['mean']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f})", f"{self.p:.3f}"

    def __str__(self) -> str:
        return "{} to {}, {}, p = {}".format(*self.told())


def compare(content: Mapping[str, Any], before: str, after: str, part: str, figure: str) -> Gain | None:
    """`run[part][figure]` of two settings of a grid, over the seeds that both have; None where these are less than two,
    or either does not learn it."""
    found: dict[str, dict[int, float]] = {before: {}, after: {}}
    for run in content["runs"]:
        if run["setting"] in found and figure in run.get(part, {}):
            found[run["setting"]][run["seed"]] = run[part][figure]["mean"]
    seeds = sorted(found[before].keys() & found[after].keys())
    if len(seeds) < 2:
        return None
    return Gain(*([found[setting][seed] for seed in seeds] for setting in (before, after)))


def gains(content: Mapping[str, Any], documents: str) -> dict[str, Gain]:
    """What learning jointly brings over learning one thing alone, on `documents`: the `MEASURES` that were measured."""
    found = {
        name: compare(content, f"{alone}, {documents}", f"joint, {documents}", part, figure)
        for name, (part, figure, alone) in MEASURES.items()
    }
    return {name: gain for name, gain in found.items() if gain}


def verdicts(content: Mapping[str, Any]) -> str:
    """All gains, a line each, for the terminal; nothing where no setting has two seeds."""
    lines = [
        f"{name}, {documents}: alone to jointly {gain}"
        for documents in DOCUMENTS
        for name, gain in gains(content, documents).items()
    ]
    return "\n".join(lines)


def recipe_of(budget: Budget, variables: Variables, seed: int) -> tuple[Sizes, Recipe]:
    """Stages I and II at once, or II alone: projectors, queries and language model, on the documents of a setting."""
    sizes, recipe = recipe_for("igpt", budget.preset)
    steps = budget.steps // (2 if variables["documents"] in AFTER else 1)
    language, dream = LEARNS[variables["learns"]]
    return sizes, replace(
        recipe,
        steps=steps,
        batch=budget.batch,
        language_weight=language,
        dream_weight=dream,
        dream_delta=0.0,  # the paper's squared error
        dream_draws=3,
        mixture=DOCUMENTS[variables["documents"]],
        seed=seed,
        log_every=budget.every,
        save_every=steps + 1,  # a run is repeated rather than resumed
    )


def begun(variables: Variables, parts: Path) -> Path | None:
    """The folder of what a setting's students begin with; None where they begin with nothing but words."""
    return parts / AFTER[variables["documents"]] if variables["documents"] in AFTER else None


def run(budget: Budget, variables: Variables, seed: int, parts: Path) -> dict[str, Any]:
    """Train and examine. `parts`: the folder with `llm`, `clip`, `stable-diffusion`, `align`. The seed decides the new
    parameters and all that training draws; the examination is always the same.

    Returns the leaves `comprehension` (`captions`, and shares of right answers by type and `overall`), `creation` (by
    category and `overall`), `facts` (see `creation.facts`) and `stories` (`edits`), each only where the setting learns
    it; the last `losses`; `seconds` and `cpu_seconds` of the training, `threads`, `machine`.
    """
    sizes, recipe = recipe_of(budget, variables, seed)
    torch.manual_seed(seed)  # the new parameters are drawn
    task = DreamTask(sizes, recipe, parts, begun(variables, parts))
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        record = fit(task, recipe, Path(folder))
        spent = time.process_time() - began
    pipe = MiniDreamPipeline(task.modules.eval(), task.processor)
    candidate = PipelineCandidate(pipe, budget.guidance, budget.sampling_steps)
    found: dict[str, Any] = {}
    if recipe.language_weight:
        found["comprehension"] = _sees(candidate, budget.n)
    if recipe.dream_weight:
        asked = creation.trials(budget.n, seed=0, held_out=False, categories=SHOWN)
        found["creation"], pictures = creation.grade(candidate.draw, asked, creation.noise_seed(0, "seen"))
        found["facts"] = creation.facts(asked, pictures)
        found["stories"] = {"edits": _edits(candidate, budget.n)}
    kept = ("seconds", "threads", "machine", "losses")
    return found | {key: record[key] for key in kept} | {"cpu_seconds": round(spent, 1)}


def _sees(candidate: Candidate, n: int) -> dict[str, Leaf]:
    rng = dice(0, "ablation", "synergy", "pictures")
    scenes = [random_scene(rng, 1) for _ in range(n)]
    told = candidate.caption(comprehension.pictures_of(scenes))
    captions = [comprehension.parse_caption(text) == scene.facts() for text, scene in zip(told, scenes, strict=True)]
    asked = {kind: [(scene, ask(scene, kind, rng)) for scene in scenes] for kind in QUESTIONS}
    right = {kind: comprehension.answered(candidate, some) for kind, some in asked.items()}
    overall = proportion([good for some in right.values() for good in some])
    shares = {kind: proportion(some) for kind, some in right.items()}
    return {"captions": proportion(captions), **shares, "overall": overall}


def _edits(candidate: Candidate, n: int) -> Leaf:
    rng = dice(0, "ablation", "synergy", "edits")
    drawn = interleaved.follow(candidate, [edit(rng, things=1) for _ in range(n)], 0)
    return proportion([same(truth, shown) for ((truth, shown),) in drawn])
