"""Answers to lesson 07's exercises: right ones, each written another way, and the wrong ones with a name."""

import torch

from classroom.checks import lesson07
from lessons_lib import guidance

# ---- right answers ----


def scale_by_the_share(eps_a, a, eps_b, b, w):
    return eps_a + (w - a) / (b - a) * (eps_b - eps_a)


def scale_with_two_weights(eps_a, a, eps_b, b, w):
    return ((b - w) * eps_a + (w - a) * eps_b) / (b - a)


def scale_with_lerp(eps_a, a, eps_b, b, w):
    return torch.lerp(eps_a, eps_b, (w - a) / (b - a))


def scale_from_b(eps_a, a, eps_b, b, w):
    return eps_b + (eps_a - eps_b) / (a - b) * (w - b)


def scale_by_way_of_uncond(eps_a, a, eps_b, b, w):
    """Both predictions are known again: the straight line, read off at 0 and 1."""
    difference = (eps_b.double() - eps_a.double()) / (b - a)
    uncond = eps_a - a * difference
    return uncond + w * difference


def scale_a_sample_at_a_time(eps_a, a, eps_b, b, w):
    result = eps_a.clone()
    for i in range(len(result)):
        result[i] += (eps_b[i] - eps_a[i]).mul_(w - a).div_(b - a)
    return result


def away_in_one_batch(model, x_t, t, y, y_not, w):
    eps_not, eps_y = model(torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([y_not, y])).chunk(2)
    return eps_not + w * (eps_y - eps_not)


def away_the_other_way_round(model, x_t, t, y, y_not, w):
    B = len(x_t)
    eps = model(x_t.repeat(2, 1, 1, 1), t.repeat(2), torch.cat((y, y_not)))
    return w * eps[:B] + (1 - w) * eps[B:]


def away_interleaved(model, x_t, t, y, y_not, w):
    labels = torch.stack([y_not, y], dim=1).flatten()
    eps = model(x_t.repeat_interleave(2, dim=0), t.repeat_interleave(2), labels)
    return torch.lerp(eps[::2], eps[1::2], w)


def away_with_two_axes(model, x_t, t, y, y_not, w):
    both = torch.stack([y_not, y])
    x = x_t.expand(2, *x_t.shape).flatten(0, 1)
    eps = model(x, t.expand(2, -1).flatten(), both.flatten()).unflatten(0, both.shape)
    return eps[0] + w * torch.diff(eps, dim=0)[0]


def away_with_the_library(model, x_t, t, y, y_not, w):
    """with_cfg, for a network whose null label is each sample's own y_not."""

    def network(x, t, labels):
        return model(x, t, torch.cat([y_not, labels[len(y) :]]))

    network.null_label = 0  # replaced above
    return guidance.with_cfg(network, y, w)(x_t, t)


RIGHT = [
    ("07.1", scale_by_the_share),
    ("07.1", scale_with_two_weights),
    ("07.1", scale_with_lerp),
    ("07.1", scale_from_b),
    ("07.1", scale_by_way_of_uncond),
    ("07.1", scale_a_sample_at_a_time),
    ("07.2", away_in_one_batch),
    ("07.2", away_the_other_way_round),
    ("07.2", away_interleaved),
    ("07.2", away_with_two_axes),
    ("07.2", away_with_the_library),
]

# ---- classic wrong answers: the right one with one thing replaced ----


def wrong_scale(formula):
    """A formula: A and B the two predictions, a, b and w the scales, d the difference, s the share."""

    def at_scale(eps_a, a, eps_b, b, w):
        names = {"A": eps_a, "B": eps_b, "a": a, "b": b, "w": w, "torch": torch}
        return eval(formula, names | {"d": eps_b - eps_a, "s": (w - a) / (b - a)})

    return at_scale


def scale_into_eps_b(eps_a, a, eps_b, b, w):
    eps_b -= eps_a
    return eps_a + (w - a) / (b - a) * eps_b


