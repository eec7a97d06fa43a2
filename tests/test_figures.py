"""The visual language: pictures exactly four times their size, alt text, digests, shapes taken from the live model."""

from __future__ import annotations

import base64
import io
import random

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_model

from minidream.visualization import PALETTE, architecture, digest, film_strip, show, token_ribbon
from minidream.visualization.figures import to_png
from minidream.visualization.widgets import slider
from minidream.world.draw import draw
from minidream.world.scene import random_scene


def _rendered(figure) -> np.ndarray:
    image = Image.open(io.BytesIO(to_png(figure)))
    pixels = np.asarray(image.convert("RGBA"))
    assert (pixels[..., 3] == 255).all(), "the sheet must be opaque, for dark mode"
    return pixels[..., :3]


def _words(figure) -> str:
    return "\n".join(text.get_text() for text in figure.axes[0].texts)


def _pictures(count: int) -> list[Image.Image]:
    rng = random.Random("figures")
    return [draw(random_scene(rng)) for _ in range(count)]


def test_a_film_strip_shows_every_pixel_four_times_each_way():
    pictures = _pictures(5)
    pixels = _rendered(film_strip(pictures, ["caption"] * 5, columns=3))
    for picture in pictures:
        large = np.asarray(picture).repeat(4, axis=0).repeat(4, axis=1)[2:-2, 2:-2]  # inside its thin frame
        high, wide = large.shape[:2]
        places = [
            (top, left)
            for top in range(pixels.shape[0] - high)
            for left in range(16, pixels.shape[1] - wide, 2)
            if (pixels[top, left : left + wide] == large[0]).all()
        ]
        assert any((pixels[top : top + high, left : left + wide] == large).all() for top, left in places)


def test_a_verdict_is_a_colour_and_a_mark_and_a_word():
    figure = film_strip(_pictures(3), ["one", "two", "three"], [True, False, None])
    texts = {text.get_text(): text.get_color() for text in figure.axes[0].texts}
    assert texts["\N{CHECK MARK} right"] == PALETTE["right"]
    assert texts["\N{BALLOT X} wrong"] == PALETTE["wrong"]
    assert len(texts) == 5  # three captions, two verdicts
    assert figure.get_label() == "3 pictures: one (right); two (wrong); three"


def test_tensors_and_arrays_are_pictures_too():
    picture = _pictures(1)[0]
    array = np.asarray(picture)
    forms = [picture, array, torch.from_numpy(array.copy()).permute(2, 0, 1)]
    sheets = [_rendered(film_strip([form], ["same"])) for form in forms]
    assert (sheets[0] == sheets[1]).all() and (sheets[0] == sheets[2]).all()
    with pytest.raises(ValueError, match="uint8"):
        film_strip([array / 255.0], ["a float picture"])


def test_a_film_strip_wants_one_caption_and_one_verdict_a_picture():
    with pytest.raises(ValueError, match="2 pictures, 1 captions"):
        film_strip(_pictures(2), ["one"])
    with pytest.raises(ValueError, match="1 verdicts"):
        film_strip(_pictures(2), ["one", "two"], [True])
    with pytest.raises(ValueError, match="0 pictures"):
        film_strip([], [])


def test_digests_are_rounded_floats_and_never_negative_zero():
    assert digest(np.full((2, 3), 250, np.uint8)) == "shape (2, 3), mean 250.0, std 0.0, min 250.0, max 250.0"
    assert digest(torch.tensor([0.12345, -1.98765])) == "shape (2,), mean -0.932, std 1.06, min -1.99, max 0.123"
    assert digest(np.array([-1e-9, 0.0])) == "shape (2,), mean 0.000, std 0.000, min 0.000, max 0.0"
    assert digest(np.zeros((0, 4))) == "shape (0, 4), empty"
    assert "mean nan" in digest(torch.tensor([float("nan"), 1.0]))
    assert digest(torch.ones(2, dtype=torch.bfloat16, requires_grad=True)).startswith("shape (2,), mean 1.00")
    picture = _pictures(1)[0]
    assert digest(picture) == digest(np.asarray(picture))


