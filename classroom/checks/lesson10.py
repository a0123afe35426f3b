"""Exercises of lesson 10, fewer steps: the order that a solver's errors show, and one step of Heun.

A wrong answer is named by working out the classic wrong formulas on the same inputs: the one that gives what
the learner's function gives in every case is the learner's. For 10.2 the function that stands for the network
also writes down at which timesteps it is asked, and how often.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from classroom.checks.judging import Exercise, NotUsable, Unfinished, Wrong, close, expect_tensor

ORDER = {
    "sign": "The sign is turned round: the slope falls, the order is a positive number.",
    "ratio": "Logarithms are missing: N**-p becomes a slope only after taking the log of both.",
    "difference": "This is the slope of the errors themselves: take the log of errors and of steps first.",
    "log N": "The log of the errors is set against N itself: take the log of N as well.",
    "log e": "The errors themselves are set against the log of N: take the log of the errors as well.",
    "1/N": "This is a slope in 1/N: only the slope of log against log is the order.",
    "N": "It is not used how much N grew: divide by the log of the ratio of the steps.",
    "doubling": "log2 of the ratio of the errors is the order only where N doubles: here it grows otherwise.",
    "inverse": "The fraction is upside down: the log of the errors' ratio is divided by that of the steps.",
    "one point": "One point alone does not show the order: C hides in it, so compare two.",
    "quotient": "The log of a ratio is a difference of logs, not the ratio of two logs.",
    "intercept": "This is the fit's other number, C or its log: the order is in the slope.",
    "fit": "The fit's two numbers are returned: the slope is the first of them, and the order its negative.",
    "list": "Several slopes are returned: one number is asked, such as that of the first and last point.",
    "base": "The two logarithms have different bases: any base will do, if it is the same.",
    "rounded": "The order is rounded: it need not be a whole number.",
}
HEUN = {
    "euler": "This is Euler's step, that is DDIM: ask again at its end and take the mean of both slopes.",
    "first x": "The first slope is asked at xbar: the network knows x_t itself.",
    "same t": "The second slope is asked at t: the Euler point lies at t_next.",
    "first t": "The first slope is asked at t_next: x_t lies at t.",
    "same x": "The second slope is asked at x_t again: ask it at the Euler point.",
    "not scaled": "The Euler point is xbar when the network is asked: it wants sqrt(abar_next) · xbar.",
    "not back": "The result is xbar: x_next is sqrt(abar_next) times that.",
    "start": "x_t is used as it is: the ODE holds for xbar = x_t / sqrt(abar).",
    "in x": "The step is taken in x itself: turn x_t into xbar first and the result back into x.",
    "old scale": "sqrt(abar) stands where sqrt(abar_next) belongs: after the step abar_next holds.",
    "no half": "The slopes are added up: take half their sum, their mean.",
    "second only": "Only the second slope is used: take the mean of both.",
    "midpoint": "This is the midpoint method: Heun goes all the way with Euler, then takes the mean.",
    "sigma": "sqrt(1 - abar) stands for sigma: beside xbar the noise is sqrt((1 - abar) / abar).",
    "variance": "The square root of sigma is missing: sigma = sqrt((1 - abar) / abar).",
    "inverse": "sigma is upside down: it is sqrt((1 - abar) / abar), large where the noise is.",
    "root": "A square root is missing: x and xbar differ by sqrt(abar), not by abar.",
    "sign": "The step goes the wrong way: it is sigma_next - sigma, which is negative.",
    "swapped": "abar and abar_next are exchanged: the step goes from abar to abar_next.",
    "twice": "Both slopes are followed from the Euler point: the step starts at xbar.",
    "mixed": "The estimate of x_0 and the noise put back differ in their eps: the mean belongs in both.",
    "calls": "The numbers are right, but the network is asked more than twice: keep both slopes.",
    "in place": "x_t, t or t_next is changed: the caller still needs them.",
}

# ---- 10.1 ----

Numbers = Sequence[float]
# (steps, p, C): N grows unevenly and never doubles; C differs, and no log C comes near a p.
LAWS = (
    ((5, 8, 24, 60), 1.0, 40.0),
    ((4, 10, 15, 48, 77), 2.0, 0.6),
    ((3, 11, 28, 45), 1.5, 9.0),
)
NOISY = ((6, 17, 44, 130), 2.0, 3.0, (1.004, 0.997, 1.003, 0.998))  # the last: each error's factor
TOLERANCE = 0.05  # between the order of the noisy errors by a fit and by two neighbours


def _errors(steps: Sequence[int], p: float, C: float) -> list[float]:
    return [C * N**-p for N in steps]


def _fit(x: Numbers, y: Numbers) -> tuple[float, float]:
    """Slope and intercept of the straight line of least squares."""
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    across = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    slope = across / sum((a - mean_x) ** 2 for a in x)
    return slope, mean_y - slope * mean_x


def _logs(values: Numbers) -> list[float]:
    return [math.log(value) for value in values]


def _order(N: Numbers, e: Numbers) -> float:
    return -_fit(_logs(N), _logs(e))[0]


def _same(values: Numbers) -> Numbers:
    return values


def _inverses(values: Numbers) -> list[float]:
    return [1 / value for value in values]


# A fit of these two, in the place of the logs of both.
WRONG_FITS: list[tuple[str, Callable, Callable]] = [
    ("difference", _same, _same),
    ("log N", _same, _logs),
    ("log e", _logs, _same),
    ("1/N", _inverses, _same),
    ("1/N", _inverses, _logs),
]
# What is made of two points, (N, e) and (M, f), with M > N.
WRONG_PAIRS: list[tuple[str, Callable[[float, float, float, float], float]]] = [
    ("sign", lambda N, e, M, f: math.log(f / e) / math.log(M / N)),
    ("ratio", lambda N, e, M, f: (e / f) / (M / N)),
    ("ratio", lambda N, e, M, f: e / f),
    ("ratio", lambda N, e, M, f: f / e),
    ("ratio", lambda N, e, M, f: (f / e) / (M / N)),
    ("ratio", lambda N, e, M, f: (f / e) / (N / M)),
    ("N", lambda N, e, M, f: math.log(e / f)),
    ("N", lambda N, e, M, f: math.log10(e / f)),
    ("N", lambda N, e, M, f: math.log(f / e)),
    ("doubling", lambda N, e, M, f: math.log2(e / f)),
    ("doubling", lambda N, e, M, f: math.log2(f / e)),
    ("inverse", lambda N, e, M, f: math.log(M / N) / math.log(e / f)),
    ("inverse", lambda N, e, M, f: math.log(M / N) / math.log(f / e)),
    ("one point", lambda N, e, M, f: -math.log(e) / math.log(N)),
    ("one point", lambda N, e, M, f: -math.log(f) / math.log(M)),
    ("one point", lambda N, e, M, f: math.log(e) / math.log(N)),
    ("one point", lambda N, e, M, f: math.log(f) / math.log(M)),
    ("quotient", lambda N, e, M, f: math.log(e) / math.log(f) / (math.log(M) / math.log(N))),
    ("quotient", lambda N, e, M, f: math.log(e) / math.log(f) / (math.log(N) / math.log(M))),
    ("quotient", lambda N, e, M, f: math.log(f) / math.log(e) / (math.log(M) / math.log(N))),
    ("quotient", lambda N, e, M, f: math.log(f) / math.log(e) / (math.log(N) / math.log(M))),
    ("quotient", lambda N, e, M, f: math.log(e) / math.log(f)),
    ("quotient", lambda N, e, M, f: math.log(f) / math.log(e)),
]
LN2, LN10 = math.log(2), math.log(10)
# What is done to the order or to the fit at the end.
WRONG_ORDERS: list[tuple[str, Callable[[Numbers, Numbers], float]]] = [
    ("intercept", lambda N, e: _fit(_logs(N), _logs(e))[1]),
    ("intercept", lambda N, e: _fit(_logs(N), _logs(e))[1] / LN10),
    ("intercept", lambda N, e: _fit(_logs(N), _logs(e))[1] / LN2),
    ("intercept", lambda N, e: math.exp(_fit(_logs(N), _logs(e))[1])),
    *(
        ("base", lambda N, e, factor=factor: factor * _order(N, e))
        for factor in (LN2, 1 / LN2, LN10, 1 / LN10, LN2 / LN10, LN10 / LN2)
    ),
    ("rounded", lambda N, e: round(_order(N, e))),
    ("rounded", lambda N, e: math.floor(_order(N, e) + 1e-9)),
    ("rounded", lambda N, e: math.ceil(_order(N, e) - 1e-9)),
]


def _of_pairs(pairs: Callable[[int], list[tuple[int, int]]], formula: Callable) -> Callable:
    """The mean of a formula of two points over some pairs of points."""

    def mean(N: Numbers, e: Numbers) -> float:
        chosen = pairs(len(N))
        return sum(formula(N[i], e[i], N[j], e[j]) for i, j in chosen) / len(chosen)

    return mean


# Which points: the first and the last, the first two, the last two, all neighbours.
PAIRS: tuple[Callable[[int], list[tuple[int, int]]], ...] = (
    lambda n: [(0, n - 1)],
    lambda n: [(0, 1)],
    lambda n: [(n - 2, n - 1)],
    lambda n: [(i, i + 1) for i in range(n - 1)],
)


def _slope_of(x: Callable, y: Callable) -> Callable[[float, float, float, float], float]:
    """The slope between two points, in what x and y make of their numbers."""
    return lambda N, e, M, f: _fit(x([N, M]), y([e, f]))[0]


def _wrong_orders() -> list[tuple[str, Callable[[Numbers, Numbers], float]]]:
    """Every wrong formula of (steps, errors), with its name."""
    found = list(WRONG_ORDERS)
    two = [*WRONG_PAIRS, *((name, _slope_of(x, y)) for name, x, y in WRONG_FITS)]
    found += [(name, _of_pairs(pairs, formula)) for name, formula in two for pairs in PAIRS]
    found += [(name, lambda N, e, x=x, y=y: _fit(x(N), y(e))[0]) for name, x, y in WRONG_FITS]
    slopes = {name for name, _, _ in WRONG_FITS}
    # Who turns the sign as he should, and forgets something else.
    found += [
        (name, lambda N, e, formula=formula: -formula(N, e)) for name, formula in found if name in slopes
    ]
    return found


def examine_order(function: Callable) -> str:
    """Exercise 10.1."""
    given = [(list(steps), _errors(steps, p, C)) for steps, p, C in LAWS]
    values = torch.tensor([_number(function(list(N), list(e)), N, e) for N, e in given], dtype=torch.float64)
    expected = torch.tensor([p for _, p, _ in LAWS], dtype=torch.float64)
    if not close(values, expected):
        for name, formula in _wrong_orders():
            if close(values, torch.tensor([float(formula(N, e)) for N, e in given], dtype=torch.float64)):
                raise Wrong(ORDER[name])
        i = next(i for i in range(len(given)) if not close(values[i], expected[i]))
        raise _off(given[i], float(expected[i]), float(values[i]))
    steps, p, C, noise = NOISY
    errors = [factor * e for factor, e in zip(noise, _errors(steps, p, C), strict=True)]
    value = _number(function(list(steps), list(errors)), steps, errors)
    if abs(value - p) > TOLERANCE:
        raise _off((steps, errors), p, value)
    return "The slope of log error against log N: 1 is Euler and DDIM, 2 is Heun."


def _off(given: tuple[Numbers, Numbers], p: float, value: float) -> Wrong:
    steps, errors = given
    shown = ", ".join(f"{error:.3g}" for error in errors)
    case = f"for steps = {list(steps)} and errors = [{shown}]"
    return Wrong(f"The number is off: {case} it should be {p:g}, got {value:.3f}.")


def _number(value: Any, steps: Numbers, errors: Numbers) -> float:
    """The learner's result, if it is one finite real number: Python's, torch's or numpy's."""
    if value is ...:
        raise Unfinished
    if value is None:
        raise NotUsable("Your function returns nothing: is the `return` missing?")
    several = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(several, list | tuple):
        raise _several(list(several), steps, errors)
    if isinstance(several, bool) or not isinstance(several, int | float):
        raise NotUsable(f"Your function must return one number, not a value of type {type(value).__name__}.")
    if not math.isfinite(several):
        raise NotUsable(f"Your function must return one finite number, got {several}.")
    return float(several)


def _several(values: list, steps: Numbers, errors: Numbers) -> Wrong:
    numbers = [float(one) for one in values if isinstance(one, int | float)]
    fit = _fit(_logs(steps), _logs(errors))
    if len(numbers) == 2 and math.isclose(abs(numbers[0]), abs(fit[0]), rel_tol=1e-3):
        return NotUsable(ORDER["fit"])
    if len(numbers) == len(values) == len(steps) - 1:
        return NotUsable(ORDER["list"])
    return NotUsable(f"Your function must return one number, got {len(values)} of them.")


# ---- 10.2 ----

SHAPE = (2, 3, 4, 5)  # [B, C, H, W], all different
AXES = "[B, C, H, W]"
# (t, t_next, abar, abar_next): a noisy step and a clean one.
CASES = ((800, 550, 0.2, 0.45), (400, 150, 0.5, 0.85))


class Asked:
    """A smooth function of x and t in the place of the network; it notes when it is asked."""

    def __init__(self) -> None:
        self.times: list[list[int]] = []

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        if not isinstance(x, Tensor) or tuple(x.shape) != SHAPE:
            got = f"of shape {list(x.shape)}" if isinstance(x, Tensor) else f"of type {type(x).__name__}"
            raise ValueError(f"eps_fn takes x of shape {list(SHAPE)}, got one {got}")
        if not isinstance(t, Tensor) or tuple(t.shape) != SHAPE[:1]:
            got = f"of shape {list(t.shape)}" if isinstance(t, Tensor) else f"of type {type(t).__name__}"
            raise ValueError(f"eps_fn takes t of shape {list(SHAPE[:1])}, got one {got}")
        self.times.append(t.tolist())
        time = t.to(x).view(-1, 1, 1, 1) / 1000
        return 0.4 * x + torch.sin(1.5 * x + 4 * time) + time


def _image() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(10))


def _inputs(case: tuple[int, int, float, float]) -> tuple[Tensor, Tensor, Tensor, float, float]:
    t, t_next, abar, abar_next = case
    return _image(), torch.full(SHAPE[:1], t), torch.full(SHAPE[:1], t_next), abar, abar_next


def _sigma(abar: float) -> float:
    return math.sqrt((1 - abar) / abar)


class Step(NamedTuple):
    """One step of Heun (Heun 1900; Karras et al. 2022, alg. 1), each part to be replaced by a wrong one."""

    sigma: Callable[[float], float] = _sigma
    start: Callable[[float], float] = math.sqrt  # abar -> what x_t is divided by
    there: Callable[[float, float], float] = lambda abar, nxt: math.sqrt(nxt)  # what the Euler point is
    back: Callable[[float, float], float] = lambda abar, nxt: math.sqrt(nxt)  # … and the result multiplied by
    times: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = lambda t, nxt: (t, nxt)
    way: Callable[[float, float], float] = lambda sigma, nxt: nxt - sigma
    asked: Callable[[Tensor, Tensor], Tensor] = lambda x_t, xbar: x_t
    euler_way: float = 1.0  # how much of the way Euler goes
    point: Callable[[Tensor, Tensor], Tensor] = lambda xbar, euler: euler
    slope: Callable[[Tensor, Tensor], Tensor] = lambda d1, d2: (d1 + d2) / 2
    origin: Callable[[Tensor, Tensor], Tensor] = lambda xbar, euler: xbar

    def __call__(self, eps_fn, x_t, t, t_next, abar, abar_next) -> Tensor:
        first, second = self.times(t, t_next)
        way = self.way(self.sigma(abar), self.sigma(abar_next))
        xbar = x_t / self.start(abar)
        d1 = eps_fn(self.asked(x_t, xbar), first)
        euler = xbar + self.euler_way * way * d1
        d2 = eps_fn(self.there(abar, abar_next) * self.point(xbar, euler), second)
        return self.back(abar, abar_next) * (self.origin(xbar, euler) + way * self.slope(d1, d2))


def _one(*_: float) -> float:
    return 1.0


def _old(abar: float, nxt: float) -> float:
    return math.sqrt(abar)


def _no_root(*abars: float) -> float:
    return abars[-1]


def _half_way(abar: float, nxt: float) -> float:
    """sqrt(abar) where sigma is the mean of both ends."""
    return 1 / math.sqrt(1 + ((_sigma(abar) + _sigma(nxt)) / 2) ** 2)


def _middle_of_abars(abar: float, nxt: float) -> float:
    return math.sqrt((abar + nxt) / 2)


def _first(one: Tensor, other: Tensor) -> Tensor:
    return one


def _second(one: Tensor, other: Tensor) -> Tensor:
    return other


def _mean(d1: Tensor, d2: Tensor) -> Tensor:
    return (d1 + d2) / 2


TIMES = (  # when the second slope of the midpoint method is asked
    lambda t, nxt: (t, (t + nxt) // 2),
    lambda t, nxt: (t, nxt),
    lambda t, nxt: (t, t),
)


def _ddim(estimate: Callable, noise: Callable) -> Callable:
    """Heun written as a DDIM step, with one eps for the estimate of x_0 and one for the noise put back."""

    def step(eps_fn, x_t, t, t_next, abar, abar_next) -> Tensor:
        def move(of_x0: Tensor, of_noise: Tensor) -> Tensor:
            x_0 = (x_t - math.sqrt(1 - abar) * of_x0) / math.sqrt(abar)
            return math.sqrt(abar_next) * x_0 + math.sqrt(1 - abar_next) * of_noise

        d1 = eps_fn(x_t, t)
        d2 = eps_fn(move(d1, d1), t_next)
        return move(estimate(d1, d2), noise(d1, d2))

    return step


def _swapped(eps_fn, x_t, t, t_next, abar, abar_next) -> Tensor:
    return Step()(eps_fn, x_t, t, t_next, abar_next, abar)


IN_X = {"start": _one, "there": _one, "back": _one}
WRONG_HEUN: list[tuple[str, Callable]] = [
    ("euler", Step(slope=_first)),
    ("first x", Step(asked=_second)),
    ("first x", Step(asked=_second, there=_one)),
    ("same t", Step(times=lambda t, nxt: (t, t))),
    ("first t", Step(times=lambda t, nxt: (nxt, nxt))),
    ("first t", Step(times=lambda t, nxt: (nxt, t))),
    ("same x", Step(point=_first, there=_old)),
    ("same x", Step(point=_first)),
    ("same x", Step(point=_first, there=_one)),
    ("not scaled", Step(there=_one)),
    ("not back", Step(back=_one)),
    ("not back", Step(back=_one, there=_one)),
    ("start", Step(start=_one)),
    *(("in x", Step(**IN_X, sigma=sigma)) for sigma in (_sigma, lambda abar: math.sqrt(1 - abar))),
    *(("old scale", Step(**parts)) for parts in ({"there": _old}, {"back": _old})),
    ("old scale", Step(there=_old, back=_old)),
    ("no half", Step(slope=lambda d1, d2: d1 + d2)),
    ("second only", Step(slope=_second)),
    *(
        ("midpoint", Step(euler_way=0.5, slope=slope, there=there, times=times))
        for slope in (_second, _mean)
        for there in (_half_way, _middle_of_abars, lambda abar, nxt: math.sqrt(nxt))
        for times in TIMES
    ),
    ("sigma", Step(sigma=lambda abar: math.sqrt(1 - abar))),
    ("variance", Step(sigma=lambda abar: (1 - abar) / abar)),
    ("inverse", Step(sigma=lambda abar: math.sqrt(abar / (1 - abar)))),
    ("root", Step(start=_no_root)),
    ("root", Step(there=_no_root)),
    ("root", Step(back=_no_root)),
    ("root", Step(there=_no_root, back=_no_root)),
    ("root", Step(start=_no_root, there=_no_root, back=_no_root)),
    ("sign", Step(way=lambda sigma, nxt: sigma - nxt)),
    ("sign", Step(euler_way=-1.0)),
    ("sign", Step(euler_way=-1.0, way=lambda sigma, nxt: sigma - nxt)),
    ("swapped", _swapped),
    ("twice", Step(origin=_second)),
    ("mixed", _ddim(_first, _mean)),
    ("mixed", _ddim(_first, _second)),
    ("mixed", _ddim(_mean, _first)),
    ("mixed", _ddim(_mean, _second)),
    ("mixed", _ddim(_second, _mean)),
    ("mixed", _ddim(_second, _first)),
]
_right_heun = Step()


def examine_heun(function: Callable) -> str:
    """Exercise 10.2."""
    values, calls, changed = [], [], False
    for case in CASES:
        eps_fn, given = Asked(), _inputs(case)
        with torch.no_grad():  # as samplers call it
            values.append(expect_tensor(function(eps_fn, *given), SHAPE, AXES))
        if not eps_fn.times:
            raise Wrong("The network is never asked: eps_fn(x, t) gives the slope, [B, C, H, W].")
        calls.append(len(eps_fn.times))
        changed = changed or not all(map(torch.equal, given[:3], _inputs(case)[:3]))
    expected = _results(_right_heun)
    # An x_t that was changed before its last use gives other numbers: say what is behind them.
    right = all(map(close, values, expected))
    if not right:
        for name, formula in WRONG_HEUN:
            if all(map(close, values, _results(formula))):
                raise Wrong(HEUN[name])
    if changed:
        raise Wrong(HEUN["in place"])
    if not right:
        raise _first_difference(values, expected)
    if max(calls) > 2:
        raise Wrong(HEUN["calls"])
    return "Two questions a step, and halving the step makes the error four times smaller."


def _results(formula: Callable) -> list[Tensor]:
    return [formula(Asked(), *_inputs(case)) for case in CASES]


def _first_difference(values: list[Tensor], expected: list[Tensor]) -> Wrong:
    i = next(i for i, value in enumerate(values) if not close(value, expected[i]))
    farthest = (values[i] - expected[i]).abs().argmax()
    got, wanted = float(values[i].flatten()[farthest]), float(expected[i].flatten()[farthest])
    where = "with t = {}, t_next = {}, abar = {:g}, abar_next = {:g}".format(*CASES[i])
    return Wrong(f"The numbers are off: {where} one pixel should be {wanted:.3f}, got {got:.3f}.")


EXERCISES = (
    Exercise(
        number="10.1",
        minutes=5,
        title="What order?",
        check_name="order_of",
        arguments=("steps", "errors"),
        hints=(
            "On paper with logarithms on both axes, what does error = C · N**-p look like, and where is p?",
            "log error = log C - p log N: a straight line, and C drops out of a difference of two points.",
            "return math.log(errors[0] / ____) / math.log(____ / ____)",
        ),
        examine=examine_order,
        diagnoses=ORDER,
    ),
    Exercise(
        number="10.2",
        minutes=15,
        title="Heun's step",
        check_name="heun_step",
        arguments=("eps_fn", "x_t", "t", "t_next", "abar", "abar_next"),
        hints=(
            "Euler trusts the slope at the start for the whole step. Which slope could you ask for once you "
            "have arrived, and which of the two would you trust?",
            "d1 = eps(x_t, t), xbar_euler = xbar + (sigma_next - sigma) d1, d2 = eps(sqrt(abar_next) "
            "xbar_euler, t_next), and x_next = sqrt(abar_next) (xbar + (sigma_next - sigma) (d1 + d2) / 2).",
            "d2 = eps_fn(____ * euler, ____) … return math.sqrt(abar_next) * (xbar + step * ____)",
        ),
        examine=examine_heun,
        diagnoses=HEUN,
    ),
)
