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


def _of_pairs(formula: Callable[[float, float, float, float], float]) -> list[Callable]:
    """A formula of two points (N, e) and (M, f), of the first and the last, the first two, all neighbours."""

    def mean(pairs: Callable[[int], list[tuple[int, int]]]) -> Callable:
        def of(N, e):
            chosen = pairs(len(N))
            return sum(formula(N[i], e[i], N[j], e[j]) for i, j in chosen) / len(chosen)

        return of

    return [
        mean(lambda n: [(0, n - 1)]),
        mean(lambda n: [(0, 1)]),
        mean(lambda n: [(i, i + 1) for i in range(n - 1)]),
    ]


def _fits(x: Callable, y: Callable) -> list[Callable]:
    """The slope of y against x, by a fit or from two points."""
    return [
        lambda N, e: -_fit(x(N), y(e))[0],
        *_of_pairs(lambda N, e, M, f: -_fit(x([N, M]), y([e, f]))[0]),
    ]


def _given_law(steps: Numbers, p: float, C: float) -> tuple:
    return list(steps), [C * N**-p for N in steps]


def _given_step(t: int, t_next: int, abar: float, abar_next: float) -> tuple:
    times = (torch.full(SHAPE[:1], one) for one in (t, t_next))
    return eps_network(), image(10), *times, abar, abar_next


def _sigma(abar: float) -> float:
    return sqrt((1 - abar) / abar)


def _next_root(abar: float, abar_next: float) -> float:
    return sqrt(abar_next)


def _heun(
    sigma: Callable[[float], float] = _sigma,
    start: Callable[[float], float] = sqrt,  # abar -> what x_t is divided by
    there: Callable[[float, float], float] = _next_root,  # what the Euler point is …
    back: Callable[[float, float], float] = _next_root,  # … and the result multiplied by
    way: float = 1.0,
    euler_way: float = 1.0,  # how much of the way Euler goes
    asked: Callable[[Tensor, Tensor], Tensor] = lambda x_t, xbar: x_t,
    slope: Callable[[Tensor, Tensor], Tensor] = lambda d1, d2: (d1 + d2) / 2,
    origin: float = 0.0,
) -> Callable:
    """One step of Heun (Karras et al. 2022, alg. 1), each part to be replaced by a wrong one."""

    def formula(eps_fn, x_t, t, t_next, abar, abar_next):
        step, xbar = way * (sigma(abar_next) - sigma(abar)), x_t / start(abar)
        d1 = eps_fn(asked(x_t, xbar), t)
        euler = xbar + euler_way * step * d1
        d2 = eps_fn(there(abar, abar_next) * euler, t_next)
        return back(abar, abar_next) * (torch.lerp(xbar, euler, origin) + step * slope(d1, d2))

    return formula


def _one(*_: float) -> float:
    return 1.0


