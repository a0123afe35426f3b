"""What an attribute's guidance does to faces: what else changed, and what more of it costs."""

from __future__ import annotations

from collections.abc import Mapping

from classroom.figures.basics import PAGE
from classroom.figures.curves import BLUE, GREY, ORANGE, figure

SHOWN = 12


def drift_figure(drifts: Mapping[str, Mapping[str, dict]]):
    """The twelve attributes that moved most in the first series, as bars: (figure, axes).

    Args:
        drifts: for each of two series, such as "guided to yes": attribute -> {"mean", "interval_95"}, the
            mean change of the probability and its interval.
    """
    first = next(iter(drifts.values()))
    names = sorted(first, key=lambda name: -abs(first[name]["mean"]))[:SHOWN][::-1]
    fig, ax = figure(PAGE, 0.6 + 0.3 * len(names))
    thickness = 0.8 / len(drifts)
    for k, ((series, mine), colour) in enumerate(zip(drifts.items(), (BLUE, ORANGE), strict=True)):
        places = [row + (len(drifts) / 2 - 0.5 - k) * thickness for row in range(len(names))]
        means = [100 * mine[name]["mean"] for name in names]
        ends = [[100 * abs(mine[name]["interval_95"][side] - mine[name]["mean"]) for name in names]
                for side in (0, 1)]  # fmt: skip
        ax.barh(places, means, thickness * 0.9, color=colour, label=series)
        ax.errorbar(means, places, xerr=ends, fmt="none", ecolor="black", elinewidth=0.7)
    ax.axvline(0, color="black", lw=0.8)
    ax.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    ax.set(xlabel="mean change of what the evaluator reads (percentage points)")
    ax.grid(axis="y", visible=False)
    ax.legend()
    return fig, ax


def association_figure(gaps: Mapping[str, float], drifts: Mapping[str, float], named_from: float = 18):
    """What goes with an attribute in the data, against what its guidance brings along: (figure, axes).

    Args:
        gaps: attribute -> how much more common it is where the asked one is yes, in percentage points.
        drifts: attribute -> how far guidance moves it from no to yes, in percentage points.
        named_from: dots further from 0 than this, in either direction, get their names.
    """
    fig, ax = figure(PAGE, 3.9)
    ax.axline((0, 0), slope=1, color=GREY, lw=0.8)
    ax.plot([gaps[name] for name in gaps], [drifts[name] for name in gaps], "o", ms=4.5, color=BLUE)
    named = [name for name in gaps if max(abs(gaps[name]), abs(drifts[name])) > named_from]
    for name in named:
        x, y = gaps[name], drifts[name]
        crowded = any(0 < gaps[other] - x < 15 and abs(drifts[other] - y) < 6 for other in named)
        left = crowded or x > 0.6 * max(gaps.values())  # for more room, too
        look = {"textcoords": "offset points", "fontsize": 8, "ha": "right" if left else "left"}
        ax.annotate(name.replace("_", " "), (x, y), (-6 if left else 6, -3), **look)
    ax.set(xlabel="in the data: how much more common it is where the asked one is yes (points)")
    ax.set(ylabel="guided to yes, minus guided to no (points)")
    return fig, ax
