"""Exercises of lesson 08, counterfactual grids: the inputs of a grid, and one step of DDIM inversion.

A wrong answer is named by working out the classic wrong orders and formulas on the same inputs: the one that
gives what the learner's function gives in every case is the learner's. For 08.1 each image of the batch tells
which noise it is a copy of; for 08.2 the function in the place of the network notes what it is asked.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from classroom.checks import running
from classroom.checks.judging import Exercise, NotUsable, Unfinished, Wrong, close, expect_tensor

GRID = {
    "repeat": "The images are still in the order 0 1 2 0 1 2, so row n of the grid holds every noise: the "
    "copies of one noise belong side by side, 0 0 1 1 2 2.",
    "labels": "The labels come as 0 0 0 1 1 1, so a noise is not asked for every class: within one row of "
    "the grid they run through all classes, 0 1 2 0 1 2.",
    "transposed": "The grid is turned on its side: here each row is one class, but row n is noise n and "
    "column k is class k.",
    "fresh": "The images hold noise that is not in x_T: every one of them is a copy of one of the N noises.",
    "one noise": "One noise fills the whole grid: row n comes from noise n.",
    "noise as label": "The label is the number of the noise: it is the number of the column, 0 … K-1.",
    "plus one": "The labels run from 1 to K: classes are counted from 0, and K itself is the null label.",
    "one class": "Every image is asked for the same class: column k is asked for class k.",
    "random": "The labels are drawn at random: column k is asked for class k.",
    "dtype": "The order is right, but the labels are not int64, the dtype that an embedding looks up.",
    "only one": "One tensor is returned: both are asked, return x, y.",
    "order": "The labels come first: return x, y.",
    "not flat": "There is an axis too many: a network takes one batch, so flatten rows and columns to N*K.",
    "once": "x still holds N images: every noise is needed once for each class, N*K images.",
    "few labels": "There are too few labels: every image has its own, N*K of them.",
    "no dim": "x is one long row of numbers: without dim, repeat_interleave flattens the tensor; say dim=0.",
    "axis": "The copies lie along the channels, the height or the width: the batch is the first axis.",
    "one-hot": "The labels are one-hot rows: a network takes the number of the class, [N*K].",
    "in place": "x_T is changed: the caller still needs it.",
}
INVERSE = {
    "clipped": "The estimate is clipped: what a clip takes away, no decoding gives back. Clip nothing here.",
    "rederived": "The estimate is clipped and eps derived from it again, as samplers do: on the way back "
    "nothing may be clipped.",
    "soft": "The estimate is squeezed by tanh: whatever changes it is missing on the way back.",
    "result clipped": "The result is clipped: a noisy image reaches far beyond [-1, 1].",
    "t": "The network takes t as [B] int64, one timestep a sample: torch.full((len(x),), t_to).",
    "timestep": "The network is asked at another timestep: ask at t_to, the one that the step goes to.",
    "noise": "Fresh noise is added: that is SDEdit. Inversion puts back the eps that the network found in x.",
    "exchanged": "abar and abar_to are exchanged: x lies at abar and goes to abar_to.",
    "mixed": "abar and abar_to are mixed up in one place: the estimate is read off at abar, and signal and "
    "noise go back at abar_to.",
    "unchanged": "x comes back as it was: the estimate is made at abar, and put at abar_to.",
    "factors": "The factors of image and noise are exchanged: the image has sqrt(abar), eps sqrt(1 - abar).",
    "root": "A square root is missing: all four factors are roots, of abar, 1 - abar, abar_to, 1 - abar_to.",
    "sign": "The estimate has the wrong sign: the noise is taken out, x - sqrt(1 - abar) eps.",
    "sign back": "The noise goes back with the wrong sign: add sqrt(1 - abar_to) eps.",
    "no division": "The estimate is not divided by sqrt(abar): x holds the image shrunk by that.",
    "multiplied": "The estimate is multiplied by sqrt(abar): divide by it.",
    "estimate": "Only the estimate is returned: it must be put at the level abar_to, with its noise.",
    "no noise": "No noise is put back: add sqrt(1 - abar_to) eps.",
    "not shrunk": "The estimate goes back as it is: multiply it by sqrt(abar_to).",
    "as image": "x is taken for the image itself: read the estimate off it first.",
    "jump": "This is a jump of the forward process, which is made for fresh noise: but eps is the noise that "
    "x holds already. Read off the estimate, then put both at abar_to.",
    "only eps": "Only eps is returned: the state at abar_to is asked.",
    "asked": "The network is asked about another image than x: eps is the noise found in x itself.",
    "fixed point": "The network is asked again, at the result: a finer method, but here it is asked once.",
    "calls": "The numbers are right, but the network is asked more than once: keep its eps.",
    "at 1": "Right below 1, but not at abar = 1, the image itself: nothing may be divided by sqrt(1 - abar), "
    "and this state moves like any other.",
    "in place": "x is changed: the caller still needs it.",
}

# ---- 08.1 ----

IMAGE = (2, 6, 7)  # [C, H, W]
SIZES = ((3, 4), (5, 3))  # N noises and K classes: fewer of them, then more
Order = Callable[[int, int], list[int]]


def grid_inputs(x_T, num_classes):
    """The function that 08.1 asks to repair, as the lesson gives it."""
    x = x_T.repeat(num_classes, 1, 1, 1)
    y = torch.arange(num_classes).repeat(len(x_T))
    return x, y


def _rows(N: int, K: int) -> list[int]:
    return [n for n in range(N) for _ in range(K)]


def _tiled_rows(N: int, K: int) -> list[int]:
    return [n for _ in range(K) for n in range(N)]


def _columns(N: int, K: int) -> list[int]:
    return [k for _ in range(N) for k in range(K)]


def _sorted_columns(N: int, K: int) -> list[int]:
    return [k for k in range(K) for _ in range(N)]


def _always(number: Callable[[int], int]) -> Order:
    return lambda N, K: [number(N)] * (N * K)


def _from_1(order: Order) -> Order:
    return lambda N, K: [k + 1 for k in order(N, K)]


NOISES, LABELS = (_rows, _tiled_rows), (_columns, _sorted_columns)
ONE_NOISE = (_always(lambda N: 0), _always(lambda N: N - 1))
# What each name makes of the noises and of the labels.
WRONG_GRIDS: list[tuple[str, Order, Order]] = [
    ("repeat", _tiled_rows, _columns),
    ("labels", _rows, _sorted_columns),
    ("transposed", _tiled_rows, _sorted_columns),
    *(("one noise", *both) for both in itertools.product(ONE_NOISE, LABELS)),
    *(("noise as label", *both) for both in itertools.product(NOISES, NOISES)),
    *(("plus one", noises, _from_1(labels)) for noises, labels in itertools.product(NOISES, LABELS)),
    *(("one class", noises, _always(lambda N, k=k: k)) for noises in NOISES for k in (0, 1, 2)),
]


def _noises(N: int) -> Tensor:
    return torch.randn(N, *IMAGE, generator=torch.Generator().manual_seed(8))


def examine_grid(function: Callable) -> str:
    """Exercise 08.1."""
    found, types, changed = [], set(), False
    for N, K in SIZES:
        x_T = _noises(N)
        x, y = _pair(function(x_T, K), N, K)
        types.add(y.dtype)
        changed = changed or not torch.equal(x_T, _noises(N))
        found.append((_copied(x, N), y.tolist()))
    if any(None in noises for noises, _ in found):
        raise Wrong(GRID["fresh"])
    if any(_grid(size, _rows, _columns) != one for size, one in zip(SIZES, found, strict=True)):
        for name, *orders in WRONG_GRIDS:
            if all(_grid(size, *orders) == one for size, one in zip(SIZES, found, strict=True)):
                raise Wrong(GRID[name])
        if any(_pair(function(_noises(N), K), N, K)[1].tolist() != found[i][1] for i, (N, K) in _cases()):
            raise Wrong(GRID["random"])
        raise _off_in_the_grid(found)
    if types != {torch.int64}:
        raise Wrong(GRID["dtype"])
    if changed:
        raise Wrong(GRID["in place"])
    return "Along a row the noise stays and the label changes: whatever differs there, the label did."


def _cases() -> list[tuple[int, tuple[int, int]]]:
    return list(enumerate(SIZES))


def _grid(size: tuple[int, int], noises: Order, labels: Order) -> tuple[list[int], list[int]]:
    return noises(*size), labels(*size)


def _pair(result: Any, N: int, K: int) -> tuple[Tensor, Tensor]:
    """Both tensors, in the shapes that are asked; y in the dtype that it came in."""
    if result is None or result is ...:
        expect_tensor(result, ())
    if isinstance(result, Tensor):
        raise NotUsable(GRID["only one"])
    if not isinstance(result, tuple | list) or len(result) != 2:
        got = f"{len(result)} things" if isinstance(result, tuple | list) else f"a {type(result).__name__}"
        raise NotUsable(f"Your function must return two tensors, x and y, got {got}.")
    x, y = result
    if x is ... or y is ...:
        raise Unfinished
    for one, name in ((x, _name_of_x(x, y, N, K)), (y, _name_of_y(y, N, K))):
        if isinstance(one, Tensor) and name is not None:
            raise NotUsable(GRID[name])
    labels = expect_tensor(y, (N * K,), "[N*K]")
    return expect_tensor(x, (N * K, *IMAGE), "[N*K, C, H, W]"), labels.to(y.dtype)


def _name_of_x(x: Any, y: Any, N: int, K: int) -> str | None:
    shape, (C, H, W) = tuple(getattr(x, "shape", ())), IMAGE
    if len(shape) < 4 and tuple(getattr(y, "shape", ()))[1:] == IMAGE:
        return "order"
    if shape in ((N, K, *IMAGE), (K, N, *IMAGE)):
        return "not flat"
    if shape in ((N, K * C, H, W), (N, C, K * H, W), (N, C, H, K * W)):
        return "axis"
    return {(N, *IMAGE): "once", (N * K * C * H * W,): "no dim"}.get(shape)


def _name_of_y(y: Any, N: int, K: int) -> str | None:
    names = {(N, K): "not flat", (K, N): "not flat", (N,): "few labels", (K,): "few labels"}
    return {**names, (N * K, K): "one-hot"}.get(tuple(getattr(y, "shape", ())))


def _copied(x: Tensor, N: int) -> list[int | None]:
    """For each image of the batch the number of the noise that it is a copy of."""
    noises = _noises(N)
    return [next((n for n in range(N) if close(image, noises[n])), None) for image in x]


def _off_in_the_grid(found: list[tuple[list, list]]) -> Wrong:
    expected = [_grid(size, _rows, _columns) for size in SIZES]
    i = next(i for i, one in enumerate(found) if one != expected[i])
    got, wanted = (list(zip(*one[i], strict=True)) for one in (found, expected))
    j = next(j for j, one in enumerate(got) if one != wanted[j])
    where = "with N = {} and K = {}".format(*SIZES[i])
    is_now = f"image {j} of the batch is noise {got[j][0]} asked for class {got[j][1]:g}"
    should = "it should be noise {} asked for class {}".format(*wanted[j])
    return Wrong(f"The order is off: {where}, {is_now}; {should}.")


# ---- 08.2 ----

SHAPE = (2, 3, 4, 5)  # [B, C, H, W], all different
AXES = "[B, C, H, W]"
# (t_to, abar, abar_to): early, in the middle, late.
CASES = ((200, 0.9, 0.7), (480, 0.6, 0.35), (850, 0.3, 0.1))
FROM_IMAGE = (120, 1.0, 0.85)


class NoBatchOfTimesteps(ValueError):
    """t is not [B] int64."""


class Asked:
    """A smooth function of x and t in the place of the network; it notes what it is asked."""

    def __init__(self) -> None:
        self.images: list[Tensor] = []
        self.times: list[list[int]] = []

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        if not isinstance(x, Tensor) or tuple(x.shape) != SHAPE:
            got = f"of shape {list(x.shape)}" if isinstance(x, Tensor) else f"of type {type(x).__name__}"
            raise ValueError(f"eps_fn takes x of shape {list(SHAPE)}, got one {got}")
        if not isinstance(t, Tensor) or t.shape != x.shape[:1] or t.dtype != torch.int64:
            raise NoBatchOfTimesteps
        self.images.append(x.detach().clone())
        self.times.append(t.tolist())
        time = t.to(x).view(-1, 1, 1, 1) / 1000
        return 0.4 * x + torch.sin(1.5 * x + 4 * time) + time


def _image() -> Tensor:
    return 1.3 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(88))


def _all(t: int) -> Tensor:
    return torch.full(SHAPE[:1], t)


Level = Callable[[float, float], float]


def _signal(a: float, b: float) -> float:
    return math.sqrt(a)


def _noise(a: float, b: float) -> float:
    return math.sqrt(1 - a)


def _signal_to(a: float, b: float) -> float:
    return math.sqrt(b)


def _noise_to(a: float, b: float) -> float:
    return math.sqrt(1 - b)


def _minus(level: Level) -> Level:
    return lambda a, b: -level(a, b)


def _squared(level: Level) -> Level:
    return lambda a, b: level(a, b) ** 2


def _one(*_: float) -> float:
    return 1.0


def _zero(*_: float) -> float:
    return 0.0


class Move(NamedTuple):
    """A step of DDIM inversion (Song et al. 2021, sec. 5.4), each part to be replaced by a wrong one."""

    noise: Level = _noise  # what eps …
    signal: Level = _signal  # … and x_0 are multiplied by in x
    signal_to: Level = _signal_to  # … and the same in the result
    noise_to: Level = _noise_to
    fix: Callable[[Tensor], Tensor] = lambda x_0: x_0
    rederived: bool = False
    end: Callable[[Tensor], Tensor] = lambda x: x

    def __call__(self, eps_fn, x, t_to, abar, abar_to) -> Tensor:
        eps = eps_fn(x, _all(t_to))
        x_0 = self.fix((x - self.noise(abar, abar_to) * eps) / self.signal(abar, abar_to))
        if self.rederived:
            eps = (x - math.sqrt(abar) * x_0) / math.sqrt(1 - abar)
        return self.end(self.signal_to(abar, abar_to) * x_0 + self.noise_to(abar, abar_to) * eps)


def _clip(x: Tensor) -> Tensor:
    return x.clamp(-1, 1)


def _exchanged(eps_fn, x, t_to, abar, abar_to) -> Tensor:
    return Move()(eps_fn, x, t_to, abar_to, abar)


def _fixed_point(eps_fn, x, t_to, abar, abar_to) -> Tensor:
    eps = eps_fn(Move()(eps_fn, x, t_to, abar, abar_to), _all(t_to))
    return Move()(lambda *_: eps, x, t_to, abar, abar_to)


def _without_roots() -> list[Move]:
    """The step with one root missing, with two, with three and with all four."""
    right = {"noise": _noise, "signal": _signal, "signal_to": _signal_to, "noise_to": _noise_to}
    chosen = itertools.chain.from_iterable(itertools.combinations(right, n) for n in (1, 2, 3, 4))
    return [Move(**{name: _squared(right[name]) for name in names}) for names in chosen]


_right_move = Move()
WRONG_MOVES: list[tuple[str, Callable]] = [
    ("clipped", Move(fix=_clip)),
    ("rederived", Move(fix=_clip, rederived=True)),
    ("soft", Move(fix=torch.tanh)),
    ("soft", Move(fix=torch.tanh, rederived=True)),
    ("result clipped", Move(end=_clip)),
    ("result clipped", Move(fix=_clip, end=_clip)),
    ("exchanged", _exchanged),
    *(("mixed", Move(**part)) for part in ({"signal_to": _signal}, {"noise_to": _noise})),
    *(("mixed", Move(**part)) for part in ({"signal": _signal_to}, {"noise": _noise_to})),
    ("unchanged", Move(signal_to=_signal, noise_to=_noise)),
    ("factors", Move(noise=_signal, signal=_noise)),
    ("factors", Move(signal_to=_noise_to, noise_to=_signal_to)),
    ("factors", Move(noise=_signal, signal=_noise, signal_to=_noise_to, noise_to=_signal_to)),
    *(("root", move) for move in _without_roots()),
    ("sign", Move(noise=_minus(_noise))),
    ("sign", Move(noise=_minus(_noise), noise_to=_minus(_noise_to))),
    ("sign back", Move(noise_to=_minus(_noise_to))),
    ("no division", Move(signal=_one)),
    ("multiplied", Move(signal=lambda a, b: 1 / math.sqrt(a))),
    ("estimate", Move(signal_to=_one, noise_to=_zero)),
    ("no noise", Move(noise_to=_zero)),
    ("not shrunk", Move(signal_to=_one)),
    ("as image", Move(noise=_zero, signal=_one)),
    ("jump", lambda eps_fn, x, t, a, b: math.sqrt(b / a) * x + math.sqrt(1 - b / a) * eps_fn(x, _all(t))),
    ("only eps", Move(signal_to=_zero, noise_to=_one)),
    ("fixed point", _fixed_point),
]


class Seen(NamedTuple):
    """One call of the learner's function: what it returned, what it asked, whether x was changed."""

    value: Tensor
    network: Asked
    changed: bool


