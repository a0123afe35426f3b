"""The manners of every panel: work off the main thread, newest request wins, errors as sentences, a still.

A panel asks for work with `Panel.ask`. The work is a plain function or, if it takes a while, a generator that
yields how far it is (0 … 1) and returns its result; between two yields it is dropped if something newer was
asked for. Its result goes to a `show` function that sets widget values and does nothing else: no print and no
pyplot, which would end up in whatever cell happens to run.
"""

from __future__ import annotations

import base64
import html
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from inspect import isgenerator
from pathlib import Path

import ipywidgets
import torch
from torch import Tensor

from classroom import figures
from lessons_lib.data import DataError
from lessons_lib.files import WriteError
from lessons_lib.images import png_bytes, to_pixels
from lessons_lib.memory import keep_freed_memory
from lessons_lib.weights import WeightsError

PATIENCE = 0.5  # seconds of work before the progress bar appears
LINGER = 10.0  # seconds that an idle worker thread waits for the next request before it ends
FIRST_PICTURE = 30.0  # seconds that a display waits for the picture to be drawn
TEXT = "line-height: 20px; overflow-wrap: anywhere"
BORDER, PADDING = "1px solid var(--jp-border-color2, #bdbdbd)", "12px 16px"  # of the card that a panel is


@dataclass(frozen=True, eq=False)
class _Job:
    work: Callable
    show: Callable
    keep: bool  # never dropped for something newer: a file that was asked for is written


