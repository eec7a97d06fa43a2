"""Notebook 01: the exercises, and a small language model to be trained in seconds."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from minidream.teaching import Exercise, Mistake
from minidream.world.captions import plain_caption
from minidream.world.scene import random_scene


def newborn(vocabulary: int, seed: int = 0) -> Any:
    """A `LlamaForCausalLM` of two layers of width 64 that has learned nothing."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config)


def one_thing_captions(tokenizer: PreTrainedTokenizerFast, rng: random.Random, count: int) -> Tensor:
    """Token ids (count, L) of plain captions of one thing, drawn as training draws them: all of one length."""
    told = [plain_caption(random_scene(rng, 1)) for _ in range(count)]
    return torch.tensor([tokenizer(text).input_ids for text in told])


COUNTING = Exercise(
    "a smaller world",
    reference=2 * ((3 + 1) ** 2 - 1),
    right=lambda answer: answer == 30,
    mistakes=(
        Mistake(18, lambda answer: answer == 18, "a place may also be empty"),
        Mistake(32, lambda answer: answer == 32, "nearly: a scene holds at least one thing"),
        Mistake(15, lambda answer: answer == 15, "that is on one background; there are two"),
        Mistake(31, lambda answer: answer == 31, "the empty picture exists once for each background"),
        Mistake(12, lambda answer: answer == 12, "those are the scenes of one thing: two places, three kinds"),
    ),
)

_TARGETS = {"words", "<dream>", "</s>"}


def _set(answer: Iterable[str]) -> set[str]:
    return set(answer)


TARGETS = Exercise(
    "what is taught",
    reference=["words", "<dream>", "</s>"],
    right=lambda answer: _set(answer) == _TARGETS,
    mistakes=(
        Mistake(
            ["words", "</s>"],
            lambda answer: "<dream>" not in _set(answer),
            "who decides then where a picture belongs?",
        ),
        Mistake(
            ["words", "<dream>", "</s>", "queries"],
            lambda answer: "queries" in _set(answer),
            "the queries are put there, not written; they are taught through the picture that they make",
        ),
        Mistake(
            ["words", "<dream>", "</s>", "patches"],
            lambda answer: "patches" in _set(answer),
            "patches are vectors of a seen picture: no word of the vocabulary is their name",
        ),
        Mistake(
            ["words", "<dream>", "</s>", "<s>"],
            lambda answer: "<s>" in _set(answer),
            "nothing stands before the first token from which it could be predicted",
        ),
        Mistake(
            ["words", "<dream>", "</s>", "<dream_end>"],
            lambda answer: bool(_set(answer) & {"<dream_end>", "<im_start>", "<im_end>"}),
            "once <dream> is said, the loop puts in both blocks whole: their marks need no prediction",
        ),
        Mistake(
            ["words", "<dream>"],
            lambda answer: "</s>" not in _set(answer),
            "a model that is never taught to stop writes for ever",
        ),
    ),
)


def _near(answer: float, wanted: float) -> bool:
    return math.isclose(float(answer), wanted, abs_tol=0.02)


FLOOR = Exercise(
    "the floor of a caption",
    reference=math.log(60),
    right=lambda answer: _near(answer, math.log(60)),
    mistakes=(
        Mistake(math.log(72), lambda answer: _near(answer, math.log(72)), "six of the 36 pairs are never told"),
        Mistake(
            math.log(720),
            lambda answer: _near(answer, math.log(720)),
            "that is the floor when place and background are open too; here they are certain and cost nothing",
        ),
        Mistake(60, lambda answer: _near(answer, 60), "that is how many captions there are; the loss is a logarithm"),
        Mistake(
            math.log2(60),
            lambda answer: _near(answer, math.log2(60)),
            "that is in bits; cross-entropy in PyTorch takes the natural logarithm",
        ),
    ),
)
