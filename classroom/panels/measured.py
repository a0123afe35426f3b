"""An intervention on a batch of images, what came of it in numbers, and the rows of images that show it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from classroom import figures
from classroom.panels.digits import read
from classroom.panels.learners_code import learners_line
from classroom.panels.panel import image_html
from lessons_lib import data
from lessons_lib.counterfactuals import abduct, in_8_bits, predict, to_depth
from lessons_lib.evaluation import Intervention, Mean, Share
from lessons_lib.evaluation.axioms import l1_error, step
from lessons_lib.evaluation.quality import check_labels
from lessons_lib.guidance import conditional, with_cfg
from lessons_lib.images import png_bytes, to_pixels
from lessons_lib.pipeline import CounterfactualRequest, Model, counterfactuals
from lessons_lib.samplers import SampleNoise
from lessons_lib.schedules import spaced_timesteps

YOURS = "yours"
NAMES = {
    "ddim": "DDIM inversion",
    "ddpm": "edit-friendly inversion",
    "sdedit": "SDEdit",
    "same-noise": "same noise",
    YOURS: "yours",
}
BACK_IDLE = "Each counterfactual to its source label again."
NULL_IDLE = "Make each digit what it is, once more at each press."
MOST = 16  # images in a row
LABEL, GAP, WIDTH = 86, 2, 552  # of a row's name, between images, of a row at most: in screen pixels


class Setting(NamedTuple):
    """A method and where its sliders stand; None where the method does not hear one."""

    method: str
    guidance_scale: float | None
    depth: int | None

    def __str__(self) -> str:
        scale = "" if self.guidance_scale is None else f", w = {self.guidance_scale:g}"
        return NAMES[self.method] + scale + ("" if self.depth is None else f", t₀ = {self.depth}")


@dataclass(frozen=True, eq=False)
class Measured:
    """Images [N, C, H, W] from 8-bit pixels, held against the originals.

    labels: what the evaluator reads; empty without one.
    wanted: what it should read.
    l1: the mean absolute error to the originals in [0, 1] pixels.
    """

    images: Tensor
    labels: tuple[int, ...]
    wanted: tuple[int, ...]
    l1: Mean

    @classmethod
    def of(cls, images: Tensor, originals: Tensor, wanted: Tensor, evaluator: str | Path | None) -> Measured:
        labels = tuple(reading.label for reading in read(images, evaluator))
        return cls(images, labels, tuple(wanted.tolist()), Mean.of(l1_error(images, originals)))

    @property
    def right(self) -> list[bool]:
        """For each image whether it is read as it should; all True without an evaluator."""
        return [a == b for a, b in zip(self.labels or self.wanted, self.wanted, strict=True)]

    @property
    def share(self) -> Share | None:
        """How many are read as they should; None without an evaluator."""
        return Share(sum(self.right), len(self.wanted)) if self.labels else None


# -- intervening -----------------------------------------------------------------------------------


def intervene_steps(
    setting: Setting, x: Tensor, source: Tensor, target: Tensor, *, weights: str | Path, model: Model | None,
    steps: int, seed: int, intervene_fn: Intervention | None = None,
) -> Generator[float, None, Tensor]:  # fmt: skip
    """From 8-bit images to 8-bit images [N, C, H, W]; yields the part done, 0 … 1.

    Args:
        x, source, target: [N, C, H, W] in [-1, 1], and [N] int64 twice.
        intervene_fn: of the method "yours".
        others: as InterventionMeter.

    Raises:
        ValueError, WeightsError: as `counterfactuals`; also if intervene_fn fails, with the line where.
    """
    method, guidance_scale, depth = setting
    yield 0.0
    if method == YOURS:
        return step(_told(intervene_fn), x, source, target)
    if model is None:
        labels = tuple(source.tolist()), tuple(target.tolist())
        found = {"guidance_scale": guidance_scale, "depth": depth, "steps": steps, "seed": seed}
        decoding = counterfactuals(CounterfactualRequest(*labels, weights, method, **found), x)
    else:
        network, schedule = model
        timesteps = spaced_timesteps(schedule.num_timesteps, steps)
        timesteps = timesteps if depth is None else to_depth(timesteps, depth)
        noise = SampleNoise([(seed, k) for k in range(len(x))])
        abducted = abduct(method, conditional(network, source), schedule, in_8_bits(x), timesteps, noise)
        decoding = predict(with_cfg(network, target, guidance_scale), schedule, abducted)
    for k, each in enumerate(decoding, start=1):
        x = each.x_t
        yield min(k / steps, 1.0)
    return in_8_bits(x)


def _told(intervene_fn: Callable) -> Intervention:
    """The learner's intervention, whose errors become one sentence with the learner's line."""

    def intervene(x: Tensor, source: Tensor, target: Tensor) -> Tensor:
        try:
            found = intervene_fn(x, source, target)
        except Exception as error:
            line = learners_line(intervene_fn, error)
            text = f"Your intervention stopped{line}: {type(error).__name__}, {error}"
            raise ValueError(text) from error
        if not isinstance(found, Tensor):
            kind = type(found).__name__
            raise ValueError(
                f"Your intervention returned {kind}: it must return images of shape {list(x.shape)}."
            )
        return found

    return intervene


# -- rows of images --------------------------------------------------------------------------------


def side_for(count: int) -> int:
    """Of an image on the screen: whole pixels of 28, so that a row fits beside the file browser."""
    return max(28, min(84, ((WIDTH - LABEL) // count - GAP) // 28 * 28))


def row_html(
    name: str,
    images: Tensor | None,
    side: int,
    alts: Sequence[str],
    above: Sequence[str] = (),
    below: Sequence[str] = (),
    right: Sequence[bool] = (),
) -> str:
    """Images [N, C, H, W] in a row after its name; None shows empty places for them.

    Args:
        alts: N texts for those who cannot see the images.
        above, below: N short texts each, or none.
        right: where it is False, the image gets an orange frame and its text is orange.
    """
    cells, count = [], len(alts)
    for k in range(count):
        bad = bool(right) and not right[k]
        inner = _empty(side) if images is None else _image(images[k], alts[k], side)
        # Inside the image: a frame around it would move its neighbours.
        ring = f"box-shadow: inset 0 0 0 3px {figures.ORANGE}; " if bad else ""
        cover = f'<div style="position: absolute; inset: 0; {ring}"></div>'
        picture = f'<div style="position: relative; width: {side}px; height: {side}px">{inner}{cover}</div>'
        colour = f"color: {figures.ORANGE}; font-weight: bold" if bad else ""
        texts = [f"<div>{above[k]}</div>"] if above else []
        texts += [picture, *([f'<div style="{colour}">{below[k]}</div>'] if below else [])]
        cells.append(f'<div style="width: {side}px; text-align: center">{"".join(texts)}</div>')
    pad = 16 if above else 0
    label = f"flex: 0 0 {LABEL - GAP}px; padding-top: {pad + side // 2 - 8}px; overflow-wrap: anywhere"
    row = f"display: flex; gap: {GAP}px; font-size: 11px; line-height: 16px; white-space: nowrap"
    return f'<div style="{row}"><div style="{label}; white-space: normal">{name}</div>{"".join(cells)}</div>'


def _image(image: Tensor, alt: str, side: int) -> str:
    return image_html(png_bytes(to_pixels(image)), alt, side, side)


def _empty(side: int) -> str:
    line = "1px dashed var(--jp-border-color1, #bbb)"
    return f'<div style="box-sizing: border-box; width: {side}px; height: {side}px; border: {line}"></div>'


# -- the batch and its words -------------------------------------------------------------------------


def batch_of(
    images: Tensor | None, sources: object, targets: object, num_images: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The originals from 8-bit pixels, their labels and those asked for; see InterventionMeter."""
    count = num_images if images is None else len(images)
    if not 1 <= count <= MOST:
        raise ValueError(f"The meter shows 1 to {MOST} images, got {count}.")
    if images is None:
        test = data.load("mnist", "test")
        order = torch.randperm(len(test), generator=torch.Generator().manual_seed(seed))
        images, sources = test.batch(order[:count])
    elif sources is None:
        raise ValueError("The images need their labels: give sources.")
    sources = torch.as_tensor(sources, dtype=torch.int64)
    check_labels(images, sources)
    chosen = with_targets(sources, seed) if targets is None else targets
    chosen = torch.as_tensor(chosen, dtype=torch.int64)
    check_labels(images, chosen)
    return in_8_bits(images), sources, chosen


