"""The notebooks' checks are checked: the limits bite, and nbval's comparison with our policy turns red when it must."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from nbval.plugin import get_sanitize_patterns

from tools.lint import outputs, problems
from tools.render import render

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SANITIZE = ROOT / "notebooks" / "sanitize.cfg"


def test_the_notebooks_keep_the_house_limits():
    assert [f"{path.name}: {problem}" for path in NOTEBOOKS for problem in problems(path)] == []


# -- nbval under our policy, in a process of its own ------------------------------------------------------------------


def check(paths: Sequence[Path], **environment: str) -> dict[str, str]:
    """Run nbval as `make test` does: {"name.ipynb::Cell 0": "PASSED" | "FAILED"}, with all it said under "".

    Without the variables that the policy is to set itself.
    """
    report = paths[0].parent / "report.xml"
    unset = ("OMP_WAIT_POLICY", "HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM", "NOTEBOOK_SECONDS")
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    command = [
        *(sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", "-c", "pyproject.toml"),
        *("--rootdir", str(paths[0].parent), "--junitxml", str(report), "--color=no"),
        *("--nbval", "--nbval-current-env", "--nbval-cell-timeout=60", f"--nbval-sanitize-with={SANITIZE}"),
        *map(str, paths),
    ]
    done = subprocess.run(
        command, cwd=ROOT, env={**inherited, **environment}, capture_output=True, text=True, timeout=300
    )
    found = {"": done.stdout + done.stderr}
    for case in ElementTree.parse(report).iter("testcase"):
        found[f"{case.get('classname')}::{case.get('name')}"] = "PASSED" if len(case) == 0 else "FAILED"
    return found


def write(path: Path, *cells: Any) -> Path:
    nbformat.write(new_notebook(cells=list(cells)), path)
    return path


def printed(source: str, count: int, *found: Any) -> Any:
    return new_code_cell(source, execution_count=count, outputs=list(found))


def out(text: str, name: str = "stdout") -> Any:
    return new_output("stream", name=name, text=text)


CASES: dict[str, tuple[str, list[Any], str]] = {  # name: source, stored outputs, verdict
    "same": ("print('loss 1.234, 7 things')", [out("loss 1.234, 7 things\n")], "PASSED"),
    "one_percent": ("print('loss 1.000')", [out("loss 1.010\n")], "PASSED"),
    "ten_percent": ("print('loss 1.000')", [out("loss 1.100\n")], "FAILED"),
    "small_difference": ("print('p 0.012')", [out("p 0.008\n")], "PASSED"),
    "another_integer": ("print('100 things')", [out("101 things\n")], "FAILED"),
    "integer_for_float": ("print(1)", [out("1.0\n")], "FAILED"),
    "another_word": ("print('red 0.50')", [out("blue 0.50\n")], "FAILED"),
    "another_layout": ("print('a 0.50  b')", [out("a 0.50 b\n")], "FAILED"),
    "alignment": ("print(f'{9.99:6.2f}|{10.01:6.2f}')", [out(" 10.01|  9.99\n")], "PASSED"),
    "one_float_more": ("print('0.50 0.50')", [out("0.50\n")], "FAILED"),
    "missing_output": ("x = 1", [out("1\n")], "FAILED"),
    "unstored_output": ("print(1)", [], "FAILED"),
    "stderr": ("import sys; print('a', file=sys.stderr); print(1)", [out("b\n", "stderr"), out("1\n")], "PASSED"),
    "stderr_only_now": ("import sys; print('a', file=sys.stderr)", [], "PASSED"),
    "version": ("print('torch 2.13.0')", [out("torch 2.13.1\n")], "FAILED"),
    "address": ("print('<object at 0x7fffab12cd34>')", [out("<object at 0x7fffab999999>\n")], "PASSED"),
    "seconds": ("print('took 3.1 s, loss 2.00')", [out("took 12 s, loss 2.01\n")], "PASSED"),
    "exception": ("1 / 0", [], "FAILED"),
    "environment": (
        "import os; print(*(os.environ[k] for k in ('OMP_WAIT_POLICY', 'HF_HUB_OFFLINE', 'TOKENIZERS_PARALLELISM')))",
        [out("PASSIVE 1 false\n")],
        "PASSED",
    ),
}


def test_what_is_compared_and_how_closely(tmp_path: Path):
    names = list(CASES)
    cells = [printed(source, count, *stored) for count, (source, stored, _) in enumerate(CASES.values(), 1)]
    notebook = write(tmp_path / "cases.ipynb", *cells)
    found = check([notebook])
    verdicts = {name: found.get(f"cases.ipynb::Cell {index}") for index, name in enumerate(names)}
    assert verdicts == {name: verdict for name, (_, _, verdict) in CASES.items()}, found[""]


def test_values_of_expressions_are_compared_too(tmp_path: Path):
    def value(text: str) -> Any:
        return new_output("execute_result", data={"text/plain": text}, execution_count=1)

    right = write(tmp_path / "right.ipynb", printed("(3, 0.5)", 1, value("(3, 0.503)")))
    wrong = write(tmp_path / "wrong.ipynb", printed("(3, 0.5)", 1, value("(4, 0.5)")))
    found = check([right, wrong])
    assert (found.get("right.ipynb::Cell 0"), found.get("wrong.ipynb::Cell 0")) == ("PASSED", "FAILED"), found[""]


def test_notebooks_that_were_not_executed_in_order_are_refused(tmp_path: Path):
    notebooks = [
        write(tmp_path / f"case{index}.ipynb", *(new_code_cell("x = 1", execution_count=count) for count in counts))
        for index, counts in enumerate([(None, None), (1, None), (2, 1), (3, 4)])
    ]
    said = check(notebooks)[""]
    assert all(f"{notebook.name} was not executed in order" in said for notebook in notebooks), said
    assert "4 errors" in said and "passed" not in said


def test_a_notebook_over_its_time_fails_the_run_once(tmp_path: Path):
    cells = [printed("import time; time.sleep(0.4)", index + 1) for index in range(4)]
    found = check([write(tmp_path / "slow.ipynb", *cells)], NOTEBOOK_SECONDS="1")
    assert [found.get(f"slow.ipynb::Cell {index}") for index in range(4)].count("FAILED") == 1, found[""]
    assert "its budget is 1 s" in found[""] and "1 failed, 3 passed" in found[""]


def test_rendering_twice_gives_the_same_bytes_and_a_notebook_that_passes(tmp_path: Path):
    source = "import matplotlib.pyplot as plt; plt.plot([1, 2]); print(2 / 3)"
    notebook = write(tmp_path / "made.ipynb", new_markdown_cell("# One"), new_code_cell(source), new_code_cell("6 * 7"))
    render(notebook)
    first = notebook.read_bytes()
    render(notebook)
    assert notebook.read_bytes() == first
    stored = json.loads(first)
    assert set(stored["metadata"]) == {"kernelspec", "language_info"}
    assert [cell.get("execution_count") for cell in stored["cells"]] == [None, 1, 2]
    assert not any("execution" in cell["metadata"] for cell in stored["cells"])  # no wall-clock times
    found = check([notebook])
    assert (found.get("made.ipynb::Cell 0"), found.get("made.ipynb::Cell 1")) == ("PASSED", "PASSED"), found[""]


def test_rendering_leaves_a_notebook_that_fails_as_it_was(tmp_path: Path):
    notebook = write(tmp_path / "broken.ipynb", new_code_cell("1 / 0"))
    before = notebook.read_bytes()
    with pytest.raises(Exception, match="ZeroDivisionError"):
        render(notebook)
    assert notebook.read_bytes() == before


# -- every stored notebook: one altered number must turn it red -------------------------------------------------------


def replay(cell: Any) -> str:
    """Code that gives a cell's stored outputs without computing them, so that the comparison is tried in a second."""
    kept = json.dumps([output for output in cell.outputs if output.output_type != "error"])
    return (
        f"import json, sys\nfrom IPython.display import display\nfor output in json.loads({kept!r}):\n"
        "    if 'data' in output:\n        display(output['data'], raw=True)\n"
        "    else:\n        getattr(sys, output['name']).write(output['text'])"
    )


