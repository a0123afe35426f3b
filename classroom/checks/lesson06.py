"""Exercises of lesson 06, classifier guidance: the pull on the estimate, and one of several classes."""

import math
from collections.abc import Callable
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from classroom.checks.exercise import Exercise, variants
from classroom.checks.networks import image


def _pulled(
    factor: Callable[[float, float], float], of_x: Callable[[float, float], float] = lambda a, s: 1.0
):
    """What multiplies the gradient, and x_0, from abar and s."""
    return lambda x_0, gradient, abar, s: of_x(abar, s) * x_0 + factor(abar, s) * gradient


def _by_size(size: Callable[[Tensor], Tensor]) -> Callable:
    return lambda x_0, gradient, abar, s: x_0 + s * (1 - abar) / sqrt(abar) * gradient / size(gradient)


ORDINARY = (  # for each sample its logits and what is wanted; no two rows want equally many
    ((0.9, -0.4, 0.3, 1.6, -0.8), (0, 0, 0, 1, 1)),
    ((-0.2, 1.1, 0.7, -0.5, 0.4), (0, 1, 0, 0, 0)),
    ((0.2, 1.3, -0.6, 0.8, 0.5), (1, 0, 1, 1, 1)),
)
LARGE = (  # no two in a row are equal: there the gradient of a max or a clamp is a matter of taste
    ((-1500.0, 200.0, 0.0, -30.0), (1, 0, 0, 0)),
    ((-2000.0, 1000.0, 0.0, -30.0), (1, 0, 0, 0)),
    ((200.0, -200.0, 30.0, 0.0), (1, 1, 0, 0)),
    ((200.0, 199.0, -1000.0, 198.0), (1, 0, 1, 0)),
    ((1000.0, -1000.0, 1001.0, 30.0), (0, 0, 1, 1)),
    ((-1000.0, -1001.0, -999.0, -998.0), (0, 1, 1, 0)),
    ((-200.0, -201.0, -30.0, 0.0), (1, 1, 0, 0)),
)
EVERY = (((0.5, -1.0, 2.0), (1, 1, 1)), ((0.0, 0.3, -0.7), (1, 1, 1)))  # log 1


def _batch(*rows: tuple) -> tuple[Tensor, Tensor]:
    return torch.tensor([row[0] for row in rows]), torch.tensor([row[1] for row in rows], dtype=torch.bool)


def _over(values: Tensor, wanted: Tensor) -> Tensor:
    """log Σ exp of the wanted ones: [B]."""
    return values.masked_fill(~wanted, -math.inf).logsumexp(dim=1)


def _among(z: Tensor, w: Tensor) -> Tensor:
    """The log-probabilities if the softmax knows the wanted classes only."""
    return z.masked_fill(~w, -math.inf).log_softmax(1).masked_fill(~w, 0.0)


def _log_p(z: Tensor) -> Tensor:
    return z.log_softmax(dim=1)


def _p(z: Tensor, w: Tensor) -> Tensor:
    return z.softmax(dim=1) * w


