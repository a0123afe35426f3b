"""Exercises of lesson 12, faces: several attributes at once, and a pull that leaves one attribute alone."""

import torch
import torch.nn.functional as F
from torch import Tensor

from classroom.checks.exercise import Exercise, variants
from classroom.checks.networks import image

# (seed, B, A, spread of the logits, what is wanted): B > A, so that a row is no column.
WISHES = (
    (1, 6, 5, 1.0, {3: False, 1: True}),
    (2, 5, 4, 1.0, {2: True, 0: False, 1: False}),
    (3, 3, 2, 1.0, {1: False}),
    (4, 8, 3, 500.0, {2: True, 0: False}),  # 100 is where float32 gives up, 1000 where float64 does too
)


def _chosen(z: Tensor, wanted: dict[int, bool], no: float = -1.0) -> Tensor:
    """The logits that are asked about, multiplied by `no` where no is wanted, [B, n]."""
    return z[:, list(wanted)] * torch.tensor([1.0 if yes else no for yes in wanted.values()])


def _log_p(z: Tensor, wanted: dict[int, bool]) -> Tensor:
    return F.logsigmoid(_chosen(z, wanted))


def _given_images(dtype: torch.dtype, *images: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """pull and other; of each image the scale of other, and how far the pull goes along it."""
    other, (scale, along) = image(1).double(), torch.tensor(images).double().T.reshape(2, -1, 1, 1, 1)
    return (image(2) + along * other / _dot(other, other).sqrt()).to(dtype), (scale * other).to(dtype)


def _dot(a: Tensor, b: Tensor, axes: tuple[int, ...] = (1, 2, 3)) -> Tensor:
    return (a * b).sum(dim=axes, keepdim=True)


def _part(p: Tensor, o: Tensor, axes: tuple[int, ...] = (1, 2, 3)) -> Tensor:
    """What of p lies along o."""
    return (_dot(p, o, axes) / _dot(o, o, axes)).nan_to_num() * o


ZERO = "Where other is 0 everywhere there is nothing to hold still: that pull alone comes back as it is."
ALL_WANTED = Exercise(
    heading="12.1 All wishes at once (5 min)",
    signature="all_wanted(logits [B, A], wanted) -> [B]",
    question="Given the image, the attributes are taken for independent. What is then the probability that "
    "all wishes come true, and what its logarithm? And which sign of the logit asks for no?",
    formula="p(all) = Π p_k over the wished k, where p_k is sigmoid(z_k) for yes and 1 - sigmoid(z_k) for "
    "no, which is a sigmoid again: look at its curve.",
    blank="for place, value in wanted.items(): total = total + F.____(____ if value else ____)",
    praise="Any number of wishes is one log-probability, finite from the first step to the last: it can "
    "guide.",
    cases=WISHES,
    given=lambda seed, B, A, size, wanted: (image(seed, size, (B, A)), dict(wanted)),
    right=lambda z, w: _log_p(z, w).sum(1),
    gradient_of="logits",
    limits={3: "At large logits the result is off, as if clipped: at a logit of -200 log p is near -200."},
    overflow="At large logits the result is infinite or NaN: log and sigmoid must be one function, for no "
    "too.",
    shapes={
        "[A] [2] [3]": "The samples of the batch are lost: a place is a column, logits[:, place].",
        "[B, A] [B, 2] [B, 3] [2, B] [3, B]": "Every attribute keeps a number of its own: add them up, [B].",
    },
    wrong=variants(
        "True and False are treated alike: for False, the probability of no, the logit changes its sign.",
        lambda z, w: F.logsigmoid(_chosen(z, w, 1.0)).sum(1),
        lambda z, w: F.logsigmoid(_chosen(z, w, 0.0)).sum(1),
        "Only one of the two answers counts: to wish for no is a wish, too, with its own log-probability.",
        lambda z, w: (_log_p(z, w) * torch.tensor(list(w.values()))).sum(1),
        "True and False are exchanged: sigmoid(z) is the probability of yes.",
        lambda z, w: F.logsigmoid(-_chosen(z, w)).sum(1),
        "1 - or the minus stands outside the logarithm: turn the probability round before the log.",
        lambda z, w: _chosen(F.logsigmoid(z), w).sum(1) + list(w.values()).count(False),
        "The probability is returned: return its logarithm, a sum of logarithms.",
        lambda z, w: _log_p(z, w).exp().prod(1),
        "Only a mean, or one of the wishes, counts: add up all of them.",
        lambda z, w: _log_p(z, w).mean(1),
        lambda z, w: _log_p(z, w).amin(1),
        "A softmax is taken: attributes do not exclude each other, each has its own sigmoid.",
        lambda z, w: z.log_softmax(1)[:, list(w)].sum(1),
        "Other attributes count than the wanted ones: a key of wanted is a column of logits.",
        lambda z, w: F.logsigmoid(z).sum(1),
        "The logits are added up as they are: logsigmoid makes each a log-probability, then they are added.",
        lambda z, w: _chosen(z, w).sum(1),
    ),
)
HELD_STILL = Exercise(
    heading="12.2 Hold one attribute still (15 min)",
    signature="held_still(pull [B, C, H, W], other [B, C, H, W]) -> [B, C, H, W]",
    question="Take an image's two gradients for two arrows. Which multiple of other must be taken away from "
    "pull, so that what is left is at right angles to other? And if other has no length?",
    formula="<pull - k other, other> = 0 for each image, where <a, b> is the sum of a b over C, H and W: "
    "solve it for k, one k an image.",
    blank="k = (____ * ____).sum(dim=(____), keepdim=True) / ____ … return pull - torch.where(____, k, 0) "
    "* other",
    praise="To first order a step along it changes nothing in what other reads: that is held still.",
    # Small and large, with it and against it; then an other that is 0 in one image, and in both.
    cases=(
        (torch.float32, (1.5, 3.0), (0.4, -2.0)),
        (torch.float64, (3e-3, -4.0), (20.0, 2.5)),
        (torch.float32, (0.0, 3.0), (0.4, -2.0)),
        (torch.float32, (0.0, 3.0), (0.0, -2.0)),
    ),
    given=_given_images,
    right=lambda p, o: p - _part(p, o),
    limits={2: ZERO, 3: ZERO},
    overflow="Where other is 0 everywhere, 0 is divided by 0: that pull must come back unchanged.",
    shapes={
        "[B] [B, 1] [B, 1, 1, 1]": "The factors before other are returned: return the pull without its part.",
        "[B, C*H*W]": "The images stay flattened: bring them back into the shape of pull, [B, C, H, W].",
    },
    wrong=variants(
        "Pixels, rows or channels have inner products of their own: sum over C, H and W of an image.",
        *(lambda p, o, axes=axes: p - _part(p, o, axes) for axes in ((1,), (2, 3), (3,))),
        "The inner product must be divided by <other, other>, the square of other's length.",
        lambda p, o: p - _dot(p, o) * o,
        lambda p, o: p - _dot(p, o) / (_dot(p, p) * _dot(o, o)).sqrt() * o,
        "other itself is taken away, however the pull lies: only the pull's part along it must go.",
        lambda p, o: p - o,
        "The length is changed afterwards: what is left is shorter than the pull, and that is right.",
        lambda p, o: F.normalize((p - _part(p, o)).flatten(1)).view_as(p) * _dot(p, p).sqrt(),
        "What is added to the denominator is too large: the scale of other must not matter.",
        *(lambda p, o, e=e: p - _dot(p, o) / (_dot(o, o) + e) * o for e in (1e-6, 1e-4, 1e-3)),
    ),
)
EXERCISES = (ALL_WANTED, HELD_STILL)
