"""The figures of notebook 02: similarity matrices, what a picture leans to, and what survives in an embedding."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from minidream.visualization.figures import _FONT, _LETTER, _MARGIN, PALETTE, ZOOM, _pixels, _sheet, _tint, _write

_HALF = ZOOM // 2  # beside a matrix a picture stands at half of its usual size: four of them must fit on a screen
_CELL = 64 * _HALF
_LINES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1)), (0, (1, 3)))


def _shade(part: float) -> tuple[float, ...]:
    """From paper (0) to the patches' blue, light enough (1) for ink to be read on it."""
    part = min(max(part, 0.0), 1.0) * 0.6
    return tuple(part * blue + (1 - part) for blue in to_rgb(PALETTE["patch"]))


def _grid(axes: Axes, values: np.ndarray, left: float, top: float, cell: float, span: tuple[float, float]) -> None:
    """A matrix as shaded cells, its diagonal (the true pairs) framed; numbers where a cell has room for them."""
    low, high = span
    for row, column in np.ndindex(*values.shape):
        value, x, y = float(values[row, column]), left + column * cell, top + row * cell
        shade = _shade((value - low) / (high - low))
        axes.add_patch(Rectangle((x, y), cell, cell, facecolor=shade, edgecolor=PALETTE["paper"]))
        if cell >= 36:
            _write(axes, x + cell / 2, y + cell / 2, f"{value:.2f}")
    for index in range(min(values.shape)):
        x, y = left + index * cell, top + index * cell
        axes.add_patch(Rectangle((x, y), cell, cell, fill=False, edgecolor=PALETTE["ink"], linewidth=1.6))


def _square(values: Any) -> np.ndarray:
    matrix = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=float)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ValueError(f"a matrix of pairs is (N, N), not {matrix.shape}")
    return matrix


def pair_matrix(values: Any, pictures: Sequence[Any], captions: Sequence[str], alt: str = "") -> Figure:
    """Similarities (N, N), a row a picture and a column a caption; the framed diagonal holds the true pairs.

    Raises ValueError unless there are N pictures and N captions.
    """
    matrix = _square(values)
    count = len(matrix)
    if not len(pictures) == len(captions) == count:
        raise ValueError(f"{len(pictures)} pictures and {len(captions)} captions for a matrix of {count}")
    words = [_wrapped(caption, _CELL) for caption in captions]
    head = 17 * max(map(len, words)) + _MARGIN
    left, top = 2 * _MARGIN + _CELL, _MARGIN + head
    figure, axes = _sheet(left + count * _CELL + _MARGIN, top + count * _CELL + _MARGIN)
    for column, lines in enumerate(words):
        for number, line in enumerate(lines):
            _write(axes, left + (column + 0.5) * _CELL, _MARGIN + 17 * (number + 0.5), line)
    for row, picture in enumerate(pictures):
        high = top + row * _CELL
        extent = (_MARGIN, _MARGIN + _CELL, high + _CELL - 4, high + 4)
        axes.imshow(_pixels(picture), extent=extent, interpolation="nearest", aspect="auto")
    _grid(axes, matrix, left, top, _CELL, (float(matrix.min()), float(matrix.max())))
    diagonal, rest = matrix.diagonal(), matrix[~np.eye(count, dtype=bool)]
    others = f", the others from {rest.min():.2f} to {rest.max():.2f}" if rest.size else ""
    figure.set_label(alt or f"{count} pictures against {count} captions: true pairs from {diagonal.min():.2f}{others}")
    return figure


def matrices(named: Mapping[str, Any], side: int = 200, alt: str = "") -> Figure:
    """Several matrices (N, N) of shares from 0 to 1 side by side, each under its name; diagonals framed."""
    if not named:
        raise ValueError("there is no matrix to show")
    figure, axes = _sheet(len(named) * (side + _MARGIN) + _MARGIN, side + 2 * _MARGIN + 20)
    told = []
    for index, (name, values) in enumerate(named.items()):
        matrix, left = _square(values), _MARGIN + index * (side + _MARGIN)
        _write(axes, left + side / 2, _MARGIN + 4, name)
        _grid(axes, matrix, left, _MARGIN + 20, side / len(matrix), (0.0, 1.0))
        told.append(f"{name} ({matrix.diagonal().mean():.2f})")
    figure.set_label(alt or f"{len(named)} matrices, with the mean of their diagonals: {'; '.join(told)}")
    return figure


