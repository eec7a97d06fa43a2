"""The figures and the small world of notebook 03."""

from __future__ import annotations

import io
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from PIL import Image
from tiny import tiny_diffusion, tiny_scheduler

from minidream.modeling.diffusion import ImageDecoder
from minidream.score_distillation import schedule
from minidream.teaching import diffusion as lesson
from minidream.visualization import PALETTE
from minidream.visualization.diffusion import Bars, Panel, bars, curves, maps, paths, sheet
from minidream.visualization.figures import to_png
from minidream.world.draw import draw_batch


def _rendered(figure) -> np.ndarray:
    pixels = np.asarray(Image.open(io.BytesIO(to_png(figure))).convert("RGBA"))
    assert (pixels[..., 3] == 255).all(), "the sheet must be opaque, for dark mode"
    return pixels[..., :3]


def _texts(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_curves_are_told_apart_without_colour():
    panel = Panel("title", [1, 2, 4], {"one": [0.1, 0.2, 0.3], "two": [0.3, 0.2, 0.1]}, "steps", "share", log_x=True)
    figure = curves([panel, panel], "in words")
    assert len(figure.axes) == 2 and figure.get_label() == "in words"
    lines = figure.axes[0].lines
    assert len({(line.get_marker(), line.get_linestyle()) for line in lines}) == 2
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["1", "2", "4"]
    assert figure.axes[0].get_ylim()[0] <= 0
    assert not figure.axes[0].texts
    _rendered(figure)


def test_curves_write_their_values_on_request():
    panel = Panel("title", [1, 2], {"one": [0.104, 40.0], "two": [3.0, 0.2]}, "t", "error", log_y=True, digits=2)
    written = curves([panel], "in words").axes[0].texts
    assert {text.get_text(): text.get_va() for text in written} == {
        "0.10": "top",  # below its point, for the other line is above it
        "3.00": "bottom",
        "40.00": "bottom",
        "0.20": "top",
    }


def test_curves_show_standard_errors_and_where_zero_is():
    panel = Panel("title", [1, 2], {"": [0.2, -0.1]}, "g", "difference", errors={"": [0.1, 0.05]})
    axes = curves([panel], "in words").axes[0]
    (segments,) = [bar.get_segments() for bar in axes.collections]
    assert [[round(y, 3) for _, y in segment] for segment in segments] == [[0.1, 0.3], [-0.15, -0.05]]
    assert any(list(line.get_ydata()) == [0, 0] for line in axes.lines)


def test_bars_of_shares_lie_end_to_end():
    figure = bars(
        [Bars("one", {"a": [0.5, 0.3, 0.2], "b": [0.0, 1.0, 0.0]}), Bars("two", {"c": [0.1] * 3})], "in words"
    )
    first, second = figure.axes
    assert [label.get_text() for label in first.get_yticklabels()] == ["a", "b"]
    assert [(round(bar.get_x(), 2), round(bar.get_width(), 2)) for bar in first.patches[:3]] == [
        (0.0, 0.5),
        (0.5, 0.3),
        (0.8, 0.2),
    ]
    assert [text.get_text() for text in first.texts] == ["0.50", "0.30", "0.20", "1.00"]  # none that is too thin
    assert len(second.patches) == 3
    _rendered(figure)


def test_a_path_has_the_colour_of_its_clean_end():
    times, values = [999, 500, 0], np.array([[2.0, -2.0], [0.5, 0.5], [-1.0, 1.0]])
    for order in (slice(None), slice(None, None, -1)):  # noising and denoising
        figure = paths({"a": (times[order], values[order])}, "in words")
        colors = {to_hex(line.get_color()): line.get_ydata() for line in figure.axes[0].lines[:2]}
        assert -1.0 in colors[PALETTE["diffusion"]] and 1.0 in colors[PALETTE["patch"]]
        assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
            "z = -1 at t = 0",
            "z = +1 at t = 0",
        ]


