"""Figures of notebook 01: what is drawn is what was given; the editor's lists and its card say the same."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from minidream.teaching import world as lesson
from minidream.tokenizer import train_tokenizer
from minidream.visualization.world import (
    NOTHING,
    attention_grid,
    held_out_facts,
    merge_ladder,
    pair_grid,
    predictions,
    scene_card,
    scene_editor,
    surprise,
)
from minidream.world.captions import plain_caption, understand
from minidream.world.scene import HELD_OUT_PAIRS, SHAPES, Scene, Thing, is_held_out, random_scene

SCENE = Scene("grey", (Thing("top left", "red", "star", "large"), Thing("bottom right", "blue", "circle", "small")))


@pytest.fixture
def rng() -> random.Random:
    return random.Random(0)


def written(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def hatched(figure: Figure) -> int:
    return sum(patch.get_hatch() is not None for patch in figure.axes[0].patches)


def test_what_is_held_out_of_a_scene_is_named_if_and_only_if_something_is(rng: random.Random):
    for scene in [random_scene(rng, held_out=None) for _ in range(300)]:
        assert bool(held_out_facts(scene)) == is_held_out(scene)
    row = Scene("white", (Thing("top left", "red", "star", "large"), Thing("top right", "red", "circle", "small")))
    assert held_out_facts(row) == ["star left of circle"]


def test_a_card_tells_all_of_its_scene_and_fits_its_sheet(rng: random.Random):
    for wording in range(8):
        scene = random_scene(rng, 4, held_out=None)
        figure = scene_card(scene, wording, asked=8)
        alt = figure.get_label()
        told, rest = alt.split(" Also told: ")
        assert told == plain_caption(scene) and understand(rest.split(" Asked: ")[0]) == scene.facts()
        assert ("training never shows" in alt) == is_held_out(scene)
        low = figure.axes[0].get_ylim()[0]
        assert max(text.get_position()[1] for text in figure.axes[0].texts) < low
    assert scene_card(SCENE, 1).get_label() != scene_card(SCENE, 2).get_label()


def test_the_editor_draws_what_its_lists_say():
    editor = scene_editor(SCENE)
    assert editor.scene() == SCENE and editor.label.value == scene_card(SCENE).get_label()
    before = editor.picture.value
    editor.things["top left"]["shape"].value = "ring"
    editor.background.value = "black"
    changed = Scene("black", (Thing("top left", "red", "ring", "large"), SCENE.things[1]))
    assert editor.scene() == changed and editor.label.value == scene_card(changed).get_label()
    assert editor.picture.value != before
    editor.wording.value = 3
    assert editor.label.value == scene_card(changed, 3).get_label()
    for facts in editor.things.values():
        facts["shape"].value = NOTHING
    assert editor.scene() is None and "at least one thing" in editor.label.value


def test_a_ladder_shows_every_piece_and_its_words_begin_in_one_column():
    figure = merge_ladder({"letters": [["a"], ["\u0120", "b", "c"]], "1 merge": [["a"], ["\u0120", "bc"]]})
    assert written(figure) == ["letters", "a", "\u2423", "b", "c", "1 merge", "a", "\u2423", "bc"]
    lefts = [patch.get_x() for patch in figure.axes[0].patches]
    assert lefts[0] == lefts[4] and lefts[1] == lefts[5]
    assert "letters: 4 pieces, 1 merge: 3 pieces" in figure.get_label()


def test_the_place_before_a_taught_token_predicts_it():
    tokens = ["<s>", "A", "<dream>", "<im_patch>", "<im_patch>", "</s>"]
    figure = predictions(tokens, [0, 1, 1, 0, 0, 1], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 1, 0])
    assert figure.get_label() == "6 places, 3 of them predict: <s> predicts A; A predicts <dream>; p predicts </s>"
    assert written(figure).count("\N{EN DASH}") == 3


def test_forbidden_attention_is_hatched_and_not_written():
    mask = torch.ones(3, 3, dtype=torch.bool).tril()
    figure = attention_grid(torch.eye(3), ["a", "b", "c"], mask)
    assert hatched(figure) == 3 and written(figure).count("1.00") == 3 and written(figure).count("0.00") == 3


def test_bars_and_the_floor_have_one_scale():
    figure = surprise(["a", "b"], {"one": [1.0, 2.0]}, [2.0, 0.0], "bars")
    first, second = figure.axes[0].patches[-2:]
    assert math.isclose(second.get_height(), 2 * first.get_height())
    level = figure.axes[0].lines[-1].get_ydata()[0]
    assert math.isclose(level, second.get_y())  # a floor of 2 is as high as a bar of 2
    assert figure.get_label() == "bars"


def test_the_grid_hatches_the_held_out_pairs_and_no_other():
    figure = pair_grid()
    assert hatched(figure) == len(HELD_OUT_PAIRS) == 6
    assert len(figure.axes[0].images) == 36 and all(shape in written(figure) for shape in SHAPES)
    assert "cyan star" in figure.get_label() and "cyan ring" not in figure.get_label()


@pytest.mark.parametrize(
    "draw, said",
    [
        (lambda: merge_ladder({}), "same text"),
        (lambda: merge_ladder({"a": [["a"]], "b": [["b"]]}), "same text"),
        (lambda: predictions(["a"], [1], [0], []), "0 patches"),
        (lambda: attention_grid(np.eye(2), ["a"], np.eye(2)), "words"),
        (lambda: surprise(["a"], {"one": [1.0, 2.0]}, [1.0], "x"), "floor"),
        (lambda: surprise(["a"], {}, [1.0], "x"), "floor"),
    ],
)
def test_what_does_not_fit_together_is_refused(draw: Callable[[], object], said: str):
    with pytest.raises(ValueError, match=said):
        draw()


def test_the_lesson_s_captions_are_of_one_length_and_its_model_reads_them(rng: random.Random):
    tokenizer = train_tokenizer([plain_caption(random_scene(rng)) for _ in range(300)], 512)
    ids = lesson.one_thing_captions(tokenizer, rng, 8)
    assert ids.shape[0] == 8 and all(understand(tokenizer.decode(row, skip_special_tokens=True)) for row in ids)
    model = lesson.newborn(len(tokenizer))
    assert model(ids, labels=ids).loss.isfinite()
    torch.testing.assert_close(lesson.newborn(len(tokenizer)).lm_head.weight, model.lm_head.weight)
