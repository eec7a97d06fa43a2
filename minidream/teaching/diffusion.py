"""Notebook 03: a world small enough to learn in seconds, who paints it, how it is examined, and the exercises."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from diffusers import DDIMScheduler
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

from minidream.evaluation.candidate import same
from minidream.modeling.diffusion import SOLVERS, ImageDecoder
from minidream.score_distillation import add_noise, predict, schedule, to_epsilon
from minidream.teaching import Exercise, Mistake
from minidream.world.captions import plain_caption
from minidream.world.read import read_batch
from minidream.world.scene import BACKGROUNDS, JITTER, PLACES, Scene, Thing

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


def shifted(scene: Scene) -> list[Scene]:
    """A scene of one thing at all the places that its caption allows: (2 `JITTER` + 1)^2 offsets, row by row."""
    thing, steps = scene.things[0], range(-JITTER, JITTER + 1)
    return [replace(scene, things=(replace(thing, offset=(dx, dy)),)) for dy in steps for dx in steps]


def words_of(scene: Scene) -> list[str]:
    """The three words that tell a scene of the small world: background, colour, place."""
    return [scene.background, scene.things[0].color, scene.things[0].place]


def word_ids(scenes: list[Scene]) -> Tensor:
    """Those words as places in `VOCABULARY`, (M, 3)."""
    return torch.tensor([[VOCABULARY.index(word) for word in words_of(scene)] for scene in scenes])


def misheard(ids: Tensor, wrong: float, generator: torch.Generator) -> Tensor:
    """Word ids (M, 3) whose background is, with the probability `wrong`, one of the other two instead."""
    lied = torch.rand(len(ids), generator=generator) < wrong
    other = (ids[:, 0] + torch.randint(1, len(BACKGROUNDS), (len(ids),), generator=generator)) % len(BACKGROUNDS)
    return torch.cat([torch.where(lied, other, ids[:, 0])[:, None], ids[:, 1:]], 1)


def shares(drawn: Tensor, known: Tensor) -> list[float]:
    """The shares of white, grey and black among latents (M, ...), each by the nearest of `known` (24, ...)."""
    nearest = torch.cdist(drawn.flatten(1), known.flatten(1)).argmin(1)
    kinds = len(known) // len(BACKGROUNDS)
    return ((nearest // kinds).bincount(minlength=len(BACKGROUNDS)) / len(drawn)).tolist()


def colleagues_scheduler() -> Any:
    """What somebody wrote by hand in the bug clinic."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        timestep_spacing="trailing",
        set_alpha_to_one=False,
    )


class Answer(NamedTuple):
    """What a network says, as diffusers' UNet hands it over."""

    sample: Tensor


class SmallNetwork(nn.Module):
    """Two residual layers in a UNet's place: no convolutions, but the same call, and far faster.

    It takes latents of 256 numbers, a timestep and three words of 32 numbers each. `copy` adds what it is given to what
    it says, so that it need not learn to copy.
    """

    def __init__(self, copy: bool = False, width: int = 384) -> None:
        super().__init__()
        self.copy = copy
        self.see, self.say = nn.Linear(256, width), nn.Linear(width, 256)
        self.hear, self.when = nn.Linear(96, width), nn.Linear(64, 2 * width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(2)
        )

    def forward(self, noisy: Tensor, timesteps: Tensor, encoder_hidden_states: Tensor) -> Answer:
        """An answer like `noisy` (M, C, h, w)."""
        loud, when = self.when(get_timestep_embedding(timesteps, 64)).chunk(2, -1)  # (M, W) each
        told, x = when + self.hear(encoder_hidden_states.flatten(1)), self.see(noisy.flatten(1))  # (M, W)
        for block in self.blocks:
            x = x + block(x + told)
        said = self.say(x * (1 + loud)).view_as(noisy)
        return Answer(said + noisy if self.copy else said)


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


def heard(scenes: Sequence[Scene], pictures: Tensor) -> int:
    """How many of the pictures (M, 3, H, W) uint8 have the background of their scene."""
    return sum(found == scene.background for found, scene in zip(backgrounds(pictures), scenes, strict=True))


def seeds(count: int) -> list[torch.Generator]:
    """A source of noise for each of `count` pictures."""
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


@torch.no_grad()
def say(pipe: Any, captions: list[str]) -> Tensor:
    """Captions to the condition (M, S, D) that cross-attention reads, by a Stable Diffusion's own text encoder."""
    tokens = pipe.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
    return pipe.text_encoder(tokens["input_ids"])[0]


