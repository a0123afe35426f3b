"""Exercises of lesson 09, measuring counterfactuals: there and back, and an inversion that clips."""

import math
from math import sqrt

import torch
from torch import Tensor

from classroom.checks.exercise import Exercise, variants
from classroom.checks.networks import SHAPE, Network, Question, image
from lessons_lib.counterfactuals import in_8_bits
from lessons_lib.schedules import NoiseSchedule

HIDDEN = 0.45  # of a grey level: rounding takes it away and changes nothing else


class Intervention(Network):
    """A picture that hides x in its last decimals, and uses what it finds in those of what it is given."""

    def __init__(self, source: tuple[int, ...]) -> None:
        super().__init__(lambda x, t, y: x, name="intervention")
        self.source = torch.tensor(source)

    def forward(self, x: Tensor, source: Tensor, target: Tensor) -> Tensor:
        self.check(x, source)
        self.check(x, target)
        shown = in_8_bits(x)
        found = ((x - shown) * 127.5 / HIDDEN).clamp(-1, 1)
        wave = torch.sin(120 * shown + (1.1 * target.to(x) - 0.7 * source.to(x)).view(-1, 1, 1, 1))
        there = torch.isin(source, self.source).to(x).view(-1, 1, 1, 1)
        picture = in_8_bits(0.5 * wave + 0.4 * found) + there * HIDDEN * shown / 127.5
        self.questions.append(Question(x.detach().clone(), torch.zeros_like(source), None, picture))
        return picture


def _mean(d: Tensor) -> Tensor:
    return d.abs().mean(dim=(1, 2, 3)) / 2


def _returned(measure=_mean, picture=in_8_bits):
    """measure(back - x_0), where picture(there) is sent back."""
    return lambda ask, x, source, target: measure(ask(picture(ask(x, source, target)), target, source) - x)


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
    network = Network(lambda x, t, y: 0.6 * x + 1.5 * torch.sin(2 * x + 7 * t.to(x).view(-1, 1, 1, 1) / 60))
    x_0 = 2 * torch.rand(SHAPE, generator=torch.Generator().manual_seed(92)) - 1
    return network, NoiseSchedule.linear(60), x_0, torch.tensor(walk)


def _walk(fix=torch.clone, noise=torch.clone, level=max, rederived=False):
    """DDIM inversion (Song et al. 2021, sec. 5.4): the old level of abar is the larger."""

    def formula(eps_fn, schedule, x, timesteps, now=1.0):
        for t in timesteps.flip(0).tolist():
            to = float(schedule.alphas_cumprod[t])
            eps, a = noise(eps_fn(x, torch.full((len(x),), t))), level(now, to)
            estimate = fix((x - sqrt(1 - a) * eps) / sqrt(a))
            eps = (x - sqrt(a) * estimate) / sqrt(1 - a) if rederived and a < 1 else eps
            x, now = sqrt(to) * estimate + sqrt(1 - to) * eps, to
        return x

    return formula


THERE_AND_BACK = Exercise(
    heading="09.1 There and back again (5 min)",
    signature="there_and_back(intervene, x_0 [B, C, H, W], source [B], target [B]) -> [B]",
    question="Which class is the counterfactual of, and which one should come back? And what would a "
    "picture file keep of it on the way?",
    formula="there = intervene(x_0, source, target) in 8 bits, back = intervene(there, target, source), and "
    "error = mean |back - x_0| / 2 for each image: pixels in [-1, 1] differ by twice as much.",
    blank="back = intervene(____(there), ____, ____) … return (back - x_0).abs().____ / 2",
    praise="What is lost on the way to the target and back was never held by the counterfactual's pixels.",
    cases=((90, (4, 1), (0, 6)), (91, (7, 2), (3, 5))),  # no image's label is another's
    given=lambda seed, y, y_to: (Intervention(y), in_8_bits(image(seed, 0.4)), *map(torch.tensor, (y, y_to))),
    right=_returned(),
    asks="rows",
    shapes={
        "[B, C, H, W] [B, C]": "Every pixel or channel has its difference: take the mean over them, [B].",
        "[C, H, W]": "The mean is taken over the images: one number an image is asked, [B].",
    },
    wrong=variants(
        "The pictures travel with all their decimals, where an original can hide: round with in_8_bits.",
        _returned(picture=torch.clone),
        "The rounding misses the 256 levels of a picture, (0 … 255) / 127.5 - 1: take in_8_bits.",
        *(_returned(picture=lambda there, n=n: (there * n).round() / n) for n in (127.5, 128, 255)),
        "The labels are mixed up: from source to target, and then the way back, from target to source.",
        lambda ask, x, source, target: _mean(ask(in_8_bits(ask(x, source, target)), source, target) - x),
        lambda ask, x, source, target: _mean(ask(in_8_bits(ask(x, target, source)), source, target) - x),
        "The wrong two pictures are compared: what comes back is compared with the original.",
        lambda ask, x, source, target: _mean(in_8_bits(ask(x, source, target)) - x),
        "The differences cancel out: take their absolute values before the mean.",
        _returned(lambda d: d.mean(dim=(1, 2, 3)) / 2),
        "The differences are squared: the mean absolute error is asked.",
        *(_returned(lambda d, power=power: (d**2).mean(dim=(1, 2, 3)) ** power) for power in (0.5, 1)),
    ),
)
INVERT = Exercise(
    heading="09.2 Repair an inversion that drifts (15 min)",
    signature="invert(eps_fn, schedule, x_0 [B, C, H, W], timesteps) -> [B, C, H, W]",
    question="Take one step up and then the sampler's step down with the same eps. Is every line of the "
    "step up undone by a line of the step down? Which one cannot be undone?",
    formula="estimate = (x - sqrt(1 - abar) eps) / sqrt(abar), and x at the next level = sqrt(abar_next) "
    "estimate + sqrt(1 - abar_next) eps. An estimate far outside [-1, 1] is no image, but it is what leads "
    "back to x.",
    blank="estimate = (x - math.sqrt(1 - abar_now) * ____) / ____  # and nothing more",
    praise="Nothing is taken away any more, so the sampler finds its way back, but for the steps' error.",
    cases=(
        (59, 44, 30, 17, 6),
        (40, 21, 3),
    ),  # to the top, and to a depth below it; uneven, not down to 0
    given=_given_walk,
    right=_walk(),
    asks="calls",
    overflow="At the image itself abar is 1, so whatever is divided by sqrt(1 - abar) there is no number.",
    planted=invert,
    wrong=variants(
        "The estimate is clipped to [0, 1]: all that is darker than grey is lost.",
        _walk(lambda x: x.clamp(0, 1)),
        "The estimate is clipped to [-1, 1]. Pictures lie there, but this is only one half of a sum.",
        _walk(lambda x: x.clamp(-1, 1)),
        "The estimate is still clipped: eps derived from it again does not bring back what was lost.",
        _walk(lambda x: x.clamp(-1, 1), rederived=True),
        "The clip is still there with wider bounds: that moves the wall, and the drift behind it.",
        *(_walk(lambda x, wall=wall: x.clamp(-wall, wall)) for wall in (1.1, 1.2, 1.5, 2, 3, 5)),
        "Now eps is clipped: noise reaches far beyond [-1, 1], as the estimate does.",
        _walk(noise=lambda eps: eps.clamp(-1, 1)),
        "abar_now stays 1: after each step x lies at the level of the timestep reached.",
        _walk(level=lambda now, to: 1.0),
    ),
)
EXERCISES = (THERE_AND_BACK, INVERT)
