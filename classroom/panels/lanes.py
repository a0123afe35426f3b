"""Samplers that run against each other from equal noise, without a panel: turns, places, words.

A race is a list of Runners that `rounds` moves on, one network evaluation each in turn.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from classroom.panels.digits import Reading, check_finite
from classroom.panels.learners_code import SamplerFn, checked_steps
from classroom.panels.panel import sentence
from lessons_lib.pipeline import GenerationRequest
from lessons_lib.samplers import Step

YOURS = "yours"  # the lane of the learner's own sampler
PLACES = {1: "1st", 2: "2nd", 3: "3rd"}


@dataclass(eq=False)
class Runner:
    """A sampler on its way.

    turns: its Steps, each with the network evaluations that were made so far.
    total: the steps that it was asked for.
    image: [1, C, H, W], x_T at first, then the newest estimate of x_0, at the end the drawn image.
    adds_noise: whether it adds noise on the way, so that x_T alone does not decide its image.
    milliseconds: of its own steps only.
    place: 1 for the first; None until it has ended.
    """

    name: str
    turns: Iterator[tuple[int, Step]]
    total: int
    image: Tensor
    adds_noise: bool = False
    made: int = 0
    evaluations: int = 0
    milliseconds: float = 0.0
    place: int | None = None
    error: str = ""
    state: Tensor | None = None

    @property
    def running(self) -> bool:
        """Whether it has neither ended nor failed."""
        return self.place is None and not self.error

    def advance(self) -> bool:
        """Make one step; False if there was none left, or it failed."""
        started = time.perf_counter()
        try:
            self.evaluations, step = next(self.turns)
            check_finite(step)
        except StopIteration:
            self.image = self.image if self.state is None else self.state.clamp(-1, 1)
            return False
        except BaseException as error:  # a learner's exit() must not end the race of the others
            self.error = sentence(error)
            return False
        finally:
            self.milliseconds += 1000 * (time.perf_counter() - started)
        self.made += 1
        self.image, self.state = step.x_0, step.x_t
        return True


def rounds(runners: list[Runner]) -> Iterator[bool]:
    """Run them all, one network evaluation each in turn; yields after each turn, True when a round is over.

    Who spends two evaluations in a step sits out the next round. So they end in the order of their
    evaluations, and whoever needs equally many shares a place.
    """
    number = 0
    while any(runner.running for runner in runners):
        number += 1
        for runner in runners:
            if not runner.running or runner.evaluations >= number:
                continue
            going = runner.advance()
            while going and runner.evaluations < number:  # a step without an evaluation takes no turn
                going = runner.advance()
            if not going and not runner.error:
                fewer = (other.place and other.evaluations < runner.evaluations for other in runners)
                runner.place = 1 + sum(map(bool, fewer))
            yield False
        yield True


def runner_for(name: str, request: GenerationRequest, sampler_fn: SamplerFn | None = None) -> Runner:
    """A runner at the start, with its weights loaded; sampler_fn in place of the request's sampler."""
    if sampler_fn is None:
        plan = request.plan()
        drawn = plan.request
        adds_noise = drawn.sampler == "ddpm" or (drawn.sampler == "ddim" and drawn.eta > 0)
        return Runner(name, enumerate(plan.steps(), start=1), drawn.steps, plan.x_T, adds_noise)
    plan, calls = dataclasses.replace(request, spacing="logsnr").plan(), []

    def counted(x_t: Tensor, t: Tensor) -> Tensor:
        calls.append(None)
        return plan.eps_fn(x_t, t)

    def turns() -> Iterator[tuple[int, Step]]:
        for step in checked_steps(sampler_fn, counted, plan.schedule, plan.x_T, plan.timesteps):
            yield len(calls), step

    return Runner(name, turns(), plan.request.steps, plan.x_T)


def apart(runners: list[Runner]) -> tuple[Runner, dict[str, float]] | None:
    """(the lane that the others are measured against, name -> mean absolute difference in [0, 1] pixels).

    Measured against the lane with the most evaluations: of those that add no noise, if there are any, since
    noise on the way leads to another image; and rather one of the library's than the learner's.
    """
    ended = [runner for runner in runners if runner.place]
    if len(ended) < 2:
        return None
    best = max(ended, key=lambda one: (not one.adds_noise, one.name != YOURS, one.evaluations))
    others = (runner for runner in ended if runner is not best)
    return best, {one.name: float((one.image - best.image).abs().mean()) / 2 for one in others}


# -- in words --------------------------------------------------------------------------------------


def times(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _place(number: int) -> str:
    return PLACES.get(number, f"{number}th")


def lane_words(runner: Runner, reading: Reading | None, settings: dict) -> str:
    """How a lane stands: its evaluations, its place at the end, and what the evaluator reads."""
    if runner.error:
        return runner.error
    spent = times(runner.evaluations, "evaluation")
    if reading is None:
        seen = ""
    else:
        hit = reading.label == settings["digit"] or settings["guidance_scale"] == 0
        miss = "" if hit else f", not the {settings['digit']} that was asked for"
        seen = f", read as {reading.label} ({reading.probability:.0%}){miss}"
    if runner.place:
        return f"{_place(runner.place)}: {spent}, {runner.milliseconds:.0f} ms{seen}"
    if runner.name == YOURS:  # only its steps are known beforehand
        return f"{spent}, step {runner.made} of {runner.total}{seen}"
    return f"{runner.evaluations} of {times(runner.total, 'evaluation')}{seen}"


def summary(runners: list[Runner]) -> str:
    """Who was first, who did not arrive, and how far apart the images are."""
    first = [runner for runner in runners if runner.place == 1]
    names = " and ".join(runner.name for runner in first)
    verb = "was first" if len(first) == 1 else "were first together"
    parts = [f"{names} {verb}, after {times(first[0].evaluations, 'evaluation')}."]
    parts += [f"{runner.name} did not arrive." for runner in runners if runner.error]
    measured = apart(runners)
    if measured:
        best, distances = measured
        shown = ", ".join(f"{name} {distance:.3f}" for name, distance in distances.items())
        parts.append(f"Mean distance per pixel (0 to 1) from the picture of {best.name}: {shown}.")
    noisy = [runner.name for runner in runners if runner.adds_noise and runner.place]
    if noisy and measured:
        verb = "adds" if len(noisy) == 1 else "add"
        end = "so it draws another picture" if len(noisy) == 1 else "so they draw other pictures"
        parts.append(f"{' and '.join(noisy)} {verb} new noise in every step, {end} from the same start.")
    return " ".join(parts)
