"""Figures of notebook 01: a scene and its English, merges, who predicts what, attention; and the scene editor."""

from __future__ import annotations

import math
import random
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from minidream.visualization.figures import (
    _LETTER,
    _LINE,
    _MARGIN,
    _SPECIAL,
    PALETTE,
    ZOOM,
    _arrow,
    _sheet,
    _tint,
    _write,
    to_png,
)
from minidream.world.captions import caption, plain_caption
from minidream.world.draw import draw
from minidream.world.questions import questions
from minidream.world.scene import (
    BACKGROUNDS,
    COLORS,
    HELD_OUT_PAIRS,
    HELD_OUT_RELATIONS,
    PLACES,
    SHAPES,
    SIDE,
    SIZES,
    Scene,
    Thing,
    related,
)

NOTHING = "nothing"  # what a corner of the editor holds when it holds no thing


def held_out_facts(scene: Scene) -> list[str]:
    """What of a scene training never shows: "cyan star", "cross left of square"; empty where there is nothing."""
    pairs = [f"{t.color} {t.shape}" for t in scene.things if (t.color, t.shape) in HELD_OUT_PAIRS]
    relations = [
        f"{a.shape} {relation} {b.shape}"
        for a in scene.things
        for b in scene.things
        for relation in ("left of", "above")
        if (a.shape, b.shape) in HELD_OUT_RELATIONS and related(a, relation, b)
    ]
    return list(dict.fromkeys(pairs + relations))


def scene_card(scene: Scene, wording: int = 0, asked: int = 4) -> Figure:
    """A scene's picture; beside it its plain caption, another one, some questions with answers, and whether training
    may show it. `wording` chooses the second caption and the questions."""
    rng = random.Random(f"card-{wording}")
    told = [plain_caption(scene), caption(scene, rng)]
    answered = [f"{each.question}  {each.answer}" for each in questions(scene, rng)][:asked]
    unseen = held_out_facts(scene)
    note = f"held out: training never shows a {unseen[0]}" if unseen else "training may show this"
    wide, left = ZOOM * SIDE, ZOOM * SIDE + 3 * _MARGIN
    blocks: list[tuple[str, list[str]]] = [("captions", told), ("questions", answered), ("training", [note])]
    wrapped = [
        (title, [piece for each in lines for piece in textwrap.wrap(each, 78, subsequent_indent="   ")])
        for title, lines in blocks
    ]
    tall = sum(_LINE * (len(lines) + 1.4) for _, lines in wrapped)
    figure, axes = _sheet(left + 560, max(wide, tall) + 2 * _MARGIN)
    extent = (_MARGIN, _MARGIN + wide, _MARGIN + wide, _MARGIN)
    axes.imshow(np.asarray(draw(scene)), extent=extent, interpolation="nearest", aspect="auto")
    axes.add_patch(Rectangle((_MARGIN, _MARGIN), wide, wide, fill=False, edgecolor=PALETTE["text"], linewidth=0.5))
    y = _MARGIN + 8.0
    for title, lines in wrapped:
        _write(axes, left, y, title, ha="left", weight="bold")
        for line in lines:
            y += _LINE
            _write(axes, left, y, line, ha="left")
        y += _LINE * 1.4
    figure.set_label(f"{told[0]} Also told: {told[1]} Asked: {'; '.join(answered)}. {note.capitalize()}.")
    return figure


@dataclass(frozen=True)
class SceneEditor:
    """A control that draws any scene. `box` is what to display; `things[place][fact]` and `background` are its
    drop-down lists, `wording` chooses other words; `picture` and `label` hold the `scene_card` and its alt text."""

    box: Any
    things: dict[str, dict[str, Any]]
    background: Any
    wording: Any
    picture: Any
    label: Any

    def scene(self) -> Scene | None:
        """The scene that is set; None while all corners are empty."""
        chosen = {place: {fact: each.value for fact, each in facts.items()} for place, facts in self.things.items()}
        things = tuple(Thing(place, **facts) for place, facts in chosen.items() if facts["shape"] != NOTHING)
        return Scene(self.background.value, things) if things else None


