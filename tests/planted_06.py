"""Answers to lesson 06's exercises: right ones in several ways, and the wrong ones that have a name."""

import functools
import math

import torch
import torch.nn.functional as F

from classroom.checks import lesson06
from lessons_lib.schedules import NoiseSchedule, predict_eps, predict_x0

# ---- right answers ----


def pull_in_one_line(x_0, gradient, abar, s):
    return x_0 + s * (1 - abar) / math.sqrt(abar) * gradient


def pull_by_way_of_eps(x_0, gradient, abar, s):
    """For any x_t: here one of zeros."""
    signal, noise = abar**0.5, (1 - abar) ** 0.5
    eps = (0 - signal * x_0) / noise
    guided = eps - s * noise * gradient
    return (0 - noise * guided) / signal


def pull_with_tensors(x_0, gradient, abar, s):
    abar = torch.tensor(abar, dtype=torch.float64)
    return torch.add(x_0.double(), gradient, alpha=float(s * (abar.rsqrt() - abar.sqrt())))


def pull_a_sample_at_a_time(x_0, gradient, abar, s):
    pulled = x_0.clone()
    for i in range(len(x_0)):
        for c in range(x_0.shape[1]):
            pulled[i, c] += gradient[i, c] * s * (1 - abar) * abar**-0.5
    return pulled


def pull_with_the_library(x_0, gradient, abar, s):
    """Ten equal steps to this level, and the last one of them."""
    schedule = NoiseSchedule(torch.full((10,), 1 - abar**0.1, dtype=torch.float64), "to one level")
    t = torch.full((len(x_0),), 9)
    x_t = torch.ones_like(x_0)
    eps = predict_eps(schedule, x_t, t, x_0) - s * math.sqrt(1 - abar) * gradient
    return predict_x0(schedule, x_t, t, eps)


def any_by_mask(logits, wanted):
    return logits.log_softmax(dim=1).masked_fill(~wanted, -math.inf).logsumexp(dim=1)


def any_by_difference(logits, wanted):
    chosen = torch.where(wanted, logits, -torch.inf)
    return torch.logsumexp(chosen, 1) - torch.logsumexp(logits, 1)


def any_in_a_loop(logits, wanted):
    log_p = F.log_softmax(logits, dim=-1)
    return torch.stack([log_p[i][wanted[i]].logsumexp(0) for i in range(len(log_p))])


def any_by_log_of_the_mask(logits, wanted):
    return (logits - logits.logsumexp(dim=1, keepdim=True) + wanted.float().log()).logsumexp(dim=1)


def any_by_a_large_number(logits, wanted):
    return torch.logsumexp(F.log_softmax(logits, dim=1) - 1e9 * ~wanted, dim=1)


def any_by_odds(logits, wanted):
    """The wanted against the others: a question of yes or no."""
    yes = logits.masked_fill(~wanted, -math.inf).logsumexp(dim=1)
    no = logits.masked_fill(wanted, -math.inf).logsumexp(dim=1)
    return F.logsigmoid(yes - no)


def any_by_two_classes(logits, wanted):
    two = [torch.where(mask, logits, -math.inf).logsumexp(dim=1) for mask in (wanted, ~wanted)]
    return -F.cross_entropy(torch.stack(two, dim=1), torch.zeros(len(logits)).long(), reduction="none")


def any_by_hand(logits, wanted):
    log_p = torch.distributions.Categorical(logits=logits.double()).logits
    most = log_p.masked_fill(~wanted, -math.inf).max(dim=1, keepdim=True).values
    return ((log_p - most).clamp(max=0).exp() * wanted).sum(dim=1).log() + most[:, 0]


def any_class_after_class(logits, wanted):
    rows = []
    for scores, mask in zip(logits.log_softmax(dim=1), wanted, strict=True):
        rows.append(
            functools.reduce(torch.logaddexp, [one for one, yes in zip(scores, mask, strict=True) if yes])
        )
    return torch.stack(rows)


