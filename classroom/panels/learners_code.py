"""A learner's own sampler: each Step checked and copied, every mistake one sentence with its line."""

from __future__ import annotations

import inspect
import linecache
from collections.abc import Callable, Iterable, Iterator

from torch import Tensor

from lessons_lib.guidance import EpsFn
from lessons_lib.samplers import Step
from lessons_lib.schedules import NoiseSchedule

SamplerFn = Callable[[EpsFn, NoiseSchedule, Tensor, Tensor], Iterator[Step]]


def checked_steps(
    sampler_fn: SamplerFn, eps_fn: EpsFn, schedule: NoiseSchedule, x_T: Tensor, timesteps: Tensor
) -> Iterator[Step]:
    """The Steps of a learner's sampler from a copy of x_T, each checked and copied.

    ValueError with one sentence, and with the learner's line if the sampler failed.
    """
    count = 0
    try:
        steps = sampler_fn(eps_fn, schedule, x_T.clone(), timesteps)
        if not isinstance(steps, Iterable):
            kind = type(steps).__name__
            raise _Wrong(f"Your sampler returned {kind}: it must yield a Step for each timestep.")
        for count, step in enumerate(steps, start=1):
            if count > len(timesteps):
                raise _Wrong(f"Your sampler makes more than the {len(timesteps)} steps that were asked for.")
            yield _checked(step, x_T)
    except _Wrong:
        raise
    except Exception as error:
        line = learners_line(sampler_fn, error)
        raise _Wrong(f"Your sampler stopped{line}: {type(error).__name__}, {error}") from error
    if count == 0:
        raise _Wrong("Your sampler ended without a Step: it must yield one for each timestep.")


class _Wrong(ValueError):
    """What is wrong with the learner's sampler, as a sentence."""


def _checked(step: object, x_T: Tensor) -> Step:
    wanted = f"Your sampler must yield Step(t, x_t, x_0) with images of shape {list(x_T.shape)}"
    if not isinstance(step, tuple) or len(step) != 3:
        raise _Wrong(f"{wanted}; it yielded {type(step).__name__}.")
    step = Step(*step)
    for name, image in (("x_t", step.x_t), ("x_0", step.x_0)):
        if not isinstance(image, Tensor) or image.shape != x_T.shape:
            kind = f"shape {list(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
            raise _Wrong(f"{wanted}; its {name} is {kind}.")
    # A copy: a sampler that works in place would otherwise change the steps that were already handed out.
    return Step(int(step.t), step.x_t.detach().clone(), step.x_0.detach().clone())


def learners_line(sampler_fn: Callable, error: BaseException) -> str:
    """' in line 5, `x = 1 / 0`': where in the cell or file of sampler_fn; '' if it was elsewhere."""
    function = inspect.unwrap(getattr(sampler_fn, "func", sampler_fn))  # func: of a functools.partial
    file = function.__code__.co_filename if hasattr(function, "__code__") else None
    place, trace = "", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file and file != __file__:
            code = linecache.getline(file, trace.tb_lineno).strip()
            place = f" in line {trace.tb_lineno}" + (f", `{code}`" if code else "")
        trace = trace.tb_next
    return place
