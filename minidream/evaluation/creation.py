"""Does the picture show what was asked? GenEval's six categories by the exact reader; FID, CLIP score and diversity.

The teacher is plain diffusers' `StableDiffusionPipeline` with the text encoder that MiniDream leaves out: what
the frozen decoder draws from the text it was trained with. Taught in notebook 09.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from minidream.batch import batches
from minidream.errors import UserError
from minidream.evaluation.candidate import Candidate, dice, look, same
from minidream.evaluation.statistics import GROUPS, Leaf, bootstrap, jackknife, proportion
from minidream.modeling.diffusion import SOLVERS
from minidream.modeling.loading import load_part
from minidream.sampling import SamplingOptions
from minidream.world.draw import draw_batch
from minidream.world.prompts import CATEGORIES, Constraint, creation_prompt
from minidream.world.scene import PLACES, Scene, random_scene

Draw = Callable[[list[str], int], list[Image.Image]]
Trial = tuple[str, Constraint]


def trials(n: int, seed: int, held_out: bool, categories: Sequence[str] = CATEGORIES) -> list[Trial]:
    """`n` prompts of each category, category by category, with what their pictures must show."""
    made = []
    for category in categories:
        rng = dice(seed, "creation", category, "held-out" if held_out else "seen")
        made += [creation_prompt(category, rng, held_out) for _ in range(n)]
    return made


def grade(draw: Draw, asked: list[Trial], seed: int) -> tuple[dict[str, Leaf], list[Image.Image]]:
    """The share of right pictures for each category and `overall`, and the pictures."""
    pictures = draw([prompt for prompt, _ in asked], seed)
    right: dict[str, list[bool]] = {constraint.category: [] for _, constraint in asked}
    for (_, constraint), shown in zip(asked, look(pictures), strict=True):
        right[constraint.category].append(constraint.satisfied(shown))
    shares = {category: proportion(passed) for category, passed in right.items()}
    return shares | {"overall": proportion([passed for some in right.values() for passed in some])}, pictures


def facts(asked: list[Trial], pictures: list[Image.Image]) -> dict[str, Leaf]:
    """Which facts of the told scenes the pictures show, where few are wholly right: the shares of pictures that can be
    read at all, and that have the right background, number of things, places taken, colours, shapes and sizes (each
    as often as told, wherever they lie), and the whole scene. A picture that cannot be read has nothing right."""
    shares: dict[str, list[bool]] = {}
    for (_, constraint), shown in zip(asked, look(pictures), strict=True):
        told, found = _facts(constraint.scene), None if shown is None else _facts(shown)
        for fact, truth in told.items():
            shares.setdefault(fact, []).append(found is not None and found[fact] == truth)
    return {fact: proportion(right) for fact, right in shares.items()}


def _facts(scene: Scene) -> dict[str, Any]:
    things = scene.things
    return {
        "readable": True,
        "background": scene.background,
        "count": len(things),
        "places": sorted(thing.place for thing in things),
        "colors": sorted(thing.color for thing in things),
        "shapes": sorted(thing.shape for thing in things),
        "sizes": sorted(thing.size for thing in things),
        "scene": scene.facts(),
    }


def seen(candidate: Candidate, n: int, seed: int, clip: Path | None) -> dict[str, Any]:
    """Prompts like training's: `{"seen": categories}` and their `quality`; null where what it takes is missing."""
    asked = trials(n, seed, held_out=False)
    shares, pictures = grade(candidate.draw, asked, noise_seed(seed, "seen"))
    return {"seen": shares} | quality(clip, pictures, asked)


def held_out(candidate: Candidate, n: int, seed: int, clip: Path | None) -> dict[str, Any]:
    """Prompts about pairs and relations that training never shows: `{"held_out": categories, "held_out_quality"}`."""
    asked = trials(n, seed, held_out=True)
    shares, pictures = grade(candidate.draw, asked, noise_seed(seed, "held-out"))
    return {"held_out": shares, "held_out_quality": quality(clip, pictures, asked)}


def decoder(candidate: Candidate, n: int, seed: int) -> dict[str, Any]:
    """The ceiling: `n` scenes of each number of things, of which the true pictures, encoded and decoded by the image
    decoder's VAE, are read back exactly: `{"decoder": share}`."""
    rng = dice(seed, "creation", "decoder")
    scenes = [random_scene(rng, count) for count in range(1, len(PLACES) + 1) for _ in range(n)]
    shown = look(candidate.rebuild([Image.fromarray(pixels) for pixels in draw_batch(scenes)]))
    return {"decoder": proportion([same(scene, each) for scene, each in zip(scenes, shown, strict=True)])}


def teacher(folder: Path | None, n: int, seed: int, guidance: float, steps: int) -> dict[str, Any]:
    """The same prompts through `StableDiffusionPipeline`: its categories, and under `held_out` those of that half."""
    if folder is None:
        return {"teacher": None}
    draw = stable_diffusion(folder, guidance, steps)
    shares, unseen = (
        grade(draw, trials(n, seed, part), noise_seed(seed, "held-out" if part else "seen"))[0]
        for part in (False, True)
    )
    return {"teacher": {**shares, "held_out": unseen}}


