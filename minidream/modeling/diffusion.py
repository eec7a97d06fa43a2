"""Pictures out: H_xi, a frozen Stable Diffusion whose cross-attention reads a condition instead of CLIP's text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DPMSolverMultistepScheduler, UNet2DConditionModel
from torch import Tensor, nn

from minidream.errors import UserError
from minidream.modeling.loading import load_part
from minidream.score_distillation import add_noise, draw_noise, dream_loss, predict, to_sample, true_prediction

SOLVERS = {"dpm": DPMSolverMultistepScheduler, "ddim": DDIMScheduler}


def _check(vae: Any, unet: Any) -> None:
    """Raise `UserError` if the two are no plain Stable Diffusion (1.x, 2.x)."""
    mend = "take a plain Stable Diffusion (1.x, 2.x)"
    for name in ("addition_embed_type", "class_embed_type", "num_class_embeds"):
        if getattr(unet.config, name, None) is not None:
            raise UserError(f"this UNet also wants {name} ({getattr(unet.config, name)}), as SDXL's does: {mend}")
    taken, given = unet.config.in_channels, vae.config.latent_channels
    if taken != given:
        raise UserError(f"this UNet reads {taken} channels and the VAE writes {given}, as for inpainting: {mend}")


def _repeat(batch: Tensor, count: int) -> Tensor:
    """The whole batch `count` times, (count*M, ...)."""
    return batch.repeat(count, *[1] * (batch.dim() - 1))


class ImageDecoder(nn.Module):
    """A frozen VAE and UNet and their noise schedule: real pictures in for the loss, made ones out of a condition.

    Letters: M pictures, (C, h, w) latents, Q queries (or a text's S tokens), D the cross-attention's width.
    """

    def __init__(self, vae: Any, unet: Any, scheduler: Any) -> None:
        """Raises `UserError` for a UNet that wants more than noisy latents, a timestep and one condition."""
        super().__init__()
        _check(vae, unet)
        self.vae, self.unet = vae, unet
        # Other families of schedulers have no word on clipping, and DDIM's own default would clip latents to +-1.
        self.scheduler = DDIMScheduler.from_config({"clip_sample": False, **scheduler.config})
        self.requires_grad_(False).eval()

    @classmethod
    def from_folder(cls, source: str | Path) -> ImageDecoder:
        """Open the VAE, UNet and scheduler of a StableDiffusionPipeline: a folder or a name on the hub."""
        part = "the image decoder"
        return cls(
            load_part(AutoencoderKL, source, part, subfolder="vae"),
            load_part(UNet2DConditionModel, source, part, subfolder="unet"),
            load_part(DDIMScheduler, source, part, subfolder="scheduler"),
        )

    @property
    def condition_dim(self) -> int:
        """D."""
        return int(self.unet.config.cross_attention_dim)

    @property
    def _shift(self) -> float:
        return float(getattr(self.vae.config, "shift_factor", None) or 0.0)

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """Latents (M, C, h, w) of about unit variance from pictures (M, 3, H, W), uint8 (or floats in 0..1)."""
        pixels = pictures.to(self.vae.device)
        pixels = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
        mean = self.vae.encode((2 * pixels - 1).to(self.vae.dtype)).latent_dist.mean
        return (mean.float() - self._shift) * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (M, 3, H, W) uint8 from latents (M, C, h, w)."""
        codes = latents / self.vae.config.scaling_factor + self._shift
        pixels = self.vae.decode(codes.to(self.vae.dtype)).sample.float()
        return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)

    def rebuild(self, pictures: Tensor) -> Tensor:
        """Pictures (M, 3, H, W), uint8, encoded and decoded: what the VAE makes of them."""
        return self.decode(self.encode(pictures))

    def loss(
        self,
        latents: Tensor,
        condition: Tensor,
        *,
        noise: Tensor | None = None,
        timesteps: Tensor | None = None,
        teacher_condition: Tensor | None = None,
        untaught: Tensor | None = None,
        weighting: str = "min_snr",
        delta: float = 0.0,
    ) -> Tensor:
        """`dream_loss` (Eq. 4) of a condition (M, Q, D) for real latents (M, C, h, w).

        With a `teacher_condition` (M, S, D), for instance the caption's by CLIP's text encoder, the target is what the
        UNet itself says under it at the same z_t: the noise's chance is gone. Where `untaught` (M,)
        is true the target is the real noise all the same. With (K*M,) timesteps each picture is asked about K times,
        each with noise of its own: (K*M, C, h, w), if it is given.
        """
        if timesteps is not None and len(timesteps) != len(latents):
            count = len(timesteps) // len(latents)
            latents, condition = _repeat(latents, count), _repeat(condition, count)
            teacher_condition = None if teacher_condition is None else _repeat(teacher_condition, count)
            untaught = None if untaught is None else _repeat(untaught, count)
        drawn = draw_noise(self.scheduler, latents)
        noise = drawn[0] if noise is None else noise
        timesteps = drawn[1] if timesteps is None else timesteps
        target = None
        if teacher_condition is not None:
            with torch.no_grad():
                noisy = add_noise(self.scheduler, latents, noise, timesteps)
                target = predict(self.unet, noisy, timesteps, teacher_condition)
                if untaught is not None:
                    real = true_prediction(self.scheduler, latents, noise, timesteps)
                    target = torch.where(untaught.view(-1, 1, 1, 1), real, target)
        return dream_loss(
            self.unet,
            self.scheduler,
            latents,
            condition,
            noise=noise,
            timesteps=timesteps,
            target=target,
            weighting=weighting,
            delta=delta,
        )

    @torch.no_grad()
    def sample(
        self,
        condition: Tensor,
        null_condition: Tensor | None = None,
        *,
        guidance: float = 1.5,
        steps: int = 12,
        solver: str = "dpm",
        generators: Sequence[torch.Generator] | None = None,
        callback: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """Latents (M, C, h, w) drawn under a condition (M, Q, D), by classifier-free guidance e_u + g (e_c - e_u).

        Guidance 1 asks the condition alone, guidance 0 the `null_condition` (1 or M, Q, D) alone. One (CPU) generator a
        picture, so that a picture depends on its seed and not on its batch. `callback(step, z_0 as now foreseen)`.

        Raises `UserError` for an unknown solver, steps out of 1 .. T or too many for the solver, or a guidance that
        lacks its null condition.
        """
        total = self.scheduler.config.num_train_timesteps
        if solver not in SOLVERS:
            raise UserError(f"unknown solver {solver!r}: choose one of {', '.join(SOLVERS)}")
        if not 1 <= steps <= total:
            raise UserError(f"steps must be from 1 to {total}, got {steps}")
        if guidance != 1 and null_condition is None:
            raise UserError(f"guidance {guidance:g} needs a null condition; only guidance 1 goes without")
        count, unet = len(condition), self.unet
        if generators is not None and len(generators) != count:
            raise UserError(f"{count} pictures need {count} generators, got {len(generators)}")
        if count == 0:
            return condition.new_zeros((0, *self.latent_shape))

        scheduler = SOLVERS[solver].from_config(self.scheduler.config)
        scheduler.set_timesteps(steps, device=unet.device)
        seeds: Sequence[torch.Generator | None] = generators if generators is not None else [None] * count
        noise = [torch.randn(self.latent_shape, generator=g, device=g.device if g else "cpu") for g in seeds]
        latents = torch.stack([each.to(unet.device) for each in noise]) * scheduler.init_noise_sigma
        null = None if null_condition is None else null_condition.expand_as(condition)

        timesteps = scheduler.timesteps.clamp(max=total - 1)  # offsets may lead one too far
        if solver == "dpm" and len(timesteps.unique()) < steps:  # it divides by the way between two
            raise UserError(f"{solver} cannot tell {steps} steps apart on this schedule: take fewer")
        for step, timestep in enumerate(timesteps):
            times = timestep.expand(count)
            if guidance == 1 or null is None:
                prediction = predict(unet, latents, times, condition)
            elif guidance == 0:
                prediction = predict(unet, latents, times, null)
            else:
                both = predict(unet, latents.repeat(2, 1, 1, 1), times.repeat(2), torch.cat([null, condition]))
                empty, full = both.chunk(2)
                prediction = empty + guidance * (full - empty)
            if callback is not None:
                callback(step, self._foreseen(latents, prediction, int(timestep)))
            latents = scheduler.step(prediction, timestep, latents).prev_sample
        return latents

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w)."""
        side = int(self.unet.config.sample_size)
        return int(self.unet.config.in_channels), side, side

    def _foreseen(self, latents: Tensor, prediction: Tensor, timestep: int) -> Tensor:
        """The z_0 that a prediction at z_t implies, for previews."""
        return to_sample(prediction, latents, self.scheduler, torch.tensor([timestep], device=latents.device))
