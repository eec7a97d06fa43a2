"""The stand-ins for what the paper downloads, as training tasks: VAE, CLIP, language model, latent diffusion.

Each saves a real Hugging Face artefact, so plain diffusers and transformers open it.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from minidream.modeling.loading import load_part
from minidream.modeling.packing import packed_mask
from minidream.processing import MiniDreamProcessor
from minidream.score_distillation import dream_loss
from minidream.tokenizer import train_tokenizer
from minidream.training.recipes import Recipe, Sizes
from minidream.world.corpora import Example, caption_pair, sample, samples
from minidream.world.draw import draw_batch
from minidream.world.scene import Scene, neighbour, random_scene
from minidream.world.tell import caption

CAPTION_TOKENS = 56  # what CLIP's text tower reads; the longest caption of four things has under 50 (a test counts)


def pixels(scenes: list[Scene], device: torch.device, side: int) -> torch.Tensor:
    """Draw scenes as floats in [-1, 1], (B, 3, side, side)."""
    return torch.from_numpy(draw_batch(scenes, side)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def tokenize(
    tokenizer: PreTrainedTokenizerFast, captions: list[str], device: torch.device, padding: str = "max_length"
) -> dict[str, torch.Tensor]:
    """Captions as CLIP reads them: (B, S) ids and mask, padded on the right to `CAPTION_TOKENS`, for a UNet looks at
    the padding too, or to the "longest"."""
    batch = tokenizer(captions, padding=padding, truncation=True, max_length=CAPTION_TOKENS, return_tensors="pt")
    return {"input_ids": batch["input_ids"].to(device), "attention_mask": batch["attention_mask"].to(device)}


class VAETask:
    """f = 8 autoencoder: L1 + L2 on pixels and a small KL that keeps the latents near a unit Gaussian."""

    KL_WEIGHT = 1e-6

    def __init__(self, sizes: Sizes, recipe: Recipe) -> None:
        self.recipe, self.side, channels = recipe, sizes.image_size, sizes.vae_channels
        self.modules = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * len(channels),
            up_block_types=("UpDecoderBlock2D",) * len(channels),
            block_out_channels=channels,
            layers_per_block=1,
            latent_channels=sizes.latent_channels,
            norm_num_groups=8,
            sample_size=sizes.image_size,
        )

    def batch(self, rng: random.Random) -> list[Scene]:
        # Things teach the VAE, background hardly does: draw crowded scenes more often.
        return [random_scene(rng, rng.choice((1, 2, 3, 4, 4, 4))) for _ in range(self.recipe.batch)]

    def losses(self, batch: list[Scene], modules: Any) -> dict[str, torch.Tensor]:
        real = pixels(batch, next(modules.parameters()).device, self.side)  # (B, 3, H, W)
        posterior = modules.encode(real).latent_dist
        rebuilt = modules.decode(posterior.sample()).sample
        l1, l2 = F.l1_loss(rebuilt.float(), real), F.mse_loss(rebuilt.float(), real)
        kl = posterior.kl().mean()
        return {"loss": l1 + l2 + self.KL_WEIGHT * kl, "l1": l1, "l2": l2, "kl": kl}

    @torch.no_grad()
    def save(self, folder: Path) -> None:
        """Set `scaling_factor` so that latents have unit variance, as Stable Diffusion does, and save."""
        vae = self.modules.eval()
        scenes = [random_scene(random.Random(f"scaling-{i}")) for i in range(256)]
        latents = vae.encode(pixels(scenes, vae.device, self.side)).latent_dist.mean
        vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 4))
        vae.save_pretrained(folder)


class CLIPTask:
    """Contrastive pairs of pictures and captions, all captions of a batch distinct."""

    NEIGHBOURS = 3

    def __init__(self, sizes: Sizes, recipe: Recipe) -> None:
        captions = (caption_pair(random.Random(f"train-tokenizer-{i}"))[1] for i in range(10_000))
        self.recipe, self.tokenizer = recipe, train_tokenizer(captions, vocab_size=512, special_tokens=())
        self.side = sizes.image_size
        self.tokenizer.model_max_length = CAPTION_TOKENS
        tokenizer = self.tokenizer
        tower = {
            "hidden_size": sizes.clip_width,
            "intermediate_size": 4 * sizes.clip_width,
            "num_hidden_layers": sizes.clip_layers,
            "num_attention_heads": sizes.clip_width // 32,
            "projection_dim": sizes.clip_width,
        }
        ids = {
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
        self.modules = CLIPModel(
            CLIPConfig(
                text_config={**tower, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": CAPTION_TOKENS},
                vision_config={**tower, "image_size": sizes.image_size, "patch_size": sizes.patch_size},
                projection_dim=sizes.clip_width,
            )
        )

    def batch(self, rng: random.Random) -> tuple[list[Scene], list[str]]:
        # Random scenes are told apart by their colours alone, so each brings neighbours that only its shapes, sizes
        # and places tell it from (hard negatives).
        scenes: dict[Scene, Scene] = {}
        while len(scenes) < self.recipe.batch:
            scene = random_scene(rng)
            for made in (scene, *(neighbour(scene, rng) for _ in range(self.NEIGHBOURS))):
                scenes[made.facts()] = made
        drawn = list(scenes.values())[: self.recipe.batch]
        return drawn, [caption(scene, rng) for scene in drawn]

    def losses(self, batch: tuple[list[Scene], list[str]], modules: Any) -> dict[str, torch.Tensor]:
        scenes, captions = batch
        device = next(modules.parameters()).device
        out = modules(
            pixel_values=pixels(scenes, device, self.side),
            **tokenize(self.tokenizer, captions, device, padding="longest"),
            return_loss=True,
        )
        right = (out.logits_per_image.argmax(1).cpu() == torch.arange(len(scenes))).float().mean()
        return {"loss": out.loss, "matched": right}

    def save(self, folder: Path) -> None:
        self.modules.eval().half().save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        side = {"height": self.side, "width": self.side}
        half = [0.5, 0.5, 0.5]  # pixels in [-1, 1]
        CLIPImageProcessorPil(size=side, do_center_crop=False, image_mean=half, image_std=half).save_pretrained(folder)


class LanguageTask:
    """Next-token prediction on the world's text alone: our Vicuna. What a text gives (questions, the reader's part of a
    story) is not learned, and documents are packed. Each kind has a loss of its own, or prose would drown the answers.
    """

    def __init__(self, sizes: Sizes, recipe: Recipe) -> None:
        kinds = list(recipe.mixture) * (20_000 // len(recipe.mixture))
        drawn = (sample(kind, random.Random(f"train-tokenizer-{i}")) for i, kind in enumerate(kinds))
        texts = (example.document.text for example in drawn)
        self.recipe, self.tokenizer = recipe, train_tokenizer(texts, sizes.vocabulary)
        tokenizer = self.tokenizer
        patches = (sizes.image_size // sizes.patch_size) ** 2
        self.lengths = (sizes.queries, patches, sizes.image_size, sizes.max_length)  # those of MiniDream, to come
        self.modules: Any = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=sizes.llm_width,
                intermediate_size=round(8 / 3 * sizes.llm_width / 32) * 32,
                num_hidden_layers=sizes.llm_layers,
                num_attention_heads=sizes.llm_width // 32,
                max_position_embeddings=sizes.max_length,
                tie_word_embeddings=False,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        # Words of one kind (black, white, grey) stand in the same places, so at first they all learn the same. From
        # the usual 0.02 that would bury what tells them apart, and nothing that was said could be looked up.
        torch.nn.init.normal_(self.modules.model.embed_tokens.weight, std=1.0)

    def batch(self, rng: random.Random) -> dict[str, list[Example]]:
        return samples(self.recipe.mixture, self.recipe.batch, rng)

    def losses(self, batch: dict[str, list[Example]], modules: Any) -> dict[str, torch.Tensor]:
        losses = {kind: self._loss(examples, modules) for kind, examples in batch.items()}
        shared = [self.recipe.mixture[kind] * loss for kind, loss in losses.items()]
        return {"loss": torch.stack(shared).sum(), **losses}

    def _loss(self, batch: list[Example], modules: Any) -> torch.Tensor:
        given = [example.prompt_parts for example in batch]
        processor = MiniDreamProcessor(self.tokenizer, *self.lengths)
        rows = processor([example.document for example in batch], "text", given, pack=True)
        rows = rows.to(next(modules.parameters()).device)
        return modules(  # type: ignore[no-any-return]
            input_ids=rows.input_ids,
            attention_mask=packed_mask(rows.attention_mask),
            position_ids=rows.position_ids,
            labels=rows.labels,
        ).loss

    def save(self, folder: Path) -> None:
        self.modules.eval().half().save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def noise_schedule() -> DDIMScheduler:
    """Stable Diffusion's schedule, made safe for small latents: velocity prediction and zero terminal SNR.

    With the plain schedule sqrt(alpha_bar_T) = 0.068, and an 8 x 8 latent's mean still shows through the noise at T:
    the network learns to read the background there, finds none when sampling, and paints everything grey.
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )


