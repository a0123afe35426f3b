"""Leaving parts out: the copy lacks the part and nothing else, and the original is untouched."""

import pytest
import torch
from command_tools import awake, tiny_unet
from numeric import assert_close_by_scale, seeded

from classroom.ablation import PARTS, without

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def network():
    network = tiny_unet(channel_mults=(1, 1), attention_levels=(1,), num_classes=3)
    return awake(network, 0.1, every=True)


@pytest.fixture(scope="module")
def inputs():
    x_t = torch.randn(4, 1, 8, 8, generator=seeded(1))
    return x_t, torch.tensor([0, 10, 500, 999]), torch.tensor([0, 1, 2, 3])


@torch.no_grad()
def by_hand(network, x_t, t, y, part):
    """The forward pass with the part left out, written down."""
    embedding, skips = network.embed(torch.zeros_like(t) if part == "time" else t, y), []
    attend = (lambda module, h: h) if part == "attention" else (lambda module, h: module(h))
    h = network.stem(x_t)
    for level in network.down:
        for block in level.blocks:
            h = block(h, embedding)
        h = attend(level.attention, h)
        skips.append(h * (part != "skips"))
        h = level.resize(h)
    h = network.middle2(attend(network.middle_attention, network.middle1(h, embedding)), embedding)
    for level in network.up:
        for block in level.blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), embedding)
        h = level.resize(attend(level.attention, h))
    return network.conv_out(torch.nn.functional.silu(network.norm_out(h)))


@pytest.mark.parametrize("part", [None, *PARTS])
def test_only_that_part_is_missing(network, inputs, part):
    left = network if part is None else without(network, part)
    with torch.no_grad():
        assert_close_by_scale(left(*inputs), by_hand(network, *inputs, part))


def test_unknown_part_is_one_sentence(network):
    with pytest.raises(ValueError, match=r"Unknown part 'stem': choose one of attention, skips, time\."):
        without(network, "stem")
