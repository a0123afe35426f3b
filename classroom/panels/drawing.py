"""What panels draw, without a browser: a request in, a Drawing out; and what an evaluator reads in it."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from classroom.panels.controls import names_on
from classroom.panels.film import GUESSES, SEES, moments_of, seconds, stacked
from classroom.panels.learners_code import SamplerFn, checked_steps
from lessons_lib.classifier import Evaluator
from lessons_lib.counterfactuals import in_8_bits
from lessons_lib.flow_map import IMAGE, jump
from lessons_lib.names import refuse
from lessons_lib.pipeline import GenerationRequest, Model, Plan, load_model
from lessons_lib.samplers import Step
from lessons_lib.weights import WeightsError

EVALUATOR = "mnist-evaluator"
UNREAD = "There is no evaluator on this machine to read {}."
JUMPS = 24  # moments of a flow map's way; and pictures that it draws in one call


class Reading(NamedTuple):
    """What the evaluator reads in one image, how sure it is, and what it calls that."""

    label: int
    probability: float
    name: str

    def __str__(self) -> str:
        return f"{self.name} ({self.probability:.0%})"


@dataclass(frozen=True, eq=False)
class Drawing:
    """B images, and how they came about.

    images: [B, C, H, W] in [-1, 1].
    states: x_T, then the state after each of the N steps, [B, C, H, W]; step k saw states[k].
    estimates: the N estimates of x_0; estimates[k] was made from states[k].
    timesteps: the N timesteps t at which the network was asked.
    evaluations: how often it had been asked after each step; a learner's sampler may ask twice in one.
    readings: one for each image; empty without an evaluator.
    milliseconds: for the N steps, without loading and reading.
    """

    images: Tensor
    states: list[Tensor]
    estimates: list[Tensor]
    timesteps: list[int]
    evaluations: list[int]
    readings: tuple[Reading, ...]
    milliseconds: float

    def views(self) -> dict[str, Tensor]:
        """For a Row: estimates and states, each [N + 1, B, C, H, W] uint8; both end with the images."""
        return {
            GUESSES: stacked([*self.estimates, self.images]),
            SEES: stacked([*self.states[:-1], self.images]),
        }

    def moments(self) -> list[str]:
        """For a Film: N + 1 texts."""
        return moments_of(self.timesteps)

    def right(self, label: int) -> int:
        """How many images are read as this label."""
        return sum(reading.label == label for reading in self.readings)

    @property
    def took(self) -> str:
        return f"Drawn in {seconds(self.milliseconds)}."


def recorded(
    x_T: Tensor, steps: Iterable[Step], count: int, evaluator: str | Path | None = None,
    calls: list | None = None,
) -> Generator[float, None, Drawing]:  # fmt: skip
    """A sampler's `count` steps from x_T as a Drawing; yields the part done, 0 … 1.

    calls: gets an entry whenever the network is asked; without it each step asks once.
    """
    started = time.perf_counter()
    states, estimates, timesteps, evaluations = [x_T], [], [], []
    for step in steps:
        if not torch.isfinite(step.x_t).all():
            raise ValueError(f"After the step at t = {step.t} the image holds values that are not numbers.")
        states.append(step.x_t)
        estimates.append(step.x_0)
        timesteps.append(int(step.t))
        evaluations.append(len(timesteps if calls is None else calls))
        yield len(timesteps) / count
    took, images = 1000 * (time.perf_counter() - started), states[-1].clamp(-1, 1)
    return Drawing(images, states, estimates, timesteps, evaluations, read(images, evaluator), took)


def drawn(
    request: GenerationRequest, model: Model | None = None, sampler_fn: SamplerFn | None = None,
    evaluator: str | Path | None = EVALUATOR, way: bool = False,
) -> Generator[float, None, Drawing]:  # fmt: skip
    """Draw what is asked for and read it; yields the part done, 0 … 1.

    Args:
        model: (network, schedule), in place of the request's weights.
        sampler_fn: in place of the request's sampler: (eps_fn, schedule, x_T, timesteps) -> Steps.
        evaluator: name or path of its weights; None for no reading.
        way: in place of the steps that a flow map took, what its jumps to other times would be.

    Raises:
        ValueError, WeightsError: as `generate`; also if sampler_fn fails, with the line where it did.
    """
    plan, calls = request.plan(model), [] if sampler_fn else None

    def counted(x_t: Tensor, t: Tensor) -> Tensor:
        calls.append(t)
        return plan.eps_fn(x_t, t)

    steps = plan.steps()
    if sampler_fn:
        steps = checked_steps(sampler_fn, counted, plan.schedule, plan.x_T, plan.timesteps)
    drawing = yield from recorded(plan.x_T, steps, len(plan.timesteps), evaluator, calls)
    return (yield from _with_way(drawing, plan)) if way else drawing


def _with_way(drawing: Drawing, plan: Plan) -> Generator[float, None, Drawing]:
    """A flow map's drawing with the way there: jumps from x_T to ever earlier times, the last the image."""
    x_T, first, scale = plan.x_T, plan.schedule.num_timesteps - 1, plan.request.guidance_scale
    times, states, estimates = torch.linspace(first, IMAGE, JUMPS + 1).round().long(), [x_T], []
    for some in times[1:].split(max(1, JUMPS // len(x_T))):
        x, y = x_T.repeat(len(some), 1, 1, 1), torch.tensor(plan.request.labels).repeat(len(some))
        s = some.repeat_interleave(len(x_T))
        t, w = torch.full_like(s, first), torch.full(s.shape, float(scale))
        with torch.no_grad():
            x_0 = plan.network.estimate(x, t, s, y, w).clamp(-1, 1)
        states += jump(plan.schedule, x, t, s, x_0).split(len(x_T))
        estimates += x_0.split(len(x_T))
        yield len(estimates) / JUMPS
    return replace(drawing, states=states, estimates=estimates, timesteps=times[:-1].tolist())


def finished(steps: Generator) -> object:
    """What a generator returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def part_of(steps: Generator, done: int, count: int) -> Generator:
    """`steps` as one of `count` jobs of which `done` are done: yields the part done of them all."""
    while True:
        try:
            yield (done + next(steps)) / count
        except StopIteration as end:
            return end.value


def given(images: Tensor, most: int) -> Tensor:
    """The images that a panel was given, [N, C, H, W] in [-1, 1], as 8-bit pixels; ValueError for others."""
    shape = list(getattr(images, "shape", ()))
    if len(shape) != 4 or not 1 <= shape[0] <= most:
        count = f"1 to {most} images" if most > 1 else "one image"
        raise ValueError(f"Give {count} [N, C, H, W], got shape {shape}.")
    if float(images.abs().max()) > 1.001:
        ends = f"{images.min():g} to {images.max():g}"
        raise ValueError(f"The images must lie in [-1, 1], got values from {ends}.")
    return in_8_bits(images.detach().float().cpu())


def evaluator_of(
    evaluator: str | Path | None, images: Tensor, attributes: bool = False
) -> tuple[Evaluator, tuple[str, ...]] | None:
    """The evaluator and the names of its classes or `attributes`; None without one on this machine.

    ValueError for one that does not read such images [B, C, H, W].
    """
    if evaluator is None:
        return None
    try:
        network, _, card = load_model(evaluator)
    except WeightsError:
        return None
    config, it, is_one = network.config, f"The evaluator {str(evaluator)!r}", isinstance(network, Evaluator)
    reads = config.in_channels, config.image_size, config.image_size
    shapes = ["×".join(map(str, shape)) for shape in (reads, images.shape[1:])]
    refuse({
        f"The weights {str(evaluator)!r} are no evaluator: they cannot read.": not is_one,
        f"{it} reads pictures of {shapes[0]} (C×H×W) and not of {shapes[1]}.": shapes[0] != shapes[1],
        f"{it} reads classes, not attributes.": attributes and not config.multi_label,
    })  # fmt: skip
    return network, names_on(card)


def read(images: Tensor, evaluator: str | Path | None = EVALUATOR) -> tuple[Reading, ...]:
    """What the evaluator reads in images [B, C, H, W]; empty if there is none, see `evaluator_of`."""
    found = evaluator_of(evaluator, images)
    if found is None:
        return ()
    probabilities, labels = found[0].probabilities(images.float().cpu()).max(dim=1)
    pairs = zip(labels.tolist(), probabilities.tolist(), strict=True)
    return tuple(Reading(label, sure, found[1][label]) for label, sure in pairs)
