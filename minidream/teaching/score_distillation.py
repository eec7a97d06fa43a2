"""Notebook 04: a teacher that knows everything, what the reader says of a batch, two patients, and the exercises."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from transformers import CLIPTextModel, PreTrainedTokenizerFast

from minidream.evaluation.candidate import look, same
from minidream.events import to_image
from minidream.modeling.loading import load_part
from minidream.score_distillation import add_noise, dream_loss, predict, prediction_type, schedule, true_prediction
from minidream.teaching import Exercise, Mistake
from minidream.visualization import film_strip
from minidream.weights import find_weights
from minidream.world.draw import draw_batch
from minidream.world.scene import BACKGROUNDS, PLACES, Scene, Thing


class Mixture:
    """A "UNet" without weights: the exact prediction for a mixture of K round Gaussians in n dimensions.

    It is called as diffusers' UNet is. Its condition (M, 1, K) holds the logits of the K blobs: a caption that says
    which blobs are meant. `centres` (K, n), `spread` their standard deviation.
    """

    def __init__(self, scheduler: Any, centres: Tensor, spread: float) -> None:
        self.scheduler, self.centres, self.spread = scheduler, centres, spread

    def __call__(self, noisy: Tensor, timesteps: Tensor, encoder_hidden_states: Tensor) -> SimpleNamespace:
        alpha, sigma = schedule(self.scheduler, timesteps, 2)  # (M, 1)
        variance = (alpha * self.spread) ** 2 + sigma**2  # of each blob, with its noise
        away = noisy.unsqueeze(1) - alpha.unsqueeze(2) * self.centres  # (M, K, n)
        logits = encoder_hidden_states.squeeze(1) - away.square().sum(2) / (2 * variance)  # (M, K)
        guesses = self.centres + (alpha * self.spread**2 / variance).unsqueeze(2) * away  # E[z_0 | z_t, blob]
        clean = (logits.softmax(1).unsqueeze(2) * guesses).sum(1)  # E[z_0 | z_t], (M, n)
        noise = (noisy - alpha * clean) / sigma
        if prediction_type(self.scheduler) == "epsilon":
            return SimpleNamespace(sample=noise)
        return SimpleNamespace(sample=alpha * noise - sigma * clean)

    def sample(self, shares: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Points (count, n) of the mixture, `shares` (K,) of them in the K blobs."""
        blobs = self.centres[torch.multinomial(shares, count, True, generator=generator)]
        return blobs + self.spread * torch.randn(blobs.shape, generator=generator)


def landing(points: Tensor, centres: Tensor, reach: float) -> str:
    """Where points (M, 2) have come to lie: the share within `reach` of each of `centres` (K, 2), the share within
    none, and the mean distance to the nearest centre, in words."""
    away, nearest = torch.cdist(points, centres).min(1)
    near = [((nearest == blob) & (away <= reach)).float().mean().item() for blob in range(len(centres))]
    parts = [f"{100 * share:5.1f} %" for share in [*near, (away > reach).float().mean().item()]]
    return f"{', '.join(parts)}, mean distance to the nearest cross {away.mean():.2f}"


class Counter:
    """Counts the calls of a UNet and the backward passes through it; else it is that UNet."""

    def __init__(self, unet: Any) -> None:
        self.unet, self.forward, self.backward = unet, 0, 0
        self.dtype = unet.dtype

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        out = self.unet(*inputs, **named)
        self.forward += 1
        if out.sample.requires_grad:
            out.sample.register_hook(self._count)
        return out

    def passes(self, step: Callable[[], Any]) -> tuple[int, int]:
        """Forward and backward passes that one `step` takes."""
        before = self.forward, self.backward
        step()
        return self.forward - before[0], self.backward - before[1]

    def _count(self, gradient: Tensor) -> Tensor:
        self.backward += 1
        return gradient


def as_tensor(scenes: Sequence[Scene]) -> Tensor:
    """The scenes as the world draws them, uint8 (M, 3, 64, 64)."""
    return torch.from_numpy(draw_batch(scenes)).permute(0, 3, 1, 2)


def verdicts(pictures: Tensor, scenes: Sequence[Scene | None]) -> list[bool]:
    """Whether each picture, uint8 (M, 3, H, W), shows its scene, all of it and nothing else, by the exact reader."""
    shown = look([to_image(picture) for picture in pictures])
    return [truth is not None and same(truth, scene) for truth, scene in zip(scenes, shown, strict=True)]


def most_or_few(grades: Sequence[bool]) -> str:
    """How many are right, as far as a training from random numbers can promise it: "most", more than half, or "few"."""
    return "most" if 2 * sum(grades) > len(grades) else "few"


