"""The loss of a denoiser: at which timesteps it is asked, what each counts, and what the network is told."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lessons_lib.names import check_choice, refuse
from lessons_lib.schedules import NoiseSchedule, q_sample

LossFn = Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]  # model, x_0, y, generator -> scalar
# Of log-SNR. Karras et al. 2022, sec. 5, have 2.4 and 2.4; Esser et al. 2024, sec. 3.1, -2 logit(s): 0 and 2.
LOG_SNR_MEAN, LOG_SNR_STD = 1.0, 2.2
UNIFORM_SHARE = 0.1  # a sampler visits every timestep, those in the tails of the normal density too


def denoising_loss(
    schedule: NoiseSchedule, p_uncond: float = 0.1, loss: str = "mse", num_classes: int | None = None,
    t_density: str = "uniform",
) -> LossFn:  # fmt: skip
    """The simple loss: guess the noise that was mixed in (Ho et al. 2020, eq. 14).

    Args:
        p_uncond: share of the labels dropped, in training only, so that one network learns to be conditional
            and unconditional (Ho & Salimans 2022, alg. 1). Of the other samples with attributes [B, K] each
            attribute is untold (-1) at a rate drawn for the sample.
        loss: see `timestep_weights`; v-mse needs a network that answers v.
        num_classes: K, which is also the null label; None trains without labels.
        t_density: "uniform", or "logit-normal": see `logit_normal_density`.
    """
    weights = timestep_weights(schedule)
    check_choice("loss", loss, tuple(weights))
    check_choice("t_density", t_density, ("uniform", "logit-normal"))
    refuse({f"p_uncond must be in [0, 1], got {p_uncond}.": not 0 <= p_uncond <= 1})
    cumulative = None if t_density == "uniform" else logit_normal_density(schedule).cumsum(0)

    def loss_fn(model: nn.Module, x_0: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        # Drawn on the CPU, the same on every device.
        batch, told = len(x_0), {}
        if cumulative is None:
            t = torch.randint(schedule.num_timesteps, (batch,), generator=generator)
        else:  # one offset for all: they spread evenly over the density (Kingma et al. 2021, app. I.1)
            offset = torch.rand(1, generator=generator, dtype=torch.float64)
            t = torch.searchsorted(cumulative[:-1], (offset + torch.arange(batch) / batch) % 1, right=True)
        t, eps = t.to(x_0.device), torch.randn(x_0.shape, generator=generator).to(x_0.device)
        if num_classes is not None:
            told["y"] = _drop_labels(y, p_uncond, num_classes, generator) if model.training else y
        prediction = model(q_sample(schedule, x_0, t, eps), t, **told)
        errors = F.mse_loss(prediction.float(), eps, reduction="none").flatten(1).mean(dim=1)
        return (weights[loss].to(t.device)[t] * errors).mean()

    return loss_fn


def timestep_weights(schedule: NoiseSchedule) -> dict[str, Tensor]:
    """What the error of the noise counts at each timestep, [T] float32, by the name of the loss."""
    inverse = 1 / schedule.alphas_cumprod.float()  # the mse of v = sqrt(abar) eps - sqrt(1 - abar) x_0
    return {"mse": torch.ones_like(inverse), "v-mse": inverse}


def logit_normal_density(schedule: NoiseSchedule) -> Tensor:
    """[T] float64, the chance of each timestep: nine in ten normal in log-SNR, whatever the schedule."""
    log_snr = schedule.snr.log()
    (steps,) = torch.gradient(-log_snr)  # log-SNR that falls to one timestep
    normal = steps * torch.exp(-0.5 * ((log_snr - LOG_SNR_MEAN) / LOG_SNR_STD) ** 2)
    return UNIFORM_SHARE * (1 / len(normal)) + (1 - UNIFORM_SHARE) * normal / normal.sum()


def _drop_labels(y: Tensor, p_uncond: float, num_classes: int, generator: torch.Generator) -> Tensor:
    drop = torch.rand(len(y), generator=generator) < p_uncond
    if y.ndim == 1:
        return torch.where(drop.to(y.device), num_classes, y)
    rate = torch.where(drop, 1.0, torch.rand(len(y), generator=generator))[:, None]
    return torch.where((torch.rand(y.shape, generator=generator) < rate).to(y.device), -1, y.long())
