"""Flips and drifts of attributes against judges whose answers are known, its JSON, and the figures."""

import math

import pytest
import torch
from command_tools import Judge

from lessons_lib import evaluation

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ("red", "green", "blue")


# Reads each attribute as the mean of its colour: [-1, 1] becomes a probability.
CHANNELS = Judge(features=lambda x: x.mean((2, 3)), answers=lambda x: (x.mean((2, 3)) + 1) / 2)


def images(*rows):
    """An image a row, of one colour each: shares of red, green and blue in 255 steps of [0, 1]."""
    levels = torch.tensor(rows).view(-1, 3, 1, 1) / 255
    return (levels * 2 - 1).expand(-1, -1, 4, 6)


BEFORE = images((10, 250, 100), (20, 240, 100), (200, 30, 100), (220, 250, 100))
AFTER = images((250, 250, 100), (120, 100, 200), (90, 40, 100), (100, 250, 100))
TARGETS = torch.tensor([1, 1, 0, 0])


def flips(before=BEFORE, after=AFTER, targets=TARGETS, place=0, names=NAMES):
    return evaluation.measure_flips(CHANNELS, before, after, names, place, targets)


def test_flips_by_hand():
    found = flips()
    assert (found.flipped.successes, found.flipped.total) == (3, 4), "the second stays dark"
    per_image = [240 / 3, (100 + 140 + 100) / 3, (110 + 10) / 3, 120 / 3]
    assert found.l1 == pytest.approx(sum(per_image) / 4 / 255, abs=1e-6) and found.l1.total == 4
    green, blue = found.drifts
    assert (green.name, blue.name) == ("green", "blue"), "the asked one is left out, the largest is first"
    assert green.mean == pytest.approx((0 - 140 + 10 + 0) / 4 / 255, abs=1e-6)
    assert blue.mean == pytest.approx(100 / 4 / 255, abs=1e-6)
    assert green.changed.successes == blue.changed.successes == 1


def test_what_no_picture_holds_counts_for_nothing():
    """A hundredth of a grey level is gone once the picture is written."""
    level = 2 / 255
    assert flips(after=AFTER + 0.01 * level).l1 == flips().l1
    assert flips(after=BEFORE + 0.01 * level).l1 == 0
    just = images((127, 0, 0))
    found = flips(just, just + 0.49 * level, torch.tensor([1]))
    assert found.flipped.successes == 0, "0.4999 rounds to 127 of 255"


NO_IMAGES = {"before": BEFORE[:0], "after": AFTER[:0], "targets": TARGETS[:0]}
UNFIT = [
    (NO_IMAGES, "There are no images to measure."),
    ({"after": AFTER[:3]}, r"must have one shape, got \[4, 3, 4, 6\] and \[3, 3, 4, 6\]"),
    ({"after": AFTER[..., :4]}, "must have one shape"),
    ({"targets": TARGETS[:3]}, "There are 3 targets for 4 images."),
    ({"targets": TARGETS[:, None]}, "There are 4 targets for 4 images."),
    ({"after": AFTER * math.nan}, "not finite"),
    ({"names": NAMES[:2]}, "There are 2 names for 3 attributes."),
]


@pytest.mark.parametrize("changes, message", UNFIT)
def test_what_does_not_fit_is_one_sentence(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        flips(**changes)
    assert "\n" not in str(caught.value)