def examine_inverse(function: Callable) -> str:
    """Exercise 08.2."""
    seen = [_observe(function, case) for case in CASES]
    values, expected = [one.value for one in seen], _results(_right_move)
    right = all(map(close, values, expected))
    if not right:
        if not all(close(_observe(function, case).value, one.value) for case, one in _pairs(seen)):
            raise Wrong(INVERSE["noise"])
        if not all(one.network.times for one in seen):
            raise Wrong("The network is never asked: eps_fn(x, t) gives the noise in x, [B, C, H, W].")
        for name, formula in WRONG_MOVES:
            if all(map(close, values, _results(formula))):
                raise Wrong(INVERSE[name])
    if any(one.changed for one in seen):
        raise Wrong(INVERSE["in place"])
    if not right:
        raise _name_of_asking(seen) or _first_difference(values, expected)
    if any(len(one.network.times) > 1 for one in seen):
        raise Wrong(INVERSE["calls"])
    _try_from_image(function)
    return "A step of DDIM that goes up: when the steps are small, the sampler comes back the same way."


def _pairs(seen: list[Seen]) -> list[tuple[tuple[int, float, float], Seen]]:
    return list(zip(CASES, seen, strict=True))


def _observe(function: Callable, case: tuple[int, float, float]) -> Seen:
    network, x = Asked(), _image()
    try:
        with torch.no_grad():  # as samplers call it
            value = expect_tensor(function(network, x, *case), SHAPE, AXES)
    except NoBatchOfTimesteps as error:
        raise Wrong(INVERSE["t"], running.line_of(error, running.code_of(function))) from None
    return Seen(value, network, not torch.equal(x, _image()))


