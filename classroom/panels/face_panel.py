"""The face panel: given faces steered to one attribute, and what else came along."""

from __future__ import annotations

import re
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import ipywidgets as w
import torch
from torch import Tensor

from classroom.panels import controls
from classroom.panels.drawing import Drawing, part_of, recorded
from classroom.panels.film import Film, Row, seconds
from classroom.panels.objects import Reader, subject_of, suited_reader
from classroom.panels.panel import Panel
from lessons_lib import data
from lessons_lib.counterfactuals import Abducted, in_8_bits
from lessons_lib.data import to_unit
from lessons_lib.guidance import unconditional
from lessons_lib.images import difference_maps
from lessons_lib.names import place_of
from lessons_lib.pipeline import CounterfactualRequest, load_model
from lessons_lib.samplers import ddim_invert
from lessons_lib.weights import WeightsError, read_card

LARGEST = 8  # faces side by side
NAMED = 3  # side effects in the line of result
SEEN = 0.005  # half a point: a smaller change would be shown as 0
GAIN = 3  # a smile changes few pixels by more than a tenth, which would hardly be seen


@dataclass(frozen=True, eq=False)
class Pairs:
    """N faces before and after `attribute` was steered to `target` (1 yes, 0 no), and what is read in both.

    before, after: [N, C, H, W] in [-1, 1].
    read: (before, after), the probabilities [N, A] of the reader's attributes; None if nobody read them.
    """

    attribute: str
    target: int
    before: Tensor
    after: Tensor
    read: tuple[Tensor, Tensor] | None
    reader: Reader

    def __str__(self) -> str:
        return f"{spoken(self.attribute)}: {('no', 'yes')[self.target]}"

    def probabilities(self) -> tuple[list[float], list[float]] | None:
        """Of the attribute that was asked for, before and after; None if nobody read it."""
        if self.read is None or self.attribute not in self.reader.names:
            return None
        place = self.reader.names.index(self.attribute)
        return tuple(read[:, place].tolist() for read in self.read)

    def misread(self, probability: float) -> bool:
        """Whether a face of this probability is not read as what was asked for."""
        return (probability >= 0.5) != bool(self.target)

    def side_effects(self) -> list[tuple[str, float]]:
        """The other attributes with the mean change of their probability, the largest first."""
        change = (self.read[1] - self.read[0]).mean(dim=0).tolist()
        others = zip(self.reader.names, change, strict=True)
        return sorted((pair for pair in others if pair[0] != self.attribute), key=lambda pair: -abs(pair[1]))

    def line(self) -> str:
        """How many faces are read as asked before and after, how far they changed, and what else changed."""
        change = (to_unit(in_8_bits(self.after)) - to_unit(in_8_bits(self.before))).abs().mean()
        changed = f"Mean change of a pixel {change:.3f} (of 0 to 1)."
        if self.read is None:
            return f"{self.reader.note} {changed}".strip()
        seen = [pair for pair in self.side_effects()[:NAMED] if abs(pair[1]) >= SEEN]
        words = [f"{spoken(name)} {100 * part:+.0f}".replace("-", "−") for name, part in seen]
        also = ", ".join([f"{words[0]} points", *words[1:]]) if words else "nothing that the evaluator reads"
        read, count = self.probabilities(), len(self.before)
        if read is None:
            return (
                f"The evaluator knows no attribute {spoken(self.attribute)}. {changed} Also changed: {also}."
            )
        before, after = (sum(not self.misread(p) for p in faces) for faces in read)
        hits = f"Read as asked ({self}): {before} of {count} before, {after} of {count} after."
        return f"{hits} {changed} Also changed: {also}."


