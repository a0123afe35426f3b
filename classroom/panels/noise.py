"""The noise explorer: an image under noise, for any timestep, schedule and digit."""

from __future__ import annotations

import functools
import html
import time
from collections.abc import Callable
from typing import NamedTuple

import ipywidgets as w
import torch
from torch import Tensor

from classroom.panels.controls import LARGEST_SEED, NARROW, ROOM, control
from classroom.panels.panel import Panel, Picture, caption, still_picture
from lessons_lib import data
from lessons_lib.samplers import SampleNoise
from lessons_lib.schedules import SCHEDULES, NoiseSchedule, q_sample

QSample = Callable[[NoiseSchedule, Tensor, Tensor, Tensor], Tensor]
SEVEN = "the course's seven"
IMAGES = (SEVEN, *(f"a handwritten {digit}" for digit in range(10)))
CURVE_WIDTH, CURVE_HEIGHT, MARGIN = 430, 120, 26


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
    def signal(self) -> float:
        """The factor of the image."""
        return self.abar**0.5

    @property
    def noise(self) -> float:
        """The factor of the noise."""
        return (1 - self.abar) ** 0.5

    @property
    def line(self) -> str:
        """The numbers as a sentence."""
        ratio = self.abar / (1 - self.abar)
        shown = f"{ratio:.3g}" if ratio < 100 else f"{ratio:,.0f}"
        factors = f"The image is multiplied by {self.signal:.3f}, the noise by {self.noise:.3f}."
        made = f"Made in {self.milliseconds:.1f} ms, without a loop."
        return f"ᾱ = {self.abar:.4g}. {factors} Signal-to-noise ratio {shown}. {made}"


