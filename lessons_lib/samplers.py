"""Samplers: from pure noise x_T to an image, one re-estimate of the whole image at a time.

A sampler is a generator of Steps. It asks an EpsFn for the noise, turns it into an estimate of x_0, and moves
to the next noise level. A progress bar, a GIF, a scrubber, a cancel and an early stop are all loops over it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lessons_lib.guidance import EpsFn
from lessons_lib.names import refuse
from lessons_lib.schedules import SPACINGS as PLAIN_SPACINGS
from lessons_lib.schedules import NoiseSchedule, spaced_timesteps, spaced_timesteps_logsnr

NoiseFn = Callable[[Tensor], Tensor]


class Step(NamedTuple):
    t: int  # at which the network was asked
    x_t: Tensor  # [B, C, H, W], the state after the step; after the last step, the image
    x_0: Tensor  # [B, C, H, W], the estimate of the image made in this step


class SampleNoise:
    """One CPU generator a sample, so that sample k's noise is the same in any batch and on any device."""

    def __init__(self, seeds: Sequence[tuple[int, int]]) -> None:
        # Mixed so that (0, 1) and (1, 0) differ. torch's CPU generator hears only the lowest 32 bits: the
        # multipliers are odd, so no two k of one seed meet there.
        mixed = [(seed * 0x9E3779B97F4A7C15 + k * 0xBF58476D1CE4E5B9 + 1) % 2**63 for seed, k in seeds]
        self.generators = [torch.Generator().manual_seed(seed) for seed in mixed]

    def __call__(self, x: Tensor) -> Tensor:
        """Fresh standard normal noise in the shape, dtype and device of x [B, …], B = len(seeds)."""
        count = len(self.generators)
        refuse({f"There are {count} seeds for {len(x)} samples: one a sample is needed.": len(x) != count})
        noise = [torch.randn(x.shape[1:], generator=generator) for generator in self.generators]
        return torch.stack(noise).to(x.dtype).to(x.device)


def sample_ddpm(
    eps_fn: EpsFn, schedule: NoiseSchedule, x_T: Tensor, timesteps: Tensor, *,
    noise_fn: NoiseFn | None = None, clip_x0: bool = True,
) -> Iterator[Step]:  # fmt: skip
    """Ancestral sampling with the posterior variance (Ho et al. 2020, alg. 2 and eqs. 6-7).

    With fewer than T timesteps each step jumps over several of the chain's, with the betas of the jump.

    Args:
        x_T: [B, C, H, W] standard normal noise.
        timesteps: [N] int64, N >= 1, strictly descending, in 0 … T-1, or ValueError.
        noise_fn: where each step's noise comes from; torch.randn_like if not given.
        clip_x0: clip every estimate of x_0 to [-1, 1].
    """
    x = _state(x_T)
    for t, abar, abar_prev in _walk(schedule, timesteps):
        with torch.no_grad():
            _, x_0 = _estimate(eps_fn, x, t, abar, clip_x0)
            alpha = abar / abar_prev
            beta = 1 - alpha
            # Eq. 7: the mean of q(x_prev | x_t, x_0) and its variance, 0 in the last step (abar_prev = 1).
            weight_0 = math.sqrt(abar_prev) * beta / (1 - abar)
            weight_t = math.sqrt(alpha) * (1 - abar_prev) / (1 - abar)
            sigma = math.sqrt(beta * (1 - abar_prev) / (1 - abar))
            x = weight_0 * x_0 + weight_t * x
            if sigma > 0:
                x = x + sigma * (noise_fn or torch.randn_like)(x)
        yield Step(t, x, x_0)


def sample_ddim(
    eps_fn: EpsFn, schedule: NoiseSchedule, x_T: Tensor, timesteps: Tensor, *,
    eta: float = 0.0, noise_fn: NoiseFn | None = None, clip_x0: bool = True,
) -> Iterator[Step]:  # fmt: skip
    """DDIM (Song et al. 2021, eq. 12): estimate x_0, then put it at the next noise level.

    eta: 0 adds no noise on the way, so x_T decides the image; 1 equals sample_ddpm. The others as there.
    """
    refuse({f"eta must be between 0 (DDIM) and 1 (DDPM), got {eta}.": not 0 <= eta <= 1})
    x = _state(x_T)
    for t, abar, abar_prev in _walk(schedule, timesteps):
        with torch.no_grad():
            eps, x_0 = _estimate(eps_fn, x, t, abar, clip_x0)
            sigma = eta * math.sqrt((1 - abar_prev) / (1 - abar) * (1 - abar / abar_prev))  # eq. 16
            # max: for eta = 1 rounding can leave a difference of -1e-17.
            x = math.sqrt(abar_prev) * x_0 + math.sqrt(max(1 - abar_prev - sigma**2, 0.0)) * eps
            if sigma > 0:
                x = x + sigma * (noise_fn or torch.randn_like)(x)
        yield Step(t, x, x_0)


