"""The parts of the U-Net: the embedding of t, residual blocks, attention, halving and doubling."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def timestep_embedding(t: Tensor, channels: int, max_period: float = 10_000.0) -> Tensor:
    """Sines and cosines of t at geometrically spaced frequencies (Vaswani et al. 2017, sec. 3.5).

    Args:
        t: [B] int64 timesteps.
        channels: even.

    Returns:
        [B, channels] float32, whatever the autocast: bfloat16 keeps only 507 of 1000 timesteps apart.
    """
    half = channels // 2
    k = torch.arange(half, dtype=torch.float32, device=t.device)
    frequencies = torch.exp(-math.log(max_period) * k / half)
    angles = t.float()[:, None] * frequencies[None, :]
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def num_groups(channels: int) -> int:
    """The largest of 8, 16, 32 groups that divides the channels and leaves at least 4 in a group."""
    suited = [g for g in (32, 16, 8) if channels % g == 0 and channels // g >= 4]
    if not suited:
        raise ValueError(
            f"Channels must be a multiple of 8 and at least 32 for group normalization, got {channels}."
        )
    return suited[0]


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with a shortcut; the embedding scales and shifts the features between them.

    FiLM (Perez et al. 2018): h <- (1 + scale) norm(h) + shift, with scale and shift read off the embedding of
    t (and y).

    Args:
        embedding_channels: 0 builds the block without FiLM.
    """

    def __init__(
        self, in_channels: int, out_channels: int, embedding_channels: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(num_groups(in_channels), in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.film = nn.Linear(embedding_channels, 2 * out_channels) if embedding_channels else None
        self.norm2 = nn.GroupNorm(num_groups(out_channels), out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = (
            nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()
        )
        # With a zero last convolution each block starts as its shortcut, and a deep network trains at once.
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """x [B, C_in, H, W], embedding [B, E] -> [B, C_out, H, W]."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.norm2(h)
        if self.film is not None:
            scale, shift = self.film(embedding)[:, :, None, None].chunk(2, dim=1)  # [B, C_out, 1, 1] each
            h = torch.addcmul(shift, h, 1 + scale)
        h = self.conv2(self.dropout(F.silu(h)))
        return self.shortcut(x) + h


class SelfAttention(nn.Module):
    """Every position looks at every other (Vaswani et al. 2017), with a shortcut. Used where H·W is small."""

    def __init__(self, channels: int, channels_per_head: int = 32) -> None:
        super().__init__()
        # The most heads that are at least so wide and share the channels evenly.
        self.heads = next(h for h in range(max(1, channels // channels_per_head), 0, -1) if channels % h == 0)
        self.norm = nn.GroupNorm(num_groups(channels), channels)
        self.to_qkv = nn.Linear(channels, 3 * channels)
        self.project = nn.Linear(channels, channels)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, C, H, W]."""
        batch, channels, height, width = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # [B, H·W, C]
        qkv = self.to_qkv(tokens).view(batch, height * width, 3, self.heads, channels // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # [B, heads, H·W, C/heads] each
        # Written out: for so few tokens it is as fast as the fused kernel, on a CPU in bfloat16 six times as
        # fast.
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])  # [B, heads, H·W, H·W]
        weights = torch.softmax(scores, dim=-1)
        mixed = (weights @ v).transpose(1, 2).flatten(2)  # [B, H·W, C]
        return x + self.project(mixed).transpose(1, 2).reshape(x.shape)


class Downsample(nn.Conv2d):
    """Halve height and width with a strided 3×3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, stride=2, padding=1)


class Upsample(nn.Module):
    """Double height and width: nearest neighbour, then a convolution (Odena et al. 2016: no checkerboard)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C_out, 2H, 2W]."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Refine(nn.Module):
    """Adds a correction to an answer that was put together from patches, told t."""

    def __init__(self, image_channels: int, channels: int, embedding_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2 * image_channels, channels, 3, padding=1)
        self.film = nn.Linear(embedding_channels, 2 * channels)
        self.conv2 = nn.Conv2d(channels, image_channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, answer: Tensor, x_t: Tensor, embedding: Tensor) -> Tensor:
        """answer and x_t [B, C, H, W], embedding [B, E] -> [B, C, H, W]."""
        scale, shift = self.film(embedding)[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, self.conv1(torch.cat([answer, x_t], dim=1)), 1 + scale)
        return answer + self.conv2(F.silu(h))
