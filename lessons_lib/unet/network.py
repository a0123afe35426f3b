"""The U-Net itself: its config, its levels, and how they are put together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lessons_lib.schedules import NoiseSchedule, eps_from_v
from lessons_lib.unet.blocks import (
    Downsample,
    Refine,
    ResidualBlock,
    SelfAttention,
    Upsample,
    num_groups,
    timestep_embedding,
)


@dataclass(frozen=True)
class UNetConfig:
    """The shape of a U-Net; the defaults are the digit model, and other sizes only change numbers.

    Args:
        image_size: height and width in pixels, a multiple of patch * 2**(levels - 1).
        in_channels: 1 for grey, 3 for colour.
        base_channels: channels at full resolution.
        channel_mults: channels of each level as a multiple of base_channels; each further level halves the
            image.
        blocks_per_level: residual blocks in each level, on the way down and on the way up.
        attention_levels: levels (0 is full resolution) with self-attention; the middle always has it.
        num_classes: K labels; 0 builds an unconditional network.
        embedding_channels: width of the embedding of t and y.
        dropout: inside the residual blocks, in training only.
        patch: each patch × patch pixels become one position with patch² times the channels, before the first
            layer and back after the last: a large image at the price of a small one.
        refine_channels: width of two last convolutions at full resolution, which see x_t beside the answer of
            the patches and mend the seams; 0 leaves them out.
        v_schedule: the last layer answers v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0 of the schedule of this
            name (Salimans & Ho 2022, app. D), which becomes eps; empty: it answers eps.
        v_timesteps: T of that schedule.
        multi_label: the K labels are yes-or-no attributes, rather than classes of which one is right.
        augment_channels: A numbers that say how a training image was distorted, so that the network does not
            draw distorted ones (Karras et al. 2022, sec. 5 and app. F.2); 0 leaves them out.
    """

    image_size: int = 28
    in_channels: int = 1
    base_channels: int = 32
    channel_mults: tuple[int, ...] = (1, 2, 4)
    blocks_per_level: int = 1
    attention_levels: tuple[int, ...] = ()
    num_classes: int = 10
    embedding_channels: int = 128
    dropout: float = 0.0
    patch: int = 1
    refine_channels: int = 0
    v_schedule: str = ""
    v_timesteps: int = 1000
    multi_label: bool = False
    augment_channels: int = 0

    def __post_init__(self) -> None:
        # JSON cards hold lists; tuples keep the config hashable.
        object.__setattr__(self, "channel_mults", tuple(self.channel_mults))
        object.__setattr__(self, "attention_levels", tuple(self.attention_levels))
        levels = len(self.channel_mults)
        if self.patch < 1:
            raise ValueError(f"patch must be at least 1, got {self.patch}.")
        shrink = self.patch * 2 ** max(levels - 1, 0)
        if not levels or self.image_size % shrink:
            raise ValueError(
                f"image_size {self.image_size} must be a multiple of {shrink} for {levels} levels"
                + (f" of patches of {self.patch} pixels." if self.patch > 1 else ".")
            )
        if any(level not in range(levels) for level in self.attention_levels):
            raise ValueError(f"attention_levels {self.attention_levels} must be in 0 … {levels - 1}.")
        if self.blocks_per_level < 1:
            raise ValueError(f"blocks_per_level must be at least 1, got {self.blocks_per_level}.")
        if self.num_classes < 0:
            raise ValueError(f"num_classes must be 0 (unconditional) or more, got {self.num_classes}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}.")
        if self.multi_label and not self.num_classes:
            raise ValueError("A network of attributes (multi_label) must have at least 1: num_classes is 0.")
        if self.augment_channels < 0:
            raise ValueError(f"augment_channels must be at least 0, got {self.augment_channels}.")


def _maybe_attention(config: UNetConfig, level: int) -> nn.Module:
    channels = config.base_channels * config.channel_mults[level]
    return SelfAttention(channels) if level in config.attention_levels else nn.Identity()


class DownLevel(nn.Module):
    """Residual blocks at one resolution, attention if the config asks for it, halving but in the last."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        super().__init__()
        widths = [config.base_channels * m for m in config.channel_mults]
        first = widths[max(level - 1, 0)]
        self.blocks = nn.ModuleList(
            ResidualBlock(
                first if i == 0 else widths[level], widths[level], config.embedding_channels, config.dropout
            )
            for i in range(config.blocks_per_level)
        )
        self.attention = _maybe_attention(config, level)
        self.resize = Downsample(widths[level]) if level < len(widths) - 1 else nn.Identity()

    def forward(self, h: Tensor, embedding: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Returns what goes down to the next level, and one skip for each block."""
        skips = []
        for block in self.blocks:
            h = block(h, embedding)
            skips.append(h)
        skips[-1] = h = self.attention(h)
        return self.resize(h), skips


class UpLevel(nn.Module):
    """The mirror of DownLevel: each residual block also reads the skip that its twin left."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        super().__init__()
        widths = [config.base_channels * m for m in config.channel_mults]
        width = widths[level]
        self.blocks = nn.ModuleList(
            ResidualBlock(2 * width, width, config.embedding_channels, config.dropout)
            for _ in range(config.blocks_per_level)
        )
        self.attention = _maybe_attention(config, level)
        # Narrowed while it is enlarged: the widest convolutions never run at the finest resolution.
        self.resize = Upsample(width, widths[level - 1]) if level > 0 else nn.Identity()

    def forward(self, h: Tensor, skips: list[Tensor], embedding: Tensor) -> Tensor:
        for block in self.blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), embedding)
        return self.resize(self.attention(h))


