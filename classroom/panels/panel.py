"""The base of all panels: a panel states its controls and `draw`; everything else is here.

`draw` takes the controls' values by name and gives a Film; if it takes a while, it is a generator that yields
how far it is (0 … 1), or a Film that is shown meanwhile, and returns its Film. It runs off the main thread;
between two yields it is dropped if something newer was asked for. It sets no widget and prints nothing.
"""

from __future__ import annotations

import base64
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from inspect import isgenerator
from pathlib import Path

import anywidget
import ipywidgets as w
import numpy as np
import torch
import traitlets as t

from classroom.panels.controls import button, new_seed_button
from classroom.panels.drawing import finished
from classroom.panels.film import GUESSES, Film
from lessons_lib.data import DataError
from lessons_lib.files import WriteError
from lessons_lib.images import png_bytes, save_gif
from lessons_lib.memory import keep_freed_memory
from lessons_lib.weights import WeightsError

LINGER = 10.0  # seconds that an idle worker thread waits for the next request before it ends
REST = 0.4  # seconds without a move after which a slider is said to rest
FIRST_PICTURE = 30.0
HERE = Path(__file__).parent


class Strip(anywidget.AnyWidget):
    """The pictures of a panel on the page (strip.js), and the line below them."""

    _esm, _css = HERE / "strip.js", HERE / "strip.css"
    film = t.Dict().tag(sync=True)
    pixels = t.Bytes().tag(sync=True)
    moment = t.Int(10**6).tag(sync=True)  # what the scrubber shows; beyond the last one is the last one
    view = t.Unicode(GUESSES).tag(sync=True)
    chosen = t.List([0, 0]).tag(sync=True)  # row and cell that is enlarged
    busy = t.Unicode().tag(sync=True)  # what it is at work on
    progress = t.Float(0.0).tag(sync=True)
    said = t.Unicode().tag(sync=True)
    wrong = t.Bool(False).tag(sync=True)
    saved = t.Dict().tag(sync=True)


