"""Figures of notebook 03: paths of noise, curves, bars, maps of latents and of attention, sheets of small pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from minidream.visualization.figures import _DPI, _FONT, _LINE, _MARGIN, PALETTE, _pixels, _sheet, _write
from minidream.world.scene import BACKGROUNDS

# Lines are told apart by colour, by marker and by dash.
_STYLES = (("diffusion", "o", "-"), ("patch", "s", "--"), ("query", "^", ":"), ("ink", "D", "-."))
_SIGNED = LinearSegmentedColormap.from_list("signed", [PALETTE["patch"], PALETTE["paper"], PALETTE["diffusion"]])
_HEAT = LinearSegmentedColormap.from_list("heat", [PALETTE["paper"], PALETTE["diffusion"], PALETTE["ink"]])
_LEVEL = 8  # a sheet shows every eighth level of 0 .. 255: nobody sees it, and noise compresses to half
_MAP = 160  # pixels of a map's side
SMALL = 2  # one pixel of a picture in a sheet of many becomes 2 x 2


@dataclass(frozen=True)
class Panel:
    """One pair of axes: a title, where the points lie, and named lines through them.

    `marks`: show the points; `digits`: write their values beside them, with so many decimals.
    """

    title: str
    x: Sequence[float]
    lines: Mapping[str, Sequence[float]]
    xlabel: str
    ylabel: str
    marks: bool = True
    log_x: bool = False  # steps that double lie at equal distances
    log_y: bool = False  # ten times less is as far down everywhere
    digits: int | None = None
    errors: Mapping[str, Sequence[float]] | None = None  # of a line by its name: one standard error up and down


@dataclass(frozen=True)
class Bars:
    """Named rows of shares that add up to 1, under a title."""

    title: str
    rows: Mapping[str, Sequence[float]]


def _axes(figure: Figure, index: int, count: int, title: str, xlabel: str, ylabel: str) -> Axes:
    axes = figure.add_subplot(1, count, index + 1)
    axes.set_title(title, fontsize=_FONT + 1.5, color=PALETTE["ink"])
    axes.set_xlabel(xlabel, fontsize=_FONT)
    axes.set_ylabel(ylabel, fontsize=_FONT)
    axes.tick_params(labelsize=_FONT, colors=PALETTE["ink"])
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _label(axes: Axes, panel: Panel) -> None:
    """Write each value beside its point: above it where no line is higher, below it elsewhere."""
    for x, column in zip(panel.x, zip(*panel.lines.values())):
        for y in column:
            above = y == max(column)
            place: dict[str, Any] = {"xytext": (0, 6 if above else -6), "va": "bottom" if above else "top"}
            text = f"{y:.{panel.digits}f}"
            axes.annotate(text, (x, y), textcoords="offset points", ha="center", fontsize=_FONT - 1, **place)
    axes.margins(y=0.15)


def curves(panels: Sequence[Panel], alt: str) -> Figure:
    """Panels side by side, their lines told apart by colour, marker and dash; `alt` says what they show."""
    figure = Figure(figsize=(3.6 * len(panels), 2.7), dpi=_DPI, facecolor=PALETTE["paper"], layout="constrained")
    for index, panel in enumerate(panels):
        axes = _axes(figure, index, len(panels), panel.title, panel.xlabel, panel.ylabel)
        if panel.log_x:
            axes.set_xscale("log", base=2)
        for (name, values), (color, marker, dash) in zip(panel.lines.items(), _STYLES):
            style: dict[str, Any] = {"marker": marker} if panel.marks else {}
            style |= {"color": PALETTE[color], "linestyle": dash, "label": name, "linewidth": 1.8}
            if panel.errors is None:
                axes.plot(panel.x, values, **style)
            else:
                axes.errorbar(panel.x, values, panel.errors[name], capsize=3, elinewidth=1, **style)
        if panel.digits is not None:
            _label(axes, panel)
        if panel.marks:
            axes.set_xticks(list(panel.x), [f"{value:g}" for value in panel.x])
            axes.minorticks_off()
        if panel.log_y:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_minor_locator(NullLocator())
            if len(panel.lines) > 1:
                axes.set_ylim(top=12 * axes.get_ylim()[1])  # room for the legend
        elif panel.digits is None:
            if axes.get_ylim()[0] < 0:
                axes.axhline(0, color=PALETTE["ink"], linewidth=0.6)
            axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        if len(panel.lines) > 1:
            axes.legend(fontsize=_FONT, frameon=False)
    figure.set_label(alt)
    return figure


def paths(panels: Mapping[str, tuple[Sequence[float], Any]], alt: str, ends: Sequence[float] = (-1.0, 1.0)) -> Figure:
    """Numbers on their way: for each title the timesteps (T,) and the values (T, N) of N paths.

    Time runs from left to right in the order given. A path is coloured by where it is nearest to at its clean end (the
    smallest timestep): `ends`, below orange and above blue. The first panel has the legend.
    """
    figure = Figure(figsize=(3.6 * len(panels), 2.7), dpi=_DPI, facecolor=PALETTE["paper"], layout="constrained")
    for index, (title, (times, values)) in enumerate(panels.items()):
        where, moving = list(times), np.asarray(values)
        axes = _axes(figure, index, len(panels), title, "timestep t", "z" if not index else "")
        above = moving[int(np.argmin(where))] > np.mean(ends)
        for group, color, dash, end in ((~above, "diffusion", "-", ends[0]), (above, "patch", "--", ends[-1])):
            lines = axes.plot(where, moving[:, group], color=PALETTE[color], linestyle=dash, linewidth=0.9)
            if lines:
                lines[0].set_label(f"z = {end:+g} at t = 0")
        for end in ends:
            axes.axhline(end, color=PALETTE["ink"], linewidth=0.6, linestyle=":")
        axes.set(xlim=(where[0], where[-1]), ylim=(-3.6, 3.6))
        if not index:
            axes.legend(fontsize=_FONT, frameon=False, loc="lower left", ncols=2)
    figure.set_label(alt)
    return figure


def maps(
    grids: Sequence[Any],
    captions: Sequence[str],
    alt: str,
    picture: Any = None,
    signed: bool = True,
    limit: float | None = None,
) -> Figure:
    """Small grids (h, w) of numbers as squares of colour, each under its caption, beside the picture they belong to.

    `signed`: blue below zero, white at zero, orange above; otherwise from white (0) to dark. One scale for all, which
    ends at `limit` (or at what is farthest from zero). Raises ValueError if grids and captions differ in number.
    """
    if not grids or len(grids) != len(captions):
        raise ValueError(f"{len(grids)} grids, {len(captions)} captions: one of each")
    arrays = [np.asarray(grid, dtype=np.float64) for grid in grids]
    side, scale = _MAP, 60
    shown = ([] if picture is None else [_pixels(picture)]) + arrays
    width = len(shown) * (side + _MARGIN) + _MARGIN
    figure, axes = _sheet(width + scale, side + 2 * _MARGIN + _LINE)
    most = limit or max(float(np.abs(array).max()) for array in arrays) or 1.0
    colors: dict[str, Any] = {"cmap": _HEAT, "vmin": 0, "vmax": most}
    if signed:
        colors = {"cmap": _SIGNED, "norm": TwoSlopeNorm(0, -most, most)}
    for index, (values, caption) in enumerate(zip(shown, [*["picture"] * (picture is not None), *captions])):
        left = _MARGIN + index * (side + _MARGIN)
        extent = (left, left + side, _MARGIN + side, _MARGIN)
        style = colors if values.ndim == 2 else {}
        axes.imshow(values, extent=extent, interpolation="nearest", aspect="auto", **style)
        axes.add_patch(Rectangle((left, _MARGIN), side, side, fill=False, edgecolor=PALETTE["text"], linewidth=0.5))
        _write(axes, left + side / 2, _MARGIN + side + _LINE * 0.8, caption)
    least, box = -most if signed else 0.0, (width, width + 10, _MARGIN + side, _MARGIN)
    axes.imshow(np.linspace(most, least, 32)[:, None], extent=box, aspect="auto", **colors)
    for value, y in ((most, _MARGIN + 5), ((most + least) / 2, _MARGIN + side / 2), (least, _MARGIN + side - 5)):
        _write(axes, width + 14, y, f"{value:.2g}", ha="left")
    figure.set_label(alt)
    return figure


def bars(panels: Sequence[Bars], alt: str, colors: Sequence[str] = ("white", "grey", "black")) -> Figure:
    """Rows of shares, side by side by panel: each row one bar of three parts, whose values are written in them."""
    height = 0.55 + 0.27 * max(len(panel.rows) for panel in panels)
    figure = Figure(figsize=(4.4 * len(panels), height), dpi=_DPI, facecolor=PALETTE["paper"], layout="constrained")
    for index, panel in enumerate(panels):
        axes = _axes(figure, index, len(panels), panel.title, "", "")
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.set(xlim=(0, 1), xticks=[], ylim=(len(panel.rows) - 0.5, -0.5))
        axes.set_yticks(range(len(panel.rows)), list(panel.rows))
        axes.tick_params(length=0)
        for row, shares in enumerate(panel.rows.values()):
            start = 0.0
            for share, color in zip(shares, colors):
                face = [part / 255 for part in BACKGROUNDS[color]]
                axes.barh(row, share, left=start, height=0.8, color=face, edgecolor=PALETTE["ink"], linewidth=0.6)
                if share > 0.1:
                    ink = PALETTE["paper"] if color == "black" else PALETTE["ink"]
                    style: dict[str, Any] = {"color": ink, "fontsize": _FONT, "ha": "center", "va": "center"}
                    axes.text(start + share / 2, row, f"{share:.2f}", **style)
                start += share
    figure.set_label(alt)
    return figure


def sheet(pictures: Any, rows: Sequence[str], columns: Sequence[str], titles: Sequence[str], alt: str) -> Figure:
    """Tables of pictures side by side, one a title, with a label at each row and column; pictures at twice their size.

    `pictures` are titles x rows x columns in reading order: title by title, row by row. Raises ValueError if they are
    not as many.
    """
    frames = [_pixels(picture) for picture in pictures]
    if len(frames) != len(titles) * len(rows) * len(columns):
        raise ValueError(f"{len(frames)} pictures for {len(titles)} x {len(rows)} x {len(columns)} places")
    frames = [((frame.astype(int) + _LEVEL // 2) // _LEVEL * _LEVEL).clip(0, 255).astype(np.uint8) for frame in frames]
    side, gap, label = SMALL * frames[0].shape[0], 6, 96
    head = 3 * _LINE if any(titles) else 2 * _LINE
    table = label + len(columns) * (side + gap) + _MARGIN
    figure, axes = _sheet(len(titles) * table + _MARGIN, head + len(rows) * (side + gap) + _MARGIN)
    numbered = iter(frames)
    for number, title in enumerate(titles):
        left = _MARGIN + number * table
        middle = left + label + (len(columns) * (side + gap) - gap) / 2
        _write(axes, middle, _LINE, title, weight="bold", fontsize=_FONT + 1)
        for index, name in enumerate(columns):
            _write(axes, left + label + index * (side + gap) + side / 2, head - 0.7 * _LINE, name)
        for row, name in enumerate(rows):
            top = head + row * (side + gap)
            _write(axes, left + label - 8, top + side / 2, name, ha="right")
            for column in range(len(columns)):
                start = left + label + column * (side + gap)
                box = (start, start + side, top + side, top)
                axes.imshow(next(numbered), extent=box, interpolation="nearest", aspect="auto")
                frame: dict[str, Any] = {"fill": False, "edgecolor": PALETTE["text"], "linewidth": 0.5}
                axes.add_patch(Rectangle((start, top), side, side, **frame))
    figure.set_label(alt)
    return figure
