"""What a panel shows: rows of pictures, most of them with the way from noise to picture, and words."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from lessons_lib.data import to_signed
from lessons_lib.images import MARK, to_bytes, to_pixels

SEES, GUESSES = "what it sees", "what it guesses"  # the state x_t, and the estimate x̂_0 made of it
MOST_BYTES = 1_500_000  # of pixels sent to the page: longer ways leave moments out
GAP, LINE, FONT = 8, 17, 12  # of the still and the GIF, in pixels
INK, FAINT = (34, 34, 34), (96, 96, 96)


@dataclass(frozen=True, eq=False)
class Row:
    """B pictures side by side.

    views: name -> [M, B, C, H, W] uint8, M moments; or one, [1, B, C, H, W]. Without any: `count` outlines.
    texts, heads: B texts below and above the pictures, or none.
    marks: B bools: read as something else than was asked for.
    alts: B texts for those who cannot see the pictures; without them the row's name and the text below.
    side, least: of a picture on a wide page, and at which the row is broken, in screen pixels.
    lines: room for the texts, so that nothing moves when they change.
    zooms: whether a click on a picture enlarges it.
    """

    views: Mapping[str, Tensor] = field(default_factory=dict)
    name: str = ""
    texts: Sequence[str] = ()
    heads: Sequence[str] = ()
    marks: Sequence[bool] = ()
    alts: Sequence[str] = ()
    side: int = 112
    least: int = 46
    lines: int = 1
    zooms: bool = False
    count: int = 0

    @classmethod
    def of(cls, images: Tensor, name: str = "", **fields) -> Row:
        """Pictures [B, C, H, W] in [-1, 1] that do not move."""
        return cls({name: to_bytes(images)[None]}, name, **fields)

    @property
    def frames(self) -> int:
        return max((len(view) for view in self.views.values()), default=1)

    def images(self, at: int, view: str = "") -> Tensor:
        """The pictures at a moment, [B, C, H, W] in [-1, 1]."""
        moments = self.views.get(view, next(iter(self.views.values())))
        return to_signed(moments[min(at, len(moments) - 1)])

    def described(self) -> dict:
        """For the page, without the pixels."""
        shape = next(iter(self.views.values())).shape if self.views else (1, self.count, 1, 28, 28)
        count, texts, heads = shape[1], list(self.texts), list(self.heads)
        words = zip(heads or [""] * count, texts or [""] * count, strict=True)
        alts = [
            ": ".join(filter(None, (self.name, *pair))) or f"picture {k}" for k, pair in enumerate(words, 1)
        ]
        return {
            "name": self.name, "count": count, "height": shape[3], "width": shape[4], "frames": self.frames,
            "texts": texts, "heads": heads, "alts": list(self.alts) or alts, "side": self.side,
            "least": self.least,
            "marks": list(map(bool, self.marks)), "zooms": self.zooms, "lines": self.lines if texts else 0,
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Film:
    """All that a panel shows.

    rows: of pictures; or charts, as SVG with their own words.
    line: the result in words.
    title: above the still.
    moments: M texts, one for each moment; the last is the finished picture.
    result: what was drawn, for code.
    stem: of the GIF's file name; without it there is none.
    follows: whether the way to these pictures is still to come: the player keeps its place.
    """

    rows: Sequence[Row | str]
    line: str
    title: str = ""
    moments: Sequence[str] = ()
    result: object = None
    stem: str = ""
    follows: bool = False

    @property
    def pictures(self) -> list[Row]:
        return [row for row in self.rows if isinstance(row, Row) and row.views]

    def ended(self) -> Film:
        """Its finished pictures alone; the way is to follow."""
        rows = [
            replace(row, views={name: view[-1:] for name, view in row.views.items()}) for row in self.rows
        ]
        return replace(self, rows=rows, moments=self.moments[-1:], follows=True)

    def encoded(self) -> tuple[dict, bytes]:
        """(what the page is told, the pixels of all rows and views: moment by moment, [B, H, W, C] each)."""
        size = sum(view.numel() for row in self.pictures for view in row.views.values())
        last = max((row.frames for row in self.pictures), default=1) - 1
        kept = sorted({*range(0, last, -(-size // MOST_BYTES) or 1), last})  # all, or every n-th and the last
        rows, parts, start = [], [], 0
        for row in self.rows:
            if isinstance(row, str):
                rows.append({"html": row})
                continue
            views = {}
            for name, view in row.views.items():
                view = view[kept] if len(view) > 1 else view
                parts.append(view.movedim(2, -1).contiguous().numpy().tobytes())
                views[name] = {"start": start, "channels": view.shape[2], "frames": len(view)}
                start += len(parts[-1])
            rows.append(row.described() | {"views": views or None})
        moments = [self.moments[k] for k in kept] if self.moments else []
        moving = [row for row in self.pictures if row.frames > 1 or self.follows]
        views = list(dict.fromkeys(name for row in moving for name in row.views))
        told = {"rows": rows, "title": self.title, "moments": moments, "views": views}
        return told | {"gif": bool(self.stem), "follows": self.follows}, b"".join(parts)

    # -- for pages without a kernel, and files ---------------------------------------------------------

    def page(self, at: int, view: str = "", zoom: int = 1) -> np.ndarray:
        """The rows at a moment as one picture, [H, W, 3] uint8, a pixel of the page zoom × zoom."""
        from PIL import Image, ImageDraw

        rows, font = self.pictures, functools.partial(_font, zoom * FONT)
        wide = max((max(row.side, 72) + GAP) * len(row.images(0)) for row in rows)
        wide, tall = max(wide, 7 * len(self.title)) + GAP, 60 + sum(row.side + 8 * LINE for row in rows)
        canvas = Image.new("RGB", (zoom * wide, zoom * tall), "white")
        pen, y = ImageDraw.Draw(canvas), GAP

        def write(x: float, y: float, text: str, colour=INK, anchor: str = "la", bold: bool = False) -> int:
            pen.text((zoom * x, zoom * y), text, colour, font(bold), anchor, 3 * zoom, "center")
            return y + LINE * (bool(text) + text.count("\n"))

        y = write(GAP, y, self.title, bold=True)
        for row in rows:
            y, step = write(GAP, y + GAP, row.name, bold=True), max(row.side, 72) + GAP
            ended, bottom = at >= row.frames - 1, y
            for k, image in enumerate(row.images(at, view)):
                x, top = GAP + k * step, y + LINE * bool(row.heads)
                write(x + row.side / 2, y, row.heads[k] if row.heads else "", FAINT, "ma")
                side, text = zoom * row.side, row.texts[k] if row.texts else ""
                shape = side, round(side * image.shape[1] / image.shape[2])
                picture = Image.fromarray(to_pixels(image)).resize(shape, Image.Resampling.NEAREST)
                marked = ended and row.marks and row.marks[k]
                picture = Image.fromarray(_dashed(np.array(picture), zoom)) if marked else picture
                canvas.paste(picture, (zoom * x, zoom * top))
                write(x + row.side - 3, top + 2, "✕" if marked else "", MARK, "ra", bold=True)
                lines = textwrap.fill(text if ended or not text else f"→ {text}", max(8, step // 7))
                bottom = max(bottom, write(x + row.side / 2, top + row.side + 3, lines, anchor="ma"))
            y = bottom
        return np.asarray(canvas)[: zoom * (y + GAP)]

    def still(self, at: int) -> np.ndarray | None:
        """The rows at a moment; of one or two pictures that move, the way there. None without pictures."""
        rows = self.pictures
        if rows and rows[0].frames > 1 and sum(len(row.images(0)) for row in rows) <= 2:
            places = sorted({round(i * (rows[0].frames - 1) / 6) for i in range(7)})
            heads = [self.moments[k].rpartition(", ")[2] for k in places]
            view = next(iter(rows[0].views.values()))
            heads[-1] = "finished"
            names = rows[0].heads or [rows[0].name]
            way = [
                Row.of(to_signed(view[places, k]), name, heads=heads, side=96) for k, name in enumerate(names)
            ]
            return replace(self, rows=way).page(0, zoom=2)
        return self.page(at, zoom=2) if rows else None

    def alt(self) -> str:
        """The still in words."""
        texts = [
            f"{row.name}: {', '.join(filter(None, row.texts))}." for row in self.pictures if any(row.texts)
        ]
        return " ".join(filter(None, [self.title and f"{self.title}.", *texts, self.line])).replace(
            " : ", " "
        )


def _dashed(pixels: np.ndarray, zoom: int) -> np.ndarray:
    """A picture in the frame of what is misread."""
    inner = np.zeros(pixels.shape[:2], dtype=bool)
    inner[2 * zoom : -2 * zoom, 2 * zoom : -2 * zoom] = True
    dashes = np.add.outer(*map(np.arange, inner.shape)) // (3 * zoom) % 2 == 0
    pixels[~inner & dashes] = MARK
    return pixels


@functools.cache
def _font(size: int, bold: bool):
    import matplotlib
    from PIL import ImageFont

    name = "DejaVuSans-Bold" if bold else "DejaVuSans"
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/{name}.ttf", size)


def moments_of(timesteps: Sequence[int]) -> list[str]:
    """'step 3 of 25, t = 920', … and the finished picture."""
    steps = [f"step {k} of {len(timesteps)}, t = {t}" for k, t in enumerate(timesteps, 1)]
    return [*steps, "the finished picture"]


def seconds(milliseconds: float) -> str:
    """'0.08 s', '11.7 s': a time as people say it."""
    return f"{milliseconds / 1000:.2f} s" if milliseconds < 1000 else f"{milliseconds / 1000:.1f} s"


def stacked(parts: Sequence[Tensor]) -> Tensor:
    """M batches [B, C, H, W] in [-1, 1] -> [M, B, C, H, W] uint8."""
    return to_bytes(torch.stack([part.detach().float().cpu() for part in parts]).clamp(-1, 1))
