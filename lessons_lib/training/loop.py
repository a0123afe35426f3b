"""The loop itself."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import threading
from collections.abc import Generator, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lessons_lib.files import atomic_write, remove_leftovers
from lessons_lib.training.checkpoints import (
    BEFORE_DECAY,
    CHECKPOINT,
    TrainState,
    load_checkpoint,
    restore,
    save_checkpoint,
)
from lessons_lib.training.config import (
    EpochDone,
    Event,
    PrecisionChosen,
    StepDone,
    Stopped,
    TrainConfig,
    TrainingError,
)
from lessons_lib.training.ingredients import EMA, LossFn, learning_rate, step_generator
from lessons_lib.training.machine import (
    Clock,
    InterruptFlag,
    make_accelerator,
    resolve_precision,
    seconds_a_step,
    training_device,
)

# What a resumed training may change: where and how long it runs, and what it writes.
MACHINE = ("accumulation_steps", "precision", "device", "checkpoint_every", "max_seconds", "output_dir")


def train(
    model: nn.Module,
    loss_fn: LossFn,
    train_data: Any,
    config: TrainConfig,
    *,
    val_data: Any = None,
    test_data: Any = None,
    resume: bool = False,
    extend: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> Iterator[Event]:
    """Train a model and yield what happens; the model itself is changed, the EMA comes with the events.

    Args:
        loss_fn: if it is a module with parameters of its own, they are trained, too.
        resume: go on from the checkpoint in config.output_dir.
        extend: as resume, but config.epochs may be more than the checkpoint's; config.lr_decay must be below
            1.
        settings: what the training is of besides config; a checkpoint with others is refused.

    Data sets have `len` and `batch(indices [B]) -> (x_0 [B, C, H, W], y [B])`. Ctrl-C, or the notebook's stop
    button, ends the training after the current step, writes a checkpoint and yields Stopped("interrupted").

    Raises:
        TrainingError: if the data set is smaller than a batch, the loss is no longer a number, or a
            checkpoint does not fit. The last good checkpoint is kept.
        WriteError: if a checkpoint cannot be written.
    """
    yield from _Trainer(
        model, loss_fn, train_data, config, val_data, test_data, resume or extend, extend, settings or {}
    ).run()


class _Trainer:
    def __init__(
        self, model, loss_fn, train_data, config, val_data, test_data, resume, extend, settings
    ) -> None:
        self.config, self.loss_fn = config, loss_fn
        self.train_data, self.val_data, self.test_data = train_data, val_data, test_data
        self.order: tuple[int, Tensor] | None = None  # the epoch and its order of images
        self.steps_per_epoch = len(train_data) // config.batch_size
        if self.steps_per_epoch == 0:
            raise TrainingError(
                f"The batch size is {config.batch_size} but there are only {len(train_data)} training images."
            )
        self.num_steps = config.epochs * self.steps_per_epoch
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise TrainingError("This model's weights are frozen: call model.requires_grad_(True) first.")
        self.chosen: PrecisionChosen | None = None
        content = self._begin(model, resume, extend, settings)
        self.accelerator = make_accelerator(config, self.state.precision)
        share = self.accelerator.num_processes * config.accumulation_steps
        if config.batch_size % share:
            raise TrainingError(f"The batch size {config.batch_size} must be a multiple of {share}.")
        self.device = self.accelerator.device
        self.raw_model = model.to(self.device)
        self.ema = EMA(self.raw_model, config.ema_decay, config.ema_sigma_rel)
        # The loss may have weights of its own.
        self.raw_loss = loss_fn.to(self.device) if isinstance(loss_fn, nn.Module) else nn.Module()
        own = [*self.raw_loss.parameters()]
        parameters = [*model.parameters(), *own]
        optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
        optimizer.zero_grad()  # what the caller may have left there
        if content:
            restore(self._parts(optimizer), content, config.output_dir)
        if resume and self._highest(self.state.step) != -self._highest(-self.state.step):
            raise TrainingError(
                "The processes found different checkpoints: all must share the folder output_dir."
            )
        self.model, self.optimizer = self.accelerator.prepare(self.raw_model, optimizer)
        self.loss_fn = self.accelerator.prepare(loss_fn) if own else loss_fn
        self.raw_loss.__dict__.pop("forward", None)  # only the network runs in another precision
        if self.state.step == 0:  # the processes now share the first one's weights, and the average, too
            self.ema.model.load_state_dict(self.raw_model.state_dict())

    def _begin(self, model: nn.Module, resume: bool, extend: bool, settings: Mapping[str, Any]) -> dict:
        """The state to start from, its precision decided; returns what a checkpoint holds besides."""
        config = self.config
        mine = {name: value for name, value in dataclasses.asdict(config).items() if name not in MACHINE}
        mine |= {"steps_per_epoch": self.steps_per_epoch}
        device = training_device(config)
        precision = resolve_precision(config, device, self.num_steps)
        self.state, content = TrainState(mine | dict(settings), precision, device.type), {}
        if resume:
            self.state, content = self._read_checkpoint(extend)
        if config.precision != "auto" or self.state.device != device.type:
            self.state.precision, self.state.device = precision, device.type
        if self.state.precision == "auto":
            self.state.precision = self._measure_precision(model)
        return content

    def _measure_precision(self, model: nn.Module) -> str:
        """The faster precision on this CPU, for this network."""
        few = torch.arange(self.config.batch_size // self.config.accumulation_steps)
        seconds = seconds_a_step(model, self.loss_fn, self.train_data.batch(few))
        # What is hardly faster is not worth the coarser numbers.
        precision = "bf16" if seconds["bf16"] < 0.9 * seconds["float32"] else "float32"
        self.chosen = PrecisionChosen(precision, seconds)
        return precision

    # -- the loop ---------------------------------------------------------------------------------------

    def run(self) -> Iterator[Event]:
        try:
            if self.chosen:
                yield self.chosen
            with InterruptFlag() as interrupted:
                reason = yield from self._loop(interrupted)
                self._save_checkpoint()
                self.accelerator.wait_for_everyone()  # or who resumes at once would find an older checkpoint
        finally:  # however it ends, the learner gets an ordinary module back
            self._unwrap_model()
        state, average = self.state, self.ema
        yield Stopped(reason, state.step, state.seconds, average.model, state.precision, average.length())

    def _loop(self, interrupted: threading.Event) -> Generator[Event, None, str]:
        """Steps until the end; returns the reason for it."""
        config, state = self.config, self.state
        clock = Clock(state.step, state.seconds)
        if state.step == 0:
            # A folder that cannot be written shows now, and no older run's checkpoint is left to resume.
            self._save_checkpoint()
        while state.step < self.num_steps:
            progress = state.step / self.num_steps
            if config.max_seconds is not None:
                # One clock for all processes, or their learning rates and with them their weights would drift
                # apart.
                progress = max(progress, self._highest(clock.seconds()) / config.max_seconds)
                if progress >= 1:
                    return "time"
            falls = config.lr_decay < 1 and progress >= 1 - config.lr_decay
            if falls and not state.decaying:
                self._save_checkpoint(BEFORE_DECAY)
            state.decaying = falls
            lr = learning_rate(config, state.step, progress)
            loss = self._step(lr)
            state.step, state.seconds = state.step + 1, clock.seconds()
            state.loss_sum, state.loss_count = state.loss_sum + loss, state.loss_count + 1
            epoch = math.ceil(state.step / self.steps_per_epoch)
            rate, left = clock.estimate(state.step, self.num_steps, config.max_seconds)
            yield StepDone(state.step, self.num_steps, epoch, loss, lr, rate * config.batch_size, left)
            if state.step % self.steps_per_epoch == 0:
                yield self._finish_epoch(epoch)
            if state.step % config.checkpoint_every == 0:
                self._save_checkpoint()
            if self._highest(interrupted.is_set()):
                return "interrupted"
        return "finished"

    def _step(self, lr: float) -> float:
        """One optimizer step, on the batch of its number. Returns the mean loss over processes."""
        accelerator = self.accelerator
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        generator = step_generator(self.config.seed, self.state.step, accelerator.process_index)
        # Dropout draws from the global generator: seeded for the step, and afterwards the caller's own again.
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(generator.initial_seed() + 1)  # or the dropout would follow the noise
            total = self._backward(self._batch_indices(), generator)
        loss = float(accelerator.reduce(total, "mean"))
        norm = float(accelerator.clip_grad_norm_(self.model.parameters(), self.config.grad_clip))
        # An infinite gradient would spoil the weights one step before the loss shows it. (float16's scaler
        # skips such steps by itself.)
        if not math.isfinite(loss) or not (math.isfinite(norm) or accelerator.scaler):
            self.optimizer.zero_grad()
            raise TrainingError(self._diverged(loss))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update(self.raw_model)
        return loss

    def _batch_indices(self) -> Tensor:
        """The images of this step that fall to this process."""
        epoch, index = divmod(self.state.step, self.steps_per_epoch)
        if self.order is None or self.order[0] != epoch:
            generator = step_generator(self.config.seed, epoch, -1)
            self.order = (epoch, torch.randperm(len(self.train_data), generator=generator))
        batch = self.order[1][index * self.config.batch_size : (index + 1) * self.config.batch_size]
        return batch[self.accelerator.process_index :: self.accelerator.num_processes]

    def _backward(self, indices: Tensor, generator: torch.Generator) -> Tensor:
        """Add up the gradients of the micro-batches. Returns the mean loss."""
        total = torch.zeros((), device=self.device)
        chunks = indices.chunk(self.config.accumulation_steps)
        for k, chunk in enumerate(chunks):
            x_0, y = (tensor.to(self.device) for tensor in self.train_data.batch(chunk))
            last = k == len(chunks) - 1
            # Processes exchange gradients once a step, with the last micro-batch.
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                loss = self.loss_fn(self.model, x_0, y, generator) / len(chunks)
                self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def _diverged(self, loss: float) -> str:
        kept = ""
        if self.config.output_dir and (self.config.output_dir / CHECKPOINT).exists():
            kept = f" The last good checkpoint is kept in {self.config.output_dir}."
        what = f"The loss became {loss}" if not math.isfinite(loss) else "The gradient became infinite"
        return f"{what} at step {self.state.step + 1}: try a smaller learning rate.{kept}"

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
        generator = step_generator(self.config.seed, 0, rank)
        total = torch.zeros(2, device=self.device, dtype=torch.float32)
        for chunk in filter(len, torch.arange(len(data))[rank::world].split(256)):
            x_0, y = (tensor.to(self.device) for tensor in data.batch(chunk))
            with self.accelerator.autocast():
                loss = self.loss_fn(self.ema.model, x_0, y, generator)
            total += torch.tensor([float(loss) * len(chunk), len(chunk)], device=self.device)
        total = self.accelerator.reduce(total, "sum")
        return float(total[0] / total[1])

    def _unwrap_model(self) -> None:
        # accelerate wraps a model's forward for mixed precision.
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        self.raw_model.__dict__.pop("forward", None)

    def _highest(self, value: float) -> float:
        """The highest value over all processes, so that all decide alike and leave the loop together."""
        if self.accelerator.num_processes == 1:
            return value
        return float(self.accelerator.gather(torch.tensor([float(value)], device=self.device)).max())

    # -- checkpoints ------------------------------------------------------------------------------------

    def _parts(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """What a checkpoint holds of networks and optimizer, by name."""
        parts = {
            "model": self.raw_model, "ema": self.ema, "optimizer": optimizer, "loss": self.raw_loss
        }  # fmt: skip
        return parts | ({"scaler": self.accelerator.scaler} if self.accelerator.scaler else {})

    def _save_checkpoint(self, name: str = CHECKPOINT) -> None:
        if self.config.output_dir and self.accelerator.is_main_process:
            save_checkpoint(self.config.output_dir, self.state, self._parts(self.optimizer), name)

    def _read_checkpoint(self, extend: bool) -> tuple[TrainState, dict]:
        if not self.config.output_dir:
            raise TrainingError("To resume, output_dir must name the folder of the earlier run.")
        if int(os.environ.get("RANK", "0")) == 0:
            remove_leftovers(self.config.output_dir)
        return load_checkpoint(self.config.output_dir, self.state, extend)
