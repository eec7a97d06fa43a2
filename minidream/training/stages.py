"""`minidream train`: run a stage, or all seven in order, and write what it made with a `training.json`."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from minidream.errors import UserError
from minidream.training.checkpoint import atomic_folder
from minidream.training.loop import Task, fit
from minidream.training.recipes import STAGES, Recipe, Sizes, recipe_for

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


def _task(stage: str, sizes: Sizes, recipe: Recipe, out: Path) -> Task:
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

    before = {"align": None, "igpt": "align", "instruct": "igpt"}[stage]
    for needed in ("clip", "language", "diffusion"):
        _needs(out, needed)
    return DreamTask(sizes, recipe, out, _needs(out, before) if before else None)


def train(
    stage: str,
    preset: str = "mini",
    out: Path | None = None,
    overrides: dict[str, str] | None = None,
    resume: bool = False,
) -> None:
    """Train one stage (or `all`) into the folder `out`: the weights in `out/FOLDER`, logs in `out/runs/STAGE`.

    With `resume`, finished stages are kept and an interrupted one goes on from its last checkpoint with the same
    losses. Raises `UserError` for unknown names, settings out of range, or an earlier stage's result that is missing.
    """
    out = Path(out or f"runs/{preset}")
    for name in STAGES if stage == "all" else (stage,):
        sizes, recipe = recipe_for(name, preset, overrides)
        folder = out / FOLDERS[name]
        if resume and (folder / "training.json").is_file():
            print(f"{name}: finished already ({folder})", file=sys.stderr)
            continue
        task = _task(name, sizes, recipe, out)
        record = fit(task, recipe, out / "runs" / name, resume)
        record["command"] = f"minidream train {name} --preset {preset}" + "".join(
            f" --set {key}={value}" for key, value in (overrides or {}).items()
        )
        with atomic_folder(folder) as temporary:
            task.save(temporary)
            (temporary / "training.json").write_text(json.dumps(record, indent=2) + "\n")
            if earlier := ABSORBED.get(name):
                shutil.copy(out / FOLDERS[earlier] / "training.json", temporary / f"training.{earlier}.json")
        shutil.rmtree(out / "runs" / name / "checkpoint", ignore_errors=True)
        print(f"{name}: {folder}", file=sys.stderr)
