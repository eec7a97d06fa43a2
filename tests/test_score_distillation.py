"""Score distillation: every formula against a closed form or autograd, and who gets a gradient."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_scheduler, tiny_unet

from minidream.errors import UserError
from minidream.score_distillation import (
    add_noise,
    clip_alignment_loss,
    draw_noise,
    draw_timesteps,
    dream_loss,
    gaussian_kl_weight,
    loss_weight,
    score,
    sds_gradient,
    textual_inversion_loss,
    to_epsilon,
    true_prediction,
)

PLAIN = {"prediction_type": "epsilon", "rescale_betas_zero_snr": False}
BOTH = pytest.mark.parametrize("changes", [PLAIN, {}], ids=["epsilon", "v"])


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def frozen_unet() -> Any:
    return tiny_unet().requires_grad_(False)


# -- the schedule -----------------------------------------------------------------------------------------------------


@BOTH
def test_noising_and_v_are_diffusers_own(changes: dict[str, Any]) -> None:
    scheduler, z, noise, t = tiny_scheduler(**changes), normal(3, 4, 4, 4), normal(3, 4, 4, 4, seed=1), [0, 500, 999]
    steps = torch.tensor(t)
    noisy = add_noise(scheduler, z, noise, steps)
    torch.testing.assert_close(noisy, scheduler.add_noise(z, noise, steps))
    truth = true_prediction(scheduler, z, noise, steps)
    expected = noise if changes else scheduler.get_velocity(z, noise, steps)
    torch.testing.assert_close(truth, expected)
    torch.testing.assert_close(to_epsilon(truth, noisy, scheduler, steps), noise, atol=1e-5, rtol=0)


def test_drawn_timesteps_are_uniform_and_spread() -> None:
    scheduler, generator = tiny_scheduler(), torch.Generator().manual_seed(0)
    draws = torch.stack([draw_noise(scheduler, normal(10, 4, 4, 4), generator)[1] for _ in range(500)])
    assert draws.min() >= 0 and draws.max() <= 999
    tenths = torch.div(draws, 100, rounding_mode="floor")
    for row in tenths[:50]:  # one in every tenth, but for rounding at a boundary
        assert len(set(row.tolist())) >= 9
    share = torch.bincount(tenths[:, 0], minlength=10) / 500  # the first of a batch is uniform by itself
    assert (share - 0.1).abs().max() < 0.05


def test_biased_timesteps_lie_where_there_is_more_noise() -> None:
    scheduler, generator = tiny_scheduler(), torch.Generator().manual_seed(0)
    draws = torch.cat([draw_timesteps(scheduler, 10, 2.5, generator) for _ in range(500)])
    assert draws.min() >= 0 and draws.max() == 999
    for at in (300, 600, 900):  # P(t < T u) = u^bias
        assert abs((draws < at).float().mean() - (at / 1000) ** 2.5) < 0.02
    assert draw_timesteps(scheduler, 0).shape == (0,)


# -- score and KL -----------------------------------------------------------------------------------------------------


@BOTH
@settings(max_examples=20, deadline=None)
@given(t=st.integers(1, 998), seed=st.integers(0, 1000))
def test_score_is_the_gradient_of_a_mixtures_log_density(changes: dict[str, Any], t: int, seed: int) -> None:
    """A mixture of two points: p(z_t) is a mixture of two Gaussians, whose score autograd gives."""
    scheduler, steps = tiny_scheduler(**changes), torch.tensor([t])
    points = torch.stack([normal(2, seed=seed), -2 * normal(2, seed=seed + 1)]).double()  # (2 modes, 2)
    square = scheduler.alphas_cumprod[t].double()
    alpha, sigma = square.sqrt(), (1 - square).sqrt()
    z = (alpha * points[0] + sigma * normal(2, seed=seed + 2).double()).requires_grad_()
    logits = -((z - alpha * points) ** 2).sum(1) / (2 * sigma**2)
    exact = torch.autograd.grad(torch.logsumexp(logits, 0), z)[0]
    mean = (logits.softmax(0)[:, None] * points).sum(0)  # E[z_0 | z_t]: what a perfect UNet knows
    epsilon = (z - alpha * mean) / sigma
    prediction = epsilon if changes else alpha * epsilon - sigma * mean
    found = score(prediction.float().view(1, 2, 1, 1), z.float().view(1, 2, 1, 1), scheduler, steps)
    torch.testing.assert_close(found.flatten().double(), exact, rtol=2e-3, atol=2e-3 * float(1 / sigma))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_kl_weight_equals_the_closed_form_for_every_t(kind: str) -> None:
    scheduler = tiny_scheduler(**PLAIN, timestep_spacing="leading")
    steps = torch.arange(1, 1000)
    bars = scheduler.alphas_cumprod.double()
    now, before = bars[steps], bars[steps - 1]
    beta = 1 - now / before
    variance = (1 - before) / (1 - now) * beta  # of q(z_{t-1} | z_t, z_0)

    def mean(z_0: torch.Tensor, z_t: torch.Tensor) -> torch.Tensor:  # Ho et al., Eq. 7
        return before.sqrt() * beta / (1 - now) * z_0 + (1 - beta).sqrt() * (1 - before) / (1 - now) * z_t

    z_0, guess, noise = (normal(999, seed=s).double() for s in range(3))
    z_t = now.sqrt() * z_0 + (1 - now).sqrt() * noise
    q, p = (torch.distributions.Normal(mean(z, z_t), variance.sqrt()) for z in (z_0, guess))
    exact = torch.distributions.kl_divergence(q, p)
    wrong = (z_t - now.sqrt() * guess) / (1 - now).sqrt()  # the epsilon that `guess` implies
    errors = {
        "sample": guess - z_0,
        "epsilon": wrong - noise,
        "v_prediction": now.sqrt() * (wrong - noise) - (1 - now).sqrt() * (guess - z_0),
    }
    found = gaussian_kl_weight(scheduler, steps, kind).double() * errors[kind] ** 2
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=0)


def test_kl_weight_of_v_stays_finite_at_zero_terminal_snr() -> None:
    weights = gaussian_kl_weight(tiny_scheduler(), torch.arange(1, 1000))
    assert weights.isfinite().all() and (weights > 0).all()


# -- the dream loss ---------------------------------------------------------------------------------------------------


@BOTH
def test_dream_loss_is_the_mean_squared_error_by_hand(changes: dict[str, Any]) -> None:
    unet, scheduler = frozen_unet(), tiny_scheduler(**changes)
    z, condition, noise, t = (
        normal(3, 4, 4, 4),
        normal(3, 5, 24),
        normal(3, 4, 4, 4, seed=1),
        torch.tensor([3, 400, 999]),
    )
    truth = noise if changes else scheduler.get_velocity(z, noise, t)
    prediction = unet(scheduler.add_noise(z, noise, t), t, encoder_hidden_states=condition).sample
    each = ((prediction - truth) ** 2).mean((1, 2, 3))
    plain = dream_loss(unet, scheduler, z, condition, noise=noise, timesteps=t, weighting="none")
    torch.testing.assert_close(plain, each.mean())
    weighted = dream_loss(unet, scheduler, z, condition, noise=noise, timesteps=t)
    torch.testing.assert_close(weighted, (each * loss_weight(scheduler, t)).mean())
    assert not torch.allclose(weighted, plain)


def test_weights_count_the_first_step_of_sampling_and_tame_the_last() -> None:
    for changes, first in (({}, 1.0), (PLAIN, 1.0)):
        weight = loss_weight(tiny_scheduler(**changes), torch.tensor([999, 500, 0]))
        assert weight[0] == pytest.approx(first, abs=1e-3)
        assert 0 < weight[2] < 0.02


def test_a_teacher_takes_the_place_of_the_noise() -> None:
    unet, scheduler, z, noise, t = (
        frozen_unet(),
        tiny_scheduler(),
        normal(2, 4, 4, 4),
        normal(2, 4, 4, 4),
        torch.tensor([9, 700]),
    )
    condition = normal(2, 5, 24)
    said = unet(scheduler.add_noise(z, noise, t), t, encoder_hidden_states=condition).sample
    options = {"noise": noise, "timesteps": t, "target": said}
    assert dream_loss(unet, scheduler, z, condition, **options) < 1e-10
    assert dream_loss(unet, scheduler, z, condition + 1, **options) > 1e-6


def test_small_errors_count_squared_and_large_ones_by_their_root() -> None:
    unet, scheduler, z, condition = frozen_unet(), tiny_scheduler(), normal(1, 4, 4, 4), normal(1, 3, 24)
    noise, t = normal(1, 4, 4, 4, seed=1), torch.tensor([700])
    options = {"noise": noise, "timesteps": t, "weighting": "none"}
    squared = dream_loss(unet, scheduler, z, condition, **options)
    assert squared > 0.1
    torch.testing.assert_close(
        dream_loss(unet, scheduler, z, condition, delta=1e3, **options), squared, rtol=1e-3, atol=0
    )
    rooted = dream_loss(unet, scheduler, z, condition, delta=1e-4, **options)
    torch.testing.assert_close(rooted, 2e-4 * squared.sqrt(), rtol=1e-3, atol=0)


@pytest.mark.parametrize(("delta", "share"), [(0.0, 1 / 3), (0.01, 0.0)])
def test_of_two_pictures_that_it_may_be_the_roots_choose_the_likelier(delta: float, share: float) -> None:
    """One of three targets is 1, two are 0, and nothing tells which: what is said is the mean, or the likelier."""

    def unet(noisy: torch.Tensor, timesteps: torch.Tensor, encoder_hidden_states: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=encoder_hidden_states.view(-1, 1, 1, 1).expand_as(noisy))

    said = torch.full((), 0.5, requires_grad=True)
    target = torch.tensor([0.0, 0.0, 1.0]).view(3, 1, 1, 1).expand(3, 4, 2, 2)
    z, noise, t = normal(3, 4, 2, 2), normal(3, 4, 2, 2, seed=1), torch.tensor([500, 500, 500])
    optimizer = torch.optim.Adam([said], lr=0.02)
    for _ in range(200):
        loss = dream_loss(
            unet, tiny_scheduler(), z, said.expand(3, 1, 1), noise=noise, timesteps=t, target=target,
            weighting="none", delta=delta,
        )  # fmt: skip
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert said.item() == pytest.approx(share, abs=0.03)


def test_dream_loss_gives_gradients_to_the_condition_alone_through_the_unet() -> None:
    unet, z, condition = frozen_unet(), normal(2, 4, 4, 4), normal(2, 5, 24).requires_grad_()
    target = normal(2, 4, 4, 4, seed=3).requires_grad_()
    generator = torch.Generator().manual_seed(0)
    dream_loss(unet, tiny_scheduler(), z, condition, target=target, generator=generator).backward()
    assert condition.grad is not None and (condition.grad.abs().sum((1, 2)) > 0).all()
    assert target.grad is None and all(p.grad is None for p in unet.parameters())


def test_dream_loss_pulls_the_condition_towards_the_pictures() -> None:
    """Descent on the condition alone lowers the loss: the frozen UNet teaches."""
    unet, scheduler, z = frozen_unet(), tiny_scheduler(), normal(4, 4, 4, 4)
    noise, t = normal(4, 4, 4, 4, seed=1), torch.tensor([100, 300, 600, 900])
    condition = torch.zeros(4, 5, 24, requires_grad=True)
    optimizer = torch.optim.Adam([condition], lr=0.3)
    losses = []
    for _ in range(15):
        loss = dream_loss(unet, scheduler, z, condition, noise=noise, timesteps=t)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.97 * losses[0]


def test_textual_inversion_is_the_dream_loss_of_one_condition() -> None:
    unet, scheduler, z, one = frozen_unet(), tiny_scheduler(), normal(3, 4, 4, 4), normal(5, 24).requires_grad_()
    options = {"noise": normal(3, 4, 4, 4), "timesteps": torch.tensor([10, 500, 900])}
    loss = textual_inversion_loss(unet, scheduler, z, one, **options)
    many = one.detach().repeat(3, 1, 1).requires_grad_()
    expected = dream_loss(unet, scheduler, z, many, **options)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    assert many.grad is not None
    torch.testing.assert_close(one.grad, many.grad.sum(0))


# -- SDS and the baseline ---------------------------------------------------------------------------------------------


@BOTH
def test_sds_is_the_loss_gradient_with_the_jacobian_replaced_by_one(changes: dict[str, Any]) -> None:
    """For a UNet that is linear in z_t with known Jacobian J, the full gradient is J times DreamFusion's."""
    scheduler, t = tiny_scheduler(**changes), torch.tensor([200, 800])
    z, noise, slope = normal(2, 4, 4, 4), normal(2, 4, 4, 4, seed=1), 0.3

    def linear(noisy: torch.Tensor, steps: torch.Tensor, encoder_hidden_states: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=slope * noisy)

    short = sds_gradient(linear, scheduler, z, normal(2, 5, 24), noise=noise, timesteps=t)
    full = sds_gradient(linear, scheduler, z, normal(2, 5, 24), noise=noise, timesteps=t, keep_jacobian=True)
    alpha, sigma = (
        x.view(2, 1, 1, 1) for x in (scheduler.alphas_cumprod[t] ** 0.5, (1 - scheduler.alphas_cumprod[t]) ** 0.5)
    )
    jacobian = slope if changes else sigma + alpha * slope  # of eps_hat with respect to z_t
    error = jacobian * (alpha * z + sigma * noise) - noise
    torch.testing.assert_close(short, sigma**2 * error)
    torch.testing.assert_close(full, jacobian * short)


