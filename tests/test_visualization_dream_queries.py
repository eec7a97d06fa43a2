"""Notebook 05: its figures show what they are given, and what it says of a grid of runs is counted from the runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from minidream.teaching import dream_queries as lesson
from minidream.visualization.dream_queries import Comparison, Measured, atlas, comparisons, grid, heat, route
from minidream.world.draw import draw
from minidream.world.scene import Scene, Thing

STAR, RING = Thing("top left", "red", "star", "large"), Thing("bottom right", "blue", "ring", "small")


def images(figure):
    return [np.asarray(image.get_array()) for image in figure.axes[0].images]


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_a_route_shows_the_picture_and_every_stage():
    stage = torch.arange(12.0).view(4, 3)
    figure = route(draw(Scene("white", (STAR,))), {"patches": stage}, alt="a picture and its patches")
    picture, rows = images(figure)
    assert picture.shape == (64, 64, 3) and np.array_equal(rows, stage)
    assert {"0", "3", "4 squares", "patches: 4 x 3"} <= set(texts(figure)) and figure.get_label()
    with pytest.raises(ValueError, match="one for each square"):
        route(draw(Scene("white", (STAR,))), {"patches": torch.zeros(5, 3)}, alt="x")


def test_an_atlas_has_a_row_each_label_on_one_scale():
    maps = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) / 2
    picture = draw(Scene("white", (STAR,)))
    figure = atlas(maps, ["first", "second"], alt="maps", pictures=[picture, picture])
    shown = [image for image in images(figure) if image.ndim == 2]
    assert len(shown) == 7 and np.allclose(shown[4], maps[1, 1])  # six maps and the scale
    scales = {image.get_clim() for image in figure.axes[0].images if np.asarray(image.get_array()).ndim == 2}
    assert len(scales) == 1 and scales.pop() == pytest.approx((0, float(maps.max())))
    assert {"0", "1/3", f"{maps.max():.2f}"} <= set(texts(figure))
    with pytest.raises(ValueError, match="one of each"):
        atlas(maps, ["first"], alt="maps")


def test_a_grid_shows_every_picture_with_its_mark():
    pictures = [[draw(Scene(ground, (STAR,))) for ground in ("white", "black")]] * 2
    figure = grid(pictures, ["one", "two"], ["white", "black"], alt="a grid", marks=[["", "wrong"], ["", ""]])
    shown = images(figure)
    assert len(shown) == 4 and np.abs(shown[1].astype(int) - np.asarray(pictures[0][1])).max() <= 12
    assert texts(figure).count("wrong") == 1 and {"one", "two", "white", "black"} <= set(texts(figure))
    with pytest.raises(ValueError, match="marks are not"):
        grid(pictures, ["one", "two"], ["white", "black"], alt="a grid", marks=[["x"], ["", ""]])


def test_a_table_writes_its_numbers_and_larger_is_darker():
    figure = heat({"a": [[0.0, 1.0]], "b": [[0.5, 0.25]]}, ["row"], ["x", "y"], alt="tables")
    assert {"0.00", "1.00", "0.50", "0.25", "row"} <= set(texts(figure)) and texts(figure).count("x") == 2
    first, second = (sum(cell.get_facecolor()[:3]) for cell in figure.axes[0].patches[:2])
    assert second < first
    with pytest.raises(ValueError, match=r"a is \(1, 1\), not \(1, 2\)"):
        heat({"a": [[0.0]]}, ["row"], ["x", "y"], alt="tables")


def test_a_comparison_shows_each_seed_and_the_interval():
    lines = {"": {"4": Measured([0.2, 0.4], (0.1, 0.5)), "8": Measured([0.6])}}
    (axes,) = comparisons({"panel": Comparison("share", lines)}, alt="a panel").axes
    means, first, interval, second = axes.lines
    np.testing.assert_allclose(means.get_ydata(), [0.3, 0.6])
    np.testing.assert_allclose(first.get_ydata(), [0.2, 0.4])
    np.testing.assert_allclose(interval.get_ydata(), [0.1, 0.5])
    np.testing.assert_allclose(second.get_ydata(), [0.6])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["4", "8"]


def run(setting: str, seed: int, mean: float, loss: float):
    leaf = {"mean": mean, "low": 0.0, "high": 1.0, "n": 10}
    return {
        "setting": setting,
        "seed": seed,
        "creation": {"overall": leaf},
        "dream_loss": {"noise": loss},
        "seconds": 9.0,
    }


GRID = {"runs": [run("16", 1, 0.5, 0.2), run("16", 0, 0.3, 0.3), run("8", 0, 0.2, 0.1), run("8", 1, 0.5, 0.1)]}


def test_a_grid_is_measured_by_setting_in_the_order_of_numbers_and_seeds():
    found = lesson.measured(GRID, "creation", "overall")
    assert list(found) == ["8", "16"] and found["16"].values == [0.3, 0.5]
    assert found["16"].interval == (0.0, 1.0)  # Student's, of two seeds, is wider than shares are
    close = lesson.measured({"runs": [run("8", 0, 0.40, 0.1), run("8", 1, 0.41, 0.1)]}, "creation", "overall")
    assert close["8"].interval == pytest.approx((0.405 - 12.706 * 0.005, 0.405 + 12.706 * 0.005), abs=1e-4)
    alone = lesson.measured({"runs": GRID["runs"][:1]}, "creation", "overall")
    assert alone["16"].interval == (0.0, 1.0)  # its own
    assert lesson.measured(GRID, "seconds")["8"].values == [9.0, 9.0] and lesson.measured(GRID, "stories", "x") == {}


def test_who_leads_is_counted_seed_by_seed_and_a_draw_is_no_lead():
    said = lesson.told(lesson.measured(GRID, "creation", "overall"), "right")
    assert said == "right: 8 0.350, 16 0.400; 16 leads, alone in 1 of 2 seeds"
    fewer = {"runs": [run for run in GRID["runs"] if (run["setting"], run["seed"]) != ("16", 0)]}
    said = lesson.told(lesson.measured(fewer, "creation", "overall"), "right")
    assert said.endswith("16 leads, alone in 0 of 1 seeds")  # of seed 1, which both have
    said = lesson.told(lesson.measured(GRID, "dream_loss", "noise"), "loss", lowest=True)
    assert said.endswith("8 leads, alone in 2 of 2 seeds")


def test_regions_share_out_a_picture_and_lie_where_the_things_do():
    found = lesson.regions([Scene("grey", (STAR, RING))], 8)
    assert torch.equal(sum(mask.int() for mask in found.values()), torch.ones(1, 8, 8, dtype=torch.int))
    first, second, _, empty = (mask[0] for mask in found.values())
    assert first[:4, :4].sum() == first.sum() > second.sum() == second[4:, 4:].sum() > 0
    assert empty[:4, 4:].all() and empty[4:, :4].all() and empty.sum() == 32
    with pytest.raises(ValueError, match="two things"):
        lesson.regions([Scene("grey", (STAR,))], 8)


def test_facts_are_judged_by_the_reader():
    truth = Scene("grey", (STAR, RING))
    other = Scene("white", (STAR, Thing("bottom left", "blue", "ring", "small")))
    right = dict(zip(lesson.FACTS, lesson.facts_right([truth, truth], [draw(truth), draw(other)])))
    assert right == {"background": 0.5, "count": 1.0, "places": 0.5, "colors": 1.0, "shapes": 1.0, "sizes": 1.0}


def test_what_comes_over_is_told_fact_by_fact():
    here, there = Scene("grey", (STAR, RING)), Scene("white", (STAR, Thing("bottom left", "red", "cross", "large")))
    mixed = Scene("white", (STAR, Thing("bottom right", "red", "ring", "large")))
    pictures = torch.stack([torch.from_numpy(np.array(draw(scene))).permute(2, 0, 1) for scene in (here, there, mixed)])
    for picture, came in zip(pictures, ([], lesson.TAKEN, ["background", "2nd color"])):
        found = dict(zip(lesson.TAKEN, lesson.taken_over([here], [there], picture[None])))
        differ = {"background", "2nd place", "2nd color", "2nd shape"}
        assert found == {fact: float(fact in differ and fact in came) for fact in lesson.TAKEN}
    assert lesson.taken_over([here] * 2, [there] * 2, pictures[:2])[0] == 0.5
    assert lesson.taken_over([here], [there], torch.zeros(1, 3, 64, 64, dtype=torch.uint8)) == [0.0] * len(lesson.TAKEN)


def test_what_a_loss_leaves_is_a_number_or_a_crossing_or_nothing():
    learning, frozen, aside = torch.nn.Linear(2, 2), torch.nn.Linear(2, 1).requires_grad_(False), torch.nn.Linear(2, 2)
    query = torch.nn.Parameter(torch.ones(2))
    parts = {"learning": learning, "frozen": frozen, "aside": aside.requires_grad_(False), "query": query}
    left = lesson.gradients(parts, lambda: frozen(learning(query)).sum())
    assert (left["frozen"], left["aside"]) == ("crossed", "-")
    assert left["query"] == f"{query.grad.norm():.3f}" and float(left["learning"]) > 0
    assert lesson.gradients(parts, lambda: aside(query).sum())["learning"] == "-"  # what was there is forgotten
