"""Answers to lesson 10's exercises: right ones, each written another way, and the wrong ones with a name."""

import math

import numpy as np
import torch

from classroom.checks import lesson10
from lessons_lib.samplers import sample_ddim
from lessons_lib.schedules import NoiseSchedule

# ---- right answers ----


def order_by_fit(steps, errors):
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


def order_by_first_and_last(steps, errors):
    return math.log(errors[0] / errors[-1]) / math.log(steps[-1] / steps[0])


def order_by_neighbours(steps, errors):
    N, e = torch.tensor(steps, dtype=torch.float64).log2(), torch.tensor(errors, dtype=torch.float64).log2()
    return -(e.diff() / N.diff()).mean()


def order_by_least_squares(steps, errors):
    rows = torch.stack([torch.tensor(steps).double().log10(), torch.ones(len(steps)).double()], dim=1)
    logs = torch.tensor(errors).double().log10()[:, None]
    return abs(torch.linalg.lstsq(rows, logs).solution[0, 0].item())


def order_by_correlation(steps, errors):
    x, y = np.log(1 / np.array(steps)), np.log(errors)
    return np.cov(x, y)[0, 1] / np.var(x, ddof=1)


def order_by_search(steps, errors):
    """No logarithm: the p for which errors · N**p varies least."""
    steps, errors = np.array(steps, dtype=float), np.array(errors)
    low, high = 0.0, 6.0
    for _ in range(100):
        middle = (low + high) / 2
        scaled = errors * steps**middle
        low, high = (middle, high) if scaled[-1] < scaled[0] else (low, middle)
    return low


def heun_as_in_the_lesson(eps_fn, x_t, t, t_next, abar, abar_next):
    sigma, sigma_next = math.sqrt((1 - abar) / abar), math.sqrt((1 - abar_next) / abar_next)
    xbar = x_t / math.sqrt(abar)
    d1 = eps_fn(x_t, t)
    euler = xbar + (sigma_next - sigma) * d1
    d2 = eps_fn(math.sqrt(abar_next) * euler, t_next)
    return math.sqrt(abar_next) * (xbar + (sigma_next - sigma) * (d1 + d2) / 2)


def heun_as_two_ddim_steps(eps_fn, x_t, t, t_next, abar, abar_next):
    """DDIM with the mean of both eps is Heun's step."""

    def ddim(eps):
        x_0 = (x_t - (1 - abar) ** 0.5 * eps) / abar**0.5
        return abar_next**0.5 * x_0 + (1 - abar_next) ** 0.5 * eps

    eps = eps_fn(x_t, t)
    eps_next = eps_fn(ddim(eps), t_next)
    return ddim((eps + eps_next) / 2)


def heun_corrected_afterwards(eps_fn, x_t, t, t_next, abar, abar_next):
    """Euler first, then half the difference of the slopes; in float64."""
    a, n = (torch.tensor(level, dtype=torch.float64) for level in (abar, abar_next))
    step = ((1 - n) / n).sqrt() - ((1 - a) / a).sqrt()
    d1 = eps_fn(x_t, t).double()
    x_euler = n.sqrt() * (x_t.double() / a.sqrt() + step * d1)
    d2 = eps_fn(x_euler, t_next)
    return x_euler + n.sqrt() * step * (d2 - d1) / 2


def heun_in_place(eps_fn, x_t, t, t_next, abar, abar_next):
    """On its own copy."""
    x, way = x_t.clone().div_(abar**0.5), (1 / abar_next - 1) ** 0.5 - (1 / abar - 1) ** 0.5
    slope = eps_fn(x_t, t)
    slope = slope.add(eps_fn(x.add(slope, alpha=way).mul_(abar_next**0.5), t_next)).mul_(0.5)
    return x.add_(slope, alpha=way).mul_(abar_next**0.5)


def heun_with_the_library(eps_fn, x_t, t, t_next, abar, abar_next):
    """The sampler's own DDIM step, which is Euler's, asked twice."""
    schedule = NoiseSchedule(torch.tensor([1 - abar_next, 1 - abar / abar_next], dtype=torch.float64), "two")
    answers = []

    def ddim(eps):
        return next(sample_ddim(lambda x, _: eps, schedule, x_t, [1, 0], clip_x0=False)).x_t

    answers.append(eps_fn(x_t, t))
    answers.append(eps_fn(ddim(answers[0]), t_next))
    return ddim(torch.stack(answers).mean(dim=0))