RIGHT = [
    ("06.1", pull_in_one_line),
    ("06.1", pull_by_way_of_eps),
    ("06.1", pull_with_tensors),
    ("06.1", pull_a_sample_at_a_time),
    ("06.1", pull_with_the_library),
    ("06.2", any_by_mask),
    ("06.2", any_by_difference),
    ("06.2", any_in_a_loop),
    ("06.2", any_by_log_of_the_mask),
    ("06.2", any_by_a_large_number),
    ("06.2", any_by_odds),
    ("06.2", any_by_two_classes),
    ("06.2", any_by_hand),
    ("06.2", any_class_after_class),
]

# ---- wrong answers ----


def wrong_pull(formula):
    """A formula: x, g, a, s the arguments, r the square root, k the right factor."""

    def pulled_estimate(x_0, gradient, abar, s):
        names = {"x": x_0, "g": gradient, "a": abar, "s": s, "r": math.sqrt, "torch": torch, "F": F}
        return eval(formula, names | {"k": s * (1 - abar) / math.sqrt(abar)})

    return pulled_estimate


def pull_in_place(x_0, gradient, abar, s):
    x_0 += s * (1 - abar) / math.sqrt(abar) * gradient
    return x_0


WRONG_PULL = [
    (name, wrong_pull(formula))
    for name, formula in [
        ("sign", "x - k * g"),
        ("eps", "x - s * r(1 - a) * g"),
        ("eps", "x + s * r(1 - a) * g"),
        ("root", "x + s * r(1 - a) / r(a) * g"),
        ("root", "x - s * ((1 - a) / a)**0.5 * g"),
        ("root", "x + s * r(1 - a) / a * g"),
        ("no division", "x + s * (1 - a) * g"),
        ("no division", "x - s * (1 - a) * g"),
        ("abar", "x + s * (1 - a) / a * g"),
        ("multiplied", "x + s * (1 - a) * r(a) * g"),
        ("multiplied", "x + s * r(1 - a) * r(a) * g"),
        ("no 1 - abar", "x + s / r(a) * g"),
        ("plain", "x + s * g"),
        ("plain", "x - s * g"),
        ("plain", "x + g"),
        ("exchanged", "x + s * a / r(1 - a) * g"),
        ("exchanged", "x + s * r(a) / r(1 - a) * g"),
        ("exchanged", "x + s * a * g"),
        ("exchanged", "x + s * a / r(a) * g"),
        ("upside down", "x + s * r(a) / (1 - a) * g"),
        ("no s", "x + (1 - a) / r(a) * g"),
        ("s squared", "x + s**2 * (1 - a) / r(a) * g"),
        ("1 + s", "x + (1 + s) * (1 - a) / r(a) * g"),
        ("over s", "x + (1 - a) / (s * r(a)) * g"),
        ("x_0 too", "(x + s * (1 - a) * g) / r(a)"),
        ("x_0 too", "(x + (1 - a) * g) / r(a)"),
        ("x_0 too", "x / r(a) + k * g"),
        ("x_0 too", "(x - r(1 - a) * (-s * r(1 - a) * g)) / r(a)"),
        ("x_0 too", "(x - s * r(1 - a) * g) / r(a)"),
        ("x_0 too", "r(a) * x + s * (1 - a) * g"),
        ("x_0 too", "r(a) * x + s * r(1 - a) * g"),
        ("x_0 too", "r(a) * x + k * g"),
        ("s on x_0", "s * (x + (1 - a) / r(a) * g)"),
        ("s on x_0", "x + s * ((1 - a) / r(a) * g - x)"),
        ("only the pull", "k * g"),
        ("only the pull", "-k * g"),
        ("norm", "x + k * g / g.norm()"),
        ("norm", "x + k * g / (g.flatten(1).norm(dim=1)[:, None, None, None] + 1e-8)"),
        ("norm", "x + k * F.normalize(g, dim=1)"),
        ("norm", "x + k * F.normalize(g.flatten(1)).view_as(g)"),
        ("norm", "x + k * g / g.abs().max()"),
        ("norm", "x + k * g / g.abs().amax(dim=(1, 2, 3), keepdim=True)"),
        ("norm", "x + k * g.sign()"),
        ("clipped", "(x + k * g).clamp(-1, 1)"),
        ("in place", "x.add_(k * g)"),
        ("in place", "g.mul_(k) + x"),
    ]
]
WRONG_PULL.append(("in place", pull_in_place))


