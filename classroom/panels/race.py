"""The race of samplers: equal noise, one network evaluation each in turn, and who is done first."""

from __future__ import annotations

import dataclasses
import functools
import html
import time
from collections.abc import Generator, Mapping
from pathlib import Path

import ipywidgets as w
import torch

from classroom.panels.controls import (
    STEPS,
    STYLE,
    WIDE,
    card_defaults,
    common_controls,
    control,
    new_seed_button,
)
from classroom.panels.digits import EVALUATOR, read
from classroom.panels.lanes import YOURS, Runner, lane_words, rounds, runner_for, summary, times
from classroom.panels.learners_code import SamplerFn
from classroom.panels.panel import TEXT, Panel, Picture, still_picture
from lessons_lib.pipeline import GenerationRequest

LANES = {
    "DDPM": {"sampler": "ddpm", "steps": 50},
    "DDIM": {"sampler": "ddim", "steps": 25},
    "DPM-Solver++(2M)": {"sampler": "dpmpp_2m", "steps": 10},
}
YOUR_STEPS = 10
FRAME = 0.05  # seconds between two updates of the page
TAKEN = {"labels", "guidance_scale", "seed", "sample_indices"}  # by the controls, equal for all lanes


class SamplerRace(Panel):
    """Samplers that start from the same noise, live: who draws the digit with the fewest evaluations?

    Args:
        lanes: name -> fields of GenerationRequest, as a rule sampler and steps; None for the library's three.
        digit, guidance_scale, seed: where the controls start.
        sampler_fn: the learner's own sampler, (eps_fn, schedule, x_T, timesteps) -> Iterator[Step]; it gets
            a lane of its own, "yours", and timesteps evenly spaced in log-SNR.
        evaluator: name or path of the weights that read the images.
        weights: name or path of the denoiser's weights, for lanes that name none.

    Attributes:
        digit, guidance_scale, seed, new_seed, again: the controls.
        steps: name -> the slider of a lane.
        pictures, notes: name -> what is shown of a lane.
        runners: name -> Runner of the last race that was run to its end; empty before.

    Raises:
        ValueError: if there is no lane, or a lane asks for something that there is not.
    """

    def __init__(
        self,
        lanes: Mapping[str, Mapping[str, object]] | None = None,
        digit: int = 7,
        guidance_scale: float = 2.0,
        seed: int = 0,
        *,
        sampler_fn: SamplerFn | None = None,
        evaluator: str | Path | None = EVALUATOR,
        weights: str | Path = "mnist-denoiser",
    ) -> None:
        super().__init__(layout=w.Layout(width="100%", max_width="680px"))
        self.sampler_fn, self.evaluator = sampler_fn, evaluator
        self.lanes = _checked_lanes(LANES if lanes is None else lanes, sampler_fn is not None, weights)
        self.runners: dict[str, Runner] = {}
        self._raced, self._warm = {}, False
        self.digit, self.guidance_scale, self.seed = common_controls(digit, guidance_scale, seed)
        self.new_seed = new_seed_button(self.seed)
        self.again = w.Button(
            description="Race", tooltip="Run it once more", button_style="primary", layout={"width": "100px"}
        )
        self.again.on_click(self._race)
        self.steps = {name: _steps_slider(name, lane) for name, lane in self.lanes.items()}
        self.pictures = {name: Picture(112) for name in self.lanes}
        self.notes = {name: w.HTML(layout={"width": "100%", "min_height": "50px"}) for name in self.lanes}
        ends = w.HBox([self.seed, self.new_seed, self.again])
        rows = [self._arranged(name) for name in self.lanes]
        self.children = (self.digit, self.guidance_scale, ends, *rows, self.progress, self.status)
        for each in (self.digit, self.guidance_scale, self.seed, *self.steps.values()):
            each.observe(self._race, "value")
        self._race()

    def _arranged(self, name: str) -> w.Widget:
        """The picture of a lane beside its slider and its note."""
        beside = w.VBox(
            [self.steps[name], self.notes[name]], layout={"flex": "1 1 auto", "overflow": "hidden"}
        )
        return w.HBox([self.pictures[name], beside], layout={"margin": "6px 0 0 2px", "grid_gap": "12px"})

    def settings(self) -> dict:
        """What the controls ask for now; steps: name -> number."""
        return {
            "digit": self.digit.value,
            "guidance_scale": self.guidance_scale.value,
            "seed": self.seed.value,
            "steps": {name: slider.value for name, slider in self.steps.items()},
        }

    # -- racing ------------------------------------------------------------------------------------

    def _race(self, _change=None) -> None:
        self.ask(functools.partial(self._run_race, self.settings()), self._show)

    def _requests(self, settings: dict) -> dict[str, GenerationRequest]:
        """Name -> what the lane is asked for; digit, scale and noise are the same for all."""
        shared = {"guidance_scale": settings["guidance_scale"], "seed": settings["seed"]}
        return {
            name: GenerationRequest(
                (settings["digit"],), **lane | shared | {"steps": settings["steps"][name]}
            )
            for name, lane in self.lanes.items()
        }

    def _run_race(self, settings: dict) -> Generator[float, None, tuple[dict, list[Runner]]]:
        requests = self._requests(settings)
        runners = [
            runner_for(name, request, self.sampler_fn if name == YOURS else None)
            for name, request in requests.items()
        ]
        if not self._warm:  # what a network does in its very first call is not charged to the first lane
            runner_for("", next(iter(requests.values()))).advance()
            self._warm = True
        yield 0.0
        self.say("The race is on: one network evaluation each in turn, all from the same noise.")
        drawn = self._frame(runners, settings)
        for round_is_over in rounds(runners):
            if round_is_over and time.monotonic() - drawn >= FRAME:
                drawn = self._frame(runners, settings)
            yield sum(one.made for one in runners) / sum(one.total for one in runners)
        return settings, runners

    def _frame(self, runners: list[Runner], settings: dict) -> float:
        """Show every lane as it stands; returns when that was done."""
        readings = read(torch.cat([one.image for one in runners]).clamp(-1, 1), self.evaluator)
        for k, runner in enumerate(runners):
            words = lane_words(runner, readings[k] if readings else None, settings)
            name, image = runner.name, runner.image.clamp(-1, 1)
            self.notes[name].value = _note_html(runner, words)
            self.pictures[name].show(image, f"{name}: {words}")
        return time.monotonic()

    def _show(self, result: tuple[dict, list[Runner]]) -> None:
        settings, runners = result
        self._raced, self.runners = settings, {runner.name: runner for runner in runners}
        self._frame(runners, settings)
        if any(runner.place for runner in runners):
            self.say(summary(runners))
        else:
            self.complain(" ".join(dict.fromkeys(runner.error for runner in runners)))

    def still(self) -> tuple[bytes, str] | None:
        ended = [runner for runner in self.runners.values() if runner.place]
        if not ended:
            return None
        digit, scale = self._raced["digit"], self._raced["guidance_scale"]
        title = f"Target digit {digit}, guidance scale {scale:g}, all from the same noise"
        names = [f"{one.name}\n{times(one.evaluations, 'evaluation')}" for one in ended]
        images = torch.cat([one.image for one in ended])
        seen = "; ".join(name.replace("\n", " after ") for name in names)
        return still_picture({"": images}, title, names, size=1.6), f"{title}. {seen}. {summary(ended)}"


