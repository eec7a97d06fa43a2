"""One visual language for every figure.

Text grey, image patches blue, dream queries violet, diffusion orange: the world's own colours, told apart by
lightness too. Trained parts are solid, frozen ones hatched. A verdict is a mark *and* a word. Pictures stand at four
times their size, nearest neighbour. Sheets are opaque, so that they read in dark mode, and measured in pixels.
Used in every notebook.
"""

from __future__ import annotations

import base64
import io
import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from PIL import Image

from minidream.world.scene import BACKGROUNDS, COLORS

PALETTE: dict[str, str] = {
    name: "#{:02x}{:02x}{:02x}".format(*color)
    for name, color in {
        "text": BACKGROUNDS["grey"],
        "patch": COLORS["blue"],
        "query": (136, 84, 196),
        "diffusion": COLORS["orange"],
        "right": COLORS["green"],
        "wrong": COLORS["red"],
        "ink": (34, 34, 34),
        "paper": (255, 255, 255),
    }.items()
}
ZOOM = 4  # one pixel of a picture becomes 4 x 4 pixels of the figure
_DPI, _MARGIN, _LINE, _LETTER = 100, 16, 17, 6.6  # dots per inch; then pixels: rim, line of text, width of a letter
_FONT = 8.5  # points


def _sheet(width: float, height: float) -> tuple[Figure, Axes]:
    """An opaque figure whose only axes are measured in pixels from the top left."""
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor=PALETTE["paper"])
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0), autoscale_on=False)
    axes.axis("off")
    return figure, axes


def _write(axes: Axes, x: float, y: float, words: str, color: str = "ink", **style: Any) -> None:
    axes.text(x, y, words, **{"color": PALETTE[color], "fontsize": _FONT, "ha": "center", "va": "center", **style})


def _tint(kind: str) -> tuple[float, ...]:
    """A light version of a colour, on which ink can be read."""
    return tuple(0.3 * part + 0.7 for part in to_rgb(PALETTE[kind]))


def to_png(figure: Figure) -> bytes:
    """A figure as PNG, opaque, at its own size."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=PALETTE["paper"], metadata={"Software": None})
    return buffer.getvalue()


def show(figure: Figure, alt: str | None = None) -> None:
    """Display a figure in Jupyter with alt text, its own if none is given; the text is also what nbval compares.

    Raises ValueError when there is no alt text: a picture that only some readers can see is not finished.
    """
    alt = alt or str(figure.get_label())
    if not alt:
        raise ValueError("say in words what the figure shows: show(figure, alt='...')")
    from IPython.display import display

    data = {"image/png": base64.b64encode(to_png(figure)).decode(), "text/plain": f"Figure: {alt}"}
    display(data, raw=True, metadata={"image/png": {"alt": alt}})


def _number(value: float) -> str:
    """Three significant digits, at most three decimals, always a point: a float to nbval's tolerance."""
    if not math.isfinite(value):
        return str(value)
    decimals = min(3, max(1, 2 - math.floor(math.log10(abs(value))))) if value else 1
    return f"{round(value, decimals) + 0.0:.{decimals}f}"  # + 0.0: never "-0.0"


def digest(array: Any) -> str:
    """Shape, mean, standard deviation, smallest and largest of an array, tensor or picture, rounded.

    Stands beside every figure that carries a result: pixels are never compared, this line is.
    """
    values = np.asarray(array.detach().cpu().float() if hasattr(array, "detach") else array)
    shape = f"shape {tuple(int(side) for side in values.shape)}"
    if not values.size:
        return f"{shape}, empty"
    values = values.astype(np.float64)
    parts = {"mean": values.mean(), "std": values.std(), "min": values.min(), "max": values.max()}
    return ", ".join([shape, *(f"{name} {_number(float(value))}" for name, value in parts.items())])


def _pixels(picture: Any) -> np.ndarray:
    """A picture, uint8 array (H, W, 3) or uint8 tensor (3, H, W) as an array (H, W, 3)."""
    if isinstance(picture, Image.Image):
        return np.asarray(picture.convert("RGB"))
    values = picture.detach().cpu().permute(1, 2, 0).numpy() if hasattr(picture, "detach") else np.asarray(picture)
    if values.dtype != np.uint8 or values.ndim != 3 or values.shape[2] != 3:
        raise ValueError(f"a picture is uint8 (H, W, 3), not {values.dtype} {values.shape}")
    return values


