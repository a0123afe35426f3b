"""Two meters, and the plane of what was tried: the share flipped against the distance to the source."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import NamedTuple

from classroom import figures
from classroom.panels.charts import svg, text
from lessons_lib.evaluation import Share

YOURS = "yours"
REACH = 0.2  # the L1 at the right end of meter and plane
WIDE, HIGH = 300, 236  # of the plane, in screen pixels
LEFT, RIGHT, TOP, BOTTOM = 42, 290, 28, 150  # of its axes
LOOKS = {  # name, colour and shape: nobody has to tell them apart by colour alone
    "ddim": ("DDIM inversion", figures.BLUE, "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0"),
    "ddpm": ("edit-friendly inversion", figures.GREEN, "M-4 -4h8v8h-8z"),
    "sdedit": ("SDEdit", figures.ORANGE, "M0 -5l5 9h-10z"),
    "same-noise": ("same noise", figures.GREY, "M0 -5.5l5 5.5l-5 5.5l-5 -5.5z"),
    YOURS: ("yours", "#762a83", "M-5 -2h3v-3h4v3h3v4h-3v3h-4v-3h-3z"),
}


class Setting(NamedTuple):
    """A method and where its sliders stand; None where the method does not hear one."""

    method: str
    guidance_scale: float | None
    depth: int | None

    def __str__(self) -> str:
        scale = "" if self.guidance_scale is None else f", w = {self.guidance_scale:g}"
        return LOOKS[self.method][0] + scale + ("" if self.depth is None else f", t₀ = {self.depth}")


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
    return f'<div style="line-height: 22px; margin-bottom: 10px">{value}{html.escape(name)}{bar}</div>'


def plane_svg(dots: Sequence[Dot]) -> str:
    """Share flipped against L1, one dot a setting, the newest last and ringed; best is the upper left."""
    reach = max([REACH, *(-(-dot.l1 // 0.1) * 0.1 for dot in dots)])
    places = [
        (LEFT + (RIGHT - LEFT) * dot.l1 / reach, BOTTOM - (BOTTOM - TOP) * dot.share.value) for dot in dots
    ]
    parts = _axes(reach)
    for method, (_, colour, _) in LOOKS.items():  # a thin line through the dots of each, as they were tried
        trail = [
            f"{x:.1f},{y:.1f}"
            for dot, (x, y) in zip(dots, places, strict=True)
            if dot.setting.method == method
        ]
        parts.append(
            f'<polyline points="{" ".join(trail)}" fill="none" stroke="{colour}" stroke-opacity="0.35"/>'
        )
    for k, (dot, (x, y)) in enumerate(zip(dots, places, strict=True), start=1):
        _, colour, shape = LOOKS[dot.setting.method]
        newest = k == len(dots)
        ring = f'<circle r="8" fill="none" stroke="{colour}" stroke-width="2"/>' if newest else ""
        mark = f'<path d="{shape}" fill="{colour}" fill-opacity="{1 if newest else 0.55}"/>'
        title = f"<title>{html.escape(str(dot))}</title>"
        parts.append(f'<g transform="translate({x:.1f} {y:.1f})">{title}{mark}{ring}</g>')
    for k, method in enumerate(dict.fromkeys(dot.setting.method for dot in dots)):
        name, colour, shape = LOOKS[method]
        x, y = 12 + 160 * (k // 3), BOTTOM + 46 + 16 * (k % 3)
        parts.append(
            f'<path transform="translate({x} {y})" d="{shape}" fill="{colour}"/>{text(x + 10, y + 4, name)}'
        )
    return svg(WIDE, HIGH, plane_text(dots), "".join(parts))


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
    for part in (0, 0.5, 1):
        y = BOTTOM - (BOTTOM - TOP) * part
        parts += [
            f'<path d="M{LEFT} {y}H{RIGHT}" {line.format(0.15)}/>',
            text(LEFT - 4, y + 4, f"{part:.0%}", "end"),
        ]
        x = LEFT + (RIGHT - LEFT) * part
        parts += [f'<path d="M{x} {BOTTOM}v4" {line.format(0.7)}/>']
        parts += [text(x, BOTTOM + 16, f"{reach * part:g}", "end" if part == 1 else "middle")]
    middle = (LEFT + RIGHT) / 2
    return [
        *parts,
        text(middle, BOTTOM + 31, "mean L1 to the source →", "middle"),
        text(4, 14, "↑ read as the target (best: upper left)"),
    ]
