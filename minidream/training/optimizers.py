"""What turns gradients into steps: AdamW as in the paper, and Muon for a language model's matrices."""

from __future__ import annotations

import torch

from minidream.training.recipes import Recipe


def optimizers_for(trained: dict[str, torch.nn.Parameter], recipe: Recipe) -> list[torch.optim.Optimizer]:
    """The optimizers that together move `trained`, by name.

    With `recipe.muon` the matrices inside a transformer's layers are moved by Muon, which gives every direction of a
    step the same length; its rate is matched to AdamW's. From nothing, it learns in about a third of the steps. All
    else (embeddings, queries, projectors, norms) is AdamW's. A group's `rate` is what a step's learning rate is
    multiplied by.
    """
    matrices = [value for name, value in trained.items() if recipe.muon and ".layers." in name and value.ndim == 2]
    held = {id(value) for value in matrices}
    rest = {name: value for name, value in trained.items() if id(value) not in held}
    queries = [value for name, value in rest.items() if name == "dream_queries"]
    others = [value for name, value in rest.items() if name != "dream_queries"]
    groups = [{"params": some, "rate": rate} for some, rate in ((others, 1.0), (queries, recipe.query_rate)) if some]
    made: list[torch.optim.Optimizer] = []
    if groups:
        made.append(torch.optim.AdamW(groups, lr=recipe.lr, weight_decay=recipe.weight_decay, betas=(0.9, 0.98)))
    if matrices:
        decay = recipe.weight_decay
        made.append(torch.optim.Muon(matrices, lr=recipe.lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw"))
    return made
