"""Exercises of lesson 12, faces: several attributes at once, and a pull that leaves one attribute alone.

A wrong answer is named by working out the classic wrong formulas on the same inputs: the one that gives what
the learner's function gives in every case is the learner's. What a formula cannot show is tried: logits so
large that sigmoid rounds to 0 or 1, the gradient that guidance follows, inputs that must come back as they
were, and a gradient that is 0 everywhere.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from classroom.checks import running
from classroom.checks.judging import Exercise, NotReal, NotUsable, Wrong, close, expect_tensor

ALL = {
    "ignored": "True and False are treated alike: for False it is the probability of no, so its logit "
    "changes its sign.",
    "left out": "Only one of the two answers counts: to wish for no is a wish, too, and adds its own "
    "log-probability.",
    "turned": "True and False are exchanged: sigmoid(z) is the probability of yes.",
    "factor": "Where False is wanted the logit is multiplied by 0: False is 0 and not -1, so change the "
    "logit's sign there.",
    "complement": "1 - or the minus stands outside the logarithm: turn the probability round before the log.",
    "no log": "The probability is returned: return its logarithm, a sum of logarithms.",
    "any": "The probabilities are added up or averaged, which asks for one or the other: for all at once "
    "they multiply, so it is their logarithms that add up.",
    "product": "The logarithms are multiplied: probabilities multiply, so their logarithms add up.",
    "mean": "The log-probabilities are averaged: add them up, for each further wish makes it less likely.",
    "one": "Only the first or last wish counts: add up all of them.",
    "extreme": "Only the most or least likely wish counts: add up all of them.",
    "softmax": "A softmax runs over the attributes: they do not exclude each other, so each is a yes or no "
    "of its own, with a sigmoid.",
    "over batch": "A softmax runs over the batch: each logit is a question of its own, so take the sigmoid.",
    "everything": "Attributes count that nobody asked for: only the places in wanted do.",
    "logits": "The logits are added up as they are: logsigmoid makes each a log-probability.",
    "before": "The logits are added up before the sigmoid: take the log-probability of each, then add.",
    "twice": "The sigmoid is taken twice: a function made for logits must be given the logit itself.",
    "base": "The logarithm has base 2 or 10: it must be the natural one, or every gradient is scaled.",
    "places": "Other attributes count than the wanted ones: a key of wanted is a column of logits, counted "
    "from 0.",
    "threshold": "The logits are cut into yes and no: that has no gradient, so keep the probabilities.",
    "infinite": "The result is -inf for every sample: a mask of -inf or 0 wipes out a sum of logarithms or a "
    "product, so take the wanted columns only.",
    "loss": "The sign is turned round: a log-probability is at most 0, its negative is a loss.",
    "one number": "The batch is reduced to one number: each sample needs its own log-probability, [B].",
    "rows": "The samples of the batch are lost: a place is a column, logits[:, place], and the sum runs over "
    "the wanted places, never over the batch.",
    "not summed": "Every attribute keeps a number of its own: add them up for each sample, [B].",
    "column": "The result has shape [B, 1]: [B] is asked, so take logits[:, place], and no keepdim.",
    "unstable": "At large logits the result is infinite or NaN: in float32 sigmoid rounds to 0, and so does "
    "a product of many, so log and sigmoid must be one function.",
    "1 - p": "At large logits the result is infinite or NaN where False is wanted: 1 - sigmoid(z) rounds to "
    "0. It is the sigmoid of another number.",
    "flat": "At large logits the result stays flat, as if something were clipped: log p(yes) must be near "
    "-200 at a logit of -200.",
    "gradient": "The numbers are right, but their gradient is NaN or infinite: log 0 is on the way, even if "
    "torch.where does not choose it. logsigmoid has a finite one.",
    "overwritten": "The numbers are right, but there is no gradient: a tensor that autograd needs again is "
    "changed in place. Make new ones.",
    "detached": "The numbers are right, but guidance follows their gradient, and here it is cut off or "
    "changed: no detach, no_grad, item or numpy between the logits and the result.",
    "in place": "logits or wanted is changed: the caller still needs them.",
    "bool": "torch does not subtract or negate True and False: ~yes is the opposite, and "
    "torch.where(yes, z, -z) chooses by it.",
}
HOLD = {
    "unchanged": "The pull comes back as it was: take away its part along other.",
    "batch": "The inner product runs over the batch: each image has its own, over C, H and W.",
    "pixel": "Each pixel has an inner product of its own, over the channels: one image is one vector, so sum "
    "over C, H and W.",
    "channel": "Each channel has an inner product of its own: one image is one vector, so sum over C, H "
    "and W.",
    "row": "Each row or column has an inner product of its own: one image is one vector, so sum over C, H "
    "and W.",
    "element": "Nothing is left: nothing is summed, so each number is taken away from itself. Sum over C, H "
    "and W.",
    "norm": "The inner product is divided by the norm of other: divide by its square, <other, other>.",
    "undivided": "The inner product is not divided by anything: the longer other is, the more is taken away. "
    "Divide by <other, other>.",
    "cosine": "The inner product is divided by both norms: that is the cosine of the angle, and the factor "
    "before other is <pull, other> / <other, other>.",
    "pull squared": "The inner product is divided by <pull, pull>: what is taken away is a multiple of "
    "other, so divide by <other, other>.",
    "mean": "One of the two inner products is a sum, and the other a mean: take both alike.",
    "part": "The part along other is returned: return what is left without it.",
    "plus": "The part along other is added: it must be taken away.",
    "twice": "The part along other is taken away twice: that is a mirror image, and now it points the other "
    "way.",
    "negated": "The sign is turned round: pull minus its part, not the part minus pull.",
    "absolute": "The sign of the inner product is lost: where it is negative the part points against other.",
    "one way": "The part is only taken away where it points against other, or only where it points along "
    "with it: hold other still both ways.",
    "whole other": "other itself is taken away, however the pull lies: only the pull's part along it must "
    "go.",
    "along pull": "A part along the pull itself is taken away, so it only becomes longer or shorter: take "
    "away the part along other.",
    "exchanged": "pull and other are exchanged: return the pull, without its part along other.",
    "length": "The length is changed afterwards: what is left is shorter than the pull, and that is right.",
    "magnitude": "Absolute values are returned: the signs say which way each pixel goes.",
    "sign": "Only signs are kept: their inner product with other is no longer 0.",
    "epsilon": "What is added to the denominator is so large that it shows where other is small: the scale "
    "of other must not matter.",
    "factors": "The factors before other are returned: return the pull without its part, [B, C, H, W].",
    "flat": "The images stay flattened: bring them back into the shape of pull, [B, C, H, W].",
    "tuple": "Several things are returned: only the pull without its part is asked.",
    "dtype": "The result has another dtype than pull: keep it.",
    "in place": "pull or other is changed: make a new tensor.",
    "nan": "Where other is 0 everywhere, 0 is divided by 0: there is nothing to hold still, so the pull must "
    "come back unchanged.",
    "lost": "Where other is 0 everywhere the pull is changed: it has no part along other, so it must come "
    "back as it is.",
    "whole batch": "One image whose other is 0 decides for the whole batch: the others still have a part to "
    "take away.",
}

# ---- 12.1 ----

Wanted = dict[int, bool]
Case = tuple[tuple[tuple[float, ...], ...], Wanted]  # the logits [B, A], and what is wanted
# B > A, so that a row that is taken for a column has another shape; the places are in no order, the last
# attribute is not wanted, and some samples have all that is wanted.
ORDINARY: tuple[Case, ...] = (
    (
        (
            *((0.9, -0.4, 0.3, 1.6, -0.8), (-0.2, 1.1, 0.7, -0.5, 0.4), (1.3, 0.6, -1.7, 2.2, 0.5)),
            *((-1.1, -2.3, 0.8, -0.9, 1.4), (0.4, 1.9, -0.6, -1.2, -0.3), (2.1, -0.7, 1.5, 0.2, -1.6)),
        ),
        {3: False, 1: True},
    ),
    (
        (
            *((-0.7, 1.2, 0.6, 0.3), (-1.4, -0.5, 0.9, -2.0), (0.8, -1.6, -0.3, 1.1)),
            *((1.7, 0.4, -1.2, -0.6), (-0.1, -0.9, 2.4, 0.7)),
        ),
        {2: True, 0: False, 1: False},
    ),
)
# 200 is where float32 gives up, 1000 where float64 does too: some will compute in it.
LARGE: Case = (
    (
        *((200.0, 0.3, -200.0), (200.0, -1.0, 200.0), (-200.0, 0.8, -200.0), (-200.0, 1.0, 200.0)),
        *((1000.0, 0.1, -1000.0), (1000.0, 2.0, 1000.0), (30.0, 0.5, -30.0), (-1000.0, -0.4, -1000.0)),
    ),
    {2: True, 0: False},
)
ONLY_NO, ONLY_YES = 1, 2  # places in LARGE where only the wish for no is far from true, or only that for yes
FLAT = ((0, 4), (1, 5), (2, 7))  # … and those whose results must differ
FURTHER: tuple[Case, ...] = (
    (((1.2, -0.7), (-0.3, 2.0), (0.5, 0.1)), {1: False}),
    (((1.2, -0.7), (-0.3, 2.0), (0.5, 0.1)), {0: True}),
    (((1.2, -0.7, 0.4), (-0.3, 2.0, -1.1), (0.5, 0.1, 0.6), (-0.8, 1.3, 0.2)), {2: True, 1: True, 0: False}),
)
ROUGHLY = 0.05  # what an epsilon of up to 0.001 inside the logarithm does to the ordinary logits
Formula = Callable[[Tensor, Wanted], Tensor]


def _batch(case: Case) -> tuple[Tensor, Wanted]:
    """Made afresh."""
    return torch.tensor(case[0]), dict(case[1])


def _chosen(z: Tensor, wanted: Wanted) -> Tensor:
    """The columns that are asked about, [B, n]."""
    return z[:, list(wanted)]


def _yes(wanted: Wanted) -> Tensor:
    return torch.tensor(list(wanted.values()))


def _signed(z: Tensor, wanted: Wanted) -> Tensor:
    return torch.where(_yes(wanted), _chosen(z, wanted), -_chosen(z, wanted))


def _log_p(z: Tensor, wanted: Wanted) -> Tensor:
    return F.logsigmoid(_signed(z, wanted))


def _p(z: Tensor, wanted: Wanted) -> Tensor:
    return _signed(z, wanted).sigmoid()


def _right_all(z: Tensor, wanted: Wanted) -> Tensor:
    return _log_p(z, wanted).sum(dim=1)


def _elsewhere(places: Callable[[Wanted], Wanted]) -> Formula:
    return lambda z, w: _right_all(z, places(w))


def _with_others(value: bool) -> Callable[[Tensor, Wanted], Wanted]:
    return lambda z, w: dict.fromkeys(range(z.shape[1]), value) | w


def _of_softmax(dim: int) -> list[Formula]:
    """A softmax in the place of the sigmoids, over the attributes or over the batch."""

    def both(z: Tensor, w: Wanted) -> Tensor:
        p = _chosen(z.softmax(dim), w)
        return torch.where(_yes(w), p, 1 - p)

    return [
        lambda z, w: _chosen(z.log_softmax(dim), w).sum(1),
        lambda z, w: both(z, w).log().sum(1),
        lambda z, w: both(z, w).prod(1),
        lambda z, w: _chosen(z.softmax(dim), w).sum(1),
        lambda z, w: _chosen(z.softmax(dim), w).sum(1).log(),
        lambda z, w: _chosen(z.softmax(dim), w).prod(1),
        lambda z, w: _signed(z, w).log_softmax(dim).sum(1),
        lambda z, w: _chosen(z, w).log_softmax(dim).sum(1),
        lambda z, w: (_chosen(z.log_softmax(dim), w) * _yes(w)).sum(1),
        lambda z, w: _signed(z.log_softmax(dim), w).sum(1),
    ]


LN2, LN10 = math.log(2), math.log(10)
# Each is looked for with either sign.
WRONG_ALL: list[tuple[str, Formula]] = [
    *(("ignored", lambda z, w, k=k: F.logsigmoid(k * _chosen(z, w)).sum(1)) for k in (1, -1)),
    ("left out", lambda z, w: (_log_p(z, w) * _yes(w)).sum(1)),
    ("left out", lambda z, w: (_log_p(z, w) * ~_yes(w)).sum(1)),
    ("turned", lambda z, w: F.logsigmoid(-_signed(z, w)).sum(1)),
    ("factor", lambda z, w: F.logsigmoid(_chosen(z, w) * _yes(w)).sum(1)),
    *(
        ("complement", lambda z, w, k=k: _signed(F.logsigmoid(z), w).sum(1) + k * (~_yes(w)).sum())
        for k in (0, 1)
    ),
    ("no log", lambda z, w: _p(z, w).prod(1)),
    ("no log", lambda z, w: _chosen(z, w).sigmoid().prod(1)),
    *(("any", lambda z, w, f=f: f(_p(z, w).sum(1))) for f in (lambda p: p, torch.log)),
    *(("any", lambda z, w, f=f: f(_p(z, w).mean(1))) for f in (lambda p: p, torch.log)),
    *(("any", lambda z, w, f=f: f(1 - (1 - _p(z, w)).prod(1))) for f in (lambda p: p, torch.log)),
    ("product", lambda z, w: _log_p(z, w).prod(1)),
    ("mean", lambda z, w: _log_p(z, w).mean(1)),
    *(("mean", lambda z, w, axis=axis: _right_all(z, w) / z.shape[axis]) for axis in (0, 1)),
    *(("one", lambda z, w, i=i: _log_p(z, w)[:, i]) for i in (0, -1)),
    ("extreme", lambda z, w: _log_p(z, w).amin(1)),
    ("extreme", lambda z, w: _log_p(z, w).amax(1)),
    *(("softmax", formula) for formula in _of_softmax(1)),
    *(("over batch", formula) for formula in _of_softmax(0)),
    *(
        ("everything", lambda z, w, every=every, n=n: _right_all(z, every(z, w)) / (z.shape[1] if n else 1))
        for every in (_with_others(False), _with_others(True), lambda z, w: _with_others(True)(z, {}))
        for n in (False, True)
    ),
    *(("logits", lambda z, w, f=f: f(z, w).sum(1)) for f in (_signed, _chosen)),
    *(("logits", lambda z, w, f=f: f(z, w).mean(1)) for f in (_signed, _chosen)),
    *(("before", lambda z, w, f=f: F.logsigmoid(f(z, w).sum(1))) for f in (_signed, _chosen)),
    *(("before", lambda z, w, f=f: F.logsigmoid(f(z, w).mean(1))) for f in (_signed, _chosen)),
    ("twice", lambda z, w: F.logsigmoid(_p(z, w)).sum(1)),
    ("twice", lambda z, w: _right_all(z.sigmoid(), w)),
    *(("base", lambda z, w, base=base: _right_all(z, w) / base) for base in (LN2, LN10)),
    *(("places", _elsewhere(lambda w, k=k: {i + k: value for i, value in w.items()})) for k in (-1, 1)),
    ("places", _elsewhere(lambda w: dict(enumerate(w.values())))),
    ("places", _elsewhere(lambda w: {i: bool(place) for i, place in enumerate(w)})),
    ("threshold", lambda z, w: (_signed(z, w) > 0).all(dim=1).float()),
    ("threshold", lambda z, w: (_signed(z, w) > 0).sum(1).float()),
    ("threshold", lambda z, w: (_signed(z, w) > 0).float().mean(1)),
    ("loss", lambda z, w: -_right_all(z, w)),
]


def examine_all(function: Callable) -> str:
    """Exercise 12.1."""
    try:
        return _examine_all(function)
    except NotImplementedError as error:
        text = str(error)
        if "bool tensor" in text:
            raise Wrong(ALL["bool"], running.line_of(error, running.code_of(function))) from None
        if text:  # torch's own, for an operation that a bool tensor does not have
            raise RuntimeError(text).with_traceback(error.__traceback__) from None
        raise  # not written yet


def _examine_all(function: Callable) -> str:
    values = [_answered(function, case) for case in ORDINARY]
    right = [_right_all(*_batch(case)) for case in ORDINARY]
    if not all(map(close, values, right)):
        for name, formula in WRONG_ALL:
            found = [formula(*_batch(case)) for case in ORDINARY]
            for sign in (1, -1) if name != "loss" else (1,):
                if all(close(value, sign * one) for value, one in zip(values, found, strict=True)):
                    raise Wrong(ALL[name])
    for value, expected, case in zip(values, right, ORDINARY, strict=True):
        if float((value - expected).abs().max()) > ROUGHLY:
            raise _off_at(value, case)
    far = _far(function)
    values += [far, *(_answered(function, case) for case in FURTHER)]
    cases = (*ORDINARY, LARGE, *FURTHER)
    for value, case in zip(values, cases, strict=True):
        if not close(value, _right_all(*_batch(case))):
            raise _off_at(value, case)
    for case in cases:
        _try_unchanged(function, case)
    for case in cases:
        _try_gradient(function, case)
    return (
        "Any number of wishes is one log-probability, finite from the first step to the last: it can guide."
    )


def _answered(function: Callable, case: Case) -> Tensor:
    result = _shaped(function, case)
    if isinstance(result, Tensor) and result.shape == (len(case[0]),):
        endless = torch.isneginf(result.real)
        if bool(endless.all()):
            raise Wrong(ALL["infinite"])
        if bool(endless.any()):  # these logits are near 0, and only a cut makes them impossible
            raise Wrong(ALL["threshold"])
    return expect_tensor(result, (len(case[0]),), "[B]")


def _shaped(function: Callable, case: Case) -> Any:
    """What the function returns, if its shape is not one with a name."""
    logits, wanted = _batch(case)
    (size, attributes), n = logits.shape, len(wanted)
    result = function(logits, wanted)
    names = {(): "one number", (1,): "one number", (attributes,): "rows", (n,): "rows"}
    names |= {(size, attributes): "not summed", (size, n): "not summed", (n, size): "not summed"}
    names |= {(size, 1): "column"}
    if isinstance(result, Tensor) and tuple(result.shape) in names:
        raise NotUsable(ALL[names[tuple(result.shape)]])
    return result


def _far(function: Callable) -> Tensor:
    """What comes out for large logits."""
    result = _shaped(function, LARGE)
    try:
        value = expect_tensor(result, (len(LARGE[0]),), "[B]")
    except NotReal:
        finite = result.isfinite()
        name = "1 - p" if bool(finite[ONLY_YES]) and not bool(finite[ONLY_NO]) else "unstable"
        raise Wrong(ALL[name]) from None
    if any(close(value[i], value[j]) for i, j in FLAT):
        raise Wrong(ALL["flat"])
    return value


def _try_unchanged(function: Callable, case: Case) -> None:
    (logits, wanted), (first, wish) = _batch(case), _batch(case)
    function(logits, wanted)
    if not torch.equal(logits, first) or wanted != wish:
        raise Wrong(ALL["in place"])


def _try_gradient(function: Callable, case: Case) -> None:
    """Ask as guidance does, with logits that come out of a network."""
    logits, wanted = _batch(case)
    with torch.enable_grad():
        logits.requires_grad_()
        expected = torch.autograd.grad(_right_all(logits, wanted).sum(), logits)[0]
        try:
            result = function(logits * 1.0, wanted)
            if not result.requires_grad:
                raise Wrong(ALL["detached"])
            found = torch.autograd.grad(result.sum(), logits, allow_unused=True)[0]
        except RuntimeError as error:
            names = {"modified by an inplace": "overwritten", "numpy": "detached"}
            name = next((name for words, name in names.items() if words in str(error)), None)
            if name is None:
                raise
            raise Wrong(ALL[name], running.line_of(error, running.code_of(function))) from None
    if found is not None and not bool(found.isfinite().all()):
        raise Wrong(ALL["gradient"])
    if found is None or not close(found, expected):
        raise Wrong(ALL["detached"])


def _off_at(result: Tensor, case: Case) -> Wrong:
    rows, wanted = case
    expected = _right_all(*_batch(case))
    i = next(i for i in range(len(result)) if not close(result[i], expected[i]))
    told = f"for logits = [{', '.join(f'{one:g}' for one in rows[i])}] and wanted = {wanted}"
    return Wrong(
        f"The numbers are off: {told} it should be {float(expected[i]):.3f}, got {float(result[i]):.3f}."
    )


# ---- 12.2 ----

SHAPE = (2, 3, 4, 5)  # [B, C, H, W], all different
AXES, IMAGE = "[B, C, H, W]", (1, 2, 3)
# (seed, dtype, and for each image the scale of other and how far the pull goes along it): small and large,
# with it and against it.
CASES = (
    (1, torch.float32, ((1.5, 3.0), (0.4, -2.0))),
    (2, torch.float64, ((3e-3, -4.0), (20.0, 2.5))),
)
Held = Callable[[Tensor, Tensor], Tensor]


def _inputs(case: tuple[int, torch.dtype, Sequence[tuple[float, float]]]) -> tuple[Tensor, Tensor]:
    """pull and other, made afresh."""
    seed, dtype, images = case
    pull, other = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    scale, along = torch.tensor(images, dtype=torch.float64).T.reshape(2, -1, 1, 1, 1)
    pull = pull + along * other / _sum(other * other).sqrt()
    return pull.to(dtype), (scale * other).to(dtype)


def _sum(x: Tensor, axes: tuple[int, ...] = IMAGE) -> Tensor:
    return x.sum(dim=axes, keepdim=True)


def _norm(x: Tensor, axes: tuple[int, ...] = IMAGE) -> Tensor:
    return _sum(x * x, axes).sqrt()


def _factor(pull: Tensor, other: Tensor, axes: tuple[int, ...] = IMAGE) -> Tensor:
    return _sum(pull * other, axes) / _sum(other * other, axes)


def _right_held(pull: Tensor, other: Tensor) -> Tensor:
    return pull - _factor(pull, other) * other


def _less(factor: Held) -> Held:
    """pull minus another multiple of other."""
    return lambda p, o: p - factor(p, o) * o


SOME_AXES = {
    "batch": ((0, 1, 2, 3), (0,), (0, 1), (0, 2, 3), (0, 3)),
    "pixel": ((1,),),
    "channel": ((2, 3),),
    "row": ((3,), (2,), (1, 3), (1, 2)),
}
PIXELS = math.prod(SHAPE[1:])
WRONG_HELD: list[tuple[str, Held]] = [
    ("unchanged", lambda p, o: p),
    *(
        (name, _less(lambda p, o, axes=axes: _factor(p, o, axes)))
        for name, several in SOME_AXES.items()
        for axes in several
    ),
    ("batch", _less(lambda p, o: _sum(p * o) / _sum(o * o, (0, *IMAGE)))),
    ("batch", _less(lambda p, o: _sum(p * o, (0, *IMAGE)) / _sum(o * o))),
    ("pixel", lambda p, o: p - _sum(p * F.normalize(o, dim=1)) * F.normalize(o, dim=1)),
    ("element", lambda p, o: 0 * p),
    ("norm", _less(lambda p, o: _sum(p * o) / _norm(o))),
    ("norm", _less(lambda p, o: _sum(p * o) / _norm(o, (0, *IMAGE)))),
    ("undivided", _less(lambda p, o: _sum(p * o))),
    ("undivided", _less(lambda p, o: _sum(p * o, (0, *IMAGE)))),
    ("cosine", _less(lambda p, o: _sum(p * o) / _norm(p) / _norm(o))),
    ("cosine", lambda p, o: p - _sum(p * o) / _norm(p) / _norm(o) * o / _norm(o)),
    ("pull squared", _less(lambda p, o: _sum(p * o) / _sum(p * p))),
    ("pull squared", _less(lambda p, o: _sum(p * o) / _norm(p))),
    *(("mean", _less(lambda p, o, k=k: k * _factor(p, o))) for k in (1 / PIXELS, PIXELS)),
    *(("part", lambda p, o, sign=sign: sign * _factor(p, o) * o) for sign in (1, -1)),
    ("part", lambda p, o: _factor(p, o, (0, *IMAGE)) * o),
    ("plus", _less(lambda p, o: -_factor(p, o))),
    ("twice", _less(lambda p, o: 2 * _factor(p, o))),
    ("negated", lambda p, o: -_right_held(p, o)),
    *(("absolute", _less(lambda p, o, sign=sign: sign * _factor(p, o).abs())) for sign in (1, -1)),
    ("one way", _less(lambda p, o: _factor(p, o).clamp(max=0))),
    ("one way", _less(lambda p, o: _factor(p, o).clamp(min=0))),
    ("whole other", lambda p, o: p - o),
    ("whole other", lambda p, o: p - o / _norm(o)),
    ("whole other", lambda p, o: p - _norm(p) * o / _norm(o)),
    ("along pull", lambda p, o: p - _factor(o, p) * p),
    ("along pull", lambda p, o: p - _factor(p, o) * p),
    ("along pull", lambda p, o: p - _sum(p * o) / _norm(p) / _norm(o) * p),
    ("exchanged", lambda p, o: _right_held(o, p)),
    ("exchanged", lambda p, o: o - _factor(p, o) * p),
    ("exchanged", lambda p, o: o - _sum(p * o) * p),
    *(
        ("length", lambda p, o, axes=axes, old=old: _as_long(_right_held(p, o), old(p, axes), axes))
        for axes in (IMAGE, (0, *IMAGE), (1,))
        for old in (_norm, lambda p, axes: 1.0)
    ),
    ("length", lambda p, o: _right_held(p / _norm(p), o)),
    ("magnitude", lambda p, o: _right_held(p, o).abs()),
    ("magnitude", lambda p, o: p.abs() - (_factor(p, o) * o).abs()),
    ("sign", lambda p, o: _right_held(p, o).sign()),
    ("sign", lambda p, o: p.sign() - (_factor(p, o) * o).sign()),
    ("sign", lambda p, o: p - _factor(p, o) * o.sign()),
    ("sign", lambda p, o: _right_held(p, o.sign())),
]


def _as_long(x: Tensor, length: Tensor | float, axes: tuple[int, ...]) -> Tensor:
    return x * length / _norm(x, axes)


def examine_held(function: Callable) -> str:
    """Exercise 12.2."""
    values, kept, dtypes = [], True, True
    for case in CASES:
        pull, other = _inputs(case)
        result = _one_tensor(function(pull, other))
        values.append(expect_tensor(result, SHAPE, AXES).clone())
        kept = kept and all(map(torch.equal, (pull, other), _inputs(case)))
        dtypes = dtypes and result.dtype == case[1]
    right = _held(_right_held)
    if not all(map(close, values, right)):
        for name, formula in WRONG_HELD:
            if all(map(close, values, _held(formula))):
                raise Wrong(HOLD[name])
        if _fades(values):
            raise Wrong(HOLD["epsilon"])
        raise _off_held(values, right)
    if not kept:
        raise Wrong(HOLD["in place"])
    if not dtypes:
        raise Wrong(HOLD["dtype"])
    _try_zero(function)
    return "To first order a step along it changes nothing in what other reads: that is held still."


def _held(formula: Held) -> list[Tensor]:
    return [formula(*(image.double() for image in _inputs(case))) for case in CASES]


def _one_tensor(result: Any) -> Any:
    if isinstance(result, tuple):
        raise NotUsable(HOLD["tuple"])
    size = SHAPE[0]
    if isinstance(result, Tensor):
        if tuple(result.shape) in {(size,), (size, 1), (size, 1, 1, 1)}:
            raise NotUsable(HOLD["factors"])
        if tuple(result.shape) == (size, PIXELS):
            raise NotUsable(HOLD["flat"])
    return result


def _fades(values: list[Tensor]) -> bool:
    """Whether all of the part is taken away where other is large, and less of it where other is small."""
    shares = []
    for value, case in zip(values, CASES, strict=True):
        pull, other = (image.double() for image in _inputs(case))
        share = _factor(pull - value, other) / _factor(pull, other)
        if not close(value, pull - share * _factor(pull, other) * other):
            return False
        shares += zip(_norm(other).flatten().tolist(), share.flatten().tolist(), strict=True)
    found = [share for _, share in sorted(shares)]
    rises = all(low < high + 1e-3 for low, high in itertools.pairwise(found))
    return rises and found[0] > -1e-3 and 0.9 < found[-1] < 1.001


def _try_zero(function: Callable) -> None:
    """One image's other is 0 everywhere, then every image's."""
    for zeros in (1, SHAPE[0]):
        pull, other = _inputs(CASES[0])
        other[:zeros] = 0
        expected = pull.double()
        expected[zeros:] = _right_held(expected, other.double())[zeros:]
        try:
            value = expect_tensor(function(pull, other), SHAPE, AXES)
        except NotReal:
            raise Wrong(HOLD["nan"]) from None
        except ZeroDivisionError as error:
            raise Wrong(HOLD["nan"], running.line_of(error, running.code_of(function))) from None
        if not close(value[:zeros], expected[:zeros]):
            raise Wrong(HOLD["lost"])
        if not close(value, expected):
            raise Wrong(HOLD["whole batch"])


def _off_held(values: list[Tensor], right: list[Tensor]) -> Wrong:
    i = next(i for i, value in enumerate(values) if not close(value, right[i]))
    pull, other = (image.double() for image in _inputs(CASES[i]))
    b = next(b for b in range(SHAPE[0]) if not close(values[i][b], right[i][b]))
    basis = torch.stack([pull[b].flatten(), other[b].flatten()], dim=1)
    factors = torch.linalg.lstsq(basis, values[i][b].flatten()[:, None]).solution.flatten()
    if close(values[i][b].flatten(), basis @ factors):
        got = "its pull is multiplied by {:.3f} and its other by {:.3f}".format(
            *(round(one, 3) + 0.0 for one in factors.tolist())
        )
        wanted = f"1.000 and {-float(_factor(pull, other)[b]):.3f}"
        return Wrong(f"The numbers are off: in image {b}, {got}, which should be {wanted}.")
    worst = int((values[i][b] - right[i][b]).abs().argmax())
    got, wanted = (float(one[i][b].flatten()[worst]) for one in (values, right))
    return Wrong(f"The numbers are off: in image {b} one pixel should be {wanted:.3f}, got {got:.3f}.")


EXERCISES = (
    Exercise(
        number="12.1",
        minutes=5,
        title="All wishes at once",
        check_name="all_wanted",
        arguments=("logits", "wanted"),
        hints=(
            "Given the image, the attributes are taken for independent. What is then the probability that "
            "all wishes come true, and what its logarithm? And which sign of the logit asks for no?",
            "p(all) = Π p_k over the wished k, where p_k is sigmoid(z_k) for yes and 1 - sigmoid(z_k) for "
            "no, which is a sigmoid again: look at its curve.",
            "for place, value in wanted.items(): total = total + F.____(____ if value else ____)",
        ),
        examine=examine_all,
        diagnoses=ALL,
    ),
    Exercise(
        number="12.2",
        minutes=15,
        title="Hold one attribute still",
        check_name="held_still",
        arguments=("pull", "other"),
        hints=(
            "Take an image's two gradients for two arrows. Which multiple of other must be taken away from "
            "pull, so that what is left is at right angles to other? And if other has no length?",
            "<pull - k other, other> = 0 for each image, where <a, b> is the sum of a b over C, H and W: "
            "solve it for k, one k an image.",
            "k = (____ * ____).sum(dim=(____), keepdim=True) / ____ … return pull - torch.where(____, k, 0) "
            "* other",
        ),
        examine=examine_held,
        diagnoses=HOLD,
    ),
)