EXERCISES = (
    Exercise(
        number="06.1",
        minutes=5,
        title="The pull on the estimate",
        check_name="pulled_estimate",
        arguments=("x_0 [B, C, H, W]", "gradient [B, C, H, W]", "abar", "s"),
        returns="[B, C, H, W]",
        hints=(
            "Guidance changes eps. By how much does x̂_0 change when eps changes and x_t stays as it is?",
            "eps' = eps - s sqrt(1 - abar) gradient, and x̂_0 = (x_t - sqrt(1 - abar) eps) / sqrt(abar): put "
            "the first into the second.",
            "return x_0 + s * ____ / ____ * gradient",
        ),
        praise="Guidance moves the picture that the network believes in: far in deep noise, hardly at the end.",
        cases=((0.3, 2.5), (0.85, 0.6)),
        given=lambda abar, s: (image(6, 1.2), image(7), abar, s),
        right=_pulled(lambda a, s: s * (1 - a) / sqrt(a)),
        wrong=variants(
            "The sign of the pull is turned round: guidance subtracts the gradient from eps, and so adds it "
            "to the estimate.",
            _pulled(lambda a, s: -s * (1 - a) / sqrt(a)),
            "The gradient is multiplied by s sqrt(1 - abar), which is what eps loses: put that into the "
            "formula of x̂_0.",
            *(_pulled(lambda a, s, sign=sign: sign * s * sqrt(1 - a)) for sign in (1, -1)),
            "1 - abar stands before the gradient without a square root: one root comes from the change of "
            "eps, the other from x̂_0.",
            *(_pulled(lambda a, s, sign=sign: sign * s * sqrt(1 - a) / sqrt(a)) for sign in (1, -1)),
            "The pull is not divided by sqrt(abar): the estimate is (x_t - sqrt(1 - abar) eps) / "
            "sqrt(abar), and eps is what changes.",
            *(_pulled(lambda a, s, power=power: s * (1 - a) / a**power) for power in (0, 1, -0.5)),
            "The factor 1 - abar is missing: where there is little noise guidance pulls little.",
            _pulled(lambda a, s: s / sqrt(a)),
            "This is a plain step along the gradient: how far it goes depends on abar too.",
            *(_pulled(lambda a, s, sign=sign: sign * s) for sign in (1, -1)),
            _pulled(lambda a, s: 1.0),
            "abar and 1 - abar are exchanged: the more noise, the stronger is the pull.",
            _pulled(lambda a, s: s * a / sqrt(1 - a)),
            _pulled(lambda a, s: s * sqrt(a) / (1 - a)),
            _pulled(lambda a, s: s * a),
            "s must multiply the pull, once: with a larger scale the pull grows, and at s = 0 nothing is pulled.",
            *(
                _pulled(lambda a, s, of=of: of(s) * (1 - a) / sqrt(a))
                for of in (lambda s: 1, lambda s: s * s)
            ),
            *(
                _pulled(lambda a, s, of=of: of(s) * (1 - a) / sqrt(a))
                for of in (lambda s: 1 + s, lambda s: 1 / s)
            ),
            "x_0 is divided or multiplied by sqrt(abar) too: it is an estimate already and not x_t, so "
            "only the pull has the factor.",
            *(
                _pulled(lambda a, s: s * (1 - a) / sqrt(a), lambda a, s, power=power: a**power)
                for power in (0.5, -0.5)
            ),
            _pulled(lambda a, s: s * sqrt(1 - a) / sqrt(a), lambda a, s: 1 / sqrt(a)),
            "The gradient is divided by its own size: keep it, for a sure classifier pulls less.",
            _by_size(lambda g: g.norm()),
            _by_size(lambda g: g.flatten(1).norm(dim=1).view(-1, 1, 1, 1)),
            _by_size(lambda g: g.norm(dim=1, keepdim=True)),
            _by_size(lambda g: g.abs().max()),
        ),
    ),
    Exercise(
        number="06.2",
        minutes=15,
        title="One of several",
        check_name="any_of",
        arguments=("logits [B, K]", "wanted [B, K]"),
        returns="[B]",
        hints=(
            "One image has one class. If you know the probability of a 3 and of a 5, what is the probability "
            "that it is one of them? And how is that written with log-probabilities?",
            "p(any) = Σ p_k over the wanted k, so log p(any) = log Σ exp(log p_k), where p comes from a "
            "softmax over all K classes. exp(-inf) = 0 takes a class out of a sum.",
            "log_p = logits.____(dim=1) … return log_p.____(____, -math.inf).____(dim=1)",
        ),
        praise="Now a classifier can ask for an even digit, or for anything but a seven, from the first step on.",
        cases=(ORDINARY, LARGE, EVERY),
        given=_batch,
        right=lambda z, w: _over(_log_p(z), w),
        gradient_of="logits",
        limits={
            1: "At large logits the result stops falling, as if something were clipped or masked by a number "
            "that is too small: what must not count is masked by -inf."
        },
        overflow="At large logits the result is infinite or NaN: softmax rounds to 0 and exp overflows, so "
        "use log_softmax and logsumexp.",
        shapes={
            "[B, K]": "Every class keeps a number of its own, [B, K]: add up the probabilities of each row.",
            "[K]": "The sum runs over the batch: add up along the classes, dim=1, which leaves one number a sample.",
        },
        wrong=variants(
            "The log-probabilities are added up, which asks for all the wanted classes at once: for "
            "one or the other the probabilities add up.",
            lambda z, w: (_log_p(z) * w).sum(1),
            lambda z, w: (_log_p(z) * w).sum(1) / w.sum(1),
            lambda z, w: _log_p(z).masked_fill(~w, -math.inf).sum(1),
            "The probabilities are averaged: one or the other is as likely as both together, so add them up.",
            lambda z, w: (_p(z, w).sum(1) / w.sum(1)).log(),
            lambda z, w: _p(z, w).mean(1).log(),
            "Only the likeliest wanted class counts: the others add their probability to it.",
            lambda z, w: _log_p(z).masked_fill(~w, -math.inf).amax(1),
            lambda z, w: _p(z, w).amax(1),
            "The probability is returned: take its logarithm.",
            lambda z, w: _p(z, w).sum(1),
            "The logits are taken as they are: only after log_softmax over all classes are they "
            "log-probabilities.",
            _over,
            lambda z, w: (z * w).sum(1),
            lambda z, w: z.masked_fill(~w, -math.inf).amax(1),
            "The softmax runs over the wanted classes only: take it over all of them, and mask after it.",
            lambda z, w: _over(_among(z, w), w),
            lambda z, w: _among(z, w).sum(1),
            "The softmax runs over the batch: the probabilities of one sample's classes must add up to 1.",
            lambda z, w: _over(z.log_softmax(0), w),
            "The classes that are not wanted are counted: masked_fill fills where its mask is True, so "
            "give it ~wanted.",
            lambda z, w: _over(_log_p(z), ~w),
            lambda z, w: 1 - _p(z, w).sum(1),
            "The others are multiplied by 0, and exp(0) = 1 still counts: a class that must not count needs "
            "-inf before exp.",
            lambda z, w: (_log_p(z) * w).logsumexp(1),
            lambda z, w: (z * w).logsumexp(1),
            lambda z, w: (z * w).logsumexp(1) - z.logsumexp(1),
            "Each class is taken for a yes or no of its own: one image has one class, so log_softmax makes "
            "the probabilities, and they add up.",
            lambda z, w: _over(F.logsigmoid(z), w),
            lambda z, w: (F.logsigmoid(z) * w).sum(1),
            lambda z, w: torch.log(1 - (1 - z.sigmoid() * w).prod(1)),
            lambda z, w: torch.log(1 - (1 - _p(z, w)).prod(1)),
        ),
    ),
)
