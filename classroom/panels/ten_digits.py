"""Ten wishes from one noise: a row of the digits 0 to 9, and a slider for how strongly each is told."""

from __future__ import annotations

import functools
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import ipywidgets as w
from torch import Tensor

from classroom.panels.controls import STYLE, control
from classroom.panels.digits import EVALUATOR, Reading, read
from classroom.panels.panel import Panel, Picture, caption, still_picture
from lessons_lib.pipeline import GenerationRequest, generate_images

# The way of the slider when it plays by itself: small steps where the ten pictures part.
RISE = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0, 1.5, 2.0)
SHOWN = (0.0, 0.4, 2.0)  # the rows of the still
FRAME_S = 0.35  # a picture stays at least so long
SIDE = 80


def ten_digits(guidance_scale: float, seed: int = 0, steps: int = 6, **fields) -> Tensor:
    """The digits 0 … 9 from one noise, [10, C, H, W] in [-1, 1]; `fields` of a GenerationRequest.

    At scale 0 no wish is heard: the ten are one drawing.
    """
    told = {
        "guidance_scale": float(guidance_scale),
        "seed": seed,
        "sampler": "ddim",
        "steps": steps,
        **fields,
    }
    if guidance_scale == 0:
        return generate_images(GenerationRequest((0,), **told)).repeat(10, 1, 1, 1)
    return generate_images(GenerationRequest(tuple(range(10)), sample_indices=(0,) * 10, **told))


class TenDigits(Panel):
    """One noise, ten wishes, one slider: at scale 0 all ten pictures are one, and as it rises they part.

    Once displayed it plays: the scale rises from 0 to 2; then it obeys.

    Args:
        seed: of the one noise.
        steps: of a drawing.
        evaluator: name or path of the weights that read the pictures.

    Attributes:
        guidance_scale, seed, play, another: the controls.
        pictures: the ten.
    """

    def __init__(self, seed: int = 3, *, steps: int = 6, evaluator: str | Path | None = EVALUATOR) -> None:
        super().__init__(layout=w.Layout(width="100%", max_width="960px"))
        self.seed, self.steps, self.evaluator = seed, steps, evaluator
        self._drawn: dict[tuple[int, float], tuple[Tensor, tuple[Reading, ...]]] = {}
        self.guidance_scale = control(
            w.FloatSlider, value=0.0, min=0, max=4, step=0.05, description="Guidance scale",
            layout={"width": "100%", "max_width": "560px"}, style=STYLE,
        )  # fmt: skip
        self.play = w.Button(description="Play", icon="play", tooltip="Let the scale rise from 0 to 2")
        self.another = w.Button(description="Another noise", icon="random", tooltip="Start from other noise")
        self.pictures = [Picture(SIDE) for _ in range(10)]
        names = [w.HTML(f'<div style="text-align: center"><b>{digit}</b></div>') for digit in range(10)]
        boxes = [w.VBox(pair) for pair in zip(names, self.pictures, strict=True)]
        row = w.HBox(boxes, layout={"flex_flow": "row wrap", "grid_gap": "4px 8px", "margin": "6px 0 4px 0"})
        buttons = w.HBox([self.play, self.another], layout={"grid_gap": "6px"})
        top = w.HBox([self.guidance_scale, buttons], layout={"flex_flow": "row wrap", "grid_gap": "4px 16px"})
        question = caption("One noise. Ten wishes. How strongly is each told?")
        self.children = (question, top, row, self.progress, self.status)
        self.guidance_scale.observe(self._moved, "value")
        self.play.on_click(lambda _: self.ask(self._rise, lambda _: None))
        self.another.on_click(self._reseed)
        self.ask(self._begin, self._show)

    # -- drawing -----------------------------------------------------------------------------------

    def drawing(self, scale: float) -> tuple[float, Tensor, tuple[Reading, ...]]:
        """The scale, its ten pictures [10, C, H, W], and what the evaluator reads in each."""
        key = self.seed, scale
        if key not in self._drawn:
            images = ten_digits(scale, self.seed, self.steps)
            self._drawn[key] = images, read(images, self.evaluator)
        return scale, *self._drawn[key]

    def _begin(self) -> Iterator[float]:
        """The first row, and those of the still."""
        for k, scale in enumerate(SHOWN):
            self.drawing(scale)
            yield (k + 1) / len(SHOWN)
        return self.drawing(0.0)

    def _rise(self) -> Iterator[float]:
        """Show one row after the other as the scale rises."""
        for k, scale in enumerate(RISE):
            began = time.perf_counter()
            row = self.drawing(scale)
            yield k / len(RISE)  # the last chance of something newer
            self.guidance_scale.value = scale
            self._show(row)
            time.sleep(max(0.0, FRAME_S - (time.perf_counter() - began)))

    def _moved(self, change) -> None:
        if threading.current_thread() is not self._worker:  # which moves the slider when it plays
            self.ask(functools.partial(self.drawing, change.new), self._show)

    def _reseed(self, _button) -> None:
        self.seed = random.randint(0, 9999)
        self.ask(functools.partial(self.drawing, self.guidance_scale.value), self._show)

    def _show(self, row: tuple[float, Tensor, tuple[Reading, ...]]) -> None:
        scale, images, readings = row
        for digit, picture in enumerate(self.pictures):
            seen = f", read as {readings[digit].label}" if readings else ""
            picture.show(images[digit : digit + 1], f"Asked for {digit} at scale {scale:g}{seen}")
        self.say(line(scale, readings))

    # -- being displayed ---------------------------------------------------------------------------

    def _repr_mimebundle_(self, **kwargs):
        bundle = super()._repr_mimebundle_(**kwargs)
        self.play.click()
        return bundle

    def still(self) -> tuple[bytes, str] | None:
        if not self._drawn:
            return None
        rows = {f"w = {scale:g}": self.drawing(scale)[1] for scale in SHOWN}
        title = "One noise, ten wishes. Press Shift + Enter, and move the scale"
        told = "; ".join(f"at {scale:g}: {line(*self.drawing(scale)[::2])}" for scale in SHOWN)
        return still_picture(rows, title, range(10)), f"{title}. {told}"


def line(scale: float, readings: tuple[Reading, ...]) -> str:
    """A row in words."""
    if scale == 0:
        return "Scale 0: no wish is heard. All ten are the same picture."
    right = sum(reading.label == digit for digit, reading in enumerate(readings))
    return f"Scale {scale:g}: {right} of 10 are read as asked." if readings else f"Scale {scale:g}."
