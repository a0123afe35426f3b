"""Exercises of lesson 08, counterfactual grids: the inputs of a grid, and one step of DDIM inversion."""

from collections.abc import Callable
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from classroom.checks.engine import expect_tensor
from classroom.checks.exercise import Exercise, NotUsable, Wrong, variants
from classroom.checks.generic import close
from classroom.checks.networks import eps_network, image

IMAGE = (2, 6, 7)  # [C, H, W]


def grid_inputs(x_T, num_classes):
    """The function that 08.1 asks to repair, as the lesson gives it."""
    x = x_T.repeat(num_classes, 1, 1, 1)
    y = torch.arange(num_classes).repeat(len(x_T))
    return x, y


def _grid(noises: Callable[[int, int], Tensor], labels: Callable[[int, int], Tensor]) -> Callable:
    """From N and K the number of each image's noise, and its label."""
    return lambda x_T, K: (x_T[noises(len(x_T), K)], labels(len(x_T), K))


def _slow(N: int, K: int) -> Tensor:
    return torch.arange(N).repeat_interleave(K)  # 0 0 0 1 1 1


def _fast(N: int, K: int) -> Tensor:
    return torch.arange(K).repeat(N)  # 0 1 2 0 1 2


def _noises_and_labels(result: Any, given: tuple) -> Tensor:
    """Of each image of the batch the number of the noise that it is a copy of, and its label, [2, N*K]."""
    x_T, K = given
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise NotUsable("Your function must return two tensors, x and y.")
    if getattr(result[0], "ndim", 0) == 1 and getattr(result[1], "ndim", 0) == 4:
        raise NotUsable("The labels come first: return x, y.")
    x, y = result
    images = expect_tensor(x, (len(x_T) * K, *IMAGE), GRID, given)
    labels = expect_tensor(y, (len(x_T) * K,), GRID, given)
    found = [[n for n in range(len(x_T)) if close(one, x_T[n])] for one in images]
    if not all(found):
        raise Wrong("The images hold noise that is not in x_T: each is a copy of one of the N noises.")
    if y.dtype != torch.int64:
        raise Wrong("The labels are not int64, the dtype that an embedding looks up.")
    return torch.stack([torch.tensor([one[0] for one in found]).double(), labels])


def _first_image(given: tuple, value: Tensor, right: Tensor) -> str:
    j = int((value != right).any(dim=0).nonzero()[0])
    got, must = ("noise {:g} asked for class {:g}".format(*one[:, j].tolist()) for one in (value, right))
    return f"The order is off: with K = {given[1]}, image {j} of the batch is {got}; it should be {must}."


def _moved(factors: Callable[[float, float], tuple[float, ...]], fix: Callable = torch.clone) -> Callable:
    """DDIM inversion (Song et al. 2021, sec. 5.4): the factors of eps and x_0 at a, of x_0 and eps at b."""

    def formula(eps_fn, x, t_to, a, b):
        noise, signal, signal_to, noise_to = factors(a, b)
        eps = eps_fn(x, torch.full((len(x),), t_to))
        return signal_to * fix((x - noise * eps) / signal) + noise_to * eps

    return formula


def _right(a: float, b: float) -> tuple[float, ...]:
    return sqrt(1 - a), sqrt(a), sqrt(b), sqrt(1 - b)


