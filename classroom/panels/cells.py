"""A grid of image cells that can be clicked, and the replay of the chosen one.

The clicks go to transparent buttons above one picture. A canvas would swallow the mouse wheel and the Tab key
there, and has no text for those who cannot see it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import ipywidgets as w
import numpy as np
from torch import Tensor

from classroom.panels.panel import Picture, caption, image_html
from classroom.panels.paths import Paths
from lessons_lib.data import to_signed
from lessons_lib.images import BETWEEN, difference_maps, png_bytes, to_grid

START = 0.4  # the replay's first place: the state is still noise there, the estimate already a digit
FILL = {"width": "auto", "height": "auto", "min_width": "0", "margin": "0", "padding": "0"}
FRAME = "3px solid #2166ac"  # the figures' blue
SMALL = "font-size: 12px; line-height: 18px; text-align: center; white-space: nowrap; overflow: hidden"


# -- pictures --------------------------------------------------------------------------------------


def sources_and(
    sources: Tensor, images: Tensor, scale: int = 1, gap: int = 2, marked: Tensor | None = None
) -> np.ndarray:
    """Each source, then its images: [rows, columns, 3] uint8.

    Args:
        sources: [S, C, H, W] in [-1, 1].
        images: [S * K, C, H, W] in [-1, 1]; C may be 1 where the sources' is 3, and the other way round.
        gap: grey pixels around each cell, before scaling; twice as many after the source.
        marked: [S * K] bool, the images that get an orange frame.
    """
    left = to_grid(sources, 1, scale, gap)
    right = to_grid(images, len(images) // len(sources), scale, gap, marked)
    half = gap * scale // 2  # of the space between two cells belongs to each
    padded = [
        np.pad(each, ((half, half), (half, half), (0, 0)), constant_values=BETWEEN) for each in (left, right)
    ]
    line = np.full((len(padded[0]), 2 * half, 3), BETWEEN, dtype=np.uint8)
    return np.concatenate([padded[0], line, padded[1]], axis=1)


def cells_picture(paths: Paths, view: str, scale: int = 4) -> np.ndarray:
    """All cells as one picture.

    Args:
        view: "digits", "differences", or "both": below each row its difference maps.
    """
    sources, images, missed = paths.sources, paths.images, paths.missed()
    repeated = sources.repeat_interleave(paths.targets, dim=0)
    digits = sources_and(sources, images, scale, marked=missed)
    if view == "digits":
        return digits
    changes = difference_maps(images, repeated)
    if view == "differences":
        return sources_and(sources, changes, scale, marked=missed)
    nothing = difference_maps(sources, sources)
    return np.concatenate([digits, sources_and(nothing, changes, scale)])


def way_frames(paths: Paths, scale: int = 2) -> list[np.ndarray]:
    """One frame for each state: the sources, and all cells from what was abducted to the counterfactuals."""
    return [sources_and(paths.sources, to_signed(state), scale) for state in paths.states]


# -- the grid --------------------------------------------------------------------------------------


class CellGrid(w.VBox):
    """Rows of a source and its K images; a click on one chooses it.

    Args:
        rows, columns: S and K.
        side: of a cell on a wide enough screen, in pixels; on a narrow one the grid shrinks.
        size: of an image, in its own pixels.
        on_choose: called with (row, target) when a cell is clicked; target None is the source.

    Attributes:
        picture, footer: what is seen, as HTML.
        buttons: (row, target) -> the button above that cell.
    """

    def __init__(
        self, rows: int, columns: int, side: int, size: int, on_choose: Callable[[int, int | None], None]
    ) -> None:
        # A cell is as wide as its image and 2 pixels of gap; the source's has the line's 2 as well.
        self._columns = f"minmax(0, {size + 4}fr) repeat({columns}, minmax(0, {size + 2}fr))"
        self.width = round(side * ((size + 2) * columns + size + 4) / (size + 2))
        self._plain = w.Layout(border="3px solid transparent", **FILL)
        self._framed = w.Layout(border=FRAME, **FILL)
        self.buttons, self._chosen = {}, None
        for row in range(rows):
            for target in (None, *range(columns)):
                self.buttons[row, target] = self._button(functools.partial(on_choose, row, target))
        self.picture, self.footer = w.HTML(layout=FILL), w.HTML(layout=FILL)
        layout = {"grid_template_columns": self._columns, "grid_template_rows": f"repeat({rows}, 1fr)"}
        above = w.GridBox(
            list(self.buttons.values()), layout={"grid_area": "1 / 1", "overflow": "hidden", **FILL, **layout}
        )
        self.picture.layout.grid_area = "1 / 1"
        stack = w.GridBox([self.picture, above], layout=FILL | {"grid_template_columns": "minmax(0, 1fr)"})
        head = w.HTML(self._line(["source", *map(str, range(columns))]), layout=FILL)
        super().__init__([head, stack, self.footer], layout={"width": "100%", "max_width": f"{self.width}px"})

    def _button(self, clicked: Callable[[], None]) -> w.Button:
        # Not reached by Tab: a hundred stops would be in the way, and the sliders choose a cell, too.
        button = w.Button(layout=self._plain, style={"button_color": "transparent"}, tabbable=False)
        button.on_click(lambda _: clicked())
        return button

    def show(self, pixels: np.ndarray, alt: str, footer: Sequence[str] = ()) -> None:
        """Show a picture of all cells (`cells_picture`), and a text below each column."""
        height = round(self.width * pixels.shape[0] / pixels.shape[1])
        picture = image_html(png_bytes(pixels), alt, self.width, height)
        # It shrinks with the page, and is smoothed then: hard pixels of unequal size look broken.
        shrinks = "width: 100%; height: auto; image-rendering: auto; display: block"
        self.picture.value = picture.replace("image-rendering: pixelated; display: block", shrinks)
        self.footer.value = self._line(footer) if footer else ""

    def name(self, row: int, target: int | None, text: str) -> None:
        """What the mouse is told above a cell."""
        self.buttons[row, target].tooltip = text

    def choose(self, row: int, target: int) -> None:
        """Put the frame around a cell."""
        if self._chosen is not None:
            self.buttons[self._chosen].layout = self._plain
        self._chosen = row, target
        self.buttons[self._chosen].layout = self._framed

    def _line(self, texts: Sequence[str]) -> str:
        """A text for each column; HTML."""
        cells = "".join(f'<div style="{SMALL}">{text}</div>' for text in texts)
        return f'<div style="display: grid; grid-template-columns: {self._columns}">{cells}</div>'


# -- the replay ------------------------------------------------------------------------------------


class CellReplay(w.HBox):
    """The state and the estimate of one cell, in large, and a slider through its steps.

    Attributes:
        scrubber: the slider; its place is kept from cell to cell.
        moment: where it stands, in words.
        words: a line about the cell; HTML.
    """

    def __init__(self, side: int = 126) -> None:
        self.state, self.estimate = Picture(side), Picture(side)
        self.moment, self.words = caption("&nbsp;"), w.HTML(layout={"margin": "0", "width": "100%"})
        self.scrubber = w.IntSlider(
            0, min=0, max=1, description="Replay", tooltip="Replay", readout=False,
            layout={"width": "100%", "max_width": "300px", "margin": "2px 0"},
            style={"description_width": "50px"},
        )  # fmt: skip
        self._cell: tuple[Paths, int, int] | None = None
        self.scrubber.observe(self._show_moment, "value")
        pair = [
            w.VBox([self.state, caption("state x<sub>t</sub>")], layout={"overflow": "hidden"}),
            w.VBox([self.estimate, caption("estimate x̂<sub>0</sub>")], layout={"overflow": "hidden"}),
        ]
        told = w.VBox(
            [self.words, self.scrubber, self.moment], layout={"flex": "1 1 220px", "min_width": "0"}
        )
        pictures = w.HBox(pair, layout={"grid_gap": "12px", "flex": "0 0 auto"})
        super().__init__([pictures, told], layout={"flex_flow": "row wrap", "grid_gap": "12px 20px"})

    def show(self, paths: Paths, row: int, target: int, words: str) -> None:
        """Show a cell, at the same place of the replay as the one before."""
        place = self.scrubber.value / self.scrubber.max if self._cell else START
        self._cell = paths, row, target
        self.words.value = f'<div style="line-height: 20px; overflow-wrap: anywhere">{words}</div>'
        self.scrubber.max = len(paths.timesteps)
        self.scrubber.value = round(place * self.scrubber.max)
        self._show_moment()

    def _show_moment(self, _change=None) -> None:
        if self._cell is None:
            return
        (paths, row, target), k = self._cell, self.scrubber.value
        count = len(paths.timesteps)
        if k > count:  # the slider is about to be moved: these steps are fewer
            return
        x_t, x_0 = paths.moment(k, row, target)
        text = f"t = {paths.timesteps[k]}, step {k + 1} of {count}" if k < count else "after the last step"
        what = f"{paths.labels[row]} to {target}, {text}"
        self.state.show(x_t, f"The state, {what}")
        self.estimate.show(x_0, f"The estimate, {what}")
        self.moment.value = caption(text).value
