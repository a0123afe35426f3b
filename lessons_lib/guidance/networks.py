"""A network as an EpsFn: unconditional, told a label, or guided by its own two answers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

EpsFn = Callable[[Tensor, Tensor], Tensor]
Interval = tuple[int, int]


def unconditional(model: nn.Module) -> EpsFn:
    """eps(x_t): the network without a label (w = 0)."""

    def eps_fn(x_t: Tensor, t: Tensor) -> Tensor:
        return _ask(model, x_t, t, None)

    return eps_fn


def conditional(model: nn.Module, y: Tensor) -> EpsFn:
    """eps(x_t | y): the network told the label (w = 1).

    Args:
        y: [B] int64 labels, one a sample; or [B, K] attributes, 1 yes, 0 no, -1 untold.
    """

    def eps_fn(x_t: Tensor, t: Tensor) -> Tensor:
        return _ask(model, x_t, t, labels_like(y, x_t))

    return eps_fn


def with_cfg(model: nn.Module, y: Tensor, guidance_scale: float, interval: Interval | None = None) -> EpsFn:
    """Classifier-free guidance: eps = eps_uncond + w (eps_cond - eps_uncond).

    Ho & Salimans 2022, eq. 6, whose w is ours minus 1. Here w = 0 is unconditional, w = 1 conditional, above
    1 amplified. w = 0 and w = 1 need half the work; otherwise both predictions are one batch of 2B.

    Args:
        y: [B] int64 labels; or [B, K] attributes, 1 yes, 0 no, -1 untold, all of them guided at once.
        guidance_scale: w.
        interval: (t_low, t_high), inclusive: the timesteps where w holds; outside them w = 1
            (Kynkäänniemi et al. 2024).

    Raises:
        ValueError: if the interval is empty.
    """
    check_interval(interval)
    if interval is None and guidance_scale == 0:
        return unconditional(model)
    if guidance_scale == 1:
        return conditional(model, y)
    null_label = model.null_label

    def eps_fn(x_t: Tensor, t: Tensor) -> Tensor:
        labels = labels_like(y, x_t)
        both = torch.cat([torch.full_like(labels, null_label), labels])
        eps_uncond, eps_cond = _ask(model, torch.cat([x_t, x_t]), torch.cat([t, t]), both).chunk(2)
        scale = inside(interval, t, x_t, guidance_scale, outside=1.0)
        return eps_uncond + scale * (eps_cond - eps_uncond)

    return eps_fn


def in_bfloat16(eps_fn: EpsFn) -> EpsFn:
    """The same EpsFn (or LogProbFn) with its networks run in bfloat16, where the hardware multiplies it.

    Only the networks: guidance, log-probabilities and the sampler's state keep float32.
    """

    def fast(x_t: Tensor, t: Tensor) -> Tensor:
        with torch.autocast(x_t.device.type, torch.bfloat16):
            return eps_fn(x_t, t)

    return fast


# -- what guidance shares --------------------------------------------------------------------------


def _ask(model: nn.Module, x_t: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
    return model(x_t.to(dtype_of(model, x_t)), t, y).to(x_t.dtype)


def dtype_of(model: Callable[..., Tensor], x: Tensor) -> torch.dtype:
    """What x is cast to for a network: its weights may be float32 while the sampler's state is float64."""
    # A toy model may have no parameters at all.
    parameters = model.parameters() if isinstance(model, nn.Module) else iter(())
    return next((p.dtype for p in parameters), x.dtype)


def labels_like(y: Tensor, x_t: Tensor) -> Tensor:
    """y [B] or [B, K] on the device of x_t [B, …]; ValueError if there is not one label a sample."""
    if len(y) != len(x_t):
        raise ValueError(f"There are {len(y)} labels for {len(x_t)} samples: one label a sample is needed.")
    return y.to(x_t.device)


def check_interval(interval: Interval | None) -> None:
    """Raise ValueError for an interval that is empty or begins below 0."""
    if interval is not None and not 0 <= interval[0] <= interval[1]:
        raise ValueError(
            f"The guidance interval must be (t_low, t_high) with 0 <= t_low <= t_high, got {interval}."
        )


def inside(interval: Interval | None, t: Tensor, x: Tensor, value: float, outside: float) -> Tensor | float:
    """`value` for samples whose t lies in the interval, `outside` for others: [B, 1, …, 1], or a number."""
    if interval is None:
        return value
    mask = (t >= interval[0]) & (t <= interval[1])
    scale = torch.full(t.shape, outside, dtype=x.dtype, device=x.device)
    return scale.masked_fill(mask.to(x.device), value).view(-1, *(1,) * (x.ndim - 1))
