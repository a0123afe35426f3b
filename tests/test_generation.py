"""pipeline.py: defaults from the card, noise from (seed, k), one sentence for nonsense."""

import pytest
import torch
from command_tools import save, tiny_reader, tiny_unet
from numeric import assert_close_by_scale

from lessons_lib import pipeline
from lessons_lib.guidance import class_log_prob, unconditional, with_classifier, x0_log_prob
from lessons_lib.pipeline import GenerationRequest, generate, generate_images, load_model
from lessons_lib.samplers import sample_ddim
from lessons_lib.schedules import NoiseSchedule
from lessons_lib.weights import WeightsError, read_card, write_card

LINEAR = NoiseSchedule.linear(100)
DEFAULTS = {"guidance_scale": 3.0, "sampler": "ddpm", "steps": 4}

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    return save(folder / "tiny.safetensors", tiny_unet(num_classes=3), LINEAR, **DEFAULTS)


@pytest.fixture(scope="module")
def guide(denoiser):
    return save(denoiser.with_stem("guide"), tiny_reader(), LINEAR, guidance_scale=2.5)


@pytest.fixture(scope="module")
def reader(denoiser):
    return save(denoiser.with_stem("reader"), tiny_reader(noisy=False))


def images(path, labels=(0, 1), **options):
    return generate_images(GenerationRequest(labels, weights=path, **options))


def test_what_is_not_asked_comes_from_the_card_and_weights_are_read_once(denoiser):
    request = GenerationRequest((0,), weights=denoiser).plan().request
    assert (request.guidance_scale, request.sampler, request.steps) == (3.0, "ddpm", 4)
    request = GenerationRequest((0,), weights=denoiser, guidance_scale=0.0, sampler="ddim", steps=2)
    request = request.plan().request
    assert (request.guidance_scale, request.sampler, request.steps) == (0.0, "ddim", 2)
    first = load_model(denoiser)
    assert load_model(denoiser)[0] is first[0]
    write_card(denoiser, read_card(denoiser) | {"metrics": {"accuracy": 1}})
    assert load_model(denoiser)[2]["metrics"] == {"accuracy": 1}


@pytest.mark.parametrize("options", [{"sampler": name} for name in pipeline.SAMPLERS] + [{"eta": 0.7}])
@pytest.mark.usefixtures("in_float64")
def test_a_sample_is_the_same_in_any_batch(denoiser, options):
    labels = (0, 1, 2, 0, 1, 2, 0, 1)
    options = {"sampler": "ddim"} | options
    together = images(denoiser, labels, **options)
    alone = [images(denoiser, labels[k : k + 1], sample_indices=(k,), **options) for k in range(8)]
    assert_close_by_scale(together, torch.cat(alone))


@pytest.mark.parametrize("scale, labels", [(0.0, 2), (1.0, [0, 1]), (2.0, [3, 3, 0, 1])])
def test_the_network_is_asked_once_a_step(denoiser, heard, scale, labels):
    images(denoiser, steps=3, guidance_scale=scale)
    assert heard == [labels] * 3
    images(denoiser, steps=3, guidance="none")
    assert heard[3:] == [2] * 3


