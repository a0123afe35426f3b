"""schedules.py: betas, the closed-form forward process, and which timesteps a sampler visits."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from lessons_lib import schedules
from lessons_lib.schedules import SCHEDULES, SPACINGS, NoiseSchedule, q_sample, spaced_timesteps

pytestmark = pytest.mark.numeric

DIFFUSERS_NAME = {"linear": "linear", "sigmoid": "sigmoid", "cosine": "squaredcos_cap_v2"}


@pytest.mark.parametrize("name", SCHEDULES)
def test_betas_and_alphas_agree_with_diffusers(name):
    ours, theirs = NoiseSchedule.by_name(name), DDPMScheduler(1000, beta_schedule=DIFFUSERS_NAME[name])
    torch.testing.assert_close(ours.betas, theirs.betas.double(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.alphas_cumprod, theirs.alphas_cumprod.double(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("total", [2, 10, 50, 100, 1000, 4000])
def test_alphas_are_float64_strictly_decreasing_and_end_in_noise(name, total):
    schedule = NoiseSchedule.by_name(name, total)
    abar = schedule.alphas_cumprod
    assert schedule.num_timesteps == len(abar) == total
    assert abar.dtype == schedule.betas.dtype == torch.float64 and abar.device.type == "cpu"
    assert (abar.diff() < 0).all() and abar[-1] > 0
    # Trap 10: unscaled linear betas leave 37% of the signal at T=100.
    assert abar[-1] < 1e-3
    assert schedule.betas.max() <= 0.999


def test_cosine_recomputes_alphas_from_the_clipped_betas_and_snr_is_of_powers():
    schedule = NoiseSchedule.cosine(1000)
    assert schedule.betas[-1] == 0.999  # unclipped it would be 1
    torch.testing.assert_close(schedule.alphas_cumprod, (1 - schedule.betas).cumprod(0), rtol=0, atol=0)
    abar = schedule.alphas_cumprod[3].item()
    assert schedule.snr[3].item() == pytest.approx(abar / (1 - abar))


def test_bad_betas_names_and_lengths_are_refused_in_a_sentence():
    for betas in ([0.0, 0.1], [0.1, 1.0], [-0.1, 0.1], [float("nan")], [], [[0.1]]):
        with pytest.raises(ValueError, match=r"beta"):
            NoiseSchedule(torch.tensor(betas))
    with pytest.raises(ValueError, match="choose one of linear, cosine, sigmoid"):
        NoiseSchedule.by_name("quadratic")
    for name in SCHEDULES:
        with pytest.raises(ValueError, match="at least 2 timesteps, got 1"):
            NoiseSchedule.by_name(name, 1)


def test_q_sample_is_the_closed_form_and_each_sample_has_its_own_t():
    schedule = NoiseSchedule.linear()
    x_0, eps = torch.randn(2, 3, 2, 4, 5, dtype=torch.float64)
    t = torch.tensor([0, 500, 999])
    x_t = q_sample(schedule, x_0, t, eps)
    for k in range(3):
        abar = schedule.alphas_cumprod[t[k]]
        torch.testing.assert_close(
            x_t[k], abar.sqrt() * x_0[k] + (1 - abar).sqrt() * eps[k], rtol=0, atol=1e-15
        )
    signal, noise = schedule.signal_and_noise(torch.tensor([0]), torch.ones(1, 1, dtype=torch.float64))
    assert noise.item() == pytest.approx(0.01), "sqrt(beta_0): code's t = 0 is noisy already"
    assert signal.item() == schedule.alphas_cumprod[0].sqrt().item(), "not rounded to float32 on the way"


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_conversions_are_inverse_and_keep_the_dtype(name, dtype):
    schedule, t = NoiseSchedule.by_name(name), torch.arange(900)
    x_0, eps = torch.randn(2, 900, 1, 3, 3, dtype=dtype)
    x_t = q_sample(schedule, x_0, t, eps)
    signal, noise = schedule.signal_and_noise(t, x_0)
    v = signal * eps - noise * x_0
    close = {"rtol": 0, "atol": 1e-10 if dtype == torch.float64 else 0.01}
    assert x_t.dtype == dtype
    torch.testing.assert_close(schedules.predict_x0(schedule, x_t, t, eps), x_0, **close)
    torch.testing.assert_close(schedules.predict_eps(schedule, x_t, t, x_0), eps, **close)
    torch.testing.assert_close(schedules.eps_from_v(schedule, x_t, t, v), eps, **close)


def test_tables_first_used_under_inference_mode_still_serve_gradients():
    schedule, t = NoiseSchedule.linear(), torch.tensor([5, 6])
    with torch.inference_mode():
        q_sample(schedule, torch.zeros(2, 1), t, torch.zeros(2, 1))
    x_0 = torch.zeros(2, 1, requires_grad=True)
    q_sample(schedule, x_0, t, torch.zeros(2, 1)).sum().backward()
    assert (x_0.grad > 0).all()


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [1, 5, 10, 25, 50, 100, 250, 1000])
def test_spacing_agrees_with_diffusers(spacing, steps):
    theirs = DDIMScheduler(1000, timestep_spacing=spacing)
    theirs.set_timesteps(steps)
    expected = theirs.timesteps.tolist()
    if spacing == "linspace" and steps == 1:
        expected = [999]  # numpy's linspace of one point starts at the clean end: no sampler can begin there
    assert spaced_timesteps(1000, steps, spacing).tolist() == expected


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("total", [2, 7, 100, 999])
def test_every_number_of_steps_gives_that_many_descending_timesteps(spacing, total):
    for steps in range(1, total + 1):
        ts = spaced_timesteps(total, steps, spacing)
        assert ts.dtype == torch.int64 and len(ts) == steps
        assert (ts.diff() < 0).all() and ts[0] < total and ts[-1] >= 0, (total, steps)
        if spacing != "leading":
            assert ts[0] == total - 1  # or the sampler would begin where x_T is not noise
        if spacing == "leading" or (spacing == "linspace" and steps > 1):
            assert ts[-1] == 0


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_numbers_of_steps_are_refused(steps):
    with pytest.raises(ValueError, match=rf"between 1 and 1000 \(T\), got {steps}"):
        spaced_timesteps(1000, steps)
    with pytest.raises(ValueError, match=rf"between 1 and 1000 \(T\), got {steps}"):
        schedules.spaced_timesteps_logsnr(NoiseSchedule.linear(), steps)
    with pytest.raises(ValueError, match="choose one of trailing, leading, linspace"):
        spaced_timesteps(1000, 10, "karras")


@pytest.mark.parametrize("name", ["linear", "sigmoid"])  # the cosine's noisiest timesteps lie too far apart
def test_logsnr_spacing_is_even_in_logsnr(name):
    schedule = NoiseSchedule.by_name(name, 50_000)
    ts = schedules.spaced_timesteps_logsnr(schedule, 20)
    assert ts[0] == 49_999 and ts[-1] == 0
    gaps = schedule.snr.log()[ts].diff()[:-2]  # at the clean end one timestep is a long way in log-SNR
    assert (gaps.max() - gaps.min()) / gaps.mean() < 0.15
