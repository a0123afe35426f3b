"""Classifier guidance against an exact classifier, held first; modes, dtypes; one sentence for misuse."""

import inspect
import types

import pytest
import torch
from command_tools import tiny_reader
from numeric import seeded
from torch import nn

from lessons_lib import guidance
from lessons_lib.guidance import class_log_prob, conditional, unconditional, with_cfg, with_classifier
from lessons_lib.schedules import NoiseSchedule, predict_x0, q_sample
from lessons_lib.toy import GaussianMixture

pytestmark = pytest.mark.numeric

LINEAR = NoiseSchedule.linear()
CLOUDS = GaussianMixture(torch.tensor([[-0.6, -0.3], [0.6, 0.3]], dtype=torch.float64), std=0.25)
X = torch.randn(8, 2, generator=seeded(), dtype=torch.float64)
T = torch.tensor([0, 20, 100, 250, 500, 700, 900, 999])
Y = torch.tensor([0, 1] * 4)


def bayes(x_t, t):
    """The exact classifier's logits."""
    return CLOUDS.log_likelihoods(LINEAR, x_t, t)


def guided(scale, module=guidance, y=Y, **options):
    base = CLOUDS.eps_fn(LINEAR)
    return module.with_classifier(base, module.class_log_prob(bayes, y), LINEAR, scale, **options)


class Clouds(nn.Module):
    """The perfect network for the two clouds; label 2 is null."""

    null_label = 2

    def forward(self, x_t, t, y=None):
        y = torch.full_like(t, 2) if y is None else y
        parts = torch.stack([CLOUDS.eps_fn(LINEAR, torch.full_like(t, k))(x_t, t) for k in (0, 1)], dim=1)
        own = parts[torch.arange(len(y)), y.clamp(max=1)]
        return torch.where((y == 2)[:, None], CLOUDS.eps_fn(LINEAR)(x_t, t), own)


def test_the_clouds_scores_are_gradients_and_obey_bayes_rule():
    x = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(bayes(x, T).logsumexp(dim=1).sum(), x)
    torch.testing.assert_close(CLOUDS.score(LINEAR, X, T), gradient)
    log_p_y = CLOUDS.class_probabilities(LINEAR, x, T).log().gather(1, Y[:, None])
    (gradient,) = torch.autograd.grad(log_p_y.sum(), x)
    torch.testing.assert_close(CLOUDS.score(LINEAR, X, T, Y), CLOUDS.score(LINEAR, X, T) + gradient)


def test_perfect_noise_is_the_mean_of_the_noise_given_x_t():
    """With one cloud of no width the noise in x_t is known: eps_fn must return it."""
    point = GaussianMixture(torch.tensor([[0.4, -0.2]], dtype=torch.float64), std=0.0)
    x_t = q_sample(LINEAR, point.means.expand(8, 2), T, X)
    torch.testing.assert_close(point.eps_fn(LINEAR)(x_t, T), X)


def assert_exact(module=guidance):
    expected = CLOUDS.eps_fn(LINEAR, Y)(X, T)
    torch.testing.assert_close(guided(1.0, module)(X, T), expected, rtol=0, atol=1e-10)


def test_at_scale_1_it_is_the_conditional_network():
    assert_exact()
    torch.testing.assert_close(guided(1.0)(X, T), conditional(Clouds(), Y)(X, T), rtol=0, atol=1e-10)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 2.0, 7.5])
def test_at_any_scale_it_is_classifier_free_guidance(scale):
    expected = with_cfg(Clouds(), Y, scale)(X, T)
    torch.testing.assert_close(guided(scale)(X, T), expected, rtol=0, atol=1e-10)


CLASSIC = {
    "sign": ("eps - scale * noise", "eps + scale * noise"),
    "no square root": ("scale * noise * _gradient", "scale * _gradient"),
    "square": ("scale * noise * _gradient", "scale * noise**2 * _gradient"),
    "mean": ("log_probs.sum()", "log_probs.mean()"),
    "unnormalized": ("F.log_softmax(logits, dim=1)", "logits"),
}


