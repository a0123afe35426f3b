"""Every measure of one intervention in one call, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from lessons_lib.counterfactuals import in_8_bits
from lessons_lib.evaluation.axioms import (
    Effectiveness,
    Minimality,
    Proximity,
    RealFeatures,
    Reversibility,
    composition,
    effectiveness,
    judge_return,
    minimality,
    proximity,
)
from lessons_lib.evaluation.interventions import (
    AT_ONCE,
    Counter,
    Intervention,
    Mean,
    Progress,
    check_labels,
    check_times,
    run,
)
from lessons_lib.evaluation.quality import FeatureStatistics, Share, feature_fid


@dataclass(frozen=True, eq=False)
class AxiomReport:
    """All measures of one intervention on the same images; what was not measured is None.

    Args:
        count: the number of originals.
        fid: feature FID of the counterfactuals against real images.
        fid_originals: that of the originals: what as many real images reach, though their classes may be
            mixed otherwise than the targets.
    """

    count: int
    effectiveness: Effectiveness
    composition: dict[int, Mean]
    reversibility: Reversibility
    proximity: Proximity
    minimality: Minimality | None
    fid: float | None
    fid_originals: float | None

    def as_json(self) -> dict:
        """Plain numbers, lists and None, for json.dumps."""
        found, back = self.effectiveness, self.reversibility
        matrix = None if found.matrix is None else _without_nan(found.matrix)
        counts = None if found.counts is None else found.counts.tolist()
        return {
            "num_images": self.count,
            "effectiveness": _share_json(found) | {"matrix": matrix, "counts": counts},
            "composition": {str(n): _mean_json(mean) for n, mean in self.composition.items()},
            "reversibility": {
                "read_as_source": _share_json(back.read_as_source),
                "error": _mean_json(back.error),
            },
            "proximity": {
                "l1": _mean_json(self.proximity.l1),
                "features": _mean_json(self.proximity.features),
                "unit": self.proximity.unit and round(self.proximity.unit, 5),
            },
            "minimality": self.minimality
            and {
                "pixels": _mean_json(self.minimality.pixels),
                "features": _mean_json(self.minimality.features),
            },
            "feature_fid": None if self.fid is None else round(self.fid, 4),
            "feature_fid_originals": None if self.fid_originals is None else round(self.fid_originals, 4),
        }


def measure_axioms(
    intervene: Intervention,
    evaluator: nn.Module,
    x_0: Tensor,
    source: Tensor,
    target: Tensor,
    reference: RealFeatures | None = None,
    statistics: FeatureStatistics | None = None,
    *,
    times: Sequence[int] = (1, 10),
    batch_size: int = AT_ONCE,
    progress: Progress | None = None,
) -> AxiomReport:
    """Every measure of an intervention, each image judged as the 8-bit picture that one would see.

    Args:
        x_0: [N, C, H, W] in [-1, 1], the originals.
        source, target: [N] int64, their classes and those asked for.
        reference: real images, for minimality and the unit of the feature distance.
        statistics: of real images, for the FID, which needs two originals.
        times: see `composition`; () leaves it out.
        batch_size: how many images the intervention is given at once.
        progress: called after each batch with the images done and to do, of all interventions together.

    Raises:
        ValueError: as the single measures.
    """
    check_labels(x_0, source, target)
    check_times(times)
    x_0 = in_8_bits(x_0)
    count = Counter(len(x_0) * (2 + max(times, default=0)), progress)
    there = run(intervene, x_0, source, target, batch_size, count)
    back = run(intervene, there, target, source, batch_size, count)
    nulls = composition(intervene, x_0, source, times, batch_size=batch_size, progress=count.from_here())
    with_fid = statistics is not None and len(x_0) > 1
    return AxiomReport(
        count=len(x_0),
        effectiveness=effectiveness(evaluator, there, target, source),
        composition=nulls,
        reversibility=judge_return(evaluator, x_0, source, back),
        proximity=proximity(evaluator, x_0, there, reference),
        minimality=None if reference is None else minimality(evaluator, x_0, there, target, reference),
        fid=feature_fid(evaluator, statistics, there) if with_fid else None,
        fid_originals=feature_fid(evaluator, statistics, x_0) if with_fid else None,
    )


def _share_json(share: Share) -> dict:
    low, high = share.interval
    rounded = {"value": round(share.value, 5), "interval_95": [round(low, 5), round(high, 5)]}
    return rounded | {"right": share.successes, "total": share.total}


def _mean_json(mean: Mean) -> dict:
    # JSON has no nan: one image has no interval.
    interval = [round(end, 5) for end in mean.interval] if mean.total > 1 else None
    return {"value": round(mean, 5), "interval_95": interval, "total": mean.total}


def _without_nan(matrix: Tensor) -> list[list[float | None]]:
    return [[None if value != value else round(value, 5) for value in row] for row in matrix.tolist()]
