"""The race of samplers: equal noise, shown evaluation by evaluation, and who is done first."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from classroom.panels import controls
from classroom.panels.drawing import EVALUATOR, Drawing, part_of, recorded
from classroom.panels.film import GUESSES, Film, Row, seconds, stacked
from classroom.panels.learners_code import SamplerFn, checked_steps
from classroom.panels.panel import Panel, sentence
from lessons_lib.pipeline import GenerationRequest

LANES = {
    "DDPM": {"sampler": "ddpm", "steps": 50},
    "DDIM": {"sampler": "ddim", "steps": 25},
    "DPM-Solver++(2M)": {"sampler": "dpmpp_2m", "steps": 10},
}
YOURS, YOUR_STEPS = "yours", 10  # the lane of the learner's own sampler
TAKEN = {"labels", "guidance_scale", "seed", "sample_indices"}  # by the controls, equal for all lanes
FIELDS = sorted({field.name for field in dataclasses.fields(GenerationRequest)} - TAKEN)
PLACES = {1: "1st", 2: "2nd", 3: "3rd"}


@dataclass(eq=False)
class Run:
    """A lane's drawing of one digit; counts: the evaluations made after each of its steps.

    adds_noise: on the way, so that x_T alone does not decide its image.
    """

    drawing: Drawing
    counts: list[int]
    adds_noise: bool

    @property
    def evaluations(self) -> int:
        return self.counts[-1]

    def image_after(self, evaluations: int) -> Tensor:
        """[1, C, H, W]: the newest estimate after so many evaluations; x_T before, the digit at the end."""
        made = sum(count <= evaluations for count in self.counts)
        if made == len(self.counts):
            return self.drawing.images
        return self.drawing.estimates[made - 1].clamp(-1, 1) if made else self.drawing.states[0].clamp(-1, 1)


class SamplerRace(Panel):
    """Samplers that start from the same noise: who draws the digit with the fewest evaluations?

    Args:
        lanes: name -> fields of GenerationRequest, as a rule sampler and steps; None for the library's three.
        sampler_fn: the learner's own sampler, (eps_fn, schedule, x_T, timesteps) -> Iterator[Step]; it gets
            a lane of its own, "yours", and timesteps evenly spaced in log-SNR.
    """

    doing = "The race is on, all from the same noise …"

    def __init__(
        self, lanes: Mapping[str, Mapping[str, object]] | None = None, digit: int = 7,
        guidance_scale: float = 2.0, seed: int = 0, *, sampler_fn: SamplerFn | None = None,
        evaluator: str | Path | None = EVALUATOR, weights: str | Path = "mnist-denoiser",
    ) -> None:  # fmt: skip
        self.sampler_fn, self.evaluator = sampler_fn, evaluator
        self.lanes = _checked_lanes(LANES if lanes is None else lanes, sampler_fn is not None, weights)
        shown = {
            "digit": controls.digit_slider(digit),
            "guidance_scale": controls.scale_slider(guidance_scale),
            "seed": controls.seed_box(seed),
        }
        for name, lane in self.lanes.items():
            defaults, longest = controls.card_defaults(lane["weights"])
            steps = lane.get("steps") or defaults["steps"]
            shown[f"steps of {name}"] = controls.steps_slider(steps, longest, f"Steps of {name}")
        super().__init__(shown)

    def draw(self, digit: int, guidance_scale: float, seed: int, **steps) -> Generator[float, None, Film]:
        runs, errors = {}, {}
        for k, (name, lane) in enumerate(self.lanes.items()):
            lane = lane | {"guidance_scale": guidance_scale, "seed": seed, "steps": steps[f"steps of {name}"]}
            try:
                runs[name] = yield from part_of(self._run(name, digit, lane), k, len(self.lanes))
            except Exception as error:  # a learner's error must not end the race of the others
                errors[name] = sentence(error)
        if not runs:
            raise ValueError(" ".join(dict.fromkeys(errors.values())))
        longest, texts, marks = max(run.evaluations for run in runs.values()), [], []
        for run in runs.values():
            place = 1 + sum(other.evaluations < run.evaluations for other in runs.values())
            seen = f", read as {run.drawing.readings[0]}" if run.drawing.readings else ""
            marks.append(bool(guidance_scale and seen) and run.drawing.readings[0].label != digit)
            spent = f"{times(run.evaluations, 'evaluation')}, {seconds(run.drawing.milliseconds)}"
            texts.append(f"{PLACES.get(place, f'{place}th')}: {spent}{seen}")
        frames = [torch.cat([run.image_after(k) for run in runs.values()]) for k in range(longest + 1)]
        row = Row({GUESSES: stacked(frames)}, "", texts, list(runs), marks, side=196, lines=4)
        moments = ["before the race", *(f"after {times(k, 'evaluation')}" for k in range(1, longest + 1))]
        failed = "".join(f" {name} did not arrive. {error}" for name, error in errors.items())
        title = f"Target digit {digit}, guidance scale {guidance_scale:g}, all from the same noise"
        return Film([row], summary(runs) + failed, title, moments, runs, f"race-{digit}-seed{seed}")

    def _run(self, name: str, digit: int, lane: Mapping[str, object]) -> Generator[float, None, Run]:
        own = name == YOURS and self.sampler_fn is not None
        plan = GenerationRequest((digit,), **lane | ({"spacing": "logsnr"} if own else {})).plan()
        sampler, counts, calls = plan.request.sampler, [], []

        def counted(x_t: Tensor, t: Tensor) -> Tensor:
            calls.append(None)
            return plan.eps_fn(x_t, t)

        def steps() -> Generator:
            if not own:
                counts.extend(range(1, len(plan.timesteps) + 1))
                yield from plan.steps()
                return
            for step in checked_steps(self.sampler_fn, counted, plan.schedule, plan.x_T, plan.timesteps):
                counts.append(len(calls))
                yield step

        drawing = yield from recorded(plan.x_T, steps(), len(plan.timesteps), self.evaluator)
        noisy = not own and (sampler == "ddpm" or (sampler == "ddim" and plan.request.eta > 0))
        return Run(drawing, counts, noisy)


def _checked_lanes(
    lanes: Mapping[str, Mapping[str, object]], with_yours: bool, weights: str | Path
) -> dict[str, dict]:
    """The lanes with weights and steps filled in, and the learner's."""
    lanes = {str(name): {"weights": weights} | dict(lane) for name, lane in lanes.items()}
    if with_yours and YOURS in lanes:
        raise ValueError(f"The name {YOURS!r} is the lane of sampler_fn: choose another one.")
    lanes |= {YOURS: {"weights": weights, "steps": YOUR_STEPS}} if with_yours else {}
    if not lanes:
        raise ValueError("At least one lane is needed for a race.")
    for name, lane in lanes.items():
        for key in lane:
            if key not in FIELDS:
                raise ValueError(f"The lane {name!r} has {key!r}: choose from {', '.join(FIELDS)}.")
        GenerationRequest((0,), **lane)  # refuses what no weights could draw
    return lanes