def test_sds_moves_the_picture_and_nothing_else() -> None:
    unet, condition = frozen_unet(), normal(2, 5, 24).requires_grad_()
    z = normal(2, 4, 4, 4).requires_grad_()
    options: dict[str, Any] = {"noise": normal(2, 4, 4, 4, seed=1), "timesteps": torch.tensor([300, 700])}
    gradient = sds_gradient(unet, tiny_scheduler(), z, condition, **options)
    assert gradient.shape == z.shape and not gradient.requires_grad
    z.backward(gradient)
    torch.testing.assert_close(z.grad, gradient)
    full = sds_gradient(unet, tiny_scheduler(), z, condition, keep_jacobian=True, **options)
    assert not torch.allclose(full, gradient) and full.isfinite().all()
    assert condition.grad is None and all(p.grad is None for p in unet.parameters())


def test_sds_guidance_mixes_the_two_conditions() -> None:
    unet, scheduler, z, c, null = (
        frozen_unet(),
        tiny_scheduler(),
        normal(2, 4, 4, 4),
        normal(2, 5, 24),
        normal(1, 5, 24, seed=7),
    )
    options: dict[str, Any] = {"noise": normal(2, 4, 4, 4, seed=1), "timesteps": torch.tensor([300, 700])}
    conditional, empty = (sds_gradient(unet, scheduler, z, x, **options) for x in (c, null.expand_as(c)))
    guided = sds_gradient(unet, scheduler, z, c, null_condition=null, guidance=7.5, **options)
    torch.testing.assert_close(guided, empty + 7.5 * (conditional - empty), atol=1e-4, rtol=1e-4)


