"""sample_dpmpp_2m: its order on data whose ODE is solved exactly, and diffusers' solver of the same paper."""

import itertools

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from numeric import assert_close_by_scale
from test_oracles import MEAN, STD, gaussian_eps, normal

from lessons_lib.samplers import sample_ddim, sample_dpmpp_2m, timesteps_for
from lessons_lib.schedules import NoiseSchedule, spaced_timesteps_logsnr

pytestmark = pytest.mark.numeric

LINEAR = NoiseSchedule.linear()


# Not cosine: its noisiest timesteps lie so far apart in log-SNR that no list of them is even.
@pytest.mark.parametrize("name", ["linear", "sigmoid"])
def test_it_converges_at_second_order(name):
    """Against the exact state of the ODE at the last timestep, before the step to the image."""
    schedule, x_T = NoiseSchedule.by_name(name, 50_000), normal(4, 1, 2, 2)
    abars, errors = schedule.alphas_cumprod, []
    for count in (20, 40, 80):
        ts = spaced_timesteps_logsnr(schedule, count)
        *_, state, _ = sample_dpmpp_2m(gaussian_eps(schedule), schedule, x_T, ts, clip_x0=False)
        abar, abar_T = abars[ts[-1]], abars[-1]
        spread, spread_T = ((STD**2 + (1 - a) / a).sqrt() for a in (abar, abar_T))
        exact = abar.sqrt() * (MEAN + (x_T / abar_T.sqrt() - MEAN) * spread / spread_T)
        errors.append((state.x_t - exact).abs().max().item())
    for coarse, fine in itertools.pairwise(errors):
        assert 3.4 < coarse / fine < 4.6  # half the step, a quarter of the error
    assert errors[-1] < 2e-3


def wavy(x_t, t):
    """An EpsFn that is no straight line in x or t, and keeps the estimates near the images' size."""
    abar = LINEAR.alphas_cumprod[t].view(-1, 1, 1, 1)
    return (x_t - abar.sqrt() * 0.8 * torch.sin(3 * x_t + t.view(-1, 1, 1, 1) / 300)) / (1 - abar).sqrt()


def theirs(x_T, timesteps):
    scheduler = DPMSolverMultistepScheduler(
        1000, algorithm_type="dpmsolver++", solver_order=2, solver_type="midpoint", final_sigmas_type="zero"
    )
    scheduler.set_timesteps(timesteps=timesteps.tolist())
    abars = torch.cat([LINEAR.alphas_cumprod[timesteps], torch.ones(1).double()])
    scheduler.sigmas = ((1 - abars) / abars).sqrt()  # theirs are float32
    x = x_T
    for t in scheduler.timesteps:
        x = scheduler.step(wavy(x, t.repeat(len(x))), t, x).prev_sample
        yield x


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace", "logsnr"])
@pytest.mark.parametrize("steps", [2, 3, 10, 25])
def test_it_agrees_with_diffusers(spacing, steps):
    x_T, ts = normal(2, 1, 3, 3), timesteps_for(LINEAR, steps, spacing)
    ours = sample_dpmpp_2m(wavy, LINEAR, x_T, ts, clip_x0=False)
    for step, x in zip(ours, theirs(x_T, ts), strict=True):
        assert_close_by_scale(step.x_t, x, 1e-4)  # theirs steps in float32, and was up to 1e-5 off


@pytest.mark.parametrize("clip", [True, False])
def test_one_step_is_ddims_and_so_is_the_first_of_many(clip):
    x_T = normal(2, 1, 3, 3)
    for ts in (torch.tensor([999]), torch.tensor([999, 500, 20])):
        both = sample_dpmpp_2m, sample_ddim
        ours, ddim = (next(sampler(wavy, LINEAR, x_T, ts, clip_x0=clip)) for sampler in both)
        torch.testing.assert_close(ours.x_t, ddim.x_t, rtol=0, atol=1e-12)
        assert torch.equal(ours.x_0, ddim.x_0)
