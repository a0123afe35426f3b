"""Exact answers and independent implementations that the numerics are held against (all in float64).

Gaussian data and a mixture of two Gaussians, for which the perfect eps is a formula, and diffusers'
schedulers.
"""

import itertools
import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from numeric import seeded
from torch import nn

from lessons_lib.guidance import conditional, unconditional, with_cfg
from lessons_lib.samplers import sample_ddim, sample_ddpm
from lessons_lib.schedules import NoiseSchedule, spaced_timesteps

pytestmark = pytest.mark.numeric

LINEAR = NoiseSchedule.linear()
MEAN, STD = 0.4, 0.3


def final(steps):
    *_, last = steps
    return last.x_t


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def gaussian_eps(schedule, mean=MEAN, std=STD):
    """The exact E[eps given x_t] for data N(mean, std²)."""

    def eps_fn(x_t, t):
        abar = schedule.alphas_cumprod[t].view(-1, *(1,) * (x_t.ndim - 1))
        return (1 - abar).sqrt() * (x_t - abar.sqrt() * mean) / (abar * std**2 + 1 - abar)

    return eps_fn


# -- Gaussian data --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["linear", "cosine", "sigmoid"])
def test_ddim_converges_to_the_ode_end_point_at_first_order(name):
    schedule = NoiseSchedule.by_name(name)
    x_T = normal(4, 1, 2, 2)
    abar = schedule.alphas_cumprod[-1]
    sigma2 = (1 - abar) / abar
    exact = MEAN + (x_T / abar.sqrt() - MEAN) * STD / (STD**2 + sigma2).sqrt()
    errors = []
    for steps in (125, 250, 500):
        ts = spaced_timesteps(1000, steps)
        found = final(sample_ddim(gaussian_eps(schedule), schedule, x_T, ts, clip_x0=False))
        errors.append((found - exact).abs().max().item())
    assert errors[-1] < 0.02
    for coarse, fine in itertools.pairwise(errors):
        assert 1.7 < coarse / fine < 2.3  # half the step, half the error


@pytest.mark.parametrize(
    "sampler, kwargs", [(sample_ddpm, {}), (sample_ddim, {"eta": 1.0}), (sample_ddim, {"eta": 0.5})]
)
def test_stochastic_samplers_draw_the_right_moments(sampler, kwargs):
    source = torch.Generator().manual_seed(1)
    x_T = normal(20_000, 1)
    samples = final(
        sampler(
            gaussian_eps(LINEAR),
            LINEAR,
            x_T,
            spaced_timesteps(1000, 1000),
            noise_fn=lambda x: torch.randn(x.shape, generator=source, dtype=x.dtype),
            clip_x0=False,
            **kwargs,
        )
    )
    assert samples.mean().item() == pytest.approx(MEAN, abs=0.01)  # standard error 0.002
    assert samples.std().item() == pytest.approx(STD, abs=0.01)


def test_ddpm_keeps_the_exact_marginal_after_every_step():
    """The variance of each step follows in closed form from the one before: no sampling error at all."""
    ts = [999, 700, 400, 100, 20]
    abars = LINEAR.alphas_cumprod[ts].tolist()
    probe = torch.tensor([[0.0], [1.0]], dtype=torch.float64)  # the step is affine in x: two points show it
    for k in range(len(ts) - 1):
        ts_k = torch.tensor(ts[k : k + 2])
        at, up = (
            next(sample_ddpm(gaussian_eps(LINEAR), LINEAR, probe, ts_k, noise_fn=noise_fn, clip_x0=False)).x_t
            for noise_fn in (torch.zeros_like, torch.ones_like)
        )
        slope, offset, noise_scale = (at[1] - at[0]).item(), at[0].item(), (up - at)[0].item()
        abar, prev = abars[k], abars[k + 1]
        # E[x_prev given x_t] is exact: the best linear estimate of one noisy state from another.
        assert offset + slope * math.sqrt(abar) * MEAN == pytest.approx(math.sqrt(prev) * MEAN, abs=1e-12)
        covariance = math.sqrt(abar / prev) * (prev * STD**2 + 1 - prev)
        assert slope == pytest.approx(covariance / (abar * STD**2 + 1 - abar), abs=1e-12)
        # The noise is the posterior's given x_0 (Ho et al. eq. 7), the smaller of their two choices.
        beta = 1 - abar / prev
        assert noise_scale == pytest.approx(math.sqrt(beta * (1 - prev) / (1 - abar)), abs=1e-12)


