"""Exercises of lesson 02, the network: how far a pixel sees, and attention with several heads.

A wrong answer is named by working out the classic wrong formulas on the same inputs: the one that gives what
the learner's function gives in every case is the learner's.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from classroom.checks.judging import Exercise, NotUsable, Unfinished, Wrong, close, expect_tensor

FIELD = {
    "strides": "The strides are not used: after a stride of 2 each step of a later kernel is 2 input pixels.",
    "too early": "A layer's own stride comes too early: it widens the steps of the layers after it only.",
    "not multiplied": "Only the stride of the layer just before counts here: all strides before multiply.",
    "added": "The strides are added up: they multiply, so two strides of 2 make a step of 4 input pixels.",
    "whole": "Every layer is given the same step: a layer feels the strides before it only.",
    "order": "The layers are taken in the wrong order: the first of the list is the nearest to the input.",
    "product": "The kernels are multiplied: a further layer adds to what is seen already.",
    "k": "A kernel of k pixels is counted as k steps: from its first pixel to its last are k - 1.",
    "from 0": "The count starts at 0: without any layer a pixel sees itself, which is 1.",
    "jump": "The product of the strides is returned: it says how far two output pixels lie apart.",
    "last layer": "The last layer is left out: its kernel counts as well, its stride does not.",
    "radius": "This is how far it sees to one side: count the pixels from end to end.",
    "squared": "This is an area: the number of pixels along one side is asked.",
}
HEADS = {
    "weights": "The attention weights are returned: use them to mix the rows of v.",
    "apart": "The heads are still apart: put their channels side by side again, to [B, N, C].",
    "part": "Only C/heads channels come back: put the results of all heads side by side.",
    "one head": "heads is not used: each head must attend with its own C/heads channels only.",
    "no scale": "The scores are not scaled: divide them by the root of the channels that one head has.",
    "all channels": "The scores are divided by sqrt(C): a head has C/heads channels, so take their root.",
    "scale root": "The scores are divided by C/heads without the square root.",
    "multiplied": "The scores are multiplied by sqrt(C/heads): divide, or one key takes all.",
    "over queries": "The softmax runs over the queries: the weights of one query must add up to 1.",
    "over heads": "The softmax runs over the heads: each head has its own weights, which add up to 1.",
    "over batch": "The softmax runs over the batch: the images must not know of each other.",
    "no softmax": "There is no softmax: the scores must become positive weights that add up to 1.",
    "mixed": "The split mixes tokens and channels: view [B, N, heads, C/heads], then exchange two axes.",
    "merged": "The heads are merged in a wrong order: undo the exchange of axes, then join the channels.",
    "interleaved": "A head takes channels that lie apart: head 0 needs the first C/heads, and so on.",
    "swapped": "q and k are swapped: a row of scores belongs to one query, a column to one key.",
    "transposed": "The weights are transposed before they mix v: one row holds the weights of one query.",
    "not v": "The weights mix q or k: they must mix v.",
}

# ---- 02.1 ----

Layers = list[tuple[int, int]]
# (kernel, stride), simple ones first, for the message shows the first that is off. No kernel is smaller than
# its stride, or pixels would be skipped and "how many" would not be "how far". Some last strides are not 1.
STACKS = (
    ((3, 1),),
    ((3, 1), (3, 1)),
    ((3, 2), (3, 1)),
    ((3, 1), (3, 2), (5, 2)),
    ((4, 2), (3, 1), (2, 2), (3, 1)),
    ((7, 3), (1, 1), (4, 2), (3, 3), (5, 1)),
)


def _steps(strides: list[int]) -> list[int]:
    """How far apart, in input pixels, the neighbours lie that each layer reads."""
    return [math.prod(strides[:i]) for i in range(len(strides))]


def _field(layers: Layers, steps: Callable[[list[int]], list[int]] = _steps, pixels: int = 1) -> int:
    """The receptive field; `pixels` is what is taken off each kernel."""
    kernels, strides = [kernel for kernel, _ in layers], [stride for _, stride in layers]
    return 1 + sum((k - pixels) * step for k, step in zip(kernels, steps(strides), strict=True))


# The step of each layer, from the strides of all.
WRONG_STEPS: list[tuple[str, Callable[[list[int]], list[int]]]] = [
    ("strides", lambda strides: [1 for _ in strides]),
    ("too early", lambda strides: [math.prod(strides[: i + 1]) for i in range(len(strides))]),
    ("too early", lambda strides: strides),
    ("not multiplied", lambda strides: [1, *strides][:-1]),
    ("added", lambda strides: [1 + sum(strides[:i]) for i in range(len(strides))]),
    ("added", lambda strides: [1 + sum(strides[:i]) - i for i in range(len(strides))]),
    ("added", lambda strides: [sum(strides[:i]) or 1 for i in range(len(strides))]),
    ("whole", lambda strides: [math.prod(strides)] * len(strides)),
    ("whole", lambda strides: [math.prod(strides[:-1])] * len(strides)),
]
WRONG_FIELD: list[tuple[str, Callable[[Layers], float]]] = [
    *((name, functools.partial(_field, steps=steps)) for name, steps in WRONG_STEPS),
    ("strides", lambda layers: sum(kernel for kernel, _ in layers)),
    ("strides", lambda layers: 1 + sum(kernel for kernel, _ in layers)),
    ("order", lambda layers: _field(layers[::-1])),
    ("product", lambda layers: math.prod(kernel for kernel, _ in layers)),
    ("k", lambda layers: _field(layers, pixels=0)),
    ("k", lambda layers: _field(layers, pixels=0) - 1),
    ("from 0", lambda layers: _field(layers) - 1),
    ("jump", lambda layers: math.prod(stride for _, stride in layers)),
    ("jump", lambda layers: math.prod(stride for _, stride in layers[:-1])),
    ("last layer", lambda layers: _field(layers[:-1])),
    ("radius", lambda layers: (_field(layers) - 1) / 2),
    ("radius", lambda layers: (_field(layers) - 1) // 2),
    ("radius", lambda layers: _field(layers) / 2),
    ("radius", lambda layers: _field(layers) // 2),
    ("squared", lambda layers: _field(layers) ** 2),
]


def examine_field(function: Callable) -> str:
    """Exercise 02.1."""
    values = [_number(function([tuple(layer) for layer in stack])) for stack in STACKS]
    stacks = [list(stack) for stack in STACKS]
    if values == [_field(stack) for stack in stacks]:
        return "Each stride widens every kernel after it: so a small network comes to see the whole image."
    for name, formula in WRONG_FIELD:
        if values == [formula(stack) for stack in stacks]:
            raise Wrong(FIELD[name])
    stack, value = next((s, v) for s, v in zip(stacks, values, strict=True) if v != _field(s))
    raise Wrong(f"The number is off: for layers = {stack} it should be {_field(stack)}, got {value:g}.")


def _number(value: Any) -> float:
    """The learner's result, if it is one finite real number: an int, a float, or a tensor without axes."""
    if value is ...:
        raise Unfinished
    if value is None:
        raise NotUsable("Your function returns nothing: is the `return` missing?")
    if isinstance(value, Tensor) and value.ndim > 0:
        raise NotUsable(
            f"Your function must return one whole number, got a tensor of shape {list(value.shape)}."
        )
    if getattr(value, "ndim", None) == 0:  # a tensor, or a number of numpy's
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NotUsable(
            f"Your function must return one whole number, not a value of type {type(value).__name__}."
        )
    if not math.isfinite(value):
        raise NotUsable(f"Your function must return one whole number, got {value}.")
    return value


