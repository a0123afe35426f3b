"""The exercise of lesson 00: a first check, on a function of one line."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from classroom.checks.judging import Exercise, Wrong, close, expect_tensor

SHAPE = (2, 3, 4, 5)  # [B, C, H, W], all different

TO_SHOWN = {
    "only halved": "Halving alone gives -0.5 … 0.5: shift the range too, so that -1 becomes 0.",
    "only shifted": "Adding 1 alone gives 0 … 2: halve the range too, so that 1 stays 1.",
    "order": "The steps are there and their order is not: x / 2 + 1 gives 0.5 … 1.5.",
    "sign": "The sign of the shift is turned round: (x - 1) / 2 gives -1 … 0.",
    "cut off": "Everything below 0 is cut off: dark pixels must become small numbers, not all the same one.",
    "absolute": "The sign is dropped: black (-1) and white (1) would look the same.",
    "bytes": "The result runs from 0 to 255: numbers from 0 to 1 are asked.",
    "unchanged": "The image comes back as it was: -1 must become 0.",
}
WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    "only halved": lambda x: x / 2,
    "only shifted": lambda x: x + 1,
    "order": lambda x: x / 2 + 1,
    "sign": lambda x: (x - 1) / 2,
    "cut off": lambda x: x.clamp(0, 1),
    "absolute": lambda x: x.abs(),
    "bytes": lambda x: (x + 1) * 127.5,
    "unchanged": lambda x: x,
}


def examine_to_shown(function: Callable) -> str:
    """Exercise 00.1."""
    x = torch.linspace(-1, 1, 120).view(SHAPE)
    value = expect_tensor(function(x.clone()), SHAPE, "[B, C, H, W]")
    if close(value, (x + 1) / 2):
        return "-1 becomes 0, 1 stays 1, and the greys lie in between."
    for name, formula in WRONG.items():
        if close(value, formula(x)):
            raise Wrong(TO_SHOWN[name])
    ends = float(value.flatten()[0]), float(value.flatten()[-1])
    raise Wrong(
        f"-1 must become 0 and 1 stay 1, on a straight line: here they become {ends[0]:.2f}, {ends[1]:.2f}."
    )


EXERCISES = (
    Exercise(
        number="00.1",
        minutes=5,
        title="Pixels for the screen",
        check_name="to_shown",
        arguments=("x",),
        hints=(
            "What must happen to -1, to 0 and to 1?",
            "[0, 1] is half as wide as [-1, 1]: shown = a · x + b with a · (-1) + b = 0 and a · 1 + b = 1.",
            "return (x + ____) / ____",
        ),
        examine=examine_to_shown,
        diagnoses=TO_SHOWN,
    ),
)
