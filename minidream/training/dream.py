"""The paper's three stages as one task: alignment, interleaved pretraining (I-GPT) and instruction tuning.

A step draws documents of every kind of the recipe's mixture, encodes their pictures with the frozen CLIP and VAE, and
asks `MiniDream.forward` for both losses, kind by kind, with the documents of a kind packed. What differs between the
stages is the recipe alone: mixture, weights, trainable parts.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, PreTrainedTokenizerFast

from minidream.documents import Document
from minidream.errors import UserError
from minidream.modeling.loading import load_part
from minidream.modeling.minidream import MiniDream
from minidream.pipeline import MiniDreamPipeline
from minidream.processing import MiniDreamProcessor
from minidream.score_distillation import clip_alignment_loss, draw_timesteps
from minidream.training.cache import EncodedPictures
from minidream.training.components import tokenize
from minidream.training.recipes import Recipe, Sizes
from minidream.training.whitening import unwhiten, whiten
from minidream.weights import verify_manifest
from minidream.world.captions import plain_caption
from minidream.world.corpora import Example, caption_pair, render, samples
from minidream.world.scene import Scene

TRAINED = "trained.safetensors"
CAPTIONS = 256  # to whiten by; with 8 dream queries, 2048 states of 192 numbers
MODES = {
    "qa": "image_to_text",
    "dialogue": "interleaved",
    "in_context": "interleaved",
    "text_states": "text",
    "text_qa": "text",
    "seen_states": "interleaved",
    "single_object": "text_to_image",
    "single_caption": "image_to_text",
    "single_qa": "image_to_text",
    "single_edit": "interleaved",
}  # kinds that are written as another kind's sequence
WORDS = ("text", "text_states", "text_qa", "seen_states")  # kinds that are there for their words


def open_stage(folder: Path) -> MiniDreamPipeline:
    """What stage I or II left in `folder`, joined with `llm`, `clip` and `stable-diffusion` beside it.

    Raises `UserError` for a folder that is not whole, or parts that are not there or of other sizes.
    """
    trained = _trained(folder)
    llm, vision, diffusion = (folder.parent / part for part in ("llm", "clip", "stable-diffusion"))
    for part in (llm, vision, diffusion):
        if not part.is_dir():
            raise UserError(f"{folder} was trained over {part.name}, which is not beside it: copy that there")
    pipe = MiniDreamPipeline.from_components(llm, vision, diffusion, len(trained["dream_queries"]))
    _take_over(pipe.model, folder)
    return pipe


def _trained(folder: Path) -> dict[str, torch.Tensor]:
    """What a stage moved. Raises `UserError` if it is not whole."""
    verify_manifest(folder)
    try:
        trained = load_file(folder / TRAINED)
        trained["dream_queries"]
    except (SafetensorError, KeyError) as error:
        raise UserError(f"{folder} cannot be read ({error}): name another folder, or train again") from None
    return trained


def _take_over(model: MiniDream, folder: Path) -> None:
    """Give the model what a stage moved. Raises `UserError` if it does not fit."""
    try:
        model.load_state_dict(_trained(folder), strict=False)
    except RuntimeError:  # torch's word for another shape
        raise UserError(f"{folder} was trained over parts of other sizes: copy those beside it") from None


class DreamTask:
    """Stages I to III over a MiniDream whose frozen parts lie in `out`; `before` is the previous stage's folder."""

    def __init__(self, sizes: Sizes, recipe: Recipe, out: Path, before: Path | None) -> None:
        self.recipe, self.encoded, self.pack = recipe, EncodedPictures(), True
        tokenizer = PreTrainedTokenizerFast.from_pretrained(out / "llm")
        model = MiniDream.from_components(
            llm=out / "llm",
            vision=out / "clip",
            diffusion=out / "stable-diffusion",
            num_dream_queries=sizes.queries,
            tokenizer=tokenizer,
        )
        if before is not None:
            _take_over(model, before)
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
        teacher = load_part(CLIPTextModel, painter / "text_encoder", "the teacher's text encoder")
        self.teacher = teacher.requires_grad_(False)

    @torch.no_grad()
    def whiten(self) -> None:
        """Train the condition projector in white coordinates from now on, by what it reads after captions."""
        model, rng = self.modules, random.Random(f"train-whitening-{self.recipe.seed}")
        captions = [Document([caption_pair(rng)[1]]) for _ in range(CAPTIONS)]
        inputs = self.processor(captions, "text_to_image", generation_prompt=True).to(model.device)
        embeddings = model.embed(inputs.input_ids, inputs.query_mask)
        hidden = model.read(embeddings, inputs.attention_mask, inputs.position_ids).last_hidden_state
        whiten(model.condition_projector, hidden[inputs.query_mask])

    def batch(self, rng: random.Random) -> dict[str, list[Example]]:
        self.encoded = EncodedPictures()  # of this step, see there
        return samples(self.recipe.mixture, self.recipe.batch, rng)

    def losses(self, batch: dict[str, list[Example]], modules: Any) -> dict[str, torch.Tensor]:
        losses: dict[str, torch.Tensor] = {}
        for kind, examples in batch.items():
            parts = self._read(examples, modules)
            weights = {name: getattr(self.recipe, f"{name}_weight") for name in parts}
            if kind in WORDS:
                weights["language"] *= self.recipe.words_weight
            weighted = sum(weights[name] * loss for name, loss in parts.items())
            losses["loss"] = losses.get("loss", 0) + self.recipe.mixture[kind] * weighted
            # What there was to learn.
            losses |= {f"{kind}/{name}": loss for name, loss in parts.items() if loss.item()}
        return losses

    def teach(self, scenes: Sequence[Scene | None], device: torch.device) -> Any:
        """What the frozen text encoder says of scenes' plain captions: `last_hidden_state` (M, S, D), which the UNet
        was made to read, and `pooler_output` (M, D). None stands for the empty caption."""
        captions = [plain_caption(scene) if scene else "" for scene in scenes]
        with torch.no_grad():
            return self.teacher.to(device)(input_ids=tokenize(self.caption_tokenizer, captions, device)["input_ids"])

    def _read(self, batch: list[Example], modules: Any) -> dict[str, torch.Tensor]:
        """The losses of documents of one kind: `language`, `dream`, and `alignment` where the recipe weighs it."""
        kind, device = batch[0].kind, next(modules.parameters()).device
        inputs = self.processor(
            [render(example.plan, self.processor.image_size) for example in batch],
            mode=MODES.get(kind, kind),
            prompt_parts=[example.prompt_parts for example in batch],
            pack=self.pack,
        ).to(device)
        features = latents = taught = None
        if len(inputs.pictures):
            features, latents = self.encoded(modules, inputs.pictures)  # (K, P, D_v), (K, C, h, w)
            features, latents = features[inputs.seen], latents[inputs.dreamed]
        scenes = [scene for index in inputs.order.tolist() for scene in batch[index].scenes]  # as the pictures
        if len(scenes) != len(inputs.pictures):  # one was cut off, and all captions after it would be a picture's late
            raise UserError(f"a document does not fit into {self.processor.max_length} tokens: take a larger preset")
        scenes = [scenes[index] for index in inputs.dreamed.tolist()]
        if self.recipe.teacher and scenes:
            taught = self.teach(scenes, device).last_hidden_state
        out = modules(
            **inputs.model_inputs(),
            image_features=features,
            target_latents=latents if self.recipe.dream_weight else None,
            timesteps=draw_timesteps(
                modules.decoder.scheduler,
                len(inputs.dreamed) * self.recipe.dream_draws,
                self.recipe.timestep_bias,
                device=device,
            ),
            teacher_condition=taught,
            condition_dropout=self.recipe.condition_dropout,
            dream_delta=self.recipe.dream_delta,
        )
        losses = {"language": out.language_loss, "dream": out.dream_loss}
        if self.recipe.alignment_weight and scenes:
            losses["alignment"] = self._alignment(out.conditions, scenes, modules)
        return losses

    def _alignment(self, conditions: torch.Tensor, scenes: list[Scene], modules: Any) -> torch.Tensor:
        """Regress the queries' mean to the pooled embedding of the caption, and the null condition to that of "".

        Pooled, as there are fewer queries than the text encoder has token states, and none that belongs to a token;
        of the encoder that the UNet was made to read, as the systems before DreamLLM did it.
        """
        pooled = self.teach([*scenes, None], conditions.device).pooler_output  # (M + 1, D)
        return clip_alignment_loss(torch.cat([conditions, modules.null_condition()]), pooled)

    def save(self, folder: Path) -> None:
        """`trained.safetensors` holds what this stage moved, for the next one; the last stage is a whole MiniDream."""
        model = self.modules.eval()
        unwhiten(model.condition_projector)
        moved = {name: value.detach().contiguous() for name, value in model.named_parameters() if value.requires_grad}
        if self.recipe.stage == "instruct":
            model.half().save_pretrained(folder, frozen=False)
            self.processor.save_pretrained(folder)
        else:
            save_file(moved, folder / TRAINED)
