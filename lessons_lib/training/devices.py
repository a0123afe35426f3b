"""Where and in which precision a training computes."""

import copy
import math
import os
import time

import torch
from torch import Tensor, nn

from lessons_lib.training.config import TrainConfig, TrainingError
from lessons_lib.training.denoising import LossFn

MEASURE_FROM_STEPS, MEASURE_FROM_SECONDS = 200, 300


def training_device(config: TrainConfig) -> torch.device:
    """Where to train; TrainingError if that is not to be had."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    kind = ("cuda" if cuda else "cpu") if config.device == "auto" else config.device
    if not {"cpu": True, "cuda": cuda, "mps": mps}[kind]:
        raise TrainingError(f"The device {kind} was asked for but there is no such GPU: use --device cpu.")
    if config.precision == "fp16" and kind == "cpu":
        raise TrainingError("The precision fp16 needs a GPU: use float32 or bf16.")
    return torch.device(kind)


def make_accelerator(config: TrainConfig, precision: str = "float32"):
    """accelerate's Accelerator for the config's device, whatever ran before in this process."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    # A cell that is run again must not fail because accelerate remembers the last run's device and precision.
    # Under `accelerate launch` the process group stands for the life of the process and is kept.
    several = torch.distributed.is_initialized()
    AcceleratorState._reset_state(reset_partial_state=not several)
    on_cpu = training_device(config).type == "cpu"
    torch.backends.cudnn.benchmark = not on_cpu  # the shapes stay the same: let a GPU find its fastest way
    if several:
        PartialState()
    return Accelerator(cpu=on_cpu, mixed_precision={"float32": "no"}.get(precision, precision))


def resolve_precision(config: TrainConfig, device: torch.device, num_steps: int) -> str:
    """The precision to train in, "float32", "bf16" or "fp16"; "auto" where it must be measured, on a CPU."""
    if config.precision != "auto":
        return config.precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "float32"
    # Not in a training of few steps or minutes; nor where processes would have to agree.
    short = num_steps < MEASURE_FROM_STEPS or (config.max_seconds or math.inf) < MEASURE_FROM_SECONDS
    several = int(os.environ.get("WORLD_SIZE") or 1) > 1
    return "float32" if short or several or device.type != "cpu" else "auto"


def seconds_a_step(model: nn.Module, loss_fn: LossFn, batch: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Seconds of forward and backward pass on the CPU in float32 and bf16, the best of four."""
    copied, best = copy.deepcopy(model).train(), {}  # the caller's, and its random numbers, stay as they are
    with torch.random.fork_rng(devices=[]):
        for precision in ("float32", "bf16") * 4:  # in turn: other programs disturb both
            started = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loss = loss_fn(copied, *batch, torch.Generator().manual_seed(0))
            loss.backward()
            best[precision] = min(time.perf_counter() - started, best.get(precision, math.inf))
    return best
