"""What a training with a name is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from lessons_lib.classifier import EvaluatorConfig, NoisyClassifierConfig
from lessons_lib.recipes.losses import Augment
from lessons_lib.training import TrainConfig
from lessons_lib.unet import UNetConfig
from lessons_lib.weights import ARCHITECTURES

NETWORKS = {config: network for network, config in ARCHITECTURES.values()}


@dataclass(frozen=True)
class DiffusionOptions:
    """What a training on noisy images needs besides a TrainConfig."""

    schedule: str = "linear"
    timesteps: int = 1000
    loss: str = "mse"  # this and the next three as in denoising_loss
    p_uncond: float = 0.1
    t_density: str = "uniform"
    loss_weight: str = "none"
    dropout: float = 0.0  # as in UNetConfig
    told_augment: bool = False  # distort the images and tell the network how, see told_affine
    sample_every: int = 1  # epochs between grids of samples; 0 never
    keep_epochs: bool = False  # keep the weights of every epoch (epoch_NNN.safetensors), to study a training


@dataclass(frozen=True)
class Recipe:
    """A training with a name: of a denoiser, a classifier of noisy images, or an evaluator."""

    name: str  # of the weights it makes
    network: UNetConfig | NoisyClassifierConfig | EvaluatorConfig
    config: TrainConfig  # the defaults, as options
    options: DiffusionOptions = DiffusionOptions()
    augment: Augment | None = None  # varies the images before they are shown, in training only
    defaults: Mapping[str, Any] = field(default_factory=dict)  # what the card proposes to draw with
    noisy: bool = True  # False: a classifier that sees clean images only
    label_smoothing: float = 0.05  # of an evaluator
    channels_last: bool = False  # keep a pixel's channels side by side in memory: suits wide convolutions

    def build(self) -> nn.Module:
        """The untrained network."""
        return NETWORKS[type(self.network)](self.network)

    @property
    def is_denoiser(self) -> bool:
        return isinstance(self.network, UNetConfig)

    @property
    def needs_schedule(self) -> bool:
        """Whether its card names a schedule."""
        return not isinstance(self.network, EvaluatorConfig)
