"""Exercises of lesson 04, sampling: the estimate of x_0 from the score, and one DDIM step.

Both are formulas. A wrong answer is named by working out the classic wrong formulas on the same numbers: the
one that gives what the learner's function gives is the learner's.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from classroom.checks import running
from classroom.checks.judging import Exercise, NotReal, Wrong, close, expect_tensor

SHAPE = (2, 3, 4, 5)  # [B, C, H, W], all different
AXES = "[B, C, H, W]"

TWEEDIE = {
    "sign": "The sign of the score is turned round: the score points towards cleaner images, so it is added.",
    "root": "1 - abar stands before the score without a square root: (1 - abar) · score.",
    "as eps": "The score is used as if it were eps: eps = -sqrt(1 - abar) · score.",
    "no division": "The division by sqrt(abar) is missing: x_t holds x_0 made smaller by that factor.",
    "abar": "The division is by abar: x_0 was multiplied by sqrt(abar), so divide by the square root.",
    "multiplied": "The result is multiplied by sqrt(abar): divide by it, to undo what q_sample did.",
}
STEP = {
    "direction": "sigma² is missing under the root before eps: without it the step ends with too much noise.",
    "eta 0": "eta is not used, as if it were always 0: sigma · noise must be added.",
    "eta 1": "sigma is there and eta is not: multiply sigma by eta, or the step is random at eta = 0 too.",
    "sigma not squared": "The root before eps holds sigma: it must hold sigma squared.",
    "variance": "The noise is multiplied by sigma squared: the standard deviation, sigma, belongs there.",
    "last step": "Noise is added in the last step: at abar_prev = 1 sigma must be 0 and the result is x̂_0.",
    "swapped": "abar and abar_prev are swapped: x̂_0 is read off at abar, and the result lies at abar_prev.",
    "x_t": "sqrt(abar_prev) multiplies x_t: it must multiply the estimate x̂_0.",
    "root": "A square root is missing: each abar and each 1 - abar that multiplies an image needs one.",
    "clipped": "The estimate is clipped to [-1, 1]: leave it as it is in this exercise.",
}


def _image(seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def _off_by(value: Tensor, expected: Tensor, case: str) -> Wrong:
    got, wanted = float(value.flatten()[0]), float(expected.flatten()[0])
    return Wrong(f"The numbers are off: with {case} the first pixel should be {wanted:.3f}, got {got:.3f}.")


# ---- 04.1 ----


def _tweedie(x_t: Tensor, score: Tensor, abar: float) -> Tensor:
    return (x_t + (1 - abar) * score) / math.sqrt(abar)


WRONG_TWEEDIE: dict[str, Callable] = {
    "sign": lambda x, s, a: (x - (1 - a) * s) / math.sqrt(a),
    "as eps": lambda x, s, a: (x - math.sqrt(1 - a) * s) / math.sqrt(a),
    "root": lambda x, s, a: (x + math.sqrt(1 - a) * s) / math.sqrt(a),
    "no division": lambda x, s, a: x + (1 - a) * s,
    "abar": lambda x, s, a: (x + (1 - a) * s) / a,
    "multiplied": lambda x, s, a: (x + (1 - a) * s) * math.sqrt(a),
}


def examine_tweedie(function: Callable) -> str:
    """Exercise 04.1."""
    for abar in (0.3, 0.85):
        inputs = (_image(1), _image(2, scale=1 / math.sqrt(1 - abar)), abar)
        value = expect_tensor(function(inputs[0].clone(), inputs[1].clone(), abar), SHAPE, AXES)
        if close(value, _tweedie(*inputs)):
            continue
        for name, formula in WRONG_TWEEDIE.items():
            if close(value, formula(*inputs)):
                raise Wrong(TWEEDIE[name])
        raise _off_by(value, _tweedie(*inputs), f"abar = {abar}")
    return "The score tells where the clean image lies: this is Tweedie's formula."


# ---- 04.2 ----


def _sigma(abar: float, abar_prev: float, eta: float) -> float:
    # max: the wrong formulas are worked out for steps the other way round too.
    return eta * math.sqrt(max((1 - abar_prev) / (1 - abar) * (1 - abar / abar_prev), 0.0))


def _root(value: float) -> float:
    return math.sqrt(value) if value >= 0 else math.nan


def _step(x_t, eps, noise, abar, abar_prev, eta, **wrong: Any) -> Tensor:
    """One step (Song et al. 2021, eqs. 12 and 16); each keyword replaces a part of it by a wrong one."""
    sigma = wrong.get("sigma", _sigma)(abar, abar_prev, eta)
    x_0 = (x_t - wrong.get("noise_root", _root)(1 - abar) * eps) / wrong.get("signal_root", _root)(abar)
    x_0 = wrong.get("estimate", lambda x_t, x_0: x_0)(x_t, x_0)
    under = 1 - abar_prev - wrong.get("removed", lambda sigma: sigma**2)(sigma)
    direction = wrong.get("direction_root", _root)(under) * eps
    return (
        wrong.get("next_root", _root)(abar_prev) * x_0
        + direction
        + wrong.get("added", lambda sigma: sigma)(sigma) * noise
    )


def _swapped(x_t, eps, noise, abar, abar_prev, eta) -> Tensor:
    """The two levels exchanged in x̂_0 and in the result, and not in sigma."""
    return _step(x_t, eps, noise, abar_prev, abar, eta, sigma=lambda a, p, eta: _sigma(p, a, eta))


def _same(value: float) -> float:
    return value


# In this order: the first that fits is named. Several roots can be the missing one.
WRONG_STEP: list[tuple[str, dict[str, Callable]]] = [
    ("direction", {"removed": lambda sigma: 0.0}),
    ("eta 0", {"sigma": lambda a, p, eta: 0.0}),
    ("eta 0", {"added": lambda sigma: 0.0}),
    ("eta 1", {"sigma": lambda a, p, eta: _sigma(a, p, 1.0)}),
    ("sigma not squared", {"removed": lambda sigma: sigma}),
    ("variance", {"added": lambda sigma: sigma**2}),
    ("x_t", {"estimate": lambda x_t, x_0: x_t}),
    ("clipped", {"estimate": lambda x_t, x_0: x_0.clamp(-1, 1)}),
    ("root", {"noise_root": _same}),
    ("root", {"signal_root": _same}),
    ("root", {"direction_root": _same}),
    ("root", {"next_root": _same}),
    ("root", {"noise_root": _same, "signal_root": _same}),
    ("root", {"direction_root": _same, "next_root": _same}),
    ("root", dict.fromkeys(("noise_root", "signal_root", "direction_root", "next_root"), _same)),
    ("root", {"sigma": lambda a, p, eta: eta * (1 - p) / (1 - a) * (1 - a / p)}),
    ("root", {"sigma": lambda a, p, eta: eta * math.sqrt((1 - p) / (1 - a)) * (1 - a / p)}),
    ("root", {"sigma": lambda a, p, eta: eta * (1 - p) / (1 - a) * math.sqrt(max(1 - a / p, 0.0))}),
    ("last step", {"sigma": lambda a, p, eta: eta * math.sqrt(max(1 - a / p, 0.0))}),
]
# (abar, abar_prev, eta): no noise, some, all, and the last step without and with eta.
CASES = ((0.3, 0.6, 0.0), (0.3, 0.6, 0.4), (0.5, 0.7, 1.0), (0.9, 1.0, 0.0), (0.9, 1.0, 1.0))


def examine_step(function: Callable) -> str:
    """Exercise 04.2."""
    images = _image(3, scale=1.5), _image(4), _image(5)  # x_t, eps, noise
    failures: list[Exception] = []

    def run(abar: float, abar_prev: float, eta: float) -> Tensor:
        x_t, eps, noise = (image.clone() for image in images)
        try:
            return expect_tensor(function(x_t, eps, abar, abar_prev, eta, noise), SHAPE, AXES)
        except (NotReal, ZeroDivisionError, ValueError) as error:
            failures.append(error)
            # A wrong formula may have no value in one case and fit in the others.
            return torch.full(SHAPE, math.nan)

    values, expected = [run(*case) for case in CASES], _results(images, _step)
    if not failures and all(map(close, values, expected)):
        return "One formula for DDIM and DDPM: eta says how much of the noise is drawn anew."
    name = _name_of_step(values, expected, images)
    if name is None and close(run(0.6, 0.3, 0.4), _step(*images, 0.3, 0.6, 0.4)):
        name = "swapped"  # it works for a step the other way
    if name is not None:
        raise Wrong(STEP[name])
    raise _unnamed(failures, function) if failures else _first_difference(values, expected)


def _results(images: tuple[Tensor, ...], formula: Callable) -> list[Tensor]:
    return [formula(*images, *case) for case in CASES]


def _name_of_step(values: list[Tensor], expected: list[Tensor], images: tuple[Tensor, ...]) -> str | None:
    if all(bool(value.isnan().all()) for value in values):
        return None
    for name, parts in WRONG_STEP:
        if all(map(close, values, _results(images, functools.partial(_step, **parts)))):
            return name
    if all(map(close, values, _results(images, _swapped))):
        return "swapped"
    if all(map(close, values[:3], expected[:3])):
        noise, extra = images[2].double(), values[4] - expected[4]
        share = (extra * noise).sum() / (noise * noise).sum()
        if abs(float(share)) > 1e-3 and close(extra, share * noise):
            return "last step"
    return None


def _unnamed(failures: list[Exception], function: Callable) -> Exception:
    error = failures[0]
    if isinstance(error, ValueError) and "domain" not in str(error) and "nonnegative" not in str(error):
        return error
    if isinstance(error, ZeroDivisionError):
        why = "Something is divided by 0: in the last step 1 - abar_prev is 0, so do not divide by it."
    else:
        why = "The square root of a negative number is taken: abar_prev is larger than abar."
    return Wrong(why, running.line_of(error, running.code_of(function)))


def _first_difference(values: list[Tensor], expected: list[Tensor]) -> Wrong:
    for case, value, right in zip(CASES, values, expected, strict=True):
        if not close(value, right):
            return _off_by(value, right, "abar = {}, abar_prev = {}, eta = {}".format(*case))
    raise AssertionError("no difference")


EXERCISES = (
    Exercise(
        number="04.1",
        minutes=5,
        title="From the score to the image",
        check_name="x0_from_score",
        arguments=("x_t", "score", "abar"),
        hints=(
            "You know how to get x̂_0 from x_t and eps. How do you get eps from the score?",
            "x̂_0 = (x_t - sqrt(1 - abar) eps) / sqrt(abar) and score = -eps / sqrt(1 - abar): put the second "
            "into the first.",
            "return (x_t + (____) * score) / ____",
        ),
        examine=examine_tweedie,
        diagnoses=TWEEDIE,
    ),
    Exercise(
        number="04.2",
        minutes=15,
        title="One step of DDIM, with eta",
        check_name="ddim_step",
        arguments=("x_t", "eps", "abar", "abar_prev", "eta", "noise"),
        hints=(
            "The step ends at noise level 1 - abar_prev. Part of that noise is the old eps, part is new: "
            "how must their variances add up?",
            "sigma = eta sqrt((1 - abar_prev) / (1 - abar)) sqrt(1 - abar / abar_prev), and "
            "x_prev = sqrt(abar_prev) x̂_0 + sqrt(1 - abar_prev - sigma²) eps + sigma noise.",
            "return math.sqrt(abar_prev) * ____ + math.sqrt(1 - abar_prev - ____) * eps + ____ * noise",
        ),
        examine=examine_step,
        diagnoses=STEP,
    ),
)
