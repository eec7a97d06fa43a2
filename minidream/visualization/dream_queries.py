"""Figures of notebook 05: a picture on its way into the stream, maps of the queries, tables, grids of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, PowerNorm, TwoSlopeNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from minidream.visualization.figures import (
    _DPI,
    _FONT,
    _LINE,
    _MARGIN,
    PALETTE,
    ZOOM,
    _arrow,
    _pixels,
    _sheet,
    _write,
)

_SHARE = LinearSegmentedColormap.from_list("share", [PALETTE["paper"], "#d9d3e6", PALETTE["query"], PALETTE["ink"]])
_VECTORS = LinearSegmentedColormap.from_list("vectors", [PALETTE["patch"], PALETTE["paper"], PALETTE["diffusion"]])


def _numbers(values: Any) -> np.ndarray:
    return np.asarray(values.detach().cpu().float() if hasattr(values, "detach") else values, dtype=float)


def route(picture: Any, stages: Mapping[str, Any], alt: str) -> Figure:
    """A picture cut into its squares, numbered in reading order, and what each square is at each stage: (P, D) numbers
    as rows of colour, blue below zero and orange above. Raises ValueError unless P is a square number."""
    grids = {name: _numbers(values) for name, values in stages.items()}
    count = {len(values) for values in grids.values()}
    side = round(max(count) ** 0.5)
    if count != {side * side}:
        raise ValueError(f"the stages have {sorted(count)} rows: one for each square of the picture")
    wide, gap, cell = ZOOM * 64, 76, ZOOM * 64 // side
    figure, axes = _sheet(2 * _MARGIN + wide + len(grids) * (wide + gap), wide + 2 * _MARGIN + _LINE)
    top = _MARGIN
    axes.imshow(
        _pixels(picture), extent=(_MARGIN, _MARGIN + wide, top + wide, top), interpolation="nearest", aspect="auto"
    )
    for index in range(side * side):
        x, y = _MARGIN + index % side * cell, top + index // side * cell
        axes.add_patch(Rectangle((x, y), cell, cell, fill=False, edgecolor=PALETTE["patch"], linewidth=1))
        label = {"facecolor": PALETTE["paper"], "edgecolor": "none", "pad": 1}
        _write(axes, x + 10, y + 9, str(index), "patch", fontsize=7, bbox=label)
    _write(axes, _MARGIN + wide / 2, top + wide + _LINE * 0.8, f"{side * side} squares")
    for number, (name, values) in enumerate(grids.items(), start=1):
        left = _MARGIN + number * (wide + gap)
        _arrow(axes, (left - gap + 8, top + wide / 2), (left - 26, top + wide / 2))
        most = float(np.quantile(np.abs(values), 0.98)) or 1.0
        extent = (left, left + wide, top + wide, top)
        norm = TwoSlopeNorm(0, -most, most)
        axes.imshow(values, extent=extent, interpolation="nearest", aspect="auto", cmap=_VECTORS, norm=norm)
        axes.add_patch(Rectangle((left, top), wide, wide, fill=False, edgecolor=PALETTE["text"], linewidth=0.5))
        for row in range(0, len(values), side):
            _write(axes, left - 6, top + (row + 0.5) * wide / len(values), str(row), "patch", ha="right", fontsize=7)
        _write(axes, left + wide / 2, top + wide + _LINE * 0.8, f"{name}: {len(values)} x {values.shape[1]}")
    figure.set_label(alt)
    return figure


def atlas(maps: Any, rows: Sequence[str], alt: str, pictures: Sequence[Any] = (), cell: int = 88) -> Figure:
    """Maps (R, Q, h, w) of shares, a row each label and a column each query; beside a row its picture, if there is one.

    One scale for all, written below: white is no share at all, black the largest; along the square root, so that small
    shares can be told apart beside a large one. Raises ValueError if the rows are not R.
    """
    shares = _numbers(maps)
    if len(shares) != len(rows) or (pictures and len(pictures) != len(rows)):
        raise ValueError(f"{len(shares)} rows of maps, {len(rows)} labels, {len(pictures)} pictures: one of each")
    queries, gap, label, most = shares.shape[1], 6, 110, float(shares.max())
    first = _MARGIN + label + bool(pictures) * (cell + gap)
    below = _LINE + len(rows) * (cell + gap)
    figure, axes = _sheet(first + queries * (cell + gap) + _MARGIN, below + 2 * _LINE + _MARGIN)
    style: dict[str, Any] = {"cmap": _SHARE, "norm": PowerNorm(0.5, 0, most), "interpolation": "nearest"}
    for query in range(queries):
        _write(axes, first + query * (cell + gap) + cell / 2, _LINE * 0.6, f"query {query}")
    for row, name in enumerate(rows):
        top = _LINE + row * (cell + gap)
        _write(axes, _MARGIN + label - 8, top + cell / 2, name, ha="right")
        frames = [(_MARGIN + label, picture) for picture in pictures[row : row + 1]]
        for left, picture in frames:
            extent = (left, left + cell, top + cell, top)
            axes.imshow(_pixels(picture), extent=extent, interpolation="nearest", aspect="auto")
        for query, values in enumerate(shares[row]):
            left = first + query * (cell + gap)
            axes.imshow(values, extent=(left, left + cell, top + cell, top), aspect="auto", **style)
            axes.add_patch(Rectangle((left, top), cell, cell, fill=False, edgecolor=PALETTE["text"], linewidth=0.5))
    wide, ramp = 2 * cell, np.linspace(0, most, 64)[None]
    axes.imshow(ramp, extent=(first, first + wide, below + 14, below + 4), aspect="auto", **style)
    for share, words in ((0.0, "0"), (1 / queries, f"1/{queries}"), (most, f"{most:.2f}")):
        if share <= most:
            _write(axes, first + wide * share / most, below + 24, words, fontsize=7)
    _write(axes, first + wide + 24, below + 9, f"share of the attention (1/{queries}: the equal share)", ha="left")
    figure.set_label(alt)
    return figure


def grid(
    pictures: Sequence[Sequence[Any]], rows: Sequence[str], columns: Sequence[str], alt: str,
    marks: Sequence[Sequence[str]] | None = None, cell: int = 96,
) -> Figure:  # fmt: skip
    """Pictures (R, C), small, a row and a column each label; under each its mark, if there is one.

    Colours are rounded to steps of 16: a page of many pictures stays a small file. Raises ValueError if pictures or
    marks are not (R, C).
    """
    for name, given in (("pictures", pictures), ("marks", marks)):
        if given is not None and [len(each) for each in given] != [len(columns)] * len(rows):
            raise ValueError(f"{name} are not {(len(rows), len(columns))}")
    gap, label, high = 6, 84, cell + (18 if marks else 6)
    figure, axes = _sheet(label + len(columns) * (cell + gap) + _MARGIN, 1.4 * _LINE + len(rows) * high + _MARGIN)
    for column, name in enumerate(columns):
        _write(axes, label + column * (cell + gap) + cell / 2, 0.8 * _LINE, name)
    for row, name in enumerate(rows):
        top = 1.4 * _LINE + row * high
        _write(axes, label - 8, top + cell / 2, name, ha="right")
        for column, picture in enumerate(pictures[row]):
            left = label + column * (cell + gap)
            # + 4: the world's three backgrounds lie well inside a step, so that their noise goes.
            frame = np.minimum((_pixels(picture).astype(int) + 4) // 16 * 16 + 4, 255).astype(np.uint8)
            axes.imshow(frame, extent=(left, left + cell, top + cell, top), interpolation="nearest", aspect="auto")
            axes.add_patch(Rectangle((left, top), cell, cell, fill=False, edgecolor=PALETTE["text"], linewidth=0.5))
            if marks and marks[row][column]:
                _write(axes, left + cell / 2, top + cell + 8, marks[row][column], fontsize=7.5)
    figure.set_label(alt)
    return figure


def heat(
    tables: Mapping[str, Any], rows: Sequence[str], columns: Sequence[str], alt: str, cell: int = 44, full: float = 1.0
) -> Figure:
    """Tables (R, C) side by side, one a title, their numbers written into cells that are the more violet the larger
    they are, from 0 to `full`. Rows are labelled once. Raises ValueError if a table is not (R, C)."""
    grids = {name: _numbers(values) for name, values in tables.items()}
    for name, values in grids.items():
        if values.shape != (len(rows), len(columns)):
            raise ValueError(f"{name} is {values.shape}, not {(len(rows), len(columns))}")
    label, wide = 110, len(columns) * cell
    figure, axes = _sheet(
        _MARGIN + label + len(grids) * (wide + 2 * _MARGIN), 3 * _LINE + len(rows) * cell * 0.75 + _MARGIN
    )
    violet = np.array(to_rgb(PALETTE["query"]))
    for number, (name, values) in enumerate(grids.items()):
        left, top = _MARGIN + label + number * (wide + 2 * _MARGIN), 2.6 * _LINE
        _write(axes, left + wide / 2, 0.7 * _LINE, name, weight="bold")
        for column, title in enumerate(columns):
            _write(axes, left + (column + 0.5) * cell, top - 0.6 * _LINE, title)
        for row, title in enumerate(rows):
            y = top + row * cell * 0.75
            if not number:
                _write(axes, left - 8, y + cell * 0.375, title, ha="right")
            for column, value in enumerate(values[row]):
                part = float(np.clip(value / full, 0, 1))
                face = tuple(part * violet + (1 - part))
                x = left + column * cell
                axes.add_patch(Rectangle((x, y), cell, cell * 0.75, facecolor=face, edgecolor=PALETTE["paper"]))
                ink = "paper" if part > 0.6 else "ink"
                _write(axes, x + cell / 2, y + cell * 0.375, f"{value:.2f}", fontsize=7.5, color=ink)
    figure.set_label(alt)
    return figure


@dataclass(frozen=True)
class Measured:
    """What runs of one setting gave: a value for each seed, and, where it is known, a 95 % interval of their mean."""

    values: Sequence[float]
    interval: tuple[float, float] | None = None
    seeds: Sequence[int] = ()  # in the order of the values


@dataclass(frozen=True)
class Comparison:
    """One pair of axes: what is measured, and for each line the settings' measurements."""

    ylabel: str
    lines: Mapping[str, Mapping[str, Measured]] = field(default_factory=dict)


