"""python -m lessons_lib sample: draw images and write them."""

import math
import shlex
import time
from dataclasses import MISSING, dataclass, replace
from pathlib import Path

from lessons_lib import data, weights
from lessons_lib.cli import common, processes
from lessons_lib.cli import options as o
from lessons_lib.cli.common import check_settings, draw
from lessons_lib.evaluation.task import describe
from lessons_lib.files import check_writable
from lessons_lib.images import denoising_frames, save_png, to_bytes, to_grid
from lessons_lib.pipeline import GenerationRequest

NO_LABEL = -1  # what a .npz says of an image for which no label was asked


@dataclass(frozen=True, kw_only=True)
class Options:
    """What can be typed after sample; fields of a GenerationRequest have their names."""

    dataset: o.Source
    out: Path = o.option("FILE.png (a row a label), .gif (the denoising) or .npz (images, labels).", MISSING)
    labels: str = o.option("Labels with commas between, such as 0,1,2 or cat,dog,3; or all.", "all")
    num_per_label: int = o.option("Images of each label.", 1)
    guidance: o.Guidance = "cfg"
    guidance_scale: o.Scale = None
    classifier: o.Classifier = None
    interval: o.Interval = None
    sampler: o.Sampler = None
    steps: o.Steps = None
    spacing: o.Spacing = None
    seed: o.Seed = 0
    weights: o.Weights = None
    individual: Path | None = o.option("A folder that gets one PNG an image too.")
    batch_size: o.BatchSize = 100
    device: o.Device = "auto"
    precision: o.NetworkPrecision = "float32"
    attribute: o.OneAttribute = None
    target: o.Target = None
    num_samples: int = o.option("Of celeba: how many faces to draw.", 16)


def sample(options: Options) -> None:
    """Draw images and write them to a file."""
    common.check_dataset(options.dataset, folders=True)
    o.check_belongs(options, options.dataset)
    common.check_drawn_file(options.out)
    if options.individual:
        check_writable(options.individual, is_folder=True)
    request, columns = (_faces if options.dataset == "celeba" else _classes)(options)
    labels = [NO_LABEL if request.guidance == "none" else label for label in request.labels]
    names = [f"{k:05d}.png" if y == NO_LABEL else f"{k:05d}_label_{y}.png" for k, y in enumerate(labels)]
    if options.individual:
        others = [path for path in options.individual.glob("*.png") if path.name not in names]
        common.refuse({f"{options.individual} holds other pictures: name an empty folder.": others})
    started = time.perf_counter()
    images, states = draw(request, options.batch_size, keep_states=options.out.suffix.lower() == ".gif")
    seconds = time.perf_counter() - started
    picture, frames = lambda: to_grid(images, columns, scale=2), lambda: denoising_frames(states, columns)
    common.write_drawn(options.out, picture, frames, labels, images=images)
    if options.individual:
        pixels = to_bytes(images).permute(0, 2, 3, 1).numpy()
        for name, image in zip(names, pixels, strict=True):
            save_png(options.individual / name, image[..., 0] if image.shape[-1] == 1 else image)
    several = f" with {count} processes" if (count := processes.count()) > 1 else ""
    print(f"{len(images)} images in {options.out}: {describe(request)}; {seconds:.2f} s{several}.")


def _classes(options: Options) -> tuple[GenerationRequest, int]:
    """The request for images of classes, and how many of them stand in a row."""
    count, name = options.num_per_label, options.weights or _default_weights(options.dataset)
    common.refuse({f"The number of images a label must be at least 1, got {count}.": count < 1})
    card = weights.read_card(name)
    # A network that was never told a class draws without guidance.
    untold = options.guidance == "cfg" and card["config"].get("num_classes") == 0
    guidance = "none" if untold else options.guidance
    request = common.make_request(GenerationRequest, options, labels=(0,), weights=name, guidance=guidance)
    num_classes = check_settings(request, options.batch_size)
    if num_classes:
        names = card.get("class_names") or data.CLASS_NAMES.get(options.dataset, ())
        labels = common.parse_labels(options.labels, num_classes, names)
        if guidance == "none":
            print("Guidance none draws with the unconditional model, which ignores the labels.")
    else:
        is_named = options.labels.strip() != "all"
        common.refuse({f"The weights {name!r} know no classes: leave out --labels.": is_named})
        print("These weights know no classes: they draw without guidance.")
        labels = [0]
    common.check_amount(request, count * len(labels), count, options.out)
    repeated = tuple(label for label in labels for _ in range(count))
    return replace(request, labels=repeated).plan().request, count


def _default_weights(dataset: str) -> str:
    if not data.is_folder(dataset):
        return f"{dataset}-denoiser"
    path = common.folder_weights(dataset)
    if not path.is_file():
        advice = f"train {dataset} first, or name them with --weights"
        raise weights.WeightsError(f"There are no weights {str(path)!r}: {advice}.")
    words = shlex.split(str(weights.read_card(path).get("training", {}).get("command", "")))
    for word in filter(data.is_folder, words):
        if data.path_of(word).resolve() != data.path_of(dataset).resolve():
            other = f"{path} was trained on {word}, not on {dataset}"
            raise weights.WeightsError(f"{other}: name these weights with --weights, or train others.")
    return str(path)


def _faces(options: Options) -> tuple[GenerationRequest, int]:
    """The request for faces, and how many of them stand in a row."""
    count, target, name = options.num_samples, _target(options), options.weights or "celeba-denoiser"
    common.refuse({f"The number of samples must be at least 1, got {count}.": count < 1})
    steering = {"guidance": "none", "attribute": None}
    if target is not None:  # cfg, the default, is a classifier's guidance if the denoiser is told nothing
        is_told = options.guidance == "cfg" and weights.read_card(name)["config"].get("multi_label")
        steering = {"guidance": "cfg" if is_told else "classifier"}
    request = common.make_request(GenerationRequest, options, labels=(target or 0,), weights=name, **steering)
    check_settings(request, options.batch_size)
    columns = math.ceil(math.sqrt(count))
    common.check_amount(request, count, columns, options.out)
    return replace(request, labels=request.labels * count).plan().request, columns


def _target(options: Options) -> int | None:
    """1, 0, or None for faces without guidance."""
    text, attribute, guidance = options.target, options.attribute, options.guidance
    target = None if text in (None, "none") else common.parse_target(text, "1, 0 or none")
    is_guided = attribute is not None and text != "none" and guidance != "none"
    is_known, needs = guidance in ("cfg", "classifier", "none"), "needs an --attribute"
    common.refuse({
        f"Faces are steered with guidance classifier, not {guidance!r}.": not is_known,
        "--guidance none asks for nothing: leave out --target.": guidance == "none" and target is not None,
        f"--target {text} {needs}, such as Smiling.": target is not None and attribute is None,
        f"--guidance classifier {needs}, such as Smiling.": guidance == "classifier" and attribute is None,
        f"--guidance-scale {needs} and a --target.": options.guidance_scale is not None and not is_guided,
        f"--classifier {needs} and a --target.": options.classifier is not None and not is_guided,
    })  # fmt: skip
    return (1 if target is None else target) if is_guided else None
