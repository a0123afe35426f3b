"""The U-Net that predicts the noise in x_t, from its parts up: blocks.py, then network.py.

A small U-Net after Ho et al. 2020 and Dhariwal & Nichol 2021: residual blocks told about t and y by FiLM,
self-attention where the image is small, skips from the way down to the way up.
"""

from lessons_lib.unet.blocks import (
    Downsample,
    Refine,
    ResidualBlock,
    SelfAttention,
    Upsample,
    num_groups,
    timestep_embedding,
)
from lessons_lib.unet.network import DownLevel, UNet, UNetConfig, UpLevel

__all__ = [
    "DownLevel",
    "Downsample",
    "Refine",
    "ResidualBlock",
    "SelfAttention",
    "UNet",
    "UNetConfig",
    "UpLevel",
    "Upsample",
    "num_groups",
    "timestep_embedding",
]
