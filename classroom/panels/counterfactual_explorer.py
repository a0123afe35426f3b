"""Counterfactuals of real images: each as every digit, what came and went, and the way there."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from classroom.panels import controls
from classroom.panels.drawing import EVALUATOR, UNREAD, Drawing, given, recorded
from classroom.panels.film import GUESSES, Film, Row
from classroom.panels.learners_code import YOURS, checked_images
from classroom.panels.panel import Panel
from lessons_lib import data, pictures
from lessons_lib.data import to_unit
from lessons_lib.evaluation.quality import check_labels
from lessons_lib.images import difference_maps, to_bytes
from lessons_lib.pipeline import AbductFn, CounterfactualPlan, CounterfactualRequest

LARGEST = 10  # images in one grid
TARGETS = tuple(range(10))
CHANGED = "what changed"
CAME_AND_WENT = "What changed: orange came, blue went"
AS_SEEN, AS_TEN = "As the network sees it", "As all ten digits: click one to enlarge it"
METHODS = {  # name -> what people call it, and what to know of it
    "ddim": ("DDIM inversion", "A noise that decodes to the source: no chance, so no seed."),
    "ddpm": ("edit-friendly inversion", "A noise for each step: together they hold the source."),
    "sdedit": ("SDEdit", "The source under plain noise: what shines through is kept."),
    "same-noise": (
        "same noise, no abduction", "Fresh noise that knows nothing of the source: no depth."
    ),
    YOURS: (YOURS, "The noise that your own abduction finds."),
}  # fmt: skip


def methods_with(own: object) -> list[tuple[str, str]]:
    """(what people call it, name) of each method, the learner's own first, if there is one."""
    names = [YOURS] * bool(own) + [name for name in METHODS if name != YOURS]
    return [(METHODS[name][0], name) for name in names]


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
            return f"{UNREAD.format('them')} Their {far}"
        right = int((other & ~self.missed()).sum())
        return f"{right} of {int(other.sum())} other digits read as asked, {far}"

    def rows(self) -> list[Row]:
        """Of one source: the source, its ten counterfactuals, what changed. Of several: a row each."""
        views, far, missed, rows = self.drawing.views(), self.distances(), self.missed(), []
        for r, label in enumerate(self.labels):
            own, source = slice(10 * r, 10 * r + 10), self.sources[r : r + 1]
            read = [f"{one.name} {one.probability:.0%}" for one in self.drawing.readings[own]]
            words = [f"read as {one}, " for one in read] or [""] * 10
            alts = [f"{label} to {k}: {words[k]}L1 {far[r, k]:.3f} from the source" for k in TARGETS]
            heads, marks = list(map(str, TARGETS)), missed[r].tolist()
            shown = {name: view[:, own] for name, view in views.items()}
            maps = difference_maps(torch.cat([source, self.drawing.images[own]]), source)
            if len(self.labels) == 1:
                size, names = {"side": 56, "least": 36}, [f"What changed in {k}" for k in TARGETS]
                return [
                    Row.of(source, AS_SEEN, alts=[f"The source, a {label}"], side=56),
                    Row(shown, AS_TEN, read, heads, marks, alts, lines=2, zooms=True, **size),
                    Row.of(maps[1:], CAME_AND_WENT, alts=names, **size),
                ]
            lead = to_bytes(source).expand(len(views[GUESSES]), 1, -1, -1, -1)
            shown = {name: torch.cat([lead, view], dim=1) for name, view in shown.items()}
            shown[CHANGED] = to_bytes(maps)[None]
            heads, alts = [] if r else ["real", *heads], [f"{label}, the source", *alts]
            rows.append(Row(shown, "", (), heads, [False, *marks], alts, side=56, least=24, zooms=True))
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
        self, images: Tensor | None = None, sources: Sequence[int] = (7,),
        weights: str | Path = "mnist-denoiser", *, guidance_scale: float = 3.0, steps: int = 25,
        abduct_fn: AbductFn | None = None, folded: bool = False, evaluator: str | Path | None = EVALUATOR,
    ) -> None:  # fmt: skip
        # Sharpened: a denoiser of MNIST has no noise for soft edges, and would change all of it.
        seven = pictures.sharpened(data.running_example())
        self.images, self.sources = given(seven if images is None else images, LARGEST), tuple(sources)
        check_labels(self.images, torch.tensor(self.sources))
        self.weights, self.abduct_fn, self.evaluator, self.steps = weights, abduct_fn, evaluator, steps
        methods = methods_with(abduct_fn)
        shown = {
            "method": controls.dropdown("Method", methods, methods[0][1]),
            "guidance_scale": controls.scale_slider(guidance_scale),
            "depth": controls.depth_slider(controls.card_defaults(weights)[1], steps),
            "seed": controls.seed_box(0),
        }
        super().__init__(shown, more=["depth", "seed"] if folded else ())
        target = 3 if self.sources[0] != 3 else 8
        self.strip.chosen = [1, target] if len(self.sources) == 1 else [0, 1 + target]

    def busy(self, method: str, **_) -> str:
        # What the method does not ask for cannot be moved.
        self.depth.disabled = method == "same-noise"
        self.seed.disabled = self.new_seed.disabled = method in ("ddim", YOURS)
        return f"{METHODS[method][1]} Drawing {10 * len(self.sources)} counterfactuals …"

    def draw(self, method: str, guidance_scale: float, depth: int, seed: int) -> Generator[float, None, Film]:
        own = method == YOURS
        request = CounterfactualRequest(
            self.sources, TARGETS * len(self.sources), self.weights, "ddim" if own else method,
            steps=self.steps, guidance_scale=guidance_scale, seed=seed,
            depth=None if method == "same-noise" else depth,
        )  # fmt: skip
        abduct_fn = partial(checked_images, "abduction", self.abduct_fn) if own else None
        grid = yield from grid_steps(request.plan(), self.images, abduct_fn, self.evaluator)
        line = f"{grid.line()} {METHODS[method][1]} A dashed frame with a cross: not read as asked."
        labels = "-".join(map(str, self.sources))
        return Film(
            grid.rows(), line, "Digits and their counterfactuals, asked for 0 to 9", grid.drawing.moments(),
            grid, f"counterfactuals-{labels}-{method}-w{float(guidance_scale)}",
        )  # fmt: skip
