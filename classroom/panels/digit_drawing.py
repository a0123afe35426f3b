"""What the panels of digits draw, without a browser: a request in, a Drawing out."""

from __future__ import annotations

import inspect
import io
import linecache
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from classroom import figures
from lessons_lib.guidance import EpsFn
from lessons_lib.images import to_pixels
from lessons_lib.pipeline import GenerationRequest, Model, load_model
from lessons_lib.samplers import Step
from lessons_lib.schedules import NoiseSchedule
from lessons_lib.weights import WeightsError

SamplerFn = Callable[[EpsFn, NoiseSchedule, Tensor, Tensor], Iterator[Step]]
EVALUATOR = "mnist-evaluator"


class Reading(NamedTuple):
    """What the evaluator reads in one image, and how sure it is."""

    label: int
    probability: float


@dataclass(frozen=True, eq=False)
class Drawing:
    """The images that were drawn, and how they came about.

    images: [B, C, H, W] in [-1, 1].
    states: x_T, then the state after each of the N steps; each [B, C, H, W]. Step k saw states[k].
    estimates: the N estimates of x_0; estimates[k] was made from states[k].
    timesteps: the N timesteps t at which the network was asked.
    readings: one for each image; empty without an evaluator.
    milliseconds: for the N steps, without loading and reading.
    """

    images: Tensor
    states: list[Tensor]
    estimates: list[Tensor]
    timesteps: list[int]
    readings: tuple[Reading, ...]
    milliseconds: float

    def moment(self, k: int) -> tuple[Tensor, Tensor]:
        """(x_t, x̂_0) at step k; for k = N the image and the last estimate."""
        return self.states[k], self.estimates[min(k, len(self.estimates) - 1)]


def draw_digit(
    request: GenerationRequest,
    model: Model | None = None,
    sampler_fn: SamplerFn | None = None,
    evaluator: str | Path | None = EVALUATOR,
) -> Drawing:
    """Draw what is asked for and let the evaluator read it.

    Args:
        model: (network, schedule), in place of the request's weights.
        sampler_fn: in place of the request's sampler: (eps_fn, schedule, x_T, timesteps) -> Steps.
        evaluator: name or path of its weights; None for no reading.

    Raises:
        ValueError, WeightsError: as `generate`; also if sampler_fn fails, with the line where it did.
    """
    steps = drawing_steps(request, model, sampler_fn, evaluator)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def drawing_steps(
    request: GenerationRequest,
    model: Model | None = None,
    sampler_fn: SamplerFn | None = None,
    evaluator: str | Path | None = EVALUATOR,
) -> Generator[float, None, Drawing]:
    """`draw_digit` as a generator, for progress and for being dropped: yields the part done, 0 … 1."""
    plan = request.plan(model)
    started = time.perf_counter()
    if sampler_fn is None:
        steps = plan.steps()
    else:
        steps = checked_steps(sampler_fn, plan.eps_fn, plan.schedule, plan.x_T, plan.timesteps)
    states, estimates, timesteps = [plan.x_T], [], []
    for step in steps:
        check_finite(step)
        states.append(step.x_t)
        estimates.append(step.x_0)
        timesteps.append(int(step.t))
        yield len(timesteps) / len(plan.timesteps)
    milliseconds = 1000 * (time.perf_counter() - started)
    images = states[-1].clamp(-1, 1)
    return Drawing(images, states, estimates, timesteps, read(images, evaluator), milliseconds)


def check_finite(step: Step) -> None:
    """Raise ValueError if the state after this step holds values that are not numbers."""
    if not torch.isfinite(step.x_t).all():
        raise ValueError(f"After the step at t = {step.t} the image holds values that are not numbers.")


def read(images: Tensor, evaluator: str | Path | None = EVALUATOR) -> tuple[Reading, ...]:
    """What the evaluator reads in images [B, C, H, W]; empty if there is none on this machine."""
    if evaluator is None:
        return ()
    try:
        network = load_model(evaluator)[0]
    except WeightsError:
        return ()
    probabilities, labels = network.probabilities(images.float().cpu()).max(dim=1)
    return tuple(Reading(int(y), float(p)) for y, p in zip(labels, probabilities, strict=True))


def checked_steps(
    sampler_fn: SamplerFn, eps_fn: EpsFn, schedule: NoiseSchedule, x_T: Tensor, timesteps: Tensor
) -> Iterator[Step]:
    """The Steps of a learner's sampler from a copy of x_T, each checked and copied.

    Raises:
        ValueError: one sentence, with the learner's line if the sampler failed.
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
            found = f"shape {list(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
            raise _Wrong(f"{wanted}; its {name} is {found}.")
    # A copy: a sampler that works in place would otherwise change the steps that were already handed out.
    return Step(int(step.t), step.x_t.detach().clone(), step.x_0.detach().clone())


def learners_line(sampler_fn: Callable, error: BaseException) -> str:
    """' in line 5, `x = 1 / 0`': where in the cell or file of sampler_fn; '' if it was elsewhere."""
    function = inspect.unwrap(getattr(sampler_fn, "func", sampler_fn))  # func: of a functools.partial
    file = function.__code__.co_filename if hasattr(function, "__code__") else None
    found, trace = "", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file and file != __file__:
            code = linecache.getline(file, trace.tb_lineno).strip()
            found = f" in line {trace.tb_lineno}" + (f", `{code}`" if code else "")
        trace = trace.tb_next
    return found


# -- texts and pictures ----------------------------------------------------------------------------


def reading_line(drawing: Drawing, request_label: int, guidance_scale: float) -> str:
    """What the evaluator makes of the first image, whether that was asked for, and the milliseconds."""
    if not drawing.readings:
        return f"There is no evaluator on this machine to read it. Drawn in {drawing.milliseconds:.0f} ms."
    label, probability = drawing.readings[0]
    if guidance_scale == 0:
        verdict = "at scale 0 the network is not told which digit to draw"
    elif label == request_label:
        verdict = "the digit that was asked for"
    else:
        verdict = f"not the {request_label} that was asked for"
    took = f"Drawn in {drawing.milliseconds:.0f} ms."
    return f"The evaluator reads {label} ({probability:.1%}), {verdict}. {took}"


def gif_frames(drawing: Drawing, scale: int = 5) -> list[np.ndarray]:
    """One frame for each moment: x_t on the left, the estimate made from it on the right."""
    frames = []
    for k in range(len(drawing.states)):
        x_t, x_0 = (to_pixels(image[0], scale) for image in drawing.moment(k))
        gap = np.full((len(x_t), 2 * scale, 3), 153, dtype=np.uint8)
        frames.append(np.concatenate([x_t, gap, x_0], axis=1))
    return frames


def fresh_path(folder: Path, stem: str, suffix: str) -> Path:
    """A path that no file has yet: stem, then stem-2, stem-3 …"""
    names = (f"{stem}{'' if k == 1 else f'-{k}'}{suffix}" for k in range(1, 100_000))
    return next(folder / name for name in names if not (folder / name).exists())


def still_picture(
    rows: dict[str, Tensor], title: str, columns: Sequence[str] = (), size: float = 0.85
) -> bytes:
    """Rows of images under a title, as a PNG for pages that no kernel stands behind."""
    fig = figures.image_row(rows, columns, size, title)
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", facecolor="white")
    return buffer.getvalue()
