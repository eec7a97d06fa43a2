"""Tables of what was measured, from `data/results` and the records of trainings in `data/weights`, as Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from minidream.evaluation import asked
from minidream.evaluation import figures as leaves

ROOT = Path(__file__).parent.parent
RESULTS, WEIGHTS = ROOT / "data" / "results", ROOT / "data" / "weights"
LEAST_OF_STAGE_ONE, WINDOW = 0.50, 250  # of its creation; steps to a column of its learning curve
STAGES = {  # stage: its record in the shipped weights
    "vae": "stable-diffusion/training.vae.json",
    "clip": "clip/training.json",
    "language": "llm/training.json",
    "diffusion": "stable-diffusion/training.json",
    "align": "align/training.json",
    "igpt": "minidream/training.igpt.json",
    "instruct": "minidream/training.json",
}
WORST_OF = {("creation", "seen"), ("comprehension", "vqa", "seen")}  # of several, the row shows the worst
ROWS: dict[str, tuple[str, ...]] = {  # what the reader is told: path in the result
    "creation, overall": ("creation", "seen", "overall"),
    "&nbsp; the worst category": ("creation", "seen"),
    "the teacher (plain Stable Diffusion with CLIP text), overall": ("creation", "teacher", "overall"),
    "the image decoder alone: true pictures, encoded and decoded, read back": ("creation", "decoder"),
    "captions, the whole scene exact": ("comprehension", "caption", "seen"),
    "questions (VQA), overall": ("comprehension", "vqa", "seen", "overall"),
    "&nbsp; the worst type": ("comprehension", "vqa", "seen"),
    "POPE, F1 (random / popular / adversarial)": ("comprehension", "pope"),
    "stories: `<dream>` exactly where it belongs": ("interleaved", "placement"),
    "stories: every picture right": ("interleaved", "pictures"),
    "&nbsp; stories with `think`": ("interleaved", "thinking", "pictures"),
    "facts that only a picture holds, kept": ("interleaved", "picture_only_facts"),
    "&nbsp; facts with `think`": ("interleaved", "thinking", "picture_only_facts"),
    "edits": ("interleaved", "edits"),
    "&nbsp; edits with `think`": ("interleaved", "thinking", "edits"),
    "made-up names": ("interleaved", "made_up_names"),
    "&nbsp; names with `think`": ("interleaved", "thinking", "made_up_names"),
    "documents of its own: every sentence makes sense": ("interleaved", "consistency", "sentences"),
    "&nbsp; and every picture shows it": ("interleaved", "consistency", "documents"),
    "&nbsp; the same with `think`": ("interleaved", "consistency", "thinking", "documents"),
    "a question that only examples explain (0 / 1 / 2 / 4 of them)": ("interleaved", "few_shot"),
    "plain language kept (perplexity before stage I / after stage III)": ("interleaved", "perplexity", "kept"),
}


def read(file: str) -> dict[str, Any]:
    """A file of `data/results`."""
    return dict(json.loads((RESULTS / file).read_text()))


def leaf(result: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any] | None:
    """What was measured at `path`."""
    found: Any = result
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def cell(found: dict[str, Any] | None, least: float | None = None) -> str:
    """A figure with its interval, or several means; and whether they are at least what is asked."""
    if found is None:
        return ""
    some = [found] if "mean" in found else [part for part in found.values() if "mean" in part]
    told = " / ".join(f"{part['mean']:.3f}" for part in some)
    if found is some[0]:
        told += f" ({found['low']:.3f}–{found['high']:.3f})"
    if least is None:
        return told
    return f"{told} {'✓' if min(part['mean'] for part in some) >= least else '✗'}"


def table(*rows: Sequence[str]) -> str:
    """Rows of cells as a Markdown table; the first is its head."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def made_by(result: dict[str, Any], file: str, weights: str = "") -> str:
    """The command of an evaluation, of other weights than the shipped ones if they are named, and how long it took."""
    settings = result["settings"]
    options = "".join(f" --{name} {settings[name]}" for name in ("n", "seed") if settings[name] or name == "n")
    options += f" --weights {weights}" if weights else ""
    cores = f"{count} CPU cores" if (count := settings.get("processes", 1)) > 1 else "one CPU core"
    command = f"`minidream evaluate {settings['what']}{options} --json data/results/{file}`"
    return f"{command}, {settings['seconds'] / 60:.0f} minutes of {cores}; in brackets the 95 % interval."


