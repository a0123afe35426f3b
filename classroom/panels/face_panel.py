"""The face panel: given faces steered to one attribute, and what else came along."""

from __future__ import annotations

import re
import time
from collections.abc import Generator, Sequence
from pathlib import Path

import ipywidgets as w
import torch
from torch import Tensor

from classroom.panels import controls
from classroom.panels.drawing import UNREAD, Drawing, evaluator_of, given, part_of, recorded
from classroom.panels.film import Film, Row, seconds
from classroom.panels.panel import Panel
from lessons_lib.counterfactuals import Abducted, in_8_bits
from lessons_lib.evaluation.axioms import drifts, l1_error
from lessons_lib.images import difference_maps
from lessons_lib.names import place_of
from lessons_lib.pipeline import CounterfactualRequest
from lessons_lib.weights import read_card

MOST = 100  # faces that a slider chooses from
NAMED = 3  # side effects in the line of result
SEEN = 0.005  # half a point: a smaller change would be shown as 0
GAIN = 3  # a smile changes few pixels by more than a tenth, which would hardly be seen


class FacePanel(Panel):
    """Faces, their counterfactuals for one attribute, what changed, and which other attributes came along.

    Args:
        images: [N, 3, S, S] in [-1, 1]; of more than four a slider chooses.
        classifier: what steers: yes-or-no attributes of noisy images.
        attribute: the one asked for at first; case, spaces and "-" for "_" do not matter.
        target: 1 asks for yes, 0 for no.
        guidance_scale: s at first; 0 unguided, 1 Bayes' rule.
        depth: how far the faces are taken back, 0 … T-1; None is the whole way.
    """

    doing = "Steering the faces to {attribute} …"

    def __init__(
        self, images: Tensor, *, weights: str | Path = "celeba-denoiser",
        classifier: str | Path = "celeba-classifier", evaluator: str | Path | None = "celeba-evaluator",
        attribute: str = "Smiling", target: int = 1, guidance_scale: float = 10.0, steps: int | None = None,
        depth: int | None = None,
    ) -> None:  # fmt: skip
        self.images, self.count = given(images, MOST), min(4, len(images))
        self.weights, self.classifier, self.evaluator, self.depth = weights, classifier, evaluator, depth
        self._kept: tuple[tuple[int, int], Abducted] | None = None  # of (first face, steps), for every wish
        names, (defaults, longest) = controls.names_on(read_card(classifier)), controls.card_defaults(weights)
        most, total = max(12.0, 4 * guidance_scale), len(images)
        # The last ones may have been seen already: there are always as many.
        firsts = [min(k, total - self.count) for k in range(0, total, self.count)]
        wish = names[place_of(attribute, names, "attribute")]
        shown = {
            "attribute": controls.dropdown("Attribute", [(spoken(name), name) for name in names], wish),
            "target": controls.toggle("Asked for", [("yes", 1), ("no", 0)], int(target)),
            "guidance_scale": controls.scale_slider(guidance_scale, most, 0.5 if most <= 32 else most / 64),
            "steps": controls.steps_slider(steps or defaults["steps"], longest),
        }
        if total > self.count:
            options = [(f"{k + 1}–{k + self.count}", k) for k in firsts]
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
        answer, after = ("no", "yes")[target], in_8_bits(drawing.images)  # the pictures that one sees
        wish = f"{spoken(attribute)}: {answer}"
        texts, marks, words = self._read(faces, after, attribute, target)
        nothing = "At scale 0 nothing steers. " if guidance_scale == 0 else ""
        change = f"Mean change of a pixel {l1_error(faces, after).mean():.3f} (of 0 to 1)."
        line = f"{nothing}{words} {change} {seconds(1000 * (time.perf_counter() - started))}."
        name = re.sub(r"[\W_]+", "-", attribute).strip("-").lower()[:40] or "attribute"
        return Film(
            self._rows(faces, drawing, f"Their counterfactuals, steered to {wish}", texts, marks), line,
            f"Steered to {wish}, scale {guidance_scale:g}, {steps} steps", drawing.moments(), (faces, after),
            f"{name}-{answer}-s{float(guidance_scale)}-face{first + 1}",
        )  # fmt: skip

    def _steered(
        self, request: CounterfactualRequest, faces: Tensor, key: tuple[int, int]
    ) -> Generator[float, None, Drawing]:
        """What becomes of the faces, from what DDIM inversion finds for them."""
        plan = request.plan()
        if self._kept is None or self._kept[0] != key:
            yield 0.02
            self._kept = key, plan.abduct(faces)
        abducted = self._kept[1]
        steps = recorded(abducted.x, plan.predict(abducted), len(plan.timesteps))
        return (yield from part_of(steps, 1, 2))

    def _read(
        self, before: Tensor, after: Tensor, attribute: str, target: int
    ) -> tuple[Sequence[Sequence[str]], Sequence[bool], str]:
        """The texts of both rows, whether each face after it is misread, and the result in words."""
        found, count = evaluator_of(self.evaluator, before, attributes=True), len(before)
        if found is None:
            return ((), ()), (), UNREAD.format("them")
        network, names = found
        place = place_of(attribute, names, "attribute")
        read = [network.probabilities(images) for images in (before, after)]
        asked = [one[:, place].tolist() for one in read]
        texts = [[f"{spoken(attribute)} {p:.0%}" for p in faces] for faces in asked]
        marks = [[(p >= 0.5) != bool(target) for p in faces] for faces in asked]
        right = [f"{faces.count(False)} of {count}" for faces in marks]
        largest = [one for one in drifts(names, place, *read)[:NAMED] if abs(one.mean) >= SEEN]
        others = [f"{spoken(one.name)} {100 * one.mean:+.0f}".replace("-", "−") for one in largest]
        also = f"{', '.join(others)} points" if others else "nothing that the evaluator reads"
        return texts, marks[1], f"Read as asked: {right[0]} before, {right[1]} after. Also changed: {also}."

    def _rows(
        self, faces: Tensor, drawing: Drawing, name: str, texts: Sequence, marks: Sequence[bool]
    ) -> list[Row]:
        times = "before", "after", "changed"
        alts = [[f"Face {k + 1} {when}" for k in range(self.count)] for when in times]
        change = GAIN * (drawing.images - faces) / 2  # [N, C, H, W], to be shown from -1 to 1
        # Two images in range differ by so much in neither direction: half of it on grey, then doubled.
        maps = 2 * difference_maps(change.clamp(-1, 1), torch.zeros_like(change)) - 1
        changed = f"What changed, ×{GAIN}: orange became brighter, blue darker"
        return [
            Row.of(faces, "The given faces", texts=texts[0], alts=alts[0], side=140),
            Row(drawing.views(), name, texts[1], marks=marks, alts=alts[1], side=140),
            Row.of(maps, changed, alts=alts[2], side=140),
        ]


def spoken(attribute: str) -> str:
    """The name of an attribute for people."""
    return attribute.replace("_", " ")
