"""CIFAR-10 (Krizhevsky 2009): 60,000 colour pictures of 32×32 pixels in ten classes, from disk.

Two layouts are read: torchvision's `cifar-10-batches-py`, and an image folder `cifar10/{train,test}/CLASS/`.
Both are brought into one order, class by class and within a class as the files have it, so that a split is
the same images in either.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lessons_lib.data.images import DataError, ImageSet
from lessons_lib.files import WriteError, atomic_write

CLASS_NAMES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
)  # fmt: skip
SHAPE = (3, 32, 32)
PER_CLASS = {"train": 5000, "test": 1000}  # images of each class in the files
VAL_PER_CLASS = 500  # of each class's training images, the last ones
SUFFIXES = (".png", ".jpg", ".jpeg")
BATCHES, FOLDER, DECODED = "cifar-10-batches-py", "cifar10", "decoded"
LOSSY = "The pictures were re-encoded as JPEG, so they are slightly lossy."


def find(roots: list[Path]) -> Path | None:
    """The first folder that holds CIFAR-10 in one of the layouts, whole or not."""
    return next((root for root in roots if (root / FOLDER).is_dir() or (root / BATCHES).is_dir()), None)


def is_repairable(root: Path) -> bool:
    """Whether torchvision's download would replace what is broken there: it knows its own layout only."""
    return not (root / FOLDER).is_dir() and _broken_batch(root) is not None


def read(root: Path, split: str, notice: Callable[[str], None]) -> ImageSet:
    """A split: 4,500 training and 500 validation images a class, 1,000 test images, in a fixed shuffle.

    Args:
        root: as found by `find`.
        split: "train", "val" or "test".
        notice: takes a line for the user before a slow step.

    Raises:
        DataError: if a file is missing, cut short or no picture of 32×32 pixels; it is named.
    """
    part = "test" if split == "test" else "train"
    is_folder = (root / FOLDER).is_dir()
    # [K·N, 3, 32, 32], class by class
    images = _read_folder(root / FOLDER, part, notice) if is_folder else _read_batches(root, part)
    chosen = _indices(split)
    labels = chosen // PER_CLASS[part]
    note = LOSSY if is_folder and _is_lossy(root / FOLDER / part) else ""
    return ImageSet(torch.from_numpy(images[chosen.numpy()]), labels, CLASS_NAMES, "cifar10", note)


def download(root: Path) -> None:
    """Fetch torchvision's copy into root; raises what torchvision raises."""
    from torchvision.datasets import CIFAR10

    CIFAR10(str(root), download=True)


def _indices(split: str) -> Tensor:
    """The places of a split's images in the order class by class."""
    count = PER_CLASS["test" if split == "test" else "train"]
    cut = count - VAL_PER_CLASS
    first, last = {"train": (0, cut), "val": (cut, count), "test": (0, count)}[split]
    places = (torch.arange(len(CLASS_NAMES))[:, None] * count + torch.arange(first, last)).flatten()
    # Shuffled once and for all: the first so many images are a fair mix of the classes.
    return places[torch.randperm(len(places), generator=torch.Generator().manual_seed(0))]


# -- torchvision's layout --------------------------------------------------------------------------


def _read_batches(root: Path, part: str) -> np.ndarray:
    from torchvision.datasets import CIFAR10

    if broken := _broken_batch(root):
        raise DataError(f"{broken} is missing or damaged: delete {root / BATCHES} and load it again.")
    # These files are pickled. torchvision opens them only if their checksums are those of the original.
    found = CIFAR10(str(root), train=part == "train", download=False)
    order = np.argsort(found.targets, kind="stable")
    return np.ascontiguousarray(found.data[order].transpose(0, 3, 1, 2))


def _broken_batch(root: Path) -> Path | None:
    """The first file that is missing or does not have the original's checksum."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    listed = [*CIFAR10.train_list, *CIFAR10.test_list, (CIFAR10.meta["filename"], CIFAR10.meta["md5"])]
    files = ((root / BATCHES / name, checksum) for name, checksum in listed)
    return next((path for path, checksum in files if not check_integrity(str(path), checksum)), None)


# -- the image folder ------------------------------------------------------------------------------


def _read_folder(folder: Path, part: str, notice: Callable[[str], None]) -> np.ndarray:
    """Decoded once and kept beside the pictures: the next start takes a moment instead of ten seconds."""
    kept = folder / DECODED / f"{part}.npy"
    pictures = [path for name in CLASS_NAMES for path in _pictures(folder / part / name, PER_CLASS[part])]
    newest = max((folder / part / name).stat().st_mtime_ns for name in CLASS_NAMES)
    if kept.is_file() and kept.stat().st_mtime_ns > newest:
        with contextlib.suppress(OSError, ValueError, EOFError):  # damaged: it is made anew
            found = np.load(kept, mmap_mode="r", allow_pickle=False)
            if found.shape == (len(pictures), *SHAPE) and found.dtype == np.uint8:
                return found
    notice(f"Decoding {len(pictures):,} pictures in {folder / part}; this is done once.")
    images = np.stack([_decode(path) for path in pictures])
    with contextlib.suppress(WriteError), atomic_write(kept) as temporary:  # a read-only folder works too
        np.save(temporary, images)
    return images


def _pictures(folder: Path, count: int) -> list[Path]:
    """The folder's pictures, by name; DataError unless there are `count`."""
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    found = [folder / name for name in names if name.lower().endswith(SUFFIXES) and name[0] != "."]
    if len(found) != count:
        raise DataError(
            f"{folder} has {len(found):,} pictures where {count:,} are expected: unpack CIFAR-10 anew."
        )
    return found


def _decode(path: Path) -> np.ndarray:
    """[3, 32, 32] uint8."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is no picture or is cut short: unpack CIFAR-10 anew.") from error
    if pixels.shape != (*SHAPE[1:], SHAPE[0]):
        height, width = pixels.shape[:2]
        raise DataError(f"{path} has {width}×{height} pixels where 32×32 are expected: unpack CIFAR-10 anew.")
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _is_lossy(part: Path) -> bool:
    return any(name.lower().endswith((".jpg", ".jpeg")) for name in os.listdir(part / CLASS_NAMES[0]))