EXERCISES = (
    Exercise(
        number="10.1",
        minutes=5,
        title="What order?",
        check_name="order_of",
        arguments=("steps", "errors"),
        returns="one number",
        hints=(
            "On paper with logarithms on both axes, what does error = C · N**-p look like, and where is p?",
            "log error = log C - p log N: a straight line, and C drops out of a difference of two points.",
            "return math.log(errors[0] / ____) / math.log(____ / ____)",
        ),
        praise="The slope of log error against log N: 1 is Euler and DDIM, 2 is Heun.",
        # N grows unevenly and never doubles; C differs, and no log C comes near a p.
        cases=(
            ((5, 8, 24, 60), 1.0, 40.0),
            ((4, 10, 15, 48, 77), 2.0, 0.6),
            ((3, 11, 28, 45), 1.5, 9.0),
        ),
        given=_given_law,
        right=_order,
        wrong=variants(
            "The sign is turned round: the slope falls, the order is a positive number.",
            lambda N, e: -_order(N, e),
            "Logarithms are missing: N**-p becomes a slope only after taking the log of both.",
            *_of_pairs(lambda N, e, M, f: (e / f) / (M / N)),
            *_of_pairs(lambda N, e, M, f: e / f),
            *_fits(list, list),
            "The log of the errors is set against N itself: take the log of N as well.",
            *_fits(list, _logs),
            "The errors themselves are set against the log of N: take the log of the errors as well.",
            *_fits(_logs, list),
            "It is not used how much N grew: divide by the log of the ratio of the steps.",
            *_of_pairs(lambda N, e, M, f: log(e / f)),
            "log2 of the ratio of the errors is the order only where N doubles: here it grows otherwise.",
            *_of_pairs(lambda N, e, M, f: math.log2(e / f)),
            "One point alone does not show the order: C hides in it, so compare two.",
            *_of_pairs(lambda N, e, M, f: -log(e) / log(N)),
            *_of_pairs(lambda N, e, M, f: -log(f) / log(M)),
            "The log of a ratio is a difference of logs, not the ratio of two logs.",
            *_of_pairs(lambda N, e, M, f: log(e) / log(f) / (log(M) / log(N))),
            *_of_pairs(lambda N, e, M, f: log(e) / log(f) / (log(N) / log(M))),
            "This is the fit's other number, C or its log: the order is in the slope.",
            lambda N, e: _fit(_logs(N), _logs(e))[1],
            lambda N, e: math.exp(_fit(_logs(N), _logs(e))[1]),
            "The two logarithms have different bases: any base will do, if it is the same.",
            *(lambda N, e, base=base: _order(N, e) * log(base) for base in (2, 0.5, 10)),
            *(lambda N, e, base=base: _order(N, e) / log(base) for base in (2, 10)),
        ),
    ),
    Exercise(
        number="10.2",
        minutes=15,
        title="Heun's step",
        check_name="heun_step",
        arguments=("eps_fn", "x_t [B, C, H, W]", "t [B]", "t_next [B]", "abar", "abar_next"),
        returns="[B, C, H, W]",
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
            "The first slope is asked at xbar: the network knows x_t itself.",
            _heun(asked=lambda x_t, xbar: xbar),
            _heun(asked=lambda x_t, xbar: xbar, there=_one),
            "The second slope is asked at another point than Euler's: it lies at sqrt(abar_next) · xbar_euler.",
            *(_heun(euler_way=0.0, there=there) for there in (_next_root, _one, lambda a, n: sqrt(a))),
            _heun(there=_one),
            _heun(there=lambda a, n: sqrt(a)),
            _heun(there=lambda a, n: n),
            "The result is xbar: x_next is sqrt(abar_next) times that, with its root.",
            *(
                _heun(back=back, there=there)
                for back in (_one, lambda a, n: n)
                for there in (_next_root, _one)
            ),
            _heun(back=lambda a, n: sqrt(a)),
            "x_t is used as it is: the ODE holds for xbar = x_t / sqrt(abar), and the result is turned back.",
            _heun(start=_one),
            _heun(start=_one, there=_one, back=_one),
            _heun(start=float),
            "The slopes are added up: take half their sum, their mean.",
            _heun(slope=lambda d1, d2: d1 + d2),
            _heun(origin=1.0),
            _heun(origin=1.0, slope=lambda d1, d2: d2),
            "Only the second slope is used: take the mean of both.",
            _heun(slope=lambda d1, d2: d2),
            "This is the midpoint method: Heun goes all the way with Euler, then takes the mean.",
            _heun(euler_way=0.5, slope=lambda d1, d2: d2),
            _heun(euler_way=0.5),
            "sigma is another: beside xbar the noise is sqrt((1 - abar) / abar).",
            *(_heun(sigma=lambda a, power=power: _sigma(a) ** power) for power in (2, -1)),
            _heun(sigma=lambda a: sqrt(1 - a)),
            "The step goes the wrong way: it is sigma_next - sigma, which is negative.",
            _heun(way=-1.0),
            _heun(euler_way=-1.0),
            _heun(way=-1.0, euler_way=-1.0),
        ),
    ),
)
