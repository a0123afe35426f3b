"""Draw a digit, and see its ten counterfactuals: this very handwriting, had it been another digit."""

from __future__ import annotations

import random
import time
from collections.abc import Generator
from pathlib import Path

import ipywidgets as w
import torch
from torch import Tensor

from classroom.panels import controls
from classroom.panels.counterfactual_explorer import AS_SEEN, AS_TEN, TARGETS, grid_steps
from classroom.panels.drawing import EVALUATOR, UNREAD, read
from classroom.panels.film import Film, Row
from classroom.panels.pad import DrawingPad
from classroom.panels.panel import Panel, sentence
from lessons_lib import data, pictures
from lessons_lib.pipeline import CounterfactualRequest

EMPTY = "Draw a digit with the mouse or a finger."
AS_READ = "as read"
OUTLINES = Row(name=AS_TEN, count=10, heads=list(map(str, TARGETS)), side=56, least=36)


class DrawnCounterfactuals(Panel):
    """A pad to draw a digit on, and beside it its counterfactuals.

    Args:
        steps: few at a larger scale: the row should come within 3 s, and 15 at w = 4 obey as well as 25 at 3.

    Attributes:
        pad: the DrawingPad.
        pause: seconds after a stroke in which the next one may begin, before the row is drawn.
    """

    def __init__(
        self, weights: str | Path = "mnist-denoiser", *, guidance_scale: float = 4.0, steps: int = 15,
        folded: bool = False, evaluator: str | Path | None = EVALUATOR,
    ) -> None:  # fmt: skip
        self.weights, self.steps, self.evaluator, self.pause = weights, steps, evaluator, 0.3
        self._digit: Tensor | None = None  # that was read last; used by the worker thread only
        self.pad = DrawingPad(self._drawn)
        shown = {
            "guidance_scale": controls.scale_slider(guidance_scale),
            "depth": controls.depth_slider(controls.card_defaults(weights)[1], steps),
            "drawn_as": controls.dropdown("Drawn as", [AS_READ, *map(str, TARGETS)], AS_READ),
        }
        file = "A digit from a picture file"
        self.upload = w.FileUpload(accept="image/*", description="Picture…", tooltip=file)
        self.upload.observe(self._uploaded, "value")
        self.example = controls.button("Example", "Put a digit on the pad", self._example)
        self.undo = controls.button("Undo stroke", "Take the last stroke away", self.pad.undo)
        self.clear = controls.button("Clear", "Take everything off the pad", self._clear)
        self.pad.put(pictures.sharpened(data.running_example()))
        buttons = [self.clear, self.undo, self.example, self.upload]
        super().__init__(shown, buttons, ["depth", "drawn_as"] if folded else [])
        column = self.children[0].children[0]
        *others, buttons = column.children
        column.children = self.pad, buttons, *others
        self.strip.chosen = [1, 3]

    def busy(self, **_) -> str:
        return "Its counterfactuals are on their way …" if self.pad.strokes or self.pad.picture else ""

    def draw(self, guidance_scale: float, depth: int, drawn_as: str) -> Generator[float | Film, None, Film]:
        digit, until = self.pad.digit(), time.monotonic() + (self.pause if self.pad.strokes else 0.0)
        if digit is None:
            return Film([OUTLINES], EMPTY)
        reading = next(iter(read(digit, self.evaluator)), None)
        if reading is None and drawn_as == AS_READ:
            raise ValueError(f"{UNREAD.format('it')} Choose at Drawn as which digit this is.")
        heard = f"Read as {reading}" if reading else "Not read"
        if self._digit is None or not torch.equal(digit, self._digit):
            self._digit = digit
            source = Row.of(digit, AS_SEEN, alts=["The source"], side=56)
            yield Film([source, OUTLINES], f"{heard}. {self.busy()}")
        while time.monotonic() < until or self.pad.is_drawing:  # not in the way of the hand
            yield 0.0
            time.sleep(0.01)
        label = reading.label if drawn_as == AS_READ else int(drawn_as)
        request = CounterfactualRequest(
            (label,), TARGETS, self.weights, guidance_scale=guidance_scale, depth=depth, steps=self.steps
        )
        grid = yield from grid_steps(request.plan(), digit, None, self.evaluator)
        named = heard if drawn_as == AS_READ else f"{heard}, drawn as {label}"
        title = f"A drawn {label} and what it would look like as 0 to 9, guidance scale {guidance_scale:g}"
        return Film(
            grid.rows(), f"{named}. {grid.line()}", title, grid.drawing.moments(), grid,
            f"drawn-{label}-w{float(guidance_scale)}-t{depth}",
        )  # fmt: skip

    # -- what is on the pad ------------------------------------------------------------------------

    def _drawn(self) -> None:
        if self.children:  # the first picture is put there before there is a panel
            self.redraw()

    def _clear(self) -> None:
        self.drawn_as.value = AS_READ
        self.pad.put(None)

    def _example(self) -> None:
        digits = data.load("digits", "test")
        self.pad.put(pictures.sharpened(digits.batch(torch.tensor([random.randrange(len(digits))]))[0]))

    def _uploaded(self, change) -> None:
        if not change.new:
            return
        file = change.new[0]
        try:
            self.pad.put(pictures.digit_from_bytes(bytes(file["content"]), file["name"]))
        except (ValueError, data.DataError) as error:  # that this is no digit's picture
            text = sentence(error)
            self.ask(lambda: self.say(text, wrong=True))  # after the row that is at work
        self.upload.value = ()  # the same file may be chosen again
