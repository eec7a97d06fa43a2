"""Notebook 06: how strongly each loss pulls at a model's parts, a picture's background, and the exercises."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from minidream.teaching import Exercise, Mistake
from minidream.world.scene import BACKGROUNDS


def parts_of(model: Any) -> dict[str, list[Tensor]]:
    """What stage II moves, by the names that a figure shows."""
    return {
        "condition projector": list(model.condition_projector.parameters()),
        "dream queries": [model.dream_queries],
        "visual projector": list(model.visual_projector.parameters()),
        "word embeddings": [model.llm.get_input_embeddings().weight],
        "LLM layers": [p for name, p in model.llm.named_parameters() if ".layers." in name],
        "head": [model.llm.get_output_embeddings().weight],
    }


def gradient_norms(loss: Tensor, parts: dict[str, list[Tensor]]) -> dict[str, float]:
    """How strongly a loss pulls at each part: the norm of its gradient, 0 where it does not reach."""
    flat = [parameter for part in parts.values() for parameter in part]
    gradients = iter(torch.autograd.grad(loss, flat, retain_graph=True, allow_unused=True))
    return {
        name: sum(0.0 if (g := next(gradients)) is None else g.square().sum().item() for _ in part) ** 0.5
        for name, part in parts.items()
    }


def border(pictures: Tensor) -> list[str]:
    """The background of pictures (N, 3, H, W), uint8: the colour nearest to the median of the outermost pixels.

    Whatever stands in the middle, readable or not, does not matter.
    """
    rim = torch.ones(pictures.shape[-2:], dtype=torch.bool)
    rim[1:-1, 1:-1] = False
    found = pictures[:, :, rim].float().median(-1).values  # (N, 3)
    distances = torch.cdist(found, torch.tensor(list(BACKGROUNDS.values())).float())
    return [list(BACKGROUNDS)[index] for index in distances.argmin(1).tolist()]


# -- the exercises ----------------------------------------------------------------------------------------------------

_TAUGHT = {"<dream>", "</s>"}

TAUGHT = Exercise(
    "what an edit teaches",
    reference=_TAUGHT,
    right=lambda answer: set(answer) == _TAUGHT,
    mistakes=(
        Mistake(
            {"words", "<dream>", "</s>"},
            lambda answer: "words" in answer,
            "the order to change the picture is the reader's: the model shall not learn to give orders",
        ),
        Mistake(
            {"<dream>", "q", "</s>"},
            lambda answer: bool({"q", "p"} & set(answer)),
            "q and p are places for vectors, no word of the vocabulary stands there: nothing to predict",
        ),
        Mistake(
            {"<dream>", "<im_start>", "</s>"},
            lambda answer: bool({"<dream_end>", "<im_start>", "<im_end>", "<s>"} & set(answer)),
            "these follow by themselves: whoever runs the model writes them, the model never chooses them",
        ),
        Mistake(
            {"<dream>"},
            lambda answer: set(answer) == {"<dream>"},
            "and when is the document finished? Somebody has to say so",
        ),
        Mistake(
            {"</s>"},
            lambda answer: set(answer) == {"</s>"},
            "such a model would never draw: who says that a picture comes?",
        ),
    ),
)


def _heard(answer: Callable[[Tensor, Tensor], Any]) -> list[list[bool]]:
    """Two terms of a toy row, asked one after the other: the later hears four of five places, the earlier two."""
    embeddings = torch.ones(1, 5, 4, requires_grad=True)
    hidden = embeddings.cumsum(1)  # causal: each place hears itself and those before it
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0])
    return [[bool(heard) for heard in answer((hidden[0, k] * signs).sum(), embeddings)] for k in (3, 1)]


_FOUR, _TWO = [True] * 4 + [False], [True] * 2 + [False] * 3


def _reaches(term: Tensor, embeddings: Tensor) -> list[bool]:
    (gradient,) = torch.autograd.grad(term, embeddings, retain_graph=True)
    return [bool(each.any()) for each in gradient[0]]


def _accumulates(term: Tensor, embeddings: Tensor) -> list[bool]:
    term.backward(retain_graph=True)
    assert embeddings.grad is not None
    return [bool(each.any()) for each in embeddings.grad[0]]


HEARS = Exercise(
    "what a term hears",
    reference=_reaches,
    right=lambda answer: _heard(answer) == [_FOUR, _TWO],
    mistakes=(
        Mistake(
            _accumulates,
            lambda answer: _heard(answer) == [_FOUR, _FOUR],
            "backward() adds to .grad: asked about a second term, you still report the first one's gradient",
        ),
        Mistake(
            lambda term, embeddings: torch.autograd.grad(term, embeddings, retain_graph=True)[0][0].sum(-1) != 0,
            lambda answer: _heard(answer) == [[False] * 5] * 2,
            "the components of one place's gradient may add up to 0 though none is 0: ask whether any differs from 0",
        ),
    ),
)

Parts = Sequence[tuple[float, int, float, int]]  # of a batch: language loss, taught tokens, dream loss, pictures


def _wholes(answer: Callable[[Parts, float, float], float]) -> tuple[float, float]:
    """Two parts of unequal size; then one without a taught token (not a number if it divides by zero)."""
    both = float(answer([(4.0, 1, 0.5, 1), (1.0, 3, 0.1, 3)], 1, 10))
    try:
        return both, float(answer([(0.0, 0, 0.2, 2)], 1, 10))
    except ZeroDivisionError:
        return both, math.nan


def _is(found: tuple[float, float], first: float, second: float) -> bool:
    return abs(found[0] - first) < 1e-6 and abs(found[1] - second) < 1e-6


def _whole(parts: Parts, w_lm: float, w_dm: float, least: int = 1) -> float:
    words = sum(loss * count for loss, count, _, _ in parts) / max(least, sum(count for _, count, _, _ in parts))
    pictures = sum(loss * count for _, _, loss, count in parts) / max(least, sum(count for *_, count in parts))
    return w_lm * words + w_dm * pictures


WHOLE = Exercise(
    "a batch in parts",
    reference=_whole,
    right=lambda answer: _is(_wholes(answer), 3.75, 2.0),
    mistakes=(
        Mistake(
            lambda parts, w_lm, w_dm: _whole(parts, w_lm, w_dm, least=0),
            lambda answer: math.isnan(_wholes(answer)[1]),
            "a batch without a single taught token divides by zero: its language loss is 0",
        ),
        Mistake(
            lambda parts, w_lm, w_dm: sum(w_lm * words + w_dm * dream for words, _, dream, _ in parts) / len(parts),
            lambda answer: _is(_wholes(answer), 5.5, 2.0),
            "a mean of means: the one token of the first part counts as much as the three of the second",
        ),
        Mistake(
            lambda parts, w_lm, w_dm: sum(w_lm * words + w_dm * dream for words, _, dream, _ in parts),
            lambda answer: _is(_wholes(answer), 11.0, 2.0),
            "a sum grows with the number of parts: what is wanted does not depend on how the batch is cut",
        ),
    ),
)
