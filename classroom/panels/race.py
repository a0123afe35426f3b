"""The race of samplers: equal noise, shown evaluation by evaluation, and who is done first."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from classroom.panels import controls
from classroom.panels.comparison import SAMPLERS, SideBySide
from classroom.panels.drawing import EVALUATOR, Drawing
from classroom.panels.film import GUESSES, Film, Row, seconds, stacked
from classroom.panels.learners_code import YOURS, SamplerFn
from lessons_lib.pipeline import GenerationRequest

STEPS = {"ddpm": 50, "ddim": 25, "dpmpp_2m": 10}
YOUR_STEPS = 10
PLACES = ("1st", "2nd", "3rd", "4th")


class SamplerRace(SideBySide):
    """Samplers that start from the same noise: who draws the digit with the fewest evaluations?

    Args:
        sampler_fn: the learner's own sampler, (eps_fn, schedule, x_T, timesteps) -> Iterator[Step]; it gets
            a lane of its own, "yours", and timesteps evenly spaced in log-SNR.
    """

    doing = "The race is on, all from the same noise …"

    def __init__(
        self, digit: int = 7, guidance_scale: float = 2.0, seed: int = 0, *,
        sampler_fn: SamplerFn | None = None, weights: str | Path = "mnist-denoiser",
        evaluator: str | Path | None = EVALUATOR,
    ) -> None:  # fmt: skip
        self.weights, self.evaluator, self._kept = weights, evaluator, {}
        names = {sampler: name for name, sampler in SAMPLERS}
        self.ways = {names[sampler]: {"sampler": sampler} for sampler in STEPS}
        steps = dict(zip(self.ways, STEPS.values(), strict=True))
        if sampler_fn:
            self.sampler_fns, steps = {YOURS: sampler_fn}, steps | {YOURS: YOUR_STEPS}
            self.ways[YOURS] = {"spacing": "logsnr"}
        longest = controls.card_defaults(weights)[1]
        lanes = {
            f"steps of {name}": controls.steps_slider(count, longest, f"Steps of {name}")
            for name, count in steps.items()
        }
        super().__init__({
            "digit": controls.digit_slider(digit),
            "guidance_scale": controls.scale_slider(guidance_scale),
            "seed": controls.seed_box(seed),
        } | lanes)  # fmt: skip

    def request(
        self, name: str, digit: int, guidance_scale: float, seed: int, **steps: int
    ) -> GenerationRequest:
        return GenerationRequest(
            (digit,), self.weights, guidance_scale=guidance_scale, seed=seed, steps=steps[f"steps of {name}"],
            **self.ways[name],
        )  # fmt: skip

    def film_of(
        self, drawings: dict[str, Drawing], digit: int, guidance_scale: float, seed: int, **_
    ) -> Film:
        spent = {name: drawing.evaluations[-1] for name, drawing in drawings.items()}
        texts, marks, clock = [], [], range(max(spent.values()) + 1)
        for name, drawing in drawings.items():
            place = PLACES[sum(other < spent[name] for other in spent.values())]
            seen = f", read as {drawing.readings[0]}" if drawing.readings else ""
            marks.append(bool(guidance_scale and seen) and not drawing.right(digit))
            texts.append(f"{place}: {evaluations(spent[name])}, {seconds(drawing.milliseconds)}{seen}")
        frames = [torch.cat([image_after(k, drawing) for drawing in drawings.values()]) for k in clock]
        row = Row({GUESSES: stacked(frames)}, "", texts, list(drawings), marks, side=196, lines=4)
        moments = ["before the race", *(f"after {evaluations(k)}" for k in clock[1:])]
        title = f"Target digit {digit}, guidance scale {guidance_scale:g}, all from the same noise"
        return Film([row], summary(drawings), title, moments, stem=f"race-{digit}-seed{seed}")


def evaluations(count: int) -> str:
    return f"{count} evaluation{'s'[: count != 1]}"


def image_after(count: int, drawing: Drawing) -> Tensor:
    """[1, C, H, W], the newest estimate after so many evaluations; x_T before, the digit at the end."""
    made = sum(after <= count for after in drawing.evaluations)
    return [drawing.states[0], *drawing.estimates[:-1], drawing.images][made]


def summary(drawings: dict[str, Drawing]) -> str:
    """Who was first, and how far apart the pictures are: DDIM follows its curve in the smallest steps."""
    fewest = min(drawing.evaluations[-1] for drawing in drawings.values())
    first = [name for name, drawing in drawings.items() if drawing.evaluations[-1] == fewest]
    far = [
        f"{name} {(drawing.images - drawings['DDIM'].images).abs().mean() / 2:.3f}"
        for name, drawing in drawings.items()
        if name != "DDIM"
    ]
    return (
        f"First, after {evaluations(fewest)}: {' and '.join(first)}. "
        f"Mean distance per pixel (0 to 1) from the picture of DDIM: {', '.join(far)}. "
        "DDPM adds new noise in every step, so it draws another picture from the same start."
    )
