"""Exercises of lesson 09, measuring counterfactuals: there and back, and an inversion that clips."""

import math
from collections.abc import Callable
from math import sqrt

import torch
from torch import Tensor

from classroom.checks.exercise import Exercise, Wrong, variants
from classroom.checks.networks import SHAPE, Network, Question
from lessons_lib.counterfactuals import in_8_bits
from lessons_lib.schedules import NoiseSchedule

HIDDEN = 0.45  # of a grey level: rounding takes it away and changes nothing else
SWING = 120  # so steep that one grey level more or less in x can be seen in the error


class Intervention(Network):
    """A picture that depends on every grey level and both labels; on the way there it hides x in the last decimals.

    What it finds hidden it uses, so that whoever forgets to round gets another answer.
    """

    def __init__(self, source: tuple[int, ...]) -> None:
        super().__init__(lambda x, t, y: x, name="intervention")
        self.source = torch.tensor(source)

    def forward(self, x: Tensor, source: Tensor, target: Tensor) -> Tensor:
        self._check(x, source)
        self._check(x, target)
        if float(x.abs().max()) > 1.01:
            raise Wrong(
                f"intervene takes pictures in [-1, 1], got one that reaches {float(x.abs().max()):g}."
            )
        shown = in_8_bits(x)
        found = ((x - shown) * 127.5 / HIDDEN).clamp(-1, 1)
        phase = (1.1 * target.to(x) - 0.7 * source.to(x)).view(-1, 1, 1, 1)
        there = torch.isin(source, self.source).to(x).view(-1, 1, 1, 1)
        picture = (
            in_8_bits(0.5 * torch.sin(SWING * shown + phase) + 0.4 * found) + there * HIDDEN * shown / 127.5
        )
        self.questions.append(Question(x.detach().clone(), torch.zeros_like(source), None, picture))
        return picture


def _given_pictures(seed: int, source: tuple, target: tuple) -> tuple:
    x_0 = in_8_bits(2 * torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed)) - 1)
    return Intervention(source), x_0, torch.tensor(source), torch.tensor(target)


def _mean(d: Tensor) -> Tensor:
    return d.abs().mean(dim=(1, 2, 3)) / 2


def _returned(
    first: tuple[int, int] = (0, 1),  # the labels of the way there: 0 source, 1 target
    second: tuple[int, int] = (1, 0),
    sent: Callable[[Tensor, Tensor], Tensor] = lambda x_0, there: in_8_bits(there),
    compared: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda x_0, there, back: back - x_0,
    measure: Callable[[Tensor], Tensor] = _mean,
) -> Callable:
    """There and back (Monteiro et al. 2023, reversibility), each part to be replaced by a wrong one."""

    def formula(intervene, x_0, *labels):
        there = intervene(x_0, *(labels[i] for i in first))
        back = intervene(sent(x_0, there), *(labels[i] for i in second))
        return measure(compared(x_0, there, back))

    return formula


TIMESTEPS = 60


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


def _given_walk(*walk: int) -> tuple:
    """A network that changes its mind from step to step, so that the estimates lie far beyond [-1, 1]."""
    network = Network(
        lambda x, t, y: 0.6 * x + 1.5 * torch.sin(2 * x + 7 * t.to(x).view(-1, 1, 1, 1) / TIMESTEPS)
    )
    x_0 = 2 * torch.rand(SHAPE, generator=torch.Generator().manual_seed(92)) - 1
    return network, NoiseSchedule.linear(TIMESTEPS), x_0, torch.tensor(walk)


def _same(x: Tensor) -> Tensor:
    return x


