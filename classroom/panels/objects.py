"""The object generator: pictures of one class side by side, what is read in them, and how they came about."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import NamedTuple

from classroom.panels import controls
from classroom.panels.drawing import Drawing, drawn
from classroom.panels.film import Film, Row
from classroom.panels.panel import Panel
from lessons_lib import data
from lessons_lib.classifier import Evaluator
from lessons_lib.pipeline import GenerationRequest, load_model
from lessons_lib.weights import WeightsError, read_card

LARGEST = 12  # pictures side by side
MAX_SCALE = 7.0


class Subject(NamedTuple):
    """What weights draw: the names of K classes (none: it knows no labels), the picture, defaults, T."""

    names: tuple[str, ...]
    image_size: int
    channels: int
    defaults: dict
    num_timesteps: int

    def index(self, label: int | str | None) -> int:
        """The number of a class by number or name; None is the first. ValueError if there is none such."""
        if label in self.names:
            return self.names.index(label)
        if label is None or (isinstance(label, int) and 0 <= label < max(len(self.names), 1)):
            return label or 0
        choice = ", ".join(self.names) or "none, the network knows no labels"
        raise ValueError(f"Unknown class {label!r}: choose from {choice}.")


def subject_of(weights: str | Path) -> Subject:
    """What these weights draw, from their card; CIFAR-10's if it cannot be read: the drawing will say why."""
    names = data.CLASS_NAMES["cifar10"]
    config = {"num_classes": len(names), "image_size": 32, "in_channels": 3}
    try:
        card = read_card(weights)
        config, names = card["config"], card.get("class_names")
    except WeightsError:
        pass
    names = named(names, config["num_classes"])
    return Subject(names, config["image_size"], config["in_channels"], *controls.card_defaults(weights))


def named(names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    """The K names; numbers if there are none that suit."""
    return tuple(map(str, names if names and len(names) == count else range(count)))


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
    shapes = (config.in_channels, config.image_size), (subject.channels, subject.image_size)
    if shapes[0] != shapes[1]:
        reads, draws = (f"{channels}×{side}×{side}" for channels, side in shapes)
        note = f"The evaluator {str(evaluator)!r} reads pictures of {reads} (C×H×W) and not of {draws}."
        return Reader(None, note=note)
    return Reader(evaluator, named(card.get("class_names") or subject.names, config.num_classes))


class ObjectGenerator(Panel):
    """Draws several pictures of one class at each move of a slider, each from its own noise.

    The classes are those on the card of the weights. Weights without labels get neither a class nor a scale.

    Args:
        label: the class at first, by name or number; None: the first one.
        count: pictures, 1 … 12; picture k comes from the noise of (seed, k).
    """

    doing = "Drawing pictures …"

    def __init__(
        self, weights: str | Path = "cifar10-denoiser", evaluator: str | Path | None = "cifar10-evaluator", *,
        label: int | str | None = None, guidance_scale: float | None = None, count: int = 4, seed: int = 0,
        steps: int | None = None,
    ) -> None:  # fmt: skip
        if not 1 <= count <= LARGEST:
            raise ValueError(f"The number of pictures must be between 1 and {LARGEST}, got {count}.")
        self.weights, self.evaluator, self.count = weights, evaluator, count
        self.subject = subject = subject_of(weights)
        scale = subject.defaults.get("guidance_scale", 2.0) if guidance_scale is None else guidance_scale
        classes, first = [(name, k) for k, name in enumerate(subject.names)], subject.index(label)
        shown = {"label": controls.dropdown("Class", classes, first)} if len(classes) > 1 else {}
        shown |= {"guidance_scale": controls.scale_slider(scale, MAX_SCALE, 0.5)} if classes else {}
        shown["steps"] = controls.steps_slider(steps or subject.defaults["steps"], subject.num_timesteps)
        shown["seed"] = controls.seed_box(seed)
        super().__init__(shown)

    def draw(
        self, steps: int, seed: int, label: int = 0, guidance_scale: float | None = None
    ) -> Generator[float, None, Film]:
        names, reader = self.subject.names, suited_reader(self.evaluator, self.subject)
        request = GenerationRequest(
            (label,) * self.count, self.weights, "cfg" if names else "none", steps=steps, seed=seed,
            guidance_scale=guidance_scale,
        )  # fmt: skip
        drawing = yield from drawn(request, evaluator=reader.weights)
        name = names[label] if names else None
        read = [reader.names[reading.label] for reading in drawing.readings]
        texts = [
            f"{one} {reading.probability:.0%}" for one, reading in zip(read, drawing.readings, strict=True)
        ]
        marks = [one != name for one in read] if name in reader.names else []
        alts = [f"Picture {k + 1}{f' of class {name}' if name else ''}" for k in range(self.count)]
        side = 140 if self.count > 2 else 224
        row = Row(drawing.views(), "", texts, alts=alts, marks=marks, side=side, lines=2)
        wanted = "Pictures" if name is None else f"Class {name}, guidance scale {guidance_scale:g}"
        return Film(
            [row], result_line(drawing, reader, read, name, guidance_scale),
            f"{wanted}, seed {seed}, {len(drawing.timesteps)} steps", drawing.moments(), drawing,
            file_stem(name, guidance_scale, seed),
        )  # fmt: skip


def result_line(
    drawing: Drawing, reader: Reader, read: Sequence[str], name: str | None, guidance_scale: float | None
) -> str:
    """How many pictures are read as the class `name` that was asked for (None: no labels), and the time."""
    if not read:
        return f"{reader.note} {drawing.took}".strip()
    if name is None:
        return f"The evaluator reads {', '.join(read)}. {drawing.took}"
    if name not in reader.names:
        return f"The evaluator knows no class {name}; it reads {', '.join(read)}. {drawing.took}"
    verb = "is" if len(read) == 1 else "are"
    hits = f"{read.count(name)} of {len(read)} {verb} read as {name} by the evaluator. {drawing.took}"
    return f"At scale 0 the network is not told the class: {hits}" if guidance_scale == 0 else hits


def file_stem(name: str | None, guidance_scale: float | None, seed: int) -> str:
    """'cat-w2.0-seed0': a file's name for any name of a class."""
    if name is None:
        return f"pictures-seed{seed}"
    plain = re.sub(r"[^\w-]+", "-", name).strip("-")[:40] or "class"
    return f"{plain}-w{float(guidance_scale)}-seed{seed}"
