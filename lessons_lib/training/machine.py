"""The machine under a training: device, precision and processes, the clock, and Ctrl-C."""

from __future__ import annotations

import signal
import threading
import time

import torch

from lessons_lib.training.config import TrainConfig, TrainingError


def resolve_precision(config: TrainConfig, device: torch.device) -> str:
    """accelerate's name of the precision to train in: "no", "bf16" or "fp16"."""
    if config.precision != "auto":
        return {"float32": "no"}.get(config.precision, config.precision)
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "no"
    # On a CPU bfloat16 pays only where there are matrix units for it; elsewhere it is slower than float32.
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return "bf16" if device.type == "cpu" and has_amx() else "no"


def make_accelerator(config: TrainConfig):
    """accelerate's Accelerator for the config's device and precision, whatever ran before in this process."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    # A cell that is run again must not fail because accelerate remembers the last run's device and precision.
    # Under `accelerate launch` the process group stands for the life of the process and is kept.
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
    precision = resolve_precision(config, device)
    if precision == "fp16" and device.type == "cpu":
        raise TrainingError("The precision fp16 needs a GPU: use float32 or bf16.")
    return Accelerator(cpu=on_cpu, mixed_precision=precision)


class Clock:
    """The training's time, earlier runs included, and how long the rest will take."""

    def __init__(self, first_step: int, seconds_before: float) -> None:
        self.first_step, self.before, self.started = first_step, seconds_before, time.monotonic()

    def seconds(self) -> float:
        return self.before + time.monotonic() - self.started

    def estimate(self, step: int, num_steps: int, max_seconds: float | None) -> tuple[float, float]:
        """Steps a second since the start or resume, and the seconds left."""
        rate = (step - self.first_step) / max(self.seconds() - self.before, 1e-9)
        left = (num_steps - step) / rate
        if max_seconds is not None:
            left = min(left, max_seconds - self.seconds())
        return rate, max(left, 0.0)


class InterruptFlag:
    """While active, the first Ctrl-C sets a flag instead of breaking off in mid-step; the second breaks off.

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
        # A generator that nobody finishes may be closed in another thread, where handlers cannot be set.
        if self.previous is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self.previous)
