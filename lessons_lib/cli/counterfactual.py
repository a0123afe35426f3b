"""python -m lessons_lib counterfactual: one image, had its label, or an attribute of a face, been another."""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor
from typer import Argument

from lessons_lib import data, evaluation, pictures, pipeline
from lessons_lib.cli import common
from lessons_lib.cli import options as o
from lessons_lib.counterfactuals import in_8_bits
from lessons_lib.evaluation.judge import Judge
from lessons_lib.evaluation.task import face_defaults
from lessons_lib.files import check_writable, write_whole
from lessons_lib.images import changes_grid, denoising_frames
from lessons_lib.names import place_of, refuse
from lessons_lib.pipeline import CounterfactualRequest

SHOWN = 5  # other attributes that the report names
SETTINGS = ("method", "guidance", "guidance_scale", "classifier", "depth", "steps", "seed", "precision")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What can be typed after counterfactual; fields of a CounterfactualRequest have their names."""

    dataset: Annotated[str, Argument(help="The data set: mnist or celeba.", metavar="DATASET")]
    image: Path | None = o.option("A picture of a digit, of any size and colour; or an aligned face.")
    index: int | None = o.option("The number of a test image instead, from 0.")
    source_class: str | None = o.option("What the image is. [default: its label, or what is read in it]")
    target_class: str = o.option("What it should have been: labels such as 3 or 3,8; or all.", "all")
    method: o.Method = "ddim"
    guidance: o.DecodingGuidance = "cfg"
    guidance_scale: o.Scale = None
    classifier: o.Classifier = None
    depth: o.Depth = None
    steps: o.DecodingSteps = None
    seed: o.Seed = 0
    weights: o.Weights = None
    evaluator_weights: o.EvaluatorWeights = None
    out: Path | None = o.option("FILE.png (with what changed), .gif (the way) or .npz (with the source).")
    output_dir: Path | None = o.option("A folder that gets all three, and the measures as JSON.")
    device: o.Device = "auto"
    precision: o.NetworkPrecision = "float32"
    json: o.Json = False
    attribute: o.OneAttribute = None
    target: o.Target = None

    def files(self) -> list[Path]:
        """Where the images go; ValueError or WriteError now for what could not be written later."""
        if self.out is None and self.output_dir is None and not self.json:
            raise ValueError("Say where the result goes: --out FILE.png, .gif or .npz, or --output-dir DIR.")
        files = [self.out] if self.out else []
        if self.output_dir:
            check_writable(self.output_dir, is_folder=True)
            files += [self.output_dir / f"counterfactual{suffix}" for suffix in common.SUFFIXES]
        for path in files:
            common.check_drawn_file(path)
        return files

    def picture(self, noun: str, size: int | None = None) -> tuple[Tensor, int | None]:
        """The image [1, C, H, W] in [-1, 1] that was named, and its label if it is a test digit."""
        if (self.image is None) == (self.index is None):
            choice = f"a picture with --image FILE, or a test {noun} with --index N"
            raise ValueError(f"Name one {noun}: {choice}.")
        if self.image is not None and noun == "face":
            return data.to_signed(torch.from_numpy(data.read_face(self.image, size)))[None], None
        if self.image is not None:
            return in_8_bits(pictures.load_digit(self.image)), None
        images = data.load(self.dataset, "test", image_size=size)
        allowed = f"between 0 and {len(images) - 1}"
        refuse({f"--index must be {allowed}, got {self.index}.": not 0 <= self.index < len(images)})
        image, label = images[self.index]
        return image[None], label


def counterfactual(options: Options) -> None:
    """Draw what an image would look like, had its label been another one, and measure it."""
    common.check_dataset(options.dataset, ("mnist", "celeba"))
    o.check_belongs(options, options.dataset)
    files = options.files()
    task = (Face if options.dataset == "celeba" else Digit)(options)
    request, source = task.request, task.source
    started, states = time.perf_counter(), []
    with common.progress_bar(request.steps, "drawing") as bar:  # with a depth it jumps to its end
        for step in pipeline.counterfactuals(request, source):
            states.append(step.x_t.cpu())
            bar.update()
    images = states[-1].clamp(-1, 1)
    result = {
        **({"index": options.index} if options.image is None else {"image": str(options.image)}),
        **task.facts, "seconds": round(time.perf_counter() - started, 3),
        **{name: getattr(request, name) for name in SETTINGS}, "weights": str(request.weights),
        "evaluator": task.judge.name, "evaluator_sha256": task.judge.sha256, **task.measure(images),
    }  # fmt: skip
    states = [*(states[k] for k in common.shown_steps(len(states))[:-1]), images]
    way = [torch.cat([source, x_t]) for x_t in states]  # the source beside each
    for file in files:
        common.write_drawn(
            file, lambda: changes_grid(source, images[None]), lambda: denoising_frames(way, len(way[0])),
            request.targets, images=images, source=source[0],
        )  # fmt: skip
    if options.output_dir:
        write_whole(options.output_dir / "measures.json", json.dumps(result, indent=2) + "\n")
    if options.json:
        return print(json.dumps(result))
    depth = "" if request.depth is None else f", depth {request.depth}"
    letter = "w" if request.guidance == "cfg" else "s"
    settings = f"{letter}={request.guidance_scale:g}{depth}, {request.steps} steps"
    print(*task.report(result | {"settings": settings}), *(f"in {file}" for file in files), sep="\n")


class Digit:
    """What is asked of a digit: its counterfactuals of other classes. All is checked when it is made.

    request has its defaults filled in, source is [1, C, H, W] in [-1, 1], facts are for JSON.
    """

    def __init__(self, options: Options) -> None:
        name, label = options.weights or "mnist-denoiser", options.source_class
        pair = {"sources": (0,), "targets": (1,)}
        request = common.make_request(CounterfactualRequest, options, weights=name, **pair)
        num_classes = request.plan().num_labels
        targets = common.parse_labels(options.target_class, num_classes)
        is_known = label is None or label.strip() in map(str, range(num_classes))
        refuse({f"Unknown source class {label!r}: choose from 0 to {num_classes - 1}.": not is_known})
        self.judge = Judge.load("mnist", options.evaluator_weights, request.device)
        self.judge.check_classes(name, num_classes)
        self.source, known = options.picture("image")
        (read,) = self._read(self.source)
        known = read["read_as"] if known is None else known
        source_class = known if label is None else int(label)
        self.request = replace(request, sources=(source_class,), targets=targets).plan().request
        self.facts = {"source_class": source_class, "source_read": read}
        self.judge.tell_if_circular([self.request.classifier])

    def _read(self, images: Tensor) -> list[dict]:
        """What the evaluator reads in each image, and how sure it is."""
        best = self.judge.model.probabilities(images.to(self.judge.device)).max(dim=1)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [{"read_as": label, "confidence": round(value, 4)} for label, value in pairs]

    def measure(self, images: Tensor) -> dict:
        """What is read in each counterfactual, and how far it lies; means without the source's label."""
        l1 = (data.to_unit(images) - data.to_unit(self.source)).abs().mean(dim=(1, 2, 3)).tolist()
        judged = zip(self.request.targets, self._read(images), l1, strict=True)
        rows = [{"target": target, **read, "l1": round(distance, 5)} for target, read, distance in judged]
        others = [row for row in rows if row["target"] != self.request.sources[0]]
        right = sum(row["read_as"] == row["target"] for row in others)
        return {
            "counterfactuals": rows,
            "effectiveness": round(right / len(others), 5) if others else None,
            "l1": round(sum(row["l1"] for row in others) / len(others), 5) if others else None,
        }

    def report(self, result: dict) -> list[str]:
        source = (
            "source {source_class}, read as {source_read[read_as]} ({source_read[confidence]:.0%}); "
            "{method}, {guidance}, {settings}, seed {seed}; {seconds:.2f} s"
        )
        row = "  to {target}: read as {read_as} ({confidence:.0%}), L1 {l1:.3f}"
        mean = "{effectiveness:.0%} of the other labels read as asked, mean L1 {l1:.3f}"
        lines = [source.format_map(result), *map(row.format_map, result["counterfactuals"])]
        return lines if result["l1"] is None else [*lines, mean.format_map(result)]


