"""The schedule explorer: one image under the noise of several schedules at one t, and their log-SNR."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import ipywidgets as w
import torch
import torch.nn.functional as F
from torch import Tensor

from classroom.panels import controls
from classroom.panels.charts import Line, line_chart
from classroom.panels.film import Chart, Film, Row
from classroom.panels.panel import Panel
from lessons_lib.samplers import SampleNoise
from lessons_lib.schedules import SCHEDULES, NoiseSchedule, q_sample

FACTORS = (1, 2, 4)
T = 1000  # of the slider
LOGSNR = 12.0  # the chart shows -12 … 12: what the eye can tell apart is decided there


class Mixture(NamedTuple):
    """An image at timestep t under one schedule, after averaging blocks of f × f pixels.

    x_t: [1, C, H / f, W / f]; the mean of each block.
    abar: the signal's part of the variance of one pixel of x_t, before averaging.
    shrink: f.
    """

    x_t: Tensor
    abar: float
    shrink: int

    @property
    def log_snr(self) -> float:
        """log(abar / (1 - abar)), natural logarithm, before averaging."""
        return math.log(self.abar) - math.log1p(-self.abar)

    @property
    def gain(self) -> float:
        """What averaging adds to it: f² independent noises have 1/f² of the variance in their mean."""
        return 2 * math.log(self.shrink)

    @property
    def share(self) -> float:
        """The signal's part of the variance after averaging, 0 … 1; the image keeps its variance of 1."""
        return 1 / (1 + math.exp(-self.log_snr - self.gain))

    @property
    def line(self) -> str:
        """The numbers in words."""
        numbers = f"log-SNR = {signed(self.log_snr)}"
        if self.shrink > 1:
            numbers += f" + {self.gain:.2f} = {signed(self.log_snr + self.gain)}"
        return f"signal {percent(self.share)} of the variance: ᾱ = {self.abar:.3g}, {numbers}"


def signed(number: float) -> str:
    """'−2.47', with a real minus."""
    return f"{number:.2f}".replace("-", "−")


def percent(share: float) -> str:
    """'49%'; near both ends with a decimal."""
    return f"{share:.1%}" if 0.0995 > share >= 0.0005 or 0.9995 > share > 0.99 else f"{share:.0%}"


class ScheduleExplorer(Panel):
    """One image under the same noise in several schedules; the timestep's slider answers while it moves.

    The signal's share of the variance counts the image's variance as 1, as log-SNR = log(ᾱ / (1 − ᾱ)) does.
    Averaging blocks of f × f pixels leaves the image what it is, where neighbours are alike, and divides the
    variance of the noise by f²: log-SNR rises by 2 log f. So a picture with f times as many pixels a side
    needs that much more noise to be hidden as well (Hoogeboom et al. 2023, sec. 3.1).

    Args:
        image: [1, C, H, W] or [C, H, W] in [-1, 1].
        schedules: name -> NoiseSchedule, one with another T is asked at the same t / T; None: the library's.
        shrink: where the second slider starts: 1, 2 or 4 pixels a side are averaged.
    """

    doing = ""  # faster than one could read it

    def __init__(
        self,
        image: Tensor,
        schedules: Mapping[str, NoiseSchedule] | None = None,
        *,
        t: int = 400,
        shrink: int = 1,
    ) -> None:
        x_0 = checked_image(image)
        self.schedules = schedules or {name: NoiseSchedule.by_name(name, T) for name in SCHEDULES}
        factors = [f for f in FACTORS if all(side % f == 0 and side > f for side in x_0.shape[2:])] or [1]
        if shrink not in factors:
            choice = ", ".join(map(str, factors))
            raise ValueError(
                f"This image can be averaged over blocks of {choice} pixels a side, not {shrink}."
            )
        # x_t is linear in both, so the mean of x_t is the x_t of the means.
        pair = x_0, SampleNoise([(0, 0)])(x_0)
        self._averaged = {f: [F.avg_pool2d(each, f) for each in pair] for f in factors}
        options = [("no pixels" if f == 1 else f"{f} × {f} pixels", f) for f in factors]
        # No network runs here, so the pictures may follow the sliders while they move.
        shown = {"t": controls.control(w.IntSlider, "Timestep t", t, live=True, min=0, max=T - 1)}
        if len(factors) > 1:
            shown["shrink"] = controls.control(
                w.SelectionSlider, "Average over", shrink, live=True, options=options
            )
        super().__init__(shown)

    def place(self, schedule: NoiseSchedule, t: int) -> int:
        """The timestep of a schedule, which may have a T of its own, that stands for t."""
        return round(t / (T - 1) * (schedule.num_timesteps - 1))

    def draw(self, t: int, shrink: int = 1) -> Film:
        x_0, eps = self._averaged[shrink]
        shown = {}
        for name, schedule in self.schedules.items():
            index = self.place(schedule, t)
            x_t = q_sample(schedule, x_0, torch.tensor([index]), eps)
            shown[name] = Mixture(x_t, float(schedule.alphas_cumprod[index]), shrink)
        row = Row.of(
            torch.cat([found.x_t for found in shown.values()]), heads=list(shown), lines=5, side=196,
            texts=[found.line for found in shown.values()],
        )  # fmt: skip
        line = f"t = {t} of {T}: the same image and the same noise in every column."
        if shrink > 1:
            gain = f"log-SNR rises by 2 ln {shrink} = {2 * math.log(shrink):.2f}"
            mean = f"In the mean over {shrink} × {shrink} pixels the noise has 1/{shrink**2} of its variance"
            line = f"{line} {mean}: {gain}."
        return Film(
            [row, self._curves(shown, t)], line, f"One image under the noise of t = {t}", result=shown
        )

    def _curves(self, shown: Mapping[str, Mixture], t: int) -> Chart:
        lines, told = [], []
        for name, schedule in self.schedules.items():
            found = shown[name]
            places = torch.linspace(0, schedule.num_timesteps - 1, 100).round().long()
            heights = ((schedule.snr.log()[places] + found.gain) / LOGSNR + 1) / 2
            value = found.log_snr + found.gain
            lines.append(Line(name, heights, (value / LOGSNR + 1) / 2))
            told.append(f"{name} {signed(value)}")
        ticks = [((value / LOGSNR + 1) / 2, f"{value}".replace("-", "−")) for value in (-10, 0, 10)]
        words = f"log-SNR against t/T; at t = {t}: {', '.join(told)}"
        marker = t / (T - 1)
        return Chart(line_chart("log-SNR", lines, marker, ticks, ("t/T = 0", "1"), words))


def checked_image(image: Tensor) -> Tensor:
    """One image [1, C, H, W] float32 on the CPU; ValueError for another shape or range."""
    shape = list(getattr(image, "shape", ()))
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[0] != 1) or shape[-3] not in (1, 3):
        raise ValueError(f"Give one image [C, H, W] or [1, C, H, W] with 1 or 3 channels, got shape {shape}.")
    image = image.detach().float().cpu().reshape(1, *shape[-3:])
    if not bool((image.abs() <= 1.001).all()):
        ends = f"{image.min():g} to {image.max():g}"
        raise ValueError(f"The image must lie in [-1, 1], got values from {ends}.")
    return image
