"""Networks that read images: the Evaluator, which scores what the course draws and never guides it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lessons_lib.unet import Downsample, ResidualBlock


@dataclass(frozen=True)
class EvaluatorConfig:
    """The shape of an Evaluator; the last width is the number of features."""

    image_size: int = 28
    in_channels: int = 1
    widths: tuple[int, ...] = (32, 64, 128)
    num_classes: int = 10
    dropout: float = 0.2

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))


class Evaluator(nn.Module):
    """p(y given x_0): a classifier of clean images that only ever judges.

    It did not guide the images that it scores: scoring with the guiding classifier would be circular.
    """

    def __init__(self, config: EvaluatorConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or EvaluatorConfig()
        layers: list[nn.Module] = [nn.Conv2d(config.in_channels, config.widths[0], 3, padding=1)]
        for i, width in enumerate(config.widths):
            if i > 0:
                layers.append(Downsample(config.widths[i - 1]))
            layers.append(ResidualBlock(config.widths[max(i - 1, 0)], width, embedding_channels=0))
        self.body = nn.Sequential(*layers, nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Sequential(
            nn.Dropout(config.dropout), nn.Linear(config.widths[-1], config.num_classes)
        )

    def features(self, x_0: Tensor) -> Tensor:
        """x_0 [B, C, H, W] in [-1, 1] -> [B, F], the features before the last layer: the FID's space."""
        return self.body(x_0)

    def forward(self, x_0: Tensor) -> Tensor:
        """x_0 [B, C, H, W] in [-1, 1] -> logits [B, K].

        Raises:
            ValueError: if x_0 does not have the configured channels and size.
        """
        size, channels = self.config.image_size, self.config.in_channels
        if x_0.shape[1:] != (channels, size, size):
            raise ValueError(f"x_0 must have shape [B, {channels}, {size}, {size}], got {list(x_0.shape)}.")
        return self.head(self.features(x_0))

    @torch.no_grad()
    def probabilities(self, x_0: Tensor) -> Tensor:
        """x_0 [B, C, H, W] -> [B, K] class probabilities, float32, without gradients."""
        return torch.softmax(self(x_0).float(), dim=1)
