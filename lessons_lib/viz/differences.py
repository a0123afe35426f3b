"""What changed between two images: ink that came in orange, ink that went in blue."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lessons_lib.data import to_unit
from lessons_lib.viz.images import to_grid

SHADE = 17  # 255 / 15
CAME, WENT = (0.839, 0.376, 0.302), (0.129, 0.400, 0.675)  # the figures' orange and blue


def difference_maps(images: Tensor, source: Tensor) -> Tensor:
    """Where images differ from their source: white where they agree.

    Args:
        images: [N, C, H, W] in [-1, 1].
        source: [1, C, H, W] or [N, C, H, W] in [-1, 1].

    Returns:
        [N, 3, H, W] in [-1, 1]: full orange where a pixel rose from 0 to 1, full blue where it fell from 1 to
        0; of several channels the mean.
    """
    change = (to_unit(images.float()) - to_unit(source.float())).mean(dim=1, keepdim=True)  # [N, 1, H, W]
    came, went = (torch.tensor(c, device=change.device).view(1, 3, 1, 1) for c in (CAME, WENT))
    colour = torch.where(change > 0, came, went)
    return 2 * (1 - change.abs() * (1 - colour)) - 1


def changes_grid(sources: Tensor, images: Tensor, scale: int = 2) -> np.ndarray:
    """For each source two rows: the source and what became of it, and below each its difference map.

    Args:
        sources: [S, C, H, W] in [-1, 1].
        images: [S, K, C, H, W] in [-1, 1].

    Returns:
        [rows, columns, 3] uint8, K + 1 images a row.
    """
    rows = []
    for source, mine in zip(sources, images, strict=True):
        row = torch.cat([source[None], mine])
        rows += [row if row.shape[1] == 3 else row.expand(-1, 3, -1, -1), difference_maps(row, source[None])]
    grid = to_grid(torch.cat(rows), images.shape[1] + 1, scale)
    # 16 shades of a colour look the same and make half of the PNG: notebooks hold grids of 220 pictures.
    return (np.round(grid / SHADE) * SHADE).astype(np.uint8)