RIGHT = [
    ("10.1", order_by_fit),
    ("10.1", order_by_first_and_last),
    ("10.1", order_by_neighbours),
    ("10.1", order_by_least_squares),
    ("10.1", order_by_correlation),
    ("10.1", order_by_search),
    ("10.2", heun_as_in_the_lesson),
    ("10.2", heun_as_two_ddim_steps),
    ("10.2", heun_corrected_afterwards),
    ("10.2", heun_in_place),
    ("10.2", heun_with_the_library),
]

# ---- classic wrong answers: the right one with one thing replaced ----


def wrong_order(formula):
    """A formula: N and e as arrays, their logs n and l, and d(values) the last less the first."""

    def order_of(steps, errors):
        N, e = np.array(steps), np.array(errors)
        names = {"N": N, "e": e, "n": np.log(N), "l": np.log(e), "np": np, "math": math}
        return eval(formula, names | {"d": lambda values: values[-1] - values[0], "fit": fit})

    return order_of


def fit(x, y):
    return np.polyfit(x, y, 1)


WRONG_ORDER = [
    (name, wrong_order(formula))
    for name, formula in [
        ("sign", "fit(n, l)[0]"),
        ("sign", "d(l) / d(n)"),
        ("sign", "np.mean(np.diff(l) / np.diff(n))"),
        ("sign", "np.log(e[0] / e[-1]) / np.log(N[0] / N[-1])"),
        ("ratio", "(e[0] / e[-1]) / (N[-1] / N[0])"),
        ("ratio", "e[0] / e[-1]"),
        ("ratio", "e[1] / e[0]"),
        ("ratio", "(e[0] / e[1]) / (N[1] / N[0])"),
        ("ratio", "np.mean(e[:-1] / e[1:])"),
        ("difference", "-d(e) / d(N)"),
        ("difference", "d(e) / d(N)"),
        ("difference", "fit(N, e)[0]"),
        ("difference", "-fit(N, e)[0]"),
        ("difference", "np.mean(np.diff(e) / np.diff(N))"),
        ("log N", "-fit(N, l)[0]"),
        ("log N", "d(l) / d(N)"),
        ("log e", "-fit(n, e)[0]"),
        ("log e", "d(e) / d(n)"),
        ("1/N", "fit(1 / N, e)[0]"),
        ("1/N", "-d(e) / d(1 / N)"),
        ("1/N", "fit(1 / N, l)[0]"),
        ("N", "-d(l)"),
        ("N", "math.log(e[0] / e[1])"),
        ("N", "np.log10(e[0] / e[-1])"),
        ("N", "np.mean(-np.diff(l))"),
        ("doubling", "np.log2(e[0] / e[-1])"),
        ("doubling", "np.log2(e[0] / e[1])"),
        ("doubling", "np.mean(np.log2(e[:-1] / e[1:]))"),
        ("doubling", "math.log2(e[-2] / e[-1])"),
        ("inverse", "-d(n) / d(l)"),
        ("inverse", "d(n) / d(l)"),
        ("inverse", "np.mean(np.diff(n) / -np.diff(l))"),
        ("one point", "-l[-1] / n[-1]"),
        ("one point", "-math.log(e[0], N[0])"),
        ("one point", "np.mean(-l[1:] / n[1:])"),
        ("quotient", "(l[0] / l[-1]) / (n[-1] / n[0])"),
        ("quotient", "l[1] / l[0]"),
        ("intercept", "fit(n, l)[1]"),
        ("intercept", "math.exp(fit(n, l)[1])"),
        ("intercept", "fit(np.log10(N), np.log10(e))[1]"),
        ("intercept", "fit(np.log2(N), np.log2(e))[1]"),
        ("fit", "fit(n, l)"),
        ("fit", "-fit(n, l)"),
        ("fit", "tuple(fit(n, l))"),
        ("fit", "fit(n, l).tolist()"),
        ("list", "np.diff(l) / np.diff(n)"),
        ("list", "list(-np.diff(l) / np.diff(n))"),
        ("base", "-fit(np.log10(N), l)[0]"),
        ("base", "-d(np.log2(e)) / d(n)"),
        ("base", "-d(np.log10(e)) / d(n)"),
        ("base", "-d(l) / d(np.log2(N))"),
        ("base", "-d(np.log10(e)) / d(np.log2(N))"),
        ("base", "-d(np.log2(e)) / d(np.log10(N))"),
        ("rounded", "round(-fit(n, l)[0])"),
        ("rounded", "int(-fit(n, l)[0] + 1e-6)"),
        ("rounded", "math.ceil(-fit(n, l)[0] - 1e-6)"),
    ]
]


