"""The training loop: it takes a loss function, yields what happens, and leaves the showing to its caller.

    for event in train(model, denoising_loss(schedule), images, TrainConfig(epochs=20)):
        if isinstance(event, EpochDone):
            print(event.epoch, event.val_loss)

Every random number of step k comes from a generator seeded with (seed, k, process). So a run that was killed and
resumed draws the same numbers as one that was not, and on a CPU ends with the same weights bit for bit.
"""

from __future__ import annotations

import copy
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lessons_lib.files import atomic_write, remove_leftovers
from lessons_lib.schedules import NoiseSchedule, q_sample

LossFn = Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]
PRECISIONS = ("auto", "float32", "bf16", "fp16")
CHECKPOINT = "checkpoint.pt"


class TrainingError(RuntimeError):
    """A training that cannot start or go on; the message is one sentence for the user."""


@dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Args:
        epochs: passes over the training images.
        batch_size: images a step, over all processes and accumulated micro-batches together.
        lr: peak learning rate of AdamW, reached after warmup_steps, then a half cosine down to 0.
        grad_clip: the gradient's norm is cut to this.
        accumulation_steps: micro-batches whose gradients are added up before a step.
        ema_decay: of the exponential moving average of the weights, which is what a training is for.
        precision: "auto" (bfloat16 where the hardware multiplies it, else float32), "float32", "bf16", "fp16".
        device: "auto" (CUDA if there is one, else the CPU), "cpu", "cuda", "mps".
        checkpoint_every: steps between checkpoints.
        max_seconds: stop by the clock; the learning rate then follows the clock too, so that it still ends at 0.
        output_dir: where checkpoint.pt and losses.json go; None writes nothing.
    """

    epochs: int = 20
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.01
    warmup_steps: int = 300
    grad_clip: float = 1.0
    accumulation_steps: int = 1
    ema_decay: float = 0.999
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
        if not self.lr > 0:
            raise ValueError(f"lr must be above 0, got {self.lr}.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), got {self.ema_decay}.")
        if self.precision not in PRECISIONS:
            raise ValueError(f"Unknown precision {self.precision!r}: choose one of {', '.join(PRECISIONS)}.")


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
    """After each epoch. The losses are means; val and test are measured with the EMA weights (None without data)."""

    epoch: int
    train_loss: float
    val_loss: float | None
    test_loss: float | None
    ema_model: nn.Module


class Stopped(NamedTuple):
    """The last event. `reason` is "finished", "time" or "interrupted"; `ema_model` is the result, in eval mode."""

    reason: str
    step: int
    seconds: float
    ema_model: nn.Module


Event = StepDone | EpochDone | Stopped


def denoising_loss(
    schedule: NoiseSchedule, p_uncond: float = 0.1, loss: str = "mse", num_classes: int | None = None
) -> LossFn:
    """The simple loss: guess the noise that was mixed in (Ho et al. 2020, eq. 14).

    Args:
        p_uncond: share of the labels replaced by the null label, sample by sample, in training only, so that one
            network learns to be conditional and unconditional (Ho & Salimans 2022, alg. 1).
        loss: "mse" or "l1".
        num_classes: K, which is also the null label; None trains without labels.
    """
    if loss not in ("mse", "l1"):
        raise ValueError(f"Unknown loss {loss!r}: choose mse or l1.")
    if not 0 <= p_uncond <= 1:
        raise ValueError(f"p_uncond must be in [0, 1], got {p_uncond}.")
    distance = F.mse_loss if loss == "mse" else F.l1_loss

    def loss_fn(model: nn.Module, x_0: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        batch = len(x_0)
        # Drawn on the CPU: the same numbers on every device.
        t = torch.randint(schedule.num_timesteps, (batch,), generator=generator).to(x_0.device)
        eps = torch.randn(x_0.shape, generator=generator).to(x_0.device)
        drop = (torch.rand(batch, generator=generator) < p_uncond).to(x_0.device)
        if num_classes is not None and model.training:
            y = torch.where(drop, num_classes, y)
        x_t = q_sample(schedule, x_0, t, eps)
        prediction = model(x_t, t, y) if num_classes is not None else model(x_t, t)
        return distance(prediction.float(), eps)

    return loss_fn


class EMA:
    """An exponential moving average of a model's weights.

    After update n (from 0) the decay is min(decay, (1 + n) / (10 + n)): early on it forgets fast, so that the random
    first weights do not linger.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.num_updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards `model`."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - decay)
        for mine, theirs in zip(self.model.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)
        self.num_updates += 1


