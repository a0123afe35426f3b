"""Curves of a sweep: quality against the scale, validity against proximity, flips against their price."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from operator import itemgetter

from classroom.figures.basics import PAGE, ink, level, log_steps
from classroom.figures.curves import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    Row,
    canvas,
    figure,
    named_lines,
    numbers,
)
from lessons_lib.evaluation.task import LETTER

COLOURS = (BLUE, ORANGE, GREEN, GREY, "#762a83")
VALIDITY_LINES = ("method", "guidance", "steps", "num_images", "seed", "weights_sha256")
MEASURES = {"accuracy": ("read right (%)", 100), "fid": ("feature FID", 1), "diversity": ("diversity", 1)}

_scale = itemgetter("guidance_scale")


def sweep_figure(lines: dict[str, Sequence[Row]], xlabel: str, shown: Sequence[str] = tuple(MEASURES)):
    """Some of MEASURES, the FID among them, against the guidance scale: (figure, axes)."""
    fig, axes = figure(PAGE, 2.7, columns=len(shown))
    every = [row for rows in lines.values() for row in rows]
    for ax, column in zip(axes, shown, strict=True):
        words, factor = MEASURES[column]
        for (name, rows), colour in zip(lines.items(), itertools.cycle(COLOURS), strict=False):
            scales = numbers(rows, "guidance_scale")
            ax.plot(scales, factor * numbers(rows, column), "o-", ms=3.5, color=colour, label=name)
            if column == "accuracy":
                ends = (100 * numbers(rows, f"accuracy_{end}") for end in ("low", "high"))
                ax.fill_between(scales, *ends, color=colour, alpha=0.15)
        ax.set_title(words, loc="left")
        if column == "accuracy":
            ax.set_ylim(min(ax.get_ylim()[0], 95), 101)
        elif column == "fid":
            for floor in {row["fid_floor"] for row in every} - {""}:
                ax.axhline(floor, color=GREY, linestyle=":", lw=1.2, label="real images")
            low, high = min(ax.get_ylim()[0], 0.05), ax.get_ylim()[1]
            ticks = [tick for tick in (0.03, 0.1, 0.3, 1, 3, 10) if low <= tick <= high]
            ax.set(yscale="log", yticks=ticks)
        else:
            ax.axhline(1, color=GREY, linestyle=":", lw=1.2)
        _scale_axis(ax, sorted(set(map(_scale, every))), xlabel)
    labelled = axes[list(shown).index("fid")].get_legend_handles_labels()
    fig.legend(*labelled, loc="outside lower center", ncols=4)
    return fig, axes


def _scale_axis(ax, scales: Sequence[float], xlabel: str) -> None:
    """Powers of two from the smallest scale to the largest; between 0 and 1 it is linear."""
    powers = [2**k for k in range(20) if scales[0] <= 2**k <= scales[-1]]
    ticks = ([0] if scales[0] == 0 else []) + (powers if len(powers) < 6 else powers[::2])
    ax.set_xscale("symlog", linthresh=1, linscale=0.6)
    first = -0.15 if scales[0] == 0 else 0.9 * scales[0]
    ax.set(xlabel=xlabel, xticks=ticks, xlim=(first, 1.15 * scales[-1]))
    ax.minorticks_off()
    ax.xaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_major_formatter("{x:g}")


def validity_lines(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The lines of a sweep of counterfactuals: of each method one along the scale and one along the depth.

    The first is at the greatest depth, the second at the scale that has most depths, if there are several
    the middle one.
    """
    lines = {}
    for name, group in named_lines(rows, VALIDITY_LINES).items():
        letter = LETTER.get(group[0]["guidance"], "scale")
        depths = {_depth(row) for row in group}
        at_depth = [row for row in group if _depth(row) == max(depths)]
        if len(at_depth) > 1 or len(depths) == 1:
            lines[f"{name}, {letter} {_span(at_depth, _scale)}"] = at_depth
        scales = sorted(statistics.multimode(map(_scale, group)))
        scale = scales[len(scales) // 2]
        at_scale = sorted((row for row in group if _scale(row) == scale), key=_depth)
        if len(at_scale) > 1:
            lines[f"{name}, {letter} {scale:g}, depth {_span(at_scale, _depth)}"] = at_scale
    return lines


def _depth(row: Row) -> float:
    return -1.0 if row["depth"] == "" else row["depth"]  # same noise starts at the top, and has none


def _span(rows: Sequence[Row], value: Callable) -> str:
    low, high = value(rows[0]), value(rows[-1])
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def validity_proximity_figure(lines: dict[str, Sequence[Row]]):
    """The share read as the target against the L1 distance to the source: (figure, axes).

    A line along the scale is solid, one along the depth dashed; each method and guidance has its colour. At
    each point below 99% stands its scale (w or s) or its depth (t), the bar is the 95% interval of the share.
    """
    fig, ax = figure(PAGE, 5.2)
    every = [row for rows in lines.values() for row in rows]
    colours = dict(zip(dict.fromkeys(map(_kind, every)), itertools.cycle(COLOURS), strict=False))
    taken: list[tuple[float, float]] = []  # where labels stand
    for name, rows in lines.items():
        colour, along_depth = colours[_kind(rows[0])], len({_depth(row) for row in rows}) > 1
        ends = [[100 * abs(row[end] - row["effectiveness"]) for row in rows]
                for end in ("effectiveness_low", "effectiveness_high")]  # fmt: skip
        style = {"ls": "--", "mfc": "white"} if along_depth else {"ls": "-"}
        style |= {"marker": "o", "ms": 4.5, "lw": 1.5, "elinewidth": 0.5, "color": colour}
        ax.errorbar(*zip(*map(_place, rows), strict=True), ends, label=name, **style)
        _label_points(ax, rows, along_depth, taken, max(_place(row)[0] for row in every), colour)
    lowest = min(_place(row)[1] for row in every)
    ax.set(xlim=(0, None), ylim=(max(0, lowest - 0.12 * (100 - lowest) - 1), 104))
    ax.set(xlabel="L1 to the source, in [0, 1] pixels (less is changed)", ylabel="read as the target (%)")
    ax.axhline(100, color=GREY, linestyle=":", lw=1, zorder=0)
    arrow = {"arrowstyle": "-|>", "color": GREY}
    ax.annotate("", (0.015, 0.955), (0.075, 0.85), "axes fraction", arrowprops=arrow)
    ax.text(0.08, 0.83, "better", transform=ax.transAxes, color=ink(GREY), fontsize=9, style="italic")
    fig.legend(loc="outside lower center", ncols=2, fontsize=8.5)
    return fig, ax


def _label_points(
    ax, rows: Sequence[Row], along_depth: bool, taken: list, widest: float, colour: str
) -> None:
    """The depth above its points, the scale below: the two kinds of line often share a point."""
    offset, side = ((-5, 3), -1) if along_depth else ((5, -8), 1)
    for row in rows:
        x, y = _place(row)
        here = x + side * 0.035 * widest, y - side * 1.5
        near = any(abs(here[0] - x) < 0.075 * widest and abs(here[1] - y) < 3.5 for x, y in taken)
        if y >= 99 or near:  # where they crowd nothing can be read, and the first ones keep their labels
            continue
        taken.append(here)
        text = f"t {_depth(row):g}" if along_depth else f"{LETTER.get(row['guidance'], '')} {_scale(row):g}"
        look = {"textcoords": "offset points", "color": ink(colour), "fontsize": 8}
        ax.annotate(text, (x, y), offset, ha="right" if along_depth else "left", **look)


def _kind(row: Row) -> tuple[str, str]:
    return row["method"], row["guidance"]


def _place(row: Row) -> tuple[float, float]:
    return row["l1"], 100 * row["effectiveness"]


def face_sweep_figure(rows: Sequence[Row]):
    """A sweep of faces: flips against the pixels that changed, and against the other attributes.

    Returns figure and its two axes. A line a depth, of each attribute; at each point stands its scale.
    """
    fig, axes = figure(PAGE, 3.4, columns=2, sharey=True)
    rows = sorted(rows, key=itemgetter("attribute", "depth", "guidance_scale"))
    lines = itertools.groupby(rows, key=itemgetter("attribute", "depth"))
    several = len({row["attribute"] for row in rows}) > 1
    # The scales of every other line stand on its other side.
    sides = itertools.cycle([((-6, 1), "right"), ((6, -8), "left")])
    for ((attribute, depth), line), colour, (offset, side) in zip(
        lines, itertools.cycle(COLOURS), sides, strict=False
    ):
        line = list(line)
        label = f"{attribute}, depth {depth:g}" if several else f"depth {depth:g}"
        y = 100 * numbers(line, "flipped")
        for ax, column, factor in zip(axes, ("l1", "mean_drift"), (1, 100), strict=True):
            x = factor * numbers(line, column)
            ax.plot(x, y, "o-", ms=4, color=colour, label=label)
            for row, place in zip(line, zip(x, y, strict=True), strict=True):
                look = {"textcoords": "offset points", "fontsize": 8, "color": ink(colour), "ha": side}
                ax.annotate(f"s = {_scale(row):g}", place, offset, **look)
    axes[0].set(xlabel="mean change of a pixel (0 to 1)", ylabel="read as asked (%)", ylim=(-6, 104))
    axes[1].set(xlabel="mean drift of the other\nattributes (points)")
    for ax in axes:
        ax.margins(x=0.25)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return fig, axes


WAYS = {  # of drawing, in a table of steps
    "ddpm": ("DDPM", GREY),
    "ddim": ("DDIM", BLUE),
    "dpmpp_2m": ("DPM-Solver++(2M)", GREEN),
    "mnist-flow-map": ("the flow map", ORANGE),
}


def steps_figure(rows: Sequence[Row], guidance_scale: float):
    """FID, variety, the share read right against the steps, and the FID against time: (figure, its axes).

    What was not measured yet is left out, the time's panel too.
    """
    rows = sorted((row for row in rows if row["guidance_scale"] == guidance_scale), key=itemgetter("steps"))
    shown = {
        ("steps", "fid"): "feature FID",
        ("steps", "diversity"): "variety",
        ("steps", "accuracy"): "read right (%)",
        ("milliseconds", "fid"): "FID against time",
    }
    shown = {names: title for names, title in shown.items() if any(row[names[0]] != "" for row in rows)}
    fig = canvas(PAGE, 4.9 if len(shown) == 4 else 2.6, "constrained")
    axes = fig.subplots(*((2, 2) if len(shown) == 4 else (1, 3))).flatten()
    for ax, ((x, y), title) in zip(axes, shown.items(), strict=True):
        for way, (name, colour) in WAYS.items():
            if line := [row for row in rows if row["way"] == way]:
                factor, width = 100 if y == "accuracy" else 1, 2.6 if way == "mnist-flow-map" else 1.5
                look = {"ms": 4, "color": colour, "label": name, "lw": width}
                ax.plot(numbers(line, x), factor * numbers(line, y), "o-", **look)
        log_steps(ax, (1, 2, 4, 10, 32) if x == "steps" else (10, 30, 100, 300))
        ax.set_title(title, loc="left")
        ax.grid(visible=True)
        if y == "fid":
            ax.set(yscale="log")
            level(ax, rows[0]["fid_floor"], "real digits", left=x == "steps")
            low, high = ax.get_ylim()
            ax.set(yticks=[tick for tick in (0.03, 0.1, 0.3, 1, 3, 10, 30) if low <= tick <= high])
            ax.minorticks_off()
            ax.yaxis.set_major_formatter("{x:g}")
        elif y == "diversity":
            level(ax, 1, "real digits")
        if x == "milliseconds":
            ax.set(xlabel="milliseconds a digit")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return fig, axes
