"""Where each dream query looks: the UNet's cross-attention over its condition, caught while a picture is drawn.

The layers are diffusers' own and compute what they always do; a hook beside each asks the same layer for its attention
once more, of the same inputs. So the picture drawn is the same, bit for bit. Taught in notebook 05.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minidream.errors import UserError


class AttentionMaps:
    """What `capture_attention` caught. Axes: T calls of the UNet (the sampler's timesteps, noisiest first), layers in
    the order of the forward pass, heads, Q queries, h x w places of the largest layer."""

    def __init__(self, pictures: int) -> None:
        self.pictures = pictures
        self._caught: dict[str, list[Tensor]] = {}  # by layer, one for each call: (M, heads, N, Q)

    @property
    def layers(self) -> list[str]:
        """The names of the cross-attention layers."""
        return list(self._caught)

    @torch.no_grad()
    def catch(self, name: str, layer: Any, hidden: Tensor, context: Tensor) -> None:
        """Keep a layer's attention of hidden states (B, N, C) over a context (B, Q, D), for the last M of B, which is
        M or 2 M. Raises `UserError` for another number."""
        if len(hidden) not in (self.pictures, 2 * self.pictures):
            raise UserError(f"{self.pictures} pictures were to be caught: draw as many at once")
        hidden, context = hidden[-self.pictures :], context[-self.pictures :]
        query, key = layer.head_to_batch_dim(layer.to_q(hidden)), layer.head_to_batch_dim(layer.to_k(context))
        scores = layer.get_attention_scores(query, key)  # (M * heads, N, Q), each place's shares add up to 1
        self._caught.setdefault(name, []).append(scores.unflatten(0, (len(hidden), -1)).float())

    def of(self, picture: int = 0) -> Tensor:
        """The maps of one picture, (T, layers, heads, Q, h, w). At each place they add up to 1 over the queries.

        A layer of lower resolution is enlarged by repeating its values ("nearest"), so no share is made up between
        two places. Where layers differ in their number of heads (Stable Diffusion 2), heads are averaged to one.

        Raises `UserError` if nothing was caught, or for a picture that was not to be.
        """
        if not self._caught:
            raise UserError("no attention was caught: draw inside `with capture_attention(unet) as maps:`")
        if not 0 <= picture < self.pictures:
            raise UserError(f"picture {picture} is not among the {self.pictures} that were to be caught")
        layers = [torch.stack([call[picture] for call in calls]) for calls in self._caught.values()]  # (T, heads, N, Q)
        if len({layer.shape[1] for layer in layers}) > 1:
            layers = [layer.mean(1, keepdim=True) for layer in layers]
        side = max(math.isqrt(layer.shape[2]) for layer in layers)
        return torch.stack([_enlarged(layer, side) for layer in layers], 1)


@contextmanager
def capture_attention(unet: Any, pictures: int = 1) -> Iterator[AttentionMaps]:
    """Catch the cross-attention of every call of `unet` inside the block, for `pictures` drawn at once: as many as are.

    With guidance the UNet sees each picture twice, first under the null condition; only the conditional half is kept.
    `with capture_attention(pipe.model.decoder.unet) as maps: pipe.draw(caption)`, then `maps.of(0)`.
    """
    maps = AttentionMaps(pictures)

    def hook(name: str) -> Any:
        def catch(layer: Any, arguments: tuple[Tensor, ...], named: dict[str, Any], _: Tensor) -> None:
            maps.catch(name, layer, arguments[0], named["encoder_hidden_states"])

        return catch

    # diffusers' transformer blocks call their cross-attention attn2.
    layers = [(name, layer) for name, layer in unet.named_modules() if name.endswith("attn2")]
    handles = [layer.register_forward_hook(hook(name), with_kwargs=True) for name, layer in layers]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def _enlarged(layer: Tensor, side: int) -> Tensor:
    """(T, heads, N, Q) with N = n^2 places -> (T, heads, Q, side, side)."""
    own = math.isqrt(layer.shape[2])
    if own**2 != layer.shape[2]:
        raise UserError(f"a layer has {layer.shape[2]} places, which is no square: draw square pictures")
    maps = layer.transpose(2, 3).unflatten(3, (own, own))  # (T, heads, Q, n, n)
    return F.interpolate(maps.flatten(0, 1), size=(side, side), mode="nearest").unflatten(0, maps.shape[:2])
