"""Images in [-1, 1] become pixels, grids, PNG and GIF, and maps of what changed."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lessons_lib.data import to_unit
from lessons_lib.files import write_whole

MARK = (214, 96, 77)  # orange, as in the figures
BETWEEN = 153  # the grey between the images of a grid
SHADE = 17  # of 16 shades, 255 / 15
CAME, WENT = (0.839, 0.376, 0.302), (0.129, 0.400, 0.675)  # the figures' orange and blue
SECONDS, HOLD = 3.0, 1.5  # of a GIF: how long it moves, and then shows its last frame


def to_bytes(images: Tensor) -> Tensor:
    """Images in [-1, 1] of any shape -> uint8 0 … 255 on the CPU, clipped: data.to_signed backwards."""
    return (((images.detach().float() + 1) / 2).clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def to_grid(
    images: Tensor, columns: int = 10, scale: int = 1, gap: int = 2, marked: Tensor | None = None
) -> np.ndarray:
    """Images [N, C, H, W] in [-1, 1] tiled into one picture, [rows, columns, 3] uint8.

    Each pixel becomes scale × scale, a gap's too; marked images, [N] bool, get an orange frame on their edge.
    """
    from torchvision.utils import make_grid

    shown = to_bytes(images)
    if marked is not None:
        edge = torch.ones(shown.shape[2:], dtype=torch.bool)
        edge[1:-1, 1:-1] = False
        colour = torch.tensor(MARK, dtype=torch.uint8).view(3, 1, 1)
        shown = torch.where(edge & marked.cpu().view(-1, 1, 1, 1), colour, shown)
    grid = make_grid(shown, nrow=columns, padding=gap, pad_value=BETWEEN)
    if gap and len(images) > 1:  # the frame around the whole grid says nothing; one image gets none
        grid = grid[:, gap:-gap, gap:-gap]
    return _enlarged(grid, scale)


def to_pixels(image: Tensor, scale: int = 1) -> np.ndarray:
    """One image [C, H, W] in [-1, 1] -> [H, W, 3] uint8, each pixel scale × scale."""
    # Without torchvision, whose import takes longer than a panel's first picture may.
    return _enlarged(to_bytes(image).expand(3, -1, -1), scale)


def _enlarged(picture: Tensor, scale: int) -> np.ndarray:
    return picture.permute(1, 2, 0).numpy().repeat(scale, axis=0).repeat(scale, axis=1)


def _in_16_shades(pixels: np.ndarray) -> np.ndarray:
    return (np.round(pixels / SHADE) * SHADE).astype(np.uint8)


def png_bytes(pixels: np.ndarray) -> bytes:
    """[H, W, 3] uint8 -> the bytes of a PNG file."""
    import imageio.v3 as iio

    return iio.imwrite("<bytes>", pixels, extension=".png")


def save_png(path: str | Path, pixels: np.ndarray) -> None:
    """Write [H, W, 3] uint8 as a PNG, whole or not at all."""
    write_whole(path, png_bytes(pixels))


def gif_bytes(frames: Sequence[np.ndarray]) -> bytes:
    """An endless GIF of frames, each [H, W, 3] uint8; grey ones in 16 shades: noise takes a quarter so."""
    import imageio.v3 as iio

    # GIF viewers slow down frames that are faster than 1/50 s.
    usual = max(20, round(1000 * SECONDS / max(len(frames) - 1, 1)))
    durations = [usual] * (len(frames) - 1) + [round(1000 * HOLD)]
    stack = np.stack(frames)
    if (stack == stack[..., :1]).all():
        stack = _in_16_shades(stack[..., 0])
    buffer = io.BytesIO()
    shown = durations if len(frames) > 1 else durations[0]  # Pillow takes no list for one frame
    iio.imwrite(buffer, stack, extension=".gif", duration=shown, loop=0)
    return buffer.getvalue()


def save_gif(path: str | Path, frames: Sequence[np.ndarray]) -> None:
    write_whole(path, gif_bytes(frames))


def denoising_frames(states: Iterable[Tensor], columns: int = 10, scale: int = 2) -> list[np.ndarray]:
    """One frame for each state x_t [N, C, H, W] of a sampler."""
    return [to_grid(state, columns, scale) for state in states]


def difference_maps(images: Tensor, source: Tensor) -> Tensor:
    """Where images [N, C, H, W] differ from their source [1 or N, C, H, W]: [N, 3, H, W]; all in [-1, 1].

    White where they agree, full orange where the channels' mean rose from 0 to 1, full blue where it fell.
    """
    change = (to_unit(images.float()) - to_unit(source.float())).mean(dim=1, keepdim=True)  # [N, 1, H, W]
    came, went = (torch.tensor(c, device=change.device).view(1, 3, 1, 1) for c in (CAME, WENT))
    colour = torch.where(change > 0, came, went)
    return 2 * (1 - change.abs() * (1 - colour)) - 1


def changes_grid(sources: Tensor, images: Tensor, scale: int = 2) -> np.ndarray:
    """For each source two rows of K + 1: the source and what became of it; below each its difference map.

    sources [S, C, H, W] and images [S, K, C, H, W] in [-1, 1] -> [rows, columns, 3] uint8, in 16 shades of a
    colour: they look the same, and make half of the PNG.
    """
    rows = []
    for source, changed in zip(sources, images, strict=True):
        row = torch.cat([source[None], changed])
        rows += [row.expand(-1, 3, -1, -1), difference_maps(row, source[None])]
    return _in_16_shades(to_grid(torch.cat(rows), images.shape[1] + 1, scale))
