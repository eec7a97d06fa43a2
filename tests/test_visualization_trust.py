"""Figures of notebook 09, its bench for damage, and the pictures, stories and models that the lesson is made of."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from minidream.evaluation.creation import facts, trials
from minidream.evaluation.robustness import LEVELS, damages
from minidream.explanation import pieces_of
from minidream.teaching import trust as lesson
from minidream.visualization import PALETTE
from minidream.visualization.trust import (
    DamageBench,
    bells,
    calibration,
    curves,
    heat,
    intervals,
    ranking,
    report,
    review,
    verdicts,
)
from minidream.world.captions import understand
from minidream.world.draw import draw
from minidream.world.read import read
from minidream.world.scene import Scene, Thing
from minidream.world.stories import Story, sources

RED, BLUE = (Image.new("RGB", (64, 64), color) for color in ("#c02040", "#2040c0"))
LEAF = {"mean": 0.5, "low": 0.25, "high": 0.75, "n": 12}
STAR, RING = Thing("top left", "red", "star", "large"), Thing("bottom right", "blue", "ring", "small")


def words(figure: Any) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_verdicts_are_words_under_their_pictures():
    figure = verdicts([RED, BLUE], ["one", "two"], {"counting": [True, False]}, alt="two pictures")
    assert words(figure) == ["one", "\N{CHECK MARK} right", "two", "\N{BALLOT X} wrong", "counting"]
    assert len(figure.axes[0].images) == 2 and figure.get_label() == "two pictures"
    with pytest.raises(ValueError, match="give each row 2 verdicts"):
        verdicts([RED, BLUE], ["one", "two"], {"counting": [True]}, alt="two pictures")


def test_heat_is_deeper_where_more_is_and_frames_what_is_outlined():
    figure = heat(np.array([[0.5, 1.0], [-0.2, 0.0]]), ["a", "b"], ["1", "2"], [(0, 1)], alt="a table")
    cells = figure.axes[0].patches
    alphas = [cell.get_alpha() for cell in cells[::2]]
    assert alphas == pytest.approx([0.425, 0.85, 0.1, 0])
    assert [cell.get_linewidth() for cell in cells[1::2]] == [0.5, 2.2, 0.5, 0.5]
    assert {"0.50", "1.00", "-0.20", "0.00"} <= set(words(figure))
    assert "50" in words(heat([[50.0]], ["a"], ["1"], alt="a table", digits=0, most=100))
    with pytest.raises(ValueError, match="another number of cells"):
        heat([[1.0]], ["a", "b"], ["1"], alt="a table")


def test_each_model_has_a_panel_with_two_bells():
    real = np.linspace(-1, 1, 50)
    figure = bells(real, {"A": real, "B": real + 3}, "a feature", alt="two panels")
    assert len(figure.axes) == 2 and all(len(axes.lines) == 2 for axes in figure.axes)
    same, other = ([line.get_ydata() for line in axes.lines] for axes in figure.axes)
    assert np.allclose(*same) and np.argmax(other[1]) > np.argmax(other[0])


def test_intervals_show_each_series_once_in_the_key_and_leave_out_what_is_missing():
    figure = intervals({"x": {"first": LEAF, "best": LEAF}, "y": {"first": LEAF, "best": None}}, "share", alt="shares")
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["first", "best"] and len(axes.lines) == 7
    assert axes.get_xlim() == (-0.01, 1.005)
    worse = intervals({"x": {"": {**LEAF, "low": -0.5}}}, "share", alt="a loss").axes[0]
    assert worse.get_xlim() == (-0.51, 1.005) and worse.get_legend() is None


def test_calibration_counts_what_is_in_each_bin():
    figure = calibration({"captions": {"0.0-0.2": LEAF, "0.2-0.4": None}, "stories": {"0.8-1.0": LEAF}}, alt="bins")
    assert [axes.get_title() for axes in figure.axes] == ["captions", "stories"] and words(figure) == ["12", "12"]
    (bar,) = figure.axes[1].patches
    assert bar.get_height() == 0.5 and bar.get_x() + bar.get_width() / 2 == pytest.approx(0.9)


def test_a_review_list_has_a_bar_for_each_score_and_says_what_is_refused():
    figure = review(
        [RED, BLUE, RED],
        [0.0, 0.5, 1.0],
        [False, None, True],
        ["told a large red star, reads nothing", "", "same"],
        alt="a list",
    )
    low, middle, high = (
        p.get_height() for p in figure.axes[0].patches if to_hex(p.get_facecolor()) == PALETTE["query"]
    )
    assert low == 0 and high == 2 * middle
    assert {
        "\N{BALLOT X} wrong",
        "? refused",
        "\N{CHECK MARK} right",
        "told a large red star,",
        "reads nothing",
        "0e+00",
        "0.50",
    } <= set(words(figure))


def test_a_ranking_tells_right_wrong_and_refused_apart():
    axes = ranking({"all": ([0.1, 0.9, 0.5], [False, True, None]), "some": ([0.3], [True])}, "score", alt="marks").axes[
        0
    ]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["right", "wrong", "refused"]
    assert [line.get_xdata().tolist() for line in axes.lines] == [[0.9], [0.1], [0.5], [0.3]]
    assert [line.get_marker() for line in axes.lines] == ["o", "x", "^", "o"]


def test_a_report_has_a_scale_for_each_metric_and_says_losses_as_they_are():
    figure = report({"A": {"FID": 2.0, "right": 1.0}, "B": {"FID": 1.0, "right": -0.5}}, alt="two models")
    assert [bar.get_width() for bar in figure.axes[0].patches] == [120, 60, 120, 0]
    assert {"2.00", "-0.50"} <= set(words(figure))


def test_curves_have_a_panel_each_and_leave_the_rest_blank():
    panels = {
        "noise": (["0", "5"], {"captions": [LEAF, LEAF], "questions": [LEAF, LEAF]}),
        "file": (["webp picture"], {}),
    }
    figure = curves(panels, alt="two curves", columns=3)
    assert [axes.get_title() for axes in figure.axes] == ["noise", "file", ""] and not figure.axes[2].axison
    assert len(figure.axes[0].lines) == 2 and list(figure.axes[0].lines[0].get_ydata()) == [0.5, 0.5]
    loose = curves(panels, alt="two curves", unordered=("noise",))
    assert loose.axes[0].lines[0].get_linestyle().lower() == "none"


@pytest.mark.parametrize(
    "figure",
    [
        lambda: verdicts([RED], ["a"], {"b": [True]}),
        lambda: heat([[1.0]], ["a"], ["b"]),
        lambda: bells([0, 1], {"A": [0, 1]}, "axis"),
        lambda: intervals({"a": {"": LEAF}}, "share"),
        lambda: calibration({"a": {"0.0-0.2": LEAF}}),
        lambda: review([RED], [0.5], [True], [""]),
        lambda: ranking({"a": ([0.5], [True])}, "score"),
        lambda: report({"a": {"b": 1.0}}),
        lambda: curves({"a": (["0"], {"b": [LEAF]})}),
    ],
)
def test_nothing_is_shown_without_alt_text(figure: Any):
    with pytest.raises(ValueError, match="say in words"):
        figure()


def test_the_bench_damages_tells_once_and_says_what_is_right():
    told: list[Any] = []

    def tell(picture: Any) -> tuple[str, bool]:
        told.append(picture)
        return "A star.", picture == RED

    bench = DamageBench(RED, tell)
    assert bench.label.value == "noise 0: right. A star." and bench.damaged("noise", 0) is RED
    bench.level.value = 4
    assert bench.label.value == "noise 4: wrong. A star." and bytes(bench.image.value).startswith(b"\x89PNG")
    bench.kind.value = "jpeg"
    bench.kind.value = "noise"
    assert len(told) == 3 and bench.label.value.startswith("noise 4")
    for damage, levels in LEVELS.items():
        kind = damage.__name__
        assert bench.damaged(kind, 4) == damages()[kind, f"{levels[3]:g}"](RED, 0)
    assert bench.state("blur", 1)[1:] == ("A star.", True)  # of one colour, so nothing is blurred


# -- what the lesson is made of --------------------------------------------------------------------------------------


def test_one_model_is_always_wrong_and_the_other_never():
    asked = trials(3, 9, False)
    assert facts(asked, lesson.left_for_right(asked))["scene"]["mean"] == 0
    assert facts(asked, lesson.grainy(asked))["scene"]["mean"] == 1
    scene = Scene("grey", (STAR, RING))
    assert lesson.mirrored(lesson.mirrored(scene)) == scene != lesson.mirrored(scene)


def test_three_pictures_are_read_as_they_are_called():
    caption, told, three = lesson.three_pictures()
    assert understand(caption) == told == three["as told"] and list(three) == [
        "as told",
        "left for right",
        "another colour",
    ]
    assert all(read(draw(scene)) == scene for scene in three.values())


def test_families_differ_in_count_alone_and_are_told_in_two_ways():
    for family in lesson.alike(5):
        assert [len(scene.things) for scene in family] == [1, 2, 3, 4]
        assert len({(scene.background, t.color, t.shape, t.size) for scene in family for t in scene.things}) == 1
        assert all(understand(lesson.one_by_one(scene)) == scene.facts() for scene in family)
    crosses = Scene("white", (Thing("top left", "red", "cross", "small"), Thing("top right", "red", "cross", "small")))
    assert lesson.by_number(crosses) == "Two small red crosses on a white background"
    assert lesson.by_number(Scene("grey", (STAR,))) == "One large red star on a grey background"


def test_a_story_is_due_its_last_picture():
    due = lesson.stories_due(4)
    assert [len(document.pictures) for document, _ in due] == [1, 2, 1, 2]
    assert all(isinstance(document[-1], str) and isinstance(scene, Scene) for document, scene in due)
    assert [len(scene.things) for scene in lesson.scenes(4)] == [2, 3, 4, 3]


def test_the_reasons_of_the_green_star_are_the_generators():
    document, others, outlined = lesson.green_star()
    scenes = [read(picture).facts() for picture in document.pictures]
    plan = [scenes[at // 2] if at % 2 else part for at, part in enumerate(document)]
    truth = sources(Story(plan, "story"))[5]
    _, parts = pieces_of(document[:5])
    assert parts == [0, 1, 2, 2, 3, 4]
    asked = [
        ("top left", "color"),
        ("top left", "shape"),
        ("bottom right", "color"),
        ("bottom right", "place"),
        ("", "background"),
    ]
    for number, fact in enumerate(asked):
        pieces = {piece for piece, at in outlined if at == number}
        assert {parts[piece] for piece in pieces} == truth[fact] and 2 not in pieces  # "All is quiet." is no reason
    assert len(others) == 5 and all(read(picture) != scenes[-1] for picture in others.values())


def test_what_the_model_tells_is_held_against_the_scene():
    scene = lesson.photographed()
    said = lesson.one_by_one(scene)
    tell = lesson.teller(SimpleNamespace(caption=lambda picture: said if picture is RED else "A star."), scene)  # type: ignore[arg-type]
    assert tell(RED) == (said, True) and tell(BLUE) == ("A star.", False)


def test_damage_begins_with_none_but_files_do_not():
    leaf = {"caption": LEAF, "vqa": {**LEAF, "mean": 0.6}}
    panels = lesson.damage_curves({"none": {"0": leaf}, "blur": {"0.5": leaf}, "file": {"palette_png": leaf}})
    assert (
        list(panels) == ["blur (pixels)", "file"]
        and panels["blur (pixels)"][0] == ["none", "0.5"]
        and panels["file"][0] == ["palette png"]
    )
    assert [leaf["mean"] for leaf in panels["blur (pixels)"][1]["questions"]] == [0.6, 0.6]


def test_a_share_of_questions_has_the_answer_yes():
    assert sum(lesson.skewed(100, 0.1)) == 10 and len(lesson.skewed(100, 0.1)) == 100
    assert lesson.skewed(20, 0.5) == lesson.skewed(20, 0.5) != sorted(lesson.skewed(20, 0.5))
