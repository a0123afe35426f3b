"""What the counterfactual explorer shows, without a browser: a request in, Paths and words out."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from classroom.panels.digits import EVALUATOR, Reading, check_finite, read
from classroom.panels.learners_code import learners_line
from lessons_lib import data, pictures
from lessons_lib.counterfactuals import in_8_bits
from lessons_lib.data import to_signed, to_unit
from lessons_lib.guidance import EpsFn
from lessons_lib.images import to_bytes
from lessons_lib.pipeline import AbductFn, CounterfactualPlan
from lessons_lib.schedules import NoiseSchedule, spaced_timesteps

LARGEST = 10  # images in one grid
ORANGE = "color: #c0492f; font-weight: bold"  # the marks' orange, darker: it is read on white


@dataclass(frozen=True, eq=False)
class Paths:
    """S images, K counterfactuals of each, and the way there.

    sources: [S, C, H, W] in [-1, 1], labels: what they are.
    images: [S * K, C, H, W] in [-1, 1], the first image's first.
    states: the abducted states, then those after each of the N steps; each [S * K, C, H, W] uint8.
    estimates: the N estimates of x_0, uint8; estimates[k] was made from states[k].
    timesteps: the N timesteps t at which the network was asked.
    readings: one for each of the images; empty without an evaluator.
    seconds: for all of it.
    """

    sources: Tensor
    labels: tuple[int, ...]
    images: Tensor
    states: list[Tensor]
    estimates: list[Tensor]
    timesteps: list[int]
    readings: tuple[Reading, ...]
    seconds: float

    @property
    def targets(self) -> int:
        """K, which are also the labels asked for: 0 … K-1."""
        return len(self.images) // len(self.sources)

    def moment(self, k: int, row: int, target: int) -> tuple[Tensor, Tensor]:
        """(x_t, x̂_0) of one cell at step k, each [1, C, H, W]; for k = N the image and the last estimate."""
        i, estimate = row * self.targets + target, self.estimates[min(k, len(self.estimates) - 1)]
        return to_signed(self.states[k][i : i + 1]), to_signed(estimate[i : i + 1])

    def distances(self) -> Tensor:
        """[S, K] the mean absolute difference (L1) from the source, in [0, 1] pixels."""
        change = to_unit(self.images).unflatten(0, (len(self.sources), -1)) - to_unit(self.sources)[:, None]
        return change.abs().flatten(2).mean(dim=2)

    def missed(self) -> Tensor:
        """[S * K] bool: read as another label than the one asked for; none without an evaluator."""
        if not self.readings:
            return torch.zeros(len(self.images), dtype=torch.bool)
        return torch.tensor([read.label != i % self.targets for i, read in enumerate(self.readings)])


def checked_images(images: Tensor | None, sources: Sequence[int] | None) -> tuple[Tensor, tuple[int, ...]]:
    """The images as 8-bit pixels in [-1, 1], and their labels; without images the seven of all lessons.

    Raises:
        ValueError: in a sentence.
    """
    if images is None:
        # Sharpened: a denoiser of MNIST has no noise for soft edges, and would change all of it.
        images = pictures.sharpened(data.running_example())
        sources = (7,) if sources is None else sources
    if images.ndim != 4 or not 1 <= len(images) <= LARGEST:
        raise ValueError(f"Give 1 to {LARGEST} images [S, C, H, W], got shape {list(images.shape)}.")
    if sources is None or len(sources) != len(images):
        count = "no" if sources is None else len(sources)
        raise ValueError(f"Each image needs its label: there are {len(images)} images and {count} labels.")
    return in_8_bits(images.float().cpu()), tuple(int(y) for y in sources)


def depth_options(num_timesteps: int, num_steps: int, depth: int) -> list[int]:
    """Tenths of the way on which there is a step to take, the top, and the depth that is asked for."""
    top, lowest = num_timesteps - 1, int(spaced_timesteps(num_timesteps, num_steps)[-1])
    tenths = {round(num_timesteps * k / 10) for k in range(1, 10)}
    return sorted({t for t in tenths if t >= lowest} | {top, depth})


def paths_of(
    plan: CounterfactualPlan, images: Tensor, abduct_fn: AbductFn | None = None,
    evaluator: str | Path | None = EVALUATOR,
) -> Generator[float, None, Paths]:  # fmt: skip
    """The counterfactuals and the way there; yields the part done, 0 … 1.

    Raises:
        ValueError: if the images do not suit the weights, or a step's numbers are none.
    """
    started, request = time.perf_counter(), plan.request
    abducted = plan.abduct(images, abduct_fn)
    states, estimates, timesteps = [to_bytes(abducted.repeated(request.targets_each).x)], [], []
    for step in plan.predict(abducted):
        check_finite(step)
        states.append(to_bytes(step.x_t))
        estimates.append(to_bytes(step.x_0))
        timesteps.append(int(step.t))
        last = step.x_t
        yield 0.02 + 0.98 * len(timesteps) / len(abducted.timesteps)
    drawn = last.clamp(-1, 1).cpu()
    readings, seconds = read(drawn, evaluator), time.perf_counter() - started
    return Paths(images, request.sources, drawn, states, estimates, timesteps, readings, seconds)


def checked_abduction(abduct_fn: Callable) -> AbductFn:
    """A learner's abduction with copies of its inputs, and every mistake as one sentence with its line."""

    def checked(eps_fn: EpsFn, schedule: NoiseSchedule, x_0: Tensor, timesteps: Tensor) -> Tensor:
        try:
            with torch.no_grad():
                x = abduct_fn(eps_fn, schedule, x_0.clone(), timesteps.clone())
        except Exception as error:
            line = learners_line(abduct_fn, error)
            raise ValueError(f"Your abduction stopped{line}: {type(error).__name__}, {error}") from error
        if not isinstance(x, Tensor) or x.shape != x_0.shape:
            found = f"shape {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"Your abduction must return a state of shape {list(x_0.shape)}, not {found}.")
        if not torch.isfinite(x).all():
            raise ValueError("The state that your abduction returns holds values that are not numbers.")
        return x.detach().to(x_0.dtype)

    return checked


