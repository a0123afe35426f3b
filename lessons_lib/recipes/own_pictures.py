"""Recipes for your own pictures: derived from their size, colour, number and classes."""

from __future__ import annotations

from lessons_lib.classifier import EvaluatorConfig, NoisyClassifierConfig
from lessons_lib.data import DataError, ImageSet
from lessons_lib.recipes.losses import random_affine, random_crop_and_flip, random_flip
from lessons_lib.recipes.table import DDPM_50, DiffusionOptions, Recipe
from lessons_lib.training import TrainConfig
from lessons_lib.unet import UNetConfig

# Channels of each level, as multiples of the first, by the number of levels.
MULTS = {1: (1,), 2: (1, 2), 3: (1, 2, 4), 4: (1, 2, 4, 4), 5: (1, 2, 2, 4, 4), 6: (1, 1, 2, 2, 4, 4)}
FEWEST_PIXELS = 4  # a side of the last level is not halved below it
ATTENTION = 8  # pixels a side from which on a level has attention; at 16 it is too dear on a CPU


def folder_recipes(images: ImageSet, name: str, flip: bool = False) -> dict[str, Recipe]:
    """The trainings that these images allow: a denoiser, and with two classes or more a judge and a guide.

    Args:
        images: the training images [N, C, S, S], with S a multiple of 4.
        name: the weights are called NAME-denoiser, NAME-noisy-classifier and NAME-evaluator.
        flip: show the images mirrored, too. Right for faces, wrong for digits and letters.
    """
    if not len(images):
        raise DataError("No picture is left to train on: add some, or repair those that cannot be read.")
    count, channels, size, _ = images.images.shape
    num_classes = len(images.class_names)
    if size % 4:
        raise ValueError(f"The image size must be a multiple of 4, got {size}.")
    training = _training(count, 600_000, lr=8e-4)
    recipes = {
        "denoiser": Recipe(
            f"{name}-denoiser",
            unet_config(size, channels, num_classes),
            training,
            DiffusionOptions(schedule="cosine", loss="min-snr", sample_every=sample_every(training.epochs)),
            random_flip if flip else None,
            DDPM_50,
            channels_last=True,
        )
    }
    if num_classes > 1:
        widths = (32, 64, 128) if size <= 32 else (32, 64, 128, 128)
        recipes["classifier"] = Recipe(
            f"{name}-noisy-classifier",
            NoisyClassifierConfig(size, channels, widths, num_classes),
            _training(count, 200_000, lr=2e-3),
            DiffusionOptions(schedule="cosine"),  # the denoiser's, or it could not steer it
            defaults={"guidance_scale": 4.0, "spacing": "logsnr"},
        )
        recipes["evaluator"] = Recipe(
            f"{name}-evaluator",
            EvaluatorConfig(size, channels, (32, 64, 128, 256), num_classes, body="resnet9"),
            _training(count, 200_000, lr=2e-3, weight_decay=0.05, ema_decay=0.998),
            augment=random_crop_and_flip if flip else random_affine,
            channels_last=True,
        )
    return recipes


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


def _training(count: int, images_shown: int, **settings) -> TrainConfig:
    """So many epochs that about `images_shown` are, and of few pictures none more than 2,000 times."""
    epochs, batch_size = min(2000, max(20, images_shown // count)), min(64, count)
    warmup_steps = max(1, min(300, epochs * (count // batch_size) // 10))
    return TrainConfig(epochs, batch_size, warmup_steps=warmup_steps, checkpoint_every=300, **settings)
