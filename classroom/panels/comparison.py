"""Rows of digits from the same noise, one for each way of guidance or each network."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping
from pathlib import Path

import ipywidgets as w

from classroom.panels import controls
from classroom.panels.drawing import EVALUATOR, Drawing, drawn, part_of
from classroom.panels.film import Film, Row, moments_of, seconds
from classroom.panels.panel import Panel
from lessons_lib.pipeline import GenerationRequest, Model
from lessons_lib.weights import WeightsError

SAMPLERS = [("DDIM", "ddim"), ("DDPM", "ddpm"), ("DPM-Solver++(2M)", "dpmpp_2m")]
# Every row is asked for the same digit from the same noise: a row cannot choose these.
SHARED = {"labels", "seed", "sample_indices"}
FIELDS = [field.name for field in dataclasses.fields(GenerationRequest) if field.name not in SHARED]


class Comparison(Panel):
    """A row of digits for each way of guidance or each network, all rows from the same noise.

    Args:
        ways: name -> fields of a GenerationRequest, such as {"guidance": "classifier"}, which win over the
            controls; or weights by name or path; or (network, schedule).
        samples: digits in a row.
        spacing: of the timesteps, for every sampler; None is each sampler's own.
        interval: whether there is a control for the timesteps at which the scale holds.
    """

    doing = "Drawing a {digit} in every way …"

    def __init__(
        self, ways: Mapping[str, Mapping[str, object] | str | Path | Model], digit: int = 7,
        guidance_scale: float = 4.0, seed: int = 0, *, samples: int = 5, steps: int = 10,
        spacing: str | None = None, interval: bool = False, folded: bool = False,
        evaluator: str | Path | None = EVALUATOR,
    ) -> None:  # fmt: skip
        self.models = {name: way for name, way in ways.items() if isinstance(way, tuple)}
        self.ways = {name: _fields(name, way) for name, way in ways.items()}
        if not ways:
            raise ValueError("At least one way is needed to compare.")
        self.samples, self.spacing, self.evaluator = samples, spacing, evaluator
        self._kept: dict[str, tuple[GenerationRequest, Drawing]] = {}  # used by the worker thread only
        weights = [way.get("weights", GenerationRequest.weights) for way in self.ways.values()]
        last = min(controls.card_defaults(source)[1] for source in (*weights, *self.models.values())) - 1
        shown = {
            "digit": controls.digit_slider(digit),
            "guidance_scale": controls.scale_slider(guidance_scale, 16, 0.5),
        }
        if interval:
            shown["interval"] = controls.control(
                w.IntRangeSlider, "Guidance at t", (0, last), min=0, max=last
            )
        run = {
            "sampler": controls.dropdown("Sampler", SAMPLERS, "ddim"),
            "steps": controls.steps_slider(steps, last + 1),
            "seed": controls.seed_box(seed),
        }
        super().__init__(shown | run, more=list(run) if folded else ())

    def request(
        self, name: str, digit: int, interval: tuple[int, int] | None = None, **settings
    ) -> GenerationRequest:
        """What a way is asked for with these settings; its own fields win."""
        if interval and interval == (self.interval.min, self.interval.max):
            interval = None
        own, fields = self.ways[name], settings | {"interval": interval, "spacing": self.spacing}
        if own.get("guidance") == "none":  # hears neither, so that moving them need not draw it again
            fields |= {"guidance_scale": None, "interval": None}
        return GenerationRequest((digit,) * self.samples, **fields | own)

    def draw(self, **settings) -> Generator[float, None, Film]:
        requests, drawings = {}, {}
        for name in self.ways:  # all are checked before the first is drawn: nobody waits for two rows to hear
            try:  # that the third fails
                requests[name] = self.request(name, **settings)
                requests[name].plan(self.models.get(name))
            except (ValueError, WeightsError) as error:
                raise type(error)(f"{name}: {error}") from error
        for name, request in requests.items():
            if self._kept.get(name, (None,))[0] != request:
                steps = drawn(request, self.models.get(name), evaluator=self.evaluator)
                self._kept[name] = request, (yield from part_of(steps, len(drawings), len(requests)))
            drawings[name] = self._kept[name][1]
        return self.film_of(drawings, settings["digit"], settings["guidance_scale"], settings["seed"])

    def film_of(self, drawings: dict[str, Drawing], digit: int, scale: float, seed: int) -> Film:
        """Rows of as many moments as the longest has; a shorter one waits at its end."""
        longest = max(drawings.values(), key=lambda drawing: len(drawing.timesteps))
        count, rows, told = len(longest.timesteps) + 1, [], []
        for name, drawing in drawings.items():
            own = len(drawing.timesteps) + 1
            places = [min(k * own // count, own - 1) for k in range(count - 1)] + [own - 1]
            marks = [reading.label != digit for reading in drawing.readings]
            tally = f"{drawing.right(digit)} of {self.samples} read as {digit}" if marks else ""
            heading = ": ".join(filter(None, (name, tally)))
            views = {view: moments[places] for view, moments in drawing.views().items()}
            rows.append(Row(views, heading, [str(one) for one in drawing.readings], marks=marks, side=112))
            told.append(f"{name} in {seconds(drawing.milliseconds)}")
        missing = "" if all(d.readings for d in drawings.values()) else "There is no evaluator to read them. "
        same = len({tuple(drawing.timesteps) for drawing in drawings.values()}) == 1
        moments = (
            moments_of(longest.timesteps)
            if same
            else [f"step {k} of {count - 1}" for k in range(1, count)] + ["the finished pictures"]
        )
        title = f"Target digit {digit}, guidance scale {scale:g}, the same noise in each row"
        line = f"{missing}The same noise in each row. Drawn: {', '.join(told)}."
        return Film(rows, line, title, moments, drawings, f"comparison-{digit}-w{scale}-seed{seed}")


def _fields(name: str, way: Mapping[str, object] | str | Path | Model) -> dict[str, object]:
    if isinstance(way, tuple):
        return {}
    if not isinstance(way, Mapping):
        return {"weights": way}
    for field in way:
        if field in SHARED:
            raise ValueError(f"The way {name!r} sets {field}, but all rows share digit and noise.")
        if field not in FIELDS:
            raise ValueError(f"The way {name!r} sets {field!r}: choose from {', '.join(FIELDS)}.")
    return dict(way)
