"""Exercises of lesson 07, classifier-free guidance: another scale without the network, and away from a label.

A wrong answer is named by working out the classic wrong formulas on the same inputs: the one that gives what
the learner's function gives in every case is the learner's. For 07.2 the network in use also writes down what
it is asked: which t and which label came with which sample, and in how many calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from classroom.checks import running
from classroom.checks.judging import Exercise, Wrong, close, expect_tensor

SCALE = {
    "not divided": "The step is not divided by b - a: going from a all the way to b must give eps_b.",
    "by b": "The step is divided by b alone: from a to b it is b - a.",
    "w": "w stands where w - a belongs: at w = a nothing may be added to eps_a.",
    "from b": "The step is counted from b: it begins at eps_a, so count from a, w - a.",
    "starts at b": "The step from a is added to eps_b: it begins at eps_a.",
    "wrong end": "The weights stand at the wrong ends: at w = a the result must be eps_a, at w = b eps_b.",
    "as cond": "eps_a is taken for unconditional and eps_b for conditional: their scales are a and b, "
    "not 0 and 1.",
    "clamped": "The result stays between eps_a and eps_b: the line goes on beyond both, so clamp nothing.",
    "average": "The mean of both is returned, whatever w is.",
    "unchanged": "One of the two predictions is returned as it is, whatever w is.",
    "ratio": "A prediction is multiplied by a ratio of scales: but at scale 0 it is unconditional, not 0.",
    "sign": "The step goes the wrong way: towards eps_b as w grows from a to b.",
    "distance": "The step has lost its sign: with w on the other side of a, it goes away from eps_b.",
    "turned": "The fraction is upside down: the way to go, w - a, is divided by the way known, b - a.",
    "no difference": "eps_b itself is added: the step goes along the difference eps_b - eps_a.",
    "no start": "Only the step is returned: it must be added to eps_a.",
    "in place": "eps_a or eps_b is changed: the caller still needs them, so use no -=, no += and no name_().",
}
AWAY = {
    "t": "The timesteps do not go with the samples: repeat t as x_t is repeated, [2B].",
    "x_t": "The network is asked at another image than x_t: both predictions are made at x_t itself.",
    "null": "The unconditional prediction is used: y_not takes the place of the null label.",
    "mixed": "A sample meets another sample's label: repeat x_t, t and the labels in the same order.",
    "y_not": "y_not is never asked: it takes the place of the null label.",
    "y": "y is never asked: it is the label to go to.",
    "plus one": "It starts at eps(y): that is the paper's w, ours minus 1. Start at eps(y_not).",
    "exchanged": "The two labels are exchanged: at w = 0 the result must be eps(y_not), at w = 1 eps(y).",
    "sign": "The step goes the wrong way: from y_not to y is eps(y) - eps(y_not).",
    "sum": "w multiplies the sum of both predictions: it multiplies their difference.",
    "outside": "w multiplies everything: only the difference is multiplied by it.",
    "no difference": "eps(y) itself is added: add the difference eps(y) - eps(y_not).",
    "no start": "Only the difference is returned: it must be added to eps(y_not).",
    "w": "w is not used: this is one of the two predictions, or their mean.",
    "split": "The batch is cut in the wrong places: cut the result in the order in which you joined it.",
    "halves": "2B predictions come back: cut the network's answer in two and return one guided [B, C, H, W].",
    "calls": "The numbers are right, but the network is called more than once: put both labels into one "
    "batch of 2B.",
    "more": "The numbers are right, but the network is asked for more than 2B samples: both labels suffice.",
    "in place": "What the caller gave (x_t, t, y or y_not) is changed: work on copies.",
}
SHAPE = (3, 2, 4, 5)  # [B, C, H, W], all different
AXES = "[B, C, H, W]"


def _image(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


# ---- 07.1 ----

# (a, b, w): between, beyond b, before a; then a larger than b. w = a is left out, so that an upside-down
# fraction has a value; a and b are not 0 for the same reason.
SCALES = ((1.5, 4.0, 3.0), (0.5, 2.0, 7.0), (3.0, 7.0, 1.0), (5.0, 2.0, 3.5), (4.0, 1.5, 0.0))
Factors = Callable[[float, float, float], tuple[float, float]]


def _share(a: float, b: float, w: float) -> float:
    """How far w lies along the way from a to b."""
    return (w - a) / (b - a)


def _moved(share: Callable[[float, float, float], float]) -> Factors:
    """The factors of eps_a and eps_b in eps_a + share (eps_b - eps_a)."""

    def factors(a: float, b: float, w: float) -> tuple[float, float]:
        part = share(a, b, w)
        return 1 - part, part

    return factors


_right_factors = _moved(_share)
WRONG_SCALES: list[tuple[str, Factors]] = [
    ("not divided", _moved(lambda a, b, w: w - a)),
    ("by b", _moved(lambda a, b, w: (w - a) / b)),
    ("w", _moved(lambda a, b, w: w / (b - a))),
    ("w", _moved(lambda a, b, w: w / b)),
    ("from b", _moved(lambda a, b, w: (w - b) / (b - a))),
    ("starts at b", lambda a, b, w: (-_share(a, b, w), 1 + _share(a, b, w))),
    ("wrong end", _moved(lambda a, b, w: 1 - _share(a, b, w))),
    ("as cond", _moved(lambda a, b, w: w)),
    ("as cond", _moved(lambda a, b, w: 1 - w)),
    ("clamped", _moved(lambda a, b, w: min(max(_share(a, b, w), 0.0), 1.0))),
    ("clamped", _moved(lambda a, b, w: min(_share(a, b, w), 1.0))),
    ("clamped", _moved(lambda a, b, w: max(_share(a, b, w), 0.0))),
    ("average", _moved(lambda a, b, w: 0.5)),
    ("unchanged", _moved(lambda a, b, w: 0.0)),
    ("unchanged", _moved(lambda a, b, w: 1.0)),
    ("ratio", lambda a, b, w: (0.0, w / b)),
    ("ratio", lambda a, b, w: (w / a, 0.0)),
    ("ratio", lambda a, b, w: (w / a / 2, w / b / 2)),
    ("ratio", lambda a, b, w: (w / (a + b), w / (a + b))),
    ("sign", _moved(lambda a, b, w: -_share(a, b, w))),
    ("distance", _moved(lambda a, b, w: abs(_share(a, b, w)))),
    ("distance", _moved(lambda a, b, w: abs(w - a) / (b - a))),
    ("distance", _moved(lambda a, b, w: (w - a) / abs(b - a))),
    ("turned", _moved(lambda a, b, w: (b - a) / (w - a))),
    ("no difference", lambda a, b, w: (1.0, _share(a, b, w))),
    ("no difference", lambda a, b, w: (1.0, w)),
    ("no start", lambda a, b, w: (-_share(a, b, w), _share(a, b, w))),
    ("no start", lambda a, b, w: (-w, w)),
]


def _line(factors: Factors, case: tuple[float, float, float]) -> Tensor:
    of_a, of_b = factors(*case)
    return of_a * _image(1) + of_b * _image(2)


def examine_scale(function: Callable) -> str:
    """Exercise 07.1."""
    values, changed = [], False
    for a, b, w in SCALES:
        eps_a, eps_b = _image(1), _image(2)
        values.append(expect_tensor(function(eps_a, a, eps_b, b, w), SHAPE, AXES))
        changed = changed or not (torch.equal(eps_a, _image(1)) and torch.equal(eps_b, _image(2)))
    expected = [_line(_right_factors, case) for case in SCALES]
    if not all(map(close, values, expected)):
        for name, factors in WRONG_SCALES:
            if all(close(value, _line(factors, case)) for case, value in zip(SCALES, values, strict=True)):
                raise Wrong(SCALE[name])
        raise _off_the_line(values, expected)
    if changed:
        raise Wrong(SCALE["in place"])
    return "Guidance is a straight line in w: two points of it give every scale, without asking the network."


def _off_the_line(values: list[Tensor], expected: list[Tensor]) -> Wrong:
    i = next(i for i, value in enumerate(values) if not close(value, expected[i]))
    where = "with a = {:g}, b = {:g}, w = {:g}".format(*SCALES[i])
    basis = torch.stack([_image(seed).double().flatten() for seed in (1, 2)], dim=1)
    found = torch.linalg.lstsq(basis, values[i].flatten()[:, None]).solution.flatten().tolist()
    if close(values[i], _line(lambda a, b, w: tuple(found), SCALES[i])):
        got = "eps_a is multiplied by {:.3f} and eps_b by {:.3f}".format(*found)
        wanted = "{:.3f} and {:.3f}".format(*_right_factors(*SCALES[i]))
        return Wrong(f"The numbers are off: {where}, {got}, which should be {wanted}.")
    return _off_by(values[i], expected[i], where)


def _off_by(value: Tensor, expected: Tensor, where: str) -> Wrong:
    farthest = (value - expected).abs().argmax()
    got, wanted = float(value.flatten()[farthest]), float(expected.flatten()[farthest])
    return Wrong(f"The numbers are off: {where}, one pixel should be {wanted:.3f}, got {got:.3f}.")


# ---- 07.2 ----

CLASSES = 7
# (seed of x_t, t, y, y_not, w): no sample's t or label is another's; w amplified, then pulled back.
CASES = (
    (3, (40, 310, 820), (4, 1, 5), (0, 6, 2), 3.0),
    (4, (990, 500, 120), (0, 3, 2), (5, 1, 6), -0.6),
)


class TooFewTimesteps(ValueError):
    """The network was given 2B samples and fewer timesteps."""


class Network(nn.Module):
    """A smooth function of x_t, t and the label in the place of a network; it notes what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.register_buffer("table", torch.randn(CLASSES + 1, *SHAPE[1:], generator=generator))
        self.null_label = CLASSES
        self.asked: list[tuple[Tensor, Tensor, Tensor]] = []
        self.answers: list[Tensor] = []

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        y = _checked(x_t, t, y)
        self.asked.append((x_t.detach().clone(), t.clone(), y.clone()))
        rows = self.table.to(x_t)[y]
        # t and the label inside the sine: guidance on a mixture of two labels is another thing.
        eps = torch.sin(x_t + t.to(x_t).view(-1, 1, 1, 1) / 300 + rows) + 0.5 * rows
        self.answers.append(eps.detach().clone())
        return eps