def test_maps_are_signed_or_hot_and_stand_beside_their_picture_with_a_scale():
    grid = torch.tensor([[-1.0, 1.0], [0.0, 0.5]])
    figure = maps([grid, grid / 2], ["a", "b"], "in words", picture=np.zeros((64, 64, 3), np.uint8))
    assert _texts(figure) == ["picture", "a", "b", "1", "0", "-1"]
    pixels = _rendered(figure)
    middle = 16 + 40  # of the upper left quarter
    assert not pixels[middle, 16 + 40].any()  # the black picture
    assert tuple(pixels[middle, 16 + 176 + 40]) == tuple(int(PALETTE["patch"][i : i + 2], 16) for i in (1, 3, 5))
    assert (pixels[16 + 120, 16 + 176 + 40] > 250).all()  # zero is white
    with pytest.raises(ValueError, match="2 grids, 1 captions"):
        maps([grid, grid], ["a"], "in words")
    dark, pale = (maps([grid], ["a"], "in words", limit=limit).axes[0].images[0].norm for limit in (None, 4))
    assert dark.vmax == 1 and pale.vmax == 4  # a common scale for two figures
    hot = maps([grid.abs()], ["a"], "in words", signed=False)
    assert len(hot.axes[0].images) == 2 and _texts(hot)[1:] == ["1", "0.5", "0"]  # the map and its scale
    two = maps([grid.abs(), grid.abs() / 4], ["a", "b"], "in words", signed=False)
    assert [image.norm.vmax for image in two.axes[0].images] == [1, 1, 1]  # one scale: the second is pale


def test_a_sheet_keeps_the_order_of_its_pictures():
    pictures = [np.full((8, 8, 3), 20 * i, np.uint8) for i in range(12)]
    figure = sheet(pictures, ["r1", "r2"], ["c1", "c2", "c3"], ["A", "B"], "in words")
    boxes = [image.get_extent() for image in figure.axes[0].images]
    assert boxes[0][0] < boxes[1][0] < boxes[2][0] and boxes[3][2] > boxes[0][2]  # to the right, then down
    assert boxes[6][0] > boxes[2][0] and boxes[6][2] == boxes[0][2]  # the second table stands beside the first
    assert _texts(figure).count("c1") == 2 and "r2" in _texts(figure)
    _rendered(figure)
    with pytest.raises(ValueError, match="11 pictures for 2 x 2 x 3"):
        sheet(pictures[:11], ["r1", "r2"], ["c1", "c2", "c3"], ["A", "B"], "in words")


def test_the_small_world_tells_each_of_its_scenes_apart():
    scenes = lesson.one_thing_scenes()
    ids = lesson.word_ids(scenes)
    assert ids.shape == (24, 3) and len({tuple(row) for row in ids.tolist()}) == 24
    told = [lesson.VOCABULARY[index] for index in ids[-1]]
    assert told == lesson.words_of(scenes[-1]) == ["black", "blue", "bottom right"]


def test_a_scene_is_shifted_to_wherever_its_caption_allows():
    scene = lesson.one_thing_scenes()[0]
    shifted = lesson.shifted(scene)
    offsets = [each.things[0].offset for each in shifted]
    assert len(set(offsets)) == 25 and offsets[12] == (0, 0) and {each.facts() for each in shifted} == {scene}


def test_errors_of_the_noise_are_magnified_in_the_picture():
    scheduler, latents = (
        tiny_scheduler(rescale_betas_zero_snr=False, prediction_type="epsilon"),
        torch.zeros(2, 4, 8, 8),
    )
    artist = lesson.Artist(
        lambda noisy, t, encoder_hidden_states: SimpleNamespace(sample=noisy * 0), lambda ids: ids, scheduler
    )
    last = len(scheduler.alphas_cumprod) - 1
    of_noise, of_picture = lesson.errors(artist, latents, torch.zeros(2, 3), [1, last])
    assert of_noise[0] == of_noise[1] == pytest.approx(1, abs=0.1)  # "there is no noise": off by all of it
    alpha, sigma = (each.item() for each in schedule(scheduler, torch.tensor([last])))
    assert of_picture[1] == pytest.approx(of_noise[1] * sigma / alpha) and of_picture[1] > 3 * of_picture[0]


def test_a_picture_is_judged_by_its_own_scene():
    scenes = lesson.one_thing_scenes()[:2]
    drawn = torch.from_numpy(draw_batch(scenes)).permute(0, 3, 1, 2)
    assert lesson.judge(scenes, drawn) == [True, True] and lesson.judge([scenes[1], None], drawn) == [False, False]


