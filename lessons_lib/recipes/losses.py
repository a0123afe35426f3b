"""The losses of the classifiers, and how training images are varied before they are shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lessons_lib.schedules import NoiseSchedule, q_sample
from lessons_lib.training import LossFn

Augment = Callable[[Tensor, torch.Generator], Tensor]  # x_0 [B, C, H, W] -> the same shape


def augmented(loss_fn: LossFn, augment: Augment | None) -> LossFn:
    """The same loss on images that are varied in training, and in training only.

    The step's own generator decides how: a resumed training varies them as an uninterrupted one does.
    """
    if augment is None:
        return loss_fn

    def loss_on_varied(model: nn.Module, x_0: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return loss_fn(model, augment(x_0, generator) if model.training else x_0, y, generator)

    return loss_on_varied


def cross_entropy_loss(model: nn.Module, x_0: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    """Cross-entropy on clean images; in training with smoothed labels. y: as in `label_loss`."""
    return label_loss(model(x_0), y, smoothing=0.05 if model.training else 0.0)


def label_loss(logits: Tensor, y: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of logits [B, K] with labels y [B]; or with yes-or-no attributes y [B, K], the mean."""
    if y.ndim == 1:
        return F.cross_entropy(logits.float(), y, label_smoothing=smoothing)
    return F.binary_cross_entropy_with_logits(logits.float(), y.float() * (1 - smoothing) + smoothing / 2)


def noisy_classification_loss(schedule: NoiseSchedule, timesteps: Sequence[int] | None = None) -> LossFn:
    """Cross-entropy of p(y given x_t, t) on noised images (Dhariwal & Nichol 2021, sec. 4).

    Args:
        timesteps: t is drawn from these; None: from all of the schedule; empty: the images stay clean, and
            the network is told t = 0.
    """
    choices = torch.arange(schedule.num_timesteps) if timesteps is None else torch.tensor(timesteps).long()

    def loss_fn(model: nn.Module, x_0: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        if not len(choices):
            x_0 = random_affine(x_0, generator) if model.training else x_0
            clean = torch.zeros(len(x_0), dtype=torch.int64, device=x_0.device)
            return label_loss(model(x_0, clean), y)
        # Not bent: under noise no picture comes twice anyway.
        drawn = torch.randint(len(choices), (len(x_0),), generator=generator)
        t, eps = choices[drawn].to(x_0.device), torch.randn(x_0.shape, generator=generator).to(x_0.device)
        return label_loss(model(q_sample(schedule, x_0, t, eps), t), y)

    return loss_fn


def random_affine(x_0: Tensor, generator: torch.Generator) -> Tensor:
    """Turn, shear, scale and shift each image [B, C, H, W] a little; digits are never flipped."""
    batch = len(x_0)

    def uniform(*shape: int) -> Tensor:
        return (torch.rand(*shape, generator=generator) * 2 - 1).to(x_0.device)

    angle, scale, shear = 0.26 * uniform(batch), 1 + 0.15 * uniform(batch, 2), 0.2 * uniform(batch)
    shift = 2.5 / 14 * uniform(batch, 2)  # 2.5 pixels of 28: grid_sample's unit is half the image
    top = torch.stack([angle.cos() * scale[:, 0], -angle.sin() + shear, shift[:, 0]], dim=1)
    bottom = torch.stack([angle.sin(), angle.cos() * scale[:, 1], shift[:, 1]], dim=1)
    grid = F.affine_grid(torch.stack([top, bottom], dim=1), list(x_0.shape), align_corners=False)
    # grid_sample fills the outside with 0, and the background is -1.
    return F.grid_sample(x_0 + 1, grid, align_corners=False) - 1


def random_flip(x_0: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror about half of the images [B, C, H, W] left to right: an object stays what it is, a digit not."""
    flipped = torch.rand(len(x_0), generator=generator) < 0.5
    return torch.where(flipped.to(x_0.device)[:, None, None, None], x_0.flip(3), x_0)


def random_crop_and_flip(x_0: Tensor, generator: torch.Generator, padding: int = 4) -> Tensor:
    """For a classifier of objects: mirror about half of the images, and shift each by up to `padding` pixels.

    What is shifted in from outside is the image's mirrored edge.
    """
    batch, _, height, width = x_0.shape

    def places(length: int, count: int) -> Tensor:
        """For each image, `length` neighbouring positions from a random one of 0 … count - 1, [B, length]."""
        start = torch.randint(count, (batch,), generator=generator)
        return (start[:, None] + torch.arange(length)).to(x_0.device)

    padded = F.pad(random_flip(x_0, generator), (padding,) * 4, mode="reflect")
    each = torch.arange(batch, device=x_0.device)[:, None, None]
    rows, columns = places(height, 2 * padding + 1), places(width, 2 * padding + 1)
    return padded[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
