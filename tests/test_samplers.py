"""samplers.py: what a step is, what noise it takes, the traps of dtype and grad mode; the order of 2M."""

import itertools

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from numeric import assert_close_by_scale, seeded
from test_oracles import (
    MEAN,
    STD,
    gaussian_eps,
    normal,
    wavy,  # wrong enough for x_0 to be clipped
)

from lessons_lib.samplers import SampleNoise, Step, sample_ddim, sample_ddpm, sample_dpmpp_2m, timesteps_for
from lessons_lib.schedules import (
    NoiseSchedule,
    predict_x0,
    q_sample,
    spaced_timesteps,
    spaced_timesteps_logsnr,
)

pytestmark = pytest.mark.numeric

SCHEDULE = NoiseSchedule.linear()


def dpmpp_2m(*arguments, noise_fn=None, **options):
    return sample_dpmpp_2m(*arguments, **options)  # it takes no noise


each_sampler = pytest.mark.parametrize("sampler", [sample_ddpm, sample_ddim, dpmpp_2m])


def x_T(batch=2, dtype=torch.float64):
    return torch.randn(batch, 1, 3, 4, generator=seeded(), dtype=dtype)


def noise(batch=2):
    return SampleNoise([(7, k) for k in range(batch)])


@each_sampler
def test_steps_tell_when_the_network_was_asked_and_what_it_saw(sampler):
    asked = []

    def eps_fn(x_t, t):
        asked.append((t.tolist(), x_t.clone()))
        return wavy(x_t, t)

    ts, start = spaced_timesteps(1000, 4), x_T()
    steps = list(sampler(eps_fn, SCHEDULE, start, ts, noise_fn=noise()))
    assert all(isinstance(step, Step) for step in steps)
    assert [step.t for step in steps] == ts.tolist()
    assert [t for t, _ in asked] == [[t, t] for t in ts.tolist()]
    for (_, seen), state in zip(asked, [start] + [step.x_t for step in steps], strict=False):
        assert torch.equal(seen, state)


@each_sampler
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("steps", [1, 5])
def test_the_last_step_returns_the_estimate_without_noise(sampler, clip, steps):
    ts = spaced_timesteps(1000, steps)
    *_, last = sampler(wavy, SCHEDULE, x_T(), ts, noise_fn=noise(), clip_x0=clip)
    torch.testing.assert_close(last.x_t, last.x_0, rtol=1e-12, atol=1e-12)


@each_sampler
def test_the_estimate_is_predict_x0_and_is_clipped_on_demand(sampler):
    ts = spaced_timesteps(1000, 3)
    first = next(sampler(wavy, SCHEDULE, x_T(), ts, noise_fn=noise(), clip_x0=False))
    t = torch.full((2,), 999)
    expected = predict_x0(SCHEDULE, x_T(), t, wavy(x_T(), t))
    torch.testing.assert_close(first.x_0, expected)
    assert expected.abs().max() > 1  # or this test would not see the clipping
    clipped = next(sampler(wavy, SCHEDULE, x_T(), ts, noise_fn=noise()))
    torch.testing.assert_close(clipped.x_0, expected.clamp(-1, 1))


def test_after_clipping_eps_is_derived_again():
    """Trap 9: the next state must lie on the path through x_t and the clipped x_0."""
    ts = torch.tensor([600, 300])
    step = next(sample_ddim(wavy, SCHEDULE, x_T(), ts))
    abar = SCHEDULE.alphas_cumprod[600]
    eps = (x_T() - abar.sqrt() * step.x_0) / (1 - abar).sqrt()
    assert not torch.allclose(eps, wavy(x_T(), torch.full((2,), 600)))
    torch.testing.assert_close(step.x_t, q_sample(SCHEDULE, step.x_0, torch.full((2,), 300), eps))


@pytest.mark.parametrize("ts", [range(999, -1, -1), [900, 555, 17, 3], [4]])
@pytest.mark.parametrize("clip", [True, False])
def test_ddim_with_eta_1_is_ddpm(ts, clip):
    ts = torch.tensor(list(ts))
    ddpm = sample_ddpm(wavy, SCHEDULE, x_T(), ts, noise_fn=noise(), clip_x0=clip)
    ddim = sample_ddim(wavy, SCHEDULE, x_T(), ts, eta=1.0, noise_fn=noise(), clip_x0=clip)
    for a, b in zip(ddpm, ddim, strict=True):
        torch.testing.assert_close(a.x_t, b.x_t, rtol=1e-8, atol=1e-8)
    for eta in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="eta must be between 0"):
            next(sample_ddim(wavy, SCHEDULE, x_T(), ts, eta=eta))


@each_sampler
@pytest.mark.parametrize("ts", [[], [3, 5], [5, 5, 1], [1000, 1], [3, -1]])
def test_timesteps_must_descend_within_the_schedule(sampler, ts):
    with pytest.raises(ValueError, match="timesteps must"):
        next(sampler(wavy, SCHEDULE, x_T(), torch.tensor(ts)))


