"""metrics.py against closed forms and independent computations."""

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from command_tools import Judge

from lessons_lib import evaluation

pytestmark = pytest.mark.numeric


def pixels():
    """A judge whose features are the pixels themselves, and which reads the brightest pixel as the class."""
    return Judge(features=lambda x_0: x_0.flatten(1), answers=lambda x_0: x_0.flatten(1))


def gaussian(n, mean, factor, seed):
    """[n, 1, 1, F] float64 samples of N(mean, factor factorᵀ)."""
    noise = torch.randn(n, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (mean + noise @ factor.T)[:, None, None]


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (5, 10), (97, 100), (1, 1), (9967, 10_000)])
def test_wilson_interval(successes, n):
    expected = scipy.stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert evaluation.wilson_interval(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_accuracy_overall_and_by_class(monkeypatch):
    monkeypatch.setattr(evaluation.quality, "BATCH", 4)
    images = torch.eye(4)[torch.tensor([0, 0, 0, 1, 3, 3])][:, None, None]
    found = evaluation.accuracy(pixels(), images, torch.tensor([0, 0, 1, 1, 3, 2]))
    assert (found.overall.successes, found.overall.total) == (4, 6)
    by_class = {k: (s.successes, s.total) for k, s in found.by_class.items()}
    assert by_class == {0: (2, 2), 1: (1, 2), 2: (0, 1), 3: (1, 1)}
    assert str(found) == "66.7% (95% interval 30.0 to 90.3)"


def test_labels_follow_the_frequencies():
    mnist = torch.tensor([5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949])
    for n in (1, 7, 10, 997, 10_000, 60_000):
        labels = evaluation.labels_by_frequency(mnist, n)
        counts = labels.bincount(minlength=10)
        assert len(labels) == n and labels.dtype == torch.int64
        assert ((counts - mnist / 60_000 * n).abs() < 1).all()
    assert torch.equal(counts, mnist)
    assert evaluation.labels_by_frequency(torch.tensor([0.0, 2.0, 2.0]), 4).tolist() == [1, 1, 2, 2]
    with pytest.raises(ValueError, match="at least 1"):
        evaluation.labels_by_frequency(mnist, 0)


def test_fid_is_the_formula_on_the_sample_moments(monkeypatch):
    monkeypatch.setattr(evaluation.quality, "BATCH", 64)
    generator = torch.Generator().manual_seed(2)
    factors = torch.randn(2, 6, 6, generator=generator, dtype=torch.float64)
    real = gaussian(300, torch.zeros(6, dtype=torch.float64), factors[0], 3)
    drawn = gaussian(170, torch.ones(6, dtype=torch.float64), factors[1], 4)
    flat = [x.flatten(1) for x in (real, drawn)]
    (m1, c1), (m2, c2) = ((x.mean(0), torch.cov(x.T)) for x in flat)
    root = scipy.linalg.sqrtm((c1 @ c2).numpy())
    expected = float((m1 - m2).square().sum() + (c1 + c2).trace()) - 2 * np.trace(root.real)
    assert evaluation.feature_fid(pixels().double(), real, drawn) == pytest.approx(expected, rel=1e-9)
    statistics = evaluation.FeatureStatistics.of(evaluation.features(pixels().double(), real))
    assert evaluation.feature_fid(pixels().double(), statistics, drawn) == pytest.approx(expected, rel=1e-9)


@pytest.fixture
def reference():
    images = torch.randn(60, 1, 2, 2, generator=torch.Generator().manual_seed(8))
    labels = torch.arange(60) % 3
    features = evaluation.features(pixels(), images)
    return images, labels, evaluation.Reference.of(features, labels, 4, extractor="abc", source="mnist")


def test_reference_splits_five_to_one_and_survives_a_file(reference, tmp_path):
    images, labels, found = reference
    assert (found.statistics.count, found.floor_count) == (50, 10)
    assert found.floor == pytest.approx(evaluation.feature_fid(pixels(), images[:50], images[50:]))
    assert found.class_counts.tolist() == [20, 20, 20, 0]
    spread = evaluation.class_spread(evaluation.features(pixels(), images[:50]), labels[:50], 4)
    assert torch.equal(found.spread[:3], spread[:3])
    path, found = tmp_path / "reference.npz", reference[2]
    found.save(path)
    again = evaluation.Reference.load(path)
    for name in ("mean", "covariance", "count"):
        assert np.array_equal(getattr(again.statistics, name), getattr(found.statistics, name))
    assert np.array_equal(again.spread, found.spread, equal_nan=True)
    assert torch.equal(again.class_counts, found.class_counts)
    told = (again.floor, again.floor_count, again.extractor, again.source)
    assert told == (found.floor, 10, "abc", "mnist")


def test_damaged_reference_is_one_sentence(reference, tmp_path):
    path = tmp_path / "reference.npz"
    reference[2].save(path)
    content = path.read_bytes()
    unpickled = np.array([{}], dtype=object)
    for broken in (b"", content[:200], b"not an archive", content[:-300], np.zeros(3), unpickled):
        path.write_bytes(broken) if isinstance(broken, bytes) else np.savez(path, mean=broken)
        with pytest.raises(ValueError, match=r"reference\.npz are damaged"):
            evaluation.Reference.load(path)
