"""Notebook 03: a world small enough to learn in seconds, who paints it, how it is examined, and the exercises."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor

from minidream.evaluation.interleaved import same
from minidream.modeling.diffusion import ImageDecoder
from minidream.score_distillation import add_noise, predict, schedule
from minidream.teaching import Exercise, Mistake
from minidream.world.captions import plain_caption
from minidream.world.read import read_batch
from minidream.world.scene import BACKGROUNDS, PLACES, Scene, Thing

COLORS = ("orange", "blue")
VOCABULARY = (*BACKGROUNDS, *COLORS, *PLACES)  # the nine words of the small world
NEAR = 25.0  # levels of 255: a background further off than this is none of the three


def one_thing_scenes() -> list[Scene]:
    """The small world: a large star in two colours, four places, on three backgrounds, background by background."""
    return [
        Scene(background, (Thing(place, color, "star", "large"),))
        for background in BACKGROUNDS
        for color in COLORS
        for place in PLACES
    ]


def words_of(scene: Scene) -> list[str]:
    """The three words that tell a scene of the small world: background, colour, place."""
    return [scene.background, scene.things[0].color, scene.things[0].place]


def word_ids(scenes: list[Scene]) -> Tensor:
    """Those words as places in `VOCABULARY`, (M, 3)."""
    return torch.tensor([[VOCABULARY.index(word) for word in words_of(scene)] for scene in scenes])


def small_unet() -> UNet2DConditionModel:
    """A UNet of a quarter of a million parameters for 4 x 8 x 8 latents and a condition of width 32.

    Attention to the words stands on the inner, 4 x 4 level only: there it costs next to nothing.
    """
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def background_levels(pictures: Tensor) -> Tensor:
    """How light the backgrounds of pictures (M, 3, H, W) uint8 are, 0 .. 255, (M,): medians, for things are small."""
    return pictures.float().mean(1).flatten(1).median(1).values


def backgrounds(pictures: Tensor) -> list[str | None]:
    """The background that each picture shows, None where it is none of the three."""
    levels = {name: sum(color) / 3 for name, color in BACKGROUNDS.items()}
    found = []
    for shown in background_levels(pictures).tolist():
        name = min(levels, key=lambda each: abs(levels[each] - shown))
        found.append(name if abs(levels[name] - shown) < NEAR else None)
    return found


def seeds(count: int) -> list[torch.Generator]:
    """A source of noise for each of `count` pictures."""
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


@torch.no_grad()
def say(pipe: Any, captions: list[str]) -> Tensor:
    """Captions to the condition (M, S, D) that cross-attention reads, by a Stable Diffusion's own text encoder."""
    tokens = pipe.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
    return pipe.text_encoder(tokens["input_ids"])[0]


class Artist(NamedTuple):
    """A small UNet, the vectors of the words that it listens to, and the schedule it was trained on."""

    unet: UNet2DConditionModel
    words: Callable[[Tensor], Tensor]  # an Embedding
    scheduler: Any

    @torch.no_grad()
    def paint(self, decoder: ImageDecoder, ids: Tensor, start: Tensor, steps: int = 10) -> Tensor:
        """Pictures (M, 3, H, W) uint8 of three words each, ids (M, 3), by DDIM from `start` (M, C, h, w)."""
        clock = DDIMScheduler.from_config(self.scheduler.config)
        clock.set_timesteps(steps)
        latents, condition = start, self.words(ids)
        for t in clock.timesteps:
            prediction = predict(self.unet, latents, t.expand(len(latents)), condition)
            latents = clock.step(prediction, t, latents).prev_sample
        return decoder.decode(latents)


class Film:
    """What a small network paints of three words (1, 3) from `start`, at some steps of its training: call it there."""

    def __init__(self, decoder: ImageDecoder, ids: Tensor, start: Tensor, at: Sequence[int]) -> None:
        self.decoder, self.ids, self.start, self.at = decoder, ids, start, at
        self.pictures: list[Tensor] = []
        self.captions: list[str] = []

    def __call__(self, step: int, artist: Artist) -> None:
        if step in self.at:
            self.pictures.append(artist.paint(self.decoder, self.ids, self.start)[0])
            self.captions.append(f"after {step} steps")


@torch.no_grad()
def noise_and_foresee(decoder: ImageDecoder, latents: Tensor, noise: Tensor, t: int, condition: Tensor) -> Tensor:
    """Latents (1, C, h, w) noised to t, and z_0 as the UNet foresees it from there: pictures (2, 3, H, W) uint8."""
    scheduler, timestep = decoder.scheduler, torch.tensor([t])
    noisy = add_noise(scheduler, latents, noise, timestep)
    v = predict(decoder.unet, noisy, timestep, condition)
    alpha, sigma = schedule(scheduler, timestep)
    return decoder.decode(torch.cat([noisy, alpha * noisy - sigma * v]))


def paint_swapped(artist: Artist, decoder: ImageDecoder, latents: Tensor, ids: Tensor) -> Tensor:
    """Start from a noised picture of each background, say each background: (3 starts x 3 words x 8) pictures.

    `latents` and `ids` are those of `one_thing_scenes`; they are noised to the last timestep, all with the same noise.
    """
    kinds = len(latents) // len(BACKGROUNDS)
    origin = torch.cat([torch.arange(kinds) + kinds * i for i in range(len(BACKGROUNDS)) for _ in BACKGROUNDS])
    noise = torch.randn(latents[:kinds].shape, generator=torch.Generator().manual_seed(6))
    last = torch.full((len(origin),), len(artist.scheduler.alphas_cumprod) - 1)
    start = add_noise(artist.scheduler, latents[origin], noise.repeat(9, 1, 1, 1), last)
    return artist.paint(decoder, ids.repeat(len(BACKGROUNDS), 1), start)


