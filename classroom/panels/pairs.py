"""Faces before and after one attribute was asked for, without a panel: drawn, given, read, and in words."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from classroom.panels.digits import Drawing, drawing_steps
from classroom.panels.gallery import Reader, Subject, suited_reader
from classroom.panels.paths import paths_of
from classroom.panels.same_noise_rows import share_of
from lessons_lib import data
from lessons_lib.counterfactuals import Abducted, in_8_bits
from lessons_lib.data import to_signed, to_unit
from lessons_lib.guidance import unconditional
from lessons_lib.names import place_of
from lessons_lib.pipeline import (
    CounterfactualPlan,
    CounterfactualRequest,
    GenerationRequest,
    Model,
    load_model,
)
from lessons_lib.samplers import ddim_invert
from lessons_lib.weights import WeightsError, read_card

LARGEST = 8  # faces side by side
NAMED = 3  # side effects in the line of result
SEEN = 0.005  # half a point: a smaller change would be shown as 0


class FaceEdit(NamedTuple):
    """What is asked of the faces: attribute, target (1 yes, 0 no), guidance scale s, steps."""

    attribute: str
    target: int
    guidance_scale: float
    steps: int

    def __str__(self) -> str:
        return f"{spoken(self.attribute)}: {('no', 'yes')[self.target]}"


@dataclass(frozen=True, eq=False)
class Pairs:
    """N faces, what became of them, and what is read in both.

    edit: what was asked for.
    before: [N, C, H, W] in [-1, 1].
    drawing: its images [N, C, H, W] are the faces after; its states and estimates are the way there.
    read: (before, after), the probabilities [N, A] of the reader's attributes; None if nobody read them.
    reader: who read.
    seconds: for all of it.
    """

    edit: FaceEdit
    before: Tensor
    drawing: Drawing
    read: tuple[Tensor, Tensor] | None
    reader: Reader
    seconds: float

    @property
    def after(self) -> Tensor:
        """[N, C, H, W] in [-1, 1]."""
        return self.drawing.images

    def probabilities(self) -> tuple[list[float], list[float]] | None:
        """Of the attribute that was asked for, before and after; None if nobody read it."""
        if self.read is None or self.edit.attribute not in self.reader.names:
            return None
        place = self.reader.names.index(self.edit.attribute)
        return tuple(each[:, place].tolist() for each in self.read)

    def as_asked(self, probability: float) -> bool:
        """Whether a face of this probability is read as what was asked for."""
        return (probability >= 0.5) == bool(self.edit.target)

    def distance(self) -> float:
        """The mean absolute change of a pixel in [0, 1]."""
        return float((to_unit(in_8_bits(self.after)) - to_unit(in_8_bits(self.before))).abs().mean())

    def side_effects(self) -> list[tuple[str, float]]:
        """The other attributes with the mean change of their probability, the largest first."""
        if self.read is None:
            return []
        change = (self.read[1] - self.read[0]).mean(dim=0).tolist()
        found = [
            pair for pair in zip(self.reader.names, change, strict=True) if pair[0] != self.edit.attribute
        ]
        return sorted(found, key=lambda pair: -abs(pair[1]))


# -- what can be asked for -------------------------------------------------------------------------


def spoken(attribute: str) -> str:
    """The name of an attribute for people."""
    return attribute.replace("_", " ")


def choices(
    classifier: str | Path, attribute: str, attributes: Sequence[str] | None
) -> tuple[list[str], str]:
    """The attributes to choose from, and the first one, as the classifier's card spells them.

    Without a card that names attributes they are taken as they are, or as CelebA's: the first drawing will
    say what is wrong with the classifier.

    Raises:
        ValueError: for an attribute that the classifier does not read, with the names that are most like it.
    """
    known = _known(classifier)
    names = list(attributes or known or data.ATTRIBUTES)
    if known:
        names = [known[place_of(name, known, "attribute")] for name in names]
        attribute = known[place_of(attribute, known, "attribute")]
    names = list(dict.fromkeys(names))
    return (names if attribute in names else [attribute, *names]), attribute


def _known(classifier: str | Path) -> list[str]:
    try:
        card = read_card(classifier)
    except WeightsError:
        return []
    if not card["config"].get("multi_label"):
        return []
    return card.get("class_names") or [str(k) for k in range(card["config"]["num_classes"])]


def checked_faces(images: Tensor) -> Tensor:
    """The given faces as 8-bit pixels in [-1, 1].

    Raises:
        ValueError: for another shape or range.
    """
    shape = list(getattr(images, "shape", ()))
    if len(shape) != 4 or shape[0] == 0:
        raise ValueError(f"Give one face or more as [N, C, H, W], got shape {shape}.")
    if not bool((images.abs() <= 1.001).all()):
        ends = f"{images.min():g} to {images.max():g}"
        raise ValueError(f"The faces must lie in [-1, 1], got values from {ends}.")
    return in_8_bits(images.detach().float().cpu())


def attribute_reader(evaluator: str | Path | None, subject: Subject) -> Reader:
    """The evaluator, if it is there and reads attributes of such faces; otherwise nobody, and a sentence."""
    reader = suited_reader(evaluator, subject)
    if reader.weights is not None and not load_model(evaluator)[0].config.multi_label:
        return Reader(None, note=f"The evaluator {str(evaluator)!r} reads classes, not attributes.")
    return reader


# -- drawing ---------------------------------------------------------------------------------------


class FromNoise:
    """Faces that the network draws from the noises of (seed, k), and the same noises when it is steered."""

    def __init__(
        self, count: int, weights: str | Path, classifier: str | Path, model: Model | None = None
    ) -> None:
        self.count, self.weights, self.classifier, self.model = count, weights, classifier, model
        self._kept: tuple[GenerationRequest, Tensor] | None = None  # another edit starts from the same faces

    def request(self, edit: FaceEdit, seed: int) -> GenerationRequest:
        """The guided faces, sampler and spacing filled in: the unguided ones must take the same steps."""
        request = GenerationRequest(
            (edit.target,) * self.count, self.weights, "classifier", classifier=self.classifier, seed=seed,
            attribute=edit.attribute, guidance_scale=edit.guidance_scale, steps=edit.steps,
        )  # fmt: skip
        return request.plan(self.model).request

    def steps(self, edit: FaceEdit, seed: int) -> Generator[float, None, tuple[Tensor, Drawing]]:
        """Draw both; yields the part done, 0 … 1."""
        request = self.request(edit, seed)
        # The guided faces first: what is wrong with the classifier is said at once.
        drawing = yield from share_of(drawing_steps(request, self.model, evaluator=None), 0, 2)
        plain = dataclasses.replace(
            request, labels=(0,) * self.count, guidance="none",
            classifier=None, attribute=None, guidance_scale=None,
        )  # fmt: skip
        if self._kept is None or self._kept[0] != plain:
            before = yield from share_of(drawing_steps(plain, self.model, evaluator=None), 1, 2)
            self._kept = plain, before.images
        return self._kept[1], drawing


class FromFaces:
    """Given faces, and their counterfactuals from the noise that DDIM inversion finds for them."""

    def __init__(
        self, images: Tensor, count: int, weights: str | Path, classifier: str | Path,
        model: Model | None = None, depth: int | None = None,
    ) -> None:  # fmt: skip
        self.images, self.count, self.depth = images, count, depth
        self.weights, self.classifier, self.model = weights, classifier, model
        self._kept: tuple[tuple[int, int], Abducted] | None = None  # of (first face, steps)

    def request(self, edit: FaceEdit) -> CounterfactualRequest:
        return CounterfactualRequest(
            (1 - edit.target,) * self.count, (edit.target,) * self.count, self.weights, method="ddim",
            guidance="classifier", classifier=self.classifier, attribute=edit.attribute,
            guidance_scale=edit.guidance_scale, depth=self.depth, steps=edit.steps,
        )  # fmt: skip

    def steps(self, edit: FaceEdit, first: int) -> Generator[float, None, tuple[Tensor, Drawing]]:
        """The faces from number `first` on, and what becomes of them; yields the part done, 0 … 1."""
        plan, faces = self.request(edit).plan(self.model), self.images[first : first + self.count]
        if self._kept is None or self._kept[0] != (first, edit.steps):
            found = yield from share_of(self._abducted(plan, faces), 0, 2)
            self._kept = (first, edit.steps), found
        abducted = self._kept[1]
        paths = yield from share_of(paths_of(plan, faces, lambda *_: abducted, None), 1, 2)
        states, estimates = ([to_signed(each) for each in way] for way in (paths.states, paths.estimates))
        return faces, Drawing(paths.images, states, estimates, paths.timesteps, (), 1000 * paths.seconds)

    def _abducted(self, plan: CounterfactualPlan, faces: Tensor) -> Generator[float, None, Abducted]:
        """As `plan.abduct`, step by step: for progress, and to be dropped for a newer edit."""
        wanted, eps_fn = plan.image_shape, unconditional(plan.network)
        if tuple(faces.shape[1:]) != wanted:
            its, mine = ("×".join(map(str, shape)) for shape in (wanted, faces.shape[1:]))
            raise ValueError(f"The denoiser draws pictures of {its} (C×H×W), but the faces have {mine}.")
        x, inversion = faces, ddim_invert(eps_fn, plan.schedule, faces, plan.timesteps)
        for k, step in enumerate(inversion, start=1):
            x = step.x_t
            yield k / len(plan.timesteps)
        return Abducted(x, plan.timesteps)


def pairs_of(
    source: FromNoise | FromFaces, edit: FaceEdit, place: int, evaluator: str | Path | None, subject: Subject
) -> Generator[float, None, Pairs]:
    """Faces before and after, read by the evaluator; yields the part done, 0 … 1.

    Args:
        place: the seed of drawn faces, or the number of the first given one.

    Raises:
        ValueError, WeightsError: as `generate` and `counterfactuals`.
    """
    started = time.perf_counter()
    before, drawing = yield from source.steps(edit, place)
    reader, read = attribute_reader(evaluator, subject), None
    if reader.weights is not None:
        both = in_8_bits(torch.cat([before, drawing.images]))  # as the pictures that one sees
        read = load_model(reader.weights)[0].probabilities(both).chunk(2)
    return Pairs(edit, before, drawing, read, reader, time.perf_counter() - started)


# -- in words --------------------------------------------------------------------------------------


def result_line(pairs: Pairs) -> str:
    """How many faces are read as asked before and after, how far they changed, and the seconds."""
    edit, read, count = pairs.edit, pairs.probabilities(), len(pairs.before)
    if read is not None:
        hits = [sum(map(pairs.as_asked, each)) for each in read]
        said = f"Read as asked ({edit}): {hits[0]} of {count} before, {hits[1]} of {count} after."
    elif pairs.read is None:
        said = pairs.reader.note
    else:
        said = f"The evaluator knows no attribute {spoken(edit.attribute)}."
    nothing = "At scale 0 nothing steers. " if edit.guidance_scale == 0 else ""
    change = f"Mean change of a pixel {pairs.distance():.3f} (of 0 to 1)."
    return f"{nothing}{said} {change} {pairs.seconds:.1f} s.".replace("  ", " ")


def side_line(pairs: Pairs) -> str:
    """'Also changed: Mouth Slightly Open +41 points, Male −12.'; empty if nobody read the faces."""
    if pairs.read is None:
        return ""
    seen = [pair for pair in pairs.side_effects()[:NAMED] if abs(pair[1]) >= SEEN]
    if not seen:
        return "Also changed: nothing that the evaluator reads."
    told = [f"{spoken(name)} {100 * change:+.0f}".replace("-", "−") for name, change in seen]
    return f"Also changed: {', '.join([f'{told[0]} points', *told[1:]])}."
