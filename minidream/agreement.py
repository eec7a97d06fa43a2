"""Does a picture show what words say? The model is asked how likely it would say just these, of it or before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from minidream.documents import Document
from minidream.modeling.minidream import MiniDream
from minidream.processing import MiniDreamProcessor
from minidream.world.corpora import CLOSING

AGREES = 0.5  # the least `share` of a picture that shows what its text says
BATCH = 64  # pictures looked at at once


class Agreement(NamedTuple):
    """How readily a model says a text of a picture, or after words; the larger, the better.

    `share`: its words' probability, each divided by that of the likeliest word in its place; 1 for what the model would
    say by itself. `score`: the probability that it says this text, and then ends.
    """

    share: float
    score: float


@torch.no_grad()
def agreement(
    model: MiniDream, processor: MiniDreamProcessor, pictures: Sequence[Image.Image], texts: Sequence[str]
) -> list[Agreement]:
    """How each picture agrees with its text, in one pass over both; not at all, if the text does not fit into the
    context."""
    found: list[Agreement] = []
    for start in range(0, len(pictures), BATCH):
        some = [Document(pair) for pair in zip(pictures[start : start + BATCH], texts[start : start + BATCH])]
        batch = processor(some, "image_to_text", prompt_parts=[1] * len(some)).to(model.device)
        out = model(**batch.model_inputs(), image_features=model.encode_pictures(batch.pictures[batch.seen]))
        found += _readily(out.logits, batch.labels)
    return found


@torch.no_grad()
def expectation(
    model: MiniDream, processor: MiniDreamProcessor, prompts: Sequence[str], texts: Sequence[str]
) -> list[Agreement]:
    """How readily the model goes on words that end with an open bracket with each text, and closes it."""
    found: list[Agreement] = []
    for start in range(0, len(prompts), BATCH):
        closed = [text + CLOSING for text in texts[start : start + BATCH]]
        some = [Document(pair) for pair in zip(prompts[start : start + BATCH], closed)]
        batch = processor(some, "text", prompt_parts=[1] * len(some), add_eos=False).to(model.device)
        found += _readily(model(**batch.model_inputs()).logits, batch.labels)
    return found


def _readily(logits: Tensor, labels: Tensor) -> list[Agreement]:
    """The agreement of the labelled tokens of each row: logits (B, L, V), labels (B, L)."""
    targets = labels[:, 1:]  # (B, L - 1)
    likely = logits[:, :-1].double().log_softmax(-1)  # (B, L - 1, V); double, for products of many
    chosen = likely.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    said = targets != -100
    readily = (chosen - likely.amax(-1), chosen)
    sums = [((each * said).sum(1).exp() * said.any(1)).tolist() for each in readily]
    return [Agreement(*pair) for pair in zip(*sums)]
