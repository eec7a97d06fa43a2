"""The paper's three stages as one task: alignment, interleaved pretraining (I-GPT) and instruction tuning.

A step draws documents of every kind of the recipe's mixture, encodes their pictures with the frozen CLIP and VAE, and
asks `MiniDream.forward` for both losses, kind by kind, with the documents of a kind packed. What differs between the
stages is the recipe alone: mixture, weights, trainable parts.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, PreTrainedTokenizerFast

from minidream.modeling.minidream import MiniDream
from minidream.processing import MiniDreamProcessor
from minidream.training.cache import EncodedPictures
from minidream.training.components import tokenize
from minidream.training.recipes import Recipe, Sizes
from minidream.world.captions import plain_caption
from minidream.world.corpora import Example, render, samples

TRAINED = "trained.safetensors"
MODES = {
    "qa": "image_to_text",
    "dialogue": "interleaved",
    "text_states": "text",
    "text_qa": "text",
}  # kinds that are written as another kind's sequence


class DreamTask:
    """Stages I to III over a MiniDream whose frozen parts lie in `out`; `before` is the previous stage's folder."""

    def __init__(self, sizes: Sizes, recipe: Recipe, out: Path, before: Path | None) -> None:
        self.recipe, self.encoded = recipe, EncodedPictures()
        tokenizer = PreTrainedTokenizerFast.from_pretrained(out / "llm")
        model = MiniDream.from_components(
            llm=out / "llm",
            vision=out / "clip",
            diffusion=out / "stable-diffusion",
            num_dream_queries=sizes.queries,
            tokenizer=tokenizer,
        )
        if before is not None:
            model.load_state_dict(load_file(before / TRAINED), strict=False)
        self.modules: MiniDream = model.train_only(recipe.trainable)
        self.processor = MiniDreamProcessor(
            tokenizer,
            num_dream_queries=sizes.queries,
            num_patches=(sizes.image_size // sizes.patch_size) ** 2,
            image_size=sizes.image_size,
            max_length=sizes.max_length,
        )
        painter = out / "stable-diffusion"
        self.caption_tokenizer = PreTrainedTokenizerFast.from_pretrained(painter / "tokenizer")
        self.teacher = CLIPTextModel.from_pretrained(painter / "text_encoder").float().requires_grad_(False)

    def batch(self, rng: random.Random) -> dict[str, list[Example]]:
        return samples(self.recipe.mixture, self.recipe.batch, rng)

    def losses(self, batch: dict[str, list[Example]], modules: Any) -> dict[str, torch.Tensor]:
        losses: dict[str, torch.Tensor] = {}
        for kind, examples in batch.items():
            language, dream = self._read(examples, modules)
            weighted = self.recipe.language_weight * language + self.recipe.dream_weight * dream
            losses["loss"] = losses.get("loss", 0) + self.recipe.mixture[kind] * weighted
            named = {f"{kind}/language": language, f"{kind}/dream": dream}
            losses |= {name: loss for name, loss in named.items() if loss.item()}  # what there was to learn
        return losses

    def _read(self, batch: list[Example], modules: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The language loss and the dream loss of documents of one kind."""
        kind, device = batch[0].kind, next(modules.parameters()).device
        inputs = self.processor(
            [render(example.plan, self.processor.image_size) for example in batch],
            mode=MODES.get(kind, kind),
            prompt_parts=[example.prompt_parts for example in batch],
            pack=True,
        ).to(device)
        features = latents = taught = None
        if len(inputs.pictures):
            features, latents = self.encoded(modules, inputs.pictures)  # (K, P, D_v), (K, C, h, w)
            features, latents = features[inputs.seen], latents[inputs.dreamed]
        if self.recipe.teacher and len(inputs.dreamed):
            scenes = [scene for index in inputs.order.tolist() for scene in batch[index].scenes]  # as the pictures
            captions = [plain_caption(scenes[index]) for index in inputs.dreamed.tolist()]
            ids = tokenize(self.caption_tokenizer, captions, device)["input_ids"]
            with torch.no_grad():
                taught = self.teacher.to(device)(input_ids=ids)[0]  # (M, S, D)
        out = modules(
            **inputs.model_inputs(),
            image_features=features,
            target_latents=latents,
            teacher_condition=taught,
            condition_dropout=self.recipe.condition_dropout,
        )
        return out.language_loss, out.dream_loss

    def save(self, folder: Path) -> None:
        """`trained.safetensors` holds what this stage moved, for the next one; the last stage is a whole MiniDream."""
        model = self.modules.eval()
        moved = {name: value.detach().contiguous() for name, value in model.named_parameters() if value.requires_grad}
        if self.recipe.stage == "instruct":
            model.half().save_pretrained(folder, frozen=False)
            self.processor.save_pretrained(folder)
        else:
            save_file(moved, folder / TRAINED)