class Panel(ipywidgets.VBox):
    """The base of all panels; a subclass puts `self.progress` and `self.status` among its children.

    Attributes:
        status: one line of text for readers: the result, or the error in a sentence.
        progress: a bar that appears when a request takes longer than half a second.
    """

    def __init__(self, **kwargs) -> None:
        keep_freed_memory()  # drawing is a fifth faster
        self._changed = threading.Condition()
        self._queue: list[_Job] = []
        self._current: _Job | None = None
        self._worker: threading.Thread | None = None
        # Hidden, not absent, and room for two lines of text: nothing below may jump when they come and go.
        # JupyterLab takes the bar's own margin off its height: less than 14 pixels leave nothing to see.
        bar = ipywidgets.Layout(width="100%", height="14px", margin="0", visibility="hidden")
        self.progress = ipywidgets.FloatProgress(0, min=0, max=1, layout=bar)
        self.status = ipywidgets.HTML(layout=ipywidgets.Layout(width="100%", min_height="44px"))
        super().__init__(**kwargs)
        self.layout.border, self.layout.padding = BORDER, PADDING

    # -- asking ------------------------------------------------------------------------------------

    def ask(self, work: Callable, show: Callable, keep: bool = False) -> None:
        """Have work done off the main thread; what was asked before and is not done yet is dropped.

        Args:
            work: a function without arguments that returns a result, or a generator function that yields its
                progress (0 … 1) and returns a result.
            show: called with the result, in the worker thread; sets widget values only.
            keep: this one is not dropped for newer ones (writing a file).
        """
        with self._changed:
            if not keep:
                self._queue = [job for job in self._queue if job.keep]
            self._queue.append(_Job(work, show, keep))
            if self._worker is None:
                self._worker = threading.Thread(target=self._serve, name=type(self).__name__, daemon=True)
                self._worker.start()
            self._changed.notify_all()

    def wait(self, timeout: float | None = 60.0) -> bool:
        """Block until everything asked for is shown; False if `timeout` seconds were not enough."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._queue and self._current is None, timeout)

    def say(self, text: str) -> None:
        """Show plain text in the status line."""
        self.status.value = f'<div role="status" style="{TEXT}">{html.escape(text)}</div>'

    def complain(self, text: str) -> None:
        """Show an error in the status line; the controls keep their values and go on working."""
        style = f"{TEXT}; color: var(--jp-error-color1, #b00020)"
        self.status.value = f'<div role="alert" style="{style}">{html.escape(text)}</div>'

    # -- the worker thread -------------------------------------------------------------------------

    def _serve(self) -> None:
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: self._queue, LINGER):
                    self._worker = None
                    return
                self._current = job = self._queue.pop(0)
            self._answer(job)
            with self._changed:
                self._current = None
                self.progress.layout.visibility = "hidden"
                self._changed.notify_all()

    def _answer(self, job: _Job) -> None:
        self.progress.value = 0
        timer = threading.Timer(PATIENCE, self._show_progress, [job])
        timer.daemon = True
        timer.start()
        try:
            parts = self._parts(job)
            for self.progress.value in parts:
                if self._is_stale(job):
                    parts.close()
        except BaseException as error:  # even a learner's exit() must not end the worker thread
            if not self._is_stale(job):
                self.complain(sentence(error))
        finally:
            timer.cancel()

    def _parts(self, job: _Job) -> Iterator[float]:
        """How far the work is, time and again; then its result is shown."""
        result = job.work()
        if isgenerator(result):
            result = yield from result
        if not self._is_stale(job):
            job.show(result)

    def _is_stale(self, job: _Job) -> bool:
        with self._changed:
            return not job.keep and any(not newer.keep for newer in self._queue)

    def _show_progress(self, job: _Job) -> None:
        with self._changed:  # or the bar could appear just after the work was done, and stay
            if self._current is job:
                self.progress.layout.visibility = "visible"

    # -- being displayed ---------------------------------------------------------------------------

    def still(self) -> tuple[bytes, str] | None:
        """The panel as it stands, as (PNG bytes, what is to be seen in words); None if there is none."""
        return None

    def _repr_mimebundle_(self, **kwargs):
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is None:
            return None
        # Pages without a kernel (GitHub, nbviewer, a book) show the still; JupyterLab prefers the panel.
        # voila's page is live and its next panel waits for this one, so it gets none.
        drawn = self.wait(FIRST_PICTURE)
        still = self.still() if drawn and "VOILA_BASE_URL" not in os.environ else None
        if still is None:
            return bundle
        picture, alt = still
        bundle |= {"image/png": base64.b64encode(picture).decode(), "text/plain": alt}
        return bundle, {"image/png": {"alt": alt}}


def image_html(content: bytes, alt: str, width: int, height: int) -> str:
    """An image as HTML with a text for those who cannot see it, enlarged with hard pixels.

    ipywidgets' own Image has no such text. Its fixed size and synchronous decoding keep it from flickering.

    Args:
        content: of a PNG or GIF.
        width, height: on the screen, in pixels.
    """
    kind = "gif" if content.startswith(b"GIF") else "png"
    style = "image-rendering: pixelated; display: block; margin: 0; max-width: none"
    source = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    size = f'width="{width}" height="{height}"'
    return f'<img {size} alt="{html.escape(alt)}" decoding="sync" style="{style}" src="{source}">'


def caption(text: str) -> ipywidgets.HTML:
    """A small line under a picture; HTML."""
    return ipywidgets.HTML(f'<span style="font-size: 90%">{text}</span>', layout={"margin": "0"})


class Picture(ipywidgets.HTML):
    """An image of fixed size, so that nothing moves when its content changes; square without a height."""

    def __init__(self, pixels: int, height: int | None = None) -> None:
        self.pixels, self.height = pixels, height or pixels
        size = {"width": f"{pixels}px", "height": f"{self.height}px"}
        super().__init__(layout=size | {"margin": "0", "flex": "0 0 auto"})

    def show(self, image: Tensor, alt: str) -> None:
        """Show the first image of [B, C, H, W]."""
        content = png_bytes(to_pixels(image[0]))
        self.value = image_html(content, alt, self.pixels, self.height)


def fresh_path(folder: Path, stem: str, suffix: str) -> Path:
    """A path that no file has yet: stem, then stem-2, stem-3 …"""
    names = (f"{stem}{'' if k == 1 else f'-{k}'}{suffix}" for k in range(1, 100_000))
    return next(folder / name for name in names if not (folder / name).exists())


def still_picture(
    rows: dict[str, Tensor], title: str, columns: Sequence[str] = (), size: float = 0.85
) -> bytes:
    """Rows of images under a title, as a PNG for pages that no kernel stands behind."""
    fig = figures.image_row(rows, columns, size, title)
    return figures.figure_png(fig, fig.dpi)


def sentence(error: BaseException) -> str:
    """What went wrong, in one sentence for the reader."""
    text = " ".join(str(error).split())[:400]
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "not enough memory" in text:
        return "There is not enough memory for this: close other programs, or ask for less."
    if isinstance(error, (ValueError, WeightsError, DataError, WriteError)) and text:
        return text
    return f"Something went wrong: {text or type(error).__name__}"
