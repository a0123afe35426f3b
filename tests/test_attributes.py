"""Yes-or-no attributes, from the networks that read them to requests that are steered by them."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from command_tools import save, tiny_reader, tiny_unet
from numeric import assert_close_by_scale, seeded

from lessons_lib import pipeline
from lessons_lib.pipeline import GenerationRequest, generate_images
from lessons_lib.recipes.losses import label_loss
from lessons_lib.schedules import NoiseSchedule
from lessons_lib.weights import load_pretrained

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("one_thread")]

NAMES = ("Smiling", "Eyeglasses", "Wearing_Hat")
TOLD = ("Male", "Smiling")  # what a denoiser is told: not as many as the reader reads, nor in its order
LINEAR, COSINE = NoiseSchedule.linear(100), NoiseSchedule.cosine(100)
COLOUR = {"in_channels": 3, "num_classes": 0}
PATCHED = COLOUR | {"patch": 2, "v_schedule": "linear", "v_timesteps": 100}


def numbers(*shape, seed=0, dtype=None):
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def test_a_patch_is_one_position_and_pixels_return_to_their_places():
    """The first layer sees half the height and width; the last one's answer is put back pixel by pixel."""
    network, seen = tiny_unet(**COLOUR, patch=2), []
    network.stem.register_forward_hook(lambda module, given, found: seen.append(given[0]))
    network.conv_out.register_forward_hook(lambda module, given, found: seen.append(found))
    x_t = numbers(1, 3, 8, 8)
    found = network(x_t, torch.tensor([5]))
    into, out = seen
    assert into.shape == out.shape == (1, 12, 4, 4)
    for c, i, j in torch.cartesian_prod(torch.arange(3), *[torch.arange(2)] * 2).tolist():
        assert torch.equal(into[:, 4 * c + 2 * i + j], x_t[:, c, i::2, j::2])
        assert torch.equal(found[:, c, i::2, j::2], out[:, 4 * c + 2 * i + j])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_labels_and_of_attributes(smoothing):
    logits, y = numbers(6, 3).double(), torch.tensor([0, 2, 1, 1, 0, 2])
    log_p = logits - logits.logsumexp(1, keepdim=True)
    goal = F.one_hot(y, 3) * (1 - smoothing) + smoothing / 3
    expected = -(goal * log_p).sum(1).mean()
    assert float(label_loss(logits, y, smoothing)) == pytest.approx(float(expected), rel=1e-5)
    answers, p = torch.tensor([[0, 1, 1], [1, 0, 0]] * 3), 1 / (1 + (-logits).exp())
    goal = answers * (1 - smoothing) + smoothing / 2
    expected = -(goal * p.log() + (1 - goal) * (1 - p).log()).mean()
    assert float(label_loss(logits, answers, smoothing)) == pytest.approx(float(expected), rel=1e-5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Denoisers without attributes, with two and with classes; readers of attributes and of classes."""
    folder = tmp_path_factory.mktemp("weights")
    steps = {"sampler": "ddim", "steps": 8, "classifier": str(folder / "reader.safetensors")}
    save(folder / "denoiser.safetensors", tiny_unet(**PATCHED), LINEAR, **steps)
    steps, two = {"guidance_scale": 3.0, "sampler": "ddim", "steps": 4}, PATCHED | {"num_classes": 2}
    save(folder / "of-classes.safetensors", tiny_unet(**two), LINEAR, **steps)
    told = tiny_unet(**two, multi_label=True)
    save(folder / "told.safetensors", told, LINEAR, TOLD, **steps)
    for name, schedule, names, multi_label in (
        ("reader", LINEAR, NAMES, True),
        ("classes", LINEAR, NAMES, False),
        ("other", COSINE, NAMES, True),
    ):
        network = tiny_reader(in_channels=3, multi_label=multi_label)
        with torch.no_grad():
            network.head.weight.mul_(4)  # so that tiny networks have an opinion
        save(folder / f"{name}.safetensors", network, schedule, names, guidance_scale=2.0)
    return folder


@pytest.fixture(scope="module")
def told(folder):
    return folder / "told.safetensors"


@pytest.fixture
def asked(folder):
    """A request with the attribute Smiling, of these labels."""

    def asked(labels=(1, 0), classifier="reader", **changes):
        options = {"guidance": "classifier", "attribute": "Smiling", "guidance_scale": 5.0, "steps": 8}
        path = folder / f"{classifier}.safetensors" if classifier else None
        return GenerationRequest(
            labels, folder / "denoiser.safetensors", **(options | {"classifier": path} | changes)
        )

    return asked


@pytest.mark.parametrize("place", [0, 1, 2])
def test_guidance_moves_the_classifiers_own_probability_the_way_that_was_asked(asked, folder, place):
    seeds, reader = {"sample_indices": tuple(range(6))}, load_pretrained(folder / "reader.safetensors")[0]
    yes, no = (generate_images(asked((label,) * 6, attribute=place, **seeds)) for label in (1, 0))
    plain = generate_images(asked((0,) * 6, attribute=place, guidance_scale=0, **seeds))
    none = asked((0,) * 6, None, guidance="none", attribute=None, **seeds)
    torch.testing.assert_close(plain, generate_images(none))
    t = torch.zeros(6, dtype=torch.int64)  # all but clean
    up, middle, down = (reader.probabilities(images, t)[:, place] for images in (yes, plain, no))
    assert (up > middle).all() and (middle > down).all(), (up, middle, down)


@pytest.mark.usefixtures("in_float64")
def test_a_steered_step_is_the_formula(asked, folder):
    """eps = eps_model - s sqrt(1 - abar) grad log p, and p the sigmoid or 1 minus it."""
    network, schedule, _ = load_pretrained(folder / "denoiser.safetensors")
    reader = load_pretrained(folder / "reader.safetensors")[0]
    request = dataclasses.replace(
        asked((1, 0, 1), attribute="Eyeglasses"), sampler="ddim", spacing="trailing"
    )
    eps_fn = request.plan((network, schedule)).eps_fn
    x_t, t = numbers(3, 3, 8, 8), torch.tensor([40, 40, 90])
    found = eps_fn(x_t, t)
    moved = x_t.clone().requires_grad_()
    p = torch.sigmoid(reader(moved, t)[:, 1])
    torch.stack([p[0], 1 - p[1], p[2]]).log().sum().backward()
    noise = (1 - schedule.alphas_cumprod[t]).sqrt().view(-1, 1, 1, 1)
    expected = network(x_t, t).detach() - 5.0 * noise * moved.grad
    assert_close_by_scale(found, expected)


ROWS = ((1, 0),)
# Of attributes, of a classifier that reads them, of a denoiser that is told them.
REFUSED_AT_ONCE = [
    ((2,), {}, r"target of an attribute must be 1 \(yes\) or 0 \(no\), got 2"),
    ((0, -1), {}, r"must be 1 \(yes\) or 0 \(no\), got -1"),
    ((1,), {"guidance": "none", "classifier": None}, "with guidance 'cfg' or 'classifier', not 'none'"),
    ((1,), {"guidance": "classifier-x0"}, "with guidance 'cfg' or 'classifier', not 'classifier-x0'"),
    (ROWS, {"guidance": "cfg", "classifier": None}, r"must be 1 \(yes\) or 0 \(no\), got \(1, 0\)"),
]
REFUSED_BY_THE_CLASSIFIER = [
    ({"attribute": "smilng"}, "Unknown attribute 'smilng': did you mean Smiling"),
    ({"attribute": 3}, "Unknown attribute 3: choose from 0 to 2"),
    ({"attribute": -1}, "Unknown attribute -1: choose from 0 to 2"),
    ({"attribute": None}, "reads attributes: name one, such as Smiling"),
    ({"attribute": None, "guidance": "classifier-x0"}, "reads attributes: steer with guidance classifier"),
    ({"classifier": "classes"}, "reads classes, not attributes"),
    ({"guidance": "cfg", "classifier": None}, "is told no attributes: steer it with guidance classifier"),
    ({"classifier": "other"}, "was trained on another schedule"),
]
REFUSED_BY_THE_DENOISER = [
    ("told", (1,), {}, "told.safetensors' is told attributes: name one, such as Smiling"),
    ("told", (1,), {"attribute": "Eyeglasses"}, "Unknown attribute 'Eyeglasses': choose one of Male"),
    ("told", (1,), {"attribute": 2}, "Unknown attribute 2: choose from 0 to 1"),
    ("told", ((1, 0, 1),), {}, "is told 2 attributes, got 3"),
    ("told", ((1, 0), (1,)), {}, "is told 2 attributes, got 1"),
    ("of-classes", ROWS, {}, "is told no attributes"),
    ("of-classes", (1,), {"attribute": 0}, "is told no attributes"),
]


def test_what_no_attribute_can_be_asked_with_is_refused_at_once(asked):
    for labels, changes, message in REFUSED_AT_ONCE:
        with pytest.raises(ValueError, match=message):
            asked(labels, **changes)


def test_what_these_weights_cannot_do_is_refused_before_any_work(asked, told):
    requests = [(asked((1,), **changes), message) for changes, message in REFUSED_BY_THE_CLASSIFIER]
    for name, labels, changes, message in REFUSED_BY_THE_DENOISER:
        requests.append((GenerationRequest(labels, told.with_stem(name), **changes), message))
    for request, message in requests:
        for refuse in (GenerationRequest.plan, generate_images):
            with pytest.raises(ValueError, match=message):
                refuse(request)


@pytest.mark.parametrize("attribute", ["smiling", 1])
def test_an_attribute_is_told_alone(told, heard, attribute):
    request = GenerationRequest((1, 0), told, attribute=attribute)
    assert request.plan().num_labels == 2
    generate_images(request)
    nothing = [[-1, -1]] * 2
    assert heard == [[*nothing, [-1, 1], [-1, 0]]] * 4


def test_rows_tell_all_attributes_at_once(told, heard):
    rows = ((1, 0), (-1, 1), (-1, -1))
    for labels in (rows, torch.tensor(rows), np.array(rows), [list(row) for row in rows]):
        request = GenerationRequest(labels, told, guidance_scale=1.0)
        assert request.labels == rows and request.plan().num_labels == 2
        heard.clear()
        generate_images(request)
        assert heard == [[list(row) for row in rows]] * 4


@pytest.mark.parametrize("method", ["ddim", "ddpm"])
def test_a_counterfactual_of_a_denoiser_that_is_told_abducts_what_the_source_is(told, method, heard):
    drawn = numbers(1, 3, 8, 8).clamp(-1, 1)
    options = {"method": method, "guidance_scale": 1.0, "steps": 5}
    request = pipeline.CounterfactualRequest((1,), (0,), told, attribute="Smiling", **options)
    pipeline.counterfactual_images(request, drawn)
    assert heard == [[[-1, 1]]] * (len(heard) - 5) + [[[-1, 0]]] * 5 and len(heard) > 5
    heard.clear()
    request = pipeline.CounterfactualRequest(((1, 0),), ((0, 0),), told, **options)
    pipeline.counterfactual_images(request, drawn)
    assert heard == [[[1, 0]]] * (len(heard) - 5) + [[[0, 0]]] * 5 and len(heard) > 5
