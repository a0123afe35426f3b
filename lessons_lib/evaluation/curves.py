"""Tables of measured results, and their curves: against the scale, and validity against proximity."""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

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


COLOURS = (BLUE, ORANGE, GREEN, GREY, "#762a83")
ENDS = ("effectiveness_low", "effectiveness_high")
SETTINGS = ("method", "guidance", "steps", "num_images", "seed", "weights_sha256")
SHOWN = {"steps": "{} steps", "num_images": "{} images", "seed": "seed {}"}
LETTER = {"cfg": "w", "classifier": "s"}  # of a guidance scale


def validity_lines(rows: Sequence[dict]) -> dict[str, list[dict]]:
    """The lines of a sweep's table: for each method one along the scale and one along the depth.

    The first is at the greatest depth, the second at the scale that has most depths, if there are several
    the middle one.

    Args:
        rows: of `evaluate counterfactuals --sweep`, texts or numbers.

    Returns:
        name -> rows, sorted by what varies along the line.
    """
    found = {}
    for name, mine in named_lines(rows, SETTINGS, SHOWN).items():
        letter = LETTER.get(mine[0]["guidance"], "scale")
        depths = sorted({_depth(row) for row in mine})
        at_depth = sorted((row for row in mine if _depth(row) == depths[-1]), key=_scale)
        if len(at_depth) > 1 or len(depths) == 1:
            found[f"{name}, {letter} {_span(at_depth, _scale)}"] = at_depth
        scale = _middle([_scale(row) for row in mine])
        at_scale = sorted((row for row in mine if _scale(row) == scale), key=_depth)
        if len(at_scale) > 1:
            found[f"{name}, {letter} {scale:g}, depth {_span(at_scale, _depth)}"] = at_scale
    return found


def validity_proximity_figure(lines: dict[str, Sequence[dict]], others: Sequence[dict] = ()):
    """The share read as the target against the L1 distance to the source: (figure, axes).

    A line along the scale is solid, one along the depth dashed; each method and guidance has its colour. At
    each point stands its scale (w or s) or its depth (t), the bar is the 95% interval of the share.

    Args:
        lines: name -> rows of a sweep's table, texts or numbers, in the order of what varies.
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
        x, y = zip(*map(_place, rows), strict=True)
        ends = [[100 * abs(float(row[end]) - float(row["effectiveness"])) for row in rows] for end in ENDS]
        style = {"ls": "--", "mfc": "white"} if along_depth else {"ls": "-"}
        ax.errorbar(x, y, ends, marker="o", ms=4, lw=1.4, elinewidth=0.6, color=colour, label=name, **style)
        for row, place in zip(rows, zip(x, y, strict=True), strict=True):
            text, offset = _label(row, along_depth)
            if not _has_room(place, taken[along_depth], max(_place(one)[0] for one in every)):
                continue
            where = {"textcoords": "offset points", "ha": "left" if offset[0] > 0 else "right"}
            ax.annotate(text, place, offset, color=colour, fontsize=7, **where)
    lowest = min(_place(row)[1] for row in every)
    ax.set(xlim=(0, None), ylim=(max(0, lowest - 0.12 * (100 - lowest) - 1), 104))
    ax.set(xlabel="L1 to the source, in [0, 1] pixels (less is changed)", ylabel="read as the target (%)")
    ax.axhline(100, color=GREY, linestyle=":", lw=1, zorder=0)
    arrow = {"arrowstyle": "-|>", "color": GREY}
    ax.annotate("", (0.015, 0.955), (0.075, 0.85), "axes fraction", arrowprops=arrow)
    ax.text(0.08, 0.83, "better", transform=ax.transAxes, color=GREY, fontsize=9, style="italic")
    fig.legend(loc="outside lower center", ncols=2, fontsize=8)
    return fig, ax


def _label(row: dict, along_depth: bool) -> tuple[str, tuple[int, int]]:
    """What varies, and where it stands: the two kinds of line often share a point."""
    if along_depth:
        return f"t {_depth(row):g}", (-5, 4)
    return f"{LETTER.get(row['guidance'], '')} {_scale(row):g}", (5, -9)


def _has_room(place: tuple[float, float], taken: list[tuple[float, float]], widest: float) -> bool:
    """Whether a label fits here; where methods crowd at 100% the first ones keep theirs."""
    if any(abs(place[0] - x) < 0.05 * widest and abs(place[1] - y) < 4 for x, y in taken):
        return False
    taken.append(place)
    return True


def _kind(row: dict) -> tuple[str, str]:
    return row["method"], row["guidance"]


def _place(row: dict) -> tuple[float, float]:
    return float(row["l1"]), 100 * float(row["effectiveness"])


def _scale(row: dict) -> float:
    return float(row["guidance_scale"])


def _depth(row: dict) -> float:
    return -1.0 if row["depth"] == "" else float(row["depth"])  # same noise starts at the top, and has none


def _middle(values: list[float]) -> float:
    """The most frequent value; of several the middle one."""
    most = max(map(values.count, values))
    often = sorted({value for value in values if values.count(value) == most})
    return often[len(often) // 2]


def _span(rows: Sequence[dict], of) -> str:
    low, high = of(rows[0]), of(rows[-1])
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def face_sweep_figure(rows: Sequence[dict]):
    """A sweep of counterfactuals: flips against the pixels that changed, and against the other attributes.

    Args:
        rows: of `evaluate celeba --sweep`, texts or numbers.

    Returns:
        figure and its two axes. A line a depth, of each attribute; at each point stands its scale.
    """
    fig, axes = figure(8.0, 3.4, columns=2, sharey=True)
    lines = itertools.groupby(sorted(rows, key=_face_place), key=lambda row: _face_place(row)[:2])
    several = len({row["attribute"] for row in rows}) > 1
    for ((attribute, depth), mine), colour in zip(lines, itertools.cycle(COLOURS), strict=False):
        mine = list(mine)
        label = f"{attribute}, depth {depth:g}" if several else f"depth {depth:g}"
        y = [100 * float(row["flipped"]) for row in mine]
        for ax, column in zip(axes, ("l1", "mean_drift"), strict=True):
            x = [float(row[column]) * (100 if column == "mean_drift" else 1) for row in mine]
            ax.plot(x, y, "o-", ms=4, color=colour, label=label)
            for row, place in zip(mine, zip(x, y, strict=True), strict=True):
                text = f"s={float(row['guidance_scale']):g}"
                ax.annotate(text, place, (4, -9), textcoords="offset points", fontsize=7, color=colour)
    axes[0].set(xlabel="mean absolute change, in [0, 1] pixels", ylabel="read as asked (%)", ylim=(-4, 104))
    axes[1].set(xlabel="mean drift of the other attributes (points)")
    axes[1].legend(fontsize=8)
    return fig, axes


def _face_place(row: dict) -> tuple[str, float, float]:
    return row["attribute"], float(row["depth"]), float(row["guidance_scale"])
