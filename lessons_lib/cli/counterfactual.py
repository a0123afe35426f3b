"""python -m lessons_lib counterfactual: one image, had its label, or an attribute of a face, been another."""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor
from typer import Argument

from lessons_lib import data, evaluation, pictures
from lessons_lib.cli import options as o
from lessons_lib.cli.common import (
    DENOISER,
    STEPS,
    SUFFIXES,
    attributes_of,
    check_dataset,
    check_drawn_file,
    check_same_size,
    check_writable,
    face_defaults,
    guidance_of,
    parse_labels,
    progress_bar,
    resolve_device,
    shown_steps,
    target_of,
    write_drawn,
)
from lessons_lib.cli.evaluating import Judge, tell_if_circular
from lessons_lib.cli.options import option
from lessons_lib.counterfactuals import in_8_bits
from lessons_lib.data import to_unit
from lessons_lib.files import atomic_write
from lessons_lib.images import changes_grid, to_grid
from lessons_lib.names import place_of
from lessons_lib.pipeline import (
    CounterfactualRequest,
    check_counterfactual,
    counterfactual_defaults,
    counterfactuals,
    load_model,
)

SHOWN = 5  # other attributes that the report names
SETTINGS = ("method", "guidance", "guidance_scale", "classifier", "depth", "steps", "seed", "precision")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What can be typed after counterfactual."""

    dataset: Annotated[str, Argument(help="The data set: mnist or celeba.", metavar="DATASET")]
    image: Path | None = option(
        "A picture of a digit, of any size and colour; or an aligned face.", metavar="FILE"
    )
    index: int | None = option("The N-th test image instead, from 0.", metavar="N")
    source_class: str | None = option(
        "What the image is. [default: the test image's label, or what is read in --image]"
    )
    target_class: str = option("What it should have been: labels such as 3 or 3,8; or all.", "all")
    method: str = option(
        "ddim (inversion), ddpm (edit-friendly inversion), sdedit or same-noise (ignores the image).", "ddim"
    )
    guidance: str = option(
        "cfg (classifier-free), or classifier (of noisy images, on the unconditional model).", "cfg"
    )
    guidance_scale: o.Scale = None
    classifier: o.Classifier = None
    depth: int | None = option("The timestep that the image is taken back to. [default: T-1]", metavar="T0")
    steps: int | None = option(
        "Of the whole way from T-1; those up to --depth are taken. [default: 25; of celeba 50]"
    )
    seed: o.Seed = 0
    weights: o.Weights = None
    evaluator_weights: o.EvaluatorWeights = None
    out: Path | None = option(
        "FILE.png (source, counterfactuals, what changed), .gif (the way) or .npz (images in [0, "
        "1], labels: the targets; source).",
        metavar="FILE",
    )
    output_dir: Path | None = option("A folder that gets all three, and the measures as JSON.", metavar="DIR")
    device: o.Device = "auto"
    precision: o.NetworkPrecision = "float32"
    json: o.Json = False
    attribute: o.OneAttribute = None
    target: o.Target = None

    def files(self) -> list[Path]:
        """Where the images go; ValueError or WriteError now for what could not be written later."""
        if self.out is None and self.output_dir is None and not self.json:
            raise ValueError("Say where the result goes: --out FILE.png, .gif or .npz, or --output-dir DIR.")
        files = [] if self.out is None else [self.out]
        for path in files:
            check_drawn_file(path)
        if self.output_dir is None:
            return files
        check_writable(self.output_dir, is_folder=True)
        return files + [self.output_dir / f"counterfactual{suffix}" for suffix in SUFFIXES]

    def picture(self, noun: str, size: int | None = None) -> tuple[Tensor, int | None]:
        """The image [1, C, H, W] in [-1, 1], in 8-bit values, and a digit's label if it is known."""
        if (self.image is None) == (self.index is None):
            raise ValueError(
                f"Name one {noun}: a picture with --image FILE, or a test {noun} with --index N."
            )
        if self.image is not None and noun == "face":
            return data.to_signed(torch.from_numpy(data.read_face(self.image, size)))[None], None
        if self.image is not None:
            return in_8_bits(pictures.load_digit(self.image)), None
        images = data.load(self.dataset, "test", image_size=size)
        if not 0 <= self.index < len(images):
            raise ValueError(f"--index must be between 0 and {len(images) - 1}, got {self.index}.")
        image, label = images[self.index]
        return image[None], label