def unseen(path: tuple[str, ...]) -> tuple[str, ...]:
    """Where the figure of a path stands for what training holds out."""
    if "seen" in path:
        return tuple("held_out" if key == "seen" else key for key in path)
    shared = {"interleaved": 1, "creation": 2, "comprehension": 2}[path[0]]
    return (*path[:shared], "held_out", *path[shared:])


def figures() -> str:
    """The README's table: asked, measured, and whether that is enough, for what training shows and holds out."""
    result = read("evaluation.json")
    rows = [("what", "asked (seen / held-out)", "seen", "held-out")]
    for name, path in ROWS.items():
        least, of_unseen = asked(path), asked(unseen(path))
        found, other = leaf(result, path), leaf(result, unseen(path))
        if path in WORST_OF:
            assert found and other
            worst, worst_unseen = _worst(found), _worst(other)
            name = f"{name} ({worst}; held-out: {worst_unseen})".replace("_", " ")
            found, other = found[worst], other[worst_unseen]
        if path == ("comprehension", "pope"):
            least = asked((*path, "random"))
        pairs = ((least, found), (of_unseen, other))
        wanted = " / ".join(f"{each:g}" for each, shown in pairs if each is not None and shown)
        rows.append((name, wanted, cell(found, least), cell(other, of_unseen)))
        if path == ("creation", "seen"):
            rows.append(_stage_one())
    return f"{table(*rows)}\n\n{made_by(result, 'evaluation.json')}"


def _worst(shares: dict[str, Any]) -> str:
    """The category that is drawn, or the type of question that is answered, worst."""
    return min((kind for kind in shares if kind != "overall"), key=lambda kind: float(shares[kind]["mean"]))


def _stage_one() -> tuple[str, ...]:
    """The row of the weights of which only queries and projectors have been trained."""
    creation = read("stage_one.json")["creation"]
    found, other = (creation[part]["overall"] for part in ("seen", "held_out"))
    name = f"creation after stage I, where the language model is still frozen ({found['n'] // 6} of each)"
    return name, f"{LEAST_OF_STAGE_ONE:g}", cell(found, LEAST_OF_STAGE_ONE), cell(other)


def every(file: str, weights: str = "") -> str:
    """All figures of an evaluation's file; only of the shipped weights is anything asked."""
    result = read(file)
    rows = [("figure", "asked", "measured", "n")]
    for path, found in leaves(result):
        if found is not None:
            least = None if weights else asked(path)
            wanted = "" if least is None else f"{least:g}"
            rows.append((" / ".join(path[1:]).replace("_", " "), wanted, cell(found, least), str(found["n"])))
    return f"{table(*rows)}\n\n{made_by(result, file, weights)}"


def learning() -> str:
    """Stage I's learning curve: the mean losses of each `WINDOW` steps."""
    lines = [json.loads(line) for line in (RESULTS / "stage_one.jsonl").read_text().splitlines()]
    ends = range(WINDOW, lines[-1]["step"] + 1, WINDOW)
    rows = [["stage I, steps up to", *map(str, ends)]]
    for name, key in (("dream loss", "text_to_image/dream"), ("language loss", "image_to_text/language")):
        windows = [[line[key] for line in lines if end - WINDOW < line["step"] <= end] for end in ends]
        rows.append([name, *(f"{mean(window):.3f}" for window in windows)])
    return table(*rows)


TRUSTED: dict[str, tuple[str, ...]] = {
    "its verdict on its own pictures of captions, AUROC": ("captions", "auroc"),
    "&nbsp; of those that the exact reader can read": ("captions", "auroc_readable"),
    "&nbsp; errors caught in the tenth that it doubts most": ("captions", "found_by_looking"),
    "its verdict on its own pictures in stories, AUROC": ("stories", "auroc"),
    "&nbsp; errors caught in the tenth that it doubts most (by chance 0.1)": ("stories", "found_by_looking"),
    "captions, errors gone by the best of four": ("captions", "errors_removed"),
    "stories, errors gone by the best of four": ("stories", "errors_removed"),
    "&nbsp; stories right, first try": ("stories", "first"),
    "&nbsp; stories right, best of four at each picture": ("stories", "best_of_4"),
    "explanations that name a true reason first (each piece alone)": ("explanations", "agreement", "overall"),
    "&nbsp; by leaving each out": ("explanations", "left_out", "overall"),
    "&nbsp; by the gradient": ("explanations", "gradient", "overall"),
    "&nbsp; by chance": ("explanations", "chance", "overall"),
}


