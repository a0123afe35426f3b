"""The named trainings: what is trained, on what, how, and what is written.

A recipe writes into its output folder: checkpoint.pt, losses.json, samples_epoch_NNN.png (denoisers), and at
the end the weights NAME.safetensors with their card NAME.json.
"""

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
from lessons_lib.recipes import losses
from lessons_lib.recipes.losses import noisy_classification_loss as noisy_classification_loss
from lessons_lib.recipes.table import RECIPES as RECIPES
from lessons_lib.recipes.table import DiffusionOptions, Recipe
from lessons_lib.recipes.table import celeba_recipes as celeba_recipes
from lessons_lib.recipes.table import folder_recipes as folder_recipes
from lessons_lib.recipes.table import sample_every as sample_every
from lessons_lib.schedules import NoiseSchedule
from lessons_lib.training import EpochDone, Event, LossFn, Stopped, TrainConfig, denoising_loss, train
from lessons_lib.training.devices import make_accelerator

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
    """Run a recipe with this config, which has an output_dir, and these options; yield what happens.

    `load` gives the images of each split, once the options are known to be good; `resume` and `extend` are
    as in `train`; `start` names weights to train on from; `command` is what the user typed, for the card.
    """
    if config.output_dir is None:
        raise ValueError("A recipe needs an output_dir to write to.")
    recipe = replace(recipe, config=config, options=options or recipe.options)
    schedule, network = recipe.schedule, recipe.build()
    origin = _start_from(network, start, schedule) if start else None
    sets = load()
    for layer in network.modules():
        if isinstance(layer, Whitening) and not start:  # else what follows it fits the weights that are there
            layer.fit(sets["train"].batch(torch.arange(min(2000, len(sets["train"]))))[0])
    for event in train(
        network, _loss(recipe, schedule), sets["train"], config, val_data=sets["val"], test_data=sets["test"],
        resume=resume, extend=extend, settings=_settings(recipe, network, sets["train"]),
        augment=None if recipe.options.told_augment else recipe.augment,
    ):  # fmt: skip
        yield event
        if os.environ.get("RANK", "0") != "0":
            continue
        if origin:  # written once; a resumed training finds it for its card
            with atomic_write(config.output_dir / ORIGIN) as temporary:
                temporary.write_text(json.dumps(origin, indent=1))
            origin = None
        if isinstance(event, EpochDone) and recipe.is_denoiser:
            yield from _after_epoch(event, recipe, schedule)
        if isinstance(event, Stopped):
            path = config.output_dir / f"{recipe.name}.safetensors"
            card = _card(recipe, sets["train"], event, command)
            weights.save_pretrained(path, event.ema_model, schedule, card)
            yield WeightsSaved(path)


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


def _loss(recipe: Recipe, schedule: NoiseSchedule | None) -> LossFn:
    options = recipe.options
    if schedule is None:
        return functools.partial(losses.cross_entropy_loss, smoothing=recipe.label_smoothing)
    if not recipe.is_denoiser:
        return noisy_classification_loss(schedule, timesteps=None if recipe.noisy else ())
    return denoising_loss(
        schedule, options.p_uncond, options.loss, recipe.network.num_classes or None, options.t_density,
        options.loss_weight, told_augment=losses.told_affine if options.told_augment else None,
    )  # fmt: skip


def _settings(recipe: Recipe, network: nn.Module, images: data.ImageSet) -> dict[str, object]:
    """What a checkpoint must agree with to be resumed, besides the TrainConfig."""
    settings = {"recipe": recipe.name, "data": images.source, "num_images": len(images)}
    settings["class_names"] = images.class_names
    if recipe.schedule:
        settings |= asdict(recipe.options)
        del settings["sample_every"], settings["keep_epochs"]  # what is written on the way
    return settings | {f"network's {name}": value for name, value in asdict(network.config).items()}


def _after_epoch(event: EpochDone, recipe: Recipe, schedule: NoiseSchedule) -> Iterator[SamplesDrawn]:
    """Four samples of each class, from the same noise every time, so that progress shows and luck does not.

    Of more than ten classes, four of each of the first ten; without classes, or untold attributes, sixteen.
    """
    network, options, folder = event.ema_model, recipe.options, recipe.config.output_dir
    if options.sample_every and event.epoch % options.sample_every == 0:
        num_classes = 0 if network.config.multi_label else network.config.num_classes
        labels = tuple(range(min(num_classes, 10) or 4))
        steps = min(max(recipe.defaults["steps"], 25), schedule.num_timesteps)
        request = GenerationRequest(
            labels * 4, guidance="cfg" if num_classes else "none", guidance_scale=1.0,
            sampler=recipe.defaults["sampler"], steps=steps,
        )  # fmt: skip
        *_, step = generate_with(network, schedule, request)
        path = folder / f"samples_epoch_{event.epoch:03d}.png"
        save_png(path, to_grid(step.x_t, columns=len(labels), scale=2))
        yield SamplesDrawn(event.epoch, path)
    if options.keep_epochs:
        path = folder / f"epoch_{event.epoch:03d}.safetensors"
        weights.save_pretrained(path, network, schedule, {"epoch": event.epoch})


def _card(recipe: Recipe, images: data.ImageSet, end: Stopped, command: str) -> dict:
    config, defaults, origin = recipe.config, dict(recipe.defaults), recipe.config.output_dir / ORIGIN
    settings = asdict(config)
    del settings["output_dir"]
    if recipe.is_denoiser:
        settings |= asdict(recipe.options)
        defaults["steps"] = min(defaults["steps"], recipe.options.timesteps)
    hardware = f"{os.cpu_count()} CPU cores ({platform.machine()})"
    if torch.cuda.is_available():
        hardware = f"{torch.cuda.device_count()} × {torch.cuda.get_device_name()}"
    training = {
        "command": command,
        "settings": settings,
        "data": " ".join(filter(None, (DATA_NOTES[images.source], images.note))),
        "images_seen": end.step * config.batch_size,
        "ended": end.reason,
        "precision": end.precision,
        "ema_length_images": round(end.ema_length * config.batch_size),
        "hours": round(end.seconds / 3600, 2),
        "hardware": f"{hardware}, torch {torch.__version__}",
        "seed": config.seed,
    }
    if origin.exists():
        training["start"] = json.loads(origin.read_text())
    facts = {"training": training, "defaults": defaults, "metrics": {}}
    return {"class_names": list(images.class_names)} | facts
