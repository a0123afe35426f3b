"""python -m lessons_lib sample | counterfactual celeba: faces with and without an attribute."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from pathlib import Path

import torch
from torch import Tensor

from lessons_lib import data, evaluation, weights
from lessons_lib.cli import counterfactual as rows
from lessons_lib.cli import sampling
from lessons_lib.cli.common import resolve_device
from lessons_lib.counterfactuals import in_8_bits
from lessons_lib.evaluation.judge import Judge
from lessons_lib.evaluation.task import face_defaults
from lessons_lib.files import atomic_write
from lessons_lib.names import place_of
from lessons_lib.pipeline import (
    CounterfactualRequest,
    GenerationRequest,
    check_counterfactual,
    load_model,
    with_defaults,
)

DENOISER = "celeba-denoiser"
ANSWERS = {"1": 1, "yes": 1, "0": 0, "no": 0}
NUM_FACES = 16
STEPS = 50  # of a counterfactual, from T-1
SHOWN = 5  # other attributes that the report names
# Options of other data sets, and what they are where they were not given.
OF_CLASSES = {"labels": "all", "num_per_label": 1, "source_class": None, "target_class": "all"}


def refuse(given: dict, names: tuple[str, ...]) -> None:
    """Raise ValueError for an option of celeba that was given with another data set."""
    for name in names:
        if given[name] is not None:
            raise ValueError(f"--{name.replace('_', '-')} belongs to celeba.")


def refuse_classes(given: dict) -> None:
    """Raise ValueError for an option that takes classes."""
    for name, usual in OF_CLASSES.items():
        if given.get(name, usual) != usual:
            raise ValueError(
                f"--{name.replace('_', '-')} is for data sets with classes: of celeba name an --attribute "
                f"and a --target."
            )


def guidance_of(given: dict) -> str:
    """The guidance that is meant of a denoiser told no attributes: cfg, the default, is a classifier's."""
    if given["guidance"] not in ("cfg", "classifier", "none"):
        raise ValueError(f"Faces are steered with guidance classifier, not {given['guidance']!r}.")
    return "none" if given["guidance"] == "none" else "classifier"


# -- sample ----------------------------------------------------------------------------------------


def sample(given: dict) -> None:
    """Draw faces and write them. Everything that can be refused is refused before the first step.

    Args:
        given: the options of the command by name.
    """
    refuse_classes(given)
    sampling.check_outputs(given["out"], given["individual"])
    count = NUM_FACES if given["num_samples"] is None else given["num_samples"]
    if count < 1:
        raise ValueError(f"The number of samples must be at least 1, got {count}.")
    target = _sample_target(given)
    name = given["weights"] or DENOISER
    fields = ("interval", "sampler", "steps", "spacing", "seed", "precision")
    wanted = {field: given[field] for field in fields} | {"device": resolve_device(given["device"])}
    if target is None:
        wanted |= {"guidance": "none"}
    else:
        steered = {field: given[field] for field in ("guidance_scale", "classifier", "attribute")}
        hears = weights.read_card(name)["config"].get("multi_label") and given["guidance"] == "cfg"
        wanted |= {"guidance": "cfg" if hears else "classifier", **steered}
    request = GenerationRequest((target or 0,) * count, weights=name, **wanted)
    sampling.check_settings(name, wanted, given["batch_size"])
    request = with_defaults(request)
    started = time.perf_counter()
    is_film = given["out"].suffix.lower() == ".gif"
    images, states = sampling.draw(request, given["batch_size"], keep_states=is_film)
    seconds = time.perf_counter() - started
    labels = torch.full((count,), sampling.NO_LABEL if target is None else target)
    sampling.write(given["out"], images, labels, states, columns=math.ceil(math.sqrt(count)))
    if given["individual"]:
        sampling.write_individual(given["individual"], images, labels)
    print(f"{count} images in {given['out']}: {sampling.describe(request)}; {seconds:.2f} s.")


def _sample_target(given: dict) -> int | None:
    """1, 0, or None for faces without guidance."""
    told, attribute = given["target"], given["attribute"]
    target = None if told is None or told == "none" else target_of(told, "1, 0 or none")
    if guidance_of(given) == "none" and target is not None:
        raise ValueError("--guidance none asks for nothing: leave out --target.")
    if target is not None and attribute is None:
        raise ValueError(f"--target {told} needs an --attribute, such as Smiling.")
    if attribute is None and given["guidance"] == "classifier":
        raise ValueError("--guidance classifier needs an --attribute, such as Smiling.")
    if attribute is None or told == "none" or given["guidance"] == "none":
        for option in ("guidance_scale", "classifier"):
            if given[option] is not None:
                raise ValueError(f"--{option.replace('_', '-')} needs an --attribute and a --target.")
        return None
    return 1 if target is None else target


