"""Ten wishes from one noise: a row of the digits 0 to 9, and a slider for how strongly each is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path

import ipywidgets as w
import numpy as np
from torch import Tensor

from classroom.panels.controls import button, card_defaults, control, seed_box
from classroom.panels.drawing import EVALUATOR, Reading, drawn, finished
from classroom.panels.film import Film, Row
from classroom.panels.panel import Panel
from lessons_lib.pipeline import GenerationRequest, generate_images

# The way of the slider when it plays by itself: small steps where the ten pictures part.
RISE = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0, 1.5, 2.0)
SHOWN = (0.0, 0.4, 2.0)  # the rows of the still
FRAME_S = 0.35  # a picture stays at least so long
HEADS = [str(digit) for digit in range(10)]


def ten_digits(guidance_scale: float, seed: int = 0, steps: int = 6, **fields) -> Tensor:
    """The digits 0 … 9 from one noise, [10, C, H, W] in [-1, 1]; `fields` of a GenerationRequest.

    At scale 0 no wish is heard: the ten are one drawing.
    """
    images = generate_images(request_of(guidance_scale, seed=seed, steps=steps, **fields))
    return images.repeat(10 // len(images), 1, 1, 1)


def request_of(guidance_scale: float, **fields) -> GenerationRequest:
    """Of the ten digits from one noise; of one at scale 0, where no wish is heard."""
    labels = tuple(range(10)) if guidance_scale else (0,)
    fields = {"sampler": "ddim", "guidance_scale": float(guidance_scale)} | fields
    return GenerationRequest(labels, sample_indices=(0,) * len(labels), **fields)


class TenDigits(Panel):
    """One noise, ten wishes, one slider: at scale 0 all ten pictures are one, and as it rises they part.

    Once displayed it plays: the scale rises from 0 to 2; then it obeys.
    """

    doing = "Drawing ten digits at scale {guidance_scale:g} …"

    def __init__(
        self, seed: int = 3, *, weights: str | Path = "mnist-denoiser", steps: int | None = None,
        evaluator: str | Path | None = EVALUATOR,
    ) -> None:  # fmt: skip
        defaults = card_defaults(weights)[0]
        self.live = defaults["sampler"] is None
        self.fields = {"weights": weights, "steps": steps or (1 if self.live else 6)}
        self.fields |= {"sampler": None} if self.live else {}
        self.evaluator, self._rows = evaluator, {}  # (seed, scale) -> Film
        name = "Guidance scale: how strongly each wish is told"
        scale = control(w.FloatSlider, name, 0.0, min=0, max=4, step=0.05)
        rise = lambda: self.ask(self._rise, self.show)  # noqa: E731
        self.play = button("Play", "Let the scale rise from 0 to 2", rise, "play")
        super().__init__({"guidance_scale": scale, "seed": seed_box(seed)}, [self.play])
        self.seed.layout.display = "none"  # its button is enough
        self.children[0].add_class("alone")  # ten pictures want the whole width

    def row(self, scale: float) -> Film:
        """The ten pictures at a scale, kept for the next play and the still."""
        key = self.seed.value, scale
        if key not in self._rows:
            film = finished(self.draw(scale, self.seed.value))
            self._rows[key] = film.ended() if self.live else film
        return self._rows[key]

    def draw(self, guidance_scale: float, seed: int, way: bool = False) -> Generator[float, None, Film]:
        request = request_of(guidance_scale, seed=seed, **self.fields)
        drawing = yield from drawn(request, evaluator=self.evaluator, way=way)
        images = drawing.images.repeat(10 // len(drawing.images), 1, 1, 1)
        row = Row.of(images, heads=HEADS, side=84)
        words = line(guidance_scale, drawing.readings)
        film = Film([row], words, f"Guidance scale {guidance_scale:g}", result=images)
        if not self.live:
            return film
        views = {name: view.expand(-1, 10, -1, -1, -1) for name, view in drawing.views().items()}
        stem = f"ten-digits-w{guidance_scale:g}-seed{seed}"
        return replace(film, rows=[replace(row, views=views)], moments=drawing.moments(), stem=stem)

    def _rise(self) -> Iterator[float | Film]:
        """One row after the other as the scale rises."""
        for k, scale in enumerate(RISE):
            began, film = time.perf_counter(), self.row(scale)
            yield k / len(RISE)  # the last chance of something newer
            self.guidance_scale.value = scale
            yield film
            time.sleep(max(0.0, FRAME_S - (time.perf_counter() - began)))
        return (yield from self._live(self.settings, 0.0)) if self.live else film

    def redraw(self, _change=None) -> None:
        if threading.current_thread() is not self._worker:  # which moves the slider when it plays
            super().redraw()

    def _repr_mimebundle_(self, **kwargs):
        bundle = super()._repr_mimebundle_(**kwargs)
        self.play.click()
        return bundle

    def still(self) -> tuple[np.ndarray, str] | None:
        if self.film is None:
            return None
        title = "One noise, ten wishes. Press Shift + Enter, and move the scale"
        films = [(scale, self.row(scale)) for scale in SHOWN]
        rows = [Row.of(film.result, f"w = {scale:g}", heads=HEADS) for scale, film in films]
        words = "; ".join(f"at {scale:g}: {film.line}" for scale, film in films)
        return Film(rows, words, title).still(0), f"{title}. {words}"


def line(scale: float, readings: tuple[Reading, ...]) -> str:
    """A row in words."""
    if scale == 0:
        return "Scale 0: no wish is heard. All ten are the same picture."
    right = sum(reading.label == digit for digit, reading in enumerate(readings))
    return f"Scale {scale:g}: {right} of 10 are read as asked." if readings else f"Scale {scale:g}."
