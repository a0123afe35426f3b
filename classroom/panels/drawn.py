"""The row of a drawn digit's counterfactuals, without a browser: a request in, a Row, HTML and frames out."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from classroom.panels import same_noise_rows
from classroom.panels.digits import EVALUATOR, Drawing, Reading, check_finite, read
from classroom.panels.panel import image_html
from classroom.panels.paths import reading_html
from lessons_lib import data, pictures
from lessons_lib.images import difference_maps, png_bytes, to_pixels
from lessons_lib.pipeline import CounterfactualRequest, Model

TARGETS = tuple(range(10))
CELL, GAP = 52, 3  # of an image of the row, and between two, in pixels
FORMING = 4  # steps between two looks at the row as it forms
SMALL = "font-size: 12px; line-height: 20px; text-align: center; white-space: nowrap"


@dataclass(frozen=True, eq=False)
class Row:
    """A digit and its ten counterfactuals.

    digit: [1, 1, 28, 28] in [-1, 1], as it was prepared.
    reading: what the evaluator reads in it; None without one.
    source: the label that it was abducted under.
    settings: what the controls asked for.
    drawing: the counterfactuals, targets 0 … 9, and the way there.
    """

    digit: Tensor
    reading: Reading | None
    source: int
    settings: dict
    drawing: Drawing

    def line(self) -> str:
        """The result in words."""
        others = [k for k in TARGETS if k != self.source]
        far = float((self.drawing.images[others] - self.digit).abs().mean()) / 2
        right = [self.drawing.readings[k].label == k for k in others if self.drawing.readings]
        told = [f"{heard(self.reading)}{self._drawn_as()}."]
        told += [f"{sum(right)} of {len(right)} other digits read as asked,"] if right else []
        return " ".join(
            [*told, f"{'mean' if right else 'Mean'} L1 {far:.2f}. {self.drawing.milliseconds / 1000:.1f} s."]
        )

    def _drawn_as(self) -> str:
        return "" if self.reading and self.reading.label == self.source else f", drawn as {self.source}"


def heard(reading: Reading | None) -> str:
    """'Read as 7 (98%)'."""
    return "Read as {} ({:.0%})".format(*reading) if reading else "There is no evaluator to read it"


def row_steps(
    request: CounterfactualRequest,
    digit: Tensor,
    forming: Callable[[Tensor], None],
    model: Model | None = None,
    evaluator: str | Path | None = EVALUATOR,
) -> Generator[float, None, Drawing]:
    """The counterfactuals of a digit as a Drawing; yields the part done, 0 … 1.

    Args:
        digit: [1, 1, 28, 28] in [-1, 1].
        forming: called every few steps with the estimates x_0 [10, 1, 28, 28].
        model: (network, schedule), in place of the request's weights.

    Raises:
        ValueError, WeightsError: as `counterfactuals`.
    """
    started = time.perf_counter()
    yield 0.02
    plan = request.plan(model)
    abducted = plan.abduct(digit)
    states, estimates, timesteps = [abducted.repeated(request.targets_each).x], [], []
    for step in plan.predict(abducted):
        check_finite(step)
        if len(timesteps) % FORMING == 0:
            forming(step.x_0)
        states.append(step.x_t)
        estimates.append(step.x_0)
        timesteps.append(int(step.t))
        yield len(timesteps) / len(abducted.timesteps)
    seconds = time.perf_counter() - started
    images = states[-1].clamp(-1, 1)
    return Drawing(images, states, estimates, timesteps, read(images, evaluator), 1000 * seconds)


def random_example() -> Tensor:
    """One of the embedded handwritten digits, [1, 1, 28, 28] in [-1, 1]."""
    found = data.load("digits", "test")
    return pictures.sharpened(found.batch(torch.tensor([random.randrange(len(found))]))[0])


def cells_html(
    images: Tensor,
    digit: Tensor,
    source: int | None = None,
    readings: Sequence[Reading] = (),
    finished: bool = True,
) -> str:
    """The ten images under their targets; below them what they are read as, and what changed.

    Args:
        images: [10, 1, 28, 28], digit: [1, 1, 28, 28], in [-1, 1].
        finished: whether these are the images that were read; if not, an arrow says so.
    """
    columns, maps = [], difference_maps(images.clamp(-1, 1), digit)
    for target, (image, changed) in enumerate(zip(images, maps, strict=True)):
        text = reading_html(target, readings[target]) if readings else ""
        text = f"→ {readings[target].label}" if readings and not finished else text
        name = f"{target} <small>as it is</small>" if target == source else target
        parts = [
            f'<div style="{SMALL}"><b>{name}</b></div>',
            _cell(image, f"Counterfactual {target}"),
            f'<div style="{SMALL}; height: 20px">{text}</div>',
            _cell(changed, f"What changed in {target}"),
        ]
        columns.append(f'<div style="width: {CELL}px; flex: 0 0 auto">{"".join(parts)}</div>')
    return f'<div style="display: flex; gap: {GAP}px">{"".join(columns)}</div>'


def _cell(image: Tensor, alt: str) -> str:
    return image_html(png_bytes(to_pixels(image)), alt, CELL, CELL)


def gif_frames(row: Row, view: str) -> list[np.ndarray]:
    """One frame for each moment: the digit, then the row."""
    scale, frames = 2, []
    for frame in same_noise_rows.row_frames({"": row.drawing}, view, scale):
        gap = np.full((len(frame), 4 * scale, 3), 153, dtype=np.uint8)
        frames.append(np.concatenate([to_pixels(row.digit[0], scale), gap, frame], axis=1))
    return frames
