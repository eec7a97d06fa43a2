"""Figures of notebook 04: arrow fields, clouds of points, curves and bars, in the style of `figures.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from matplotlib.ticker import MaxNLocator

from minidream.visualization.figures import PALETTE

_CURVES = ("diffusion", "query", "patch", "right", "wrong")  # colours, told apart by line style too
_LINES = ("-", "--", ":", "-.", (0, (1, 1)))


def _panels(count: int, width: float = 3.4, height: float = 3.7) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width * count, height), dpi=100, facecolor=PALETTE["paper"], layout="constrained")
    axes = [figure.add_subplot(1, count, index + 1) for index in range(count)]
    for each in axes:
        each.tick_params(labelsize=7)
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _array(values: Any) -> np.ndarray:
    return np.asarray(values.detach().cpu().float() if hasattr(values, "detach") else values)


def _plane(axes: Axes, title: str, centres: Any, reach: float, ring: float = 0.0) -> None:
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    axes.set_title(title, fontsize=9)
    x, y = _array(centres).T
    axes.plot(x, y, "+", color=PALETTE["ink"], markersize=13, markeredgewidth=1.6, zorder=2)
    for middle in zip(x, y) if ring else ():
        axes.add_patch(Circle(middle, ring, fill=False, edgecolor=PALETTE["ink"], linestyle=":", zorder=1))


def arrow_field(
    places: Any, panels: Mapping[str, Any], centres: Mapping[str, Any], reach: float = 2.2, alt: str = ""
) -> Figure:
    """Arrows (N, 2) at `places` (N, 2), one panel a title; crosses at the title's `centres` (K, 2).

    Each panel has a scale of its own, or the short arrows would be specks: its longest arrow is drawn as a third of
    `reach`. So give the lengths in the titles. Raises ValueError without alt text.
    """
    if not alt:
        raise ValueError("say in words where the arrows lead: alt='...'")
    figure, axes = _panels(len(panels), 3.1, 3.4)
    x, y = _array(places).T
    style: dict[str, Any] = {"color": PALETTE["diffusion"], "width": 0.006, "minlength": 0}
    for each, (title, arrows) in zip(axes, panels.items()):
        field = _array(arrows)
        longest = np.linalg.norm(field, axis=1).max()
        each.quiver(x, y, *field.T, angles="xy", scale_units="xy", scale=3 * longest / reach, **style)
        _plane(each, title, centres[title], reach)
    figure.set_label(alt)
    return figure


def clouds(
    panels: Mapping[str, Any], centres: Any, paths: Mapping[str, Any] | None = None, reach: float = 2.2,
    ring: float = 0.0, alt: str = "",
) -> Figure:  # fmt: skip
    """Points (N, 2), one panel a title, over crosses at `centres` (K, 2); `paths` (steps, N, 2) lead to them.

    `ring`: the radius of a dotted circle round each cross, none if 0. Raises ValueError without alt text.
    """
    if not alt:
        raise ValueError("say in words where the points lie: alt='...'")
    figure, axes = _panels(len(panels), *((2.7, 3.0) if len(panels) > 4 else ()))
    for each, (title, points) in zip(axes, panels.items()):
        _plane(each, title, centres, reach, ring)
        for line in np.moveaxis(_array((paths or {}).get(title, np.zeros((0, 0, 2)))), 1, 0):
            each.plot(*line.T, color=PALETTE["text"], linewidth=0.6, zorder=0)
        x, y = _array(points).T
        each.scatter(x, y, s=14, color=PALETTE["diffusion"], edgecolors=PALETTE["ink"], linewidths=0.3, zorder=3)
    figure.set_label(alt)
    return figure


@dataclass(frozen=True)
class Plot:
    """One pair of axes: named lines, each (x, y), and what the axes measure."""

    lines: Mapping[str, tuple[Any, Any]]
    xlabel: str
    ylabel: str
    logarithmic: bool = False


def curves(plots: Mapping[str, Plot], alt: str = "") -> Figure:
    """Plots side by side, one a title; their lines are told apart by colour and by dash.

    Raises ValueError without alt text.
    """
    if not alt:
        raise ValueError("say in words what the curves show: alt='...'")
    figure, axes = _panels(len(plots), 7.2 if len(plots) == 1 else 3.6, 3.2)
    for each, (title, plot) in zip(axes, plots.items()):
        for index, (name, (x, y)) in enumerate(plot.lines.items()):
            dash: Any = _LINES[index % len(_LINES)]
            each.plot(_array(x), _array(y), linestyle=dash, color=PALETTE[_CURVES[index % len(_CURVES)]], label=name)
        each.set_title(title, fontsize=9)
        each.set_xlabel(plot.xlabel, fontsize=9)
        each.xaxis.set_major_locator(MaxNLocator(6, integer=True))  # steps and timesteps are whole
        each.set_ylabel(plot.ylabel, fontsize=9)
        if plot.logarithmic:
            each.set_yscale("log")
        each.legend(fontsize=8, frameon=False)
    figure.set_label(alt)
    return figure


def bars(
    values: Mapping[str, float],
    xlabel: str,
    marked: Sequence[str] = (),
    before: Mapping[str, float] | None = None,
    alt: str = "",
) -> Figure:
    """Horizontal bars, the first on top; the `marked` ones solid orange, others grey and hatched; what a value was
    `before` as a black stroke.

    Raises ValueError without alt text.
    """
    if not alt:
        raise ValueError("say in words what the bars show: alt='...'")
    figure, (axes,) = _panels(1, 6.0, 0.5 + 0.3 * len(values))
    for row, (name, value) in enumerate(values.items()):
        solid = name in marked
        style: dict[str, Any] = {"color": PALETTE["diffusion"]} if solid else {"color": PALETTE["text"], "hatch": "///"}
        axes.barh(row, value, height=0.65, edgecolor=PALETTE["paper"], **style)
        if before is not None:
            label = "before" if row == 0 else None
            axes.plot([before[name]] * 2, [row - 0.4, row + 0.4], color=PALETTE["ink"], linewidth=2, label=label)
    if before is not None:
        axes.legend(fontsize=9, frameon=False, loc="lower right")
    axes.set_yticks(range(len(values)), list(values), fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel(xlabel, fontsize=9)
    figure.set_label(alt)
    return figure


def frame(figure: Figure, which: Sequence[int]) -> Figure:
    """The film strip with a thick dashed frame round the pictures of those numbers."""
    borders = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]  # one a picture, in order
    for number in which:
        borders[number].set(edgecolor=PALETTE["query"], linewidth=3, linestyle="--")
    return figure