REFUSED_AT_ONCE = [
    ({"labels": ()}, "At least one label"),
    ({"labels": (1.5,)}, "Labels must be whole numbers"),
    ({"labels": 3}, "Labels must be whole numbers"),
    ({"labels": (0, (1, 0))}, "all numbers or all rows of attributes, got both"),
    ({"labels": ((1, 0.5),)}, "Labels must be whole numbers or rows of them"),
    ({"labels": ((1, 0), (2, 0))}, r"1 \(yes\), 0 \(no\) or -1 \(untold\), got 2"),
    ({"labels": ((1, 0),), "guidance": "classifier"}, "Rows of attributes need guidance 'cfg'"),
    ({"guidance": "magic"}, "choose one of none, cfg, classifier, classifier-x0"),
    ({"guidance": "classifier", "guidance_scale": -1.0}, "must be at least 0, got -1.0"),
    ({"guidance": "classifier-x0", "guidance_scale": float("inf")}, "finite number, got inf"),
    ({"guidance": "cfg", "classifier": "mine"}, "'cfg' asks no classifier, but 'mine' was given"),
    ({"spacing": "karras"}, "choose one of trailing, leading, linspace, logsnr"),
    ({"guidance_scale": float("nan")}, "finite number, got nan"),
    ({"guidance_scale": "two"}, "finite number, got 'two'"),
    ({"sampler": "euler"}, "choose one of ddpm, ddim, dpmpp_2m"),
    ({"steps": 0}, "at least 1, got 0"),
    ({"sample_indices": (1, 2)}, "2 sample indices for 1 labels"),
    ({"precision": "int8"}, "choose one of float32, bf16"),
]
REFUSED_BY_THE_WEIGHTS = [
    ({"labels": (3,)}, "Unknown label 3: choose from 0 to 2"),  # the null label is none to ask for
    ({"labels": (-1,)}, "Unknown label -1"),
    ({"steps": 101}, "between 1 and 100"),
    ({"interval": (9, 3)}, "t_low <= t_high"),
    ({"eta": 2.0, "sampler": "ddim"}, "eta must be between"),
]


def test_a_request_that_cannot_be_drawn_is_refused(denoiser):
    for wrong, message in REFUSED_AT_ONCE:
        with pytest.raises(ValueError, match=message):
            GenerationRequest(**({"labels": (0,)} | wrong))
    for wrong, message in REFUSED_BY_THE_WEIGHTS:
        with pytest.raises(ValueError, match=message):
            list(generate(GenerationRequest(**({"labels": (0,), "weights": denoiser} | wrong))))


def test_a_classifier_steers_the_unconditional_network(denoiser, guide, heard):
    options = {"guidance": "classifier", "classifier": guide, "sampler": "ddim", "steps": 3}
    steered = images(denoiser, guidance_scale=20.0, **options)
    assert heard == [2] * 3, "the network does not hear the labels"
    plain = images(denoiser, guidance="none", sampler="ddim", steps=3)
    assert torch.equal(images(denoiser, guidance_scale=0.0, **options), plain)
    assert not torch.allclose(steered, plain, atol=1e-3)
    other = images(denoiser, (1, 0), guidance_scale=20.0, **options)
    assert not torch.allclose(steered, other, atol=1e-3), "the classifier does hear them"
    assert not torch.allclose(images(denoiser, guidance_scale=20.0, interval=(0, 40), **options), steered)


@pytest.mark.parametrize("guidance", ["classifier", "classifier-x0"])
def test_a_steered_step_is_guidance_as_the_lessons_write_it(denoiser, guide, guidance):
    network, schedule, _ = load_model(denoiser)
    request = GenerationRequest(
        (0, 2), denoiser, guidance, guidance_scale=4.0, classifier=guide, sampler="ddim", steps=4
    )
    x_T = request.plan().x_T
    y, classifier, base = torch.tensor([0, 2]), load_model(guide)[0], unconditional(network)
    by_x0 = guidance == "classifier-x0"
    log_prob = x0_log_prob(classifier, base, schedule, y) if by_x0 else class_log_prob(classifier, y)
    eps_fn = with_classifier(base, log_prob, schedule, 4.0)
    expected = sample_ddim(eps_fn, schedule, x_T, torch.tensor([99, 74, 49, 24]))
    for ours, theirs in zip(generate(request), expected, strict=True):
        assert ours.t == theirs.t and torch.equal(ours.x_t, theirs.x_t)