def wrong_any(formula):
    """A formula: z, w the logits and what is wanted, l and p the log-probabilities and probabilities."""

    def any_of(logits, wanted):
        names = {"z": logits, "w": wanted, "torch": torch, "F": F, "math": math, "inf": math.inf}
        l = logits.log_softmax(dim=1)  # noqa: E741
        reduce = functools.partial(functools.reduce, torch.logaddexp)
        return eval(formula, names | {"l": l, "p": l.exp(), "reduce": reduce})

    return any_of


def any_from_probabilities(logits, wanted):
    """Where the sum rounds to 0 the largest takes its place: for the numbers, not for autograd."""
    log_p = logits.double().log_softmax(dim=1)
    total = (log_p.exp() * wanted).sum(dim=1)
    return torch.where(total > 0, total.log(), log_p.masked_fill(~wanted, -math.inf).amax(dim=1))


def any_overwritten(logits, wanted):
    log_p = logits.log_softmax(dim=1)
    log_p[~wanted] = -math.inf
    return log_p.logsumexp(dim=1)


def any_overwritten_without_a_copy(logits, wanted):
    whole = logits.logsumexp(dim=1)
    logits[~wanted] = -math.inf
    return logits.logsumexp(dim=1) - whole


def any_of_numbers(logits, wanted):
    log_p = logits.double().log_softmax(dim=1).tolist()
    rows = []
    for scores, mask in zip(log_p, wanted.tolist(), strict=True):
        chosen = [score for score, yes in zip(scores, mask, strict=True) if yes]
        rows.append(max(chosen) + math.log(sum(math.exp(score - max(chosen)) for score in chosen)))
    return torch.tensor(rows)


def any_in_numpy(logits, wanted):
    return torch.from_numpy(logits.log_softmax(dim=1).masked_fill(~wanted, -math.inf).numpy()).logsumexp(
        dim=1
    )


@torch.no_grad()
def any_without_grad(logits, wanted):
    return any_by_mask(logits, wanted)


