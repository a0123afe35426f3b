"""Ways of guidance side by side, at the same noise: what each of them makes of one wish."""

from __future__ import annotations

import dataclasses
import functools
import html
from collections.abc import Generator, Mapping
from pathlib import Path

import ipywidgets as w

from classroom.panels import same_noise_rows
from classroom.panels.controls import (
    ROOM,
    STYLE,
    WIDE,
    card_defaults,
    common_controls,
    control,
    new_seed_button,
    steps_control,
)
from classroom.panels.digits import EVALUATOR, Drawing, drawing_steps
from classroom.panels.panel import Panel, caption, fresh_path, image_html, still_picture
from lessons_lib.images import save_gif
from lessons_lib.pipeline import GenerationRequest
from lessons_lib.weights import WeightsError

SAMPLER_NAMES = [("DDIM", "ddim"), ("DDPM", "ddpm"), ("DPM-Solver++(2M)", "dpmpp_2m")]
# Every row is asked for the same digit from the same noise: a method cannot choose these.
SHARED = {"labels", "seed", "sample_indices"}


class MethodComparison(Panel):
    """A row of images for each way of guidance, all rows from the same noise.

    Args:
        methods: name -> fields of a GenerationRequest, such as {"guidance": "classifier"}; they win over the
            controls. Not labels, seed and sample_indices, which all rows share.
        digit, guidance_scale, seed, sampler, steps: where the controls stand at first.
        samples: images in a row.
        spacing: of the timesteps, for every sampler; None is each sampler's own.
        max_scale: the end of the guidance scale's slider.
        interval: whether there is a control for the timesteps at which the scale holds.
        evaluator: name or path of the weights that read the images.

    Attributes:
        digit, guidance_scale, sampler, steps, seed, new_seed, scrubber, view, save: the controls.
        interval: the control of the timesteps; None without one.
        ticks: name -> the box that turns a method on and off.
        headings, rows: name -> what stands above its images, and its images.
        drawings: name -> the Drawing that is shown; empty until the first is done.

    Raises:
        ValueError: if there is no method, or one has a field that it cannot have.
    """

    def __init__(
        self,
        methods: Mapping[str, Mapping[str, object]],
        digit: int = 7,
        guidance_scale: float = 4.0,
        seed: int = 0,
        *,
        samples: int = 5,
        sampler: str = "ddim",
        steps: int = 10,
        spacing: str | None = None,
        max_scale: float = 16,
        interval: bool = False,
        evaluator: str | Path | None = EVALUATOR,
    ) -> None:
        self.methods = checked_methods(methods)
        super().__init__(layout=w.Layout(width="100%", max_width="680px"))
        self.samples, self.spacing, self.evaluator = samples, spacing, evaluator
        self.drawings: dict[str, Drawing] = {}
        self._drawn: dict = {}
        self._kept: dict[str, tuple[GenerationRequest, Drawing]] = {}  # used by the worker thread only
        highest = max(max_scale, guidance_scale)
        self.digit, self.guidance_scale, self.seed = common_controls(
            digit, guidance_scale, seed, highest, 0.5
        )
        self._build_run_controls(sampler, steps, interval)
        self._build_rows()
        self._build_replay()
        self.children = self._arranged()
        self._listen()
        self._redraw()

    # -- building ----------------------------------------------------------------------------------

    def _build_run_controls(self, sampler: str, steps: int, interval: bool) -> None:
        sources = [fields.get("weights", GenerationRequest.weights) for fields in self.methods.values()]
        num_timesteps = min(card_defaults(source)[1] for source in sources)
        self.sampler = control(
            w.Dropdown, options=SAMPLER_NAMES, value=sampler, description="Sampler", layout={"width": "290px"}
        )
        self.steps = steps_control(steps, num_timesteps)
        self.new_seed = new_seed_button(self.seed)
        self.interval = None
        if interval:
            last = num_timesteps - 1
            self.interval = control(
                w.IntRangeSlider, value=(0, last), min=0, max=last, description="Guidance at t"
            )

    def _build_rows(self) -> None:
        side = same_noise_rows.side_for(self.samples)
        self.ticks = {
            name: w.Checkbox(True, description=name, tooltip=name, indent=False, layout={"width": "auto"})
            for name in self.methods
        }
        self._on = tuple(self.methods)
        self.headings = {name: w.HTML(f"<b>{html.escape(name)}</b>") for name in self.methods}
        self.rows = {name: w.HTML(layout={"height": f"{side + 30}px"}) for name in self.methods}
        self._boxes = {
            name: w.VBox([self.headings[name], self.rows[name]], layout={"margin": "4px 0 0 0"})
            for name in self.methods
        }

    def _build_replay(self) -> None:
        self.scrubber = w.IntSlider(
            1, min=0, max=1, description="Replay", tooltip="Replay", readout=False, layout=WIDE, style=STYLE
        )
        self.view = w.ToggleButtons(
            options=same_noise_rows.VIEWS,
            description="Replay shows",
            tooltips=("The estimate of the finished image", "The noisy state"),
            style=STYLE | {"button_width": "80px"},
        )
        self.view.add_class("widget-inline-hbox")  # its description beside it, as that of the sliders
        self.moment = caption("&nbsp;")
        self.save = w.Button(
            description="Save GIF", tooltip="Write the way from noise to digits into this folder"
        )
        self.saved = caption("")
        self.saved.layout.margin = "0 0 0 8px"
        self.gif = w.HTML(layout={"display": "none"} | ROOM)

    def _arranged(self) -> tuple[w.Widget, ...]:
        seed = w.HBox([self.seed, self.new_seed])
        ticks = w.HBox(list(self.ticks.values()), layout={"flex_flow": "row wrap", "grid_gap": "0 20px"})
        save = w.HBox([self.save, self.saved], layout={"align_items": "center"})
        asked = [self.digit, self.guidance_scale, self.sampler, self.steps, seed]
        asked += [self.interval] if self.interval else []
        replay = (self.scrubber, self.view, self.moment)
        return (*asked, ticks, *self._boxes.values(), *replay, self.progress, self.status, save, self.gif)

    def _listen(self) -> None:
        asked = [self.digit, self.guidance_scale, self.sampler, self.steps, self.seed]
        for each in asked + ([self.interval] if self.interval else []):
            each.observe(self._redraw, "value")
        for tick in self.ticks.values():
            tick.observe(self._tick, "value")
        for each in (self.scrubber, self.view):
            each.observe(self._show_moment, "value")
        self.save.on_click(self._save)

    # -- drawing -----------------------------------------------------------------------------------

    def settings(self) -> dict:
        """What the controls ask for now; interval is None where the scale holds at every timestep."""
        interval = tuple(self.interval.value) if self.interval else None
        if interval and interval == (self.interval.min, self.interval.max):
            interval = None
        return {
            "digit": self.digit.value,
            "guidance_scale": self.guidance_scale.value,
            "sampler": self.sampler.value,
            "steps": self.steps.value,
            "seed": self.seed.value,
            "interval": interval,
            "methods": tuple(name for name, tick in self.ticks.items() if tick.value),
        }

    def request(self, name: str, settings: dict) -> GenerationRequest:
        """What a method is asked for with these settings; its own fields win.

        Raises:
            ValueError: as GenerationRequest.
        """
        fields = {k: settings[k] for k in ("guidance_scale", "sampler", "steps", "seed", "interval")}
        own = self.methods[name]
        if own.get("guidance") == "none":  # hears neither, so that moving them need not draw it again
            fields |= {"guidance_scale": None, "interval": None}
        labels = (settings["digit"],) * self.samples
        return GenerationRequest(labels, **fields | {"spacing": self.spacing} | own)

    def _tick(self, change) -> None:
        names = self.settings()["methods"]
        if not names:
            change.owner.value = True  # which calls this again: nothing has changed then
            self.complain("At least one method stays on.")
        elif names != self._on:
            self._on = names
            for name in self.methods.keys() - set(names):
                self._boxes[name].layout.display = "none"
            self._redraw()

    def _redraw(self, _change=None) -> None:
        self.ask(functools.partial(self._draw, self.settings()), self._show)

    def _draw(self, settings: dict) -> Generator[float, None, tuple[dict, dict[str, Drawing]]]:
        names = settings["methods"]
        # All are checked before the first is drawn: nobody waits for two rows to hear that the third fails.
        requests = {name: self._checked_request(name, settings) for name in names}
        drawings = {}
        for name, request in requests.items():
            before, drawing = self._kept.get(name, (None, None))
            if before != request:
                steps = drawing_steps(request, evaluator=self.evaluator)
                drawing = yield from same_noise_rows.share_of(steps, len(drawings), len(names))
                self._kept[name] = request, drawing
            drawings[name] = drawing
        return settings, drawings

    def _checked_request(self, name: str, settings: dict) -> GenerationRequest:
        try:
            request = self.request(name, settings)
            request.plan()
        except (ValueError, WeightsError) as error:
            kind = WeightsError if isinstance(error, WeightsError) else ValueError
            raise kind(f"{name}: {error}") from error
        return request

    def _show(self, result: tuple[dict, dict[str, Drawing]]) -> None:
        place = self.scrubber.value / self.scrubber.max
        self._drawn, self.drawings = result
        digit = self._drawn["digit"]
        for name, drawing in self.drawings.items():
            told = [same_noise_rows.tally(drawing, digit)] if drawing.readings else []
            words = ", ".join([*told, f"{drawing.milliseconds:.0f} ms"])
            self.headings[name].value = f"<b>{html.escape(name)}</b>: {words}"
        self.scrubber.max = same_noise_rows.longest(self.drawings)
        self.scrubber.value = round(place * self.scrubber.max)
        self._show_moment()
        for name, box in self._boxes.items():
            box.layout.display = None if name in self.drawings else "none"
        self.say(self._line())

    def _line(self) -> str:
        """The result in words."""
        took = f"Drawn in {sum(d.milliseconds for d in self.drawings.values()):.0f} ms."
        read = {
            name: same_noise_rows.right(d, self._drawn["digit"])
            for name, d in self.drawings.items()
            if d.readings
        }
        if not read:
            return f"The same noise in each row. There is no evaluator to read them. {took}"
        told = ", ".join(f"{name} {count} of {self.samples}" for name, count in read.items())
        return f"The same noise in each row. Read as {self._drawn['digit']}: {told}. {took}"

    def _show_moment(self, _change=None) -> None:
        drawings, k, of, view = dict(self.drawings), self.scrubber.value, self.scrubber.max, self.view.value
        side, times = same_noise_rows.side_for(self.samples), set()
        for name, drawing in drawings.items():
            images, t = same_noise_rows.moment_of(drawing, k, of, view)
            times.add(t)
            texts = same_noise_rows.reading_texts(drawing)
            if t is not None:  # the evaluator read the finished image, not this one
                texts = [text and f"→ {text}" for text in texts]
            what = name if t is None else f"{name}, {view} at t = {t}"
            self.rows[name].value = same_noise_rows.row_html(what, images, texts, side)
        self.moment.value = caption(same_noise_rows.moment_line(times, k, of, view)).value

    # -- the GIF -----------------------------------------------------------------------------------

    def _save(self, _button=None) -> None:
        work = functools.partial(self._write_gif, self.settings(), self.view.value, Path.cwd())
        self.ask(work, self._show_gif, keep=True)

    def _write_gif(self, settings: dict, view: str, folder: Path) -> Generator[float, None, tuple]:
        result = yield from self._draw(settings)  # what is shown is not drawn again
        stem = f"steering-{settings['digit']}-s{float(settings['guidance_scale'])}-seed{settings['seed']}"
        path = fresh_path(folder, stem, ".gif")
        frames = same_noise_rows.row_frames(result[1], view)
        save_gif(path, frames)
        return path, path.read_bytes(), frames[0].shape, result

    def _show_gif(self, written: tuple) -> None:
        path, content, (height, width, _), result = written
        if result[0] != self._drawn:
            self._show(result)
        alt = f"{path.name}: from noise to digits, one above the other: {', '.join(result[1])}"
        self.gif.value = image_html(content, alt, width, height)
        self.gif.layout.display = "block"
        self.saved.value = caption(f"Saved as <b>{path.name}</b> in {html.escape(str(path.parent))}").value

    # -- the still ---------------------------------------------------------------------------------

    def still(self) -> tuple[bytes, str] | None:
        if not self.drawings:
            return None
        digit, scale = self._drawn["digit"], self._drawn["guidance_scale"]
        title = f"Target digit {digit}, guidance scale {scale:g}, the same noise in each row"
        images, seen = {}, []
        for name, drawing in self.drawings.items():
            count = f"{same_noise_rows.right(drawing, digit)} of {self.samples}" if drawing.readings else ""
            images[f"{name}\n{count}".strip()] = drawing.images
            seen.append(
                f"{name}: read as {same_noise_rows.labels_read(drawing)}" + (count and f" ({count} as asked)")
            )
        counted = f"; counts: read as {digit}" if any(d.readings for d in self.drawings.values()) else ""
        return still_picture(images, title + counted, size=0.9), f"{title}. {'; '.join(seen)}."


def checked_methods(methods: Mapping[str, Mapping[str, object]]) -> dict[str, dict[str, object]]:
    """A copy of the methods.

    Raises:
        ValueError: if there is none, or one has a field that it cannot have.
    """
    if not methods:
        raise ValueError("At least one method is needed to compare.")
    allowed = [field.name for field in dataclasses.fields(GenerationRequest) if field.name not in SHARED]
    for name, fields in methods.items():
        for field in fields:
            if field in SHARED:
                raise ValueError(f"The method {name!r} sets {field}, but all rows share digit and noise.")
            if field not in allowed:
                raise ValueError(f"The method {name!r} sets {field!r}: choose from {', '.join(allowed)}.")
    return {name: dict(fields) for name, fields in methods.items()}
