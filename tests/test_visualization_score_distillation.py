"""Figures of notebook 04: what is drawn is what was given, and nothing is shown without alt text."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib.colors as mcolors
import numpy as np
import pytest
import torch
from matplotlib.quiver import Quiver

from minidream.visualization import PALETTE, film_strip
from minidream.visualization.score_distillation import Plot, arrow_field, bars, clouds, curves, frame

CENTRES = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])


def test_the_longest_arrow_of_each_panel_is_a_third_of_the_reach():
    places = torch.tensor([[0.0, 0.0], [0.5, 0.5]])
    fields = {"a": torch.tensor([[0.3, -0.4], [30.0, 40.0]]), "b": torch.tensor([[0.0, 1.0], [2.0, 0.0]])}
    figure = arrow_field(places, fields, dict.fromkeys(fields, CENTRES), reach=3, alt="arrows")
    quivers = [each for axes in figure.axes for each in axes.get_children() if isinstance(each, Quiver)]
    for quiver, field, longest in zip(quivers, fields.values(), (50, 2), strict=True):
        np.testing.assert_allclose(np.stack([quiver.U, quiver.V]).T, field)
        assert quiver.scale == pytest.approx(longest)  # so it is drawn 1 long
    assert figure.axes[0].get_title() == "a" and figure.get_label() == "arrows"


def test_clouds_show_every_point_and_the_path_that_leads_to_it():
    points = torch.tensor([[0.1, 0.2], [0.3, 0.4], [1.0, 1.0]])
    path = torch.stack([torch.zeros(3, 2), points])
    figure = clouds({"plain": points, "walked": points}, CENTRES, {"walked": path}, alt="clouds")
    plain, walked = figure.axes
    np.testing.assert_allclose(plain.collections[0].get_offsets(), points)
    assert len(plain.lines) == 1 and len(walked.lines) == 4  # the crosses, and three paths
    np.testing.assert_allclose(walked.lines[-1].get_xydata(), path[:, 2])
    (ringed,) = clouds({"plain": points}, CENTRES, ring=0.5, alt="clouds").axes
    assert [patch.get_radius() for patch in ringed.patches] == [0.5, 0.5] and not plain.patches


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
    assert [words.get_text() for words in figure.axes[0].get_legend().get_texts()] == ["before"]


def test_frames_stand_round_the_pictures_that_are_named():
    figure = frame(film_strip([np.zeros((8, 8, 3), np.uint8)] * 3, ["a", "b", "c"]), [1])
    assert [patch.get_linewidth() for patch in figure.axes[0].patches] == [0.5, 3, 0.5]


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
