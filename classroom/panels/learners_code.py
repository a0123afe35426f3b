"""A learner's own code in a panel: its inputs are copies, every mistake is one sentence with its line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from classroom.checks.running import code_of, line_of
from lessons_lib.guidance import EpsFn
from lessons_lib.samplers import Step
from lessons_lib.schedules import NoiseSchedule

YOURS = "yours"  # what the learner wrote, among a panel's choices
SamplerFn = Callable[[EpsFn, NoiseSchedule, Tensor, Tensor], Iterator[Step]]


class Wrong(ValueError):
    """What is wrong with the learner's code, as a sentence."""


def stopped(kind: str, function: Callable, error: BaseException) -> Wrong:
    """'Your sampler stopped: ZeroDivisionError, division by zero (line 5: x = 1 / 0).'"""
    if isinstance(error, Wrong):
        return error
    line = line_of(error, code_of(function))
    return Wrong(f"Your {kind} stopped: {type(error).__name__}, {error}{f' ({line})' if line else ''}.")


def checked_steps(
    sampler_fn: SamplerFn, eps_fn: EpsFn, schedule: NoiseSchedule, x_T: Tensor, timesteps: Tensor
) -> Iterator[Step]:
    """The Steps of a learner's sampler from a copy of x_T, each checked and copied; Wrong in a sentence."""
    count, wanted = 0, f"must yield Step(t, x_t, x_0) with images of shape {list(x_T.shape)}"
    try:
        steps = sampler_fn(eps_fn, schedule, x_T.clone(), timesteps)
        if not isinstance(steps, Iterable):
            raise Wrong(f"Your sampler {wanted} for each timestep; it returned {_kind(steps)}.")
        for count, step in enumerate(steps, start=1):
            if count > len(timesteps):
                raise Wrong(f"Your sampler makes more than the {len(timesteps)} steps that were asked for.")
            if not isinstance(step, tuple) or len(step) != 3:
                raise Wrong(f"Your sampler {wanted}; it yielded {_kind(step)}.")
            for name, image in (("x_t", step[1]), ("x_0", step[2])):
                if not isinstance(image, Tensor) or image.shape != x_T.shape:
                    raise Wrong(f"Your sampler {wanted}; its {name} is {_kind(image)}.")
            # Copies: a sampler that works in place would change the steps that were already handed out.
            yield Step(int(step[0]), step[1].detach().clone(), step[2].detach().clone())
    except (Exception, SystemExit) as error:  # exit() in a cell must not end the panel's thread
        raise stopped("sampler", sampler_fn, error) from error
    if count == 0:
        raise Wrong(f"Your sampler {wanted} for each timestep; it ended without one.")


def checked_images(kind: str, function: Callable, *inputs) -> Tensor:
    """What a learner's `kind` ("abduction", "intervention") makes of copies; the first has the shape."""
    copies = [value.clone() if isinstance(value, Tensor) else value for value in inputs]
    shape = next(value.shape for value in inputs if isinstance(value, Tensor))
    try:
        with torch.no_grad():
            images = function(*copies)
    except (Exception, SystemExit) as error:
        raise stopped(kind, function, error) from error
    if not isinstance(images, Tensor) or images.shape != shape:
        raise Wrong(f"Your {kind} must return images of shape {list(shape)}, not {_kind(images)}.")
    if not torch.isfinite(images).all():
        raise Wrong(f"What your {kind} returns holds values that are not numbers.")
    return images.detach().float()


def _kind(value: object) -> str:
    return f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
