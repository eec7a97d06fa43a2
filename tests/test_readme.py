"""The README cannot drift: its commands exist with their options, its imports work, its file tree is the repository."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import tomllib
from pathlib import Path

import pytest

import minidream
from minidream.cli import _parser
from minidream.evaluation.candidate import digest
from tools import readme, tables

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language ("" for none)."""
    return [body for name, body in re.findall(r"^```(\w*)\n(.*?)^```$", README, re.M | re.S) if name == language]


SHELL = [line for block in blocks("bash") for line in block.splitlines()]
CODE = SHELL + re.findall(r"(?<!`)`([^`\n]+)`(?!`)", README)  # and what stands in a sentence
COMMANDS = [line for line in SHELL if line.startswith("minidream ")]


def test_every_make_target_it_names_exists():
    named = {match[1] for code in CODE if (match := re.match(r"make ([a-z]+)\b", code))}
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert {"tour", "test", "lab"} <= named <= targets


def test_it_shows_the_verbs():
    assert {shlex.split(line)[1] for line in COMMANDS} >= {"write", "draw", "ask", "train", "evaluate"}


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_is_understood(line: str):
    assert PROJECT["scripts"]["minidream"] == "minidream.cli:main"
    _parser().parse_args(shlex.split(line, comments=True)[1:])


def test_every_import_it_shows_works():
    shown = [node for block in blocks("python") for node in ast.walk(ast.parse(block))]
    froms = [node for node in shown if isinstance(node, ast.ImportFrom)]
    assert froms
    for node in froms:
        for alias in node.names:
            assert hasattr(importlib.import_module(str(node.module)), alias.name), ast.unparse(node)
    pipe = minidream.MiniDreamPipeline
    for call in (node.func for node in shown if isinstance(node, ast.Call)):
        if isinstance(call, ast.Attribute) and isinstance(call.value, ast.Name) and call.value.id == "pipe":
            assert hasattr(pipe, call.attr), f"pipe.{call.attr}"


def tree() -> dict[str, set[str]]:
    """The annotated file tree: {folder: names in it}, "" for the top."""
    (block,) = [block for block in blocks("") if re.match(r"\S+/\n", block)]
    listed: dict[str, set[str]] = {"": set()}
    folder = ""
    for line in block.splitlines():
        name = line.split()[0]
        if line[0] != " ":
            folder = ""
        listed.setdefault(folder, set()).add(name)
        if line[0] != " " and name.endswith("/"):
            folder = name
    return listed


def test_the_file_tree_is_there():
    for folder, names in tree().items():
        for name in names:
            path = ROOT / folder / name
            assert path.is_dir() if name.endswith("/") else path.is_file(), f"the README lists {folder}{name}"


def test_the_file_tree_leaves_no_part_of_the_package_out():
    package = ROOT / "minidream"
    there = {f"{path.name}/" for path in package.iterdir() if (path / "__init__.py").is_file()}
    there |= {path.name for path in package.glob("*.py") if not path.name.startswith("__")}
    assert there == tree()["minidream/"]


def test_its_figures_and_costs_are_those_that_were_measured():
    """`python -m tools.readme` after an evaluation or a training."""
    assert readme.filled(README) == README
    assert readme.EVERY.read_text(encoding="utf-8") == readme.everything()
    assert "| creation, overall |" in README and "| instruct |" in README


def test_its_figures_are_those_of_the_shipped_weights():
    shipped = digest(minidream.MiniDreamPipeline.from_pretrained().model)
    for file in ("evaluation", "trust", "zero_shot", "robustness", "bench", "reasons"):
        assert tables.read(f"{file}.json")["settings"]["weights"] == shipped, f"measure data/results/{file}.json anew"


def test_a_figure_is_told_with_its_interval_and_whether_it_is_enough():
    figure, low = {"mean": 0.9, "low": 0.85, "high": 0.95, "n": 9}, {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 9}
    assert tables.cell(None, 0.9) == "" and tables.cell(figure) == "0.900 (0.850–0.950)"
    assert tables.cell(figure, 0.9) == "0.900 (0.850–0.950) ✓" and tables.cell(low, 0.9) == "0.500 (0.400–0.600) ✗"
    assert tables.cell({"a": figure, "b": low, "held_out": {"a": low}}, 0.6) == "0.900 / 0.500 ✗"
    assert tables.unseen(("creation", "teacher", "overall")) == ("creation", "teacher", "held_out", "overall")
    assert tables.unseen(("interleaved", "thinking", "edits")) == ("interleaved", "held_out", "thinking", "edits")
    assert tables.unseen(("comprehension", "caption", "seen")) == ("comprehension", "caption", "held_out")


def test_its_pictures_are_there():
    shown = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", README)
    assert shown and all(alt and (ROOT / file).is_file() for alt, file in shown)