@pytest.mark.parametrize("mistake", CLASSIC)
def test_the_exact_answer_catches_the_classic_mistakes(mistake):
    right, wrong = CLASSIC[mistake]
    source = inspect.getsource(guidance)
    assert source.count(right) == 1
    mutant = types.ModuleType("mutant")
    exec(compile(source.replace(right, wrong), "mutant", "exec"), mutant.__dict__)
    with pytest.raises(AssertionError):
        assert_exact(mutant)


@pytest.mark.parametrize("interval", [(20, 500), (0, 0), (999, 2000), (0, 999)])
def test_the_interval_is_inclusive_and_masked_per_sample(interval):
    inside = ((interval[0] <= T) & (interval[1] >= T))[:, None]
    expected = torch.where(inside, guided(4.0)(X, T), CLOUDS.eps_fn(LINEAR)(X, T))
    torch.testing.assert_close(guided(4.0, interval=interval)(X, T), expected, rtol=0, atol=1e-12)


def test_the_grad_mode_is_off_for_the_eps_fn_and_restored_after_an_error():
    def strict(x_t, t):
        assert not torch.is_grad_enabled()
        return CLOUDS.eps_fn(LINEAR)(x_t, t)

    def broken(x_t, t):
        raise KeyError("mine")

    with_classifier(strict, class_log_prob(bayes, Y), LINEAR, 1.0)(X, T)
    with torch.no_grad():
        with pytest.raises(KeyError):
            with_classifier(strict, broken, LINEAR, 1.0)(X, T)
        assert not torch.is_grad_enabled()


def test_no_graph_is_left_behind():
    x, classifier = X.clone().requires_grad_(), torch.nn.Linear(2, 2).double().eval()
    log_prob_fn = class_log_prob(lambda x, t: classifier(x), Y)
    eps = with_classifier(unconditional(Clouds()), log_prob_fn, LINEAR, 2.0, (0, 999))(x, T)
    assert not eps.requires_grad and x.grad is None
    assert all(parameter.grad is None for parameter in classifier.parameters())


def test_inference_mode_is_refused_in_a_sentence():
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"needs a gradient: use torch\.no_grad"):
        guided(1.0)(X, T)
    with torch.inference_mode():
        made_there = X * 1
    assert torch.equal(guided(1.0)(made_there, T), guided(1.0)(X, T)), "a tensor from there is welcome"


def pixels(batch=4, dtype=torch.float32):
    return torch.randn(batch, 1, 8, 8, generator=torch.Generator().manual_seed(5)).to(dtype)


@pytest.mark.parametrize("x_dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("weights", [torch.bfloat16, torch.float32, torch.float64])
def test_it_keeps_the_dtype_and_shape_of_x(x_dtype, weights):
    classifier, x, seen = tiny_reader().to(weights), pixels(dtype=x_dtype), []

    def watched(x_t, t):
        found = class_log_prob(classifier, torch.tensor([0, 1, 2, 0]))(x_t, t)
        seen.append(found.dtype)
        return found

    eps = with_classifier(lambda x, t: x / 2, watched, LINEAR, 2.0)(x, torch.tensor([3, 30, 300, 900]))
    assert eps.dtype == x_dtype and eps.shape == x.shape and eps.isfinite().all()
    assert seen == [torch.promote_types(weights, torch.float32)], "log_softmax is never of half precision"


@pytest.mark.parametrize("value", [True, False, 1, 0, torch.tensor([1, 0, 1, 1]), torch.tensor([True] * 4)])
def test_an_attribute_is_wanted_or_not(value):
    classifier, t = tiny_reader().double(), torch.tensor([3, 30, 300, 900])
    yes = classifier(pixels(dtype=torch.float64), t)[:, 1].sigmoid()
    wanted = torch.as_tensor(value).expand(4).bool()
    found = guidance.attribute_log_prob(classifier, 1, value)(pixels(dtype=torch.float64), t)
    torch.testing.assert_close(found, torch.where(wanted, yes, 1 - yes).log(), rtol=0, atol=1e-12)


def test_an_estimates_gradient_goes_through_the_network():
    """A linear network and a linear classifier: the chain rule is one line."""
    weight = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)

    def eps_fn(x_t, t):
        return 0.3 * x_t

    log_prob_fn = guidance.x0_log_prob(lambda x_0: x_0 @ weight, eps_fn, LINEAR, Y)
    x = X.clone().requires_grad_()
    (found,) = torch.autograd.grad(log_prob_fn(x, T).sum(), x)
    signal, noise = LINEAR.signal_and_noise(T, X)
    x_0 = predict_x0(LINEAR, X, T, eps_fn(X, T))
    logits = x_0 @ weight
    by_logits = torch.nn.functional.one_hot(Y, 2) - logits.softmax(dim=1)
    torch.testing.assert_close(found, (by_logits @ weight.T) * (1 - 0.3 * noise) / signal)
    assert x_0.abs().max() > 1, "or a clipped estimate would look the same"
    torch.testing.assert_close(log_prob_fn(X, T), logits.log_softmax(1).gather(1, Y[:, None])[:, 0])


