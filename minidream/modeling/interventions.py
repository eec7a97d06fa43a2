"""What does a dream query do? Take it away, exchange it, compare it: small operations on conditions (M, Q, D).

Letters: M pictures, Q queries, D the condition's width. Taught in notebook 05.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from minidream.errors import UserError

Which = int | Iterable[int]


def knock_out(condition: Tensor, queries: Which, null_condition: Tensor) -> Tensor:
    """The condition (M, Q, D) with some queries saying what they say of nothing: their rows of the null condition
    (1 or M, Q, D). Zeros would be a word that the UNet has never heard.

    Raises `UserError` for a query that is not there or shapes that do not fit.
    """
    return _replaced(condition, queries, null_condition)


def swap(one: Tensor, other: Tensor, queries: Which) -> tuple[Tensor, Tensor]:
    """Two conditions (M, Q, D) of different contexts with some of their queries exchanged.

    Raises `UserError` for a query that is not there or shapes that do not fit.
    """
    return _replaced(one, queries, other), _replaced(other, queries, one)


def query_similarity(features: Tensor) -> Tensor:
    """How alike queries are across prompts, (Q, Q): [q, r] is the cosine of query q in one prompt and query r in
    *another*, averaged over all pairs of different prompts.

    `features`: (M, Q, ...), for M prompts: conditions, hidden states, or attention maps. What all queries share in
    all prompts is subtracted first, or everything would look alike. A diagonal above the rest: a query has a part of
    its own, whatever the prompt.

    Raises `UserError` for fewer than two prompts.
    """
    if len(features) < 2:
        raise UserError("similarity across prompts needs at least two prompts")
    flat = features.detach().float().flatten(2)  # (M, Q, F)
    unit = torch.nn.functional.normalize(flat - flat.mean((0, 1)), dim=-1)
    total = unit.sum(0)
    pairs = total @ total.T - torch.einsum("mqf,mrf->qr", unit, unit)  # all pairs of prompts, less each with itself
    return pairs / (len(features) * (len(features) - 1))


def _replaced(condition: Tensor, queries: Which, source: Tensor) -> Tensor:
    chosen = [queries] if isinstance(queries, int) else list(queries)
    count = condition.shape[1]
    if any(not 0 <= query < count for query in chosen):
        raise UserError(f"queries are numbered from 0 to {count - 1}, got {chosen}")
    if source.shape[1:] != condition.shape[1:] or len(source) not in (1, len(condition)):
        raise UserError(f"conditions {tuple(condition.shape)} and {tuple(source.shape)} do not fit together")
    changed = condition.clone()
    changed[:, chosen] = source[:, chosen].to(condition)
    return changed
