"""python -m lessons_lib evaluate: draw images, measure them, and write what was measured into a card."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn

from lessons_lib import data, evaluation, weights
from lessons_lib.cli import processes
from lessons_lib.cli.batches import check_settings, describe, draw
from lessons_lib.cli.common import check_dataset, check_writable, resolve_device
from lessons_lib.cli.options import PROGRAM
from lessons_lib.files import atomic_write
from lessons_lib.pipeline import DEFAULT_SPACING, GenerationRequest, load_model, with_defaults

# What every denoiser's card says: (guidance scale, sampler, steps, samples).
STANDARD = {
    "mnist": (
        (1.0, "ddim", 50, 2_000), (1.0, "ddim", 25, 10_000),
        (2.0, "ddim", 25, 2_000), (2.0, "ddim", 10, 2_000),
    ),
    "cifar10": ((1.0, "ddpm", 50, 1_000), (3.0, "ddpm", 50, 1_000), (1.0, "ddim", 50, 1_000)),
}  # fmt: skip
NOISES = 10  # rows of the grid of cells
SOURCES = {"mnist": "MNIST", "digits": "scikit-learn's digits", "cifar10": "CIFAR-10"}


@dataclass(frozen=True, eq=False)
class Judge:
    """An evaluator, ready to score images of a data set."""

    dataset: str
    name: str
    model: nn.Module
    sha256: str
    device: str

    @classmethod
    def load(cls, dataset: str, name: str | None, device: str) -> Judge:
        """The evaluator by name or path; DATASET-evaluator if not given.

        Raises:
            WeightsError: if there are no such weights or they are not an evaluator's.
        """
        check_dataset(dataset)
        name, device = name or f"{dataset}-evaluator", resolve_device(device)
        model, _, card = load_model(name, device)
        if not hasattr(model, "features"):
            raise weights.WeightsError(f"The weights {name!r} are no evaluator: they cannot judge.")
        return cls(dataset, name, model, card["sha256"], device)

    @property
    def num_classes(self) -> int:
        """K."""
        return self.model.config.num_classes

    def reference(self, measure: Callable[[], evaluation.Reference] | None = None) -> evaluation.Reference:
        """What this evaluator makes of real images: the file beside its weights, or else measured now.

        Args:
            measure: in place of `measure_reference`.
        """
        path = self.reference_path()
        if path.exists():
            reference = evaluation.Reference.load(path)
            if reference.extractor == self.sha256:
                return reference
        return (measure or self.measure_reference)()

    def measure_reference(self) -> evaluation.Reference:
        """Measure the training images: MNIST, or where that is missing the embedded digits, which is said."""
        images = data.load(self.dataset, "train")
        print(f"Measuring {len(images):,} training images of {SOURCES[images.source]}.", file=sys.stderr)
        return evaluation.measure_reference(
            self.model, data.to_signed(images.images), images.labels, self.num_classes,
            extractor=self.sha256, source=images.source,
        )  # fmt: skip

    def write_reference(self, reference: evaluation.Reference) -> None:
        """Put it beside the weights, so that machines without MNIST measure against MNIST too."""
        with atomic_write(self.reference_path()) as temporary, open(temporary, "wb") as file:
            reference.save(file)

    def reference_path(self):
        """The file beside the weights that holds what they make of real images."""
        path = weights.weights_path(self.name)
        return path.with_name(f"{path.stem}-reference.npz")


# -- the three forms of the command ----------------------------------------------------------------


def run(
    judge: Judge, name: str | None, wanted: dict, num_samples: int, batch_size: int, as_json: bool
) -> None:
    """Measure one setting. `wanted` holds fields of GenerationRequest."""
    name = name or f"{judge.dataset}-denoiser"
    tell_if_circular(judge, [check(judge, name, wanted, num_samples, batch_size)])
    result = measure(judge, judge.reference(), name, wanted, num_samples, batch_size)
    print(json.dumps(result) if as_json else report(result))


def run_card(judge: Judge, name: str | None, wanted: dict, batch_size: int, as_json: bool) -> None:
    """Measure the standard settings and write them into the denoiser's card."""
    name = name or f"{judge.dataset}-denoiser"
    check(judge, name, wanted, 1, batch_size)
    reference = judge.reference()
    _check_card(judge, name, reference.source)
    card, results = weights.read_card(name), []
    for scale, sampler, steps, num_samples in STANDARD[judge.dataset]:
        setting = wanted | {
            "guidance": "cfg", "guidance_scale": scale, "sampler": sampler, "steps": steps,
        }  # fmt: skip
        results.append(measure(judge, reference, name, setting, num_samples, batch_size))
        if not as_json:
            print(report(results[-1]), end="\n\n", flush=True)
    weights.write_card(name, card | {"metrics": card.get("metrics", {}) | {"evaluations": results}})
    print(
        json.dumps(results) if as_json else f"Written into {weights.weights_path(name).with_suffix('.json')}."
    )


