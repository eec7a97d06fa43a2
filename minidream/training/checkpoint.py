"""Checkpoints that are whole or not there: written beside, synced, renamed. safetensors and JSON only."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from minidream.errors import UserError
from minidream.weights import save_manifest, verify_manifest


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder that takes the place of `target` only if the block ends without an error."""
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    restore(target)
    temporary = target.with_name(f".{target.name}.writing")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        save_manifest(temporary)
        for file in temporary.rglob("*"):
            if file.is_file():
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())
        old = _old(target)
        shutil.rmtree(old, ignore_errors=True)
        try:
            if target.exists():
                os.rename(target, old)
            os.rename(temporary, target)
        except BaseException:  # Ctrl-C, too
            restore(target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _old(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def restore(target: Path) -> None:
    """Put back what `atomic_folder` had moved away when it was killed between its two renames."""
    if not target.exists() and _old(target).is_dir():
        os.rename(_old(target), target)


def save_checkpoint(
    folder: Path,
    state: dict[str, Any],
    parameters: dict[str, torch.Tensor],
    optimizers: Sequence[torch.optim.Optimizer],
) -> None:
    """Write trained parameters, the optimizers' moments, and as JSON the `state` of the run: how far it is, and its
    "settings"."""
    moments: dict[str, torch.Tensor] = {}
    for index, optimizer in enumerate(optimizers):
        for number, own in optimizer.state_dict()["state"].items():
            for name, value in own.items():
                moments[f"{index}.{number}.{name}"] = torch.as_tensor(value).contiguous()
    with atomic_folder(folder) as temporary:
        save_file(
            {name: value.detach().contiguous().clone() for name, value in parameters.items()},
            temporary / "model.safetensors",
        )
        save_file(moments, temporary / "optimizer.safetensors")
        (temporary / "state.json").write_text(json.dumps(state))


def load_checkpoint(
    folder: Path,
    settings: dict[str, Any],
    parameters: dict[str, torch.Tensor],
    optimizers: Sequence[torch.optim.Optimizer],
) -> dict[str, Any]:
    """Restore in place what `save_checkpoint` wrote; returns its `state`. Raises `UserError` if it is damaged, or of a
    run with other settings."""
    verify_manifest(folder)
    state: dict[str, Any] = json.loads((folder / "state.json").read_text())
    wanted, had = json.loads(json.dumps(settings)), state.get("settings", {})
    differs = [f"{key} was {had.get(key)}, not {value}" for key, value in wanted.items() if had.get(key) != value]
    if differs:
        raise UserError(
            f"{folder} is of another run: {'; '.join(differs)}. Give the same settings, or leave out --resume"
        )
    saved = load_file(folder / "model.safetensors")
    if {name: value.shape for name, value in saved.items()} != {name: p.shape for name, p in parameters.items()}:
        raise UserError(f"{folder} is of a run with other settings: give the same ones, or start without --resume")
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(saved[name])
    all_moments: list[dict[int, dict[str, torch.Tensor]]] = [{} for _ in optimizers]
    moments = load_file(folder / "optimizer.safetensors")
    for key, value in moments.items():
        index, number, name = key.split(".", 2)
        all_moments[int(index)].setdefault(int(number), {})[name] = value
    for optimizer, own in zip(optimizers, all_moments, strict=True):
        optimizer.load_state_dict({"state": own, "param_groups": optimizer.state_dict()["param_groups"]})
    return state
