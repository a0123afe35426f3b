"""The training loop: it takes a loss function, yields what happens, and leaves the showing to its caller.

    for event in train(model, denoising_loss(schedule), images, TrainConfig(epochs=20)):
        if isinstance(event, EpochDone):
            print(event.epoch, event.val_loss)

Every random number of step k comes from a generator seeded with (seed, k, process). So a run that was killed
and resumed draws the same numbers as one that was not, and on a CPU ends with the same weights bit for bit.
"""

import contextlib
import functools
import json
import math
import os
import signal
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import asdict
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from lessons_lib.files import lock, remove_leftovers, write_whole
from lessons_lib.signals import stops_noted
from lessons_lib.training.averaging import EMA
from lessons_lib.training.checkpoints import BEFORE_DECAY, CHECKPOINT, TrainState
from lessons_lib.training.config import EpochDone, Event, PrecisionChosen, StepDone, Stopped, TrainConfig
from lessons_lib.training.config import TrainingError as TrainingError
from lessons_lib.training.denoising import LossFn, denoising_loss
from lessons_lib.training.devices import make_accelerator, resolve_precision, seconds_a_step, training_device

# What a resumed training may change: where and how long it runs, and what it writes.
MACHINE = {"accumulation_steps", "precision", "device", "max_seconds", "output_dir"}
MACHINE |= {"checkpoint_every", "measure_every"}
clock = time.monotonic  # a benchmark may count the processor's seconds in their place