def test_a_background_is_read_or_refused():
    pictures = torch.from_numpy(draw_batch(lesson.one_thing_scenes())).permute(0, 3, 1, 2)
    assert Counter(lesson.backgrounds(pictures)) == {"white": 8, "grey": 8, "black": 8}
    assert lesson.backgrounds(torch.full((1, 3, 64, 64), 90, dtype=torch.uint8)) == [None]
    assert lesson.heard(lesson.one_thing_scenes(), pictures.roll(8, 0)) == 0
    assert lesson.heard(lesson.one_thing_scenes(), pictures) == 24


def test_the_small_network_reads_its_words():
    torch.manual_seed(0)
    network, noisy, t = lesson.SmallNetwork(), torch.randn(2, 4, 8, 8), torch.tensor([10, 10])
    out = [network(noisy, t, encoder_hidden_states=torch.randn(2, 3, 32)).sample for _ in range(2)]
    assert out[0].shape == noisy.shape and not torch.allclose(out[0], out[1])
    assert sum(parameter.numel() for parameter in network.parameters()) < 1_000_000


def test_a_misheard_background_is_another_one():
    ids = lesson.word_ids(lesson.one_thing_scenes())
    dice = torch.Generator().manual_seed(0)
    wrong, heard = lesson.misheard(ids, 1.0, dice), lesson.misheard(ids, 0.0, dice)
    assert (wrong[:, 0] != ids[:, 0]).all() and set(wrong[:, 0].tolist()) == {0, 1, 2}
    assert torch.equal(wrong[:, 1:], ids[:, 1:]) and torch.equal(heard, ids)


def test_drawn_latents_are_counted_by_the_nearest_background():
    assert lesson.shares(_Level.latents[[0, 0, 8, 23]] + 0.1, _Level.latents) == [0.5, 0.25, 0.25]


class _Level:
    """Latents of one level, and pictures as light as they are."""

    latents = torch.tensor([1.0, 0.0, -1.0]).repeat_interleave(8).view(24, 1, 1, 1).expand(24, 4, 8, 8)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        level = (127 + 100 * latents.mean((1, 2, 3))).clamp(0, 255).to(torch.uint8)
        return level.view(-1, 1, 1, 1).expand(-1, 3, 8, 8)


@pytest.mark.parametrize("listens", [True, False])
def test_a_swap_tells_whether_the_word_or_the_start_decides(listens: bool):
    scheduler = tiny_scheduler(rescale_betas_zero_snr=False)

    def unet(noisy, t, encoder_hidden_states):
        """v for a z_0 of the level that the word says, or for the nearest to that of its input."""
        alpha, sigma = schedule(scheduler, t)
        said, seen = encoder_hidden_states[:, 0, 0], (noisy / alpha).mean((1, 2, 3)).clamp(-1, 1)
        z0 = (said if listens else seen).view(-1, 1, 1, 1)
        return SimpleNamespace(sample=(alpha * noisy - z0) / sigma)

    said = torch.tensor([1.0, 0.0, -1.0, *[0.0] * 6])
    artist = lesson.Artist(unet, lambda ids: said[ids].unsqueeze(-1), scheduler)
    ids = lesson.word_ids(lesson.one_thing_scenes())
    pictures = lesson.paint_swapped(artist, _Level(), _Level.latents, ids)
    from_start, from_word = lesson.spreads(pictures)
    assert len(pictures) == 72
    assert (from_word > 80 and from_start < 5) if listens else (from_start > 40 and from_word < 5)


def _tiny_decoder() -> ImageDecoder:
    parts = tiny_diffusion()
    return ImageDecoder(parts.vae, parts.unet, parts.scheduler)


