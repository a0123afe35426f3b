"""Exercises of lesson 09, measuring counterfactuals: there and back, and an inversion that clips.

A wrong answer is named by working out the classic wrong formulas on the same inputs: the one that gives what
the learner's function gives in every case is the learner's. The intervention of 09.1 hides its original in
the last decimals, as a careless one would, and uses what it finds there on the way back.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from classroom.checks import running
from classroom.checks.judging import Exercise, NotReal, NotUsable, Wrong, close, expect_tensor
from lessons_lib.counterfactuals import in_8_bits
from lessons_lib.schedules import NoiseSchedule

RETURN = {
    "not rounded": "The images travel with all their decimals, where an intervention can hide the original: "
    "round what comes from the first one with in_8_bits.",
    "other levels": "The rounding misses the 256 levels of a picture, (0 … 255) / 127.5 - 1: take in_8_bits.",
    "truncated": "The decimals are cut off: a picture's levels are rounded, as in_8_bits does.",
    "unit": "The images go back in [0, 1]: interventions take [-1, 1].",
    "labels": "The way back asks for the target once more: there it is the source, so exchange the labels.",
    "same": "One intervention is given a label twice, which changes nothing: source to target, and back.",
    "wrong way": "The first intervention goes from target to source: the originals are of class source.",
    "from x_0": "The way back starts at the original: it starts at the counterfactual, in 8 bits.",
    "there": "The counterfactual is compared with the original: compare what comes back from it.",
    "other end": "What came back is compared with the counterfactual: compare it with the original.",
    "units": "The error is twice as large: pixels in [-1, 1] differ by twice what they do in [0, 1].",
    "grey": "The error is in grey levels, 0 … 255: in [0, 1] pixels, please.",
    "signed": "The differences cancel out: take their absolute values before the mean.",
    "squared": "The differences are squared: the mean absolute error is asked.",
    "sum": "The differences are added up: take the mean over channels and pixels.",
    "largest": "The largest difference is returned: take the mean over channels and pixels.",
    "one number": "One number stands for the whole batch: each image has its own, [B].",
    "over batch": "The mean is taken over the images: take it over channels and pixels, one number an image.",
    "not reduced": "Every pixel still has its difference: take the mean over channels and pixels, [B].",
    "calls": "The number is right, but more is asked than the way there and the way back.",
    "in place": "x_0, source or target is changed: the caller still needs them.",
}
INVERT = {
    "unit": "The estimate is clipped to [0, 1]: all that is darker than grey is lost.",
    "clipped": "The estimate is clipped to [-1, 1]. Pictures lie there, but this is only one half of a sum: "
    "what a clip takes away, no decoding gives back.",
    "rederived": "The estimate is still clipped. That eps is derived from it again helps the sampler, but "
    "here the clipped part is lost all the same.",
    "divided": "At the image itself abar is 1, so whatever is divided by sqrt(1 - abar) there is infinite or "
    "NaN. No eps needs to be derived again where nothing is clipped.",
    "wall": "The clip is still there with wider bounds: that moves the wall, and the drift behind it.",
    "soft": "The estimate is squeezed, by tanh or by its largest value: that changes it as a clip does.",
    "eps clipped": "Now eps is clipped: noise reaches beyond [-1, 1] as the estimate does.",
    "state clipped": "Now the state is clipped: on its way to noise it reaches far beyond [-1, 1].",
    "result clipped": "The result is clipped: x_T is noise and reaches far beyond [-1, 1].",
    "direction": "The list is walked downwards, as a sampler does: from the image it goes up, so flip it.",
    "early": "abar_now is set to the new level before the estimate is made: x still lies at the old one.",
    "stale": "abar_now stays 1: after each step x lies at the level of the timestep reached.",
    "old t": "The network is asked at the timestep left: ask at the one moved to, as the sampler will.",
    "dropped first": "The lowest timestep is left out: the first step goes from the image to that one.",
    "dropped top": "The highest timestep is left out: the state at timesteps[0] is asked.",
    "one step": "One step goes straight to the top: walk every timestep of the list.",
    "every step": "Timesteps are visited that are not in the list: the sampler takes the list's steps alone.",
    "noise": "Fresh noise is added: that is SDEdit, and this image does not come back from it.",
    "estimate": "The last estimate of the image is returned: the state at timesteps[0] is asked.",
    "eps": "The last eps is returned: the state at timesteps[0] is asked.",
    "steps": "Several states are returned: the last one is asked, the state at timesteps[0].",
    "fixed point": "The network is asked again at each result: a finer method, but the repair needs one "
    "question a step.",
    "calls": "The numbers are right, but the network is asked more than once a step: keep its eps.",
    "in place": "x_0, timesteps or the schedule is changed: the caller still needs them.",
}
SHAPE = (2, 3, 4, 5)  # [B, C, H, W], all different
AXES = "[B, C, H, W]"

# ---- 09.1 ----

# (seed of x_0, source, target): no image's label is another's.
LABELS = ((90, (4, 1), (0, 6)), (91, (7, 2), (3, 5)))
HIDDEN = 0.45  # of a grey level: rounding takes it away and changes nothing else
SWING = 120  # so steep that one grey level more or less in x can be seen in the error


class Intervention:
    """A picture that depends on every grey level and both labels; it hides x in the last decimals.

    What it finds hidden in what it is given it uses, so that whoever forgets to round gets another answer.
    """

    def __init__(self) -> None:
        self.rows = 0

    def __call__(self, x: Tensor, source: Tensor, target: Tensor) -> Tensor:
        _check_request(x, source, target)
        self.rows += len(x)
        shown = in_8_bits(x)
        found = ((x - shown) * 127.5 / HIDDEN).clamp(-1, 1)
        phase = (1.1 * target.to(x) - 0.7 * source.to(x)).view(-1, 1, 1, 1)
        return in_8_bits(0.5 * torch.sin(SWING * shown + phase) + 0.4 * found) + HIDDEN * shown / 127.5


def _check_request(x: Tensor, source: Tensor, target: Tensor) -> None:
    """ValueError for what an intervention cannot work with."""
    if not isinstance(x, Tensor) or x.shape[1:] != SHAPE[1:] or not x.is_floating_point():
        got = f"{x.dtype} of shape {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"intervene takes images of shape [B, {', '.join(map(str, SHAPE[1:]))}], got {got}")
    if float(x.abs().max()) > 1.01:
        raise ValueError(f"intervene takes images in [-1, 1], got one of {float(x.abs().max()):g}")
    for labels in (source, target):
        if not isinstance(labels, Tensor) or labels.shape != x.shape[:1] or labels.dtype != torch.int64:
            raise ValueError("intervene takes labels of shape [B], int64, one for each image")


def _originals(case: tuple) -> tuple[Tensor, Tensor, Tensor]:
    """x_0 in 8 bits, source, target."""
    seed, source, target = case
    x_0 = in_8_bits(2 * torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed)) - 1)
    return x_0, torch.tensor(source), torch.tensor(target)


def _same(x: Any) -> Any:
    return x


def _mean_error(d: Tensor) -> Tensor:
    return d.abs().mean(dim=(1, 2, 3)) / 2


class Route(NamedTuple):
    """There and back (Monteiro et al. 2023, reversibility), each part to be replaced by a wrong one."""

    first: tuple[int, int] = (0, 1)  # the labels of the way there: 0 source, 1 target
    second: tuple[int, int] = (1, 0)
    between: Callable[[Tensor], Tensor] = in_8_bits
    start: Callable[[Tensor, Tensor], Tensor] = lambda x_0, sent: sent
    compared: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda x_0, there, back: back - x_0
    measure: Callable[[Tensor], Tensor] = _mean_error
    after: Callable[[Tensor], Tensor] = _same  # the metrics round what comes back too; here it need not be

    def __call__(self, intervene, x_0, source, target) -> Tensor:
        labels = source, target
        there = intervene(x_0, *(labels[i] for i in self.first))
        start = self.start(x_0, self.between(there))
        back = self.after(intervene(start, *(labels[i] for i in self.second)))
        return self.measure(self.compared(x_0, there, back))


BETWEEN: list[tuple[str, Callable[[Tensor], Tensor]]] = [
    ("not rounded", _same),
    *(("other levels", lambda x, n=n: (x * n).round() / n) for n in (1, 127, 127.5, 128, 255, 256)),
    ("truncated", lambda x: ((x + 1) * 127.5).floor() / 127.5 - 1),
    ("unit", lambda x: ((x + 1) * 127.5).round() / 255),
    ("unit", lambda x: in_8_bits((x + 1) / 2)),
]
MEASURES: list[tuple[str, Callable[[Tensor], Tensor]]] = [
    ("units", lambda d: 2 * _mean_error(d)),
    ("grey", lambda d: 255 * _mean_error(d)),
    ("grey", lambda d: 510 * _mean_error(d)),
    *(("signed", lambda d, k=k: k * d.mean(dim=(1, 2, 3))) for k in (0.5, -0.5, 1, -1)),
    *(("signed", lambda d, k=k: k * d.mean(dim=(1, 2, 3)).abs()) for k in (0.5, 1)),
    *(("squared", lambda d, k=k: k * (d**2).mean(dim=(1, 2, 3))) for k in (0.25, 0.5, 1)),
    *(("squared", lambda d, k=k: k * (d**2).mean(dim=(1, 2, 3)).sqrt()) for k in (0.5, 1)),
    *(("squared", lambda d, k=k: k * (d**2).sum(dim=(1, 2, 3)).sqrt()) for k in (0.5, 1)),
    *(("sum", lambda d, k=k: k * d.abs().sum(dim=(1, 2, 3))) for k in (0.5, 1)),
    *(("largest", lambda d, k=k: k * d.abs().amax(dim=(1, 2, 3))) for k in (0.5, 1)),
    *(("one number", lambda d, k=k: k * d.abs().mean().expand(len(d))) for k in (0.5, 1)),
]
_right_route = Route()
WRONG_ROUTES: list[tuple[str, Route]] = [
    *((name, Route(between=between)) for name, between in BETWEEN),
    ("labels", Route(second=(0, 1))),
    *(("same", Route(second=second)) for second in ((1, 1), (0, 0))),
    *(("same", Route(first=first)) for first in ((0, 0), (1, 1))),
    *(("wrong way", Route(first=(1, 0), second=second)) for second in ((0, 1), (1, 0))),
    ("from x_0", Route(start=lambda x_0, sent: x_0)),
    *(
        ("there", Route(compared=lambda x_0, there, back, kept=kept: kept(there) - x_0))
        for kept in (_same, in_8_bits)
    ),
    *(
        ("other end", Route(compared=lambda x_0, there, back, kept=kept: back - kept(there), between=sent))
        for kept, sent in itertools.product((_same, in_8_bits), (_same, in_8_bits))
    ),
    *((name, Route(measure=measure)) for name, measure in MEASURES),
]


def _wrong_returns() -> Iterator[tuple[str, list[Tensor]]]:
    """Each name with what its formula gives in every case, whether what comes back is rounded or not."""
    for (name, route), after in itertools.product(WRONG_ROUTES, (_same, in_8_bits)):
        yield name, _returns(route._replace(after=after))


def _returns(route: Route) -> list[Tensor]:
    return [route(Intervention(), *_originals(case)) for case in LABELS]


def _right_returns() -> list[list[Tensor]]:
    return [_returns(_right_route), _returns(Route(after=in_8_bits))]


def examine_return(function: Callable) -> str:
    """Exercise 09.1."""
    values, rows, changed = [], [], False
    for case in LABELS:
        intervene, given = Intervention(), _originals(case)
        with torch.no_grad():
            result = function(intervene, *given)
        values.append(_each_error(result))
        rows.append(intervene.rows)
        changed = changed or not all(map(torch.equal, given, _originals(case)))
    right = any(all(map(close, values, expected)) for expected in _right_returns())
    if not right:
        for name, wrong in _wrong_returns():
            if all(map(close, values, wrong)):
                raise Wrong(RETURN[name])
        if not all(rows):
            raise Wrong("Nothing is ever asked: intervene(x, source, target) gives the counterfactuals.")
    if changed:
        raise Wrong(RETURN["in place"])
    if not right:
        raise _off_error(values)
    if max(rows) > 2 * SHAPE[0]:
        raise Wrong(RETURN["calls"])
    return "What is lost on the way to the target and back was never held by the counterfactual's pixels."


def _each_error(result: Any) -> Tensor:
    names = {(): "one number", (1,): "one number", SHAPE: "not reduced", SHAPE[1:]: "over batch"}
    names |= {SHAPE[:2]: "not reduced", SHAPE[:3]: "not reduced"}
    if isinstance(result, Tensor) and tuple(result.shape) in names:
        raise NotUsable(RETURN[names[tuple(result.shape)]])
    if isinstance(result, float):
        raise NotUsable(RETURN["one number"] if math.isfinite(result) else f"The result is {result}.")
    return expect_tensor(result, SHAPE[:1], "[B]")


def _off_error(values: list[Tensor]) -> Wrong:
    expected = _returns(_right_route)
    i = next(i for i, value in enumerate(values) if not close(value, expected[i]))
    j = int((values[i] - expected[i]).abs().argmax())
    where = f"with source = {list(LABELS[i][1])} and target = {list(LABELS[i][2])}"
    wanted, got = float(expected[i][j]), float(values[i][j])
    return Wrong(
        f"The numbers are off: {where} the error of image {j} should be {wanted:.4f}, got {got:.4f}."
    )


# ---- 09.2 ----

TIMESTEPS = 60
WALKS = ((59, 44, 30, 17, 6), (40, 21, 3))  # to the top, and to a depth below it; uneven, and not down to 0


def invert(eps_fn, schedule, x_0, timesteps):
    """The function that 09.2 asks to repair, as the lesson gives it."""
    abar = schedule.alphas_cumprod
    x, abar_now = x_0, 1.0
    for t in timesteps.flip(0).tolist():
        eps = eps_fn(x, torch.full((len(x),), t))
        estimate = ((x - math.sqrt(1 - abar_now) * eps) / math.sqrt(abar_now)).clamp(0, 1)
        abar_now = float(abar[t])
        x = math.sqrt(abar_now) * estimate + math.sqrt(1 - abar_now) * eps
    return x


class Asked:
    """A smooth function of x and t in the place of the network; it notes when it is asked.

    It changes its mind from step to step, so that the estimates lie far beyond [-1, 1].
    """

    def __init__(self) -> None:
        self.times: list[int] = []
        self.all_finite = True

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        if not isinstance(x, Tensor) or tuple(x.shape) != SHAPE:
            got = f"of shape {list(x.shape)}" if isinstance(x, Tensor) else f"of type {type(x).__name__}"
            raise ValueError(f"eps_fn takes x of shape {list(SHAPE)}, got one {got}")
        if not isinstance(t, Tensor) or t.shape != x.shape[:1] or t.dtype != torch.int64:
            got = f"{t.dtype} of shape {list(t.shape)}" if isinstance(t, Tensor) else type(t).__name__
            raise ValueError(f"eps_fn takes t of shape {list(SHAPE[:1])}, int64, got {got}")
        self.times.append(int(t[0]))
        self.all_finite = self.all_finite and bool(x.isfinite().all())
        time = t.to(x).view(-1, 1, 1, 1) / TIMESTEPS
        return 0.6 * x + 1.5 * torch.sin(2 * x + 7 * time)


def _given(walk: tuple[int, ...]) -> tuple[NoiseSchedule, Tensor, Tensor]:
    """schedule, x_0, timesteps: made afresh."""
    x_0 = 2 * torch.rand(SHAPE, generator=torch.Generator().manual_seed(92)) - 1
    return NoiseSchedule.linear(TIMESTEPS), x_0, torch.tensor(walk)


def _shifted(steps: list[int], first: int) -> list[int]:
    return [first, *steps[:-1]]


class Walk(NamedTuple):
    """DDIM inversion (Song et al. 2021, sec. 5.4), each part to be replaced by a wrong one."""

    fix: Callable[[Tensor], Tensor] = _same  # the estimate
    rederived: bool = False
    noise: Callable[[Tensor], Tensor] = _same
    state: Callable[[Tensor], Tensor] = _same
    end: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda x, estimate, eps: x
    steps: Callable[[list[int]], list[int]] = _same  # of the list's timesteps, ascending
    asked: Callable[[list[int]], list[int]] = _same
    level: Callable[[float, float], float] = lambda now, to: now
    again: bool = False  # whether the network is asked at the result of each step too

    def __call__(self, eps_fn, schedule, x_0, timesteps) -> Tensor:
        x, now = x_0, 1.0
        steps = self.steps(timesteps.flip(0).tolist())
        for t, told in zip(steps, self.asked(steps), strict=True):
            batch_t, levels = torch.full((len(x),), told), (now, float(schedule.alphas_cumprod[t]))
            after, estimate, eps = self.moved(x, eps_fn(x, batch_t), *levels)
            if self.again:
                after, estimate, eps = self.moved(x, eps_fn(after, batch_t), *levels)
            x, now = after, levels[1]
        return self.end(x, estimate, eps)

    def moved(self, x: Tensor, eps: Tensor, now: float, to: float) -> tuple[Tensor, Tensor, Tensor]:
        level, eps = self.level(now, to), self.noise(eps)
        estimate = self.fix((x - math.sqrt(1 - level) * eps) / math.sqrt(level))
        if self.rederived and level < 1:
            eps = (x - math.sqrt(level) * estimate) / math.sqrt(1 - level)
        return self.state(math.sqrt(to) * estimate + math.sqrt(1 - to) * eps), estimate, eps


def _clip(x: Tensor) -> Tensor:
    return x.clamp(-1, 1)


def _unit(x: Tensor) -> Tensor:
    return x.clamp(0, 1)


def _largest(x: Tensor) -> Tensor:
    return x.abs().amax(dim=(1, 2, 3), keepdim=True)


WALLS = (1.05, 1.1, 1.2, 1.25, 1.3, 1.5, 1.75, 2, 2.5, 3, 4, 5, 10)
SOFT: tuple[Callable[[Tensor], Tensor], ...] = (
    torch.tanh,
    lambda x: x / x.abs().max(),
    lambda x: x / x.abs().max().clamp(min=1),
    lambda x: x / _largest(x),
    lambda x: x / _largest(x).clamp(min=1),
)
# Each with the clip and without it: it is a second mistake beside the first.
ASTRAY: list[tuple[str, dict[str, Callable]]] = [
    ("direction", {"steps": lambda steps: steps[::-1]}),
    ("early", {"level": lambda now, to: to}),
    ("stale", {"level": lambda now, to: 1.0}),
    ("old t", {"asked": lambda steps: _shifted(steps, 0)}),
    ("old t", {"asked": lambda steps: _shifted(steps, steps[0])}),
    ("dropped first", {"steps": lambda steps: steps[1:]}),
    ("dropped top", {"steps": lambda steps: steps[:-1]}),
    ("one step", {"steps": lambda steps: steps[-1:]}),
    ("every step", {"steps": lambda steps: list(range(steps[-1] + 1))}),
    ("every step", {"steps": lambda steps: list(range(TIMESTEPS))}),
    ("estimate", {"end": lambda x, estimate, eps: estimate}),
    ("eps", {"end": lambda x, estimate, eps: eps}),
]
_right_walk = Walk()
WRONG_WALKS: list[tuple[str, Walk]] = [
    ("unit", Walk(fix=_unit)),
    ("unit", Walk(fix=_unit, rederived=True)),
    ("clipped", Walk(fix=_clip)),
    ("rederived", Walk(fix=_clip, rederived=True)),
    *(
        ("wall", Walk(fix=lambda x, wall=wall: x.clamp(-wall, wall), rederived=rederived))
        for wall, rederived in itertools.product(WALLS, (False, True))
    ),
    *(("soft", Walk(fix=fix, rederived=again)) for fix, again in itertools.product(SOFT, (False, True))),
    *(("eps clipped", Walk(noise=_clip, fix=fix)) for fix in (_same, _clip)),
    *(("state clipped", Walk(state=_clip, fix=fix)) for fix in (_same, _clip)),
    ("result clipped", Walk(end=lambda x, estimate, eps: _clip(x))),
    *((name, Walk(**parts, fix=fix)) for name, parts in ASTRAY for fix in (_same, _clip)),
    *(("fixed point", Walk(again=True, fix=fix)) for fix in (_same, _clip)),
]


class Seen(NamedTuple):
    """One call of the learner's function: what it returned, when it asked, whether its inputs changed."""

    value: Tensor
    times: list[int]
    changed: bool


