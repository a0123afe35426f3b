"""What a training is made of: the loss, the average of the weights, the learning rate, the random numbers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lessons_lib.schedules import NoiseSchedule, q_sample
from lessons_lib.training.config import TrainConfig

LossFn = Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]
LOSSES = ("mse", "l1", "min-snr", "held-snr")
MIN_SNR = 5.0  # gamma of Hang et al.


def denoising_loss(
    schedule: NoiseSchedule, p_uncond: float = 0.1, loss: str = "mse", num_classes: int | None = None
) -> LossFn:
    """The simple loss: guess the noise that was mixed in (Ho et al. 2020, eq. 14).

    Args:
        p_uncond: share of the labels replaced by the null label, sample by sample, in training only, so that
            one network learns to be conditional and unconditional (Ho & Salimans 2022, alg. 1).
        loss: "mse", "l1", or "min-snr": mse with the weight min(SNR, 5) / SNR, which holds back the many easy
            timesteps of little noise (Hang et al. 2023, sec. 3.4); or "held-snr": the error of x_0 with its
            weight SNR held within 1 … 5, so that the noisiest timesteps count too (from below as Salimans &
            Ho 2022, sec. 4), for a network that answers v.
        num_classes: K, which is also the null label; None trains without labels.
    """
    if loss not in LOSSES:
        raise ValueError(f"Unknown loss {loss!r}: choose one of {', '.join(LOSSES)}.")
    if not 0 <= p_uncond <= 1:
        raise ValueError(f"p_uncond must be in [0, 1], got {p_uncond}.")
    distance = F.l1_loss if loss == "l1" else F.mse_loss
    abar = schedule.alphas_cumprod
    inverse_snr = (1 - abar) / abar
    weights = {
        "min-snr": (MIN_SNR * inverse_snr).clamp(max=1).float(),
        "held-snr": (schedule.snr.clamp(1, MIN_SNR) * inverse_snr).float(),
    }.get(loss)

    def loss_fn(model: nn.Module, x_0: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        batch = len(x_0)
        # Drawn on the CPU: the same numbers on every device.
        t = torch.randint(schedule.num_timesteps, (batch,), generator=generator).to(x_0.device)
        eps = torch.randn(x_0.shape, generator=generator).to(x_0.device)
        drop = (torch.rand(batch, generator=generator) < p_uncond).to(x_0.device)
        if num_classes is not None and model.training:
            y = torch.where(drop, num_classes, y)
        x_t = q_sample(schedule, x_0, t, eps)
        prediction = model(x_t, t, y) if num_classes is not None else model(x_t, t)
        if weights is None:
            return distance(prediction.float(), eps)
        each = distance(prediction.float(), eps, reduction="none").flatten(1).mean(dim=1)  # [B]
        return (weights.to(t.device)[t] * each).mean()

    return loss_fn


class EMA:
    """An exponential moving average of a model's weights.

    After update n (from 0) the decay is min(decay, (1 + n) / (10 + n)): early on it forgets fast, so that the
    random first weights do not linger.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.num_updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards `model`."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - decay)
        for mine, theirs in zip(self.model.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)
        self.num_updates += 1

    def state_dict(self) -> dict:
        return {"weights": self.model.state_dict(), "num_updates": self.num_updates}

    def load_state_dict(self, state: dict) -> None:
        self.model.load_state_dict(state["weights"])
        self.num_updates = state["num_updates"]


def learning_rate(config: TrainConfig, step: int, progress: float) -> float:
    """Linear warm-up over the first steps, then a half cosine to 0; progress runs from 0 to 1."""
    warmup = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    return config.lr * warmup * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def step_generator(seed: int, step: int, process: int) -> torch.Generator:
    """A CPU generator of its own for each (seed, step, process)."""
    # Odd multipliers mix the three numbers into one 63-bit seed; neighbours share nothing.
    mixed = (
        seed * 0x9E3779B97F4A7C15 + (step + 1) * 0xBF58476D1CE4E5B9 + (process + 2) * 0x94D049BB133111EB
    ) % 2**63
    return torch.Generator().manual_seed(mixed)
