"""How good are drawn images? Accuracy, feature FID and diversity, judged by a network that did not draw them.

The judge is an Evaluator, or anything with `features(x_0) -> [B, F]` and `forward(x_0) -> logits [B, K]`.
Images are [N, C, H, W] in [-1, 1]. A figure means something only beside its judge, its number of samples and,
for the FID, the floor that real images reach: see `Reference`.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Self

import numpy as np
import torch
from torch import Tensor, nn

from lessons_lib.names import refuse

BATCH = 500  # images that the judge looks at together
Z_95 = 1.959964  # 95% of a normal distribution lie within so many standard deviations


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """The 95% interval of a share (Wilson 1927); which stays in [0, 1] and works for n of n."""
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"successes must be in 0 … n and n at least 1, got {successes} of {n}.")
    p, z = successes / n, Z_95
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    # At the ends rounding could leave 1e-17 instead of 0 or 1.
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)


class Measurement(dict):
    """A share or a mean as it stands in JSON; in a text its value, or a share without a format in words."""

    def __format__(self, spec: str) -> str:
        return format(self["value"], spec) if spec else str(Share(self["right"], self["total"]))


@dataclass(frozen=True)
class Share:
    """So many of so many; shown as "97.0% (95% interval 96.2 to 97.7)"."""

    successes: int
    total: int

    @classmethod
    def of(cls, hits: Tensor) -> Self:
        """How many of hits [N] bool are true."""
        return cls(int(hits.sum()), len(hits))

    @property
    def value(self) -> float:
        return self.successes / self.total

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.successes, self.total)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.1f}% (95% interval {100 * low:.1f} to {100 * high:.1f})"

    def as_json(self) -> Measurement:
        value, interval = round(self.value, 5), [round(end, 5) for end in self.interval]
        return Measurement(value=value, interval_95=interval, right=self.successes, total=self.total)


class Mean(float):
    """A mean over images: a number with its total and its interval."""

    interval: tuple[float, float]  # the normal one of 95%; nan for one image
    total: int  # how many images it is of

    @classmethod
    def of(cls, values: Tensor) -> Self:
        """The mean of values [N]."""
        values = values.double()
        mean = cls(values.mean())
        half = Z_95 * float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        mean.interval, mean.total = (float(mean) - half, float(mean) + half), len(values)
        return mean

    def as_json(self, digits: int = 5) -> Measurement:
        """JSON has no nan, so one image has no interval."""
        interval = [round(end, digits) for end in self.interval] if self.total > 1 else None
        return Measurement(value=round(self, digits), interval_95=interval, total=self.total)


def check_labels(images: Tensor, *labels: Tensor) -> None:
    """Raise ValueError unless there are images and each has its labels."""
    refuse({"There are no images to measure.": not len(images)})
    for y in labels:
        if y.shape != (len(images),):
            counts = f"{y.numel()} labels for {len(images)} images"
            raise ValueError(f"There are {counts}: one label an image is needed.")


@dataclass(frozen=True)
class Accuracy:
    """The share of images read as their label: overall, and for each label that occurs."""

    overall: Share
    by_class: dict[int, Share]

    @classmethod
    def of(cls, read: Tensor, labels: Tensor) -> Self:
        """From what was read and what is right, [N] int64 each."""
        right = read == labels
        return cls(Share.of(right), {int(k): Share.of(right[labels == k]) for k in labels.unique()})

    def as_json(self, class_names: Sequence[str]) -> Measurement:
        by_class = {class_names[label]: share.as_json() for label, share in self.by_class.items()}
        return Measurement(self.overall.as_json(), by_class=by_class)

    def __str__(self) -> str:
        return str(self.overall)


def accuracy(evaluator: nn.Module, images: Tensor, labels: Tensor) -> Accuracy:
    """How many images the evaluator reads as their label; labels [N] int64."""
    check_labels(images, labels)
    return Accuracy.of(predictions(evaluator, images), labels.cpu())


def predictions(evaluator: nn.Module, images: Tensor) -> Tensor:
    """images [N, C, H, W] -> [N] int64 on the CPU, the label that the evaluator reads in each."""
    return in_batches(evaluator, evaluator, images).argmax(dim=1)


def read_attributes(evaluator: nn.Module, images: Tensor) -> Tensor:
    """images [N, C, H, W] -> [N, A] float32 on the CPU, the probability of each yes-or-no attribute."""
    return in_batches(evaluator, evaluator.probabilities, images)


def share_of_yes(probabilities: Tensor) -> Share:
    check_labels(probabilities)
    return Share.of(probabilities >= 0.5)


def labels_by_frequency(frequencies: Tensor, n: int) -> Tensor:
    """n labels [n] whose counts follow the frequencies [K] as closely as whole numbers can, in order.

    MNIST has 1.24 times as many ones as fives; even classes alone would cost 0.1 of FID.
    """
    refuse({f"The number of samples must be at least 1, got {n}.": n < 1})
    wanted = frequencies.double() / frequencies.double().sum() * n
    counts = wanted.floor().long()
    missing = n - int(counts.sum())
    counts[(wanted - counts).argsort(descending=True, stable=True)[:missing]] += 1
    return torch.arange(len(counts)).repeat_interleave(counts)


def features(evaluator: nn.Module, images: Tensor) -> Tensor:
    """images [N, C, H, W] -> [N, F] float64 on the CPU, the evaluator's features."""
    return in_batches(evaluator, evaluator.features, images).double()


