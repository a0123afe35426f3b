"""What a training is made of: the loss, the average of the weights, the learning rate, the random numbers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lessons_lib.schedules import NoiseSchedule, q_sample
from lessons_lib.training.config import TrainConfig
from lessons_lib.unet import timestep_embedding

LossFn = Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]
LOSSES = ("mse", "l1", "v-mse", "min-snr", "held-snr")
T_DENSITIES = ("uniform", "logit-normal")
LOSS_WEIGHTS = ("none", "learned")
V_LOSSES = ("v-mse", "held-snr")  # whose weights are without bound where an answer of eps says little
MIN_SNR = 5.0  # gamma of Hang et al.
# Of log-SNR. Karras et al. 2022, sec. 5, have 2.4 and 2.4; Esser et al. 2024, sec. 3.1, -2 logit(s): 0 and 2.
LOG_SNR_MEAN, LOG_SNR_STD = 1.0, 2.2
UNIFORM_SHARE = 0.1  # a sampler visits every timestep, those in the tails of the normal density too
ToldAugment = Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor]]  # x_0 -> the same shape, [B, A]


def denoising_loss(
    schedule: NoiseSchedule,
    p_uncond: float = 0.1,
    loss: str = "mse",
    num_classes: int | None = None,
    t_density: str = "uniform",
    loss_weight: str = "none",
    told_augment: ToldAugment | None = None,
) -> LossFn:
    """The simple loss: guess the noise that was mixed in (Ho et al. 2020, eq. 14).

    Args:
        p_uncond: share of the labels replaced by the null label, sample by sample, in training only, so that
            one network learns to be conditional and unconditional (Ho & Salimans 2022, alg. 1). Of the other
            samples with attributes [B, K] each attribute is untold (-1) at a rate drawn for the sample.
        loss: "mse", "l1"; "v-mse": of v = sqrt(abar) eps - sqrt(1 - abar) x_0, the mse of the noise over
            abar; "min-snr": mse with the weight min(SNR, 5) / SNR, which holds back the many easy timesteps
            of little noise (Hang et al. 2023, sec. 3.4); or "held-snr": the error of x_0 with its weight SNR
            held within 1 … 5 (from below as Salimans & Ho 2022, sec. 4). V_LOSSES need a network that
            answers v.
        num_classes: K, which is also the null label; None trains without labels.
        t_density: "uniform" in t, or "logit-normal": nine in ten normal in log-SNR, whatever the schedule.
        loss_weight: "learned" divides each noise level's loss by its own size, see `LearnedWeight`.
        told_augment: in training, distorts the images and says how; the network is told (Karras et al. 2022,
            sec. 5).
    """
    for what, value, known in (
        ("loss", loss, LOSSES),
        ("t_density", t_density, T_DENSITIES),
        ("loss_weight", loss_weight, LOSS_WEIGHTS),
    ):
        if value not in known:
            raise ValueError(f"Unknown {what} {value!r}: choose one of {', '.join(known)}.")
    if not 0 <= p_uncond <= 1:
        raise ValueError(f"p_uncond must be in [0, 1], got {p_uncond}.")
    distance = F.l1_loss if loss == "l1" else F.mse_loss
    weights = _timestep_weights(schedule, loss)
    density = timestep_density(schedule, t_density)

    def losses(model: nn.Module, x_0: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The loss of each sample [B], and its timestep."""
        told = {}
        # Drawn on the CPU: the same numbers on every device.
        t = _timesteps(density, t_density == "uniform", len(x_0), generator).to(x_0.device)
        eps = torch.randn(x_0.shape, generator=generator).to(x_0.device)
        if num_classes is not None and model.training:
            y = _untold(y, p_uncond, num_classes, generator)
        if told_augment is not None and model.training:
            x_0, told["augment"] = told_augment(x_0, generator)
        x_t = q_sample(schedule, x_0, t, eps)
        prediction = model(x_t, t, y, **told) if num_classes is not None else model(x_t, t, **told)
        found = distance(prediction.float(), eps, reduction="none").flatten(1).mean(dim=1)
        return weights.to(t.device)[t] * found, t

    return LearnedWeight(losses) if loss_weight == "learned" else lambda *given: losses(*given)[0].mean()


def _timestep_weights(schedule: NoiseSchedule, loss: str) -> Tensor:
    """[T] float32, what the error of the noise counts at each timestep."""
    abar = schedule.alphas_cumprod
    inverse_snr = (1 - abar) / abar
    weights = {
        "v-mse": 1 / abar,
        "min-snr": (MIN_SNR * inverse_snr).clamp(max=1),
        "held-snr": schedule.snr.clamp(1, MIN_SNR) * inverse_snr,
    }
    return weights.get(loss, torch.ones_like(abar)).float()


def timestep_density(schedule: NoiseSchedule, name: str) -> Tensor:
    """[T] float64, the chance of each timestep in training, see `denoising_loss`."""
    uniform = torch.full_like(schedule.betas, 1 / schedule.num_timesteps)
    if name == "uniform":
        return uniform
    log_snr = schedule.snr.log()
    (steps,) = torch.gradient(-log_snr)  # log-SNR that falls to one timestep
    normal = steps * torch.exp(-0.5 * ((log_snr - LOG_SNR_MEAN) / LOG_SNR_STD) ** 2)
    return UNIFORM_SHARE * uniform + (1 - UNIFORM_SHARE) * normal / normal.sum()


