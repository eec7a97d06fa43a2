"""Every figure of the README's table, measured: `evaluate` examines a pipeline, `table` shows what it found.

| part          | what                                                                              |
|---------------|-----------------------------------------------------------------------------------|
| creation      | GenEval's six categories, seen and held out, beside the teacher; the decoder's    |
|               | ceiling; FID, CLIP score, diversity                                               |
| comprehension | captions by exact scene, questions by type, POPE                                  |
| interleaved   | where pictures belong, whole stories, facts only a picture holds, edits, names,   |
|               | a reader's own picture; most of these again with thoughts (`think`);              |
|               | whether what it writes by itself makes sense; questions by example; whether plain |
|               | language is kept                                                                  |
| trust         | verdicts on its own pictures, best-of-4 by them, explanations (not part of "all") |
| robustness    | captions and questions under damage, as curves (not part of "all")                |
| zero_shot     | tasks that it was not trained on (not part of "all")                              |

All of it is drawn from `random.Random("evaluation-...")`, which training never uses. Taught in notebook 09.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minidream.errors import UserError
from minidream.pictures import write_atomically

if TYPE_CHECKING:
    from minidream.evaluation.candidate import Candidate, PipelineCandidate
    from minidream.pipeline import MiniDreamPipeline

PARTS = ("creation", "comprehension", "interleaved")
FOLDERS = ("clip", "stable-diffusion", "llm")  # what is measured beside the model, if it is there
MORE = ("trust", "robustness", "zero_shot")  # each by its own name only
Sections = dict[str, Callable[[], dict[str, Any]]]  # names, in order, and what measures them
Measure = Callable[[Sections], Iterator[tuple[str, dict[str, Any]]]]  # gives each name with what was found
# What the shipped `mini` weights must reach, by the beginning of a figure's path; the longest that fits counts.
ASKED: dict[tuple[str, ...], float] = {
    ("creation", "seen"): 0.95,
    ("creation", "held_out"): 0.85,
    ("creation", "decoder"): 0.995,
    ("comprehension", "caption", "seen"): 0.95,
    ("comprehension", "caption", "held_out"): 0.85,
    ("comprehension", "vqa", "seen"): 0.97,
    ("comprehension", "vqa", "held_out"): 0.90,
    ("comprehension", "pope", "random"): 0.98,
    ("comprehension", "pope", "popular"): 0.98,
    ("comprehension", "pope", "adversarial"): 0.98,
    ("interleaved", "placement"): 0.99,
    ("interleaved", "pictures"): 0.90,
    ("interleaved", "picture_only_facts"): 0.90,
    ("interleaved", "edits"): 0.90,
    ("interleaved", "made_up_names"): 0.80,
    ("interleaved", "thinking", "pictures"): 0.90,
    ("interleaved", "thinking", "picture_only_facts"): 0.90,
    ("interleaved", "thinking", "edits"): 0.90,
    ("interleaved", "thinking", "made_up_names"): 0.80,
    ("interleaved", "perplexity", "kept"): 0.95,
    ("trust", "captions", "auroc"): 0.90,
    ("trust", "captions", "errors_removed"): 0.50,
    ("trust", "stories", "auroc"): 0.90,
    ("trust", "stories", "errors_removed"): 0.50,
    ("trust", "explanations", "agreement"): 0.80,
}


def evaluate(
    what: str = "all",
    n: int = 500,
    seed: int = 0,
    weights: Path | None = None,
    *,
    partial: Path | None = None,
    guidance: float = 1.5,
    steps: int = 12,
    device: str | None = None,
    processes: int = 1,
) -> dict[str, Any]:
    """Examine the weights in the folder `weights` (the shipped ones if None) on `n` fresh scenes a category.

    `weights` is what `minidream train all --out` filled, its folder `minidream`, or any folder of `save_pretrained`;
    or what stage I or II made (`align`, `igpt`), with the parts it was made over beside it.
    `what` is "creation", "comprehension", "interleaved", "all" for these three, or "trust", "robustness", "zero_shot".
    The result holds "settings" and a key for each part, each figure a `{"mean", "low", "high", "n"}` with its 95 %
    interval, or None where it could not be measured. Finished sections are kept in the file `partial`, and an
    evaluation with the same settings goes on after them; remove it when the result is in a safe place. `device`: cuda
    where there is one, if not given. `processes`: how many sections are measured at once, which changes no figure.

    Raises `UserError` for an unknown `what`, `n` or `processes` < 1, weights that are not there, or a `partial` of
    other settings.
    """
    if what not in (*PARTS, *MORE, "all"):
        raise UserError(f"cannot evaluate {what!r}: choose one of {', '.join((*PARTS, *MORE))} or all")
    if n < 1:
        raise UserError(f"--n {n}: give the number of scenes for each category, at least 1")
    if processes < 1:
        raise UserError(f"--processes {processes}: at least 1 must work")
    from minidream.evaluation.candidate import digest
    from minidream.weights import fingerprint

    settings = {"what": what, "n": n, "seed": seed, "guidance": guidance, "steps": steps}
    candidate, folders = _candidate(settings, weights, device), _folders(weights)
    settings["weights"] = digest(candidate.pipe.model)
    settings["parts"] = " ".join(f"{part}:{fingerprint(folder)[:12]}" for part, folder in folders.items())
    measure: Measure = one_by_one
    if processes > 1:
        from minidream.evaluation.parallel import at_once

        measure = functools.partial(at_once, processes, functools.partial(_sections_of, settings, weights, device))
    result = examine(candidate, settings, folders, partial, measure)
    result["settings"]["processes"] = processes
    return result


def one_by_one(sections: Sections) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measure one section after the other."""
    for name, section in sections.items():
        print(f"evaluate: {name} ...", file=sys.stderr)
        yield name, section()