GRID = Exercise(
    heading="08.1 Repair a grid that mixes its noises (5 min)",
    signature="grid_inputs(x_T [N, C, H, W], num_classes) -> x [N*K, C, H, W] and y [N*K]",
    question="Write down the batch for two noises and three classes: which noise and which class belongs to "
    "each of the six images, row after row? And what do both lines of the function give?",
    formula="For N = 2 and K = 3 the noises are 0 0 0 1 1 1 and the labels 0 1 2 0 1 2: image i of the "
    "batch is noise i // K, asked for class i % K.",
    blank="x = x_T.____(num_classes, dim=____)",
    praise="Along a row the noise stays and the label changes: whatever differs there, the label did.",
    cases=((3, 4), (5, 3)),  # fewer noises than classes, then more
    given=lambda N, K: (image(8, shape=(N, *IMAGE)), K),
    right=_grid(_slow, _fast),
    reads=_noises_and_labels,
    tells=_first_image,
    planted=grid_inputs,
    shapes={
        "[N, num_classes, C, H, W] [num_classes, N, C, H, W]": "There is an axis too many: a network takes "
        "one batch, so flatten rows and columns to N*K.",
        "[N, C, H, W]": "x still holds N images: every noise is needed once for each class, N*K images.",
        "[N, num_classes*C, H, W] [N*num_classes*C*H*W]": "The copies do not lie along the batch: say dim=0.",
        "[N*num_classes, num_classes]": "The labels are one-hot rows: a network takes one number an image.",
        "[num_classes] [N]": "There are too few labels: every image has its own, N*K of them.",
    },
    wrong=variants(
        "The images still come as 0 1 2 0 1 2: the copies of one noise belong side by side, 0 0 1 1 2 2.",
        _grid(lambda N, K: _fast(K, N), _fast),
        "The labels come as 0 0 0 1 1 1: within one row of the grid they run through all classes, 0 1 2.",
        _grid(_slow, lambda N, K: _slow(K, N)),
        "The grid is turned on its side: each row is one class here, but row n is noise n.",
        _grid(lambda N, K: _fast(K, N), lambda N, K: _slow(K, N)),
        "The labels run from 1 to K: classes are counted from 0, and K itself is the null label.",
        _grid(_slow, lambda N, K: _fast(N, K) + 1),
        "Every image is asked for the same class: column k is asked for class k.",
        _grid(_slow, lambda N, K: _slow(N, K) * 0),
    ),
)
INVERSE_STEP = Exercise(
    heading="08.2 A step of DDIM, backwards (15 min)",
    signature="inverse_step(eps_fn, x [B, C, H, W], t_to, abar, abar_to) -> [B, C, H, W]",
    question="A sampler's step estimates the image and puts it at a lower noise level, with the same eps. "
    "What changes if the next level is the higher one? And which timestep does the network hear?",
    formula="eps = eps_fn(x, t_to), x̂_0 = (x - sqrt(1 - abar) eps) / sqrt(abar), and the result is "
    "sqrt(abar_to) x̂_0 + sqrt(1 - abar_to) eps.",
    blank="eps = eps_fn(x, torch.full((____,), ____)) … return math.sqrt(____) * x_0 + ____ * eps",
    praise="A step of DDIM that goes up: when the steps are small, the sampler comes back the same way.",
    cases=((200, 0.9, 0.7), (480, 0.6, 0.35), (850, 0.3, 0.1), (120, 1.0, 0.85)),  # last, from an image
    given=lambda t, a, b: (eps_network(), image(88, 1.3), t, a, b),
    right=_moved(_right),
    asks="calls",
    limits={3: "Right below 1, but not at abar = 1, the image itself: do not divide by sqrt(1 - abar)."},
    wrong=variants(
        "The estimate is clipped: what that takes away, no decoding gives back. Clip nothing here.",
        _moved(_right, lambda x_0: x_0.clamp(-1, 1)),
        "abar and abar_to are mixed up: the estimate is read off at abar, and goes back at abar_to.",
        _moved(lambda a, b: (sqrt(1 - a), sqrt(a), sqrt(a), sqrt(1 - b))),
        "A square root is missing: all four factors are roots, of abar, 1 - abar, abar_to, 1 - abar_to.",
        _moved(lambda a, b: (1 - a, sqrt(a), sqrt(b), sqrt(1 - b))),
        "A sign is turned round: the noise is taken out of x, and added to the result.",
        _moved(lambda a, b: (-sqrt(1 - a), sqrt(a), sqrt(b), sqrt(1 - b))),
        _moved(lambda a, b: (sqrt(1 - a), sqrt(a), sqrt(b), -sqrt(1 - b))),
        "No noise is put back: the estimate must be put at the level abar_to, with its eps.",
        _moved(lambda a, b: (sqrt(1 - a), sqrt(a), sqrt(b), 0.0)),
        "x is taken for the image itself: read the estimate off it first.",
        _moved(lambda a, b: (0.0, 1.0, sqrt(b), sqrt(1 - b))),
        "This is a jump of the forward process, for fresh noise: but eps is the noise that x holds already.",
        _moved(lambda a, b: (0.0, 1.0, sqrt(b / a), sqrt(1 - b / a))),
    ),
)
EXERCISES = (GRID, INVERSE_STEP)
