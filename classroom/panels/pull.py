"""The pull of a classifier: where guidance makes the estimate brighter or darker, step by step."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from classroom.panels import controls
from classroom.panels.drawing import EVALUATOR, Drawing, drawn, part_of
from classroom.panels.film import Film, Row, moments_of, stacked
from classroom.panels.panel import Panel
from lessons_lib.guidance import LogProbFn, class_log_prob, unconditional, with_classifier
from lessons_lib.pipeline import GenerationRequest, load_model
from lessons_lib.schedules import NoiseSchedule, predict_x0

CLASSIFIERS = {"noise-aware": "mnist-noisy-classifier", "clean": "mnist-clean-classifier"}
BRIGHTER, DARKER = (
    (1.0, 0.45, 0.2),
    (0.25, 0.55, 1.0),
)  # orange, blue; both stand out from black and from white


class Pull(NamedTuple):
    """What a classifier does to the estimate in one step.

    x_t: [1, C, H, W], the state that network and classifier were asked about.
    x_0: [1, C, H, W], the unguided estimate made from it.
    pull: [1, C, H, W], how far guidance moves that estimate.
    probability: p(y given x_t), by the classifier.
    """

    x_t: Tensor
    x_0: Tensor
    pull: Tensor
    probability: float

    def line(self, name: str) -> str:
        """'clean: p = 3.1%, largest pull 0.41 of 1.' in [0, 1] pixels, as they are shown."""
        largest = float(self.pull.abs().amax()) / 2
        size = f"largest pull {largest:.2g} of 1" if largest >= 1 / 255 else "a pull too small to be seen"
        return f"{name}: p = {self.probability:.1%}, {size}."


def pull_on_estimate(
    log_prob_fn: LogProbFn, schedule: NoiseSchedule, guidance_scale: float, x_t: Tensor, t: Tensor
) -> Tensor:
    """How far classifier guidance moves the estimate of x_0: s (1 - abar_t) / sqrt(abar_t) grad log p.

    The estimate is linear in the noise, so it is the estimate that guidance alone would make: of an x_t and a
    network's answer that are both 0. x_t [B, C, H, W], t [B] int64 -> [B, C, H, W].
    """
    guided = with_classifier(lambda x, t: torch.zeros_like(x), log_prob_fn, schedule, guidance_scale)
    return predict_x0(schedule, torch.zeros_like(x_t), t, guided(x_t, t))


def pulls_of(request: GenerationRequest, drawing: Drawing) -> Generator[float, None, list[Pull]]:
    """What the request's classifier did in each step of its drawing; yields the part done, 0 … 1."""
    network, schedule, _ = load_model(request.weights)
    eps_fn, pulls = unconditional(network), []
    log_prob_fn = class_log_prob(load_model(request.classifier)[0], torch.tensor(request.labels))
    for x_t, number in zip(drawing.states, drawing.timesteps, strict=False):  # the last state is the image
        t = torch.full((len(x_t),), number, dtype=torch.int64)
        with torch.no_grad():
            x_0 = predict_x0(schedule, x_t, t, eps_fn(x_t, t)).clamp(-1, 1)
            probability = float(log_prob_fn(x_t, t).exp())
        pull = pull_on_estimate(log_prob_fn, schedule, request.guidance_scale, x_t, t)
        pulls.append(Pull(x_t, x_0, pull, probability))
        yield len(pulls) / len(drawing.timesteps)
    return pulls


def overlay(x_0: Tensor, pull: Tensor) -> Tensor:
    """The estimate in grey with the pull over it: orange where it makes brighter, blue where darker.

    x_0 [B, C, H, W] in [-1, 1] and pull [B, C, H, W], whose largest value in each sample gets the full colour
    -> [B, 3, H, W] in [-1, 1].
    """
    grey = x_0.mean(dim=1, keepdim=True).clamp(-1, 1)
    pull = pull.mean(dim=1, keepdim=True)
    strength = pull / pull.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)  # [B, 1, H, W]
    colours = (torch.tensor(c, dtype=x_0.dtype).view(1, 3, 1, 1) * 2 - 1 for c in (BRIGHTER, DARKER))
    colour = torch.where(strength > 0, *colours)
    return grey + strength.abs() * (colour - grey)


class GradientOverlay(Panel):
    """A row for each classifier: the state, the estimate, and the pull on it, for any step of a drawing.

    Args:
        classifiers: name -> weights by name or path; None for the noise-aware and the clean one.
        steps: of DDIM, spaced evenly in log-SNR.
    """

    doing = "Drawing a {digit} …"

    def __init__(
        self, classifiers: Mapping[str, str] | None = None, digit: int = 3, guidance_scale: float = 4.0,
        seed: int = 0, *, steps: int = 10, evaluator: str | Path | None = EVALUATOR,
        weights: str | Path = "mnist-denoiser",
    ) -> None:  # fmt: skip
        self.classifiers = dict(CLASSIFIERS if classifiers is None else classifiers)
        if not self.classifiers:
            raise ValueError("At least one classifier is needed to see its pull.")
        self.weights, self.steps, self.evaluator = weights, steps, evaluator
        shown = {
            "digit": controls.digit_slider(digit),
            "guidance_scale": controls.scale_slider(guidance_scale),
            "seed": controls.seed_box(seed),
        }
        super().__init__(shown)
        self.strip.moment = round(0.2 * (steps - 1))  # the digit is not decided yet, and both pull hard

    def draw(self, digit: int, guidance_scale: float, seed: int) -> Generator[float, None, Film]:
        shown, read, of = {}, [], 2 * len(self.classifiers)
        for k, (name, classifier) in enumerate(self.classifiers.items()):
            request = GenerationRequest(
                (digit,), self.weights, "classifier", classifier=classifier, sampler="ddim", steps=self.steps,
                spacing="logsnr", guidance_scale=guidance_scale, seed=seed,
            )  # fmt: skip
            drawing = yield from part_of(drawn(request, evaluator=self.evaluator), 2 * k, of)
            shown[name] = yield from part_of(pulls_of(request, drawing), 2 * k + 1, of)
            read += [f"{name}: {drawing.readings[0].label}"] if drawing.readings else []
        line = "Orange: the pull makes the estimate brighter there; blue: darker. "
        line += "Full colour is the largest pull of this step in this row."
        line += f" The finished digits are read as {'; '.join(read)}." if read else ""
        notes = [
            " ".join(pull.line(name) for pull, name in zip(step, shown, strict=True))
            for step in zip(*shown.values(), strict=True)
        ]
        return Film(
            [self._row(name, pulls) for name, pulls in shown.items()], line,
            f"The pull of each classifier towards {digit}, scale {guidance_scale:g}",
            moments_of(drawing.timesteps)[:-1], shown, f"pull-{digit}", plays=False,
            notes=[f"p is the classifier's for the {digit}. {note}" for note in notes],
        )  # fmt: skip

    def _row(self, name: str, pulls: list[Pull]) -> Row:
        frames = [
            torch.cat([part.expand(-1, 3, -1, -1) for part in (p.x_t, p.x_0, overlay(p.x_0, p.pull))])
            for p in pulls
        ]
        alts = [
            f"{what}, guided by the {name} classifier" for what in ("The state", "The estimate", "The pull")
        ]
        heads = ["state x_t", "estimate x̂_0", "the pull on it"]
        return Row({"the pull": stacked(frames)}, name, heads=heads, alts=alts, side=168)
