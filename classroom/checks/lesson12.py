"""Exercises of lesson 12, faces: several attributes at once, and a pull that leaves one attribute alone."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from classroom.checks.exercise import Exercise, variants
from classroom.checks.networks import SHAPE

Wanted = dict[int, bool]
# The logits and what is wanted. B > A, so that a row that is taken for a column has another shape; the places
# are in no order, and the last attribute is not wanted.
ORDINARY = (
    (
        *((0.9, -0.4, 0.3, 1.6, -0.8), (-0.2, 1.1, 0.7, -0.5, 0.4), (1.3, 0.6, -1.7, 2.2, 0.5)),
        *((-1.1, -2.3, 0.8, -0.9, 1.4), (0.4, 1.9, -0.6, -1.2, -0.3), (2.1, -0.7, 1.5, 0.2, -1.6)),
    ),
    {3: False, 1: True},
)
THREE = (
    (
        (-0.7, 1.2, 0.6, 0.3),
        (-1.4, -0.5, 0.9, -2.0),
        (0.8, -1.6, -0.3, 1.1),
        (1.7, 0.4, -1.2, -0.6),
        (-0.1, -0.9, 2.4, 0.7),
    ),
    {2: True, 0: False, 1: False},
)
ONE = (((1.2, -0.7), (-0.3, 2.0), (0.5, 0.1)), {1: False})
# 200 is where float32 gives up, 1000 where float64 does too: some will compute in it.
LARGE = (
    (
        *((200.0, 0.3, -200.0), (200.0, -1.0, 200.0), (-200.0, 0.8, -200.0), (-200.0, 1.0, 200.0)),
        *((1000.0, 0.1, -1000.0), (1000.0, 2.0, 1000.0), (30.0, 0.5, -30.0), (-1000.0, -0.4, -1000.0)),
    ),
    {2: True, 0: False},
)


def _chosen(z: Tensor, wanted: Wanted) -> Tensor:
    return z[:, list(wanted)]  # [B, n]


def _yes(wanted: Wanted) -> Tensor:
    return torch.tensor(list(wanted.values()))


def _signed(z: Tensor, wanted: Wanted) -> Tensor:
    return torch.where(_yes(wanted), _chosen(z, wanted), -_chosen(z, wanted))


def _log_p(z: Tensor, wanted: Wanted) -> Tensor:
    return F.logsigmoid(_signed(z, wanted))


def _right(z: Tensor, wanted: Wanted) -> Tensor:
    return _log_p(z, wanted).sum(dim=1)


def _given_images(
    seed: int, dtype: torch.dtype, images: Sequence[tuple[float, float]]
) -> tuple[Tensor, Tensor]:
    """pull and other; of each image the scale of other, and how far the pull goes along it."""
    pull, other = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    scale, along = torch.tensor(images, dtype=torch.float64).T.reshape(2, -1, 1, 1, 1)
    pull = pull + along * other / _norm(other)
    return pull.to(dtype), (scale * other).to(dtype)


def _sum(x: Tensor, axes: tuple[int, ...] = (1, 2, 3)) -> Tensor:
    return x.sum(dim=axes, keepdim=True)


def _norm(x: Tensor) -> Tensor:
    return _sum(x * x).sqrt()


def _factor(p: Tensor, o: Tensor, axes: tuple[int, ...] = (1, 2, 3)) -> Tensor:
    return (_sum(p * o, axes) / _sum(o * o, axes)).nan_to_num()


def _less(factor: Callable[[Tensor, Tensor], Tensor]) -> Callable:
    """pull minus another multiple of other."""
    return lambda p, o: p - factor(p, o) * o


ALL_OF = (0, 1, 2, 3)
ZERO = "Where other is 0 everywhere there is nothing to hold still: that pull comes back as it is, the others not."
EXERCISES = (
    Exercise(
        number="12.1",
        minutes=5,
        title="All wishes at once",
        check_name="all_wanted",
        arguments=("logits [B, A]", "wanted"),
        returns="[B]",
        hints=(
            "Given the image, the attributes are taken for independent. What is then the probability that "
            "all wishes come true, and what its logarithm? And which sign of the logit asks for no?",
            "p(all) = Π p_k over the wished k, where p_k is sigmoid(z_k) for yes and 1 - sigmoid(z_k) for "
            "no, which is a sigmoid again: look at its curve.",
            "for place, value in wanted.items(): total = total + F.____(____ if value else ____)",
        ),
        praise="Any number of wishes is one log-probability, finite from the first step to the last: it can guide.",
        cases=(ORDINARY, THREE, ONE, LARGE),
        given=lambda logits, wanted: (torch.tensor(logits), dict(wanted)),
        right=_right,
        gradient_of="logits",
        limits={
            3: "At large logits the result is off, as if clipped: log p(yes) must be near -200 at a logit of -200."
        },
        overflow="At large logits the result is infinite or NaN: sigmoid rounds to 0 or 1, so log and sigmoid must be "
        "one function, for yes and for no.",
        shapes={
            "[A] [2] [3]": "The samples of the batch are lost: a place is a column, logits[:, place], and the sum "
            "runs over the wanted places, never over the batch.",
            "[B, A] [B, 2] [B, 3] [2, B] [3, B]": "Every attribute keeps a number of its own: add them up for each "
            "sample, [B].",
        },
        wrong=variants(
            "True and False are treated alike: for False it is the probability of no, so its logit changes its sign.",
            *(lambda z, w, k=k: F.logsigmoid(k * _chosen(z, w)).sum(1) for k in (1, -1)),
            lambda z, w: F.logsigmoid(_chosen(z, w) * _yes(w)).sum(1),
            "Only one of the two answers counts: to wish for no is a wish, too, and adds its own log-probability.",
            lambda z, w: (_log_p(z, w) * _yes(w)).sum(1),
            lambda z, w: (_log_p(z, w) * ~_yes(w)).sum(1),
            "True and False are exchanged: sigmoid(z) is the probability of yes.",
            lambda z, w: F.logsigmoid(-_signed(z, w)).sum(1),
            "1 - or the minus stands outside the logarithm: turn the probability round before the log.",
            *(
                lambda z, w, k=k: (F.logsigmoid(_chosen(z, w)) * (2 * _yes(w) - 1.0) + k * ~_yes(w)).sum(1)
                for k in (0, 1)
            ),
            "The probability is returned: return its logarithm, a sum of logarithms.",
            lambda z, w: _log_p(z, w).exp().prod(1),
            "One or the other is asked for: for all at once the probabilities multiply, so their logarithms add up.",
            lambda z, w: _log_p(z, w).logsumexp(1),
            lambda z, w: _log_p(z, w).prod(1),
            lambda z, w: _log_p(z, w).exp().sum(1),
            "Not all wishes count in full, only a mean, the first, the last or the least likely: add up all of them.",
            lambda z, w: _log_p(z, w).mean(1),
            *(lambda z, w, i=i: _log_p(z, w)[:, i] for i in (0, -1)),
            lambda z, w: _log_p(z, w).amin(1),
            "A softmax is taken: attributes do not exclude each other, so each is a yes or no with its own sigmoid.",
            *(lambda z, w, dim=dim: _chosen(z.log_softmax(dim), w).sum(1) for dim in (0, 1)),
            lambda z, w: _signed(z, w).log_softmax(1).sum(1),
            "Attributes count that nobody asked for, or others than the wanted: a key of wanted is a column of logits.",
            lambda z, w: F.logsigmoid(z).sum(1),
            lambda z, w: _right(z, dict.fromkeys(range(z.shape[1]), False) | w),
            lambda z, w: _right(z, dict(enumerate(w.values()))),
            lambda z, w: _right(z, {i - 1: value for i, value in w.items()}),
            "The logits are added up as they are: logsigmoid makes each a log-probability, before they are added.",
            lambda z, w: _signed(z, w).sum(1),
            lambda z, w: _chosen(z, w).sum(1),
            lambda z, w: F.logsigmoid(_signed(z, w).sum(1)),
        ),
    ),
    Exercise(
        number="12.2",
        minutes=15,
        title="Hold one attribute still",
        check_name="held_still",
        arguments=("pull [B, C, H, W]", "other [B, C, H, W]"),
        returns="[B, C, H, W]",
        hints=(
            "Take an image's two gradients for two arrows. Which multiple of other must be taken away from "
            "pull, so that what is left is at right angles to other? And if other has no length?",
            "<pull - k other, other> = 0 for each image, where <a, b> is the sum of a b over C, H and W: "
            "solve it for k, one k an image.",
            "k = (____ * ____).sum(dim=(____), keepdim=True) / ____ … return pull - torch.where(____, k, 0) "
            "* other",
        ),
        praise="To first order a step along it changes nothing in what other reads: that is held still.",
        # Small and large, with it and against it; then an other that is 0 in one image, and in both.
        cases=(
            (1, torch.float32, ((1.5, 3.0), (0.4, -2.0))),
            (2, torch.float64, ((3e-3, -4.0), (20.0, 2.5))),
            (1, torch.float32, ((0.0, 3.0), (0.4, -2.0))),
            (1, torch.float32, ((0.0, 3.0), (0.0, -2.0))),
        ),
        given=_given_images,
        right=_less(_factor),
        same_dtype=True,
        limits={2: ZERO, 3: ZERO},
        overflow="Where other is 0 everywhere, 0 is divided by 0: there is nothing to hold still, so the pull must "
        "come back unchanged.",
        shapes={
            "[B] [B, 1] [B, 1, 1, 1]": "The factors before other are returned: return the pull without its part.",
            "[B, C*H*W]": "The images stay flattened: bring them back into the shape of pull, [B, C, H, W].",
        },
        wrong=variants(
            "The inner product runs over the whole batch: each image has its own, over C, H and W.",
            *(_less(lambda p, o, axes=axes: _factor(p, o, axes)) for axes in (ALL_OF, (0,))),
            "Pixels, rows or channels have inner products of their own: one image is one vector, so sum over C, H and W.",
            *(_less(lambda p, o, axes=axes: _factor(p, o, axes)) for axes in ((1,), (2, 3), (3,), (2,))),
            lambda p, o: 0 * p,
            "The inner product must be divided by <other, other>, the square of other's length.",
            _less(lambda p, o: _sum(p * o)),
            _less(lambda p, o: _sum(p * o) / _norm(o)),
            _less(lambda p, o: _sum(p * o) / _norm(p) / _norm(o)),
            _less(lambda p, o: _sum(p * o) / _sum(p * p)),
            _less(lambda p, o: _factor(p, o) / 60),
            "The part along other is returned: return what is left without it.",
            lambda p, o: _factor(p, o) * o,
            "The part along other is added, or taken away twice: take it away once.",
            _less(lambda p, o: -_factor(p, o)),
            _less(lambda p, o: 2 * _factor(p, o)),
            "The part is taken away on one side only, or with its sign lost: hold other still both ways.",
            _less(lambda p, o: _factor(p, o).abs()),
            _less(lambda p, o: _factor(p, o).clamp(max=0)),
            _less(lambda p, o: _factor(p, o).clamp(min=0)),
            "other itself is taken away, however the pull lies: only the pull's part along it must go.",
            _less(lambda p, o: 1.0),
            _less(lambda p, o: 1 / _norm(o)),
            "A part along the pull is taken away, or pull and other are exchanged: take away the part along other.",
            lambda p, o: p - _factor(p, o) * p,
            lambda p, o: p - _factor(o, p) * p,
            lambda p, o: o - _factor(o, p) * p,
            "The length is changed afterwards: what is left is shorter than the pull, and that is right.",
            lambda p, o: _less(_factor)(p, o) / _norm(_less(_factor)(p, o)) * _norm(p),
            lambda p, o: _less(_factor)(p, o) / _norm(_less(_factor)(p, o)),
            "What is added to the denominator is so large that it shows where other is small: the scale of other "
            "must not matter.",
            *(_less(lambda p, o, e=e: _sum(p * o) / (_sum(o * o) + e)) for e in (1e-6, 1e-5, 1e-4, 1e-3, 1)),
        ),
    ),
)
