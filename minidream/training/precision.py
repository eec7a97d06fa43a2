"""Which precision a device trains fastest in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import _muon


def bf16_is_fast() -> bool:
    """Whether the device multiplies in bf16 natively; a CPU that only imitates it is several times slower so."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


@contextmanager
def float32_attention_on_cpu() -> Iterator[None]:
    """Keep attention in float32 while autocast does the rest in bf16.

    On a CPU, the backward of bf16 attention is 7 times slower than float32's: half of a training step went there.
    """
    attention = F.scaled_dot_product_attention

    def in_float32(query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, **options: Any) -> Tensor:
        if query.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return attention(query, key, value, attn_mask=attn_mask, **options)
        if attn_mask is not None and attn_mask.is_floating_point():
            attn_mask = attn_mask.float()
        with torch.autocast("cpu", enabled=False):
            return attention(query.float(), key.float(), value.float(), attn_mask=attn_mask, **options)

    F.scaled_dot_product_attention = in_float32  # type: ignore[assignment]
    try:
        yield
    finally:
        F.scaled_dot_product_attention = attention


@contextmanager
def float32_muon() -> Iterator[None]:
    """Let Muon orthogonalise in float32 where bf16 is only imitated: a quarter of a training step went there."""
    original = _muon._zeropower_via_newtonschulz
    if not bf16_is_fast():
        _muon._zeropower_via_newtonschulz = _orthogonalised
    try:
        yield
    finally:
        _muon._zeropower_via_newtonschulz = original


def _orthogonalised(gradient: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """A gradient (rows, columns) with all its singular values near 1: Muon's Newton-Schulz iteration."""
    a, b, c = coefficients
    wide = gradient if gradient.shape[0] <= gradient.shape[1] else gradient.T
    wide = wide / wide.norm().clamp(min=eps)
    for _ in range(steps):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide if gradient.shape[0] <= gradient.shape[1] else wide.T
