"""Figures of notebook 06: what is drawn is what was given; and the small helpers beside its exercises."""

from __future__ import annotations

import random

import matplotlib.colors as mcolors
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from tiny import PATCHES, QUERIES, SIDE, tiny_model, tiny_tokenizer

from minidream.processing import MiniDreamProcessor
from minidream.teaching import interleaved_pretraining as lesson
from minidream.teaching import row_blocks as rows
from minidream.teaching import small_stories
from minidream.visualization import PALETTE
from minidream.visualization.interleaved_pretraining import (
    Term,
    dream_chances,
    heard,
    influence,
    packed_rows,
    story_blocks,
    sum_of_terms,
)
from minidream.world.corpora import Example
from minidream.world.scene import is_held_out

STORY = small_stories.small_story(random.Random(0))


def painted(figure: Figure, kind: str) -> list[Rectangle]:
    """The rectangles of a figure in a colour of the palette."""
    boxes = [each for each in figure.axes[0].patches if isinstance(each, Rectangle)]
    return [box for box in boxes if mcolors.to_hex(box.get_facecolor()) == PALETTE[kind]]


def test_bars_are_as_high_as_the_summands_and_the_alt_text_tells_the_document():
    terms = [Term("Two words"), Term("<dream>"), Term("", STORY.document.pictures[0]), Term("</s>")]
    figure = sum_of_terms(terms, {"before": [1.0, 2.0, 4.0, 0.5]})
    (dream,), (picture,), words = (painted(figure, kind) for kind in ("query", "diffusion", "text"))
    assert picture.get_height() == 2 * dream.get_height() == 4 * words[0].get_height() == 8 * words[1].get_height()
    assert "Two words + <dream> + [picture] + </s>; before" in figure.get_label()
    assert any(text.get_text() == "sum 7.50" for text in figure.axes[0].texts)
    with pytest.raises(ValueError, match="4 terms"):
        sum_of_terms(terms, {"before": [1.0]})


def test_a_story_has_a_box_a_text_and_two_a_picture():
    figure = story_blocks(STORY.document, queries=3, side=2)
    assert len(figure.axes[0].images) == 4 and len(figure.axes[0].patches) == 2 + 2 + 2 + 2 * (1 + 4)
    assert [text.get_text() for text in figure.axes[0].texts].count("<dream>\nq q q") == 2
    assert figure.get_label().count("dream block, image block") == 2


def test_what_is_heard_beyond_the_first_panel_is_a_leak():
    terms, blocks = ["text 1", "picture 1"], ["text 1", "image 1"]
    panels = {"right": [[True, False], [True, False]], "wrong": [[True, None], [True, True]]}
    figure = influence(panels, terms, blocks)
    assert len(painted(figure, "wrong")) == 1 and len(painted(figure, "diffusion")) == 2
    assert sum(patch.get_hatch() is not None for patch in figure.axes[0].patches) == 1
    assert figure.get_label().endswith("right: 2 pairs; wrong: 3 pairs, 1 of them leaks")
    with pytest.raises(ValueError, match="2 terms and 2 blocks"):
        influence({"right": [[True]]}, terms, blocks)


def test_a_packed_mask_has_the_colour_of_what_is_looked_at():
    mask = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    figure = packed_rows(mask, [1, 1, 2], ["text 1", "image 1", "dream 1"])
    pixels = figure.axes[0].images[0].get_array()
    assert mcolors.to_hex(pixels[1, 1]) == PALETTE["patch"] and mcolors.to_hex(pixels[2, 2]) == PALETTE["query"]
    assert (pixels[2, 0] == 1).all() and (pixels[0, 1] == 1).all()
    assert "2 documents: 2 triangles, 0.44 of all" in figure.get_label()
    padded = packed_rows(mask, [1, 1, 0], ["text 1", "image 1", "text 2"])
    assert "1 documents: 1 triangles, 0.33 of all" in padded.get_label()
    with pytest.raises(ValueError, match="2 documents' numbers"):
        packed_rows(mask, [1, 1], ["text 1"] * 3)


def test_chances_are_bars_and_shares_fill_their_panel():
    figure = dream_chances(["A", "."], [False, True], {"now": torch.tensor([0.0, 0.5])})
    low, high = painted(figure, "query")
    assert low.get_height() == 0 and high.get_height() == 32 and figure.get_label().endswith("2 tokens: now")
    figure = heard({"1 / 1": {"head": 0.25}})
    pictures, words = painted(figure, "diffusion")[0], painted(figure, "text")[0]
    np.testing.assert_allclose(words.get_width(), 3 * pictures.get_width())
    with pytest.raises(ValueError, match="same parts"):
        heard({"1 / 1": {"head": 0.25}, "1 / 10": {}})


def test_small_stories_change_one_colour_and_show_nothing_held_out():
    stories = [small_stories.small_story(random.Random(i)) for i in range(60)]
    for story in stories:
        (first,), (second,) = (scene.things for scene in story.scenes)
        assert first.color != second.color and not any(map(is_held_out, story.scenes))
        assert str(story.plan[2]).endswith(f"The {first.shape} turns {second.color}.")
    assert 10 < sum(str(story.plan[2]).count(".") == 2 for story in stories) < 40


def test_gradients_reach_what_stands_before_a_term_and_a_leak_is_found():
    model, processor = tiny_model(), MiniDreamProcessor(tiny_tokenizer(), QUERIES, PATCHES, SIDE)
    batch = processor([STORY.document])
    latents = model.decoder.encode(batch.pictures)
    pictures = {
        "image_features": model.encode_pictures(batch.pictures),
        "target_latents": latents,
        "noise": torch.randn_like(latents),
        "timesteps": torch.tensor([50, 50]),
    }
    blocks = rows.block_of(processor, batch)
    found = rows.hears(model, batch, blocks, pictures)
    assert found["picture 1"] == {b: b in ("text 1", "dream 1") for b in dict.fromkeys(blocks)}
    assert found["text 2"]["image 1"] and not found["<dream> 2"]["dream 2"]
    places = rows.seen_first(blocks)
    swapped = rows.hears(model, rows.rearranged(batch, places), [blocks[i] for i in places], pictures)
    assert swapped["picture 1"]["image 1"]
    blind = rows.without(blocks, "image")
    assert "image 1" not in {blocks[i] for i in blind} and len(blind) == len(blocks) - 2 * (PATCHES + 2)


def test_an_outline_brackets_what_is_taught():
    processor = MiniDreamProcessor(tiny_tokenizer())
    assert rows.outline(processor, STORY, "interleaved") == "[text] [DB] IB [text] [DB] IB [end]"
    given = Example(STORY.plan, "interleaved", "", 3)
    assert rows.outline(processor, given, "interleaved") == "text IB text [DB] IB [end]"
    assert rows.outline(processor, Example(STORY.plan[:2], "text_to_image"), "text_to_image") == "text DB end"


def test_summands_follow_the_document():
    processor = MiniDreamProcessor(tiny_tokenizer())
    batch = processor([STORY.document])
    ones = (batch.labels[0, 1:] != -100).float()
    sums = rows.summands(processor, batch, ones, torch.tensor([0.5, 0.25]))
    assert sums[1] == sums[4] == sums[6] == 1 and (sums[2], sums[5]) == (0.5, 0.25) and len(sums) == 7
    assert sum(sums) == ones.sum() + 0.75


def test_a_border_tells_the_background_whatever_stands_in_the_middle():
    pictures = torch.stack(
        [torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in STORY.document.pictures]
    )
    pictures[:, :, 20:40, 20:40] = 77
    assert lesson.border(pictures) == [scene.background for scene in STORY.scenes]
