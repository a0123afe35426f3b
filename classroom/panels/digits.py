"""The digit generator: what to draw, the image, how it came about, and what the evaluator reads.

First what is drawn, without a browser: a request in, a Drawing out. Then the panel.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import ipywidgets as w
import numpy as np
import torch
from torch import Tensor

from classroom.panels.controls import (
    NARROW,
    ROOM,
    card_defaults,
    common_controls,
    control,
    gif_controls,
    new_seed_button,
    replay_slider,
    steps_control,
)
from classroom.panels.learners_code import SamplerFn, checked_steps
from classroom.panels.panel import Panel, Picture, caption, fresh_path, image_html, still_picture
from lessons_lib.images import save_gif, to_pixels
from lessons_lib.pipeline import GenerationRequest, Model, load_model
from lessons_lib.samplers import Step
from lessons_lib.weights import WeightsError

EVALUATOR = "mnist-evaluator"
START = 0.4  # the scrubber's first place: the state is still noise there, the estimate already a digit
YOURS = "yours"  # the sampler that the learner wrote


class Reading(NamedTuple):
    """What the evaluator reads in one image, and how sure it is."""

    label: int
    probability: float


@dataclass(frozen=True, eq=False)
class Drawing:
    """The images that were drawn, and how they came about.

    images: [B, C, H, W] in [-1, 1].
    states: x_T, then the state after each of the N steps; each [B, C, H, W]. Step k saw states[k].
    estimates: the N estimates of x_0; estimates[k] was made from states[k].
    timesteps: the N timesteps t at which the network was asked.
    readings: one for each image; empty without an evaluator.
    milliseconds: for the N steps, without loading and reading.
    request: what was asked for; None of counterfactuals.
    """

    images: Tensor
    states: list[Tensor]
    estimates: list[Tensor]
    timesteps: list[int]
    readings: tuple[Reading, ...]
    milliseconds: float
    request: GenerationRequest | None = None

    def moment(self, k: int) -> tuple[Tensor, Tensor]:
        """(x_t, x̂_0) at step k; for k = N the image and the last estimate."""
        return self.states[k], self.estimates[min(k, len(self.estimates) - 1)]


def draw_digit(
    request: GenerationRequest,
    model: Model | None = None,
    sampler_fn: SamplerFn | None = None,
    evaluator: str | Path | None = EVALUATOR,
) -> Drawing:
    """Draw what is asked for and let the evaluator read it.

    Args:
        model: (network, schedule), in place of the request's weights.
        sampler_fn: in place of the request's sampler: (eps_fn, schedule, x_T, timesteps) -> Steps.
        evaluator: name or path of its weights; None for no reading.

    Raises:
        ValueError, WeightsError: as `generate`; also if sampler_fn fails, with the line where it did.
    """
    steps = drawing_steps(request, model, sampler_fn, evaluator)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def drawing_steps(
    request: GenerationRequest,
    model: Model | None = None,
    sampler_fn: SamplerFn | None = None,
    evaluator: str | Path | None = EVALUATOR,
) -> Generator[float, None, Drawing]:
    """`draw_digit` as a generator, for progress and for being dropped: yields the part done, 0 … 1."""
    plan, started = request.plan(model), time.perf_counter()
    way = plan.eps_fn, plan.schedule, plan.x_T, plan.timesteps
    steps = checked_steps(sampler_fn, *way) if sampler_fn else plan.steps()
    states, estimates, timesteps = [plan.x_T], [], []
    for step in steps:
        check_finite(step)
        states.append(step.x_t)
        estimates.append(step.x_0)
        timesteps.append(int(step.t))
        yield len(timesteps) / len(plan.timesteps)
    milliseconds = 1000 * (time.perf_counter() - started)
    images = states[-1].clamp(-1, 1)
    return Drawing(images, states, estimates, timesteps, read(images, evaluator), milliseconds, request)


def check_finite(step: Step) -> None:
    """Raise ValueError if the state after this step holds values that are not numbers."""
    if not torch.isfinite(step.x_t).all():
        raise ValueError(f"After the step at t = {step.t} the image holds values that are not numbers.")


def read(images: Tensor, evaluator: str | Path | None = EVALUATOR) -> tuple[Reading, ...]:
    """What the evaluator reads in images [B, C, H, W]; empty if there is none on this machine."""
    if evaluator is None:
        return ()
    try:
        network = load_model(evaluator)[0]
    except WeightsError:
        return ()
    probabilities, labels = network.probabilities(images.float().cpu()).max(dim=1)
    return tuple(Reading(int(y), float(p)) for y, p in zip(labels, probabilities, strict=True))


def reading_line(drawing: Drawing) -> str:
    """What the evaluator makes of the first image, whether that was asked for, and the milliseconds."""
    took = f"Drawn in {drawing.milliseconds:.0f} ms."
    if not drawing.readings:
        return f"There is no evaluator on this machine to read it. {took}"
    (label, probability), target = drawing.readings[0], drawing.request.labels[0]
    if drawing.request.guidance_scale == 0:
        verdict = "at scale 0 the network is not told which digit to draw"
    elif label == target:
        verdict = "the digit that was asked for"
    else:
        verdict = f"not the {target} that was asked for"
    return f"The evaluator reads {label} ({probability:.1%}), {verdict}. {took}"


def gif_frames(drawing: Drawing, scale: int = 5) -> list[np.ndarray]:
    """One frame for each moment: x_t on the left, the estimate made from it on the right."""
    frames = []
    for k in range(len(drawing.states)):
        x_t, x_0 = (to_pixels(image[0], scale) for image in drawing.moment(k))
        gap = np.full((len(x_t), 2 * scale, 3), 153, dtype=np.uint8)
        frames.append(np.concatenate([x_t, gap, x_0], axis=1))
    return frames


# -- the panel -------------------------------------------------------------------------------------


class DigitGenerator(Panel):
    """Draws a digit at each move of a slider.

    Args:
        weights: name or path of a denoiser's weights.
        simple: only digit and guidance scale, and the image.
        sampler_fn: the learner's own sampler, (eps_fn, schedule, x_T, timesteps) -> Iterator[Step].
        model: (network, schedule), in place of `weights`.
        digit, guidance_scale, sampler, steps, seed: where the controls start; None: as the card says.
        evaluator: name or path of the weights that read the image.

    Attributes:
        digit, guidance_scale, sampler, steps, seed, new_seed, scrubber, save: the controls.
        drawing: the Drawing that is shown; None until the first one is done.
    """

    def __init__(
        self,
        weights: str | Path = "mnist-denoiser",
        simple: bool = False,
        sampler_fn: SamplerFn | None = None,
        digit: int = 7,
        guidance_scale: float = 2.0,
        seed: int = 0,
        *,
        model: Model | None = None,
        sampler: str | None = None,
        steps: int | None = None,
        evaluator: str | Path | None = EVALUATOR,
    ) -> None:
        super().__init__(layout=w.Layout(width="100%", max_width="680px"))
        self.weights, self.model, self.sampler_fn, self.evaluator = weights, model, sampler_fn, evaluator
        self.simple, self.drawing = simple, None
        self.digit, self.guidance_scale, self.seed = common_controls(digit, guidance_scale, seed)
        self._build_run_controls(sampler, steps)
        self._build_pictures()
        self.children = self._arranged()
        for slider in (self.digit, self.guidance_scale, self.sampler, self.steps, self.seed):
            slider.observe(self._redraw, "value")
        self.scrubber.observe(self._show_moment, "value")
        self.save.on_click(self._save)
        self._redraw()

    # -- building ----------------------------------------------------------------------------------

    def _build_run_controls(self, sampler: str | None, steps: int | None) -> None:
        defaults, num_timesteps = card_defaults(self.weights if self.model is None else self.model)
        samplers = [("DDIM", "ddim"), ("DDPM", "ddpm")]
        if self.sampler_fn is not None:
            samplers.insert(0, (YOURS, YOURS))
            sampler = sampler or YOURS
        sampler = sampler or defaults["sampler"]
        self.sampler = control(
            w.Dropdown, options=samplers, value=sampler, description="Sampler", layout=NARROW
        )
        self.steps = steps_control(steps or defaults["steps"], num_timesteps)
        self.new_seed = new_seed_button(self.seed)
        self.save, self.saved, self.gif = gif_controls("Write the way from noise to digit into this folder")

    def _build_pictures(self) -> None:
        self.image, self.state, self.estimate = Picture(224), Picture(140), Picture(140)
        self.scrubber, self.moment = replay_slider(), caption("&nbsp;")

    def _arranged(self) -> tuple[w.Widget, ...]:
        save = w.HBox([self.save, self.saved], layout={"align_items": "center"})
        ends = (self.progress, self.status, save, self.gif)
        if self.simple:
            return (self.digit, self.guidance_scale, w.Box([self.image], layout=ROOM), *ends)
        small = [
            w.VBox([self.state, caption("state x<sub>t</sub>")]),
            w.VBox([self.estimate, caption("estimate x̂<sub>0</sub>")]),
        ]
        replay = w.VBox([w.HBox(small, layout={"grid_gap": "12px"}), self.scrubber, self.moment])
        pictures = w.HBox([self.image, replay], layout={"grid_gap": "24px"} | ROOM)
        seed = w.HBox([self.seed, self.new_seed])
        return (self.digit, self.guidance_scale, self.sampler, self.steps, seed, pictures, *ends)

    # -- drawing -----------------------------------------------------------------------------------

    def request(self) -> GenerationRequest:
        """What the controls ask for now; without a sampler where the learner's own draws."""
        fields = {name: getattr(self, name).value for name in ("guidance_scale", "sampler", "steps", "seed")}
        if fields["sampler"] == YOURS:
            fields |= {"sampler": None, "spacing": "trailing"}
        return GenerationRequest((self.digit.value,), self.weights, **fields)

    def _redraw(self, _change=None) -> None:
        self.ask(functools.partial(self._draw, self.request()), self._show)

    def _draw(self, request: GenerationRequest) -> Generator[float, None, Drawing]:
        sampler_fn = self.sampler_fn if request.sampler is None else None
        return drawing_steps(request, self.model, sampler_fn, self.evaluator)

    def _show(self, drawing: Drawing) -> None:
        place = self.scrubber.value / self.scrubber.max if self.drawing else START
        self.drawing, line = drawing, reading_line(drawing)
        self.image.show(drawing.images, f"The drawn image. {line}")
        self.say(line)
        self.scrubber.max = len(drawing.timesteps)
        self.scrubber.value = round(place * self.scrubber.max)
        self._show_moment()

    def _show_moment(self, _change=None) -> None:
        drawing, k = self.drawing, self.scrubber.value
        if drawing is None or k >= len(drawing.states):
            return
        x_t, x_0 = drawing.moment(k)
        count = len(drawing.timesteps)
        text = f"t = {drawing.timesteps[k]}, step {k + 1} of {count}" if k < count else "after the last step"
        self.state.show(x_t, f"The state, {text}")
        self.estimate.show(x_0, f"The estimate, {text}")
        self.moment.value = caption(text).value

    # -- the GIF -----------------------------------------------------------------------------------

    def _save(self, _button=None) -> None:
        self.ask(functools.partial(self._write_gif, self.request(), Path.cwd()), self._show_gif, keep=True)

    def _write_gif(self, request: GenerationRequest, folder: Path) -> Generator[float, None, tuple]:
        shown = self.drawing
        drawing = shown if shown and shown.request == request else (yield from self._draw(request))
        stem = f"digit-{request.labels[0]}-w{float(request.guidance_scale)}-seed{request.seed}"
        path = fresh_path(folder, stem, ".gif")
        save_gif(path, gif_frames(drawing))
        return path, path.read_bytes(), drawing

    def _show_gif(self, written: tuple[Path, bytes, Drawing]) -> None:
        path, content, drawing = written
        if drawing is not self.drawing:
            self._show(drawing)
        alt = f"{path.name}: the state and the estimate, from noise to digit"
        self.gif.value = image_html(content, alt, 290, 140)
        self.gif.layout.display = "block"
        self.saved.value = caption(f"Saved as <b>{path.name}</b> in {path.parent}").value

    # -- the still ---------------------------------------------------------------------------------

    def still(self) -> tuple[bytes, str] | None:
        if self.drawing is None:
            return None
        drawing, request = self.drawing, self.drawing.request
        seen = f", read as {drawing.readings[0].label} by the evaluator" if drawing.readings else ""
        title = f"Target digit {request.labels[0]}, guidance scale {request.guidance_scale:g}{seen}"
        if self.simple:
            two_lines = title.replace(", read", ",\nread")  # one would be wider than the image
            return still_picture({"": drawing.images}, two_lines, size=2.2), f"{title}."
        count = len(drawing.timesteps)
        places = sorted({round(i * (count - 1) / 5) for i in range(6)})
        moments = [drawing.moment(k) for k in places] + [drawing.moment(count)]
        states, estimates = (torch.cat([pair[i][:1] for pair in moments]) for i in (0, 1))
        rows = {"$x_t$": states, "$\\hat{x}_0$": estimates}
        titles = [f"t = {drawing.timesteps[k]}" for k in places] + ["image"]
        return still_picture(rows, title, titles), f"From noise to a digit in {count} steps. {title}."
