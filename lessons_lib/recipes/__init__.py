"""The named trainings: what is trained, on what, how, and what is written.

A recipe writes into its output folder: checkpoint.pt, losses.json, samples_epoch_NNN.png (denoisers), and at
the end the weights NAME.safetensors with their card NAME.json.
"""

from __future__ import annotations

import functools
import json
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from lessons_lib import data, weights
from lessons_lib.classifier import Whitening
from lessons_lib.files import atomic_write
from lessons_lib.images import save_png, to_grid
from lessons_lib.pipeline import GenerationRequest, generate_with
from lessons_lib.recipes.losses import (
    TOLD,
    augmented,
    cross_entropy_loss,
    noisy_classification_loss,
    told_affine,
)
from lessons_lib.recipes.own_pictures import folder_recipes as folder_recipes
from lessons_lib.recipes.own_pictures import sample_every as sample_every
from lessons_lib.recipes.table import RECIPES as RECIPES
from lessons_lib.recipes.table import DiffusionOptions, Recipe
from lessons_lib.recipes.table import celeba_recipes as celeba_recipes
from lessons_lib.schedules import NoiseSchedule
from lessons_lib.training import EpochDone, Event, LossFn, Stopped, TrainConfig, denoising_loss, train
from lessons_lib.training.denoising import V_LOSSES
from lessons_lib.training.devices import make_accelerator
from lessons_lib.unet import UNet

ORIGIN = "start.json"  # of a training that began from given weights: which
DATA_NOTES = {
    "mnist": "MNIST (LeCun, Cortes and Burges), 60,000 training images, unchanged; CC BY-SA 3.0.",
    "digits": "scikit-learn's 1,797 digits (UCI, CC BY 4.0), enlarged from 8×8 to 20×20 and padded to 28×28.",
    "cifar10": "CIFAR-10 (Krizhevsky 2009), 45,000 of its 50,000 training images; no licence is stated.",
    "celeba": "CelebA (Liu et al. 2015), aligned faces, for non-commercial research only:",
    "folder": "own pictures:",  # the images' note says which
}


class SamplesDrawn(NamedTuple):
    """A grid of samples was written after an epoch, from the same noise every time."""

    epoch: int
    path: Path


class WeightsSaved(NamedTuple):
    """The trained weights were written."""

    path: Path


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
    """Run a recipe and yield what happens.

    Args:
        load: gives the images of each split; called when the options are known to be good.
        config: its output_dir must be set.
        options: the recipe's own if not given.
        resume, extend: as train.
        start: name or path of weights to train on from; random ones if not given.
        command: what the user typed, for the card.
    """
    if config.output_dir is None:
        raise ValueError("A recipe needs an output_dir to write to.")
    options = options or recipe.options
    schedule = NoiseSchedule.by_name(options.schedule, options.timesteps) if recipe.needs_schedule else None
    network = _network(recipe, options, config.seed)
    origin = _start_from(network, start, schedule) if start else None
    sets = load()
    if not start:  # else what follows fits the weights that are there
        _whiten(network, sets["train"])
    for event in train(
        network, _loss(recipe, schedule, options), sets["train"], config, val_data=sets["val"],
        test_data=sets["test"], resume=resume, extend=extend,
        settings=_settings(recipe, network, options, sets["train"]),
    ):  # fmt: skip
        yield event
        if os.environ.get("RANK", "0") != "0":
            continue
        if origin:  # written once; a resumed training finds it for its card
            with atomic_write(config.output_dir / ORIGIN) as temporary:
                temporary.write_text(json.dumps(origin, indent=1))
            origin = None
        if isinstance(event, EpochDone) and recipe.is_denoiser:
            yield from _after_epoch(event, recipe, schedule, options, config.output_dir)
        if isinstance(event, Stopped):
            path = config.output_dir / f"{recipe.name}.safetensors"
            card = _card(recipe, config, options, sets["train"], event, command)
            weights.save_pretrained(path, event.ema_model, schedule, card)
            yield WeightsSaved(path)


