"""A learner's training in the background: how far it is, what one noise becomes meanwhile, and Stop."""

from __future__ import annotations

import math
import os
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from itertools import count
from typing import ClassVar

from torch import Tensor

from classroom.checks.running import line_of
from classroom.panels.controls import button
from classroom.panels.film import Film, Row
from classroom.panels.learners_code import Wrong
from classroom.panels.panel import Panel

TELL_S = 2.0  # between two lines
ROWS = 6  # of pictures: the first ones, each after twice the time of the one before, and the newest


class Training(Panel):
    """Runs a loop that yields a loss in each step, off the main thread.

    Args:
        name: of what is trained; a new Training of the same name stops the one before.
        losses: (steps) -> what yields the losses.
        steps: so many; LESSONS_MOST_STEPS in the environment allows fewer.
        draw: () -> images [B, 1, 28, 28] that the network draws now, always of one noise, if any.
    """

    doing, first_picture = "", 1.0
    running: ClassVar[dict[str, Training]] = {}

    def __init__(
        self, name: str, losses: Callable[[int], Iterator[float]], steps: int,
        draw: Callable[[], Tensor] | None = None,
    ) -> None:  # fmt: skip
        self.name, self.losses, self.drawing, self.stopped = name, losses, draw, threading.Event()
        self.steps = min(steps, int(os.environ.get("LESSONS_MOST_STEPS", steps)))
        if name in self.running:
            self.running[name].stopped.set()
        self.running[name] = self
        super().__init__({}, [button("Stop", "Keep what is learned so far", self.stopped.set, "stop")])
        self.children[0].add_class("alone")  # ten pictures want the whole width

    def draw(self) -> Generator[float | Film, None, Film]:
        try:
            return (yield from self._trained())
        except (Exception, SystemExit) as error:
            raise Wrong(f"The training of the {self.name} failed: {told(error)}") from error

    def _trained(self) -> Generator[float | Film, None, Film]:
        losses = self.losses(self.steps)
        if losses is None or losses is ...:
            return Film(
                [], f"The {self.name} is not trained yet: write what this cell calls, then run it again."
            )
        began, rows, due, say, mean = time.monotonic(), [], 0.0, 0.0, math.nan
        for step in count(1):
            loss = None if self.stopped.is_set() else next(losses, None)
            ended, took = loss is None, time.monotonic() - began
            if not ended:
                mean = float(loss) if step == 1 else 0.98 * mean + 0.02 * float(loss)
            if not ended and not math.isfinite(mean):
                raise Wrong(f"after {step} steps the loss is {mean}: take a smaller learning rate.")
            if self.drawing and (ended or took >= due):
                rows = [*rows[: ROWS - 1], Row.of(self.drawing(), f"step {step - ended:,}", side=56)]
                due, say = 2 * took + 5, 0.0
            if ended or took >= say:
                film = Film(rows, self._line(step - ended, took, mean, ended))
                yield film
                say = took + TELL_S
            if ended:
                return film
            yield step / self.steps

    def _line(self, step: int, took: float, loss: float, ended: bool) -> str:
        rate = step / max(took, 1e-6)
        left = f"about {(self.steps - step) / max(rate, 1e-6) / 60:.0f} more minutes"
        state = "stopped" if self.stopped.is_set() else "done" if ended else left
        return (
            f"{self.name}: {step:,} of {self.steps:,} steps, {rate:.1f} a second, loss {loss:.3f}; {state}."
        )


def told(error: BaseException) -> str:
    """What was raised, with the deepest line that stands in a cell of the notebook."""
    if isinstance(error, Wrong):
        return str(error)
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    mine = [frame.f_code for frame in frames if frame.f_globals.get("__name__") == "__main__"]
    line = line_of(error, mine[-1]) if mine else None
    return f"{type(error).__name__}, {error}{f' ({line})' if line else ''}."