class Artist(NamedTuple):
    """A small network, the vectors of the words that it listens to, and the schedule it was trained on."""

    unet: Any  # `SmallNetwork()`
    words: Callable[[Tensor], Tensor]  # an Embedding
    scheduler: Any

    @torch.no_grad()
    def draw(self, ids: Tensor, start: Tensor, steps: int = 10) -> Tensor:
        """Latents (M, C, h, w) of three words each, ids (M, 3), by DDIM from `start` (M, C, h, w)."""
        clock = DDIMScheduler.from_config(self.scheduler.config)
        clock.set_timesteps(steps)
        latents, condition = start, self.words(ids)
        for t in clock.timesteps:
            prediction = predict(self.unet, latents, t.expand(len(latents)), condition)
            latents = clock.step(prediction, t, latents).prev_sample
        return latents

    def paint(self, decoder: ImageDecoder, ids: Tensor, start: Tensor, steps: int = 10) -> Tensor:
        """The same as pictures (M, 3, H, W) uint8."""
        return decoder.decode(self.draw(ids, start, steps))


@torch.no_grad()
def errors(artist: Artist, latents: Tensor, ids: Tensor, timesteps: Sequence[int]) -> tuple[list[float], list[float]]:
    """How far an artist's noise, and the z_0 that it implies, are off at each timestep (root mean square).

    `latents` (M, C, h, w) are told by ids (M, 3). alpha_t must not be 0.
    """
    of_noise, of_picture = [], []
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(9))
    for timestep in timesteps:
        t = torch.full((len(latents),), timestep)
        noisy = add_noise(artist.scheduler, latents, noise, t)
        prediction = predict(artist.unet, noisy, t, artist.words(ids))
        off = (to_epsilon(prediction, noisy, artist.scheduler, t) - noise).square().mean().sqrt().item()
        alpha, sigma = schedule(artist.scheduler, t[:1])
        of_noise.append(off)
        of_picture.append(off * (sigma / alpha).item())
    return of_noise, of_picture


@torch.no_grad()
def noise_and_foresee(decoder: ImageDecoder, latents: Tensor, noise: Tensor, t: int, condition: Tensor) -> Tensor:
    """Latents (1, C, h, w) noised to t, and z_0 as the UNet foresees it from there: pictures (2, 3, H, W) uint8."""
    scheduler, timestep = decoder.scheduler, torch.tensor([t])
    noisy = add_noise(scheduler, latents, noise, timestep)
    v = predict(decoder.unet, noisy, timestep, condition)
    alpha, sigma = schedule(scheduler, timestep)
    return decoder.decode(torch.cat([noisy, alpha * noisy - sigma * v]))


@torch.no_grad()
def guided(
    decoder: ImageDecoder, said: Tensor, empty: Tensor, z: Tensor, loudness: Sequence[float], steps: int
) -> tuple[Tensor, list[float]]:
    """z_0 as foreseen with each guidance, (steps, G, C, h, w), on the way that the last of them takes from z, by DPM.

    And how far, at each step, z_0 foreseen with the caption alone lies from that without (standard deviation).
    """
    clock = SOLVERS["dpm"].from_config(decoder.scheduler.config)
    clock.set_timesteps(steps)
    foreseen, apart = [], []
    for t in clock.timesteps:
        alpha, sigma = schedule(decoder.scheduler, t[None])
        v_c, v_u = (predict(decoder.unet, z, t[None], condition) for condition in (said, empty))
        answers = [v_u + g * (v_c - v_u) for g in loudness]
        foreseen.append(torch.cat([alpha * z - sigma * v for v in answers]))
        apart.append((sigma * (v_c - v_u)).std().item())
        z = clock.step(answers[-1], t, z).prev_sample
    return torch.stack(foreseen), apart


def exchanged(decoder: ImageDecoder, said: Tensor, other: Tensor, parts: Iterable[Sequence[int]]) -> Tensor:
    """Latents (P, C, h, w) drawn under the condition `said` (1, S, D), for each part with its tokens from `other`.

    All from one noise, with guidance 1.
    """
    mixed = []
    for tokens in parts:
        mixed.append(said[0].clone())
        mixed[-1][list(tokens)] = other[0, list(tokens)]
    generators = [seeds(1)[0] for _ in mixed]
    return decoder.sample(torch.stack(mixed), guidance=1, steps=8, generators=generators)


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
    """Which pictures are right (captions, repeats), how much those of one caption differ, and the pictures.

    `spread` is a distance in levels, 0 .. 255, of the median caption.
    """

    right: Tensor
    spread: float
    pictures: Tensor

    @property
    def share(self) -> tuple[float, float]:
        """The share of right pictures, and its standard error: captions are the units."""
        return _mean_and_error(self.right.mean(1))

    def beats(self, other: Examined) -> tuple[float, float]:
        """By how much the share is above another's on the same captions, with the paired standard error."""
        return _mean_and_error((self.right - other.right).mean(1))


def _mean_and_error(values: Tensor) -> tuple[float, float]:
    return values.mean().item(), (values.std() / math.sqrt(len(values))).item()