def learning_rate(config: TrainConfig, step: int, progress: float) -> float:
    """Linear warm-up over the first steps, then a half cosine to 0; progress runs from 0 to 1."""
    warmup = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    return config.lr * warmup * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def resolve_precision(config: TrainConfig, device: torch.device) -> str:
    """accelerate's name of the precision to train in: "no", "bf16" or "fp16"."""
    if config.precision != "auto":
        return {"float32": "no"}.get(config.precision, config.precision)
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "no"
    # On a CPU bfloat16 pays only where there are matrix units for it; elsewhere it is slower than float32.
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return "bf16" if device.type == "cpu" and has_amx() else "no"


@dataclass
class _State:
    """What a checkpoint holds besides the networks and the optimizer."""

    step: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    seconds: float = 0.0
    losses: dict[str, list] = field(
        default_factory=lambda: {"epochs": [], "train_loss": [], "val_loss": [], "test_loss": []}
    )


def train(
    model: nn.Module,
    loss_fn: LossFn,
    train_data: Any,
    config: TrainConfig,
    *,
    val_data: Any = None,
    test_data: Any = None,
    resume: bool = False,
) -> Iterator[Event]:
    """Train a model and yield what happens; the model itself is changed, the EMA comes with the events.

    Data sets have `len` and `batch(indices [B]) -> (x_0 [B, C, H, W], y [B])`. Ctrl-C, or the notebook's stop button,
    ends the training after the current step, writes a checkpoint and yields Stopped("interrupted").

    Raises:
        TrainingError: if the data set is smaller than a batch, the loss is no longer a number, or a checkpoint does
            not fit. The last good checkpoint is kept.
        WriteError: if a checkpoint cannot be written.
    """
    yield from _Trainer(model, loss_fn, train_data, config, val_data, test_data, resume).run()


