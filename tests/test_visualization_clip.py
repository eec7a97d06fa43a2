"""Notebook 02: bars as long as their numbers, frames where the pairs are, scores that are fair."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from tiny import tiny_tokenizer
from transformers import CLIPConfig, CLIPModel

from minidream.teaching import clip as lesson
from minidream.training.components import pixels, tokenize
from minidream.visualization import PALETTE
from minidream.visualization.clip import curves, leanings, matrices, pair_matrix, pixels_of, survival
from minidream.visualization.figures import to_png
from minidream.world.captions import plain_caption
from minidream.world.draw import draw
from minidream.world.scene import Scene, Thing, random_scene

STAR = Scene("grey", (Thing("top left", "red", "star", "large"),))


def _words(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def _bars(figure: Figure, color: str | None = None) -> list[Rectangle]:
    boxes = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    return [box for box in boxes if color is None or to_hex(box.get_facecolor()) == color]


def _opaque(figure: Figure) -> bool:
    return np.asarray(Image.open(io.BytesIO(to_png(figure))).convert("RGBA"))[..., 3].min() == 255


def test_a_pair_matrix_frames_the_true_pairs_and_says_its_numbers():
    values = torch.tensor([[0.9, 0.1], [-0.2, 0.8]])
    figure = pair_matrix(values, [draw(STAR)] * 2, ["one caption", "another"])
    assert {"0.90", "0.10", "-0.20", "0.80", "one caption", "another"} <= set(_words(figure)) and _opaque(figure)
    frames = [box for box in _bars(figure) if not box.get_fill()]
    cells = [box for box in _bars(figure) if box.get_fill()]
    assert [frame.get_xy() for frame in frames] == [cells[0].get_xy(), cells[3].get_xy()]
    assert figure.get_label() == "2 pictures against 2 captions: true pairs from 0.80, the others from -0.20 to 0.10"
    with pytest.raises(ValueError, match="1 pictures and 2 captions for a matrix of 2"):
        pair_matrix(values, [draw(STAR)], ["one", "two"])
    with pytest.raises(ValueError, match=r"\(N, N\)"):
        pair_matrix(values[:1], [draw(STAR)], ["one"])


def test_matrices_stand_side_by_side_under_their_names():
    figure = matrices({"sure": np.eye(2), "unsure": np.full((2, 2), 0.5)})
    assert "sure (1.00); unsure (0.50)" in figure.get_label() and {"sure", "unsure"} <= set(_words(figure))
    lightness = [sum(box.get_facecolor()[:3]) for box in _bars(figure) if box.get_fill()]
    assert lightness[0] < lightness[4] < lightness[1]  # 1, 0.5, 0: the larger, the darker
    with pytest.raises(ValueError, match="no matrix"):
        matrices({})


def test_leanings_mark_the_longest_bar_and_whether_it_is_the_truth():
    said = {"colour": {"red": 0.9, "blue": 0.4}, "size": {"small": 0.7, "large": 0.6}}
    figure = leanings(draw(STAR), said, {"colour": "red", "size": "large"})
    assert figure.get_label().endswith("colour red (right), size small (wrong)") and _opaque(figure)
    longest = [box.get_width() for box in _bars(figure, PALETTE["patch"])]
    assert longest == pytest.approx([82 * 0.9, 82 * 0.7])
    assert "\N{CHECK MARK} right" in _words(figure) and "\N{BALLOT X} wrong" in _words(figure)
    with pytest.raises(ValueError, match="no truth among the values of size"):
        leanings(draw(STAR), said, {"colour": "red", "size": "huge"})


def test_survival_bars_are_as_long_as_their_shares_and_a_tick_marks_the_guess():
    shares = {"caption": {"shape": 0.5}, "picture": {"shape": 0.25}, "patches": {"shape": 1.0}}
    figure = survival(shares, {"shape": 0.2})
    lengths = [box.get_width() for box in _bars(figure)][3:]  # the first three are the legend's
    assert lengths == pytest.approx([300, 150, 600])
    ticks = [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_color() == PALETTE["ink"]]
    assert ticks[0] == pytest.approx(190 + 600 * 0.2)
    assert figure.get_label().endswith("shape 0.50, 0.25, 1.00 (guessing 0.20)")
    with pytest.raises(ValueError, match="one to 3 sources, each with the facts shape, size"):
        survival(shares, {"shape": 0.2, "size": 0.5})


def test_curves_are_running_means_and_their_names_do_not_collide():
    figure = curves({"up": [0.0, 1.0, 2.0, 3.0], "also up": [0.0, 1.0, 2.0, 3.1]}, "share", {"a line": 1.5}, window=2)
    axes = figure.axes[0]
    assert list(axes.lines[0].get_ydata()) == [0.5, 1.5, 2.5] and list(axes.lines[0].get_xdata()) == [2, 3, 4]
    heights = [text.xyann[1] for text in axes.texts if hasattr(text, "xyann")]
    assert abs(heights[0] - heights[1]) > 0.1
    assert figure.get_label() == "share over 4 steps: up rises, also up rises"
    with pytest.raises(ValueError, match="at least 10 steps"):
        curves({"short": [1.0]}, "loss")


def test_predicted_pixels_become_a_picture():
    values = torch.zeros(3, 32, 32)
    values[0, 0, 1], values[2, 31, 31] = 300.0, -5.0
    picture = pixels_of(values.flatten(), 32)
    assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
    assert picture[0:2, 2:4].tolist() == [[[255, 0, 0]] * 2] * 2 and picture.sum() == 4 * 255


# -- what the lesson measures -----------------------------------------------------------------------------------------


def test_a_fact_sheet_gives_the_truth_full_marks_and_a_guess_fewer():
    rng = random.Random("facts")
    sheet = lesson.FactSheet([random_scene(rng) for _ in range(300)])
    rows = slice(100, 300)
    assert set(sheet.score(sheet.targets[rows], rows).values()) == {1.0}
    guess = sheet.guess(slice(0, 100), rows)
    assert (
        guess[lesson.EXACT] == 0.0
        and max(guess.values()) < 0.85
        and guess["background"] == pytest.approx(1 / 3, abs=0.1)
    )


def test_an_empty_corner_is_not_counted_but_asked_whether_it_is_empty():
    sheet = lesson.FactSheet([STAR, Scene("grey", (Thing("top left", "blue", "star", "large", (1, 0)),))])
    wrong = sheet.targets.clone()
    wrong[1] = wrong[0]  # as if the second scene were the first
    assert sheet.score(wrong, slice(0, 2)) == {
        "background": 1.0, "how many things": 1.0, "which colours": 10 / 12, "which shapes": 1.0, "which corners": 1.0,
        "size in each corner": 1.0, "colour in each corner": 0.5, "shape in each corner": 1.0, lesson.WHOLE: 0.5,
        lesson.EXACT: 0.0,
    }  # fmt: skip


def test_variants_change_one_fact_and_nothing_else():
    assert len(set(lesson.every_single_thing())) == 864
    for fact, values in lesson.VALUES.items():
        made = lesson.variants(STAR, fact)
        assert tuple(made) == values and made[lesson.fact_of(STAR, fact)] == STAR
        others = [each for each in lesson.VALUES if each != fact]
        assert all(
            lesson.fact_of(scene, each) == lesson.fact_of(STAR, each) for scene in made.values() for each in others
        )
    red, blue = lesson.variants(STAR, "colour")["red"], lesson.variants(STAR, "colour")["blue"]
    assert lesson.shares_right([red, red], [red, blue])["colour"] == 0.5
    assert lesson.shares_right([red, red], [red, blue])[lesson.WHOLE] == 0.5
    assert lesson.shares_right([red, red], [red, blue])["shape"] == 1.0
    assert lesson.shifted(STAR, random.Random(1)).facts() == STAR


def test_scenes_of_a_batch_are_distinct_and_couples_share_nothing():
    rng = random.Random("singles")
    scenes = lesson.singles(rng, 100)
    assert len({scene.facts() for scene in scenes}) == 100 and {len(scene.things) for scene in scenes} == {1}
    for one, two in (lesson.couple(rng).things for _ in range(50)):
        assert one.color != two.color and one.shape != two.shape and one.size != two.size


def test_embeddings_are_those_of_clip_whatever_the_batch(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**tower, "vocab_size": 280, "max_position_embeddings": 64, "bos_token_id": 2, "eos_token_id": 1}
    vision = {**tower, "image_size": 64, "patch_size": 16}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).eval()
    scenes = lesson.singles(random.Random("embeddings"), 5)
    captions = [plain_caption(scene) for scene in scenes]
    with torch.no_grad():
        tokens = tokenize(tiny_tokenizer(), captions, lesson.CPU)
        drawn = pixels(scenes, lesson.CPU, 64)
        out = model(pixel_values=drawn, **tokens)
        hidden = model.vision_model(pixel_values=drawn, output_hidden_states=True).hidden_states
    monkeypatch.setattr(lesson, "BATCH", 2)
    embeddings, patches = lesson.embed_pictures(model, scenes)
    torch.testing.assert_close(embeddings, out.image_embeds)
    torch.testing.assert_close(patches, hidden[-2][:, 1:])
    torch.testing.assert_close(lesson.embed_captions(model, tiny_tokenizer(), captions), out.text_embeds)
    one = lesson.similarities(model, tiny_tokenizer(), scenes[0], "size")
    truth = lesson.fact_of(scenes[0], "size")
    assert set(one) == {"small", "large"} and one[truth] == pytest.approx(
        (out.image_embeds @ out.text_embeds.T)[0, 0].item(), abs=1e-5
    )
    assert sum(p.numel() for p in lesson.newborn(model).parameters()) > 0
