"""Digits from the same noise, drawn in several ways side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping
from pathlib import Path

import ipywidgets as w

from classroom.panels import controls
from classroom.panels.drawing import EVALUATOR, UNREAD, Drawing, drawn, part_of
from classroom.panels.film import Film, Row, moments_of, seconds
from classroom.panels.learners_code import SamplerFn
from classroom.panels.panel import Panel, sentence
from lessons_lib.names import check_choice
from lessons_lib.pipeline import GenerationRequest, Model

SAMPLERS = [("DDIM", "ddim"), ("DDPM", "ddpm"), ("DPM-Solver++(2M)", "dpmpp_2m")]
# Every way is asked for the same digit from the same noise: it cannot choose these.
SHARED = {"labels", "seed", "sample_indices"}
FIELDS = [field.name for field in dataclasses.fields(GenerationRequest) if field.name not in SHARED]


class SideBySide(Panel):
    """A drawing of each of several ways; one that fails is told of, and the others go on.

    A panel of this kind has `ways`, name -> what is drawn, and makes a `request` of a name and the settings,
    and of all drawings a Film, `film_of`.
    """

    sampler_fns: Mapping[str, SamplerFn] = {}
    models: Mapping[str, Model] = {}

    def draw(self, **settings) -> Generator[float, None, Film]:
        drawings, errors = {}, {}
        for k, name in enumerate(self.ways):
            try:
                request = self.request(name, **settings)
                if self._kept.get(name, (None,))[0] != request:  # others may have moved, and this one not
                    steps = drawn(request, self.models.get(name), self.sampler_fns.get(name), self.evaluator)
                    self._kept[name] = request, (yield from part_of(steps, k, len(self.ways)))
                drawings[name] = self._kept[name][1]
            except Exception as error:
                errors[name] = sentence(error)
        if not drawings:
            raise ValueError(" ".join(dict.fromkeys(errors.values())))
        film, failed = self.film_of(drawings, **settings), ""
        for name, words in errors.items():
            failed += f" {name} failed. {words}"
        return dataclasses.replace(film, line=film.line + failed, result=drawings)


class Comparison(SideBySide):
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
        guidance_scale: float = 4.0, *, samples: int = 5, steps: int = 10,
        spacing: str | None = None, interval: bool = False, folded: bool = False,
        evaluator: str | Path | None = EVALUATOR,
    ) -> None:  # fmt: skip
        self.models = {name: way for name, way in ways.items() if isinstance(way, tuple)}
        self.ways = {name: _fields(name, way) for name, way in ways.items()}
        self.samples, self.spacing, self.evaluator, self._kept = samples, spacing, evaluator, {}
        weights = [way.get("weights", GenerationRequest.weights) for way in self.ways.values()]
        last = min(controls.card_defaults(source)[1] for source in (*weights, *self.models.values())) - 1
        shown = {
            "digit": controls.digit_slider(digit),
            "guidance_scale": controls.scale_slider(guidance_scale, 16, 0.5),
        }
        if interval:
            ends = controls.control(w.IntRangeSlider, "Guidance at t", (0, last), min=0, max=last)
            shown["interval"] = ends
        run = {
            "sampler": controls.dropdown("Sampler", SAMPLERS, "ddim"),
            "steps": controls.steps_slider(steps, last + 1),
            "seed": controls.seed_box(0),
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

    def film_of(
        self, drawings: dict[str, Drawing], digit: int, guidance_scale: float, seed: int, **_
    ) -> Film:
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
            rows.append(Row(views, heading, [str(one) for one in drawing.readings], marks=marks))
            told.append(f"{name} in {seconds(drawing.milliseconds)}")
        moments = moments_of(longest.timesteps)
        if len({tuple(drawing.timesteps) for drawing in drawings.values()}) > 1:  # no t is that of all rows
            moments = [text.partition(", t")[0] for text in moments]
        title = f"Target digit {digit}, guidance scale {guidance_scale:g}, the same noise in each row"
        unread = "" if longest.readings else f" {UNREAD.format('them')}"
        line = f"The same noise in each row.{unread} Drawn: {', '.join(told)}."
        return Film(rows, line, title, moments, stem=f"comparison-{digit}-w{guidance_scale}-seed{seed}")


def _fields(name: str, way: Mapping[str, object] | str | Path | Model) -> dict[str, object]:
    if isinstance(way, tuple):
        return {}
    if not isinstance(way, Mapping):
        return {"weights": way}
    for field in way:
        check_choice(f"field of the way {name!r}", field, FIELDS)
    return dict(way)
