"""Does a picture show what words say, and clearly? The model is asked how likely it would say just these, of it or
before it; the image decoder, how nearly the picture stays as it is, for the eye forgives a smudge; and where several
were drawn for the same words, they are compared, for a fault that comes from the noise is not in most of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from PIL import Image

from minidream.batch import IGNORED, batches
from minidream.documents import Document
from minidream.modeling.minidream import MiniDream
from minidream.processing import MiniDreamProcessor
from minidream.world.corpora import CLOSING

FITS = 0.75  # the least `fitness` of a picture that is not drawn again
SMUDGED = 2e-4  # the mean squared change, of pixels from 0 to 1, that leaves e^-1 of a picture's clarity


class Agreement(NamedTuple):
    """How readily a model says a text of a picture, or after words; the larger, the better.

    `share`: its words' probability, each divided by that of the likeliest word in its place; 1 for what the model would
    say by itself. `score`: the probability that it says this text and ends there (by </s>, or the closing bracket).
    """

    share: float
    score: float


def agreement(
    model: MiniDream, processor: MiniDreamProcessor, pictures: Sequence[Image.Image], texts: Sequence[str]
) -> list[Agreement]:
    """How each picture agrees with its text, in one pass over both; not at all, if the text does not fit into the
    context."""
    return _readily(model, processor, [Document(pair) for pair in zip(pictures, texts)], "image_to_text")


def fitness(
    model: MiniDream, processor: MiniDreamProcessor, pictures: Sequence[Image.Image], texts: Sequence[str]
) -> list[float]:
    """How well each picture shows its text, from 0 to 1: the `share` of its agreement, times its clarity."""
    found = zip(agreement(model, processor, pictures, texts), clarity(model, processor, pictures))
    return [read.share * clear for read, clear in found]


@torch.no_grad()
def clarity(model: MiniDream, processor: MiniDreamProcessor, pictures: Sequence[Image.Image]) -> list[float]:
    """How nearly each picture stays as it is when the decoder encodes and decodes it, 0 to 1: exp(-change / `SMUDGED`),
    the change in mean squares. Sharp edges and flat colours stay; smudges, and things half mixed, go on changing. The
    change is that of a second time, for the first also rounds off the edges of pictures that are not the decoder's own.
    """
    found: list[float] = []
    for some in batches(pictures):
        once = model.decoder.rebuild(torch.stack([processor.picture(picture) for picture in some]))
        change = ((once.float() - model.decoder.rebuild(once).float()) / 255).square().mean((1, 2, 3))
        found += (-change / SMUDGED).exp().tolist()
    return found


@torch.no_grad()
def consensus(
    model: MiniDream, processor: MiniDreamProcessor, tries: Sequence[Sequence[Image.Image]]
) -> list[list[float]]:
    """How near each of the pictures drawn for the same words is to the middle of them, 0 to 1: exp(-d / mean d), d its
    mean squared distance to their median in what the vision encoder sees. One alone, and equal ones, have 1; two are
    equally near. Self-consistency (Wang et al., arXiv 2203.11171), of pictures."""
    if not tries:
        return []
    shown = [processor.picture(picture) for some in tries for picture in some]
    seen = [model.encode_pictures(torch.stack(some).to(model.device)).flatten(1).float() for some in batches(shown)]
    found: list[list[float]] = []
    for features in torch.cat(seen).split([len(some) for some in tries]):  # (n, P * C) each
        apart = (features - features.quantile(0.5, dim=0)).square().mean(1)  # (n,)
        found.append((-apart / apart.mean().clamp(min=1e-6)).exp().tolist())  # less than that is rounding
    return found


def expectation(
    model: MiniDream, processor: MiniDreamProcessor, prompts: Sequence[str], texts: Sequence[str]
) -> list[Agreement]:
    """How readily the model goes on words that end with an open bracket with each text, and closes it."""
    documents = [Document([prompt, text + CLOSING]) for prompt, text in zip(prompts, texts)]
    return _readily(model, processor, documents, "text", add_eos=False)


@torch.no_grad()
def _readily(
    model: MiniDream, processor: MiniDreamProcessor, documents: Sequence[Document], mode: str, add_eos: bool = True
) -> list[Agreement]:
    """How readily the model says the second part of each document after the first."""
    found: list[Agreement] = []
    for some in batches(documents):
        batch = processor(some, mode, prompt_parts=[1] * len(some), add_eos=add_eos).to(model.device)
        seen = model.encode_pictures(batch.pictures) if len(batch.pictures) else None
        logits, targets = model(**batch.model_inputs(), image_features=seen).logits[:, :-1], batch.labels[:, 1:]
        likely = logits.double().log_softmax(-1)  # (B, L - 1, V); double, for products of many
        chosen = likely.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)  # (B, L - 1)
        said = targets != IGNORED
        sums = [((each * said).sum(1).exp() * said.any(1)).tolist() for each in (chosen - likely.amax(-1), chosen)]
        found += [Agreement(*pair) for pair in zip(*sums)]
    return found