ALL_OF_IT = (
    "sigma = math.sqrt((1 - abar) / abar)",
    "sigma_next = math.sqrt((1 - abar_next) / abar_next)",
    "xbar = x_t / math.sqrt(abar)",
    "d1 = eps_fn(x_t, t)",
    "way = sigma_next - sigma",
    "euler = xbar + way * d1",
    "d2 = eps_fn(math.sqrt(abar_next) * euler, t_next)",
    "xbar_next = xbar + way * (d1 + d2) / 2",
    "return math.sqrt(abar_next) * xbar_next",
)


def wrong_heun(*lines):
    """The right function with each given line in the place of the one that sets the same name."""
    names = [line.split()[0] for line in ALL_OF_IT]
    body = list(ALL_OF_IT)
    for line in lines:
        body[names.index(line.split()[0])] = line
    space = {"torch": torch, "math": math}
    exec(
        "def heun_step(eps_fn, x_t, t, t_next, abar, abar_next):\n    " + "\n    ".join(body),
        space,
    )
    return space["heun_step"]


def only_ddim(eps_fn, x_t, t, t_next, abar, abar_next):
    eps = eps_fn(x_t, t)
    x_0 = (x_t - math.sqrt(1 - abar) * eps) / math.sqrt(abar)
    return math.sqrt(abar_next) * x_0 + math.sqrt(1 - abar_next) * eps


def mixed_ddim(estimate, noise):
    """DDIM twice, in the end with these two for the estimate of x_0 and for the noise put back."""

    def heun_step(eps_fn, x_t, t, t_next, abar, abar_next):
        def move(of_x0, of_noise):
            x_0 = (x_t - math.sqrt(1 - abar) * of_x0) / math.sqrt(abar)
            return math.sqrt(abar_next) * x_0 + math.sqrt(1 - abar_next) * of_noise

        d1 = eps_fn(x_t, t)
        d2 = eps_fn(move(d1, d1), t_next)
        names = {"d1": d1, "d2": d2}
        return move(eval(estimate, names), eval(noise, names))

    return heun_step


def heun_exchanged(eps_fn, x_t, t, t_next, abar, abar_next):
    return heun_as_in_the_lesson(eps_fn, x_t, t, t_next, abar_next, abar)


def heun_that_spoils_x_t(eps_fn, x_t, t, t_next, abar, abar_next):
    d1 = eps_fn(x_t, t)
    x_t /= math.sqrt(abar)
    way = math.sqrt((1 - abar_next) / abar_next) - math.sqrt((1 - abar) / abar)
    d2 = eps_fn(math.sqrt(abar_next) * (x_t + way * d1), t_next)
    return math.sqrt(abar_next) * (x_t + way * (d1 + d2) / 2)