def _walk(
    fix: Callable[[Tensor], Tensor] = _same,  # the estimate
    rederived: bool = False,
    noise: Callable[[Tensor], Tensor] = _same,
    state: Callable[[Tensor], Tensor] = _same,
    end: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda x, estimate, eps: x,
    level: Callable[[float, float], float] = lambda now, to: now,
    asked: int = 1,  # how often at each step
) -> Callable:
    """DDIM inversion (Song et al. 2021, sec. 5.4), each part to be replaced by a wrong one."""

    def formula(eps_fn, schedule, x_0, timesteps):
        x, now = x_0, 1.0
        for t in timesteps.flip(0).tolist():
            to, after = float(schedule.alphas_cumprod[t]), x
            for _ in range(asked):
                eps, a = noise(eps_fn(after, torch.full((len(x),), t))), level(now, to)
                estimate = fix((x - sqrt(1 - a) * eps) / sqrt(a))
                if rederived and a < 1:
                    eps = (x - sqrt(a) * estimate) / sqrt(1 - a)
                after = state(sqrt(to) * estimate + sqrt(1 - to) * eps)
            x, now = after, to
        return end(x, estimate, eps)

    return formula


def _clip(x: Tensor) -> Tensor:
    return x.clamp(-1, 1)


EXERCISES = (
    Exercise(
        number="09.1",
        minutes=5,
        title="There and back again",
        check_name="there_and_back",
        arguments=("intervene", "x_0 [B, C, H, W]", "source [B]", "target [B]"),
        returns="[B]",
        hints=(
            "Which class is the counterfactual of, and which one should come back? And what would a picture "
            "file keep of it on the way?",
            "there = intervene(x_0, source, target) in 8 bits, back = intervene(there, target, source), and "
            "error = mean |back - x_0| / 2 for each image: pixels in [-1, 1] differ by twice as much.",
            "back = intervene(____(there), ____, ____) … return (back - x_0).abs().____ / 2",
        ),
        praise="What is lost on the way to the target and back was never held by the counterfactual's pixels.",
        cases=((90, (4, 1), (0, 6)), (91, (7, 2), (3, 5))),  # no image's label is another's
        given=_given_pictures,
        right=_returned(),
        in_sampler=True,
        asks="rows",
        shapes={
            "[B, C, H, W] [B, C] [B, C, H]": "Every pixel still has its difference: take the mean over channels "
            "and pixels, [B].",
            "[C, H, W]": "The mean is taken over the images: take it over channels and pixels, one number an image.",
        },
        wrong=variants(
            "The pictures travel with all their decimals, where an intervention can hide the original: round what "
            "comes from the first one with in_8_bits.",
            _returned(sent=lambda x_0, there: there),
            "The rounding misses the 256 levels of a picture, (0 … 255) / 127.5 - 1: take in_8_bits.",
            *(_returned(sent=lambda x_0, there, n=n: (there * n).round() / n) for n in (1, 127.5, 128, 255)),
            _returned(sent=lambda x_0, there: ((there + 1) * 127.5).floor() / 127.5 - 1),
            "The pictures go back in [0, 1]: interventions take [-1, 1].",
            _returned(sent=lambda x_0, there: ((there + 1) * 127.5).round() / 255),
            _returned(sent=lambda x_0, there: in_8_bits((there + 1) / 2)),
            "The labels are mixed up: from source to target, and then the way back, from target to source.",
            *(_returned(second=second) for second in ((0, 1), (1, 1), (0, 0))),
            *(_returned(first, (0, 1)) for first in ((1, 0), (0, 0), (1, 1))),
            "The way back starts at the original: it starts at the counterfactual, in 8 bits.",
            _returned(sent=lambda x_0, there: x_0),
            "The wrong two pictures are compared: what comes back is compared with the original.",
            _returned(compared=lambda x_0, there, back: there - x_0),
            _returned(compared=lambda x_0, there, back: in_8_bits(there) - x_0),
            _returned(compared=lambda x_0, there, back: back - in_8_bits(there)),
            _returned(compared=lambda x_0, there, back: back - there),
            "The unit is wrong: pixels in [-1, 1] differ by twice what they do in [0, 1], and grey levels by 255.",
            *(_returned(measure=lambda d, k=k: k * _mean(d)) for k in (2, 255, 510)),
            "The differences cancel out: take their absolute values before the mean.",
            *(_returned(measure=lambda d, k=k: k * d.mean(dim=(1, 2, 3))) for k in (0.5, -0.5)),
            _returned(measure=lambda d: d.mean(dim=(1, 2, 3)).abs() / 2),
            "The differences are squared: the mean absolute error is asked.",
            *(
                _returned(measure=lambda d, power=power: (d**2).mean(dim=(1, 2, 3)) ** power)
                for power in (1, 0.5)
            ),
            "The differences are added up, or only the largest counts: take the mean over channels and pixels.",
            _returned(measure=lambda d: d.abs().sum(dim=(1, 2, 3)) / 2),
            _returned(measure=lambda d: d.abs().amax(dim=(1, 2, 3)) / 2),
        ),
    ),
    Exercise(
        number="09.2",
        minutes=15,
        title="Repair an inversion that drifts",
        check_name="invert",
        arguments=("eps_fn", "schedule", "x_0 [B, C, H, W]", "timesteps"),
        returns="[B, C, H, W]",
        hints=(
            "Take one step up and then the sampler's step down with the same eps. Is every line of the step "
            "up undone by a line of the step down? Which one cannot be undone?",
            "estimate = (x - sqrt(1 - abar) eps) / sqrt(abar), and x at the next level = sqrt(abar_next) "
            "estimate + sqrt(1 - abar_next) eps. An estimate far outside [-1, 1] is no image, but it is "
            "what leads back to x.",
            "estimate = (x - math.sqrt(1 - abar_now) * ____) / ____  # and nothing more",
        ),
        praise="Nothing is taken away any more, so the sampler finds its way back: what is left is the steps' error.",
        cases=(
            (59, 44, 30, 17, 6),
            (40, 21, 3),
        ),  # to the top, and to a depth below it; uneven, not down to 0
        given=_given_walk,
        right=_walk(),
        in_sampler=True,
        asks="calls",
        overflow="At the image itself abar is 1, so whatever is divided by sqrt(1 - abar) there is infinite or NaN. "
        "No eps needs to be derived again where nothing is clipped.",
        planted=invert,
        wrong=variants(
            "The estimate is clipped to [0, 1]: all that is darker than grey is lost.",
            _walk(fix=lambda x: x.clamp(0, 1)),
            _walk(fix=lambda x: x.clamp(0, 1), rederived=True),
            "The estimate is clipped to [-1, 1]. Pictures lie there, but this is only one half of a sum: what a "
            "clip takes away, no decoding gives back.",
            _walk(fix=_clip),
            "The estimate is still clipped. That eps is derived from it again helps the sampler, but here the "
            "clipped part is lost all the same.",
            _walk(fix=_clip, rederived=True),
            "The clip is still there with wider bounds: that moves the wall, and the drift behind it.",
            *(
                _walk(fix=lambda x, wall=wall: x.clamp(-wall, wall))
                for wall in (1.1, 1.2, 1.5, 2, 2.5, 3, 5, 10)
            ),
            "The estimate is squeezed, by tanh or by its largest value: that changes it as a clip does.",
            _walk(fix=torch.tanh),
            _walk(fix=lambda x: x / x.abs().max()),
            _walk(fix=lambda x: x / x.abs().max().clamp(min=1)),
            "Now eps or the state is clipped: noise reaches far beyond [-1, 1], as the estimate does.",
            _walk(noise=_clip),
            _walk(state=_clip),
            _walk(end=lambda x, estimate, eps: _clip(x)),
            "abar_now is set to the new level before the estimate is made: x still lies at the old one.",
            *(_walk(level=lambda now, to: to, fix=fix) for fix in (_same, _clip)),
            "abar_now stays 1: after each step x lies at the level of the timestep reached.",
            *(_walk(level=lambda now, to: 1.0, fix=fix) for fix in (_same, _clip)),
            "The last estimate or eps is returned: the state at timesteps[0] is asked.",
            *(_walk(end=lambda x, estimate, eps: estimate, fix=fix) for fix in (_same, _clip)),
            _walk(end=lambda x, estimate, eps: eps),
            "The network is asked again at each result: a finer method, but the repair needs one question a step.",
            _walk(asked=2),
        ),
    ),
)
