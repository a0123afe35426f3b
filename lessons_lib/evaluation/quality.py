"""How good are drawn images? Accuracy, feature FID and diversity, judged by a network that did not draw them.

The judge is an argument: an Evaluator, or anything with `features(x_0) -> [B, F]` and `forward(x_0) -> logits
[B, K]`. Images are [N, C, H, W] in [-1, 1] everywhere. A figure of this module means something only beside
its judge, its number of samples and, for the FID, the floor that real images reach: see `Reference`.
"""

from __future__ import annotations

import math
import os
import zipfile
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

BATCH = 500


# -- accuracy --------------------------------------------------------------------------------------


def wilson_interval(successes: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95% interval of a share (Wilson 1927); unlike p ± 1.96 s it stays in [0, 1] and works for n of n.

    Raises:
        ValueError: if n < 1 or successes is not in 0 … n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"successes must be in 0 … n and n at least 1, got {successes} of {n}.")
    p = successes / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    # At the ends rounding could leave 1e-17 instead of 0 or 1.
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)


@dataclass(frozen=True)
class Share:
    """So many of so many; shown as "97.0% (95% interval 96.2 to 97.7)"."""

    successes: int
    total: int

    @property
    def value(self) -> float:
        """The share, in [0, 1]."""
        return self.successes / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95% interval (Wilson)."""
        return wilson_interval(self.successes, self.total)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.1f}% (95% interval {100 * low:.1f} to {100 * high:.1f})"


@dataclass(frozen=True)
class Accuracy:
    """The share of images read as their label: overall, and for each label that occurs."""

    overall: Share
    by_class: dict[int, Share]

    def __str__(self) -> str:
        return str(self.overall)


def accuracy(evaluator: nn.Module, images: Tensor, labels: Tensor, batch_size: int = BATCH) -> Accuracy:
    """How many images the evaluator reads as their label.

    Args:
        images: [N, C, H, W] in [-1, 1].
        labels: [N] int64, what each image should show.

    Raises:
        ValueError: if there are no images, or not one label an image.
    """
    if len(images) != len(labels) or len(labels) == 0:
        raise ValueError(
            f"There are {len(labels)} labels for {len(images)} images: one label an image is needed."
        )
    labels = labels.cpu()
    right = predictions(evaluator, images, batch_size) == labels
    by_class = {
        int(k): Share(int(right[labels == k].sum()), int((labels == k).sum())) for k in labels.unique()
    }
    return Accuracy(Share(int(right.sum()), len(labels)), by_class)


@torch.no_grad()
def predictions(evaluator: nn.Module, images: Tensor, batch_size: int = BATCH) -> Tensor:
    """images [N, C, H, W] -> [N] int64 on the CPU, the label that the evaluator reads in each."""
    return torch.cat([evaluator(_like(evaluator, x)).argmax(dim=1).cpu() for x in images.split(batch_size)])


def labels_by_frequency(frequencies: Tensor, n: int) -> Tensor:
    """n labels whose counts follow the frequencies as closely as whole numbers can, in order.

    MNIST has 1.24 times as many ones as fives; even classes alone would cost 0.1 of FID.

    Args:
        frequencies: [K], counts or shares.

    Returns:
        [n] int64.

    Raises:
        ValueError: if n < 1.
    """
    if n < 1:
        raise ValueError(f"The number of samples must be at least 1, got {n}.")
    wanted = frequencies.double() / frequencies.double().sum() * n
    counts = wanted.floor().long()
    missing = n - int(counts.sum())
    counts[(wanted - counts).argsort(descending=True, stable=True)[:missing]] += 1
    return torch.arange(len(counts)).repeat_interleave(counts)


# -- feature FID -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """Mean [F] and covariance [F, F] of a set's features, float64, and how many images it has."""

    mean: Tensor
    covariance: Tensor
    count: int


@torch.no_grad()
def features(evaluator: nn.Module, images: Tensor, batch_size: int = BATCH) -> Tensor:
    """images [N, C, H, W] -> [N, F] float64 on the CPU, the evaluator's features."""
    chunks = [evaluator.features(_like(evaluator, x)) for x in images.split(batch_size)]
    return torch.cat([chunk.cpu().double() for chunk in chunks])


