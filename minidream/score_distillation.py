"""How a frozen diffusion model teaches: the score, and four losses made of it, side by side.

| function                 | what is optimised             | UNet's Jacobian | z_0                   |
|--------------------------|-------------------------------|-----------------|-----------------------|
| `sds_gradient`           | the picture itself            | dropped         | what is being learned |
| `textual_inversion_loss` | one condition for one concept | kept            | a few real pictures   |
| `dream_loss`             | a *network* of conditions     | kept            | real pictures         |
| `clip_alignment_loss`    | a network of conditions       | none: no UNet   | not used              |

All work over any callable like diffusers' UNet, `unet(z_t, t, encoder_hidden_states=c).sample`, and any scheduler with
`alphas_cumprod`, for epsilon and v prediction. Letters: M pictures, C/h/w latents, Q queries, D their width, T steps.
z_t = alpha_t z_0 + sigma_t eps with alpha_t^2 = alphas_cumprod[t] and alpha_t^2 + sigma_t^2 = 1.

Taught in notebook 04.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minidream.errors import UserError

PREDICTIONS = ("epsilon", "v_prediction")
SNR_CEILING = 5.0  # gamma of min-SNR (arXiv 2303.09556)


def schedule(scheduler: Any, timesteps: Tensor, dims: int = 4) -> tuple[Tensor, Tensor]:
    """alpha_t and sigma_t, each (M, 1, ...) with `dims` axes. Raises `UserError` for a timestep outside 0 .. T-1."""
    alphas = scheduler.alphas_cumprod
    if timesteps.numel() and (timesteps.min() < 0 or timesteps.max() >= len(alphas)):
        raise UserError(f"timesteps must lie in 0..{len(alphas) - 1}, got {timesteps.tolist()}")
    square = alphas.to(timesteps.device).float()[timesteps].view(-1, *[1] * (dims - 1))
    return square.sqrt(), (1 - square).sqrt()


def add_noise(scheduler: Any, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """z_t = alpha_t z_0 + sigma_t eps, (M, C, h, w)."""
    alpha, sigma = schedule(scheduler, timesteps, latents.ndim)
    return alpha * latents + sigma * noise


def draw_noise(scheduler: Any, latents: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Noise (M, C, h, w) and timesteps (M,) for a batch of latents, see `draw_timesteps`."""
    device = generator.device if generator is not None else latents.device
    noise = torch.randn(latents.shape, generator=generator, device=device)
    timesteps = draw_timesteps(scheduler, len(latents), generator=generator, device=device)
    return noise.to(latents.device), timesteps.to(latents.device)


