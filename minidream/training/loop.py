"""One loop for all stages, on accelerate.

What a step sees depends on nothing but (stage, seed, step, process): its examples come from `random.Random`, seeded
by these, and its noise from torch's generator, seeded by the last three. That is why a resumed run repeats an
uninterrupted one bit for bit.
"""

from __future__ import annotations

import json
import math
import platform
import random
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from tqdm.auto import tqdm

from minidream.errors import UserError
from minidream.training.checkpoint import load_checkpoint, restore, save_checkpoint
from minidream.training.optimizers import optimizers_for
from minidream.training.parallel import average_gradients, begin_alike, processes
from minidream.training.precision import bf16_is_fast, float32_attention_on_cpu, float32_muon
from minidream.training.recipes import Recipe


class Task(Protocol):
    """What a stage gives the loop."""

    modules: Any  # a torch module with all it needs on the device; what requires a gradient is trained

    def batch(self, rng: random.Random) -> Any:
        """Draw this process's share of a batch."""

    def losses(self, batch: Any, modules: Any) -> dict[str, torch.Tensor]:
        """Named losses; the key `loss` is minimised."""

    def save(self, folder: Path) -> None:
        """Write what has been trained."""


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    warmup = max(1, round(recipe.warmup * recipe.steps))
    if step < warmup:
        return recipe.lr * (step + 1) / warmup
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, recipe.steps - warmup)))


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait for the end of the block: half a step could not be resumed."""
    if threading.current_thread() is not threading.main_thread():  # signals come to the main thread alone
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


def machine(device: torch.device) -> str:
    """What kind of machine worked, for a record."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine() + " CPU"


TIMES = ("step", "seconds")  # of a line of the log


class Log:
    """`log.jsonl`, for the main process only: a line every few steps, with the mean of each loss since the last one."""

    def __init__(self, file: Path, start: int, seen: dict[str, list[float]], main: bool) -> None:
        """Keep the lines up to step `start`: a run that was killed has logged steps that will be done again. `seen`:
        the losses of the steps up to there that no line tells yet."""
        self.file, self.main = file, main
        self.seen: dict[str, list[float]] = defaultdict(list, seen)
        self.means: dict[str, float] = {}  # of the last line
        if main:
            file.parent.mkdir(parents=True, exist_ok=True)
            lines = file.read_text().splitlines(keepends=True) if start and file.is_file() else []
            whole = [line for line in lines if line.endswith("}\n")]  # a full disk may have torn the last one
            kept = [line for line in whole if json.loads(line)["step"] <= start]
            file.write_text("".join(kept))
            if kept:
                self.means = {name: value for name, value in json.loads(kept[-1]).items() if name not in TIMES}

    def add(self, losses: dict[str, torch.Tensor]) -> None:
        """Take the losses of a step."""
        for name, value in losses.items():
            self.seen[name].append(value.item())

    def write(self, step: int, seconds: float, probed: dict[str, float]) -> None:
        """Write a line: the means of what was added since the last."""
        self.means = {name: round(sum(values) / len(values), 6) for name, values in self.seen.items()} | probed
        self.seen.clear()
        if self.main:
            with open(self.file, "a") as log:
                log.write(json.dumps(dict(zip(TIMES, (step, round(seconds, 1)))) | self.means) + "\n")


MAY_CHANGE = ("lr", "log_every", "save_every")  # when a run goes on; all else would make it another run


def fit(
    task: Task,
    recipe: Recipe,
    run: Path,
    resume: bool = False,
    probe: Callable[[], dict[str, float]] | None = None,
    began_with: str = "",
) -> dict[str, Any]:
    """Train `task` by `recipe`; logs to `run/log.jsonl`, checkpoints to `run/checkpoint`. Returns what `training.json`
    records: settings, steps, seconds (of all runs together), machine, final losses. `probe` is asked for more numbers
    for every line of the log; its random numbers are not the training's. `began_with`: which weights `task` was given,
    as a `fingerprint`.

    Raises `UserError` when a loss is not finite, or to `resume` a run of other settings or first weights; a
    KeyboardInterrupt keeps a checkpoint and is raised again.
    """
    processes()
    AcceleratorState._reset_state()  # or the first stage of a process would fix the precision of all
    accelerator = Accelerator(mixed_precision="bf16" if recipe.mixed_precision and bf16_is_fast() else "no")
    rank, main = accelerator.process_index, accelerator.is_main_process
    modules = task.modules.to(accelerator.device)  # not wrapped: a task calls the parts, see `parallel`
    trained = {name: value for name, value in modules.named_parameters() if value.requires_grad}
    optimizers = optimizers_for(trained, recipe)
    settings = {name: value for name, value in asdict(recipe).items() if name not in MAY_CHANGE}
    settings |= {"processes": accelerator.num_processes, "began_with": began_with}
    state: dict[str, Any] = {"step": 0, "seconds": 0.0, "seen": {}}
    checkpoint = run / "checkpoint"
    restore(checkpoint)
    if resume and checkpoint.is_dir():
        state = load_checkpoint(checkpoint, settings, trained, optimizers)
    begin_alike(list(trained.values()))
    start = done = state["step"]
    log = Log(run / "log.jsonl", start, state["seen"], main)
    began = time.perf_counter() - state["seconds"]  # as if it had never been interrupted

    def seconds() -> float:
        return time.perf_counter() - began

    def keep() -> None:
        now = {"step": done, "seconds": round(seconds(), 1), "seen": log.seen, "settings": settings}
        save_checkpoint(checkpoint, now, trained, optimizers)

    bar = tqdm(range(start, recipe.steps), recipe.stage, recipe.steps, initial=start, mininterval=2, disable=not main)
    try:
        for step in bar:
            torch.manual_seed(hash((recipe.seed, step, rank)))
            batch = task.batch(random.Random(f"train-{recipe.stage}-{recipe.seed}-{step}-{rank}"))
            with accelerator.autocast(), float32_attention_on_cpu():
                losses = task.losses(batch, modules)
            accelerator.backward(losses["loss"])
            average_gradients(list(trained.values()))
            norm = torch.nn.utils.clip_grad_norm_(trained.values(), recipe.clip_norm)
            if not torch.isfinite(norm):  # as a loss's that is not; a step with it would leave nothing to resume from
                raise UserError(
                    f"the gradient of stage {recipe.stage} is not finite at step {step}: lower the learning rate "
                    f"(--set lr={recipe.lr / 2:g}) and start again with --resume"
                )
            with uninterrupted(), float32_muon():
                for optimizer in optimizers:
                    for group in optimizer.param_groups:
                        group["lr"] = learning_rate(recipe, step) * group.get("rate", 1.0)
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                done = step + 1
                log.add(losses)
                if done % recipe.log_every == 0:
                    log.write(done, seconds(), probe() if probe else {})
                    bar.set_postfix(log.means)
            if done % recipe.save_every == 0 and main:
                keep()
        if log.seen:  # the last steps may not fill a window
            log.write(done, seconds(), probe() if probe else {})
    finally:  # finished, interrupted, or a loss that is not finite: what was learned is kept
        if main:
            keep()
    return {
        "recipe": asdict(recipe),
        "steps": done,
        "seconds": round(seconds(), 1),
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "machine": machine(accelerator.device),
        "losses": log.means,  # of the last logged window
    }
