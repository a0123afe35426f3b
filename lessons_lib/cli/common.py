"""What several commands need: checks before the work, drawing in batches, files, the progress bar."""

import contextlib
import csv
import functools
import math
import sys
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import psutil
import torch
from torch import Tensor
from tqdm.auto import tqdm

from lessons_lib import data, weights
from lessons_lib.cli import processes
from lessons_lib.cli.options import settings
from lessons_lib.files import WriteError, atomic_write, check_writable
from lessons_lib.images import save_gif, save_png
from lessons_lib.names import refuse
from lessons_lib.pipeline import GenerationRequest, generate, in_chunks
from lessons_lib.training import TrainConfig
from lessons_lib.training.devices import training_device

DATASETS = ("mnist", "cifar10", "celeba")
SUFFIXES = (".png", ".gif", ".npz")
MAX_FRAMES = 60  # of a GIF: DDPM's thousand steps would make a film of a minute
AnyRequest = TypeVar("AnyRequest")
Drawn = tuple[Tensor, list[Tensor]]  # images, and their states on the way


def check_dataset(name: str, known: tuple[str, ...] = DATASETS, *, folders: bool = False) -> None:
    """Raise ValueError for a data set without models; `folders` says whether folder:PATH is one that has."""
    if folders and data.is_folder(name):
        data.short_name(name)  # refuses a folder without a path
    elif name not in known:
        unknown = f"Unknown data set {name!r}"
        fault = "Your own pictures are for train and sample" if data.is_folder(name) else unknown
        own = " (Your own pictures: folder:PATH.)" if folders else ""
        raise ValueError(f"{fault}: choose {', '.join(known[:-1])} or {known[-1]}.{own}")


def resolve_device(name: str) -> str:
    """ "auto" is CUDA where there is one, else the CPU: as in a training."""
    return training_device(TrainConfig(device=name)).type


def make_request(kind: type[AnyRequest], options: object, **changes) -> AnyRequest:
    """A request of what was typed, with changes; what was left out is the request's own default."""
    return kind(**settings(options, kind) | {"device": resolve_device(options.device)} | changes)


def folder_weights(dataset: str) -> Path:
    """Where train puts the denoiser of folder:PATH, and sample looks for it."""
    name = f"{data.short_name(dataset)}-denoiser"
    return Path("runs") / name / f"{name}.safetensors"


def parse_labels(text: str, num_classes: int, names: Sequence[str] = ()) -> list[int]:
    """ "0,1,cat" as numbers, or "all"; ValueError for a label that these weights do not know."""
    if text.strip() == "all":
        return list(range(num_classes))
    numbers = {str(k): k for k in range(num_classes)}
    # A name counts first: there are classes that are called 7 and are not the eighth.
    known = numbers | {name: k for k, name in enumerate(names[:num_classes])}
    choice = ", ".join(name for name in names if name not in numbers)
    choice += "; or a number " if choice else ""
    # A name that holds a comma stands in quotation marks, or alone.
    parts = [text] if text.strip() in known else next(csv.reader([text], skipinitialspace=True))
    labels = [part.strip() for part in parts]
    sentence = f"Unknown label {{!r}}: choose {choice}from 0 to {num_classes - 1}, or all."
    refuse({sentence.format(label): label not in known for label in labels})
    return [known[label] for label in labels]


def parse_target(text: str, choice: str = "1 or 0") -> int:
    """ "1" or "yes" -> 1, "0" or "no" -> 0."""
    answers = {"1": 1, "yes": 1, "0": 0, "no": 0}
    refuse({f"Unknown target {text!r}: choose {choice}.": text.strip().lower() not in answers})
    return answers[text.strip().lower()]


def check_drawn_file(path: Path) -> None:
    """Raise ValueError or WriteError now for a file that `write_drawn` could not write."""
    refuse({f"The output must end in .png, .gif or .npz, got '{path}'.": path.suffix.lower() not in SUFFIXES})
    check_writable(path)


