"""Two meters, and the plane of what was tried: the share flipped against the distance to the source."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import NamedTuple

from classroom import figures
from classroom.panels.measured import NAMES, YOURS, Setting
from lessons_lib.evaluation import Share

REACH = 0.2  # the L1 at the right end of meter and plane
WIDE, HIGH = 250, 230  # of the plane, in screen pixels
LEFT, RIGHT, TOP, BOTTOM = 38, 240, 28, 144  # of its axes
LOOKS = {  # colour and shape: nobody has to tell them apart by colour alone
    "ddim": (figures.BLUE, "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0"),
    "ddpm": (figures.GREEN, "M-4 -4h8v8h-8z"),
    "sdedit": (figures.ORANGE, "M0 -5l5 9h-10z"),
    "same-noise": (figures.GREY, "M0 -5.5l5 5.5l-5 5.5l-5 -5.5z"),
    YOURS: ("#762a83", "M-5 -2h3v-3h4v3h3v4h-3v3h-4v-3h-3z"),
}


class Dot(NamedTuple):
    """A setting that was tried, and what came of it."""

    setting: Setting
    share: Share
    l1: float

    def __str__(self) -> str:
        return f"{self.setting}: {self.share.successes} of {self.share.total} flipped, L1 {self.l1:.3f}"


def meter_html(name: str, words: str, part: float | None, colour: str) -> str:
    """A bar under its name and its value; part is 0 … 1, None for an empty one."""
    filled = f'<div style="width: {min(part or 0, 1):.1%}; height: 8px; background: {colour}"></div>'
    bar = f'<div style="height: 8px; background: var(--jp-layout-color3, #ddd)">{filled}</div>'
    value = f'<b style="float: right; font-variant-numeric: tabular-nums">{words}</b>'
    return f'<div style="line-height: 20px; margin: 4px 0 0 2px">{value}{html.escape(name)}{bar}</div>'


def plane_svg(dots: Sequence[Dot]) -> str:
    """Share flipped against L1, one dot a setting, the newest last and ringed; best is the upper left."""
    reach = max(REACH, *(-(-dot.l1 // 0.1) * 0.1 for dot in dots)) if dots else REACH
    places = [
        (LEFT + (RIGHT - LEFT) * dot.l1 / reach, BOTTOM - (BOTTOM - TOP) * dot.share.value) for dot in dots
    ]
    parts = _axes(reach) + _trails(dots, places)
    for k, (dot, (x, y)) in enumerate(zip(dots, places, strict=True), start=1):
        colour, shape = LOOKS[dot.setting.method]
        newest = k == len(dots)
        ring = f'<circle r="8" fill="none" stroke="{colour}" stroke-width="2"/>' if newest else ""
        mark = f'<path d="{shape}" fill="{colour}" fill-opacity="{1 if newest else 0.55}"/>'
        title = f"<title>{html.escape(str(dot))}</title>"
        parts.append(f'<g transform="translate({x:.1f} {y:.1f})">{title}{mark}{ring}</g>')
    parts += _legend(list(dict.fromkeys(dot.setting.method for dot in dots)))
    size = f'width="{WIDE}" height="{HIGH}" viewBox="0 0 {WIDE} {HIGH}"'
    alt = html.escape(plane_text(dots))
    style = "display: block; font: 11px sans-serif; color: var(--jp-ui-font-color1, #222)"
    return f'<svg {size} role="img" aria-label="{alt}" style="{style}">{"".join(parts)}</svg>'


def plane_text(dots: Sequence[Dot], most: int = 6) -> str:
    """The plane in words: the newest settings, newest first."""
    told = [str(dot) for dot in reversed(dots)][:most]
    more = f" And {len(dots) - most} more." if len(dots) > most else ""
    count = f"{len(dots)} setting{'' if len(dots) == 1 else 's'} tried"
    listed = f", the newest first: {'; '.join(told)}.{more}" if told else "."
    return f"The share flipped against the mean L1 to the source, best at the upper left. {count}{listed}"


def _axes(reach: float) -> list[str]:
    line = 'stroke="currentColor" stroke-opacity="{}"'
    parts = [f'<path d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}" fill="none" {line.format(0.7)}/>']
    for part, text in ((0, "0%"), (0.5, "50%"), (1, "100%")):
        y = BOTTOM - (BOTTOM - TOP) * part
        parts.append(f'<path d="M{LEFT} {y}H{RIGHT}" {line.format(0.15)}/>')
        parts.append(_text(LEFT - 4, y + 4, text, "end"))
    for k in range(3):
        x = LEFT + (RIGHT - LEFT) * k / 2
        parts.append(f'<path d="M{x} {BOTTOM}v4" {line.format(0.7)}/>')
        parts.append(_text(x, BOTTOM + 15, f"{reach * k / 2:g}", "end" if k == 2 else "middle"))
    middle = (LEFT + RIGHT) / 2
    parts.append(_text(middle, BOTTOM + 29, "mean L1 to the source →", "middle"))
    return [*parts, _text(4, 12, "↑ read as the target (best: upper left)", "start")]


def _trails(dots: Sequence[Dot], places: Sequence[tuple[float, float]]) -> list[str]:
    """A thin line through the dots of each method, in the order in which they were tried."""
    lines = []
    for method, (colour, _) in LOOKS.items():
        mine = [
            f"{x:.1f},{y:.1f}"
            for dot, (x, y) in zip(dots, places, strict=True)
            if dot.setting.method == method
        ]
        look = f'fill="none" stroke="{colour}" stroke-opacity="0.35"'
        lines += [f'<polyline points="{" ".join(mine)}" {look}/>'] if len(mine) > 1 else []
    return lines


def _legend(methods: Sequence[str]) -> list[str]:
    parts = []
    for k, method in enumerate(methods):
        x, y = 12 + 108 * (k // 3), BOTTOM + 44 + 15 * (k % 3)
        x += 36 * (k // 3)  # the longest name may stand in the first column
        colour, shape = LOOKS[method]
        parts.append(f'<path transform="translate({x} {y})" d="{shape}" fill="{colour}"/>')
        parts.append(_text(x + 10, y + 4, NAMES[method], "start"))
    return parts


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="currentColor">{text}</text>'
