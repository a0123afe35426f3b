"""The U-Net that predicts the noise in x_t, from its parts up.

A small U-Net after Ho et al. 2020 and Dhariwal & Nichol 2021: residual blocks told about t and y by FiLM,
self-attention where the image is small, skips from the way down to the way up.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lessons_lib.names import refuse
from lessons_lib.schedules import NoiseSchedule, eps_from_v


# -- the parts -------------------------------------------------------------------------------------
def timestep_embedding(t: Tensor, channels: int) -> Tensor:
    """Sines and cosines of t at geometrically spaced frequencies (Vaswani et al. 2017, sec. 3.5).

    t [B] int64 -> [B, channels] float32: bfloat16 would keep only 507 of 1000 timesteps apart.
    """
    half = channels // 2
    k = torch.arange(half, dtype=torch.float32, device=t.device)
    angles = t.float()[:, None] * torch.exp(-math.log(10_000) * k / half)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def num_groups(channels: int) -> int:
    """The largest of 8, 16, 32 groups that divides the channels and leaves at least 4 in a group."""
    suited = [g for g in (32, 16, 8) if channels % g == 0 and channels // g >= 4]
    allowed = "a multiple of 8 and at least 32"
    refuse({f"Channels must be {allowed} for group normalization, got {channels}.": not suited})
    return suited[0]


def zeroed(layer: nn.Module) -> nn.Module:
    """The layer with zeros: at first its block adds nothing, and a deep network trains at once."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with a shortcut; the embedding scales and shifts the features between them.

    FiLM (Perez et al. 2018): h <- (1 + scale) norm(h) + shift, with scale and shift read off the embedding of
    t (and y). embedding_channels = 0 builds the block without it.
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
        self.conv2 = zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        is_wider = in_channels != out_channels
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if is_wider else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """x [B, C_in, H, W], embedding [B, E] -> [B, C_out, H, W]."""
        h = self.norm2(self.conv1(F.silu(self.norm1(x))))
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
        self.project = zeroed(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, C, H, W]."""
        batch, channels, height, width = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # [B, H·W, C]
        qkv = self.to_qkv(tokens).view(batch, height * width, 3, self.heads, channels // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # [B, heads, H·W, C/heads] each
        # Written out: for so few tokens as fast as the fused kernel, on a CPU in bfloat16 six times as fast.
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])  # [B, heads, H·W, H·W]
        mixed = (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)  # [B, H·W, C]
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
        self.conv2 = zeroed(nn.Conv2d(channels, image_channels, 3, padding=1))

    def forward(self, answer: Tensor, x_t: Tensor, embedding: Tensor) -> Tensor:
        """answer and x_t [B, C, H, W], embedding [B, E] -> [B, C, H, W]."""
        scale, shift = self.film(embedding)[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, self.conv1(torch.cat([answer, x_t], dim=1)), 1 + scale)
        return answer + self.conv2(F.silu(h))


# -- the network -----------------------------------------------------------------------------------
LEAST = {"patch": 1, "blocks_per_level": 1, "num_classes": 0}


@dataclass(frozen=True)
class UNetConfig:
    """The shape of a U-Net; the defaults are the digit model, and other sizes only change numbers."""

    image_size: int = 28  # height and width in pixels, a multiple of patch * 2**(levels - 1)
    in_channels: int = 1
    base_channels: int = 32
    channel_mults: tuple[int, ...] = (1, 2, 4)  # of base_channels; each further level halves the image
    blocks_per_level: int = 1  # residual blocks on the way down, and again on the way up
    attention_levels: tuple[int, ...] = ()  # 0 is full resolution; the middle always has self-attention
    num_classes: int = 10  # K labels; 0 builds an unconditional network
    embedding_channels: int = 128  # of t and y
    dropout: float = 0.0  # inside the residual blocks, in training only
    patch: int = 1  # patch × patch pixels become one position: a large image at the price of a small one
    # Of two last convolutions at full resolution, which see x_t beside the answer of the patches and mend the
    # seams; 0 leaves them out.
    refine_channels: int = 0
    # The last layer answers v of the schedule of this name with v_timesteps (Salimans & Ho 2022, app. D),
    # which becomes eps; empty: it answers eps.
    v_schedule: str = ""
    v_timesteps: int = 1000
    multi_label: bool = False  # the K labels are yes-or-no attributes, not classes of which one is right

    def __post_init__(self) -> None:
        # JSON cards hold lists; tuples keep the config hashable.
        object.__setattr__(self, "channel_mults", tuple(self.channel_mults))
        object.__setattr__(self, "attention_levels", tuple(self.attention_levels))
        for field, least in LEAST.items():
            value = getattr(self, field)
            refuse({f"{field} must be at least {least}, got {value}.": value < least})
        size, levels, attended = self.image_size, len(self.channel_mults), self.attention_levels
        shrink = self.patch * 2 ** max(levels - 1, 0)
        parts = f"{levels} levels" + (f" of patches of {self.patch} pixels" if self.patch > 1 else "")
        is_even, is_empty = levels and size % shrink == 0, self.multi_label and not self.num_classes
        refuse({
            f"image_size {size} must be a multiple of {shrink} for {parts}.": not is_even,
            f"attention_levels {attended} must be in 0 … {levels - 1}.": not {*attended} <= {*range(levels)},
            f"dropout must be in [0, 1), got {self.dropout}.": not 0 <= self.dropout < 1,
            "A network of attributes (multi_label) must have at least 1: num_classes is 0.": is_empty,
        })  # fmt: skip


def check_shape(config, name: str, x: Tensor) -> None:
    """Raise ValueError unless x, called so in the sentence, is [B, C, H, W] with the config's C, H and W."""
    size, channels = config.image_size, config.in_channels
    if x.shape[1:] != (channels, size, size):
        raise ValueError(f"{name} must have shape [B, {channels}, {size}, {size}], got {list(x.shape)}.")


