"""The face panel: faces before and after one attribute was asked for, and what else came along."""

from __future__ import annotations

import functools
import html
from collections.abc import Generator, Sequence
from pathlib import Path

import ipywidgets as w
from torch import Tensor

from classroom.panels.controls import (
    LARGEST_SEED,
    NARROW,
    ROOM,
    STYLE,
    card_defaults,
    control,
    gif_controls,
    new_seed_button,
    replay_slider,
    steps_control,
)
from classroom.panels.facerows import (
    BELOW,
    GAIN,
    changes_html,
    faces_html,
    file_stem,
    moment_html,
    side_for,
    still_of,
    way_frames,
)
from classroom.panels.gallery import show_saved, subject_of
from classroom.panels.pairs import (
    LARGEST,
    FaceEdit,
    FromFaces,
    FromNoise,
    Pairs,
    checked_faces,
    choices,
    pairs_of,
    result_line,
    side_line,
    spoken,
)
from classroom.panels.panel import TEXT, Panel, caption, fresh_path
from lessons_lib.images import save_gif
from lessons_lib.pipeline import Model

FACE_EVALUATOR = "celeba-evaluator"
START = 0.5  # the scrubber's first place: the states are noise there, the estimates already show something
MAX_SCALE = 12.0
CHANGES = f"What changed, {GAIN} times as strong: <b>orange</b> became brighter, <b>blue</b> darker"
WAY = "On the way: left the state x<sub>t</sub>, right the estimate x̂<sub>0</sub>"


