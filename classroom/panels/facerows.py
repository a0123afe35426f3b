"""Rows of faces on the screen, in a GIF and in a static picture: before, after, what changed, the way."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from classroom.panels.digits import Drawing
from classroom.panels.gallery import COLUMNS, GAP, side_of
from classroom.panels.pairs import Pairs, spoken
from classroom.panels.panel import image_html, still_picture
from classroom.panels.paths import ORANGE
from lessons_lib.images import denoising_frames, difference_maps, png_bytes, to_pixels

BELOW = 34  # pixels for two lines under a face: "Mouth Slightly Open 94%" is longer than one
LINE = 17
GAIN = 3  # a smile changes few pixels by more than a tenth, which would hardly be seen


def side_for(image_size: int, count: int) -> int:
    """Of a face on the screen, so that `count` of them stand side by side on half a screen."""
    return side_of(image_size, count) if count <= COLUMNS else 64 // image_size * image_size or 64


def faces_html(pairs: Pairs, which: str, side: int) -> str:
    """The faces "before" or "after", each above what is read in it; afterwards orange if not as asked."""
    images, read = getattr(pairs, which), pairs.probabilities()
    mine = [None] * len(images) if read is None else read[which == "after"]
    name, cells = spoken(pairs.edit.attribute), []
    for k, (image, p) in enumerate(zip(images, mine, strict=True), start=1):
        alt, words = f"Face {k} {which}", ""
        if p is not None:
            alt += f", read as {name} {p:.0%}"
            # A small face has no room for the name, which stands above the row, too.
            text = f"{name} {p:.0%}" if len(images) <= COLUMNS else f"{p:.0%}"
            style = ORANGE if which == "after" and not pairs.as_asked(p) else ""
            words = f'<span style="{style}">{html.escape(text)}</span>'
        cells.append(_png(image, alt, side) + words)
    return _row(cells, side)


def change_maps(pairs: Pairs) -> Tensor:
    """[N, 3, H, W] in [-1, 1], difference_maps with a full colour from a change of 1 / GAIN on."""
    change = GAIN * (pairs.after - pairs.before) / 2  # [N, C, H, W], to be shown from -1 to 1
    # Two images in range differ by so much in neither direction: half of it on grey, then doubled.
    half = difference_maps(change.clamp(-1, 1), torch.zeros_like(change))
    return 2 * half - 1


def changes_html(pairs: Pairs, side: int) -> str:
    """Under each face what changed in it, half as large."""
    maps = change_maps(pairs)
    return _row([_png(each, f"Face {k}, what changed", side // 2) for k, each in enumerate(maps, 1)], side)


def moment_html(drawing: Drawing, k: int, words: str, side: int) -> str:
    """Under each face its state and its estimate at step k, half as large."""
    cells = []
    for n, pair in enumerate(zip(*drawing.moment(k), strict=True), start=1):
        named = zip(pair, ("State", "Estimate"), strict=True)
        shown = [_png(image, f"{name} {n}, {words}", side // 2) for image, name in named]
        cells.append(f'<div style="display: flex">{"".join(shown)}</div>')
    return _row(cells, side)


def _png(image: Tensor, alt: str, side: int) -> str:
    picture = image_html(png_bytes(to_pixels(image)), alt, side, side)
    return picture.replace("margin: 0;", "margin: 0 auto;")  # a small one in the middle of its cell


def _row(cells: Sequence[str], side: int) -> str:
    style = f"flex: 0 0 {side}px; overflow: hidden; text-align: center; font-size: 12px"
    shown = "".join(f'<div style="{style}; line-height: {LINE}px">{cell}</div>' for cell in cells)
    return f'<div style="display: flex; gap: {GAP}px">{shown}</div>'


# -- files -----------------------------------------------------------------------------------------


def way_frames(pairs: Pairs) -> list[np.ndarray]:
    """One frame for each moment: the faces before, below them the states, and the estimates made of these."""
    drawing, (count, _, _, size) = pairs.drawing, pairs.before.shape
    moments = (torch.cat([pairs.before, *drawing.moment(k)]) for k in range(len(drawing.states)))
    return denoising_frames(moments, columns=count, scale=max(1, 64 // size))


def file_stem(settings: dict) -> str:
    """'smiling-yes-s4.0-seed0': a file's name for any attribute."""
    plain = re.sub(r"[\W_]+", "-", settings["attribute"]).strip("-").lower()[:40] or "attribute"
    place = f"seed{settings['seed']}" if "seed" in settings else f"face{settings['first'] + 1}"
    return f"{plain}-{('no', 'yes')[settings['target']]}-s{float(settings['guidance_scale'])}-{place}"


def still_of(pairs: Pairs, names: Sequence[str], title: str) -> bytes:
    """Before, after and what changed as a PNG.

    Args:
        names: of the first two rows.
    """
    read, count = pairs.probabilities(), len(pairs.before)
    shown = pairs.before, pairs.after, change_maps(pairs)
    rows = dict(zip((*names, f"what\nchanged, ×{GAIN}"), shown, strict=True))
    name = (
        spoken(pairs.edit.attribute).replace(" ", "\n") if count > COLUMNS else spoken(pairs.edit.attribute)
    )
    texts = [] if read is None else [f"{name}\n{p:.0%} → {q:.0%}" for p, q in zip(*read, strict=True)]
    plain = [text.replace("$", r"\$") for text in (title, *texts)]  # a dollar sign would start a formula
    # One or two faces are narrower than the whole title.
    size, title = (1.8, "") if count < 3 else (min(1.05, 7 / count), plain[0])
    return still_picture(rows, title, plain[1:], size=size)
