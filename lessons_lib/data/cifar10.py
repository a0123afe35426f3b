"""CIFAR-10 (Krizhevsky 2009): 60,000 colour pictures of 32×32 pixels in ten classes, from disk.

Two layouts are read: torchvision's `cifar-10-batches-py`, and an image folder `cifar10/{train,test}/CLASS/`.
Both are brought into one order, class by class and within a class as the files have it, so that a split is
the same images in either.
"""

import dataclasses
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lessons_lib.data.decoding import UnreadableError, decode_all
from lessons_lib.data.image_set import DataError, ImageSet, RowFile

CLASS_NAMES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
)  # fmt: skip
SIZE = 32
PER_CLASS = {"train": 5000, "test": 1000}  # images of each class in the files
VAL_PER_CLASS = 500  # of each class's training images, the last ones
SUFFIXES = (".png", ".jpg", ".jpeg")
PARTS = BATCHES, FOLDER = "cifar-10-batches-py", "cifar10"
ADVICE = f"go online without LESSONS_OFFLINE=1, or put its folder {BATCHES} into {{root}}."
LOSSY = "The pictures were re-encoded as JPEG, so they are slightly lossy."


def read(root: Path, split: str) -> ImageSet:
    """A split: 4,500 training and 500 validation images a class, 1,000 test images, in a fixed shuffle.

    Raises:
        DataError: if a file is missing, cut short or no picture of 32×32 pixels; it is named.
    """
    part = "test" if split == "test" else "train"
    count = PER_CLASS[part]
    cut = count - VAL_PER_CLASS
    first, last = {"train": (0, cut), "val": (cut, count), "test": (0, count)}[split]
    places = (torch.arange(len(CLASS_NAMES))[:, None] * count + torch.arange(first, last)).flatten()
    # Shuffled once and for all: the first so many images are a fair mix of the classes.
    places = places[torch.randperm(len(places), generator=torch.Generator().manual_seed(0))]
    is_folder = (root / FOLDER).is_dir()
    images, note = _read_folder(root / FOLDER / part, count) if is_folder else (_read_batches(root, part), "")
    labels = torch.arange(len(CLASS_NAMES)).repeat_interleave(count)
    chosen = ImageSet(images, labels, CLASS_NAMES, "cifar10", note).subset(places)
    return dataclasses.replace(chosen, images=chosen.images[:])  # into memory


# -- torchvision's layout --------------------------------------------------------------------------


def _read_batches(root: Path, part: str) -> Tensor:
    """[10·N, 3, 32, 32], class by class."""
    from torchvision.datasets import CIFAR10

    if broken := _broken_batch(root):
        raise DataError(f"{broken} is missing or damaged: delete {root / BATCHES} and load it again.")
    # These files are pickled. torchvision opens them only if their checksums are those of the original.
    original = CIFAR10(str(root), train=part == "train", download=False)
    order = np.argsort(original.targets, kind="stable")
    return torch.from_numpy(np.ascontiguousarray(original.data[order].transpose(0, 3, 1, 2)))


def is_repairable(root: Path) -> bool:
    """Whether torchvision's download would replace what is broken there: it knows its own layout only."""
    return not (root / FOLDER).is_dir() and _broken_batch(root) is not None


def _broken_batch(root: Path) -> Path | None:
    """The first file that torchvision's layout lacks, or that does not have the original's checksum."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    checksums = dict(
        [*CIFAR10.train_list, *CIFAR10.test_list, (CIFAR10.meta["filename"], CIFAR10.meta["md5"])]
    )
    files = {root / BATCHES / name: checksum for name, checksum in checksums.items()}
    return next((path for path, checksum in files.items() if not check_integrity(path, checksum)), None)


# -- the image folder ------------------------------------------------------------------------------


def _read_folder(folder: Path, count: int) -> tuple[Tensor | RowFile, str]:
    """[10·count, 3, 32, 32], class by class, kept beside the pictures; and what a card must say of them."""
    paths = []
    for name in CLASS_NAMES:
        names = sorted(os.listdir(folder / name)) if (folder / name).is_dir() else []
        pictures = [file for file in names if file.lower().endswith(SUFFIXES) and file[0] != "."]
        if len(pictures) != count:
            raise DataError(
                f"{folder / name} has {len(pictures):,} pictures where {count:,} are expected: unpack "
                f"CIFAR-10 anew."
            )
        paths += [folder / name / file for file in pictures]
    kept = folder.parent / "decoded" / f"{folder.name}.npy"
    images, _ = decode_all(paths, kept, SIZE, 3, strict=True, crop=_crop)
    return images, LOSSY if paths[0].suffix.lower() != ".png" else ""


def _crop(image: Image.Image) -> float:
    """For `decode`: pictures of the right size only."""
    if image.size != (SIZE, SIZE):
        raise UnreadableError(f"it has {image.width}×{image.height} pixels where 32×32 are expected")
    return 1.0
