"""Whitening: the same layer before, between and after; what it reads becomes white; steps treat directions alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from minidream.training.dream import TRAINED, DreamTask
from minidream.training.recipes import recipe_for
from minidream.training.whitening import RIDGE, Whitened, unwhiten, whiten


def states_of(count: int = 4000) -> torch.Tensor:
    """Samples that vary 10 times as much along one direction as along another."""
    spread = torch.tensor([3.0, 1.0, 0.5, 0.3])
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1)))[0]
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(0)) * spread @ turn


def test_a_layer_says_the_same_before_between_and_after() -> None:
    layer, states = nn.Linear(4, 3, bias=False), states_of()
    before = layer(states)
    whiten(layer, states)
    torch.testing.assert_close(layer(states), before, atol=1e-4, rtol=1e-4)
    assert [name for name, _ in layer.named_parameters()] == ["parametrizations.weight.original"]
    unwhiten(layer)
    torch.testing.assert_close(layer(states), before, atol=1e-4, rtol=1e-4)
    assert [name for name, _ in layer.named_parameters()] == ["weight"] and layer.weight.requires_grad
    unwhiten(layer)  # of a plain layer: nothing to do


def test_what_is_trained_at_half_precision_is_what_is_saved() -> None:
    layer = nn.Linear(4, 3, bias=False)
    whiten(layer, states_of())
    with torch.autocast("cpu", torch.bfloat16):
        trained = layer.weight.detach().clone()
    unwhiten(layer)
    assert trained.dtype == torch.float32 and torch.equal(trained, layer.weight)


def test_what_is_read_is_white_but_for_the_ridge() -> None:
    states = states_of()
    white = states @ Whitened(states).whitener
    variances = torch.linalg.eigvalsh(white.T @ white / len(white))
    true = torch.linalg.eigvalsh(states.T @ states / len(states))
    torch.testing.assert_close(variances, true / (true + RIDGE * true.mean()), atol=1e-3, rtol=1e-3)
    assert variances.max() / variances.min() < 0.1 * true.max() / true.min()


def test_a_step_finds_a_direction_that_hardly_varies() -> None:
    """The target is read off the direction of the least spread but one: plain steps hardly see it. Both take steps as
    long as what they read allows."""
    states = states_of()
    weak = torch.linalg.eigh(states.T @ states)[1][:, 1:2]  # (4, 1)
    left = {}
    for white in (False, True):
        torch.manual_seed(0)
        layer = nn.Linear(4, 1, bias=False)
        if white:
            whiten(layer, states)
        read = states @ Whitened(states).whitener if white else states
        longest = torch.linalg.eigvalsh(read.T @ read / len(read)).max().item()
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.5 / longest)
        for _ in range(50):
            optimizer.zero_grad()
            (layer(states) - states @ weak).square().mean().backward()
            optimizer.step()
        left[white] = (layer.weight.detach() @ weak - 1).abs().item()
    assert left[True] < 0.01 < 0.1 < left[False]


def test_stage_one_is_whitened_and_saves_a_plain_projector(nano: Path, tmp_path: Path) -> None:
    sizes, recipe = recipe_for("align", "nano")
    assert recipe.whitened
    task = DreamTask(sizes, replace(recipe, steps=1), nano, None)
    plain = task.modules.condition_projector.weight.detach().clone()
    task.whiten()
    torch.testing.assert_close(task.modules.condition_projector.weight, plain, atol=1e-4, rtol=1e-4)
    task.save(tmp_path)
    from safetensors.torch import load_file

    saved = load_file(tmp_path / TRAINED)
    torch.testing.assert_close(saved["condition_projector.weight"], plain, atol=1e-4, rtol=1e-4)
    assert not [name for name in saved if "parametrizations" in name]
