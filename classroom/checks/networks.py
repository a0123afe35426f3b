"""What an exercise hands in for a network: a smooth function that notes what it is asked."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from classroom.checks.exercise import Wrong

SHAPE = (2, 3, 4, 5)  # [B, C, H, W], all different


def image(seed: int, scale: float = 1.0, shape: tuple[int, ...] = SHAPE) -> Tensor:
    """Standard normal numbers times `scale`, [B, C, H, W]; the same at each call."""
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Question(NamedTuple):
    """What the network was asked, and what it said."""

    x: Tensor
    t: Tensor
    y: Tensor | None
    answer: Tensor


class Network(nn.Module):
    """answer(x, t, y) in the place of a network: smooth, and of t too. It refuses what a real one would.

    shape is that of one image, [C, H, W]; labels, if any, run from 0 to `classes`, which is the null label.
    """

    def __init__(self, answer: Callable, shape=SHAPE[1:], classes: int | None = None, name="network") -> None:
        super().__init__()
        self.answer, self.shape, self.null_label, self.name = answer, shape, classes, name
        self.questions: list[Question] = []

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        self.check(x, t)
        if self.null_label is not None:
            y = torch.full((len(x),), self.null_label) if y is None else self.checked_labels(y, len(x))
        answer = self.answer(x, t, y)
        self.questions.append(Question(x.detach().clone(), t.detach().clone(), y, answer.detach().clone()))
        return answer

    def rows(self) -> list[tuple[Tensor, int, int | None]]:
        """Each image that was asked about, with its t and its label."""
        labels = [[None] * len(one.x) if one.y is None else one.y.tolist() for one in self.questions]
        asked = zip(self.questions, labels, strict=True)
        return [row for one, y in asked for row in zip(one.x, one.t.tolist(), y, strict=True)]

    def check(self, x: Tensor, t: Tensor) -> None:
        if not isinstance(x, Tensor) or tuple(x.shape[1:]) != self.shape:
            wanted = f"[B, {', '.join(map(str, self.shape))}]"
            raise Wrong(f"The {self.name} takes (x, t), with x of shape {wanted}, got {_kind(x)}.")
        if not isinstance(t, Tensor) or t.shape != x.shape[:1] or t.dtype != torch.int64:
            wanted = f"[B], int64, as torch.full((B,), t) makes it: here B is {len(x)}"
            raise Wrong(f"The {self.name} takes t of shape {wanted}, and t is {_kind(t)}.")

    def checked_labels(self, y: Tensor, rows: int) -> Tensor:
        if not isinstance(y, Tensor) or tuple(y.shape) != (rows,):
            raise Wrong(f"The {self.name} takes one label an image: here are {rows} images, and {_kind(y)}.")
        if y.dtype != torch.int64 or bool(((y < 0) | (y > self.null_label)).any()):
            raise Wrong(f"The labels must be int64 from 0 to {self.null_label}, the null label.")
        return y


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {list(value.shape)}"
    return f"of type {type(value).__name__}"


def eps_network() -> Network:
    """For (x, t) -> eps."""

    def eps(x, t, y):
        time = t.to(x).view(-1, 1, 1, 1) / 1000
        return 0.4 * x + torch.sin(1.5 * x + 4 * time) + time

    return Network(eps)