class FacePanel(Panel):
    """Faces, their counterfactuals for one attribute, what changed, and which other attributes came along.

    Args:
        images: [N, 3, S, S] in [-1, 1].
        classifier: what steers: yes-or-no attributes of noisy images.
        attribute: the one asked for at first; case, spaces and "-" for "_" do not matter.
        target: 1 asks for yes, 0 for no.
        guidance_scale: s at first; 0 unguided, 1 Bayes' rule. None: as the classifier's card says.
        count: faces side by side, 1 … 8; of more given faces a slider chooses.
        depth: how far the faces are taken back, 0 … T-1; None is the whole way.
    """

    doing = "Steering the faces to {attribute} …"

    def __init__(
        self, images: Tensor, *, weights: str | Path = "celeba-denoiser",
        classifier: str | Path = "celeba-classifier", evaluator: str | Path | None = "celeba-evaluator",
        attribute: str = "Smiling", target: int = 1, guidance_scale: float | None = None, count: int = 4,
        steps: int | None = None, depth: int | None = None,
    ) -> None:  # fmt: skip
        self.images, self.count = _checked(images, target, count), min(count, len(images))
        self.weights, self.classifier, self.evaluator, self.depth = weights, classifier, evaluator, depth
        names, attribute = choices(classifier, attribute)
        self.subject = subject_of(weights)
        self._kept: tuple[tuple[int, int], Abducted] | None = None  # of (first face, steps), for every wish
        if guidance_scale is None:
            guidance_scale = controls.card_defaults(classifier)[0].get("guidance_scale", 1.0)
        most = max(12.0, 4 * guidance_scale)
        total = len(images)
        # The last ones may have been seen already: there are always as many.
        firsts = [min(k, total - self.count) for k in range(0, total, self.count)]
        options = [(f"{k + 1}–{k + self.count}" if self.count > 1 else str(k + 1), k) for k in firsts]
        shown = {
            "attribute": controls.dropdown("Attribute", [(spoken(name), name) for name in names], attribute),
            "target": controls.toggle("Asked for", [("yes", 1), ("no", 0)], int(target)),
            "guidance_scale": controls.scale_slider(guidance_scale, most, 0.5 if most <= 32 else most / 64),
            "steps": controls.steps_slider(
                steps or self.subject.defaults["steps"], self.subject.num_timesteps
            ),
        }
        if total > self.count:
            shown["first"] = controls.control(w.SelectionSlider, "Faces", 0, options=options)
        super().__init__(shown)

    def draw(
        self, attribute: str, target: int, guidance_scale: float, steps: int, first: int = 0
    ) -> Generator[float, None, Film]:
        started, faces = time.perf_counter(), self.images[first : first + self.count]
        request = CounterfactualRequest(
            (1 - target,) * self.count, (target,) * self.count, self.weights, method="ddim", steps=steps,
            guidance="classifier", classifier=self.classifier, attribute=attribute, depth=self.depth,
            guidance_scale=guidance_scale,
        )  # fmt: skip
        drawing = yield from self._steered(request, faces, (first, steps))
        reader, read = suited_reader(self.evaluator, self.subject), None
        if reader.weights and not load_model(reader.weights)[0].config.multi_label:
            note = f"The evaluator {str(reader.weights)!r} reads classes, not attributes."
            reader = Reader(None, note=note)
        if reader.weights:
            both = in_8_bits(torch.cat([faces, drawing.images]))  # as the pictures that one sees
            read = load_model(reader.weights)[0].probabilities(both).chunk(2)
        pairs = Pairs(attribute, target, faces, drawing.images, read, reader)
        nothing = "At scale 0 nothing steers. " if guidance_scale == 0 else ""
        line = f"{nothing}{pairs.line()} {seconds(1000 * (time.perf_counter() - started))}."
        name = re.sub(r"[\W_]+", "-", attribute).strip("-").lower()[:40] or "attribute"
        return Film(
            self._rows(pairs, drawing), line, f"Steered to {pairs}, scale {guidance_scale:g}, {steps} steps",
            drawing.moments(), pairs,
            f"{name}-{('no', 'yes')[target]}-s{float(guidance_scale)}-face{first + 1}",
        )  # fmt: skip

    def _steered(
        self, request: CounterfactualRequest, faces: Tensor, key: tuple[int, int]
    ) -> Generator[float, None, Drawing]:
        """What becomes of the faces, from what DDIM inversion finds for them."""
        plan = request.plan()
        if tuple(faces.shape[1:]) != plan.image_shape:
            shapes = ("×".join(map(str, shape)) for shape in (plan.image_shape, faces.shape[1:]))
            raise ValueError(
                "The denoiser draws pictures of {} (C×H×W), but the faces have {}.".format(*shapes)
            )
        if self._kept is None or self._kept[0] != key:
            x_T, inversion = (
                faces,
                ddim_invert(unconditional(plan.network), plan.schedule, faces, plan.timesteps),
            )
            for k, step in enumerate(inversion, start=1):
                x_T = step.x_t
                yield k / len(plan.timesteps) / 2
            self._kept = key, Abducted(x_T, plan.timesteps)
        abducted = self._kept[1]
        steps = recorded(abducted.x, plan.predict(abducted), len(plan.timesteps))
        return (yield from part_of(steps, 1, 2))

    def _rows(self, pairs: Pairs, drawing: Drawing) -> list[Row]:
        read, side, few = pairs.probabilities() or ((), ()), 140 if self.count <= 4 else 84, self.count <= 4
        name = spoken(pairs.attribute)
        texts = [[f"{name} {p:.0%}" if few else f"{p:.0%}" for p in faces] for faces in read]
        marks = [pairs.misread(p) for p in read[1]]
        alts = [
            [f"Face {k + 1} {when}" for k in range(self.count)] for when in ("before", "after", "changed")
        ]
        change = GAIN * (pairs.after - pairs.before) / 2  # [N, C, H, W], to be shown from -1 to 1
        # Two images in range differ by so much in neither direction: half of it on grey, then doubled.
        maps = 2 * difference_maps(change.clamp(-1, 1), torch.zeros_like(change)) - 1
        heading = f"What changed, ×{GAIN}: orange became brighter, blue darker"
        return [
            Row.of(pairs.before, "The given faces", texts=texts[0], alts=alts[0], side=side),
            Row(
                drawing.views(),
                f"Their counterfactuals, steered to {pairs}",
                texts[1],
                (),
                marks,
                alts[1],
                side,
            ),
            Row.of(maps, heading, alts=alts[2], side=side),
        ]