def feature_statistics(evaluator: nn.Module, images: Tensor, batch_size: int = BATCH) -> FeatureStatistics:
    """The statistics of the images' features.

    Raises:
        ValueError: for fewer than two images, which have no covariance.
    """
    return _statistics(features(evaluator, images, batch_size))


def _statistics(found: Tensor) -> FeatureStatistics:
    if len(found) < 2:
        raise ValueError(f"Feature statistics need at least 2 images, got {len(found)}.")
    return FeatureStatistics(found.mean(dim=0), torch.cov(found.T), len(found))


def feature_fid(
    evaluator: nn.Module, reference: FeatureStatistics | Tensor, images: Tensor, batch_size: int = BATCH
) -> float:
    """The Fréchet distance of two sets of images in the evaluator's features (Heusel et al. 2017, eq. 6).

    |m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½), by torchmetrics in float64. It is biased: fewer images give a
    larger value, so compare only equal numbers of samples, against one reference.

    Args:
        reference: statistics of real images, or the images themselves [M, C, H, W].
        images: [N, C, H, W], what is judged.

    Raises:
        ValueError: for fewer than two images.
    """
    if isinstance(reference, Tensor):
        reference = feature_statistics(evaluator, reference, batch_size)
    return fid_of_features(reference, features(evaluator, images, batch_size))


