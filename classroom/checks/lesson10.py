"""Exercises of lesson 10, fewer steps: the order that a solver's errors show, and one step of Heun."""

from collections.abc import Sequence
from math import log, sqrt
from statistics import linear_regression

import torch

from classroom.checks.exercise import Exercise, variants
from classroom.checks.networks import eps_network, image


def _logs(values: Sequence[float]) -> list[float]:
    return [log(value) for value in values]


def _order(steps: Sequence[float], errors: Sequence[float]) -> float:
    return -linear_regression(_logs(steps), _logs(errors)).slope


def _sigma(abar: float) -> float:
    return sqrt((1 - abar) / abar)


def _heun(first=0.5, second=0.5, sigma=_sigma, start=0.5, there=0.5, back=0.5, way=1.0, euler_way=1.0):
    """One step of Heun (Karras et al. 2022, alg. 1).

    first and second are the shares of the slopes; start, there and back the powers of abar.
    """

    def formula(eps_fn, x_t, t, t_next, abar, abar_next):
        step, xbar = way * (sigma(abar_next) - sigma(abar)), x_t / abar**start
        d1 = eps_fn(x_t, t)
        d2 = eps_fn(abar_next**there * (xbar + euler_way * step * d1), t_next)
        return abar_next**back * (xbar + step * (first * d1 + second * d2))

    return formula


ORDER_OF = Exercise(
    heading="10.1 What order? (5 min)",
    signature="order_of(steps, errors) -> one number",
    question="On paper with logarithms on both axes, what does error = C · N**-p look like, and where is p?",
    formula="log error = log C - p log N: a straight line, and C drops out of a difference of two points.",
    blank="return math.log(errors[0] / ____) / math.log(____ / ____)",
    praise="The slope of log error against log N: 1 is Euler and DDIM, 2 is Heun.",
    # N grows unevenly and never doubles; C differs, and no log C comes near a p.
    cases=(((5, 8, 24, 60), 1.0, 40.0), ((4, 10, 15, 48, 77), 2.0, 0.6), ((3, 11, 28, 45), 1.5, 9.0)),
    given=lambda steps, p, C: (list(steps), [C * N**-p for N in steps]),
    right=_order,
    wrong=variants(
        "Logarithms are missing: N**-p becomes a slope only after taking the log of both.",
        lambda N, e: (e[0] / e[-1]) / (N[-1] / N[0]),
        lambda N, e: -linear_regression(N, e).slope,
        "A logarithm is missing: the log of the errors is set against the log of N.",
        lambda N, e: -linear_regression(N, _logs(e)).slope,
        lambda N, e: -linear_regression(_logs(N), e).slope,
        "The log of a ratio is a difference of logs, not the ratio of two logs.",
        lambda N, e: log(e[0]) / log(e[-1]) / (log(N[-1]) / log(N[0])),
        "The two logarithms have different bases: any base will do, if it is the same.",
        *(lambda N, e, k=k: _order(N, e) * k for k in (log(2), log(10), 1 / log(2), 1 / log(10))),
    ),
)
HEUN_STEP = Exercise(
    heading="10.2 Heun's step (15 min)",
    signature="heun_step(eps_fn, x_t [B, C, H, W], t [B], t_next [B], abar, abar_next) -> [B, C, H, W]",
    question="Euler trusts the slope at the start for the whole step. Which slope could you ask for once "
    "you have arrived, and which of the two would you trust?",
    formula="d1 = eps(x_t, t), xbar_euler = xbar + (sigma_next - sigma) d1, d2 = eps(sqrt(abar_next) "
    "xbar_euler, t_next), and x_next = sqrt(abar_next) (xbar + (sigma_next - sigma) (d1 + d2) / 2).",
    blank="d2 = eps_fn(____ * euler, ____) … return math.sqrt(abar_next) * (xbar + step * ____)",
    praise="Two questions a step, and halving the step makes the error four times smaller.",
    cases=((800, 550, 0.2, 0.45), (400, 150, 0.5, 0.85)),
    given=lambda t, u, a, b: (eps_network(), image(10), torch.full((2,), t), torch.full((2,), u), a, b),
    right=_heun(),
    asks="calls",
    wrong=variants(
        "This is Euler's step, that is DDIM: ask again at its end and take the mean of both slopes.",
        _heun(1.0, 0.0),
        "The second slope is asked at another point than Euler's: it lies at sqrt(abar_next) · xbar_euler.",
        _heun(euler_way=0.0),
        "The result is xbar, or has another root: x_next is sqrt(abar_next) times xbar_next.",
        _heun(back=0.0),
        "x_t is used as it is: the ODE holds for xbar = x_t / sqrt(abar), and the result is turned back.",
        _heun(start=0.0),
        "The slopes are added up: take half their sum, their mean.",
        _heun(1.0, 1.0),
        "This is the midpoint method: Heun goes all the way with Euler, then takes the mean.",
        _heun(0.0, 1.0, euler_way=0.5),
        "sigma is another: beside xbar the noise is sqrt((1 - abar) / abar).",
        _heun(sigma=lambda a: sqrt(1 - a)),
        "The step goes the wrong way: it is sigma_next - sigma, which is negative.",
        _heun(way=-1.0),
    ),
)
EXERCISES = (ORDER_OF, HEUN_STEP)
