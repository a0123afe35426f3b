"""Rows of images from the same noise, a Drawing a row: what the comparisons put on the screen and in GIFs."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence

import numpy as np
from torch import Tensor

from classroom.panels.digits import Drawing
from classroom.panels.panel import image_html
from lessons_lib.images import png_bytes, to_pixels

SIDE, GAP, WIDTH = 112, 8, 552  # of an image, between two, of a row at most: in screen pixels
VIEWS = ("estimate", "state")


def share_of(
    steps: Generator[float, None, Drawing], done: int, count: int
) -> Generator[float, None, Drawing]:
    """`steps` as one of `count` drawings of which `done` are done: yields the part done of them all."""
    while True:
        try:
            yield (done + next(steps)) / count
        except StopIteration as end:
            return end.value


# -- a row and its words ---------------------------------------------------------------------------


def side_for(samples: int) -> int:
    """Of an image on the screen, so that a row of them fits beside the file browser on half a screen."""
    side = min(SIDE, max(28, (WIDTH + GAP) // max(samples, 1) - GAP))
    return side // 28 * 28 if side >= 84 else side  # whole pixels look best, but the text needs room


def row_html(name: str, images: Tensor, texts: Sequence[str], side: int = SIDE) -> str:
    """Images [B, C, H, W] side by side, each above its text; the name is for those who cannot see them."""
    cells = []
    for k, (image, text) in enumerate(zip(images, texts, strict=True), start=1):
        alt = f"{name}, image {k}: {text}"
        picture = image_html(png_bytes(to_pixels(image)), alt, side, side)
        style = f"width: {side}px; text-align: center; line-height: 26px; white-space: nowrap"
        cells.append(f'<div style="{style}">{picture}{text}</div>')
    return f'<div style="display: flex; gap: {GAP}px">{"".join(cells)}</div>'


def reading_texts(drawing: Drawing) -> list[str]:
    """'7 (96%)' for each image; empty texts without an evaluator."""
    return ["{} ({:.0%})".format(*reading) for reading in drawing.readings] or [""] * len(drawing.images)


def labels_read(drawing: Drawing) -> str:
    """'7, 7, 2': what the evaluator reads in each image."""
    return ", ".join(str(reading.label) for reading in drawing.readings) or "nothing: no evaluator"


def right(drawing: Drawing, digit: int) -> int:
    """How many images are read as this digit."""
    return sum(reading.label == digit for reading in drawing.readings)


def tally(drawing: Drawing, digit: int) -> str:
    """'4 of 5 read as 7'."""
    return f"{right(drawing, digit)} of {len(drawing.images)} read as {digit}"


def longest(drawings: Mapping[str, Drawing]) -> int:
    """The steps of the row that has most of them; a method may have its own number."""
    return max(len(drawing.timesteps) for drawing in drawings.values())


def moment_of(drawing: Drawing, k: int, of: int, view: str) -> tuple[Tensor, int | None]:
    """What a row shows at place k of 0 … `of`, and its timestep; at the end the finished images and None.

    Args:
        view: "estimate" for x̂_0, "state" for the x_t that it was made from.
    """
    step = k * len(drawing.timesteps) // of
    if step == len(drawing.timesteps):
        return drawing.images, None
    return drawing.moment(step)[VIEWS[::-1].index(view)], drawing.timesteps[step]


def moment_line(times: set[int | None], k: int, of: int, view: str) -> str:
    """Where the replay stands; the rows' timesteps differ if a method has its own steps or sampler."""
    if k == of:
        return "The finished images. Move Replay to see how they came about."
    where = f"t = {next(iter(times))}, " if len(times) == 1 else ""
    shown = "estimate x̂<sub>0</sub>" if view == "estimate" else "state x<sub>t</sub>"
    return f"{where}step {k + 1} of {of}: the {shown}; the arrow says what the finished image is read as."


def row_frames(drawings: Mapping[str, Drawing], view: str, scale: int = 3) -> list[np.ndarray]:
    """One frame for each moment, the last the finished images: a row for each drawing, lines between."""
    frames, of = [], longest(drawings)
    for k in range(of + 1):
        rows = [
            _joined([to_pixels(image, scale) for image in moment_of(drawing, k, of, view)[0]], 1, scale)
            for drawing in drawings.values()
        ]
        frames.append(_joined(rows, 0, 2 * scale))
    return frames


def _joined(pictures: list[np.ndarray], axis: int, gap: int) -> np.ndarray:
    """Pictures [H, W, 3] of one size in a row (axis 1) or a column (axis 0), grey lines between them."""
    shape = list(pictures[0].shape)
    shape[axis] = gap
    line = np.full(shape, 153, dtype=np.uint8)
    parts = [part for picture in pictures for part in (line, picture)][1:]
    return np.concatenate(parts, axis=axis)
