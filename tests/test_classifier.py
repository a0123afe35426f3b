"""classifier.py: the Evaluator, which reads clean images and only judges; the classifier that is told t."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from command_tools import awake, tiny_reader
from numeric import SEED, assert_close_by_scale

from lessons_lib.classifier import Evaluator, EvaluatorConfig, Whitening
from lessons_lib.unet import ResidualBlock

pytestmark = pytest.mark.numeric

SMALL = EvaluatorConfig(image_size=8, in_channels=3, widths=(32, 64), num_classes=5)


@pytest.mark.usefixtures("in_float64")
def test_a_batch_reads_like_singles():
    network, x_0 = Evaluator(SMALL).eval(), torch.randn(8, 3, 8, 8)
    singles = torch.cat([network(x_0[k : k + 1]) for k in range(8)])
    assert_close_by_scale(network(x_0), singles)


def test_a_gradient_reaches_every_part():
    network = awake(Evaluator(SMALL), every=True).train()
    F.cross_entropy(network(torch.randn(10, 3, 8, 8)), torch.arange(10) % 5).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.usefixtures("in_float64")
def test_every_block_is_told_t():
    noisy = awake(tiny_reader(in_channels=3, widths=(32, 64)), 0.1, every=True)
    blocks = [module for module in noisy.modules() if isinstance(module, ResidualBlock)]
    assert len(blocks) == 3 and all(block.film is not None for block in blocks)
    x_t = torch.randn(2, 3, 8, 8)
    logits = noisy(x_t, torch.tensor([10, 10]))
    assert logits.shape == (2, 3)
    assert not torch.allclose(logits, noisy(x_t, torch.tensor([700, 700])), atol=1e-3)
    assert_close_by_scale(noisy(x_t, torch.tensor([700, 10]))[1], logits[1])


@pytest.mark.usefixtures("in_float64")
def test_an_evaluator_that_mirrors_reads_an_image_as_its_mirror_image():
    torch.manual_seed(SEED)
    config = EvaluatorConfig(8, 3, widths=(8, 16), body="resnet9", mirror=True)
    network, x_0 = Evaluator(config).eval(), torch.randn(2, 3, 8, 8)
    plain = Evaluator(dataclasses.replace(config, mirror=False)).eval()
    plain.load_state_dict(network.state_dict())
    with torch.no_grad():
        assert_close_by_scale(network(x_0), network(x_0.flip(3)))
        mean = (plain.features(x_0) + plain.features(x_0.flip(3))) / 2
        assert_close_by_scale(network.features(x_0), mean)
        assert not torch.allclose(plain.features(x_0), mean)
        assert torch.equal(network.train().body(x_0), plain.train().features(x_0))  # training sees it once
        network.load_state_dict(plain.state_dict())
        assert torch.equal(network.features(x_0), plain.features(x_0))


def test_whitening_makes_the_patches_of_its_images_white():
    """Each coordinate has variance 1 and none goes with another; the second half is the first, negated."""
    noise = torch.randn(64, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.avg_pool2d(noise, 3, 1, 1)  # neighbours resemble each other
    layer = Whitening(3)
    layer.fit(images)
    found = layer(images) - layer.bias[:, None, None]
    first, second = found.chunk(2, dim=1)
    torch.testing.assert_close(first, -second)
    covariance = torch.cov(first.transpose(0, 1).flatten(1))
    torch.testing.assert_close(covariance, torch.eye(12), rtol=0, atol=0.12)
    assert not layer.weight.requires_grad and layer.bias.requires_grad
