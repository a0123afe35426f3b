"""Figures for the lessons, with alternative texts; the small tables of measured results that they show."""

from __future__ import annotations

import base64
import html
import io
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lessons_lib.data import to_unit
from lessons_lib.evaluation.curves import BLUE, GREY, canvas, figure
from lessons_lib.images import png_bytes

GIF_ZOOM = 2  # shown so many times as large as stored: noise does not compress
FEW_COLOURS = 6000  # a plot has hundreds, with faces in it tens of thousands


def show_figure(picture, alt: str, caption: str = "") -> None:
    """Show a picture in a notebook, with a text for those who cannot see it and a caption on what to see.

    Args:
        picture: a matplotlib figure, shown with two pixels for one; pixels [H, W, 3] uint8, or the bytes of a
            PNG or GIF.
    """
    from IPython.display import Markdown, display

    style, kind = "max-width: 100%; height: auto", "png"
    if hasattr(picture, "savefig"):
        content, width = figure_png(picture, 2 * picture.dpi), round(picture.get_figwidth() * picture.dpi)
        style += "; border-radius: 6px"
    else:
        content = png_bytes(picture) if isinstance(picture, np.ndarray) else picture
        width = int.from_bytes(content[16:20], "big")  # where every PNG has it
        if content[:3] == b"GIF":
            width, kind = GIF_ZOOM * int.from_bytes(content[6:8], "little"), "gif"
            style += "; image-rendering: pixelated"
    source = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    # JupyterLab shows an image/png without its alternative text; not every viewer knows image/gif.
    image = f'<img src="{source}" width="{width}" alt="{html.escape(alt)}" style="{style}">'
    display({"text/html": image, "text/plain": f"<picture: {alt}>"}, raw=True)
    if caption:
        display(Markdown(f"*{caption}*"))


def figure_png(fig, dpi: float) -> bytes:
    """A figure as a PNG; one of few colours with a palette, which takes a third."""
    from PIL import Image

    buffer, small = io.BytesIO(), io.BytesIO()
    fig.savefig(buffer, format="png", dpi=dpi)
    picture = Image.open(buffer).convert("RGB")
    if picture.getcolors(FEW_COLOURS) is None:
        return buffer.getvalue()
    picture.quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


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
        alt = f"Loss curve of {len(self.steps)} steps, from {self.losses[0]:.2f} down to {smooth[-1]:.3f}."
        content, width = figure_png(fig, 2 * fig.dpi), round(fig.get_figwidth() * fig.dpi)
        image = Image(content, width=width, metadata={"alt": alt})
        if self.handle is None:
            self.handle = display(image, display_id=True)
        else:
            self.handle.update(image)


def add_share(ax, x: float, value: float, interval: tuple[float, float], label: str = "yours") -> None:
    """A share in [0, 1] with its interval, as a black square in percent."""
    below, above = 100 * (value - interval[0]), 100 * (interval[1] - value)
    ax.errorbar([x], [100 * value], [[below], [above]], fmt="ks", capsize=4, label=label)


def log_steps(ax, steps: Sequence[int]) -> None:
    """A logarithmic axis with a tick at each of these numbers of steps and nowhere else."""
    ax.set(xscale="log", xlabel="steps", xticks=list(steps))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