def sanitized(text: str) -> str:
    for pattern, replacement in get_sanitize_patterns(SANITIZE.read_text()):
        text = re.sub(pattern, replacement, text)
    return text


def altered(text: str) -> str | None:
    """The text with one compared number made half as large again and one more; None if it holds none."""
    for match in re.finditer(r"(?<![\w.])\d+(\.\d+)?(?![\w.])", text):
        number = f"{float(match[0]) * 1.5 + 1:.3f}" if match[1] else str(int(match[0]) + 1)
        changed = text[: match.start()] + number + text[match.end() :]
        if sanitized(changed) != sanitized(text):
            return changed
    return None


def alter(notebook: Any) -> int | None:
    """Alter one stored number in place; returns which code cell it was in."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for index, cell in enumerate(code):
        if {"nbval-ignore-output", "nbval-skip"} & set(cell.metadata.get("tags", [])):
            continue
        for output in cell.outputs:
            stdout = output.get("name") == "stdout"
            holder, field = (output, "text") if stdout else (output.get("data", {}), "text/plain")
            changed = altered(holder[field]) if field in holder else None
            if changed is not None:
                holder[field] = changed
                return index
    return None


def trial(paths: Sequence[Path], folder: Path) -> dict[str, tuple[str, list[str]]]:
    """For each notebook: the verdict on the cell with an altered number, and the other verdicts, altered and not."""
    copies, where = [], {}
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.source = replay(cell)
        nbformat.write(notebook, folder / f"as_is_{path.name}")
        where[path.stem] = alter(notebook)
        nbformat.write(notebook, folder / f"altered_{path.name}")
        copies += [folder / f"as_is_{path.name}", folder / f"altered_{path.name}"]
    found = check(copies)
    result = {}
    for stem, index in where.items():
        key = f"altered_{stem}.ipynb::Cell {index}"
        others = [verdict for name, verdict in found.items() if f"_{stem}.ipynb::" in name and name != key]
        result[stem] = (found.get(key, "nothing to alter"), others)
    return result


def test_one_altered_number_turns_every_notebook_red(tmp_path: Path):
    cells = [
        printed("...", 1, out("nothing\n")),
        printed("...", 2, new_output("display_data", data={"text/plain": "Figure", "image/png": "aGVsbG8="})),
        printed("...", 3, out("took 3 s, accuracy 0.97 of 12\n")),
        printed("...", 4, out("warning 3\n", "stderr"), out("done\n")),
    ]
    example = write(tmp_path / "example.ipynb", new_markdown_cell("# Text"), *cells)
    found = trial([example, *NOTEBOOKS], tmp_path)
    assert len(found["example"][1]) == 7
    for stem, (verdict, others) in found.items():
        assert verdict == "FAILED", f"{stem}: an altered number went unnoticed ({verdict})"
        assert others and set(others) == {"PASSED"}, f"{stem}: its own outputs do not compare equal"


UNMASKED = """
import torch
from transformers.models.llama import modeling_llama

