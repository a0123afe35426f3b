"""generation.py: defaults from the card, noise from (seed, k), one sentence for nonsense."""

import numpy as np
import pytest
import torch

from lessons_lib import generation
from lessons_lib.classifier import Evaluator, EvaluatorConfig
from lessons_lib.generation import (
    GenerationRequest,
    generate,
    generate_images,
    generate_with,
    load_model,
    with_defaults,
)
from lessons_lib.schedules import NoiseSchedule
from lessons_lib.unet import UNet, UNetConfig
from lessons_lib.weights import WeightsError, read_card, save_pretrained, write_card

DEFAULTS = {"guidance_scale": 3.0, "sampler": "ddpm", "steps": 4}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """For networks this small more threads only wait for each other, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory):
    torch.manual_seed(0)
    network = UNet(UNetConfig(image_size=8, channel_mults=(1, 2), num_classes=3))
    for parameter in network.parameters():
        if parameter.abs().sum() == 0:  # a fresh network predicts zero, whatever it is asked
            torch.nn.init.normal_(parameter, std=0.05)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_pretrained(path, network, NoiseSchedule.linear(100), {"defaults": DEFAULTS})
    return path


@pytest.fixture
def asked(denoiser, monkeypatch):
    """Counts what the network is asked: (batch size, labels) of each call."""
    calls = []
    forward = UNet.forward

    def counting(self, x_t, t, y=None):
        calls.append((len(x_t), None if y is None else y.tolist()))
        return forward(self, x_t, t, y)

    monkeypatch.setattr(UNet, "forward", counting)
    return calls


def images(path, labels=(0, 1), **options):
    return generate_images(GenerationRequest(labels, weights=path, **options))


def test_what_is_not_asked_comes_from_the_card(denoiser):
    request = with_defaults(GenerationRequest((0,), weights=denoiser))
    assert (request.guidance_scale, request.sampler, request.steps) == (3.0, "ddpm", 4)
    request = with_defaults(
        GenerationRequest((0,), weights=denoiser, guidance_scale=0.0, sampler="ddim", steps=2)
    )
    assert (request.guidance_scale, request.sampler, request.steps) == (0.0, "ddim", 2)


def test_one_step_an_evaluation_and_the_last_is_the_image(denoiser):
    steps = list(generate(GenerationRequest((0, 1, 2), weights=denoiser, steps=5)))
    assert [step.t for step in steps] == [99, 79, 59, 39, 19]
    assert steps[-1].x_t.shape == (3, 1, 8, 8) and steps[-1].x_t.dtype == torch.float32
    assert torch.equal(steps[-1].x_t.clamp(-1, 1), images(denoiser, (0, 1, 2), steps=5))


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_the_same_request_draws_the_same_and_another_seed_another(denoiser, sampler):
    first = images(denoiser, sampler=sampler, seed=1)
    assert torch.equal(first, images(denoiser, sampler=sampler, seed=1))
    assert not torch.allclose(first, images(denoiser, sampler=sampler, seed=2))


@pytest.mark.parametrize(
    "options", [{"sampler": "ddpm"}, {"sampler": "ddim"}, {"sampler": "ddim", "eta": 0.7}]
)
def test_a_sample_is_the_same_in_any_batch(denoiser, options):
    labels = (0, 1, 2, 0, 1, 2, 0, 1)
    together = images(denoiser, labels, **options)
    alone = [images(denoiser, labels[k : k + 1], sample_indices=(k,), **options) for k in range(8)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-4)


def test_equal_sample_indices_get_equal_noise(denoiser):
    first = next(generate(GenerationRequest((0, 0), weights=denoiser, sample_indices=(5, 5))))
    torch.testing.assert_close(first.x_t[0], first.x_t[1], rtol=0, atol=1e-5)


def test_the_global_generator_neither_decides_nor_is_changed(denoiser):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = images(denoiser, sampler="ddpm")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert torch.equal(first, images(denoiser, sampler="ddpm"))


@pytest.mark.parametrize(
    "options, batch, labels",
    [
        ({"guidance": "none"}, 2, None),
        ({"guidance_scale": 0.0}, 2, None),
        ({"guidance_scale": 1.0}, 2, [0, 1]),
        ({"guidance_scale": 2.0}, 4, [3, 3, 0, 1]),
    ],
)
def test_the_network_is_asked_once_a_step(denoiser, asked, options, batch, labels):
    images(denoiser, steps=3, **options)
    assert asked == [(batch, labels)] * 3


def test_guidance_none_does_not_hear_the_labels(denoiser):
    assert torch.equal(images(denoiser, (0, 1), guidance="none"), images(denoiser, (99, -1), guidance="none"))


def test_bf16_runs_the_network_in_bfloat16_and_nothing_else(denoiser):
    exact, fast = (
        next(
            generate(
                GenerationRequest((0, 1), weights=denoiser, sampler="ddim", steps=50, precision=precision)
            )
        ).x_t
        for precision in ("float32", "bf16")
    )
    assert fast.dtype == torch.float32 and not torch.equal(exact, fast)
    torch.testing.assert_close(exact, fast, rtol=0, atol=0.01)


def test_a_network_in_hand_needs_no_weights(denoiser):
    network, schedule, _ = load_model(denoiser)
    request = GenerationRequest((1,), guidance_scale=2.0, sampler="ddim", steps=3)
    *_, last = generate_with(network, schedule, request)
    named = images(denoiser, (1,), guidance_scale=2.0, sampler="ddim", steps=3)
    assert torch.equal(last.x_t.clamp(-1, 1), named)


def test_the_weights_are_read_once_until_they_or_their_card_change(denoiser):
    first = load_model(denoiser)
    assert load_model(denoiser)[0] is first[0]
    write_card(denoiser, read_card(denoiser) | {"metrics": {"accuracy": 1}})
    assert load_model(denoiser)[2]["metrics"] == {"accuracy": 1}


def test_labels_may_be_tensors_and_numpy_numbers():
    for labels in (torch.tensor([1, 2]), np.array([1, 2]), [1, 2], range(1, 3)):
        assert GenerationRequest(labels).labels == (1, 2)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"labels": ()}, "At least one label"),
        ({"labels": (1.5,)}, "Labels must be whole numbers"),
        ({"labels": ("3",)}, "Labels must be whole numbers"),
        ({"labels": 3}, "Labels must be whole numbers"),
        ({"guidance": "classifier"}, "choose one of none, cfg"),
        ({"guidance_scale": float("nan")}, "finite number, got nan"),
        ({"guidance_scale": float("inf")}, "finite number, got inf"),
        ({"guidance_scale": "two"}, "finite number, got 'two'"),
        ({"sampler": "euler"}, "choose one of ddpm, ddim"),
        ({"steps": 0}, "at least 1, got 0"),
        ({"steps": -3}, "at least 1, got -3"),
        ({"sample_indices": (1, 2)}, "2 sample indices for 1 labels"),
        ({"precision": "int8"}, "choose one of float32, bf16"),
    ],
)
def test_a_request_that_no_weights_could_draw_is_refused_at_once(wrong, message):
    with pytest.raises(ValueError, match=message):
        GenerationRequest(**({"labels": (0,)} | wrong))


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"labels": (3,)}, "Unknown label 3: choose from 0 to 2"),  # the null label is none to ask for
        ({"labels": (-1,)}, "Unknown label -1"),
        ({"steps": 101}, "between 1 and 100"),
        ({"interval": (9, 3)}, "t_low <= t_high"),
        ({"eta": 2.0, "sampler": "ddim"}, "eta must be between"),
    ],
)
def test_a_request_that_these_weights_cannot_draw_is_refused(denoiser, wrong, message):
    with pytest.raises(ValueError, match=message):
        list(generate(GenerationRequest(**({"labels": (0,), "weights": denoiser} | wrong))))


def test_weights_that_cannot_draw_are_refused(tmp_path):
    path = tmp_path / "reader.safetensors"
    save_pretrained(path, Evaluator(EvaluatorConfig(widths=(32,))), None, {})
    with pytest.raises(WeightsError, match="no denoiser"):
        images(path)
    with pytest.raises(WeightsError, match="There are no weights"):
        images(tmp_path / "none.safetensors")


def test_an_interval_is_handed_on(denoiser):
    plain = images(denoiser, guidance_scale=1.0)
    assert torch.allclose(images(denoiser, guidance_scale=4.0, interval=(100, 200)), plain, atol=1e-5)
    assert not torch.allclose(images(denoiser, guidance_scale=4.0, interval=(0, 99)), plain, atol=1e-3)


def test_every_sampler_and_guidance_that_is_named_draws(denoiser):
    for sampler in generation.SAMPLERS:
        for guidance in generation.GUIDANCES:
            assert images(denoiser, sampler=sampler, guidance=guidance, steps=2).isfinite().all()