def draw_timesteps(
    scheduler: Any,
    count: int,
    bias: float = 1.0,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """`count` timesteps of 0 .. T-1, (M,): uniform, or with a density that grows as t^(bias - 1).

    Together they are spread evenly (one random offset, as in Variational Diffusion Models): the batch's loss varies
    much less than with independent ones, at no cost.
    """
    total = len(scheduler.alphas_cumprod)
    offset = torch.rand(1, generator=generator, device=device)
    places = (offset + torch.arange(count, device=device) / max(count, 1)) % 1
    return (places ** (1 / bias) * total).long().clamp(max=total - 1)


def true_prediction(scheduler: Any, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """What a perfect UNet would say if it knew z_0: eps, or v = alpha_t eps - sigma_t z_0. (M, C, h, w)."""
    if prediction_type(scheduler) == "epsilon":
        return noise
    alpha, sigma = schedule(scheduler, timesteps, latents.ndim)
    return alpha * noise - sigma * latents


def prediction_type(scheduler: Any) -> str:
    """The scheduler's `prediction_type`. Raises `UserError` unless it is epsilon or v_prediction."""
    kind = scheduler.config.prediction_type
    if kind not in PREDICTIONS:
        raise UserError(f"the scheduler predicts {kind!r}: expected one of {', '.join(PREDICTIONS)}")
    return str(kind)


def predict(unet: Any, noisy: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
    """The UNet's prediction in float32, (M, C, h, w), whatever precision it computes in."""
    dtype = getattr(unet, "dtype", noisy.dtype)
    return unet(noisy.to(dtype), timesteps, encoder_hidden_states=condition.to(dtype)).sample.float()


def to_epsilon(prediction: Tensor, noisy: Tensor, scheduler: Any, timesteps: Tensor) -> Tensor:
    """The predicted noise: the prediction itself, or sigma_t z_t + alpha_t v. (M, C, h, w)."""
    if prediction_type(scheduler) == "epsilon":
        return prediction
    alpha, sigma = schedule(scheduler, timesteps, noisy.ndim)
    return sigma * noisy + alpha * prediction


def to_sample(prediction: Tensor, noisy: Tensor, scheduler: Any, timesteps: Tensor) -> Tensor:
    """The foreseen z_0: (z_t - sigma_t eps) / alpha_t, or alpha_t z_t - sigma_t v. (M, C, h, w)."""
    alpha, sigma = schedule(scheduler, timesteps, noisy.ndim)
    if prediction_type(scheduler) == "v_prediction":
        return alpha * noisy - sigma * prediction
    return (noisy - sigma * prediction) / alpha.clamp(min=1e-4)


def score(prediction: Tensor, noisy: Tensor, scheduler: Any, timesteps: Tensor) -> Tensor:
    """grad log p(z_t | C) = -eps_hat / sigma_t: the arrow uphill in probability, against the noise. (M, C, h, w).

    Nobody optimises anything here; the gradient flows to whatever made `prediction`.
    Raises `UserError` at a timestep without noise (sigma_t = 0), where the score is not defined.
    """
    _, sigma = schedule(scheduler, timesteps, noisy.ndim)
    if (sigma == 0).any():
        raise UserError("the score needs sigma_t > 0: this schedule adds no noise at one of the timesteps")
    return -to_epsilon(prediction, noisy, scheduler, timesteps) / sigma


def gaussian_kl_weight(scheduler: Any, timesteps: Tensor, prediction: str | None = None) -> Tensor:
    """w(t) with KL( q(z_{t-1} | z_t, z_0) || p(z_{t-1} | z_t) ) = w(t) ||prediction - truth||^2 (Eq. 5 to Eq. 4). (M,).

    Both are Gaussians of one variance, so the KL is the distance of their means over twice the variance. In terms of
    z_0 that is half of what the signal-to-noise ratio loses in the step, (SNR_{t-1} - SNR_t) / 2; an error of epsilon
    is sqrt(SNR_t) times that of z_0, an error of v is 1 / sigma_t times. `prediction` is "epsilon", "v_prediction",
    "sample" (z_0), or None for the scheduler's own. The norm is a sum over C, h, w.

    Raises `UserError` for t = 0: the last step's posterior is a point.
    """
    if timesteps.numel() and timesteps.min() < 1:
        raise UserError("the KL of a denoising step needs timesteps >= 1: at t = 0 nothing is left to denoise")
    kind = prediction or prediction_type(scheduler)
    alphas = scheduler.alphas_cumprod.to(timesteps.device).double()
    schedule(scheduler, timesteps)  # checks the range
    now, before = alphas[timesteps], alphas[timesteps - 1]
    sample = 0.5 * (before / (1 - before) - now / (1 - now))
    factors = {"sample": torch.ones_like(now), "epsilon": (1 - now) / now, "v_prediction": 1 - now}
    if kind not in factors:
        raise UserError(f"unknown prediction {kind!r}: expected one of {', '.join(factors)}")
    return (sample * factors[kind]).float()


def loss_weight(scheduler: Any, timesteps: Tensor, weighting: str = "min_snr") -> Tensor:
    """How much a timestep counts in `dream_loss`, (M,): 1 everywhere ("none"), or min-SNR.

    min-SNR counts an error of z_0 by min(SNR, 5), so that the almost clean timesteps, which are many and easy, do not
    drown the rest. For v one is added: with zero terminal SNR the timestep T-1, where sampling begins and the layout
    is decided, would otherwise count for nothing.
    """
    if weighting == "none":
        return torch.ones(timesteps.shape, device=timesteps.device)
    if weighting != "min_snr":
        raise UserError(f"unknown weighting {weighting!r}: expected min_snr or none")
    alpha, sigma = schedule(scheduler, timesteps, 1)
    snr = (alpha / sigma.clamp(min=1e-8)) ** 2
    if prediction_type(scheduler) == "epsilon":
        return SNR_CEILING / snr.clamp(min=SNR_CEILING)
    return (snr.clamp(max=SNR_CEILING) + 1) / (snr + 1)


def dream_loss(
    unet: Any,
    scheduler: Any,
    latents: Tensor,
    condition: Tensor,
    *,
    noise: Tensor | None = None,
    timesteps: Tensor | None = None,
    target: Tensor | None = None,
    weighting: str = "min_snr",
    delta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """L_DM = E_{t, eps} || eps_xi(z_t; C, t) - eps ||^2 with xi frozen (Eq. 4), averaged over M, C, h, w.

    For a UNet that predicts v the error is that of v: at one z_t, an error of epsilon is alpha_t times it.

    Optimised: whatever made `condition` (M, Q, D): in DreamLLM the LLM, the dream queries and the projector. The
    gradient flows *through* the UNet (its Jacobian is kept) into `condition`. `latents` (M, C, h, w) are real and
    scaled. `noise` (as latents) and `timesteps` (M,) are drawn if not given. `target` (as latents) takes the place of
    the true epsilon (or v): for instance the prediction of a teacher that knows the caption, at the same z_t. It has
    far less variance, and the same mean as far as the teacher is right.

    `delta`: above 0, a picture's error m counts as 2 delta (sqrt(m + delta^2) - delta), the pseudo-Huber loss: m where
    it is small, 2 delta sqrt(m) where it is large. Where a document may mean one picture or another, the least squared
    error is that of a mixture, which shows neither; the least root of it is that of the likelier picture.

    Raises `UserError` for shapes that do not fit, timesteps out of range, or another prediction type.
    """
    _check(latents, condition, noise=noise, target=target)
    if noise is None or timesteps is None:
        drawn = draw_noise(scheduler, latents, generator)
        noise = drawn[0] if noise is None else noise
        timesteps = drawn[1] if timesteps is None else timesteps
    latents = latents.float()
    noisy = add_noise(scheduler, latents, noise, timesteps)  # z_t
    if target is None:
        target = true_prediction(scheduler, latents, noise, timesteps)
    error = ((predict(unet, noisy, timesteps, condition) - target.detach()) ** 2).flatten(1).mean(1)  # (M,)
    if delta:
        error = 2 * delta * error / ((error + delta**2).sqrt() + delta)  # the same, without the difference
    return (loss_weight(scheduler, timesteps, weighting) * error).mean()


def textual_inversion_loss(unet: Any, scheduler: Any, latents: Tensor, condition: Tensor, **options: Any) -> Tensor:
    """Eq. 4 with *one* condition (S, D) for all pictures (M, C, h, w) of a concept (arXiv 2208.01618).

    Optimised: the condition, or the one word's embedding that a text encoder turned into it. The gradient flows
    through the UNet into it, summed over the pictures. `options` are those of `dream_loss`.
    """
    if condition.ndim != 2:
        raise UserError(f"textual inversion learns one condition (S, D), got shape {tuple(condition.shape)}")
    return dream_loss(unet, scheduler, latents, condition.expand(len(latents), -1, -1), **options)


def sds_gradient(
    unet: Any,
    scheduler: Any,
    latents: Tensor,
    condition: Tensor,
    *,
    null_condition: Tensor | None = None,
    guidance: float = 1.0,
    keep_jacobian: bool = False,
    noise: Tensor | None = None,
    timesteps: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """DreamFusion's gradient sigma_t^2 (eps_hat(z_t; C, t) - eps) with respect to the *picture* (arXiv 2209.14988).

    Optimised: `latents` (M, C, h, w), or the network that rendered them: `latents.backward(gradient)`. Condition
    (M, S, D) and UNet get nothing; the result is detached. It is the gradient of sigma_t^2 / 2 ||eps_hat - eps||^2
    with respect to z_t when d eps_hat / d z_t, the UNet's Jacobian, is replaced by 1; `keep_jacobian` gives the true
    one, for comparison (its factor alpha_t is left out of both). With `null_condition`, eps_hat is guided:
    e_u + guidance (e_c - e_u).
    """
    _check(latents, condition, noise=noise)
    if noise is None or timesteps is None:
        drawn = draw_noise(scheduler, latents, generator)
        noise = drawn[0] if noise is None else noise
        timesteps = drawn[1] if timesteps is None else timesteps
    noisy = add_noise(scheduler, latents.detach().float(), noise, timesteps).requires_grad_(keep_jacobian)
    condition = condition.detach()
    with torch.set_grad_enabled(keep_jacobian):
        prediction = predict(unet, noisy, timesteps, condition)
        if null_condition is not None:
            empty = predict(unet, noisy, timesteps, null_condition.detach().expand_as(condition))
            prediction = empty + guidance * (prediction - empty)
        error = to_epsilon(prediction, noisy, scheduler, timesteps) - noise
        weight = schedule(scheduler, timesteps, latents.ndim)[1] ** 2
        if keep_jacobian:
            return torch.autograd.grad((0.5 * weight * error**2).sum(), noisy)[0]
    return weight * error


def clip_alignment_loss(condition: Tensor, embedding: Tensor) -> Tensor:
    """|| C - CLIP ||^2: regress the condition to CLIP's embeddings, as systems before DreamLLM did; the baseline.

    Optimised: whatever made `condition` (M, Q, D). The gradient flows into it directly; no diffusion model takes part,
    and `embedding`, (M, Q, D) or pooled (M, D) (then compared with the queries' mean), gets none.
    """
    if embedding.ndim == 2:
        condition = condition.mean(1)
    if condition.shape != embedding.shape:
        raise UserError(
            f"condition {tuple(condition.shape)} and embedding {tuple(embedding.shape)} must agree in shape"
        )
    return F.mse_loss(condition.float(), embedding.detach().float())


def _check(latents: Tensor, condition: Tensor, **like_latents: Tensor | None) -> None:
    if condition.ndim != 3 or len(condition) != len(latents):
        raise UserError(
            f"condition must be (M, Q, D) with M = {len(latents)} as the latents have, got {tuple(condition.shape)}"
        )
    for name, tensor in like_latents.items():
        if tensor is not None and tensor.shape != latents.shape:
            raise UserError(f"{name} must have the latents' shape {tuple(latents.shape)}, got {tuple(tensor.shape)}")
