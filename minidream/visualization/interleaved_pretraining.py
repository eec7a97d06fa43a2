"""Figures of notebook 06: a row's blocks and its sum of losses, what hears what, packed rows, chances of `<dream>`."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from minidream.visualization.figures import (
    _FONT,
    _LETTER,
    _LINE,
    _MARGIN,
    PALETTE,
    _arrow,
    _pixels,
    _sheet,
    _tint,
    _write,
)

_HALF = 2  # a picture among words stands at twice its size, half of what is usual
_KINDS = {
    "text": "text",
    "dream": "query",
    "image": "patch",
    "<dream>": "query",
    "picture": "diffusion",
    "</s>": "text",
}


def _kind(name: str) -> str:
    """The palette's name for a block or a term: "image 2" is a patch."""
    return _KINDS[name.split()[0]]


def story_blocks(document: Sequence[Any], queries: int = 8, side: int = 4, alt: str = "") -> Figure:
    """A document as the model's row, block by block: texts, and each picture twice, as a dream block of `queries`, from
    which it is created, and as an image block of `side` x `side` patches, in which it is seen."""
    box, head = 64.0 * _HALF, 34.0
    count = sum(1 if isinstance(part, str) else 2 for part in document)
    figure, axes = _sheet(2 * _MARGIN + count * box + (count - 1) * 14, head + 2 * box + 60)
    x = float(_MARGIN)
    for part in document:
        if isinstance(part, str):
            axes.add_patch(Rectangle((x, head), box, box, facecolor=_tint("text"), edgecolor=PALETTE["text"]))
            _write(axes, x + box / 2, head + box / 2, "\n".join(textwrap.wrap(part, int(box / _LETTER) - 1)))
            _write(axes, x + box / 2, head - 12, "text")
            x += box + 14
            continue
        axes.add_patch(Rectangle((x, head), box, box, facecolor=_tint("query"), edgecolor=PALETTE["query"]))
        _write(axes, x + box / 2, head + box / 2, "\n".join(["<dream>", *textwrap.wrap("q " * queries, 7)]))
        _write(axes, x + box / 2, head - 12, "dream block: create")
        _arrow(axes, (x + box / 2, head + box), (x + box / 2, head + box + 36))
        for left, top, cells, kind in ((x, head + box + 38, 1, "diffusion"), (x + box + 14, head, side, "patch")):
            axes.imshow(
                _pixels(part), extent=(left, left + box, top + box, top), interpolation="nearest", aspect="auto"
            )
            step, edge = box / cells, PALETTE[kind]
            for cell in range(cells * cells):
                corner = (left + cell % cells * step, top + cell // cells * step)
                axes.add_patch(Rectangle(corner, step, step, fill=False, edgecolor=edge, linewidth=1.2))
        _write(axes, x + box * 1.5 + 14, head - 12, "image block: see")
        x += 2 * (box + 14)
    told = [f"'{part}'" if isinstance(part, str) else "dream block, image block" for part in document]
    figure.set_label(alt or f"A story as one row: {', '.join(told)}")
    return figure


@dataclass(frozen=True)
class Term:
    """One summand of a document's loss: what is predicted (words, "<dream>", "</s>", or a picture)."""

    told: str
    picture: Any = None


def sum_of_terms(terms: Sequence[Term], rows: Mapping[str, Sequence[float]], units: str = "", alt: str = "") -> Figure:
    """A document from left to right, and over each of its parts what it adds to the loss; one row of bars a name.

    Words are grey, `<dream>` violet, pictures orange; `units` says below what is added up. Raises ValueError if a row
    has another number of summands.
    """
    if not terms or not rows or any(len(values) != len(terms) for values in rows.values()):
        raise ValueError(f"{len(terms)} terms need as many values in each row")
    spans = [64 * _HALF if term.picture is not None else 150 if " " in term.told else 72 for term in terms]
    left, gap, high, foot = 120.0, 26.0, 110.0, 64 * _HALF + (3 if units else 2) * _MARGIN
    figure, axes = _sheet(left + sum(spans) + gap * len(spans), len(rows) * (high + 34) + foot)
    most = max(max(values) for values in rows.values())
    for number, (name, values) in enumerate(rows.items()):
        floor = (number + 1) * (high + 34)
        _write(axes, left - 14, floor - high / 2, "\n".join(textwrap.wrap(name, 14)), ha="right", weight="bold")
        x = left
        for term, value, span in zip(terms, values, spans):
            kind = "diffusion" if term.picture is not None else "query" if term.told == "<dream>" else "text"
            tall = high * value / most
            axes.add_patch(Rectangle((x, floor - tall), span, tall, facecolor=PALETTE[kind]))
            _write(axes, x + span / 2, floor - tall - 9, f"{value:.2f}")
            if x > left:
                _write(axes, x - gap / 2, floor - 8, "+", fontsize=11)
            x += span + gap
        axes.plot([left, x - gap], [floor, floor], color=PALETTE["ink"], linewidth=0.8)
        _write(axes, left - 14, floor - 10, f"sum {sum(values):.2f}", ha="right")
    x, top = left, len(rows) * (high + 34) + _MARGIN / 2
    for term, span in zip(terms, spans):
        if term.picture is None:
            _write(axes, x + span / 2, top + 8, "\n".join(textwrap.wrap(term.told, int(span / _LETTER))), va="top")
        else:
            extent = (x, x + span, top + 64 * _HALF, top)
            axes.imshow(_pixels(term.picture), extent=extent, interpolation="nearest", aspect="auto")
            axes.add_patch(Rectangle((x, top), span, 64 * _HALF, fill=False, edgecolor=PALETTE["text"], linewidth=0.5))
        x += span + gap
    if units:
        _write(axes, left, top + foot - _MARGIN, units, ha="left")
    said = [term.told if term.picture is None else "[picture]" for term in terms]
    figure.set_label(alt or f"What each part adds to the loss: {' + '.join(said)}; {', '.join(rows)}")
    return figure


def influence(panels: Mapping[str, Any], terms: Sequence[str], blocks: Sequence[str], alt: str = "") -> Figure:
    """Which term of the loss (row) hears which block of the row (column): one panel a way of writing the document.

    A panel is (terms, blocks) of True, False, or None where the way has no such term or block; the first is the
    measure: what another panel hears beyond it is marked as a leak. Raises ValueError for another shape.
    """
    grids = {name: np.array(values, dtype=object) for name, values in panels.items()}
    if not grids or any(grid.shape != (len(terms), len(blocks)) for grid in grids.values()):
        raise ValueError(f"a panel has {len(terms)} terms and {len(blocks)} blocks")
    cell, left, head, columns = 30.0, 92.0, 74.0, 2
    wide, tall = left + cell * len(blocks) + 30, head + cell * len(terms) + 26
    figure, axes = _sheet(columns * wide + _MARGIN, -(-len(grids) // columns) * tall + _MARGIN)
    measure = next(iter(grids.values()))
    told = []
    for number, (name, grid) in enumerate(grids.items()):
        x, y = _MARGIN + number % columns * wide, _MARGIN + number // columns * tall
        _write(axes, x + left, y + 8, name, ha="left", weight="bold", fontsize=_FONT + 1)
        for column, block in enumerate(blocks):
            style: dict[str, Any] = {"rotation": 40, "ha": "left", "va": "bottom", "rotation_mode": "anchor"}
            _write(axes, x + left + cell * (column + 0.4), y + head - 4, block, **style)
        for row, term in enumerate(terms):
            _write(axes, x + left - 8, y + head + cell * (row + 0.5), term, ha="right")
            for column in range(len(blocks)):
                leak = grid[row, column] is True and measure[row, column] is not True
                _hears(
                    axes, x + left + cell * column, y + head + cell * row, cell, grid[row, column], _kind(term), leak
                )
        heard = sum(value is True for value in grid.flat)
        leaks = sum(a is True and b is not True for a, b in zip(grid.flat, measure.flat))
        told.append(f"{name}: {heard} pairs{f', {leaks} of them leaks' * bool(leaks)}")
    figure.set_label(alt or f"Which part of the sum hears which block. {'; '.join(told)}")
    return figure


def _hears(axes: Axes, x: float, y: float, cell: float, value: Any, kind: str, leak: bool) -> None:
    """One cell: solid if heard, red with a cross if it should not be, hatched if there is nothing to hear."""
    style: dict[str, Any] = {"facecolor": PALETTE["paper"]}
    if value is None:
        style["hatch"] = "/////"
    elif value:
        style["facecolor"] = PALETTE["wrong" if leak else kind]
    axes.add_patch(Rectangle((x, y), cell, cell, edgecolor=_tint("text"), linewidth=1, **style))
    if leak:
        _write(axes, x + cell / 2, y + cell / 2, "\N{BALLOT X}", "paper", weight="bold", fontsize=12)


def packed_rows(mask: Any, documents: Sequence[int], kinds: Sequence[str], alt: str = "") -> Figure:
    """Who may attend to whom in a packed row: `mask` (L, L), a row a token that looks, a column one that is looked at.

    `documents` (L,) numbers each token's document (0: padding); `kinds` (L,) are names of blocks. Allowed cells have
    the colour of what is looked at; padding, which looks at itself, is pale. Raises ValueError if lengths differ.
    """
    allowed = np.asarray(mask, dtype=bool)
    length = len(documents)
    if allowed.shape != (length, length) or len(kinds) != length:
        raise ValueError(f"a mask {allowed.shape}, {length} documents' numbers and {len(kinds)} kinds")
    image = np.ones((length, length, 3))
    for column, (number, name) in enumerate(zip(documents, kinds)):
        image[allowed[:, column], column] = to_rgb(PALETTE[_kind(name)]) if number else _tint("text")
    side, left, top = 460.0, 110.0, 50.0
    figure, axes = _sheet(left + side + 190, top + side + _MARGIN)
    axes.imshow(image, extent=(left, left + side, top + side, top), interpolation="nearest", aspect="auto")
    axes.add_patch(Rectangle((left, top), side, side, fill=False, edgecolor=PALETTE["ink"], linewidth=1))
    scale, numbers = side / length, np.asarray(documents)
    found = [int(number) for number in dict.fromkeys(numbers.tolist())]
    for number in found:
        places = np.flatnonzero(numbers == number)
        begin, end = scale * places[0], scale * (places[-1] + 1)
        name = f"document {number}" if number else "padding"
        if end - begin > _LINE:
            _write(axes, left - 8, top + (begin + end) / 2, name, ha="right")
        axes.plot([left - 6, left + side], [top + end] * 2, color=PALETTE["ink"], linewidth=0.5)
        axes.plot([left + end] * 2, [top, top + side], color=PALETTE["ink"], linewidth=0.5)
    _write(axes, left + side / 2, top - 14, "is looked at \N{RIGHTWARDS ARROW}")
    keys = {"text": "text", "dream 1": "dream block", "image 1": "image block"}
    for row, (name, words) in enumerate(keys.items()):
        axes.add_patch(Rectangle((left + side + 16, top + 24 * row), 12, 12, facecolor=PALETTE[_kind(name)]))
        _write(axes, left + side + 34, top + 24 * row + 6, words, ha="left")
    for row, (name, face) in enumerate({"padding, ignored": _tint("text"), "hidden": PALETTE["paper"]}.items(), 3):
        axes.add_patch(Rectangle((left + side + 16, top + 24 * row), 12, 12, facecolor=face, edgecolor=PALETTE["text"]))
        _write(axes, left + side + 34, top + 24 * row + 6, name, ha="left")
    count = sum(number > 0 for number in found)
    share = allowed[:, numbers > 0].mean(axis=0).sum() / length
    figure.set_label(alt or f"The mask of a row with {count} documents: {count} triangles, {share:.2f} of all pairs")
    return figure


def dream_chances(
    tokens: Sequence[str], due: Sequence[bool], rows: Mapping[str, Any], width: float = 960, alt: str = ""
) -> Figure:
    """How probable `<dream>` is after each token, one row of bars a name; `due` marks where a picture stands.

    Raises ValueError if lengths differ.
    """
    if not rows or any(len(values) != len(tokens) for values in rows.values()) or len(due) != len(tokens):
        raise ValueError(f"{len(tokens)} tokens need as many chances in each row, and marks")
    left, high, foot = 110.0, 64.0, 84.0
    step = (width - left - _MARGIN) / len(tokens)
    figure, axes = _sheet(width, len(rows) * (high + 18) + foot)
    for number, (name, values) in enumerate(rows.items()):
        floor = (number + 1) * (high + 18)
        _write(axes, left - 34, floor - high / 2, "\n".join(textwrap.wrap(name, 11)), ha="right")
        for level in (0, 1):
            _write(axes, left - 8, floor - high * level, str(level), ha="right", fontsize=7)
            axes.plot([left, width - _MARGIN], [floor - high * level] * 2, color=_tint("text"), linewidth=0.6)
        for place, (value, wanted) in enumerate(zip(values, due)):
            x, tall = left + step * place, high * float(value)
            if wanted:
                axes.add_patch(Rectangle((x, floor - high), step, high, facecolor=_tint("query")))
            axes.add_patch(Rectangle((x + 1, floor - tall), step - 2, tall, facecolor=PALETTE["query"]))
    under = len(rows) * (high + 18) + 6
    for place, (token, wanted) in enumerate(zip(tokens, due)):
        style: dict[str, Any] = {"rotation": 60, "ha": "right", "va": "top", "rotation_mode": "anchor"}
        words = token.replace("\u0120", "")
        _write(axes, left + step * (place + 0.7), under, words, weight="bold" if wanted else "normal", **style)
    figure.set_label(alt or f"How probable <dream> is after each of {len(tokens)} tokens: {', '.join(rows)}")
    return figure


def heard(shares: Mapping[str, Mapping[str, float]], alt: str = "") -> Figure:
    """How much of each part's gradient comes from the dream loss (orange), the rest from the words (grey).

    `shares[weights][part]` in 0..1: one panel of bars for each pair of weights. Raises ValueError for different parts.
    """
    parts = list(next(iter(shares.values()))) if shares else []
    if not parts or any(list(each) != parts for each in shares.values()):
        raise ValueError("every panel has the same parts")
    left, wide, row, top = 140.0, 210.0, 26.0, 40.0
    figure, axes = _sheet(left + len(shares) * (wide + 30), top + row * len(parts) + 34)
    for index, part in enumerate(parts):
        _write(axes, left - 10, top + row * (index + 0.5), part, ha="right")
    for number, (name, panel) in enumerate(shares.items()):
        x = left + number * (wide + 30)
        _write(axes, x + wide / 2, 20, name, weight="bold")
        for index, part in enumerate(parts):
            y, cut = top + row * index + 3, wide * panel[part]
            axes.add_patch(Rectangle((x, y), cut, row - 6, facecolor=PALETTE["diffusion"]))
            axes.add_patch(Rectangle((x + cut, y), wide - cut, row - 6, facecolor=PALETTE["text"]))
    for number, (kind, words) in enumerate({"diffusion": "from the pictures", "text": "from the words"}.items()):
        x, y = left + 180 * number, top + row * len(parts) + 10
        axes.add_patch(Rectangle((x, y), 12, 12, facecolor=PALETTE[kind]))
        _write(axes, x + 20, y + 6, words, ha="left")
    figure.set_label(alt or f"Whose gradient it is, part by part, with {len(shares)} pairs of weights")
    return figure