def leanings(
    picture: Any, similarities: Mapping[str, Mapping[str, float]], truth: Mapping[str, str], alt: str = ""
) -> Figure:
    """A picture, and for each fact the similarity to captions that say one value of it or another.

    A panel's true value is named in bold; its longest bar is solid. Raises ValueError if a fact's truth is not given.
    """
    missing = [fact for fact in similarities if truth.get(fact) not in similarities[fact]]
    if missing or not similarities:
        raise ValueError(f"no truth among the values of {', '.join(missing) or 'no fact'}")
    frame = _pixels(picture)
    wide, panel, bar, columns = ZOOM * frame.shape[1], 190, 82, min(len(similarities), 3)
    rows = [list(similarities.values())[start : start + columns] for start in range(0, len(similarities), columns)]
    tall = [26 * (max(map(len, row)) + 1) for row in rows]  # pixels of each row of panels
    figure, axes = _sheet(wide + 2 * _MARGIN + columns * (panel + _MARGIN), max(wide, sum(tall)) + 2 * _MARGIN)
    extent = (_MARGIN, _MARGIN + wide, _MARGIN + wide, _MARGIN)
    axes.imshow(frame, extent=extent, interpolation="nearest", aspect="auto")
    told = []
    for number, (fact, values) in enumerate(similarities.items()):
        left = 2 * _MARGIN + wide + number % columns * (panel + _MARGIN)
        top = _MARGIN + sum(tall[: number // columns])
        best = max(values, key=lambda value: values[value])
        _write(axes, left, top + 8, fact, ha="left", weight="bold", fontsize=_FONT + 1)
        for row, (value, similarity) in enumerate(values.items(), start=1):
            y = top + 8 + 26 * row
            weight = "bold" if value == truth[fact] else "normal"
            _write(axes, left + 78, y, value, ha="right", weight=weight)
            face = PALETTE["patch"] if value == best else _tint("patch")
            axes.add_patch(Rectangle((left + 84, y - 8), bar * max(similarity, 0), 16, facecolor=face))
            _write(axes, left + 84 + bar * max(similarity, 0) + 4, y, f"{similarity:.2f}", ha="left")
        right = best == truth[fact]
        mark = "\N{CHECK MARK} right" if right else "\N{BALLOT X} wrong"
        _write(axes, left + 100, top + 8, mark, "right" if right else "wrong", ha="left", weight="bold")
        told.append(f"{fact} {best} ({'right' if right else 'wrong'})")
    figure.set_label(alt or f"A picture, and the captions most like it: {', '.join(told)}")
    return figure


def pixels_of(values: Any, side: int) -> np.ndarray:
    """Predicted pixels (3 * side * side) in 0..255, channels first, as a picture (64, 64, 3): clipped and enlarged."""
    rough = np.asarray(values.detach().cpu(), dtype=float).reshape(3, side, side).transpose(1, 2, 0)
    return rough.clip(0, 255).round().astype(np.uint8).repeat(64 // side, axis=0).repeat(64 // side, axis=1)


_SOURCES = ("text", None, "patch")  # grey, light blue, blue: from the caption to the patches


def survival(shares: Mapping[str, Mapping[str, float]], guess: Mapping[str, float], alt: str = "") -> Figure:
    """How well each fact can be read off each source: `shares[source][fact]` in 0..1, at most three sources.

    A tick marks what guessing the commonest answer gives. Raises ValueError for other facts or more sources.
    """
    sources, facts = list(shares), list(guess)
    if not 1 <= len(sources) <= len(_SOURCES) or any(set(shares[source]) != set(facts) for source in sources):
        raise ValueError(f"one to {len(_SOURCES)} sources, each with the facts {', '.join(facts)}")
    left, wide, thick, gap = 190.0, 600.0, 14, 14
    block = thick * len(sources) + gap
    figure, axes = _sheet(left + wide + 70, 50 + block * len(facts) + 30)
    for number, source in enumerate(sources):
        x = left + 200 * number
        axes.add_patch(Rectangle((x, 14), 12, 12, **_bar(number)))
        _write(axes, x + 18, 20, source, ha="left")
    top = 44
    for tenth in range(0, 11, 2):
        x = left + wide * tenth / 10
        axes.plot([x, x], [top, top + block * len(facts)], color=_tint("text"), linewidth=0.8, zorder=0)
        _write(axes, x, top + block * len(facts) + 12, f"{tenth / 10:.1f}")
    for row, fact in enumerate(facts):
        y = top + gap / 2 + block * row
        _write(axes, left - 10, y + thick * len(sources) / 2, fact, ha="right")
        for number, source in enumerate(sources):
            share, high = max(shares[source][fact], 0.0), y + thick * number
            axes.add_patch(Rectangle((left, high), wide * share, thick - 2, **_bar(number)))
            _write(axes, left + wide * share + 6, high + thick / 2 - 1, f"{share:.2f}", ha="left", fontsize=7)
        x = left + wide * max(guess[fact], 0.0)
        axes.plot([x, x], [y - 3, y + thick * len(sources) + 1], color=PALETTE["ink"], linewidth=2)
    axes.plot([left + 620, left + 620], [12, 28], color=PALETTE["ink"], linewidth=2)
    _write(axes, left + 612, 20, "guessing", ha="right")
    told = [
        f"{fact} {', '.join(f'{max(shares[source][fact], 0.0):.2f}' for source in sources)} (guessing "
        f"{max(guess[fact], 0.0):.2f})"
        for fact in facts
    ]
    figure.set_label(alt or f"Read off {', '.join(sources)}: {'; '.join(told)}")
    return figure


def _bar(number: int) -> dict[str, Any]:
    kind = _SOURCES[number]
    return {
        "facecolor": _tint("patch") if kind is None else PALETTE[kind],
        "edgecolor": PALETTE["patch"] if kind is None else PALETTE[kind],
        "linewidth": 0.8,
    }


def curves(
    named: Mapping[str, Sequence[float]], label: str, levels: Mapping[str, float] | None = None, window: int = 10,
    alt: str = "",
) -> Figure:  # fmt: skip
    """Curves over training steps, each a running mean of `window` steps with its name at its end; `levels` are named
    horizontal lines. Raises ValueError if a curve is shorter than the window."""
    if not named or any(len(values) < window for values in named.values()):
        raise ValueError(f"every curve needs at least {window} steps")
    figure = Figure(figsize=(7.6, 3.4), dpi=100, facecolor=PALETTE["paper"])
    axes = figure.add_axes((0.09, 0.15, 0.7, 0.78), facecolor=PALETTE["paper"])
    ends: list[tuple[float, str]] = []
    last, told = 0, []
    for number, (name, values) in enumerate(named.items()):
        smooth = np.convolve(np.asarray(values, dtype=float), np.ones(window) / window, mode="valid")
        steps = np.arange(window, window + len(smooth))
        shade = tuple(0.8 * number / max(len(named), 2) * part for part in (0.9, 0.9, 1.0))
        axes.plot(steps, smooth, color=shade, linestyle=_LINES[number % len(_LINES)], linewidth=1.8)
        ends.append((float(smooth[-1]), name))
        last = max(last, int(steps[-1]))
        told.append(f"{name} {'falls' if smooth[-1] < smooth[0] else 'rises'}")
    for name, level in (levels or {}).items():
        axes.axhline(level, color=PALETTE["text"], linewidth=1, zorder=0)
        axes.text(1, level, f" {name}", fontsize=_FONT, va="bottom", color=PALETTE["ink"])
    low, high = axes.get_ylim()
    step, height = (high - low) * 0.06, low - 1
    for end, name in sorted(ends):  # names move apart where curves end close together
        height = max(end, height + step)
        axes.annotate(
            name, (last, end), xytext=(last * 1.03, height), fontsize=_FONT, va="center", annotation_clip=False
        )
    axes.set_xlim(0, last)
    axes.set_ylim(low, high)
    axes.set_xlabel("step", fontsize=_FONT)
    axes.set_ylabel(label, fontsize=_FONT)
    axes.tick_params(labelsize=_FONT)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.set_label(alt or f"{label} over {last} steps: {', '.join(told)}")
    return figure


def _wrapped(words: str, width: float) -> list[str]:
    return textwrap.wrap(words, max(8, int(width / _LETTER)))
