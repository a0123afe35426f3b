"""unet.py: the network's shapes, its labels, its time embedding, and that it learns."""

import pytest
import torch
import torch.nn.functional as F
from command_tools import tiny_unet
from numeric import SEED, assert_close_by_scale

from lessons_lib.unet import SelfAttention, UNet, UNetConfig, timestep_embedding

pytestmark = pytest.mark.numeric


@pytest.fixture
def tiny():
    return tiny_unet(num_classes=3)


@pytest.fixture
def told():
    """The same network, but told three attributes."""
    return tiny_unet(num_classes=3, multi_label=True)


def test_the_digit_network_has_at_most_two_million_parameters():
    assert sum(p.numel() for p in UNet().parameters()) <= 2_000_000


COLOUR_32 = UNetConfig(32, 3, base_channels=32, channel_mults=(1, 2, 2), attention_levels=(1, 2))
COLOUR_64 = UNetConfig(64, 3, channel_mults=(1, 2, 2, 2), attention_levels=(3,), num_classes=0)
ODD = UNetConfig(image_size=16, base_channels=40, channel_mults=(1, 3), blocks_per_level=2)


@pytest.mark.parametrize("config", [UNetConfig(), COLOUR_32, COLOUR_64, ODD])
def test_configs_build_and_run(config):
    network = UNet(config)
    x_t = torch.randn(2, config.in_channels, config.image_size, config.image_size)
    y = torch.tensor([0, config.num_classes]) if config.num_classes else None
    assert network(x_t, torch.tensor([0, 999]), y).shape == x_t.shape


@pytest.mark.usefixtures("in_float64")
def test_attention_is_the_textbook_formula():
    torch.manual_seed(SEED)
    attention = SelfAttention(64)  # two heads
    torch.nn.init.normal_(attention.project.weight)
    x = torch.randn(2, 64, 3, 4)
    tokens = attention.norm(x).flatten(2).transpose(1, 2)
    parts = attention.to_qkv(tokens).chunk(3, dim=2)
    q, k, v = (part.unflatten(2, (2, 32)).transpose(1, 2) for part in parts)
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    expected = x + attention.project(mixed).transpose(1, 2).reshape(x.shape)
    assert_close_by_scale(attention(x), expected)


def test_no_label_is_the_null_label_labels_differ_and_may_be_mixed(tiny):
    x_t, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 700])
    unlabelled = tiny(x_t, t)
    assert tiny.null_label == 3
    assert torch.equal(unlabelled, tiny(x_t, t, torch.full((2,), 3)))
    labelled = [tiny(x_t, t, torch.full((2,), k)) for k in range(3)]
    assert not torch.allclose(labelled[0], unlabelled) and not torch.allclose(labelled[0], labelled[1])


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 1, 8, 9), (2, 1, 28, 28)])
def test_images_of_another_shape_are_refused(tiny, shape):
    with pytest.raises(ValueError, match=r"must have shape \[B, 1, 8, 8\]"):
        tiny(torch.randn(shape), torch.zeros(2, dtype=torch.int64))


IMPOSSIBLE = [
    ({"image_size": 30}, "multiple of 4"),
    (
        {"image_size": 10, "patch": 2, "channel_mults": (1, 2)},
        "must be a multiple of 4 for 2 levels of patches",
    ),
    ({"image_size": 8, "patch": 3, "channel_mults": (1, 2)}, "image_size 8 must be a multiple of 6"),
    ({"patch": 0}, "patch must be at least 1, got 0"),
    ({"v_schedule": "square"}, "Unknown schedule 'square'"),
    ({"v_schedule": "linear", "v_timesteps": 1}, "at least 2 timesteps, got 1"),
    ({"attention_levels": (3,)}, "attention_levels"),
    ({"num_classes": -1}, "num_classes"),
    ({"num_classes": 0, "multi_label": True}, "at least 1: num_classes is 0"),
    ({"channel_mults": ()}, "multiple"),
    ({"blocks_per_level": 0}, "blocks_per_level"),
    *(({"base_channels": n}, f"multiple of 8 and at least 32.*got {n}") for n in (8, 24, 50)),
]


@pytest.mark.parametrize("wrong, message", IMPOSSIBLE)
def test_configs_that_cannot_be_built_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        UNet(UNetConfig(**wrong))


X_T, T = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([3, 300, 700, 999])


def test_untold_is_nothing_and_each_answer_is_something(told):
    assert told.null_label == -1
    untold = told(X_T, T)
    assert torch.equal(told(X_T, T, torch.full((4, 3), -1)), untold)
    for place in range(3):
        yes, no = (torch.full((4, 3), -1) for _ in range(2))
        yes[:, place], no[:, place] = 1, 0
        answers = [told(X_T, T, y) for y in (yes, no)]
        assert not any(torch.allclose(answer, untold, rtol=1e-3, atol=1e-4) for answer in answers)
        assert not torch.allclose(*answers, rtol=1e-3, atol=1e-4), "no is not untold, and not yes"


NO_ATTRIBUTES = [
    (torch.zeros(4, dtype=torch.int64), r"must be \[4, 3\] int64, got \[4\] torch.int64"),
    (torch.zeros(4, 2, dtype=torch.int64), r"must be \[4, 3\] int64, got \[4, 2\]"),
    (torch.ones(4, 3, dtype=torch.bool), r"int64, got \[4, 3\] torch.bool"),
    (torch.full((4, 3), 2), r"1 \(yes\), 0 \(no\) or -1 \(untold\), got 2 … 2"),
    (torch.full((4, 3), -2), r"or -1 \(untold\), got -2 … -2"),
]


@pytest.mark.parametrize("y, message", NO_ATTRIBUTES)
def test_what_is_no_attribute_is_refused(told, y, message):
    with pytest.raises(ValueError, match=message):
        told(X_T, T, y)


def test_the_embedding_keeps_all_timesteps_apart_and_bfloat16_timesteps_would_not():
    t = torch.arange(1000)
    assert len(t.bfloat16().unique()) < 520  # trap 22: what a cast of t itself would do
    with torch.autocast("cpu", torch.bfloat16):
        embedding = timestep_embedding(t, 64)
    assert embedding.dtype == torch.float32
    distances = torch.cdist(embedding, embedding) + torch.eye(1000) * 1e9
    assert distances.min() > 0.1


@pytest.mark.parametrize("answers", [[2, 3], [[1, 0, -1], [0, 1, 1]]])
def test_a_gradient_reaches_every_part(answers):
    network = tiny_unet(num_classes=3, multi_label=isinstance(answers[0], list))
    network(X_T[:2], T[:2], torch.tensor(answers)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
