"""Draw a digit, and see its ten counterfactuals: this very handwriting, had it been another digit."""

from __future__ import annotations

import functools
import html
import time
from collections.abc import Generator
from pathlib import Path

import ipywidgets as w
import torch
from torch import Tensor

from classroom.panels import same_noise_rows
from classroom.panels.controls import ROOM, WIDE, card_defaults, control
from classroom.panels.digits import EVALUATOR, Reading, read
from classroom.panels.drawn import (
    CELL,
    TARGETS,
    Row,
    cells_html,
    gif_frames,
    heard,
    random_example,
    row_steps,
)
from classroom.panels.pad import SIDE, DrawingPad, Marks
from classroom.panels.panel import Panel, Picture, caption, fresh_path, image_html, sentence, still_picture
from classroom.panels.paths import depth_options
from lessons_lib import data, pictures
from lessons_lib.images import difference_maps, save_gif
from lessons_lib.pipeline import CounterfactualRequest, Model

EMPTY = "Draw a digit with the mouse or a finger."
AS_READ = "as read"
NO_EVALUATOR = "There is no evaluator on this machine: choose at Drawn as which digit this is."


class DrawnCounterfactuals(Panel):
    """A pad to draw a digit on, and below it the row of its counterfactuals.

    Args:
        weights: name or path of a denoiser of MNIST digits.
        example: whether a digit is on the pad at first.
        method, guidance_scale, depth, steps, seed: as in CounterfactualRequest; depth None is the top. Few
            steps at a larger scale: the row should come within 3 s, and 15 at w = 4 obey as well as 25 at 3.
        model: (network, schedule), in place of `weights`.
        evaluator: name or path of the weights that read the digits.

    Attributes:
        pad: the DrawingPad; `strokes` are its strokes.
        drawn_as, guidance_scale, depth, clear, undo, example, upload, scrubber, view, save: the controls.
        pause: seconds after a stroke in which the next one may begin, before the row is drawn.
        row: the Row that is shown; None until the first is done, and while a new digit is at work.
    """

    def __init__(
        self,
        weights: str | Path = "mnist-denoiser",
        *,
        example: bool = True,
        method: str = "ddim",
        guidance_scale: float = 4.0,
        depth: int | None = None,
        steps: int = 15,
        seed: int = 0,
        model: Model | None = None,
        evaluator: str | Path | None = EVALUATOR,
    ) -> None:
        super().__init__(layout=w.Layout(width="100%", max_width="680px"))
        self.weights, self.model, self.evaluator = weights, model, evaluator
        self.method, self.steps, self.seed, self.pause = method, steps, seed, 0.3
        self.row: Row | None = None
        self._digit: Tensor | None = None  # used by the worker thread only, as all that shows
        self.num_timesteps = card_defaults(weights if model is None else model)[1]
        self._build_pad()
        self._build_controls(guidance_scale, depth)
        self._build_replay()
        self.children = self._arranged()
        self._listen()
        if example:
            self.pad.put(pictures.sharpened(data.running_example()))
        else:
            self._redraw()

    @property
    def strokes(self) -> list[list[tuple[float, float]]]:
        """The strokes on the pad, each a list of points (x, y)."""
        return self.pad.strokes

    # -- building ----------------------------------------------------------------------------------

    def _build_pad(self) -> None:
        self.pad = DrawingPad(functools.partial(self._redraw, after_stroke=True))
        small = {"width": "122px", "margin": "2px 8px 2px 0"}
        self.clear = w.Button(description="Clear", tooltip="Take everything off the pad", layout=small)
        self.undo = w.Button(description="Undo stroke", tooltip="Take the last stroke away", layout=small)
        self.example = w.Button(description="Example", tooltip="Put a digit on the pad", layout=small)
        self.upload = w.FileUpload(
            accept="image/*", description="Picture…", tooltip="A digit from a picture file", layout=small
        )
        self.image, self.reading = Picture(112), w.HTML(layout={"margin": "0", "width": "136px"})

    def _build_controls(self, guidance_scale: float, depth: int | None) -> None:
        shape = {"layout": {"width": "260px"}, "style": {"description_width": "102px"}}
        labels = [AS_READ, *map(str, TARGETS)]
        self.drawn_as = control(w.Dropdown, options=labels, description="Drawn as", **shape)
        top = self.num_timesteps - 1
        depth = top if depth is None else depth
        self.guidance_scale = control(
            w.FloatSlider, value=guidance_scale, min=0, max=max(8, guidance_scale), step=0.25,
            description="Guidance scale", **shape,
        )  # fmt: skip
        self.depth = control(
            w.SelectionSlider, options=depth_options(self.num_timesteps, self.steps, depth), value=depth,
            description="Depth t₀", tooltip="How far the digit is taken back to noise", **shape,
        )  # fmt: skip

    def _build_replay(self) -> None:
        self.cells = w.HTML(layout={"height": f"{2 * CELL + 48}px", "width": "100%", "margin": "6px 0 0 2px"})
        style = {"description_width": "100px"}
        self.scrubber = w.IntSlider(
            1, min=0, max=1, description="Replay", tooltip="Replay", readout=False, layout=WIDE, style=style
        )
        self.view = w.ToggleButtons(
            options=same_noise_rows.VIEWS,
            description="Replay shows",
            tooltips=("The estimates of the finished digits", "The noisy states"),
            style=style | {"button_width": "80px"},
        )
        self.view.add_class("widget-inline-hbox")  # its description beside it, as that of the sliders
        self.moment = caption("&nbsp;")
        self.save = w.Button(description="Save GIF", tooltip="Write the row's way into this folder")
        self.saved = caption("")
        self.saved.layout.margin = "0 0 0 8px"
        self.gif = w.HTML(layout={"display": "none"} | ROOM)

    def _arranged(self) -> tuple[w.Widget, ...]:
        frame = {"border": "1px solid #999", "width": f"{SIDE + 2}px", "height": f"{SIDE + 2}px"}
        pad = w.Box([self.pad], layout=frame | {"overflow": "hidden", "flex": "0 0 auto"})
        digit = w.HBox([self.image, self.reading], layout={"grid_gap": "12px", "align_items": "center"})
        buttons = [
            w.HBox([self.example, self.upload]),
            w.HBox([self.undo, self.clear]),
        ]
        beside = [digit, *buttons, self.drawn_as, self.guidance_scale, self.depth]
        right = w.VBox(beside, layout={"grid_gap": "4px"})
        top = w.HBox([pad, right], layout={"flex_flow": "row wrap", "grid_gap": "12px 18px"} | ROOM)
        save = w.HBox([self.save, self.saved], layout={"align_items": "center"})
        replay = (self.scrubber, self.view, self.moment)
        return (top, self.progress, self.status, self.cells, *replay, save, self.gif)

    def _listen(self) -> None:
        self.clear.on_click(lambda _: self.pad.clear_all())
        self.undo.on_click(lambda _: self.pad.undo())
        self.example.on_click(lambda _: self.pad.put(random_example()))
        self.upload.observe(self._uploaded, "value")
        for each in (self.drawn_as, self.guidance_scale, self.depth):
            each.observe(self._redraw, "value")
        for each in (self.scrubber, self.view):
            each.observe(self._show_moment, "value")
        self.save.on_click(self._save)

    # -- drawing -----------------------------------------------------------------------------------

    def settings(self) -> dict:
        """What the controls ask for now; drawn_as is None for what the evaluator reads."""
        drawn_as = None if self.drawn_as.value == AS_READ else int(self.drawn_as.value)
        scale, depth = self.guidance_scale.value, self.depth.value
        return {"drawn_as": drawn_as, "guidance_scale": scale, "depth": depth}

    def request(self, source: int, settings: dict) -> CounterfactualRequest:
        """What is asked of a digit with this label.

        Raises:
            ValueError: as CounterfactualRequest.
        """
        depth = settings["depth"] if settings["depth"] != self.num_timesteps - 1 else None
        return CounterfactualRequest(
            (source,), TARGETS, weights=self.weights, method=self.method, depth=depth, steps=self.steps,
            guidance_scale=settings["guidance_scale"], seed=self.seed,
        )  # fmt: skip

    def _redraw(self, _change=None, after_stroke: bool = False) -> None:
        marks = self.pad.marks()
        pause = self.pause if after_stroke and marks.strokes else 0.0
        self.ask(functools.partial(self._draw, marks, self.settings(), pause), self._show)

    def _draw(self, marks: Marks, settings: dict, pause: float) -> Generator[float, None, Row | None]:
        digit, until = marks.digit(), time.monotonic() + pause
        if digit is None:
            return None
        self.progress.layout.visibility = "visible"  # at once: the row takes longer than half a second
        reading = next(iter(read(digit, self.evaluator)), None)
        self._show_digit(digit, reading)
        source = settings["drawn_as"] if settings["drawn_as"] is not None else reading and reading.label
        if source is None:
            raise ValueError(NO_EVALUATOR)
        while time.monotonic() < until or self.pad.drawing:
            yield 0.0
            time.sleep(0.01)
        show = functools.partial(self._show_forming, digit, source)
        steps = row_steps(self.request(source, settings), digit, show, self.model, self.evaluator)
        while True:
            try:
                part = next(steps)
            except StopIteration as end:
                return Row(digit, reading, source, settings, end.value)
            yield part
            while self.pad.drawing:  # not in the way of the hand; what it draws is asked for next
                yield part
                time.sleep(0.01)

    # -- showing -----------------------------------------------------------------------------------

    def _show_digit(self, digit: Tensor, reading: Reading | None) -> None:
        self.image.show(digit, f"The digit as the network sees it. {heard(reading)}")
        self.reading.value = f"Your digit as the network sees it.<br><b>{heard(reading)}</b>"
        if self._digit is None or not torch.equal(digit, self._digit):
            self._digit, self.row = digit, None
            self._show_nothing()
        self.say(f"{heard(reading)}. Its counterfactuals are on their way.")

    def _show_forming(self, digit: Tensor, source: int, estimates: Tensor) -> None:
        self.cells.value = cells_html(estimates, digit, source)

    def _show_nothing(self) -> None:
        dark = torch.full((len(TARGETS), 1, 28, 28), -1.0)
        self.cells.value = cells_html(dark, dark[:1])
        self.moment.value = caption("&nbsp;").value

    def _show(self, row: Row | None) -> None:
        self.row = row
        if row is None:
            self._digit = None
            self.image.show(torch.full((1, 1, 28, 28), -1.0), "No digit yet")
            self.reading.value = ""
            self._show_nothing()
            self.say(EMPTY)
            return
        place = self.scrubber.value / self.scrubber.max
        self.scrubber.max = len(row.drawing.timesteps)
        self.scrubber.value = round(place * self.scrubber.max)
        self._show_moment()
        self.say(row.line())

    def _show_moment(self, _change=None) -> None:
        row, k, of, view = self.row, self.scrubber.value, self.scrubber.max, self.view.value
        if row is None:
            return
        images, t = same_noise_rows.moment_of(row.drawing, k, of, view)
        self.cells.value = cells_html(images, row.digit, row.source, row.drawing.readings, t is None)
        self.moment.value = caption(same_noise_rows.moment_line({t}, k, of, view)).value

    # -- files -------------------------------------------------------------------------------------

    def _uploaded(self, change) -> None:
        if change.new:
            file = change.new[0]
            self.load(bytes(file["content"]), file["name"])
            self.upload.value = ()  # the same file may be chosen again

    def load(self, content: bytes, name: str) -> None:
        """Put a picture file on the pad; what is no digit's picture becomes a sentence in the status line."""
        try:
            digit = pictures.digit_from_bytes(content, name)
        except (ValueError, data.DataError) as error:
            text = sentence(error)
            self.ask(lambda: text, self.complain, keep=True)  # after the row that is at work
        else:
            self.pad.put(digit)

    def _save(self, _button=None) -> None:
        self.ask(functools.partial(self._write_gif, self.view.value, Path.cwd()), self._show_gif, keep=True)

    def _write_gif(self, view: str, folder: Path) -> tuple[Path, bytes, tuple[int, ...]]:
        row = self.row
        if row is None:
            raise ValueError(f"There is nothing to save yet. {EMPTY}")
        stem = f"drawn-{row.source}-w{float(row.settings['guidance_scale'])}-t{row.settings['depth']}"
        path, frames = fresh_path(folder, stem, ".gif"), gif_frames(row, view)
        save_gif(path, frames)
        return path, path.read_bytes(), frames[0].shape

    def _show_gif(self, written: tuple) -> None:
        path, content, (height, width, _) = written
        alt = f"{path.name}: the drawn digit, and its ten counterfactuals as they form"
        shown = min(width, same_noise_rows.WIDTH)
        self.gif.value = image_html(content, alt, shown, round(height * shown / width))
        self.gif.layout.display = "block"
        self.saved.value = caption(f"Saved as <b>{path.name}</b> in {html.escape(str(path.parent))}").value

    def still(self) -> tuple[bytes, str] | None:
        if self.row is None:
            return None
        row, scale = self.row, self.row.settings["guidance_scale"]
        shown = torch.cat([row.digit, row.drawing.images])
        both = {"digit": shown, "change": difference_maps(shown, row.digit)}
        seen = f"; read as {same_noise_rows.labels_read(row.drawing)}" if row.drawing.readings else ""
        title = f"A drawn {row.source} and what it would look like as 0 to 9, guidance scale {scale:g}"
        alt = f"{title}{seen}; below each digit what changed: ink that came in orange, that went in blue."
        return still_picture(both, title, ["drawn", *map(str, TARGETS)], size=0.62), alt