def _checked(x_t: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
    """The labels, None as the null label; a ValueError for what a network cannot work with."""
    if not isinstance(x_t, Tensor) or tuple(x_t.shape[1:]) != SHAPE[1:]:
        raise ValueError(f"The network takes images of shape [B, {', '.join(map(str, SHAPE[1:]))}]")
    rows = len(x_t)
    if not isinstance(t, Tensor) or tuple(t.shape) != (rows,):
        short = isinstance(t, Tensor) and t.numel() in (1, SHAPE[0]) and rows == 2 * SHAPE[0]
        got = f"t of shape {list(t.shape)}" if isinstance(t, Tensor) else f"a t of type {type(t).__name__}"
        raise (TooFewTimesteps if short else ValueError)(f"The network got {rows} samples and {got}")
    if y is None:
        return torch.full((rows,), CLASSES)
    if not isinstance(y, Tensor) or tuple(y.shape) != (rows,):
        got = f"of shape {list(y.shape)}" if isinstance(y, Tensor) else f"of type {type(y).__name__}"
        raise ValueError(f"The network got {rows} samples and labels {got}")
    if y.dtype != torch.int64 or bool(((y < 0) | (y > CLASSES)).any()):
        raise ValueError(f"The labels must be int64 from 0 to {CLASSES}, the null label")
    return y


def _inputs(case: tuple) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    seed, t, y, y_not, w = case
    return _image(seed), torch.tensor(t), torch.tensor(y), torch.tensor(y_not), w


def _mixture(formula: Callable[[Tensor, Tensor, float], Tensor], case: tuple) -> Tensor:
    """A formula of eps(y_not), eps(y) and w, worked out for a case."""
    x_t, t, y, y_not, w = _inputs(case)
    network = Network()
    return formula(network(x_t, t, y_not), network(x_t, t, y), w)


def _right_mixture(n: Tensor, c: Tensor, w: float) -> Tensor:
    return n + w * (c - n)


WRONG_MIXTURES: list[tuple[str, Callable[[Tensor, Tensor, float], Tensor]]] = [
    ("plus one", lambda n, c, w: c + w * (c - n)),
    ("exchanged", lambda n, c, w: c + w * (n - c)),
    ("sign", lambda n, c, w: n - w * (c - n)),
    ("sum", lambda n, c, w: n + w * (n + c)),
    ("sum", lambda n, c, w: c + w * (n + c)),
    ("sum", lambda n, c, w: w * (n + c)),
    ("outside", lambda n, c, w: w * c),
    ("outside", lambda n, c, w: w * n),
    ("no difference", lambda n, c, w: n + w * c),
    ("no difference", lambda n, c, w: n - w * c),
    ("no difference", lambda n, c, w: c - w * n),
    ("no difference", lambda n, c, w: w * c - n),
    ("no start", lambda n, c, w: w * (c - n)),
    ("no start", lambda n, c, w: w * (n - c)),
    ("no start", lambda n, c, w: c - n),
    ("no start", lambda n, c, w: n - c),
    ("w", lambda n, c, w: n),
    ("w", lambda n, c, w: c),
    ("w", lambda n, c, w: (n + c) / 2),
]


class Seen(NamedTuple):
    """One call of the learner's function: what it returned, the network it asked, whether inputs changed."""

    value: Tensor
    network: Network
    changed: bool


def examine_away(function: Callable) -> str:
    """Exercise 07.2."""
    seen = [_observe(function, case) for case in CASES]
    values, expected = [one.value for one in seen], [_mixture(_right_mixture, case) for case in CASES]
    if not all(map(close, values, expected)):
        name = _name_of_asking(seen) or _name_of_mixture(values) or ("split" if _is_split(seen) else None)
        if name is not None:
            raise Wrong(AWAY[name])
        i = next(i for i, value in enumerate(values) if not close(value, expected[i]))
        _, t, y, y_not, w = CASES[i]
        where = f"with t = {list(t)}, y = {list(y)}, y_not = {list(y_not)}, w = {w:g}"
        raise _off_by(values[i], expected[i], where)
    if any(one.changed for one in seen):
        raise Wrong(AWAY["in place"])
    if any(len(one.network.asked) > 1 for one in seen):
        raise Wrong(AWAY["calls"])
    if any(len(one.network.answers[0]) > 2 * SHAPE[0] for one in seen):
        raise Wrong(AWAY["more"])
    return "Any label can take the place of the null label: guidance goes away from it and towards y."


def _observe(function: Callable, case: tuple) -> Seen:
    network, given = Network().eval(), _inputs(case)
    try:
        with torch.no_grad():  # as samplers call it
            value = function(network, *given)
    except TooFewTimesteps as error:
        raise Wrong(AWAY["t"], running.line_of(error, running.code_of(function))) from None
    if isinstance(value, Tensor) and tuple(value.shape) == (2 * SHAPE[0], *SHAPE[1:]):
        raise Wrong(AWAY["halves"])
    result = expect_tensor(value, SHAPE, AXES)
    if not network.asked:
        raise Wrong("The network is never asked: model(x_t, t, labels) gives eps, [B, C, H, W].")
    changed = not all(map(torch.equal, given[:4], _inputs(case)[:4]))
    return Seen(result, network, changed)


def _name_of_asking(seen: list[Seen]) -> str | None:
    """What was wrong already in the questions: each row's image tells which sample it belongs to."""
    found, labels = set(), {"y": 0, "y_not": 0}
    for one, case in zip(seen, CASES, strict=True):
        x_t, t, y, y_not, _ = _inputs(case)
        images, told, asked = (torch.cat(parts) for parts in zip(*one.network.asked, strict=True))
        owners = [[j for j in range(len(x_t)) if torch.equal(image.to(x_t), x_t[j])] for image in images]
        pairs = list(zip(owners, told.tolist(), asked.tolist(), strict=True))
        if not all(owners):
            found.add("x_t")
            continue
        if CLASSES in asked.tolist():
            found.add("null")
        known = {*y.tolist(), *y_not.tolist()}
        if any(label in known - {int(y[i]), int(y_not[i])} for (i,), _, label in pairs):
            found.add("mixed")
        if any(time != t[i] for (i,), time, _ in pairs):
            found.add("t")
        labels["y"] += sum(label == y[i] for (i,), _, label in pairs)
        labels["y_not"] += sum(label == y_not[i] for (i,), _, label in pairs)
    # "mixed" before "t": an image in the wrong row misses both, and it is one mistake.
    found |= {name for name, count in labels.items() if not count}
    return next((name for name in ("x_t", "null", "mixed", "t", "y_not", "y") if name in found), None)


def _name_of_mixture(values: list[Tensor]) -> str | None:
    for name, formula in WRONG_MIXTURES:
        if all(close(value, _mixture(formula, case)) for case, value in zip(CASES, values, strict=True)):
            return name
    return None


CUTS: tuple[Callable[[Tensor], tuple[Tensor, Tensor]], ...] = (
    lambda eps: (eps[: SHAPE[0]], eps[SHAPE[0] :]),
    lambda eps: (eps[SHAPE[0] :], eps[: SHAPE[0]]),
    lambda eps: (eps[::2], eps[1::2]),
    lambda eps: (eps[1::2], eps[::2]),
)


def _is_split(seen: list[Seen]) -> bool:
    """Whether the right questions were asked and the answer, one batch of 2B, was cut in the wrong places."""
    answers = [one.network.answers[0] for one in seen]
    for answer, one, case in zip(answers, seen, CASES, strict=True):
        wanted = torch.cat([_mixture(lambda n, c, w: n, case), _mixture(lambda n, c, w: c, case)])
        told = all(any(close(row, other) for other in answer) for row in wanted)
        if len(one.network.asked) != 1 or answer.shape != wanted.shape or not told:
            return False
    values, scales = [one.value for one in seen], [case[4] for case in CASES]
    return any(
        all(close(v, _right_mixture(*cut(eps), w)) for v, eps, w in zip(values, answers, scales, strict=True))
        for cut in CUTS
    )


EXERCISES = (
    Exercise(
        number="07.1",
        minutes=5,
        title="Another scale",
        check_name="at_scale",
        arguments=("eps_a", "a", "eps_b", "b", "w"),
        hints=(
            "Guidance is a straight line in w, and you know two of its points. How far along the way from a "
            "to b does w lie?",
            "eps(w) = eps_uncond + w (eps_cond - eps_uncond), so eps_b - eps_a = (b - a) (eps_cond - "
            "eps_uncond), and eps(w) - eps_a = (w - a) (eps_cond - eps_uncond).",
            "return eps_a + ____ / ____ * (eps_b - eps_a)",
        ),
        examine=examine_scale,
        diagnoses=SCALE,
    ),
    Exercise(
        number="07.2",
        minutes=15,
        title="Towards and away",
        check_name="away_from",
        arguments=("model", "x_t", "t", "y", "y_not", "w"),
        hints=(
            "Classifier-free guidance goes from the unconditional prediction towards the conditional one. "
            "Which of the two does y_not replace, and what must a batch of 2B hold to ask for both at once?",
            "eps = eps(y_not) + w (eps(y) - eps(y_not)): a batch of 2B holds x_t twice, t twice, and first "
            "one set of labels, then the other.",
            "eps_not, eps_y = model(torch.cat([____]), torch.cat([____]), torch.cat([____])).chunk(2) … "
            "return ____ + w * (____)",
        ),
        examine=examine_away,
        diagnoses=AWAY,
    ),
)
