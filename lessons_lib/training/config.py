"""How to train, and what a training tells while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import nn

PRECISIONS = ("auto", "float32", "bf16", "fp16")
DEVICES = ("auto", "cpu", "cuda", "mps")


class TrainingError(RuntimeError):
    """A training that cannot start or go on; the message is one sentence for the user."""


@dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Args:
        epochs: passes over the training images.
        batch_size: images a step, over all processes and accumulated micro-batches together.
        lr: peak learning rate of AdamW, reached after warmup_steps.
        lr_decay: the last share of the training, over which the rate falls to 0 along a half cosine: 1 falls
            from the start; with less there is a constant phase, from whose end a training can be prolonged.
        grad_clip: the gradient's norm is cut to this.
        accumulation_steps: micro-batches whose gradients are added up before a step.
        ema_decay: of the exponential moving average of the weights, which is what a training is for.
        ema_sigma_rel: in place of ema_decay, average by a power law whose standard deviation is this share of
            the training so far (Karras et al. 2024, sec. 3.1).
        precision: "auto" (on a GPU bfloat16 where it multiplies it; on a CPU the faster one of a few measured
            steps, float32 for a short training), "float32", "bf16", "fp16".
        device: "auto" (CUDA if there is one, else the CPU), "cpu", "cuda", "mps".
        checkpoint_every: steps between checkpoints.
        max_seconds: stop by the clock; the learning rate then follows the clock too, so that it still ends at
            0.
        output_dir: where checkpoint.pt and losses.json go; None writes nothing.
    """

    epochs: int = 20
    batch_size: int = 64
    lr: float = 1e-3
    lr_decay: float = 1.0
    weight_decay: float = 0.01
    warmup_steps: int = 300
    grad_clip: float = 1.0
    accumulation_steps: int = 1
    ema_decay: float = 0.999
    ema_sigma_rel: float | None = None
    precision: str = "auto"
    device: str = "auto"
    seed: int = 0
    checkpoint_every: int = 500
    max_seconds: float | None = None
    output_dir: Path | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulation_steps", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("lr", "grad_clip", "max_seconds"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), got {self.ema_decay}.")
        if not 0 < self.lr_decay <= 1:
            raise ValueError(f"lr_decay must be in (0, 1], got {self.lr_decay}.")
        # The power law's exponent is positive up to 1 / (2 sqrt 3), the spread of a plain mean.
        if self.ema_sigma_rel is not None and not 0 < self.ema_sigma_rel < 12**-0.5:
            raise ValueError(f"ema_sigma_rel must be in (0, 0.288), got {self.ema_sigma_rel}.")
        if self.precision not in PRECISIONS:
            raise ValueError(f"Unknown precision {self.precision!r}: choose one of {', '.join(PRECISIONS)}.")
        if self.device not in DEVICES:
            raise ValueError(f"Unknown device {self.device!r}: choose one of {', '.join(DEVICES)}.")
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
    """After each epoch. The losses are means; val and test are the EMA weights' (None without data)."""

    epoch: int
    train_loss: float
    val_loss: float | None
    test_loss: float | None
    ema_model: nn.Module


class Stopped(NamedTuple):
    """The last event. `reason` is "finished", "time" or "interrupted"; `ema_model` is the result.

    `precision` is what was trained in, `ema_length` the standard deviation of the average's profile in steps.
    """

    reason: str
    step: int
    seconds: float
    ema_model: nn.Module
    precision: str = "float32"
    ema_length: float = 0.0


Event = PrecisionChosen | StepDone | EpochDone | Stopped