def pairs(source: Tensor, target: Tensor) -> list[str]:
    """'7→3' for each image."""
    return [f"{a}→{b}" for a, b in zip(source.tolist(), target.tolist(), strict=True)]


def with_targets(sources: Tensor, seed: int, num_classes: int = 10) -> Tensor:
    """One other class for each of sources [N], by chance."""
    generator = torch.Generator().manual_seed(seed)
    moved = 1 + torch.randint(num_classes - 1, sources.shape, generator=generator)
    return (sources + moved) % num_classes


# -- in words ----------------------------------------------------------------------------------------


def numbers(there: Measured) -> str:
    """'7 of 8 flipped (95% interval 53% to 98%), mean L1 0.083'."""
    share, l1 = there.share, f"mean L1 {there.l1:.3f}"
    if share is None:
        return l1
    low, high = share.interval
    return f"{share.successes} of {share.total} flipped (95% interval {low:.0%} to {high:.0%}), {l1}"


def back_line(back: Measured | None) -> str:
    """'8 of 8 read as the source again, off by 0.055.'"""
    if back is None:
        return BACK_IDLE
    if back.share is None:
        return f"Back again: off by {back.l1:.3f}; there is no evaluator to read them."
    return (
        f"{back.share.successes} of {back.share.total} read as the source again, off by {float(back.l1):.3f}."
    )


def null_line(nulls: Sequence[Measured]) -> str:
    """'After 3 null interventions: off by 0.011.'"""
    if not nulls:
        return NULL_IDLE
    count = f"{len(nulls)} null intervention{'' if len(nulls) == 1 else 's'}"
    return f"After {count}: off by {nulls[-1].l1:.3f}."
