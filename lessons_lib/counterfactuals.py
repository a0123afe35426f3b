"""Counterfactuals: what would this very image look like, had its label been another one?

Pearl's three steps (2009, sec. 7.1): abduction (`abduct`) finds noise that decodes to this image, action sets
the label (an EpsFn), prediction (`predict`) draws again with that noise. Where both labels share it,
what the label does not decide (the slant, the thickness of the stroke) can stay.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lessons_lib.guidance import EpsFn
from lessons_lib.names import check_choice, refuse
from lessons_lib.samplers import NoiseFn, Step, ddim_invert, sample_ddim, sample_ddpm
from lessons_lib.schedules import NoiseSchedule, q_sample

METHODS = ("ddim", "ddpm", "sdedit", "same-noise")


class Abducted(NamedTuple):
    """What is left of an image when its label is taken away."""

    x: Tensor  # [B, C, H, W], the state at timesteps[0]
    timesteps: Tensor  # [M] int64, strictly descending, those that prediction walks
    # [M, B, C, H, W], what DDPM adds in each step: standard deviations of that step, and in the last step,
    # which has none, the pixels that the estimate lacks of the image.
    noises: Tensor | None = None

    def repeated(self, times: int) -> Abducted:
        """Each of the B samples `times` times in a row, for as many targets of one image."""
        noises = None if self.noises is None else self.noises.repeat_interleave(times, dim=1)
        return Abducted(self.x.repeat_interleave(times, dim=0), self.timesteps, noises)


def same_noise_grid(
    guide: Callable[[Tensor], EpsFn],
    schedule: NoiseSchedule,
    x_T: Tensor,
    num_classes: int,
    timesteps: Tensor,
) -> Tensor:
    """Every noise of x_T [N, C, H, W] drawn as every of K classes, in one batch: [N, K, C, H, W] in [-1, 1].

    guide: labels y [B] int64 -> EpsFn, such as `lambda y: with_cfg(model, y, 2.0)`.
    """
    y = torch.arange(num_classes).repeat(len(x_T))
    *_, last = sample_ddim(guide(y), schedule, x_T.repeat_interleave(num_classes, dim=0), timesteps)
    return last.x_t.unflatten(0, (len(x_T), num_classes))


def in_8_bits(images: Tensor) -> Tensor:
    """A copy of images in [-1, 1], rounded to the 256 levels of a picture file; dtype and shape are kept.

    Every intervention starts here: a result that keeps more than its pixels brings its own noise along, and
    looks perfectly reversible. ValueError for numbers that are not finite.
    """
    images = images.detach()
    refuse({"The images hold numbers that are not finite.": not images.isfinite().all()})
    levels = ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return (levels.float() / 127.5 - 1).to(images.dtype)


def to_depth(timesteps: Tensor, t_0: int) -> Tensor:
    """The timesteps, [N] int64 descending from T-1, up to the depth t_0: how far back an image is taken.

    The deeper, the less of it is kept. ValueError if t_0 is not in 0 … T-1, or no timestep is left.
    """
    top, lowest = int(timesteps[0]), int(timesteps[-1])
    refuse({f"The depth must be between 0 and {top}, got {t_0}.": not 0 <= t_0 <= top})
    if t_0 < lowest:
        left = f"the lowest of these {len(timesteps)} steps is {lowest}"
        raise ValueError(f"No timestep is left at depth {t_0}: {left}.")
    return timesteps[timesteps <= t_0]


def abduct_ddim(eps_fn: EpsFn, schedule: NoiseSchedule, x_0: Tensor, timesteps: Tensor) -> Abducted:
    """DDIM inversion (Song et al. 2021, sec. 5.4): a state from which eta = 0 draws this image.

    One of many, and too even where the data have no variance: see `ddim_invert`.

    Args:
        eps_fn: told the image's own label at w = 1: a larger w would follow another path back.
        x_0: [B, C, H, W] images in [-1, 1].
        timesteps: the list that prediction will walk, [M] int64, strictly descending.
    """
    *_, last = ddim_invert(eps_fn, schedule, x_0, timesteps)
    return Abducted(last.x_t, timesteps)


def abduct_ddpm(
    eps_fn: EpsFn, schedule: NoiseSchedule, x_0: Tensor, timesteps: Tensor,
    noise_fn: NoiseFn | None = None, *, clip_x0: bool = True,
) -> Abducted:  # fmt: skip
    """Edit-friendly inversion (Huberman-Spiegelglas et al. 2024, alg. 1): a noise for each step of DDPM.

    Every x_t gets noise of its own, independent of its neighbours'. The noise of a step is then whatever
    leads from x_t to the x_t of the next timestep: larger than DDPM's own, so that it holds more of the
    image. Predicting with the same eps_fn and clip_x0 gives the image back, to rounding. Args as in
    abduct_ddim; noise_fn gives standard normal noise like x_0, once a timestep.
    """
    noise_fn = noise_fn or torch.randn_like
    states = [q_sample(schedule, x_0, _all(x_0, t), noise_fn(x_0)) for t in timesteps.tolist()]
    noises = []
    for k, x in enumerate(states):
        pair = timesteps[k : k + 2]
        # One step of the sampler with no noise gives the posterior's mean.
        mean = next(sample_ddpm(eps_fn, schedule, x, pair, noise_fn=torch.zeros_like, clip_x0=clip_x0)).x_t
        if len(pair) == 2:
            noises.append((states[k + 1] - mean) / _sigma(schedule, *pair.tolist()))
        else:
            noises.append(x_0 - mean)
    return Abducted(states[0], timesteps, torch.stack(noises))


def abduct_sdedit(
    schedule: NoiseSchedule, x_0: Tensor, timesteps: Tensor, noise_fn: NoiseFn | None = None
) -> Abducted:
    """SDEdit (Meng et al. 2022): plain noise on the image at timesteps[0]. The baseline: no abduction at all.

    Only what shines through is kept; at the top, where nothing does, this is the same-noise draw.
    """
    noise_fn = noise_fn or torch.randn_like
    return Abducted(q_sample(schedule, x_0, _all(x_0, int(timesteps[0])), noise_fn(x_0)), timesteps)


def abduct(
    method: str, eps_fn: EpsFn, schedule: NoiseSchedule, x_0: Tensor, timesteps: Tensor,
    noise_fn: NoiseFn | None = None, *, clip_x0: bool = True,
) -> Abducted:  # fmt: skip
    """Abduction by the name of its method, one of METHODS.

    timesteps are cut by `to_depth`; but "same-noise", fresh noise that knows nothing of the image, has all.
    eps_fn is asked by "ddim" and "ddpm" only. The others are as in abduct_ddpm.
    """
    check_choice("method", method, METHODS)
    if method == "ddim":
        return abduct_ddim(eps_fn, schedule, x_0, timesteps)
    if method == "ddpm":
        return abduct_ddpm(eps_fn, schedule, x_0, timesteps, noise_fn, clip_x0=clip_x0)
    if method == "sdedit":
        return abduct_sdedit(schedule, x_0, timesteps, noise_fn)
    return Abducted((noise_fn or torch.randn_like)(x_0), timesteps)


def predict(
    eps_fn: EpsFn, schedule: NoiseSchedule, abducted: Abducted, *, clip_x0: bool = True
) -> Iterator[Step]:
    """Draw again from what was abducted: DDIM with eta = 0, or DDPM with the stored noises.

    eps_fn is told the target's label. The last Step's x_t [B, C, H, W] is the counterfactual.
    """
    x, timesteps, noises = abducted
    if noises is None:
        yield from sample_ddim(eps_fn, schedule, x, timesteps, clip_x0=clip_x0)
        return
    stored = iter(noises)
    steps = sample_ddpm(eps_fn, schedule, x, timesteps, noise_fn=lambda _: next(stored), clip_x0=clip_x0)
    for step in steps:
        # The sampler's last step adds nothing; the image that was abducted had something left.
        is_last = step.t == int(timesteps[-1])
        yield step._replace(x_t=step.x_t + noises[-1]) if is_last else step


def _all(x: Tensor, t: int) -> Tensor:
    return torch.full((len(x),), t, dtype=torch.int64, device=x.device)


def _sigma(schedule: NoiseSchedule, t: int, t_prev: int) -> float:
    """The standard deviation of DDPM's step from t to t_prev (Ho et al. 2020, eq. 7)."""
    abar, abar_prev = (float(schedule.alphas_cumprod[k]) for k in (t, t_prev))
    return math.sqrt((1 - abar / abar_prev) * (1 - abar_prev) / (1 - abar))
