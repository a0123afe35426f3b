"""Networks that read images: a NoisyClassifier may guide; an Evaluator scores images, and never guides."""

import itertools
from dataclasses import KW_ONLY, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lessons_lib import unet
from lessons_lib.names import check_choice, refuse


@dataclass(frozen=True)
class _Shape:
    image_size: int = 28
    in_channels: int = 1
    widths: tuple[int, ...] = (32, 64, 128)
    num_classes: int = 10
    _: KW_ONLY
    patch: int = 1  # patch × patch pixels become one position with patch² times the channels
    multi_label: bool = False  # the logits are of yes-or-no attributes, not of classes of which one is right

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        size, patch = self.image_size, self.patch
        is_cut = patch < 1 or size % patch
        refuse({f"image_size {size} must be a multiple of patch, at least 1, got {patch}.": is_cut})


class _Reader(nn.Module):
    @torch.no_grad()
    def probabilities(self, *x: Tensor) -> Tensor:
        """[B, K] probabilities of the classes, or of each attribute; x as in forward; no gradients."""
        logits = self(*x).float()
        return logits.sigmoid() if self.config.multi_label else logits.softmax(dim=1)


@dataclass(frozen=True)
class EvaluatorConfig(_Shape):
    """The shape of an Evaluator; the last width is the number of features."""

    dropout: float = 0.2
    # "blocks" (the U-Net's residual blocks, for digits), "resnet9" (batch normalization and max-pooling, for
    # objects in colour) or "whitened" (plain convolutions after a fixed whitening).
    body: str = "blocks"
    mirror: bool = False  # once trained, take the mean of the features of each image and its mirror image

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("body", self.body, BODIES)


def _blocks(config: EvaluatorConfig) -> list[nn.Module]:
    first = config.widths[0]
    stem = nn.Conv2d(config.in_channels * config.patch**2, first, 3, padding=1)
    layers = [stem, unet.ResidualBlock(first, first, embedding_channels=0)]
    for narrow, wide in itertools.pairwise(config.widths):
        layers += unet.Downsample(narrow), unet.ResidualBlock(narrow, wide, embedding_channels=0)
    return [*layers, nn.SiLU()]


class ConvNorm(nn.Sequential):
    """A 3×3 convolution, max-pooling if asked for, batch normalization, a nonlinearity."""

    def __init__(
        self, in_channels: int, out_channels: int, pool: bool = False, nonlinearity: type[nn.Module] = nn.ReLU
    ) -> None:
        convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        halving = [nn.MaxPool2d(2)] if pool else []
        super().__init__(convolution, *halving, nn.BatchNorm2d(out_channels), nonlinearity())


class Shortcut(nn.Sequential):
    """x + the layers' answer to x."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def _resnet9(config: EvaluatorConfig) -> list[nn.Module]:
    """After Page 2018, "How to train your ResNet": most work is done where the image is small already."""
    widths = config.widths
    layers: list[nn.Module] = [ConvNorm(config.in_channels * config.patch**2, widths[0])]
    for narrow, wide in itertools.pairwise(widths):
        layers += ConvNorm(narrow, wide, pool=True), Shortcut(ConvNorm(wide, wide), ConvNorm(wide, wide))
    return layers


class Whitening(nn.Conv2d):
    """2×2 patches in coordinates of variance 1, each with both signs; set by `fit` and never trained."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 8 * channels, 2)
        self.weight.requires_grad_(False)

    @torch.no_grad()
    def fit(self, x_0: Tensor) -> None:
        """Set the weights from images x_0 [N, C, H, W]: eigenvectors of their patches' covariance."""
        patches = F.unfold(x_0.double(), 2).transpose(1, 2).flatten(0, 1)  # [N·L, 4 C]
        variances, directions = torch.linalg.eigh(torch.cov(patches.T))
        rows = (directions / (variances + 5e-4).sqrt()).T.reshape(-1, *self.weight.shape[1:])
        self.weight.copy_(torch.cat([rows, -rows]))


