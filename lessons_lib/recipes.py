"""The named trainings behind the shipped weights: what is trained, on what, how, and what is written.

A recipe writes into its output folder: checkpoint.pt, losses.json, samples_epoch_NNN.png (denoisers), and at
the end the weights NAME.safetensors with their card NAME.json.
"""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lessons_lib import data, viz, weights
from lessons_lib.classifier import Evaluator, EvaluatorConfig, NoisyClassifier, NoisyClassifierConfig
from lessons_lib.generation import GenerationRequest, generate_with
from lessons_lib.schedules import NoiseSchedule, q_sample
from lessons_lib.training import EpochDone, Event, LossFn, Stopped, TrainConfig, denoising_loss, train
from lessons_lib.training.machine import make_accelerator
from lessons_lib.unet import UNet, UNetConfig


@dataclass(frozen=True)
class Recipe:
    """A training with a name.

    Args:
        name: of the weights it makes.
        build: makes the untrained network.
        config: the defaults of its TrainConfig.
        kind: "denoiser" (draws sample grids, too), "classifier" (of noisy images), "clean-classifier" (the
            same network, but it sees clean images only) or "evaluator".
    """

    name: str
    build: Callable[[], nn.Module]
    config: TrainConfig
    kind: str

    @property
    def needs_schedule(self) -> bool:
        """Whether its images are noised, and its card names a schedule."""
        return self.kind != "evaluator"


@dataclass(frozen=True)
class DiffusionOptions:
    """What a denoiser's training needs besides a TrainConfig.

    Args:
        schedule, timesteps, loss, p_uncond: as in NoiseSchedule.by_name and denoising_loss.
        sample_every: draw a grid of samples every so many epochs; 0 never.
        keep_epochs: keep the EMA weights of every epoch (epoch_NNN.safetensors), to study how a training
            went.
    """

    schedule: str = "linear"
    timesteps: int = 1000
    loss: str = "mse"
    p_uncond: float = 0.1
    sample_every: int = 1
    keep_epochs: bool = False


class SamplesDrawn(NamedTuple):
    """A grid of samples was written after an epoch, from the same noise every time."""

    epoch: int
    path: Path


class WeightsSaved(NamedTuple):
    """The trained weights were written."""

    path: Path


RECIPES = {
    ("mnist", "denoiser"): Recipe(
        "mnist-denoiser",
        lambda: UNet(UNetConfig()),
        TrainConfig(epochs=20, batch_size=64, lr=1e-3),
        "denoiser",
    ),
    ("mnist", "classifier"): Recipe(
        "mnist-noisy-classifier",
        lambda: NoisyClassifier(NoisyClassifierConfig()),
        TrainConfig(epochs=10, batch_size=128, lr=2e-3),
        "classifier",
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
    ),
}


