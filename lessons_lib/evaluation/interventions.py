"""How an intervention is run for its measures: in batches, always from 8-bit pixels.

An intervention takes (x_0 [N, C, H, W] in [-1, 1], source [N], target [N]) and returns the counterfactuals
[N, C, H, W]. Whatever it is given has gone through `in_8_bits`, in a tensor of its own. Whoever keeps the
latent beside an image, or hides it in the last decimals, could bring every original back for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from lessons_lib.counterfactuals import in_8_bits

AT_ONCE = 100  # images that an intervention is given together

Intervention = Callable[[Tensor, Tensor, Tensor], Tensor]
Progress = Callable[[int, int], None]  # (images that went through the intervention, of how many)


class Mean(float):
    """A mean over images: a number that knows how many images it is of and how sure it is.

    Attributes:
        interval: its 95% interval; nan for one image.
        total: the number of images.
    """

    interval: tuple[float, float]
    total: int

    @classmethod
    def of(cls, values: Tensor) -> Mean:
        """The mean of values [N]."""
        values = values.double()
        mean = cls(values.mean())
        half = 1.959964 * float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        mean.interval, mean.total = (float(mean) - half, float(mean) + half), len(values)
        return mean


def step(intervene: Intervention, x: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """One intervention on one batch, from 8-bit pixels to 8-bit pixels.

    Raises:
        ValueError: if what comes back has another shape or is not finite.
    """
    # Copies: what the intervention writes into its input must not reach the original.
    found = intervene(in_8_bits(x), source.clone(), target.clone())
    if found.shape != x.shape:
        raise ValueError(
            f"An intervention must keep the shape {list(x.shape)}, it returned {list(found.shape)}."
        )
    return in_8_bits(found).to(x)


def run(
    intervene: Intervention, x_0: Tensor, source: Tensor, target: Tensor, batch_size: int, count: Counter
) -> Tensor:
    """One intervention on all images, [N, C, H, W], in batches."""
    return torch.cat([count(step(intervene, *batch)) for batch in chunks(batch_size, x_0, source, target)])


def chunks(batch_size: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tensors side by side, batch_size entries at a time."""
    return zip(*(tensor.split(batch_size) for tensor in tensors), strict=True)


def l1_error(x: Tensor, y: Tensor) -> Tensor:
    """The mean absolute error of each image in [0, 1] pixels, [N] float64 on the CPU."""
    return (x - y.to(x)).abs().flatten(1).double().mean(dim=1).cpu() / 2


def pixels(x: Tensor) -> Tensor:
    """x [N, C, H, W] in [-1, 1] -> [N, C * H * W] float32 in [0, 1] on the CPU."""
    return ((x.detach().float() + 1) / 2).flatten(1).cpu()


class Counter:
    """Tells `progress` how many images went through the intervention, of how many."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def __call__(self, images: Tensor) -> Tensor:
        """Count these images and hand them on."""
        self.done += len(images)
        if self.progress is not None:
            self.progress(self.done, self.total)
        return images

    def from_here(self) -> Progress:
        """A progress that goes on where this one stands."""
        before = self.done
        return lambda done, total: self.progress and self.progress(before + done, self.total)


# -- what was given --------------------------------------------------------------------------------


def check_labels(images: Tensor, *labels: Tensor) -> None:
    """Raise ValueError unless there are images and each has its labels."""
    if len(images) == 0:
        raise ValueError("There are no images to measure.")
    for found in labels:
        if found.shape != (len(images),):
            raise ValueError(
                f"There are {found.numel()} labels for {len(images)} images: one label an image is needed."
            )


def check_pairs(x_0: Tensor, counterfactuals: Tensor) -> None:
    """Raise ValueError unless there are images and each has its counterfactual."""
    check_labels(x_0)
    if x_0.shape != counterfactuals.shape:
        shapes = f"{list(x_0.shape)} and {list(counterfactuals.shape)}"
        raise ValueError(f"Originals and counterfactuals must have one shape, got {shapes}.")


def check_times(times: Sequence[int]) -> None:
    """Raise ValueError if a number of interventions is below 1."""
    if min(times, default=1) < 1:
        raise ValueError(f"The numbers of null interventions must be at least 1, got {list(times)}.")