def examine(
    candidate: Candidate,
    settings: dict[str, Any],
    folders: dict[str, Path] | None = None,
    partial: Path | None = None,
    measure: Measure = one_by_one,
) -> dict[str, Any]:
    """`evaluate` for any candidate. `settings`: what, n, seed, guidance, steps, weights; `folders`: where "clip",
    "stable-diffusion" and "llm" lie, without which FID, CLIP score, the teacher and perplexity are None."""
    began, done = time.perf_counter(), _begin(partial, settings)
    before, sections = done["seconds"], _sections(candidate, settings, folders or {})
    for name, found in measure({name: work for name, work in sections.items() if name not in done["sections"]}):
        done["sections"][name] = found
        done["seconds"] = round(before + time.perf_counter() - began, 1)
        if partial is not None:
            write_atomically(partial, json.dumps(done).encode())
    result: dict[str, Any] = {"settings": settings | {"seconds": done["seconds"]}}
    for name in sections:
        _merge(result.setdefault(name.split("/")[0], {}), done["sections"][name])
    return result


def _merge(into: dict[str, Any], found: dict[str, Any]) -> None:
    """Add figures to those that are there, level by level."""
    for key, value in found.items():
        if isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _sections(candidate: Candidate, settings: dict[str, Any], folders: dict[str, Path]) -> Sections:
    """What to examine, each to be kept when it is finished."""
    from minidream.evaluation import comprehension, consistency, creation, interleaved, robustness, trust, zero_shot

    n, seed = settings["n"], settings["seed"]
    clip, painter, llm = (folders.get(part) for part in FOLDERS)
    sections: list[tuple[str, Callable[[], dict[str, Any]]]] = [
        ("creation/seen", lambda: creation.seen(candidate, n, seed, clip)),
        ("creation/held_out", lambda: creation.held_out(candidate, n, seed, clip)),
        ("creation/decoder", lambda: creation.decoder(candidate, n, seed)),
        ("creation/teacher", lambda: creation.teacher(painter, n, seed, settings["guidance"], settings["steps"])),
        ("comprehension/caption", lambda: comprehension.caption(candidate, n, seed)),
        ("comprehension/vqa", lambda: comprehension.vqa(candidate, n, seed)),
        ("comprehension/pope", lambda: comprehension.pope(candidate, n, seed)),
        ("interleaved/placement", lambda: interleaved.placement(candidate, n, seed)),
        ("interleaved/orders", lambda: interleaved.orders(candidate, n, seed)),
        *(
            (f"interleaved/{name}", functools.partial(interleaved.followed, name, candidate, n, seed))
            for name in interleaved.FOLLOWED
        ),
        *(
            (f"interleaved/thinking/{name}", functools.partial(interleaved.thinking, name, candidate, n, seed))
            for name in interleaved.THOUGHT
        ),
        ("interleaved/consistency", lambda: consistency.consistency(candidate, n, seed)),
        ("interleaved/few_shot", lambda: interleaved.few_shot(candidate, n, seed)),
        ("interleaved/perplexity", lambda: interleaved.perplexity(candidate, llm, n, seed)),
        ("trust/captions", lambda: trust.captions(candidate, n, seed)),
        ("trust/stories", lambda: trust.documents(candidate, n, seed)),
        ("trust/explanations", lambda: trust.explanations(candidate, n, seed)),
        *(
            ("/".join(("robustness", *at)), functools.partial(robustness.robustness, candidate, n, seed, *at))
            for at in robustness.damages()
        ),
        ("zero_shot/story_questions", lambda: zero_shot.story_questions(candidate, n, seed)),
        ("zero_shot/silent_stories", lambda: zero_shot.silent_stories(candidate, n, seed)),
    ]
    parts = PARTS if settings["what"] == "all" else (settings["what"],)
    return {name: work for name, work in sections if name.split("/")[0] in parts}