def sample_dpmpp_2m(
    eps_fn: EpsFn, schedule: NoiseSchedule, x_T: Tensor, timesteps: Tensor, *, clip_x0: bool = True
) -> Iterator[Step]:
    """DPM-Solver++(2M) (Lu et al. 2022b, alg. 2): DDIM with a memory of one step, no noise on the way.

    DDIM holds the estimate of x_0 fixed over a step. This solver continues the straight line, in log-SNR,
    through this estimate and the last one: second order for the same one network call a step. The first step
    has no last estimate, and the last one no finite log-SNR: both are DDIM's. Args as in sample_ddpm; at its
    best with `spaced_timesteps_logsnr`.
    """
    x, last = _state(x_T), None  # last: (the last estimate of x_0, the last step's length in lambda)
    for t, abar, abar_prev in _walk(schedule, timesteps):
        with torch.no_grad():
            _, x_0 = _estimate(eps_fn, x, t, abar, clip_x0)
            if abar_prev == 1:
                x = x_0
            else:
                h, ahead = _half_log_snr(abar_prev) - _half_log_snr(abar), x_0
                if last is not None:
                    ahead = x_0 + h / (2 * last[1]) * (x_0 - last[0])  # 1 / (2 r), r = h_last / h
                # The ODE's exact solution if the estimate were `ahead` all along the step.
                kept = math.sqrt((1 - abar_prev) / (1 - abar))
                x = kept * x - math.sqrt(abar_prev) * math.expm1(-h) * ahead
                last = x_0, h
        yield Step(t, x, x_0)


def ddim_invert(eps_fn: EpsFn, schedule: NoiseSchedule, x_0: Tensor, timesteps: Tensor) -> Iterator[Step]:
    """DDIM with eta = 0, walked backwards: from an image to a state that sample_ddim draws it from, nearly.

    Song et al. 2021, sec. 5.4; Dhariwal & Nichol 2021, app. F. A step up to t needs the noise in x_t, which
    is not known yet: the network is told t and shown the state one step below. That error falls as the steps
    become more, but for the first, which shows it a clean image under the name of a noisy one: it finds
    hardly any noise in even ground, and the state is too even there (Staniszewski et al. 2024). Further
    errors: the image's own rounding, and a sampler that clips. Here nothing is clipped: what a clip takes
    away, no decoding gives back. Where the data have no variance, many states decode to one image anyway.

    eps_fn is as a rule told the label of x_0 [B, C, H, W], at w = 1. timesteps is the sampler's own list,
    which may start below T-1; the Steps go up it, to timesteps[0].
    """
    x = _state(x_0)
    for t, abar, abar_below in reversed(list(_walk(schedule, timesteps))):
        with torch.no_grad():
            eps, x_0 = _estimate(eps_fn, x, t, abar_below, clip_x0=False)  # t's name, the state below it
            x = math.sqrt(abar) * x_0 + math.sqrt(1 - abar) * eps
        yield Step(t, x, x_0)


def _half_log_snr(abar: float) -> float:
    """lambda = log(sqrt(abar) / sqrt(1 - abar)), the solver's time."""
    return 0.5 * (math.log(abar) - math.log1p(-abar))


SAMPLERS = ("ddpm", "ddim", "dpmpp_2m")
# Each sampler's own spacing of timesteps; a flow map needs no sampler.
DEFAULT_SPACING = {"ddpm": "trailing", "ddim": "trailing", "dpmpp_2m": "logsnr", None: "trailing"}
SPACINGS = (*PLAIN_SPACINGS, "logsnr")


def timesteps_for(schedule: NoiseSchedule, num_steps: int, spacing: str) -> Tensor:
    """The N timesteps that a sampler visits, [N] int64, descending, by the name of their spacing."""
    if spacing == "logsnr":
        return spaced_timesteps_logsnr(schedule, num_steps)
    return spaced_timesteps(schedule.num_timesteps, num_steps, spacing)


def _state(x_T: Tensor) -> Tensor:
    """In x_T's dtype, but never below float32."""
    return x_T if x_T.dtype in (torch.float32, torch.float64) else x_T.float()


def _walk(schedule: NoiseSchedule, timesteps: Tensor) -> Iterator[tuple[int, float, float]]:
    """(t, abar at t, abar at the next timestep) for each step; after the last, abar is 1: the image."""
    ts = [int(t) for t in timesteps]
    if not ts or ts != sorted(set(ts), reverse=True):
        raise ValueError("timesteps must be a list of at least one timestep, strictly descending.")
    if ts[0] >= schedule.num_timesteps or ts[-1] < 0:
        raise ValueError(f"timesteps must lie in 0 … {schedule.num_timesteps - 1}, got {ts[-1]} … {ts[0]}.")
    # Python's floats are float64: coefficients are rounded only when they meet the state.
    abars = [float(schedule.alphas_cumprod[t]) for t in ts] + [1.0]
    yield from zip(ts, abars[:-1], abars[1:], strict=True)


def _estimate(eps_fn: EpsFn, x: Tensor, t: int, abar: float, clip_x0: bool) -> tuple[Tensor, Tensor]:
    """Ask for the noise and read off the estimate of x_0; returns both, consistent with each other."""
    eps = eps_fn(x, torch.full((len(x),), t, dtype=torch.int64, device=x.device))
    x_0 = (x - math.sqrt(1 - abar) * eps) / math.sqrt(abar)
    if clip_x0:
        x_0 = x_0.clamp(-1, 1)
        eps = (x - math.sqrt(abar) * x_0) / math.sqrt(1 - abar)  # or the two would no longer add up to x_t
    return eps, x_0
