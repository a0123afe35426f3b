"""A data set small enough to solve: a mixture of Gaussians, whose noise, score and classes are known exactly.

Noised to timestep t, each part N(m, s² I) becomes N(sqrt(abar) m, (abar s² + 1 - abar) I). So the perfect
eps, its score and the perfect classifier are formulas, and claims can be checked against them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lessons_lib.flow_map import jump
from lessons_lib.guidance import EpsFn
from lessons_lib.schedules import NoiseSchedule
from lessons_lib.unet import timestep_embedding


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """Equally likely Gaussians with means [M, D] and one standard deviation.

    classes: [M] int64, the class of each; by default each is a class of its own.
    """

    means: Tensor
    std: float
    classes: Tensor | None = None

    def __post_init__(self) -> None:
        if self.classes is None:
            object.__setattr__(self, "classes", torch.arange(len(self.means)))

    @property
    def num_classes(self) -> int:
        return int(self.classes.max()) + 1

    def sample(self, count: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """count points [N, D] and their classes [N]."""
        part = torch.randint(len(self.means), (count,), generator=generator)
        noise = torch.randn(count, self.means.shape[1], generator=generator, dtype=self.means.dtype)
        return self.means[part] + self.std * noise, self.classes[part]

    def log_likelihoods(self, schedule: NoiseSchedule, x_t: Tensor, t: Tensor) -> Tensor:
        """log p(x_t, y) for each class: [B, K], up to a constant that all classes share."""
        ours = self.classes == torch.arange(self.num_classes)[:, None]  # [K, M]
        parts = self._parts(schedule, x_t, t)[:, None]
        return parts.masked_fill(~ours, -math.inf).logsumexp(dim=2)

    def class_probabilities(self, schedule: NoiseSchedule, x_t: Tensor, t: Tensor) -> Tensor:
        """p(y given x_t) by Bayes' rule: [B, K]."""
        return self.log_likelihoods(schedule, x_t, t).softmax(dim=1)

    def score(self, schedule: NoiseSchedule, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """grad log p(x_t), or grad log p(x_t given y): [B, D]."""
        signal, variance = self._noised(schedule, x_t, t)
        parts = self._parts(schedule, x_t, t)
        if y is not None:
            parts = parts.masked_fill(self.classes != y[:, None], -math.inf)
        return (signal * (parts.softmax(dim=1) @ self.means) - x_t) / variance

    def eps_fn(self, schedule: NoiseSchedule, y: Tensor | None = None) -> EpsFn:
        """The perfect network: eps = -sqrt(1 - abar) score."""

        def eps_fn(x_t: Tensor, t: Tensor) -> Tensor:
            _, noise = schedule.signal_and_noise(t, x_t)
            return -noise * self.score(schedule, x_t, t, y)

        return eps_fn

    def teacher(self, schedule: NoiseSchedule) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """The perfect network with labels, (x_t, t, y) -> eps, where K is the null label."""

        def eps(x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
            known = self.eps_fn(schedule, y.clamp(max=self.num_classes - 1))(x_t, t)
            return torch.where(y[:, None] < self.num_classes, known, self.eps_fn(schedule)(x_t, t))

        return eps

    def _parts(self, schedule: NoiseSchedule, x_t: Tensor, t: Tensor) -> Tensor:
        """log p(x_t given the part) of each part: [B, M], up to a constant that all share."""
        signal, variance = self._noised(schedule, x_t, t)
        return -(x_t[:, None] - signal[:, :, None] * self.means).square().sum(-1) / (2 * variance)

    def _noised(self, schedule: NoiseSchedule, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(abar) and the variance of each noised part, [B, 1] each."""
        signal, noise = schedule.signal_and_noise(t, x_t)
        return signal, (signal * self.std) ** 2 + noise**2


def two_clouds() -> GaussianMixture:
    """The course's example: two round clouds in the plane, left-low and right-high."""
    return GaussianMixture(torch.tensor([[-0.6, -0.3], [0.6, 0.3]]), std=0.12)


SEVEN = ((-1.05, 0.75), (-0.15, 0.75), (-0.65, -0.85))  # corners of its one stroke
THREE = ((0.55, 0.5, 0.4, 0.3, 2.6), (0.55, -0.4, 0.45, 0.45, 2.4))  # bows: middle, radii, half an angle


def seven_and_three(count: int = 75, std: float = 0.035) -> GaussianMixture:
    """A world in the plane with pictures in it: `count` Gaussians along a 7, class 0, as many along a 3."""
    corners = torch.tensor(SEVEN)
    lengths = (corners[1:] - corners[:-1]).norm(dim=1)
    where = torch.linspace(0, float(lengths.sum()), count)
    first = where < lengths[0]
    along = torch.where(first, where / lengths[0], (where - lengths[0]) / lengths[1])[:, None]
    seven = torch.where(first[:, None], torch.lerp(*corners[:2], along), torch.lerp(*corners[1:], along))
    bows = []
    for (x, y, wide, high, half), part in zip(THREE, (count // 2, count - count // 2), strict=True):
        angle = torch.linspace(half, -half, part)
        bows.append(torch.stack([x + wide * angle.cos(), y + high * angle.sin()], dim=1))
    classes = torch.arange(2).repeat_interleave(count)
    return GaussianMixture(torch.cat([seven, *bows]), std, classes)


class ToyFlowMap(nn.Module):
    """A flow map of points [B, D] of K classes, with the face of `flow_map.FlowMap`; it clips nothing."""

    clip_x0 = False

    def __init__(self, schedule: NoiseSchedule, dims: int, num_classes: int, width: int = 128) -> None:
        super().__init__()
        self.schedule, self.null_label = schedule, num_classes
        self.label_table = nn.Embedding(num_classes + 1, 16)
        self.layers = nn.Sequential(
            nn.Linear(dims + 4 * 16, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, width), nn.SiLU(), nn.Linear(width, dims),
        )  # fmt: skip

    def forward(self, x_t: Tensor, t: Tensor, s: Tensor, y: Tensor, guidance_scale: Tensor) -> Tensor:
        """x_s [B, D]; args as in FlowMap.forward, with x_t [B, D]."""
        untold = self.label_table(torch.full_like(y, self.null_label))
        label = torch.lerp(untold, self.label_table(y), guidance_scale[:, None].to(untold))
        # A tenth of t: 16 turns of the fastest sine from noise to image tell short jumps from long ones.
        times = [timestep_embedding(n, 16) for n in (t / 10, s / 10, guidance_scale)]
        v = self.layers(torch.cat([x_t, *(n.to(x_t) for n in times), label], dim=1))
        signal, noise = self.schedule.signal_and_noise(t, x_t)
        return jump(self.schedule, x_t, t, s, signal * x_t - noise * v)
