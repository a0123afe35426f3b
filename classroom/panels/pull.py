"""The pull of a classifier: where guidance makes the estimate brighter or darker, step by step."""

from __future__ import annotations

import functools
import html
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import NamedTuple

import ipywidgets as w
import torch
from torch import Tensor

from classroom.panels.controls import ROOM, common_controls, control, new_seed_button
from classroom.panels.digits import EVALUATOR, Drawing, drawing_steps
from classroom.panels.panel import Panel, Picture, caption, still_picture
from classroom.panels.same_noise_rows import labels_read, share_of
from lessons_lib.guidance import LogProbFn, class_log_prob, unconditional, with_classifier
from lessons_lib.pipeline import GenerationRequest, load_model
from lessons_lib.schedules import NoiseSchedule, predict_x0

CLASSIFIERS = {"noise-aware": "mnist-noisy-classifier", "clean": "mnist-clean-classifier"}
RED, BLUE = (1.0, 0.2, 0.15), (0.25, 0.55, 1.0)  # brighter, darker; both stand out from black and from white
START = 0.2  # the scrubber's first place: the digit is not decided yet, and both classifiers pull hard
LEGEND = (
    "Red: the pull makes the estimate brighter there. Blue: darker. Full colour is the largest pull of this "
    "step in this row."
)


# -- the pull, without a panel ---------------------------------------------------------------------


class Pull(NamedTuple):
    """What a classifier does to the estimate in one step.

    t: the timestep.
    x_t: [1, C, H, W], the state that network and classifier were asked about.
    x_0: [1, C, H, W], the unguided estimate made from it.
    pull: [1, C, H, W], how far guidance moves that estimate.
    probability: p(y given x_t), by the classifier.
    """

    t: int
    x_t: Tensor
    x_0: Tensor
    pull: Tensor
    probability: float


class Pulled(NamedTuple):
    """A guided digit and the pull in each of its steps."""

    drawing: Drawing
    pulls: list[Pull]


def pull_on_estimate(
    log_prob_fn: LogProbFn, schedule: NoiseSchedule, guidance_scale: float, x_t: Tensor, t: Tensor
) -> Tensor:
    """How far classifier guidance moves the estimate of x_0: s (1 - abar_t) / sqrt(abar_t) grad log p.

    The estimate is linear in the noise, so it is the estimate that guidance alone would make: of an x_t and a
    network's answer that are both 0.

    Args:
        log_prob_fn: (x_t, t) -> [B].
        x_t: [B, C, H, W];  t: [B] int64.

    Returns:
        [B, C, H, W].
    """
    guided = with_classifier(lambda x, t: torch.zeros_like(x), log_prob_fn, schedule, guidance_scale)
    return predict_x0(schedule, torch.zeros_like(x_t), t, guided(x_t, t))


def pulled_steps(
    request: GenerationRequest, evaluator: str | Path | None = EVALUATOR
) -> Generator[float, None, Pulled]:
    """Draw one guided digit, then ask what its classifier did; yields the part done, 0 … 1.

    Args:
        request: with guidance "classifier", its scale and its classifier.

    Raises:
        ValueError, WeightsError: as `generate`.
    """
    drawing = yield from share_of(drawing_steps(request, evaluator=evaluator), 0, 2)
    network, schedule, _ = load_model(request.weights, request.device)
    classifier = load_model(request.classifier, request.device)[0]
    eps_fn, log_prob_fn = unconditional(network), class_log_prob(classifier, torch.tensor(request.labels))
    pulls = []
    for x_t, number in zip(drawing.states, drawing.timesteps, strict=False):  # the last state is the image
        t = torch.full((len(x_t),), number, dtype=torch.int64)
        with torch.no_grad():
            x_0 = predict_x0(schedule, x_t, t, eps_fn(x_t, t)).clamp(-1, 1)
            probability = float(log_prob_fn(x_t, t).exp())
        pull = pull_on_estimate(log_prob_fn, schedule, request.guidance_scale, x_t, t)
        pulls.append(Pull(number, x_t, x_0, pull, probability))
        yield 0.5 + 0.5 * len(pulls) / len(drawing.timesteps)
    return Pulled(drawing, pulls)


