"""Validity against proximity: what a counterfactual costs, for every method, scale and depth."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from lessons_lib.viz.figures import BLUE, GREEN, GREY, ORANGE, figure, named_lines

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
