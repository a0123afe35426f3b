"""Curves of log-SNR against t/T for several schedules: as SVG with a line at t, and as a still picture."""

from __future__ import annotations

import functools
import html
import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from classroom import figures
from lessons_lib.data import to_unit
from lessons_lib.schedules import NoiseSchedule, q_sample

# Colours alone do not tell lines apart for everybody: each has its own dashes, too.
STYLES = ((figures.BLUE, ""), (figures.ORANGE, "7 3"), (figures.GREEN, "2 3"), (figures.GREY, "9 3 2 3"))
CURVES_WIDTH, CURVES_HEIGHT, LEFT, TOP = 540, 190, 34, 26  # screen pixels
LOGSNR = 12.0  # the figure shows -12 … 12: what the eye can tell apart is decided there
POINTS = 100  # of a curve


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


def mixed(
    schedule: NoiseSchedule, t: int, num_timesteps: int, x_0: Tensor, eps: Tensor, shrink: int = 1
) -> Mixture:
    """Put an image under the noise of the time t / num_timesteps.

    Args:
        x_0, eps: [1, C, h, w], both averaged already: x_t is linear in them, so the mean of x_t is the x_t of
            the means.
    """
    index = place(schedule, t, num_timesteps)
    x_t = q_sample(schedule, x_0, torch.tensor([index]), eps)
    return Mixture(x_t, float(schedule.alphas_cumprod[index]), shrink)


def place(schedule: NoiseSchedule, t: int, num_timesteps: int) -> int:
    """The timestep of a schedule, which may have a T of its own, that stands for t of num_timesteps."""
    if schedule.num_timesteps == num_timesteps:
        return t
    return round(t / max(num_timesteps - 1, 1) * (schedule.num_timesteps - 1))


def style_of(k: int) -> tuple[str, str]:
    """(colour, dashes) of the k-th schedule; one that comes too late looks like the last."""
    return STYLES[min(k, len(STYLES) - 1)]


def curves_svg(schedules: Mapping[str, NoiseSchedule], t: int, num_timesteps: int, shrink: int = 1) -> str:
    """log-SNR against t/T for every schedule and a line at t, as SVG in the page's own text colour.

    After averaging, the curves as they were stay, thin.
    """
    width, height = CURVES_WIDTH - LEFT - 12, CURVES_HEIGHT - TOP - 22
    fixed, moving = _curves(tuple(schedules.items()), shrink, width, height), []
    x, told = t / max(num_timesteps - 1, 1) * width, []
    for k, (name, schedule) in enumerate(schedules.items()):
        value = float(_log_snr(schedule)[place(schedule, t, num_timesteps)]) + 2 * math.log(shrink)
        y = min(max(_y(value, height), 3), height - 3)  # a dot that leaves the figure waits at its border
        moving.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{style_of(k)[0]}"/>')
        told.append(f"{name} {signed(value)}")
    marker = f'<path d="M{x:.1f} 0V{height}" stroke="currentColor" stroke-dasharray="3 3"/>'
    words = html.escape(f"log-SNR against t/T; at t = {t}: {', '.join(told)}")
    # The inner svg cuts off what leaves its frame.
    frame = f'x="{LEFT}" y="{TOP}" width="{width}" height="{height}"'
    inner = f"<svg {frame}>{fixed[0]}{marker}{''.join(moving)}</svg>"
    size = f'width="{CURVES_WIDTH}" height="{CURVES_HEIGHT}"'
    return f'<svg {size} role="img" aria-label="{words}">{fixed[1]}{inner}</svg>'