def noised(
    x_0: Tensor, schedule: NoiseSchedule, t: int, seed: int, q_sample_fn: QSample = q_sample
) -> Noised:
    """Put an image [1, C, H, W] under the noise of timestep t.

    Raises:
        ValueError: if q_sample_fn does not return an image of that shape.
    """
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
        t, schedule, image, seed: where the controls start.
        on_keep: called with t and abar by the button "I can no longer read it"; None: no button.
        q_sample_fn: the learner's own (schedule, x_0, t, eps) -> x_t, in place of the library's.
        schedules: more schedules to choose from, by name.

    Attributes:
        t, schedule, image, number, seed, new_noise, keep: the controls.
        shown: the Noised that is shown; None until the first is done.
    """

    def __init__(
        self,
        t: int = 300,
        schedule: str = "linear",
        image: str = SEVEN,
        seed: int = 0,
        *,
        on_keep: Callable[[int, float], None] | None = None,
        q_sample_fn: QSample = q_sample,
        schedules: dict[str, NoiseSchedule] | None = None,
    ) -> None:
        super().__init__(layout=w.Layout(width="100%", max_width="680px"))
        self.q_sample_fn, self.on_keep, self.shown = q_sample_fn, on_keep, None
        self.schedules = {name: NoiseSchedule.by_name(name) for name in SCHEDULES} | (schedules or {})
        self._build_controls(t, schedule, image, seed)
        self.picture, self.image_part, self.noise_part = Picture(196), Picture(126), Picture(126)
        self.curve = w.HTML(layout={"margin": "0"})
        parts = [
            w.VBox([self.image_part, caption("image × √ᾱ")]),
            w.VBox([self.noise_part, caption("noise × √(1 − ᾱ)")]),
        ]
        parts = w.HBox([caption("="), parts[0], caption("+"), parts[1]])
        parts.layout = {"grid_gap": "12px", "align_items": "center"}
        pictures = w.HBox([self.picture, parts], layout={"grid_gap": "12px", "align_items": "center"} | ROOM)
        chooser = w.HBox([self.image, self.number])
        ends = [self.keep] if on_keep else []
        controls = (self.t, self.schedule, chooser, self.new_noise)
        self.children = (*controls, pictures, self.curve, self.progress, self.status, *ends)
        for each in (self.t, self.schedule, self.image, self.number, self.seed):
            each.observe(self._redraw, "value")
        self._redraw()

    def _build_controls(self, t: int, schedule: str, image: str, seed: int) -> None:
        longest = max(one.num_timesteps for one in self.schedules.values())
        # No network runs here, so the picture may follow the slider while it moves.
        self.t = control(
            w.IntSlider, value=t, min=0, max=longest - 1, description="Timestep t", continuous_update=True
        )
        names = list(self.schedules)
        self.schedule = control(
            w.Dropdown, options=names, value=schedule, description="Schedule", layout=NARROW
        )
        self.image = control(
            w.Dropdown, options=IMAGES, value=image, description="Image", layout={"width": "300px"}
        )
        self.number = control(
            w.BoundedIntText, value=0, min=0, max=999, description="Which one", layout={"width": "200px"}
        )
        self.seed = w.BoundedIntText(seed, min=0, max=LARGEST_SEED, description="Seed")
        self.new_noise = w.Button(description="New noise", tooltip="The same image under other noise")
        self.new_noise.on_click(lambda _: setattr(self.seed, "value", self.seed.value + 1))
        self.keep = w.Button(
            description="I can no longer read it", tooltip="Keep this t", layout={"width": "200px"}
        )
        self.keep.on_click(self._keep)

    def settings(self) -> dict:
        """What the controls ask for now."""
        schedule = self.schedules[self.schedule.value]
        return {
            "image": self.image.value,
            "number": self.number.value,
            "schedule": self.schedule.value,
            "t": min(self.t.value, schedule.num_timesteps - 1),
            "seed": self.seed.value,
        }

    def _redraw(self, _change=None) -> None:
        self.ask(functools.partial(self._draw, self.settings()), self._show)

    def _draw(self, settings: dict) -> tuple[dict, Noised]:
        x_0 = image_named(settings["image"], settings["number"])
        schedule = self.schedules[settings["schedule"]]
        return settings, noised(x_0, schedule, settings["t"], settings["seed"], self.q_sample_fn)

    def _show(self, result: tuple[dict, Noised]) -> None:
        self._drawn, self.shown = result
        t, found = self._drawn["t"], self.shown
        self.picture.show(found.x_t, f"{self._drawn['image']} under the noise of t = {t}")
        self.image_part.show(found.image_part, f"The image alone, multiplied by {found.signal:.2f}")
        self.noise_part.show(found.noise_part, f"The noise alone, multiplied by {found.noise:.2f}")
        self.curve.value = curve_svg(self.schedules, self._drawn["schedule"], t)
        self.say(f"t = {t}: {found.line}")

    def _keep(self, _button=None) -> None:
        t = self.settings()["t"]
        self.on_keep(t, float(self.schedules[self.schedule.value].alphas_cumprod[t]))
        self.say(f"Kept: with the {self.schedule.value} schedule you could no longer read it at t = {t}.")

    def still(self) -> tuple[bytes, str] | None:
        if self.shown is None:
            return None
        schedule, t = self._drawn["schedule"], self._drawn["t"]
        title = f"{schedule} schedule, t = {t}: ᾱ = {self.shown.abar:.4g}"
        images = torch.cat([self.shown.x_t, self.shown.image_part, self.shown.noise_part])
        columns = ("$x_t$", "image part", "noise part")
        return still_picture({"": images}, title, columns, size=1.7), f"An image under noise. {title}."


# -- the curve -------------------------------------------------------------------------------------


def curve_svg(schedules: dict[str, NoiseSchedule], chosen: str, t: int) -> str:
    """abar against t for every schedule, the chosen one bold with a dot at t, as SVG."""
    total = CURVE_WIDTH - 2 * MARGIN, CURVE_HEIGHT - 2 * MARGIN
    longest = max(one.num_timesteps for one in schedules.values())
    lines = []
    for name, schedule in schedules.items():
        bold = name == chosen
        style = 'stroke="#2166ac" stroke-width="2.5"' if bold else 'stroke="#999999" stroke-width="1.2"'
        lines.append(f'<polyline fill="none" {style} points="{_points(schedule, longest, *total)}"/>')
    abar = float(schedules[chosen].alphas_cumprod[t])
    x, y = MARGIN + t / (longest - 1) * total[0], MARGIN + (1 - abar) * total[1]
    words = f"abar against t for {', '.join(schedules)}; {chosen} at t = {t} has abar = {abar:.3g}"
    right, bottom = MARGIN + total[0], MARGIN + total[1]
    lines += [
        f'<path d="M{MARGIN} {bottom}H{right}" stroke="currentColor"/>',
        f'<path d="M{x:.1f} {MARGIN}V{bottom}" stroke="#d6604d" stroke-dasharray="3 3"/>',
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="#d6604d"/>',
        _text(2, MARGIN - 10, f"ᾱ for every t: {chosen} in blue"),
        _text(2, MARGIN + 4, "1"),
        _text(2, bottom, "0"),
        _text(MARGIN, CURVE_HEIGHT - 8, "t = 0"),
        _text(right, CURVE_HEIGHT - 8, str(longest - 1), 'text-anchor="end"'),
    ]
    size = f'width="{CURVE_WIDTH}" height="{CURVE_HEIGHT}"'
    # The page's own text colour, so that it reads in a light and a dark theme.
    return f'<svg {size} role="img" aria-label="{html.escape(words)}">{"".join(lines)}</svg>'


def _text(x: float, y: float, words: str, more: str = "") -> str:
    return f'<text x="{x}" y="{y}" font-size="11" fill="currentColor" {more}>{html.escape(words)}</text>'


@functools.lru_cache(maxsize=64)
def _points(schedule: NoiseSchedule, longest: int, width: int, height: int) -> str:
    """The curve of abar as SVG's pairs of coordinates; a hundred points are smooth enough."""
    indices = torch.linspace(0, schedule.num_timesteps - 1, 100).round().long()
    abar = schedule.alphas_cumprod[indices].tolist()
    return " ".join(
        f"{MARGIN + t / (longest - 1) * width:.1f},{MARGIN + (1 - a) * height:.1f}"
        for t, a in zip(indices.tolist(), abar, strict=True)
    )
