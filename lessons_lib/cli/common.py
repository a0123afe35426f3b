"""What several commands need: checks that come before the work, files of what was drawn, the progress bar."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from torch import Tensor
from tqdm.auto import tqdm

from lessons_lib import data
from lessons_lib.cli.options import settings
from lessons_lib.data import to_unit
from lessons_lib.files import atomic_write, check_writable
from lessons_lib.images import save_gif, save_png
from lessons_lib.names import refuse
from lessons_lib.training import TrainConfig
from lessons_lib.training.devices import training_device

DATASETS = ("mnist", "cifar10", "celeba")
SUFFIXES = (".png", ".gif", ".npz")
MAX_FRAMES = 60  # of a GIF: DDPM's thousand steps would make a film of a minute
AnyRequest = TypeVar("AnyRequest")


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
    labels = [part.strip() for part in text.split(",")]
    sentence = f"Unknown label {{!r}}: choose {choice}from 0 to {num_classes - 1}, or all."
    refuse({sentence.format(label): label not in known for label in labels})
    return [known[label] for label in labels]


def parse_target(text: str, choice: str = "1 or 0") -> int:
    """ "1" or "yes" -> 1, "0" or "no" -> 0."""
    answers = {"1": 1, "yes": 1, "0": 0, "no": 0}
    if text.strip().lower() not in answers:
        raise ValueError(f"Unknown target {text!r}: choose {choice}.")
    return answers[text.strip().lower()]


def check_drawn_file(path: Path) -> None:
    """Raise ValueError or WriteError now for a file that `write_drawn` could not write."""
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"The output must end in .png, .gif or .npz, got {str(path)!r}.")
    check_writable(path)


def write_drawn(
    path: Path, picture: Callable, frames: Callable, labels: Sequence[int], **images: Tensor
) -> None:
    """Write picture() [H, W, 3] uint8, a film of frames(), or a .npz of images in [0, 1], by the suffix."""
    suffix = path.suffix.lower()
    if suffix == ".png":
        save_png(path, picture())
    elif suffix == ".gif":
        save_gif(path, frames())
    else:
        pixels = {name: to_unit(x).float().numpy() for name, x in images.items()}
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **pixels, labels=np.array(labels, dtype=np.int64))


def shown_steps(count: int) -> list[int]:
    """Which of so many steps a film shows: all, or MAX_FRAMES at even distances."""
    return np.linspace(0, count - 1, min(count, MAX_FRAMES)).round().astype(int).tolist()


def progress_bar(total: int, what: str, **options) -> tqdm:
    """A bar on stderr, so that results on stdout stay clean; in a log file it moves every ten seconds."""
    slow = 0.2 if sys.stderr.isatty() else 10
    return tqdm(total=total, desc=what, file=sys.stderr, mininterval=slow, leave=False, **options)