class FacePanel(Panel):
    """Faces, the same faces steered to an attribute, what changed, and which other attributes came along.

    Args:
        images: [N, 3, S, S] in [-1, 1], given faces, of which the counterfactuals are shown; None: faces that
            the network draws from noise, beside those that it draws from the same noise when it is steered.
        weights: name or path of a denoiser's weights that needs no labels.
        classifier: name or path of the weights that steer: yes-or-no attributes of noisy images.
        evaluator: name or path of the weights that read the faces; None for no reading.
        attribute: the one asked for at first; case, spaces and "-" for "_" do not matter.
        target: 1 asks for yes, 0 for no.
        guidance_scale: s at first; 0 unguided, 1 Bayes' rule. None: as the classifier's card says.
        count: faces side by side, 1 … 8; of more given faces a slider chooses.
        seed: drawn face k comes from the noise of (seed, k).
        steps: of the whole way; None: as the denoiser's card says.
        depth: how far given faces are taken back, 0 … T-1; None is the whole way.
        attributes: those to choose from; None: all that the classifier reads.
        model: (network, schedule), in place of `weights`.

    Attributes:
        attribute, target, guidance_scale, steps, scrubber, save: the controls.
        seed, new_seed: those of drawn faces; None for given ones.
        chosen: which of the given faces are shown; None if all are, and for drawn ones.
        pairs: the Pairs that are shown; None until the first are done.

    Raises:
        ValueError: for an unknown attribute, with the names that are most like it; for a target, count, depth
            or images that do not suit.
    """

    def __init__(
        self,
        images: Tensor | None = None,
        *,
        weights: str | Path = "celeba-denoiser",
        classifier: str | Path = "celeba-classifier",
        evaluator: str | Path | None = FACE_EVALUATOR,
        attribute: str = "Smiling",
        target: int = 1,
        guidance_scale: float | None = None,
        count: int = 4,
        seed: int = 0,
        steps: int | None = None,
        depth: int | None = None,
        attributes: Sequence[str] | None = None,
        model: Model | None = None,
    ) -> None:
        _check(target, count, images, depth)
        images = None if images is None else checked_faces(images)
        offered = choices(classifier, attribute, attributes)
        super().__init__(layout=w.Layout(width="100%", max_width="680px"))
        self.count = count if images is None else min(count, len(images))
        self.evaluator, self.pairs, self._drawn = evaluator, None, None
        self.subject = subject_of(weights if model is None else model)
        if images is None:
            self.source = FromNoise(self.count, weights, classifier, model)
        else:
            self.source = FromFaces(images, self.count, weights, classifier, model, depth)
        default = card_defaults(classifier)[0].get("guidance_scale", 1.0)
        self._build_wish(*offered, int(target), default, guidance_scale, steps)
        self._build_place(seed)
        self._build_pictures()
        self.children = self._arranged()
        self._listen()
        self._redraw()

    # -- building ----------------------------------------------------------------------------------

    def _build_wish(
        self, names: list[str], attribute: str, target: int, default: float, scale: float | None,
        steps: int | None,
    ) -> None:  # fmt: skip
        options = [(spoken(name), name) for name in names]
        self.attribute = control(
            w.Dropdown, options=options, value=attribute, description="Attribute", layout={"width": "320px"}
        )
        self.target = w.ToggleButtons(
            options=[("yes", 1), ("no", 0)], value=target, description="Asked for",
            tooltips=("The attribute shall be there", "It shall not"), tooltip="Asked for",
            style=STYLE | {"button_width": "80px"},
        )  # fmt: skip
        self.target.add_class("widget-inline-hbox")  # its description beside it, as that of the sliders
        scale = default if scale is None else scale
        # A given face takes a much larger scale than one that is drawn from noise: room to raise it.
        room = 4 if isinstance(self.source, FromFaces) else 1
        largest = max(MAX_SCALE, 2 * default, room * scale)
        limits = {"min": 0, "max": largest, "step": 0.5 if largest <= 32 else largest / 64}
        self.guidance_scale = control(w.FloatSlider, value=scale, **limits, description="Guidance scale")
        self.steps = steps_control(steps or self.subject.defaults["steps"], self.subject.num_timesteps)

    def _build_place(self, seed: int) -> None:
        """The seed of drawn faces, or which of the given ones are shown."""
        self.seed = self.new_seed = self.chosen = None
        if isinstance(self.source, FromNoise):
            limits = {"min": 0, "max": LARGEST_SEED}
            self.seed = control(w.BoundedIntText, value=seed, **limits, description="Seed", layout=NARROW)
            self.new_seed = new_seed_button(self.seed)
        elif (total := len(self.source.images)) > self.count:
            # The last ones may have been seen already: there are always as many.
            firsts = [min(k, total - self.count) for k in range(0, total, self.count)]
            options = [(f"{k + 1}–{k + self.count}" if self.count > 1 else str(k + 1), k) for k in firsts]
            self.chosen = control(w.SelectionSlider, options=options, value=0, description="Faces")

    def _build_pictures(self) -> None:
        self.side = side_for(self.subject.image_size, self.count)
        # Their heights are fixed, so that nothing below moves when they come.
        tall = [self.side + BELOW] * 2 + [self.side // 2] * 2
        rows = [w.HTML(layout={"height": f"{px}px", "margin": "0"}) for px in tall]
        self.before, self.after, self.changes, self.replay = rows
        self.heads = caption("&nbsp;"), caption("&nbsp;")
        self.scrubber, self.moment = replay_slider(), caption("&nbsp;")
        self.status.layout.min_height = "64px"  # the line of what else changed is one more
        self.save, self.saved, self.gif = gif_controls("Write the way from noise to faces into this folder")

    def _arranged(self) -> tuple[w.Widget, ...]:
        place = [w.HBox([self.seed, self.new_seed])] if self.seed else [self.chosen] if self.chosen else []
        first, second = self.heads
        shown = [first, self.before, second, self.after, caption(CHANGES), self.changes]
        way = [caption(WAY), self.replay, self.scrubber, self.moment]
        save = w.HBox([self.save, self.saved], layout={"align_items": "center"})
        asked = (self.attribute, self.target, self.guidance_scale, self.steps, *place)
        told = (self.progress, self.status)
        return (*asked, w.VBox(shown, layout=ROOM), *told, w.VBox(way, layout=ROOM), save, self.gif)

    def _listen(self) -> None:
        place = filter(None, (self.seed, self.chosen))
        for each in (self.attribute, self.target, self.guidance_scale, self.steps, *place):
            each.observe(self._redraw, "value")
        self.scrubber.observe(self._show_moment, "value")
        self.save.on_click(self._save)

    # -- drawing -----------------------------------------------------------------------------------

    def settings(self) -> dict:
        """What the controls ask for now: seed of drawn faces, first (counted from 0) of given ones."""
        asked = (self.attribute, self.target, self.guidance_scale, self.steps)
        edit = FaceEdit(*(each.value for each in asked))
        if self.seed:
            return edit._asdict() | {"seed": self.seed.value}
        return edit._asdict() | {"first": self.chosen.value if self.chosen else 0}

    def _redraw(self, _change=None) -> None:
        self.ask(functools.partial(self._draw, self.settings()), self._show)

    def _draw(self, settings: dict) -> Generator[float, None, tuple[dict, Pairs]]:
        *edit, place = settings.values()
        pairs = yield from pairs_of(self.source, FaceEdit(*edit), place, self.evaluator, self.subject)
        return settings, pairs

    def _show(self, result: tuple[dict, Pairs]) -> None:
        place = self.scrubber.value / self.scrubber.max if self.pairs else START
        self._drawn, self.pairs = result
        pairs = self.pairs
        for head, text in zip(self.heads, self._headings(), strict=True):
            head.value = caption(html.escape(text)).value
        self.before.value = faces_html(pairs, "before", self.side)
        self.after.value = faces_html(pairs, "after", self.side)
        self.changes.value = changes_html(pairs, self.side)
        self._tell(pairs)
        self.scrubber.max = len(pairs.drawing.timesteps)
        self.scrubber.value = round(place * self.scrubber.max)
        self._show_moment()

    def _headings(self) -> tuple[str, str]:
        edit = self.pairs.edit
        if self.seed:
            return "Drawn without guidance", f"From the same noise, steered to {edit}"
        return "The given faces", f"Their counterfactuals, steered to {edit}"

    def _tell(self, pairs: Pairs) -> None:
        """The result, and in bold what came along: that is what this panel is there to show."""
        line, side = (html.escape(text) for text in (result_line(pairs), side_line(pairs)))
        self.status.value = f'<div role="status" style="{TEXT}">{line}<br><b>{side}</b></div>'

    def _show_moment(self, _change=None) -> None:
        if self.pairs is None or self.scrubber.value >= len(self.pairs.drawing.states):
            return
        drawing, k = self.pairs.drawing, self.scrubber.value
        count = len(drawing.timesteps)
        text = f"t = {drawing.timesteps[k]}, step {k + 1} of {count}" if k < count else "after the last step"
        self.replay.value = moment_html(drawing, k, text, self.side)
        self.moment.value = caption(text).value

    # -- the GIF -----------------------------------------------------------------------------------

    def _save(self, _button=None) -> None:
        self.ask(functools.partial(self._write_gif, self.settings(), Path.cwd()), self._show_gif, keep=True)

    def _write_gif(self, settings: dict, folder: Path) -> Generator[float, None, tuple]:
        shown = (self._drawn, self.pairs)
        result = shown if self._drawn == settings else (yield from self._draw(settings))
        path, frames = fresh_path(folder, file_stem(settings), ".gif"), way_frames(result[1])
        save_gif(path, frames)
        return path, path.read_bytes(), frames[0].shape[:2], result

    def _show_gif(self, written: tuple) -> None:
        path, content, size, result = written
        if result[1] is not self.pairs:
            self._show(result)
        alt = "the faces before, below them the states and the estimates, from noise to faces"
        show_saved(self.gif, self.saved, path, content, size, alt)

    # -- the still ---------------------------------------------------------------------------------

    def still(self) -> tuple[bytes, str] | None:
        if (pairs := self.pairs) is None:
            return None
        edit, names = pairs.edit, ("given", "counter-\nfactual")
        title = f"Steered to {edit}, scale {edit.guidance_scale:g}, {edit.steps} steps"
        if self.seed:
            title, names = f"{title}, seed {self._drawn['seed']}", ("without\nguidance", "steered")
        words = f"{title}. {result_line(pairs)} {side_line(pairs)}".strip()
        return still_of(pairs, names, title), words


def _check(target: int, count: int, images: Tensor | None, depth: int | None) -> None:
    if target not in (0, 1):
        raise ValueError(f"The target of an attribute must be 1 (yes) or 0 (no), got {target!r}.")
    if not 1 <= count <= LARGEST:
        raise ValueError(f"The number of faces must be between 1 and {LARGEST}, got {count}.")
    if images is None and depth is not None:
        raise ValueError("A depth says how far given faces are taken back: give images, too.")
