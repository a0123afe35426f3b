"""The schedule explorer: one image under the noise of several schedules at one t, and their log-SNR."""

from __future__ import annotations

import functools
import html
import math
from collections.abc import Mapping, Sequence

import ipywidgets as w
import torch.nn.functional as F
from torch import Tensor

from classroom.panels.controls import ROOM, control
from classroom.panels.panel import Panel, Picture
from classroom.panels.snr import CURVES_HEIGHT, Mixture, curves_svg, mixed, still_figure, style_of
from lessons_lib.samplers import SampleNoise
from lessons_lib.schedules import SCHEDULES, NoiseSchedule

FACTORS = (1, 2, 4)
GAP, WIDTH = 12, 552  # between two columns, of them all: screen pixels


def averaged(image: Tensor, factor: int) -> Tensor:
    """The mean over blocks of factor × factor pixels: [1, C, H, W] -> [1, C, H / factor, W / factor]."""
    return F.avg_pool2d(image, factor) if factor > 1 else image


class ScheduleExplorer(Panel):
    """One image under the same noise in several schedules; the timestep's slider answers while it moves.

    The signal's share of the variance counts the image's variance as 1, as log-SNR = log(ᾱ / (1 − ᾱ)) does.
    Averaging blocks of f × f pixels leaves the image what it is, where neighbours are alike, and divides the
    variance of the noise by f²: log-SNR rises by 2 log f. So a picture with f times as many pixels a side
    needs that much more noise to be hidden as well (Hoogeboom et al. 2023, sec. 3.1).

    Args:
        image: [1, C, H, W] or [C, H, W] in [-1, 1].
        schedules: names, or name -> NoiseSchedule; one with another T is asked at the same t / T.
        num_timesteps: T of the slider and of the schedules that are named.
        t: where the slider starts, 0 … T-1; None: at 2/5 of T.
        shrink: where the second slider starts: 1, 2 or 4 pixels a side are averaged. None: no such slider.
        seed: of the noise.

    Attributes:
        t, shrink: the controls.
        shown: name -> the Mixture that is shown; empty until the first is done.

    Raises:
        ValueError: if the image has another shape or range, or a schedule, t or shrink is unknown.
    """

    def __init__(
        self,
        image: Tensor,
        schedules: Sequence[str] | Mapping[str, NoiseSchedule] = SCHEDULES,
        num_timesteps: int = 1000,
        *,
        t: int | None = None,
        shrink: int | None = 1,
        seed: int = 0,
    ) -> None:
        x_0 = checked_image(image)
        if not schedules:
            raise ValueError("At least one schedule is needed.")
        super().__init__(layout=w.Layout(width="100%", max_width="680px"))
        self.num_timesteps, self.shown = num_timesteps, {}
        given = isinstance(schedules, Mapping)
        self.schedules = {
            name: schedules[name] if given else NoiseSchedule.by_name(name, num_timesteps)
            for name in schedules
        }
        eps = SampleNoise([(seed, 0)])(x_0)
        factors = [f for f in FACTORS if all(side % f == 0 and side > f for side in x_0.shape[2:])] or [1]
        self._prepared = {f: (averaged(x_0, f), averaged(eps, f)) for f in factors}
        self._build_controls(t, shrink)
        self._build_columns(*x_0.shape[2:])
        offered = [self.shrink] if shrink is not None and len(factors) > 1 else []
        self.children = (self.t, *offered, self.columns, self.curves, self.progress, self.status)
        for each in (self.t, self.shrink):
            each.observe(self._redraw, "value")
        self._redraw()

    def _build_controls(self, t: int | None, shrink: int | None) -> None:
        last = self.num_timesteps - 1
        t = 2 * self.num_timesteps // 5 if t is None else t
        if not 0 <= t <= last:
            raise ValueError(f"The timestep must be between 0 and {last}, got {t}.")
        shrink = 1 if shrink is None else shrink
        if shrink not in self._prepared:
            choice = ", ".join(map(str, self._prepared))
            raise ValueError(
                f"This image can be averaged over blocks of {choice} pixels a side, not {shrink}."
            )
        # No network runs here, so the pictures may follow the sliders while they move.
        live = {"continuous_update": True}
        self.t = control(w.IntSlider, value=t, min=0, max=last, description="Timestep t", **live)
        options = [("no pixels" if f == 1 else f"{f} × {f} pixels", f) for f in self._prepared]
        self.shrink = control(
            w.SelectionSlider, options=options, value=shrink, description="Average over", **live
        )

    def _build_columns(self, height: int, width: int) -> None:
        count = len(self.schedules)
        room = min(168, max(64, (WIDTH + GAP) // count - GAP))
        scale = max(1, room // max(height, width))
        side = room / max(height, width) if scale == 1 else scale
        pictures, self.words, columns = {}, {}, []
        for k, name in enumerate(self.schedules):
            pictures[name] = Picture(round(width * side), round(height * side))
            # Room for the longest words: nothing below may jump while a slider moves.
            self.words[name] = w.HTML(layout={"width": f"{room}px", "height": "84px", "margin": "0"})
            mark = f'<b style="color: {style_of(k)[0]}">{html.escape(name)}</b>'
            title = w.HTML(mark, layout={"margin": "0", "max_width": f"{room}px"})
            columns.append(w.VBox([title, pictures[name], self.words[name]]))
        self.pictures = pictures
        self.columns = w.HBox(columns, layout={"grid_gap": f"{GAP}px", "flex_flow": "row wrap"} | ROOM)
        self.curves = w.HTML(layout={"height": f"{CURVES_HEIGHT}px", "margin": "0"})

    def settings(self) -> dict:
        """What the controls ask for now."""
        return {"t": self.t.value, "shrink": self.shrink.value}

    def _redraw(self, _change=None) -> None:
        self.ask(functools.partial(self._mix, self.settings()), self._show)

    def _mix(self, settings: dict) -> tuple[dict, dict[str, Mixture]]:
        shrink, x_0, eps = settings["shrink"], *self._prepared[settings["shrink"]]
        asked = settings["t"], self.num_timesteps
        return settings, {name: mixed(one, *asked, x_0, eps, shrink) for name, one in self.schedules.items()}

    def _show(self, result: tuple[dict, dict[str, Mixture]]) -> None:
        self._drawn, self.shown = result
        t, shrink = self._drawn["t"], self._drawn["shrink"]
        for name, found in self.shown.items():
            self.pictures[name].show(
                found.x_t, f"The image under the {name} schedule at t = {t}: {found.line}"
            )
            self.words[name].value = f'<div style="font-size: 90%; line-height: 20px">{found.line}</div>'
        self.curves.value = curves_svg(self.schedules, t, self.num_timesteps, shrink)
        self.say(self._line(t, shrink))

    def _line(self, t: int, shrink: int) -> str:
        line = f"t = {t} of {self.num_timesteps}: the same image and the same noise in every column."
        if shrink == 1:
            return line
        means = f"In the mean over {shrink} × {shrink} pixels the noise has 1/{shrink**2} of its variance"
        return f"{line} {means}: log-SNR rises by 2 ln {shrink} = {2 * math.log(shrink):.2f}."

    def still(self) -> tuple[bytes, str] | None:
        if not self.shown:
            return None
        t, shrink = self._drawn["t"], self._drawn["shrink"]
        told = "; ".join(f"{name}: {found.line}" for name, found in self.shown.items())
        picture = still_figure(self.shown, self.schedules, t, self.num_timesteps)
        return picture, f"{self._line(t, shrink)} {told}."


def checked_image(image: Tensor) -> Tensor:
    """One image [1, C, H, W] float32 on the CPU.

    Raises:
        ValueError: for another shape or range.
    """
    shape = list(getattr(image, "shape", ()))
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[0] != 1) or shape[-3] not in (1, 3):
        raise ValueError(f"Give one image [C, H, W] or [1, C, H, W] with 1 or 3 channels, got shape {shape}.")
    image = image.detach().float().cpu().reshape(1, *shape[-3:])
    if not bool((image.abs() <= 1.001).all()):
        raise ValueError(
            f"The image must lie in [-1, 1], got values from {image.min():g} to {image.max():g}."
        )
    return image