def test_clip_alignment_regresses_without_a_diffusion_model() -> None:
    condition, clip = normal(2, 5, 24).requires_grad_(), normal(2, 5, 24, seed=1).requires_grad_()
    loss = clip_alignment_loss(condition, clip)
    torch.testing.assert_close(loss, ((condition - clip) ** 2).mean())
    loss.backward()
    assert condition.grad is not None and clip.grad is None
    pooled = clip_alignment_loss(condition, clip[:, 0])
    torch.testing.assert_close(pooled, ((condition.mean(1) - clip[:, 0]) ** 2).mean())


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda u, s, z, c: dream_loss(u, s, z, c[:1]), "M = 2"),
        (lambda u, s, z, c: dream_loss(u, s, z, c[0]), "must be"),
        (lambda u, s, z, c: dream_loss(u, s, z, c, noise=z[:1]), "noise must have"),
        (lambda u, s, z, c: dream_loss(u, s, z, c, target=z[:, :1]), "target must have"),
        (lambda u, s, z, c: dream_loss(u, s, z, c, timesteps=torch.tensor([0, 1000])), r"0\.\.999"),
        (lambda u, s, z, c: dream_loss(u, s, z, c, timesteps=torch.tensor([-1, 5])), r"0\.\.999"),
        (lambda u, s, z, c: dream_loss(u, s, z, c, weighting="max"), "min_snr or none"),
        (lambda u, s, z, c: dream_loss(u, DDPMScheduler(prediction_type="sample"), z, c), "epsilon, v_prediction"),
        (lambda u, s, z, c: textual_inversion_loss(u, s, z, c), "one condition"),
        (lambda u, s, z, c: sds_gradient(u, s, z, c[:1]), "M = 2"),
        (lambda u, s, z, c: gaussian_kl_weight(s, torch.tensor([0])), ">= 1"),
        (lambda u, s, z, c: gaussian_kl_weight(s, torch.tensor([5]), "score"), "expected one of"),
        (lambda u, s, z, c: clip_alignment_loss(c, c[:, :3]), "agree in shape"),
    ],
)
def test_bad_input_is_named_in_one_sentence(call: Any, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        call(frozen_unet(), tiny_scheduler(), normal(2, 4, 4, 4), normal(2, 5, 24))
    assert "\n" not in str(caught.value)
