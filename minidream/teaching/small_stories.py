"""Notebook 06: a kind of story small enough to learn from in 36 steps, and its exam."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from minidream import score_distillation as sd
from minidream.events import to_image
from minidream.processing import MiniDreamProcessor
from minidream.training.dream import DreamTask
from minidream.training.recipes import recipe_for
from minidream.weights import find_weights
from minidream.world.captions import plain_caption
from minidream.world.corpora import Example
from minidream.world.scene import COLORS, Scene, is_held_out, random_scene
from minidream.world.stories import QUIET

POOL = 64  # small stories to learn from: few enough that the frozen encoders are done with them after a few steps


def small_story(rng: random.Random) -> Example:
    """One thing, told and shown; then it turns to another colour. In two stories of five something quiet is said first,
    which no picture follows."""
    scene = random_scene(rng, 1, held_out=False)
    (thing,) = scene.things
    turned = [Scene(scene.background, (replace(thing, color=color),)) for color in COLORS if color != thing.color]
    after = rng.choice([each for each in turned if not is_held_out(each)])
    quiet = f"{rng.choice(QUIET)} " if rng.random() < 0.4 else ""
    told = f"{quiet}The {thing.shape} turns {after.things[0].color}."
    return Example((plain_caption(scene), scene, told, after), "interleaved", "small")


class SmallStories(DreamTask):
    """Stage II from the shipped stage I, but on small stories alone, with the paper's AdamW, squared error and weights.

    `changes` replace fields of the recipe, such as `dream_weight`.
    """

    def __init__(self, **changes: Any) -> None:
        torch.manual_seed(0)
        sizes, recipe = recipe_for("igpt")
        # Dropout of conditions serves guidance, which so short a training does not reach.
        recipe = replace(
            recipe, steps=36, batch=8, lr=2e-3, warmup=0.1, muon=False, condition_dropout=0.0, dream_weight=10.0,
            dream_delta=0.0, dream_draws=1, timestep_bias=2.5,
            mixture={"interleaved": 1.0},
        )  # fmt: skip
        stage_one = find_weights("align")
        super().__init__(sizes, replace(recipe, **changes), stage_one.parent, stage_one)
        drawn = random.Random("train-small")
        self.pool = [small_story(drawn) for _ in range(POOL)]

    def batch(self, rng: random.Random) -> dict[str, list[Example]]:
        return {"interleaved": rng.sample(self.pool, self.recipe.batch)}


@dataclass(frozen=True)
class Report:
    """An exam's results. The mean chance of `<dream>` where a picture is due, after a full stop without one, after
    `<im_end>`, and after any other token; the loss on words, and the taught dream loss of first and second pictures."""

    due: float
    quiet: float
    after_picture: float
    elsewhere: float
    words: float
    first: float
    second: float

    @property
    def pictures(self) -> float:
        return (self.first + self.second) / 2


class Exam:
    """Small stories that a task does not train on, each picture with one noise and timestep, the same for every model
    that sits the exam. All that the frozen parts say is computed once."""

    @torch.no_grad()
    def __init__(self, task: DreamTask, examples: Sequence[Example]) -> None:
        model, decoder = task.modules, task.modules.decoder
        self.processor = task.processor
        self.batch = task.processor([example.document for example in examples], "interleaved")
        self.features = model.encode_pictures(self.batch.pictures[self.batch.seen])
        self.latents = decoder.encode(self.batch.pictures[self.batch.dreamed])  # (2 B, C, h, w): first, second, first
        self.noise = torch.randn(self.latents.shape, generator=torch.Generator().manual_seed(0))
        self.timesteps = torch.linspace(100, 999, len(examples)).long().repeat_interleave(2)
        taught = task.teach([scene for example in examples for scene in example.scenes], model.device)
        noisy = sd.add_noise(decoder.scheduler, self.latents, self.noise, self.timesteps)
        self.target = sd.predict(decoder.unet, noisy, self.timesteps, taught.last_hidden_state)

    @torch.no_grad()
    def __call__(self, model: Any) -> Report:
        out = model(**self.batch.model_inputs(), image_features=self.features)
        first, second = (
            sd.dream_loss(
                model.decoder.unet, model.decoder.scheduler, self.latents[k::2], out.conditions[k::2],
                noise=self.noise[k::2], timesteps=self.timesteps[k::2], target=self.target[k::2], weighting="min_snr",
            ).item()
            for k in (0, 1)
        )  # fmt: skip
        given, targets = self.batch.input_ids[:, :-1], self.batch.labels[:, 1:]
        chance = out.logits[:, :-1].softmax(-1)[..., self.processor.dream]
        due, asked = targets == self.processor.dream, targets != -100
        stop = given == self.processor.tokenizer.convert_tokens_to_ids(".")
        seen = given == self.processor.im_end
        places = (due, asked & ~due & stop, asked & seen, asked & ~due & ~stop & ~seen)
        wanted, quiet, after_picture, elsewhere = (chance[here].mean().item() for here in places)
        return Report(wanted, quiet, after_picture, elsewhere, out.language_loss.item(), first, second)

    @torch.no_grad()
    def draw(self, model: Any) -> list[Image.Image]:
        """The second picture of each story, after the true first one; the i-th from the noise of seed i."""
        conditions = model(**self.batch.model_inputs(), image_features=self.features).conditions[1::2]  # (B, Q, D)
        seeds = [torch.Generator().manual_seed(i) for i in range(len(conditions))]
        drawn = model.decoder.decode(model.decoder.sample(conditions, model.null_condition(), generators=seeds))
        return [to_image(picture) for picture in drawn]

    def far(self, drawn: Sequence[Image.Image]) -> Tensor:
        """How far such pictures are from the true ones: (B,), in levels of 255, the mean over pixels."""
        true = self.batch.pictures[self.batch.dreamed][1::2].float()  # (B, 3, H, W)
        ours = torch.stack([self.processor.picture(picture) for picture in drawn]).float()
        return (ours - true).abs().mean((1, 2, 3))


@torch.no_grad()
def chances(model: Any, processor: MiniDreamProcessor, example: Example) -> Tensor:
    """The chance that `<dream>` comes next, at each place of a story that predicts: (places,)."""
    batch = processor([example.document], "interleaved")
    out = model(**batch.model_inputs(), image_features=model.encode_pictures(batch.pictures[batch.seen]))
    return out.logits[0, :-1].softmax(-1)[batch.labels[0, 1:] != -100, processor.dream]