def target_of(text: str, choice: str = "1 or 0") -> int:
    """ "1" or "yes" -> 1, "0" or "no" -> 0."""
    if text.strip().lower() not in ANSWERS:
        raise ValueError(f"Unknown target {text!r}: choose {choice}.")
    return ANSWERS[text.strip().lower()]


# -- counterfactual --------------------------------------------------------------------------------


def counterfactual(given: dict) -> None:
    """Draw a face as it would look with the attribute changed, write it, and say what else changed.

    Args:
        given: the options of the command by name.
    """
    refuse_classes(given)
    if guidance_of(given) == "none":
        raise ValueError("A counterfactual of a face is steered with guidance classifier.")
    outputs = rows.Outputs(given["out"], given["output_dir"], given["json"])
    outputs.check()
    if given["attribute"] is None:
        raise ValueError("Name an --attribute, such as Smiling.")
    request = _intervention(given)
    check_counterfactual(request)
    judge = Judge.load("celeba", given["evaluator_weights"], request.device)
    names = judge.attributes
    judge.check_size(request.weights)
    place = place_of(given["attribute"], names, "attribute")
    source, named = _face(given, load_model(request.weights)[0].config.image_size)
    before = evaluation.read_attributes(judge.model, source)[0]
    target = int(before[place] < 0.5) if given["target"] is None else target_of(given["target"])
    request = dataclasses.replace(request, sources=(1 - target,), targets=(target,))
    started = time.perf_counter()
    images, states = rows.draw(request, source)
    after = evaluation.read_attributes(judge.model, in_8_bits(images))[0]
    facts = named | {"attribute": names[place], "target": target}
    facts["seconds"] = round(time.perf_counter() - started, 3)
    result = facts | _measures(request, judge, source, images, (before, after, names, place))
    for file in outputs.files():
        rows.write(file, source, images, states, [target])
    if outputs.folder:
        with atomic_write(outputs.folder / rows.MEASURES) as temporary:
            temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result) if outputs.as_json else _report(result, outputs))


def _intervention(given: dict) -> CounterfactualRequest:
    """The request of the command for one face, defaults filled in; its target is set later."""
    names = ("method", "classifier", "guidance_scale", "depth", "steps", "seed", "precision", "attribute")
    wanted = {name: given[name] for name in names if given[name] is not None}
    return face_defaults(
        CounterfactualRequest(
            (0,), (1,), weights=given["weights"] or DENOISER, guidance="classifier",
            device=resolve_device(given["device"]), **{"steps": STEPS} | wanted,
        )
    )  # fmt: skip


def _face(given: dict, size: int) -> tuple[Tensor, dict]:
    """The face [1, 3, S, S] in [-1, 1], in 8-bit values, and what to call it."""
    file, index = given["image"], given["index"]
    if (file is None) == (index is None):
        raise ValueError("Name one face: a picture with --image FILE, or a test face with --index N.")
    if file is not None:
        pixels = torch.from_numpy(data.read_face(Path(file), size))
        return data.to_signed(pixels)[None], {"image": str(file)}
    faces = data.load("celeba", "test", image_size=size)
    if not 0 <= index < len(faces):
        raise ValueError(f"--index must be between 0 and {len(faces) - 1}, got {index}.")
    return faces[index][0][None], {"index": index}


def _measures(
    request: CounterfactualRequest, judge: Judge, source: Tensor, images: Tensor, read: tuple
) -> dict:
    before, after, names, place = read
    pairs = {
        name: [round(float(b), 4), round(float(a), 4)]
        for name, b, a in zip(names, before, after, strict=True)
    }
    mine = pairs.pop(names[place])
    fields = ("method", "guidance_scale", "classifier", "depth", "steps", "seed", "precision")
    return {
        "read_before": mine[0],
        "read_after": mine[1],
        "flipped": bool(after[place] >= 0.5) == (request.targets[0] == 1),
        "l1": round(float((in_8_bits(images) - source).abs().mean()) / 2, 5),
        "others": dict(sorted(pairs.items(), key=lambda pair: -abs(pair[1][1] - pair[1][0]))),
        **{field: getattr(request, field) for field in fields},
        "weights": str(request.weights),
        "evaluator": judge.name,
        "evaluator_sha256": judge.sha256,
    }


def _report(result: dict, outputs: rows.Outputs) -> str:
    asked = "yes" if result["target"] else "no"
    depth = "" if result["depth"] is None else f", depth {result['depth']}"
    moved = list(result["others"].items())[:SHOWN]
    return "\n".join(
        [
            f"{result['attribute']} to {asked}: read {result['read_before']:.0%} before, "
            f"{result['read_after']:.0%} after; L1 {result['l1']:.3f}; "
            f"s={result['guidance_scale']:g}{depth}, {result['steps']} steps; {result['seconds']:.2f} s",
            "also changed: " + ", ".join(f"{name} {b:.0%} to {a:.0%}" for name, (b, a) in moved),
            *(f"in {file}" for file in outputs.files()),
        ]
    )
