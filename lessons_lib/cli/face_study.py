"""Counterfactuals of real faces for evaluate celeba: who takes part, what is measured, the sweep."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from lessons_lib import data, evaluation
from lessons_lib.cli import tables
from lessons_lib.cli.common import DENOISER, face_defaults
from lessons_lib.cli.evaluating import Judge, share_json
from lessons_lib.cli.options import PROGRAM
from lessons_lib.evaluation.curves import face_sweep_figure
from lessons_lib.pipeline import CounterfactualRequest, check_counterfactual, counterfactual_images

ATTRIBUTE = "Smiling"
ASKED = {"yes": 1, "no": 0}
# Options for one setting and what a sweep takes in their place.
IN_PLACE_OF = {"guidance_scale": "scales", "depth": "depths"}
SCALES, DEPTHS = "0,8,32,64,128", "400,600"
COLUMNS = (
    "attribute", "guidance_scale", "depth", "steps", "num_faces", "flipped", "flipped_low", "flipped_high",
    "to_yes", "to_no", "l1", "mean_drift", "largest_drift", "largest_drift_of", "command", "weights_sha256",
)  # fmt: skip


class Subjects(NamedTuple):
    """Test faces that the evaluator reads right, and what each is asked to become: the other answer."""

    images: Tensor  # [N, 3, S, S] in [-1, 1]
    targets: Tensor  # [N] int64


class Study(NamedTuple):
    """What is measured: by whom, of which attribute."""

    judge: Judge
    names: tuple[str, ...]  # of the attributes that the judge reads
    place: int

    @property
    def attribute(self) -> str:
        return self.names[self.place]


def intervention(study: Study, given: dict, targets: tuple[int, ...], **changes) -> CounterfactualRequest:
    """The request that the options mean, for faces with these targets."""
    names = ("method", "depth", "classifier", "guidance_scale", "seed", "precision", "steps")
    wanted = {name: given[name] for name in names if given[name] is not None} | changes
    sources = tuple(1 - target for target in targets)
    return face_defaults(
        CounterfactualRequest(
            sources, targets, weights=given["weights"] or DENOISER, guidance="classifier",
            device=study.judge.device, attribute=study.attribute, **wanted,
        )
    )  # fmt: skip


def command_of(given: dict, options: tuple[str, ...]) -> str:
    """The command that measures this again."""
    words = [f"{PROGRAM} evaluate celeba --attribute {given['attribute'] or ATTRIBUTE}"]
    usual = {"precision": "float32", "seed": 0, "method": "ddim"}
    for name in (*options, "steps", "seed", "precision", "method", "classifier", "weights"):
        if given[name] is not None and given[name] != usual.get(name):
            words.append(f"--{tables.option(name)} {given[name]}")
    if given["evaluator_weights"]:
        words.append(f"--evaluator-weights {given['evaluator_weights']}")
    return " ".join(words)


def drifts_json(drifts: Iterable[evaluation.Drift]) -> dict:
    """By attribute, the largest mean change first."""
    ordered = sorted(drifts, key=lambda drift: -abs(drift.mean))
    return {
        drift.name: {
            "mean": round(drift.mean, 4),
            "interval_95": interval_json(drift.mean, 4),
            "read_as_yes": [round(drift.before.value, 4), round(drift.after.value, 4)],
            "changed": round(drift.changed.value, 4),
        }
        for drift in ordered
    }


# -- counterfactuals -------------------------------------------------------------------------------


def subjects(study: Study, count: int) -> Subjects:
    """The first `count` test faces whose attribute the evaluator reads as it is labelled.

    The others would count as flipped before anything was done.

    Raises:
        DataError: without CelebA, or with fewer such faces.
    """
    faces = data.load("celeba", "test", image_size=study.judge.model.config.image_size)
    label = data.ATTRIBUTES.index(study.attribute)
    images, targets, found = [], [], 0
    for part in torch.arange(len(faces)).split(evaluation.BATCH):
        x_0, y = faces.batch(part)
        read = evaluation.read_attributes(study.judge.model, x_0)[:, study.place] >= 0.5
        right = read == (y[:, label] == 1)
        images.append(x_0[right])
        targets.append(1 - y[right, label])
        found += int(right.sum())
        if found >= count:
            return Subjects(torch.cat(images)[:count], torch.cat(targets)[:count])
    raise data.DataError(f"Only {found} test faces are read right: ask for fewer --num-counterfactuals.")


def measure_counterfactuals(study: Study, given: dict, faces: Subjects) -> dict:
    """Real test faces sent to the other answer: flips, distance, drift; and what inversion alone does."""
    found = {
        "num_faces": len(faces.images),
        "which": "the first test faces whose attribute is read as labelled, sent to the other answer",
    }
    request = intervention(study, given, tuple(faces.targets.tolist()))
    names = ("method", "classifier", "guidance_scale", "depth", "steps", "seed")
    found["settings"] = {name: getattr(request, name) for name in names}
    results = {"guided": request, "inversion_alone": dataclasses.replace(request, guidance_scale=0.0)}
    for what, asked in results.items():
        images = counterfactual_images(asked, faces.images, given["batch_size"])
        found[what] = flips_json(study, faces, images)
    return found


def flips_json(study: Study, faces: Subjects, images: Tensor) -> dict:
    """Of all faces, and of those sent to each answer: their drifts go opposite ways."""

    def measured(chosen: Tensor) -> evaluation.Flips:
        return evaluation.measure_flips(
            study.judge.model, faces.images[chosen], images[chosen], study.names, study.place,
            faces.targets[chosen],
        )  # fmt: skip

    whole = measured(torch.ones_like(faces.targets, dtype=torch.bool))
    found = {"flipped": share_json(whole.flipped), "l1": _mean_json(whole.l1)}
    for asked, target in ASKED.items():
        if bool((mine := faces.targets == target).any()):
            part = measured(mine)
            found[f"to_{asked}"] = {
                "flipped": share_json(part.flipped),
                "l1": _mean_json(part.l1),
                "drift": drifts_json(part.drifts),
            }
    return found


def _mean_json(mean: evaluation.Mean) -> dict:
    return {"value": round(mean, 5), "interval_95": interval_json(mean, 5), "total": mean.total}


def interval_json(mean: evaluation.Mean, digits: int) -> list[float] | None:
    """None for one image: it says nothing of others, and JSON has no nan."""
    return [round(end, digits) for end in mean.interval] if mean.total > 1 else None


# -- the sweep -------------------------------------------------------------------------------------


def run_sweep(study: Study, given: dict) -> None:
    """Counterfactuals of the same faces at every scale and depth, into a table."""
    out = tables.check_table_name(given["out"])
    scales = tables.parts(given["scales"] or SCALES, tables.scale)
    depths = tables.parts(given["depths"] or DEPTHS, tables.whole_number("depths"))
    plan = {}
    for depth, scale in itertools.product(depths, scales):
        single = given | {"guidance_scale": scale, "depth": depth}
        request = intervention(study, single, (1,))
        check_counterfactual(request)
        command = command_of(single, ("guidance_scale", "depth", "num_counterfactuals"))
        plan[command, tables.shas(request.decoding(), study.judge)] = single
    faces = functools.cache(lambda: subjects(study, given["num_counterfactuals"]))

    def measured(single: dict, key: tables.Key) -> tuple[tables.Row, str]:
        request = intervention(study, single, tuple(faces().targets.tolist()))
        found = flips_json(
            study, faces(), counterfactual_images(request, faces().images, given["batch_size"])
        )
        row = _row(study, request, found, key)
        words = f"s={request.guidance_scale:g}, depth {request.depth}: flipped {float(row['flipped']):.1%}"
        return row, f"{words}, L1 {float(row['l1']):.3f}, mean drift {float(row['mean_drift']):.3f}"

    tables.fill(out, COLUMNS, plan, measured, lambda rows: face_sweep_figure(rows)[0])


def _row(study: Study, request: CounterfactualRequest, found: dict, key: tables.Key) -> tables.Row:
    """Drift: the mean over attributes and both directions of the mean change's size."""
    sides = {name: found[name] for name in ("to_yes", "to_no") if name in found}
    moved = [(name, drift["mean"]) for side in sides.values() for name, drift in side["drift"].items()]
    name, largest = max(moved, key=lambda each: abs(each[1]))
    low, high = found["flipped"]["interval_95"]
    row = {
        "attribute": study.attribute, "guidance_scale": request.guidance_scale, "depth": request.depth,
        "steps": request.steps, "num_faces": found["flipped"]["total"],
        "flipped": found["flipped"]["value"], "flipped_low": low, "flipped_high": high,
        **{side: values["flipped"]["value"] for side, values in sides.items()},
        "l1": found["l1"]["value"],
        "mean_drift": round(sum(abs(mean) for _, mean in moved) / len(moved), 5),
        "largest_drift": round(largest, 5), "largest_drift_of": name,
        "command": key[0], "weights_sha256": key[1],
    }  # fmt: skip
    return tables.texts({column: None for column in COLUMNS} | row)
