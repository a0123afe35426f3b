"""What an intervention on one yes-or-no attribute reaches, and what else it changes.

The judge reads all attributes of an image at once: an Evaluator whose logits belong to attributes. An
attribute is read as yes from a probability of 0.5 on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lessons_lib.counterfactuals import in_8_bits
from lessons_lib.evaluation.interventions import Mean, check_pairs, l1_error
from lessons_lib.evaluation.quality import BATCH, Share, _like


@torch.no_grad()
def read_attributes(evaluator: nn.Module, images: Tensor, batch_size: int = BATCH) -> Tensor:
    """images [N, C, H, W] in [-1, 1] -> [N, A] float32 on the CPU, the probability of each attribute."""
    return torch.cat([evaluator.probabilities(_like(evaluator, x)).cpu() for x in images.split(batch_size)])


def share_of_yes(probabilities: Tensor) -> Share:
    """How many of probabilities [N] are read as yes.

    Raises:
        ValueError: if there are none.
    """
    if not len(probabilities):
        raise ValueError("There are no images to measure.")
    return Share(int((probabilities >= 0.5).sum()), len(probabilities))


@dataclass(frozen=True)
class Drift:
    """How an attribute was read before and after.

    Args:
        name: of the attribute.
        before, after: the share of images read as yes.
        changed: the share of images that are read otherwise than before.
        mean: of the change in probability; above 0 where the attribute came.
    """

    name: str
    before: Share
    after: Share
    changed: Share
    mean: Mean

    @classmethod
    def of(cls, name: str, before: Tensor, after: Tensor) -> Drift:
        """From the probabilities before and after, [N] each."""
        changed = int(((before >= 0.5) != (after >= 0.5)).sum())
        mean = Mean.of(after - before)
        return cls(name, share_of_yes(before), share_of_yes(after), Share(changed, len(before)), mean)


@dataclass(frozen=True)
class Flips:
    """Counterfactuals that asked for one attribute.

    Args:
        flipped: the share that is read as its target.
        l1: mean absolute change in [0, 1] pixels.
        drifts: of every attribute but the one asked for, the largest mean change first.
    """

    flipped: Share
    l1: Mean
    drifts: tuple[Drift, ...]


def measure_flips(
    evaluator: nn.Module,
    originals: Tensor,
    counterfactuals: Tensor,
    names: Sequence[str],
    place: int,
    targets: Tensor,
) -> Flips:
    """Did they reach the target, how far are they from the originals, and what else changed?

    Both are judged as the 8-bit pictures that one would see.

    Args:
        originals, counterfactuals: [N, C, H, W] in [-1, 1].
        names: A names, in the order of the evaluator's logits.
        place: of the attribute asked for.
        targets: [N], 1 or 0 for each.

    Raises:
        ValueError: if there are no images, or not one counterfactual and target each, or not one name an
            attribute.
    """
    check_pairs(originals, counterfactuals)
    if targets.shape != (len(originals),):
        raise ValueError(f"There are {targets.numel()} targets for {len(originals)} images.")
    originals, counterfactuals = in_8_bits(originals), in_8_bits(counterfactuals)
    before, after = (read_attributes(evaluator, images) for images in (originals, counterfactuals))
    if len(names) != before.shape[1]:
        raise ValueError(f"There are {len(names)} names for {before.shape[1]} attributes.")
    reached = (after[:, place] >= 0.5) == (targets.cpu() == 1)
    found = [Drift.of(name, before[:, k], after[:, k]) for k, name in enumerate(names) if k != place]
    return Flips(
        Share(int(reached.sum()), len(reached)),
        Mean.of(l1_error(originals, counterfactuals)),
        tuple(sorted(found, key=lambda drift: -abs(drift.mean))),
    )
