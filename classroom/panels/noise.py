"""The noise explorer: an image under noise, for any timestep, schedule and digit; and what is read in it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import ipywidgets as w
import torch
from torch import Tensor

from classroom.panels import controls
from classroom.panels.charts import Line, bar_chart, line_chart
from classroom.panels.film import Chart, Film, Row
from classroom.panels.panel import Panel
from lessons_lib import data
from lessons_lib.samplers import SampleNoise
from lessons_lib.schedules import SCHEDULES, NoiseSchedule, q_sample

QSample = Callable[[NoiseSchedule, Tensor, Tensor, Tensor], Tensor]
Reader = Callable[[Tensor, Tensor], Tensor]
SEVEN = "the course's seven"
IMAGES = (SEVEN, *(f"a handwritten {digit}" for digit in range(10)))


class Noised(NamedTuple):
    """An image at timestep t and the two parts that it is the sum of, [1, 1, 28, 28] each.

    abar: how much signal is left.
    milliseconds: to make x_t.
    """

    x_t: Tensor
    image_part: Tensor
    noise_part: Tensor
    abar: float
    milliseconds: float

    @property
    def line(self) -> str:
        """The numbers as a sentence."""
        ratio = self.abar / (1 - self.abar)
        shown = f"{ratio:.3g}" if ratio < 100 else f"{ratio:,.0f}"
        signal, noise = self.abar**0.5, (1 - self.abar) ** 0.5
        factors = f"The image is multiplied by {signal:.3f}, the noise by {noise:.3f}."
        made = f"Made in {self.milliseconds:.1f} ms, without a loop."
        return f"ᾱ = {self.abar:.4g}. {factors} Signal-to-noise ratio {shown}. {made}"


def noised(
    x_0: Tensor, schedule: NoiseSchedule, t: int, seed: int, q_sample_fn: QSample = q_sample
) -> Noised:
    """Put an image [1, C, H, W] under the noise of t; ValueError if q_sample_fn returns another shape."""
    eps, index = SampleNoise([(seed, 0)])(x_0), torch.tensor([t])
    started = time.perf_counter()
    x_t = q_sample_fn(schedule, x_0, index, eps)
    milliseconds = 1000 * (time.perf_counter() - started)
    if not isinstance(x_t, Tensor) or x_t.shape != x_0.shape:
        raise ValueError(f"Your function must return a tensor of shape {list(x_0.shape)}.")
    abar = float(schedule.alphas_cumprod[t])
    return Noised(x_t, abar**0.5 * x_0, (1 - abar) ** 0.5 * eps, abar, milliseconds)


@functools.lru_cache(maxsize=64)
def image_named(name: str, number: int) -> Tensor:
    """The image [1, 1, 28, 28] that the control's words stand for; number picks one of many."""
    if name == SEVEN:
        return data.running_example()
    # The embedded ones: the same on every machine, and no panel waits for a download.
    digits = data.load("digits", "train").of_class(IMAGES.index(name) - 1)
    return digits.batch(torch.tensor([number % len(digits)]))[0]


