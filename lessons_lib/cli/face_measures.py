"""python -m lessons_lib evaluate celeba: drawn faces and counterfactuals of real ones, measured."""

from __future__ import annotations

import json
import math
import sys

import torch
from torch import Tensor

from lessons_lib import data, evaluation, weights
from lessons_lib.cli import batches, processes, tables
from lessons_lib.cli.common import (
    DENOISER,
    STEPS,
    attributes_of,
    check_same_size,
    check_writable,
    guidance_of,
    resolve_device,
)
from lessons_lib.cli.evaluating import Judge, share_json
from lessons_lib.cli.face_study import (
    ASKED,
    ATTRIBUTE,
    IN_PLACE_OF,
    Study,
    command_of,
    drifts_json,
    intervention,
    measure_counterfactuals,
    run_sweep,
    subjects,
)
from lessons_lib.cli.options import PROGRAM
from lessons_lib.names import place_of
from lessons_lib.pipeline import GenerationRequest, check_counterfactual, with_defaults

NUM_SAMPLES, NUM_FACES = 1000, 300
REFUSED = (
    "null_images", "by_timestep", "methods", "samplers", "step_counts", "spacing", "sampler", "interval"
)  # fmt: skip


def run(given: dict) -> None:
    """Measure faces, counterfactuals or the evaluator, as the options say."""
    _check(given)
    device = resolve_device(given["device"])
    judge = Judge.load("celeba", given["evaluator_weights"], device)
    names = attributes_of(judge)
    if given["evaluator"]:
        return run_evaluator(judge, names, given["card"], given["json"])
    study = Study(judge, names, place_of(given["attribute"] or ATTRIBUTE, names, "attribute"))
    given["attribute"] = study.attribute  # as it is spelled, for the command
    check_same_size(judge, given["weights"] or DENOISER)
    if given["sweep"]:
        return run_sweep(study, given)
    name = given["weights"] or DENOISER
    _check_requests(study, given)
    if given["card"]:
        _check_card(name)
    faces = subjects(study, given["num_counterfactuals"])
    reference = judge.reference(lambda: measure_reference(judge))
    result = {
        "command": command_of(given, ("guidance_scale", "num_samples", "num_counterfactuals", "depth")),
        "attribute": study.attribute,
        "evaluator": judge.name,
        "evaluator_sha256": judge.sha256,
        "weights_sha256": weights.read_card(name)["sha256"],
        "drawn": measure_drawn(study, given, reference),
        "counterfactuals": measure_counterfactuals(study, given, faces),
    }
    if given["card"]:
        card = weights.read_card(name)
        measured = card.get("metrics", {})
        others = [row for row in measured.get("evaluations", []) if row["attribute"] != study.attribute]
        weights.write_card(name, card | {"metrics": measured | {"evaluations": [*others, result]}})
    print(json.dumps(result) if given["json"] else report(result))


def _check(given: dict) -> None:
    for option in REFUSED:
        if given[option]:
            raise ValueError(f"--{tables.option(option)} does not belong to evaluate celeba.")
    if guidance_of(given["guidance"]) == "none":
        raise ValueError("Faces are measured with and without guidance: leave out --guidance none.")
    if given["evaluator"] and given["sweep"]:
        raise ValueError("--sweep and --evaluator do not go together.")
    for option, usual in (("num_samples", NUM_SAMPLES), ("num_counterfactuals", NUM_FACES)):
        given[option] = usual if given[option] is None else given[option]
        if given[option] < 1:
            raise ValueError(f"--{tables.option(option)} must be at least 1, got {given[option]}.")
    given["steps"] = STEPS if given["steps"] is None else given["steps"]
    tables.check_in_place_of(given, IN_PLACE_OF, ("card", "json"))


def _check_requests(study: Study, given: dict) -> None:
    """Refuse before any work what cannot be drawn."""
    wanted = _drawing(study, given, 1)
    request = GenerationRequest((0,), weights=given["weights"] or DENOISER, **wanted)
    batches.check_settings(request, given["batch_size"])
    check_counterfactual(intervention(study, given, (1,)))


def _drawing(study: Study, given: dict, target: int | None) -> dict:
    """Fields of a GenerationRequest: guided to the target, or unguided for None."""
    wanted = {name: given[name] for name in ("seed", "precision", "steps")} | {"device": study.judge.device}
    if target is None:
        return wanted | {"guidance": "none"}
    asked = {name: given[name] for name in ("guidance_scale", "classifier")}
    return wanted | {"guidance": "classifier", "attribute": study.attribute, **asked}


# -- drawn faces -----------------------------------------------------------------------------------


def measure_drawn(study: Study, given: dict, reference: evaluation.Reference) -> dict:
    """Faces drawn unguided and towards both answers: how they are read, how far from real ones they lie."""
    found, baseline = {}, None
    for asked, target in {"unguided": None, **ASKED}.items():
        wanted = _drawing(study, given, target)
        labels = (0 if target is None else target,) * given["num_samples"]
        request = with_defaults(GenerationRequest(labels, weights=given["weights"] or DENOISER, **wanted))
        images, _ = batches.draw(request, given["batch_size"])
        read = evaluation.read_attributes(study.judge.model, images)
        baseline = read if baseline is None else baseline
        spread = evaluation.diversity(study.judge.model, images, torch.zeros(len(images)), reference.spread)
        found[asked] = {
            "settings": batches.describe(request),
            "read_as_yes": share_json(evaluation.share_of_yes(read[:, study.place])),
            "fid": _fid(study.judge, reference, images),
            "diversity": None if math.isnan(spread) else round(spread, 4),
        }
        if target is not None:  # the same noises: each face beside its unguided twin
            found[asked]["drift"] = drifts_json(
                evaluation.Drift.of(name, baseline[:, k], read[:, k])
                for k, name in enumerate(study.names)
                if k != study.place
            )
    return found


