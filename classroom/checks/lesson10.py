"""Exercises of lesson 10, fewer steps: the order that a solver's errors show, and one step of Heun."""

import math
from collections.abc import Callable, Sequence
from math import log, sqrt

import torch
from torch import Tensor

from classroom.checks.exercise import Exercise, variants
from classroom.checks.networks import SHAPE, eps_network, image

Numbers = Sequence[float]


def _fit(x: Numbers, y: Numbers) -> tuple[float, float]:
    """Slope and intercept of the straight line of least squares."""
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    across = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    slope = across / sum((a - mean_x) ** 2 for a in x)
    return slope, mean_y - slope * mean_x


def _logs(values: Numbers) -> list[float]:
    return [log(value) for value in values]


def _order(steps: Numbers, errors: Numbers) -> float:
    return -_fit(_logs(steps), _logs(errors))[0]


def _of_two(formula: Callable[[float, float, float, float], float]) -> list[Callable]:
    """A formula of two points (N, e) and (M, f): of the first and the last, and of the first two."""
    return [lambda N, e, last=last: formula(N[0], e[0], N[last], e[last]) for last in (-1, 1)]


def _slopes(x: Callable[[Numbers], Numbers], y: Callable[[Numbers], Numbers]) -> list[Callable]:
    """The slope of y against x, by a fit or from two points."""
    two = _of_two(lambda N, e, M, f: -_fit(x([N, M]), y([e, f]))[0])
    return [lambda N, e: -_fit(x(N), y(e))[0], *two]


def _given_step(t: int, t_next: int, abar: float, abar_next: float) -> tuple:
    times = (torch.full(SHAPE[:1], one) for one in (t, t_next))
    return eps_network(), image(10), *times, abar, abar_next


def _sigma(abar: float) -> float:
    return sqrt((1 - abar) / abar)


def _heun(
    sigma: Callable[[float], float] = _sigma,
    start: float = 0.5,  # the power of abar that x_t is divided by,
    there: float = 0.5,  # and that of abar_next that the Euler point …
    back: float = 0.5,  # … and the result are multiplied by
    way: float = 1.0,
    euler_way: float = 1.0,  # how much of the way Euler goes
    slope: Callable[[Tensor, Tensor], Tensor] = lambda d1, d2: (d1 + d2) / 2,
) -> Callable:
    """One step of Heun (Karras et al. 2022, alg. 1), each part to be replaced by a wrong one."""

    def formula(eps_fn, x_t, t, t_next, abar, abar_next):
        step, xbar = way * (sigma(abar_next) - sigma(abar)), x_t / abar**start
        d1 = eps_fn(x_t, t)
        d2 = eps_fn(abar_next**there * (xbar + euler_way * step * d1), t_next)
        return abar_next**back * (xbar + step * slope(d1, d2))

    return formula