@torch.no_grad()
def in_batches(evaluator: nn.Module, function: Callable, images: Tensor) -> Tensor:
    """A function of the evaluator's on all images, the result on the CPU."""
    answers = torch.cat([function(like(evaluator, x)).cpu() for x in images.split(BATCH)])
    refuse({"What the evaluator reads is not finite, nor are the images.": not answers.isfinite().all()})
    return answers


def like(evaluator: nn.Module, x: Tensor) -> Tensor:
    """x with the device and dtype of the evaluator's weights."""
    parameter = next(evaluator.parameters())
    return x.to(parameter.device, parameter.dtype)


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """Mean [F] and covariance [F, F] of a set's features, float64, and how many images it has."""

    mean: Tensor
    covariance: Tensor
    count: int

    @classmethod
    def of(cls, features: Tensor) -> Self:
        """From features [N, F]."""
        refuse({f"Feature statistics need at least 2 images, got {len(features)}.": len(features) < 2})
        return cls(features.mean(dim=0), torch.cov(features.T), len(features))


def feature_fid(evaluator: nn.Module, reference: FeatureStatistics | Tensor, images: Tensor) -> float:
    """The Fréchet distance to the reference's images in the evaluator's features (Heusel et al. 2017, eq. 6).

    |m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½), by torchmetrics in float64. It is biased: fewer images give a
    larger value, so compare only equal numbers of samples. The reference: statistics, or images [M, C, H, W].
    """
    if isinstance(reference, Tensor):
        reference = FeatureStatistics.of(features(evaluator, reference))
    return fid_of_features(reference, features(evaluator, images))