def train(
    model: nn.Module, loss_fn: LossFn, train_data: Any, config: TrainConfig, *,
    val_data: Any = None, test_data: Any = None, resume: bool = False, extend: bool = False,
    settings: Mapping[str, Any] | None = None,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
) -> Iterator[Event]:  # fmt: skip
    """Train a model and yield what happens; the model itself is changed, the EMA comes with the events.

    Data have `len` and `batch(indices [B]) -> (x_0 [B, C, H, W], y [B])`; `augment` varies the images in
    training only; weights of the loss are trained, too. `resume` goes on from the checkpoint in
    config.output_dir, if its config and `settings`, which say what the training is of, are the same; `extend`
    also to more epochs, if config.lr_decay is below 1.

    Ctrl-C ends the training after the current step with a checkpoint and Stopped("interrupted"), SIGTERM and
    its kind with Stopped("terminated"). output_dir is locked; the second training there gets a Locked.
    TrainingError (too few images, a loss that is no number, a checkpoint that does not fit) and WriteError
    keep the last one.
    """
    count, batch_size = len(train_data), config.batch_size
    if count < batch_size:
        raise TrainingError(f"The batch size is {batch_size} but there are only {count} training images.")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise TrainingError("This model's weights are frozen: call model.requires_grad_(True) first.")
    steps_per_epoch, device = count // batch_size, training_device(config)
    whole = {name: value for name, value in asdict(config).items() if name not in MACHINE}
    whole |= {"steps_per_epoch": steps_per_epoch, **(settings or {})}
    precision = resolve_precision(config, device, config.epochs * steps_per_epoch)
    state, content = TrainState(whole, precision, device.type), {}
    if resume or extend:
        state, content = state.resumed(config, extend)
    sets = {"train": train_data, "val_loss": val_data, "test_loss": test_data}
    with contextlib.ExitStack() as held:
        if config.output_dir and (os.environ.get("RANK") or "0") == "0":  # the first process writes for all
            held.enter_context(lock(config.output_dir, is_folder=True))
            remove_leftovers(config.output_dir)
        if state.precision == "auto":
            few = train_data.batch(torch.arange(batch_size // config.accumulation_steps))
            seconds = seconds_a_step(model, loss_fn, few)
            # What is hardly faster is not worth the coarser numbers.
            state.precision = "bf16" if seconds["bf16"] < 0.9 * seconds["float32"] else "float32"
            yield PrecisionChosen(state.precision, seconds)
        yield from _Trainer(model, loss_fn, augment, sets, config, state, content).run()


class _Trainer:
    """Networks, average and optimizer in the hands of accelerate."""

    def __init__(self, model, loss_fn, augment, sets, config, state, content) -> None:
        self.augment, self.sets, self.config, self.state = augment, sets, config, state
        self.accelerator = accelerator = make_accelerator(config, state.precision)
        self.device, self.rank = accelerator.device, accelerator.process_index
        self.world = accelerator.num_processes
        if config.batch_size % (share := self.world * config.accumulation_steps):
            raise TrainingError(f"The batch size {config.batch_size} must be a multiple of {share}.")
        self.raw_model, self.ema = model.to(self.device), EMA(model, config.ema_decay, config.ema_sigma_rel)
        # The loss may have weights of its own.
        raw_loss = loss_fn.to(self.device) if isinstance(loss_fn, nn.Module) else nn.Module()
        learned = [parameter for parameter in raw_loss.parameters() if parameter.requires_grad]
        parameters = [*model.parameters(), *learned]
        optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
        optimizer.zero_grad()  # what the caller may have left there
        self.parts = {"model": model, "ema": self.ema, "optimizer": optimizer, "loss": raw_loss}
        self.parts |= {"scaler": accelerator.scaler} if accelerator.scaler else {}
        try:
            for name in self.parts.keys() & content.keys():  # only a training in float16 has a scaler
                self.parts[name].load_state_dict(content[name])
        except (KeyError, ValueError, RuntimeError) as error:
            path = config.output_dir / CHECKPOINT
            raise TrainingError(f"{path} belongs to another network: delete it to start anew.") from error
        if self._highest(state.step) != -self._highest(-state.step):
            raise TrainingError("The processes found different checkpoints: all must share output_dir.")
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.parts["optimizer"] = self.optimizer
        self.loss_fn = accelerator.prepare(raw_loss) if learned else loss_fn
        raw_loss.__dict__.pop("forward", None)  # only the network runs in another precision
        if state.step == 0:  # the processes now share the first one's weights, and the average, too
            self.ema.model.load_state_dict(model.state_dict())

    def run(self) -> Iterator[Event]:
        state, average, first = self.state, self.ema, self.state.step
        try:
            with stops_noted() as stops:
                reason = yield from self._loop(stops)
                if state.step > first:  # what had ended is left alone
                    self._save()
                self.accelerator.wait_for_everyone()  # or who resumes at once would find an older checkpoint
        finally:  # however it ends, the learner gets an ordinary module back, whose forward is not wrapped
            self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
            self.raw_model.__dict__.pop("forward", None)
        yield Stopped(reason, state.step, state.seconds, average.model, state.precision, average.length())

    def _loop(self, stops: list[int]) -> Generator[Event, None, str]:
        """Steps until the end; returns the reason for it."""
        config, state = self.config, self.state
        first, before, started = state.step, state.seconds, clock()
        steps_per_epoch = state.settings["steps_per_epoch"]
        num_steps, limit = config.epochs * steps_per_epoch, config.max_seconds or math.inf
        if state.step == 0:
            # A folder that cannot be written shows now, and no older run's checkpoint is left to resume.
            self._save()
        while state.step < num_steps:
            # One clock for all processes, or their learning rates, and their weights, would drift apart.
            progress = max(state.step / num_steps, self._highest(state.seconds) / limit)
            if progress >= 1:
                return "time"
            falls = config.lr_decay < 1 and progress >= 1 - config.lr_decay
            if falls and not state.decaying:
                self._save(BEFORE_DECAY)
            state.decaying = falls
            lr = learning_rate(config, state.step, progress)
            loss = self._step(lr)
            state.step, state.seconds = state.step + 1, before + clock() - started
            state.loss_sum, state.loss_count = state.loss_sum + loss, state.loss_count + 1
            epoch = math.ceil(state.step / steps_per_epoch)
            rate = (state.step - first) / max(state.seconds - before, 1e-9)
            left = max(min((num_steps - state.step) / rate, limit - state.seconds), 0.0)
            yield StepDone(state.step, num_steps, epoch, loss, lr, rate * config.batch_size, left)
            if state.step % steps_per_epoch == 0:
                yield self._finish_epoch(epoch)
            if state.step % config.checkpoint_every == 0:
                self._save()
            if stopped_by := self._highest(max(stops, default=0)):
                return "interrupted" if stopped_by == signal.SIGINT else "terminated"
        return "finished"

    def _step(self, lr: float) -> float:
        """One optimizer step, on the batch of its number. Returns the mean loss over processes."""
        accelerator = self.accelerator
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        generator = step_generator(self.config.seed, self.state.step, self.rank)
        # Dropout draws from the global generator: seeded for the step, and afterwards the caller's own again.
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(generator.initial_seed() + 1)  # or the dropout would follow the noise
            total = self._backward(generator)
        loss = float(accelerator.reduce(total, "mean"))
        norm = float(accelerator.clip_grad_norm_(self.model.parameters(), self.config.grad_clip))
        # An infinite gradient would spoil the weights one step before the loss shows it. (float16's scaler
        # skips such steps by itself.)
        if not math.isfinite(loss) or not (math.isfinite(norm) or accelerator.scaler):
            self.optimizer.zero_grad()
            what = "The gradient became infinite" if math.isfinite(loss) else f"The loss became {loss}"
            self._refuse(what, self.state.step + 1)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update(self.raw_model)
        return loss

    def _refuse(self, what: str, step: int) -> NoReturn:
        folder = self.config.output_dir
        kept = f" The last good checkpoint is kept in {folder}." if folder else ""
        raise TrainingError(f"{what} at step {step}: try a smaller learning rate.{kept}")

    def _backward(self, generator: torch.Generator) -> Tensor:
        """Add up the gradients of this process's share of the batch. Returns the mean loss."""
        size, seed = self.config.batch_size, self.config.seed
        epoch, place = divmod(self.state.step, self.state.settings["steps_per_epoch"])
        batch = _order(seed, epoch, len(self.sets["train"]))[place * size : (place + 1) * size]
        chunks = batch[self.rank :: self.world].chunk(self.config.accumulation_steps)
        total = torch.zeros((), device=self.device)
        for k, chunk in enumerate(chunks, 1):
            x_0, y = (tensor.to(self.device) for tensor in self.sets["train"].batch(chunk))
            x_0 = self.augment(x_0, generator) if self.augment else x_0
            # Processes exchange gradients once a step, with the last micro-batch.
            with contextlib.nullcontext() if k == len(chunks) else self.accelerator.no_sync(self.model):
                loss = self.loss_fn(self.model, x_0, y, generator) / len(chunks)
                self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def _finish_epoch(self, epoch: int) -> EpochDone:
        state = self.state
        row = {"epochs": epoch, "train_loss": state.loss_sum / state.loss_count}
        due = epoch % self.config.measure_every == 0
        row |= {name: self._mean_loss(self.sets[name]) if due else None for name in ("val_loss", "test_loss")}
        for name, value in row.items():
            state.losses.setdefault(name, []).append(value)
        state.loss_sum, state.loss_count = 0.0, 0
        if self.config.output_dir and self.accelerator.is_main_process:
            write_whole(self.config.output_dir / "losses.json", json.dumps(state.losses, indent=1))
        return EpochDone(*row.values(), self.ema.model)

    @torch.no_grad()
    def _mean_loss(self, images: Any) -> float | None:
        """Mean loss of the EMA model, each process on its share, with the same noise every time."""
        if not images:
            return None
        generator = step_generator(self.config.seed, 0, self.rank)
        total = torch.zeros(2, device=self.device)
        for chunk in filter(len, torch.arange(len(images))[self.rank :: self.world].split(256)):
            x_0, y = (tensor.to(self.device) for tensor in images.batch(chunk))
            with self.accelerator.autocast():
                loss = self.loss_fn(self.ema.model, x_0, y, generator)
            total += torch.tensor([float(loss) * len(chunk), len(chunk)], device=self.device)
        total = self.accelerator.reduce(total, "sum")
        return float(total[0] / total[1])

    def _highest(self, value: float) -> float:
        """The highest value over all processes, so that all decide alike and leave the loop together."""
        if self.world == 1:
            return value
        return float(self.accelerator.gather(torch.tensor([float(value)], device=self.device)).max())

    def _save(self, name: str = CHECKPOINT) -> None:
        # The last step's loss does not show what it did to the weights.
        weights = [*self.raw_model.parameters(), *self.ema.model.parameters()]
        if not all(bool(tensor.isfinite().all()) for tensor in weights):
            self._refuse("The weights are not finite", self.state.step)
        if self.config.output_dir and self.accelerator.is_main_process:
            self.state.save(self.config.output_dir / name, self.parts)


def learning_rate(config: TrainConfig, step: int, progress: float) -> float:
    """Linear warm-up, a constant phase, and a half cosine to 0 over the last lr_decay; progress is 0 … 1."""
    warmup = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    fallen = max(0.0, 1 - (1 - min(progress, 1.0)) / config.lr_decay)  # 0 until the fall begins
    return config.lr * warmup * 0.5 * (1 + math.cos(math.pi * fallen))


def step_generator(seed: int, step: int, process: int) -> torch.Generator:
    """A CPU generator of its own for each (seed, step, process)."""
    # Odd multipliers mix the three numbers into one 63-bit seed; neighbours share nothing.
    mixed = seed * 0x9E3779B97F4A7C15 + (step + 1) * 0xBF58476D1CE4E5B9 + (process + 2) * 0x94D049BB133111EB
    return torch.Generator().manual_seed(mixed % 2**63)


@functools.lru_cache(maxsize=1)
def _order(seed: int, epoch: int, count: int) -> Tensor:
    """In which order an epoch shows the images."""
    return torch.randperm(count, generator=step_generator(seed, epoch, -1))
