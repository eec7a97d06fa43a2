"""Write the README's measured figures and costs: `python tools/readme.py`; its pictures, too: `... --pictures`.

Figures come from `data/results/evaluation.json` (`minidream evaluate all --n 300 --json ...`), those of stage I alone
from `stage_one.json` (`minidream evaluate creation --weights data/weights/align --json ...`), its learning curve from
`stage_one.jsonl` (the log of its training), those of its second look from `trust.json` (`minidream evaluate trust
--json ...`), what learning both brings from `synergy.json` (`minidream ablate synergy`), what shortcuts save from
`bench.json` (`minidream bench --json ...`), costs from each `training.json` in `data/weights`, and pictures from the
weights themselves. Each table stands between two comments that name it; a test holds them equal to what this script
would write.
"""

from __future__ import annotations

import io
import json
import re
import sys
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

ROOT = Path(__file__).parent.parent
README, WEIGHTS = ROOT / "README.md", ROOT / "data" / "weights"
REVIEW = ROOT / "data" / "samples" / "review.png"
RESULTS, STORY = ROOT / "data" / "results" / "evaluation.json", ROOT / "data" / "samples" / "story.png"
STAGE_ONE, LEAST_OF_STAGE_ONE = ROOT / "data" / "results" / "stage_one.json", 0.50
TRUST = ROOT / "data" / "results" / "trust.json"
SYNERGY = ROOT / "data" / "results" / "synergy.json"
BENCH = ROOT / "data" / "results" / "bench.json"
LEARNING, WINDOW = ROOT / "data" / "results" / "stage_one.jsonl", 250  # steps to a column
PROMPT = "A small blue triangle in the top left and a large orange star in the bottom right on a black background."
STAGES = {  # stage: its record in the shipped weights
    "vae": "stable-diffusion/training.vae.json",
    "clip": "clip/training.json",
    "language": "llm/training.json",
    "diffusion": "stable-diffusion/training.json",
    "align": "align/training.json",
    "igpt": "minidream/training.igpt.json",
    "instruct": "minidream/training.json",
}
ROWS: dict[str, tuple[str, ...]] = {  # what the reader is told: path in the result
    "creation, overall": ("creation", "seen", "overall"),
    "&nbsp; single object": ("creation", "seen", "single_object"),
    "&nbsp; two objects": ("creation", "seen", "two_objects"),
    "&nbsp; counting": ("creation", "seen", "counting"),
    "&nbsp; colors": ("creation", "seen", "colors"),
    "&nbsp; position": ("creation", "seen", "position"),
    "&nbsp; color attribution": ("creation", "seen", "color_attribution"),
    "the teacher (plain Stable Diffusion with CLIP text), overall": ("creation", "teacher", "overall"),
    "captions, the whole scene exact": ("comprehension", "caption", "seen"),
    "questions (VQA), overall": ("comprehension", "vqa", "seen", "overall"),
    "POPE, F1 (random / popular / adversarial)": ("comprehension", "pope"),
    "stories: `<dream>` exactly where it belongs": ("interleaved", "placement"),
    "after a reader's picture and an order: `<dream>` at once": ("interleaved", "orders"),
    "stories: every picture right": ("interleaved", "pictures"),
    "&nbsp; stories with `think`": ("interleaved", "thinking", "pictures"),
    "facts that only a picture holds, kept": ("interleaved", "picture_only_facts"),
    "&nbsp; facts with `think`": ("interleaved", "thinking", "picture_only_facts"),
    "edits": ("interleaved", "edits"),
    "&nbsp; edits with `think`": ("interleaved", "thinking", "edits"),
    "made-up names": ("interleaved", "made_up_names"),
    "&nbsp; names with `think`": ("interleaved", "thinking", "made_up_names"),
    "two made-up names in one picture": ("interleaved", "composition"),
    "a made-up name that several pictures bind": ("interleaved", "subjects"),
    "stories that go on from the reader's own picture": ("interleaved", "continued"),
    "&nbsp; such stories with `think`": ("interleaved", "thinking", "continued"),
    "documents of its own: every sentence makes sense": ("interleaved", "consistency", "sentences"),
    "&nbsp; and every picture shows it": ("interleaved", "consistency", "documents"),
    "&nbsp; the same with `think`": ("interleaved", "consistency", "thinking", "documents"),
    "a question that only examples explain (0 / 1 / 2 / 4 of them)": ("interleaved", "few_shot"),
    "plain language kept (perplexity before stage I / after stage III)": ("interleaved", "perplexity", "kept"),
}


