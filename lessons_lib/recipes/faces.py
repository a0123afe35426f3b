"""Recipes for CelebA: denoisers, told its attributes or not, and networks that read them."""

from __future__ import annotations

import dataclasses
import functools

from lessons_lib.classifier import Evaluator, EvaluatorConfig, NoisyClassifier, NoisyClassifierConfig
from lessons_lib.recipes.losses import random_crop_and_flip, random_flip
from lessons_lib.recipes.recipe import LONG_TRAINING, ONE_RECIPE, DiffusionOptions, Recipe
from lessons_lib.training import TrainConfig
from lessons_lib.unet import UNet, UNetConfig

# DDIM inversion runs on this schedule, too: the cosine one ends in noise so pure that DDIM's first step is
# a division by almost nothing.
OPTIONS = DiffusionOptions(schedule="linear", loss="held-snr", sample_every=5)
PATCH = 2  # the networks see 64×64 pixels as 32×32 positions, and cost what CIFAR-10's do


def celeba_recipes(image_size: int = 64, num_attributes: int = 40) -> dict[str, Recipe]:
    """The trainings, by model.

    Args:
        image_size: in pixels, a multiple of 16.
        num_attributes: how many the networks read or are told.

    Raises:
        ValueError: for another image size.
    """
    if image_size % 16 or image_size < 32:
        raise ValueError(f"The image size must be a multiple of 16 from 32 on, got {image_size}.")
    return {
        "denoiser": _denoiser(image_size),
        "denoiser-v": _told_denoiser(image_size, num_attributes),
        "classifier": _classifier(image_size, num_attributes),
        "evaluator": _evaluator(image_size, num_attributes),
        "second-judge": _second_judge(image_size, num_attributes),
    }


def _denoiser(image_size: int) -> Recipe:
    config = UNetConfig(
        image_size,
        in_channels=3,
        base_channels=32,
        channel_mults=(1, 2, 4, 4),
        attention_levels=(2,),
        num_classes=0,
        embedding_channels=256,
        patch=PATCH,
        refine_channels=16,
        v_schedule=OPTIONS.schedule,
        v_timesteps=OPTIONS.timesteps,
    )
    training = TrainConfig(
        epochs=66, batch_size=64, lr=8e-4, warmup_steps=300, ema_decay=0.9995, checkpoint_every=125
    )
    return Recipe(
        "celeba-denoiser",
        functools.partial(UNet, config),
        training,
        "denoiser",
        OPTIONS,
        augment=random_flip,
        sampler="ddpm",
        steps=50,
        guide="celeba-classifier",
        channels_last=True,
    )


def _told_denoiser(image_size: int, num_attributes: int) -> Recipe:
    """Told the attributes, all, some or none of them."""
    config = dataclasses.replace(
        _denoiser(image_size).build().config, num_classes=num_attributes, multi_label=True
    )
    return Recipe(
        "celeba-denoiser-v",
        functools.partial(UNet, config),
        TrainConfig(epochs=500, batch_size=64, lr=8e-4, checkpoint_every=300, **LONG_TRAINING),
        "denoiser",
        DiffusionOptions(schedule="linear", sample_every=25, **ONE_RECIPE),
        augment=random_flip,
        steps=50,
        guide="celeba-classifier",
    )


def _classifier(image_size: int, num_attributes: int) -> Recipe:
    config = NoisyClassifierConfig(
        image_size, 3, (32, 64, 128, 128), num_attributes, patch=PATCH, multi_label=True
    )
    return Recipe(
        "celeba-classifier",
        functools.partial(NoisyClassifier, config),
        TrainConfig(epochs=24, batch_size=64, lr=1.5e-3, weight_decay=0.05, checkpoint_every=125),
        "classifier",
        OPTIONS,
        augment=random_flip,
        guidance_scale=8.0,
        spacing="trailing",  # as the unguided faces, so that both can share their noise
        counterfactual={"guidance_scale": 64.0, "depth": 600},
        channels_last=True,
    )


def _evaluator(image_size: int, num_attributes: int) -> Recipe:
    config = EvaluatorConfig(
        image_size,
        3,
        (32, 64, 128, 256),
        num_attributes,
        body="resnet9",
        mirror=True,
        patch=PATCH,
        multi_label=True,
    )
    training = TrainConfig(
        epochs=30,
        batch_size=128,
        lr=3e-3,
        weight_decay=0.05,
        warmup_steps=200,
        ema_decay=0.998,
        checkpoint_every=125,
    )
    return Recipe(
        "celeba-evaluator",
        functools.partial(Evaluator, config),
        training,
        "evaluator",
        augment=random_crop_and_flip,
        channels_last=True,
    )


def _second_judge(image_size: int, num_attributes: int) -> Recipe:
    """Another network and seed than the evaluator, which no choice was made by."""
    config = EvaluatorConfig(
        image_size, 3, (32, 64, 128, 128), num_attributes, mirror=True, patch=PATCH, multi_label=True
    )
    return Recipe(
        "celeba-second-judge",
        functools.partial(Evaluator, config),
        TrainConfig(
            epochs=25, batch_size=128, lr=2e-3, weight_decay=0.05, warmup_steps=200, ema_decay=0.998, seed=1
        ),
        "evaluator",
        augment=random_crop_and_flip,
        channels_last=True,
    )
