"""Exercises of lesson 13, one step: two jumps one after the other, and the target that a jump learns from."""

from math import sqrt

import torch
from torch import Tensor

from classroom.checks.exercise import Exercise, variants
from classroom.checks.networks import Network, Question, image


class Jumps(Network):
    """jump(x_t, t, s) in the place of a flow map; it is none, so that two jumps are no other one."""

    def __init__(self) -> None:
        super().__init__(
            lambda x, t, s: 0.6 * x + torch.sin(1.5 * x + 3 * t) - torch.cos(x + 4 * s), name="map"
        )

    def forward(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        self.check(x, t)
        self.check(x, s)
        times = (one.to(x).view(-1, 1, 1, 1) / 1000 for one in (t, s))
        x_s = self.answer(x, *times)
        self.questions.append(Question(x.detach().clone(), t.detach().clone(), None, x_s.detach().clone()))
        return x_s


def two_jumps(jump, x_t, t, m, s):
    """The function that 13.1 asks to repair, as the lesson gives it."""
    x_m = jump(x_t, t, m)
    return jump(x_m, t, s)


def _weights(abar_t: float, abar_s: float) -> tuple[float, float]:
    """What x_t and the estimate count in x_s."""
    kept = sqrt((1 - abar_s) / (1 - abar_t))
    return kept, sqrt(abar_s) - sqrt(abar_t) * kept


def _solved(kept_of=lambda k: k, moved_of=lambda m, b: m, weights=_weights):
    """The jump solved for its estimate, with one part replaced."""

    def formula(x_t, x_s, a, b):
        kept, moved = weights(a, b)
        return (x_s - kept_of(kept) * x_t) / moved_of(moved, b)

    return formula


TWO_JUMPS = Exercise(
    heading="13.1 Repair two jumps (5 min)",
    signature="two_jumps(jump, x_t [B, C, H, W], t [B], m [B], s [B]) -> [B, C, H, W]",
    question="Say each line aloud: from which time to which does it jump? And at which time is the state "
    "that it starts from?",
    formula="x_m = jump(x_t, t, m): a state at m. x_s = jump(x_m, from, to): from is where x_m is.",
    blank="return jump(x_m, ____, s)",
    praise="Each jump is told where its own start lies. So two jumps can teach one, or draw better than one.",
    cases=(((900, 820), (610, 333), (240, -1)), ((999, 700), (480, 510), (-1, 90))),
    given=lambda *times: (Jumps(), image(13), *map(torch.tensor, times)),
    right=lambda jump, x, t, m, s: jump(jump(x, t, m), m, s),
    asks="calls",
    planted=two_jumps,
    wrong=variants(
        "The second jump is told another start than m: its state x_m lies at m.",
        lambda jump, x, t, m, s: jump(jump(x, t, m), t, s),
        lambda jump, x, t, m, s: jump(jump(x, t, m), t, m),
        "The second jump starts from x_t again: it goes on from where the first one ended.",
        lambda jump, x, t, m, s: jump(x, m, s),
        lambda jump, x, t, m, s: jump(x, t, s),
        "The first jump goes as far as s, and then the second one goes there again: the first ends at m.",
        lambda jump, x, t, m, s: jump(jump(x, t, s), m, s),
        lambda jump, x, t, m, s: jump(jump(x, t, s), t, s),
        "The two jumps come in the other order: first from t to m, then from m to s.",
        lambda jump, x, t, m, s: jump(jump(x, m, s), t, m),
        "Only the first jump is made: go on from m to s.",
        lambda jump, x, t, m, s: jump(x, t, m),
    ),
)
JUMP_TARGET = Exercise(
    heading="13.2 The target of a jump (15 min)",
    signature="jump_target(x_t [B, C, H, W], x_s [B, C, H, W], abar_t, abar_s) -> [B, C, H, W]",
    question="The jump says x_s when D is known. Here x_s is known. Which letter do you solve for, and does "
    "anything go wrong if s is the image?",
    formula="x_s = k x_t + m D with k = sigma_s / sigma_t, m = alpha_s - alpha_t k, alpha = sqrt(abar) and "
    "sigma = sqrt(1 - abar). It is one equation in D.",
    blank="k = math.sqrt((1 - ____) / (1 - ____)) … return (x_s - ____) / (math.sqrt(abar_s) - ____)",
    praise="This is what a jump learns from: wherever the end comes from, it is told as one estimate.",
    cases=((1, 0.1, 0.6), (2, 0.35, 0.9), (3, 0.2, 1.0)),
    given=lambda seed, a, b: (image(seed), image(seed + 10), a, b),
    right=_solved(),
    limits={2: "At the image, abar_s = 1, the target is x_s itself: nothing of x_t is kept there."},
    overflow="At the image abar_s is 1, so whatever is divided by sqrt(1 - abar_s) there is no number.",
    wrong=variants(
        "x_s itself is returned: only a jump to the image has its end for an estimate.",
        lambda x_t, x_s, a, b: 1.0 * x_s,
        "What is left of x_s is not divided by the weight that the estimate has in it.",
        _solved(moved_of=lambda m, b: 1),
        "The whole of x_t is taken away: of it only the share sigma_s / sigma_t is kept in x_s.",
        _solved(kept_of=lambda k: 1),
        "Nothing of x_t is taken away: x_s holds what the jump kept of it.",
        _solved(kept_of=lambda k: 0),
        "The estimate's weight is smaller than alpha_s: the x_t that is kept brings a part of the signal.",
        _solved(moved_of=lambda m, b: sqrt(b)),
        "The roots are missing: alpha is sqrt(abar) and sigma is sqrt(1 - abar).",
        _solved(weights=lambda a, b: ((1 - b) / (1 - a), b - a * (1 - b) / (1 - a))),
        "This is the noise that both states share, and not the estimate of the image.",
        lambda x_t, x_s, a, b: (sqrt(b) * x_t - sqrt(a) * x_s) / (sqrt(b * (1 - a)) - sqrt(a * (1 - b))),
        "The result is multiplied by the estimate's weight: divide by it.",
        _solved(moved_of=lambda m, b: 1 / m),
    ),
)
EXERCISES = (TWO_JUMPS, JUMP_TARGET)