def colourfulness(pictures: Tensor) -> float:
    """The mean over pixels of the brightest minus the darkest channel, 0 for grey to 1; pictures uint8."""
    return float((pictures.amax(1).float() - pictures.amin(1).float()).mean() / 255)


def text_tower() -> tuple[PreTrainedTokenizerFast, CLIPTextModel]:
    """The shipped painter's own tokenizer and CLIP text model, frozen."""
    folder = find_weights("stable-diffusion")
    reader = load_part(CLIPTextModel, folder, "the text tower", subfolder="text_encoder")
    return PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer"), reader.requires_grad_(False)


def star(place: str, background: str) -> Scene:
    """The thing that textual inversion has to learn: a large orange star."""
    return Scene(background, (Thing(place, "orange", "star", "large"),))


def circles() -> tuple[list[Scene], list[str], list[bool]]:
    """The little world of the live training: 15 scenes, a large circle of 5 colours on 3 backgrounds, their captions,
    and which three are held back. Each of their colours and backgrounds is shown in other scenes."""
    colors = ("cyan", "orange", "green", "red", "blue")  # a yellow circle is held out from all of our training
    scenes = [
        Scene(ground, (Thing("top left", color, "circle", "large"),)) for color in colors for ground in BACKGROUNDS
    ]
    told = [(scene.things[0].color, scene.background) for scene in scenes]
    captions = [f"A large {color} circle in the top left on a {ground} background." for color, ground in told]
    return scenes, captions, [pair in {("red", "black"), ("blue", "white"), ("cyan", "grey")} for pair in told]


@torch.no_grad()
def draw(painter: Any, condition: Tensor, null: Tensor | None = None, guidance: float = 1.0) -> Tensor:
    """Pictures uint8 (M, 3, H, W) under conditions (M, Q, D) in ten steps, the i-th from the noise of seed i."""
    generators = [torch.Generator().manual_seed(index) for index in range(len(condition))]
    return painter.decode(painter.sample(condition, null, guidance=guidance, steps=10, generators=generators))


def strip_at(painter: Any, moments: Sequence[Tensor], truth: Sequence[Scene | None], step: int) -> Figure:
    """Four runs of SDS at one step: `moments` are their latents (M, C, h, w), one a step; with verdicts."""
    pictures = painter.decode(moments[step][:4])
    verdict = verdicts(pictures, truth[:4])
    said = [f"run {run}, step {step}" for run in range(1, 5)]
    return film_strip(list(pictures), said, verdict, alt=f"step {step}: {most_or_few(verdict)} of 4 right")


@torch.no_grad()
def a_dax_everywhere(
    painter: Any, say: Callable[[list[str]], Tensor]
) -> tuple[Tensor, list[bool], list[tuple[str, str]]]:
    """A "<dax>" in every place on every background, its verdicts as a `star`, and those places and backgrounds."""
    everywhere = [(place, background) for place in PLACES for background in BACKGROUNDS]
    condition = say([f"A <dax> in the {place} on a {background} background." for place, background in everywhere])
    pictures = draw(painter, condition, say([""]), guidance=2.0)
    return pictures, verdicts(pictures, [star(*each) for each in everywhere]), everywhere


def middles(pictures: Tensor) -> Tensor:
    """Where the one thing of each picture lies, in pixels from the middle of its quarter: (M, 2) as x to the right and
    y upward; pictures uint8 (M, 3, 64, 64), the thing coloured and all else grey. The centre of mass of the colour."""
    weight = (pictures.amax(1).float() - pictures.amin(1).float() - 40).clamp(min=0)  # 40: less is a stain
    mass, axis = weight.sum((1, 2)), torch.arange(weight.shape[1]).float() + 0.5
    x, y = (weight.sum(1) * axis).sum(1) / mass, (weight.sum(2) * axis).sum(1) / mass  # (M,) each
    half = weight.shape[1] / 2
    return torch.stack([x % half - half / 2, half / 2 - y % half], dim=1)