def see_all(inputs_embeds, past_key_values=None, **_):
    held = 0 if past_key_values is None else past_key_values.get_seq_length()
    batch, length = inputs_embeds.shape[:2]
    return torch.ones(batch, 1, length, held + length, dtype=torch.bool)

modeling_llama.create_causal_mask = see_all
"""


def test_a_model_without_its_causal_mask_turns_a_lesson_red(tmp_path: Path):
    """A fault in the model itself, not in a stored output: the beginning of the tour, run in full."""
    cells = nbformat.read(ROOT / "notebooks" / "00_tour.ipynb", as_version=4).cells
    begun = [
        next(cell for cell in cells if text in cell.source) for text in ("import torch", "pipe.draw(", "pipe.stream(")
    ]
    paths = []
    for name, fault in (("whole", "torch = None"), ("unmasked", UNMASKED)):
        first = new_code_cell(fault)
        notebook = new_notebook(cells=[first, *map(copy.deepcopy, begun)])
        for count, cell in enumerate(notebook.cells, start=1):
            cell.execution_count = count
        paths.append(tmp_path / f"{name}.ipynb")
        nbformat.write(notebook, paths[-1])
    found = check(paths)
    verdicts = {name: {found[f"{name}.ipynb::Cell {index}"] for index in range(4)} for name in ("whole", "unmasked")}
    assert verdicts["whole"] == {"PASSED"} and "FAILED" in verdicts["unmasked"], found[""]


# -- the limits -------------------------------------------------------------------------------------------------------


def clean() -> Any:
    picture = new_output("display_data", data={"image/png": "aGVsbG8=", "text/plain": "Figure: a star"})
    picture.metadata = {"image/png": {"alt": "a star"}}
    cells = [
        new_markdown_cell("# Title\n\nA promise."),
        new_markdown_cell("## Section\n\n![a star](star.png) and `pip` in text"),
        printed("print(3)", 1, out("3\n")),
        printed("show(figure)", 2, picture),
    ]
    return new_notebook(cells=cells)


def _tag(notebook: Any) -> None:
    notebook.cells[2].metadata = {"tags": ["nbval-ignore-output"]}


BREAK: dict[str, Callable[[Any], object]] = {  # what lint must say: what was done
    "at most 60": lambda n: n.cells.extend(new_markdown_cell("more") for _ in range(60)),
    "bytes, at most": lambda n: n.cells[3].outputs[0].data.update({"image/png": "a" * 1_000_001}),
    "has 26 lines": lambda n: n.cells[2].update(source="x = 1\n" * 26),
    "in the middle": lambda n: [cell.update(source="x = 1\n" * 9) for cell in n.cells[2:]],
    "at most 120": lambda n: n.cells[0].update(source="# Title\n" + "word " * 121),
    "not executed": lambda n: n.cells[2].update(execution_count=None),
    "widget state": lambda n: n.metadata.update(widgets={}),
    "no number that is compared": lambda n: n.cells[2].update(outputs=[]),
    "gives no reason": _tag,
    "exactly one first-level": lambda n: n.cells[1].update(source="# Another"),
    "skips a heading level": lambda n: n.cells[1].update(source="### Deep"),
    "is empty": lambda n: n.cells[2].update(source=""),
    "installs packages": lambda n: n.cells[2].update(source="%pip install x"),
    "uses the network": lambda n: n.cells[2].update(source="import requests"),
    "nbval fails on it": lambda n: n.cells[2].update(source="interact(f, x=3)"),
    "switches the comparison off": lambda n: n.cells[2].update(source="# NBVAL_IGNORE_OUTPUT\nprint(3)"),
    "semicolon": lambda n: n.cells[2].update(source="plot(3);"),
    "foreign code": lambda n: n.cells[2].update(source="torch.load('x')"),
    "cell 3 shows a picture without alt": lambda n: n.cells[3].outputs[0].update(metadata={}),
    "cell 1 shows a picture without alt": lambda n: n.cells[1].update(source="![](star.png)"),
    "absolute path": lambda n: n.cells[2].outputs[0].update(text="3 in /home/someone/x"),
    "object's address": lambda n: n.cells[2].outputs[0].update(text="3 at 0x7f00aa11bb22"),
}


def test_a_clean_notebook_has_no_problem(tmp_path: Path):
    nbformat.write(clean(), tmp_path / "clean.ipynb")
    assert problems(tmp_path / "clean.ipynb") == []
    assert outputs(clean().cells[3]) == ["Figure: a star"]


@pytest.mark.parametrize("said", BREAK)
def test_each_limit_bites_and_says_so(tmp_path: Path, said: str):
    notebook = clean()
    BREAK[said](notebook)
    nbformat.write(notebook, tmp_path / "broken.ipynb")
    found = problems(tmp_path / "broken.ipynb")
    assert any(said in problem for problem in found), found
    assert len(found) <= 2, found  # and says little else