def trusted() -> str:
    """The table of what its second look and its explanations are worth."""
    result = read("trust.json")
    rows = [("what", "asked", "measured")]
    for name, path in TRUSTED.items():
        least, found = asked(("trust", *path)), leaf(result, ("trust", *path))
        if found is not None:  # where nothing is wrong, nothing tells right from wrong
            rows.append((name, "" if least is None else f"{least:g}", cell(found, least)))
    return f"{table(*rows)}\n\n{made_by(result, 'trust.json')}"


def reasons() -> str:
    """The table of why pictures, documents and captions are wrong, by the first thing that is."""
    found = read("reasons.json")
    del found["settings"]
    rows = [("what", "right", "else, what is wrong first")]
    for name, counts in found.items():
        wrong = "; ".join(f"{why}: {count}" for why, count in counts.items() if why != "right")
        rows.append((name, f"{counts['right']} of {sum(counts.values())}", wrong))
    return f"{table(*rows)}\n\n`python -m tools.reasons`."


def synergies() -> str:
    """The table of what learning both tasks brings over learning one of them."""
    from minidream.ablation.grids import DOCUMENTS
    from minidream.ablation.synergy import gains

    content = read("synergy.json")
    rows = [("right, of", "documents", "one alone", "both", "gain", "p")]
    for documents in DOCUMENTS:
        rows += [(name, documents, *gain.told()) for name, gain in gains(content, documents).items()]
    seconds = sum(run["cpu_seconds"] for run in content["runs"])
    note = f"`{content['command']}`, {seconds / 60:.0f} minutes of one CPU core; in brackets the gain's 95 % interval."
    note += " p is that of exact sign flips, which five pairs cannot bring below 0.062."
    return f"{table(*rows)}\n\n{note}"


SPEEDS = {
    "training, ratio": "time of a stage II step, packed and all its pictures cached / without either",
    "decoding, speedup": "time of 100 tokens without the KV cache / with it",
    "decoding, slope": "time of a token at the context's end / at its beginning",
    "drawing, difference": "share of right pictures: 15 steps of DPM-Solver++ minus 50 of DDIM",
}


def speeds() -> str:
    """The table of what shortcuts save."""
    from minidream.bench import verdicts

    result = read("bench.json")
    rows = [("ratio of times, or difference of shares", "asked", "measured")]
    for name, found, least, verdict in verdicts(result):
        told = f"{found['mean']:.2f} ({found['low']:.2f} to {found['high']:.2f})"
        rows.append((SPEEDS[name], least, f"{told} {'✓' if verdict == 'reached' else '✗'}"))
    rounds = result["settings"]["rounds"]
    note = f"`minidream bench --json data/results/bench.json`, one thread, medians of {rounds} rounds."
    return f"{table(*rows)}\n\n{note}"


def costs() -> str:
    """The table of what the shipped weights cost, all runs of a stage together."""
    runs = [run for file in STAGES.values() for run in _runs(json.loads((WEIGHTS / file).read_text()))]
    rows, total = [("stage", "runs", "steps", "pictures or documents", "core hours")], 0.0
    for stage in STAGES:
        some = [run for run in runs if run["recipe"]["stage"] == stage]
        hours = sum(run["seconds"] * run["processes"] * run["threads"] for run in some) / 3600
        steps = sum(run["steps"] for run in some)
        shown = sum(run["steps"] * run["recipe"]["batch"] for run in some)
        rows.append((stage, str(len(some)), str(steps), str(shown), f"{hours:.1f}"))
        total += hours
    return table(*rows, ("all", str(len(runs)), "", "", f"{total:.1f}"))


def _runs(record: dict[str, Any]) -> list[dict[str, Any]]:
    """A stage's record, after those of the runs whose weights it began with (`--init`)."""
    earlier = record.get("began_with")
    return [*(_runs(earlier) if earlier else []), record]