def _sections_of(settings: dict[str, Any], weights: Path | None, device: str | None) -> Sections:
    """The sections of `evaluate` in a process of its own."""
    return _sections(_candidate(settings, weights, device), settings, _folders(weights))


def _begin(partial: Path | None, settings: dict[str, Any]) -> dict[str, Any]:
    """What an interrupted evaluation left, or an empty record."""
    if partial is None or not partial.is_file():
        return {"settings": settings, "seconds": 0.0, "sections": {}}
    try:
        done = json.loads(partial.read_text())
        left, _ = done["settings"], (done["seconds"], done["sections"])
        differs = [f"{key} {left.get(key)}, not {value}" for key, value in settings.items() if left.get(key) != value]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{partial} is not what an interrupted evaluation leaves: remove it and start again") from None
    if differs:
        raise UserError(
            f"{partial} is left of an evaluation with {'; '.join(differs)}: give the same options, or remove it"
        )
    return dict(done)


def _open(weights: Path | None) -> MiniDreamPipeline:
    """The model in a folder, see `evaluate`."""
    from minidream.pipeline import MiniDreamPipeline  # torch is not loaded before it is needed
    from minidream.training.dream import TRAINED, open_stage

    if weights is None:
        return MiniDreamPipeline.from_pretrained()
    if (Path(weights) / TRAINED).is_file():
        return open_stage(Path(weights))
    # What `minidream train all` filled holds the model in `minidream`, beside the parts it was made of.
    inside = Path(weights) / "minidream"
    return MiniDreamPipeline.from_pretrained(inside if inside.is_dir() else weights)


def _candidate(settings: dict[str, Any], weights: Path | None, device: str | None) -> PipelineCandidate:
    """The pipeline in a folder as a candidate."""
    import torch

    from minidream.evaluation.candidate import PipelineCandidate

    pipe = _open(weights).to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return PipelineCandidate(pipe, settings["guidance"], settings["steps"])


def _folders(weights: Path | None) -> dict[str, Path]:
    """Where each of `FOLDERS` lies, beside or in the weights; without those that are not there."""
    from minidream.weights import find_weights, verify_manifest

    if weights is None:
        return {part: find_weights(part) for part in FOLDERS}
    found = {}
    for part in FOLDERS:
        places = (Path(weights) / part, Path(weights).parent / part)
        if folder := next((place for place in places if place.is_dir()), None):
            verify_manifest(folder)
            found[part] = folder
    return found


def figures(result: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict | None]]:
    """All (path, leaf) of a result, in order; a leaf is None where it was not measured."""
    for key, value in result.items():
        if path == () and key == "settings":
            continue
        if isinstance(value, dict) and "mean" not in value:
            yield from figures(value, (*path, key))
        else:
            yield (*path, key), value


def asked(path: tuple[str, ...]) -> float | None:
    """What the figure at `path` must reach; None where nothing is asked."""
    fitting = [start for start in ASKED if path[: len(start)] == start]
    return ASKED[max(fitting, key=len)] if fitting else None


def table(result: dict[str, Any]) -> str:
    """The result for the terminal: one line a figure with its interval, what is asked, and whether it is reached."""
    rows = [("figure", "mean", "95 % interval", "n", "asked", "")]
    for path, found in figures(result):
        least = asked(path)
        name, wanted = " / ".join(path).replace("_", " "), "" if least is None else f">= {least:.3f}"
        if found is None:
            rows.append((name, "not measured", "", "", wanted, ""))
            continue
        verdict = "" if least is None else "reached" if found["mean"] >= least else "short"
        interval = f"{found['low']:.3f} - {found['high']:.3f}"
        rows.append((name, f"{found['mean']:.3f}", interval, str(found["n"]), wanted, verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    lines = ["  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]) for row in rows]
    settings = "  ".join(f"{key} {str(value)[:12]}" for key, value in result["settings"].items())
    return "\n".join([*(line.rstrip() for line in lines), "", settings])
