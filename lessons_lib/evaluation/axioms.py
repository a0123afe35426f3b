"""How sound are counterfactuals? The axioms of Monteiro et al. (2023), proximity, minimality; attributes.

An intervention takes (x_0 [N, C, H, W] in [-1, 1], source [N], target [N]) and answers "what would these very
images look like, were their class the target?", [N, C, H, W]. Errors are mean absolute errors in [0, 1]
pixels. Each measure alone can be had for nothing, as its docstring says: read them together.

Whatever an intervention is given has gone through `in_8_bits`, in a tensor of its own. Whoever keeps the
latent beside an image, or hides it in the last decimals, could bring every original back for nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from lessons_lib.counterfactuals import in_8_bits
from lessons_lib.evaluation import quality
from lessons_lib.evaluation.quality import FeatureStatistics, Mean, Measurement, Share, check_labels, features
from lessons_lib.names import refuse

AT_ONCE = 100  # images that an intervention is given together
Intervention = Callable[[Tensor, Tensor, Tensor], Tensor]


def step(intervene: Intervention, x: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """One intervention on one batch, from 8-bit pixels to 8-bit pixels."""
    # Copies: what the intervention writes into its input must not reach the original.
    changed = intervene(in_8_bits(x), source.clone(), target.clone())
    if changed.shape != x.shape:
        shapes = f"{list(x.shape)}, it returned {list(changed.shape)}"
        raise ValueError(f"An intervention must keep the shape {shapes}.")
    return in_8_bits(changed).to(x)


def _run(intervene: Intervention, x_0: Tensor, source: Tensor, target: Tensor, batch_size: int) -> Tensor:
    batches = zip(*(tensor.split(batch_size) for tensor in (x_0, source, target)), strict=True)
    return torch.cat([step(intervene, *batch) for batch in batches])


def l1_error(x: Tensor, y: Tensor) -> Tensor:
    """The mean absolute error of each image in [0, 1] pixels, [N] float64 on the CPU."""
    return (x - y.to(x)).abs().flatten(1).double().mean(dim=1).cpu() / 2


def check_pairs(x_0: Tensor, counterfactuals: Tensor) -> None:
    """Raise ValueError unless there are images and each has its counterfactual."""
    check_labels(x_0)
    if x_0.shape != counterfactuals.shape:
        shapes = f"{list(x_0.shape)} and {list(counterfactuals.shape)}"
        raise ValueError(f"Originals and counterfactuals must have one shape, got {shapes}.")


@dataclass(frozen=True, eq=False)
class Effectiveness(Share):
    """The share of counterfactuals read as their target; with the sources, for each pair of classes."""

    matrix: Tensor | None = None  # [K, K] float64, row the source, column the target; nan without an image
    counts: Tensor | None = None  # [K, K] int64, how many images each entry is of

    def as_json(self) -> Measurement:
        if self.matrix is None:
            return Measurement(super().as_json(), matrix=None, counts=None)
        rows = [[None if v != v else round(v, 5) for v in row] for row in self.matrix.tolist()]  # nan: None
        return Measurement(super().as_json(), matrix=rows, counts=self.counts.tolist())


def effectiveness(
    evaluator: nn.Module, images: Tensor, targets: Tensor, sources: Tensor | None = None
) -> Effectiveness:
    """How many counterfactuals the evaluator reads as their target (Monteiro et al. 2023).

    images [N, C, H, W] are counterfactuals; targets and sources, of the originals, [N]. A constant image of
    the target class would score 100%: look at proximity beside it.
    """
    check_labels(images, targets, *([] if sources is None else [sources]))
    targets = targets.cpu()
    right = quality.predictions(evaluator, images) == targets
    matrix = counts = None
    if sources is not None:
        with torch.no_grad():
            num_classes = evaluator(quality.like(evaluator, images[:1])).shape[1]
        cell, cells = sources.cpu() * num_classes + targets, num_classes**2
        counts = cell.bincount(minlength=cells).view(num_classes, num_classes)
        matrix = cell.bincount(right.double(), minlength=cells).view_as(counts) / counts  # 0 / 0: nan
    return Effectiveness(int(right.sum()), len(right), matrix, counts)


def composition(
    intervene: Intervention, x_0: Tensor, source: Tensor, times: Sequence[int] = (1, 10), *,
    batch_size: int = AT_ONCE,
) -> dict[int, Mean]:  # fmt: skip
    """The error after so many null interventions, "make this 3 a 3" (Monteiro et al. 2023), by `times`.

    What they change adds up, so ten in a row show a drift that one hides. x_0 [N, C, H, W], source [N].
    """
    check_labels(x_0, source)
    if min(times, default=1) < 1:
        raise ValueError(f"The numbers of null interventions must be at least 1, got {list(times)}.")
    errors, original = {}, in_8_bits(x_0)
    x = original
    for n in range(1, max(times, default=0) + 1):
        x = _run(intervene, x, source, source, batch_size)
        if n in times:
            errors[n] = Mean.of(l1_error(x, original))
    return errors


@dataclass(frozen=True)
class Reversibility:
    """To the target and back: the share read as the source again, and the error to the original."""

    read_as_source: Share
    error: Mean

    @classmethod
    def of(cls, evaluator: nn.Module, x_0: Tensor, source: Tensor, back: Tensor) -> Self:
        """What came back, [N, C, H, W], against the originals."""
        right = quality.predictions(evaluator, back) == source.cpu()
        return cls(Share.of(right), Mean.of(l1_error(back, in_8_bits(x_0))))


def reversibility(
    intervene: Intervention, evaluator: nn.Module, x_0: Tensor, source: Tensor, target: Tensor, *,
    batch_size: int = AT_ONCE,
) -> Reversibility:  # fmt: skip
    """To the target, and back from its 8-bit picture alone: the original again? (Monteiro et al. 2023.)"""
    check_labels(x_0, source, target)
    there = _run(intervene, x_0, source, target, batch_size)
    return Reversibility.of(evaluator, x_0, source, _run(intervene, there, target, source, batch_size))


@dataclass(frozen=True, eq=False)
class RealFeatures:
    """Real images as the evaluator sees them: what distances are held against. See `real_features`."""

    pixels: Tensor  # [M, C * H * W] in [0, 1]
    features: Tensor  # [M, F] float64
    labels: Tensor  # [M] int64
    unit: float  # the mean distance of two images of different class


def real_features(evaluator: nn.Module, images: Tensor, labels: Tensor) -> RealFeatures:
    """Real images [M, C, H, W] in [-1, 1] and labels [M], ready for `proximity` and `minimality`.

    A few thousand are enough; the unit is the mean over all their pairs of different class.
    """
    check_labels(images, labels)
    real, labels = features(evaluator, images), labels.cpu()
    total, pairs = 0.0, 0
    for x, y in zip(real.split(quality.BATCH), labels.split(quality.BATCH), strict=True):
        other = y[:, None] != labels
        total += float(torch.cdist(x, real)[other].sum())
        pairs += int(other.sum())
    refuse({"The reference needs real images of at least two classes that differ.": pairs == 0 or total == 0})
    return RealFeatures(_pixels(images), real, labels, total / pairs)


@dataclass(frozen=True)
class Proximity:
    l1: Mean  # mean absolute difference in [0, 1] pixels
    features: Mean  # mean distance in the evaluator's features, in units of `unit`
    unit: float | None  # the mean distance of two real images of different class; None: features are raw


def proximity(
    evaluator: nn.Module, x_0: Tensor, counterfactuals: Tensor, reference: RealFeatures | None = None
) -> Proximity:
    """How far counterfactuals [N, C, H, W] lie from their originals, in pixels and in features.

    0 is no change at all, which an intervention that does nothing reaches: look at effectiveness beside it.
    """
    check_pairs(x_0, counterfactuals)
    unit = None if reference is None else reference.unit
    distance = (features(evaluator, x_0) - features(evaluator, counterfactuals)).norm(dim=1)
    return Proximity(Mean.of(l1_error(x_0, counterfactuals)), Mean.of(distance / (unit or 1.0)), unit)


@dataclass(frozen=True)
class Minimality:
    """The share of real images that would have been a smaller change, in pixels (L1) and in features."""

    pixels: Mean
    features: Mean


def minimality(
    evaluator: nn.Module, x_0: Tensor, counterfactuals: Tensor, targets: Tensor, reference: RealFeatures
) -> Minimality:
    """The share of real images of the target class that lie nearer to the original than its counterfactual.

    0: none of the real 8s lies nearer to this 3. 0.5: one taken at random would have done as well. It is the
    first term of the counterfactual latent divergence (Sanchez & Tsaftaris 2022; Melistas et al. 2024); the
    second, whether the source class was left, is effectiveness. A classifier's features hold little but the
    class: in them the share can lie near 0.5 for a method that changes little. Pixels tell methods apart.
    The reference: real images, at least one of each target class; not the originals themselves.
    """
    check_pairs(x_0, counterfactuals)
    check_labels(x_0, targets)
    x, y = _pixels(x_0), _pixels(counterfactuals)
    start, end = features(evaluator, x_0), features(evaluator, counterfactuals)
    return Minimality(
        _share_nearer(x, y, targets.cpu(), reference.pixels, reference.labels, p=1),
        _share_nearer(start, end, targets.cpu(), reference.features, reference.labels, p=2),
    )


def _share_nearer(start: Tensor, end: Tensor, targets: Tensor, real: Tensor, labels: Tensor, p: int) -> Mean:
    nearer = torch.zeros(len(start), dtype=torch.float64)
    for k in targets.unique().tolist():
        ours, others = targets == k, real[labels == k]
        refuse({f"The reference has no real image of class {k}.": not len(others)})
        moved = torch.linalg.vector_norm(start[ours] - end[ours], ord=p, dim=1, keepdim=True)
        # The fast way by matrix products rounds: an image would not be as far as itself.
        away = torch.cdist(start[ours], others, p=p, compute_mode="donot_use_mm_for_euclid_dist")
        nearer[ours] = (away < moved * (1 - 1e-6)).double().mean(dim=1)
    return Mean.of(nearer)


def _pixels(x: Tensor) -> Tensor:
    """x [N, C, H, W] in [-1, 1] -> [N, C * H * W] float32 in [0, 1] on the CPU."""
    return ((x.detach().float() + 1) / 2).flatten(1).cpu()


def measure_axioms(
    intervene: Intervention, evaluator: nn.Module, x_0: Tensor, source: Tensor, target: Tensor,
    reference: RealFeatures | None = None, statistics: FeatureStatistics | None = None, *,
    times: Sequence[int] = (1, 10), null_images: int | None = None, batch_size: int = AT_ONCE,
) -> dict:  # fmt: skip
    """Every measure of an intervention for JSON, each image judged as the 8-bit picture that one would see.

    x_0 [N, C, H, W] are the originals, source and target [N] their classes and those asked for. The reference
    is for minimality and the unit of the feature distance; the statistics of real images for the FID of two
    images or more, beside that of the originals. times: see `composition`, of so many images.
    """
    check_labels(x_0, source, target)
    x_0 = in_8_bits(x_0)
    there = _run(intervene, x_0, source, target, batch_size)
    back = _run(intervene, there, target, source, batch_size)
    near = proximity(evaluator, x_0, there, reference)
    least = reference and minimality(evaluator, x_0, there, target, reference)
    fids = {"feature_fid": None, "feature_fid_originals": None}
    if statistics is not None and len(x_0) > 1:
        judged = zip(fids, (there, x_0), strict=True)
        fids = {name: round(quality.feature_fid(evaluator, statistics, x), 4) for name, x in judged}
    nulls = composition(intervene, x_0[:null_images], source[:null_images], times, batch_size=batch_size)
    return {
        "num_images": len(x_0),
        "effectiveness": effectiveness(evaluator, there, target, source).as_json(),
        "composition": {n: mean.as_json() for n, mean in nulls.items()},
        "reversibility": measurements(Reversibility.of(evaluator, x_0, source, back)),
        "proximity": measurements(near) | {"unit": near.unit and round(near.unit, 5)},
        "minimality": least and measurements(least),
        **fids,
    }


def measurements(measure: Reversibility | Proximity | Minimality) -> dict[str, Measurement]:
    return {name: part.as_json() for name, part in vars(measure).items() if isinstance(part, Mean | Share)}


@dataclass(frozen=True)
class Drift:
    """How an attribute was read before and after."""

    name: str
    before: Share  # of images read as yes
    after: Share
    changed: Share  # of images that are read otherwise than before
    mean: Mean  # of the change in probability; above 0 where the attribute came

    @classmethod
    def of(cls, name: str, before: Tensor, after: Tensor) -> Self:
        """From the probabilities before and after, [N] each."""
        changed = Share.of((before >= 0.5) != (after >= 0.5))
        shares = map(quality.share_of_yes, (before, after))
        return cls(name, *shares, changed, Mean.of(after - before))


def drifts(names: Sequence[str], place: int, before: Tensor, after: Tensor) -> tuple[Drift, ...]:
    """Of every attribute but that at `place`, the largest mean change first; before and after are [N, A]."""
    others = [Drift.of(name, before[:, k], after[:, k]) for k, name in enumerate(names) if k != place]
    return tuple(sorted(others, key=lambda drift: -abs(drift.mean)))


def drifts_json(drifts: Sequence[Drift]) -> dict:
    return {
        drift.name: {
            "mean": round(drift.mean, 4), "interval_95": drift.mean.as_json(4)["interval_95"],
            "read_as_yes": [round(share.value, 4) for share in (drift.before, drift.after)],
            "changed": round(drift.changed.value, 4),
        }
        for drift in drifts
    }  # fmt: skip


@dataclass(frozen=True)
class Flips:
    flipped: Share  # read as their target
    l1: Mean  # mean absolute change in [0, 1] pixels
    drifts: tuple[Drift, ...]  # of every other attribute, the largest mean change first

    def as_json(self) -> dict:
        drift = drifts_json(self.drifts)
        return {"flipped": self.flipped.as_json(), "l1": self.l1.as_json(), "drift": drift}


def measure_flips(
    evaluator: nn.Module, x_0: Tensor, counterfactuals: Tensor,
    names: Sequence[str], place: int, targets: Tensor,
) -> Flips:  # fmt: skip
    """Did interventions on one attribute reach the target, how much did they change, and what else?

    All [N, C, H, W] are judged as the 8-bit pictures that one would see. The A names are in the order of the
    evaluator's logits, place is that of the attribute asked for, targets [N] are 1 or 0.
    """
    check_pairs(x_0, counterfactuals)
    refuse({f"There are {targets.numel()} targets for {len(x_0)} images.": targets.shape != (len(x_0),)})
    x_0, counterfactuals = in_8_bits(x_0), in_8_bits(counterfactuals)
    before, after = (quality.read_attributes(evaluator, images) for images in (x_0, counterfactuals))
    refuse({f"There are {len(names)} names for {before.shape[1]} attributes.": len(names) != before.shape[1]})
    reached = (after[:, place] >= 0.5) == (targets.cpu() == 1)
    l1 = Mean.of(l1_error(x_0, counterfactuals))
    return Flips(Share.of(reached), l1, drifts(names, place, before, after))