def film_strip(
    pictures: Sequence[Any],
    captions: Sequence[str],
    verdicts: Sequence[bool | None] | None = None,
    alt: str = "",
    columns: int = 4,
) -> Figure:
    """Pictures in reading order, captions under them, and the reader's verdicts: "right", "wrong" or (None) nothing.

    Pictures of one size: PIL, uint8 array (H, W, 3) or uint8 tensor (3, H, W). Without `alt`, the captions are the alt
    text. Raises ValueError if the lengths differ or there is no picture.
    """
    verdicts = verdicts if verdicts is not None else [None] * len(pictures)
    if not pictures or not len(pictures) == len(captions) == len(verdicts):
        raise ValueError(f"{len(pictures)} pictures, {len(captions)} captions, {len(verdicts)} verdicts: one of each")
    frames = [_pixels(picture) for picture in pictures]
    high, wide = (ZOOM * side for side in frames[0].shape[:2])
    told = [textwrap.wrap(caption, max(8, int(wide / _LETTER))) for caption in captions]
    words = [None if verdict is None else ("right" if verdict else "wrong") for verdict in verdicts]
    under = _LINE * (max(map(len, told)) + any(words)) + _MARGIN  # what stands under each picture
    columns = min(columns, len(frames))
    rows = -(-len(frames) // columns)
    figure, axes = _sheet(columns * (wide + _MARGIN) + _MARGIN, rows * (high + under) + _MARGIN)
    for index, (frame, lines, word) in enumerate(zip(frames, told, words)):
        left = _MARGIN + index % columns * (wide + _MARGIN)
        top = _MARGIN + index // columns * (high + under)
        axes.imshow(frame, extent=(left, left + wide, top + high, top), interpolation="nearest", aspect="auto")
        axes.add_patch(Rectangle((left, top), wide, high, fill=False, edgecolor=PALETTE["text"], linewidth=0.5))
        for number, line in enumerate(lines):
            _write(axes, left + wide / 2, top + high + _LINE * (number + 0.7), line)
        if word:
            mark = "\N{CHECK MARK}" if word == "right" else "\N{BALLOT X}"
            below = top + high + _LINE * (len(lines) + 0.7)
            _write(axes, left + wide / 2, below, f"{mark} {word}", word, weight="bold")
    spoken = [f"{caption} ({word})" if word else caption for caption, word in zip(captions, words)]
    figure.set_label(alt or f"{len(frames)} picture{'s' * (len(frames) > 1)}: {'; '.join(spoken)}")
    return figure


_SPECIAL = {"<dream>": "query", "<dream_end>": "query", "<im_start>": "patch", "<im_end>": "patch"}


def token_ribbon(
    tokens: Sequence[str], queries: Sequence[Any], patches: Sequence[Any], learned: Sequence[Any] | None = None,
    width: int = 960, alt: str = "",
) -> Figure:  # fmt: skip
    """A sequence of L tokens as coloured cells: text grey, patches blue (p), dream queries violet (q).

    `queries`, `patches` and `learned` are masks (L,), such as a batch's `query_mask[0]`, `patch_mask[0]` and
    `labels[0] != -100`; learned tokens, those in the language loss, have a dot. Raises ValueError if lengths differ.
    """
    marks = learned if learned is not None else [False] * len(tokens)
    if not tokens or not len(tokens) == len(queries) == len(patches) == len(marks):
        raise ValueError(f"{len(tokens)} tokens, {len(queries)} queries, {len(patches)} patches, {len(marks)} learned")
    cells: list[tuple[str, str, float, float, float]] = []  # words, kind, x, y, width
    x, y, row = float(_MARGIN), float(_MARGIN), 34.0
    for token, query, patch in zip(tokens, queries, patches):
        kind = "query" if query else "patch" if patch else _SPECIAL.get(token, "text")
        # Byte-level tokenizers write a space as \u0120 and a line break as \u010a.
        words = "q" if query else "p" if patch else token.replace("\u0120", "\u2423").replace("\u010a", "\u23ce")
        span = _LETTER * len(words) + 8
        if x + span > width - _MARGIN:
            x, y = float(_MARGIN), y + row
        cells.append((words, kind, x, y, span))
        x += span + 2
    figure, axes = _sheet(width, y + row + _LINE + _MARGIN)
    for (words, kind, left, top, span), mark in zip(cells, marks):
        axes.add_patch(Rectangle((left, top), span, 20, facecolor=_tint(kind), edgecolor=PALETTE[kind]))
        _write(axes, left + span / 2, top + 10, words, fontfamily="DejaVu Sans Mono", fontsize=7.5)
        if mark:
            axes.plot(left + span / 2, top + 25, "o", color=PALETTE["ink"], markersize=3)
    keys = {"text": "text", "query": "dream block (to create)", "patch": "image block (to see)"}
    present = [kind for kind in keys if any(cell[1] == kind for cell in cells)]
    for number, kind in enumerate(present):
        left = _MARGIN + 190 * number
        axes.add_patch(Rectangle((left, y + row + 4), 12, 12, facecolor=_tint(kind), edgecolor=PALETTE[kind]))
        _write(axes, left + 20, y + row + 10, keys[kind], ha="left")
    counts = f"{sum(map(bool, queries))} dream queries, {sum(map(bool, patches))} image patches"
    if any(marks):
        _write(axes, _MARGIN + 190 * len(present), y + row + 10, "\N{BULLET} in the language loss", ha="left")
        counts += f", {sum(map(bool, marks))} in the language loss"
    figure.set_label(alt or f"A sequence of {len(tokens)} tokens: {counts}")
    return figure


def _box(axes: Axes, x: float, y: float, kind: str, title: str, shape: str, part: Any = None) -> None:
    """A part of the model around (x, y): hatched: all its parameters are frozen; solid: one is trained; white: data."""
    parameters = [] if part is None else list(part.parameters()) if hasattr(part, "parameters") else [part]
    count = sum(parameter.numel() for parameter in parameters)
    trained = any(parameter.requires_grad for parameter in parameters)
    face, hatch = _tint(kind) if trained else PALETTE["paper"], "////" if count and not trained else ""
    style: dict[str, Any] = {"facecolor": face, "hatch": hatch}
    axes.add_patch(Rectangle((x - 88, y - 34), 176, 68, edgecolor=PALETTE[kind], linewidth=1.6, **style))
    size = f"{count:,} {'trained' if trained else 'frozen'}" if count else ""
    words = "\n".join(line for line in (title, shape, size) if line)
    patch = {"facecolor": PALETTE["paper"] if hatch else "none", "edgecolor": "none", "pad": 2}
    _write(axes, x, y, words, bbox=patch, linespacing=1.35)


def _arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str = "ink", dashes: str = "-"
) -> None:
    # No shrinking: the ends are given where the boxes' edges are.
    style: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 12, "shrinkA": 0, "shrinkB": 0}
    axes.add_patch(FancyArrowPatch(start, end, color=PALETTE[color], linestyle=dashes, **style))