def test_scales_intervals_and_attributes_that_cannot_be_are_refused_at_once():
    for scale in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="must be finite and at least 0"):
            guided(scale)
    with pytest.raises(ValueError, match="0 <= t_low <= t_high"):
        guided(1.0, interval=(9, 3))
    with pytest.raises(ValueError, match="choose from 0 to 2"):
        guidance.attribute_log_prob(tiny_reader(), 3, True)(pixels(), torch.tensor([3, 30, 300, 900]))
    for wrong in (-1, 2, torch.tensor([1, -1])):
        with pytest.raises(ValueError, match="must be True or False"):
            guidance.attribute_log_prob(tiny_reader(), 0, wrong)


LOG_PROBS = {
    "class": class_log_prob,
    "x_0": lambda classifier, y: guidance.x0_log_prob(classifier, lambda x, t: x / 2, LINEAR, y),
    "attribute": lambda classifier, y: guidance.attribute_log_prob(classifier, 0, y),
}


@pytest.mark.parametrize("kind", LOG_PROBS)
def test_a_classifier_in_training_mode_and_labels_that_do_not_suit_are_refused(kind):
    make, y, t = LOG_PROBS[kind], torch.tensor([0, 1, 1, 0]), torch.tensor([3, 30, 300, 900])
    with pytest.raises(ValueError, match=r"training mode, where dropout makes noise: call its eval\(\)"):
        make(tiny_reader().train(), y)
    classifier = tiny_reader()
    log_prob_fn = make(classifier, y)
    classifier.train()
    with pytest.raises(ValueError, match="training mode"):
        log_prob_fn(pixels(), t)
    with pytest.raises(ValueError, match="3 labels for 4 samples"):
        make(tiny_reader(), y[:3])(pixels(), t)
    for wrong in (3, -1) if kind != "attribute" else ():
        with pytest.raises(ValueError, match="must be from 0 to 2"):
            make(tiny_reader(), torch.tensor([0, 1, wrong, 2]))(pixels(), t)


NO_GRADIENTS = [
    (lambda x, t: class_log_prob(bayes, Y)(x, t).mean(), r"one number a sample, \[8\], got \[\]"),
    (lambda x, t: bayes(x, t).log_softmax(1), r"one number a sample, \[8\], got \[8, 2\]"),
    (lambda x, t: class_log_prob(bayes, Y)(x.detach(), t), "no gradient in x_t"),
    (lambda x, t: torch.ones(8, requires_grad=True), "no gradient in x_t"),
]


@pytest.mark.parametrize("log_prob_fn, message", NO_GRADIENTS)
def test_a_log_prob_fn_that_gives_no_gradient_a_sample_is_refused(log_prob_fn, message):
    with pytest.raises(ValueError, match=message):
        with_classifier(CLOUDS.eps_fn(LINEAR), log_prob_fn, LINEAR, 1.0)(X, T)