class Face:
    """What is asked of a face: one attribute changed. Its fields are as a Digit's."""

    def __init__(self, options: Options) -> None:
        name, guidance = options.weights or "celeba-denoiser", options.guidance
        is_known = guidance in ("cfg", "classifier")  # cfg, the default, is a classifier's here
        refuse({
            f"Faces are steered with guidance classifier, not {guidance!r}.": not is_known,
            "Name an --attribute, such as Smiling.": options.attribute is None,
        })  # fmt: skip
        request = common.make_request(
            CounterfactualRequest, options, sources=(0,), targets=(1,), weights=name, guidance="classifier",
        )  # fmt: skip
        request = face_defaults(request)
        self.judge = Judge.load("celeba", options.evaluator_weights, request.device)
        self.names = self.judge.attributes
        self.judge.check_size(name)
        self.place = place_of(options.attribute, self.names, "attribute")
        self.source, _ = options.picture("face", self.judge.model.config.image_size)
        self.before = evaluation.read_attributes(self.judge.model, self.source)[0]
        other = int(self.before[self.place] < 0.5)
        target = other if options.target is None else common.parse_target(options.target)
        self.request = replace(request, sources=(1 - target,), targets=(target,))
        self.facts = {"attribute": self.names[self.place], "target": target}

    def measure(self, images: Tensor) -> dict:
        """How every attribute is read before and after; of the others, those that moved most come first."""
        after = evaluation.read_attributes(self.judge.model, in_8_bits(images))[0]
        shares = zip(self.names, self.before.tolist(), after.tolist(), strict=True)
        pairs = {name: [round(share, 4) for share in pair] for name, *pair in shares}
        read_before, read_after = pairs.pop(self.names[self.place])
        return {
            "read_before": read_before, "read_after": read_after,
            "flipped": bool(after[self.place] >= 0.5) == (self.facts["target"] == 1),
            "l1": round(float((in_8_bits(images) - self.source).abs().mean()) / 2, 5),
            "others": dict(sorted(pairs.items(), key=lambda pair: -abs(pair[1][1] - pair[1][0]))),
        }  # fmt: skip

    def report(self, result: dict) -> list[str]:
        answer = "yes" if result["target"] else "no"
        read = "{read_before:.0%} before, {read_after:.0%} after; L1 {l1:.3f}; {settings}; {seconds:.2f} s"
        moved = [f"{name} {b:.0%} to {a:.0%}" for name, (b, a) in list(result["others"].items())[:SHOWN]]
        line = f"{result['attribute']} to {answer}: read {read.format_map(result)}"
        return [line, f"also changed: {', '.join(moved)}"]
