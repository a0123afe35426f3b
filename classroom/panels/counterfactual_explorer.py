"""Counterfactuals of real images: each as every digit, what came and went, and the way there."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import ipywidgets as w
import torch
from torch import Tensor

from classroom.panels import controls
from classroom.panels.drawing import EVALUATOR, Drawing, recorded
from classroom.panels.film import Film, Row
from classroom.panels.learners_code import checked_images
from classroom.panels.panel import Panel
from lessons_lib import data, pictures
from lessons_lib.counterfactuals import in_8_bits
from lessons_lib.data import to_unit
from lessons_lib.guidance import EpsFn
from lessons_lib.images import difference_maps, to_bytes
from lessons_lib.pipeline import AbductFn, CounterfactualPlan, CounterfactualRequest
from lessons_lib.schedules import NoiseSchedule, spaced_timesteps

LARGEST = 10  # images in one grid
TARGETS = tuple(range(10))
CHANGED = "what changed"
AS_SEEN, AS_TEN = "As the network sees it", "As all ten digits: click one to enlarge it"
METHODS = [
    ("DDIM inversion", "ddim"),
    ("edit-friendly inversion", "ddpm"),
    ("SDEdit", "sdedit"),
    ("same noise, no abduction", "same-noise"),
]
HINTS = {
    "ddim": "A noise that decodes to the source: no chance, so no seed.",
    "ddpm": "A noise for each step: together they hold the source.",
    "sdedit": "The source under plain noise: what shines through is kept.",
    "same-noise": "Fresh noise that knows nothing of the source: no depth.",
    "yours": "The noise that your own abduction finds.",
}


@dataclass(frozen=True, eq=False)
class Grid:
    """S sources [S, C, H, W] in [-1, 1], their labels, and all ten counterfactuals of each.

    drawing: of the S * 10 counterfactuals, the first source's first.
    """

    sources: Tensor
    labels: tuple[int, ...]
    drawing: Drawing

    def distances(self) -> Tensor:
        """[S, 10] the mean absolute difference (L1) from the source, in [0, 1] pixels."""
        images = to_unit(self.drawing.images).unflatten(0, (len(self.sources), -1))
        return (images - to_unit(self.sources)[:, None]).abs().flatten(2).mean(dim=2)

    def missed(self) -> Tensor:
        """[S, 10] bool: read as another label than the one asked for; none without an evaluator."""
        labels = [reading.label for reading in self.drawing.readings] or [*TARGETS] * len(self.labels)
        return torch.tensor(labels).view(-1, 10) != torch.tensor(TARGETS)

    def line(self) -> str:
        """How many of the other digits are read as asked, how far they are from the source, and the time."""
        other = torch.tensor(self.labels)[:, None] != torch.tensor(TARGETS)
        far = f"mean L1 {self.distances()[other].mean():.3f} from the source. {self.drawing.took}"
        if not self.drawing.readings:
            return f"There is no evaluator on this machine to read them. {far.capitalize()}"
        right = int((other & ~self.missed()).sum())
        return f"{right} of {int(other.sum())} other digits read as asked, {far}"

    def rows(self) -> list[Row]:
        """The source, its ten counterfactuals, what changed; of several sources a row each."""
        views, far, missed, rows = self.drawing.views(), self.distances(), self.missed(), []
        for r, source_label in enumerate(self.labels):
            own, source = slice(10 * r, 10 * r + 10), self.sources[r : r + 1]
            read = [f"{label} {sure:.0%}" for label, sure in self.drawing.readings[own]]
            words = [f"read as {one}, " for one in read] or [""] * 10
            alts = [f"{source_label} to {k}: {words[k]}L1 {far[r, k]:.3f} from the source" for k in TARGETS]
            heads, marks = list(map(str, TARGETS)), missed[r].tolist()
            shown = {name: view[:, own] for name, view in views.items()}
            shown[CHANGED] = to_bytes(difference_maps(self.drawing.images[own], source))[None]
            if len(self.labels) == 1:
                changes, size = {CHANGED: shown.pop(CHANGED)}, {"side": 56, "least": 36}
                names = [f"What changed in {k}" for k in TARGETS]
                rows += [
                    Row.of(source, AS_SEEN, alts=[f"The source, a {source_label}"], side=56),
                    Row(shown, AS_TEN, read, heads, marks, alts, lines=2, zooms=True, **size),
                    Row(changes, "What changed: orange came, blue went", alts=names, **size),
                ]
                continue
            first, same = to_bytes(source)[None], to_bytes(difference_maps(source, source))[None]
            for name, view in shown.items():
                lead = same if name == CHANGED else first.expand(len(view), -1, -1, -1, -1)
                shown[name] = torch.cat([lead, view], dim=1)
            heads, alts = ["real", *heads] if r == 0 else (), [f"{source_label}, the source", *alts]
            marks = [False, *marks]
            rows.append(Row(shown, heads=heads, marks=marks, alts=alts, side=56, least=24, zooms=True))
        return rows


def grid_steps(
    plan: CounterfactualPlan, sources: Tensor, abduct_fn: AbductFn | None, evaluator: str | Path | None
) -> Generator[float, None, Grid]:
    """The counterfactuals of the plan's request, targets 0 … 9 for each source; yields the part done."""
    yield 0.02
    abducted = plan.abduct(sources, abduct_fn)
    x, count = abducted.repeated(plan.request.targets_each).x, len(abducted.timesteps)
    drawing = yield from recorded(x, plan.predict(abducted), count, evaluator)
    return Grid(sources, plan.request.sources, drawing)