EXERCISES = (
    Exercise(
        number="10.1",
        minutes=5,
        title="What order?",
        signature="order_of(steps, errors) -> one number",
        hints=(
            "On paper with logarithms on both axes, what does error = C · N**-p look like, and where is p?",
            "log error = log C - p log N: a straight line, and C drops out of a difference of two points.",
            "return math.log(errors[0] / ____) / math.log(____ / ____)",
        ),
        praise="The slope of log error against log N: 1 is Euler and DDIM, 2 is Heun.",
        # N grows unevenly and never doubles; C differs, and no log C comes near a p.
        cases=(((5, 8, 24, 60), 1.0, 40.0), ((4, 10, 15, 48, 77), 2.0, 0.6), ((3, 11, 28, 45), 1.5, 9.0)),
        given=lambda steps, p, C: (list(steps), [C * N**-p for N in steps]),
        right=_order,
        wrong=variants(
            "The sign is turned round: the slope falls, the order is a positive number.",
            lambda N, e: -_order(N, e),
            "Logarithms are missing: N**-p becomes a slope only after taking the log of both.",
            *_of_two(lambda N, e, M, f: (e / f) / (M / N)),
            *_of_two(lambda N, e, M, f: e / f),
            *_slopes(list, list),
            "A logarithm is missing: the log of the errors is set against the log of N.",
            *_slopes(list, _logs),
            *_slopes(_logs, list),
            "It is not used how much N grew: divide by the log of the ratio of the steps.",
            *_of_two(lambda N, e, M, f: log(e / f)),
            *_of_two(lambda N, e, M, f: math.log2(e / f)),
            "One point alone does not show the order: C hides in it, so compare two.",
            lambda N, e: -log(e[-1]) / log(N[-1]),
            lambda N, e: -log(e[0]) / log(N[0]),
            "The log of a ratio is a difference of logs, not the ratio of two logs.",
            *_of_two(lambda N, e, M, f: log(e) / log(f) / (log(M) / log(N))),
            "This is the fit's other number, C or its log: the order is in the slope.",
            lambda N, e: _fit(_logs(N), _logs(e))[1],
            "The two logarithms have different bases: any base will do, if it is the same.",
            *(
                lambda N, e, base=base: _order(N, e) * base
                for base in (log(2), log(10), 1 / log(2), 1 / log(10))
            ),
        ),
    ),
    Exercise(
        number="10.2",
        minutes=15,
        title="Heun's step",
        signature="heun_step(eps_fn, x_t [B, C, H, W], t [B], t_next [B], abar, abar_next) -> [B, C, H, W]",
        hints=(
            "Euler trusts the slope at the start for the whole step. Which slope could you ask for once you "
            "have arrived, and which of the two would you trust?",
            "d1 = eps(x_t, t), xbar_euler = xbar + (sigma_next - sigma) d1, d2 = eps(sqrt(abar_next) "
            "xbar_euler, t_next), and x_next = sqrt(abar_next) (xbar + (sigma_next - sigma) (d1 + d2) / 2).",
            "d2 = eps_fn(____ * euler, ____) … return math.sqrt(abar_next) * (xbar + step * ____)",
        ),
        praise="Two questions a step, and halving the step makes the error four times smaller.",
        cases=((800, 550, 0.2, 0.45), (400, 150, 0.5, 0.85)),
        given=_given_step,
        right=_heun(),
        in_sampler=True,
        asks="calls",
        wrong=variants(
            "This is Euler's step, that is DDIM: ask again at its end and take the mean of both slopes.",
            _heun(slope=lambda d1, d2: d1),
            "The second slope is asked at another point than Euler's: it lies at sqrt(abar_next) · xbar_euler.",
            _heun(euler_way=0.0),
            _heun(there=0.0),
            _heun(there=1.0),
            lambda eps_fn, x, t, t_next, a, n: _heun()(lambda _, time: eps_fn(x, time), x, t, t_next, a, n),
            "The result is xbar, or has another root: x_next is sqrt(abar_next) times xbar_next.",
            *(_heun(back=back, there=there) for back in (0.0, 1.0) for there in (0.5, 0.0)),
            "x_t is used as it is: the ODE holds for xbar = x_t / sqrt(abar), and the result is turned back.",
            _heun(start=0.0),
            _heun(start=0.0, there=0.0, back=0.0),
            _heun(start=1.0),
            "The slopes are added up: take half their sum, their mean.",
            _heun(slope=lambda d1, d2: d1 + d2),
            "Only the second slope is used: take the mean of both.",
            _heun(slope=lambda d1, d2: d2),
            "This is the midpoint method: Heun goes all the way with Euler, then takes the mean.",
            _heun(euler_way=0.5, slope=lambda d1, d2: d2),
            _heun(euler_way=0.5),
            "sigma is another: beside xbar the noise is sqrt((1 - abar) / abar).",
            _heun(sigma=lambda a: sqrt(1 - a)),
            _heun(sigma=lambda a: _sigma(a) ** 2),
            "The step goes the wrong way: it is sigma_next - sigma, which is negative.",
            _heun(way=-1.0),
            _heun(euler_way=-1.0),
        ),
    ),
)
