"""A data set small enough to solve: a mixture of Gaussians, whose noise, score and classes are known exactly.

Noised to timestep t, each part N(m, s² I) becomes N(sqrt(abar) m, (abar s² + 1 - abar) I). So the perfect
eps, its score and the perfect classifier are formulas, and claims can be checked against them.
"""

from __future__ import annotations

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
    """Equally likely Gaussians with means [K, D] and one standard deviation; class k is the k-th of them."""

    means: Tensor
    std: float

    def sample(self, count: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """count points [N, D] and their classes [N]."""
        y = torch.randint(len(self.means), (count,), generator=generator)
        noise = torch.randn(count, self.means.shape[1], generator=generator, dtype=self.means.dtype)
        return self.means[y] + self.std * noise, y

    def log_likelihoods(self, schedule: NoiseSchedule, x_t: Tensor, t: Tensor) -> Tensor:
        """log p(x_t given y) for each class: [B, K], up to a constant that all classes share."""
        signal, variance = self._noised(schedule, x_t, t)
        squares = (x_t[:, None] - signal[:, :, None] * self.means).square().sum(-1)  # [B, K]
        return -squares / (2 * variance)

    def class_probabilities(self, schedule: NoiseSchedule, x_t: Tensor, t: Tensor) -> Tensor:
        """p(y given x_t) by Bayes' rule: [B, K]."""
        return self.log_likelihoods(schedule, x_t, t).softmax(dim=1)

    def score(self, schedule: NoiseSchedule, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """grad log p(x_t), or grad log p(x_t given y): [B, D]."""
        signal, variance = self._noised(schedule, x_t, t)
        mean = self.class_probabilities(schedule, x_t, t) @ self.means if y is None else self.means[y]
        return (signal * mean - x_t) / variance

    def eps_fn(self, schedule: NoiseSchedule, y: Tensor | None = None) -> EpsFn:
        """The perfect network: eps = -sqrt(1 - abar) score."""

        def eps_fn(x_t: Tensor, t: Tensor) -> Tensor:
            _, noise = schedule.signal_and_noise(t, x_t)
            return -noise * self.score(schedule, x_t, t, y)

        return eps_fn

    def teacher(self, schedule: NoiseSchedule) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """The perfect network with labels, (x_t, t, y) -> eps, where K is the null label."""

        def eps(x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
            known = self.eps_fn(schedule, y.clamp(max=len(self.means) - 1))(x_t, t)
            return torch.where(y[:, None] < len(self.means), known, self.eps_fn(schedule)(x_t, t))

        return eps

    def _noised(self, schedule: NoiseSchedule, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(abar) and the variance of each noised part, [B, 1] each."""
        signal, noise = schedule.signal_and_noise(t, x_t)
        return signal, (signal * self.std) ** 2 + noise**2


def two_clouds() -> GaussianMixture:
    """The course's example: two round clouds in the plane, left-low and right-high."""
    return GaussianMixture(torch.tensor([[-0.6, -0.3], [0.6, 0.3]]), std=0.12)


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
