"""The exercise of lesson 00: a first check, on a function of one line."""

import torch

from classroom.checks.exercise import Exercise, variants
from classroom.checks.networks import SHAPE

TO_SHOWN = Exercise(
    heading="00.1 Pixels for the screen (5 min)",
    signature="to_shown(x [B, C, H, W]) -> [B, C, H, W]",
    question="What must happen to -1, to 0 and to 1?",
    formula="[0, 1] is half as wide as [-1, 1]: shown = a · x + b with a · (-1) + b = 0 and a · 1 + b = 1.",
    blank="return (x + ____) / ____",
    praise="-1 becomes 0, 1 stays 1, and the greys lie in between.",
    cases=((),),
    given=lambda: (torch.linspace(-1, 1, 120).view(SHAPE),),
    right=lambda x: (x + 1) / 2,
    wrong=variants(
        "Halving alone gives -0.5 … 0.5: shift the range too, so that -1 becomes 0.",
        lambda x: x / 2,
        "Everything below 0 is cut off: dark pixels must become small numbers, not all the same one.",
        lambda x: x.clamp(0, 1),
        "The image comes back as it was: -1 must become 0.",
        lambda x: x,
    ),
)
EXERCISES = (TO_SHOWN,)
