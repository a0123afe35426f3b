"""unet/: the network's shapes, its labels, its time embedding, and that it learns."""

import pytest
import torch
import torch.nn.functional as F
from numeric import SEED, assert_close_by_scale

from lessons_lib.unet import ResidualBlock, SelfAttention, UNet, UNetConfig, num_groups, timestep_embedding

pytestmark = pytest.mark.numeric

TINY = UNetConfig(image_size=8, base_channels=32, channel_mults=(1, 2), embedding_channels=32, num_classes=3)


@pytest.fixture
def tiny():
    torch.manual_seed(SEED)
    network = UNet(TINY).eval()
    # A fresh network's last convolution is zero, so its output says nothing yet.
    torch.nn.init.normal_(network.conv_out.weight, std=0.1)
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            torch.nn.init.normal_(module.conv2.weight, std=0.05)
        if isinstance(module, SelfAttention):
            torch.nn.init.normal_(module.project.weight, std=0.05)
    return network


def test_the_digit_network_has_at_most_two_million_parameters():
    assert sum(p.numel() for p in UNet().parameters()) <= 2_000_000


@pytest.mark.parametrize(
    "config",
    [
        UNetConfig(),
        UNetConfig(
            image_size=32, in_channels=3, base_channels=32, channel_mults=(1, 2, 2), attention_levels=(1, 2)
        ),
        UNetConfig(
            image_size=64, in_channels=3, channel_mults=(1, 2, 2, 2), attention_levels=(3,), num_classes=0
        ),
        UNetConfig(image_size=16, base_channels=40, channel_mults=(1, 3), blocks_per_level=2),
    ],
    ids=["digits", "colour 32", "colour 64 without classes", "odd widths, two blocks"],
)
def test_configs_build_and_run(config):
    network = UNet(config)
    x_t = torch.randn(2, config.in_channels, config.image_size, config.image_size)
    y = torch.tensor([0, config.num_classes]) if config.num_classes else None
    assert network(x_t, torch.tensor([0, 999]), y).shape == x_t.shape


@pytest.mark.parametrize("levels", [(), (0,), (0, 1)])
def test_attention_sits_at_the_levels_asked_for_and_in_the_middle(levels):
    network = UNet(UNetConfig(image_size=8, channel_mults=(1, 2), attention_levels=levels))
    found = [isinstance(level.attention, SelfAttention) for level in network.down]
    assert found == [k in levels for k in range(2)]
    assert [isinstance(level.attention, SelfAttention) for level in network.up] == found[::-1]
    assert isinstance(network.middle_attention, SelfAttention)


@pytest.mark.parametrize("channels", [32, 40, 64, 104, 112])
def test_attention_mixes_positions_and_works_for_any_width(channels):
    attention = SelfAttention(channels)
    torch.nn.init.normal_(attention.project.weight)
    x = torch.randn(1, channels, 3, 5, requires_grad=True)
    attention(x)[0, :, 0, 0].sum().backward()
    assert (x.grad[0].abs().amax(0) > 0).all()  # the corner hears every other position


@pytest.mark.usefixtures("in_float64")
def test_attention_is_the_textbook_formula():
    torch.manual_seed(SEED)
    attention = SelfAttention(64)  # two heads
    torch.nn.init.normal_(attention.project.weight)
    x = torch.randn(2, 64, 3, 4)
    tokens = attention.norm(x).flatten(2).transpose(1, 2)
    q, k, v = (
        part.unflatten(2, (2, 32)).transpose(1, 2) for part in attention.to_qkv(tokens).chunk(3, dim=2)
    )
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    expected = x + attention.project(mixed).transpose(1, 2).reshape(x.shape)
    assert_close_by_scale(attention(x), expected)


@pytest.mark.parametrize("channels, groups", [(32, 8), (40, 8), (64, 16), (96, 16), (128, 32), (256, 32)])
def test_group_norm_takes_the_most_groups_that_suit(channels, groups):
    assert num_groups(channels) == groups and channels % groups == 0


@pytest.mark.parametrize("channels", [8, 12, 24, 50])
def test_channels_that_no_group_divides_are_refused(channels):
    with pytest.raises(ValueError, match=f"multiple of 8 and at least 32.*got {channels}"):
        UNet(UNetConfig(base_channels=channels))


# -- labels ---------------------------------------------------------------------------------------------


def test_no_label_is_the_null_label_and_labels_differ(tiny):
    x_t, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 700])
    unlabelled = tiny(x_t, t)
    assert tiny.null_label == 3
    assert torch.equal(unlabelled, tiny(x_t, t, torch.full((2,), 3)))
    labelled = [tiny(x_t, t, torch.full((2,), k)) for k in range(3)]
    assert not torch.allclose(labelled[0], unlabelled) and not torch.allclose(labelled[0], labelled[1])