@each_sampler
def test_the_state_never_falls_below_float32_and_nothing_is_changed_in_place(sampler):
    ts = spaced_timesteps(1000, 3)
    for dtype, kept in {torch.float64: torch.float64, torch.bfloat16: torch.float32}.items():
        for step in sampler(wavy, SCHEDULE, x_T(dtype=dtype), ts, noise_fn=noise()):
            assert step.x_t.dtype == step.x_0.dtype == kept
    start, steps, copies = x_T(), [], []
    for step in sampler(wavy, SCHEDULE, start, ts, noise_fn=noise()):
        steps.append(step)
        copies.append((step.x_t.clone(), step.x_0.clone()))
    assert torch.equal(start, x_T())
    for step, (x_t, x_0) in zip(steps, copies, strict=True):
        assert torch.equal(step.x_t, x_t) and torch.equal(step.x_0, x_0)


@each_sampler
def test_the_grad_mode_is_the_callers_between_steps_and_off_inside(sampler):
    inside = []

    def eps_fn(x_t, t):
        inside.append(torch.is_grad_enabled())
        return wavy(x_t, t)

    start = x_T().requires_grad_()
    for step in sampler(eps_fn, SCHEDULE, start, spaced_timesteps(1000, 3), noise_fn=noise()):
        assert torch.is_grad_enabled()  # trap 4: a no_grad held across the yield would leak
        assert not step.x_t.requires_grad
    assert inside == [False] * 3
    with torch.no_grad():
        for _ in sampler(eps_fn, SCHEDULE, start, spaced_timesteps(1000, 3), noise_fn=noise()):
            assert not torch.is_grad_enabled()
    with torch.inference_mode():
        *_, last = sampler(wavy, SCHEDULE, x_T(), spaced_timesteps(1000, 2), noise_fn=noise())
    assert last.x_t.isfinite().all() and torch.is_grad_enabled()


def test_a_samples_noise_depends_on_its_seed_only():
    shape = (1, 2, 3)
    batch = SampleNoise([(0, k) for k in range(4)])
    draws = [batch(torch.empty(4, *shape)) for _ in range(2)]
    alone = SampleNoise([(0, 2)])
    for draw in draws:
        assert torch.equal(alone(torch.empty(1, *shape))[0], draw[2])
    assert not torch.equal(draws[0], draws[1])
    x = SampleNoise([(3, k) for k in range(50)])(torch.empty(50, 1, 20, 20, dtype=torch.float64))
    assert x.dtype == torch.float64 and abs(x.mean()) < 0.03 and abs(x.std() - 1) < 0.03
    for seed in (-1, 2**40):
        assert SampleNoise([(seed, 0)])(torch.empty(1, 3)).isfinite().all()
    with pytest.raises(ValueError, match="2 seeds for 3 samples"):
        noise(2)(torch.empty(3, 1))


def test_no_two_samples_share_their_noise():
    pairs = list(itertools.product([0, 1, 2, 3, 41, 42, 10_000], range(300)))
    first = SampleNoise(pairs)(torch.empty(len(pairs), 2))
    assert len(first.unique(dim=0)) == len(pairs)
    correlations = torch.corrcoef(SampleNoise([(0, k) for k in range(20)])(torch.empty(20, 4000)))
    assert (correlations - torch.eye(20)).abs().max() < 0.1


# ---- DPM-Solver++(2M) ----
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


def curved(x_t, t):
    """An EpsFn that is no straight line in x or t, and keeps the estimates near the images' size."""
    abar = SCHEDULE.alphas_cumprod[t].view(-1, 1, 1, 1)
    return (x_t - abar.sqrt() * 0.8 * torch.sin(3 * x_t + t.view(-1, 1, 1, 1) / 300)) / (1 - abar).sqrt()


def theirs(x_T, timesteps):
    scheduler = DPMSolverMultistepScheduler(
        1000, algorithm_type="dpmsolver++", solver_order=2, solver_type="midpoint", final_sigmas_type="zero"
    )
    scheduler.set_timesteps(timesteps=timesteps.tolist())
    abars = torch.cat([SCHEDULE.alphas_cumprod[timesteps], torch.ones(1).double()])
    scheduler.sigmas = ((1 - abars) / abars).sqrt()  # theirs are float32
    x = x_T
    for t in scheduler.timesteps:
        x = scheduler.step(curved(x, t.repeat(len(x))), t, x).prev_sample
        yield x


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace", "logsnr"])
@pytest.mark.parametrize("steps", [2, 3, 10, 25])
def test_it_agrees_with_diffusers(spacing, steps):
    x_T, ts = normal(2, 1, 3, 3), timesteps_for(SCHEDULE, steps, spacing)
    ours = sample_dpmpp_2m(curved, SCHEDULE, x_T, ts, clip_x0=False)
    for step, x in zip(ours, theirs(x_T, ts), strict=True):
        assert_close_by_scale(step.x_t, x, 1e-4)  # theirs steps in float32, and was up to 1e-5 off


@pytest.mark.parametrize("clip", [True, False])
def test_one_step_is_ddims_and_so_is_the_first_of_many(clip):
    x_T = normal(2, 1, 3, 3)
    for ts in (torch.tensor([999]), torch.tensor([999, 500, 20])):
        both = sample_dpmpp_2m, sample_ddim
        ours, ddim = (next(sampler(curved, SCHEDULE, x_T, ts, clip_x0=clip)) for sampler in both)
        torch.testing.assert_close(ours.x_t, ddim.x_t, rtol=0, atol=1e-12)
        assert torch.equal(ours.x_0, ddim.x_0)