@pytest.mark.parametrize("sampler", [sample_ddpm, sample_ddim])
def test_data_at_one_point_is_found_in_a_single_step(sampler):
    x_T = normal(3, 1, 2, 2)
    found = final(sampler(gaussian_eps(LINEAR, 0.25, 0.0), LINEAR, x_T, torch.tensor([999])))
    torch.testing.assert_close(found, torch.full_like(x_T, 0.25), rtol=0, atol=1e-10)


# -- a mixture of two Gaussians -------------------------------------------------------------------------

CENTRES = torch.tensor([-0.5, 0.6], dtype=torch.float64)


class MixtureNetwork(nn.Module):
    """The perfect network for an even mixture of two Gaussians; label 2 is null. x is [B, 1, 1, 1]."""

    null_label = 2

    def forward(self, x_t, t, y=None):
        y = torch.full_like(t, 2) if y is None else y
        parts = torch.cat(
            [gaussian_eps(LINEAR, centre, STD)(x_t, t) for centre in CENTRES], dim=1
        )  # [B, 2, 1, 1]
        weights = class_probabilities(x_t, t)[..., None, None]
        mixed = (weights * parts).sum(1, keepdim=True)
        own = parts.gather(1, y.clamp(max=1).view(-1, 1, 1, 1))
        return torch.where((y == 2).view(-1, 1, 1, 1), mixed, own)


def class_probabilities(x_t, t):
    abar = LINEAR.alphas_cumprod[t][:, None]
    variance = abar * STD**2 + 1 - abar
    return (-((x_t.flatten(1) - abar.sqrt() * CENTRES) ** 2) / (2 * variance)).softmax(1)


def classifier_gradient(x_t, t, y):
    x = x_t.clone().requires_grad_()
    return torch.autograd.grad(class_probabilities(x, t).log().gather(1, y[:, None]).sum(), x)[0]


@pytest.mark.parametrize("w", [0.0, 1.0, 2.0, 5.0, -1.0])
def test_cfg_with_exact_networks_is_guidance_by_the_exact_classifier(w):
    """eps_uncond - w sqrt(1 - abar) grad log p(y given x_t): catches a wrong sign, factor or convention."""
    x_t, t, y = normal(6, 1, 1, 1), torch.tensor([0, 50, 200, 500, 800, 999]), torch.tensor([0, 1] * 3)
    network = MixtureNetwork()
    noise = (1 - LINEAR.alphas_cumprod[t]).sqrt().view(-1, 1, 1, 1)
    expected = unconditional(network)(x_t, t) - w * noise * classifier_gradient(x_t, t, y)
    torch.testing.assert_close(with_cfg(network, y, w)(x_t, t), expected, rtol=0, atol=1e-10)


def test_conditional_sampling_reaches_its_own_gaussian_and_guidance_overshoots_it():
    network, x_T = MixtureNetwork(), normal(4000, 1, 1, 1)
    y = torch.ones(4000, dtype=torch.int64)
    ts = spaced_timesteps(1000, 100)

    def mean_and_std(eps_fn):
        samples = final(sample_ddim(eps_fn, LINEAR, x_T, ts, clip_x0=False))
        return samples.mean().item(), samples.std().item()

    assert mean_and_std(conditional(network, y)) == pytest.approx((0.6, STD), abs=0.02)
    assert mean_and_std(unconditional(network)) == pytest.approx((0.05, math.hypot(STD, 0.55)), abs=0.03)
    guided_mean, guided_std = mean_and_std(with_cfg(network, y, 3.0))
    assert guided_mean > 0.65 and guided_std < STD


# -- diffusers ------------------------------------------------------------------------------------------


def wavy(x_t, t):
    return torch.sin(3 * x_t) + t.view(-1, 1, 1, 1) / 1000


def diffusers_states(scheduler, x_T, steps, **kwargs):
    """Run one of diffusers' schedulers with the same network; returns each state and each estimate."""
    scheduler.set_timesteps(steps)
    scheduler.alphas_cumprod = LINEAR.alphas_cumprod  # theirs are float32
    scheduler.betas, scheduler.alphas = LINEAR.betas, 1 - LINEAR.betas
    scheduler.one = scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    states, x = [], x_T
    for t in scheduler.timesteps:
        out = scheduler.step(wavy(x, t.repeat(len(x))), t, x, **kwargs)
        x = out.prev_sample
        states.append((x, out.pred_original_sample))
    return states


