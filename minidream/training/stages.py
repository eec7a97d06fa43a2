"""`minidream train`: run a stage, or all seven in order, and write what it made with a `training.json`."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

from minidream.errors import UserError
from minidream.training.checkpoint import atomic_folder
from minidream.training.loop import Task, fit
from minidream.training.parallel import processes, share
from minidream.training.recipes import STAGES, Recipe, Sizes, recipe_for
from minidream.weights import fingerprint, verify_manifest

if TYPE_CHECKING:
    from minidream.training.dream import DreamTask

FOLDERS = {
    "vae": "vae",
    "clip": "clip",
    "language": "llm",
    "diffusion": "stable-diffusion",
    "align": "align",
    "igpt": "igpt",
    "instruct": "minidream",
}
# What a stage's result contains of an earlier one's: the earlier record is kept beside its own.
ABSORBED = {"diffusion": "vae", "igpt": "align", "instruct": "igpt"}


def _needs(out: Path, stage: str) -> Path:
    folder = out / FOLDERS[stage]
    if not (folder / "training.json").is_file():
        raise UserError(f"stage needs {folder}, which is not there: run `minidream train {stage} --out {out}` first")
    return folder


def _absorbed(stage: str, out: Path, init: Path | None) -> Path | None:
    """The record of the stage that this one's result contains: the one in `init`, or that of the folder it is in."""
    if stage not in ABSORBED:
        return None
    record = f"training.{ABSORBED[stage]}.json"
    return init / record if init and (init / record).is_file() else _needs(out, ABSORBED[stage]) / "training.json"


def _task(stage: str, sizes: Sizes, recipe: Recipe, out: Path, init: Path | None) -> Task:
    from minidream.training import components

    if stage == "vae":
        return components.VAETask(sizes, recipe)
    if stage == "clip":
        return components.CLIPTask(sizes, recipe)
    if stage == "language":
        return components.LanguageTask(sizes, recipe)
    if stage == "diffusion":
        return components.DiffusionTask(sizes, recipe, _needs(out, "vae"), _needs(out, "clip"))
    from minidream.training.dream import DreamTask

    for needed in ("clip", "language", "diffusion"):
        _needs(out, needed)
    before = ABSORBED.get(stage) if init is None else None  # the first weights already contain what it moved
    return DreamTask(sizes, recipe, out, _needs(out, before) if before else None)


def train(
    stage: str,
    preset: str = "mini",
    out: Path | None = None,
    overrides: dict[str, str] | None = None,
    resume: bool = False,
    init: Path | None = None,
) -> None:
    """Train one stage (or `all`) into the folder `out`: the weights in `out/FOLDER`, logs in `out/runs/STAGE`.

    With `resume`, finished stages are kept and an interrupted one goes on from its last checkpoint with the same
    losses. `init` names a folder whose weights one stage begins with: those parameters that both have.
    Raises `UserError` for unknown names, settings out of range, or an earlier stage's result that is missing.
    """
    if init and stage == "all":
        raise UserError("--init gives one stage its first weights: name the stage instead of all")
    out, together = Path(out or f"runs/{preset}"), processes()
    for name in STAGES if stage == "all" else (stage,):
        sizes, recipe = recipe_for(name, preset, overrides)
        folder = out / FOLDERS[name]
        if resume and (folder / "training.json").is_file():
            print(f"{name}: finished already ({folder})", file=sys.stderr)
            continue
        torch.manual_seed(recipe.seed)  # new parameters are drawn
        earlier = _absorbed(name, out, init)
        task = _task(name, sizes, replace(recipe, batch=share(recipe.batch)), out, init)
        if init:
            _begin_with(task, init)
        if recipe.whitened:
            cast("DreamTask", task).whiten()  # not before its first weights are in place
        began_with = fingerprint(init) if init else ""
        record = fit(task, recipe, out / "runs" / name, resume, began_with=began_with)
        count = together.num_processes
        program = "minidream" if count == 1 else f"torchrun --nproc_per_node {count} -m minidream.cli"
        record["command"] = f"{program} train {name} --preset {preset}" + "".join(
            f" --set {key}={value}" for key, value in (overrides or {}).items()
        )
        if init:
            record["command"] += f" --init {init}"
            record["began_with"] = _history(init, name)
        if together.is_main_process:
            _keep(task, record, name, out, earlier)
        together.wait_for_everyone()


def _begin_with(task: Task, init: Path) -> None:
    """Copy the weights in the folder `init`, the result of a stage, into `task`; raises `UserError` if none fit."""
    verify_manifest(init)
    try:
        found: dict[str, Any] = {}
        for file in sorted([*init.glob("*.safetensors"), *init.glob("*/*.safetensors")]):
            part = "" if file.parent == init else f"{file.parent.name}."  # a pipeline has a folder for each part
            found |= {part + name: value for name, value in load_file(file).items()}
    except SafetensorError as error:
        raise UserError(f"{init} cannot be read ({error}): name another folder, or train again") from None
    if hasattr(task, "tokenizer") and (init / "tokenizer.json").is_file():  # the weights know words by its numbers
        own_words, task.tokenizer = len(task.tokenizer), PreTrainedTokenizerFast.from_pretrained(init)
        if len(task.tokenizer) != own_words:
            task.modules.resize_token_embeddings(len(task.tokenizer), mean_resizing=False)
    own = {name: value.shape for name, value in task.modules.named_parameters()}
    fitting = {name: value for name, value in found.items() if own.get(name) == value.shape}
    if not fitting or not (init / "training.json").is_file():
        raise UserError(f"{init} holds no weights that fit this stage: name the folder of the same stage and preset")
    task.modules.load_state_dict(fitting, strict=False)
    new = [name for name, value in task.modules.named_parameters() if value.requires_grad and name not in fitting]
    if new:
        print(f"{init} holds nothing for {', '.join(new)}: they begin anew", file=sys.stderr)


def _history(init: Path, stage: str) -> dict[str, Any]:
    """The record of the weights in `init`; a later stage's is given the run of `stage` that it contains."""
    record: dict[str, Any] = json.loads((init / "training.json").read_text())
    contained = init / f"training.{stage}.json"
    if contained.is_file() and "began_with" not in record:
        record["began_with"] = json.loads(contained.read_text())
    return record


def _keep(task: Task, record: dict[str, Any], stage: str, out: Path, earlier: Path | None) -> None:
    """Write a finished stage's folder, with the `earlier` record that belongs to it, then drop its checkpoint."""
    folder = out / FOLDERS[stage]
    with atomic_folder(folder) as temporary:
        task.save(temporary)
        (temporary / "training.json").write_text(json.dumps(record, indent=2) + "\n")
        if earlier:
            shutil.copy(earlier, temporary / f"training.{ABSORBED[stage]}.json")
    shutil.rmtree(out / "runs" / stage / "checkpoint", ignore_errors=True)
    print(f"{stage}: {folder}", file=sys.stderr)