WRONG_ANY = [
    (name, formula if callable(formula) else wrong_any(formula))
    for name, formula in [
        ("all at once", "(l * w).sum(1)"),
        ("all at once", "l.masked_fill(~w, 0).sum(dim=1)"),
        ("all at once", "-F.cross_entropy(z, w.float(), reduction='none')"),
        ("all at once", "F.cross_entropy(z, w.float(), reduction='none')"),
        ("all at once", "torch.where(w, p, 1).prod(1)"),
        ("all at once", "torch.where(w, p, 1).prod(1).log()"),
        ("mean", "(l * w).sum(1) / w.sum(1)"),
        ("mean", "torch.stack([a[m].mean() for a, m in zip(l, w)])"),
        ("mean", "-(l * w).mean(dim=1)"),
        ("mean probability", "torch.log((p * w).sum(1) / w.sum(1))"),
        ("mean probability", "torch.stack([a[m].mean() for a, m in zip(p, w)])"),
        ("mean probability", "(p * w).mean(1).log()"),
        ("mean probability", "(p * w).mean(1)"),
        ("largest", "l.masked_fill(~w, -inf).amax(1)"),
        ("largest", "l.masked_fill(~w, -inf).max(dim=1).values"),
        ("largest", "(p * w).max(dim=1).values"),
        ("one class", "l.gather(1, w.int().argmax(1, keepdim=True))[:, 0]"),
        ("one class", "torch.stack([a[m][-1] for a, m in zip(l, w)])"),
        ("one class", "-F.cross_entropy(z, w.int().argmax(1), reduction='none')"),
        ("no log", "(p * w).sum(1)"),
        ("no log", "l.masked_fill(~w, -inf).exp().sum(1)"),
        ("no log", "-(p * w).sum(1)"),
        ("logits", "z.masked_fill(~w, -inf).logsumexp(1)"),
        ("logits", "torch.log((z.exp() * w).sum(1))"),
        ("logits", "(z * w).sum(1)"),
        ("logits", "(z * w).sum(1) / w.sum(1)"),
        ("logits", "z.masked_fill(~w, -inf).amax(1)"),
        ("constant", "l.logsumexp(1)"),
        ("constant", "p.sum(1).log()"),
        ("constant", "p.sum(1)"),
        ("constant", "z.masked_fill(~w, -inf).log_softmax(1).logsumexp(1)"),
        ("constant", "z.masked_fill(~w, -inf).softmax(1).sum(1)"),
        ("constant", "(l * w).amax(1)"),
        ("among", "z.masked_fill(~w, -inf).log_softmax(1).masked_fill(~w, 0).sum(1)"),
        ("among", "torch.stack([a[m].log_softmax(0).mean() for a, m in zip(z, w)])"),
        ("among", "z.masked_fill(~w, -inf).log_softmax(1).amax(1)"),
        ("over batch", "z.log_softmax(0).masked_fill(~w, -inf).logsumexp(1)"),
        ("over batch", "(z.softmax(0) * w).sum(1)"),
        ("over batch", "(z.log_softmax(0) * w).sum(1)"),
        ("over batch", "z.flatten().log_softmax(0).view_as(z).masked_fill(~w, -inf).logsumexp(1)"),
        ("unwanted", "l.masked_fill(w, -inf).logsumexp(1)"),
        ("unwanted", "torch.log(1 - (p * w).sum(1))"),
        ("unwanted", "1 - (p * w).sum(1)"),
        ("unwanted", "l.masked_fill(w, 0).sum(1)"),
        ("e^0", "(l * w).logsumexp(1)"),
        ("e^0", "torch.where(w, l, 0).exp().sum(1).log()"),
        ("e^0", "(z * w).logsumexp(1)"),
        ("e^0", "(z * w).logsumexp(1) - z.logsumexp(1)"),
        ("e^0", "torch.logsumexp(p * w, dim=1)"),
        ("e^0", "(z * w).log_softmax(1).masked_fill(~w, -inf).logsumexp(1)"),
        ("e^0", "((z * w).log_softmax(1) * w).sum(1)"),
        ("loss", "-l.masked_fill(~w, -inf).logsumexp(1)"),
        ("loss", "-(p * w).sum(1).log()"),
        ("base", "(p * w).sum(1).log2()"),
        ("base", "(p * w).sum(1).log10()"),
        ("twice", "p.log_softmax(1).masked_fill(~w, -inf).logsumexp(1)"),
        ("twice", "(p.softmax(1) * w).sum(1)"),
        ("twice", "p.masked_fill(~w, -inf).logsumexp(1)"),
        ("sigmoid", "F.logsigmoid(z).masked_fill(~w, -inf).logsumexp(1)"),
        ("sigmoid", "(F.logsigmoid(z) * w).sum(1)"),
        ("sigmoid", "torch.log(1 - (1 - z.sigmoid() * w).prod(1))"),
        ("sigmoid", "-F.binary_cross_entropy_with_logits(z, w.float(), reduction='none').sum(1)"),
        ("sigmoid", "F.binary_cross_entropy_with_logits(z, w.float(), reduction='none').mean(1)"),
        ("sigmoid", "F.logsigmoid(z.masked_fill(~w, -inf).logsumexp(1))"),
        ("independent", "torch.log(1 - (1 - p * w).prod(1))"),
        ("independent", "1 - torch.where(w, 1 - p, 1).prod(1)"),
        ("infinite", "l.masked_fill(~w, -inf).sum(1)"),
        ("infinite", "l.masked_fill(~w, -inf).mean(1)"),
        ("infinite", "(p * w).prod(1).log()"),
        ("infinite", "(p * w).log().sum(1)"),
        ("one number", "l.masked_fill(~w, -inf).logsumexp(1).sum()"),
        ("one number", "l.masked_fill(~w, -inf).logsumexp((0, 1))"),
        ("one number", "l[w].logsumexp(0, keepdim=True)"),
        ("one number", "F.cross_entropy(z, w.float())"),
        ("one list", "l[w]"),
        ("one list", "p[w].log()"),
        ("not summed", "l * w"),
        ("not summed", "l.masked_fill(~w, -inf)"),
        ("not summed", "p * w"),
        ("rows", "l.masked_fill(~w, -inf).logsumexp(0)"),
        ("rows", "(p * w).sum(0)"),
        ("unstable", "torch.log((p * w).sum(1))"),
        ("unstable", "torch.log((z.softmax(1) * w).sum(1))"),
        ("unstable", "((z.exp() * w).sum(1) / z.exp().sum(1)).log()"),
        ("unstable", "torch.log((z.double().exp() * w).sum(1)) - z.double().exp().sum(1).log()"),
        ("unstable", "l.exp().masked_fill(~w, 0).double().sum(1).log()"),
        ("unstable", "torch.log1p(-(p * ~w).sum(1))"),
        ("unstable", "torch.logsumexp(torch.where(w, p.log(), -inf), 1)"),
        ("flat", "torch.log((p * w).sum(1) + 1e-8)"),
        ("flat", "torch.log((p * w).sum(1) + 1e-3)"),
        ("flat", "(p * w).sum(1).clamp(min=1e-12).log()"),
        ("flat", "(p * w).sum(1).log().nan_to_num()"),
        ("flat", "l.masked_fill(~w, -100).logsumexp(1)"),
        ("flat", "l.masked_fill(~w, -1000).logsumexp(1)"),
        ("flat", "z.masked_fill(~w, -100).logsumexp(1) - z.logsumexp(1)"),
        ("flat", "(z - 100 * ~w).logsumexp(1) - z.logsumexp(1)"),
        ("flat", "(z - 1e3 * ~w).logsumexp(1) - z.logsumexp(1)"),
        ("flat", "z.clamp(-50, 50).log_softmax(1).masked_fill(~w, -inf).logsumexp(1)"),
        ("gradient", "reduce((l + w.float().log()).unbind(1))"),
        ("gradient", any_from_probabilities),
        ("overwritten", any_overwritten),
        ("overwritten", "z.log_softmax(1).masked_fill_(~w, -inf).logsumexp(1)"),
        ("detached", "l.detach().masked_fill(~w, -inf).logsumexp(1)"),
        ("detached", "z.masked_fill(~w, -inf).logsumexp(1) - z.logsumexp(1).detach()"),
        ("detached", "torch.tensor([a[m].logsumexp(0).item() for a, m in zip(l, w)])"),
        ("detached", any_of_numbers),
        ("detached", any_in_numpy),
        ("detached", any_without_grad),
        ("bool", "((1 - w) * -1e9 + l).logsumexp(1)"),
        ("bool", "(l * w - inf * (1 - w)).logsumexp(1)"),
        ("bool", "l.masked_fill(-w, -inf).logsumexp(1)"),
        ("copy", any_overwritten_without_a_copy),
        ("copy", "l.masked_fill(w.logical_not_(), -inf).logsumexp(1)"),
    ]
]
WRONG = {"06.1": WRONG_PULL, "06.2": WRONG_ANY}

