"""The file of a grid: what was the same for all runs, and one entry for each run, written when it is finished."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minidream.ablation.grids import GRIDS, Variables
from minidream.errors import UserError
from minidream.pictures import write_atomically

VERSION = 1  # of what a run means; raised when old and new runs may no longer stand side by side


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Let no other process write to the file meanwhile: its folder is locked, so that no lock is left behind."""
    file.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


class Results:
    """`{"ablation", "version", "settings", "command", "runs"}` in a JSON file; each run has `setting`, `variables` and
    `seed`. Raises `UserError` for a file that is none, or of another ablation, version or settings."""

    def __init__(self, file: Path, ablation: str, settings: dict[str, Any]) -> None:
        self.file = file
        self.head: dict[str, Any] = {"ablation": ablation, "version": VERSION, "settings": settings}
        self._read(file, self.head)

    @property
    def runs(self) -> list[dict[str, Any]]:
        """What is finished by now: another process may be at work on the same file."""
        return self._read(self.file, self.head)

    def find(self, setting: str, seed: int) -> dict[str, Any] | None:
        """The run of a setting and a seed, if it is finished."""
        return next((run for run in self.runs if (run["setting"], run["seed"]) == (setting, seed)), None)

    def take_over(self, variables: Variables, seed: int) -> dict[str, Any] | None:
        """The same run out of another grid's file beside this one, if it is there with the same settings."""
        for other in GRIDS:
            if other == self.head["ablation"]:
                continue
            try:
                runs = self._read(self.file.with_name(f"{other}.json"), self.head | {"ablation": other})
            except UserError:
                continue  # it is not ours to judge
            for run in runs:
                if (run["variables"], run["seed"]) == (variables, seed):
                    return {"taken_from": other} | run
        return None

    def add(self, run: dict[str, Any]) -> None:
        """Write the file anew, with one more run; not a second time, if another process was as quick."""
        with _alone(self.file):
            if self.find(run["setting"], run["seed"]):
                return
            runs = sorted([*self.runs, run], key=lambda run: (*run["variables"].values(), run["seed"]))
            write_atomically(self.file, (json.dumps(self.content(runs), indent=1) + "\n").encode())

    def content(self, runs: list[dict[str, Any]]) -> dict[str, Any]:
        """What stands in a file with these runs."""
        return {**self.head, "command": self._command(runs), "runs": runs}

    def _command(self, runs: list[dict[str, Any]]) -> str:
        """The command that makes all runs of the file."""

        def listed(option: str, values: set[int]) -> str:
            return f" --{option} {' '.join(map(str, sorted(values)))}" if values else ""

        counts = {run["variables"]["queries"] for run in runs} if self.head["ablation"] == "queries" else set()
        command = f"minidream ablate {self.head['ablation']} --preset {self.head['settings']['preset']}"
        return command + listed("seeds", {run["seed"] for run in runs}) + listed("queries", counts)

    @staticmethod
    def _read(file: Path, head: dict[str, Any]) -> list[dict[str, Any]]:
        if not file.is_file():
            return []
        other = f"name another file with --json, or remove {file}"
        try:
            found = json.loads(file.read_text())
            left = {key: found[key] for key in head}
            runs = [run for run in found["runs"] if (run["setting"], run["variables"], run["seed"])]
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{file} does not hold an ablation's runs: {other}") from None
        for key, value in head.items():
            if left[key] != value:
                raise UserError(f"{file} was made with another {_difference(key, left[key], value)}: {other}")
        return runs


def table(content: dict[str, Any]) -> str:
    """A grid for the terminal: a line for each figure, a column for each setting, the mean over the seeds and, where
    there are several, the least and the greatest."""
    columns: dict[str, dict[str, list[float]]] = {}
    for run in content["runs"]:
        for name, value in _numbers(run):
            columns.setdefault(run["setting"], {}).setdefault(name, []).append(value)
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    rows = [["", *columns]]
    for name in names:
        rows.append([name, *(_over_seeds(column.get(name, [])) for column in columns.values())])
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def _numbers(run: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for part in ("comprehension", "creation", "facts", "stories", "dream_loss"):
        for name, value in run.get(part, {}).items():
            yield f"{part} / {name}".replace("_", " "), value["mean"] if isinstance(value, dict) else value
    yield "seconds", run["seconds"]


def _over_seeds(values: list[float]) -> str:
    if not values:
        return "-"
    mean = f"{sum(values) / len(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f}-{max(values):.3f})"


def _difference(key: str, left: Any, value: Any) -> str:
    """The first thing in which two heads differ: "steps (300, not 100)"."""
    if isinstance(left, dict) and isinstance(value, dict):
        for name in [*value, *left]:
            if left.get(name) != value.get(name):
                return _difference(name, left.get(name), value.get(name))
    return f"{key} ({left}, not {value})"
