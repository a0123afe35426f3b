"""Recipes for your own pictures: derived from their size, colour, number and classes."""

from __future__ import annotations

import functools

from lessons_lib.classifier import Evaluator, EvaluatorConfig, NoisyClassifier, NoisyClassifierConfig
from lessons_lib.data import DataError, ImageSet
from lessons_lib.recipes.losses import random_affine, random_crop_and_flip, random_flip
from lessons_lib.recipes.recipe import DiffusionOptions, Recipe
from lessons_lib.training import TrainConfig
from lessons_lib.unet import UNet, UNetConfig

# Channels of each level, as multiples of the first, by the number of levels.
MULTS = {1: (1,), 2: (1, 2), 3: (1, 2, 4), 4: (1, 2, 4, 4), 5: (1, 2, 2, 4, 4), 6: (1, 1, 2, 2, 4, 4)}
FEWEST_PIXELS = 4  # a side of the last level is not halved below it
ATTENTION = 8  # pixels a side from which on a level has attention; at 16 it is too dear on a CPU
IMAGES_SHOWN = {"denoiser": 600_000, "classifier": 200_000, "evaluator": 200_000}
EPOCHS = (20, 2000)  # at least and at most


def folder_recipes(images: ImageSet, name: str, flip: bool = False) -> dict[str, Recipe]:
    """The trainings that these images allow: a denoiser, and with two classes or more a judge and a guide.

    Args:
        images: the training images [N, C, S, S], with S a multiple of 4.
        name: the weights are called NAME-denoiser, NAME-noisy-classifier and NAME-evaluator.
        flip: show the images mirrored, too. Right for faces, wrong for digits and letters.

    Raises:
        DataError: without images.
        ValueError: if the size cannot be halved twice.
    """
    if not len(images):
        raise DataError("No picture is left to train on: add some, or repair those that cannot be read.")
    size = images.images.shape[-1]
    if size % 4:
        raise ValueError(f"The image size must be a multiple of 4, got {size}.")
    found = {"denoiser": _denoiser(images, name, flip)}
    if len(images.class_names) > 1:
        found |= {"classifier": _classifier(images, name), "evaluator": _evaluator(images, name, flip)}
    return found


def sample_every(epochs: int) -> int:
    """The epochs between grids of samples: about twenty grids in a training, however many epochs it has."""
    return max(1, epochs // 20)


def unet_config(size: int, channels: int, num_classes: int) -> UNetConfig:
    """A U-Net that halves the images down to about 4 pixels a side: 28 and 32 as for MNIST and CIFAR-10."""
    sides = [size]
    while sides[-1] % 2 == 0 and sides[-1] > FEWEST_PIXELS and len(sides) < max(MULTS):
        sides.append(sides[-1] // 2)
    # The middle, which is as small as the last level, always has attention.
    attention = tuple(level for level, side in enumerate(sides[:-1]) if side <= ATTENTION)
    embedding = 128 if channels == 1 and size <= 28 else 256
    return UNetConfig(
        size, channels, 32, MULTS[len(sides)], 1, attention, num_classes, embedding_channels=embedding
    )


def _denoiser(images: ImageSet, name: str, flip: bool) -> Recipe:
    _, channels, size, _ = images.images.shape
    config = unet_config(size, channels, len(images.class_names))
    training = _training("denoiser", images, lr=8e-4, ema_decay=0.999)
    return Recipe(
        f"{name}-denoiser",
        functools.partial(UNet, config),
        training,
        "denoiser",
        DiffusionOptions(schedule="cosine", loss="min-snr", sample_every=sample_every(training.epochs)),
        augment=random_flip if flip else None,
        sampler="ddpm",  # as CIFAR-10's, for the same schedule
        steps=50,
        channels_last=True,
    )


def _classifier(images: ImageSet, name: str) -> Recipe:
    _, channels, size, _ = images.images.shape
    widths = (32, 64, 128) if size <= 32 else (32, 64, 128, 128)
    config = NoisyClassifierConfig(size, channels, widths, len(images.class_names))
    return Recipe(
        f"{name}-noisy-classifier",
        functools.partial(NoisyClassifier, config),
        _training("classifier", images, lr=2e-3, ema_decay=0.999),
        "classifier",
        DiffusionOptions(schedule="cosine"),  # the denoiser's, or it could not steer it
        guidance_scale=4.0,
    )


def _evaluator(images: ImageSet, name: str, flip: bool) -> Recipe:
    _, channels, size, _ = images.images.shape
    config = EvaluatorConfig(size, channels, (32, 64, 128, 256), len(images.class_names), body="resnet9")
    return Recipe(
        f"{name}-evaluator",
        functools.partial(Evaluator, config),
        _training("evaluator", images, lr=2e-3, weight_decay=0.05, ema_decay=0.998),
        "evaluator",
        augment=random_crop_and_flip if flip else random_affine,
        channels_last=True,
    )


def _training(kind: str, images: ImageSet, **rest) -> TrainConfig:
    """So many epochs that about IMAGES_SHOWN are shown, and of few pictures none more than 2,000 times."""
    count, (fewest, most) = len(images), EPOCHS
    epochs = min(most, max(fewest, IMAGES_SHOWN[kind] // count))
    batch_size = min(64, count)
    steps = epochs * (count // batch_size)
    return TrainConfig(
        epochs=epochs,
        batch_size=batch_size,
        warmup_steps=max(1, min(300, steps // 10)),
        checkpoint_every=300,
        **rest,
    )
