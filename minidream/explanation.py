"""Why this picture? Which of the words and pictures before it the condition, and so the picture, depends on.

The document before the picture is cut into pieces: sentences and pictures. What the frozen UNet foresees of z_0, at
noise and timesteps that are fixed once, is compared with and without a piece:

    left out   <f(all) - f(all but s), d> / |d|^2       f: foreseen z_0, mean over noise and timesteps
    alone      <f(s alone) - f(nothing), d> / |d|^2     d: f(all) - f(nothing); or z_0 - z_0' where "why this rather
    effect     the mean of both                            than that picture?" is asked

So each is a share of the way from that to this. What several pieces say can be left out one by one without loss, and a
sentence that only changes something says little alone; the Shapley value is the mean over all orders in which pieces
can come, of which these are the last place and the first. All orders would take 2^n passes instead of 2 n, and name
true reasons hardly more often (0.76 instead of 0.75 of 218 facts). The distance of the conditions themselves would be
cheaper, but counts what the UNet does not heed. Beside it stands gradient x input, <f(all), d> / |d|^2 differentiated
by the pieces' embeddings: one pass for all, to first order only.
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
BEGINNING = re.compile(r"(?<=[.!?])(?=\s+\S)")  # where the next sentence begins; its space is its own, as in training


@dataclass(frozen=True)
class Explanation:
    """What a `picture` owes to each of the `pieces` before it, which belong to the document's `parts` of these numbers.

    Shares of the way from what is there otherwise to this picture, below 0 where a piece speaks against it: what is
    lost where a piece is `left_out`, what it brings `alone`, and their mean, its `effects`. `gradients`: gradient x
    input of the same quantity. In Jupyter: the document, the deeper the larger the effect.
    """

    picture: Image.Image
    pieces: tuple[Part, ...]
    parts: tuple[int, ...]
    left_out: tuple[float, ...]
    alone: tuple[float, ...]
    gradients: tuple[float, ...]

    @property
    def effects(self) -> tuple[float, ...]:
        """The mean of what each piece takes away when it is left out and of what it brings alone."""
        return tuple((lost + brought) / 2 for lost, brought in zip(self.left_out, self.alone))

    def _repr_html_(self) -> str:
        most = max(*self.effects, 1e-9)
        cells = []
        for piece, effect in zip(self.pieces, self.effects):
            color = f"rgba(240, 140, 20, {max(effect, 0) / most:.2f})"  # orange: diffusion's colour in all figures
            shown = html.escape(piece.strip()) if isinstance(piece, str) else Document([piece])._repr_html_()
            cells.append(f'<div style="background:{color};padding:.3em">{shown} <small>{effect:+.2f}</small></div>')
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
    ways = []
    for other in instead:
        way = (full - empty if other is None else foresee.latents - _Foresight(pipe, other).latents)[0]  # (C, h, w)
        ways.append(way / way.square().sum().clamp(min=1e-12))
    gradients = _gradients_times_inputs(pipe, pieces, foresee, ways)
    lost, brought = ([(moved * way).sum((1, 2, 3)) for way in ways] for moved in (full - without, alone - empty))
    return [
        Explanation(shown, tuple(pieces), tuple(parts), *(tuple(each.tolist()) for each in shares))
        for shares in zip(lost, brought, gradients)  # each (pieces,)
    ]


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
    pipe: MiniDreamPipeline, pieces: list[Part], foresee: _Foresight, ways: list[Tensor]
) -> list[Tensor]:
    """For each way: the sum over each piece's embeddings of embedding times gradient, (pieces,)."""
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
        for way in ways:
            (gradient,) = torch.autograd.grad((foreseen * way).sum(), embeddings, retain_graph=True)
            tokens = (gradient * embeddings).sum(-1)[0].detach()  # (L,)
            found.append(torch.stack([each.sum() for each in tokens[1 : 1 + sum(lengths)].split(lengths)]))  # 1: <s>
    return found
