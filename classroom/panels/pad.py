"""The pad that a digit is drawn on: the page sends strokes as points, here they become pixels."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import anywidget
import numpy as np
import torch
import traitlets as t
from torch import Tensor

from lessons_lib.data import to_signed
from lessons_lib.images import to_bytes
from lessons_lib.pictures import as_digit

SIDE, WIDTH = 280, 20  # of the pad and of a stroke, in pixels: a tenth, as thick as MNIST's are in their box
FORGOTTEN = 10.0  # seconds after which a stroke is no longer waited for: its end was lost


class DrawingPad(anywidget.AnyWidget):
    """A square to draw on (pad.js).

    Args:
        on_change: called after each stroke, and after undo and put.

    Attributes:
        strokes: list of strokes, each a list of points (x, y) in pixels of the pad.
        picture: the bytes of a square grey picture under the strokes; empty for none.
        drawing: whether a stroke is being drawn.
    """

    _esm = Path(__file__).parent / "pad.js"
    _css = (
        ".pad { touch-action: none; width: 100%; max-width: 280px; border-radius: 6px; cursor: crosshair; }"
    )
    side, width = t.Int(SIDE).tag(sync=True), t.Int(WIDTH).tag(sync=True)
    strokes = t.List([]).tag(sync=True)
    picture = t.Bytes().tag(sync=True)
    drawing = t.Bool(False).tag(sync=True)

    def __init__(self, on_change: Callable[[], None]) -> None:
        super().__init__()
        self.on_change, self._began = on_change, 0.0
        self.observe(lambda _: setattr(self, "_began", time.monotonic()), "drawing")
        self.observe(lambda _: on_change(), ["strokes", "picture"])
        self.on_msg(lambda _, content, __: self.undo())

    @property
    def is_drawing(self) -> bool:
        """Whether a stroke is being drawn, and its end was not lost."""
        return self.drawing and time.monotonic() - self._began < FORGOTTEN

    def undo(self) -> None:
        """Take the last stroke away; after all of them the picture."""
        if self.strokes:
            self.strokes = self.strokes[:-1]
        else:
            self.picture = b""

    def put(self, picture: Tensor | None) -> None:
        """Put a picture [1, 1, 28, 28] in [-1, 1], or nothing, in place of all that is there."""
        with self.hold_trait_notifications():
            self.strokes = []
            self.picture = b"" if picture is None else to_bytes(picture).numpy().tobytes()

    def pixels(self) -> np.ndarray:
        """[280, 280] uint8, white on black."""
        from PIL import Image, ImageDraw

        image = Image.new("L", (SIDE, SIDE))
        if self.picture:
            side = round(len(self.picture) ** 0.5)
            image = Image.frombytes("L", (side, side), self.picture).resize((SIDE, SIDE))
        pen, r = ImageDraw.Draw(image), WIDTH / 2
        for stroke in self.strokes:
            points = [tuple(point) for point in stroke]
            if len(points) > 1:
                pen.line(points, fill=255, width=WIDTH)
            for x, y in points:  # round ends and corners
                pen.ellipse((x - r, y - r, x + r, y + r), fill=255)
        return np.asarray(image)

    def digit(self) -> Tensor | None:
        """As MNIST's digits are, [1, 1, 28, 28] in [-1, 1]; None if nothing is drawn."""
        if not self.strokes:
            side = round(len(self.picture) ** 0.5)
            grey = torch.frombuffer(bytearray(self.picture), dtype=torch.uint8) if side else None
            return None if grey is None else to_signed(grey.view(1, 1, side, side))
        pixels = self.pixels()
        # A paper's margin of black: whatever touches the edge is ink, too; what is beyond it is nothing.
        return as_digit(np.pad(pixels, WIDTH)) if pixels.any() else None