def leaf(result: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any] | None:
    """What was measured at `path`."""
    found: Any = result
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    if "mean" in found:
        return f"{found['mean']:.3f} ({found['low']:.3f}–{found['high']:.3f})"
    return " / ".join(f"{part['mean']:.3f}" for part in found.values())


def _means(found: dict[str, Any] | None) -> list[float]:
    if found is None:
        return []
    return [found["mean"]] if "mean" in found else [part["mean"] for part in found.values()]


def _row(name: str, least: float | None, found: dict[str, Any] | None, *cells: str) -> str:
    """A line of a table: what is asked, the `cells`, and whether what was found is enough."""
    wanted = verdict = ""
    if least is not None:
        wanted, enough = f"{least:.2f}", min(_means(found), default=0) >= least
        verdict = "reached" if enough else "**short**"
    return f"| {' | '.join([name, wanted, *cells, verdict])} |"


def figures(result: dict[str, Any]) -> str:
    """The table of figures: asked, measured, held-out, and whether it falls short."""
    from minidream.evaluation import asked

    lines = ["| what | asked | seen | held-out | |", "|---|---|---|---|---|"]
    for name, path in ROWS.items():
        found = leaf(result, path)
        if found is None:  # an older result, measured before this row was asked for
            continue
        unseen = leaf(result, tuple("held_out" if key == "seen" else key for key in path)) if "seen" in path else None
        if path == ("creation", "teacher", "overall"):
            unseen = leaf(result, ("creation", "teacher", "held_out", "overall"))
        if "seen" in found and "mean" not in found:
            found, unseen = found["seen"], found.get("held_out")
        lines.append(_row(name, asked(path), found, _cell(found), _cell(unseen)))
        if path == ("creation", "seen", "color_attribution") and STAGE_ONE.is_file():
            lines.append(_stage_one(json.loads(STAGE_ONE.read_text())["creation"]))
    settings = result["settings"]
    processes = settings.get("processes", 1)
    command = f"`minidream evaluate all --n {settings['n']} --json data/results/evaluation.json`"
    cores = "one CPU core" if processes == 1 else f"{processes} CPU cores"
    note = f"{command}, {settings['seconds'] / 60:.0f} minutes of {cores}; in brackets the 95 % interval."
    if left_out := result["settings"].get("left_out"):
        note += f" Left out to save time: {left_out}."
    return "\n".join([*lines, "", note])


def _stage_one(creation: dict[str, Any]) -> str:
    """The row of the weights of which only queries and projectors have been trained."""
    found, unseen = (creation[part]["overall"] for part in ("seen", "held_out"))
    name = f"creation after stage I, where the language model is still frozen ({found['n'] // 6} of each)"
    return _row(name, LEAST_OF_STAGE_ONE, found, _cell(found), _cell(unseen))