def run(
    dataset: str,
    model: str,
    config: TrainConfig,
    options: DiffusionOptions | None = None,
    *,
    resume: bool = False,
    command: str = "",
) -> Iterator[Event | SamplesDrawn | WeightsSaved]:
    """Run a recipe and yield what happens; config.output_dir must be set.

    Args:
        dataset, model: a key of RECIPES.
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
    recipe, options = RECIPES[dataset, model], options or DiffusionOptions()
    schedule = NoiseSchedule.by_name(options.schedule, options.timesteps) if recipe.needs_schedule else None
    # Of several processes on a machine one downloads, and the others find what it brought.
    with make_accelerator(config).local_main_process_first():
        sets = {split: data.load(dataset, split) for split in data.SPLITS}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = recipe.build()
    loss_fn = _loss(recipe, network, schedule, options)
    is_main = os.environ.get("RANK", "0") == "0"
    for event in train(
        network, loss_fn, sets["train"], config, val_data=sets["val"], test_data=sets["test"], resume=resume
    ):
        yield event
        if not is_main:
            continue
        if isinstance(event, EpochDone) and recipe.kind == "denoiser":
            yield from _after_epoch(event, schedule, options, config.output_dir)
        if isinstance(event, Stopped):
            card = _card(recipe, config, options, sets["train"], event, command)
            path = config.output_dir / f"{recipe.name}.safetensors"
            weights.save_pretrained(path, event.ema_model, schedule, card)
            yield WeightsSaved(path)


def _loss(
    recipe: Recipe, network: nn.Module, schedule: NoiseSchedule | None, options: DiffusionOptions
) -> LossFn:
    if recipe.kind == "evaluator":
        return classification_loss
    if recipe.kind == "denoiser":
        return denoising_loss(schedule, options.p_uncond, options.loss, network.config.num_classes or None)
    return noisy_classification_loss(schedule, timesteps=None if recipe.kind == "classifier" else ())


def noisy_classification_loss(schedule: NoiseSchedule, timesteps: Sequence[int] | None = None) -> LossFn:
    """Cross-entropy of p(y given x_t, t) on noised images (Dhariwal & Nichol 2021, sec. 4).

    Args:
        timesteps: t is drawn from these; None: from all of the schedule; empty: the images stay clean, and
            the network is told t = 0.
    """
    choices = torch.arange(schedule.num_timesteps) if timesteps is None else torch.tensor(timesteps).long()

    def loss_fn(model: nn.Module, x_0: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        if not len(choices):
            x_0 = random_affine(x_0, generator) if model.training else x_0
            return F.cross_entropy(model(x_0, torch.zeros_like(y)).float(), y)
        # Not bent: under noise no picture comes twice anyway.
        drawn = torch.randint(len(choices), (len(x_0),), generator=generator)
        t, eps = choices[drawn].to(x_0.device), torch.randn(x_0.shape, generator=generator).to(x_0.device)
        return F.cross_entropy(model(q_sample(schedule, x_0, t, eps), t).float(), y)

    return loss_fn


def classification_loss(model: nn.Module, x_0: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    """Cross-entropy on clean images; in training they are bent a little, and the labels smoothed."""
    if not model.training:
        return F.cross_entropy(model(x_0).float(), y)
    return F.cross_entropy(model(random_affine(x_0, generator)).float(), y, label_smoothing=0.05)


def random_affine(x_0: Tensor, generator: torch.Generator) -> Tensor:
    """Turn, shear, scale and shift each image [B, C, H, W] a little; digits are never flipped."""
    batch = len(x_0)

    def uniform(*shape: int) -> Tensor:
        return (torch.rand(*shape, generator=generator) * 2 - 1).to(x_0.device)

    angle, scale, shear = 0.26 * uniform(batch), 1 + 0.15 * uniform(batch, 2), 0.2 * uniform(batch)
    shift = 2.5 / 14 * uniform(batch, 2)  # 2.5 pixels of 28: grid_sample's unit is half the image
    top = torch.stack([angle.cos() * scale[:, 0], -angle.sin() + shear, shift[:, 0]], dim=1)
    bottom = torch.stack([angle.sin(), angle.cos() * scale[:, 1], shift[:, 1]], dim=1)
    grid = F.affine_grid(torch.stack([top, bottom], dim=1), list(x_0.shape), align_corners=False)
    # grid_sample fills the outside with 0, and the background is -1.
    return F.grid_sample(x_0 + 1, grid, align_corners=False) - 1


def _after_epoch(
    event: EpochDone, schedule: NoiseSchedule, options: DiffusionOptions, folder: Path
) -> Iterator[SamplesDrawn]:
    if options.sample_every and event.epoch % options.sample_every == 0:
        yield _draw_samples(event, schedule, folder)
    if options.keep_epochs:
        path = folder / f"epoch_{event.epoch:03d}.safetensors"
        weights.save_pretrained(path, event.ema_model, schedule, {"epoch": event.epoch})


def _draw_samples(event: EpochDone, schedule: NoiseSchedule, folder: Path) -> SamplesDrawn:
    """Four of each class from the same noise after every epoch, so that progress shows and luck does not."""
    network = event.ema_model
    labels = tuple(range(max(network.config.num_classes, 1))) * 4
    guidance = "cfg" if network.config.num_classes else "none"
    steps = min(25, schedule.num_timesteps)
    request = GenerationRequest(labels, guidance=guidance, guidance_scale=1.0, sampler="ddim", steps=steps)
    *_, step = generate_with(network, schedule, request)
    path = folder / f"samples_epoch_{event.epoch:03d}.png"
    viz.save_png(path, viz.to_grid(step.x_t, columns=len(labels) // 4, scale=2))
    return SamplesDrawn(event.epoch, path)


DATA_NOTES = {
    "mnist": "MNIST (LeCun, Cortes and Burges), 60,000 training images, unchanged; CC BY-SA 3.0.",
    "digits": "scikit-learn's 1,797 digits (UCI, CC BY 4.0), enlarged from 8×8 to 20×20 and padded to 28×28.",
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
        "denoiser": {"guidance_scale": 2.0, "sampler": "ddim", "steps": min(10, options.timesteps)},
        "classifier": {"guidance_scale": 4.0, "spacing": "logsnr"},
    }
    return {
        "training": {
            "command": command,
            "settings": settings,
            "data": DATA_NOTES[images.source],
            "images_seen": end.step * config.batch_size,
            "ended": end.reason,
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