def spoken(attribute: str) -> str:
    """The name of an attribute for people."""
    return attribute.replace("_", " ")


def choices(classifier: str | Path, attribute: str) -> tuple[list[str], str]:
    """The attributes to choose from, and the first one, as the classifier's card spells them.

    Without a card that names attributes they are CelebA's: the first drawing will say what is wrong.
    """
    try:
        card = read_card(classifier)
    except WeightsError:
        card = {"config": {}}
    if not card["config"].get("multi_label"):
        return list(dict.fromkeys([attribute, *data.ATTRIBUTES])), attribute
    names = list(card.get("class_names") or map(str, range(card["config"]["num_classes"])))
    return names, names[place_of(attribute, names, "attribute")]


def _checked(images: Tensor, target: int, count: int) -> Tensor:
    """The given faces as 8-bit pixels in [-1, 1]."""
    if target not in (0, 1):
        raise ValueError(f"The target of an attribute must be 1 (yes) or 0 (no), got {target!r}.")
    if not 1 <= count <= LARGEST:
        raise ValueError(f"The number of faces must be between 1 and {LARGEST}, got {count}.")
    shape = list(getattr(images, "shape", ()))
    if len(shape) != 4 or shape[0] == 0:
        raise ValueError(f"Give one face or more as [N, C, H, W], got shape {shape}.")
    if not bool((images.abs() <= 1.001).all()):
        ends = f"{images.min():g} to {images.max():g}"
        raise ValueError(f"The faces must lie in [-1, 1], got values from {ends}.")
    return in_8_bits(images.detach().float().cpu())
