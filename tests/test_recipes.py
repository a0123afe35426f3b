"""recipes.py: what a named training writes, and the augmentation of the evaluator's images."""

import dataclasses
import functools
import itertools
import json
import os
import signal
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from command_tools import everything

from lessons_lib import data, recipes
from lessons_lib.classifier import EvaluatorConfig, NoisyClassifierConfig, Whitening
from lessons_lib.flow_map import FlowMap, FlowMapConfig
from lessons_lib.recipes import RECIPES, DiffusionOptions, Recipe, WeightsSaved, losses
from lessons_lib.schedules import NoiseSchedule, q_sample
from lessons_lib.training import StepDone, Stopped, TrainConfig, TrainingError, train
from lessons_lib.unet import UNet, UNetConfig
from lessons_lib.weights import WeightsError, load_pretrained, read_card, save_pretrained

CONFIG = UNetConfig(image_size=8, base_channels=32, channel_mults=(1,))
DENOISER = dataclasses.replace(RECIPES["mnist", "denoiser"], network=CONFIG)
EVALUATOR = Recipe("mnist-evaluator", EvaluatorConfig(8, widths=(32,)), TrainConfig())
READER = NoisyClassifierConfig(8, widths=(32,))
CLASSIFIERS = {
    kind: Recipe(f"mnist-{kind}", READER, TrainConfig(), noisy=kind == "classifier")
    for kind in ("classifier", "clean-classifier")
}
DIGITS = data.load("digits", "test")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Twelve images of 8×8 pixels, and networks of one level."""
    pixels = DIGITS.images[:12, :, 6:22:2, 6:22:2]
    images = data.ImageSet(pixels, DIGITS.labels[:12], DIGITS.class_names, "digits")
    monkeypatch.setattr(data, "load", lambda name, split: images)
    monkeypatch.setitem(RECIPES, ("mnist", "denoiser"), DENOISER)
    monkeypatch.setitem(RECIPES, ("mnist", "evaluator"), EVALUATOR)
    for kind, recipe in CLASSIFIERS.items():
        monkeypatch.setitem(RECIPES, ("mnist", kind), recipe)


def config(folder, **changes):
    given = {"epochs": 2, "batch_size": 4, "device": "cpu", "precision": "float32", "output_dir": folder}
    return TrainConfig(**(given | changes))


def run(folder, model="denoiser", options=None, **changes):
    how = {name: changes.pop(name) for name in ("resume", "start") if name in changes}
    options, training = options or DiffusionOptions(timesteps=20), config(folder, **changes)
    sets = functools.partial(recipes.load_splits, "mnist", training)
    recipe = RECIPES["mnist", model]
    return list(recipes.run_recipe(recipe, sets, training, options, command="train me", **how))


def test_a_denoiser_writes_samples_losses_weights_and_card(tmp_path):
    events = run(tmp_path)
    told = {"StepDone": 6, "EpochDone": 2, "SamplesDrawn": 2, "Stopped": 1, "WeightsSaved": 1}
    assert Counter(type(event).__name__ for event in events) == told
    assert events[-1] == WeightsSaved(tmp_path / "mnist-denoiser.safetensors")
    files = "checkpoint.pt losses.json mnist-denoiser.json mnist-denoiser.safetensors samples_epoch_001.png"
    assert everything(tmp_path) == [*files.split(), "samples_epoch_002.png"]
    model, schedule, card = load_pretrained(tmp_path / "mnist-denoiser.safetensors")
    assert model.config == CONFIG and schedule.num_timesteps == 20
    training = card["training"]
    assert {"command": "train me", "ended": "finished", "images_seen": 24}.items() <= training.items()
    assert "scikit-learn" in training["data"] and training["settings"]["p_uncond"] == 0.1
    assert card["defaults"] == {"guidance_scale": 2.0, "sampler": "ddim", "steps": 10}
    ema = next(event for event in events if isinstance(event, Stopped)).ema_model
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, ema.state_dict()[name].half().float())


def test_training_starts_from_given_weights(tmp_path):
    run(tmp_path / "first")
    path = tmp_path / "first" / "mnist-denoiser.safetensors"
    before = load_pretrained(path)[0].state_dict()
    run(tmp_path / "second", start=path, lr=1e-9, seed=1)
    model, _, card = load_pretrained(tmp_path / "second" / "mnist-denoiser.safetensors")
    for name, tensor in model.state_dict().items():
        assert torch.allclose(tensor, before[name], atol=1e-6)
    origin = card["training"]["start"]
    run(tmp_path / "second", resume=True, lr=1e-9, seed=1)
    card = load_pretrained(tmp_path / "second" / "mnist-denoiser.safetensors")[2]
    assert card["training"]["start"] == origin
    assert origin["weights"] == "mnist-denoiser" and origin["images_seen"] == 24
    assert origin["sha256"] == load_pretrained(path)[2]["sha256"] != card["sha256"]


def test_a_start_that_does_not_fit_is_refused(tmp_path):
    run(tmp_path / "first")
    path = tmp_path / "first" / "mnist-denoiser.safetensors"
    with pytest.raises(ValueError, match="trained with the linear schedule, T = 20"):
        run(tmp_path / "second", start=path, options=DiffusionOptions(timesteps=10))
    with pytest.raises(ValueError, match="of another network"):
        run(tmp_path / "third", "evaluator", start=path)
    with pytest.raises(WeightsError, match="There are no weights"):
        run(tmp_path / "fourth", start="nowhere")
    assert not (tmp_path / "second").exists()


def test_an_interrupted_flow_map_keeps_its_weights_and_resumes_to_the_same_ones(tmp_path, flow_recipe):
    run(tmp_path / "whole", "flow-map")
    training = config(tmp_path / "cut")
    sets, options = functools.partial(recipes.load_splits, "mnist", training), DiffusionOptions(timesteps=20)
    for event in recipes.run_recipe(flow_recipe, sets, training, options):
        if isinstance(event, StepDone) and event.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
    weights = tmp_path / "cut" / "mnist-flow-map.safetensors"
    assert event == WeightsSaved(weights)
    assert load_pretrained(weights)[2]["training"]["ended"] == "interrupted"
    run(tmp_path / "cut", "flow-map", resume=True)
    assert weights.read_bytes() == (tmp_path / "whole" / weights.name).read_bytes()
    losses = [json.loads((tmp_path / name / "losses.json").read_text()) for name in ("whole", "cut")]
    assert losses[0] == losses[1]


@pytest.fixture
def flow_recipe(tmp_path, monkeypatch) -> Recipe:
    """The recipe of the flow map, small, with a small teacher."""
    config = dataclasses.replace(CONFIG, v_schedule="linear", v_timesteps=40)
    torch.manual_seed(0)
    teacher = str(tmp_path / "teacher.safetensors")
    save_pretrained(teacher, UNet(config), NoiseSchedule.linear(40), {})
    network = FlowMapConfig(**dataclasses.asdict(config))
    recipe = dataclasses.replace(RECIPES["mnist", "flow-map"], network=network, teacher=teacher)
    monkeypatch.setitem(RECIPES, ("mnist", "flow-map"), recipe)
    return recipe


def test_a_flow_map_keeps_its_teachers_schedule_and_its_card_names_it(tmp_path, flow_recipe):
    *_, saved = run(tmp_path, "flow-map")
    flow_map, schedule, card = load_pretrained(saved.path)
    assert (type(flow_map), schedule.num_timesteps) == (FlowMap, 40)
    teacher = read_card(flow_recipe.teacher)
    assert card["training"]["teacher"] == {"weights": flow_recipe.teacher, "sha256": teacher["sha256"]}
    assert card["defaults"]["steps"] == 1


OTHER_OPTIONS = [
    ({"schedule": "cosine"}, "schedule 'linear', this training has 'cosine'"),
    ({"t_density": "logit-normal"}, "t_density 'uniform', this training has 'logit-normal'"),
    ({"dropout": 0.1}, "dropout 0.0, this training has 0.1"),
]
OTHER_IMAGES = [
    ({"class_names": tuple("1023456789")}, "class_names '0' in place 0, this training has '1' in place 0"),
    ({"source": "mnist"}, "data 'digits', this training has 'mnist'"),
]


def test_a_finished_training_is_not_spoiled_by_a_resume_with_other_options_or_images(tmp_path, monkeypatch):
    run(tmp_path)
    before, load = {path.name: path.read_bytes() for path in tmp_path.iterdir()}, data.load
    for options, named in OTHER_OPTIONS:
        with pytest.raises(TrainingError, match=f"made with {named}.*: use the same settings"):
            run(tmp_path, resume=True, options=DiffusionOptions(**({"timesteps": 20} | options)))
    for change, named in OTHER_IMAGES:
        changed = functools.partial(dataclasses.replace, **change)
        monkeypatch.setattr(data, "load", lambda *names, changed=changed: changed(load(*names)))
        with pytest.raises(TrainingError, match=f"made with {named}.*: use the same settings"):
            run(tmp_path, resume=True)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_whitening_is_fitted_to_the_images_and_not_over_a_start(tmp_path, monkeypatch):
    fits, network = [], EvaluatorConfig(8, widths=(8, 16), body="whitened")
    monkeypatch.setattr(Whitening, "fit", lambda layer, images: fits.append(len(images)))
    monkeypatch.setitem(RECIPES, ("mnist", "evaluator"), dataclasses.replace(EVALUATOR, network=network))
    run(tmp_path / "first", "evaluator", epochs=1)
    run(tmp_path / "second", "evaluator", epochs=1, start=tmp_path / "first" / "mnist-evaluator.safetensors")
    assert fits == [12]


def test_the_network_suits_the_size():
    networks = {size: recipes.unet_config(size, 3, 2) for size in (16, 28, 32, 64, 256)}
    assert networks[28].channel_mults == (1, 2, 4) and networks[28].attention_levels == ()
    assert networks[64].channel_mults == (1, 2, 2, 4, 4) and networks[64].attention_levels == (3,)
    assert recipes.unet_config(28, 1, 10) == UNetConfig(), "digits get the digits' network"


def test_images_are_varied_in_training_only():
    shown = {}

    def loss_fn(model, x_0, y, generator):
        shown.setdefault(model.training, []).append(x_0)
        return model(x_0.flatten(1)).mean()

    pixels = torch.randint(256, (32, 3, 8, 8), dtype=torch.uint8)
    images = data.ImageSet(pixels, torch.zeros(32).long(), (), "cifar10")
    x_0, _ = images.batch(torch.arange(32))
    how = config(None, epochs=1, batch_size=32)
    for _ in range(2):
        list(
            train(torch.nn.Linear(192, 1), loss_fn, images, how, val_data=images, augment=losses.random_flip)
        )
    assert torch.equal(shown[False][0], x_0)
    assert torch.equal(*shown[True])  # the step's generator decides, and nothing else
    plain = {tuple(image.flatten().tolist()) for image in x_0}
    same = [tuple(image.flatten().tolist()) in plain for image in shown[True][0]]
    mirrored = [tuple(image.flip(2).flatten().tolist()) in plain for image in shown[True][0]]
    assert 8 <= sum(mirrored) <= 24 and sum(mirrored) + sum(same) == 32


def test_crops_are_shifted_images_mirrored_or_not():
    x_0 = torch.rand(64, 3, 16, 16) + 1
    new = losses.random_crop_and_flip(x_0, torch.Generator().manual_seed(0), padding=2)
    assert new.shape == x_0.shape
    found = []
    for k, mirrored, i, j in itertools.product(range(32), range(2), range(5), range(5)):
        image = x_0[k : k + 1].flip(3) if mirrored else x_0[k : k + 1]
        padded = F.pad(image, (2,) * 4, mode="reflect")[0]
        if torch.equal(padded[:, i:, j:][:, :16, :16], new[k]):
            found.append((mirrored, i, j))
    assert len(found) == 32  # each is one window of one of the two, and they vary
    assert len(set(found)) > 20 and 8 <= sum(mirrored for mirrored, _, _ in found) <= 24


def test_digits_are_never_flipped():
    """Trap 15: averaged over many bends, a digit still resembles itself more than its mirror images."""
    x_0 = data.to_signed(DIGITS.images[DIGITS.labels == 2][:1])
    bent = losses.random_affine(x_0.repeat(300, 1, 1, 1), torch.Generator().manual_seed(0))

    def likeness(other):
        a, b = bent.flatten(1), other.flatten()
        return F.cosine_similarity(a - a.mean(1, keepdim=True), (b - b.mean())[None], dim=1)

    flipped = torch.stack([likeness(x_0.flip(dims)) for dims in ((2,), (3,))])
    assert (likeness(x_0) > flipped).float().mean() > 0.9
    assert likeness(x_0).mean() > flipped.mean() + 0.2


class Spy(torch.nn.Module):
    """Answers 0 and keeps what it was asked."""

    def forward(self, x_t, t):
        self.asked = x_t, t
        return torch.zeros(len(x_t), 10)


def test_noisy_loss_notes_the_timestep_of_each_picture():
    schedule, model = NoiseSchedule.linear(50), Spy().train()
    x_0, y = torch.rand(64, 1, 8, 8) * 2 - 1, torch.arange(64) % 10
    loss = losses.noisy_classification_loss(schedule)(model, x_0, y, torch.Generator().manual_seed(3))
    x_t, t = model.asked
    generator = torch.Generator().manual_seed(3)
    drawn = torch.randint(50, (64,), generator=generator)
    eps = torch.randn(x_0.shape, generator=generator)
    assert torch.equal(t, drawn) and len(t.unique()) > 20
    torch.testing.assert_close(x_t, q_sample(schedule, x_0, t, eps))
    assert float(loss) == pytest.approx(float(torch.tensor(10.0).log()))