class Panel(w.VBox):
    """The base of all panels.

    Args:
        controls: name -> widget; each becomes an attribute, and its value an argument of `draw`.
        buttons: below the controls.
        more: names of the controls that are folded away until they are asked for.

    Attributes:
        strip: the pictures and the line below them.
        new_seed: a button, where there is a control "seed".
        film: the Film that is shown; None until the first is done.
    """

    def __init__(
        self, controls: Mapping[str, w.Widget], buttons: Sequence[w.Widget] = (), more: Sequence[str] = ()
    ) -> None:
        keep_freed_memory()  # drawing is a fifth faster
        self._changed = threading.Condition()
        self._queue: list[tuple[Callable, Callable | None]] = []  # (work, show), None: a file to be written
        self._current = self._worker = None
        self.controls, self.film, self.strip = dict(controls), None, Strip()
        for name, control in self.controls.items():
            setattr(self, name, control)
            control.observe(self.redraw, "value")
            if self.live and hasattr(control, "continuous_update"):
                control.continuous_update = True
        if "seed" in self.controls:
            self.new_seed = new_seed_button(self.seed)
            buttons = [*buttons, self.new_seed]
        self.strip.on_msg(self._heard)
        super().__init__([self._arranged(buttons, more)])
        self.add_class("steering-panel")
        self.redraw()

    def _arranged(self, buttons: Sequence[w.Widget], more: Sequence[str]) -> w.Widget:
        left = [control for name, control in self.controls.items() if name not in more]
        if more:
            folded = w.VBox([self.controls[name] for name in more], layout={"display": "none"})

            def unfold() -> None:
                folded.layout.display = None if folded.layout.display else "none"
                fold.icon = "caret-right" if folded.layout.display else "caret-down"

            fold = button("More", "Sampler, steps, seed and the like", unfold, "caret-right")
            left += [fold, folded]
        if buttons:
            row = w.Box(buttons)
            row.add_class("steering-buttons")
            left.append(row)
        column = w.VBox(left)
        column.add_class("steering-controls")
        columns = w.Box([column, self.strip] if left else [self.strip])
        columns.add_class("steering-columns")
        return columns

    # -- what a panel states -----------------------------------------------------------------------

    def draw(self, **settings) -> Film | Iterator[float | Film]:
        """The Film for these settings."""
        raise NotImplementedError

    first_picture = FIRST_PICTURE  # seconds that a display waits for the picture
    live = False  # draws while its sliders move: a generator with one more setting, `way`, see `_live`

    doing = "Drawing …"  # what is said meanwhile, with the settings in braces; nothing where it takes no time

    def busy(self, **settings) -> str:
        """What is said while it draws."""
        return self.doing.format(**settings)

    # -- asking ------------------------------------------------------------------------------------

    @property
    def settings(self) -> dict:
        """The controls' values, by name: the arguments of `draw`."""
        return {name: control.value for name, control in self.controls.items()}

    def redraw(self, _change=None) -> None:
        """Have the controls' Film drawn and shown; what was asked for before and is not done is dropped."""
        settings = self.settings
        if self.live:
            return self.ask(lambda: self._live(settings, REST if _change else 0.0), self.show)
        self.strip.busy = self.busy(**settings)
        self.ask(lambda: self.draw(**settings), self.show)

    def _live(self, settings: dict, rest: float) -> Iterator[float]:
        """The picture alone; once no control has moved for `rest` seconds, all of its Film."""
        # It is shown though something newer waits: while a slider moves, something always does.
        self.show(finished(self.draw(**settings)).ended())
        with self._changed:
            self._changed.wait_for(lambda: self._queue, rest)
        yield 0.0  # the end, if something newer was asked for
        film = yield from self.draw(**settings, way=True)
        # Each moment is one jump from the noise, not a step after the one before.
        return replace(film, moments=[text.rpartition(", ")[2] for text in film.moments])

    def ask(self, work: Callable, show: Callable | None = None) -> None:
        """Have work done off the main thread.

        Args:
            work: gives a result, or is a generator function, see the module.
            show: called with the result in the worker thread. None: this is not dropped for newer work.
        """
        with self._changed:
            if show:
                self._queue = [job for job in self._queue if not job[1]]
            self._queue.append((work, show))
            if self._worker is None:
                self._worker = threading.Thread(target=self._serve, name=type(self).__name__, daemon=True)
                self._worker.start()
            self._changed.notify_all()

    def wait(self, timeout: float | None = 60.0) -> bool:
        """Block until everything asked for is shown; False if `timeout` seconds were not enough."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._queue and self._current is None, timeout)

    def show(self, film: Film) -> None:
        """Put a finished Film on the page."""
        self.film = film
        self._put(film)

    def _put(self, film: Film) -> None:
        told, pixels = film.encoded()
        with self.strip.hold_sync():
            # With a number of its own: two films may be equal but for their pixels, and one event is heard.
            self.strip.film, self.strip.pixels = told | {"id": self.strip.film.get("id", 0) + 1}, pixels
            self.say(film.line)

    def say(self, text: str, wrong: bool = False) -> None:
        """Show plain text in the line below the pictures; an error is an alert."""
        with self.strip.hold_sync():
            self.strip.said, self.strip.wrong, self.strip.busy = text, wrong, ""

    # -- the worker thread -------------------------------------------------------------------------

    def _serve(self) -> None:
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: self._queue, LINGER):
                    self._worker = None
                    return
                self._current = job = self._queue.pop(0)
            self._answer(*job)
            with self._changed:
                self._current = None
                self._changed.notify_all()

    def _answer(self, work: Callable, show: Callable | None) -> None:
        try:
            parts = self._parts(work, show)
            for part in parts:
                if self._is_stale(show):
                    parts.close()
                elif isinstance(part, Film):
                    self._put(part)
                else:
                    self.strip.progress = part
        except BaseException as error:  # even a learner's exit() must not end the worker thread
            if not self._is_stale(show):
                self.say(sentence(error), wrong=True)
        self.strip.progress = 0.0

    def _parts(self, work: Callable, show: Callable | None) -> Iterator[float | Film]:
        result = work()
        if isgenerator(result):
            result = yield from result
        if show and not self._is_stale(show):
            show(result)

    def _is_stale(self, show: Callable | None) -> bool:
        with self._changed:
            return bool(show) and any(newer for _, newer in self._queue)

    # -- files and pages without a kernel ----------------------------------------------------------

    def _heard(self, _strip, content: dict, _buffers) -> None:
        if content.get("kind") == "save":
            self.save()

    def save(self) -> None:
        """Write the way from noise to picture as a GIF into my_work/."""
        film, view = self.film, self.strip.view
        self.ask(lambda: self._write_gif(film, view, Path.cwd()))

    def _write_gif(self, film: Film | None, view: str, here: Path) -> None:
        if film is None or not film.stem:
            raise ValueError("There is nothing to save yet.")
        course = next((folder for folder in (here, *here.parents) if (folder / "lessons_lib").is_dir()), here)
        count = max(row.frames for row in film.pictures)
        path, frames = fresh_path(course / "my_work", film.stem), [film.page(k, view) for k in range(count)]
        save_gif(path, frames)
        self.strip.saved = {"name": path.name, "data": base64.b64encode(path.read_bytes()).decode()}

    def still(self) -> tuple[np.ndarray, str] | None:
        """The panel as it stands, as (pixels, two for one; what is to be seen in words); None: nothing."""
        picture = None if self.film is None else self.film.still(self.strip.moment)
        return None if picture is None else (picture, self.film.alt())

    def _repr_mimebundle_(self, **kwargs):
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is None:
            return None
        # Pages without a kernel (GitHub, nbviewer, a book) show the still; JupyterLab prefers the panel.
        # voila's page is live and its next panel waits for this one, so it gets none.
        drawn = self.wait(self.first_picture)
        still = self.still() if drawn and "VOILA_BASE_URL" not in os.environ else None
        if still is None:
            return bundle
        picture, alt = still
        return with_still(bundle, png_bytes(picture), alt, picture.shape[1] // 2)


def with_still(bundle: dict, png: bytes, alt: str, width: int):
    """A widget's mimebundle, with a picture for pages without a kernel."""
    content = base64.b64encode(png).decode()
    return bundle | {"image/png": content, "text/plain": alt}, {"image/png": {"alt": alt, "width": width}}


def fresh_path(folder: Path, stem: str) -> Path:
    """A GIF's path that no file has yet: stem, then stem-2, stem-3 …"""
    paths = (folder / f"{stem}{'' if k == 1 else f'-{k}'}.gif" for k in range(1, 100_000))
    return next(path for path in paths if not path.exists())


def sentence(error: BaseException) -> str:
    """What went wrong, in one sentence for the reader."""
    text = " ".join(str(error).split())[:400]
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "not enough memory" in text:
        return "There is not enough memory for this: close other programs, or ask for less."
    if isinstance(error, (ValueError, WeightsError, DataError, WriteError)) and text:
        return text
    return f"Something went wrong: {text or type(error).__name__}"
