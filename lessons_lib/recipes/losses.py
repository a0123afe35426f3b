"""The losses of the classifiers, and how training images are varied before they are shown."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lessons_lib.schedules import NoiseSchedule, q_sample
from lessons_lib.training import LossFn


def cross_entropy_loss(
    model: nn.Module, x_0: Tensor, y: Tensor, generator: torch.Generator, smoothing: float = 0.05
) -> Tensor:
    """Cross-entropy on clean images; in training with smoothed labels. y: as in `label_loss`."""
    return label_loss(model(x_0), y, smoothing if model.training else 0.0)


def label_loss(logits: Tensor, y: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of logits [B, K] with labels y [B]; or with yes-or-no attributes y [B, K], the mean."""
    if y.ndim == 1:
        return F.cross_entropy(logits.float(), y, label_smoothing=smoothing)
    return F.binary_cross_entropy_with_logits(logits.float(), y.float() * (1 - smoothing) + smoothing / 2)


def noisy_classification_loss(schedule: NoiseSchedule, timesteps: Sequence[int] | None = None) -> LossFn:
    """Cross-entropy of p(y given x_t, t) on noised images (Dhariwal & Nichol 2021, sec. 4).

    t is drawn from `timesteps` (None: all); if these are empty, images stay clean and the network is told 0.
    """
    choices = torch.arange(schedule.num_timesteps) if timesteps is None else torch.tensor(timesteps).long()

    def loss_fn(model: nn.Module, x_0: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        if not len(choices):
            return label_loss(model(x_0, torch.zeros(len(x_0), dtype=torch.int64, device=x_0.device)), y)
        drawn = torch.randint(len(choices), (len(x_0),), generator=generator)
        t, eps = choices[drawn].to(x_0.device), torch.randn(x_0.shape, generator=generator).to(x_0.device)
        return label_loss(model(q_sample(schedule, x_0, t, eps), t), y)

    return loss_fn


def random_affine(x_0: Tensor, generator: torch.Generator) -> Tensor:
    """Turn, shear, scale and shift each image [B, C, H, W] a little; digits are never flipped."""

    def uniform(*more: int) -> Tensor:
        return torch.rand(len(x_0), *more, generator=generator) * 2 - 1

    angle, scale, shear = 0.26 * uniform(), 1 + 0.15 * uniform(2), 0.2 * uniform()
    shift = 2.5 / 14 * uniform(2)  # 2.5 pixels of 28: the unit is half the image
    right = (angle.cos() * scale[:, 0], -angle.sin() + shear, shift[:, 0])
    down = (angle.sin(), angle.cos() * scale[:, 1], shift[:, 1])
    matrices = torch.stack([torch.stack(right, dim=1), torch.stack(down, dim=1)], dim=1)
    grid = F.affine_grid(matrices, list(x_0.shape), align_corners=False).to(x_0)
    return F.grid_sample(x_0 + 1, grid, align_corners=False) - 1  # the outside is 0, and the background -1


def random_flip(x_0: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror about half of the images [B, C, H, W] left to right: an object stays what it is, a digit not."""
    flipped = torch.rand(len(x_0), generator=generator) < 0.5
    return torch.where(flipped.to(x_0.device)[:, None, None, None], x_0.flip(3), x_0)


def random_crop_and_flip(x_0: Tensor, generator: torch.Generator, padding: int = 4) -> Tensor:
    """For objects: mirror about half of the images; shift each by up to `padding` pixels, edges mirrored."""
    batch, _, height, width = x_0.shape
    padded = F.pad(random_flip(x_0, generator), (padding,) * 4, mode="reflect")
    top, left = torch.randint(2 * padding + 1, (2, batch), generator=generator)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # at each place, [B, C, P, P, H, W]
    return windows[torch.arange(batch), :, top, left]
