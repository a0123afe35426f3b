"""The training loop: it takes a loss function, yields what happens, and leaves the showing to its caller.

    for event in train(model, denoising_loss(schedule), images, TrainConfig(epochs=20)):
        if isinstance(event, EpochDone):
            print(event.epoch, event.val_loss)

Every random number of step k comes from a generator seeded with (seed, k, process). So a run that was killed
and resumed draws the same numbers as one that was not, and on a CPU ends with the same weights bit for bit.

Read config (how to train, what is told), ingredients (loss, average, learning rate), then loop; checkpoints
and machine hold what a laptop, a GPU and a crash need.
"""

from lessons_lib.training.checkpoints import BEFORE_DECAY, CHECKPOINT
from lessons_lib.training.config import (
    DEVICES,
    PRECISIONS,
    EpochDone,
    Event,
    PrecisionChosen,
    StepDone,
    Stopped,
    TrainConfig,
    TrainingError,
)
from lessons_lib.training.ingredients import (
    EMA,
    V_LOSSES,
    LossFn,
    denoising_loss,
    learning_rate,
    timestep_density,
)
from lessons_lib.training.loop import train

__all__ = [
    "BEFORE_DECAY",
    "CHECKPOINT",
    "DEVICES",
    "EMA",
    "PRECISIONS",
    "V_LOSSES",
    "EpochDone",
    "Event",
    "LossFn",
    "PrecisionChosen",
    "StepDone",
    "Stopped",
    "TrainConfig",
    "TrainingError",
    "denoising_loss",
    "learning_rate",
    "timestep_density",
    "train",
]
