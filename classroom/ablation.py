"""Leaving a part out of a U-Net, to see what it was good for."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from lessons_lib.unet import UNet

PARTS = ("attention", "skips", "time")


def without(network: UNet, part: str) -> UNet:
    """A copy of the network that lacks a part; it can be trained, saved and drawn with like the whole.

    Args:
        part: "attention" (positions no longer see each other), "skips" (the way up gets zeros in their
            place), or "time" (the network is always told t = 0).

    Raises:
        ValueError: for another part.
    """
    if part not in PARTS:
        raise ValueError(f"Unknown part {part!r}: choose one of {', '.join(PARTS)}.")
    network = copy.deepcopy(network)
    if part == "time":
        network.register_forward_pre_hook(_tell_zero)
    for level in network.down:
        if part == "skips":
            level.register_forward_hook(_zero_skips)
        if part == "attention":
            level.attention = nn.Identity()
    if part == "attention":
        network.middle_attention = nn.Identity()
        for level in network.up:
            level.attention = nn.Identity()
    return network


def _tell_zero(network: nn.Module, inputs: tuple) -> tuple:
    x_t, t, *label = inputs
    return x_t, torch.zeros_like(t), *label


def _zero_skips(level: nn.Module, inputs: tuple, output: tuple[Tensor, list[Tensor]]) -> tuple:
    h, skips = output
    return h, [torch.zeros_like(skip) for skip in skips]
