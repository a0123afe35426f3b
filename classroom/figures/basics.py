"""Figures for the lessons, with alternative texts; the small tables of measured results that they show."""

from __future__ import annotations

import base64
import html
import io
import itertools
import math
import re
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from classroom.figures.curves import BLUE, FAINT, GREEN, GREY, GROUND, INK, ORANGE, canvas, figure
from lessons_lib.data import to_unit
from lessons_lib.images import difference_maps, png_bytes

DATA, ESTIMATE, GUIDANCE = ORANGE, BLUE, GREEN  # and noise is grey: what a colour means where these meet
GIF_ZOOM = 2  # shown so many times as large as stored: noise does not compress
SCREEN = 110  # pixels an inch, as every figure has them
PAGE = 6.2  # inches: a page's column shows it unshrunk, so that words keep their size
BETWEEN = 4  # screen pixels between pictures
FEW_COLOURS = 6000  # a plot has hundreds, with faces in it tens of thousands


def show_figure(picture, alt: str, caption: str = "", zoom: int = GIF_ZOOM) -> None:
    """Show a picture in a notebook, with a text for those who cannot see it and a caption on what to see.

    Args:
        picture: a matplotlib figure, shown with two pixels for one; pixels [H, W, 3] uint8, or the bytes of a
            PNG or GIF.
        zoom: of a GIF; 1 for one of plots.
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
            width, kind = zoom * int.from_bytes(content[6:8], "little"), "gif"
            style += "; image-rendering: pixelated" if zoom > 1 else ""
    source = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    # JupyterLab shows an image/png without its alternative text; not every viewer knows image/gif.
    image = f'<img src="{source}" width="{width}" alt="{html.escape(alt)}" style="{style}">'
    display({"text/html": image, "text/plain": f"<picture: {alt}>"}, raw=True)
    if caption:
        display(Markdown(f"*{caption}*"))


def picture_of(fig, dpi: float):
    """A figure as a Pillow image."""
    from PIL import Image

    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=dpi)
    return Image.open(buffer).convert("RGB")


def figure_png(fig, dpi: float) -> bytes:
    """A figure as a PNG; one of few colours with a palette, which takes a third."""
    from PIL import Image

    picture, buffer = picture_of(fig, dpi), io.BytesIO()
    if picture.getcolors(FEW_COLOURS) is not None:
        picture = picture.quantize(256, dither=Image.Dither.NONE)
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def film_png(pictures: Sequence, colours: Sequence[str]) -> bytes:
    """Pillow images as a PNG that moves, in shades of these colours; where it cannot, the last of them."""
    from matplotlib.colors import to_rgb
    from PIL import Image

    ground, shades = np.array(to_rgb(GROUND)), np.linspace(1, 0, 4)[:3]
    full = [np.array(to_rgb(colour)) for colour in (*colours, ESTIMATE, INK, FAINT)]
    table = [ground, *(ground + part * (colour - ground) for colour in full for part in shades)]
    palette, buffer = Image.new("P", (1, 1)), io.BytesIO()
    palette.putpalette((255 * np.array(table)).round().astype(np.uint8).tobytes())
    last, *frames = [
        picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in (pictures[-1], *pictures)
    ]
    times = [100] * (len(frames) - 1) + [1600]  # ms
    last.save(buffer, "PNG", save_all=True, append_images=frames, default_image=True, duration=times, loop=0)
    return buffer.getvalue()


def image_row(
    rows: dict[str, Tensor],
    titles: Sequence[str] = (),
    size: float = 1.0,
    title: str = "",
    misread: Tensor | None = None,
):
    """A figure with one row of images for each entry, at most as wide as a page.

    Args:
        rows: name -> [N, C, H, W] in [-1, 1].
        titles: N column titles.
        size: inches for an image, where they fit.
        title: above the whole.
        misread: [rows, N] bool; these get a dashed frame and a cross.
    """
    count = max(len(images) for images in rows.values())
    height, width = next(iter(rows.values())).shape[-2:]
    left, over = 6 + _width(rows), _width(titles)  # all of it in screen pixels
    top = 6 + 17 * max([str(one).count("\n") + 1 for one in titles], default=0) + (22 if title else 0)
    room = (PAGE * SCREEN - left - 4) / count - BETWEEN
    side = min(size * SCREEN, room)
    side = max(1, side // (width / 4)) * (width / 4)  # pixels of nearly the same size
    tall = side * height / width
    wide = max(left + count * (side + BETWEEN) + max(4, (over - side) / 2), _width([title]))
    fig = canvas(math.ceil(wide) / SCREEN, math.ceil(top + len(rows) * (tall + BETWEEN)) / SCREEN)
    ax = fig.add_axes((0, 0, 1, 1))
    ax.axis("off")
    ax.text(wide / 2, 4, title, ha="center", va="top", fontsize=9)
    for k, words in enumerate(titles):
        x = left + k * (side + BETWEEN) + side / 2
        ax.text(x, top - 5, words, ha="center", va="bottom", fontsize=8.5, linespacing=1.1)
    for j, (name, images) in enumerate(rows.items()):
        y = top + j * (tall + BETWEEN)
        ax.text(left - 7, y + tall / 2, name, ha="right", va="center", fontsize=9)
        for k, image in enumerate(images):
            wrong = misread is not None and bool(misread[j][k])
            _draw_picture(ax, image, (left + k * (side + BETWEEN), y), (side, tall), wrong)
    ax.set(xlim=(0, fig.get_figwidth() * SCREEN), ylim=(fig.get_figheight() * SCREEN, 0))
    return fig


def with_changes(rows: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Two rows for `image_row` for each entry: a source and what became of it, and where that differs.

    rows: name -> source [C, H, W] and images [N, C, H, W] in [-1, 1]; orange came, blue went.
    """
    found = {}
    for name, (source, images) in rows.items():
        row = found[name] = torch.cat([source[None], images])
        found[f"{name}:\nchanges"] = difference_maps(row, source[None])
    return found


