"""Figures of notebook 09: verdicts, Gaussians, intervals, a review list, curves; and a bench for damage."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as widgets
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from minidream.evaluation.robustness import LEVELS
from minidream.visualization.figures import _LETTER, _MARGIN, PALETTE, _pixels, _sheet, _write, to_png

_DPI = 86  # the plots of this notebook are many, and its file is to stay small
Leaves = Mapping[str, Mapping[str, float] | None]
# Colour, mark and line of each series, so that they are told apart without colour.
SERIES = (("query", "o", "-"), ("diffusion", "s", "--"), ("patch", "^", ":"), ("text", "D", "-."), ("ink", "v", "-"))


def _said(alt: str) -> str:
    if not alt:
        raise ValueError("say in words what the figure shows: alt='...'")
    return alt


def _picture(axes: Axes, picture: Any, x: float, y: float, side: float) -> None:
    """A picture whose top left corner is at (x, y)."""
    axes.imshow(_pixels(picture), extent=(x, x + side, y + side, y), interpolation="nearest", aspect="auto")
    axes.add_patch(Rectangle((x, y), side, side, fill=False, edgecolor=PALETTE["text"], linewidth=0.5))


def _mark(axes: Axes, x: float, y: float, right: bool | None) -> None:
    """A verdict: a mark and a word; None where the exact reader refuses."""
    if right is None:
        _write(axes, x, y, "? refused", weight="bold")
    else:
        words = "\N{CHECK MARK} right" if right else "\N{BALLOT X} wrong"
        _write(axes, x, y, words, "right" if right else "wrong", weight="bold")


def verdicts(
    pictures: Sequence[Any], names: Sequence[str], rows: Mapping[str, Sequence[bool]], alt: str = ""
) -> Figure:
    """Pictures side by side, and under them, a row for each question that is asked of a picture, its verdicts.

    Raises ValueError without alt text, or if a row has another number of verdicts than there are pictures.
    """
    if not all(len(row) == len(pictures) == len(names) for row in rows.values()):
        raise ValueError(f"give each row {len(pictures)} verdicts, one a picture")
    left, side, high = max(map(len, rows)) * _LETTER + 2 * _MARGIN, 128.0, 24.0
    figure, axes = _sheet(left + (side + _MARGIN) * len(pictures), side + 3 * _MARGIN + high * (len(rows) + 0.5))
    for column, (picture, name) in enumerate(zip(pictures, names)):
        x = left + column * (side + _MARGIN)
        _picture(axes, picture, x, _MARGIN, side)
        _write(axes, x + side / 2, side + _MARGIN + 12, name)
        for row, passed in enumerate(rows.values()):
            _mark(axes, x + side / 2, side + 2 * _MARGIN + high * (row + 0.9), passed[column])
    for row, name in enumerate(rows):
        _write(axes, left - 12, side + 2 * _MARGIN + high * (row + 0.9), name, ha="right")
    figure.set_label(_said(alt))
    return figure


def heat(
    values: Any, rows: Sequence[str], columns: Sequence[str], outlined: Sequence[tuple[int, int]] = (), alt: str = "",
    digits: int = 2, most: float | None = None,
) -> Figure:  # fmt: skip
    """A table of numbers (rows, columns): the larger, the deeper the orange; below 0, blue. `outlined` cells have a
    thick frame. `most`: what is deepest (the largest size, if not given). Raises ValueError without alt text."""
    numbers = values.tolist() if hasattr(values, "tolist") else values
    if len(numbers) != len(rows) or any(len(row) != len(columns) for row in numbers):
        raise ValueError(f"{len(rows)} x {len(columns)} names for another number of cells")
    left = max(map(len, rows)) * _LETTER + 2 * _MARGIN
    wide, high = max(96.0, max(map(len, columns)) * _LETTER + 10), 30.0
    figure, axes = _sheet(left + wide * len(columns) + _MARGIN, high * (len(rows) + 1) + 2 * _MARGIN)
    largest = most or max(abs(value) for row in numbers for value in row) or 1.0
    for column, name in enumerate(columns):
        _write(axes, left + wide * (column + 0.5), _MARGIN + high / 2, name, weight="bold")
    for row, name in enumerate(rows):
        y = _MARGIN + high * (row + 1)
        _write(axes, left - 10, y + high / 2, name, ha="right")
        for column, value in enumerate(numbers[row]):
            box, share = (left + wide * column + 1, y + 1), min(1.0, abs(value) / largest)
            area: dict[str, Any] = {"width": wide - 3, "height": high - 3}
            color, deepest = ("patch", 0.5) if value < 0 else ("diffusion", 0.85)
            axes.add_patch(Rectangle(box, **area, facecolor=PALETTE[color], alpha=deepest * share, edgecolor="none"))
            thick = (row, column) in outlined
            style: dict[str, Any] = {
                "edgecolor": PALETTE["ink" if thick else "text"],
                "linewidth": 2.2 if thick else 0.5,
            }
            axes.add_patch(Rectangle(box, **area, fill=False, **style))
            _write(axes, box[0] + wide / 2, y + high / 2, f"{round(value, digits) + 0.0:.{digits}f}")
    figure.set_label(_said(alt))
    return figure


def bells(real: Any, made: Mapping[str, Any], axis: str, alt: str = "") -> Figure:
    """One feature of pictures as histograms, and the Gaussian of each: grey what is real, orange what was made, one
    panel for each of `made`. Raises ValueError without alt text."""
    samples = {name: np.asarray(some, float) for name, some in {"": real, **made}.items()}
    low, high = (pick([pick(some) for some in samples.values()]) for pick in (min, max))
    grid, bins = np.linspace(low, high, 200), np.linspace(low, high, 30)
    figure = Figure(figsize=(3.4 * len(made), 2.5), dpi=_DPI, facecolor=PALETTE["paper"], layout="constrained")
    panels = figure.subplots(1, len(made), sharex=True, sharey=True, squeeze=False)[0]
    for panel, name in zip(panels, made):
        for some, color, label in ((samples[""], "text", "real"), (samples[name], "diffusion", name)):
            mean, std = some.mean(), max(some.std(), 1e-9)
            panel.hist(some, bins, density=True, color=PALETTE[color], alpha=0.35)
            bell = np.exp(-((grid - mean) ** 2) / (2 * std**2)) / (std * math.sqrt(2 * math.pi))
            panel.plot(grid, bell, "--" if color == "text" else "-", color=PALETTE[color], label=label)
        panel.set(xlabel=axis, yticks=[])
        panel.legend(fontsize=7.5, frameon=False)
    figure.set_label(_said(alt))
    return figure


def intervals(rows: Mapping[str, Leaves], axis: str, alt: str = "", low: float = 0.0, high: float = 1.0) -> Figure:
    """Measured shares with their 95 % intervals: a row for each name, a mark of its own for each series in it. The axis
    goes from `low` to `high`, or farther: no interval is cut.

    Raises ValueError without alt text.
    """
    series = list(dict.fromkeys(name for some in rows.values() for name in some))
    tall = max(0.19 * len(series), *(0.17 * (1 + name.count("\n")) for name in rows))  # inches a row
    figure = Figure(figsize=(7.6, 0.9 + tall * len(rows)), dpi=_DPI, facecolor=PALETTE["paper"])
    axes = figure.add_axes((0.3, 0.6 / figure.get_figheight(), 0.66, 1 - 0.95 / figure.get_figheight()))
    for at, some in enumerate(rows.values()):
        for number, name in enumerate(series):
            leaf, (color, mark, _) = some.get(name), SERIES[number]
            if leaf is None:
                continue
            y = at + 0.7 * ((number + 0.5) / len(series) - 0.5)
            axes.plot([leaf["low"], leaf["high"]], [y, y], color=PALETTE[color], linewidth=2)
            label = name if not any(line.get_label() == name for line in axes.lines) else None
            axes.plot(leaf["mean"], y, mark, color=PALETTE[color], markersize=5.5, label=label)
    for at in range(1, len(rows)):
        axes.axhline(at - 0.5, color=PALETTE["text"], linewidth=0.3)
    leaves = [leaf for some in rows.values() for leaf in some.values() if leaf]
    left, right = min(low, *(leaf["low"] for leaf in leaves)), max(high, *(leaf["high"] for leaf in leaves))
    if left < 0:  # a gain may be a loss
        axes.axvline(0, color=PALETTE["text"], linewidth=0.8, linestyle=":")
    axes.set(xlim=(left - 0.01 * high, right + 0.005 * high), ylim=(len(rows) - 0.5, -0.5), xlabel=axis)
    axes.set_yticks(range(len(rows)), list(rows))
    if len(series) > 1:
        axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1), ncols=len(series), fontsize=8, frameon=False)
    figure.set_label(_said(alt))
    return figure


def calibration(bins: Mapping[str, Leaves], alt: str = "") -> Figure:
    """For each name, of the pictures with a score in each bin ("0.0-0.2"), the share that was right, with intervals and
    counts, beside the diagonal of a score that is a probability. Raises ValueError without alt text."""
    figure = Figure(figsize=(3.3 * len(bins), 2.7), dpi=_DPI, facecolor=PALETTE["paper"], layout="constrained")
    for axes, (name, some) in zip(figure.subplots(1, len(bins), sharey=True, squeeze=False)[0], bins.items()):
        axes.plot([0, 1], [0, 1], "--", color=PALETTE["text"], linewidth=1)
        for where, leaf in some.items():
            if leaf is None:
                continue
            middle = sum(map(float, where.split("-"))) / 2
            axes.bar(middle, leaf["mean"], 0.18, color=PALETTE["query"], alpha=0.45)
            axes.plot([middle] * 2, [leaf["low"], leaf["high"]], color=PALETTE["ink"], linewidth=1.5)
            axes.text(middle, 1.03, f"{leaf['n']:.0f}", ha="center", fontsize=8)
        axes.set(xlim=(0, 1), ylim=(0, 1.12), xlabel="its score (above: how many pictures)", title=name)
        axes.title.set_fontsize(9)
    figure.axes[0].set_ylabel("share that was right")
    figure.set_label(_said(alt))
    return figure


def review(
    pictures: Sequence[Any], scores: Sequence[float], right: Sequence[bool | None], notes: Sequence[str], alt: str = ""
) -> Figure:
    """Pictures in the order in which to look at them: a bar for the score, the note, wrapped, and the verdict.

    Raises ValueError without alt text.
    """
    side, gap, bar = 128.0, 14.0, 60.0
    lines = [textwrap.wrap(note, 22) for note in notes]
    last = bar + side + 30 + 14 * max(map(len, lines))
    figure, axes = _sheet(len(pictures) * (side + gap) + 2 * _MARGIN, last + 20)
    for at, (picture, score, passed, note) in enumerate(zip(pictures, scores, right, lines, strict=True)):
        x = _MARGIN + at * (side + gap)
        axes.plot([x, x + side], [bar + 6] * 2, color=PALETTE["text"], linewidth=0.5)
        box = (x + side / 2 - 14, bar + 6 - (bar - 12) * score)
        axes.add_patch(Rectangle(box, 28, (bar - 12) * score, facecolor=PALETTE["query"], edgecolor="none"))
        _write(axes, x + side / 2, box[1] - 7, f"{score:.2f}" if score > 0.005 else f"{score:.0e}", "query")
        _picture(axes, picture, x, bar + 12, side)
        for line, words in enumerate(note):
            _write(axes, x + side / 2, bar + side + 24 + 14 * line, words, fontsize=7.5)
        _mark(axes, x + side / 2, last, passed)
    figure.set_label(_said(alt))
    return figure


def ranking(
    groups: Mapping[str, tuple[Sequence[float], Sequence[bool | None]]], axis: str, alt: str = ""
) -> Figure:  # fmt: skip
    """Scores as marks on a line, one line for each group: a green dot where the picture is right, a red cross where it
    is wrong, an open triangle where the exact reader refuses it (None). Raises ValueError without alt text."""
    figure = Figure(figsize=(7.6, 1.0 + 0.5 * len(groups)), dpi=_DPI, facecolor=PALETTE["paper"], layout="constrained")
    axes = figure.subplots()
    kinds = ((True, "o", "right", "right"), (False, "x", "wrong", "wrong"), (None, "^", "ink", "refused"))
    named: set[str] = set()
    for row, (scores, right) in enumerate(groups.values()):
        lift = np.random.default_rng(0).uniform(-0.2, 0.2, len(scores))  # so that equal scores do not hide each other
        for kind, mark, color, name in kinds:
            chosen = np.array([each is kind for each in right], bool)
            if chosen.any():
                style: dict[str, Any] = {"color": PALETTE[color], "alpha": 0.75, "markersize": 5}
                label = None if name in named else name
                face = "none" if kind is None else PALETTE[color]
                marks = np.asarray(scores)[chosen], row + lift[chosen]
                axes.plot(*marks, mark, markerfacecolor=face, label=label, **style)
                named.add(name)
    axes.set(yticks=range(len(groups)), yticklabels=list(groups), ylim=(len(groups) - 0.5, -0.5), xlabel=axis)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=8, frameon=False)
    figure.set_label(_said(alt))
    return figure


def report(rows: Mapping[str, Mapping[str, float]], alt: str = "", digits: int = 2) -> Figure:
    """Numbers as bars: a row for each name, a column for each metric, each column with a scale of its own.

    Raises ValueError without alt text.
    """
    metrics = list(next(iter(rows.values())))
    left, high, wide = max(map(len, rows)) * _LETTER + 2 * _MARGIN, 28.0, 190.0
    figure, axes = _sheet(left + wide * len(metrics) + _MARGIN, high * (len(rows) + 1) + 2 * _MARGIN)
    for column, metric in enumerate(metrics):
        x, most = left + wide * column, max(row[metric] for row in rows.values()) or 1.0
        _write(axes, x, _MARGIN + 8, metric, ha="left", weight="bold")
        for at, (name, row) in enumerate(rows.items()):
            y, value = _MARGIN + high * (at + 1), max(0.0, row[metric])
            if column == 0:
                _write(axes, left - 10, y + 9, name, ha="right")
            axes.add_patch(Rectangle((x, y), (wide - 70) * value / most, 18, facecolor=PALETTE["query"], alpha=0.55))
            axes.plot([x, x], [y - 4, y + 22], color=PALETTE["text"], linewidth=0.6)
            _write(axes, x + (wide - 70) * value / most + 6, y + 9, f"{row[metric]:.{digits}f}", ha="left")
    figure.set_label(_said(alt))
    return figure


def curves(
    panels: Mapping[str, tuple[Sequence[str], Mapping[str, Sequence[Mapping[str, float]]]]],
    alt: str = "",
    columns: int = 4,
    unordered: Sequence[str] = (),
) -> Figure:
    """A small panel for each name: (levels, {series: a leaf for each level}), lines with their intervals; marks without
    lines where the levels are `unordered`.

    Raises ValueError without alt text.
    """
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(2 * columns, 1.8 * rows + 0.3), dpi=_DPI, facecolor=PALETTE["paper"], layout="constrained")
    cells = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axes, (name, (levels, series)) in zip(cells, panels.items()):
        at = range(len(levels))
        for (color, mark, line), (what, leaves) in zip(SERIES, series.items()):
            low, mean, high = ([leaf[key] for leaf in leaves] for key in ("low", "mean", "high"))
            axes.vlines(at, low, high, color=PALETTE[color], linewidth=1)
            style: dict[str, Any] = {
                "linestyle": "none" if name in unordered else line,
                "marker": mark,
                "markersize": 3.5,
            }
            axes.plot(at, mean, color=PALETTE[color], label=what, **style)
        axes.set(xticks=at, ylim=(0, 1.03))
        turned: dict[str, Any] = {"rotation": 40, "ha": "right"} if max(map(len, levels)) > 5 else {}
        axes.set_xticklabels(levels, fontsize=7, **turned)
        axes.tick_params("y", labelsize=7)
        axes.set_title(name, fontsize=9)
    for axes in cells[len(panels) :]:
        axes.axis("off")
    cells[0].legend(fontsize=7, frameon=False, loc="lower left")
    figure.set_label(_said(alt))
    return figure


class DamageBench(widgets.VBox):
    """A picture, a kind of damage and its level: what the model says of what is left, and whether that is still true.

    `tell(picture)` gives (caption, right). `.label.value` holds the state in words; each state is told once.
    """

    def __init__(self, picture: Any, tell: Any) -> None:
        self.picture, self.tell = picture, tell
        self._told: dict[tuple[str, int], tuple[bytes, str]] = {}
        self.kinds = {damage.__name__: damage for damage in LEVELS}
        self.kind = widgets.Dropdown(options=list(self.kinds), value="noise", description="damage")
        self.level = widgets.IntSlider(min=0, max=4, value=0, description="level", continuous_update=False)
        self.image, self.label = widgets.Image(format="png"), widgets.Label()
        for control in (self.kind, self.level):
            control.observe(self._show, names="value")
        super().__init__([widgets.HBox([self.kind, self.level]), self.image, self.label])
        self._show()

    def damaged(self, kind: str, level: int) -> Any:
        """The picture after damage of a kind, level 0 (none) to 4."""
        damage = self.kinds[kind]
        return self.picture if level == 0 else damage(LEVELS[damage][level - 1], self.picture, 0)

    def state(self, kind: str, level: int) -> tuple[Any, str, bool]:
        """(the damaged picture, what the model says of it, whether that is right)."""
        shown = self.damaged(kind, level)
        return shown, *self.tell(shown)

    def _show(self, _: Any = None) -> None:
        key = (self.kind.value, self.level.value)
        if key not in self._told:
            shown, said, right = self.state(*key)
            figure, axes = _sheet(256 + 2 * _MARGIN, 256 + 2 * _MARGIN)
            _picture(axes, shown, _MARGIN, _MARGIN, 256)
            self._told[key] = to_png(figure), f"{key[0]} {key[1]}: {'right' if right else 'wrong'}. {said}"
        self.image.value, self.label.value = self._told[key]