@functools.lru_cache(maxsize=32)
def _curves(
    schedules: tuple[tuple[str, NoiseSchedule], ...], shrink: int, width: int, height: int
) -> tuple[str, str]:
    """What does not move with t: (the lines inside the frame, the frame with its words)."""
    lines, zero = [], _y(0, height)
    lines.append(f'<path d="M0 {zero:.1f}H{width}" stroke="currentColor" stroke-opacity="0.3"/>')
    frame = [_text(2, 12, "log-SNR")]
    x = LEFT + 50
    for k, (name, schedule) in enumerate(schedules):
        colour, dashes = style_of(k)
        style = f'fill="none" stroke="{colour}" stroke-dasharray="{dashes}"'
        if shrink > 1:
            points = _points(schedule, 1, width, height)
            lines.append(f'<polyline {style} stroke-width="1" stroke-opacity="0.5" points="{points}"/>')
        points = _points(schedule, shrink, width, height)
        lines.append(f'<polyline {style} stroke-width="2.2" points="{points}"/>')
        frame.append(f'<path d="M{x} 8h26" stroke-width="2.2" {style}/>{_text(x + 31, 12, name)}')
        x += 50 + 7 * len(name)
    for value in (-10, 0, 10):
        y = TOP + _y(value, height) + 4
        frame.append(_text(LEFT - 6, y, f"{value:d}".replace("-", "−"), 'text-anchor="end"'))
    frame.append(_text(LEFT + 6, TOP + zero + 13, "as much signal as noise", 'fill-opacity="0.7"'))
    frame.append(f'<path d="M{LEFT} {TOP}v{height}h{width}" fill="none" stroke="currentColor"/>')
    frame += [
        _text(LEFT, CURVES_HEIGHT - 6, "t/T = 0"),
        _text(LEFT + width, CURVES_HEIGHT - 6, "1", 'text-anchor="end"'),
    ]
    return "".join(lines), "".join(frame)


def _y(log_snr: float, height: int) -> float:
    return (LOGSNR - log_snr) / (2 * LOGSNR) * height


def _text(x: float, y: float, words: str, more: str = "") -> str:
    return f'<text x="{x}" y="{y:.0f}" font-size="11" fill="currentColor" {more}>{html.escape(words)}</text>'


def _log_snr(schedule: NoiseSchedule) -> Tensor:
    return schedule.snr.log()


def _points(schedule: NoiseSchedule, shrink: int, width: int, height: int) -> str:
    indices = torch.linspace(0, schedule.num_timesteps - 1, POINTS).round().long()
    values = (_log_snr(schedule)[indices] + 2 * math.log(shrink)).tolist()
    last = max(schedule.num_timesteps - 1, 1)
    return " ".join(
        f"{i / last * width:.1f},{_y(value, height):.1f}"
        for i, value in zip(indices.tolist(), values, strict=True)
    )


def still_figure(
    shown: Mapping[str, Mixture], schedules: Mapping[str, NoiseSchedule], t: int, num_timesteps: int
) -> bytes:
    """The pictures and the curves side by side, as a PNG."""
    fig, axes = figures.figure(2.0 * len(shown) + 3.0, 2.4, len(shown) + 1)
    *frames, curves = axes
    for k, (ax, (name, found)) in enumerate(zip(frames, shown.items(), strict=True)):
        pixels = to_unit(found.x_t[0]).permute(1, 2, 0).numpy()
        ax.imshow(pixels if pixels.shape[2] == 3 else pixels[..., 0], cmap="gray", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
        words = f"ᾱ = {found.abar:.3g}, signal {percent(found.share)}"
        ax.set_title(f"{name}\n{words}".replace("$", r"\$"), fontsize=8, color=style_of(k)[0])
        values = _log_snr(schedules[name]) + found.gain
        x = torch.linspace(0, 1, len(values))
        colour, dashes = style_of(k)
        line = (0, tuple(map(int, dashes.split()))) if dashes else "-"
        curves.plot(x, values, color=colour, linestyle=line, linewidth=1.5, label=name.replace("$", r"\$"))
    curves.axvline(t / max(num_timesteps - 1, 1), color="black", linestyle=":", linewidth=1)
    curves.legend(fontsize=7, frameon=False)
    curves.set(ylim=(-LOGSNR, LOGSNR), xlabel="t/T", title="log-SNR")
    return figures.figure_png(fig, fig.dpi)
