"""Models side by side, at the same noise: what more training, or another recipe, has changed."""

from __future__ import annotations

import functools
import html
from collections.abc import Generator, Mapping
from pathlib import Path

import ipywidgets as w

from classroom.panels.controls import card_defaults, common_controls, steps_control
from classroom.panels.digits import EVALUATOR, Drawing, drawing_steps
from classroom.panels.panel import Panel, still_picture
from classroom.panels.same_noise_rows import SIDE, labels_read, reading_texts, row_html, share_of
from lessons_lib.pipeline import GenerationRequest, Model


class ModelComparison(Panel):
    """A row of images for each model, all rows from the same noise.

    Args:
        models: name -> weights by name or path, or (network, schedule).
        digit, guidance_scale, seed, steps: where the controls stand at first.
        samples: images in a row.
        evaluator: name or path of the weights that read the images.

    Attributes:
        digit, guidance_scale, seed, steps: the controls.
        drawings: name -> the Drawing that is shown; empty until the first is done.
    """

    def __init__(
        self,
        models: Mapping[str, str | Path | Model],
        digit: int = 7,
        guidance_scale: float = 2.0,
        seed: int = 0,
        *,
        samples: int = 4,
        steps: int = 25,
        evaluator: str | Path | None = EVALUATOR,
    ) -> None:
        if not models:
            raise ValueError("At least one model is needed to compare.")
        super().__init__(layout=w.Layout(width="100%", max_width="680px"))
        self.models, self.samples, self.evaluator = dict(models), samples, evaluator
        self.drawings: dict[str, Drawing] = {}
        self._drawn: dict = {}
        self.digit, self.guidance_scale, self.seed = common_controls(digit, guidance_scale, seed)
        self.steps = steps_control(steps, min(card_defaults(source)[1] for source in self.models.values()))
        self._rows = {name: w.HTML(layout={"height": f"{SIDE + 30}px"}) for name in self.models}
        rows = [self._named_row(name, row) for name, row in self._rows.items()]
        controls = (self.digit, self.guidance_scale, self.steps, self.seed)
        self.children = (*controls, *rows, self.progress, self.status)
        for each in controls:
            each.observe(self._redraw, "value")
        self._redraw()

    def _named_row(self, name: str, row: w.HTML) -> w.Widget:
        return w.VBox([w.HTML(f"<b>{html.escape(name)}</b>"), row], layout={"margin": "4px 0 0 0"})

    def _redraw(self, _change=None) -> None:
        settings = {
            "digit": self.digit.value,
            "guidance_scale": self.guidance_scale.value,
            "seed": self.seed.value,
            "steps": self.steps.value,
        }
        self.ask(functools.partial(self._draw, settings), self._show)

    def _draw(self, settings: dict) -> Generator[float, None, tuple[dict, dict[str, Drawing]]]:
        named = dict(settings)
        labels, drawings = (named.pop("digit"),) * self.samples, {}
        for name, source in self.models.items():
            model = source if isinstance(source, tuple) else None
            place = {} if model else {"weights": source}
            request = GenerationRequest(labels, **place, sampler="ddim", **named)
            steps = drawing_steps(request, model, evaluator=self.evaluator)
            drawings[name] = yield from share_of(steps, len(drawings), len(self.models))
        return settings, drawings

    def _show(self, result: tuple[dict, dict[str, Drawing]]) -> None:
        self._drawn, self.drawings = result
        for name, drawing in self.drawings.items():
            self._rows[name].value = row_html(name, drawing.images, reading_texts(drawing))
        took = ", ".join(f"{name} in {d.milliseconds:.0f} ms" for name, d in self.drawings.items())
        read = all(d.readings for d in self.drawings.values())
        missing = "" if read else "There is no evaluator to read them. "
        self.say(f"{missing}The same noise in each row. Drawn: {took}.")

    def still(self) -> tuple[bytes, str] | None:
        if not self.drawings:
            return None
        digit, scale = self._drawn["digit"], self._drawn["guidance_scale"]
        title = f"Target digit {digit}, guidance scale {scale:g}, the same noise in each row"
        seen = "; ".join(f"{name}: read as {labels_read(drawing)}" for name, drawing in self.drawings.items())
        rows = {name: drawing.images for name, drawing in self.drawings.items()}
        return still_picture(rows, title, size=1.1), f"{title}. {seen}."