def noise_seed(seed: int, part: str) -> int:
    """The seed of the noise that an examination's pictures are drawn from; `part`: "seen" or "held-out"."""
    return dice(seed, "creation", part, "noise").randrange(2**31)


def stable_diffusion(folder: Path, guidance: float, steps: int, device: torch.device | None = None) -> Draw:
    """Draw through plain diffusers, by the pipeline's own call, one generator a picture; with the solver by which
    MiniDream draws, so that both can be compared. `device`: cuda where there is one, if None."""
    from diffusers import StableDiffusionPipeline

    options = {"dtype": torch.float32, "safety_checker": None, "use_safetensors": True}
    pipe = load_part(StableDiffusionPipeline, folder, "the teacher", **options)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = SOLVERS[SamplingOptions.solver].from_config(pipe.scheduler.config)
    pipe.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def draw(captions: list[str], seed: int) -> list[Image.Image]:
        drawn: list[Image.Image] = []
        for some in batches(captions):
            generators = [torch.Generator().manual_seed(seed + len(drawn) + i) for i in range(len(some))]
            made = pipe(
                list(some),
                guidance_scale=guidance,
                num_inference_steps=steps,
                generator=generators,
                output_type="np",
            ).images  # (B, H, W, 3) in [0, 1]
            drawn += [Image.fromarray(pixels) for pixels in (made * 255 + 0.5).astype(np.uint8)]
        return drawn

    return draw


class ClipFeatures(nn.Module):
    """Our CLIP's picture embeddings as a feature network: uint8 (B, 3, H, W) -> (B, num_features)."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from transformers import CLIPModel, PreTrainedTokenizerFast

        self.clip: Any = load_part(CLIPModel, folder, "the CLIP").eval()
        self.tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(folder)
        self.num_features: int = self.clip.config.projection_dim

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Tensor:
        pixels = pictures.float() / 127.5 - 1
        return self.clip.visual_projection(self.clip.vision_model(pixel_values=pixels).pooler_output)

    @torch.no_grad()
    def texts(self, captions: list[str]) -> Tensor:
        """Captions -> (B, num_features), cut as in training; padding changes nothing."""
        length = self.clip.config.text_config.max_position_embeddings
        tokens = self.tokenizer(captions, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        text = self.clip.text_model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
        return self.clip.text_projection(text.pooler_output)


def quality(folder: Path | None, pictures: list[Image.Image], asked: list[Trial]) -> dict[str, Leaf | None]:
    """`fid` to the true pictures of the same prompts; `clip_score`, 100 times the cosine of caption and picture; and
    `diversity`, how far apart the pictures are over how far apart the true ones are: 1 for as varied, 0 for all alike.
    """
    if folder is None:
        return {"fid": None, "clip_score": None, "diversity": None}
    clip = ClipFeatures(folder)
    side = clip.clip.config.vision_config.image_size
    arrays = np.stack([np.asarray(picture.resize((side, side))) for picture in pictures])
    truth = draw_batch([constraint.scene for _, constraint in asked])
    if truth.shape != arrays.shape:
        truth = np.stack([np.asarray(Image.fromarray(pixels).resize((side, side))) for pixels in truth])
    made, real = (
        torch.cat([clip(torch.from_numpy(some).permute(0, 3, 1, 2)) for some in batches(part, 256)])
        for part in (arrays, truth)
    )
    texts = torch.cat([clip.texts([prompt for prompt, _ in some]) for some in batches(asked, 256)])
    agreement = 100 * torch.cosine_similarity(made, texts).clamp(min=0)
    fid = diversity = None
    if len(made) >= 2 * GROUPS:
        diversity = jackknife(len(made), lambda index: spread(made[index]) / spread(real[index]))
        try:
            fid = jackknife(len(made), lambda index: frechet(real[index], made[index]))
        except UserError as missing:
            print(f"minidream: FID is not measured: {missing}", file=sys.stderr)
    return {"fid": fid, "clip_score": bootstrap(agreement.double().numpy()), "diversity": diversity}


def spread(features: Tensor) -> float:
    """The mean cosine distance, 0 to 2, of all pairs among features (N, D), N > 1."""
    directions = torch.nn.functional.normalize(features.double(), dim=1)
    count = len(directions)
    return float((count**2 - directions.sum(0).square().sum()) / (count * (count - 1)))


def frechet(real: Tensor, made: Tensor) -> float:
    """FID between features (N, D), by torchmetrics. Raises `UserError` where torchmetrics is not installed."""
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance
    except ImportError:
        raise UserError("FID needs torchmetrics: install it with `pip install -e .[notebooks]`") from None
    given = nn.Identity()
    given.num_features = real.shape[1]  # type: ignore[assignment]
    metric = FrechetInceptionDistance(feature=given)
    metric.update(real, real=True)
    metric.update(made, real=False)
    return float(metric.compute())
