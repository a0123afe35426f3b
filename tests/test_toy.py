"""The mixture of Gaussians: its formulas against automatic differentiation and Bayes' rule."""

import pytest
import torch
from numeric import seeded

from lessons_lib.schedules import NoiseSchedule, q_sample
from lessons_lib.toy import GaussianMixture

pytestmark = pytest.mark.numeric

SCHEDULE = NoiseSchedule.linear()
CLOUDS = GaussianMixture(torch.tensor([[-0.6, -0.3], [0.6, 0.3], [0.0, 0.9]], dtype=torch.float64), std=0.15)


def points(count=7):
    return torch.randn(count, 2, dtype=torch.float64, generator=seeded())


def test_scores_are_gradients_and_obey_bayes_rule():
    x, t = points().requires_grad_(), torch.full((7,), 250)
    log_p = CLOUDS.log_likelihoods(SCHEDULE, x, t).logsumexp(dim=1)
    (gradient,) = torch.autograd.grad(log_p.sum(), x)
    torch.testing.assert_close(CLOUDS.score(SCHEDULE, x.detach(), t), gradient)
    x, t, y = points().requires_grad_(), torch.full((7,), 400), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    log_p_y = CLOUDS.class_probabilities(SCHEDULE, x, t).log().gather(1, y[:, None])
    (gradient,) = torch.autograd.grad(log_p_y.sum(), x)
    x = x.detach()
    torch.testing.assert_close(CLOUDS.score(SCHEDULE, x, t, y), CLOUDS.score(SCHEDULE, x, t) + gradient)


def test_perfect_noise_is_the_mean_of_the_noise_given_x_t():
    """With one cloud of no width the noise in x_t is known: eps_fn must return it."""
    point = GaussianMixture(torch.tensor([[0.4, -0.2]], dtype=torch.float64), std=0.0)
    eps, t = points(), torch.full((7,), 300)
    x_t = q_sample(SCHEDULE, point.means.expand(7, 2), t, eps)
    torch.testing.assert_close(point.eps_fn(SCHEDULE)(x_t, t), eps)
