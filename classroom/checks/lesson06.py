"""Exercises of lesson 06, classifier guidance: the pull on the estimate, and one of several classes."""

import math
from collections.abc import Callable
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from classroom.checks.exercise import Exercise, variants
from classroom.checks.networks import image


def _pulled(factor: Callable[[float, float], float]) -> Callable:
    """What multiplies the gradient, from abar and s."""
    return lambda x_0, gradient, abar, s: x_0 + factor(abar, s) * gradient


# For each sample its logits and what is wanted; no two rows want equally many.
ORDINARY = (
    *(((0.9, -0.4, 0.3, 1.6, -0.8), (0, 0, 0, 1, 1)), ((-0.2, 1.1, 0.7, -0.5, 0.4), (0, 1, 0, 0, 0))),
    ((0.2, 1.3, -0.6, 0.8, 0.5), (1, 0, 1, 1, 1)),
)
LARGE = (  # no two in a row are equal: there the gradient of a max or a clamp is a matter of taste
    *(((-1500.0, 200.0, 0.0, -30.0), (1, 0, 0, 0)), ((-2000.0, 1000.0, 0.0, -30.0), (1, 0, 0, 0))),
    *(((200.0, 199.0, -1000.0, 198.0), (1, 0, 1, 0)), ((1000.0, -1000.0, 1001.0, 30.0), (0, 0, 1, 1))),
)
EVERY = (((0.5, -1.0, 2.0), (1, 1, 1)), ((0.0, 0.3, -0.7), (1, 1, 1)))  # log 1


def _batch(*rows: tuple) -> tuple[Tensor, Tensor]:
    return torch.tensor([row[0] for row in rows]), torch.tensor([row[1] for row in rows], dtype=torch.bool)


def _over(values: Tensor, wanted: Tensor) -> Tensor:
    """log Σ exp of the wanted ones: [B]."""
    return values.masked_fill(~wanted, -math.inf).logsumexp(dim=1)


PULLED_ESTIMATE = Exercise(
    heading="06.1 The pull on the estimate (5 min)",
    signature="pulled_estimate(x_0 [B, C, H, W], gradient [B, C, H, W], abar, s) -> [B, C, H, W]",
    question="Guidance changes eps. By how much does x̂_0 change when eps changes and x_t stays as it is?",
    formula="eps' = eps - s sqrt(1 - abar) gradient, and x̂_0 = (x_t - sqrt(1 - abar) eps) / sqrt(abar): "
    "put the first into the second.",
    blank="return x_0 + s * ____ / ____ * gradient",
    praise="Guidance moves the picture that the network believes in: far in deep noise, hardly at the end.",
    cases=((0.3, 2.5), (0.85, 0.6)),
    given=lambda abar, s: (image(6, 1.2), image(7), abar, s),
    right=_pulled(lambda a, s: s * (1 - a) / sqrt(a)),
    wrong=variants(
        "This is what eps loses, s sqrt(1 - abar) gradient: put that into the formula of x̂_0.",
        _pulled(lambda a, s: s * sqrt(1 - a)),
        "1 - abar has no square root here: one root comes from the change of eps, the other from x̂_0.",
        _pulled(lambda a, s: s * sqrt(1 - a) / sqrt(a)),
        "The pull must be divided by sqrt(abar), as the noise is in the formula of x̂_0.",
        _pulled(lambda a, s: s * (1 - a)),
        "The factor 1 - abar is missing: where there is little noise guidance pulls little.",
        _pulled(lambda a, s: s / sqrt(a)),
        "The gradient is divided by its own size: keep it, for a sure classifier pulls less.",
        lambda x_0, g, a, s: x_0 + s * (1 - a) / sqrt(a) * F.normalize(g.flatten(1)).view_as(g),
    ),
)
ANY_OF = Exercise(
    heading="06.2 One of several (15 min)",
    signature="any_of(logits [B, K], wanted [B, K]) -> [B]",
    question="One image has one class. If you know the probability of a 3 and of a 5, what is the "
    "probability that it is one of them? And how is that written with log-probabilities?",
    formula="p(any) = Σ p_k over the wanted k, so log p(any) = log Σ exp(log p_k), where p comes from a "
    "softmax over all K classes. exp(-inf) = 0 takes a class out of a sum.",
    blank="log_p = logits.____(dim=1) … return log_p.____(____, -math.inf).____(dim=1)",
    praise="Now a classifier can ask for an even digit, or anything but a seven, from the first step on.",
    cases=(ORDINARY, LARGE, EVERY),
    given=_batch,
    right=lambda z, w: _over(z.log_softmax(1), w),
    gradient_of="logits",
    limits={1: "At large logits the result is off, as if clipped: a class that must not count needs -inf."},
    overflow="At large logits the result is infinite or NaN: use log_softmax and logsumexp, which are not.",
    shapes={
        "[B, K]": "Every class keeps a number of its own, [B, K]: add up the probabilities of each row.",
        "[K]": "The sum runs over the batch: add up along the classes, dim=1, one number a sample.",
    },
    wrong=variants(
        "All the wanted classes at once are asked for: for one or the other the probabilities add up.",
        lambda z, w: (z.log_softmax(1) * w).sum(1),
        lambda z, w: z.log_softmax(1).masked_fill(~w, -math.inf).sum(1),
        "Only the likeliest wanted class counts: the others add their probability to it.",
        lambda z, w: z.log_softmax(1).masked_fill(~w, -math.inf).amax(1),
        "The probability is returned: take its logarithm.",
        lambda z, w: (z.softmax(1) * w).sum(1),
        "The logits are taken as they are: log_softmax over all classes makes them log-probabilities.",
        _over,
        "The classes that are not wanted count: masked_fill fills where its mask is True, give it ~wanted.",
        lambda z, w: _over(z.log_softmax(1), ~w),
        "The others are multiplied by 0, and exp(0) = 1 still counts: they need -inf before exp.",
        lambda z, w: (z.log_softmax(1) * w).logsumexp(1),
        "Each class is taken for a yes or no of its own: one image has one class, so take log_softmax.",
        lambda z, w: _over(F.logsigmoid(z), w),
    ),
)
EXERCISES = (PULLED_ESTIMATE, ANY_OF)