@dataclass(frozen=True)
class Task:
    """A request whose defaults are filled in, its image, and what is said of the result.

    Args:
        source: [1, C, H, W] in [-1, 1].
        facts: what JSON says of the source and the targets.
        measure: of the counterfactuals [K, C, H, W] in [-1, 1], for JSON.
        report: lines for people, made of what JSON says.
    """

    request: CounterfactualRequest
    judge: Judge
    source: Tensor
    facts: dict
    measure: Callable[[Tensor], dict]
    report: Callable[[dict], list[str]]


def counterfactual(options: Options) -> None:
    """Draw what an image would look like, had its label been another one, and measure it.

    Everything that can be refused is refused before the first step.
    """
    check_dataset(options.dataset, ("mnist", "celeba"))
    o.check_belongs(options, options.dataset)
    files = options.files()
    task = (_face if options.dataset == "celeba" else _digit)(options)
    request, source = task.request, task.source
    started, states = time.perf_counter(), []
    with progress_bar(request.steps, "drawing") as bar:  # with a depth it jumps to its end
        for step in counterfactuals(request, source):
            states.append(step.x_t.cpu())
            bar.update()
    images = states[-1].clamp(-1, 1)
    result = {
        **({"index": options.index} if options.image is None else {"image": str(options.image)}),
        **task.facts,
        "seconds": round(time.perf_counter() - started, 3),
        **{name: getattr(request, name) for name in SETTINGS},
        "weights": str(request.weights),
        "evaluator": task.judge.name,
        "evaluator_sha256": task.judge.sha256,
        **task.measure(images),
    }
    way = [*(states[k] for k in shown_steps(len(states))[:-1]), images]
    for file in files:
        write_drawn(
            file,
            lambda: changes_grid(source, images[None]),
            lambda: [to_grid(torch.cat([source, x_t]), len(images) + 1, scale=2) for x_t in way],
            images,
            request.targets,
            source=source[0],
        )
    if options.output_dir:
        with atomic_write(options.output_dir / "measures.json") as temporary:
            temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    lines = (
        [json.dumps(result)] if options.json else [*task.report(result), *(f"in {file}" for file in files)]
    )
    print("\n".join(lines))


def _request(options: Options, weights_name: str, steps: int, **changes) -> CounterfactualRequest:
    """What was typed as a request; the labels are set later."""
    fields = {name: getattr(options, name) for name in (*SETTINGS, "attribute")}
    fields |= {"weights": weights_name, "device": resolve_device(options.device), **changes}
    fields["steps"] = steps if options.steps is None else options.steps
    return CounterfactualRequest((0,), (1,), **fields)


def _told_settings(result: dict) -> str:
    scale = f"{'w' if result['guidance'] == 'cfg' else 's'}={result['guidance_scale']:g}"
    depth = "" if result["depth"] is None else f", depth {result['depth']}"
    return f"{scale}{depth}, {result['steps']} steps"


# -- digits ----------------------------------------------------------------------------------------


def _digit(options: Options) -> Task:
    name = options.weights or f"{options.dataset}-denoiser"
    request = _request(options, name, steps=25)
    num_classes = check_counterfactual(request)
    targets = parse_labels(options.target_class, num_classes)
    label, labels = options.source_class, [str(k) for k in range(num_classes)]
    if label is not None and label.strip() not in labels:
        raise ValueError(f"Unknown source class {label!r}: choose from 0 to {num_classes - 1}.")
    judge = Judge.load(options.dataset, options.evaluator_weights, options.device)
    if judge.num_classes != num_classes:
        raise ValueError(f"{name} has {num_classes} classes but {judge.name} knows {judge.num_classes}.")
    source, known_label = options.picture("image")
    (read,) = _read_classes(judge, source)
    if label is None:
        label = read["read_as"] if known_label is None else known_label
    request = dataclasses.replace(request, sources=(int(label),), targets=targets)
    request = counterfactual_defaults(request)
    if request.guidance == "classifier":
        tell_if_circular(judge, [request.decoding()])
    facts = {"source_class": int(label), "source_read": read}
    return Task(
        request,
        judge,
        source,
        facts,
        functools.partial(_measure_classes, request, judge, source),
        _report_classes,
    )


@torch.no_grad()
def _read_classes(judge: Judge, images: Tensor) -> list[dict]:
    """What the evaluator reads in each image, and how sure it is."""
    best = judge.model(images.to(judge.device)).float().softmax(dim=1).max(dim=1)
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [{"read_as": label, "confidence": round(value, 4)} for label, value in pairs]


