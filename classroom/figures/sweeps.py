"""Curves of a sweep: quality against the scale, validity against proximity, flips against their price."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from operator import itemgetter

from lessons_lib.evaluation.curves import BLUE, GREEN, GREY, LETTER, ORANGE, Row, figure, named_lines, numbers

COLOURS = (BLUE, ORANGE, GREEN, GREY, "#762a83")
VALIDITY_LINES = ("method", "guidance", "steps", "num_images", "seed", "weights_sha256")

_scale = itemgetter("guidance_scale")


def sweep_figure(lines: dict[str, Sequence[Row]], xlabel: str = "guidance scale", height: float = 3.0):
    """Accuracy with its interval, feature FID and diversity against the guidance scale: (figure, axes)."""
    fig, axes = figure(9.6, height, columns=3)
    shown = (("accuracy", "read right (%)", 100), ("fid", "feature FID", 1), ("diversity", "diversity", 1))
    for (name, rows), colour in zip(lines.items(), itertools.cycle(COLOURS), strict=False):
        scales = numbers(rows, "guidance_scale")
        for ax, (column, _, factor) in zip(axes, shown, strict=True):
            ax.plot(scales, factor * numbers(rows, column), "o-", ms=3.5, color=colour, label=name)
        ends = (100 * numbers(rows, f"accuracy_{end}") for end in ("low", "high"))
        axes[0].fill_between(scales, *ends, color=colour, alpha=0.15)
    every = [row for rows in lines.values() for row in rows]
    for floor in {row["fid_floor"] for row in every} - {""}:
        axes[1].axhline(floor, color=GREY, linestyle=":", lw=1, label="real images")
    axes[1].set_yscale("log")
    axes[2].axhline(1, color=GREY, linestyle=":", lw=1)
    largest = max(map(_scale, every))
    powers = [2**k for k in range(20) if 2**k <= largest]
    ticks = [0, *(powers if len(powers) < 6 else powers[::2])]
    for ax, (_, what, _) in zip(axes, shown, strict=True):
        ax.set(xlabel=xlabel, ylabel=what, xscale="symlog", xticks=ticks, xlim=(-0.15, 1.15 * largest))
        ax.minorticks_off()
        ax.xaxis.set_major_formatter("{x:g}")
    axes[0].set_ylim(min(axes[0].get_ylim()[0], 95), 101)
    fig.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    return fig, axes


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


def validity_proximity_figure(lines: dict[str, Sequence[Row]], others: Sequence[Row] = ()):
    """The share read as the target against the L1 distance to the source: (figure, axes).

    A line along the scale is solid, one along the depth dashed; each method and guidance has its colour. At
    each point stands its scale (w or s) or its depth (t), the bar is the 95% interval of the share.

    Args:
        others: more rows, shown as faint dots.
    """
    fig, ax = figure(8.0, 4.6)
    every = [row for rows in lines.values() for row in rows] + list(others)
    colours = dict(zip(dict.fromkeys(map(_kind, every)), itertools.cycle(COLOURS), strict=False))
    for row in others:
        ax.plot(*_place(row), "o", ms=2.5, color=colours[_kind(row)], alpha=0.3, zorder=1)
    taken: dict[bool, list[tuple[float, float]]] = {True: [], False: []}  # the labels above and below points
    for name, rows in lines.items():
        colour, along_depth = colours[_kind(rows[0])], len({_depth(row) for row in rows}) > 1
        ends = [[100 * abs(row[end] - row["effectiveness"]) for row in rows]
                for end in ("effectiveness_low", "effectiveness_high")]  # fmt: skip
        style = {"ls": "--", "mfc": "white"} if along_depth else {"ls": "-"}
        style |= {"marker": "o", "ms": 4, "lw": 1.4, "elinewidth": 0.6, "color": colour}
        ax.errorbar(*zip(*map(_place, rows), strict=True), ends, label=name, **style)
        _label_points(ax, rows, along_depth, taken[along_depth], max(_place(row)[0] for row in every), colour)
    lowest = min(_place(row)[1] for row in every)
    ax.set(xlim=(0, None), ylim=(max(0, lowest - 0.12 * (100 - lowest) - 1), 104))
    ax.set(xlabel="L1 to the source, in [0, 1] pixels (less is changed)", ylabel="read as the target (%)")
    ax.axhline(100, color=GREY, linestyle=":", lw=1, zorder=0)
    arrow = {"arrowstyle": "-|>", "color": GREY}
    ax.annotate("", (0.015, 0.955), (0.075, 0.85), "axes fraction", arrowprops=arrow)
    ax.text(0.08, 0.83, "better", transform=ax.transAxes, color=GREY, fontsize=9, style="italic")
    fig.legend(loc="outside lower center", ncols=2, fontsize=8)
    return fig, ax


def _label_points(
    ax, rows: Sequence[Row], along_depth: bool, taken: list, widest: float, colour: str
) -> None:
    """The depth above its points, the scale below: the two kinds of line often share a point."""
    offset, side = ((-5, 4), "right") if along_depth else ((5, -9), "left")
    for row in rows:
        x, y = _place(row)
        if any(abs(x - other) < 0.05 * widest and abs(y - height) < 4 for other, height in taken):
            continue  # where methods crowd at 100% the first ones keep their labels
        taken.append((x, y))
        text = f"t {_depth(row):g}" if along_depth else f"{LETTER.get(row['guidance'], '')} {_scale(row):g}"
        ax.annotate(text, (x, y), offset, textcoords="offset points", ha=side, color=colour, fontsize=7)


def _kind(row: Row) -> tuple[str, str]:
    return row["method"], row["guidance"]


def _place(row: Row) -> tuple[float, float]:
    return row["l1"], 100 * row["effectiveness"]


def face_sweep_figure(rows: Sequence[Row]):
    """A sweep of faces: flips against the pixels that changed, and against the other attributes.

    Returns figure and its two axes. A line a depth, of each attribute; at each point stands its scale.
    """
    fig, axes = figure(8.0, 3.4, columns=2, sharey=True)
    rows = sorted(rows, key=itemgetter("attribute", "depth", "guidance_scale"))
    lines = itertools.groupby(rows, key=itemgetter("attribute", "depth"))
    several = len({row["attribute"] for row in rows}) > 1
    for ((attribute, depth), line), colour in zip(lines, itertools.cycle(COLOURS), strict=False):
        line = list(line)
        label = f"{attribute}, depth {depth:g}" if several else f"depth {depth:g}"
        y = 100 * numbers(line, "flipped")
        for ax, column, factor in zip(axes, ("l1", "mean_drift"), (1, 100), strict=True):
            x = factor * numbers(line, column)
            ax.plot(x, y, "o-", ms=4, color=colour, label=label)
            for row, place in zip(line, zip(x, y, strict=True), strict=True):
                text = f"s={_scale(row):g}"
                ax.annotate(text, place, (4, -9), textcoords="offset points", fontsize=7, color=colour)
    axes[0].set(xlabel="mean absolute change, in [0, 1] pixels", ylabel="read as asked (%)", ylim=(-4, 104))
    axes[1].set(xlabel="mean drift of the other attributes (points)")
    axes[1].legend(fontsize=8)
    return fig, axes
