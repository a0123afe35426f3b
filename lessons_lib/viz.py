"""Figures, grids of images and GIFs. Everything here takes images in [-1, 1] and shows them in [0, 1]."""

from __future__ import annotations

import base64
import csv
import html
import io
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lessons_lib.data import to_unit
from lessons_lib.files import atomic_write


def to_grid(images: Tensor, columns: int = 10, scale: int = 1, gap: int = 2) -> np.ndarray:
    """Tile images into one picture.

    Args:
        images: [N, C, H, W] in [-1, 1].
        columns: images in a row.
        scale: each pixel becomes scale × scale.
        gap: grey pixels between images, before scaling.

    Returns:
        [rows, columns, 3] uint8.
    """
    from torchvision.utils import make_grid

    grid = make_grid(to_unit(images.float()), nrow=columns, padding=gap, pad_value=0.6)
    if gap and len(images) > 1:  # the frame around the whole grid says nothing; one image gets none
        grid = grid[:, gap:-gap, gap:-gap]
    pixels = (grid * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return pixels.repeat(scale, axis=0).repeat(scale, axis=1)


def to_pixels(image: Tensor, scale: int = 1) -> np.ndarray:
    """One image [C, H, W] in [-1, 1] -> [H, W, 3] uint8, each pixel scale × scale.

    Without torchvision, whose import takes longer than a panel's first picture may.
    """
    pixels = (to_unit(image.float()) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    pixels = pixels.repeat(3, axis=2) if pixels.shape[2] == 1 else pixels
    return pixels.repeat(scale, axis=0).repeat(scale, axis=1)


def png_bytes(pixels: np.ndarray) -> bytes:
    """[H, W, 3] uint8 -> the bytes of a PNG file."""
    import imageio.v3 as iio

    return iio.imwrite("<bytes>", pixels, extension=".png")


def save_png(path: str | Path, pixels: np.ndarray) -> None:
    """Write [H, W, 3] uint8 as a PNG, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(png_bytes(pixels))


def gif_bytes(
    frames: Sequence[np.ndarray], seconds: float = 3.0, hold: float = 1.5, shades: int = 16
) -> bytes:
    """An endless GIF.

    Args:
        frames: each [H, W, 3] uint8.
        seconds: for all frames but the last, which stays for `hold` seconds.
        shades: of grey frames; noise in 16 takes a quarter of the bytes of noise in 256, and looks the same.
    """
    import imageio.v3 as iio

    # GIF viewers slow down frames that are faster than 1/50 s.
    each = max(20, round(1000 * seconds / max(len(frames) - 1, 1)))
    durations = [each] * (len(frames) - 1) + [round(1000 * hold)]
    stack = np.stack(frames)
    if (stack == stack[..., :1]).all():
        step = 255 / (shades - 1)
        stack = (np.round(stack[..., 0] / step) * step).astype(np.uint8)
    buffer = io.BytesIO()
    iio.imwrite(buffer, stack, extension=".gif", duration=durations, loop=0)
    return buffer.getvalue()


def denoising_frames(states: Iterable[Tensor], columns: int = 10, scale: int = 2) -> list[np.ndarray]:
    """One frame for each state x_t [N, C, H, W] of a sampler."""
    return [to_grid(state, columns, scale) for state in states]


def save_gif(path: str | Path, frames: Sequence[np.ndarray], seconds: float = 3.0) -> None:
    """Write a GIF, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(gif_bytes(frames, seconds))


# -- figures for the lessons -----------------------------------------------------------------------------

GIF_ZOOM = 2  # shown so many times as large as stored: noise does not compress
BLUE, ORANGE, GREEN, GREY = "#2166ac", "#d6604d", "#1b7837", "#666666"


def _canvas(width: float, height: float, layout: str | None = None):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fig = Figure(figsize=(width, height), layout=layout, dpi=110)
    FigureCanvasAgg(fig)
    return fig


def figure(width: float = 7.0, height: float = 2.8, columns: int = 1, **options):
    """A matplotlib figure in the course's style, outside pyplot's register: returns (figure, axes)."""
    fig = _canvas(width, height, "constrained")
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
    margin = 0.25 + 0.07 * max(len(name) for name in rows)  # for the names, in inches
    top = 0.1 + 0.17 * max([str(title).count("\n") + 1 for title in titles], default=0)
    top += 0.25 if title else 0
    fig = _canvas(size * count + margin, size * len(rows) + top)
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


def add_share(ax, x: float, value: float, interval: tuple[float, float], label: str = "yours") -> None:
    """A share in [0, 1] with its interval, as a black square in percent."""
    below, above = 100 * (value - interval[0]), 100 * (interval[1] - value)
    ax.errorbar([x], [100 * value], [[below], [above]], fmt="ks", capsize=4, label=label)


def log_steps(ax, steps: Sequence[int]) -> None:
    """A logarithmic axis with a tick at each of these numbers of steps and nowhere else."""
    ax.set(xscale="log", xlabel="steps", xticks=list(steps))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
