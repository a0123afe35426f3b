"""Ten wishes from one noise: a row of the digits 0 to 9, and a slider for how strongly each is told."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import ipywidgets as w
import numpy as np
from torch import Tensor

from classroom.panels.controls import button, control
from classroom.panels.drawing import EVALUATOR, Reading, read
from classroom.panels.film import Film, Row
from classroom.panels.panel import Panel
from lessons_lib.pipeline import GenerationRequest, generate_images

# The way of the slider when it plays by itself: small steps where the ten pictures part.
RISE = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0, 1.5, 2.0)
SHOWN = (0.0, 0.4, 2.0)  # the rows of the still
FRAME_S = 0.35  # a picture stays at least so long


def ten_digits(guidance_scale: float, seed: int = 0, steps: int = 6, **fields) -> Tensor:
    """The digits 0 … 9 from one noise, [10, C, H, W] in [-1, 1]; `fields` of a GenerationRequest.

    At scale 0 no wish is heard: the ten are one drawing.
    """
    fields = {
        "seed": seed,
        "sampler": "ddim",
        "steps": steps,
        "guidance_scale": float(guidance_scale),
    } | fields
    if guidance_scale == 0:
        return generate_images(GenerationRequest((0,), **fields)).repeat(10, 1, 1, 1)
    return generate_images(GenerationRequest(tuple(range(10)), sample_indices=(0,) * 10, **fields))


class TenDigits(Panel):
    """One noise, ten wishes, one slider: at scale 0 all ten pictures are one, and as it rises they part.

    Once displayed it plays: the scale rises from 0 to 2; then it obeys.
    """

    doing = "Drawing ten digits at scale {guidance_scale:g} …"

    def __init__(self, seed: int = 3, *, steps: int = 6, evaluator: str | Path | None = EVALUATOR) -> None:
        self.seed, self.steps, self.evaluator = seed, steps, evaluator
        self._rows: dict[tuple[int, float], tuple[Tensor, tuple[Reading, ...]]] = {}
        name = "Guidance scale: how strongly each wish is told"
        scale = control(w.FloatSlider, name, 0.0, min=0, max=4, step=0.05)
        rise = lambda: self.ask(self._rise, self.show)  # noqa: E731
        self.play = button("Play", "Let the scale rise from 0 to 2", rise, "play")
        self.another = button("Another noise", "Start from other noise", self._reseed, "random")
        super().__init__({"guidance_scale": scale}, [self.play, self.another])
        self.children[0].add_class("alone")  # ten pictures want the whole width

    def row(self, scale: float) -> tuple[Tensor, tuple[Reading, ...]]:
        """The ten pictures at a scale, [10, C, H, W], and what the evaluator reads in each."""
        key = self.seed, scale
        if key not in self._rows:
            images = ten_digits(scale, self.seed, self.steps)
            self._rows[key] = images, read(images, self.evaluator)
        return self._rows[key]

    def draw(self, guidance_scale: float) -> Film:
        images, readings = self.row(guidance_scale)
        row = Row.of(images, heads=[str(digit) for digit in range(10)], side=84)
        return Film([row], line(guidance_scale, readings), result=images)

    def _rise(self) -> Iterator[float | Film]:
        """One row after the other as the scale rises."""
        for k, scale in enumerate(RISE):
            began, film = time.perf_counter(), self.draw(scale)
            yield k / len(RISE)  # the last chance of something newer
            self.guidance_scale.value = scale
            yield film
            time.sleep(max(0.0, FRAME_S - (time.perf_counter() - began)))
        return film

    def redraw(self, _change=None) -> None:
        if threading.current_thread() is not self._worker:  # which moves the slider when it plays
            super().redraw()

    def _reseed(self) -> None:
        self.seed = random.randint(0, 9999)
        self.redraw()

    def _repr_mimebundle_(self, **kwargs):
        bundle = super()._repr_mimebundle_(**kwargs)
        self.play.click()
        return bundle

    def still(self) -> tuple[np.ndarray, str] | None:
        if self.film is None:
            return None
        title = "One noise, ten wishes. Press Shift + Enter, and move the scale"
        heads = [str(digit) for digit in range(10)]
        rows = [Row.of(self.row(scale)[0], f"w = {scale:g}", heads=heads) for scale in SHOWN]
        words = "; ".join(f"at {scale:g}: {line(scale, self.row(scale)[1])}" for scale in SHOWN)
        return Film(rows, words, title).still(0), f"{title}. {words}"


def line(scale: float, readings: tuple[Reading, ...]) -> str:
    """A row in words."""
    if scale == 0:
        return "Scale 0: no wish is heard. All ten are the same picture."
    right = sum(reading.label == digit for digit, reading in enumerate(readings))
    return f"Scale {scale:g}: {right} of 10 are read as asked." if readings else f"Scale {scale:g}."