class DiffusionTask:
    """A latent UNet and its text encoder (CLIP's text tower, trained on), Eq. 2, over a frozen VAE."""

    def __init__(self, sizes: Sizes, recipe: Recipe, vae: Path, clip: Path) -> None:
        self.recipe, self.side, self.scheduler = recipe, sizes.image_size, noise_schedule()
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(clip)
        levels = len(sizes.unet_channels)
        unet = UNet2DConditionModel(
            sample_size=sizes.image_size // 8,
            in_channels=sizes.latent_channels,
            out_channels=sizes.latent_channels,
            down_block_types=("CrossAttnDownBlock2D",) * levels,
            up_block_types=("CrossAttnUpBlock2D",) * levels,
            block_out_channels=sizes.unet_channels,
            layers_per_block=1,
            cross_attention_dim=sizes.clip_width,
            attention_head_dim=4,  # heads, by diffusers' historical name
            norm_num_groups=16,
        )
        self.vae = load_part(AutoencoderKL, vae, "the VAE").requires_grad_(False)
        text_encoder = load_part(CLIPModel, clip, "the CLIP").text_model.requires_grad_(recipe.train_text_encoder)
        parts: dict[str, Any] = {"unet": unet, "text_encoder": text_encoder, "vae": self.vae}
        self.modules = torch.nn.ModuleDict(parts)

    def batch(self, rng: random.Random) -> tuple[list[Scene], list[str]]:
        scenes = [random_scene(rng) for _ in range(self.recipe.batch)]
        # An empty caption now and then is the null condition that guidance needs.
        empty = self.recipe.condition_dropout
        return scenes, ["" if rng.random() < empty else caption(scene, rng) for scene in scenes]

    def losses(self, batch: tuple[list[Scene], list[str]], modules: Any) -> dict[str, torch.Tensor]:
        scenes, captions = batch
        device = next(modules.parameters()).device
        with torch.no_grad():
            latents = self.vae.encode(pixels(scenes, device, self.side)).latent_dist.mean.float()
        words = tokenize(self.tokenizer, captions, device)["input_ids"]
        condition = modules["text_encoder"](input_ids=words)[0]  # (B, S, D)
        latents = self.vae.config.scaling_factor * latents
        return {"loss": dream_loss(modules["unet"], self.scheduler, latents, condition)}

    def save(self, folder: Path) -> None:
        modules = self.modules.eval()
        StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=modules["text_encoder"],
            tokenizer=self.tokenizer,
            unet=modules["unet"].half(),
            scheduler=self.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(folder)