class _Trainer:
    def __init__(self, model, loss_fn, train_data, config, val_data, test_data, resume) -> None:
        self.config, self.loss_fn = config, loss_fn
        self.train_data, self.val_data, self.test_data = train_data, val_data, test_data
        self.steps_per_epoch = len(train_data) // config.batch_size
        if self.steps_per_epoch == 0:
            raise TrainingError(
                f"The batch size is {config.batch_size} but there are only {len(train_data)} training images."
            )
        self.num_steps = config.epochs * self.steps_per_epoch
        self.accelerator = _accelerator(config)
        share = self.accelerator.num_processes * config.accumulation_steps
        if config.batch_size % share:
            raise TrainingError(f"The batch size {config.batch_size} must be a multiple of {share}.")
        self.device = self.accelerator.device
        torch.manual_seed(config.seed)
        self.raw_model = model.to(self.device)
        self.ema = EMA(self.raw_model, config.ema_decay)
        optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        self.state = _State()
        if resume:
            self._load_checkpoint(optimizer)
        self.model, self.optimizer = self.accelerator.prepare(self.raw_model, optimizer)

    # -- the loop ------------------------------------------------------------------------------------------------

    def run(self) -> Iterator[Event]:
        config, state = self.config, self.state
        started, before, first_step = time.monotonic(), state.seconds, state.step
        with _interrupt_flag() as interrupted:
            while state.step < self.num_steps:
                epoch, index = divmod(state.step, self.steps_per_epoch)
                elapsed = before + time.monotonic() - started
                progress = state.step / self.num_steps
                if config.max_seconds:
                    progress = max(progress, elapsed / config.max_seconds)
                    if self._any_process(progress >= 1):
                        yield self._stop("time")
                        return
                lr = learning_rate(config, state.step, progress)
                loss = self._step(epoch, index, lr)
                state.step += 1
                state.loss_sum, state.loss_count = state.loss_sum + loss, state.loss_count + 1
                now = time.monotonic() - started
                state.seconds = before + now
                rate = (state.step - first_step) / max(now, 1e-9)
                left = (self.num_steps - state.step) / rate
                if config.max_seconds:
                    left = min(left, config.max_seconds - state.seconds)
                ips = rate * config.batch_size
                yield StepDone(state.step, self.num_steps, epoch + 1, loss, lr, ips, max(left, 0.0))
                if state.step % self.steps_per_epoch == 0:
                    yield self._finish_epoch(epoch + 1)
                if state.step % config.checkpoint_every == 0 or state.step == self.num_steps:
                    self._save_checkpoint()
                if self._any_process(interrupted.is_set()):
                    yield self._stop("interrupted")
                    return
        yield self._stop("finished")

    def _step(self, epoch: int, index: int, lr: float) -> float:
        """One optimizer step on the batch that belongs to (epoch, index). Returns the mean loss over processes."""
        config, accelerator = self.config, self.accelerator
        order = torch.randperm(len(self.train_data), generator=_generator(config.seed, epoch, -1))
        batch = order[index * config.batch_size : (index + 1) * config.batch_size]
        mine = batch[accelerator.process_index :: accelerator.num_processes]
        generator = _generator(config.seed, self.state.step, accelerator.process_index)
        torch.manual_seed(generator.initial_seed())  # dropout draws from the global generator
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        total = torch.zeros((), device=self.device)
        chunks = mine.chunk(config.accumulation_steps)
        for k, chunk in enumerate(chunks):
            x_0, y = (tensor.to(self.device) for tensor in self.train_data.batch(chunk))
            last = k == len(chunks) - 1
            # Processes exchange gradients once a step, with the last micro-batch.
            with _nothing() if last else accelerator.no_sync(self.model):
                loss = self.loss_fn(self.model, x_0, y, generator) / len(chunks)
                accelerator.backward(loss)
            total += loss.detach()
        loss = float(accelerator.reduce(total, "mean"))
        if not math.isfinite(loss):
            self.optimizer.zero_grad()
            raise TrainingError(self._diverged(loss))
        accelerator.clip_grad_norm_(self.model.parameters(), config.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update(self.raw_model)
        return loss

    def _diverged(self, loss: float) -> str:
        kept = ""
        if self.config.output_dir and (self.config.output_dir / CHECKPOINT).exists():
            kept = f" The last good checkpoint is kept in {self.config.output_dir}."
        return f"The loss became {loss} at step {self.state.step + 1}: try a smaller learning rate.{kept}"

    def _finish_epoch(self, epoch: int) -> EpochDone:
        state = self.state
        row = {
            "epochs": epoch,
            "train_loss": state.loss_sum / state.loss_count,
            "val_loss": self._mean_loss(self.val_data),
            "test_loss": self._mean_loss(self.test_data),
        }
        for name, value in row.items():
            state.losses[name].append(value)
        state.loss_sum, state.loss_count = 0.0, 0
        if self.config.output_dir and self.accelerator.is_main_process:
            with atomic_write(self.config.output_dir / "losses.json") as path:
                path.write_text(json.dumps(state.losses, indent=1))
        return EpochDone(epoch, row["train_loss"], row["val_loss"], row["test_loss"], self.ema.model)

    @torch.no_grad()
    def _mean_loss(self, data: Any) -> float | None:
        """Mean loss of the EMA model, each process on its share, with the same noise every time."""
        if data is None or len(data) == 0:
            return None
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        generator = _generator(self.config.seed, 0, rank)
        total = torch.zeros(2, device=self.device, dtype=torch.float32)
        for chunk in torch.arange(len(data))[rank::world].split(256):
            x_0, y = (tensor.to(self.device) for tensor in data.batch(chunk))
            with self.accelerator.autocast():
                loss = self.loss_fn(self.ema.model, x_0, y, generator)
            total += torch.tensor([float(loss) * len(chunk), len(chunk)], device=self.device)
        total = self.accelerator.reduce(total, "sum")
        return float(total[0] / total[1])

    def _stop(self, reason: str) -> Stopped:
        self._save_checkpoint()
        # Leave the learner's model as an ordinary module: accelerate wraps its forward for mixed precision.
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        return Stopped(reason, self.state.step, self.state.seconds, self.ema.model)

    def _any_process(self, flag: bool) -> bool:
        """True on every process if it is true on one: they must leave the loop together."""
        if self.accelerator.num_processes == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.device), "sum") > 0)

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def _save_checkpoint(self) -> None:
        if not self.config.output_dir or not self.accelerator.is_main_process:
            return
        scaler = getattr(self.accelerator, "scaler", None)
        content = {
            "model": self.raw_model.state_dict(),
            "ema": self.ema.model.state_dict(),
            "ema_updates": self.ema.num_updates,
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler else None,
            "state": asdict(self.state),
            "seed": self.config.seed,
            "steps_per_epoch": self.steps_per_epoch,
        }
        with atomic_write(self.config.output_dir / CHECKPOINT) as path:
            torch.save(content, path)

    def _load_checkpoint(self, optimizer: torch.optim.Optimizer) -> None:
        if not self.config.output_dir:
            raise TrainingError("To resume, output_dir must name the folder of the earlier run.")
        path = self.config.output_dir / CHECKPOINT
        if self.accelerator.is_main_process:
            remove_leftovers(self.config.output_dir)
        if not path.exists():
            return  # killed before the first checkpoint: start from the beginning
        try:
            content = torch.load(path, map_location=self.device, weights_only=True)
            self.raw_model.load_state_dict(content["model"])
            self.ema.model.load_state_dict(content["ema"])
            optimizer.load_state_dict(content["optimizer"])
        except Exception as error:
            raise TrainingError(
                f"{path} does not fit this training or is damaged: delete it to start anew ({type(error).__name__})."
            ) from error
        found = (content["seed"], content["steps_per_epoch"])
        if found != (self.config.seed, self.steps_per_epoch):
            raise TrainingError(
                f"{path} was made with seed {found[0]} and {found[1]} steps an epoch, "
                f"this training has {self.config.seed} and {self.steps_per_epoch}: use the same settings to resume."
            )
        if content["scaler"] and getattr(self.accelerator, "scaler", None):
            self.accelerator.scaler.load_state_dict(content["scaler"])
        self.ema.num_updates = content["ema_updates"]
        self.state = _State(**content["state"])


