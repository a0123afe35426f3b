"""Exercises of lesson 01, adding noise: the betas behind a curve, and a jump between two noise levels."""

import math
from collections.abc import Callable
from math import sqrt

import torch
from torch import Tensor

from classroom.checks.exercise import Exercise, variants
from classroom.checks.networks import image

# Steep, so that every beta is far from 0; below 0.999, so that a function that clips there is right too.
CURVES = (
    (0.9, 0.6, 0.52, 0.26, 0.2, 0.02),
    (0.5, 0.45, 0.4, 0.28, 0.07),
    tuple(math.cos((t + 1) / 13 * math.pi / 2) ** 2 for t in range(12)),
)


def _before(abar: Tensor) -> Tensor:
    return torch.cat([abar.new_ones(1), abar[:-1]])


def _mixed(factors: Callable[[float, float], tuple[float, float]]) -> Callable:
    """What multiplies x and eps, from abar and abar_next."""

    def formula(x, abar, abar_next, eps):
        of_x, of_eps = factors(abar, abar_next)
        return of_x * x + of_eps * eps

    return formula


BETAS_OF = Exercise(
    heading="01.1 Which betas make this curve? (5 min)",
    signature="betas_of(abar [T]) -> [T]",
    question="abar_t is the product of 1 - beta over all steps up to t. What is left of the product if you "
    "divide it by the one before?",
    formula="abar_t = (1 - beta_t) abar_{t-1}, and before the first step abar is 1.",
    blank="before = torch.cat([____, abar[:-1]]) … return 1 - ____",
    praise="Every falling curve has its betas: draw the curve you want, and this gives the steps to it.",
    cases=tuple((curve,) for curve in CURVES),
    given=lambda curve: (torch.tensor(curve, dtype=torch.float64),),
    right=lambda a: 1 - a / _before(a),
    shapes={"[T-1]": "One beta is missing: abar has T entries, and the first of them needs its beta too."},
    wrong=variants(
        "Only the first beta is off: before the first step the image is clean, and abar is 1 there.",
        lambda a: torch.cat([a.new_zeros(1), 1 - a[1:] / a[:-1]]),
        lambda a: torch.cat([a[:1], 1 - a[1:] / a[:-1]]),
        "The ratio is turned round: divide abar_t by the abar before it, so that it stays below 1.",
        lambda a: 1 - _before(a) / a,
        "These are differences of neighbouring abar: the steps multiply, so take their ratio.",
        lambda a: _before(a) - a,
        "There is a square root too many: abar is the product of the 1 - beta themselves.",
        lambda a: 1 - (a / _before(a)).sqrt(),
        "torch.cumprod leads from the betas to abar: here the way back is asked.",
        lambda a: (1 - a).cumprod(0),
    ),
)
NOISE_MORE = Exercise(
    heading="01.2 From one noise level to the next, without the clean image (15 min)",
    signature="noise_more(x [B, C, H, W], abar, abar_next, eps [B, C, H, W]) -> [B, C, H, W]",
    question="x holds a signal of size sqrt(abar) and noise of variance 1 - abar. Multiply x by f: how much "
    "signal and how much noise are left, and how much noise is still missing?",
    formula="sqrt(abar_next) = f sqrt(abar) for the signal, and 1 - abar_next = f² (1 - abar) + g² for the "
    "noise, where x is multiplied by f and eps by g.",
    blank="kept = ____ … return math.sqrt(kept) * x + math.sqrt(____) * eps",
    praise="One long jump does what many small ones do together, and from abar = 1 it is q_sample.",
    # From a clean image, a long jump, a short one, and one to almost nothing.
    cases=((1.0, 0.6), (0.8, 0.3), (0.5, 0.45), (0.3, 1e-5)),
    given=lambda abar, abar_next: (image(1, 1.5), abar, abar_next, image(2)),
    right=_mixed(lambda a, p: (sqrt(p / a), sqrt(1 - p / a))),
    wrong=variants(
        "x is treated as a clean image: it holds noise already, so abar_next alone is not enough.",
        _mixed(lambda a, p: (sqrt(p), sqrt(1 - p))),
        "The noise has variance abar - abar_next: x's own noise shrinks too, so more is missing.",
        _mixed(lambda a, p: (sqrt(p / a), sqrt(a - p))),
        "sqrt(1 - abar_next) is all the noise at the new level: part of it is in x already.",
        _mixed(lambda a, p: (sqrt(p / a), sqrt(1 - p))),
        "eps is taken for the noise that is in x: it is fresh, and x's own noise is not known.",
        _mixed(lambda a, p: (sqrt(p / a), sqrt(1 - p) - sqrt(p / a) * sqrt(1 - a))),
    ),
)
EXERCISES = (BETAS_OF, NOISE_MORE)