def _network(recipe: Recipe, options: DiffusionOptions, seed: int) -> nn.Module:
    config, told = recipe.network, {"augment_channels": TOLD} if options.told_augment else {}
    if recipe.is_denoiser:
        config = replace(config, dropout=options.dropout, **told)
        if config.v_schedule:  # which must be the one that it is trained on
            config = replace(config, v_schedule=options.schedule, v_timesteps=options.timesteps)
        elif options.loss in V_LOSSES:
            raise ValueError(f"The loss {options.loss} is for a network that answers v: train denoiser-v.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = recipe.build()
        if recipe.is_denoiser:  # a second one: which weights a seed gives counts the numbers of the first
            network = UNet(config)
    return network.to(memory_format=torch.channels_last) if recipe.channels_last else network


def _whiten(network: nn.Module, images: data.ImageSet) -> None:
    for layer in network.modules():
        if isinstance(layer, Whitening):
            layer.fit(images.batch(torch.arange(min(2000, len(images))))[0])


def _start_from(network: nn.Module, name: str | Path, schedule: NoiseSchedule | None) -> dict:
    """Load trained weights into an untrained network; returns what the new card says of them."""
    trained, trained_on, card = weights.load_pretrained(name)
    if type(trained) is not type(network) or trained.config != network.config:
        raise ValueError(f"The weights {str(name)!r} are of another network than this training's.")
    if schedule and not torch.equal(trained_on.betas, schedule.betas):
        raise ValueError(
            f"The weights {str(name)!r} were trained with the {trained_on.name} schedule, "
            f"T = {trained_on.num_timesteps}: start from them with the same."
        )
    network.load_state_dict(trained.state_dict())
    history, kept = card.get("training", {}), ("command", "images_seen", "hours", "start")
    origin = {"weights": card["name"], "sha256": card["sha256"]}
    return origin | {key: history[key] for key in kept if key in history}


def _loss(recipe: Recipe, schedule: NoiseSchedule | None, options: DiffusionOptions) -> LossFn:
    if not recipe.needs_schedule:
        loss = functools.partial(cross_entropy_loss, smoothing=recipe.label_smoothing)
    elif not recipe.is_denoiser:
        loss = noisy_classification_loss(schedule, timesteps=None if recipe.noisy else ())
    else:
        loss = denoising_loss(
            schedule, options.p_uncond, options.loss, recipe.network.num_classes or None, options.t_density,
            options.loss_weight, told_augment=told_affine if options.told_augment else None,
        )  # fmt: skip
    return augmented(loss, None if options.told_augment else recipe.augment)


def _settings(
    recipe: Recipe, network: nn.Module, options: DiffusionOptions, images: data.ImageSet
) -> dict[str, object]:
    """What a checkpoint must agree with to be resumed, besides the TrainConfig."""
    settings = {"recipe": recipe.name, "data": images.source, "num_images": len(images)}
    settings["class_names"] = images.class_names
    if recipe.needs_schedule:
        settings |= asdict(options)
        del settings["sample_every"], settings["keep_epochs"]  # what is written on the way
    return settings | {f"network's {name}": value for name, value in asdict(network.config).items()}


def _after_epoch(
    event: EpochDone, recipe: Recipe, schedule: NoiseSchedule, options: DiffusionOptions, folder: Path
) -> Iterator[SamplesDrawn]:
    if options.sample_every and event.epoch % options.sample_every == 0:
        path = folder / f"samples_epoch_{event.epoch:03d}.png"
        _draw_samples(event.ema_model, recipe, schedule, path)
        yield SamplesDrawn(event.epoch, path)
    if options.keep_epochs:
        path = folder / f"epoch_{event.epoch:03d}.safetensors"
        weights.save_pretrained(path, event.ema_model, schedule, {"epoch": event.epoch})


def _draw_samples(network: nn.Module, recipe: Recipe, schedule: NoiseSchedule, path: Path) -> None:
    """Four of each class from the same noise after every epoch, so that progress shows and luck does not.

    Of more than ten classes, four of each of the first ten; without classes, or untold attributes, sixteen.
    """
    num_classes = 0 if network.config.multi_label else network.config.num_classes
    labels = tuple(range(min(num_classes, 10) or 4)) * 4
    request = GenerationRequest(
        labels,
        guidance="cfg" if num_classes else "none",
        guidance_scale=1.0,
        sampler=recipe.defaults["sampler"],
        steps=min(max(recipe.defaults["steps"], 25), schedule.num_timesteps),
    )
    *_, step = generate_with(network, schedule, request)
    save_png(path, to_grid(step.x_t, columns=len(labels) // 4, scale=2))


def _card(
    recipe: Recipe,
    config: TrainConfig,
    options: DiffusionOptions,
    images: data.ImageSet,
    end: Stopped,
    command: str,
) -> dict:
    settings = {name: value for name, value in asdict(config).items() if name != "output_dir"}
    defaults, origin = dict(recipe.defaults), config.output_dir / ORIGIN
    if recipe.is_denoiser:
        settings |= asdict(options)
        defaults["steps"] = min(defaults["steps"], options.timesteps)
    training = {
        "command": command,
        "settings": settings,
        "data": " ".join(filter(None, (DATA_NOTES[images.source], images.note))),
        "images_seen": end.step * config.batch_size,
        "ended": end.reason,
        "precision": end.precision,
        "ema_length_images": round(end.ema_length * config.batch_size),
        "hours": round(end.seconds / 3600, 2),
        "hardware": _hardware(),
        "seed": config.seed,
    }
    if origin.exists():
        training["start"] = json.loads(origin.read_text())
    names = list(images.class_names)
    return {"class_names": names, "training": training, "defaults": defaults, "metrics": {}}


def _hardware() -> str:
    """What this machine computes with, in a few words."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} × {torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"{os.cpu_count()} CPU cores ({platform.machine()}), torch {torch.__version__}"