def overlay(x_0: Tensor, pull: Tensor) -> Tensor:
    """The estimate in grey with the pull over it: red where it makes brighter, blue where darker.

    Args:
        x_0: [B, C, H, W] in [-1, 1].
        pull: [B, C, H, W]; each sample's largest pull gets the full colour.

    Returns:
        [B, 3, H, W] in [-1, 1].
    """
    grey = x_0.mean(dim=1, keepdim=True).clamp(-1, 1)
    pull = pull.mean(dim=1, keepdim=True)
    strength = pull / pull.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)  # [B, 1, H, W]
    red, blue = (torch.tensor(colour, dtype=x_0.dtype).view(1, 3, 1, 1) * 2 - 1 for colour in (RED, BLUE))
    colour = torch.where(strength > 0, red, blue)
    return grey + strength.abs() * (colour - grey)


# -- the panel -------------------------------------------------------------------------------------


class GradientOverlay(Panel):
    """A row for each classifier: the state, the estimate, and the pull on it, for any step of a drawing.

    Args:
        classifiers: name -> weights by name or path; None for the noise-aware and the clean one.
        digit, guidance_scale, seed: where the controls start.
        steps, spacing: of the DDIM sampler that draws.
        evaluator: name or path of the weights that read the finished images.
        weights: name or path of the denoiser's weights.

    Attributes:
        digit, guidance_scale, seed, new_seed, scrubber: the controls.
        pictures: name -> (state, estimate, overlay).
        notes: name -> the line under them.
        shown: name -> Pulled; empty until the first is done.
    """

    def __init__(
        self,
        classifiers: Mapping[str, str] | None = None,
        digit: int = 3,
        guidance_scale: float = 4.0,
        seed: int = 0,
        *,
        steps: int = 10,
        spacing: str = "logsnr",
        evaluator: str | Path | None = EVALUATOR,
        weights: str | Path = "mnist-denoiser",
    ) -> None:
        self.classifiers = dict(CLASSIFIERS if classifiers is None else classifiers)
        if not self.classifiers:
            raise ValueError("At least one classifier is needed to see its pull.")
        super().__init__(layout=w.Layout(width="100%", max_width="680px"))
        self.weights, self.evaluator = weights, evaluator
        self.sampling = {"steps": steps, "spacing": spacing}
        self.shown: dict[str, Pulled] = {}
        self._drawn: dict = {}
        self.digit, self.guidance_scale, self.seed = common_controls(
            digit, guidance_scale, seed, max(8, guidance_scale)
        )
        self.new_seed = new_seed_button(self.seed)
        # No network runs here, so the pictures may follow the slider while it moves.
        self.scrubber = control(
            w.IntSlider, value=1, min=1, max=max(2, steps), description="Step", continuous_update=True
        )
        self.pictures = {name: (Picture(140), Picture(140), Picture(140)) for name in self.classifiers}
        self.notes = {name: caption("&nbsp;") for name in self.classifiers}
        rows = [self._row(name) for name in self.classifiers]
        seeds = w.HBox([self.seed, self.new_seed])
        controls = (self.digit, self.guidance_scale, seeds, self.scrubber)
        self.children = (*controls, *rows, caption(LEGEND), self.progress, self.status)
        for each in (self.digit, self.guidance_scale, self.seed):
            each.observe(self._redraw, "value")
        self.scrubber.observe(self._show_step, "value")
        self._redraw()

    def _row(self, name: str) -> w.Widget:
        words = ("state x<sub>t</sub>", "estimate x̂<sub>0</sub> without it", "the pull on the estimate")
        columns = [
            w.VBox([picture, caption(text)]) for picture, text in zip(self.pictures[name], words, strict=True)
        ]
        title = w.HTML(f"<b>{html.escape(name)}</b>")
        return w.VBox([title, w.HBox(columns, layout={"grid_gap": "16px"}), self.notes[name]], layout=ROOM)

    # -- drawing -----------------------------------------------------------------------------------

    def settings(self) -> dict:
        """What the controls ask for now."""
        return {
            "digit": self.digit.value,
            "guidance_scale": self.guidance_scale.value,
            "seed": self.seed.value,
        }

    def _redraw(self, _change=None) -> None:
        self.ask(functools.partial(self._draw, self.settings()), self._show)

    def _draw(self, settings: dict) -> Generator[float, None, tuple[dict, dict[str, Pulled]]]:
        named = dict(settings) | self.sampling
        labels, shown = (named.pop("digit"),), {}
        for name, classifier in self.classifiers.items():
            request = GenerationRequest(
                labels, self.weights, guidance="classifier", classifier=classifier, sampler="ddim", **named
            )
            shown[name] = yield from share_of(
                pulled_steps(request, self.evaluator), len(shown), len(self.classifiers)
            )
        return settings, shown

    def _show(self, result: tuple[dict, dict[str, Pulled]]) -> None:
        first = not self.shown
        self._drawn, self.shown = result
        drawings = {name: pulled.drawing for name, pulled in self.shown.items()}
        count = len(next(iter(drawings.values())).timesteps)
        self.scrubber.max = count
        if first:
            self.scrubber.value = 1 + round(START * (count - 1))
        self._show_step()
        read = "; ".join(f"{name}: {labels_read(drawing)}" for name, drawing in drawings.items())
        took = sum(drawing.milliseconds for drawing in drawings.values())
        self.say(
            f"The evaluator reads the finished digits as {read}. Asked for was {self._drawn['digit']}; "
            f"the same noise in each row. Drawn in {took:.0f} ms."
        )

    def _show_step(self, _change=None) -> None:
        for name, pulled in self.shown.items():
            found = pulled.pulls[min(self.scrubber.value, len(pulled.pulls)) - 1]
            where = f"by the {name} classifier at t = {found.t}"
            state, estimate, over = self.pictures[name]
            state.show(found.x_t, f"The state of the digit guided {where}")
            estimate.show(found.x_0, f"The unguided estimate of the digit guided {where}")
            over.show(overlay(found.x_0, found.pull), f"The pull on the estimate {where}")
            self.notes[name].value = caption(html.escape(pull_line(found, name, self._drawn["digit"]))).value

    def still(self) -> tuple[bytes, str] | None:
        if not self.shown:
            return None
        digit, scale = self._drawn["digit"], self._drawn["guidance_scale"]
        title = (
            f"The pull towards {digit} at guidance scale {scale:g}.\n"
            "Red: brighter, blue: darker; each picture by its own largest pull"
        )
        rows, times = {}, []
        for name, (_, pulls) in self.shown.items():
            chosen = [pulls[k] for k in _early(len(pulls))]
            rows[name] = torch.cat([overlay(one.x_0, one.pull) for one in chosen])
            times = [f"t = {one.t}" for one in chosen]
        seen = f"Each classifier's pull over the estimate at {', '.join(times)}; rows: {', '.join(rows)}."
        times[0] = f"\n{times[0]}"  # room for the second line of the title
        return still_picture(rows, title, times, size=1.4), f"{title}. {seen}".replace("\n", " ")


def _early(count: int) -> list[int]:
    """Four steps of the first half, where the pull decides; later it is too weak to be seen."""
    last = min(count - 1, max(3, (count - 1) // 2))
    return sorted({round(i * last / 3) for i in range(4)})


def pull_line(found: Pull, name: str, digit: int) -> str:
    """The numbers of a step as a sentence."""
    largest = float(found.pull.abs().amax()) / 2  # in [0, 1] pixels, as they are shown
    if largest < 1 / 255:
        size = "The pull is less than one shade of grey: the colours only show where it points."
    else:
        shown = f"{largest:.2g}" if largest < 10 else f"{largest:.0f}"
        size = f"Largest pull: {shown}, where black to white is 1."
    return f"t = {found.t}: the {name} classifier gives the {digit} {found.probability:.1%} here. {size}"
