"""Points on their way from noise to data, and the two paths between a picture and noise."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from torch import Tensor

from classroom.figures.basics import DATA, ESTIMATE, PAGE, ink
from classroom.figures.curves import GREEN, GREY, figure
from lessons_lib.images import gif_bytes

MARKED = 14  # points of a film whose way is drawn
COLOURS = 24  # of a film, soft edges included


def points_row(ends: Mapping[str, Tensor], paths: Mapping[str, Tensor] | None = None, reach: float = 2.2):
    """A panel for each entry: its points [N, 2] and, if there are any, lines [K, n, 2] to some of them."""
    fig, axes = figure(PAGE, min(0.45 + 5.9 / len(ends), 2.8), columns=len(ends), sharey=True)
    for ax, (name, points) in zip(axes, ends.items(), strict=True):
        for line in (paths or {}).get(name, points[:0, None]).unbind(1):
            ax.plot(*line.T, color=GREY, lw=0.7)
        ax.scatter(*points.T, s=4, color=ESTIMATE, zorder=3)
        _plain(ax, name, reach)
    return fig


def paths_film(paths: Mapping[str, Tensor], reach: float = 2.4, every: int = 3) -> bytes:
    """A GIF with a panel for each entry, states [K, N, 2]; the ways of some points are drawn as they go."""
    from PIL import Image

    frames, count = [], min(map(len, paths.values()))
    for k in [*range(0, count - 1, every), count - 1]:
        fig, axes = figure(PAGE, 3.3, columns=len(paths), sharey=True)
        for ax, (name, states) in zip(axes, paths.items(), strict=True):
            for line in states[: k + 1, :MARKED].unbind(1):
                ax.plot(*line.T, color=ESTIMATE, lw=1)
            ax.scatter(*states[k, MARKED:].T, s=6, color=GREY)
            ax.scatter(*states[k, :MARKED].T, s=18, color=DATA, zorder=3)
            _plain(ax, name, reach)
        fig.canvas.draw()
        frames.append(Image.fromarray(np.asarray(fig.canvas.buffer_rgba())[..., :3]))
    colours = frames[-1].quantize(COLOURS)
    same = [frame.quantize(palette=colours, dither=Image.Dither.NONE) for frame in frames]
    return gif_bytes([np.asarray(frame.convert("RGB")) for frame in same])


def arc_and_chord(angle: float = 0.32 * math.pi):
    """The course's path between x_0 and noise, a quarter of a circle, and flow matching's, its chord."""
    fig, ax = figure(4.4, 3.7)
    turn = np.linspace(0, math.pi / 2, 91)
    ax.plot(np.cos(turn), np.sin(turn), color=ESTIMATE, label="the course: circle")
    ax.plot([1, 0], [0, 1], color=GREEN, label="flow matching: chord")
    a, b = math.cos(angle), math.sin(angle)
    ax.plot([0, 1.2 * a], [0, 1.2 * b], ":", color=GREY, lw=1.2)
    chord = (a / (a + b), b / (a + b))
    for (x, y), (dx, dy), name, colour, side in (
        ((a, b), (-b, a), "v", ESTIMATE, (2, 8)),
        (chord, (-1, 1), "velocity", GREEN, (-4, -16)),
    ):
        end = (x + 0.3 * dx, y + 0.3 * dy)
        ax.plot(x, y, "o", color=colour, ms=7)
        arrow = {"arrowstyle": "-|>", "lw": 2, "mutation_scale": 15, "color": colour, "shrinkA": 0}
        ax.annotate("", end, (x, y), arrowprops=arrow)
        ax.annotate(name, end, side, textcoords="offset points", ha="right", color=ink(colour))
    ax.annotate("$x_0$: the picture", (1, 0), (6, 8), textcoords="offset points")
    ax.annotate(r"$\epsilon$: noise", (0, 1), (-4, 8), textcoords="offset points", ha="right")
    ax.set(xlabel="share of $x_0$", ylabel=r"share of $\epsilon$", xlim=(-0.3, 1.6), ylim=(0, 1.25))
    ax.set(aspect="equal", xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    ax.legend(loc="upper right")
    return fig


def _plain(ax, title: str, reach: float) -> None:
    """A square panel without numbers: only where the points lie counts."""
    ax.set(title=title, xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=(), yticks=())
