"""What an intervention on one yes-or-no attribute reaches, and what else it changes.

The judge is an Evaluator whose logits belong to attributes; 0.5 and more is a yes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from torch import Tensor, nn

from lessons_lib.counterfactuals import in_8_bits
from lessons_lib.evaluation.axioms import check_pairs, l1_error
from lessons_lib.evaluation.quality import Mean, Share, check_labels, in_batches
from lessons_lib.names import refuse


def read_attributes(evaluator: nn.Module, images: Tensor) -> Tensor:
    """images [N, C, H, W] in [-1, 1] -> [N, A] float32 on the CPU, the probability of each attribute."""
    return in_batches(evaluator, evaluator.probabilities, images)


def share_of_yes(probabilities: Tensor) -> Share:
    check_labels(probabilities)
    return Share.of(probabilities >= 0.5)


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
        return cls(name, share_of_yes(before), share_of_yes(after), changed, Mean.of(after - before))


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
    evaluator: nn.Module,
    x_0: Tensor,
    counterfactuals: Tensor,
    names: Sequence[str],
    place: int,
    targets: Tensor,
) -> Flips:
    """Did they reach the target, how far are they from the originals, and what else changed?

    All [N, C, H, W] are judged as the 8-bit pictures that one would see. The A names are in the order of the
    evaluator's logits, place is that of the attribute asked for, targets [N] are 1 or 0.
    """
    check_pairs(x_0, counterfactuals)
    refuse({f"There are {targets.numel()} targets for {len(x_0)} images.": targets.shape != (len(x_0),)})
    x_0, counterfactuals = in_8_bits(x_0), in_8_bits(counterfactuals)
    before, after = (read_attributes(evaluator, images) for images in (x_0, counterfactuals))
    refuse({f"There are {len(names)} names for {before.shape[1]} attributes.": len(names) != before.shape[1]})
    reached = (after[:, place] >= 0.5) == (targets.cpu() == 1)
    l1 = Mean.of(l1_error(x_0, counterfactuals))
    return Flips(Share.of(reached), l1, drifts(names, place, before, after))
