"""A data set small enough to solve: a mixture of Gaussians, whose noise, score and classes are known exactly.

Noised to timestep t, each part N(m, s² I) becomes N(sqrt(abar) m, (abar s² + 1 - abar) I). So the perfect
eps, its score and the perfect classifier are formulas, and claims can be checked against them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lessons_lib.guidance import EpsFn
from lessons_lib.schedules import NoiseSchedule


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

    def _noised(self, schedule: NoiseSchedule, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(abar) and the variance of each noised part, [B, 1] each."""
        signal, noise = schedule.signal_and_noise(t, x_t)
        return signal, (signal * self.std) ** 2 + noise**2


def two_clouds() -> GaussianMixture:
    """The course's example: two round clouds in the plane, left-low and right-high."""
    return GaussianMixture(torch.tensor([[-0.6, -0.3], [0.6, 0.3]]), std=0.12)