def _accelerator(config: TrainConfig):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    # A cell that is run again must not fail because accelerate remembers the last run's device and precision. Under
    # `accelerate launch` the process group stands for the life of the process and is kept.
    if not torch.distributed.is_initialized():
        AcceleratorState._reset_state(reset_partial_state=True)
    on_cpu = config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available())
    if config.device == "cuda" and not torch.cuda.is_available():
        raise TrainingError("The device cuda was asked for but there is no usable GPU: use --device cpu.")
    if config.device == "mps" and not torch.backends.mps.is_available():
        raise TrainingError("The device mps was asked for but there is no Apple GPU: use --device cpu.")
    device = torch.device("cpu" if on_cpu else config.device.replace("auto", "cuda"))
    if torch.distributed.is_initialized():
        AcceleratorState._reset_state()
        PartialState()
    return Accelerator(cpu=on_cpu, mixed_precision=resolve_precision(config, device))


def _generator(seed: int, step: int, process: int) -> torch.Generator:
    """A CPU generator of its own for each (seed, step, process)."""
    # Odd multipliers mix the three numbers into one 63-bit seed; neighbours share nothing.
    mixed = (seed * 0x9E3779B97F4A7C15 + (step + 1) * 0xBF58476D1CE4E5B9 + (process + 2) * 0x94D049BB133111EB) % 2**63
    return torch.Generator().manual_seed(mixed)


class _nothing:  # contextlib.nullcontext with a name that reads well in the loop
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


class _interrupt_flag:
    """While active, the first Ctrl-C sets a flag instead of breaking off in the middle of a step; a second one breaks.

    Signals reach the main thread only; elsewhere the flag never rises.
    """

    def __enter__(self) -> threading.Event:
        self.flag, self.previous = threading.Event(), None
        if threading.current_thread() is threading.main_thread():
            self.previous = signal.signal(signal.SIGINT, self._handle)
        return self.flag

    def _handle(self, signum: int, frame: object) -> None:
        if self.flag.is_set():
            raise KeyboardInterrupt
        self.flag.set()

    def __exit__(self, *_: object) -> None:
        if self.previous is not None:
            signal.signal(signal.SIGINT, self.previous)