def judge(scenes: Sequence[Scene | None], pictures: Tensor) -> list[bool]:
    """Whether each of the pictures (M, 3, H, W) uint8 shows exactly its scene."""
    shown = read_batch(pictures.permute(0, 2, 3, 1).numpy())
    return [truth is not None and same(truth, seen) for truth, seen in zip(scenes, shown, strict=True)]


def examine(decoder: ImageDecoder, pipe: Any, scenes: list[Scene], repeats: int = 1, **how: Any) -> Examined:
    """Draw each scene's caption `repeats` times, from other noise each time; `how` goes to `ImageDecoder.sample`."""
    told = [scene for scene in scenes for _ in range(repeats)]
    condition = say(pipe, [plain_caption(scene) for scene in told])
    pictures = decoder.decode(decoder.sample(condition, say(pipe, [""]), generators=seeds(len(told)), **how))
    right = judge(told, pictures)
    spread = pictures.float().reshape(len(scenes), repeats, -1).std(1, correction=0).mean(1).quantile(0.5).item()
    return Examined(torch.tensor(right).float().view(len(scenes), repeats), spread, pictures)


Numbers = Callable[..., float]


def _mean(answer: Numbers) -> float:
    return round(float(answer(0.5, 2.0, 4.0, 0.6, 0.8)), 6)


def _at_pure_noise(answer: Numbers) -> float | None:
    """The answer at alpha = 0, None where it divides by it."""
    try:
        return round(float(answer(0.5, 2.0, 4.0, 0.0, 1.0)), 6)
    except ZeroDivisionError:
        return None


def _mean_instead(example: Numbers, hint: str) -> Mistake:
    return Mistake(example, lambda answer: _mean(answer) == _mean(example), hint)


def _between(z: float, mean: float, variance: float, alpha: float, noise: float) -> float:
    """E[z_0 | z_t] for z_0 of a Gaussian: its mean, moved by what z_t shows beyond it. `noise` is a variance."""
    return mean + alpha * variance / (alpha**2 * variance + noise) * (z - alpha * mean)


MEAN: Exercise = Exercise(
    "the mean under the noise",
    reference=lambda z, mean, variance, alpha, sigma: _between(z, mean, variance, alpha, sigma**2),
    right=lambda answer: _mean(answer) == _mean(MEAN.reference) and _at_pure_noise(answer) == 2.0,
    mistakes=(
        Mistake(
            lambda z, mean, variance, alpha, sigma: (
                (mean / variance + z / alpha / (sigma / alpha) ** 2) / (1 / variance + 1 / (sigma / alpha) ** 2)
            ),
            lambda answer: _mean(answer) == _mean(MEAN.reference),
            "right while alpha is above 0; at alpha = 0, this lesson's last timestep, it must give the mean",
        ),
        _mean_instead(
            lambda z, mean, variance, alpha, sigma: mean,
            "that is the mean before anything was seen; z moves it",
        ),
        _mean_instead(
            lambda z, mean, variance, alpha, sigma: z / alpha,
            "that takes z for free of noise, and forgets where z_0 lay before",
        ),
        _mean_instead(
            lambda z, mean, variance, alpha, sigma: (mean + z / alpha) / 2,
            "halves are fair only where both are equally sure: weigh them by their inverse variances",
        ),
        _mean_instead(
            lambda z, mean, variance, alpha, sigma: (
                (mean / variance + z / alpha / sigma**2) / (1 / variance + 1 / sigma**2)
            ),
            "dividing by alpha makes the noise larger too: of z / alpha the variance is (sigma / alpha) squared",
        ),
        _mean_instead(
            lambda z, mean, variance, alpha, sigma: _between(z, mean, variance, alpha, sigma),
            "sigma is a standard deviation: the variance of the noise is its square",
        ),
    ),
)


def _stretched(answer: Callable[..., Sequence[float]]) -> list[float]:
    return [round(float(alpha), 6) for alpha in answer([0.9, 0.7, 0.4, 0.1])]


STRETCH = Exercise(
    "zero terminal SNR",
    reference=lambda alphas: [(a - alphas[-1]) * alphas[0] / (alphas[0] - alphas[-1]) for a in alphas],
    right=lambda answer: _stretched(answer) == [0.9, 0.675, 0.3375, 0.0],
    mistakes=(
        Mistake(
            lambda alphas: [a - alphas[-1] for a in alphas],
            lambda answer: _stretched(answer) == [0.8, 0.6, 0.3, 0.0],
            "the end is 0, but the beginning has moved as well: stretch what you shifted",
        ),
        Mistake(
            lambda alphas: [*alphas[:-1], 0.0],
            lambda answer: _stretched(answer) == [0.9, 0.7, 0.4, 0.0],
            "only the last timestep has moved; all shall move a little, so that no step is a leap",
        ),
        Mistake(
            lambda alphas: [(a - alphas[-1]) / (alphas[0] - alphas[-1]) for a in alphas],
            lambda answer: _stretched(answer) == [1.0, 0.75, 0.375, 0.0],
            "the first shall stay what it was, not become 1",
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
