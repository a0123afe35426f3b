"""Exercises of lesson 02, the network: how far a pixel sees, and attention with several heads."""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from classroom.checks.exercise import Exercise, variants
from classroom.checks.networks import image

# (kernel, stride) of each layer, simple ones first. No kernel is smaller than its stride, or pixels would be
# skipped and "how many" would not be "how far".
STACKS = (
    *(((3, 1),), ((3, 1), (3, 1)), ((3, 2), (3, 1)), ((3, 1), (3, 2), (5, 2))),
    *(((4, 2), (3, 1), (2, 2), (3, 1)), ((7, 3), (1, 1), (4, 2), (3, 3), (5, 1))),
)


def _field(step: Callable[[list[int], int], float], less: int = 1) -> Callable:
    """step(strides, i) is how far apart layer i's inputs lie; `less` is taken off a kernel."""

    def formula(layers):
        strides = [stride for _, stride in layers]
        return 1 + sum((kernel - less) * step(strides, i) for i, (kernel, _) in enumerate(layers))

    return formula


def _jump(strides: list[int], i: int) -> int:
    return math.prod(strides[:i])


def _split(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(2, (heads, -1)).transpose(1, 2)  # [B, heads, N, C/heads]


def _merge(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def _attend(softmax=lambda s: s.softmax(-1), scale=lambda C, h: math.sqrt(C / h), split=_split, merge=_merge):
    """Attention (Vaswani et al. 2017, sec. 3.2), each part to be replaced by a wrong one."""

    def formula(q, k, v, heads):
        size = scale(q.shape[2], heads)
        q, k, v = (split(x, heads) for x in (q, k, v))
        return merge(softmax(q @ k.transpose(-1, -2) / size) @ v)

    return formula


RECEPTIVE_FIELD = Exercise(
    heading="02.1 How far does a pixel see? (5 min)",
    signature="receptive_field(layers) -> one whole number",
    question="Two kernels of 3 with stride 1 see 5 pixels. What does the second kernel see if the first "
    "layer has stride 2, so that its outputs lie 2 pixels apart?",
    formula="seen_l = seen_{l-1} + (k_l - 1) · jump_l, where jump_l = s_1 · … · s_{l-1} is how far "
    "apart the layer's inputs lie, counted in pixels of the image.",
    blank="for kernel, stride in layers: seen += ____ * jump … jump *= ____",
    praise="Each stride widens every kernel after it: so a small network comes to see the whole image.",
    cases=tuple((stack,) for stack in STACKS),
    given=lambda stack: (list(stack),),
    right=_field(_jump),
    wrong=variants(
        "The strides are not used: after a stride of 2 each step of a later kernel is 2 input pixels.",
        _field(lambda s, i: 1),
        "A layer's own stride comes too early: it widens the steps of the layers after it only.",
        _field(lambda s, i: math.prod(s[: i + 1])),
        "The strides before a layer multiply: two strides of 2 make a step of 4 input pixels.",
        _field(lambda s, i: s[i - 1] if i else 1),
        _field(lambda s, i: 1 + sum(s[:i])),
        "The layers are taken in the wrong order: the first of the list is the nearest to the input.",
        lambda layers: _field(_jump)(layers[::-1]),
        "A kernel of k pixels is counted as k steps: from its first pixel to its last are k - 1.",
        _field(_jump, less=0),
        "This is how far it sees to one side: count the pixels from end to end.",
        lambda layers: (_field(_jump)(layers) - 1) // 2,
    ),
)
MULTI_HEAD = Exercise(
    heading="02.2 Several heads (15 min)",
    signature="multi_head(q [B, N, C], k [B, N, C], v [B, N, C], heads) -> [B, N, C]",
    question="One head is attention on C/heads of the channels. Which shape must q, k and v have, so that "
    "one matrix product does all heads at once?",
    formula="result_h = softmax(q_h k_hᵀ / sqrt(C/heads)) v_h for each head h, and the results are put "
    "side by side along the channels.",
    blank="q, k, v = (x.view(B, N, heads, ____).transpose(____, ____) for x in (q, k, v))",
    praise="Each head has weights of its own, so one position can look for several things at once.",
    # (B, N, C, heads): all different, N from C/heads too; then one head, and heads of one channel.
    cases=((2, 5, 12, 3), (3, 4, 10, 2), (2, 7, 6, 1), (2, 3, 4, 4)),
    given=lambda B, N, C, heads: (*image(B + N + C + heads, 1.5, (3, B, N, C)), heads),
    right=_attend(),
    shapes={
        "[B, heads, N, N] [B, N, N]": "The attention weights are returned: let them mix the rows of v.",
        "[B, heads, N, C/heads] [B, N, heads, C/heads]": "The heads are still apart: put them side by side.",
        "[B, N, C/heads]": "Only C/heads channels come back: put the results of all heads side by side.",
    },
    wrong=variants(
        "The scores must be divided by sqrt(C/heads), the root of the channels that one head has.",
        _attend(scale=lambda C, heads: 1),
        _attend(scale=lambda C, heads: math.sqrt(C)),
        "The softmax runs over the wrong axis: the weights of one query over all keys must add up to 1.",
        *(_attend(functools.partial(torch.softmax, dim=dim)) for dim in (0, 1, 2)),
        "There is no softmax: the scores must become positive weights that add up to 1.",
        _attend(lambda scores: scores),
        "The split mixes tokens and channels: view [B, N, heads, C/heads], then exchange two axes.",
        _attend(split=lambda x, heads: x.reshape(len(x), heads, x.shape[1], -1)),
        "The heads are merged in a wrong order: undo the exchange of axes, then join the channels.",
        _attend(merge=lambda x: x.reshape(len(x), x.shape[2], -1)),
    ),
)
EXERCISES = (RECEPTIVE_FIELD, MULTI_HEAD)
