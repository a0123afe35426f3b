"""The object generator: pictures of one class side by side, what is read in them, and how they came about."""

from __future__ import annotations

import functools
from collections.abc import Generator, Sequence
from pathlib import Path

import ipywidgets as w

from classroom.panels.controls import (
    LARGEST_SEED,
    NARROW,
    ROOM,
    control,
    gif_controls,
    new_seed_button,
    replay_slider,
    steps_control,
)
from classroom.panels.digits import Drawing, drawing_steps
from classroom.panels.gallery import (
    COLUMNS,
    LARGEST,
    Reader,
    file_stem,
    finished_html,
    gallery_frames,
    height_of,
    moment_html,
    result_line,
    show_saved,
    side_of,
    subject_of,
    suited_reader,
    texts_read,
)
from classroom.panels.panel import Panel, caption, fresh_path, still_picture
from lessons_lib.images import save_gif
from lessons_lib.pipeline import GenerationRequest, Model

OBJECT_EVALUATOR = "cifar10-evaluator"
START = 0.5  # the scrubber's first place: the states are noise there, the estimates already show something
MAX_SCALE = 7.0


class ObjectGenerator(Panel):
    """Draws several pictures of one class at each move of a slider, each from its own noise.

    The class slider has the names on the card of the weights. Weights without labels get neither that slider
    nor a guidance scale.

    Args:
        weights: name or path of a denoiser's weights, of any size, grey or colour.
        evaluator: name or path of the weights that read the pictures; None for no reading.
        label: the class at first, by name or number; None: the first one.
        guidance_scale: w at first; 0 unconditional, 1 conditional, above 1 amplified. None: as the card says.
        count: pictures, 1 … 12; picture k comes from the noise of (seed, k).
        seed, steps: where these controls start; steps are network evaluations, None: as the card says.
        sampler: "ddim", "ddpm" or "dpmpp_2m"; None: as the card says.
        model: (network, schedule), in place of `weights`.
        class_names: K names, in place of the card's.

    Attributes:
        label, guidance_scale, steps, seed, new_seed, scrubber, save: the controls.
        drawing: the Drawing that is shown, images [count, C, H, W]; None until the first one is done.
        subject: what the weights draw: names of classes, size of a picture, T.

    Raises:
        ValueError: if there is no such class, or count is out of range, or class_names do not suit.
    """

    def __init__(
        self,
        weights: str | Path = "cifar10-denoiser",
        evaluator: str | Path | None = OBJECT_EVALUATOR,
        *,
        label: int | str | None = None,
        guidance_scale: float | None = None,
        count: int = 4,
        seed: int = 0,
        steps: int | None = None,
        sampler: str | None = None,
        model: Model | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        if not 1 <= count <= LARGEST:
            raise ValueError(f"The number of pictures must be between 1 and {LARGEST}, got {count}.")
        super().__init__(layout=w.Layout(width="100%", max_width="680px"))
        self.weights, self.evaluator, self.model, self.sampler = weights, evaluator, model, sampler
        self.count, self.drawing, self._drawn, self._reader = count, None, None, Reader(None)
        self.subject = subject_of(weights if model is None else model, class_names)
        self._build_controls(label, guidance_scale, steps, seed)
        self._build_pictures()
        self.children = self._arranged()
        for each in (self.label, self.guidance_scale, self.steps, self.seed):
            each.observe(self._redraw, "value")
        self.scrubber.observe(self._show_moment, "value")
        self.save.on_click(self._save)
        self._redraw()

    # -- building ----------------------------------------------------------------------------------

    def _build_controls(
        self, label: int | str | None, scale: float | None, steps: int | None, seed: int
    ) -> None:
        subject = self.subject
        options = [(name, k) for k, name in enumerate(subject.names)] or [("any", 0)]
        self.label = control(
            w.SelectionSlider, options=options, value=subject.index(label), description="Class"
        )
        scale = subject.defaults.get("guidance_scale", 2.0) if scale is None else scale
        limits = {"min": 0, "max": max(MAX_SCALE, scale), "step": 0.5}
        self.guidance_scale = control(w.FloatSlider, value=scale, **limits, description="Guidance scale")
        self.steps = steps_control(steps or subject.defaults["steps"], subject.num_timesteps)
        self.seed = control(
            w.BoundedIntText, value=seed, min=0, max=LARGEST_SEED, description="Seed", layout=NARROW
        )
        self.new_seed = new_seed_button(self.seed)
        self.save, self.saved, self.gif = gif_controls(
            "Write the way from noise to pictures into this folder"
        )

    def _build_pictures(self) -> None:
        self.side = side_of(self.subject.image_size, self.count)
        # Their heights are fixed, so that nothing below moves when they come.
        tall = height_of(self.side, self.count, 26), height_of(self.side // 2, self.count, 0)
        self.pictures, self.replay = (w.HTML(layout={"height": f"{px}px", "margin": "0"}) for px in tall)
        self.scrubber, self.moment = replay_slider(), caption("&nbsp;")

    def _arranged(self) -> tuple[w.Widget, ...]:
        told = [self.label] if len(self.subject.names) > 1 else []  # a slider needs two places
        told += [self.guidance_scale] if self.subject.names else []
        seed = w.HBox([self.seed, self.new_seed])
        words = caption("Below each: left its state x<sub>t</sub>, right the estimate x̂<sub>0</sub>")
        pictures = w.VBox([self.pictures, self.replay, words, self.scrubber, self.moment], layout=ROOM)
        save = w.HBox([self.save, self.saved], layout={"align_items": "center"})
        return (*told, self.steps, seed, pictures, self.progress, self.status, save, self.gif)

    # -- drawing -----------------------------------------------------------------------------------

    def settings(self) -> dict:
        """What the controls ask for now; label and guidance_scale only of a network that knows labels."""
        told = {"label": self.label.value, "guidance_scale": self.guidance_scale.value}
        return (told if self.subject.names else {}) | {"steps": self.steps.value, "seed": self.seed.value}

    def _asked(self, settings: dict) -> str | None:
        """The name of the class that is asked for; None if the network knows no labels."""
        return self.subject.names[settings["label"]] if "label" in settings else None

    def _redraw(self, _change=None) -> None:
        self.ask(functools.partial(self._draw, self.settings()), self._show)

    def _draw(self, settings: dict) -> Generator[float, None, tuple[dict, Drawing, Reader]]:
        named = dict(settings)
        labels = (named.pop("label", 0),) * self.count
        guidance = "cfg" if self.subject.names else "none"
        request = GenerationRequest(labels, self.weights, guidance, sampler=self.sampler, **named)
        reader = suited_reader(self.evaluator, self.subject)
        drawing = yield from drawing_steps(request, self.model, evaluator=reader.weights)
        return settings, drawing, reader

    def _show(self, result: tuple[dict, Drawing, Reader]) -> None:
        place = self.scrubber.value / self.scrubber.max if self.drawing else START
        self._drawn, self.drawing, self._reader = settings, drawing, reader = result
        asked = self._asked(settings)
        self.pictures.value = finished_html(drawing, reader, asked, self.side)
        self.say(result_line(drawing, reader, asked, settings.get("guidance_scale")))
        self.scrubber.max = len(drawing.timesteps)
        self.scrubber.value = round(place * self.scrubber.max)
        self._show_moment()

    def _show_moment(self, _change=None) -> None:
        drawing, k = self.drawing, self.scrubber.value
        if drawing is None or k >= len(drawing.states):
            return
        count = len(drawing.timesteps)
        text = f"t = {drawing.timesteps[k]}, step {k + 1} of {count}" if k < count else "after the last step"
        self.replay.value = moment_html(*drawing.moment(k), text, self.side)
        self.moment.value = caption(text).value

    # -- the GIF -----------------------------------------------------------------------------------

    def _save(self, _button=None) -> None:
        self.ask(functools.partial(self._write_gif, self.settings(), Path.cwd()), self._show_gif, keep=True)

    def _write_gif(self, settings: dict, folder: Path) -> Generator[float, None, tuple]:
        shown = (self._drawn, self.drawing, self._reader)
        result = shown if self._drawn == settings else (yield from self._draw(settings))
        stem = file_stem(self._asked(settings), settings.get("guidance_scale"), settings["seed"])
        path, frames = fresh_path(folder, stem, ".gif"), gallery_frames(result[1])
        save_gif(path, frames)
        return path, path.read_bytes(), frames[0].shape[:2], result

    def _show_gif(self, written: tuple) -> None:
        path, content, size, result = written
        if result[1] is not self.drawing:
            self._show(result)
        alt = "the states, below them the estimates, from noise to pictures"
        show_saved(self.gif, self.saved, path, content, size, alt)

    # -- the still ---------------------------------------------------------------------------------

    def still(self) -> tuple[bytes, str] | None:
        if self.drawing is None:
            return None
        drawing, settings = self.drawing, self._drawn
        asked, scale = self._asked(settings), settings.get("guidance_scale")
        k = min(round(START * len(drawing.timesteps)), len(drawing.timesteps) - 1)
        x_t, x_0 = drawing.moment(k)
        at = f"t = {drawing.timesteps[k]}"
        rows = {"pictures": drawing.images, f"$x_t$\n{at}": x_t, f"$\\hat{{x}}_0$\n{at}": x_0}
        wanted = "Pictures" if asked is None else f"Class {asked}, guidance scale {scale:g}"
        # One or two pictures are narrower than the whole title.
        title = (
            wanted if self.count < 3 else f"{wanted}, seed {settings['seed']}, {len(drawing.timesteps)} steps"
        )
        texts = texts_read(drawing, self._reader)
        if self.count > COLUMNS:
            texts = [text.replace(" ", "\n") for text in texts]
        titles = [text.replace("$", r"\$") for text in (title, *texts)]  # a dollar sign would start a formula
        size = 1.8 if self.count < 3 else min(1.3, 7 / self.count)
        seen = result_line(drawing, self._reader, asked, scale)
        return still_picture(rows, titles[0], titles[1:], size=size), f"{title}. {seen}"
