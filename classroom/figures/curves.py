"""Tables of measured results, their lines, and the style of every figure."""

import csv
import math
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path

import numpy as np

BLUE, ORANGE, GREEN, GREY = "#2166ac", "#d6604d", "#1b7837", "#666666"
GROUND, INK, FAINT = "#fcfcfd", "#24292f", "#8a919c"  # a light card reads on a dark page, too
STYLE = {
    "figure.facecolor": GROUND, "axes.facecolor": GROUND, "savefig.facecolor": GROUND, "font.size": 10,
    "axes.titlesize": 10.5, "legend.fontsize": 9, "xtick.labelsize": 9, "ytick.labelsize": 9,
    "text.color": INK, "axes.labelcolor": INK, "axes.titlecolor": INK, "xtick.labelcolor": INK,
    "ytick.labelcolor": INK, "axes.edgecolor": FAINT, "xtick.color": FAINT, "ytick.color": FAINT,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8, "axes.axisbelow": True,
    "grid.color": "#e4e7eb", "lines.linewidth": 1.9, "lines.solid_capstyle": "round", "legend.frameon": False,
    "axes.prop_cycle": f"cycler('color', {[BLUE, ORANGE, GREEN, '#9467bd', '#b8860b', GREY]})",
}  # fmt: skip
WRITTEN = {  # how a column is written in a line's name
    "interval": "t {}", "depth": "depth {}", "steps": "{} steps", "num_samples": "{} samples",
    "num_images": "{} images", "num_faces": "{} faces", "seed": "seed {}",
}  # fmt: skip

Row = dict[str, float | str]  # of a table: numbers, and "" for what was not measured


def read_table(path: str | Path) -> list[Row]:
    """The rows of a CSV file of measured results, numbers as floats; lines that start with # are notes."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return [{name: _number(value) for name, value in row.items()} for row in rows]


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def named_lines(rows: Sequence[Row], settings: Sequence[str]) -> dict[str, list[Row]]:
    """The rows of each line along its scale, by a name that says what the lines differ in.

    settings are the columns that a line has in common, the most telling first, which is always named.
    """
    telling = list(settings[:1])
    for name in settings[1:]:  # it tells something if it differs between rows that are alike so far
        if len({_texts(row, [*telling, name]) for row in rows}) > len({_texts(row, telling) for row in rows}):
            telling.append(name)
    lines: dict[str, list[Row]] = {}
    for row in sorted(rows, key=itemgetter("guidance_scale")):
        texts = zip(telling, _texts(row, telling), strict=True)
        label = ", ".join(WRITTEN.get(name, "{}").format(text) for name, text in texts if text)
        lines.setdefault(label, []).append(row)
    return lines


def _texts(row: Row, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{row[name]:g}" if isinstance(row[name], float) else row[name] for name in names)


def numbers(rows: Sequence[Row], name: str) -> np.ndarray:
    """Those of a column, nan for what was not measured."""
    return np.array([math.nan if row[name] == "" else row[name] for row in rows])


def canvas(width: float, height: float, layout: str | None = None):
    """An empty matplotlib figure, outside pyplot's register."""
    from matplotlib import rcParams
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rcParams.update(STYLE)
    fig = Figure(figsize=(width, height), layout=layout, dpi=110)
    FigureCanvasAgg(fig)
    return fig


def figure(width: float = 7.0, height: float = 2.8, columns: int = 1, **options):
    """A figure in the course's style: returns (figure, axes)."""
    fig = canvas(width, height, "constrained")
    axes = fig.subplots(1, columns, squeeze=False, **options)[0]
    for ax in axes:
        ax.grid(visible=True)
    return fig, axes[0] if columns == 1 else axes