class UNet(nn.Module):
    """Predicts the noise eps in x_t, told the timestep and, if it has classes, the label.

    One network is conditional and unconditional at once: `null_label` stands for "not told" (Ho & Salimans
    2022).
    """

    def __init__(self, config: UNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or UNetConfig()
        widths = [config.base_channels * m for m in config.channel_mults]
        width, embedding = config.base_channels, config.embedding_channels
        self.time_mlp = nn.Sequential(
            nn.Linear(width * 2, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        labels, attributes = config.num_classes, config.multi_label
        # Row K of the table is the null label: "no class given".
        self.label_table = nn.Embedding(labels + 1, embedding) if labels and not attributes else None
        # Without a bias, so that what is untold, or undistorted, adds nothing.
        self.attribute_linear = nn.Linear(2 * labels, embedding, bias=False) if attributes else None
        numbers = config.augment_channels
        self.augment_linear = nn.Linear(numbers, embedding, bias=False) if numbers else None
        pixels = config.in_channels * config.patch**2  # channels of one position
        self.stem = nn.Conv2d(pixels, width, 3, padding=1)
        levels = range(len(widths))
        self.down = nn.ModuleList(DownLevel(config, level) for level in levels)
        self.middle1 = ResidualBlock(widths[-1], widths[-1], embedding, config.dropout)
        self.middle_attention = SelfAttention(widths[-1])
        self.middle2 = ResidualBlock(widths[-1], widths[-1], embedding, config.dropout)
        self.up = nn.ModuleList(UpLevel(config, level) for level in reversed(levels))
        self.norm_out = nn.GroupNorm(num_groups(width), width)
        self.conv_out = nn.Conv2d(width, pixels, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)
        refine = config.refine_channels
        self.refine = Refine(config.in_channels, refine, embedding) if refine else None
        name, steps = config.v_schedule, config.v_timesteps
        self.v_schedule = NoiseSchedule.by_name(name, steps) if name else None

    @property
    def null_label(self) -> int:
        """What y holds where nothing is told: num_classes, or -1 for an attribute."""
        return -1 if self.config.multi_label else self.config.num_classes

    def embed(self, t: Tensor, y: Tensor | None, augment: Tensor | None = None) -> Tensor:
        """The embedding of all that is told, [B, embedding_channels], that every block reads."""
        features = timestep_embedding(t, 2 * self.config.base_channels)
        dtype = self.time_mlp[0].weight.dtype  # the casts are for a network in half precision
        embedding = self.time_mlp(features.to(dtype))
        if self.label_table is not None:
            y = torch.full_like(t, self.null_label) if y is None else y
            embedding = embedding + self.label_table(y)
        elif y is not None:
            self._check_attributes(y, len(t))
            embedding = embedding + self.attribute_linear(torch.cat([y == 1, y == 0], dim=1).to(dtype))
        if augment is not None:
            self._check_augment(augment, len(t))
            embedding = embedding + self.augment_linear(augment.to(dtype))
        return F.silu(embedding)

    def _check_attributes(self, y: Tensor, batch: int) -> None:
        if self.attribute_linear is None:
            raise ValueError("This network has no classes (num_classes=0): y must be None.")
        wanted = [batch, self.config.num_classes]
        if list(y.shape) != wanted or y.dtype != torch.int64:
            raise ValueError(f"Attributes y must be {wanted} int64, got {list(y.shape)} {y.dtype}.")
        if not bool(((y >= -1) & (y <= 1)).all()):
            raise ValueError(
                f"Attributes y must be 1 (yes), 0 (no) or -1 (untold), got {int(y.min())} … {int(y.max())}."
            )

    def _check_augment(self, augment: Tensor, batch: int) -> None:
        if self.augment_linear is None:
            raise ValueError("This network is told no distortion (augment_channels=0): augment must be None.")
        wanted = [batch, self.config.augment_channels]
        if list(augment.shape) != wanted:
            raise ValueError(f"augment must have shape {wanted}, got {list(augment.shape)}.")

    def forward(
        self, x_t: Tensor, t: Tensor, y: Tensor | None = None, augment: Tensor | None = None
    ) -> Tensor:
        """Predict the noise.

        Args:
            x_t: [B, C, H, W] noisy images.
            t: [B] int64 timesteps, 0 … T-1.
            y: [B] int64 labels in 0 … K, or with multi_label [B, K] int64, 1 yes, 0 no, -1 untold. None, K or
                all -1 is "not told".
            augment: [B, A] how each image was distorted; None or zeros is "undistorted".

        Returns:
            eps: [B, C, H, W].

        Raises:
            ValueError: if x_t does not have the configured channels and size, y or augment is given to a
                network that is not told it, or attributes have another shape or other values.
        """
        size, channels = self.config.image_size, self.config.in_channels
        if x_t.shape[1:] != (channels, size, size):
            raise ValueError(f"x_t must have shape [B, {channels}, {size}, {size}], got {list(x_t.shape)}.")
        embedding = self.embed(t, y, augment)
        h = self.stem(F.pixel_unshuffle(x_t, self.config.patch) if self.config.patch > 1 else x_t)
        skips: list[Tensor] = []
        for level in self.down:
            h, level_skips = level(h, embedding)
            skips += level_skips
        h = self.middle2(self.middle_attention(self.middle1(h, embedding)), embedding)
        for level in self.up:
            h = level(h, skips, embedding)
        answer = self.conv_out(F.silu(self.norm_out(h)))
        answer = F.pixel_shuffle(answer, self.config.patch) if self.config.patch > 1 else answer
        if self.refine is not None:
            answer = self.refine(answer, x_t.to(answer.dtype), embedding)
        return answer if self.v_schedule is None else eps_from_v(self.v_schedule, x_t, t, answer)
