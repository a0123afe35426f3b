"""The measures of counterfactuals, on interventions whose every number is known by hand."""

import math

import pytest
import torch
from command_tools import Judge

from lessons_lib import evaluation
from lessons_lib.counterfactuals import in_8_bits

K, SIDE = 4, 4


# Reads the brightest row as the class; its features are the pixels in [0, 1].
JUDGE = Judge(features=lambda x_0: (x_0.flatten(1) + 1) / 2, answers=lambda x_0: x_0.sum(dim=(1, 3)))
TEMPLATES = torch.eye(K)[:, None, :, None].expand(K, 1, SIDE, SIDE) * 128 / 127.5  # 128 grey levels


def images(n, seed=0):
    """n "handwritings", grey columns of 20 to 84 of 255, on which a bright row says the class."""
    generator = torch.Generator().manual_seed(seed)
    style = torch.randint(20, 85, (n, 1, 1, SIDE), generator=generator)
    labels = torch.arange(n) % K
    return in_8_bits(style / 127.5 - 1 + TEMPLATES[labels]), labels


X, Y = images(24)
TARGET = (Y + 1 + torch.arange(24) // K % (K - 1)) % K  # every other class, in turn
REFERENCE = evaluation.real_features(JUDGE, *images(40, seed=1))


def identity(x, source, target):
    return x


def swap(x, source, target):
    """The perfect one: takes the source's template away and puts the target's."""
    return x - TEMPLATES[source] + TEMPLATES[target]


def constant(x, source, target):
    """The target's template on black, whatever the image."""
    return TEMPLATES[target] - 1


def brighter(x, source, target):
    """The perfect one, but each time 2 grey levels brighter."""
    return swap(x, source, target) + 2 / 127.5


def noisy(x, source, target):
    """The perfect one, and noise of plus or minus 4 grey levels."""
    generator = torch.Generator().manual_seed(int(x.sum() * 1000) % 9973)
    sign = torch.randint(0, 2, x.shape, generator=generator) * 2 - 1
    return swap(x, source, target) + sign * 4 / 127.5


class Hiding:
    """Cheats: keeps the original in some way and brings it back, though its images are all noise."""

    def __init__(self, way):
        self.way, self.last, self.kept = way, None, None

    def __call__(self, x, source, target):
        rest = x - in_8_bits(x)
        if (
            self.way == "remembers the tensor"
            and self.last is not None
            and x.data_ptr() == self.last.data_ptr()
        ):
            return self.kept
        if self.way == "attribute" and hasattr(x, "latent"):
            return x.latent
        if self.way == "last decimals" and rest.abs().max() > 1e-6:  # 1/100 of a grey level holds the image
            return rest * 12750
        found = in_8_bits(torch.rand(x.shape) - 0.5)
        if self.way == "last decimals":
            return found + x / 12750
        self.last, self.kept, found.latent = found, x.clone(), x.clone()
        return found


@pytest.mark.parametrize("way", ["remembers the tensor", "attribute", "last decimals"])
def test_no_latent_gets_through(way):
    cheat = Hiding(way)
    there = cheat(X, Y, TARGET)
    assert (cheat(there, TARGET, Y) - X).abs().mean() < 0.01, "without the rounding it would work"
    found = evaluation.reversibility(Hiding(way), JUDGE, X, Y, TARGET)
    assert found.error > 0.1 and found.read_as_source.value < 0.7
    assert evaluation.composition(Hiding(way), X, Y, (2,))[2] > 0.1


def test_effectiveness_and_its_matrix():
    found = evaluation.effectiveness(JUDGE, swap(X, Y, TARGET), TARGET, Y)
    assert (found.successes, found.total, found.value) == (24, 24, 1.0)
    assert found.interval == evaluation.wilson_interval(24, 24)
    assert found.counts.tolist() == [[0, 2, 2, 2], [2, 0, 2, 2], [2, 2, 0, 2], [2, 2, 2, 0]]
    assert found.matrix.isnan().equal(torch.eye(K, dtype=torch.bool))
    assert evaluation.effectiveness(JUDGE, X, TARGET, Y).successes == 0, "the identity reaches no target"
    half = torch.cat([swap(X, Y, TARGET)[:12], X[12:]])
    found = evaluation.effectiveness(JUDGE, half, TARGET, Y)
    assert found.value == 0.5 and "50.0%" in str(found)
    for i, j in zip(Y.tolist(), TARGET.tolist(), strict=True):
        mine = (i == Y) & (j == TARGET)
        assert found.matrix[i, j] == mine[:12].sum() / mine.sum()
    assert evaluation.effectiveness(JUDGE, half, TARGET).matrix is None


def test_composition_is_zero_for_the_perfect_and_the_idle_and_a_drift_grows():
    for intervene in (identity, swap):
        assert evaluation.composition(intervene, X, Y) == {1: 0.0, 10: 0.0}
    found = evaluation.composition(brighter, X, Y, (1, 2, 5, 10))
    assert [found[n] for n in (1, 2, 5, 10)] == pytest.approx([n * 2 / 255 for n in (1, 2, 5, 10)], rel=1e-4)
    found = evaluation.composition(noisy, X, Y)
    assert found[1] == pytest.approx(4 / 255, rel=1e-4)
    assert found[1] < found[10] < 40 / 255, "a random walk, not a drift"


def test_reversibility():
    found = evaluation.reversibility(swap, JUDGE, X, Y, TARGET)
    assert (found.read_as_source.value, found.error) == (1.0, 0.0)
    found = evaluation.reversibility(brighter, JUDGE, X, Y, TARGET)
    assert found.error == pytest.approx(4 / 255, rel=1e-4)
    found = evaluation.reversibility(constant, JUDGE, X, Y, TARGET)
    assert found.read_as_source.value == 1.0, "the class comes back"
    assert found.error == pytest.approx(float((X - constant(X, Y, Y)).abs().mean()) / 2, abs=1 / 255)
    one_way = evaluation.reversibility(
        lambda x, source, target: TEMPLATES[torch.zeros_like(target)] - 1, JUDGE, X, Y, TARGET
    )
    assert one_way.read_as_source.successes == 6, "only what was class 0"


def test_proximity():
    found = evaluation.proximity(JUDGE, X, identity(X, Y, TARGET), REFERENCE)
    assert (found.l1, found.features, found.unit) == (0.0, 0.0, REFERENCE.unit)
    found = evaluation.proximity(JUDGE, X, X + 5 / 127.5)
    assert found.l1 == pytest.approx(5 / 255, rel=1e-4) and found.unit is None
    assert found.features == pytest.approx(5 / 255 * 4, rel=1e-4), "16 pixels: the root of 16 squares"
    far = evaluation.proximity(JUDGE, X, constant(X, Y, TARGET), REFERENCE)
    near = evaluation.proximity(JUDGE, X, swap(X, Y, TARGET), REFERENCE)
    assert near.l1 == pytest.approx(128 / 255 / 2, rel=1e-4), "two rows of four change"
    assert near.l1 < far.l1 and near.features < 1 < far.features


def test_minimality_counts_by_hand():
    """One pixel: the original at 0, real images of class 1 at 0.2, 0.4, 0.6 and 0.8, and one of class 0."""
    at = torch.tensor([0.2, 0.4, 0.6, 0.8, 0.1]) * 2 - 1
    real = evaluation.real_features(JUDGE, at[:, None, None, None], torch.tensor([1, 1, 1, 1, 0]))
    x = torch.full((3, 1, 1, 1), -1.0)
    moved = torch.tensor([0.1, 0.5, 0.9])[:, None, None, None] * 2 - 1
    ones = torch.ones(3, dtype=torch.int64)
    found = [evaluation.minimality(JUDGE, x[:1], m[None], ones[:1], real) for m in moved]
    assert found == [evaluation.axioms.Minimality(share, share) for share in (0.0, 0.5, 1.0)]
    assert evaluation.minimality(JUDGE, x, moved, ones, real).pixels == 0.5
    with pytest.raises(ValueError, match="no real image of class 3"):
        evaluation.minimality(JUDGE, x, moved, ones * 3, real)


def test_the_report_agrees_with_the_single_measures():
    statistics = evaluation.FeatureStatistics.of(evaluation.features(JUDGE, images(40, seed=1)[0]))
    report = evaluation.measure_axioms(noisy, JUDGE, X, Y, TARGET, REFERENCE, statistics, batch_size=7)
    batches = zip(*(z.split(7) for z in (X, Y, TARGET)), strict=True)
    there = in_8_bits(torch.cat([noisy(*batch) for batch in batches]))
    assert report["num_images"] == 24 and report["effectiveness"]["value"] == 1.0
    assert report["effectiveness"] == evaluation.effectiveness(JUDGE, there, TARGET, Y).as_json()
    nulls = evaluation.composition(noisy, X, Y, batch_size=7)
    assert report["composition"] == {n: mean.as_json() for n, mean in nulls.items()}
    for name, found in {
        "reversibility": evaluation.reversibility(noisy, JUDGE, X, Y, TARGET, batch_size=7),
        "proximity": evaluation.proximity(JUDGE, X, there, REFERENCE),
        "minimality": evaluation.minimality(JUDGE, X, there, TARGET, REFERENCE),
    }.items():
        for part, value in report[name].items():
            mine = getattr(found, part)
            assert value == (pytest.approx(mine, abs=1e-5) if part == "unit" else mine.as_json()), part
    for name, shown in (("feature_fid", there), ("feature_fid_originals", X)):
        fid = evaluation.feature_fid(JUDGE, statistics, shown)
        assert report[name] == pytest.approx(fid, abs=1e-4)


def test_what_is_refused():
    for message, measure, *given in (
        ("no images", evaluation.composition, identity, X[:0], Y[:0]),
        ("3 labels for 24 images", evaluation.measure_axioms, identity, JUDGE, X, Y, TARGET[:3]),
        (r"at least 1, got \[0, 10\]", evaluation.composition, identity, X, Y, (0, 10)),
        (r"keep the shape \[24, 1, 4, 4\]", evaluation.composition, lambda x, *labels: x[:, :, :2], X, Y),
        ("not finite", evaluation.composition, lambda x, *labels: x / 0, X, Y),
        ("must have one shape", evaluation.proximity, JUDGE, X, X[:3]),
    ):
        with pytest.raises(ValueError, match=message):
            measure(*given)


# ---- flips and drifts of attributes ----
NAMES = ("red", "green", "blue")


# Reads each attribute as the mean of its colour: [-1, 1] becomes a probability.
CHANNELS = Judge(features=lambda x: x.mean((2, 3)), answers=lambda x: (x.mean((2, 3)) + 1) / 2)


def colours(*rows):
    """An image a row, of one colour each: shares of red, green and blue in 255 steps of [0, 1]."""
    levels = torch.tensor(rows).view(-1, 3, 1, 1) / 255
    return (levels * 2 - 1).expand(-1, -1, 4, 6)


BEFORE = colours((10, 250, 100), (20, 240, 100), (200, 30, 100), (220, 250, 100))
AFTER = colours((250, 250, 100), (120, 100, 200), (90, 40, 100), (100, 250, 100))
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
    just = colours((127, 0, 0))
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