WRONG_SCALE = [
    *(
        (name, wrong_scale(formula))
        for name, formula in [
            ("not divided", "A + (w - a) * d"),
            ("not divided", "torch.lerp(A, B, w - a)"),
            ("by b", "A + (w - a) / b * d"),
            ("w", "A + w / (b - a) * d"),
            ("w", "A + w / b * d"),
            ("from b", "A + (w - b) / (b - a) * d"),
            ("starts at b", "B + s * d"),
            ("wrong end", "A + (b - w) / (b - a) * d"),
            ("wrong end", "A + (w - b) / (a - b) * d"),
            ("wrong end", "s * A + (1 - s) * B"),
            ("wrong end", "B - s * d"),
            ("as cond", "A + w * d"),
            ("as cond", "(1 - w) * A + w * B"),
            ("as cond", "B + w * (A - B)"),
            ("clamped", "A + min(max(s, 0), 1) * d"),
            ("clamped", "A + min(s, 1) * d"),
            ("clamped", "A + max(s, 0) * d"),
            ("average", "(A + B) / 2"),
            ("average", "torch.stack([A, B]).mean(0)"),
            ("unchanged", "A"),
            ("unchanged", "B.clone()"),
            ("ratio", "w / b * B"),
            ("ratio", "w / a * A"),
            ("ratio", "(w / a * A + w / b * B) / 2"),
            ("ratio", "(A + B) / (a + b) * w"),
            ("sign", "A - s * d"),
            ("sign", "A + s * (A - B)"),
            ("sign", "A + (w - a) / (a - b) * d"),
            ("distance", "A + abs(s) * d"),
            ("distance", "A + abs(w - a) / (b - a) * d"),
            ("distance", "A + (w - a) / abs(b - a) * d"),
            ("turned", "A + (b - a) / (w - a) * d"),
            ("no difference", "A + s * B"),
            ("no difference", "A + w * B"),
            ("no start", "s * d"),
            ("no start", "w * d"),
            ("in place", "A.add_(s * d)"),
            ("in place", "A.lerp_(B, s)"),
            ("in place", "B.sub_(A).mul_(s).add_(A)"),
        ]
    ),
    ("in place", scale_into_eps_b),
]


def wrong_away(
    x="torch.cat([x_t, x_t])",
    t="torch.cat([t, t])",
    labels="torch.cat([y_not, y])",
    cut="eps.chunk(2)",
    result="n + w * (c - n)",
):
    """One call, written as formulas: n and c the answers for y_not and y."""
    asked = x, t, labels

    def away_from(model, x_t, t, y, y_not, w):
        names = {"x_t": x_t, "t": t, "y": y, "y_not": y_not, "w": w, "B": len(y), "torch": torch}
        names["null"] = torch.full_like(y, model.null_label)
        names["eps"] = model(*(eval(formula, names) for formula in asked))
        names |= dict(zip("nc", eval(cut, names), strict=True))
        return eval(result, names)

    return away_from


def wrong_calls(formula):
    """Several calls, written as one formula: e(labels) asks the network."""

    def away_from(model, x_t, t, y, y_not, w):
        names = {"e": lambda labels, t=t: model(x_t, t, labels), "y": y, "y_not": y_not, "w": w, "t": t}
        return eval(formula, names)

    return away_from


def away_sample_by_sample(model, x_t, t, y, y_not, w):
    result = []
    for i in range(len(y)):
        x, time = x_t[i : i + 1].expand(2, -1, -1, -1), t[i].repeat(2)
        n, c = model(x, time, torch.stack([y_not[i], y[i]]))
        result.append(n + w * (c - n))
    return torch.stack(result)


def away_into_the_labels(model, x_t, t, y, y_not, w):
    before = y.clone()
    y.copy_(y_not)
    n, c = model(torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([y, before])).chunk(2)
    return n + w * (c - n)


