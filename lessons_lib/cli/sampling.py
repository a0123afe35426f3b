"""python -m lessons_lib sample: draw images and write them."""

from __future__ import annotations

import functools
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lessons_lib import data, weights
from lessons_lib.cli import processes
from lessons_lib.cli.common import check_dataset, folder_weights, progress_bar, resolve_device
from lessons_lib.data import to_unit
from lessons_lib.evaluation.task import describe
from lessons_lib.files import atomic_write, check_writable
from lessons_lib.images import denoising_frames, png_bytes, save_gif, save_png, to_grid
from lessons_lib.pipeline import (
    GenerationRequest,
    check_request,
    generate,
    in_chunks,
    with_defaults,
)

SUFFIXES = (".png", ".gif", ".npz")
MAX_FRAMES = 60  # of a GIF: DDPM's thousand steps would make a film of a minute
NO_LABEL = -1  # what a .npz says of an image for which no label was asked


def run(
    dataset: str, weights_name: str | None, labels: str, num_per_label: int, wanted: dict,
    out: Path, individual: Path | None, batch_size: int,
) -> None:  # fmt: skip
    """Draw and write. Everything that can be refused is refused before the first step.

    Args:
        wanted: fields of GenerationRequest.
    """
    check_dataset(dataset, folders=True)
    check_outputs(out, individual)
    if num_per_label < 1:
        raise ValueError(f"The number of images a label must be at least 1, got {num_per_label}.")
    name = weights_name or _default_weights(dataset)
    wanted = wanted | {"device": resolve_device(wanted["device"])}
    if wanted["guidance"] == "cfg" and weights.read_card(name)["config"].get("num_classes") == 0:
        wanted["guidance"] = "none"  # such a network was never told a class
    num_classes = check_settings(name, wanted, batch_size)
    asked = parse_labels(labels, num_classes, class_names(dataset, name)) if num_classes else [0]
    if not num_classes and labels.strip() != "all":
        raise ValueError(f"The weights {name!r} know no classes: leave out --labels.")
    request = GenerationRequest([k for k in asked for _ in range(num_per_label)], weights=name, **wanted)
    request = with_defaults(request)
    if not num_classes:
        print("These weights know no classes: they draw without guidance.")
    elif request.guidance == "none":
        print("Guidance none draws with the unconditional model, which ignores the labels.")
    started = time.perf_counter()
    images, states = draw(request, batch_size, keep_states=out.suffix.lower() == ".gif")
    seconds = time.perf_counter() - started
    labels_of = torch.tensor([NO_LABEL if request.guidance == "none" else k for k in request.labels])
    write(out, images, labels_of, states, columns=num_per_label)
    if individual:
        write_individual(individual, images, labels_of)
    several = f" with {count} processes" if (count := processes.count()) > 1 else ""
    print(f"{len(images)} images in {out}: {describe(request)}; {seconds:.2f} s{several}.")


def _default_weights(dataset: str) -> str:
    if not data.is_folder(dataset):
        return f"{dataset}-denoiser"
    path = folder_weights(dataset)
    if not path.is_file():
        raise weights.WeightsError(
            f"There are no weights {str(path)!r}: train {dataset} first, or name them with --weights."
        )
    return str(path)


def check_settings(name: str, wanted: dict, batch_size: int) -> int:
    """Refuse what these weights cannot draw, before any work; returns K, the number of labels they know.

    Raises:
        ValueError: for settings out of range.
        WeightsError: if weights cannot be loaded, or are not a denoiser's or a classifier's.
    """
    request = GenerationRequest((0,), weights=name, **wanted)
    next(in_chunks(request, batch_size))
    num_classes = check_request(request)
    if processes.count() > 1:
        request = with_defaults(request)
        processes.spread(_check_weights, [(request, _shas(request))] * processes.count())
    return num_classes


def _check_weights(part: tuple[GenerationRequest, list[str]], _: processes.Advance) -> None:
    """Refuse, in each process, weights that are not there or not the first process's."""
    request, shas = part
    check_request(request)  # loads them, too
    for name, mine, first in zip(_names(request), _shas(request), shas, strict=True):
        if mine != first:
            raise weights.WeightsError(f"The weights {name!r} are not those that the first process has.")


