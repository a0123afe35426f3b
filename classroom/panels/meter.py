"""Counterfactuals measured while one plays: validity, proximity, there and back, and nothing at all."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from classroom.panels import controls
from classroom.panels.charts import Line, plot
from classroom.panels.counterfactual_explorer import CAME_AND_WENT, METHODS, methods_with
from classroom.panels.drawing import EVALUATOR, UNREAD, given, part_of, read
from classroom.panels.film import Film, Row, seconds
from classroom.panels.learners_code import YOURS, checked_images
from classroom.panels.panel import Panel
from lessons_lib.counterfactuals import in_8_bits
from lessons_lib.evaluation import Intervention, Mean, Share
from lessons_lib.evaluation.axioms import l1_error
from lessons_lib.evaluation.quality import check_labels
from lessons_lib.images import difference_maps
from lessons_lib.pipeline import CounterfactualRequest, counterfactuals

MOST = 16  # images in a row
REACH = 0.2  # the least L1 at the right end of the plane
TOLD = 6  # settings that the plane tells to those who cannot see it
THERE, BACK, NULL = "counterfactual", "back again", "null"


class Setting(NamedTuple):
    """A method and where its sliders stand; None where the method does not hear one."""

    method: str
    guidance_scale: float | None
    depth: int | None

    def __str__(self) -> str:
        scale = "" if self.guidance_scale is None else f", w = {self.guidance_scale:g}"
        return METHODS[self.method][0] + scale + ("" if self.depth is None else f", t₀ = {self.depth}")


@dataclass(frozen=True, eq=False)
class Measured:
    """Images [N, C, H, W] from 8-bit pixels, held against the originals.

    labels, marks: what the evaluator reads, and whether that is wrong; empty without one.
    l1: the mean absolute error to the originals in [0, 1] pixels.
    """

    images: Tensor
    labels: tuple[int, ...]
    marks: list[bool]
    l1: Mean
    milliseconds: float

    @property
    def share(self) -> Share | None:
        """How many are read as they should; None without an evaluator."""
        return Share(self.marks.count(False), len(self.marks)) if self.labels else None

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
        sources: [N] their labels.
        steps: of the whole way from T-1.
        intervene_fn: the learner's own intervention, (x_0, source, target) -> images; method "yours".

    Attributes:
        images, sources, targets: from 8-bit pixels, their labels, and for each another one by chance.
        tried: Setting -> Measured, the newest last.
        below: what stands below: "", "back again", or "null"; nulls: how many of these.
    """

    def __init__(
        self, images: Tensor, sources: Sequence[int], weights: str | Path = "mnist-denoiser", *,
        steps: int = 25, intervene_fn: Intervention | None = None,
        evaluator: str | Path | None = EVALUATOR,
    ) -> None:  # fmt: skip
        self.images, self.sources = given(images, MOST), torch.as_tensor(sources)
        moved = 1 + torch.randint(9, self.sources.shape, generator=torch.Generator().manual_seed(0))
        self.targets = (self.sources + moved) % 10
        check_labels(self.images, self.sources)
        self.weights, self.steps, self.intervene_fn, self.evaluator = weights, steps, intervene_fn, evaluator
        self.tried, self.below, self.nulls = {}, "", 0
        self._known: dict[tuple[Setting, str, int], Measured] = {}  # what was made is not made again
        methods = methods_with(intervene_fn)
        shown = {
            "method": controls.dropdown("Method", methods, methods[0][1]),
            "guidance_scale": controls.scale_slider(3.0),
            "depth": controls.depth_slider(controls.card_defaults(weights)[1], steps),
        }
        back, null = "Take the counterfactuals back to their label", "Make each digit what it is, at w = 1"
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
        self.tried = {}
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
        self.tried = {one: a for one, a in self.tried.items() if one != setting} | {setting: there}
        title = f"{setting}: {there.line()}"
        words = f"{title}." if there.labels else f"{title}. {UNREAD.format('them')}"
        wishes = [f"{a}→{b}" for a, b in zip(self.sources.tolist(), self.targets.tolist(), strict=True)]
        rows = [Row.of(self.images, "source", heads=wishes, side=56), *self._rows(THERE, there)]
        if len(jobs) > 1:
            nulls = f"After {self.nulls} null intervention{'s'[: self.nulls > 1]}"
            name = "There and back" if self.below == BACK else nulls
            again = f"{last.share.successes} of {last.share.total} read as the source, " if last.share else ""
            words = f"{words} {name}: {again}off by {last.l1:.3f}."
            rows += self._rows(name, last)
        words = f"{words} Drawn in {seconds(there.milliseconds)}."
        return Film([plane(self.tried), *rows], words, title, result=self._known)

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
        marks = [a != b for a, b in zip(labels, target.tolist(), strict=False)]
        self._known[key] = Measured(x, labels, marks, l1, took)
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

    def _rows(self, name: str, those: Measured) -> list[Row]:
        texts, maps = list(map(str, those.labels)), difference_maps(those.images, self.images)
        shown = Row.of(those.images, f"{name}, read as", texts=texts, marks=those.marks, side=56)
        return [shown, Row.of(maps, CAME_AND_WENT, side=56)]


def plane(tried: dict[Setting, Measured]) -> str:
    """The share flipped against L1, a mark for each setting, the newest ringed; best is the upper left."""
    reach = max([REACH, *(one.l1 for one in tried.values())])
    marks = {one: (a.l1 / reach, a.share.value) for one, a in tried.items() if a.share}
    lines = []
    for method, (name, _) in METHODS.items():
        points = [place for setting, place in marks.items() if setting.method == method]
        lines.append(Line(name, points, points, bold=False))
    told = "; ".join(f"{setting}: {tried[setting].line()}" for setting in [*marks][: -TOLD - 1 : -1])
    words = f"The share flipped against the mean L1 to the source, {len(marks)} tried, newest first: {told}"
    ticks = [(0, "0"), (0.5, "mean L1 to the source"), (1, f"{reach:.2g}")]
    percent = [(k, f"{k:.0%}") for k in (0, 0.5, 1)]
    newest = list(marks.values())[-1] if marks else None
    return plot("Flipped (best: upper left)", lines, ticks, percent, words, ring=newest)