# -- in words --------------------------------------------------------------------------------------


def result_line(paths: Paths) -> str:
    """How many of the other digits are read as asked, how far they are from the source, and the seconds."""
    columns = torch.arange(paths.targets)
    other = columns[None] != torch.tensor(paths.labels)[:, None]  # [S, K]
    far, took = f"mean L1 {paths.distances()[other].mean():.3f} from the source", f"{paths.seconds:.1f} s."
    if not paths.readings:
        return f"There is no evaluator on this machine to read them. M{far[1:]}. {took}"
    read_right = int((other & ~paths.missed().view_as(other)).sum())
    return f"{read_right} of {int(other.sum())} other digits read as asked, {far}. {took}"


def cell_line(paths: Paths, row: int, target: int) -> str:
    """One cell in words: '7 to 3: the evaluator reads 3 (99.8%), L1 0.085 from the source.'"""
    said = ""
    if paths.readings:
        said = "the evaluator reads {} ({:.1%}), ".format(*paths.readings[row * paths.targets + target])
    far = f"L1 {paths.distances()[row, target]:.3f} from the source"
    return f"{paths.labels[row]} to {target}: {said}{far}."


def reading_html(target: int, reading: tuple[int, float]) -> str:
    """What stands below a column: '3 (98%)', in orange where something else was asked for."""
    style = "" if reading[0] == target else f' style="{ORANGE}"'
    return "<span{}>{} <small>{:.0%}</small></span>".format(style, *reading)


def cells_alt(paths: Paths) -> str:
    """All rows in words: what each source is, and what its counterfactuals are read as."""
    told = []
    for row, label in enumerate(paths.labels):
        mine = paths.readings[row * paths.targets : (row + 1) * paths.targets]
        seen = f"read as {', '.join(str(reading.label) for reading in mine)}" if mine else "not read"
        told.append(f"Source {label}: {seen}.")
    return f"{' '.join(told)} {result_line(paths)}"
