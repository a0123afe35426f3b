"""How sharp are images? Their power in four octaves, beside that of real ones."""

from __future__ import annotations

import torch
from torch import Tensor

OCTAVES = (1 / 16, 1 / 8, 1 / 4, 1 / 2)  # their upper ends, in cycles a pixel


def octave_power(images: Tensor) -> Tensor:
    """Mean power of images [N, C, H, W] in each of the OCTAVES, all channels together: [4] float64.

    Each image's mean is taken out. Drawn over real pictures, below 1 is blurred there, above 1 grainy.
    """
    height, width = images.shape[2:]
    x = images.cpu().double()
    spectrum = torch.fft.fft2(x - x.mean(dim=(2, 3), keepdim=True)).abs().square().mean(dim=(0, 1))
    down, across = torch.fft.fftfreq(height), torch.fft.fftfreq(width)
    radius = torch.hypot(down[:, None], across[None, :])
    bands = zip((0.0, *OCTAVES), OCTAVES, strict=False)
    return torch.stack([spectrum[(radius > low) & (radius <= high)].mean() for low, high in bands])