UNNAMED = [
    (
        "06.1",
        wrong_pull("x + 3 * k * g"),
        "with abar = 0.3 and s = 2.5, x_0 is multiplied by 1.000 and the gradient by 9.585, which should be "
        "1.000 and 3.195",
    ),
    ("06.1", wrong_pull("x + k * g if a < 0.5 else x"), "with abar = 0.85 and s = 0.6, x_0 is multiplied by"),
    ("06.1", wrong_pull("x + k * g.abs()"), "with abar = 0.3 and s = 2.5 the first pixel should be"),
    (
        "06.1",
        wrong_pull("(x + k * g)[0]"),
        "must have shape [2, 3, 4, 5], that is [B, C, H, W], got [3, 4, 5]",
    ),
    ("06.1", wrong_pull("x + k * g / 0"), "infinite"),
    ("06.1", wrong_pull("x + (a - 1)**0.5 * g"), "complex"),
    ("06.1", wrong_pull("x + (torch.tensor(a - 1)).sqrt() * g"), "holds NaN"),
    ("06.1", wrong_pull("k"), "must return a tensor, got a float"),
    ("06.1", wrong_pull("print(end='')"), "returns nothing"),
    (
        "06.2",
        wrong_any("2 * l.masked_fill(~w, -inf).logsumexp(1)"),
        "for logits = [0.9, -0.4, 0.3, 1.6, -0.8] and wanted = [0, 0, 0, 1, 1] it should be -0.604, "
        "got -1.208",
    ),
    ("06.2", wrong_any("l.masked_fill(~w, -inf).logsumexp(1) + 0.01"), "should be -0.604, got -0.594"),
    (
        "06.2",
        wrong_any("l.masked_fill(~w, -inf).logsumexp(1) - (z.amax(1) > 900).float()"),
        "for logits = [-2000, 1000, 0, -30] and wanted = [1, 0, 0, 0] it should be -3000.000, got -3001.000",
    ),
    (
        "06.2",
        wrong_any("l.masked_fill(~w, -inf).logsumexp(1) - w.all(1).float()"),
        "for logits = [0.5, -1, 2] and wanted = [1, 1, 1] it should be 0.000, got -1.000",
    ),
    ("06.2", wrong_any("(z - 10).log().sum(1)"), "holds NaN"),
    ("06.2", wrong_any("torch.where(w.all(1), math.nan, l.masked_fill(~w, -inf).logsumexp(1))"), "holds NaN"),
    ("06.2", wrong_any("l.masked_fill(~w, -inf).logsumexp(1, keepdim=True)"), "[3], that is [B], got [3, 1]"),
    ("06.2", wrong_any("l.masked_fill(~w, -inf).logsumexp(1).tolist()"), "must return a tensor, got a list"),
    ("06.2", wrong_any("l.sum(1) * 1j"), "complex"),
    ("06.2", wrong_any("print(end='')"), "returns nothing"),
]


