"""The object generator: pictures of one class side by side, what is read in them, and how they came about."""

from __future__ import annotations

import re
from collections.abc import Generator
from pathlib import Path

from classroom.panels import controls
from classroom.panels.drawing import UNREAD, Drawing, drawn
from classroom.panels.film import Film, Row
from classroom.panels.panel import Panel
from lessons_lib.names import place_of
from lessons_lib.pipeline import GenerationRequest

COUNT = 4  # pictures; picture k comes from the noise of (seed, k)
MAX_SCALE = 7.0


class ObjectGenerator(Panel):
    """Draws several pictures of one class at each move of a slider, each from its own noise.

    The classes are those on the card of the weights. Weights without labels get neither a class nor a scale.

    Args:
        label: the class at first, by name or number.
    """

    doing = "Drawing pictures …"

    def __init__(
        self, weights: str | Path = "cifar10-denoiser", evaluator: str | Path | None = "cifar10-evaluator", *,
        label: int | str = 0, guidance_scale: float = 2.0, steps: int | None = None,
    ) -> None:  # fmt: skip
        self.weights, self.evaluator = weights, evaluator
        (defaults, longest), self.names = controls.card_defaults(weights), controls.names_of(weights)
        run = {
            "steps": controls.steps_slider(steps or defaults["steps"], longest),
            "seed": controls.seed_box(0),
        }
        told = {}
        if self.names:
            classes = [(name, k) for k, name in enumerate(self.names)]
            told["label"] = controls.dropdown("Class", classes, place_of(label, self.names, "class"))
            told["guidance_scale"] = controls.scale_slider(guidance_scale, MAX_SCALE, 0.5)
        super().__init__(told | run)

    def draw(
        self, steps: int, seed: int, label: int = 0, guidance_scale: float | None = None
    ) -> Generator[float, None, Film]:
        request = GenerationRequest(
            (label,) * COUNT, self.weights, "cfg" if self.names else "none", steps=steps, seed=seed,
            guidance_scale=guidance_scale,
        )  # fmt: skip
        drawing = yield from drawn(request, evaluator=self.evaluator)
        name = self.names[label] if self.names else ""
        texts = [f"{one.name} {one.probability:.0%}" for one in drawing.readings]
        marks = [bool(name) and one.name != name for one in drawing.readings]
        alts = [f"Picture {k + 1}{f' of class {name}' if name else ''}" for k in range(COUNT)]
        row = Row(drawing.views(), "", texts, alts=alts, marks=marks, side=140, lines=2)
        scale = "" if guidance_scale is None else f"-w{float(guidance_scale)}"
        stem = re.sub(r"[^\w-]+", "-", name).strip("-")[:40] or "pictures"  # any name of a class
        wanted = f"Class {name}, guidance scale {guidance_scale:g}" if name else "Pictures"
        return Film(
            [row], result_line(drawing, name, guidance_scale), f"{wanted}, seed {seed}, {steps} steps",
            drawing.moments(), drawing, f"{stem}{scale}-seed{seed}",
        )  # fmt: skip


def result_line(drawing: Drawing, name: str, guidance_scale: float | None) -> str:
    """How many pictures are read as the class `name` that was asked for ("": no labels), and the time."""
    read = [one.name for one in drawing.readings]
    if not read:
        return f"{UNREAD.format('them')} {drawing.took}"
    if not name:
        return f"The evaluator reads {', '.join(read)}. {drawing.took}"
    told = "At scale 0 the network is not told the class: " if guidance_scale == 0 else ""
    return f"{told}{read.count(name)} of {len(read)} are read as {name} by the evaluator. {drawing.took}"