def _measure_classes(request: CounterfactualRequest, judge: Judge, source: Tensor, images: Tensor) -> dict:
    """For each target what is read and how far it lies, in [0, 1] pixels; then the means of the other labels.

    effectiveness and l1 leave the source's own label out; they are null if nothing else was asked for.
    """
    l1 = (to_unit(images) - to_unit(source)).abs().mean(dim=(1, 2, 3)).tolist()
    rows = [
        {"target": target, **read, "l1": round(distance, 5)}
        for target, read, distance in zip(request.targets, _read_classes(judge, images), l1, strict=True)
    ]
    others = [row for row in rows if row["target"] != request.sources[0]]
    right = sum(row["read_as"] == row["target"] for row in others)
    return {
        "counterfactuals": rows,
        "effectiveness": round(right / len(others), 5) if others else None,
        "l1": round(sum(row["l1"] for row in others) / len(others), 5) if others else None,
    }


def _report_classes(result: dict) -> list[str]:
    read = result["source_read"]
    lines = [
        f"source {result['source_class']}, read as {read['read_as']} ({read['confidence']:.0%}); "
        f"{result['method']}, {result['guidance']}, {_told_settings(result)}, seed {result['seed']}; "
        f"{result['seconds']:.2f} s"
    ]
    for row in result["counterfactuals"]:
        told = f"read as {row['read_as']} ({row['confidence']:.0%}), L1 {row['l1']:.3f}"
        lines.append(f"  to {row['target']}: {told}")
    if result["l1"] is not None:
        share = f"{result['effectiveness']:.0%} of the other labels read as asked"
        lines.append(f"{share}, mean L1 {result['l1']:.3f}")
    return lines


# -- faces -----------------------------------------------------------------------------------------


def _face(options: Options) -> Task:
    if guidance_of(options.guidance) == "none":
        raise ValueError("A counterfactual of a face is steered with guidance classifier.")
    if options.attribute is None:
        raise ValueError("Name an --attribute, such as Smiling.")
    request = face_defaults(_request(options, options.weights or DENOISER, STEPS, guidance="classifier"))
    check_counterfactual(request)
    judge = Judge.load("celeba", options.evaluator_weights, options.device)
    names = attributes_of(judge)
    check_same_size(judge, request.weights)
    place = place_of(options.attribute, names, "attribute")
    source, _ = options.picture("face", load_model(request.weights)[0].config.image_size)
    before = evaluation.read_attributes(judge.model, source)[0]
    target = int(before[place] < 0.5) if options.target is None else target_of(options.target)
    request = dataclasses.replace(request, sources=(1 - target,), targets=(target,))
    facts = {"attribute": names[place], "target": target}
    measure = functools.partial(_measure_attribute, judge, source, before, names, place, target)
    return Task(request, judge, source, facts, measure, _report_attribute)


def _measure_attribute(
    judge: Judge,
    source: Tensor,
    before: Tensor,
    names: tuple[str, ...],
    place: int,
    target: int,
    images: Tensor,
) -> dict:
    """How every attribute is read before and after; those that moved most come first."""
    after = evaluation.read_attributes(judge.model, in_8_bits(images))[0]
    pairs = {
        name: [round(float(b), 4), round(float(a), 4)]
        for name, b, a in zip(names, before, after, strict=True)
    }
    read_before, read_after = pairs.pop(names[place])
    return {
        "read_before": read_before,
        "read_after": read_after,
        "flipped": bool(after[place] >= 0.5) == (target == 1),
        "l1": round(float((in_8_bits(images) - source).abs().mean()) / 2, 5),
        "others": dict(sorted(pairs.items(), key=lambda pair: -abs(pair[1][1] - pair[1][0]))),
    }


def _report_attribute(result: dict) -> list[str]:
    moved = list(result["others"].items())[:SHOWN]
    return [
        f"{result['attribute']} to {'yes' if result['target'] else 'no'}: read {result['read_before']:.0%} "
        f"before, {result['read_after']:.0%} after; L1 {result['l1']:.3f}; {_told_settings(result)}; "
        f"{result['seconds']:.2f} s",
        "also changed: " + ", ".join(f"{name} {b:.0%} to {a:.0%}" for name, (b, a) in moved),
    ]