def _timesteps(density: Tensor, is_uniform: bool, batch: int, generator: torch.Generator) -> Tensor:
    """[B] int64, drawn from the density."""
    if is_uniform:
        return torch.randint(len(density), (batch,), generator=generator)
    # One offset for all: they spread evenly over the density (Kingma et al. 2021, app. I.1).
    u = (torch.rand(1, generator=generator, dtype=torch.float64) + torch.arange(batch) / batch) % 1
    return torch.searchsorted(density.cumsum(0)[:-1], u, right=True)


def _untold(y: Tensor, p_uncond: float, num_classes: int, generator: torch.Generator) -> Tensor:
    drop = torch.rand(len(y), generator=generator) < p_uncond
    if y.ndim == 1:
        return torch.where(drop.to(y.device), num_classes, y)
    rate = torch.where(drop, 1.0, torch.rand(len(y), generator=generator))[:, None]
    return torch.where((torch.rand(y.shape, generator=generator) < rate).to(y.device), -1, y.long())


class LearnedWeight(nn.Module):
    """The mean of exp(-u_t) loss_t + u_t, with u learned beside the network and thrown away after training.

    At its best u_t = log E[loss_t], so that no noise level outweighs another (Kendall et al. 2018; Karras et
    al. 2024, eq. 21). The loss of a training is then this weighted one; outside training it is not weighted.
    """

    CHANNELS = 64

    def __init__(self, losses: Callable[..., tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.losses = losses
        self.log_size = nn.Linear(self.CHANNELS, 1)
        nn.init.zeros_(self.log_size.weight)
        nn.init.zeros_(self.log_size.bias)

    def forward(self, model: nn.Module, x_0: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """As a LossFn."""
        found, t = self.losses(model, x_0, y, generator)
        if not model.training:
            return found.mean()
        u = self.log_size(timestep_embedding(t, self.CHANNELS)).float()[:, 0]
        return (found * torch.exp(-u) + u).mean()


class EMA:
    """A moving average of a model's weights: exponential, or by a power law.

    After update n (from 0) the exponential decay is min(decay, (1 + n) / (10 + n)): early on it forgets fast,
    so that the random first weights do not linger. The power law weighs the weights after update n by
    n^gamma; its length grows with the training (Karras et al. 2024, eq. 127 and alg. 2).

    Args:
        sigma_rel: the standard deviation of the power law's profile, as a share of the training so far; None
            takes the exponential one.
    """

    def __init__(self, model: nn.Module, decay: float, sigma_rel: float | None = None) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.sigma_rel = decay, sigma_rel
        self.gamma = None if sigma_rel is None else power_law_exponent(sigma_rel)
        self.num_updates = 0

    def current_decay(self) -> float:
        """How much of the average the next update keeps."""
        n = self.num_updates
        if self.gamma is not None:
            return (1 - 1 / (n + 1)) ** (self.gamma + 1)
        return min(self.decay, (1 + n) / (10 + n))

    def length(self) -> float:
        """The standard deviation of the average's profile, in updates."""
        if self.sigma_rel is not None:
            return self.sigma_rel * self.num_updates
        return 1 / (1 - self.current_decay())

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards `model`."""
        decay = self.current_decay()
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - decay)
        for mine, theirs in zip(self.model.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)
        self.num_updates += 1

    def state_dict(self) -> dict:
        return {"weights": self.model.state_dict(), "num_updates": self.num_updates}

    def load_state_dict(self, state: dict) -> None:
        self.model.load_state_dict(state["weights"])
        self.num_updates = state["num_updates"]


def power_law_exponent(sigma_rel: float) -> float:
    """gamma of the profile t^gamma on [0, 1] whose standard deviation is sigma_rel.

    The positive root of sigma_rel² (gamma + 2)² (gamma + 3) = gamma + 1 (Karras et al. 2024, eq. 126).
    """
    scale = sigma_rel**-2
    roots = np.roots([1, 7, 16 - scale, 12 - scale])
    return float(roots.real.max())


def learning_rate(config: TrainConfig, step: int, progress: float) -> float:
    """Linear warm-up, a constant phase, and a half cosine to 0 over the last lr_decay; progress is 0 … 1."""
    warmup = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    fallen = max(0.0, 1 - (1 - min(progress, 1.0)) / config.lr_decay)  # 0 until the fall begins
    return config.lr * warmup * 0.5 * (1 + math.cos(math.pi * fallen))


def step_generator(seed: int, step: int, process: int) -> torch.Generator:
    """A CPU generator of its own for each (seed, step, process)."""
    # Odd multipliers mix the three numbers into one 63-bit seed; neighbours share nothing.
    mixed = (
        seed * 0x9E3779B97F4A7C15 + (step + 1) * 0xBF58476D1CE4E5B9 + (process + 2) * 0x94D049BB133111EB
    ) % 2**63
    return torch.Generator().manual_seed(mixed)
