"""How to train, and what a training tells while it runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import nn

from lessons_lib.names import check_choice, refuse


class TrainingError(RuntimeError):
    """A training that cannot start or go on; the message is one sentence for the user."""


RULES = (  # fields, what is allowed, and the test of it
    ("epochs batch_size accumulation_steps checkpoint_every measure_every", "at least 1", lambda x: x >= 1),
    ("lr grad_clip", "above 0 and at most 1e30", lambda x: 0 < x <= 1e30),
    ("weight_decay", "from 0 to 1e6", lambda x: 0 <= x <= 1e6),
    ("max_seconds", "above 0", lambda x: x > 0),
    ("warmup_steps", "at least 0", lambda x: x >= 0),
    ("seed", "from 0 to 2^63 - 1", lambda x: 0 <= x < 2**63),
    ("ema_decay", "in [0, 1)", lambda x: 0 <= x < 1),
    ("lr_decay", "in (0, 1]", lambda x: 0 < x <= 1),
    # The power law's exponent is positive up to 1 / (2 sqrt 3), the spread of a plain mean.
    ("ema_sigma_rel", "in (0, 0.288)", lambda x: 0 < x < 12**-0.5),
)


@dataclass(frozen=True)
class TrainConfig:
    epochs: int = 20  # passes over the training images
    batch_size: int = 64  # images a step, over all processes and accumulated micro-batches together
    lr: float = 1e-3  # peak of AdamW's, reached after warmup_steps
    # Last share of the training, over which lr falls to 0; a training can be prolonged from where it began.
    lr_decay: float = 1.0
    weight_decay: float = 0.01
    warmup_steps: int = 300
    grad_clip: float = 1.0  # the gradient's norm is cut to this
    accumulation_steps: int = 1  # micro-batches whose gradients are added up before a step
    ema_decay: float = 0.999  # of the average of the weights, which is what a training is for
    ema_sigma_rel: float | None = None  # in place of ema_decay: a power law, see EMA
    precision: str = "auto"  # see `resolve_precision`; or "float32", "bf16", "fp16"
    device: str = "auto"  # CUDA if there is one, else the CPU; or "cpu", "cuda", "mps"
    seed: int = 0
    checkpoint_every: int = 500  # steps
    measure_every: int = 1  # epochs between losses on other images
    max_seconds: float | None = None  # stop by the clock, which lr then follows, so that it still ends at 0
    output_dir: Path | None = None  # of checkpoint.pt and losses.json; None writes nothing

    def __post_init__(self) -> None:
        for names, allowed, holds in RULES:
            for name in names.split():
                value = getattr(self, name)
                refuse({f"{name} must be {allowed}, got {value}.": value is not None and not holds(value)})
        check_choice("precision", self.precision, ("auto", "float32", "bf16", "fp16"))
        check_choice("device", self.device, ("auto", "cpu", "cuda", "mps"))
        if self.output_dir is not None:
            object.__setattr__(self, "output_dir", Path(self.output_dir))


class PrecisionChosen(NamedTuple):
    """Before the first step of a training in "auto" that measured: seconds a step in each precision."""

    precision: str
    seconds: dict[str, float]


class StepDone(NamedTuple):
    """After each optimizer step. `loss` is this step's, `seconds_left` an estimate for the whole training."""

    step: int
    num_steps: int
    epoch: int
    loss: float
    lr: float
    images_per_second: float
    seconds_left: float


class EpochDone(NamedTuple):
    """After each epoch. The losses are means; val and test are the EMA weights' (None where not measured)."""

    epoch: int
    train_loss: float
    val_loss: float | None
    test_loss: float | None
    ema_model: nn.Module


class Stopped(NamedTuple):
    """The last event and the result: "finished", "time", "interrupted" by Ctrl-C, "terminated" by SIGTERM."""

    reason: str
    step: int
    seconds: float
    ema_model: nn.Module
    precision: str = "float32"  # what was trained in
    ema_length: float = 0.0  # the standard deviation of the average's profile, in steps


Event = PrecisionChosen | StepDone | EpochDone | Stopped
