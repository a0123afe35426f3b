"""What a training with a name is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from lessons_lib.recipes.losses import Augment
from lessons_lib.training import TrainConfig


@dataclass(frozen=True)
class DiffusionOptions:
    """What a denoiser's training needs besides a TrainConfig.

    Args:
        schedule, timesteps, loss, p_uncond: as in NoiseSchedule.by_name and denoising_loss.
        sample_every: draw a grid of samples every so many epochs; 0 never.
        keep_epochs: keep the EMA weights of every epoch (epoch_NNN.safetensors), to study how a training
            went.
    """

    schedule: str = "linear"
    timesteps: int = 1000
    loss: str = "mse"
    p_uncond: float = 0.1
    sample_every: int = 1
    keep_epochs: bool = False


@dataclass(frozen=True)
class Recipe:
    """A training with a name.

    Args:
        name: of the weights it makes.
        build: makes the untrained network.
        config: the defaults of its TrainConfig.
        kind: "denoiser" (draws sample grids, too), "classifier" (of noisy images), "clean-classifier" (the
            same network, but it sees clean images only) or "evaluator".
        options: the defaults of its DiffusionOptions.
        augment: varies the images before they are shown, in training only.
        sampler, steps: what the card of a denoiser proposes.
        channels_last: train with a pixel's channels side by side in memory, which suits wide convolutions.
    """

    name: str
    build: Callable[[], nn.Module]
    config: TrainConfig
    kind: str
    options: DiffusionOptions = field(default_factory=DiffusionOptions)
    augment: Augment | None = None
    sampler: str = "ddim"
    steps: int = 10
    channels_last: bool = False

    @property
    def needs_schedule(self) -> bool:
        """Whether its images are noised, and its card names a schedule."""
        return self.kind != "evaluator"