def examine_invert(function: Callable) -> str:
    """Exercise 09.2."""
    seen = [_observe(function, walk) for walk in WALKS]
    values, expected = [one.value for one in seen], _ends(_right_walk)
    right = all(map(close, values, expected))
    if not right:
        if not all(close(_observe(function, walk).value, values[i]) for i, walk in enumerate(WALKS)):
            raise Wrong(INVERT["noise"])
        if not all(one.times for one in seen):
            raise Wrong("The network is never asked: eps_fn(x, t) gives the noise in x, [B, C, H, W].")
        for name, formula in WRONG_WALKS:
            if all(map(close, values, _ends(formula))):
                raise Wrong(INVERT[name])
    if any(one.changed for one in seen):
        raise Wrong(INVERT["in place"])
    if not right:
        raise _name_of_times(seen) or _first_difference(values, expected)
    if any(len(one.times) > len(walk) for one, walk in zip(seen, WALKS, strict=True)):
        raise Wrong(INVERT["calls"])
    return (
        "Nothing is taken away any more, so the sampler finds its way back: what is left is the steps' error."
    )


def _observe(function: Callable, walk: tuple[int, ...]) -> Seen:
    network, given = Asked(), _given(walk)
    try:
        with torch.no_grad():  # as samplers call it
            result = function(network, *given)
        stacked = isinstance(result, Tensor) and result.shape[1:] == SHAPE
        if stacked or isinstance(result, tuple | list | Iterator):
            raise NotUsable(INVERT["steps"])
        value = expect_tensor(result, SHAPE, AXES)
    except ZeroDivisionError as error:
        raise Wrong(INVERT["divided"], running.line_of(error, running.code_of(function))) from None
    except NotReal:
        if network.all_finite:
            raise
        raise Wrong(INVERT["divided"]) from None
    return Seen(value, network.times, not all(map(torch.equal, _tensors(given), _tensors(_given(walk)))))