def learning() -> str:
    """Stage I's learning curve: the mean losses of each `WINDOW` steps."""
    lines = [json.loads(line) for line in LEARNING.read_text().splitlines()]
    ends = range(WINDOW, lines[-1]["step"] + 1, WINDOW)
    rows = [["stage I, steps up to", *map(str, ends)], ["---"] * (len(ends) + 1)]
    for name, key in (("dream loss", "text_to_image/dream"), ("language loss", "image_to_text/language")):
        windows = [[line[key] for line in lines if end - WINDOW < line["step"] <= end] for end in ends]
        rows.append([name, *(f"{mean(window):.3f}" for window in windows)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


TRUSTED: dict[str, tuple[str, ...]] = {
    "its verdict on its own pictures of captions, AUROC": ("captions", "auroc"),
    "&nbsp; of those that the exact reader can read": ("captions", "auroc_readable"),
    "its verdict on its own pictures in stories, AUROC": ("stories", "auroc"),
    "captions, errors gone by the best of four": ("captions", "errors_removed"),
    "stories, errors gone by the best of four": ("stories", "errors_removed"),
    "&nbsp; stories right, first try": ("stories", "first"),
    "&nbsp; stories right, best of four at each picture": ("stories", "best_of_4"),
    "explanations that name a true reason first": ("explanations", "agreement", "overall"),
    "&nbsp; by chance": ("explanations", "chance", "overall"),
}


def trusted() -> str:
    """The table of what its second look and its explanations are worth."""
    from minidream.evaluation import asked

    result = json.loads(TRUST.read_text())
    lines = ["| what | asked | measured | |", "|---|---|---|---|"]
    for name, path in TRUSTED.items():
        found = leaf(result, ("trust", *path))
        lines.append(_row(name, asked(("trust", *path)), found, _cell(found)))
    n, seed = result["settings"]["n"], result["settings"]["seed"]
    command = f"`minidream evaluate trust --n {n} --seed {seed} --json data/results/trust.json`"
    return "\n".join([*lines, "", f"{command}. Taught in lesson 09."])


def synergies() -> str:
    """The table of what learning both tasks brings over learning one of them."""
    from minidream.ablation.grids import DOCUMENTS
    from minidream.ablation.synergy import gains

    content = json.loads(SYNERGY.read_text())
    lines = ["| right, of | documents | one alone | both | gain | p |", "|---|---|---|---|---|---|"]
    for documents in DOCUMENTS:
        for name, gain in gains(content, documents).items():
            lines.append(f"| {' | '.join([name, documents, *gain.told()])} |")
    seconds = sum(run["cpu_seconds"] for run in content["runs"])
    note = f"`{content['command']}`, {seconds / 60:.0f} minutes of one CPU core; in brackets the gain's 95 % interval."
    return "\n".join([*lines, "", note])


SPEEDS = {
    "training, ratio": "time of a stage II step, packed and all its pictures cached / without either",
    "decoding, speedup": "time of 100 tokens without the KV cache / with it",
    "decoding, slope": "time of a token at the context's end / at its beginning",
    "drawing, difference": "share of right pictures: 15 steps of DPM-Solver++ minus 50 of DDIM",
}


def speeds() -> str:
    """The table of what shortcuts save; a line that says how to measure it where that has not been done."""
    if not BENCH.is_file():
        return "Not measured yet: `minidream bench --json data/results/bench.json`."
    from minidream.bench import verdicts

    result = json.loads(BENCH.read_text())
    lines = ["| ratio of times, or difference of shares | asked | measured | |", "|---|---|---|---|"]
    for name, found, asked, verdict in verdicts(result):
        shown = verdict if verdict == "reached" else f"**{verdict}**"
        lines.append(
            f"| {SPEEDS[name]} | {asked} | {found['mean']:.2f} ({found['low']:.2f} to {found['high']:.2f}) | {shown} |"
        )
    rounds = result["settings"]["rounds"]
    note = f"`minidream bench --json data/results/bench.json`, one thread, medians of {rounds} rounds."
    return "\n".join([*lines, "", note])


def costs() -> str:
    """The table of what the shipped weights cost, all runs of a stage together."""
    runs = [run for file in STAGES.values() for run in _runs(json.loads((WEIGHTS / file).read_text()))]
    lines, total = ["| stage | runs | steps | pictures or documents | core hours |", "|---|---|---|---|---|"], 0.0
    for stage in STAGES:
        some = [run for run in runs if run["recipe"]["stage"] == stage]
        hours = sum(run["seconds"] * run["processes"] * run["threads"] for run in some) / 3600
        steps = sum(run["steps"] for run in some)
        shown = sum(run["steps"] * run["recipe"]["batch"] for run in some)
        lines.append(f"| {stage} | {len(some)} | {steps} | {shown} | {hours:.1f} |")
        total += hours
    return "\n".join([*lines, f"| all | {len(runs)} | | | {total:.1f} |"])


def _runs(record: dict[str, Any]) -> list[dict[str, Any]]:
    """A stage's record, after those of the runs whose weights it began with (`--init`)."""
    earlier = record.get("began_with")
    return [*(_runs(earlier) if earlier else []), record]


def filled(text: str) -> str:
    """The README with its tables as they are now."""
    tables = {
        "figures": figures(json.loads(RESULTS.read_text())),
        "learning": learning(),
        "trusted": trusted(),
        "synergy": synergies(),
        "costs": costs(),
        "speeds": speeds(),
    }
    for name, table in tables.items():
        before, _, after = re.split(rf"(?<=<!-- {name} -->\n)(.*?)(?=<!-- /{name} -->)", text, flags=re.S)
        text = f"{before}{table}\n{after}"
    return text


def draw_story() -> None:
    """Write `PROMPT`'s story as the README's picture, under each picture the sentence before it."""
    from minidream import Document, MiniDreamPipeline
    from minidream.pictures import write_atomically
    from minidream.visualization import film_strip
    from minidream.visualization.figures import to_png

    story = MiniDreamPipeline.from_pretrained().complete(Document([PROMPT]), seed=7, think=True)
    said = [before for before, part in pairwise(story) if not isinstance(part, str)]
    write_atomically(STORY, to_png(film_strip(story.pictures, [str(words).strip() for words in said])))
    print(story.text)


def draw_review() -> None:
    """Write six of sixty pictures of captions in the order of the model's own verdicts; lesson 09 opens with them."""
    from PIL import Image

    from minidream import Document, MiniDreamPipeline
    from minidream.evaluation.candidate import look
    from minidream.evaluation.creation import trials
    from minidream.evaluation.interleaved import same
    from minidream.pictures import write_atomically
    from minidream.visualization.figures import to_png
    from minidream.visualization.trust import review

    pipe = MiniDreamPipeline.from_pretrained()
    asked = trials(10, 0, held_out=False)
    drawn = pipe.draw([caption for caption, _ in asked], seed=list(range(len(asked))))
    verdicts = pipe.review([Document([caption, picture]) for (caption, _), picture in zip(asked, drawn)])
    six = [verdicts[rank] for rank in (0, 1, 2, len(drawn) // 3, 2 * len(drawn) // 3, -1)]
    pictures = [drawn[verdict.document] for verdict in six]
    right = [shown and same(asked[v.document][1].scene, shown) for v, shown in zip(six, look(pictures))]
    differ = [verdict.differences[:1] for verdict in six]
    notes = [
        "told {}, reads {}".format(*(words or "nothing" for words in some[0])) if some else "reads what was told"
        for some in differ
    ]
    alt = "Six pictures by the score of the model's second look, lowest first"
    figure = Image.open(io.BytesIO(to_png(review(pictures, [verdict.score for verdict in six], right, notes, alt=alt))))
    small = io.BytesIO()  # lesson 09 holds it, and may not be large: a palette is enough for flat colours
    paletted = figure.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
    paletted.save(small, "PNG", optimize=True)
    write_atomically(REVIEW, small.getvalue())


if __name__ == "__main__":
    if "--pictures" in sys.argv:
        draw_story()
        draw_review()
    README.write_text(filled(README.read_text(encoding="utf-8")), encoding="utf-8")
