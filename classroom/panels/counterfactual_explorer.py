"""Counterfactuals of real images: each as every digit, what came and went, and the way there cell by cell."""

from __future__ import annotations

import functools
import html
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import ipywidgets as w
from torch import Tensor

from classroom.panels import controls
from classroom.panels.cells import CellGrid, CellReplay, cells_picture, way_frames
from classroom.panels.controls import LARGEST_SEED, NARROW, ROOM, STYLE, control
from classroom.panels.digits import EVALUATOR
from classroom.panels.panel import Panel, caption, fresh_path, image_html
from classroom.panels.paths import (
    Paths,
    cell_line,
    cells_alt,
    checked_abduction,
    checked_images,
    depth_options,
    paths_of,
    reading_html,
    result_line,
)
from lessons_lib.guidance import EpsFn
from lessons_lib.images import png_bytes, save_gif
from lessons_lib.pipeline import CounterfactualRequest, Model
from lessons_lib.schedules import NoiseSchedule

TARGETS = range(10)
SIDES = {1: 52}  # of a cell; of several rows 40
METHODS = [
    ("DDIM inversion", "ddim"),
    ("edit-friendly inversion", "ddpm"),
    ("SDEdit", "sdedit"),
    ("same noise, no abduction", "same-noise"),
]
HINTS = {
    "ddim": "The noise that the source came from: no chance, so no seed.",
    "ddpm": "A noise for each step: together they hold the source.",
    "sdedit": "The source under plain noise: what shines through is kept.",
    "same-noise": "Fresh noise that knows nothing of the source: no depth.",
    "yours": "The noise that your own abduction finds.",
}
LEGEND = (
    "<b>Orange</b> came, <b>blue</b> went; what has an orange frame is misread. Click a cell to replay it."
)


