"""Exercises of lesson 07, classifier-free guidance: another scale, and away from a label."""

from collections.abc import Callable

import torch
from torch import Tensor

from classroom.checks.exercise import Exercise, variants
from classroom.checks.networks import Network, image

SHAPE, CLASSES = (3, 2, 4, 5), 7  # [B, C, H, W] and K, all different


def _moved(share: Callable[[float, float, float], float]) -> Callable:
    """From eps_a by a share(a, b, w) of the way to eps_b."""
    return lambda eps_a, a, eps_b, b, w: eps_a + share(a, b, w) * (eps_b - eps_a)


def _share(a: float, b: float, w: float) -> float:
    return (w - a) / (b - a)


def labelled_network() -> Network:
    """(x_t, t, y) -> eps; the label stands inside the sine, so a mixture of two is another thing."""
    table = image(7, shape=(CLASSES + 1, *SHAPE[1:]))

    def eps(x, t, y):
        return torch.sin(x + t.to(x).view(-1, 1, 1, 1) / 300 + table.to(x)[y]) + 0.5 * table.to(x)[y]

    return Network(eps, SHAPE[1:], CLASSES).eval()


def _given(seed: int, t: tuple, y: tuple, y_not: tuple, w: float) -> tuple:
    return labelled_network(), image(seed, shape=SHAPE), *(torch.tensor(one) for one in (t, y, y_not)), w


def _guided(mix: Callable[[Tensor, Tensor, float], Tensor], cut: Callable = lambda e: e.chunk(2)) -> Callable:
    """A formula of eps(y_not), eps(y) and w, asked in one batch."""

    def formula(model, x_t, t, y, y_not, w):
        return mix(*cut(model(torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([y_not, y]))), w)

    return formula


AT_SCALE = Exercise(
    heading="07.1 Another scale (5 min)",
    signature="at_scale(eps_a [B, C, H, W], a, eps_b [B, C, H, W], b, w) -> [B, C, H, W]",
    question="Guidance is a straight line in w, and you know two of its points. How far along the way from "
    "a to b does w lie?",
    formula="eps(w) = eps_uncond + w (eps_cond - eps_uncond), so eps_b - eps_a = (b - a) (eps_cond - "
    "eps_uncond), and eps(w) - eps_a = (w - a) (eps_cond - eps_uncond).",
    blank="return eps_a + ____ / ____ * (eps_b - eps_a)",
    praise="Guidance is a straight line in w: two points of it give every scale, with no further question.",
    # Between, beyond b, before a; then a larger than b. No wrong fraction is 0 / 0.
    cases=((1.5, 4.0, 3.0), (0.5, 2.0, 7.0), (3.0, 7.0, 1.0), (5.0, 2.0, 3.5), (4.0, 1.5, 0.0)),
    given=lambda a, b, w: (image(1, shape=SHAPE), a, image(2, shape=SHAPE), b, w),
    right=_moved(_share),
    wrong=variants(
        "The share of the way is (w - a) / (b - a): going from a all the way to b must give eps_b.",
        _moved(lambda a, b, w: w - a),
        "The ends are exchanged: at w = a the result must be eps_a, at w = b eps_b.",
        _moved(lambda a, b, w: 1 - _share(a, b, w)),
        "The result stays between eps_a and eps_b: the line goes on beyond both, so clamp nothing.",
        _moved(lambda a, b, w: min(max(_share(a, b, w), 0.0), 1.0)),
        "eps_b itself is added: the step goes along the difference eps_b - eps_a.",
        lambda eps_a, a, eps_b, b, w: eps_a + _share(a, b, w) * eps_b,
    ),
)
AWAY_FROM = Exercise(
    heading="07.2 Towards and away (15 min)",
    signature="away_from(model, x_t [B, C, H, W], t [B], y [B], y_not [B], w) -> [B, C, H, W]",
    question="Classifier-free guidance goes from the unconditional prediction towards the conditional one. "
    "Which of the two does y_not replace, and what must a batch of 2B hold to ask for both at once?",
    formula="eps = eps(y_not) + w (eps(y) - eps(y_not)): a batch of 2B holds x_t twice, t twice, and first "
    "one set of labels, then the other.",
    blank="eps_not, eps_y = model(torch.cat([____]), torch.cat([____]), torch.cat([____])).chunk(2) … "
    "return ____ + w * (____)",
    praise="Any label can take the place of the null label: guidance goes away from it and towards y.",
    # No sample's t or label is another's; w amplified, then pulled back.
    cases=(
        (3, (40, 310, 820), (4, 1, 5), (0, 6, 2), 3.0),
        (4, (990, 500, 120), (0, 3, 2), (5, 1, 6), -0.6),
    ),
    given=_given,
    right=_guided(lambda n, c, w: n + w * (c - n)),
    asks="calls",
    shapes={"[2*B, C, H, W]": "2B predictions come back: cut the answer in two, return one, guided."},
    wrong=variants(
        "It starts at eps(y): that is the paper's w, ours minus 1. Start at eps(y_not).",
        _guided(lambda n, c, w: c + w * (c - n)),
        "The two labels are exchanged: at w = 0 the result must be eps(y_not), at w = 1 eps(y).",
        _guided(lambda n, c, w: c + w * (n - c)),
        "The step goes the wrong way: from y_not to y is eps(y) - eps(y_not).",
        _guided(lambda n, c, w: n - w * (c - n)),
        "eps(y) itself is added, or multiplied by w: add w times the difference eps(y) - eps(y_not).",
        _guided(lambda n, c, w: n + w * c),
        "Only the difference is returned: it must be added to eps(y_not).",
        _guided(lambda n, c, w: w * (c - n)),
        "The batch is cut in the wrong places: cut the result in the order in which you joined it.",
        _guided(lambda n, c, w: n + w * (c - n), lambda e: (e[::2], e[1::2])),
        "The unconditional prediction is used: y_not takes the place of the null label.",
        lambda model, x, t, y, y_not, w: model(x, t) + w * (model(x, t, y) - model(x, t)),
    ),
)
EXERCISES = (AT_SCALE, AWAY_FROM)
