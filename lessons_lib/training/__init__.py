"""The training loop: it takes a loss function, yields what happens, and leaves the showing to its caller.

    for event in train(model, denoising_loss(schedule), images, TrainConfig(epochs=20)):
        if isinstance(event, EpochDone):
            print(event.epoch, event.val_loss)

Every random number of step k comes from a generator seeded with (seed, k, process). So a run that was killed
and resumed draws the same numbers as one that was not, and on a CPU ends with the same weights bit for bit.

Read config (how to train, what is told), ingredients (loss, average, learning rate), then loop; checkpoints
and machine hold what a laptop, a GPU and a crash need.
"""

from lessons_lib.training.checkpoints import CHECKPOINT
from lessons_lib.training.config import (
    DEVICES,
    PRECISIONS,
    EpochDone,
    Event,
    StepDone,
    Stopped,
    TrainConfig,
    TrainingError,
)
from lessons_lib.training.ingredients import EMA, LossFn, denoising_loss, learning_rate
from lessons_lib.training.loop import train
from lessons_lib.training.machine import resolve_precision

__all__ = [
    "CHECKPOINT",
    "DEVICES",
    "EMA",
    "PRECISIONS",
    "EpochDone",
    "Event",
    "LossFn",
    "StepDone",
    "Stopped",
    "TrainConfig",
    "TrainingError",
    "denoising_loss",
    "learning_rate",
    "resolve_precision",
    "train",
]
