"""Figures of notebook 08, and what the lesson measures of two losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from minidream.ablation.synergy import Gain
from minidream.evaluation.statistics import paired, sign_flip
from minidream.teaching import synergy as lesson
from minidream.visualization import PALETTE
from minidream.visualization.synergy import bars, forest, lines, signs, slopes

GAIN = Gain([0.5, 0.6, 0.7], [0.6, 0.6, 0.65])


@pytest.fixture(scope="module")
def task() -> Any:
    return lesson.student_of("joint", "interleaved")


def test_seeds_that_rise_or_fall_are_told_apart_by_their_lines() -> None:
    figure = slopes({"captions": GAIN}, {"captions": ("comprehension", "joint")}, "three seeds")
    (axes,) = figure.axes
    seeds = [line for line in axes.lines if line.get_marker() == "o"]
    assert [line.get_linestyle() for line in seeds] == ["-", ":", "--"]
    assert [list(line.get_ydata()) for line in seeds] == [[0.5, 0.6], [0.6, 0.6], [0.7, 0.65]]
    means = {line.get_color(): line.get_ydata()[0] for line in axes.lines if line.get_marker() == "None"}
    assert means == pytest.approx({PALETTE["patch"]: 0.6, PALETTE["query"]: 1.85 / 3})
    assert figure.get_label() == "three seeds"


def test_differences_stand_with_their_interval() -> None:
    figure = forest({"seeing": {"joint": GAIN.differences}}, "gain", "one row", notes=["alone 0.60"])
    (axes,) = figure.axes
    (interval,) = [list(line.get_xdata()) for line in axes.lines if line.get_linewidth() == 2]
    assert interval == [paired(GAIN.differences)["low"], paired(GAIN.differences)["high"]]
    assert "alone 0.60" in [text.get_text() for text in axes.texts]
    assert forest({"one": {"a": [0.1]}, "two": {"b": [0.2]}}, "gain", "a seed each").axes[0].get_legend()


def test_dark_marks_are_what_the_test_counts() -> None:
    (axes,) = signs(GAIN.differences, "all signs").axes
    far, near = (
        next(line for line in axes.lines if line.get_label().startswith(word)) for word in ("as far", "nearer")
    )
    count = len(far.get_xdata()) + len(near.get_xdata())
    assert count == 8 and len(far.get_xdata()) / count == sign_flip(GAIN.differences)
    places = {(round(x, 9), y) for line in (far, near) for x, y in zip(line.get_xdata(), line.get_ydata())}
    assert len(places) == 8  # none hides another


def test_lines_and_bars_name_their_series() -> None:
    figure = lines([0, 4], {"words": {"joint": [1.0, 0.5], "creation": [1.0, 1.0]}}, "steps", "two lines")
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["joint", "creation"]
    figure = bars({"pairs": {"seeing": 0.3, "drawing": -0.1}}, "cosine", "two bars")
    assert [patch.get_width() for patch in figure.axes[0].patches] == [0.3, -0.1]


def test_the_joint_loss_is_the_sum_of_both(task: Any) -> None:
    documents = lesson.drawn(task, 0, 8)
    sums = lesson.weighted(task, documents)
    torch.manual_seed(0)
    torch.testing.assert_close(task.losses(documents, task.modules)["loss"], sum(sums.values()))
    # And a step for seeing there and back leaves the model as it was, but lets it see better on the way.
    pull = lesson.gradient(sums["comprehension"], task.modules)
    assert not pull["condition projector"].any() and pull["visual projector"].any()
    lesson.step(task.modules, pull, 0.1)
    after = lesson.weighted(task, documents)["comprehension"].item()
    lesson.step(task.modules, pull, -0.1)
    again = lesson.weighted(task, documents)["comprehension"].item()
    assert after < again == pytest.approx(sums["comprehension"].item(), abs=1e-3)


def test_parts_are_all_that_a_student_moves(task: Any) -> None:
    parts = lesson.parts_of(task.modules)
    moved = {id(p): p.numel() for p in task.modules.parameters() if p.requires_grad}
    found = {id(p): p.numel() for part in parts.values() for p in part}
    norm = {id(task.modules.llm.model.norm.weight)}  # after the last layer: too few numbers to tell of
    head = {id(task.modules.llm.get_output_embeddings().weight)}
    assert set(found) | norm | head == set(moved) and tuple(parts) == lesson.PARTS


def test_power_grows_with_pairs_and_gain() -> None:
    few, many = (lesson.found_by(0.03, 0.03, runs) for runs in (3, 12))
    assert few < many < lesson.found_by(0.06, 0.03, 12)
    assert lesson.found_by(0.0, 0.03, 5) == pytest.approx(0.025, abs=0.01)  # by chance, on this side


def test_in_the_clinic_both_bugs_narrow_the_interval_and_leave_the_mean_alone():
    gain = Gain([0.11, 0.11, 0.16, 0.1, 0.1], [0.15, 0.13, 0.14, 0.16, 0.19])
    reports = lesson.clinic(gain)
    assert reports["healthy"] == (gain.differences, gain.difference)
    widths = {who: found["high"] - found["mean"] for who, (_, found) in reports.items()}
    assert len({round(found["mean"], 4) for _, found in reports.values()}) == 1
    assert widths["patient 2"] / widths["healthy"] == pytest.approx(1.96 / 2.776, rel=0.01)
    assert widths["patient 1"] < widths["healthy"] / 2
    assert sorted(reports["patient 1"][0]) != pytest.approx(sorted(gain.differences))
