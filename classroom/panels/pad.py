"""The pad that a digit is drawn on, with mouse, pen or finger: white strokes on black.

The canvas in the browser only shows the strokes. They are kept here as points and drawn once more as pixels:
nothing has to be fetched back from the page, and a test needs none.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from ipycanvas import Canvas, hold_canvas
from torch import Tensor

from lessons_lib.images import to_pixels
from lessons_lib.pictures import as_digit

SIDE, WIDTH = 280, 20  # of the pad and of a stroke, in pixels: a tenth, as thick as MNIST's are in their box
FORGOTTEN = 3.0  # seconds without a move after which a stroke is no longer waited for: its end was lost
Point = tuple[float, float]


class Marks(NamedTuple):
    """What is on the pad.

    picture: [1, 1, 28, 28] in [-1, 1] under the strokes, or None.
    strokes: each a tuple of points (x, y) in pixels of the pad.
    """

    picture: Tensor | None = None
    strokes: tuple[tuple[Point, ...], ...] = ()

    def pixels(self) -> np.ndarray:
        """[280, 280] uint8, white on black."""
        from PIL import Image, ImageDraw

        if self.picture is None:
            image = Image.new("L", (SIDE, SIDE))
        else:
            image = Image.fromarray(to_pixels(self.picture[0])[..., 0]).resize((SIDE, SIDE))
        pen, r = ImageDraw.Draw(image), WIDTH / 2
        for points in self.strokes:
            if len(points) > 1:
                pen.line(points, fill=255, width=WIDTH)
            for x, y in points:  # round ends and corners
                pen.ellipse((x - r, y - r, x + r, y + r), fill=255)
        return np.asarray(image)

    def digit(self) -> Tensor | None:
        """As MNIST's digits are, [1, 1, 28, 28] in [-1, 1]; None if nothing is drawn."""
        if not self.strokes:
            return self.picture
        pixels = self.pixels()
        if not pixels.any():  # all of it beyond the edge
            return None
        # A paper's margin of black: whatever touches the edge is ink, too.
        return as_digit(np.pad(pixels, WIDTH))


class DrawingPad(Canvas):
    """A square to draw on; the canvas events call `begin`, `move` and `end`, and so may anyone.

    ipycanvas keeps the page from scrolling while a finger draws.

    Args:
        on_change: called after each end of a stroke, and after undo, clear and put.

    Attributes:
        strokes: list of strokes, each a list of points (x, y) in pixels.
        picture: [1, 1, 28, 28] in [-1, 1] under the strokes, or None.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        self.strokes: list[list[Point]] = []
        self.picture: Tensor | None = None
        self.on_change, self._open, self._moved = on_change, False, 0.0
        size = f"{SIDE}px"
        super().__init__(width=SIDE, height=SIDE, layout={"width": size, "height": size})
        self._listen()  # no tooltip: ipycanvas 0.14 would not draw its canvas at all

    def _listen(self) -> None:
        self.on_mouse_down(self.begin)
        self.on_mouse_move(self.move)
        self.on_mouse_up(lambda x, y: self.end())
        self.on_mouse_out(lambda x, y: self.end())
        self.on_touch_start(lambda points: self.begin(*points[0]) if len(points) == 1 else None)
        self.on_touch_move(lambda points: self.move(*points[0]))
        for ended in (self.on_touch_end, self.on_touch_cancel):
            ended(lambda points: None if points else self.end())
        self.on_key_down(self._key)
        self.on_client_ready(self.repaint)  # each new page starts with an empty canvas

    # -- strokes -----------------------------------------------------------------------------------

    @property
    def drawing(self) -> bool:
        """Whether a stroke is being drawn."""
        return self._open and time.monotonic() - self._moved < FORGOTTEN

    def marks(self) -> Marks:
        """A copy of what is on the pad."""
        return Marks(self.picture, tuple(tuple(points) for points in self.strokes))

    def begin(self, x: float, y: float) -> None:
        """A stroke begins here."""
        self.strokes.append([(x, y)])
        self._open, self._moved = True, time.monotonic()
        self.fill_circle(x, y, WIDTH / 2)

    def move(self, x: float, y: float) -> None:
        """The stroke goes on to here; without one nothing happens."""
        if self._open:
            points = self.strokes[-1]
            self.stroke_line(*points[-1], x, y)
            points.append((x, y))
            self._moved = time.monotonic()

    def end(self) -> None:
        """The stroke ends."""
        if self._open:
            self._open = False
            self.on_change()

    def undo(self) -> None:
        """Take the last stroke away; after all of them the picture."""
        if self.strokes:
            self.strokes.pop()
        else:
            self.picture = None
        self._changed()

    def clear_all(self) -> None:
        """Take everything away."""
        self.put(None)

    def put(self, picture: Tensor | None) -> None:
        """Put a picture [1, 1, 28, 28] in [-1, 1] in place of all that is there."""
        self.strokes, self.picture = [], picture
        self._changed()

    def _changed(self) -> None:
        self._open = False
        self.repaint()
        self.on_change()

    # -- on the page -------------------------------------------------------------------------------

    def repaint(self) -> None:
        """Draw everything once more."""
        with hold_canvas():
            self.fill_style = "black"
            self.fill_rect(0, 0, SIDE, SIDE)
            if self.picture is not None:
                self.put_image_data(_enlarged(self.picture), 0, 0)
            self.fill_style = self.stroke_style = "white"
            self.line_width, self.line_cap, self.line_join = WIDTH, "round", "round"
            for points in self.strokes:
                self.fill_circle(*points[0], WIDTH / 2)
                if len(points) > 1:
                    self.stroke_lines(np.array(points))

    def _key(self, key: str, shift: bool, ctrl: bool, meta: bool) -> None:
        # The canvas swallows every key: without this the Tab key would never leave it again.
        if key in ("Tab", "Escape"):
            self.blur()
        elif key == "Backspace" or (key == "z" and (ctrl or meta)):
            self.undo()


def _enlarged(picture: Tensor) -> np.ndarray:
    """[280, 280, 3] uint8."""
    return np.repeat(Marks(picture).pixels()[..., None], 3, axis=2)
