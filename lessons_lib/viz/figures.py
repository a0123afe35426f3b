"""Figures for the lessons, with alternative texts; the small tables of measured results that they show."""

from __future__ import annotations

import base64
import csv
import html
import io
import itertools
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lessons_lib.data import to_unit
from lessons_lib.viz.images import png_bytes

GIF_ZOOM = 2  # shown so many times as large as stored: noise does not compress
BLUE, ORANGE, GREEN, GREY = "#2166ac", "#d6604d", "#1b7837", "#666666"


def canvas(width: float, height: float, layout: str | None = None):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fig = Figure(figsize=(width, height), layout=layout, dpi=110)
    FigureCanvasAgg(fig)
    return fig


def figure(width: float = 7.0, height: float = 2.8, columns: int = 1, **options):
    """A matplotlib figure in the course's style, outside pyplot's register: returns (figure, axes)."""
    fig = canvas(width, height, "constrained")
    axes = fig.subplots(1, columns, squeeze=False, **options)[0]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return fig, axes[0] if columns == 1 else axes


def show_figure(picture, alt: str, caption: str = "") -> None:
    """Show a picture in a notebook, with a text for those who cannot see it and a caption on what to see.

    Args:
        picture: a matplotlib figure, pixels [H, W, 3] uint8, or the bytes of a PNG or GIF.
    """
    from IPython.display import Markdown, display

    if hasattr(picture, "savefig"):
        buffer = io.BytesIO()
        picture.savefig(buffer, format="png", facecolor="white")
        picture = buffer.getvalue()
    elif isinstance(picture, np.ndarray):
        picture = png_bytes(picture)
    still = _last_frame(picture) if picture[:3] == b"GIF" else picture
    content = {"image/png": base64.b64encode(still).decode(), "text/plain": f"<picture: {alt}>"}
    if still is not picture:  # not every viewer of notebooks knows image/gif, but all know an <img>
        encoded = base64.b64encode(picture).decode()
        style = f"width: {GIF_ZOOM * _width(picture)}px; max-width: 100%; image-rendering: pixelated"
        source = f"data:image/gif;base64,{encoded}"
        content["text/html"] = f'<img src="{source}" alt="{html.escape(alt)}" style="{style}">'
    display(content, raw=True, metadata={"image/png": {"alt": alt}})
    if caption:
        display(Markdown(f"*{caption}*"))


def _width(gif: bytes) -> int:
    return int.from_bytes(gif[6:8], "little")  # bytes 6 and 7 of every GIF


def _last_frame(gif: bytes) -> bytes:
    """The last frame of a GIF as a PNG: for a page that cannot play it."""
    import imageio.v3 as iio

    return iio.imwrite("<bytes>", iio.imread(gif, index=None)[-1], extension=".png")


def image_row(rows: dict[str, Tensor], titles: Sequence[str] = (), size: float = 1.0, title: str = ""):
    """A figure with one row of images for each entry.

    Args:
        rows: name -> [N, C, H, W] in [-1, 1].
        titles: N column titles.
        size: inches for an image.
        title: above the whole.
    """
    count = max(len(images) for images in rows.values())
    longest = max(len(line) for name in rows for line in name.split("\n"))
    margin = 0.25 + 0.07 * longest  # for the names, in inches
    top = 0.1 + 0.17 * max([str(title).count("\n") + 1 for title in titles], default=0)
    top += 0.25 if title else 0
    fig = canvas(size * count + margin, size * len(rows) + top)
    fig.subplots_adjust(left=margin / fig.get_figwidth(), right=0.995, bottom=0.01, wspace=0.06, hspace=0.06)
    fig.subplots_adjust(top=1 - top / fig.get_figheight())
    fig.suptitle(title, fontsize=9, y=0.99, va="top")
    axes = fig.subplots(len(rows), count, squeeze=False)
    for row, (name, images) in zip(axes, rows.items(), strict=True):
        for k, ax in enumerate(row):
            ax.set_xticks([])
            ax.set_yticks([])
            if k < len(images):
                pixels = to_unit(images[k].float()).permute(1, 2, 0).cpu().numpy()
                pixels = pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels
                ax.imshow(pixels, cmap="gray", vmin=0, vmax=1)
            else:
                ax.axis("off")
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    for ax, title in zip(axes[0], titles, strict=False):
        ax.set_title(title, fontsize=8)
    return fig


def arrow_field(ax, points: Tensor, arrows: Tensor, color: str = BLUE, longest: float = 0.35) -> None:
    """Draw arrows [N, 2] at points [N, 2]; long ones are shortened so that directions stay readable."""
    length = arrows.norm(dim=1, keepdim=True)
    shown = arrows / length.clamp(min=1e-9) * longest * torch.tanh(length)
    ax.quiver(*points.T, *shown.T, angles="xy", scale_units="xy", scale=1, color=color, width=0.004)
    ax.set_aspect("equal")