def _results(formula: Callable) -> list[Tensor]:
    with torch.no_grad():
        return [formula(Asked(), _image(), *case) for case in CASES]


def _name_of_asking(seen: list[Seen]) -> Wrong | None:
    for case, one in _pairs(seen):
        if any(t != case[0] for times in one.network.times for t in times):
            return Wrong(INVERSE["timestep"])
    if any(not close(image, _image()) for one in seen for image in one.network.images[:1]):
        return Wrong(INVERSE["asked"])
    return None


def _try_from_image(function: Callable) -> None:
    """The first step of an inversion: from the image, at signal level 1."""
    try:
        value = _observe(function, FROM_IMAGE).value
    except NotUsable:
        raise Wrong(INVERSE["at 1"]) from None
    except ZeroDivisionError as error:
        raise Wrong(INVERSE["at 1"], running.line_of(error, running.code_of(function))) from None
    if not close(value, _right_move(Asked(), _image(), *FROM_IMAGE)):
        raise Wrong(INVERSE["at 1"])


def _first_difference(values: list[Tensor], expected: list[Tensor]) -> Wrong:
    i = next(i for i, value in enumerate(values) if not close(value, expected[i]))
    farthest = (values[i] - expected[i]).abs().argmax()
    got, wanted = float(values[i].flatten()[farthest]), float(expected[i].flatten()[farthest])
    where = "with t_to = {}, abar = {:g}, abar_to = {:g}".format(*CASES[i])
    return Wrong(f"The numbers are off: {where} one pixel should be {wanted:.3f}, got {got:.3f}.")