def patient_one(scheduler: Any, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """`add_noise` with the clinic's first bug: alpha_bar where its root belongs. (M, C, h, w)."""
    alpha, sigma = schedule(scheduler, timesteps, latents.ndim)
    return alpha**2 * latents + sigma**2 * noise


@torch.no_grad()
def examine(
    unet: Any, scheduler: Any, latents: Tensor, condition: Tensor, steps: Iterable[int]
) -> dict[str, list[float]]:
    """The UNet's squared error at each timestep, where `add_noise` makes z_t ("healthy"), where the first patient
    does, and against a target of the wrong sign; one noise for all."""
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    found: dict[str, list[float]] = {"healthy": [], "patient": [], "wrong sign": []}
    for step in steps:
        t = torch.full((len(latents),), step)
        truth = true_prediction(scheduler, latents, noise, t)
        for name, noising in {"healthy": add_noise, "patient": patient_one}.items():
            answer = predict(unet, noising(scheduler, latents, noise, t), t, condition)
            found[name].append((answer - truth).square().mean().item())
            if name == "healthy":
                found["wrong sign"].append((answer + truth).square().mean().item())
    return found


def patient_two(unet: Any, scheduler: Any, latents: Tensor, condition: Tensor, generator: torch.Generator) -> Tensor:
    """The dream loss with the clinic's second bug: the condition is detached "to save memory". A second loss, as that
    of the words in DreamLLM, keeps `backward` from complaining."""
    blind = dream_loss(unet, scheduler, latents, condition.detach(), generator=generator)
    return blind + 1e-3 * condition.square().mean()


def _tried(answer: Callable[..., float], *values: tuple[float, ...]) -> list[float]:
    return [round(float(answer(*each)), 6) for each in values]


_SEEN = ((0.5, 1.0, 0.6), (-2.0, 0.5, 0.8))  # v, z_t, alpha (so sigma is 0.8, then 0.6)

SCORE = Exercise(
    "from v to the score",
    reference=lambda v, z, alpha: -(alpha * v + (1 - alpha**2) ** 0.5 * z) / (1 - alpha**2) ** 0.5,
    right=lambda answer: _tried(answer, *_SEEN) == [-1.375, round(13 / 6, 6)],
    mistakes=(
        Mistake(
            lambda v, z, alpha: (alpha * v + (1 - alpha**2) ** 0.5 * z) / (1 - alpha**2) ** 0.5,
            lambda answer: _tried(answer, *_SEEN) == [1.375, round(-13 / 6, 6)],
            "this arrow leads from probable pictures into the noise: the noise is what has to be taken away",
        ),
        Mistake(
            lambda v, z, alpha: -(alpha * v + (1 - alpha**2) ** 0.5 * z),
            lambda answer: _tried(answer, *_SEEN) == [-1.1, 1.3],
            "the direction is right; but where there is little noise the hill is steep: divide by sigma",
        ),
        Mistake(
            lambda v, z, alpha: -v / (1 - alpha**2) ** 0.5,
            lambda answer: _tried(answer, *_SEEN) == [-0.625, round(2 / 0.6, 6)],
            "v is not the noise: first make epsilon of it, alpha v + sigma z_t",
        ),
        Mistake(
            lambda v, z, alpha: -(alpha * v + (1 - alpha**2) * z) / (1 - alpha**2),
            lambda answer: _tried(answer, *_SEEN) == [round(-0.94 / 0.64, 6), round(1.42 / 0.36, 6)],
            "1 - alpha^2 is sigma squared: a root is missing",
        ),
    ),
)

_RATIOS = ((1.0,), (9.0,))  # SNR: under the ceiling of 5, and above it

WEIGHT = Exercise(
    "min-SNR for an error of epsilon",
    reference=lambda snr: (min(snr, 5) + 1) / snr,
    right=lambda answer: _tried(answer, *_RATIOS) == [2.0, round(6 / 9, 6)],
    mistakes=(
        Mistake(
            lambda snr: (min(snr, 5) + 1) / (snr + 1),
            lambda answer: _tried(answer, *_RATIOS) == [1.0, 0.6],
            "that is the weight of an error of v; the same error, measured in epsilon, is smaller",
        ),
        Mistake(
            lambda snr: (min(snr, 5) + 1) * snr / (snr + 1) ** 2,
            lambda answer: _tried(answer, *_RATIOS) == [0.5, 0.54],
            "upside down: an error of epsilon is the *smaller* one, so its weight is the larger one",
        ),
        Mistake(
            lambda snr: min(snr, 5) / snr,
            lambda answer: _tried(answer, *_RATIOS) == [1.0, round(5 / 9, 6)],
            "that is min-SNR for a UNet that predicts epsilon: ours predicts v, and one was added",
        ),
        Mistake(
            lambda snr: min(snr, 5) + 1,
            lambda answer: _tried(answer, *_RATIOS) == [2.0, 6.0],
            "that is the weight of an error of z_0: an error of epsilon is that times the root of the SNR",
        ),
        Mistake(
            lambda snr: (min(snr, 5) + 1) / ((snr + 1) * snr) ** 0.5,
            lambda answer: _tried(answer, *_RATIOS) == [round(2**0.5, 6), round(6 / 90**0.5, 6)],
            "the loss holds the *square* of the error: divide by alpha_t squared",
        ),
    ),
)
