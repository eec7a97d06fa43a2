"""Live controls for notebooks: a slider that redraws a picture.

What is shown is made by a pure function of the slider's value, so the same states can stand beside it as a static
figure, for readers without a kernel. Used in notebook 00.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import ipywidgets as widgets
from matplotlib.figure import Figure

from minidream.visualization.figures import to_png


def slider(description: str, values: Sequence[Any], draw: Callable[[Any], Figure], start: Any = None) -> widgets.VBox:
    """A slider over `values` above the figure that `draw` makes of one; each is drawn once, when first asked for.

    `.children` are the slider, the picture, and a label with the figure's alt text. Raises ValueError if there are no
    values or `start` is none of them.
    """
    if not values or (start is not None and start not in values):
        raise ValueError(f"a slider starts at one of its values {list(values)}, not {start!r}")

    @cache
    def drawn(value: Any) -> tuple[bytes, str]:
        figure = draw(value)
        return to_png(figure), str(figure.get_label())

    control = widgets.SelectionSlider(
        options=list(values), value=values[0] if start is None else start, description=description,
        continuous_update=False, style={"description_width": "initial"},
    )  # fmt: skip
    picture, label = widgets.Image(format="png"), widgets.Label()

    def show(_: Any = None) -> None:
        picture.value, label.value = drawn(control.value)

    control.observe(show, names="value")
    show()
    return widgets.VBox([control, picture, label])
