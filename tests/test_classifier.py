"""classifier.py: the Evaluator, which reads clean images and only judges."""

import pytest
import torch
import torch.nn.functional as F

from lessons_lib.classifier import Evaluator, EvaluatorConfig

SMALL = EvaluatorConfig(image_size=8, in_channels=3, widths=(32, 64), num_classes=5)


def test_shapes_and_the_last_width_is_the_number_of_features():
    network, x_0 = Evaluator(SMALL), torch.randn(4, 3, 8, 8)
    assert network.features(x_0).shape == (4, 64)
    assert network(x_0).shape == network.probabilities(x_0).shape == (4, 5)


def test_logits_are_the_head_on_the_features():
    network, x_0 = Evaluator(SMALL).eval(), torch.randn(2, 3, 8, 8)
    assert torch.equal(network(x_0), network.head(network.features(x_0)))


def test_probabilities_are_float32_sum_to_one_and_carry_no_gradient():
    network = Evaluator(SMALL).eval()
    with torch.autocast("cpu", torch.bfloat16):
        probabilities = network.probabilities(torch.randn(3, 3, 8, 8))
    assert probabilities.dtype == torch.float32 and not probabilities.requires_grad
    torch.testing.assert_close(probabilities.sum(1), torch.ones(3))


def test_dropout_works_in_training_only():
    network, x_0 = Evaluator(SMALL), torch.randn(2, 3, 8, 8)
    assert not torch.equal(network.train()(x_0), network(x_0))
    assert torch.equal(network.eval()(x_0), network(x_0))


def test_a_batch_reads_like_singles():
    network, x_0 = Evaluator(SMALL).eval(), torch.randn(8, 3, 8, 8)
    singles = torch.cat([network(x_0[k : k + 1]) for k in range(8)])
    torch.testing.assert_close(network(x_0), singles, rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (2, 3, 8, 7)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"must have shape \[B, 3, 8, 8\]"):
        Evaluator(SMALL)(torch.randn(shape))


def test_it_learns_a_tiny_batch():
    torch.manual_seed(0)
    network = Evaluator(SMALL)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    x_0, y = torch.randn(10, 3, 8, 8), torch.arange(10) % 5
    for _ in range(40):
        loss = F.cross_entropy(network(x_0), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (network.eval()(x_0).argmax(1) == y).all()
