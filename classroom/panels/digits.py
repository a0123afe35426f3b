"""The digit generator: what to draw, the digit, how it came about, and what the evaluator reads."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import torch

from classroom.panels import controls
from classroom.panels.drawing import EVALUATOR, UNREAD, Drawing, drawn
from classroom.panels.film import GUESSES, SEES, Film, Row
from classroom.panels.learners_code import YOURS, SamplerFn
from classroom.panels.panel import Panel
from lessons_lib.flow_map import MAX_GUIDANCE_SCALE
from lessons_lib.pipeline import GenerationRequest, Model


class DigitGenerator(Panel):
    """Draws a digit at each move of a slider; with a flow map, while the slider moves.

    Args:
        simple: only digit and guidance scale, and the digit.
        sampler_fn: the learner's own sampler, (eps_fn, schedule, x_T, timesteps) -> Iterator[Step].
        model: (network, schedule), in place of `weights`.
    """

    doing = "Drawing a {digit} …"

    def __init__(
        self, weights: str | Path = "mnist-denoiser", simple: bool = False,
        sampler_fn: SamplerFn | None = None, digit: int = 7, guidance_scale: float = 2.0, seed: int = 0, *,
        model: Model | None = None, steps: int | None = None, folded: bool = False,
        evaluator: str | Path | None = EVALUATOR,
    ) -> None:  # fmt: skip
        self.weights, self.model, self.sampler_fn = weights, model, sampler_fn
        self.simple, self.evaluator = simple, evaluator
        defaults, num_timesteps = controls.card_defaults(model or weights)
        self.live = defaults["sampler"] is None
        if self.live and sampler_fn:
            raise ValueError("A flow map draws without a sampler: leave sampler_fn out, or take a denoiser.")
        samplers = [(YOURS, YOURS)] * bool(sampler_fn) + [("DDIM", "ddim"), ("DDPM", "ddpm")]
        samplers = [("none", None)] if self.live else samplers
        run = {
            "sampler": controls.dropdown("Sampler", samplers, YOURS if sampler_fn else defaults["sampler"]),
            "steps": controls.steps_slider(steps or defaults["steps"], 4 if self.live else num_timesteps),
            "seed": controls.seed_box(seed),
        }
        hidden = list(run) if simple else ["sampler"] * self.live
        self.fixed = {name: run.pop(name).value for name in hidden}
        scale, step = (min(guidance_scale, MAX_GUIDANCE_SCALE), 0.05) if self.live else (guidance_scale, 0.25)
        scale = controls.scale_slider(scale, step=step)
        super().__init__(
            {"digit": controls.digit_slider(digit), "guidance_scale": scale} | run,
            more=list(run) if folded else (),
        )

    def request(self, digit: int, guidance_scale: float, **run) -> GenerationRequest:
        """What is asked for; without a sampler where the learner's own draws."""
        run = self.fixed | run
        if run["sampler"] == YOURS:
            run |= {"sampler": None, "spacing": "trailing"}
        return GenerationRequest((digit,), self.weights, guidance_scale=guidance_scale, **run)

    def draw(self, way: bool = False, **settings) -> Generator[float, None, Film]:
        request = self.request(**settings)
        own = self.sampler_fn if request.sampler is None else None
        drawing = yield from drawn(request, self.model, own, self.evaluator, way)
        digit, scale, line = request.labels[0], request.guidance_scale, reading_line(drawing, request)
        views = drawing.views()
        shown = [views[SEES]] if self.simple else [views[SEES], views[GUESSES]]
        heads = () if self.simple else (f"{SEES}: x_t", f"{GUESSES}: x̂_0")
        alts = [f"The drawn image. {line}", "What the network guesses"][: len(shown)]
        row = Row({SEES: torch.cat(shown, dim=1)}, heads=heads, alts=alts, side=280)
        return Film(
            [row], line, f"Target digit {digit}, guidance scale {scale:g}",
            drawing.moments(), drawing, f"digit-{digit}-w{scale}-seed{request.seed}",
        )  # fmt: skip


def reading_line(drawing: Drawing, request: GenerationRequest) -> str:
    """What the evaluator makes of the digit, whether that was asked for, and how long it took."""
    if not drawing.readings:
        return f"{UNREAD.format('it')} {drawing.took}"
    (label, probability, _), target = drawing.readings[0], request.labels[0]
    if request.guidance_scale == 0:
        verdict = "at scale 0 the network is not told which digit to draw"
    elif label == target:
        verdict = "the digit that was asked for"
    else:
        verdict = f"not the {target} that was asked for"
    return f"The evaluator reads {label} ({probability:.1%}), {verdict}. {drawing.took}"