def _whitened(config: EvaluatorConfig) -> list[nn.Module]:
    """After Jordan 2024, "94% on CIFAR-10 in 3.29 seconds": nothing is computed at full resolution twice."""
    layers: list[nn.Module] = [Whitening(config.in_channels * config.patch**2), nn.GELU()]
    narrow = layers[0].out_channels
    for width in config.widths:
        layers += ConvNorm(narrow, width, pool=True, nonlinearity=nn.GELU)
        layers += ConvNorm(width, width, nonlinearity=nn.GELU)
        narrow = width
    return [*layers, nn.AdaptiveMaxPool2d(1)]


BODIES = {"blocks": _blocks, "resnet9": _resnet9, "whitened": _whitened}


class Evaluator(_Reader):
    """p(y given x_0): a classifier of clean images that only judges: the guiding one would be circular."""

    def __init__(self, config: EvaluatorConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or EvaluatorConfig()
        cut = [nn.PixelUnshuffle(config.patch)] if config.patch > 1 else []
        self.body = nn.Sequential(*cut, *BODIES[config.body](config), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        last = nn.Linear(config.widths[-1], config.num_classes)
        self.head = nn.Sequential(nn.Dropout(config.dropout), last)

    def features(self, x_0: Tensor) -> Tensor:
        """x_0 [B, C, H, W] in [-1, 1] -> [B, F], the features before the last layer: the FID's space."""
        features = self.body(x_0)
        if self.config.mirror and not self.training:
            features = (features + self.body(x_0.flip(3))) / 2
        return features

    def forward(self, x_0: Tensor) -> Tensor:
        """x_0 [B, C, H, W] in [-1, 1] -> logits [B, K]; ValueError for other shapes."""
        unet.check_shape(self.config, "x_0", x_0)
        return self.head(self.features(x_0))


@dataclass(frozen=True)
class NoisyClassifierConfig(_Shape):
    """The shape of a NoisyClassifier: the way down of a U-Net, with a head in place of the way up."""

    embedding_channels: int = 128
    dropout: float = 0.1


class NoisyClassifier(_Reader):
    """p(y given x_t, t): a classifier that is told how noisy its image is (Dhariwal & Nichol 2021, sec. 4).

    Every block is told t by FiLM, as in the U-Net: what is a stroke at t = 100 is noise at t = 600.
    """

    def __init__(self, config: NoisyClassifierConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or NoisyClassifierConfig()
        widths, hidden = config.widths, config.embedding_channels
        self.time_mlp = nn.Sequential(nn.Linear(2 * widths[0], hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.stem = nn.Conv2d(config.in_channels * config.patch**2, widths[0], 3, padding=1)
        pairs = itertools.pairwise((widths[0], *widths))
        self.blocks = nn.ModuleList(unet.ResidualBlock(*pair, hidden, config.dropout) for pair in pairs)
        self.resize = nn.ModuleList(unet.Downsample(width) for width in widths[:-1])
        self.attention = unet.SelfAttention(widths[-1])
        self.last = unet.ResidualBlock(widths[-1], widths[-1], hidden, config.dropout)
        self.norm_out = nn.GroupNorm(unet.num_groups(widths[-1]), widths[-1])
        self.head = nn.Linear(widths[-1], config.num_classes)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """x_t [B, C, H, W], t [B] int64 -> logits [B, K]; ValueError for other shapes."""
        unet.check_shape(self.config, "x_t", x_t)
        features = unet.timestep_embedding(t, 2 * self.config.widths[0])
        embedding = F.silu(self.time_mlp(features.to(self.time_mlp[0].weight.dtype)))
        h = self.stem(F.pixel_unshuffle(x_t, self.config.patch))
        for i, block in enumerate(self.blocks):
            h = block(h, embedding)
            h = self.resize[i](h) if i < len(self.resize) else h
        h = self.last(self.attention(h), embedding)
        return self.head(F.silu(self.norm_out(h)).mean(dim=(2, 3)))
