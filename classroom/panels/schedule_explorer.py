"""The schedule explorer: one image under the noise of several schedules at one t, and their log-SNR."""

from __future__ import annotations

import math
from collections.abc import Mapping

import ipywidgets as w
import torch
import torch.nn.functional as F
from torch import Tensor

from classroom.panels import controls
from classroom.panels.charts import curve, plot
from classroom.panels.drawing import given
from classroom.panels.film import Film, Row
from classroom.panels.panel import Panel
from lessons_lib.samplers import SampleNoise
from lessons_lib.schedules import SCHEDULES, NoiseSchedule, q_sample

FACTORS = [("no pixels", 1), ("2 × 2 pixels", 2), ("4 × 4 pixels", 4)]
T = 1000  # of the slider
LOGSNR = 12.0  # the chart shows -12 … 12: what the eye can tell apart is decided there


def signed(number: float) -> str:
    """'−2.47', with a real minus."""
    return f"{number:.2f}".replace("-", "−")


class ScheduleExplorer(Panel):
    """One image under the same noise in several schedules; the timestep's slider answers while it moves.

    The signal's share of the variance counts the image's variance as 1, as log-SNR = log(ᾱ / (1 − ᾱ)) does.
    Averaging blocks of f × f pixels leaves the image what it is, where neighbours are alike, and divides the
    variance of the noise by f²: log-SNR rises by 2 log f. So a picture with f times as many pixels a side
    needs that much more noise to be hidden as well (Hoogeboom et al. 2023, sec. 3.1).

    Args:
        image: [1, C, H, W] in [-1, 1], H and W multiples of 4.
        schedules: name -> NoiseSchedule, one with another T is asked at the same t / T; None: the library's.
    """

    doing = ""  # faster than one could read it

    def __init__(
        self, image: Tensor, schedules: Mapping[str, NoiseSchedule] | None = None, *, t: int = 400
    ) -> None:
        self.x_0 = given(image, 1)
        self.eps = SampleNoise([(0, 0)])(self.x_0)
        self.schedules = schedules or {name: NoiseSchedule.by_name(name, T) for name in SCHEDULES}
        # No network runs here, so the pictures may follow the sliders while they move.
        super().__init__({
            "t": controls.control(w.IntSlider, "Timestep t", t, live=True, min=0, max=T - 1),
            "shrink": controls.control(w.SelectionSlider, "Average over", 1, live=True, options=FACTORS),
        })  # fmt: skip

    def draw(self, t: int, shrink: int) -> Film:
        gain, part, images, texts, lines, told = 2 * math.log(shrink), t / (T - 1), [], [], [], []
        for name, schedule in self.schedules.items():
            place = round(part * (schedule.num_timesteps - 1))
            x_t = q_sample(schedule, self.x_0, torch.tensor([place]), self.eps)
            images.append(F.avg_pool2d(x_t, shrink))
            abar = float(schedule.alphas_cumprod[place])
            before = math.log(abar) - math.log1p(-abar)
            summed = f" + {gain:.2f} = {signed(before + gain)}" if gain else ""
            share = 1 / (1 + math.exp(-before - gain))
            texts.append(
                f"signal {share:.1%} of the variance: ᾱ = {abar:.3g}, log-SNR = {signed(before)}{summed}"
            )
            lines.append(curve(name, schedule, lambda abar: height_of(abar.logit() + gain), part))
            told.append(f"{name} {signed(before + gain)}")
        row = Row.of(torch.cat(images), heads=list(self.schedules), lines=5, side=196, texts=texts)
        line = f"t = {t} of {T}: the same image and the same noise in every column."
        if gain:
            mean = f"In the mean over {shrink} × {shrink} pixels the noise has 1/{shrink**2} of its variance"
            line = f"{line} {mean}: log-SNR rises by 2 ln {shrink} = {gain:.2f}."
        y_ticks = [(height_of(value), f"{value}".replace("-", "−")) for value in (-10, 0, 10)]
        words, ends = f"log-SNR against t/T; at t = {t}: {', '.join(told)}", [(0, "t/T = 0"), (1, "1")]
        chart = plot("log-SNR", lines, ends, y_ticks, words, marker=part)
        return Film([row, chart], line, f"One image under the noise of t = {t}")


def height_of(log_snr: Tensor | float) -> Tensor | float:
    """Its height in the plot, 0 … 1."""
    return (log_snr / LOGSNR + 1) / 2