def test_the_scale_of_a_classifier_comes_from_its_own_card(denoiser, guide, reader, monkeypatch, tmp_path):
    filled = GenerationRequest((0,), denoiser, "classifier", classifier=guide).plan().request
    assert filled.guidance_scale == 2.5, "not the denoiser's w of 3"
    by_estimate = GenerationRequest((0,), denoiser, "classifier-x0", classifier=reader)
    assert by_estimate.plan().request.guidance_scale == 1.0
    assert GenerationRequest((0,), denoiser).plan().request.classifier is None
    monkeypatch.setattr(pipeline, "CLASSIFIER", str(guide))
    assert GenerationRequest((0,), denoiser, "classifier").plan().request.classifier == str(guide)
    defaults = DEFAULTS | {"classifier": str(reader)}
    mine = save(tmp_path / "mine.safetensors", load_model(denoiser)[0], LINEAR, **defaults)
    assert GenerationRequest((0,), mine, "classifier-x0").plan().request.classifier == str(reader)


def steered(denoiser, classifier, guidance="classifier", **options):
    return GenerationRequest((0,), denoiser, guidance, classifier=classifier, **options)


UNSUITABLE = [
    (NoiseSchedule.cosine(100), {}, r"another schedule \(cosine, T=100; not linear, T=100\)"),
    (NoiseSchedule.linear(50), {}, r"another schedule \(linear, T=50; not linear, T=100\)"),
    (LINEAR, {"num_classes": 4}, "has 4 classes but the denoiser has 3"),
    (LINEAR, {"image_size": 16}, "has 16 pixels a side but the denoiser has 8"),
    (LINEAR, {"in_channels": 3}, "has 3 channels but the denoiser has 1"),
]


def test_what_cannot_steer_is_refused(denoiser, reader, guide, tmp_path):
    for k, (schedule, config, message) in enumerate(UNSUITABLE):
        path = save(tmp_path / f"{k}.safetensors", tiny_reader(**config), schedule)
        for ask in (lambda request: next(generate(request)), GenerationRequest.plan):
            with pytest.raises(ValueError, match=message):
                ask(steered(denoiser, path))
        if not config:  # told t = 0 it reads estimates, which no schedule noises
            assert steered(denoiser, path, "classifier-x0").plan().num_labels == 3
    for network, classifier, message in (
        (denoiser, denoiser, "no classifier: they cannot steer"),
        (denoiser, reader, "reads clean images only"),
        (denoiser, "nobody", "There are no weights 'nobody'"),
        (guide, guide, "no denoiser"),
    ):
        with pytest.raises(WeightsError, match=message):
            steered(network, classifier).plan()
    assert steered(denoiser, reader, "classifier-x0").plan().num_labels == 3


def test_weights_first_loaded_under_inference_mode_can_steer_later(tmp_path, denoiser):
    path = save(tmp_path / "fresh.safetensors", tiny_reader(), LINEAR)
    with torch.inference_mode():
        load_model(path)
        with pytest.raises(RuntimeError, match="inference_mode"):
            images(denoiser, guidance="classifier", classifier=path, steps=2)
    assert images(denoiser, guidance="classifier", classifier=path, steps=2).isfinite().all()


@pytest.mark.parametrize(
    "options, timesteps",
    [
        ({"sampler": "ddim"}, [99, 74, 49, 24]),
        ({"sampler": "ddpm", "spacing": "leading"}, [75, 50, 25, 0]),
        ({"sampler": "ddim", "spacing": "linspace"}, [99, 66, 33, 0]),
        ({"sampler": "dpmpp_2m", "spacing": "trailing"}, [99, 74, 49, 24]),
    ],
)
def test_the_spacing_is_the_samplers_own_unless_it_is_asked_for(denoiser, options, timesteps):
    assert [step.t for step in generate(GenerationRequest((0,), denoiser, steps=4, **options))] == timesteps


@pytest.mark.parametrize("sampler", pipeline.SAMPLERS)
def test_a_plan_is_walked_twice_with_the_same_noise(denoiser, sampler):
    plan = GenerationRequest((0, 1), denoiser, sampler=sampler, eta=0.5, steps=3).plan()
    first, again = ([step.x_t for step in plan.steps()] for _ in range(2))
    assert all(map(torch.equal, first, again))