@pytest.mark.usefixtures("in_float64")
def test_labels_may_be_mixed_in_one_batch(tiny):
    x_t, t, y = torch.randn(3, 1, 8, 8), torch.tensor([1, 2, 3]), torch.tensor([2, 3, 0])
    singles = [tiny(x_t[k : k + 1], t[k : k + 1], y[k : k + 1]) for k in range(3)]
    assert_close_by_scale(tiny(x_t, t, y), torch.cat(singles))


def test_the_timestep_matters(tiny):
    x_t = torch.randn(1, 1, 8, 8)
    assert not torch.allclose(tiny(x_t, torch.tensor([10])), tiny(x_t, torch.tensor([11])))


def test_a_network_without_classes_refuses_labels():
    network = UNet(UNetConfig(image_size=8, channel_mults=(1, 2), num_classes=0))
    x_t, t = torch.randn(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64)
    assert network(x_t, t).shape == x_t.shape
    with pytest.raises(ValueError, match=r"num_classes=0.*y must be None"):
        network(x_t, t, torch.tensor([0, 0]))


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 1, 8, 9), (2, 1, 28, 28)])
def test_images_of_another_shape_are_refused(tiny, shape):
    with pytest.raises(ValueError, match=r"must have shape \[B, 1, 8, 8\]"):
        tiny(torch.randn(shape), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"image_size": 30}, "multiple of 4"),
        ({"attention_levels": (3,)}, "attention_levels"),
        ({"num_classes": -1}, "num_classes"),
        ({"channel_mults": ()}, "multiple"),
        ({"blocks_per_level": 0}, "blocks_per_level"),
    ],
)
def test_configs_that_cannot_be_built_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        UNetConfig(**wrong)


def test_a_config_read_from_json_equals_the_one_written():
    assert UNetConfig(channel_mults=[1, 2, 4], attention_levels=[]) == UNetConfig()


# -- the time embedding ---------------------------------------------------------------------------------


def test_the_embedding_keeps_all_timesteps_apart_and_bfloat16_timesteps_would_not():
    t = torch.arange(1000)
    assert len(t.bfloat16().unique()) < 520  # trap 22: what a cast of t itself would do
    with torch.autocast("cpu", torch.bfloat16):
        embedding = timestep_embedding(t, 64)
    assert embedding.dtype == torch.float32
    distances = torch.cdist(embedding, embedding) + torch.eye(1000) * 1e9
    assert distances.min() > 0.1


def test_under_autocast_the_network_still_tells_all_timesteps_apart(tiny):
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert len(tiny.embed(torch.arange(1000), None).unique(dim=0)) == 1000


def test_the_embedding_is_cosines_then_sines():
    first, second = timestep_embedding(torch.tensor([0, 1]), 4)
    assert first.tolist() == [1, 1, 0, 0]
    expected = torch.tensor([1.0, 0.01])  # 10000 ** (-k / half)
    torch.testing.assert_close(second, torch.cat([expected.cos(), expected.sin()]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_network_cast_to_another_precision_runs(tiny, dtype):
    x_t, t = torch.randn(1, 1, 8, 8), torch.tensor([5])
    expected = tiny(x_t, t)
    found = tiny.to(dtype)(x_t.to(dtype), t)
    assert found.dtype == dtype
    torch.testing.assert_close(
        found.float(), expected, rtol=0.1, atol=0.1 if dtype == torch.bfloat16 else 1e-4
    )


# -- learning -------------------------------------------------------------------------------------------


def test_a_fresh_network_predicts_zero():
    assert UNet(TINY)(torch.randn(2, 1, 8, 8), torch.tensor([0, 5])).abs().max() == 0


def test_it_learns_a_tiny_batch():
    torch.manual_seed(0)
    network = UNet(TINY)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    x_t, target = torch.randn(2, 4, 1, 8, 8)
    t, y = torch.tensor([0, 300, 600, 999]), torch.tensor([0, 1, 2, 3])
    losses = []
    for _ in range(40):
        loss = F.mse_loss(network(x_t, t, y), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_dropout_works_in_training_only():
    network = UNet(UNetConfig(image_size=8, channel_mults=(1,), dropout=0.5))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x_t, t = torch.randn(1, 1, 8, 8), torch.tensor([4])
    assert not torch.equal(network.train()(x_t, t), network(x_t, t))
    assert torch.equal(network.eval()(x_t, t), network(x_t, t))