EXERCISES = (
    Exercise(
        number="08.1",
        minutes=5,
        title="Repair a grid that mixes its noises",
        check_name="grid_inputs",
        arguments=("x_T", "num_classes"),
        hints=(
            "Write down the batch for two noises and three classes: which noise and which class belongs to "
            "each of the six images, row after row? And what do both lines of the function give?",
            "For N = 2 and K = 3 the noises are 0 0 0 1 1 1 and the labels 0 1 2 0 1 2: image i of the batch "
            "is noise i // K, asked for class i % K.",
            "x = x_T.____(num_classes, dim=____)",
        ),
        examine=examine_grid,
        diagnoses=GRID,
        planted=grid_inputs,
    ),
    Exercise(
        number="08.2",
        minutes=15,
        title="A step of DDIM, backwards",
        check_name="inverse_step",
        arguments=("eps_fn", "x", "t_to", "abar", "abar_to"),
        hints=(
            "A sampler's step estimates the image and puts it at a lower noise level, with the same eps. "
            "What changes if the next level is the higher one? And which timestep does the network hear?",
            "eps = eps_fn(x, t_to), x̂_0 = (x - sqrt(1 - abar) eps) / sqrt(abar), and the result is "
            "sqrt(abar_to) x̂_0 + sqrt(1 - abar_to) eps.",
            "eps = eps_fn(x, torch.full((____,), ____)) … return math.sqrt(____) * x_0 + ____ * eps",
        ),
        examine=examine_inverse,
        diagnoses=INVERSE,
    ),
)