class CounterfactualExplorer(Panel):
    """Real images, each turned into all ten digits.

    Args:
        images: [S, 1, 28, 28] in [-1, 1], at most 10; None is the seven of all lessons.
        sources: their labels.
        weights: name or path of a denoiser's weights.
        method, guidance_scale, depth, seed: where the controls start. A depth of None is the whole way.
        steps: of the whole way.
        abduct_fn: the learner's own, (eps_fn, schedule, x_0, timesteps) -> the state at timesteps[0]; it is
            the method "yours", and the first one shown.
        model: (network, schedule), in place of `weights`.
        evaluator: name or path of the weights that read the images.

    Attributes:
        method, guidance_scale, depth, seed, new_seed, save: the controls.
        target, row: the controls that choose a cell.
        view: what the grid shows. For one image, which shows all, view and row are None.
        grid, replay: the cells, and the chosen one's way.
        paths: the Paths that are shown; None until the first are done.

    Raises:
        ValueError: if the images are not 1 to 10, or have no label each.
    """

    def __init__(
        self,
        images: Tensor | None = None,
        sources: Sequence[int] | None = None,
        weights: str | Path = "mnist-denoiser",
        *,
        method: str | None = None,
        guidance_scale: float = 3.0,
        depth: int | None = None,
        steps: int = 25,
        seed: int = 0,
        abduct_fn: Callable[[EpsFn, NoiseSchedule, Tensor, Tensor], Tensor] | None = None,
        model: Model | None = None,
        evaluator: str | Path | None = EVALUATOR,
    ) -> None:
        self.images, self.sources = checked_images(images, sources)
        super().__init__(layout=w.Layout(width="100%", max_width="680px"))
        self.weights, self.model, self.abduct_fn, self.evaluator = weights, model, abduct_fn, evaluator
        self.num_steps, self.paths, self._drawn = steps, None, None
        self._build_controls(
            method or ("ddim" if abduct_fn is None else "yours"), guidance_scale, depth, seed
        )
        self._build_cells()
        self.children = self._arranged()
        self._listen()
        self._redraw()

    # -- building ----------------------------------------------------------------------------------

    def _build_controls(self, method: str, guidance_scale: float, depth: int | None, seed: int) -> None:
        methods = METHODS if self.abduct_fn is None else [("yours", "yours"), *METHODS]
        layout = {"width": "320px"}
        self.method = control(w.Dropdown, options=methods, value=method, description="Method", layout=layout)
        self.hint = caption("&nbsp;")
        self.hint.layout.margin = "0 0 0 118px"
        scale = {"value": guidance_scale, "min": 0, "max": max(8, guidance_scale), "step": 0.25}
        self.guidance_scale = control(w.FloatSlider, **scale, description="Guidance scale")
        num_timesteps = controls.card_defaults(self.weights if self.model is None else self.model)[1]
        depth = num_timesteps - 1 if depth is None else depth
        options = depth_options(num_timesteps, self.num_steps, depth)
        self.depth = control(w.SelectionSlider, options=options, value=depth, description="Depth t₀")
        limits = {"min": 0, "max": LARGEST_SEED}
        self.seed = control(w.BoundedIntText, value=seed, **limits, description="Seed", layout=NARROW)
        self.new_seed = controls.new_seed_button(self.seed)
        self.save = w.Button(
            description="Save GIF", tooltip="Write the way from noise to digits into this folder"
        )
        self.saved = caption("")
        self.saved.layout.margin = "0 0 0 8px"
        self.gif = w.HTML(layout={"display": "none", "overflow": "hidden"} | ROOM)
        self._suit_method()

    def _build_cells(self) -> None:
        count, first = len(self.images), 3 if self.sources[0] != 3 else 8
        side, size = SIDES.get(count, 40), self.images.shape[-1]
        self.grid = CellGrid(count, len(TARGETS), side, size, self._clicked)
        self.replay = CellReplay()
        last = {"min": 0, "max": TARGETS[-1]}
        self.target = control(w.IntSlider, value=first, **last, description="Replay target")
        self.row = self.view = None
        if count > 1:
            self.row = control(w.IntSlider, value=1, min=1, max=count, description="Replay row")
            self.view = w.ToggleButtons(
                options=("digits", "differences"),
                description="Show",
                tooltips=("The counterfactuals", "Orange came, blue went"),
                style=STYLE | {"button_width": "110px"},
            )
            self.view.add_class("widget-inline-hbox")  # its description beside it, as that of the sliders
        self.grid.choose(0, first)

    def _arranged(self) -> tuple[w.Widget, ...]:
        seed = w.HBox([self.seed, self.new_seed])
        save = w.HBox([self.save, self.saved], layout={"align_items": "center"})
        asked = [self.method, self.hint, self.guidance_scale, self.depth, seed]
        shown = [*([self.view] if self.view else []), w.Box([self.grid], layout=ROOM)]
        legend = caption(LEGEND)
        cell = [*([self.row] if self.row else []), self.target, w.Box([self.replay], layout=ROOM)]
        return (*asked, *shown, legend, self.progress, self.status, *cell, save, self.gif)

    def _listen(self) -> None:
        self.method.observe(self._suit_method, "value")
        for each in (self.method, self.guidance_scale, self.depth, self.seed):
            each.observe(self._redraw, "value")
        for each in (self.target, *filter(None, [self.row])):
            each.observe(self._show_cell, "value")
        if self.view:
            self.view.observe(self._show_grid, "value")
        self.save.on_click(self._save)

    def _suit_method(self, _change=None) -> None:
        """What the method does not ask for cannot be moved, and a word says why."""
        method = self.method.value
        self.depth.disabled = method == "same-noise"
        self.seed.disabled = self.new_seed.disabled = method in ("ddim", "yours")
        self.hint.value = caption(HINTS[method]).value

    # -- drawing -----------------------------------------------------------------------------------

    def settings(self) -> dict:
        """What the controls ask for now; what the method does not ask for is None."""
        return {
            "method": self.method.value,
            "guidance_scale": self.guidance_scale.value,
            "depth": None if self.depth.disabled else self.depth.value,
            "seed": None if self.seed.disabled else self.seed.value,
        }

    def _redraw(self, _change=None) -> None:
        self.ask(functools.partial(self._draw, self.settings()), self._show)

    def _draw(self, settings: dict) -> Generator[float, None, tuple[dict, Paths]]:
        # At once: abduction has no progress of its own, and all of this takes longer than a moment.
        self.progress.layout.visibility = "visible"
        yield 0.02
        mine, named = settings["method"] == "yours", settings | {"seed": settings["seed"] or 0}
        request = CounterfactualRequest(
            self.sources, tuple(TARGETS) * len(self.sources), self.weights, steps=self.num_steps,
            **named | ({"method": "ddim"} if mine else {}),
        )  # fmt: skip
        abduct_fn = checked_abduction(self.abduct_fn) if mine else None
        paths = yield from paths_of(request.plan(self.model), self.images, abduct_fn, self.evaluator)
        return settings, paths

    def _show(self, result: tuple[dict, Paths]) -> None:
        self._drawn, self.paths = result
        for (row, target), button in self.grid.buttons.items():
            button.tooltip = f"{self.sources[row]} to {target}" if target is not None else "the source"
        self._show_grid()
        self._show_cell()
        self.say(result_line(self.paths))

    def _show_grid(self, _change=None) -> None:
        if (paths := self.paths) is None:
            return
        view = self.view.value if self.view else "both"
        scale = 4 if len(paths.sources) == 1 else 2
        footer = ["", *map(reading_html, range(10), paths.readings)] if not self.view else []
        self.grid.show(cells_picture(paths, view, scale), f"{view}: {cells_alt(paths)}", footer)

    # -- one cell ----------------------------------------------------------------------------------

    def _clicked(self, row: int, target: int | None) -> None:
        """A click on a source chooses the cell that asks for what it is already."""
        target = self.sources[row] if target is None else target
        if target in TARGETS:
            if self.row:
                self.row.value = row + 1
            self.target.value = target

    def chosen(self) -> tuple[int, int]:
        """(row, target) of the chosen cell."""
        return (self.row.value - 1 if self.row else 0), self.target.value

    def _show_cell(self, _change=None) -> None:
        row, target = self.chosen()
        self.grid.choose(row, target)
        if self.paths is not None:
            self.replay.show(self.paths, row, target, html.escape(cell_line(self.paths, row, target)))

    # -- the GIF -----------------------------------------------------------------------------------

    def _save(self, _button=None) -> None:
        self.ask(functools.partial(self._write_gif, self.settings(), Path.cwd()), self._show_gif, keep=True)

    def _write_gif(self, settings: dict, folder: Path) -> Generator[float, None, tuple]:
        shown = (self._drawn, self.paths)
        result = shown if self._drawn == settings else (yield from self._draw(settings))
        labels = "-".join(map(str, self.sources))
        stem = f"counterfactuals-{labels}-{settings['method']}-w{float(settings['guidance_scale'])}"
        path = fresh_path(folder, stem, ".gif")
        frames = way_frames(result[1])
        save_gif(path, frames)
        return path, path.read_bytes(), frames[0].shape, result

    def _show_gif(self, written: tuple) -> None:
        path, content, (height, width, _), result = written
        if result[1] is not self.paths:
            self._show(result)
        alt = f"{path.name}: each source, and its counterfactuals from noise to digits"
        shown = self.grid.width
        picture = image_html(content, alt, shown, round(height * shown / width))
        self.gif.value = picture.replace("max-width: none", "max-width: 100%; height: auto")
        self.gif.layout.display = "block"
        self.saved.value = caption(f"Saved as <b>{path.name}</b> in {html.escape(str(path.parent))}").value

    # -- the still ---------------------------------------------------------------------------------

    def still(self) -> tuple[bytes, str] | None:
        if (paths := self.paths) is None:
            return None
        view = "both" if len(paths.sources) == 1 else "digits"
        alt = f"Digits and their counterfactuals, asked for 0 to 9 from left to right. {cells_alt(paths)}"
        return png_bytes(cells_picture(paths, view, 2)), alt
