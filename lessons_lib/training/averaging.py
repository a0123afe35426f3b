"""The moving average of the weights, which is what a training is for."""

import copy

import numpy as np
import torch
from torch import nn


class EMA:
    """A moving average of a model's weights: exponential, or by a power law with sigma_rel.

    The power law: the weights after update n weigh n^gamma, and the standard deviation of that profile is
    sigma_rel of the training so far (Karras et al. 2024, sec. 3.1, eq. 127 and alg. 2).
    """

    def __init__(self, model: nn.Module, decay: float, sigma_rel: float | None = None) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.sigma_rel, self.num_updates = decay, sigma_rel, 0
        if sigma_rel is not None:
            # The positive root of sigma_rel² (gamma + 2)² (gamma + 3) = gamma + 1 (eq. 126).
            scale = sigma_rel**-2
            self.gamma = float(np.roots([1, 7, 16 - scale, 12 - scale]).real.max())

    def current_decay(self) -> float:
        """How much of the average the next update keeps."""
        n = self.num_updates
        if self.sigma_rel is not None:
            return (1 - 1 / (n + 1)) ** (self.gamma + 1)
        return min(self.decay, (1 + n) / (10 + n))

    def length(self) -> float:
        """The standard deviation of the average's profile, in updates."""
        if self.sigma_rel is not None:
            return self.sigma_rel * self.num_updates
        return 1 / (1 - self.current_decay())

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards `model`; buffers are copied."""
        averages, weights = list(self.model.parameters()), list(model.parameters())
        torch._foreach_lerp_(averages, weights, 1 - self.current_decay())
        for copied, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            copied.copy_(buffer)
        self.num_updates += 1

    def state_dict(self) -> dict:
        return {"weights": self.model.state_dict(), "num_updates": self.num_updates}

    def load_state_dict(self, state: dict) -> None:
        self.model.load_state_dict(state["weights"])
        self.num_updates = state["num_updates"]