# ---- 02.2 ----

# (B, N, C, heads): all different, N from C/heads too; then one head, and heads of one channel.
SIZES = ((2, 5, 12, 3), (3, 4, 10, 2), (2, 7, 6, 1), (2, 3, 4, 4))


def _split(x: Tensor, heads: int) -> Tensor:
    """[B, N, C] -> [B, heads, N, C/heads]."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def _merge(x: Tensor) -> Tensor:
    """[B, heads, N, C/heads] -> [B, N, C]."""
    return x.transpose(1, 2).flatten(2)


def _cut(x: Tensor, heads: int) -> Tensor:
    """The split that forgets to exchange the axes."""
    return x.reshape(len(x), heads, x.shape[1], -1)


def _join(x: Tensor) -> Tensor:
    """The merge that forgets to exchange the axes."""
    return x.reshape(len(x), x.shape[2], -1)


def _take_every(x: Tensor, heads: int) -> Tensor:
    """The split in which head h has channels h, h + heads, h + 2 heads, …"""
    return x.unflatten(2, (-1, heads)).permute(0, 3, 1, 2)


def _interleave(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).flatten(2)


def _root_of_width(channels: int, heads: int) -> float:
    return math.sqrt(channels / heads)


def _attend(q: Tensor, k: Tensor, v: Tensor, heads: int, **wrong: Callable) -> Tensor:
    """Attention (Vaswani et al. 2017, sec. 3.2); each keyword replaces a part of it by a wrong one."""
    scale = wrong.get("scale", _root_of_width)(q.shape[2], heads)
    q, k, v = (wrong.get("split", _split)(x, heads) for x in (q, k, v))
    weights = wrong.get("softmax", _over_keys)(q @ k.transpose(-1, -2) / scale)
    return wrong.get("merge", _merge)(weights @ v)


def _over_keys(scores: Tensor) -> Tensor:
    return scores.softmax(dim=-1)


def _with(**parts: Callable) -> Callable:
    return functools.partial(_attend, **parts)


WRONG_HEADS: list[tuple[str, Callable[[Tensor, Tensor, Tensor, int], Tensor]]] = [
    ("one head", lambda q, k, v, heads: _attend(q, k, v, 1)),
    ("one head", lambda q, k, v, heads: _attend(q, k, v, 1, scale=lambda c, _: _root_of_width(c, heads))),
    ("no scale", _with(scale=lambda channels, heads: 1.0)),
    ("all channels", _with(scale=lambda channels, heads: math.sqrt(channels))),
    ("scale root", _with(scale=lambda channels, heads: channels / heads)),
    ("multiplied", _with(scale=lambda channels, heads: 1 / _root_of_width(channels, heads))),
    ("over queries", _with(softmax=lambda scores: scores.softmax(dim=-2))),
    ("over heads", _with(softmax=lambda scores: scores.softmax(dim=1))),
    ("over batch", _with(softmax=lambda scores: scores.softmax(dim=0))),
    ("no softmax", _with(softmax=lambda scores: scores)),
    ("mixed", _with(split=_cut)),
    ("mixed", _with(split=_cut, merge=_join)),
    ("merged", _with(merge=_join)),
    ("merged", _with(merge=_interleave)),
    ("interleaved", _with(split=_take_every)),
    ("interleaved", _with(split=_take_every, merge=_interleave)),
    ("swapped", lambda q, k, v, heads: _attend(k, q, v, heads)),
    ("transposed", _with(softmax=lambda scores: scores.softmax(dim=-1).transpose(-1, -2))),
    ("not v", lambda q, k, v, heads: _attend(q, k, k, heads)),
    ("not v", lambda q, k, v, heads: _attend(q, k, q, heads)),
]


def _inputs(size: tuple[int, int, int, int]) -> tuple[Tensor, Tensor, Tensor, int]:
    """q, k and v, large enough for attention to be far from even, and heads."""
    generator = torch.Generator().manual_seed(sum(size))
    q, k, v = (1.5 * torch.randn(size[:3], generator=generator) for _ in range(3))
    return q, k, v, size[3]


def examine_heads(function: Callable) -> str:
    """Exercise 02.2."""
    values = [_result(function(*_inputs(size)), size) for size in SIZES]
    expected = [_attend(*_inputs(size)) for size in SIZES]
    if all(map(close, values, expected)):
        return "Each head has weights of its own, so one position can look for several things at once."
    for name, formula in WRONG_HEADS:
        if all(close(value, formula(*_inputs(size))) for size, value in zip(SIZES, values, strict=True)):
            raise Wrong(HEADS[name])
    i = next(i for i, value in enumerate(values) if not close(value, expected[i]))
    got, wanted = float(values[i].flatten()[0]), float(expected[i].flatten()[0])
    batch, tokens, channels, heads = SIZES[i]
    case = f"[B, N, C] = {[batch, tokens, channels]} and heads = {heads}"
    raise Wrong(f"The numbers are off: with {case} the first one should be {wanted:.3f}, got {got:.3f}.")


def _result(value: Any, size: tuple[int, int, int, int]) -> Tensor:
    batch, tokens, channels, heads = size
    shape, width = (batch, tokens, channels), channels // heads
    shapes = {
        "weights": [(batch, heads, tokens, tokens), (batch * heads, tokens, tokens), (batch, tokens, tokens)],
        "apart": [
            (batch, heads, tokens, width),
            (batch, tokens, heads, width),
            (heads, batch, tokens, width),
            (batch * heads, tokens, width),
            (batch, heads * tokens, width),
        ],
        "part": [(batch, tokens, width)],
    }
    if isinstance(value, Tensor) and tuple(value.shape) != shape:
        for name, known in shapes.items():
            if tuple(value.shape) in known:
                raise Wrong(HEADS[name])
    return expect_tensor(value, shape, "[B, N, C]")


EXERCISES = (
    Exercise(
        number="02.1",
        minutes=5,
        title="How far does a pixel see?",
        check_name="receptive_field",
        arguments=("layers",),
        hints=(
            "Two kernels of 3 with stride 1 see 5 pixels. What does the second kernel see if the first layer "
            "has stride 2, so that its outputs lie 2 pixels apart?",
            "seen_l = seen_{l-1} + (k_l - 1) · jump_l, where jump_l = s_1 · … · s_{l-1} is how far apart "
            "the layer's inputs lie, counted in pixels of the image.",
            "for kernel, stride in layers: seen += ____ * jump … jump *= ____",
        ),
        examine=examine_field,
        diagnoses=FIELD,
    ),
    Exercise(
        number="02.2",
        minutes=15,
        title="Several heads",
        check_name="multi_head",
        arguments=("q", "k", "v", "heads"),
        hints=(
            "One head is attention on C/heads of the channels. Which shape must q, k and v have, so that one "
            "matrix product does all heads at once?",
            "result_h = softmax(q_h k_hᵀ / sqrt(C/heads)) v_h for each head h, and the results are put side "
            "by side along the channels.",
            "q, k, v = (x.view(B, N, heads, ____).transpose(____, ____) for x in (q, k, v))",
        ),
        examine=examine_heads,
        diagnoses=HEADS,
    ),
)
