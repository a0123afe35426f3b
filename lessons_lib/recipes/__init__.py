"""The named trainings: what is trained, on what, how, and what is written.

A recipe writes into its output folder: checkpoint.pt, losses.json, samples_epoch_NNN.png (denoisers), and at
the end the weights NAME.safetensors with their card NAME.json.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from lessons_lib import data, weights
from lessons_lib.classifier import (
    Evaluator,
    EvaluatorConfig,
    NoisyClassifier,
    NoisyClassifierConfig,
    Whitening,
)
from lessons_lib.files import atomic_write
from lessons_lib.images import save_png, to_grid
from lessons_lib.pipeline import GenerationRequest, generate_with
from lessons_lib.recipes.faces import celeba_recipes
from lessons_lib.recipes.folders import folder_recipes, sample_every
from lessons_lib.recipes.losses import (
    TOLD,
    augmented,
    cross_entropy_loss,
    noisy_classification_loss,
    random_affine,
    random_crop_and_flip,
    random_flip,
    told_affine,
)
from lessons_lib.recipes.recipe import LONG_TRAINING, ONE_RECIPE, DiffusionOptions, Recipe, start_from
from lessons_lib.schedules import NoiseSchedule
from lessons_lib.training import (
    V_LOSSES,
    EpochDone,
    Event,
    LossFn,
    Stopped,
    TrainConfig,
    denoising_loss,
    train,
)
from lessons_lib.training.machine import make_accelerator
from lessons_lib.unet import UNet, UNetConfig

__all__ = [
    "DATA_NOTES",
    "RECIPES",
    "DiffusionOptions",
    "Recipe",
    "SamplesDrawn",
    "WeightsSaved",
    "augmented",
    "celeba_recipes",
    "cross_entropy_loss",
    "folder_recipes",
    "hardware",
    "load_splits",
    "noisy_classification_loss",
    "random_affine",
    "random_crop_and_flip",
    "random_flip",
    "run",
    "run_recipe",
    "sample_every",
]


class SamplesDrawn(NamedTuple):
    """A grid of samples was written after an epoch, from the same noise every time."""

    epoch: int
    path: Path


class WeightsSaved(NamedTuple):
    """The trained weights were written."""

    path: Path


ORIGIN = "start.json"  # of a training that began from given weights: which
# Small enough to train in hours on one CPU core; attention at 8×8 and below.
CIFAR10_UNET = UNetConfig(
    image_size=32,
    in_channels=3,
    base_channels=32,
    channel_mults=(1, 2, 4, 4),
    attention_levels=(2,),
    embedding_channels=256,
)
OBJECT_TRAINING = TrainConfig(
    batch_size=128, lr=3e-3, weight_decay=0.05, warmup_steps=700, ema_decay=0.998, checkpoint_every=300
)
RECIPES = {
    ("mnist", "denoiser"): Recipe(
        "mnist-denoiser",
        lambda: UNet(UNetConfig()),
        TrainConfig(epochs=20, batch_size=64, lr=1e-3),
        "denoiser",
    ),
    ("mnist", "denoiser-v"): Recipe(
        "mnist-denoiser-v",
        lambda: UNet(UNetConfig(v_schedule="linear")),
        TrainConfig(epochs=11, batch_size=64, lr=1e-3, checkpoint_every=300, **LONG_TRAINING),
        "denoiser",
        DiffusionOptions(schedule="linear", **ONE_RECIPE),
    ),
    ("mnist", "classifier"): Recipe(
        "mnist-noisy-classifier",
        lambda: NoisyClassifier(NoisyClassifierConfig()),
        TrainConfig(epochs=10, batch_size=128, lr=2e-3),
        "classifier",
        guidance_scale=4.0,
    ),
    ("mnist", "clean-classifier"): Recipe(
        "mnist-clean-classifier",
        lambda: NoisyClassifier(NoisyClassifierConfig()),
        TrainConfig(epochs=2, batch_size=128, lr=2e-3, ema_decay=0.998),
        "clean-classifier",
    ),
    ("mnist", "evaluator"): Recipe(
        "mnist-evaluator",
        lambda: Evaluator(EvaluatorConfig()),
        TrainConfig(epochs=8, batch_size=128, lr=2e-3, ema_decay=0.998),
        "evaluator",
        augment=random_affine,
    ),
    ("cifar10", "denoiser"): Recipe(
        "cifar10-denoiser",
        lambda: UNet(CIFAR10_UNET),
        TrainConfig(
            epochs=22, batch_size=64, lr=8e-4, warmup_steps=500, ema_decay=0.9995, checkpoint_every=300
        ),
        "denoiser",
        # The linear schedule is nearly pure noise in its last fifth (Nichol & Dhariwal 2021, fig. 3).
        DiffusionOptions(schedule="cosine", loss="min-snr"),
        augment=random_flip,
        # Cosine ends in purer noise than linear: the first estimates of x_0 are far off, DDIM keeps their
        # errors, and DDPM's fresh noise covers them.
        sampler="ddpm",
        steps=50,
        guidance_scale=3.0,
        channels_last=True,
    ),
    ("cifar10", "denoiser-v"): Recipe(
        "cifar10-denoiser-v",
        lambda: UNet(dataclasses.replace(CIFAR10_UNET, v_schedule="cosine")),
        TrainConfig(epochs=100, batch_size=64, lr=8e-4, checkpoint_every=300, **LONG_TRAINING),
        "denoiser",
        DiffusionOptions(schedule="cosine", **ONE_RECIPE),
        augment=random_flip,
        sampler="ddim",
        steps=50,
        guidance_scale=2.0,
    ),
    # The judge of what comes next; the lessons' own, cifar10-evaluator, came from an earlier recipe.
    ("cifar10", "evaluator"): Recipe(
        "cifar10-evaluator-whitened",
        lambda: Evaluator(EvaluatorConfig(32, 3, (64, 256, 256), dropout=0.0, body="whitened", mirror=True)),
        dataclasses.replace(OBJECT_TRAINING, epochs=14, lr=4e-3),
        "evaluator",
        augment=random_crop_and_flip,
        label_smoothing=0.15,
        channels_last=True,
    ),
    # The second judges: other networks and seeds, which no choice was made by.
    ("mnist", "second-judge"): Recipe(
        "mnist-second-judge",
        lambda: Evaluator(EvaluatorConfig(body="resnet9")),
        TrainConfig(epochs=6, batch_size=128, lr=3e-3, weight_decay=0.05, ema_decay=0.998, seed=1),
        "evaluator",
        augment=random_affine,
        channels_last=True,
    ),
    ("cifar10", "second-judge"): Recipe(
        "cifar10-second-judge",
        lambda: Evaluator(EvaluatorConfig(32, 3, (32, 64, 128, 256), body="resnet9", mirror=True)),
        dataclasses.replace(OBJECT_TRAINING, epochs=10, seed=1),
        "evaluator",
        augment=random_crop_and_flip,
        channels_last=True,
    ),
} | {("celeba", model): recipe for model, recipe in celeba_recipes().items()}


def run(
    dataset: str,
    model: str,
    config: TrainConfig,
    options: DiffusionOptions | None = None,
    *,
    resume: bool = False,
    extend: bool = False,
    start: str | Path | None = None,
    command: str = "",
) -> Iterator[Event | SamplesDrawn | WeightsSaved]:
    """Run a recipe and yield what happens; config.output_dir must be set.

    Args:
        dataset, model: a key of RECIPES.
        options: the recipe's own if not given.
        resume, extend: as train.
        start: name or path of weights to train on from; random ones if not given.
        command: what the user typed, for the card.

    Raises:
        ValueError: for an unknown recipe, or without an output folder.
        TrainingError, WriteError, DataError: as train, save_pretrained and load.
    """
    if (dataset, model) not in RECIPES:
        known = ", ".join(" ".join(key) for key in RECIPES)
        raise ValueError(f"There is no recipe {dataset} {model}: choose one of {known}.")
    if config.output_dir is None:
        raise ValueError("A recipe needs an output_dir to write to.")
    sets = functools.partial(load_splits, dataset, config)
    yield from run_recipe(
        RECIPES[dataset, model], sets, config, options,
        resume=resume, extend=extend, start=start, command=command,
    )  # fmt: skip


def load_splits(dataset: str, config: TrainConfig, **how) -> dict[str, data.ImageSet]:
    """The three splits of a data set; `how` goes to `data.load`."""
    # Of several processes on a machine one downloads, and the others find what it brought.
    with make_accelerator(config).local_main_process_first():
        return {split: data.load(dataset, split, **how) for split in data.SPLITS}


def run_recipe(
    recipe: Recipe,
    load: Callable[[], dict[str, data.ImageSet]],
    config: TrainConfig,
    options: DiffusionOptions | None = None,
    *,
    resume: bool = False,
    extend: bool = False,
    start: str | Path | None = None,
    command: str = "",
) -> Iterator[Event | SamplesDrawn | WeightsSaved]:
    """As `run`, with a recipe in hand.

    Args:
        load: gives the images of each split; called when the options are known to be good.
    """
    options = options or recipe.options
    schedule = NoiseSchedule.by_name(options.schedule, options.timesteps) if recipe.needs_schedule else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = _built(recipe, options)
    origin = start_from(network, start, schedule) if start else None
    sets = load()
    if not start:  # else what follows fits the weights that are there
        _whiten(network, sets["train"])
    if recipe.channels_last:
        network = network.to(memory_format=torch.channels_last)
    loss_fn = _loss(recipe, network, schedule, options)
    is_main = os.environ.get("RANK", "0") == "0"
    for event in train(
        network, loss_fn, sets["train"], config, val_data=sets["val"], test_data=sets["test"],
        resume=resume, extend=extend, settings=_settings(recipe, network, options, sets["train"]),
    ):  # fmt: skip
        yield event
        if not is_main:
            continue
        origin = _keep_origin(config.output_dir, origin)
        if isinstance(event, EpochDone) and recipe.kind == "denoiser":
            yield from _after_epoch(event, recipe, schedule, options, config.output_dir)
        if isinstance(event, Stopped):
            card = _card(recipe, config, options, sets["train"], event, command)
            card["training"] |= _kept_origin(config.output_dir)
            path = config.output_dir / f"{recipe.name}.safetensors"
            weights.save_pretrained(path, event.ema_model, schedule, card)
            yield WeightsSaved(path)


def _whiten(network: nn.Module, images: data.ImageSet) -> None:
    for layer in network.modules():
        if isinstance(layer, Whitening):
            layer.fit(images.batch(torch.arange(min(2000, len(images))))[0])


def _keep_origin(folder: Path, origin: dict | None) -> None:
    """Write where the training started from, once; a resumed one finds it for its card."""
    if origin:
        with atomic_write(folder / ORIGIN) as temporary:
            temporary.write_text(json.dumps(origin, indent=1))


def _kept_origin(folder: Path) -> dict:
    path = folder / ORIGIN
    return {"start": json.loads(path.read_text())} if path.exists() else {}


def _built(recipe: Recipe, options: DiffusionOptions) -> nn.Module:
    network = recipe.build()
    if recipe.kind != "denoiser":
        return network
    if options.loss in V_LOSSES and not network.config.v_schedule:
        raise ValueError(f"The loss {options.loss} is for a network that answers v: train denoiser-v.")
    own = {"dropout": options.dropout}
    if options.told_augment:
        own["augment_channels"] = TOLD
    if network.config.v_schedule:  # which must be the one that it is trained on
        own |= {"v_schedule": options.schedule, "v_timesteps": options.timesteps}
    return UNet(dataclasses.replace(network.config, **own))


def _loss(
    recipe: Recipe, network: nn.Module, schedule: NoiseSchedule | None, options: DiffusionOptions
) -> LossFn:
    if recipe.kind == "evaluator":
        loss = functools.partial(cross_entropy_loss, smoothing=recipe.label_smoothing)
        return augmented(loss, recipe.augment)
    if recipe.kind == "denoiser":
        loss = denoising_loss(
            schedule, options.p_uncond, options.loss, network.config.num_classes or None,
            t_density=options.t_density, loss_weight=options.loss_weight,
            told_augment=told_affine if options.told_augment else None,
        )  # fmt: skip
        return augmented(loss, None if options.told_augment else recipe.augment)
    loss = noisy_classification_loss(schedule, timesteps=None if recipe.kind == "classifier" else ())
    return augmented(loss, recipe.augment)


def _settings(
    recipe: Recipe, network: nn.Module, options: DiffusionOptions, images: data.ImageSet
) -> dict[str, object]:
    """What a checkpoint must agree with to be resumed, besides the TrainConfig."""
    found = {"recipe": recipe.name, "data": images.source, "num_images": len(images)}
    found["class_names"] = images.class_names
    if recipe.needs_schedule:
        found |= dataclasses.asdict(options)
        del found["sample_every"], found["keep_epochs"]  # what is written on the way
    return found | {f"network's {name}": value for name, value in dataclasses.asdict(network.config).items()}


def _after_epoch(
    event: EpochDone, recipe: Recipe, schedule: NoiseSchedule, options: DiffusionOptions, folder: Path
) -> Iterator[SamplesDrawn]:
    if options.sample_every and event.epoch % options.sample_every == 0:
        yield _draw_samples(event, recipe, schedule, folder)
    if options.keep_epochs:
        path = folder / f"epoch_{event.epoch:03d}.safetensors"
        weights.save_pretrained(path, event.ema_model, schedule, {"epoch": event.epoch})


def _draw_samples(event: EpochDone, recipe: Recipe, schedule: NoiseSchedule, folder: Path) -> SamplesDrawn:
    """Four of each class from the same noise after every epoch, so that progress shows and luck does not.

    Of more than ten classes, four of each of the first ten; without classes, or untold attributes, sixteen.
    """
    network = event.ema_model
    num_classes = 0 if network.config.multi_label else network.config.num_classes
    labels = tuple(range(min(num_classes, 10) or 4)) * 4
    guidance = "cfg" if num_classes else "none"
    steps = min(max(recipe.steps, 25), schedule.num_timesteps)
    request = GenerationRequest(
        labels, guidance=guidance, guidance_scale=1.0, sampler=recipe.sampler, steps=steps
    )
    *_, step = generate_with(network, schedule, request)
    path = folder / f"samples_epoch_{event.epoch:03d}.png"
    save_png(path, to_grid(step.x_t, columns=len(labels) // 4, scale=2))
    return SamplesDrawn(event.epoch, path)


DATA_NOTES = {
    "mnist": "MNIST (LeCun, Cortes and Burges), 60,000 training images, unchanged; CC BY-SA 3.0.",
    "digits": "scikit-learn's 1,797 digits (UCI, CC BY 4.0), enlarged from 8×8 to 20×20 and padded to 28×28.",
    "cifar10": "CIFAR-10 (Krizhevsky 2009), 45,000 of its 50,000 training images; no licence is stated.",
    "celeba": "CelebA (Liu et al. 2015), aligned faces, for non-commercial research only:",
    "folder": "own pictures:",  # the images' note says which
}


def _card(
    recipe: Recipe,
    config: TrainConfig,
    options: DiffusionOptions,
    images: data.ImageSet,
    end: Stopped,
    command: str,
) -> dict:
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name != "output_dir"}
    if recipe.kind == "denoiser":
        settings |= dataclasses.asdict(options)
    defaults = {
        "denoiser": {
            "guidance_scale": recipe.guidance_scale,
            "sampler": recipe.sampler,
            "steps": min(recipe.steps, options.timesteps),
        }
        | ({"classifier": recipe.guide} if recipe.guide else {}),
        "classifier": {"guidance_scale": recipe.guidance_scale, "spacing": recipe.spacing}
        | ({"counterfactual": dict(recipe.counterfactual)} if recipe.counterfactual else {}),
    }
    return {
        "class_names": list(images.class_names),
        "training": {
            "command": command,
            "settings": settings,
            "data": " ".join(filter(None, (DATA_NOTES[images.source], images.note))),
            "images_seen": end.step * config.batch_size,
            "ended": end.reason,
            "precision": end.precision,
            "ema_length_images": round(end.ema_length * config.batch_size),
            "hours": round(end.seconds / 3600, 2),
            "hardware": hardware(),
            "seed": config.seed,
        },
        "defaults": defaults.get(recipe.kind, {}),
        "metrics": {},
    }


def hardware() -> str:
    """What this machine computes with, in a few words."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} × {torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"{os.cpu_count()} CPU cores ({platform.machine()}), torch {torch.__version__}"
