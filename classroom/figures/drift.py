"""What an attribute's guidance does to faces: what else changed, and what more of it costs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from lessons_lib.evaluation.curves import BLUE, GREEN, GREY, ORANGE, figure

COLOURS = (BLUE, ORANGE, GREEN, GREY)
SHOWN = 12


def drift_figure(drifts: Mapping[str, Mapping[str, dict]], count: int = SHOWN, title: str = ""):
    """The attributes that moved most, as bars: (figure, axes).

    Args:
        drifts: for each series, such as "guided to yes", attribute -> {"mean", "interval_95"}: the mean
            change of the probability and its interval.
        count: how many attributes; the first series decides which.
    """
    first = next(iter(drifts.values()))
    names = sorted(first, key=lambda name: -abs(first[name]["mean"]))[:count][::-1]
    fig, ax = figure(7.0, 0.6 + 0.3 * len(names))
    thickness = 0.8 / len(drifts)
    for k, ((series, mine), colour) in enumerate(zip(drifts.items(), itertools.cycle(COLOURS), strict=False)):
        places = [row + (len(drifts) / 2 - 0.5 - k) * thickness for row in range(len(names))]
        means = [100 * mine[name]["mean"] for name in names]
        ends = [[100 * abs(end - mine[name]["mean"]) for name in names for end in [_end(mine[name], side)]]
                for side in (0, 1)]  # fmt: skip
        ax.barh(places, means, thickness * 0.9, color=colour, label=series)
        ax.errorbar(means, places, xerr=ends, fmt="none", ecolor="black", elinewidth=0.7)
    ax.axvline(0, color="black", lw=0.8)
    ax.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    ax.set(xlabel="mean change of what the evaluator reads, in percentage points")
    ax.grid(axis="y", visible=False)
    if title:
        ax.set_title(title)
    ax.legend(fontsize=8)
    return fig, ax


def _end(drift: dict, side: int) -> float:
    """An end of the interval; of one image, which has none, the mean."""
    interval = drift.get("interval_95")
    return interval[side] if interval else drift["mean"]


def association_figure(gaps: Mapping[str, float], drifts: Mapping[str, float], named_from: float = 18):
    """What goes with an attribute in the data, against what its guidance brings along: (figure, axes).

    Args:
        gaps: attribute -> how much more common it is where the asked one is yes, in percentage points.
        drifts: attribute -> how far guidance moves it from no to yes, in percentage points.
        named_from: dots further from 0 than this, in either direction, get their names.
    """
    fig, ax = figure(6.4, 3.6)
    ax.axline((0, 0), slope=1, color=GREY, lw=0.8)
    ax.plot([gaps[name] for name in gaps], [drifts[name] for name in gaps], "o", ms=4, color=BLUE)
    for name, gap in gaps.items():
        if max(abs(gap), abs(drifts[name])) > named_from:
            place = (gap, drifts[name])
            ax.annotate(name.replace("_", " "), place, (5, -3), textcoords="offset points", fontsize=7)
    ax.set(xlabel="in the data: if yes − if no (points)", ylabel="guided: to yes − to no (points)")
    return fig, ax