def architecture(model: Any, alt: str = "", losses: bool = False) -> Figure:
    """The parts of a `MiniDream` and what flows between them, with the live model's own shapes and parameter counts.

    Seen on the left (picture to patches to words), created on the right (dream queries to condition to picture).
    With `losses`, dashed, the way back of each loss's gradient to the parts that stage I trains, where a document has
    either a picture to see or one to dream.
    """
    eye, hand, language = model.vision, model.decoder, model.llm.config
    queries, width = (int(side) for side in model.dream_queries.shape)
    seeing, telling = model.visual_projector, model.condition_projector
    unet = hand.unet.config
    side, patches = eye.config.image_size, eye.num_patches
    figure, axes = _sheet(960, 400)
    left, middle, right = 110, 480, 850
    _box(axes, left, 350, "patch", "picture", f"3 x {side} x {side}")
    _box(axes, left, 240, "patch", "vision encoder", f"P x {seeing.in_features} (P = {patches})", eye)
    _box(axes, left, 130, "patch", "visual projector", f"P x {seeing.out_features}", seeing)
    _box(axes, middle, 240, "query", "dream queries", f"Q x {width} (Q = {queries})", model.dream_queries)
    _box(axes, middle, 350, "text", "words", f"vocabulary {language.vocab_size}")
    title = f"language model, {language.num_hidden_layers} layers"
    _box(axes, middle, 130, "text", title, f"L x {language.hidden_size}", model.llm)
    _box(axes, middle, 44, "text", "next word", "or <dream>")
    _box(axes, right, 130, "query", "condition projector", f"Q x {telling.out_features}", telling)
    latents = f"{unet.in_channels} x {unet.sample_size} x {unet.sample_size}"
    _box(axes, right, 240, "diffusion", "UNet and VAE", f"latents {latents}", hand)
    _box(axes, right, 350, "diffusion", "picture", "dreamed")
    for start, end in (
        ((left, 316), (left, 274)), ((left, 206), (left, 164)), ((left + 88, 130), (middle - 88, 130)),
        ((middle - 30, 206), (middle - 30, 164)), ((middle, 96), (middle, 78)), ((middle + 88, 130), (right - 88, 130)),
        ((right, 164), (right, 206)), ((right, 274), (right, 316)),
    ):  # fmt: skip
        _arrow(axes, start, end)
    # Words go round the queries' box into the language model.
    around = [(middle + 88, 350), (middle + 120, 350), (middle + 120, 185), (middle + 60, 185)]
    axes.plot(*zip(*around), color=PALETTE["ink"], linewidth=1)
    _arrow(axes, around[-1], (middle + 60, 164))
    _write(axes, (middle + right) / 2, 116, f"{queries} hidden states")
    _write(axes, (left + middle) / 2, 116, f"{patches} embeddings")
    legend = ["solid: trained", "hatched: frozen", "white: data", *(["dashed: gradients"] if losses else [])]
    _write(axes, left, 46, "\n".join(legend), linespacing=1.4)
    if losses:
        words = [((middle + 30, 78), (middle + 30, 96)), ((middle - 88, 146), (left + 88, 146))]
        dreams = [((right + 30, 316), (right + 30, 274)), ((right + 30, 206), (right + 30, 164)),
                  ((right - 88, 146), (middle + 88, 146)), ((middle - 8, 164), (middle - 8, 206))]  # fmt: skip
        for x, y, kind, color, back in (
            (middle + 68, 87, "word", "patch", words),
            (right + 70, 295, "dream", "diffusion", dreams),
        ):
            _write(axes, x, y, f"{kind} loss", color)
            for start, end in back:
                _arrow(axes, start, end, color, "--")
    figure.set_label(
        alt
        or f"MiniDream: {patches} patches of a picture and words enter a language model of width "
        f"{language.hidden_size}; its {queries} dream queries leave as a condition of width {telling.out_features} "
        "for the image decoder"
    )
    return figure