_STYLES = (("query", "o"), ("diffusion", "s"), ("patch", "^"), ("right", "D"), ("wrong", "v"), ("ink", "P"))


def comparisons(panels: Mapping[str, Comparison], alt: str) -> Figure:
    """Panels side by side: settings from left to right, a small mark for each seed, a large one for their mean, and
    a bar for its interval. Lines are told apart by colour and by mark. What all panels measure has one scale."""
    figure = Figure(figsize=(4.4 * len(panels), 3.2), dpi=_DPI, facecolor=PALETTE["paper"], layout="constrained")
    one_scale = len({panel.ylabel for panel in panels.values()}) == 1
    for number, (title, panel) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), number + 1, sharey=figure.axes[0] if one_scale and number else None)
        settings = list(next(iter(panel.lines.values())))
        for index, (name, measured) in enumerate(panel.lines.items()):
            color, mark = _STYLES[index % len(_STYLES)]
            x = np.arange(len(measured)) + 0.6 * ((index + 0.5) / len(panel.lines) - 0.5)
            means = [float(np.mean(each.values)) for each in measured.values()]
            axes.plot(x, means, mark, color=PALETTE[color], markersize=7, label=name)
            for place, each in zip(x, measured.values()):
                seeds = [place + 0.1] * len(each.values)  # beside the mean, which would hide some
                axes.plot(seeds, each.values, mark, color=PALETTE[color], markersize=3, alpha=0.6)
                if each.interval:
                    axes.plot([place, place], each.interval, color=PALETTE[color], linewidth=1.5)
        axes.set_title(title, fontsize=_FONT + 1)
        if not (one_scale and number):
            axes.set_ylabel(panel.ylabel, fontsize=_FONT)
        axes.set_xticks(range(len(settings)), settings, fontsize=_FONT)
        axes.set_xlim(-0.5, len(settings) - 0.5)
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.tick_params(labelsize=_FONT)
        axes.spines[["top", "right"]].set_visible(False)
        if len(panel.lines) > 1:
            axes.legend(fontsize=7, frameon=False)
    figure.set_label(alt)
    return figure
