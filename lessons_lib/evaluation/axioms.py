"""How sound are counterfactuals? The axioms of Monteiro et al. (2023), proximity and minimality.

An intervention answers "what would these very images look like, were their class the target?" A sound one
reaches the target (effectiveness), changes nothing when the target is the source (composition) and can be
undone (reversibility); a useful one changes little besides (proximity, minimality). Each measure alone can be
had for nothing, as its docstring says: read them together.

Errors are mean absolute errors in [0, 1] pixels. A mean has a 95% interval over the images (normal), a share
has Wilson's; both are for new images of the same kind, not for another training of the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lessons_lib.counterfactuals import in_8_bits
from lessons_lib.evaluation.interventions import (
    AT_ONCE,
    Counter,
    Intervention,
    Mean,
    Progress,
    check_labels,
    check_pairs,
    check_times,
    chunks,
    l1_error,
    pixels,
    run,
    step,
)
from lessons_lib.evaluation.quality import BATCH, Share, _like, features, predictions


@dataclass(frozen=True, eq=False)
class Effectiveness(Share):
    """The share of counterfactuals read as their target, and the same for each pair of classes.

    Args:
        matrix: [K, K] float64, row the source, column the target; nan where there is no image. None if the
            sources were not told.
        counts: [K, K] int64, how many images each entry is of. None likewise.
    """

    matrix: Tensor | None = None
    counts: Tensor | None = None


@dataclass(frozen=True)
class Reversibility:
    """To the target and back: the share read as the source again, and the error to the original."""

    read_as_source: Share
    error: Mean


@dataclass(frozen=True)
class Proximity:
    """How far counterfactuals lie from their originals.

    Args:
        l1: mean absolute difference in [0, 1] pixels.
        features: mean distance in the evaluator's features, in units of `unit`.
        unit: the mean feature distance of two real images of different class; None if it was not told, and
            `features` is raw then.
    """

    l1: Mean
    features: Mean
    unit: float | None


@dataclass(frozen=True)
class Minimality:
    """The share of real images that would have been a smaller change, in pixels (L1) and in features."""

    pixels: Mean
    features: Mean


@dataclass(frozen=True, eq=False)
class RealFeatures:
    """Real images as the evaluator sees them: what distances are held against. See `real_features`.

    Args:
        pixels: [M, C * H * W] in [0, 1].
        features: [M, F] float64.
        labels: [M] int64.
        unit: the mean distance of two images of different class.
    """

    pixels: Tensor
    features: Tensor
    labels: Tensor
    unit: float


# -- single measures -------------------------------------------------------------------------------


def effectiveness(
    evaluator: nn.Module, images: Tensor, targets: Tensor, sources: Tensor | None = None
) -> Effectiveness:
    """How many counterfactuals the evaluator reads as their target (Monteiro et al. 2023).

    A constant image of the target class would score 100%: look at proximity beside it.

    Args:
        images: [N, C, H, W] in [-1, 1], the counterfactuals.
        targets, sources: [N] int64, the classes asked for and those of the originals.

    Raises:
        ValueError: if there are no images, or not one label an image.
    """
    check_labels(images, targets, *([] if sources is None else [sources]))
    targets = targets.cpu()
    right = predictions(evaluator, images) == targets
    matrix = counts = None
    if sources is not None:
        with torch.no_grad():
            num_classes = evaluator(_like(evaluator, images[:1])).shape[1]
        cell, cells = sources.cpu() * num_classes + targets, num_classes**2
        counts = cell.bincount(minlength=cells).view(num_classes, num_classes)
        matrix = cell.bincount(right.double(), minlength=cells).view_as(counts) / counts  # 0 / 0: nan
    return Effectiveness(int(right.sum()), len(right), matrix, counts)


def composition(
    intervene: Intervention,
    x_0: Tensor,
    source: Tensor,
    times: Sequence[int] = (1, 10),
    *,
    batch_size: int = AT_ONCE,
    progress: Progress | None = None,
) -> dict[int, Mean]:
    """The error after so many null interventions, "make this 3 a 3" (Monteiro et al. 2023).

    A null intervention should change nothing; what it does change adds up, so ten in a row show a drift that
    one hides.

    Args:
        x_0, source: [N, C, H, W] in [-1, 1] and [N] int64, the originals and their classes.
        times: after how many interventions to measure.

    Returns:
        For each number of times the mean absolute error to the original in [0, 1] pixels, with its interval.

    Raises:
        ValueError: if there are no images, not one label an image, or a number of times below 1.
    """
    check_labels(x_0, source)
    check_times(times)
    count = Counter(len(x_0) * max(times, default=0), progress)
    errors: dict[int, list[Tensor]] = {n: [] for n in sorted(times)}
    for x, y in chunks(batch_size, x_0, source):
        start = now = in_8_bits(x)
        for n in range(1, max(times, default=0) + 1):
            now = count(step(intervene, now, y, y))
            if n in errors:
                errors[n].append(l1_error(now, start))
    return {n: Mean.of(torch.cat(found)) for n, found in errors.items()}


def reversibility(
    intervene: Intervention,
    evaluator: nn.Module,
    x_0: Tensor,
    source: Tensor,
    target: Tensor,
    *,
    batch_size: int = AT_ONCE,
    progress: Progress | None = None,
) -> Reversibility:
    """To the target and back: is it the original again? (Monteiro et al. 2023.)

    The way back starts from the 8-bit counterfactual and nothing else.

    Args:
        x_0: [N, C, H, W] in [-1, 1], the originals.
        source, target: [N] int64.

    Raises:
        ValueError: if there are no images, or not one label an image.
    """
    check_labels(x_0, source, target)
    count = Counter(2 * len(x_0), progress)
    there = run(intervene, x_0, source, target, batch_size, count)
    return judge_return(evaluator, x_0, source, run(intervene, there, target, source, batch_size, count))


def judge_return(evaluator: nn.Module, x_0: Tensor, source: Tensor, back: Tensor) -> Reversibility:
    """What came back, [N, C, H, W], against the originals."""
    right = predictions(evaluator, back) == source.cpu()
    return Reversibility(Share(int(right.sum()), len(right)), Mean.of(l1_error(back, in_8_bits(x_0))))


def proximity(
    evaluator: nn.Module, x_0: Tensor, counterfactuals: Tensor, reference: RealFeatures | None = None
) -> Proximity:
    """How far counterfactuals lie from their originals, in pixels and in features.

    0 is no change at all, which an intervention that does nothing reaches: look at effectiveness beside it.

    Args:
        x_0, counterfactuals: [N, C, H, W] in [-1, 1], in the same order.
        reference: gives the unit of the feature distance: 1 is as far as two real images of different class.

    Raises:
        ValueError: if there are no images or the shapes differ.
    """
    check_pairs(x_0, counterfactuals)
    unit = None if reference is None else reference.unit
    distance = (features(evaluator, x_0) - features(evaluator, counterfactuals)).norm(dim=1)
    return Proximity(Mean.of(l1_error(x_0, counterfactuals)), Mean.of(distance / (unit or 1.0)), unit)


def minimality(
    evaluator: nn.Module, x_0: Tensor, counterfactuals: Tensor, targets: Tensor, reference: RealFeatures
) -> Minimality:
    """The share of real images of the target class that lie nearer to the original than its counterfactual.

    0: none of the real 8s lies nearer to this 3. 0.5: one taken at random would have done as well. It is the
    first term of the counterfactual latent divergence (Sanchez & Tsaftaris 2022), by which Melistas et al.
    (2024) measure minimality; its second term asks whether the source class was left, which effectiveness
    says.
    A classifier's features hold little but the class: in them all 8s are about as far, and the share can lie
    near 0.5 for a method that changes little. Pixels tell methods apart.

    Args:
        x_0, counterfactuals, targets: [N, C, H, W] twice and [N] int64, in the same order.
        reference: real images, at least one of each target class; not the originals themselves.

    Raises:
        ValueError: if there are no images, the shapes differ, or a target class has no real image.
    """
    check_pairs(x_0, counterfactuals)
    check_labels(x_0, targets)
    x, y = pixels(x_0), pixels(counterfactuals)
    start, end = features(evaluator, x_0), features(evaluator, counterfactuals)
    return Minimality(
        _share_nearer(x, y, targets.cpu(), reference.pixels, reference.labels, p=1),
        _share_nearer(start, end, targets.cpu(), reference.features, reference.labels, p=2),
    )


def _share_nearer(start: Tensor, end: Tensor, targets: Tensor, real: Tensor, labels: Tensor, p: int) -> Mean:
    nearer = torch.zeros(len(start), dtype=torch.float64)
    for k in targets.unique().tolist():
        mine, others = targets == k, real[labels == k]
        if len(others) == 0:
            raise ValueError(f"The reference has no real image of class {k}.")
        moved = torch.linalg.vector_norm(start[mine] - end[mine], ord=p, dim=1, keepdim=True)
        # The fast way by matrix products rounds: an image would not be as far as itself.
        away = torch.cdist(start[mine], others, p=p, compute_mode="donot_use_mm_for_euclid_dist")
        nearer[mine] = (away < moved * (1 - 1e-6)).double().mean(dim=1)
    return Mean.of(nearer)


def real_features(evaluator: nn.Module, images: Tensor, labels: Tensor) -> RealFeatures:
    """Real images [M, C, H, W] in [-1, 1] and labels [M], ready for `proximity` and `minimality`.

    A few thousand are enough; the unit is the mean over all their pairs of different class.

    Raises:
        ValueError: if there are no two images of different class, or not one label an image.
    """
    check_labels(images, labels)
    found, labels = features(evaluator, images), labels.cpu()
    total, pairs = 0.0, 0
    for rows, mine in zip(found.split(BATCH), labels.split(BATCH), strict=True):
        other = mine[:, None] != labels
        total += float(torch.cdist(rows, found)[other].sum())
        pairs += int(other.sum())
    if pairs == 0 or total == 0:
        raise ValueError("The reference needs real images of at least two classes that differ.")
    return RealFeatures(pixels(images), found, labels, total / pairs)
