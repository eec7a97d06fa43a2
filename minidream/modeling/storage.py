"""A MiniDream on disk: `config.json` and `model.safetensors`; its frozen parts are in it, or named by their folders."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from minidream.errors import UserError
from minidream.modeling.configuration import MiniDreamConfig
from minidream.modeling.loading import first_line
from minidream.weights import staged, verify_manifest

FROZEN = ("vision.", "decoder.")
WEIGHTS = "model.safetensors"


def write_model(model: PreTrainedModel, folder: Path, frozen: bool) -> None:
    """What `MiniDream.save_pretrained` does."""
    if not frozen and not model.config.components:
        raise UserError("this model's frozen parts have no folder of their own: save it with frozen=True")
    folder = folder.resolve()
    kept: dict[str, Tensor] = {}
    stored: set[tuple[int, ...]] = set()
    for name, value in model.state_dict().items():
        place = (value.data_ptr(), *value.shape)  # tied weights are stored once
        if (frozen or not name.startswith(FROZEN)) and place not in stored:
            kept[name] = value.contiguous()
            stored.add(place)
    config = MiniDreamConfig(**model.config.to_dict())
    config.components = None
    if not frozen:
        config.components = {
            name: os.path.relpath(source, folder) if Path(source).is_dir() else source
            for name, source in model.config.components.items()
        }
    with staged(folder) as temporary:
        save_file(kept, temporary / WEIGHTS, metadata={"format": "pt"})
        config.save_pretrained(temporary)


def read_model(folder: Path) -> tuple[MiniDreamConfig, dict[str, Tensor]]:
    """The configuration and the weights that `write_model` wrote. Raises `UserError` if they are missing or damaged."""
    for name in ("config.json", WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"no MiniDream at {folder}: {name} is missing; give a folder made by save_pretrained")
    verify_manifest(folder)
    try:
        config = MiniDreamConfig.from_pretrained(str(folder))
        saved = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder} cannot be read ({first_line(error)}): save it again") from None
    parts = ("llm_config", "vision_config", "vae_config", "unet_config", "scheduler_config", "token_ids")
    if lacking := [name for name in parts if not getattr(config, name)]:
        what = f"{folder} holds another model, or half of one (config.json has no {lacking[0]})"
        raise UserError(f"{what}: give a folder made by save_pretrained")
    if config.components:
        config.components = {name: _found(folder, place) for name, place in config.components.items()}
    return config, saved


def _found(folder: Path, place: str) -> str:
    """Where the frozen parts are that lie at `place` as seen from `folder`, or their name on the hub."""
    there = (folder / place).resolve()
    if there.is_dir():
        return str(there)
    if place.startswith((".", "/")):
        raise UserError(f"{folder} needs {there}, which is not there: copy it along, or save with frozen=True")
    return place


def fill(model: PreTrainedModel, saved: dict[str, Tensor], folder: Path) -> None:
    """Put the weights into the model. Raises `UserError` that names `folder` if they do not fit, or some are lacking
    that no folder of frozen parts has brought."""
    try:
        missing, unexpected = model.load_state_dict(saved, strict=False)
    except RuntimeError as error:
        raise UserError(f"{folder / WEIGHTS} does not fit its config.json: {str(error).splitlines()[-1]}") from error
    state = model.state_dict()
    filled = {state[name].data_ptr() for name in saved if name in state}  # a tied weight fills its twin
    lacking = [
        name
        for name in missing
        if state[name].data_ptr() not in filled and not (model.config.components and name.startswith(FROZEN))
    ]
    if lacking or unexpected:
        raise UserError(f"{folder / WEIGHTS} does not fit its config.json: see {(lacking or unexpected)[0]}")
