"""How notebooks are checked, on top of nbval: what a stored output must agree with, and what is not compared.

- A notebook that was not executed in order 1..n is refused: nbval would run it and compare nothing.
- Text is compared exactly, except that two floats may differ by 2 % or 0.005, whichever is more (other processors,
  other thread counts). Whole numbers, words and layout stay exact. So print small quantities in a larger unit.
- stderr (progress bars, library warnings) and SVG (random ids) are not compared; nbval itself skips PNG and JPEG.
- A notebook that runs longer than its budget fails: 90 s on two cores, `NOTEBOOK_SECONDS` for slower machines.
"""

from __future__ import annotations

import copy
import math
import os
import re
import time
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from nbval.plugin import IPyNbCell, IPyNbFile

# Before torch is imported and before any kernel, which inherits it: libgomp's threads spin, and nothing needs the hub.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

RELATIVE, ABSOLUTE = 0.02, 0.005
SECONDS = float(os.environ.get("NOTEBOOK_SECONDS", "90"))
# A number with decimals or an exponent, and the spaces that align it. Not: 3, 64x64, 1.2.3, a1.5
FLOAT = re.compile(r" *(?<![\w.])[-+]?\d+(?:\.\d+(?:[eE][-+]?\d+)?|[eE][-+]?\d+)(?!\.?\d)")
_compare, _collect = IPyNbCell.compare_outputs, IPyNbFile.collect
_spent: dict[Path, float] = defaultdict(float)


def close(one: str, other: str) -> bool:
    """Whether two floats, as text, agree within the tolerance."""
    return math.isclose(float(one), float(other), rel_tol=RELATIVE, abs_tol=ABSOLUTE)


def snap(found: str, stored: str) -> str:
    """`found`, with every float that is close to the one in the same position of `stored` written as it is there."""
    wanted = FLOAT.findall(stored)
    if len(FLOAT.findall(found)) != len(wanted):
        return found  # another layout: let the exact comparison say so
    remaining = iter(wanted)
    return FLOAT.sub(lambda match: _closest(match[0], next(remaining)), found)


def _closest(found: str, stored: str) -> str:
    return stored if close(found, stored) else found


def _texts(outputs: list[Any]) -> dict[str, list[tuple[dict[str, Any], str]]]:
    """Where each comparable text stands, by stream or MIME type: nbval pairs outputs of one type in their order."""
    places: dict[str, list[tuple[dict[str, Any], str]]] = defaultdict(list)
    for output in outputs:
        if output["output_type"] == "stream":
            places[output["name"]].append((output, "text"))
        for mime, value in output.get("data", {}).items():
            if isinstance(value, str):
                places[mime].append((output["data"], mime))
    return places


def _compare_with_tolerance(self: IPyNbCell, test: Any, ref: Any, skip_compare: Any = None) -> bool:
    test, ref = copy.deepcopy(test), copy.deepcopy(ref)
    found, stored = _texts(test), _texts(ref)
    for key, places in found.items():
        for (holder, field), (reference, name) in zip(places, stored.get(key, [])):
            holder[field] = snap(self.sanitize(holder[field]), self.sanitize(reference[name]))
    return bool(_compare(self, test, ref, skip_compare))


def _collect_executed(self: IPyNbFile) -> list[IPyNbCell]:
    cells = [cell for cell in _collect(self) if cell.cell.source.strip()]
    counts = [cell.cell.execution_count for cell in cells]
    if counts != list(range(1, len(cells) + 1)):
        raise self.CollectError(
            f"{self.path.name} was not executed in order (execution counts {counts}), so nothing would be compared: "
            f"run `.venv/bin/python tools/render.py {self.path.name}` and look at it"
        )
    return cells


IPyNbCell.compare_outputs = _compare_with_tolerance
IPyNbFile.collect = _collect_executed


def pytest_collectstart(collector: pytest.Collector) -> None:
    if isinstance(collector, IPyNbFile):
        collector.skip_compare += ("stderr", "image/svg+xml")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """The cell that uses up its notebook's time fails (once: those after it have nothing to do with it)."""
    if not isinstance(item, IPyNbCell):
        return (yield)
    before, start = _spent[item.path], time.monotonic()
    result = yield
    _spent[item.path] += time.monotonic() - start
    if before <= SECONDS < _spent[item.path]:
        pytest.fail(f"{item.path.name}: {_spent[item.path]:.0f} s so far, its budget is {SECONDS:g} s", pytrace=False)
    return result