def run_evaluator(judge: Judge, write: bool, as_json: bool) -> None:
    """Measure the evaluator on all test images; with `write`, into its card, and the reference beside it."""
    tested = data.test_images(judge.dataset)
    if write:
        _check_card(judge, judge.name, tested.source)
    images = data.to_signed(tested.images)
    found = evaluation.accuracy(judge.model, images, tested.labels)
    result = {
        "command": f"{PROGRAM} evaluate {judge.dataset} --evaluator{_named('evaluator-weights', judge)}",
        "images": f"{len(images):,} test images of {SOURCES[tested.source]}",
        "accuracy": _accuracy_json(found, tested.class_names),
    }
    if write:
        card = weights.read_card(judge.name)
        judge.write_reference(judge.measure_reference())
        weights.write_card(judge.name, card | {"metrics": card.get("metrics", {}) | {"test": result}})
    print(json.dumps(result) if as_json else f"{judge.name} on {result['images']}\n{_accuracy_lines(result)}")


def _named(option: str, judge: Judge) -> str:
    return "" if judge.name == f"{judge.dataset}-evaluator" else f" --{option} {judge.name}"


def _check_card(judge: Judge, name: str, source: str) -> None:
    """Refuse before the long work a card that cannot be written, or that would quote the wrong data."""
    check_writable(weights.weights_path(name).with_suffix(".json"))
    if source != judge.dataset:
        raise data.DataError(f"A card needs the real {SOURCES[judge.dataset]}, which is not on this machine.")


def check(judge: Judge, name: str, wanted: dict, num_samples: int, batch_size: int) -> GenerationRequest:
    """Refuse, before any work, what cannot be measured; returns the request for one sample, filled in.

    Raises:
        ValueError, WeightsError: one sentence, as check_settings; also for another number of classes.
    """
    if num_samples < 1:
        raise ValueError(f"The number of samples must be at least 1, got {num_samples}.")
    request = GenerationRequest((0,), weights=name, device=judge.device, **wanted)
    num_classes = check_settings(request, batch_size)
    if num_classes != judge.num_classes:
        raise ValueError(f"{name} has {num_classes} classes but {judge.name} knows {judge.num_classes}.")
    return with_defaults(request)


def tell_if_circular(judge: Judge, requests: Iterable[GenerationRequest]) -> None:
    """Say so if the judge is the classifier that guides: it then reads what it asked for itself."""
    guides = {str(request.classifier) for request in requests if request.is_steered}
    if any(weights.read_card(guide)["sha256"] == judge.sha256 for guide in guides):
        print(f"{judge.name} judges images that it guided: its accuracy is circular.", file=sys.stderr)


# -- measuring -------------------------------------------------------------------------------------


def measure(
    judge: Judge, reference: evaluation.Reference, name: str, wanted: dict, num_samples: int, batch_size: int
) -> dict:
    """Draw num_samples images in the training set's class frequencies; all that was measured, for JSON.

    With guidance "none" there is no label to read right: accuracy is None, and diversity takes what is read.
    """
    labels = evaluation.labels_by_frequency(reference.class_counts, num_samples)
    request = GenerationRequest(labels.tolist(), weights=name, device=judge.device, **wanted)
    request = with_defaults(request)
    steered = (
        {"classifier_sha256": weights.read_card(request.classifier)["sha256"]} if request.is_steered else {}
    )
    started = time.perf_counter()
    images, _ = draw(request, batch_size)
    seconds = (time.perf_counter() - started) / num_samples
    told = request.guidance != "none"
    read = labels if told else evaluation.predictions(judge.model, images)
    right = evaluation.accuracy(judge.model, images, labels) if told else None
    spread = evaluation.diversity(judge.model, images, read, reference.spread)
    return {
        "command": command_of(request, judge, num_samples),
        "settings": describe(request),
        "weights_sha256": weights.read_card(name)["sha256"],
        **steered,
        "num_samples": num_samples,
        "accuracy": _accuracy_json(right, data.CLASS_NAMES[judge.dataset]) if right else None,
        "fid": _fid_json(judge, reference, images),
        "diversity": None if math.isnan(spread) else round(spread, 4),
        "seconds_per_image": round(seconds, 5),
        "batch_size": batch_size,
        "precision": request.precision,
        "device": torch.cuda.get_device_name() if judge.device == "cuda" else judge.device,
        "threads": torch.get_num_threads(),  # of each process
        "processes": processes.count(),
    }