class NoiseExplorer(Panel):
    """An image under noise; the timestep's slider answers while it moves.

    Args:
        on_keep: called with t and abar by the button "I can no longer read it"; None: no button.
        q_sample_fn: the learner's own (schedule, x_0, t, eps) -> x_t, in place of the library's.
        schedules: more schedules to choose from, by name.
    """

    doing = ""  # faster than one could read it

    def __init__(
        self, t: int = 300, schedule: str = "linear", image: str = SEVEN, seed: int = 0, *,
        on_keep: Callable[[int, float], None] | None = None, q_sample_fn: QSample = q_sample,
        schedules: dict[str, NoiseSchedule] | None = None,
    ) -> None:  # fmt: skip
        self.q_sample_fn, self.on_keep = q_sample_fn, on_keep
        self.schedules = {name: NoiseSchedule.by_name(name) for name in SCHEDULES} | (schedules or {})
        longest = max(one.num_timesteps for one in self.schedules.values())
        # No network runs here, so the picture may follow the slider while it moves.
        shown = {
            "t": controls.control(w.IntSlider, "Timestep t", t, live=True, min=0, max=longest - 1),
            "schedule": controls.dropdown("Schedule", list(self.schedules), schedule),
            "image": controls.dropdown("Image", IMAGES, image),
            "number": controls.control(w.BoundedIntText, "Which one", 0, min=0, max=999),
            "seed": controls.seed_box(seed),
        }
        self.keep = controls.button("I can no longer read it", "Keep this t", self._keep)
        super().__init__(shown, [self.keep] if on_keep else [])

    def draw(self, t: int, schedule: str, image: str, number: int, seed: int) -> Film:
        chosen = self.schedules[schedule]
        t = min(t, chosen.num_timesteps - 1)
        found = noised(image_named(image, number), chosen, t, seed, self.q_sample_fn)
        row = Row.of(
            torch.cat([found.x_t, found.image_part, found.noise_part]),
            heads=["x_t  =", "image × √ᾱ  +", "noise × √(1 − ᾱ)"],
            alts=[f"{image} under the noise of t = {t}", "The image's part", "The noise's part"], side=196,
        )  # fmt: skip
        title = f"{schedule} schedule, t = {t}: ᾱ = {found.abar:.4g}"
        return Film([row, *self.charts(found, schedule, t)], f"t = {t}: {found.line}", title, result=found)

    def charts(self, found: Noised, schedule: str, t: int) -> list[Chart]:
        """abar against t for every schedule."""
        longest, lines = max(one.num_timesteps for one in self.schedules.values()), []
        for name, one in self.schedules.items():
            places = torch.linspace(0, one.num_timesteps - 1, 100).round().long()
            abar = float(one.alphas_cumprod[min(t, one.num_timesteps - 1)])
            lines.append(Line(name, one.alphas_cumprod[places], abar, name == schedule))
        names = ", ".join(self.schedules)
        words = f"abar against t for {names}; {schedule} at t = {t} has abar = {found.abar:.3g}"
        ends = "t = 0", str(longest - 1)
        return [
            Chart(line_chart("ᾱ", lines, t / (longest - 1), [(0, "0"), (0.5, "0.5"), (1, "1")], ends, words))
        ]

    def _keep(self) -> None:
        schedule, t = self.schedule.value, self.t.value
        self.on_keep(t, float(self.schedules[schedule].alphas_cumprod[t]))
        self.say(f"Kept: with the {schedule} schedule you could no longer read it at t = {t}.")


class NoiseReader(NoiseExplorer):
    """An image under the linear schedule's noise, and a chart of class probabilities for each reader.

    Args:
        readers: name -> (x_t [B, C, H, W], t [B]) -> probabilities [B, K].
        others: as NoiseExplorer.
    """

    def __init__(self, readers: dict[str, Reader], t: int = 300, **others) -> None:
        if not readers:
            raise ValueError("At least one reader is needed.")
        self.readers = dict(readers)
        super().__init__(t, **others)
        self.schedule.layout.display = "none"  # the readers were trained on one schedule

    def draw(self, t: int, **settings) -> Film:
        film, told = super().draw(t, **settings), []
        with torch.no_grad():
            read = {
                name: reader(film.result.x_t, torch.tensor([t]))[0].tolist()
                for name, reader in self.readers.items()
            }
        for name, numbers in read.items():
            label = max(range(len(numbers)), key=numbers.__getitem__)
            told.append(f"{name} reads {label} ({numbers[label]:.0%})")
        bars = [Chart(bar_chart(name, numbers)) for name, numbers in read.items()]
        return Film([film.rows[0], *bars], f"t = {t}: {'; '.join(told)}.", film.title, result=read)

    def charts(self, found: Noised, schedule: str, t: int) -> list[Chart]:
        return []
