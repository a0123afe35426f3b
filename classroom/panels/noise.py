"""The noise explorer: an image under noise, for any timestep, schedule and digit; and what is read in it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import ipywidgets as w
import torch
from torch import Tensor

from classroom.panels import controls
from classroom.panels.charts import bar_chart, curve, plot
from classroom.panels.film import Film, Row
from classroom.panels.panel import Panel
from lessons_lib import data
from lessons_lib.samplers import SampleNoise
from lessons_lib.schedules import SCHEDULES, NoiseSchedule, q_sample

QSample = Callable[[NoiseSchedule, Tensor, Tensor, Tensor], Tensor]
Reader = Callable[[Tensor, Tensor], Tensor]
SEVEN = "the course's seven"
IMAGES = (SEVEN, *(f"a handwritten {digit}" for digit in range(10)))


@functools.cache
def image_named(name: str) -> Tensor:
    """The image [1, 1, 28, 28] that the control's words stand for."""
    if name == SEVEN:
        return data.running_example()
    # The embedded ones: the same on every machine, and no panel waits for a download.
    return data.load("digits", "train").of_class(IMAGES.index(name) - 1).batch(torch.tensor([0]))[0]


class NoiseExplorer(Panel):
    """An image under noise; the timestep's slider answers while it moves.

    Args:
        on_keep: called with t and abar by the button "I can no longer read it"; None: no button.
        q_sample_fn: the learner's own (schedule, x_0, t, eps) -> x_t, in place of the library's.
    """

    doing = ""  # faster than one could read it

    def __init__(
        self, t: int = 300, image: str = SEVEN, *, q_sample_fn: QSample = q_sample,
        on_keep: Callable[[int, float], None] | None = None,
    ) -> None:  # fmt: skip
        self.q_sample_fn, self.on_keep = q_sample_fn, on_keep
        self.schedules = {name: NoiseSchedule.by_name(name) for name in SCHEDULES}
        # No network runs here, so the picture may follow the slider while it moves.
        shown = {
            "t": controls.control(w.IntSlider, "Timestep t", t, live=True, min=0, max=999),
            "schedule": controls.dropdown("Schedule", SCHEDULES, "linear"),
            "image": controls.dropdown("Image", IMAGES, image),
            "seed": controls.seed_box(0),
        }
        self.keep = controls.button("I can no longer read it", "Keep this t", self._keep)
        super().__init__(shown, [self.keep] if on_keep else [])

    def draw(self, t: int, schedule: str, image: str, seed: int) -> Film:
        chosen, x_0 = self.schedules[schedule], image_named(image)
        eps, began = SampleNoise([(seed, 0)])(x_0), time.perf_counter()
        x_t = self.q_sample_fn(chosen, x_0, torch.tensor([t]), eps)
        took = 1000 * (time.perf_counter() - began)
        if not isinstance(x_t, Tensor) or x_t.shape != x_0.shape:
            raise ValueError(f"Your function must return a tensor of shape {list(x_0.shape)}.")
        abar = float(chosen.alphas_cumprod[t])
        signal, noise, ratio = abar**0.5, (1 - abar) ** 0.5, abar / (1 - abar)
        row = Row.of(
            torch.cat([x_t, signal * x_0, noise * eps]), side=196,
            heads=["x_t  =", "image × √ᾱ  +", "noise × √(1 − ᾱ)"],
            alts=[f"{image} under the noise of t = {t}", "The image's part", "The noise's part"],
        )  # fmt: skip
        line = (
            f"t = {t}: ᾱ = {abar:.4g}. The image is multiplied by {signal:.3f}, the noise by {noise:.3f}. "
            f"Signal-to-noise ratio {f'{ratio:.3g}' if ratio < 100 else f'{ratio:,.0f}'}. "
            f"Made in {took:.1f} ms, without a loop."
        )
        lines = [
            curve(name, one, lambda abar: abar, t / 999, name == schedule)
            for name, one in self.schedules.items()
        ]
        title = f"{schedule} schedule, t = {t}: ᾱ = {abar:.4g}"
        words = f"abar against t for {', '.join(self.schedules)}; {title}"
        ticks = [(0, "t = 0"), (1, "999")], [(0, "0"), (0.5, "0.5"), (1, "1")]
        chart = plot("ᾱ", lines, *ticks, words, marker=t / 999)
        return Film([row, chart], line, title, result=x_t)

    def _keep(self) -> None:
        schedule, t = self.schedule.value, self.t.value
        self.on_keep(t, float(self.schedules[schedule].alphas_cumprod[t]))
        self.say(f"Kept: with the {schedule} schedule you could no longer read it at t = {t}.")


class NoiseReader(NoiseExplorer):
    """An image under the linear schedule's noise, and a chart of class probabilities for each reader.

    Args:
        readers: name -> (x_t [B, C, H, W], t [B]) -> probabilities [B, K].
    """

    def __init__(self, readers: Mapping[str, Reader], t: int = 300) -> None:
        self.readers = dict(readers)
        super().__init__(t)
        self.schedule.layout.display = "none"  # the readers were trained on one schedule

    @torch.no_grad()
    def draw(self, t: int, **settings) -> Film:
        film, told = super().draw(t, **settings), []
        read = {name: one(film.result, torch.tensor([t]))[0].tolist() for name, one in self.readers.items()}
        for name, numbers in read.items():
            sure, label = max(zip(numbers, range(len(numbers)), strict=True))
            told.append(f"{name} reads {label} ({sure:.0%})")
        bars = [bar_chart(name, numbers) for name, numbers in read.items()]
        return replace(film, rows=[film.rows[0], *bars], line=f"t = {t}: {'; '.join(told)}.")
