"""One run: stage I from nothing by a grid's variables, its learning curve on a held-back batch, what it then draws."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from minidream.ablation.grids import MIXTURE, SHOWN, Budget, Variables, recipe_of
from minidream.documents import Document
from minidream.evaluation import creation
from minidream.evaluation.candidate import PipelineCandidate, dice
from minidream.pipeline import MiniDreamPipeline
from minidream.score_distillation import add_noise, draw_noise, dream_loss, predict
from minidream.training.dream import DreamTask
from minidream.training.loop import fit
from minidream.world.corpora import render, sample


class HeldBack:
    """The dream loss on captions, pictures, noise and timesteps that are the same for all runs, drawn from another
    seed than any run's (of things that stand alone there are few captions; the pictures differ in their places):
    against the sampled noise (Eq. 4), and against what the teacher predicts under the plain captions."""

    def __init__(self, task: DreamTask, pipe: MiniDreamPipeline, count: int) -> None:
        self.pipe, self.decoder = pipe, task.modules.decoder
        rng, scheduler, unet = dice(0, "ablation", "held-back"), self.decoder.scheduler, self.decoder.unet
        examples = [sample(MIXTURE, rng) for _ in range(count)]
        scenes = [scene for example in examples for scene in example.scenes]
        self.captions = [Document([text]) for example in examples for text in example.plan if isinstance(text, str)]
        pictures = render(scenes, task.processor.image_size).pictures
        pixels = torch.stack([task.processor.picture(picture) for picture in pictures])
        self.latents = self.decoder.encode(pixels)  # (M, C, h, w)
        self.noise, self.timesteps = draw_noise(scheduler, self.latents, torch.Generator().manual_seed(0))
        states = task.teach(scenes, self.latents.device).last_hidden_state
        with torch.no_grad():
            noisy = add_noise(scheduler, self.latents, self.noise, self.timesteps)
            self.taught = predict(unet, noisy, self.timesteps, states)

    @torch.no_grad()
    def __call__(self) -> dict[str, float]:
        """Both losses now: `{"noise", "teacher"}`."""
        condition = self.pipe.condition(self.captions)
        targets = {"noise": None, "teacher": self.taught}
        return {name: round(self._loss(condition, target), 5) for name, target in targets.items()}

    def _loss(self, condition: torch.Tensor, target: torch.Tensor | None) -> float:
        device = condition.device  # the training may have moved the model since
        return dream_loss(
            self.decoder.unet,
            self.decoder.scheduler,
            self.latents.to(device),
            condition,
            noise=self.noise.to(device),
            timesteps=self.timesteps.to(device),
            target=None if target is None else target.to(device),
        ).item()


def run(budget: Budget, variables: Variables, seed: int, parts: Path) -> dict[str, Any]:
    """Train and examine. `parts`: the folder with `llm`, `clip` and `stable-diffusion`. The seed decides the first
    weights and all that training draws; the held-back batch, prompts and noise of the examination are always the same.

    Returns `creation` (leaves by category, and `overall`), `facts` (leaves, see `creation.facts`), `dream_loss` at the
    end, its `curve`, `parameters` trained, `seconds` and `cpu_seconds` of the training, `threads`, `machine`.
    """
    sizes, recipe = recipe_of(budget, variables, seed)
    torch.manual_seed(seed)  # the new parameters are drawn
    task = DreamTask(sizes, recipe, parts, None)
    if recipe.whitened:
        task.whiten()
    pipe = MiniDreamPipeline(task.modules, task.processor)
    held_back = HeldBack(task, pipe, budget.held_back)
    curve = [{"step": 0, **held_back()}]
    task.modules.train()
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        record = fit(task, recipe, Path(folder), probe=held_back)
        spent = time.process_time() - began
        log = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
    curve += [{"step": line["step"], "noise": line["noise"], "teacher": line["teacher"]} for line in log]

    task.modules.eval()
    asked = creation.trials(budget.n, seed=0, held_out=False, categories=SHOWN)
    draw = PipelineCandidate(pipe, budget.guidance, budget.sampling_steps).draw
    shares, pictures = creation.grade(draw, asked, creation.noise_seed(0, "seen"))
    return {
        "creation": shares,
        "facts": creation.facts(asked, pictures),
        "dream_loss": {name: curve[-1][name] for name in ("noise", "teacher")},
        "curve": curve,
        "parameters": sum(value.numel() for value in task.modules.parameters() if value.requires_grad),
        "seconds": record["seconds"],
        "cpu_seconds": round(spent, 1),
        "threads": record["threads"],
        "machine": record["machine"],
    }
