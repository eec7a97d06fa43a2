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


def test_arrows_keep_their_direction_and_long_ones_are_cut():
    places = torch.tensor([[0.0, 0.0], [0.5, 0.5]])
    figure = arrow_field(places, {"a": torch.tensor([[0.3, -0.4], [30.0, 40.0]])}, {"a": CENTRES}, alt="two arrows")
    (quiver,) = [each for each in figure.axes[0].get_children() if isinstance(each, Quiver)]
    np.testing.assert_allclose(np.stack([quiver.U, quiver.V]).T, [[0.3, -0.4], [0.6, 0.8]], atol=1e-6)
    assert figure.axes[0].get_title() == "a" and figure.get_label() == "two arrows"


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
    assert figure.axes[0].yaxis_inverted()


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