HALF_WAY = "euler = xbar + way / 2 * d1"
SECOND = "xbar_next = xbar + way * d2"
MEAN_SIGMA = "1 / math.sqrt(1 + ((sigma + sigma_next) / 2)**2)"
NO_SCALE = ("xbar = x_t", "d2 = eps_fn(euler, t_next)", "return xbar_next")
WRONG_HEUN = [
    (name, function if callable(function) else wrong_heun(*function))
    for name, function in [
        ("euler", only_ddim),
        ("euler", ("d2 = None", "xbar_next = euler")),
        ("euler", ("xbar_next = xbar + way * d1",)),
        ("first x", ("d1 = eps_fn(xbar, t)",)),
        ("first x", ("d1 = eps_fn(xbar, t)", "d2 = eps_fn(euler, t_next)")),
        ("same t", ("d2 = eps_fn(math.sqrt(abar_next) * euler, t)",)),
        ("first t", ("d1 = eps_fn(x_t, t_next)",)),
        ("first t", ("d1 = eps_fn(x_t, t_next)", "d2 = eps_fn(math.sqrt(abar_next) * euler, t)")),
        ("same x", ("d2 = eps_fn(x_t, t_next)",)),
        ("same x", ("d2 = eps_fn(math.sqrt(abar_next) * xbar, t_next)",)),
        ("same x", ("d2 = eps_fn(xbar, t_next)",)),
        ("not scaled", ("d2 = eps_fn(euler, t_next)",)),
        ("not back", ("return xbar_next",)),
        ("not back", ("d2 = eps_fn(euler, t_next)", "return xbar_next")),
        ("start", ("xbar = x_t",)),
        ("in x", NO_SCALE),
        (
            "in x",
            (*NO_SCALE, "sigma = math.sqrt(1 - abar)", "sigma_next = math.sqrt(1 - abar_next)"),
        ),
        ("old scale", ("d2 = eps_fn(math.sqrt(abar) * euler, t_next)",)),
        ("old scale", ("return math.sqrt(abar) * xbar_next",)),
        ("old scale", ("d2 = eps_fn(math.sqrt(abar) * euler, t_next)", "return math.sqrt(abar) * xbar_next")),
        ("no half", ("xbar_next = xbar + way * (d1 + d2)",)),
        ("no half", ("xbar_next = euler + way * d2",)),
        ("second only", (SECOND,)),
        ("midpoint", (HALF_WAY, SECOND)),
        ("midpoint", (HALF_WAY,)),
        ("midpoint", (HALF_WAY, SECOND, f"d2 = eps_fn({MEAN_SIGMA} * euler, (t + t_next) // 2)")),
        ("midpoint", (HALF_WAY, SECOND, f"d2 = eps_fn({MEAN_SIGMA} * euler, t_next)")),
        (
            "midpoint",
            (HALF_WAY, SECOND, "d2 = eps_fn(math.sqrt((abar + abar_next) / 2) * euler, (t + t_next) // 2)"),
        ),
        ("sigma", ("sigma = math.sqrt(1 - abar)", "sigma_next = math.sqrt(1 - abar_next)")),
        ("variance", ("sigma = (1 - abar) / abar", "sigma_next = (1 - abar_next) / abar_next")),
        (
            "inverse",
            ("sigma = math.sqrt(abar / (1 - abar))", "sigma_next = math.sqrt(abar_next / (1 - abar_next))"),
        ),
        ("root", ("xbar = x_t / abar",)),
        ("root", ("d2 = eps_fn(abar_next * euler, t_next)",)),
        ("root", ("return abar_next * xbar_next",)),
        ("root", ("d2 = eps_fn(abar_next * euler, t_next)", "return abar_next * xbar_next")),
        (
            "root",
            ("xbar = x_t / abar", "d2 = eps_fn(abar_next * euler, t_next)", "return abar_next * xbar_next"),
        ),
        ("sign", ("way = sigma - sigma_next",)),
        ("sign", ("euler = xbar - way * d1",)),
        ("sign", ("xbar_next = xbar - way * (d1 + d2) / 2",)),
        ("swapped", heun_exchanged),
        ("twice", ("xbar_next = euler + way * (d1 + d2) / 2",)),
        ("mixed", mixed_ddim("d1", "(d1 + d2) / 2")),
        ("mixed", mixed_ddim("d1", "d2")),
        ("mixed", mixed_ddim("(d1 + d2) / 2", "d1")),
        ("mixed", mixed_ddim("(d1 + d2) / 2", "d2")),
        ("mixed", mixed_ddim("d2", "(d1 + d2) / 2")),
        ("mixed", mixed_ddim("d2", "d1")),
        ("calls", ("euler = xbar + way * eps_fn(x_t, t)",)),
        ("calls", ("xbar_next = xbar + way * (d1 + d2) / 2 + 0 * eps_fn(x_t, t_next)",)),
        ("in place", heun_that_spoils_x_t),
        ("in place", ("return x_t.copy_(math.sqrt(abar_next) * xbar_next)",)),
        ("in place", ("xbar = x_t.div_(math.sqrt(abar)).clone()", "d1 = eps_fn(x_t * abar**0.5, t)")),
        ("in place", ("euler = x_t.mul_(0.3) + way * d1",)),
        ("in place", ("return math.sqrt(abar_next) * xbar_next + 0 * t.zero_().sum()",)),
    ]
]