def _fid(judge: Judge, reference: evaluation.Reference, images: Tensor) -> dict | None:
    if len(images) < 2:
        return None
    value = evaluation.feature_fid(judge.model, reference.statistics, images)
    return {
        "value": round(value, 4),
        "floor": round(reference.floor, 4),
        "num_samples": len(images),
        "reference": f"{reference.statistics.count:,} training faces",
        "floor_images": f"the other {reference.floor_count:,} training faces",
    }


def measure_reference(judge: Judge) -> evaluation.Reference:
    """Measure the training faces, a batch at a time. Faces are one class: they have no other."""
    faces = data.load("celeba", "train", image_size=judge.model.config.image_size)
    print(f"Measuring {len(faces):,} training faces.", file=sys.stderr)
    parts = torch.arange(len(faces)).split(evaluation.BATCH)
    found = torch.cat([evaluation.features(judge.model, faces.batch(part)[0]) for part in parts])
    one = torch.zeros(len(faces), dtype=torch.int64)
    return evaluation.reference_of(found, one, 1, extractor=judge.sha256, source="celeba")


# -- the evaluator ---------------------------------------------------------------------------------


def run_evaluator(judge: Judge, names: tuple[str, ...], write: bool, as_json: bool) -> None:
    """Measure the evaluator on the test faces; with `write`, into its card, the reference beside it."""
    faces = data.load("celeba", "test", image_size=judge.model.config.image_size)
    if write:
        _check_card(judge.name)
    parts = torch.arange(len(faces)).split(evaluation.BATCH)
    read = torch.cat([evaluation.read_attributes(judge.model, faces.batch(part)[0]) for part in parts]) >= 0.5
    columns = [data.ATTRIBUTES.index(name) for name in names]
    labels = faces.labels[:, columns] == 1
    right = (read == labels).sum(dim=0).tolist()
    shares = {name: evaluation.Share(count, len(faces)) for name, count in zip(names, right, strict=True)}
    commonest = torch.maximum(labels.sum(dim=0), (~labels).sum(dim=0)).tolist()
    whole = evaluation.Share(sum(right), len(faces) * len(names))
    result = {
        "command": f"{PROGRAM} evaluate celeba --evaluator"
        + ("" if judge.name == "celeba-evaluator" else f" --evaluator-weights {judge.name}"),
        "images": f"{len(faces):,} test faces",
        "mean_accuracy": round(whole.value, 5),
        "mean_of_commonest_answer": round(sum(commonest) / (len(faces) * len(names)), 5),
        "by_attribute": {
            name: share_json(share) | {"commonest_answer": round(count / len(faces), 5)}
            for (name, share), count in zip(shares.items(), commonest, strict=True)
        },
    }
    if write:
        judge.write_reference(measure_reference(judge))
        card = weights.read_card(judge.name)
        weights.write_card(judge.name, card | {"metrics": card.get("metrics", {}) | {"test": result}})
    print(json.dumps(result) if as_json else _evaluator_report(judge, result))


def _check_card(name: str) -> None:
    if processes.rank() == 0:
        check_writable(weights.weights_path(name).with_suffix(".json"))


def _evaluator_report(judge: Judge, result: dict) -> str:
    lines = [
        f"{judge.name} on {result['images']}: {result['mean_accuracy']:.1%} of all answers right "
        f"({result['mean_of_commonest_answer']:.1%} by always giving the commonest)"
    ]
    lines += [
        f"  {name:20} {share['value']:.1%} (commonest answer {share['commonest_answer']:.1%})"
        for name, share in result["by_attribute"].items()
    ]
    return "\n".join(lines)


# -- telling ---------------------------------------------------------------------------------------


def report(result: dict) -> str:
    """The result for people."""
    name = result["attribute"]
    lines = []
    for asked, found in result["drawn"].items():
        read, fid = found["read_as_yes"], found["fid"]
        share = evaluation.Share(read["right"], read["total"])
        words = "unguided" if asked == "unguided" else f"guided to {asked}"
        far = f", feature FID {fid['value']:.3f} (floor {fid['floor']:.3f})" if fid else ""
        lines.append(f"{words:15} read as {name} {share}{far}")
    cf = result["counterfactuals"]
    for what, words in {"guided": "counterfactuals", "inversion_alone": "inversion alone"}.items():
        flipped = evaluation.Share(cf[what]["flipped"]["right"], cf[what]["flipped"]["total"])
        lines.append(f"{words:15} flipped {flipped}, L1 {cf[what]['l1']['value']:.3f}")
    for asked in ASKED:
        if side := cf["guided"].get(f"to_{asked}"):
            moved = [f"{other} {drift['mean']:+.2f}" for other, drift in list(side["drift"].items())[:6]]
            lines.append(f"  drift to {asked}: " + ", ".join(moved))
    return "\n".join(lines)
