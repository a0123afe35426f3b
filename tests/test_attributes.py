"""Yes-or-no attributes, from the networks that read them to requests that are steered by them."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numeric import SEED, assert_close_by_scale, seeded

from lessons_lib.classifier import Evaluator, EvaluatorConfig, NoisyClassifier, NoisyClassifierConfig
from lessons_lib.pipeline import (
    CounterfactualRequest,
    GenerationRequest,
    counterfactual_images,
    generate_images,
)
from lessons_lib.recipes.losses import label_loss
from lessons_lib.schedules import NoiseSchedule, eps_from_v, q_sample
from lessons_lib.training import denoising_loss
from lessons_lib.unet import UNet, UNetConfig
from lessons_lib.weights import load_pretrained, save_pretrained

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("one_thread")]

NAMES = ("Smiling", "Eyeglasses", "Wearing_Hat")
SCHEDULES = {name: NoiseSchedule.by_name(name, 100) for name in ("linear", "cosine", "sigmoid")}


def numbers(*shape, seed=0, dtype=None):
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def awake(network):
    """Fresh networks end in zeros: give every layer something to say."""
    torch.manual_seed(3 + SEED)
    for parameter in network.parameters():
        if parameter.abs().sum() == 0:
            torch.nn.init.normal_(parameter, std=0.05)
    return network.eval()


def unet(**changes):
    shape = {
        "image_size": 8,
        "in_channels": 3,
        "base_channels": 32,
        "channel_mults": (1, 2),
        "num_classes": 0,
    }
    torch.manual_seed(SEED)
    return UNet(UNetConfig(**(shape | {"embedding_channels": 16} | changes)))


# -- patches ------------------------------------------------------------------------------------------


def test_a_patch_is_one_position_and_pixels_return_to_their_places():
    """The first layer sees half the height and width; the last one's answer is put back pixel by pixel."""
    network, seen = awake(unet(patch=2)), []
    network.stem.register_forward_hook(lambda module, given, found: seen.append(given[0]))
    network.conv_out.register_forward_hook(lambda module, given, found: seen.append(found))
    x_t = numbers(1, 3, 8, 8)
    found = network(x_t, torch.tensor([5]))
    into, out = seen
    assert into.shape == out.shape == (1, 12, 4, 4)
    for c in range(3):
        for i in range(2):
            for j in range(2):
                assert torch.equal(into[:, 4 * c + 2 * i + j], x_t[:, c, i::2, j::2])
                assert torch.equal(found[:, c, i::2, j::2], out[:, 4 * c + 2 * i + j])


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"image_size": 10, "patch": 2},
            "image_size 10 must be a multiple of 4 for 2 levels of patches of 2",
        ),
        ({"image_size": 8, "patch": 3}, "image_size 8 must be a multiple of 6"),
        ({"patch": 0}, "patch must be at least 1, got 0"),
        ({"v_schedule": "square"}, "Unknown schedule 'square'"),
        ({"v_schedule": "linear", "v_timesteps": 1}, "at least 2 timesteps, got 1"),
    ],
)
def test_an_impossible_network_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        unet(**changes)


# -- v ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULES)
def test_eps_comes_back_from_v(name):
    schedule, t = SCHEDULES[name], torch.arange(100)
    x_0, eps = (numbers(100, 3, 4, 5, seed=k, dtype=torch.float64) for k in (1, 2))
    abar = schedule.alphas_cumprod.view(-1, 1, 1, 1)
    v = abar.sqrt() * eps - (1 - abar).sqrt() * x_0
    found = eps_from_v(schedule, q_sample(schedule, x_0, t, eps), t, v)
    torch.testing.assert_close(found, eps, rtol=0, atol=1e-10)


# -- losses -------------------------------------------------------------------------------------------


class Guess(torch.nn.Module):
    """Guesses half of x_t, and keeps what it was asked."""

    def forward(self, x_t, t):
        self.x_t, self.t = x_t, t
        return 0.5 * x_t