def test_guidance_is_foreseen_on_the_way_that_the_sampler_takes():
    decoder, film = _tiny_decoder(), []
    said, empty = torch.randn(2, 1, 5, decoder.condition_dim, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(decoder.latent_shape, generator=lesson.seeds(1)[0])[None]
    decoder.sample(said, empty, guidance=2, steps=3, generators=lesson.seeds(1), callback=lambda _, z: film.append(z))
    foreseen, apart = lesson.guided(decoder, said, empty, noise, [0, 1, 2], steps=3)
    torch.testing.assert_close(foreseen[:, 2], torch.cat(film))
    torch.testing.assert_close(foreseen[:, 2] - foreseen[:, 1], foreseen[:, 1] - foreseen[:, 0], atol=1e-4, rtol=1e-3)
    assert apart == pytest.approx([(one - none).std().item() for none, one, _ in foreseen], rel=1e-3)


def test_an_exchange_of_all_tokens_is_the_other_caption():
    decoder = _tiny_decoder()
    said, other = torch.randn(2, 1, 5, decoder.condition_dim, generator=torch.Generator().manual_seed(0))
    drawn = lesson.exchanged(decoder, said, other, [[], [1], range(5)])
    for row, condition in ((0, said), (2, other)):
        plain = decoder.sample(condition, guidance=1, steps=8, generators=lesson.seeds(1))
        torch.testing.assert_close(drawn[row], plain[0], atol=1e-4, rtol=1e-3)
    assert not torch.allclose(drawn[1], drawn[0], atol=1e-4)


def test_an_examination_counts_right_pictures_and_their_spread(monkeypatch: pytest.MonkeyPatch):
    scenes = lesson.one_thing_scenes()[:2]
    drawn = torch.from_numpy(draw_batch([scenes[0], scenes[0], scenes[1], scenes[0]])).permute(0, 3, 1, 2)
    asked = {}
    decoder = SimpleNamespace(sample=lambda *given, **how: asked.update(how), decode=lambda latents: drawn)
    monkeypatch.setattr(lesson, "say", lambda pipe, captions: torch.zeros(len(captions), 1, 1))
    found = lesson.examine(decoder, None, scenes, repeats=2, guidance=3)
    assert found.right.tolist() == [[1, 1], [1, 0]] and asked["guidance"] == 3 and len(asked["generators"]) == 4
    apart = (drawn[2].float() - drawn[3].float()).abs().mean().item() / 2  # of two, each is half of it off the mean
    assert found.spread == pytest.approx(apart / 2)  # and the first two are the same


def test_an_examination_has_standard_errors_with_captions_as_units():
    one, other = (
        lesson.Examined(torch.tensor(right), 0.0, torch.empty(0)) for right in ([[1.0], [1.0]], [[1.0], [0.0]])
    )
    assert one.share == (1.0, 0.0) and other.share == pytest.approx((0.5, 0.5))
    assert one.beats(other) == pytest.approx((0.5, 0.5)) and one.beats(one) == (0.0, 0.0)


def test_the_stretched_schedule_of_the_exercise_is_diffusers_own():
    published, cured = (tiny_scheduler(rescale_betas_zero_snr=zero).alphas_cumprod.sqrt() for zero in (False, True))
    torch.testing.assert_close(torch.tensor(lesson.STRETCH.reference(published.tolist())), cured, atol=1e-4, rtol=1e-4)


def test_the_mean_of_a_gaussian_under_the_noise_is_that_of_its_product_with_the_likelihood():
    mean, variance, alpha, sigma, z = 2.0, 4.0, 0.6, 0.8, 0.5
    x = np.linspace(-30, 30, 100_001)
    weight = np.exp(-((x - mean) ** 2) / (2 * variance) - (z - alpha * x) ** 2 / (2 * sigma**2))
    assert lesson.MEAN.reference(z, mean, variance, alpha, sigma) == pytest.approx((x * weight).sum() / weight.sum())
    assert lesson.MEAN.reference(z, mean, variance, 0.0, 1.0) == mean  # without a signal: as before anything was seen
    assert lesson.MEAN.reference(z, mean, variance, alpha, 1e-6) == pytest.approx(z / alpha)


def test_a_copying_network_adds_its_input():
    noisy, words, t = torch.randn(2, 4, 8, 8), torch.randn(2, 3, 32), torch.tensor([10, 10])
    answers = []
    for copy in (False, True):
        torch.manual_seed(0)
        answers.append(lesson.SmallNetwork(copy)(noisy, t, encoder_hidden_states=words).sample)
    torch.testing.assert_close(answers[1], answers[0] + noisy)


def test_the_mean_of_a_gaussian_must_hold_at_pure_noise():
    def divides(z, mean, variance, alpha, sigma):
        return lesson.MEAN.mistakes[0].example(z, mean, variance, alpha, sigma)

    assert "at alpha = 0" in lesson.MEAN.verdict(divides) and lesson.MEAN.verdict(lesson.MEAN.reference).endswith(
        "right"
    )
