"""python -m lessons_lib sample: draw images and write them."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lessons_lib import data, weights
from lessons_lib.cli import common, processes
from lessons_lib.cli import options as o
from lessons_lib.cli.batches import check_settings, draw
from lessons_lib.cli.options import option
from lessons_lib.data import to_unit
from lessons_lib.evaluation.task import describe
from lessons_lib.files import check_writable
from lessons_lib.images import denoising_frames, save_png, to_grid
from lessons_lib.pipeline import GenerationRequest

NO_LABEL = -1  # what a .npz says of an image for which no label was asked
NUM_FACES = 16


@dataclass(frozen=True, kw_only=True)
class Options:
    """What can be typed after sample."""

    dataset: o.Source
    out: Path = option(
        "FILE.png (a row a label), .gif (the denoising) or .npz (images in [0, 1], labels).", o.REQUIRED
    )
    labels: str = option("Labels with commas between, such as 0,1,2 or cat,dog,3; or all.", "all")
    num_per_label: int = option("Images of each label.", 1)
    guidance: o.Guidance = "cfg"
    guidance_scale: o.Scale = None
    classifier: o.Classifier = None
    interval: o.Interval = None
    sampler: o.Sampler = None
    steps: o.Steps = None
    spacing: o.Spacing = None
    seed: o.Seed = 0
    weights: o.Weights = None
    individual: Path | None = option("A folder that gets one PNG an image too.")
    batch_size: o.BatchSize = 100
    device: o.Device = "auto"
    precision: o.NetworkPrecision = "float32"
    attribute: o.OneAttribute = None
    target: o.Target = None
    num_samples: int | None = option("Of celeba: how many faces to draw. [default: 16]")

    def request(self, weights_name: str, labels: Sequence[int], **steering) -> GenerationRequest:
        """A request for these labels, guided as `steering` says, by the other options."""
        return GenerationRequest(
            labels, weights=weights_name, interval=self.interval, sampler=self.sampler, steps=self.steps,
            spacing=self.spacing, seed=self.seed, device=common.resolve_device(self.device),
            precision=self.precision, **steering,
        )  # fmt: skip


def sample(options: Options) -> None:
    """Draw images and write them to a file.

    Everything that can be refused is refused before the first step.
    """
    common.check_dataset(options.dataset, folders=True)
    o.check_belongs(options, options.dataset)
    common.check_drawn_file(options.out)
    if options.individual:
        check_writable(options.individual, is_folder=True)
    request, columns = (_faces if options.dataset == "celeba" else _classes)(options)
    started = time.perf_counter()
    images, states = draw(request, options.batch_size, keep_states=options.out.suffix.lower() == ".gif")
    seconds = time.perf_counter() - started
    labels = [NO_LABEL if request.guidance == "none" else label for label in request.labels]
    picture, frames = lambda: to_grid(images, columns, scale=2), lambda: denoising_frames(states, columns)
    common.write_drawn(options.out, picture, frames, images, labels)
    if options.individual:
        _write_individual(options.individual, images, labels)
    several = f" with {count} processes" if (count := processes.count()) > 1 else ""
    print(f"{len(images)} images in {options.out}: {describe(request)}; {seconds:.2f} s{several}.")


def _classes(options: Options) -> tuple[GenerationRequest, int]:
    """The request for images of classes, and how many of them stand in a row."""
    if options.num_per_label < 1:
        raise ValueError(f"The number of images a label must be at least 1, got {options.num_per_label}.")
    name = options.weights or _default_weights(options.dataset)
    card = weights.read_card(name)
    # A network that was never told a class draws without guidance.
    untold = options.guidance == "cfg" and card["config"].get("num_classes") == 0
    request = options.request(
        name, (0,), guidance="none" if untold else options.guidance,
        guidance_scale=options.guidance_scale, classifier=options.classifier,
    )  # fmt: skip
    num_classes = check_settings(request, options.batch_size)
    names = card.get("class_names") or data.CLASS_NAMES.get(options.dataset, ())
    labels = common.parse_labels(options.labels, num_classes, names) if num_classes else [0]
    if not num_classes and options.labels.strip() != "all":
        raise ValueError(f"The weights {name!r} know no classes: leave out --labels.")
    if not num_classes:
        print("These weights know no classes: they draw without guidance.")
    elif request.guidance == "none":
        print("Guidance none draws with the unconditional model, which ignores the labels.")
    repeated = tuple(label for label in labels for _ in range(options.num_per_label))
    return dataclasses.replace(request, labels=repeated).plan().request, options.num_per_label


def _default_weights(dataset: str) -> str:
    if not data.is_folder(dataset):
        return f"{dataset}-denoiser"
    path = common.folder_weights(dataset)
    if not path.is_file():
        advice = f"train {dataset} first, or name them with --weights"
        raise weights.WeightsError(f"There are no weights {str(path)!r}: {advice}.")
    return str(path)


def _faces(options: Options) -> tuple[GenerationRequest, int]:
    """The request for faces, and how many of them stand in a row."""
    count = NUM_FACES if options.num_samples is None else options.num_samples
    if count < 1:
        raise ValueError(f"The number of samples must be at least 1, got {count}.")
    target, name = _target(options), options.weights or common.DENOISER
    if target is None:
        request = options.request(name, (0,) * count, guidance="none")
    else:
        told = weights.read_card(name)["config"].get("multi_label") and options.guidance == "cfg"
        request = options.request(
            name, (target,) * count, guidance="cfg" if told else "classifier",
            guidance_scale=options.guidance_scale, classifier=options.classifier,
            attribute=options.attribute,
        )  # fmt: skip
    check_settings(request, options.batch_size)
    return request.plan().request, math.ceil(math.sqrt(count))


def _target(options: Options) -> int | None:
    """1, 0, or None for faces without guidance."""
    text, attribute = options.target, options.attribute
    unguided = common.guidance_of(options.guidance) == "none"
    target = None if text in (None, "none") else common.target_of(text, "1, 0 or none")
    if unguided and target is not None:
        raise ValueError("--guidance none asks for nothing: leave out --target.")
    if target is not None and attribute is None:
        raise ValueError(f"--target {text} needs an --attribute, such as Smiling.")
    if attribute is None and options.guidance == "classifier":
        raise ValueError("--guidance classifier needs an --attribute, such as Smiling.")
    if attribute is not None and text != "none" and not unguided:
        return 1 if target is None else target
    for name in ("guidance_scale", "classifier"):
        if getattr(options, name) is not None:
            raise ValueError(f"{o.flag(name)} needs an --attribute and a --target.")
    return None


def _write_individual(folder: Path, images: Tensor, labels: list[int]) -> None:
    """Write a PNG an image, in its own size: 00012_label_3.png."""
    pixels = (to_unit(images) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    for k, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        name = f"{k:05d}.png" if label == NO_LABEL else f"{k:05d}_label_{label}.png"
        save_png(folder / name, image[..., 0] if image.shape[-1] == 1 else image)
