"""What several commands need: checks that come before the work, and the progress bar."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tqdm.auto import tqdm

from lessons_lib import data

DATASETS = ("mnist", "cifar10", "celeba")
DEVICES = ("auto", "cpu", "cuda", "mps")


def check_dataset(name: str, known: tuple[str, ...] = DATASETS, *, folders: bool = False) -> None:
    """Raise ValueError for a data set without models.

    Args:
        folders: whether folder:PATH, your own pictures, is one that the command takes.
    """
    if data.is_folder(name) and not folders:
        raise ValueError(f"Your own pictures are for train and sample: choose {_or(known)}.")
    if data.is_folder(name):
        data.short_name(name)  # refuses a folder without a path
    elif name not in known:
        own = " (Your own pictures: folder:PATH.)" if folders else ""
        raise ValueError(f"Unknown data set {name!r}: choose {_or(known)}.{own}")


def _or(names: tuple[str, ...]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def folder_weights(dataset: str) -> Path:
    """Where train puts the denoiser of folder:PATH, and sample looks for it."""
    name = f"{data.short_name(dataset)}-denoiser"
    return Path("runs") / name / f"{name}.safetensors"


def resolve_device(name: str) -> str:
    """ "auto" is CUDA where there is one, else the CPU: the Apple GPU is for those who ask for it.

    Raises:
        ValueError: for an unknown device or one that this machine does not have.
    """
    if name not in DEVICES:
        raise ValueError(f"Unknown device {name!r}: choose one of {', '.join(DEVICES)}.")
    has = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return "cuda" if has["cuda"] else "cpu"
    if not has[name]:
        raise ValueError(f"The device {name} was asked for but this machine has none: use --device cpu.")
    return name


def progress_bar(total: int, what: str, **options) -> tqdm:
    """A bar on stderr, so that results on stdout stay clean; in a log file it moves every ten seconds."""
    slow = 0.2 if sys.stderr.isatty() else 10
    return tqdm(total=total, desc=what, file=sys.stderr, mininterval=slow, leave=False, **options)
