"""The README's film: one noise becomes ten equal pictures, and ten digits as the guidance scale rises.

    python -m benchmarks.film [--seed 3] [--out assets/figures/ten_digits.gif]

A digit's number lights up while the evaluator reads its picture as asked.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from benchmarks import ROOT
from classroom.panels.drawing import read
from classroom.panels.ten_digits import ten_digits
from lessons_lib.files import atomic_write
from lessons_lib.images import to_pixels
from lessons_lib.pipeline import GenerationRequest

GROUND, TEXT, FAINT, LIT = (17, 20, 24), (232, 234, 237), (128, 134, 142), (255, 159, 64)
SIDE, GAP, TOP, MARGIN = 84, 10, 62, 18
SIZE = (2 * MARGIN + 10 * SIDE + 9 * GAP, TOP + SIDE + 42)
RISE = torch.cat([torch.linspace(0, 1, 31), torch.linspace(1, 2, 11)[1:]]).tolist()


def frame(images: Tensor, scale: float | None, words: str) -> np.ndarray:
    """Ten pictures [10, 1, 28, 28], the scale on its bar (None: none yet), and a line: [H, W, 3] uint8."""
    picture = Image.new("RGB", SIZE, GROUND)
    pen, large, small = ImageDraw.Draw(picture), ImageFont.load_default(20), ImageFont.load_default(17)
    pen.text((MARGIN, 18), words, TEXT, large)
    left, right, height = SIZE[0] - MARGIN - 260, SIZE[0] - MARGIN - 80, 31
    if scale is not None:
        place = left + scale / 2 * (right - left)
        pen.line((left, height, right, height), FAINT, 3)
        pen.line((left, height, place, height), LIT, 5)
        pen.ellipse((place - 8, height - 8, place + 8, height + 8), LIT)
        pen.text((right + 18, 20), f"w = {scale:.2f}", TEXT, small)
    readings = read(images) if scale else ()
    for digit, image in enumerate(images):
        x = MARGIN + digit * (SIDE + GAP)
        picture.paste(Image.fromarray(to_pixels(image, SIDE // 28)), (x, TOP))
        hit = bool(readings) and readings[digit].label == digit
        pen.text((x + SIDE / 2, TOP + SIDE + 20), str(digit), LIT if hit else FAINT, large, anchor="mm")
    return np.asarray(picture)


def main() -> None:
    """Draw all frames and write the GIF."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "assets" / "figures" / "ten_digits.gif")
    arguments = parser.parse_args()
    request = GenerationRequest((0,), guidance_scale=0.0, seed=arguments.seed, sampler="ddim", steps=12)
    plan = request.plan()
    states = [plan.x_T, *(step.x_t for step in plan.steps())]
    film = [(frame(x.clamp(-1, 1).repeat(10, 1, 1, 1), None, "One noise."), 130) for x in states]
    for scale in RISE:
        words = "Ten wishes." if scale == 0 else "How strongly is each told?"
        length = 1100 if scale == 0 else 110
        film.append((frame(ten_digits(scale, arguments.seed, steps=12), scale, words), length))
    film[-1] = film[-1][0], 2400
    buffer = io.BytesIO()
    palette = Image.fromarray(film[-1][0]).quantize(48)  # one for all frames, or colours flicker
    pictures = [
        Image.fromarray(pixels).quantize(palette=palette, dither=Image.Dither.NONE) for pixels, _ in film
    ]
    lengths = [milliseconds for _, milliseconds in film]
    pictures[0].save(
        buffer, "GIF", save_all=True, append_images=pictures[1:], duration=lengths, loop=0, optimize=True
    )
    with atomic_write(arguments.out) as path:
        path.write_bytes(buffer.getvalue())
    print(f"{len(film)} frames, {len(buffer.getvalue()) / 1e6:.2f} MB: {arguments.out}")


if __name__ == "__main__":
    main()
