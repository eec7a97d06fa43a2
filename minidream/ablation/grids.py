"""What is varied, and what is the same for all: the grids as one table, and the budget of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from minidream.errors import UserError
from minidream.training.recipes import Recipe, Sizes, recipe_for

QUERIES = (1, 2, 4, 8, 16, 32)
# What stage I is shown in a grid: captions of one thing. In as many steps, with all captions, all settings draw mud.
MIXTURE = "single_object"
SHOWN = ("single_object", "colors")  # the categories of prompts for it
CAPTION_TOKENS = 64  # room for <s>, the longest caption and </s> beside a dream block
# w_dm and the weight of `clip_alignment_loss`; a sum of both counts them alike.
LOSSES = {"dream": (10.0, 0.0), "alignment": (0.0, 10.0), "both": (10.0, 10.0)}
# w_lm and w_dm; and the documents that all three learn from, which are the same for one seed.
LEARNS = {"comprehension": (1.0, 0.0), "creation": (0.0, 10.0), "joint": (1.0, 10.0)}
_INTERLEAVED = {"single_object": 0.25, "single_caption": 0.25, "single_qa": 0.25, "single_edit": 0.25}
DOCUMENTS = {
    "one picture": {"single_object": 0.5, "single_caption": 0.25, "single_qa": 0.25},
    "interleaved": _INTERLEAVED,
    "interleaved, after stage I": _INTERLEAVED,
}
AFTER = {"interleaved, after stage I": "align"}  # where its students begin; half the steps suffice

Variables = dict[str, Any]
_STAGE_ONE: Variables = {"queries": 8, "loss": "dream", "target": "teacher"}
# By grid and setting. What grids share, a run of one takes over from another's file.
GRIDS: dict[str, dict[str, Variables]] = {
    "queries": {str(count): _STAGE_ONE | {"queries": count} for count in sorted(QUERIES, key=lambda count: count != 8)},
    "alignment": {loss: _STAGE_ONE | {"loss": loss} for loss in ("alignment", "both", "dream")},
    "target": {target: _STAGE_ONE | {"target": target} for target in ("noise", "teacher")},
    "rewrite": {way: {"way": way} for way in ("direct", "rewrite", "blind")},
    "synergy": {
        f"{learns}, {documents}": {"learns": learns, "documents": documents}
        for documents in DOCUMENTS
        for learns in LEARNS
    },
}


@dataclass(frozen=True)
class Budget:
    """What every run of a preset gets: of training, and of pictures to be judged by."""

    preset: str
    steps: int
    batch: int
    every: int  # steps between two points of the learning curve
    held_back: int  # pictures of the batch that the curve is measured on
    n: int  # prompts a category
    stories: int  # of `rewrite`, of each kind for each seed
    guidance: float = 2.0
    sampling_steps: int = 20


# mini: the 27 trainings of the first three grids, with three seeds, took 73 minutes of one core.
BUDGETS = {
    "nano": Budget("nano", steps=4, batch=4, every=2, held_back=4, n=1, stories=2, sampling_steps=2),
    "mini": Budget("mini", steps=200, batch=24, every=20, held_back=128, n=50, stories=100),
}
# What the budget of `synergy` has of its own.
SYNERGY: dict[str, dict[str, Any]] = {"nano": {"steps": 2}, "mini": {"steps": 240, "n": 100}}


def budget_of(name: str, preset: str) -> Budget:
    """What a run of a grid gets. Raises `UserError` for an unknown preset."""
    if preset not in BUDGETS:
        raise UserError(f"unknown preset {preset!r}: choose one of {', '.join(BUDGETS)}")
    budget = BUDGETS[preset]
    return replace(budget, **SYNERGY[preset]) if name == "synergy" else budget


def settings_of(name: str, queries: Sequence[int] | None = None) -> dict[str, Variables]:
    """A grid's settings; `queries` are other numbers for the grid "queries".

    Raises `UserError` for an unknown grid, `queries` of another one, or a number that is less than 1.
    """
    if name not in GRIDS:
        raise UserError(f"unknown ablation {name!r}: choose one of {', '.join(GRIDS)}")
    if queries is None:
        return GRIDS[name]
    if name != "queries":
        raise UserError(f"ablation {name} does not vary the number of queries: leave --queries out")
    if min(queries, default=0) < 1:
        raise UserError(f"a picture needs at least 1 dream query to be drawn from, got {list(queries)}")
    return {str(count): _STAGE_ONE | {"queries": count} for count in queries}


def recipe_of(budget: Budget, variables: Variables, seed: int) -> tuple[Sizes, Recipe]:
    """Stage I on captions of one thing, by a setting. Raises `UserError` if the context is too short."""
    sizes, recipe = recipe_for("align", budget.preset)
    most = sizes.max_length - CAPTION_TOKENS - 2
    if variables["queries"] > most:
        raise UserError(
            f"{variables['queries']} dream queries and a caption do not fit into the context of {sizes.max_length} "
            f"tokens: take at most {most}"
        )
    dream, alignment = LOSSES[variables["loss"]]
    return replace(sizes, queries=variables["queries"]), replace(
        recipe,
        steps=budget.steps,
        batch=budget.batch,
        dream_weight=dream,
        alignment_weight=alignment,
        teacher=variables["target"] == "teacher",
        mixture={MIXTURE: 1.0},
        trainable=("dream_queries", "condition_projector"),
        seed=seed,
        log_every=budget.every,
        save_every=budget.steps + 1,  # a run is repeated rather than resumed
    )