def _width(words) -> float:
    """The screen pixels of the longest line."""
    lines = [line for one in words for line in re.sub(r"\\[a-z]+|[$\\{}_]", "", str(one)).split("\n")]
    longest = max((len(line) + 0.4 * sum(map(str.isupper, line)) for line in lines), default=0)
    return 10 + 7.7 * longest if longest else 0


def _draw_picture(ax, image: Tensor, place, size, wrong: bool) -> None:
    """An image [C, H, W] in [-1, 1] with its upper left corner at a place."""
    from matplotlib.patches import Rectangle

    (x, y), (side, tall) = place, size
    pixels = to_unit(image.float()).permute(1, 2, 0).cpu().numpy()
    # 32 shades of a colour look the same and make half of the PNG.
    pixels = pixels.squeeze(-1) if pixels.shape[-1] == 1 else np.round(31 * pixels) / 31
    look = {"cmap": "gray", "vmin": 0, "vmax": 1, "interpolation": "nearest", "aspect": "auto"}
    ax.imshow(pixels, extent=(x, x + side, y + tall, y), **look)
    ax.add_patch(Rectangle(place, side, tall, fill=False, ec=FAINT, lw=0.5))
    if wrong:
        inside = (x + 1.5, y + 1.5), side - 3, tall - 3
        ax.add_patch(Rectangle(*inside, fill=False, ec=ORANGE, lw=1.5, ls=(0, (3, 1.5))))
        ax.plot(x + side - 8, y + 8, "X", ms=6.5, color=ORANGE, mec="white", mew=0.8)


def arrow_field(ax, points: Tensor, arrows: Tensor, color: str = ESTIMATE, longest: float = 0.35) -> None:
    """Draw arrows [N, 2] at points [N, 2]; long ones are shortened so that directions stay readable."""
    length = arrows.norm(dim=1, keepdim=True)
    shown = arrows / length.clamp(min=1e-9) * longest * torch.tanh(length)
    # Widths in inches: as wide in a small panel as in a large one.
    look = {"angles": "xy", "scale_units": "xy", "scale": 1, "units": "inches", "width": 0.012}
    ax.quiver(*points.T, *shown.T, color=color, **look)
    ax.grid(visible=False)
    ax.set_aspect("equal")


def ink(colour: str) -> tuple[float, float, float]:
    """A line's colour, darker: as text it has a contrast of at least 4.5 on a figure's ground."""
    from matplotlib.colors import to_rgb

    return tuple(0.78 * part for part in to_rgb(colour))


def label_ends(ax) -> None:
    """Write each line's label beside its right end, in place of a legend; set the axes' limits before."""
    ends = []
    for line in (line for line in ax.lines if not line.get_label().startswith("_")):
        path = ax.transAxes.inverted().transform(ax.transData.transform(line.get_xydata()))
        ends.append([*path[path[:, 0].argmax()], line])
    gap = 0.22 / ax.figure.get_figheight()  # of the axes' height: labels that would touch move apart
    ends.sort(key=lambda end: end[1])
    for before, end in itertools.pairwise(ends):
        end[1] = max(end[1], before[1] + gap)
    for x, y, line in ends:
        look = {"textcoords": "offset points", "va": "center", "color": ink(line.get_color())}
        ax.annotate(line.get_label(), (x, y), (6, 0), "axes fraction", fontsize=9, **look)


def level(ax, height: float, words: str, left: bool = False) -> None:
    """A dotted line to compare with, its name above its right or left end."""
    ax.axhline(height, color=GREY, lw=1, ls=":", zorder=0)
    look = {"ha": "left" if left else "right", "va": "bottom", "color": ink(GREY), "fontsize": 8.5}
    place = (0.01 if left else 0.99, height)
    ax.annotate(words, place, (0, 1), ("axes fraction", "data"), textcoords="offset points", **look)


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
        fig, ax = figure(PAGE, 2.3)
        ax.plot(self.steps, self.losses, color=GREY, alpha=0.35, lw=0.8, label="each step")
        window = max(1, len(self.losses) // 20)
        smooth = np.convolve(self.losses, np.ones(window) / window, mode="valid")
        ax.plot(self.steps[window - 1 :], smooth, color=ESTIMATE, label="mean")
        ax.set(xlabel="training step", ylabel="loss", ylim=(0, min(1.1, max(self.losses) * 1.05)))
        ax.legend(fontsize=8.5)
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
    """A share in [0, 1] with its interval, as a black square in percent, named beside its lower end."""
    below, above = 100 * (value - interval[0]), 100 * (interval[1] - value)
    ax.errorbar([x], [100 * value], [[below], [above]], fmt="ks", ms=4.5, capsize=3, lw=1.3)
    look = {"textcoords": "offset points", "fontsize": 8.5, "va": "top"}
    ax.annotate(label, (x, 100 * interval[0]), (4, 0), **look)


def log_steps(ax, steps: Sequence[int]) -> None:
    """A logarithmic axis with a tick at each of these numbers of steps and nowhere else."""
    ax.set(xscale="log", xlabel="steps", xticks=list(steps))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