# -- lanes ---------------------------------------------------------------------------------------


def _checked_lanes(
    lanes: Mapping[str, Mapping[str, object]], with_yours: bool, weights: str | Path
) -> dict[str, dict]:
    """The lanes with weights and steps filled in, and the learner's."""
    lanes = {str(name): {"weights": weights} | dict(lane) for name, lane in lanes.items()}
    if with_yours:
        if YOURS in lanes:
            raise ValueError(f"The name {YOURS!r} is the lane of sampler_fn: choose another one.")
        lanes[YOURS] = {"weights": weights, "steps": YOUR_STEPS}
    if not lanes:
        raise ValueError("At least one lane is needed for a race.")
    allowed = sorted({field.name for field in dataclasses.fields(GenerationRequest)} - TAKEN)
    for name, lane in lanes.items():
        for key in lane:
            if key not in allowed:
                raise ValueError(f"The lane {name!r} has {key!r}: choose from {', '.join(allowed)}.")
        GenerationRequest((0,), **lane)  # refuses what no weights could draw
    return lanes


def _steps_slider(name: str, lane: dict) -> w.SelectionSlider:
    defaults, longest = card_defaults(lane["weights"])
    steps = lane.get("steps") or defaults["steps"]
    options = sorted({n for n in STEPS if n <= longest} | {steps})
    settings = {"options": options, "value": steps, "description": name, "tooltip": f"Steps of {name}"}
    style = STYLE | {"description_width": "130px"}  # for the longest of the library's names
    return control(w.SelectionSlider, **settings, layout=WIDE, style=style)


def _note_html(runner: Runner, words: str) -> str:
    """A bar of the steps made, above the words."""
    share = 1 if runner.place else runner.made / runner.total
    colour = "#1b7837" if runner.place else "#b00020" if runner.error else "#2166ac"
    filled = f'<div style="width: {share:.0%}; height: 6px; background: {colour}"></div>'
    bar = f'<div style="height: 6px; margin: 4px 0; background: var(--jp-layout-color3, #ccc)">{filled}</div>'
    weight = "; font-weight: bold" if runner.place == 1 else ""
    red = '; color: var(--jp-error-color1, #b00020)" role="alert' if runner.error else ""
    return f'{bar}<div style="{TEXT}{weight}{red}">{html.escape(words)}</div>'
