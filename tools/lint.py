"""The house limits of a notebook, as one function: `problems(path)`, or `python tools/lint.py [NOTEBOOK ...]`."""

from __future__ import annotations

import re
import statistics
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat

CELLS, CODE_LINES, MEDIAN_LINES, WORDS, BYTES = 60, 25, 8, 120, 1_000_000
PATH = re.compile(r"(?<![\w.:/<~])/(?:home|root|work|tmp|usr|opt|mnt|var|Users)/|\b[A-Z]:\\")
ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}")
NEVER_IN_CODE = {  # pattern: why
    r"^\s*[!%]+\s*(?:pip|conda|apt)\b|\bpip install\b": "installs packages: they stand in pyproject.toml",
    r"https?://|\b(?:requests|urllib|wget|curl|snapshot_download|hf_hub_download)\b": "uses the network",
    r"\bclear_output\b|\binteract\w*\(|\bOutput\(|\bupdate_display\b": "nbval fails on it: observe into Image or HTML",
    r"^\s*#\s*NBVAL_": "switches the comparison off by a comment: use a tag and give a reason in the metadata",
    r";\s*\Z": "ends with a semicolon: end a figure's cell with show(figure)",
    r"\bimport pickle\b|torch\.load\(|trust_remote_code": "unpickles or trusts foreign code",
}


def problems(path: Path) -> list[str]:
    """Everything in a notebook that breaks a limit, one sentence each; empty when there is nothing."""
    notebook = nbformat.read(path, as_version=4)
    found = list(_whole(notebook, path)) + list(_headings(notebook))
    for index, cell in enumerate(notebook.cells):
        check = {"code": _code, "markdown": _text}.get(cell.cell_type)
        found += [f"cell {index} {problem}" for problem in (check(cell) if check else ())]
    return found


def _whole(notebook: Any, path: Path) -> Iterator[str]:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if len(notebook.cells) > CELLS:
        yield f"{len(notebook.cells)} cells, at most {CELLS}"
    if path.stat().st_size > BYTES:
        yield f"{path.stat().st_size} bytes, at most {BYTES}"
    if code and statistics.median(len(cell.source.splitlines()) for cell in code) > MEDIAN_LINES:
        yield f"its code cells have more than {MEDIAN_LINES} lines in the middle"
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        yield "not executed in order 1..n: run tools/render.py"
    if "widgets" in notebook.metadata:
        yield "stores widget state, which some viewers refuse: run tools/render.py"
    if not any(re.search(r"\d", text) for cell in code if _compared(cell) for text in outputs(cell)):
        yield "prints no number that is compared: pictures alone prove nothing, print a digest beside them"


def _headings(notebook: Any) -> Iterator[str]:
    texts = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    levels = [len(marks) for marks in re.findall(r"^(#{1,6}) ", re.sub(r"```.*?```", "", texts, flags=re.DOTALL), re.M)]
    if levels.count(1) != 1 or levels[0] != 1:
        yield "needs exactly one first-level heading, and first"
    for before, after in pairwise(levels):
        if after > before + 1:
            yield f"skips a heading level ({before} to {after})"


def _code(cell: Any) -> Iterator[str]:
    lines = len(cell.source.splitlines())
    if lines > CODE_LINES:
        yield f"has {lines} lines, at most {CODE_LINES}"
    if not lines:
        yield "is empty"
    for pattern, why in NEVER_IN_CODE.items():
        if re.search(pattern, cell.source, re.M):
            yield why
    tags = cell.metadata.get("tags", [])
    if "nbval-skip" in tags or ("nbval-ignore-output" in tags and not cell.metadata.get("reason")):
        yield "is not compared and gives no reason (metadata: reason)"
    for output in cell.outputs:
        pictures = [mime for mime in output.get("data", {}) if mime in ("image/png", "image/jpeg")]
        if any(not output.metadata.get(mime, {}).get("alt") for mime in pictures):
            yield "shows a picture without alt text: use show(figure, alt)"
    for text in [cell.source, *outputs(cell)]:
        if PATH.search(text):
            yield "holds an absolute path"
    if any(ADDRESS.search(text) for text in outputs(cell)):
        yield "prints an object's address"


def _text(cell: Any) -> Iterator[str]:
    prose = re.sub(r"```.*?```|<[^>]+>", " ", cell.source, flags=re.DOTALL)
    if len(prose.split()) > WORDS:
        yield f"has {len(prose.split())} words, at most {WORDS}"
    if re.search(r"!\[\s*\]\(", cell.source) or re.search(r"<img(?![^>]*\balt=[\"'][^\"'])", cell.source):
        yield "shows a picture without alt text"
    if PATH.search(cell.source):
        yield "holds an absolute path"


def _compared(cell: Any) -> bool:
    return not {"nbval-ignore-output", "nbval-skip"} & set(cell.metadata.get("tags", []))


def outputs(cell: Any) -> list[str]:
    """What a cell printed, as texts: stdout and every text or HTML it displayed."""
    texts = [output.text for output in cell.outputs if output.get("name") == "stdout"]
    shown = [output.data for output in cell.outputs if "data" in output]
    return texts + [data[mime] for data in shown for mime in ("text/plain", "text/html") if mime in data]


if __name__ == "__main__":
    paths = list(map(Path, sys.argv[1:])) or sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
    everything = [f"{path}: {problem}" for path in paths for problem in problems(path)]
    print("\n".join(everything) or f"{len(paths)} notebooks keep the limits")
    sys.exit(bool(everything))
