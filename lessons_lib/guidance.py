"""Guidance: wrappers that turn a network into an EpsFn, and an EpsFn into a steered one.

An EpsFn takes (x_t [B, C, H, W], t [B] int64) and returns the noise in x_t, in x_t's shape and dtype.
Samplers know nothing else, so every sampler works with every guidance.
"""

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
        y: [B] int64 labels, one a sample.
    """

    def eps_fn(x_t: Tensor, t: Tensor) -> Tensor:
        return _ask(model, x_t, t, _labels_like(y, x_t))

    return eps_fn


def with_cfg(model: nn.Module, y: Tensor, guidance_scale: float, interval: Interval | None = None) -> EpsFn:
    """Classifier-free guidance: eps = eps_uncond + w (eps_cond - eps_uncond).

    Ho & Salimans 2022, eq. 6, whose w is ours minus 1. Here w = 0 is unconditional, w = 1 conditional, above
    1 amplified. w = 0 and w = 1 need half the work; otherwise both predictions are one batch of 2B.

    Args:
        y: [B] int64 labels.
        guidance_scale: w.
        interval: (t_low, t_high), inclusive: the timesteps where w holds; outside them w = 1
            (Kynkäänniemi et al. 2024).

    Raises:
        ValueError: if the interval is empty.
    """
    _check_interval(interval)
    if interval is None and guidance_scale == 0:
        return unconditional(model)
    if guidance_scale == 1:
        return conditional(model, y)
    null_label = model.null_label

    def eps_fn(x_t: Tensor, t: Tensor) -> Tensor:
        labels = _labels_like(y, x_t)
        both = torch.cat([torch.full_like(labels, null_label), labels])
        eps_uncond, eps_cond = _ask(model, torch.cat([x_t, x_t]), torch.cat([t, t]), both).chunk(2)
        scale = _inside(interval, t, x_t, guidance_scale, outside=1.0)
        return eps_uncond + scale * (eps_cond - eps_uncond)

    return eps_fn


def in_bfloat16(eps_fn: EpsFn) -> EpsFn:
    """The same EpsFn with the network run in bfloat16, for speed where the hardware multiplies it.

    Only the network: guidance and the sampler's state keep x_t's dtype.
    """

    def fast(x_t: Tensor, t: Tensor) -> Tensor:
        with torch.autocast(x_t.device.type, torch.bfloat16):
            return eps_fn(x_t, t)

    return fast


def _ask(model: nn.Module, x_t: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
    # The sampler's state may be float64 while the weights are float32: the network works in its own dtype.
    # A toy model may have no parameters at all.
    dtype = next((p.dtype for p in model.parameters()), x_t.dtype)
    return model(x_t.to(dtype), t, y).to(x_t.dtype)


def _labels_like(y: Tensor, x_t: Tensor) -> Tensor:
    if len(y) != len(x_t):
        raise ValueError(f"There are {len(y)} labels for {len(x_t)} samples: one label a sample is needed.")
    return y.to(x_t.device)


def _check_interval(interval: Interval | None) -> None:
    if interval is not None and not 0 <= interval[0] <= interval[1]:
        raise ValueError(
            f"The guidance interval must be (t_low, t_high) with 0 <= t_low <= t_high, got {interval}."
        )


def _inside(interval: Interval | None, t: Tensor, x: Tensor, value: float, outside: float) -> Tensor | float:
    """`value` for samples whose t lies in the interval, `outside` for others: [B, 1, …, 1], or a number."""
    if interval is None:
        return value
    mask = (t >= interval[0]) & (t <= interval[1])
    scale = torch.full(t.shape, outside, dtype=x.dtype, device=x.device)
    return scale.masked_fill(mask.to(x.device), value).view(-1, *(1,) * (x.ndim - 1))