def fid_of_features(reference: FeatureStatistics, drawn: Tensor) -> float:
    """As `feature_fid`, from features [N, F] in hand."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    refuse({f"The feature FID needs at least 2 images, got {len(drawn)}.": len(drawn) < 2})
    # Where several processes draw, one measures: torchmetrics must not wait for the others.
    metric = FrechetInceptionDistance(feature=_in_hand(len(reference.mean)), sync_on_compute=False)
    n, mean = reference.count, reference.mean.double()
    # The metric keeps sums: of the features, and of their outer products.
    metric.real_features_sum = n * mean
    metric.real_features_cov_sum = (n - 1) * reference.covariance.double() + n * torch.outer(mean, mean)
    metric.real_features_num_samples = torch.tensor(n)
    metric.update(drawn, real=False)
    return float(metric.compute())


def feature_kid(real: Tensor, drawn: Tensor, subsets: int = 20, seed: int = 0) -> tuple[float, float]:
    """The kernel distance of features [M, F] and [N, F], unbiased (Bińkowski et al. 2018, eq. 4).

    Returns its mean and standard deviation over `subsets` random halves of the smaller set.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(len(real), len(drawn)) // 2
    refuse({f"The KID needs at least 4 images in each set, got {len(real)} and {len(drawn)}.": size < 2})
    extractor = _in_hand(real.shape[1])
    metric = KernelInceptionDistance(extractor, subsets=subsets, subset_size=size, sync_on_compute=False)
    metric.update(real, real=True)
    metric.update(drawn, real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mean, std = metric.compute()
    return float(mean), float(std)


def _in_hand(num_features: int) -> nn.Module:
    """A "feature extractor" that is handed features: the images went through the evaluator already."""
    extractor = nn.Identity()
    extractor.num_features = num_features
    return extractor


def class_spread(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """How far apart the images of a class lie: [K] float64, nan for a class with fewer than two images.

    The root of the mean squared distance of features [N, F] over all pairs of the class is sqrt(2 tr C).
    """
    by_class = [features[labels == k] for k in range(num_classes)]
    spread = [(2 * x.var(dim=0).sum()).sqrt() if len(x) > 1 else math.nan for x in by_class]
    return torch.tensor(spread, dtype=torch.float64)


def diversity(evaluator: nn.Module, images: Tensor, labels: Tensor, real_spread: Tensor) -> float:
    """How varied the images of a class are: their spread over real images' [K], the mean over classes.

    1 is as varied as real images, 0 one image over and over; guidance lowers it. nan if no class has two.
    """
    spread = class_spread(features(evaluator, images), labels.cpu(), len(real_spread))
    return float((spread / real_spread).nanmean())


@dataclass(frozen=True, eq=False)
class Reference:
    """What the evaluator makes of real images: all that FID and diversity are held against."""

    statistics: FeatureStatistics
    floor: float  # feature FID of real images that are not in the reference: no model can be asked for less
    floor_count: int  # how many those are
    spread: Tensor  # [K] of the reference images, see `class_spread`
    class_counts: Tensor  # [K] images a class, of the whole training set
    extractor: str  # SHA-256 of the evaluator's weights; with another evaluator these numbers mean nothing
    source: str  # the data set that the images come from

    @classmethod
    def of(cls, features: Tensor, labels: Tensor, num_classes: int, *, extractor: str, source: str) -> Self:
        """Of training images, features [N, F] and labels [N]: five sixths, and the rest for the floor."""
        cut = len(features) * 5 // 6  # of MNIST 50,000
        statistics = FeatureStatistics.of(features[:cut])
        floor, floor_count = fid_of_features(statistics, features[cut:]), len(features) - cut
        spread = class_spread(features[:cut], labels[:cut], num_classes)
        counts = labels.bincount(minlength=num_classes)
        return cls(statistics, floor, floor_count, spread, counts, extractor, source)

    def save(self, file: str | os.PathLike | BinaryIO) -> None:
        """Write it as .npz."""
        content = vars(self.statistics) | vars(self)
        del content["statistics"]
        np.savez_compressed(file, **{name: np.asarray(value) for name, value in content.items()})

    @classmethod
    def load(cls, path: str | os.PathLike) -> Self:
        """Read what `save` wrote; nothing is unpickled. ValueError for a damaged or another file."""
        try:
            with np.load(path, allow_pickle=False) as file:
                stored = {name: file[name] for name in file.files}
            content = {k: torch.from_numpy(v) if v.ndim else v.item() for k, v in stored.items()}
            statistics = FeatureStatistics(*(content.pop(name) for name in ("mean", "covariance", "count")))
            reference = cls(statistics, **content)
            if reference._could_be():
                return reference
        except Exception as error:  # zipfile and numpy have many words
            raise ValueError(f"The reference statistics {path} are damaged: delete the file.") from error
        raise ValueError(f"The reference statistics {path} are damaged: they cannot be of images.")

    def _could_be(self) -> bool:
        """Whether images could have these numbers; a class without two of them has the spread nan."""
        mean, covariance = self.statistics.mean, self.statistics.covariance
        spread, counts = self.spread, self.class_counts
        return bool(
            mean.isfinite().all() and covariance.isfinite().all() and (covariance.diag() >= 0).all()
            and covariance.shape == (len(mean), len(mean)) and torch.allclose(covariance, covariance.T)
            and not (spread <= 0).any() and not spread.isinf().any() and spread.shape == counts.shape
            and counts.dtype == torch.int64 and (counts >= 0).all() and 0 < self.floor < math.inf
            and 2 <= self.statistics.count == int(counts.sum()) - self.floor_count
            and isinstance(self.extractor, str) and isinstance(self.source, str)
        )  # fmt: skip