def _tensors(given: tuple[NoiseSchedule, Tensor, Tensor]) -> tuple[Tensor, ...]:
    schedule, *others = given
    return schedule.betas, schedule.alphas_cumprod, *others


def _ends(formula: Callable) -> list[Tensor]:
    with torch.no_grad():
        return [formula(Asked(), *_given(walk)) for walk in WALKS]


def _name_of_times(seen: list[Seen]) -> Wrong | None:
    """What is wrong already in the timesteps at which the network was asked."""
    for name, parts in ASTRAY:
        way = parts.get("asked") or parts.get("steps")
        if way and all(one.times == way(list(walk[::-1])) for one, walk in zip(seen, WALKS, strict=True)):
            return Wrong(INVERT[name])
    return None


def _first_difference(values: list[Tensor], expected: list[Tensor]) -> Wrong:
    i = next(i for i, value in enumerate(values) if not close(value, expected[i]))
    farthest = (values[i] - expected[i]).abs().argmax()
    got, wanted = float(values[i].flatten()[farthest]), float(expected[i].flatten()[farthest])
    where = f"with timesteps = {list(WALKS[i])}"
    return Wrong(f"The numbers are off: {where} one pixel should be {wanted:.3f}, got {got:.3f}.")


EXERCISES = (
    Exercise(
        number="09.1",
        minutes=5,
        title="There and back again",
        check_name="there_and_back",
        arguments=("intervene", "x_0", "source", "target"),
        hints=(
            "Which class is the counterfactual of, and which one should come back? And what would a picture "
            "file keep of it on the way?",
            "there = intervene(x_0, source, target) in 8 bits, back = intervene(there, target, source), and "
            "error = mean |back - x_0| / 2 for each image: pixels in [-1, 1] differ by twice as much.",
            "back = intervene(____(there), ____, ____) … return (back - x_0).abs().____ / 2",
        ),
        examine=examine_return,
        diagnoses=RETURN,
    ),
    Exercise(
        number="09.2",
        minutes=15,
        title="Repair an inversion that drifts",
        check_name="invert",
        arguments=("eps_fn", "schedule", "x_0", "timesteps"),
        hints=(
            "Take one step up and then the sampler's step down with the same eps. Is every line of the step "
            "up undone by a line of the step down? Which one cannot be undone?",
            "estimate = (x - sqrt(1 - abar) eps) / sqrt(abar), and x at the next level = sqrt(abar_next) "
            "estimate + sqrt(1 - abar_next) eps. An estimate far outside [-1, 1] is no image, but it is "
            "what leads back to x.",
            "estimate = (x - math.sqrt(1 - abar_now) * ____) / ____  # and nothing more",
        ),
        examine=examine_invert,
        diagnoses=INVERT,
        planted=invert,
    ),
)