def cells_right(judge: Judge, name: str, wanted: dict, batch_size: int) -> evaluation.Share:
    """NOISES noises, each pushed towards every class: how many of these cells are read as asked.

    The lessons' grid: with ten classes it has 100 cells, and a row of it differs in the label alone.
    """
    labels = torch.arange(judge.num_classes).repeat(NOISES)
    noises = torch.arange(NOISES).repeat_interleave(judge.num_classes)
    request = GenerationRequest(
        labels.tolist(), weights=name, device=judge.device, sample_indices=tuple(noises.tolist()), **wanted
    )
    images, _ = draw(with_defaults(request), batch_size)
    return evaluation.accuracy(judge.model, images, labels).overall


def command_of(request: GenerationRequest, judge: Judge, num_samples: int) -> str:
    """The command that measures this again; the request's defaults must be filled in."""
    words = [f"{PROGRAM} evaluate {judge.dataset} --guidance {request.guidance}"]
    if request.is_steered:
        words.append(f"--classifier {request.classifier}")
    if request.guidance != "none":
        words.append(f"--guidance-scale {request.guidance_scale:g}")
    if request.interval:
        words.append("--interval {},{}".format(*request.interval))
    words.append(f"--sampler {request.sampler} --steps {request.steps} --num-samples {num_samples}")
    if request.spacing != DEFAULT_SPACING[request.sampler]:
        words.append(f"--spacing {request.spacing}")
    usual = {field.name: field.default for field in dataclasses.fields(request)}
    for name in ("seed", "precision"):
        if getattr(request, name) != usual[name]:
            words.append(f"--{name} {getattr(request, name)}")
    if request.weights != f"{judge.dataset}-denoiser":
        words.append(f"--weights {request.weights}")
    return " ".join(words) + _named("evaluator-weights", judge)


def share_json(share: evaluation.Share) -> dict:
    """A share with its interval, for JSON."""
    low, high = share.interval
    rounded = {"value": round(share.value, 5), "interval_95": [round(low, 5), round(high, 5)]}
    return rounded | {"right": share.successes, "total": share.total}


def _accuracy_json(found: evaluation.Accuracy, names: tuple[str, ...]) -> dict:
    by_class = {names[label]: share_json(share) for label, share in found.by_class.items()}
    return share_json(found.overall) | {"by_class": by_class}


def _fid_json(judge: Judge, reference: evaluation.Reference, images: torch.Tensor) -> dict | None:
    if len(images) < 2:
        return None
    value = evaluation.feature_fid(judge.model, reference.statistics, images)
    return {
        "value": round(value, 4),
        "floor": round(reference.floor, 4),
        "times_floor": round(value / reference.floor, 2),
        "num_samples": len(images),
        "reference": f"{reference.statistics.count:,} training images of {SOURCES[reference.source]}",
        "floor_images": f"the other {reference.floor_count:,} training images",
        "extractor": judge.name,
        "extractor_sha256": judge.sha256,
    }


# -- telling ---------------------------------------------------------------------------------------


def report(result: dict) -> str:
    """The result of `measure` for people."""
    lines = [f"{result['settings']}; {result['num_samples']:,} samples on {result['device']}"]
    lines.append(
        _accuracy_lines(result) if result["accuracy"] else "read right   – (no labels were asked for)"
    )
    if fid := result["fid"]:
        lines += [
            f"feature FID  {fid['value']:.3f}, {fid['times_floor']:.1f} times the floor ({fid['floor']:.3f})",
            f"             {fid['num_samples']:,} samples against {fid['reference']}",
            f"             floor: {fid['floor_images']} against them",
            f"             features of {fid['extractor']} (SHA-256 {fid['extractor_sha256'][:12]}…)",
        ]
    if result["diversity"] is not None:
        lines.append(
            f"diversity    {result['diversity']:.2f} (1: as far apart within a class as real images)"
        )
    batch = f"batches of {result['batch_size']}, {result['precision']}, {result['threads']} threads"
    if result["processes"] > 1:
        batch += f" in each of {result['processes']} processes"
    return "\n".join([*lines, f"time         {result['seconds_per_image']:.4f} seconds an image ({batch})"])


def _accuracy_lines(result: dict) -> str:
    found = result["accuracy"]
    rows = {"read right": found} | {f"  as {k}": v for k, v in found["by_class"].items()}
    width = max(12, *map(len, rows))
    return "\n".join(
        f"{name:{width}} {evaluation.Share(v['right'], v['total'])}, {v['total']:,} images"
        for name, v in rows.items()
    )