class LiveLoss:
    """A loss curve that redraws itself while a model trains; call it with each step's number and loss."""

    def __init__(self, seconds: float, redraw_every: float = 1.0) -> None:
        self.seconds, self.redraw_every = seconds, redraw_every
        self.steps: list[int] = []
        self.losses: list[float] = []
        self.started = self.drawn = time.monotonic()
        self.handle = None

    def __call__(self, step: int, loss: float) -> None:
        self.steps.append(step)
        self.losses.append(loss)
        if time.monotonic() - self.drawn > self.redraw_every:
            self.draw()

    def draw(self) -> None:
        """Draw now; the last call of a training leaves the whole curve."""
        from IPython.display import Image, display

        self.drawn = time.monotonic()
        fig, ax = figure(6.5, 2.4)
        ax.plot(self.steps, self.losses, color=GREY, alpha=0.35, lw=0.8)
        window = max(1, len(self.losses) // 20)
        smooth = np.convolve(self.losses, np.ones(window) / window, mode="valid")
        ax.plot(self.steps[window - 1 :], smooth, color=BLUE)
        ax.set(xlabel="training step", ylabel="loss", ylim=(0, min(1.1, max(self.losses) * 1.05)))
        spent = f"{self.drawn - self.started:.0f} of {self.seconds:.0f} s"
        ax.set_title(f"{spent}, loss {smooth[-1]:.3f}", fontsize=10)
        buffer = io.BytesIO()
        fig.savefig(buffer, format="png")
        alt = f"Loss curve of {len(self.steps)} steps, from {self.losses[0]:.2f} down to {smooth[-1]:.3f}."
        image = Image(buffer.getvalue(), metadata={"alt": alt})
        if self.handle is None:
            self.handle = display(image, display_id=True)
        else:
            self.handle.update(image)


def read_table(path: str | Path) -> list[dict[str, float | str]]:
    """The rows of a CSV file of measured results, numbers as floats; lines that start with # are notes."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return [{name: _number(value) for name, value in row.items()} for row in rows]


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def named_lines(
    rows: Sequence[dict], settings: Sequence[str], shown: dict[str, str] | None = None
) -> dict[str, list[dict]]:
    """The rows of a table that belong to one line, by a name that says what the lines differ in.

    Args:
        settings: the columns that a line has in common, the most telling first; the first is always named.
        shown: how a column's value is written in a name, such as {"steps": "{} steps"}.
    """
    telling = list(settings[:1])
    for name in settings[1:]:  # it tells something if it differs between rows that are alike so far
        if len({_values(row, [*telling, name]) for row in rows}) > len(
            {_values(row, telling) for row in rows}
        ):
            telling.append(name)
    found: dict[str, list[dict]] = {}
    for row in rows:
        pairs = zip(telling, _values(row, telling), strict=True)
        label = ", ".join((shown or {}).get(name, "{}").format(value) for name, value in pairs if value)
        found.setdefault(label, []).append(row)
    return found


def _values(row: dict, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{row[name]:g}" if isinstance(row[name], float) else row[name] for name in names)


def add_share(ax, x: float, value: float, interval: tuple[float, float], label: str = "yours") -> None:
    """A share in [0, 1] with its interval, as a black square in percent."""
    below, above = 100 * (value - interval[0]), 100 * (interval[1] - value)
    ax.errorbar([x], [100 * value], [[below], [above]], fmt="ks", capsize=4, label=label)


def sweep_figure(lines: dict[str, Sequence[dict]], xlabel: str = "guidance scale", height: float = 3.0):
    """Accuracy with its interval, feature FID and diversity against the guidance scale: (figure, axes).

    Args:
        lines: name -> rows of a sweep's table, texts or numbers, in the order of their scales.
    """
    fig, axes = figure(9.6, height, columns=3)
    shown = (("accuracy", "read right (%)", 100), ("fid", "feature FID", 1), ("diversity", "diversity", 1))
    for (name, rows), colour in zip(
        lines.items(), itertools.cycle((BLUE, ORANGE, GREEN, GREY)), strict=False
    ):
        scales = _column(rows, "guidance_scale")
        for ax, (column, _, factor) in zip(axes, shown, strict=True):
            ax.plot(scales, factor * _column(rows, column), "o-", ms=3.5, color=colour, label=name)
        ends = (100 * _column(rows, f"accuracy_{end}") for end in ("low", "high"))
        axes[0].fill_between(scales, *ends, color=colour, alpha=0.15)
    every = [row for rows in lines.values() for row in rows]
    for floor in {str(row["fid_floor"]) for row in every if row["fid_floor"] != ""}:
        axes[1].axhline(float(floor), color=GREY, linestyle=":", lw=1, label="real images")
    axes[1].set_yscale("log")
    axes[2].axhline(1, color=GREY, linestyle=":", lw=1)
    largest = max(float(row["guidance_scale"]) for row in every)
    powers = [2**k for k in range(20) if 2**k <= largest]
    ticks = [0, *(powers if len(powers) < 6 else powers[::2])]
    for ax, (_, what, _) in zip(axes, shown, strict=True):
        ax.set(xlabel=xlabel, ylabel=what, xscale="symlog", xticks=ticks, xlim=(-0.15, 1.15 * largest))
        ax.minorticks_off()
        ax.xaxis.set_major_formatter("{x:g}")
    axes[0].set_ylim(min(axes[0].get_ylim()[0], 95), 101)
    fig.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    return fig, axes


def _column(rows: Sequence[dict], name: str) -> np.ndarray:
    return np.array([math.nan if row[name] == "" else float(row[name]) for row in rows])


def log_steps(ax, steps: Sequence[int]) -> None:
    """A logarithmic axis with a tick at each of these numbers of steps and nowhere else."""
    ax.set(xscale="log", xlabel="steps", xticks=list(steps))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