def assert_same_path(ours, theirs):
    for step, (x_t, x_0) in zip(ours, theirs, strict=True):
        torch.testing.assert_close(step.x_t, x_t, rtol=0, atol=1e-5)
        torch.testing.assert_close(step.x_0, x_0, rtol=0, atol=1e-5)


# diffusers' DDIM takes t - T // N for the timestep before t, which is right only where the list has that
# stride.
@pytest.mark.parametrize("spacing", ["trailing", "leading"])
@pytest.mark.parametrize("steps", [5, 50, 1000])
@pytest.mark.parametrize("clip", [True, False])
def test_ddim_agrees_with_diffusers(spacing, steps, clip):
    x_T = normal(2, 1, 3, 3)
    scheduler = DDIMScheduler(1000, timestep_spacing=spacing, clip_sample=clip, set_alpha_to_one=True)
    # use_clipped_model_output: without it diffusers keeps the eps that no longer belongs to the clipped x_0.
    theirs = diffusers_states(scheduler, x_T, steps, eta=0.0, use_clipped_model_output=True)
    if spacing == "leading":  # there the last jump of theirs goes from 0 to "-stride": the same end, abar = 1
        assert scheduler.timesteps[-1] == 0
    assert_same_path(
        sample_ddim(wavy, LINEAR, x_T, spaced_timesteps(1000, steps, spacing), clip_x0=clip), theirs
    )


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ddim_noise_agrees_with_diffusers(eta):
    x_T, source = normal(2, 1, 3, 3), torch.Generator().manual_seed(5)
    scheduler = DDIMScheduler(1000, timestep_spacing="trailing", clip_sample=True, set_alpha_to_one=True)
    theirs = diffusers_states(scheduler, x_T, 20, eta=eta, use_clipped_model_output=True, generator=source)
    source.manual_seed(5)
    ours = sample_ddim(
        wavy,
        LINEAR,
        x_T,
        spaced_timesteps(1000, 20),
        eta=eta,
        noise_fn=lambda x: torch.randn(x.shape, generator=source, dtype=x.dtype),
    )
    assert_same_path(ours, theirs)


@pytest.mark.parametrize("steps", [5, 50, 1000])
@pytest.mark.parametrize("clip", [True, False])
def test_ddpm_agrees_with_diffusers(steps, clip):
    x_T, source = normal(2, 1, 3, 3), torch.Generator().manual_seed(5)
    scheduler = DDPMScheduler(
        1000, timestep_spacing="trailing", variance_type="fixed_small", clip_sample=clip
    )
    theirs = diffusers_states(scheduler, x_T, steps, generator=source)
    source.manual_seed(5)
    ours = sample_ddpm(
        wavy,
        LINEAR,
        x_T,
        spaced_timesteps(1000, steps),
        noise_fn=lambda x: torch.randn(x.shape, generator=source, dtype=x.dtype),
        clip_x0=clip,
    )
    assert_same_path(ours, theirs)


@pytest.mark.parametrize("ts", [[999, 749, 500, 250, 0], [999, 856, 713, 570, 428, 285, 142]])
def test_where_the_list_has_no_fixed_stride_each_step_goes_to_the_next_of_the_list(ts):
    """Trap 7: t - T // N would miss the list's levels; the exact flow shows which level was reached."""
    eps_fn = gaussian_eps(LINEAR, 0.25, 0.0)  # all data at one point: DDIM is exact for steps of any size
    x_T = normal(1, 1, 2, 2)
    abar_T = LINEAR.alphas_cumprod[ts[0]]
    eps = (x_T - abar_T.sqrt() * 0.25) / (1 - abar_T).sqrt()
    levels = [LINEAR.alphas_cumprod[t] for t in ts[1:]] + [torch.tensor(1.0).double()]
    for step, abar in zip(sample_ddim(eps_fn, LINEAR, x_T, torch.tensor(ts)), levels, strict=True):
        torch.testing.assert_close(step.x_t, abar.sqrt() * 0.25 + (1 - abar).sqrt() * eps, rtol=0, atol=1e-9)
