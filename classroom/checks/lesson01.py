"""Exercises of lesson 01, adding noise: the betas behind a curve, and a jump between two noise levels.

Both are formulas. A wrong answer is named by working out the classic wrong formulas on the same numbers: the
one that gives what the learner's function gives is the learner's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from classroom.checks import running
from classroom.checks.judging import Exercise, NotReal, Wrong, close, expect_tensor

BETAS = {
    "first missing": "One beta is missing: abar has T entries, and the first of them needs its beta too.",
    "wrapped": "The first beta is made with the last abar: torch.roll and abar[-1] start again at the end.",
    "first": "Only the first beta is off: before the first step the image is clean, and abar is 1 there.",
    "shifted": "The betas are shifted by one place: beta_t leads from abar_{t-1} to abar_t.",
    "reversed": "The betas are in reversed order: the first belongs to t = 0, where abar is largest.",
    "turned": "The ratio is turned round: divide abar_t by the abar before it, so that it stays below 1.",
    "sign": "The sign is turned round: these betas are negative.",
    "alphas": "These are the alphas: each is 1 - beta, so one more step is needed.",
    "difference": "These are differences of neighbouring abar: the steps multiply, so take their ratio.",
    "cumulated": "1 - abar is the noise of all steps up to t: beta is the noise of one step alone.",
    "root": "There is a square root too many: abar is the product of the 1 - beta themselves.",
    "log": "These are differences of logarithms: they come near the betas only while the betas are small.",
    "cumprod": "torch.cumprod leads from the betas to abar: here the way back is asked.",
}
MORE = {
    "clean": "x is treated as a clean image: it holds noise already, so abar_next alone is not enough.",
    "difference": "The noise has variance abar - abar_next: x's own noise shrinks too, so more is missing.",
    "too much": "sqrt(1 - abar_next) is all the noise at the new level: part of it is in x already.",
    "old eps": "eps is taken for the noise that is in x: it is fresh, and x's own noise is not known.",
    "old level": "The factors belong to abar, the level that x has already: abar_next is to be reached.",
    "not shrunk": "x is not made smaller: the signal must shrink while the noise grows.",
    "root": "A square root is missing: an image is multiplied by the root of its share of the variance.",
    "outside": "1 - sqrt(…) multiplies eps: subtract from 1 first, then take the square root.",
    "exchanged": "The two factors are exchanged: a small step must leave x almost as it was.",
    "turned": "The ratio is turned round: abar_next is smaller than abar, so divide abar_next by abar.",
    "noise levels": "The ratio of the noise levels is used: what a step leaves is told by the signal, abar.",
    "sign": "The sign of eps is turned round: the noise is added.",
    "no noise": "eps is not used: x made smaller is not a noisier image.",
    "full noise": "eps is added at full strength: for a small step almost nothing of it may be added.",
    "clipped": "The result is clipped to [-1, 1]: noise leaves that range, and must.",
    "own noise": "Two calls give two results: use the eps that is handed over and draw no other.",
}

# ---- 01.1 ----

# Steep, so that every beta is far from 0 and the wrong formulas differ by more than rounding; below 0.999, so
# that a function that clips there as the library does is right too.
CURVES = (
    (0.9, 0.6, 0.52, 0.26, 0.2, 0.02),
    (0.5, 0.45, 0.4, 0.28, 0.07),
    tuple(math.cos((t + 1) / 13 * math.pi / 2) ** 2 for t in range(12)),
)


def _before(abar: Tensor) -> Tensor:
    return torch.cat([abar.new_ones(1), abar[:-1]])


def _betas(abar: Tensor) -> Tensor:
    return 1 - abar / _before(abar)


# Each takes abar and the abar before it; compared from t = 1 on, for the first beta is a mistake of its own.
WRONG_BETAS: list[tuple[str, Callable[[Tensor, Tensor], Tensor]]] = [
    ("turned", lambda a, b: 1 - b / a),
    ("turned", lambda a, b: b / a - 1),
    ("turned", lambda a, b: b / a),
    ("sign", lambda a, b: a / b - 1),
    ("alphas", lambda a, b: a / b),
    ("difference", lambda a, b: b - a),
    ("difference", lambda a, b: a - b),
    ("difference", lambda a, b: 1 - (b - a)),
    ("cumulated", lambda a, b: 1 - a),
    ("root", lambda a, b: 1 - (a / b).sqrt()),
    ("root", lambda a, b: (1 - a / b).sqrt()),
    ("root", lambda a, b: (a / b).sqrt()),
    ("log", lambda a, b: b.log() - a.log()),
    ("log", lambda a, b: a.log() - b.log()),
    ("cumprod", lambda a, b: torch.cumprod(1 - a, dim=0)),
    ("cumprod", lambda a, b: torch.cumprod(a, dim=0)),
    ("cumprod", lambda a, b: 1 - torch.cumprod(a, dim=0)),
    ("cumprod", lambda a, b: 1 - torch.cumprod(1 - a, dim=0)),
]


def examine_betas(function: Callable) -> str:
    """Exercise 01.1."""
    for curve in CURVES:
        abar = torch.tensor(curve, dtype=torch.float64)
        _check_betas(function(abar.clone()), abar)
    return "Every falling curve has its betas: draw the curve you want, and this gives the steps to it."


def _check_betas(result: Any, abar: Tensor) -> None:
    right, failure = _betas(abar), None
    if isinstance(result, Tensor) and tuple(result.shape) == (len(abar) - 1,) and not result.is_complex():
        value = result.detach().to("cpu", torch.float64)
        if close(value, right[1:]) or _formula_of(value, abar):
            raise Wrong(BETAS["first missing"])
    try:
        value = expect_tensor(result, tuple(abar.shape), "[T]")
    except NotReal as error:
        if result.is_complex():
            raise
        # A 0 put before abar makes the first beta infinite: the others tell what is wrong.
        failure, value = error, result.detach().to("cpu", torch.float64)
    if failure is None and close(value, right):
        return
    name = _name_of_betas(value, abar, right)
    if name is not None:
        raise Wrong(BETAS[name])
    raise failure or _first_wrong_beta(value, abar, right)


def _name_of_betas(value: Tensor, abar: Tensor, right: Tensor) -> str | None:
    if close(value[1:], right[1:]):
        return "wrapped" if close(value[:1], 1 - abar[:1] / abar[-1:]) else "first"
    if close(value[:-1], right[1:]) or close(value[1:], right[:-1]):
        return "shifted"
    if close(value.flip(0)[1:], right[1:]):
        return "reversed"
    return _formula_of(value[1:], abar)


def _formula_of(value: Tensor, abar: Tensor) -> str | None:
    """The wrong formula that gives these values at t = 1, 2, …"""
    for name, formula in WRONG_BETAS:
        if close(value, formula(abar, _before(abar))[1:]):
            return name
    return None


def _first_wrong_beta(value: Tensor, abar: Tensor, right: Tensor) -> Wrong:
    # From 1 on: where only the first is off, it has been named.
    t = next(t for t in range(1, len(abar)) if not close(value[t], right[t]))
    fall = f"at t = {t} abar falls from {abar[t - 1]:.3f} to {abar[t]:.3f}"
    return Wrong(f"The numbers are off: {fall}, so beta should be {right[t]:.3f}, got {value[t]:.3f}.")


# ---- 01.2 ----

SHAPE = (2, 3, 4, 5)  # [B, C, H, W], all different
AXES = "[B, C, H, W]"
# (abar, abar_next): from a clean image, a long jump, a short one, and one to almost nothing.
CASES = ((1.0, 0.6), (0.8, 0.3), (0.5, 0.45), (0.3, 1e-5))


def _root(value: float) -> float:
    return math.sqrt(value) if value >= 0 else math.nan


def _noise_part(a: float) -> float:
    return 1 - a if a < 1 else math.nan  # to divide by


# What multiplies x and what multiplies eps, from abar = a and abar_next = p.
WRONG_MORE: list[tuple[str, Callable[[float, float], tuple[float, float]]]] = [
    ("clean", lambda a, p: (_root(p), _root(1 - p))),
    ("clean", lambda a, p: (_root(p), _root(1 - p / a))),
    ("difference", lambda a, p: (_root(p / a), _root(a - p))),
    ("difference", lambda a, p: (_root(p), _root(a - p))),
    ("too much", lambda a, p: (_root(p / a), _root(1 - p))),
    ("old eps", lambda a, p: (_root(p / a), _root(1 - p) - _root(p / a) * _root(1 - a))),
    ("old level", lambda a, p: (_root(a), _root(1 - a))),
    ("not shrunk", lambda a, p: (1.0, _root(1 - p / a))),
    ("not shrunk", lambda a, p: (1.0, _root(a - p))),
    ("not shrunk", lambda a, p: (1.0, _root(1 - p))),
    ("root", lambda a, p: (p / a, _root(1 - p / a))),
    ("root", lambda a, p: (_root(p / a), 1 - p / a)),
    ("root", lambda a, p: (p / a, 1 - p / a)),
    ("root", lambda a, p: (p / a, _root(1 - (p / a) ** 2))),
    ("root", lambda a, p: (_root(p / a), a - p)),
    ("root", lambda a, p: (p / a, a - p)),
    ("root", lambda a, p: (p, 1 - p)),
    ("root", lambda a, p: (_root(p), 1 - p)),
    ("root", lambda a, p: (p, _root(1 - p))),
    ("outside", lambda a, p: (_root(p / a), 1 - _root(p / a))),
    ("exchanged", lambda a, p: (_root(1 - p / a), _root(p / a))),
    ("exchanged", lambda a, p: (_root(1 - p), _root(p))),
    ("turned", lambda a, p: (_root(a / p), _root(1 - p / a))),
    ("turned", lambda a, p: (_root(a / p), _root(a / p - 1))),
    ("turned", lambda a, p: (_root(a / p), _root(a - p))),
    ("noise levels", lambda a, p: (_root(p / a), _root(1 - (1 - a) / (1 - p)))),
    ("noise levels", lambda a, p: (_root((1 - a) / (1 - p)), _root(1 - (1 - a) / (1 - p)))),
    ("noise levels", lambda a, p: (_root(p / a), _root((1 - p) / _noise_part(a)))),
    ("sign", lambda a, p: (_root(p / a), -_root(1 - p / a))),
    ("no noise", lambda a, p: (_root(p / a), 0.0)),
    ("full noise", lambda a, p: (_root(p / a), 1.0)),
    ("full noise", lambda a, p: (1.0, 1.0)),
]
# With a root of a negative number there is nothing to compare. On a jump the other way round the root exists,
# and these are the factors that a function with the ratio turned round then shows.
TURNED = (
    lambda a, p: (_root(a / p), _root(1 - a / p)),
    lambda a, p: (_root(p / a), _root(1 - a / p)),
    lambda a, p: (_root(p), _root(1 - a / p)),
    lambda a, p: (1.0, _root(1 - a / p)),
)


def _right_more(a: float, p: float) -> tuple[float, float]:
    return _root(p / a), _root(1 - p / a)


def _images() -> tuple[Tensor, Tensor]:
    """x and eps."""
    generator = torch.Generator().manual_seed(1)
    return 1.5 * torch.randn(SHAPE, generator=generator), torch.randn(SHAPE, generator=generator)


def _mixed(factors: tuple[float, float]) -> Tensor:
    x, eps = _images()
    return factors[0] * x + factors[1] * eps


def examine_more(function: Callable) -> str:
    """Exercise 01.2."""
    failures: list[Exception] = []

    def run(abar: float, abar_next: float) -> Tensor:
        x, eps = _images()
        try:
            return expect_tensor(function(x, abar, abar_next, eps), SHAPE, AXES)
        except (NotReal, ZeroDivisionError, ValueError) as error:
            failures.append(error)
            # A wrong formula may have no value in one case and fit in the others.
            return torch.full(SHAPE, math.nan)

    values, expected = [run(*case) for case in CASES], [_mixed(_right_more(*case)) for case in CASES]
    if not failures and all(map(close, values, expected)):
        return "One long jump does what many small ones do together, and from abar = 1 it is q_sample."
    if all(bool(value.isnan().all()) for value in values):
        name = "turned" if _is_turned(function) else None
    else:
        name = _name_of_more(values, expected)
    if name is None and not failures and not close(run(*CASES[1]), values[1]):
        name = "own noise"
    if name is not None:
        raise Wrong(MORE[name])
    raise _unnamed(failures, function) if failures else _first_difference(values, expected)


def _name_of_more(values: list[Tensor], expected: list[Tensor]) -> str | None:
    for name, factors in WRONG_MORE:
        if all(close(value, _mixed(factors(*case))) for case, value in zip(CASES, values, strict=True)):
            return name
    if all(close(value, right.clamp(-1, 1)) for value, right in zip(values, expected, strict=True)):
        return "clipped"
    return None


def _is_turned(function: Callable) -> bool:
    a, p = 0.3, 0.9
    x, eps = _images()
    try:
        value = expect_tensor(function(x, a, p, eps), SHAPE, AXES)
    except Exception:  # it need not work on such a jump
        return False
    return any(close(value, _mixed(factors(a, p))) for factors in TURNED)


def _unnamed(failures: list[Exception], function: Callable) -> Exception:
    error = failures[0]
    if isinstance(error, ZeroDivisionError):
        why = "Something is divided by 0: for a clean image abar is 1, so do not divide by 1 - abar."
    elif isinstance(error, ValueError) and ("domain" in str(error) or "nonnegative" in str(error)):
        why = "The square root of a negative number is taken: abar_next is smaller than abar."
    else:
        return error
    return Wrong(why, running.line_of(error, running.code_of(function)))


def _first_difference(values: list[Tensor], expected: list[Tensor]) -> Wrong:
    differ = (i for i, value in enumerate(values) if not close(value, expected[i]))
    case, value, right = next((CASES[i], values[i], expected[i]) for i in differ)
    where = "with abar = {:g}, abar_next = {:g}".format(*case)
    basis = torch.stack([image.double().flatten() for image in _images()], dim=1)
    factors = torch.linalg.lstsq(basis, value.flatten()[:, None]).solution.flatten().tolist()
    if close(value, _mixed(tuple(factors))):
        got = "x is multiplied by {:.3f} and eps by {:.3f}".format(*factors)
        wanted = "{:.3f} and {:.3f}".format(*_right_more(*case))
        return Wrong(f"The numbers are off: {where}, {got}, which should be {wanted}.")
    first, wanted = float(value.flatten()[0]), float(right.flatten()[0])
    return Wrong(f"The numbers are off: {where}, the first pixel should be {wanted:.3f}, got {first:.3f}.")


EXERCISES = (
    Exercise(
        number="01.1",
        minutes=5,
        title="Which betas make this curve?",
        check_name="betas_of",
        arguments=("abar",),
        hints=(
            "abar_t is the product of 1 - beta over all steps up to t. What is left of the product if you "
            "divide it by the one before?",
            "abar_t = (1 - beta_t) abar_{t-1}, and before the first step abar is 1.",
            "before = torch.cat([____, abar[:-1]]) … return 1 - ____",
        ),
        examine=examine_betas,
        diagnoses=BETAS,
    ),
    Exercise(
        number="01.2",
        minutes=15,
        title="From one noise level to the next, without the clean image",
        check_name="noise_more",
        arguments=("x", "abar", "abar_next", "eps"),
        hints=(
            "x holds a signal of size sqrt(abar) and noise of variance 1 - abar. Multiply x by f: how much "
            "signal and how much noise are left, and how much noise is still missing?",
            "sqrt(abar_next) = f sqrt(abar) for the signal, and 1 - abar_next = f² (1 - abar) + g² for the "
            "noise, where x is multiplied by f and eps by g.",
            "kept = ____ … return math.sqrt(kept) * x + math.sqrt(____) * eps",
        ),
        examine=examine_more,
        diagnoses=MORE,
    ),
)