def _names(request: GenerationRequest) -> list[str]:
    return [str(request.weights), *([str(request.classifier)] if request.is_steered else [])]


def _shas(request: GenerationRequest) -> list[str]:
    return [weights.read_card(name)["sha256"] for name in _names(request)]


def class_names(dataset: str, weights_name: str) -> tuple[str, ...]:
    """What the weights' card calls the classes; without a word there, the data set's names."""
    return tuple(weights.read_card(weights_name).get("class_names") or data.CLASS_NAMES.get(dataset, ()))


def parse_labels(text: str, num_classes: int, names: Sequence[str] = ()) -> list[int]:
    """ "0,1,2", "cat,dog,3" or "all" -> labels.

    Args:
        names: of the classes, in order.

    Raises:
        ValueError: for a label that these weights do not know; it lists those that they know.
    """
    if text.strip() == "all":
        return list(range(num_classes))
    numbers = {str(k): k for k in range(num_classes)}
    # A name counts first: there are classes that are called 7 and are not the eighth.
    known = numbers | {name: k for k, name in enumerate(names[:num_classes])}
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if part not in known:
            choice = ", ".join(name for name in names if name not in numbers)
            choice = f"{choice}; or a number " if choice else ""
            raise ValueError(f"Unknown label {part!r}: choose {choice}from 0 to {num_classes - 1}, or all.")
    return [known[part] for part in parts]


def draw(
    request: GenerationRequest, batch_size: int, keep_states: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """Draw a request a batch at a time: images [N, C, H, W] in [-1, 1], and the states x_t if asked.

    Several processes share the batches, whose content does not depend on their number: with the same number
    of threads in each, the images are the same bit for bit. States go to the first process like the images.
    """
    kept = set(np.linspace(0, request.steps - 1, min(request.steps, MAX_FRAMES)).round().astype(int).tolist())
    parts = list(in_chunks(request, batch_size))
    total = len(request.labels)
    own = sum(len(part.labels) for part in parts[:: processes.count()])  # the bar tells all by the own share
    layout = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total} images [{elapsed}<{remaining}]"
    with progress_bar(total, "drawing", bar_format=layout) as bar:
        drawn = processes.spread(
            functools.partial(_draw_part, kept=kept if keep_states else ()),
            parts,
            lambda count: bar.update(count * total / own),
        )
    images, states = zip(*drawn, strict=True)
    return torch.cat(images), [torch.cat(steps) for steps in zip(*states, strict=True)]


def _draw_part(
    part: GenerationRequest, advance: processes.Advance, kept: Collection[int]
) -> tuple[Tensor, list[Tensor]]:
    """One batch, and its states after the steps in `kept`."""
    states = []
    for k, step in enumerate(generate(part)):
        if k in kept:
            states.append(step.x_t.cpu())
        advance(len(part.labels) / part.steps)
    return step.x_t.clamp(-1, 1).cpu(), states


def write(out: Path, images: Tensor, labels: Tensor, states: list[Tensor], columns: int) -> None:
    """Write a grid, a denoising film or an archive, whole or not at all."""
    suffix = out.suffix.lower()
    if suffix == ".png":
        save_png(out, to_grid(images, columns, scale=2))
    elif suffix == ".gif":
        save_gif(out, denoising_frames(states, columns))
    else:
        with atomic_write(out) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, images=to_unit(images).float().numpy(), labels=labels.numpy())


def write_individual(folder: Path, images: Tensor, labels: Tensor) -> None:
    """Write a PNG an image, in its own size."""
    for name, pixels in _named_pixels(images, labels):
        with atomic_write(folder / name) as temporary:
            temporary.write_bytes(png_bytes(pixels))


def _named_pixels(images: Tensor, labels: Tensor) -> Iterator[tuple[str, np.ndarray]]:
    """("00012_label_3.png", [H, W] or [H, W, 3] uint8) for each image, in its own size."""
    for k, (image, label) in enumerate(zip(to_unit(images), labels.tolist(), strict=True)):
        pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        told = "" if label == NO_LABEL else f"_label_{label}"
        yield f"{k:05d}{told}.png", pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def check_outputs(out: Path, individual: Path | None) -> None:
    """Refuse now what could not be written later."""
    if out.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"The output must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, got {str(out)!r}."
        )
    check_writable(out)
    if individual:
        check_writable(individual, is_folder=True)
