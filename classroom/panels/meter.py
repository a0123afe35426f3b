"""Counterfactuals measured while one plays: validity, proximity, there and back, and nothing at all."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import ipywidgets as w
import torch
from torch import Tensor

from classroom.panels import controls
from classroom.panels.drawing import EVALUATOR, part_of, read
from classroom.panels.film import Chart, Film, Row, seconds
from classroom.panels.learners_code import checked_images
from classroom.panels.panel import Panel
from classroom.panels.plane import LOOKS, REACH, YOURS, Dot, Setting, meter_html, plane_svg
from lessons_lib.counterfactuals import METHODS, in_8_bits
from lessons_lib.evaluation import Intervention, Mean, Share
from lessons_lib.evaluation.axioms import l1_error
from lessons_lib.evaluation.quality import check_labels
from lessons_lib.images import difference_maps
from lessons_lib.pipeline import CounterfactualRequest, counterfactuals
from lessons_lib.schedules import spaced_timesteps

MOST = 16  # images in a row
THERE, BACK, NULL = "counterfactual", "back again", "null"


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
    milliseconds: float

    @property
    def marks(self) -> list[bool]:
        """For each image whether it is misread; none without an evaluator."""
        return [a != b for a, b in zip(self.labels, self.wanted, strict=False)]

    @property
    def share(self) -> Share | None:
        """How many are read as they should; None without an evaluator."""
        return Share(self.marks.count(False), len(self.wanted)) if self.labels else None

    def line(self) -> str:
        """'7 of 8 flipped (95% interval 53% to 98%), mean L1 0.083'."""
        if self.share is None:
            return f"mean L1 {self.l1:.3f}"
        low, high = self.share.interval
        flipped = f"{self.share.successes} of {self.share.total} flipped"
        return f"{flipped} (95% interval {low:.0%} to {high:.0%}), mean L1 {self.l1:.3f}"


class InterventionMeter(Panel):
    """A batch of digits and their counterfactuals, measured at each move of a slider.

    Args:
        images: [N, C, H, W] in [-1, 1], N at most 16.
        sources, targets: [N] their labels and those asked for; without these one other by chance for each.
        steps: of the whole way from T-1.
        intervene_fn: the learner's own intervention, (x_0, source, target) -> images; method "yours".

    Attributes:
        images, sources, targets: as above, the images from 8-bit pixels.
        dots: one Dot for each setting tried, the newest last.
        below: what stands below: "", "back again", or "null"; nulls: how many of these.
    """

    def __init__(
        self, images: Tensor, sources: Sequence[int], targets: Sequence[int] | None = None,
        weights: str | Path = "mnist-denoiser", *, steps: int = 25, intervene_fn: Intervention | None = None,
        evaluator: str | Path | None = EVALUATOR,
    ) -> None:  # fmt: skip
        self.images, self.sources, self.targets = batch_of(images, sources, targets)
        self.weights, self.steps, self.intervene_fn, self.evaluator = weights, steps, intervene_fn, evaluator
        self.dots, self.below, self.nulls = [], "", 0
        self._known: dict[tuple[Setting, str, int], Measured] = {}  # what was made is not made again
        methods = ([YOURS] if intervene_fn else []) + list(METHODS)
        timesteps = sorted(spaced_timesteps(controls.card_defaults(weights)[1], steps).tolist())
        shown = {
            "method": controls.dropdown("Method", [(LOOKS[name][0], name) for name in methods], methods[0]),
            "guidance_scale": controls.scale_slider(3.0),
            # Each notch is a timestep that is taken: between two nothing would change.
            "depth": controls.control(w.SelectionSlider, "Depth t₀", timesteps[-1], options=timesteps),
        }
        back, null = (
            "Take the counterfactuals back to their source label",
            "Make each digit what it is, at w = 1",
        )
        self.there_and_back = controls.button("There and back", back, lambda: self._press(BACK))
        self.nothing = controls.button("Null intervention", null, lambda: self._press(NULL))
        self.clear = controls.button("Clear dots", "Forget what was tried before", self._clear)
        super().__init__(shown, [self.there_and_back, self.nothing, self.clear])

    def busy(self, method: str, **_) -> str:
        self.guidance_scale.disabled = method == YOURS
        self.depth.disabled = method in (YOURS, "same-noise")
        return f"Changing {len(self.images)} digits …"

    def redraw(self, change=None) -> None:
        if change is not None:  # another setting: nothing stands below it yet
            self.below, self.nulls = "", 0
        super().redraw()

    def _press(self, kind: str) -> None:
        self.below, self.nulls = kind, self.nulls + (kind == NULL)
        self.redraw()

    def _clear(self) -> None:
        self.dots = self.dots[-1:]
        self.redraw()

    # -- measuring ---------------------------------------------------------------------------------

    def draw(self, method: str, guidance_scale: float, depth: int) -> Generator[float, None, Film]:
        scale = None if method == YOURS else guidance_scale
        setting = Setting(method, scale, None if method in (YOURS, "same-noise") else depth)
        jobs = [(THERE, 0)] + [(BACK, 0)] * (self.below == BACK)
        jobs += [(NULL, k) for k in range(1, self.nulls + 1)] if self.below == NULL else []
        for k, job in enumerate(jobs):
            last = yield from part_of(self._made(setting, *job), k, len(jobs))
        there = self._known[setting, THERE, 0]
        if there.share:
            dot = Dot(setting, there.share, float(there.l1))
            self.dots = [old for old in self.dots if old.setting != setting] + [dot]
        title = f"{setting}: {there.line()}"
        words = [f"{title}.", "" if there.labels else "There is no evaluator to read them."]
        wishes = [f"{a}→{b}" for a, b in zip(self.sources.tolist(), self.targets.tolist(), strict=True)]
        rows = [Row.of(self.images, "source", heads=wishes, side=56), *self._rows(THERE, there)]
        if len(jobs) > 1:
            nulls = f"After {self.nulls} null intervention{'s'[: self.nulls > 1]}"
            name = "There and back" if self.below == BACK else nulls
            again = f"{last.share.successes} of {last.share.total} read as the source, " if last.share else ""
            words.append(f"{name}: {again}off by {last.l1:.3f}.")
            rows += self._rows(name, last)
        words.append(f"Drawn in {seconds(there.milliseconds)}.")
        return Film(
            [self._charts(setting, there), *rows], " ".join(filter(None, words)), title, result=self._known
        )

    def _made(self, setting: Setting, kind: str, number: int) -> Generator[float, None, Measured]:
        """The counterfactuals, the way back from them, or the number-th null intervention."""
        key, x, source, target = (setting, kind, number), self.images, self.sources, self.targets
        if key in self._known:
            return self._known[key]
        if kind == BACK:
            x, source, target = self._known[setting, THERE, 0].images, target, source
        elif kind == NULL:
            x, target = self._known[setting, NULL, number - 1].images if number > 1 else x, source
            if setting.guidance_scale is not None:  # more would exaggerate the label that the image has
                setting = setting._replace(guidance_scale=1.0)
        started = time.perf_counter()
        x = yield from self._intervene(setting, x, source, target)
        labels = tuple(reading.label for reading in read(x, self.evaluator))
        took, l1 = 1000 * (time.perf_counter() - started), Mean.of(l1_error(x, self.images))
        self._known[key] = Measured(x, labels, tuple(target.tolist()), l1, took)
        return self._known[key]

    def _intervene(
        self, setting: Setting, x: Tensor, source: Tensor, target: Tensor
    ) -> Generator[float, None, Tensor]:
        """From 8-bit images to 8-bit images [N, C, H, W]; yields the part done, 0 … 1."""
        method, guidance_scale, depth = setting
        yield 0.0
        if method == YOURS:
            return in_8_bits(checked_images("intervention", self.intervene_fn, x, source, target))
        request = CounterfactualRequest(
            source.tolist(), target.tolist(), self.weights, method, guidance_scale=guidance_scale,
            depth=depth, steps=self.steps,
        )  # fmt: skip
        for k, decoded in enumerate(counterfactuals(request, x), start=1):
            x = decoded.x_t
            yield min(k / self.steps, 1.0)
        return in_8_bits(x)

    # -- showing -----------------------------------------------------------------------------------

    def _rows(self, name: str, those: Measured) -> list[Row]:
        texts, changes = list(map(str, those.labels)), difference_maps(those.images, self.images)
        shown = Row.of(those.images, f"{name}, read as", texts=texts, marks=those.marks, side=56)
        return [shown, Row.of(changes, "what changed: orange came, blue went", side=56)]

    def _charts(self, setting: Setting, there: Measured) -> Chart:
        share, colour = there.share, LOOKS[setting.method][1]
        flipped = "not read" if share is None else f"{share.successes} of {share.total}"
        meters = meter_html("Flipped", flipped, share and share.value, colour)
        meters += meter_html("Mean L1 to the source", f"{there.l1:.3f}", there.l1 / REACH, colour)
        style = "display: flex; flex-wrap: wrap; gap: 16px; align-items: center"
        left = f'<div style="flex: 1 1 180px">{meters}</div>'
        return Chart(f'<div style="{style}">{left}{plane_svg(self.dots)}</div>')


def batch_of(images: Tensor, sources: Sequence[int], targets: Sequence[int] | None) -> tuple[Tensor, ...]:
    """The originals from 8-bit pixels, their labels and those asked for, checked; see InterventionMeter."""
    if not 1 <= len(images) <= MOST:
        raise ValueError(f"The meter shows 1 to {MOST} images, got {len(images)}.")
    sources = torch.as_tensor(sources, dtype=torch.int64)
    if targets is None:
        moved = 1 + torch.randint(9, sources.shape, generator=torch.Generator().manual_seed(0))
        targets = (sources + moved) % 10
    targets = torch.as_tensor(targets, dtype=torch.int64)
    for labels in (sources, targets):
        check_labels(images, labels)
    return in_8_bits(images), sources, targets
