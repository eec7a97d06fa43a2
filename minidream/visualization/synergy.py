"""Figures of notebook 08: runs as pairs, gains with intervals, the sign-flip test, and how two losses' gradients lie.

Comprehension is blue, as what is seen; creation orange, as what is drawn; who learns both violet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from minidream.ablation.synergy import Gain
from minidream.evaluation.statistics import paired
from minidream.visualization.figures import PALETTE

_DPI, _FONT = 86, 8
COLORS = {"comprehension": "patch", "creation": "diffusion", "joint": "query"}
_MARKS = ("o", "s", "^", "D")


def slopes(panels: Mapping[str, Gain], names: Mapping[str, tuple[str, str]], alt: str) -> Figure:
    """A panel for each figure: a line for each seed from one setting to the other (`names` of a panel), full where it
    rises, dashed where it falls, dotted where it stays, and the means as bars. Each panel has a scale of its own."""
    columns = min(5, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure((1.9 * columns, 2.7 * rows), dpi=_DPI, facecolor=PALETTE["paper"], layout="constrained")
    cells = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, gain) in zip(cells, panels.items()):
        for before, after in zip(gain.before, gain.after):
            color, line = ("right", "-") if after > before else ("wrong", "--") if after < before else ("text", ":")
            style: dict[str, Any] = {"color": PALETTE[color], "linestyle": line}
            axes.plot([0, 1], [before, after], marker="o", markersize=3.5, linewidth=1.1, **style)
        for x, values, setting in zip((-0.22, 1.22), (gain.before, gain.after), names[name]):
            color = PALETTE[COLORS.get(setting, "ink")]
            axes.plot([x - 0.1, x + 0.1], [np.mean(values)] * 2, color=color, linewidth=3)
        low, high = (pick(*gain.before, *gain.after) for pick in (min, max))
        middle, half = (low + high) / 2, max(0.05, (high - low) * 0.6)
        axes.set(xlim=(-0.5, 1.5), ylim=(middle - half, middle + half), xticks=(0, 1))
        axes.set_xticklabels([word.replace("comprehension", "compre-\nhension") for word in names[name]], fontsize=7)
        axes.set_title(name.replace(", ", ",\n"), fontsize=_FONT)
        axes.tick_params("y", labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in cells[len(panels) :]:
        axes.axis("off")
    figure.set_label(alt)
    return figure


def forest(rows: Mapping[str, Mapping[str, Sequence[float]]], axis: str, alt: str, notes: Sequence[str] = ()) -> Figure:
    """Differences: for each row, and each series in it, a small mark a seed, the mean with Student's interval, and the
    line of no difference. `notes` stand at the right of the rows."""
    series = list(dict.fromkeys(name for some in rows.values() for name in some))
    colors = [PALETTE[COLORS.get(name, color)] for name, color in zip(series, ("query", "diffusion", "patch", "ink"))]
    high = max(0.3, 0.26 * len(series))
    figure = Figure((7.6, 0.9 + high * len(rows)), dpi=_DPI, facecolor=PALETTE["paper"], layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=PALETTE["ink"], linewidth=0.8)
    for at, some in enumerate(rows.values()):
        for number, name in enumerate(series):
            if name not in some:
                continue
            y = at + 0.75 * ((number + 0.5) / len(series) - 0.5)
            style: dict[str, Any] = {"color": colors[number]}
            axes.plot(some[name], [y] * len(some[name]), _MARKS[number], markersize=3, alpha=0.5, **style)
            if len(some[name]) > 1:
                gain = paired(some[name])
                axes.plot([gain["low"], gain["high"]], [y, y], linewidth=2, **style)
            label = name if not any(line.get_label() == name for line in axes.lines) else None
            axes.plot(np.mean(some[name]), y, _MARKS[number], markersize=7, label=label, **style)
    for at in range(1, len(rows)):
        axes.axhline(at - 0.5, color=PALETTE["text"], linewidth=0.3)
    for at, note in enumerate(notes):
        axes.text(1.01, at, note, transform=axes.get_yaxis_transform(), va="center", fontsize=_FONT)
    axes.set(yticks=range(len(rows)), ylim=(len(rows) - 0.5, -0.5), xlabel=axis)
    axes.set_yticklabels(list(rows), fontsize=_FONT + 1)
    if len(series) > 1:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(series), fontsize=_FONT, frameon=False)
    figure.set_label(alt)
    return figure


def lines(at: Sequence[float], panels: Mapping[str, Mapping[str, Sequence[float]]], axis: str, alt: str) -> Figure:
    """A panel for each name, side by side, a line for each series in it over `at`, told apart by mark as well."""
    figure = Figure((max(4.6, 3.8 * len(panels)), 2.6), dpi=_DPI, facecolor=PALETTE["paper"], layout="constrained")
    for axes, (title, series) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items()):
        for (name, values), mark, color in zip(series.items(), _MARKS, ("patch", "diffusion", "query")):
            line = "--" if name == "joint" else "-"
            axes.plot(at, values, line, color=PALETTE[COLORS.get(name, color)], marker=mark, markersize=5, label=name)
        axes.set(xlabel=axis, ylim=(0, 1.06 * max(map(max, series.values()))), xticks=at)
        axes.set_title(title, fontsize=_FONT + 1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=_FONT, frameon=False)
    figure.set_label(alt)
    return figure


def signs(differences: Sequence[float], alt: str) -> Figure:
    """The sign-flip test: the mean of the differences under all 2^n choices of their signs, the true one marked, and
    what lies at least as far from 0 dark."""
    found = np.asarray(differences, float)
    means = np.array(list(product((1.0, -1.0), repeat=len(found)))) @ found / len(found)
    far = np.abs(means) >= abs(found.mean()) - 1e-9
    figure = Figure((6.4, 1.7), dpi=_DPI, facecolor=PALETTE["paper"], layout="constrained")
    axes = figure.subplots()
    height = np.zeros(len(means))
    bins = np.linspace(means.min(), means.max(), 2 * len(found) + 1)
    places = np.clip(np.digitize(means, bins), 1, len(bins) - 1)
    for place in np.unique(places):  # marks that fall together are piled up
        members = np.flatnonzero(places == place)
        height[members[np.argsort(~far[members])]] = np.arange(len(members))
    for chosen, color, label in ((far, "diffusion", "as far from 0 as what was found"), (~far, "text", "nearer")):
        axes.plot(means[chosen], height[chosen], "o", color=PALETTE[color], markersize=5, label=label)
    axes.axvline(found.mean(), color=PALETTE["ink"], linewidth=1.2)
    axes.axvline(0, color=PALETTE["text"], linewidth=0.8, linestyle=":")
    axes.set(
        yticks=[], ylim=(-0.8, height.max() + 1.2), xlabel="mean difference, under other signs (line: the true one)"
    )
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=_FONT, frameon=False)
    figure.set_label(alt)
    return figure


def bars(rows: Mapping[str, Mapping[str, float]], axis: str, alt: str) -> Figure:
    """Signed numbers as bars from 0: a row for each name, a bar in it for each series."""
    series = list(next(iter(rows.values())))
    figure = Figure(
        (7.2, 0.9 + 0.17 * len(series) * len(rows)), dpi=_DPI, facecolor=PALETTE["paper"], layout="constrained"
    )
    axes = figure.subplots()
    for number, (name, color) in enumerate(zip(series, ("patch", "diffusion", "query", "ink"))):
        y = np.arange(len(rows)) + 0.8 * ((number + 0.5) / len(series) - 0.5)
        values = [row[name] for row in rows.values()]
        axes.barh(y, values, 0.72 / len(series), color=PALETTE[color], alpha=0.75, label=name)
    axes.axvline(0, color=PALETTE["ink"], linewidth=0.8)
    axes.set(yticks=range(len(rows)), ylim=(len(rows) - 0.5, -0.5), xlabel=axis)
    axes.set_yticklabels(list(rows), fontsize=_FONT + 1)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(series), fontsize=_FONT, frameon=False)
    figure.set_label(alt)
    return figure