def check_amount(request: GenerationRequest, count: int, columns: int, out: Path) -> None:
    """Refuse, before they are drawn, images that do not fit into the memory, or into a GIF."""
    config = weights.read_card(request.weights)["config"]
    side, free = config["image_size"], psutil.virtual_memory().available
    rows, size = math.ceil(count / columns), 12 * count * side**2 * config["in_channels"]
    widest = max(rows, columns) * (2 * side + 4)
    refuse({
        f"{count:,} images take {size / 1e9:,.0f} GB of memory, and {free / 1e9:,.0f} GB are free: ask for "
        "fewer.": size > free,
        f"A GIF has at most 65,535 pixels a side, these images {widest:,}: ask for fewer.":
            out.suffix.lower() == ".gif" and widest > 65_535,
    })  # fmt: skip


def write_drawn(path: Path, picture: Callable, frames: Callable, labels: Sequence[int], **images) -> None:
    """Write picture() [H, W, 3] uint8, a film of frames(), or a .npz of images in [0, 1], by the suffix.

    The error says where the images are if that fails: in a .npz beside, or in the system's temporary folder.
    """
    kinds = {".png": lambda: save_png(path, picture()), ".gif": lambda: save_gif(path, frames())}
    try:
        kinds.get(path.suffix.lower(), lambda: _write_npz(path, labels, images))()
    except Exception as error:
        for folder in (path.parent, Path(tempfile.gettempdir())):
            spare = folder / f"{path.stem}-kept.npz"
            with contextlib.suppress(WriteError):
                _write_npz(spare, labels, images)
                raise ValueError(f"{path} failed ({error}): the images are in {spare}.") from error
        raise


def _write_npz(path: Path, labels: Sequence[int], images: dict[str, Tensor]) -> None:
    pixels = {name: data.to_unit(x).float().numpy() for name, x in images.items()}
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **pixels, labels=np.array(labels, dtype=np.int64))


def shown_steps(count: int) -> list[int]:
    """Which of so many steps a film shows: all, or MAX_FRAMES at even distances."""
    return np.linspace(0, count - 1, min(count, MAX_FRAMES)).round().astype(int).tolist()


def progress_bar(total: int, what: str, **options) -> tqdm:
    """A bar on stderr, so that results on stdout stay clean; in a log file it moves every ten seconds."""
    slow = 0.2 if sys.stderr.isatty() else 10
    return tqdm(total=total, desc=what, file=sys.stderr, mininterval=slow, leave=False, **options)


def check_settings(request: GenerationRequest, batch_size: int) -> int:
    """Refuse, before any work and in each process, what the weights cannot draw; K, their labels' number."""
    next(in_chunks(request, batch_size))
    plan = request.plan()
    first, *others = processes.spread(_hashes, [plan.request] * processes.count())
    if any(hashes != first for hashes in others):
        raise weights.WeightsError(f"Not all processes have the same weights {' and '.join(first)}.")
    return plan.num_labels


def _hashes(request: GenerationRequest, _: processes.Advance) -> dict[str, str]:
    """The SHA-256 of each of the weights that this process has, if they can draw the request."""
    request.plan()
    names = [str(request.weights), *([str(request.classifier)] if request.is_steered else [])]
    return {name: weights.read_card(name)["sha256"] for name in names}


def draw(request: GenerationRequest, batch_size: int, keep_states: bool = False) -> Drawn:
    """Draw a request a batch at a time: images [N, C, H, W] in [-1, 1], and the states x_t if asked.

    Several processes share the batches: with equal threads in each the images are the same bit for bit.
    """
    draw_part = functools.partial(_draw_part, kept=shown_steps(request.steps) if keep_states else ())
    parts, total = list(in_chunks(request, batch_size)), len(request.labels)
    own = sum(len(part.labels) for part in parts[:: processes.count()])  # the bar tells all by the own share
    layout = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total} images [{elapsed}<{remaining}]"
    with progress_bar(total, "drawing", bar_format=layout) as bar:
        drawn = processes.spread(draw_part, parts, lambda count: bar.update(count * total / own))
    images, states = zip(*drawn, strict=True)
    return torch.cat(images), [torch.cat(steps) for steps in zip(*states, strict=True)]


def _draw_part(part: GenerationRequest, advance: processes.Advance, kept: Collection[int]) -> Drawn:
    """One batch, and its states after the steps in `kept`."""
    states = []
    for k, step in enumerate(generate(part)):
        if k in kept:
            states.append(step.x_t.cpu())
        advance(len(part.labels) / part.steps)
    return step.x_t.clamp(-1, 1).cpu(), states
