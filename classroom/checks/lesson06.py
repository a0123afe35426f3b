"""Exercises of lesson 06, classifier guidance: the pull on the estimate, and one of several classes.

A wrong answer is named by working out the classic wrong formulas on the same inputs: the one that gives what
the learner's function gives is the learner's. What a formula cannot show is tried: inputs that must come back
as they were, logits so large that softmax rounds to 0, and the gradient, which is what guidance follows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from classroom.checks import running
from classroom.checks.judging import Exercise, NotReal, Wrong, close, expect_tensor

PULL = {
    "sign": "The sign of the pull is turned round: guidance subtracts the gradient from eps, and so adds it "
    "to the estimate.",
    "eps": "The gradient is multiplied by s sqrt(1 - abar), which is what eps loses: put that into the "
    "formula of x̂_0.",
    "root": "1 - abar stands before the gradient without a square root: one root comes from the change of "
    "eps, the other from x̂_0.",
    "no division": "The division by sqrt(abar) is missing: the estimate is (x_t - sqrt(1 - abar) eps) / "
    "sqrt(abar), and eps is what changes.",
    "abar": "The division is by abar: it must be by its square root.",
    "multiplied": "The pull is multiplied by sqrt(abar): divide by it, as x̂_0 does.",
    "no 1 - abar": "The factor 1 - abar is missing: where there is little noise guidance pulls little.",
    "plain": "This is a plain step along the gradient: how far it goes depends on abar too.",
    "exchanged": "abar and 1 - abar are exchanged: the more noise, the stronger is the pull.",
    "upside down": "The fraction is upside down: 1 - abar belongs above it, sqrt(abar) below.",
    "no s": "s is not used: with a larger scale the pull must grow.",
    "s squared": "s is squared: it must multiply the pull once.",
    "1 + s": "1 + s multiplies the pull: at s = 0 nothing must be pulled.",
    "over s": "The pull is divided by s: a larger scale must pull more.",
    "x_0 too": "x_0 is divided or multiplied by sqrt(abar) too: it is an estimate already and not x_t, so "
    "only the pull has the factor.",
    "s on x_0": "s changes x_0 as well: it must multiply the pull alone.",
    "only the pull": "Only the pull is returned: add it to x_0.",
    "norm": "The gradient is divided by its own size: keep it, for a sure classifier pulls less.",
    "clipped": "The estimate is clipped to [-1, 1]: leave it as it is in this exercise.",
    "in place": "What the caller gave is changed: make a new tensor, x_0 + …, in the place of x_0 += ….",
}
ANY_OF = {
    "all at once": "The log-probabilities are added up, which asks for all the wanted classes at once: for "
    "one or the other the probabilities add up.",
    "mean": "The log-probabilities are averaged: add up the probabilities.",
    "mean probability": "The probabilities are averaged: one or the other is as likely as both together, so "
    "add them up.",
    "largest": "Only the likeliest wanted class counts: the others add their probability to it.",
    "one class": "Only the first or last wanted class of a row counts: add up all of them.",
    "no log": "The probability is returned: take its logarithm.",
    "logits": "The logits are taken as they are: only after log_softmax over all classes are they "
    "log-probabilities.",
    "constant": "The result is the same whatever the logits are: the softmax must run over all classes, "
    "wanted or not, and after it only the wanted ones are added up.",
    "among": "The softmax runs over the wanted classes only: take it over all of them, and mask after it.",
    "over batch": "The softmax runs over the batch: the probabilities of one sample's classes must add "
    "up to 1.",
    "unwanted": "The classes that are not wanted are counted: masked_fill fills where its mask is True, so "
    "give it ~wanted.",
    "e^0": "The others are multiplied by 0, and exp(0) = 1 still counts: a class that must not count needs "
    "-inf before exp.",
    "loss": "The sign is turned round: a log-probability is at most 0, its negative is a loss.",
    "base": "The logarithm has base 2 or 10: it must be the natural one, or every gradient is scaled.",
    "twice": "The softmax is taken twice: log_softmax must be given the logits.",
    "sigmoid": "The sigmoid takes each class for a yes or no of its own: one of K classes needs log_softmax.",
    "independent": "1 - Π(1 - p) is for questions that can be true together: classes exclude each other, so "
    "their probabilities add up.",
    "infinite": "The result is -inf for every sample: a masked class drops out of a sum of probabilities "
    "(logsumexp), and not out of a sum, mean or product of others.",
    "one number": "The batch is reduced to one number: each sample needs its own log-probability, [B].",
    "one list": "Indexing with wanted puts all rows into one list: keep [B, K], so that each row has its own "
    "sum.",
    "not summed": "Every class keeps a number of its own, [B, K]: add up the probabilities of each row.",
    "rows": "The sum runs over the batch: add up along the classes, dim=1, which leaves one number a sample.",
    "unstable": "At large logits the result is infinite or NaN: softmax rounds to 0 and exp overflows, so "
    "use log_softmax and logsumexp.",
    "flat": "At large logits the result stops falling, as if something were clipped or masked by a number "
    "that is too small: what must not count is masked by -inf.",
    "gradient": "The numbers are right, but their gradient is NaN or infinite: -inf or log 0 is on the way "
    "of a class. masked_fill(~wanted, -inf) followed by logsumexp has a finite one.",
    "overwritten": "The numbers are right, but there is no gradient: a tensor that autograd needs again is "
    "changed in place. masked_fill and torch.where make a new one.",
    "detached": "The numbers are right, but guidance follows their gradient, and here it is cut off or "
    "changed: no detach, no_grad, item or numpy between the logits and the result.",
    "copy": "What the caller gave is changed: masked_fill and torch.where make a new tensor.",
    "bool": "wanted holds True and False, which cannot be subtracted: the classes that are not wanted "
    "are ~wanted.",
}

# ---- 06.1 ----

SHAPE = (2, 3, 4, 5)  # [B, C, H, W], all different
AXES = "[B, C, H, W]"
CASES = ((0.3, 2.5), (0.85, 0.6))  # abar and s
_root = math.sqrt


def _given() -> tuple[Tensor, Tensor]:
    """x_0 and the gradient."""
    generator = torch.Generator().manual_seed(6)
    return 1.2 * torch.randn(SHAPE, generator=generator), torch.randn(SHAPE, generator=generator)


def _pull(a: float, s: float) -> float:
    return s * (1 - a) / _root(a)


def _factors(a: float, s: float) -> dict[str, list[tuple[float, float]]]:
    """What x_0 and the gradient are multiplied by in each wrong formula, whatever the sign."""
    pull, signal, noise = _pull(a, s), _root(a), _root(1 - a)
    return {
        "eps": [(1, s * noise)],
        "root": [(1, s * noise / signal), (1, s * noise / a)],
        "no division": [(1, s * (1 - a))],
        "abar": [(1, s * (1 - a) / a)],
        "multiplied": [(1, s * (1 - a) * signal), (1, s * noise * signal)],
        "no 1 - abar": [(1, s / signal)],
        "plain": [(1, s), (1, 1)],
        "exchanged": [(1, s * a / noise), (1, s * signal / noise), (1, s * a), (1, s * signal)],
        "upside down": [(1, s * signal / (1 - a))],
        "no s": [(1, pull / s)],
        "s squared": [(1, s * pull)],
        "1 + s": [(1, (1 + s) * pull / s)],
        "over s": [(1, pull / s**2)],
        "x_0 too": [
            *((1 / signal, q) for q in (pull, pull / s, s * noise / signal)),
            *((signal, q) for q in (pull, s * (1 - a), s * noise)),
        ],
        "s on x_0": [(s, pull), (1 - s, pull)],
        "only the pull": [(0, pull)],
    }


NORMS: list[Callable[[Tensor], Tensor]] = [
    lambda g: g / g.norm(),
    lambda g: g / g.flatten(1).norm(dim=1).view(-1, 1, 1, 1),
    lambda g: g / g.norm(dim=1, keepdim=True),
    lambda g: g / g.abs().max(),
    lambda g: g / g.abs().amax(dim=(1, 2, 3), keepdim=True),
    torch.sign,
]


def _mixed(p: float, q: float) -> Tensor:
    x_0, gradient = _given()
    return p * x_0 + q * gradient


def _by_name(cases: list[dict[str, list]]) -> Iterator[tuple[str, tuple]]:
    """Each name with what one of its formulas gives in every case."""
    for name in cases[0]:
        for found in zip(*(case[name] for case in cases), strict=True):
            yield name, found


def _right_pulls() -> list[Tensor]:
    return [_mixed(1, _pull(*case)) for case in CASES]


def _wrong_pulls() -> Iterator[tuple[str, list[Tensor]]]:
    """Each name with what its formula gives in every case."""
    x_0, gradient = _given()
    yield "sign", [_mixed(1, -_pull(*case)) for case in CASES]
    yield "clipped", [value.clamp(-1, 1) for value in _right_pulls()]
    for name, cases in _by_name([_factors(*case) for case in CASES]):
        for sign in (1, -1):
            yield name, [_mixed(p, sign * q) for p, q in cases]
    for norm in NORMS:
        yield "norm", [x_0 + _pull(*case) * norm(gradient) for case in CASES]


def examine_pull(function: Callable) -> str:
    """Exercise 06.1."""
    values, kept = [], True
    for case in CASES:
        x_0, gradient = _given()
        values.append(expect_tensor(function(x_0, gradient, *case), SHAPE, AXES))
        kept = kept and all(map(torch.equal, (x_0, gradient), _given()))
    expected = _right_pulls()
    if not all(map(close, values, expected)):
        for name, wrong in _wrong_pulls():
            if all(map(close, values, wrong)):
                raise Wrong(PULL[name])
        raise _off_in(values, expected)
    if not kept:
        raise Wrong(PULL["in place"])
    return "Guidance moves the picture that the network believes in: far in deep noise, hardly at the end."


def _off_in(values: list[Tensor], expected: list[Tensor]) -> Wrong:
    i = next(i for i, value in enumerate(values) if not close(value, expected[i]))
    where = "with abar = {:g} and s = {:g}".format(*CASES[i])
    basis = torch.stack([image.double().flatten() for image in _given()], dim=1)
    factors = torch.linalg.lstsq(basis, values[i].flatten()[:, None]).solution.flatten().tolist()
    if close(values[i], _mixed(*factors)):
        got = "x_0 is multiplied by {:.3f} and the gradient by {:.3f}".format(*factors)
        wanted = f"1.000 and {_pull(*CASES[i]):.3f}"
        return Wrong(f"The numbers are off: {where}, {got}, which should be {wanted}.")
    got, wanted = float(values[i].flatten()[0]), float(expected[i].flatten()[0])
    return Wrong(f"The numbers are off: {where} the first pixel should be {wanted:.3f}, got {got:.3f}.")


# ---- 06.2 ----

Batch = tuple[tuple[tuple[float, ...], tuple[int, ...]], ...]  # for each sample its logits and what is wanted
ORDINARY: Batch = (  # the first two classes of one row are not wanted, and no two rows want equally many
    ((0.9, -0.4, 0.3, 1.6, -0.8), (0, 0, 0, 1, 1)),
    ((-0.2, 1.1, 0.7, -0.5, 0.4), (0, 1, 0, 0, 0)),
    ((0.2, 1.3, -0.6, 0.8, 0.5), (1, 0, 1, 1, 1)),
)
LARGE: Batch = (  # no two in a row are equal: there the gradient of a max or a clamp is a matter of taste
    ((-1500.0, 200.0, 0.0, -30.0), (1, 0, 0, 0)),
    ((-2000.0, 1000.0, 0.0, -30.0), (1, 0, 0, 0)),
    ((200.0, -200.0, 30.0, 0.0), (1, 1, 0, 0)),
    ((200.0, 199.0, -1000.0, 198.0), (1, 0, 1, 0)),
    ((1000.0, -1000.0, 1001.0, 30.0), (0, 0, 1, 1)),
    ((-1000.0, -1001.0, -999.0, -998.0), (0, 1, 1, 0)),
    ((-200.0, -201.0, -30.0, 0.0), (1, 1, 0, 0)),
)
EVERY: Batch = (((0.5, -1.0, 2.0), (1, 1, 1)), ((0.0, 0.3, -0.7), (1, 1, 1)))  # log 1
FALLING = (0, 1)  # places in LARGE whose results must differ, also where one mask stands for all others
ROUGHLY = 0.05  # what an epsilon of up to 0.001 inside the logarithm does to the ordinary logits


def _batch(rows: Batch) -> tuple[Tensor, Tensor]:
    return torch.tensor([row[0] for row in rows]), torch.tensor([row[1] for row in rows], dtype=torch.bool)


def _over(values: Tensor, wanted: Tensor) -> Tensor:
    """log Σ exp of the wanted ones: [B]."""
    return values.masked_fill(~wanted, -math.inf).logsumexp(dim=1)


def _any_of(logits: Tensor, wanted: Tensor) -> Tensor:
    return _over(logits.log_softmax(dim=1), wanted)


def _one(values: Tensor, wanted: Tensor) -> list[Tensor]:
    """The first wanted one of each row, [B], and the last one."""
    both = ((values, wanted), (values.flip(1), wanted.flip(1)))
    return [each.gather(1, mask.int().argmax(dim=1, keepdim=True))[:, 0] for each, mask in both]


def _wrong_any() -> dict[str, list[Tensor]]:
    """What each wrong formula gives for the ordinary logits, whatever the sign."""
    z, w = _batch(ORDINARY)
    log_p = z.log_softmax(dim=1)
    p, right, n = log_p.exp(), _over(log_p, w), w.sum(dim=1)
    total, yes, both = (log_p * w).sum(1), F.logsigmoid(z), F.logsigmoid(torch.where(w, z, -z))
    among, masked = z.masked_fill(~w, -math.inf).log_softmax(1).masked_fill(~w, 0.0), z * w
    batch, none_of = z.log_softmax(0), (1 - p * w).prod(1)
    unwanted = _over(log_p, ~w)
    return {
        "loss": [-right],
        "all at once": [total, total.exp()],
        "mean": [total / n, total / w.shape[1]],
        "mean probability": [
            each for q in (right.exp() / n, right.exp() / w.shape[1]) for each in (q, q.log())
        ],
        "largest": [(log_p - 99 * ~w).amax(1), (p * w).amax(1)],
        "one class": _one(log_p, w),
        "no log": [right.exp()],
        "logits": [_over(z, w), masked.sum(1), masked.sum(1) / n, (z - 99 * ~w).amax(1)],
        "constant": [torch.zeros(len(z)), torch.ones(len(z))],
        "among": [among.sum(1), among.sum(1) / n, (among - 99 * ~w).amax(1)],
        "over batch": [
            _over(batch, w),
            _over(batch, w).exp(),
            (batch * w).sum(1),
            _over(z - z.logsumexp((0, 1)), w),
        ],
        "unwanted": [unwanted, unwanted.exp(), (log_p * ~w).sum(1)],
        "e^0": [
            *(each.logsumexp(1) for each in (log_p * w, masked, p * w)),
            *(masked.logsumexp(1) - z.logsumexp(1), _any_of(masked, w), (masked.log_softmax(1) * w).sum(1)),
        ],
        "base": [right / math.log(2), right / math.log(10)],
        "twice": [_any_of(p, w), _any_of(p, w).exp(), _over(p, w)],
        "sigmoid": [
            *(_over(yes, w), (yes * w).sum(1), F.logsigmoid(_over(z, w)), both.sum(1), both.mean(1)),
            torch.log(1 - (F.logsigmoid(-z) * w).sum(1).exp()),
        ],
        "independent": [1 - none_of, torch.log(1 - none_of)],
    }


def examine_any_of(function: Callable) -> str:
    """Exercise 06.2."""
    try:
        return _examine_any_of(function)
    except NotImplementedError as error:
        text = str(error)
        if "bool tensor" in text:
            raise Wrong(ANY_OF["bool"], running.line_of(error, running.code_of(function))) from None
        if text:  # torch's own, for an operation that a bool tensor does not have
            raise RuntimeError(text).with_traceback(error.__traceback__) from None
        raise  # not written yet


def _examine_any_of(function: Callable) -> str:
    value, expected = _answered(function, ORDINARY), _any_of(*_batch(ORDINARY))
    for name, formulas in _wrong_any().items():
        if any(close(value, wrong) or (name != "loss" and close(value, -wrong)) for wrong in formulas):
            raise Wrong(ANY_OF[name])
    if float((value - expected).abs().max()) > ROUGHLY:
        raise _off_at(value, ORDINARY)
    try:
        far = _answered(function, LARGE)
    except NotReal:
        raise Wrong(ANY_OF["unstable"]) from None
    # Clipped or with an epsilon the result is the same twice; with a weak mask, less the classes' own sum.
    one, other = FALLING
    if any(close(found[one], found[other]) for found in (far, far + _batch(LARGE)[0].logsumexp(dim=1))):
        raise Wrong(ANY_OF["flat"])
    for result, rows in ((value, ORDINARY), (far, LARGE), (_answered(function, EVERY), EVERY)):
        if not close(result, _any_of(*_batch(rows))):
            raise _off_at(result, rows)
    for rows in (ORDINARY, LARGE, EVERY):
        _try_unchanged(function, rows)
    for rows in (ORDINARY, LARGE, EVERY):
        _try_gradient(function, rows)
    return "Now a classifier can ask for an even digit, or for anything but a seven, from the first step on."


def _answered(function: Callable, rows: Batch) -> Tensor:
    logits, wanted = _batch(rows)
    result, (size, classes) = function(logits, wanted), logits.shape
    names = {(): "one number", (1,): "one number", (classes,): "rows", (size, classes): "not summed"}
    names[(int(_batch(rows)[1].sum()),)] = "one list"
    if isinstance(result, Tensor) and tuple(result.shape) != (size,) and tuple(result.shape) in names:
        raise Wrong(ANY_OF[names[tuple(result.shape)]])
    if isinstance(result, Tensor) and result.shape == (size,) and bool(torch.isneginf(result.real).all()):
        raise Wrong(ANY_OF["infinite"])
    return expect_tensor(result, (size,), "[B]")


def _try_unchanged(function: Callable, rows: Batch) -> None:
    given = _batch(rows)
    function(*given)
    if not all(map(torch.equal, given, _batch(rows))):
        raise Wrong(ANY_OF["copy"])


def _try_gradient(function: Callable, rows: Batch) -> None:
    """Ask as guidance does, with logits that come out of a network."""
    logits, wanted = _batch(rows)
    with torch.enable_grad():
        logits.requires_grad_()
        expected = torch.autograd.grad(_any_of(logits, wanted).sum(), logits)[0]
        try:
            result = function(logits * 1.0, wanted)
            if not result.requires_grad:
                raise Wrong(ANY_OF["detached"])
            found = torch.autograd.grad(result.sum(), logits, allow_unused=True)[0]
        except RuntimeError as error:
            name = {
                "modified by an inplace": "overwritten",
                "numpy": "detached",
                "does not require": "detached",
            }
            name = next((name for words, name in name.items() if words in str(error)), None)
            if name is None:
                raise
            raise Wrong(ANY_OF[name], running.line_of(error, running.code_of(function))) from None
    if found is not None and not bool(found.isfinite().all()):
        raise Wrong(ANY_OF["gradient"])
    if found is None or not close(found, expected):
        raise Wrong(ANY_OF["detached"])


def _off_at(result: Tensor, rows: Batch) -> Wrong:
    expected = _any_of(*_batch(rows))
    i = next(i for i in range(len(result)) if not close(result[i], expected[i]))
    logits, wanted = rows[i]
    case = f"logits = [{', '.join(f'{one:g}' for one in logits)}] and wanted = {list(wanted)}"
    return Wrong(
        f"The numbers are off: for {case} it should be {float(expected[i]):.3f}, got {float(result[i]):.3f}."
    )


EXERCISES = (
    Exercise(
        number="06.1",
        minutes=5,
        title="The pull on the estimate",
        check_name="pulled_estimate",
        arguments=("x_0", "gradient", "abar", "s"),
        hints=(
            "Guidance changes eps. By how much does x̂_0 change when eps changes and x_t stays as it is?",
            "eps' = eps - s sqrt(1 - abar) gradient, and x̂_0 = (x_t - sqrt(1 - abar) eps) / sqrt(abar): put "
            "the first into the second.",
            "return x_0 + s * ____ / ____ * gradient",
        ),
        examine=examine_pull,
        diagnoses=PULL,
    ),
    Exercise(
        number="06.2",
        minutes=15,
        title="One of several",
        check_name="any_of",
        arguments=("logits", "wanted"),
        hints=(
            "One image has one class. If you know the probability of a 3 and of a 5, what is the probability "
            "that it is one of them? And how is that written with log-probabilities?",
            "p(any) = Σ p_k over the wanted k, so log p(any) = log Σ exp(log p_k), where p comes from a "
            "softmax over all K classes. exp(-inf) = 0 takes a class out of a sum.",
            "log_p = logits.____(dim=1) … return log_p.____(____, -math.inf).____(dim=1)",
        ),
        examine=examine_any_of,
        diagnoses=ANY_OF,
    ),
)
