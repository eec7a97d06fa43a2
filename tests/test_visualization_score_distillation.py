"""Figures of notebook 04: what is drawn is what was given, and nothing is shown without alt text."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib.colors as mcolors
import numpy as np
import pytest
import torch
from matplotlib.quiver import Quiver

from minidream.visualization import PALETTE
from minidream.visualization.score_distillation import Plot, arrow_field, bars, clouds, curves

CENTRES = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])


def test_arrows_of_all_panels_are_drawn_to_one_scale():
    places = torch.tensor([[0.0, 0.0], [0.5, 0.5]])
    fields = {"a": torch.tensor([[0.3, -0.4], [30.0, 40.0]]), "b": torch.tensor([[0.0, 1.0], [2.0, 0.0]])}
    figure = arrow_field(places, fields, dict.fromkeys(fields, CENTRES), reach=3, alt="arrows")
    quivers = [each for axes in figure.axes for each in axes.get_children() if isinstance(each, Quiver)]
    for quiver, field in zip(quivers, fields.values(), strict=True):
        np.testing.assert_allclose(np.stack([quiver.U, quiver.V]).T, field)
        assert quiver.scale == pytest.approx(50)  # the longest arrow, of 50, is 1 long: a third of the reach
    assert figure.axes[0].get_title() == "a" and figure.get_label() == "arrows"


def test_clouds_show_every_point_and_the_path_that_leads_to_it():
    points = torch.tensor([[0.1, 0.2], [0.3, 0.4], [1.0, 1.0]])
    path = torch.stack([torch.zeros(3, 2), points])
    figure = clouds({"plain": points, "walked": points}, CENTRES, {"walked": path}, alt="clouds")
    plain, walked = figure.axes
    np.testing.assert_allclose(plain.collections[0].get_offsets(), points)
    assert len(plain.lines) == 1 and len(walked.lines) == 4  # the crosses, and three paths
    np.testing.assert_allclose(walked.lines[-1].get_xydata(), path[:, 2])


def test_curves_differ_in_dash_too_and_have_a_plot_each():
    lines = {"one": ([1, 2], [3, 4]), "two": ([1, 2], torch.tensor([5.0, 6.0]))}
    figure = curves({"left": Plot(lines, "t", "w", logarithmic=True), "right": Plot(lines, "t", "w")}, alt="curves")
    left, right = figure.axes
    assert (left.get_yscale(), right.get_yscale()) == ("log", "linear")
    assert len({line.get_linestyle() for line in left.lines}) == 2
    np.testing.assert_allclose(left.lines[1].get_ydata(), [5, 6])


def test_marked_bars_are_orange_and_the_first_is_on_top():
    figure = bars({"star": 0.5, "ring": 0.1}, "cosine", marked=["star"], alt="bars")
    first, second = figure.axes[0].patches
    assert mcolors.to_hex(first.get_facecolor()) == PALETTE["diffusion"] and first.get_hatch() is None
    assert second.get_hatch() == "///" and first.get_width() == 0.5
    assert figure.axes[0].yaxis_inverted() and not figure.axes[0].lines


def test_a_stroke_marks_what_a_value_was_before():
    figure = bars({"star": 0.5, "ring": 0.1}, "cosine", before={"ring": 0.3, "star": 0.2}, alt="bars")
    assert [list(line.get_xdata()) for line in figure.axes[0].lines] == [[0.2, 0.2], [0.3, 0.3]]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: arrow_field(CENTRES, {"a": CENTRES}, {"a": CENTRES}),
        lambda: clouds({"a": CENTRES}, CENTRES),
        lambda: curves({"a": Plot({}, "x", "y")}),
        lambda: bars({"a": 1.0}, "x"),
    ],
)
def test_nothing_is_shown_without_alt_text(draw: Callable[[], object]):
    with pytest.raises(ValueError, match="say in words"):
        draw()
