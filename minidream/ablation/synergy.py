"""Synergy: does who learns to see draw better, and who learns to draw see better, than who learns one of them alone?

All begin with the language model that knows words alone, and learn from the same documents in the same order, of one
thing each; what differs is which losses count (`LEARNS`). So a joint run does the work of both others, in as many
steps.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from minidream.ablation.grids import DOCUMENTS, LEARNS, SHOWN, Budget, Variables
from minidream.evaluation import comprehension, creation, interleaved
from minidream.evaluation.candidate import Candidate, PipelineCandidate, dice
from minidream.evaluation.statistics import Leaf, proportion
from minidream.pipeline import MiniDreamPipeline
from minidream.training.dream import DreamTask
from minidream.training.loop import fit
from minidream.training.recipes import Recipe, Sizes, recipe_for
from minidream.world.questions import ask
from minidream.world.scene import random_scene
from minidream.world.stories import edit

QUESTIONS = ("color", "shape", "size", "background", "existence")  # that a picture of one thing leaves to be asked


def recipe_of(budget: Budget, variables: Variables, seed: int) -> tuple[Sizes, Recipe]:
    """Stages I and II at once: projectors, queries and language model, on the documents of a setting."""
    sizes, recipe = recipe_for("igpt", budget.preset)
    language, dream = LEARNS[variables["learns"]]
    return sizes, replace(
        recipe,
        steps=budget.steps,
        batch=budget.batch,
        language_weight=language,
        dream_weight=dream,
        dream_delta=0.0,  # the paper's squared error
        mixture=DOCUMENTS[variables["documents"]],
        seed=seed,
        log_every=budget.every,
        save_every=budget.steps + 1,  # a run is repeated rather than resumed
    )


def run(budget: Budget, variables: Variables, seed: int, parts: Path) -> dict[str, Any]:
    """Train and examine. `parts`: the folder with `llm`, `clip` and `stable-diffusion`. The seed decides the first
    weights and all that training draws; the examination is always the same.

    Returns the leaves `comprehension` (`captions`, and shares of right answers by type and `overall`), `creation` (by
    category and `overall`), `facts` (see `creation.facts`) and `stories` (`edits`), each only where the setting learns
    it; the last `losses`; `seconds` and `cpu_seconds` of the training, `threads`, `machine`.
    """
    sizes, recipe = recipe_of(budget, variables, seed)
    torch.manual_seed(seed)  # the new parameters are drawn
    task = DreamTask(sizes, recipe, parts, None)
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
    return proportion([interleaved.same(truth, shown) for ((truth, shown),) in drawn])
