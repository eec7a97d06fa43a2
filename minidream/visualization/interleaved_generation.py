"""Figures of notebook 07: a stream that grows, the wish for a picture, scores; and a desk to steer a story."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Event, Thread
from typing import Any, NamedTuple

import ipywidgets as widgets
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL.Image import Image

from minidream.documents import Document
from minidream.errors import UserError
from minidream.events import Picture, Preview, collect
from minidream.visualization.figures import _LETTER, _MARGIN, PALETTE, _pixels, _sheet, _tint, _write

_BLOCKS = {"dream": "query", "image": "patch"}


class Step(NamedTuple):
    """One pass through the language model. `kind`: "text", "dream" or "image"; `label`: the word; `held`: how many
    places the cache holds after it; `picture`: what an image block shows."""

    kind: str
    label: str
    held: int
    picture: Any = None


def growth(steps: Sequence[Step], alt: str = "") -> Figure:
    """A stair: how many places the cache holds after each pass; words grey, dream blocks violet, image blocks blue.

    A finished picture stands above its image block. Raises ValueError without steps.
    """
    if not steps:
        raise ValueError("a stair needs at least one step")
    left, high, span, side = 60.0, 200.0, 22.0, 2.0 * 64
    band = side + 14 if any(step.picture is not None for step in steps) else 0.0  # above the stair, for pictures
    width = left + max(span * len(steps), side) + _MARGIN
    figure, axes = _sheet(width, _MARGIN + band + high + 110)
    most, base, before = max(step.held for step in steps), _MARGIN + band + high, 0
    for index, step in enumerate(steps):
        x, color = left + span * index, _BLOCKS.get(step.kind, "text")
        new, old = high * (step.held - before) / most, high * before / most
        axes.add_patch(Rectangle((x, base - old), span - 2, old, facecolor="#f0f0f0", edgecolor="none"))
        box = Rectangle((x, base - old - new), span - 2, new, facecolor=_tint(color), edgecolor=PALETTE[color])
        axes.add_patch(box)
        words = step.label if step.kind == "text" else f"+{step.held - before} {step.kind} block"
        _write(axes, x + span / 2, base + 6, words, rotation=90, va="top", fontsize=8)
        if step.picture is not None:
            middle = x + span / 2 - 1
            corner = min(max(left, middle - side / 2), width - _MARGIN - side)
            extent = (corner, corner + side, _MARGIN + side, _MARGIN)
            axes.imshow(_pixels(step.picture), extent=extent, interpolation="nearest", aspect="auto")
            frame = Rectangle((corner, _MARGIN), side, side, fill=False, edgecolor=PALETTE["patch"])
            axes.add_patch(frame)
            axes.plot([middle] * 2, [_MARGIN + side, base - old - new], color=PALETTE["patch"], linewidth=1)
        before = step.held
    for share in (0, 0.5, 1):
        _write(axes, left - 8, base - share * high, f"{round(share * most)}", ha="right")
    _write(axes, 14, base - high / 2, "places in the cache", rotation=90)
    counts = {kind: sum(step.kind == kind for step in steps) for kind in ("text", "dream", "image")}
    said = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    figure.set_label(alt or f"A stair of {len(steps)} passes ({said}) up to {most} places in the cache")
    return figure


class Beat(NamedTuple):
    """A token (or a whole picture) of a document, and the chance of <dream> as the token after it."""

    token: str
    chance: float
    picture: Any = None


def wish(beats: Sequence[Beat], width: int = 960, alt: str = "") -> Figure:
    """The chance of `<dream>` after each token: a violet bar over it; pictures stand where the document has them.

    Raises ValueError without tokens, or if a chance is not from 0 to 1.
    """
    if not beats or not all(0 <= beat.chance <= 1 for beat in beats):
        raise ValueError("a wish needs tokens, each with a chance from 0 to 1")
    bar, side = 56.0, 64.0
    row, x, y = bar + 50, float(_MARGIN), float(_MARGIN)
    cells: list[tuple[Beat, str, float, float, float]] = []
    for beat in beats:
        words = beat.token.replace("\u0120", "\u2423").replace("\u010a", "\u23ce")
        span = side if beat.picture is not None else max(_LETTER * len(words) + 8, 16)
        if x + span > width - _MARGIN:
            x, y = float(_MARGIN), y + row
        cells.append((beat, words, x, y, span))
        x += span + 3
    figure, axes = _sheet(width, y + row + _MARGIN)
    for beat, words, left, top, span in cells:
        base = top + bar
        if beat.picture is not None:
            extent = (left, left + side, base + 22, base + 22 - side)
            axes.imshow(_pixels(beat.picture), extent=extent, interpolation="nearest", aspect="auto")
            edge = Rectangle(
                (left, base + 22 - side), side, side, fill=False, edgecolor=PALETTE["patch"], linewidth=1.5
            )
            axes.add_patch(edge)
            continue
        axes.plot([left, left + span], [base, base], color=PALETTE["text"], linewidth=0.5)
        tall = (bar - 12) * beat.chance
        axes.add_patch(Rectangle((left, base - tall), span, tall, facecolor=PALETTE["query"], edgecolor="none"))
        _write(axes, left + span / 2, base - tall - 6, f"{100 * beat.chance:.0f}", fontsize=7, color="query")
        axes.add_patch(Rectangle((left, base + 3), span, 19, facecolor=_tint("text"), edgecolor=PALETTE["text"]))
        _write(axes, left + span / 2, base + 12.5, words, fontfamily="DejaVu Sans Mono", fontsize=7.5)
    figure.set_label(alt or f"The chance of <dream> after each of {len(beats)} parts of a document")
    return figure


def dependence(moved: Any, rows: Sequence[str], columns: Sequence[str], alt: str = "") -> Figure:
    """A table of numbers (rows, columns) from 0 up as violet cells, the darker the larger; what is 0 stays white.

    Raises ValueError without alt text, or if names and numbers differ in length.
    """
    if not alt:
        raise ValueError("say in words what depends on what: alt='...'")
    values = moved.tolist() if hasattr(moved, "tolist") else moved
    if len(values) != len(rows) or any(len(row) != len(columns) for row in values):
        raise ValueError(f"{len(rows)} x {len(columns)} names for another number of cells")
    left, wide, high = max(map(len, rows)) * _LETTER + 2 * _MARGIN, 110.0, 30.0
    figure, axes = _sheet(left + wide * len(columns) + _MARGIN, high * (len(rows) + 1) + 2 * _MARGIN)
    most = max(max(row) for row in values) or 1.0
    for column, name in enumerate(columns):
        _write(axes, left + wide * (column + 0.5), _MARGIN + high / 2, name, weight="bold")
    for row, name in enumerate(rows):
        y = _MARGIN + high * (row + 1)
        _write(axes, left - 10, y + high / 2, name, ha="right")
        for column, value in enumerate(values[row]):
            zero = value == 0  # exactly: what cannot matter
            share = 0.0 if zero else 0.25 + 0.75 * value / most
            box = (left + wide * column, y)
            style: dict[str, Any] = {"facecolor": PALETTE["query"], "alpha": share, "edgecolor": "none"}
            axes.add_patch(Rectangle(box, wide - 2, high - 2, **style))
            axes.add_patch(Rectangle(box, wide - 2, high - 2, fill=False, edgecolor=PALETTE["text"], linewidth=0.5))
            ink = "paper" if share > 0.7 else "ink"
            words = "0" if zero else f"{value:.2f}" if value >= 0.005 else "<0.01"
            _write(axes, box[0] + wide / 2, y + high / 2, words, color=ink)
    figure.set_label(alt)
    return figure


def scores(rows: Mapping[str, Mapping[str, float]], marked: Sequence[str] = (), alt: str = "") -> Figure:
    """Shares with their intervals, a row each: `{name: {"mean", "low", "high", "n"}}`; the `marked` rows solid violet,
    the others grey and hatched. A row with no more than a "mean" is known, not measured: it has no interval.

    Raises ValueError without alt text.
    """
    if not alt:
        raise ValueError("say in words what the scores show: alt='...'")
    left, row, long = max(map(len, rows)) * _LETTER + 2 * _MARGIN, 28.0, 420.0
    figure, axes = _sheet(left + long + 120, row * len(rows) + 2 * _MARGIN + 20)
    for index, (name, leaf) in enumerate(rows.items()):
        y, solid = _MARGIN + row * index, name in marked
        _write(axes, left - 8, y + 10, name, ha="right")
        axes.plot([left, left + long], [y + 20] * 2, color=PALETTE["text"], linewidth=0.4)  # a row, also where it is 0
        style: dict[str, Any] = {"facecolor": PALETTE["query"]} if solid else {"facecolor": "none", "hatch": "////"}
        edge = PALETTE["query" if solid else "text"]
        axes.add_patch(Rectangle((left, y), long * leaf["mean"], 20, edgecolor=edge, **style))
        if "n" in leaf:
            axes.plot([left + long * leaf["low"], left + long * leaf["high"]], [y + 10] * 2, "|-", color=PALETTE["ink"])
            counted = f"{round(leaf['mean'] * leaf['n'])} of {leaf['n']:.0f}"
        else:
            counted = f"{leaf['mean']:.2f}"
        _write(axes, left + long + 12, y + 10, counted, ha="left")
    base = _MARGIN + row * len(rows)
    for share in (0, 0.5, 1):
        axes.plot([left + long * share] * 2, [_MARGIN - 4, base], color=PALETTE["text"], linewidth=0.6, zorder=0)
        _write(axes, left + long * share, base + 10, f"{share:g}")
    figure.set_label(alt)
    return figure


class Desk(widgets.VBox):
    """A story that reader and model write in turn. `story` is the document so far, `own` which of its parts the model
    made, so that its pictures stand there as they did when it drew them."""

    def __init__(self, pipe: Any, opening: str, **sampling: Any) -> None:
        """`sampling`: options for the model's turns; seed and temperature have controls of their own."""
        self.pipe, self.sampling = pipe, sampling
        self.story, self.own = Document([opening]), frozenset[int]()
        self._before: list[tuple[Document, frozenset[int]]] = []
        self._turn, self._stopped = Thread(), Event()
        self.sentence = widgets.Text(description="sentence", placeholder="The circle turns green.")
        self.seed = widgets.BoundedIntText(description="seed", max=999, value=0)
        self.temperature = widgets.FloatSlider(description="temperature", max=1.5, step=0.25)
        self.say, self.go_on, self.stop, self.back = (
            widgets.Button(description=words) for words in ("say it", "model, go on", "stop", "take back")
        )
        self.page, self.label = widgets.HTML(description=""), widgets.Label()
        self.say.on_click(lambda _: self._say())
        self.go_on.on_click(lambda _: self._go_on())
        self.stop.on_click(lambda _: self._stopped.set())
        self.back.on_click(lambda _: self._take_back())
        rows = ([self.sentence, self.say], [self.seed, self.temperature], [self.go_on, self.stop, self.back])
        super().__init__([*map(widgets.HBox, rows), self.label, self.page])
        self._show()

    def wait(self) -> None:
        """Until the model's turn is over."""
        if self._turn.ident:
            self._turn.join()

    def _show(self, writing: bool = False, preview: Image | None = None) -> None:
        shown = self.story if preview is None else self.story + Document([preview])
        self.page.value = shown._repr_html_()
        self.label.value = f"{len(self.story.texts)} texts, {len(self.story.pictures)} pictures"
        for button in (self.say, self.go_on, self.back):
            button.disabled = writing
        self.stop.disabled = not writing

    def _say(self) -> None:
        words = self.sentence.value.strip()
        if words:
            self._before.append((self.story, self.own))
            space = " " if isinstance(self.story[-1], str) else ""
            self.story, self.sentence.value = self.story + Document([space + words]), ""
        self._show()

    def _go_on(self) -> None:
        """The model goes on until it has drawn a picture, ends, or is stopped. It works in a thread of its own: while a
        kernel is busy with one button, it hears of no other."""
        self._before.append((self.story, self.own))
        self._stopped.clear()
        self._show(writing=True)
        self._turn = Thread(target=self._write, daemon=True)
        self._turn.start()

    def _write(self) -> None:
        begun, own = self._before[-1]
        self.story, given = Document(begun.parts), set(range(len(begun))) - own
        options = {"preview_every": 4, **self.sampling, "seed": self.seed.value, "temperature": self.temperature.value}
        problem = ""
        try:
            for event in self.pipe.stream([begun], prompt_parts=[given], **options):
                if self._stopped.is_set():
                    break
                collect(self.story, event)
                self._show(writing=True, preview=event.image if isinstance(event, Preview) else None)
                if isinstance(event, Picture):
                    break
        except UserError as error:
            problem = str(error)
        self.own = own | frozenset(range(len(begun), len(self.story)))
        self._show()
        self.label.value = problem or self.label.value

    def _take_back(self) -> None:
        if self._before:
            self.story, self.own = self._before.pop()
        self._show()