def fid_of_features(reference: FeatureStatistics, found: Tensor) -> float:
    """As `feature_fid`, from features [N, F] in hand."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    if len(found) < 2:
        raise ValueError(f"The feature FID needs at least 2 images, got {len(found)}.")
    # Where several processes draw, one measures: torchmetrics must not wait for the others.
    metric = FrechetInceptionDistance(feature=_Given(len(reference.mean)), sync_on_compute=False)
    n, mean = reference.count, reference.mean.double()
    # The metric keeps sums: of the features, and of their outer products.
    metric.real_features_sum = n * mean
    metric.real_features_cov_sum = (n - 1) * reference.covariance.double() + n * torch.outer(mean, mean)
    metric.real_features_num_samples = torch.tensor(n)
    metric.update(found, real=False)
    return float(metric.compute())


def feature_kid(real: Tensor, found: Tensor, subsets: int = 20, seed: int = 0) -> tuple[float, float]:
    """The kernel distance of two sets of features, unlike the FID unbiased (Bińkowski et al. 2018, eq. 4).

    Args:
        real, found: [M, F] and [N, F], from `features`.
        subsets: random halves of the smaller set over which mean and standard deviation are taken.

    Raises:
        ValueError: for fewer than four features in one set.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(len(real), len(found)) // 2
    if size < 2:
        raise ValueError(f"The KID needs at least 4 images in each set, got {len(real)} and {len(found)}.")
    metric = KernelInceptionDistance(
        feature=_Given(real.shape[1]), subsets=subsets, subset_size=size, sync_on_compute=False
    )
    metric.update(real, real=True)
    metric.update(found, real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mean, std = metric.compute()
    return float(mean), float(std)


class _Given(nn.Module):
    """A "feature extractor" that is handed features: the images went through the evaluator already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, x: Tensor) -> Tensor:
        return x


# -- sharpness -------------------------------------------------------------------------------------


OCTAVES = (1 / 16, 1 / 8, 1 / 4, 1 / 2)  # their upper ends, in cycles a pixel


def octave_power(images: Tensor) -> Tensor:
    """Mean power of images [N, C, H, W] in each of the OCTAVES, all channels together: [4] float64.

    Each image's mean is taken out. Drawn over real pictures, below 1 is blurred there, above 1 grainy.
    """
    height, width = images.shape[2:]
    x = images.cpu().double()
    spectrum = torch.fft.fft2(x - x.mean(dim=(2, 3), keepdim=True)).abs().square().mean(dim=(0, 1))
    down, across = torch.fft.fftfreq(height), torch.fft.fftfreq(width)
    radius = torch.hypot(down[:, None], across[None, :])
    lower = (0.0, *OCTAVES)
    bands = [(radius > low) & (radius <= high) for low, high in zip(lower, OCTAVES, strict=False)]
    return torch.stack([spectrum[band].mean() for band in bands])


# -- diversity -------------------------------------------------------------------------------------


def class_spread(evaluator: nn.Module, images: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """How far apart the images of a class lie: [K] float64, nan for a class with fewer than two images.

    The root of the mean squared feature distance over all pairs of the class, sqrt(2 tr C): all
    N (N - 1) / 2 pairs, and none has to be made.
    """
    return _spread(features(evaluator, images), labels.cpu(), num_classes)


def _spread(found: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    spread = torch.full((num_classes,), math.nan, dtype=torch.float64)
    for k in range(num_classes):
        mine = found[labels == k]
        if len(mine) > 1:
            spread[k] = (2 * mine.var(dim=0).sum()).sqrt()
    return spread


def diversity(evaluator: nn.Module, images: Tensor, labels: Tensor, real_spread: Tensor) -> float:
    """How varied the images of a class are: their spread over that of real images, the mean over classes.

    1 is as varied as real images, 0 is one image over and over; guidance lowers it.

    Args:
        images, labels: [N, C, H, W] and [N].
        real_spread: [K] from `class_spread` of real images.

    Returns:
        nan if no class has two images.
    """
    return float((class_spread(evaluator, images, labels, len(real_spread)) / real_spread).nanmean())


# -- what real images reach ------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Reference:
    """What the evaluator makes of real images: all that FID and diversity are held against.

    Args:
        statistics: of the reference images.
        floor: feature FID of real images that are not in the reference: no model can be asked for less.
        floor_count: how many those are.
        spread: [K] of the reference images, see `class_spread`.
        class_counts: [K] images a class, of the whole training set.
        extractor: SHA-256 of the evaluator's weights; with another evaluator these numbers mean nothing.
        source: where the images come from: the name of a data set.
    """

    statistics: FeatureStatistics
    floor: float
    floor_count: int
    spread: Tensor
    class_counts: Tensor
    extractor: str
    source: str

    def save(self, file: str | os.PathLike | BinaryIO) -> None:
        """Write it as .npz."""
        s = self.statistics
        arrays = {
            "mean": s.mean,
            "covariance": s.covariance,
            "spread": self.spread,
            "class_counts": self.class_counts,
        }
        numbers = {"count": s.count, "floor": self.floor, "floor_count": self.floor_count}
        texts = {"extractor": self.extractor, "source": self.source}
        np.savez_compressed(file, **{k: v.numpy() for k, v in arrays.items()}, **numbers, **texts)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Reference:
        """Read what `save` wrote; nothing is unpickled.

        Raises:
            ValueError: if the file is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                got = {name: file[name] for name in file.files}
            mean, covariance, spread, counts = (
                torch.from_numpy(got[name]) for name in ("mean", "covariance", "spread", "class_counts")
            )
            statistics = FeatureStatistics(mean, covariance, int(got["count"]))
            numbers = float(got["floor"]), int(got["floor_count"])
            return cls(statistics, *numbers, spread, counts, str(got["extractor"]), str(got["source"]))
        except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"The reference statistics {path} are damaged: delete the file.") from error


def measure_reference(
    evaluator: nn.Module, images: Tensor, labels: Tensor, num_classes: int, *, extractor: str, source: str
) -> Reference:
    """Measure real training images: the first five sixths (of MNIST 50,000), and the rest for the floor.

    Args:
        images, labels: [N, C, H, W] in [-1, 1] and [N] int64.
        extractor, source: as in Reference.
    """
    return reference_of(features(evaluator, images), labels, num_classes, extractor=extractor, source=source)


def reference_of(found: Tensor, labels: Tensor, num_classes: int, extractor: str, source: str) -> Reference:
    """As `measure_reference`, from features [N, F] in hand: they fit into memory where the images do not."""
    cut = len(found) * 5 // 6
    statistics = _statistics(found[:cut])
    return Reference(
        statistics=statistics,
        floor=fid_of_features(statistics, found[cut:]),
        floor_count=len(found) - cut,
        spread=_spread(found[:cut], labels[:cut], num_classes),
        class_counts=labels.bincount(minlength=num_classes),
        extractor=extractor,
        source=source,
    )


def _like(evaluator: nn.Module, x: Tensor) -> Tensor:
    parameter = next(evaluator.parameters())
    return x.to(parameter.device, parameter.dtype)