def results_of_formulas():
    """For each exercise what every wrong formula gives in all its cases, after what the right one gives."""
    pulls = [("right", lesson06._right_pulls()), *lesson06._wrong_pulls()]
    right = any_by_mask(*lesson06._batch(lesson06.ORDINARY))
    wrong = [(name, one) for name, found in lesson06._wrong_any().items() for one in found]
    turned = [(name, -one) for name, one in wrong if name != "loss"]
    return {
        "06.1": [(name, torch.stack(found)) for name, found in pulls],
        "06.2": [("right", right), *wrong, *turned],
    }


def random_cases(seed):
    """Other cases for each exercise: levels and scales; logits, and at least one wanted class a row."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.rand(4, 2, generator=generator, dtype=torch.float64)

    def rows(size, classes, scale):
        logits = scale * torch.randn(size, classes, generator=generator)
        wanted = torch.rand(size, classes, generator=generator) < 0.4
        wanted[:, 0] |= ~wanted.any(dim=1)
        return tuple(zip(map(tuple, logits.tolist()), map(tuple, wanted.int().tolist()), strict=True))

    return {
        "CASES": [(0.02 + 0.97 * level, 9 * s) for level, s in levels.tolist()],
        "ORDINARY": rows(2 + seed, 9, 1.0),
        "LARGE": lesson06.LARGE[:2] + rows(5, 4, 300.0),
    }