def scene_editor(start: Scene) -> SceneEditor:
    """Drop-down lists for every fact of a scene, beginning with `start`, over its `scene_card`."""
    given = {thing.place: thing for thing in start.things}
    options = {"size": list(SIZES), "color": list(COLORS), "shape": [NOTHING, *SHAPES]}
    spelling = {"size": "size", "color": "colour", "shape": "shape"}

    def listed(name: str, values: Sequence[str], value: str) -> Any:
        layout = widgets.Layout(width="160px")
        return widgets.Dropdown(
            options=list(values), value=value, description=name, layout=layout, style={"description_width": "50px"}
        )

    things = {
        place: {
            fact: listed(
                spelling[fact],
                values,
                getattr(given[place], fact) if place in given else NOTHING if fact == "shape" else values[0],
            )
            for fact, values in options.items()
        }
        for place in PLACES
    }
    background = widgets.Dropdown(options=list(BACKGROUNDS), value=start.background, description="background")
    wording = widgets.IntSlider(value=0, min=0, max=9, description="other words", continuous_update=False)
    picture, label = widgets.Image(format="png"), widgets.HTML()
    rows = [
        widgets.HBox([widgets.Label(place, layout=widgets.Layout(width="90px")), *things[place].values()])
        for place in PLACES
    ]
    box = widgets.VBox([*rows, widgets.HBox([background, wording]), picture, label])
    editor = SceneEditor(box, things, background, wording, picture, label)

    def show(_: Any = None) -> None:
        scene = editor.scene()
        if scene is None:
            label.value = "A scene holds at least one thing: choose a shape for some corner."
            return
        figure = scene_card(scene, wording.value)
        picture.value, label.value = to_png(figure), str(figure.get_label())

    for control in [background, wording, *(each for facts in things.values() for each in facts.values())]:
        control.observe(show, names="value")
    show()
    return editor


def _visible(token: str) -> str:
    """A byte-level token with its space and line break to be seen."""
    return token.replace("\u0120", "\u2423").replace("\u010a", "\u23ce")


def _cell(axes: Axes, words: str, kind: str, left: float, top: float, span: float) -> None:
    axes.add_patch(Rectangle((left, top), span, 20, facecolor=_tint(kind), edgecolor=PALETTE[kind]))
    _write(axes, left + span / 2, top + 10, words, fontfamily="DejaVu Sans Mono", fontsize=7.5)


def merge_ladder(steps: Mapping[str, Sequence[Sequence[str]]], alt: str = "") -> Figure:
    """A text as pieces, a row a name of `steps`: words apart, the pieces of a word as cells that touch.

    Raises ValueError if there is no step or the rows tell different texts.
    """
    texts = {"".join("".join(word) for word in words) for words in steps.values()}
    if len(texts) != 1:
        raise ValueError(f"every row cuts the same text, not {len(texts)} different ones")
    left, row = 110.0, 34.0
    spans = {name: [[_LETTER * len(p) + 7 for p in word] for word in words] for name, words in steps.items()}
    # A word begins at the same place in every row, so that one sees its cells join.
    widths = [max(sum(word) for word in column) for column in zip(*spans.values())]
    figure, axes = _sheet(left + sum(widths) + 12 * len(widths) + _MARGIN, row * len(steps) + _MARGIN + 8)
    for number, (name, words) in enumerate(steps.items()):
        y, x = _MARGIN + row * number, left
        _write(axes, left - 14, y + 10, name, ha="right")
        for word, width, sizes in zip(words, widths, spans[name]):
            at = x
            for piece, span in zip(word, sizes):
                _cell(axes, _visible(piece), "text", at, y, span)
                at += span
            x += width + 12
    counts = ", ".join(f"{name}: {sum(map(len, words))} pieces" for name, words in steps.items())
    figure.set_label(alt or f"The same text cut into ever fewer pieces. {counts}")
    return figure


