"""What a training with a name is made of, and what it may start from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from lessons_lib import weights
from lessons_lib.recipes.losses import Augment
from lessons_lib.schedules import NoiseSchedule
from lessons_lib.training import TrainConfig


@dataclass(frozen=True)
class DiffusionOptions:
    """What a denoiser's training needs besides a TrainConfig.

    Args:
        schedule, timesteps, loss, p_uncond, t_density, loss_weight: as in NoiseSchedule.by_name and
            denoising_loss.
        dropout: as in UNetConfig.
        told_augment: distort the images and tell the network how, see told_affine.
        sample_every: draw a grid of samples every so many epochs; 0 never.
        keep_epochs: keep the EMA weights of every epoch (epoch_NNN.safetensors), to study how a training
            went.
    """

    schedule: str = "linear"
    timesteps: int = 1000
    loss: str = "mse"
    p_uncond: float = 0.1
    t_density: str = "uniform"
    loss_weight: str = "none"
    dropout: float = 0.0
    told_augment: bool = False
    sample_every: int = 1
    keep_epochs: bool = False


# The one recipe of all denoisers that answer v; benchmarks/recipe_bakeoff.py measures its choices.
ONE_RECIPE = {"loss": "v-mse", "t_density": "logit-normal", "p_uncond": 0.2}
LONG_TRAINING = {"lr_decay": 0.25, "warmup_steps": 500, "ema_sigma_rel": 0.08}


@dataclass(frozen=True)
class Recipe:
    """A training with a name.

    Args:
        name: of the weights it makes.
        build: makes the untrained network.
        config: the defaults of its TrainConfig.
        kind: "denoiser" (draws sample grids, too), "classifier" (of noisy images), "clean-classifier" (the
            same network, but it sees clean images only) or "evaluator".
        options: the defaults of its DiffusionOptions.
        augment: varies the images before they are shown, in training only.
        sampler, steps, guidance_scale: what the card of a denoiser proposes; of a classifier guidance_scale.
        spacing: of the timesteps, what the card of a classifier proposes.
        counterfactual: what the card of a classifier proposes for counterfactuals, guidance_scale and depth.
        guide: name of the classifier that the card of a denoiser proposes; empty if it needs none.
        label_smoothing: of the loss of an evaluator.
        channels_last: train with a pixel's channels side by side in memory, which suits wide convolutions.
    """

    name: str
    build: Callable[[], nn.Module]
    config: TrainConfig
    kind: str
    options: DiffusionOptions = field(default_factory=DiffusionOptions)
    augment: Augment | None = None
    sampler: str = "ddim"
    steps: int = 10
    guidance_scale: float = 2.0
    spacing: str = "logsnr"
    counterfactual: Mapping[str, float] | None = None
    guide: str = ""
    label_smoothing: float = 0.05
    channels_last: bool = False

    @property
    def needs_schedule(self) -> bool:
        """Whether its images are noised, and its card names a schedule."""
        return self.kind != "evaluator"


def start_from(network: nn.Module, name: str | Path, schedule: NoiseSchedule | None) -> dict:
    """Load trained weights into an untrained network of the same shape, to train on from there.

    Returns:
        what the new card says of them: name, SHA-256, command, images seen.

    Raises:
        ValueError: if they are of another network, or of another noise schedule.
        WeightsError: as load_pretrained.
    """
    found, its_schedule, card = weights.load_pretrained(name)
    if type(found) is not type(network) or found.config != network.config:
        raise ValueError(f"The weights {str(name)!r} are of another network than this training's.")
    if schedule and not torch.equal(its_schedule.betas, schedule.betas):
        raise ValueError(
            f"The weights {str(name)!r} were trained with the {its_schedule.name} schedule, "
            f"T = {its_schedule.num_timesteps}: start from them with the same."
        )
    network.load_state_dict(found.state_dict())
    training = card.get("training", {})
    told = {key: training[key] for key in ("command", "images_seen", "hours", "start") if key in training}
    return {"weights": card["name"], "sha256": card["sha256"]} | told
