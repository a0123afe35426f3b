"""One request in, Steps out: the path of the command line, the widgets, the benchmarks and the evaluation."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lessons_lib import weights
from lessons_lib.guidance import EpsFn, in_bfloat16, unconditional, with_cfg
from lessons_lib.samplers import SAMPLERS, SampleNoise, Step, sample_ddim, sample_ddpm
from lessons_lib.schedules import NoiseSchedule, spaced_timesteps

GUIDANCES = ("none", "cfg")
PRECISIONS = ("float32", "bf16")


@dataclass(frozen=True)
class GenerationRequest:
    """What to draw and how; what is None comes from the card of the weights.

    Args:
        labels: [B] the label of each sample; with guidance "none" only their number counts.
        weights: name or path.
        guidance: "cfg", or "none": the unconditional model, which does not hear the labels.
        guidance_scale: w; 0 unconditional, 1 conditional, above 1 amplified.
        interval: (t_low, t_high), the timesteps at which w holds; None for all.
        sampler: "ddim" or "ddpm".
        steps: network evaluations, 1 … T.
        eta: of DDIM; 0 adds no noise on the way.
        seed: with sample_indices it decides all noise.
        sample_indices: [B] sample k's noise comes from (seed, k): equal numbers get equal noise. None counts
            from 0.
        device: None is the CPU.
        precision: of the network, "float32" or "bf16".

    Raises:
        ValueError: one sentence, for what no weights could draw.
    """

    labels: tuple[int, ...]
    weights: str | Path = "mnist-denoiser"
    guidance: str = "cfg"
    guidance_scale: float | None = None
    interval: tuple[int, int] | None = None
    sampler: str | None = None
    steps: int | None = None
    eta: float = 0.0
    seed: int = 0
    sample_indices: tuple[int, ...] | None = None
    device: str | None = None
    precision: str = "float32"

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "labels", tuple(operator.index(label) for label in self.labels))
        except TypeError:
            raise ValueError(f"Labels must be whole numbers, got {self.labels!r}.") from None
        if not self.labels:
            raise ValueError("At least one label is needed.")
        if self.guidance not in GUIDANCES:
            raise ValueError(f"Unknown guidance {self.guidance!r}: choose one of {', '.join(GUIDANCES)}.")
        if self.guidance_scale is not None and not _is_finite(self.guidance_scale):
            raise ValueError(f"The guidance scale must be a finite number, got {self.guidance_scale!r}.")
        if self.precision not in PRECISIONS:
            raise ValueError(f"Unknown precision {self.precision!r}: choose one of {', '.join(PRECISIONS)}.")
        if self.sampler is not None and self.sampler not in SAMPLERS:
            raise ValueError(f"Unknown sampler {self.sampler!r}: choose one of {', '.join(SAMPLERS)}.")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"The number of steps must be at least 1, got {self.steps}.")
        if self.sample_indices is not None and len(self.sample_indices) != len(self.labels):
            raise ValueError(
                f"There are {len(self.sample_indices)} sample indices for {len(self.labels)} labels."
            )


def load_model(name: str | Path, device: str | None = None) -> tuple[nn.Module, NoiseSchedule, dict]:
    """`load_pretrained`, kept in memory until the weights or their card change.

    Raises:
        WeightsError: as load_pretrained.
    """
    path = weights.weights_path(name)
    files = (path, path.with_suffix(".json"))  # the card alone changes when it gets new metrics
    stamps = tuple(file.stat().st_mtime_ns if file.exists() else 0 for file in files)
    return _load_model(str(name), device, stamps)


@functools.lru_cache(maxsize=8)
def _load_model(
    name: str, device: str | None, stamps: tuple[int, ...]
) -> tuple[nn.Module, NoiseSchedule, dict]:
    return weights.load_pretrained(name, device)


def with_defaults(request: GenerationRequest) -> GenerationRequest:
    """The request with every None filled in from the card of its weights."""
    defaults = load_model(request.weights, request.device)[2].get("defaults", {})
    return dataclasses.replace(
        request,
        guidance_scale=_first(request.guidance_scale, defaults.get("guidance_scale"), 2.0),
        sampler=_first(request.sampler, defaults.get("sampler"), "ddim"),
        steps=_first(request.steps, defaults.get("steps"), 25),
    )


def generate(request: GenerationRequest) -> Iterator[Step]:
    """Draw what was asked for.

    Yields:
        one Step for each network evaluation; the last one's x_t [B, C, H, W] in [-1, 1] are the images.

    Raises:
        ValueError: if a label or the number of steps does not suit these weights.
        WeightsError: if the weights cannot be loaded, or are not a denoiser's.
    """
    request = with_defaults(request)
    model, schedule, _ = load_model(request.weights, request.device)
    if schedule is None or not hasattr(model, "null_label"):
        raise weights.WeightsError(f"The weights {str(request.weights)!r} are no denoiser: they cannot draw.")
    yield from generate_with(model, schedule, request)


def generate_with(model: nn.Module, schedule: NoiseSchedule, request: GenerationRequest) -> Iterator[Step]:
    """As `generate`, with a network in hand; guidance_scale, sampler and steps must be set."""
    eps_fn = _eps_fn(model, request)
    if request.precision == "bf16":
        eps_fn = in_bfloat16(eps_fn)
    timesteps = spaced_timesteps(schedule.num_timesteps, request.steps)
    noise_fn, x_T = starting_noise(model, request)
    if request.sampler == "ddpm":
        return sample_ddpm(eps_fn, schedule, x_T, timesteps, noise_fn=noise_fn)
    return sample_ddim(eps_fn, schedule, x_T, timesteps, eta=request.eta, noise_fn=noise_fn)


def generate_images(request: GenerationRequest) -> Tensor:
    """The images only: [B, C, H, W] in [-1, 1]."""
    *_, last = generate(request)
    return last.x_t.clamp(-1, 1)


def in_chunks(request: GenerationRequest, size: int = 100) -> Iterator[GenerationRequest]:
    """The request cut into requests of at most `size` samples; each sample's noise is as in the whole.

    Raises:
        ValueError: if size < 1.
    """
    if size < 1:
        raise ValueError(f"The batch size must be at least 1, got {size}.")
    indices = request.sample_indices or tuple(range(len(request.labels)))
    for i in range(0, len(indices), size):
        yield dataclasses.replace(
            request, labels=request.labels[i : i + size], sample_indices=indices[i : i + size]
        )


def starting_noise(model: nn.Module, request: GenerationRequest) -> tuple[SampleNoise, Tensor]:
    """The noise source of a request, and the x_T [B, C, H, W] drawn from it."""
    indices = request.sample_indices or range(len(request.labels))
    noise_fn = SampleNoise([(request.seed, k) for k in indices])
    config, parameter = model.config, next(model.parameters())
    shape = (len(request.labels), config.in_channels, config.image_size, config.image_size)
    return noise_fn, noise_fn(torch.empty(shape, device=parameter.device))


def _eps_fn(model: nn.Module, request: GenerationRequest) -> EpsFn:
    if request.guidance == "none":
        return unconditional(model)
    num_classes = model.null_label
    for label in request.labels:
        if not 0 <= label < num_classes:
            raise ValueError(f"Unknown label {label}: choose from 0 to {num_classes - 1}.")
    return with_cfg(model, torch.tensor(request.labels), request.guidance_scale, request.interval)


def _is_finite(number: object) -> bool:
    try:
        return math.isfinite(number)
    except TypeError:
        return False


def _first(*values):
    return next(value for value in values if value is not None)