@pytest.mark.parametrize("name", SCHEDULES)
def test_held_snr_is_the_error_of_x_0_with_its_weight_within_1_and_5(name):
    schedule, model = SCHEDULES[name], Guess()
    x_0 = 0.5 * numbers(256, 3, 4, 5, seed=7)
    loss = denoising_loss(schedule, loss="held-snr")(
        model, x_0, torch.zeros(256).long(), torch.Generator().manual_seed(0)
    )
    abar = schedule.alphas_cumprod[model.t].view(-1, 1, 1, 1)
    x_t = model.x_t.double()
    estimate = (x_t - (1 - abar).sqrt() * 0.5 * x_t) / abar.sqrt()
    each = ((estimate - x_0.double()) ** 2).mean(dim=(1, 2, 3))
    snr = (abar / (1 - abar)).flatten()
    expected = sum(min(max(float(s), 1.0), 5.0) * float(e) for s, e in zip(snr, each, strict=True)) / 256
    assert (snr < 1).any() and (snr > 5).any(), "both ends are held"
    assert float(loss) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_labels_and_of_attributes(smoothing):
    logits = numbers(6, 3).double()
    y = torch.tensor([0, 2, 1, 1, 0, 2])
    log_p = logits - logits.logsumexp(1, keepdim=True)
    goal = F.one_hot(y, 3) * (1 - smoothing) + smoothing / 3
    found = label_loss(logits, y, smoothing)
    assert float(found) == pytest.approx(float(-(goal * log_p).sum(1).mean()), rel=1e-5)
    answers = torch.tensor([[0, 1, 1], [1, 0, 0]] * 3)
    p = 1 / (1 + (-logits).exp())
    goal = answers * (1 - smoothing) + smoothing / 2
    expected = -(goal * p.log() + (1 - goal) * (1 - p).log()).mean()
    assert float(label_loss(logits, answers, smoothing)) == pytest.approx(float(expected), rel=1e-5)


# -- readers of attributes ----------------------------------------------------------------------------


# -- requests -----------------------------------------------------------------------------------------


def save_reader(path, schedule=SCHEDULES["linear"], *, names=NAMES, multi_label=True):
    torch.manual_seed(1 + SEED)
    shape = {"image_size": 8, "in_channels": 3, "widths": (32, 32), "multi_label": multi_label}
    shape["num_classes"] = 3
    if schedule is None:
        network = Evaluator(EvaluatorConfig(**shape))
    else:
        network = NoisyClassifier(NoisyClassifierConfig(**shape, embedding_channels=16))
    with torch.no_grad():
        awake(network)
        head = network.head if schedule is not None else network.head[-1]
        head.weight.mul_(4)  # so that tiny networks have an opinion
    card = {"defaults": {"guidance_scale": 2.0}} | ({"class_names": list(names)} if names else {})
    save_pretrained(path, network, schedule, card)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An unconditional denoiser, and readers of attributes and of classes."""
    folder = tmp_path_factory.mktemp("weights")
    network = awake(unet(patch=2, v_schedule="linear", v_timesteps=100))
    card = {"defaults": {"sampler": "ddim", "steps": 8, "classifier": str(folder / "reader.safetensors")}}
    save_pretrained(folder / "denoiser.safetensors", network, SCHEDULES["linear"], card)
    save_reader(folder / "reader.safetensors")
    save_reader(folder / "nameless.safetensors", names=None)
    save_reader(folder / "classes.safetensors", multi_label=False)
    save_reader(folder / "other.safetensors", SCHEDULES["cosine"])
    save_reader(folder / "clean.safetensors", None)
    return folder


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


def smile(folder, images, place=0, name="reader"):
    """The classifier's own probability of the attribute in images that are all but clean."""
    network = load_pretrained(folder / f"{name}.safetensors")[0]
    return network.probabilities(images, torch.zeros(len(images), dtype=torch.int64))[:, place]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_guidance_moves_the_classifiers_own_probability_the_way_that_was_asked(asked, folder, place):
    seeds = {"sample_indices": tuple(range(6)), "attribute": place}
    yes, no = (generate_images(asked((label,) * 6, **seeds)) for label in (1, 0))
    plain = generate_images(
        asked((0,) * 6, sample_indices=tuple(range(6)), attribute=place, guidance_scale=0)
    )
    none = asked((0,) * 6, None, sample_indices=tuple(range(6)), guidance="none", attribute=None)
    torch.testing.assert_close(plain, generate_images(none))
    up, middle, down = (smile(folder, images, place) for images in (yes, plain, no))
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


