"""Noise schedules: how much noise an image carries at each timestep.

The forward process adds Gaussian noise in T small steps. Its closed form needs no loop:

    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps,   eps ~ N(0, I)          (Ho et al. 2020, eq. 4)

Code's t runs from 0 to T-1 and is the papers' t minus 1: x at t=0 is already slightly noisy.
"""

import math
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from lessons_lib.names import check_choice, refuse

# A beta of 1 would erase the image in one step: log(1 - beta) is infinite (Nichol & Dhariwal 2021, sec. 3.2).
MAX_BETA = 0.999


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """The noise schedule of a diffusion process with T timesteps."""

    betas: Tensor  # [T] float64 on the CPU, the variance of the noise that each step adds, in (0, 0.999]
    name: str = "custom"  # or of a standard schedule, which a weight card rebuilds from it and T
    # [T] float64, abar_t = prod (1 - beta_i) over i <= t, strictly decreasing.
    alphas_cumprod: Tensor = field(init=False, repr=False)
    _cache: dict = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        betas = torch.as_tensor(self.betas, dtype=torch.float64, device="cpu")
        refuse({f"betas must have shape [T], got {list(betas.shape)}.": betas.ndim != 1 or len(betas) == 0})
        if not bool(((betas > 0) & (betas <= MAX_BETA)).all()):
            got = f"{betas.min():g} to {betas.max():g}"
            raise ValueError(f"Every beta must lie in (0, {MAX_BETA}], got {got}.")
        object.__setattr__(self, "betas", betas)
        object.__setattr__(self, "alphas_cumprod", torch.cumprod(1 - betas, dim=0))

    @classmethod
    def linear(cls, num_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Self:
        """Betas on a straight line (Ho et al. 2020, sec. 4), scaled so that x_T is noise for any T."""
        start, end = _scaled_ends(num_timesteps, beta_start, beta_end)
        betas = torch.linspace(start, end, num_timesteps, dtype=torch.float64)
        return cls(betas.clamp(max=MAX_BETA), "linear")

    @classmethod
    def sigmoid(cls, num_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Self:
        """Betas on a sigmoid from -6 to 6: diffusers' "sigmoid" (Chen 2023 has another one, in abar)."""
        start, end = _scaled_ends(num_timesteps, beta_start, beta_end)
        ramp = torch.sigmoid(torch.linspace(-6, 6, num_timesteps, dtype=torch.float64))
        return cls((start + (end - start) * ramp).clamp(max=MAX_BETA), "sigmoid")

    @classmethod
    def cosine(cls, num_timesteps: int = 1000, s: float = 0.008) -> Self:
        """abar follows a squared cosine (Nichol & Dhariwal 2021, eq. 17), up to MAX_BETA."""
        refuse({f"A schedule needs at least 2 timesteps, got {num_timesteps}.": num_timesteps < 2})
        u = torch.arange(num_timesteps + 1, dtype=torch.float64) / num_timesteps
        abar = torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2
        return cls((1 - abar[1:] / abar[:-1]).clamp(max=MAX_BETA), "cosine")

    @classmethod
    def by_name(cls, name: str, num_timesteps: int = 1000) -> Self:
        """The schedule "linear", "cosine" or "sigmoid" with default ends; ValueError for another name."""
        check_choice("schedule", name, SCHEDULES)
        return getattr(cls, name)(num_timesteps)

    @property
    def num_timesteps(self) -> int:
        return len(self.betas)

    @property
    def snr(self) -> Tensor:
        """[T] float64, the signal-to-noise ratio abar / (1 - abar)."""
        return self.alphas_cumprod / (1 - self.alphas_cumprod)

    def signal_and_noise(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(abar_t) and sqrt(1 - abar_t) for t [B] int64 in 0 … T-1: [B, 1, …, 1] each, like x [B, …]."""
        # The tables stay float64 on the CPU (Apple's GPU has none): cast first, then move, once a device.
        key = (x.device, x.dtype)
        if key not in self._cache:
            abar = self.alphas_cumprod
            self._cache[key] = tuple(a.sqrt().to(x.dtype).to(x.device) for a in (abar, 1 - abar))
        signal, noise = self._cache[key]
        t = t.to(x.device).view(-1, *(1,) * (x.ndim - 1))
        return signal[t], noise[t]


SCHEDULES = ("linear", "cosine", "sigmoid")


def _scaled_ends(num_timesteps: int, beta_start: float, beta_end: float) -> tuple[float, float]:
    refuse({f"A schedule needs at least 2 timesteps, got {num_timesteps}.": num_timesteps < 2})
    return beta_start * 1000 / num_timesteps, beta_end * 1000 / num_timesteps


# x_0 are clean images in [-1, 1], eps is standard normal noise, x_t what q_sample makes of both: [B, C, H, W]
# each. t is [B] int64.


def q_sample(schedule: NoiseSchedule, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """Noise a clean image to timestep t in one step (Ho et al. 2020, eq. 4)."""
    signal, noise = schedule.signal_and_noise(t, x_0)
    return signal * x_0 + noise * eps


def predict_x0(schedule: NoiseSchedule, x_t: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """The clean image that x_t came from, if eps is its noise: q_sample solved for x_0."""
    signal, noise = schedule.signal_and_noise(t, x_t)
    return (x_t - noise * eps) / signal


def predict_eps(schedule: NoiseSchedule, x_t: Tensor, t: Tensor, x_0: Tensor) -> Tensor:
    """The noise in x_t, if x_0 is its clean image: q_sample solved for eps."""
    signal, noise = schedule.signal_and_noise(t, x_t)
    return (x_t - signal * x_0) / noise


def eps_from_v(schedule: NoiseSchedule, x_t: Tensor, t: Tensor, v: Tensor) -> Tensor:
    """The noise in x_t, from v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0 (Salimans & Ho 2022, app. D).

    An error in v is one of the same size in x_0 where there is only noise, and in eps where there is none;
    x_0 from eps divides by sqrt(abar_t), nearly 0 at the noisy end.
    """
    signal, noise = schedule.signal_and_noise(t, x_t)
    return signal * v + noise * x_t


SPACINGS = ("trailing", "leading", "linspace")


def spaced_timesteps(num_timesteps: int, num_steps: int, spacing: str = "trailing") -> Tensor:
    """The N timesteps of T that a sampler of fewer than T steps visits (Lin et al. 2023, table 2).

    "trailing" starts at T-1, the noisiest; "leading" ends at 0; "linspace" does both. [N] int64, descending.
    """
    check_choice("spacing", spacing, SPACINGS)
    _check_steps(num_steps, num_timesteps)
    # Integer arithmetic, and one float64 division at most: float rounding has cost others a timestep.
    i = torch.arange(num_steps, dtype=torch.float64)
    if spacing == "trailing":
        steps = (num_timesteps - i * (num_timesteps / num_steps)).round() - 1
    elif spacing == "leading":
        steps = torch.arange(num_steps - 1, -1, -1) * (num_timesteps // num_steps)
    else:
        steps = torch.linspace(num_timesteps - 1, 0, num_steps, dtype=torch.float64).round()
    return steps.to(torch.int64)


def _check_steps(num_steps: int, num_timesteps: int) -> None:
    if not 1 <= num_steps <= num_timesteps:
        raise ValueError(f"The number of steps must be between 1 and {num_timesteps} (T), got {num_steps}.")


def spaced_timesteps_logsnr(schedule: NoiseSchedule, num_steps: int) -> Tensor:
    """Timesteps whose log-SNR is spaced evenly from T-1 down to 0 (Lu et al. 2022, sec. 3.3), [N] int64.

    Where two targets round to one timestep the list moves on to the next free one, so all N differ.
    """
    _check_steps(num_steps, schedule.num_timesteps)
    log_snr = schedule.snr.log()
    targets = torch.linspace(float(log_snr[-1]), float(log_snr[0]), num_steps, dtype=torch.float64)
    nearest = (log_snr[None, :] - targets[:, None]).abs().argmin(dim=1).tolist()
    for i in range(1, num_steps):  # push later ones down …
        nearest[i] = min(nearest[i], nearest[i - 1] - 1)
    for i in range(num_steps - 1, -1, -1):  # … and lift those that fell below what is left
        nearest[i] = max(nearest[i], num_steps - 1 - i)
    return torch.tensor(nearest, dtype=torch.int64)
