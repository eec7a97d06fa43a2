"""`minidream bench`: what each shortcut saves, as ratios that mean the same on every machine.

| figure            | what is compared                                                                             |
|-------------------|----------------------------------------------------------------------------------------------|
| training, ratio   | a stage II step, documents packed and encoders cached, to the same step without either       |
| decoding, speedup | 100 tokens that read the whole stream anew for each, to the same tokens with the KV cache    |
| decoding, slope   | the time of a token at the context's end to that at its beginning, with the cache            |
| drawing           | how many pictures of 15 steps of DPM-Solver++ are right, and of 50 steps of DDIM             |

Times are of the CPU, on one thread; what is compared is repeated in turn, so that a machine that slows down slows down
both. A figure is the median of its rounds with the bootstrap's 95 % interval. Taught in notebook 07.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from minidream.documents import Document
from minidream.errors import UserError
from minidream.evaluation.candidate import digest, look
from minidream.evaluation.creation import trials
from minidream.evaluation.statistics import Leaf, bootstrap, proportion
from minidream.pipeline import MiniDreamPipeline
from minidream.training.cache import EncodedPictures
from minidream.training.dream import DreamTask
from minidream.training.loop import machine
from minidream.training.optimizers import optimizers_for
from minidream.training.recipes import Sizes, recipe_for
from minidream.weights import find_weights

TOKENS = 100
PROMPT = "A large red circle in the top left on a white background."
SAMPLERS = {"dpm_15": ("dpm", 15), "ddim_50": ("ddim", 50)}
# What is asked of a figure: in words, and whether it is reached.
ASKED: dict[tuple[str, str], tuple[str, Callable[[Leaf], bool]]] = {
    ("training", "ratio"): ("at most 0.4", lambda leaf: leaf["mean"] <= 0.4),
    ("decoding", "speedup"): ("at least 2", lambda leaf: leaf["mean"] >= 2),
    ("decoding", "slope"): ("at most 1.25", lambda leaf: leaf["mean"] <= 1.25),
    # An interval with 0 in it is not enough: of few prompts any has.
    ("drawing", "difference"): ("0, surely not -0.05", lambda leaf: leaf["high"] >= 0 and leaf["low"] >= -0.05),
}


def bench(weights: Path | None = None, rounds: int = 7, n: int = 50, seed: int = 0) -> dict[str, Any]:
    """Measure all of it, with the shipped weights or those that `minidream train all --out` put into a folder.

    `rounds`: repetitions of what is timed; `n`: prompts for each of the six categories of creation. The result is
    `{"settings", "training", "decoding", "drawing"}`; each figure is a `{"mean", "low", "high", "n"}`, and times are
    medians in seconds. Raises `UserError` for `rounds` or `n` below 1, or weights that are not there.
    """
    if rounds < 1 or n < 1:
        raise UserError(f"rounds {rounds}, n {n}: both must be at least 1")
    folder = find_weights().parent if weights is None else Path(weights)
    began, pipe = time.perf_counter(), MiniDreamPipeline.from_pretrained(folder / "minidream")
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "training": lambda: training(pipe, folder, rounds, seed),
        "decoding": lambda: decoding(pipe, rounds),
        "drawing": lambda: drawing(pipe, n, seed),
    }
    found = {}
    with one_thread():
        for name, measure in parts.items():
            print(f"bench: {name} ...", file=sys.stderr)
            found[name] = measure()
    settings = {"rounds": rounds, "n": n, "seed": seed, "threads": 1, "weights": digest(pipe.model)}
    took = round(time.perf_counter() - began, 1)
    return {"settings": settings | {"machine": machine(pipe.model.device), "seconds": took}, **found}


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_turn(rounds: int, *works: Callable[[], object]) -> np.ndarray:
    """CPU seconds (rounds, works) of each work, one after the other in every round, after one that is not counted."""
    times = []
    for _ in range(rounds + 1):
        row = []
        for work in works:
            began = time.process_time()
            work()
            row.append(time.process_time() - began)
        times.append(row)
    return np.array(times[1:])


def ratio(times: np.ndarray) -> Leaf:
    """The median of how many times as long the first of two works took, `times` (rounds, 2)."""
    return bootstrap(times[:, 0] / times[:, 1], lambda ratios: float(np.median(ratios)))


def training(pipe: MiniDreamPipeline, folder: Path, rounds: int, seed: int) -> dict[str, Any]:
    """Steps of stage II, backward and optimizer included, again and again on one batch of its mixture: all its pictures
    are in the cache by then, the best that a cache can do. In training most pictures are new."""
    processor, recipe = pipe.processor, recipe_for("igpt")[1]
    sizes = Sizes(image_size=processor.image_size, queries=processor.num_dream_queries, max_length=processor.max_length)
    task = DreamTask(sizes, recipe, folder, before=None)
    trained = {name: value for name, value in task.modules.named_parameters() if value.requires_grad}
    optimizers = optimizers_for(trained, recipe)
    batch, kept = task.batch(random.Random(f"bench-{seed}")), task.encoded

    def step(pack: bool, encoded: EncodedPictures) -> None:
        torch.manual_seed(seed)  # the same noise for both
        task.pack, task.encoded = pack, encoded
        task.losses(batch, task.modules)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), recipe.clip_norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    times = in_turn(rounds, lambda: step(True, kept), lambda: step(False, EncodedPictures(megabytes=0)))
    short, long = np.median(times, axis=0)
    return {"ratio": ratio(times), "packed_and_cached": round(short, 4), "neither": round(long, 4)}


def decoding(pipe: MiniDreamPipeline, rounds: int) -> dict[str, Any]:
    """The likeliest `TOKENS` tokens after `PROMPT`, with and without the cache; then on to the context's end."""
    prompt = pipe.processor([Document([PROMPT])], generation_prompt=True).input_ids
    if not torch.equal(write(pipe, prompt, TOKENS, cached=True)[0], write(pipe, prompt, TOKENS, cached=False)[0]):
        raise RuntimeError("the tokens written with the cache are not those written without")
    times = in_turn(rounds, *(lambda cached=cached: write(pipe, prompt, TOKENS, cached) for cached in (False, True)))
    room = pipe.processor.max_length - prompt.shape[1]
    each = np.array([write(pipe, prompt, room, cached=True)[1] for _ in range(rounds)])  # (rounds, room)
    tenth = max(1, room // 10)
    ends = np.stack([np.median(part, axis=1) for part in (each[:, -tenth:], each[:, :tenth])], axis=1)  # (rounds, 2)
    anew, cached = np.median(times, axis=0)
    seconds = {"without_cache": round(anew, 4), "with_cache": round(cached, 4)}
    return {"speedup": ratio(times), "slope": ratio(ends), "tokens": TOKENS, "context": room, **seconds}


@torch.no_grad()
def write(pipe: MiniDreamPipeline, prompt: torch.Tensor, count: int, cached: bool) -> tuple[torch.Tensor, list[float]]:
    """The `count` likeliest tokens after a prompt (1, L), even if they end it, and the CPU seconds that each took."""
    model, ids, times = pipe.model, prompt, []
    cache = DynamicCache(config=model.llm.config) if cached else None
    for _ in range(count):
        began = time.process_time()
        new = ids[:, cache.get_seq_length() :] if cache is not None else ids
        hidden = model.read(model.embed(new), cache=cache).last_hidden_state
        following = model.llm.get_output_embeddings()(hidden[:, -1]).argmax(-1, keepdim=True)
        ids = torch.cat([ids, following], dim=1)
        times.append(time.process_time() - began)
    return ids, times


def drawing(pipe: MiniDreamPipeline, n: int, seed: int) -> dict[str, Any]:
    """The share of right pictures by both solvers, of the same prompts and noise, and their difference."""
    asked, right, seconds = trials(n, seed, held_out=False), {}, {}
    noise = [seed + number for number in range(len(asked))]
    for name, (solver, steps) in SAMPLERS.items():
        began = time.process_time()
        pictures = pipe.draw([prompt for prompt, _ in asked], solver=solver, steps=steps, seed=noise)
        seconds[f"{name}_seconds"] = round(time.process_time() - began, 2)
        right[name] = [constraint.satisfied(shown) for (_, constraint), shown in zip(asked, look(pictures))]
    first, second = (np.array(passed, dtype=float) for passed in right.values())
    shares = {name: proportion(passed) for name, passed in right.items()}
    return {**shares, "difference": bootstrap(first - second), **seconds}


def verdicts(result: dict[str, Any]) -> list[tuple[str, Leaf, str, str]]:
    """(figure, what was measured, what is asked, whether it is reached) for all that is asked."""
    rows = []
    for (part, name), (asked, reached) in ASKED.items():
        leaf = result[part][name]
        rows.append((f"{part}, {name}", leaf, asked, "reached" if reached(leaf) else "short"))
    return rows


def table(result: dict[str, Any]) -> str:
    """The result for the terminal."""
    lines = [
        f"{name:<20} {leaf['mean']:>7.3f}  {leaf['low']:.3f} - {leaf['high']:.3f}  {asked:<19}  {verdict}"
        for name, leaf, asked, verdict in verdicts(result)
    ]
    shares = ", ".join(f"{name} {result['drawing'][name]['mean']:.3f}" for name in SAMPLERS)
    took = result["settings"]["seconds"]
    return "\n".join([*lines, f"right pictures: {shares}", f"{took:.0f} seconds, {result['settings']['machine']}"])