INTERLEAVED = "x_t.repeat_interleave(2, dim=0)"
EVERY_OTHER = "torch.stack([y_not, y], dim=1).flatten()"
WRONG_AWAY = [
    ("t", wrong_away(t="t")),
    ("t", wrong_away(t="t[:1]")),
    ("t", wrong_away(t="t[0]")),
    ("t", wrong_away(t="t[:1].repeat(2 * B)")),
    ("t", wrong_away(t="t.repeat_interleave(2)")),
    ("t", wrong_away(t="torch.cat([t, torch.zeros_like(t)])")),
    ("t", wrong_away(x=INTERLEAVED, labels=EVERY_OTHER, cut="(eps[::2], eps[1::2])")),
    ("t", wrong_calls("e(y_not, t - 1) + w * (e(y, t - 1) - e(y_not, t - 1))")),
    ("x_t", wrong_away(x="torch.cat([x_t, torch.zeros_like(x_t)])")),
    ("x_t", wrong_away(x="torch.cat([x_t, x_t]) / 2")),
    ("x_t", wrong_away(x="torch.randn(2 * B, *x_t.shape[1:])")),
    ("null", wrong_away(labels="torch.cat([null, y])")),
    ("null", wrong_away(labels="torch.cat([null, y_not])")),
    ("null", wrong_calls("e(None) + w * (e(y) - e(y_not))")),
    ("null", wrong_calls("e(None) + w * (e(y) - e(None))")),
    ("null", wrong_calls("e(None) + w * (e(y) - e(None)) - w * (e(y_not) - e(None))")),
    ("null", wrong_calls("e(y_not) + w * (e(y) - e(None))")),
    ("mixed", wrong_away(labels=EVERY_OTHER)),
    ("mixed", wrong_away(x=INTERLEAVED)),
    ("mixed", wrong_away(x=INTERLEAVED, t="t.repeat_interleave(2)")),
    ("mixed", wrong_away(labels="torch.cat([y_not.flip(0), y])")),
    ("mixed", wrong_away(labels="torch.cat([y_not, y[:1].expand(B)])")),
    ("mixed", wrong_away(x="torch.cat([x_t, x_t.roll(1, 0)])")),
    ("y_not", wrong_away(labels="torch.cat([y, y])")),
    ("y_not", wrong_calls("e(y)")),
    ("y_not", wrong_calls("w * e(y)")),
    ("y", wrong_away(labels="torch.cat([y_not, y_not])")),
    ("y", wrong_away(labels="torch.cat([y_not, torch.where(t[:1] == 40, 3, 4).expand(B)])")),
    ("y", wrong_calls("(1 - w) * e(y_not)")),
    ("plus one", wrong_away(result="c + w * (c - n)")),
    ("plus one", wrong_away(result="(1 + w) * c - w * n")),
    ("plus one", wrong_calls("e(y) + w * (e(y) - e(y_not))")),
    ("exchanged", wrong_away(cut="eps.chunk(2)[::-1]")),
    ("exchanged", wrong_away(labels="torch.cat([y, y_not])")),
    ("exchanged", wrong_away(result="w * n + (1 - w) * c")),
    ("exchanged", wrong_away(result="c - w * (c - n)")),
    ("sign", wrong_away(result="n - w * (c - n)")),
    ("sign", wrong_away(result="n + w * (n - c)")),
    ("sum", wrong_away(result="n + w * (c + n)")),
    ("sum", wrong_away(result="c + w * (c + n)")),
    ("sum", wrong_away(result="w * (c + n)")),
    ("outside", wrong_away(result="w * (n + (c - n))")),
    ("outside", wrong_away(result="w * (c + (n - c))")),
    ("no difference", wrong_away(result="n + w * c")),
    ("no difference", wrong_away(result="n - w * c")),
    ("no difference", wrong_away(result="c - w * n")),
    ("no difference", wrong_away(result="w * c - n")),
    ("no start", wrong_away(result="w * (c - n)")),
    ("no start", wrong_away(result="w * (n - c)")),
    ("no start", wrong_away(result="c - n")),
    ("no start", wrong_away(result="n - c")),
    ("w", wrong_away(result="n")),
    ("w", wrong_away(result="c")),
    ("w", wrong_away(result="n + (c - n)")),
    ("w", wrong_away(result="(n + c) / 2")),
    ("split", wrong_away(cut="(eps[::2], eps[1::2])")),
    ("split", wrong_away(x=INTERLEAVED, t="t.repeat_interleave(2)", labels=EVERY_OTHER)),
    ("split", wrong_away(cut="eps.unflatten(0, (B, 2)).unbind(1)[::-1]")),
    ("halves", wrong_away(result="eps")),
    ("halves", wrong_away(result="torch.cat([n + w * (c - n)] * 2)")),
    ("calls", wrong_calls("e(y_not) + w * (e(y) - e(y_not))")),
    ("calls", wrong_calls("(1 - w) * e(y_not) + w * e(y)")),
    ("calls", away_sample_by_sample),
    (
        "more",
        wrong_away(
            x="x_t.repeat(3, 1, 1, 1)",
            t="t.repeat(3)",
            labels="torch.cat([y_not, y, null])",
            cut="eps.chunk(3)[:2]",
        ),
    ),
    ("in place", away_into_the_labels),
    ("in place", wrong_away(result="x_t.copy_(n + w * (c - n))")),
    ("in place", wrong_away(result="n + w * (c - n) + 0 * t.zero_().sum()")),
]

WRONG = {"07.1": WRONG_SCALE, "07.2": WRONG_AWAY}