class DownLevel(nn.Module):
    """Residual blocks at one resolution, attention if the config asks for it, halving but in the last."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        super().__init__()
        widths = [config.base_channels * m for m in config.channel_mults]
        first, width = widths[max(level - 1, 0)], widths[level]
        inputs, told = [first] + [width] * (config.blocks_per_level - 1), config.embedding_channels
        self.blocks = nn.ModuleList(ResidualBlock(w, width, told, config.dropout) for w in inputs)
        self.attention = SelfAttention(width) if level in config.attention_levels else nn.Identity()
        self.resize = Downsample(width) if level < len(widths) - 1 else nn.Identity()

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
        width, told, number = widths[level], config.embedding_channels, config.blocks_per_level
        self.blocks = nn.ModuleList(
            ResidualBlock(2 * width, width, told, config.dropout) for _ in range(number)
        )
        self.attention = SelfAttention(width) if level in config.attention_levels else nn.Identity()
        # Narrowed while it is enlarged: the widest convolutions never run at the finest resolution.
        self.resize = Upsample(width, widths[level - 1]) if level > 0 else nn.Identity()

    def forward(self, h: Tensor, skips: list[Tensor], embedding: Tensor) -> Tensor:
        for block in self.blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), embedding)
        return self.resize(self.attention(h))


class UNet(nn.Module):
    """Predicts the noise eps in x_t, told the timestep and, if it has classes, the label.

    One network is conditional and unconditional at once: `null_label` is "not told" (Ho & Salimans 2022).
    """

    def __init__(self, config: UNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or UNetConfig()
        widths = [config.base_channels * m for m in config.channel_mults]
        width, hidden = config.base_channels, config.embedding_channels
        self.time_mlp = nn.Sequential(nn.Linear(width * 2, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        labels, attributes = config.num_classes, config.multi_label
        # Row K of the table is the null label: "no class given".
        self.label_table = nn.Embedding(labels + 1, hidden) if labels and not attributes else None
        # Without a bias, so that what is untold adds nothing.
        self.attribute_linear = nn.Linear(2 * labels, hidden, bias=False) if attributes else None
        pixels = config.in_channels * config.patch**2  # channels of one position
        self.stem = nn.Conv2d(pixels, width, 3, padding=1)
        levels = range(len(widths))
        self.down = nn.ModuleList(DownLevel(config, level) for level in levels)
        self.middle1 = ResidualBlock(widths[-1], widths[-1], hidden, config.dropout)
        self.middle_attention = SelfAttention(widths[-1])
        self.middle2 = ResidualBlock(widths[-1], widths[-1], hidden, config.dropout)
        self.up = nn.ModuleList(UpLevel(config, level) for level in reversed(levels))
        self.norm_out = nn.GroupNorm(num_groups(width), width)
        self.conv_out = zeroed(nn.Conv2d(width, pixels, 3, padding=1))
        refine, v = config.refine_channels, config.v_schedule
        self.refine = Refine(config.in_channels, refine, hidden) if refine else None
        self.v_schedule = NoiseSchedule.by_name(v, config.v_timesteps) if v else None

    @property
    def null_label(self) -> int:
        """What y holds where nothing is told: num_classes, or -1 for an attribute."""
        return -1 if self.config.multi_label else self.config.num_classes

    def embed(self, t: Tensor, y: Tensor | None) -> Tensor:
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
        return F.silu(embedding)

    def _check_attributes(self, y: Tensor, batch: int) -> None:
        if self.attribute_linear is None:
            raise ValueError("This network has no classes (num_classes=0): y must be None.")
        wanted = [batch, self.config.num_classes]
        if list(y.shape) != wanted or y.dtype != torch.int64:
            raise ValueError(f"Attributes y must be {wanted} int64, got {list(y.shape)} {y.dtype}.")
        if not bool(((y >= -1) & (y <= 1)).all()):
            got = f"{int(y.min())} … {int(y.max())}"
            raise ValueError(f"Attributes y must be 1 (yes), 0 (no) or -1 (untold), got {got}.")

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Predict the noise in x_t [B, C, H, W] at t [B] int64: eps [B, C, H, W].

        y: [B] int64 labels in 0 … K, or with multi_label [B, K] int64, 1 yes, 0 no, -1 untold. None, K or all
        -1 is "not told". ValueError for other shapes, and for a y that the network has no use for.
        """
        check_shape(self.config, "x_t", x_t)
        answer = self.answer(x_t, self.embed(t, y))
        return answer if self.v_schedule is None else eps_from_v(self.v_schedule, x_t, t, answer)

    def answer(self, x_t: Tensor, embedding: Tensor) -> Tensor:
        """What the last layer says of x_t, eps or v, [B, C, H, W], told the embedding [B, E]."""
        h = self.stem(F.pixel_unshuffle(x_t, self.config.patch))
        skips: list[Tensor] = []
        for level in self.down:
            h, level_skips = level(h, embedding)
            skips += level_skips
        h = self.middle2(self.middle_attention(self.middle1(h, embedding)), embedding)
        for level in self.up:
            h = level(h, skips, embedding)
        answer = F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(h))), self.config.patch)
        return answer if self.refine is None else self.refine(answer, x_t.to(answer.dtype), embedding)