def test_show_puts_alt_text_beside_the_picture(monkeypatch):
    seen: list[tuple[dict, dict]] = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw, metadata: seen.append((data, metadata)))
    figure = film_strip(_pictures(1), ["a caption"])
    show(figure)
    show(figure, "in other words")
    assert [metadata["image/png"]["alt"] for _, metadata in seen] == ["1 picture: a caption", "in other words"]
    assert seen[0][0]["text/plain"] == "Figure: 1 picture: a caption"
    assert Image.open(io.BytesIO(base64.b64decode(seen[0][0]["image/png"]))).format == "PNG"
    figure.set_label("")
    with pytest.raises(ValueError, match="alt"):
        show(figure)


def test_a_ribbon_tells_text_queries_and_patches_apart():
    tokens = ["<s>", "A", "\u0120red", "<dream>", "<im_patch>", "<dream_end>", "<im_start>", "<im_patch>", "<im_end>"]
    queries, patches = [token == 4 for token in range(9)], [token == 7 for token in range(9)]
    figure = token_ribbon(tokens, torch.tensor(queries), torch.tensor(patches), [index < 4 for index in range(9)])
    words = _words(figure).splitlines()
    assert words[:9] == ["<s>", "A", "\u2423red", "<dream>", "q", "<dream_end>", "<im_start>", "p", "<im_end>"]
    edges = ["#{:02x}{:02x}{:02x}".format(*(round(255 * part) for part in patch.get_edgecolor()[:3]))
             for patch in figure.axes[0].patches[:9]]  # fmt: skip
    assert edges == [PALETTE[kind] for kind in ["text"] * 3 + ["query"] * 3 + ["patch"] * 3]
    assert figure.get_label() == "A sequence of 9 tokens: 1 dream queries, 1 image patches, 4 in the language loss"
    assert len(figure.axes[0].lines) == 4  # the dots
    with pytest.raises(ValueError, match="9 tokens, 9 queries, 3 patches"):
        token_ribbon(tokens, queries, patches[:3])


def test_a_long_ribbon_wraps_inside_its_sheet():
    figure = token_ribbon(["word"] * 120, [False] * 120, [False] * 120, width=400)
    cells = figure.axes[0].patches[:120]
    assert max(cell.get_x() + cell.get_width() for cell in cells) <= 400
    assert len({cell.get_y() for cell in cells}) > 5
    assert figure.axes[0].get_ylim()[0] > max(cell.get_y() for cell in cells)


def test_the_architecture_is_drawn_from_the_live_model():
    model = tiny_model()
    words = _words(architecture(model))
    queries, width = model.dream_queries.shape
    assert f"Q x {width} (Q = {queries})" in words
    assert f"Q x {model.decoder.unet.config.cross_attention_dim}" in words
    assert f"(P = {model.vision.num_patches})" in words
    assert f"{model.llm.config.num_hidden_layers} layers" in words
    assert f"{sum(p.numel() for p in model.llm.parameters()):,}" in words


def test_frozen_parts_are_hatched_and_trained_ones_are_not():
    model = tiny_model()

    def hatched() -> int:
        return sum(bool(patch.get_hatch()) for patch in architecture(model).axes[0].patches)

    model.requires_grad_(True)
    assert hatched() == 0
    model.decoder.requires_grad_(False)
    model.vision.requires_grad_(False)
    assert hatched() == 2
    model.llm.requires_grad_(False)
    assert hatched() == 3
    assert "frozen" in _words(architecture(model))


def test_losses_and_the_way_back_of_their_gradients_are_drawn_when_asked_for():
    model = tiny_model()
    plain, figure = architecture(model), architecture(model, losses=True)
    assert "word loss" in _words(figure) and "dream loss" in _words(figure) and "dream loss" not in _words(plain)
    dashed = [patch for patch in figure.axes[0].patches if patch.get_linestyle() not in ("-", "solid")]
    assert len(dashed) == len(figure.axes[0].patches) - len(plain.axes[0].patches) == 6


def test_a_slider_shows_what_its_value_draws() -> None:
    asked: list[int] = []

    def drawing(value: int):
        asked.append(value)
        return film_strip([Image.new("RGB", (8, 8))], [str(value)], alt=f"drawn at {value}")

    box = slider("guidance", [1, 2, 3], drawing, start=2)
    control, picture, label = box.children
    before = picture.value
    control.value = 3
    assert label.value == "drawn at 3" and picture.value != before
    control.value = 2
    assert picture.value == before and asked == [2, 3]
    with pytest.raises(ValueError, match="starts at one of its values"):
        slider("guidance", [1, 2], drawing, start=5)
