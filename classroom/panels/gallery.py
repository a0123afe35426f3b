"""Several pictures of one class, without a panel: what the weights know, who reads, words, rows, frames."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import ipywidgets as w
import numpy as np
import torch
from torch import Tensor

from classroom.panels.controls import card_defaults
from classroom.panels.digits import Drawing
from classroom.panels.panel import caption, image_html
from classroom.panels.paths import ORANGE
from lessons_lib import data
from lessons_lib.classifier import Evaluator
from lessons_lib.images import denoising_frames, png_bytes, to_pixels
from lessons_lib.pipeline import Model, load_model
from lessons_lib.weights import WeightsError, read_card

GAP, BETWEEN = 8, 2  # between two cells, between the state and the estimate in one: screen pixels
COLUMNS = 4  # so that a row fits beside the file browser on half a screen
LARGEST = 12  # pictures in one gallery


class Subject(NamedTuple):
    """What weights draw.

    names: of the K classes; empty if the network knows no labels.
    image_size, channels: of a picture.
    defaults: guidance_scale, sampler and steps that suit.
    num_timesteps: T.
    """

    names: tuple[str, ...]
    image_size: int
    channels: int
    defaults: dict
    num_timesteps: int

    def index(self, label: int | str | None) -> int:
        """The number of a class by number or name; None is the first.

        Raises:
            ValueError: if there is no such class.
        """
        if label is None:
            return 0
        if label in self.names:
            return self.names.index(label)
        if isinstance(label, int) and 0 <= label < max(len(self.names), 1):
            return label
        choice = ", ".join(self.names) or "none, the network knows no labels"
        raise ValueError(f"Unknown class {label!r}: choose from {choice}.")


def subject_of(source: str | Path | Model, class_names: Sequence[str] | None = None) -> Subject:
    """What these weights draw, from their card; of (network, schedule) what the network's config says.

    Weights that cannot be read are taken for CIFAR-10's: the first drawing will say what is wrong with them.

    Args:
        class_names: in place of the card's.

    Raises:
        ValueError: if there are more or fewer class_names than classes.
    """
    defaults, num_timesteps = card_defaults(source)
    if isinstance(source, tuple):
        config, named = vars(source[0].config), None
    else:
        try:
            card = read_card(source)
            config, named = card["config"], card.get("class_names")
        except WeightsError:
            named = data.CLASS_NAMES["cifar10"]
            config = {"num_classes": len(named), "image_size": 32, "in_channels": 3}
    count = config["num_classes"]
    if class_names is not None and len(class_names) != count:
        raise ValueError(f"There are {len(class_names)} class names for {count} classes.")
    names = _names(class_names or named, count)
    return Subject(names, config["image_size"], config["in_channels"], defaults, num_timesteps)


def _names(named: Sequence[str] | None, count: int) -> tuple[str, ...]:
    """K names; numbers if there are none that suit."""
    return tuple(map(str, named if named and len(named) == count else range(count)))


# -- who reads -------------------------------------------------------------------------------------


class Reader(NamedTuple):
    """The evaluator that reads the pictures: its weights, its classes; without one, None and why."""

    weights: str | Path | None
    names: tuple[str, ...] = ()
    note: str = ""


def suited_reader(evaluator: str | Path | None, subject: Subject) -> Reader:
    """The evaluator, if it is there and reads pictures of this size; otherwise nobody, and a sentence."""
    if evaluator is None:
        return Reader(None)
    try:
        network, _, card = load_model(evaluator)
    except WeightsError:
        return Reader(None, note="There is no evaluator on this machine to read them.")
    if not isinstance(network, Evaluator):
        return Reader(None, note=f"The weights {str(evaluator)!r} are no evaluator: they cannot read.")
    config = network.config
    its, mine = (config.in_channels, config.image_size), (subject.channels, subject.image_size)
    if its != mine:
        its, mine = (f"{channels}×{side}×{side}" for channels, side in (its, mine))
        note = f"The evaluator {str(evaluator)!r} reads pictures of {its} (C×H×W) and not of {mine}."
        return Reader(None, note=note)
    return Reader(evaluator, _names(card.get("class_names") or subject.names, config.num_classes))


def names_read(drawing: Drawing, reader: Reader) -> list[str]:
    """The class that is read in each picture; empty if nobody read them."""
    return [reader.names[reading.label] for reading in drawing.readings]


def texts_read(drawing: Drawing, reader: Reader) -> list[str]:
    """'cat 87%' for each picture, '3 (87%)' of classes that are numbers; empty texts if nobody read them."""
    read = zip(
        names_read(drawing, reader), (reading.probability for reading in drawing.readings), strict=True
    )
    texts = [f"{name} ({sure:.0%})" if name.isdigit() else f"{name} {sure:.0%}" for name, sure in read]
    return texts or [""] * len(drawing.images)


def result_line(drawing: Drawing, reader: Reader, asked: str | None, guidance_scale: float | None) -> str:
    """How many pictures are read as the class that was asked for, and the seconds.

    Args:
        asked: the name of the class; None if the network knows no labels.
    """
    took, read = f"Drawn in {drawing.milliseconds / 1000:.1f} s.", names_read(drawing, reader)
    if not read:
        return f"{reader.note} {took}".strip()
    if asked is None:
        return f"The evaluator reads {', '.join(read)}. {took}"
    if asked not in reader.names:
        return f"The evaluator knows no class {asked}; it reads {', '.join(read)}. {took}"
    verb = "is" if len(read) == 1 else "are"
    hits = f"{read.count(asked)} of {len(read)} {verb} read as {asked}"
    if guidance_scale == 0:
        return f"At scale 0 the network is not told the class: {hits} by the evaluator. {took}"
    return f"{hits} by the evaluator. {took}"


# -- pictures --------------------------------------------------------------------------------------


def side_of(image_size: int, count: int) -> int:
    """Of a finished picture on the screen: whole pixels where they fit."""
    largest = 128 if count > 2 else 224
    return largest // image_size * image_size or largest


def height_of(side: int, count: int, below: int) -> int:
    """Of `count` cells in rows of COLUMNS on the screen, each a picture and `below` pixels of text."""
    lines = -(-count // COLUMNS)
    return lines * (side + below) + (lines - 1) * GAP


def finished_html(drawing: Drawing, reader: Reader, asked: str | None, side: int) -> str:
    """The pictures, each above what is read in it; orange where something else was asked for."""
    cells, read = [], names_read(drawing, reader) or [asked] * len(drawing.images)
    texts = texts_read(drawing, reader)
    for k, (image, name, text) in enumerate(zip(drawing.images, read, texts, strict=True), start=1):
        seen = f", read as {text}" if text else ""
        alt = f"Picture {k}{f' of class {asked}' if asked else ''}{seen}"
        style = ORANGE if asked is not None and name != asked else ""
        words = f'<span style="{style}">{html.escape(text)}</span>'
        cells.append(_png(image, alt, side) + words)
    return _row(cells, side)


def moment_html(x_t: Tensor, x_0: Tensor, words: str, side: int) -> str:
    """Under each picture its state and its estimate [B, C, H, W] at one moment, half as large."""
    small = side // 2
    gap = f'<span style="display: inline-block; width: {BETWEEN}px"></span>'
    cells = []
    for k, (state, estimate) in enumerate(zip(x_t, x_0, strict=True), start=1):
        pair = (_png(state, f"State {k}, {words}", small), _png(estimate, f"Estimate {k}, {words}", small))
        cells.append(f'<div style="display: flex">{gap.join(pair)}</div>')
    return _row(cells, side)


def _png(image: Tensor, alt: str, side: int) -> str:
    return image_html(png_bytes(to_pixels(image)), alt, side, side)


def _row(cells: Sequence[str], side: int) -> str:
    style = f"width: {side + BETWEEN}px; text-align: center; line-height: 26px; white-space: nowrap"
    style += "; overflow: hidden; text-overflow: ellipsis"  # a user's own class may have a long name
    shown = "".join(f'<div style="{style}">{cell}</div>' for cell in cells)
    width = COLUMNS * (side + BETWEEN + GAP)
    return f'<div style="display: flex; flex-wrap: wrap; gap: {GAP}px; max-width: {width}px">{shown}</div>'


def gallery_frames(drawing: Drawing) -> list[np.ndarray]:
    """One frame for each moment: the states in a row, below each the estimate made from it."""
    count, size = len(drawing.images), drawing.images.shape[-1]
    moments = (torch.cat(drawing.moment(k)) for k in range(len(drawing.states)))
    return denoising_frames(moments, columns=count, scale=max(1, 64 // size))


def show_saved(
    gif: w.HTML, saved: w.HTML, path: Path, content: bytes, size: tuple[int, int], alt: str
) -> None:
    """Show a GIF that was written, and say where it is.

    Args:
        gif, saved: as `gif_controls` made them.
        size: height and width of a frame; wider ones than a panel are shown smaller.
    """
    height, width = size
    shown = min(width, 552)
    gif.value = image_html(content, f"{path.name}: {alt}", shown, round(height * shown / width))
    gif.layout.display = "block"
    saved.value = caption(f"Saved as <b>{path.name}</b> in {html.escape(str(path.parent))}").value


def file_stem(asked: str | None, guidance_scale: float | None, seed: int) -> str:
    """'cat-w2.0-seed0': a file's name for any name of a class."""
    if asked is None:
        return f"pictures-seed{seed}"
    plain = re.sub(r"[^\w-]+", "-", asked).strip("-")[:40] or "class"
    return f"{plain}-w{float(guidance_scale)}-seed{seed}"
