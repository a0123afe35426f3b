"""Counterfactuals measured while one plays: validity, proximity, there and back, and nothing at all."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import ipywidgets as w
from torch import Tensor

from classroom.panels import measured as parts
from classroom.panels.controls import STYLE, card_defaults, control
from classroom.panels.digits import EVALUATOR
from classroom.panels.measured import (
    NAMES,
    YOURS,
    Measured,
    Setting,
    back_line,
    batch_of,
    intervene_steps,
    null_line,
    numbers,
)
from classroom.panels.panel import Panel, still_picture
from classroom.panels.plane import HIGH, LOOKS, REACH, WIDE, Dot, meter_html, plane_svg
from classroom.panels.same_noise_rows import share_of
from lessons_lib.counterfactuals import METHODS, to_depth
from lessons_lib.evaluation import Intervention
from lessons_lib.images import difference_maps
from lessons_lib.pipeline import Model
from lessons_lib.schedules import spaced_timesteps


@dataclass(frozen=True)
class Extent:
    """What is to be shown: a setting, the way back or not, and how many null interventions."""

    setting: Setting
    back: bool = False
    nulls: int = 0
    below: str = ""  # which of the two has the rows at the bottom: "back" or "nulls"


@dataclass
class Found:
    """What is known of a setting so far."""

    setting: Setting
    there: Measured | None = None
    milliseconds: float = 0.0
    back: Measured | None = None
    nulls: list[Measured] = field(default_factory=list)


class InterventionMeter(Panel):
    """A batch of digits and their counterfactuals, measured at each move of a slider.

    Args:
        images: [N, C, H, W] in [-1, 1], N at most 16; None takes `num_images` test digits by chance.
        sources: [N] their labels; needed with images.
        targets: [N] the labels asked for; None takes one other digit for each image by chance.
        weights: name or path of a denoiser's weights.
        method: "ddim", "ddpm", "sdedit", "same-noise" or "yours"; None is "yours" if there is one, else
            "ddim".
        guidance_scale, depth: where the sliders start; a depth of None is T-1, nothing kept.
        steps: of the whole way from T-1.
        seed: chooses digits and targets, and all noise.
        intervene_fn: the learner's own intervention, (x_0, source, target) -> images; method "yours".
        model: (network, schedule), in place of `weights`.
        evaluator: name or path of the weights that read the images; None for none.

    Attributes:
        method, guidance_scale, depth, there_and_back, nothing, clear: the controls.
        images, sources, targets: as above, the images from 8-bit pixels.
        found: the Found that is shown; None until the first is done.
        dots: one Dot for each setting tried, the newest last.

    Raises:
        ValueError: if images, labels, method, depth or number of images do not suit.
        DataError: as data.load.
    """

    def __init__(
        self,
        images: Tensor | None = None,
        sources: Sequence[int] | Tensor | None = None,
        targets: Sequence[int] | Tensor | None = None,
        weights: str | Path = "mnist-denoiser",
        *,
        num_images: int = 8,
        method: str | None = None,
        guidance_scale: float = 3.0,
        depth: int | None = None,
        steps: int = 25,
        seed: int = 0,
        intervene_fn: Intervention | None = None,
        model: Model | None = None,
        evaluator: str | Path | None = EVALUATOR,
    ) -> None:
        self.images, self.sources, self.targets = batch_of(images, sources, targets, num_images, seed)
        super().__init__(layout=w.Layout(width="100%", max_width="680px"))
        self.evaluator, self.found, self.dots = evaluator, None, []
        how = {"weights": weights, "model": model, "steps": steps, "seed": seed, "intervene_fn": intervene_fn}
        self._intervene = functools.partial(intervene_steps, **how)
        num_timesteps = card_defaults(weights if model is None else model)[1]
        self._build_controls(method, guidance_scale, depth, spaced_timesteps(num_timesteps, steps))
        self._build_pictures()
        self.children = self._arranged()
        for each in (self.method, self.guidance_scale, self.depth):
            each.observe(self._move, "value")
        self.there_and_back.on_click(lambda _: self._press(back=True, below="back"))
        self.nothing.on_click(lambda _: self._press(nulls=self._extent.nulls + 1, below="nulls"))
        self.clear.on_click(self._clear)
        self._kept: Found | None = None  # used by the worker thread only
        self._show_rows(Extent(self.setting()), Found(self.setting()))  # the sources are there at once
        self._move()

    # -- building ----------------------------------------------------------------------------------

    def _build_controls(
        self, method: str | None, guidance_scale: float, depth: int | None, timesteps: Tensor
    ) -> None:
        with_yours = self._intervene.keywords["intervene_fn"] is not None
        methods = [*METHODS, YOURS] if with_yours else list(METHODS)
        method = method or methods[-1 if with_yours else 0]
        if method not in methods:
            raise ValueError(f"Unknown method {method!r}: choose one of {', '.join(methods)}.")
        top = int(timesteps[0] if depth is None else to_depth(timesteps, depth)[0])
        look = {"layout": {"width": "auto"}, "style": STYLE}
        options = [(NAMES[name], name) for name in methods]
        self.method = control(w.Dropdown, options=options, value=method, description="Method", **look)
        scale = {"value": guidance_scale, "min": 0, "max": max(8, guidance_scale), "step": 0.25}
        self.guidance_scale = control(w.FloatSlider, **scale, description="Guidance scale", **look)
        # Each notch is a timestep that is taken: between two nothing would change.
        options = sorted(timesteps.tolist())
        tip = "t₀: the timestep to which each image is taken back"
        self.depth = control(
            w.SelectionSlider, options=options, value=top, description="Depth t₀", tooltip=tip, **look
        )

    def _build_pictures(self) -> None:
        self.side, wide = parts.side_for(len(self.images)), {"width": "100%"}
        self.meters = w.HTML(layout=wide | {"height": "76px", "margin": "6px 0 0"})
        fixed = {"width": f"{WIDE}px", "height": f"{HIGH}px", "margin": "0"}
        self.plane = w.HTML(plane_svg([]), layout=fixed)
        tip = "Forget what was tried before; the present setting keeps its dot"
        self.clear = w.Button(description="Clear dots", tooltip=tip, layout={"width": "110px"})
        row = f"{parts.LABEL + len(self.images) * (self.side + parts.GAP)}px"
        names = {"source": 16, "counterfactual": 16, "difference": 0, "again": 16, "again difference": 0}
        self.rows = {
            name: w.HTML(
                layout={"height": f"{self.side + text + 3}px", "margin": "0 0 0 2px", "min_width": row}
            )
            for name, text in names.items()
        }
        width = {"width": "140px", "flex": "0 0 auto"}
        tip = "Take the counterfactuals back to their source label, from their 8-bit pixels alone"
        self.there_and_back = w.Button(description="There and back", tooltip=tip, layout=width)
        tip = "Make each digit what it is, at w = 1: nothing should change"
        self.nothing = w.Button(description="Null intervention", tooltip=tip, layout=width)
        self.back_words, self.null_words = w.HTML(layout=wide), w.HTML(layout=wide)

    def _arranged(self) -> tuple[w.Widget, ...]:
        left = [self.method, self.guidance_scale, self.depth, self.meters, self.clear]
        left = w.VBox(left, layout={"flex": "1 1 280px", "min_width": "0", "overflow": "hidden"})
        layout = {"flex_flow": "row wrap", "grid_gap": "10px", "overflow": "hidden"}
        top = w.HBox([left, self.plane], layout=layout)
        source, there, change, again, last = self.rows.values()
        asked = [
            w.HBox(pair, layout={"align_items": "center", "grid_gap": "8px", "overflow": "hidden"})
            for pair in ((self.there_and_back, self.back_words), (self.nothing, self.null_words))
        ]
        # On a narrow page the rows scroll sideways, together.
        first, second = (
            w.VBox(those, layout={"overflow": "auto hidden", "flex": "0 0 auto"})
            for those in ([source, there, change], [again, last])
        )
        return (top, self.progress, self.status, first, *asked, second)

    # -- what is asked for -------------------------------------------------------------------------

    def setting(self) -> Setting:
        """What the controls ask for now; None for a slider that the method does not hear."""
        method = self.method.value
        scale = None if method == YOURS else self.guidance_scale.value
        return Setting(method, scale, None if method in (YOURS, "same-noise") else self.depth.value)

    def _move(self, _change=None) -> None:
        setting = self.setting()
        self.guidance_scale.disabled = setting.guidance_scale is None
        self.depth.disabled = setting.depth is None
        self._extent = Extent(setting)
        self._ask()

    def _press(self, **changes) -> None:
        self._extent = dataclasses.replace(self._extent, **changes)
        self._ask()

    def _ask(self) -> None:
        # An extent holds all that is to be seen, so that nothing is lost when a newer one takes its place.
        self.ask(functools.partial(self._work, self._extent), self._show)

    def _clear(self, _button=None) -> None:
        self.dots = self.dots[-1:]
        self.plane.value = plane_svg(self.dots)

    # -- measuring ---------------------------------------------------------------------------------

    def _work(self, extent: Extent) -> Generator[float, None, tuple[Extent, Found]]:
        if self._kept is None or self._kept.setting != extent.setting:
            self._kept = Found(extent.setting)
        found = self._kept
        jobs = self._jobs(extent, found)
        try:
            for k, job in enumerate(jobs):
                yield from share_of(job(found), k, len(jobs))
        except Exception:  # what failed is not tried again with the next press of another button
            if self._extent == extent:
                self._extent = Extent(extent.setting, found.back is not None, len(found.nulls), extent.below)
            raise
        return extent, dataclasses.replace(found, nulls=list(found.nulls))

    def _jobs(self, extent: Extent, found: Found) -> list:
        """What is still missing."""
        jobs = [] if found.there else [self._go_there]
        jobs += [self._go_back] if extent.back and not found.back else []
        return jobs + [self._do_nothing] * (extent.nulls - len(found.nulls))

    def _go_there(self, found: Found) -> Generator[float, None, None]:
        started = time.perf_counter()
        x = yield from self._intervene(found.setting, self.images, self.sources, self.targets)
        found.milliseconds = 1000 * (time.perf_counter() - started)
        found.there = Measured.of(x, self.images, self.targets, self.evaluator)

    def _go_back(self, found: Found) -> Generator[float, None, None]:
        x = yield from self._intervene(found.setting, found.there.images, self.targets, self.sources)
        found.back = Measured.of(x, self.images, self.sources, self.evaluator)

    def _do_nothing(self, found: Found) -> Generator[float, None, None]:
        setting = found.setting
        if setting.guidance_scale is not None:  # more would exaggerate the label that the image has
            setting = setting._replace(guidance_scale=1.0)
        x = found.nulls[-1].images if found.nulls else self.images
        x = yield from self._intervene(setting, x, self.sources, self.sources)
        found.nulls.append(Measured.of(x, self.images, self.sources, self.evaluator))

    # -- showing -----------------------------------------------------------------------------------

    def _show(self, result: tuple[Extent, Found]) -> None:
        extent, found = result
        self.found = found
        there, share = found.there, found.there.share
        self._show_meters(there)
        if share is not None:
            dot = Dot(found.setting, share, float(there.l1))
            self.dots = [old for old in self.dots if old.setting != dot.setting] + [dot]
            self.plane.value = plane_svg(self.dots)
        self._show_rows(extent, found)
        self.say(status_line(found))

    def _show_rows(self, extent: Extent, found: Found) -> None:
        """All images, and the words beside the buttons; empty places for what is not there yet."""
        labels = parts.pairs(self.sources, self.targets)
        self._row("source", "source", self.images, labels, above=labels)
        self._measured_row("counterfactual", "counterfactual", found.there, labels)
        self._change_row("difference", found.there)
        self.back_words.value = back_line(found.back)
        self.null_words.value = null_line(found.nulls)
        again = found.back if extent.below == "back" else found.nulls[-1] if found.nulls else None
        name = {"back": "back again", "nulls": nulls_name(found.nulls)}.get(extent.below, "")
        self._measured_row("again", name, again, [str(y) for y in self.sources.tolist()])
        self._change_row("again difference", again)

    def _show_meters(self, there: Measured) -> None:
        share = there.share
        told = "not read" if share is None else f"{share.successes} of {share.total}"
        colour = LOOKS[self.found.setting.method][0]
        flipped = meter_html("Flipped", told, share and share.value, colour)
        near = meter_html("Mean L1 to the source", f"{there.l1:.3f}", there.l1 / REACH, colour)
        self.meters.value = flipped + near

    def _row(self, key: str, name: str, images: Tensor | None, alts: Sequence[str], **texts) -> None:
        alts = [f"{name} {alt}" for alt in alts]
        self.rows[key].value = parts.row_html(name, images, self.side, alts, **texts)

    def _measured_row(self, key: str, name: str, those: Measured | None, labels: Sequence[str]) -> None:
        if those is None or not those.labels:
            self._row(key, name, those and those.images, labels)
            return
        read = [f"read {y}" for y in those.labels]
        alts = [f"{label}: {text}" for label, text in zip(labels, read, strict=True)]
        below = read if self.side > 28 else [str(y) for y in those.labels]
        self._row(key, name, those.images, alts, below=below, right=those.right)

    def _change_row(self, key: str, those: Measured | None) -> None:
        changes = those and difference_maps(those.images, self.images)
        name = "difference" if those or key == "difference" else ""
        self._row(key, name, changes, [str(k + 1) for k in range(len(self.images))])

    def still(self) -> tuple[bytes, str] | None:
        if self.found is None:
            return None
        there, back, nulls = self.found.there, self.found.back, self.found.nulls
        rows = {"source": self.images, "counterfactual": there.images}
        rows["difference"] = difference_maps(there.images, self.images)
        rows |= {"back again": back.images} if back else {}
        rows |= {nulls_name(nulls): nulls[-1].images} if nulls else {}
        pairs = parts.pairs(self.sources, self.targets)
        read = [f"\nread {y}" for y in there.labels] or [""] * len(pairs)
        columns = [a + b for a, b in zip(pairs, read, strict=True)]
        heading = f"{self.found.setting}: {numbers(there)}"
        words = [back_line(back)] * bool(back) + [null_line(nulls)] * bool(nulls)
        seen = ", ".join(column.replace("\n", " ") for column in columns)
        return still_picture(rows, heading, columns), " ".join([f"{heading}. {seen}.", *words])


def status_line(found: Found) -> str:
    """The result in words."""
    missing = "" if found.there.labels else " There is no evaluator to read them."
    return f"{found.setting}: {numbers(found.there)}.{missing} Drawn in {found.milliseconds:.0f} ms."


def nulls_name(nulls: Sequence[Measured]) -> str:
    """'after 3 nulls', before a row of images."""
    return f"after {len(nulls)} null{'' if len(nulls) == 1 else 's'}"
