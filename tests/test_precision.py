"""bf16 training: the same mathematics, less exact; every stage must bear it, on processors that have it and not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.optim import Muon

from minidream.training import loop, precision, stages
from minidream.training.precision import float32_attention_on_cpu, float32_muon
from minidream.training.stages import FOLDERS, train


def test_attention_stays_in_float32_under_autocast_and_is_given_back() -> None:
    untouched = F.scaled_dot_product_attention
    query, key, value = torch.randn(3, 2, 4, 8, 16, requires_grad=True).unbind()
    mask = torch.zeros(2, 1, 8, 8, dtype=torch.bfloat16).masked_fill(torch.ones(8, 8).triu(1).bool(), -torch.inf)
    exact = untouched(query, key, value, attn_mask=mask.float())
    with torch.autocast("cpu", torch.bfloat16):
        rounded = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        with float32_attention_on_cpu():
            kept = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    assert rounded.dtype == torch.bfloat16 and kept.dtype == torch.float32
    assert torch.equal(kept, exact)
    assert F.scaled_dot_product_attention is untouched


@pytest.mark.parametrize("shape", [(6, 20), (20, 6)])
def test_muon_in_float32_takes_the_same_step_more_exactly(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def step(fast: bool) -> torch.Tensor:
        monkeypatch.setattr(precision, "bf16_is_fast", lambda: fast)
        weight = torch.nn.Parameter(torch.zeros(shape))
        weight.grad = gradient.clone()
        with float32_muon():
            Muon([weight], lr=1.0, weight_decay=0.0).step()
        return weight.detach()

    rounded, exact = step(fast=True), step(fast=False)
    assert (exact - rounded).norm() < 0.03 * exact.norm()
    assert not torch.equal(exact, rounded)


def test_every_stage_trains_in_bf16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "bf16_is_fast", lambda: True)
    rounded: list[bool] = []

    def watched(task: Any, *arguments: Any, **named: Any) -> Any:
        losses = task.losses

        def watch(*batch: Any) -> Any:
            rounded.append(torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16)
            return losses(*batch)

        task.losses = watch
        return loop.fit(task, *arguments, **named)

    monkeypatch.setattr(stages, "fit", watched)
    train("all", "nano", tmp_path, {"steps": "2"})
    assert rounded == [True] * 2 * len(FOLDERS)
    assert all((tmp_path / folder / "training.json").is_file() for folder in FOLDERS.values())