@pytest.mark.parametrize(
    "labels, changes, message",
    [
        ((2,), {}, r"target of an attribute must be 1 \(yes\) or 0 \(no\), got 2"),
        ((0, -1), {}, r"must be 1 \(yes\) or 0 \(no\), got -1"),
        ((1,), {"guidance": "none", "classifier": None}, "with guidance 'cfg' or 'classifier', not 'none'"),
        ((1,), {"guidance": "classifier-x0"}, "with guidance 'cfg' or 'classifier', not 'classifier-x0'"),
        (((1, 0),), {"guidance": "cfg", "classifier": None}, r"must be 1 \(yes\) or 0 \(no\), got \(1, 0\)"),
    ],
)
def test_what_no_attribute_can_be_asked_with_is_refused_at_once(asked, labels, changes, message):
    with pytest.raises(ValueError, match=message):
        asked(labels, **changes)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"attribute": "smilng"}, "Unknown attribute 'smilng': did you mean Smiling"),
        ({"attribute": "glasses"}, "Unknown attribute 'glasses': did you mean Eyeglasses"),
        ({"attribute": 3}, "Unknown attribute 3: choose from 0 to 2"),
        ({"attribute": -1}, "Unknown attribute -1: choose from 0 to 2"),
        ({"attribute": None}, "reads attributes: name one, such as Smiling"),
        (
            {"attribute": None, "guidance": "classifier-x0"},
            "reads attributes: steer with guidance classifier",
        ),
        ({"classifier": "classes"}, "reads classes, not attributes"),
        ({"guidance": "cfg", "classifier": None}, "is told no attributes: steer it with guidance classifier"),
        ({"classifier": "other"}, "was trained on another schedule"),
    ],
)
def test_what_this_classifier_cannot_do_is_refused_before_any_work(asked, changes, message):
    for refuse in (GenerationRequest.plan, generate_images):
        with pytest.raises(ValueError, match=message):
            refuse(asked((1,), **changes))


# -- a denoiser that is told attributes ---------------------------------------------------------------

TOLD = ("Male", "Smiling")  # not as many as the reader reads, nor in its order


@pytest.fixture(scope="module")
def told(folder):
    """The path of a denoiser of two attributes; the readers' folder has one of classes beside it."""
    shape = {"patch": 2, "v_schedule": "linear", "v_timesteps": 100, "num_classes": 2}
    card = {"defaults": {"guidance_scale": 3.0, "sampler": "ddim", "steps": 4}}
    save_pretrained(folder / "of-classes.safetensors", awake(unet(**shape)), SCHEDULES["linear"], card)
    network = awake(unet(**shape, multi_label=True, augment_channels=3))
    card["class_names"] = list(TOLD)
    save_pretrained(folder / "told.safetensors", network, SCHEDULES["linear"], card)
    return folder / "told.safetensors"


@pytest.fixture
def heard(monkeypatch):
    """The y of each call of a network."""
    calls, forward = [], UNet.forward

    def listening(self, x_t, t, y=None):
        calls.append(None if y is None else y.tolist())
        return forward(self, x_t, t, y)

    monkeypatch.setattr(UNet, "forward", listening)
    return calls


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


@pytest.mark.parametrize(
    "name, labels, changes, message",
    [
        ("told", (1,), {}, "told.safetensors' is told attributes: name one, such as Smiling"),
        ("told", (1,), {"attribute": "Eyeglasses"}, "Unknown attribute 'Eyeglasses': choose one of Male"),
        ("told", (1,), {"attribute": 2}, "Unknown attribute 2: choose from 0 to 1"),
        ("told", ((1, 0, 1),), {}, "is told 2 attributes, got 3"),
        ("told", ((1, 0), (1,)), {}, "is told 2 attributes, got 1"),
        ("of-classes", ((1, 0),), {}, "is told no attributes"),
        ("of-classes", (1,), {"attribute": 0}, "is told no attributes"),
    ],
)
def test_what_a_denoiser_is_not_told_is_refused_before_any_work(told, name, labels, changes, message):
    request = GenerationRequest(labels, told.with_stem(name), **changes)
    for refuse in (GenerationRequest.plan, generate_images):
        with pytest.raises(ValueError, match=message):
            refuse(request)


# -- counterfactuals ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn(folder):
    """Four pictures that the denoiser itself would draw."""
    request = GenerationRequest((0,) * 4, folder / "denoiser.safetensors", "none", steps=8)
    return generate_images(request)


@pytest.mark.parametrize("method", ["ddim", "ddpm"])
def test_a_counterfactual_of_a_denoiser_that_is_told_abducts_what_the_source_is(told, drawn, method, heard):
    options = {"method": method, "guidance_scale": 1.0, "steps": 5}
    request = CounterfactualRequest((1,), (0,), told, attribute="Smiling", **options)
    counterfactual_images(request, drawn[:1])
    assert heard == [[[-1, 1]]] * (len(heard) - 5) + [[[-1, 0]]] * 5 and len(heard) > 5
    heard.clear()
    counterfactual_images(CounterfactualRequest(((1, 0),), ((0, 0),), told, **options), drawn[:1])
    assert heard == [[[1, 0]]] * (len(heard) - 5) + [[[0, 0]]] * 5 and len(heard) > 5