def predictions(
    tokens: Sequence[str], learned: Sequence[Any], queries: Sequence[Any], patches: Sequence[Any]
) -> Figure:
    """Who predicts what: each place of a sequence, and under it what it has to predict; a dash where no loss falls.

    `learned` (L,) marks the tokens that are a target, as `labels[0] != -100` does; the place before one predicts it.
    Raises ValueError if lengths differ.
    """
    if not tokens or not len(tokens) == len(learned) == len(queries) == len(patches):
        raise ValueError(
            f"{len(tokens)} tokens, {len(learned)} learned, {len(queries)} queries, {len(patches)} patches"
        )
    kinds = ["query" if q else "patch" if p else _SPECIAL.get(t, "text") for t, q, p in zip(tokens, queries, patches)]
    words = ["q" if q else "p" if p else _visible(t) for t, q, p in zip(tokens, queries, patches)]
    targets = [(words[i + 1], kinds[i + 1]) if learned[i + 1] else None for i in range(len(words) - 1)] + [None]
    spans = [_LETTER * max(len(word), len(target[0]) if target else 1) + 9 for word, target in zip(words, targets)]
    left, top, below = 96.0, float(_MARGIN), _MARGIN + 62.0
    figure, axes = _sheet(left + sum(spans) + 4 * len(spans) + _MARGIN, below + 20 + _MARGIN)
    _write(axes, left - 10, top + 10, "stands here", ha="right")
    _write(axes, left - 10, below + 10, "must predict", ha="right")
    x = left
    for word, kind, target, span in zip(words, kinds, targets, spans):
        _cell(axes, word, kind, x, top, span)
        if target is None:
            _write(axes, x + span / 2, below + 10, "\N{EN DASH}")
        else:
            _arrow(axes, (x + span / 2, top + 22), (x + span / 2, below - 2))
            _cell(axes, *target, x, below, span)
        x += span + 4
    told = [f"{word} predicts {target[0]}" for word, target in zip(words, targets) if target]
    figure.set_label(f"{len(tokens)} places, {len(told)} of them predict: {'; '.join(told)}")
    return figure


def attention_grid(weights: Any, words: Sequence[str], allowed: Any, alt: str = "") -> Figure:
    """Attention weights (L, L): a row looks, a column is looked at; the darker, the more. What the mask `allowed`
    (L, L) forbids is hatched. Raises ValueError unless there is a word for each row."""
    values, free = np.asarray(weights, dtype=float), np.asarray(allowed, dtype=bool)
    if values.shape != (len(words), len(words)) or free.shape != values.shape:
        raise ValueError(f"weights {values.shape} and mask {free.shape} for {len(words)} words")
    cell, left, top = 64.0, 120.0, 66.0
    figure, axes = _sheet(left + cell * len(words) + _MARGIN, top + cell * len(words) + _MARGIN)
    _write(axes, left + cell * len(words) / 2, 18, "is looked at", color="ink", style="italic")
    _write(axes, 24, top + cell * len(words) / 2, "looks", color="ink", style="italic", rotation=90)
    for index, word in enumerate(words):
        _write(axes, left + cell * (index + 0.5), top - 16, word, fontfamily="DejaVu Sans Mono")
        _write(axes, left - 10, top + cell * (index + 0.5), word, ha="right", fontfamily="DejaVu Sans Mono")
    for row, column in np.ndindex(*values.shape):
        x, y, share = left + cell * column, top + cell * row, 0.75 * values[row, column]
        shade = tuple(share * part + 1 - share for part in to_rgb(PALETTE["text"]))
        style: dict[str, Any] = {"facecolor": shade} if free[row, column] else {"facecolor": "white", "hatch": "////"}
        axes.add_patch(Rectangle((x, y), cell - 2, cell - 2, edgecolor=PALETTE["text"], linewidth=0.6, **style))
        if free[row, column]:
            _write(axes, x + cell / 2 - 1, y + cell / 2 - 1, f"{values[row, column]:.2f}")
    most = [f"{word} looks most at {words[int(values[row].argmax())]}" for row, word in enumerate(words)]
    figure.set_label(alt or f"Attention of {len(words)} words, what lies ahead hatched: {'; '.join(most)}")
    return figure


