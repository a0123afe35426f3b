"""The digit generator: what to draw, the image, how it came about, and what the evaluator reads."""

from __future__ import annotations

import functools
from collections.abc import Generator
from pathlib import Path

import ipywidgets as w
import torch

from classroom.panels.controls import (
    NARROW,
    ROOM,
    Picture,
    caption,
    card_defaults,
    common_controls,
    control,
    gif_controls,
    new_seed_button,
    replay_slider,
    steps_control,
)
from classroom.panels.digit_drawing import (
    EVALUATOR,
    Drawing,
    Model,
    SamplerFn,
    drawing_steps,
    fresh_path,
    gif_frames,
    reading_line,
    still_picture,
)
from classroom.panels.panel import Panel, image_html
from lessons_lib.images import save_gif
from lessons_lib.pipeline import GenerationRequest

START = 0.4  # the scrubber's first place: the state is still noise there, the estimate already a digit


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
        super().__init__(layout=w.Layout(width="100%", max_width="640px"))
        self.weights, self.model, self.sampler_fn, self.evaluator = weights, model, sampler_fn, evaluator
        self.simple, self.drawing, self._drawn = simple, None, None
        self.digit, self.guidance_scale, self.seed = common_controls(digit, guidance_scale, seed)
        self._build_run_controls(sampler, steps)
        self._build_pictures()
        self.children = self._arranged()
        for each in (self.digit, self.guidance_scale, self.sampler, self.steps, self.seed):
            each.observe(self._redraw, "value")
        self.scrubber.observe(self._show_moment, "value")
        self.save.on_click(self._save)
        self._redraw()

    # -- building ----------------------------------------------------------------------------------

    def _build_run_controls(self, sampler: str | None, steps: int | None) -> None:
        defaults, num_timesteps = card_defaults(self.weights if self.model is None else self.model)
        samplers = [("DDIM", "ddim"), ("DDPM", "ddpm")]
        if self.sampler_fn is not None:
            samplers.insert(0, ("yours", "yours"))
            sampler = sampler or "yours"
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

    def settings(self) -> dict:
        """What the controls ask for now."""
        return {
            "digit": self.digit.value,
            "guidance_scale": self.guidance_scale.value,
            "sampler": self.sampler.value,
            "steps": self.steps.value,
            "seed": self.seed.value,
        }

    def _redraw(self, _change=None) -> None:
        self.ask(functools.partial(self._draw, self.settings()), self._show)

    def _draw(self, settings: dict) -> Generator[float, None, tuple[dict, Drawing]]:
        named = dict(settings)
        labels, mine = (named.pop("digit"),), named["sampler"] == "yours"
        if mine:
            named["sampler"] = None
        request = GenerationRequest(labels, self.weights, **named)
        sampler_fn = self.sampler_fn if mine else None
        drawing = yield from drawing_steps(request, self.model, sampler_fn, self.evaluator)
        return settings, drawing

    def _show(self, result: tuple[dict, Drawing]) -> None:
        settings, drawing = result
        place = self.scrubber.value / self.scrubber.max if self.drawing else START
        self.drawing, self._drawn = drawing, settings
        line = reading_line(drawing, settings["digit"], settings["guidance_scale"])
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
        self.ask(functools.partial(self._write_gif, self.settings(), Path.cwd()), self._show_gif, keep=True)

    def _write_gif(self, settings: dict, folder: Path) -> Generator[float, None, tuple]:
        shown = (self._drawn, self.drawing)
        result = shown if self._drawn == settings else (yield from self._draw(settings))
        stem = f"digit-{settings['digit']}-w{float(settings['guidance_scale'])}-seed{settings['seed']}"
        path = fresh_path(folder, stem, ".gif")
        save_gif(path, gif_frames(result[1]))
        return path, path.read_bytes(), result

    def _show_gif(self, written: tuple) -> None:
        path, content, result = written
        if result[1] is not self.drawing:
            self._show(result)
        alt = f"{path.name}: the state and the estimate, from noise to digit"
        self.gif.value = image_html(content, alt, 290, 140)
        self.gif.layout.display = "block"
        self.saved.value = caption(f"Saved as <b>{path.name}</b> in {path.parent}").value

    # -- the still ---------------------------------------------------------------------------------

    def still(self) -> tuple[bytes, str] | None:
        if self.drawing is None:
            return None
        drawing, settings = self.drawing, self._drawn
        seen = f", read as {drawing.readings[0].label} by the evaluator" if drawing.readings else ""
        title = f"Target digit {settings['digit']}, guidance scale {settings['guidance_scale']:g}{seen}"
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