def times(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def summary(runs: Mapping[str, Run]) -> str:
    """Who was first, and how far apart the pictures are.

    They are held against the lane with the most evaluations: of those that add no noise, if there are any,
    since noise on the way leads to another picture; and rather one of the library's than the learner's.
    """
    fewest = min(run.evaluations for run in runs.values())
    first = [name for name, run in runs.items() if run.evaluations == fewest]
    verb = "was first" if len(first) == 1 else "were first together"
    line = f"{' and '.join(first)} {verb}, after {times(fewest, 'evaluation')}."
    if len(runs) == 1:
        return line
    best = max(runs, key=lambda name: (not runs[name].adds_noise, name != YOURS, runs[name].evaluations))
    image = runs[best].drawing.images
    far = {name: (run.drawing.images - image).abs().mean() / 2 for name, run in runs.items() if name != best}
    shown = ", ".join(f"{name} {distance:.3f}" for name, distance in far.items())
    line += f" Mean distance per pixel (0 to 1) from the picture of {best}: {shown}."
    noisy = [name for name, run in runs.items() if run.adds_noise]
    if not noisy:
        return line
    ends = ("adds", "it draws another picture") if len(noisy) == 1 else ("add", "they draw other pictures")
    return (
        f"{line} {' and '.join(noisy)} {ends[0]} new noise in every step, so {ends[1]} from the same start."
    )