UNNAMED = [
    (
        "07.1",
        wrong_scale("A + 2 * s * d"),
        "with a = 1.5, b = 4, w = 3, eps_a is multiplied by -0.200 and eps_b by 1.200, which should be 0.400 "
        "and 0.600",
    ),
    ("07.1", wrong_scale("A + s * d if w else A"), "with a = 4, b = 1.5, w = 0, eps_a is multiplied by"),
    ("07.1", wrong_scale("A + s * d.abs()"), "with a = 1.5, b = 4, w = 3, one pixel should be"),
    (
        "07.1",
        wrong_scale("(A + s * d)[0]"),
        "must have shape [3, 2, 4, 5], that is [B, C, H, W], got [2, 4, 5]",
    ),
    ("07.1", wrong_scale("torch.cat([A, B])"), "must have shape [3, 2, 4, 5]"),
    ("07.1", wrong_scale("A + torch.tensor(-w).sqrt() * d"), "holds NaN"),
    ("07.1", wrong_scale("A / 0"), "infinite"),
    ("07.1", wrong_scale("s"), "must return a tensor, got a float"),
    ("07.1", wrong_scale("print(end='')"), "returns nothing"),
    (
        "07.2",
        wrong_away(result="n + 2 * w * (c - n)"),
        "with t = [40, 310, 820], y = [4, 1, 5], y_not = [0, 6, 2], w = 3, one pixel should be",
    ),
    ("07.2", wrong_away(result="n + abs(w) * (c - n)"), "y_not = [5, 1, 6], w = -0.6, one pixel should be"),
    ("07.2", wrong_away(result="(n + w * (c - n)).sum(0)"), "must have shape [3, 2, 4, 5]"),
    ("07.2", wrong_away(result="n / 0"), "infinite"),
    ("07.2", wrong_away(result="print(end='')"), "returns nothing"),
    ("07.2", lambda model, x_t, t, y, y_not, w: x_t, "The network is never asked"),
    (
        "07.2",
        wrong_away(labels="torch.cat([y_not, y[:2], torch.where(t[:1] == 40, 3, 4)])"),
        "one pixel should be",
    ),
]

# What the network refuses, as a real one would: the learner's line is shown.
REFUSED = [
    ("model(x_t, t, torch.cat([y_not, y]))", "got 3 samples and labels of shape [6]"),
    ("model(torch.cat([x_t, x_t]), torch.cat([t, t]), y)", "got 6 samples and labels of shape [3]"),
    ("model(torch.cat([x_t, x_t], dim=1), t, y)", "images of shape [B, 2, 4, 5]"),
    ("model(x_t, 7, y)", "got 3 samples and a t of type int"),
    ("model(x_t, t[0], y)", "got 3 samples and t of shape []"),
    ("model(x_t, t, 7)", "got 3 samples and labels of type int"),
    ("model(x_t, t, y.float())", "must be int64 from 0 to 7"),
    ("model(x_t, t, y + 5)", "must be int64 from 0 to 7"),
    ("model(t, x_t, y)", "images of shape [B, 2, 4, 5]"),
]


def results_of_formulas():
    """For each exercise what every wrong formula gives in all its cases, after what the right one gives."""
    scales = [("right", lesson07._right_factors), *lesson07.WRONG_SCALES]
    mixtures = [("right", lesson07._right_mixture), *lesson07.WRONG_MIXTURES]
    return {
        "07.1": [
            (name, torch.tensor([factors(*case) for case in lesson07.SCALES])) for name, factors in scales
        ],
        "07.2": [
            (name, torch.stack([lesson07._mixture(formula, case) for case in lesson07.CASES]))
            for name, formula in mixtures
        ],
    }


def random_cases(seed):
    """Other cases for each exercise: scales; timesteps, labels that differ, and a scale."""
    generator = torch.Generator().manual_seed(seed)
    scales = 0.3 + 8 * torch.rand(4, 3, generator=generator, dtype=torch.float64)
    size = lesson07.SHAPE[0]

    def case(number):
        t = torch.randint(1000, (size,), generator=generator)
        labels = torch.randperm(lesson07.CLASSES, generator=generator)
        w = float(4 * torch.randn((), generator=generator))
        y, y_not = labels[:size], labels[size : 2 * size]
        return (number, *(tuple(some.tolist()) for some in (t, y, y_not)), w)

    return {
        "SCALES": [(a, b + (0.5 if b > a else -0.5), w) for a, b, w in scales.tolist()],
        "CASES": [case(100 * seed + i) for i in range(3)],
    }
