"""Why this picture? Which of the words and pictures before it the condition, and so the picture, depends on.

The document before the picture is cut into pieces: sentences and pictures. What the frozen UNet foresees of z_0 under a
condition c, at noise and timesteps that are fixed once, lies between this picture's z_0 and another's z_0' ("why this
rather than that?"; or what is foreseen under nothing). How near to this one, where the two differ, is its share:

    s(c) = b / (a + b),   a = |f(c) - z_0|^2 and b = |f(c) - z_0'|^2, over the places where |z_0 - z_0'|^2 is large

    alone      s(piece alone) - s(nothing)       what could say it by itself
    left out   s(all) - s(all but the piece)     what nothing else says

What is said several times can be left out one by one without loss, so `alone` names true reasons more often: 0.83 of
1167 facts, against 0.55 (stories of seeds 1 and 2); but not where one sentence changed something, which by itself says
little. A share of the straight way, <f(c) - z_0', z_0 - z_0'> / |z_0 - z_0'|^2, names them less often (0.79 where s has
0.85): there *anything* in the right place goes a part of the way from one colour to another. Beside both stands
gradient x input, s(all) differentiated by the pieces' embeddings: one pass for all, to first order only.
Taught in notebook 09.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from minidream.documents import Document, Part
from minidream.errors import UserError
from minidream.score_distillation import add_noise, predict, to_sample

if TYPE_CHECKING:
    from minidream.pipeline import MiniDreamPipeline

NOISES = 8  # timesteps, each with a noise of its own
SMALL = 0.1  # of the largest squared distance between two pictures' latents: below it, a place shows the same
BEGINNING = re.compile(r"(?<=[.!?])(?=\s+\S)")  # where the next sentence begins; its space is its own, as in training


@dataclass(frozen=True)
class Explanation:
    """What a `picture` owes to each of the `pieces` before it, which belong to the document's `parts` of these numbers.

    Differences of s, below 0 where a piece speaks against this picture: what a piece brings `alone`, and what is lost
    where it is `left_out`. `gradients`: gradient x input of s.
    In Jupyter: the document, the deeper the more a piece says alone; beside it all three, gradients in shares of the
    largest.
    """

    picture: Image.Image
    pieces: tuple[Part, ...]
    parts: tuple[int, ...]
    alone: tuple[float, ...]
    left_out: tuple[float, ...]
    gradients: tuple[float, ...]

    def _repr_html_(self) -> str:
        most, steepest = max(*self.alone, 1e-9), max(*map(abs, self.gradients), 1e-9)
        cells = []
        for piece, alone, lost, slope in zip(self.pieces, self.alone, self.left_out, self.gradients):
            color = f"rgba(240, 140, 20, {max(alone, 0) / most:.2f})"  # orange: diffusion's colour in all figures
            shown = html.escape(piece.strip()) if isinstance(piece, str) else Document([piece])._repr_html_()
            told = f"alone {alone:+.2f}, left out {lost:+.2f}, gradient {slope / steepest:+.2f}"
            cells.append(f'<div style="background:{color};padding:.3em">{shown} <small>{told}</small></div>')
        style = "background:#fff;color:#222;padding:1em;max-width:40em;font-family:sans-serif"
        body = "\n".join([*cells, "<p>The picture that is explained:</p>", Document([self.picture])._repr_html_()])
        return f'<article style="{style}">\n{body}\n</article>'


def pieces_of(document: Document) -> tuple[list[Part], list[int]]:
    """Sentences and pictures of a document, and the part that each belongs to."""
    pieces: list[Part] = []
    parts: list[int] = []
    for index, part in enumerate(document):
        some = [text for text in BEGINNING.split(part) if text.strip()] if isinstance(part, str) else [part]
        pieces += some
        parts += [index] * len(some)
    return pieces, parts


def explain(
    pipe: MiniDreamPipeline, document: Document, picture: int, instead: Sequence[Image.Image | None]
) -> list[Explanation]:
    """An explanation against each picture of `instead`, or None for nothing; see `MiniDreamPipeline.explain`."""
    places = [index for index, part in enumerate(document) if isinstance(part, Image.Image)]
    if not -len(places) <= picture < len(places):
        raise UserError(f"there is no picture {picture}: the document has {len(places)}, counted from 0")
    place = places[picture]
    pieces, parts = pieces_of(document[:place])
    if not pieces:
        raise UserError("nothing stands before this picture: there is nothing that could explain it")
    shown = document[place]
    foresee = _Foresight(pipe, shown)
    with torch.no_grad():
        nothing = pipe.model.null_condition()
        rest = [_joined([*pieces[:index], *pieces[index + 1 :]]) for index in range(len(pieces))]
        without = foresee(torch.cat([pipe.condition(some) if some.parts else nothing for some in rest]))
        alone = foresee(torch.cat([pipe.condition(_joined([piece])) for piece in pieces]))
        full = foresee(pipe.condition(Document(pieces)))  # (1, C, h, w)
        empty = foresee(nothing)
    others = [empty if other is None else _Foresight(pipe, other).latents for other in instead]
    shares = [_Share(foresee.latents[0], other[0]) for other in others]
    gradients = _gradients_times_inputs(pipe, pieces, foresee, shares)
    return [
        Explanation(
            shown,
            tuple(pieces),
            tuple(parts),
            tuple((share(alone) - share(empty)).tolist()),
            tuple((share(full) - share(without)).tolist()),
            tuple(gradient.tolist()),
        )
        for share, gradient in zip(shares, gradients)
    ]


class _Share:
    """s: how near foreseen latents are to `this` rather than to `that` (C, h, w), from 0 to 1, where these differ."""

    def __init__(self, this: Tensor, that: Tensor) -> None:
        apart = (this - that).square().sum(0)  # (h, w)
        self.this, self.that, self.places = this, that, apart >= SMALL * apart.max()

    def __call__(self, foreseen: Tensor) -> Tensor:
        """Shares (N,) of foreseen latents (N, C, h, w)."""
        a, b = ((foreseen - end).square()[:, :, self.places].sum((1, 2)) for end in (self.this, self.that))
        return b / (a + b).clamp(min=1e-12)


def _joined(pieces: list[Part]) -> Document:
    """Pieces as a document; a text that now begins it begins without its space, as documents do."""
    first, *others = [*pieces, ""]
    return Document([part for part in (first.lstrip() if isinstance(first, str) else first, *others) if part != ""])


class _Foresight:
    """f: what the UNet foresees of a picture at fixed noise and timesteps, under any condition."""

    def __init__(self, pipe: MiniDreamPipeline, picture: Image.Image) -> None:
        self.decoder = pipe.model.decoder
        self.latents = self.decoder.encode(pipe.processor.picture(picture).unsqueeze(0))  # (1, C, h, w)
        total = len(self.decoder.scheduler.alphas_cumprod)
        # The noisier part: there the picture is decided; later the UNet sees it, and hardly asks the condition.
        self.timesteps = (torch.linspace(0.4, 1, NOISES) * (total - 1)).long().to(self.latents.device)
        noise = torch.randn((NOISES, *self.latents.shape[1:]), generator=torch.Generator().manual_seed(0))
        latents = self.latents.expand(NOISES, -1, -1, -1)
        self.noisy = add_noise(self.decoder.scheduler, latents, noise.to(latents.device), self.timesteps)

    def __call__(self, condition: Tensor) -> Tensor:
        """Foreseen z_0 (N, C, h, w), the mean over timesteps, under conditions (N, Q, D)."""
        count = len(condition)
        noisy, times = self.noisy.repeat(count, 1, 1, 1), self.timesteps.repeat(count)
        prediction = predict(self.decoder.unet, noisy, times, condition.repeat_interleave(NOISES, dim=0))
        foreseen = to_sample(prediction, noisy, self.decoder.scheduler, times)
        return foreseen.unflatten(0, (count, NOISES)).mean(1)


def _gradients_times_inputs(
    pipe: MiniDreamPipeline, pieces: list[Part], foresee: _Foresight, shares: list[_Share]
) -> list[Tensor]:
    """For each share: the sum over each piece's embeddings of embedding times gradient, (pieces,)."""
    model, processor = pipe.model, pipe.processor
    batch = processor([Document(pieces)], "text_to_image", generation_prompt=True).to(model.device)
    features = model.encode_pictures(batch.pictures[batch.seen]) if len(batch.seen) else None
    lengths = [len(processor.encode(p)) if isinstance(p, str) else processor.image_block_length for p in pieces]
    found = []
    with torch.enable_grad():
        embeddings = model.embed(batch.input_ids, batch.query_mask, batch.patch_mask, features)
        embeddings = embeddings.detach().requires_grad_()
        hidden = model.read(embeddings, batch.attention_mask, batch.position_ids).last_hidden_state
        foreseen = foresee(model.conditions(hidden, batch.query_mask))  # (1, C, h, w)
        for share in shares:
            (gradient,) = torch.autograd.grad(share(foreseen).sum(), embeddings, retain_graph=True)
            tokens = (gradient * embeddings).sum(-1)[0].detach()  # (L,)
            found.append(torch.stack([each.sum() for each in tokens[1 : 1 + sum(lengths)].split(lengths)]))  # 1: <s>
    return found