def spreads(pictures: Tensor) -> tuple[float, float]:
    """How far the background of `paint_swapped`'s pictures moves with the start, and with the word: levels of 255."""
    levels = background_levels(pictures).view(3, 3, -1).mean(2)  # start x word
    return levels.mean(1).std().item(), levels.mean(0).std().item()


class Examined(NamedTuple):
    """The share of right pictures, how much those of one caption differ (levels of 255), and the pictures."""

    right: float
    spread: float
    pictures: Tensor


def examine(decoder: ImageDecoder, pipe: Any, scenes: list[Scene], repeats: int = 1, **how: Any) -> Examined:
    """Draw each scene's caption `repeats` times, from other noise each time; `how` goes to `ImageDecoder.sample`."""
    told = [scene for scene in scenes for _ in range(repeats)]
    condition = say(pipe, [plain_caption(scene) for scene in told])
    pictures = decoder.decode(decoder.sample(condition, say(pipe, [""]), generators=seeds(len(told)), **how))
    right = [same(scene, shown) for scene, shown in zip(told, read_batch(pictures.permute(0, 2, 3, 1).numpy()))]
    spread = pictures.float().reshape(len(scenes), repeats, -1).std(1, correction=0).mean().item()
    return Examined(sum(right) / len(right), spread, pictures)


Numbers = Callable[..., float]


def _clean(answer: Numbers) -> float:
    return round(float(answer(2.0, 0.5, 0.8, 0.6)), 6)  # z_t = 2, v = 0.5: z_0 = 1.3, eps = 1.6


X0_FROM_V = Exercise(
    "the picture inside v",
    reference=lambda z, v, alpha, sigma: alpha * z - sigma * v,
    right=lambda answer: _clean(answer) == 1.3,
    mistakes=(
        Mistake(
            lambda z, v, alpha, sigma: sigma * z + alpha * v,
            lambda answer: _clean(answer) == 1.6,
            "that is the noise in it; the picture is what alpha stands before in z_t",
        ),
        Mistake(
            lambda z, v, alpha, sigma: alpha * z + sigma * v,
            lambda answer: _clean(answer) == 1.9,
            "v holds the picture with a minus (v = alpha eps - sigma z_0): mind the sign",
        ),
        Mistake(
            lambda z, v, alpha, sigma: (z - sigma * v) / alpha,
            lambda answer: _clean(answer) == 2.125,
            "so one takes the picture out of z_t when the *noise* was predicted; v is not the noise",
        ),
    ),
)


def _step(answer: Numbers) -> float:
    return round(float(answer(1.0, 2.0, 0.6)), 6)  # z_0 = 1, eps = 2, alpha_s = 0.6: sigma_s = 0.8


DDIM_STEP = Exercise(
    "one step of DDIM",
    reference=lambda x0, eps, alpha: alpha * x0 + math.sqrt(1 - alpha**2) * eps,
    right=lambda answer: _step(answer) == 2.2,
    mistakes=(
        Mistake(
            lambda x0, eps, alpha: alpha * x0 + (1 - alpha) * eps,
            lambda answer: _step(answer) == 1.4,
            "alpha and sigma do not add up to 1; their squares do",
        ),
        Mistake(
            lambda x0, eps, alpha: alpha * x0 + (1 - alpha**2) * eps,
            lambda answer: _step(answer) == 1.88,
            "1 - alpha^2 is the noise's variance; it is scaled by the standard deviation",
        ),
        Mistake(
            lambda x0, eps, alpha: x0,
            lambda answer: _step(answer) == 1.0,
            "that jumps to the end at once; an earlier z still has its share of noise",
        ),
        Mistake(
            lambda x0, eps, alpha: alpha * x0,
            lambda answer: _step(answer) == 0.6,
            "the noise is missing: z_s is less noisy than z_t, not clean",
        ),
    ),
)


def _leak(answer: Numbers) -> float:
    return round(float(answer(0.6, 0.8, 64)), 6)  # 0.75 a position, over 64: 6


LEAK = Exercise(
    "how loud the mean is",
    reference=lambda alpha, sigma, positions: alpha / sigma * math.sqrt(positions),
    right=lambda answer: _leak(answer) == 6.0,
    mistakes=(
        Mistake(
            lambda alpha, sigma, positions: alpha / sigma * positions,
            lambda answer: _leak(answer) == 48.0,
            "the noise of a mean shrinks with the square root of how many numbers go into it",
        ),
        Mistake(
            lambda alpha, sigma, positions: alpha / sigma,
            lambda answer: _leak(answer) == 0.75,
            "that is one position; the mean of all of them is known much better",
        ),
        Mistake(
            lambda alpha, sigma, positions: alpha / sigma / math.sqrt(positions),
            lambda answer: _leak(answer) == 0.09375,
            "more positions make the mean easier to read, not harder",
        ),
        Mistake(
            lambda alpha, sigma, positions: alpha * math.sqrt(positions),
            lambda answer: _leak(answer) == 4.8,
            "count it in standard deviations of the noise: divide by sigma",
        ),
    ),
)