WRONG = {"10.1": WRONG_ORDER, "10.2": WRONG_HEUN}

UNNAMED = [
    (
        "10.1",
        wrong_order("1.234 * -fit(n, l)[0]"),
        "for steps = [5, 8, 24, 60] and errors = [8, 5, 1.67, 0.667] it should be 1, got 1.234",
    ),
    ("10.1", lambda steps, errors: 1.0, "for steps = [4, 10, 15, 48, 77]"),
    ("10.1", wrong_order("-fit(n, l)[0] + (N[-1] == 130)"), "for steps = [6, 17, 44, 130]"),
    ("10.1", lambda steps, errors: "two", "one number, not a value of type str"),
    ("10.1", lambda steps, errors: True, "one number, not a value of type bool"),
    ("10.1", lambda steps, errors: 2j, "one number, not a value of type complex"),
    ("10.1", lambda steps, errors: math.inf, "one finite number, got inf"),
    ("10.1", wrong_order("l * n"), "must return one number, got 4 of them"),
    ("10.1", lambda steps, errors: torch.zeros(7), "must return one number, got 7 of them"),
    ("10.1", wrong_order("float('nan')"), "one finite number, got nan"),
    ("10.1", lambda steps, errors: print(end=""), "returns nothing"),
    (
        "10.2",
        wrong_heun("xbar_next = xbar + way * (d1 + d2) / 3"),
        "with t = 800, t_next = 550, abar = 0.2, abar_next = 0.45 one pixel should be",
    ),
    (
        "10.2",
        wrong_heun("xbar_next = xbar + way * (d1 + d2) / (2 if abar < 0.4 else 3)"),
        "with t = 400, t_next = 150, abar = 0.5, abar_next = 0.85 one pixel",
    ),
    ("10.2", wrong_heun("return xbar_next[0]"), "must have shape [2, 3, 4, 5], that is [B, C, H, W]"),
    ("10.2", wrong_heun("return xbar_next / 0"), "infinite"),
    ("10.2", wrong_heun("way = (sigma_next - sigma) ** 0.5"), "complex"),
    ("10.2", wrong_heun("sigma = math.nan"), "holds NaN"),
    ("10.2", wrong_heun("return abar"), "must return a tensor, got a float"),
    ("10.2", wrong_heun("return print(end='')"), "returns nothing"),
    ("10.2", lambda eps_fn, x_t, t, t_next, abar, abar_next: x_t, "The network is never asked"),
]

# What the network refuses, as a real one would: the learner's line is shown.
REFUSED = [
    ("d2 = eps_fn(euler[0], t_next)", "x of shape [2, 3, 4, 5], got one of shape [3, 4, 5]"),
    ("d2 = eps_fn(t_next, euler)", "got one of shape [2]"),
    ("d2 = eps_fn(abar, t_next)", "got one of type float"),
    ("d2 = eps_fn(euler, t_next[0])", "t of shape [2], got one of shape []"),
    ("d2 = eps_fn(euler, 550)", "got one of type int"),
]


def results_of_formulas():
    """For each exercise what every wrong formula gives in all its cases, after what the right one gives."""
    given = [(list(steps), lesson10._errors(steps, p, C)) for steps, p, C in lesson10.LAWS]
    orders = [("right", lesson10._order), *lesson10._wrong_orders()]
    steps = [("right", lesson10._right_heun), *lesson10.WRONG_HEUN]
    return {
        "10.1": [(name, torch.tensor([float(formula(*one)) for one in given])) for name, formula in orders],
        "10.2": [(name, torch.stack(lesson10._results(formula))) for name, formula in steps],
    }


def random_cases(seed):
    """Other cases for each exercise: power laws; timesteps and levels of a step."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high, size=()):
        return low + (high - low) * torch.rand(size, generator=generator, dtype=torch.float64)

    def law():
        steps = (float(draw(2, 9)) * draw(1.5, 3.5, (4,)).cumprod(dim=0)).round().int().tolist()
        return steps, float(draw(0.5, 4)), float(draw(0.1, 50))

    def step():
        low, high = draw(0.02, 0.98, (2,)).sort().values.tolist()
        return int(draw(500, 1000)), int(draw(0, 500)), low, high

    return {"LAWS": [law() for _ in range(4)], "CASES": [step() for _ in range(3)]}