def surprise(tokens: Sequence[str], losses: Mapping[str, Sequence[float]], floor: Sequence[float], alt: str) -> Figure:
    """How surprising each token of a sentence was (nats), a bar for each of at most three `losses`; an ink line marks
    the `floor`, the least that anyone can reach who does not know the future. Raises ValueError if lengths differ."""
    names = list(losses)
    if not 1 <= len(names) <= 3 or any(len(losses[name]) != len(tokens) for name in names) or len(floor) != len(tokens):
        raise ValueError(f"one to three losses and a floor for each of {len(tokens)} tokens")
    styles: list[dict[str, Any]] = [
        {"facecolor": PALETTE["text"], "edgecolor": PALETTE["text"]},
        {"facecolor": PALETTE["wrong"], "edgecolor": PALETTE["wrong"]},
        {"facecolor": PALETTE["paper"], "edgecolor": PALETTE["wrong"], "hatch": "////"},
    ]
    bar = 22.0 if len(names) == 1 else 15.0
    column, left, base, high = max(58.0, bar * len(names) + 18), 54.0, 236.0, 180.0
    most = max(max(floor), *(max(losses[name]) for name in names))
    scale = high / max(math.ceil(most), 1)
    figure, axes = _sheet(left + column * len(tokens) + _MARGIN, base + 40)
    for level in range(0, math.ceil(most) + 1, 1 if most <= 6 else 2):
        y = base - scale * level
        axes.plot([left, left + column * len(tokens)], [y, y], color=_tint("text"), linewidth=0.8, zorder=0)
        _write(axes, left - 8, y, f"{level}", ha="right")
    _write(axes, 14, base - high / 2, "nats", rotation=90)
    for number, name in enumerate(names):
        axes.add_patch(Rectangle((left + 250 * number, 14), 12, 12, **styles[number]))
        _write(axes, left + 250 * number + 18, 20, name, ha="left")
    axes.plot([left + 250 * len(names)] * 2, [12, 28], color=PALETTE["ink"], linewidth=2.4)
    _write(axes, left + 250 * len(names) + 8, 20, "floor", ha="left")
    for index, token in enumerate(tokens):
        middle = left + column * (index + 0.5)
        _write(axes, middle, base + 14, _visible(token), fontfamily="DejaVu Sans Mono", fontsize=7)
        for number, name in enumerate(names):
            x, tall = middle + bar * (number - len(names) / 2), scale * max(losses[name][index], 0.0)
            axes.add_patch(Rectangle((x, base - tall), bar - 2, tall, **styles[number]))
        if floor[index]:
            y, reach = base - scale * floor[index], bar * len(names) / 2 + 5
            axes.plot([middle - reach, middle + reach], [y, y], color=PALETTE["ink"], linewidth=2.4)
    figure.set_label(alt)
    return figure


def pair_grid() -> Figure:
    """Every colour with every shape; the held-out pairs, which training never shows, framed and hatched."""
    crop, left, top = 64, 76.0, 40.0
    step = crop + 8
    figure, axes = _sheet(left + step * len(SHAPES) + _MARGIN, top + step * len(COLORS) + _MARGIN)
    for column, shape in enumerate(SHAPES):
        _write(axes, left + step * column + crop / 2, top - 14, shape)
    for row, color in enumerate(COLORS):
        _write(axes, left - 12, top + step * row + crop / 2, color, ha="right")
        for column, shape in enumerate(SHAPES):
            x, y = left + step * column, top + step * row
            corner = np.asarray(draw(Scene("white", (Thing("top left", color, shape, "large"),))))[:32, :32]
            extent = (x, x + crop, y + crop, y)
            axes.imshow(corner, extent=extent, interpolation="nearest", aspect="auto")
            if (color, shape) in HELD_OUT_PAIRS:
                style: dict[str, Any] = {"edgecolor": PALETTE["ink"], "linewidth": 1.6, "hatch": "//"}
                axes.add_patch(Rectangle((x, y), crop, crop, fill=False, **style))
            else:
                axes.add_patch(Rectangle((x, y), crop, crop, fill=False, edgecolor=PALETTE["text"], linewidth=0.5))
    never = ", ".join(f"{color} {shape}" for color in COLORS for shape in SHAPES if (color, shape) in HELD_OUT_PAIRS)
    figure.set_label(f"A grid of {len(COLORS)} colours and {len(SHAPES)} shapes; hatched, never in training: {never}")
    return figure
