"""`minidream ablate`: the paper's choices, each against what it chose against, as recorded grids of short runs.

| grid      | what is varied                                                     | the paper                           |
|-----------|--------------------------------------------------------------------|-------------------------------------|
| queries   | 1, 2, 4, 8, 16 or 32 dream queries                                 | 32: 9.56, 64: 8.46, 128: 14.24 FID  |
| alignment | dream loss, regression to CLIP's text embedding, or both           | with alignment, creation collapses  |
| target    | the sampled noise, or what the teacher predicts at the same z_t    | the noise                           |
| rewrite   | drawing from the document, or from a caption that is written first | 8.46 against 11.91 FID              |
| synergy   | comprehension, creation or both, with and without interleaved text | both: sees better, draws as well    |

The first three train stage I anew on captions of one thing: queries and condition projector from nothing, all else the
shipped frozen parts, at equal steps. The fourth trains nothing. Taught in notebook 05. The fifth trains stages I and II
at once, from the language model that knows words alone, or II alone, from stage I. Taught in notebook 08.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minidream.ablation.grids import BUDGETS, GRIDS, budget_of, recipe_of, settings_of
from minidream.errors import UserError
from minidream.weights import MANIFEST, find_weights, verify_manifest

__all__ = ["BUDGETS", "GRIDS", "ablate", "file_of"]


def file_of(name: str) -> Path:
    """Where a grid's runs are kept if no other file is named."""
    return Path("data/results") / f"{name}.json"


def ablate(
    name: str,
    seeds: Sequence[int] | None = None,
    file: Path | None = None,
    preset: str = "mini",
    weights: Path | None = None,
    queries: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Do the runs of a grid that `file` (see `file_of` if None) does not hold yet; returns its content.

    Each run is written when it is finished; one that another grid's file beside it holds is taken over. `weights`: a
    folder as `minidream train all` fills it (the shipped weights if None). `queries`: other numbers of them for the
    grid "queries". `seeds`: 0 to 2 if None, 0 to 4 for "synergy", whose paired test needs them.

    Raises `UserError` for an unknown grid or preset, seeds that are no whole numbers, or too many for the test of
    "synergy", numbers of queries that are not possible, weights that are not there, or a file of another version or
    other settings; nothing is overwritten then.
    """
    varied, budget = settings_of(name, queries), budget_of(name, preset)
    if seeds is None:
        seeds = range(5 if name == "synergy" else 3)
    if not seeds or any(not isinstance(seed, int) or isinstance(seed, bool) or seed < 0 for seed in seeds):
        raise UserError(f"seeds are whole numbers from 0, as in --seeds 0 1 2, not {list(seeds)}")
    from minidream.ablation.results import Results
    from minidream.evaluation.statistics import MOST_PAIRS

    if name == "synergy" and len(seeds) > MOST_PAIRS:  # better known before the work than after it
        raise UserError(f"{len(seeds)} seeds are too many for its exact test: give at most {MOST_PAIRS}")

    if name == "queries":
        for variables in varied.values():
            recipe_of(budget, variables, 0)  # complains before the work rather than in the midst of it
    parts, digests = _parts(name, weights)
    results = Results(Path(file or file_of(name)), name, asdict(budget) | {"weights": digests})
    todo = [(setting, seed) for setting in varied for seed in dict.fromkeys(seeds) if not results.find(setting, seed)]
    if todo:
        from tqdm.auto import tqdm

        from minidream.ablation import rewrite, stage_one, synergy

        run = {"rewrite": rewrite.run, "synergy": synergy.run}.get(name, stage_one.run)
        for setting, seed in tqdm(todo, f"ablate {name}"):
            if results.find(setting, seed):  # done meanwhile by another process
                continue
            variables = varied[setting]
            made = results.take_over(variables, seed) or run(budget, variables, seed, parts)
            results.add(made | {"setting": setting, "variables": variables, "seed": seed})
    return results.content(results.runs)


def _parts(name: str, weights: Path | None) -> tuple[Path, dict[str, str]]:
    """The folder with the parts that a grid needs, all verified, and a digest of each."""
    digests: dict[str, str] = {}
    needed = {"rewrite": ("minidream",), "synergy": ("align",)}.get(name, ())
    for part in (*needed, "llm", "clip", "stable-diffusion"):
        folder = find_weights(part) if weights is None else Path(weights) / part
        if not (folder / MANIFEST).is_file():
            raise UserError(f"no weights at {folder}: name a folder that `minidream train all --out` has filled")
        verify_manifest(folder)
        digests[part] = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    return folder.parent, digests
