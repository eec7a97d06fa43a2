"""How words and pictures are drawn: the options with their checks, and the drawing itself. Taught in notebook 07."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minidream.errors import UserError
from minidream.modeling.diffusion import SOLVERS
from minidream.modeling.minidream import MiniDream

COLDEST = 1e-3  # below, logits would be divided beyond what a float holds


@dataclass(frozen=True)
class SamplingOptions:
    """How to write and draw. Raises `UserError` for a value that makes no sense.

    `temperature` 0 takes the likeliest token. `seed`: one for all documents, or one each; a document's words and
    pictures depend on its own seed alone. `guidance` 1 is conditional only, 0 unconditional only; of 400 captions came
    out right 380 at 1, 395 at 1.5, 391 at 2, 379 at 2.5. `steps`: of 20 no more come out right than of 12; checkpoints
    of real images are usually given guidance 5 to 8 and 20 to 50 steps. `max_pictures` and `max_tokens` limit each
    document; with `max_pictures` 0 only text is written. `think`: before each picture, the model tells itself what to
    draw, which takes a caption's tokens and makes pictures in documents right more often; then it looks at the picture,
    and draws anew what it does not clearly read so, up to `tries` times in all. `preview_every`: steps between previews
    of a picture in the making, 0 for none.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | Sequence[int] = 0
    guidance: float = 1.5
    steps: int = 12
    solver: str = "dpm"
    max_pictures: int = 6
    max_tokens: int = 120
    think: bool = False
    tries: int = 4
    preview_every: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):  # numpy's numbers, too
            value = getattr(self, field.name)
            if isinstance(value, np.generic | np.ndarray):
                object.__setattr__(self, field.name, value.tolist())
        for name, least in {
            "temperature": 0, "guidance": 0, "steps": 1, "max_pictures": 0, "max_tokens": 1, "tries": 1,
            "preview_every": 0,
        }.items():  # fmt: skip
            value = getattr(self, name)
            whole = name not in ("temperature", "guidance")
            kind = int if whole else int | float
            if not isinstance(value, kind) or isinstance(value, bool) or not least <= value < float("inf"):
                number = "a whole number" if whole else "a number"
                raise UserError(f"{name} must be {number} of at least {least}, not {value!r}")
        if 0 < self.temperature < COLDEST:
            raise UserError(f"temperature must be 0 or at least {COLDEST:g}, not {self.temperature!r}")
        if not isinstance(self.top_p, int | float) or not 0 < self.top_p <= 1:
            raise UserError(f"top_p must be above 0 and at most 1, not {self.top_p!r}")
        if not isinstance(self.think, bool):
            raise UserError(f"think must be True or False, not {self.think!r}")
        if self.solver not in SOLVERS:
            raise UserError(f"unknown solver {self.solver!r}: choose one of {', '.join(SOLVERS)}")
        seeds = [self.seed] if isinstance(self.seed, int) else self.seed
        if (
            not isinstance(seeds, Sequence)
            or isinstance(seeds, str)
            or not all(isinstance(seed, int) and 0 <= seed < 2**63 for seed in seeds)
        ):
            raise UserError(f"seed must be a whole number from 0, or one for each document, not {self.seed!r}")

    def check(self, model: MiniDream) -> None:
        """Raise `UserError` if the model's schedule has fewer timesteps than `steps`."""
        most = model.decoder.scheduler.config.num_train_timesteps
        if self.steps > most:
            raise UserError(f"steps must be at most {most}, the length of the noise schedule, not {self.steps}")

    def generators(self, count: int) -> list[torch.Generator]:
        """One source of randomness for each of `count` documents, on the CPU: a seed means the same on every device."""
        seeds = [self.seed] * count if isinstance(self.seed, int) else list(self.seed)
        if len(seeds) != count:
            raise UserError(f"{len(seeds)} seeds for {count} documents: give one seed, or one for each")
        return [torch.Generator().manual_seed(seed) for seed in seeds]


@torch.no_grad()
def sample_latents(
    model: MiniDream,
    condition: Tensor,
    options: SamplingOptions,
    generators: Sequence[torch.Generator],
    null_condition: Tensor | None = None,
    callback: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Latents (M, C, h, w) under conditions (M, Q, D), guided away from the null condition or what is given for it."""
    null = model.null_condition() if null_condition is None else null_condition
    return model.decoder.sample(
        condition,
        null,
        guidance=options.guidance,
        steps=options.steps,
        solver=options.solver,
        generators=generators,
        callback=callback,
    )


def nucleus(logits: Tensor, top_p: float, generator: torch.Generator) -> int:
    """Draw from the smallest set of tokens that holds `top_p` of the probability; logits (V,)."""
    probabilities, order = logits.softmax(-1).sort(descending=True)
    before = probabilities.cumsum(-1) - probabilities
    kept = probabilities.masked_fill(before >= top_p, 0)
    return int(order[torch.multinomial(kept, 1, generator=generator)])


def watch(work: Callable[[Callable[..., None]], Any]) -> Generator[Any, None, Any]:
    """Run `work(callback)` in a thread, yield what it calls back with while it goes on, return what it returns.

    When the iterator is closed, the next callback stops the work.
    """
    calls: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    closed = threading.Event()

    def callback(*arguments: Any) -> None:
        if closed.is_set():
            raise GeneratorExit
        calls.put(("call", arguments))

    def target() -> None:
        try:
            calls.put(("result", work(callback)))
        except BaseException as error:
            calls.put(("error", error))

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    try:
        while True:
            kind, value = calls.get()
            if kind == "result":
                return value
            if kind == "error":
                raise value
            yield value
    finally:
        closed.set()
        thread.join()