def checked_sources(images: Tensor | None, labels: Sequence[int] | None) -> tuple[Tensor, tuple[int, ...]]:
    """The images as 8-bit pixels in [-1, 1], and their labels; without images the seven of all lessons."""
    if images is None:
        # Sharpened: a denoiser of MNIST has no noise for soft edges, and would change all of it.
        images = pictures.sharpened(data.running_example())
        labels = (7,) if labels is None else labels
    if images.ndim != 4 or not 1 <= len(images) <= LARGEST:
        raise ValueError(f"Give 1 to {LARGEST} images [S, C, H, W], got shape {list(images.shape)}.")
    if labels is None or len(labels) != len(images):
        count = "no" if labels is None else len(labels)
        raise ValueError(f"Each image needs its label: there are {len(images)} images and {count} labels.")
    return in_8_bits(images.float().cpu()), tuple(int(y) for y in labels)


def depth_slider(weights: str | Path, num_steps: int) -> w.SelectionSlider:
    """Tenths of the way on which there is a step to take, and the top."""
    num_timesteps = controls.card_defaults(weights)[1]
    top, lowest = num_timesteps - 1, int(spaced_timesteps(num_timesteps, num_steps)[-1])
    options = sorted({top, *(t for k in range(1, 10) if (t := round(num_timesteps * k / 10)) >= lowest)})
    return controls.control(w.SelectionSlider, "Depth t₀", top, options=options)


class CounterfactualExplorer(Panel):
    """Real images, each turned into all ten digits; a click on one enlarges it and its way.

    Args:
        images: [S, 1, 28, 28] in [-1, 1], at most 10; None is the seven of all lessons.
        sources: their labels.
        steps: of the whole way.
        abduct_fn: the learner's own, (eps_fn, schedule, x_0, timesteps) -> the state at timesteps[0]; it is
            the method "yours", and the first one shown.
    """

    def __init__(
        self, images: Tensor | None = None, sources: Sequence[int] | None = None,
        weights: str | Path = "mnist-denoiser", *, guidance_scale: float = 3.0, steps: int = 25,
        abduct_fn: AbductFn | None = None, folded: bool = False, evaluator: str | Path | None = EVALUATOR,
    ) -> None:  # fmt: skip
        self.images, self.sources = checked_sources(images, sources)
        self.weights, self.abduct_fn, self.evaluator, self.steps = weights, abduct_fn, evaluator, steps
        methods = METHODS if abduct_fn is None else [("yours", "yours"), *METHODS]
        shown = {
            "method": controls.dropdown("Method", methods, methods[0][1]),
            "guidance_scale": controls.scale_slider(guidance_scale),
            "depth": depth_slider(weights, steps),
            "seed": controls.seed_box(0),
        }
        super().__init__(shown, more=["depth", "seed"] if folded else ())
        target = 3 if self.sources[0] != 3 else 8
        self.strip.chosen = [1, target] if len(self.sources) == 1 else [0, 1 + target]

    def busy(self, method: str, **_) -> str:
        # What the method does not ask for cannot be moved.
        self.depth.disabled = method == "same-noise"
        self.seed.disabled = self.new_seed.disabled = method in ("ddim", "yours")
        return f"{HINTS[method]} Drawing {10 * len(self.sources)} counterfactuals …"

    def draw(self, method: str, guidance_scale: float, depth: int, seed: int) -> Generator[float, None, Film]:
        own = method == "yours"
        request = CounterfactualRequest(
            self.sources, TARGETS * len(self.sources), self.weights, "ddim" if own else method,
            steps=self.steps, guidance_scale=guidance_scale, seed=seed,
            depth=None if method == "same-noise" else depth,
        )  # fmt: skip
        abduct_fn = self._checked_abduction if own else None
        grid = yield from grid_steps(request.plan(), self.images, abduct_fn, self.evaluator)
        line = f"{grid.line()} {HINTS[method]} A dashed frame with a cross: not read as asked."
        labels = "-".join(map(str, self.sources))
        return Film(
            grid.rows(), line, "Digits and their counterfactuals, asked for 0 to 9", grid.drawing.moments(),
            grid, f"counterfactuals-{labels}-{method}-w{float(guidance_scale)}",
        )  # fmt: skip

    def _checked_abduction(
        self, eps_fn: EpsFn, schedule: NoiseSchedule, x_0: Tensor, timesteps: Tensor
    ) -> Tensor:
        # x_0 first: the state must have its shape.
        def abduct(x_0: Tensor, timesteps: Tensor) -> Tensor:
            return self.abduct_fn(eps_fn, schedule, x_0, timesteps)

        abduct.__wrapped__ = self.abduct_fn  # an error is looked for in the learner's lines
        return checked_images("abduction", abduct, x_0, timesteps)
